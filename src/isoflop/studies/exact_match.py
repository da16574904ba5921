"""Do jumps of exact match, with size or with training, stay jumps when each token is scored?

Claim P22.1 once more, on a sweep of our own: nets of ten sizes learn four tasks whose answers have six
tokens, all on the same samples, and each is scored sixteen times on its way. Each answer is scored exactly
(its first k tokens all right), per token (share of the k tokens right) and continuously (the probability of a
token, geometric mean over the k). A jump is defined before looking: over half of the whole change falls
within a tenth of the range of log compute. Compute is that of nets of all sizes at the end of training, and
that along the training of the largest net.
Prediction: some curves of exact match jump; under the continuous score most of these do not.
Command: ``isoflop run exact_match``. Cost: minutes on two CPU cores; more budget buys longer training.
"""

from __future__ import annotations

from isoflop.judge.exact_match import judge_exact_match
from isoflop.plan.size_ladder import LadderRecipe, plan_size_ladder
from isoflop.records import DecisionRule, Evidence, NetSpec, Plan, PlanRequest, Verdict
from isoflop.refs import function_ref
from isoflop.studies.study import CorpusRequest, Study

QUESTION = "Do jumps of exact match, with size or with training, stay jumps when each token is scored?"
WIDTHS = (4, 6, 8, 12, 16, 20, 24, 32, 40, 48)
"""Of the residual stream, in steps of about 1.5 in compute."""
NUM_LAYERS = 2
CONTEXT = 60
"""Four problems of fifteen tokens."""

RULE = DecisionRule(
    text=(
        "Simple families are fitted to each curve of score against log training FLOPs: over the sizes at the end of "
        "training with all seeds at once, and along the training of each seed of the largest net. A curve jumps when "
        "the families in which over half of the whole change falls within a tenth of the range of log FLOPs hold 95 % "
        "of the weight, and a simulation of the same design would seldom say so wrongly; it does not when the others "
        "hold as much; else it cannot be told. Of the curves of exact match that jump (four tasks; over sizes the "
        "first two, four and all six tokens; along training all six), those that also jump in the probability per "
        "token stay. The statement is supported when more than half of the jumps are gone, contradicted when more "
        "than half stay; else, and with fewer than two jumps, it cannot be told."
    ),
    parameters={"half": 0.5, "weight": 0.95, "least_jumps": 2},
    statements=("Most jumps of exact match are no jumps in the probability per token.",),
)


def net(dim: int) -> NetSpec:
    """A Llama decoder of two layers of this width over bytes."""
    num_heads = max(1, dim // 16)
    while dim % num_heads or (dim // num_heads) % 2:
        num_heads -= 1
    return NetSpec(
        vocab_size=256,
        context=CONTEXT,
        dim=dim,
        num_layers=NUM_LAYERS,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=dim // num_heads,
        ffn_dim=8 * round(dim / 3),
        init_std=0.05,
    )


def peak_lr(spec: NetSpec) -> float:
    """A power of the width; see `recipe`."""
    return 0.010 * (48 / spec.dim) ** 0.5


def recipe() -> LadderRecipe:
    """What every ladder of this study fixes."""
    return LadderRecipe(
        nets=tuple(net(dim) for dim in WIDTHS),
        lengths=(500, 1000, 2000, 4000, 8000, 16000),
        peak_lr=peak_lr,
        lr_rule="0.010 x (48 / width)^0.5, at which nets of widths 8 to 32 learned some tasks in a pilot",
        objective=function_ref("isoflop.train.objectives:next_token"),
        score=function_ref("isoflop.measure.answers:score"),
        batch_seqs=8,
        num_windows=300,
        num_groups=25,
        num_scores=16,
    )


def plan(request: PlanRequest) -> Plan:
    """The longest training that the budget pays for, with the rule fixed beforehand."""
    return plan_size_ladder(
        request, recipe(), study=STUDY.name, claims=STUDY.claims, question=QUESTION, rule=RULE
    )


def judge(evidence: Evidence) -> Verdict:
    """Fit each curve under each score, and count the jumps that stay."""
    return judge_exact_match(
        evidence,
        limits=(
            "That errors are binomial was settled after a pilot of half as many steps, which then served no more.",
            "A rule, not a search for each size, set the learning rates; a size that it suits badly learns later.",
            "Four tasks that a rule makes, nets of less than a hundred thousand parameters, one length of training.",
        ),
    )


STUDY = Study(
    name="exact_match",
    claims=("P22.1",),
    question=QUESTION,
    prediction="Some curves of exact match jump; under the continuous score most of these do not.",
    cost="about 5 minutes on 2 CPU cores (2 to 60 minutes, as given)",
    plan=plan,
    judge=judge,
    default_budget="5min",
    corpus=CorpusRequest(source="digit-tasks", tokenizer="bytes"),
    calibration_nets=(net(4), net(12), net(24), net(48)),
)
