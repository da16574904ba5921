"""Where will this falling curve go? A forecast of a loss or error rate beyond its data, with its odds.

Five descriptions of the same curve are fitted to ln y, each with weak priors on scale-free quantities, and
averaged; no single one is trusted. Four are laws (M3 and M4 of Alabdulmohsin et al. 2022, a broken power law
of Caballero et al. 2022, and a power law with offset times one hump for double descent), fitted to their
posterior mode with the irreducible part kept below the data and exponents pulled to usual values, and each
carries on what it misses where the data end (`loss_misfit`). The fifth assumes no form: the local exponent
d ln y / d ln x wanders (an integrated Ornstein-Uhlenbeck process), and is carried on with the uncertainty it
has earned. Where other curves of a kind are known, the priors and the width are theirs (`loss_calibration`).

The weights are the evidences to a power below 1 (see `LOOKS`), because a description that is wrong in detail
everywhere is not thereby worse ahead. The interval is a Student t with the mixture's variance, times a width.
All settings come from curves made up for the
purpose and from forecasts inside the first half of public curves (the half that is not scored): see
benchmarks/extrapolation.py.

A curve of best values so far is told apart (`best_so_far`): a measurement lies above it.

Left out: rising scores (use `isoflop.fit.curves.extrapolate`), and forecasts of what a schedule or new data do.

Shape letters: S starts, n points, p parameters, m places to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from isoflop.fit.curves.best_so_far import BestSoFar, hidden_noise
from isoflop.fit.curves.loss_misfit import Linearised, carry_misfit
from isoflop.laws import curves
from isoflop.laws.curves import Array, CurveError

FEWEST_POINTS = 4
"""Distinct x below which nothing can be said about a curve."""
MOST_POINTS = 48
"""Longer curves are averaged down to about so many points, early ones kept apart."""
LOOKS = 5.0
"""Independent looks at its shape that a curve holds, however many points it has.

The evidence is raised to LOOKS / n (at most 1) in the weights: misfit is correlated along a curve, so n points
that miss together must not count n times.
"""
WIDTH = 0.7
"""Scale of the Student t as a share of the mixture's standard deviation, where no other curves are known.

Between the widths at which forecasts inside training halves of the two most erratic kinds of curve hold nine
tenths of what followed; smooth kinds need half as much. An interval is most wanted where nothing similar has
been seen.
"""
FREEDOM = 3.0
"""Degrees of freedom of the forecast's Student t: sudden changes of course are real."""
AS_NORMAL = 0.49
"""(1.645 / 2.353)^2: a scale squared that gives the Student t the 90 % interval of this normal variance."""
MOST_PLACES = 96
"""More places than these are interpolated between so many, evenly spaced in ln x."""
SCREENED_POINTS = 14
"""Points at which the grid of starts is compared."""


@dataclass(frozen=True)
class ShapePrior:
    """Where the parameters of one law lie for curves of a kind, beside its usual prior."""

    shift: Array
    """[p] to be added to the usual prior means."""
    sd: Array
    """[p]"""


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of curve before one is seen."""

    width: float = WIDTH
    """Scale of the Student t as a share of the mixture's standard deviation, > 0."""
    best_so_far: bool = False
    """Curves that never rise are best values so far, also where none repeats."""
    shapes: Mapping[str, ShapePrior] = field(default_factory=dict)
    """By law; the usual prior for a law that is not there."""


@dataclass(frozen=True)
class ShapeFit:
    """One law fitted to one curve, relative to its usual prior."""

    law: str
    from_usual: Array
    """[p] parameters less their usual prior means."""
    variance: Array
    """[p] of the posterior, by Laplace's method."""
    usual_sd: Array
    """[p]"""


@dataclass(frozen=True)
class Component:
    """What one description says, in ln y."""

    name: str
    weight: float
    ln_y: Array
    """[m]"""


@dataclass(frozen=True)
class LossForecast:
    """A predictive distribution at each place: ln y is Student t with this centre and scale."""

    x: Array
    """[m]"""
    centre: Array
    """[m] of ln y."""
    scale: Array
    """[m] of ln y."""
    components: tuple[Component, ...]
    best_so_far: BestSoFar | None
    """What the data hide when they are best values so far and a measurement was asked for."""

    @property
    def median(self) -> Array:
        """[m]"""
        return np.exp(self.centre)

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper ends [m] of the central interval of this level for a measured y."""
        from scipy.stats import t

        reach = t.ppf((1 + level) / 2, FREEDOM) * self.scale
        return np.exp(self.centre - reach), np.exp(self.centre + reach)

    def below(self, y: float) -> Array:
        """Probability [m] that a measured y is at or below this one."""
        from scipy.stats import t

        return np.asarray(t.cdf((np.log(y) - self.centre) / self.scale, FREEDOM))


class _Prior(NamedTuple):
    """Independent normal priors of the parameters, [p] each."""

    mean: Array
    sd: Array


class _Data(NamedTuple):
    u: Array
    """[n] ln x, centred."""
    v: Array
    """[n] ln y."""
    repeats: Array
    """[n] measurements averaged in each point."""
    centre: float
    """ln x of u = 0."""
    x: Array
    """Distinct places before averaging."""
    y: Array
    """Mean y at each."""

    @property
    def spread(self) -> tuple[float, float]:
        return float(self.u[0]), float(self.u[-1])


LogCurve = Callable[[Array, Array, float], tuple[Array, Array]]
"""(u [n], theta [S, p], smallest y) -> ln y [S, n] and its derivatives [S, n, p]."""


@dataclass(frozen=True)
class _Law:
    name: str
    log_curve: LogCurve
    prior: Callable[[_Data], _Prior]
    starts: Callable[[_Data, _Prior], Array]


def forecast_losses(
    x: ArrayLike,
    y: ArrayLike,
    x_new: ArrayLike,
    *,
    kind: Kind = Kind(),
    measured: bool = True,
) -> LossForecast:
    """Forecast a falling, positive curve.

    Args:
        x, y: [n] the data, both > 0, in any order; exact repeats of a point count once, several y at one x
            are averaged.
        x_new: [m] places to predict, > 0, usually beyond the data.
        kind: what is known of curves of this kind; `loss_calibration` learns it from other curves.
        measured: predict a plain measurement, which lies above data that are best values so far; False
            predicts more of the same.

    Raises:
        CurveError: x or y not positive, or fewer than `FEWEST_POINTS` distinct x.
    """
    data = _prepare(np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel())
    places = np.atleast_1d(np.asarray(x_new, dtype=float))
    if np.any(~(places > 0)):
        raise CurveError("a forecast of a loss needs x > 0 to predict at")
    u_all = np.log(places) - data.centre
    u_new = np.unique(u_all)  # in order, as interpolation needs it
    if len(u_new) > MOST_PLACES:
        u_new = np.linspace(u_all.min(), u_all.max(), MOST_PLACES)
    said = [_wandering_exponent(data, u_new)]
    said += [_predict(law, data, _prior(law, data, kind), u_new) for law in _LAWS]
    evidence = np.array([s.log_evidence for s in said])
    weight = np.exp(min(1.0, LOOKS / len(data.u)) * (evidence - evidence.max()))
    weight /= weight.sum()
    ln_y = np.stack([s.ln_y for s in said])
    variance = weight @ np.stack([s.variance for s in said]) + weight @ (ln_y - weight @ ln_y) ** 2
    ln_y = np.stack([np.interp(u_all, u_new, row) for row in ln_y])
    variance = kind.width**2 * np.interp(u_all, u_new, variance)
    hidden = hidden_noise(data.x, data.y, known=kind.best_so_far) if measured else None
    if hidden is not None:
        ln_y = ln_y + hidden.above
        variance = variance + AS_NORMAL * (hidden.noise**2 + hidden.above_sd**2)
    components = tuple(Component(s.name, float(w), row) for s, w, row in zip(said, weight, ln_y, strict=True))
    return LossForecast(places, weight @ ln_y, np.sqrt(variance), components, hidden)


def _prepare(x: Array, y: Array) -> _Data:
    """Sort, merge repeats, average long curves down, centre ln x."""
    if not (np.isfinite(x).all() and np.isfinite(y).all() and len(x) == len(y)):
        raise CurveError("x and y must be finite and equally many; leave a missing loss out and say why")
    if np.any(x <= 0) or np.any(y <= 0):
        raise CurveError(
            "a loss curve needs x > 0 and y > 0; use isoflop.fit.curves.extrapolate for other scores"
        )
    points = np.unique(np.stack([x, y], axis=1), axis=0)
    u_all, v_all = np.log(points[:, 0]), np.log(points[:, 1])
    u, index, count = np.unique(u_all, return_inverse=True, return_counts=True)
    v = np.bincount(index.ravel(), v_all) / count
    if len(u) < FEWEST_POINTS:
        raise CurveError(f"{len(u)} distinct x cannot be forecast from; {FEWEST_POINTS} are the fewest")
    distinct = np.exp(u), np.exp(v)
    if len(u) > MOST_POINTS:
        edges = np.unique(np.round(np.linspace(0, 1, MOST_POINTS + 1) ** 1.5 * len(u)).astype(int))[:-1]
        total = np.add.reduceat(count, edges).astype(float)
        u = np.add.reduceat(u * count, edges) / total
        v = np.add.reduceat(v * count, edges) / total
        count = total
    centre = float(u.mean())
    return _Data(u - centre, v, count.astype(float), centre, *distinct)


# ------------------------------------------------------------------------------- the four laws


def _sigmoid(s: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(s, -60, 60))))


def _with_offset(family: curves.Family) -> LogCurve:
    """ln(E + A phi(u; nu)) with E = smallest y times sigmoid(rho); theta = (rho, ln A, *nu)."""

    def log_curve(u: Array, theta: Array, smallest: float) -> tuple[Array, Array]:
        share = _sigmoid(theta[:, :1])
        factor = np.exp(np.clip(theta[:, 1:2], -60, 60))
        phi, d_phi = family.shapes(u, theta[:, 2:])
        part = factor * phi[..., -1]
        y = smallest * share + part
        by_rho = smallest * share * (1 - share) / y
        by_nu = factor[..., None] * d_phi[..., -1, :] / y[..., None]
        gradient = np.concatenate([by_rho[..., None], (part / y)[..., None], by_nu], axis=-1)
        return np.log(y), gradient

    return log_curve


def _hump(u: Array, theta: Array, smallest: float) -> tuple[Array, Array]:
    """ln(E + A e^(-b u)) + h exp(-((u - m)/w)^2 / 2); theta = (rho, ln A, b, h, m, ln w)."""
    share = _sigmoid(theta[:, :1])
    b, h, m, w = theta[:, 2:3], theta[:, 3:4], theta[:, 4:5], np.exp(np.clip(theta[:, 5:6], -20, 20))
    part = np.exp(np.clip(theta[:, 1:2] - b * u, -60, 60))
    y = smallest * share + part
    z = (u - m) / w
    bump = np.exp(-(z**2) / 2)
    columns = [
        smallest * share * (1 - share) / y,
        part / y,
        -u * part / y,
        bump,
        h * bump * z / w,
        h * bump * z**2,
    ]
    return np.log(y) + h * bump, np.stack(columns, axis=-1)


def _prior_m4(data: _Data) -> _Prior:
    """Half of the smallest y may be irreducible; exponent about 0.6; the start is near the first points."""
    lo, hi = data.spread
    y = np.exp(data.v)
    width = np.log(y.max() - 0.5 * y.min())
    return _Prior(
        np.array([-0.5, width, lo + 0.3 * (hi - lo), np.log(0.6), 0.0]),
        np.array([2.0, 0.7, hi - lo, 0.5, 0.5]),
    )


def _prior_broken(data: _Data) -> _Prior:
    lo, hi = data.spread
    return _Prior(
        np.array([-0.5, np.median(data.v), 0.1, 0.2, (lo + hi) / 2, np.log(0.3)]),
        np.array([2.0, 2.0, 0.15, 0.25, 0.3 * (hi - lo), 1.0]),
    )


def _prior_shifted(data: _Data) -> _Prior:
    return _Prior(
        np.array([-3.0, np.median(data.v), -data.u[-1] - 1.0, 0.25]),
        np.array([2.0, 2.0, 3.0, 0.25]),
    )


def _prior_hump(data: _Data) -> _Prior:
    lo, hi = data.spread
    return _Prior(
        np.array([-0.5, np.median(data.v) + np.log(0.7), 0.5, 0.0, lo + 0.7 * (hi - lo), np.log(0.4)]),
        np.array([2.0, 1.5, 0.5, 0.3, 0.4 * (hi - lo), 0.5]),
    )


def _family_starts(family: curves.Family) -> Callable[[_Data, _Prior], Array]:
    """The family's own grid, as it is and pulled towards the prior, at three irreducible shares."""

    def starts(data: _Data, prior: _Prior) -> Array:
        lo, hi = (np.array([end]) for end in data.spread)
        grid = family.starts(lo, hi)[0]
        mean, sd = prior.mean[2:], prior.sd[2:]
        grid = np.concatenate([grid, np.clip(grid, mean - 1.5 * sd, mean + 1.5 * sd), mean[None]])
        shape = np.log(np.maximum(family.shapes(data.u, grid).phi[..., -1], 1e-300))
        return np.concatenate([_levelled(data, rho, shape, grid) for rho in (-3.0, 0.0, 2.0)])

    return starts


def _levelled(data: _Data, rho: float, shape: Array, rest: Array) -> Array:
    """Starts theta [S, p] whose factor A fits the level: mean of ln(y - E) - ln phi."""
    y = np.exp(data.v)
    above = np.log(y - y.min() * float(_sigmoid(np.array(rho))))
    level = np.mean(above - shape, axis=1)
    return np.concatenate([np.full((len(rest), 1), rho), level[:, None], rest], axis=1)


def _hump_starts(data: _Data, prior: _Prior) -> Array:
    lo, hi = data.spread
    places = lo + (hi - lo) * np.array([0.3, 0.5, 0.65, 0.8, 0.95])
    bumps = np.array([[h, m, np.log(w)] for m in places for w in (0.2, 0.5) for h in (0.02, 0.3)])
    grid = np.concatenate([np.insert(bumps, 0, b, axis=1) for b in (0.15, 0.5, 1.5)])
    shape = -grid[:, :1] * data.u
    return np.concatenate([_levelled(data, rho, shape, grid) for rho in (-2.0, 0.0, 2.0)])


def _law(name: str, prior: Callable[[_Data], _Prior]) -> _Law:
    family = curves.find(name)
    return _Law(name, _with_offset(family), prior, _family_starts(family))


_LAWS = (
    _law("m4", _prior_m4),
    _law("broken_power", _prior_broken),
    _law("shifted_power", _prior_shifted),
    _Law("hump", _hump, _prior_hump, _hump_starts),
)


# ----------------------------------------------------------------------------- posterior modes


class _Said(NamedTuple):
    """One description's forecast."""

    name: str
    ln_y: Array
    """[m]"""
    variance: Array
    """[m] of a measured ln y."""
    log_evidence: float


class _Mode(NamedTuple):
    theta: Array
    """[p]"""
    sigma: float
    """Standard deviation of one measured ln y."""
    fitted: Array
    """[n] ln y."""
    gradient: Array
    """[n, p]"""
    smallest: float
    """Smallest y of the data."""


def fit_shapes(x: ArrayLike, y: ArrayLike) -> list[ShapeFit]:
    """Every law's parameters for one curve under the usual priors.

    Args:
        x, y: [n] as in `forecast_losses`.

    Raises:
        CurveError: as `forecast_losses`.
    """
    data = _prepare(np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel())
    found = []
    for law in _LAWS:
        prior = law.prior(data)
        mode = _mode(law, data, prior)
        information = mode.gradient.T @ (mode.gradient * data.repeats[:, None]) / mode.sigma**2
        variance = np.diag(np.linalg.inv(information + np.diag(1 / prior.sd**2)))
        found.append(ShapeFit(law.name, mode.theta - prior.mean, variance, prior.sd))
    return found


def _prior(law: _Law, data: _Data, kind: Kind) -> _Prior:
    usual = law.prior(data)
    learned = kind.shapes.get(law.name)
    return usual if learned is None else _Prior(usual.mean + learned.shift, learned.sd)


def _predict(law: _Law, data: _Data, prior: _Prior, u_new: Array) -> _Said:
    """One law's forecast with the misfit carried on."""
    mode = _mode(law, data, prior)
    ln_y, gradient_new = law.log_curve(u_new, mode.theta[None], mode.smallest)
    residual = data.v - mode.fitted
    at_mode = Linearised(residual, mode.gradient, gradient_new[0], mode.theta - prior.mean, prior.sd)
    carried = carry_misfit(at_mode, data.u, data.repeats, u_new)
    return _Said(law.name, ln_y[0] + carried.shift, carried.variance, carried.log_evidence)


def _mode(law: _Law, data: _Data, prior: _Prior) -> _Mode:
    """Posterior mode of one law under independent noise."""
    smallest = float(np.exp(data.v.min()))
    theta = law.starts(data, prior)
    sigma = 0.03
    some = _thinned(data)
    coarse = sigma * np.sqrt(len(some.u) / len(data.u))
    cost = _cost(some, prior, coarse, theta, law.log_curve(some.u, theta, smallest)[0])
    theta = theta[np.argsort(cost)[:4]]
    for keep, steps in ((2, 10), (1, 8), (1, 8)):
        theta, cost = _climb(law, data, prior, smallest, sigma, theta, steps)
        theta = theta[np.argsort(cost)[:keep]]
        sigma = _noise(law, data, smallest, theta[0])
    theta, _ = _climb(law, data, prior, smallest, sigma, theta[:1], 8)
    fitted, gradient = law.log_curve(data.u, theta, smallest)
    return _Mode(theta[0], sigma, fitted[0], gradient[0], smallest)


def _thinned(data: _Data) -> _Data:
    """Some of the points, ends included: enough to compare starts by."""
    pick = np.unique(np.linspace(0, len(data.u) - 1, SCREENED_POINTS).round().astype(int))
    return data._replace(u=data.u[pick], v=data.v[pick], repeats=data.repeats[pick])


def _noise(law: _Law, data: _Data, smallest: float, theta: Array) -> float:
    """Standard deviation of one measured ln y: residuals and two pseudo-points at 0.3 %."""
    residual = data.v - law.log_curve(data.u, theta[None], smallest)[0][0]
    freedom = max(len(data.u) - len(theta) / 2, 1.0)
    return float(np.sqrt((np.sum(data.repeats * residual**2) + 2 * 0.003**2) / (freedom + 2)))


def _cost(data: _Data, prior: _Prior, sigma: float, theta: Array, ln_y: Array) -> Array:
    """Minus twice the log posterior [S], up to a constant."""
    residual = data.v - ln_y
    cost = residual**2 @ data.repeats / sigma**2 + np.sum(((theta - prior.mean) / prior.sd) ** 2, axis=1)
    return np.where(np.isfinite(cost), cost, 1e300)


def _climb(
    law: _Law, data: _Data, prior: _Prior, smallest: float, sigma: float, theta: Array, steps: int
) -> tuple[Array, Array]:
    """Damped Gauss-Newton steps from each start; returns theta [S, p] and cost [S]."""
    ln_y, gradient = law.log_curve(data.u, theta, smallest)
    cost = _cost(data, prior, sigma, theta, ln_y)
    damping = np.full(len(theta), 1e-2)
    precision = 1 / prior.sd**2
    diagonal = np.arange(theta.shape[1])
    for _ in range(steps):
        weighted = np.swapaxes(gradient * (data.repeats / sigma**2)[:, None], 1, 2)
        system = np.matmul(weighted, gradient)
        system[:, diagonal, diagonal] += precision
        system[:, diagonal, diagonal] *= 1 + damping[:, None]
        downhill = np.matmul(weighted, (data.v - ln_y)[..., None])[..., 0] - (theta - prior.mean) * precision
        trial = theta + np.clip(np.linalg.solve(system, downhill[..., None])[..., 0], -2.0, 2.0)
        trial_ln_y, trial_gradient = law.log_curve(data.u, trial, smallest)
        trial_cost = _cost(data, prior, sigma, trial, trial_ln_y)
        better = trial_cost < cost
        rest = np.abs(cost - trial_cost) <= 1e-5 * np.maximum(cost, 1.0)
        theta = np.where(better[:, None], trial, theta)
        ln_y = np.where(better[:, None], trial_ln_y, ln_y)
        gradient = np.where(better[:, None, None], trial_gradient, gradient)
        cost = np.where(better, trial_cost, cost)
        damping = np.where(better, damping / 5, damping * 4)
        if np.all(rest | (damping > 1e8)):
            break
    return theta, cost


# --------------------------------------------------------------------------- no law: a local exponent

_EXPONENT = (-0.15, 0.15)
"""Prior mean and standard deviation of the long-run exponent d ln y / d ln x."""
_WANDER = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations of the local exponent around it, equally likely."""
_MEMORY = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Lengths in ln x over which the local exponent is remembered, equally likely."""
_NOISE = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Standard deviations of one measured ln y, equally likely."""
_LEVEL_VARIANCE = 100.0


def _integrated_ou(a: Array, b: Array, length: Array) -> Array:
    """Covariance of the integrals from 0 to a [i] and to b [j] of a unit Ornstein-Uhlenbeck process.

    `length` [k] gives [k, i, j]. Double integral of exp(-|s - t| / length), in closed form.
    """
    scale = length[:, None, None]
    first, second = a[None, :, None] / scale, b[None, None, :] / scale
    shape = (
        2 * np.minimum(first, second) + np.exp(-first) + np.exp(-second) - 1 - np.exp(-np.abs(first - second))
    )
    return np.asarray(scale**2 * shape)


def _wandering_exponent(data: _Data, u_new: Array) -> _Said:
    """Gaussian-process regression of ln y, averaged over the grid of wander, memory and noise."""
    start = min(float(data.u[0]), float(u_new.min()))
    a, b = data.u - start, u_new - start
    mean, sd = _EXPONENT
    length, variance = np.array(_MEMORY), np.array(_WANDER) ** 2
    noise = np.array(_NOISE) ** 2

    def covariance(left: Array, right: Array) -> Array:
        wander = variance[:, None, None, None] * _integrated_ou(left, right, length)
        line = sd**2 * left[:, None] * right + _LEVEL_VARIANCE
        return (wander + line).reshape(-1, len(left), len(right))

    same = covariance(a, a)[:, None] + noise[:, None, None] * np.diag(1 / data.repeats)
    root = np.linalg.cholesky(same.reshape(-1, len(a), len(a)))
    residual = data.v - mean * a
    white = np.linalg.solve(root, np.broadcast_to(residual, (len(root), len(a)))[..., None])[..., 0]
    fit = -np.sum(white**2, axis=1) / 2 - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    weight = np.exp(fit - fit.max())
    evidence = float(np.log(weight.mean()) + fit.max())
    keep = np.flatnonzero(weight > 1e-3 * weight.sum())
    weight = weight[keep] / weight[keep].sum()
    which, level = keep // len(noise), noise[keep % len(noise)]
    cross = covariance(a, b)[which]
    whitened = np.linalg.solve(root[keep], cross)
    centres = np.einsum("gnm,gn->gm", whitened, white[keep]) + mean * b
    spread = _own_variance(b, length, variance, sd)[which] - np.sum(whitened**2, axis=1) + level[:, None]
    centre = weight @ centres
    return _Said("wandering exponent", centre, weight @ (spread + (centres - centre) ** 2), evidence)


def _own_variance(b: Array, length: Array, variance: Array, sd: float) -> Array:
    """Prior variance [combinations, m] of ln y at b [m]."""
    ratio = b / length[:, None]
    wander = length[:, None] ** 2 * (2 * ratio + 2 * np.exp(-ratio) - 2)
    return (variance[:, None, None] * wander + sd**2 * b**2 + _LEVEL_VARIANCE).reshape(-1, len(b))
