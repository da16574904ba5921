"""Objectives that go wrong in ways that a test asks for."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from isoflop.train.objectives import LossOutput, next_token


def deadly(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """Kills the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def broken(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """Raises an error."""
    raise ZeroDivisionError("on purpose")


def full_once(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """A disk without room, until a file in the run's folder (the one that is locked) says otherwise."""
    held = [Path(f"/proc/self/fd/{number}").resolve() for number in os.listdir("/proc/self/fd")]
    (folder,) = {path.parent for path in held if path.name == ".lock"}
    if not (folder / "there is room").exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    return next_token(net, batch, generator)


def rises(
    net: nn.Module, batch: Tensor, generator: torch.Generator, *, total: int, by: float, infinite: bool
) -> LossOutput:
    """The usual loss, far higher on the one batch whose token ids have this sum."""
    output = next_token(net, batch, generator)
    if int(batch.sum()) != total:
        return output
    loss = output.loss * (float("inf") if infinite else 1.0 + by)
    return LossOutput(loss=loss, num_targets=output.num_targets)
