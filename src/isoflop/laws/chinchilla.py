"""The Chinchilla form: loss falls as one power of parameters plus one power of tokens.

    L(N, D) = E + A / N^alpha + B / D^beta,      C = k N D  (k = 6 unless said)

(Hoffmann et al. 2022, arXiv 2203.15556, section 3.3 and appendix D.3.) Everything that follows from it in
closed form is here, and the two questions that need a root: how wide the basin around the optimum is, and
what a model of a given size must be trained on. The parameters may be floats or arrays of equal shape [B],
one entry per bootstrap draw; every method broadcasts over them.

Left out: how the parameters are found (`isoflop.fit.law.parametric`), data that repeat (`muennighoff`), tokens
served after training (`sardana`).

Letters: N parameters, D training tokens, C training FLOPs, L loss in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Real = Any
"""A float or an array of floats."""


class Optimum(NamedTuple):
    """The compute-optimal model: parameters, tokens, loss in nats per token."""

    N: Real
    D: Real
    loss: Real


class Basin(NamedTuple):
    """Smallest and largest size, in parameters, whose loss is within a tolerance of the optimum's."""

    N_lo: Real
    N_hi: Real


@dataclass(frozen=True)
class ChinchillaLaw:
    """L(N, D) = E + A/N^alpha + B/D^beta, with C = k N D.

    Each parameter is a positive float, or an array of shape [B] with one entry per draw (E may be 0).
    """

    E: Real
    """Irreducible loss, nats per token."""
    A: Real
    B: Real
    alpha: Real
    beta: Real
    k: float = 6.0
    """Training FLOPs per parameter and token."""

    def loss(self, N: Real, D: Real) -> Real:
        """Loss of N parameters trained on D tokens, nats per token."""
        return self.E + self.A * np.power(N, -self.alpha) + self.B * np.power(D, -self.beta)

    def loss_at(self, N: Real, C: Real) -> Real:
        """Loss of N parameters trained with C FLOPs, so on D = C / (k N) tokens."""
        return self.loss(N, C / (self.k * np.asarray(N, dtype=float)))

    @property
    def a(self) -> Real:
        """Exponent of the optimal size: N* is proportional to C^a, a = beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> Real:
        """Exponent of the optimal data: D* is proportional to C^b, b = alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def G(self) -> Real:
        """N* = G (C/k)^a with G = (alpha A / (beta B))^(1/(alpha+beta)) (Hoffmann 2022, equation 4)."""
        log_ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        return np.exp(log_ratio / (self.alpha + self.beta))

    def optimum(self, C: Real) -> Optimum:
        """The size, tokens and loss that C training FLOPs buy at best (Hoffmann 2022, equation 4)."""
        units = np.asarray(C, dtype=float) / self.k
        N = self.G * np.power(units, self.a)
        D = np.power(units, self.b) / self.G
        return Optimum(*(_plain(value) for value in (N, D, self.loss(N, D))))

    def basin(self, C: Real, eps: Real) -> Basin:
        """Sizes whose loss at C FLOPs is at most (1 + eps) times the optimal loss.

        Args:
            C: training FLOPs, > 0.
            eps: relative tolerance on the loss, > 0 (0.01 is one per cent).

        Along C the reducible loss is a sum of two exponentials in log N, hence convex: Newton's method
        started outside the basin, where one of the two terms alone uses up the tolerance, walks to the
        edge without overshooting it.
        """
        if np.any(np.asarray(eps) <= 0):
            raise ValueError(
                f"eps is {eps}: the tolerance on the loss must be > 0, e.g. 0.01 for one per cent"
            )
        best = self.optimum(C)
        reducible = (1.0 + eps) * best.loss - self.E
        return self._sizes_reaching(C, reducible)

    def _sizes_reaching(self, C: Real, reducible: Real) -> Basin:
        log_size_term = np.log(self.A) - np.log(reducible)
        log_data_term = np.log(self.B) - self.beta * np.log(np.asarray(C) / self.k) - np.log(reducible)

        def excess(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            size, data = np.exp(log_size_term - self.alpha * x), np.exp(log_data_term + self.beta * x)
            return size + data - 1.0, self.beta * data - self.alpha * size

        edges = (log_size_term / self.alpha, -log_data_term / self.beta)
        return Basin(*(_plain(np.exp(_newton_from_outside(excess, np.asarray(edge)))) for edge in edges))

    def basin_factor(self, C: Real, eps: Real) -> Real:
        """Half-width of the basin as a factor: sqrt(N_hi / N_lo)."""
        edges = self.basin(C, eps)
        return _plain(np.sqrt(np.asarray(edges.N_hi) / np.asarray(edges.N_lo)))

    def equivalent_compute(self, loss: Real) -> Real:
        """Compute, in FLOPs, at which the optimal model reaches this loss; infinite at or below E."""
        per_unit = self.A * (1.0 + self.alpha / self.beta) * np.power(self.G, -self.alpha)
        reducible = np.asarray(loss, dtype=float) - self.E
        with np.errstate(divide="ignore", invalid="ignore"):
            units = np.power(per_unit / reducible, (self.alpha + self.beta) / (self.alpha * self.beta))
        return _plain(np.where(reducible > 0, self.k * units, np.inf))

    def tokens_for_loss(self, N: Real, loss: Real) -> Real:
        """Tokens on which N parameters reach this loss; infinite when N is too small to reach it."""
        left = np.asarray(loss, dtype=float) - self.E - self.A * np.power(N, -self.alpha)
        with np.errstate(divide="ignore", invalid="ignore"):
            tokens = np.power(self.B / left, 1.0 / self.beta)
        return _plain(np.where(left > 0, tokens, np.inf))

    def smallest_size_for_loss(self, loss: Real) -> Real:
        """Size below which no amount of data reaches this loss; infinite at or below E."""
        reducible = np.asarray(loss, dtype=float) - self.E
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.power(self.A / reducible, 1.0 / self.alpha)
        return _plain(np.where(reducible > 0, size, np.inf))


def _newton_from_outside(
    function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], x: np.ndarray
) -> np.ndarray:
    """Root of a convex function from a start where it is positive: monotone, so no safeguard is needed."""
    for _ in range(100):
        value, slope = function(x)
        step = value / slope
        x = x - step
        if np.all(np.abs(step) <= 1e-13 * np.maximum(1.0, np.abs(x))):
            break
    return x


def _plain(value: Real) -> Real:
    """A float for a scalar, the array otherwise, so that results print and encode."""
    return float(value) if np.ndim(value) == 0 else value


HOFFMANN_ROUNDED = ChinchillaLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, as printed in equation 10."""

HOFFMANN = ChinchillaLaw(
    E=float(np.exp(0.5267228)),
    A=float(np.exp(6.0073404)),
    B=float(np.exp(6.0179186)),
    alpha=0.33917084,
    beta=0.2849083,
)
"""Hoffmann et al. 2022, approach 3, unrounded: from its TeX source, as Besiroglu et al. 2024 use it."""

BESIROGLU = ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Besiroglu, Erdil, Barnett and You 2024 (arXiv 2404.10102), table 1: the refit of Hoffmann's points."""
