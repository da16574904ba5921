"""How a net is spread over a mesh: tensor parallel, recomputed, compiled, sharded; wrappers only where needed.

The order, from the inside out, is the one that works on every PyTorch from 2.11 to 2.15:

    tensor parallel -> torch.compile of a block's body -> checkpoint around it -> fully_shard

Two traps are closed here. After a vocabulary-split embedding the result is an asynchronous tensor; compiled
blocks drop its gradient in silence from PyTorch 2.12 on (pytorch pull request 191113), so it is resolved by a
copy. And checkpointing inside a compiled, tensor-parallel block fails on 2.13, so it goes around.

A net is built on the meta device, spread, and filled slice by slice (`fill`): no rank ever holds more than
its share and one whole parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from isoflop.dist.float8 import require_float8, use_float8
from isoflop.dist.mesh import World
from isoflop.dist.vocabulary_loss import cross_entropy

if TYPE_CHECKING:
    from isoflop.model.sharding import ShardingPlan

Recompute = Literal["none", "selective", "full"]
BUCKET_BYTES = 25 * 2**20
"""Gradients are averaged in pieces of about this size, each as soon as the backward pass has filled it."""


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """How a net is wrapped; nothing in it changes what is computed, but for rounding.

    Attributes:
        precision: "bf16" computes in bfloat16 and keeps weights, gradients' sums and moments in fp32.
        recompute: "full" keeps each block's input alone and computes the rest again in the backward pass;
            "selective" keeps the results of matrix products and attention too.
        compile: compile each block's body.
        reshard: give up gathered weights after a block's forward pass and gather them again for its backward
            pass; False keeps them (more memory, less traffic). Only for a shard degree above 1.
        loss_chunks: parts of a micro-batch whose logits are in memory one after the other.
        float8: compute the blocks' matrix products in float8 (`isoflop.dist.float8`). This one does change, by
            its coarser rounding, what is computed.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: Recompute = "none"
    compile: bool = False
    reshard: bool = True
    loss_chunks: int = 1
    float8: bool = False


@dataclass
class Spread:
    """A net on its mesh.

    Attributes:
        net: the net; call it, and its losses, as ever. Results are plain tensors, whole on each rank.
        autocast: makes the precision context of a forward pass; None where none is needed.
        averager: averages gradients over the parts of the batch; None where that is FSDP's work.
    """

    net: nn.Module
    autocast: Callable[[], contextlib.AbstractContextManager[object]] | None
    averager: GradientAverager | None

    @property
    def is_sharded(self) -> bool:
        """True when parameters are sharded tensors: then the optimizer is `isoflop.dist.optim.ShardedAdamW`."""
        return any(isinstance(parameter, DTensor) for parameter in self.net.parameters())

    def accumulate(self, last: bool) -> None:
        """Say whether the coming backward pass is the last of an update: only then ranks talk."""
        if isinstance(self.net, FSDPModule):
            self.net.set_requires_gradient_sync(last)
        if self.averager is not None:
            self.averager.enabled = last

    def finish_gradients(self) -> None:
        """After the last backward pass: wait until every gradient is the mean over the batch."""
        if self.averager is not None:
            self.averager.finish()


def spread(net: nn.Module, plan: ShardingPlan, world: World, wrapping: Wrapping) -> Spread:
    """Wrap a net, in place, for its mesh. On one device with the defaults it is left as it is.

    Args:
        net: on the meta device, then it is given memory and its weights are still to be set (`fill`); or with
            weights that are the same on every rank.
        plan: where it may be cut.
        world: the mesh.
        wrapping: precision, recomputation, compilation.

    Raises ValueError for a wrapping that this PyTorch or this device cannot do.
    """
    mesh = world.mesh
    if wrapping.float8:
        require_float8(world.device, precision=wrapping.precision, tensor=mesh.tensor)
    if wrapping.compile and wrapping.recompute == "selective" and mesh.tensor > 1:
        raise ValueError(
            "compiled blocks that are split over tensor ranks cannot be recomputed selectively (PyTorch 2.13 fails "
            "on it); take recompute full or none, or leave compile off"
        )
    shards = mesh.shard > 1 or (mesh.tensor > 1 and wrapping.precision == "bf16")
    if mesh.tensor > 1:
        assert world.device_mesh is not None
        _split_tensors(net, plan, world.device_mesh["tensor"])
    if mesh.tensor > 1 or wrapping.loss_chunks > 1:
        net.cross_entropy = partial(cross_entropy, num_chunks=wrapping.loss_chunks)  # type: ignore[assignment]
    if shards or mesh.tensor > 1 or wrapping != Wrapping(precision=wrapping.precision):
        net.call_blocks = True  # type: ignore[assignment]
    for block in _blocks(net, plan):
        if wrapping.float8:
            use_float8(block, plan.columns + plan.rows)
        _wrap_body(block, wrapping)
    if shards:
        _shard(net, plan, world, wrapping)
    if any(parameter.is_meta for parameter in net.parameters()):
        net.to_empty(device=world.device)
    autocast = None
    if wrapping.precision == "bf16" and not shards:
        autocast = partial(torch.autocast, world.device.type, torch.bfloat16)
    averager = GradientAverager(net, world) if mesh.data > 1 and not shards else None
    return Spread(net, autocast, averager)


# -------------------------------------------------------------------------------- tensor parallel


def _split_tensors(net: nn.Module, plan: ShardingPlan, mesh: DeviceMesh) -> None:
    """Split weights over the tensor axis, and positions between the split halves of each block."""
    whole, positions, features = Replicate(), Shard(1), Shard(-1)
    embedding = net.get_submodule(plan.embedding)
    _split(embedding, mesh, Shard(0), takes=whole, gives=positions, local=True)
    embedding.register_forward_hook(lambda module, args, x: x.clone())  # resolves the asynchronous tensor
    for block in _blocks(net, plan):
        for name in plan.norms:
            _split(block.get_submodule(name), mesh, Replicate(), takes=positions, gives=positions, local=True)
        for name in plan.gathered:
            block.get_submodule(name).register_forward_pre_hook(partial(_gather_positions, mesh=mesh))
        for name in plan.columns:
            _split(block.get_submodule(name), mesh, Shard(0), takes=whole, gives=features, local=True)
        for name in plan.rows:
            _split(block.get_submodule(name), mesh, Shard(1), takes=features, gives=positions, local=True)
    _split(net.get_submodule(plan.final_norm), mesh, Replicate(), takes=positions, gives=whole, local=False)
    if plan.head is not None:
        _split(net.get_submodule(plan.head), mesh, Shard(0), takes=whole, gives=features, local=False)
    net.forward = _returning_whole(net.forward)


def _split(
    module: nn.Module,
    mesh: DeviceMesh,
    weight: Replicate | Shard,
    *,
    takes: Replicate | Shard,
    gives: Replicate | Shard,
    local: bool,
) -> None:
    """Give a module a split weight, and say how its input lies and how its output shall lie."""

    def partition(name: str, part: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in list(part.named_parameters(recurse=False)):
            part.register_parameter(key, nn.Parameter(_local_part(parameter, mesh, weight)))

    def enter(module: nn.Module, args: Any, mesh: DeviceMesh) -> Any:
        first = args[0]
        if not isinstance(first, DTensor):
            first = DTensor.from_local(first, mesh, (takes,), run_check=False)
        return (first, *args[1:])

    def leave(module: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
        output = output.redistribute(mesh, (gives,))
        return output.to_local() if local else output

    distribute_module(module, mesh, partition, enter, leave)


def _local_part(parameter: nn.Parameter, mesh: DeviceMesh, placement: Replicate | Shard) -> DTensor:
    """This rank's part of a tensor that is the same on every rank, as a sharded tensor; nothing is sent."""
    local = parameter.detach()
    if isinstance(placement, Shard):
        local = local.chunk(mesh.size(), dim=placement.dim)[mesh.get_local_rank()].contiguous()
    return DTensor.from_local(
        local, mesh, (placement,), run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def _gather_positions(module: nn.Module, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
    """Positions [B, T/tensor, D] of all ranks together, [B, T, D], once for all maps that read them."""
    x = DTensor.from_local(args[0], mesh, (Shard(1),), run_check=False)
    return (x.redistribute(mesh, (Replicate(),)), *args[1:])


def _returning_whole(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method, whose result is gathered to a plain tensor."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        value = method(*args, **kwargs)
        return value.full_tensor() if isinstance(value, DTensor) else value

    return call


# ---------------------------------------------------------------------- compiled and recomputed


def _blocks(net: nn.Module, plan: ShardingPlan) -> Iterator[nn.Module]:
    yield from net.get_submodule(plan.blocks).children()


def _wrap_body(block: nn.Module, wrapping: Wrapping) -> None:
    """Replace what a block's call runs, so that no parameter changes its name."""
    body: Callable[..., Tensor] = block.forward
    if wrapping.recompute == "selective":
        # Inside the compiled body, which then knows what is kept.
        body = partial(_recompute, body, context_fn=partial(create_selective_checkpoint_contexts, _kept))
    if wrapping.compile:
        # One graph per shape: with sizes left open, PyTorch 2.13 does not come to an end on split tensors.
        body = torch.compile(body, fullgraph=True, dynamic=False)
    if wrapping.recompute == "full":
        body = partial(_recompute, body)
    if body != block.forward:
        block.forward = body


def _recompute(body: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """Blocks draw no random numbers, so their generators need not be saved and set back."""
    result: Tensor = checkpoint(body, *args, use_reentrant=False, preserve_rng_state=False, **options)
    return result


_COSTLY = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def _kept(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """What selective recomputation keeps: results that cost most of the FLOPs."""
    return CheckpointPolicy.MUST_SAVE if operation in _COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


# ----------------------------------------------------------------------------------------- sharded


def _shard(net: nn.Module, plan: ShardingPlan, world: World, wrapping: Wrapping) -> None:
    """FSDP2 per block and for the rest; over both data axes when there are replicas (HSDP)."""
    assert world.device_mesh is not None
    axes = ("replicate", "shard") if world.mesh.replicate > 1 else ("shard",)
    options: dict[str, Any] = {"mesh": world.device_mesh[axes]}
    if wrapping.precision == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in _blocks(net, plan):
        fully_shard(block, reshard_after_forward=wrapping.reshard, **options)
    fully_shard(net, reshard_after_forward=False, **options)
    for name in plan.losses:
        register_fsdp_forward_method(net, name)


# ------------------------------------------------------------------------------------ data parallel


class GradientAverager:
    """Averages gradients of whole weights over the parts of the batch, while the backward pass goes on.

    Parameters are put into buckets in reverse order, about the order in which their gradients appear. A full
    bucket is averaged in the background; `finish` waits and puts the means into the parameters. With split
    weights each rank averages its parts.

    Attributes:
        enabled: False leaves gradients to accumulate.
    """

    def __init__(self, net: nn.Module, world: World) -> None:
        self.enabled = True
        self._group = world.group("data")
        self._size = world.mesh.data
        self._buckets = [_Bucket(parameters) for parameters in _cut(list(net.parameters()))]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def _arrived(self, bucket: _Bucket, parameter: Tensor) -> None:
        if not self.enabled:
            return
        bucket.num_arrived += 1
        if bucket.num_arrived == len(bucket.parameters):
            self._start(bucket)

    def _start(self, bucket: _Bucket) -> None:
        bucket.sum = torch.cat([_local_gradient(p).reshape(-1) for p in bucket.parameters])
        bucket.work = dist.all_reduce(bucket.sum, group=self._group, async_op=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for all buckets; a parameter that the loss does not reach counts as zero."""
        for bucket in self._buckets:
            if bucket.work is None:
                self._start(bucket)
            assert bucket.work is not None
            assert bucket.sum is not None
            bucket.work.wait()
            mean = bucket.sum.div_(self._size)
            parts = mean.split([_local(p).numel() for p in bucket.parameters])
            for parameter, part in zip(bucket.parameters, parts, strict=True):
                _local(parameter.grad).copy_(part.view_as(_local(parameter)))  # type: ignore[arg-type]
            bucket.work, bucket.sum, bucket.num_arrived = None, None, 0


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    num_arrived: int = 0
    sum: Tensor | None = None
    work: Any = None


def _cut(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters, from the last to the first, of about BUCKET_BYTES."""
    bucket: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        bucket.append(parameter)
        if sum(_local(p).numel() * p.element_size() for p in bucket) >= BUCKET_BYTES:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_gradient(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a parameter's gradient, laid out as the parameter; made when there is none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad = laid_out_as(parameter.grad, parameter)
    return _local(parameter.grad).detach()


def require_gradients(net: nn.Module, world: World) -> None:
    """Raise RuntimeError, on every rank, when a parameter's gradient is missing or zero on all of them.

    Called once, before the first update of a net whose split blocks are compiled: PyTorch has dropped such
    gradients in silence, and the loss went on falling.
    """
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        reached = gradient is not None and bool(_local(laid_out_as(gradient, parameter)).count_nonzero())
        if not world.any(reached):
            raise RuntimeError(
                f"the gradient of {name!r} is zero on every rank: this PyTorch ({torch.__version__}) loses it when "
                "split blocks are compiled; train with compile off, or with another PyTorch"
            )


def laid_out_as(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in its parameter's placements: a whole weight read by parts leaves partial sums."""
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        return gradient.redistribute(parameter.device_mesh, parameter.placements)
    return gradient


# ---------------------------------------------------------------------------------- weights go in


@torch.no_grad()
def fill(net: nn.Module, read: Callable[[str, tuple[slice, ...]], Tensor]) -> None:
    """Set each rank's part of each weight.

    Args:
        net: spread or whole.
        read: values of a part of a parameter, called as read(name, slices) in the order of
            `named_parameters`, once for each.
    """
    for name, parameter in net.named_parameters():
        local = _local(parameter)
        values = read(name, own_part(parameter))
        local.copy_(values.view_as(local))


@torch.no_grad()
def fill_whole(net: nn.Module, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Set the weights from whole parameters that come one after the other, the same on every rank.

    Raises ValueError when names or their order differ from `named_parameters`.
    """

    def read(name: str, part: tuple[slice, ...]) -> Tensor:
        given, values = next(weights)
        if given != name:
            raise ValueError(f"weights come in another order: {given!r} where {name!r} is due")
        return values[part]

    fill(net, read)


def own_part(parameter: Tensor) -> tuple[slice, ...]:
    """Which part of the whole parameter this rank holds."""
    if not isinstance(parameter, DTensor):
        return tuple(slice(0, size) for size in parameter.shape)
    (chunk,) = parameter.__create_chunk_list__()
    return tuple(slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))
