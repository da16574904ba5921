"""Points (x, y) from a user's table, and whether a table asks for a law or for a curve.

Left out: reading runs with N, D and loss (`isoflop.fit.tables.runs`), and the fits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from isoflop.fit.tables.runs import USUAL_NAMES, TableError, refuse_other_than_text

Array = np.ndarray

ROLES: dict[str, tuple[str, ...]] = {
    "x": ("x",),
    "y": ("y", "score", "accuracy", "acc", "accnorm", "exactmatch", *USUAL_NAMES["loss"]),
    "sigma": ("sigma", "stderr", "se", "sd", "error"),
    "n": ("n", "items", "numitems", "nitems"),
}
"""Names by role, without case or punctuation."""
ACCURACIES = ("accuracy", "acc", "accnorm", "exactmatch")
"""Names of columns that hold shares of right answers."""
ONE_CURVE = ("metric", "metricname", "task", "benchmark", "curve")
"""Names of columns whose several values mean several curves in one table."""


@dataclass(frozen=True, kw_only=True)
class PointsTable:
    """Points to put a curve through.

    Attributes:
        x, y: [n], in the order of the file.
        sigma: known standard error of y, [n], or None.
        num_items: items behind each score, [n], or None.
        columns: role -> column it was taken from.
    """

    x: Array
    y: Array
    sigma: Array | None
    num_items: Array | None
    columns: dict[str, str]

    @property
    def metric(self) -> Literal["score", "accuracy", "loss"]:
        """What y is by its column's name: an accuracy lies in [0, 1], a loss is above 0, a score may be anything."""
        name = _plain(self.columns["y"])
        if name in USUAL_NAMES["loss"]:
            return "loss"
        return "accuracy" if name in ACCURACIES else "score"


def kind_of(path: Path, columns: Mapping[str, str]) -> Literal["law", "curve"]:
    """Whether a table holds runs (size, tokens or FLOPs, loss) or points (x, y).

    Columns of both kinds (pixels x and y beside the runs that were read off a figure) mean runs, unless x or y
    is named. Raises TableError when it is neither; the message says how to choose.
    """
    if path.is_dir():
        return "law"
    written = _columns(path)
    names = [_plain(name) for name in written]
    given = set(columns)
    has = {
        role: role in given or any(name in USUAL_NAMES[role] for name in names)
        for role in ("N", "D", "C", "loss")
    }
    is_law = has["N"] and has["loss"] and (has["D"] or has["C"])
    runs_without_loss = len(names) == 2 and all(
        any(name in USUAL_NAMES[role] for role in ("N", "D", "C")) for name in names
    )
    found = {role for role in ("x", "y") if role in given or set(ROLES[role]) & set(names)}
    is_curve = found == {"x", "y"} or (len(names) == 2 and not runs_without_loss)
    if {"x", "y"} & given:
        return "curve"
    if is_law:
        return "law"
    if len(names) == 2 and has["N"] and has["loss"]:
        raise TableError(
            f"{path.name} has N and loss alone ({', '.join(written)}): a law also needs tokens or FLOPs, so add that "
            "column; for a curve of the loss over the size say --as curve"
        )
    if len(names) > 2 and has["N"] + has["loss"] + (has["D"] or has["C"]) == 2:
        return "law"  # whose reader says which column is missing
    if is_curve:
        return "curve"
    if runs_without_loss:
        return "law"
    raise TableError(
        f"{path.name} has neither N, tokens (or FLOPs) and loss nor x and y among its columns "
        f"({', '.join(written)}): name them, --column N=NAME --column D=NAME --column loss=NAME for a law or "
        "--column x=NAME --column y=NAME for a curve, or say --as law or --as curve"
    )


def read_points(path: Path, columns: Mapping[str, str]) -> PointsTable:
    """Read x and y, and where they are there their standard error or the number of items.

    Args:
        path: .csv, .tsv, .parquet or .jsonl.
        columns: role (x, y, sigma, n) -> column; the others are found by name, or as the first two columns.

    Raises TableError for a column that is missing, an entry that is no finite number, naming the row, or several
    metrics or tasks in one table.
    """
    table = _read(path)
    _refuse_several_curves(table, columns, path)
    found = dict(columns)
    for role, usual in ROLES.items():
        if len(table) == 2 and role in ("sigma", "n"):
            continue  # both columns are needed for the points themselves
        match = next((name for name in table if _plain(name) in usual and name not in found.values()), None)
        if role not in found and match is not None:
            found[role] = match
    left = [name for name in table if name not in found.values()]
    for role in ("x", "y"):
        if role not in found and left:
            found[role] = left.pop(0)
    for role, name in found.items():
        if role not in ROLES:
            raise TableError(f"unknown role {role!r}; a curve takes {', '.join(ROLES)}")
        if name not in table:
            raise TableError(f"{path.name} has no column {name!r}; it has {', '.join(table)}")
    if "x" not in found or "y" not in found:
        raise TableError(f"{path.name} needs two columns, x and y; it has {', '.join(table) or 'none'}")
    values = {role: _numbers(table[name], name, path) for role, name in found.items()}
    return PointsTable(
        x=values["x"], y=values["y"], sigma=values.get("sigma"), num_items=values.get("n"), columns=found
    )


def _refuse_several_curves(table: Mapping[str, list[Any]], columns: Mapping[str, str], path: Path) -> None:
    """Scores of several metrics or tasks are no curve: one fit through them would mean nothing."""
    for name, entries in table.items():
        if _plain(name) not in ONE_CURVE or name in columns.values():
            continue
        counts = Counter(map(str, entries))
        if len(counts) > 1:
            listed = ", ".join(f"{value} ({count} rows)" for value, count in counts.most_common(6))
            raise TableError(
                f"{path.name} mixes {len(counts)} curves, by its column {name}: {listed}; fit one at a time, from a "
                f"table that holds the rows of one {name} alone"
            )


def _plain(name: str) -> str:
    return "".join(ch for ch in name.lower() if ch.isalnum())


def _numbers(column: list[Any], name: str, path: Path) -> Array:
    out = np.empty(len(column))
    for row, entry in enumerate(column, start=1):
        try:
            out[row - 1] = float(entry)
        except (TypeError, ValueError):
            out[row - 1] = math.nan
        if not math.isfinite(out[row - 1]):
            raise TableError(
                f"{path.name}, row {row}: {name} is {entry!r}, not a number; mend or delete the row"
            )
    return out


def _reader(path: Path) -> str:
    """DuckDB's function for a kind of file."""
    kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    readers = {
        "csv": "read_csv_auto(?)",
        "tsv": "read_csv_auto(?)",
        "parquet": "read_parquet(?)",
        "jsonl": "read_json_auto(?)",
        "ndjson": "read_json_auto(?)",
        "json": "read_json_auto(?)",
    }
    if kind not in readers or not path.is_file():
        raise TableError(f"{path}: give an existing .csv, .tsv, .parquet or .jsonl file, or a folder of logs")
    if path.stat().st_size == 0:
        raise TableError(f"{path.name} is empty; export the runs again, one row per run with a header line")
    refuse_other_than_text(path, kind)
    return readers[kind]


def _query(path: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names and rows of a query on a file; {file} stands for it."""
    import duckdb

    reader = _reader(path)
    with duckdb.connect() as connection:
        try:
            result = connection.execute(sql.format(file=reader), [str(path)])
            return [item[0] for item in result.description], result.fetchall()
        except duckdb.Error as error:
            first = str(error).splitlines()[0][:200]
            raise TableError(
                f"{path.name} cannot be read ({first}); export it again, as CSV with a header line, Parquet or JSONL"
            ) from None


def _columns(path: Path) -> list[str]:
    """Names of the columns, without reading the rows."""
    return [str(row[0]) for row in _query(path, "describe select * from {file}")[1]]


def _read(path: Path) -> dict[str, list[Any]]:
    """All columns of a file, by name."""
    names, rows = _query(path, "select * from {file} limit 100001")
    if len(rows) > 100_000:
        raise TableError(
            f"{path.name} has over 100,000 rows; a curve wants its points, not a log: thin it first"
        )
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}
