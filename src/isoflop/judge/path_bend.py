"""Do the paths of best sizes of the public sweeps bend, and is that more than an estimator does by itself?

Joins `isoflop.laws.optima` and `isoflop.fit.isoflop.path_bend`. Left out: what a bend means
(`isoflop.studies.optimum_bend`).
"""

from __future__ import annotations

from collections.abc import Sequence

from isoflop.fit.compare.difference import holm
from isoflop.fit.isoflop.path_bend import PathBend, path_bend
from isoflop.laws.optima import SweepOptima, public_optima
from isoflop.records import Estimate

__all__ = ["Found", "PathBend", "SweepOptima", "adjusted", "drift_of", "public_bends"]

Found = dict[str, tuple[SweepOptima, PathBend]]
"""Sweep -> its best sizes and their path."""


def public_bends(estimator: str) -> Found:
    """Every public sweep by one estimator, "bowl" or "parabola"."""
    return {
        one.sweep: (one, path_bend(one.log_C, one.log_N, one.se))
        for one in public_optima()
        if one.estimator == estimator
    }


def drift_of(one: SweepOptima, bend: PathBend) -> Estimate:
    """The drift with the interval that planted straight paths give it."""
    value, (low, high) = bend.drift.value or 0.0, one.planted.drift_ci95
    return Estimate(
        value=value, unit="exponent per decade", lo=value - high, hi=value - low,
        method=f"{one.planted.num_sweeps} planted straight paths",
    )  # fmt: skip


def adjusted(bends: Found, same: Sequence[str]) -> dict[str, float]:
    """p-values among planted straight paths after Holm's correction over sweeps.

    Readings of the `same` figure are one sweep, with the largest of their p-values.
    """
    raw = {name: optima.planted.p for name, (optima, _) in bends.items()}
    raw |= dict.fromkeys(same, max(raw[name] for name in same))
    family = [name for name in raw if name not in same[1:]]
    corrected = dict(zip(family, holm([raw[name] for name in family]), strict=True))
    return {name: float(corrected[same[0] if name in same else name]) for name in raw}
