"""Nets of many sizes on the same samples: how a score grows with size, and nothing else.

Every net sees the same training samples in the same order for the same number of steps, so that compute
grows with size alone. Leaves out equal compute (`isoflop.plan.isoflop_sweep`), training and judging.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isoflop import units
from isoflop.flops.count import parameters, train_flops_per_token
from isoflop.plan.isoflop_sweep import CONVENTION, PlanError, run_seconds, wall_seconds
from isoflop.records import (
    Calibration,
    CorpusRecord,
    DataSource,
    DataSpec,
    DecisionRule,
    EvalSpec,
    FlopCount,
    FunctionRef,
    NetSpec,
    OptimizerSpec,
    Plan,
    PlannedRun,
    PlanRequest,
    RunSpec,
    ScheduleSpec,
)


@dataclass(frozen=True, kw_only=True)
class LadderRecipe:
    """What a study fixes for all its ladders, whatever the budget.

    Attributes:
        nets: smallest first, equal in vocabulary and context.
        lengths: numbers of steps to choose from, ascending.
        seeds: numbers of seeds to choose from, the preferred one first.
        peak_lr: learning rate of a net; `lr_rule` says it in words.
        objective, score: functions that every run needs.
        batch_seqs: sequences per step.
        cooldown: share of the steps in the linear cooldown at the end, in (0, 1).
        max_epochs: largest number of passes over the corpus.
        num_windows, num_groups: validation windows per score, and groups of them.
        num_scores: scores along each run, at equal distances, the last one at its end.
    """

    nets: tuple[NetSpec, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...] = (3, 2)
    peak_lr: Callable[[NetSpec], float]
    lr_rule: str
    objective: FunctionRef
    score: FunctionRef
    batch_seqs: int
    cooldown: float = 0.3
    max_epochs: float = 4.0
    num_windows: int = 512
    num_groups: int = 32
    num_scores: int = 1


def plan_size_ladder(
    request: PlanRequest,
    recipe: LadderRecipe,
    *,
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
    reserve_s: float = 30.0,
    use: float = 0.9,
) -> Plan:
    """The longest ladder that the budget pays for, with the preferred number of seeds when that fits too.

    Args:
        request: budget in FLOPs or seconds, corpus, and for a budget in seconds the calibration.
        recipe: what the study fixes.
        study, claims, question, rule: copied into the plan.
        reserve_s: seconds of a time budget kept for preparing, judging and reporting.
        use: share of the rest that is planned, so that a slow moment does not cut the ladder.

    Raises:
        PlanError: the budget is too small (the message names the smallest that works), the corpus is too
            small, or a budget in this unit cannot be planned.
    """
    if request.corpus is None:
        raise PlanError(f"{study} trains on text: prepare a corpus first (isoflop data prepare)")
    if request.seeds is not None and request.seeds < 2:
        raise PlanError(f"--seeds {request.seeds}: a ladder needs at least 2, to see the noise")
    needs = ""
    for num_steps in reversed(recipe.lengths):
        if _epochs(recipe, num_steps, request.corpus) > recipe.max_epochs:
            continue
        for num_seeds in recipe.seeds if request.seeds is None else (request.seeds,):
            runs = design_runs(recipe, num_steps, num_seeds, request.corpus, request.calibration)
            fits, needs = _fits(request, runs, reserve_s, use)
            if fits:
                return _plan(request, recipe, num_steps, num_seeds, runs, study, claims, question, rule)
    if not needs:
        raise PlanError(
            f"the corpus is too small: {recipe.lengths[0]} steps would go through it "
            f"{_epochs(recipe, recipe.lengths[0], request.corpus):.1f} times, and the limit is {recipe.max_epochs:g}"
        )
    raise PlanError(
        f"a budget of {request.budget.text!r} is too small for {study}: the smallest that works is {needs}"
    )


def design_runs(
    recipe: LadderRecipe,
    num_steps: int,
    num_seeds: int,
    corpus: CorpusRecord,
    calibration: Calibration | None,
) -> tuple[PlannedRun, ...]:
    """Every run of a ladder, by size and then by seed. A seed fixes the weights and the order of the samples."""
    runs = []
    for net in recipe.nets:
        for seed in range(num_seeds):
            spec = _spec(recipe, net, num_steps, seed, corpus)
            runs.append(
                PlannedRun(
                    spec=spec,
                    fingerprint=spec.fingerprint(),
                    why=f"the score at {units.format_flops(spec.train_flops.flops)}",
                    cost_flops=spec.own_flops,
                    cost_seconds=None if calibration is None else run_seconds(spec, calibration),
                )
            )
    return tuple(runs)


def _spec(recipe: LadderRecipe, net: NetSpec, num_steps: int, seed: int, corpus: CorpusRecord) -> RunSpec:
    counts = parameters(net)
    flops_per_step = train_flops_per_token(net, CONVENTION) * recipe.batch_seqs * net.context
    source = DataSource(
        source=corpus.source,
        corpus_sha256=corpus.corpus_sha256,
        tokenizer=corpus.tokenizer,
        tokenizer_sha256=corpus.tokenizer_sha256,
    )
    return RunSpec(
        name=f"{net.words} {num_steps} steps seed {seed}",
        net=net,
        data=DataSpec(sources=(source,), context=net.context, order_seed=seed),
        objective=recipe.objective,
        optimizer=OptimizerSpec(peak_lr=recipe.peak_lr(net)),
        schedule=ScheduleSpec(
            kind="wsd",
            warmup_steps=_warmup(num_steps),
            num_steps=num_steps,
            decay_start_step=round(num_steps * (1 - recipe.cooldown)),
        ),
        evaluate=EvalSpec(
            function=recipe.score,
            num_windows=recipe.num_windows,
            num_groups=recipe.num_groups,
            every_steps=num_steps // recipe.num_scores if recipe.num_scores > 1 else None,
        ),
        batch_seqs=recipe.batch_seqs,
        num_steps=num_steps,
        seed=seed,
        train_flops=FlopCount(flops=flops_per_step * num_steps, convention=CONVENTION),
        labels={
            "size": net.words,
            "seed": seed,
            "N_nonembedding": counts.nonembedding,
            "N_all": counts.total,
            "role": "point",
        },
    )


def _warmup(num_steps: int) -> int:
    """A tenth of the steps, at most a hundred."""
    return max(1, min(num_steps // 10, 100))


def _epochs(recipe: LadderRecipe, num_steps: int, corpus: CorpusRecord) -> float:
    return num_steps * recipe.batch_seqs * recipe.nets[0].context / corpus.train_tokens


def _fits(request: PlanRequest, runs: Sequence[PlannedRun], reserve_s: float, use: float) -> tuple[bool, str]:
    """Whether the budget pays for these runs, and the budget that would."""
    budget = request.budget
    if budget.unit == "flops":
        flops = sum(run.cost_flops for run in runs)
        return flops <= budget.amount, f"{flops * 1.005:.2e} FLOPs"
    if budget.unit == "seconds":
        if request.calibration is None:
            raise PlanError(
                "a budget in time needs this machine's speed: install isoflop[train], or give FLOPs"
            )
        needed = wall_seconds(runs, request.calibration)
        return needed <= (budget.amount - reserve_s) * use, f"{math.ceil(needed / use + reserve_s)}s"
    raise PlanError(f"a ladder on this machine takes a budget in FLOPs or in time, not {budget.text!r}")


def _plan(
    request: PlanRequest,
    recipe: LadderRecipe,
    num_steps: int,
    num_seeds: int,
    runs: tuple[PlannedRun, ...],
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
) -> Plan:
    assert request.corpus is not None
    first = recipe.nets[0]
    epochs = _epochs(recipe, num_steps, request.corpus)
    return Plan(
        study=study,
        claims=claims,
        question=question,
        budget=request.budget,
        planned_flops=FlopCount(flops=sum(run.cost_flops for run in runs), convention=CONVENTION),
        planned_seconds=None if request.calibration is None else wall_seconds(runs, request.calibration),
        runs=runs,
        rule=rule,
        seeds=tuple(range(num_seeds)),
        corpus=request.corpus,
        calibration=request.calibration,
        assumptions=(
            f"Learning rate by a rule, not by a search per size: {recipe.lr_rule}.",
            f"{num_steps} steps of {recipe.batch_seqs} sequences of {first.context} tokens for every size "
            f"({epochs:.2f} passes over the corpus); not tuned.",
            "AdamW with betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped at 1; not tuned.",
            f"Warm-up over {_warmup(num_steps)} steps, the last {recipe.cooldown:.0%} a linear cooldown to zero.",
            f"Weights drawn with standard deviation {first.init_std:g} at every size; not tuned per size.",
            "FLOPs count every matrix product with the output head, and attention at its causal share "
            "(matmul-causal).",
        ),
        options={"num_steps": num_steps, "num_sizes": len(recipe.nets)},
    )
