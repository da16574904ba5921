"""Tokens per second per core: isoflop's training loop beside a plain PyTorch loop of the same net and batch.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--json] [--seconds 1.0] [--repeats 9]

The plain loop is what one would write after nanoGPT: modules, eager, `scaled_dot_product_attention`, fused
AdamW, gradient clipping, random crops from a memory map. Ours is the real loop (`isoflop.train.loop`), data
order, schedule, metrics file and all. Both train the same Llama-shaped net on the same tokens in fp32, in
one process with one thread, in turns; what is compared is processor time, so that other processes on the
machine disturb as little as they can. Each pair of turns gives a ratio; the median and the spread of the
ratios are printed. Rows marked `gpu` are measured where there is a CUDA device, else they say so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if (
    __name__ == "__main__"
):  # before torch is loaded; both loops run under the same settings as a fleet's worker
    from isoflop.train.crew import worker_environment

    wanted = worker_environment()
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoflop.data.corpus import Corpus
from isoflop.flops.count import train_flops_per_token
from isoflop.records import (
    CorpusRecord,
    DataSpec,
    FlopCount,
    NetSpec,
    OptimizerSpec,
    RunSpec,
    ScheduleSpec,
)
from isoflop.refs import function_ref
from isoflop.store import JsonlWriter
from isoflop.train.build import build_job
from isoflop.train.loop import Position, run_steps

SIZES = ((12, 2), (16, 2), (24, 2), (32, 2), (48, 2), (64, 2), (96, 3))
VOCAB, CONTEXT, BATCH = 512, 128, 4
NUM_TOKENS = 1_000_000


@dataclass(frozen=True)
class Row:
    """One size on one device: medians over turns, and the ratio's spread."""

    size: str
    device: str
    tokens_per_s: float
    plain_tokens_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    ratio_of_best: float
    """Fastest turn of ours over the fastest of the plain loop: what other processes disturb least."""


def net_of(dim: int, num_layers: int) -> NetSpec:
    """The shapes of the isoFLOP sweep: heads of about 16, a feed-forward of 8/3 of the width."""
    num_heads = max(1, dim // 16)
    return NetSpec(
        vocab_size=VOCAB,
        context=CONTEXT,
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=dim // num_heads,
        ffn_dim=8 * round(dim / 3),
    )


# ---------------------------------------------------------------------------------------- plain loop


class PlainNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class PlainAttention(nn.Module):
    def __init__(self, net: NetSpec) -> None:
        super().__init__()
        self.num_heads, self.head_dim = net.num_heads, net.head_dim
        inner = net.num_heads * net.head_dim
        self.q, self.k, self.v = (nn.Linear(net.dim, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, net.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        shape = (batch, length, self.num_heads, self.head_dim)
        q, k, v = (project(x).view(shape).transpose(1, 2) for project in (self.q, self.k, self.v))
        q, k = q * cos + turn(q) * sin, k * cos + turn(k) * sin
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).contiguous().view(batch, length, -1))


def turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class PlainBlock(nn.Module):
    def __init__(self, net: NetSpec) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = PlainNorm(net.dim), PlainAttention(net), PlainNorm(net.dim)
        self.gate, self.up = (nn.Linear(net.dim, net.ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(net.ffn_dim, net.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class PlainNet(nn.Module):
    def __init__(self, net: NetSpec) -> None:
        super().__init__()
        self.embed = nn.Embedding(net.vocab_size, net.dim)
        self.blocks = nn.ModuleList(PlainBlock(net) for _ in range(net.num_layers))
        self.norm = PlainNorm(net.dim)
        self.head = nn.Linear(net.dim, net.vocab_size, bias=False)
        frequencies = 10_000.0 ** (-torch.arange(0, net.head_dim, 2) / net.head_dim)
        angles = torch.outer(torch.arange(net.context), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def plain_stepper(net: NetSpec, tokens: np.ndarray, device: str) -> Callable[[], None]:
    """A function that takes one step of the plain loop."""
    torch.manual_seed(0)
    model = PlainNet(net).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def get_batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(tokens) - CONTEXT, (BATCH,))
        x = torch.stack([torch.from_numpy(tokens[i : i + CONTEXT].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in starts])
        return x.to(device), y.to(device)

    def step() -> None:
        loss = model(*get_batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ------------------------------------------------------------------------------------------ our loop


class OurLoop:
    """The real training loop, run for a while at a time."""

    def __init__(self, net: NetSpec, tokens: np.ndarray, device: str, folder: Path) -> None:
        corpus = _corpus(tokens, folder)
        num_steps = 5_000  # as a run of the sweep: a row of metrics each fifty steps
        per_step = train_flops_per_token(net, "matmul-causal") * BATCH * CONTEXT
        spec = RunSpec(
            name=f"bench {net.words}",
            net=net,
            data=DataSpec(sources=(corpus.data_source(),), context=CONTEXT, order_seed=0),
            objective=function_ref("isoflop.train.objectives:next_token"),
            optimizer=OptimizerSpec(peak_lr=1e-3),
            schedule=ScheduleSpec(kind="wsd", warmup_steps=100, num_steps=num_steps),
            evaluate=None,
            batch_seqs=BATCH,
            num_steps=num_steps,
            seed=0,
            train_flops=FlopCount(flops=per_step * num_steps, convention="matmul-causal"),
        )
        self._job = build_job(spec, [corpus], device)
        self._path = folder / f"{net.words}.jsonl"

    def run(self, seconds: float) -> int:
        """Train for so long from step 0 of the schedule. Returns the steps taken."""
        position = Position(0)
        until = time.monotonic() + seconds
        with JsonlWriter(self._path) as metrics:
            run_steps(
                self._job,
                position,
                metrics,
                lambda position: None,
                checkpoint_every_s=float("inf"),
                should_stop=lambda: time.monotonic() > until,
                on_progress=lambda progress: None,
            )
        return position.step


def _corpus(tokens: np.ndarray, folder: Path) -> Corpus:
    record = CorpusRecord(
        source="random",
        corpus_sha256="0" * 64,
        tokenizer="none",
        tokenizer_sha256="0" * 64,
        vocab_size=VOCAB,
        num_train_files=1,
        num_val_files=0,
        train_bytes=len(tokens),
        val_bytes=0,
        train_tokens=len(tokens),
        val_tokens=0,
        split_rule="none",
    )
    return Corpus(
        record=record, train=tokens, val=tokens[:0], token_bytes=np.ones(VOCAB, dtype=np.int32), folder=folder
    )


# --------------------------------------------------------------------------------------- side by side


def compare(dim: int, num_layers: int, device: str, seconds: float, repeats: int) -> Row:
    """Turns of both loops on one size."""
    net = net_of(dim, num_layers)
    tokens = np.random.default_rng(0).integers(0, VOCAB, NUM_TOKENS).astype(np.uint16)
    clock = time.process_time if device == "cpu" else time.perf_counter
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = OurLoop(net, tokens, device, Path(folder)), plain_stepper(net, tokens, device)
        ours.run(seconds / 4)
        for _ in range(5):
            plain()
        rates: list[tuple[float, float]] = []
        for _ in range(repeats):
            wait()
            start = clock()
            steps = ours.run(seconds)
            wait()
            middle = clock()
            for _ in range(steps):
                plain()
            wait()
            rates.append((steps / (middle - start), steps / (clock() - middle)))
    ratios = sorted(a / b for a, b in rates)
    return Row(
        size=net.words,
        device=device,
        tokens_per_s=statistics.median(a for a, _ in rates) * BATCH * CONTEXT,
        plain_tokens_per_s=statistics.median(b for _, b in rates) * BATCH * CONTEXT,
        ratio=statistics.median(ratios),
        ratio_low=ratios[0],
        ratio_high=ratios[-1],
        ratio_of_best=max(a for a, _ in rates) / max(b for _, b in rates),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of one turn")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each loop and size")
    parser.add_argument("--sizes", nargs="*", default=[f"{d}x{n}" for d, n in SIZES], help="e.g. 32x2 96x3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [tuple(int(part) for part in size.split("x")) for size in arguments.sizes]
    rows = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dim, num_layers in sizes:
            row = compare(dim, num_layers, device, arguments.seconds, arguments.repeats)
            rows.append(row)
            print(
                f"{row.size:>6} {row.device:4}  {row.tokens_per_s:>9,.0f} tokens/s  plain "
                f"{row.plain_tokens_per_s:>9,.0f}  ratio {row.ratio:.2f} "
                f"({row.ratio_low:.2f} to {row.ratio_high:.2f}), of the fastest turns {row.ratio_of_best:.2f}",
                file=sys.stderr,
            )
    gpu = "measured" if torch.cuda.is_available() else "not measured"
    print(f"gpu: {gpu}", file=sys.stderr)
    if arguments.json:
        answer = {
            "schema": "isoflop.benchmark.step/1",
            "rows": [vars(row) for row in rows],
            "smallest_ratio": min(row.ratio for row in rows if row.device == "cpu"),
            "gpu": gpu,
            "torch": torch.__version__,
            "load": os.getloadavg()[0],
        }
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
