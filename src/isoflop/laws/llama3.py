"""Llama Team 2024 (arXiv 2407.21783): the allocation behind Llama 3 405B, and why it cannot be recomputed.

The paper fits D* = A C^alpha to isoFLOP minima between 6e18 and 1e22 FLOPs, prints (alpha, A) = (0.53, 0.29),
and extrapolates to 3.8e25 FLOPs: 402B parameters on 16.55T tokens (section 3.2.1). The printed pair gives
another answer there by a factor of about 1.6: two digits of an exponent are worth a factor of two over five
decades. `PRINTED` is the pair, `STATED` the answer, `CONSISTENT` the pair next to the printed one that comes
near the answer. Publish six digits, or the draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.laws.power import Allocation

Real = Any

BUDGET = 3.8e25
"""FLOPs of Llama 3 405B, as printed."""
STATED = Allocation(N=402e9, D=16.55e12)
"""The paper's own extrapolation to that budget."""


@dataclass(frozen=True)
class TokenAllocation:
    """D* = A C^alpha, N* = C / (6 D*)."""

    alpha: float
    A: float
    k: float = 6.0

    def optimum(self, C: Real) -> Allocation:
        """Parameters and tokens for C training FLOPs."""
        D = self.A * np.power(C, self.alpha)
        return Allocation(C / (self.k * D), D)


PRINTED = TokenAllocation(alpha=0.53, A=0.29)
CONSISTENT = TokenAllocation(alpha=0.537, A=0.299)
