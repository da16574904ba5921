"""The isoFLOP fit: recovers planted bowls, agrees with closed forms, and says when it cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from isoflop.fit.isoflop import batch, bowl
from isoflop.fit.isoflop.sweep import Rules, SweepPoints, compute_equivalent, fit_isoflop, predict_size

pytestmark = pytest.mark.slow

BUDGETS = (3e10, 1e11, 3e11, 1e12)
ALPHA, BETA, LIFT = 0.35, 0.30, 0.55
EXPONENT = BETA / (ALPHA + BETA)
DECAY = ALPHA * BETA / (ALPHA + BETA)


def best_log_size(budget: float) -> float:
    return math.log(4e4) + EXPONENT * math.log(budget / 1e11)


def planted_loss(budget: float, log_size: np.ndarray) -> np.ndarray:
    """E + A/N^alpha + B/D^beta at D = C/6N, about its own optimum: alpha a = beta b there."""
    t = log_size - best_log_size(budget)
    fall = (budget / 1e11) ** -DECAY
    return 2.2 + fall * LIFT * (np.exp(-ALPHA * t) + ALPHA / BETA * np.exp(BETA * t))


def make_points(
    noise: float = 0.0,
    seeds: int = 3,
    sizes: int = 6,
    spread: float = 0.45,
    shift: float = 0.0,
    seed: int = 0,
) -> SweepPoints:
    generator = np.random.default_rng(seed)
    rows = []
    for budget in BUDGETS:
        offsets = spread * (np.arange(sizes) - (sizes - 1) / 2) + shift
        for i, offset in enumerate(offsets):
            log_size = best_log_size(budget) + offset
            for s in range(seeds):
                rows.append(
                    (budget, math.exp(log_size), planted_loss(budget, np.float64(log_size)), 100 * i + s, s)
                )
    budget, size, loss, _, number = (np.array(column) for column in zip(*rows, strict=True))
    # Sizes differ between budgets here, so that every point is a trunk of its own.
    trunk = np.arange(len(loss))
    loss = loss + noise * generator.standard_normal(len(loss))
    return SweepPoints(budget, size, loss, trunk, number.astype(int))


def planted_edge(budget: float, side: int) -> float:
    """ln N at which the planted loss is 1.01 times its lowest, by bisection."""
    best = best_log_size(budget)
    top = 1.01 * float(planted_loss(budget, np.float64(best)))
    inner, outer = best, best + side * 6.0
    for _ in range(60):
        middle = (inner + outer) / 2
        if float(planted_loss(budget, np.float64(middle))) < top:
            inner = middle
        else:
            outer = middle
    return inner


def test_recovers_planted_optima_basins_and_exponent_without_noise() -> None:
    points = make_points()
    fit = fit_isoflop(points)
    for one in fit.budgets:
        assert one.status == "ok"
        # The curve differs from the law in the fifth power of t: (window 1.1)^5 / 120 of f'''''/f'' of about
        # 0.03 shifts the minimum by less than 1e-3; the prior pulls the skewness with the weight of no noise.
        assert math.log(one.N_opt.value) == pytest.approx(best_log_size(one.budget), abs=5e-3)
        assert math.log(one.basin_lo.value) == pytest.approx(planted_edge(one.budget, -1), abs=8e-3)
        assert math.log(one.basin_hi.value) == pytest.approx(planted_edge(one.budget, +1), abs=8e-3)
        assert one.factor_lo.value == pytest.approx(one.N_opt.value / one.basin_lo.value, rel=1e-12)
        assert one.factor_hi.value == pytest.approx(one.basin_hi.value / one.N_opt.value, rel=1e-12)
        assert one.half_width.value == pytest.approx(
            math.sqrt(one.factor_lo.value * one.factor_hi.value), rel=1e-12
        )
        lowest = float(planted_loss(one.budget, np.float64(best_log_size(one.budget))))
        assert one.loss_opt.value == pytest.approx(lowest, abs=1e-3)
    # All budgets have the same error in ln N, so the slope loses it.
    assert fit.exponent.value == pytest.approx(EXPONENT, abs=1e-3)
    assert fit.skew.value == pytest.approx(BETA - ALPHA, abs=0.01)
    assert fit.identified


def test_a_parabola_misses_an_asymmetric_law_that_the_shared_skewness_finds() -> None:
    points = make_points()
    worst = {
        degree: max(
            abs(math.log(b.N_opt.value) - best_log_size(b.budget))
            for b in fit_isoflop(points, degree=degree).budgets
        )
        for degree in (2, 3, 4)
    }
    assert worst[4] < 5e-3 < worst[2]
    assert worst[3] < 5e-3


def test_an_interval_of_a_parabola_s_minimum_is_fieller_s() -> None:
    """-c1 / (2 c2) is a ratio of normal numbers: Fieller (J. R. Stat. Soc. B 1954) has it in closed form."""
    generator = np.random.default_rng(3)
    rules = Rules(degree=2)
    root = generator.standard_normal((4, 4)) * np.array([[0.01], [0.01], [0.008], [0.0]])
    covariance = root @ root.T
    parameters = np.array([3.0, 0.02, 0.07, 0.0])
    quantile = 2.1
    lo, hi = bowl.profile_ends(
        bowl.quantity_t_opt(rules.family),
        parameters[None],
        covariance[None],
        np.array([quantile]),
        num_steps=40,
    )
    # {t : (c1 + 2 c2 t)^2 <= q^2 var(c1 + 2 c2 t)}: a quadratic in t.
    v11, v12, v22 = covariance[1, 1], covariance[1, 2], covariance[2, 2]
    c1, c2 = parameters[1], parameters[2]
    ends = np.sort(
        np.roots(
            [
                4 * (c2**2 - quantile**2 * v22),
                4 * (c1 * c2 - quantile**2 * v12),
                c1**2 - quantile**2 * v11,
            ]
        )
    )
    # The fixed-point iteration stops at a relative change far below this.
    np.testing.assert_allclose([lo[0], hi[0]], ends, rtol=1e-4)


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_gradients_agree_with_finite_differences(degree: int) -> None:
    family = bowl.Family(degree, 0.01)
    parameters = np.array([3.4, 0.03, 0.08, 0.0 if degree == 2 else -0.2])
    quantities = {
        "t_opt": bowl.quantity_t_opt(family),
        "loss_opt": bowl.quantity_loss_opt(family),
        "edge_lo": bowl.quantity_edge(family, -1),
        "edge_hi": bowl.quantity_edge(family, 1),
        "factor": bowl.quantity_factor(family, -1),
        "half_width": bowl.quantity_half_width(family),
    }
    free = 3 if degree == 2 else 4
    for name, quantity in quantities.items():
        _, grad = quantity(parameters)
        for i in range(free):
            step = 1e-5 * np.eye(4)[i]
            numeric = (quantity(parameters + step)[0] - quantity(parameters - step)[0]) / 2e-5
            # Central differences: error of order step^2 times a third derivative (up to 1e5 for c2).
            assert grad[i] == pytest.approx(numeric, rel=1e-4, abs=1e-6), (name, i)


def test_the_edges_are_where_the_curve_has_risen_by_eps() -> None:
    generator = np.random.default_rng(0)
    parameters = np.stack(
        [
            generator.uniform(2, 4, 200),
            generator.uniform(-0.1, 0.1, 200),
            generator.uniform(0.02, 0.2, 200),
            generator.uniform(-1, 1, 200),
        ],
        axis=-1,
    )
    family = bowl.Family(4, 0.02)
    found = bowl.find_bowl(family, parameters)
    for edge in (found.t_lo, found.t_hi):
        np.testing.assert_allclose(family.evaluate(parameters, edge), 1.02 * found.loss_opt, rtol=1e-9)
    assert (found.t_lo < found.t_opt).all()
    assert (found.t_opt < found.t_hi).all()
    for shift in (-1e-3, 1e-3):
        assert (family.evaluate(parameters, found.t_opt + shift) > found.loss_opt).all()


def test_wrong_curvature_is_refused_with_its_reason() -> None:
    points = make_points()
    top = points.budget == BUDGETS[-1]
    upside_down = np.where(top, 6.0 - points.loss, points.loss)
    fit = fit_isoflop(replace(points, loss=upside_down))
    last = fit.budgets[-1]
    assert last.status == "refused"
    assert "wrong sign" in (last.reason or "")
    assert last.N_opt.value is None
    assert last.N_opt.reason
    assert all(b.status == "ok" for b in fit.budgets[:-1])
    assert any("power law" in e.what for e in fit.exclusions)
    assert fit.exponent.value == pytest.approx(EXPONENT, abs=0.05)


def test_a_minimum_outside_the_sizes_is_flagged_and_left_out_of_the_path() -> None:
    fit = fit_isoflop(make_points(noise=0.003, shift=1.6))
    assert {b.status for b in fit.budgets} == {"edge"}
    assert all("below the smallest" in (b.reason or "") for b in fit.budgets)
    assert all("extrapolated" in " ".join(b.flags) for b in fit.budgets)
    assert fit.exponent.value is None
    assert not fit.identified
    assert fit.not_identified


def test_points_high_on_the_walls_are_left_out_with_a_reason() -> None:
    points = make_points(sizes=11)
    fit = fit_isoflop(points)
    left_out = sum(len(b.excluded) for b in fit.budgets)
    assert left_out > 0
    assert left_out + sum(b.num_points for b in fit.budgets) == len(points.loss)
    assert all("above the lowest" in e.reason for b in fit.budgets for e in b.excluded)
    for b in fit.budgets:
        here = points.budget == b.budget
        kept = (points.size >= b.window_lo * 0.999) & (points.size <= b.window_hi * 1.001) & here
        assert points.loss[kept].max() <= 1.10 * points.loss[here].min()


def test_too_few_sizes_are_refused_one_budget_or_all() -> None:
    points = make_points(noise=0.01)
    keep = (points.budget != BUDGETS[0]) | (
        points.size < 1.6 * points.size[points.budget == BUDGETS[0]].min()
    )
    some = fit_isoflop(_subset(points, keep))
    assert some.budgets[0].status == "refused"
    assert "at least 3" in (some.budgets[0].reason or "")
    assert some.draws.shape[1] == 4
    assert np.isnan(some.draws[:, 0]).all()
    assert np.isfinite(some.draws[:, 1:]).all()
    two = np.isin(points.size, [points.size[points.budget == c].min() for c in BUDGETS])
    none = fit_isoflop(_subset(points, two))
    assert all(b.status == "refused" for b in none.budgets)
    assert not none.identified
    assert predict_size(none, 1e13).value is None


def test_without_degrees_of_freedom_there_is_a_value_and_no_interval() -> None:
    points = make_points(noise=0.01, seeds=1, sizes=3)
    fit = fit_isoflop(points, degree=2)
    assert fit.noise.run_sd is None
    assert fit.noise.note
    for b in fit.budgets:
        assert b.N_opt.value is not None
        assert b.N_opt.lo is None
        assert "degrees of freedom" in (b.N_opt.reason or "")
    assert not fit.identified


def test_two_budgets_never_identify_an_exponent() -> None:
    points = make_points(noise=0.004)
    fit = fit_isoflop(_subset(points, points.budget < 2e11))
    assert fit.exponent.value is not None
    assert "a third is needed" in (fit.not_identified or "")


def test_a_wide_exponent_is_not_identified() -> None:
    points = make_points(noise=0.05, seeds=1, sizes=5, spread=0.35)
    fit = fit_isoflop(points)
    assert not fit.identified
    assert fit.not_identified


def test_draws_are_a_function_of_the_seed_and_scatter_as_the_fit_says() -> None:
    points = make_points(noise=0.014)
    one, same, other = (fit_isoflop(points, seed=s, num_draws=2000) for s in (0, 0, 1))
    assert one.draws.shape == (2000, 4, 4)
    np.testing.assert_array_equal(one.draws, same.draws)
    assert not np.array_equal(one.draws, other.draws)
    lowest = one.draws[:, 1]
    t_opt = -lowest[:, 1] / (lowest[:, 2] + np.sqrt(lowest[:, 2] ** 2 - 3 * lowest[:, 1] * lowest[:, 3]))
    spread = np.quantile(t_opt, [0.025, 0.975])
    found = one.budgets[1].N_opt
    # 2000 draws give the quantiles to about 4 % of the width; the drawn cubic stands for a quartic.
    width = math.log(found.hi / found.lo)
    assert spread[1] - spread[0] == pytest.approx(width, rel=0.2)


def test_drawn_coefficients_follow_the_fitted_curve_over_the_window() -> None:
    fit = fit_isoflop(make_points(noise=0.01))
    for b in fit.budgets:
        t = np.linspace(math.log(b.window_lo), math.log(b.window_hi), 50) - b.centre
        drawn = np.polynomial.polynomial.polyval(t, b.coefficients)
        exact = fit.rules.family.evaluate(np.array(b.curve), t)
        # c2 (s^2 + p) / 12 x (half window)^4 / 8 with c2 0.07, s 0.3, half 1.13.
        np.testing.assert_allclose(drawn, exact, atol=4e-4)
        assert len(b.coefficients) == 4


def test_the_result_does_not_depend_on_the_unit_of_size_or_the_order_of_points() -> None:
    points = make_points(noise=0.014)
    fit = fit_isoflop(points)
    order = np.random.default_rng(1).permutation(len(points.loss))
    shuffled = fit_isoflop(_subset(points, order))
    thousands = fit_isoflop(replace(points, size=points.size / 1e3))
    for a, b, c in zip(fit.budgets, shuffled.budgets, thousands.budgets, strict=True):
        assert b.N_opt.value == pytest.approx(a.N_opt.value, rel=1e-9)
        assert c.N_opt.value == pytest.approx(a.N_opt.value / 1e3, rel=1e-6)
        assert c.N_opt.hi == pytest.approx(a.N_opt.hi / 1e3, rel=1e-6)
        assert c.half_width.lo == pytest.approx(a.half_width.lo, rel=1e-6)
    assert thousands.exponent.value == pytest.approx(fit.exponent.value, rel=1e-6)


def test_a_user_s_fit_and_the_batch_of_many_are_the_same_numbers() -> None:
    points = make_points(noise=0.014)
    design = batch.build_design(points.budget, points.size, points.trunk)
    generator = np.random.default_rng(2)
    losses = np.stack([points.loss, points.loss + 0.01 * generator.standard_normal(len(points.loss))])
    many = batch.fit_batch(design, losses, Rules())
    intervals = batch.budget_intervals(many, bowl.quantity_t_opt(Rules().family))
    alone = fit_isoflop(points)
    for k, b in enumerate(alone.budgets):
        assert b.N_opt.hi == pytest.approx(math.exp(intervals.hi[0, k] + many.centre[0, k]), rel=1e-9)


def test_correlated_branches_leave_the_bowls_alone_and_are_measured() -> None:
    """Same losses, other trunks: within a budget nothing is shared, so only degrees of freedom may move."""
    points = make_points(noise=0.014)
    per_budget = len(points.loss) // len(BUDGETS)
    shared = replace(
        points, trunk=np.tile(np.arange(per_budget), len(BUDGETS)), size=np.tile(points.size[:per_budget], 4)
    )
    apart = replace(shared, trunk=np.arange(len(points.loss)))
    one, two = fit_isoflop(shared), fit_isoflop(apart)
    assert one.noise.trunk_correlation is not None
    assert two.noise.trunk_correlation is None
    for a, b in zip(one.budgets, two.budgets, strict=True):
        assert a.curve == pytest.approx(b.curve, rel=1e-9)


def test_sampled_windows_widen_the_intervals_that_depend_on_the_texts() -> None:
    points = make_points(noise=0.005)
    generator = np.random.default_rng(5)
    x = np.log(points.size)[:, None]
    level, tilt = generator.standard_normal((2, 16))
    plain = fit_isoflop(points)
    shifted = fit_isoflop(replace(points, group_nats=points.loss[:, None] + 0.3 * (level - level.mean())))
    tilted = fit_isoflop(
        replace(points, group_nats=points.loss[:, None] + 0.05 * (tilt - tilt.mean()) * (x - x.mean()))
    )

    def width(fit: object, k: int, name: str) -> float:
        estimate = getattr(fit.budgets[k], name)  # type: ignore[attr-defined]
        return math.log(estimate.hi / estimate.lo)

    # Windows that are harder for all runs alike move the level and cancel in the minimum, all but exactly.
    assert width(shifted, 1, "N_opt") == pytest.approx(width(plain, 1, "N_opt"), rel=0.02)
    assert width(shifted, 1, "loss_opt") > 5 * width(plain, 1, "loss_opt")
    assert width(tilted, 1, "N_opt") > 2 * width(plain, 1, "N_opt")
    assert shifted.noise.window_groups == 16
    # Standard error of the mean of 16 groups with standard deviation 0.3 |level|.
    expected = 0.3 * float(np.std(level, ddof=1)) / 4
    assert shifted.noise.window_sd == pytest.approx(expected, rel=0.02)


def test_compute_equivalent_recovers_the_planted_law() -> None:
    fit = fit_isoflop(make_points(noise=0.002))
    lowest = {c: float(planted_loss(c, np.float64(best_log_size(c)))) for c in BUDGETS}
    for budget, excess in ((1e12, 0.03), (1e12, 0.2), (3e11, 0.05), (3e10, 0.02)):
        found = compute_equivalent(fit, budget, excess)
        share = (lowest[budget] + excess - 2.2) / (lowest[budget] - 2.2)
        planted = share ** (1 / DECAY)
        # Noise 0.002 nats; the interval itself is held to the truth in tests/prove.
        assert found.factor.value == pytest.approx(planted, rel=0.03)
        assert found.factor.lo < found.factor.value < found.factor.hi
        assert found.fraction.value == pytest.approx(1 - 1 / found.factor.value, rel=1e-12)
        assert found.extrapolated == (budget / planted < 3e10)
    assert compute_equivalent(fit, 1e12, 0.0).factor.value == pytest.approx(1.0, abs=1e-9)
    two = fit_isoflop(_subset(make_points(noise=0.002), make_points().budget < 2e11))
    alone = compute_equivalent(two, 1e11, 0.02)
    assert alone.factor.value is not None
    assert alone.factor.lo is None
    assert "two budgets" in (alone.factor.reason or "")


def test_minima_off_one_power_law_widen_the_exponent_and_say_so() -> None:
    points = make_points(noise=0.004)
    straight = fit_isoflop(points)
    bend = dict(zip(BUDGETS, (0.3, -0.3, 0.3, -0.3), strict=True))
    factor = np.exp([bend[c] for c in points.budget])
    bent = fit_isoflop(replace(points, size=points.size * factor))
    assert straight.path_p is not None
    assert straight.path_p > 0.01
    assert not straight.notes
    assert bent.path_p is not None
    assert bent.path_p < 0.001
    assert any("power law" in note for note in bent.notes)
    # Least squares through (0.3, -0.3, 0.3, -0.3) at the budgets' logs leaves 0.3 nearly whole with 2 df, whose
    # t quantile is 4.3: standard error about 0.3 / 2.6 in the slope.
    assert bent.exponent.hi - bent.exponent.lo > 10 * (straight.exponent.hi - straight.exponent.lo)
    assert not bent.identified
    for a, b in zip(straight.budgets, bent.budgets, strict=True):
        assert b.half_width.value == pytest.approx(a.half_width.value, rel=1e-6)


def test_prediction_lies_on_the_power_law() -> None:
    fit = fit_isoflop(make_points(noise=0.01))
    at = predict_size(fit, 1e13)
    expected = fit.coefficient.value * (1e13 / fit.reference_budget) ** fit.exponent.value
    assert at.value == pytest.approx(expected, rel=1e-9)
    assert at.lo < at.value < at.hi
    near = predict_size(fit, fit.reference_budget)
    assert math.log(at.hi / at.lo) > math.log(near.hi / near.lo)


@pytest.mark.slow
def test_intervals_cover_what_they_say_in_a_short_run() -> None:
    """400 sweeps; the long proof has thousands and all designs."""
    points = make_points()
    design = batch.build_design(points.budget, points.size, points.trunk)
    generator = np.random.default_rng(11)
    loss = points.loss + 0.014 * generator.standard_normal((400, len(points.loss)))
    fit = batch.fit_batch(design, loss, Rules())
    found = batch.budget_intervals(fit, bowl.quantity_t_opt(Rules().family))
    truth = np.array([best_log_size(c) for c in BUDGETS])
    inside = (found.lo + fit.centre <= truth) & (truth <= found.hi + fit.centre)
    # Binomial sd of one budget: sqrt(0.95 x 0.05 / 400) = 0.011; three of them around 93-97 %.
    assert (inside.mean(0) > 0.93 - 0.033).all()
    assert inside.mean() < 0.985


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.nan}, "diverged"),
        ({"size": -1.0}, "size"),
        ({"budget": 1.0000001e11}, "less than 1 %"),
    ],
)
def test_bad_points_are_named(change: dict[str, float], message: str) -> None:
    points = make_points()
    (name, value), *_ = change.items()
    broken = getattr(points, name).copy()
    broken[np.flatnonzero(points.budget == 1e11)[0]] = value
    with pytest.raises(ValueError, match=message):
        fit_isoflop(replace(points, **{name: broken}))


def test_bad_arguments_are_named() -> None:
    points = make_points()
    with pytest.raises(ValueError, match="degree"):
        fit_isoflop(points, degree=5)
    with pytest.raises(ValueError, match="level"):
        fit_isoflop(points, level=95.0)
    with pytest.raises(ValueError, match="trunk"):
        fit_isoflop(replace(points, trunk=points.trunk[:-1]))
    with pytest.raises(ValueError, match="several sizes or seeds"):
        fit_isoflop(replace(points, trunk=np.zeros(len(points.loss), dtype=int)))
    with pytest.raises(ValueError, match="group_nats"):
        fit_isoflop(replace(points, group_nats=np.zeros((3, 4))))
    with pytest.raises(ValueError, match="not among"):
        compute_equivalent(fit_isoflop(points), 5e11, 0.01)


def _subset(points: SweepPoints, keep: np.ndarray) -> SweepPoints:
    return SweepPoints(
        points.budget[keep], points.size[keep], points.loss[keep], points.trunk[keep], points.seed[keep]
    )
