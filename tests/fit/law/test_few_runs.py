"""The posterior of a law from a handful of runs: it holds planted truths and knows what it does not know."""

import numpy as np
import pytest

from isoflop.fit.law.few_runs import Draws, Prior, posterior
from isoflop.laws.chinchilla import ChinchillaLaw

LAW = ChinchillaLaw(E=1.8172, A=477.8, B=2143.0, alpha=0.3473, beta=0.3672)


def sweep(n: int, seed: int, noise: float = 0.005) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    C = 10 ** rng.uniform(18, 20, n)
    N = LAW.optimum(C).N * np.exp(rng.uniform(-1.5, 1.5, n))
    D = C / (6 * N)
    return N, D, LAW.loss(N, D) * np.exp(noise * rng.standard_normal(n))


def test_intervals_of_the_best_size_hold_the_planted_one() -> None:
    truth = np.log(LAW.optimum(1e21).N)
    held, errors = 0, []
    for seed in range(40):
        found = posterior(*sweep(12, seed), seed=seed).draws.best_size(1e21)
        low, middle, high = np.quantile(found, (0.025, 0.5, 0.975))
        held += low <= truth <= high
        errors.append(middle - truth)
    # 95 % nominal: fewer than 34 of 40 has probability 0.3 % (binomial).
    assert held >= 34
    # Widths shrink below the prior's: with exponents from the prior alone log N* would spread by more than 1.
    assert np.sqrt(np.mean(np.square(errors))) < 0.35


def test_more_runs_narrow_the_answer() -> None:
    spreads = [posterior(*sweep(n, 3)).draws.best_size(1e21).std() for n in (5, 15, 60)]
    assert spreads[0] > 1.5 * spreads[1] > 2 * spreads[2]


def test_a_wild_run_is_weighed_down() -> None:
    N, D, loss = sweep(20, 5, noise=0.003)
    loss[7] *= 1.1  # thirty standard deviations
    found = posterior(N, D, loss)
    # Student weights with 4 degrees of freedom: 5 / (4 + z^2). The wild run also widens the noise that it is measured
    # by, to at most a fifth of its own distance: z >= 5 gives 0.17.
    assert found.weights[7] < 0.18
    assert np.median(found.weights) > 0.8


def test_best_size_is_where_the_loss_is_lowest() -> None:
    first = (np.array([v, v]) for v in (1.8, 400.0, 2000.0, 0.34, 0.37))
    draws = Draws(*first, np.array([0.0, 3e4]), np.zeros(2), np.array([0.0, -1e5]), np.zeros(2))
    x = draws.best_size(1e20)
    grid = x + np.linspace(-0.05, 0.05, 101)[:, None]
    losses = draws.loss(np.exp(grid), 1e20 / (6 * np.exp(grid)))
    # A parabola over steps of 0.1 in log N is off by the third derivative: some thousandths.
    assert np.all(np.abs(np.argmin(losses, axis=0) - 50) <= 5)
    law = ChinchillaLaw(E=1.8, A=400.0, B=2000.0, alpha=0.34, beta=0.37)
    assert x[0] == pytest.approx(np.log(law.optimum(1e20).N), abs=5e-3)
    assert abs(x[1] - x[0]) > 0.01


def test_the_second_form_is_found_when_it_is_true() -> None:
    rng = np.random.default_rng(0)
    C = np.repeat(np.geomspace(1e17, 1e21, 9), 9)
    N = np.sqrt(C / 120) * np.exp(np.tile(np.linspace(-2, 2, 9), 9))
    D = C / (6 * N)
    plain = 1.8 + 300 * N**-0.35 + 900 * D**-0.35
    bent = plain + 3e4 * N**-0.7  # small models are worse than the law
    noise = np.exp(0.002 * rng.standard_normal(len(C)))
    assert posterior(N, D, bent * noise).second_order > 0.9
    assert posterior(N, D, plain * noise).second_order < 0.6


def test_both_forms_keep_a_share() -> None:
    found = posterior(*sweep(12, 1), prior=Prior(form_floor=0.25), num_draws=400)
    share = np.mean(found.draws.P != 0)
    assert 0.25 <= share <= 0.75


def test_distrusted_runs_count_less() -> None:
    N, D, loss = sweep(14, 2)
    loss[:7] *= 1.03
    full, partial = posterior(N, D, loss), posterior(N, D, loss, trust=np.repeat([1e-4, 1.0], 7))
    clean = posterior(N[7:], D[7:], loss[7:])
    middle = [np.median(found.draws.best_size(1e21)) for found in (full, partial, clean)]
    assert abs(middle[1] - middle[2]) < abs(middle[0] - middle[2])


@pytest.mark.parametrize(
    ("change", "words"), [({"N": [1e6, 2e6]}, "at least three"), ({"loss": [2.0, 0.0, 1.0]}, "above zero")]
)
def test_what_cannot_be_used_is_refused(change: dict[str, list[float]], words: str) -> None:
    values = {"N": [1e6, 2e6, 4e6], "D": [1e8, 1e8, 2e8], "loss": [3.0, 2.9, 2.8]} | change
    size = min(len(v) for v in values.values())
    with pytest.raises(ValueError, match=words):
        posterior(*(np.array(v)[:size] for v in values.values()))
