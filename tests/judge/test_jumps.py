"""Steepest parts by hand, resampled seeds, and tables for small multiples that hold no point unless asked to."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.judge.curves import curve_answer
from isoflop.judge.jumps import (
    FAMILIES,
    Judged,
    applicable,
    counts,
    panels_table,
    steepest_draws,
    steepest_tenth,
)
from isoflop.laws import curves
from isoflop.laws.curves import CurveError

pytestmark = pytest.mark.slow

SIZES = np.geomspace(1e6, 1e10, 12)


@pytest.fixture(scope="module")
def planted() -> dict[str, Judged]:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(2, 12))
    scores = {
        "line": 0.2 + 0.06 * np.log(SIZES / SIZES[0]) + noise[0],
        "jump": curves.logistic(SIZES, 0.1, 0.9, 1e8, 4.0) + noise[1],
    }
    return {
        name: Judged(name, "score", curve_answer(SIZES, y, families=applicable(y), num_replicates=10))
        for name, y in scores.items()
    }


def test_a_planted_jump_is_told_from_a_planted_line(planted: dict[str, Judged]) -> None:
    assert planted["jump"].state("sudden") == "yes"
    assert planted["line"].state("sudden") == "no"
    assert counts(list(planted.values())) == {"yes": 1, "no": 1, "cannot tell": 0}
    # A straight line has a tenth in each tenth; the drawn curve's grid has 80 places, so to within 1/50.
    assert planted["line"].steepest == pytest.approx(0.1, abs=0.02)
    assert planted["jump"].steepest > 0.5


def test_steepest_tenth_by_hand() -> None:
    x = np.exp(np.arange(11.0))  # a range of ten, so a tenth is one step
    assert steepest_tenth(x, np.arange(11.0)) == pytest.approx(0.1)
    assert steepest_tenth(x, [0] * 5 + [1] * 6) == pytest.approx(1.0)
    assert steepest_tenth(x, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]) == pytest.approx(0.5)  # up and down again
    assert steepest_tenth(x, [0.3] * 11) == 0.0


def test_resampled_seeds_are_drawn_within_their_size() -> None:
    x = np.exp(np.arange(11.0))
    equal = np.repeat(np.arange(11.0)[:, None], 3, axis=1)
    np.testing.assert_allclose(steepest_draws(x, equal, 20, seed=0), 0.1)
    split = np.stack([np.zeros(11), np.ones(11)], axis=1)  # what differs is the seed alone
    draws = steepest_draws(x, split, 200, seed=0)
    assert len(set(draws.round(6))) > 10
    np.testing.assert_array_equal(draws, steepest_draws(x, split, 200, seed=0))


def test_families_that_cannot_reach_the_ends_are_left_out() -> None:
    assert applicable([0.1, 0.9]) == FAMILIES
    assert set(FAMILIES) - set(applicable([0.0, 0.9])) == {"logit"}
    assert set(FAMILIES) - set(applicable([0.1, 1.0])) == {"logit"}


def test_panels_hold_points_only_when_asked(planted: dict[str, Judged]) -> None:
    items = list(planted.items())
    without = panels_table(items, "made", "made", points=False)
    assert {row[-1] for row in without.rows} <= {"band", "line", "thin"}
    measured = set(np.concatenate([item.answer["drawing"]["points"]["y"] for item in planted.values()]))
    assert not measured & {row[3] for row in without.rows}
    points = [row for row in panels_table(items, "made", "made", points=True).rows if row[-1] == "points"]
    assert {row[3] for row in points} == measured
    for name, item in items:
        line = [(row[2], row[3]) for row in without.rows if row[0] == name and row[-1] == "line"]
        # The curve covers the points' range and nothing beyond.
        assert (line[0][0], line[-1][0]) == pytest.approx((SIZES[0], SIZES[-1]))
        best = item.answer["families"][0]["name"]
        assert {row[1] for row in without.rows if row[0] == name and row[-1] == "line"} == {best}


def test_rivals_and_further_points_are_words(planted: dict[str, Judged]) -> None:
    for item in planted.values():
        assert all(
            family in FAMILIES for family in (part.split()[0] for part in item.rivals.split(", ") if part)
        )
        assert isinstance(item.further_points("changes"), str)


def test_scores_that_are_all_the_same_need_an_error() -> None:
    with pytest.raises(CurveError, match=r"all 12 y are 0\.5, so their noise cannot be learned"):
        curve_answer(SIZES, [0.5] * 12, kind="accuracy")
    known = curve_answer(SIZES, [0.5] * 12, kind="accuracy", num_items=100, num_replicates=4)
    assert known["families"][0]["name"] == "constant"
