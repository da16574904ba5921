"""One command from a store to its report: page, figures, tables and the manifest of every file.

Everything is derived from plan.json, verdict.json and runs/, and nothing depends on the clock, the path or the
machine: the same records and versions give the same bytes. Leaves out drawing, words and tables, which have
their own modules.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from isoflop.publish.evidence import PublishError, StudyData, read_study
from isoflop.publish.figures import Drawn, draw_figure
from isoflop.publish.page import REBUILD, render_page, versions
from isoflop.publish.tables import RUNS_TABLE, run_table, table_files
from isoflop.records import Record, RecordError, read
from isoflop.store import Store, write_atomic

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, kw_only=True)
class PublishResult:
    """What was published."""

    report: Path
    files: tuple[Path, ...]
    """Every file that was written, the report first and the manifest last."""
    seconds: float


class ManifestEntry(Record, frozen=True, kw_only=True):
    """One file of a study's folder."""

    path: str
    """Relative to the folder, with forward slashes."""
    sha256: str
    num_bytes: int


class Manifest(Record, frozen=True, kw_only=True):
    """Every file of a published study, by hash: what was made, and what it was made from."""

    study: str
    plan_fingerprint: str
    rebuild: str
    """The command that rebuilds the report, run in its folder."""
    versions: dict[str, str]
    """Of what rendered it."""
    files: tuple[ManifestEntry, ...]
    """Written by publish."""
    inputs: tuple[ManifestEntry, ...]
    """Read by publish."""


def publish(store: Store) -> PublishResult:
    """Write report.html, figures/, tables/ and manifest.json of a judged study.

    Files that an earlier report listed, and this one does not make, are removed when nobody changed them.

    Raises:
        StoreError: no plan.json or verdict.json yet, or a folder that cannot be written.
        RecordError: a damaged record.
        PublishError: a verdict that cannot be shown as it is, such as a figure of an unknown kind.
    """
    start = time.perf_counter()
    data = read_study(store)
    _check_names(data)
    drawn = tuple(draw_figure(figure, data) for figure in data.verdict.figures)
    written = _write_figures(store, drawn) + _write_page_and_tables(store, data, drawn)
    written = (store.report_path, *(path for path in written if path != store.report_path))
    _remove_stale(store, written)
    manifest = Manifest(
        study=data.plan.study,
        plan_fingerprint=data.plan.fingerprint(),
        rebuild=REBUILD,
        versions=versions(),
        files=tuple(_entry(store, path) for path in written),
        inputs=tuple(_entry(store, path) for path in _inputs(store)),
    )
    store.write(store.manifest_path, manifest)
    return PublishResult(
        report=store.report_path, files=(*written, store.manifest_path), seconds=time.perf_counter() - start
    )


def _check_names(data: StudyData) -> None:
    """Names of figures and tables become names of files, so they must be plain and different."""
    tables = [table.name for table in data.verdict.tables] + [RUNS_TABLE]
    for what, names in (("figure", [figure.name for figure in data.verdict.figures]), ("table", tables)):
        for name in names:
            if not _SAFE_NAME.fullmatch(name):
                raise PublishError(
                    f"{what} {name!r} cannot be the name of a file: use letters, digits, dot, dash and underscore"
                )
        folded = [name.lower() for name in names]
        twice = sorted({name for name, fold in zip(names, folded, strict=True) if folded.count(fold) > 1})
        if twice:
            hint = f" ({RUNS_TABLE!r} is the report's own)" if RUNS_TABLE in twice else ""
            raise PublishError(f"two {what}s have the same name: {', '.join(twice)}{hint}")


def _write_figures(store: Store, drawn: tuple[Drawn, ...]) -> tuple[Path, ...]:
    paths = []
    for one in drawn:
        base = store.root / "figures" / one.figure.name
        for suffix, content in ((".svg", one.file_svg), (".png", one.file_png)):
            path = base.with_name(base.name + suffix)
            write_atomic(path, content)
            paths.append(path)
    return tuple(paths)


def _write_page_and_tables(store: Store, data: StudyData, drawn: tuple[Drawn, ...]) -> tuple[Path, ...]:
    tables = (*data.verdict.tables, run_table(data))
    files = table_files(tables)
    paths = []
    for name, made in files.items():
        for suffix, content in ((".csv", made.csv), (".parquet", made.parquet)):
            path = store.root / "tables" / f"{name}{suffix}"
            write_atomic(path, content)
            paths.append(path)
    try:
        page = render_page(data, drawn, tables, files)
    except ValueError as error:
        raise PublishError(f"{store.verdict_path}: {error}") from error
    write_atomic(store.report_path, page)
    return (store.report_path, *paths)


def _entry(store: Store, path: Path) -> ManifestEntry:
    content = path.read_bytes()
    return ManifestEntry(
        path=path.relative_to(store.root).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
    )


def _inputs(store: Store) -> list[Path]:
    paths = [store.plan_path, store.verdict_path]
    for folder in store.run_folders():
        own = (
            folder.spec_path,
            folder.metrics_path,
            folder.attempts_path,
            folder.measurements_path,
            folder.source_scores_path,
            folder.record_path,
        )
        paths += [path for path in own if path.exists()]
    return paths


def _remove_stale(store: Store, written: tuple[Path, ...]) -> None:
    """Remove what the earlier manifest lists under figures/ and tables/, is not made any more and is unchanged."""
    if not store.manifest_path.exists():
        return
    try:
        earlier = read(store.manifest_path, Manifest)
    except RecordError:
        return  # not ours to interpret: it is about to be replaced, and its files stay
    keep = {path.relative_to(store.root).as_posix() for path in written}
    for entry in earlier.files:
        folder, _, name = entry.path.partition("/")
        if folder not in ("figures", "tables") or not _SAFE_NAME.fullmatch(name) or entry.path in keep:
            continue
        path = store.root / folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256:
            path.unlink()
