"""The path of optima: what ships, what is judged from it, and that it can be made again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from isoflop import records
from isoflop.judge.path_bend import adjusted, public_bends
from isoflop.laws.optima import public_optima
from isoflop.records import Evidence
from isoflop.studies import optimum_bend
from tests.conftest import ROOT


def test_what_ships_is_whole() -> None:
    every = public_optima()
    assert len(every) == 16
    for one in every:
        assert len(one.budgets) == len(one.log_N) == len(one.se) >= 5
        assert (np.diff(one.budgets) > 0).all()
        assert (one.se > 0).all()
        assert one.planted.num_sweeps > 1900
        # Planted paths are straight: with skewed bowls the t test must not cry out more often than it says,
        # within three binomial standard deviations of 2,000 sweeps (1.5 points). Parabolas bend them a little.
        assert one.estimator == "parabola" or one.planted.says_bend < 0.05 + 0.015


def test_the_verdict() -> None:
    verdict = records.decode(records.encode(optimum_bend.STUDY.judge(Evidence())), records.Verdict)
    assert verdict.outcome == "cannot tell"
    assert [statement.outcome for statement in verdict.statements] == [
        "supported", "contradicted", "contradicted", "cannot tell",
    ]  # fmt: skip
    assert verdict.summary["bent"] == list(optimum_bend.SAME_SWEEP)
    assert optimum_bend.STUDY.rule is not None
    assert tuple(statement.text for statement in verdict.statements) == optimum_bend.STUDY.rule.statements


def test_two_readings_of_one_figure_are_one_sweep() -> None:
    bends, same = public_bends("bowl"), optimum_bend.SAME_SWEEP
    p = adjusted(bends, same)
    assert p[same[0]] == p[same[1]]
    # The smallest p-value of seven sweeps is multiplied by seven.
    smallest = min(max(bends[name][0].planted.p for name in same), *(
        one.planted.p for name, (one, _) in bends.items() if name not in same
    ))  # fmt: skip
    assert min(p.values()) == pytest.approx(7 * smallest)


def test_the_rule_reaches_every_outcome() -> None:
    bends = public_bends("bowl")
    downwards = {name: pair for name, pair in bends.items() if (pair[1].drift.value or 0) < 0}
    assert optimum_bend.overall(bends, ()) == "contradicted"
    assert optimum_bend.overall(bends, tuple(bends)) == "cannot tell"
    assert optimum_bend.overall(downwards, tuple(downwards)) == "supported"


@pytest.mark.slow
def test_the_file_is_what_the_program_makes(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ship_optima

    monkeypatch.setattr(ship_optima, "NUM_PLANTED", 5)
    made = ship_optima.compute(shared_data)["sweeps"]
    for row, one in zip(made, public_optima(), strict=True):
        assert (row["sweep"], row["estimator"], row["num_runs"]) == (one.sweep, one.estimator, one.num_runs)
        # Linear algebra differs between machines in the last digits; the file keeps five decimals.
        assert row["log_N"] == pytest.approx(one.log_N, abs=2e-4)
        assert row["se"] == pytest.approx(one.se, rel=1e-2)
    sys.modules.pop("ship_optima")
