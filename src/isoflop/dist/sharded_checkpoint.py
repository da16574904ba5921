"""Checkpoints of a net that lies on many ranks: each writes its parts, any arrangement reads them back.

    checkpoint/step-00000123/{shard-00001-….safetensors, shard-00002-…, …, state.json}

PyTorch's distributed checkpointing with its safetensors storage: no pickle, one file per rank, the place of
each part in the file's header. The folder is written under another name and renamed when every file is
there; state.json holds the hash of each. So a reader finds a whole checkpoint or none, and a checkpoint
written by one process (`isoflop.dist.checkpoint`) is read in the same way.

With `background`, `Saver.save` returns when the values are copied; writing, hashing and renaming go on
beside the training, over a process group of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from isoflop.dist.checkpoint import STATE, CheckpointError
from isoflop.dist.mesh import World
from isoflop.dist.states import folder_of, prune, steps
from isoflop.store import StoreError, write_atomic


class Saver:
    """Writes the checkpoints of one run; every rank has one and calls it at the same steps.

    Args:
        root: the run's folder of checkpoints, on a file system that all ranks see.
        world: the mesh.
        background: write beside the training.
        keep_last: checkpoints to resume from that stay, besides `keep_steps`; 0 keeps all.
        keep_steps: steps whose checkpoints always stay.
    """

    def __init__(
        self,
        root: Path,
        world: World,
        *,
        background: bool = False,
        keep_last: int = 2,
        keep_steps: Collection[int] = (),
    ) -> None:
        self._root, self._world, self._background = root, world, background
        self._keep_last, self._keep_steps = keep_last, set(keep_steps)
        self._group = None if world.device_mesh is None else dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint so that it is there whole or not at all.

        Args:
            step: updates done.
            tensors: parameters and moments by name, sharded or the same on every rank.
            state: everything else, JSON-ready; the first rank's is written.

        Raises StoreError on every rank when one cannot write; with `background`, at the next call.
        """
        self.wait()
        if not self._background:
            self._write(step, tensors, state)
            return
        copies = {name: _copy(tensor) for name, tensor in tensors.items()}
        self._thread = threading.Thread(
            target=self._write_beside, args=(step, copies, dict(state)), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is whole. Raises what its writing raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_beside(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        try:
            self._write(step, tensors, state)
        except Exception as error:  # handed to the training thread
            self._error = error

    def _write(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        target = folder_of(self._root, step)
        partial = target.with_name(f".{target.name}.partial")
        self._together(target, lambda: _make_empty(partial) if self._world.is_first else None)
        self._together(target, lambda: self._write_parts(partial, tensors))
        hashes = self._together(target, lambda: _hashes(partial, self._world.rank))
        self._together(target, lambda: self._commit(partial, target, step, state, hashes))

    def _write_parts(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        _expect_one_process()
        dcp.save(dict(tensors), storage_writer=writer, process_group=self._group, no_dist=self._group is None)

    def _commit(
        self,
        partial: Path,
        target: Path,
        step: int,
        state: Mapping[str, Any],
        hashes: list[dict[str, str]],
    ) -> None:
        """On the first rank: write state.json, give the folder its name, clear what is not needed."""
        if not self._world.is_first:
            return
        all_hashes = {name: value for part in hashes for name, value in part.items()}
        content = {"step": step, "mesh": self._world.mesh.words, **state, "sha256": all_hashes}
        write_atomic(partial / STATE, json.dumps(content, indent=1, allow_nan=False))
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        if self._keep_last:
            rolling = [found for found in steps(self._root) if found not in self._keep_steps]
            prune(self._root, self._keep_steps | set(rolling[-self._keep_last :]))

    def _together(self, target: Path, action: Any) -> list[Any]:
        """What the action returned on each rank; StoreError on all when it failed on one."""
        result, problem = None, None
        try:
            result = action()
        except (OSError, SafetensorError, StoreError, dcp.CheckpointException) as error:
            problem = f"rank {self._world.rank}: {_reason(error)}"
        results = _gathered((result, problem), self._group)
        problems = [text for _, text in results if text]
        if problems:
            raise StoreError(
                f"cannot write the checkpoint {target}: {problems[0]}; free some space and resume"
            )
        return [value for value, _ in results]


def load(root: Path, step: int, tensors: Mapping[str, Tensor], world: World) -> dict[str, Any]:
    """Read a checkpoint into tensors, in place, whatever arrangement wrote it.

    Args:
        root: the run's folder of checkpoints.
        step: which one.
        tensors: parameters and moments by name, as they shall lie.
        world: the mesh; all ranks call.

    Returns what else was saved.

    Raises CheckpointError on every rank when it is missing, damaged, or of another shape; the tensors may
    hold parts of it then.
    """
    folder = folder_of(root, step)
    state, problem = None, None
    try:
        state = _verify(folder, world)
        _check_shapes(folder, tensors)
    except CheckpointError as error:
        problem = str(error)
    problems = [text for text in world.gathered(problem) if text]
    if problems:
        raise CheckpointError(problems[0])
    assert state is not None
    try:
        _expect_one_process()
        dcp.load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            no_dist=world.device_mesh is None,
        )
    except (OSError, SafetensorError, dcp.CheckpointException) as error:
        raise CheckpointError(f"{folder} is damaged: {_reason(error)}") from error
    return state


def load_latest(
    root: Path, tensors: Mapping[str, Tensor], world: World, *, at_most: int | None = None
) -> dict[str, Any] | None:
    """Read the last whole checkpoint into tensors; a damaged one is passed over with a warning.

    Returns its state with "step", or None when there is none. All ranks find the same one.
    """
    for step in reversed(world.from_first(lambda: steps(root))):
        if at_most is not None and step > at_most:
            continue
        try:
            return load(root, step, tensors, world)
        except CheckpointError as error:
            if "another shape" in str(error):
                raise
            if world.is_first:
                warnings.warn(f"{error}; going back to the one before it", RuntimeWarning, stacklevel=2)
    return None


def read_whole(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, in this process alone; for small nets and for looking."""
    _state(folder)
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _entries(folder).items()
    }
    _expect_one_process()
    dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


# ------------------------------------------------------------------------------------- checking


def _verify(folder: Path, world: World) -> dict[str, Any]:
    """The state, after checking that every file is there, and the hashes of this rank's share of them."""
    state = _state(folder)
    hashes: dict[str, str] = state.pop("sha256")
    missing = [name for name in hashes if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {missing[0]} is missing")
    for name in sorted(hashes)[world.rank :: world.mesh.num_devices]:
        if _sha256(folder / name) != hashes[name]:
            raise CheckpointError(f"{folder / name} is damaged: its hash is not the one in {STATE}")
    return state


def _state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        assert isinstance(state["sha256"], dict)
    except OSError:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {STATE} is missing") from None
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{folder} is damaged: {STATE}: {error}") from None
    return state


def _entries(folder: Path) -> dict[str, Any]:
    try:
        return dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from None


def _check_shapes(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError when a tensor is missing or has another shape."""
    entries = _entries(folder)
    missing = [name for name in tensors if name not in entries]
    if missing:
        raise CheckpointError(f"{folder} is of another shape: it holds no {missing[0]!r}")
    for name, tensor in tensors.items():
        if tuple(entries[name].size) != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder} is of another shape: {name!r} is {_words(entries[name].size)} there and "
                f"{_words(tensor.shape)} here; resume with the net it was saved from"
            )


# --------------------------------------------------------------------------------------- details


def _expect_one_process() -> None:
    """A process without a group saves and reads for itself alone, as it should: nothing to warn of."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU that training does not change, sharded as the original.

    Not by `DTensor.from_local`, which would move the copy to the mesh's device: to the GPU, a second time.
    """
    return tensor.detach().to("cpu", copy=True)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _hashes(folder: Path, rank: int) -> dict[str, str]:
    """Hashes of the files that this rank wrote."""
    return {path.name: _sha256(path) for path in sorted(folder.glob(f"shard-{rank + 1:05d}-*"))}


def _gathered(value: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """The value of each rank of a group; alone, this process's."""
    if group is None:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _reason(error: BaseException) -> str:
    """The first failure, in a sentence."""
    if isinstance(error, dcp.CheckpointException) and error.failures:
        rank, (first, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {first}"
    return str(error)


def _words(shape: torch.Size) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
