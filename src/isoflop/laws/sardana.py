"""Sardana et al. 2024 (arXiv 2401.00448): the size that is cheapest over a lifetime of training and serving.

    minimise 6 N D + 2 N T   subject to   L(N, D) = L0

T are the tokens served. Works with any Chinchilla-form law. Valid: the paper trained up to 10,000 tokens per
parameter and finds that laws fitted at usual ratios overstate what the extra tokens bring; take optima far
beyond a hundred tokens per parameter with that in mind. Left out: utilisation and latency, which make a served
FLOP dearer than a trained one (the planner has them).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw

Real = Any
SERVE_FLOPS = 2.0
"""FLOPs per parameter and served token: a forward pass."""


class Lifetime(NamedTuple):
    """The cheapest way to a loss when T tokens will be served."""

    N: float
    D: float
    train_flops: float
    serve_flops: float

    @property
    def total_flops(self) -> float:
        return self.train_flops + self.serve_flops


def lifetime_cost(law: ChinchillaLaw, N: Real, loss: float, T: float) -> Real:
    """FLOPs over the lifetime of a model of N parameters that must reach `loss`; infinite when it cannot."""
    return law.k * N * law.tokens_for_loss(N, loss) + SERVE_FLOPS * N * T


def lifetime_optimum(law: ChinchillaLaw, loss: float, T: float) -> Lifetime:
    """The cheapest model that reaches `loss` and then serves T tokens.

    Args:
        law: parameters as floats.
        loss: target, above law.E.
        T: tokens served, >= 0.

    In log N the cost is unimodal: training cost falls and then rises, serving cost rises. Found by shrinking a
    grid from the smallest possible size upwards, to 1e-9 in log N.
    """
    if not loss > law.E:
        raise ValueError(f"loss {loss} is at or below the floor {law.E:g}: no model reaches it; ask for more")
    if not T >= 0:
        raise ValueError(f"T is {T}: tokens served must be >= 0")
    low = float(np.log(law.smallest_size_for_loss(loss)))
    high = float(np.log(law.optimum(law.equivalent_compute(loss)).N)) + 0.1
    for _ in range(60):
        grid = np.linspace(low, high, 41)
        with np.errstate(over="ignore"):
            best = int(np.argmin(lifetime_cost(law, np.exp(grid), loss, T)))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
        if high - low < 1e-9:
            break
    N = float(np.exp(0.5 * (low + high)))
    D = float(law.tokens_for_loss(N, loss))
    return Lifetime(N, D, law.k * N * D, SERVE_FLOPS * N * T)
