"""Many fits of the Chinchilla form at once: a modified Newton method, batched over data sets and starts.

Each row of a batch is one fit: the same points (N, D) with its own weights (the counts of a bootstrap
resample), its own targets (a residual bootstrap, a simulation) or its own start. For every row

    F(theta) = sum_i w_i rho(r_i),   r_i = log(exp(e) + exp(a - alpha x_i) + exp(b - beta y_i)) - t_i

with x, y the centred logarithms of parameters and tokens and t the logarithm of the loss. Centring makes
theta = (e, a, b, alpha, beta) well scaled. The Hessian is exact: the active set of the residual loss and the
curvature of the log-sum-exp. A step is accepted only if it lowers F; rows leave the batch as they converge.

Left out: what the rows mean and what is reported of them (`isoflop.fit.law.parametric`), and any other form.

Shapes: B rows, n points, 5 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
NUM_PARAMETERS = 5
RESOLUTION = 1e-11
"""Residuals of the log loss below this are rounding: an objective of n times its square counts as zero."""


@dataclass(frozen=True)
class ResidualLoss:
    """What is summed over residuals of the log loss. All behave as r^2 / 2 near zero.

    "huber": r^2/2 up to |r| = scale, linear beyond (Huber 1964). "squares": r^2/2.
    "student": (df/2) scale^2 log(1 + r^2 / (df scale^2)), the likelihood of Student's t up to constants.
    """

    kind: Literal["huber", "squares", "student"]
    scale: float = 1e-3
    """Huber's delta, or Student's scale, in units of log loss."""
    df: float = 4.0
    """Student's degrees of freedom."""


class Points:
    """The design of a fit: centred log N and log D, and the columns that turn sums into moments."""

    def __init__(self, log_N: Array, log_D: Array) -> None:
        self.center = np.array([log_N.mean(), log_D.mean()])
        self.x, self.y = log_N - self.center[0], log_D - self.center[1]
        self._cache: dict[np.dtype, tuple[Array, ...]] = {}

    def __len__(self) -> int:
        return len(self.x)

    def columns(self, dtype: np.dtype) -> tuple[Array, ...]:
        """Rows (1, -x) and (1, -y), columns (1, x, x^2, 0), (1, y, y^2, 0), (1, x, y, xy), (1)."""
        if dtype not in self._cache:
            x, y, one, nil = self.x, self.y, np.ones_like(self.x), np.zeros_like(self.x)
            arrays = (
                np.stack([one, -x]),
                np.stack([one, -y]),
                np.stack([one, x, x * x, nil], axis=1),
                np.stack([one, y, y * y, nil], axis=1),
                np.stack([one, x, y, x * y], axis=1),
                one,
            )
            self._cache[dtype] = tuple(np.ascontiguousarray(array, dtype=dtype) for array in arrays)
        return self._cache[dtype]

    def to_law(self, theta: Array) -> Array:
        """(e, a, b, alpha, beta) at the centre -> (E, A, B, alpha, beta), shape [..., 5]."""
        e, a, b, alpha, beta = np.moveaxis(np.asarray(theta, dtype=float), -1, 0)
        log_A, log_B = a + alpha * self.center[0], b + beta * self.center[1]
        return np.stack([np.exp(e), np.exp(log_A), np.exp(log_B), alpha, beta], axis=-1)

    def from_law(self, law: Array) -> Array:
        """(E, A, B, alpha, beta) -> (e, a, b, alpha, beta) at the centre, shape [..., 5]."""
        E, A, B, alpha, beta = np.moveaxis(np.asarray(law, dtype=float), -1, 0)
        a, b = np.log(A) - alpha * self.center[0], np.log(B) - beta * self.center[1]
        return np.stack([np.log(E), a, b, alpha, beta], axis=-1)

    def log_loss(self, theta: Array) -> Array:
        """log L of each row at each point: [B, 5] -> [B, n]."""
        e, a, b, alpha, beta = np.asarray(theta, dtype=float).T[:, :, None]
        return np.log(np.exp(e) + np.exp(a - alpha * self.x) + np.exp(b - beta * self.y))

    def jacobian(self, theta: Array) -> Array:
        """d log L / d theta of one parameter vector: [5] -> [5, n]."""
        e, a, b, alpha, beta = theta
        size, data = np.exp(a - alpha * self.x), np.exp(b - beta * self.y)
        total = np.exp(e) + size + data
        return np.stack(
            [np.exp(e) / total, size / total, data / total, -self.x * size / total, -self.y * data / total]
        )


class Bounds(NamedTuple):
    """Box for theta, [5] each: a degenerate resample ends on its wall and is counted, not lost."""

    lo: Array
    hi: Array

    @classmethod
    def around(cls, log_loss: Array) -> Bounds:
        """Floor from a ten-thousandth of the lowest loss to all of it; exponents 0.01 to 3."""
        low, high = float(np.min(log_loss)), float(np.max(log_loss))
        return cls(
            np.array([low - 9.2, low - 12.0, low - 12.0, 0.01, 0.01]),
            np.array([high, high + 2.0, high + 2.0, 3.0, 3.0]),
        )


class Solution(NamedTuple):
    """The rows' optima and the evidence for them, [B, 5] and [B]."""

    theta: Array
    objective: Array
    gap: Array
    """Newton's prediction of (F - minimum) / F: half the squared Newton decrement over F."""
    scaled_gradient: Array
    """max_k |g_k| / sqrt(H_kk F) over the parameters that are free."""
    curvature: Array
    """Smallest pivot of the Hessian scaled to unit diagonal; > 0 if and only if it is positive definite."""
    bounded: Array
    """True where a parameter lies on its bound."""
    iterations: Array


class _Evaluation(NamedTuple):
    F: Array
    g: Array
    H: Array

    def where(self, keep: Array, other: _Evaluation) -> _Evaluation:
        return _Evaluation(*(np.where(keep, mine, theirs) for mine, theirs in zip(self, other, strict=True)))

    def rows(self, keep: Array) -> _Evaluation:
        return _Evaluation(*(part[..., keep] for part in self))


class Workspace:
    """Buffers of one chunk, so that the passes over [B, n] stay in cache and allocate nothing."""

    def __init__(self, num_rows: int, num_points: int, dtype: np.dtype | type = np.float64) -> None:
        self.dtype = np.dtype(dtype)
        self.buffers = [np.empty((num_rows, num_points), self.dtype) for _ in range(7)]

    def take(self, num_rows: int) -> list[Array]:
        return [buffer[:num_rows] for buffer in self.buffers]


def _residual_terms(
    r: Array, psi: Array, c: Array, spare: Array, w: Array, rho: ResidualLoss, soft: float
) -> Array:
    """Fill psi with w rho'(r) and c with w times the curvature; return F. `r` is kept.

    `soft` blends in the curvature rho'(r)/r of iterative reweighting, which is positive everywhere: 1 far
    from the optimum, where the active set means nothing; 0 for the exact Hessian.
    """
    if rho.kind == "huber":
        delta = r.dtype.type(rho.scale)
        np.clip(r, -delta, delta, out=psi)
        np.multiply(psi, r.dtype.type(-0.5), out=spare)
        spare += r
        np.equal(psi, r, out=c, casting="unsafe")
        if soft:
            weight = np.maximum(np.abs(r), delta)
            np.maximum(c, soft * delta / weight, out=c)
        psi *= w
        c *= w
        return np.einsum("ij,ij->i", psi, spare)
    if rho.kind == "squares":
        np.multiply(r, w, out=psi)
        c[...] = w
        return 0.5 * np.einsum("ij,ij->i", psi, r)
    nu_s2 = rho.df * rho.scale**2
    np.multiply(r, r, out=spare)
    spare /= nu_s2
    F = 0.5 * nu_s2 * np.sum(np.log1p(spare) * w, axis=1)
    np.divide(1.0, 1.0 + spare, out=psi)
    np.maximum((1.0 - spare) * psi * psi, soft * psi, out=c) if soft else np.multiply(
        (1.0 - spare) * psi, psi, out=c
    )
    psi *= r
    psi *= w
    c *= w
    return F


def _evaluate(
    points: Points, theta: Array, t: Array, w: Array, rho: ResidualLoss, work: Workspace, soft: float = 0.0
) -> _Evaluation:
    """F [B], gradient [5, B] and Hessian [5, 5, B] (upper triangle).

    With soft = 1 the Hessian is that of iteratively reweighted Gauss-Newton, positive semi-definite anywhere.

    With p, q the shares of the size and data terms in L and m = c - w rho', every entry of the Hessian is a
    moment of m p^2 + rho' p and its like against 1, x, y and their products (derivation: d2 log L =
    diag(share) - share share^T in the three log terms, each of which is linear in theta).
    """
    a_rows, b_rows, x_moments, y_moments, xy_moments, one = points.columns(work.dtype)
    p, q, psi, spare, r, m, prod = work.take(len(theta))
    np.matmul(theta[:, [1, 3]], a_rows, out=p)
    np.matmul(theta[:, [2, 4]], b_rows, out=q)
    np.exp(p, out=p)
    np.exp(q, out=q)
    np.add(p, q, out=psi)
    psi += np.exp(theta[:, :1])
    np.log(psi, out=r)
    r -= t
    np.divide(one[0], psi, out=psi)
    p *= psi
    q *= psi
    F = _residual_terms(r, psi, m, spare, w, rho, soft)
    sum_psi = psi @ one
    psi_p = np.multiply(psi, p, out=spare) @ x_moments
    psi_q = np.multiply(psi, q, out=spare) @ y_moments
    g = np.stack([sum_psi - psi_p[:, 0] - psi_q[:, 0], psi_p[:, 0], psi_q[:, 0], -psi_p[:, 1], -psi_q[:, 1]])
    if soft == 1.0:  # drop the curvature of the log-sum-exp
        psi.fill(0)
        psi_p, psi_q, sum_psi = np.zeros_like(psi_p), np.zeros_like(psi_q), np.zeros_like(sum_psi)
    m -= psi
    sum_m = m @ one
    np.multiply(m, p, out=prod)
    m_p = prod @ x_moments
    prod += psi
    prod *= p
    pp = prod @ x_moments
    m *= q
    m_q = m @ y_moments
    p *= m
    pq = p @ xy_moments
    m += psi
    m *= q
    qq = m @ y_moments
    floor = sum_psi - psi_p[:, 0] - psi_q[:, 0]
    return _Evaluation(F, g, _hessian(sum_m, floor, psi_p.T, psi_q.T, m_p.T, m_q.T, pp.T, qq.T, pq.T))


def _hessian(
    sum_m: Array,
    floor: Array,
    psi_p: Array,
    psi_q: Array,
    m_p: Array,
    m_q: Array,
    pp: Array,
    qq: Array,
    pq: Array,
) -> Array:
    """Hessian from the moments; the floor's share of L is 1 - p - q."""
    m_pp, m_qq = pp - psi_p, qq - psi_q
    H = np.empty((5, 5, len(sum_m)), sum_m.dtype)
    H[0, 0] = sum_m - 2 * (m_p[0] + m_q[0] - pq[0]) + m_pp[0] + m_qq[0] + floor
    H[0, 1] = m_p[0] - m_pp[0] - pq[0]
    H[0, 2] = m_q[0] - m_qq[0] - pq[0]
    H[0, 3] = pq[1] + m_pp[1] - m_p[1]
    H[0, 4] = pq[2] + m_qq[1] - m_q[1]
    H[1, 1], H[1, 2], H[1, 3], H[1, 4] = pp[0], pq[0], -pp[1], -pq[2]
    H[2, 2], H[2, 3], H[2, 4] = qq[0], -pq[1], -qq[1]
    H[3, 3], H[3, 4], H[4, 4] = pp[2], pq[3], qq[2]
    return H


def _newton_step(H: Array, g: Array, damping: Array) -> tuple[Array, Array]:
    """-(H + damping)^-1 g by L D L^T of the Hessian scaled to unit diagonal, over the last axis.

    A pivot that is not positive is replaced by its absolute value, at least 1e-10, so that the step descends.
    Returns the step [5, B] and the smallest pivot [B] before replacement.
    """
    size = len(g)
    tiny = np.finfo(g.dtype).tiny ** 0.5
    d = [1.0 / np.sqrt(np.maximum(np.abs(H[i, i]), tiny)) for i in range(size)]
    low: dict[tuple[int, int], Array] = {}
    pivots: list[Array] = []
    smallest = np.full(g.shape[1:], np.inf, g.dtype)
    for j in range(size):
        pivot = H[j, j] * d[j] * d[j] + damping
        scaled = [low[j, k] * pivots[k] for k in range(j)]
        for k in range(j):
            pivot = pivot - low[j, k] * scaled[k]
        np.minimum(smallest, pivot, out=smallest)
        pivot = np.maximum(np.abs(pivot), 1e-10)
        pivots.append(pivot)
        for i in range(j + 1, size):
            entry = H[j, i] * d[i] * d[j]
            for k in range(j):
                entry = entry - low[i, k] * scaled[k]
            low[i, j] = entry / pivot
    z = [-g[i] * d[i] for i in range(size)]
    for i in range(size):
        for k in range(i):
            z[i] = z[i] - low[i, k] * z[k]
    z = [z[i] / pivots[i] for i in range(size)]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            z[i] = z[i] - low[k, i] * z[k]
    return np.stack([z[i] * d[i] for i in range(size)]), smallest


def _hold_at_bounds(theta: Array, at: _Evaluation, bounds: Bounds) -> tuple[_Evaluation, Array]:
    """Take parameters out of the system that sit on a bound and are pushed outwards. Returns (system, held)."""
    low, high = (theta <= bounds.lo).T, (theta >= bounds.hi).T
    held = (low & (at.g > 0)) | (high & (at.g < 0))
    return (_without(at, held) if held.any() else at), held


def _without(at: _Evaluation, held: Array) -> _Evaluation:
    """The system with the held parameters taken out."""
    g = np.where(held, 0.0, at.g)
    H = np.where(held[:, None] | held[None, :], 0.0, at.H)
    diagonal = np.arange(NUM_PARAMETERS)
    H[diagonal, diagonal] = np.where(held, 1.0, at.H[diagonal, diagonal])
    return _Evaluation(at.F, g, H)


def minimise(
    points: Points,
    targets: Array,
    weights: Array,
    start: Array,
    rho: ResidualLoss,
    bounds: Bounds,
    *,
    work: Workspace | None = None,
    soft_iterations: int = 0,
    soft_floor: float = 0.0,
    max_iterations: int = 60,
    tolerance: float = 1e-12,
) -> Solution:
    """Minimise F for every row.

    Args:
        points: n points.
        targets: log losses, [1, n] or [B, n].
        weights: non-negative, [1, n] or [B, n].
        start: theta of each row, [B, 5].
        rho: residual loss.
        bounds: box for theta.
        work: buffers for at least B rows; made when not given. Its dtype is that of the arithmetic.
        soft_iterations: first iterations with the curvature of iterative reweighting (far starts).
        soft_floor: share of that curvature kept afterwards (few active points); 0 is the exact Hessian.
        max_iterations: after which a row is returned as it is, with the gap it has.
        tolerance: a row has converged when Newton predicts a relative decrease below it.

    The step along a rejected direction is shortened by the secant of the directional derivative, and from
    the third rejection in a row on the Hessian is damped (Levenberg 1944).
    """
    work = work or Workspace(len(start), len(points))
    dtype = work.dtype
    theta = np.clip(start, bounds.lo, bounds.hi).astype(dtype)
    box = Bounds(bounds.lo.astype(dtype), bounds.hi.astype(dtype))
    t, w = np.asarray(targets, dtype), np.asarray(weights, dtype)
    num_rows = len(theta)
    objective, gap, gradient, pivot = np.full((4, num_rows), np.nan)
    result = Solution(
        np.array(theta), objective, gap, gradient, pivot, np.zeros(num_rows, bool), np.zeros(num_rows, int)
    )
    exact = 1e-6 * len(points) * RESOLUTION**2
    ids = np.arange(num_rows)
    at = _evaluate(points, theta, t, w, rho, work, 1.0 if soft_iterations else soft_floor)
    damping, rejections = np.zeros(num_rows, dtype), np.zeros(num_rows, int)
    step, pivot, gap, held = _propose(theta, at, damping, box)
    for iteration in range(max_iterations + 1):
        settled = iteration >= soft_iterations
        done = (gap <= tolerance * at.F + exact) & (pivot > 0) & (damping == 0) & settled
        if iteration == max_iterations:
            step, pivot, gap, held = _propose(theta, at, np.zeros_like(damping), box)
            done[:] = True
        if done.any():
            _store(
                result,
                ids[done],
                len(points),
                theta[done],
                at.rows(done),
                pivot[done],
                gap[done],
                held[:, done],
            )
            result.iterations[ids[done]] = iteration
            rest = ~done
            if not rest.any():
                break
            ids, theta, at, step = ids[rest], theta[rest], at.rows(rest), step[:, rest]
            damping, rejections = damping[rest], rejections[rest]
            t, w = (array if len(array) == 1 else array[rest] for array in (t, w))
        trial = np.clip(theta + step.T, box.lo, box.hi)
        soft = 1.0 if iteration + 1 < soft_iterations else soft_floor
        new = _evaluate(points, trial, t, w, rho, work, soft)
        better = new.F <= at.F
        slope, new_slope = np.sum(at.g * step, 0), np.sum(new.g * step, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            secant = slope / (slope - new_slope)
        shrink = np.where(np.isfinite(secant), np.clip(secant, 0.05, 0.7), 0.1).astype(dtype)
        theta = np.where(better[:, None], trial, theta)
        at = new.where(better, at)
        rejections = np.where(better, 0, rejections + 1)
        damping = np.where(better, 0.1 * damping, np.where(rejections > 2, 4 * damping + 1e-3, damping))
        damping[damping < 1e-6] = 0.0
        fresh, pivot, gap, held = _propose(theta, at, damping, box)
        redo = better | (rejections > 2)
        step = np.where(redo, fresh, step * shrink)
    return result


def _propose(theta: Array, at: _Evaluation, damping: Array, box: Bounds) -> tuple[Array, Array, Array, Array]:
    """Step, smallest pivot, predicted decrease and held parameters at the current point.

    A step is cut where it first meets a bound, which keeps its direction downhill; a parameter that sits on a
    bound and would be carried outwards by the others is held like one that is pushed there itself.
    """
    free, held = _hold_at_bounds(theta, at, box)
    step, pivot = _newton_step(free.H, free.g, damping)
    on_low, on_high = (theta <= box.lo).T, (theta >= box.hi).T
    carried = ((on_low & (step < 0)) | (on_high & (step > 0))) & ~held
    if carried.any():
        free = _without(at, held | carried)
        step, pivot = _newton_step(free.H, free.g, damping)
    gap = -0.5 * np.sum(free.g * step, axis=0)
    longest = np.max(np.abs(step), axis=0)
    step = step * np.minimum(1.0, 2.0 / np.maximum(longest, 1e-30)).astype(step.dtype)
    target = theta.T + step
    if (target < box.lo[:, None]).any() or (target > box.hi[:, None]).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(step > 0, (box.hi[:, None] - theta.T) / step, (box.lo[:, None] - theta.T) / step)
        room = np.where((step == 0) | (room <= 0), 1.0, room)
        step = step * np.minimum(1.0, room.min(axis=0)).astype(step.dtype)
    return step, pivot, gap, held


def _store(
    result: Solution,
    ids: Array,
    num_points: int,
    theta: Array,
    at: _Evaluation,
    pivot: Array,
    gap: Array,
    held: Array,
) -> None:
    diagonal = np.abs(at.H[np.arange(5), np.arange(5)])
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient = np.where(held, 0.0, np.abs(at.g)) / np.sqrt(np.maximum(diagonal * at.F, 1e-300))
        result.gap[ids] = gap / np.maximum(at.F, num_points * RESOLUTION**2)
    result.theta[ids] = theta
    result.objective[ids] = at.F
    result.scaled_gradient[ids] = gradient.max(axis=0)
    result.curvature[ids] = pivot
    result.bounded[ids] = held.any(axis=0)
