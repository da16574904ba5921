"""An isoFLOP sweep made from a budget: which budgets, sizes, seeds and steps, and what each run will cost.

One trunk per (size, seed) trains at a constant learning rate; each budget that wants this size leaves it
as a cooldown branch (WSD, Haegele et al. 2024, section 3), so that the early steps are paid once. The
planner takes the largest design that fits the budget and says what it decided. It leaves out how a run
is trained (`isoflop.train`) and what is concluded (`isoflop.judge`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from isoflop import units
from isoflop.flops.count import parameters, train_flops_per_token
from isoflop.flops.rates import eval_tokens_per_s, flops_per_s
from isoflop.records import (
    Branch,
    Calibration,
    Convention,
    CorpusRecord,
    DataSource,
    DataSpec,
    DecisionRule,
    Estimate,
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

CONVENTION: Convention = "matmul-causal"
SECONDS_PER_RUN = 0.15
"""Building a net, opening its data, writing its records: per run, assumed."""
PACKING = 0.97
"""Share of the workers' time that longest-first packing keeps busy, assumed."""


class PlanError(ValueError):
    """No plan can be made; the message says what would work."""


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """What a study fixes for all its isoFLOP sweeps, whatever the budget.

    Attributes:
        ladders: nets to choose from, smallest first, equal in vocabulary and context; the finest ladder
            first, coarser ones for smaller budgets.
        budgets: training FLOPs per rung, ascending ("matmul-causal").
        peak_lr: learning rate of a net; `lr_rule` says it in words.
        expected_optimum: budget -> expected best size in effective parameters (train FLOPs per token / 6).
        expected_loss: (budget, effective parameters) -> loss, with its uncertainty; a belief, before the runs.
        reach_below, reach_above: sizes down and up to these factors from the expected optimum are in a rung.
        batch_seqs: sequences per step.
        cooldown: share of a run's steps in the linear cooldown, in (0, 1).
        min_steps: shorter runs are left out: they would be all warm-up.
        min_sizes: a rung with fewer sizes cannot carry a curve and its noise.
        max_epochs: largest number of passes over the corpus.
        objective, score: functions that every run needs.
        num_windows: validation windows per score.
    """

    ladders: tuple[tuple[NetSpec, ...], ...]
    budgets: tuple[float, ...]
    peak_lr: Callable[[NetSpec], float]
    lr_rule: str
    expected_optimum: Callable[[float], float]
    expected_loss: Callable[[float, float], Estimate]
    objective: FunctionRef
    score: FunctionRef
    reach_below: float = 2.4
    reach_above: float = 3.4
    batch_seqs: int = 4
    cooldown: float = 0.3
    min_steps: int = 100
    min_sizes: int = 4
    max_epochs: float = 4.0
    num_windows: int = 512

    def effective_parameters(self, net: NetSpec) -> float:
        """Training FLOPs per token / 6 under the sweep's convention."""
        return train_flops_per_token(net, CONVENTION) / 6

    def num_steps(self, net: NetSpec, budget: float) -> int:
        """Steps after which a run of this net has spent the budget, to the nearest step."""
        flops_per_step = train_flops_per_token(net, CONVENTION) * self.batch_seqs * net.context
        return round(budget / flops_per_step)


@dataclass(frozen=True, kw_only=True)
class Design:
    """Budgets, the sizes of each, and seeds: what a budget buys."""

    rungs: tuple[tuple[float, tuple[NetSpec, ...]], ...]
    """(budget in FLOPs, nets) in ascending order of budget."""
    ladder: tuple[NetSpec, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    """Cells near the optimum that are not in the plan, each with its reason."""


def sizes_of(
    recipe: SweepRecipe, ladder: Sequence[NetSpec], budget: float, corpus: CorpusRecord
) -> tuple[tuple[NetSpec, ...], tuple[str, ...]]:
    """The nets of one rung, and the sentences about those that had to stay out."""
    optimum = recipe.expected_optimum(budget)
    nets: list[NetSpec] = []
    left_out: list[str] = []
    for net in ladder:
        size = recipe.effective_parameters(net)
        if not optimum / recipe.reach_below <= size <= optimum * recipe.reach_above:
            continue
        steps = recipe.num_steps(net, budget)
        epochs = steps * recipe.batch_seqs * net.context / corpus.train_tokens
        cell = f"{net.words} at {units.format_flops(budget)}"
        if steps < recipe.min_steps:
            left_out.append(f"{cell}: {steps} steps are fewer than {recipe.min_steps}, mostly warm-up")
        elif epochs > recipe.max_epochs:
            left_out.append(
                f"{cell}: {epochs:.1f} passes over the corpus are more than {recipe.max_epochs:g}"
            )
        else:
            nets.append(net)
    return tuple(nets), tuple(left_out)


def design_runs(
    recipe: SweepRecipe, design: Design, corpus: CorpusRecord, calibration: Calibration | None
) -> tuple[PlannedRun, ...]:
    """Every run of a design: for each size and seed the trunk, then its branches by budget."""
    runs: list[PlannedRun] = []
    for net in design.ladder:
        budgets = [budget for budget, nets in design.rungs if net in nets]
        if not budgets:
            continue
        for seed in design.seeds:
            runs.extend(_trunk_and_branches(recipe, net, budgets, seed, corpus, calibration))
    return tuple(runs)


def _trunk_and_branches(
    recipe: SweepRecipe,
    net: NetSpec,
    budgets: Sequence[float],
    seed: int,
    corpus: CorpusRecord,
    calibration: Calibration | None,
) -> Iterator[PlannedRun]:
    steps = [recipe.num_steps(net, budget) for budget in budgets]
    leave_at = [round(num_steps * (1 - recipe.cooldown)) for num_steps in steps]
    warmup = min(max(round(0.2 * steps[0]), 10), 100, leave_at[0])
    counts = parameters(net)
    labels = {
        "size": net.words,
        "seed": seed,
        "N_nonembedding": counts.nonembedding,
        "N_all": counts.total,
        "N_matmul": recipe.effective_parameters(net),
    }
    flops_per_step = train_flops_per_token(net, CONVENTION) * recipe.batch_seqs * net.context

    def spec(num_steps: int, decay_start: int | None, branch: Branch | None, **changes: object) -> RunSpec:
        return RunSpec(
            net=net,
            data=DataSpec(sources=(_source(corpus),), context=net.context, order_seed=seed),
            objective=recipe.objective,
            optimizer=OptimizerSpec(peak_lr=recipe.peak_lr(net)),
            schedule=ScheduleSpec(
                kind="wsd", warmup_steps=warmup, num_steps=num_steps, decay_start_step=decay_start
            ),
            batch_seqs=recipe.batch_seqs,
            num_steps=num_steps,
            seed=seed,
            branch=branch,
            train_flops=FlopCount(flops=flops_per_step * num_steps, convention=CONVENTION),
            **changes,  # type: ignore[arg-type]
        )

    trunk = spec(
        leave_at[-1],
        None,
        None,
        name=f"trunk {net.words} seed {seed}",
        evaluate=None,
        save_at_steps=tuple(leave_at),
        labels={**labels, "role": "trunk"},
    )
    yield _planned(trunk, "carries the cooldown branches of this size and seed", None, calibration)
    parent = trunk.fingerprint()
    for budget, num_steps, start in zip(budgets, steps, leave_at, strict=True):
        branch = spec(
            num_steps,
            start,
            Branch(parent=parent, step=start),
            name=f"{net.words} {budget:.0e} seed {seed}".replace("e+", "e"),
            evaluate=EvalSpec(function=recipe.score, num_windows=recipe.num_windows),
            labels={**labels, "role": "point", "budget": budget, "trunk": parent},
        )
        predicted = recipe.expected_loss(budget, recipe.effective_parameters(net))
        yield _planned(branch, f"a point of the {units.format_flops(budget)} profile", predicted, calibration)


def _source(corpus: CorpusRecord) -> DataSource:
    return DataSource(
        source=corpus.source,
        corpus_sha256=corpus.corpus_sha256,
        tokenizer=corpus.tokenizer,
        tokenizer_sha256=corpus.tokenizer_sha256,
    )


def _planned(
    spec: RunSpec, why: str, predicted: Estimate | None, calibration: Calibration | None
) -> PlannedRun:
    return PlannedRun(
        spec=spec,
        fingerprint=spec.fingerprint(),
        why=why,
        predicted_loss=predicted,
        cost_flops=spec.own_flops,
        cost_seconds=None if calibration is None else run_seconds(spec, calibration),
    )


def run_seconds(spec: RunSpec, calibration: Calibration) -> float:
    """Worker-seconds that a run will take on the calibrated machine, its scoring included."""
    seconds = spec.own_flops / flops_per_s(calibration, spec.net) + SECONDS_PER_RUN
    if spec.evaluate is not None:
        seconds += spec.evaluate.num_windows * spec.data.context / eval_tokens_per_s(calibration, spec.net)
    return seconds


def wall_seconds(runs: Sequence[PlannedRun], calibration: Calibration) -> float:
    """Expected wall time of a fleet on the calibrated machine, start-up included."""
    costs = [run.cost_seconds if run.cost_seconds is not None else 0.0 for run in runs]
    busiest = max((run.cost_seconds or 0.0) + max((_child_seconds(run, runs)), default=0.0) for run in runs)
    return calibration.startup_s + max(sum(costs) / calibration.num_workers / PACKING, busiest)


def _child_seconds(run: PlannedRun, runs: Sequence[PlannedRun]) -> list[float]:
    return [
        other.cost_seconds or 0.0
        for other in runs
        if other.spec.branch is not None and other.spec.branch.parent == run.fingerprint
    ]


def candidate_designs(recipe: SweepRecipe, corpus: CorpusRecord, seeds: int | None) -> Iterator[Design]:
    """Designs in the order in which they are preferred: the highest top budget, then seeds, then sizes.

    Up to five rungs are kept below the top; two are the least that can show a trend, and two seeds the
    least that can show the noise.
    """
    for top in range(len(recipe.budgets) - 1, 0, -1):
        for count in (seeds,) if seeds is not None else (3, 2):
            for ladder in recipe.ladders:
                design = _design(recipe, ladder, top, count, corpus)
                if design is not None:
                    yield design


def _design(
    recipe: SweepRecipe, ladder: tuple[NetSpec, ...], top: int, num_seeds: int, corpus: CorpusRecord
) -> Design | None:
    """The rungs from this top downwards, as far as each has sizes enough; None with fewer than two."""
    rungs: list[tuple[float, tuple[NetSpec, ...]]] = []
    left_out: list[str] = []
    for budget in reversed(recipe.budgets[max(0, top - 4) : top + 1]):
        nets, outside = sizes_of(recipe, ladder, budget, corpus)
        if len(nets) < recipe.min_sizes:
            break
        rungs.insert(0, (budget, nets))
        left_out.extend(outside)
    if len(rungs) < 2:
        return None
    return Design(rungs=tuple(rungs), ladder=ladder, seeds=tuple(range(num_seeds)), left_out=tuple(left_out))


def plan_isoflop_sweep(
    request: PlanRequest,
    recipe: SweepRecipe,
    *,
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
    reserve_s: float = 12.0,
    use: float = 0.9,
) -> Plan:
    """The largest sweep that the budget pays for.

    Args:
        request: budget in FLOPs or seconds, corpus, and for a budget in seconds the calibration.
        recipe: what the study fixes.
        study, claims, question, rule: copied into the plan.
        reserve_s: seconds of a time budget kept for preparing, judging and reporting.
        use: share of the rest that is planned, so that a slow moment does not cut the sweep.

    Raises:
        PlanError: the budget is too small (the message names the smallest that works), the corpus is too
            small, or a budget in this unit cannot be planned.
    """
    if request.corpus is None:
        raise PlanError(f"{study} trains on text: prepare a corpus first (isoflop data prepare)")
    if request.seeds is not None and request.seeds < 1:
        raise PlanError(f"--seeds {request.seeds}: at least 1 (2 or more, to see the noise)")
    smallest: str | None = None
    for design in candidate_designs(recipe, request.corpus, request.seeds):
        runs = design_runs(recipe, design, request.corpus, request.calibration)
        fits, needs = _fits(request, runs, reserve_s, use)
        if fits:
            return _plan(request, recipe, design, runs, study, claims, question, rule)
        smallest = needs
    if smallest is None:
        raise PlanError(_corpus_too_small(recipe, request.corpus, study))
    raise PlanError(
        f"a budget of {request.budget.text!r} is too small for {study}: the smallest that works is {smallest}"
    )


def _corpus_too_small(recipe: SweepRecipe, corpus: CorpusRecord, study: str) -> str:
    """How many passes over the corpus the smallest sweep would mean, and the limit that forbids it."""
    unlimited = dataclasses.replace(recipe, max_epochs=math.inf)
    smallest = _design(unlimited, recipe.ladders[-1], 1, 1, corpus)
    tokens = corpus.train_tokens
    if smallest is None:
        return f"{study} has no sweep of two budgets with {recipe.min_sizes} sizes each; this is a fault of its recipe"
    epochs = _most_tokens(recipe, smallest) / tokens
    return (
        f"the corpus is too small: its {units.format_tokens(tokens)} would be gone through {epochs:.1f} times in the "
        f"smallest sweep of {study}, and the limit is {recipe.max_epochs:g} (beyond it repeated text is worth clearly "
        "less, Muennighoff et al. 2023); use a larger corpus"
    )


def _most_tokens(recipe: SweepRecipe, design: Design) -> int:
    """Tokens of the longest run of a design."""
    return max(
        recipe.num_steps(net, budget) * recipe.batch_seqs * net.context
        for budget, nets in design.rungs
        for net in nets
    )


def _fits(request: PlanRequest, runs: Sequence[PlannedRun], reserve_s: float, use: float) -> tuple[bool, str]:
    """Whether the budget pays for these runs, and the smallest budget that would."""
    budget = request.budget
    if budget.unit == "flops":
        flops = sum(run.cost_flops for run in runs)
        return flops <= budget.amount, f"{_round_up(flops):.2g} FLOPs"
    if budget.unit == "seconds":
        if request.calibration is None:
            raise PlanError(
                "a budget in time needs this machine's speed: install isoflop[train], or give FLOPs"
            )
        needed = wall_seconds(runs, request.calibration)
        return needed <= (budget.amount - reserve_s) * use, f"{math.ceil(needed / use + reserve_s)}s"
    raise PlanError(f"a sweep on this machine takes a budget in FLOPs or in time, not {budget.text!r}")


def _round_up(value: float) -> float:
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / scale) * scale


def _plan(
    request: PlanRequest,
    recipe: SweepRecipe,
    design: Design,
    runs: tuple[PlannedRun, ...],
    study: str,
    claims: tuple[str, ...],
    question: str,
    rule: DecisionRule,
) -> Plan:
    assert request.corpus is not None
    calibration = request.calibration
    return Plan(
        study=study,
        claims=claims,
        question=question,
        budget=request.budget,
        planned_flops=FlopCount(flops=sum(run.cost_flops for run in runs), convention=CONVENTION),
        planned_seconds=None if calibration is None else wall_seconds(runs, calibration),
        runs=runs,
        rule=rule,
        seeds=design.seeds,
        corpus=request.corpus,
        calibration=calibration,
        assumptions=_assumptions(recipe, design, request.corpus),
        notes=design.left_out,
        options={"num_budgets": len(design.rungs), "top_budget": design.rungs[-1][0]},
    )


def _assumptions(recipe: SweepRecipe, design: Design, corpus: CorpusRecord) -> tuple[str, ...]:
    most = _most_tokens(recipe, design)
    first = design.rungs[0][1][0]
    return (
        f"Learning rate by a rule, not by a search per size: {recipe.lr_rule}.",
        f"Batch of {recipe.batch_seqs} sequences of {first.context} tokens for every size; not tuned.",
        "AdamW with betas 0.9 and 0.95, weight decay 0.1 on matrices, gradient norm clipped at 1; not tuned.",
        f"WSD (Haegele et al. 2024): one constant trunk per size and seed, the last {recipe.cooldown:.0%} of each "
        "run a linear cooldown to zero. Branches of a trunk share its noise; the fit resamples whole trunks.",
        f"Warm-up: a fifth of the shortest run of the trunk, between 10 and 100 steps; runs under "
        f"{recipe.min_steps} steps are left out.",
        f"Weights drawn with standard deviation {first.init_std:g} at every size; not tuned per size.",
        f"Sizes from {recipe.reach_below:g} times smaller to {recipe.reach_above:g} times larger than the one "
        "expected best (a belief from a pilot).",
        f"At most {units.format_tokens(most)} per run: {most / corpus.train_tokens:.2f} passes over the corpus.",
        "FLOPs count every matrix product with the output head, and attention at its causal share (matmul-causal).",
    )
