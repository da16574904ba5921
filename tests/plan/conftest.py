"""A law with draws for tests that need some and no particular ones."""

import numpy as np
import pytest

from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.belief import Belief, from_draws


@pytest.fixture(scope="session")
def belief() -> Belief:
    """Draws with the published standard errors of Besiroglu et al. 2024, coefficient and exponent correlated.

    Along the ridge that the points leave open, log A moves with alpha by about ln(1e9) - 4 = 16 and log B
    with beta by about 20, which is what the published standard errors in logs (0.258, 0.421) ask for.
    """
    rng = np.random.default_rng(7)
    z = rng.standard_normal((5, 400))
    alpha, beta = 0.3473 + 0.0154 * z[0], 0.3672 + 0.0206 * z[1]
    log_a = np.log(477.8) + 16.5 * (alpha - 0.3473) + 0.03 * z[2]
    log_b = np.log(2143.0) + 20.3 * (beta - 0.3672) + 0.04 * z[3]
    draws = np.stack([1.8172 + 0.0257 * z[4], np.exp(log_a), np.exp(log_b), alpha, beta], axis=1)
    return Belief(
        name="synthetic",
        title="Synthetic",
        source="drawn in a test",
        law=ChinchillaLaw(E=1.8172, A=477.8, B=2143.0, alpha=0.3473, beta=0.3672),
        draws=from_draws(draws),
        smallest_flops=1.4e18,
        largest_flops=1.3e22,
        largest_N=16.2e9,
    )
