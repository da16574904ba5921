"""The studies about the size to train: the numbers that a reproduction must hit, and the verdict on each statement."""

from __future__ import annotations

import pytest

from isoflop import records
from isoflop.publish.evidence import StudyData
from isoflop.publish.figures import draw_figure
from isoflop.records import Evidence, Verdict
from isoflop.studies import backtest, epochs_published, flatness_published, lifetime_size, small_model

MODULES = (backtest, epochs_published, flatness_published, lifetime_size, small_model)


@pytest.fixture(scope="module", params=MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def judged(request: pytest.FixtureRequest) -> tuple[object, Verdict]:
    return request.param, request.param.STUDY.judge(Evidence())


def outcomes(verdict: Verdict) -> list[str]:
    return [statement.outcome for statement in verdict.statements]


def test_verdicts_survive_the_disk_and_name_their_tables(judged: tuple[object, Verdict]) -> None:
    module, verdict = judged
    again = records.decode(records.encode(verdict), records.Verdict)
    assert again.study == module.STUDY.name == module.__name__.rsplit(".", 1)[-1]
    assert set(again.claims) == set(module.STUDY.claims)
    names = {table.name for table in again.tables}
    for table in again.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    for figure in again.figures:
        assert set(figure.tables) <= names
    for statement in again.statements:
        assert statement.outcome != "cannot tell" or statement.settle


@pytest.mark.slow
def test_figures_can_be_drawn(judged: tuple[object, Verdict]) -> None:
    _, verdict = judged
    plan = records.Plan(
        study=verdict.study,
        question=verdict.question,
        budget=records.Budget(amount=1.0, unit="flops"),
        planned_flops=records.FlopCount(flops=0.0, convention="6N-all"),
        runs=(),
        rule=records.DecisionRule(text=""),
        seeds=(),
    )
    data = StudyData(plan=plan, verdict=verdict, runs=())
    for figure in verdict.figures:
        assert "<svg" in draw_figure(figure, data).wide


def test_flatness_as_published() -> None:
    verdict = flatness_published.STUDY.judge(Evidence())
    found = verdict.summary
    # Printed to the digits that follow; half a unit of the last one.
    assert found["N_opt"] == pytest.approx(6.30e11, rel=0.001)
    assert found["interval_ratio"] == pytest.approx(2.98, abs=0.005)
    assert found["loss_opt"] == pytest.approx(1.891, abs=5e-4)
    assert found["losses_at_sides"] == pytest.approx([1.917, 1.919], abs=5e-4)
    assert found["gaps"] == pytest.approx([0.0134, 0.0147], abs=5e-5)
    assert found["share_within_1pct"] == pytest.approx([0.11, 0.11], abs=0.005)
    assert found["basin_factor"] == pytest.approx(7.1, abs=0.05)
    assert outcomes(verdict) == [
        "supported",  # about 650B
        "contradicted",  # almost an order of magnitude
        "supported",  # 1.89
        "contradicted",  # 1.91
        "contradicted",  # within 1 %
        "supported",  # widens
    ]
    assert verdict.outcome == "contradicted"


def test_the_rule_for_shares_of_draws() -> None:
    assert flatness_published.outcome_of(0.96) == "supported"
    assert flatness_published.outcome_of(0.5) == "cannot tell"
    assert flatness_published.outcome_of(0.03) == "contradicted"


def test_lifetime_sizes() -> None:
    verdict = lifetime_size.STUDY.judge(Evidence())
    found = verdict.summary
    sizes = dict(zip(found["served"], found["N"], strict=True))
    savings = dict(zip(found["served"], found["saving"], strict=True))
    # Three printed digits; the reference's coefficients have five, which leaves 0.2 %.
    for T, size, saving in (
        (0.0, 608e9, 0.07),
        (1e13, 454e9, 0.01),
        (1e14, 266e9, 0.13),
        (1e15, 167e9, 0.47),
    ):
        assert sizes[T] == pytest.approx(size, rel=0.004)
        assert savings[T] == pytest.approx(saving, abs=0.005)
    assert found["floor_N"] == pytest.approx(90e9, rel=0.01)
    assert outcomes(verdict) == ["contradicted", "contradicted", "cannot tell", "contradicted"]
    assert 1e15 < found["half_saved_from_tokens"] < 2e15  # 47 % at 1e15


def test_small_models() -> None:
    verdict = small_model.STUDY.judge(Evidence())
    found = verdict.summary
    assert found["P5.6"]["refit"] == pytest.approx([2.001, 1.930], abs=5e-4)
    assert found["P21.3"]["refit"] == pytest.approx([2.014, 1.973], abs=5e-4)
    assert outcomes(verdict) == ["contradicted", "contradicted"]
    assert "10.9B" in verdict.statements[1].because


def test_backtest() -> None:
    verdict = backtest.STUDY.judge(Evidence())
    found = verdict.summary
    assert found["gpu_hour_ratios"]["7B"] == pytest.approx(12.4, abs=0.05)
    assert found["gpu_hour_ratios"]["13B"] == pytest.approx(7.6, abs=0.05)
    assert found["losses"]["refit"]["65B"] == pytest.approx(1.975, abs=6e-4)  # 1.9755: rounds either way
    assert found["losses"]["refit"]["13B"] == pytest.approx(2.004, abs=5e-4)
    printed = found["losses"]["Hoffmann, as printed"]
    assert printed["65B"] == pytest.approx(1.939, abs=5e-4)
    assert printed["13B"] == pytest.approx(1.940, abs=5e-4)
    assert outcomes(verdict) == ["supported", "contradicted", "contradicted", "supported", "supported"]


def test_epochs() -> None:
    verdict = epochs_published.STUDY.judge(Evidence())
    for epochs, worth in ((2, 0.98), (4, 0.93), (8, 0.83), (16, 0.66), (40, 0.38)):
        assert verdict.summary["worth"][str(epochs)] == pytest.approx(worth, abs=0.005)
    assert outcomes(verdict) == ["supported", "contradicted"]
    assert 0 < epochs_published.loss_cost(4) < epochs_published.loss_cost(16)
