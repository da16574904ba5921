"""Checkpoints are whole or absent, and PyTorch's distributed checkpointing reads and writes the same files."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from isoflop.dist import checkpoint, states
from isoflop.dist.checkpoint import Checkpoint, CheckpointError, Quota
from isoflop.store import StoreError


def state_of(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    model = {"model.norm.weight": torch.randn(4, generator=draw), "w": torch.randn(3, 4, generator=draw)}
    moments = {f"exp_avg.{name}": value * 2 for name, value in model.items()}
    return Checkpoint(step=step, model=model, optimizer=moments, state={"seconds": 0.1 + step})


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return (
        a.step == b.step
        and a.state["seconds"] == b.state["seconds"]
        and all(torch.equal(a.model[name], value) for name, value in b.model.items())
        and all(torch.equal(a.optimizer[name], value) for name, value in b.optimizer.items())
        and len(a.model) + len(a.optimizer) == len(b.model) + len(b.optimizer)
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_of(7))
    assert same(checkpoint.load(tmp_path, 7), state_of(7))
    assert states.steps(tmp_path) == [7]


def test_views_of_one_buffer_are_saved_each_by_itself(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    model = {"a": flat[:4].view(2, 2), "b": flat[4:].view(2, 4).T}
    checkpoint.save(tmp_path, Checkpoint(step=1, model=model, optimizer={}, state={}))
    loaded = checkpoint.load(tmp_path, 1)
    assert all(torch.equal(loaded.model[name], value) for name, value in model.items())
    assert loaded.optimizer == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "state", "empty"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (3, 5):
        checkpoint.save(tmp_path, state_of(step))
    folder = states.folder_of(tmp_path, 5)
    file = folder / checkpoint.OPTIMIZER
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "remove":
        file.unlink()
    elif damage == "state":
        (folder / checkpoint.STATE).write_text('{"step": 5')
    else:
        (folder / checkpoint.STATE).write_text("{}")
    with pytest.raises(CheckpointError, match="step-00000005"):
        checkpoint.load(tmp_path, 5)
    with pytest.warns(RuntimeWarning, match="going back to the one before"):
        found = checkpoint.latest(tmp_path)
    assert found is not None
    assert same(found, state_of(3))


def test_latest_may_be_bounded_and_may_be_absent(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None
    for step in (2, 4, 8):
        checkpoint.save(tmp_path, state_of(step))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.latest(tmp_path, at_most=7)
    assert found is not None
    assert found.step == 4


def test_pruning_keeps_what_is_named_and_clears_half_written_ones(tmp_path: Path) -> None:
    for step in (2, 4, 8):
        checkpoint.save(tmp_path, state_of(step))
    checkpoint.write_folder(tmp_path / "final", {checkpoint.MODEL: state_of(8).model}, {"step": 8})
    (tmp_path / ".step-00000009.123").mkdir()
    states.prune(tmp_path, {4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-00000004"]


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, state_of(2))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        checkpoint.save(tmp_path, state_of(2))
    assert same(checkpoint.load(tmp_path, 2), state_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_quota(tmp_path: Path) -> None:
    size = checkpoint.size_of(state_of(1).model, state_of(1).optimizer)
    assert size == 2 * 16 * 4
    checkpoint.save(tmp_path, state_of(1))
    quota = Quota(num_bytes=3 * size + 2000, root=tmp_path)
    assert size < quota.used() < size + 1000  # headers of two files
    quota.require(size)
    with pytest.raises(StoreError, match="does not fit the disk quota"):
        quota.require(3 * size + 2000)


def test_states_that_vanish_while_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other workers clear their old states at any moment."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state_of(step))
    scandir = os.scandir

    def vanish(path: str) -> object:
        for name in ("step-00000001", "step-00000002"):
            if str(path).endswith(name) and Path(path).exists():
                states.drop(tmp_path, int(name[-1]))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    size = checkpoint.size_of(state_of(1).model, state_of(1).optimizer)
    assert size < Quota(num_bytes=10**9, root=tmp_path).used() < size + 1000


def test_there_is_no_pickle_in_it(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, state_of(1))
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            length = int.from_bytes(path.read_bytes()[:8], "little")
            header = json.loads(path.read_bytes()[8 : 8 + length])
            assert set(header) - {"__metadata__"} == set(
                state_of(1).model if path.name == checkpoint.MODEL else state_of(1).optimizer
            )


def test_distributed_checkpointing_reads_it(tmp_path: Path) -> None:
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    saved = state_of(6)
    folder = checkpoint.save(tmp_path, saved)
    wanted = {name: torch.zeros_like(value) for name, value in {**saved.model, **saved.optimizer}.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that no process group is there, which is the point
        dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    for name, value in {**saved.model, **saved.optimizer}.items():
        assert torch.equal(wanted[name], value)


def test_what_distributed_checkpointing_writes_is_read(tmp_path: Path) -> None:
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    from safetensors.torch import load_file

    saved = state_of(6)
    names = {name: 1 for name in (*saved.model, *saved.optimizer)}
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path / "out"), fqn_to_index_mapping=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({**saved.model, **saved.optimizer}, storage_writer=writer, no_dist=True)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    found = load_file(file)
    assert set(found) == set(names)
    for name, value in {**saved.model, **saved.optimizer}.items():
        assert torch.equal(found[name], value)
