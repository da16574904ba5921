"""What sessions of several ranks do with whole runs. Every rank calls these alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.data import TrainingWindows, open_corpus
from isoflop.dist import mesh
from isoflop.records import MeshSpec, Placement, RunRecord, RunSpec
from isoflop.store import RunFolder
from isoflop.train import distributed
from isoflop.train.distributed import SaveRule, train_distributed


def placement(text: str = "1x1x1", micro_batch_seqs: int = 1, **changes: Any) -> Placement:
    degrees = MeshSpec.parse(text)
    fields: dict[str, Any] = {
        "device": "cpu",
        "num_nodes": 1,
        "devices_per_node": degrees.num_devices,
        "mesh": degrees,
        "micro_batch_seqs": micro_batch_seqs,
        "precision": "fp32",
        "recompute": "none",
        "compile": False,
    }
    return Placement(**{**fields, **changes})


class Watched(TrainingWindows):
    """Notes which samples are read: rows of (first sample, count)."""

    read: list[tuple[int, int]] = []  # noqa: RUF012 - cleared by `train`

    def batch(self, first_sample: int, count: int) -> Any:
        self.read.append((first_sample, count))
        return super().batch(first_sample, count)


def train(
    spec: RunSpec, path: Path, where: Placement, stop_after: int | None = None, **options: Any
) -> tuple[RunRecord | None, np.ndarray]:
    """Train, and say which samples this rank has read; with `stop_after`, ask to stop after so many steps."""
    Watched.read.clear()
    distributed.TrainingWindows = Watched  # type: ignore[misc]
    asked = iter(range(1, 10**9))
    stop: Callable[[], bool] = lambda: stop_after is not None and next(asked) >= stop_after  # noqa: E731
    record = train_distributed(
        spec,
        RunFolder(path),
        mesh.join(where.mesh),
        where,
        corpora=[open_corpus(source) for source in spec.data.sources],
        should_stop=stop,
        **options,
    )
    samples = [np.arange(first, first + count) for first, count in Watched.read]
    return record, np.concatenate(samples) if samples else np.array([], dtype=int)


def change_meshes(spec: RunSpec, root: Path) -> dict[str, Any]:
    """One run that changes its mesh at every stop; one on each mesh in one go; two micro-batches; trunk and all."""
    seen: dict[str, Any] = {"samples": []}
    for text, stop_after in (("2x1x1", 5), ("1x1x2", 6), ("1x2x1", None)):
        record, samples = train(spec, root / "changing", placement(text), stop_after)
        seen["samples"].append((text, samples))
        assert (record is None) == (stop_after is not None)
    for text in ("2x1x1", "1x2x1", "1x1x2"):
        train(spec, root / text, placement(text, micro_batch_seqs=2))
    train(
        spec,
        root / "steps",
        placement("1x2x1"),
        saves=SaveRule(every_steps=4, every_s=None, background=False),
    )
    return seen


def refuse(spec: RunSpec, root: Path, start_from: Path) -> list[str]:
    """Messages of runs that cannot be: the same on every rank, and nothing hangs."""
    said = []
    for options in (
        {"where": placement("2x1x1", micro_batch_seqs=3)},
        {"where": placement("1x2x1"), "start_from": start_from},
    ):
        try:
            train(spec, root / "refused", **options)  # type: ignore[arg-type]
        except (ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    return said
