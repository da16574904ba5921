"""Ladders: every size on the same samples, the longest that the budget pays for, errors with a remedy."""

from __future__ import annotations

import dataclasses

import pytest

from isoflop.flops.count import train_flops_per_token
from isoflop.plan.isoflop_sweep import PlanError
from isoflop.plan.size_ladder import plan_size_ladder
from isoflop.records import Budget, CorpusRecord, Plan, PlanRequest
from isoflop.studies.exact_match import QUESTION, RULE, STUDY, recipe

CORPUS = CorpusRecord(
    source="digit-tasks",
    corpus_sha256="c0" * 32,
    tokenizer="bytes",
    tokenizer_sha256="70" * 32,
    vocab_size=256,
    num_train_files=1,
    num_val_files=1,
    train_bytes=2_400_000,
    val_bytes=61_500,
    train_tokens=2_400_001,
    val_tokens=61_501,
    split_rule="by name",
)


def plan(budget: str, seeds: int | None = None, corpus: CorpusRecord | None = CORPUS) -> Plan:
    request = PlanRequest(budget=Budget.parse(budget), seeds=seeds, corpus=corpus)
    return plan_size_ladder(request, recipe(), study="exact_match", claims=(), question=QUESTION, rule=RULE)


def test_all_sizes_see_the_same_samples_and_the_budget_is_kept() -> None:
    made = plan("8.3e12 FLOPs")
    assert made.options["num_steps"] == 4000
    assert made.seeds == (0, 1, 2)
    assert len(made.runs) == 3 * len(recipe().nets)
    assert len({run.fingerprint for run in made.runs}) == len(made.runs)
    assert {(run.spec.num_steps, run.spec.batch_seqs) for run in made.runs} == {(4000, 8)}
    for run in made.runs:
        per_token = train_flops_per_token(run.spec.net, "matmul-causal")
        assert run.spec.train_flops.flops == pytest.approx(per_token * run.spec.tokens, rel=1e-12)
        assert run.spec.data.order_seed == run.spec.seed
    assert made.planned_flops.flops == pytest.approx(sum(run.cost_flops for run in made.runs))
    assert made.planned_flops.flops <= 8.3e12


def test_the_longest_training_comes_before_a_third_seed() -> None:
    made = plan("6e12 FLOPs")
    assert (made.options["num_steps"], len(made.seeds)) == (4000, 2)
    assert plan("6e12 FLOPs", seeds=3).options["num_steps"] == 2000


def test_what_cannot_be_planned_is_said() -> None:
    with pytest.raises(
        PlanError, match=r"too small for exact_match: the smallest that works is 6\.\d+e\+11 FLOPs"
    ):
        plan("1e9 FLOPs")
    with pytest.raises(PlanError, match="needs at least 2"):
        plan("1e13 FLOPs", seeds=1)
    with pytest.raises(PlanError, match="prepare a corpus first"):
        plan("1e13 FLOPs", corpus=None)
    with pytest.raises(PlanError, match="machine's speed"):
        plan("5min")
    tight = dataclasses.replace(recipe(), max_epochs=0.01)
    request = PlanRequest(budget=Budget.parse("1e13 FLOPs"), corpus=CORPUS)
    with pytest.raises(PlanError, match="the corpus is too small"):
        plan_size_ladder(request, tight, study="exact_match", claims=(), question=QUESTION, rule=RULE)


def test_the_smallest_budget_named_does_work() -> None:
    with pytest.raises(PlanError) as refused:
        plan("1e9 FLOPs")
    named = str(refused.value).rsplit("is ", 1)[1]
    assert plan(named).options["num_steps"] == recipe().lengths[0]


def test_windows_hold_whole_problems() -> None:
    from isoflop.data.digit_tasks import LINE_TOKENS

    assert {net.context % LINE_TOKENS for net in recipe().nets} == {0}
    assert STUDY.corpus is not None
