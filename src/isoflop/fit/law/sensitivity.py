"""How far the answer hangs on choices that the data do not settle: the panel beside every interval.

Each row answers the same question, the compute-optimal size at one budget, with one choice changed: the residual
loss, its delta, which runs are left out, how parameters are counted, the form of the surface, the parabola
method. The last block is a forecast: fit without the runs of the largest budgets, predict them, and count how
many fall into the 95 % prediction interval.

Left out: choosing among the rows. Where they disagree by more than the interval, that is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.fit.isoflop.parabola import ParabolaDesign, parabola_interval
from isoflop.fit.law.forms import Form, fit_form
from isoflop.fit.law.parametric import LawFit, LawFitError, LossFunction, fit_law
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.laws.pearce_song import non_embedding_from_total

Array = np.ndarray
LEVEL = 0.95
OUTLIER_SHARE = 0.02
"""Share of runs in the rule "without the highest losses" (5 of 245 in Besiroglu et al. 2024)."""
_STEP = 1.1
"""Factor of the budget over which a local exponent is taken."""
TOP_SHARE = 0.25
"""The forecast leaves out the largest budgets that hold about this share of the runs."""


@dataclass(frozen=True)
class SensitivityRow:
    """The same answer under one other choice."""

    group: str
    """"as asked", "loss function", "outliers", "counting", "form", "method" or "forecast"."""
    choice: str
    """In words."""
    N_opt: float | None
    """Optimal size at the budget, parameters counted as in the table; None with a reason."""
    N_opt_ci95: tuple[float, float] | None = None
    factor: float | None = None
    """N_opt over that of the first row."""
    objective: float | None = None
    """Where it is comparable with the first row's."""
    coverage: float | None = None
    """For the forecast: share of the held-out runs inside their 95 % prediction interval."""
    mean_error: float | None = None
    """For the forecast: mean of predicted over measured loss, minus 1."""
    reason: str | None = None
    """Why there is no number, or what to know about this one."""
    parameters: tuple[float, float, float, float, float] | None = None
    """E, A, B, alpha, beta where the row is a fit of the Chinchilla form in the table's own count."""
    exponent: float | None = None
    """Where it is not: N_opt grows with the budget to this power, near this budget."""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "group": self.group,
            "choice": self.choice,
            "N_opt": self.N_opt,
            "N_opt_ci95": None if self.N_opt_ci95 is None else list(self.N_opt_ci95),
            "factor": self.factor,
            "objective": self.objective,
            "coverage": self.coverage,
            "mean_error": self.mean_error,
            "reason": self.reason,
            "parameters": None if self.parameters is None else list(self.parameters),
            "exponent": self.exponent,
        }


@dataclass(frozen=True)
class _Question:
    """What every row is asked."""

    N: Array
    D: Array
    loss: Array
    C: float
    k: float
    delta: float
    drop: int
    bootstrap: int
    seed: int
    loss_function: LossFunction
    cluster: Array | None

    def fit(self, **changes: Any) -> LawFit:
        options: dict[str, Any] = {
            "loss_function": self.loss_function,
            "cluster": self.cluster,
            "delta": self.delta,
            "bootstrap": self.bootstrap,
            "multistart": 0,
            "seed": self.seed,
            "k": self.k,
            "drop_highest_loss": self.drop,
        }
        return fit_law(self.N, self.D, self.loss, **{**options, **changes})


def sensitivity_panel(
    N: Array,
    D: Array,
    loss: Array,
    C: float,
    *,
    k: float = 6.0,
    delta: float = 1e-3,
    drop_highest_loss: int = 0,
    bootstrap: int = 400,
    seed: int = 0,
    loss_function: LossFunction = "huber",
    cluster: Array | None = None,
    base: LawFit | None = None,
) -> tuple[SensitivityRow, ...]:
    """The optimal size at C FLOPs under other defensible choices.

    Args:
        N, D, loss: runs, [n].
        C: training FLOPs at which the size is asked for.
        k: FLOPs per parameter and token.
        delta: Huber's delta of the first row.
        drop_highest_loss: runs left out in the first row.
        bootstrap: draws behind each row's interval.
        seed: of the resampling.
        loss_function: of the first row.
        cluster: group of each run, [n], when groups are to be resampled whole.
        base: the fit of the first row, where it is known with its draws; it is made when left out.

    The first row is the question as asked; `factor` of the others is relative to it. A row that cannot be
    computed carries the reason.
    """
    N, D, loss = (np.asarray(values, dtype=float) for values in (N, D, loss))
    q = _Question(N, D, loss, C, k, delta, drop_highest_loss, bootstrap, seed, loss_function, cluster)
    base = base or q.fit()
    asked = f"Huber, delta {delta:g}" if loss_function == "huber" else _LOSS_FUNCTIONS[loss_function]
    first = _row("as asked", f"{asked}, {_runs(base)}", base, C)
    rows = [
        first,
        *_loss_functions(q),
        *_outliers(q),
        _counting(q, base),
        *_forms(q, base),
        _parabola(q, base),
        forecast_top_budgets(
            N,
            D,
            loss,
            C,
            k=k,
            delta=delta,
            drop_highest_loss=q.drop,
            bootstrap=bootstrap,
            seed=seed,
            loss_function=loss_function,
            cluster=cluster,
        ),
    ]
    return tuple(_with_factor(row, first.N_opt) for row in rows)


def _runs(fit: LawFit) -> str:
    dropped = len(fit.exclusions)
    left = (
        f", the {'highest loss' if dropped == 1 else f'{dropped} highest losses'} left out" if dropped else ""
    )
    return f"{len(fit.N)} runs{left}"


def _row(group: str, choice: str, fit: LawFit, C: float, **more: Any) -> SensitivityRow:
    law, best = fit.law, fit.optimum(C, LEVEL).N
    span = None if best.lo is None or best.hi is None else (best.lo, best.hi)
    return SensitivityRow(
        group, choice, best.value, span, objective=fit.objective, reason=fit.not_identified,
        parameters=(float(law.E), float(law.A), float(law.B), float(law.alpha), float(law.beta)), **more,
    )  # fmt: skip


def _exponent(size: Callable[[float], float], C: float) -> float:
    """The power of C with which a size grows at C; exact for power laws."""
    return math.log(size(C * _STEP) / size(C)) / math.log(_STEP)


def _with_factor(row: SensitivityRow, reference: float | None) -> SensitivityRow:
    if row.N_opt is None or not reference:
        return row
    return SensitivityRow(**{**row.__dict__, "factor": row.N_opt / reference})


def _attempt(group: str, choice: str, q: _Question, **changes: Any) -> SensitivityRow:
    try:
        return _row(group, choice, q.fit(**changes), q.C)
    except LawFitError as error:
        return SensitivityRow(group, choice, None, reason=str(error))


_LOSS_FUNCTIONS: dict[LossFunction, str] = {
    "squares": "least squares on the log loss",
    "lad": "least absolute deviations",
    "student": "Student t, 4 degrees of freedom",
}


def _loss_functions(q: _Question) -> list[SensitivityRow]:
    """Those that were not asked for, and Huber's with ten times the delta."""
    group = "loss function"
    huber = [10 * q.delta] if q.loss_function == "huber" else [q.delta, 10 * q.delta]
    rows = [
        _attempt(group, f"Huber, delta {delta:g}", q, loss_function="huber", delta=delta) for delta in huber
    ]
    for name, words in _LOSS_FUNCTIONS.items():
        if name != q.loss_function:
            draws = min(q.bootstrap, 100) if name == "lad" else q.bootstrap  # lad takes tens of stages
            rows.append(_attempt(group, words, q, loss_function=name, bootstrap=draws))
    return rows


def _outliers(q: _Question) -> list[SensitivityRow]:
    """Everything, and everything but the highest losses: whichever of the two was not asked."""
    few = max(1, round(OUTLIER_SHARE * len(q.loss)))
    rows = []
    for drop in (0, few):
        if drop != q.drop:
            several = "highest loss" if drop == 1 else f"{drop} highest losses"
            words = "all runs" if drop == 0 else f"without the {several}"
            rows.append(_attempt("outliers", words, q, drop_highest_loss=drop))
    if q.drop:
        rows.append(
            _attempt("outliers", "all runs, least squares", q, drop_highest_loss=0, loss_function="squares")
        )
    return rows


def _counting(q: _Question, base: LawFit) -> SensitivityRow:
    """Fit on parameters without embeddings (Pearce and Song 2024), answer in the table's own count."""
    group, choice = "counting", "fitted without embedding parameters"
    inner = non_embedding_from_total(q.N)
    if np.min(inner) < 1e3:
        return SensitivityRow(group, choice, None, reason="sizes below the reach of the embedding rule")
    try:
        fit = fit_law(
            inner, q.D, q.loss, delta=q.delta, bootstrap=q.bootstrap, multistart=0, seed=q.seed, k=q.k,
            drop_highest_loss=q.drop, loss_function=q.loss_function, cluster=q.cluster,
        )  # fmt: skip
    except LawFitError as error:
        return SensitivityRow(group, choice, None, reason=str(error))
    center = base.law.optimum(q.C).N
    total = center * np.exp(np.linspace(-5.0, 5.0, 2001))  # steps of half a per cent
    inner_grid, tokens = non_embedding_from_total(total), q.C / (q.k * total)

    def best_size(C: float) -> float:
        """Between the steps of the grid by a parabola, so that sizes of near budgets can be told apart."""
        losses = fit.law.loss(inner_grid, C / (q.k * total))
        at = min(max(int(np.argmin(losses)), 1), len(total) - 2)
        left, middle, right = losses[at - 1 : at + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        return float(total[at] * math.exp(shift * math.log(total[1] / total[0])))

    size = best_size(q.C)
    span = None
    if len(fit.draws):
        best = total[np.argmin(_losses_of_draws(fit, inner_grid, tokens), axis=1)]
        lo, hi = np.quantile(best, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        span = (float(lo), float(hi))
    rule = "N_total = N + 47491 N^(1/3), a vocabulary of about 32,000; if the table counts all parameters"
    return SensitivityRow(
        group, choice, size, span, objective=fit.objective, reason=rule, exponent=_exponent(best_size, q.C)
    )


def _losses_of_draws(fit: LawFit, N: Array, D: Array) -> Array:
    """Loss of each draw at each point, [B, m]."""
    E, A, B, alpha, beta = fit.draws.T[:, :, None]
    return ChinchillaLaw(E, A, B, alpha, beta, k=fit.law.k).loss(N, D)


def _forms(q: _Question, base: LawFit) -> list[SensitivityRow]:
    words: dict[Form, str] = {
        "shared": "one exponent for size and data",
        "skaling": "Skaling: one exponent around both terms",
        "kaplan": "Kaplan's form: no floor",
    }
    rows = []
    for form, choice in words.items():
        found = fit_form(form, base.N, base.D, base.loss, base.law, q.delta)
        size = float(found.law.optimum(q.C).N)
        ratio = found.objective / base.objective
        worse = f"fits {ratio:.2g} times worse than the Chinchilla form" if ratio > 1.05 else None
        grows = _exponent(lambda C, law=found.law: float(law.optimum(C).N), q.C)  # type: ignore[misc]
        rows.append(
            SensitivityRow("form", choice, size, objective=found.objective, reason=worse, exponent=grows)
        )
    return rows


def _parabola(q: _Question, base: LawFit) -> SensitivityRow:
    """Approach 2 on the same runs, when they lie on enough budgets."""
    group, choice = "method", "a parabola per budget, then a power law"
    design = ParabolaDesign.of(base.N, q.k * base.N * base.D)
    if design is None:
        return SensitivityRow(
            group, choice, None, reason="the runs do not lie on 3 budgets with 4 sizes each"
        )
    rng = np.random.default_rng(q.seed)
    value, lo, hi = parabola_interval(design, base.loss[None], q.C, max(q.bootstrap, 50), rng, LEVEL)
    if not np.isfinite(value[0]):
        return SensitivityRow(group, choice, None, reason="fewer than 3 parabolas have a minimum")
    span = (math.exp(lo[0]), math.exp(hi[0])) if np.isfinite(lo[0]) else None
    grows = _exponent(lambda C: math.exp(design.log_size(base.loss[None], C)[0]), q.C)
    return SensitivityRow(
        group, choice, math.exp(value[0]), span, reason=f"{len(design.members)} budgets", exponent=grows
    )


# ----------------------------------------------------------------------------------- forecast


def forecast_top_budgets(
    N: Array,
    D: Array,
    loss: Array,
    C: float,
    *,
    k: float = 6.0,
    delta: float = 1e-3,
    drop_highest_loss: int = 0,
    bootstrap: int = 400,
    seed: int = 0,
    loss_function: LossFunction = "huber",
    cluster: Array | None = None,
) -> SensitivityRow:
    """Fit without the largest budgets, predict their losses, and count the hits.

    The 95 % prediction interval of a run joins the spread of the draws with a redrawn residual. The held-out
    runs are those of the highest budgets that together hold about a quarter of the runs; N_opt is that of the
    reduced fit. Arguments as for `sensitivity_panel`.
    """
    group = "forecast"
    flops = k * N * D
    cut = _top_cut(flops)
    train = flops < cut
    above = f"{cut:.2g}".replace("e+", "e")
    choice = f"{int((~train).sum())} runs from {above} FLOPs on left out, and predicted"
    groups = None if cluster is None else np.asarray(cluster)[train]
    if groups is not None and len(set(groups.tolist())) < 5:
        groups = None
    try:
        fit = fit_law(
            N[train], D[train], loss[train], delta=delta, bootstrap=max(bootstrap, 100), multistart=0, seed=seed, k=k,
            drop_highest_loss=drop_highest_loss, loss_function=loss_function, cluster=groups,
        )  # fmt: skip
    except LawFitError as error:
        return SensitivityRow(group, choice, None, reason=str(error))
    held = ~train
    rng = np.random.default_rng(seed)
    spread = np.log(_losses_of_draws(fit, N[held], D[held]))
    spread = spread + rng.choice(-fit.residuals(), size=spread.shape)
    lo, hi = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    measured = np.log(loss[held])
    mean_error = float(np.mean(fit.law.loss(N[held], D[held]) / loss[held]) - 1)
    row = _row(group, choice, fit, C)
    return SensitivityRow(
        **{
            **row.__dict__,
            "coverage": float(np.mean((lo <= measured) & (measured <= hi))),
            "mean_error": mean_error,
        }
    )


def _top_cut(flops: Array) -> float:
    """Smallest budget of the held-out block: a gap between budgets near the upper quarter of the runs."""
    ordered = np.sort(flops)
    n = len(ordered)
    first = np.arange(max(1, round((1 - 2 * TOP_SHARE) * n)), n)
    gaps = np.log(ordered[first] / ordered[first - 1])
    clear = first[gaps > 0.1]  # a new budget begins
    if not len(clear):
        return float(ordered[round((1 - TOP_SHARE) * n)])
    return float(ordered[clear[np.argmin(np.abs(clear - (1 - TOP_SHARE) * n))]])
