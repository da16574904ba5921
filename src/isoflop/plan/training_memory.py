"""What one training run keeps in each device's memory, by kind of state, for a given placement.

The elements of weights, gradients and moments are exact: every parameter is split as the sharding does it
(tensor parallel first, then its first dimension over the shard axis, rounded up). Activations are counted
from the shapes that a Llama-style block keeps for its backward pass with a fused attention kernel. Left out:
fragments, the runtime and communication buffers, for which a share of the memory stays free (`USABLE`), and
pipeline, expert and context parallelism. Rougher questions, before a net exists: `isoflop.plan.layout`.

Rajbhandari et al. 2020 (ZeRO), section 3; Korthikanti et al. 2022, section 4.2 (activations with sequence
parallelism, which is always on here when matrices are split).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from isoflop.plan.layout import USABLE
from isoflop.records import MeshSpec, NetSpec, Placement, Record

FP32, BF16 = 4, 2
__all__ = ["USABLE", "MemoryItem", "Split", "elements_per_device", "memory_items", "parameter_splits"]


class MemoryItem(Record, frozen=True, kw_only=True):
    """Bytes of one kind of state on one device."""

    what: str
    bytes_per_device: float
    how: str
    """The arithmetic, in words and numbers."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One parameter and how tensor parallelism cuts it."""

    name: str
    shape: tuple[int, ...]
    tensor_dim: int | None
    """Dimension that the tensor axis splits; None for one that each rank holds whole."""
    count: int = 1
    """How many of this shape there are (the blocks' parameters)."""

    def own_shape(self, mesh: MeshSpec) -> tuple[int, ...]:
        """The largest part on one device: after the tensor axis, the first dimension over the shard axis."""
        shape = list(self.shape)
        if self.tensor_dim is not None:
            shape[self.tensor_dim] = math.ceil(shape[self.tensor_dim] / mesh.tensor)
        shape[0] = math.ceil(shape[0] / mesh.shard)
        return tuple(shape)


def parameter_splits(net: NetSpec) -> Iterator[Split]:
    """Every parameter of a decoder, in the order of its modules.

    Column-split maps lose rows of their weight, row-split maps columns; embedding and head are split by
    vocabulary, norms not at all.
    """
    dim, layers = net.dim, net.num_layers
    queries, keys = net.num_heads * net.head_dim, net.num_kv_heads * net.head_dim
    yield Split(name="embed_tokens", shape=(net.vocab_size, dim), tensor_dim=0)
    yield Split(name="q_proj", shape=(queries, dim), tensor_dim=0, count=layers)
    yield Split(name="k_proj", shape=(keys, dim), tensor_dim=0, count=layers)
    yield Split(name="v_proj", shape=(keys, dim), tensor_dim=0, count=layers)
    yield Split(name="o_proj", shape=(dim, queries), tensor_dim=1, count=layers)
    yield Split(name="gate_proj", shape=(net.ffn_dim, dim), tensor_dim=0, count=layers)
    yield Split(name="up_proj", shape=(net.ffn_dim, dim), tensor_dim=0, count=layers)
    yield Split(name="down_proj", shape=(dim, net.ffn_dim), tensor_dim=1, count=layers)
    yield Split(name="norms", shape=(dim,), tensor_dim=None, count=2 * layers + 1)
    if not net.tied_head:
        yield Split(name="lm_head", shape=(net.vocab_size, dim), tensor_dim=0)


def elements_per_device(net: NetSpec, mesh: MeshSpec) -> int:
    """Weights that the fullest device of the mesh holds."""
    return sum(split.count * math.prod(split.own_shape(mesh)) for split in parameter_splits(net))


def memory_items(net: NetSpec, context: int, placement: Placement) -> tuple[MemoryItem, ...]:
    """Bytes on the fullest device at the peak of a step, by kind.

    Args:
        net: the shape.
        context: tokens per sequence.
        placement: mesh, micro-batch, precision, recomputation.
    """
    return (*_state_items(net, placement), *_activation_items(net, context, placement))


def _state_items(net: NetSpec, placement: Placement) -> Iterator[MemoryItem]:
    mesh = placement.mesh
    own = elements_per_device(net, mesh)
    for what, size in (("weights, fp32", FP32), ("gradients, fp32", FP32), ("moments, fp32", 2 * FP32)):
        yield MemoryItem(what=what, bytes_per_device=size * own, how=f"{own:,} elements x {size} bytes")
    sharded = mesh.shard > 1
    compute = BF16 if placement.precision == "bf16" else FP32
    block, root = _unit_elements(net, mesh)
    if sharded or placement.precision == "bf16":
        blocks = min(2, net.num_layers) if sharded and placement.reshard else net.num_layers
        yield MemoryItem(
            what="weights to compute with",
            bytes_per_device=compute * (root + blocks * block),
            how=f"embedding and head, and {blocks} of {net.num_layers} blocks, x {compute} bytes / {mesh.tensor}",
        )
    if sharded:
        yield MemoryItem(
            what="gradients on their way",
            bytes_per_device=(compute + FP32) * max(block, root),
            how=f"the largest gathered unit x ({compute} + {FP32}) bytes / {mesh.tensor}",
        )


def _unit_elements(net: NetSpec, mesh: MeshSpec) -> tuple[float, float]:
    """Elements of one block, and of embedding, last norm and head, on one tensor rank before sharding."""
    alone = MeshSpec(tensor=mesh.tensor)
    sizes = {split.name: math.prod(split.own_shape(alone)) for split in parameter_splits(net)}
    root = sizes["embed_tokens"] + sizes.get("lm_head", 0) + sizes["norms"]
    block = sum(size for name, size in sizes.items() if name.endswith("_proj")) + 2 * sizes["norms"]
    return block, root


def _activation_items(net: NetSpec, context: int, placement: Placement) -> Iterator[MemoryItem]:
    tensor, size = placement.mesh.tensor, BF16 if placement.precision == "bf16" else FP32
    tokens = placement.micro_batch_seqs * context
    whole = tokens * block_bytes_per_token(net, size) / tensor
    shape = f"{placement.micro_batch_seqs} x {context:,} tokens"
    if placement.recompute == "full":
        yield MemoryItem(
            what="inputs of blocks",
            bytes_per_device=net.num_layers * tokens * net.dim * size / tensor,
            how=f"{net.num_layers} x {shape} x {net.dim:,} x {size} bytes / {tensor}",
        )
        yield MemoryItem(
            what="one block, recomputed",
            bytes_per_device=whole,
            how=f"{shape} x {block_bytes_per_token(net, size):,} bytes / {tensor}",
        )
    else:
        yield MemoryItem(
            what="activations of all blocks",
            bytes_per_device=net.num_layers * whole,
            how=f"{net.num_layers} x {shape} x {block_bytes_per_token(net, size):,} bytes / {tensor}",
        )
    logits = size + 2 * FP32
    yield MemoryItem(
        what="logits",
        bytes_per_device=tokens * net.vocab_size * logits / tensor / placement.loss_chunks,
        how=f"{shape} x {net.vocab_size:,} x ({size} + 4 + 4) bytes / {tensor}"
        + (f" / {placement.loss_chunks} parts" if placement.loss_chunks > 1 else ""),
    )


def block_bytes_per_token(net: NetSpec, size: int) -> int:
    """Bytes that the backward pass of one block needs per token.

    Two norms keep input and output, attention its queries, keys, values and result, the gated feed-forward
    its gate, its activation, the other half and their product. A compiled block keeps less.
    """
    attention = 2 * net.num_heads * net.head_dim + 2 * net.num_kv_heads * net.head_dim
    return size * (4 * net.dim + attention + 4 * net.ffn_dim)
