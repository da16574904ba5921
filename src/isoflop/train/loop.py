"""The one training loop: draws batches, takes steps, writes metrics, saves states, notices a blow-up.

It is told by functions when to stop and how to save, and leaves out everything that happens once: see
`isoflop.train.run` for start, resume, scoring and the record. What a row of metrics holds, and how fast and
how well a device is used, is `isoflop.train.metrics`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
import torch
from torch import Tensor

from isoflop.records import RunSpec, Spike
from isoflop.train import schedule, spikes
from isoflop.train.build import Job
from isoflop.train.metrics import Meter
from isoflop.train.step import StepOutput, train_step

ROWS_PER_RUN = 100
"""Rows of metrics that a run writes, at evenly spaced steps."""
STEPS_PER_DRAW = 64
"""Batches that are read from the corpus at once."""
LOSS_BIN_STEPS = 100
"""Steps of the fine bins of the loss; the rows are the coarse ones."""
POLL_S = 0.05
"""Least time between two questions whether to stop or to save."""


class RowSink(Protocol):
    """What takes rows of metrics: a `JsonlWriter`, or one with loggers behind it."""

    def write(self, row: dict[str, Any]) -> None:
        """Take one row."""


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
        bin_losses: of the steps since the last multiple of `LOSS_BIN_STEPS`.
        bins: means of the fine bins that ended since the last row, each with its last step.
        recent: the last losses that a spike is held against; empty without a `SpikeRule`.
        skipped_samples: training samples that were left out so far.
        spikes: what was found and left out.
        redone_steps: updates that this process has undone.
    """

    step: int
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    bin_losses: list[float] = field(default_factory=list)
    bins: list[tuple[int, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    skipped_samples: int = 0
    spikes: list[Spike] = field(default_factory=list)
    redone_steps: int = 0

    def pending(self) -> dict[str, Any]:
        """What the next row of metrics needs of the steps before: copies."""
        return {
            "losses": list(self.losses),
            "grad_norms": list(self.grad_norms),
            "bin_losses": list(self.bin_losses),
            "bins": [list(one) for one in self.bins],
        }

    def take_pending(self, pending: dict[str, Any]) -> None:
        """Take over what `pending` gave."""
        self.losses[:], self.grad_norms[:] = pending["losses"], pending["grad_norms"]
        self.bin_losses[:] = pending.get("bin_losses", ())
        self.bins[:] = [(int(step), float(mean)) for step, mean in pending.get("bins", ())]

    def state(self) -> dict[str, Any]:
        """What of it goes into a checkpoint beside the step."""
        found: dict[str, Any] = {"seconds": self.seconds, "pending": self.pending()}
        if self.recent or self.spikes:
            found["spikes"] = {
                "recent": list(self.recent),
                "skipped_samples": self.skipped_samples,
                "found": [msgspec.to_builtins(spike) for spike in self.spikes],
            }
        return found

    @classmethod
    def of(cls, step: int, state: dict[str, Any]) -> Position:
        """The position that a checkpoint's state speaks of."""
        position = cls(step, state["seconds"])
        position.take_pending(state["pending"])
        kept = state.get("spikes")
        if kept is not None:
            position.recent = [float(loss) for loss in kept["recent"]]
            position.skipped_samples = int(kept["skipped_samples"])
            position.spikes = [msgspec.convert(spike, Spike) for spike in kept["found"]]
        return position


@dataclass(frozen=True, kw_only=True)
class LoopEnd:
    """How the loop ended.

    Attributes:
        status: "stopped" when it was asked to; the state was saved then.
        step: updates done; for a blow-up, the step whose loss was not finite.
        seconds: worker-seconds behind it.
        redone_steps: updates that were undone after a spike, on top of those up to `step`.
    """

    status: Literal["finished", "diverged", "stopped"]
    step: int
    seconds: float
    redone_steps: int = 0


def run_steps(
    job: Job,
    position: Position,
    metrics: RowSink,
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
        at_step: told every step at which `EvalSpec` asks for a score on the way.

    With a `SpikeRule` rows are written, and states saved, at its checks alone: what may still be undone
    leaves no trace. A wish to stop waits for the next check.
    """
    spec, recorder = job.spec, _Recorder(job.spec, position, metrics, device=job.device)
    rows, saves, scores = set(row_steps(spec)), set(spec.save_at_steps), _score_steps(spec)
    checks = spikes.check_steps(spec, saves | scores)
    guard = None if spec.spikes is None else spikes.Guard(job, position, spec.spikes)
    marked = rows | saves | scores | checks
    started = polled = saved = time.monotonic()
    before, stop, late = position.seconds, False, False
    batches = draw_batches(job, position.step, position.skipped_samples)
    while (batch := next(batches, None)) is not None:
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
        if now - polled > POLL_S:
            polled, stop = now, stop or should_stop()
            late = late or stop or now - saved > checkpoint_every_s
        if not (position.step in marked or (late and guard is None)):
            continue
        position.seconds = before + now - started
        blown_up = recorder.collect()
        if position.step in rows and blown_up is None:
            recorder.make_row(spec.optimizer.peak_lr * lr_fraction)
        if guard is not None:
            if blown_up is None and position.step not in checks:
                continue
            if not guard.passes(recorder.since_check):
                recorder.forget_rows()
                batches = draw_batches(job, position.step, position.skipped_samples)
                continue
        if blown_up is not None:
            return _end("diverged", position, blown_up)
        for progress in recorder.write_rows():
            on_progress(progress)
        if position.step in scores:
            at_step(position.step)
        if late or position.step in saves:
            save(position)
            saved, late = now, False
        if stop and position.step < spec.num_steps:
            return _end("stopped", position)
    position.seconds = before + time.monotonic() - started
    return _end("finished", position)


def _end(
    status: Literal["finished", "diverged", "stopped"], position: Position, step: int | None = None
) -> LoopEnd:
    return LoopEnd(
        status=status,
        step=position.step if step is None else step,
        seconds=position.seconds,
        redone_steps=position.redone_steps,
    )


def row_steps(spec: RunSpec) -> list[int]:
    """Steps after which a row of metrics is written: evenly spaced, the last step among them."""
    own = spec.num_steps - spec.start_step
    count = min(own, ROWS_PER_RUN)
    return [spec.start_step + (own * (index + 1)) // count for index in range(count)]


def _score_steps(spec: RunSpec) -> set[int]:
    """Steps on the way that are scored; the end is scored anyway."""
    if spec.evaluate is None:
        return set()
    asked = {step for step in spec.evaluate.at_steps if spec.start_step < step < spec.num_steps}
    every = spec.evaluate.every_steps
    if every is None:
        return asked
    return asked | set(range((spec.start_step // every + 1) * every, spec.num_steps, every))


def draw_batches(job: Job, first_step: int, skipped_samples: int = 0) -> Iterator[Tensor]:
    """The batches of each step from `first_step` on, [B, T + 1], read and moved many at a time.

    Step t reads samples t x B + `skipped_samples` onwards.
    """
    spec = job.spec
    for start in range(first_step, spec.num_steps, STEPS_PER_DRAW):
        count = min(STEPS_PER_DRAW, spec.num_steps - start)
        rows = job.windows.batch(start * spec.batch_seqs + skipped_samples, count * spec.batch_seqs)
        tokens = torch.from_numpy(rows).view(count, spec.batch_seqs, -1)
        yield from tokens.to(job.device)


class _Recorder:
    """Keeps losses on the device until a row is due, so that no step waits for the one before it."""

    def __init__(
        self,
        spec: RunSpec,
        position: Position,
        metrics: RowSink,
        *,
        device: torch.device | None = None,
        num_devices: int = 1,
    ) -> None:
        self._spec = spec
        self._position = position
        self._metrics = metrics
        self._meter = Meter(spec, position.step, position.seconds, device, num_devices)
        self._steps: list[StepOutput] = []
        self._rows: list[tuple[dict[str, Any], Progress]] = []
        self.since_check: list[float] = []
        """Losses since the last check, for a run with a `SpikeRule`."""

    def add(self, out: StepOutput) -> None:
        self._steps.append(out)

    def collect(self) -> int | None:
        """Turn what was kept into numbers. Returns the first step whose loss was not finite, if any."""
        if not self._steps:
            return None
        position = self._position
        losses = torch.stack([out.loss for out in self._steps]).tolist()
        position.grad_norms += torch.stack([out.grad_norm for out in self._steps]).tolist()
        first = position.step - len(losses) + 1
        self._steps.clear()
        if self._spec.spikes is not None:
            self.since_check += losses
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                return first + index
        position.losses += losses
        self._bin(losses, first)
        return None

    def _bin(self, losses: list[float], first: int) -> None:
        """Put the losses of steps `first` onwards into bins that end at multiples of `LOSS_BIN_STEPS`."""
        position = self._position
        start = 0
        while start < len(losses):
            room = LOSS_BIN_STEPS - (first + start - 1) % LOSS_BIN_STEPS
            position.bin_losses += losses[start : start + room]
            start += room
            if start <= len(losses):  # the bin is full
                mean = sum(position.bin_losses) / len(position.bin_losses)
                position.bins.append((first + start - 1, mean))
                position.bin_losses.clear()

    def write_row(self, lr: float) -> Progress:
        """One row of metrics, made and written: means since the row before."""
        self.make_row(lr)
        return self.write_rows()[-1]

    def make_row(self, lr: float) -> None:
        """One row of metrics, kept until `write_rows`."""
        position, spec = self._position, self._spec
        loss = sum(position.losses) / len(position.losses)
        norm = sum(position.grad_norms) / len(position.grad_norms)
        row: dict[str, Any] = {
            "step": position.step,
            "tokens": position.step * spec.batch_seqs * spec.data.context,
            "flops": spec.train_flops.flops * position.step / spec.num_steps,
            "loss_nats": loss,
            "lr": lr,
            "grad_norm": norm if math.isfinite(norm) else None,
            "seconds": round(position.seconds, 4),
            "loss_bins": [list(one) for one in position.bins],
            **self._meter.read(position.step, position.seconds),
        }
        if spec.spikes is not None:
            row["skipped_samples"] = position.skipped_samples
        position.losses.clear()
        position.grad_norms.clear()
        position.bins.clear()
        progress = Progress(
            step=position.step,
            num_steps=spec.num_steps,
            loss_nats=loss,
            flops=spec.train_flops.flops * (position.step - spec.start_step) / spec.num_steps,
            seconds=position.seconds,
        )
        self._rows.append((row, progress))

    def write_rows(self) -> list[Progress]:
        """Write the rows that were made; how far the run was at each."""
        made, self._rows = self._rows, []
        for row, _ in made:
            self._metrics.write(row)
        return [progress for _, progress in made]

    def forget_rows(self) -> None:
        """Drop the rows that were made: the run was taken back."""
        self._rows.clear()
