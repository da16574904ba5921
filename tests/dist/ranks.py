"""Runs a function on several ranks of this machine, over gloo, and brings back what each returned.

Starting processes costs seconds, so a test asks for one session and does many checks in it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., Any], num_ranks: int, folder: Path, *args: Any) -> list[Any]:
    """Call function(*args) on each rank, with a default process group; results by rank.

    Args:
        function: importable by name; what it returns goes through torch.save.
        num_ranks: processes.
        folder: an empty folder, for the meeting point and the results.
        args: the same for all ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mp.start_processes(
        _run, (function, num_ranks, folder, args), nprocs=num_ranks, join=True, start_method="spawn"
    )
    return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(num_ranks)]


def _run(
    rank: int, function: Callable[..., Any], num_ranks: int, folder: Path, args: tuple[Any, ...]
) -> None:
    warnings.simplefilter("error")
    # What PyTorch's compiler warns itself of; what its distributed engine says stays an error.
    warnings.filterwarnings(
        "ignore", module=r"torch\.(_dynamo|_inductor|_functorch|_subclasses|fx|jit|utils)"
    )
    torch.set_num_threads(1)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiling processes per rank
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=num_ranks
    )
    try:
        torch.save(function(*args), folder / f"result-{rank}")
        dist.barrier()
    finally:
        dist.destroy_process_group()
