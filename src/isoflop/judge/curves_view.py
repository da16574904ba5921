"""The answer of `isoflop.judge.curves` for people: text for a terminal, and a verdict for a report.

The same points are drawn on a linear and on a logarithmic x axis, side by side, because what looks like a
jump on one may be a straight line on the other. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isoflop.judge.curves import SUDDEN
from isoflop.records import Column, Estimate, Exclusion, Figure, Outcome, Scalar, Statement, Table, Verdict

CURVE_COLUMNS = (
    Column(name="series", title="series"),
    Column(name="x", title="x", format="{:.4g}"),
    Column(name="y", title="y", format="{:.4g}"),
    Column(name="lo", title="from", format="{:.4g}"),
    Column(name="hi", title="to", format="{:.4g}"),
    Column(name="role", title="role"),
)
"""Columns of a table that a figure of kind "curves" draws."""


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def render_curve(answer: Mapping[str, Any]) -> str:
    """The answer as text: a sentence, the families, the questions, predictions, notes."""
    lines = [answer["sentence"], ""]
    lines.append(f"{'family':26s} {'weight':>7s} {'AICc':>9s} {'forward':>9s} {'leave-out':>9s}  parameters")
    for row in answer["families"]:
        values = ", ".join(f"{name} {_number(value)}" for name, value in row["parameters"].items())
        lines.append(
            f"{row['title'][:26]:26s} {row['weight']:7.3f} {_number(row['aicc'], 5):>9s} "
            f"{_number(row['forward_error']):>9s} {_number(row['loo_error']):>9s}  {values}"
            + ("" if row["identified"] else "  (not identified)")
        )
    lines += [f"  not tried: {row['reason']}" for row in answer["refused"]]
    lines.append("")
    for row in answer["decided"]:
        lines.append(f"decided        {row['question']} {row['answer']} (weight {row['weight']:.2f})")
    for row in answer["cannot_decide"]:
        lines.append(f"cannot decide  {row['question']} {row['because']}")
    for row in answer["points_needed"]:
        lines.append(f"to decide      {row['question']} {_needed_words(row)}")
    for row in answer.get("predict", ()):
        said = row["reason"] or (
            f"{_number(row['median'])}, {row['level']:.0%} interval {_number(row['lo'])} to {_number(row['hi'])}"
        )
        lines.append(f"at x = {_number(row['x'])}: {said}")
    if "reach" in answer:
        lines.append(_reach_words(answer["reach"]))
    lines += [f"note: {note}" for note in answer["notes"]]
    return "\n".join(lines)


def _needed_words(row: Mapping[str, Any]) -> str:
    if row["num"] is None:
        return str(row["reason"])
    places = ", ".join(_number(place) for place in row["x"])
    more = "point" if row["num"] == 1 else "points"
    return (
        f"{row['num']} more {more} at x = {places} would separate {' from '.join(row['families'])} "
        f"(in {row['power']:.0%} of simulated studies)"
    )


def _reach_words(reach: Mapping[str, Any]) -> str:
    first, middle, last = (reach["x_by_which_with_probability"][share] for share in ("5%", "50%", "95%"))
    if reach["ever"] is None:
        return f"whether y = {_number(reach['y'])} is reached: {reach['reason']}"
    what = f"y = {_number(reach['y'])} is reached"
    ever = f"before x = {_number(reach['horizon_x'])} with odds of {reach['ever']:.0%}"
    if middle is None:
        return f"{what} {ever}"
    end = f"by x = {_number(last)}" if last is not None else "never"
    return (
        f"{what} {ever}: by x = {_number(first)} with 5 %, by x = {_number(middle)} at even odds, "
        f"{end} with 95 %"
    )


# ------------------------------------------------------------------------------------ the report


def curve_verdict(
    answer: Mapping[str, Any],
    *,
    study: str = "curve",
    claims: tuple[str, ...] = (),
    question: str = "Which simple curve fits, and could these points have told?",
) -> Verdict:
    """The answer as a verdict with tables and figures, ready to be published.

    "supported" says that one family holds 95 % of the weight; "cannot tell" that several remain.
    """
    best = answer["families"][0]
    alone = len(answer["families"]) == 1 and bool(answer["refused"])  # its weight is 1 for want of others
    outcome: Outcome = "supported" if best["weight"] >= 0.95 and not alone else "cannot tell"
    settle = "; ".join(
        f"{row['question']} {_needed_words(row)}" for row in answer["points_needed"] if row["num"] is not None
    )
    return Verdict(
        study=study,
        claims=claims,
        question=question,
        outcome=outcome,
        sentence=answer["sentence"],
        statements=_statements(answer),
        effect=f"{best['title']}: {best['formula']}",
        settle=(settle or "none of the families differ enough for more points of this noise to tell")
        if outcome == "cannot tell"
        else None,
        unresolved=tuple(row["question"] for row in answer["cannot_decide"]),
        limits=(f"A jump is defined as: {SUDDEN}.", *answer["notes"]),
        tables=(family_table(answer), question_table(answer), confusion_table(answer), curve_table(answer)),
        figures=curve_figures(answer),
        exclusions=tuple(Exclusion(what=row["family"], reason=row["reason"]) for row in answer["refused"]),
        summary={key: value for key, value in answer.items() if key != "drawing"},
    )


def _statements(answer: Mapping[str, Any]) -> tuple[Statement, ...]:
    needed = {row["name"]: row for row in answer["points_needed"]}
    found = [
        Statement(
            text=row["question"],
            outcome="supported" if row["yes"] else "contradicted",
            because=f"{row['answer']} (weight {row['weight']:.2f}; the opposite truth looks so in "
            f"{row['wrong_rate'] or 0:.0%} of simulated studies)",
            estimate=Estimate(
                value=row["weight"], unit="weight", reason="a posterior weight, not a measurement"
            ),
        )
        for row in answer["decided"]
    ]
    found += [
        Statement(
            text=row["question"],
            outcome="cannot tell",
            because=row["because"],
            settle=_needed_words(needed[row["name"]]),
        )
        for row in answer["cannot_decide"]
    ]
    for row in answer.get("predict", ()):
        if row["reason"] is not None:
            found.append(
                Statement(
                    text=f"y at x = {_number(row['x'])}",
                    outcome="cannot tell",
                    because=row["reason"],
                    settle="more points",
                )
            )
            continue
        estimate = Estimate(
            value=row["median"], unit="", lo=row["lo"], hi=row["hi"], level=row["level"], method=row["method"]
        )
        found.append(
            Statement(
                text=f"y at x = {_number(row['x'])}",
                outcome="supported",
                because=f"{_number(row['median'])}, {row['level']:.0%} of new measurements between "
                f"{_number(row['lo'])} and {_number(row['hi'])}",
                estimate=estimate,
            )
        )
    if "reach" in answer:
        found.append(
            Statement(
                text=f"y reaches {_number(answer['reach']['y'])}",
                outcome="supported" if (answer["reach"]["ever"] or 0.0) >= 0.95 else "cannot tell",
                because=_reach_words(answer["reach"]),
                settle=None if (answer["reach"]["ever"] or 0.0) >= 0.95 else "points nearer to that value",
            )
        )
    return tuple(found)


def family_table(answer: Mapping[str, Any]) -> Table:
    """Every family with its weight and errors."""
    return Table(
        name="families",
        title="Families tried, the best first",
        columns=(
            Column(name="family", title="family"),
            Column(name="formula", title="formula"),
            Column(name="parameters", title="parameters"),
            Column(name="weight", title="weight", format="{:.3f}"),
            Column(name="aicc", title="AICc", format="{:.1f}"),
            Column(name="forward_error", title="forward error", format="{:.3g}"),
            Column(name="loo_error", title="leave-one-out error", format="{:.3g}"),
            Column(name="certified", title="certified"),
        ),
        rows=tuple(
            (
                row["title"],
                row["formula"],
                ", ".join(f"{name} = {_number(value)}" for name, value in row["parameters"].items()),
                row["weight"],
                row["aicc"],
                row["forward_error"],
                row["loo_error"],
                "yes" if row["certified"] else "no",
            )
            for row in answer["families"]
        ),
        note="Weights are Akaike weights; forward error predicts each next larger x from the smaller ones.",
    )


def question_table(answer: Mapping[str, Any]) -> Table:
    """Every question, what the points say and what they could have said."""
    rows: list[tuple[Scalar, ...]] = []
    for state, part in (("decided", answer["decided"]), ("cannot decide", answer["cannot_decide"])):
        rows += [
            (row["question"], state, row["answer"] or row.get("leaning"), row["weight"], row["wrong_rate"],
             row["power_if_yes"], row["power_if_no"])
            for row in part
        ]  # fmt: skip
    return Table(
        name="questions",
        title="What these points can and cannot decide",
        columns=(
            Column(name="question", title="question"),
            Column(name="state", title="state"),
            Column(name="answer", title="answer or leaning"),
            Column(name="weight", title="weight", format="{:.2f}"),
            Column(name="wrong", title="as sure when the opposite is true", format="{:.0%}"),
            Column(name="power_yes", title="sure of yes when true", format="{:.0%}"),
            Column(name="power_no", title="sure of no when true", format="{:.0%}"),
        ),
        rows=tuple(rows),
    )


def confusion_table(answer: Mapping[str, Any]) -> Table:
    """Rows: the simulated truth; columns: the family then chosen."""
    names = answer["confusion"]["families"]
    return Table(
        name="confusion",
        title="Which family is chosen when each one is the truth",
        columns=(
            Column(name="truth", title="truth"),
            *(Column(name=f"chosen_{name}", title=name, format="{:.0%}") for name in names),
        ),
        rows=tuple(
            (name, *shares) for name, shares in zip(names, answer["confusion"]["shares"], strict=True)
        ),
        note=f"Shares of {answer['confusion']['num_replicates']} simulated studies at the same x and noise.",
    )


def curve_table(answer: Mapping[str, Any], name: str = "curve") -> Table:
    """Points, families and the band of new measurements, for a figure of kind "curves"."""
    drawing = answer["drawing"]
    rows: list[tuple[Scalar, ...]] = []
    band = f"{drawing['level']:.0%} of new measurements"
    rows += [
        (band, x, None, lo, hi, "band")
        for x, lo, hi in zip(drawing["x"], drawing["lo"], drawing["hi"], strict=True)
    ]
    for family, values in drawing["families"].items():
        rows += [(family, x, y, None, None, "line") for x, y in zip(drawing["x"], values, strict=True)]
    points = drawing["points"]
    rows += [
        ("data", x, y, y - sigma, y + sigma, "points")
        for x, y, sigma in zip(points["x"], points["y"], points["sigma"], strict=True)
    ]
    return Table(name=name, title="Points and curves", columns=CURVE_COLUMNS, rows=tuple(rows))


def curve_figures(answer: Mapping[str, Any], name: str = "curve") -> tuple[Figure, ...]:
    """The same table on a linear and, where x is positive, on a logarithmic axis."""
    scales: Sequence[bool] = (False, True) if min(answer["drawing"]["points"]["x"]) > 0 else (False,)
    best = answer["families"][0]["title"]
    return tuple(
        Figure(
            name=f"{name}_{'log' if log else 'linear'}",
            kind="curves",
            title=f"The families that remain, on a {'logarithmic' if log else 'linear'} x axis",
            caption="Points with one standard deviation of their noise; shaded: where a new measurement falls.",
            alt=f"The measured points with the fitted curves through them; {best} fits best.",
            tables=(name,),
            options={"log_x": log, "x_title": "x", "y_title": answer["metric"] or "y"},
        )
        for log in scales
    )
