"""P2.3: the figures that can be worked out by hand, and the verdict that is built on them."""

from __future__ import annotations

import pytest

from isoflop import records
from isoflop.plan.training_run import plan_run
from isoflop.records import Evidence
from isoflop.studies import run_planner


def test_figures_are_those_that_follow_from_the_configuration():
    found = run_planner.figures(plan_run(run_planner.POSTED))
    assert found.tokens_per_step == 32 * 2 * 21 * 8192 == 11_010_048
    assert found.tokens_done == pytest.approx(809.2e9, abs=0.05e9)
    assert found.tokens_planned == pytest.approx(5.505e12, abs=0.5e9)
    assert found.slower_by_rate == pytest.approx(2.18, abs=0.005)
    assert found.slower_by_mfu == pytest.approx(1.45)
    assert found.large_batch_tokens == pytest.approx(110.1e6, abs=0.05e6)
    assert found.days_per_trillion == pytest.approx(3.78, abs=0.005)
    assert found.months_left == pytest.approx(8.7, abs=0.05)
    assert found.memory_tb == pytest.approx(32.8, abs=0.05)
    # 45.7 days (1.5 months) instead of 45: 401 instead of 407 tokens/s, 12.1 % MFU, 10 % counted as 6N.
    assert found.calendar_rate == pytest.approx(401, abs=0.5)
    assert found.calendar_mfu == pytest.approx(0.121, abs=0.0005)
    assert found.calendar_mfu_6n == pytest.approx(0.10, abs=0.005)
    assert found.times_slower == pytest.approx(3.3, abs=0.05)


def test_the_verdict_is_whole():
    verdict = run_planner.judge(Evidence())
    assert records.decode(records.encode(verdict), records.Verdict).study == "run_planner"
    assert [statement.outcome for statement in verdict.statements] == ["supported"] * 3
    assert verdict.outcome == "supported"
    tables = {table.name for table in verdict.tables}
    assert {name for figure in verdict.figures for name in figure.tables} <= tables
    for table in verdict.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_figure_that_does_not_follow_contradicts(monkeypatch):
    monkeypatch.setattr(run_planner, "SECONDS_PER_STEP", 60.0)
    verdict = run_planner.judge(Evidence())
    assert verdict.statements[0].outcome == "contradicted"
    assert "3.8 days" in verdict.statements[0].because
    assert verdict.outcome == "contradicted"
