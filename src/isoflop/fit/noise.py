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

Left out: errors that every seed of a size shares (a learning rate mistuned for that size). They show up
as lack of fit, which is tested here and reported, not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from isoflop.fit.isoflop_batch import BatchFit

Array = NDArray[np.float64]

MAX_TRUNK_CORRELATION = 0.95
"""Estimates above are cut to this: at 1 a second budget would add nothing, which no estimate can show."""


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
    window_sd: float | None
    """Standard error that sampling the windows gives to the *level* of the loss, nats/token."""
    window_groups: int
    """Number of groups of validation windows; 0 when none were given."""
    note: str = ""


@dataclass(frozen=True)
class NoiseBatch:
    """Noise of many fits at once; arrays [S]."""

    variance: Array
    """s^2 of one run; NaN without degrees of freedom."""
    correlation: Array
    """rho in [0, MAX_TRUNK_CORRELATION]; 0 when no trunk has two branches."""
    df: Array


def estimate_noise(residuals: Array, maker: Array, same_trunk: Array) -> NoiseBatch:
    """Variance, trunk correlation and effective degrees of freedom from residuals.

    Let e = M y with y's covariance s^2 [(1 - rho) I + rho T], T_ij = 1 for branches of one trunk. Two
    quadratic forms, e'e and the sum of e_i e_j over branch pairs, have expectations that are linear in
    (s^2 (1 - rho), s^2 rho); the 2 x 2 system is solved for them (Henderson's method, Searle, Casella and
    McCulloch 1992, ch. 5). The effective degrees of freedom of s^2 are 2 E^2 / Var of its own quadratic
    form under normal noise with the estimated rho (Satterthwaite 1946).

    Args:
        residuals: [S, n].
        maker: [S, n, n], the residual maker M (symmetric); rows and columns of left-out points are zero.
        same_trunk: [n, n] of 0/1, ones on the diagonal.
    """
    pairs = same_trunk - np.eye(len(same_trunk))
    trace = np.einsum("sii->s", maker)
    sum_squares = np.einsum("si,si->s", residuals, residuals)
    with np.errstate(invalid="ignore", divide="ignore"):
        if not pairs.any():
            variance = np.where(trace > 0.5, sum_squares / trace, np.nan)
            return NoiseBatch(variance, np.zeros_like(trace), np.where(trace > 0.5, trace, 0.0))
        sum_pairs = np.einsum("si,ij,sj->s", residuals, pairs, residuals)
        maker_pairs = maker @ pairs
        trace_pairs = np.einsum("sii->s", maker_pairs)
        trace_pairs2 = np.einsum("sij,sji->s", maker_pairs, maker_pairs)
        # e'e: (ve + vu) tr M + vu tr(M P); e'Pe: (ve + vu) tr(M P) + vu tr(M P M P)
        det = trace * trace_pairs2 - trace_pairs**2
        total = (sum_squares * trace_pairs2 - sum_pairs * trace_pairs) / det
        shared = (trace * sum_pairs - trace_pairs * sum_squares) / det
        solvable = (det > 1e-9 * np.maximum(trace, 1.0) ** 2) & (total > 0)
        rho = np.where(solvable, np.clip(shared / total, 0.0, MAX_TRUNK_CORRELATION), 0.0)
        # With rho fixed, s^2 from e'e alone: always positive, and the more stable of the two.
        expectation = trace + rho * trace_pairs
        variance = np.where(trace > 0.5, sum_squares / expectation, np.nan)
        maker2 = trace + 2 * rho * trace_pairs + rho**2 * trace_pairs2  # tr((M Sigma)^2) / s^4, M^2 = M
        df = np.where(trace > 0.5, expectation**2 / maker2, 0.0)
    return NoiseBatch(variance, rho, df)


def describe_noise(fit: BatchFit) -> NoiseModel:
    """The noise of one fit (S = 1) in numbers and words."""
    design, included = fit.design, fit.included[0]
    residuals = fit.residuals[0][included]
    cells = design.cell_index[included]
    trunks_repeat = bool((design.same_trunk[included][:, included].sum() - included.sum()) > 0)
    counts = np.bincount(cells)
    used = counts[counts > 0]
    means = np.bincount(cells, weights=residuals)[cells] / counts[cells]
    within = float(((residuals - means) ** 2).sum())
    replicate_df = int((used - 1).sum())
    between = float((means**2).sum())
    num_parameters = design.num_budgets * 3 + (1 if fit.rules.degree == 3 else 0)
    between_df = len(used) - num_parameters
    p_value = None
    if replicate_df > 0 and between_df > 0 and within > 0:
        from scipy.special import fdtrc

        p_value = float(fdtrc(between_df, replicate_df, (between / between_df) / (within / replicate_df)))
    variance, df = float(fit.noise.variance[0]), float(fit.noise.df[0])
    known = bool(np.isfinite(variance)) and df > 0
    return NoiseModel(
        run_sd=float(np.sqrt(variance)) if known else None,
        df=df if known else None,
        trunk_correlation=float(fit.noise.correlation[0]) if known and trunks_repeat else None,
        replicate_sd=float(np.sqrt(within / replicate_df)) if replicate_df > 0 else None,
        replicate_df=replicate_df,
        lack_of_fit_p=p_value,
        window_sd=_window_sd(fit),
        window_groups=fit.num_groups,
        note="" if known else "no degrees of freedom are left to estimate the noise: add seeds or sizes",
    )


def _window_sd(fit: BatchFit) -> float | None:
    """Standard error of the level c0 from sampling windows, root mean square over budgets."""
    if fit.window_covariance is None:
        return None
    levels = np.diagonal(fit.window_covariance[0])[:: fit.coefficients.shape[-1]]
    return float(np.sqrt(max(float(levels.mean()), 0.0)))
