"""What each session of several ranks does: many checks after one start-up. Runs on every rank alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from isoflop.dist import parallel, sharded_checkpoint
from isoflop.dist.parallel import Wrapping
from isoflop.dist.weights import open_weights, save_weights
from isoflop.records import MeshSpec, NetSpec
from tests.dist import runs
from tests.dist.runs import NET, UNEVEN, Run

TIED = msgspec.structs.replace(NET, tied_head=True)
FULL = Wrapping(compile=True, recompute="full")
STEPS, SHORT = 50, 8
SAVED, RESUMED_TO = 10, 30
"""Checkpoints are written after SAVED updates; runs go on from them to RESUMED_TO."""


@dataclass
class Seen:
    """Results of a session by name, the same names on every rank."""

    runs: dict[str, Run] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def train(text: str, wrapping: Wrapping, num_steps: int, net: NetSpec = NET, accumulate: int = 1) -> Run:
    world, spread, optimizer = runs.build(MeshSpec.parse(text), wrapping, net)
    run = runs.train(world, spread, optimizer, 0, num_steps, net, accumulate)
    return run


def tensors_of(spread: parallel.Spread, optimizer: Any) -> dict[str, Any]:
    return {**dict(spread.net.named_parameters()), **optimizer.state()}


def save_on_the_way(text: str, wrapping: Wrapping, root: Path, net: NetSpec = NET) -> Run:
    """Train to RESUMED_TO; after SAVED updates write one checkpoint, and one in the background."""
    world, spread, optimizer = runs.build(MeshSpec.parse(text), wrapping, net)
    run = runs.train(world, spread, optimizer, 0, SAVED, net)
    tensors = tensors_of(spread, optimizer)
    saver = sharded_checkpoint.Saver(root, world)
    saver.save(SAVED, tensors, {"note": "at once"})
    beside = sharded_checkpoint.Saver(root / "beside", world, background=True)
    beside.save(SAVED, tensors, {"note": "beside"})
    later = runs.train(world, spread, optimizer, SAVED, RESUMED_TO, net)  # changes what was just copied
    beside.wait()
    return Run(run.losses + later.losses, run.norms + later.norms, run.gradients)


def resume(text: str, wrapping: Wrapping, root: Path, net: NetSpec = NET) -> Run:
    """Updates SAVED .. RESUMED_TO from the last checkpoint."""
    world, spread, optimizer = runs.build(MeshSpec.parse(text), wrapping, net, seed=99)
    state = sharded_checkpoint.load_latest(root, tensors_of(spread, optimizer), world)
    assert state is not None
    assert state["step"] == SAVED
    optimizer.load(optimizer.state(), SAVED)
    run = runs.train(world, spread, optimizer, SAVED, RESUMED_TO, net)
    return run


def score(text: str) -> dict[str, torch.Tensor]:
    """Loss and logits of untrained weights without gradients, on a batch that all ranks share."""
    _, spread, _ = runs.build(MeshSpec.parse(text), Wrapping())
    tokens = runs.tokens_of(0)
    with torch.inference_mode():
        found = {
            "loss": spread.net.next_token_loss(tokens).clone(),
            "logits": spread.net(tokens[:, :-1]).clone(),
        }
    return found


def through_files(texts: tuple[str, ...], folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of seed 0 written from 1x2x2 in several files, and read onto each mesh: whole parameters."""
    world, spread, _ = runs.build(MeshSpec.parse("1x2x2"), Wrapping())
    save_weights(spread.net, NET, folder, world, shard_bytes=20_000)
    found = {}
    for text in texts:
        _, spread, _ = runs.build(MeshSpec.parse(text), Wrapping(), seed=9)
        open_weights(folder).load_into(spread.net)
        found[f"{text} weights"] = {
            name: runs.whole(p.detach()).clone() for name, p in spread.net.named_parameters()
        }
    return found


def two_ranks(root: Path) -> Seen:
    seen = Seen()
    for text in ("2x1x1", "1x2x1", "1x1x2"):
        seen.runs[text] = train(text, Wrapping(), SHORT)
        seen.runs[f"{text} tied"] = train(text, Wrapping(recompute="selective"), 5, TIED)
        seen.runs[f"{text} accumulate"] = train(text, Wrapping(loss_chunks=3), 5, accumulate=2)
        seen.runs[f"{text} resumed"] = resume(text, Wrapping(), root)
        seen.values[f"{text} score"] = score(text)
    seen.runs["1x1x2 compiled"] = train("1x1x2", FULL, SHORT)
    for text in ("2x1x1", "1x2x1", "1x1x2"):
        seen.runs[f"{text} bf16"] = train(text, Wrapping(precision="bf16"), SHORT)
    return seen


def four_ranks(root: Path) -> Seen:
    seen = Seen()
    seen.runs["1x2x2 saved"] = save_on_the_way("1x2x2", Wrapping(), root)
    seen.runs["1x2x2 resumed"] = resume("1x2x2", Wrapping(), root)
    seen.runs["1x2x2 beside"] = resume("1x2x2", Wrapping(), root / "beside")
    seen.values |= through_files(("1x4x1", "2x1x2", "4x1x1", "1x1x4"), root / "weights")
    seen.runs["1x4x1"] = train("1x4x1", Wrapping(recompute="full"), STEPS)
    seen.runs["1x4x1 uneven"] = save_on_the_way("1x4x1", Wrapping(), root / "uneven", UNEVEN)
    seen.runs["2x2x1"] = train("2x2x1", Wrapping(reshard=False), SHORT)
    seen.runs["2x1x2"] = train("2x1x2", Wrapping(), SHORT)
    seen.runs["1x1x4"] = train("1x1x4", Wrapping(), SHORT)
    return seen
