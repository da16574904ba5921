"""Other surfaces fitted to the same runs, to see how far the answer hangs on the form.

    shared   E + A/N^alpha + B/D^alpha          one exponent (Gadre et al. 2024, Muennighoff et al. 2023)
    kaplan   A (N^-alpha + R/D)^k               no floor (Kaplan et al. 2020)
    skaling  E + A (N^-alpha + R D^-beta)^k     one exponent around both (arXiv 2608.07222)

Each is fitted under Huber's loss on the log loss from the Chinchilla fit, by a trust region with delta shrunk
step by step. Point estimates: these rows stand beside the main fit, they do not replace it. Left out: Farseer's
nine parameters (`isoflop.laws.farseer` has the form), which tables of this size do not determine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.laws.skaling import SkalingLaw

Array = np.ndarray
Form = Literal["shared", "kaplan", "skaling"]


@dataclass(frozen=True)
class FormFit:
    """A surface of another form at its fit."""

    form: Form
    law: Any
    """Has `loss(N, D)` and `optimum(C)`."""
    objective: float
    """Sum of Huber's loss, comparable with `LawFit.objective` at the same delta."""
    num_parameters: int


def fit_form(
    form: Form, N: Array, D: Array, loss: Array, start: ChinchillaLaw, delta: float = 1e-3
) -> FormFit:
    """Fit one form, starting at a Chinchilla fit.

    Args:
        form: which surface.
        N, D, loss: runs, [n].
        start: Chinchilla fit of the same runs.
        delta: of Huber's loss.
    """
    from scipy.optimize import least_squares

    x0, y0 = float(np.log(N).mean()), float(np.log(D).mean())
    build = _builder(form, x0, y0, start.k)
    t = np.log(loss)

    def residuals(p: Array) -> Array:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # a wild trial step is refused
            return np.log(build(p).loss(N, D)) - t

    best: Any = None
    for theta in _starts(form, start, x0, y0):
        for step in (0.1, 0.01, delta):
            found = least_squares(
                residuals, theta, loss="huber", f_scale=step, x_scale="jac",
                xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=200,
            )  # fmt: skip
            theta = found.x
        if best is None or found.cost < best.cost:
            best = found
    return FormFit(form, build(best.x), float(best.cost), len(best.x))


def _builder(form: Form, x0: float, y0: float, k: float) -> Callable[[Array], Any]:
    """Parameters at the centre of the data, in logs -> the law."""
    if form == "shared":

        def shared(p: Array) -> ChinchillaLaw:
            E, a, b, alpha = np.exp(p[0]), p[1], p[2], p[3]
            return ChinchillaLaw(E, np.exp(a + alpha * x0), np.exp(b + alpha * y0), alpha, alpha, k=k)

        return shared

    def skaling(p: Array) -> SkalingLaw:
        log_E, log_A, log_r, alpha, beta, power = p
        scale = np.exp(log_A + power * alpha * x0)  # so that A (N^-alpha)^power is exp(log_A) at the centre
        return SkalingLaw(
            np.exp(log_E), scale, np.exp(log_r - alpha * x0 + beta * y0), alpha, beta, power, k=k
        )

    if form == "skaling":
        return skaling
    return lambda p: skaling(np.array([-np.inf, p[0], p[1], p[2], 1.0, p[3]]))


def _starts(form: Form, law: ChinchillaLaw, x0: float, y0: float) -> list[Array]:
    a, b = np.log(law.A) - law.alpha * x0, np.log(law.B) - law.beta * y0
    if form == "shared":
        return [np.array([np.log(law.E), a, b, 0.5 * (law.alpha + law.beta)])]
    if form == "kaplan":
        total = float(np.log(law.loss(np.exp(x0), np.exp(y0))))
        return [np.array([total - 0.07, ratio, alpha, 0.1]) for alpha in (0.5, 0.9) for ratio in (-2.0, 0.0)]
    return [
        np.array([np.log(law.E), a, b - a, law.alpha / power, law.beta / power, power])
        for power in (1.0, 0.6)
    ]
