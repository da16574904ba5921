"""The geometry of one isoFLOP bowl: where it is lowest, how wide its bottom is, and how sure that is.

A bowl is a curve in t = ln N - centre with four parameters, (level, slope, c2, skew),

    f(t) = level + slope t + c2 phi(t; skew)                                  (nats/token)
    phi  = t^2                                          parabola         (degree 2)
    phi  = t^2 + s t^3 / 3                              cubic            (degree 3)
    phi  = t^2 + s t^3 / 3 + (s^2 + p) t^4 / 12         quartic          (degree 4), s = skew

so that s = f'''/f'' at the centre. Why these: the profile of a law E + A/N^alpha + B/D^beta at fixed C = 6 N D
is a constant plus A' e^(-alpha t) + B' e^(beta t), whose second derivative obeys
f'''' = (beta - alpha) f''' + alpha beta f'' everywhere. The quartic takes this equation at the centre with
p = alpha beta held at `PRODUCT`: it costs no parameter, removes most of the cubic's error on a wide window
(a cubic sets f'''' = 0, a wrong value that nobody would choose), and it is convex for every s, so
a bowl of positive curvature always has one minimum and two edges.

Parameters lie on the last axis of an array; every leading axis is a batch, so that one fit of a user and a
hundred thousand simulated ones go through the same lines. Undefined is NaN inside this module (arrays know
no None); `isoflop.fit.isoflop.sweep` turns each NaN into None with its reason.

Left out: data, noise and the fit itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Quantity = Callable[[Array], tuple[Array, Array]]
"""Parameters [..., m] -> value [...] and its gradient [..., m]; NaN where undefined."""

NUM_PARAMETERS = 4
PRODUCT = 0.12
"""alpha beta of published laws of language models: 0.05 (OLMo), 0.10 (Hoffmann 2022), 0.12 (Muennighoff 2023),
0.13 (Besiroglu 2024). Being off by a factor 2 leaves half of the error that a cubic has."""

_NEWTON_STEPS = 12
"""From the starts used here Newton converges monotonically after one step; twelve reach machine precision
within |s|, |t| of a few units."""


@dataclass(frozen=True)
class Family:
    """Which curve, and what share above the lowest loss delimits the basin."""

    degree: int
    """2, 3 or 4."""
    eps: float

    def fourth(self, s: Array) -> Array:
        """Second derivative of phi's t^4 part at unit t^2: s^2 + p, or 0 below degree 4."""
        return s * s + PRODUCT if self.degree == 4 else np.zeros_like(s)

    def phi(self, t: Array, s: Array) -> Array:
        return t * t * (1 + t * (s / 3 + t * self.fourth(s) / 12))

    def phi_slope(self, t: Array, s: Array) -> Array:
        return t * (2 + t * (s + t * self.fourth(s) / 3))

    def phi_curvature(self, t: Array, s: Array) -> Array:
        return 2 + t * (2 * s + t * self.fourth(s))

    def phi_by_skew(self, t: Array, s: Array) -> Array:
        """d phi / d s."""
        third = t * t * t / 3
        return third + t * third * s / 2 if self.degree == 4 else third

    def phi_slope_by_skew(self, t: Array, s: Array) -> Array:
        square = t * t
        return square + t * square * s * 2 / 3 if self.degree == 4 else square

    def evaluate(self, parameters: Array, t: Array) -> Array:
        """f(t); the batch axes of `parameters` and `t` broadcast."""
        level, slope, c2, s = np.moveaxis(parameters, -1, 0)
        return level + slope * t + c2 * self.phi(t, s)

    def rows(self, parameters: Array, t: Array) -> Array:
        """Gradient of f(t) by the parameters, on a new last axis."""
        _, _, c2, s = np.moveaxis(parameters, -1, 0)
        return np.stack([np.ones_like(t), t, self.phi(t, s), c2 * self.phi_by_skew(t, s)], axis=-1)

    def slope_rows(self, parameters: Array, t: Array) -> Array:
        """Gradient of f'(t) by the parameters."""
        _, _, c2, s = np.moveaxis(parameters, -1, 0)
        return np.stack(
            [np.zeros_like(t), np.ones_like(t), self.phi_slope(t, s), c2 * self.phi_slope_by_skew(t, s)],
            axis=-1,
        )

    def polynomial(self, parameters: Array) -> Array:
        """Coefficients of t^0 ... t^degree, on the last axis."""
        level, slope, c2, s = np.moveaxis(parameters, -1, 0)
        every = [level, slope, c2, c2 * s / 3, c2 * self.fourth(s) / 12]
        return np.stack(every[: self.degree + 1], axis=-1)


@dataclass(frozen=True)
class Bowl:
    """Bottom of each curve and where it crosses (1 + eps) times its lowest loss. Shapes [...]."""

    t_opt: Array
    """Position of the minimum, in ln N - centre; NaN without a minimum."""
    loss_opt: Array
    """nats/token at the minimum."""
    curvature: Array
    """Second derivative at the minimum, nats per (ln N)^2; > 0."""
    t_lo: Array
    """Lower crossing; NaN when the curve never rises that far on this side."""
    t_hi: Array
    """Upper crossing; NaN likewise."""


def find_bowl(family: Family, parameters: Array) -> Bowl:
    """Minimum and basin of each curve; none where c2 <= 0, the wrong curvature.

    The minimum solves phi'(t) = m, m = -slope / c2. For degree 4 phi' rises strictly; up to degree 3 its
    rising root is m / (1 + sqrt(1 + s m)), with no minimum for s m < -1. About the minimum
    f = L + c2 (a2 d^2 + a3 d^3 + a4 d^4); with d0 = sqrt(eps L / (c2 a2)) and z = |d| / d0 the crossings
    solve z^2 (1 + q z + r z^2) = 1, q = +-a3 d0 / a2, r = a4 d0^2 / a2.

    Args:
        family: the curve and eps.
        parameters: [..., 4].
    """
    _, slope, c2, s = np.moveaxis(parameters, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        m = np.where(c2 > 0, -slope / c2, np.nan)
        if family.degree == 4:
            t_opt = np.clip(m / 2, -2.0, 2.0)
            for _ in range(_NEWTON_STEPS):
                t_opt = t_opt - (family.phi_slope(t_opt, s) - m) / family.phi_curvature(t_opt, s)
        else:
            t_opt = m / (1 + np.sqrt(1 + s * m))
        a2 = family.phi_curvature(t_opt, s) / 2
        t_opt = np.where(a2 > 0, t_opt, np.nan)
        a3 = (s + family.fourth(s) * t_opt) / 3
        a4 = family.fourth(s) / 12
        loss_opt = family.evaluate(parameters, t_opt)
        d0 = np.sqrt(family.eps * loss_opt / (c2 * a2))
        q, r = a3 * d0 / a2, a4 * d0 * d0 / a2
        t_lo = t_opt - d0 * _crossing(-q, r)
        t_hi = t_opt + d0 * _crossing(q, r)
    return Bowl(t_opt, loss_opt, 2 * c2 * a2, t_lo, t_hi)


def _crossing(q: Array, r: Array) -> Array:
    """Smallest z > 0 with z^2 (1 + q z + r z^2) = 1; NaN where there is none.

    Without the quartic part the cubic turns over before it gets there for q < -2/sqrt(27).
    """
    z = np.where(q < 0, 1.0, 1.0 / (1.0 + np.maximum(q, 0.0)) ** (1 / 3))
    for _ in range(_NEWTON_STEPS):
        z = z - (z * z * (1 + z * (q + z * r)) - 1) / (z * (2 + z * (3 * q + 4 * z * r)))
    reached = np.abs(z * z * (1 + z * (q + z * r)) - 1) < 1e-6
    rising = 2 + z * (3 * q + 4 * z * r) >= 0
    return np.asarray(np.where(reached & rising & (z > 0), z, np.nan))


# --------------------------------------------------------------------------- quantities with gradients


def quantity_t_opt(family: Family) -> Quantity:
    """Position of the minimum, ln N - centre."""

    def value(parameters: Array) -> tuple[Array, Array]:
        bowl = find_bowl(family, parameters)
        return bowl.t_opt, _grad_t_opt(family, parameters, bowl)

    return value


def quantity_loss_opt(family: Family) -> Quantity:
    """Loss at the minimum; by the envelope theorem its gradient is that of f at the minimum held fixed."""

    def value(parameters: Array) -> tuple[Array, Array]:
        bowl = find_bowl(family, parameters)
        return bowl.loss_opt, family.rows(parameters, bowl.t_opt)

    return value


def quantity_edge(family: Family, side: int) -> Quantity:
    """Position of one edge of the basin: side -1 the lower, +1 the upper."""

    def value(parameters: Array) -> tuple[Array, Array]:
        bowl = find_bowl(family, parameters)
        edge = bowl.t_lo if side < 0 else bowl.t_hi
        return edge, _grad_edge(family, parameters, bowl, edge)

    return value


def quantity_factor(family: Family, side: int) -> Quantity:
    """Distance in ln N from the minimum to one edge, > 0."""

    def value(parameters: Array) -> tuple[Array, Array]:
        bowl = find_bowl(family, parameters)
        edge = bowl.t_lo if side < 0 else bowl.t_hi
        grad = _grad_edge(family, parameters, bowl, edge) - _grad_t_opt(family, parameters, bowl)
        return side * (edge - bowl.t_opt), side * grad

    return value


def quantity_half_width(family: Family) -> Quantity:
    """Half the basin's width in ln N: the log of the geometric mean of the two factors."""

    def value(parameters: Array) -> tuple[Array, Array]:
        bowl = find_bowl(family, parameters)
        grad_hi = _grad_edge(family, parameters, bowl, bowl.t_hi)
        grad_lo = _grad_edge(family, parameters, bowl, bowl.t_lo)
        return (bowl.t_hi - bowl.t_lo) / 2, (grad_hi - grad_lo) / 2

    return value


def quantity_sum(base: Quantity, weights: Array) -> Quantity:
    """Weighted sum over budgets of one quantity: parameters [..., K * 4] -> sum_k w[..., k] q_k."""

    def value(parameters: Array) -> tuple[Array, Array]:
        each = parameters.reshape(*parameters.shape[:-1], weights.shape[-1], NUM_PARAMETERS)
        values, grads = base(each)
        # A budget of weight 0 takes no part, so that its missing minimum does not spoil the sum.
        takes_part = weights != 0
        total = np.where(takes_part, weights * values, 0.0).sum(-1)
        grad = np.where(takes_part[..., None], weights[..., None] * grads, 0.0)
        return total, grad.reshape(parameters.shape)

    return value


def _grad_t_opt(family: Family, parameters: Array, bowl: Bowl) -> Array:
    """f'(t_opt) = 0 differentiated: dt_opt = -(d f')(t_opt) / f''."""
    return -family.slope_rows(parameters, bowl.t_opt) / bowl.curvature[..., None]


def _grad_edge(family: Family, parameters: Array, bowl: Bowl, edge: Array) -> Array:
    """f(edge) = (1 + eps) f(t_opt) differentiated; f'(t_opt) = 0 removes the minimum's own motion."""
    slope = (parameters[..., 1] + parameters[..., 2] * family.phi_slope(edge, parameters[..., 3]))[..., None]
    rise = family.rows(parameters, edge) - (1 + family.eps) * family.rows(parameters, bowl.t_opt)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-rise / slope)


# ------------------------------------------------------------------------------------ intervals


def profile_ends(
    quantity: Quantity,
    parameters: Array,
    covariance: Array,
    radius: Array,
    *,
    num_steps: int = 8,
    num_corrections: int = 2,
) -> tuple[Array, Array]:
    """Interval of a quantity: its range over the ellipsoid of parameters within `radius` of the estimate.

    With Gaussian estimates, {w : min over c with g(c) = w of (c - c^)' V^-1 (c - c^) <= r^2} is the
    profile-likelihood interval of g, and by continuity it equals g's range over the ellipsoid
    (c - c^)' V^-1 (c - c^) <= r^2 (Venzon and Moolgavkar, Appl. Statist. 1988; for the minimum of a
    parabola it is Fieller's interval). At the extreme c = c^ +- r V grad / sqrt(grad' V grad) with the
    gradient taken *there*; it is followed from the estimate outwards in equal steps of the radius, each
    corrected by fixed-point iteration.

    Where the path leaves the curves that have the quantity at all (the minimum vanishes, the edge is never
    reached), the data do not bound it on this side: NaN.

    Args:
        quantity: value and gradient.
        parameters: [..., m] estimates.
        covariance: [..., m, m]; may be singular.
        radius: [...] critical value, e.g. a quantile of Student's t.

    Returns:
        Lower and upper end [...], NaN where open.
    """
    ends = []
    for sign in (-1.0, 1.0):
        moved = parameters
        for step in range(1, num_steps + 1):
            for _ in range(num_corrections if step < num_steps else 2 * num_corrections):
                _, grad = quantity(moved)
                direction = np.einsum("...ij,...j->...i", covariance, grad)
                with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                    norm = np.sqrt((direction * grad).sum(-1))
                    reach = sign * radius * (step / num_steps) / norm
                    moved = parameters + reach[..., None] * direction
        ends.append(quantity(moved)[0])
    return ends[0], ends[1]
