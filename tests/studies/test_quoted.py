"""The studies that judge quoted numbers: each reaches the figures that can be worked out by hand."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest

from isoflop import records
from isoflop.records import Evidence
from isoflop.studies import (
    algorithmic_progress,
    bottleneck,
    claims,
    eval_difference,
    incremental,
    machine_found_gains,
    predictions,
    token_budget,
)
from isoflop.studies.study import Study

MODULES = (
    algorithmic_progress,
    bottleneck,
    eval_difference,
    incremental,
    machine_found_gains,
    predictions,
    token_budget,
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_every_verdict_is_whole(module):
    study = module.STUDY
    assert isinstance(study, Study)
    assert module.__name__.endswith(study.name)
    verdict = study.judge(Evidence())
    again = records.decode(records.encode(verdict), records.Verdict)
    assert again.study == study.name
    assert set(again.claims) <= {claim.id for claim in claims.CLAIMS if claim.study == study.name}
    tables = {table.name: table for table in again.tables}
    for table in again.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    for figure in again.figures:
        assert set(figure.tables) <= set(tables)
    if again.outcome == "cannot tell":
        assert again.settle


def test_studies_do_not_import_each_other():
    names = {module.__name__ for module in MODULES}
    for module in MODULES:
        tree = ast.parse(Path(module.__file__).read_text())
        found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & found


def test_eval_difference_reaches_the_known_z_values():
    rows = {row["task"]: row for row in eval_difference.compare()["tasks"]}
    wanted = {"MMLU": -4.32, "ARC-Challenge": 0.34, "Winogrande": -0.29, "HellaSwag": 0.29}
    for task, z in wanted.items():
        assert rows[task]["statistic"] == pytest.approx(z, abs=0.005)  # half of the last digit
    verdict = eval_difference.judge(Evidence())
    assert [statement.outcome for statement in verdict.statements] == ["contradicted"] + ["cannot tell"] * 3
    assert verdict.outcome == "contradicted"
    assert verdict.effect.startswith("Step 73,500 is lower on MMLU")
    words = [
        verdict.effect,
        *(s.because for s in verdict.statements),
        *verdict.limits,
        verdict.figures[0].alt,
    ]
    assert not [text for text in words if "B minus A" in text or "B is" in text]  # a reader has no A and no B
    # 2.8016 sqrt(0.1 / n): what item logs would show if a tenth of the items changed
    assert rows["MMLU"]["if_paired"]["minimum_detectable"] == pytest.approx(0.0075, abs=5e-5)


def test_incremental_reaches_the_known_shares():
    assert incremental.compound(0.001, 100) == pytest.approx(1.105, abs=5e-4)
    assert incremental.compound(0.0005, 50) == pytest.approx(1.025, abs=5e-4)
    records = incremental.recorded()
    found = incremental.shares(records)
    # Each to half of the last digit that is known.
    assert len(records) == 88
    assert found.total == pytest.approx(37.6, abs=0.05)
    assert found.top[5] == pytest.approx(0.44, abs=0.005)
    assert found.top[10] == pytest.approx(0.60, abs=0.005)
    assert found.top[20] == pytest.approx(0.76, abs=0.005)
    assert found.median_gain == pytest.approx(0.012, abs=5e-4)
    assert found.num_small == 53
    assert found.small_share == pytest.approx(0.13, abs=0.005)
    assert found.num_since_21 == 68
    assert found.largest_since_21 == pytest.approx(0.056, abs=5e-4)
    assert found.since_21 == pytest.approx(2.45, abs=0.005)


def test_shares_of_a_planted_series():
    # Halved ten times, then a hundred times by one percent: shares follow from logarithms alone.
    minutes = [100.0]
    for factor in [0.5] * 10 + [0.99] * 100:
        minutes.append(minutes[-1] * factor)
    found = incremental.shares(incremental._chain(list(enumerate(minutes, start=1)), {}))
    total = 10 * math.log(2) + 100 * -math.log(0.99)
    assert found.total == pytest.approx(math.exp(total))
    assert found.top[10] == pytest.approx(10 * math.log(2) / total)
    assert found.num_small == 100
    assert found.small_share == pytest.approx(1 - found.top[10])
    assert found.median_gain == pytest.approx(1 / 0.99 - 1)


def test_records_are_read_from_a_table(tmp_path: Path):
    text = """intro
| # | Record time | Description |
| - | - | - |
1 | 10 minutes | a | 05/28/24
2 | 8.0 minutes | b | 06/06/24
2 | 8.4 minutes | b, timed again | 07/06/24
3 | 420 seconds | c | 08/06/24
## another track
1 | 100 minutes | d
2 | 90 minutes | e
"""
    path = tmp_path / "README.md"
    path.write_text(text)
    found = incremental.read_records(path)
    assert [(record.number, record.minutes, record.base_minutes) for record in found] == [
        (2, 8.0, 10),
        (3, 7.0, 8.4),
    ]
    path.write_text("nothing here")
    with pytest.raises(ValueError, match="speedrun's README"):
        incremental.read_records(path)


def test_machine_found_gains():
    found = machine_found_gains.judge(Evidence()).summary["kernels"]
    assert {device: round(value, 2) for device, value in found.items()} == {
        "A100": 2.06, "H100": 1.18, "B200": 1.11, "MI300X": 1.54,
    }  # fmt: skip


def test_bottleneck_formulas():
    assert bottleneck.amdahl(0.2, 10) == pytest.approx(1.22, abs=0.005)
    assert bottleneck.amdahl(0.2, math.inf) == pytest.approx(1.25)
    assert bottleneck.amdahl(0.4, 10) == pytest.approx(1.56, abs=0.005)
    assert bottleneck.share_needed(2.0) == pytest.approx(0.5)
    assert bottleneck.share_needed(12.0, 10.0) is None
    # Cobb-Douglas with equal weights: 10^0.5; perfect complements: nothing; elasticities around 1 join smoothly.
    assert bottleneck.production_gain(10, 1.0) == pytest.approx(math.sqrt(10))
    assert bottleneck.production_gain(10, 0.05) < 1.05
    assert bottleneck.production_gain(10, 1.0001) == pytest.approx(math.sqrt(10), rel=1e-3)
    assert bottleneck.production_gain(10, bottleneck.elasticity_for(2.0, 10)) == pytest.approx(2.0)


def test_queue_agrees_with_its_limits():
    # Compute without end: cycles of coding, experiment and the rest, no waiting: 5 x 30.4 / 6 a month.
    free = bottleneck.Group(gpu_days_per_month=1e9, success=1.0)
    # 25.3 a month over 2,400 months: a Poisson-like error of 0.1, four of them.
    assert bottleneck.simulate(free, months=2400, seed=1).results_per_month == pytest.approx(
        5 * 30.4 / 6, abs=0.4
    )
    # People without end: the pool is always busy and sets the pace, 50 / 2.5 experiments a month.
    crowded = bottleneck.Group(num_researchers=100, success=1.0)
    found = bottleneck.simulate(crowded, months=2400, seed=1)
    assert found.utilisation == pytest.approx(1.0, abs=0.01)
    assert found.results_per_month == pytest.approx(20.0, abs=0.4)


def test_token_budget_numbers():
    found = token_budget.judge(Evidence()).summary
    assert token_budget.TOKENS_PER_SECOND_OF_VIDEO == 1024
    assert found["video_tokens_per_hour"] == pytest.approx(3.69e6, abs=5e3)
    assert [round(value) for value in found["eye_factor"].values()] == [76, 120]
    # 2 x 32 layers x 1024 x 2 bytes = 131,072 bytes a token
    assert found["cache_bytes_video_hour"] == pytest.approx(131_072 * 3_686_400)


def test_algorithmic_progress_paces():
    images, early, late = algorithmic_progress.PERIODS
    assert images.doubling_months == pytest.approx(84 / math.log2(44))
    assert images.hardware_factor == pytest.approx(2**3.5)
    assert algorithmic_progress.WHOLE_SPEEDRUN.factor == pytest.approx(37.6, abs=0.05)
    assert late.doubling_months > 4 * early.doubling_months
    verdict = algorithmic_progress.judge(Evidence())
    assert [statement.outcome for statement in verdict.statements] == ["supported", "contradicted"]


def test_quoted_times_agree_where_two_studies_use_them():
    by_number = dict(enumerate(incremental.MINUTES, start=1))
    for number, (before, after) in machine_found_gains.RECORD_MINUTES.items():
        assert (before, after) == (by_number[number - 1], by_number[number])
    early, late = algorithmic_progress.PERIODS[1:]
    assert early.factor == by_number[1] / by_number[21]
    assert late.factor == incremental.RETIMED[21] / by_number[60]


def test_predictions_have_tests_and_evidence():
    ids = {claim.id for claim in claims.CLAIMS}
    for entry in predictions.LEDGER:
        assert entry.claim in ids
        assert entry.test
        assert entry.evidence
        assert 2022 <= entry.made <= 2026
    counts = predictions.judge(Evidence()).summary["counts"]
    assert sum(counts.values()) == len(predictions.LEDGER)
