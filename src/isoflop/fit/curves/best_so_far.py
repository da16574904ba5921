"""Is this a curve of best values so far, and how far above it does a plain measurement lie?

A table of results often keeps the smallest loss seen until then. Such a curve never rises, though its
measurements scatter: where a new one was no better, the value repeats. It runs below the mean of the
measurements, the further the more of them there were and the noisier they are, and it hides its noise. A
forecast of a measurement that takes it at its word is too low and too sure.

The noise is told by what it leaves behind: how often the best was not beaten, and by how much it was. Curves
of the same trend are simulated at several levels of noise and each level weighed by how it explains both. How
many measurements lie between two points of the table is not known; it is taken from the spacing of the first.

Left out: rising scores (negate or invert them first), and noise that changes along the curve.

Shape letters: R simulations, L levels of noise, k measurements, n points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isoflop.laws.curves import Array

LEVELS = np.geomspace(0.001, 0.08, 10)
"""Standard deviations of one measured ln y that are tried."""
USUAL_LEVEL = (0.008, 1.0)
"""Prior of the noise: median, and standard deviation of its logarithm."""
NUM_SIMULATIONS = 24
MOST_BETWEEN = 200
"""Measurements between two points of the table, at most."""
SMOOTHING = 0.35
"""Width in ln x over which the trend is smoothed."""
FEWEST = 8
"""Points below which a repeated value may be chance."""


@dataclass(frozen=True)
class BestSoFar:
    """What a curve of best values hides. All in ln y."""

    noise: float
    """Standard deviation of one measurement."""
    above: float
    """Mean distance of a measurement above the best so far, over the last third of the curve."""
    above_sd: float
    """Standard deviation of that distance, from not knowing the noise."""


def hidden_noise(x: ArrayLike, y: ArrayLike, *, known: bool = False, seed: int = 0) -> BestSoFar | None:
    """The noise behind a curve of best values so far; None when the curve is not one.

    A curve is taken for one when it has `FEWEST` points, never rises, and repeats a value.

    Args:
        x: [n] places, increasing, > 0.
        y: [n] values, > 0.
        known: take any curve for one that never rises, as when others of its kind are.
        seed: of the simulations.
    """
    x_n, y_n = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    drop = -np.diff(np.log(y_n))
    tied = np.abs(drop) < 1e-9
    if len(x_n) < FEWEST or np.any(drop < -1e-9) or not (known or tied.any()):
        return None
    gap = np.diff(x_n)
    between = np.clip(np.round(gap / np.median(gap[:FEWEST])), 1, MOST_BETWEEN).astype(int)
    index = np.concatenate([[0], np.cumsum(between)])
    places = np.interp(np.arange(index[-1] + 1), index, x_n)
    trend = np.minimum.accumulate(_smooth(np.log(x_n), np.log(y_n)))
    mean = np.interp(np.log(places), np.log(x_n), trend)
    noise = np.random.default_rng(seed).normal(size=(NUM_SIMULATIONS, 1, len(places)))
    best_RLk = np.minimum.accumulate(mean + LEVELS[:, None] * noise, axis=-1)
    fit = _log_likelihood(drop, tied, -np.diff(best_RLk[..., index], axis=-1))
    median, spread = USUAL_LEVEL
    fit -= (np.log(LEVELS / median) / spread) ** 2 / 2
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()
    last = max(len(places) // 3, 1)
    above_L = np.mean((mean - best_RLk)[..., -last:], axis=(0, 2))
    above = float(weight @ above_L)
    above_sd = float(np.sqrt(weight @ (above_L - above) ** 2))
    return BestSoFar(float(np.sqrt(weight @ LEVELS**2)), above, above_sd)


def _log_likelihood(drop: Array, tied: Array, simulated_RLn: Array) -> Array:
    """Of each level [L]: a tie is a coin, and a drop exponential, with the rate and mean of the simulations."""
    none = simulated_RLn < 1e-12
    num = len(simulated_RLn)
    share = (none.sum(axis=0) + 0.5) / (num + 1)
    mean = (simulated_RLn.sum(axis=0) + 1e-4) / (num - none.sum(axis=0) + 0.5)
    terms = np.where(tied, np.log(share), np.log(1 - share) - np.log(mean) - drop / mean)
    return np.asarray(terms.sum(axis=-1))


def _smooth(u: Array, v: Array) -> Array:
    """Local straight lines with Gaussian weights."""
    weight = np.exp(-(((u[:, None] - u) / SMOOTHING) ** 2) / 2)
    weight /= weight.sum(axis=1, keepdims=True)
    mean_u, mean_v = weight @ u, weight @ v
    variance = weight @ u**2 - mean_u**2
    covariance = weight @ (u * v) - mean_u * mean_v
    steady = variance > 1e-9
    slope = np.where(steady, covariance / np.where(steady, variance, 1.0), 0.0)
    return np.asarray(mean_v + slope * (u - mean_u))
