"""Joint linear fits: planted slopes, textbook intervals, and what a design cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.judge.joint import fit_joint, identifiability, minimum_norm, resampled
from isoflop.laws.curves import CurveError

RNG = np.random.default_rng(0)
N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1.0, 1e4, 6)))
SCORE = 0.1 + 0.05 * np.log10(N / 1e6) + 0.07 * np.log10(D) + 0.01 * RNG.normal(size=len(N))


def test_planted_slopes_lie_in_their_intervals() -> None:
    fit = fit_joint({"N": N, "D": D}, SCORE)
    for name, truth in (("N", 0.05), ("D", 0.07)):
        found = fit.coefficient(name)
        assert found.lo < truth < found.hi
    assert fit.r2 > 0.95
    with pytest.raises(KeyError):
        fit.coefficient("px")


def test_interval_of_one_cause_is_the_textbook_one() -> None:
    from scipy.stats import linregress, t

    x, y = np.log10(D[:6] * [1, 2, 3, 4, 5, 6]), SCORE[:6]
    line = linregress(x, y)
    found = fit_joint({"D": 10**x}, y).coefficient("D")
    assert found.value == pytest.approx(line.slope, rel=1e-9)
    assert (found.hi - found.lo) / 2 == pytest.approx(t.ppf(0.975, 4) * line.stderr, rel=1e-9)


def test_prediction_says_how_far_out_it_is_and_widens() -> None:
    fit = fit_joint({"N": N, "D": D}, SCORE)
    inside, outside = fit.predict({"N": 1e7, "D": 100.0}), fit.predict({"N": 1e10, "D": 1e5})
    assert inside.decades_beyond == {"N": 0.0, "D": 0.0}
    assert outside.decades_beyond["N"] == pytest.approx(1.0)
    assert outside.mean_hi - outside.mean_lo > inside.mean_hi - inside.mean_lo
    assert outside.run_lo < outside.mean_lo < outside.value < outside.mean_hi < outside.run_hi
    lo, hi = resampled({"N": N, "D": D}, SCORE, {"N": 1e10, "D": 1e5}, num_resamples=2000)
    # Resampling and t agree to about a fifth at 30 runs.
    assert (hi - lo) == pytest.approx(outside.mean_hi - outside.mean_lo, rel=0.3)


def test_logit_stays_between_0_and_1() -> None:
    p = 1 / (1 + np.exp(-(np.log(N / 1e7) * 0.5 + 0.05 * RNG.normal(size=len(N)))))
    far = fit_joint({"N": N, "D": D}, p, scale="logit").predict({"N": 1e15, "D": 1.0})
    assert 0.99 < far.value <= 1
    assert 0 <= far.run_lo <= far.run_hi <= 1


def test_a_product_that_the_runs_do_not_hold() -> None:
    size = np.array([1e6, 1e7, 1e8, 1e9, 1e9, 1e9])  # resolution varied at the largest size alone
    px = np.array([224.0, 224, 224, 224, 448, 476])
    y = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.52])
    warnings = " ".join(identifiability({"size": size, "px": px}))
    assert "px was varied at size = 1e+09 alone" in warnings
    assert "px has 3 values" in warnings
    with pytest.raises(CurveError, match="only varied together"):
        fit_joint({"size": size, "px": px}, y, interactions=[("size", "px")])
    at = {"size": 4e9, "px": 952.0}
    one, missing = minimum_norm({"size": size, "px": px}, y, at, [("size", "px")], {"size": 1.0, "px": 1.0})
    other, _ = minimum_norm({"size": size, "px": px}, y, at, [("size", "px")], {"size": 1e9, "px": 224.0})
    assert missing == 1
    assert abs(one - other) > 1e-3
    plain, none = minimum_norm({"size": size, "px": px}, y, at, [], {"size": 1.0, "px": 1.0})
    assert none == 0
    assert plain == pytest.approx(fit_joint({"size": size, "px": px}, y).predict(at).value, rel=1e-9)


def test_bad_input() -> None:
    with pytest.raises(CurveError, match="must be positive"):
        fit_joint({"N": -N}, SCORE)
    with pytest.raises(CurveError, match="30 scores"):
        fit_joint({"N": N[:3]}, SCORE)
    with pytest.raises(CurveError, match="more than 3 runs"):
        fit_joint({"N": N[:3], "D": D[:3]}, SCORE[:3])
    with pytest.raises(CurveError, match="strictly between 0 and 1"):
        fit_joint({"N": N}, SCORE + 5, scale="logit")
    with pytest.raises(CurveError, match="no cause named px"):
        fit_joint({"N": N, "D": D}, SCORE, interactions=[("N", "px")])
