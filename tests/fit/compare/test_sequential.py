"""Sequential tests: boundaries against published tables, error rates against simulation, exactness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from isoflop.fit.compare import sequential


def test_bounds_match_published_tables():
    # Lan-DeMets boundaries, O'Brien-Fleming shape, five equal looks, two-sided 5 %
    # (Proschan, Lan and Wittes 2006, Statistical Monitoring of Clinical Trials, chapter 5).
    found = sequential.normal_bounds([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=0.002)
    pocock = sequential.normal_bounds([0.2, 0.4, 0.6, 0.8, 1.0], shape="pocock")
    assert pocock == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=0.002)


def test_one_look_is_the_fixed_test():
    assert sequential.normal_bounds([1.0]) == pytest.approx([stats.norm.isf(0.025)], abs=1e-8)


def test_two_looks_agree_with_the_bivariate_normal():
    first, second = sequential.normal_bounds([0.5, 1.0])
    # Correlation of z at half and at full information is sqrt(1/2).
    inside = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    share = inside.cdf([first, second], lower_limit=[-first, -second])
    assert 1 - share == pytest.approx(0.05, abs=1e-5)  # scipy's integration error


def test_spending_ends_at_alpha_and_grows():
    for shape in ("obrien-fleming", "pocock"):
        spent = [sequential.spend(t, 0.05, shape) for t in (0.0, 0.1, 0.5, 1.0)]
        assert spent == sorted(spent)
        assert spent[0] == 0
        assert spent[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("noise_df", [None, 12.0, math.inf])
@pytest.mark.parametrize("paired", [False, True])
def test_plans_keep_their_level(noise_df, paired):
    plan = sequential.plan_group_sequential(
        (3, 5, 8), noise_df=noise_df, paired=paired, effect_in_sd=1.5, futility=0.2
    )
    measured = sequential.simulate_procedures(plan, num_simulations=20_000, rng=np.random.default_rng(2))
    rates = {row.name: row for row in measured}
    # 20,000 studies at 5 %: standard error 0.15 points, so four of them.
    assert rates["group-sequential"].false_positive_rate == pytest.approx(0.05, abs=0.006)
    assert rates["group-sequential with futility"].false_positive_rate <= 0.056
    assert rates["anytime, noise estimated"].false_positive_rate <= 0.05
    assert rates["anytime, noise known"].false_positive_rate <= 0.05
    assert rates["peeking t test"].false_positive_rate > 0.10
    assert rates["keep if lower"].false_positive_rate == pytest.approx(0.5, abs=0.015)
    assert rates["group-sequential with futility"].mean_seeds_null < 8
    assert plan.power == pytest.approx(rates["group-sequential with futility"].power, abs=0.015)
    assert plan.mean_seeds_null == pytest.approx(
        rates["group-sequential with futility"].mean_seeds_null, abs=0.1
    )


def test_recursion_agrees_with_simulation_under_drift():
    plan = sequential.plan_group_sequential((2, 4, 6, 8), noise_df=math.inf, effect_in_sd=1.4)
    rng = np.random.default_rng(3)
    statistics = sequential._simulate_statistics(plan.looks, 1.4, math.inf, False, 50_000, rng)
    stops = sequential._run_plan(
        statistics, plan.looks, np.array(plan.bounds), np.array(plan.futility_bounds)
    )
    # 50,000 studies: standard error 0.0018 of a share near 0.8, and 0.009 of the mean seeds.
    assert plan.power == pytest.approx(stops.claimed.mean(), abs=0.008)
    assert plan.mean_seeds_effect == pytest.approx(stops.seeds.mean(), abs=0.04)


def test_simulated_statistics_are_those_of_real_seeds():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 4000, 6))
    direct = stats.ttest_ind(b[:, :4], a[:, :4], axis=1).statistic
    ours = sequential._simulate_statistics((2, 4, 6), 0.0, None, False, 40_000, rng)[:, 1]
    # Two samples from one distribution: a Kolmogorov-Smirnov p above one in a thousand.
    assert stats.ks_2samp(direct, ours).pvalue > 1e-3


def test_looks_decide_by_the_plan():
    plan = sequential.plan_group_sequential((2, 4, 6), noise_df=100.0, effect_in_sd=2.0)
    far = sequential.take_look(plan, [0.0, 0.1], [9.0, 9.1], sd=1.0)
    assert far.decision == "stop: different"
    assert far.lo > 0
    near = sequential.take_look(plan, [0.0, 0.1], [1.4, 1.6], sd=1.0)
    assert near.decision == "go on"
    same = sequential.take_look(plan, [0.0, 1.0, 0.5, 0.2], [0.1, 0.9, 0.5, 0.2], sd=1.0)
    assert same.decision == "stop: futile"
    assert same.difference == pytest.approx(0.0)
    last = sequential.take_look(plan, [0.0] * 6, [0.9] * 6, sd=1.0)
    assert last.decision == "end: cannot tell"
    assert last.lo < 0 < last.hi
    own = sequential.plan_group_sequential((3, 6))
    look = sequential.take_look(own, [1.0, 2.0, 3.0], [2.0, 3.0, 4.5])
    assert look.statistic == pytest.approx(stats.ttest_ind([2.0, 3.0, 4.5], [1.0, 2.0, 3.0]).statistic)
    paired = sequential.plan_group_sequential((3, 6), paired=True)
    look = sequential.take_look(paired, [1.0, 2.0, 3.0], [2.0, 3.0, 4.5])
    assert look.statistic == pytest.approx(stats.ttest_rel([2.0, 3.0, 4.5], [1.0, 2.0, 3.0]).statistic)


def test_t_mixture_is_the_integral_that_it_claims_to_be():
    # The noncentral t density averaged over effects N(0, g^2), over the central one.
    for count, t, scale in ((5, 1.7, 0.8), (12, -3.0, 0.5)):
        root = math.sqrt(count)

        def integrand(effect, count=count, t=t, root=root, scale=scale):
            return stats.nct.pdf(t, count - 1, effect * root) * stats.norm.pdf(effect, scale=scale)

        wanted = integrate.quad(integrand, -8 * scale, 8 * scale)[0] / stats.t.pdf(t, count - 1)
        assert math.exp(sequential.log_e_t(t, count, scale)) == pytest.approx(wanted, rel=1e-5)


def test_e_values_have_mean_one_under_no_difference():
    # Normal mixture: its variance is finite for n g^2 < 1, here 0.32, so a plain average converges.
    rng = np.random.default_rng(5)
    sums = rng.standard_normal((200_000, 8)).sum(axis=1)
    values = np.exp(sequential.log_e_normal(sums, np.full(200_000, 8), 1.0, 0.2))
    assert values.mean() == pytest.approx(1.0, abs=5 * values.std() / math.sqrt(200_000))
    # Signs: exactly one, summed over all outcomes of n tosses.
    wins = np.arange(13)
    share = special.comb(12, wins) / 2**12
    assert float(share @ np.exp(sequential.log_e_signs(wins, 12 - wins))) == pytest.approx(1.0, rel=1e-12)
    # Bets: a martingale path by path; one step from any past keeps the mean.
    past = np.array([0.5, -0.2, 1.0])
    ups = math.exp(sequential.log_e_bets(np.append(past, 0.8))[-1])
    downs = math.exp(sequential.log_e_bets(np.append(past, -0.8))[-1])
    assert (ups + downs) / 2 == pytest.approx(math.exp(sequential.log_e_bets(past)[-1]), rel=1e-12)


def test_confidence_sequences_invert_the_tests():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal(15), rng.standard_normal(15) + 1.0
    for sd in (None, math.sqrt(2.0)):
        found = sequential.anytime_seeds(a, b, sd=sd)
        assert found.lo is not None
        # At its end the sequence's edge is the shift at which the e-value is exactly 1/alpha.
        shifted = sequential.anytime_seeds(a, b - found.lo, sd=sd)
        assert shifted.log_e[-1] == pytest.approx(math.log(20), rel=1e-6)


def test_anytime_tests_decide_and_say_when():
    strong = sequential.anytime_seeds(np.zeros(10), np.linspace(1.0, 1.2, 10), sd=0.3)
    assert strong.stopped_at is not None
    assert strong.p < 0.05
    one = sequential.anytime_seeds([1.0], [2.0])
    assert (one.p, one.lo, one.stopped_at) == (1.0, None, None)
    items = sequential.anytime_items([0] * 20, [1] * 20)
    assert items.method.startswith("sign mixture")
    assert items.stopped_at is not None
    partial = sequential.anytime_items([0.1] * 60, [0.9] * 60)
    assert partial.method.startswith("bets")
    assert partial.stopped_at is not None


def test_greedy_search_keeps_worthless_edits():
    # New records among k + 1 exchangeable scores: sum of 1/j; the best of 101 normals lies 2.51 sd down.
    found = sequential.simulate_keep_if_lower(100, num_simulations=4000, rng=np.random.default_rng(7))
    expected = sum(1 / j for j in range(2, 102))
    # Standard deviation of the count is about 1.9, of the minimum 0.43; 4,000 draws, four standard errors.
    assert found.mean_kept == pytest.approx(expected, abs=0.12)
    assert found.apparent_gain_in_sd == pytest.approx(2.51, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequential.plan_group_sequential((4, 4)), "increasing"),
        (lambda: sequential.plan_group_sequential((1, 4)), "one seed per arm shows no noise"),
        (lambda: sequential.plan_group_sequential((2, 4), alpha=5), "between 0 and 1"),
        (lambda: sequential.plan_group_sequential((2, 4), effect_in_sd=0.0), "must be positive"),
        (lambda: sequential.normal_bounds([0.5, 0.9]), "declared maximum is 1"),
        (lambda: sequential.anytime_items([1, 0], [1]), "same items"),
        (lambda: sequential.log_e_bets([0.5, 3.0]), r"\[-1, 1\]"),
    ],
)
def test_wrong_requests_get_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_look_outside_the_plan_is_refused():
    plan = sequential.plan_group_sequential((2, 4), noise_df=50.0)
    with pytest.raises(ValueError, match="wait for the next look"):
        sequential.take_look(plan, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], sd=1.0)
    with pytest.raises(ValueError, match="needs the learned noise"):
        sequential.take_look(plan, [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="equally many"):
        sequential.take_look(plan, [1.0, 2.0], [1.0], sd=1.0)
