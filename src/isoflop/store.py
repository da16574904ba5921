"""The one place that knows the layout on disk.

    OUT/plan.json
    OUT/runs/<words>-<fp8>/{spec.json, metrics.jsonl, attempts.jsonl, checkpoint/, measurements.jsonl, record.json}
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
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free some space and resume"
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSONL file; a line cut short at the very end by a kill is left out.

    Raises RecordError for a damaged line anywhere else.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # no newline after it: the writer was killed in this line
                break
            raise RecordError(
                f"{path}:{number}: not valid JSON; delete the run folder to train it again"
            ) from None
    return rows


class JsonlWriter:
    """Appends rows to one JSONL file; the only writer of it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row and hand it to the operating system."""
        self._file.write(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_path = path / "spec.json"
        self.metrics_path = path / "metrics.jsonl"
        self.attempts_path = path / "attempts.jsonl"
        self.checkpoints = path / "checkpoint"
        self.measurements_path = path / "measurements.jsonl"
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
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"{self.root} is in use by another isoflop process; wait for it or use another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()
