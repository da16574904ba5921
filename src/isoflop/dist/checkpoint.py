"""Checkpoints: safetensors and JSON in a folder that is either whole or not there.

    checkpoint/step-00000123/{model.safetensors, optimizer.safetensors, state.json}

A folder is written under another name and renamed, and ``state.json`` holds the hash of each file: a
checkpoint that was cut short or damaged is passed over, and the one before it is used. There is no pickle
in it. Names are those of the parameters ("model.layers.0.…", and "exp_avg.model.layers.0.…" for the
optimizer), which is the layout that PyTorch's distributed checkpointing reads and writes through
``HuggingFaceStorageReader`` and ``HuggingFaceStorageWriter``, so a sharded run can go on from one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from isoflop.dist.states import folder_of, steps
from isoflop.store import StoreError, write_atomic

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing or damaged; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state of training.

    Attributes:
        step: updates done.
        model: parameters by name.
        optimizer: the optimizer's tensors by name; empty for final weights.
        state: everything else that resuming needs, JSON-ready: generators' states, data position, versions.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint so that it is there whole or not at all.

    Raises StoreError when it cannot be written (a full disk, say); what was there before stays.
    """
    target = folder_of(root, checkpoint.step)
    return write_folder(
        target,
        {MODEL: checkpoint.model, OPTIMIZER: checkpoint.optimizer},
        {"step": checkpoint.step, **checkpoint.state},
    )


def write_folder(target: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write files of tensors with their state.json into a folder that appears at once."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        hashes = {}
        for name, values in tensors.items():
            if not values:
                continue
            save_file(
                {key: value.detach().contiguous().cpu() for key, value in values.items()}, temporary / name
            )
            hashes[name] = _sha256(temporary / name)
        text = json.dumps({**state, "sha256": hashes}, indent=1, allow_nan=False)
        with (temporary / STATE).open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"cannot write the checkpoint {target}: {error}; free some space and resume"
        ) from error
    return target


def seal(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state.json of a folder whose safetensors files are all there: the last file, with their hashes."""
    hashes = {path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    write_atomic(folder / STATE, json.dumps({**state, "sha256": hashes}, indent=1, allow_nan=False))


def load(root: Path, step: int) -> Checkpoint:
    """The checkpoint after `step` updates.

    Raises CheckpointError when it is missing, cut short or damaged.
    """
    tensors, state = read_folder(folder_of(root, step))
    return Checkpoint(step=step, model=tensors[MODEL], optimizer=tensors.get(OPTIMIZER, {}), state=state)


def read_folder(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and the state of a folder, with every hash checked."""
    try:
        state = json.loads((folder / STATE).read_text())
        hashes: dict[str, str] = state.pop("sha256")
        for name, expected in hashes.items():
            if _sha256(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged: its hash is not the one in {STATE}")
        return {name: load_file(folder / name) for name in hashes}, state
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a whole checkpoint: {Path(error.filename).name} is missing"
        ) from None
    except (ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from None


def latest(root: Path, *, at_most: int | None = None) -> Checkpoint | None:
    """The last whole checkpoint; a damaged one is passed over with a warning. None when there is none."""
    for step in reversed(steps(root)):
        if at_most is not None and step > at_most:
            continue
        try:
            return load(root, step)
        except CheckpointError as error:
            warnings.warn(f"{error}; going back to the one before it", RuntimeWarning, stacklevel=2)
    return None


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How much room checkpoints may take.

    Attributes:
        num_bytes: limit over all checkpoints below `root`.
        root: folder that is counted.
    """

    num_bytes: int
    root: Path

    def used(self) -> int:
        """Bytes taken now; files and folders that vanish while counting count as nothing."""
        total = 0
        for folder, _, names in os.walk(self.root):  # passes over what it cannot open
            for name in names:
                if name.endswith(".safetensors"):
                    with contextlib.suppress(OSError):
                        total += os.stat(os.path.join(folder, name)).st_size
        return total

    def require(self, num_bytes: int) -> None:
        """Raise StoreError, before anything is written, when so many more bytes do not fit."""
        used = self.used()
        if used + num_bytes > self.num_bytes:
            raise StoreError(
                f"a checkpoint of {num_bytes / 1e6:.1f} MB does not fit the disk quota: {used / 1e6:.1f} of "
                f"{self.num_bytes / 1e6:.1f} MB are taken below {self.root}; raise the quota or delete finished runs"
            )


def size_of(*tensors: Mapping[str, Tensor]) -> int:
    """Bytes that these tensors take on disk, headers aside."""
    return sum(value.numel() * value.element_size() for group in tensors for value in group.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
