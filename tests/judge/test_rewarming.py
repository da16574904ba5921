"""Re-warming: the plan's runs, and planted trade-offs that must come back as what they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from scipy import stats

from isoflop.judge import rewarming as judging
from isoflop.judge.rewarming import Path, interval, on_front
from isoflop.plan.rewarming import detectable
from isoflop.records import Budget, Estimate, Evidence, Measurement, Plan, PlanRequest, RunEvidence, RunSpec
from isoflop.studies import rewarming
from tests.planted import CORPUS, _record

NEW = msgspec.structs.replace(CORPUS, source="docstrings", corpus_sha256="2" * 64)
OLD_START = 2.0


def plan(budget: str = "4e12 FLOPs", seeds: int | None = None) -> Plan:
    return rewarming.plan(
        PlanRequest(budget=Budget.parse(budget), seeds=seeds, corpus=CORPUS, more_text=(NEW,))
    )


Planted = Callable[[float, float], tuple[float, float]]
"""(peak ratio, replay) -> (old loss, new loss) at the end."""


def trade_off(ratio: float, replay: float) -> tuple[float, float]:
    """Old loss grows with the logarithm of the peak, new loss is lowest at half the trunk's: a sweet spot inside."""
    bend = math.log(ratio / 0.5) ** 2
    return OLD_START + 0.05 * (1 - replay) * (1 + math.log(ratio / 0.1)), 2.5 + 0.05 * bend


def evidence(planned: Plan, of: Planted, seed_sd: float = 0.003) -> Evidence:
    """Every run finished. On its way the old loss peaks at twice what it loses in the end."""
    dice = np.random.default_rng(0)
    runs = []
    for run in planned.runs:
        spec, scores = run.spec, []
        if spec.branch is None:
            scores = _score(spec, spec.num_steps, OLD_START, 4.0)
        else:
            old, new = of(float(spec.labels["peak_ratio"] or 0), float(spec.labels["replay"] or 0))
            half = (spec.start_step + spec.num_steps) // 2
            noise = dice.normal(0, seed_sd, 2)
            scores = _score(spec, half, OLD_START + 2 * (old - OLD_START), new + 0.2)
            scores += _score(spec, spec.num_steps, old + noise[0], new + noise[1])
        runs.append(RunEvidence(spec=spec, record=_record(spec), measurements=tuple(scores)))
    return Evidence(plan=planned, runs=tuple(runs))


def _score(spec: RunSpec, step: int, old: float, new: float) -> list[Measurement]:
    return [
        Measurement(
            run=spec.fingerprint(),
            name=name,
            step=step,
            loss=Estimate(value=value, unit="nats/token", reason="planted"),
            bits_per_byte=Estimate(value=value / math.log(2), unit="bits/byte", reason="planted"),
            group_nats=(value,),
            group_tokens=(4096,),
            num_bytes=1000,
            held_fixed="planted",
        )
        for name, value in (("heldout", old), ("heldout: docstrings", new))
    ]


def outcomes(of: Planted, seed_sd: float = 0.003) -> list[str]:
    verdict = rewarming.judge(evidence(plan(), of, seed_sd))
    return [verdict.outcome, *(statement.outcome for statement in verdict.statements)]


def test_every_branch_leaves_the_trunk_of_its_seed() -> None:
    made = plan()
    trunks = {run.fingerprint: run.spec for run in made.runs if run.spec.branch is None}
    branches = [run.spec for run in made.runs if run.spec.branch is not None]
    cells = len(rewarming.PEAK_RATIOS) * len(rewarming.REPLAYS)
    assert len(branches) == len(trunks) * cells == len(made.seeds) * cells
    for branch in branches:
        assert branch.branch is not None
        trunk = trunks[branch.branch.parent]
        assert (branch.seed, branch.start_step) == (trunk.seed, trunk.num_steps)
        assert branch.optimizer.peak_lr == pytest.approx(
            trunk.optimizer.peak_lr * float(branch.labels["peak_ratio"] or 0)
        )
        weights = {source.source: source.weight for source in branch.data.sources}
        assert weights.get(CORPUS.source, 0.0) == pytest.approx(float(branch.labels["replay"] or 0))
        assert sum(weights.values()) == pytest.approx(1.0)
        assert trunk.num_steps in trunk.save_at_steps
    assert made.planned_flops.flops <= 4e12


def test_the_effect_that_can_be_seen_is_declared_in_the_plan() -> None:
    few, many = plan(seeds=3), plan(seeds=5)
    assert any("four times in five" in note for note in few.notes)
    assert many.options["detectable_nats"] < few.options["detectable_nats"]
    design = rewarming.DESIGNS[-1]
    assert detectable(design, rewarming.NOISE, num_cells=4) < detectable(design, rewarming.NOISE)


def test_a_planted_trade_off_is_supported() -> None:
    assert outcomes(trade_off)[:4] == ["supported", "supported", "supported", "supported"]


def test_no_trade_off_is_contradicted() -> None:
    """Higher peaks forget less and learn less: both first statements fail."""

    def upside_down(ratio: float, replay: float) -> tuple[float, float]:
        old, _ = trade_off(1 / ratio, replay)
        return old, 2.5 + 0.1 * math.log(10 * ratio)

    found = outcomes(upside_down)
    assert found[:3] == ["contradicted", "contradicted", "contradicted"]


def test_noise_alone_cannot_be_told() -> None:
    """Old and new loss do not depend on the peak, seeds scatter widely."""
    found = outcomes(lambda ratio, replay: (OLD_START + 0.1, 2.5), seed_sd=0.3)
    assert found[0] != "supported"
    assert found[2] == found[3] == "cannot tell"


def test_what_would_settle_it_is_said_where_it_is_open_and_only_there() -> None:
    for planted, sd in ((trade_off, 0.003), (trade_off, 0.3)):
        for statement in rewarming.judge(evidence(plan(), planted, sd)).statements:
            assert (statement.settle is not None) == (statement.outcome == "cannot tell")


def test_a_branch_that_did_not_end_takes_its_seed_out() -> None:
    whole = evidence(plan(), trade_off)
    broken = list(whole.runs)
    broken[1] = msgspec.structs.replace(broken[1], record=None)
    verdict = rewarming.judge(msgspec.structs.replace(whole, runs=tuple(broken)))
    assert any("has not ended" in exclusion.reason for exclusion in verdict.exclusions)
    assert any(exclusion.what == "seed 0" for exclusion in verdict.exclusions)
    kept = tuple(run for run in whole.runs if run.spec.seed == 1)
    with pytest.raises(ValueError, match="only 1 seed"):
        rewarming.judge(msgspec.structs.replace(whole, runs=kept))


def test_numbers_of_one_path() -> None:
    path = Path(tokens=np.array([0.0, 10, 20, 30]), old=np.array([2.0, 3.0, 2.5, 1.5]), new=np.ones(4))
    assert (path.rise, path.forgetting, path.recovered) == (1.0, -0.5, 1.5)
    assert path.recovery_tokens == pytest.approx(25.0)  # half-way between 2.5 and 1.5
    flat = Path(tokens=path.tokens, old=np.array([2.0, 1.9, 1.8, 1.7]), new=np.ones(4))
    assert (flat.rise, flat.recovered, flat.recovery_tokens) == (0.0, None, 0.0)


def test_intervals_and_the_front() -> None:
    values = np.array([1.0, 1.2, 0.7, 1.1])
    found = interval(values, "nats/token", 0.9)
    low, high = stats.t.interval(0.9, 3, values.mean(), stats.sem(values))
    assert (found.lo, found.hi) == pytest.approx((low, high))
    old, new = np.array([1.0, 2.0, 3.0, 2.5]), np.array([3.0, 2.0, 1.0, 2.5])
    assert on_front(old, new).tolist() == [True, True, True, False]
    assert judging.side_of(found, 0.0) == "supported"
