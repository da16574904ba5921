"""How many years of video would bring self-supervised vision to human accuracy? Ask which function was used.

Claim P19.1: extrapolated to human accuracy (90 % top-5 on ImageNet), self-supervised learning from video as
a child sees it would need vastly more than a lifetime. The published points are twelve accuracies over three
decades of hours, extrapolated by as many decades again; the figure in the paper's first abstract is a
straight line in log hours. Here every evaluation is extrapolated by three functions with two parameters
each, which all fit.
Prediction: the dates differ by more than ten decades and the points cannot choose among the functions.
Command: ``isoflop run sample_efficiency``. Cost: none, the points are quoted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.judge.curves import curve_answer
from isoflop.judge.curves_view import CURVE_COLUMNS
from isoflop.judge.dates import AXES, Dated, date, separating_x
from isoflop.records import Column, Estimate, Evidence, Figure, Scalar, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "How many years of video would bring self-supervised vision to 90 % top-5 on ImageNet?"
SOURCE = (
    "eminorhan/human-ssl, README.md at commit 76a5629, raw data of Figure 1 (Orhan 2021, arXiv 2109.11523)"
)
TARGET = 0.9
HOURS_PER_YEAR = 24 * 365.25
LIFETIME_YEARS = 80.0

_HOURS = (1.301,) * 3 + (13.01,) * 3 + (130.1,) * 3


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One way to evaluate the same pretrained models."""

    name: str
    hours: tuple[float, ...]
    """Of video seen in self-supervised training."""
    top5: tuple[float, ...]
    """Top-5 accuracy on ImageNet, percent."""


EVALUATIONS = (
    Evaluation(
        name="few-shot, 1 % of labels",
        hours=(*_HOURS, 1301, 1301, 1301),
        top5=(20.356, 20.356, 21.388, 31.688, 30.544, 29.692, 35.040, 35.486, 34.296, 42.958, 42.332, 42.426),
    ),
    Evaluation(
        name="few-shot, 2 % of labels",
        hours=(*_HOURS, 1301, 1301, 1301),
        top5=(34.238, 29.392, 30.076, 45.036, 43.330, 42.334, 47.408, 48.498, 47.636, 54.304, 54.530, 55.044),
    ),
    Evaluation(
        name="linear probe",
        hours=(*_HOURS, 1301),
        top5=(25.426, 21.740, 24.654, 45.316, 45.032, 42.262, 52.620, 57.828, 53.482, 66.740),
    ),
)
"""Published points (SOURCE)."""


def dates() -> dict[str, dict[str, Dated]]:
    """Evaluation -> function -> when it reaches the target, x in years."""
    return {
        e.name: {
            axis: date(np.array(e.hours) / HOURS_PER_YEAR, np.array(e.top5) / 100, TARGET, axis)
            for axis in AXES
        }
        for e in EVALUATIONS
    }


def weights() -> dict[str, dict[str, Any]]:
    """Evaluation -> the answer of the general engine on the error rate, the three functions among the rest."""
    return {
        e.name: curve_answer(
            e.hours,
            1 - np.array(e.top5) / 100,
            kind="accuracy",
            metric="top-5 error",
            reach=1 - TARGET,
            horizon=1e20,
            families=("constant", "linear", "log", "power", "logit"),
        )
        for e in EVALUATIONS
    }


def judge(evidence: Evidence) -> Verdict:
    """Cannot tell, when functions that fit alike disagree on whether a lifetime is enough."""
    found, fitted = dates(), weights()
    years = [dated.x.value for row in found.values() for dated in row.values() if dated.x.value is not None]
    r2 = [dated.r2 for row in found.values() for dated in row.values()]
    enough = min(years) <= LIFETIME_YEARS < max(years)
    decades = np.log10(max(years) / min(years))
    sentence = (
        f"{min(years):.0f} years to {max(years):.0e} years: the data cannot choose. "
        f"Nine straight lines, each with R² of {min(r2):.2f} to {max(r2):.2f}, give nine answers."
    ).replace("e+", "e")
    return Verdict(
        study="sample_efficiency",
        claims=("P19.1",),
        question=QUESTION,
        outcome="cannot tell" if enough else ("supported" if min(years) > LIFETIME_YEARS else "contradicted"),
        sentence=sentence,
        statements=tuple(_statement(e, found[e.name]) for e in EVALUATIONS),
        effect=f"the choice of function and evaluation moves the date by {decades:.0f} decades",
        settle="; ".join(f"{e.name}: {_more(e, found[e.name])}" for e in EVALUATIONS),
        unresolved=("which of the functions holds beyond the data", "which evaluation is the fair one"),
        limits=(
            "One model family, three random subsets of video at each amount; 'years' are hours of video, not of life.",
            "The target is taken as 90 % top-5, as in the source; a human's score on the same images is not known "
            "to a point.",
            "Intervals resample the points under one function; they hold nothing of the choice of function.",
        ),
        tables=(
            _date_table(found),
            _weight_table(fitted),
            *(_curve_table(e, found[e.name]) for e in EVALUATIONS),
        ),
        figures=(_date_figure(), *(_curve_figure(e) for e in EVALUATIONS)),
        summary={
            "shortest_years": min(years),
            "longest_years": max(years),
            "years": {
                name: {axis: dated.x.value for axis, dated in row.items()} for name, row in found.items()
            },
            "interval95_years": {
                name: {axis: [dated.x.lo, dated.x.hi] for axis, dated in row.items()}
                for name, row in found.items()
            },
            "r2": {name: {axis: dated.r2 for axis, dated in row.items()} for name, row in found.items()},
            "weights": {
                name: {row["name"]: row["weight"] for row in answer["families"]}
                for name, answer in fitted.items()
            },
        },
    )


def _statement(evaluation: Evaluation, row: dict[str, Dated]) -> Statement:
    told = "; ".join(
        f"{dated.axis.name}: {_years(dated.x.value)} ({_years(dated.x.lo)} to {_years(dated.x.hi)}), "
        f"R² {dated.r2:.2f}"
        for dated in row.values()
    )
    years = [dated.x.value for dated in row.values() if dated.x.value is not None]
    over, under = min(years) > LIFETIME_YEARS, max(years) < LIFETIME_YEARS
    outcome = "supported" if over else ("contradicted" if under else "cannot tell")
    return Statement(
        text=f"{evaluation.name}: {TARGET:.0%} top-5 needs more than a lifetime of video",
        outcome=outcome,  # type: ignore[arg-type]
        because=told,
        estimate=Estimate(
            value=row["linear"].x.value,
            unit="years",
            lo=min(years),
            hi=max(years),
            level=0.95,
            method="value: straight line in log hours; ends: the other functions",
        ),
        settle=None if outcome != "cannot tell" else _more(evaluation, row),
    )


def _more(evaluation: Evaluation, row: dict[str, Dated]) -> str:
    years = np.array(evaluation.hours) / HOURS_PER_YEAR
    place = separating_x(years, np.array(evaluation.top5) / 100, tuple(row.values()))
    if place is None:
        return "no three points within a million times the video would separate the functions"
    return f"three more runs at {place * HOURS_PER_YEAR:.2g} hours of video would separate the functions"


def _years(value: float | None) -> str:
    if value is None:
        return "never"
    return (
        f"{value:.1f} years" if value < 100 else f"{value:.1e} years".replace("e+0", "e").replace("e+", "e")
    )


def _date_table(found: dict[str, dict[str, Dated]]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (name, dated.axis.name, dated.x.value, dated.x.lo, dated.x.hi, dated.r2)
        for name, row in found.items()
        for dated in row.values()
    ]
    return Table(
        name="dates",
        title=f"Years of video until {TARGET:.0%} top-5, by evaluation and function",
        columns=(
            Column(name="group", title="evaluation"),
            Column(name="label", title="function"),
            Column(name="value", title="years", unit="years", format="{:.2g}"),
            Column(name="lo", title="from", unit="years", format="{:.2g}"),
            Column(name="hi", title="to", unit="years", format="{:.2g}"),
            Column(name="r2", title="R²", format="{:.3f}"),
        ),
        rows=tuple(rows),
        note=f"95 % intervals by resampling the points. Source of the points: {SOURCE}.",
    )


def _weight_table(fitted: dict[str, dict[str, Any]]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (
            name,
            row["title"],
            row["weight"],
            row["aicc"],
            row["loo_error"],
            answer["reach"]["by_family"][row["name"]],
        )
        for name, answer in fitted.items()
        for row in answer["families"]
    ]
    return Table(
        name="weights",
        title="Weights of the families on the error rate",
        columns=(
            Column(name="evaluation", title="evaluation"),
            Column(name="family", title="family of the error"),
            Column(name="weight", title="weight", format="{:.3f}"),
            Column(name="aicc", title="AICc", format="{:.1f}"),
            Column(name="loo", title="leave-one-out error", format="{:.3f}"),
            Column(name="hours", title="reaches the target", unit="hours", format="{:.2g}"),
        ),
        rows=tuple(rows),
        note="Weights inside the data say nothing about which family holds many decades beyond them.",
    )


def _curve_table(evaluation: Evaluation, row: dict[str, Dated]) -> Table:
    years = np.array(evaluation.hours) / HOURS_PER_YEAR
    rows: list[tuple[Scalar, ...]] = []
    for dated in row.values():
        end = dated.x.value or 1e20
        for place in np.geomspace(years.min(), end, 60):
            rows.append((dated.axis.name, float(place), float(100 * dated.score(place)), None, None, "line"))
    furthest = max(dated.x.value or 1e20 for dated in row.values())
    for place in (years.min(), furthest):
        rows.append((f"{TARGET:.0%} top-5", float(place), 100 * TARGET, None, None, "reference"))
    rows += [
        ("published points", float(x), y, None, None, "points")
        for x, y in zip(years, evaluation.top5, strict=True)
    ]
    return Table(name=_slug(evaluation), title=evaluation.name, columns=CURVE_COLUMNS, rows=tuple(rows))


def _slug(evaluation: Evaluation) -> str:
    return "points_" + "".join(ch if ch.isalnum() else "_" for ch in evaluation.name).strip("_")


def _curve_figure(evaluation: Evaluation) -> Figure:
    return Figure(
        name=_slug(evaluation),
        kind="curves",
        title=f"{evaluation.name}: three functions through the same points",
        caption="All points lie at the left edge; everything to the right of them is the function's, not the data's. "
        f"Source: {SOURCE}.",
        alt="A small cluster of points at the left, and three lines that fan out over many decades of years before "
        "they reach 90 percent.",
        tables=(_slug(evaluation),),
        options={"log_x": True, "x_title": "years of video", "y_title": "top-5 accuracy, %"},
    )


def _date_figure() -> Figure:
    return Figure(
        name="dates",
        kind="intervals",
        title=f"When is {TARGET:.0%} top-5 reached? Nine answers from the same points",
        caption="Bars are 95 % intervals under one function each; the spread between functions is in none of them.",
        alt="Nine dates from four years to ten to the sixteenth years, with short bars far apart from each other.",
        tables=("dates",),
        options={
            "log": True,
            "reference": LIFETIME_YEARS,
            "reference_label": "a lifetime",
            "x_title": "years of video",
        },
    )


STUDY = Study(
    name="sample_efficiency",
    claims=("P19.1",),
    question=QUESTION,
    prediction="The dates differ by more than ten decades, and the points cannot choose among the functions.",
    cost="nothing is trained; seconds",
    judge=judge,
)
