"""One run on many ranks: what `isoflop.train.run` does for one process, with every decision taken together.

Every rank calls `train_distributed` alike. The rows of a batch are dealt over the data ranks, so the samples
of a step are the same for any mesh; checkpoints are sharded and are read onto any mesh. Whatever depends on a
clock, a signal or a disk is decided by one rank, or by any, and told to all. The first rank alone writes
metrics, attempts, scores and the record.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from isoflop.data import Corpus, TrainingWindows
from isoflop.dist import checkpoint, sharded_checkpoint, states
from isoflop.dist.mesh import World, check_fit
from isoflop.dist.optim import ShardedAdamW
from isoflop.dist.parallel import Spread, Wrapping, fill_whole, require_gradients, spread
from isoflop.dist.weights import open_weights, save_weights
from isoflop.model.build import FAMILIES
from isoflop.model.sharding import sharding_plan
from isoflop.provenance import current
from isoflop.records import Measurement, Placement, Provenance, RunRecord, RunSpec
from isoflop.refs import resolve
from isoflop.store import JsonlWriter, RunFolder
from isoflop.train import schedule
from isoflop.train.attempts import AttemptLog
from isoflop.train.build import Job, held_out_windows
from isoflop.train.ending import write_end
from isoflop.train.loggers import Loggers, Watched, names_wanted, open_loggers
from isoflop.train.loop import LoopEnd, Position, Progress, _Recorder, _score_steps, row_steps
from isoflop.train.optim import AdamW
from isoflop.train.run import (
    CHECKPOINT_EVERY_S,
    FINAL,
    ROLLING_KEPT,
    ParentLostError,
    _drop_rows_after,
    held,
)
from isoflop.train.step import StepOutput


@dataclass(frozen=True, kw_only=True)
class SaveRule:
    """When checkpoints to resume from are written.

    Attributes:
        every_steps: after each so many steps; None leaves it to the clock.
        every_s: seconds since the last one, by the first rank's clock; None leaves it to the steps.
        background: write beside the training.
    """

    every_steps: int | None = None
    every_s: float | None = CHECKPOINT_EVERY_S
    background: bool = True


def train_distributed(
    spec: RunSpec,
    folder: RunFolder,
    world: World,
    placement: Placement,
    *,
    corpora: Sequence[Corpus],
    parent_folder: RunFolder | None = None,
    start_from: Path | None = None,
    saves: SaveRule = SaveRule(),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    at_checkpoint: Callable[[torch.nn.Module, int], None] = lambda net, step: None,
    at_score: Callable[[torch.nn.Module, int], None] = lambda net, step: None,
    provenance: Provenance | None = None,
) -> RunRecord | None:
    """Train a run to its end on a mesh, from wherever it stands. Every rank calls this.

    Args:
        spec: the run. One that has its record is not done again, unless a state of `save_at_steps` is
            missing: a branch may need it.
        folder: its folder, on a file system that all ranks see.
        world: the mesh that this process has joined.
        placement: how the net is spread; its mesh is the world's, its precision the spec's.
        corpora: one opened corpus per source, in the order of `spec.data.sources`.
        parent_folder: the trunk's folder, for a branch.
        start_from: a folder of Hugging Face weights that the run starts from instead of drawn ones.
        saves: when checkpoints are written.
        on_progress: told at each row of metrics, on every rank.
        should_stop: asked after each step on every rank; when one says so, the state is saved and None
            returned.
        at_checkpoint: called on every rank with the net after each checkpoint.
        at_score: called on every rank with the net before the first step, after each score on the way, and
            at the end: for scores that this room does not know. After a kill it may be called again at a step.
        provenance: what to record of versions and hardware; found out when left out.

    Returns:
        The record, on every rank, or None when it was stopped before the end.

    Rows and scores also go to the loggers that ISOFLOP_LOGGERS names (`isoflop.train.loggers`), from the first rank.

    Raises, on every rank and before any compute is spent:
        ValueError: net, batch or data cannot be split so; a logger's package is missing.
        WeightsError: the weights to start from do not fit.
        ParentLostError, StoreError, RefError, DataError: as `isoflop.train.run.train_run`.
    """
    num_micro = _check(spec, world, placement)
    world.from_first(lambda: folder.create(spec))
    with contextlib.ExitStack() as held_open:
        world.from_first(lambda: held_open.enter_context(held(folder)))
        done = world.from_first(lambda: _finished(spec, folder))
        if done is not None:
            return done
        log = AttemptLog(spec, folder)
        world.from_first(log.settle)
        job, net = _build(spec, world, placement, corpora, start_from)
        position = _take_up(job, folder, parent_folder, world)
        scores = [score for score in folder.read_measurements() if score.step <= position.step]

        def tidy() -> None:
            log.redo_from(position.step)
            _drop_rows_after(folder, position.step)
            log.begin(position.step, position.seconds)

        world.from_first(tidy)
        doubtful = placement.compile and world.mesh.tensor > 1
        watchers = _watchers(spec, folder, world, held_open)
        run = _Run(job, net, world, folder, num_micro, scores, doubtful, log, watchers)
        saver = sharded_checkpoint.Saver(
            folder.checkpoints,
            world,
            background=saves.background,
            keep_last=ROLLING_KEPT,
            keep_steps=spec.save_at_steps,
        )
        if position.step == 0:
            if net.is_sharded:
                _touch(job, num_micro, world)
            with job.precision():
                at_score(job.net, 0)
        end = run.steps(position, saver, saves, should_stop, on_progress, at_checkpoint, at_score)
        saver.wait()
        if end.status == "stopped":
            world.from_first(lambda: log.end("cut", end.step, end.seconds))
            return None
        return run.conclude(
            end,
            provenance or current(device=placement.device, num_workers=world.mesh.num_devices),
            start_from,
            at_score,
        )


# -------------------------------------------------------------------------------------- set-up


def _watchers(spec: RunSpec, folder: RunFolder, world: World, open_things: contextlib.ExitStack) -> Loggers:
    """The loggers that the environment names, on the first rank alone; a missing package is raised on all."""
    found = [Loggers({})]
    world.from_first(lambda: found.append(open_loggers(names_wanted(), spec, folder.path)))
    open_things.callback(found[-1].finish)
    return found[-1]


def _check(spec: RunSpec, world: World, placement: Placement) -> int:
    """Refuse what cannot be split. Returns the micro-batches of an update."""
    schedule.check(spec.schedule)
    if placement.mesh != world.mesh:
        raise ValueError(
            f"the placement is for a mesh of {placement.mesh.words}, the processes form {world.mesh.words}"
        )
    if spec.data.context > spec.net.context:
        raise ValueError(
            f"{spec.name}: sequences of {spec.data.context} tokens are longer than the net's context "
            f"({spec.net.context})"
        )
    if spec.spikes is not None:
        raise ValueError(
            f"{spec.name}: a SpikeRule takes the whole state back, which a mesh does not offer; leave it out"
        )
    plan = sharding_plan(spec.net)
    check_fit(world.mesh, spec.net, plan.divisible, context=spec.data.context, batch_seqs=spec.batch_seqs)
    own = spec.batch_seqs // world.mesh.data
    if placement.micro_batch_seqs < 1 or own % placement.micro_batch_seqs:
        raise ValueError(
            f"a data rank's {own} sequences are no whole number of micro-batches of "
            f"{placement.micro_batch_seqs}; take a micro_batch_seqs that divides {own}"
        )
    return own // placement.micro_batch_seqs


def _finished(spec: RunSpec, folder: RunFolder) -> RunRecord | None:
    """The record of a run that has ended by itself and whose states for branches are there."""
    kept = all(states.folder_of(folder.checkpoints, step).is_dir() for step in spec.save_at_steps)
    if not kept or not folder.finished or folder.read_record().status not in ("finished", "diverged"):
        return None
    return folder.read_record()


def _build(
    spec: RunSpec, world: World, placement: Placement, corpora: Sequence[Corpus], start_from: Path | None
) -> tuple[Job, Spread]:
    """The job on its mesh, with the weights of step 0."""
    for corpus in corpora:
        if corpus.record.vocab_size > spec.net.vocab_size:
            raise ValueError(
                f"{spec.name}: the tokenizer of {corpus.record.source!r} has {corpus.record.vocab_size} tokens, "
                f"the net a vocabulary of {spec.net.vocab_size}; take the tokenizer of its weights"
            )
    weights = None if start_from is None else open_weights(start_from)
    windows, evaluate = TrainingWindows(spec.data, corpora), spec.evaluate
    held_out = held_out_windows(spec, corpora)
    objective = resolve(spec.objective)
    score = None if evaluate is None else resolve(evaluate.function)
    with torch.device("meta"):
        bare = FAMILIES[spec.net.family](spec.net, None)
    wrapping = Wrapping(
        precision=spec.precision,
        recompute=placement.recompute,
        compile=placement.compile,
        reshard=placement.reshard,
        loss_chunks=placement.loss_chunks,
        float8=placement.float8,
    )
    net = spread(bare, sharding_plan(spec.net), world, wrapping)
    if weights is None:
        fill_whole(bare, bare.draw(torch.Generator().manual_seed(spec.seed)))  # type: ignore[operator]
    else:
        weights.load_into(bare)
    # On a GPU each weight is updated by itself: one flat buffer would hold every gradient twice.
    by_parts = net.is_sharded or world.device.type == "cuda"
    job = Job(
        spec=spec,
        net=bare,
        optimizer=ShardedAdamW(bare, spec.optimizer, world) if by_parts else AdamW(bare, spec.optimizer),  # type: ignore[arg-type]
        objective=objective,
        windows=windows,
        device=world.device,
        generator=torch.Generator(world.device),
        autocast=net.autocast,
        score=score,
        held_out=held_out[0] if held_out else None,
        also_held_out=held_out[1:],
    )
    return job, net


def _touch(job: Job, num_micro: int, world: World) -> None:
    """One forward pass that counts for nothing, before a net is scored that has not taken a step.

    FSDP makes its buffers at the first pass. Made in a score's inference mode, they could not be trained with.
    """
    rows = job.spec.batch_seqs // world.mesh.data // num_micro
    tokens = torch.zeros(rows, job.spec.data.context + 1, dtype=torch.int64, device=job.device)
    with torch.no_grad(), job.precision():
        job.net.next_token_loss(tokens)  # type: ignore[operator]


def _moved(rows: np.ndarray, device: torch.device) -> Tensor:
    """Rows on the device. From pinned memory a GPU takes them without waiting for the step before."""
    tokens = torch.from_numpy(rows)
    return tokens.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tokens.to(device)


def _tensors(job: Job) -> dict[str, Tensor]:
    return {**dict(job.net.named_parameters()), **job.optimizer.state()}


def _take_up(job: Job, folder: RunFolder, parent_folder: RunFolder | None, world: World) -> Position:
    """Bring the job to where its run stands: a checkpoint, the trunk's state, or the start."""
    spec, tensors = job.spec, _tensors(job)
    missing = [step for step in spec.save_at_steps if not states.folder_of(folder.checkpoints, step).is_dir()]
    before = min(world.from_first(lambda: missing), default=None)
    state = sharded_checkpoint.load_latest(
        folder.checkpoints, tensors, world, at_most=None if before is None else before - 1
    )
    if state is not None:
        job.optimizer.load(job.optimizer.state(), job.updates_behind(state["step"]))
        return Position.of(state["step"], state)
    if spec.branch is None:
        return Position(0)
    if parent_folder is None:
        raise ParentLostError(f"{spec.name} branches off a trunk, whose folder was not given")
    try:
        taken = dict(job.net.named_parameters()) if spec.branch.weights_only else tensors
        sharded_checkpoint.load(parent_folder.checkpoints, spec.branch.step, taken, world)
    except checkpoint.CheckpointError as error:
        raise ParentLostError(f"{spec.name} cannot leave its trunk: {error}") from None
    if not spec.branch.weights_only:
        job.optimizer.load(job.optimizer.state(), spec.branch.step)
    return Position(spec.branch.step)


# ----------------------------------------------------------------------------------- steps and end


class _Run:
    """A job on its mesh, from its first step here to its record.

    With `doubtful` the gradients of the first step are looked at before they are used.
    """

    def __init__(
        self,
        job: Job,
        net: Spread,
        world: World,
        folder: RunFolder,
        num_micro: int,
        scores: list[Measurement],
        doubtful: bool,
        log: AttemptLog,
        watchers: Loggers,
    ) -> None:
        self._job, self._net, self._world, self._folder = job, net, world, folder
        self._log, self._watchers = log, watchers
        self._num_micro, self._scores = num_micro, scores
        self._doubtful = doubtful

    def steps(
        self,
        position: Position,
        saver: sharded_checkpoint.Saver,
        saves: SaveRule,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None],
        at_checkpoint: Callable[[torch.nn.Module, int], None],
        at_score: Callable[[torch.nn.Module, int], None],
    ) -> LoopEnd:
        """Step from a position to the end of the run, or to where a rank asks to stop."""
        spec, world = self._job.spec, self._world
        rows, kept, scored = set(row_steps(spec)), set(spec.save_at_steps), _score_steps(spec)
        started = saved = time.monotonic()
        before, outputs = position.seconds, []
        with contextlib.ExitStack() as files:
            metrics = files.enter_context(JsonlWriter(self._folder.metrics_path)) if world.is_first else None
            recorder = _Recorder(
                spec,
                position,
                _Nowhere() if metrics is None else Watched(metrics, self._watchers),
                device=self._job.device,
                num_devices=world.mesh.num_devices,
            )
            for step in range(position.step, spec.num_steps):
                outputs.append(self._update(step))
                position.step += 1
                late = saves.every_s is not None and world.is_first
                late = late and time.monotonic() - saved > (saves.every_s or 0.0)
                stop, due = world.largest(int(should_stop()), int(late))
                due = due or stop or position.step in kept
                due = due or (saves.every_steps is not None and position.step % saves.every_steps == 0)
                if not (due or position.step in rows or position.step in scored):
                    continue
                position.seconds = before + time.monotonic() - started
                for output in self._averaged(outputs):
                    recorder.add(output)
                outputs.clear()
                blown_up = recorder.collect()
                if blown_up is not None:
                    return LoopEnd(status="diverged", step=blown_up, seconds=position.seconds)
                if position.step in rows:
                    lr_fraction = schedule.fraction(spec.schedule, step)
                    on_progress(recorder.write_row(spec.optimizer.peak_lr * lr_fraction))
                if position.step in scored:
                    self._score_now(position.step)
                    with self._job.precision():
                        at_score(self._job.net, position.step)
                if due and (position.step < spec.num_steps or position.step in kept):
                    if world.is_first:  # a kill must find no state ahead of what the ledger knows of
                        self._log.reached(position.step, position.seconds)
                    saver.save(position.step, _tensors(self._job), self._state(position))
                    saved = time.monotonic()
                    with self._job.precision():
                        at_checkpoint(self._job.net, position.step)
                if stop and position.step < spec.num_steps:
                    return LoopEnd(status="stopped", step=position.step, seconds=position.seconds)
        position.seconds = before + time.monotonic() - started
        return LoopEnd(status="finished", step=position.step, seconds=position.seconds)

    def _update(self, step: int) -> StepOutput:
        """One update: this rank's rows in micro-batches, gradients averaged, weights moved."""
        job, net, spec = self._job, self._net, self._job.spec
        own = self._world.rows(spec.batch_seqs)
        rows = job.windows.batch(step * spec.batch_seqs + own.start, own.stop - own.start)
        generator, losses = job.seed_step(step), []
        for index, part in enumerate(_moved(rows, job.device).chunk(self._num_micro)):
            net.accumulate(last=index == self._num_micro - 1)
            with job.precision():
                output = job.objective(job.net, part, generator)
            (output.loss / self._num_micro).backward()
            losses.append(output.loss.detach())
        net.finish_gradients()
        if self._doubtful:
            require_gradients(job.net, self._world)
            self._doubtful = False
        norm = job.optimizer.update(schedule.fraction(spec.schedule, step))
        return StepOutput(torch.stack(losses).mean(), norm, {})

    def _averaged(self, outputs: Sequence[StepOutput]) -> list[StepOutput]:
        """The steps' losses as means over all data ranks: one talk for all of them."""
        losses = self._world.mean(torch.stack([output.loss.float() for output in outputs]))
        return [
            StepOutput(loss, output.grad_norm, {})
            for loss, output in zip(losses.unbind(), outputs, strict=True)
        ]

    def _state(self, position: Position) -> dict[str, object]:
        spec = self._job.spec
        return {
            "fingerprint": spec.fingerprint(),
            **position.state(),
            "data": {"next_sample": position.step * spec.batch_seqs},
            "schedule": {"lr_fraction": schedule.fraction(spec.schedule, position.step)},
            "rng": {"seed": spec.seed, "rule": "generator of a step = function of (seed, step)"},
            "versions": {"torch": str(torch.__version__)},
        }

    def _score_now(self, step: int) -> bool:
        """Score on all ranks, write on the first. Returns False when the held-out loss is not finite."""
        job = self._job
        scores = job.scores(step)
        if any(score.loss.value is None for score in scores):
            return False
        self._scores.extend(scores)
        self._watchers.scores(scores)
        self._world.from_first(lambda: self._folder.write_measurements(self._scores))
        return True

    def conclude(
        self,
        end: LoopEnd,
        provenance: Provenance,
        like: Path | None,
        at_score: Callable[[torch.nn.Module, int], None],
    ) -> RunRecord:
        """Score, keep the weights, write the record."""
        job, world, started, reason = self._job, self._world, time.monotonic(), None
        if end.status == "diverged":
            reason = f"the loss was not finite at step {end.step}"
        elif job.score is not None and not self._score_now(end.step):
            reason = f"the held-out loss was not finite at step {end.step}, the last one"
        if reason is None:
            with job.precision():
                at_score(job.net, end.step)
            self._keep_final(end.step, like)

        def write() -> RunRecord:
            seconds = end.seconds + time.monotonic() - started
            self._log.end("finished" if reason is None else "diverged", end.step, seconds)
            status = "finished" if reason is None else "diverged"
            step = None if reason is None else end.step
            record = write_end(job.spec, self._folder, status, reason, provenance, step=step)
            states.prune(self._folder.checkpoints, set(job.spec.save_at_steps))
            return record

        return world.from_first(write)

    def _keep_final(self, step: int, like: Path | None) -> None:
        """Weights in Hugging Face's files, with their hashes; what an earlier try left is replaced."""
        folder, spec = self._folder.checkpoints / FINAL, self._job.spec
        self._world.from_first(lambda: shutil.rmtree(folder, ignore_errors=True))
        save_weights(self._job.net, spec.net, folder, self._world, like=like)
        state = {"step": step, "fingerprint": spec.fingerprint()}
        self._world.from_first(lambda: checkpoint.seal(folder, state))


class _Nowhere:
    """Takes rows of metrics on ranks that do not write them."""

    def write(self, row: dict[str, object]) -> None:
        return
