"""What does re-warming the learning rate cost in old skill, what does it buy in new, and what does replay change?

Claim P2.1: in continued pretraining the re-warmed peak learning rate trades learning the new data against
forgetting the old, with a sweet spot between no movement and a jump in loss. (The post's run took a tenth of
a usual pretraining peak after the whole of it had given "a pretty big jump in the loss"; in hindsight it
would have taken about twice as much.)
Prediction before the first run: the trade-off holds; replay of a quarter removes most of the forgetting and
costs little of the new; with replay the best peak for the sum of both losses lies above a tenth.
Command: ``isoflop run rewarming``. Cost: minutes on two CPU cores. The old text is the code of Python's
standard library; the new one is its docstrings, or novels and textbooks when the optional data are there.
"""

from __future__ import annotations

import msgspec

from isoflop.judge.rewarming import judge_rewarming
from isoflop.plan.rewarming import PairedNoise, RewarmingDesign, plan_rewarming
from isoflop.records import DecisionRule, Evidence, NetSpec, Plan, PlanRequest, Verdict
from isoflop.refs import function_ref
from isoflop.studies.study import CorpusRequest, Study

QUESTION = "Does the re-warmed peak learning rate trade learning new text against forgetting the old?"
PEAK_RATIOS = (0.1, 0.2, 0.5, 1.0, 3.0)
"""0.1 and 0.2 stand for what the post took and would take, 1 for what it gave up at once."""
REPLAYS = (0.0, 0.05, 0.25, 0.5)

NOISE = PairedNoise(
    sd=0.042,
    correlation=0.24,
    source="a pilot of three other seeds at width 32, 1,000 and 240 steps, two peaks and two replay fractions: mean of "
    "old and new loss at the end",
)

RULE = DecisionRule(
    text=(
        "Loss is held-out nats per token (here a byte) on fixed windows: of the old text, and of the new texts in "
        "equal shares. A branch's rise is the highest old loss on its way minus the trunk's; forgetting is its old "
        "loss at the end minus the trunk's. Contrasts are taken seed by seed among branches of one trunk, averaged "
        "over replay fractions unless one is named, and get Student's t interval over seeds at the level below. A "
        "statement is supported when its interval lies wholly on its side of the threshold, contradicted when wholly "
        "on the other, else it cannot be told. The sweet spot asks for the lowest mean of old and new loss away from "
        "both ends of the peaks: the peak is the one that is best on the mean of all seeds, and it must beat the "
        "lowest and the highest peak, each at half the error (Bonferroni). The verdict is that of the first three "
        "statements together: contradicted when one is, supported when all are, else it cannot be told."
    ),
    parameters={
        "level": 0.95,
        "posted_ratio": 0.1,
        "hindsight_ratio": 0.2,
        "full_ratio": 1.0,
        "replay": 0.25,
        "removed_share": 0.5,
    },
    statements=(
        "Re-warmed to the trunk's own peak, the old loss rises higher on its way than at a tenth of it.",
        "Re-warmed to the trunk's own peak, the new text is learnt better than at a tenth of it.",
        "There is a sweet spot: the mean of old and new loss is lowest at a peak between the ends.",
        "Twice the posted tenth gives a lower mean of old and new loss.",
        "A quarter of replay removes more than half of the forgetting at the trunk's own peak.",
    ),
)


def net(dim: int, num_layers: int = 2) -> NetSpec:
    """A Llama decoder on bytes, context 128."""
    return NetSpec(
        vocab_size=256,
        context=128,
        dim=dim,
        num_layers=num_layers,
        num_heads=dim // 16,
        num_kv_heads=dim // 16,
        head_dim=16,
        ffn_dim=8 * round(dim / 3),
        init_std=0.05,
    )


def _design(dim: int, trunk_steps: int, branch_steps: int, num_seeds: int) -> RewarmingDesign:
    return RewarmingDesign(
        net=net(dim),
        trunk_peak_lr=round(0.010 * (48 / dim) ** 0.75, 4),
        trunk_steps=trunk_steps,
        branch_steps=branch_steps,
        peak_ratios=PEAK_RATIOS,
        replays=REPLAYS,
        num_seeds=num_seeds,
    )


DESIGNS = (
    _design(96, 12000, 1200, 5),
    _design(64, 6000, 600, 5),
    _design(64, 4000, 400, 4),
    _design(48, 3000, 300, 4),
    _design(48, 2400, 240, 3),
    _design(32, 2000, 240, 4),
    _design(32, 1000, 140, 4),
    _design(16, 600, 100, 3),
)
"""Largest first."""


def plan(request: PlanRequest) -> Plan:
    """The largest design that the budget pays for; new text is the docstrings when no other is there."""
    return plan_rewarming(
        msgspec.structs.replace(request, more_text=request.more_text[1:] or request.more_text),
        DESIGNS,
        NOISE,
        objective=function_ref("isoflop.train.objectives:next_token"),
        score=function_ref("isoflop.measure.heldout:score"),
        study=STUDY.name,
        claims=STUDY.claims,
        question=QUESTION,
        rule=RULE,
    )


def judge(evidence: Evidence) -> Verdict:
    """Contrasts over seeds against the thresholds of the rule, and the Pareto front."""
    return judge_rewarming(
        evidence,
        limits=(
            "Models of tens of thousands of parameters, far from converged on the old text: replay still teaches "
            "them, which a large model's replay may not.",
            "Bytes of program code against prose: a stronger shift than from one web corpus to the next, so that "
            "forgetting is larger than in the post's run.",
            "One length of the continuation: the best peak falls as it grows.",
        ),
    )


STUDY = Study(
    name="rewarming",
    claims=("P2.1",),
    question=QUESTION,
    prediction="The trade-off holds; a quarter of replay removes most forgetting; with replay the best peak is above "
    "a tenth of the trunk's.",
    cost="about 7 minutes on 2 CPU cores (1 to 60 minutes, as given)",
    plan=plan,
    judge=judge,
    default_budget="7min",
    corpus=CorpusRequest(source="stdlib:code", tokenizer="bytes"),
    more_text=(
        CorpusRequest(source="stdlib:prose", tokenizer="bytes"),
        CorpusRequest(source="shared-data/corpus/novels.*", tokenizer="bytes", optional=True),
        CorpusRequest(source="shared-data/corpus/textbooks.*", tokenizer="bytes", optional=True),
    ),
    calibration_nets=(net(16), net(32), net(64)),
)
