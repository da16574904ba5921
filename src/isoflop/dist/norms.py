"""The norm of a gradient, to the precision of its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PART = 1 << 14
"""Numbers whose squares are summed in one go on a CPU: PyTorch adds fp32 squares there one after the other, so that
over ten million of them a norm is off by some 1e-3, and with it the clipping. Over parts of this size it is 1e-7."""


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of all numbers of some tensors, one or more, on one device: a scalar in their precision."""
    parts = list(tensors)
    if parts[0].device.type == "cpu":
        parts = [part for tensor in parts for part in tensor.reshape(-1).split(PART)]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts)))
