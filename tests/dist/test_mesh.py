"""Degrees, ranks and rows; and the layout of a real run on 512 devices, without one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from isoflop.dist import mesh, parallel
from isoflop.dist.optim import split_axes
from isoflop.model.build import FAMILIES
from isoflop.model.sharding import sharding_plan
from isoflop.records import MeshSpec, NetSpec, RopeScaling
from tests.dist.runs import NET

LLAMA_8B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_dim=14_336,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192),
)
"""The shape of Llama-3.1-8B (public model config)."""
NUM_PARAMETERS = 8_030_261_248
"""Of that shape, as published with its weights."""


@pytest.mark.parametrize(
    ("text", "degrees"), [("2x32x8", (2, 32, 8)), ("1X4x1", (1, 4, 1)), ("1×1×2", (1, 1, 2))]
)
def test_a_mesh_is_read_as_it_is_written(text: str, degrees: tuple[int, int, int]) -> None:
    spec = MeshSpec.parse(text)
    assert (spec.replicate, spec.shard, spec.tensor) == degrees
    assert spec.num_devices == math.prod(degrees)
    assert spec.data == degrees[0] * degrees[1]
    assert MeshSpec.parse(spec.words) == spec


@pytest.mark.parametrize("text", ["", "8", "2x2", "2x2x2x2", "2x-2x2", "0x2x2", "axbxc", "1.5x1x1"])
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no mesh"):
        MeshSpec.parse(text)


@pytest.mark.parametrize(
    ("degrees", "num_processes", "words"),
    [("2x2x2", 4, "takes 8 processes, but there are 4"), ("1x1x1", 2, "takes 1 processes, but there are 2")],
)
def test_a_mesh_that_does_not_divide_the_processes_is_refused(
    degrees: str, num_processes: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        mesh.check_mesh(MeshSpec.parse(degrees), num_processes)


def test_a_degree_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="shard=0"):
        mesh.check_mesh(MeshSpec(shard=0), 0)


@pytest.mark.parametrize(
    ("degrees", "changed", "words"),
    [
        ("1x1x8", {}, "num_kv_heads is 4"),
        ("1x1x3", {}, "num_heads is 8"),
        ("1x1x4", {"vocab_size": 50}, "vocab_size is 50"),
        ("1x1x4", {"ffn_dim": 66}, "ffn_dim is 66"),
        ("1x1x4", {"context": 18}, "18 tokens"),
        ("3x1x1", {}, "8 sequences"),
        ("2x8x1", {}, "multiple of 16"),
    ],
)
def test_a_net_or_batch_that_cannot_be_split_is_refused_with_the_remedy(
    degrees: str, changed: dict[str, int], words: str
) -> None:
    net = NetSpec(**{**{name: getattr(NET, name) for name in NET.__struct_fields__}, **changed})
    with pytest.raises(ValueError, match=words):
        mesh.check_fit(
            MeshSpec.parse(degrees), net, sharding_plan(net).divisible, context=net.context, batch_seqs=8
        )


def test_micro_batches_must_divide_a_rank_s_rows() -> None:
    for accumulate, fits in ((1, True), (2, True), (4, True), (3, False), (8, False), (0, False)):
        if fits:
            mesh.check_fit(MeshSpec(shard=2), NET, (), context=16, batch_seqs=8, accumulate=accumulate)
            continue
        with pytest.raises(ValueError, match="micro-batches"):
            mesh.check_fit(MeshSpec(shard=2), NET, (), context=16, batch_seqs=8, accumulate=accumulate)


@pytest.mark.parametrize("degrees", ["1x1x1", "2x2x2", "1x4x2", "4x1x1", "2x1x4"])
def test_every_row_of_a_batch_has_one_owner_per_tensor_group(degrees: str) -> None:
    spec = MeshSpec.parse(degrees)
    seen = []
    for rank in range(spec.num_devices):
        rows = mesh.World(spec, rank, torch.device("cpu"), None, None).rows(16)
        seen += list(range(16))[rows]
    assert sorted(seen) == sorted(list(range(16)) * spec.tensor)


def test_one_device_needs_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with mesh.session(MeshSpec()) as world:
        assert not dist.is_initialized()
        assert world.is_first
        value = torch.tensor(3.0)
        assert world.mean(value) is value
        assert world.largest(7, 2) == (7, 2)
        assert world.from_first(lambda: 3) == 3
        assert world.gathered(3) == [3]
        assert world.any(True)
        world.barrier()


def test_a_launcher_s_number_of_processes_is_checked_before_any_is_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "6")
    with (
        pytest.raises(ValueError, match="takes 8 processes, but there are 6"),
        mesh.session(MeshSpec.parse("2x2x2")),
    ):
        raise AssertionError("joined")
    assert not dist.is_initialized()


def test_restarts_over_several_nodes_need_a_new_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's shared store keeps the addresses of dead processes."""
    for name, value in {
        "WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "3",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=mesh.NEW_STORE), mesh.session(MeshSpec(shard=2)):
        raise AssertionError("joined")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert mesh._meeting_place(mesh.TIMEOUT) == {}
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert mesh._meeting_place(mesh.TIMEOUT) == {}


# ----------------------------------------------------------------------------------- 512 devices


@pytest.fixture(params=[0, 511], ids=["first rank", "last rank"])
def rank_of_512(request: pytest.FixtureRequest) -> Iterator[mesh.World]:
    """One of 512 ranks; the others are played by a backend that answers everything at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=512)
    try:
        world = mesh.join(MeshSpec.parse("2x32x8"))
        yield dataclasses.replace(world, device=torch.device("meta"))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_llama_8b_on_512_ranks(rank_of_512: mesh.World) -> None:
    """64 nodes of 8, tensor parallel within a node: what each rank holds, and that nothing is held twice."""
    with torch.device("meta"):
        net = FAMILIES["decoder"](LLAMA_8B, None)
    assert sum(p.numel() for p in net.parameters()) == NUM_PARAMETERS
    wrapping = parallel.Wrapping(precision="bf16", recompute="full", reshard=False)
    spread = parallel.spread(net, sharding_plan(LLAMA_8B), rank_of_512, wrapping)
    held = {}
    for name, parameter in spread.net.named_parameters():
        assert isinstance(parameter, DTensor)
        local = parameter.to_local()
        held[name] = tuple(local.shape)
        assert tuple(piece.stop - piece.start for piece in parallel.own_part(parameter)) == held[name]
        assert local.dtype == torch.float32
        # Sharded over 32, and over 8 more but for the norms' gains; the replicas hold the same.
        splits = 32 * 8 if "tensor" in split_axes(parameter) else 32
        assert local.numel() * splits == parameter.numel()
        assert ("tensor" in split_axes(parameter)) == (parameter.dim() == 2)
    # A vocabulary of 128256 over 8 x 32 is 501 rows; 4096 output features are 16; 4096 input features over 8
    # are 512, and the rows they meet, over 32, 128.
    assert held["model.embed_tokens.weight"] == (501, 4096)
    assert held["lm_head.weight"] == (501, 4096)
    assert held["model.layers.0.self_attn.q_proj.weight"] == (16, 4096)
    assert held["model.layers.31.self_attn.o_proj.weight"] == (128, 512)
    assert held["model.norm.weight"] == (128,)
    norms = 65 * 4096  # gains are not split by tensor ranks
    elements = (NUM_PARAMETERS - norms) // 256 + norms // 32
    assert sum(math.prod(shape) for shape in held.values()) == elements == 31_375_488


@pytest.mark.slow
def test_ranks_of_512_know_their_place(rank_of_512: mesh.World) -> None:
    world = rank_of_512
    assert world.data_rank == world.rank // 8
    assert world.device_mesh is not None
    assert world.device_mesh["tensor"].size() == 8
    assert list(world.device_mesh["tensor"].mesh) == list(range(world.rank // 8 * 8, world.rank // 8 * 8 + 8))
    rows = world.rows(64 * 21)
    assert rows.stop - rows.start == 21
