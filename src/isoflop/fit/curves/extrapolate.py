"""Predict beyond the data as a distribution, averaged over the families that fit; dates become odds.

A forecast draws curves, not a curve: a family in proportion to its weight, its parameters by refitting a
simulated data set (parametric bootstrap), and its noise level from what the residuals allow. A predictive
interval adds one measurement's noise to the drawn curves; "when does it reach y?" counts the draws that
have, so that its answer is odds by x, and "never" is one of the outcomes.

Weights that are certain inside the data are too certain outside it: no family tried need be the truth. A
share of the draws (`DOUBT`) therefore ignores the weights of those that the data do not exclude. The test
suite holds the intervals to their level on planted curves.

Left out: long loss curves, which `loss_forecast` predicts with priors of their own.

Shape letters: D draws, m places, n points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isoflop.fit.curves.families import CurveFits, fit_curves
from isoflop.fit.curves.select import FamilyScore, Points, Selection
from isoflop.laws.curves import Array, CurveError

DOUBT = 0.2
"""Share of draws spread evenly over all families whose weight is at least `NOT_EXCLUDED`."""
NOT_EXCLUDED = 0.01
"""Weight below which a family is left out of a forecast."""


@dataclass(frozen=True)
class Draws:
    """Curves drawn from one family."""

    name: str
    fits: CurveFits
    """One data set per draw."""
    sigma: Array
    """[D] noise of a measurement under each draw."""


@dataclass(frozen=True)
class CurveForecast:
    """Curves drawn from the posterior over families and parameters."""

    selection: Selection
    draws: tuple[Draws, ...]
    seed: int

    def curves(self, x: ArrayLike) -> Array:
        """The drawn curves [D, m] at x [m], without measurement noise."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.concatenate([draw.fits.predict(np.atleast_1d(x)) for draw in self.draws])

    def measured(self, x: ArrayLike) -> Array:
        """Drawn measurements [D, m] at x [m]: curves with noise, on the scale of y."""
        y = self.curves(x)
        rng = np.random.default_rng([self.seed, 1])
        sigma = np.concatenate([draw.sigma for draw in self.draws])[:, None]
        noise = sigma * rng.normal(size=y.shape)
        return y * np.exp(noise) if self.selection.points.relative else y + noise

    def interval(self, x: ArrayLike, level: float = 0.9) -> Array:
        """Lower end, median and upper end [3, m] of a measurement at x [m]."""
        tail = (1 - level) / 2
        return np.asarray(np.quantile(self.measured(x), [tail, 0.5, 1 - tail], axis=0))


@dataclass(frozen=True)
class Reach:
    """When a curve reaches a value: odds by x."""

    y: float
    rising: bool
    """True when it is to be reached from below."""
    x: Array
    """[g] grid of x, increasing, from the smallest datum to the horizon."""
    probability: Array
    """[g] share of the drawn curves that have reached y at or before each x."""

    @property
    def ever(self) -> float:
        """Probability that y is reached before the horizon."""
        return float(self.probability[-1])

    def quantile(self, share: float) -> float | None:
        """Smallest x by which y is reached with this probability; None when that is never before the horizon."""
        index = int(np.searchsorted(self.probability, share))
        return float(self.x[index]) if index < len(self.x) else None

    def by(self, x: float) -> float:
        """Probability that y is reached at or before this x."""
        index = int(np.searchsorted(self.x, x, side="right")) - 1
        return float(self.probability[index]) if index >= 0 else 0.0


def forecast(selection: Selection, *, num_draws: int = 400, seed: int = 0) -> CurveForecast:
    """Draw curves from the posterior over families and parameters.

    Args:
        selection: families fitted to the data.
        num_draws: curves in all.
        seed: of the bootstrap.
    """
    shares = forecast_weights(selection)
    counts = {name: int(np.ceil(num_draws * share)) for name, share in shares.items()}
    draws = [
        _draw(selection.score(name), selection, count, seed + index)
        for index, (name, count) in enumerate(counts.items())
    ]
    return CurveForecast(selection, tuple(draws), seed)


def forecast_weights(selection: Selection) -> dict[str, float]:
    """Share of the draws that each family gets: its weight, and an equal part of the doubt."""
    possible = [score for score in selection.scores if score.weight >= NOT_EXCLUDED]
    total = sum(score.weight for score in possible)
    return {score.name: (1 - DOUBT) * score.weight / total + DOUBT / len(possible) for score in possible}


def _draw(score: FamilyScore, selection: Selection, count: int, seed: int) -> Draws:
    points = selection.points
    rng = np.random.default_rng(seed)
    freedom = max(len(points.x) - score.family.num_parameters, 1)
    known = points.sigma is not None and selection.overdispersion == 1.0
    # An estimated sigma is itself uncertain: sigma^2 nu / chi^2_nu (Gelman et al. 2013, section 3.2).
    factor = np.ones(count) if known else np.sqrt(freedom / rng.chisquare(freedom, size=count))
    factor = np.minimum(factor, 5.0)
    truth = score.fits.predict(points.x)[0]
    noise = factor[:, None] * selection.noise * rng.normal(size=(count, len(points.x)))
    y = truth * np.exp(noise) if points.relative else truth + noise
    fits = fit_curves(
        points.x, y, score.family, weights=points.weights, relative=points.relative, num_starts=2,
        num_checks=0, warm=score.fits, max_steps=60, seed=seed,
    )  # fmt: skip
    return Draws(score.name, fits, factor * float(np.mean(selection.noise)))


def when(prediction: CurveForecast, y: float, *, horizon: float = 1e6, num_grid: int = 600) -> Reach:
    """When the drawn curves reach y.

    Args:
        prediction: from `forecast`.
        y: the value. Data that fall reach it from above unless it lies above all of them; other data from below
            when it is at least their mean, else from above.
        horizon: how many times the largest x (or, where x is not positive throughout, how many spans of x
            beyond it) counts as ever.
        num_grid: places of the grid: even in log x where x is positive throughout, else even between the data
            and even in the logarithm of the distance beyond them.

    Raises:
        CurveError: y is not finite.
    """
    if not np.isfinite(y):
        raise CurveError("the value to be reached must be a finite number")
    points = prediction.selection.points
    lo, hi = points.x[0], points.x[-1]
    if lo > 0:
        grid = np.geomspace(lo, hi * horizon, num_grid)
    else:
        num = num_grid // 4
        beyond = (hi - lo) * np.geomspace(1 / num, horizon, num_grid - num)
        grid = np.concatenate([np.linspace(lo, hi, num), hi + beyond])
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = prediction.curves(grid)
    rising = _from_below(points, y)
    there = np.nan_to_num(drawn, nan=-np.inf if rising else np.inf) >= y if rising else drawn <= y
    return Reach(y, rising, grid, np.mean(np.maximum.accumulate(there, axis=1), axis=0))


def _from_below(points: Points, y: float) -> bool:
    third = max(len(points.y) // 3, 1)
    falls = points.y[-third:].mean() < points.y[:third].mean()
    return bool(y >= (points.y.max() if falls else points.y.mean()))
