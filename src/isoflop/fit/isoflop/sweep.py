"""IsoFLOP profiles (approach 2 of Hoffmann et al. 2022) with intervals that hold: the public entry.

Per budget a bowl in ln N: its minimum N_opt, its lowest loss, its basin (all N whose loss is within a
share eps of the lowest). Across budgets the power law N_opt ~ C^a and what it predicts elsewhere. Every
number has an interval or the sentence why it has none; every point left out has its reason.

What is estimated: the minimum and the basin of the *true* profile, whose loss at a size is the mean over
seeds (and, when losses of window groups are given, over the texts that the windows were drawn from).
The polynomial is only the means, so its rules keep its error small against the noise: see `Rules` for
each of them and its reason. How often the intervals hold the truth on planted laws is measured by
tests/prove/coverage_isoflop.py, which runs these very functions.

Left out: reading runs, deciding what they mean (`isoflop.judge`), drawing. Parametric laws are another
file's business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.isoflop import batch, bowl
from isoflop.fit.isoflop.batch import BatchFit, BatchInterval, BatchPath, Rules
from isoflop.fit.isoflop.noise import NoiseModel, describe_noise
from isoflop.records import Estimate, Exclusion

__all__ = [
    "BudgetFit",
    "ComputeEquivalent",
    "IsoflopFit",
    "Rules",
    "SweepPoints",
    "compute_equivalent",
    "fit_isoflop",
    "predict_size",
]

Array = NDArray[np.float64]

MIN_SIZES = 3
"""A budget with fewer sizes has no curvature."""

MAX_EXPONENT_WIDTH = 0.5
"""An interval of the exponent wider than this says nothing: sizes and tokens both grow, so a lies in
(0, 1) before any data, and a uniform belief there has a 95 % interval of 0.95; half of it is not a finding."""


@dataclass(frozen=True)
class SweepPoints:
    """The points of an isoFLOP sweep. All arrays have length n, one entry per finished run or branch."""

    budget: Array
    """Nominal training FLOPs; points of one budget carry exactly the same number."""
    size: Array
    """N in one way of counting parameters, > 0."""
    loss: Array
    """nats/token on the fixed validation windows."""
    trunk: NDArray[np.int64]
    """Points of equal number are branches of one training run (same size, same seed)."""
    seed: NDArray[np.int64]
    """Seed of the run; for messages only, `trunk` says what is independent."""
    group_nats: Array | None = None
    """[n, G] mean loss of each group of validation windows, the same groups for all points; or None."""


@dataclass(frozen=True)
class BudgetFit:
    """One bowl."""

    budget: float
    """FLOPs."""
    num_points: int
    """Points that took part."""
    centre: float
    """Mean ln N of those."""
    coefficients: tuple[float, ...]
    """Polynomial for drawing: lowest power first, of ln N - centre, nats/token; three of them for parabolas,
    four otherwise, none when nothing was fitted. For degree 4 the cubic that follows the fitted curve over
    the sizes kept (a fraction of a thousandth of a nat off; every number below is of the curve itself)."""
    curve: tuple[float, ...]
    """Level, slope, c2 and skewness at the centre: the curve of `isoflop.fit.isoflop.bowl` itself; none likewise."""
    window_lo: float
    """Smallest N that took part; NaN when nothing was fitted."""
    window_hi: float
    N_opt: Estimate
    loss_opt: Estimate
    basin_lo: Estimate
    """Smallest N within (1 + eps) times the lowest loss."""
    basin_hi: Estimate
    factor_lo: Estimate
    """N_opt / basin_lo."""
    factor_hi: Estimate
    """basin_hi / N_opt."""
    half_width: Estimate
    """sqrt(basin_hi / basin_lo): the geometric mean of the two factors."""
    status: Literal["ok", "edge", "refused"]
    """"edge": the minimum lies outside the sizes that took part. "refused": there is no minimum."""
    reason: str | None
    """For anything but "ok"."""
    flags: tuple[str, ...]
    """What a reader should know about an "ok" bowl as well: an edge of the basin beyond the sizes tried ..."""
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True)
class IsoflopFit:
    """All bowls and the path of their minima."""

    budgets: tuple[BudgetFit, ...]
    """Ascending."""
    exponent: Estimate
    """a in N_opt = coefficient C^a."""
    coefficient: Estimate
    """N_opt at the reference budget, `reference_budget`: unlike the intercept at 1 FLOP it is known well."""
    reference_budget: float
    """FLOPs; weighted mean of the budgets used, in logs."""
    identified: bool
    not_identified: str | None
    """The sentence why the data carry no exponent."""
    path_p: float | None
    """p-value of the minima's scatter about the power law; None with fewer than three budgets."""
    skew: Estimate
    """Shared f'''/f'' per ln N (beta - alpha of a law E + A/N^alpha + B/D^beta); 0 for parabolas."""
    noise: NoiseModel
    draws: Array
    """[num_draws, num_budgets, 3 or 4] coefficients of draws of the whole fit, in the form of
    `BudgetFit.coefficients`; NaN where nothing was fitted."""
    rules: Rules
    method: str
    """How the fit was made, in words."""
    interval_method: str
    exclusions: tuple[Exclusion, ...]
    """All points left out of any bowl, and budgets left out of the path."""
    notes: tuple[str, ...]
    internals: Internals | None
    """Arrays that `predict_size` and `compute_equivalent` go on from; None when no budget could be fitted."""


@dataclass(frozen=True)
class Internals:
    """The batch fit (S = 1) behind an IsoflopFit."""

    fit: BatchFit
    path: BatchPath
    position: tuple[int, ...]
    """Index among `IsoflopFit.budgets` of each budget of the batch fit."""


@dataclass(frozen=True)
class ComputeEquivalent:
    """What a loss excess costs in compute."""

    factor: Estimate
    """C / C', where C' is the smaller budget whose own optimum has this loss."""
    fraction: Estimate
    """1 - C'/C: the share of the budget that the excess throws away."""
    extrapolated: bool
    """Whether C' lies below the smallest budget of the sweep."""


def fit_isoflop(
    points: SweepPoints,
    *,
    degree: int = Rules.degree,
    eps: float = 0.01,
    level: float = 0.95,
    num_draws: int = 200,
    seed: int = 0,
    max_rise: float = Rules.max_rise,
    min_sizes: int = Rules.min_sizes,
    skew_sd: float = Rules.skew_sd,
    noise_df: float = Rules.noise_df,
) -> IsoflopFit:
    """Fit the bowls of a sweep and the path of their minima.

    Args:
        points: the sweep.
        degree: 4 (convex quartics), 3 (cubics) or 2 (parabolas); see `isoflop.fit.isoflop.bowl`.
        eps: rise that delimits the basin, in (0, 1).
        level: confidence level, in (0, 1).
        num_draws: number of coefficient draws for drawing.
        seed: of those draws.
        max_rise, min_sizes, skew_sd, noise_df: see `Rules`.

    Raises:
        ValueError: arrays that do not fit together, a number out of range.
    """
    rules = Rules(degree, eps, level, max_rise, min_sizes, skew_sd, noise_df=noise_df)
    _check(points, rules)
    budget = np.asarray(points.budget, dtype=np.float64)
    size = np.asarray(points.size, dtype=np.float64)
    all_budgets = np.unique(budget)
    num_sizes = {c: len(np.unique(size[budget == c])) for c in all_budgets}
    kept = np.array([num_sizes[c] >= MIN_SIZES for c in budget], dtype=bool)
    if not kept.any():
        return _nothing(all_budgets, num_sizes, rules, num_draws)
    design = batch.build_design(budget[kept], size[kept], np.asarray(points.trunk)[kept])
    groups = None if points.group_nats is None else np.asarray(points.group_nats, np.float64)[kept][None]
    loss = np.asarray(points.loss, np.float64)[kept]
    fit = batch.fit_batch(design, loss[None], rules, groups)
    path = batch.fit_path(fit)
    fitted = _budget_fits(fit, points, np.flatnonzero(kept))
    by_budget = dict(zip(np.unique(budget[kept]), fitted, strict=True))
    bowls = tuple(by_budget.get(c) or _too_few(c, num_sizes[c], rules) for c in all_budgets)
    position = tuple(i for i, c in enumerate(all_budgets) if c in by_budget)
    return _assemble(fit, path, bowls, position, num_draws, seed)


def predict_size(fit: IsoflopFit, budget: float) -> Estimate:
    """N_opt at any budget under the power law, with its interval.

    Args:
        fit: a fit of at least two bracketed minima.
        budget: FLOPs, > 0.
    """
    if not budget > 0:
        raise ValueError(f"a budget must be positive, not {budget}")
    if fit.internals is None or fit.exponent.value is None:
        return _missing("parameters", fit.rules.level, fit.exponent.reason or "no power law was fitted")
    found = batch.size_interval(fit.internals.fit, fit.internals.path, math.log(budget))
    return _estimate(found, 0, "parameters", fit.rules.level, _method(found, 0), _OPEN_PATH, log=True)


def compute_equivalent(fit: IsoflopFit, budget: float, excess_loss: float) -> ComputeEquivalent:
    """How much compute a loss excess is worth at one of the fitted budgets.

    C' solves loss_opt(C') = loss_opt(budget) + excess on a path E + K C^-gamma through the fitted optima;
    see `isoflop.fit.isoflop.batch.equivalent_interval`.

    Args:
        fit: the fit.
        budget: one of its budgets, FLOPs.
        excess_loss: nats/token above the optimum of that budget, >= 0.
    """
    if not excess_loss >= 0:
        raise ValueError(f"an excess of loss must be >= 0 nats/token, not {excess_loss}")
    budgets = [bowl_fit.budget for bowl_fit in fit.budgets]
    if budget not in budgets:
        raise ValueError(f"{budget:g} is not among the fitted budgets {budgets}")
    level = fit.rules.level
    reason = _no_equivalent(fit, budget)
    if reason is not None or fit.internals is None:
        missing = _missing("factor", level, reason or "nothing was fitted")
        return ComputeEquivalent(missing, _missing("share of compute", level, missing.reason or ""), False)
    internals = fit.internals
    ok = [k for k, p in enumerate(internals.position) if fit.budgets[p].status != "refused"]
    at = next(k for k in ok if fit.budgets[internals.position[k]].budget == budget)
    found = batch.equivalent_interval(internals.fit, ok, at, excess_loss)
    open_reason = "the loss at the optima does not fall clearly with compute"
    if len(ok) < 3:
        open_reason = "two budgets do not show how the loss bends with compute, so the error is unknown"
    interval = found.log_factor
    factor = _estimate(interval, 0, "factor", level, _method(interval, 0), open_reason, log=True)
    return ComputeEquivalent(factor, _as_fraction(factor), bool(found.extrapolated[0]))


# ------------------------------------------------------------------------------ from arrays to words

_OPEN_SIDE = "the data do not bound it on this side: within the noise the curve may have no bottom there"
_OPEN_PATH = "within the noise one of the curves may have no bottom"


def _check(points: SweepPoints, rules: Rules) -> None:
    n = len(points.budget)
    for name in ("size", "loss", "trunk", "seed"):
        length = len(getattr(points, name))
        if length != n:
            raise ValueError(f"SweepPoints.{name} has {length} entries, budget has {n}")
    if n == 0:
        raise ValueError("SweepPoints is empty: give at least one budget with three sizes")
    for name in ("budget", "size", "loss"):
        values = np.asarray(getattr(points, name), np.float64)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise ValueError(
                f"SweepPoints.{name}[{bad[0]}] is {values[bad[0]]}: leave diverged or unfinished runs out"
            )
    if points.group_nats is not None:
        shape = np.shape(points.group_nats)
        if len(shape) != 2 or shape[0] != n or shape[1] < 2:
            raise ValueError(f"SweepPoints.group_nats has shape {shape}; needed: ({n}, at least 2 groups)")
        if not np.isfinite(points.group_nats).all():
            raise ValueError("SweepPoints.group_nats holds values that are not finite")
    if rules.degree not in (2, 3, 4):
        raise ValueError(f"degree must be 2, 3 or 4, not {rules.degree}")
    for name in ("eps", "level"):
        if not 0 < getattr(rules, name) < 1:
            raise ValueError(f"{name} must lie in (0, 1), not {getattr(rules, name)}")
    if not (rules.max_rise > 0 and rules.min_sizes >= MIN_SIZES and rules.skew_sd > 0):
        raise ValueError(f"max_rise and skew_sd must be positive and min_sizes at least {MIN_SIZES}: {rules}")
    _check_budgets(np.asarray(points.budget, np.float64))
    trunk, size, seed = (np.asarray(a) for a in (points.trunk, points.size, points.seed))
    for number in np.unique(trunk):
        mine = trunk == number
        if len(np.unique(size[mine])) > 1 or len(np.unique(seed[mine])) > 1:
            raise ValueError(f"trunk {number} holds several sizes or seeds; a trunk is one training run")
        branches = np.asarray(points.budget)[mine]
        if len(np.unique(branches)) < len(branches):
            raise ValueError(f"trunk {number} has two points at one budget; keep one, or number them apart")


def _check_budgets(budget: Array) -> None:
    """Budgets are nominal: nearly equal ones are one budget written in two ways."""
    distinct = np.unique(budget)
    near = np.flatnonzero(distinct[1:] < distinct[:-1] * 1.01)
    if len(near):
        low, high = distinct[near[0]], distinct[near[0] + 1]
        raise ValueError(
            f"budgets {low!r} and {high!r} differ by less than 1 %: give all points of one budget its nominal "
            "FLOPs"
        )


def _method(found: BatchInterval, *index: int) -> str:
    df = float(found.df[index]) if np.isfinite(found.df[index]) else 0.0
    return f"profile t, {df:.3g} df" if df > 0 else ""


def _missing(unit: str, level: float, reason: str) -> Estimate:
    return Estimate(value=None, unit=unit, level=level, reason=reason)


_NO_NOISE = "no degrees of freedom are left to estimate the noise: add seeds or sizes"


def _estimate(
    found: BatchInterval,
    index: int | tuple[int, ...],
    unit: str,
    level: float,
    method: str,
    open_reason: str,
    *,
    log: bool,
    shift: float = 0.0,
) -> Estimate:
    """One entry of a batch interval as a record; `log` takes ln away."""
    value, lo, hi = (float(a[index]) + shift for a in (found.value, found.lo, found.hi))
    if not math.isfinite(value):
        return _missing(unit, level, open_reason)
    reason = None
    if not (math.isfinite(lo) and math.isfinite(hi)):
        reason = open_reason if float(found.df[index]) > 0 else _NO_NOISE

    def back(number: float) -> float | None:
        if not math.isfinite(number):
            return None
        return math.exp(min(number, 700.0)) if log else number

    return Estimate(
        value=back(value), unit=unit, lo=back(lo), hi=back(hi), level=level, method=method, reason=reason
    )


def _budget_fits(fit: BatchFit, points: SweepPoints, index: NDArray[np.intp]) -> list[BudgetFit]:
    family = fit.rules.family
    found = {
        "N_opt": batch.budget_intervals(fit, bowl.quantity_t_opt(family)),
        "loss_opt": batch.budget_intervals(fit, bowl.quantity_loss_opt(family)),
        "basin_lo": batch.budget_intervals(fit, bowl.quantity_edge(family, -1)),
        "basin_hi": batch.budget_intervals(fit, bowl.quantity_edge(family, 1)),
        "factor_lo": batch.budget_intervals(fit, bowl.quantity_factor(family, -1)),
        "factor_hi": batch.budget_intervals(fit, bowl.quantity_factor(family, 1)),
        "half_width": batch.budget_intervals(fit, bowl.quantity_half_width(family)),
    }
    return [_budget_fit(fit, points, index, found, k) for k in range(fit.design.num_budgets)]


def _budget_fit(
    fit: BatchFit,
    points: SweepPoints,
    index: NDArray[np.intp],
    found: dict[str, BatchInterval],
    k: int,
) -> BudgetFit:
    rules = fit.rules
    here = fit.design.budget_index == k
    kept = fit.included[0] & here
    sizes = np.exp(fit.design.log_size[kept])
    centre = float(fit.centre[0, k])
    t_opt = float(found["N_opt"].value[0, k])
    status, reason = _status(fit, k, t_opt)
    estimates = {}
    for name, result in found.items():
        unit = "nats/token" if name == "loss_opt" else "factor"
        shift = 0.0
        if name in ("N_opt", "basin_lo", "basin_hi"):
            unit, shift = "parameters", centre
        why = reason if status == "refused" and reason else _why_open(name, rules)
        estimates[name] = _estimate(
            result, (0, k), unit, rules.level, _method(result, 0, k), why, log=name != "loss_opt", shift=shift
        )
    return BudgetFit(
        budget=float(np.asarray(points.budget)[index[here]][0]),
        num_points=int(kept.sum()),
        centre=centre,
        coefficients=tuple(float(c) for c in _for_drawing(fit, k, fit.parameters[0, k])),
        curve=tuple(float(p) for p in fit.parameters[0, k]),
        window_lo=float(sizes.min()),
        window_hi=float(sizes.max()),
        **estimates,
        status=status,
        reason=reason,
        flags=_flags(estimates, float(sizes.min()), float(sizes.max())) if status != "refused" else (),
        excluded=_excluded(points, index[here & ~fit.included[0]], rules),
    )


def _status(fit: BatchFit, k: int, t_opt: float) -> tuple[Literal["ok", "edge", "refused"], str | None]:
    if not math.isfinite(t_opt):
        curvature = 2 * float(fit.parameters[0, k, 2])
        return "refused", (
            f"no minimum: the fitted curvature is {curvature:.3g} nats per (ln N)^2"
            + (", the wrong sign" if curvature <= 0 else ", but the cubic turns over before a minimum")
        )
    lo, hi = (float(a[0, k]) for a in batch.size_range(fit))
    position = float(fit.centre[0, k]) + t_opt
    if lo <= position <= hi:
        return "ok", None
    side, end = ("below the smallest", lo) if position < lo else ("above the largest", hi)
    return "edge", (
        f"the fitted minimum, N = {math.exp(min(position, 700.0)):.3g}, lies {side} size tried here "
        f"({math.exp(end):.3g}): it is extrapolated, and left out of the power law"
    )


def _why_open(name: str, rules: Rules) -> str:
    if name.startswith(("basin", "factor", "half")):
        return f"{_OPEN_SIDE}, or may not rise by {rules.eps:.3g} of the loss"
    return _OPEN_SIDE


def _flags(estimates: dict[str, Estimate], smallest: float, largest: float) -> tuple[str, ...]:
    flags = []
    for name, words in (("basin_lo", "lower"), ("basin_hi", "upper")):
        edge = estimates[name]
        if edge.value is None:
            flags.append(f"the {words} edge of the basin is never reached by the fitted curve")
        elif edge.value < smallest or edge.value > largest:
            flags.append(f"the {words} edge of the basin lies beyond the sizes tried: it is extrapolated")
    best = estimates["N_opt"]
    if best.lo is None or best.hi is None or best.lo < smallest or best.hi > largest:
        flags.append("the interval of the minimum reaches beyond the sizes tried")
    return tuple(flags)


def _excluded(points: SweepPoints, index: NDArray[np.intp], rules: Rules) -> tuple[Exclusion, ...]:
    return tuple(
        Exclusion(
            what=f"N = {points.size[i]:.4g} at {points.budget[i]:.3g} FLOPs, seed {points.seed[i]}, "
            f"loss {points.loss[i]:.4f}",
            reason=f"mean loss of this size is more than {rules.max_rise:.0%} above the lowest of its budget, "
            f"and it is not among the {rules.min_sizes} lowest",
        )
        for i in index
    )


def _assemble(
    fit: BatchFit,
    path: BatchPath,
    bowls: tuple[BudgetFit, ...],
    position: tuple[int, ...],
    num_draws: int,
    seed: int,
) -> IsoflopFit:
    rules = fit.rules
    exponent, coefficient, reference = _path_estimates(fit, path)
    path_p = _path_p(path)
    not_identified = _not_identified(exponent, int(path.used[0].sum()))
    exclusions = [e for bowl_fit in bowls for e in bowl_fit.excluded]
    exclusions += [
        Exclusion(what=f"budget {b.budget:.3g} FLOPs, from the power law", reason=b.reason or "")
        for b in bowls
        if b.status != "ok"
    ]
    noise = describe_noise(fit)
    return IsoflopFit(
        budgets=bowls,
        exponent=exponent,
        coefficient=coefficient,
        reference_budget=reference,
        identified=not_identified is None,
        not_identified=not_identified,
        path_p=path_p,
        skew=_skew(fit),
        noise=noise,
        draws=_draws(fit, len(bowls), position, num_draws, seed),
        rules=rules,
        method=_METHODS[rules.degree],
        interval_method=f"profile likelihood, pooled noise, Student's t at {rules.level:.0%}",
        exclusions=tuple(exclusions),
        notes=_notes(noise, path_p),
        internals=Internals(fit, path, position),
    )


_METHODS = {
    2: "a parabola in ln N at each budget, least squares",
    3: "a cubic in ln N at each budget, skewness shared by all budgets, least squares",
    4: "a convex quartic in ln N at each budget, skewness shared by all budgets, least squares",
}


def _path_estimates(fit: BatchFit, path: BatchPath) -> tuple[Estimate, Estimate, float]:
    level = fit.rules.level
    if path.used[0].sum() < 2:
        reason = "fewer than two budgets have a minimum within their sizes"
        return _missing("exponent", level, reason), _missing("parameters", level, reason), math.nan
    found = batch.exponent_interval(fit, path)
    exponent = _estimate(found, 0, "exponent", level, _method(found, 0), _OPEN_PATH, log=False)
    reference = float(path.reference[0])
    at = batch.size_interval(fit, path, reference)
    coefficient = _estimate(at, 0, "parameters", level, _method(at, 0), _OPEN_PATH, log=True)
    return exponent, coefficient, math.exp(reference)


def _path_p(path: BatchPath) -> float | None:
    p_value = float(path.p_value[0])
    return p_value if math.isfinite(p_value) else None


def _not_identified(exponent: Estimate, used: int) -> str | None:
    if exponent.value is None:
        return exponent.reason
    if exponent.lo is None or exponent.hi is None:
        return f"the interval of the exponent is open: {exponent.reason}"
    width = exponent.hi - exponent.lo
    if width > MAX_EXPONENT_WIDTH:
        return (
            f"the interval of the exponent, {exponent.lo:.2f} to {exponent.hi:.2f}, is wider than "
            f"{MAX_EXPONENT_WIDTH}: it carries nothing that was not known before (0 < a < 1)"
        )
    if used < 3:
        return "two budgets always lie on a power law: nothing checks it, a third is needed"
    return None


def _skew(fit: BatchFit) -> Estimate:
    if not fit.rules.shares_skew:
        return _missing("per ln N", fit.rules.level, "a parabola has none")
    last = bowl.NUM_PARAMETERS - 1
    sd = float(np.sqrt(fit.covariance[0, last, last]))
    reach = float(batch.t_quantile(fit.rules.level, fit.noise.df)[0]) * sd
    value = float(fit.shared_skew[0])
    known = math.isfinite(reach)
    return Estimate(
        value=value,
        unit="per ln N",
        lo=value - reach if known else None,
        hi=value + reach if known else None,
        level=fit.rules.level,
        method=f"t with a prior of sd {fit.rules.skew_sd}",
        reason=None if known else _NO_NOISE,
    )


def _notes(noise: NoiseModel, path_p: float | None) -> tuple[str, ...]:
    notes = []
    if noise.by_sizes:
        notes.append(
            f"the sizes scatter about the curves more than the seeds explain (p = {noise.lack_of_fit_p:.2g}): "
            "something that all seeds of a size share, such as its learning rate, or a shape that the curve does not "
            "follow. The intervals take the scatter of sizes for the noise"
        )
    if path_p is not None and path_p < batch.MIN_PATH_P:
        notes.append(
            f"the minima scatter about one power law more than their noise (p = {path_p:.2g}); the intervals of the "
            "exponent and of predicted sizes are widened to that scatter"
        )
    return tuple(notes)


def _draws(fit: BatchFit, num_bowls: int, position: tuple[int, ...], num_draws: int, seed: int) -> Array:
    """Coefficients drawn from the multivariate t of the estimate; jointly over budgets."""
    generator = np.random.default_rng(seed)
    covariance = fit.covariance[0] + (fit.window_covariance[0] if fit.window_covariance is not None else 0.0)
    out = np.full((num_draws, num_bowls, _num_drawn(fit.rules)), np.nan)
    if np.isfinite(covariance).all():
        values, vectors = np.linalg.eigh(covariance)
        normal = generator.standard_normal((num_draws, len(values))) * np.sqrt(np.maximum(values, 0.0))
        df = max(float(fit.noise.df[0]), 1.0)
        scale = np.sqrt(df / generator.chisquare(df, num_draws))
        moved = fit.parameters[0].reshape(-1) + scale[:, None] * (normal @ vectors.T)
        moved = moved.reshape(num_draws, len(position), bowl.NUM_PARAMETERS)
        for k, column in enumerate(position):
            out[:, column] = _for_drawing(fit, k, moved[:, k])
    return out


def _num_drawn(rules: Rules) -> int:
    return min(rules.degree, 3) + 1


def _for_drawing(fit: BatchFit, k: int, parameters: Array) -> Array:
    """Coefficients of a polynomial of degree at most 3 for each curve: [..., 4] -> [..., 3 or 4].

    A cubic is one Bezier segment, which keeps hundreds of drawn curves small. For degree 4 the quartic's last
    term is replaced by its best uniform approximation over the sizes kept (Chebyshev's T4): the error is the
    leading coefficient times (half the window)^4 / 8.
    """
    polynomial = fit.rules.family.polynomial(parameters)
    if fit.rules.degree < 4:
        return polynomial
    lo, hi = (float(end[0, k] - fit.centre[0, k]) for end in batch.size_range(fit))
    half = (hi - lo) / 2
    # t^4 = (half^4 / 8) T4(u) + rest, u from -1 to 1 over the window, and the rest is a cubic in t.
    t4 = np.polynomial.Chebyshev.basis(4, domain=[lo, hi]).convert(kind=np.polynomial.Polynomial).coef
    rest = np.asarray(t4[:4], dtype=np.float64) * (-(half**4) / 8)
    return np.asarray(polynomial[..., :4] + polynomial[..., 4:] * rest)


def _too_few(budget: float, num_sizes: int, rules: Rules) -> BudgetFit:
    reason = f"{num_sizes} sizes at {budget:.3g} FLOPs; a curvature needs at least {MIN_SIZES}"

    def missing(unit: str) -> Estimate:
        return _missing(unit, rules.level, reason)

    return BudgetFit(
        budget=float(budget),
        num_points=0,
        centre=math.nan,
        coefficients=(),
        curve=(),
        window_lo=math.nan,
        window_hi=math.nan,
        N_opt=missing("parameters"),
        loss_opt=missing("nats/token"),
        basin_lo=missing("parameters"),
        basin_hi=missing("parameters"),
        factor_lo=missing("factor"),
        factor_hi=missing("factor"),
        half_width=missing("factor"),
        status="refused",
        reason=reason,
        flags=(),
        excluded=(Exclusion(what=f"all points at {budget:.3g} FLOPs", reason=reason),),
    )


def _nothing(budgets: Array, num_sizes: dict[float, int], rules: Rules, num_draws: int) -> IsoflopFit:
    bowls = tuple(_too_few(c, num_sizes[c], rules) for c in budgets)
    reason = f"no budget has {MIN_SIZES} sizes"
    return IsoflopFit(
        budgets=bowls,
        exponent=_missing("exponent", rules.level, reason),
        coefficient=_missing("parameters", rules.level, reason),
        reference_budget=math.nan,
        identified=False,
        not_identified=reason,
        path_p=None,
        skew=_missing("per ln N", rules.level, reason),
        noise=NoiseModel(None, None, None, None, 0, None, False, None, 0, reason),
        draws=np.full((num_draws, len(bowls), _num_drawn(rules)), np.nan),
        rules=rules,
        method=_METHODS[rules.degree],
        interval_method="none",
        exclusions=tuple(e for b in bowls for e in b.excluded),
        notes=(),
        internals=None,
    )


def _no_equivalent(fit: IsoflopFit, budget: float) -> str | None:
    usable = [b for b in fit.budgets if b.status != "refused"]
    if not any(b.budget == budget for b in usable):
        return f"the bowl at {budget:.3g} FLOPs has no minimum"
    if usable[0].budget == budget and len(usable) == 1:
        return "one budget alone does not say how the loss falls with compute"
    return None


def _as_fraction(factor: Estimate) -> Estimate:
    def share(number: float | None) -> float | None:
        return None if number is None else 1 - 1 / number

    return Estimate(
        value=share(factor.value),
        unit="share of compute",
        lo=share(factor.lo),
        hi=share(factor.hi),
        level=factor.level,
        method=factor.method,
        reason=factor.reason,
    )
