"""What a choice of model size costs, in loss and in compute, over all draws of a law at once.

A `Terrain` is the valley that a budget cuts out of a law: the loss over model size when the rest of the
budget goes into tokens. Tokens may repeat (Muennighoff et al. 2023), and tokens served after training may be
paid from the same budget (Sardana et al. 2024). Where the law alone has a closed form it is used; else the
roots are bracketed and bisected, because the two sides of every condition here are monotone in log N.

Left out: what a FLOP costs in time or money (`isoflop.plan.size`), and how the law was found.

Letters: N parameters, D training tokens, U unique tokens, T tokens served, C training FLOPs. Every function
broadcasts over a law whose parameters are arrays of shape [B], one entry per draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from isoflop.laws.chinchilla import Basin, ChinchillaLaw, Optimum
from isoflop.laws.muennighoff import MUENNIGHOFF
from isoflop.laws.sardana import SERVE_FLOPS
from isoflop.records import Estimate

Real = Any
"""A float or an array of floats."""

R_D = MUENNIGHOFF.R_D
"""Decay of the value of repeated tokens, in repetitions."""
R_N = MUENNIGHOFF.R_N
"""The same for parameters beyond those that the unique tokens can feed."""


def saturated(amount: Real, unique: Real, decay: float) -> Real:
    """What `amount` is worth when only `unique` of it is new: U + U R (1 - exp(-(amount/U - 1) / R)).

    Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6. Below `unique` nothing repeats, and the
    amount is worth itself.
    """
    repeats = np.maximum(np.asarray(amount, dtype=float) / unique - 1.0, 0.0)
    return np.minimum(amount, unique) + unique * decay * -np.expm1(-repeats / decay)


def unsaturated(worth: Real, unique: Real, decay: float) -> Real:
    """Inverse of `saturated`: how much is needed to be worth so much; infinite beyond U (1 + R)."""
    worth = np.asarray(worth, dtype=float)
    share = np.maximum(worth / unique - 1.0, 0.0) / decay
    with np.errstate(divide="ignore"):
        extra = -decay * unique * np.log1p(-np.minimum(share, 1.0))
    return np.minimum(worth, unique) + extra


def size_fed_by(law: ChinchillaLaw, tokens: Real) -> Real:
    """The size for which so many tokens are the compute-optimal amount: the law's path, read backwards."""
    return np.power(law.G, 1.0 + law.a / law.b) * np.power(tokens, law.a / law.b)


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """Loss over model size at one budget.

    Attributes:
        law: floats, or arrays [B] with one entry per draw.
        flops: the budget, in FLOPs counted as k N D + 2 N T; > 0. A float or an array [B].
        unique_tokens: tokens that exist; None when they never run out.
        serve_tokens: tokens served that the same budget pays for; 0 when it pays for training alone.
    """

    law: ChinchillaLaw
    flops: Real
    unique_tokens: float | None = None
    serve_tokens: float = 0.0

    def tokens(self, N: Real) -> Real:
        """Training tokens left for a model of N parameters; 0 where serving alone eats the budget."""
        trained = np.asarray(self.flops) / (self.law.k * np.asarray(N, dtype=float))
        return _plain(np.maximum(trained - SERVE_FLOPS / self.law.k * self.serve_tokens, 0.0))

    def epochs(self, N: Real) -> Real:
        """How often the unique tokens are seen; None when they never run out."""
        return None if self.unique_tokens is None else _plain(self.tokens(N) / self.unique_tokens)

    def loss(self, N: Real) -> Real:
        """Loss, nats per token, of N parameters trained with what the budget leaves."""
        return loss(self.law, N, self.tokens(N), self.unique_tokens, fed=self._fed)

    def optimum(self) -> Optimum:
        """The size with the lowest loss."""
        return self._best

    @cached_property
    def _best(self) -> Optimum:
        if self.serve_tokens == 0:
            best = self.law.optimum(self.flops)
            if self.unique_tokens is None or np.all(np.asarray(best.D) <= self.unique_tokens):
                return best  # nothing repeats at the optimum, and repetition never helps elsewhere
        x = self._valley()
        N = _plain(np.exp(x))
        return Optimum(N, self.tokens(N), self.loss(N))

    def basin(self, eps: float) -> Basin:
        """Smallest and largest size whose loss is at most (1 + eps) times the lowest.

        Raises ValueError for eps <= 0.
        """
        if self.serve_tokens == 0 and self.unique_tokens is None:
            return self.law.basin(self.flops, eps)
        if not eps > 0:
            raise ValueError(f"eps is {eps}: the tolerance on the loss must be > 0, e.g. 0.01")
        best = self.optimum()
        target = (1.0 + eps) * np.asarray(best.loss)
        x, top = np.log(best.N), self._top()

        def above(at: np.ndarray) -> np.ndarray:
            return np.asarray(self.loss(np.exp(at))) - target

        low = bisect(lambda at: -above(at), x - 40.0, x)
        high = bisect(above, x, np.minimum(x + 40.0, top))
        return Basin(_plain(np.exp(low)), _plain(np.exp(high)))

    @cached_property
    def _fed(self) -> Real:
        """The size that the unique tokens can feed."""
        return None if self.unique_tokens is None else size_fed_by(self.law, self.unique_tokens)

    def _top(self) -> Real:
        """log N at which serving alone eats the budget."""
        if self.serve_tokens == 0:
            return np.inf
        return np.log(self.flops / (SERVE_FLOPS * self.serve_tokens))

    def _valley(self) -> np.ndarray:
        """log N of the optimum: where the size term falls as fast as the data term rises."""

        start = np.log(self.law.optimum(self.flops).N)
        top = self._top()
        return bisect(self._tilt, np.minimum(start, top) - 40.0, np.minimum(start + 40.0, top))

    def _tilt(self, x: np.ndarray) -> np.ndarray:
        """Log of how fast the data term rises over how fast the size term falls, at log N = x.

        In logs throughout: far from the optimum both are smaller than the smallest float.
        """
        law, N = self.law, np.exp(x)
        trained = np.asarray(self.flops) / (law.k * N)
        D = np.maximum(trained - SERVE_FLOPS / law.k * self.serve_tokens, 1e-300)
        N_worth, D_worth, log_N_gain, log_D_gain = N, D, 0.0, 0.0
        if self.unique_tokens is not None:
            fed = self._fed
            N_worth = saturated(N, fed, R_N)
            D_worth = saturated(D, self.unique_tokens, R_D)
            log_N_gain = np.log(N / N_worth) - np.maximum(N / fed - 1.0, 0.0) / R_N
            log_D_gain = np.log(D / D_worth) - np.maximum(D / self.unique_tokens - 1.0, 0.0) / R_D
        falls = np.log(law.alpha * law.A) - law.alpha * np.log(N_worth) + log_N_gain
        rises = np.log(law.beta * law.B) - law.beta * np.log(D_worth) + log_D_gain + np.log(trained / D)
        return rises - falls


def loss(
    law: ChinchillaLaw, N: Real, D: Real, unique_tokens: float | None = None, *, fed: Real = None
) -> Real:
    """Loss of N parameters trained on D tokens of which `unique_tokens` are different, nats per token.

    Without repetition it is the law's own. With it, both terms saturate as in Muennighoff et al. 2023; their
    decay constants were fitted with their own law and are taken over for any other. Infinite at D = 0. `fed` is
    `size_fed_by(law, unique_tokens)` where it is known already.
    """
    if unique_tokens is not None:
        N = saturated(N, size_fed_by(law, unique_tokens) if fed is None else fed, R_N)
        D = saturated(D, unique_tokens, R_D)
    with np.errstate(divide="ignore"):
        return _plain(law.loss(N, np.asarray(D, dtype=float)))


def compute_kept(law: ChinchillaLaw, best_loss: Real, loss: Real) -> Real:
    """Share of the compute that a worse loss is worth: C_eq(loss) / C_eq(best_loss), in (0, 1].

    C_eq is the budget at which an optimal model with fresh data reaches a loss. One minus this share is the
    deadweight: compute that was paid and bought nothing.
    """
    gamma = law.alpha * law.beta / (law.alpha + law.beta)
    ratio = (np.asarray(loss) - law.E) / (np.asarray(best_loss) - law.E)
    return _plain(np.power(ratio, -1.0 / gamma))


def over_draws(value: float, draws: np.ndarray | None, unit: str, why_none: str = "") -> Estimate:
    """A quantity of the law with the 2.5 and 97.5 % quantiles of its values over the draws.

    Args:
        value: under the point estimate.
        draws: under each draw, [B]; None when the law has none.
        unit: in words.
        why_none: the sentence why there are no draws.
    """
    if draws is None:
        return Estimate(
            value=float(value), unit=unit, reason=why_none or "the law was published without draws"
        )
    low, high = np.quantile(np.asarray(draws), (0.025, 0.975))
    method = f"{np.size(draws):,} bootstrap draws of the law"
    return Estimate(value=float(value), unit=unit, lo=float(low), hi=float(high), method=method)


class SafeSize(NamedTuple):
    """The smallest size within a tolerance at a stated confidence, or the best that can be had."""

    N: float | None
    """None when no size reaches the confidence."""
    probability: float
    """Share of the draws in which that size is within the tolerance; the highest of any size if N is None."""
    surest_N: float
    """The size with the highest such share."""


def smallest_safe_size(basin: Basin, confidence: float) -> SafeSize:
    """The smallest size that lies in the basin of at least a share `confidence` of the draws.

    Args:
        basin: edges of the basin per draw, arrays [B].
        confidence: in (0, 1).

    Walking up in size, the share rises by 1/B at each lower edge and falls by 1/B after each upper edge, so
    the first crossing is found exactly, without a grid.
    """
    lows, highs = np.sort(np.atleast_1d(basin.N_lo)), np.sort(np.atleast_1d(basin.N_hi))
    entered = np.arange(1, lows.size + 1)
    inside = entered - np.searchsorted(highs, lows, side="left")
    share = inside / lows.size
    enough = np.flatnonzero(share >= confidence)
    surest = int(np.argmax(share))
    if enough.size:
        first = int(enough[0])
        return SafeSize(float(lows[first]), float(share[first]), float(lows[surest]))
    return SafeSize(None, float(share[surest]), float(lows[surest]))


def share_within(basin: Basin, N: float) -> float:
    """Share of the draws in whose basin a size lies, in [0, 1]."""
    inside = (np.atleast_1d(basin.N_lo) <= N) & (np.atleast_1d(basin.N_hi) >= N)
    return float(np.mean(inside))


class Lifetime(NamedTuple):
    """A model sized for training and serving together."""

    N: Real
    D: Real
    loss: Real
    total_flops: Real
    """k N D + 2 N T."""


def lifetime_flops(law: ChinchillaLaw, N: Real, D: Real, serve_tokens: float) -> Real:
    """FLOPs of training and of serving: k N D + 2 N T."""
    return _plain(np.asarray(N) * (law.k * np.asarray(D) + SERVE_FLOPS * serve_tokens))


def cheapest_for_loss(
    law: ChinchillaLaw, loss: Real, serve_tokens: float, unique_tokens: float | None = None
) -> Lifetime:
    """The size that reaches a loss at the lowest cost of training and serving.

    Minimise k N D + 2 N T subject to L(N, D) = loss (Sardana et al. 2024, arXiv 2401.00448, equation 3).
    With y the data term's share of the reducible loss, the condition for the minimum is

        k D (e - 1) = 2 T,    e = -d log D / d log N along the contour,

    whose left side falls as y grows; e is 1 where training alone is cheapest. Infinite where the loss is at
    or below E, or out of reach of the unique tokens.
    """
    reducible = np.asarray(loss, dtype=float) - law.E

    def contour(log_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y = np.exp(log_y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            N_worth = np.power(law.A / (reducible * (1.0 - y)), 1.0 / law.alpha)
            D_worth = np.power(law.B / (reducible * y), 1.0 / law.beta)
            N, D, gain = N_worth, D_worth, np.ones_like(N_worth)
            if unique_tokens is not None:
                fed = size_fed_by(law, unique_tokens)
                N, D = unsaturated(N_worth, fed, R_N), unsaturated(D_worth, unique_tokens, R_D)
                N_gain = N * np.exp(-np.maximum(N / fed - 1.0, 0.0) / R_N) / N_worth
                D_gain = D * np.exp(-np.maximum(D / unique_tokens - 1.0, 0.0) / R_D) / D_worth
                gain = np.where(np.isfinite(N), N_gain / D_gain, 0.0)
                gain = np.where(np.isfinite(D), gain, np.inf)
        return N, D, law.alpha * (1.0 - y) * gain / (law.beta * y)

    def dearer(log_y: np.ndarray) -> np.ndarray:
        _, D, elasticity = contour(log_y)
        with np.errstate(invalid="ignore", over="ignore"):
            bought = law.k * D * (elasticity - 1.0)
        return SERVE_FLOPS * serve_tokens - np.where(np.isfinite(D), bought, np.inf)

    low = np.broadcast_to(-80.0, np.shape(reducible + law.alpha)).astype(float)
    N, D, _ = contour(bisect(dearer, low, np.zeros_like(low) - 1e-12))
    reachable = (reducible > 0) & np.isfinite(D) & np.isfinite(N)
    N, D = np.where(reachable, N, np.inf), np.where(reachable, D, np.inf)
    return Lifetime(_plain(N), _plain(D), _plain(loss), lifetime_flops(law, N, D, serve_tokens))


def best_for_total(
    law: ChinchillaLaw, total_flops: Real, serve_tokens: float, unique_tokens: float | None = None
) -> Lifetime:
    """The size with the lowest loss when k N D + 2 N T is fixed."""
    terrain = Terrain(law=law, flops=total_flops, unique_tokens=unique_tokens, serve_tokens=serve_tokens)
    best = terrain.optimum()
    return Lifetime(best.N, best.D, best.loss, _plain(np.asarray(total_flops)))


def bisect(function: Callable[[np.ndarray], np.ndarray], low: Real, high: Real) -> np.ndarray:
    """Root of a function that is below 0 on the left and above on the right, for each draw at once.

    Halves the bracket until it is 1e-12 wide, at most 64 times. A bracket without a change of
    sign ends at the side on which the root would lie.
    """
    low, high = np.broadcast_arrays(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
    for _ in range(64):
        middle = 0.5 * (low + high)
        right = function(middle) > 0
        low, high = np.where(right, low, middle), np.where(right, middle, high)
        if np.all(high - low <= 1e-12):
            break
    return 0.5 * (low + high)


def _plain(value: Real) -> Real:
    return float(value) if np.ndim(value) == 0 else np.asarray(value)
