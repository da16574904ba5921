"""Answers of several tokens, scored three ways on the same held-out problems: exactly, per token, in nats.

The problems are those of `isoflop.data.digit_tasks`. A greedy decoder reproduces the first k tokens of an
answer exactly when each of them is the most likely one after the right tokens before it, so one forward pass
over the right text gives the exact match of every k.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from isoflop.data.digit_tasks import FIRST_ANSWER_TOKEN, LINE_TOKENS, NUM_DIGITS, TASKS
from isoflop.data.windows import ValidationWindows
from isoflop.measure.groups import from_groups
from isoflop.records import Estimate, Measurement, RunSpec

BATCH_WINDOWS = 125
Z95 = 1.959964
"""Standard normal quantile of a 95 % interval."""


def score(net: nn.Module, windows: ValidationWindows, spec: RunSpec, step: int) -> Measurement:
    """Score a net on the answers in its run's fixed windows.

    Args:
        net: any net with ``net(tokens [B, T])`` that gives logits [B, T, V] of the next tokens.
        windows: tokens [W, T + 1] of whole lines: T is a multiple of `LINE_TOKENS`.
        spec: the run; `spec.evaluate` says into how many groups of neighbours the windows are put.
        step: updates done when it is scored.

    Returns:
        A Measurement whose loss is that of the answers' tokens alone, and whose `scores` hold, for each task,
        "TASK/exact/K" (share of problems whose first K answer tokens are all right), "TASK/right/J" (share
        whose J-th token is right) and "TASK/nats/J" (mean nats of it), K and J from 1.

    Raises:
        ValueError: the windows do not hold whole lines.
    """
    assert spec.evaluate is not None, "a run without an EvalSpec is not scored"
    if (windows.tokens.shape[1] - 1) % LINE_TOKENS:
        raise ValueError(
            f"windows of {windows.tokens.shape[1] - 1} tokens do not hold whole lines of {LINE_TOKENS}; "
            f"give the run a context that {LINE_TOKENS} divides"
        )
    right, nats = _answers(net, windows.tokens)
    tasks = windows.tokens[:, :-1].reshape(-1, LINE_TOKENS)[:, 0]
    groups = np.array_split(nats, min(spec.evaluate.num_groups, len(nats)))
    measurement = from_groups(
        spec,
        step,
        np.array([group.mean() for group in groups]),
        np.array([group.size for group in groups]),
        nats.size,
        held_fixed=f"the answers of {len(nats)} problems that no run was trained on, the same for every run; "
        f"{spec.precision}",
    )
    scores: dict[str, Estimate] = {}
    for first, name in TASKS.items():
        chosen = tasks == ord(first)
        scores |= {f"{name}/{key}": value for key, value in _scores(right[chosen], nats[chosen]).items()}
    return msgspec.structs.replace(measurement, name="answers", scores=scores)


@torch.inference_mode()
def _answers(net: nn.Module, tokens: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether the most likely token is right, and its nats: [problems, digits], in the order of the windows."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    right, nats = [], []
    for first in range(0, len(tokens), BATCH_WINDOWS):
        batch = torch.from_numpy(tokens[first : first + BATCH_WINDOWS]).to(device)
        logits, targets = net(batch[:, :-1]).float(), batch[:, 1:]
        right.append((logits.argmax(-1) == targets).cpu().numpy())
        chosen = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        nats.append((-chosen).double().cpu().numpy())
    net.train(was_training)
    # Target j of a window is its token j + 1, so a line's answer starts one place earlier among the targets.
    start = FIRST_ANSWER_TOKEN - 1
    places = slice(start, start + NUM_DIGITS)
    return (
        np.concatenate(right).reshape(-1, LINE_TOKENS)[:, places],
        np.concatenate(nats).reshape(-1, LINE_TOKENS)[:, places],
    )


def _scores(right: NDArray[np.bool_], nats: NDArray[np.float64]) -> dict[str, Estimate]:
    """Scores of one task from [problems, digits]."""
    found: dict[str, Estimate] = {}
    for k in range(1, NUM_DIGITS + 1):
        found[f"exact/{k}"] = share(int(right[:, :k].all(axis=1).sum()), len(right))
        found[f"right/{k}"] = share(int(right[:, k - 1].sum()), len(right))
        found[f"nats/{k}"] = _mean(nats[:, k - 1])
    return found


def share(count: int, total: int) -> Estimate:
    """A share with the score interval of Wilson 1927 (eq. 4 in Brown, Cai and DasGupta 2001)."""
    if total == 0:
        return Estimate(value=None, unit="share", reason="no problem of this task among the windows")
    value, spread = count / total, Z95**2 / total
    middle = (value + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(value * (1 - value) / total + spread / (4 * total)) / (1 + spread)
    # At a share of 0 or 1 one end is the share itself, but for rounding.
    lo, hi = max(min(middle - half, value), 0.0), min(max(middle + half, value), 1.0)
    return Estimate(value=value, unit="share", lo=lo, hi=hi, method=f"Wilson, {total} problems")


def _mean(nats: NDArray[np.float64]) -> Estimate:
    if len(nats) < 2:
        return Estimate(value=None, unit="nats/token", reason="fewer than two problems of this task")
    value, half = float(nats.mean()), Z95 * float(nats.std(ddof=1)) / math.sqrt(len(nats))
    if not math.isfinite(value):
        return Estimate(value=None, unit="nats/token", reason="the loss is not finite")
    return Estimate(
        value=value, unit="nats/token", lo=value - half, hi=value + half, method=f"{len(nats)} problems"
    )
