"""Folders of training logs, read as one mapping per run: the last value of each metric, and the configuration.

    W&B         run folders with files/wandb-summary.json and files/config.yaml, else their run-ID.wandb, which is
                all that offline runs leave
    trackio     its SQLite file: tables `metrics` and `configs`; or the Parquet files that it exports
    TensorBoard event files: scalars alone, read here without the tensorboard package
    JSONL       one file per run, one mapping per step; a config.json beside it is read too
    histories   one CSV or Parquet file per run, one row per step, as W&B and others export them

Nested names are joined with a dot. Left out: which of the names is the loss (`isoflop.fit.tables.runs`), histories
(a law of final losses needs the end of each run), and anything online.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from isoflop.fit.tables.protobuf import fields
from isoflop.fit.tables.wandb import read_transaction_log

RunValues = dict[str, Any]
CONFIG_NAMES = ("config.json", "hparams.json", "args.json", "params.json", "meta.json")
MAX_RUNS = 100_000
MAX_STEPS = 5_000_000
"""Rows of one exported file."""
STEP_NAMES = ("step", "global_step", "trainer/global_step", "iteration", "iter")


class LogError(ValueError):
    """A folder or a file in it that cannot be read as logs; the message names it and the remedy."""


def read_logs(folder: Path) -> tuple[list[RunValues], str]:
    """One mapping per run, each with the key `run` (its name), and the kind of logs found.

    Raises:
        LogError: nothing in the folder is a log that is understood.
    """
    for kind, reader in (
        ("W&B", _wandb),
        ("trackio", _trackio),
        ("TensorBoard", _tensorboard),
        ("JSONL", _jsonl),
        ("exported", _histories),
    ):
        runs = list(reader(folder))
        if len(runs) > MAX_RUNS:
            raise LogError(f"{folder} holds more than {MAX_RUNS} {kind} runs; give a subfolder")
        if runs:
            return runs, kind
    raise LogError(
        f"{folder} holds no W&B, trackio, TensorBoard or JSONL logs and no exported histories; give the folder "
        "that contains the runs, or export a table (CSV, Parquet or JSONL) with one row per run"
    )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(
                item, f"{prefix}{key}." if not isinstance(item, (int, float, str)) else f"{prefix}{key}"
            )
    elif prefix:
        yield prefix.rstrip("."), value


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise LogError(
            f"{path} is not valid JSON ({error}); the file may be cut short: move it away"
        ) from None


# ------------------------------------------------------------------------------------------- W&B


def _wandb(folder: Path) -> Iterator[RunValues]:
    summarised: set[Path] = set()
    for summary in sorted(folder.rglob("wandb-summary.json")):
        files = summary.parent
        place = files.parent if files.name == "files" else files
        if place.resolve() in summarised:  # latest-run is a link to one of the others
            continue
        summarised.add(place.resolve())
        values = dict(_flat(_load_json(summary)))
        config = summary.with_name("config.yaml")
        if config.is_file():
            values = {**_wandb_config(config.read_text()), **values}
        yield {"run": place.name, **values}
    for log in sorted(folder.rglob("*.wandb")):
        if log.parent.resolve() in summarised:
            continue
        summarised.add(log.parent.resolve())
        found = read_transaction_log(log)
        if found is not None:
            yield dict(_flat(found))


def _wandb_config(text: str) -> RunValues:
    """W&B's config.yaml: each name, then an indented `value:` (the only shape that it writes)."""
    values: RunValues = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "-")) or ":" not in line:
            continue
        indent = len(line) - len(line.lstrip())
        key, _, value = line.strip().partition(":")
        path = [(depth, name) for depth, name in path if depth < indent]
        path.append((indent, key.strip("\"' ")))
        if value.strip():
            names = [name for _, name in path if name not in ("value", "desc")]
            if names and path[-1][1] != "desc":
                values[".".join(names)] = value.strip().strip("\"'")
    return values


# --------------------------------------------------------------------------------------- trackio


def _trackio(folder: Path) -> Iterator[RunValues]:
    for path in sorted(folder.rglob("*.db")):
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            try:
                runs = _trackio_runs(connection)
            except (sqlite3.DatabaseError, ValueError):
                continue  # another program's database
        for run, values in runs.items():
            yield {"run": run, **values}
    for path in sorted(folder.rglob("*_configs.parquet")):
        yield from _trackio_parquet(path.with_name(path.name.replace("_configs", "")), path)


def _trackio_runs(connection: sqlite3.Connection) -> dict[str, RunValues]:
    """Runs by their id (newer files), else by their name; two runs may share a name."""
    runs: dict[str, RunValues] = {}
    has = {
        table: {row[1] for row in connection.execute(f"pragma table_info({table})")}
        for table in ("metrics", "configs")
    }
    key = "run_id" if "run_id" in has["metrics"] else "run_name"
    if key in has["configs"]:
        for run, name, config in connection.execute(f"select {key}, run_name, config from configs"):
            runs.setdefault(run, {}).update({**dict(_flat(json.loads(config))), "run": name})
    if key in has["metrics"]:
        rows = connection.execute(
            f"select {key}, run_name, step, metrics from metrics order by {key}, step, id"
        )
        for run, name, step, metrics in rows:
            runs.setdefault(run, {}).update({**dict(_flat(json.loads(metrics))), "step": step, "run": name})
    return runs


def _trackio_parquet(metrics: Path, configs: Path) -> Iterator[RunValues]:
    if not metrics.is_file():
        return
    runs: dict[str, RunValues] = {}
    for path in (configs, metrics):
        rows = _table_rows(path)
        if not rows or "run_name" not in rows[0]:
            return
        key = "run_id" if "run_id" in rows[0] else "run_name"
        for row in sorted(rows, key=lambda row: row.get("step") or 0):
            values = {name: value for name, value in row.items() if value is not None and name != "id"}
            runs.setdefault(str(row[key]), {}).update({**values, "run": row["run_name"]})
    yield from runs.values()


# ---------------------------------------------------------------------------- exported histories


def _table_rows(path: Path) -> list[RunValues]:
    """Rows of a CSV or Parquet file as mappings."""
    import duckdb

    reader = "read_parquet(?)" if path.suffix == ".parquet" else "read_csv_auto(?)"
    with duckdb.connect() as connection:
        try:
            found = connection.execute(f"select * from {reader} limit {MAX_STEPS + 1}", [str(path)])
            names, rows = [item[0] for item in found.description], found.fetchall()
        except duckdb.Error as error:
            first = str(error).splitlines()[0][:200]
            raise LogError(f"{path} cannot be read ({first}); export it again, or move it away") from None
    if len(rows) > MAX_STEPS:
        raise LogError(f"{path} has more than {MAX_STEPS:,} rows; keep the last step of each run")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _histories(folder: Path) -> Iterator[RunValues]:
    """One file per run, one row per step: the last value of each column, and the config.json beside it."""
    for path in sorted([*folder.rglob("*.csv"), *folder.rglob("*.parquet")]):
        rows = _table_rows(path)
        step = (
            next((name for name in rows[0] if name.strip("_").lower() in STEP_NAMES), None) if rows else None
        )
        if step is None:
            continue  # a table of something else
        values = _config_beside(path.parent)
        for row in sorted(rows, key=lambda row: row[step] or 0):
            values.update({name: value for name, value in row.items() if value is not None})
        alone = (
            len([*path.parent.glob("*.csv"), *path.parent.glob("*.parquet")]) == 1 and path.parent != folder
        )
        yield {**values, "run": path.parent.name if alone else path.stem}


# ----------------------------------------------------------------------------------- TensorBoard


def _tensorboard(folder: Path) -> Iterator[RunValues]:
    places: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        places.setdefault(path.parent, []).append(path)
    for place, paths in places.items():
        values = _config_beside(place)
        for path in paths:
            for step, tag, value in scalars(path):
                values[tag] = value
                values["step"] = max(step, int(values.get("step", 0)))
        yield {**values, "run": str(place.relative_to(folder)) if place != folder else place.name}


def scalars(path: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of each scalar in an event file, in order; a cut last record ends the file.

    The file is a sequence of TFRecords (length, checksum, Event message, checksum). Of the Event only the
    step (field 2) and the summary's values (field 5, then 1: tag 1, simple_value 2, tensor 8) are read.
    """
    with path.open("rb") as stream:
        while len(header := stream.read(12)) == 12:
            (length,) = struct.unpack("<Q", header[:8])
            if length > 2**26:
                raise LogError(
                    f"{path} is not a TensorBoard event file (a record of {length} bytes); move it away"
                )
            message = stream.read(length)
            if len(message) < length or len(stream.read(4)) < 4:
                return
            step, values = 0, []
            for number, item in fields(message):
                if number == 2 and isinstance(item, int):
                    step = item
                elif number == 5 and isinstance(item, bytes):
                    values += [
                        value for kind, value in fields(item) if kind == 1 and isinstance(value, bytes)
                    ]
            for value in values:
                tag, scalar = _summary_value(value)
                if scalar is not None:
                    yield step, tag, scalar


def _summary_value(message: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, item in fields(message):
        if number == 1 and isinstance(item, bytes):
            tag = item.decode(errors="replace")
        elif number == 2 and isinstance(item, bytes) and len(item) == 4:
            (scalar,) = struct.unpack("<f", item)
        elif number == 8 and isinstance(item, bytes):
            scalar = _tensor_scalar(item)
    return tag, scalar


def _tensor_scalar(message: bytes) -> float | None:
    """First element of a float (1) or double (2) TensorProto, from its content or its list of values."""
    dtype, content = 0, b""
    for number, item in fields(message):
        if number == 1 and isinstance(item, int):
            dtype = item
        elif number in (4, 5, 6) and isinstance(item, bytes):
            content = item
    if dtype == 1 and len(content) == 4:
        return float(struct.unpack("<f", content)[0])
    if dtype == 2 and len(content) == 8:
        return float(struct.unpack("<d", content)[0])
    return None


# ----------------------------------------------------------------------------------------- JSONL


def _config_beside(place: Path) -> RunValues:
    values: RunValues = {}
    for name in CONFIG_NAMES:
        path = place / name
        if path.is_file():
            values.update(_flat(_load_json(path)))
    return values


def _jsonl(folder: Path) -> Iterator[RunValues]:
    for path in sorted(folder.rglob("*.jsonl")):
        values = _config_beside(path.parent)
        with path.open() as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    step = json.loads(line)
                except ValueError:
                    if not line.endswith("\n"):
                        break  # the line that a killed run was writing
                    raise LogError(f"{path}, line {number} is not valid JSON; remove the line") from None
                if isinstance(step, dict):
                    values.update({key: item for key, item in _flat(step) if item is not None})
        alone = len(list(path.parent.glob("*.jsonl"))) == 1 and path.parent != folder
        yield {**values, "run": path.parent.name if alone else path.stem}
