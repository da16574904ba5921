"""What a report is made from: the store's files, read once, with plain ways to reach into them.

Leaves out every judgement: nothing here changes or drops a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isoflop.records import Figure, Measurement, Plan, RunRecord, RunSpec, Scalar, Table, Verdict
from isoflop.store import RunFolder, Store, StoreError

Row = dict[str, Scalar]


class PublishError(ValueError):
    """No report can be made from these records; the message says which record and what to change."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run as a report sees it: planned, started or ended."""

    spec: RunSpec
    fingerprint: str
    planned: bool
    folder: RunFolder | None
    """None for a planned run that never started."""
    record: RunRecord | None
    measurements: tuple[Measurement, ...] = ()

    @property
    def status(self) -> str:
        """ "finished", "diverged", "failed", "cut", "not finished" or "not started"."""
        if self.record is not None:
            return self.record.status
        return "not started" if self.folder is None else "not finished"

    @property
    def is_trunk(self) -> bool:
        return self.spec.branch is None and self.spec.evaluate is None

    @cached_property
    def loss_curve(self) -> np.ndarray:
        """(2, steps logged): FLOPs of the path from step 0, and the training loss in nats/token, of metrics.jsonl.

        Only these two are kept: all rows of a hundred runs would fill the memory of a small machine.
        """
        rows = [] if self.folder is None else self.folder.read_metrics()
        pairs = [
            (float(row["flops"]), float(row["loss_nats"]))
            for row in rows
            if row.get("loss_nats") is not None and row.get("flops")
        ]
        return np.array(pairs, dtype=float).reshape(-1, 2).T


@dataclass(frozen=True)
class StudyData:
    """Plan, verdict and runs of one store."""

    plan: Plan
    verdict: Verdict
    runs: tuple[RunView, ...]

    @cached_property
    def tables(self) -> dict[str, Table]:
        return {table.name: table for table in self.verdict.tables}

    def table(self, name: str, figure: Figure) -> Table:
        """A table of the verdict by name. Raises PublishError with the names there are."""
        if name not in self.tables:
            there = ", ".join(self.tables) or "none"
            raise PublishError(f"figure {figure.name!r} needs the table {name!r}; the verdict has: {there}")
        return self.tables[name]

    def rows(self, figure: Figure, role: str, *columns: str) -> list[Row]:
        """Rows of the table that plays a role in a figure, as mappings from column name to value.

        Args:
            figure: its option "<role>_table" names another table than the one called like the role.
            role: "bowls", "points" ...
            columns: names that must be there.

        Raises:
            PublishError: no such table, or a column is missing (those there are listed).
        """
        return rows_of(self.table(str(figure.options.get(f"{role}_table", role)), figure), figure, *columns)

    def only_table(self, figure: Figure, *columns: str) -> list[Row]:
        """Rows of the one table that a generic figure names. Raises PublishError unless there is exactly one."""
        if len(figure.tables) != 1:
            raise PublishError(
                f"figure {figure.name!r} of kind {figure.kind!r} draws exactly one table, "
                f"and names {len(figure.tables)}: {', '.join(figure.tables) or 'none'}"
            )
        return rows_of(self.table(figure.tables[0], figure), figure, *columns)


def rows_of(table: Table, figure: Figure, *columns: str) -> list[Row]:
    """The rows of a table as mappings; see `StudyData.rows`."""
    names = [column.name for column in table.columns]
    missing = [name for name in columns if name not in names]
    if missing:
        raise PublishError(
            f"figure {figure.name!r} needs the column(s) {', '.join(missing)} in the table {table.name!r}; "
            f"it has: {', '.join(names)}"
        )
    return [dict(zip(names, row, strict=True)) for row in table.rows]


def read_study(store: Store) -> StudyData:
    """Read plan, verdict and every run of a store.

    Raises StoreError when plan.json or verdict.json is missing, RecordError for a damaged file.
    """
    plan = store.read_plan()
    return StudyData(plan=plan, verdict=store.read_verdict(), runs=tuple(_runs(store, plan)))


def _runs(store: Store, plan: Plan) -> Iterator[RunView]:
    """Planned runs in the order of the plan, then run folders that the plan does not know."""
    folders = {}
    for folder in store.run_folders():
        spec = folder.read_spec()
        folders[spec.fingerprint()] = (spec, folder)
    for planned in plan.runs:
        found = folders.pop(planned.fingerprint, None)
        yield _view(planned.spec, planned.fingerprint, None if found is None else found[1], planned=True)
    for fingerprint, (spec, folder) in folders.items():
        yield _view(spec, fingerprint, folder, planned=False)


def _view(spec: RunSpec, fingerprint: str, folder: RunFolder | None, *, planned: bool) -> RunView:
    record = folder.read_record() if folder is not None and folder.finished else None
    if record is not None and record.fingerprint != fingerprint and folder is not None:
        raise StoreError(f"{folder.record_path} belongs to another run; delete the folder to train it again")
    return RunView(
        spec=spec,
        fingerprint=fingerprint,
        planned=planned,
        folder=folder,
        record=record,
        measurements=() if folder is None else tuple(folder.read_measurements()),
    )


def as_float(value: Scalar) -> float | None:
    """A cell as a float; None stays None. Raises PublishError for text."""
    if value is None:
        return None
    if isinstance(value, str):
        raise PublishError(f"expected a number in a drawn column, found {value!r}")
    return float(value)
