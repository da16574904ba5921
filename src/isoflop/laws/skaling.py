"""Skaling (arXiv 2608.07222): one exponent around both terms, between Chinchilla's form and Kaplan's.

    L(N, D) = E + A (N^-alpha + R D^-beta)^k

k = 1 is the Chinchilla form with B = A R; E = 0 and beta = 1 is Kaplan's joint law. Reported k: about 0.3 to 0.9
on language-model grids. Since the outer power is monotone, the compute-optimal size does not depend on E, A and
k: the optimum has the Chinchilla closed form. No published coefficients are quoted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw, Optimum

Real = Any


@dataclass(frozen=True)
class SkalingLaw:
    """L = E + A (N^-alpha + R D^-beta)^power."""

    E: float
    A: float
    R: float
    alpha: float
    beta: float
    power: float
    """k of the paper."""
    k: float = 6.0
    """Training FLOPs per parameter and token."""

    @property
    def inner(self) -> ChinchillaLaw:
        """N^-alpha + R D^-beta as a law of its own."""
        return ChinchillaLaw(0.0, 1.0, self.R, self.alpha, self.beta, k=self.k)

    def loss(self, N: Real, D: Real) -> Real:
        """Nats per token."""
        value = self.E + self.A * np.power(self.inner.loss(N, D), self.power)
        return float(value) if np.ndim(value) == 0 else value

    def optimum(self, C: Real) -> Optimum:
        """Size, tokens and loss at C FLOPs, in closed form."""
        best = self.inner.optimum(C)
        return Optimum(best.N, best.D, self.loss(best.N, best.D))
