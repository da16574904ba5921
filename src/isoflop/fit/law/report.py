"""From a table of runs to an answer: the law, how sure it is, and what a budget should buy; for people and as JSON.

`law_answer` reads (if needed), fits, and returns one JSON-ready mapping; its `text` says the same in words.
Left out: prices, hardware and serving (the planner takes the fitted law on from here).
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop import units
from isoflop.fit.law.parametric import LawFit, LossFunction, fit_law
from isoflop.fit.tables.runs import RunsTable, read_runs
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.records import Estimate

PARAMETERS = ("E", "A", "B", "alpha", "beta")
LEVEL = 0.95
TOLERANCE = 0.01
"""Relative tolerance on the loss for the basin and for the smallest good-enough size."""
WIDTH = 96
PANEL_DRAWS = 400
"""Behind each row of the panel; fewer for runs that do not determine the law, each of whose draws takes long."""
SMALLEST_BUDGET, LARGEST_BUDGET = 1e6, 1e32
"""FLOPs; beyond them a budget is a slip of the unit."""


@dataclass(frozen=True)
class FittedTable:
    """A table, the law fitted to it, and the answer that was made of both."""

    runs: RunsTable
    fit: LawFit
    answer: dict[str, Any]
    """JSON-ready, see `law_answer`; with `text` for people."""
    groups: np.ndarray | None = None
    """Groups of the runs that were resampled whole, [n]."""


def law_answer(
    table: RunsTable | str | Path, budget: float | str | None = None, **options: Any
) -> dict[str, Any]:
    """Fit the law to a table and say what follows.

    Args:
        table: a `RunsTable`, or what `read_runs` accepts.
        budget: training FLOPs, as a number or as text ("3.8e25"); None asks about the law alone.
        options: as for `fit_table`.

    Returns:
        JSON-ready mapping: E A B alpha beta objective rows_used rows_excluded certified_share and more; with a
        budget also N_opt D_opt loss_opt and their intervals, the basin and the smallest good-enough size;
        `text` for people. Numbers that are undefined are None.

    Raises:
        TableError, LawFitError: with the remedy. ValueError: a budget that is not a positive number of FLOPs.
    """
    return fit_table(table, budget, **options).answer


def fit_table(
    table: RunsTable | str | Path,
    budget: float | str | None = None,
    *,
    loss_function: LossFunction = "huber",
    delta: float = 1e-3,
    bootstrap: int = 4000,
    cluster: bool = True,
    drop_highest_loss: int = 0,
    multistart: int = 500,
    seed: int = 0,
    k: float = 6.0,
    sensitivity: bool = False,
) -> FittedTable:
    """The same as `law_answer`, with the fit and its draws beside the answer.

    Args:
        table, budget: as for `law_answer`.
        loss_function, delta, bootstrap, drop_highest_loss, multistart, seed, k: as in `fit_law`.
        cluster: resample the table's groups (trunks) when it has a column of them.
        sensitivity: add the panel of `isoflop.fit.law.sensitivity`, at the budget or at ten times the largest run's.
    """
    C = None if budget is None else _flops(budget)
    runs = table if isinstance(table, RunsTable) else read_runs(table, k=k)
    groups = runs.cluster if cluster and runs.cluster is not None and len(set(runs.cluster)) >= 5 else None
    fit = fit_law(
        runs.N, runs.D, runs.loss, loss_function=loss_function, delta=delta, bootstrap=bootstrap, cluster=groups,
        multistart=multistart, seed=seed, k=k, drop_highest_loss=drop_highest_loss, exclusions=runs.exclusions,
    )  # fmt: skip
    answer = describe_fit(fit, rows_excluded=runs.rows_excluded + drop_highest_loss)
    notes = [*runs.notes, *fit.notes]
    if groups is not None:
        notes.append(f"resampled in whole groups of column {runs.columns.get('cluster', 'cluster')}")
    answer.update(source=runs.source, columns=runs.columns, notes=notes)
    if C is not None:
        answer.update(describe_optimum(fit, C))
    if sensitivity:
        answer["sensitivity_flops"] = C or usual_budget(fit)
        answer["sensitivity"] = panel_of(runs, fit, answer["sensitivity_flops"], groups)
    answer = _finite(answer)
    answer["text"] = answer_text(answer)
    return FittedTable(runs, fit, answer, groups)


def usual_budget(fit: LawFit) -> float:
    """Ten times the FLOPs of the largest run: where a table is asked when no budget is given."""
    return 10.0 * float(np.max(fit.law.k * fit.N * fit.D))


def panel_of(
    runs: RunsTable, fit: LawFit, C: float, groups: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """The rows of the sensitivity panel at C FLOPs, JSON-ready."""
    from isoflop.fit.law.sensitivity import sensitivity_panel

    dropped = len(fit.exclusions) - len(runs.exclusions)
    delta = fit.scale if fit.loss_function == "huber" else 1e-3
    panel = sensitivity_panel(
        runs.N, runs.D, runs.loss, C, k=fit.law.k, seed=fit.seed, drop_highest_loss=dropped, delta=delta,
        loss_function=fit.loss_function, cluster=groups, base=fit if len(fit.draws) else None,
        bootstrap=PANEL_DRAWS if fit.not_identified is None else PANEL_DRAWS // 4,
    )  # fmt: skip
    return [row.to_mapping() for row in panel]


def _flops(budget: float | str) -> float:
    if isinstance(budget, str):
        quantity = units.parse_budget(budget)
        if quantity.unit != "flops":
            raise ValueError(
                f"budget {budget!r} is in {quantity.unit}: give training FLOPs, e.g. 3e21, or ask "
                "`isoflop plan --law TABLE`, which knows devices and money"
            )
        budget = quantity.amount
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"budget is {budget:g} FLOPs: it must be positive, e.g. 3e21")
    if not SMALLEST_BUDGET <= budget <= LARGEST_BUDGET:
        raise ValueError(
            f"budget is {budget:g} FLOPs, outside what can be planned, {SMALLEST_BUDGET:g} to {LARGEST_BUDGET:g}; "
            "check its unit"
        )
    return float(budget)


def describe_fit(fit: LawFit, rows_excluded: int = 0) -> dict[str, Any]:
    """The law, its intervals, its evidence and its reach as a JSON-ready mapping."""
    C = fit.law.k * fit.N * fit.D
    exponent = fit.estimate(lambda law: law.a, "1", LEVEL)
    record = fit.to_record(LEVEL, num_draws=0)
    return {
        **{name: float(getattr(fit.law, name)) for name in PARAMETERS},
        "objective": fit.objective,
        "rows_used": len(fit.N),
        "rows_excluded": rows_excluded,
        "certified_share": fit.certified_share,
        "degenerate_share": fit.degenerate_share,
        "ci95": {name: _interval(record.estimates[name]) for name in PARAMETERS},
        "standard_errors": fit.standard_errors if len(fit.draws) else None,
        "a": exponent.value,
        "a_ci95": _interval(exponent),
        "loss_function": fit.loss_function,
        "delta": fit.scale,
        "residual_sd": float(np.std(fit.residuals())),
        "bootstrap": len(fit.draws),
        "resample": fit.resample,
        "seed": fit.seed,
        "flops_per_parameter_and_token": fit.law.k,
        "certificate": {
            "scaled_gradient": fit.certificate.scaled_gradient,
            "smallest_curvature": fit.certificate.smallest_curvature,
            "starts": fit.audit.starts,
            "starts_at_optimum": fit.audit.starts_at_optimum,
            "audited_replicates": fit.audit.audited,
            "audit_misses": fit.audit.misses,
            "worst_gap": float(np.max(fit.replicates.gap)) if len(fit.draws) else None,
            "worst_multistart_gap": fit.audit.worst_gap if fit.audit.audited else None,
        },
        "identified": fit.not_identified is None,
        "not_identified": fit.not_identified,
        "range": {
            name: [float(v.min()), float(v.max())] for name, v in (("N", fit.N), ("D", fit.D), ("C", C))
        },
        "exclusions": [{"what": item.what, "reason": item.reason} for item in fit.exclusions],
    }


def describe_optimum(fit: LawFit, C: float) -> dict[str, Any]:
    """What C FLOPs should buy, with intervals over the draws; basin and smallest size at 1 per cent."""
    best = fit.optimum(C, LEVEL)
    largest = float(np.max(fit.law.k * fit.N * fit.D))
    answer: dict[str, Any] = {
        "budget_flops": C,
        "N_opt": best.N.value,
        "D_opt": best.D.value,
        "loss_opt": best.loss.value,
        "N_opt_ci95": _interval(best.N),
        "D_opt_ci95": _interval(best.D),
        "loss_opt_ci95": _interval(best.loss),
        "tokens_per_parameter": fit.law.optimum(C).D / fit.law.optimum(C).N,
        "basin_1pct": list(fit.law.basin(C, TOLERANCE)),
        "extrapolation_factor": C / largest,
    }
    if len(fit.draws):
        smallest = smallest_within(fit.draws_law, C, TOLERANCE, LEVEL)
        kept = None if smallest is None else fit.law.equivalent_compute(fit.law.loss_at(smallest, C)) / C
        answer["smallest_within"] = {
            "eps": TOLERANCE,
            "confidence": LEVEL,
            "N": smallest,
            "price": None if kept is None else 1.0 - kept,
            "equivalent_flops": None if kept is None else kept * C,
            "reason": None if smallest is not None else "no single size is within 1 % in 95 % of the draws",
        }
    return answer


def smallest_within(draws: ChinchillaLaw, C: float, eps: float, confidence: float) -> float | None:
    """Smallest N whose loss at C FLOPs is within eps of the optimum's in at least `confidence` of the draws.

    None when no size is. Every draw has its own basin; a size counts where it lies inside.
    """
    edges = draws.basin(C, eps)
    low, high = np.sort(edges.N_lo), np.sort(edges.N_hi)
    inside = np.arange(1, len(low) + 1) - np.searchsorted(high, low, side="left")
    enough = np.flatnonzero(inside >= confidence * len(low))
    return float(low[enough[0]]) if len(enough) else None


def _interval(estimate: Estimate) -> list[float | None] | None:
    return None if estimate.lo is None and estimate.hi is None else [estimate.lo, estimate.hi]


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


# ------------------------------------------------------------------------------------- for people


def answer_text(answer: dict[str, Any]) -> str:
    """The answer in at most about thirty lines for a terminal."""
    blocks = [_law_lines(answer)]
    if "budget_flops" in answer:
        blocks.append(_budget_lines(answer))
    if answer.get("sensitivity"):
        blocks.append(_sensitivity_lines(answer["sensitivity"]))
    blocks.append(_evidence_lines(answer))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _law_lines(answer: dict[str, Any]) -> list[str]:
    used = f"{answer['rows_used']} runs of {answer['source']}"
    left = f", {answer['rows_excluded']} left out" if answer["rows_excluded"] else ""
    sd = answer["residual_sd"]
    unit = "bits" if any("is in bits" in note for note in answer["notes"]) else "nats per token"
    caution = _wrapped(f"Caution: {answer['not_identified']}") if answer["not_identified"] else []
    lines = [
        f"Law from {used}{left}",
        *caution,
        "",
        f"    L(N, D) = {answer['E']:.4g} + {answer['A']:.4g} / N^{answer['alpha']:.4f}"
        f" + {answer['B']:.4g} / D^{answer['beta']:.4f}",
        "",
        f"    N parameters, D training tokens, L loss in {unit}; the runs scatter {100 * sd:.2g} % about it",
    ]
    if answer["ci95"]["E"]:
        spans = [f"{name} {_span(answer['ci95'][name], '.4g')}" for name in PARAMETERS]
        lines += ["", *_wrapped("95 % intervals: " + ", ".join(spans))]
        a, span = answer["a"], _span(answer["a_ci95"], ".3f")
        lines += _wrapped(
            f"Ten times the compute is best spent on {10**a:.2g} times the parameters and {10 ** (1 - a):.2g} times "
            f"the tokens (the size grows as compute to the power {a:.3f}, {span})"
        )
    return lines


def _budget_lines(answer: dict[str, Any]) -> list[str]:
    count, flops = units.format_count, units.format_flops
    best = answer["N_opt_ci95"]
    lines = [
        f"With {flops(answer['budget_flops'])}",
        "",
        f"    best size     {count(answer['N_opt'])} parameters"
        + (f"   (95 %: {count(best[0])} to {count(best[1])})" if best else ""),
        f"    trained on    {count(answer['D_opt'])} tokens, {answer['tokens_per_parameter']:.3g} per parameter",
        f"    expected loss {answer['loss_opt']:.3f}"
        + (f"   (95 %: {_span(answer['loss_opt_ci95'], '.3f')})" if answer["loss_opt_ci95"] else ""),
        f"    within 1 %    any size from {count(answer['basin_1pct'][0])} to {count(answer['basin_1pct'][1])}",
    ]
    smallest = answer.get("smallest_within")
    if smallest and smallest["N"] is not None:
        lines.append(
            f"    small, safe   {count(smallest['N'])}: within 1 % of the best loss with 95 % confidence; its loss"
        )
        lines.append(
            f"                  is that of a best-sized run with {100 * (1 - smallest['price']):.2g} % of the compute"
        )
    elif smallest:
        lines.append(f"    {smallest['reason']}")
    if answer["extrapolation_factor"] > 10:
        lines += [
            "",
            *_wrapped(
                f"This is {_factor(answer['extrapolation_factor'])} times the compute of the largest run: the interval "
                "holds if the law does, and only runs nearer to the budget can tell"
            ),
        ]
    return lines


def _sensitivity_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["What the answer rests on: the best size under other choices", ""]
    width = max(len(row["choice"]) for row in rows if row["group"] != "forecast")
    for row in rows:
        if row["group"] == "forecast":
            continue
        value = (
            units.format_count(row["N_opt"]) if row["N_opt"] is not None else (row["reason"] or "undefined")
        )
        span = row.get("N_opt_ci95")
        interval = f"   95 %: {units.format_count(span[0])} to {units.format_count(span[1])}" if span else ""
        lines.append(f"    {row['choice']:{width}}  {value:>6}{interval}")
    found = [row["N_opt"] for row in rows if row["N_opt"] is not None]
    if len(found) > 1:
        lines += ["", f"    The choices alone move it by a factor of {max(found) / min(found):.2g}."]
    for row in rows:
        if row["group"] == "forecast" and row["coverage"] is not None:
            side = "above" if row["mean_error"] > 0 else "below"
            lines += _wrapped(
                f"    Forecast test ({row['choice']}): {row['coverage']:.0%} of them fall inside their 95 % interval; "
                f"predictions lie {abs(row['mean_error']):.2%} {side} the measured loss on average."
            )
        elif row["group"] == "forecast":
            lines += _wrapped(f"    No forecast test: {row['reason']}")
    return lines


def _evidence_lines(answer: dict[str, Any]) -> list[str]:
    lines = []
    evidence = answer["certificate"]
    if answer["bootstrap"]:
        share = answer["certified_share"]
        lines += _wrapped(
            f"{answer['bootstrap']} resamples ({answer['resample']}), {100 * share:.4g} % certified at their optimum"
            + (f", {100 * answer['degenerate_share']:.3g} % on a bound" if answer["degenerate_share"] else "")
            + f"; {evidence['starts_at_optimum']} of {evidence['starts']} starts agree on the fit"
            + _audit_words(evidence)
        )
    lines += [line for note in answer["notes"] for line in _wrapped(f"Note: {note}")]
    for item in answer["exclusions"][:5]:
        lines += _wrapped(f"Left out: {item['what']}: {item['reason']}")
    if len(answer["exclusions"]) > 5:
        lines.append(f"... and {len(answer['exclusions']) - 5} more in the JSON output")
    return lines


def _audit_words(evidence: dict[str, Any]) -> str:
    """What became of the resamples that were fitted again from many starts."""
    audited, misses = evidence["audited_replicates"], evidence["audit_misses"]
    if not audited:
        return ""
    words = f", and {audited - misses} of {audited} resamples with the best of their own"
    return words + (f" (the better fit was kept for the other {misses})" if misses else "")


def _factor(value: float) -> str:
    """Two significant digits, in full: 2933 -> "2,900"."""
    return f"{float(f'{value:.1e}'):,.0f}" if value < 1e6 else f"{value:.1e}"


def _span(ends: list[float], spec: str) -> str:
    return f"{ends[0]:{spec}} to {ends[1]:{spec}}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")
