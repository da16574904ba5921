"""From runs of several sizes to a verdict: do jumps of exact match stay jumps when each token is scored?

Compute grows in two ways: over the sizes at the end of training, and along the training of the largest net.
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
LEAST_JUMPS = 2
"""With fewer jumps of exact match, most of them means nothing."""


SIZES = "sizes"
"""Where a curve is: over the sizes at the end, or along the training of one seed of the largest net."""


@dataclass(frozen=True, order=True)
class Place:
    """Which answers: of which nets, of which task, their first how many tokens."""

    where: str
    """`SIZES`, or "training, seed N"."""
    task: str
    num_tokens: int


@dataclass(frozen=True)
class Curve:
    """One place under one metric."""

    place: Place
    metric: str
    flops: Array
    """[points] ascending."""
    scores: Array
    """[points, seeds] in [0, 1]."""
    judged: Judged

    @property
    def state(self) -> str:
        """Whether it jumps: "yes", "no" or "cannot tell"."""
        return self.judged.state("sudden")

    @property
    def steepest(self) -> Estimate:
        """Share of the change within the steepest tenth of log FLOPs, from the means over seeds."""
        value, unit = steepest_tenth(self.flops, self.scores.mean(axis=1)), "share of the change"
        num_seeds = self.scores.shape[1]
        if num_seeds == 1:
            return Estimate(value=value, unit=unit, reason="one seed by itself shows no spread")
        draws = steepest_draws(self.flops, self.scores, NUM_RESAMPLES, seed=0)
        lo, hi = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
        return Estimate(value=value, unit=unit, lo=lo, hi=hi, method=f"resampled seeds ({num_seeds} a size)")


Curves = dict[tuple[Place, str], Curve]


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


def read_training(runs: Sequence[RunEvidence]) -> dict[str, tuple[Array, dict[str, Array]]]:
    """Along the training of the largest net: "training, seed N" -> FLOPs [scores] and scores [scores, 1].

    Empty for runs that were scored at their end alone, or less than six times.
    """
    largest = max(run.spec.train_flops.flops for run in runs)
    found: dict[str, tuple[Array, dict[str, Array]]] = {}
    for run in runs:
        if run.spec.train_flops.flops < largest or len(run.measurements) < 6:
            continue
        per_step = run.spec.train_flops.flops / run.spec.num_steps
        flops = np.array([measurement.step * per_step for measurement in run.measurements])
        names = run.measurements[0].scores
        scores = {name: np.array([[m.scores[name].value] for m in run.measurements], float) for name in names}
        found[f"training, seed {run.spec.seed}"] = (flops, scores)
    return found


def score_of(scores: dict[str, Array], task: str, metric: str, num_tokens: int) -> Array:
    """[sizes, seeds] of one metric of the first so many tokens of a task's answers."""
    if metric == EXACT:
        return scores[f"{task}/exact/{num_tokens}"]
    kind = "right" if metric == RIGHT else "nats"
    mean = np.mean([scores[f"{task}/{kind}/{place}"] for place in range(1, num_tokens + 1)], axis=0)
    return np.asarray(mean if metric == RIGHT else np.exp(-mean))


def problems_of(runs: Sequence[RunEvidence]) -> float:
    """Problems of each task behind a score, from the answer tokens that were scored: the tasks are mixed evenly.

    Raises ValueError when no run was scored.
    """
    for run in runs:
        for measurement in run.measurements:
            tasks = {name.split("/")[0] for name in measurement.scores}
            longest = max(int(name.rsplit("/", 1)[1]) for name in measurement.scores)
            return sum(measurement.group_tokens) / longest / len(tasks)
    raise ValueError("no run has a score: finish some first (isoflop run ... --resume)")


def judge_curve(
    place: Place, metric: str, flops: Array, scores: dict[str, Array], num_problems: float
) -> Curve:
    """Which family, and whether the curve jumps.

    The error of a score is binomial in the problems: right for exact match, and the most that the mean of
    numbers between 0 and 1 can have. It is widened where the scores scatter more about every family.
    """
    values = score_of(scores, place.task, metric, place.num_tokens)
    answer = curve_answer(
        np.repeat(flops, values.shape[1]),
        values.ravel(),
        kind="accuracy",
        metric=metric,
        num_items=num_problems,
        families=applicable(values),
        num_replicates=NUM_REPLICATES,
    )
    name = f"{place.task}, {place.num_tokens} tokens, {place.where}"
    return Curve(place, metric, flops, values, Judged(name, metric, answer))


def judge_curves(
    sizes: tuple[Array, dict[str, Array]],
    training: dict[str, tuple[Array, dict[str, Array]]],
    num_problems: float,
) -> Curves:
    """Every place under every metric."""
    tasks = list(dict.fromkeys(name.split("/")[0] for name in sizes[1]))
    groups = {SIZES: (*sizes, TOKENS), **{where: (*found, TOKENS[-1:]) for where, found in training.items()}}
    return {
        (place, metric): judge_curve(place, metric, flops, scores, num_problems)
        for where, (flops, scores, tokens) in groups.items()
        for task in tasks
        for k in tokens
        for place in (Place(where, task, k),)
        for metric in METRICS
    }


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
    curves = judge_curves((flops, scores), read_training(evidence.runs), problems_of(evidence.runs))
    main = _main_statement(curves)
    statements = (main, *_task_statements(curves))
    return Verdict(
        study=plan.study,
        claims=plan.claims,
        question=plan.question,
        outcome=main.outcome,
        sentence=_sentence(curves),
        statements=statements,
        effect=_effect(curves),
        settle=main.settle,
        unresolved=tuple(
            f"{curve.judged.name}, {metric}: whether it jumps"
            for (_, metric), curve in curves.items()
            if curve.state == "cannot tell"
        ),
        limits=(
            f"A jump is defined as: {SUDDEN}. Another definition may decide otherwise.",
            "Errors are binomial in the problems, all widened by one factor where seeds differ more; while a task is "
            "being learned they differ most.",
            "Along training the learning rate is constant until the last scores, which profit from its decay.",
            "The curves of one task share their runs and are not independent; the counts carry no interval for that.",
            "A net sees the right tokens before each token of an answer; for exact match this is the same as decoding "
            "greedily, for the scores per token it is kinder.",
            *limits,
        ),
        tables=(
            _table(curves),
            _independence_table(flops, scores),
            *(_panels(curves, where) for where in _wheres(curves)),
        ),
        figures=tuple(_gallery(curves, where) for where in _wheres(curves)),
        exclusions=left_out,
        plan_fingerprint=plan.fingerprint(),
        summary=_summary(curves),
    )


def places(curves: Curves) -> list[Place]:
    """Every place once, in order."""
    return list(dict.fromkeys(place for place, _ in curves))


def jumps(curves: Curves) -> list[Place]:
    """Where exact match jumps."""
    return [place for place in places(curves) if curves[place, EXACT].state == "yes"]


def _stays(curves: Curves, where: Sequence[Place], metric: str) -> dict[str, int]:
    return counts([curves[place, metric].judged for place in where])


def _main_statement(curves: Curves) -> Statement:
    where = jumps(curves)
    found = _stays(curves, where, PROBABILITY)
    total = len(where)
    outcome: Outcome = "cannot tell"
    if total >= LEAST_JUMPS and found["no"] > total / 2:
        outcome = "supported"
    elif total >= LEAST_JUMPS and found["yes"] > total / 2:
        outcome = "contradicted"
    return Statement(
        text="Most jumps of exact match are no jumps in the probability per token",
        outcome=outcome,
        because=f"{total} of {len(places(curves))} curves of exact match jump; of these, per token, {found['no']} do "
        f"not, {found['yes']} do, {found['cannot tell']} cannot be told",
        estimate=Estimate(
            value=found["no"] / total if total else None,
            unit="share of the jumps",
            reason="a count over curves that share runs" if total else "no curve of exact match jumps",
        ),
        settle="more sizes between those where a task is learned, more seeds of them, more scores on the way"
        if outcome == "cannot tell"
        else None,
    )


def _task_statements(curves: Curves) -> tuple[Statement, ...]:
    """Of all tokens of each task, over sizes and along training."""
    return tuple(
        _place_statement(curves, place) for place in places(curves) if place.num_tokens == TOKENS[-1]
    )


def _place_statement(curves: Curves, place: Place) -> Statement:
    found = [curves[place, metric] for metric in METRICS]
    a, b = found[0].state, found[2].state
    outcome: Outcome = "supported" if a == b == "yes" else "contradicted" if "no" in (a, b) else "cannot tell"
    told = "; ".join(
        f"{curve.metric}: {curve.state}, {_with_interval(curve.steepest)} of the change in the steepest tenth"
        for curve in found
    )
    return Statement(
        text=f"{place.task}, over {place.where}: the rise is a jump, in exact match and in probability per token",
        outcome=outcome,
        because=told,
        estimate=found[0].steepest,
        settle="more points where it rises" if outcome == "cannot tell" else None,
    )


def _with_interval(estimate: Estimate) -> str:
    if estimate.lo is None or estimate.hi is None:
        return f"{estimate.value:.0%}"
    return f"{estimate.value:.0%} ({estimate.lo:.0%} to {estimate.hi:.0%})"


def _sentence(curves: Curves) -> str:
    where, total = jumps(curves), len(places(curves))
    if not where:
        unknown = sum(curves[place, EXACT].state == "cannot tell" for place in places(curves))
        return f"None of {total} curves of exact match is shown to jump ({unknown} cannot be told)."
    right, likely = _stays(curves, where, RIGHT), _stays(curves, where, PROBABILITY)
    along = sum(place.where != SIZES for place in where)
    return (
        f"{len(where)} of {total} curves of exact match jump ({len(where) - along} over sizes, {along} in training). "
        f"Of these {right['yes']} still jump as the share of right tokens ({right['no']} do not), {likely['yes']} as "
        f"the probability per token ({likely['no']} do not); for the others these runs cannot tell."
    )


def _effect(curves: Curves) -> str:
    parts = []
    for metric in METRICS:
        values = [
            curves[p, metric].steepest.value or 0.0 for p in places(curves) if p.num_tokens == TOKENS[-1]
        ]
        parts.append(f"{metric} {float(np.mean(values)):.0%}")
    return "change within the steepest tenth of log FLOPs, mean of all curves: " + ", ".join(parts)


def _summary(curves: Curves) -> dict[str, Any]:
    where = jumps(curves)
    return {
        "curves": len(places(curves)),
        "jumps": {
            metric: counts([curves[place, metric].judged for place in places(curves)]) for metric in METRICS
        },
        "jumps_of_exact_match_that_stay": {m: _stays(curves, where, m) for m in (RIGHT, PROBABILITY)},
        "states": {
            f"{place.where}/{place.task}/{place.num_tokens}": {m: curves[place, m].state for m in METRICS}
            for place in places(curves)
        },
    }


# ------------------------------------------------------------------------------ tables and figures


def _table(curves: Curves) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for (place, metric), curve in curves.items():
        best, steep = curve.judged.answer["families"][0], curve.steepest
        means = curve.scores.mean(axis=1)
        rows.append(
            (
                place.where, place.task, place.num_tokens, metric, float(means[0]), float(means[-1]), best["name"],
                best["weight"], curve.judged.rivals, curve.state, steep.value, steep.lo, steep.hi,
            )
        )  # fmt: skip
    return Table(
        name="curves",
        title="The same answers of the same nets, three scores",
        columns=(
            Column(name="where", title="over"),
            Column(name="task", title="task"),
            Column(name="tokens", title="tokens"),
            Column(name="metric", title="score"),
            Column(name="smallest", title="least compute", format="{:.3f}"),
            Column(name="largest", title="most compute", format="{:.3f}"),
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


def _independence_table(flops: Array, scores: dict[str, Array]) -> Table:
    """Exact match beside the product of its tokens' shares: what independent tokens would give."""
    last = TOKENS[-1]
    rows: list[tuple[Scalar, ...]] = []
    for task in dict.fromkeys(name.split("/")[0] for name in scores):
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


def _wheres(curves: Curves) -> list[str]:
    return list(dict.fromkeys(place.where for place in places(curves)))


def _slug(where: str) -> str:
    return "gallery_" + "_".join(where.replace(",", "").split())


def _panels(curves: Curves, where: str) -> Table:
    shown = [
        (f"{place.task}: {metric}", curves[place, metric].judged)
        for place in places(curves)
        if place.where == where and place.num_tokens == TOKENS[-1]
        for metric in (EXACT, PROBABILITY)
    ]
    return panels_table(
        shown, _slug(where), f"Scores over {where}, and the curves that fit them", points=True
    )


def _gallery(curves: Curves, where: str) -> Figure:
    own = {m: counts([c.judged for (p, metric), c in curves.items() if p.where == where and metric == m])
           for m in (EXACT, PROBABILITY)}  # fmt: skip
    words = "; ".join(
        f"{m}: {c['yes']} jump, {c['no']} do not, {c['cannot tell']} cannot be told" for m, c in own.items()
    )
    return Figure(
        name=_slug(where),
        kind="panels",
        title=f"The same answers, exact match and probability per token, over {where}",
        caption=f"Left to right: exact match of {TOKENS[-1]} tokens and probability per token, each on a linear and a "
        "logarithmic axis of training FLOPs. Points: runs. Thick: the best family; thin: others that remain. Shaded: "
        "where new scores fall.",
        alt=words,
        tables=(_slug(where),),
        options={"x_axes": "linear log", "per_row": 4, "x_title": "training FLOPs", "y_title": "score", "y_lo": 0.0,
                 "y_hi": 1.0, "x_text": "flops"},
    )  # fmt: skip
