"""The ledger balances: spent is useful plus wasted, run by run and in all, whatever happened."""

from __future__ import annotations

import random

import msgspec
import pytest

from isoflop.flops.ledger import cost_of, ledger_table, spending_of
from isoflop.records import (
    Attempt,
    Branch,
    Budget,
    DataSource,
    DataSpec,
    DecisionRule,
    FlopCount,
    FunctionRef,
    NetSpec,
    OptimizerSpec,
    Plan,
    PlannedRun,
    Provenance,
    RunRecord,
    RunSpec,
    ScheduleSpec,
)

STEP_FLOPS = 1000.0
PROVENANCE = Provenance(isoflop="0", python="3")


def spec(name: str, num_steps: int, branch: Branch | None = None, seed: int = 0) -> RunSpec:
    return RunSpec(
        name=name,
        net=NetSpec(
            vocab_size=16, context=4, dim=4, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, ffn_dim=8
        ),
        data=DataSpec(
            sources=(DataSource(source="s", corpus_sha256="c", tokenizer="bytes", tokenizer_sha256="t"),),
            context=4,
            order_seed=0,
        ),
        objective=FunctionRef(path="m:f", source_sha256="0"),
        optimizer=OptimizerSpec(peak_lr=0.01),
        schedule=ScheduleSpec(kind="wsd", warmup_steps=0, num_steps=num_steps),
        evaluate=None,
        batch_seqs=1,
        num_steps=num_steps,
        seed=seed,
        branch=branch,
        train_flops=FlopCount(flops=STEP_FLOPS * num_steps, convention="6N-all"),
    )


def attempt(first: int, last: int, ended: str = "finished", wasted_steps: int = 0) -> Attempt:
    return Attempt(
        started="",
        first_step=first,
        last_step=last,
        seconds=0.1 * (last - first),
        flops=STEP_FLOPS * (last - first),
        flops_wasted=STEP_FLOPS * wasted_steps,
        ended=ended,  # type: ignore[arg-type]
    )


def record(run: RunSpec, *attempts: Attempt, status: str = "finished", **changes) -> RunRecord:
    return msgspec.structs.replace(
        RunRecord(
            fingerprint=run.fingerprint(),
            name=run.name,
            status=status,  # type: ignore[arg-type]
            num_steps=run.num_steps,
            tokens=run.tokens,
            train_flops=run.train_flops,
            attempts=attempts,
            parent=run.branch.parent if run.branch else None,
            provenance=PROVENANCE,
        ),
        **changes,
    )


def plan(*runs: RunSpec) -> Plan:
    return Plan(
        study="s",
        question="?",
        budget=Budget(amount=1.0, unit="flops", convention="6N-all"),
        planned_flops=FlopCount(flops=sum(run.own_flops for run in runs), convention="6N-all"),
        runs=tuple(
            PlannedRun(
                spec=run, fingerprint=run.fingerprint(), why="", cost_flops=run.own_flops, cost_seconds=1.0
            )
            for run in runs
        ),
        rule=DecisionRule(text=""),
        seeds=(0,),
    )


TRUNK = spec("trunk", 100)
BRANCH = spec("branch", 90, Branch(parent=TRUNK.fingerprint(), step=60))


def test_an_undisturbed_study_wastes_nothing_and_spends_its_plan():
    records = [record(TRUNK, attempt(0, 100)), record(BRANCH, attempt(60, 90))]
    cost = cost_of(records, plan(TRUNK, BRANCH))
    assert cost.spent_flops == cost.planned_flops == 130 * STEP_FLOPS
    assert (cost.wasted_flops, cost.wasted_seconds, cost.reused_runs) == (0.0, 0.0, 0)
    assert cost.spent_seconds == pytest.approx(13.0)
    assert cost.planned_seconds == 2.0  # worker-seconds of the runs
    assert cost.convention == "6N-all"
    assert cost.usd is None


def test_steps_done_twice_are_wasted_once():
    killed = record(TRUNK, attempt(0, 50, "killed", wasted_steps=10), attempt(40, 100))
    cost = cost_of([killed], plan(TRUNK))
    assert cost.spent_flops == 110 * STEP_FLOPS
    assert cost.wasted_flops == 10 * STEP_FLOPS
    assert cost.wasted_seconds == pytest.approx(1.0)  # a fifth of the first attempt's 5 s


def test_a_run_without_a_result_is_wasted_whole():
    for status in ("diverged", "failed", "cut"):
        cost = cost_of([record(TRUNK, attempt(0, 40, status), status=status)])
        assert cost.wasted_flops == cost.spent_flops == 40 * STEP_FLOPS
        assert cost.wasted_seconds == cost.spent_seconds == pytest.approx(4.0)


def test_the_part_of_a_lost_trunk_under_a_finished_branch_is_useful():
    lost = record(TRUNK, attempt(0, 80, "diverged"), status="diverged")
    child = record(BRANCH, attempt(60, 90))
    both = [lost, child]
    assert spending_of(lost, both, plan(TRUNK, BRANCH)).wasted_flops == pytest.approx(20 * STEP_FLOPS)
    assert spending_of(lost, both).wasted_flops == 0.0  # without a plan the step of the branch is unknown
    failed_child = record(BRANCH, attempt(60, 70, "failed"), status="failed")
    assert cost_of([lost, failed_child], plan(TRUNK, BRANCH)).wasted_flops == 90 * STEP_FLOPS


def test_an_attempt_that_never_took_a_step_costs_its_time():
    crashed = msgspec.structs.replace(attempt(0, 0, "killed"), seconds=3.0)
    cost = cost_of([record(TRUNK, crashed, attempt(0, 100))])
    assert cost.wasted_seconds == pytest.approx(3.0)
    assert cost.wasted_flops == 0.0


def test_a_reused_run_costs_nothing_here():
    cost = cost_of([record(TRUNK, attempt(0, 100), reused_from="elsewhere")], plan(TRUNK))
    assert (cost.spent_flops, cost.spent_seconds, cost.reused_runs) == (0.0, 0.0, 1)


def test_money_needs_a_price():
    cost = cost_of([record(TRUNK, attempt(0, 100))], usd_per_device_hour=3.6)
    assert cost.usd == pytest.approx(0.01)


def test_counts_under_two_conventions_are_not_added():
    other = record(TRUNK, attempt(0, 100), train_flops=FlopCount(flops=1.0, convention="matmul-full"))
    with pytest.raises(ValueError, match="6N-all, matmul-full"):
        cost_of([other], plan(TRUNK))


def test_an_empty_ledger():
    cost = cost_of([])
    assert (cost.spent_flops, cost.planned_flops, cost.convention) == (0.0, None, None)
    assert cost_of([], plan()).planned_seconds is None


def test_the_table_lists_every_run_and_its_totals():
    stranger = spec("stranger", 10, seed=9)
    records = [record(BRANCH, attempt(60, 90)), record(stranger, attempt(0, 10))]
    table = ledger_table(records, plan(TRUNK, BRANCH))
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["trunk", "branch", "stranger", "all runs"]
    assert rows["trunk"][1] == "not run"
    assert rows["stranger"][2] is None
    names = [column.name for column in table.columns]
    assert all(len(row) == len(names) for row in table.rows)
    assert rows["all runs"][names.index("spent_flops")] == 40 * STEP_FLOPS


def test_the_books_balance_whatever_happens():
    """Random histories: spent = useful + wasted in every row, rows add up to the total, nothing negative."""
    rng = random.Random(11)
    for _ in range(200):
        runs, records = [TRUNK, BRANCH], []
        for seed in range(rng.randint(0, 4)):
            runs.append(spec(f"run {seed}", 100, seed=seed + 1))
        for run in runs:
            attempts, at = [], run.start_step
            for _ in range(rng.randint(0, 3)):
                end = rng.randint(at, run.num_steps)
                attempts.append(attempt(at, end, "killed", wasted_steps=rng.randint(0, end - at)))
                at = end - int(attempts[-1].flops_wasted / STEP_FLOPS)
            status = rng.choice(["finished", "finished", "diverged", "failed", "cut"])
            reused = rng.choice([None, None, None, "elsewhere"])
            if rng.random() < 0.9:
                records.append(record(run, *attempts, status=status, reused_from=reused))
        table = ledger_table(records, plan(*runs))
        names = [column.name for column in table.columns]
        columns = {name: [row[i] for row in table.rows] for i, name in enumerate(names)}
        for spent, useful, wasted in zip(
            columns["spent_flops"], columns["useful_flops"], columns["wasted_flops"], strict=True
        ):
            assert spent == pytest.approx(useful + wasted)
            assert 0 <= wasted <= spent
        for name in ("planned_flops", "spent_flops", "wasted_flops", "spent_seconds", "wasted_seconds"):
            assert sum(columns[name][:-1]) == pytest.approx(columns[name][-1])
