"""Simple curves y(x) that people put through scores and losses: what each one states, and its derivatives.

Every family here is a sum of a few shapes, y = sum_l beta_l phi_l(u; nu): linear in `beta`, nonlinear in the
few shape coordinates `nu`. One definition of the shapes phi and of d phi / d nu gives the value, the whole
gradient and the linear solve that starts a fit. `u` is the normalised variable: ln(x / x_ref) for families
of log x (x_ref is then the geometric mean of the data's x) and x / x_ref for families of x (x_ref is then
the largest |x|), so that no coordinate depends on the units of x. `Family.natural` turns coordinates into
the parameters of the published form, and `Family.closed_form` is that form, written as its source has it.

Sources: power law with and without offset, M3 and M4: Alabdulmohsin, Neyshabur and Zhai 2022 (NeurIPS,
arXiv 2209.06640, section 3); broken power law: Caballero et al. 2022 (arXiv 2210.14891, equation 1, one
break); logistic in log x: Hill 1910; double descent is named after Belkin et al. 2019, who give no closed
form: ours is a power law with offset plus a bump that is Gaussian in log x.

Left out: how curves meet data (`isoflop.fit.curves.families`), which one to believe
(`isoflop.fit.curves.select`), and the joint laws of size and data (`chinchilla` and its neighbours).

Shape letters: B data sets, n points, L linear and K shape coordinates, P published parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class CurveError(ValueError):
    """A family that does not exist or does not apply to these numbers; the message says why and what does."""


class Shapes(NamedTuple):
    """Shapes phi [..., n, L] and their derivatives by the shape coordinates [..., n, L, K]."""

    phi: Array
    d_phi: Array


@dataclass(frozen=True)
class Coordinate:
    """One shape coordinate: its name, and bounds and starting values that follow the data's spread of u.

    `bounds(lo, hi)` and `grid(lo, hi)` take the smallest and largest u of the data (arrays [B]) and return
    arrays [B] and [B, G].
    """

    name: str
    bounds: Callable[[Array, Array], tuple[Array, Array]]
    grid: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Family:
    """One curve family. See the module's docstring for `u`, `beta` and `nu`."""

    name: str
    title: str
    formula: str
    source: str
    parameters: tuple[str, ...]
    """Names in the published form, in the order of `closed_form` and `natural`."""
    traits: frozenset[str]
    """What it claims about the curve: see `TRAITS`."""
    variable: Literal["log", "plain"]
    """Whether u is ln(x / x_ref), so that x must be positive, or x / x_ref."""
    num_linear: int
    coordinates: tuple[Coordinate, ...]
    shapes: Callable[[Array, Array], Shapes]
    natural: Callable[[Array, Array, Array], Array]
    """(beta [..., L], nu [..., K], x_ref [...]) -> published parameters [..., P]."""
    closed_form: Callable[..., Array]
    """(x, *parameters) -> y, exactly as published."""
    unit_interval: bool = False
    """True when y can only lie strictly between 0 and 1."""
    fixed_beta: tuple[float, ...] = ()
    """Set when the linear part is known rather than fitted."""

    @property
    def num_parameters(self) -> int:
        """Fitted parameters of the curve, the noise not counted."""
        return (0 if self.fixed_beta else self.num_linear) + len(self.coordinates)

    def reference(self, x: ArrayLike) -> Array:
        """x_ref for data x [..., n]: the geometric mean, or the largest |x|.

        Raises CurveError for an x that is not positive when the family needs its logarithm.
        """
        values = np.asarray(x, dtype=float)
        if self.variable == "log":
            if np.any(values <= 0):
                worst = float(values.min())
                raise CurveError(
                    f"{self.title} ({self.name}) needs x > 0, and the data hold x = {worst:g}; "
                    "leave such points out with a reason, shift x, or choose among "
                    + ", ".join(f.name for f in FAMILIES.values() if f.variable == "plain")
                )
            return np.exp(np.mean(np.log(values), axis=-1))
        largest = np.max(np.abs(values), axis=-1)
        return np.where(largest > 0, largest, 1.0)

    def normalise(self, x: ArrayLike, x_ref: ArrayLike) -> Array:
        """u for x [..., n] and x_ref [...]."""
        ratio = np.asarray(x, dtype=float) / np.asarray(x_ref, dtype=float)[..., None]
        return np.log(ratio) if self.variable == "log" else ratio

    def evaluate(self, u: Array, beta: Array, nu: Array) -> Array:
        """y [..., n] at normalised u [..., n]."""
        return np.asarray(np.einsum("...nl,...l->...n", self.shapes(u, nu).phi, beta))

    def evaluate_with_gradient(self, u: Array, beta: Array, nu: Array) -> tuple[Array, Array]:
        """y [..., n] and dy / d(beta, nu) [..., n, p]; beta drops out where it is known."""
        phi, d_phi = self.shapes(u, nu)
        y = np.einsum("...nl,...l->...n", phi, beta)
        by_nu = np.einsum("...nlk,...l->...nk", d_phi, beta)
        return y, by_nu if self.fixed_beta else np.concatenate([phi, by_nu], axis=-1)

    def starts(self, lo: Array, hi: Array) -> Array:
        """Starting shapes nu [B, G, K]: the product of the coordinates' grids for spreads lo, hi [B]."""
        if not self.coordinates:
            return np.zeros((*np.shape(lo), 1, 0))
        grids = [coordinate.grid(lo, hi) for coordinate in self.coordinates]
        picks = np.indices([grid.shape[-1] for grid in grids]).reshape(len(grids), -1)
        return np.stack([grid[..., pick] for grid, pick in zip(grids, picks, strict=True)], axis=-1)

    def bounds(self, lo: Array, hi: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of nu, each [B, K]."""
        if not self.coordinates:
            return np.zeros((*np.shape(lo), 0)), np.zeros((*np.shape(lo), 0))
        pairs = [coordinate.bounds(lo, hi) for coordinate in self.coordinates]
        return np.stack([p[0] for p in pairs], axis=-1), np.stack([p[1] for p in pairs], axis=-1)


TRAITS = {
    "flat": "does not change with x",
    "levels off": "can approach a finite limit as x grows",
    "no limit": "keeps changing as x grows",
    "straight": "is a straight line in x",
    "straight in log x": "is a straight line in log x",
    "bend": "has a place where the behaviour changes",
    "explosive": "grows faster than any power of x",
    "two-way": "can fall and rise again",
}


# ------------------------------------------------------------------------------------ shapes


def _softplus(s: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, s))


def _sigmoid(s: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -s)))


def _clipped_exp(s: Array) -> Array:
    """exp that stays finite: the fit rejects such values by their size, an overflow would only warn."""
    return np.asarray(np.exp(np.clip(s, -300.0, 300.0)))


def growth(u: Array, b: Array) -> tuple[Array, Array]:
    """(e^{b u} - 1) / b and its derivative by b; u and u^2 / 2 at b = 0.

    This is the power law (u = ln x) or exponential (u = x) without its constant and with unit slope at
    u = 0 (Box and Cox 1964), so that the fit passes smoothly through b = 0, where A x^b + E is the line
    a + s ln x.
    """
    bu = b * u
    small = np.abs(bu) < 1e-4
    safe = np.where(small, 1.0, b)
    grown = np.expm1(np.clip(bu, -300.0, 300.0))
    value = np.where(small, u * (1 + bu / 2 + bu**2 / 6), grown / safe)
    exact = (u * (grown + 1.0) - grown / safe) / safe
    slope = np.where(small, u**2 * (0.5 + bu / 3 + bu**2 / 8), exact)
    return value, slope


def _polynomial_shapes(degree: int) -> Callable[[Array, Array], Shapes]:
    def shapes(u: Array, nu: Array) -> Shapes:
        u = np.broadcast_to(u, np.broadcast_shapes(u.shape, (*nu.shape[:-1], 1)))
        phi = np.stack([u**power for power in range(degree + 1)], axis=-1)
        return Shapes(phi, np.zeros((*phi.shape, 0)))

    return shapes


def _power_shapes(u: Array, nu: Array) -> Shapes:
    b = nu[..., None, 0]
    value = _clipped_exp(b * u)
    return Shapes(value[..., None], (u * value)[..., None, None])


def _growth_shapes(u: Array, nu: Array) -> Shapes:
    value, slope = growth(u, nu[..., None, 0])
    one = np.ones_like(value)
    phi = np.stack([one, value], axis=-1)
    d_phi = np.stack([np.zeros_like(value), slope], axis=-1)[..., None]
    return Shapes(phi, d_phi)


def _shifted_power_shapes(u: Array, nu: Array) -> Shapes:
    """(1/z + g)^b with ln g and b; z = e^u."""
    ln_g, b = nu[..., None, 0], nu[..., None, 1]
    base = np.logaddexp(-u, ln_g)
    value = _clipped_exp(b * base)
    by_ln_g = b * _sigmoid(ln_g + u) * value
    return Shapes(value[..., None], np.stack([by_ln_g, base * value], axis=-1)[..., None, :])


def _logit_shapes(u: Array, nu: Array) -> Shapes:
    """sigma(k (u - tau)) with tau and k of either sign."""
    tau, k = nu[..., None, 0], nu[..., None, 1]
    value = _sigmoid(k * (u - tau))
    slope = value * (1 - value)
    return Shapes(value[..., None], np.stack([-k * slope, (u - tau) * slope], axis=-1)[..., None, :])


def _logistic_shapes(u: Array, nu: Array) -> Shapes:
    tau, ln_k = nu[..., None, 0], nu[..., None, 1]
    k = np.exp(ln_k)
    value = _sigmoid(k * (u - tau))
    slope = value * (1 - value)
    zero = np.zeros_like(value)
    phi = np.stack([np.ones_like(value), value], axis=-1)
    by_tau = np.stack([zero, -k * slope], axis=-1)
    by_ln_k = np.stack([zero, k * (u - tau) * slope], axis=-1)
    return Shapes(phi, np.stack([by_tau, by_ln_k], axis=-1))


def m4_fraction(eta: Array, alpha: Array) -> Array:
    """The t in (0, 1) with ln t - alpha ln(1 - t) = eta, for alpha > 0.

    Newton on q = logit t, where the left side is increasing with slope between 1 and alpha and curves one
    way only, so that it converges from the nearer asymptote.
    """
    eta, alpha = np.broadcast_arrays(np.asarray(eta, dtype=float), np.asarray(alpha, dtype=float))
    q = np.where(eta < 0, eta, eta / alpha)
    for _ in range(12):
        left = alpha * _softplus(q) - _softplus(-q)
        share = _sigmoid(q)
        step = (left - eta) / (1 - share + alpha * share)
        q = q - step
        if np.all(np.abs(step) <= 1e-12 * (1 + np.abs(q))):
            break
    return _sigmoid(q)


def _m4_shapes(u: Array, nu: Array) -> Shapes:
    """t(u) with ln t - alpha ln(1 - t) = -k (u - tau); coordinates tau, ln k, ln alpha."""
    tau, k, alpha = nu[..., None, 0], np.exp(nu[..., None, 1]), np.exp(nu[..., None, 2])
    eta = -k * (u - tau)
    t = np.clip(m4_fraction(eta, alpha), 1e-300, 1 - 1e-16)
    rate = t * (1 - t) / (1 - t + alpha * t)
    zero = np.zeros_like(t)
    phi = np.stack([np.ones_like(t), t], axis=-1)
    by = [k * rate, eta * rate, alpha * np.log1p(-t) * rate]
    return Shapes(phi, np.stack([np.stack([zero, column], axis=-1) for column in by], axis=-1))


def _broken_shapes(u: Array, nu: Array) -> Shapes:
    """z^-c0 (1 + (z/d)^(1/f))^(-c1 f) with c0, c1, ln d, ln f."""
    c0, c1, ln_d, f = nu[..., None, 0], nu[..., None, 1], nu[..., None, 2], np.exp(nu[..., None, 3])
    s = (u - ln_d) / f
    soft, share = _softplus(s), _sigmoid(s)
    value = _clipped_exp(-c0 * u - c1 * f * soft)
    zero = np.zeros_like(value)
    by = [-u * value, -f * soft * value, c1 * share * value, -c1 * f * (soft - s * share) * value]
    phi = np.stack([np.ones_like(value), value], axis=-1)
    return Shapes(phi, np.stack([np.stack([zero, column], axis=-1) for column in by], axis=-1))


def _descent_shapes(u: Array, nu: Array) -> Shapes:
    """1, growth(u, b), exp(-((u - peak) / width)^2 / 2) with b, peak, ln width."""
    value, slope = growth(u, nu[..., None, 0])
    s = (u - nu[..., None, 1]) / np.exp(nu[..., None, 2])
    bump = np.exp(-(s**2) / 2)
    zero = np.zeros_like(bump)
    phi = np.stack([np.ones_like(bump), value, bump], axis=-1)
    by_b = np.stack([zero, slope, zero], axis=-1)
    by_peak = np.stack([zero, zero, bump * s / np.exp(nu[..., None, 2])], axis=-1)
    by_width = np.stack([zero, zero, bump * s**2], axis=-1)
    return Shapes(phi, np.stack([by_b, by_peak, by_width], axis=-1))


# ------------------------------------------------------------------- from coordinates to parameters


def _natural_polynomial(beta: Array, nu: Array, x_ref: Array) -> Array:
    powers = np.arange(beta.shape[-1])
    return np.asarray(beta / x_ref[..., None] ** powers)


def _natural_log(beta: Array, nu: Array, x_ref: Array) -> Array:
    a, b = beta[..., 0], beta[..., 1]
    return np.stack([a - b * np.log(x_ref), b], axis=-1)


def _natural_power(beta: Array, nu: Array, x_ref: Array) -> Array:
    b = nu[..., 0]
    return np.stack([beta[..., 0] * x_ref**-b, b], axis=-1)


def _nonzero(b: Array) -> Array:
    """b, kept a hair away from 0, where the constant and the factor run to infinity together."""
    return np.where(np.abs(b) < 1e-9, np.where(b < 0, -1e-9, 1e-9), b)


def _natural_growth(beta: Array, nu: Array, x_ref: Array) -> Array:
    b = _nonzero(nu[..., 0])
    amplitude = beta[..., 1] / b
    return np.stack([beta[..., 0] - amplitude, amplitude * x_ref**-b, b], axis=-1)


def _natural_exponential(beta: Array, nu: Array, x_ref: Array) -> Array:
    b = _nonzero(nu[..., 0])
    amplitude = beta[..., 1] / b
    return np.stack([beta[..., 0] - amplitude, amplitude, b / x_ref], axis=-1)


def _natural_shifted(beta: Array, nu: Array, x_ref: Array) -> Array:
    b = nu[..., 1]
    return np.stack([beta[..., 0] * x_ref**b, np.exp(nu[..., 0]) / x_ref, b], axis=-1)


def _natural_logit(beta: Array, nu: Array, x_ref: Array) -> Array:
    return np.stack([x_ref * np.exp(nu[..., 0]), nu[..., 1]], axis=-1)


def _natural_logistic(beta: Array, nu: Array, x_ref: Array) -> Array:
    ends = [beta[..., 0], beta[..., 0] + beta[..., 1]]
    return np.stack([*ends, x_ref * np.exp(nu[..., 0]), np.exp(nu[..., 1])], axis=-1)


def _natural_m4(beta: Array, nu: Array, x_ref: Array) -> Array:
    e_inf, width = beta[..., 0], beta[..., 1]
    k, alpha = np.exp(nu[..., 1]), np.exp(nu[..., 2])
    ln_width = np.log(np.maximum(np.abs(width), 1e-300))
    ln_b = (1 - alpha) * ln_width + k * (nu[..., 0] + np.log(x_ref))
    return np.stack([e_inf, e_inf + width, _clipped_exp(ln_b), -k, alpha], axis=-1)


def _natural_broken(beta: Array, nu: Array, x_ref: Array) -> Array:
    c0 = nu[..., 0]
    rest = [c0, nu[..., 1], x_ref * np.exp(nu[..., 2]), np.exp(nu[..., 3])]
    return np.stack([beta[..., 0], beta[..., 1] * x_ref**c0, *rest], axis=-1)


def _natural_descent(beta: Array, nu: Array, x_ref: Array) -> Array:
    trend = _natural_growth(beta, nu, x_ref)
    bump = [beta[..., 2], x_ref * np.exp(nu[..., 1]), np.exp(nu[..., 2])]
    return np.concatenate([trend, np.stack(bump, axis=-1)], axis=-1)


# ------------------------------------------------------------------------- the forms as published


def constant(x: Array, c: float) -> Array:
    """y = c."""
    return np.full_like(np.asarray(x, dtype=float), c)


def polynomial(x: Array, *coefficients: float) -> Array:
    """y = a + b x + c x^2 + ..."""
    return np.asarray(sum(c * np.asarray(x, dtype=float) ** power for power, c in enumerate(coefficients)))


def logarithm(x: Array, a: float, b: float) -> Array:
    """y = a + b ln x."""
    return np.asarray(a + b * np.log(x))


def power(x: Array, A: float, b: float) -> Array:
    """y = A x^b (M1)."""
    return np.asarray(A * np.asarray(x, dtype=float) ** b)


def power_offset(x: Array, E: float, A: float, b: float) -> Array:
    """y = E + A x^b (M2)."""
    return np.asarray(E + A * np.asarray(x, dtype=float) ** b)


def shifted_power(x: Array, A: float, gamma: float, b: float) -> Array:
    """y = A (1/x + gamma)^b (M3)."""
    return np.asarray(A * (1 / np.asarray(x, dtype=float) + gamma) ** b)


def exponential(x: Array, E: float, A: float, rate: float) -> Array:
    """y = E + A e^(rate x)."""
    return np.asarray(E + A * np.exp(rate * np.asarray(x, dtype=float)))


def logit(x: Array, x50: float, k: float) -> Array:
    """y = 1 / (1 + (x / x50)^-k): the logit of y is a straight line in log x."""
    return np.asarray(1 / (1 + (np.asarray(x, dtype=float) / x50) ** -k))


def logistic(x: Array, floor: float, ceiling: float, x50: float, k: float) -> Array:
    """y = floor + (ceiling - floor) / (1 + (x / x50)^-k)."""
    return np.asarray(floor + (ceiling - floor) * logit(x, x50, k))


def m4(x: Array, e_inf: float, e_0: float, beta: float, c: float, alpha: float) -> Array:
    """The y between e_inf and e_0 with |y - e_inf| / |e_0 - y|^alpha = beta x^c (M4).

    Alabdulmohsin et al. 2022, equation 4; the absolute values let it also describe rising scores.
    """
    width = e_0 - e_inf
    eta = math.log(beta) + c * np.log(np.asarray(x, dtype=float)) - (1 - alpha) * math.log(abs(width))
    return np.asarray(e_inf + width * m4_fraction(eta, np.asarray(alpha)))


def broken_power(x: Array, a: float, b: float, c0: float, c1: float, d: float, f: float) -> Array:
    """y = a + b x^-c0 (1 + (x/d)^(1/f))^(-c1 f) (Caballero et al. 2022, one break at d)."""
    x = np.asarray(x, dtype=float)
    return np.asarray(a + b * x**-c0 * (1 + (x / d) ** (1 / f)) ** (-c1 * f))


def double_descent(x: Array, E: float, A: float, b: float, H: float, peak: float, width: float) -> Array:
    """y = E + A x^b + H exp(-(ln(x / peak) / width)^2 / 2)."""
    x = np.asarray(x, dtype=float)
    return np.asarray(E + A * x**b + H * np.exp(-((np.log(x / peak) / width) ** 2) / 2))


# -------------------------------------------------------------------------------- the families


def _spread(lo: Array, hi: Array) -> Array:
    """Spread of u over the data, kept above 0 for data at one x."""
    return np.maximum(np.asarray(hi, dtype=float) - lo, 1e-3)


def _place(name: str, *, quantiles: tuple[float, ...], out: tuple[float, float]) -> Coordinate:
    """A place on the u axis: starts at these shares of the spread, bounded `out` spreads beyond its ends."""

    def bounds(lo: Array, hi: Array) -> tuple[Array, Array]:
        return lo - out[0] * _spread(lo, hi), lo + (1 + out[1]) * _spread(lo, hi)

    def grid(lo: Array, hi: Array) -> Array:
        return np.asarray(lo)[..., None] + np.asarray(quantiles) * _spread(lo, hi)[..., None]

    return Coordinate(name, bounds, grid)


def _rate(name: str, starts: tuple[float, ...], limits: tuple[float, float]) -> Coordinate:
    """An exponent: starts and limits are those of its product with the spread of u, a pure number."""

    def bounds(lo: Array, hi: Array) -> tuple[Array, Array]:
        return limits[0] / _spread(lo, hi), limits[1] / _spread(lo, hi)

    def grid(lo: Array, hi: Array) -> Array:
        return np.asarray(starts) / _spread(lo, hi)[..., None]

    return Coordinate(name, bounds, grid)


def _ln_scale(name: str, starts: tuple[float, ...], limits: tuple[float, float], sign: int) -> Coordinate:
    """Logarithm of a positive width (sign 1) or rate (sign -1), as multiples of the spread of u."""

    def bounds(lo: Array, hi: Array) -> tuple[Array, Array]:
        shift = sign * np.log(_spread(lo, hi))
        return shift + math.log(limits[0]), shift + math.log(limits[1])

    def grid(lo: Array, hi: Array) -> Array:
        return np.asarray(sign * np.log(_spread(lo, hi))[..., None] + np.log(np.asarray(starts)))

    return Coordinate(name, bounds, grid)


def _ln_number(name: str, starts: tuple[float, ...], limits: tuple[float, float]) -> Coordinate:
    """Logarithm of a positive pure number."""

    def bounds(lo: Array, hi: Array) -> tuple[Array, Array]:
        one = np.ones(np.shape(lo))
        return one * math.log(limits[0]), one * math.log(limits[1])

    def grid(lo: Array, hi: Array) -> Array:
        return np.ones((*np.shape(lo), 1)) * np.log(np.asarray(starts))

    return Coordinate(name, bounds, grid)


_EXPONENT = _rate("b", (-12.0, -5.0, -2.0, -0.6, 0.6, 2.0, 5.0, 12.0), (-80.0, 80.0))
_ALABDULMOHSIN = "Alabdulmohsin et al. 2022"

_ALL = (
    Family(
        "constant", "constant", "y = c", "", ("c",), frozenset({"flat"}), "plain",
        1, (), _polynomial_shapes(0), _natural_polynomial, constant,
    ),
    Family(
        "linear", "straight line", "y = a + b x", "", ("a", "b"),
        frozenset({"straight", "no limit"}), "plain",
        2, (), _polynomial_shapes(1), _natural_polynomial, polynomial,
    ),
    Family(
        "log", "straight line in log x", "y = a + b ln x", "", ("a", "b"),
        frozenset({"straight in log x", "no limit"}), "log",
        2, (), _polynomial_shapes(1), _natural_log, logarithm,
    ),
    Family(
        "quadratic", "parabola", "y = a + b x + c x^2", "", ("a", "b", "c"),
        frozenset({"no limit", "two-way"}), "plain",
        3, (), _polynomial_shapes(2), _natural_polynomial, polynomial,
    ),
    Family(
        "cubic", "cubic", "y = a + b x + c x^2 + d x^3", "", ("a", "b", "c", "d"),
        frozenset({"no limit", "two-way"}), "plain",
        4, (), _polynomial_shapes(3), _natural_polynomial, polynomial,
    ),
    Family(
        "power", "power law", "y = A x^b", f"{_ALABDULMOHSIN}, M1", ("A", "b"),
        frozenset({"no limit"}), "log",
        1, (_EXPONENT,), _power_shapes, _natural_power, power,
    ),
    Family(
        "power_offset", "power law with offset", "y = E + A x^b", f"{_ALABDULMOHSIN}, M2", ("E", "A", "b"),
        frozenset({"levels off", "no limit"}), "log",
        2, (_EXPONENT,), _growth_shapes, _natural_growth, power_offset,
    ),
    Family(
        "shifted_power", "power law of a shifted 1/x", "y = A (1/x + gamma)^b", f"{_ALABDULMOHSIN}, M3",
        ("A", "gamma", "b"), frozenset({"levels off"}), "log",
        1, (_place("ln g", quantiles=(-1.0, -0.5, 0.0, 0.5, 1.0), out=(3.0, 3.0)), _EXPONENT),
        _shifted_power_shapes, _natural_shifted, shifted_power,
    ),
    Family(
        "exponential", "exponential", "y = E + A e^(rate x)", "", ("E", "A", "rate"),
        frozenset({"explosive", "levels off", "no limit"}), "plain",
        2, (_rate("rate", (-300.0, -40.0, -8.0, -2.0, -0.6, 0.6, 2.0, 8.0), (-3000.0, 80.0)),),
        _growth_shapes, _natural_exponential, exponential,
    ),
    Family(
        "logit", "logistic in log x from 0 to 1", "y = 1 / (1 + (x / x50)^-k)", "Hill 1910", ("x50", "k"),
        frozenset({"levels off"}), "log",
        1, (_place("tau", quantiles=(-1.0, 0.0, 0.5, 1.0, 2.0), out=(20.0, 20.0)),
            _rate("k", (-30.0, -8.0, -2.0, 2.0, 8.0, 30.0), (-400.0, 400.0))),
        _logit_shapes, _natural_logit, logit, True, (1.0,),
    ),
    Family(
        "logistic", "logistic in log x", "y = floor + (ceiling - floor) / (1 + (x / x50)^-k)", "Hill 1910",
        ("floor", "ceiling", "x50", "k"), frozenset({"levels off", "bend"}), "log",
        2, (_place("tau", quantiles=(-0.3, 0.1, 0.35, 0.6, 0.85, 1.2), out=(1.0, 1.0)),
            _ln_scale("ln k", (3.0, 10.0, 40.0), (0.5, 400.0), -1)),
        _logistic_shapes, _natural_logistic, logistic,
    ),
    Family(
        "m4", "M4", "|y - e_inf| / |e_0 - y|^alpha = beta x^c", f"{_ALABDULMOHSIN}, M4",
        ("e_inf", "e_0", "beta", "c", "alpha"), frozenset({"levels off", "bend"}), "log",
        2, (_place("tau", quantiles=(-0.3, 0.1, 0.4, 0.7, 1.0), out=(1.5, 1.5)),
            _ln_scale("ln k", (2.0, 6.0, 25.0), (0.2, 400.0), -1),
            _ln_number("ln alpha", (0.3, 1.0, 3.0), (0.05, 20.0))),
        _m4_shapes, _natural_m4, m4,
    ),
    Family(
        "broken_power", "broken power law", "y = a + b x^-c0 (1 + (x/d)^(1/f))^(-c1 f)",
        "Caballero et al. 2022, one break", ("a", "b", "c0", "c1", "d", "f"),
        frozenset({"levels off", "no limit", "bend"}), "log",
        2, (_rate("c0", (-2.0, 0.5, 3.0), (-30.0, 30.0)), _rate("c1", (-6.0, -2.0, 2.0, 6.0), (-60.0, 60.0)),
            _place("ln d", quantiles=(0.25, 0.5, 0.75), out=(0.0, 0.0)),
            _ln_scale("ln f", (0.03, 0.2), (0.003, 1.0), 1)),
        _broken_shapes, _natural_broken, broken_power,
    ),
    Family(
        "double_descent", "double descent", "y = E + A x^b + H exp(-(ln(x / peak) / width)^2 / 2)",
        "named after Belkin et al. 2019; own closed form", ("E", "A", "b", "H", "peak", "width"),
        frozenset({"levels off", "no limit", "bend", "two-way"}), "log",
        3, (_rate("b", (-4.0, -1.0, 1.0), (-40.0, 40.0)),
            _place("ln peak", quantiles=(0.15, 0.35, 0.55, 0.75, 0.95), out=(0.2, 0.2)),
            _ln_scale("ln width", (0.05, 0.15), (0.01, 0.5), 1)),
        _descent_shapes, _natural_descent, double_descent,
    ),
)  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""Every family by name, from the fewest parameters to the most."""


def find(name: str) -> Family:
    """The family of this name. Raises CurveError that lists the names there are."""
    if name not in FAMILIES:
        raise CurveError(f"no curve family named {name!r}; there are: {', '.join(FAMILIES)}")
    return FAMILIES[name]
