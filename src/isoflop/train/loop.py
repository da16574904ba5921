"""The one training loop: draws batches, takes steps, writes metrics, saves states, notices a blow-up.

It is told by functions when to stop and how to save, and leaves out everything that happens once: see
`isoflop.train.run` for start, resume, scoring and the record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from isoflop.records import RunSpec
from isoflop.store import JsonlWriter
from isoflop.train import schedule
from isoflop.train.build import Job
from isoflop.train.step import StepOutput, train_step

ROWS_PER_RUN = 100
"""Rows of metrics that a run writes, at evenly spaced steps."""
STEPS_PER_DRAW = 64
"""Batches that are read from the corpus at once."""
POLL_S = 0.05
"""Least time between two questions whether to stop or to save."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    step: int
    num_steps: int
    loss_nats: float | None
    """Mean since the row before; None before the first row."""
    flops: float
    """Of this run's own steps behind its present state, FLOPs."""
    seconds: float


@dataclass
class Position:
    """Where a run stands; everything in it goes through a checkpoint.

    Attributes:
        step: updates done, the parent's included.
        seconds: worker-seconds behind this state.
        losses, grad_norms: of the steps since the last row of metrics, as numbers.
    """

    step: int
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LoopEnd:
    """How the loop ended.

    Attributes:
        status: "stopped" when it was asked to; the state was saved then.
        step: updates done; for a blow-up, the step whose loss was not finite.
        seconds: worker-seconds behind it.
    """

    status: Literal["finished", "diverged", "stopped"]
    step: int
    seconds: float


def run_steps(
    job: Job,
    position: Position,
    metrics: JsonlWriter,
    save: Callable[[Position], None],
    *,
    checkpoint_every_s: float,
    should_stop: Callable[[], bool],
    on_progress: Callable[[Progress], None],
    at_step: Callable[[int], object] = lambda step: None,
) -> LoopEnd:
    """Step from a position to the end of the run.

    Args:
        job: the run; its net and optimizer are at `position`.
        position: where it stands; kept up to date.
        metrics: receives one row at each of `row_steps`.
        save: writes a checkpoint of the position.
        checkpoint_every_s: seconds between checkpoints to resume from.
        should_stop: asked some times a second; the state is saved before the loop ends.
        on_progress: told at each row.
        at_step: told every step at which `EvalSpec.every_steps` asks for a score.
    """
    spec, recorder = job.spec, _Recorder(job.spec, position, metrics)
    rows, saves = set(row_steps(spec)), set(spec.save_at_steps)
    scores = _score_steps(spec)
    started = polled = saved = time.monotonic()
    before = position.seconds
    for batch in draw_batches(job, position.step):
        lr_fraction = schedule.fraction(spec.schedule, position.step)
        out = train_step(
            job.net,
            job.objective,
            job.optimizer,
            batch,
            job.seed_step(position.step),
            lr_fraction,
            job.autocast and job.autocast(),
        )
        position.step += 1
        recorder.add(out)
        now = time.monotonic()
        due = position.step in saves
        stop = False
        if now - polled > POLL_S:
            polled, stop = now, should_stop()
            due = due or stop or now - saved > checkpoint_every_s
        if not (due or position.step in rows or position.step in scores):
            continue
        position.seconds = before + now - started
        blown_up = recorder.collect()
        if blown_up is not None:
            return LoopEnd(status="diverged", step=blown_up, seconds=position.seconds)
        if position.step in rows:
            on_progress(recorder.write_row(spec.optimizer.peak_lr * lr_fraction))
        if position.step in scores:
            at_step(position.step)
        if due:
            save(position)
            saved = now
        if stop and position.step < spec.num_steps:
            return LoopEnd(status="stopped", step=position.step, seconds=position.seconds)
    position.seconds = before + time.monotonic() - started
    return LoopEnd(status="finished", step=position.step, seconds=position.seconds)


def row_steps(spec: RunSpec) -> list[int]:
    """Steps after which a row of metrics is written: evenly spaced, the last step among them."""
    own = spec.num_steps - spec.start_step
    count = min(own, ROWS_PER_RUN)
    return [spec.start_step + (own * (index + 1)) // count for index in range(count)]


def _score_steps(spec: RunSpec) -> set[int]:
    """Steps on the way that are scored; the end is scored anyway."""
    if spec.evaluate is None or spec.evaluate.every_steps is None:
        return set()
    every = spec.evaluate.every_steps
    return set(range((spec.start_step // every + 1) * every, spec.num_steps, every))


def draw_batches(job: Job, first_step: int) -> Iterator[Tensor]:
    """The batches of each step from `first_step` on, [B, T + 1], read and moved many at a time."""
    spec = job.spec
    for start in range(first_step, spec.num_steps, STEPS_PER_DRAW):
        count = min(STEPS_PER_DRAW, spec.num_steps - start)
        rows = job.windows.batch(start * spec.batch_seqs, count * spec.batch_seqs)
        tokens = torch.from_numpy(rows).view(count, spec.batch_seqs, -1)
        yield from tokens.to(job.device)


class _Recorder:
    """Keeps losses on the device until a row is due, so that no step waits for the one before it."""

    def __init__(self, spec: RunSpec, position: Position, metrics: JsonlWriter) -> None:
        self._spec = spec
        self._position = position
        self._metrics = metrics
        self._steps: list[StepOutput] = []

    def add(self, out: StepOutput) -> None:
        self._steps.append(out)

    def collect(self) -> int | None:
        """Turn what was kept into numbers. Returns the first step whose loss was not finite, if any."""
        if not self._steps:
            return None
        losses = torch.stack([out.loss for out in self._steps]).tolist()
        self._position.grad_norms += torch.stack([out.grad_norm for out in self._steps]).tolist()
        first = self._position.step - len(losses) + 1
        self._steps.clear()
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                return first + index
        self._position.losses += losses
        return None

    def write_row(self, lr: float) -> Progress:
        """One row of metrics: means since the row before."""
        position, spec = self._position, self._spec
        loss = sum(position.losses) / len(position.losses)
        norm = sum(position.grad_norms) / len(position.grad_norms)
        position.losses.clear()
        position.grad_norms.clear()
        flops = spec.train_flops.flops * position.step / spec.num_steps
        self._metrics.write(
            {
                "step": position.step,
                "tokens": position.step * spec.batch_seqs * spec.data.context,
                "flops": flops,
                "loss_nats": loss,
                "lr": lr,
                "grad_norm": norm if math.isfinite(norm) else None,
                "seconds": round(position.seconds, 4),
            }
        )
        return Progress(
            step=position.step,
            num_steps=spec.num_steps,
            loss_nats=loss,
            flops=spec.train_flops.flops * (position.step - spec.start_step) / spec.num_steps,
            seconds=position.seconds,
        )
