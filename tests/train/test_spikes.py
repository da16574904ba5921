"""A spike is found, undone and recorded; the batches behind it are left out; a kill changes none of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.data import Corpus, TrainingWindows
from isoflop.dist import checkpoint
from isoflop.records import RunRecord, RunSpec, SpikeRule
from isoflop.refs import function_ref
from isoflop.store import RunFolder
from isoflop.train.run import train_run
from isoflop.train.spikes import check_steps, find_spike

pytestmark = pytest.mark.slow

MakeSpec = Callable[..., RunSpec]
RULE = SpikeRule(check_every=10, factor=8.0, window=16)


@pytest.fixture(autouse=True)
def ask_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.train.loop.POLL_S", -1.0)


def poisoned(make_spec: MakeSpec, corpus: Corpus, *, infinite: bool = False, **changes: object) -> RunSpec:
    """A run in which the batch of samples 100 to 103 (update 26, when nothing is left out) has a huge loss."""
    plain = make_spec(num_steps=60)
    total = int(TrainingWindows(plain.data, [corpus]).batch(100, 4).sum())
    objective = function_ref("tests.train.bad_objectives:rises", total=total, by=5.0, infinite=infinite)
    return make_spec(num_steps=60, objective=objective, **{"spikes": RULE, **changes})


def weights(folder: RunFolder) -> dict[str, object]:
    return dict(checkpoint.read_folder(folder.checkpoints / "final")[0]["model.safetensors"])


def seen(folder: RunFolder) -> list[tuple[object, ...]]:
    return [(row["step"], row["loss_nats"], row["skipped_samples"]) for row in folder.read_metrics()]


# ---------------------------------------------------------------------------------- the detector


def test_a_loss_far_above_the_last_ones_is_a_spike() -> None:
    recent = [1.9 + step / 75 for step in range(16)]  # median 2, MAD 4 steps of 1/75: threshold 2.63
    assert find_spike(recent, [2.0, 2.4, 1.9], RULE) is None
    found = find_spike(recent, [2.0, 2.9, 9.0], RULE)
    assert found is not None
    assert (found.index, found.loss_nats) == (1, 2.9)
    # One loss more and one less move the median and the MAD by a step at most: 1/75 + 8 x 1.4826 / 75.
    assert found.threshold_nats == pytest.approx(2 + 8 * 1.4826 * 4 / 75, abs=0.172)


def test_nothing_but_a_loss_that_is_not_finite_is_judged_without_a_history() -> None:
    assert find_spike([], [9.0, 2.0, 2.0], RULE) is None
    found = find_spike([], [9.0, math.nan], RULE)
    assert found is not None
    assert (found.index, found.loss_nats, found.before_nats) == (1, None, 9.0)


def test_a_fall_and_a_ripple_on_a_flat_stretch_are_no_spikes() -> None:
    assert (
        find_spike([3.0] * 16, [3.01, 1.0, 1.0], RULE) is None
    )  # the spread counts as 0.1 % of the median at least


def test_states_and_scores_leave_at_checks_alone(make_spec: MakeSpec) -> None:
    spec = make_spec(num_steps=60, spikes=RULE)
    assert check_steps(spec, {25}) == {10, 20, 25, 30, 40, 50, 60}
    assert check_steps(make_spec(num_steps=60), {25}) == set()
    with pytest.raises(ValueError, match="check_every of 1 or more"):
        check_steps(make_spec(spikes=SpikeRule(check_every=0)), set())


# ---------------------------------------------------------------------------------- in the loop


def check_record(record: RunRecord | None, spec: RunSpec) -> None:
    assert record is not None
    assert record.status == "finished"
    (spike,) = record.spikes
    # Update 26 reads samples 100 to 103; the check at 20 was passed, the one at 30 finds it.
    assert (spike.action, spike.step, spike.back_to_step, spike.redone_steps) == ("rolled back", 26, 20, 10)
    assert (spike.first_sample, spike.num_samples) == (80, 24)  # updates 21 to 26, of 4 samples each
    assert spike.loss_nats is not None
    assert spike.loss_nats > spike.threshold_nats > spike.loss_before_nats


def test_a_spike_is_undone_and_its_batches_left_out(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    spec, folder = poisoned(make_spec, corpus), RunFolder(tmp_path / "run")
    record = train_run(spec, folder, corpora=[corpus])
    check_record(record, spec)
    assert record is not None
    per_step = spec.train_flops.flops / 60
    assert record.flops_spent == pytest.approx(70 * per_step, rel=1e-12)  # sums of floats
    assert record.flops_wasted == pytest.approx(10 * per_step, rel=1e-12)
    rows = seen(folder)
    assert [step for step, *_ in rows] == list(range(1, 61))
    assert {skipped for step, _, skipped in rows if step <= 20} == {0}  # type: ignore[operator]
    assert {skipped for step, _, skipped in rows if step > 20} == {24}  # type: ignore[operator]
    plain = RunFolder(tmp_path / "plain")
    train_run(make_spec(num_steps=60), plain, corpora=[corpus])
    assert seen(folder)[:20] == [(r["step"], r["loss_nats"], 0) for r in plain.read_metrics()[:20]]


def test_a_loss_that_is_not_finite_is_undone_too(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    record = train_run(
        poisoned(make_spec, corpus, infinite=True), RunFolder(tmp_path / "run"), corpora=[corpus]
    )
    assert record is not None
    assert record.status == "finished"
    assert [(spike.step, spike.loss_nats) for spike in record.spikes] == [(26, None)]
    without = train_run(
        poisoned(make_spec, corpus, infinite=True, spikes=None),
        RunFolder(tmp_path / "without"),
        corpora=[corpus],
    )
    assert without is not None
    assert (without.status, without.reason) == ("diverged", "the loss was not finite at step 26")


def test_when_the_rollbacks_are_used_up_a_spike_is_kept_on_record(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    spec = poisoned(make_spec, corpus, spikes=SpikeRule(check_every=10, window=16, max_rollbacks=0))
    folder = RunFolder(tmp_path / "run")
    record = train_run(spec, folder, corpora=[corpus])
    assert record is not None
    assert [(spike.action, spike.step, spike.num_samples) for spike in record.spikes] == [("kept", 26, 0)]
    assert {skipped for *_, skipped in seen(folder)} == {0}


def test_a_rule_that_finds_nothing_changes_nothing(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    plain, guarded = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "guarded")
    train_run(make_spec(num_steps=60), plain, corpora=[corpus])
    record = train_run(make_spec(num_steps=60, spikes=RULE), guarded, corpora=[corpus])
    assert record is not None
    assert record.spikes == ()
    assert [row[:2] for row in seen(guarded)] == [(r["step"], r["loss_nats"]) for r in plain.read_metrics()]
    assert all(value.equal(weights(plain)[name]) for name, value in weights(guarded).items())  # type: ignore[attr-defined]


class Killed(BaseException):
    """As SIGKILL: nothing is written after it."""


@pytest.mark.parametrize("at_call", [5, 25, 34, 45, 68])
def test_a_killed_run_takes_the_same_decisions_again(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_call: int
) -> None:
    """Killed before the spike, between it and the check, right after the rollback, and later on."""
    from isoflop.train import loop

    spec = poisoned(make_spec, corpus)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train_run(spec, whole, corpora=[corpus])
    real, calls = loop.train_step, iter(range(10_000))

    def dies(*arguments: object, **named: object) -> object:
        if next(calls) == at_call:
            raise Killed
        return real(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        with pytest.raises(Killed):
            train_run(spec, cut, corpora=[corpus], checkpoint_every_s=0.0)  # a state at each check
    record = train_run(spec, cut, corpora=[corpus])
    check_record(record, spec)
    assert seen(cut) == seen(whole)
    assert cut.read_measurements() == whole.read_measurements()
    assert all(value.equal(weights(whole)[name]) for name, value in weights(cut).items())  # type: ignore[attr-defined]


def test_a_stop_waits_for_the_next_check(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    spec = poisoned(make_spec, corpus)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train_run(spec, whole, corpora=[corpus])
    calls = iter(range(10_000))
    assert train_run(spec, cut, corpora=[corpus], should_stop=lambda: next(calls) >= 23) is None
    record = train_run(spec, cut, corpora=[corpus])
    check_record(record, spec)
    assert record is not None
    assert record.attempts[0].last_step % 10 == 0
    assert seen(cut) == seen(whole)
