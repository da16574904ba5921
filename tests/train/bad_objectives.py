"""Objectives that go wrong in ways that a test asks for."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from isoflop.train.objectives import LossOutput


def deadly(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """Kills the process that calls it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def broken(net: nn.Module, batch: Tensor, generator: torch.Generator) -> LossOutput:
    """Raises an error."""
    raise ZeroDivisionError("on purpose")
