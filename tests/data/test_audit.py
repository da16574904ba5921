"""The audit itself, on loaders whose faults are known; and the four ways of resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isoflop.data.audit import (
    STRATEGIES,
    Kills,
    audit,
    audit_data,
    audit_steps,
    audit_strategies,
    audit_table,
    hash_rows,
    kill_times,
    open_strategy,
)
from isoflop.data.order import TrainingWindows
from isoflop.studies.loader_audit import lost_by_skipping, repeated_by_fresh_shuffles
from tests.data.test_order import corpus, spec

NUM_WINDOWS, CONTEXT = 20_000, 2
KILLS = Kills(at_steps=(100,) * 9, num_steps=1000, checkpoint_every=10)
BATCH, BUFFER = 10, 100


@pytest.fixture(scope="module")
def planted():
    return corpus(NUM_WINDOWS * CONTEXT + 1)


def windows(planted, seed: int = 0) -> TrainingWindows:
    return TrainingWindows(spec(planted, context=CONTEXT, seed=seed), [planted])


class Planted:
    """Sequence number n is [n, n + 1]; faults are put in by hand."""

    def __init__(self, first: int) -> None:
        self.next = first

    def take(self, count: int):
        numbers = np.arange(self.next, self.next + count)
        self.next += count
        return np.stack([numbers, numbers + 1], axis=1)

    def state(self) -> int:
        return self.next


def test_an_exact_loader_is_found_exact():
    found = audit(lambda session, state: Planted(state), KILLS, BATCH)
    assert found.exact
    assert (found.samples, found.distinct, found.sessions) == (10_000, 10_000, 10)
    assert found.wasted == 0  # every kill falls on a checkpoint


@pytest.mark.parametrize("fault", [-3, 5])
def test_planted_faults_are_counted_exactly(fault):
    """Nine resumes that step back three sequences repeat 27; that jump over five omit 45."""
    found = audit(lambda session, state: Planted(state + (fault if session else 0)), KILLS, BATCH)
    if fault < 0:
        # The run ends 27 sequences short of the undisturbed one.
        assert (found.repeats, found.strangers, found.omissions) == (27, 0, 27)
    else:
        # What was jumped over never comes; as many sequences come that would not have come yet.
        assert (found.repeats, found.strangers, found.omissions) == (0, 45, 45)
    assert not found.exact


def test_steps_behind_a_checkpoint_are_done_again():
    kills = Kills(at_steps=(7, 12), num_steps=30, checkpoint_every=5)
    found = audit(lambda session, state: Planted(state), kills, 1)
    assert found.exact
    assert found.wasted == 2 + 2  # 7 steps: 5 kept; then 12 more, to 17: 15 kept
    assert found.sessions == 3


def test_a_run_that_is_killed_before_its_first_checkpoint_starts_again():
    kills = Kills(at_steps=(3, 3), num_steps=10, checkpoint_every=5)
    found = audit(lambda session, state: Planted(state), kills, 1)
    assert found.exact
    assert found.wasted == 6


@pytest.mark.slow
def test_the_ways_of_resuming_against_their_formulas(planted):
    """Means and spreads over ten seeds of the same kills, against the study's closed forms."""
    found = {name: [] for name in STRATEGIES}
    for seed in range(10):
        own = windows(planted, seed)
        for name in STRATEGIES:
            opened = open_strategy(
                name,
                own,
                lambda s, seed=seed: windows(planted, 100 * seed + s + 1),
                buffer=BUFFER,
                seed=100 * seed,
            )
            found[name].append(audit(opened, KILLS, BATCH, name))
    assert all(one.exact for one in found["stateful"])
    used = 100 * BATCH
    lost = 9 * lost_by_skipping(BUFFER, used)
    for name, expected in (
        ("skip", lost),
        ("position", 0.0),
        ("fresh", 10_000 * repeated_by_fresh_shuffles(0.5, 10)),
    ):
        again = np.array([one.samples - one.distinct for one in found[name]])
        # A seed's own spread, or that of a count of independent events where it happens to be small.
        error = max(again.std(ddof=1), math.sqrt(max(expected, 1.0))) / math.sqrt(10)
        assert abs(again.mean() - expected) <= 4 * error, name
    # The stream's position without the buffer's content: each of nine resumes loses the whole buffer.
    omitted = np.array([one.omissions for one in found["position"]])
    assert omitted.mean() == pytest.approx(9 * BUFFER, rel=0.15)  # the last buffer's own tail is in both


def test_all_strategies_side_by_side(planted):
    kills = Kills(at_steps=(20, 30), num_steps=80, checkpoint_every=8)
    found = audit_strategies(
        windows(planted), lambda seed: windows(planted, seed + 1), kills, batch_seqs=4, buffer=16
    )
    assert [one.strategy for one in found] == list(STRATEGIES)
    assert [one.exact for one in found] == [True, False, False, False]
    assert len({one.wasted for one in found}) == 1  # the same kills
    assert len(audit_table(found).rows) == 4


def test_a_mixture_of_corpora_is_audited_as_it_is_trained():
    one, two = corpus(4001, name="one"), corpus(2001, first=100_000, name="two")
    data = spec(one, two, context=10, weights=[2.0, 1.0])
    kills = Kills(at_steps=(10, 10, 10), num_steps=50, checkpoint_every=5)
    found = audit_data(data, [one, two], kills, batch_seqs=6, buffer=20)
    assert {one.strategy: one.exact for one in found} == {
        "stateful": True, "skip": False, "position": False, "fresh": False,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_this_loader_is_exact_under_kills_at_random_moments(planted, seed):
    rng = np.random.default_rng(seed)
    kills = kill_times(200, 20, int(rng.integers(1, 15)), rng)
    own = windows(planted, seed)
    found = audit(open_strategy("stateful", own, lambda s: own, buffer=1), kills, 7)
    assert found.exact
    assert found.samples == 1400


def test_this_loader_is_exact_over_several_epochs(planted):
    small = corpus(101)
    own = TrainingWindows(spec(small, context=10), [small])  # ten windows
    kills = Kills(at_steps=(3, 9), num_steps=25, checkpoint_every=2)
    found = audit(open_strategy("stateful", own, lambda s: own, buffer=1), kills, 2)
    assert found.exact
    assert (found.samples, found.distinct) == (50, 10)
    assert found.epochs_per_distinct == 5


def test_a_trainers_own_record_is_audited():
    """Steps 1 .. 6, killed after 4 with a checkpoint at 2: steps 3 and 4 come again."""
    rows = [np.full((2, 3), number) + np.arange(2)[:, None] * 100 for number in range(1, 7)]
    hashes = [hash_rows(row) for row in rows]
    wanted = np.concatenate(hashes)
    written = [(step, hashes[step - 1]) for step in (1, 2, 3, 4, 3, 4, 5, 6)]
    found = audit_steps(written, wanted, sessions=2)
    assert found.exact
    assert found.wasted == 4
    wrong = [*written[:5], (4, hashes[0]), *written[6:]]  # step 4 shows what step 1 showed
    found = audit_steps(wrong, wanted, sessions=2)
    assert (found.repeats, found.omissions, found.strangers) == (2, 2, 0)


def test_hashes_tell_sequences_apart_and_know_their_order():
    rows = np.array([[1, 2, 3], [1, 3, 2], [1, 2, 3]])
    first, second, third = hash_rows(rows)
    assert first == third
    assert first != second


def test_what_cannot_be_audited_is_refused(planted):
    with pytest.raises(ValueError, match="counted from 1"):
        audit(lambda session, state: Planted(state), Kills(at_steps=(0,), num_steps=3, checkpoint_every=1), 1)
    with pytest.raises(ValueError, match="there are: stateful"):
        open_strategy("backwards", windows(planted), lambda s: windows(planted), buffer=1)  # type: ignore[arg-type]
