"""One run from its spec to its record: start or resume, loop, score, keep the weights, write it down.

    spec.json -> metrics.jsonl, attempts.jsonl, checkpoint/, measurements.jsonl -> record.json

The record is written last. Everything before it can be cut anywhere, by a kill or a full disk, and is gone
on with from the last whole checkpoint, to the same losses bit by bit at equal placement.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import filelock

from isoflop.data import Corpus
from isoflop.dist import checkpoint as checkpoints
from isoflop.dist import states
from isoflop.provenance import current
from isoflop.records import Provenance, RunRecord, RunSpec, Spike
from isoflop.store import JsonlWriter, RunFolder, StoreError, write_atomic
from isoflop.train import schedule
from isoflop.train.attempts import AttemptLog
from isoflop.train.build import Job, build_job
from isoflop.train.ending import write_end
from isoflop.train.loggers import Loggers, Watched, names_wanted, open_loggers
from isoflop.train.loop import LoopEnd, Position, Progress, run_steps

CHECKPOINT_EVERY_S = 10.0
"""Seconds between checkpoints to resume from; what a kill costs at most."""
ROLLING_KEPT = 2
"""Checkpoints to resume from that are kept: when the last one is damaged, the one before it is used."""
FINAL = "final"
"""Folder of the weights that a finished run keeps."""
LOCK_WAIT_S = 60.0
"""A worker whose parent was killed saves its state and leaves; so long another one waits for it."""


class ParentLostError(RuntimeError):
    """A branch cannot start: its trunk's state at that step is missing or damaged."""


def train_run(
    spec: RunSpec,
    folder: RunFolder,
    *,
    corpora: Sequence[Corpus],
    parent_folder: RunFolder | None = None,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    quota: checkpoints.Quota | None = None,
    provenance: Provenance | None = None,
    loggers: Sequence[str] | None = None,
) -> RunRecord | None:
    """Train a run to its end, from wherever it stands.

    Args:
        spec: the run. One that has its record is not done again, unless a state of `save_at_steps` is
            missing: a branch may need it.
        folder: its folder.
        corpora: one opened corpus per source, in the order of `spec.data.sources`.
        parent_folder: the trunk's folder, for a branch.
        device: "cpu" or "cuda".
        on_progress: told at each row of metrics.
        should_stop: asked some times a second; when it says so, the state is saved and None returned.
        checkpoint_every_s: seconds between checkpoints to resume from.
        quota: limit on the room that checkpoints take.
        provenance: what to record of versions and hardware; found out when left out.
        loggers: names as for `isoflop.train.loggers.open_loggers`; None takes those of the environment.

    Returns:
        The record, or None when it was stopped before the end. A loss that is not finite makes a record
        with status "diverged", no exception.

    Raises:
        ParentLostError: the trunk's state is missing or damaged.
        StoreError: the disk is full, the quota too small, or the folder in use; what was there stays.
        RefError, DataError, ValueError: the spec cannot be built, or a logger's package is missing.
    """
    folder.create(spec)
    with held(folder), contextlib.ExitStack() as open_things:
        if _is_done(spec, folder):
            return folder.read_record()
        job = build_job(spec, corpora, device)
        watchers = open_loggers(names_wanted() if loggers is None else loggers, spec, folder.path)
        open_things.callback(watchers.finish)
        log = AttemptLog(spec, folder)
        log.settle()
        position = _take_up(job, folder, parent_folder)
        log.redo_from(position.step)
        _drop_rows_after(folder, position.step)
        keeper = _Keeper(job, folder, quota, position.step, watchers)
        log.begin(position.step, position.seconds)

        def save(position: Position) -> None:
            log.reached(position.step, position.seconds)
            keeper.save(position)

        try:
            with JsonlWriter(folder.metrics_path) as metrics:
                end = run_steps(
                    job,
                    position,
                    Watched(metrics, watchers),
                    save,
                    checkpoint_every_s=checkpoint_every_s,
                    should_stop=should_stop,
                    on_progress=on_progress,
                    at_step=keeper.score,
                )
            if end.status == "stopped":
                log.end("cut", end.step, end.seconds, redone_steps=end.redone_steps)
                return None
            found = provenance or current(device=device)
            return _conclude(spec, folder, log, keeper, end, found, tuple(position.spikes))
        except (OSError, StoreError):
            with contextlib.suppress(OSError, StoreError):
                log.settle("failed")
            raise


# -------------------------------------------------------------------------------- start and resume


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Hold the run's folder; a worker that is just leaving it is waited for."""
    lock = filelock.FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except filelock.Timeout:
        raise StoreError(f"{folder.path} is being trained by another process; wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _is_done(spec: RunSpec, folder: RunFolder) -> bool:
    """True for a run that has ended by itself and whose states for branches are there."""
    if not folder.finished or folder.read_record().status not in ("finished", "diverged"):
        return False
    return all(states.folder_of(folder.checkpoints, step).is_dir() for step in spec.save_at_steps)


def _take_up(job: Job, folder: RunFolder, parent_folder: RunFolder | None) -> Position:
    """Bring the job to where its run stands: a checkpoint, the trunk's state, or the start."""
    spec = job.spec
    missing = [step for step in spec.save_at_steps if not states.folder_of(folder.checkpoints, step).is_dir()]
    found = _latest(folder, min(missing, default=None))
    if found is not None:
        _load(job, found)
        return Position.of(found.step, dict(found.state))
    if spec.branch is None:
        return Position(0)
    if parent_folder is None:
        raise ParentLostError(f"{spec.name} branches off a trunk, whose folder was not given")
    try:
        _load(job, checkpoints.load(parent_folder.checkpoints, spec.branch.step), of_parent=True)
    except checkpoints.CheckpointError as error:
        raise ParentLostError(f"{spec.name} cannot leave its trunk: {error}") from None
    return Position(spec.branch.step)


def _latest(folder: RunFolder, before: int | None) -> checkpoints.Checkpoint | None:
    """The last whole checkpoint not beyond `before` - 1; what was passed over is noted in warnings.txt."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.latest(folder.checkpoints, at_most=None if before is None else before - 1)
    if caught:
        with (folder.path / "warnings.txt").open("a") as file:
            file.writelines(f"{warning.message}\n" for warning in caught)
    return found


def _load(job: Job, found: checkpoints.Checkpoint, *, of_parent: bool = False) -> None:
    """Take over a state; of a parent's only the weights when the branch says so."""
    job.net.load_state_dict(dict(found.model))
    branch = job.spec.branch
    if not (of_parent and branch is not None and branch.weights_only):
        job.optimizer.load(found.optimizer, job.updates_behind(found.step))


def _drop_rows_after(folder: RunFolder, step: int) -> None:
    """Take away rows of metrics that will be written again."""
    rows = folder.read_metrics()
    kept = [row for row in rows if row.get("step", 0) <= step]
    whole = folder.metrics_path.exists() and folder.metrics_path.read_bytes().endswith(b"\n")
    if len(kept) < len(rows) or (rows and not whole):
        lines = (json.dumps(row, separators=(",", ":")) + "\n" for row in kept)
        write_atomic(folder.metrics_path, "".join(lines))


# ------------------------------------------------------------------------------------ save and end


class _Keeper:
    """Keeps a run's states, scores and weights in its folder, and clears away what nobody needs."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        quota: checkpoints.Quota | None,
        first_step: int,
        watchers: Loggers,
    ) -> None:
        self._job, self._folder, self._quota, self._watchers = job, folder, quota, watchers
        self._root = folder.checkpoints
        self._scores = [score for score in folder.read_measurements() if score.step <= first_step]

    def score(self, step: int) -> bool:
        """Score the net on each of its texts, and write it down. False when a loss is not finite."""
        scores = self._job.scores(step)
        if any(score.loss.value is None for score in scores):
            return False
        self._scores.extend(scores)
        self._folder.write_measurements(self._scores)
        self._watchers.scores(scores)
        return True

    def save(self, position: Position) -> None:
        """Write a checkpoint; keep those for branches and the last ones to resume from."""
        job = self._job
        model, moments = job.net.state_dict(), job.optimizer.state()
        if self._quota is not None:
            self._make_room(checkpoints.size_of(model, moments))
        state = {
            "fingerprint": job.spec.fingerprint(),
            **position.state(),
            "data": {"next_sample": position.step * job.spec.batch_seqs + position.skipped_samples},
            "schedule": {
                "lr_fraction": schedule.fraction(job.spec.schedule, position.step),
            },
            "rng": {"seed": job.spec.seed, "rule": "generator of a step = function of (seed, step)"},
            "versions": {"torch": _torch_version()},
        }
        checkpoints.save(
            self._root,
            checkpoints.Checkpoint(step=position.step, model=model, optimizer=moments, state=state),
        )
        self.clear(ROLLING_KEPT)

    def clear(self, num_rolling: int) -> None:
        """Keep the states for branches and the last `num_rolling` others."""
        needed = set(self._job.spec.save_at_steps)
        rolling = [step for step in states.steps(self._root) if step not in needed]
        states.prune(self._root, needed | set(rolling[len(rolling) - num_rolling :]))

    def keep_final(self, step: int) -> None:
        """Write the weights that stay, and drop the states to resume from."""
        model = self._job.net.state_dict()
        if self._quota is not None:
            self._make_room(checkpoints.size_of(model))
        checkpoints.write_folder(
            self._root / FINAL,
            {checkpoints.MODEL: model},
            {"step": step, "fingerprint": self._job.spec.fingerprint()},
        )

    def _make_room(self, num_bytes: int) -> None:
        """Give up the older states to resume from when the quota asks for it."""
        assert self._quota is not None
        try:
            self._quota.require(num_bytes)
        except StoreError:
            self.clear(1)
            self._quota.require(num_bytes)


def _conclude(
    spec: RunSpec,
    folder: RunFolder,
    log: AttemptLog,
    keeper: _Keeper,
    end: LoopEnd,
    provenance: Provenance,
    spikes: tuple[Spike, ...],
) -> RunRecord:
    """Score, keep the weights, write the record."""
    started, reason = time.monotonic(), None
    if end.status == "diverged":
        reason = f"the loss was not finite at step {end.step}"
    elif spec.evaluate is not None and not keeper.score(end.step):
        reason = f"the held-out loss was not finite at step {end.step}, the last one"
    if reason is None:
        keeper.keep_final(end.step)
    status: Literal["finished", "diverged"] = "finished" if reason is None else "diverged"
    seconds = end.seconds + time.monotonic() - started
    log.end(status, end.step, seconds, redone_steps=end.redone_steps)
    step = None if reason is None else end.step
    record = write_end(spec, folder, status, reason, provenance, step=step, spikes=spikes)
    keeper.clear(0)
    return record


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
