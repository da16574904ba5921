"""The Chinchilla form against its own algebra, against published numbers, and over arrays of draws."""

import math

import numpy as np
import pytest

from isoflop.laws.chinchilla import BESIROGLU, HOFFMANN, HOFFMANN_ROUNDED, ChinchillaLaw

LLAMA_3_FLOPS = 3.8e25


@pytest.mark.parametrize(
    "law", [BESIROGLU, HOFFMANN, HOFFMANN_ROUNDED, ChinchillaLaw(0.0, 3.0, 9.0, 0.2, 0.9)]
)
@pytest.mark.parametrize("C", [1e12, 1e18, LLAMA_3_FLOPS])
def test_optimum_is_where_the_loss_along_the_budget_is_flat(law, C):
    best = law.optimum(C)
    assert law.k * best.N * best.D == pytest.approx(C, rel=1e-12)  # rounding of two powers of ~1e12
    # Stationary: a relative step h changes the loss by h^2 x curvature; curvature < loss x max(exponent)^2.
    for step in (1e-3, -1e-3):
        away = law.loss_at(best.N * math.exp(step), C)
        assert 0 < away - best.loss < 1e-6 * best.loss


def test_besiroglu_allocates_llama_3_budget_as_published():
    # N* to the 3 digits known for the published coefficients; half a unit of the third digit.
    best = BESIROGLU.optimum(LLAMA_3_FLOPS)
    assert best.N == pytest.approx(619e9, abs=0.5e9)
    assert BESIROGLU.a == pytest.approx(0.513, abs=0.0005)


def test_rounding_of_hoffmann_moves_the_optimum_by_a_fifth():
    exact, rounded = HOFFMANN.optimum(LLAMA_3_FLOPS).N, HOFFMANN_ROUNDED.optimum(LLAMA_3_FLOPS).N
    assert exact == pytest.approx(273e9, abs=0.5e9)
    assert 1 - rounded / exact == pytest.approx(0.22, abs=0.005)


@pytest.mark.parametrize("eps", [1e-6, 0.0025, 0.01, 0.5])
def test_basin_edges_have_exactly_the_tolerated_loss(eps):
    best, edges = BESIROGLU.optimum(LLAMA_3_FLOPS), BESIROGLU.basin(LLAMA_3_FLOPS, eps)
    assert edges.N_lo < best.N < edges.N_hi
    for N in edges:
        # The root is found to 1e-13 in log N, where the slope is below 1 nat: the loss agrees to rounding.
        assert BESIROGLU.loss_at(N, LLAMA_3_FLOPS) == pytest.approx((1 + eps) * best.loss, rel=1e-12)


def test_basin_refuses_a_tolerance_of_zero():
    with pytest.raises(ValueError, match="must be > 0"):
        BESIROGLU.basin(1e20, 0.0)


def test_inverse_questions_undo_the_loss():
    C = 1e22
    best = BESIROGLU.optimum(C)
    # Inverting L - E ~ 0.2 of L ~ 2 to the power 1/0.18 loses about two digits of 16.
    assert BESIROGLU.equivalent_compute(best.loss) == pytest.approx(C, rel=1e-12)
    assert BESIROGLU.tokens_for_loss(best.N, best.loss) == pytest.approx(best.D, rel=1e-12)
    floor = BESIROGLU.smallest_size_for_loss(best.loss)
    assert floor < best.N
    assert math.isinf(BESIROGLU.tokens_for_loss(floor * (1 - 1e-9), best.loss))
    assert math.isinf(BESIROGLU.equivalent_compute(BESIROGLU.E))


def test_no_model_under_ninety_billion_reaches_llama_3s_loss():
    refit = ChinchillaLaw(E=1.81723, A=477.83, B=2143.4, alpha=0.34731, beta=0.36717)  # Huber, 240 points
    floor = refit.smallest_size_for_loss(refit.loss(405e9, 15.6e12))
    assert floor == pytest.approx(90e9, abs=1e9)  # one unit of the second digit


def test_arrays_of_draws_broadcast():
    laws = [BESIROGLU, HOFFMANN]
    stacked = ChinchillaLaw(
        *(np.array([getattr(law, name) for law in laws]) for name in ("E", "A", "B", "alpha", "beta"))
    )
    best, edges = stacked.optimum(LLAMA_3_FLOPS), stacked.basin(LLAMA_3_FLOPS, 0.01)
    for index, law in enumerate(laws):
        # Same formulas, same floating-point operations up to the vector library's last digits.
        assert best.N[index] == pytest.approx(law.optimum(LLAMA_3_FLOPS).N, rel=1e-13)
        assert edges.N_lo[index] == pytest.approx(law.basin(LLAMA_3_FLOPS, 0.01).N_lo, rel=1e-12)
    assert isinstance(BESIROGLU.optimum(1e20).N, float)
