"""A straight path is told from a bent one as often as it should be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from isoflop.fit.isoflop.path_bend import path_bend

LOG_C = np.log(10.0) * np.linspace(17.0, 21.0, 9)


def test_a_known_bend_is_found() -> None:
    decades = LOG_C / np.log(10.0)
    # d log10 N = 0.5 + 0.1 (decades - 17): the exponent grows by 0.1 per decade.
    log_N = np.log(10.0) * (8 + 0.5 * (decades - 17) + 0.05 * (decades - 17) ** 2)
    bend = path_bend(LOG_C, log_N, np.full(9, 0.01))
    assert bend.drift.value == pytest.approx(0.1, abs=1e-9)
    assert bend.p < 1e-6
    assert bend.aicc_gain > 0
    # The best straight line over 17..21 has slope 0.7 and passes 0.05 * 4 * (1 - 1/3 ...) below; by least squares:
    straight = np.polyfit(decades, log_N, 1)
    ahead = np.log(10.0) * (8 + 0.5 * 6 + 0.05 * 36) - np.polyval(straight, 23.0)
    assert bend.further.value == pytest.approx(np.exp(ahead), rel=1e-9)


def test_intervals_hold_the_truth_and_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(0)
    se = np.linspace(0.02, 0.08, 9)
    held = alarms = 0
    trials = 400
    for _ in range(trials):
        # Scatter of 0.05 beyond the errors, as sweeps show it.
        log_N = 0.5 * LOG_C + 0.05 * rng.standard_normal(9) + se * rng.standard_normal(9)
        bend = path_bend(LOG_C, log_N, se)
        held += bend.drift.lo <= 0.0 <= bend.drift.hi
        alarms += bend.p < 0.05
        assert (bend.p < 0.05) == (not bend.drift.lo <= 0.0 <= bend.drift.hi)
    # Nominal 95 %; three binomial standard deviations of 400 trials are 3.3 points, and max(1, .) only widens.
    assert held / trials > 0.95 - 0.033
    assert alarms / trials < 0.05 + 0.033


def test_errors_are_used() -> None:
    log_N = 0.5 * LOG_C
    log_N[-1] += 1.0
    certain = path_bend(LOG_C, log_N, np.full(9, 0.01))
    doubtful = path_bend(LOG_C, log_N, np.r_[np.full(8, 0.01), 10.0])
    assert abs(doubtful.drift.value) < 1e-3 * abs(certain.drift.value)
    assert_allclose(doubtful.exponent.value, 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("log_C", "se", "words"),
    [(LOG_C[:4], np.full(4, 0.1), "5 budgets or more"), (LOG_C, np.zeros(9), "errors above zero")],
)
def test_bad_input_is_named(log_C: np.ndarray, se: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        path_bend(log_C, 0.5 * log_C, se)
