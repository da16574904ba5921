"""The ledger of a study: what was planned, what was spent, and how much of that came to nothing.

Pure functions on records. Spent is always useful plus wasted. Wasted are steps that a later attempt had to
do again, and runs that ended without a result, except the part of such a trunk that its finished branches
stand on. A run that was taken from an earlier folder costs nothing here; it is counted as reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isoflop.records import Attempt, Column, Convention, Cost, Plan, RunRecord, Table


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What one run cost here."""

    flops: float
    """Of all its attempts."""
    wasted_flops: float
    """Part of flops; 0 <= wasted_flops <= flops."""
    seconds: float
    """Worker-seconds of all its attempts."""
    wasted_seconds: float
    """Part of seconds; 0 <= wasted_seconds <= seconds."""

    @property
    def useful_flops(self) -> float:
        return self.flops - self.wasted_flops


def cost_of(
    records: Sequence[RunRecord], plan: Plan | None = None, *, usd_per_device_hour: float | None = None
) -> Cost:
    """Add up a study's runs.

    Args:
        records: what happened, one record per run.
        plan: what was planned; without it a cost has no planned side, and a trunk that ended without a
            result is taken to have come to nothing unless one of its branches finished.
        usd_per_device_hour: price of one worker's hour; money is left out without it.

    Raises ValueError when the runs (or runs and plan) count FLOPs under different conventions.
    """
    spendings = [spending_of(record, records, plan) for record in records]
    seconds = sum(spending.seconds for spending in spendings)
    return Cost(
        convention=_one_convention(records, plan),
        planned_flops=plan.planned_flops.flops if plan else None,
        spent_flops=sum(spending.flops for spending in spendings),
        wasted_flops=sum(spending.wasted_flops for spending in spendings),
        planned_seconds=_planned_seconds(plan),
        spent_seconds=seconds,
        wasted_seconds=sum(spending.wasted_seconds for spending in spendings),
        usd=None if usd_per_device_hour is None else usd_per_device_hour * seconds / 3600,
        reused_runs=sum(record.reused_from is not None for record in records),
    )


def spending_of(record: RunRecord, records: Iterable[RunRecord] = (), plan: Plan | None = None) -> Spending:
    """What one run cost, and how much of it came to nothing.

    Args:
        record: the run.
        records: the study's runs, to find finished branches that stand on this one.
        plan: tells at which step a branch leaves; without it a finished branch saves all of its trunk.
    """
    if record.reused_from is not None:
        return Spending(flops=0.0, wasted_flops=0.0, seconds=0.0, wasted_seconds=0.0)
    flops, seconds = record.flops_spent, record.seconds_spent
    wasted = min(flops, record.flops_wasted)
    wasted_seconds = sum(_seconds_wasted(attempt) for attempt in record.attempts)
    if record.status != "finished":
        kept = _kept_share(record, records, plan)
        wasted = max(wasted, flops * (1 - kept))
        wasted_seconds = max(wasted_seconds, seconds * (1 - kept))
    return Spending(
        flops=flops, wasted_flops=wasted, seconds=seconds, wasted_seconds=min(seconds, wasted_seconds)
    )


def ledger_table(records: Sequence[RunRecord], plan: Plan | None = None) -> Table:
    """Planned, spent and wasted, run by run, with the totals in the last row.

    Runs of the plan that have no record yet are listed with nothing spent. Useful plus wasted is spent in
    every row.
    """
    by_fingerprint = {record.fingerprint: record for record in records}
    rows: list[tuple[str | float | None, ...]] = []
    for run in plan.runs if plan else ():
        record = by_fingerprint.pop(run.fingerprint, None)
        rows.append(_row(run.spec.name, run.cost_flops, run.cost_seconds, record, records, plan))
    for record in by_fingerprint.values():  # not in the plan
        rows.append(_row(record.name, None, None, record, records, plan))
    cost = cost_of(records, plan)
    useful = cost.spent_flops - cost.wasted_flops
    rows.append(
        (
            "all runs",
            "",
            cost.planned_flops,
            cost.spent_flops,
            useful,
            cost.wasted_flops,
            cost.planned_seconds,
            cost.spent_seconds,
            cost.wasted_seconds,
        )
    )
    flops = f"FLOPs ({cost.convention})" if cost.convention else "FLOPs"
    return Table(
        name="ledger",
        title="Planned, spent and wasted",
        columns=(
            Column(name="run", title="run"),
            Column(name="status", title="status"),
            Column(name="planned_flops", title="planned", unit=flops, format="{:.3g}"),
            Column(name="spent_flops", title="spent", unit=flops, format="{:.3g}"),
            Column(name="useful_flops", title="useful", unit=flops, format="{:.3g}"),
            Column(name="wasted_flops", title="wasted", unit=flops, format="{:.3g}"),
            Column(name="planned_seconds", title="planned", unit="worker-seconds", format="{:.1f}"),
            Column(name="spent_seconds", title="spent", unit="worker-seconds", format="{:.1f}"),
            Column(name="wasted_seconds", title="wasted", unit="worker-seconds", format="{:.1f}"),
        ),
        rows=tuple(rows),
        note="Wasted is part of spent. A run taken from an earlier folder costs nothing here.",
    )


def _row(
    name: str,
    planned_flops: float | None,
    planned_seconds: float | None,
    record: RunRecord | None,
    records: Sequence[RunRecord],
    plan: Plan | None,
) -> tuple[str | float | None, ...]:
    if record is None:
        return (name, "not run", planned_flops, 0.0, 0.0, 0.0, planned_seconds, 0.0, 0.0)
    spending = spending_of(record, records, plan)
    status = f"{record.status}, reused" if record.reused_from is not None else record.status
    return (
        name,
        status,
        planned_flops,
        spending.flops,
        spending.useful_flops,
        spending.wasted_flops,
        planned_seconds,
        spending.seconds,
        spending.wasted_seconds,
    )


def _seconds_wasted(attempt: Attempt) -> float:
    """Seconds have the share of waste that FLOPs have; an attempt that never took a step wasted them all."""
    if attempt.flops > 0:
        return attempt.seconds * min(1.0, attempt.flops_wasted / attempt.flops)
    return 0.0 if attempt.ended == "finished" else attempt.seconds


def _kept_share(record: RunRecord, records: Iterable[RunRecord], plan: Plan | None) -> float:
    """Share of a run without a result that its finished branches stand on, in [0, 1]."""
    children = [
        other for other in records if other.parent == record.fingerprint and other.status == "finished"
    ]
    if not children:
        return 0.0
    specs = {run.fingerprint: run.spec for run in plan.runs} if plan else {}
    trunk = specs.get(record.fingerprint)
    if trunk is None or any(child.fingerprint not in specs for child in children):
        return 1.0
    steps_kept = max(specs[child.fingerprint].start_step for child in children) - trunk.start_step
    steps_done = max((attempt.last_step for attempt in record.attempts), default=0) - trunk.start_step
    return min(1.0, steps_kept / steps_done) if steps_done > 0 else 0.0


def _planned_seconds(plan: Plan | None) -> float | None:
    """Worker-seconds of all planned runs; None when one of them has no estimate."""
    seconds = [run.cost_seconds for run in plan.runs] if plan else []
    known = [value for value in seconds if value is not None]
    return sum(known) if known and len(known) == len(seconds) else None


def _one_convention(records: Sequence[RunRecord], plan: Plan | None) -> Convention | None:
    found = {record.train_flops.convention for record in records}
    if plan:
        found.add(plan.planned_flops.convention)
    if len(found) > 1:
        raise ValueError(f"FLOPs under different conventions cannot be added: {', '.join(sorted(found))}")
    return found.pop() if found else None
