"""One rank of a run: what a launcher starts on every device.

    torchrun --nproc-per-node 8 -m isoflop.train.distributed_worker RUN_FOLDER

The run folder holds spec.json and launch.json (`Launch`). A signal to end (SIGTERM, SIGUSR1), or a file named
``stop`` in the folder, makes all ranks save together and leave with code 0; starting again goes on from
there. So does a kill, from the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from isoflop.data import open_corpus
from isoflop.dist import mesh
from isoflop.records import Placement, Record, RunRecord, encode, read
from isoflop.store import RunFolder, write_atomic
from isoflop.train.distributed import SaveRule, train_distributed

LAUNCH = "launch.json"
STOP = "stop"
LOOK_EVERY_S = 1.0
"""Seconds between two looks for the stop file."""


class Launch(Record, frozen=True, kw_only=True):
    """How a run is to be trained: everything that is not its identity."""

    placement: Placement
    start_from: str | None = None
    """Folder of Hugging Face weights to start from."""
    parent: str | None = None
    """Folder of the trunk, for a branch."""
    checkpoint_every_steps: int | None = None
    checkpoint_every_s: float | None = 600.0
    """Seconds between checkpoints to resume from, by the first rank's clock."""


def write_launch(folder: RunFolder, launch: Launch) -> None:
    """Put launch.json beside spec.json."""
    write_atomic(folder.path / LAUNCH, encode(launch, indent=1))


class StopRequest:
    """True once a signal to end has come, or the stop file is there (looked for once a second)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = False
        self._looked = 0.0
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        if not self._asked and time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._asked = self._path.exists()
        return self._asked


def train_folder(path: Path) -> RunRecord | None:
    """Train the run of a folder as its launch.json says, as one rank of the launched processes.

    Returns the record, or None when it was asked to stop.
    """
    folder = RunFolder(path)
    spec, launch = folder.read_spec(), read(path / LAUNCH, Launch)
    stop = StopRequest(path / STOP)
    device = "cpu" if launch.placement.device == "cpu" else "cuda"
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with mesh.session(launch.placement.mesh, device) as world:
        return train_distributed(
            spec,
            folder,
            world,
            launch.placement,
            corpora=[open_corpus(source) for source in spec.data.sources],
            parent_folder=RunFolder(Path(launch.parent)) if launch.parent else None,
            start_from=Path(launch.start_from) if launch.start_from else None,
            saves=SaveRule(every_steps=launch.checkpoint_every_steps, every_s=launch.checkpoint_every_s),
            should_stop=stop,
            on_progress=lambda progress: _say(world, progress.step, progress.num_steps, progress.loss_nats),
        )


def _say(world: mesh.World, step: int, num_steps: int, loss_nats: float | None) -> None:
    if world.is_first and loss_nats is not None:
        print(f"step {step} of {num_steps}: {loss_nats:.4f} nats", flush=True)


def main() -> int:
    """Exit code 0 when the run has ended or was stopped in good order."""
    if len(sys.argv) != 2:
        print("usage: python -m isoflop.train.distributed_worker RUN_FOLDER", file=sys.stderr)
        return 2
    train_folder(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
