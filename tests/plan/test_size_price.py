"""The algebra of a choice of size: closed forms against brute force, and published numbers."""

import numpy as np
import pytest

from isoflop.laws.chinchilla import BESIROGLU, Basin, ChinchillaLaw
from isoflop.plan import price

# Minimum of the Huber objective on Hoffmann's 240 points, five digits: the fit behind the numbers below.
HUBER = ChinchillaLaw(E=1.81723, A=477.83, B=2143.4, alpha=0.34731, beta=0.36717)
MUENNIGHOFF = ChinchillaLaw(
    E=float(np.exp(0.6254804)),
    A=float(np.exp(6.255414)),
    B=float(np.exp(7.3049974)),
    alpha=0.3526596,
    beta=0.3526596,
)
TERRAINS = [
    {},
    {"unique_tokens": 10e9},
    {"serve_tokens": 1e12},
    {"unique_tokens": 10e9, "serve_tokens": 1e12},
]


@pytest.mark.parametrize("limits", TERRAINS)
def test_optimum_and_basin_are_those_of_a_fine_grid(limits: dict[str, float]) -> None:
    terrain = price.Terrain(law=BESIROGLU, flops=1.7e23, **limits)
    grid = np.geomspace(1e8, 1e13, 20_001)  # one step is a factor 1.00058
    losses = terrain.loss(grid)
    best, basin = terrain.optimum(), terrain.basin(0.01)
    assert best.loss <= losses.min() + 1e-12
    inside = grid[losses <= 1.01 * best.loss]
    # The edges lie between the last grid point inside and the next one outside.
    assert inside[0] / 1.0006 < basin.N_lo <= inside[0] * (1 + 1e-9)
    assert inside[-1] * (1 - 1e-9) <= basin.N_hi < inside[-1] * 1.0006
    assert terrain.loss(basin.N_lo) == pytest.approx(1.01 * best.loss, rel=1e-9)


def test_draws_give_what_each_law_gives_alone() -> None:
    rng = np.random.default_rng(1)
    laws = [
        ChinchillaLaw(E=1.8, A=400 * s, B=2000 * s**2, alpha=0.34, beta=0.36)
        for s in rng.uniform(0.8, 1.2, 5)
    ]
    draws = ChinchillaLaw(
        **{n: np.array([getattr(one, n) for one in laws]) for n in ("E", "A", "B", "alpha", "beta")}
    )
    together = price.Terrain(law=draws, flops=1e22, unique_tokens=1e10)
    for row, law in enumerate(laws):
        alone = price.Terrain(law=law, flops=1e22, unique_tokens=1e10)
        assert together.optimum().N[row] == pytest.approx(alone.optimum().N, rel=1e-9)
        assert together.basin(0.01).N_lo[row] == pytest.approx(alone.basin(0.01).N_lo, rel=1e-9)


def test_repetition_reproduces_the_published_losses() -> None:
    # Muennighoff et al. 2023, released code, test values to ten digits.
    assert price.loss(MUENNIGHOFF, 6.34e9, 242e9, 25e9) == pytest.approx(2.2256440890, abs=1e-9)
    assert price.loss(MUENNIGHOFF, 8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075, abs=1e-9)


@pytest.mark.parametrize(("epochs", "worth"), [(2, 0.98), (4, 0.93), (8, 0.83), (16, 0.66), (40, 0.38)])
def test_value_of_repeated_epochs(epochs: float, worth: float) -> None:
    # Half a unit of the last printed digit.
    assert price.saturated(epochs, 1.0, price.R_D) / epochs == pytest.approx(worth, abs=0.005)


def test_unsaturated_inverts_saturated_and_ends_at_its_ceiling() -> None:
    amounts = np.array([0.3, 1.0, 1.5, 7.0, 60.0])
    assert price.unsaturated(price.saturated(amounts, 1.0, 15.0), 1.0, 15.0) == pytest.approx(
        amounts, rel=1e-12
    )
    assert price.unsaturated(16.0, 1.0, 15.0) == np.inf


@pytest.mark.parametrize(
    ("serve", "size", "saved"),
    [(0, 608e9, 0.07), (1e13, 454e9, 0.01), (1e14, 266e9, 0.13), (1e15, 167e9, 0.47)],
)
def test_lifetime_optimum_for_the_loss_of_405b(serve: float, size: float, saved: float) -> None:
    target = HUBER.loss(405e9, 15.6e12)
    best = price.cheapest_for_loss(HUBER, target, serve)
    # The reference sizes are printed to three digits from coefficients with five; alpha's last digit moves
    # the contour by 2e-5 * ln(4e11) / 0.35 = 0.2 %, which leaves half a per cent in all.
    assert abs(best.N / size - 1) < 0.005
    as_built = price.lifetime_flops(HUBER, 405e9, 15.6e12, serve)
    assert 1 - best.total_flops / as_built == pytest.approx(saved, abs=0.005)
    assert HUBER.loss(best.N, best.D) == pytest.approx(target, abs=1e-9)


def test_no_data_helps_a_model_below_90b_to_that_loss() -> None:
    floor = HUBER.smallest_size_for_loss(HUBER.loss(405e9, 15.6e12))
    assert floor == pytest.approx(90e9, rel=0.01)  # printed to one digit, 89.3B


@pytest.mark.parametrize("unique", [None, 5e9])
@pytest.mark.parametrize("serve", [0.0, 1e13])
def test_cheapest_for_loss_is_the_cheapest_on_a_grid(unique: float | None, serve: float) -> None:
    best = price.cheapest_for_loss(BESIROGLU, 2.6, serve, unique)
    grid = np.geomspace(1e7, 1e12, 20_001)
    worth = grid if unique is None else price.saturated(grid, price.size_fed_by(BESIROGLU, unique), price.R_N)
    tokens = BESIROGLU.tokens_for_loss(worth, 2.6)
    tokens = tokens if unique is None else price.unsaturated(tokens, unique, price.R_D)
    totals = price.lifetime_flops(BESIROGLU, grid, tokens, serve)
    # At a minimum, half a grid step (2.9e-4 in log N) costs its square times a curvature of order 1.
    assert best.total_flops <= totals.min() * (1 + 1e-9)
    assert best.total_flops == pytest.approx(totals.min(), rel=1e-6)
    assert price.loss(BESIROGLU, best.N, best.D, unique) == pytest.approx(2.6, abs=1e-9)


def test_a_loss_out_of_reach_of_the_data_is_infinitely_dear() -> None:
    best = price.cheapest_for_loss(BESIROGLU, 1.9, 1e13, 5e9)
    assert np.isinf(best.N)


def test_price_of_65b_at_the_budget_of_405b() -> None:
    best = HUBER.optimum(3.8e25)
    kept = price.compute_kept(HUBER, best.loss, HUBER.loss_at(65e9, 3.8e25))
    assert kept * 3.8e25 == pytest.approx(7.3e24, rel=0.01)  # two printed digits
    assert kept * 3.8e25 == pytest.approx(HUBER.equivalent_compute(HUBER.loss_at(65e9, 3.8e25)), rel=1e-9)


def test_smallest_safe_size_counts_draws() -> None:
    basin = Basin(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 3.5, 12.0, 11.0]))
    # At 3 three draws are inside (the second leaves at 3.5); at 4 three again; never four.
    assert price.smallest_safe_size(basin, 0.75) == (3.0, 0.75, 3.0)
    assert price.smallest_safe_size(basin, 0.5) == (2.0, 0.5, 3.0)
    assert price.smallest_safe_size(basin, 0.9).N is None
    assert price.share_within(basin, 3.6) == 0.5
