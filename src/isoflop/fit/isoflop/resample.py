"""What is usually done to put intervals on an isoFLOP fit: here to be compared with, not relied on.

Two methods, both with a parabola through all points of a budget:

* *equal-weight parabola*: least squares, residual variance of that budget alone, delta method, 1.96
  standard errors; the power law by ordinary least squares through the minima.
* *percentile bootstrap of seeds*: whole trunks (all budgets of one seed of one size) are drawn with
  replacement within their size, everything is fitted again, and the 2.5 and 97.5 percentiles are the
  interval. With r seeds the resampled variance is (r - 1)/r of the real one, and three values cannot
  show their own tails: the interval is too short whatever the number of resamples (Efron and Tibshirani
  1993, section 13.7 on small samples).

tests/prove/coverage_isoflop.py measures how often each holds the truth, beside `isoflop.fit.isoflop.sweep`.
Shapes as there: S fits, K budgets. Undefined is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.isoflop import bowl
from isoflop.fit.isoflop.batch import Design

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ends:
    """Estimate and interval of one quantity, [S, K] or [S]; sizes in ln N."""

    value: Array
    lo: Array
    hi: Array


@dataclass(frozen=True)
class UsualIntervals:
    """The same quantities as `isoflop.fit.isoflop.sweep` reports."""

    n_opt: Ends
    basin_lo: Ends
    basin_hi: Ends
    half_width: Ends
    exponent: Ends
    predicted: Ends
    """ln N_opt at the budget asked for."""


def equal_weight_parabola(
    design: Design, loss: Array, *, eps: float, level: float, log_budget: float
) -> UsualIntervals:
    """Parabola per budget, delta method with normal quantiles; power law by ordinary least squares.

    Args:
        loss: [S, n] nats/token.
        eps: rise that delimits the basin.
        level: confidence level.
        log_budget: ln C at which N_opt is predicted.
    """
    from scipy.special import ndtri, stdtrit

    centre, hats, grams = _parabola_maps(design, None)
    num_fits, num_budgets = len(loss), design.num_budgets
    coefficients = np.zeros((num_fits, num_budgets, bowl.NUM_PARAMETERS))
    covariance = np.zeros((*coefficients.shape, bowl.NUM_PARAMETERS))
    for k in range(num_budgets):
        here = design.budget_index == k
        own = loss[:, here] @ hats[k].T
        coefficients[:, k, :3] = own
        t = design.log_size[here] - centre[k]
        residual = loss[:, here] - own @ np.stack([t**0, t, t * t])
        variance = (residual**2).sum(1) / max(int(here.sum()) - 3, 1)
        covariance[:, k, :3, :3] = variance[:, None, None] * grams[k]
    critical = float(ndtri((1 + level) / 2))
    found = [_delta(q, coefficients, covariance, critical) for q in _quantities(eps)]
    n_opt, basin_lo, basin_hi = (_shift(e, centre) for e in found[:3])
    x = design.log_budgets - design.log_budgets.mean()
    at = log_budget - design.log_budgets.mean()
    slope = n_opt.value @ x / (x @ x)
    level_at = n_opt.value.mean(1)
    residual = n_opt.value - level_at[:, None] - slope[:, None] * x
    spare = num_budgets - 2
    scatter = np.sqrt((residual**2).sum(1) / spare) if spare > 0 else np.full(num_fits, np.nan)
    reach = float(stdtrit(max(spare, 1), (1 + level) / 2)) * scatter
    se_slope, se_at = 1 / np.sqrt(x @ x), np.sqrt(1 / num_budgets + at * at / (x @ x))
    predicted = level_at + slope * at
    return UsualIntervals(
        n_opt,
        basin_lo,
        basin_hi,
        found[3],
        Ends(slope, slope - reach * se_slope, slope + reach * se_slope),
        Ends(predicted, predicted - reach * se_at, predicted + reach * se_at),
    )


def percentile_bootstrap(
    design: Design,
    loss: Array,
    *,
    eps: float,
    level: float,
    log_budget: float,
    generator: np.random.Generator,
    num_resamples: int = 200,
) -> UsualIntervals:
    """Percentile bootstrap of whole trunks within their size, parabola per budget.

    All S fits share the resampling plans: each plan is one matrix product, and S is large only where
    coverage over fits is averaged.
    """
    plans = _trunk_counts(design, generator, num_resamples)
    centre, hats, _ = _parabola_maps(design, None)
    x = design.log_budgets - design.log_budgets.mean()
    at = log_budget - design.log_budgets.mean()
    draws = [np.empty((num_resamples, len(loss), design.num_budgets)) for _ in range(4)]
    for i, counts in enumerate(plans):
        coefficients = _weighted_parabolas(design, loss, counts, centre)
        for out, quantity in zip(draws, _quantities(eps), strict=True):
            out[i] = quantity(coefficients)[0]
    base = np.zeros((len(loss), design.num_budgets, bowl.NUM_PARAMETERS))
    for k in range(design.num_budgets):
        base[:, k, :3] = loss[:, design.budget_index == k] @ hats[k].T
    values = [quantity(base)[0] for quantity in _quantities(eps)]
    found = [_percentiles(v, d, level) for v, d in zip(values, draws, strict=True)]
    paths = draws[0] + centre
    slopes, levels = paths @ x / (x @ x), paths.mean(2)
    own = values[0] + centre
    own_slope = own @ x / (x @ x)
    n_opt, basin_lo, basin_hi = (_shift(e, centre) for e in found[:3])
    return UsualIntervals(
        n_opt,
        basin_lo,
        basin_hi,
        found[3],
        _percentiles(own_slope, slopes, level),
        _percentiles(own.mean(1) + own_slope * at, levels + slopes * at, level),
    )


def _quantities(eps: float) -> tuple[bowl.Quantity, ...]:
    parabola = bowl.Family(2, eps)
    return (
        bowl.quantity_t_opt(parabola),
        bowl.quantity_edge(parabola, -1),
        bowl.quantity_edge(parabola, 1),
        bowl.quantity_half_width(parabola),
    )


def _parabola_maps(design: Design, weights: Array | None) -> tuple[Array, list[Array], list[Array]]:
    """Centre of each budget [K], the maps losses -> coefficients [3, n_k], and the inverse Gram matrices."""
    centre = np.array([design.log_size[design.budget_index == k].mean() for k in range(design.num_budgets)])
    hats, grams = [], []
    for k in range(design.num_budgets):
        here = design.budget_index == k
        t = design.log_size[here] - centre[k]
        basis = np.stack([t**0, t, t * t], axis=1)
        weighted = basis if weights is None else basis * weights[here][:, None]
        gram = np.linalg.inv(weighted.T @ basis)
        hats.append(gram @ weighted.T)
        grams.append(gram)
    return centre, hats, grams


def _weighted_parabolas(design: Design, loss: Array, counts: Array, centre: Array) -> Array:
    _, hats, _ = _parabola_maps(design, counts)
    out = np.zeros((len(loss), design.num_budgets, bowl.NUM_PARAMETERS))
    for k in range(design.num_budgets):
        out[:, k, :3] = loss[:, design.budget_index == k] @ hats[k].T
    return out


def _trunk_counts(design: Design, generator: np.random.Generator, num_resamples: int) -> Array:
    """How often each point is drawn, [num_resamples, n]: trunks with replacement within their size."""
    trunk = design.same_trunk.argmax(1)
    counts = np.zeros((num_resamples, len(trunk)))
    for size in np.unique(design.log_size):
        members = np.unique(trunk[design.log_size == size])
        drawn = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), num_resamples)
        for column, member in enumerate(members):
            counts[:, trunk == member] = drawn[:, column][:, None]
    return counts


def _delta(quantity: bowl.Quantity, coefficients: Array, covariance: Array, critical: float) -> Ends:
    value, grad = quantity(coefficients)
    se = np.sqrt(np.einsum("...i,...ij,...j->...", grad, covariance, grad))
    return Ends(value, value - critical * se, value + critical * se)


def _percentiles(value: Array, draws: Array, level: float) -> Ends:
    """Percentiles over resamples; a resample without the quantity counts as unbounded, half on each side."""
    missing = np.isnan(draws)
    low, high = np.where(missing, -np.inf, draws), np.where(missing, np.inf, draws)
    order = np.sort(low, axis=0), np.sort(high, axis=0)
    at = round((1 - level) / 2 * (len(draws) - 1))
    lo, hi = order[0][at], order[1][len(draws) - 1 - at]
    undefined = np.isnan(value)
    return Ends(value, np.where(undefined, np.nan, lo), np.where(undefined, np.nan, hi))


def _shift(ends: Ends, by: Array) -> Ends:
    return Ends(ends.value + by, ends.lo + by, ends.hi + by)
