"""Bring your own trainer: a run that is a command of the user's own.

The command is called with the path of ``spec.json`` behind its arguments ("{python}" among them stands for
the interpreter that isoflop runs under), and with two variables in its environment: ``ISOFLOP_RUN_DIR``,
the run's folder, and ``ISOFLOP_RESUME``, "1" when it was called before and cut. It appends
rows to ``metrics.jsonl`` in that folder:

    {"step": 200, "loss_nats": 4.12}                    now and then; further fields are kept
    {"resumed": true, "step": 150}                      first, when it goes on from a state of its own
    {"final": true, "step": 1000, "val_loss_nats": 3.9, "group_nats": [...], "group_tokens": [...],
     "num_bytes": 61234}                                last

and must end with code 0 after exactly `num_steps` steps: a run that trained longer or shorter is not at
the budget, and is recorded as failed. ``isoflop.measure`` turns the last row into the run's score. Ledger,
resume, judge and report work as for any run.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from isoflop.provenance import current
from isoflop.records import Provenance, RecordError, RunRecord, RunSpec
from isoflop.store import RunFolder, read_jsonl, write_atomic
from isoflop.train.attempts import AttemptLog
from isoflop.train.ending import write_end
from isoflop.train.loop import Progress
from isoflop.train.run import held

POLL_S = 0.1
GRACE_S = 10.0
"""Seconds that a command has to save its state after SIGTERM."""


def run_command(
    spec: RunSpec,
    folder: RunFolder,
    *,
    parent_folder: RunFolder | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    provenance: Provenance | None = None,
) -> RunRecord | None:
    """Run the command of a spec to its end. Arguments and result as for `isoflop.train.run.train_run`.

    A command that fails, trains another number of steps or leaves out the last row makes a record with
    status "failed" and the reason.

    Raises:
        StoreError: the folder cannot be written or is in use.
    """
    assert spec.command is not None, "run_command takes a spec with a command"
    folder.create(spec)
    with held(folder):
        if folder.finished and folder.read_record().status in ("finished", "diverged"):
            return folder.read_record()
        _end_orphan(folder)
        log = AttemptLog(spec, folder)
        log.settle()
        _close_last_row(folder)
        watch = _Watch(spec, folder)
        log.begin(spec.start_step, watch.seconds)
        started = time.monotonic() - watch.seconds
        code = _call(spec, folder, parent_folder, watch, on_progress, should_stop, started)
        seconds = time.monotonic() - started
        watch.read(seconds)
        _tidy(folder, log, watch)
        if code is None:
            log.end("cut", watch.step, seconds)
            return None
        status, reason = _judge_end(spec, folder, watch, code)
        log.end(status, watch.step, seconds)  # type: ignore[arg-type]
        return write_end(
            spec, folder, status, reason, provenance or current(), step=None if reason is None else watch.step
        )


def final_row(folder: RunFolder) -> dict[str, Any] | None:
    """The row with which a command ends its metrics, or None."""
    rows = [row for row in folder.read_metrics() if row.get("final")]
    return rows[-1] if rows else None


class _Watch:
    """Follows metrics.jsonl while the command writes it."""

    def __init__(self, spec: RunSpec, folder: RunFolder) -> None:
        self._spec, self._folder = spec, folder
        rows = folder.read_metrics()
        self.num_old = len(rows)
        self.step = spec.start_step
        self.first_step = spec.start_step
        self.seconds = max((float(row["seconds"]) for row in rows if "seconds" in row), default=0.0)
        self.loss: float | None = None
        self.diverged_at: int | None = None

    def read(self, seconds: float) -> Progress | None:
        """Take in the rows written since the last look. Returns the progress when there are any."""
        rows = self._folder.read_metrics()[self.num_old :]
        steps = [row for row in rows if isinstance(row.get("step"), int)]
        if not steps:
            return None
        for row in rows:
            if row.get("resumed"):
                self.first_step = int(row.get("step", self._spec.start_step))
            elif "loss_nats" in row:
                loss = row["loss_nats"]
                if loss is None or not math.isfinite(loss):
                    self.diverged_at = self.diverged_at or int(row["step"])
                else:
                    self.loss = float(loss)
        self.step, self.seconds = int(steps[-1]["step"]), seconds
        share = (self.step - self._spec.start_step) / self._spec.num_steps
        return Progress(
            step=self.step,
            num_steps=self._spec.num_steps,
            loss_nats=self.loss,
            flops=self._spec.train_flops.flops * share,
            seconds=seconds,
        )


def _call(
    spec: RunSpec,
    folder: RunFolder,
    parent_folder: RunFolder | None,
    watch: _Watch,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    started: float,
) -> int | None:
    """Run the command and follow it. Returns its exit code, or None when it was stopped."""
    assert spec.command is not None
    environment = {
        **os.environ,
        "ISOFLOP_RUN_DIR": str(folder.path),
        "ISOFLOP_RESUME": "1" if watch.num_old else "0",
    }
    if parent_folder is not None:
        environment["ISOFLOP_PARENT_DIR"] = str(parent_folder.path)
    arguments = [sys.executable if part == "{python}" else part for part in spec.command]
    with (folder.path / "command.log").open("ab") as output:
        try:
            process = subprocess.Popen(
                [*arguments, str(folder.spec_path)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"cannot start {arguments[0]}: {error.strerror}\n".encode())
            return 127
    write_atomic(folder.path / "command.pid", str(process.pid))
    try:
        last = 0.0
        while process.poll() is None:
            time.sleep(POLL_S)
            if should_stop():
                _end(process.pid)
                process.wait()
                return None
            now = time.monotonic()
            if now - last > 0.5 and (progress := watch.read(now - started)):
                on_progress(progress)
                last = now
        return process.returncode
    finally:
        (folder.path / "command.pid").unlink(missing_ok=True)


def _end(pid: int) -> None:
    """Ask the command's process group to end, and make it after a while."""
    for what, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(pid, what)
        except ProcessLookupError:
            return
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            try:
                if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    return
            except psutil.NoSuchProcess:
                return
            time.sleep(0.02)


def _end_orphan(folder: RunFolder) -> None:
    """End a command whose worker was killed: two must not write one folder."""
    path = folder.path / "command.pid"
    if not path.exists():
        return
    pid = int(path.read_text() or 0)
    try:
        if psutil.Process(pid).environ().get("ISOFLOP_RUN_DIR") == str(folder.path):
            _end(pid)
    except (psutil.Error, ValueError):
        pass  # gone already, or the number belongs to another user's process by now
    path.unlink(missing_ok=True)


def _close_last_row(folder: RunFolder) -> None:
    """Take away a row that a kill cut short, so that the next one does not continue it."""
    path = folder.metrics_path
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        write_atomic(path, data[: data.rfind(b"\n") + 1])


def _tidy(folder: RunFolder, log: AttemptLog, watch: _Watch) -> None:
    """Drop rows of steps that were done again, and count those steps as wasted."""
    _close_last_row(folder)
    try:
        rows = read_jsonl(folder.metrics_path)
    except RecordError:
        return  # found again, and recorded, when the end is judged
    old, new = rows[: watch.num_old], rows[watch.num_old :]
    kept = [row for row in old if row.get("step", 0) <= watch.first_step and not row.get("final")]
    if len(kept) < len(old):
        write_atomic(folder.metrics_path, "".join(json.dumps(row) + "\n" for row in kept + new))
    log.redo_from(watch.first_step)
    log.start_at(watch.first_step)


def _judge_end(spec: RunSpec, folder: RunFolder, watch: _Watch, code: int) -> tuple[str, str | None]:
    """Status and reason of a command that has ended by itself."""
    log_path = folder.path / "command.log"
    if watch.diverged_at is not None:
        return "diverged", f"the command reported a loss that is not finite at step {watch.diverged_at}"
    if code != 0:
        return "failed", f"the command ended with code {code}: {_last_line(log_path)} (see {log_path})"
    if watch.step != spec.num_steps:
        return "failed", (
            f"the command trained to step {watch.step} by its metrics.jsonl, the budget is {spec.num_steps} steps"
        )
    if spec.evaluate is None:
        return "finished", None
    row = final_row(folder)
    if row is None:
        return "failed", 'metrics.jsonl lacks the last row, {"final": true, "val_loss_nats": ...}'
    problem = _problem_of(row)
    return ("finished", None) if problem is None else ("failed", f"the last row of metrics.jsonl {problem}")


def _problem_of(row: dict[str, Any]) -> str | None:
    """What is wrong with a final row, or None."""
    for name in ("val_loss_nats", "group_nats", "group_tokens", "num_bytes"):
        if name not in row:
            return f"lacks {name!r}"
    nats, tokens = row["group_nats"], row["group_tokens"]
    if len(nats) != len(tokens) or len(nats) < 2:
        return f"has {len(nats)} group_nats and {len(tokens)} group_tokens; it takes two or more, as many of each"
    if not all(
        isinstance(value, int | float) and math.isfinite(value) for value in (*nats, row["val_loss_nats"])
    ):
        return "holds a loss that is not a finite number"
    if min(tokens) < 1 or row["num_bytes"] < 1:
        return "holds a count below 1"
    mean = sum(n * t for n, t in zip(nats, tokens, strict=True)) / sum(tokens)
    if abs(mean - row["val_loss_nats"]) > 1e-3 * abs(mean):
        return f"says val_loss_nats {row['val_loss_nats']:.6g}, its groups have the mean {mean:.6g}"
    return None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it printed nothing"
