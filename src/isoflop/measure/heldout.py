"""Loss on held-out text: nats per token and bits per byte on fixed windows, kept group by group.

Every run is scored on the same windows, so what makes a window hard cancels in differences; the groups are
what a judge resamples. Bits per byte survive a change of tokenizer, nats per token do not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from isoflop.data.windows import ValidationWindows
from isoflop.measure.groups import from_groups
from isoflop.records import Measurement, RunSpec

FORWARD_TOKENS = 8192
"""Predicted tokens of a forward pass; a group with more is scored in parts. A whole group's logits, tokens x
vocabulary in 32 bits, would be more than a device holds whose memory a training step fills."""


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
    return from_groups(
        spec,
        step,
        group_nats,
        group_tokens,
        int(windows.num_bytes.sum()),
        held_fixed=(
            f"{len(windows.tokens)} evenly spaced held-out windows of {spec.data.context} tokens, the same for every "
            f"run of this corpus and tokenizer; {spec.precision}"
        ),
    )


@torch.inference_mode()
def _group_losses(net: nn.Module, tokens: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean nats/token [G] and tokens [G] of groups of neighbouring windows."""
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    nats = []
    groups = np.array_split(tokens, num_groups)
    most = max(1, FORWARD_TOKENS // (tokens.shape[1] - 1))
    for group in groups:
        parts = torch.from_numpy(group).to(device).split(most)
        means = [float(net.next_token_loss(part)) for part in parts]  # type: ignore[operator]
        sizes = [len(part) for part in parts]
        nats.append(means[0] if len(parts) == 1 else float(np.average(means, weights=sizes)))
    net.train(was_training)
    return np.array(nats), np.array([group.shape[0] * (group.shape[1] - 1) for group in groups])
