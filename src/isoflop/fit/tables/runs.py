"""A user's own runs, read from the file that they are in: N, D, loss of each, and what was left out and why.

CSV, Parquet and JSONL go through DuckDB, which streams them; a folder of W&B, trackio, TensorBoard or JSONL
logs gives one row per run (`table_logs`). Columns are found by their usual names, or given. Where a log has
many steps per run, the last is taken. Each row that is left out carries its reason.

Left out: whether the table can carry a law (`parametric_checks`), and the fit itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from isoflop.fit.tables.logs import LogError, read_logs
from isoflop.records import Exclusion

Array = np.ndarray
Role = Literal["N", "D", "C", "loss", "cluster", "exclude", "reason", "run", "step"]

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "N": (
        "n", "params", "nparams", "numparams", "parameters", "nparameters", "numparameters", "parametercount",
        "paramcount", "modelsize", "modelparams", "modelparameters", "totalparams", "totalparameters",
        "sizeparams", "paramstotal", "trainableparams", "nparamstotal", "nonembeddingparams", "paramsnoembed",
    ),
    "D": (
        "d", "tokens", "ntokens", "numtokens", "traintokens", "trainingtokens", "tokensseen", "totaltokens",
        "numtraintokens", "numtokensseen", "throughputtotaltokens", "tokenstotal", "tokencount", "datasize",
        "consumedtokens",
    ),
    "C": (
        "c", "flops", "flop", "trainingflop", "trainingflops", "trainflops", "trainflop", "compute", "totalflops",
        "computeflops", "flopsbudget", "computebudget", "flops6nd", "totalflop", "budget",
    ),
    "loss": (
        "loss", "valloss", "validationloss", "evalloss", "heldoutloss", "testloss", "finalloss", "finalvalloss",
        "lmloss", "vallossnats", "lossnats", "crossentropy", "crossentropyloss", "celoss", "nll",
        "valcrossentropy", "evalcrossentropy", "trainloss", "trainingloss",
    ),
    "cluster": ("cluster", "trunk", "family", "group"),
    "exclude": ("exclude", "excluded"),
    "reason": ("reason", "excludereason"),
    "run": ("run", "runid", "runname", "name", "id", "experiment"),
    "step": ("step", "globalstep", "iteration", "iter", "trainerglobalstep"),
}  # fmt: skip
"""Names by role, without case or punctuation, in order of preference."""

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_COUNT = re.compile(
    r"^\s*([+-]?[\d_,]*\.?\d+(?:[eE][+-]?\d+)?)\s*([kmbgtKMBGT]?)\s*(?:params|parameters|tokens|tok)?\s*$"
)
MAX_ROWS = 200_000
"""More rows than this are not a table of runs."""
MAX_LISTED = 1_000
SMALLEST_COUNT = 1_000.0
"""A table whose largest N or D is below this does not count single parameters or tokens."""
MIN_ROWS = 6
MEMORY_LIMIT = "1GB"
_LOOKED_AT = 1 << 16
"""Bytes at the start of a file by which it is told whether it is text."""


class TableError(ValueError):
    """A table that cannot be used; one line with what is wrong, where, and the remedy."""


@dataclass(frozen=True)
class RunsTable:
    """Runs ready to be fitted, and what did not become one."""

    N: Array
    """Parameters, [n], as the table counts them."""
    D: Array
    """Training tokens, [n]."""
    loss: Array
    """Final loss, [n], nats per token unless a note says otherwise."""
    source: str
    """File or folder."""
    columns: dict[str, str]
    """Role -> column it was taken from, or the formula that it was computed with."""
    cluster: Array | None = None
    """Group of each run when the table has such a column, [n] strings."""
    names: tuple[str, ...] = ()
    """A name for each run: the table's own, else its row."""
    exclusions: tuple[Exclusion, ...] = ()
    rows_excluded: int = 0
    """Rows left out; more than `exclusions` lists when there are very many."""
    notes: tuple[str, ...] = ()

    @property
    def rows_used(self) -> int:
        return len(self.N)


def read_runs(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    bad_rows: Literal["refuse", "exclude"] = "refuse",
    k: float = 6.0,
) -> RunsTable:
    """Read a table of runs, or a folder of logs.

    Args:
        path: .csv, .tsv, .parquet, .jsonl/.ndjson (also .gz), or a folder of logs.
        columns: role -> column for those that are not found by name; roles are N, D, C, loss, cluster,
            exclude, reason, run, step. The filter column "exclude" must be named to be used, unless it is
            called so.
        bad_rows: what to do with missing, non-numeric, NaN or non-positive entries: "refuse" raises with the
            row and the remedy, "exclude" leaves the row out with that reason.
        k: FLOPs per parameter and token, to get D from C when there is no column of tokens.

    Raises:
        TableError: see the message; each says what to do.
    """
    path = Path(path)
    if path.is_dir():
        frame = _from_logs(path)
    elif path.is_file():
        frame = _from_file(path, columns or {})
    else:
        raise TableError(f"{path} does not exist; give a CSV, Parquet or JSONL file, or a folder of logs")
    found = _resolve(frame, columns or {})
    return _assemble(frame, found, bad_rows, k)


def read_candidates(
    path: str | Path, columns: Mapping[str, str] | None = None, *, k: float = 6.0
) -> tuple[Array, Array, Array]:
    """Runs that could be done: N, D and the cost of each in FLOPs, [m] each.

    Args:
        path: a file as for `read_runs`, without losses.
        columns: role -> column for those that are not found by name; roles are N, D and C.
        k: FLOPs per parameter and token: gives the cost where there is no column C, and D or N where C stands
            in its place.

    Raises TableError with the remedy, also for an entry that is missing or not positive.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(
            f"{path} does not exist; give a CSV, Parquet or JSONL file of runs that could be done"
        )
    frame = _from_file(path, columns or {})
    names = frame.columns.pop("__names", None) or list(frame.columns)
    found = _match(names, columns or {}, frame.source)
    used = [role for role in ("N", "D", "C") if role in found]
    if len(used) < 2 or not len(frame):
        raise TableError(
            f"{frame.source} lists no runs that could be done: it needs rows with two of N, D and C (the FLOPs of "
            f"each), and has {_listed(names)}; rename the columns, one row per run"
        )
    values: dict[str, Array] = {}
    for role in used:
        values[role], problems = _numbers(frame, found[role])
        for row, problem in enumerate(problems, start=1):
            if problem:
                raise TableError(f"{frame.source}, row {row}: {problem}; correct or remove the row")
    N, D = _complete(values, dict(found), k, [])
    return N, D, values.get("C", k * N * D)


# ------------------------------------------------------------------------------------ reading


@dataclass
class _Frame:
    source: str
    columns: dict[str, list[Any]]
    exclusions: list[Exclusion]
    rows_excluded: int
    notes: list[str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def _from_logs(folder: Path) -> _Frame:
    try:
        runs, kind = read_logs(folder)
    except LogError as error:
        raise TableError(str(error)) from None
    names = list(dict.fromkeys(key for run in runs for key in run))
    columns = {name: [run.get(name) for run in runs] for name in names}
    return _Frame(
        str(folder), columns, [], 0, [f"read {len(runs)} runs from {kind} logs: the last value of each"]
    )


def _from_file(path: Path, given: Mapping[str, str]) -> _Frame:
    import duckdb

    kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    readers = {
        "csv": "read_csv_auto(?, all_varchar = true, sample_size = 1000)",
        "tsv": "read_csv_auto(?, all_varchar = true, sample_size = 1000)",
        "parquet": "read_parquet(?)",
        "jsonl": "read_json_auto(?, format = 'newline_delimited')",
        "ndjson": "read_json_auto(?, format = 'newline_delimited')",
        "json": "read_json_auto(?)",
    }
    if kind not in readers:
        raise TableError(f"{path.name}: unknown kind of file; give .csv, .tsv, .parquet or .jsonl (also .gz)")
    if path.stat().st_size == 0:
        raise TableError(f"{path.name} is empty; export the runs again, one row per run with a header line")
    refuse_other_than_text(path, kind)
    with duckdb.connect() as connection:
        connection.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("set preserve_insertion_order = true")
        try:
            relation = f"(select *, row_number() over () as __row from {readers[kind]})"
            described = connection.execute(f"describe select * from {readers[kind]}", [str(path)]).fetchall()
            return _query(connection, path, relation, [row[0] for row in described], given)
        except duckdb.Error as error:
            first = str(error).splitlines()[0][:200]
            raise TableError(f"{path.name} cannot be read as {kind} ({first}); export it again") from None


def refuse_other_than_text(path: Path, kind: str) -> None:
    """Say at once that a text file holds none: its reader would look for the end of a line up to its end.

    Raises TableError for a file of kind csv, tsv or json that begins with bytes no text has.
    """
    if kind == "parquet" or path.name.lower().endswith(".gz"):
        return
    with path.open("rb") as stream:
        if b"\0" in stream.read(_LOOKED_AT):
            raise TableError(
                f"{path.name} cannot be read as {kind}: it holds bytes that are no text (a cut, sparse or binary "
                "file); export it again, as CSV with a header line, Parquet or JSONL"
            )


def _query(connection: Any, path: Path, relation: str, names: list[str], given: Mapping[str, str]) -> _Frame:
    """The columns that have a role, as text; the last step of each run where there are steps."""
    found = _match(names, given, path.name)
    wanted = [name for name in names if name in set(found.values())]
    selected = ", ".join([*(f'"{name}"::varchar as "{name}"' for name in wanted), "__row"])
    source = f"(select {selected} from {relation})"
    (rows,) = connection.execute(f"select count(*) from {source}", [str(path)]).fetchone()
    exclusions: list[Exclusion] = []
    notes: list[str] = []
    excluded = 0
    if "run" in found and "step" in found:
        run, step = (f'"{found[role]}"' for role in ("run", "step"))
        by_step = f"partition by {run} order by try_cast({step} as double) desc"
        last = f"(select * from {source} qualify row_number() over ({by_step}) = 1)"
        (runs,) = connection.execute(f"select count(*) from {last}", [str(path)]).fetchone()
        if runs < rows:
            excluded = rows - runs
            reason = f"earlier steps of the same run (by {found['run']}, {found['step']}): a law needs the end of each"
            exclusions.append(Exclusion(what=f"{excluded} rows of {path.name}", reason=reason))
            source, rows = last, runs
    if rows > MAX_ROWS:
        raise TableError(
            f"{path.name} ({path.stat().st_size / 1e9:.2g} GB) has {rows:,} rows: a table of runs has one row per "
            "run, this looks like a log of every step; keep each run's last step, or name the columns of the run "
            "and the step so that this is done here (--column run=NAME --column step=NAME)"
        )
    order = connection.execute(f"select * from {source} order by __row", [str(path)])
    fetched = order.fetchall()
    columns = {name: [row[i] for row in fetched] for i, name in enumerate([*wanted, "__row"])}
    notes += [f"{name} was not used" for name in _rivals(names, found)]
    columns["__names"] = names
    return _Frame(path.name, columns, exclusions, excluded, notes)


# ---------------------------------------------------------------------------------- columns


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _match(names: Iterable[str], given: Mapping[str, str], source: str) -> dict[str, str]:
    """Role -> column. Given names must exist; the others are looked for."""
    names = [name for name in names if not name.startswith("__")]
    found: dict[str, str] = {}
    for role, name in given.items():
        if role not in USUAL_NAMES:
            raise TableError(f"unknown role {role!r} for column {name!r}; roles are {', '.join(USUAL_NAMES)}")
        same = [other for other in names if other == name] or [o for o in names if _plain(o) == _plain(name)]
        if not same:
            raise TableError(f"{source} has no column {name!r} for {role}; it has {_listed(names)}")
        found[role] = same[0]
    for role, usual in USUAL_NAMES.items():
        if role in found:
            continue
        ranked = [
            (usual.index(plain), index, name)
            for index, name in enumerate(names)
            for plain in (_plain(name), _plain(re.split(r"[/.]", name)[-1]))
            if plain in usual and name not in found.values()
        ]
        if ranked:
            found[role] = min(ranked)[2]
    return found


def _rivals(names: list[str], found: Mapping[str, str]) -> list[str]:
    """Other columns that look like a loss: a choice was made, so it is said."""
    if "loss" not in found:
        return []
    return [
        f"column {name!r} also looks like a loss; {found['loss']!r} was taken, {name!r}"
        for name in names
        if name != found["loss"] and _plain(name) in USUAL_NAMES["loss"]
    ]


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _resolve(frame: _Frame, given: Mapping[str, str]) -> dict[str, str]:
    names = frame.columns.pop("__names", None) or list(frame.columns)
    found = _match(names, given, frame.source)
    if not len(frame):
        raise TableError(
            f"{frame.source} has no rows; one row per run is needed, with N, D (or FLOPs) and loss"
        )
    missing = [role for role in ("N", "loss") if role not in found]
    if "loss" in missing:
        near = [name for name in names if "loss" in name.lower() or "entropy" in name.lower()]
        hint = f" (perhaps {_listed(near)})" if near else ""
        raise TableError(
            f"{frame.source} has no column for the loss{hint}; it has {_listed(names)}; rename it to loss, or say "
            "which it is (--column loss=NAME)"
        )
    if "N" in missing and not ("D" in found and "C" in found):
        raise TableError(
            f"{frame.source} has no column for the parameters; it has {_listed(names)}; rename it to N, or say "
            "which it is (--column N=NAME)"
        )
    if "D" not in found and "C" not in found:
        raise TableError(
            f"{frame.source} has no column for tokens nor for FLOPs; it has {_listed(names)}; rename one to D or "
            "to C, or say which it is (--column D=NAME or C=NAME)"
        )
    return found


# ------------------------------------------------------------------------------------- rows


def _number(value: Any) -> float | None:
    """A float, also of "1.3B", "410M", "1,000"; None when it is not a number."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    text = str(value).strip()
    try:
        return float(text)
    except ValueError:
        match = _COUNT.match(text)
        if not match:
            return None
        return float(re.sub(r"[_,]", "", match[1])) * _SUFFIXES.get(match[2].lower(), 1.0)


def _numbers(frame: _Frame, column: str) -> tuple[Array, list[str | None]]:
    """Values of a column, and for each row what is wrong with it, if anything."""
    raw = frame.columns[column]
    values, wrong = np.full(len(raw), np.nan), [None] * len(raw)
    problems: list[str | None] = list(wrong)
    for row, item in enumerate(raw):
        number = _number(item)
        if number is None:
            missing = item is None or not str(item).strip()
            problems[row] = (
                f"{column} is missing" if missing else f"{column} is {str(item)[:40]!r}, not a number"
            )
        elif math.isnan(number):
            problems[row] = f"{column} is NaN (a run that diverged or was not evaluated?)"
        elif not math.isfinite(number):
            problems[row] = f"{column} is {number}"
        elif number <= 0:
            problems[row] = f"{column} is {number:g}, not positive"
        values[row] = number if number is not None else np.nan
    return values, problems


def _assemble(frame: _Frame, found: dict[str, str], bad_rows: str, k: float) -> RunsTable:
    total = len(frame)
    rows = frame.columns.pop("__row", None) or list(range(1, total + 1))
    labels = [str(value) for value in frame.columns[found["run"]]] if "run" in found else None
    names = labels if labels and len(set(labels)) == total else [f"row {row}" for row in rows]
    excluded: dict[int, str] = _flagged(frame, found)
    used: dict[str, str] = {role: found[role] for role in ("N", "D", "C", "loss") if role in found}
    if {"N", "D"} <= set(used):
        used.pop("C", None)
    values: dict[str, Array] = {}
    for role, column in used.items():
        values[role], problems = _numbers(frame, column)
        for row, problem in enumerate(problems):
            if problem and row not in excluded:
                if bad_rows == "refuse":
                    raise TableError(
                        f"{frame.source}, {names[row]}: {problem}; correct or remove the row, or leave such rows "
                        'out with this reason (--skip-bad-rows, or bad_rows="exclude")'
                    )
                excluded[row] = problem
    notes = list(frame.notes)
    sources = dict(used)
    _refuse_billions(frame.source, values, used, excluded)
    N, D = _complete(values, sources, k, notes)
    loss = _in_nats(values["loss"], found["loss"], notes)
    keep = np.array([row not in excluded for row in range(total)])
    _refuse_few(frame.source, int(keep.sum()), total)
    listed = [Exclusion(what=names[row], reason=reason) for row, reason in sorted(excluded.items())][
        :MAX_LISTED
    ]
    cluster = (
        np.array([str(value) for value in frame.columns[found["cluster"]]])[keep]
        if "cluster" in found
        else None
    )
    if cluster is not None:
        sources["cluster"] = found["cluster"]
    return RunsTable(
        N=N[keep], D=D[keep], loss=loss[keep], source=frame.source, columns=sources, cluster=cluster,
        names=tuple(name for name, kept in zip(names, keep, strict=True) if kept),
        exclusions=(*frame.exclusions, *listed), rows_excluded=frame.rows_excluded + len(excluded),
        notes=tuple(notes),
    )  # fmt: skip


def _flagged(frame: _Frame, found: dict[str, str]) -> dict[int, str]:
    """Rows that the table itself marks as excluded, with its reason where it gives one."""
    if "exclude" not in found:
        return {}
    flags = [
        str(value).strip().lower() in ("1", "true", "yes", "y", "t")
        for value in frame.columns[found["exclude"]]
    ]
    reasons = frame.columns.get(found.get("reason", ""), [None] * len(flags))
    return {
        row: f"flagged by column {found['exclude']}" + (f": {reasons[row]}" if reasons[row] else "")
        for row, flag in enumerate(flags)
        if flag
    }


def _complete(
    values: dict[str, Array], sources: dict[str, str], k: float, notes: list[str]
) -> tuple[Array, Array]:
    """N and D, one of them from C = k N D when it has no column."""
    if "D" not in values:
        sources["D"] = f"{sources['C']} / ({k:g} {sources['N']})"
        notes.append(f"no column of tokens: D = C / ({k:g} N), with C from {sources['C']}")
        return values["N"], values["C"] / (k * values["N"])
    if "N" not in values:
        sources["N"] = f"{sources['C']} / ({k:g} {sources['D']})"
        notes.append(f"no column of parameters: N = C / ({k:g} D), with C from {sources['C']}")
        return values["C"] / (k * values["D"]), values["D"]
    return values["N"], values["D"]


def _refuse_billions(
    source: str, values: Mapping[str, Array], used: Mapping[str, str], excluded: Mapping[int, str]
) -> None:
    """A column that counts in millions or billions would be fitted, and planned with, as it stands."""
    for role in ("N", "D"):
        known = np.delete(values.get(role, np.zeros(0)), list(excluded))
        if len(known) and np.max(known) < SMALLEST_COUNT:
            word = "parameters" if role == "N" else "tokens"
            raise TableError(
                f"{source}: {used[role]} runs from {np.min(known):.3g} to {np.max(known):.3g}, too few {word} for any "
                f"run, so it seems to count in millions or billions; give whole {word}, or a suffix to each (1.3B)"
            )


def _in_nats(loss: Array, column: str, notes: list[str]) -> Array:
    plain = _plain(column)
    if "ppl" in plain or "perplexity" in plain:
        notes.append(f"{column} is perplexity: its logarithm is fitted")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(loss)
    if "bpb" in plain or "bits" in plain or plain.endswith("bpc"):
        notes.append(f"{column} is in bits: so are E and the losses below, and L(N, D) holds in that unit")
    if "train" in plain:
        notes.append(f"{column} is a training loss: it is lower than a held-out one where data repeat")
    return loss


def _refuse_few(source: str, used: int, total: int) -> None:
    if used < MIN_ROWS:
        left = f" ({total - used} of {total} left out)" if used < total else ""
        raise TableError(
            f"{source} has {used} usable runs{left}: the law has 5 parameters, so at least {MIN_ROWS} are needed and "
            "20 or more give usable intervals; add runs at other sizes and tokens"
        )
