"""Where fits of the Chinchilla form start: variable projection, and a prediction from a fit near by.

For fixed exponents the form is linear in (E, A, B): non-negative least squares on relative residuals gives
them in closed form (Golub and Pereyra 1973), so a grid over two exponents covers the five-dimensional
landscape. For bootstrap replicates of a table whose fit is known, the model linearised at that fit turns the
problem into a robust linear regression with one shared design matrix, which costs matrix products alone.

Shapes: B rows, n points, S starts.
"""

from __future__ import annotations

import numpy as np

from isoflop.fit.parametric_newton import (
    NUM_PARAMETERS,
    Array,
    Bounds,
    Points,
    ResidualLoss,
    Workspace,
    _evaluate,
    _Evaluation,
    _newton_step,
    _residual_terms,
)

EXPONENTS = (0.1, 0.25, 0.45, 0.75, 1.2)
"""Grid of alpha and of beta for the variable-projection starts; published fits lie within it."""


def projected_starts(points: Points, targets: Array, weights: Array) -> Array:
    """theta of the variable-projection starts, [B, S, 5] with S = 25.

    Args:
        points: n points.
        targets: log losses, [1, n] or [B, n].
        weights: [1, n] or [B, n].

    Solves min sum_i w_i ((E + A u_i + B v_i) / L_i - 1)^2 over E, A, B >= 0 by trying the seven sets of
    terms that may be active. A term that comes out as zero starts at a thousandth of the mean loss.
    """
    loss = np.exp(targets)
    w2, w1 = weights / loss**2, weights / loss
    num_rows = max(len(targets), len(weights))
    starts = np.empty((num_rows, len(EXPONENTS) ** 2, NUM_PARAMETERS))
    floor = 1e-3 * np.mean(loss, axis=1)
    grid = [(alpha, beta) for alpha in EXPONENTS for beta in EXPONENTS]
    for index, (alpha, beta) in enumerate(grid):
        terms = np.stack([np.ones(len(points)), np.exp(-alpha * points.x), np.exp(-beta * points.y)])
        products = (terms[:, None] * terms[None]).reshape(9, -1)
        normal = (w2 @ products.T).reshape(-1, 3, 3)
        scale = np.maximum(_non_negative_least_squares(normal, w1 @ terms.T), floor[:, None])
        starts[:, index, :3] = np.log(scale)
        starts[:, index, 3:] = alpha, beta
    return starts


def _project(points: Points, theta: Array, targets: Array, omega: Array) -> Array:
    """E, A, B of each row by weighted least squares on relative residuals, exponents kept: [B, 5] -> [B, 5]."""
    u = np.exp(-theta[:, 3:4] * points.x)
    v = np.exp(-theta[:, 4:5] * points.y)
    inverse = np.exp(-targets)
    w1 = omega * inverse
    w2 = w1 * inverse
    wu, wv = w2 * u, w2 * v
    normal = np.empty((len(theta), 3, 3))
    normal[:, 0, 0] = w2.sum(axis=1)
    normal[:, 0, 1] = normal[:, 1, 0] = wu.sum(axis=1)
    normal[:, 0, 2] = normal[:, 2, 0] = wv.sum(axis=1)
    normal[:, 1, 1], normal[:, 2, 2] = np.einsum("ij,ij->i", wu, u), np.einsum("ij,ij->i", wv, v)
    normal[:, 1, 2] = normal[:, 2, 1] = np.einsum("ij,ij->i", wu, v)
    right = np.stack([w1.sum(axis=1), np.einsum("ij,ij->i", w1, u), np.einsum("ij,ij->i", w1, v)], axis=1)
    scale = np.maximum(_non_negative_least_squares(normal, right), 1e-3 * np.exp(np.mean(targets)))
    return np.concatenate([np.log(scale), theta[:, 3:]], axis=1)


def descend_by_projection(
    points: Points,
    targets: Array,
    weights: Array,
    theta: Array,
    rho: ResidualLoss,
    bounds: Bounds,
    work: Workspace,
    iterations: int = 8,
) -> Array:
    """Bring far starts into the valley of the optimum: Gauss-Newton in the exponents, projection of the rest.

    Each iteration reweights the residuals (rho'(r)/r, so it descends on the loss that is fitted), steps in
    (alpha, beta) and solves for E, A, B in closed form, which follows the curved valley of this problem.
    """
    damping = np.full(len(theta), 1e-2)
    at = _evaluate(points, theta, targets, weights, rho, work, 1.0)
    for _ in range(iterations):
        step = _newton_step(at.H, at.g, damping)[0].T
        trial = np.clip(theta + np.clip(step, -0.4, 0.4), bounds.lo, bounds.hi)
        r = np.abs(points.log_loss(theta) - targets)
        omega = weights * (rho.scale / np.maximum(r, rho.scale) if rho.kind == "huber" else np.ones_like(r))
        trial = np.clip(_project(points, trial, targets, omega), bounds.lo, bounds.hi)
        new = _evaluate(points, trial, targets, weights, rho, work, 1.0)
        better = new.F <= at.F
        theta, at = np.where(better[:, None], trial, theta), new.where(better, at)
        damping = np.where(better, np.maximum(0.2 * damping, 1e-4), 8 * damping)
    return theta


def _non_negative_least_squares(normal: Array, right: Array) -> Array:
    """min z'Hz/2 - z'r over z >= 0 for three unknowns: [B, 3, 3], [B, 3] -> [B, 3]."""
    best = np.zeros_like(right)
    best_value = np.zeros(len(right))
    for active in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        block = normal[:, active][:, :, active]
        ridge = 1e-12 * np.trace(block, axis1=1, axis2=2)[:, None, None] * np.eye(len(active))
        z = np.linalg.solve(block + ridge, right[:, active, None])[..., 0]
        value = -0.5 * np.sum(z * right[:, active], axis=1)
        take = (z >= 0).all(axis=1) & (value < best_value)
        best[take] = 0.0
        best[np.ix_(take, active)] = z[take]
        best_value[take] = value[take]
    return best


_PAIRS = [(i, j) for i in range(NUM_PARAMETERS) for j in range(i, NUM_PARAMETERS)]


class LinearPrediction:
    """The model linearised at one fit, r(theta) = r0 + J (theta - theta0), solved for every row.

    In single precision: it only has to bring Newton's method near, and the residuals are kept as differences.
    """

    def __init__(self, points: Points, theta0: Array, target: Array, num_rows: int) -> None:
        self.theta0 = np.asarray(theta0, dtype=float)
        self.target = target
        self.r0 = (points.log_loss(self.theta0[None])[0] - target).astype(np.float32)
        jacobian = points.jacobian(self.theta0)
        self.scale = np.sqrt(np.sum(jacobian**2, axis=1)) + 1e-30
        self.J = (jacobian / self.scale[:, None]).astype(np.float32)
        columns = [self.J[i] * self.J[j] for i, j in _PAIRS]
        self.gradient_columns = np.ascontiguousarray(
            np.stack([*self.J, *np.zeros((3, len(points)))], 1), np.float32
        )
        self.hessian_columns = np.ascontiguousarray(
            np.stack([*columns, np.zeros(len(points))], 1), np.float32
        )
        self.work = Workspace(num_rows, len(points), np.float32)

    def _evaluate(self, u: Array, r0: Array, w: Array, rho: ResidualLoss) -> _Evaluation:
        r, psi, c, spare = self.work.take(len(u))[:4]
        np.matmul(u, self.J, out=r)
        r += r0
        F = _residual_terms(r, psi, c, spare, w, rho, 0.0)
        g = (psi @ self.gradient_columns)[:, :NUM_PARAMETERS].T
        moments = c @ self.hessian_columns
        H = np.empty((NUM_PARAMETERS, NUM_PARAMETERS, len(u)), np.float32)
        for k, (i, j) in enumerate(_PAIRS):
            H[i, j] = moments[:, k]
        return _Evaluation(F, np.ascontiguousarray(g), H)

    def solve(self, targets: Array, weights: Array, rho: ResidualLoss, iterations: int = 4) -> Array:
        """theta of each row near its optimum: [B, n] targets and weights (or [1, n]) -> [B, 5]."""
        num_rows = max(len(targets), len(weights))
        w = weights.astype(np.float32)
        r0 = self.r0 if targets is self.target or len(targets) == 1 else (
            self.r0 + (self.target - targets).astype(np.float32)
        )  # fmt: skip
        damping = np.full(num_rows, 1e-6, np.float32)
        u = np.zeros((num_rows, NUM_PARAMETERS), np.float32)
        at = self._evaluate(u, r0, w, rho)
        step = _newton_step(at.H, at.g, damping)[0].astype(np.float32)
        for _ in range(iterations):
            trial = u + np.clip(step.T, -3, 3)
            new = self._evaluate(trial, r0, w, rho)
            better = new.F <= at.F
            slope, new_slope = np.sum(at.g * step, 0), np.sum(new.g * step, 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                shrink = np.clip(np.nan_to_num(slope / (slope - new_slope), nan=0.3), 0.05, 0.7)
            u, at = np.where(better[:, None], trial, u), new.where(better, at)
            fresh = _newton_step(at.H, at.g, damping)[0]
            step = np.where(better, fresh, step * shrink).astype(np.float32)
        return self.theta0 + u / self.scale
