"""What y is follows from the name of its column."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from isoflop.cli import main
from isoflop.fit.table_points import read_points


@pytest.mark.parametrize(
    ("name", "metric"),
    [("accuracy", "accuracy"), ("Exact_Match", "accuracy"), ("acc_norm", "accuracy"), ("score", "score")],
)
def test_a_column_of_right_answers_is_an_accuracy(tmp_path: Path, name: str, metric: str) -> None:
    table = tmp_path / "curve.csv"
    table.write_text(f"size,{name}\n1,0.2\n2,0.3\n3,0.4\n")
    assert read_points(table, {}).metric == metric


def test_an_accuracy_above_one_is_refused_and_a_score_is_not(tmp_path: Path) -> None:
    rows = "1,0.2\n2,1.3\n3,0.4\n4,0.5\n5,0.6\n6,0.6\n"
    table = tmp_path / "curve.csv"
    table.write_text(f"steps,accuracy\n{rows}")
    refused = CliRunner().invoke(main, ["fit", str(table)])
    assert refused.exit_code == 2
    assert "must lie in [0, 1], and row 2 (x = 2) holds 1.3" in refused.stderr
    assert "--metric score" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    taken = CliRunner().invoke(main, ["fit", str(table), "--metric", "score", "--json"])
    assert taken.exit_code == 0, taken.output
