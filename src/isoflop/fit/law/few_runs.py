"""What a handful of runs says about a scaling law: draws from a posterior, under two forms at once.

With ten or twenty runs the five parameters are not determined, an optimiser ends on its bounds, and a bootstrap
of rows understates what is open. Here the two exponents lie on a grid with a weak prior; given them the law is
linear in the rest, so those are integrated in closed form:

    additive       L = E + A s + B d,     s = N^-alpha,  d = D^-beta          (Hoffmann et al. 2022)
    second order   L = E + A s + B d + P s^2 + Q s d + R d^2

The second form stands for "the law is not exact": the next terms of an expansion in the two small quantities s and
d, with a prior that keeps them a fraction of the first ones. They fade as runs grow, so they say that small runs may
mislead, and they bend the path of optima, which the first form draws straight. Draws come from both forms, in
proportion to how well each explains the runs, but never fewer than a floor from either.

Noise is relative to the loss, with a prior on its size and Student weights against outliers. Left out: many
runs (`isoflop.fit.law.parametric` is exact there, and certified), and which run to do next.

Letters: N parameters, D tokens, C training FLOPs; n runs, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_ndtr

Array = np.ndarray

GRID = 25
"""Nodes for each exponent."""
ROUNDS = 3
"""Times the grid is laid anew around the mass that the last one found."""
T_DF = 4.0
"""Degrees of freedom of the Student weights."""
KEPT = 0.7666
"""Share of the squared residuals that the Student weights keep when the noise is Gaussian: E[w z^2]."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed before the first run.

    The sixteen exponents of eight published fits of the additive form, language and multimodal models, run from
    0.18 to 0.71 with a median of 0.34; the default log-normal holds all but one of them in its middle 95 %.
    """

    exponent: float = 0.35
    """Median of alpha and of beta."""
    exponent_sd: float = 0.35
    """Standard deviation of their logarithms."""
    noise: float = 0.005
    """Typical standard deviation of one run's loss, relative."""
    noise_df: float = 4.0
    """How many runs that guess is worth."""
    second_order: float = 0.03
    """Standard deviation of each second-order term at the centre of the runs, in mean losses."""
    form_floor: float = 0.4
    """Smallest share of the draws that either form keeps; 0 trusts the runs alone, 0.5 trusts neither."""


class Draws(NamedTuple):
    """Laws drawn from the posterior, arrays [B]. P, Q and R are 0 where the draw is of the additive form."""

    E: Array
    A: Array
    B: Array
    alpha: Array
    beta: Array
    P: Array
    Q: Array
    R: Array
    noise: Array
    """Relative standard deviation of one run."""

    def terms(self, N: Any, D: Any) -> tuple[Array, Array, Array, Array, Array]:
        """The terms in s, d, s^2, s d and d^2; arguments broadcast against [B]."""
        s = np.exp(-self.alpha * np.log(N))
        d = np.exp(-self.beta * np.log(D))
        return self.A * s, self.B * d, self.P * s * s, self.Q * s * d, self.R * d * d

    def loss(self, N: Any, D: Any) -> Array:
        """Loss of N parameters on D tokens under each draw, floored at 1e-3: a wild draw far out is no law."""
        return np.maximum(self.E + sum(self.terms(N, D)), 1e-3)

    def best_size(self, C: float, k: float = 6.0) -> Array:
        """log N* at C FLOPs under each draw, [B]: the lowest loss along C = k N D.

        Sought within a factor of twenty of the additive part's own optimum (Hoffmann 2022, equation 4), on a grid
        with a parabola through its lowest point: a second-order draw may turn down again far outside.
        """
        log_units = np.log(C / k)
        additive = (np.log(self.alpha * self.A) - np.log(self.beta * self.B) + self.beta * log_units) / (
            self.alpha + self.beta
        )
        if not np.any(self.P) and not np.any(self.Q) and not np.any(self.R):
            return additive
        step = 0.1
        offsets = np.arange(-30, 31)[:, None] * step
        x = additive + offsets
        losses = self.loss(np.exp(x), np.exp(log_units - x))
        low = np.clip(np.argmin(losses, axis=0), 1, len(offsets) - 2)
        column = np.arange(len(additive))
        left, middle, right = (losses[low + shift, column] for shift in (-1, 0, 1))
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1.0), 0.0)
        return additive + offsets[low, 0] + step * np.clip(shift, -1.0, 1.0)


class _Nodes(NamedTuple):
    """One form on the grid of exponents: everything given the exponents, arrays [g] or [g, p], [g, p, p]."""

    alpha: Array
    beta: Array
    coefficients: Array
    covariance: Array
    """Of the coefficients, per unit of noise variance."""
    misfit: Array
    """Weighted sum of squares, in relative loss, with the prior's own and what the weights took."""
    log_weight: Array


class Posterior(NamedTuple):
    """Draws and what they were made from."""

    draws: Draws
    second_order: float
    """Posterior probability of the second form, before the floor."""
    noise: float
    """Relative standard deviation of one run: posterior median."""
    weights: Array
    """Student weights of the runs, [n]: well below 1 marks an outlier."""


def posterior(
    N: Any,
    D: Any,
    loss: Any,
    *,
    trust: Any = None,
    prior: Prior | None = None,
    num_draws: int = 400,
    seed: int = 0,
) -> Posterior:
    """Draw laws given a few runs.

    Args:
        N: parameters of each run, [n].
        D: tokens of each run, [n].
        loss: final loss of each run, [n], > 0.
        trust: weight of each run, [n], in (0, 1]: the noise variance of a full run over that of this one. All
            1 when left out.
        prior: what is believed beforehand.
        num_draws: B.
        seed: of the draws.

    Raises ValueError for fewer than three runs, or values that are not finite and positive.
    """
    prior = prior or Prior()
    N, D, loss = (np.asarray(values, dtype=float).ravel() for values in (N, D, loss))
    if len(loss) < 3:
        raise ValueError(f"{len(loss)} runs say nothing about a law of five parameters; do at least three")
    if not all(np.all(np.isfinite(values) & (values > 0)) for values in (N, D, loss)):
        raise ValueError("N, D and loss must be finite and above zero; leave failed runs out")
    trust = np.ones(len(loss)) if trust is None else np.asarray(trust, dtype=float)
    problem = _weigh(_Problem.build(N, D, loss, prior, trust))
    forms = [_refine(problem, second_order) for second_order in (False, True)]
    evidence = np.array([_log_sum(nodes.log_weight) for nodes in forms])
    # The grids differ in area once laid around their mass: `_refine` returns weights per unit area.
    chance = float(1.0 / (1.0 + np.exp(np.clip(evidence[0] - evidence[1], -50, 50))))
    share = float(np.clip(chance, prior.form_floor, 1.0 - prior.form_floor))
    rng = np.random.default_rng(seed)
    num_second = round(share * num_draws)
    parts = [
        _sample(problem, nodes, count, rng)
        for nodes, count in zip(forms, (num_draws - num_second, num_second), strict=True)
        if count
    ]
    draws = Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return Posterior(draws, chance, float(np.median(draws.noise)), problem.weights)


# ------------------------------------------------------------------------------------------ pieces


@dataclass(frozen=True)
class _Problem:
    """The runs, centred: u = log N - mean, v = log D - mean; relative residuals."""

    u: Array
    v: Array
    center: tuple[float, float]
    loss: Array
    trust: Array
    weights: Array
    """Trust times the Student weight."""
    prior: Prior

    @classmethod
    def build(cls, N: Array, D: Array, loss: Array, prior: Prior, trust: Array) -> _Problem:
        center = (float(np.log(N).mean()), float(np.log(D).mean()))
        return cls(np.log(N) - center[0], np.log(D) - center[1], center, loss, trust, trust, prior)

    @property
    def scale(self) -> float:
        return float(self.loss.mean())


def _moments(problem: _Problem, log_alpha: Array, log_beta: Array, order: int) -> tuple[Array, Array]:
    """Sums over runs of s^a d^b times w / y^2 and times w / y, [order + 1, order + 1, g].

    The nodes are a product of two axes, so each sum is a product of two small matrices, not a sum per node.
    """
    size = np.exp(-np.exp(log_alpha)[:, None] * problem.u)
    data = np.exp(-np.exp(log_beta)[:, None] * problem.v)
    powers_s = np.stack([size**a for a in range(order + 1)])  # [a, GRID, n]
    powers_d = np.stack([data**b for b in range(order + 1)])
    sums = []
    for weight in (problem.weights / problem.loss**2, problem.weights / problem.loss):
        flat = (powers_s * weight).reshape(-1, len(weight)) @ powers_d.reshape(-1, len(weight)).T
        shaped = flat.reshape(order + 1, len(log_alpha), order + 1, len(log_beta))
        sums.append(np.moveaxis(shaped, 1, 2).reshape(order + 1, order + 1, -1))
    return sums[0], sums[1]


def _solve(problem: _Problem, log_alpha: Array, log_beta: Array, second_order: bool) -> _Nodes:
    """Integrate the coefficients at each node of the two axes of exponents, g = GRID^2."""
    prior, y, w = problem.prior, problem.loss, problem.weights
    terms = [(0, 0), (1, 0), (0, 1)]
    sds = [2.0, 2.0, 2.0]
    if second_order:
        terms += [(2, 0), (1, 1), (0, 2)]
        sds += [prior.second_order] * 3
    squares, products = _moments(problem, log_alpha, log_beta, 4 if second_order else 2)
    alpha, beta = (np.exp(axis).ravel() for axis in np.meshgrid(log_alpha, log_beta, indexing="ij"))
    noise2 = prior.noise**2
    ridge = noise2 / (np.array(sds) * problem.scale) ** 2
    H = np.empty((len(alpha), len(terms), len(terms)))
    for p, (a, b) in enumerate(terms):
        for q, (c, d) in enumerate(terms):
            H[:, p, q] = squares[a + c, b + d]
    H += np.diag(ridge)
    right = np.stack([products[a, b] for a, b in terms], axis=1)
    covariance = np.linalg.inv(H)
    coefficients = np.einsum("gpq,gq->gp", covariance, right)
    misfit = np.maximum(w.sum() - np.einsum("gp,gp->g", coefficients, right), 0.0) / KEPT
    df = prior.noise_df + len(y)
    left_over = prior.noise_df * noise2 + misfit
    sd = np.sqrt(np.einsum("gpp->gp", covariance) * (left_over / df)[:, None])
    positive = log_ndtr(coefficients[:, :3] / sd[:, :3]).sum(axis=1)  # E, A, B are not negative
    log_prior = -0.5 * ((np.log(alpha) - np.log(prior.exponent)) / prior.exponent_sd) ** 2
    log_prior = log_prior - 0.5 * ((np.log(beta) - np.log(prior.exponent)) / prior.exponent_sd) ** 2
    log_weight = (
        -0.5 * np.linalg.slogdet(H)[1]
        + 0.5 * np.log(ridge).sum()
        - 0.5 * df * np.log(left_over)
        + positive
        + log_prior
    )
    return _Nodes(alpha, beta, coefficients, covariance, misfit, log_weight)


def _axes(low: Array, high: Array) -> tuple[Array, Array, float]:
    """Axes of log alpha and log beta through a box, and the log area of one cell."""
    log_alpha, log_beta = (np.linspace(low[k], high[k], GRID) for k in range(2))
    area = float(np.log(log_alpha[1] - log_alpha[0]) + np.log(log_beta[1] - log_beta[0]))
    return log_alpha, log_beta, area


def _refine(problem: _Problem, second_order: bool, rounds: int = ROUNDS) -> _Nodes:
    """Lay the grid around the mass; the weights returned integrate over the box (log of weight x cell)."""
    width = 3.0 * problem.prior.exponent_sd
    center = np.full(2, np.log(problem.prior.exponent))
    low, high = center - width, center + width
    for turn in range(rounds):
        log_alpha, log_beta, area = _axes(low, high)
        nodes = _solve(problem, log_alpha, log_beta, second_order)
        if turn == rounds - 1:
            break
        share = np.exp(nodes.log_weight - nodes.log_weight.max())
        share /= share.sum()
        points = np.log(np.stack([nodes.alpha, nodes.beta]))
        mean = points @ share
        cell = (high - low) / (GRID - 1)
        sd = np.sqrt(np.maximum(((points - mean[:, None]) ** 2) @ share, 0.0)) + 0.5 * cell
        low, high = np.maximum(mean - 4.5 * sd, low), np.minimum(mean + 4.5 * sd, high)
    return nodes._replace(log_weight=nodes.log_weight + area)


def _weigh(problem: _Problem) -> _Problem:
    """Student weights at the additive form's posterior mean, iterated: a far run counts less."""
    for _ in range(3):
        nodes = _refine(problem, False, rounds=2)
        share = np.exp(nodes.log_weight - nodes.log_weight.max())
        best = int(np.argmax(share))
        alpha, beta = nodes.alpha[best], nodes.beta[best]
        X = np.stack([np.ones_like(problem.u), np.exp(-alpha * problem.u), np.exp(-beta * problem.v)], axis=1)
        relative = 1.0 - (X @ nodes.coefficients[best]) / problem.loss
        noise2 = _noise2(problem, nodes.misfit[best])
        student = (T_DF + 1.0) / (T_DF + problem.trust * relative**2 / noise2)
        problem = replace(problem, weights=problem.trust * np.minimum(student, 1.0))
    return problem


def _noise2(problem: _Problem, misfit: float) -> float:
    prior = problem.prior
    effective = max(float(problem.weights.sum()) - 5.0, 0.0)
    return float((prior.noise_df * prior.noise**2 + misfit) / (prior.noise_df + effective))


def _sample(problem: _Problem, nodes: _Nodes, count: int, rng: np.random.Generator) -> Draws:
    share = np.exp(nodes.log_weight - nodes.log_weight.max())
    at = rng.choice(len(share), size=count, p=share / share.sum())
    prior = problem.prior
    df = prior.noise_df + max(float(problem.weights.sum()) - 5.0, 0.0)
    noise2 = (prior.noise_df * prior.noise**2 + nodes.misfit[at]) / rng.chisquare(df, count)
    root = np.linalg.cholesky(nodes.covariance[at])
    mean = nodes.coefficients[at]
    theta = np.full_like(mean, np.nan)
    wanted = np.arange(count)
    for _ in range(30):  # the part of the posterior with E, A, B above zero
        z = rng.standard_normal((len(wanted), mean.shape[1]))
        tried = mean[wanted] + np.sqrt(noise2[wanted])[:, None] * np.einsum("gpq,gq->gp", root[wanted], z)
        fine = (tried[:, :3] > 0).all(axis=1)
        theta[wanted[fine]] = tried[fine]
        wanted = wanted[~fine]
        if not len(wanted):
            break
    theta[wanted] = np.maximum(mean[wanted], 1e-6 * problem.scale)
    alpha, beta = nodes.alpha[at], nodes.beta[at]
    log_A = np.log(theta[:, 1]) + alpha * problem.center[0]
    log_B = np.log(theta[:, 2]) + beta * problem.center[1]
    second = np.zeros((3, count))
    if theta.shape[1] == 6:
        lift_s, lift_d = alpha * problem.center[0], beta * problem.center[1]
        second = theta[:, 3:].T * np.exp([2 * lift_s, lift_s + lift_d, 2 * lift_d])
    return Draws(
        theta[:, 0],
        np.exp(log_A),
        np.exp(log_B),
        alpha,
        beta,
        second[0],
        second[1],
        second[2],
        np.sqrt(noise2),
    )


def _log_sum(values: Array) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))
