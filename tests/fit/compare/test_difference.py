"""Tests and intervals of differences: against exact theory, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from isoflop.fit.compare import difference as compare


@pytest.mark.parametrize(
    ("before", "after", "num", "z"),
    [
        (0.634, 0.609, 14_042, -4.32),
        (0.514, 0.521, 1_172, 0.34),
        (0.741, 0.736, 1_267, -0.29),
        (0.6, 0.602, 10_042, 0.29),
    ],
)
def test_published_scores_give_the_known_z(before, after, num, z):
    difference = compare.compare_proportions(before, num, after, num)
    assert difference.statistic == pytest.approx(z, abs=0.005)  # half a unit of the last quoted digit


def test_score_interval_excludes_zero_exactly_when_the_test_rejects():
    rng = np.random.default_rng(3)
    for _ in range(200):
        num_a, num_b = rng.integers(5, 60, size=2)
        right_a, right_b = rng.integers(0, num_a + 1), rng.integers(0, num_b + 1)
        found = compare.compare_proportions(right_a / num_a, num_a, right_b / num_b, num_b)
        assert found.lo is not None
        assert found.hi is not None
        assert found.significant == (found.lo > 0 or found.hi < 0)
        assert found.lo <= found.value <= found.hi


def test_constrained_share_is_the_likeliest_one():
    rng = np.random.default_rng(4)
    for _ in range(50):
        n_a, n_b = rng.integers(3, 40, size=2)
        x_a, x_b = rng.integers(0, n_a + 1), rng.integers(0, n_b + 1)
        delta = rng.uniform(-0.9, 0.9)
        low, high = max(0.0, -delta), min(1.0, 1 - delta)

        def loss(a, x_a=x_a, x_b=x_b, n_a=n_a, n_b=n_b, delta=delta):
            b = a + delta
            parts = ((x_a, a), (n_a - x_a, 1 - a), (x_b, b), (n_b - x_b, 1 - b))
            return -sum(x * math.log(max(q, 1e-300)) for x, q in parts if x)

        best = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
        ours = compare._constrained_proportion(x_a / n_a, n_a, x_b / n_b, n_b, delta)
        # The likelihood is flat to rounding within about sqrt(1e-16) of its peak, so compare its value.
        assert loss(ours) <= best.fun + 1e-8


def test_paired_score_interval_has_its_level():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(2000):
        only_a, only_b, _same = rng.multinomial(80, [0.05, 0.15, 0.80])
        lo, hi = compare._tango_interval(only_a, only_b, 80, 1.959964)
        inside += lo <= 0.10 <= hi
    # 95 % nominal; 2,000 draws leave a standard error of 0.5 points, and discreteness another point.
    assert 0.935 <= inside / 2000 <= 0.97


def test_mcnemar_is_the_exact_binomial_test():
    for only_a, only_b in itertools.product(range(8), range(8)):
        wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert compare.mcnemar_p(only_a, only_b) == pytest.approx(wanted, rel=1e-12)


def test_same_items_see_more_than_different_items():
    a = np.r_[np.ones(600), np.zeros(400)]
    b = a.copy()
    b[:40] = 0  # 40 items get worse, 10 better
    b[600:610] = 1
    paired = compare.compare_items(a, b)
    apart = compare.compare_proportions(a.mean(), 1000, b.mean(), 1000)
    assert (paired.only_a, paired.only_b) == (40, 10)
    assert paired.difference.value == pytest.approx(-0.03)
    assert paired.difference.p == pytest.approx(stats.binomtest(10, 50).pvalue)
    assert apart.p is not None
    assert paired.difference.p is not None
    assert paired.difference.p < 1e-4 < apart.p
    # 2.8016 is the sum of the normal quantiles of 97.5 % and 80 %; 5 % of 1,000 items changed.
    assert paired.difference.minimum_detectable == pytest.approx(2.8016 * math.sqrt(0.05 / 1000), rel=1e-4)
    assert paired.bootstrap_lo is not None
    assert paired.difference.lo is not None
    # Bootstrap and score interval agree to the error of 2,000 resamples (about 4 % of the half width
    # at a 2.5 % tail) and the skewness; a tenth of the half width (0.0137) is ample.
    assert paired.bootstrap_lo == pytest.approx(paired.difference.lo, abs=0.0014)


def test_families_widen_the_interval_as_they_should():
    # Each family of 10 items changes as one block: 10 times the variance of independent items.
    rng = np.random.default_rng(6)
    change = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=400)
    b = np.repeat(change, 10) * 0.5 + 0.5
    a = np.full(4000, 0.5)
    families = np.repeat(np.arange(400), 10).tolist()
    found = compare.compare_items(a, b, families=families)
    assert found.num_families == 400
    assert found.design_effect == pytest.approx(10, rel=0.01)  # exactly 10 x 400/399
    same = compare.compare_items(np.full(400, 0.5), change * 0.5 + 0.5)
    assert found.difference.p == pytest.approx(same.difference.p, rel=1e-9)
    assert found.difference.df == 399
    assert found.bootstrap_hi is not None
    assert found.difference.hi is not None
    half = found.difference.hi - found.difference.value
    assert found.bootstrap_hi - found.difference.value == pytest.approx(half, rel=0.1)


@pytest.mark.slow
def test_clustered_interval_covers_where_the_naive_one_does_not():
    rng = np.random.default_rng(7)
    hits = naive = 0
    for _ in range(1000):
        family = rng.normal(0, 0.3, size=30).repeat(8)
        change = family + rng.normal(0, 0.3, size=240)
        found = compare.compare_items(
            np.zeros(240), change, families=np.arange(30).repeat(8).tolist(), num_resamples=0
        )
        plain = compare.compare_items(np.zeros(240), change, num_resamples=0)
        assert found.difference.lo is not None
        assert found.difference.hi is not None
        assert plain.difference.lo is not None
        assert plain.difference.hi is not None
        hits += found.difference.lo <= 0 <= found.difference.hi
        naive += plain.difference.lo <= 0 <= plain.difference.hi
    # 1,000 draws at 95 %: standard error 0.7 points, so four of them.
    assert 0.922 <= hits / 1000 <= 0.978
    assert naive / 1000 < 0.75  # the design effect is 4.5, so a "95 %" interval covers about 64 %


def test_seeds_agree_with_the_textbook_tests():
    rng = np.random.default_rng(8)
    a, b = rng.normal(3.0, 0.01, 6), rng.normal(3.01, 0.03, 4)
    welch = compare.compare_seeds(a, b)
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert (welch.statistic, welch.p, welch.df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df))
    interval = theirs.confidence_interval()
    assert (welch.lo, welch.hi) == pytest.approx((interval.low, interval.high))
    paired = compare.compare_paired_seeds(a[:4], b)
    theirs = stats.ttest_rel(b, a[:4])
    assert (paired.statistic, paired.p) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_known_noise_lets_single_seeds_speak():
    found = compare.compare_seeds_known_noise([3.280], [3.276], sd=0.00112, df=295)
    assert found.statistic == pytest.approx(-0.004 / (0.00112 * math.sqrt(2)))
    assert found.p == pytest.approx(2 * stats.t.sf(0.004 / (0.00112 * math.sqrt(2)), 295))
    exact = compare.compare_seeds_known_noise([3.280], [3.276], sd=0.00112, df=math.inf)
    assert exact.p == pytest.approx(2 * stats.norm.sf(0.004 / (0.00112 * math.sqrt(2))))
    assert exact.reason is None


def test_known_noise_that_does_not_fit_is_said():
    found = compare.compare_seeds_known_noise([3.28, 3.31, 3.25], [3.28, 3.22, 3.33], sd=0.001, df=295)
    assert found.reason is not None
    assert "times the learned noise" in found.reason


def test_holm_and_bh_on_worked_examples():
    p = [0.01, 0.04, 0.03, 0.005]
    assert compare.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert compare.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        compare.holm([0.2, 1.2])


def test_compute_equivalent_inverts_the_law():
    def law(compute):
        return 1.7 + 10 * compute**-0.1

    at = 1e20
    gain = law(at * 1.25) - law(at)
    found = compare.compare_estimates(law(at), 1e-4, law(at) + gain, 1e-4)
    worth = compare.compute_equivalent(found, law, at)
    assert worth.factor == pytest.approx(1.25, rel=1e-9)  # bisection to 2^-80 of 28 e-folds
    assert worth.lo is not None
    assert worth.hi is not None
    assert worth.lo < 1.25 < worth.hi
    beyond = compare.compare_estimates(law(at), 1e-4, 1.6, 1e-4)
    none = compare.compute_equivalent(beyond, law, at)
    assert none.factor is None
    assert none.reason is not None


def test_undefined_is_none_with_a_reason():
    same = compare.compare_items([1, 0, 1], [1, 0, 1])
    assert same.difference.minimum_detectable is None
    assert same.difference.reason is not None
    assert same.difference.p == 1.0
    assert same.difference.hi is not None
    assert 0 < same.difference.hi < 1  # nothing changed among three items does not prove that nothing changes
    copies = compare.compare_paired_seeds([1.0, 2.0], [1.5, 2.5])
    assert copies.p is None
    assert copies.reason is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare.compare_proportions(63.4, 100, 0.6, 100), "divide percentages by 100"),
        (lambda: compare.compare_proportions(0.5, 0, 0.6, 100), "at least one"),
        (lambda: compare.compare_items([1, 0], [1]), "2 items in A and 1 in B"),
        (lambda: compare.compare_items([1, math.nan], [1, 0]), r"scores_a\[1\] is missing"),
        (lambda: compare.compare_items([1, 0], [1, 0], families=["x", None]), "item 1 has no family"),
        (lambda: compare.compare_items([], []), "at least one number"),
        (lambda: compare.compare_seeds([3.0], [3.1, 3.2]), "add seeds"),
        (lambda: compare.compare_paired_seeds([3.0, 3.1], [3.1]), "same seeds"),
        (lambda: compare.compare_proportions(0.5, 10, 0.5, 10, level=95), "share such as 0.95"),
    ],
)
def test_wrong_input_gets_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
