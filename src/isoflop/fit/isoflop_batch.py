"""Many isoFLOP fits at once: the linear algebra under `isoflop.fit.isoflop`, with a leading axis S.

A user's sweep is S = 1; a coverage study runs thousands of simulated sweeps through the very same lines.

The model. At budget k, in t = ln N - (mean ln N of the points kept there),

    loss = c0_k + c1_k t + c2_k (t^2 + s t^3 / 3) + noise,      c3_k = s c2_k / 3.

Level, slope and curvature are free at each budget. The skewness s = f'''/f'' is shared by all budgets, for
a reason: for any law E + A/N^alpha + B/D^beta with D proportional to C/N the profile's f'''/f'' at its
minimum is beta - alpha, whatever the budget (differentiate A e^(-alpha t) + B e^(beta t); Hoffmann et al.
2022, section 3.3 for the form). One number from the whole sweep replaces one per budget, which is what lets a few
sizes and seeds carry a cubic; a parabola (s = 0) is biased as soon as alpha and beta differ
(arXiv 2603.22339). s itself has a weak prior, see `Rules.skew_sd`.

Shapes: S fits, n points, K budgets, P parameters, G groups of validation windows.
Left out: records, reasons and words.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.fit import bowl
from isoflop.fit.noise import NoiseBatch, estimate_noise

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Everything that could have been chosen after looking, chosen before."""

    degree: int = 3
    """2 for parabolas, 3 for cubics with shared skewness."""
    eps: float = 0.01
    """Rise that delimits the basin, as a share of the lowest loss."""
    level: float = 0.95
    """Confidence level of every interval."""
    max_rise: float = 0.10
    """A size is kept while its mean loss is within this share of the lowest mean at its budget. Far up the
    walls the next power of t matters more than it tells: at this rise a cubic's error in N_opt and in the
    edges stays below 0.02 in ln N for published exponents, a fraction of the noise of small sweeps."""
    min_sizes: int = 4
    """So many sizes of lowest mean loss are kept whatever their rise."""
    skew_sd: float = 0.2
    """Standard deviation of the prior on s = beta - alpha, mean 0. Published laws of language models lie
    within -0.34..0.05 (Hoffmann 2022, Besiroglu 2024, Muennighoff 2023, OLMo Hybrid, multimodal fits in
    arXiv 2603.22339). It decides only where the sizes are too few to tell; infinity switches it off."""


@dataclass(frozen=True)
class Design:
    """Which points there are; the losses come apart. Every budget here has at least three sizes."""

    log_budgets: Array
    """[K] ln of the budgets, ascending."""
    budget_index: NDArray[np.intp]
    """[n] budget of each point."""
    log_size: Array
    """[n] ln N."""
    cell_index: NDArray[np.intp]
    """[n] cell = (budget, size) of each point."""
    cell_budget: NDArray[np.intp]
    """[cells] budget of each cell."""
    same_trunk: Array
    """[n, n] 1 where two points are branches of one trunk (or the same point), else 0."""

    @property
    def num_budgets(self) -> int:
        return len(self.log_budgets)


def build_design(budget: Array, size: Array, trunk: NDArray[np.int64]) -> Design:
    """Index points by budget, cell and trunk. Arrays [n]; budgets must be exactly equal within a group."""
    budgets, budget_index = np.unique(budget, return_inverse=True)
    cells, cell_index = np.unique(np.stack([budget_index, size]), axis=1, return_inverse=True)
    return Design(
        log_budgets=np.log(budgets),
        budget_index=budget_index,
        log_size=np.log(size),
        cell_index=cell_index.reshape(-1),
        cell_budget=cells[0].astype(np.intp),
        same_trunk=(trunk[:, None] == trunk[None, :]).astype(np.float64),
    )


@dataclass(frozen=True)
class BatchFit:
    """Fits of S sweeps of one design."""

    design: Design
    rules: Rules
    included: NDArray[np.bool_]
    """[S, n] points that took part."""
    centre: Array
    """[S, K] mean ln N of those."""
    coefficients: Array
    """[S, K, 4] lowest power first, in ln N - centre, nats/token."""
    covariance: Array
    """[S, 4K, 4K] of the coefficients, from run noise and the prior; NaN without degrees of freedom."""
    skew: Array
    """[S] the shared s; 0 for parabolas."""
    skew_variance: Array
    """[S] its variance; NaN for parabolas."""
    noise: NoiseBatch
    residuals: Array
    """[S, n] nats/token; 0 for points left out."""
    window_covariance: Array | None
    """[S, 4K, 4K] added by sampling the validation windows, see `_window_covariance`; may be indefinite."""
    num_groups: int


def fit_batch(design: Design, loss: Array, rules: Rules, groups: Array | None = None) -> BatchFit:
    """Fit S sweeps of one design.

    Args:
        design: the points.
        loss: [S, n] nats/token.
        rules: the choices made beforehand.
        groups: [S, n, G] mean loss of each group of validation windows, the same windows for all points.
    """
    included = _apply_inclusion(design, loss, rules)
    centre, t = _centred(design, included)
    theta, jacobian, inverse = _solve(design, loss, included, t, rules)
    num_points = loss.shape[1]
    maker = _residual_maker(jacobian, inverse, included)
    fitted = _coefficients(theta, design.num_budgets, rules)
    residuals = np.where(included, loss - bowl.evaluate(fitted[:, design.budget_index], t), 0.0)
    padded = np.zeros((loss.shape[0], jacobian.shape[1]))
    padded[:, :num_points] = residuals
    same_trunk = np.eye(jacobian.shape[1])
    same_trunk[:num_points, :num_points] = design.same_trunk
    if rules.degree == 3:
        padded[:, -1] = -jacobian[:, -1, -1] * theta[:, -1]
    noise = estimate_noise(padded, maker, same_trunk)
    to_coefficients = _chain(theta, design.num_budgets, rules)
    shared = inverse @ (jacobian.swapaxes(1, 2) @ (same_trunk @ jacobian)) @ inverse
    rho = noise.correlation[:, None, None]
    of_theta = noise.variance[:, None, None] * ((1 - rho) * inverse + rho * shared)
    covariance = to_coefficients @ of_theta @ to_coefficients.swapaxes(1, 2)
    window = None
    if groups is not None:
        hat = to_coefficients @ inverse @ jacobian[:, :num_points].swapaxes(1, 2)
        window = _window_covariance(hat, maker[:, :num_points, :num_points], groups)
    return BatchFit(
        design=design,
        rules=rules,
        included=included,
        centre=centre,
        coefficients=fitted,
        covariance=covariance,
        skew=theta[:, -1] if rules.degree == 3 else np.zeros(len(theta)),
        skew_variance=of_theta[:, -1, -1] if rules.degree == 3 else np.full(len(theta), np.nan),
        noise=noise,
        residuals=residuals,
        window_covariance=window,
        num_groups=0 if groups is None else groups.shape[-1],
    )


def _apply_inclusion(design: Design, loss: Array, rules: Rules) -> NDArray[np.bool_]:
    """Which points to keep: by the mean loss of their size, never point by point (see `Rules.max_rise`)."""
    num_cells = len(design.cell_budget)
    member = np.zeros((num_cells, loss.shape[1]))
    member[design.cell_index, np.arange(loss.shape[1])] = 1.0
    means = loss @ (member / member.sum(1, keepdims=True)).T
    keep = np.zeros(means.shape, dtype=bool)
    for k in range(design.num_budgets):
        cells = np.flatnonzero(design.cell_budget == k)
        of_budget = means[:, cells]
        rank = of_budget.argsort(1).argsort(1)
        low = of_budget <= (1 + rules.max_rise) * of_budget.min(1, keepdims=True)
        keep[:, cells] = low | (rank < rules.min_sizes)
    return keep[:, design.cell_index]


def _centred(design: Design, included: NDArray[np.bool_]) -> tuple[Array, Array]:
    weights = included.astype(np.float64)
    of_budget = (design.budget_index[:, None] == np.arange(design.num_budgets)).astype(np.float64)
    centre = ((weights * design.log_size) @ of_budget) / (weights @ of_budget)
    return centre, design.log_size - centre[:, design.budget_index]


def _solve(
    design: Design, loss: Array, included: NDArray[np.bool_], t: Array, rules: Rules
) -> tuple[Array, Array, Array]:
    """Least squares by Gauss-Newton: the model is linear but for the product s c2.

    The prior on s is one more row, s = 0 +- skew_sd, weighted like a point of the noise found so far.

    Returns:
        theta [S, P] (c0, c1, c2 of each budget, then s), the Jacobian [S, n + 1, P] (rows of left-out
        points are zero; without the last row and column for parabolas), (J'J)^-1 [S, P, P].
    """
    num_budgets = design.num_budgets
    member = (design.budget_index[:, None] == np.arange(num_budgets)) & included[..., None]
    powers = bowl.powers(t)
    jacobian = (member[..., None] * powers[..., None, :3]).reshape(*loss.shape, 3 * num_budgets)
    target = np.where(included, loss, 0.0)
    theta, inverse = _least_squares(jacobian, target)
    if rules.degree == 2:
        return theta, jacobian, inverse
    num_kept = included.sum(1)
    theta = np.concatenate([theta, np.zeros((len(theta), 1))], axis=1)
    for _ in range(6):
        skew = theta[:, -1]
        c2 = theta[:, 2:-1:3][:, design.budget_index]
        fitted = _coefficients(theta, num_budgets, rules)[:, design.budget_index]
        rss = np.where(included, loss - bowl.evaluate(fitted, t), 0.0) ** 2
        variance = rss.sum(1) / np.maximum(num_kept - 3 * num_budgets, 1)
        weight = np.sqrt(variance) / rules.skew_sd
        basis = powers[..., :3].copy()
        basis[..., 2] += skew[:, None] * powers[..., 3] / 3
        jacobian = np.zeros((loss.shape[0], loss.shape[1] + 1, 3 * num_budgets + 1))
        jacobian[:, :-1, :-1] = (member[..., None] * basis[..., None, :]).reshape(*loss.shape, -1)
        jacobian[:, :-1, -1] = included * c2 * powers[..., 3] / 3
        jacobian[:, -1, -1] = weight
        extended = np.concatenate([target, -(weight * skew)[:, None]], axis=1)
        solution, inverse = _least_squares(jacobian, extended)
        theta = solution
        theta[:, -1] += skew
    return theta, jacobian, inverse


def _least_squares(jacobian: Array, target: Array) -> tuple[Array, Array]:
    inverse: Array = np.linalg.inv(jacobian.swapaxes(1, 2) @ jacobian)
    return np.einsum("spq,snq,sn->sp", inverse, jacobian, target, optimize=True), inverse


def _residual_maker(jacobian: Array, inverse: Array, included: NDArray[np.bool_]) -> Array:
    maker = -(jacobian @ inverse @ jacobian.swapaxes(1, 2))
    index = np.arange(maker.shape[1])
    diagonal = np.ones(maker.shape[:2])
    diagonal[:, : included.shape[1]] = included
    maker[:, index, index] += diagonal
    return maker


def _coefficients(theta: Array, num_budgets: int, rules: Rules) -> Array:
    """Parameters [S, P] -> polynomial coefficients [S, K, 4]."""
    out = np.zeros((len(theta), num_budgets, bowl.NUM_COEFFICIENTS))
    out[..., :3] = theta[:, : 3 * num_budgets].reshape(len(theta), num_budgets, 3)
    if rules.degree == 3:
        out[..., 3] = theta[:, -1:] * out[..., 2] / 3
    return out


def _chain(theta: Array, num_budgets: int, rules: Rules) -> Array:
    """Derivative of the polynomial coefficients by the parameters, [S, 4K, P]."""
    out = np.zeros((*theta.shape[:1], num_budgets, bowl.NUM_COEFFICIENTS, theta.shape[1]))
    for k in range(num_budgets):
        for power in range(3):
            out[:, k, power, 3 * k + power] = 1.0
        if rules.degree == 3:
            out[:, k, 3, 3 * k + 2] = theta[:, -1] / 3
            out[:, k, 3, -1] = theta[:, 3 * k + 2] / 3
    return out.reshape(len(theta), -1, theta.shape[1])


def _window_covariance(hat: Array, maker: Array, groups: Array) -> Array:
    """Covariance that sampling the validation windows adds to the coefficients, [S, 4K, 4K].

    The coefficients are linear in the losses, so each group of windows has coefficients of its own and the
    estimate is their mean; their covariance over groups / G is what resampling groups jointly for all runs
    would give. Run noise that differs from group to group is in it too, and is already counted in
    the run noise: it is estimated from the groups' residuals and taken off (two-way clustering, Cameron,
    Gelbach and Miller, J. Bus. Econ. Stat. 2011: V = V_run + V_window - V_both).
    """
    num_groups = groups.shape[-1]
    each = hat @ groups
    deviation = each - each.mean(-1, keepdims=True)
    between = deviation @ deviation.swapaxes(1, 2) / (num_groups * (num_groups - 1))
    residual = maker @ groups
    residual = residual - residual.mean(-1, keepdims=True)
    trace = np.einsum("sii->s", maker)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (residual**2).sum((1, 2)) / ((num_groups - 1) * trace)
    both = variance[:, None, None] * (hat @ hat.swapaxes(1, 2)) / num_groups
    return between - both


# ---------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class BatchInterval:
    """Value and ends, [...]; NaN where undefined or open."""

    value: Array
    lo: Array
    hi: Array
    df: Array
    """Degrees of freedom of the t quantile used."""


def t_quantile(level: float, df: Array) -> Array:
    """Two-sided critical value of Student's t; NaN without degrees of freedom."""
    from scipy.special import stdtrit

    with np.errstate(invalid="ignore"):
        return np.where(df > 0, stdtrit(np.maximum(df, 1e-3), (1 + level) / 2), np.nan)


def interval(
    quantity: bowl.Quantity, coefficients: Array, covariance: Array, window: Array | None, fit: BatchFit
) -> BatchInterval:
    """Interval of one quantity by profiling, with the window part and its degrees of freedom.

    The window part moves all coefficients along few directions and is large for the level, so it does not
    enter the ellipsoid: each side's distance is joined with it in quadrature (the method of variance
    estimates recovery, Zou and Donner, Stat. Med. 2008). Degrees of freedom of the sum by Satterthwaite.

    Args:
        coefficients: [S, ..., m]; covariance and window [S, ..., m, m] (or no window).
    """
    value, grad = quantity(coefficients)
    shape = (-1,) + (1,) * (value.ndim - 1)
    df = np.broadcast_to(fit.noise.df.reshape(shape), value.shape)
    added = np.zeros_like(value)
    if window is not None:
        run = np.einsum("...i,...ij,...j->...", grad, covariance, grad)
        added = np.maximum(np.einsum("...i,...ij,...j->...", grad, window, grad), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            df = (run + added) ** 2 / (run**2 / df + added**2 / (fit.num_groups - 1))
    critical = t_quantile(fit.rules.level, df)
    lo, hi = bowl.profile_ends(quantity, coefficients, covariance, critical)
    return BatchInterval(
        value,
        value - np.sqrt((value - lo) ** 2 + critical**2 * added),
        value + np.sqrt((hi - value) ** 2 + critical**2 * added),
        df,
    )


def budget_intervals(fit: BatchFit, quantity: bowl.Quantity) -> BatchInterval:
    """Interval of a quantity of one bowl at every budget, [S, K]."""
    return interval(quantity, fit.coefficients, _blocks(fit.covariance), _blocks(fit.window_covariance), fit)


def _blocks(covariance: Array | None) -> Array | None:
    """Diagonal blocks [S, K, 4, 4] of a covariance [S, 4K, 4K]."""
    if covariance is None:
        return None
    num = covariance.shape[1] // bowl.NUM_COEFFICIENTS
    split = covariance.reshape(len(covariance), num, bowl.NUM_COEFFICIENTS, num, bowl.NUM_COEFFICIENTS)
    return np.moveaxis(np.diagonal(split, axis1=1, axis2=3), -1, 1)


@dataclass(frozen=True)
class BatchPath:
    """N_opt = G C^a across budgets, in logs: ln N_opt = log_coefficient + a (ln C - mean ln C used)."""

    used: NDArray[np.bool_]
    """[S, K] budgets whose minimum lies within their sizes."""
    weights_exponent: Array
    """[S, K] a = sum of weights x ln N_opt."""
    weights_level: Array
    """[S, K] ln N_opt at the reference budget, likewise."""
    reference: Array
    """[S] the reference ln C at which slope and level are uncorrelated up to weights."""
    misfit: Array
    """[S] generalised sum of squares of the minima about the power law, chi^2-like."""
    df_noise: Array
    """[S] degrees of freedom of the noise in its scale."""


def fit_path(fit: BatchFit) -> BatchPath:
    """Power law through the minima, by generalised least squares with their joint covariance."""
    t_opt, grad = bowl.quantity_t_opt(fit.rules.eps)(fit.coefficients)
    used = bracketed(fit)
    num_fits, num_budgets = t_opt.shape
    index = np.arange(num_budgets)
    diagonal = np.zeros((num_fits, num_budgets, num_budgets, bowl.NUM_COEFFICIENTS))
    diagonal[:, index, index] = np.where(used[..., None], grad, 0.0)
    wide = diagonal.reshape(num_fits, num_budgets, -1)
    sigma = wide @ np.nan_to_num(fit.covariance, nan=0.0) @ wide.swapaxes(1, 2)
    scale = np.einsum("skk->s", sigma)
    # A budget that takes no part gets variance 1e6 times all others' and so weight 0 (set exactly below).
    unused = np.where(used, 0.0, 1e6 * np.maximum(scale, 1e-300)[:, None])
    sigma[:, index, index] += unused + 1e-12 * np.maximum(scale, 1e-300)[:, None]
    precision = np.linalg.inv(sigma)
    log_n = np.where(used, fit.centre + t_opt, 0.0)
    ones = used.astype(np.float64)
    row = np.einsum("si,sij->sj", ones, precision)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = row * ones / (row * ones).sum(1, keepdims=True)
        reference = (level * fit.design.log_budgets).sum(1)
        x = ones * (fit.design.log_budgets - reference[:, None])
        row = np.einsum("si,sij->sj", x, precision)
        slope = row * ones / (row * x).sum(1, keepdims=True)
        fitted = (level * log_n).sum(1)[:, None] + (slope * log_n).sum(1)[:, None] * x
        deviation = ones * (log_n - fitted)
        misfit = np.einsum("si,sij,sj->s", deviation, precision, deviation)
    enough = used.sum(1) >= 2
    return BatchPath(
        used,
        np.where(enough[:, None], slope, np.nan),
        np.where(enough[:, None], level, np.nan),
        np.where(enough, reference, np.nan),
        misfit,
        fit.noise.df,
    )


def bracketed(fit: BatchFit) -> NDArray[np.bool_]:
    """[S, K] whether the minimum exists and lies within the range of the sizes kept."""
    t_opt = bowl.find_bowl(fit.coefficients, fit.rules.eps).t_opt
    lo, hi = size_range(fit)
    with np.errstate(invalid="ignore"):
        return (fit.centre + t_opt >= lo) & (fit.centre + t_opt <= hi)


def size_range(fit: BatchFit) -> tuple[Array, Array]:
    """[S, K] smallest and largest ln N kept at each budget."""
    member = (fit.design.budget_index[:, None] == np.arange(fit.design.num_budgets)) & fit.included[..., None]
    log_size = fit.design.log_size[:, None]
    return np.where(member, log_size, np.inf).min(1), np.where(member, log_size, -np.inf).max(1)


def exponent_interval(fit: BatchFit, path: BatchPath) -> BatchInterval:
    """Interval of a, profiled jointly over all budgets' coefficients, [S]."""
    return _path_interval(fit, path.weights_exponent)


def size_interval(fit: BatchFit, path: BatchPath, log_budget: float) -> BatchInterval:
    """Interval of ln N_opt at any budget under the power law, [S]."""
    return _path_interval(
        fit, path.weights_level + (log_budget - path.reference)[:, None] * path.weights_exponent
    )


def _path_interval(fit: BatchFit, weights: Array) -> BatchInterval:
    clean = np.nan_to_num(weights, nan=0.0)
    quantity = bowl.quantity_sum(bowl.quantity_t_opt(fit.rules.eps), clean)
    flat = fit.coefficients.reshape(len(fit.coefficients), -1)
    found = interval(quantity, flat, fit.covariance, fit.window_covariance, fit)
    shift = (clean * fit.centre).sum(1)
    shift = np.where(np.isnan(weights).any(1), np.nan, shift)
    return BatchInterval(found.value + shift, found.lo + shift, found.hi + shift, found.df)


def equivalent_interval(fit: BatchFit, usable: list[int], at: int, excess_loss: float) -> BatchInterval:
    """Interval of ln(C / C'), where loss_opt(C') = loss_opt(C) + excess on the fitted path, [S].

    Args:
        usable: indices of budgets with a minimum, ascending; at least two.
        at: the one among them from which to look down.
        excess_loss: nats/token, >= 0.
    """
    log_c = fit.design.log_budgets

    def quantity(coefficients: Array) -> tuple[Array, Array]:
        each = coefficients.reshape(*coefficients.shape[:-1], -1, bowl.NUM_COEFFICIENTS)
        loss, grads = bowl.quantity_loss_opt(fit.rules.eps)(each)
        level = np.log(loss)
        target = np.log(loss[..., at] + excess_loss)
        # Stretches (lower, upper) from `at` downwards, the last one going on for ever; at the smallest
        # budget the first stretch above it is all there is.
        down = [k for k in usable if k <= at][::-1]
        pairs = [(low, high) for high, low in itertools.pairwise(down)] or [
            (at, next(k for k in usable if k > at))
        ]
        value = np.full(target.shape, np.nan)
        grad = np.zeros(each.shape)
        for number, (low, high) in enumerate(pairs):
            span = log_c[high] - log_c[low]
            fall = level[..., low] - level[..., high]
            with np.errstate(invalid="ignore", divide="ignore"):
                share = (target - level[..., high]) / fall
                here = log_c[at] - log_c[high] + span * share
            last = number == len(pairs) - 1
            take = np.isnan(value) & (fall > 0) & ((share <= 1) | last)
            value = np.where(take, here, value)
            local = np.zeros(each.shape)
            with np.errstate(invalid="ignore", divide="ignore"):
                weight = span / fall
                local[..., at, :] += (weight / (loss[..., at] + excess_loss))[..., None] * grads[..., at, :]
                high_part = weight * (share - 1) / loss[..., high]
                local[..., high, :] += high_part[..., None] * grads[..., high, :]
                local[..., low, :] -= (weight * share / loss[..., low])[..., None] * grads[..., low, :]
            grad = np.where(take[..., None, None], local, grad)
        return value, grad.reshape(coefficients.shape)

    flat = fit.coefficients.reshape(len(fit.coefficients), -1)
    return interval(quantity, flat, fit.covariance, fit.window_covariance, fit)
