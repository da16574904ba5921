"""Did four benchmark scores change between two checkpoints of one continued pretraining run?

Claim P2.2: after 809 billion further tokens a Llama-3.1-8B scored as before on four benchmarks. The scores
were published without standard errors, item logs or seeds, so each is compared from score and number of
items alone, as if the two checkpoints had answered different items; that is too careful, never too bold.
Prediction: MMLU fell by far more than sampling noise; the other three cannot be told from it.
Command: ``isoflop run eval_difference``. Cost: none, the scores are quoted here.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from isoflop.judge.compare import compare_scores, comparison_verdict
from isoflop.judge.scores import ScoreFile, TaskScores
from isoflop.records import Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Did the four benchmark scores stay the same after 809 billion further tokens?"

SIDES = ("step 0", "step 73,500")
SCORES = {
    "MMLU": (0.634, 0.609),
    "ARC-Challenge": (0.514, 0.521),
    "Winogrande": (0.741, 0.736),
    "HellaSwag": (0.600, 0.602),
}
"""Accuracy at step 0 and at step 73,500 as published for the run of github.com/eminorhan/frontier-torchtitan
(lm-eval defaults: zero-shot, `acc`)."""

ITEMS = {"MMLU": 14_042, "ARC-Challenge": 1_172, "Winogrande": 1_267, "HellaSwag": 10_042}
"""Items of the split that each benchmark is scored on by default."""


def compare() -> dict[str, Any]:
    """The published scores as a comparison: step 73,500 minus step 0."""
    sides = [
        ScoreFile(
            path=name,
            form="published table",
            model=None,
            tasks=tuple(
                TaskScores(
                    task=task, metric="acc", value=scores[side], num=ITEMS[task], higher_is_better=True
                )
                for task, scores in SCORES.items()
            ),
        )
        for side, name in enumerate(SIDES)
    ]
    return compare_scores(sides[0], sides[1])


def judge(evidence: Evidence) -> Verdict:
    """Contradicted when any score changed by more than noise, after Holm's correction."""
    result = compare()
    found = comparison_verdict(result, study="eval_difference", claims=("P2.2",), question=QUESTION)
    statements = tuple(
        Statement(
            text=f"{row['task']} did not change",
            outcome="contradicted" if row["verdict"] != "cannot tell" else "cannot tell",
            because=f"z = {row['statistic']:+.2f}; {_named(statement.because)}",
            estimate=statement.estimate,
            settle=_settle(row),
        )
        for row, statement in zip(result["tasks"], found.statements, strict=True)
    )
    changed = [row["task"] for row in result["tasks"] if row["verdict"] != "cannot tell"]
    told = f"{' and '.join(changed)} fell" if changed else "No score"
    return Verdict(
        study="eval_difference",
        claims=("P2.2",),
        question=QUESTION,
        outcome="contradicted" if changed else "cannot tell",
        sentence=f"{told} by far more than sampling noise; for the rest, a change of the size that was seen "
        "could not have been told from none.",
        statements=statements,
        effect=_named(result["sentence"]),
        unresolved=(
            "whether training or the choice of checkpoint moved the scores: there is one run, one seed",
        ),
        limits=(
            "Item sampling only; noise between seeds, checkpoints and prompts is not in it.",
            "The numbers of items are those of the standard splits, not stated with the scores.",
            *map(_named, result["notes"]),
        ),
        tables=tuple(_table(table) for table in found.tables),
        figures=tuple(_figure(figure) for figure in found.figures),
        summary=found.summary,
    )


def _named(text: str) -> str:
    """The comparison's words with the checkpoints' names in place of A and B."""
    first = text.startswith("B ")
    for letters, names in (
        ("B minus A", f"{SIDES[1]} minus {SIDES[0]}"),
        ("A and B", "the two checkpoints"),
        ("B is", f"{SIDES[1]} is"),
    ):
        text = text.replace(letters, names)
    return text[0].upper() + text[1:] if first else text


def _table(table: Table) -> Table:
    names = {"A": SIDES[0], "B": SIDES[1], "B - A": "change"}
    columns = tuple(replace(column, title=names.get(column.title, column.title)) for column in table.columns)
    return replace(table, title="Accuracy at both checkpoints, task by task", columns=columns)


def _figure(figure: Figure) -> Figure:
    options = {**figure.options, "x_title": _named(str(figure.options["x_title"]))}
    return replace(
        figure,
        title=f"Accuracy at {SIDES[1]} minus accuracy at {SIDES[0]}",
        alt=_named(figure.alt),
        options=options,
    )


def _settle(row: dict[str, Any]) -> str | None:
    if row["verdict"] != "cannot tell":
        return None
    paired = row["if_paired"]
    return (
        f"item logs of both checkpoints: if {paired['changing_share']:.0%} of the items change they would show "
        f"{100 * paired['minimum_detectable']:.2f} points; scores alone show "
        f"{100 * row['minimum_detectable']:.2f}"
    )


STUDY = Study(
    name="eval_difference",
    claims=("P2.2",),
    question=QUESTION,
    prediction="MMLU fell by more than noise; the other three changes cannot be told from none.",
    cost="nothing is trained; an instant",
    judge=judge,
)
