"""Gadre et al. 2024 (arXiv 2403.08540): loss against compute and over-training, with one shared exponent.

    L(C, M) = E + (a M^eta + b M^-eta) C^-eta,     M = D / N,  C = 6 N D

It is the Chinchilla form with alpha = beta = 2 eta, A = a 6^-eta, B = b 6^-eta: over-training moves along
parallel lines. `C4` holds the coefficients for models trained on C4 and scored on it; they are quoted from
memory of the paper's appendix, and a test compares them with the released runs.

Valid: N 11M to 6.9B, M 5 to 640 tokens per parameter, C 3e15 to 7e21 FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw, Optimum

Real = Any


@dataclass(frozen=True)
class OvertrainingLaw:
    """L(C, M) = E + (a M^eta + b M^-eta) C^-eta."""

    E: float
    a: float
    b: float
    eta: float
    k: float = 6.0

    def loss_of_compute(self, C: Real, M: Real) -> Real:
        """Nats per token after C FLOPs at M tokens per parameter."""
        M = np.asarray(M, dtype=float)
        value = self.E + (self.a * M**self.eta + self.b * M**-self.eta) * np.power(C, -self.eta)
        return float(value) if np.ndim(value) == 0 else value

    def loss(self, N: Real, D: Real) -> Real:
        """The same from parameters and tokens."""
        return self.loss_of_compute(self.k * N * D, D / N)

    @property
    def chinchilla(self) -> ChinchillaLaw:
        """The same law in the Chinchilla form."""
        scale = self.k**-self.eta
        return ChinchillaLaw(self.E, self.a * scale, self.b * scale, 2 * self.eta, 2 * self.eta, k=self.k)

    @property
    def best_ratio(self) -> float:
        """Tokens per parameter at the optimum, the same at any budget: (b/a)^(1/(2 eta))."""
        return float((self.b / self.a) ** (0.5 / self.eta))

    def optimum(self, C: Real) -> Optimum:
        """Size, tokens and loss at C FLOPs."""
        return self.chinchilla.optimum(C)


C4 = OvertrainingLaw(E=1.51, a=141.0, b=190.0, eta=0.121)
