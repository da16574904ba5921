"""When a straight line reaches a value, for each axis on which the points might be straight.

The usual extrapolation is a straight line on some pair of axes, and the choice of axes is the answer. Here
the choices are named, and each gets its date with an interval from resampling the points (Efron 1979), so
that they can be put side by side. Left out: curved families and their weights (`isoflop.judge.curves`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop.laws.curves import CurveError
from isoflop.records import Estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """A way to look at a score between 0 and 1 in which it may be a straight line in log x."""

    name: str
    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]


AXES: Mapping[str, Axis] = MappingProxyType(
    {
        "linear": Axis("linear in log x", lambda p: p, lambda v: v),
        "logit": Axis(
            "logit in log x",
            lambda p: np.log(p / (1 - p)),
            lambda v: 1 / (1 + np.exp(-v)),
        ),
        "power": Axis("power law of error", lambda p: np.log(1 - p), lambda v: 1 - np.exp(v)),
    }
)


@dataclass(frozen=True)
class Dated:
    """A straight line on one axis, and when it reaches the target."""

    axis: Axis
    intercept: float
    slope: float
    """Per decade of x, on the axis."""
    r2: float
    x: Estimate
    """The x at which the line reaches the target."""

    def score(self, x: ArrayLike) -> Array:
        """The line as a score at x."""
        return self.axis.backward(self.intercept + self.slope * np.log10(np.asarray(x, dtype=float)))


def date(
    x: ArrayLike,
    score: ArrayLike,
    target: float,
    axis: str,
    *,
    level: float = 0.95,
    num_resamples: int = 20_000,
    seed: int = 1,
) -> Dated:
    """Fit a straight line on this axis and say when it reaches the target.

    Args:
        x: [n] > 0.
        score: [n] strictly between 0 and 1.
        target: score to be reached, in (0, 1).
        axis: a key of `AXES`.
        level: of the interval, by resampling points with replacement.
        num_resamples: resamples; those that hold one x alone are drawn again.
        seed: of the resampling.

    Raises:
        CurveError: numbers outside these ranges, or fewer than three points.
    """
    x_n, p = np.asarray(x, dtype=float), np.asarray(score, dtype=float)
    if len(x_n) < 3 or len(np.unique(x_n)) < 2:
        raise CurveError("a date needs three points at two or more x")
    if np.any(x_n <= 0) or np.any((p <= 0) | (p >= 1)) or not 0 < target < 1:
        raise CurveError("a date on these axes needs x > 0 and scores and target strictly between 0 and 1")
    how = AXES[axis]
    u, v = np.log10(x_n), how.forward(p)
    goal = float(how.forward(np.asarray([target]))[0])
    slope, intercept = _line(u, v)
    left = np.sum((v - intercept - slope * u) ** 2)
    logs = _resampled_logs(u, v, goal, num_resamples, seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    lo, hi = (float(end) for end in np.quantile(logs, tails, method="inverted_cdf"))
    found = float((goal - intercept) / slope) if slope * (goal - v.mean()) > 0 else math.inf
    never = None if math.isfinite(found) else "the line moves away from the target"
    open_end = None if math.isfinite(hi) else "some resampled lines never reach the target"
    estimate = Estimate(
        value=_ten_to(found), unit="", lo=_ten_to(lo), hi=_ten_to(hi), level=level,
        method=f"{num_resamples} resamples of the points", reason=never or open_end,
    )  # fmt: skip
    return Dated(how, float(intercept), float(slope), float(1 - left / np.sum((v - v.mean()) ** 2)), estimate)


def separating_x(
    x: ArrayLike, score: ArrayLike, lines: Sequence[Dated], *, num: int = 3, reach: float = 1e6
) -> float | None:
    """Smallest x beyond the data at which `num` more points would tell every two of the lines apart.

    Args:
        x, score: [n] the points that the lines were fitted to.
        lines: from `date`.
        num: points to be taken there.
        reach: how many times the largest x may be asked for.

    Returns:
        The x from which every two lines differ by four standard errors of a mean of `num` points (noise: the
        smallest residual standard deviation of the lines on the score), or None when none does within reach.
    """
    x_n, p = np.asarray(x, dtype=float), np.asarray(score, dtype=float)
    noise = min(float(np.sqrt(np.sum((p - line.score(x_n)) ** 2) / (len(p) - 2))) for line in lines)
    grid = np.geomspace(x_n.max(), x_n.max() * reach, 400)
    values = np.sort(np.stack([line.score(grid) for line in lines]), axis=0)
    apart = np.diff(values, axis=0).min(axis=0) >= 4 * noise / math.sqrt(num)
    return float(grid[np.argmax(apart)]) if apart.any() else None


def _ten_to(power: float) -> float | None:
    return 10.0**power if abs(power) < 300 else None


def _line(u: Array, v: Array) -> tuple[Array, Array]:
    """Slope and intercept of least squares over the last axis."""
    centred = u - u.mean(axis=-1, keepdims=True)
    slope = np.sum(centred * v, axis=-1) / np.sum(centred**2, axis=-1)
    return slope, v.mean(axis=-1) - slope * u.mean(axis=-1)


def _resampled_logs(u: Array, v: Array, goal: float, num: int, seed: int) -> Array:
    """log10 x of the date for each resample [num]; infinite where the line moves away from the target."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(u), size=(num, len(u)))
    flat = np.ptp(u[index], axis=1) == 0
    while flat.any():
        index[flat] = rng.integers(0, len(u), size=(int(flat.sum()), len(u)))
        flat = np.ptp(u[index], axis=1) == 0
    slope, intercept = _line(u[index], v[index])
    with np.errstate(divide="ignore"):
        found = (goal - intercept) / slope
    return np.where(slope * (goal - v.mean()) > 0, found, math.inf)
