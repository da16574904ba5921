"""Tables as files: CSV for everyone, Parquet for tools, both with full precision and the same types.

DuckDB writes the Parquet file from the CSV, so the two cannot differ. It is imported when a file is written.
Leaves out how a table looks on the page (`isoflop.publish.page`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from isoflop.publish.evidence import PublishError, RunView, StudyData
from isoflop.records import Column, Scalar, Table

_BIGINT = 2**63


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """One table in both formats."""

    csv: bytes
    parquet: bytes


def column_type(values: list[Scalar]) -> str:
    """The SQL type that holds every value of a column: BOOLEAN, BIGINT, DOUBLE or VARCHAR."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int} and all(abs(value) < _BIGINT for value in values if isinstance(value, int)):
        return "BIGINT"
    if float in kinds and kinds <= {int, float}:
        return "DOUBLE"
    return "VARCHAR"


def csv_bytes(table: Table) -> bytes:
    """The table as CSV (RFC 4180 quoting, UTF-8, "\\n"). Text is quoted, so an empty cell is a missing one."""
    lines = [",".join(_quoted(column.name) for column in table.columns)]
    lines += [",".join(_cell(value) for value in row) for row in table.rows]
    return ("\n".join(lines) + "\n").encode()


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else repr(value)


def table_files(tables: tuple[Table, ...]) -> dict[str, TableFiles]:
    """Every table in both formats, by name.

    Raises PublishError for a column name that appears twice in a table.
    """
    import duckdb

    files: dict[str, TableFiles] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(":memory:", config={"threads": 1}) as connection,
    ):
        for table in tables:
            names = [column.name for column in table.columns]
            if len({name.lower() for name in names}) < len(names):
                raise PublishError(
                    f"table {table.name!r}: two columns have the same name: {', '.join(names)}"
                )
            source, target = Path(folder) / "table.csv", Path(folder) / "table.parquet"
            text = csv_bytes(table)
            source.write_bytes(text)
            types = [column_type([row[place] for row in table.rows]) for place in range(len(names))]
            connection.execute(_copy_statement(source, target, names, types))
            files[table.name] = TableFiles(csv=text, parquet=target.read_bytes())
    return files


def _copy_statement(source: Path, target: Path, names: list[str], types: list[str]) -> str:
    def literal(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    columns = ", ".join(f"{literal(name)}: '{kind}'" for name, kind in zip(names, types, strict=True))
    return (
        f"COPY (SELECT * FROM read_csv({literal(str(source))}, header = true, delim = ',', "
        f"quote = '\"', escape = '\"', auto_detect = false, allow_quoted_nulls = false, nullstr = '', "
        f"columns = {{{columns}}})) "
        f"TO {literal(str(target))} (FORMAT parquet)"
    )


RUNS_TABLE = "run_list"


def run_table(data: StudyData) -> Table:
    """Every run of the plan and of the store, one row each: what it was to do, what it did, what it cost."""
    columns = (
        Column(name="run", title="run"),
        Column(name="fingerprint", title="fingerprint"),
        Column(name="size", title="width × depth"),
        Column(name="seed", title="seed", format="{:d}"),
        Column(name="steps", title="steps", format="{:,d}"),
        Column(name="tokens", title="tokens", format="{:,d}"),
        Column(name="peak_lr", title="peak rate", format="{:.3g}"),
        Column(name="planned_flops", title="planned", unit="FLOPs", format="{:.2e}"),
        Column(name="spent_flops", title="spent", unit="FLOPs", format="{:.2e}"),
        Column(name="wasted_flops", title="wasted", unit="FLOPs", format="{:.2e}"),
        Column(name="seconds", title="time", unit="s", format="{:.1f}"),
        Column(name="loss_nats", title="held-out loss", unit="nats/token", format="{:.4f}"),
        Column(name="loss_lo", title="low", unit="nats/token", format="{:.3f}"),
        Column(name="loss_hi", title="high", unit="nats/token", format="{:.3f}"),
        Column(name="status", title="status"),
        Column(name="reason", title="reason"),
    )
    return Table(
        name=RUNS_TABLE,
        title="Every run, planned and done",
        columns=columns,
        rows=tuple(_run_row(run, data) for run in data.runs),
        note="FLOPs are those that the run itself adds: a cooldown branch does not count its trunk again. Low and high "
        "are the 95 % interval from sampling the validation windows alone, not paired.",
    )


def _run_row(run: RunView, data: StudyData) -> tuple[Scalar, ...]:
    record, spec = run.record, run.spec
    planned = next((item.cost_flops for item in data.plan.runs if item.fingerprint == run.fingerprint), None)
    score = run.measurements[-1].loss if run.measurements else None
    reasons = [record.reason] if record is not None and record.reason else []
    if record is not None and record.reused_from:
        reasons.append(f"taken from {Path(record.reused_from).name}")
    if not run.planned:
        reasons.append("not in the plan")
    return (
        spec.name, run.fingerprint[:8], spec.net.words, spec.seed, spec.num_steps, spec.tokens, spec.optimizer.peak_lr,
        planned, *((record.flops_spent, record.flops_wasted, record.seconds_spent) if record else (None, None, None)),
        *((score.value, score.lo, score.hi) if score else (None, None, None)), run.status, "; ".join(reasons),
    )  # fmt: skip
