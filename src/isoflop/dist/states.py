"""Which states of training a run folder holds: names of folders alone, so that a fleet needs no torch for it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path


def folder_of(root: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` updates."""
    return root / f"step-{step:08d}"


def steps(root: Path) -> list[int]:
    """Steps of which there is a checkpoint, ascending; their content is not checked."""
    if not root.is_dir():
        return []
    return sorted(int(path.name[5:]) for path in root.iterdir() if path.name.startswith("step-"))


def prune(root: Path, keep: Collection[int]) -> None:
    """Delete the checkpoints of all other steps, and what a kill left half-written."""
    if not root.is_dir():
        return
    for path in root.iterdir():
        state = path.name.startswith("step-") and int(path.name[5:]) not in keep
        if state or path.name.startswith("."):
            _delete(path)


def drop(root: Path, step: int) -> None:
    """Delete one state, a damaged one say."""
    _delete(folder_of(root, step))


def _delete(path: Path) -> None:
    """Delete a folder so that it is never seen half-deleted under its own name."""
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.gone")
    try:
        if path != hidden:
            path.rename(hidden)
    except OSError:
        return  # gone already, or still in use: the next pruning takes it
    shutil.rmtree(hidden, ignore_errors=True)
