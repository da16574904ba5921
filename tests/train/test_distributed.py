"""A run on a mesh is the run of one process: same samples, same losses, same record; through stops and
changes of mesh."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from isoflop.data import Corpus
from isoflop.dist import checkpoint, mesh, states
from isoflop.dist.weights import WeightsError, open_weights, save_weights
from isoflop.measure import measure_run
from isoflop.model.build import build_net
from isoflop.records import Branch, MeshSpec, OptimizerSpec, RunSpec, ScheduleSpec
from isoflop.store import RunFolder, StoreError
from isoflop.train.distributed import SaveRule
from isoflop.train.run import ParentLostError, train_run
from tests.dist.ranks import run_ranks
from tests.train import distributed_sessions as sessions
from tests.train.distributed_sessions import placement, train

MakeSpec = Callable[..., RunSpec]
BATCH = 4

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("use_cache")]


def losses(folder: RunFolder) -> list[tuple[int, float]]:
    return [(row["step"], row["loss_nats"]) for row in folder.read_metrics()]


def weights_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoint.read_folder(folder.checkpoints / "final")[0][checkpoint.MODEL]


def assert_close(folder: RunFolder, expected: RunFolder, tolerance: float = 1e-5) -> None:
    """Losses of every row. Rounding of 1e-7 per update, thirty updates at a high rate: 1e-5 is the promise."""
    assert [step for step, _ in losses(folder)] == [step for step, _ in losses(expected)]
    pairs = zip(losses(folder), losses(expected), strict=True)
    assert max(abs(a - b) for (_, a), (_, b) in pairs) < tolerance


# ------------------------------------------------------------------------------------ one device


def test_on_one_device_it_is_the_run_of_one_process_to_the_bit(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    spec = make_spec(num_steps=30)
    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    record, samples = train(spec, here.path, placement(micro_batch_seqs=BATCH))
    expected = train_run(spec, there, corpora=[corpus])
    assert record is not None
    assert expected is not None
    assert losses(here) == losses(there)
    assert set(here.read_metrics()[0]) == set(there.read_metrics()[0])
    assert here.read_measurements() == there.read_measurements()
    ours, theirs = weights_of(here), weights_of(there)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (record.status, record.tokens, record.train_flops) == (
        "finished",
        expected.tokens,
        expected.train_flops,
    )
    assert record.flops_spent == pytest.approx(expected.flops_spent, rel=1e-12)
    assert samples.tolist() == list(range(30 * BATCH))
    assert states.steps(here.checkpoints) == []
    again, samples = train(spec, here.path, placement(micro_batch_seqs=BATCH))
    assert again == record
    assert not samples.size  # nothing is done twice
    assert measure_run(here).loss == expected_loss(there)


def expected_loss(folder: RunFolder) -> Any:
    return folder.read_measurements()[-1].loss


def test_final_weights_are_a_model_that_others_read(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(num_steps=3)
    train(spec, tmp_path / "run", placement())
    found = open_weights(tmp_path / "run" / "checkpoint" / "final")
    assert found.net.dim == spec.net.dim


@pytest.mark.parametrize("background", [False, True], ids=["at once", "beside"])
@pytest.mark.parametrize("stop_after", [1, 7, 29])
def test_a_stopped_run_goes_on_to_the_same_bits(
    make_spec: MakeSpec, tmp_path: Path, stop_after: int, background: bool
) -> None:
    spec = make_spec(num_steps=130)  # rows are written every step or two: a stop can fall between rows
    saves = SaveRule(every_s=None, background=background)
    where = placement(micro_batch_seqs=BATCH)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    _, all_samples = train(spec, whole.path, where)
    record, before = train(spec, cut.path, where, stop_after, saves=saves)
    assert record is None
    assert not cut.finished
    record, after = train(spec, cut.path, where, saves=saves)
    assert record is not None
    assert losses(cut) == losses(whole)
    assert cut.read_measurements() == whole.read_measurements()
    assert [*before, *after] == all_samples.tolist()
    assert [attempt.ended for attempt in record.attempts] == ["cut", "finished"]
    assert record.flops_wasted == 0


def test_scores_beside_a_bf16_run_are_taken_in_bf16(make_spec: MakeSpec, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        seen = set()

        def look(net: torch.nn.Module, step: int, seen: set[bool] = seen) -> None:
            seen.add(torch.is_autocast_enabled("cpu"))

        spec, saves = make_spec(num_steps=4, precision=precision), SaveRule(every_steps=2, every_s=None)
        where = placement(precision=precision)
        train(spec, tmp_path / precision, where, saves=saves, at_score=look, at_checkpoint=look)
        assert seen == {precision == "bf16"}


def test_steps_after_a_lost_state_are_counted_as_wasted(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The state of the stop is damaged: the run goes back to the one before it."""
    spec, folder = make_spec(num_steps=40), RunFolder(tmp_path / "run")
    saves = SaveRule(every_steps=5, every_s=None)
    train(spec, folder.path, placement(), 12, saves=saves)
    assert states.steps(folder.checkpoints) == [10, 12]
    (shard,) = states.folder_of(folder.checkpoints, 12).glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="going back"):
        record, samples = train(spec, folder.path, placement(), saves=saves)
    assert record is not None
    assert samples[0] == 10 * BATCH
    assert record.flops_wasted == pytest.approx(2 * spec.train_flops.flops / 40, rel=1e-9)


def test_a_kill_between_rows_leaves_no_step_uncounted(make_spec: MakeSpec, tmp_path: Path) -> None:
    """The state is ahead of the last row of metrics: the attempt has come as far as the state, and is paid so far."""
    spec, folder = make_spec(num_steps=250), RunFolder(tmp_path / "run")
    saves = SaveRule(every_steps=4, every_s=None, background=False)

    def killed(net: torch.nn.Module, step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, folder.path, placement(), saves=saves, at_checkpoint=killed)
    assert [step for step, _ in losses(folder)] == [2]
    record, samples = train(spec, folder.path, placement())
    assert record is not None
    assert samples[0] == 4 * BATCH
    assert [(a.first_step, a.last_step) for a in record.attempts] == [(0, 4), (4, 250)]
    assert record.flops_wasted == 0
    assert record.flops_spent == pytest.approx(spec.train_flops.flops, rel=1e-9)


def test_a_run_that_blows_up_is_recorded(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(num_steps=40, optimizer=OptimizerSpec(peak_lr=1e30, grad_clip=None))
    record, _ = train(spec, tmp_path / "run", placement())
    assert record is not None
    assert record.status == "diverged"
    assert record.reason is not None
    assert "not finite" in record.reason
    assert RunFolder(tmp_path / "run").finished


def test_a_branch_leaves_its_trunk(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    trunk = make_spec("trunk", 20, evaluate=None, save_at_steps=(10, 20))
    branch = make_spec(
        "branch",
        30,
        branch=Branch(parent=trunk.fingerprint(), step=20),
        schedule=ScheduleSpec(kind="wsd", warmup_steps=2, num_steps=30, decay_start_step=20),
    )
    trunk_folder, folder = RunFolder(tmp_path / "trunk"), RunFolder(tmp_path / "branch")
    with pytest.raises(ParentLostError, match="was not given"):
        train(branch, folder.path, placement())
    with pytest.raises(ParentLostError, match="cannot leave its trunk"):
        train(branch, folder.path, placement(), parent_folder=trunk_folder)
    train(trunk, trunk_folder.path, placement())
    assert states.steps(trunk_folder.checkpoints) == [10, 20]
    record, samples = train(branch, folder.path, placement(), parent_folder=trunk_folder)
    assert record is not None
    assert record.parent == trunk.fingerprint()
    assert samples[0] == 20 * BATCH
    there = RunFolder(tmp_path / "there")  # the same by one process
    train_run(trunk, RunFolder(tmp_path / "trunk there"), corpora=[corpus])
    train_run(branch, there, corpora=[corpus], parent_folder=RunFolder(tmp_path / "trunk there"))
    assert_close(folder, there)


def test_a_run_starts_from_weights(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Weights of another seed: the first loss is theirs; their tokenizer goes out with the result."""
    spec = make_spec(num_steps=2, schedule=ScheduleSpec(kind="constant", warmup_steps=0, num_steps=2))
    net = build_net(spec.net, torch.Generator().manual_seed(77))
    save_weights(net, spec.net, tmp_path / "weights", mesh.join(MeshSpec()))
    (tmp_path / "weights" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    folder = RunFolder(tmp_path / "run")
    train(spec, folder.path, placement(micro_batch_seqs=BATCH), start_from=tmp_path / "weights")
    train(make_spec(num_steps=2, seed=77), tmp_path / "drawn", placement(micro_batch_seqs=BATCH))
    assert losses(folder)[0] == losses(RunFolder(tmp_path / "drawn"))[0]
    assert (folder.checkpoints / "final" / "tokenizer.json").exists()
    (tmp_path / "weights" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 256}}}')
    with pytest.raises(WeightsError, match="token ids up to 256"):
        train(spec, tmp_path / "other", placement(), start_from=tmp_path / "weights")


def test_what_cannot_be_split_is_refused_before_anything_is_written(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec()
    for where, words in (
        (placement(micro_batch_seqs=3), "micro-batches of 3"),
        (placement("2x1x1"), "takes 2 processes"),
    ):
        with pytest.raises(ValueError, match=words):
            train(spec, tmp_path / "run", where)
    assert not (tmp_path / "run").exists()


def test_another_run_s_folder_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(num_steps=2), tmp_path / "run", placement())
    with pytest.raises(StoreError, match="another run"):
        train(make_spec(num_steps=2, seed=5), tmp_path / "run", placement())


# ---------------------------------------------------------------------------------- several ranks


@pytest.mark.slow
def test_two_ranks_on_any_mesh_and_through_changes_of_mesh(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    two_kv_heads = msgspec.structs.replace(make_spec().net, num_kv_heads=2)  # two tensor ranks share them
    spec, one = make_spec(num_steps=30, net=two_kv_heads), RunFolder(tmp_path / "one")
    train_run(spec, one, corpora=[corpus])
    other = build_net(make_spec(net=spec.net).net, torch.Generator())
    save_weights(other, spec.net, tmp_path / "weights", mesh.join(MeshSpec()))
    config = json.loads((tmp_path / "weights" / "config.json").read_text())
    (tmp_path / "weights" / "config.json").write_text(json.dumps({**config, "vocab_size": 250}))
    seen = run_ranks(both, 2, tmp_path / "session", spec, tmp_path / "runs", tmp_path / "weights")
    for text in ("2x1x1", "1x2x1", "1x1x2", "changing", "steps"):
        folder = RunFolder(tmp_path / "runs" / text)
        assert_close(folder, one)
        assert folder.read_record().status == "finished"
        ours, theirs = weights_of(folder), weights_of(one)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    # Every sample is seen once: by both ranks of a tensor group, by one of two data ranks.
    seen_samples: list[int] = []
    for (text, first), (_, second) in zip(seen[0]["samples"], seen[1]["samples"], strict=True):
        if text == "1x1x2":
            assert first.tolist() == second.tolist()
            seen_samples += first.tolist()
        else:
            assert not set(first) & set(second)
            seen_samples += np.concatenate([first, second]).tolist()
    assert sorted(seen_samples) == list(range(30 * BATCH))
    changing = RunFolder(tmp_path / "runs" / "changing").read_record()
    assert [attempt.ended for attempt in changing.attempts] == ["cut", "cut", "finished"]
    assert [a.last_step == b.first_step for a, b in itertools.pairwise(changing.attempts)] == [True, True]
    for rank in seen:
        assert "micro-batches of 3" in rank["refused"][0]
        assert "different models" in rank["refused"][1]


def both(spec: RunSpec, root: Path, wrong_weights: Path) -> dict[str, Any]:
    return {**sessions.change_meshes(spec, root), "refused": sessions.refuse(spec, root, wrong_weights)}
