"""Schedules at the steps where they turn, exactly."""

from __future__ import annotations

import math

import pytest

from isoflop.records import ScheduleSpec
from isoflop.train.schedule import check, fraction


def spec(kind: str, **changes: object) -> ScheduleSpec:
    return ScheduleSpec(**{"kind": kind, "warmup_steps": 10, "num_steps": 110, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_climbs_from_one_step_to_the_peak(kind: str) -> None:
    assert [fraction(spec(kind), step) for step in (0, 4, 9)] == [1 / 11, 5 / 11, 10 / 11]
    assert fraction(spec(kind), 10) == 1.0


def test_constant_and_trunk_stay_at_the_peak() -> None:
    assert {fraction(spec("constant"), step) for step in (10, 60, 109, 500)} == {1.0}
    assert {fraction(spec("wsd"), step) for step in (10, 60, 109, 500)} == {1.0}


def test_linear_ends_at_the_final_fraction() -> None:
    assert [fraction(spec("linear"), step) for step in (35, 60, 110, 200)] == [0.75, 0.5, 0.0, 0.0]
    assert fraction(spec("linear", final_fraction=0.2), 60) == pytest.approx(0.6, abs=1e-15)  # one rounding


def test_cosine_is_half_a_period() -> None:
    assert fraction(spec("cosine"), 60) == pytest.approx(0.5, abs=1e-15)
    assert fraction(spec("cosine"), 35) == pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-15)
    assert fraction(spec("cosine", final_fraction=0.1), 110) == pytest.approx(0.1, abs=1e-15)


def test_cooldown_is_linear_from_its_start() -> None:
    cooled = spec("wsd", decay_start_step=70)
    assert [fraction(cooled, step) for step in (69, 70, 80, 90, 110)] == [1.0, 1.0, 0.75, 0.5, 0.0]


def test_a_branch_follows_its_trunk_up_to_the_cooldown() -> None:
    trunk, branch = spec("wsd"), spec("wsd", decay_start_step=70)
    assert [fraction(trunk, step) for step in range(70)] == [fraction(branch, step) for step in range(70)]


def test_the_large_runs_rule() -> None:
    """Warm-up over 500 steps, then linear to zero at 500,000: the values that the public run logged."""
    large = ScheduleSpec(kind="linear", warmup_steps=500, num_steps=500_000)
    # Peak 3e-5; tabulated to 4 digits.
    for step, rate in ((0, 5.988e-8), (499, 2.994e-5), (500, 3e-5), (73_500, 2.5616e-5), (500_000, 0.0)):
        assert 3e-5 * fraction(large, step) == pytest.approx(rate, rel=5e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "empty"),
        ({"final_fraction": 1.5}, "between 0 and 1"),
        ({"decay_start_step": 5}, "outside warm-up"),
        ({"decay_start_step": 111}, "outside warm-up"),
    ],
)
def test_what_cannot_be_followed_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(spec("wsd", **changes))
