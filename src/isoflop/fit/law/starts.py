"""Where fits of the Chinchilla form start: variable projection, and a prediction from a fit near by.

For fixed exponents the form is linear in (E, A, B): non-negative least squares on relative residuals gives
them in closed form (Golub and Pereyra 1973), so a grid over two exponents covers the five-dimensional
landscape. For bootstrap replicates of a table whose fit is known, the model linearised at that fit turns the
problem into a robust linear regression with one shared design matrix, which costs matrix products alone.

Shapes: B rows, n points, S starts.
"""

from __future__ import annotations

import numpy as np

from isoflop.fit.law.newton import (
    NUM_PARAMETERS,
    Array,
    Bounds,
    Points,
    ResidualLoss,
    Workspace,
    _Evaluation,
    _newton_step,
    _residual_terms,
)

EXPONENTS = (0.1, 0.25, 0.45, 0.75, 1.2)
"""Grid of alpha and of beta for the variable-projection starts; published fits lie within it."""


class _Projection:
    """One table's columns for the descent by projection; arithmetic in the workspace's precision."""

    def __init__(
        self, points: Points, targets: Array, weights: Array, rho: ResidualLoss, work: Workspace
    ) -> None:
        self.a_rows, self.b_rows, self.x_moments, self.y_moments, self.xy_moments, self.one = points.columns(
            work.dtype
        )
        self.inverse = np.exp(-targets).astype(work.dtype)
        self.weights = weights.astype(work.dtype)
        self.rho, self.work = rho, work

    def project(self, exponents: Array, omega: Array) -> tuple[Array, Array, Array, Array, Array]:
        """At given exponents: (E, A, B) [B, 3], F, new reweighting [B, n], and the Gauss-Newton g, H of all five.

        Residuals are relative, L_model / L - 1, so that every sum is a moment of omega / L^2 times powers of
        u = exp(-alpha x) and v = exp(-beta y).
        """
        u, v, w1, wu, wv, prod, new = self.work.take(len(exponents))
        np.multiply(exponents[:, :1], self.a_rows[1], out=u)
        np.multiply(exponents[:, 1:], self.b_rows[1], out=v)
        np.exp(u, out=u)
        np.exp(v, out=v)
        np.multiply(omega, self.inverse, out=w1)
        s_w1 = w1 @ self.one
        w1_u = (np.multiply(w1, u, out=prod) @ self.x_moments).T
        w1_v = (np.multiply(w1, v, out=prod) @ self.y_moments).T
        w1 *= self.inverse
        s_w = w1 @ self.one
        np.multiply(w1, u, out=wu)
        np.multiply(w1, v, out=wv)
        w_u, w_v = (wu @ self.x_moments).T, (wv @ self.y_moments).T
        w_uv = (np.multiply(wu, v, out=prod) @ self.xy_moments).T
        wu *= u
        wv *= v
        w_uu, w_vv = (wu @ self.x_moments).T, (wv @ self.y_moments).T
        normal = np.empty((len(exponents), 3, 3))
        normal[:, 0, 0], normal[:, 1, 1], normal[:, 2, 2] = s_w, w_uu[0], w_vv[0]
        normal[:, 0, 1] = normal[:, 1, 0] = w_u[0]
        normal[:, 0, 2] = normal[:, 2, 0] = w_v[0]
        normal[:, 1, 2] = normal[:, 2, 1] = w_uv[0]
        scale = _non_negative_least_squares(normal, np.stack([s_w1, w1_u[0], w1_v[0]], axis=1))
        E, A, B = np.maximum(scale, self.floor).astype(self.work.dtype).T
        g, H = self._gauss_newton(E, A, B, s_w, s_w1, w_u, w_v, w_uu, w_uv, w_vv, w1_u, w1_v)
        F = self._reweight(np.stack([E, A, B]), u, v, prod, new)
        return np.stack([E, A, B], axis=1), F, new, g, H

    @property
    def floor(self) -> float:
        return 1e-3 / float(np.mean(self.inverse))

    def _reweight(self, scale: Array, u: Array, v: Array, rest: Array, omega: Array) -> Array:
        """F of the relative residuals and, in `omega`, w rho'(r) / r."""
        E, A, B = scale[:, :, None]
        u *= A
        v *= B
        np.add(u, v, out=rest)
        rest += E
        rest *= self.inverse
        rest -= 1.0
        rho = self.rho
        if rho.kind == "student":
            nu_s2 = rho.df * rho.scale**2
            np.multiply(rest, rest, out=u)
            u /= nu_s2
            F = 0.5 * nu_s2 * np.einsum("ij,ij->i", np.log1p(u), np.broadcast_to(self.weights, u.shape))
            np.divide(self.weights, 1.0 + u, out=omega)
            return F
        if rho.kind == "squares":
            omega[...] = self.weights
            return 0.5 * np.einsum("ij,ij,ij->i", rest, rest, omega)
        delta = omega.dtype.type(rho.scale)
        np.abs(rest, out=rest)
        np.minimum(rest, delta, out=u)
        np.maximum(rest, delta, out=omega)
        np.divide(delta, omega, out=omega)
        omega *= self.weights
        np.multiply(u, -0.5, out=v)
        v += rest
        u *= self.weights
        return np.einsum("ij,ij->i", u, v)

    @staticmethod
    def _gauss_newton(
        E: Array, A: Array, B: Array, s_w: Array, s_w1: Array, w_u: Array, w_v: Array,
        w_uu: Array, w_uv: Array, w_vv: Array, w1_u: Array, w1_v: Array,
    ) -> tuple[Array, Array]:  # fmt: skip
        """g and H over (E, log A, log B, alpha, beta) with the weights of the projection."""
        g = np.stack([
            E * s_w + A * w_u[0] + B * w_v[0] - s_w1,
            A * (E * w_u[0] + A * w_uu[0] + B * w_uv[0] - w1_u[0]),
            B * (E * w_v[0] + A * w_uv[0] + B * w_vv[0] - w1_v[0]),
            -A * (E * w_u[1] + A * w_uu[1] + B * w_uv[1] - w1_u[1]),
            -B * (E * w_v[1] + A * w_uv[2] + B * w_vv[1] - w1_v[1]),
        ])  # fmt: skip
        H = np.empty((5, 5, len(E)), E.dtype)
        H[0, 0], H[0, 1], H[0, 2], H[0, 3], H[0, 4] = s_w, A * w_u[0], B * w_v[0], -A * w_u[1], -B * w_v[1]
        H[1, 1], H[1, 2], H[1, 3], H[1, 4] = (
            A * A * w_uu[0],
            A * B * w_uv[0],
            -A * A * w_uu[1],
            -A * B * w_uv[2],
        )
        H[2, 2], H[2, 3], H[2, 4] = B * B * w_vv[0], -A * B * w_uv[1], -B * B * w_vv[1]
        H[3, 3], H[3, 4], H[4, 4] = A * A * w_uu[2], A * B * w_uv[3], B * B * w_vv[2]
        return g, H


def descend_by_projection(
    points: Points,
    targets: Array,
    weights: Array,
    exponents: Array,
    rho: ResidualLoss,
    bounds: Bounds,
    work: Workspace,
    iterations: int = 14,
) -> Array:
    """Bring far starts into the valley of the optimum: Gauss-Newton in the exponents, projection of the rest.

    Args:
        points, targets, weights, rho, bounds: as in `minimise`.
        exponents: alpha and beta of each row's start, [B, 2].
        work: buffers; single precision is enough.
        iterations: Gauss-Newton steps.

    Each iteration reweights the residuals (rho'(r)/r, so it descends on the loss that is fitted, up to the
    difference between relative and log residuals), steps in (alpha, beta) and solves for E, A, B in closed
    form (Golub and Pereyra 1973), which follows the curved valley of this problem. Returns theta, [B, 5].
    """
    table = _Projection(points, targets, weights, rho, work)
    lo, hi = bounds.lo[3:].astype(work.dtype), bounds.hi[3:].astype(work.dtype)
    place = np.clip(exponents, lo, hi).astype(work.dtype)
    omega = np.array(np.broadcast_to(table.weights, (len(place), len(points))))
    for _ in range(2):  # least squares, then the same exponents reweighted
        scale, F, new, g, H = table.project(place, omega)
        omega[...] = new
    damping = np.full(len(place), 1e-2, work.dtype)
    for _ in range(iterations):
        step = np.clip(_newton_step(H, g, damping)[0][3:].T, -0.4, 0.4)
        trial = np.clip(place + step, lo, hi).astype(work.dtype)
        new_scale, new_F, new, new_g, new_H = table.project(trial, omega)
        better = new_F <= F
        place, scale = np.where(better[:, None], trial, place), np.where(better[:, None], new_scale, scale)
        F, g, H = np.where(better, new_F, F), np.where(better, new_g, g), np.where(better, new_H, H)
        np.copyto(omega, new, where=better[:, None])
        damping = np.where(better, np.maximum(0.2 * damping, 1e-4), 8 * damping).astype(work.dtype)
    return np.concatenate([np.log(scale), place], axis=1).astype(float)


def start_exponents() -> Array:
    """The grid of starting exponents, [25, 2]."""
    return np.array([(alpha, beta) for alpha in EXPONENTS for beta in EXPONENTS])


def _non_negative_least_squares(normal: Array, right: Array) -> Array:
    """min z'Hz/2 - z'r over z >= 0 for three unknowns: [B, 3, 3], [B, 3] -> [B, 3]."""
    H = np.moveaxis(normal, 0, -1)
    best, pivot = _newton_step(H, -right.T, np.full(len(right), 1e-12))
    best = best.T
    rows = np.flatnonzero(~((best >= 0).all(axis=1) & (pivot > 0)))
    if len(rows):
        best[rows] = _by_active_sets(normal[rows], right[rows])
    return best


def _by_active_sets(normal: Array, right: Array) -> Array:
    """The same by trying the six proper sets of terms that may be positive."""
    best = np.zeros_like(right)
    best_value = np.zeros(len(right))
    for active in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        block = np.moveaxis(normal[:, active][:, :, active], 0, -1)
        z = _newton_step(block, -right[:, active].T, np.full(len(right), 1e-12))[0].T
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
        r0 = self.r0 + (self.target - targets).astype(np.float32)
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
