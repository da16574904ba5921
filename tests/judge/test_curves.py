"""The whole answer about a curve: keys, planted truths, sentences for bad input, and the report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from isoflop import records
from isoflop.judge import curves as judge
from isoflop.judge.curves import above_chance, axes, curve_answer, per_token_score
from isoflop.judge.curves_view import curve_verdict, render_curve
from isoflop.laws import curves
from isoflop.laws.curves import CurveError

pytestmark = pytest.mark.slow

SIZES = np.geomspace(2e6, 1.4e11, 12)


def jump() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(curves.logistic(SIZES, 0.25, 0.75, 1e9, 3.0) + 0.02 * rng.normal(size=12), 0, 1)


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return curve_answer(
        SIZES,
        jump(),
        kind="accuracy",
        num_items=400,
        predict=1e12,
        reach=0.9,
        num_replicates=16,
        metric="acc",
    )


def test_the_answer_is_json_and_has_what_is_promised(answer: dict[str, Any]) -> None:
    again = json.loads(json.dumps(answer, allow_nan=False))
    assert {"families", "decided", "cannot_decide", "points_needed", "predict", "reach", "sentence"} <= set(
        again
    )
    for row in again["families"]:
        assert {"name", "parameters", "weight", "aicc", "forward_error"} <= set(row)
    assert sum(row["weight"] for row in again["families"]) == pytest.approx(1.0)
    asked = {row["name"] for row in again["decided"]} | {row["name"] for row in again["cannot_decide"]}
    assert len(asked) == len(again["decided"]) + len(again["cannot_decide"])
    assert {row["name"] for row in again["points_needed"]} == {row["name"] for row in again["cannot_decide"]}


def test_a_planted_jump_is_found_and_said(answer: dict[str, Any]) -> None:
    sudden = next(row for row in answer["decided"] if row["name"] == "sudden")
    assert sudden["answer"] == "a jump"
    assert answer["families"][0]["name"] in ("logistic", "m4")
    assert "a jump" in answer["sentence"]


def test_prediction_and_reach(answer: dict[str, Any]) -> None:
    (row,) = answer["predict"]
    assert row["lo"] < 0.75 < row["hi"]  # the planted ceiling
    assert answer["reach"]["ever"] < 0.3  # 0.9 lies above it
    assert answer["reach"]["reason"]
    assert answer["reach"]["x_by_which_with_probability"]["50%"] is None


def test_text_and_verdict_hold_the_same_answer(answer: dict[str, Any]) -> None:
    text = render_curve(answer)
    assert text.startswith(answer["sentence"])
    assert "at x = 1e+12" in text
    assert "cannot decide" in text or not answer["cannot_decide"]
    verdict = curve_verdict(answer)
    again = records.decode(records.encode(verdict), records.Verdict)
    tables = {table.name for table in again.tables}
    assert {figure.tables[0] for figure in again.figures} <= tables
    assert [figure.options["log_x"] for figure in again.figures] == [False, True]
    for table in again.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_figures_can_be_drawn(answer: dict[str, Any]) -> None:
    from isoflop.publish.kinds import curves as drawing

    verdict = curve_verdict(answer)
    assert {figure.kind for figure in verdict.figures} == {"curves"}
    for figure in verdict.figures:
        assert set(figure.options) <= set(drawing.OPTIONS)
    (table,) = (table for table in verdict.tables if table.name == "curve")
    assert [column.name for column in table.columns] == ["series", "x", "y", "lo", "hi", "role"]
    assert {row[-1] for row in table.rows} <= set(drawing.ROLES)


def test_a_loss_is_predicted_in_relative_terms() -> None:
    x = np.geomspace(1e8, 1e10, 20)
    rng = np.random.default_rng(1)
    y = curves.power_offset(x, 1.7, 2000.0, -0.4) * np.exp(0.004 * rng.normal(size=20))
    found = curve_answer(x, y, kind="loss", predict=2e10, num_replicates=16)
    assert found["residuals"] == "relative"
    (row,) = found["predict"]
    assert "falling loss" in row["method"]
    truth = curves.power_offset(np.array([2e10]), 1.7, 2000.0, -0.4)[0]
    assert row["lo"] < truth < row["hi"]


def test_a_straight_line_on_another_axis_is_seen() -> None:
    x = np.geomspace(1.0, 1e4, 9)
    rows = {(row["x"], row["y"]): row for row in axes(x, 0.1 + 0.8 * x / 1e4)}
    assert rows["linear", "linear"]["r2"] == pytest.approx(1.0)
    assert rows["log", "linear"]["r2"] < 0.6
    # y = x: on a log axis most of the rise lies in the last tenth of it (0.4 decades hold 60 %)
    assert rows["log", "linear"]["steepest_tenth"] == pytest.approx(0.4 / 0.5 * 0.684, rel=0.02)
    assert rows["linear", "linear"]["steepest_tenth"] == pytest.approx(0.1, rel=1e-6)


def test_metric_transforms() -> None:
    np.testing.assert_allclose(per_token_score([0.0, 0.5**4, 1.0], 4), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(above_chance([0.25, 1.0, 0.2], 0.25), [0.0, 1.0, -0.05 / 0.75])
    with pytest.raises(CurveError, match="at least 1 token"):
        per_token_score([0.5], 0.5)
    with pytest.raises(CurveError, match=r"must lie in \[0, 1\)"):
        above_chance([0.5], 1.0)


def test_replicates_and_copies_are_named() -> None:
    x = np.repeat([1.0, 10.0, 100.0, 1000.0], 3)
    y = np.array([0.2, 0.2, 0.21, 0.3, 0.31, 0.29, 0.4, 0.41, 0.39, 0.5, 0.51, 0.49])
    notes = " ".join(curve_answer(x, y, num_replicates=16)["notes"])
    assert "4 of 4 x hold several points" in notes
    assert "1 points repeat another exactly" in notes


@pytest.mark.parametrize(
    ("x", "y", "options", "sentence"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], {"families": ["broken_power"]}, "fewer points than parameters"),
        ([-1, 2, 3, 4], [1, 2, 3, 4], {"families": ["log"]}, r"log: needs x > 0, the smallest x is -1"),
        (
            [1, 2, 3, 4],
            [55, 60, 70, 80],
            {"kind": "accuracy"},
            "row 1 .x = 1. holds 55: divide percentages by 100",
        ),
        ([1, 2, 3, 4], [0.5, 1.2, 0.7, -3], {"kind": "accuracy"}, "it is no share of items"),
        (
            [1, 2, 3, 4],
            [1, 2, 3, 4],
            {"metric": ["em", "em", "bleu", "em"]},
            r"mixed metrics.*em \(3 rows\), bleu",
        ),
        ([5, 5, 5, 5], [1, 2, 3, 4], {}, "all points have the same x"),
        ([1, 2, 3, 4], [1, 2, 3, float("nan")], {}, "y is nan in row 4"),
        ([1, 2, 3, "a"], [1, 2, 3, 4], {}, "x holds something that is not a number"),
        ([1, 2, 3], [1, 2, 3, 4], {}, "3 x but 4 y"),
        ([1, 2, 3, 4], [1, 0, 3, 4], {"kind": "loss"}, "a loss must be above 0, and row 2"),
        ([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], {"num_items": 10}, "call the scores accuracy"),
        ([1, 2, 3, 4], [1, 2, 3, 4], {"families": ["spline"]}, "no curve family named 'spline'"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5.1], {"predict": -1.0}, "cannot predict at x = -1"),
    ],
)
def test_bad_input_gets_a_sentence(
    x: list[Any], y: list[Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CurveError, match=sentence):
        curve_answer(x, y, num_replicates=16, **options)


def test_not_finite_becomes_none() -> None:
    assert judge.clean({"a": [float("nan"), np.float64(2.0)], "b": np.int64(3), "c": np.bool_(True)}) == {
        "a": [None, 2.0],
        "b": 3,
        "c": True,
    }
