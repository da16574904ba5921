"""Loader and tokenizer: do they ever bound a step?

    python benchmarks/loader.py [--json] [--seconds 1.0] [--repeats 5] [--megabytes 32]

Loader: four sources of token shards in a Llama-3 vocabulary, mixed by tokens and shuffled, in sequences of
8,192; beside it the loader that one would write after nanoGPT (random crops of one memory map, without
sources, epochs or resume). Both hand out int64 rows; one process, one thread, in turns. The rate is set
beside what one H200 consumes when it trains a Llama of 1B at 55 % MFU.

Tokenizer: `isoflop.data.tokenize` from compressed JSONL on disk to token shards on disk, with a process per
core; beside it what the `tokenizers` library itself reaches with all its threads on the same texts, already
in memory, with and without its ids taken out as lists. In turns; wall time and processor time of all
processes. Text is the standard library's source.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.data import tokenizer as tokenizers
from isoflop.data.documents import Skips, find_source, read_documents
from isoflop.data.mixture import open_mixture
from isoflop.data.order import TrainingWindows
from isoflop.data.shards import PARTS, ShardPart, ShardSet, file_sha256, part_path, token_dtype
from isoflop.data.tokenize import tokenize
from isoflop.flops.count import train_flops_per_token
from isoflop.flops.hardware import device
from isoflop.provenance import current
from isoflop.records import Mixture, MixtureSource, NetSpec, encode

VOCAB, CONTEXT, BATCH = 128_256, 8192, 16
SHARDS, TOKENS_PER_SHARD = 4, 4_000_000
WEIGHTS = {"web": 0.5, "books": 0.3, "code": 0.15, "mathematics": 0.05}
GPU, GPU_MFU = "H200", 0.55
TIMES_THE_GPU = 20.0
"""The loader is to be so many times as fast as the GPU consumes."""
OF_THE_LIBRARY = 0.8
"""Tokenizing is to reach at least this share of the library's own rate."""
LLAMA_1B = NetSpec(
    vocab_size=VOCAB,
    context=CONTEXT,
    dim=2048,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    ffn_dim=8192,
    tied_head=True,
)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Work over time, by the median of the turns."""

    what: str
    unit: str
    per_wall_s: float
    per_cpu_s: float
    lowest: float
    highest: float
    """Of the turns, per second of wall time."""


def gpu_tokens_per_s() -> float:
    """What one GPU consumes: MFU x peak / FLOPs per token, counted as matmul-full."""
    return GPU_MFU * device(GPU).peak("bf16") / train_flops_per_token(LLAMA_1B, "matmul-full", CONTEXT)


# ---------------------------------------------------------------------------------------- loader


def make_sources(folder: Path) -> Mixture:
    """Four folders of random token shards."""
    rng = np.random.default_rng(0)
    for name in WEIGHTS:
        (folder / name / PARTS).mkdir(parents=True)
        parts = []
        for number in range(SHARDS):
            part = f"{number:06d}"
            ids = rng.integers(1, VOCAB, TOKENS_PER_SHARD).astype(token_dtype(VOCAB))
            part_path(folder / name, part, "train").write_bytes(ids.tobytes())
            part_path(folder / name, part, "val").write_bytes(b"")
            parts.append(
                ShardPart(
                    name=part,
                    where=part,
                    train_documents=TOKENS_PER_SHARD // 1000,
                    val_documents=0,
                    train_tokens=TOKENS_PER_SHARD,
                    val_tokens=0,
                    train_bytes=4 * TOKENS_PER_SHARD,
                    val_bytes=0,
                    train_sha256=file_sha256(part_path(folder / name, part, "train")),
                    val_sha256="",
                )
            )
        index = ShardSet(
            source=name,
            tokenizer="bytes",
            tokenizer_sha256="planted",
            vocab_size=VOCAB,
            end_token=0,
            begin_token=None,
            held_out_one_in=None,
            parts=tuple(parts),
        )
        (folder / name / "shards.json").write_bytes(encode(index))
        np.save(folder / name / "token_bytes.npy", np.full(VOCAB, 4, np.int32))
    sources = tuple(MixtureSource(name=name, where=name, weight=weight) for name, weight in WEIGHTS.items())
    return Mixture(sources=sources, weight_unit="tokens")


def bench_loader(folder: Path, seconds: float, repeats: int) -> list[Rate]:
    """Our loader and random crops, in turns."""
    mixture = make_sources(folder)
    opened = open_mixture(mixture, folder, tokenizer="bytes", context=CONTEXT, order_seed=0)
    windows = TrainingWindows(opened.data, opened.corpora)
    plain = np.memmap(part_path(folder / "web", "000000", "train"), dtype=token_dtype(VOCAB), mode="r")
    rng = np.random.default_rng(1)
    at = 0

    def ours() -> int:
        nonlocal at
        rows = windows.batch(at, BATCH)
        at += BATCH
        return rows.size

    def crops() -> int:
        starts = rng.integers(0, len(plain) - CONTEXT - 1, BATCH)
        rows = np.stack([plain[start : start + CONTEXT + 1].astype(np.int64) for start in starts])
        return rows.size

    turns = {"isoflop, four sources": ours, "random crops of one file": crops}
    return in_turns(turns, "tokens", repeats, lambda work: until(work, seconds))


def until(work: Callable[[], int], seconds: float) -> int:
    """Call again and again for so long; the sum of what it returned."""
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        done += work()
    return done


# -------------------------------------------------------------------------------------- tokenizer


def bench_tokenizer(folder: Path, megabytes: float, repeats: int) -> list[Rate]:
    """Our pipeline from disk to disk, and the library alone in memory, in turns."""
    texts = standard_library(megabytes)
    write_text(folder / "text", texts)
    trained = tokenizers.train_bpe("bpe-16384", (text for text in texts[::4]))
    assert trained.json_text is not None
    (folder / "tokenizer.json").write_text(trained.json_text)
    decoded = [text.decode() for text in texts]
    size = sum(map(len, texts))
    backend = trained.backend

    def ours() -> int:
        shutil.rmtree(folder / "out", ignore_errors=True)
        done = tokenize(folder / "text", str(folder / "tokenizer.json"), folder / "out")
        assert done.text_bytes == size
        return size

    def library() -> int:
        backend.encode_batch_fast(decoded, add_special_tokens=False)
        return size

    def library_with_ids() -> int:
        for encoding in backend.encode_batch_fast(decoded, add_special_tokens=False):
            assert encoding.ids is not None
        return size

    turns = {
        "isoflop, disk to disk": ours,
        "tokenizers, in memory": library,
        "tokenizers, in memory, ids taken out": library_with_ids,
    }
    for work in turns.values():  # caches filled, processes' imports on disk
        work()
    return in_turns(turns, "bytes of text", repeats, lambda work: work())


def standard_library(megabytes: float) -> list[bytes]:
    """About so much text, repeated when the library is smaller; documents of a file each."""
    documents = [document.data for document in read_documents(find_source("stdlib"), Skips())]
    found: list[bytes] = []
    size, number = 0, 0
    while size < megabytes * 1e6:
        text = documents[number % len(documents)]
        found.append(text if number < len(documents) else b"# again %d\n" % number + text)
        size += len(found[-1])
        number += 1
    return found


def write_text(folder: Path, texts: list[bytes]) -> None:
    """Eight compressed files of rows, as corpora come."""
    folder.mkdir()
    for number in range(8):
        rows = [json.dumps({"text": text.decode()}) for text in texts[number::8]]
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode(), 5))


# ------------------------------------------------------------------------------------------ turns


def in_turns(
    works: dict[str, Callable[[], int]], unit: str, repeats: int, run: Callable[[Callable[[], int]], int]
) -> list[Rate]:
    """Every work once per round, in an order that alternates."""
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            started, spent = time.perf_counter(), cpu_seconds()
            done = run(works[name])
            wall[name].append(done / (time.perf_counter() - started))
            cpu[name].append(done / max(cpu_seconds() - spent, 1e-9))
    return [
        Rate(
            what=name,
            unit=unit,
            per_wall_s=statistics.median(wall[name]),
            per_cpu_s=statistics.median(cpu[name]),
            lowest=min(wall[name]),
            highest=max(wall[name]),
        )
        for name in works
    ]


def cpu_seconds() -> float:
    """Processor time of this process, its threads and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(seconds: float, repeats: int, megabytes: float) -> dict[str, Any]:
    """Both halves; the answer of --json."""
    with tempfile.TemporaryDirectory() as folder:
        loader = bench_loader(Path(folder), seconds, repeats)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = bench_tokenizer(Path(folder), megabytes, repeats)
    consumed, made = gpu_tokens_per_s(), current()
    ours, library, with_ids = tokenizer
    return {
        "date": made.started,
        "machine": made.machine,
        "python": made.python,
        "commit": made.commit,
        "schema": "isoflop.benchmark.loader/1",
        "load_average": os.getloadavg()[0],
        "loader": [asdict(rate) for rate in loader],
        "gpu": f"{GPU} at {GPU_MFU:.0%} MFU on a Llama of 1B (computed, not measured)",
        "gpu_tokens_per_s": consumed,
        "loader_over_gpu": loader[0].per_wall_s / consumed,
        "loader_over_gpu_wanted": TIMES_THE_GPU,
        "tokenizer": [asdict(rate) for rate in tokenizer],
        "tokenizer_over_library_wall": ours.per_wall_s / library.per_wall_s,
        "tokenizer_over_library_best": ours.highest / library.highest,
        "tokenizer_over_library_cpu": ours.per_cpu_s / library.per_cpu_s,
        "tokenizer_over_library_with_ids_wall": ours.per_wall_s / with_ids.per_wall_s,
        "tokenizer_over_library_wanted": OF_THE_LIBRARY,
    }


def show(found: dict[str, Any]) -> str:
    """The answer for people."""
    lines = []
    for rate in (*found["loader"], *found["tokenizer"]):
        lines.append(
            f"{rate['what']:<38}{rate['per_wall_s'] / 1e6:>9.2f}M {rate['unit']}/s "
            f"({rate['lowest'] / 1e6:.2f} to {rate['highest'] / 1e6:.2f}); "
            f"{rate['per_cpu_s'] / 1e6:.2f}M per processor second"
        )
    lines.append(
        f"loader: {found['loader_over_gpu']:,.0f} times the {found['gpu_tokens_per_s']:,.0f} tokens/s of one "
        f"{found['gpu']}; wanted {found['loader_over_gpu_wanted']:g}"
    )
    lines.append(
        f"tokenizer: {found['tokenizer_over_library_wall']:.2f} of the library's rate by the clock, "
        f"{found['tokenizer_over_library_best']:.2f} by the best turns, "
        f"{found['tokenizer_over_library_cpu']:.2f} by processor time "
        f"({found['tokenizer_over_library_with_ids_wall']:.2f} when the library's ids are taken out); wanted "
        f"{found['tokenizer_over_library_wanted']:g}"
    )
    lines.append(f"{found['machine']}, load {found['load_average']:.1f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="per turn of the loader")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=32.0, help="of text to tokenize")
    options = parser.parse_args()
    found = measure(options.seconds, options.repeats, options.megabytes)
    print(json.dumps(found, indent=1) if options.json else show(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
