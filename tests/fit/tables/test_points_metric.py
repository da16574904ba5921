"""What y is follows from the name of its column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isoflop.cli import main
from isoflop.fit.tables.points import read_points

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("accuracy", "accuracy"),
        ("Exact_Match", "accuracy"),
        ("acc_norm", "accuracy"),
        ("score", "score"),
        ("val_loss", "loss"),
    ],
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


def run(tmp_path: Path, text: str, *options: str) -> Result:
    table = tmp_path / "curve.csv"
    table.write_text(text)
    return CliRunner().invoke(main, ["fit", str(table), *options])


def test_several_metrics_in_one_table_are_refused(tmp_path: Path) -> None:
    text = "x,y,metric\n1,0.5,acc\n2,0.6,acc\n3,0.7,acc\n4,2.1,loss\n5,2.3,loss\n6,2.4,loss\n"
    refused = run(tmp_path, text)
    assert refused.exit_code == 2
    assert "mixes 2 curves, by its column metric: acc (3 rows), loss (3 rows)" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert run(tmp_path, text.replace("loss", "acc")).exit_code == 0


def test_x_with_a_usual_name_of_a_score_is_a_curve_beside_other_columns(tmp_path: Path) -> None:
    rows = "".join(f"{2**k},{0.3 + 0.05 * k},500\n" for k in range(8))
    done = run(tmp_path, f"x,accuracy,n\n{rows}", "--json", "--predict", "1e6", "--reach", "0.99")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    (place,) = answer["predict"]
    assert 0 <= place["lo"] <= place["median"] <= place["hi"] <= 1  # what an accuracy can be
    assert "never reaches 1.5" in run(tmp_path, f"x,accuracy,n\n{rows}", "--reach", "1.5").stderr


def test_four_points_choose_nothing_and_foretell_nothing(tmp_path: Path) -> None:
    text = "x,y\n1,0.3\n10,0.35\n100,0.42\n1000,0.47\n"
    done = run(tmp_path, text, "--json", "--predict", "1e4", "--reach", "0.9", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["sentence"].startswith("Too few points to choose a curve")
    assert not answer["decided"]
    assert all(row["num"] is None and "needs" in row["reason"] for row in answer["points_needed"])
    assert answer["predict"][0]["median"] is None
    assert "a straight line needs 5" in answer["predict"][0]["reason"]
    assert answer["reach"]["ever"] is None
    assert "CANNOT TELL" in (tmp_path / "out" / "report.html").read_text().upper()
    assert "3 points are too few to judge a curve" in run(tmp_path, text.rsplit("1000,", 1)[0]).stderr
