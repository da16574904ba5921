"""A law fitted to a user's table, as a verdict for a report: is it determined, what does it choose, does it forecast?

Nothing is fitted here. Left out: text for a terminal (`isoflop.fit.law.report`) and prices (the planner).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoflop.fit.compare.difference import wilson_interval
from isoflop.fit.law.report import PARAMETERS, FittedTable
from isoflop.records import Column, Estimate, Figure, Outcome, Scalar, Statement, Table, Verdict
from isoflop.units import format_count, format_flops

LEVEL = 0.95
ENOUGH = 0.95
"""Share of certified resamples from which on the law counts as determined."""
_CURVE_POINTS = 40


def law_verdict(made: FittedTable) -> Verdict:
    """The answer of `fit_table` with its tables and figure, ready to be published.

    "supported" says that the runs determine the law; "cannot tell" that they leave it open, and what would settle it.
    """
    answer = made.answer
    share = answer["certified_share"]
    held = answer["identified"] and (share is None or share >= ENOUGH)
    law = f"L(N, D) = {answer['E']:.4g} + {answer['A']:.4g} / N^{answer['alpha']:.4f}"
    law += f" + {answer['B']:.4g} / D^{answer['beta']:.4f}"
    sentence = f"{law} describes {answer['rows_used']} runs of {answer['source']}, which scatter "
    sentence += f"{answer['residual_sd']:.2%} about it."
    reason = answer["not_identified"] or f"{share or 0:.0%} of the resamples are certified"
    if not held:
        sentence = f"{answer['rows_used']} runs of {answer['source']} do not determine the law: {reason}."
    statements = (_determined(answer, held, reason), *_budget(answer), *_forecast(answer))
    return Verdict(
        study="law",
        question="Which law do these runs follow, and what does it choose?",
        outcome="supported" if held else "cannot tell",
        sentence=sentence,
        statements=statements,
        effect=law,
        settle=None
        if held
        else "runs at other ratios of tokens to parameters and over more decades of compute",
        limits=(
            "The intervals hold if the law does; they do not know whether it holds beyond its runs.",
            *answer["notes"],
        ),
        fits=(made.fit.to_record(LEVEL),),
        tables=(_parameter_table(answer), *_panel_table(answer), _points_table(made)),
        figures=(_figure(),),
        exclusions=tuple(made.fit.exclusions),
        summary={key: value for key, value in answer.items() if key not in ("text", "exclusions")},
    )


def _determined(answer: Mapping[str, Any], held: bool, reason: str) -> Statement:
    share, span = answer["certified_share"], answer["a_ci95"]
    because = (
        f"{share:.1%} of {answer['bootstrap']} resamples end at a certified optimum" if share else reason
    )
    return Statement(
        text="These runs determine the law",
        outcome="supported" if held else "cannot tell",
        because=because if held else reason,
        estimate=Estimate(
            value=answer["a"], unit="power of compute with which the best size grows",
            lo=span[0] if span else None, hi=span[1] if span else None, level=LEVEL,
            method=f"bootstrap of {answer['resample']}" if span else "", reason=None if span else "no bootstrap",
        ),
        settle=None if held else "runs at other ratios of tokens to parameters and over more decades of compute",
    )  # fmt: skip


def _budget(answer: Mapping[str, Any]) -> tuple[Statement, ...]:
    if "budget_flops" not in answer:
        return ()
    span = answer["N_opt_ci95"]
    between = f", 95 % interval {format_count(span[0])} to {format_count(span[1])}" if span else ""
    return (
        Statement(
            text=f"What {format_flops(answer['budget_flops'])} should buy",
            outcome="supported" if answer["identified"] else "cannot tell",
            because=f"{format_count(answer['N_opt'])} parameters{between}, on {format_count(answer['D_opt'])} tokens",
            estimate=Estimate(
                value=answer["N_opt"], unit="parameters", lo=span[0] if span else None,
                hi=span[1] if span else None, level=LEVEL,
                method=f"bootstrap of {answer['resample']}" if span else "",
                reason=None if span else "no bootstrap",
            ),
        ),
    )  # fmt: skip


def _forecast(answer: Mapping[str, Any]) -> tuple[Statement, ...]:
    row = next((row for row in answer.get("sensitivity", ()) if row["group"] == "forecast"), None)
    if row is None:
        return ()
    text = "Fitted without its largest budgets, it predicts them"
    if row["coverage"] is None:
        reason = str(row["reason"])
        return (Statement(text=text, outcome="cannot tell", because=reason, settle="runs at more budgets"),)
    num = int(row["choice"].split()[0])
    lo, hi = wilson_interval(row["coverage"] * num, num, level=LEVEL)
    fails = hi < LEVEL
    outcome: Outcome = "contradicted" if fails else "supported"
    return (
        Statement(
            text=text,
            outcome=outcome,
            because=f"{row['coverage']:.0%} of {num} runs fall inside their 95 % interval; predictions are "
            f"{row['mean_error']:+.2%} off on average",
            estimate=Estimate(
                value=row["coverage"], unit="share of runs", lo=lo, hi=hi, level=LEVEL, method="Wilson"
            ),
        ),
    )


def _parameter_table(answer: Mapping[str, Any]) -> Table:
    errors = answer["standard_errors"] or {}
    rows: list[tuple[Scalar, ...]] = []
    for name in PARAMETERS:
        span = answer["ci95"][name] or (None, None)
        rows.append((name, answer[name], errors.get(name), span[0], span[1]))
    return Table(
        name="parameters",
        title="The law's parameters",
        columns=(
            Column(name="parameter", title="parameter"),
            Column(name="value", title="value", format="{:.5g}"),
            Column(name="se", title="standard error", format="{:.3g}"),
            Column(name="lo", title="95 % from", format="{:.4g}"),
            Column(name="hi", title="to", format="{:.4g}"),
        ),
        rows=tuple(rows),
    )


def _panel_table(answer: Mapping[str, Any]) -> tuple[Table, ...]:
    if not answer.get("sensitivity"):
        return ()
    rows: list[tuple[Scalar, ...]] = []
    for row in answer["sensitivity"]:
        span = row["N_opt_ci95"] or (None, None)
        rows.append(
            (row["group"], row["choice"], row["N_opt"], span[0], span[1], row["factor"], row["reason"] or "")
        )
    return (
        Table(
            name="sensitivity",
            title=f"The best size at {format_flops(answer['sensitivity_flops'])} under other choices",
            columns=(
                Column(name="group", title="what"),
                Column(name="choice", title="choice"),
                Column(name="N", title="best size", format="{:.3g}"),
                Column(name="lo", title="95 % from", format="{:.3g}"),
                Column(name="hi", title="to", format="{:.3g}"),
                Column(name="factor", title="times the first", format="{:.2f}"),
                Column(name="note", title="note"),
            ),
            rows=tuple(rows),
        ),
    )


def _points_table(made: FittedTable) -> Table:
    """Runs, the law's lowest loss over compute, and its band over the draws; for a figure of kind "curves"."""
    fit, rows = made.fit, list[tuple[Scalar, ...]]()
    C = fit.law.k * fit.N * fit.D
    top = max(10.0 * float(C.max()), made.answer.get("budget_flops", 0.0))
    grid = np.geomspace(float(C.min()), top, _CURVE_POINTS)
    if len(fit.draws):
        for at in grid.tolist():
            lo, hi = np.quantile(fit.draws_law.optimum(at).loss, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            rows.append(("95 % of the draws", at, None, float(lo), float(hi), "band"))
    rows += [
        ("best size at each budget", at, float(fit.law.optimum(at).loss), None, None, "line")
        for at in grid.tolist()
    ]
    rows += [
        ("runs", at, loss, None, None, "points")
        for at, loss in zip(C.tolist(), fit.loss.tolist(), strict=True)
    ]
    return Table(
        name="losses",
        title="Runs, and the lowest loss that the law allows",
        columns=(
            Column(name="series", title="series"),
            Column(name="x", title="training FLOPs", format="{:.3g}"),
            Column(name="y", title="loss", format="{:.4g}"),
            Column(name="lo", title="from", format="{:.4g}"),
            Column(name="hi", title="to", format="{:.4g}"),
            Column(name="role", title="role"),
        ),
        rows=tuple(rows),
    )


def _figure() -> Figure:
    return Figure(
        name="losses",
        kind="curves",
        title="Loss over training compute",
        caption="Points: the runs. Line: the law's loss at the best size for each budget; shaded: 95 % of its draws.",
        alt="Measured losses against training compute, with the law's lowest loss below them and beyond them.",
        tables=("losses",),
        options={"log_x": True, "x_title": "training FLOPs", "y_title": "loss"},
    )
