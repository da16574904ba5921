"""Allocations that are straight lines in the logarithms: N* = k C^a and D* = C / (6 N*).

Several papers publish only this much: where the optimum lies, not how steep the loss is around it. Left out,
therefore: losses, basins, prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Real = Any


class Allocation(NamedTuple):
    """Where the compute goes: parameters and tokens."""

    N: Real
    D: Real


@dataclass(frozen=True)
class PowerAllocation:
    """N* = k_N C^a, with D* = C / (k N*)."""

    k_N: float
    a: float
    """Exponent of the size."""
    k: float = 6.0
    """Training FLOPs per parameter and token."""

    @property
    def b(self) -> float:
        """Exponent of the data."""
        return 1.0 - self.a

    def optimum(self, C: Real) -> Allocation:
        """Parameters and tokens for C training FLOPs."""
        N = self.k_N * np.power(C, self.a)
        return Allocation(N, np.asarray(C, dtype=float) / (self.k * N) if np.ndim(C) else C / (self.k * N))

    @classmethod
    def through(cls, C: float, N: float, a: float, k: float = 6.0) -> PowerAllocation:
        """The line of slope `a` through one published pair (C, N)."""
        return cls(N / C**a, a, k)
