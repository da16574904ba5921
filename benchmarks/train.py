"""Training at full scale: what spreading over ranks costs on a CPU, and tokens per second beside others on a GPU.

    python benchmarks/train.py [--json] [--topologies 4x1x1 1x4x1 …] [--steps 3] [--repeats 3]

CPU. A net of 21 million parameters is trained on made-up tokens by one process and by four gloo ranks, with the
same total batch, each rank on one thread. What is compared is processor time per token, summed over ranks and
over all of a rank's threads, between the end of the first two steps and the end of the last: starting up and
compiling are left out, waiting costs nothing. Every arrangement is measured in each round, beside that round's
single process; the median of the ratios and their spread are given. The promise is at most 1.5 for data parallel
(4x1x1); the other arrangements are reported.

GPU. Llama-3's shape at 1B and 8B in bfloat16 at 8192 tokens, on made-up tokens, beside torchtitan's model and
step (0.2.2, the release that imports on PyTorch 2.11) and transformers' own, each compiled, with fp32
weights and moments, the same batch and the same recomputation. The promises: 1.05 times the tokens per second of
either, an MFU of 55 % at 1B and of 45 % at 8B. Without a CUDA device, or where another stack is not installed or
does not fit, its line says so; these lines never fail the script.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from isoflop.dist import mesh
from isoflop.dist.optim import ShardedAdamW
from isoflop.dist.parallel import Wrapping, fill_whole, spread
from isoflop.flops.count import parameters, train_flops_per_token
from isoflop.model.build import FAMILIES
from isoflop.model.sharding import sharding_plan
from isoflop.provenance import current
from isoflop.records import MeshSpec, NetSpec, OptimizerSpec, RopeScaling
from isoflop.train.optim import AdamW

CPU_NET = NetSpec(
    vocab_size=4096,
    context=256,
    dim=384,
    num_layers=10,
    num_heads=6,
    num_kv_heads=6,
    head_dim=64,
    ffn_dim=1024,
)
CPU_BATCH = 32
WARM_UP = 2
LIMIT = 1.5
"""Most that four data-parallel ranks may cost, per token, over one process."""
TOPOLOGIES = ("4x1x1", "2x2x1", "1x4x1", "1x2x2")
OPTIMIZER = OptimizerSpec(peak_lr=1e-4)

_SCALING = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
GPU_NETS = {
    "1B": NetSpec(
        vocab_size=128_256,
        context=8192,
        dim=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        ffn_dim=8192,
        rope_theta=500_000.0,
        rope_scaling=_SCALING,
        tied_head=True,
    ),
    "8B": NetSpec(
        vocab_size=128_256,
        context=8192,
        dim=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        ffn_dim=14_336,
        rope_theta=500_000.0,
    ),
}
GPU_SETTINGS: dict[str, tuple[int, str, int]] = {"1B": (2, "none", 1), "8B": (1, "full", 8)}
"""Sequences per step, recomputation, and parts of the loss. 8B's weights, gradients and moments take 128.5 GB."""
GPU_MFU = {"1B": 0.55, "8B": 0.45}
GPU_RATIO = 1.05
"""What is promised of one H200, by MFU and over each other stack."""
PEAK_FLOPS = 989e12
"""Dense bfloat16 of an H100 or H200, as published; the denominator of MFU."""


@dataclass(frozen=True, kw_only=True)
class CpuRow:
    """One arrangement: medians over rounds. `ratio`: processor time per token over one process's of that round."""

    mesh: str
    cpu_us_per_token: float
    wall_us_per_token: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    """Lowest and highest of the rounds."""


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    net: str
    stack: str
    tokens_per_s: float | None
    """Median over repeats, and the slowest and the fastest."""
    tokens_per_s_low: float | None = None
    tokens_per_s_high: float | None = None
    ratio: float | None = None
    """Our tokens per second over this stack's; None for our own."""
    mfu: float | None = None
    """Of PEAK_FLOPS, with the FLOPs per token of "matmul-full": 6 per matrix weight and 12 L d T for attention."""
    memory_gb: float | None = None
    note: str = ""


# ------------------------------------------------------------------------------------------- CPU


def tokens_of(step: int, batch: int, net: NetSpec) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(net.vocab_size, (batch, net.context + 1), generator=generator)


def time_steps(degrees: MeshSpec, num_steps: int) -> tuple[float, float]:
    """(processor seconds of this rank, wall seconds) of `num_steps` steps after the warm-up."""
    world = mesh.join(degrees)
    with torch.device("meta"):
        net = FAMILIES["decoder"](CPU_NET, None)
    plan = spread(net, sharding_plan(CPU_NET), world, Wrapping())
    fill_whole(net, net.draw(torch.Generator().manual_seed(0)))  # type: ignore[operator]
    optimizer: Any = ShardedAdamW(net, OPTIMIZER, world) if plan.is_sharded else AdamW(net, OPTIMIZER)
    cpu = wall = 0.0
    for step in range(WARM_UP + num_steps):
        if step == WARM_UP:
            world.barrier()
            cpu, wall = time.process_time(), time.monotonic()
        loss = net.next_token_loss(tokens_of(step, CPU_BATCH, CPU_NET)[world.rows(CPU_BATCH)])  # type: ignore[operator]
        loss.backward()
        plan.finish_gradients()
        optimizer.update(1.0)
    world.barrier()
    taken = time.process_time() - cpu, time.monotonic() - wall
    return taken


def _rank(rank: int, degrees: str, num_steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    spec = MeshSpec.parse(degrees)
    if spec.num_devices > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=spec.num_devices
        )
    taken = time_steps(spec, num_steps)
    Path(folder, f"rank-{rank}").write_text(json.dumps(taken))
    if spec.num_devices > 1:
        dist.destroy_process_group()


def measure_cpu(text: str, num_steps: int) -> tuple[float, float]:
    """(processor seconds of all ranks, wall seconds), both per token."""
    count = MeshSpec.parse(text).num_devices
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (text, num_steps, folder), nprocs=count, start_method="spawn")
        taken = [json.loads(Path(folder, f"rank-{rank}").read_text()) for rank in range(count)]
    tokens = num_steps * CPU_BATCH * CPU_NET.context
    return sum(cpu for cpu, _ in taken) / tokens, max(wall for _, wall in taken) / tokens


def cpu_rows(topologies: list[str], num_steps: int, repeats: int) -> list[CpuRow]:
    """One process and every arrangement, round by round; in each the order is turned about."""
    meshes = ["1x1x1", *topologies]
    rounds = []
    for turn in range(repeats):
        measured = {text: measure_cpu(text, num_steps) for text in meshes[:: 1 if turn % 2 else -1]}
        rounds.append(measured)
    return [_cpu_row(text, rounds) for text in meshes]


def _cpu_row(text: str, rounds: list[dict[str, tuple[float, float]]]) -> CpuRow:
    ratios = sorted(measured[text][0] / measured["1x1x1"][0] for measured in rounds)
    alone = text == "1x1x1"
    return CpuRow(
        mesh=text,
        cpu_us_per_token=1e6 * statistics.median(measured[text][0] for measured in rounds),
        wall_us_per_token=1e6 * statistics.median(measured[text][1] for measured in rounds),
        ratio=None if alone else statistics.median(ratios),
        ratio_low=None if alone else ratios[0],
        ratio_high=None if alone else ratios[-1],
    )


# ------------------------------------------------------------------------------------------- GPU


GPU_WARM_UP, GPU_STEPS, GPU_REPEATS = 3, 10, 3
Step = Callable[[Tensor], None]


@contextlib.contextmanager
def freed() -> Iterator[None]:
    """Nothing of the net before, nor of its compiled code, is left on the device: nets are cycles of references."""
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield


def rates(step: Step, net: NetSpec, batch: int) -> list[float]:
    """Tokens per second of a step, in each of GPU_REPEATS stretches, after steps that compile and warm up."""
    tokens = torch.randint(net.vocab_size, (batch, net.context + 1), device="cuda")
    for _ in range(GPU_WARM_UP):
        step(tokens)
    found = []
    for _ in range(GPU_REPEATS):
        torch.cuda.synchronize()
        started = time.monotonic()
        for _ in range(GPU_STEPS):
            step(tokens)
        torch.cuda.synchronize()
        found.append(GPU_STEPS * batch * net.context / (time.monotonic() - started))
    return found


def our_step(spec: NetSpec, recompute: str, loss_chunks: int, device: str = "cuda") -> Step:
    """As `isoflop.train.distributed` steps on one GPU."""
    world = mesh.World(MeshSpec(), 0, torch.device(device), None, None)
    with torch.device("meta"):
        net = FAMILIES["decoder"](spec, None)
    wrapped = spread(
        net,
        sharding_plan(spec),
        world,
        Wrapping(precision="bf16", recompute=recompute, compile=True, loss_chunks=loss_chunks),  # type: ignore[arg-type]
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.02)
    optimizer = ShardedAdamW(net, OPTIMIZER, world)
    assert wrapped.autocast is not None
    autocast = wrapped.autocast

    def step(tokens: Tensor) -> None:
        with autocast():
            loss = net.next_token_loss(tokens)  # type: ignore[operator]
        loss.backward()
        optimizer.update(1.0)

    return step


def torchtitan_step(spec: NetSpec, recompute: str, loss_chunks: int, device: str = "cuda") -> Step:
    """torchtitan's model, recomputation, per-block compilation and compiled loss, stepped as its trainer steps on
    one device: under autocast. It has no loss in parts at 0.2.2."""
    from torchtitan.components.loss import cross_entropy_loss
    from torchtitan.config.job_config import ActivationCheckpoint, Compile
    from torchtitan.distributed.activation_checkpoint import apply_ac
    from torchtitan.models.llama3 import Transformer, TransformerModelArgs
    from torchtitan.models.llama3.infra.parallelize import apply_compile

    arguments = TransformerModelArgs(
        dim=spec.dim,
        n_layers=spec.num_layers,
        n_heads=spec.num_heads,
        n_kv_heads=spec.num_kv_heads,
        vocab_size=spec.vocab_size,
        multiple_of=16,
        ffn_dim_multiplier=spec.ffn_dim / int(8 * spec.dim / 3),
        rope_theta=spec.rope_theta,
        max_seq_len=spec.context,
    )
    with torch.no_grad(), torch.device(device):
        net = Transformer(arguments)
        net.init_weights()
    if spec.tied_head:
        net.output.weight = net.tok_embeddings.weight
    theirs, ours = sum(weight.numel() for weight in net.parameters()), parameters(spec).total
    if theirs != ours:
        raise ValueError(f"torchtitan's net has {theirs:,} parameters, ours {ours:,}")
    if recompute != "none":
        apply_ac(net, ActivationCheckpoint(mode=recompute), model_compile_enabled=True)
    apply_compile(net, Compile(enable=True))
    loss_of = torch.compile(cross_entropy_loss)
    update = _torch_update(net)

    def step(tokens: Tensor) -> None:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(net(inputs), targets) / targets.numel()
        loss.backward()
        update()

    return step


def _torch_update(net: nn.Module) -> Callable[[], None]:
    """Clipping and PyTorch's fused AdamW, as the other stacks use them."""
    weights = list(net.parameters())
    optimizer = torch.optim.AdamW(
        weights,
        lr=OPTIMIZER.peak_lr,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.eps,
        weight_decay=OPTIMIZER.weight_decay,
        fused=True,
    )

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return update


def transformers_step(spec: NetSpec, recompute: str, loss_chunks: int, device: str = "cuda") -> Step:
    import transformers

    from isoflop.dist.weights import to_config

    config = transformers.LlamaConfig(**to_config(spec))
    with torch.device(device):
        net = transformers.LlamaForCausalLM(config)
    net.train()
    if recompute == "full":
        net.gradient_checkpointing_enable()
    compiled = torch.compile(net)
    update = _torch_update(net)

    def step(tokens: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(tokens[:, :-1], labels=tokens[:, :-1], use_cache=False).loss
        loss.backward()
        update()

    return step


STACKS = {"isoflop": our_step, "torchtitan": torchtitan_step, "transformers": transformers_step}


def gpu_rows(names: list[str], batch: int | None, recompute: str | None) -> list[GpuRow]:
    """One row per net and stack; `batch` and `recompute` in place of GPU_SETTINGS'."""
    rows = []
    for name in names:
        own_batch, own_recompute, chunks = GPU_SETTINGS[name]
        settings = (batch or own_batch, recompute or own_recompute, chunks)
        ours: float | None = None
        for stack in STACKS:
            row = _gpu_row(name, stack, *settings)
            if stack == "isoflop":
                ours = row.tokens_per_s
            elif ours is not None and row.tokens_per_s is not None:
                row = replace(row, ratio=ours / row.tokens_per_s)
            rows.append(row)
    return rows


def _gpu_row(name: str, stack: str, batch: int, recompute: str, loss_chunks: int) -> GpuRow:
    net = GPU_NETS[name]
    if not torch.cuda.is_available():
        return _absent(name, stack, "no CUDA device")
    with freed():
        try:
            found = sorted(rates(STACKS[stack](net, recompute, loss_chunks), net, batch))
        except Exception as error:  # whatever another stack's version does not do here, or does not fit
            return _absent(name, stack, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        speed = statistics.median(found)
        return GpuRow(
            net=name,
            stack=stack,
            tokens_per_s=speed,
            tokens_per_s_low=found[0],
            tokens_per_s_high=found[-1],
            mfu=speed * train_flops_per_token(net, "matmul-full") / PEAK_FLOPS,
            memory_gb=torch.cuda.max_memory_allocated() / 1e9,
            note=f"{stack} {importlib.metadata.version(stack)}, {torch.cuda.get_device_name()}, batch {batch}, "
            f"recompute {recompute}, loss in {loss_chunks}",
        )


def _absent(net: str, stack: str, reason: str) -> GpuRow:
    return GpuRow(net=net, stack=stack, tokens_per_s=None, note=f"not measured: {reason}")


def gpu_line(row: GpuRow) -> str:
    if row.tokens_per_s is None:
        return f"gpu {row.net} {row.stack}: {row.note}"
    promised = f" (promised {GPU_MFU[row.net]:.0%})" if row.stack == "isoflop" else ""
    beside = "" if row.ratio is None else f"; ours over it {row.ratio:.3f} (promised {GPU_RATIO})"
    return (
        f"gpu {row.net} {row.stack}: {row.tokens_per_s:,.0f} tokens/s ({row.tokens_per_s_low:,.0f} to "
        f"{row.tokens_per_s_high:,.0f}), MFU {row.mfu:.1%}{promised}, {row.memory_gb:.0f} GB{beside}"
    )


def main() -> int:
    """Exit code 1 when data parallel costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--topologies", nargs="*", default=list(TOPOLOGIES), help="of four ranks")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all arrangements")
    parser.add_argument("--nets", nargs="*", default=list(GPU_NETS), help="nets for the GPU")
    parser.add_argument("--batch", type=int, help="sequences per step on the GPU, instead of each net's own")
    parser.add_argument("--recompute", choices=("none", "full"), help="instead of each net's own")
    arguments = parser.parse_args()
    cpu = cpu_rows(arguments.topologies, arguments.steps, arguments.repeats) if arguments.topologies else []
    gpu = gpu_rows(arguments.nets, arguments.batch, arguments.recompute)
    for row in cpu:
        ratio = (
            ""
            if row.ratio is None
            else f"  ratio {row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
        )
        print(
            f"cpu {row.mesh}  {row.cpu_us_per_token:8.1f} us of processor per token{ratio}", file=sys.stderr
        )
    for line in gpu:
        print(gpu_line(line), file=sys.stderr)
    parallel = next((row.ratio for row in cpu if row.mesh == "4x1x1"), None)
    if arguments.json:
        made = current()
        answer = {
            "date": made.started,
            "machine": made.machine,
            "python": made.python,
            "torch": torch.__version__,
            "commit": made.commit,
            "schema": "isoflop.benchmark.train/1",
            "cpu": [asdict(row) for row in cpu],
            "gpu": [asdict(line) for line in gpu],
            "data_parallel_ratio": parallel,
            "limit": LIMIT,
            "gpu_limits": {"ratio": GPU_RATIO, "mfu": GPU_MFU},
            "batch_tokens": CPU_BATCH * CPU_NET.context,
            "steps": arguments.steps,
            "repeats": arguments.repeats,
            "load": os.getloadavg()[0],
        }
        print(json.dumps(answer, indent=1))
    return int(parallel is not None and parallel > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
