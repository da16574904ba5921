"""How noisy the losses of a sweep are: one pooled model for all sizes and budgets.

Three sources, kept apart because they behave differently:

* *run noise* (seed of the weights and of the data order): variance s^2 in (nats/token)^2, pooled over all
  sizes and budgets, from the residuals about the fitted curves. Pooling is what makes few seeds
  enough: three seeds of one size tell next to nothing about their own standard deviation.
* *trunk correlation* rho: branches of one training run share their past, so their noise is correlated
  across budgets. Within a budget all points are different runs, so rho does not touch a single bowl; it
  matters for the exponent, and it lowers the degrees of freedom of s^2.
* *window sampling*: all runs are scored on the same validation windows, so a hard sample shifts all of
  them nearly alike. Only what does not cancel (how the *shape* of the bowl differs between windows)
  counts for the optimum.

Errors that every seed of a size shares (a learning rate mistuned for that size) show up as lack of fit: sizes
scatter about the curve more than seeds about their size. When they clearly do, the scatter of sizes is
taken for the noise, so that intervals count an error that no number of seeds would average away.

Left out: such errors with a trend in size. They look like another bowl, and no fit can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from isoflop.fit.isoflop.batch import BatchFit

Array = NDArray[np.float64]

MAX_TRUNK_CORRELATION = 0.95
"""Estimates above are cut to this: at 1 a second budget would add nothing, which no estimate can show."""

MIN_DF = 0.5
"""With less than half a degree of freedom (the prior on the skewness counts as part of one) there is no
estimate of the noise and no interval."""


@dataclass(frozen=True)
class NoiseModel:
    """What a fit assumed and measured about the noise."""

    run_sd: float | None
    """Standard deviation of a run's loss, nats/token; None when nothing is left to estimate it from."""
    df: float | None
    """Its effective degrees of freedom, lowered for correlated branches (Satterthwaite 1946)."""
    trunk_correlation: float | None
    """Correlation between branches of one trunk, in [0, 0.95]; None when no trunk has two branches."""
    replicate_sd: float | None
    """Standard deviation between seeds of one size at one budget, pooled; None without replicates."""
    replicate_df: int
    """Its degrees of freedom (not lowered for correlation)."""
    lack_of_fit_p: float | None
    """p-value of the scatter of cell means about the curves against the scatter between seeds; small: the
    curve does not describe the sizes. None when either has no degrees of freedom."""
    by_sizes: bool
    """Whether the noise was taken from the scatter of sizes about the curve, because of lack of fit."""
    window_sd: float | None
    """Standard error that sampling the windows gives to the *level* of the loss, nats/token."""
    window_groups: int
    """Number of groups of validation windows; 0 when none were given."""
    note: str = ""


@dataclass(frozen=True)
class NoiseBatch:
    """Noise of many fits at once; arrays [S]."""

    variance: Array
    """s^2 of one run, pooled; NaN without degrees of freedom."""
    correlation: Array
    """rho in [0, MAX_TRUNK_CORRELATION]; 0 when no trunk has two branches."""
    df: Array
    """Effective degrees of freedom of the pooled variance."""
    relative_sd: Array
    """[S, K] standard deviation at each budget over the pooled one, shrunk towards 1."""
    df_budget: Array
    """[S, K] degrees of freedom of each budget's variance, the shrinkage counted in."""
    replicate_variance: Array
    """Variance between seeds of one size, (nats/token)^2; NaN without replicates."""
    replicate_df: Array
    """Its degrees of freedom, not lowered for correlation."""
    lack_of_fit_p: Array
    """p-value of the sizes' scatter against the seeds'; NaN when either has no degrees of freedom."""
    by_sizes: NDArray[np.bool_]
    """Whether `variance` is that of the sizes' scatter."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a least-squares problem hang together; a prior's row belongs to no budget or cell."""

    same_trunk: Array
    """[n, n] of 0/1, ones on the diagonal."""
    of_budget: Array
    """[n, K] of 0/1."""
    of_cell: Array
    """[n, cells] of 0/1; a cell is one size at one budget."""
    included: Array
    """[S, n] of 0/1."""


def estimate_noise(
    residuals: Array, maker: Array, layout: Layout, *, pooling_df: float, lack_of_fit_level: float
) -> NoiseBatch:
    """Variance, trunk correlation and effective degrees of freedom from residuals.

    Let e = M y with y's covariance s^2 [(1 - rho) I + rho T], T_ij = 1 for branches of one trunk. Two
    quadratic forms, e'e and the sum of e_i e_j over branch pairs, have expectations that are linear in
    (s^2 (1 - rho), s^2 rho); the 2 x 2 system is solved for them (Henderson's method, Searle, Casella and
    McCulloch 1992, ch. 5). The effective degrees of freedom of s^2 are 2 E^2 / Var of its own quadratic
    form under normal noise with the estimated rho (Satterthwaite 1946).

    Args:
        residuals: [S, n].
        maker: [S, n, n], the residual maker M (symmetric); rows and columns of left-out points are zero.
        layout: budgets, cells and trunks of the rows.
        pooling_df: weight of the pooled variance in each budget's, see `Rules.noise_df`.
        lack_of_fit_level: see `Rules.lack_of_fit_level`.
    """
    same_trunk, member = layout.same_trunk, layout.of_budget
    pairs = same_trunk - np.eye(len(same_trunk))
    leverage_left = np.einsum("sii->si", maker)
    trace = leverage_left.sum(1)
    sum_squares = (residuals**2).sum(1)
    known = trace > MIN_DF
    rho = np.zeros_like(trace)
    expectation, spread = trace, trace
    with np.errstate(invalid="ignore", divide="ignore"):
        if pairs.any():
            sum_pairs = np.einsum("si,ij,sj->s", residuals, pairs, residuals, optimize=True)
            maker_pairs = maker @ pairs
            trace_pairs = np.einsum("sii->s", maker_pairs)
            trace_pairs2 = np.einsum("sij,sji->s", maker_pairs, maker_pairs)
            # With a = s^2, b = s^2 rho: E e'e = a tr M + b tr(M P); E e'Pe = a tr(M P) + b tr(M P M P).
            det = trace * trace_pairs2 - trace_pairs**2
            total = (sum_squares * trace_pairs2 - sum_pairs * trace_pairs) / det
            shared = (trace * sum_pairs - trace_pairs * sum_squares) / det
            solvable = (det > 1e-9 * np.maximum(trace, 1.0) ** 2) & (total > 0)
            rho = np.where(solvable, np.clip(shared / total, 0.0, MAX_TRUNK_CORRELATION), 0.0)
            # With rho fixed, s^2 from e'e alone: always positive, and the more stable of the two.
            expectation = trace + rho * trace_pairs
            spread = (
                trace + 2 * rho * trace_pairs + rho**2 * trace_pairs2
            )  # tr((M Sigma)^2) / s^4, as M^2 = M
        variance = np.where(known, sum_squares / expectation, np.nan)
        df = np.where(known, expectation**2 / spread, 0.0)
        own = (residuals**2) @ member / variance[:, None]
    df_own = leverage_left @ member
    fit_test = _lack_of_fit(residuals, trace, layout)
    by_sizes = fit_test.p_value < lack_of_fit_level
    variance = np.where(by_sizes, fit_test.between, variance)
    df = np.where(by_sizes, df * fit_test.between_df / np.maximum(trace, MIN_DF), df)
    if np.isinf(pooling_df):
        relative_sd, df_budget = np.ones_like(own), np.repeat(df[:, None], own.shape[1], axis=1)
    else:
        relative_sd = np.sqrt((pooling_df + own) / (pooling_df + df_own))
        df_budget = np.fmin(np.fmin(pooling_df, df[:, None]) + df_own, df[:, None])
    return NoiseBatch(
        variance=variance,
        correlation=rho,
        df=df,
        relative_sd=relative_sd,
        df_budget=df_budget,
        replicate_variance=fit_test.within,
        replicate_df=fit_test.within_df,
        lack_of_fit_p=fit_test.p_value,
        by_sizes=by_sizes,
    )


@dataclass(frozen=True)
class _FitTest:
    """Mean squares of sizes about the curve and of seeds about their size, arrays [S]."""

    between: Array
    between_df: Array
    within: Array
    within_df: Array
    p_value: Array


def _lack_of_fit(residuals: Array, trace: Array, layout: Layout) -> _FitTest:
    """F test for lack of fit with replicates (Draper and Smith 1998, section 2.1)."""
    from scipy.special import fdtrc

    counts = layout.included @ layout.of_cell
    sums = (residuals * layout.included) @ layout.of_cell
    with np.errstate(invalid="ignore", divide="ignore"):
        between_ss = np.where(counts > 0, sums**2 / counts, 0.0).sum(1)
        in_cells = (residuals * layout.included) ** 2 @ layout.of_cell
        within_ss = np.maximum(in_cells.sum(1) - between_ss, 0.0)
        within_df = np.maximum(counts - 1, 0).sum(1)
        between_df = trace - within_df
        within = np.where(within_df > 0, within_ss / within_df, np.nan)
        between = np.where(between_df > MIN_DF, between_ss / between_df, np.nan)
        possible = (within > 0) & (between_df > MIN_DF)
        ratio = np.where(possible, between / within, 0.0)
        p_value = fdtrc(np.maximum(between_df, MIN_DF), np.maximum(within_df, 1), ratio)
    return _FitTest(between, between_df, within, within_df, np.where(possible, p_value, np.nan))


def describe_noise(fit: BatchFit) -> NoiseModel:
    """The noise of one fit (S = 1) in numbers and words."""
    design, included = fit.design, fit.included[0]
    trunks_repeat = bool((design.same_trunk[included][:, included].sum() - included.sum()) > 0)
    replicate_df, p_value = int(fit.noise.replicate_df[0]), float(fit.noise.lack_of_fit_p[0])
    variance, df = float(fit.noise.variance[0]), float(fit.noise.df[0])
    known = bool(np.isfinite(variance)) and df > 0
    return NoiseModel(
        run_sd=float(np.sqrt(variance)) if known else None,
        df=df if known else None,
        trunk_correlation=float(fit.noise.correlation[0]) if known and trunks_repeat else None,
        replicate_sd=float(np.sqrt(fit.noise.replicate_variance[0])) if replicate_df > 0 else None,
        replicate_df=replicate_df,
        lack_of_fit_p=p_value if np.isfinite(p_value) else None,
        by_sizes=bool(fit.noise.by_sizes[0]),
        window_sd=_window_sd(fit),
        window_groups=fit.num_groups,
        note="" if known else "no degrees of freedom are left to estimate the noise: add seeds or sizes",
    )


def _window_sd(fit: BatchFit) -> float | None:
    """Standard error of the level c0 from sampling windows, root mean square over budgets."""
    if fit.window_covariance is None:
        return None
    levels = np.diagonal(fit.window_covariance[0])[:: fit.parameters.shape[-1]]
    return float(np.sqrt(max(float(levels.mean()), 0.0)))
