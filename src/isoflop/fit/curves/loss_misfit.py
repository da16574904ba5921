"""A law is never quite the curve: what it misses is correlated along x, and is carried on beyond the data.

The residuals of a fitted law are a smooth misfit plus noise (Kennedy & O'Hagan 2001): a Gaussian process in
ln x with a Matérn-3/2 covariance, its size, its memory and the noise averaged over a grid. The forecast is
then the law plus the misfit where the data end, fading over its memory, and the interval holds the misfit that
is still to come. Parameters stay at the mode found under independent noise; their spread is that under the
correlated one.

Left out: the laws (`loss_forecast`).

Shape letters: n points, p parameters, m places, k combinations of memory, size and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.laws.curves import Array

_MEMORY = np.array([0.4, 1.0, 2.5])
"""Lengths in ln x over which a misfit is remembered, equally likely."""
_SIZE = np.array([0.0005, 0.003, 0.015, 0.07])
"""Standard deviations of the misfit of ln y, equally likely."""
_NOISE = np.array([0.002, 0.006, 0.018, 0.05])
"""Standard deviations of one measured ln y, equally likely."""


@dataclass(frozen=True)
class Linearised:
    """A law at its posterior mode: residuals at the data, derivatives at the data and at the places."""

    residual: Array
    """[n]"""
    gradient: Array
    """[n, p]"""
    gradient_new: Array
    """[m, p]"""
    from_prior: Array
    """[p] parameters less their prior means."""
    prior_sd: Array
    """[p]"""


@dataclass(frozen=True)
class Carried:
    """What the misfit adds to a law's forecast of ln y."""

    shift: Array
    """[m]"""
    variance: Array
    """[m] of a measured ln y: misfit to come, parameters, noise."""
    log_evidence: float
    """Of the data under the law with its misfit, by Laplace's method."""


def carry_misfit(law: Linearised, u: Array, repeats: Array, u_new: Array) -> Carried:
    """Carry what a law misses beyond the data.

    Args:
        law: the law at its mode.
        u: [n] ln x of the data.
        repeats: [n] measurements averaged in each point.
        u_new: [m] ln x of the places.
    """
    num_n = len(u)
    unit = _matern(u[:, None] - u)
    misfit = unit[:, None, None] * (_SIZE**2)[:, None, None, None]
    noise = (_NOISE**2)[:, None, None] * np.diag(1 / repeats)
    covariance = (misfit + noise).reshape(-1, num_n, num_n)
    root = np.linalg.cholesky(covariance)
    both = np.concatenate([law.residual[:, None], law.gradient], axis=1)
    solved = np.linalg.solve(covariance, np.broadcast_to(both, (len(root), *both.shape)))
    gram = np.matmul(law.gradient.T, solved[..., 1:]) + np.diag(1 / law.prior_sd**2)
    evidence = (
        -solved[..., 0] @ law.residual / 2
        - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        - np.sum((law.from_prior / law.prior_sd) ** 2) / 2
        - np.log(law.prior_sd).sum()
        - np.linalg.slogdet(gram)[1] / 2
    )
    weight = np.exp(evidence - evidence.max())
    log_evidence = float(np.log(weight.mean()) + evidence.max())
    keep = np.flatnonzero(weight > 0.02 * weight.max())
    weight = weight[keep] / weight[keep].sum()
    memory, size, level = np.unravel_index(keep, (len(_MEMORY), len(_SIZE), len(_NOISE)))
    size2, level2 = _SIZE[size] ** 2, _NOISE[level] ** 2
    cross = _matern(u_new[:, None] - u)[memory] * size2[:, None, None]
    shift = np.matmul(cross, solved[keep, :, :1])[..., 0]
    white = np.linalg.solve(root[keep], np.swapaxes(cross, 1, 2))
    lever = law.gradient_new - np.matmul(cross, solved[keep, :, 1:])
    by_parameters = np.sum(
        lever * np.swapaxes(np.linalg.solve(gram[keep], np.swapaxes(lever, 1, 2)), 1, 2), -1
    )
    own = size2[:, None] - np.sum(white**2, axis=1) + level2[:, None] + by_parameters
    centre = weight @ shift
    return Carried(centre, weight @ (own + (shift - centre) ** 2), log_evidence)


def _matern(distance: Array) -> Array:
    """Matérn-3/2 correlation [memories, ...] at these distances in ln x."""
    scaled = np.sqrt(3.0) * np.abs(distance)[None] / _MEMORY[:, None, None]
    return np.asarray((1 + scaled) * np.exp(-scaled))
