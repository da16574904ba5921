"""One run: it resumes to the same bits, says when it blew up, and survives a full disk and a damaged state."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from isoflop.data import Corpus
from isoflop.dist import checkpoint, states
from isoflop.records import EvalSpec, OptimizerSpec, RunSpec
from isoflop.refs import RefError, function_ref
from isoflop.store import RunFolder, StoreError
from isoflop.train import run as run_room
from isoflop.train.loop import row_steps
from isoflop.train.run import ParentLostError, train_run

MakeSpec = Callable[..., RunSpec]


def stopper(at_call: int) -> Callable[[], bool]:
    """Says stop from its n-th question on."""
    calls = iter(range(1_000_000))
    return lambda: next(calls) >= at_call


@pytest.fixture(autouse=True)
def ask_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.train.loop.POLL_S", -1.0)


def losses(folder: RunFolder) -> list[tuple[int, float]]:
    return [(row["step"], row["loss_nats"]) for row in folder.read_metrics()]


def test_a_run_leaves_what_the_layout_says(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec, folder = make_spec(num_steps=30), RunFolder(tmp_path / "run")
    record = train_run(spec, folder, corpora=[corpus])
    assert record is not None
    assert record.status == "finished"
    assert record.tokens == spec.tokens
    assert record.flops_spent == pytest.approx(spec.train_flops.flops, rel=1e-12)  # sums of floats
    assert record.flops_wasted == 0
    rows = folder.read_metrics()
    assert [row["step"] for row in rows] == row_steps(spec)
    assert rows[-1]["flops"] == spec.train_flops.flops
    assert set(rows[0]) == {
        *("step", "tokens", "flops", "loss_nats", "loss_bins", "lr", "grad_norm", "seconds"),
        *("tokens_per_s", "mfu", "memory_bytes"),
    }
    assert rows[-1]["loss_nats"] < rows[0]["loss_nats"] - 0.5  # words of six letters are learnt quickly
    measurement = folder.read_measurements()[0]
    assert measurement.run == spec.fingerprint()
    assert len(measurement.group_nats) == 8
    assert checkpoint.read_folder(folder.checkpoints / "final")[1]["step"] == 30
    assert states.steps(folder.checkpoints) == []
    assert folder.read_record() == record
    assert folder.read_spec() == spec


def test_a_finished_run_is_never_done_again(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec, folder = make_spec(), RunFolder(tmp_path / "run")
    record = train_run(spec, folder, corpora=[corpus])
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    assert train_run(spec, folder, corpora=[corpus]) == record
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_rows_are_evenly_spaced_and_end_at_the_end(make_spec: MakeSpec) -> None:
    steps = row_steps(make_spec(num_steps=1234))
    assert len(steps) == 100
    assert steps[-1] == 1234
    assert {b - a for a, b in itertools.pairwise(steps)} <= {12, 13}


@pytest.mark.parametrize("stop_at", [1, 7, 29])
def test_a_stopped_run_goes_on_to_the_same_bits(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, stop_at: int
) -> None:
    spec = make_spec(num_steps=130)  # rows are written every step or two: a stop can fall between rows
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train_run(spec, whole, corpora=[corpus])
    assert train_run(spec, cut, corpora=[corpus], should_stop=stopper(stop_at)) is None
    assert not cut.finished
    record = train_run(spec, cut, corpora=[corpus])
    assert losses(cut) == losses(whole)
    assert cut.read_measurements() == whole.read_measurements()
    final = [checkpoint.read_folder(f.checkpoints / "final")[0]["model.safetensors"] for f in (cut, whole)]
    assert all(value.equal(final[1][name]) for name, value in final[0].items())
    assert record is not None
    assert [attempt.ended for attempt in record.attempts] == ["cut", "finished"]
    assert record.flops_wasted == 0


def test_a_branch_is_what_one_long_run_would_be(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    from isoflop.records import Branch, ScheduleSpec

    cooled = ScheduleSpec(kind="wsd", warmup_steps=2, num_steps=30, decay_start_step=20)
    long = RunFolder(tmp_path / "long")
    train_run(make_spec("long", 30, schedule=cooled), long, corpora=[corpus])
    trunk_spec = make_spec("trunk", 25, evaluate=None, save_at_steps=(20,))
    trunk, branch = RunFolder(tmp_path / "trunk"), RunFolder(tmp_path / "branch")
    train_run(trunk_spec, trunk, corpora=[corpus])
    spec = make_spec("branch", 30, schedule=cooled, branch=Branch(parent=trunk_spec.fingerprint(), step=20))
    record = train_run(spec, branch, corpora=[corpus], parent_folder=trunk)
    assert record is not None
    assert losses(branch) == losses(long)[20:]
    assert branch.read_measurements()[0].group_nats == long.read_measurements()[0].group_nats
    assert record.flops_spent == pytest.approx(spec.own_flops, rel=1e-12)
    assert record.parent == trunk_spec.fingerprint()
    # The state is kept for the branch; without it the branch cannot start, and says so.
    assert states.steps(trunk.checkpoints) == [20]
    states.drop(trunk.checkpoints, 20)
    with pytest.raises(ParentLostError, match="cannot leave its trunk"):
        train_run(spec, RunFolder(tmp_path / "again"), corpora=[corpus], parent_folder=trunk)


def test_a_finished_trunk_makes_a_lost_state_again(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    spec, folder = make_spec("trunk", 24, evaluate=None, save_at_steps=(8, 16)), RunFolder(tmp_path / "trunk")
    train_run(spec, folder, corpora=[corpus])
    before = checkpoint.load(folder.checkpoints, 16)
    states.drop(folder.checkpoints, 16)
    record = train_run(spec, folder, corpora=[corpus])
    after = checkpoint.load(folder.checkpoints, 16)
    assert all(value.equal(after.model[name]) for name, value in before.model.items())
    assert record is not None
    assert [attempt.first_step for attempt in record.attempts] == [0, 8]
    assert record.flops_wasted == pytest.approx(spec.train_flops.flops * 16 / 24, rel=1e-12)


def test_a_loss_that_is_not_finite_is_a_result(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec = make_spec(num_steps=300, optimizer=OptimizerSpec(peak_lr=1e30, grad_clip=None, weight_decay=0.0))
    folder = RunFolder(tmp_path / "run")
    record = train_run(spec, folder, corpora=[corpus])
    assert record is not None
    assert record.status == "diverged"
    assert record.num_steps < 20
    assert f"step {record.num_steps}" in (record.reason or "")
    assert record.final_train_loss_nats is None
    assert folder.read_measurements() == []
    assert all(row["loss_nats"] is not None for row in folder.read_metrics())


def test_a_damaged_state_is_passed_over(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec = make_spec(num_steps=40)
    whole, hurt = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "hurt")
    train_run(spec, whole, corpora=[corpus])
    train_run(spec, hurt, corpora=[corpus], should_stop=stopper(25), checkpoint_every_s=0.0)
    last, one_before = states.steps(hurt.checkpoints)[-1], states.steps(hurt.checkpoints)[-2]
    file = states.folder_of(hurt.checkpoints, last) / checkpoint.MODEL
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    record = train_run(spec, hurt, corpora=[corpus])
    assert losses(hurt) == losses(whole)
    assert record is not None
    assert record.attempts[1].first_step == one_before
    assert "damaged" in (hurt.path / "warnings.txt").read_text()
    per_step = spec.train_flops.flops / spec.num_steps
    assert record.flops_wasted == pytest.approx((last - one_before) * per_step, rel=1e-9)


def test_a_full_disk_leaves_the_state_before(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(num_steps=40)
    whole, hurt = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "hurt")
    train_run(spec, whole, corpora=[corpus])
    writes = iter(range(1000))
    save_file = checkpoint.save_file

    def full(tensors: object, path: Path) -> None:
        if next(writes) >= 5:  # two states are whole, the third has its model only
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(StoreError, match="No space left on device; free some space and resume"):
            train_run(spec, hurt, corpora=[corpus], checkpoint_every_s=0.0)
    assert not hurt.finished
    assert states.steps(hurt.checkpoints) == [1, 2]
    assert [path.name for path in hurt.checkpoints.iterdir() if path.name.startswith(".")] == []
    record = train_run(spec, hurt, corpora=[corpus])
    assert losses(hurt) == losses(whole)
    assert record is not None
    assert [attempt.ended for attempt in record.attempts] == ["failed", "finished"]


def test_a_quota_too_small_for_one_state_says_so(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    quota = checkpoint.Quota(num_bytes=1000, root=tmp_path)
    with pytest.raises(StoreError, match="does not fit the disk quota"):
        train_run(make_spec(), RunFolder(tmp_path / "run"), corpora=[corpus], quota=quota)


def test_a_tight_quota_gives_up_older_states_first(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    spec, folder = make_spec(num_steps=40), RunFolder(tmp_path / "run")
    train_run(spec, folder, corpora=[corpus], should_stop=stopper(3))
    one = checkpoint.Quota(num_bytes=0, root=tmp_path).used()
    quota = checkpoint.Quota(num_bytes=int(2.5 * one), root=tmp_path)  # two states fit, three do not
    record = train_run(spec, folder, corpora=[corpus], quota=quota, checkpoint_every_s=0.0)
    assert record is not None
    assert record.status == "finished"


def test_a_killed_attempt_is_counted(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    """As after SIGKILL: no end was written, metrics reach beyond the last state, the last line is torn."""
    spec, folder = make_spec(num_steps=40), RunFolder(tmp_path / "run")

    class Killed(BaseException):
        pass

    def kill(progress: run_room.Progress) -> None:
        if progress.step == 30:
            raise Killed

    spec = msgspec.structs.replace(spec, save_at_steps=(20,))
    with pytest.raises(Killed):
        train_run(spec, folder, corpora=[corpus], on_progress=kill)
    with folder.metrics_path.open("a") as file:
        file.write('{"step":31,"lo')
    record = train_run(spec, folder, corpora=[corpus])
    assert record is not None
    per_step = spec.train_flops.flops / 40
    assert [(a.ended, a.first_step, a.last_step) for a in record.attempts] == [
        ("killed", 0, 30),
        ("finished", 20, 40),
    ]
    assert record.flops_spent == pytest.approx(50 * per_step, rel=1e-12)
    assert record.flops_wasted == pytest.approx(10 * per_step, rel=1e-12)
    assert [row["step"] for row in folder.read_metrics()] == list(range(1, 41))


def test_a_state_behind_the_last_row_is_counted_too(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after a state was written, between two rows: its steps were done, and are not lost."""
    monkeypatch.setattr("isoflop.train.loop.ROWS_PER_RUN", 2)  # after steps 20 and 40
    spec, folder = make_spec(num_steps=40, save_at_steps=(27,)), RunFolder(tmp_path / "run")

    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(states, "prune", kill)  # the first thing after a state is there
        with pytest.raises(Killed):
            train_run(spec, folder, corpora=[corpus])
    record = train_run(spec, folder, corpora=[corpus])
    assert record is not None
    assert [(a.ended, a.first_step, a.last_step) for a in record.attempts] == [
        ("killed", 0, 27),
        ("finished", 27, 40),
    ]
    assert record.flops_spent == pytest.approx(spec.train_flops.flops, rel=1e-12)
    assert record.flops_wasted == 0


def test_bf16_follows_fp32(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    exact, rough = (
        train_run(
            make_spec(num_steps=30, precision=precision), RunFolder(tmp_path / precision), corpora=[corpus]
        )
        for precision in ("fp32", "bf16")
    )
    assert exact is not None
    assert rough is not None
    assert exact.final_train_loss_nats is not None
    assert rough.final_train_loss_nats != exact.final_train_loss_nats
    # bf16 keeps 8 bits: each product is off by up to 1/256, the loss by a share of that.
    assert rough.final_train_loss_nats == pytest.approx(exact.final_train_loss_nats, rel=0.02)


def test_scores_on_the_way(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    evaluate = EvalSpec(
        function=function_ref("isoflop.measure.heldout:score"), num_windows=16, num_groups=4, every_steps=8
    )
    spec = make_spec(num_steps=20, evaluate=evaluate)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train_run(spec, whole, corpora=[corpus])
    assert [m.step for m in whole.read_measurements()] == [8, 16, 20]
    train_run(spec, cut, corpora=[corpus], should_stop=stopper(11))
    train_run(spec, cut, corpora=[corpus])
    assert cut.read_measurements() == whole.read_measurements()


def test_what_cannot_be_built_is_refused(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec = make_spec()
    small = msgspec.structs.replace(spec.net, vocab_size=100)
    with pytest.raises(ValueError, match="give the net at least as many"):
        train_run(msgspec.structs.replace(spec, net=small), RunFolder(tmp_path / "a"), corpora=[corpus])
    short = msgspec.structs.replace(spec.net, context=8)
    with pytest.raises(ValueError, match="longer than the net's context"):
        train_run(msgspec.structs.replace(spec, net=short), RunFolder(tmp_path / "b"), corpora=[corpus])
    edited = msgspec.structs.replace(spec.objective, source_sha256="0" * 64)
    with pytest.raises(RefError, match="has changed since this run was planned"):
        train_run(
            msgspec.structs.replace(spec, objective=edited), RunFolder(tmp_path / "c"), corpora=[corpus]
        )


def test_another_process_in_the_folder_is_noticed(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_room, "LOCK_WAIT_S", 0.05)
    folder = RunFolder(tmp_path / "run")
    folder.create(make_spec())
    with run_room.held(folder), pytest.raises(StoreError, match="being trained by another process"):
        train_run(make_spec(), folder, corpora=[corpus])


def test_state_json_says_where_the_run_stands(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec, folder = make_spec(num_steps=40), RunFolder(tmp_path / "run")
    train_run(spec, folder, corpora=[corpus], should_stop=stopper(9))
    (step,) = states.steps(folder.checkpoints)[-1:]
    path = states.folder_of(folder.checkpoints, step)
    state = json.loads((path / "state.json").read_text())
    assert state["step"] == step
    assert state["data"] == {"next_sample": step * spec.batch_seqs}
    assert state["fingerprint"] == spec.fingerprint()
    assert set(state["sha256"]) == {"model.safetensors", "optimizer.safetensors"}
    assert sorted(file.name for file in path.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
