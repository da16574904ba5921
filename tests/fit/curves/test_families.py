"""The batched fit: planted truths, agreement with SciPy, and a certificate that means something."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.fit.curves.families import bootstrap, fit_curve, fit_curves, residual_sigma
from isoflop.laws import curves

X = np.geomspace(10.0, 1e5, 24)
# One planted truth each, in published parameters, with all its features inside the data.
PLANTED = {
    "constant": (0.7,),
    "linear": (2.0, -1e-5),
    "log": (0.1, 0.05),
    "quadratic": (1.0, -2e-5, 1.5e-10),
    "cubic": (1.0, -2e-5, 3e-10, -1e-15),
    "power": (4.0, -0.11),
    "power_offset": (1.7, 9.0, -0.4),
    "shifted_power": (3.0, 2e-3, 0.3),
    "exponential": (0.3, 0.5, -4e-5),
    "logit": (900.0, 0.6),
    "logistic": (0.25, 0.9, 1000.0, 1.5),
    "m4": (0.2, 0.95, 60.0, -0.8, 0.6),
    "broken_power": (0.2, 3.0, 0.1, 0.5, 700.0, 0.3),
    "double_descent": (0.3, 2.0, -0.4, 0.25, 1500.0, 0.5),
}


def test_every_family_is_planted() -> None:
    assert set(PLANTED) == set(curves.FAMILIES)


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("relative", [False, True])
def test_planted_curve_is_found_without_noise(name: str, relative: bool) -> None:
    truth = curves.find(name).closed_form(X, *PLANTED[name])
    fits = fit_curves(X, truth, name, relative=relative, num_starts=8, max_steps=500)
    # The objective at the truth is rounding alone; a certified fit lies in that valley.
    np.testing.assert_allclose(fits.predict(X)[0], truth, rtol=1e-6)
    # Parameters of a 6-parameter form amplify the 1e-6 of the curve by up to its condition number, ~1e3.
    np.testing.assert_allclose(fits.parameters[0], PLANTED[name], rtol=2e-3)


@pytest.mark.parametrize("name", ["power_offset", "logistic", "m4", "exponential"])
def test_agrees_with_scipy(name: str) -> None:
    from scipy.optimize import least_squares

    family = curves.find(name)
    rng = np.random.default_rng(3)
    y = family.closed_form(X, *PLANTED[name]) + 0.01 * rng.normal(size=len(X))
    ours = fit_curves(X, y, name, num_starts=8, max_steps=500)
    assert ours.certified[0]

    def residual(theta: np.ndarray) -> np.ndarray:
        return family.closed_form(X, *theta) - y

    theirs = least_squares(
        residual, PLANTED[name], x_scale=np.abs(PLANTED[name]), xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    # SciPy starts at the truth, in the same valley; both stop when the objective is flat to 1e-12 or so.
    assert ours.objective[0] <= 2 * theirs.cost * (1 + 1e-9)


def test_a_batch_is_the_same_as_one_by_one_and_zero_weight_is_leaving_out() -> None:
    rng = np.random.default_rng(4)
    truth = curves.power_offset(X, *PLANTED["power_offset"])
    y = truth + 0.02 * rng.normal(size=(3, len(X)))
    weights = np.ones((3, len(X)))
    weights[1, -5:] = 0
    batch = fit_curves(X, y, "power_offset", weights=weights)
    for index, keep in ((0, slice(None)), (1, slice(0, -5)), (2, slice(None))):
        single = fit_curves(X[keep], y[index][keep], "power_offset")
        np.testing.assert_allclose(batch.objective[index], single.objective[0], rtol=1e-10)
        np.testing.assert_allclose(batch.predict(X)[index], single.predict(X)[0], rtol=1e-5)
    assert list(batch.num_points) == [24, 19, 24]


def test_units_of_x_do_not_matter() -> None:
    y = curves.logistic(X, *PLANTED["logistic"]) + 0.01 * np.sin(7 * X)
    one, other = fit_curves(X, y, "logistic"), fit_curves(X * 1e9, y, "logistic")
    np.testing.assert_allclose(one.objective, other.objective, rtol=1e-9)
    np.testing.assert_allclose(other.parameters[0, 2], one.parameters[0, 2] * 1e9, rtol=1e-5)


def test_certificate_fails_when_stopped_half_way() -> None:
    rng = np.random.default_rng(5)
    y = curves.m4(X, *PLANTED["m4"]) + 0.01 * rng.normal(size=len(X))
    early = fit_curves(X, y, "m4", max_steps=1)
    done = fit_curves(X, y, "m4", num_starts=8, max_steps=500)
    assert not early.certified[0]
    assert early.scaled_gradient[0] > 1e-6
    assert done.certified[0]
    assert done.objective[0] < early.objective[0]


def test_gap_is_seen_when_the_first_starts_miss_the_best_valley() -> None:
    # One grid start, two valleys: the bump can sit on either of two equal humps, one a little higher.
    y = (
        0.5
        + 0.2 * np.exp(-((np.log(X / 100) / 0.3) ** 2) / 2)
        + 0.24 * np.exp(-((np.log(X / 2e4) / 0.12) ** 2) / 2)
    )
    gaps = [
        fit_curves(X, y, "double_descent", num_starts=1, num_checks=12, seed=s).multistart_gap[0]
        for s in range(3)
    ]
    full = fit_curves(X, y, "double_descent", num_starts=30, num_checks=0, max_steps=500)
    poor = fit_curves(X, y, "double_descent", num_starts=1, num_checks=0, max_steps=500)
    assert poor.objective[0] >= full.objective[0]
    assert max(gaps) > 1e-6


def test_a_parameter_that_the_data_do_not_hold_is_said() -> None:
    fit = fit_curve(X, np.where(X < 1000, 0.2, 0.8), "logistic")  # a step: its steepness has no upper limit
    assert not fit.identified
    assert "bound" in (fit.not_identified or "")


@pytest.mark.slow
def test_bootstrap_intervals_cover_at_their_level() -> None:
    rng = np.random.default_rng(6)
    truth = PLANTED["power_offset"]
    hits = 0
    num = 120
    for index in range(num):
        y = curves.power_offset(X, *truth) + 0.05 * rng.normal(size=len(X))
        estimate = fit_curve(X, y, "power_offset", seed=index).estimates["b"]
        assert estimate.lo is not None
        assert estimate.hi is not None
        hits += estimate.lo <= truth[2] <= estimate.hi
    # 95 % nominal; a percentile interval of a curved parameter at n = 24 loses a few points. Binomial sd is
    # 0.02, so 0.86 is 0.95 less three of them and three points of known bias.
    assert hits / num >= 0.86


def test_bootstrap_spreads_as_much_as_the_noise() -> None:
    fits = fit_curves(X, curves.logarithm(X, *PLANTED["log"]), "log")
    draws = bootstrap(fits, X, np.array([0.1]), 400)
    # Slope of a straight line: sd = sigma / sqrt(sum (t - mean t)^2); 400 draws give it to 1/sqrt(800) = 3.5 %.
    t = np.log(X)
    expected = 0.1 / np.sqrt(np.sum((t - t.mean()) ** 2))
    assert draws.parameters[:, 1].std() == pytest.approx(expected, rel=0.15)


def test_sigma_is_estimated_from_degrees_of_freedom() -> None:
    fits = fit_curves(np.arange(1.0, 4), np.array([1.0, 2.0, 4.0]), "linear")
    # residuals (1, -2, 1)/6: sum of squares 1/6, one degree of freedom
    np.testing.assert_allclose(residual_sigma(fits), [[np.sqrt(1 / 6)]], rtol=1e-9)
    exact = fit_curves(np.arange(1.0, 3), np.array([1.0, 2.0]), "linear")
    assert np.isnan(residual_sigma(exact)).all()


def test_bad_input_is_refused_with_a_sentence() -> None:
    with pytest.raises(curves.CurveError, match="6 parameters and the data have 4 distinct x: fewer points"):
        fit_curve(X[:4], X[:4], "broken_power")
    with pytest.raises(curves.CurveError, match="relative residuals need y > 0"):
        fit_curves(X, X - 100, "power", relative=True)
    with pytest.raises(curves.CurveError, match="must be finite"):
        fit_curves(X, np.full(len(X), np.nan), "linear")
    with pytest.raises(curves.CurveError, match="must not be negative"):
        fit_curves(X, X, "linear", weights=-np.ones(len(X)))


def test_the_linear_part_can_be_bounded() -> None:
    y = 2.0 - 0.3 * np.log(X)  # a straight line in log x: without a bound M4 puts its lower limit far below 0
    free = fit_curves(X, y, "m4", num_starts=8, max_steps=300)
    bounded = fit_curves(X, y, "m4", num_starts=8, max_steps=300, beta_lower=(0.0, -np.inf))
    assert free.parameters[0, 0] < 0
    assert bounded.parameters[0, 0] >= 0
    assert bounded.objective[0] > free.objective[0]
