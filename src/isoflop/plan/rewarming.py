"""Continued pretraining, planned: one trunk per seed, and a branch for each re-warmed peak and replay fraction.

A trunk is trained on the old text and its learning rate taken down to zero, as one finds published weights.
Every branch takes those weights with an empty optimizer, warms up again to its own peak, goes down to zero and
reads new text with a share of old text mixed in. All branches of a seed share the trunk and the order, so
that differences between them are paired. It leaves out training and judging.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from isoflop import units
from isoflop.fit.compare import power
from isoflop.flops.count import train_flops_per_token
from isoflop.flops.rates import eval_tokens_per_s, flops_per_s
from isoflop.plan.isoflop_sweep import CONVENTION, SECONDS_PER_RUN, PlanError, wall_seconds
from isoflop.records import (
    Branch,
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
class RewarmingDesign:
    """What one budget buys.

    Attributes:
        net: of every run.
        trunk_peak_lr: peak learning rate of the trunk; branches' peaks are multiples of it.
        trunk_steps, branch_steps: updates of each.
        peak_ratios: peak of a branch over the trunk's.
        replays: share of old text in a branch's tokens, in [0, 1).
        num_seeds: trunks.
        batch_seqs: sequences per update.
        num_windows: held-out windows of each text per score.
    """

    net: NetSpec
    trunk_peak_lr: float
    trunk_steps: int
    branch_steps: int
    peak_ratios: tuple[float, ...]
    replays: tuple[float, ...]
    num_seeds: int
    batch_seqs: int = 8
    num_windows: int = 48

    @property
    def trunk_warmup(self) -> int:
        """Updates: a twentieth of the trunk."""
        return max(1, self.trunk_steps // 20)

    @property
    def branch_warmup(self) -> int:
        """Updates: a twentieth of the branch."""
        return max(1, self.branch_steps // 20)

    @property
    def score_after(self) -> tuple[int, ...]:
        """Updates of a branch after which it is scored, dense where a jump would be; its end comes on top."""
        shares = (0.02, 0.04, 0.08, 0.14, 0.22, 0.35, 0.5, 0.75)
        return tuple(dict.fromkeys(max(1, round(share * self.branch_steps)) for share in shares))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_seqs * self.net.context


@dataclass(frozen=True, kw_only=True)
class PairedNoise:
    """What a pilot said about seeds, before the first run of the plan.

    Attributes:
        sd: standard deviation over seeds of one run's final loss around its cell's mean, nats/token.
        correlation: of two cells that share their trunk.
        source: in words.
    """

    sd: float
    correlation: float
    source: str


def plan_rewarming(
    request: PlanRequest,
    designs: Sequence[RewarmingDesign],
    noise: PairedNoise,
    *,
    objective: FunctionRef,
    score: FunctionRef,
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
    reserve_s: float = 20.0,
    use: float = 0.9,
) -> Plan:
    """The largest design that the budget pays for.

    Args:
        request: `corpus` is the old text, `more_text` the new ones (equal shares of the new tokens).
        designs: largest first.
        noise: for the smallest effect that the design can find, which is written into the plan.
        objective, score: functions that every run needs.
        study, claims, question, rule: copied into the plan.
        reserve_s: seconds of a time budget kept for preparing, judging and reporting.
        use: share of the rest that is planned.

    Raises PlanError: no text, or a budget too small (the message names the smallest that works).
    """
    if request.corpus is None or not request.more_text:
        raise PlanError(f"{study} needs an old text and at least one new one")
    needs = ""
    for design in designs:
        if request.seeds is not None:
            if request.seeds < 2:
                raise PlanError(f"--seeds {request.seeds}: {study} needs 2 or more, to see the noise")
            design = dataclasses.replace(design, num_seeds=request.seeds)
        runs = _runs(request, design, objective, score)
        fits, needs = _fits(request, runs, reserve_s, use)
        if fits:
            return _plan(request, design, runs, noise, study, claims, question, rule)
    raise PlanError(
        f"a budget of {request.budget.text!r} is too small for {study}: the smallest that works is {needs}"
    )


def detectable(
    design: RewarmingDesign, noise: PairedNoise, *, num_cells: int = 1, level: float = 0.95
) -> float:
    """Smallest true difference (nats/token) that a paired t test over seeds finds four times in five.

    Args:
        design, noise: seeds, and how they spread.
        num_cells: cells that each side is the mean of; what seeds do not share is taken as independent.
        level: of the test.
    """
    found = power.detectable_effect(
        noise.sd / math.sqrt(num_cells),
        design.num_seeds,
        power=0.8,
        alpha=1 - level,
        correlation=noise.correlation,
    )
    assert found is not None, "two seeds or more"
    return found


# --------------------------------------------------------------------------------------- the runs


def _source(corpus: CorpusRecord, weight: float = 1.0) -> DataSource:
    return DataSource(
        source=corpus.source,
        corpus_sha256=corpus.corpus_sha256,
        tokenizer=corpus.tokenizer,
        tokenizer_sha256=corpus.tokenizer_sha256,
        weight=weight,
    )


def _runs(
    request: PlanRequest, design: RewarmingDesign, objective: FunctionRef, score: FunctionRef
) -> tuple[PlannedRun, ...]:
    """Every trunk, each followed by its branches."""
    assert request.corpus is not None
    old, new = request.corpus, request.more_text
    scored = tuple(_source(corpus) for corpus in (old, *new))
    per_step = train_flops_per_token(design.net, CONVENTION) * design.tokens_per_step
    found: list[PlannedRun] = []

    def add(why: str, *, steps: int, **fields: object) -> RunSpec:
        spec = RunSpec(
            net=design.net,
            objective=objective,
            batch_seqs=design.batch_seqs,
            num_steps=steps,
            train_flops=FlopCount(flops=per_step * steps, convention=CONVENTION),
            **fields,  # type: ignore[arg-type]
        )
        found.append(
            PlannedRun(
                spec=spec,
                fingerprint=spec.fingerprint(),
                why=why,
                cost_flops=spec.own_flops,
                cost_seconds=None
                if request.calibration is None
                else run_seconds(spec, request.calibration, len(scored)),
            )
        )
        return spec

    def evaluate(at_steps: tuple[int, ...]) -> EvalSpec:
        return EvalSpec(function=score, num_windows=design.num_windows, at_steps=at_steps, sources=scored)

    start, end = design.trunk_steps, design.trunk_steps + design.branch_steps
    at = tuple(start + steps for steps in design.score_after)
    for seed in range(design.num_seeds):
        trunk = add(
            "the old text, learning rate down to zero: what the branches of this seed continue",
            steps=start,
            name=f"trunk seed {seed}",
            data=DataSpec(sources=scored[:1], context=design.net.context, order_seed=seed),
            optimizer=OptimizerSpec(peak_lr=design.trunk_peak_lr),
            schedule=ScheduleSpec(kind="linear", warmup_steps=design.trunk_warmup, num_steps=start),
            evaluate=evaluate(()),
            seed=seed,
            save_at_steps=(start,),
            labels={"role": "trunk", "seed": seed},
        )
        for ratio, replay in itertools.product(design.peak_ratios, design.replays):
            add(
                f"the new text at {ratio:g} times the trunk's peak with {replay:.0%} of the old",
                steps=end,
                name=f"peak {ratio:g} replay {replay:g} seed {seed}",
                data=DataSpec(
                    sources=_mixture(old, new, replay), context=design.net.context, order_seed=seed
                ),
                optimizer=OptimizerSpec(peak_lr=design.trunk_peak_lr * ratio),
                schedule=ScheduleSpec(
                    kind="linear", warmup_steps=design.branch_warmup, num_steps=end, start_step=start
                ),
                evaluate=evaluate(at),
                seed=seed,
                branch=Branch(parent=trunk.fingerprint(), step=start, weights_only=True),
                labels={"role": "branch", "seed": seed, "peak_ratio": ratio, "replay": replay},
            )
    return tuple(found)


def _mixture(old: CorpusRecord, new: Sequence[CorpusRecord], replay: float) -> tuple[DataSource, ...]:
    """New texts in equal shares of the tokens, and the old one's share on top."""
    shares = [_source(corpus, (1 - replay) / len(new)) for corpus in new]
    return (*shares, _source(old, replay)) if replay > 0 else tuple(shares)


def run_seconds(spec: RunSpec, calibration: Calibration, num_texts: int) -> float:
    """Worker-seconds that a run will take on the calibrated machine, its scores included."""
    seconds = spec.own_flops / flops_per_s(calibration, spec.net) + SECONDS_PER_RUN
    if spec.evaluate is not None:
        scores = len(spec.evaluate.at_steps) + 1
        tokens = scores * num_texts * spec.evaluate.num_windows * spec.data.context
        seconds += tokens / eval_tokens_per_s(calibration, spec.net)
    return seconds


def _fits(request: PlanRequest, runs: Sequence[PlannedRun], reserve_s: float, use: float) -> tuple[bool, str]:
    budget = request.budget
    if budget.unit == "flops":
        flops = sum(run.cost_flops for run in runs)
        return flops <= budget.amount, f"{flops * 1.05:.2g} FLOPs"
    if budget.unit == "seconds":
        if request.calibration is None:
            raise PlanError(
                "a budget in time needs this machine's speed: install isoflop[train], or give FLOPs"
            )
        needed = wall_seconds(runs, request.calibration)
        return needed <= (budget.amount - reserve_s) * use, f"{math.ceil(needed / use + reserve_s)}s"
    raise PlanError(f"this study takes a budget in FLOPs or in time, not {budget.text!r}")


# --------------------------------------------------------------------------------------- the plan


def _plan(
    request: PlanRequest,
    design: RewarmingDesign,
    runs: tuple[PlannedRun, ...],
    noise: PairedNoise,
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
) -> Plan:
    calibration, corpus = request.calibration, request.corpus
    assert corpus is not None
    level = float(rule.parameters["level"] or 0.95)
    one, averaged = (
        detectable(design, noise, num_cells=count, level=level) for count in (1, len(design.replays))
    )
    return Plan(
        study=study,
        claims=claims,
        question=question,
        budget=request.budget,
        planned_flops=FlopCount(flops=sum(run.cost_flops for run in runs), convention=CONVENTION),
        planned_seconds=None if calibration is None else wall_seconds(runs, calibration),
        runs=runs,
        rule=rule,
        seeds=tuple(range(design.num_seeds)),
        corpus=corpus,
        calibration=calibration,
        assumptions=_assumptions(request, design, noise),
        notes=(
            f"Smallest difference that {design.num_seeds} seeds find four times in five: {averaged:.2g} nats/token "
            f"between two peaks averaged over replay fractions, {one:.2g} between two cells ({noise.source}).",
            "One size, one length, one pair of texts: how the sweet spot moves with them is not asked.",
        ),
        options={
            "trunk_steps": design.trunk_steps,
            "branch_steps": design.branch_steps,
            "trunk_peak_lr": design.trunk_peak_lr,
            "tokens_per_step": design.tokens_per_step,
            "detectable_nats": averaged,
            "detectable_nats_of_cells": one,
            "pilot_sd": noise.sd,
            "pilot_correlation": noise.correlation,
            "num_new_texts": len(request.more_text),
        },
    )


def _assumptions(request: PlanRequest, design: RewarmingDesign, noise: PairedNoise) -> tuple[str, ...]:
    assert request.corpus is not None
    new = ", ".join(f"{one.source} ({one.description})" for one in request.more_text)
    trunk = design.trunk_steps * design.tokens_per_step
    branch = design.branch_steps * design.tokens_per_step
    return (
        f"Old text: {request.corpus.source} ({request.corpus.description}). New text, in equal shares: {new}.",
        f"A trunk reads {units.format_tokens(trunk)} ({trunk / request.corpus.train_tokens:.2f} passes), a branch "
        f"{units.format_tokens(branch)}.",
        f"Tokens are {request.corpus.tokenizer}: no tokenizer favours one of the texts.",
        f"The trunk's peak learning rate, {design.trunk_peak_lr:g}, is a rule of thumb for this width, not a search; "
        "branches' peaks are multiples of it.",
        "Linear schedules with a warm-up of a twentieth and an end at zero, for trunks and for branches.",
        "A branch takes over weights alone: its optimizer starts empty, as from published weights.",
        "AdamW with betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped at 1; not tuned.",
        f"Noise for the smallest effect that shows: {noise.source}.",
        "FLOPs count every matrix product with the output head, and attention at its causal share (matmul-causal).",
    )
