"""The noise of training runs as an asset: how far seeds spread, and how early a run gives itself away.

Learned from groups of runs that differ by seed alone. The spread is pooled over groups, because three seeds
of one configuration say next to nothing about their own standard deviation; the correlation of the loss
part-way with the final loss says how much a look at that fraction of the schedule is worth. Used to plan
seeds, looks and early stops. Left out: where curves come from (`isoflop.judge.noise` reads the store).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop.fit.compare import power, sequential

Floats = NDArray[np.float64]

FRACTIONS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9)
"""Fractions of the schedule at which runs are compared with their own end."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of one run around its configuration's mean, pooled over configurations."""

    sd: float
    df: float
    """Degrees of freedom: runs minus configurations."""
    lo: float
    hi: float
    """Chi-square interval of the sd."""
    level: float
    num_runs: int
    num_groups: int
    """Configurations with at least two seeds; the others teach nothing about spread."""
    homogeneity_p: float | None
    """p value of equal spreads (Levene's test with medians; Brown and Forsythe 1974). Small: do not pool.
    None with fewer than two configurations of three seeds or more."""


@dataclass(frozen=True, kw_only=True)
class PartWay:
    """What the loss at a fraction of the schedule tells about the end, within one configuration."""

    fraction: float
    sd: float
    """Spread of the loss at that fraction, pooled."""
    correlation: float
    lo: float | None
    hi: float | None
    """Fisher interval of the correlation; None with fewer than three degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """What is known about the noise of a kind of run."""

    final: Spread
    part_way: tuple[PartWay, ...]

    def at(self, fraction: float) -> PartWay:
        """The entry of that fraction. Raises ValueError for one that was not learned."""
        for entry in self.part_way:
            if math.isclose(entry.fraction, fraction):
                return entry
        known = ", ".join(f"{entry.fraction:g}" for entry in self.part_way) or "none"
        raise ValueError(f"no noise was learned at fraction {fraction:g}; there is {known}")


def pool_spread(groups: Sequence[ArrayLike], *, level: float = 0.95) -> Spread:
    """Pool the spread of groups of final losses, one group per configuration.

    Raises:
        ValueError: no group has two runs, a number is missing, or all runs of each group are identical.
    """
    from scipy import stats

    arrays = [_vector(group, f"group {number}") for number, group in enumerate(groups)]
    useful = [array for array in arrays if len(array) >= 2]
    if not useful:
        raise ValueError(f"none of {len(arrays)} configurations has two seeds; train a second seed of some")
    df = float(sum(len(array) - 1 for array in useful))
    squares = math.fsum(float(((array - array.mean()) ** 2).sum()) for array in useful)
    if squares == 0:
        raise ValueError("the seeds of each configuration are identical; are they copies of one run?")
    large = [array for array in useful if len(array) >= 3]
    homogeneity = float(stats.levene(*large, center="median").pvalue) if len(large) >= 2 else None
    tail = (1 - level) / 2
    return Spread(
        sd=math.sqrt(squares / df),
        df=df,
        lo=math.sqrt(squares / float(stats.chi2.isf(tail, df))),
        hi=math.sqrt(squares / float(stats.chi2.ppf(tail, df))),
        level=level,
        num_runs=sum(len(array) for array in useful),
        num_groups=len(useful),
        homogeneity_p=homogeneity,
    )


def learn(
    curves: Sequence[ArrayLike],
    finals: Sequence[ArrayLike],
    fractions: Sequence[float] = FRACTIONS,
    *,
    level: float = 0.95,
) -> SeedNoise:
    """Learn spread and part-way correlations from groups of runs.

    Args:
        curves: per configuration an array (seeds, fractions) of the loss part-way.
        finals: per configuration the final losses of the same seeds, in the same order.
        fractions: of the schedule, the columns of `curves`.
        level: of the intervals.

    The correlation is that of residuals about each configuration's mean, pooled, so that differences
    between configurations cannot pass for predictability.
    """
    if len(curves) != len(finals):
        raise ValueError(f"{len(curves)} groups of curves but {len(finals)} groups of final losses")
    final = pool_spread(finals, level=level)
    residuals: list[Floats] = []
    ends: list[Floats] = []
    for number, (curve, end) in enumerate(zip(curves, finals, strict=True)):
        matrix, values = np.asarray(curve, dtype=float), _vector(end, f"group {number}")
        if matrix.shape != (len(values), len(fractions)):
            raise ValueError(
                f"group {number}: curves have shape {matrix.shape}; expected {(len(values), len(fractions))}"
            )
        if len(values) >= 2:
            residuals.append(matrix - matrix.mean(axis=0))
            ends.append(values - values.mean())
    part, end_residuals = np.concatenate(residuals), np.concatenate(ends)
    return SeedNoise(
        final=final,
        part_way=tuple(
            _part_way(fraction, part[:, column], end_residuals, final.df, level)
            for column, fraction in enumerate(fractions)
        ),
    )


def _part_way(fraction: float, part: Floats, end: Floats, df: float, level: float) -> PartWay:
    from scipy import special

    squares = float(part @ part)
    if not math.isfinite(squares):
        raise ValueError(f"a curve has no number at fraction {fraction:g}; leave that run out or interpolate")
    correlation = float(part @ end / math.sqrt(squares * float(end @ end))) if squares > 0 else 0.0
    lo = hi = None
    if df >= 3 and abs(correlation) < 1:
        # Residuals with df degrees of freedom behave like df + 1 pairs: Fisher's error is 1 / sqrt(df - 2).
        half = float(special.ndtri((1 + level) / 2)) / math.sqrt(df - 2)
        middle = math.atanh(correlation)
        lo, hi = math.tanh(middle - half), math.tanh(middle + half)
    return PartWay(fraction=fraction, sd=math.sqrt(squares / df), correlation=correlation, lo=lo, hi=hi)


def loss_at_fractions(
    steps: ArrayLike, losses: ArrayLike, num_steps: int, fractions: Sequence[float] = FRACTIONS
) -> Floats:
    """One run's loss at fractions of its schedule, interpolated between its rows of metrics.

    Args:
        steps: increasing.
        losses: as many.
        num_steps: length of the schedule.

    NaN where a fraction lies before the first or after the last row: nothing is extrapolated.
    """
    at = np.asarray(steps, dtype=float)
    values = np.asarray(losses, dtype=float)
    if at.shape != values.shape or at.ndim != 1 or len(at) < 2:
        raise ValueError(f"{at.size} steps and {values.size} losses; a curve needs at least two rows of both")
    if np.any(np.diff(at) <= 0):
        raise ValueError("steps must increase")
    return np.interp(np.asarray(fractions) * num_steps, at, values, left=np.nan, right=np.nan)


# ------------------------------------------------------------------------------- early stops


def overtake_chance(noise: SeedNoise, fraction: float, gap: float) -> float:
    """Chance that a run behind by `gap` at a fraction of the schedule still ends below the other one.

    Both follow the same schedule, and what separates the configurations is taken to be as large at the end
    as at that fraction; then only seed noise can turn the order, and the change of the gap has variance
    2 (s_end^2 + s_part^2 - 2 r s_end s_part). Cut runs at equal fractions only, and only for large gaps.
    """
    from scipy import special

    return float(special.ndtr(-abs(gap) / _gap_sd(noise, fraction)))


def gap_to_cut(noise: SeedNoise, fraction: float, *, chance: float = 0.05) -> float:
    """Gap at a fraction of the schedule from which the run behind overtakes with at most this chance."""
    from scipy import special

    if not 0 < chance < 0.5:
        raise ValueError(f"chance is {chance}; give a share between 0 and 0.5")
    return float(-special.ndtri(chance)) * _gap_sd(noise, fraction)


def _gap_sd(noise: SeedNoise, fraction: float) -> float:
    entry = noise.at(fraction)
    end, part = noise.final.sd, entry.sd
    return math.sqrt(max(2 * (end**2 + part**2 - 2 * entry.correlation * end * part), 0.0))


# ------------------------------------------------------------------------------- planning


def plan_seeds(
    noise: SeedNoise, effect: float, *, wanted_power: float = 0.8, alpha: float = 0.05
) -> power.SeedsNeeded:
    """Seeds per arm to find `effect`, judged with this noise and its degrees of freedom."""
    return power.seeds_needed(
        effect, noise.final.sd, power=wanted_power, alpha=alpha, noise_df=noise.final.df
    )


def plan_looks(
    noise: SeedNoise, effect: float, *, num_looks: int = 4, wanted_power: float = 0.8, alpha: float = 0.05
) -> sequential.GroupSequentialPlan:
    """Looks and boundaries of a comparison judged with this noise."""
    return power.plan_looks(
        effect, noise.final.sd, num_looks=num_looks, power=wanted_power, alpha=alpha, noise_df=noise.final.df
    )


def _vector(values: ArrayLike, what: str) -> Floats:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{what}: expected a flat list of finite losses, found shape {array.shape}")
    return array
