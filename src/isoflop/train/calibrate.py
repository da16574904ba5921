"""What this machine delivers: real training steps on a few nets, timed once with all workers busy.

The result turns a budget in time into FLOPs (`isoflop.flops.rates`) and is cached per machine. Loads no
torch itself; the timing runs in the same worker processes as training does (`time_nets`).
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoflop.data import default_cache_dir
from isoflop.flops.count import train_flops_per_token
from isoflop.provenance import current, now
from isoflop.records import (
    Calibration,
    Convention,
    NetSpec,
    RecordError,
    decode,
    encode,
    read,
    sha256_json,
    to_mapping,
)
from isoflop.store import StoreError, write_atomic
from isoflop.train.crew import Crew
from isoflop.train.fleet import cores

CONVENTION: Convention = "matmul-causal"
SECONDS_PER_NET = 1.0
"""Time that each worker spends on training steps of one net; a third as much goes to scoring."""
ANSWER_WAIT_S = 120.0
EVAL_WINDOWS = 16
"""Windows per forward pass when a run is scored, about as `isoflop.measure.heldout` takes them."""


def cached(
    nets: Sequence[NetSpec],
    *,
    device: str = "cpu",
    num_workers: int | None = None,
    batch_seqs: int = 4,
    cache_dir: Path | None = None,
) -> Calibration | None:
    """The calibration of this machine for these nets, if it was made before."""
    path = _cache_path(nets, device, _workers(device, num_workers), batch_seqs, cache_dir)
    try:
        return read(path, Calibration)
    except (OSError, RecordError):
        return None


def calibrate(
    nets: Sequence[NetSpec],
    *,
    device: str = "cpu",
    num_workers: int | None = None,
    batch_seqs: int = 4,
    cache_dir: Path | None = None,
    seconds_per_net: float = SECONDS_PER_NET,
) -> Calibration:
    """Time these nets with all workers busy at once, and cache the answer.

    Args:
        nets: a few sizes that span those to be trained; each is timed at its own context.
        device: "cpu" or "cuda".
        num_workers: processes side by side; None is one per core on a CPU, one on a GPU.
        batch_seqs: sequences per step.
        cache_dir: None is the user's cache folder (or $ISOFLOP_CACHE).
        seconds_per_net: how long to train each net.

    Raises StoreError when the workers cannot run.
    """
    count = _workers(device, num_workers)
    path = _cache_path(nets, device, count, batch_seqs, cache_dir)
    started = time.monotonic()
    order = {
        "do": "time",
        "nets": [_net_mapping(net) for net in nets],
        "batch_seqs": batch_seqs,
        "device": device,
        "seconds_per_net": seconds_per_net,
    }
    with Crew(count, path.parent / "workers.log") as crew:
        _wait_until_ready(crew)
        startup_s = time.monotonic() - started
        for worker in crew.workers:
            worker.order(order, "timing")
        answers = _answers(crew)
    tokens_per_s = [statistics.mean(values) for values in zip(*(a["train"] for a in answers), strict=True)]
    eval_tokens_per_s = [
        statistics.mean(values) for values in zip(*(a["eval"] for a in answers), strict=True)
    ]
    per_token = [train_flops_per_token(net, CONVENTION) for net in nets]
    calibration = Calibration(
        machine=_machine(device, count),
        device=device,
        num_workers=count,
        net_words=tuple(net.words for net in nets),
        train_flops_per_token=tuple(per_token),
        flops_per_s=tuple(rate * flops for rate, flops in zip(tokens_per_s, per_token, strict=True)),
        eval_tokens_per_s=tuple(eval_tokens_per_s),
        startup_s=startup_s,
        convention=CONVENTION,
        torch_version=current().torch or "none",
        measured=now(),
    )
    write_atomic(path, encode(calibration, indent=1))
    return calibration


def time_nets(order: dict[str, Any]) -> dict[str, list[float]]:
    """In a worker: tokens per second of training and of scoring, net by net, the median of short spells."""
    import torch

    from isoflop.model.build import build_net
    from isoflop.records import OptimizerSpec
    from isoflop.train.objectives import next_token
    from isoflop.train.optim import AdamW
    from isoflop.train.step import train_step

    rates: dict[str, list[float]] = {"train": [], "eval": []}
    generator = torch.Generator(order["device"])
    for mapping in order["nets"]:
        spec = _net_of(mapping)
        net = build_net(spec, torch.Generator().manual_seed(0)).to(order["device"])
        optimizer = AdamW(net, OptimizerSpec(peak_lr=1e-3))
        draw = torch.Generator().manual_seed(1)
        shape = (max(order["batch_seqs"], EVAL_WINDOWS), spec.context + 1)
        tokens = torch.randint(spec.vocab_size, shape, generator=draw).to(order["device"])
        batch = tokens[: order["batch_seqs"]]

        def step(net: Any = net, optimizer: Any = optimizer, batch: Any = batch) -> None:
            train_step(net, next_token, optimizer, batch, generator, 1.0)

        @torch.inference_mode()
        def score(net: Any = net, tokens: Any = tokens) -> None:
            float(net.next_token_loss(tokens[:EVAL_WINDOWS]))

        wait = torch.cuda.synchronize if order["device"] != "cpu" else (lambda: None)
        seconds = order["seconds_per_net"]
        rates["train"].append(_calls_per_s(step, wait, seconds) * batch[:, 1:].numel())
        rates["eval"].append(_calls_per_s(score, wait, seconds / 3) * tokens[:EVAL_WINDOWS, 1:].numel())
    return rates


def _calls_per_s(call: Any, wait: Any, seconds: float) -> float:
    """Median rate of spells of about a tenth of the time, after a spell to warm up."""
    spells: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds * 1.1:
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 10:
            call()
            calls += 1
        wait()
        spells.append(calls / (time.perf_counter() - start))
    return statistics.median(spells[1:] or spells)


def _wait_until_ready(crew: Crew) -> None:
    until = time.monotonic() + ANSWER_WAIT_S
    while not all(worker.ready for worker in crew.workers):
        for worker, report in crew.reports(timeout_s=0.1):
            if report is None:
                crew.replace(worker)  # raises after a few
        if time.monotonic() > until:
            raise StoreError("the workers did not start; is the machine overloaded?")


def _answers(crew: Crew) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    until = time.monotonic() + ANSWER_WAIT_S
    while len(answers) < len(crew.workers):
        for worker, report in crew.reports(timeout_s=0.1):
            if report is None:
                raise StoreError(f"a worker died while it was timed ({worker.exit_text()})")
            if report["kind"] == "error":
                raise StoreError(f"this machine cannot be timed: {report['reason']}")
            if report["kind"] == "timed":
                answers.append(report)
        if time.monotonic() > until:
            raise StoreError("timing this machine took too long; is it overloaded?")
    return answers


def _workers(device: str, num_workers: int | None) -> int:
    return num_workers or (1 if device != "cpu" else cores())


def _machine(device: str, num_workers: int) -> str:
    parts = [platform.node(), current().machine, device, num_workers, os.cpu_count(), current().torch]
    return sha256_json(parts)[:16]


def _cache_path(
    nets: Sequence[NetSpec], device: str, num_workers: int, batch_seqs: int, cache_dir: Path | None
) -> Path:
    key = sha256_json([_machine(device, num_workers), batch_seqs, [_net_mapping(net) for net in nets]])
    return (cache_dir or default_cache_dir()) / "calibration" / f"{key[:16]}.json"


def _net_mapping(net: NetSpec) -> dict[str, Any]:
    return {key: value for key, value in to_mapping(net).items() if key != "schema"}


def _net_of(mapping: dict[str, Any]) -> NetSpec:
    return decode({"schema": f"isoflop.NetSpec/{NetSpec.SCHEMA}", **mapping}, NetSpec)
