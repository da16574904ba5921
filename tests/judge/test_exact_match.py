"""Runs with planted abilities: a jump of exact match that is a line per token, and one that is a jump in both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from isoflop import records
from isoflop.judge import exact_match
from isoflop.judge.exact_match import EXACT, PROBABILITY, RIGHT, SIZES, Place, judge_exact_match, read_scores
from isoflop.plan.size_ladder import LadderRecipe, plan_size_ladder
from isoflop.records import (
    Attempt,
    Budget,
    Estimate,
    Evidence,
    Measurement,
    PlanRequest,
    Provenance,
    RunEvidence,
    RunRecord,
    RunSpec,
    Verdict,
)
from isoflop.refs import function_ref
from isoflop.studies.exact_match import QUESTION, RULE, net
from tests.plan.test_size_ladder import CORPUS

pytestmark = pytest.mark.slow

PLACES = 6


def recipe() -> LadderRecipe:
    return LadderRecipe(
        nets=tuple(net(dim) for dim in (4, 6, 8, 12, 16, 20, 24, 32, 40, 48)),
        lengths=(160,),
        seeds=(2,),
        peak_lr=lambda spec: 0.01,
        lr_rule="constant",
        objective=function_ref("isoflop.train.objectives:next_token"),
        score=function_ref("isoflop.measure.answers:score"),
        batch_seqs=8,
        num_scores=16,
    )


def abilities(depth: float, rng: np.random.Generator) -> dict[str, float]:
    """Per-token rate of each task at a depth from 0 to 1 of log FLOPs."""
    steep = 1 / (1 + np.exp(-60 * (depth - 0.5)))
    return {
        "line": float(np.clip(0.1 + 0.85 * depth + 0.004 * rng.normal(), 0.01, 0.99)),
        "jump": float(np.clip(0.05 + 0.9 * steep + 0.004 * rng.normal(), 0.01, 0.99)),
    }


def measurement(spec: RunSpec, step: int, depth: float, rng: np.random.Generator) -> Measurement:
    scores = {}
    for task, p in abilities(depth, rng).items():
        for k in range(1, PLACES + 1):
            for name, value in (("exact", p**k), ("right", p), ("nats", -np.log(p))):
                scores[f"{task}/{name}/{k}"] = Estimate(value=float(value), unit="share")
    mean = Estimate(value=1.0, unit="nats/token")
    return Measurement(
        run=spec.fingerprint(), name="answers", step=step, loss=mean, bits_per_byte=mean, group_nats=(1.0,),
        group_tokens=(2 * 6 * 300,), num_bytes=1, held_fixed="planted", scores=scores,
    )  # fmt: skip


def evidence(*, on_the_way: bool = True, fail: int | None = None) -> Evidence:
    plan = plan_size_ladder(
        PlanRequest(budget=Budget.parse("1e15 FLOPs"), corpus=CORPUS),
        recipe(), study="exact_match", claims=("P22.1",), question=QUESTION, rule=RULE,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    flops = np.log([run.spec.train_flops.flops for run in plan.runs])
    runs = []
    for number, planned in enumerate(plan.runs):
        spec = planned.spec
        depth = float((flops[number] - flops.min()) / np.ptp(flops))
        steps = range(10, 161, 10) if on_the_way else (160,)
        found = [
            measurement(spec, s, depth if s == 160 else float(np.log(s / 10) / np.log(16)), rng)
            for s in steps
        ]
        failed = number == fail
        record = RunRecord(
            fingerprint=planned.fingerprint, name=spec.name, status="diverged" if failed else "finished",
            reason="the loss was not finite at step 3" if failed else None, num_steps=160, tokens=spec.tokens,
            train_flops=spec.train_flops,
            attempts=(Attempt(started="", first_step=0, last_step=160, seconds=1.0, flops=1.0, ended="finished"),),
            provenance=Provenance(isoflop="0", python="3"),
        )  # fmt: skip
        runs.append(RunEvidence(spec=spec, record=record, measurements=() if failed else tuple(found)))
    return Evidence(plan=plan, runs=tuple(runs))


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    with pytest.MonkeyPatch.context() as patch:  # fewer curves and simulated studies: seconds, not a minute
        patch.setattr(exact_match, "TOKENS", (6,))
        patch.setattr(exact_match, "NUM_REPLICATES", 5)
        made = judge_exact_match(evidence(), limits=("Planted.",))
    return records.decode(records.encode(made), records.Verdict)


@pytest.mark.slow
def test_the_planted_jump_stays_and_the_planted_line_does_not(verdict: Verdict) -> None:
    states = verdict.summary["states"]
    assert states["sizes/jump/6"] == {EXACT: "yes", RIGHT: "yes", PROBABILITY: "yes"}
    assert states["sizes/line/6"][PROBABILITY] == "no"
    assert states["sizes/line/6"][RIGHT] == "no"
    wheres = ("sizes", "training, seed 0", "training, seed 1")
    assert set(states) == {f"{where}/{task}/6" for where in wheres for task in ("line", "jump")}
    total = verdict.summary["jumps_of_exact_match_that_stay"][PROBABILITY]
    assert sum(total.values()) == verdict.summary["jumps"][EXACT]["yes"]
    assert (
        verdict.outcome == verdict.statements[0].outcome == "contradicted"
    )  # what jumps here, jumps per token


@pytest.mark.slow
def test_tables_and_figures_fit_together(verdict: Verdict) -> None:
    names = {table.name for table in verdict.tables}
    assert all(set(figure.tables) <= names for figure in verdict.figures)
    assert all(len(row) == len(table.columns) for table in verdict.tables for row in table.rows)
    steepest = {
        (row[0], row[1], row[2], row[3]): row[10:13]
        for table in verdict.tables
        if table.name == "curves"
        for row in table.rows
    }
    value, lo, hi = steepest["sizes", "line", 6, PROBABILITY]
    # A line in log FLOPs: a tenth of it, more by the noise of 0.004 on steps of 0.09.
    assert value == pytest.approx(0.1, abs=0.03)
    assert lo <= hi
    assert steepest["training, seed 0", "jump", 6, EXACT][1:] == (None, None)


@pytest.mark.slow
def test_independent_tokens_give_the_product(verdict: Verdict) -> None:
    (table,) = (table for table in verdict.tables if table.name == "independence")
    for _, _, exact, product, power in table.rows:
        # The scores were planted as powers, so only the mean over two seeds comes between.
        assert exact == pytest.approx(product, rel=1e-9)
        assert power == pytest.approx(exact, abs=0.01)


def test_a_run_that_diverged_takes_its_size_out_with_a_reason() -> None:
    runs = evidence(on_the_way=False, fail=4).runs
    flops, scores, left_out = read_scores(runs)
    assert len(flops) == 9
    assert scores["jump/exact/6"].shape == (9, 2)
    assert [item.reason for item in left_out] == [
        "the loss was not finite at step 3",
        "not all seeds of this size finished",
    ]
    assert exact_match.read_training(runs) == {}


def test_too_few_sizes_are_refused() -> None:
    whole = evidence(on_the_way=False)
    few = msgspec.structs.replace(whole, runs=whole.runs[:6])
    with pytest.raises(ValueError, match="at least 5 sizes of 2 seeds"):
        judge_exact_match(few)
    with pytest.raises(ValueError, match="give a plan"):
        judge_exact_match(Evidence())


@pytest.mark.parametrize(
    ("exact", "likely", "outcome"),
    [
        (["yes", "yes", "yes"], ["no", "no", "yes"], "supported"),
        (["yes", "yes", "yes"], ["yes", "yes", "no"], "contradicted"),
        (["yes", "yes", "no"], ["no", "cannot tell", "no"], "cannot tell"),
        (["yes", "no", "no"], ["no", "no", "no"], "cannot tell"),
        (["no", "no", "cannot tell"], ["no", "no", "no"], "cannot tell"),
    ],
)
def test_the_rule_counts_jumps_of_exact_match_alone(
    exact: list[str], likely: list[str], outcome: str
) -> None:
    class Told(SimpleNamespace):
        def __init__(self, state: str) -> None:
            super().__init__(state=state, judged=SimpleNamespace(state=lambda question: state))

    curves: Any = {}
    for number, (a, b) in enumerate(zip(exact, likely, strict=True)):
        place = Place(SIZES, f"task {number}", 6)
        curves[place, EXACT], curves[place, PROBABILITY] = Told(a), Told(b)
    assert exact_match._main_statement(curves).outcome == outcome


def test_problems_are_counted_from_the_answer_tokens() -> None:
    assert exact_match.problems_of(evidence(on_the_way=False).runs) == 300
    with pytest.raises(ValueError, match="no run has a score"):
        exact_match.problems_of(())


def test_a_single_right_answer_is_no_jump() -> None:
    flops = np.geomspace(1e9, 1e11, 16)
    exact = {f"t/exact/{k}": np.array([[0.0]] * 15 + [[1 / 300]]) for k in range(1, 7)}
    found = exact_match.judge_curve(Place(SIZES, "t", 6), EXACT, flops, exact, 300)
    assert found.state != "yes"
    never = {name: np.zeros((16, 1)) for name in exact}
    assert exact_match.judge_curve(Place(SIZES, "t", 6), EXACT, flops, never, 300).state != "yes"
