"""The noise model: variance, trunk correlation and degrees of freedom from residuals."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.fit.isoflop.noise import Layout, NoiseBatch, estimate_noise

NUM_BUDGETS, NUM_SIZES, NUM_SEEDS = 4, 5, 3
SD = 0.014


def _layout(num: int, shared: bool) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Points of a sweep (budget slowest), their trunks, and the residual maker of a parabola per budget."""
    budget, size, seed = (a.ravel() for a in np.indices((NUM_BUDGETS, NUM_SIZES, NUM_SEEDS)))
    trunk = size * NUM_SEEDS + seed if shared else np.arange(len(budget))
    of_budget = (budget[:, None] == np.arange(NUM_BUDGETS)).astype(float)
    cell = budget * NUM_SIZES + size
    of_cell = (cell[:, None] == np.arange(NUM_BUDGETS * NUM_SIZES)).astype(float)
    x = size - 2.0
    columns = [of_budget[:, k] * x**power for k in range(NUM_BUDGETS) for power in range(3)]
    basis = np.stack(columns, axis=1)
    maker = np.eye(len(budget)) - basis @ np.linalg.inv(basis.T @ basis) @ basis.T
    same = (trunk[:, None] == trunk[None, :]).astype(float)
    return Layout(same, of_budget, of_cell, np.ones((num, len(budget)))), trunk, maker


def _estimate(
    num: int,
    rho: float,
    *,
    shared: bool = True,
    size_error: float = 0.0,
    by_budget: tuple[float, ...] = (1, 1, 1, 1),
) -> NoiseBatch:
    generator = np.random.default_rng(7)
    layout, trunk, maker = _layout(num, shared)
    own = generator.standard_normal((num, len(trunk)))
    common = generator.standard_normal((num, trunk.max() + 1))[:, trunk]
    noise = SD * (np.sqrt(rho) * common + np.sqrt(1 - rho) * own) * (layout.of_budget @ np.array(by_budget))
    noise = noise + size_error * generator.standard_normal((num, layout.of_cell.shape[1])) @ layout.of_cell.T
    return estimate_noise(
        noise @ maker,
        np.broadcast_to(maker, (num, *maker.shape)),
        layout,
        pooling_df=8.0,
        lack_of_fit_level=0.05,
    )


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_variance_correlation_and_degrees_of_freedom_are_those_planted(rho: float) -> None:
    num = 2000
    found = _estimate(num, rho)
    plain = ~found.by_sizes
    # 2000 sweeps of about 20 df: standard error of the mean variance 0.7 %; dropping the few sweeps with lack
    # of fit (5 % of them) takes off another 1 %.
    assert found.variance[plain].mean() == pytest.approx(SD**2, rel=0.04)
    # Cut at 0 and 0.95, so that it is biased at the ends: 0.1 covers the cut half of a spread of about 0.15.
    assert found.correlation.mean() == pytest.approx(rho, abs=0.1)
    # The scatter of the estimates themselves says how many degrees of freedom they had: 2 E^2 / Var, which
    # 2000 sweeps give to 3 %; its estimate uses the estimated rho.
    actual = 2 * found.variance[plain].mean() ** 2 / found.variance[plain].var()
    assert np.median(found.df[plain]) == pytest.approx(actual, rel=0.2)


def test_points_of_their_own_have_no_correlation_and_all_degrees_of_freedom() -> None:
    found = _estimate(50, 0.0, shared=False)
    plain = ~found.by_sizes
    assert (found.correlation == 0).all()
    # 60 points, 3 parameters at each of 4 budgets.
    np.testing.assert_allclose(found.df[plain], 48.0, rtol=1e-9)
    np.testing.assert_allclose(found.replicate_df, NUM_BUDGETS * NUM_SIZES * (NUM_SEEDS - 1))


def test_lack_of_fit_is_found_as_often_as_it_says_and_replaces_the_noise() -> None:
    clean, mistuned = _estimate(2000, 0.0, shared=False), _estimate(2000, 0.0, shared=False, size_error=0.02)
    # p-values are uniform without size errors: 5 % of 2000 with a binomial sd of 0.5 %.
    assert clean.by_sizes.mean() == pytest.approx(0.05, abs=0.015)
    assert mistuned.by_sizes.mean() > 0.95
    # Variance of a point such that three of them averaged have the cell's: sd^2 + 3 x 0.02^2.
    assert mistuned.variance[mistuned.by_sizes].mean() == pytest.approx(SD**2 + 3 * 0.02**2, rel=0.1)
    # 8 of 20 cells are left over by 12 parameters.
    assert np.median(mistuned.df[mistuned.by_sizes]) == pytest.approx(8.0, rel=0.01)
    np.testing.assert_allclose(np.sqrt(mistuned.replicate_variance.mean()), SD, rtol=0.02)


def test_each_budget_s_noise_is_moved_part_of_the_way_from_the_pooled() -> None:
    planted = (2.0, 1.0, 1.0, 0.5)
    found = _estimate(1000, 0.0, shared=False, by_budget=planted)
    pooled = np.sqrt(np.mean(np.square(planted)))
    relative = np.array(planted) / pooled
    # 12 degrees of freedom of its own against a weight of 8: in variance, 12/20 of the way.
    expected = np.sqrt((8 + 12 * relative**2) / 20)
    plain = ~found.by_sizes
    np.testing.assert_allclose(np.sqrt((found.relative_sd[plain] ** 2).mean(0)), expected, rtol=0.03)
    assert (found.df_budget <= found.df[:, None] + 1e-9).all()
