"""The noise model recovers planted spreads and correlations, and its promises about cutting runs hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from isoflop.fit.compare import seed_noise

FRACTIONS = (0.25, 0.7, 0.9)
PLANTED = {0.25: (0.004, 0.3), 0.7: (0.002, 0.9), 0.9: (0.0012, 0.99)}
FINAL_SD = 0.0011


def planted(rng: np.random.Generator, num_groups: int, num_seeds: int):
    """Groups of curves with planted spreads and correlations, and means far apart."""
    curves, finals = [], []
    for _ in range(num_groups):
        level = rng.uniform(3.0, 4.0)
        end = rng.standard_normal(num_seeds)
        columns = []
        for fraction in FRACTIONS:
            sd, rho = PLANTED[fraction]
            own = rng.standard_normal(num_seeds)
            columns.append(level + 1 - fraction + sd * (rho * end + math.sqrt(1 - rho**2) * own))
        curves.append(np.stack(columns, axis=1))
        finals.append(level + FINAL_SD * end)
    return curves, finals


def test_planted_noise_is_recovered():
    noise = seed_noise.learn(*planted(np.random.default_rng(0), 60, 6), FRACTIONS)
    assert (noise.final.df, noise.final.num_runs, noise.final.num_groups) == (300, 360, 60)
    # A standard deviation from 300 degrees of freedom has a relative error of 1/sqrt(600) = 4 %; four of them.
    assert noise.final.sd == pytest.approx(FINAL_SD, rel=0.16)
    assert noise.final.lo < noise.final.sd < noise.final.hi
    for fraction, (sd, rho) in PLANTED.items():
        entry = noise.at(fraction)
        assert entry.sd == pytest.approx(sd, rel=0.16)
        # Fisher's error is 1/sqrt(298) = 0.058 on the atanh scale; four of them.
        assert math.atanh(entry.correlation) == pytest.approx(math.atanh(rho), abs=0.23)


def test_levels_of_configurations_are_no_predictability():
    rng = np.random.default_rng(1)
    finals = [level + 0.001 * rng.standard_normal(5) for level in (3.0, 3.5, 4.0) * 10]
    curves = [np.mean(end) + 0.001 * rng.standard_normal((5, 1)) for end in finals]
    entry = seed_noise.learn(curves, finals, (0.5,)).part_way[0]
    assert abs(entry.correlation) < 0.4  # 120 degrees of freedom: four times 0.09; without centring it is 1


def test_intervals_cover_their_truth():
    rng = np.random.default_rng(2)
    spread = correlation = 0
    for _ in range(400):
        noise = seed_noise.learn(*planted(rng, 6, 4), FRACTIONS)
        spread += noise.final.lo <= FINAL_SD <= noise.final.hi
        entry = noise.at(0.7)
        assert entry.lo is not None
        assert entry.hi is not None
        correlation += entry.lo <= 0.9 <= entry.hi
    # 400 draws at 95 %: standard error 1.1 points, four of them.
    assert spread / 400 == pytest.approx(0.95, abs=0.044)
    assert correlation / 400 == pytest.approx(0.95, abs=0.044)


def test_unequal_spreads_are_noticed():
    rng = np.random.default_rng(3)
    same = [rng.normal(3, 0.001, 8) for _ in range(10)]
    mixed = [rng.normal(3, 0.001 if k % 2 else 0.01, 8) for k in range(10)]
    even, uneven = seed_noise.pool_spread(same).homogeneity_p, seed_noise.pool_spread(mixed).homogeneity_p
    assert even is not None
    assert uneven is not None
    assert even > 0.01 > 1e-4 > uneven
    assert seed_noise.pool_spread([[3.0, 3.1]]).homogeneity_p is None


def test_cutting_by_the_gap_errs_as_often_as_it_says():
    rng = np.random.default_rng(4)
    noise = seed_noise.learn(*planted(rng, 400, 6), FRACTIONS)
    gap = seed_noise.gap_to_cut(noise, 0.7, chance=0.05)
    assert seed_noise.overtake_chance(noise, 0.7, gap) == pytest.approx(0.05)
    # Two runs whose gap at 70 % is exactly `gap`, nothing known about the configurations beforehand: the end
    # differs from it by the change of both noises.
    sd, rho = PLANTED[0.7]
    end = rng.standard_normal((2, 100_000))
    part = rho * end + math.sqrt(1 - rho**2) * rng.standard_normal((2, 100_000))
    change = FINAL_SD * (end[1] - end[0]) - sd * (part[1] - part[0])
    # Error of the share 0.07 points, and of the learned gap 2 %, worth 0.2 points.
    assert float((gap + change < 0).mean()) == pytest.approx(0.05, abs=0.008)
    assert seed_noise.gap_to_cut(noise, 0.9) < seed_noise.gap_to_cut(noise, 0.25)


def test_curves_are_interpolated_and_never_extrapolated():
    found = seed_noise.loss_at_fractions([10, 20, 40], [5.0, 4.0, 3.0], 50, (0.1, 0.2, 0.6, 0.9))
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(5.0)
    assert found[2] == pytest.approx(3.5)
    assert math.isnan(found[3])


def test_plans_use_the_noise_and_its_degrees_of_freedom():
    noise = seed_noise.learn(*planted(np.random.default_rng(5), 60, 6), FRACTIONS)
    found = seed_noise.plan_seeds(noise, 1.45 * noise.final.sd)
    # 2 (1.96 + 0.84)^2 / 1.45^2 = 7.5, a little more with 300 degrees of freedom instead of infinitely many
    assert found.seeds == 8
    plan = seed_noise.plan_looks(noise, 1.45 * noise.final.sd)
    assert plan.noise_df == noise.final.df
    assert plan.power is not None
    assert plan.power >= 0.8
    drift = 1.45 / math.sqrt(2 / plan.looks[-1])
    assert plan.power <= stats.norm.sf(1.96 - drift) + 0.01  # looking early never adds power


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seed_noise.pool_spread([[3.0], [3.1]]), "train a second seed"),
        (lambda: seed_noise.pool_spread([[3.0, 3.0]]), "copies of one run"),
        (lambda: seed_noise.pool_spread([[3.0, math.nan]]), "finite losses"),
        (lambda: seed_noise.learn([[[1.0]]], []), "1 groups of curves"),
        (lambda: seed_noise.learn([[[1.0], [2.0]]], [[3.0, 3.1, 3.2]], (0.5,)), "shape"),
        (lambda: seed_noise.learn([[[math.nan], [2.0]]], [[3.0, 3.1]], (0.5,)), "no number at fraction 0.5"),
        (lambda: seed_noise.loss_at_fractions([1], [2.0], 10), "two rows"),
        (lambda: seed_noise.loss_at_fractions([2, 1], [2.0, 3.0], 10), "must increase"),
    ],
)
def test_wrong_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_fractions_are_named():
    noise = seed_noise.learn(*planted(np.random.default_rng(6), 3, 3), FRACTIONS)
    with pytest.raises(ValueError, match=r"there is 0\.25, 0\.7, 0\.9"):
        noise.at(0.33)
