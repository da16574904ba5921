"""The verdict on a large run: paired differences, MFU by its formula, losses in bins, runs that failed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from isoflop.judge.training_run import (
    TrainingRunError,
    judge_training_run,
    paired_difference,
)
from isoflop.records import (
    Attempt,
    Budget,
    DataSpec,
    DecisionRule,
    Estimate,
    Evidence,
    Exclusion,
    FlopCount,
    Measurement,
    NetSpec,
    OptimizerSpec,
    Plan,
    PlannedRun,
    Provenance,
    RunEvidence,
    RunRecord,
    RunSpec,
    ScheduleSpec,
    SourceScores,
    Verdict,
)
from isoflop.refs import function_ref

STEPS, BATCH, CONTEXT, FLOPS = 200, 4, 64, 3e12
TOKENS_PER_STEP = BATCH * CONTEXT
GROUPS, BYTES = 16, 4096
MADE = Provenance(isoflop="0", python="3")


def spec_of(num_steps: int = STEPS) -> RunSpec:
    return RunSpec(
        name="planted",
        net=NetSpec(
            vocab_size=64,
            context=CONTEXT,
            dim=8,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=8,
            ffn_dim=8,
        ),
        data=DataSpec(sources=(), context=CONTEXT, order_seed=0),
        objective=function_ref("isoflop.train.objectives:next_token"),
        optimizer=OptimizerSpec(peak_lr=0.01),
        schedule=ScheduleSpec(kind="constant", warmup_steps=0, num_steps=num_steps),
        evaluate=None,
        batch_seqs=BATCH,
        num_steps=num_steps,
        seed=0,
        train_flops=FlopCount(flops=FLOPS, convention="matmul-full"),
    )


def score(name: str, step: int, nats: np.ndarray) -> Measurement:
    """A measurement whose groups have equal tokens."""
    undefined = Estimate(value=float(nats.mean()), unit="nats/token", reason="planted")
    bits = float(nats.mean()) * GROUPS * 100 / (BYTES * math.log(2))
    return Measurement(
        run="r",
        name=name,
        step=step,
        loss=undefined,
        bits_per_byte=Estimate(value=bits, unit="bits/byte", reason="planted"),
        group_nats=tuple(nats.tolist()),
        group_tokens=(100,) * len(nats),
        num_bytes=BYTES,
        held_fixed="",
    )


def rows(seconds_per_step: float = 0.5) -> tuple[dict[str, Any], ...]:
    """Two updates a row; the loss is the number of the row."""
    return tuple(
        {
            "step": 2 * number,
            "loss_nats": float(number),
            "lr": 0.01,
            "grad_norm": 1.0,
            "seconds": 2 * number * seconds_per_step,
        }
        for number in range(1, STEPS // 2 + 1)
    )


def judged(changes: dict[str, float], *, status: str = "finished", **options: Any) -> Verdict:
    """The verdict on a run after which each source's loss has changed by so much, give or take 0.1."""
    dice, spec = np.random.default_rng(0), spec_of()
    before = {name: 5 + dice.normal(0, 1, GROUPS) for name in changes}
    after = {name: before[name] + change + dice.normal(0, 0.1, GROUPS) for name, change in changes.items()}
    attempts = (
        Attempt(
            started="",
            first_step=0,
            last_step=90,
            seconds=50.0,
            flops=2e12,
            flops_wasted=5e11,
            ended="killed",
        ),
        Attempt(started="", first_step=60, last_step=STEPS, seconds=70.0, flops=1.5e12, ended="finished"),
    )
    record = RunRecord(
        fingerprint=spec.fingerprint(),
        name="planted",
        status=status,  # type: ignore[arg-type]
        reason=None if status == "finished" else "the loss was not finite at step 7",
        num_steps=STEPS,
        tokens=STEPS * TOKENS_PER_STEP,
        train_flops=spec.train_flops,
        attempts=attempts,
        provenance=MADE,
    )
    plan = Plan(
        study="planted",
        question="?",
        budget=Budget(amount=FLOPS, unit="flops", convention="matmul-full"),
        planned_flops=spec.train_flops,
        runs=(PlannedRun(spec=spec, fingerprint=spec.fingerprint(), why="", cost_flops=FLOPS),),
        rule=DecisionRule(text="", parameters={"level": 0.95}),
        seeds=(0,),
        options={"num_devices": 2, "peak_flops_per_s": 1e10, **options},
    )
    scores = tuple(
        SourceScores(
            step=step,
            scores=tuple(score(name, step, nats[name]) for name in changes),
            without=(Exclusion(what="bare", reason="0 held-out tokens"),),
            peak_memory_bytes=10**9,
            matmul_flops_per_s=2e10,
        )
        for step, nats in ((0, before), (STEPS, after))
    )
    run = RunEvidence(spec=spec, record=record, metrics=rows(), source_scores=scores)
    return judge_training_run(Evidence(plan=plan, runs=(run,)))


def facts(verdict: Verdict) -> dict[str, tuple[Any, ...]]:
    (table,) = [table for table in verdict.tables if table.name == "run_facts"]
    return {str(row[0]): row[1:] for row in table.rows}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"a": -1.0, "b": -0.5}, "supported"),
        ({"a": -1.0, "b": 0.5}, "contradicted"),
        # 0.1 / sqrt(16) = 0.025 is the error of the mean: 0.01 is nothing.
        ({"a": -1.0, "b": -0.01}, "cannot tell"),
    ],
)
def test_the_outcome_follows_the_sources(changes: dict[str, float], outcome: str) -> None:
    verdict = judged(changes)
    assert verdict.outcome == outcome
    to_bits = GROUPS * 100 / (BYTES * math.log(2))
    for statement, change in zip(verdict.statements, changes.values(), strict=True):
        assert statement.estimate is not None
        assert statement.estimate.level == 0.975  # two sources share 0.05
        # Planted differences scatter by 0.025 nats; four of these errors.
        assert statement.estimate.value == pytest.approx(change * to_bits, abs=0.1 * to_bits)


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    dice, hits, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        before = 5 + dice.normal(0, 1, GROUPS)
        after = before - 0.3 + dice.normal(0, 0.2, GROUPS)
        found = paired_difference(score("a", 0, before), score("a", 9, after), 0.9)
        assert found.lo is not None
        assert found.hi is not None
        hits += found.lo <= -0.3 * GROUPS * 100 / (BYTES * math.log(2)) <= found.hi
    # Binomial with p = 0.9: standard deviation 0.015; four of them.
    assert hits / trials == pytest.approx(0.9, abs=0.06)


def test_different_windows_are_not_compared() -> None:
    one = score("a", 0, np.ones(GROUPS))
    with pytest.raises(TrainingRunError, match="different windows"):
        paired_difference(one, score("a", 9, np.ones(GROUPS - 1)), 0.95)


def test_mfu_is_the_formula_beside_it() -> None:
    found = facts(judged({"a": -1.0}))
    rate = TOKENS_PER_STEP / 0.5
    per_token = FLOPS / (STEPS * TOKENS_PER_STEP)
    assert found["throughput"][0] == f"{rate:,.0f} tokens/s"
    assert found["MFU"][0] == f"{rate * per_token / (2 * 1e10):.1%}"
    assert "devices x dense peak" in found["MFU"][1]


def test_without_a_listed_peak_a_measured_product_is_the_measure() -> None:
    verdict = judged({"a": -1.0}, peak_flops_per_s=None)
    assert "measured" not in str(verdict.limits)
    assert facts(verdict)["peak of one device"][0] == "20 GFLOP/s"
    assert verdict.summary["mfu"] == pytest.approx(judged({"a": -1.0}).summary["mfu"] / 2)


def test_attempts_and_waste_are_told() -> None:
    found = facts(judged({"a": -1.0}))
    assert found["attempts"] == ("2", "killed at step 90, finished at step 200")
    assert found["FLOPs wasted"][0].startswith("5e11")
    assert found["FLOPs of all steps that count"][0].startswith("3e12")


def test_losses_are_means_of_their_updates() -> None:
    (table,) = [table for table in judged({"a": -1.0}).tables if table.name == "loss_bins"]
    fine = [row for row in table.rows if row[5] == "line"]
    coarse = [row for row in table.rows if row[5] == "points"]
    assert (len(fine), len(coarse)) == (20, 10)
    # Row n holds updates 2n - 1 and 2n and the loss n: ten updates are five rows.
    assert [row[1:3] for row in fine[:2]] == [(5.5, 3.0), (15.5, 8.0)]
    assert [row[1:3] for row in coarse[:2]] == [(10.5, 5.5), (30.5, 15.5)]


def test_a_run_that_diverged_says_so_and_decides_nothing() -> None:
    verdict = judged({"a": -1.0}, status="diverged")
    assert verdict.outcome == "cannot tell"
    assert "diverged: the loss was not finite at step 7" in verdict.sentence


def test_sources_without_held_out_text_are_listed() -> None:
    (left,) = judged({"a": -1.0}).exclusions
    assert (left.what, left.reason) == ("bare", "not scored: 0 held-out tokens")


def test_a_run_that_goes_on_is_not_judged() -> None:
    plan = Plan(
        study="s",
        question="",
        budget=Budget(amount=1, unit="flops"),
        planned_flops=FlopCount(flops=1, convention="matmul-full"),
        runs=(),
        rule=DecisionRule(text=""),
        seeds=(),
        rerun="isoflop train x",
    )
    open_run = RunEvidence(spec=spec_of(), record=None)
    with pytest.raises(TrainingRunError, match="go on with isoflop train x"):
        judge_training_run(Evidence(plan=plan, runs=(open_run,)))
    with pytest.raises(TrainingRunError, match="train the recipe first"):
        judge_training_run(Evidence(plan=plan))
