"""The worker processes of a fleet: started, given orders, listened to, replaced, ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from isoflop.store import StoreError

MAX_START_FAILURES = 3
"""Workers that may die before they say that they are ready, before the fleet gives up."""
LEAVE_WAIT_S = 10.0
KEEP_MEMORY = {
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
"""For glibc; other systems do not look at it."""


@dataclass(eq=False)
class Worker:
    """One process.

    Attributes:
        process: started with one thread for arithmetic.
        fingerprint: the run that it trains now; None while it waits.
        ready: True once it has loaded what it needs.
    """

    process: subprocess.Popen[bytes]
    fingerprint: str | None = None
    ready: bool = False

    def order(self, order: dict[str, Any], fingerprint: str) -> None:
        """Give it a run; a worker that has just died is noticed by its missing reports."""
        self.fingerprint = fingerprint
        self.tell(order)

    def tell(self, order: dict[str, Any]) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        rest = memoryview(json.dumps(order).encode() + b"\n")
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) :]
        except (OSError, ValueError):
            return  # it is gone, and its missing reports will say so

    def close(self) -> None:
        """End its orders."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def end(self, wait_s: float) -> None:
        """End its orders, wait so long for it to leave, then kill; it is reaped when this returns."""
        self.close()
        try:
            self.process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def exit_text(self) -> str:
        """How it ended, in words."""
        code = self.process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


class Crew:
    """All workers of a fleet, as a context: they are gone when it is left."""

    def __init__(self, num_workers: int, log: Path) -> None:
        """Start the workers.

        Args:
            num_workers: how many.
            log: file for whatever they print.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_path = log
        self._log: IO[bytes] = log.open("wb")
        self._reports: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._start_failures = 0
        self.workers = [self._start() for _ in range(num_workers)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        """Close their orders, wait a little, then kill."""
        for worker in self.workers:
            worker.close()
        for worker in self.workers:
            worker.end(LEAVE_WAIT_S if worker.ready else 0.1)
        self._log.close()

    def idle(self) -> list[Worker]:
        """Workers without a run."""
        return [worker for worker in self.workers if worker.fingerprint is None]

    def reports(self, timeout_s: float) -> Iterator[tuple[Worker, dict[str, Any] | None]]:
        """Reports that have come in, waiting for the first one so long; None means that a worker is gone."""
        try:
            item = self._reports.get(timeout=timeout_s)
            while True:
                worker, report = item
                worker.ready = worker.ready or report is not None
                yield item
                item = self._reports.get_nowait()
        except queue.Empty:
            return

    def replace(self, worker: Worker) -> None:
        """Start another worker in the place of one that is gone.

        Raises StoreError when workers die before they are ready: no run could ever start.
        """
        worker.end(LEAVE_WAIT_S)
        if not worker.ready:
            self._start_failures += 1
            if self._start_failures >= MAX_START_FAILURES:
                lines = self._log_path.read_text(errors="replace").strip().splitlines()
                last = lines[-1] if lines else "it printed nothing"
                raise StoreError(f"workers die at their start: {last} (see {self._log_path})")
        self.workers[self.workers.index(worker)] = self._start()

    def retire(self, worker: Worker) -> None:
        """Leave a worker that is gone unreplaced."""
        worker.end(LEAVE_WAIT_S)
        worker.fingerprint = None

    def ask_to_stop(self) -> None:
        """Ask every worker to save its run and stop."""
        for worker in self.workers:
            worker.tell({"do": "stop"})

    def _start(self) -> Worker:
        process = subprocess.Popen(
            [sys.executable, "-m", "isoflop.train.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=worker_environment(),
        )
        worker = Worker(process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: Worker) -> None:
        assert isinstance(worker.process.stdout, io.RawIOBase)
        with io.BufferedReader(worker.process.stdout) as lines:
            for line in lines:
                if line.endswith(b"\n"):  # a kill can cut the last one short
                    self._reports.put((worker, json.loads(line)))
        self._reports.put((worker, None))


def worker_environment() -> dict[str, str]:
    """One thread for arithmetic, memory that is kept, and the same modules within reach.

    All of it must be set before torch is loaded. Fifty milliseconds of training on two threads can take
    seconds when another process runs beside. And glibc would hand the memory of each step back to the
    system, and fetch it again page by page in the next one.
    """
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **one_thread, **KEEP_MEMORY, "PYTHONPATH": path}
