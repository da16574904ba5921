"""One optimizer step, on one screen. It knows nothing of files, clocks, data or schedules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoflop.train.objectives import LossOutput
from isoflop.train.optim import Optimizer

Objective = Callable[[nn.Module, Tensor, torch.Generator], LossOutput]


@dataclass(frozen=True)
class StepOutput:
    """What a step reports, left on the device so that nothing waits for it.

    Attributes:
        loss: before the update; a scalar, or [R] for a stack.
        grad_norm: before clipping, shaped as the loss.
        metrics: the objective's further ones.
    """

    loss: Tensor
    grad_norm: Tensor
    metrics: Mapping[str, Tensor]


def train_step(
    net: nn.Module,
    objective: Objective,
    optimizer: Optimizer,
    batch: Tensor,
    generator: torch.Generator,
    lr_fraction: float,
    autocast: contextlib.AbstractContextManager[object] | None = None,
) -> StepOutput:
    """Forward, backward, update.

    Args:
        batch: [(R), B, T + 1] token ids, or whatever the objective takes.
        generator: for the objective's own sampling.
        lr_fraction: of the peak learning rate.
        autocast: the precision context; None is fp32.
    """
    if autocast is None:
        output = objective(net, batch, generator)
    else:
        with autocast:
            output = objective(net, batch, generator)
    # Losses of a stack are summed: each run's gradient is then that of its own mean loss, as if alone.
    (output.loss if output.loss.dim() == 0 else output.loss.sum()).backward()
    return StepOutput(output.loss.detach(), optimizer.update(lr_fraction), output.metrics)
