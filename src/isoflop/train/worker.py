"""A worker: one process that trains one run after the other, told by lines of JSON what to do.

Started as ``python -m isoflop.train.worker``. Orders come on standard input, reports leave on what was
standard output; whatever else prints there goes to standard error. End of input means that the fleet is
gone: the run is saved and the worker leaves. No pickle, and nothing of the parent's `__main__` is loaded.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec
import torch

from isoflop.data import Corpus, DataError, open_corpus
from isoflop.dist.checkpoint import Quota
from isoflop.provenance import current, now
from isoflop.records import DataSource, Provenance, RunSpec, decode
from isoflop.refs import RefError
from isoflop.store import RunFolder, StoreError
from isoflop.train.calibrate import time_nets
from isoflop.train.command import run_command
from isoflop.train.loop import Progress
from isoflop.train.run import ParentLostError, train_run

REPORT_EVERY_S = 0.2


class Orders:
    """Standard input, read in the background so that an order to stop is seen in the middle of a run."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "stop":
                self._stop.set()
            else:
                self._jobs.put(order)
        self._stop.set()  # the fleet is gone
        self._jobs.put(None)

    def next(self) -> dict[str, Any] | None:
        """The next order; None when there will be no more."""
        return self._jobs.get()

    def stopped(self) -> bool:
        """True once the fleet has asked to stop, or is gone."""
        return self._stop.is_set()


class Reports:
    """Lines of JSON to the fleet."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w")

    def send(self, kind: str, **fields: Any) -> None:
        """Send one report; a fleet that is gone is not told."""
        try:
            self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
            self._file.flush()
        except OSError:
            return


def main() -> None:
    """Serve orders until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the fleet decides
    reports = Reports(os.dup(1))
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    orders = Orders()
    reports.send("ready", pid=os.getpid())
    corpora: dict[tuple[str, str], Corpus] = {}
    provenance: Provenance | None = None
    while (order := orders.next()) is not None:
        if order["do"] == "time":
            answer_timing(order, reports)
            continue
        if provenance is None:
            provenance = current(device=order["device"], num_workers=order["num_workers"])
        serve(order, orders, reports, corpora, provenance)


def answer_timing(order: dict[str, Any], reports: Reports) -> None:
    """Time nets for a calibration."""
    try:
        reports.send("timed", **time_nets(order))
    except Exception as error:
        traceback.print_exc()
        reports.send("error", reason=f"{type(error).__name__}: {error}")


def serve(
    order: dict[str, Any],
    orders: Orders,
    reports: Reports,
    corpora: dict[tuple[str, str], Corpus],
    provenance: Provenance,
) -> None:
    """Train the run of one order and report how it ended."""
    spec = decode(order["spec"], RunSpec, where="the order to a worker")
    folder = RunFolder(Path(order["folder"]))
    parent = RunFolder(Path(order["parent"])) if order["parent"] else None
    try:
        common = {
            "parent_folder": parent,
            "on_progress": _Reporter(reports),
            "should_stop": orders.stopped,
            "provenance": msgspec.structs.replace(provenance, started=now()),
        }
        if spec.command is not None:
            record = run_command(spec, folder, **common)  # type: ignore[arg-type]
        else:
            record = train_run(
                spec,
                folder,
                corpora=[_corpus(source, corpora) for source in spec.data.sources],
                device=order["device"],
                checkpoint_every_s=order["checkpoint_every_s"],
                quota=Quota(num_bytes=order["quota"], root=folder.path.parent) if order["quota"] else None,
                **common,  # type: ignore[arg-type]
            )
    except ParentLostError as error:
        reports.send("parent_lost", reason=str(error))
    except (StoreError, DataError, RefError) as error:
        reports.send("halt", reason=str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            reports.send("halt", reason=f"{folder.path}: {error.strerror}; free some space and resume")
            return
        (folder.path / "error.txt").write_text(traceback.format_exc())
        reports.send("error", reason=f"{type(error).__name__}: {error}")
    else:
        if record is None:
            reports.send("stopped")
        else:
            reports.send("ended", status=record.status, reason=record.reason)


class _Reporter:
    """Passes progress on, a few times a second at most."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last > REPORT_EVERY_S:
            self._last = now
            self._reports.send(
                "progress", step=progress.step, loss_nats=progress.loss_nats, flops=progress.flops
            )


def _corpus(source: DataSource, corpora: dict[tuple[str, str], Corpus]) -> Corpus:
    """Open a corpus once per worker."""
    key = (source.corpus_sha256, source.tokenizer_sha256)
    if key not in corpora:
        corpora[key] = open_corpus(source)
    return corpora[key]


if __name__ == "__main__":
    main()
