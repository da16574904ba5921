"""The families against their published forms, and their derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.laws import curves

X = np.geomspace(3.0, 4000.0, 9)
FAMILIES = list(curves.FAMILIES.values())


def draw(family: curves.Family, seed: int, batch: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u [n], random beta [B, L] and nu [B, K] well inside the bounds."""
    rng = np.random.default_rng(seed)
    u = family.normalise(X, family.reference(X))
    lo, hi = np.full(batch, u.min()), np.full(batch, u.max())
    lower, upper = family.bounds(lo, hi)
    starts = family.starts(lo, hi)
    nu = starts[np.arange(batch), rng.integers(starts.shape[1], size=batch)]
    nu = np.clip(nu + 0.1 * rng.normal(size=nu.shape), lower, upper)
    beta = (
        np.tile(family.fixed_beta, (batch, 1))
        if family.fixed_beta
        else rng.normal(size=(batch, family.num_linear))
    )
    return u, beta, nu


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_coordinates_and_published_form_are_the_same_curve(family: curves.Family) -> None:
    u, beta, nu = draw(family, seed=1)
    if family.name == "shifted_power":
        beta = np.abs(beta)
    x_ref = np.full(len(beta), family.reference(X))
    ours = family.evaluate(u, beta, nu)
    parameters = family.natural(beta, nu, x_ref)
    published = np.array([family.closed_form(X, *row) for row in parameters])
    # Constant and factor cancel where an exponent is small: 1e-9 is about 1e6 roundings of the scale.
    scale = np.abs(parameters).max(axis=1) if family.name != "m4" else np.abs(published).max(axis=1)
    assert np.all(np.abs(ours - published) <= 1e-9 * (np.abs(published).max(axis=1) + scale)[:, None])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_gradient_agrees_with_finite_differences(family: curves.Family) -> None:
    u, beta, nu = draw(family, seed=2)
    y, gradient = family.evaluate_with_gradient(u, beta, nu)
    np.testing.assert_array_equal(y, family.evaluate(u, beta, nu))
    columns = []
    h = 1e-5
    if not family.fixed_beta:
        for index in range(family.num_linear):
            step = h * np.eye(family.num_linear)[index]
            columns.append(
                (family.evaluate(u, beta + step, nu) - family.evaluate(u, beta - step, nu)) / (2 * h)
            )
    for index in range(len(family.coordinates)):
        step = h * np.eye(len(family.coordinates))[index]
        columns.append((family.evaluate(u, beta, nu + step) - family.evaluate(u, beta, nu - step)) / (2 * h))
    numeric = np.stack(columns, axis=-1)
    assert gradient.shape == (6, len(X), family.num_parameters)
    # Central differences err by h^2 f'''/6 + eps f/h: the third derivative by a place or width of a steep
    # curve is up to (rate)^3 ~ 1e5 times f, so 1e-5 * scale; eps f / h adds 1e-11 f.
    scale = np.abs(numeric).max(axis=(1, 2)) + np.abs(y).max(axis=1)
    assert np.all(np.abs(gradient - numeric) <= 1e-5 * scale[:, None, None])


def test_growth_is_smooth_through_exponent_zero() -> None:
    u = np.array([-3.0, 0.5, 4.0])
    at_zero, slope_at_zero = curves.growth(u, np.array(0.0))
    np.testing.assert_array_equal(at_zero, u)
    np.testing.assert_array_equal(slope_at_zero, u**2 / 2)
    for b in (9e-5 / 4, 1.1e-4 / 4):  # either side of the switch between series and closed form
        value, slope = curves.growth(u, np.array(b))
        np.testing.assert_allclose(
            value, u * (1 + b * u / 2 + (b * u) ** 2 / 6 + (b * u) ** 3 / 24), rtol=1e-13
        )
        # The closed form of the slope loses eps / (b u)^2 ~ 1e-16 / 1e-10 of its digits near the switch.
        np.testing.assert_allclose(slope, u**2 * (0.5 + b * u / 3 + (b * u) ** 2 / 8), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 3.0, 20.0])
def test_m4_fraction_solves_its_equation(alpha: float) -> None:
    eta = np.linspace(-60, 60, 241)
    t = curves.m4_fraction(eta, np.array(alpha))
    inside = (t > 1e-12) & (t < 1 - 1e-9)  # further out 1 - t itself carries too few digits to check with
    assert inside.sum() > 10
    left = np.log(t[inside]) - alpha * np.log1p(-t[inside])
    # d left = alpha eps / (1 - t) <= 20 * 2e-16 / 1e-9
    np.testing.assert_allclose(left, eta[inside], atol=5e-6)
    assert np.all(np.diff(t) >= 0)


def test_m4_with_alpha_one_is_the_logistic() -> None:
    x50, k = 80.0, 1.3
    ours = curves.m4(X, 0.2, 0.9, x50**k, -k, 1.0)
    np.testing.assert_allclose(ours, curves.logistic(X, 0.9, 0.2, x50, k), rtol=1e-12)


def test_a_family_of_log_x_refuses_x_that_is_not_positive() -> None:
    with pytest.raises(curves.CurveError, match=r"needs x > 0, and the data hold x = -3; .*linear"):
        curves.find("power").reference(np.array([-3.0, 1.0]))
    assert curves.find("linear").reference(np.array([-3.0, 1.0])) == 3.0


def test_an_unknown_family_lists_those_there_are() -> None:
    with pytest.raises(curves.CurveError, match=r"'spline'; there are: constant, linear"):
        curves.find("spline")


def test_traits_are_explained() -> None:
    assert {trait for family in FAMILIES for trait in family.traits} == set(curves.TRAITS)
