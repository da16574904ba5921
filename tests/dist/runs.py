"""Short training runs on made-up tokens, on any mesh: what the tests of this folder compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from isoflop.dist import mesh, parallel
from isoflop.dist.optim import ShardedAdamW
from isoflop.model.build import FAMILIES, build_net
from isoflop.model.sharding import sharding_plan
from isoflop.records import MeshSpec, NetSpec, OptimizerSpec

NET = NetSpec(
    vocab_size=100,
    context=16,
    dim=24,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    ffn_dim=68,
)
UNEVEN = msgspec.structs.replace(NET, vocab_size=98, ffn_dim=66)
"""Sizes that 4 ranks cannot share equally."""
OPTIMIZER = OptimizerSpec(peak_lr=3e-3)
BATCH_SEQS = 8


@dataclass
class Run:
    """What a run showed: losses and norms of each update, and gradients of the first one, whole."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def tokens_of(step: int, net: NetSpec = NET) -> Tensor:
    """The global batch of a step, with something to learn in it: each token is a function of the one before."""
    generator = torch.Generator().manual_seed(1000 + step)
    first = torch.randint(net.vocab_size, (BATCH_SEQS, 1), generator=generator)
    steps = torch.arange(net.context + 1).unsqueeze(0)
    noise = torch.randint(3, (BATCH_SEQS, net.context + 1), generator=generator)
    return (first + 7 * steps + noise) % net.vocab_size


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def build(
    degrees: MeshSpec, wrapping: parallel.Wrapping, net: NetSpec = NET, seed: int = 0
) -> tuple[mesh.World, parallel.Spread, Any]:
    """A net on its mesh with the weights of a seed, and its optimizer."""
    world = mesh.join(degrees)
    with torch.device("meta"):
        bare = FAMILIES[net.family](net, None)
    spread = parallel.spread(bare, sharding_plan(net), world, wrapping)
    parallel.fill_whole(bare, bare.draw(torch.Generator().manual_seed(seed)))
    return world, spread, ShardedAdamW(bare, OPTIMIZER, world)


def train(
    world: mesh.World,
    spread: parallel.Spread,
    optimizer: Any,
    first_step: int,
    num_steps: int,
    net: NetSpec = NET,
    accumulate: int = 1,
) -> Run:
    """Updates first_step .. num_steps - 1."""
    run = Run()
    for step in range(first_step, num_steps):
        rows = tokens_of(step, net)[world.rows(BATCH_SEQS)]
        losses = []
        for index, part in enumerate(rows.chunk(accumulate)):
            spread.accumulate(last=index == accumulate - 1)
            with spread.autocast() if spread.autocast else torch.autograd.set_grad_enabled(True):
                loss = spread.net.next_token_loss(part)
            (loss / accumulate).backward()
            losses.append(loss.detach())
        spread.finish_gradients()
        if step == first_step:
            run.gradients = {
                name: whole(parallel.laid_out_as(p.grad, p)).clone()
                for name, p in spread.net.named_parameters()
                if p.grad is not None
            }
        run.norms.append(float(optimizer.update(1.0)))
        run.losses.append(float(world.mean(torch.stack(losses).mean())))
    return run


def reference(num_steps: int, net: NetSpec = NET) -> Run:
    """The same run in one process, with the net and the optimizer of single runs."""
    from isoflop.train.optim import AdamW

    plain = build_net(net, torch.Generator().manual_seed(0))
    optimizer, run = AdamW(plain, OPTIMIZER), Run()
    for step in range(num_steps):
        loss = plain.next_token_loss(tokens_of(step, net))
        loss.backward()
        if step == 0:
            run.gradients = {name: p.grad.clone() for name, p in plain.named_parameters()}
        run.norms.append(float(optimizer.update(1.0)))
        run.losses.append(float(loss.detach()))
    return run


def largest_difference(run: Run, other: Run) -> float:
    """Over all losses."""
    assert len(run.losses) == len(other.losses)
    return max(abs(a - b) for a, b in zip(run.losses, other.losses, strict=True))


def gradient_differences(run: Run, other: Run) -> dict[str, float]:
    """Per parameter: norm of the difference over norm of the other's gradient; infinite where one is missing."""
    found = {}
    for name, gradient in other.gradients.items():
        size = float(gradient.norm())
        mine = run.gradients.get(name)
        found[name] = math.inf if mine is None or not size else float((mine - gradient).norm()) / size
    return found
