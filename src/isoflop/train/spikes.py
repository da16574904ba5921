"""Rises of the training loss: found, undone, and the batches behind them left out.

A run with a `SpikeRule` looks at its losses every so many steps. When one of them stands far above those
before it, the run goes back to the state of the last check that was passed and goes on with the samples
behind the spike, as Chowdhery et al. did by hand (PaLM, 2022, section 5.1; they went further back). What was
left out is a list of `Spike` records, and with it the order stays a pure function: update t reads sample
t x batch + (samples left out before it) onwards.

Checks fall on fixed steps, states are saved at checks alone, and everything that a later check needs is in
the saved state, so a run that was killed makes the same decisions again. Leaves out the loop itself and rows
of metrics (`isoflop.train.loop`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from isoflop.records import RunSpec, Spike, SpikeRule
from isoflop.train.build import Job

if TYPE_CHECKING:
    from isoflop.train.loop import Position

SD_PER_MAD = 1.4826
"""Standard deviation of a normal sample over its median absolute deviation."""
LEAST_SD_SHARE = 1e-3
"""The spread is taken as at least this share of the median, so that a flat stretch makes no spike of a ripple."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A loss that stands out.

    Attributes:
        index: of the loss among those that were looked at.
        loss_nats: None when it is not finite.
        before_nats: median of the losses before it; NaN never, 0 without any.
        threshold_nats: what it was held against.
    """

    index: int
    loss_nats: float | None
    before_nats: float
    threshold_nats: float


def find_spike(recent: Sequence[float], fresh: Sequence[float], rule: SpikeRule) -> Found | None:
    """The first of the fresh losses that is a spike, or None.

    A loss is one when it is not finite, or above median + factor x 1.4826 MAD of the last `rule.window`
    losses before it (Hampel's identifier: Davies and Gather 1993). Without a quarter of that window nothing
    but a loss that is not finite is judged.

    Args:
        recent: losses up to the last check, oldest first, all finite.
        fresh: losses since, in order.
        rule: window and factor.
    """
    history = list(recent)
    for index, loss in enumerate(fresh):
        window = history[-rule.window :]
        middle = statistics.median(window) if window else 0.0
        enough = len(window) >= max(2, rule.window // 4)
        threshold = math.inf
        if enough:
            mad = statistics.median(abs(value - middle) for value in window)
            threshold = middle + rule.factor * max(SD_PER_MAD * mad, LEAST_SD_SHARE * abs(middle))
        if not math.isfinite(loss) or loss > threshold:
            return Found(
                index=index,
                loss_nats=loss if math.isfinite(loss) else None,
                before_nats=middle,
                threshold_nats=threshold if enough else middle,
            )
        history.append(loss)
    return None


def check_steps(spec: RunSpec, others: set[int]) -> set[int]:
    """Steps at which a run with a rule looks at its losses.

    Multiples of `check_every`, the last step, and `others`: steps whose state or score leaves the run, which
    must never be undone.
    """
    if spec.spikes is None:
        return set()
    every = spec.spikes.check_every
    if every < 1 or spec.spikes.window < 8:
        raise ValueError(
            f"{spec.name}: a spike rule needs check_every of 1 or more and a window of 8 or more, "
            f"not {every} and {spec.spikes.window}"
        )
    multiples = range((spec.start_step // every + 1) * every, spec.num_steps, every)
    return {*multiples, spec.num_steps, *others}


class Guard:
    """Keeps the state of the last check that was passed, and goes back to it."""

    def __init__(self, job: Job, position: Position, rule: SpikeRule) -> None:
        self._job, self._position, self._rule = job, position, rule
        self._keep()

    def passes(self, fresh: list[float]) -> bool:
        """Look at the losses since the last check. False when the run was taken back to it.

        Args:
            fresh: losses of the steps since; emptied.
        """
        position, rule = self._position, self._rule
        found = find_spike(position.recent, fresh, rule)
        if found is not None and self._rollbacks() < rule.max_rollbacks:
            self._undo(found)
            fresh.clear()
            return False
        if found is not None:
            position.spikes.append(self._event(found, "kept"))
        position.recent[:] = [*position.recent, *filter(math.isfinite, fresh)][-rule.window :]
        fresh.clear()
        self._keep()
        return True

    def _rollbacks(self) -> int:
        return sum(spike.action == "rolled back" for spike in self._position.spikes)

    def _event(self, found: Found, action: str, **more: int) -> Spike:
        return Spike(
            step=self._step + found.index + 1,
            loss_before_nats=found.before_nats,
            loss_nats=found.loss_nats,
            threshold_nats=found.threshold_nats,
            action=action,  # type: ignore[arg-type]
            **more,
        )

    def _keep(self) -> None:
        job, position = self._job, self._position
        self._step = position.step
        self._model = _copies(job.net.state_dict())
        self._moments = _copies(job.optimizer.state())
        self._pending = position.pending()

    def _undo(self, found: Found) -> None:
        """Take net, optimizer and position back, and note what is left out."""
        job, position, batch = self._job, self._position, self._job.spec.batch_seqs
        left_out = (found.index + 1 + self._rule.skip_after) * batch
        position.spikes.append(
            self._event(
                found,
                "rolled back",
                back_to_step=self._step,
                first_sample=self._step * batch + position.skipped_samples,
                num_samples=left_out,
                redone_steps=position.step - self._step,
            )
        )
        position.redone_steps += position.step - self._step
        position.skipped_samples += left_out
        position.step = self._step
        position.take_pending(self._pending)
        job.net.load_state_dict(self._model)
        job.optimizer.load(self._moments, job.updates_behind(self._step))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
