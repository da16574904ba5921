"""Muennighoff et al. 2023 (arXiv 2305.16264): what repeated data are worth.

    L = E + A / N'^alpha + B / D'^beta
    D' = U_D + U_D R_D* (1 - exp(-R_D / R_D*)),   R_D = D / U_D - 1
    N' = U_N + U_N R_N* (1 - exp(-R_N / R_N*)),   R_N = N / U_N - 1,   U_N = min(N, N_opt(U_D))

U_D are the unique tokens, N_opt(U_D) the size for which so many tokens are optimal. Coefficients: the released
code (`huggingface/datablations`). Valid: N 7M to 8.7B, up to 1500 epochs at small scale, C4 and OSCAR; fitted
mostly up to about 100 epochs. After the first pass the law is the Chinchilla form.

Left out: mixing with code, filtering (the paper's later sections).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw, Optimum

Real = Any


@dataclass(frozen=True)
class RepeatedDataLaw:
    """The Chinchilla form with decaying value of repeated tokens and of excess parameters."""

    first_pass: ChinchillaLaw
    R_D: float
    """R_D*: repetitions after which a token has lost about two thirds of its value."""
    R_N: float
    """R_N*: the same for parameters beyond what the unique data can feed."""

    def effective_tokens(self, D: Real, unique: Real) -> Real:
        """D': tokens of fresh data that D tokens with `unique` different ones are worth."""
        unique = np.minimum(unique, D)
        repeats = np.asarray(D, dtype=float) / unique - 1.0
        return _plain(unique * (1.0 + self.R_D * -np.expm1(-repeats / self.R_D)))

    def size_for_tokens(self, D: Real) -> Real:
        """The size for which D fresh tokens are compute-optimal: N = G (G D)^(beta/alpha)."""
        law = self.first_pass
        return law.G * np.power(law.G * np.asarray(D, dtype=float), law.beta / law.alpha)

    def effective_size(self, N: Real, unique: Real) -> Real:
        """N': parameters that N are worth when there are `unique` different tokens."""
        enough = np.minimum(N, self.size_for_tokens(unique))
        excess = np.asarray(N, dtype=float) / enough - 1.0
        return _plain(enough * (1.0 + self.R_N * -np.expm1(-excess / self.R_N)))

    def loss(self, N: Real, D: Real, unique: Real = None) -> Real:
        """Nats per token of N parameters trained on D tokens, `unique` of them different (all when None)."""
        if unique is None:
            return self.first_pass.loss(N, D)
        return self.first_pass.loss(self.effective_size(N, unique), self.effective_tokens(D, unique))

    def value_of_epochs(self, epochs: Real) -> Real:
        """Mean worth of a token after so many passes, relative to a fresh one; 1 at one epoch."""
        epochs = np.asarray(epochs, dtype=float)
        return _plain((1.0 + self.R_D * -np.expm1(-(epochs - 1.0) / self.R_D)) / epochs)

    def optimum(self, C: float, unique: float | None = None) -> Optimum:
        """The best size for C FLOPs when only `unique` different tokens exist (two-step grid in log N, to 1e-6)."""
        fresh = self.first_pass.optimum(C)
        if unique is None or fresh.D <= unique:
            return fresh
        center, width = np.log(fresh.N), np.log(1e4)
        for _ in range(6):
            grid = np.exp(np.linspace(center - width, center + width, 401))
            losses = self.loss(grid, C / (self.first_pass.k * grid), unique)
            center, width = np.log(grid[int(np.argmin(losses))]), width / 20
        N = float(np.exp(center))
        D = C / (self.first_pass.k * N)
        return Optimum(N, D, float(self.loss(N, D, unique)))


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value


MUENNIGHOFF = RepeatedDataLaw(
    ChinchillaLaw(
        E=float(np.exp(0.6254804)),
        A=float(np.exp(6.255414)),
        B=float(np.exp(7.3049974)),
        alpha=0.3526596,
        beta=0.3526596,
    ),
    R_D=15.387756,
    R_N=5.309743,
)
"""Coefficients of the released code."""
