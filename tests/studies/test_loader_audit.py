"""P2.6: the formulas against their limits and against counting, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isoflop import records
from isoflop.records import Evidence
from isoflop.studies import loader_audit, mixture_accounting
from isoflop.studies.loader_audit import buffered, lost_by_skipping, repeated_by_fresh_shuffles


def test_a_skip_loses_a_buffer_over_e():
    assert lost_by_skipping(100, 1e9) == pytest.approx(100 / math.e)
    assert lost_by_skipping(1, 1e9) == pytest.approx(1 / math.e)
    assert lost_by_skipping(1000, 0) == 0
    # Both branches meet where as many rows were used as the buffer holds.
    assert lost_by_skipping(1000, 1000) == pytest.approx(lost_by_skipping(1000, 1001), rel=1e-2)


@pytest.mark.parametrize("used", [50, 200, 1000])
@pytest.mark.slow
def test_rows_left_behind_are_counted(used):
    """Rows before the position that are still in the buffer, over 400 streams with a buffer of 200."""
    left = []
    for seed in range(400):
        stream = buffered(0, 200, np.random.default_rng(seed))
        shown = {next(stream) for _ in range(used)}
        left.append(used - len({row for row in shown if row < used}))
    error = np.std(left, ddof=1) / math.sqrt(len(left))
    # Four standard errors, and half a row for sums written as integrals.
    assert abs(np.mean(left) - lost_by_skipping(200, used)) <= 4 * error + 0.5


def test_fresh_shuffles_repeat_what_chance_says():
    assert repeated_by_fresh_shuffles(0.5, 1) == 0  # one session draws without repetition
    # Two sessions of half a source: a quarter of the rows is seen twice.
    assert repeated_by_fresh_shuffles(1.0, 2) == pytest.approx(0.25)
    # Many sessions of one pass in all: each row is missed with probability 1/e.
    assert repeated_by_fresh_shuffles(1.0, 100_000) == pytest.approx(1 / math.e, rel=1e-4)
    assert repeated_by_fresh_shuffles(0.01, 40) < 0.006


def test_the_verdict_is_whole():
    verdict = loader_audit.judge(Evidence())
    assert records.decode(records.encode(verdict), records.Verdict).outcome == "supported"
    outcomes = [statement.outcome for statement in verdict.statements]
    assert outcomes == ["supported", "supported", "contradicted", "supported"]
    assert verdict.summary["repeats_small"]["indexed"] == 0
    assert verdict.summary["lost_per_skip_in_buffers"] == pytest.approx(1 / math.e)
    tables = {table.name for table in verdict.tables}
    assert {name for figure in verdict.figures for name in figure.tables} <= tables
    for table in verdict.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_mixture_is_that_of_the_other_study():
    for one in mixture_accounting.POSTED:
        assert loader_audit.SOURCES[one.name] == (one.weight, one.tokens, one.rows)
    code = next(one for one in mixture_accounting.POSTED if one.name == loader_audit.CODE)
    assert (code.rows_lo, code.rows_hi) == (loader_audit.CODE_ROWS_LO, loader_audit.CODE_ROWS_HI)


def test_a_loader_that_repeats_would_be_told(monkeypatch):
    real = loader_audit.simulate

    def leaky(strategy, generator):
        return real("fresh" if strategy == "indexed" else strategy, generator)

    monkeypatch.setattr(loader_audit, "simulate", leaky)
    verdict = loader_audit.judge(Evidence())
    assert verdict.statements[-1].outcome == "contradicted"
    assert verdict.outcome == "contradicted"
