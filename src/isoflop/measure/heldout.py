"""Loss on held-out text: nats per token and bits per byte on fixed windows, kept group by group.

Every run is scored on the same windows, so what makes a window hard cancels in differences; the groups are
what a judge resamples. Bits per byte survive a change of tokenizer, nats per token do not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import stdtrit
from torch import nn

from isoflop.data.windows import ValidationWindows
from isoflop.records import Estimate, Measurement, RunSpec


def score(net: nn.Module, windows: ValidationWindows, spec: RunSpec, step: int) -> Measurement:
    """Score a net on the fixed windows of its run.

    Args:
        net: any net with ``next_token_loss(tokens [B, T + 1])``, a mean over tokens in nats.
        windows: tokens [W, T + 1] and bytes [W].
        spec: the run; `spec.evaluate` says into how many groups of neighbours the windows are put.
        step: updates done when it is scored.

    Returns:
        A Measurement whose intervals are those of sampling windows, unpaired: two runs' difference on the
        same windows is known far better.
    """
    assert spec.evaluate is not None, "a run without an EvalSpec is not scored"
    num_groups = min(spec.evaluate.num_groups, len(windows.tokens))
    group_nats, group_tokens = _group_losses(net, windows.tokens, num_groups)
    total_tokens = group_tokens.sum()
    total_nats = float(group_nats @ group_tokens)
    total_bytes = int(windows.num_bytes.sum())
    loss = total_nats / total_tokens
    half = _half_interval(group_nats, group_tokens)
    per_byte = total_tokens / (total_bytes * math.log(2))
    method = f"t over {num_groups} groups of validation windows, unpaired"
    return Measurement(
        run=spec.fingerprint(),
        name="heldout",
        step=step,
        loss=_estimate(loss, half, "nats/token", method),
        bits_per_byte=_estimate(
            loss * per_byte, None if half is None else half * per_byte, "bits/byte", method
        ),
        group_nats=tuple(group_nats.tolist()),
        group_tokens=tuple(group_tokens.tolist()),
        num_bytes=total_bytes,
        held_fixed=(
            f"{len(windows.tokens)} evenly spaced held-out windows of {spec.data.context} tokens, the same for every "
            f"run of this corpus and tokenizer; {spec.precision}"
        ),
    )


@torch.inference_mode()
def _group_losses(net: nn.Module, tokens: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean nats/token [G] and tokens [G] of groups of neighbouring windows; one forward pass each."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    nats = []
    groups = np.array_split(tokens, num_groups)
    for group in groups:
        nats.append(float(net.next_token_loss(torch.from_numpy(group).to(device))))  # type: ignore[operator]
    net.train(was_training)
    return np.array(nats), np.array([group.shape[0] * (group.shape[1] - 1) for group in groups])


def _half_interval(group_nats: np.ndarray, group_tokens: np.ndarray) -> float | None:
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
