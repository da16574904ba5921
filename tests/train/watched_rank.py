"""One rank of a run that writes down what it reads: what torchrun starts in the proof of kills over ranks.

Beside the run's own files each rank keeps one of its own per start, ranks/LAUNCH-RESTART-RANK.jsonl, with a
line when it has joined, when it has taken up a state, for each batch (first sample, hashes of its
sequences), and for each warning. The state that was taken up is put together again from all ranks and
compared, to the bit, with the files that it was read from.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from isoflop.data import TrainingWindows
from isoflop.data.audit import hash_rows
from isoflop.dist import sharded_checkpoint, states
from isoflop.train import distributed, distributed_worker

RANKS = "ranks"
LAUNCH_NUMBER = "WATCHED_LAUNCH"


class Notes:
    """This rank's file of this start: a line per event, each written at once, so that a kill loses none."""

    def __init__(self, folder: Path) -> None:
        start = f"{os.environ[LAUNCH_NUMBER]}-{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['RANK']}"
        (folder / RANKS).mkdir(exist_ok=True)
        self._file = os.open(folder / RANKS / f"{start}.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(self, event: str, **values: Any) -> None:
        os.write(self._file, json.dumps({"event": event, **values}).encode() + b"\n")


def watch_samples(notes: Notes) -> None:
    """Note every batch that this rank reads."""

    class Watched(TrainingWindows):
        def batch(self, first_sample: int, count: int) -> Any:
            rows = super().batch(first_sample, count)
            notes.write("read", first=first_sample, hashes=[int(value) for value in hash_rows(rows)])
            return rows

    distributed.TrainingWindows = Watched  # type: ignore[misc]


def watch_states(notes: Notes) -> None:
    """Note which state is taken up, and whether the ranks now hold, together, what its files hold."""
    load_latest = sharded_checkpoint.load_latest

    def watched(root: Path, tensors: Any, world: Any, **options: Any) -> Any:
        state = load_latest(root, tensors, world, **options)
        if state is None:
            notes.write("taken up", step=0, equal=True)
            return None
        stored = sharded_checkpoint.read_whole(states.folder_of(root, state["step"]))
        equal = set(stored) == set(tensors)
        for name, tensor in tensors.items():
            whole = tensor.detach()
            whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
            equal = equal and torch.equal(whole, stored[name])
        notes.write("taken up", step=state["step"], equal=equal)
        return state

    sharded_checkpoint.load_latest = watched


def main() -> None:
    folder = Path(sys.argv[1])
    notes = Notes(folder)
    notes.write("joined")
    warnings.simplefilter("always", RuntimeWarning)
    warnings.showwarning = lambda message, category, *_: notes.write(
        "warned", kind=category.__name__, text=str(message)
    )
    watch_samples(notes)
    watch_states(notes)
    distributed_worker.train_folder(folder)


if __name__ == "__main__":
    main()
