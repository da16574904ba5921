"""From losses of groups of held-out windows to a Measurement: the mean, in two units, with its interval."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from isoflop.records import Estimate, Measurement, RunSpec


def from_groups(
    spec: RunSpec,
    step: int,
    group_nats: npt.NDArray[np.float64],
    group_tokens: npt.NDArray[np.int64],
    num_bytes: int,
    *,
    held_fixed: str,
) -> Measurement:
    """A run's held-out loss.

    Args:
        spec: the run.
        step: updates done when it was scored.
        group_nats: [G] mean nats/token of each group of neighbouring windows.
        group_tokens: [G] predicted tokens of each group.
        num_bytes: bytes of text that all predicted tokens stand for.
        held_fixed: in words, what is the same for all runs that this one may be compared with.

    The interval is that of sampling groups, unpaired: the weighted mean's error from the spread of groups
    (linearised ratio estimate, Cochran 1977, section 6.3), with t on G - 1 degrees of freedom.
    """
    total_tokens = int(group_tokens.sum())
    loss = float(group_nats @ group_tokens) / total_tokens
    half = _half_interval(group_nats, group_tokens)
    bits_per_nat = total_tokens / (num_bytes * math.log(2))
    method = f"t over {len(group_nats)} groups of validation windows, unpaired"
    return Measurement(
        run=spec.fingerprint(),
        name="heldout",
        step=step,
        loss=_estimate(loss, half, "nats/token", method),
        bits_per_byte=_estimate(
            loss * bits_per_nat, None if half is None else half * bits_per_nat, "bits/byte", method
        ),
        group_nats=tuple(float(value) for value in group_nats),
        group_tokens=tuple(int(count) for count in group_tokens),
        num_bytes=num_bytes,
        held_fixed=held_fixed,
    )


def _half_interval(group_nats: npt.NDArray[np.float64], group_tokens: npt.NDArray[np.int64]) -> float | None:
    """Half of the 95 % interval of the mean over groups; None when one group shows no spread."""
    count = len(group_nats)
    if count < 2:
        return None
    share = group_tokens / group_tokens.sum()
    deviations = share * (group_nats - share @ group_nats)
    error = math.sqrt(count / (count - 1) * float(deviations @ deviations))
    return float(stdtrit(count - 1, 0.975)) * error


def _estimate(value: float, half: float | None, unit: str, method: str) -> Estimate:
    if not math.isfinite(value):
        return Estimate(value=None, unit=unit, reason="the loss is not finite")
    if half is None:
        return Estimate(value=value, unit=unit, reason="one group of windows shows no spread")
    return Estimate(value=value, unit=unit, lo=value - half, hi=value + half, method=method)
