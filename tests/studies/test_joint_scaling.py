"""The published joint extrapolation is reached, and what it rests on is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop import records
from isoflop.records import Evidence
from isoflop.studies import claims, joint_scaling


def test_published_numbers() -> None:
    runs = joint_scaling.quoted()
    assert len(runs) == 78
    best = max((run for run in runs if run.model == "vith14@476"), key=lambda run: run.top5)
    assert (round(100 * best.top1, 1), round(100 * best.top5, 1)) == (44.1, 71.1)
    verdict = joint_scaling.judge(Evidence())
    found = verdict.summary
    for name, slope in (("parameters", 0.054), ("hours", 0.071), ("pixels", 0.226)):
        assert found["coefficients_top5"][name] == pytest.approx(slope, abs=6e-4)
    assert found["r2_top5"] == pytest.approx(0.952, abs=6e-4)
    assert found["predicted"]["top5, linear"] == pytest.approx(0.859, abs=6e-4)
    assert found["predicted"]["top5, logit"] == pytest.approx(0.816, abs=6e-4)
    # 4,000 resamples give an end to about 0.05 points; the reference has another seed.
    assert found["resampled95_top5"] == pytest.approx([0.842, 0.878], abs=2e-3)
    assert 0.53 <= found["predicted"]["top1, linear"] <= found["predicted"]["top1, logit"] <= 0.60
    # The reference's figure with products is the minimum-norm one about 1 parameter, 1 hour, 1 pixel.
    assert found["with_products"]["one of each"] == pytest.approx(0.832, abs=6e-4)
    assert found["unidentified_products"] == 1


def test_the_verdict_is_whole_and_warns_of_resolution() -> None:
    verdict = records.decode(records.encode(joint_scaling.STUDY.judge(Evidence())), records.Verdict)
    assert verdict.outcome == "cannot tell"
    assert "three values" in verdict.sentence
    assert any("pixels has 3 values" in text for text in verdict.unresolved)
    assert any("pixels was varied at parameters = 6.32e+08 alone" in text for text in verdict.unresolved)
    tables = {table.name for table in verdict.tables}
    assert all(set(figure.tables) <= tables for figure in verdict.figures)
    assert all(len(row) == len(table.columns) for table in verdict.tables for row in table.rows)
    assert set(verdict.claims) <= {claim.id for claim in claims.CLAIMS}


def test_logs_are_read_as_they_are(tmp_path: Path) -> None:
    epochs = [
        {"test_acc1": 10.0, "test_acc5": 30.0, "epoch": 0},
        {"test_acc1": 12.0, "test_acc5": 29.0, "epoch": 1},
    ]
    folder = tmp_path / "logs" / "vith14@448_logs"
    folder.mkdir(parents=True)
    (folder / "vith14@448_0.01_2_log.txt").write_text("\n".join(json.dumps(e) for e in epochs))
    (run,) = joint_scaling.read_logs(tmp_path)
    assert (run.top1, run.top5, run.hours, run.pixels) == (0.12, 0.30, 50.0, 448.0)
    (folder / "vits14_0.1_1_log.txt").write_text("epoch 1: fine")
    with pytest.raises(ValueError, match="is no log"):
        joint_scaling.read_logs(tmp_path)
    with pytest.raises(ValueError, match="holds no file"):
        joint_scaling.read_logs(folder / "none")
