"""What sessions of several ranks do with whole runs. Every rank calls these alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from isoflop.data import TrainingWindows, open_corpus
from isoflop.dist import mesh, parallel, states
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


# ------------------------------------------------------------------------- the same run on every mesh

SAVE_EVERY, RESUME_AT = 15, 30
"""A state every SAVE_EVERY updates, written beside the training; runs go on from the one after RESUME_AT."""


def note_gradients() -> dict[str, torch.Tensor]:
    """The gradients of the coming run's first update, whole, once every rank has its mean over the batch."""
    found: dict[str, torch.Tensor] = {}
    finish = parallel.Spread.finish_gradients

    def finish_and_note(net: parallel.Spread) -> None:
        finish(net)
        parallel.Spread.finish_gradients = finish  # type: ignore[method-assign]
        for name, parameter in net.net.named_parameters():
            if parameter.grad is not None:
                gradient = parallel.laid_out_as(parameter.grad, parameter).detach()
                whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
                found[name] = whole.clone()

    parallel.Spread.finish_gradients = finish_and_note  # type: ignore[method-assign]
    return found


def undisturbed(spec: RunSpec, root: Path, where: Placement, copies: tuple[str, ...] = ()) -> dict[str, Any]:
    """A run in one go: samples of this rank and gradients of the first update.

    Each of `copies` gets the folder as a kill would have left it after a later state than RESUME_AT's was
    begun: what was written until then, and that state.
    """

    def copy(net: torch.nn.Module, step: int) -> None:
        if step != RESUME_AT + SAVE_EVERY or dist.get_rank() != 0:
            return  # by then the state before is whole: one is under way at a time
        whole = RunFolder(root / where.mesh.words)
        for name in copies:
            state = states.folder_of(RunFolder(root / name).checkpoints, RESUME_AT)
            shutil.copytree(states.folder_of(whole.checkpoints, RESUME_AT), state)
            for path in whole.path.iterdir():
                if path.is_file():
                    shutil.copy(path, root / name)

    gradients = note_gradients()
    saves = SaveRule(every_steps=SAVE_EVERY, every_s=None, background=True)
    record, samples = train(spec, root / where.mesh.words, where, saves=saves, at_checkpoint=copy)
    assert record is not None
    return {"samples": samples, "gradients": gradients}


def eight_ranks(spec: RunSpec, root: Path, copies: tuple[str, ...]) -> dict[str, Any]:
    """HSDP x TP, compiled, everything recomputed: in one go, and on from a state of its own."""
    where = placement("2x2x2", micro_batch_seqs=2, compile=True, recompute="full")
    seen = undisturbed(spec, root, where, copies)
    _, seen["resumed samples"] = train(spec, root / "on 8", where)
    return seen


def four_ranks(spec: RunSpec, root: Path) -> dict[str, Any]:
    """FSDP."""
    return undisturbed(spec, root, placement("1x4x1", micro_batch_seqs=2))


def resume(spec: RunSpec, root: Path, where: dict[str, str]) -> dict[str, Any]:
    """Samples of this rank in runs that go on, by folder, each on its mesh."""
    return {name: train(spec, root / name, placement(text, 4))[1] for name, text in where.items()}


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
