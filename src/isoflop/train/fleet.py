"""Many runs on a few workers: in the right order, through kills, deadlines and Ctrl-C.

One single-threaded process per core, alive for the whole fleet. The run on the longest remaining path goes
first; a branch is ready as soon as its trunk's state is on disk, also while the trunk trains on. A worker
that is killed is replaced and its run resumed. Whatever happens, finished runs stay finished, and the next
call goes on from the last checkpoints.

Loads no torch: that is the workers' business. Leaves out how a run is trained (`isoflop.train.run`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

import msgspec

from isoflop.dist import states
from isoflop.provenance import current
from isoflop.records import RunRecord, RunSpec, to_mapping
from isoflop.refs import check
from isoflop.store import Store, StoreError
from isoflop.train.attempts import AttemptLog
from isoflop.train.crew import Crew, Worker
from isoflop.train.ending import write_end

MAX_KILLS = 2
"""A run whose worker is killed more often than this is recorded as failed."""
CHECKPOINT_EVERY_S = 10.0
DISK_QUOTA_BYTES = 20_000_000_000
"""Room that the checkpoints of one output folder may take together."""
STOP_WAIT_S = 60.0
"""How long workers may take to save their states when they are asked to stop."""

EventKind = Literal[
    "started", "progress", "finished", "diverged", "failed", "cut", "killed", "reused", "stopped"
]


@dataclass(frozen=True, kw_only=True)
class FleetEvent:
    """Something happened to a run.

    Attributes:
        kind: "reused" for a run that was finished before this call, "stopped" for one that was cut short
            by the deadline or Ctrl-C and can be resumed, "cut" for one that cannot run at all.
        name, fingerprint: the run.
        step, num_steps: how far it is.
        flops: of its own steps so far.
        loss_nats: training loss, mean since the last event of this run; None when not known.
        reason: for anything that went wrong.
    """

    kind: EventKind
    name: str
    fingerprint: str
    step: int
    num_steps: int
    flops: float
    loss_nats: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class FleetResult:
    """What a fleet did.

    Attributes:
        records: of all runs that have ended, now or before, in the order of the specs.
        num_trained: runs that ended in this call.
        unfinished: names of runs that have no record; they go on in the next call.
        stopped: why it ended.
        seconds: wall time of this call.
    """

    records: tuple[RunRecord, ...]
    num_trained: int
    unfinished: tuple[str, ...]
    stopped: Literal["finished", "deadline", "interrupted"]
    seconds: float


def run_fleet(
    specs: Sequence[RunSpec],
    store: Store,
    *,
    num_workers: int | None = None,
    device: str = "cpu",
    seconds_of: Callable[[RunSpec], float] | None = None,
    on_event: Callable[[FleetEvent], None] | None = None,
    deadline_s: float | None = None,
    disk_quota_bytes: int | None = DISK_QUOTA_BYTES,
    stop_event: Event | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> FleetResult:
    """Train all runs that are not finished.

    Args:
        specs: the runs; a branch's trunk must be among them. Runs recorded as "failed" or "cut" in an
            earlier call are tried again; "finished" and "diverged" ones are not.
        store: where their folders are.
        num_workers: processes; None is one per core on a CPU and one on a GPU.
        device: "cpu" or "cuda".
        seconds_of: expected seconds of a run's own steps; None takes them as proportional to FLOPs.
        on_event: told what happens.
        deadline_s: seconds from now after which no run is started and running ones are saved and stopped.
        disk_quota_bytes: room that all checkpoints may take together; None is without limit.
        stop_event: set by the caller to stop as at the deadline.
        checkpoint_every_s: seconds between a run's checkpoints.

    Raises:
        RefError: an objective or a score has changed since the runs were planned.
        StoreError: no room left, or a folder is in use; what is finished stays.
        KeyboardInterrupt: passed on after the running runs have saved their states.
    """
    for ref in {ref.path: ref for spec in specs for ref in _functions(spec)}.values():
        check(ref)
    board = Board(specs, store, seconds_of)
    fleet = _Fleet(
        board,
        store,
        device=device,
        on_event=on_event or (lambda event: None),
        checkpoint_every_s=checkpoint_every_s,
        quota=disk_quota_bytes,
    )
    wanted = num_workers or (1 if device != "cpu" else cores())
    return fleet.run(min(wanted, max(1, board.num_open())), deadline_s, stop_event or Event())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _functions(spec: RunSpec) -> list[Any]:
    if spec.command is not None:
        return []
    return [spec.objective] + ([spec.evaluate.function] if spec.evaluate else [])


# ------------------------------------------------------------------------------------- what is next


class Board:
    """Which runs are done, which may start, and which goes first. Knows folders, no processes."""

    def __init__(
        self, specs: Sequence[RunSpec], store: Store, seconds_of: Callable[[RunSpec], float] | None = None
    ) -> None:
        """Look at every run's folder.

        Raises ValueError for a branch whose trunk, or the step at which it leaves it, is not there.
        """
        self.specs = {spec.fingerprint(): spec for spec in specs}
        self.folders = {fingerprint: store.run(spec) for fingerprint, spec in self.specs.items()}
        self.children: dict[str, list[str]] = {fingerprint: [] for fingerprint in self.specs}
        for fingerprint, spec in self.specs.items():
            if spec.branch is None:
                continue
            if spec.branch.parent not in self.specs:
                raise ValueError(
                    f"{spec.name} branches off a trunk that is not among the runs; add the trunk"
                )
            trunk = self.specs[spec.branch.parent]
            if not trunk.start_step < spec.branch.step <= trunk.num_steps:
                raise ValueError(
                    f"{spec.name} leaves {trunk.name} at step {spec.branch.step}, which is not among its steps "
                    f"{trunk.start_step + 1} to {trunk.num_steps}"
                )
            self.children[spec.branch.parent].append(fingerprint)
        self._seconds_of = seconds_of or (lambda spec: spec.own_flops / 1e10)
        self.running: set[str] = set()
        self.status: dict[str, str] = {}
        for fingerprint, folder in self.folders.items():
            if folder.finished and (record := folder.read_record()).status in ("finished", "diverged"):
                self.status[fingerprint] = record.status

    def _has_state(self, trunk: str, step: int) -> bool:
        """By name; what is in it is checked when it is loaded."""
        return states.folder_of(self.folders[trunk].checkpoints, step).is_dir()

    def num_open(self) -> int:
        """Runs that are not done."""
        return len(self.specs) - len(self.status)

    def needed_steps(self, fingerprint: str) -> tuple[int, ...]:
        """States of a trunk that its open branches still need, ascending."""
        open_children = (child for child in self.children[fingerprint] if child not in self.status)
        return tuple(sorted({self.specs[child].start_step for child in open_children}))

    def steps_to_save(self, fingerprint: str) -> tuple[int, ...]:
        """States that this run should keep: for its open branches, or as its spec says when it has none here."""
        if self.children[fingerprint]:
            return self.needed_steps(fingerprint)
        return self.specs[fingerprint].save_at_steps

    def missing_steps(self, fingerprint: str) -> tuple[int, ...]:
        """Those of `needed_steps` that are not on disk."""
        return tuple(
            step for step in self.needed_steps(fingerprint) if not self._has_state(fingerprint, step)
        )

    def hopeless(self) -> list[tuple[str, str]]:
        """Open branches whose trunk came to nothing before their step, each with the reason."""
        found = []
        for fingerprint, spec in self.specs.items():
            if spec.branch is None or fingerprint in self.status:
                continue
            trunk = spec.branch.parent
            ended = self.status.get(trunk)
            state = self._has_state(trunk, spec.branch.step)
            if ended in ("diverged", "failed", "cut") and not state:
                record = self.folders[trunk].read_record()
                found.append((fingerprint, f"its trunk {record.name} {ended}: {record.reason}"))
        return found

    def ready(self) -> list[str]:
        """Runs that may start now, the one with the longest remaining path first."""
        found = []
        for fingerprint, spec in self.specs.items():
            if fingerprint in self.running:
                continue
            if fingerprint in self.status:
                # A finished trunk whose states are gone is trained again as far as a branch needs it.
                if self.status[fingerprint] != "finished" or not self.missing_steps(fingerprint):
                    continue
            elif spec.branch and not self._has_state(spec.branch.parent, spec.branch.step):
                continue
            found.append(fingerprint)
        return sorted(found, key=self.remaining_path, reverse=True)

    def remaining_path(self, fingerprint: str) -> float:
        """Seconds from the start of this run to the end of the last run that hangs on it."""
        spec = self.specs[fingerprint]
        own = self._seconds_of(spec)
        longest = own
        for child in self.children[fingerprint]:
            if child in self.status:
                continue
            share = (self.specs[child].start_step - spec.start_step) / (spec.num_steps - spec.start_step)
            longest = max(longest, own * share + self.remaining_path(child))
        return longest

    def trunk_is_free(self, fingerprint: str) -> bool:
        """True when no open branch needs this trunk's states any more."""
        done = fingerprint in self.status and fingerprint not in self.running
        return done and bool(self.children[fingerprint]) and not self.needed_steps(fingerprint)


# ----------------------------------------------------------------------------------------- the fleet


@dataclass
class _Fleet:
    """The main process: gives out runs and takes in reports."""

    board: Board
    store: Store
    device: str
    on_event: Callable[[FleetEvent], None]
    checkpoint_every_s: float
    quota: int | None
    kills: dict[str, int] = field(default_factory=dict)
    num_trained: int = 0
    halted: str | None = None
    num_workers: int = 1

    def run(self, num_workers: int, deadline_s: float | None, stop_event: Event) -> FleetResult:
        """The whole life of a fleet."""
        started = time.monotonic()
        self.num_workers = num_workers
        for fingerprint in self.board.status:
            self._tell("reused", fingerprint, flops=self.board.specs[fingerprint].own_flops)
        stopped: Literal["finished", "deadline", "interrupted"] = "finished"
        if self._open_runs():
            with Crew(num_workers, self.store.root / "workers.log") as crew:
                try:
                    stopped = self._work(crew, started, deadline_s, stop_event)
                except KeyboardInterrupt:
                    self._stop_all(crew)
                    raise
                if stopped != "finished" or self.halted:
                    self._stop_all(crew)
        self._clear_trunks()
        if self.halted:
            raise StoreError(self.halted)
        return self._result(stopped, time.monotonic() - started)

    def _open_runs(self) -> bool:
        self._give_up_hopeless()
        return bool(self.board.ready())

    def _work(
        self, crew: Crew, started: float, deadline_s: float | None, stop_event: Event
    ) -> Literal["finished", "deadline", "interrupted"]:
        while not self.halted:
            if stop_event.is_set():
                return "interrupted"
            if deadline_s is not None and time.monotonic() - started > deadline_s:
                return "deadline"
            self._give_up_hopeless()
            self._give_out(crew)
            if not self.board.running:
                return "finished"
            for worker, report in crew.reports(timeout_s=0.1):
                self._take_in(crew, worker, report)
        return "finished"

    def _give_out(self, crew: Crew) -> None:
        """Give every idle worker the run that is most urgent."""
        idle = crew.idle()
        for worker, fingerprint in zip(idle, self.board.ready(), strict=False):
            spec, folder = self.board.specs[fingerprint], self.board.folders[fingerprint]
            folder.create(spec)
            if folder.finished and fingerprint not in self.board.status:
                folder.record_path.unlink()  # failed or cut in an earlier call: tried again
            trunk = self.board.folders[spec.branch.parent] if spec.branch else None
            order = msgspec.structs.replace(spec, save_at_steps=self.board.steps_to_save(fingerprint))
            worker.order(
                {
                    "do": "run",
                    "spec": to_mapping(order),
                    "folder": str(folder.path),
                    "parent": str(trunk.path) if trunk else None,
                    "device": self.device,
                    "num_workers": self.num_workers,
                    "checkpoint_every_s": self.checkpoint_every_s,
                    "quota": self.quota,
                },
                fingerprint,
            )
            self.board.running.add(fingerprint)
            self._tell("started", fingerprint)

    def _take_in(self, crew: Crew, worker: Worker, report: dict[str, Any] | None) -> None:
        """Act on one report of a worker; None means that it is gone."""
        fingerprint = worker.fingerprint
        if report is None:
            crew.replace(worker)
            if fingerprint is not None:
                self._after_kill(fingerprint, worker.exit_text())
            return
        kind = report.pop("kind")
        if kind == "ready" or fingerprint is None:
            return
        if kind == "progress":
            self._tell("progress", fingerprint, **report)
            return
        worker.fingerprint = None
        self.board.running.discard(fingerprint)
        reason = report.get("reason")
        if kind == "ended":
            self._ended(fingerprint, report["status"], reason)
        elif kind == "stopped":
            self._tell("stopped", fingerprint)
        elif kind == "parent_lost":
            spec = self.board.specs[fingerprint]
            assert spec.branch is not None
            states.drop(self.board.folders[spec.branch.parent].checkpoints, spec.branch.step)
        elif kind == "halt":
            self.halted = reason
        else:
            self._fail(fingerprint, "failed", f"{reason} (see error.txt in its folder)")

    def _ended(self, fingerprint: str, status: str, reason: str | None) -> None:
        self.board.status[fingerprint] = status
        self.num_trained += 1
        spec = self.board.specs[fingerprint]
        record = self.board.folders[fingerprint].read_record()
        flops = spec.train_flops.flops * (record.num_steps - spec.start_step) / spec.num_steps
        self._tell(status, fingerprint, step=record.num_steps, flops=max(0.0, flops), reason=reason)
        self._clear_trunks()

    def _after_kill(self, fingerprint: str, how: str) -> None:
        """Resume the run of a worker that died, or give it up after some times."""
        self.board.running.discard(fingerprint)
        self.kills[fingerprint] = self.kills.get(fingerprint, 0) + 1
        self._tell("killed", fingerprint, reason=how)
        if self.kills[fingerprint] > MAX_KILLS:
            self._fail(fingerprint, "failed", f"its worker died {self.kills[fingerprint]} times ({how})")

    def _give_up_hopeless(self) -> None:
        for fingerprint, reason in self.board.hopeless():
            self._fail(fingerprint, "cut", reason)

    def _fail(self, fingerprint: str, status: Literal["failed", "cut"], reason: str) -> None:
        """Write the record of a run that cannot go on."""
        spec, folder = self.board.specs[fingerprint], self.board.folders[fingerprint]
        folder.create(spec)
        log = AttemptLog(spec, folder)
        log.settle("failed")
        done = max((attempt.last_step for attempt in log.attempts), default=spec.start_step)
        provenance = current(device=self.device, num_workers=self.num_workers)
        write_end(spec, folder, status, reason, provenance, step=done)
        self.board.status[fingerprint] = status
        self._tell(status, fingerprint, step=done, reason=reason)

    def _stop_all(self, crew: Crew) -> None:
        """Let running runs save their states and take in how they ended."""
        crew.ask_to_stop()
        until = time.monotonic() + STOP_WAIT_S
        while self.board.running and time.monotonic() < until:
            for worker, report in crew.reports(timeout_s=0.1):
                if report is None and worker.fingerprint is not None:
                    self.board.running.discard(worker.fingerprint)
                    crew.retire(worker)
                else:
                    self._take_in(crew, worker, report)

    def _clear_trunks(self) -> None:
        """Delete the states of trunks that no branch needs any more."""
        for fingerprint in self.board.specs:
            if self.board.trunk_is_free(fingerprint):
                states.prune(self.board.folders[fingerprint].checkpoints, ())

    def _tell(self, kind: Any, fingerprint: str, **fields: Any) -> None:
        spec = self.board.specs[fingerprint]
        default = {"step": spec.start_step, "flops": 0.0}
        event = FleetEvent(
            kind=kind,
            name=spec.name,
            fingerprint=fingerprint,
            num_steps=spec.num_steps,
            **{**default, **fields},
        )
        self.on_event(event)

    def _result(self, stopped: Literal["finished", "deadline", "interrupted"], seconds: float) -> FleetResult:
        folders = self.board.folders
        return FleetResult(
            records=tuple(folder.read_record() for folder in folders.values() if folder.finished),
            num_trained=self.num_trained,
            unfinished=tuple(
                self.board.specs[fingerprint].name
                for fingerprint, folder in folders.items()
                if not folder.finished
            ),
            stopped=stopped,
            seconds=seconds,
        )
