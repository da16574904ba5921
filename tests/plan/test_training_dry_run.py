"""The planner's memory against the real sharding, with all but one rank played by a backend that answers at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from isoflop.dist import mesh as meshes
from isoflop.dist import parallel
from isoflop.model.build import FAMILIES
from isoflop.model.sharding import sharding_plan
from isoflop.plan.recipe import load_recipe
from isoflop.plan.training_memory import elements_per_device, memory_items
from isoflop.records import MeshSpec, NetSpec

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "llama3.1-8b-continual"
ODD = NetSpec(
    vocab_size=1002,
    context=32,
    dim=72,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=12,
    ffn_dim=190,
)


def elements_held(net: NetSpec, mesh: MeshSpec) -> int:
    """Elements of all parameters on the first rank, which is the fullest, by PyTorch's own sharding."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=mesh.num_devices)
    try:
        world = dataclasses.replace(meshes.join(mesh), device=torch.device("meta"))
        with torch.device("meta"):
            bare = FAMILIES["decoder"](net, None)
        spread = parallel.spread(bare, sharding_plan(net), world, parallel.Wrapping(precision="bf16"))
        held = sum(_local(p).numel() for p in spread.net.parameters())
        return held
    finally:
        dist.destroy_process_group()


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["as-posted", "corrected"])
def test_the_recipes_are_sharded_as_they_are_planned(variant):
    recipe = load_recipe(FOLDER, variant)
    mesh = recipe.placement.mesh
    held = elements_held(recipe.net, mesh)
    assert held == elements_per_device(recipe.net, mesh)
    states = [i for i in memory_items(recipe.net, recipe.context, recipe.placement) if "fp32" in i.what]
    assert sum(item.bytes_per_device for item in states) == 16 * held


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x5x1", "1x7x2", "2x3x2", "1x1x2", "3x16x1"])
@pytest.mark.parametrize("tied", [False, True])
def test_odd_sizes_round_up_alike(mesh, tied):
    """Where dimensions do not divide, the first rank holds the larger piece."""
    net = msgspec.structs.replace(ODD, tied_head=tied)
    shape = MeshSpec.parse(mesh)
    assert elements_held(net, shape) == elements_per_device(net, shape)
