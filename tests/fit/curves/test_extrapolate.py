"""Forecasts as distributions: intervals that cover, odds that add up."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.fit.curves import extrapolate, select
from isoflop.laws import curves
from isoflop.laws.curves import CurveError

X = np.geomspace(1.0, 1000.0, 12)


def line(
    sigma: float = 0.01, seed: int = 0, families: tuple[str, ...] = ("linear", "log", "power")
) -> select.Selection:
    rng = np.random.default_rng(seed)
    return select.compare_families(
        X, 0.2 + 0.06 * np.log(X) + sigma * rng.normal(size=12), families=families, predictive=False
    )


def test_interval_of_a_straight_line_is_the_textbook_one() -> None:
    selection = line(families=("log",))
    lo, middle, hi = extrapolate.forecast(selection, num_draws=4000).interval([4000.0])[:, 0]
    # Prediction interval of linear regression: t(10) sqrt(s^2 (1 + h)), h the leverage at the new x.
    from scipy.stats import t

    u = np.log(X)
    leverage = 1 / 12 + (np.log(4000.0) - u.mean()) ** 2 / np.sum((u - u.mean()) ** 2)
    half = t.ppf(0.95, 10) * selection.best.sigma * np.sqrt(1 + leverage)
    # 4000 draws give a 5 % quantile to about 2.5 % of the width; three of those.
    assert (hi - lo) / 2 == pytest.approx(half, rel=0.08)
    assert middle == pytest.approx(selection.best.fits.predict([4000.0])[0, 0], abs=0.1 * half)


def test_weights_keep_a_share_of_doubt_and_leave_out_the_excluded() -> None:
    weights = extrapolate.forecast_weights(line(families=("log", "power_offset", "linear", "constant")))
    assert sum(weights.values()) == pytest.approx(1.0)
    assert "constant" not in weights
    assert min(weights.values()) >= extrapolate.DOUBT / 4


def test_when_a_line_reaches_a_value() -> None:
    selection = line(sigma=1e-4, families=("log",))
    found = extrapolate.when(extrapolate.forecast(selection), 0.9)
    truth = np.exp(0.7 / 0.06)
    assert found.rising
    assert found.ever == 1.0
    middle = found.quantile(0.5)
    assert middle is not None
    assert middle == pytest.approx(truth, rel=0.1)  # the grid of 600 steps over 9 decades has steps of 3.5 %
    assert found.by(truth / 3) == 0.0
    assert found.by(truth * 3) == 1.0
    assert found.quantile(0.05) <= middle <= found.quantile(0.95)


def test_never_is_an_answer() -> None:
    rng = np.random.default_rng(1)
    y = curves.power_offset(X, 0.8, -0.6, -0.5) + 0.005 * rng.normal(size=12)
    selection = select.compare_families(X, y, families=("power_offset", "log"), predictive=False)
    found = extrapolate.when(extrapolate.forecast(selection), 0.95)
    assert found.ever < 0.1
    assert found.quantile(0.5) is None
    falling = extrapolate.when(extrapolate.forecast(selection), 0.3)
    assert not falling.rising
    assert falling.by(1.0) > 0.5  # already so at the first x


def test_relative_noise_stays_positive() -> None:
    rng = np.random.default_rng(2)
    y = 3.0 * X**-0.3 * np.exp(0.05 * rng.normal(size=12))
    selection = select.compare_families(X, y, families=("power",), relative=True, predictive=False)
    lo, _, hi = extrapolate.forecast(selection).interval([1e5])[:, 0]
    assert 0 < lo < 3.0 * 1e5**-0.3 < hi


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(CurveError, match="finite"):
        extrapolate.when(extrapolate.forecast(line()), float("nan"))


PLANTED = {
    "log": (0.2, 0.05),
    "power": (0.1, 0.2),
    "power_offset": (0.9, -0.7, -0.3),
    "logistic": (0.1, 0.8, 50.0, 1.0),
    "m4": (0.9, 0.1, 10.0, -0.7, 1.5),
    "logit": (100.0, 0.5),
}


@pytest.mark.slow
def test_intervals_cover_on_planted_curves() -> None:
    """90 % intervals at 2 to 10 times the largest x, six true families, families to try not told."""
    inside = []
    for index in range(36):
        rng = np.random.default_rng(index)
        name = list(PLANTED)[index % 6]
        family, sigma = curves.find(name), (0.005, 0.01, 0.02)[index % 3]
        y = family.closed_form(X, *PLANTED[name]) + sigma * rng.normal(size=12)
        selection = select.compare_families(X, y, predictive=False)
        places = np.array([2e3, 4e3, 1e4])
        lo, _, hi = extrapolate.forecast(selection, num_draws=200).interval(places)
        new = family.closed_form(places, *PLANTED[name]) + sigma * rng.normal(size=3)
        inside += list((lo <= new) & (new <= hi))
    # 108 intervals, three of a curve correlated: the sd of the share is about sqrt(0.9 0.1 / 60) = 0.04.
    # Nominal 0.90, give or take two of those.
    assert 0.82 <= np.mean(inside) <= 0.98


def test_a_value_just_beyond_the_data_is_dated_where_x_is_not_positive() -> None:
    x = np.linspace(-3.0, 4.0, 8)
    noise = 1e-3 * np.random.default_rng(3).normal(size=8)
    selection = select.compare_families(x, x**2 + noise, families=("quadratic",), predictive=False)
    found = extrapolate.when(extrapolate.forecast(selection, num_draws=200), 30.0)
    # x^2 = 30 at 5.477; the grid's steps there are a fortieth of the distance of 1.5 beyond the data.
    assert found.quantile(0.5) == pytest.approx(np.sqrt(30), abs=0.05)


def test_a_value_amid_falling_data_is_reached_from_above() -> None:
    y = 2 + 20 * X**-0.5
    noise = 1e-3 * np.random.default_rng(4).normal(size=len(X))
    selection = select.compare_families(X, y + noise, families=("power_offset",), predictive=False)
    found = extrapolate.when(extrapolate.forecast(selection, num_draws=200), 15.0)  # above the mean of y
    assert not found.rising
    # 20 x^-0.5 = 13 at x = 2.367; the grid's steps are 3.5 % of x.
    assert found.quantile(0.5) == pytest.approx((20 / 13) ** 2, rel=0.05)
