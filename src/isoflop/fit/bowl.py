"""The geometry of one isoFLOP bowl: where it is lowest, how wide its bottom is, and how sure that is.

A bowl is a polynomial of degree at most three in t = ln N - centre,

    f(t) = c0 + c1 t + c2 t^2 + c3 t^3        (nats/token),

given by its four coefficients on the last axis of an array; every leading axis is a batch, so that one
fit of a user and a hundred thousand simulated ones go through the same lines. A parabola is c3 = 0.

Undefined is NaN inside this module (arrays know no None): a curve without a minimum, a side on which the
curve never rises by the wanted share. `isoflop.fit.isoflop` turns each NaN into None with its reason.

Left out: data, noise and the fit itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Quantity = Callable[[Array], tuple[Array, Array]]
"""Coefficients [..., m] -> value [...] and its gradient [..., m]; NaN where undefined."""

NUM_COEFFICIENTS = 4


@dataclass(frozen=True)
class Bowl:
    """Bottom of each curve and where it crosses (1 + eps) times its lowest loss. Shapes [...]."""

    t_opt: Array
    """Position of the minimum, in ln N - centre; NaN without a minimum."""
    loss_opt: Array
    """nats/token at the minimum."""
    curvature: Array
    """Second derivative at the minimum, nats per unit of (ln N)^2; > 0."""
    t_lo: Array
    """Lower crossing; NaN when the curve never rises that far on this side."""
    t_hi: Array
    """Upper crossing; NaN likewise."""


def powers(t: Array) -> Array:
    """Value row: 1, t, t^2, t^3 on a new last axis."""
    return np.stack([np.ones_like(t), t, t * t, t * t * t], axis=-1)


def slope_powers(t: Array) -> Array:
    """Slope row: d/dt of `powers`."""
    return np.stack([np.zeros_like(t), np.ones_like(t), 2 * t, 3 * t * t], axis=-1)


def evaluate(coefficients: Array, t: Array) -> Array:
    """f(t); the shapes of `coefficients` without its last axis and of `t` broadcast."""
    return np.asarray((coefficients * powers(t)).sum(-1))


def find_bowl(coefficients: Array, eps: float) -> Bowl:
    """Minimum and basin of each curve.

    The roots of f' are (-c2 +- sqrt(c2^2 - 3 c1 c3)) / (3 c3); the one with positive second derivative is
    -c1 / (c2 + sqrt(...)), which stays exact as c3 goes to 0. A curve that is not convex at its centre
    (c2 <= 0) has the wrong curvature: what looks like a minimum further out is the cubic's other branch.

    With d0 = sqrt(2 eps L / f'') the parabola's half-width and z = (t - t_opt) / d0, the crossings solve
    z^2 + q z^3 = 1, q = 2 c3 d0 / f''. For |q| > 2 / sqrt(27) the cubic turns over before it gets there.

    Args:
        coefficients: [..., 4], lowest power first.
        eps: rise as a share of the lowest loss, > 0 (0.01 for the 1 % basin).
    """
    c0, c1, c2, c3 = np.moveaxis(coefficients, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        root = np.sqrt(c2 * c2 - 3 * c1 * c3)
        usable = (c2 > 0) & (root > 0)
        t_opt = np.where(usable, -c1 / (c2 + root), np.nan)
        curvature = np.where(usable, 2 * root, np.nan)
        loss_opt = c0 + t_opt * (c1 + t_opt * (c2 + t_opt * c3))
        half = np.sqrt(2 * eps * loss_opt / curvature)
        q = 2 * c3 * half / curvature
        t_lo = t_opt - half * _crossing(-q)
        t_hi = t_opt + half * _crossing(q)
    return Bowl(t_opt, loss_opt, curvature, t_lo, t_hi)


def _crossing(q: Array) -> Array:
    """Smallest z > 0 with z^2 + q z^3 = 1; NaN where there is none (q < -2/sqrt(27)).

    Newton from the side on which the function is convex or concave as needed converges monotonically; at
    the fold itself it is only linear, hence the number of steps.
    """
    z = np.where(q < 0, 1.0, 1.0 / (1.0 + np.maximum(q, 0.0)) ** (1 / 3))
    for _ in range(12):
        z = z - (z * z * (1 + q * z) - 1) / (z * (2 + 3 * q * z))
    fold = -2 / np.sqrt(27)
    return np.asarray(np.where(q >= fold, z, np.nan))


# --------------------------------------------------------------------------- quantities with gradients


def quantity_t_opt(eps: float) -> Quantity:
    """Position of the minimum, ln N - centre."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        bowl = find_bowl(coefficients, eps)
        return bowl.t_opt, _grad_t_opt(bowl)

    return value


def quantity_loss_opt(eps: float) -> Quantity:
    """Loss at the minimum; by the envelope theorem its gradient is the value row at the minimum."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        bowl = find_bowl(coefficients, eps)
        return bowl.loss_opt, powers(bowl.t_opt)

    return value


def quantity_edge(eps: float, side: int) -> Quantity:
    """Position of one edge of the basin: side -1 the lower, +1 the upper."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        bowl = find_bowl(coefficients, eps)
        edge = bowl.t_lo if side < 0 else bowl.t_hi
        return edge, _grad_edge(coefficients, bowl, edge, eps)

    return value


def quantity_factor(eps: float, side: int) -> Quantity:
    """Distance in ln N from the minimum to one edge, > 0."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        bowl = find_bowl(coefficients, eps)
        edge = bowl.t_lo if side < 0 else bowl.t_hi
        grad = _grad_edge(coefficients, bowl, edge, eps) - _grad_t_opt(bowl)
        return side * (edge - bowl.t_opt), side * grad

    return value


def quantity_half_width(eps: float) -> Quantity:
    """Half the basin's width in ln N: the log of the geometric mean of the two factors."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        bowl = find_bowl(coefficients, eps)
        grad_hi = _grad_edge(coefficients, bowl, bowl.t_hi, eps)
        grad_lo = _grad_edge(coefficients, bowl, bowl.t_lo, eps)
        return (bowl.t_hi - bowl.t_lo) / 2, (grad_hi - grad_lo) / 2

    return value


def quantity_sum(base: Quantity, weights: Array) -> Quantity:
    """Weighted sum over budgets of one quantity: coefficients [..., K * 4] -> sum_k w[..., k] q_k."""

    def value(coefficients: Array) -> tuple[Array, Array]:
        num_budgets = weights.shape[-1]
        each = coefficients.reshape(*coefficients.shape[:-1], num_budgets, NUM_COEFFICIENTS)
        values, grads = base(each)
        # A budget of weight 0 takes no part, so that its missing minimum does not spoil the sum.
        takes_part = weights != 0
        total = np.where(takes_part, weights * values, 0.0).sum(-1)
        grad = np.where(takes_part[..., None], weights[..., None] * grads, 0.0)
        return total, grad.reshape(coefficients.shape)

    return value


def _grad_t_opt(bowl: Bowl) -> Array:
    """f'(t_opt) = 0 differentiated: dt_opt = -(d f')(t_opt) / f''."""
    return -slope_powers(bowl.t_opt) / bowl.curvature[..., None]


def _grad_edge(coefficients: Array, bowl: Bowl, edge: Array, eps: float) -> Array:
    """f(edge) = (1 + eps) f(t_opt) differentiated; f'(t_opt) = 0 removes the minimum's own motion."""
    slope = (coefficients * slope_powers(edge)).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-(powers(edge) - (1 + eps) * powers(bowl.t_opt)) / slope[..., None])


# ------------------------------------------------------------------------------------ intervals


def profile_ends(
    quantity: Quantity,
    coefficients: Array,
    covariance: Array,
    radius: Array,
    *,
    num_steps: int = 8,
    num_corrections: int = 2,
) -> tuple[Array, Array]:
    """Interval of a quantity: its range over the ellipsoid of coefficients within `radius` of the estimate.

    With Gaussian coefficients, {w : min over c with g(c) = w of (c - c^)' V^-1 (c - c^) <= r^2} is the
    profile-likelihood interval of g, and by continuity it equals g's range over the ellipsoid
    (c - c^)' V^-1 (c - c^) <= r^2 (Venzon and Moolgavkar, Appl. Statist. 1988; for the minimum of a
    parabola it is Fieller's interval). At the extreme c = c^ +- r V grad / sqrt(grad' V grad) with the
    gradient taken *there*; it is followed from the estimate outwards in equal steps of the radius, each
    corrected by fixed-point iteration.

    Where the path leaves the curves that have the quantity at all (the minimum vanishes, the edge is never
    reached), the data do not bound it on this side: NaN.

    Args:
        quantity: value and gradient.
        coefficients: [..., m] estimates.
        covariance: [..., m, m]; may be singular.
        radius: [...] critical value, e.g. a quantile of Student's t.

    Returns:
        Lower and upper end [...], NaN where open.
    """
    ends = []
    for sign in (-1.0, 1.0):
        moved = coefficients
        for step in range(1, num_steps + 1):
            for _ in range(num_corrections if step < num_steps else 2 * num_corrections):
                _, grad = quantity(moved)
                direction = np.einsum("...ij,...j->...i", covariance, grad)
                with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                    norm = np.sqrt((direction * grad).sum(-1))
                    reach = sign * radius * (step / num_steps) / norm
                    moved = coefficients + reach[..., None] * direction
        ends.append(quantity(moved)[0])
    return ends[0], ends[1]
