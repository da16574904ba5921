"""The one place that knows the layout on disk.

    OUT/plan.json
    OUT/runs/<words>-<fp8>/{spec.json, metrics.jsonl, attempts.jsonl, checkpoint/, measurements.jsonl,
                            source_scores.jsonl (runs of several sources), record.json}
    OUT/verdict.json
    OUT/report.html, figures/, tables/, manifest.json

A file is written beside its place and renamed into it, so a reader sees the old one or the new one and
never half of one. A JSONL file has one writer. ``record.json`` appears last: a run folder that has one
is finished, and is never done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import msgspec

from isoflop.records import (
    Attempt,
    Measurement,
    Plan,
    Record,
    RecordError,
    RunRecord,
    RunSpec,
    SourceScores,
    Verdict,
    decode,
    encode,
    read,
)


class StoreError(RuntimeError):
    """A folder that cannot be used; the message says why and what to do."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either the old one or the new one, also after a kill or a full disk.

    Raises StoreError when the disk is full or the folder cannot be written; the old file stays.
    """
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` to write into, which takes its place when the block ends well.

    When the block raises, or the process is killed, the old file stays. Raises StoreError for what the
    operating system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror or error}; free some space and resume")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a JSONL file; a row cut short at the very end by a kill is left out.

    Raises RecordError for a damaged line anywhere else.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row_or_none(line)
        if row is None:
            if number == len(lines):  # no newline after it: the writer was killed in this line
                break
            raise RecordError(f"{path}:{number}: not a JSON object; delete the run folder to train it again")
        rows.append(row)
    return rows


def _row_or_none(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


class JsonlWriter:
    """Appends rows to one JSONL file; the only writer of it.

    Opening it removes a last row that a kill cut short, so that the next row does not run into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _mend_last_row(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, row: dict[str, Any]) -> None:
        """Append one row and hand it to the operating system.

        Raises:
            RecordError: a number that is not finite, or a value that JSON does not have.
            StoreError: the disk is full; the rows before this one stay readable.
        """
        try:
            line = json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise RecordError(f"{self.path}: {error}; store null with a reason instead") from None
        try:
            written = self._file.write(line)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if written != len(line):
            raise StoreError(f"cannot write {self.path}: the disk is full; free some space and resume")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _mend_last_row(path: Path) -> None:
    """End the file after its last complete row."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        if not data or data.endswith(b"\n"):
            return
        start = data.rfind(b"\n") + 1
        if _row_or_none(data[start:]) is None:
            file.truncate(start)
        else:
            file.write(b"\n")  # complete but for its end


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_path = path / "spec.json"
        self.metrics_path = path / "metrics.jsonl"
        self.attempts_path = path / "attempts.jsonl"
        self.checkpoints = path / "checkpoint"
        self.measurements_path = path / "measurements.jsonl"
        self.source_scores_path = path / "source_scores.jsonl"
        self.record_path = path / "record.json"

    @property
    def finished(self) -> bool:
        """True when the run has its record: it ended by itself, well or badly."""
        return self.record_path.exists()

    def create(self, spec: RunSpec) -> None:
        """Write spec.json; refuses a folder that holds another run's spec."""
        if self.spec_path.exists():
            if self.read_spec().fingerprint() != spec.fingerprint():
                raise StoreError(f"{self.path} holds another run with the same name; move it away")
            return
        write_atomic(self.spec_path, encode(spec, indent=1))

    def read_spec(self) -> RunSpec:
        return read(self.spec_path, RunSpec)

    def read_record(self) -> RunRecord:
        return read(self.record_path, RunRecord)

    def read_metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.metrics_path)

    def read_attempts(self) -> list[Attempt]:
        return [decode(row, Attempt, where=str(self.attempts_path)) for row in read_jsonl(self.attempts_path)]

    def read_measurements(self) -> list[Measurement]:
        return [
            decode(row, Measurement, where=str(self.measurements_path))
            for row in read_jsonl(self.measurements_path)
        ]

    def write_measurements(self, measurements: Sequence[Measurement]) -> None:
        write_atomic(self.measurements_path, b"".join(encode(m) + b"\n" for m in measurements))

    def read_source_scores(self) -> list[SourceScores]:
        return [
            decode(row, SourceScores, where=str(self.source_scores_path))
            for row in read_jsonl(self.source_scores_path)
        ]

    def write_source_scores(self, scores: Sequence[SourceScores]) -> None:
        write_atomic(self.source_scores_path, b"".join(encode(one) + b"\n" for one in scores))

    def write_record(self, record: RunRecord) -> None:
        write_atomic(self.record_path, encode(record, indent=1))


class Store:
    """One study's output folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.plan_path = self.root / "plan.json"
        self.verdict_path = self.root / "verdict.json"
        self.report_path = self.root / "report.html"
        self.manifest_path = self.root / "manifest.json"
        self.runs_path = self.root / "runs"

    def run(self, spec: RunSpec) -> RunFolder:
        return RunFolder(self.runs_path / spec.folder)

    def run_folders(self) -> list[RunFolder]:
        """Every run folder that holds a spec, sorted by name."""
        if not self.runs_path.is_dir():
            return []
        return [RunFolder(path) for path in sorted(self.runs_path.iterdir()) if (path / "spec.json").exists()]

    def read_plan(self) -> Plan:
        if not self.plan_path.exists():
            raise StoreError(
                f"{self.root} holds no plan.json; make one with `isoflop plan study NAME --out {self.root}`"
            )
        return read(self.plan_path, Plan)

    def write(self, path: Path, record: Record) -> None:
        write_atomic(path, encode(record, indent=1))

    def read_verdict(self) -> Verdict:
        if not self.verdict_path.exists():
            raise StoreError(f"{self.root} holds no verdict.json; make one with `isoflop judge {self.root}`")
        return read(self.verdict_path, Verdict)

    def reuse(self, spec: RunSpec, others: Sequence[Path]) -> bool:
        """Take a finished run with the same full fingerprint from another output folder.

        The records are copied (checkpoints are not); `RunRecord.reused_from` says where from.
        Returns True when this store holds the finished run afterwards.
        """
        folder = self.run(spec)
        if folder.finished:
            return True
        for other in others:
            candidates = sorted((other / "runs").glob(f"*-{spec.fingerprint()[:8]}"))
            for source in map(RunFolder, candidates):
                if not source.finished or source.read_spec().fingerprint() != spec.fingerprint():
                    continue
                if source.read_record().status != "finished":
                    continue
                folder.create(spec)
                for path in (source.metrics_path, source.attempts_path, source.measurements_path):
                    if path.exists():
                        shutil.copyfile(path, folder.path / path.name)
                folder.write_record(msgspec.structs.replace(source.read_record(), reused_from=str(other)))
                return True
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process at a time. Raises StoreError when another one holds it."""
        lock = filelock.FileLock(self.root / ".lock")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"{self.root} is in use by another isoflop process; wait for it or use another --out"
            ) from None
        except OSError as error:
            raise _cannot_write(self.root, error) from error
        try:
            yield
        finally:
            lock.release()
