"""Do abilities emerge suddenly with scale, or could the points not have told?

Claim P22.1: many reports of sudden emergence rest on a logarithmic axis, few points and no comparison with
simpler curves. A jump is defined here before looking: over half of the whole change falls within a tenth of
the range of log x. Each task of BIG-bench (twelve sizes of one model family) is asked which curve fits, and
what twelve sizes with the task's own number of items can tell. Four tasks over many public base models are
judged twice: as exact match, and as the per-token rate whose power exact match is.
Prediction: for most tasks cited as emergent the sizes cannot show a jump, and jumps of exact match are
gradual per token.
Command: ``isoflop run emergence``, with folders ``bigbench-scores`` and ``obs-scaling`` under
ISOFLOP_SHARED_DATA. Cost: nothing is trained; about two minutes.

The scores are not ours to copy: what is stored holds the fitted curves, weights and answers alone. With
ISOFLOP_SHOW_POINTS=1 the points are drawn too, for a report that stays at home.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.judge.curves import SUDDEN, curve_answer, per_token_score
from isoflop.judge.jumps import Judged, applicable, counts, panels_table
from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Exclusion,
    Figure,
    Outcome,
    Scalar,
    Statement,
    Table,
    Verdict,
)
from isoflop.studies.study import Study

QUESTION = "Do abilities emerge suddenly with scale, or could the points not have told?"
BIGBENCH, OBSERVED = "bigbench-scores", "obs-scaling"
SOURCES = (
    "BIG-bench scores by size as collected in PeterPonyu/calibration-traps at commit f055de2; base models: "
    "ryoungj/ObsScaling at commit 4d6e1e4 (Ruan, Maddison and Hashimoto 2024, arXiv 2405.10938)"
)
NUM_REPLICATES = 20
SHOW_POINTS = "ISOFLOP_SHOW_POINTS"
"""Environment variable: 1 draws the published scores themselves into a report that is not to be passed on."""

OBSERVED_TASKS = {
    "word_unscrambling_2_exact_match": ("word unscrambling", 6.0),
    "arithmetic_3da_2_acc": ("three-digit addition", 4.0),
    "arithmetic_2dm_2_acc": ("two-digit multiplication", 4.0),
}
"""Column -> name, and tokens of an answer: characters of a word, digits of a result. An assumption, varied below."""


@dataclass(frozen=True)
class Task:
    """One task over the sizes of one model family."""

    name: str
    sizes: tuple[float, ...]
    scores: tuple[float, ...]
    num_items: float
    chance: float
    cited: bool
    """Cited as emergent, in the label of the source."""


def read_bigbench(folder: Path) -> list[Task]:
    """Tasks of mc_scores.csv. Raises ValueError when the file or a column is missing."""
    rows = _rows(
        folder / "mc_scores.csv", ("task", "params_non_embedding", "score", "n_examples", "random_baseline")
    )
    tasks: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return [
        Task(
            name,
            tuple(float(row["params_non_embedding"]) for row in found),
            tuple(float(row["score"]) for row in found),
            float(found[0]["n_examples"]),
            float(found[0]["random_baseline"]),
            found[0].get("cited_emergent") == "True",
        )
        for name, found in tasks.items()
    ]


def read_observed(folder: Path) -> tuple[dict[str, list[tuple[float, float]]], list[Exclusion]]:
    """Column -> (training FLOPs, score) of every base model with both, and what was left out."""
    bench = _rows(folder / "base_llm_benchmark_eval.csv", ("Model", "FLOPs (1E21)"))
    flops = {row["Model"]: row["FLOPs (1E21)"] for row in bench}
    scores = _rows(folder / "emergent_capability_eval.csv", ("Model", *OBSERVED_TASKS))
    found: dict[str, list[tuple[float, float]]] = {column: [] for column in OBSERVED_TASKS}
    left_out: list[Exclusion] = []
    for row in scores:
        if not flops.get(row["Model"]):
            left_out.append(Exclusion(what=row["Model"], reason="its training FLOPs are not known"))
            continue
        for column in OBSERVED_TASKS:
            if row[column]:
                found[column].append((float(flops[row["Model"]]) * 1e21, float(row[column])))
            else:
                left_out.append(Exclusion(what=f"{row['Model']}, {column}", reason="no score"))
    return found, left_out


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"no file {path}; put the published table there")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    return rows


def judge_task(task: Task) -> Judged:
    """Which curve, and what the sizes can tell, with the binomial error of the task's items."""
    answer = curve_answer(
        task.sizes, task.scores, kind="accuracy", metric=task.name, num_items=task.num_items,
        families=applicable(task.scores), num_replicates=NUM_REPLICATES,
    )  # fmt: skip
    return Judged(task.name, "multiple choice", answer, task.cited)


def judge_observed(name: str, points: Sequence[tuple[float, float]], num_tokens: float) -> Judged:
    """Exact match (one token) or the per-token rate over training FLOPs; noise from the scatter of models."""
    x = [flops for flops, _ in points]
    y = per_token_score([score for _, score in points], num_tokens)
    metric = "exact match" if num_tokens == 1 else f"per token, {num_tokens:.0f} tokens"
    answer = curve_answer(
        x, y, kind="accuracy", metric=metric, families=applicable(y), num_replicates=NUM_REPLICATES
    )
    return Judged(name, metric, answer)


# -------------------------------------------------------------------------------------- verdict


def judge(evidence: Evidence) -> Verdict:
    """Supported when most tasks cited as emergent show no decided jump."""
    tasks: list[Judged] = []
    if BIGBENCH in evidence.data:
        tasks = [judge_task(task) for task in read_bigbench(Path(evidence.data[BIGBENCH]))]
    pairs: list[tuple[Judged, Judged]] = []
    left_out: list[Exclusion] = []
    if OBSERVED in evidence.data:
        observed, left_out = read_observed(Path(evidence.data[OBSERVED]))
        pairs = [
            (judge_observed(name, observed[column], 1.0), judge_observed(name, observed[column], tokens))
            for column, (name, tokens) in OBSERVED_TASKS.items()
        ]
    if not tasks and not pairs:
        return _without_data()
    statements = (*_task_statements(tasks), *_pair_statements(pairs))
    return Verdict(
        study="emergence",
        claims=("P22.1",),
        question=QUESTION,
        outcome=statements[0].outcome,
        sentence=_sentence(tasks, pairs),
        statements=statements,
        effect=_effect(tasks),
        settle="further sizes and more items; the table says how many sizes, and where, when some would do",
        unresolved=tuple(
            f"{item.name}: {len(item.answer['cannot_decide'])} of "
            f"{len(item.answer['cannot_decide']) + len(item.answer['decided'])} questions"
            for item in tasks
            if item.cited
        ),
        limits=(
            f"A jump is defined as: {SUDDEN}. Another definition may decide otherwise.",
            "Multiple-choice grades are themselves discontinuous; no continuous score by size was published with them.",
            "Tokens of an answer are taken as independent and of one number per task when exact match is undone.",
            "Base models differ in data and recipe; their scatter is treated as noise about one curve.",
        ),
        tables=(
            *((_task_table(tasks),) if tasks else ()),
            *((_cited_panels(tasks),) if any(item.cited for item in tasks) else ()),
            *((_other_panels(tasks),) if any(not item.cited for item in tasks) else ()),
            *((_pair_table(pairs), _pair_panels(pairs)) if pairs else ()),
        ),
        figures=(
            *((_cited_figure(tasks),) if any(item.cited for item in tasks) else ()),
            *((_pair_figure(pairs),) if pairs else ()),
            *((_other_figure(tasks),) if any(not item.cited for item in tasks) else ()),
        ),
        exclusions=tuple(left_out),
        summary=_summary(tasks, pairs),
    )


def _without_data() -> Verdict:
    return Verdict(
        study="emergence",
        claims=("P22.1",),
        question=QUESTION,
        outcome="cannot tell",
        sentence="No published scores are on this machine, so nothing was judged.",
        settle=f"put them into folders {BIGBENCH!r} and {OBSERVED!r} under ISOFLOP_SHARED_DATA ({SOURCES})",
    )


def _sentence(tasks: Sequence[Judged], pairs: Sequence[tuple[Judged, Judged]]) -> str:
    parts = []
    if tasks:
        cited = [item for item in tasks if item.cited]
        n, c = counts(tasks), counts(cited)
        parts.append(
            f"Of {len(cited)} tasks cited as emergent, {c['yes']} show a jump, {c['no']} do not, and for "
            f"{c['cannot tell']} the twelve sizes cannot tell (of all {len(tasks)}: {n['yes']}, {n['no']} and "
            f"{n['cannot tell']})"
        )
    if pairs:
        before = [both[0] for both in pairs]
        stay = [
            both for both in pairs if both[0].state("sudden") == "yes" and both[1].state("sudden") == "yes"
        ]
        parts.append(
            f"over public base models {counts(before)['yes']} of {len(pairs)} exact-match scores jump, and "
            f"{len(stay)} still do per token"
        )
    return "; ".join(parts) + "."


def _effect(tasks: Sequence[Judged]) -> str:
    undecided = sum(len(item.answer["cannot_decide"]) for item in tasks)
    asked = undecided + sum(len(item.answer["decided"]) for item in tasks)
    return f"{undecided} of {asked} questions put to twelve sizes stay open" if asked else ""


def _task_statements(tasks: Sequence[Judged]) -> tuple[Statement, ...]:
    if not tasks:
        return ()
    cited = [item for item in tasks if item.cited] or list(tasks)
    c = counts(cited)
    share = 1 - c["yes"] / len(cited)
    flat = counts(cited, "changes")
    return (
        Statement(
            text="Most tasks cited as emergent show no jump that their points could decide",
            outcome="supported" if share > 0.5 else "contradicted",
            because=f"jump {c['yes']}, no jump {c['no']}, cannot tell {c['cannot tell']} of {len(cited)}; whether the "
            f"score changes with size at all is decided for {flat['yes'] + flat['no']}",
            estimate=Estimate(
                value=share, unit="share of cited tasks", reason="a count over the tasks at hand"
            ),
        ),
    )


def _pair_statements(pairs: Sequence[tuple[Judged, Judged]]) -> tuple[Statement, ...]:
    found = []
    for raw, smooth in pairs:
        a, b = raw.state("sudden"), smooth.state("sudden")
        outcome: Outcome = (
            "supported" if a == b == "yes" else ("contradicted" if "no" in (a, b) else "cannot tell")
        )
        steep = [item.steepest for item in (raw, smooth)]
        found.append(
            Statement(
                text=f"{raw.name}: the rise with compute is a jump, and stays one per token",
                outcome=outcome,
                because=f"jump in exact match: {a}; {smooth.metric}: {b}; the steepest tenth of log FLOPs holds "
                f"{steep[0]:.0%} and {steep[1]:.0%} of the change of the best curve",
                settle="more models between the ends, or one family trained at many budgets"
                if outcome == "cannot tell"
                else None,
            )
        )
    return tuple(found)


def _summary(tasks: Sequence[Judged], pairs: Sequence[tuple[Judged, Judged]]) -> dict[str, Any]:
    return {
        "tasks": len(tasks),
        "cited": sum(item.cited for item in tasks),
        "jump_cited": counts([item for item in tasks if item.cited]),
        "jump_all": counts(tasks),
        "changes_all": counts(tasks, "changes"),
        "weights": {
            item.name: {row["name"]: row["weight"] for row in item.answer["families"]} for item in tasks
        },
        "observed": {
            raw.name: {"exact_match": raw.state("sudden"), "per_token": smooth.state("sudden")}
            for raw, smooth in pairs
        },
    }


# ------------------------------------------------------------------------------ tables and figures


def _task_table(tasks: Sequence[Judged]) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for item in sorted(tasks, key=lambda item: (not item.cited, item.name)):
        best = item.answer["families"][0]
        states = (item.state(name) for name in ("changes", "straight_log", "levels_off", "sudden"))
        rows.append(
            (
                item.name,
                "yes" if item.cited else "no",
                best["name"],
                best["weight"],
                item.rivals,
                *states,
                item.further_points("changes"),
            )
        )
    return Table(
        name="tasks",
        title="What twelve sizes can and cannot tell, task by task",
        columns=(
            Column(name="task", title="task"),
            Column(name="cited", title="cited as emergent"),
            Column(name="best", title="best family"),
            Column(name="weight", title="its weight", format="{:.2f}"),
            Column(name="rivals", title="others that remain"),
            Column(name="changes", title="changes with size"),
            Column(name="straight_log", title="straight in log size"),
            Column(name="levels_off", title="levels off"),
            Column(name="sudden", title="jump"),
            Column(name="more", title="further sizes to see a change"),
        ),
        rows=tuple(rows),
        note=f"Errors are binomial in the items of the task, widened where the scatter asks for it. {SOURCES}.",
    )


def show_points() -> bool:
    """Whether the published scores themselves are to be drawn."""
    return os.environ.get(SHOW_POINTS) == "1"


def _without_points() -> str:
    """Why small multiples hold no points, or ""."""
    return (
        ""
        if show_points()
        else f"The points stay in the published table, which is not ours to copy; {SHOW_POINTS}=1 draws them."
    )


def _cited_panels(tasks: Sequence[Judged]) -> Table:
    found = [(item.name, item) for item in tasks if item.cited]
    return panels_table(found, "cited", "Tasks cited as emergent: curves that fit", points=show_points())


def _other_panels(tasks: Sequence[Judged]) -> Table:
    found = [(item.name, item) for item in sorted(tasks, key=lambda item: item.name) if not item.cited]
    return panels_table(found, "others", "The other tasks: curves that fit", points=show_points())


def _pair_panels(pairs: Sequence[tuple[Judged, Judged]]) -> Table:
    found = [(f"{item.name}: {item.metric.split(',')[0]}", item) for both in pairs for item in both]
    return panels_table(found, "metrics", "Exact match and per token: curves that fit", points=show_points())


BOUNDS: dict[str, Scalar] = {"y_lo": 0.0, "y_hi": 1.0, "own_y": True}
"""A grade lies in [0, 1]; a polynomial need not, and would squeeze everything else."""
PANELS = (
    "Thick: the family that fits best; thin: others that remain. Shaded: where 90 % of new measurements fall."
)


def _in_words(items: Sequence[Judged]) -> str:
    c = counts(items)
    return f"jump: {c['yes']}, no jump: {c['no']}, cannot be told: {c['cannot tell']}"


def _cited_figure(tasks: Sequence[Judged]) -> Figure:
    return Figure(
        name="cited",
        kind="panels",
        title="The tasks cited as emergent, on a linear and on a logarithmic axis of size",
        caption=f"Multiple-choice grade against non-embedding parameters, twelve sizes. {PANELS} {_without_points()}",
        alt="Small panels, one task each, drawn twice: " + _in_words([item for item in tasks if item.cited]),
        tables=("cited",),
        options={"x_axes": "linear log", "per_row": 4, "x_title": "parameters", "y_title": "grade", **BOUNDS},
    )


def _other_figure(tasks: Sequence[Judged]) -> Figure:
    return Figure(
        name="others",
        kind="panels",
        title="The other tasks, on a logarithmic axis of size",
        caption=f"Multiple-choice grade against non-embedding parameters, twelve sizes. {PANELS} {_without_points()}",
        alt="Small panels, one task each: " + _in_words([item for item in tasks if not item.cited]),
        tables=("others",),
        options={"x_axes": "log", "per_row": 5, "x_title": "parameters", "y_title": "grade", **BOUNDS},
    )


def _pair_figure(pairs: Sequence[tuple[Judged, Judged]]) -> Figure:
    return Figure(
        name="metrics",
        kind="panels",
        title="The same models, the same answers: exact match beside its per-token rate",
        caption="Left to right: exact match and per-token rate, each on a linear and on a logarithmic axis of training "
        f"FLOPs. {PANELS} {_without_points()}",
        alt=f"Small panels; exact match, {_in_words([both[0] for both in pairs])}; per token, "
        + _in_words([both[1] for both in pairs]),
        tables=("metrics",),
        options={"x_axes": "linear log", "per_row": 4, "x_title": "training FLOPs", "y_title": "score", "y_lo": 0.0,
                 "y_hi": 1.0},
    )  # fmt: skip


def _pair_table(pairs: Sequence[tuple[Judged, Judged]]) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for both in pairs:
        for item in both:
            best = item.answer["families"][0]
            rows.append(
                (
                    item.name,
                    item.metric,
                    item.answer["n"],
                    best["name"],
                    best["weight"],
                    item.rivals,
                    item.state("sudden"),
                    item.steepest,
                )
            )
    return Table(
        name="observed",
        title="The same models, the same answers, two metrics",
        columns=(
            Column(name="task", title="task"),
            Column(name="metric", title="metric"),
            Column(name="models", title="models"),
            Column(name="best", title="best family"),
            Column(name="weight", title="its weight", format="{:.2f}"),
            Column(name="rivals", title="others that remain"),
            Column(name="sudden", title="jump"),
            Column(name="steepest", title="change in the steepest tenth", format="{:.0%}"),
        ),
        rows=tuple(rows),
        note="Per token: the k-th root of exact match, k characters or digits of an answer.",
    )


STUDY = Study(
    name="emergence",
    claims=("P22.1",),
    question=QUESTION,
    prediction="For most tasks cited as emergent the sizes cannot show a jump; no exact-match jump stays one.",
    cost="nothing is trained; about two minutes",
    judge=judge,
    data=(BIGBENCH, OBSERVED),
)
