"""What a budget buys: the plan fits it, shares trunks, keeps its floors, and says what it left out."""

from __future__ import annotations

import msgspec
import pytest

from isoflop.flops.count import train_flops_per_token
from isoflop.plan.isoflop_sweep import CONVENTION, PlanError, wall_seconds
from isoflop.records import Budget, Calibration, PlanRequest
from isoflop.studies import flatness
from tests import planted

NETS = flatness.STUDY.calibration_nets
CALIBRATION = Calibration(
    machine="planted",
    device="cpu",
    num_workers=2,
    net_words=tuple(net.words for net in NETS),
    train_flops_per_token=tuple(train_flops_per_token(net, CONVENTION) for net in NETS),
    flops_per_s=(8e9, 15e9, 28e9, 45e9),
    eval_tokens_per_s=(4e5, 3e5, 2e5, 6e4),
    startup_s=4.0,
    convention=CONVENTION,
    torch_version="2.13.0",
    measured="",
)


def request(budget: str, seeds: int | None = None) -> PlanRequest:
    return PlanRequest(
        budget=Budget.parse(budget), seeds=seeds, corpus=planted.CORPUS, calibration=CALIBRATION
    )


@pytest.mark.parametrize("budget", ["1.5e12 FLOPs", "5e12 FLOPs", "2e13 FLOPs", "2e14 FLOPs"])
def test_flops_are_kept_and_used(budget: str) -> None:
    plan = flatness.plan(request(budget))
    total = sum(run.cost_flops for run in plan.runs)
    assert total == pytest.approx(plan.planned_flops.flops)
    assert total <= plan.budget.amount
    # Rungs are a factor of 3.2 apart and designs on one rung differ by less, so a fifth is always used.
    assert total > plan.budget.amount / 5


@pytest.mark.parametrize("budget", ["2min", "4min", "1h"])
def test_time_is_kept(budget: str) -> None:
    plan = flatness.plan(request(budget))
    assert plan.planned_seconds == pytest.approx(wall_seconds(plan.runs, CALIBRATION))
    assert plan.planned_seconds < plan.budget.amount


def test_more_budget_reaches_higher() -> None:
    tops = [flatness.plan(request(f"{minutes}min")).options["top_budget"] for minutes in (2, 8, 60)]
    assert tops == sorted(tops)  # type: ignore[type-var]
    assert tops[0] < tops[-1]  # type: ignore[operator]


def test_a_branch_costs_its_cooldown_alone_and_starts_where_its_trunk_saved() -> None:
    plan = planted.plan()
    trunks = {run.fingerprint: run.spec for run in plan.runs if run.spec.branch is None}
    for run in plan.runs:
        spec = run.spec
        if spec.branch is None:
            continue
        trunk = trunks[spec.branch.parent]
        assert spec.branch.step in trunk.save_at_steps
        assert (trunk.net, trunk.seed, trunk.data) == (spec.net, spec.seed, spec.data)
        assert trunk.schedule.warmup_steps == spec.schedule.warmup_steps
        cooldown = (spec.num_steps - spec.branch.step) / spec.num_steps
        assert run.cost_flops == pytest.approx(spec.train_flops.flops * cooldown)
        # 30 % of the steps, to the nearest whole one of at least 100
        assert cooldown == pytest.approx(0.3, abs=0.01)


def test_points_of_a_rung_have_equal_compute() -> None:
    for run in planted.plan().runs:
        if "budget" in run.spec.labels:
            # whole steps: at least 100 of them, so half a step is at most half a percent
            assert run.spec.train_flops.flops == pytest.approx(run.spec.labels["budget"], rel=0.005)
            assert run.spec.num_steps >= 100


def test_every_name_and_fingerprint_is_its_own() -> None:
    runs = planted.plan("2e14 FLOPs").runs
    assert len({run.fingerprint for run in runs}) == len(runs)
    assert len({run.spec.name for run in runs}) == len(runs)


def test_too_small_a_budget_names_the_smallest_that_works() -> None:
    with pytest.raises(PlanError, match="the smallest that works is") as error:
        flatness.plan(request("1e9 FLOPs"))
    smallest = str(error.value).rsplit("is ", 1)[1]
    assert flatness.plan(request(smallest)).runs


def test_too_little_time_names_the_smallest_that_works() -> None:
    with pytest.raises(PlanError, match="the smallest that works is") as error:
        flatness.plan(request("2s"))
    smallest = str(error.value).rsplit("is ", 1)[1]
    assert flatness.plan(request(smallest)).runs


def test_a_small_corpus_is_refused_with_its_size() -> None:
    small = msgspec.structs.replace(planted.CORPUS, train_tokens=5_000)
    with pytest.raises(
        PlanError,
        match=r"would be gone through \d+\.\d times in the smallest sweep of flatness, and the limit is 4",
    ):
        flatness.plan(msgspec.structs.replace(request("2e13 FLOPs"), corpus=small))


def test_cells_over_the_limit_of_epochs_are_named() -> None:
    small = msgspec.structs.replace(planted.CORPUS, train_tokens=700_000)
    plan = flatness.plan(msgspec.structs.replace(request("2e13 FLOPs"), corpus=small))
    assert any("passes over the corpus" in note for note in plan.notes)


def test_seeds_are_obeyed_and_checked() -> None:
    assert flatness.plan(request("2e13 FLOPs", seeds=4)).seeds == (0, 1, 2, 3)
    with pytest.raises(PlanError, match="at least 1"):
        flatness.plan(request("2e13 FLOPs", seeds=0))


def test_money_cannot_buy_time_on_this_machine() -> None:
    with pytest.raises(PlanError, match="FLOPs or in time"):
        flatness.plan(request("$200"))
