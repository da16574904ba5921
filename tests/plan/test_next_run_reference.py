"""The yardstick of the replay: the least variance that an allowance can buy, and half-widths with the form in them."""

from itertools import combinations

import numpy as np
import pytest
from benchmarks.next_run_reference import (
    best_design,
    examine,
    law_jacobian,
    random_subset,
    size_gradient,
    whole_table_forms,
    with_the_form,
)

from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.next_run import Runs

LAW = ChinchillaLaw(E=1.8172, A=477.8, B=2143.0, alpha=0.3473, beta=0.3672)


def sweep(budgets: int, sizes: int, noise: float = 0.004, seed: int = 0) -> Runs:
    C = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    N = LAW.optimum(C).N * np.exp(np.tile(np.linspace(-1.5, 1.5, sizes), budgets))
    D = C / (6 * N)
    loss = LAW.loss(N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(C)))
    return Runs(N, D, loss, C)


def test_derivatives_agree_with_differences() -> None:
    runs = sweep(3, 3)
    jacobian = law_jacobian(LAW, runs.N, runs.D)
    step = 1e-6
    for column, name in enumerate(("E", "A", "B", "alpha", "beta")):
        values = {field: getattr(LAW, field) for field in ("E", "A", "B", "alpha", "beta")}
        up, down = (ChinchillaLaw(**{**values, name: values[name] * np.exp(sign * step)}) for sign in (1, -1))
        slope = (np.log(up.loss(runs.N, runs.D)) - np.log(down.loss(runs.N, runs.D))) / (2 * step)
        # Central differences of steps of 1e-6: 1e-16 / 1e-6 of rounding.
        assert np.allclose(jacobian[:, column], slope, atol=1e-8)
    scaled = ChinchillaLaw(**{**values, "A": LAW.A * np.exp(0.01)})
    moved = np.log(scaled.optimum(1e21).N) - np.log(LAW.optimum(1e21).N)
    assert size_gradient(LAW, 1e21)[1] == pytest.approx(moved / 0.01, abs=1e-6)


def test_the_design_is_the_best_of_all_subsets_where_they_can_be_counted() -> None:
    runs = sweep(3, 4)
    jacobian, gradient = law_jacobian(LAW, runs.N, runs.D), size_gradient(LAW, 1e21)
    allowance = 0.4 * float(runs.flops.sum())
    found = best_design(jacobian, gradient, runs.flops, allowance)
    assert runs.flops[found.chosen].sum() <= allowance

    def variance(rows: list[int]) -> float:
        information = 1e-6 * np.eye(5) + jacobian[rows].T @ jacobian[rows]
        return float(gradient @ np.linalg.solve(information, gradient))

    assert found.variance == pytest.approx(variance(list(np.flatnonzero(found.chosen))))
    least = min(
        variance(list(rows))
        for size in range(5, 12)
        for rows in combinations(range(12), size)
        if runs.flops[list(rows)].sum() <= allowance
    )
    # A local search may end a little above the least: a tenth of the variance is 5 % of an error.
    assert least * (1 - 1e-9) <= found.variance <= 1.1 * least


def test_random_subsets_keep_to_the_allowance_and_favour_the_dear() -> None:
    runs = sweep(6, 8)
    allowance = 0.1 * float(runs.flops.sum())
    rng = np.random.default_rng(0)
    dearest = {}
    for power in (0.0, 2.0):
        subsets = [random_subset(runs.flops, allowance, power, rng) for _ in range(30)]
        assert all(runs.flops[one].sum() <= allowance for one in subsets)
        dearest[power] = np.mean([runs.flops[one].mean() for one in subsets])
    assert dearest[2.0] > 1.5 * dearest[0.0]


def test_variance_between_forms_is_added() -> None:
    spread = with_the_form(1.96, np.array([0.0, 2.0]))
    assert spread.log_N == 1.0
    assert spread.half_width == pytest.approx(1.96 * np.sqrt(1.0 + 2.0))


def test_forms_agree_where_the_law_is_right() -> None:
    runs = sweep(6, 9, noise=0.001)
    forms = whole_table_forms(runs, 1e20, bootstrap=50)
    assert len(forms) == 6
    truth = float(np.log(LAW.optimum(1e20).N))
    for form in forms:
        # Parabolas over bowls of +-1.5 in log N are biased by their skew: a tenth at most.
        assert abs(form.log_N - truth) < (0.1 if "parabola" in form.name else 0.05), form.name
        assert 0 < form.half_width < 0.3


@pytest.mark.slow
def test_a_tenth_reaches_half_a_half_width_where_the_law_is_right() -> None:
    found = examine(sweep(8, 9), 1e21, 0.1, 5)
    # The budgets rise by factors of 1.9, so that a tenth of the FLOPs pays about half of the budgets in full.
    assert 0.2 < found["reach"]["least_rmse_in_half_widths_if_law_exact"] < 1.0
    assert found["with_form_half_width"] > found["single_half_width"]
    assert [row["power"] for row in found["reach"]["random"]] == [0.0, 0.5, 1.0, 2.0]
