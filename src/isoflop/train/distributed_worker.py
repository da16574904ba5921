"""One rank of a run: what a launcher starts on every device.

    torchrun --nproc-per-node 8 -m isoflop.train.distributed_worker RUN_FOLDER

The run folder holds spec.json and launch.json (`Launch`). A signal to end (SIGTERM, SIGUSR1, Ctrl-C), or a file
named ``stop`` in the folder, makes all ranks save together and leave with code 0; starting again goes on from
there. So does a kill, from the last checkpoint.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from isoflop.data import open_corpus
from isoflop.dist import mesh
from isoflop.records import Benchmark, FunctionRef, Placement, Record, RunRecord, encode, read
from isoflop.refs import resolve
from isoflop.store import RunFolder, write_atomic
from isoflop.train.distributed import SaveRule, train_distributed
from isoflop.train.loop import Progress
from isoflop.train.recipe_run import SourceScorer, threads_per_rank

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
    source_names: tuple[str, ...] = ()
    """Of the spec's sources, in their order: each is scored on its own held-out text. Empty scores none apart."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Scored before the first step, at the run's scores and at its end, by the function that `score_with` makes."""
    score_with: FunctionRef | None = None
    """Called once on each rank with (benchmarks, spec, run folder, world); returns a function of (net, step)."""


def write_launch(folder: RunFolder, launch: Launch) -> None:
    """Put launch.json beside spec.json."""
    write_atomic(folder.path / LAUNCH, encode(launch, indent=1))


class StopRequest:
    """True once a signal to end has come, or the stop file is there (looked for once a second).

    As a context it gives the signals back at its end. A second Ctrl-C ends at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.asked = False
        self._looked = 0.0
        self._before: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __call__(self) -> bool:
        if not self.asked and time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self.asked = self._path.exists()
        return self.asked

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train_folder(path: Path, *, on_progress: Callable[[Progress], None] | None = None) -> RunRecord | None:
    """Train the run of a folder as its launch.json says, as one rank of the launched processes.

    Args:
        path: the run folder.
        on_progress: told at each row of metrics; by default the first rank prints a line.

    Returns the record, or None when it was asked to stop.
    """
    folder = RunFolder(path)
    spec, launch = folder.read_spec(), read(path / LAUNCH, Launch)
    device = "cpu" if launch.placement.device == "cpu" else "cuda"
    if device == "cpu":
        torch.set_num_threads(threads_per_rank())
    with StopRequest(path / STOP) as stop, mesh.session(launch.placement.mesh, device) as world:
        corpora = [open_corpus(source) for source in spec.data.sources]
        scorers: list[Callable[[torch.nn.Module, int], None]] = []
        if launch.source_names and spec.evaluate is not None and not folder.finished:
            scorers.append(SourceScorer(spec, folder, world, launch.source_names, corpora))
        if launch.benchmarks and launch.score_with is not None and not folder.finished:
            scorers.append(resolve(launch.score_with)(launch.benchmarks, spec, folder, world))

        def score(net: torch.nn.Module, step: int) -> None:
            for scorer in scorers:
                scorer(net, step)

        def say(progress: Progress) -> None:
            _say(world, progress.step, progress.num_steps, progress.loss_nats)

        return train_distributed(
            spec,
            folder,
            world,
            launch.placement,
            corpora=corpora,
            parent_folder=RunFolder(Path(launch.parent)) if launch.parent else None,
            start_from=Path(launch.start_from) if launch.start_from else None,
            saves=SaveRule(every_steps=launch.checkpoint_every_steps, every_s=launch.checkpoint_every_s),
            should_stop=stop,
            on_progress=on_progress or say,
            at_score=score,
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
