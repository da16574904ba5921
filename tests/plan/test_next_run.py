"""Which run next: the value of a run, the guard against a wrong law, the stop rule, and the refusals."""

from dataclasses import replace

import numpy as np
import pytest

from isoflop.fit.law.few_runs import Draws
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.next_run import (
    ALARM,
    Candidates,
    Check,
    Ensemble,
    Rule,
    Runs,
    _Valley,
    believe,
    check_run,
    decide,
    default_candidates,
    doubt_of,
    grown,
    held_out,
    isoflop_candidates,
    next_runs,
    without,
)
from isoflop.plan.price import compute_kept
from isoflop.plan.text import WIDTH, next_text

LAW = ChinchillaLaw(E=1.8172, A=477.8, B=2143.0, alpha=0.3473, beta=0.3672)
TARGET = 1e22
RULE = Rule(num_draws=200)


def some_runs(n: int = 8, seed: int = 0, top: float = 1e19) -> Runs:
    rng = np.random.default_rng(seed)
    C = np.geomspace(top / 30, top, n)
    N = LAW.optimum(C).N * np.exp(rng.uniform(-1.2, 1.2, n))
    D = C / (6 * N)
    return Runs(N, D, LAW.loss(N, D) * np.exp(0.004 * rng.standard_normal(n)), C)


CANDIDATES = isoflop_candidates(np.geomspace(1e18, 3e20, 6), np.geomspace(3e7, 3e9, 9))


def test_lost_compute_is_the_law_s_own() -> None:
    draws = Draws(*(np.array([v]) for v in (1.8172, 477.8, 2143.0, 0.3473, 0.3672, 0.0, 0.0, 0.0, 0.005)))
    valley = _Valley.build(draws, TARGET)
    best = LAW.optimum(TARGET)
    assert valley.x[0] == pytest.approx(np.log(best.N), abs=1e-9)
    for factor in (0.1, 0.5, 3.0):
        loss = LAW.loss_at(best.N * factor, TARGET)
        assert valley.lost(np.log(factor))[0] == pytest.approx(
            1 - compute_kept(LAW, best.loss, loss), abs=1e-9
        )
        assert valley.excess(np.log(factor))[0] == pytest.approx(loss / best.loss - 1, abs=1e-12)


def test_imagined_runs_agree_with_the_linear_theory() -> None:
    # A quantity x and one candidate whose log loss is x plus independent spread: the variance of x that is left
    # is var(x) (1 - rho^2), by linear regression; the ensemble holds it up to its own noise draws (200: 10 %).
    runs = some_runs()
    ensemble = Ensemble(believe(runs, RULE), CANDIDATES, TARGET, 0)
    rng = np.random.default_rng(99)  # another stream than the ensemble's own
    x = rng.standard_normal(200)
    ensemble.x, ensemble.noise = x.copy(), 0.5
    ensemble.log_loss = np.stack([x, rng.standard_normal(200)])
    ensemble.imagine(0)
    assert ensemble.x.var() == pytest.approx(x.var() * 0.25 / 1.25, rel=0.3)


def test_a_useful_run_lowers_the_expected_loss_and_a_useless_one_does_not() -> None:
    ensemble = Ensemble(believe(some_runs(), RULE), CANDIDATES, TARGET, 0)
    before = float(ensemble.expected_lost(ensemble.x))
    after = ensemble.lost_after()
    assert after.min() < 0.9 * before
    assert np.all(after <= before * 1.05)  # regression removes variance; sampling may add back some per cent
    # Unrelated noise as a candidate's outcome is worth nothing.
    ensemble.log_loss = np.random.default_rng(1).standard_normal(ensemble.log_loss.shape)
    assert ensemble.lost_after().min() > 0.9 * before


def test_choice_pays_within_the_allowance_and_brackets_the_optimum() -> None:
    runs = some_runs()
    answer = next_runs(
        runs, CANDIDATES, TARGET, num=12, allowance=4e20, spent_on_guard=0.0, checks=(), rule=RULE
    )
    assert not answer.stop
    assert sum(one.flops for one in answer.chosen) <= 4e20
    assert len({one.index for one in answer.chosen}) == len(answer.chosen)
    bracket = [one for one in answer.chosen if one.why == "guard"]
    assert len(bracket) == len(RULE.bracket)
    # The largest budget on offer that pays all its sizes from the guard's share of everything.
    total = runs.flops.sum() + 4e20
    most = RULE.guard_share * total / len(RULE.bracket)
    top = CANDIDATES.flops[most >= CANDIDATES.flops].max()
    assert all(one.flops == top for one in bracket)
    # Below, at and above the predicted optimum: candidates lie 0.58 apart in log N.
    sizes = np.log(sorted(one.N for one in bracket))
    assert np.all(np.diff(sizes) > 0.5)
    assert sizes[0] < np.log(LAW.optimum(top).N) < sizes[2]
    guard = bracket[0]
    assert abs(guard.predicted_loss - LAW.loss(guard.N, guard.D)) < 4 * guard.predicted_sd


def test_the_bracket_waits_until_it_can_be_placed() -> None:
    answer = next_runs(some_runs(), CANDIDATES, TARGET, num=1, allowance=1e22, checks=(), rule=RULE)
    assert answer.chosen[0].why == "decision"  # 3e19 of 1e22 are spent: less than half of the other share


def test_what_was_run_at_the_top_is_not_run_again() -> None:
    runs = some_runs()
    top = CANDIDATES.flops[RULE.guard_share * (runs.flops.sum() + 4e20) / 3 >= CANDIDATES.flops].max()
    sizes = LAW.optimum(top).N * np.exp([-1.2, 0.0, 1.2])
    for size in sizes:
        runs = grown(runs, size, top / (6 * size), float(LAW.loss_at(size, top)), top)
    answer = next_runs(runs, CANDIDATES, TARGET, num=3, allowance=4e20 - 3 * top, checks=(), rule=RULE)
    assert {one.why for one in answer.chosen} == {"decision"}


def test_without_an_allowance_the_guard_keeps_its_share() -> None:
    answer = next_runs(some_runs(), CANDIDATES, TARGET, num=3, checks=(), spent_on_guard=0.0, rule=RULE)
    assert answer.chosen[0].why == "guard"
    assert answer.chosen[0].flops == CANDIDATES.flops.max()


def test_guard_share_is_kept() -> None:
    runs = some_runs()
    spent = float(runs.flops.sum())
    answer = next_runs(runs, CANDIDATES, TARGET, num=3, spent_on_guard=0.9 * spent, rule=RULE)
    assert {one.why for one in answer.chosen} == {"decision"}


def test_it_stops_when_the_decision_is_stable_and_was_checked() -> None:
    passed = (Check(flops=1e20, z=0.4, decades=1.0),)
    easy = Rule(num_draws=200, eps=0.2, confidence=0.9)
    answer = next_runs(some_runs(), CANDIDATES, TARGET, checks=passed, rule=easy)
    assert answer.stop
    assert answer.chosen == ()
    assert "within 20.00%" in answer.reason
    unchecked = next_runs(some_runs(), CANDIDATES, TARGET, checks=(), rule=easy)
    assert not unchecked.stop
    assert "prediction" in unchecked.reason
    failed = next_runs(some_runs(), CANDIDATES, TARGET, checks=(replace(passed[0], z=5.0),), rule=easy)
    assert not failed.stop


def test_the_largest_budget_is_held_out_when_nothing_was_checked() -> None:
    runs = some_runs(9)
    fine = next_runs(runs, CANDIDATES, TARGET, rule=RULE)
    assert len(fine.checks) == 1
    assert abs(fine.checks[0].z) < ALARM
    spoilt = runs._replace(loss=np.where(runs.flops == runs.flops.max(), 1.3 * runs.loss, runs.loss))
    alarmed = next_runs(spoilt, CANDIDATES, TARGET, rule=RULE)
    assert abs(alarmed.checks[-1].z) > ALARM
    assert alarmed.doubt > 0
    assert held_out(some_runs(5), RULE) == ()


def test_a_failed_prediction_raises_doubt_and_widens_the_answer() -> None:
    runs = some_runs(14)
    belief = believe(runs, RULE)
    N, D = 2e9, 1e20 / (6 * 2e9)
    fine = check_run(belief, runs, N, D, float(LAW.loss(N, D)))
    bad = check_run(belief, runs, N, D, float(LAW.loss(N, D)) * 1.2)
    assert abs(fine.z) < ALARM < abs(bad.z)
    assert doubt_of((fine,)) == 0.0
    doubt = doubt_of((fine, bad))
    assert doubt > 0
    wide, narrow = (decide(believe(runs, RULE, doubt=d), TARGET, RULE).N_ci95 for d in (doubt, 0.0))
    assert wide[1] / wide[0] > narrow[1] / narrow[0]


def test_default_candidates_lie_around_the_predicted_path() -> None:
    runs = some_runs()
    offered = default_candidates(runs, TARGET, RULE)
    assert offered.flops.max() == pytest.approx(10 * runs.flops.max())
    assert np.allclose(6 * offered.N * offered.D, offered.flops)
    capped = default_candidates(runs, 2e19, RULE)
    assert capped.flops.max() == pytest.approx(2e19)


def test_text_says_what_to_run_why_and_whether_to_stop() -> None:
    answer = next_runs(some_runs(), CANDIDATES, TARGET, num=3, allowance=1e20, spent_on_guard=0.0, rule=RULE)
    text = next_text(answer)
    assert "Go on: the recommended size is within" in text
    assert "guard against a wrong law" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    stopped = next_runs(some_runs(), CANDIDATES, TARGET, allowance=1e10, rule=RULE)
    assert "Stop: no candidate can be paid" in next_text(stopped)


def test_nothing_that_can_be_paid_ends_it() -> None:
    answer = next_runs(some_runs(), CANDIDATES, TARGET, allowance=1e10, rule=RULE)
    assert answer.stop
    assert "paid" in answer.reason


def test_bookkeeping_of_runs_and_candidates() -> None:
    runs = grown(some_runs(3), 1e9, 2e10, 2.5, 1.2e20)
    assert len(runs.N) == len(runs.loss) == 4
    fewer = without(CANDIDATES, 0)
    assert len(fewer.N) == len(CANDIDATES.N) - 1
    assert np.allclose(6 * CANDIDATES.N * CANDIDATES.D, CANDIDATES.flops)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target_flops": 0.0}, "e.g. 1e22"),
        ({"candidates": Candidates(*(np.array([]) for _ in range(3)))}, "no candidate"),
        ({"num": 0}, "at least 1"),
        ({"runs": Runs(*(np.ones(2) for _ in range(4)))}, "start with three"),
    ],
)
def test_refusals_name_the_remedy(change: dict[str, object], words: str) -> None:
    arguments = {"runs": some_runs(), "candidates": CANDIDATES, "target_flops": TARGET, "rule": RULE} | change
    with pytest.raises(ValueError, match=words):
        next_runs(**arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_replay_on_a_planted_sweep_spends_a_tenth_and_finds_the_size() -> None:
    from benchmarks.next_run import SHARE, planted, replay

    errors = []
    for seed in range(4):
        table, reference, target = planted("right", seed)
        outcome = replay(table, reference, target, "decision", seed, RULE)
        assert outcome.spent <= SHARE + 1e-9
        errors.append(outcome.log_N - reference.log_N)
    # Ten times the largest run is extrapolated from a tenth of the sweep: a factor of 1.6 is a poor result.
    assert np.sqrt(np.mean(np.square(errors))) < 0.5


def test_the_replay_answers_a_bad_table_in_one_line(tmp_path, monkeypatch):
    import sys

    from benchmarks import next_run as replayed

    table = tmp_path / "runs.csv"
    table.write_text("N,D\n1e8,1e10\n")
    monkeypatch.setattr(sys, "argv", ["next_run.py", str(table), "--json"])
    with pytest.raises(SystemExit, match=r"^next_run.py: runs.csv has no column for the loss"):
        replayed.main()
