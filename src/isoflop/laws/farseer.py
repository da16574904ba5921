"""Farseer (Li et al. 2025, arXiv 2506.10972): the exponent of data changes with the size of the model.

    L(N, D) = exp(s N^q + S) + exp(B N^b + Q) D^(-exp(A N^a + E))

Nine parameters; with a -> 0 the exponent of D is constant, and with q, b -> 0 the first two factors are powers'
exponentials, so the Chinchilla form is a limit of it rather than a member. No published coefficients are quoted
here: the form is offered to fits (`isoflop.fit.law.sensitivity`) as a wider alternative. Valid where fitted; nine
parameters extrapolate at their own risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.laws.chinchilla import Optimum

Real = Any


@dataclass(frozen=True)
class FarseerLaw:
    """The nine parameters, by the paper's letters (E here is not the loss floor)."""

    s: float
    q: float
    S: float
    B: float
    b: float
    Q: float
    A: float
    a: float
    E: float
    k: float = 6.0

    def loss(self, N: Real, D: Real) -> Real:
        """Nats per token."""
        N = np.asarray(N, dtype=float)
        floor = np.exp(self.s * N**self.q + self.S)
        value = floor + np.exp(self.B * N**self.b + self.Q) * np.power(D, -self.data_exponent(N))
        return float(value) if np.ndim(value) == 0 else value

    def data_exponent(self, N: Real) -> Real:
        """exp(A N^a + E): how fast more data help a model of N parameters."""
        return np.exp(self.A * np.power(np.asarray(N, dtype=float), self.a) + self.E)

    def optimum(self, C: float, lo: float = 1e3, hi: float = 1e15) -> Optimum:
        """Lowest loss along C = k N D between sizes lo and hi, by a shrinking grid (to 1e-7 in log N)."""
        low, high = np.log(lo), np.log(hi)
        for _ in range(12):
            grid = np.exp(np.linspace(low, high, 201))
            best = int(np.argmin(self.loss(grid, C / (self.k * grid))))
            low, high = np.log(grid[max(best - 1, 0)]), np.log(grid[min(best + 1, 200)])
        N = float(np.exp(0.5 * (low + high)))
        D = C / (self.k * N)
        return Optimum(N, D, float(self.loss(N, D)))
