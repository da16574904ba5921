"""Widths learned from known halves, misfits carried on, and curves of best values seen through."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.fit.curves.best_so_far import hidden_noise
from isoflop.fit.curves.loss_calibration import calibrate
from isoflop.fit.curves.loss_forecast import WIDTH, Kind, fit_shapes, forecast_losses
from isoflop.fit.curves.loss_misfit import Linearised, carry_misfit

pytestmark = pytest.mark.slow

X = np.geomspace(1e6, 1e9, 24)


def smooth_curves(num: int, sigma: float, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Power laws with offset."""
    return [
        (X, (rng.uniform(0.1, 0.5) + 40 * X**-0.3) * np.exp(sigma * rng.normal(size=len(X))))
        for _ in range(num)
    ]


def best_curve(sigma: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, best so far, mean) of a power law measured at 400 even steps, kept at 40 of them."""
    x = 1e6 * np.arange(1.0, 401)
    mean = 300 * x**-0.3
    measured = mean * np.exp(sigma * np.random.default_rng(seed).normal(size=len(x)))
    kept = np.unique(np.round(np.geomspace(1, 400, 60))).astype(int) - 1
    return x[kept], np.minimum.accumulate(measured)[kept], mean[kept]


def test_smooth_curves_narrow_the_intervals_and_erratic_ones_widen_them() -> None:
    rng = np.random.default_rng(0)
    smooth = calibrate(smooth_curves(8, 0.003, rng))
    turning = [
        (x, y * np.where(x > rng.uniform(6e8, 9e8), 1.4, 1.0)) for x, y in smooth_curves(8, 0.003, rng)
    ]
    erratic = calibrate(turning)
    assert smooth.num_backtests == erratic.num_backtests == 8
    assert smooth.kind.width < WIDTH < erratic.kind.width
    assert smooth.coverage90 is not None
    assert erratic.coverage90 is not None
    assert erratic.coverage90 < smooth.coverage90


def test_without_a_curve_to_cut_the_usual_width_stays() -> None:
    found = calibrate([(X[:4], X[:4] ** -0.1)])
    assert (found.kind, found.num_backtests, found.coverage90, found.error) == (Kind(), 0, None, None)
    with pytest.raises(ValueError, match="above 1"):
        calibrate([(X, X**-0.1)], ahead=1.0)


def test_what_curves_share_helps_one_that_is_cut_early() -> None:
    """Curves with one exponent and one share of what cannot be reduced; a new one is known up to a sixth."""
    rng = np.random.default_rng(4)

    def one(sigma: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        level = rng.uniform(0.5, 2.0)
        return X, level * (0.3 + 300 * X**-0.45) * np.exp(sigma * rng.normal(size=len(X)))

    kind = calibrate([one() for _ in range(12)]).kind
    assert set(kind.shapes) == {fit.law for fit in fit_shapes(*one())}
    error = {"usual": [], "learned": []}
    for _ in range(8):
        x, y = one()
        for name, given in (("usual", Kind()), ("learned", kind)):
            found = forecast_losses(x[:14], y[:14], x[14:], kind=given)
            error[name].append(float(np.sqrt(np.mean((found.centre - np.log(y[14:])) ** 2))))
    assert np.mean(error["learned"]) < np.mean(error["usual"])


def test_width_scales_the_interval() -> None:
    y = 40 * X**-0.3 * np.exp(0.004 * np.random.default_rng(1).normal(size=len(X)))
    one, two = (forecast_losses(X, y, [2e9], kind=Kind(width=w)) for w in (0.5, 1.0))
    np.testing.assert_allclose(two.scale, 2 * one.scale)
    np.testing.assert_allclose(two.centre, one.centre)


def test_noise_behind_best_values_is_found() -> None:
    for sigma in (0.005, 0.02):
        found = [hidden_noise(*best_curve(sigma, seed)[:2], known=True) for seed in range(6)]
        noise = np.array([f.noise for f in found if f is not None])
        assert len(noise) == 6
        # A level is known to about one step of its grid, a factor of 1.6, for one curve; six share a mean.
        assert np.exp(np.log(noise).mean()) == pytest.approx(sigma, rel=0.5)


def test_a_measurement_is_forecast_above_the_best_so_far() -> None:
    miss = {True: [], False: []}
    for seed in range(6):
        x, y, _ = best_curve(0.02, seed)
        for measured in miss:
            found = forecast_losses(x, y, [6e8], measured=measured)
            miss[measured].append(found.centre[0] - np.log(300 * 6e8**-0.3))
    # Best values lie some two noise levels below the mean, and less than one is left of that.
    assert np.mean(miss[False]) < -0.025
    assert abs(np.mean(miss[True])) < 0.02


def test_what_is_not_a_curve_of_best_values() -> None:
    x, y, mean = best_curve(0.01, 0)
    assert hidden_noise(x, mean) is None  # falls at every step
    assert hidden_noise(x, mean, known=True) is not None
    assert hidden_noise(x, y[::-1], known=True) is None  # rises
    assert hidden_noise(x[:5], np.full(5, 2.0)) is None  # too short to tell


def test_a_curve_that_a_law_misses_is_followed_where_the_data_end() -> None:
    u = np.linspace(-3, 3, 40)
    law = Linearised(
        residual=0.05 * np.sin(u) + 0.001 * np.random.default_rng(2).normal(size=len(u)),
        gradient=np.ones((40, 1)),
        gradient_new=np.ones((3, 1)),
        from_prior=np.zeros(1),
        prior_sd=np.array([1.0]),
    )
    near, further, far = (carry_misfit(law, u, np.ones(40), np.array([3.05, 4.0, 60.0])).shift).tolist()
    assert near == pytest.approx(0.05 * np.sin(3.05), abs=0.004)  # four noise levels
    assert far == pytest.approx(0.0, abs=1e-6)  # forgotten
    assert abs(further) < 0.05
    variance = carry_misfit(law, u, np.ones(40), np.array([3.05, 4.0, 60.0])).variance
    assert np.all(np.diff(variance) > 0)


def test_correlated_misfit_is_evidence_only_where_there_is_one() -> None:
    """White residuals: the law's own evidence is within a few units of independent noise's."""
    u = np.linspace(-3, 3, 30)
    rng = np.random.default_rng(3)
    white = Linearised(
        0.006 * rng.normal(size=30), np.ones((30, 1)), np.ones((1, 1)), np.zeros(1), np.ones(1)
    )
    wavy = Linearised(
        white.residual + 0.05 * np.sin(2 * u), np.ones((30, 1)), np.ones((1, 1)), np.zeros(1), np.ones(1)
    )
    found = [carry_misfit(law, u, np.ones(30), np.array([3.5])) for law in (white, wavy)]
    assert found[0].log_evidence > found[1].log_evidence + 10
    assert found[0].variance[0] < found[1].variance[0]
