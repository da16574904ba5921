"""What a run minimises: functions that enter the one training loop. A new idea is a new function here or in
your own module, named in `RunSpec.objective`; never a copy of the loop.

An objective takes the net, a batch as the data room made it, and a generator for any sampling it does; it
returns a `LossOutput`. It does no backward pass and knows nothing of optimizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LossOutput:
    """What an objective returns.

    Attributes:
        loss: mean over targets, nats for a likelihood; a scalar, or [R] for a stack of R runs.
        num_targets: how many targets the mean is over; weighs micro-batches and ranks.
        metrics: further scalars to log, detached.
    """

    loss: Tensor
    num_targets: int
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def next_token(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """Mean nats of the next token.

    Args:
        net: a net with `next_token_loss`.
        batch: [(R), B, T + 1] token ids.
        generator: not used; objectives that sample need it.
    """
    return LossOutput(loss=net.next_token_loss(batch), num_targets=batch[..., 1:].numel())  # type: ignore[operator]
