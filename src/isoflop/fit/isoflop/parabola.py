"""Approach 2 as it is usually done: a parabola per budget, its minimum, and a power law through the minima.

    loss = q0 + q1 t + q2 t^2,  t = log N  within each budget;  log N* = -q1 / (2 q2);  log N* = c + a log C

(Hoffmann et al. 2022, section 3.2.) Kept here to stand beside the parametric fit, many tables at once, with the
bias that a parabola has when the true bowl is skewed. The intervals that should be used for isoFLOP sweeps are
in `isoflop.fit.isoflop.sweep`.

Shapes: S tables of one design, n runs, K budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
MIN_SIZES = 4
MIN_BUDGETS = 3


@dataclass(frozen=True)
class ParabolaDesign:
    """The linear algebra that all tables of one design share."""

    members: tuple[Array, ...]
    """Runs of each budget that counts."""
    log_C: Array
    """Log FLOPs of these budgets, [K]."""
    solvers: tuple[Array, ...]
    """Pseudo-inverse of (1, t, t^2) for each budget, with t about its mean, [3, m]."""
    centers: Array

    @classmethod
    def of(cls, N: Array, C: Array, tolerance: float = 0.1) -> ParabolaDesign | None:
        """Group runs whose budgets agree to `tolerance` in log; None when fewer than three can carry a parabola."""
        order = np.argsort(C)
        cuts = np.flatnonzero(np.diff(np.log(C[order])) > tolerance) + 1
        members, log_C, solvers, centers = [], [], [], []
        for rows in np.split(order, cuts):
            t = np.log(N[rows])
            if len(np.unique(np.round(t, 2))) < MIN_SIZES:
                continue
            t0 = t.mean()
            members.append(rows)
            log_C.append(np.log(C[rows]).mean())
            solvers.append(np.linalg.pinv(np.stack([np.ones_like(t), t - t0, (t - t0) ** 2], axis=1)))
            centers.append(t0)
        if len(members) < MIN_BUDGETS:
            return None
        return cls(tuple(members), np.array(log_C), tuple(solvers), np.array(centers))

    def log_minima(self, loss: Array) -> Array:
        """log N* of each budget, [S, K]; NaN where the parabola has no minimum."""
        minima = []
        for rows, solver, center in zip(self.members, self.solvers, self.centers, strict=True):
            _, q1, q2 = np.moveaxis(loss[:, rows] @ solver.T, -1, 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                minima.append(np.where(q2 > 0, center - q1 / (2 * q2), np.nan))
        return np.stack(minima, axis=1)

    def log_size(self, loss: Array, C: float) -> Array:
        """log N* at C by the power law through the minima, [S]; NaN with fewer than three minima."""
        minima = self.log_minima(loss)
        good = np.isfinite(minima)
        weight = good.astype(float)
        count = weight.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_x = (weight * self.log_C).sum(axis=1) / count
            mean_y = np.where(good, minima, 0.0).sum(axis=1) / count
            dx = weight * (self.log_C - mean_x[:, None])
            slope = (dx * np.where(good, minima, 0.0)).sum(axis=1) / (dx * dx).sum(axis=1)
        value = mean_y + slope * (np.log(C) - mean_x)
        return np.where(count >= MIN_BUDGETS, value, np.nan)

    def fitted(self, loss: Array) -> Array:
        """Values of the parabolas at the runs, [S, n]; runs of budgets that do not count keep their loss."""
        values = np.array(loss)
        for rows, solver in zip(self.members, self.solvers, strict=True):
            values[:, rows] = loss[:, rows] @ (np.linalg.pinv(solver) @ solver).T
        return values


def parabola_interval(
    design: ParabolaDesign, loss: Array, C: float, draws: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[Array, Array, Array]:
    """log N* at C with its usual interval: residual bootstrap of the parabolas, percentiles.

    Args:
        design: of the runs.
        loss: [S, n].
        C: FLOPs.
        draws: bootstrap draws per table.
        rng: source of the draws.
        level: of the interval.

    Returns estimate, lower and upper end, [S] each; NaN where undefined.
    """
    fitted = design.fitted(loss)
    used = np.concatenate(design.members)
    inflation = np.sqrt(len(used) / max(len(used) - 3 * len(design.members), 1))
    residuals = (loss - fitted)[:, used] * inflation
    lows, highs = [], []
    for table in range(len(loss)):
        redrawn = np.repeat(fitted[table][None], draws, axis=0)
        redrawn[:, used] += rng.choice(residuals[table], size=(draws, len(used)))
        sizes = design.log_size(redrawn, C)
        sizes = sizes[np.isfinite(sizes)]
        ends = np.quantile(sizes, [(1 - level) / 2, (1 + level) / 2]) if len(sizes) else (np.nan, np.nan)
        lows.append(ends[0])
        highs.append(ends[1])
    return design.log_size(loss, C), np.array(lows), np.array(highs)
