"""A sharded checkpoint is there whole or not at all, and says what is wrong with it. (Reading it on other
meshes is tested with the runs that go on from it.)"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from isoflop.dist import checkpoint, mesh, parallel, sharded_checkpoint, states
from isoflop.dist.checkpoint import CheckpointError
from isoflop.dist.parallel import Wrapping
from isoflop.dist.sharded_checkpoint import Saver, _copy, load, load_latest, read_whole
from isoflop.records import MeshSpec
from isoflop.store import StoreError
from tests.dist import runs
from tests.dist.conftest import Session
from tests.dist.sessions import SAVED, tensors_of

WORLD = mesh.join(MeshSpec())


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Parameters and moments of a net after three updates."""
    world, spread, optimizer = runs.build(MeshSpec(), Wrapping())
    runs.train(world, spread, optimizer, 0, 3)
    return tensors_of(spread, optimizer)


def empty_like(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_what_is_saved_comes_back_with_its_state(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    Saver(tmp_path, WORLD).save(3, tensors, {"seconds": 1.5, "pending": {"losses": [4.0]}})
    found = empty_like(tensors)
    state = load(tmp_path, 3, found, WORLD)
    assert_equal(found, tensors)
    assert state == {"step": 3, "mesh": "1x1x1", "seconds": 1.5, "pending": {"losses": [4.0]}}
    assert_equal(read_whole(states.folder_of(tmp_path, 3)), {n: t.detach() for n, t in tensors.items()})


def test_there_is_no_pickle_in_it(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    Saver(tmp_path, WORLD).save(3, tensors, {})
    files = {path.name for path in states.folder_of(tmp_path, 3).iterdir()}
    assert files == {"state.json", "shard-00001-model-00001-of-00001.safetensors"}


@pytest.mark.slow
def test_every_rank_writes_a_file_and_together_they_hold_each_value_once(four: Session) -> None:
    folder = states.folder_of(four.root, SAVED)
    state = json.loads((folder / "state.json").read_text())
    assert state["mesh"] == "1x2x2"
    assert len(state["sha256"]) == 4
    values = sum(tensor.numel() for tensor in read_whole(folder).values())
    bytes_on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    headers = bytes_on_disk - 4 * values
    assert 0 < headers < 4 * 40_000  # names and places of some sixty parts, in each of four files


@pytest.mark.slow
def test_written_at_once_or_beside_the_training_the_values_are_the_same(four: Session) -> None:
    at_once = read_whole(states.folder_of(four.root, SAVED))
    assert_equal(read_whole(states.folder_of(four.root / "beside", SAVED)), at_once)
    assert load(four.root, SAVED, empty_like(at_once), WORLD)["note"] == "at once"


def test_a_checkpoint_of_one_process_is_read_in_the_same_way(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    model = {name: t.detach() for name, t in tensors.items() if not name.startswith("exp_")}
    moments = {name: t for name, t in tensors.items() if name.startswith("exp_")}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(step=7, model=model, optimizer=moments, state={"a": 1}))
    found = empty_like(tensors)
    assert load_latest(tmp_path, found, WORLD) == {"step": 7, "a": 1}
    assert_equal(found, tensors)


# ------------------------------------------------------------------------------------- background


def test_values_are_those_of_the_call(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Training goes on while the file is written; here it waits until the values have changed."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    changed = threading.Event()

    class Waiting(Saver):
        def _write(self, *args: Any) -> None:
            assert changed.wait(10)
            super()._write(*args)

    saver = Waiting(tmp_path, WORLD, background=True)
    saver.save(3, tensors, {})
    assert states.steps(tmp_path) == []
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(1.0)
    changed.set()
    saver.wait()
    found = empty_like(before)
    load(tmp_path, 3, found, WORLD)
    assert_equal(found, before)


def test_the_copy_stays_on_the_cpu_whatever_the_mesh_computes_on(tmp_path: Path) -> None:
    """A mesh of GPUs, as far as its name goes: the copy must not be moved there a second time."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        device_mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
        own = torch.arange(6.0).view(3, 2)
        tensor = DTensor.from_local(own, device_mesh, (Shard(0),), run_check=False)
        device_mesh._device_type = "cuda"
        copy = _copy(tensor)
        own.add_(1.0)
    finally:
        dist.destroy_process_group()
    assert isinstance(copy, DTensor)
    assert copy.placements == tensor.placements
    assert copy.to_local().device.type == "cpu"
    assert torch.equal(copy.to_local(), torch.arange(6.0).view(3, 2))


def test_a_failure_beside_the_training_is_raised_at_the_next_call(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    saver = Saver(tmp_path / "file", WORLD, background=True)
    saver.save(3, tensors, {})
    with pytest.raises(StoreError, match="cannot write the checkpoint"):
        saver.save(4, tensors, {})
    saver.wait()  # told once


# ---------------------------------------------------------------------------------------- damage


@pytest.fixture
def root(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    """Two checkpoints: step 3 as it is, step 4 with one added to every value."""
    saver = Saver(tmp_path / "checkpoint", WORLD)
    saver.save(3, tensors, {})
    saver.save(4, {name: tensor.detach() + 1 for name, tensor in tensors.items()}, {})
    return tmp_path / "checkpoint"


def shard_of(root: Path, step: int) -> Path:
    (path,) = states.folder_of(root, step).glob("*.safetensors")
    return path


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: flip_a_byte(shard_of(root, 4)), "its hash is not the one"),
        (lambda root: shard_of(root, 4).write_bytes(shard_of(root, 4).read_bytes()[:-100]), "its hash"),
        (lambda root: shard_of(root, 4).unlink(), "is missing"),
        (lambda root: (states.folder_of(root, 4) / "state.json").unlink(), r"state\.json is missing"),
        (lambda root: (states.folder_of(root, 4) / "state.json").write_text('{"step": 4'), "is damaged"),
        (lambda root: (states.folder_of(root, 4) / "state.json").write_text("[]"), "is damaged"),
    ],
    ids=["flipped", "cut", "missing", "no state", "half a state", "no object"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    root: Path, tensors: dict[str, Tensor], damage: Any, words: str
) -> None:
    damage(root)
    with pytest.raises(CheckpointError, match=words):
        load(root, 4, empty_like(tensors), WORLD)
    found = empty_like(tensors)
    with pytest.warns(RuntimeWarning, match="going back to the one before"):
        state = load_latest(root, found, WORLD)
    assert state is not None
    assert state["step"] == 3
    assert_equal(found, tensors)


def test_when_all_are_damaged_there_is_none(root: Path, tensors: dict[str, Tensor]) -> None:
    for step in (3, 4):
        flip_a_byte(shard_of(root, step))
    with pytest.warns(RuntimeWarning):
        assert load_latest(root, empty_like(tensors), WORLD) is None
    assert load_latest(root / "nowhere", empty_like(tensors), WORLD) is None


def test_the_last_one_can_be_asked_for_up_to_a_step(root: Path, tensors: dict[str, Tensor]) -> None:
    found = empty_like(tensors)
    state = load_latest(root, found, WORLD, at_most=3)
    assert state is not None
    assert state["step"] == 3
    assert_equal(found, tensors)


def test_what_a_kill_left_half_written_is_not_seen_and_cleared(
    root: Path, tensors: dict[str, Tensor]
) -> None:
    """A folder that was not renamed yet, with some of its files."""
    partial = root / ".step-00000005.partial"
    shutil.copytree(states.folder_of(root, 4), partial)
    (partial / "state.json").unlink()
    state = load_latest(root, empty_like(tensors), WORLD)
    assert state is not None
    assert state["step"] == 4
    Saver(root, WORLD).save(5, tensors, {})
    assert not partial.exists()
    assert states.steps(root) == [4, 5]


def test_another_net_is_refused_and_not_passed_over(root: Path) -> None:
    for changed, words in (({"ffn_dim": 72}, "68x24 there and 72x24 here"), ({"num_layers": 3}, "holds no")):
        net = msgspec.structs.replace(runs.NET, **changed)
        _, spread, optimizer = runs.build(MeshSpec(), Wrapping(), net)
        with pytest.raises(CheckpointError, match=words):
            load_latest(root, tensors_of(spread, optimizer), WORLD)


def test_the_last_ones_and_the_wanted_ones_stay(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    small = {"w": tensors["model.norm.weight"]}
    saver = Saver(tmp_path, WORLD, keep_last=2, keep_steps=(2, 5))
    for step in range(1, 9):
        saver.save(step, small, {})
    assert states.steps(tmp_path) == [2, 5, 7, 8]
    saver = Saver(tmp_path / "all", WORLD, keep_last=0)
    for step in range(1, 5):
        saver.save(step, small, {})
    assert states.steps(tmp_path / "all") == [1, 2, 3, 4]


def test_the_part_of_a_plain_tensor_is_the_whole() -> None:
    assert parallel.own_part(torch.zeros(3, 4)) == (slice(0, 3), slice(0, 4))
    assert sharded_checkpoint._words(torch.Size([])) == "a scalar"
