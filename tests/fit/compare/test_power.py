"""Power and planning: against simulation, scipy and published seeds per arm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from isoflop.fit.compare import power


def test_power_is_the_simulated_share_of_rejections():
    rng = np.random.default_rng(1)
    a = rng.normal(0.0, 1.0, size=(40_000, 5))
    b = rng.normal(1.5, 1.0, size=(40_000, 5))
    share = float((stats.ttest_ind(a, b, axis=1).pvalue < 0.05).mean())
    # 40,000 draws near 0.5: standard error 0.0025, so four of them.
    assert power.seeds_power(1.5, 1.0, 5) == pytest.approx(share, abs=0.01)


def test_no_effect_has_power_alpha():
    for df in (None, 3, 40):
        assert power.two_sided_power(0.0, 0.05, df) == pytest.approx(0.05, abs=1e-9)


def test_detectable_difference_has_the_wanted_power():
    for df in (None, 2, 10):
        drift = power.detectable_drift(0.8, 0.05, df)
        assert power.two_sided_power(drift, 0.05, df) == pytest.approx(0.8, abs=1e-9)
    assert power.detectable_drift() == pytest.approx(stats.norm.isf(0.025) + stats.norm.isf(0.2), abs=1e-4)


@pytest.mark.parametrize(("effect", "seeds"), [(0.0008, 31), (0.0016, 8), (0.0048, 1)])
def test_seeds_for_small_gains_of_a_small_language_model(effect, seeds):
    # Seed noise 0.00112 nats with 295 degrees of freedom; 1 % of compute is about 0.0016 nats.
    found = power.seeds_needed(effect, 0.00112, noise_df=295)
    assert found.seeds == seeds
    assert found.power is not None
    assert found.power >= 0.8
    if seeds > 1:
        assert power.seeds_power(effect, 0.00112, seeds - 1, noise_df=295) < 0.8


def test_pairing_saves_what_the_correlation_promises():
    apart = power.seeds_needed(0.1, 1.0, noise_df=math.inf).seeds
    paired = power.seeds_needed(0.1, 1.0, correlation=0.75, noise_df=math.inf).seeds
    assert apart is not None
    assert paired == pytest.approx(apart / 4, abs=1)  # variance 2 (1 - 0.75), rounded up


def test_detectable_effect_inverts_seeds_power():
    effect = power.detectable_effect(0.3, 6)
    assert effect is not None
    assert power.seeds_power(effect, 0.3, 6) == pytest.approx(0.8, abs=1e-9)
    assert power.detectable_effect(0.3, 1) is None
    assert power.seeds_power(5.0, 0.3, 1) == 0.05


def test_items_needed_reproduces_known_benchmarks():
    # With 10 % of the items changing, 14,042 of them see 0.75 points and 1,172 see 2.6 points.
    assert power.items_needed(0.00748, base=0.63, discordance=0.1) == pytest.approx(14_042, rel=0.01)
    assert power.items_needed(0.0259, base=0.51, discordance=0.1) == pytest.approx(1_172, rel=0.01)
    # Different items: 2 p (1 - p) (2.8016 / 0.05)^2 with p halfway.
    assert power.items_needed(0.05, base=0.5) == math.ceil(2 * 0.525 * 0.475 * (2.80158 / 0.05) ** 2)


@pytest.mark.slow
def test_planned_looks_reach_their_power():
    plan = power.plan_looks(1.5, 1.0, num_looks=4)
    assert plan.power is not None
    assert plan.power >= 0.8
    single = power.seeds_needed(1.5, 1.0).seeds
    assert single is not None
    assert single <= plan.looks[-1] <= single + 2  # looking costs little
    assert plan.mean_seeds_null < plan.looks[-1]
    known = power.plan_looks(1.5, 1.0, num_looks=3, noise_df=math.inf)
    assert known.power is not None
    assert known.power >= 0.8
    assert known.looks[-1] < plan.looks[-1]


def test_hopeless_or_senseless_requests_get_a_sentence():
    found = power.seeds_needed(1e-6, 1.0, limit=1000)
    assert found.seeds is None
    assert found.reason is not None
    assert "more than 1000" in found.reason
    with pytest.raises(ValueError, match="smallest effect that would matter"):
        power.seeds_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="not above the level"):
        power.detectable_drift(0.01)
    with pytest.raises(ValueError, match="must be positive"):
        power.detectable_effect(0.0, 3)
    with pytest.raises(ValueError, match="between the difference"):
        power.items_needed(0.1, base=0.5, discordance=0.05)
    with pytest.raises(ValueError, match="larger effect"):
        power.plan_looks(0.001, 1.0, max_seeds=100)
