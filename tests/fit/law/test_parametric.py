"""Fits of the Chinchilla form: planted laws, certificates against an independent optimiser, refusals."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.fit.law.draws import GivenWeights, ResamplePlan, smoothed_residuals
from isoflop.fit.law.newton import (
    Bounds,
    Points,
    ResidualLoss,
    Workspace,
    _evaluate,
    _newton_step,
    minimise,
)
from isoflop.fit.law.parametric import LawFitError, fit_law
from isoflop.fit.law.starts import descend_by_projection
from isoflop.laws.chinchilla import BESIROGLU, ChinchillaLaw

TRUTH = ChinchillaLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def planted(noise=0.0, seed=0, budgets=(1e18, 1e19, 1e20, 1e21), sizes=9, heavy=False):
    """An isoFLOP grid of a known law, with noise on the log loss."""
    rng = np.random.default_rng(seed)
    N = np.concatenate([TRUTH.optimum(C).N * np.geomspace(1 / 8, 8, sizes) for C in budgets])
    D = np.repeat(budgets, sizes) / (6 * N)
    draw = rng.standard_t(3, len(N)) if heavy else rng.standard_normal(len(N))
    return N, D, TRUTH.loss(N, D) * np.exp(noise * draw)


@pytest.mark.parametrize("kind", ["huber", "squares", "lad"])
def test_noiseless_law_is_recovered(kind):
    fit = fit_law(*planted(), loss_function=kind, bootstrap=0)
    # log L is computed to 1e-16; B, the worst-conditioned parameter, amplifies it by about 1e5.
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(fit.law, name) == pytest.approx(getattr(TRUTH, name), rel=1e-8)
    assert fit.certificate.converged


@pytest.mark.parametrize(
    "rho", [ResidualLoss("huber", 0.01), ResidualLoss("squares"), ResidualLoss("student", 0.01)]
)
def test_gradient_and_hessian_agree_with_finite_differences(rho):
    N, D, loss = planted(noise=0.02, seed=3)
    points, t = Points(np.log(N), np.log(D)), np.log(loss)[None]
    rng = np.random.default_rng(1)
    w = rng.integers(0, 3, size=(4, len(N))).astype(float)
    theta = points.from_law([1.8, 480, 2100, 0.35, 0.37]) + 0.01 * rng.standard_normal((4, 5))
    at = _evaluate(points, theta, t, w, rho, Workspace(4, len(N)))
    h = 1e-6  # balances truncation h^2 ~ 1e-12 against rounding 1e-16 F / h ~ 1e-11 of a gradient ~ 1e-2
    for k in range(5):
        step = h * np.eye(5)[k]
        up = _evaluate(points, theta + step, t, w, rho, Workspace(4, len(N)))
        down = _evaluate(points, theta - step, t, w, rho, Workspace(4, len(N)))
        np.testing.assert_allclose((up.F - down.F) / (2 * h), at.g[k], rtol=1e-5, atol=1e-8)
        for j in range(5):
            numeric = (up.g[j] - down.g[j]) / (2 * h)
            upper = at.H[min(j, k), max(j, k)]
            # Huber's gradient has kinks: none lies within h of these points for this seed.
            np.testing.assert_allclose(numeric, upper, rtol=1e-4, atol=1e-6)


def test_newton_step_solves_the_system():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((7, 5, 5))
    H = np.moveaxis(root @ np.swapaxes(root, 1, 2) + np.eye(5), 0, -1)
    g = rng.standard_normal((5, 7))
    step, pivot = _newton_step(H, g, np.zeros(7))
    # Condition numbers are below 100 here.
    np.testing.assert_allclose(np.einsum("ijb,jb->ib", H, step), -g, rtol=1e-10, atol=1e-12)
    assert (pivot > 0).all()


def test_no_replicate_is_worse_than_a_tight_general_optimiser():
    N, D, loss = planted(noise=0.01, seed=5, heavy=True)
    fit = fit_law(N, D, loss, bootstrap=40, multistart=0, delta=3e-3, resample="rows")
    points, t = Points(np.log(N), np.log(D)), np.log(loss)
    plan = ResamplePlan("rows", t, t, None, 0)
    weights = np.concatenate([block.weights for block in plan.blocks(40, 1000)])

    def objective(theta, w):
        r = np.abs(points.log_loss(theta[None])[0] - t)
        return 1e3 * float(w @ np.where(r <= 3e-3, r * r / 2, 3e-3 * (r - 1.5e-3)))

    for index in range(0, 40, 8):
        start = points.from_law(fit.draws[index])
        other = minimize(objective, start, args=(weights[index],), method="Nelder-Mead",
                         options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000}).fun / 1e3  # fmt: skip
        assert fit.replicates.objective[index] <= other * (1 + 1e-9)
    assert fit.certified_share == 1.0
    assert np.max(fit.replicates.gap) <= 1e-9


def test_replicates_agree_with_their_25_starts():
    fit = fit_law(*planted(noise=0.01, seed=2), bootstrap=64, multistart=64)
    assert fit.audit.audited == 64
    assert fit.audit.misses == 0
    assert fit.audit.starts_at_optimum == 25


def test_draws_do_not_depend_on_how_many_are_asked_for():
    table = planted(noise=0.01)
    few, many = (fit_law(*table, bootstrap=count, multistart=0, seed=7).draws for count in (40, 600))
    # Same resamples; rows meet other neighbours in matrix products, so the last digits may differ.
    np.testing.assert_allclose(few, many[:40], rtol=1e-6)
    other = fit_law(*table, bootstrap=40, multistart=0, seed=8).draws
    assert not np.allclose(few, other, rtol=1e-3)


def test_given_weights_are_the_resamples():
    table = planted(noise=0.01)
    weights = np.ones((3, len(table[0])))
    weights[1, :5] = 2
    fit = fit_law(*table, weights=weights, multistart=0)
    np.testing.assert_allclose(fit.draws[0], fit.draws[2], rtol=0, atol=0)
    assert fit.draws[0][0] == pytest.approx(fit.law.E, rel=1e-7)  # a gap of 1e-12 in F is 1e-7 of a parameter
    assert abs(fit.draws[1][0] / fit.law.E - 1) > 1e-6
    with pytest.raises(LawFitError, match="expected"):
        fit_law(*table, weights=np.ones((3, 4)))


@pytest.mark.parametrize("resample", ["rows", "clusters", "residuals", "wild"])
def test_resampling_plans_centre_on_the_fit_with_the_right_spread(resample):
    table = planted(noise=0.01, seed=11, budgets=(1e18, 3e18, 1e19, 3e19, 1e20, 3e20, 1e21))
    cluster = np.arange(len(table[0])) if resample == "clusters" else None
    fit = fit_law(
        *table, loss_function="squares", bootstrap=500, multistart=0, resample=resample, cluster=cluster
    )
    log_optimum = np.log(fit.draws_law.optimum(1e22).N)
    spread = log_optimum.std()
    # Linear theory from the planted noise; resampled spreads scatter about it by ~ 1/sqrt(2 x 63 points) = 9 %
    # (the residuals' own variance) and by curvature: within a factor of 1.5.
    points = Points(np.log(table[0]), np.log(table[1]))
    theta = points.from_law([TRUTH.E, TRUTH.A, TRUTH.B, TRUTH.alpha, TRUTH.beta])
    J = points.jacobian(theta)
    covariance = 0.01**2 * np.linalg.inv(J @ J.T)
    gradient = np.array([
        (np.log(ChinchillaLaw(*points.to_law(theta + h)).optimum(1e22).N)
         - np.log(ChinchillaLaw(*points.to_law(theta - h)).optimum(1e22).N)) / 2e-5
        for h in 1e-5 * np.eye(5)
    ])  # fmt: skip
    theory = math.sqrt(gradient @ covariance @ gradient)
    assert theory / 1.5 < spread < theory * 1.5
    assert abs(np.median(log_optimum) - np.log(fit.law.optimum(1e22).N)) < 0.25 * spread


def test_whole_clusters_are_drawn():
    plan = ResamplePlan("clusters", np.zeros(12), np.zeros(12), np.repeat(np.arange(6), 2), seed=0)
    for block in plan.blocks(50, 20):
        assert (block.weights[:, ::2] == block.weights[:, 1::2]).all()
        assert (block.weights[:, ::2].sum(axis=1) == 6).all()


def test_residuals_that_a_robust_fit_interpolates_are_not_redrawn():
    rng = np.random.default_rng(0)
    residuals = np.concatenate([np.zeros(5), 0.01 * rng.standard_normal(200)])
    pool, bandwidth = smoothed_residuals(residuals, 5)
    assert len(pool) == 200
    assert (pool != 0).all()
    # Median absolute residual of a normal: its standard error from 205 values is 8 % of the spread.
    assert bandwidth == pytest.approx(0.9 * 0.01 * 205**-0.2, rel=0.25)
    plan = ResamplePlan("residuals", residuals, np.zeros(205), None, seed=1)
    drawn = np.concatenate([block.targets for block in plan.blocks(300, 50)])
    assert drawn.std() == pytest.approx(math.hypot(pool.std(), bandwidth), rel=0.02)  # 61,500 draws: 0.3 %


def test_the_resampling_that_fits_the_table_is_taken():
    few, many = planted(noise=0.01), planted(noise=0.01, budgets=np.geomspace(1e18, 1e21, 12))
    assert fit_law(*few, bootstrap=5, multistart=0).resample == "residuals"
    assert fit_law(*many, bootstrap=5, multistart=0).resample == "rows"


def test_blocks_cover_the_replicates_once_whatever_their_size():
    plan = ResamplePlan("rows", np.zeros(300), np.zeros(300), None, seed=3)
    whole = np.concatenate([block.weights for block in plan.blocks(150, 1000)])
    parts = [block for block in plan.blocks(150, 7)]
    assert [block.first for block in parts] == np.cumsum([0] + [b.num_rows for b in parts[:-1]]).tolist()
    np.testing.assert_array_equal(whole, np.concatenate([block.weights for block in parts]))
    assert (whole.sum(axis=1) == 300).all()
    given = GivenWeights(whole, np.zeros(300))
    assert sum(block.num_rows for block in given.blocks(150, 32)) == 150


@pytest.mark.slow
def test_degenerate_replicates_are_bounded_and_counted():
    """Three sizes and strong noise: many resamples cannot tell the floor from a slow power."""
    rng = np.random.default_rng(4)
    N = np.repeat([1e8, 2e8, 4e8], 4)
    D = np.tile([1e9, 2e9, 4e9, 8e9], 3)
    loss = TRUTH.loss(N, D) * np.exp(0.05 * rng.standard_normal(12))
    fit = fit_law(N, D, loss, bootstrap=200, multistart=0)
    assert fit.degenerate_share > 0.05
    assert fit.certified_share <= 1 - fit.degenerate_share
    assert len(fit.draws) == 200
    assert np.isfinite(fit.draws).all()
    assert "wider range" in fit.not_identified
    assert fit.notes  # narrow range and few runs are said


def test_bounds_hold_a_parameter_and_release_the_others():
    N, D, loss = planted()
    points, t = Points(np.log(N), np.log(D)), np.log(loss)[None]
    bounds = Bounds.around(t)
    tight = Bounds(bounds.lo, np.where(np.arange(5) == 3, 0.3, bounds.hi))
    work = Workspace(1, len(N), np.float32)
    start = descend_by_projection(
        points, t, np.ones_like(t), np.array([[0.45, 0.45]]), ResidualLoss("squares"), tight, work
    )
    found = minimise(points, t, np.ones_like(t), start, ResidualLoss("squares"), tight, max_iterations=200)
    assert found.theta[0, 3] == 0.3
    assert found.bounded[0]
    assert found.gap[0] < 1e-9
    assert found.scaled_gradient[0] < 1e-4  # of the four free parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda N, D, L: (N[:3], D[:3], L[:3]), "at least 6"),
        (lambda N, D, L: (N, np.full_like(D, 1e10), L), "all runs have the same D.*add runs"),
        (lambda N, D, L: (np.full_like(N, 1e8), D, L), "all runs have the same N.*add runs"),
        (lambda N, D, L: (N, 20 * N, TRUTH.loss(N, 20 * N)), "D/N is the same.*add runs that break the rule"),
        (lambda N, D, L: (1e8 * (N / 1e8) ** 0.01, D, L), "too narrow|same N"),
        (lambda N, D, L: (N, D, np.where(np.arange(len(L)) % 2, L, L / np.log(2))), "two loss scales.*1.44.*convert"),
        (lambda N, D, L: (N, D, np.exp(L)), "perplexity.*give nats"),
        (lambda N, D, L: (N, D, np.where(np.arange(len(L)) == 4, np.nan, L)), "loss of row 4 is nan"),
        (lambda N, D, L: (N, D, -L), "loss of row 0 is -"),
        (lambda N, D, L: (N[:-1], D, L), "differ in length"),
    ],
)  # fmt: skip
def test_tables_that_cannot_carry_the_law_are_refused_with_the_remedy(change, message):
    with pytest.raises(LawFitError, match=message):
        fit_law(*change(*planted(noise=0.005)), bootstrap=0)


def test_a_good_table_is_not_suspected_of_two_scales():
    for seed in range(20):
        fit_law(*planted(noise=0.02, seed=seed, heavy=True), bootstrap=0)


def test_a_dense_table_has_many_sizes():
    """With thousands of scattered runs no two neighbouring sizes differ by much."""
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(18, 23, 5000)), np.exp(rng.uniform(21, 26, 5000))
    fit = fit_law(
        N, D, TRUTH.loss(N, D) * np.exp(0.01 * rng.standard_normal(5000)), bootstrap=4, multistart=0
    )
    # Standard error of alpha from 5000 runs at 1 % noise is below 0.002.
    assert fit.law.alpha == pytest.approx(TRUTH.alpha, abs=0.01)
    assert fit.certified_share == 1.0


def test_dropped_runs_keep_their_reason():
    N, D, loss = planted(noise=0.005)
    fit = fit_law(N, D, loss, bootstrap=0, drop_highest_loss=2)
    assert len(fit.N) == len(N) - 2
    assert len(fit.exclusions) == 2
    assert f"{max(loss):.3g}" in " ".join(item.what for item in fit.exclusions)
    assert "highest" in fit.exclusions[0].reason


def test_the_fit_becomes_a_record_with_its_certificate():
    fit = fit_law(*planted(noise=0.01), bootstrap=100, multistart=10)
    record = fit.to_record(num_draws=20)
    assert record.estimates["alpha"].lo < record.estimates["alpha"].value < record.estimates["alpha"].hi
    assert len(record.draws["E"]) == 20
    assert record.certificate.certified_share == fit.certified_share
    assert record.certificate.converged
    best = fit.optimum(1e22)
    assert best.N.lo < best.N.value < best.N.hi
    assert best.N.value * best.D.value * 6 == pytest.approx(1e22, rel=1e-12)


def test_students_scale_is_that_of_the_noise():
    N, D, _ = planted(budgets=np.geomspace(1e18, 1e22, 60))
    noise = 0.01 * np.random.default_rng(0).standard_t(4, len(N))
    fit = fit_law(N, D, TRUTH.loss(N, D) * np.exp(noise), loss_function="student", bootstrap=0)
    # Relative standard error of the scale of t(4) from n = 540 points: sqrt((4+3)/(2 x 4 x 540)) = 4 %.
    assert fit.scale == pytest.approx(0.01, rel=0.12)


def test_cluster_labels_are_checked():
    table = planted(noise=0.01)
    with pytest.raises(LawFitError, match="one label per run"):
        fit_law(*table, cluster=[1, 2])
    with pytest.raises(LawFitError, match="fewer than 5 groups"):
        fit_law(*table, cluster=np.arange(len(table[0])) % 3)
    with pytest.raises(LawFitError, match="needs `cluster`"):
        fit_law(*table, resample="clusters")


def test_besiroglu_coefficients_survive_the_change_of_coordinates():
    points = Points(np.log([1e8, 1e10]), np.log([1e9, 1e12]))
    law = np.array([BESIROGLU.E, BESIROGLU.A, BESIROGLU.B, BESIROGLU.alpha, BESIROGLU.beta])
    np.testing.assert_allclose(points.to_law(points.from_law(law)), law, rtol=1e-13)


@pytest.mark.slow
def test_resamples_without_an_optimum_cost_no_search_without_end(monkeypatch):
    from isoflop.fit.law import parametric

    monkeypatch.setattr(parametric, "RESCUES", 40)
    searched = []
    improve = parametric._Engine._improve
    monkeypatch.setattr(
        parametric._Engine,
        "_improve",
        lambda self, part, block, rows: (searched.append(len(rows)), improve(self, part, block, rows))[1],
    )
    N, D, _ = planted()
    rng = np.random.default_rng(0)
    trendless = 2.5 * np.exp(0.02 * rng.standard_normal(len(N)))
    few_rows = 16_000  # elements of a chunk: several chunks, so that stopping can be seen
    monkeypatch.setattr(parametric, "_CHUNK_ELEMENTS", few_rows)
    fit = fit_law(N, D, trendless, bootstrap=400, multistart=100)
    assert fit.not_identified
    assert fit.certified_share < 0.5
    assert fit.audit.audited <= 100
    # one chunk may go beyond the 40, and the certified ones of the first 100 are audited
    chunk = parametric.AUDIT_CHUNKS * (few_rows // len(N)) // 25
    assert sum(searched) <= 40 + chunk + 100 < 400
    assert len(fit.draws) == 400, "what is not certified stays among the draws"


def test_runs_with_one_loss_are_refused():
    N, D, _ = planted()
    with pytest.raises(LawFitError, match=r"all runs have the same loss \(2.5\).*check that the column"):
        fit_law(N, D, np.full(len(N), 2.5), bootstrap=0)
