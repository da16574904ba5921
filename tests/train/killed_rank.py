"""One rank of a run that kills itself, once, in a named phase: what torchrun starts in the test of kills.

The n-th start of the ranks kills rank n % ranks in phase n of KILLS; later starts let the run end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from isoflop.data import TrainingWindows
from isoflop.dist import sharded_checkpoint
from isoflop.train import distributed, distributed_worker

PHASES = ("step", "loader", "save", "beside", "rename")


def on_call(number: int, owner: Any, name: str, before: bool = True) -> None:
    """Make the n-th call of a function the last thing this process does."""
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killing)


def arrange(phase: str) -> None:
    """Lay the trap of a phase."""
    if phase == "step":  # between the backward pass and the update
        on_call(9, distributed.ShardedAdamW, "update")
    elif phase == "loader":
        on_call(4, TrainingWindows, "batch")
    elif phase in ("save", "beside"):  # this rank's file is there, nothing is committed
        on_call(2, sharded_checkpoint.Saver, "_write_parts", before=False)
    else:  # every file is there, the folder has not got its name
        sharded_checkpoint.os = SimpleNamespace(replace=os.replace)  # type: ignore[assignment]
        on_call(1, sharded_checkpoint.os, "replace")


def main() -> None:
    folder, phases = Path(sys.argv[1]), sys.argv[2].split(",")
    restart, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    phase = phases[restart] if restart < len(phases) else None
    victim = 0 if phase == "rename" else restart % int(os.environ["WORLD_SIZE"])
    with (folder / f"starts-{rank}.txt").open("a") as file:
        file.write(f"{restart} {phase}\n")
    rule = distributed.SaveRule(every_steps=5, every_s=None, background=phase == "beside")
    distributed_worker.SaveRule = lambda **options: rule  # type: ignore[assignment,misc]
    if phase is not None and rank == victim:
        arrange(phase)
    distributed_worker.train_folder(folder)


if __name__ == "__main__":
    main()
