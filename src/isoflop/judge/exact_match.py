"""From runs of several sizes to a verdict: do jumps of exact match stay jumps when each token is scored?

Every task gives one curve of exact match for each k (its first k tokens all right) and two scores per token of
the same answers: the share of right tokens, and the probability of a token (geometric mean over the k). All
are asked the same question with the same families. Leaves out how answers are scored
(`isoflop.measure.answers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoflop import units
from isoflop.judge.curves import SUDDEN, curve_answer
from isoflop.judge.jumps import (
    Judged,
    applicable,
    counts,
    panels_table,
    steepest_draws,
    steepest_tenth,
)
from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Exclusion,
    Figure,
    Outcome,
    RunEvidence,
    Scalar,
    Statement,
    Table,
    Verdict,
)

Array = NDArray[np.float64]

TOKENS = (2, 4, 6)
"""Exact match of the first so many tokens; of one it is the share of right tokens."""
EXACT, RIGHT, PROBABILITY = "exact match", "tokens right", "probability per token"
METRICS = (EXACT, RIGHT, PROBABILITY)
NUM_REPLICATES = 20
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Curve:
    """One task under one metric of its first k tokens, over sizes and seeds."""

    task: str
    metric: str
    num_tokens: int
    flops: Array
    """[sizes] ascending."""
    scores: Array
    """[sizes, seeds] in [0, 1]."""
    judged: Judged

    @property
    def steepest(self) -> Estimate:
        """Share of the change within the steepest tenth of log FLOPs, from the means over seeds."""
        draws = steepest_draws(self.flops, self.scores, NUM_RESAMPLES, seed=0)
        lo, hi = np.quantile(draws, [0.025, 0.975])
        return Estimate(
            value=steepest_tenth(self.flops, self.scores.mean(axis=1)),
            unit="share of the change",
            lo=float(lo),
            hi=float(hi),
            method=f"resampled seeds ({self.scores.shape[1]} a size)",
        )


def read_scores(runs: Sequence[RunEvidence]) -> tuple[Array, dict[str, Array], tuple[Exclusion, ...]]:
    """Training FLOPs and the scores of every size that all its seeds finished.

    Returns FLOPs [sizes], name of the score -> [sizes, seeds], and what was left out.
    """
    left_out: list[Exclusion] = []
    by_size: dict[float, list[dict[str, float]]] = {}
    for run in runs:
        flops = run.spec.train_flops.flops
        by_size.setdefault(flops, [])
        if run.record is None or run.record.status != "finished" or not run.measurements:
            reason = "it did not end" if run.record is None else run.record.reason or run.record.status
            left_out.append(Exclusion(what=run.spec.name, reason=reason))
            continue
        scores = run.measurements[-1].scores
        by_size[flops].append({name: e.value for name, e in scores.items() if e.value is not None})
    num_seeds = max((len(found) for found in by_size.values()), default=0)
    whole = sorted(flops for flops, found in by_size.items() if len(found) == num_seeds)
    left_out += [
        Exclusion(what=units.format_flops(flops), reason="not all seeds of this size finished")
        for flops in sorted(by_size)
        if flops not in whole
    ]
    names = list(by_size[whole[0]][0]) if num_seeds else []
    found = {
        name: np.array([[seed[name] for seed in by_size[flops]] for flops in whole], dtype=float)
        for name in names
    }
    return np.array(whole), found, tuple(left_out)


def score_of(scores: dict[str, Array], task: str, metric: str, num_tokens: int) -> Array:
    """[sizes, seeds] of one metric of the first so many tokens of a task's answers."""
    if metric == EXACT:
        return scores[f"{task}/exact/{num_tokens}"]
    kind = "right" if metric == RIGHT else "nats"
    mean = np.mean([scores[f"{task}/{kind}/{place}"] for place in range(1, num_tokens + 1)], axis=0)
    return np.asarray(mean if metric == RIGHT else np.exp(-mean))


def judge_curve(flops: Array, scores: Array, task: str, metric: str, num_tokens: int) -> Curve:
    """Which family, and whether the curve jumps; the noise is learned from the scatter of seeds."""
    answer = curve_answer(
        np.repeat(flops, scores.shape[1]),
        scores.ravel(),
        kind="accuracy",
        metric=metric,
        families=applicable(scores),
        num_replicates=NUM_REPLICATES,
    )
    return Curve(
        task, metric, num_tokens, flops, scores, Judged(f"{task}, {num_tokens} tokens", metric, answer)
    )


# -------------------------------------------------------------------------------------- verdict


def judge_exact_match(evidence: Evidence, limits: tuple[str, ...] = ()) -> Verdict:
    """Count the jumps of exact match that stay jumps per token, by the rule of the plan.

    Args:
        evidence: with a plan and runs that `isoflop.measure.answers` scored.
        limits: the study's own, added to those of the method.

    Raises ValueError without a plan, or with fewer than five sizes of two seeds each.
    """
    plan = evidence.plan
    if plan is None:
        raise ValueError("exact match is judged on runs: give a plan")
    flops, scores, left_out = read_scores(evidence.runs)
    if len(flops) < 5 or next(iter(scores.values())).shape[1] < 2:
        raise ValueError(
            f"{len(flops)} sizes finished with all their seeds: a curve needs at least 5 sizes of 2 seeds; "
            "train the rest (isoflop run ... --resume)"
        )
    tasks = list(dict.fromkeys(name.split("/")[0] for name in scores))
    curves = {
        (task, metric, k): judge_curve(flops, score_of(scores, task, metric, k), task, metric, k)
        for task in tasks
        for k in TOKENS
        for metric in METRICS
    }
    main = _main_statement(curves, tasks)
    statements = (main, *(_task_statement(curves, task) for task in tasks))
    return Verdict(
        study=plan.study,
        claims=plan.claims,
        question=plan.question,
        outcome=main.outcome,
        sentence=_sentence(curves, tasks),
        statements=statements,
        effect=_effect(curves, tasks),
        settle=main.settle,
        unresolved=tuple(
            f"{curve.judged.name}, {metric}: whether it jumps"
            for (_, metric, _), curve in curves.items()
            if curve.judged.state("sudden") == "cannot tell"
        ),
        limits=(
            f"A jump is defined as: {SUDDEN}. Another definition may decide otherwise.",
            "One spread of seeds for a whole curve: where a task is being learned seeds differ more than at the ends.",
            "The curves of one task share their runs and are not independent; the counts carry no interval for that.",
            "A net sees the right tokens before each token of an answer; for exact match this is the same as decoding "
            "greedily, for the scores per token it is kinder.",
            *limits,
        ),
        tables=(
            _table(curves, tasks),
            _independence_table(flops, scores, tasks),
            panels_table(
                _panels(curves, tasks), "gallery", "Scores, and the curves that fit them", points=True
            ),
        ),
        figures=(_gallery(curves, tasks),),
        exclusions=left_out,
        plan_fingerprint=plan.fingerprint(),
        summary=_summary(curves, tasks),
    )


Curves = dict[tuple[str, str, int], Curve]


def jumps(curves: Curves, tasks: Sequence[str]) -> list[tuple[str, int]]:
    """(task, k) of the curves of exact match that jump."""
    return [(t, k) for t in tasks for k in TOKENS if curves[t, EXACT, k].judged.state("sudden") == "yes"]


def _stays(curves: Curves, where: Sequence[tuple[str, int]], metric: str) -> dict[str, int]:
    return counts([curves[task, metric, k].judged for task, k in where])


def _main_statement(curves: Curves, tasks: Sequence[str]) -> Statement:
    where = jumps(curves, tasks)
    found = _stays(curves, where, PROBABILITY)
    total = len(where)
    outcome: Outcome = "cannot tell"
    if total >= 2 and found["no"] > total / 2:
        outcome = "supported"
    elif total >= 2 and found["yes"] > total / 2:
        outcome = "contradicted"
    share = found["no"] / total if total else None
    return Statement(
        text="Most jumps of exact match are no jumps in the probability per token",
        outcome=outcome,
        because=f"{total} of {len(tasks) * len(TOKENS)} curves of exact match jump; of these, per token, "
        f"{found['no']} do not, {found['yes']} do, {found['cannot tell']} cannot be told",
        estimate=Estimate(
            value=share,
            unit="share of the jumps",
            reason="a count over curves that share runs" if total else "no curve of exact match jumps",
        ),
        settle="more sizes between those where a task is learned, and more seeds of them"
        if outcome == "cannot tell"
        else None,
    )


def _task_statement(curves: Curves, task: str) -> Statement:
    last = TOKENS[-1]
    states = [curves[task, metric, last].judged.state("sudden") for metric in METRICS]
    steep = [curves[task, metric, last].steepest for metric in METRICS]
    a, b = states[0], states[2]
    outcome: Outcome = "supported" if a == b == "yes" else "contradicted" if "no" in (a, b) else "cannot tell"
    told = "; ".join(
        f"{metric}: {state}, {e.value:.0%} of the change in the steepest tenth ({e.lo:.0%} to {e.hi:.0%})"
        for metric, state, e in zip(METRICS, states, steep, strict=True)
    )
    return Statement(
        text=f"{task}: the rise with size is a jump, in exact match of {last} tokens and per token",
        outcome=outcome,
        because=told,
        estimate=steep[0],
        settle="more sizes where it rises" if outcome == "cannot tell" else None,
    )


def _sentence(curves: Curves, tasks: Sequence[str]) -> str:
    where = jumps(curves, tasks)
    total = len(tasks) * len(TOKENS)
    if not where:
        open_ones = sum(
            curves[t, EXACT, k].judged.state("sudden") == "cannot tell" for t in tasks for k in TOKENS
        )
        return f"None of {total} curves of exact match is shown to jump ({open_ones} cannot be told)."
    right, likely = _stays(curves, where, RIGHT), _stays(curves, where, PROBABILITY)
    return (
        f"{len(where)} of {total} curves of exact match jump with size; {right['yes']} of them still jump as the share "
        f"of right tokens ({right['no']} do not), and {likely['yes']} as the probability per token ({likely['no']} do "
        "not); for the others these runs cannot tell."
    )


def _effect(curves: Curves, tasks: Sequence[str]) -> str:
    shares = {
        metric: [curves[t, metric, TOKENS[-1]].steepest.value or 0.0 for t in tasks] for metric in METRICS
    }
    return "change within the steepest tenth of log FLOPs, mean of the tasks: " + ", ".join(
        f"{metric} {float(np.mean(values)):.0%}" for metric, values in shares.items()
    )


def _summary(curves: Curves, tasks: Sequence[str]) -> dict[str, Any]:
    where = jumps(curves, tasks)
    return {
        "curves": len(tasks) * len(TOKENS),
        "jumps": {
            metric: counts([curves[t, metric, k].judged for t in tasks for k in TOKENS]) for metric in METRICS
        },
        "jumps_of_exact_match_that_stay": {m: _stays(curves, where, m) for m in (RIGHT, PROBABILITY)},
        "states": {
            f"{task}/{k}": {m: curves[task, m, k].judged.state("sudden") for m in METRICS}
            for task in tasks
            for k in TOKENS
        },
    }


# ------------------------------------------------------------------------------ tables and figures


def _table(curves: Curves, tasks: Sequence[str]) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for task in tasks:
        for k in TOKENS:
            for metric in METRICS:
                curve = curves[task, metric, k]
                best, steep = curve.judged.answer["families"][0], curve.steepest
                means = curve.scores.mean(axis=1)
                rows.append(
                    (
                        task, k, metric, float(means[0]), float(means[-1]), best["name"], best["weight"],
                        curve.judged.rivals, curve.judged.state("sudden"), steep.value, steep.lo, steep.hi,
                    )
                )  # fmt: skip
    return Table(
        name="curves",
        title="The same answers of the same nets, three scores",
        columns=(
            Column(name="task", title="task"),
            Column(name="tokens", title="tokens"),
            Column(name="metric", title="score"),
            Column(name="smallest", title="smallest net", format="{:.3f}"),
            Column(name="largest", title="largest net", format="{:.3f}"),
            Column(name="best", title="best family"),
            Column(name="weight", title="its weight", format="{:.2f}"),
            Column(name="rivals", title="others that remain"),
            Column(name="sudden", title="jump"),
            Column(name="steepest", title="change in the steepest tenth", format="{:.0%}"),
            Column(name="steepest_lo", title="from", format="{:.0%}"),
            Column(name="steepest_hi", title="to", format="{:.0%}"),
        ),
        rows=tuple(rows),
        note="Steepest tenth: of the range of log FLOPs, means over seeds joined by lines, no family assumed; a "
        "straight line has 10 %.",
    )


def _independence_table(flops: Array, scores: dict[str, Array], tasks: Sequence[str]) -> Table:
    """Exact match beside the product of its tokens' shares: what independent tokens would give."""
    last = TOKENS[-1]
    rows: list[tuple[Scalar, ...]] = []
    for task in tasks:
        exact = scores[f"{task}/exact/{last}"].mean(axis=1)
        each = np.prod([scores[f"{task}/right/{j}"] for j in range(1, last + 1)], axis=0).mean(axis=1)
        mean = score_of(scores, task, RIGHT, last).mean(axis=1)
        rows += [
            (task, f, e, p, m**last) for f, e, p, m in zip(flops.tolist(), exact, each, mean, strict=True)
        ]
    return Table(
        name="independence",
        title=f"Exact match of {last} tokens, and what independent tokens would give",
        columns=(
            Column(name="task", title="task"),
            Column(name="flops", title="training", unit="FLOPs", format="{:.2e}"),
            Column(name="exact", title="exact match", format="{:.3f}"),
            Column(name="product", title="product of the tokens' shares", format="{:.3f}"),
            Column(name="power", title="mean share to the power k", format="{:.3f}"),
        ),
        rows=tuple(tuple(float(v) if isinstance(v, np.floating) else v for v in row) for row in rows),
        note="Exact match above the product: errors fall together on the same problems.",
    )


def _panels(curves: Curves, tasks: Sequence[str]) -> list[tuple[str, Judged]]:
    last = TOKENS[-1]
    return [
        (f"{task}: {metric}", curves[task, metric, last].judged)
        for task in tasks
        for metric in (EXACT, PROBABILITY)
    ]


def _gallery(curves: Curves, tasks: Sequence[str]) -> Figure:
    return Figure(
        name="gallery",
        kind="panels",
        title="The same nets and answers: exact match and probability per token, on a linear and a log axis",
        caption="Left to right: exact match of six tokens and probability per token, each on a linear and on a "
        "logarithmic axis of training FLOPs. Points: runs. Thick: the best family; thin: others that remain. Shaded: "
        "where 90 % of new runs fall.",
        alt=_effect(curves, tasks),
        tables=("gallery",),
        options={"x_axes": "linear log", "per_row": 4, "x_title": "training FLOPs", "y_title": "score", "y_lo": 0.0,
                 "y_hi": 1.0},
    )  # fmt: skip
