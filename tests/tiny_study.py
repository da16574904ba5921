"""A sweep small enough for a test: two budgets, five sizes of a few thousand parameters, bytes of any text.

The corpus folder comes from the environment variable TINY_CORPUS, so that the file works as a user's own
study would: ``isoflop run tests/tiny_study.py``.
"""

import os

from isoflop.judge.isoflop import judge_isoflop
from isoflop.plan.isoflop_sweep import SweepRecipe, plan_isoflop_sweep
from isoflop.records import DecisionRule, Estimate, Evidence, NetSpec, Plan, PlanRequest, Verdict
from isoflop.refs import function_ref
from isoflop.studies.flatness import RULE
from isoflop.studies.study import CorpusRequest, Study


def net(dim: int) -> NetSpec:
    return NetSpec(
        vocab_size=256,
        context=16,
        dim=dim,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=dim,
        ffn_dim=2 * dim,
    )


NETS = tuple(net(dim) for dim in (4, 6, 8, 12, 16))


def recipe() -> SweepRecipe:
    return SweepRecipe(
        ladders=(NETS,),
        budgets=(3e7, 1e8),
        peak_lr=lambda spec: 0.02,
        lr_rule="constant",
        expected_optimum=lambda budget: 3_000 * (budget / 3e7) ** 0.5,
        expected_loss=lambda budget, size: Estimate(
            value=4.0, unit="nats/token", reason="no interval: a guess"
        ),
        objective=function_ref("isoflop.train.objectives:next_token"),
        score=function_ref("isoflop.measure.heldout:score"),
        reach_below=4.0,
        reach_above=4.0,
        min_steps=5,
        min_sizes=4,
        num_windows=64,
        max_epochs=50.0,
    )


def plan(request: PlanRequest) -> Plan:
    rule = DecisionRule(text=RULE.text, parameters=RULE.parameters, statements=RULE.statements)
    return plan_isoflop_sweep(
        request, recipe(), study="tiny", claims=(), question="Does the loop close?", rule=rule
    )


def judge(evidence: Evidence) -> Verdict:
    return judge_isoflop(evidence, limits=("A test, not a measurement.",))


STUDY = Study(
    name="tiny",
    claims=(),
    question="Does the loop close?",
    prediction="Yes.",
    cost="seconds",
    plan=plan,
    judge=judge,
    default_budget="2e9 FLOPs",
    corpus=CorpusRequest(source=os.environ.get("TINY_CORPUS", "stdlib"), tokenizer="bytes"),
    calibration_nets=(NETS[0], NETS[-1]),
)
