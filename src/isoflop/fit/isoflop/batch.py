"""Many isoFLOP fits at once: the linear algebra under `isoflop.fit.isoflop.sweep`, with a leading axis S.

A user's sweep is S = 1; a coverage study runs thousands of simulated sweeps through the very same lines.

The model. At budget k, in t = ln N - (mean ln N of the points kept there), loss = f_k(t) + noise with the
curve of `isoflop.fit.isoflop.bowl`: level, slope and c2 free at each budget, the skewness s = f'''/f'' shared by all.
Shared for a reason: for any law E + A/N^alpha + B/D^beta with D proportional to C/N the profile's f'''/f'' at its
minimum is beta - alpha, whatever the budget (differentiate A e^(-alpha t) + B e^(beta t); Hoffmann et al. 2022,
section 3.3 for the form). One number from the whole sweep replaces one per budget, which is what lets a
few sizes and seeds carry an asymmetric bowl; a parabola (s = 0) is biased as soon as alpha and beta differ
(arXiv 2603.22339). s itself has a weak prior, see `Rules.skew_sd`.

Shapes: S fits, n points, K budgets, P parameters, G groups of validation windows.
Left out: records, reasons and words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.isoflop import bowl
from isoflop.fit.isoflop.noise import Layout, NoiseBatch, estimate_noise

Array = NDArray[np.float64]

MAX_SKEW = 2.0
"""|s| is kept below: no law has |beta - alpha| near it, and Gauss-Newton must not run away on noise."""
MAX_OFFSET = 1.5
"""Likewise a minimum further than this from the mean of the sizes, in ln N, is not believed when the skewness
is carried from it to the centre."""
MIN_PATH_P = 0.01
"""Below this p-value the minima do not lie on one power law."""
MAX_DECAY = 1.0
"""|gamma| of the path E + K C^-gamma is below it; published laws have 0.1 to 0.25."""
_GAUSS_NEWTON_STEPS = 6


@dataclass(frozen=True)
class Rules:
    """Everything that could have been chosen after looking, chosen before."""

    degree: int = 4
    """2 parabola, 3 cubic, 4 convex quartic; see `isoflop.fit.isoflop.bowl`. All have the same free parameters but
    for the parabola's missing skewness."""
    eps: float = 0.01
    """Rise that delimits the basin, as a share of the lowest loss."""
    level: float = 0.95
    """Confidence level of every interval."""
    max_rise: float = 0.10
    """A size is kept while its mean loss is within this share of the lowest mean at its budget: far up the
    walls the next power of t matters more than it tells."""
    min_sizes: int = 4
    """So many sizes of lowest mean loss are kept whatever their rise."""
    skew_sd: float = 0.4
    """How weakly the shared s is pulled to 0: like an observation s = 0 with this standard deviation. It decides
    only where the sizes are too few to tell; infinity switches it off."""
    skew_spread: float = 0.2
    """Standard deviation of s = beta - alpha over laws, by which the error of that pull is counted. Published
    laws of language models lie within -0.34..0.05, root mean square 0.15 (Hoffmann 2022, Besiroglu 2024,
    Muennighoff 2023, OLMo Hybrid, multimodal fits in arXiv 2603.22339). It is less than skew_sd so that the
    data, where there are any, outvote what is believed."""
    noise_df: float = 8.0
    """Weight, in degrees of freedom, of the pooled variance in each budget's own: the empirical-Bayes form
    of Smyth (2004), with a weight fixed beforehand because a handful of budgets cannot estimate it. 8 says
    that the noise of budgets differs by some 30 %; infinity pools completely."""

    lack_of_fit_level: float = 0.05
    """Below this p-value of the lack of fit the scatter of sizes about the curve is taken for the noise."""

    @property
    def family(self) -> bowl.Family:
        return bowl.Family(self.degree, self.eps)

    @property
    def shares_skew(self) -> bool:
        return self.degree > 2


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
    parameters: Array
    """[S, K, 4] level, slope, c2 and skewness at its centre of each bowl (`isoflop.fit.isoflop.bowl`)."""
    shared_skew: Array
    """[S] the skewness at the minima, shared by all budgets; 0 for parabolas."""
    covariance: Array
    """[S, 4K, 4K] of the parameters, from run noise and the prior; NaN without degrees of freedom."""
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
    solution = _solve(design, loss, included, t, rules)
    parameters, jacobian, inverse = solution.parameters, solution.jacobian, solution.inverse
    fitted = rules.family.evaluate(parameters[:, design.budget_index], t)
    residuals = np.where(included, loss - fitted, 0.0)
    noise = _noise(design, residuals, solution, included, rules)
    to_parameters = _chain(design.num_budgets, rules) @ inverse @ jacobian.swapaxes(1, 2)
    rows = _row_covariance(design, noise, jacobian.shape[1], rules)
    covariance = to_parameters @ rows @ to_parameters.swapaxes(1, 2)
    window = None
    if groups is not None:
        num_points = loss.shape[1]
        maker = _residual_maker(jacobian, inverse, included)[:, :num_points, :num_points]
        window = _window_covariance(to_parameters[..., :num_points], maker, groups)
    return BatchFit(
        design=design,
        rules=rules,
        included=included,
        centre=centre,
        parameters=parameters,
        shared_skew=solution.theta[:, -1] if rules.shares_skew else np.zeros(len(loss)),
        covariance=covariance,
        noise=noise,
        residuals=residuals,
        window_covariance=window,
        num_groups=0 if groups is None else groups.shape[-1],
    )


def _noise(
    design: Design,
    residuals: Array,
    solution: _Solution,
    included: NDArray[np.bool_],
    rules: Rules,
) -> NoiseBatch:
    """Noise from the residuals, the prior's own row among them."""
    theta, jacobian = solution.theta, solution.jacobian
    num_points, num_rows = residuals.shape[1], jacobian.shape[1]
    padded = np.zeros((len(residuals), num_rows))
    padded[:, :num_points] = residuals
    if rules.shares_skew:
        padded[:, -1] = -jacobian[:, -1, -1] * theta[:, -1]
    rows = np.arange(num_points)
    of_budget = np.zeros((num_rows, design.num_budgets))
    of_budget[rows, design.budget_index] = 1.0
    of_cell = np.zeros((num_rows, len(design.cell_budget)))
    of_cell[rows, design.cell_index] = 1.0
    kept = np.zeros((len(residuals), num_rows))
    kept[:, :num_points] = included
    return estimate_noise(
        padded,
        _residual_maker(jacobian, solution.inverse, included),
        Layout(_same_trunk(design, num_rows), of_budget, of_cell, kept),
        pooling_df=rules.noise_df,
        lack_of_fit_level=rules.lack_of_fit_level,
    )


def _same_trunk(design: Design, num_rows: int) -> Array:
    """[rows, rows]; the prior's row, if any, is a trunk of its own."""
    same = np.eye(num_rows)
    num_points = len(design.log_size)
    same[:num_points, :num_points] = design.same_trunk
    return same


def _row_covariance(design: Design, noise: NoiseBatch, num_rows: int, rules: Rules) -> Array:
    """Covariance of the rows of the least-squares problem, [S, rows, rows]; see `Rules.skew_spread`."""
    same = _same_trunk(design, num_rows)
    sd = np.ones((len(noise.variance), num_rows))
    sd[:, : len(design.log_size)] = noise.relative_sd[:, design.budget_index]
    if rules.shares_skew:
        sd[:, -1] = _prior_row_sd(rules)
    rho = noise.correlation[:, None, None]
    covariance = rho * same + (1 - rho) * np.eye(num_rows)
    return noise.variance[:, None, None] * covariance * sd[:, :, None] * sd[:, None, :]


def _prior_row_sd(rules: Rules) -> float:
    """Standard deviation of the prior's row over the one it is weighted with."""
    return rules.skew_spread / rules.skew_sd if math.isfinite(rules.skew_sd) else 1.0


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


@dataclass(frozen=True)
class _Solution:
    parameters: Array
    """[S, K, 4] of the bowls."""
    theta: Array
    """[S, P] level, slope, c2 of each budget, then the shared skewness (not for parabolas)."""
    jacobian: Array
    """[S, rows, P]; rows of left-out points are zero; the last row is the prior's (not for parabolas)."""
    inverse: Array
    """[S, P, P] (J'J)^-1."""


def _solve(design: Design, loss: Array, included: NDArray[np.bool_], t: Array, rules: Rules) -> _Solution:
    """Least squares by Gauss-Newton: the model is linear but for the skewness.

    The prior on s is one more row, s = 0 +- skew_sd, weighted like a point of the noise found so far.
    """
    num_budgets, family = design.num_budgets, rules.family
    member = (design.budget_index[:, None] == np.arange(num_budgets)) & included[..., None]
    target = np.where(included, loss, 0.0)
    basis = np.stack([np.ones_like(t), t, t * t], axis=-1)
    jacobian = (member[..., None] * basis[..., None, :]).reshape(*loss.shape, 3 * num_budgets)
    theta, inverse = _least_squares(jacobian, target)
    if not rules.shares_skew:
        return _Solution(_parameters(theta, None, rules), theta, jacobian, inverse)
    spare = np.maximum(included.sum(1) - 3 * num_budgets, 1)
    theta = np.concatenate([theta, np.zeros((len(theta), 1))], axis=1)
    drift = np.zeros((len(theta), num_budgets))
    for _ in range(_GAUSS_NEWTON_STEPS):
        drift = _skew_drift(theta, drift, rules)
        skew = theta[:, -1:] + drift[:, design.budget_index]
        c2 = theta[:, 2:-1:3][:, design.budget_index]
        basis[..., 2] = family.phi(t, skew)
        linear = (member[..., None] * basis[..., None, :]).reshape(*loss.shape, -1)
        residual = target - np.einsum("snp,sp->sn", linear, theta[:, :-1])
        weight = np.sqrt((residual**2).sum(1) / spare) / rules.skew_sd
        jacobian = np.zeros((loss.shape[0], loss.shape[1] + 1, 3 * num_budgets + 1))
        jacobian[:, :-1, :-1] = linear
        jacobian[:, :-1, -1] = included * c2 * family.phi_by_skew(t, skew)
        jacobian[:, -1, -1] = weight
        shared = theta[:, -1]
        theta, inverse = _least_squares(
            jacobian, np.concatenate([target, -(weight * shared)[:, None]], axis=1)
        )
        theta[:, -1] = np.clip(shared + theta[:, -1], -MAX_SKEW, MAX_SKEW)
    return _Solution(_parameters(theta, drift, rules), theta, jacobian, inverse)


def _skew_drift(theta: Array, drift: Array, rules: Rules) -> Array:
    """Skewness at each centre minus the shared one at the minima, [S, K].

    With f'''' = (beta - alpha) f''' + p f'' the ratio s = f'''/f'' obeys ds/dt = p + (beta - alpha) s - s^2, which is p
    at the minimum, where s = beta - alpha: a centre off the minimum sees another skewness. Below degree 4
    the curves know no p, and the shared number is that at the centres.
    """
    if rules.degree < 4:
        return np.zeros_like(drift)
    t_opt = bowl.find_bowl(rules.family, _parameters(theta, drift, rules)).t_opt
    return np.asarray(-bowl.PRODUCT * np.clip(np.nan_to_num(t_opt, nan=0.0), -MAX_OFFSET, MAX_OFFSET))


def _least_squares(jacobian: Array, target: Array) -> tuple[Array, Array]:
    gram = jacobian.swapaxes(1, 2) @ jacobian
    inverse = np.asarray(np.linalg.inv(gram), dtype=np.float64)
    return np.einsum("spq,snq,sn->sp", inverse, jacobian, target, optimize=True), inverse


def _residual_maker(jacobian: Array, inverse: Array, included: NDArray[np.bool_]) -> Array:
    maker = -(jacobian @ inverse @ jacobian.swapaxes(1, 2))
    index = np.arange(maker.shape[1])
    diagonal = np.ones(maker.shape[:2])
    diagonal[:, : included.shape[1]] = included
    maker[:, index, index] += diagonal
    return maker


def _parameters(theta: Array, drift: Array | None, rules: Rules) -> Array:
    """Parameters of all bowls [S, K, 4] from theta [S, P] and the drift of the skewness [S, K]."""
    num_budgets = (theta.shape[1] - rules.shares_skew) // 3
    out = np.zeros((len(theta), num_budgets, bowl.NUM_PARAMETERS))
    out[..., :3] = theta[:, : 3 * num_budgets].reshape(len(theta), num_budgets, 3)
    if rules.shares_skew and drift is not None:
        out[..., 3] = theta[:, -1:] + drift
    return out


def _chain(num_budgets: int, rules: Rules) -> Array:
    """Derivative of the parameters of all bowls by theta, [4K, P]; the drift is held fixed."""
    out = np.zeros((num_budgets, bowl.NUM_PARAMETERS, 3 * num_budgets + rules.shares_skew))
    for k in range(num_budgets):
        out[k, :3, 3 * k : 3 * k + 3] = np.eye(3)
        if rules.shares_skew:
            out[k, 3, -1] = 1.0
    return out.reshape(-1, out.shape[-1])


def _window_covariance(hat: Array, maker: Array, groups: Array) -> Array:
    """Covariance that sampling the validation windows adds to the parameters, [S, 4K, 4K].

    To first order they are linear in the losses, so each group of windows has parameters of its own and the
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
    quantity: bowl.Quantity,
    parameters: Array,
    covariance: Array,
    window: Array | None,
    df_run: Array,
    fit: BatchFit,
) -> BatchInterval:
    """Interval of one quantity by profiling, with the window part and its degrees of freedom.

    The window part moves all parameters along few directions and is large for the level, so it does not
    enter the ellipsoid: each side's distance is joined with it in quadrature (the method of variance
    estimates recovery, Zou and Donner, Stat. Med. 2008). Degrees of freedom of the sum by Satterthwaite.

    Args:
        parameters: [S, ..., m]; covariance and window [S, ..., m, m] (or no window).
        df_run: [S, ...] degrees of freedom of the run noise.
    """
    value, grad = quantity(parameters)
    df = df_run
    added = np.zeros_like(value)
    if window is not None:
        run = np.einsum("...i,...ij,...j->...", grad, covariance, grad)
        added = np.maximum(np.einsum("...i,...ij,...j->...", grad, window, grad), 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            df = (run + added) ** 2 / (run**2 / df + added**2 / (fit.num_groups - 1))
    critical = t_quantile(fit.rules.level, df)
    lo, hi = bowl.profile_ends(quantity, parameters, covariance, critical)
    return BatchInterval(
        value,
        value - np.sqrt((value - lo) ** 2 + critical**2 * added),
        value + np.sqrt((hi - value) ** 2 + critical**2 * added),
        df,
    )


def budget_intervals(fit: BatchFit, quantity: bowl.Quantity) -> BatchInterval:
    """Interval of a quantity of one bowl at every budget, [S, K]."""
    window = None if fit.window_covariance is None else _blocks(fit.window_covariance)
    return interval(quantity, fit.parameters, _blocks(fit.covariance), window, fit.noise.df_budget, fit)


def _blocks(covariance: Array) -> Array:
    """Diagonal blocks [S, K, 4, 4] of a covariance [S, 4K, 4K]."""
    num = covariance.shape[1] // bowl.NUM_PARAMETERS
    split = covariance.reshape(len(covariance), num, bowl.NUM_PARAMETERS, num, bowl.NUM_PARAMETERS)
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
    p_value: Array
    """[S] of that misfit by F; NaN with fewer than three budgets. Below `MIN_PATH_P` the minima do not lie on
    one power law, and intervals are widened to the scatter that they show."""


def fit_path(fit: BatchFit) -> BatchPath:
    """Power law through the minima, by generalised least squares with their joint covariance."""
    t_opt, grad = bowl.quantity_t_opt(fit.rules.family)(fit.parameters)
    used = bracketed(fit)
    num_fits, num_budgets = t_opt.shape
    index = np.arange(num_budgets)
    diagonal = np.zeros((num_fits, num_budgets, num_budgets, bowl.NUM_PARAMETERS))
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
        _misfit_p(misfit, used.sum(1), fit.noise.df),
    )


def _misfit_p(misfit: Array, used: NDArray[np.intp], df: Array) -> Array:
    from scipy.special import fdtrc

    possible = (used >= 3) & (df > 0) & np.isfinite(misfit)
    spare = np.maximum(used - 2, 1)
    p_value = fdtrc(spare, np.where(possible, df, 1.0), np.where(possible, misfit, 0.0) / spare)
    return np.asarray(np.where(possible, p_value, np.nan))


def bracketed(fit: BatchFit) -> NDArray[np.bool_]:
    """[S, K] whether the minimum exists and lies within the range of the sizes kept."""
    t_opt = bowl.find_bowl(fit.rules.family, fit.parameters).t_opt
    lo, hi = size_range(fit)
    with np.errstate(invalid="ignore"):
        return (fit.centre + t_opt >= lo) & (fit.centre + t_opt <= hi)


def size_range(fit: BatchFit) -> tuple[Array, Array]:
    """[S, K] smallest and largest ln N kept at each budget."""
    member = (fit.design.budget_index[:, None] == np.arange(fit.design.num_budgets)) & fit.included[..., None]
    log_size = fit.design.log_size[:, None]
    return np.where(member, log_size, np.inf).min(1), np.where(member, log_size, -np.inf).max(1)


def exponent_interval(fit: BatchFit, path: BatchPath) -> BatchInterval:
    """Interval of a, profiled jointly over all budgets' parameters, [S]."""
    return _path_interval(fit, path, path.weights_exponent)


def size_interval(fit: BatchFit, path: BatchPath, log_budget: float) -> BatchInterval:
    """Interval of ln N_opt at any budget under the power law, [S]."""
    weights = path.weights_level + (log_budget - path.reference)[:, None] * path.weights_exponent
    return _path_interval(fit, path, weights)


def _joint_df(fit: BatchFit, quantity: bowl.Quantity) -> Array:
    """Degrees of freedom of a quantity of several bowls, [S]: Satterthwaite over the budgets' shares of its
    variance, at most those of the pooled noise."""
    flat = fit.parameters.reshape(len(fit.parameters), -1)
    _, grad = quantity(flat)
    grad = grad.reshape(fit.parameters.shape)
    share = np.einsum("ski,skij,skj->sk", grad, _blocks(fit.covariance), grad)
    with np.errstate(invalid="ignore", divide="ignore"):
        df = share.sum(1) ** 2 / (share**2 / fit.noise.df_budget).sum(1)
    return np.fmin(df, fit.noise.df)


def _path_interval(fit: BatchFit, path: BatchPath, weights: Array) -> BatchInterval:
    clean = np.nan_to_num(weights, nan=0.0)
    quantity = bowl.quantity_sum(bowl.quantity_t_opt(fit.rules.family), clean)
    flat = fit.parameters.reshape(len(fit.parameters), -1)
    found = interval(quantity, flat, fit.covariance, fit.window_covariance, _joint_df(fit, quantity), fit)
    shift = (clean * fit.centre).sum(1)
    shift = np.where(np.isnan(weights).any(1), np.nan, shift)
    # Birge's ratio (Phys. Rev. 1932): where the minima scatter more than their noise, by so much, and with no
    # more degrees of freedom than there are minima to see it.
    spare = np.maximum(path.used.sum(1) - 2, 1)
    scattered = path.p_value < MIN_PATH_P
    df = np.where(scattered, np.fmin(found.df, spare), found.df)
    with np.errstate(invalid="ignore", divide="ignore"):
        critical = t_quantile(fit.rules.level, df) / t_quantile(fit.rules.level, found.df)
        birge = np.sqrt(path.misfit / spare) * critical
    widen = np.where(scattered, np.maximum(birge, 1.0), 1.0)
    return BatchInterval(
        found.value + shift,
        found.value + shift - widen * (found.value - found.lo),
        found.value + shift + widen * (found.hi - found.value),
        df,
    )


@dataclass(frozen=True)
class BatchEquivalent:
    log_factor: BatchInterval
    """ln(C / C'), [S]; without ends from two budgets."""
    extrapolated: NDArray[np.bool_]
    """[S] C' lies below the smallest budget."""


def equivalent_interval(fit: BatchFit, usable: list[int], at: int, excess_loss: float) -> BatchEquivalent:
    """ln(C / C'), where loss_opt(C') = loss_opt(C) + excess on the path of lowest losses.

    The path is E + K C^-gamma through the two budgets around C' and their neighbour: what every law of the
    form E + A/N^alpha + B/D^beta gives exactly. Two budgets cannot show how the path bends; a chord
    between them then gives the value and nothing its error.

    Args:
        usable: indices of budgets with a minimum, ascending; at least two.
        at: the one among them from which to look down.
        excess_loss: nats/token, >= 0.
    """
    log_c = fit.design.log_budgets[usable]
    own = usable.index(at)

    def quantity(parameters: Array) -> tuple[Array, Array]:
        each = parameters.reshape(*parameters.shape[:-1], -1, bowl.NUM_PARAMETERS)
        loss, grads = bowl.quantity_loss_opt(fit.rules.family)(each)
        loss, grads = loss[..., usable], grads[..., usable, :]
        value, by_loss = _look_down_gradient(log_c, own, loss, excess_loss)
        grad = np.zeros(each.shape)
        grad[..., usable, :] = by_loss[..., None] * grads
        return value, grad.reshape(parameters.shape)

    flat = fit.parameters.reshape(len(fit.parameters), -1)
    if len(usable) < 3:
        value = quantity(flat)[0]
        unknown = np.full_like(value, np.nan)
        return BatchEquivalent(
            BatchInterval(value, unknown, unknown, fit.noise.df), log_c[own] - value < log_c[0]
        )
    found = interval(quantity, flat, fit.covariance, fit.window_covariance, _joint_df(fit, quantity), fit)
    return BatchEquivalent(found, log_c[own] - found.value < log_c[0])


def _look_down_gradient(log_c: Array, own: int, loss: Array, excess: float) -> tuple[Array, Array]:
    """`_look_down` with its derivatives by the losses, by central differences (it is a closed form of few
    numbers, smooth on each stretch; the step leaves an error of about 1e-8 relative)."""
    step = 1e-5
    value = _look_down(log_c, own, loss, excess)
    grad = np.zeros(loss.shape)
    for k in range(loss.shape[-1]):
        shift = step * np.eye(loss.shape[-1])[k]
        up, down = (_look_down(log_c, own, loss + sign * shift, excess) for sign in (1, -1))
        grad[..., k] = (up - down) / (2 * step)
    return value, grad


def _look_down(log_c: Array, own: int, loss: Array, excess: float) -> Array:
    """Distance in ln C from log_c[own] down to where the path has the loss of `own` plus the excess.

    Args:
        log_c: [K] ascending, K >= 2.
        loss: [..., K] lowest losses there.

    Returns:
        [...], NaN where the losses do not fall with compute.
    """
    target = loss[..., own] + excess
    value = np.full(target.shape, np.nan)
    for high in range(max(own, 1), 0, -1):
        if not np.isnan(value).any():
            break
        first = max(high - 2, 0)
        nodes = slice(first, first + 3) if len(log_c) > 2 else slice(0, 2)
        position = _solve_path(log_c[nodes], loss[..., nodes], target)
        with np.errstate(invalid="ignore"):
            take = np.isnan(value) & ((position >= log_c[high - 1]) | (high == 1))
        value = np.where(take, log_c[own] - position, value)
    return value


def _solve_path(x: Array, loss: Array, target: Array) -> Array:
    """Where E + K e^(-gamma x) through (x, loss) has the target: x [2 or 3], loss [..., 2 or 3].

    With a = x1 - x0, b = x2 - x1 the decay solves (e^(gamma a) - 1) / (1 - e^(-gamma b)) =
    (l0 - l1) / (l1 - l2), whose left side rises with gamma (bisection); then
    x = x1 - ln(1 + u (e^(gamma a) - 1)) / gamma, u = (target - l1) / (l0 - l1). gamma = 0 is the chord.
    """
    a = x[1] - x[0]
    first = loss[..., 0] - loss[..., 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = np.where(first > 0, (target - loss[..., 1]) / first, np.nan)
        if len(x) == 2:
            return np.asarray(x[1] - share * a)
        b = x[2] - x[1]
        second = loss[..., 1] - loss[..., 2]
        ratio = np.where(second > 0, first / second, np.nan)
        # Ends that are not opposite, so that no midpoint is 0, where the left side reads 0/0.
        low, high = np.full(ratio.shape, -MAX_DECAY), np.full(ratio.shape, 1.1 * MAX_DECAY)
        for _ in range(40):
            gamma = (low + high) / 2
            below = np.expm1(gamma * a) / -np.expm1(-gamma * b) < ratio
            low, high = np.where(below, gamma, low), np.where(below, high, gamma)
        gamma = (low + high) / 2
        position = x[1] - np.log1p(share * np.expm1(gamma * a)) / gamma
    return np.asarray(np.where(np.isnan(ratio), np.nan, position))
