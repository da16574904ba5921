"""Fit the simple curves of `isoflop.laws.curves`, many data sets or replicates at once, each with evidence.

The engine is a batched Levenberg-Marquardt method (Marquardt 1963; Moré 1978 for the scaling) with analytic
derivatives and box bounds. Its starts come from a grid over the shape coordinates, with the linear part
solved exactly; a second, independent set of starts then checks that none does better. What a user should
believe about a fit is in its certificate: the scaled gradient (largest cosine between the residual and a
column of the Jacobian), the smallest curvature, and the gap that the independent starts found.

Residuals are absolute, y - f, or relative, ln y - ln f, which is the scoring of loss extrapolation.

Left out: choosing among families (`select`), predicting outside the data (`extrapolate`).

Shape letters: B data sets, S starts, n points, p fitted parameters, P published parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop import records
from isoflop.laws import curves
from isoflop.laws.curves import Array, CurveError, Family

GRADIENT_TOLERANCE = 1e-6
"""Largest scaled gradient of a certified fit: the residual is orthogonal to the tangent to one in a million."""
GAP_TOLERANCE = 1e-6
"""Largest relative improvement that independent starts may find for a certified fit."""


@dataclass(frozen=True)
class CurveFits:
    """One family fitted to B data sets."""

    family: Family
    x_ref: Array
    """[B]"""
    x_range: Array
    """[B, 2] smallest and largest x with weight."""
    beta: Array
    """[B, L]"""
    nu: Array
    """[B, K]"""
    objective: Array
    """[B] weighted sum of squared residuals."""
    scaled_gradient: Array
    """[B] largest cosine between residual and a Jacobian column that no bound holds; 0 for an exact fit."""
    smallest_curvature: Array
    """[B] smallest eigenvalue of J'J with unit diagonal (bounded coordinates left out)."""
    multistart_gap: Array
    """[B] (objective of the grid's starts - best of the independent starts) / best, not below 0."""
    at_bound: NDArray[np.bool_]
    """[B] a shape coordinate ended on its bound: the data do not hold it."""
    num_points: NDArray[np.int_]
    """[B] points with weight above 0."""
    relative: bool
    """Residuals are ln y - ln f rather than y - f."""

    @property
    def parameters(self) -> Array:
        """Parameters of the published form [B, P]."""
        return self.family.natural(self.beta, self.nu, self.x_ref)

    @property
    def certified(self) -> NDArray[np.bool_]:
        """[B] gradient and gap are within tolerance."""
        return (self.scaled_gradient <= GRADIENT_TOLERANCE) & (self.multistart_gap <= GAP_TOLERANCE)

    def predict(self, x: ArrayLike) -> Array:
        """y [B, m] at x [m] or [B, m]."""
        points = np.broadcast_to(np.asarray(x, dtype=float), (len(self.beta), np.shape(x)[-1]))
        return self.family.evaluate(self.family.normalise(points, self.x_ref), self.beta, self.nu)

    def gradient(self, x: ArrayLike) -> Array:
        """dy / d(beta, nu) [B, m, p] at x [m] or [B, m]."""
        points = np.broadcast_to(np.asarray(x, dtype=float), (len(self.beta), np.shape(x)[-1]))
        u = self.family.normalise(points, self.x_ref)
        return self.family.evaluate_with_gradient(u, self.beta, self.nu)[1]

    def take(self, index: ArrayLike) -> CurveFits:
        """The fits of some data sets, in this order."""
        pick = np.atleast_1d(np.asarray(index))
        arrays = {
            name: getattr(self, name)[pick]
            for name in (
                "x_ref", "x_range", "beta", "nu", "objective", "scaled_gradient", "smallest_curvature",
                "multistart_gap", "at_bound", "num_points",
            )
        }  # fmt: skip
        return replace(self, **arrays)


class _Problem(NamedTuple):
    """M problems, one per (data set, start)."""

    family: Family
    u: Array
    """[M, n]"""
    y: Array
    """[M, n]; ln y when relative."""
    root_weight: Array
    """[M, n]"""
    lower: Array
    """[M, p]"""
    upper: Array
    relative: bool

    def take(self, pick: NDArray[np.int_] | NDArray[np.bool_]) -> _Problem:
        return _Problem(
            self.family, self.u[pick], self.y[pick], self.root_weight[pick],
            self.lower[pick], self.upper[pick], self.relative,
        )  # fmt: skip


class _State(NamedTuple):
    theta: Array
    """[M, p]"""
    cost: Array
    """[M]"""


def fit_curves(
    x: ArrayLike,
    y: ArrayLike,
    family: Family | str,
    *,
    weights: ArrayLike | None = None,
    relative: bool = False,
    num_starts: int = 4,
    num_checks: int = 3,
    warm: CurveFits | None = None,
    beta_lower: ArrayLike | None = None,
    max_steps: int = 80,
    seed: int = 0,
) -> CurveFits:
    """Least squares for one family and many data sets.

    Args:
        x: [n] shared by all data sets, or [B, n].
        y: [n] or [B, n].
        family: a family or its name.
        weights: [n] or [B, n], >= 0, one over the variance of a residual up to a factor; 0 leaves a point
            out, so that data sets of different lengths can share a batch. All 1 when missing.
        relative: residuals are ln y - ln f; y must be positive.
        num_starts: grid starts that are followed to the end, best first.
        num_checks: independent random starts for the certificate; 0 leaves the gap unchecked (0).
        warm: an earlier fit of the same family whose shapes are tried first: one data set's for all, or
            one for each.
        beta_lower: [L] lower bounds of the linear part, e.g. 0 for the constant of a broken power law whose
            irreducible loss must not be negative; unbounded when missing.
        max_steps: Levenberg-Marquardt steps.
        seed: of the independent starts.

    Returns:
        The fits. A data set with fewer points than parameters is fitted all the same (its curvature is 0);
        `fit_curve` and `select` refuse it.

    Raises:
        CurveError: y not finite, not positive for relative residuals, or x not positive for a family of log x.
    """
    form = curves.find(family) if isinstance(family, str) else family
    x_Bn, y_Bn, w_Bn = _as_batch(x, y, weights)
    if relative and np.any((y_Bn <= 0) & (w_Bn > 0)):
        raise CurveError("relative residuals need y > 0 everywhere; use absolute residuals for these scores")
    masked = np.where(w_Bn > 0, x_Bn, np.nan)
    x_ref = _reference(form, masked)
    u_Bn = form.normalise(np.where(w_Bn > 0, x_Bn, x_ref[:, None]), x_ref)
    lo, hi = _spread_of(u_Bn, w_Bn)
    lower, upper = form.bounds(lo, hi)
    target = np.log(np.where(w_Bn > 0, y_Bn, 1.0)) if relative else np.where(w_Bn > 0, y_Bn, 0.0)
    main = _grid_starts(form, u_Bn, target, w_Bn, (lo, hi), relative, num_starts, warm, (lower, upper))
    starts = main
    num_checks = num_checks if form.coordinates else 0
    if num_checks:
        fresh = _random_starts(form, (lo, hi), (lower, upper), num_checks, np.random.default_rng(seed))
        starts = np.concatenate([main, fresh], axis=1)
    problem, state = _assemble(form, u_Bn, target, w_Bn, starts, (lower, upper), relative, beta_lower)
    state = _levenberg_marquardt(problem, state, max_steps)
    num_B, num_S = starts.shape[:2]
    cost_BS = state.cost.reshape(num_B, num_S)
    best = np.argmin(cost_BS, axis=1)
    pick = np.arange(num_B) * num_S + best
    gap = _gap(cost_BS, main.shape[1], target, w_Bn)
    x_range = np.stack(_spread_of(x_Bn, w_Bn), axis=1)
    return _finish(problem.take(pick), state.theta[pick], state.cost[pick], (x_ref, x_range), gap, w_Bn)


def _as_batch(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    y_Bn = np.atleast_2d(np.asarray(y, dtype=float))
    x_Bn = np.broadcast_to(np.asarray(x, dtype=float), y_Bn.shape)
    w_Bn = np.broadcast_to(1.0 if weights is None else np.asarray(weights, dtype=float), y_Bn.shape)
    used = w_Bn > 0
    if not (np.isfinite(x_Bn[used]).all() and np.isfinite(y_Bn[used]).all() and np.isfinite(w_Bn).all()):
        raise CurveError("x, y and weights must be finite; leave a missing score out and say why")
    if np.any(w_Bn < 0):
        raise CurveError("weights must not be negative")
    return x_Bn, y_Bn, w_Bn


def _reference(form: Family, masked: Array) -> Array:
    """x_ref [B] over the points that have weight."""
    filled = np.where(np.isnan(masked), 1.0, masked)
    form.reference(filled)  # refuses x that is not positive
    if form.variable == "log":
        return np.exp(np.nanmean(np.log(masked), axis=1))
    largest = np.nanmax(np.abs(masked), axis=1)
    return np.where(largest > 0, largest, 1.0)


def _spread_of(u_Bn: Array, w_Bn: Array) -> tuple[Array, Array]:
    used = w_Bn > 0
    return np.where(used, u_Bn, np.inf).min(axis=1), np.where(used, u_Bn, -np.inf).max(axis=1)


def _solve_linear(phi: Array, target: Array, w: Array) -> Array:
    """beta [..., L] of least squares with a relative ridge of 1e-12, for shapes phi [..., n, L]."""
    norm = np.sqrt(np.einsum("...nl,...n->...l", phi**2, w))
    norm = np.where(norm > 0, norm, 1.0)
    scaled = phi / norm[..., None, :]
    weighted = scaled * w[..., None]
    gram = np.einsum("...nl,...nm->...lm", weighted, scaled) + 1e-12 * np.eye(phi.shape[-1])
    right = np.einsum("...nl,...n->...l", weighted, target)
    return np.asarray(np.linalg.solve(gram, right[..., None])[..., 0] / norm)


def _linear_part(form: Family, u: Array, target: Array, w: Array, nu: Array, relative: bool) -> Array:
    """beta [..., L] for given shapes: least squares, on the scale of y when residuals are relative."""
    if form.fixed_beta:
        return np.broadcast_to(np.asarray(form.fixed_beta), (*nu.shape[:-1], len(form.fixed_beta)))
    phi = form.shapes(u, nu).phi
    y = np.exp(target) if relative else target
    weight = w / y**2 if relative else w
    return _solve_linear(phi, np.broadcast_to(y, phi.shape[:-1]), np.broadcast_to(weight, phi.shape[:-1]))


def _cost(form: Family, u: Array, target: Array, w: Array, beta: Array, nu: Array, relative: bool) -> Array:
    y = form.evaluate(u, beta, nu)
    if relative:
        bad = np.any((y <= 0) & (w > 0), axis=-1)
        y = np.log(np.where(y > 0, y, 1.0))
    with np.errstate(over="ignore", invalid="ignore"):
        cost = np.sum(w * (target - y) ** 2, axis=-1)
    cost = np.where(np.isfinite(cost), cost, np.inf)
    return np.where(bad, np.inf, cost) if relative else cost


def _grid_starts(
    form: Family,
    u: Array,
    target: Array,
    w: Array,
    spread: tuple[Array, Array],
    relative: bool,
    num: int,
    warm: CurveFits | None,
    bounds: tuple[Array, Array],
) -> Array:
    """The best shapes nu [B, S, K] of the grid, each with its linear part solved, and the warm ones."""
    grid = form.starts(*spread)
    num_grid = grid.shape[1]
    if num_grid > 1:
        args = (u[:, None, :], target[:, None, :], w[:, None, :])
        beta = _linear_part(form, *args, grid, relative)
        cost = _cost(form, *args, beta, grid, relative)
        keep = min(num, num_grid)
        order = np.argpartition(cost, keep - 1, axis=1)[:, :keep]
        grid = np.take_along_axis(grid, order[..., None], axis=1)
    if warm is not None and form.coordinates:
        known = np.broadcast_to(warm.nu, (len(u), warm.nu.shape[1]))[:, None, :]
        grid = np.concatenate([np.clip(known, bounds[0][:, None], bounds[1][:, None]), grid], axis=1)
    return grid


def _random_starts(
    form: Family,
    spread: tuple[Array, Array],
    bounds: tuple[Array, Array],
    num: int,
    rng: np.random.Generator,
) -> Array:
    """Shapes nu [B, S, K] drawn between the ends of each coordinate's grid, stretched by a fifth."""
    grid = form.starts(*spread)
    lo, hi = grid.min(axis=1), grid.max(axis=1)
    share = rng.uniform(-0.2, 1.2, size=(1, num, grid.shape[2]))
    drawn = lo[:, None] + share * (hi - lo)[:, None]
    return np.clip(drawn, bounds[0][:, None], bounds[1][:, None])


def _assemble(
    form: Family,
    u: Array,
    target: Array,
    w: Array,
    nu_BSK: Array,
    bounds: tuple[Array, Array],
    relative: bool,
    beta_lower: ArrayLike | None,
) -> tuple[_Problem, _State]:
    """Flatten (data set, start) and solve each start's linear part."""
    num_B, num_S, num_K = nu_BSK.shape
    repeat = np.repeat(np.arange(num_B), num_S)
    nu = nu_BSK.reshape(num_B * num_S, num_K)
    u_M, target_M, w_M = u[repeat], target[repeat], w[repeat]
    beta = _linear_part(form, u_M, target_M, w_M, nu, relative)
    num_beta = 0 if form.fixed_beta else form.num_linear
    least = np.full(num_beta, -np.inf) if beta_lower is None else np.asarray(beta_lower, dtype=float)
    if num_beta:
        beta = np.maximum(beta, least)
    cost = _cost(form, u_M, target_M, w_M, beta, nu, relative)
    if relative and not form.fixed_beta and np.any(~np.isfinite(cost)):
        beta = np.where(np.isfinite(cost)[:, None], beta, _positive_start(form, u_M, target_M, w_M, nu))
        cost = _cost(form, u_M, target_M, w_M, beta, nu, relative)
    lower = np.concatenate([np.tile(least, (num_B, 1)), bounds[0]], axis=1)[repeat]
    upper = np.concatenate([np.full((num_B, num_beta), np.inf), bounds[1]], axis=1)[repeat]
    theta = nu if form.fixed_beta else np.concatenate([beta, nu], axis=1)
    return _Problem(form, u_M, target_M, np.sqrt(w_M), lower, upper, relative), _State(theta, cost)


def _positive_start(form: Family, u: Array, target: Array, w: Array, nu: Array) -> Array:
    """A positive curve to start from: the mean of y alone, in the first shape that is positive everywhere."""
    phi = form.shapes(u, nu).phi[..., 0]
    level = np.exp(np.sum(w * target, axis=-1) / np.sum(w, axis=-1))
    beta = np.zeros((len(u), form.num_linear))
    beta[:, 0] = level / np.exp(np.mean(np.log(np.maximum(phi, 1e-300)), axis=-1))
    return beta


def _split(form: Family, theta: Array) -> tuple[Array, Array]:
    if form.fixed_beta:
        return np.broadcast_to(np.asarray(form.fixed_beta), (len(theta), len(form.fixed_beta))), theta
    return theta[:, : form.num_linear], theta[:, form.num_linear :]


def _residual_and_jacobian(problem: _Problem, theta: Array) -> tuple[Array, Array]:
    """Weighted residual [M, n] and d(model) / d(theta), weighted [M, n, p]."""
    beta, nu = _split(problem.family, theta)
    y, jacobian = problem.family.evaluate_with_gradient(problem.u, beta, nu)
    if problem.relative:
        positive = np.where(y > 0, y, 1.0)
        jacobian = jacobian / positive[..., None]
        y = np.log(positive)
    return problem.root_weight * (problem.y - y), problem.root_weight[..., None] * jacobian


def _normal_equations(problem: _Problem, theta: Array) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Scaled J'J [M, p, p] with unit diagonal, scaled J'r [M, p], column norms [M, p], and what is held.

    A coordinate on its bound whose step would lead outside is held: its row is the identity's, its
    gradient 0.
    """
    r, jacobian = _residual_and_jacobian(problem, theta)
    norm = np.sqrt(np.einsum("mnp,mnp->mp", jacobian, jacobian))
    safe = np.where(norm > 0, norm, 1.0)
    scaled = jacobian / safe[:, None, :]
    gradient = np.einsum("mnp,mn->mp", scaled, r)
    outward = ((theta <= problem.lower) & (gradient < 0)) | ((theta >= problem.upper) & (gradient > 0))
    held = outward | (norm == 0)
    gram = np.matmul(np.swapaxes(scaled, 1, 2), scaled)
    free = ~held
    gram = np.where(free[:, :, None] & free[:, None, :], gram, 0.0)
    gram = gram + np.where(held, 1.0, 0.0)[:, :, None] * np.eye(theta.shape[1])
    return gram, np.where(held, 0.0, gradient), safe, held


def _levenberg_marquardt(problem: _Problem, state: _State, max_steps: int) -> _State:
    """Damped Gauss-Newton steps, each problem with its own damping, until every one rests."""
    theta, cost = state.theta.copy(), state.cost.copy()
    form = problem.family
    floor = 1e-30 * np.sum((problem.root_weight * problem.y) ** 2, axis=1) + 1e-300
    damping, growth = np.full(len(theta), 1e-3), np.full(len(theta), 2.0)
    live = np.flatnonzero(np.isfinite(cost) & (cost > floor))
    for _ in range(max_steps):
        if not len(live):
            break
        part = problem.take(live)
        gram, gradient, norm, _held = _normal_equations(part, theta[live])
        rest = np.max(np.abs(gradient), axis=1) <= 1e-10 * np.sqrt(cost[live])
        system = gram + damping[live][:, None, None] * np.eye(theta.shape[1])
        step = np.linalg.solve(system, gradient[..., None])[..., 0]
        promised = np.einsum("mp,mp->m", step, gradient)
        trial = np.clip(theta[live] + step / norm, part.lower, part.upper)
        beta, nu = _split(form, trial)
        trial_cost = _cost(form, part.u, part.y, part.root_weight**2, beta, nu, part.relative)
        better = trial_cost < cost[live]
        rest |= promised <= 1e-15 * cost[live]
        take = live[better]
        theta[take], cost[take] = trial[better], trial_cost[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 5, 1e-14), damping[live] * growth[live])
        growth[live] = np.where(better, 2.0, growth[live] * 2)
        live = live[~rest & (damping[live] < 1e14) & (cost[live] > floor[live])]
    return _State(theta, cost)


def _gap(cost_BS: Array, num_main: int, target: Array, w: Array) -> Array:
    """Relative improvement [B] that the independent starts found over the grid's."""
    if cost_BS.shape[1] == num_main:
        return np.zeros(len(cost_BS))
    main, check = cost_BS[:, :num_main].min(axis=1), cost_BS[:, num_main:].min(axis=1)
    scale = np.maximum(np.minimum(main, check), 1e-20 * np.sum(w * target**2, axis=1) + 1e-300)
    main = np.where(np.isfinite(main), main, 1e300)
    return np.asarray(np.clip((main - check) / scale, 0.0, 1e300))


def _finish(
    problem: _Problem, theta: Array, cost: Array, x_info: tuple[Array, Array], gap: Array, w_Bn: Array
) -> CurveFits:
    form = problem.family
    gram, gradient, _norm, held = _normal_equations(problem, theta)
    size = np.sum((problem.root_weight * problem.y) ** 2, axis=1)
    exact = cost <= 1e-20 * size + 1e-300
    root = np.sqrt(np.where(exact, 1.0, cost))
    scaled_gradient = np.where(exact, 0.0, np.max(np.abs(gradient), axis=1, initial=0.0) / root)
    curvature = np.linalg.eigvalsh(gram)[:, 0]
    beta, nu = _split(form, theta)
    num_K = len(form.coordinates)
    on_bound = (theta <= problem.lower) | (theta >= problem.upper)
    at_bound = np.any(on_bound[:, theta.shape[1] - num_K :] | held[:, theta.shape[1] - num_K :], axis=1)
    num_points = (w_Bn > 0).sum(axis=1)
    return CurveFits(
        form, *x_info, np.array(beta), np.array(nu), cost, scaled_gradient,
        np.maximum(curvature, 0.0), gap, at_bound, num_points, problem.relative,
    )  # fmt: skip


# ------------------------------------------------------------------------------- one curve, as a record


def fit_curve(
    x: ArrayLike,
    y: ArrayLike,
    family: Family | str,
    *,
    sigma: ArrayLike | None = None,
    relative: bool = False,
    num_draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> records.Fit:
    """Fit one family to one data set, with intervals from a parametric bootstrap of all parameters.

    Args:
        x, y: [n].
        family: a family or its name.
        sigma: standard error of each y [n] or of all; estimated from the residuals when missing.
        relative: residuals are ln y - ln f (then sigma is relative too).
        num_draws: bootstrap replicates (Efron 1979), refitted all at once.
        level: of the percentile intervals.
        seed: of the bootstrap.

    Raises:
        CurveError: fewer points than parameters (the sentence says how many are needed), or bad numbers.
    """
    form = curves.find(family) if isinstance(family, str) else family
    x_n, y_n = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    refuse_too_few(form, x_n)
    weights = None if sigma is None else np.broadcast_to(1 / np.asarray(sigma, dtype=float) ** 2, y_n.shape)
    fits = fit_curves(
        x_n,
        y_n,
        form,
        weights=weights,
        relative=relative,
        num_starts=8,
        num_checks=8,
        max_steps=500,
        seed=seed,
    )
    freedom = len(x_n) - form.num_parameters
    spread = residual_sigma(fits, sigma)[0]
    draws = bootstrap(fits, x_n, spread, num_draws, weights=weights, seed=seed)
    return _as_record(fits, draws, freedom, level, sigma is not None)


def refuse_too_few(form: Family, x: Array) -> None:
    """Raise CurveError when there are fewer distinct x than parameters of this family."""
    distinct = len(np.unique(x))
    if distinct < form.num_parameters:
        raise CurveError(
            f"{form.title} ({form.name}) has {form.num_parameters} parameters and the data have {distinct} "
            f"distinct x: fewer points than parameters; add points or choose a family with fewer"
        )


def residual_sigma(fits: CurveFits, sigma: ArrayLike | None = None) -> Array:
    """Standard deviation of a residual [B, 1], or the known one [B, n] (broadcast) when `sigma` is given.

    Estimated as sqrt(sum of squares / (n - p)); None degrees of freedom leave it undefined (NaN).
    """
    if sigma is not None:
        return np.broadcast_to(np.asarray(sigma, dtype=float), (len(fits.beta), np.size(sigma)))
    freedom = fits.num_points - fits.family.num_parameters
    safe = np.maximum(freedom, 1)
    return np.where(freedom > 0, np.sqrt(fits.objective / safe), np.nan)[:, None]


def bootstrap(
    fits: CurveFits, x: Array, sigma: Array, num_draws: int, *, weights: Array | None = None, seed: int = 0
) -> CurveFits:
    """Refit `num_draws` data sets simulated from the first of `fits` with Gaussian noise of this sigma."""
    rng = np.random.default_rng(seed)
    truth = fits.predict(x)[0]
    noise = np.where(np.isfinite(sigma), sigma, 0.0) * rng.normal(size=(num_draws, len(x)))
    y = truth * np.exp(noise) if fits.relative else truth + noise
    return fit_curves(
        x, y, fits.family, weights=weights, relative=fits.relative, num_starts=2, num_checks=0,
        warm=fits.take(0), seed=seed,
    )  # fmt: skip


def _as_record(fits: CurveFits, draws: CurveFits, freedom: int, level: float, known: bool) -> records.Fit:
    form = fits.family
    values, many = fits.parameters[0], draws.parameters
    tail = (1 - level) / 2
    lo, hi = np.quantile(many, [tail, 1 - tail], axis=0)
    estimates = {}
    for index, name in enumerate(form.parameters):
        defined = freedom > 0 or known
        estimates[name] = records.Estimate(
            value=float(values[index]),
            unit="",
            lo=float(lo[index]) if defined else None,
            hi=float(hi[index]) if defined else None,
            level=level,
            method=f"parametric bootstrap, {len(many)} draws",
            reason=None if defined else "as many parameters as points: no residual to learn the noise from",
        )
    held = bool(fits.at_bound[0]) or fits.smallest_curvature[0] < 1e-12
    return records.Fit(
        name=form.name,
        form=form.formula,
        estimates=estimates,
        error_model=("relative" if fits.relative else "absolute") + (", known" if known else ", estimated"),
        num_points=int(fits.num_points[0]),
        degrees_of_freedom=float(freedom),
        objective=float(fits.objective[0]),
        certificate=certificate(fits),
        identified=not held,
        not_identified="a shape parameter runs to its bound or two cannot be told apart" if held else None,
    )


def certificate(fits: CurveFits, index: int = 0) -> records.Certificate:
    """The evidence for one of the fits, as a record."""
    return records.Certificate(
        converged=bool(fits.certified[index]),
        scaled_gradient=float(fits.scaled_gradient[index]),
        smallest_curvature=float(fits.smallest_curvature[index]),
        multistart_gap=float(fits.multistart_gap[index]),
        note="a shape parameter lies on its bound" if fits.at_bound[index] else "",
    )
