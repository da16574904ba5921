"""Does the path of the best size bend? A straight line and a parabola through log N* over log C, with errors.

Each best size comes with its own standard error; what they scatter beyond that is a variance of its own, found by
the method of Paule and Mandel (1982). Intervals are Student's with the adjustment of Knapp and Hartung (2003), so
that few budgets give wide ones. The bend is told as the change of the exponent per decade of compute.

Left out: where the best sizes come from (`isoflop.fit.isoflop.sweep`), and the drift that an estimator of them makes by
itself, which only a simulation can tell.

Legend: K budgets, p coefficients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isoflop.records import Estimate

Array = np.ndarray
MIN_BUDGETS = 5
"""A parabola leaves two degrees of freedom."""
LN10 = math.log(10.0)


@dataclass(frozen=True, kw_only=True)
class PathBend:
    """A path of best sizes, straight and bent."""

    num_budgets: int
    exponent: Estimate
    """Of the straight path, N* ~ C^a."""
    drift: Estimate
    """Change of the exponent per decade of compute in the bent path, 0 for a power law."""
    p: float
    """Two-sided, of no bend."""
    scatter: float
    """Standard deviation of log N* about the bent path beyond its own errors."""
    aicc_gain: float
    """AICc of the straight path less that of the bent one; above 0 the bend pays for its parameter."""
    further: Estimate
    """Best size by the bent path over that by the straight one, `decades_on` decades above the largest budget."""
    decades_on: float


def path_bend(
    log_C: Array, log_N: Array, se: Array, *, decades_on: float = 2.0, level: float = 0.95
) -> PathBend:
    """Fit both paths.

    Args:
        log_C: natural log of the budgets in FLOPs, [K].
        log_N: natural log of the best sizes, [K].
        se: their standard errors, [K], > 0.
        decades_on: how far beyond the largest budget the two are compared.
        level: of the intervals, in (0, 1).

    Raises ValueError for fewer than five budgets, or numbers that are not finite.
    """
    from scipy import stats

    x, y, error = (np.asarray(values, dtype=float) for values in (log_C, log_N, se))
    if not (x.shape == y.shape == error.shape) or x.ndim != 1 or len(np.unique(x)) < MIN_BUDGETS:
        raise ValueError(
            f"a bend needs best sizes at {MIN_BUDGETS} budgets or more, one error each; got {len(np.unique(x))}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(error).all() and (error > 0).all()):
        raise ValueError(
            "best sizes and their errors must be finite, errors above zero; leave the others out"
        )
    decades = (x - x.mean()) / LN10
    straight, bent = (_fit(decades, y, error, powers) for powers in (1, 2))
    q = {fit.df: float(stats.t.ppf(0.5 + level / 2, fit.df)) for fit in (straight, bent)}
    method = "weighted least squares, Knapp-Hartung"
    sd = math.sqrt(bent.covariance[2, 2])
    at = decades.max() + decades_on
    ahead = np.array([1.0, at, at**2])
    gap = float(ahead @ bent.coefficients - ahead[:2] @ straight.coefficients)
    # The bent path's value given the straight one differs by its last coefficient alone, times the part of
    # the square that constants and slopes do not explain at that place.
    beyond = float(ahead[2] - ahead[:2] @ _explained(decades, 1 / (error**2 + bent.variance)))
    reach = q[bent.df] * sd * abs(beyond)
    return PathBend(
        num_budgets=len(x),
        exponent=_estimate(
            straight.coefficients[1] / LN10,
            q[straight.df] * math.sqrt(straight.covariance[1, 1]) / LN10,
            "exponent", f"{method}, {straight.df} df", level,
        ),
        drift=_estimate(
            2 * bent.coefficients[2] / LN10, q[bent.df] * 2 * sd / LN10,
            "exponent per decade", f"{method}, {bent.df} df", level,
        ),
        p=float(2 * stats.t.sf(abs(bent.coefficients[2]) / sd, bent.df)),
        scatter=math.sqrt(bent.variance),
        aicc_gain=straight.aicc - bent.aicc,
        further=Estimate(
            value=math.exp(gap), unit="factor", lo=math.exp(gap - reach), hi=math.exp(gap + reach), level=level,
            method=f"{method}, {bent.df} df",
        ),
        decades_on=decades_on,
    )  # fmt: skip


@dataclass(frozen=True)
class _Path:
    coefficients: Array
    covariance: Array
    variance: float
    """Of the scatter beyond the errors."""
    df: int
    aicc: float


def _fit(x: Array, y: Array, se: Array, degree: int) -> _Path:
    """Weighted polynomial of that degree; the scatter solves chi^2 = df (Paule and Mandel 1982)."""
    from scipy import optimize

    design = np.vander(x, degree + 1, increasing=True)
    df = len(x) - degree - 1

    def solve(variance: float) -> tuple[Array, Array, float]:
        weight = 1.0 / (se**2 + variance)
        normal = np.linalg.inv(design.T @ (weight[:, None] * design))
        coefficients = normal @ (design.T @ (weight * y))
        return coefficients, normal, float(weight @ (y - design @ coefficients) ** 2)

    variance, top = 0.0, 4 * float(np.var(y)) + float(np.max(se) ** 2)
    if solve(0.0)[2] > df:
        variance = float(optimize.brentq(lambda v: solve(v)[2] - df, 0.0, top))
    coefficients, normal, chi2 = solve(variance)
    spread = se**2 + variance
    residuals = y - design @ coefficients
    log_likelihood = -0.5 * float(np.sum(np.log(2 * np.pi * spread) + residuals**2 / spread))
    k = degree + 2
    aicc = -2 * log_likelihood + 2 * k + 2 * k * (k + 1) / max(len(x) - k - 1, 0.5)
    return _Path(coefficients, normal * max(1.0, chi2 / df), variance, df, aicc)


def _explained(x: Array, weight: Array) -> Array:
    """Coefficients of x^2 on (1, x), weighted."""
    design = np.stack([np.ones_like(x), x], axis=1)
    found: Array = np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ (weight * x**2))
    return found


def _estimate(value: float, reach: float, unit: str, method: str, level: float) -> Estimate:
    return Estimate(
        value=float(value), unit=unit, lo=float(value - reach), hi=float(value + reach), level=level, method=method
    )  # fmt: skip
