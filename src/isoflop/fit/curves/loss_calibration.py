"""What do other curves of this kind say about one? Learn its priors and the width of its intervals from them.

Priors (empirical Bayes, one step): every law is fitted to the known part of each curve, and its parameters are
taken to scatter about their common mean as those of the curves do. Width: every curve is cut before its end,
forecast from the first part and compared with the second, and the intervals are made to hold nine tenths of
what followed, every curve counting once. A few curves say little, so some made-up ones with the usual priors
and width are counted with them. What is to be forecast is never needed.

Curves of best values so far never narrow the intervals: what they hold back has lost its upward misses.

Left out: the choice of the descriptions' weights. Learning those from the curves of a kind was tried inside
training halves and gained nothing that lasted from one cut to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.curves.best_so_far import hidden_noise
from isoflop.fit.curves.loss_forecast import (
    FEWEST_POINTS,
    FREEDOM,
    WIDTH,
    Kind,
    ShapeFit,
    ShapePrior,
    fit_shapes,
    forecast_losses,
)
from isoflop.laws.curves import Array

LEVEL = 0.9
"""Share of the held-back points that the intervals are made to hold."""
USUAL_CURVES = 6.0
"""Weight of the usual priors and width, in curves."""
MOST_BACKTESTS = 16
"""Curves that are looked at; enough to know a width to a fifth or so."""


@dataclass(frozen=True)
class Calibration:
    """What curves of one kind have taught."""

    kind: Kind
    """To be given to `forecast_losses`."""
    num_backtests: int
    coverage90: float | None
    """Share of the held-back points inside 90 % intervals of the usual width; None without a back-test."""
    error: float | None
    """Root mean square of ln(forecast / value), mean over the back-tests; None without one."""


def calibrate(curves: Sequence[tuple[Array, Array]], *, ahead: float = 2.0) -> Calibration:
    """Learn priors and the width of intervals from curves of a kind.

    Args:
        curves: (x [n], y [n]) of each, both > 0. A curve too short to be cut is passed over.
        ahead: ratio of the largest x to be asked for to the largest known, > 1. Each of up to `MOST_BACKTESTS`
            curves is cut once, in turn that far before its end, half and a quarter of it (in ln x), but never
            below half of its points: the long way tries the horizon, the short one what is known by now. The
            back-tests use the usual priors.

    Raises:
        ValueError: `ahead` is not above 1.
        CurveError: as `forecast_losses`.
    """
    if not ahead > 1:
        raise ValueError(
            f"ahead = {ahead:g} must be above 1: it is how far beyond the data is to be forecast"
        )
    long_enough = [(np.asarray(x, float), np.asarray(y, float)) for x, y in curves]
    long_enough = [(x, y) for x, y in long_enough if len(np.unique(x)) > FEWEST_POINTS]
    num = min(len(long_enough), MOST_BACKTESTS)
    some = np.linspace(0, len(long_enough) - 1, num).round().astype(int)
    ways = np.log(ahead) * np.array([1.0, 0.5, 0.25])
    cuts = [_cut(long_enough[index], float(ways[turn % len(ways)])) for turn, index in enumerate(some)]
    usual = _usual_scores()
    best_so_far = _mostly_best(curves)
    if not cuts:
        return Calibration(Kind(best_so_far=best_so_far), 0, None, None)
    reach = float(np.quantile(usual, LEVEL))
    scores, covered, errors = [usual], [], []
    for x, y, known in cuts:
        found = forecast_losses(x[known], y[known], x[~known], measured=False)
        miss = np.abs(np.log(y[~known]) - found.centre)
        scores.append(miss / found.scale)
        covered.append(float(np.mean(miss <= reach * found.scale)))
        errors.append(float(np.sqrt(np.mean(miss**2))))
    shares = [USUAL_CURVES, *[1.0] * len(cuts)]
    weight = np.concatenate([np.full(len(s), w / len(s)) for s, w in zip(scores, shares, strict=True)])
    width = WIDTH * _weighted_quantile(np.concatenate(scores), weight, LEVEL) / reach
    if best_so_far:
        width = max(width, WIDTH)
    shapes = _pool_shapes([fit for index in some for fit in fit_shapes(*long_enough[index])])
    kind = Kind(width, best_so_far, shapes)
    return Calibration(kind, len(cuts), float(np.mean(covered)), float(np.mean(errors)))


def _pool_shapes(fits: Sequence[ShapeFit]) -> dict[str, ShapePrior]:
    """One step of expectation-maximisation from the usual priors, which count as `USUAL_CURVES` curves.

    No prior becomes more than twice as wide as usual: beyond that it is a parameter that nothing holds.
    """
    found = {}
    for name in {fit.law for fit in fits}:
        own = [fit for fit in fits if fit.law == name]
        usual_sd = np.mean([fit.usual_sd for fit in own], axis=0)
        place = np.stack([fit.from_usual for fit in own])
        total = len(own) + USUAL_CURVES
        shift = place.sum(axis=0) / total
        scatter = np.sum((place - shift) ** 2 + np.stack([fit.variance for fit in own]), axis=0)
        sd = np.sqrt((USUAL_CURVES * usual_sd**2 + scatter) / total)
        found[name] = ShapePrior(shift, np.minimum(sd, 2 * usual_sd))
    return found


def _mostly_best(curves: Sequence[tuple[Array, Array]]) -> bool:
    """Whether more than half of the curves are best values so far, by themselves."""
    found = 0
    for x, y in curves:
        order = np.argsort(x, kind="stable")
        places, first = np.unique(np.asarray(x, float)[order], return_index=True)
        found += hidden_noise(places, np.asarray(y, float)[order][first]) is not None
    return 2 * found > len(curves)


def _cut(curve: tuple[Array, Array], way: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """(x, y, which are known) of a curve that is cut this far in ln x before its end."""
    x, y = curve
    distinct = np.unique(x)
    least = distinct[max(len(distinct) // 2, FEWEST_POINTS) - 1]
    return x, y, x <= np.clip(distinct[-1] * np.exp(-way), least, distinct[-2])


def _usual_scores() -> Array:
    """|t| of curves for which the usual width is right, at even odds."""
    from scipy.stats import t

    return np.asarray(t.ppf(0.5 + (np.arange(100) + 0.5) / 200, FREEDOM))


def _weighted_quantile(values: Array, weight: Array, level: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, level * total[-1])])
