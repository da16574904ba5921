"""The panel: which rows there are, that each answers the same question, and what it shows on planted laws."""

import json

import numpy as np
import pytest

from isoflop.fit.isoflop.parabola import ParabolaDesign, parabola_interval
from isoflop.fit.law.forms import fit_form
from isoflop.fit.law.parametric import fit_law
from isoflop.fit.law.sensitivity import forecast_top_budgets, sensitivity_panel
from isoflop.laws.chinchilla import BESIROGLU, ChinchillaLaw
from isoflop.laws.skaling import SkalingLaw

C = 1e23


def sweep(law=BESIROGLU, noise=0.002, seed=0, budgets=(1e18, 1e19, 1e20, 1e21), sizes=9):
    rng = np.random.default_rng(seed)
    N = np.concatenate([BESIROGLU.optimum(C).N * np.geomspace(1 / 6, 6, sizes) for C in budgets])
    D = np.repeat(budgets, sizes) / (6 * N)
    return N, D, law.loss(N, D) * np.exp(noise * rng.standard_normal(len(N)))


@pytest.fixture(scope="module")
def panel():
    return sensitivity_panel(*sweep(), C, bootstrap=60)


@pytest.mark.slow
def test_every_choice_has_its_row(panel):
    groups = [row.group for row in panel]
    assert groups[0] == "as asked"
    assert {"loss function", "outliers", "counting", "form", "method", "forecast"} <= set(groups)
    for row in panel:
        assert row.N_opt is not None or row.reason
    json.dumps([row.to_mapping() for row in panel], allow_nan=False)


def test_rows_are_relative_to_the_question_as_asked(panel):
    assert panel[0].factor == 1.0
    for row in panel:
        if row.N_opt is not None:
            assert row.factor == pytest.approx(row.N_opt / panel[0].N_opt)


def test_on_a_planted_law_the_choices_agree(panel):
    truth = BESIROGLU.optimum(C).N
    for row in panel:
        if row.group in ("as asked", "loss function", "outliers"):
            assert row.N_opt_ci95[0] / 1.5 < truth < row.N_opt_ci95[1] * 1.5
    forecast = panel[-1]
    # 9 held-out runs at 95 %: fewer than 6 hits has probability below 1e-3.
    assert forecast.coverage >= 6 / 9
    assert abs(forecast.mean_error) < 0.005


def test_a_law_that_bends_shows_in_the_forecast():
    """Runs below the cut follow one law; those above lie 3 % higher: the forecast must miss them."""
    N, D, loss = sweep()
    loss = np.where(6 * N * D > 5e20, loss * 1.03, loss)
    row = forecast_top_budgets(N, D, loss, C)
    assert row.coverage <= 2 / 9
    assert row.mean_error == pytest.approx(-0.03, abs=0.01)


def test_other_forms_contain_the_chinchilla_form_or_are_worse():
    N, D, loss = sweep(noise=0.003, seed=2)
    base = fit_law(N, D, loss, bootstrap=0)
    skaling = fit_form("skaling", N, D, loss, base.law)
    assert skaling.objective <= base.objective * (
        1 + 1e-4
    )  # one more parameter, and a trust region's patience
    shared = fit_form("shared", N, D, loss, base.law)
    assert shared.objective >= base.objective * (1 - 1e-9)
    assert shared.law.alpha == shared.law.beta
    assert fit_form("kaplan", N, D, loss, base.law).objective > base.objective


def test_a_planted_skaling_law_is_recovered():
    law = SkalingLaw(E=1.7, A=60.0, R=4.0, alpha=0.45, beta=0.48, power=0.7)
    N, D, loss = sweep(law=law, noise=0.0)
    start = fit_law(N, D, loss, bootstrap=0).law
    found = fit_form("skaling", N, D, loss, start)
    # Noiseless; the trust region stops at relative steps of 1e-12 along a valley of condition about 1e8.
    assert found.law.optimum(C).N == pytest.approx(law.optimum(C).N, rel=0.02)
    assert found.objective < 1e-9


def test_a_single_exponent_law_is_recovered_by_its_form():
    law = ChinchillaLaw(1.8, 400.0, 400.0, 0.33, 0.33)
    N, D, loss = sweep(law=law, noise=0.0)
    found = fit_form("shared", N, D, loss, BESIROGLU)
    assert found.law.optimum(C).N == pytest.approx(law.optimum(C).N, rel=1e-3)


def test_parabolas_are_exact_on_parabolas_and_biased_on_skewed_bowls():
    budgets, t = np.array([1e18, 1e19, 1e20, 1e21]), np.linspace(-1.5, 1.5, 7)
    log_best = 18.0 + 0.5 * np.log(budgets / 1e18)
    N = np.exp(log_best[:, None] + t).ravel()
    flops = np.repeat(budgets, 7)
    loss = np.tile(2 + 0.05 * t**2, 4)
    design = ParabolaDesign.of(N, flops)
    np.testing.assert_allclose(design.log_minima(loss[None])[0], log_best, atol=1e-9)
    assert design.log_size(loss[None], 1e23)[0] == pytest.approx(18.0 + 0.5 * np.log(1e5), abs=1e-9)
    # alpha far from beta: the bowl is skewed, its parabola's minimum is not its own; on a grid of a factor
    # of 6 to both sides the shift is tenths in log N, and the direction is known from the sign of alpha - beta.
    skewed = ChinchillaLaw(1.7, 30.0, 5e4, 0.2, 0.5)
    N = np.concatenate([skewed.optimum(c).N * np.geomspace(1 / 6, 6, 9) for c in budgets])
    D = np.repeat(budgets, 9) / (6 * N)
    biased = ParabolaDesign.of(N, 6 * N * D)
    shift = biased.log_minima(skewed.loss(N, D)[None])[0] - np.log([skewed.optimum(c).N for c in budgets])
    assert (shift < -0.1).all()


def test_parabolas_need_budgets_and_minima():
    N, D, loss = sweep(budgets=(1e18, 1e19))
    assert ParabolaDesign.of(N, 6 * N * D) is None
    N, D, loss = sweep()
    design = ParabolaDesign.of(N, 6 * N * D)
    assert np.isnan(design.log_size(-loss[None], C)[0])
    value, lo, hi = parabola_interval(design, loss[None], C, 100, np.random.default_rng(0))
    assert lo[0] < value[0] < hi[0]


@pytest.mark.slow
def test_the_chinchilla_points_move_as_known(shared_data):
    from isoflop.fit.tables.runs import read_runs

    runs = read_runs(shared_data / "chinchilla_besiroglu.csv")
    panel = sensitivity_panel(runs.N, runs.D, runs.loss, 3.8e25, drop_highest_loss=5, bootstrap=20)
    found = {row.choice: row.N_opt for row in panel}
    assert found["least squares on the log loss"] == pytest.approx(755e9, rel=2e-3)
    assert found["least absolute deviations"] == pytest.approx(619e9, rel=2e-3)
    assert found["all runs"] == pytest.approx(1264e9, rel=2e-3)
    assert found["all runs, least squares"] > 2.5e12
