"""Is the difference between A and B real? Tests, intervals and smallest detectable differences.

Four kinds of evidence, from weak to strong: two scores with their number of items; two scores with their
standard errors; item-level results of both on the same items; several seeds of each. Every function
returns a `Difference` (B minus A) with an interval, a p value and the smallest true difference that the
same data would have found. Left out: reading files (`isoflop.judge.scores`), looking early
(`isoflop.fit.compare.sequential`), planning (`isoflop.fit.compare.power`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop.fit.compare import power as power_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """B minus A, with what is known about it. None means undefined; `reason` says why."""

    value: float
    """B minus A, in the unit of the scores."""
    lo: float | None
    hi: float | None
    level: float
    """Confidence level of [lo, hi]; a p value below 1 - level is called significant."""
    p: float | None
    """Two-sided p value of no difference."""
    statistic: float | None
    """z or t, as `method` says."""
    standard_error: float | None
    df: float | None
    """Degrees of freedom of the standard error; None for a normal or exact test."""
    minimum_detectable: float | None
    """Smallest true difference that a test at this level finds with probability `power`."""
    power: float
    num_a: int
    """Items, or seeds, behind A."""
    num_b: int
    method: str
    reason: str | None = None

    @property
    def significant(self) -> bool:
        """True when p is defined and below 1 - level."""
        return self.p is not None and self.p < 1 - self.level


@dataclass(frozen=True, kw_only=True)
class ItemDifference:
    """Comparison on the same items: the difference and what the items say beyond it."""

    difference: Difference
    bootstrap_lo: float | None
    bootstrap_hi: float | None
    """Percentile interval from resampling whole item families."""
    only_a: int | None
    """Items that only A has right; None when scores are not all 0 or 1."""
    only_b: int | None
    num_families: int
    """Number of independent units; equals the number of items when no families are given."""
    design_effect: float
    """Variance with families over variance with independent items; 1 without families."""


@dataclass(frozen=True, kw_only=True)
class ComputeEquivalent:
    """What a change of loss is worth: the factor on compute that would bring the same change."""

    factor: float | None
    lo: float | None
    hi: float | None
    reason: str | None = None
    """Why a number is missing, for example a loss that the law does not reach at any compute."""


# -------------------------------------------------------------------------- from scores alone


def compare_proportions(
    score_a: float, num_a: int, score_b: float, num_b: int, *, level: float = 0.95, power: float = 0.8
) -> Difference:
    """Two shares of right answers, each with its number of items, as if the items were different ones.

    Args:
        score_a, score_b: in [0, 1].
        num_a, num_b: number of items, >= 1.
        level: confidence level of the interval.
        power: for the smallest detectable difference.

    The test is the z test with pooled variance; the interval is the score interval of Mee (1984), which
    leaves out 0 exactly when that test rejects. On the same items this is too careful: see `compare_items`.

    Raises:
        ValueError: a score outside [0, 1] or fewer than one item.
    """
    for score, num in ((score_a, num_a), (score_b, num_b)):
        if not 0 <= score <= 1:
            raise ValueError(f"score {score} is not a share in [0, 1]; divide percentages by 100")
        if num < 1:
            raise ValueError(f"{num} items; a score needs at least one")
    _check_level(level)
    value = score_b - score_a
    z_critical = _z(level)
    pooled = (score_a * num_a + score_b * num_b) / (num_a + num_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / num_a + 1 / num_b))
    statistic = value / error if error > 0 else 0.0
    lo, hi = _mee_interval(score_a, num_a, score_b, num_b, z_critical)
    detectable = power_of.detectable_drift(power, 1 - level) * error if error > 0 else None
    return Difference(
        value=value,
        lo=lo,
        hi=hi,
        level=level,
        p=_two_sided_normal(statistic),
        statistic=statistic,
        standard_error=error,
        df=None,
        minimum_detectable=detectable,
        power=power,
        num_a=num_a,
        num_b=num_b,
        method="z test of two proportions, score interval; items of A and B taken as different ones",
        reason=None if error > 0 else "all answers are right, or all wrong: the noise cannot be estimated",
    )


def compare_estimates(
    value_a: float, error_a: float, value_b: float, error_b: float, *, level: float = 0.95, power: float = 0.8
) -> Difference:
    """Two means with their standard errors, taken as independent and Gaussian."""
    _check_level(level)
    if not (error_a >= 0 and error_b >= 0 and error_a + error_b > 0):
        raise ValueError(f"standard errors are {error_a} and {error_b}; they must be positive")
    error = math.hypot(error_a, error_b)
    value = value_b - value_a
    return Difference(
        value=value,
        lo=value - _z(level) * error,
        hi=value + _z(level) * error,
        level=level,
        p=_two_sided_normal(value / error),
        statistic=value / error,
        standard_error=error,
        df=None,
        minimum_detectable=power_of.detectable_difference(error, power=power, alpha=1 - level),
        power=power,
        num_a=1,
        num_b=1,
        method="z test from the two standard errors, taken as independent",
    )


def wilson_interval(num_right: float, num: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): all shares that the score test accepts.

    Raises ValueError when `num_right` is not between 0 and `num`, or `num` is 0.
    """
    if num < 1 or not 0 <= num_right <= num:
        raise ValueError(f"{num_right} of {num} is not a share; give a count and a total of at least 1")
    z = _z(level)
    centre = (num_right + z * z / 2) / (num + z * z)
    half = z / (num + z * z) * math.sqrt(num_right * (num - num_right) / num + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


# ------------------------------------------------------------------------------- from items


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided p value of McNemar's test (1947): among the items that only one of the two has
    right, each side is equally likely."""
    from scipy import stats

    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts are {only_a} and {only_b}; they cannot be negative")
    changed = only_a + only_b
    return float(min(1.0, 2 * stats.binom.cdf(min(only_a, only_b), changed, 0.5))) if changed else 1.0


def compare_items(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    families: Sequence[Hashable] | None = None,
    level: float = 0.95,
    power: float = 0.8,
    num_resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> ItemDifference:
    """Both scored on the same items, in the same order.

    Args:
        scores_a, scores_b: one number per item; 0 and 1 for right and wrong, or any real score.
        families: label of each item's family (the passage it asks about, the template it was made from).
            Items of one family are not independent, so families are the unit of everything below.
        level, power: as elsewhere.
        num_resamples: bootstrap resamples of whole families; 0 leaves the bootstrap out.
        rng: generator of the bootstrap; by default a fixed seed.

    Without families and with 0/1 scores: exact McNemar test and the score interval of Tango (1998).
    Otherwise: t test and interval on family sums with families - 1 degrees of freedom (the
    cluster-robust standard error; Liang and Zeger 1986 with the usual G/(G-1)).

    Raises:
        ValueError: unequal lengths, nothing to compare, a missing value, a missing family.
    """
    _check_level(level)
    a, b = _vector("scores_a", scores_a), _vector("scores_b", scores_b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} items in A and {len(b)} in B; compare on the same items")
    changes = b - a
    index, num_families = _family_index(families, len(a))
    sums = np.bincount(index, weights=changes, minlength=num_families).astype(float)
    sizes = np.bincount(index, minlength=num_families).astype(float)
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    only_a = int((changes < 0).sum()) if binary else None
    only_b = int((changes > 0).sum()) if binary else None
    effect = 1.0
    if num_families == len(a) and only_a is not None and only_b is not None:
        difference = _binary_pairs(only_a, only_b, len(a), level, power)
    else:
        difference = _family_t(sums, sizes, level, power)
        independent = float(np.var(changes)) / len(a)
        if difference.standard_error is not None and independent > 0 and num_families < len(a):
            effect = difference.standard_error**2 / independent
    lo, hi = _bootstrap_families(sums, sizes, level, num_resamples, rng or np.random.default_rng(0))
    return ItemDifference(
        difference=difference,
        bootstrap_lo=lo,
        bootstrap_hi=hi,
        only_a=only_a,
        only_b=only_b,
        num_families=num_families,
        design_effect=effect,
    )


def _binary_pairs(only_a: int, only_b: int, num: int, level: float, power: float) -> Difference:
    value = (only_b - only_a) / num
    changed = only_a + only_b
    error = math.sqrt(changed) / num  # standard error when nothing differs: every change is a coin toss
    lo, hi = _tango_interval(only_a, only_b, num, _z(level))
    return Difference(
        value=value,
        lo=lo,
        hi=hi,
        level=level,
        p=mcnemar_p(only_a, only_b),
        statistic=(only_b - only_a) / math.sqrt(changed) if changed else 0.0,
        standard_error=error,
        df=None,
        minimum_detectable=power_of.detectable_drift(power, 1 - level) * error if changed else None,
        power=power,
        num_a=num,
        num_b=num,
        method="exact McNemar test on the same items, score interval (Tango 1998)",
        reason=None if changed else "no item changed, so the smallest detectable difference is unknown",
    )


def _family_t(sums: Floats, sizes: Floats, level: float, power: float) -> Difference:
    num, num_families = float(sizes.sum()), len(sums)
    value = float(sums.sum() / num)
    paired = "paired by item" if num_families == int(num) else "clustered by item family"
    residuals = sums - value * sizes
    if num_families < 2 or not np.any(residuals):
        reason = "one family only" if num_families < 2 else "every item changed by the same amount"
        return _undefined(value, level, power, int(num), f"t test, {paired}", reason)
    error = math.sqrt(num_families / (num_families - 1) * float(residuals @ residuals)) / num
    return _t_difference(
        value, error, num_families - 1, level, power, int(num), int(num), f"t test, {paired}"
    )


def _bootstrap_families(
    sums: Floats, sizes: Floats, level: float, num_resamples: int, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    if num_resamples == 0 or len(sums) < 2:
        return None, None
    # Equal families are interchangeable, so draw how often each distinct one is picked: the same
    # distribution as picking families one by one, and quick for right-or-wrong scores.
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    values = np.empty(num_resamples)
    for start in range(0, num_resamples, 100):  # a hundred at a time keeps memory small
        picks = rng.multinomial(len(sums), counts / len(sums), size=min(100, num_resamples - start))
        totals = picks @ kinds
        values[start : start + len(picks)] = totals[:, 0] / totals[:, 1]
    lo, hi = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


# ------------------------------------------------------------------------------- from seeds


def compare_seeds(
    scores_a: ArrayLike, scores_b: ArrayLike, *, level: float = 0.95, power: float = 0.8
) -> Difference:
    """Independent seeds: Welch's t test (1947), which lets the two spreads differ.

    Raises ValueError with fewer than two seeds in an arm: use `compare_seeds_known_noise`.
    """
    _check_level(level)
    a, b = _vector("scores_a", scores_a), _vector("scores_b", scores_b)
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"{len(a)} and {len(b)} seeds; with fewer than two in an arm its spread is unknown: "
            "add seeds, or give the noise learned from other runs (--noise-sd)"
        )
    value = float(b.mean() - a.mean())
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if parts.sum() == 0:
        return _undefined(
            value, level, power, len(a), "Welch's t test", "no spread between the seeds", len(b)
        )
    df = float(parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum())
    return _t_difference(value, math.sqrt(parts.sum()), df, level, power, len(a), len(b), "Welch's t test")


def compare_paired_seeds(
    scores_a: ArrayLike, scores_b: ArrayLike, *, level: float = 0.95, power: float = 0.8
) -> Difference:
    """Seed i of A and seed i of B share initialisation and data order: t test on their differences.

    Raises ValueError for unequal numbers or fewer than two pairs.
    """
    _check_level(level)
    a, b = _vector("scores_a", scores_a), _vector("scores_b", scores_b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} seeds in A and {len(b)} in B; pairs need the same seeds in both")
    if len(a) < 2:
        raise ValueError(
            "one pair of seeds; its noise is unknown: add seeds, or give the noise (--noise-sd) without --paired-seeds"
        )
    changes = b - a
    value, num = float(changes.mean()), len(changes)
    error = float(changes.std(ddof=1)) / math.sqrt(num)
    method = "t test, paired by seed"
    if error == 0:
        return _undefined(value, level, power, num, method, "every pair differs by the same amount")
    return _t_difference(value, error, num - 1, level, power, num, num, method)


def compare_seeds_known_noise(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    sd: float,
    df: float,
    level: float = 0.95,
    power: float = 0.8,
) -> Difference:
    """Seeds judged with a noise learned from other runs, so one seed per arm is enough.

    Args:
        scores_a, scores_b: one number per seed.
        sd: pooled standard deviation of one run around its configuration's mean.
        df: its degrees of freedom (`math.inf` when known exactly).

    `reason` warns when these runs spread more than the learned noise allows (chi-square or F test at 1 %).
    """
    from scipy import stats

    _check_level(level)
    a, b = _vector("scores_a", scores_a), _vector("scores_b", scores_b)
    if not sd > 0 or not df > 0:
        raise ValueError(f"noise sd is {sd} with {df} degrees of freedom; both must be positive")
    value = float(b.mean() - a.mean())
    error = sd * math.sqrt(1 / len(a) + 1 / len(b))
    finite = None if math.isinf(df) else df
    method = f"t test with pooled noise, {df:g} df" if finite else "z test with known noise"
    result = _t_difference(value, error, finite, level, power, len(a), len(b), method)
    own_df = len(a) + len(b) - 2
    if own_df == 0:
        return result
    own = float(a.var() * len(a) + b.var() * len(b))
    ratio = own / own_df / sd**2
    tail = stats.chi2.sf(own / sd**2, own_df) if finite is None else stats.f.sf(ratio, own_df, df)
    if tail >= 0.01:
        return result
    reason = (
        f"these runs spread {math.sqrt(ratio):.2g} times the learned noise (p = {tail:.2g}); do not use it"
    )
    return replace(result, reason=reason)


# ------------------------------------------------------------------------ several at a time


def holm(p_values: ArrayLike) -> Floats:
    """Holm's (1979) adjusted p values: below alpha, the chance of any false claim is below alpha."""
    p = _p_vector(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p values of Benjamini and Hochberg (1995): below q, at most a share q of the claims is false
    on average (independent or positively dependent tests)."""
    p = _p_vector(p_values)
    order = np.argsort(p, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


# ----------------------------------------------------------------------- what it is worth


def compute_equivalent(
    difference: Difference, loss_of_compute: Callable[[float], float], compute: float, *, widest: float = 1e6
) -> ComputeEquivalent:
    """The factor on A's compute that would change its loss as much as B does.

    Args:
        difference: of losses, B minus A.
        loss_of_compute: loss as a decreasing function of training compute, from a fitted law.
        compute: what both arms spent, in the law's unit.
        widest: factors outside [1/widest, widest] are not looked for.

    A factor of 1.1 says: B gives what A would give with 10 % more compute.
    """
    start = loss_of_compute(compute)

    def factor_for(change: float | None) -> float | None:
        if change is None:
            return None
        low, high = -math.log(widest), math.log(widest)
        if not loss_of_compute(compute * widest) <= start + change <= loss_of_compute(compute / widest):
            return None
        for _ in range(80):  # halves [-14, 14] down to rounding
            middle = (low + high) / 2
            too_little = loss_of_compute(compute * math.exp(middle)) > start + change
            low, high = (middle, high) if too_little else (low, middle)
        return math.exp((low + high) / 2)

    factor, lo, hi = (factor_for(change) for change in (difference.value, difference.hi, difference.lo))
    missing = factor is None or lo is None or hi is None
    reason = f"the law does not reach that loss within a factor {widest:g} of compute" if missing else None
    return ComputeEquivalent(factor=factor, lo=lo, hi=hi, reason=reason)


# ------------------------------------------------------------------------------- plumbing


def _t_difference(
    value: float,
    error: float,
    df: float | None,
    level: float,
    power: float,
    num_a: int,
    num_b: int,
    method: str,
) -> Difference:
    from scipy import stats

    critical = _z(level) if df is None else float(stats.t.isf((1 - level) / 2, df))
    statistic = value / error
    p = _two_sided_normal(statistic) if df is None else float(2 * stats.t.sf(abs(statistic), df))
    return Difference(
        value=value,
        lo=value - critical * error,
        hi=value + critical * error,
        level=level,
        p=p,
        statistic=statistic,
        standard_error=error,
        df=df,
        minimum_detectable=power_of.detectable_difference(error, df=df, power=power, alpha=1 - level),
        power=power,
        num_a=num_a,
        num_b=num_b,
        method=method,
    )


def _undefined(
    value: float, level: float, power: float, num_a: int, method: str, reason: str, num_b: int | None = None
) -> Difference:
    return Difference(
        value=value,
        lo=None,
        hi=None,
        level=level,
        p=None,
        statistic=None,
        standard_error=None,
        df=None,
        minimum_detectable=None,
        power=power,
        num_a=num_a,
        num_b=num_a if num_b is None else num_b,
        method=method,
        reason=reason,
    )


def _mee_interval(p_a: float, n_a: int, p_b: float, n_b: int, z_critical: float) -> tuple[float, float]:
    """All differences that the score test accepts; its variance is that of the constrained estimate."""

    def excess(delta: float) -> float:
        a = _constrained_proportion(p_a, n_a, p_b, n_b, delta)
        b = min(max(a + delta, 0.0), 1.0)
        variance = a * (1 - a) / n_a + b * (1 - b) / n_b
        return (p_b - p_a - delta) ** 2 - z_critical**2 * variance

    return _root(excess, p_b - p_a, -1.0), _root(excess, p_b - p_a, 1.0)


def _constrained_proportion(p_a: float, n_a: int, p_b: float, n_b: int, delta: float) -> float:
    """Maximum-likelihood share of A when B's is larger by exactly delta (Miettinen and Nurminen 1985,
    appendix I: the root of a cubic, in trigonometric form; written for A instead of B)."""
    total = n_a + n_b
    x_a, x_b = p_a * n_a, p_b * n_b
    cubic = float(total)
    square = (n_b + 2 * n_a) * delta - total - x_a - x_b
    linear = (n_a * delta - total - 2 * x_a) * delta + x_a + x_b
    constant = x_a * delta * (1 - delta)
    shift = square / (3 * cubic)
    v = shift**3 - square * linear / (6 * cubic**2) + constant / (2 * cubic)
    u = math.copysign(math.sqrt(max(shift**2 - linear / (3 * cubic), 0.0)), v if v else 1.0)
    w = (math.pi + math.acos(min(max(v / u**3, -1.0), 1.0))) / 3 if u else 0.0
    return min(max(2 * u * math.cos(w) - shift, max(0.0, -delta)), min(1.0, 1 - delta))


def _tango_interval(only_a: int, only_b: int, num: int, z_critical: float) -> tuple[float, float]:
    """Score interval of Tango (1998, Statistics in Medicine 17, 891) for the difference of paired shares."""

    def excess(delta: float) -> float:
        square = 2 * num
        linear = -only_a - only_b + (2 * num + only_a - only_b) * delta
        constant = -only_a * delta * (1 - delta)
        root = math.sqrt(max(linear * linear - 4 * square * constant, 0.0))
        share_a = (root - linear) / (2 * square)  # most likely share that only A has right, given delta
        variance = max(num * (2 * share_a + delta * (1 - delta)), 0.0)
        return (only_b - only_a - num * delta) ** 2 - z_critical**2 * variance

    estimate = (only_b - only_a) / num
    return _root(excess, estimate, -1.0), _root(excess, estimate, 1.0)


def _root(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Where `excess` turns positive on the way from `inside` (accepted) to `outside`."""
    if excess(outside) <= 0:
        return outside
    for _ in range(60):  # 2^-60 of the unit interval
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if excess(middle) <= 0 else (inside, middle)
    return (inside + outside) / 2


def _family_index(families: Sequence[Hashable] | None, num: int) -> tuple[NDArray[np.int64], int]:
    if families is None:
        return np.arange(num), num
    if len(families) != num:
        raise ValueError(f"{len(families)} family labels for {num} items")
    numbers: dict[Hashable, int] = {}
    for place, family in enumerate(families):
        if family is None:
            raise ValueError(f"item {place} has no family; give each item one, or leave families out")
        numbers.setdefault(family, len(numbers))
    return np.array([numbers[family] for family in families]), len(numbers)


def _vector(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; give at least one number in a flat list")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}[{int(np.argmin(np.isfinite(array)))}] is missing or not finite")
    return array


def _p_vector(p_values: ArrayLike) -> Floats:
    p = _vector("p_values", p_values)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p values must lie in [0, 1]; found {p.min()} to {p.max()}")
    return p


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a share such as 0.95")


def _z(level: float) -> float:
    from scipy import special

    return float(special.ndtri((1 + level) / 2))


def _two_sided_normal(statistic: float) -> float:
    return math.erfc(abs(statistic) / math.sqrt(2))
