"""Best sizes at each budget of public isoFLOP sweeps, with errors, as our own program computes them.

Made by ``benchmarks/ship_optima.py`` from tables that are not shipped; the sweeps are named with their sources.
Beside each estimate stands what the same estimator says of sweeps planted without a bend.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What the estimator says of sweeps of the same sizes, budgets and noise whose true path is straight."""

    num_sweeps: int
    drift_mean: float
    """Change of the exponent per decade that the estimator makes by itself."""
    drift_ci95: tuple[float, float]
    """Where it lies in 95 % of the sweeps."""
    p: float
    """Share of them that drift at least as far from their mean as the sweep itself does."""
    says_bend: float
    """Share of them in which a bend is significant at 5 %."""


@dataclass(frozen=True, kw_only=True)
class SweepOptima:
    """Best sizes of one sweep by one estimator."""

    sweep: str
    title: str
    source: str
    estimator: str
    """"bowl": convex with the skewness that all budgets share; "parabola": approach 2 of Hoffmann et al. 2022."""
    num_runs: int
    budgets: Array
    """FLOPs, [K], ascending; only budgets whose minimum lies within the sizes tried and has an interval."""
    log_N: Array
    """Natural log of the best size, [K]."""
    se: Array
    """Its standard error, [K]."""
    planted: Planted

    @property
    def log_C(self) -> Array:
        return np.log(self.budgets)


@cache
def public_optima() -> tuple[SweepOptima, ...]:
    """All sweeps and estimators that ship."""
    rows = json.loads(resources.files("isoflop.laws.optima").joinpath("public.json").read_text())["sweeps"]
    return tuple(_read(row) for row in rows)


def _read(row: dict[str, Any]) -> SweepOptima:
    arrays = {name: np.array(row[name]) for name in ("budgets", "log_N", "se")}
    ends = tuple(row["planted"]["drift_ci95"])
    return SweepOptima(**{**row, **arrays, "planted": Planted(**{**row["planted"], "drift_ci95": ends})})
