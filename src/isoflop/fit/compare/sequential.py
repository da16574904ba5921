"""Looking at a comparison before it is finished, without fooling oneself.

Two kinds of tests allow it. A group-sequential plan names its looks and its maximum beforehand and spends
the error over them; it may also stop for futility. An anytime-valid test may be looked at after every
seed or item, for ever, because its evidence (an e-value) is bounded in expectation when nothing differs.
Beside them stand the naive habits, a t test at every look and keeping whatever is lower, so that a report
can show what they cost. Everything is two-sided. Left out: one-look tests (`compare`) and choosing the
design from a wanted power (`power.plan_looks`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Shape = Literal["obrien-fleming", "pocock"]
Decision = Literal["stop: different", "stop: futile", "go on", "end: cannot tell"]

CALIBRATION_DRAWS = 200_000
"""Simulated studies behind a calibrated boundary: its error is then 0.05 percentage points of 5."""


@dataclass(frozen=True, kw_only=True)
class GroupSequentialPlan:
    """Looks, boundaries and what they promise. Made by `plan_group_sequential`, fixed before the first run."""

    looks: tuple[int, ...]
    """Seeds per arm (pairs, when paired) at each look, increasing; the last is the declared maximum."""
    bounds: tuple[float, ...]
    """Claim a difference when |statistic| reaches this at that look."""
    futility_bounds: tuple[float, ...]
    """Give up when |statistic| is below this at that look; 0 never does. The last is always 0."""
    alpha: float
    shape: Shape
    paired: bool
    noise_df: float | None
    """Degrees of freedom of a noise learned elsewhere (inf: known); None estimates it from the runs."""
    effect_in_sd: float | None
    """The effect that the plan is made for, in standard deviations of one run (of one paired difference)."""
    power: float | None
    """Chance to claim a difference of that size; None without an effect."""
    mean_seeds_null: float
    """Expected seeds per arm when nothing differs."""
    mean_seeds_effect: float | None
    """Expected seeds per arm at the planned effect."""
    calibration: str
    """How the boundaries were found, in words."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look says."""

    number: int
    """1 for the first."""
    num_seeds: int
    statistic: float
    bound: float
    futility_bound: float
    decision: Decision
    difference: float
    """B minus A."""
    lo: float
    hi: float
    """Repeated confidence interval (Jennison and Turnbull 1989): valid at all looks together."""


@dataclass(frozen=True, kw_only=True)
class AnytimeEvidence:
    """What an anytime-valid test says after all that has been seen so far."""

    log_e: tuple[float, ...]
    """Natural logarithm of the e-value after each observation."""
    p: float
    """Anytime-valid p value: 1 / the largest e-value so far, at most 1."""
    stopped_at: int | None
    """Observations when the e-value first reached 1/alpha; None while it has not."""
    difference: float
    lo: float | None
    hi: float | None
    """Confidence sequence: covers the truth at all times together; None while it is unbounded."""
    method: str


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """How often a procedure claims a difference, and what it spends. Measured by simulation."""

    name: str
    false_positive_rate: float
    """Share of studies with a claim when nothing differs."""
    power: float
    """Share of studies with a claim at the planned effect."""
    mean_seeds_null: float
    mean_seeds_effect: float
    honest: bool
    """False for the naive habits."""


# ------------------------------------------------------------------------- boundaries


def spend(fraction: float, alpha: float, shape: Shape) -> float:
    """Error spent up to an information fraction in [0, 1] (Lan and DeMets 1983; each side spends half)."""
    from scipy import special

    if fraction <= 0:
        return 0.0
    if shape == "obrien-fleming":
        return float(4 * special.ndtr(special.ndtri(alpha / 4) / math.sqrt(min(fraction, 1.0))))
    return alpha * math.log1p((math.e - 1) * min(fraction, 1.0))


def normal_bounds(fractions: Sequence[float], alpha: float = 0.05, shape: Shape = "obrien-fleming") -> Floats:
    """Boundaries on |z| that spend `alpha` over looks at these information fractions, for known noise.

    By the recursion of Armitage, McPherson and Rowe (1969): the density of the score process inside the
    boundaries is carried from look to look and integrated by Gauss-Legendre quadrature.
    """
    from scipy import optimize

    times = _check_fractions(fractions)
    _check_alpha(alpha)
    density = _Density.start()
    bounds: list[float] = []
    spent = 0.0
    for k, time in enumerate(times):
        step = time - (times[k - 1] if k else 0.0)
        target = spend(time, alpha, shape) - spent
        edge = optimize.brentq(
            lambda x, d=density, s=step, wanted=target: sum(d.crossing(x, s, 0.0)) - wanted, 1e-9, 40.0
        )
        spent += sum(density.crossing(edge, step, 0.0))
        bounds.append(edge / math.sqrt(time))
        density = density.carry(edge, 0.0, step, 0.0)
    return np.array(bounds)


@dataclass(frozen=True)
class _Density:
    """Density of the score process at a look, on quadrature nodes inside the boundaries."""

    nodes: Floats
    mass: Floats
    """Density times quadrature weight."""

    @classmethod
    def start(cls) -> _Density:
        return cls(np.zeros(1), np.ones(1))

    def crossing(self, edge: float, step: float, drift: float) -> tuple[float, float]:
        """Chance to be above edge, and below -edge, one step of information later."""
        from scipy import special

        mean, scale = self.nodes + drift * step, math.sqrt(step)
        above = float(self.mass @ special.ndtr((mean - edge) / scale))
        return above, float(self.mass @ special.ndtr((-edge - mean) / scale))

    def carry(self, edge: float, inner: float, step: float, drift: float) -> _Density:
        """Density one step later, on inner < |x| < edge."""
        scale = math.sqrt(step)
        # The integrand varies over `scale`: about ten nodes to each keep the quadrature exact to 1e-10.
        num = max(48, math.ceil(10 * (edge - inner) / scale))
        unit, weights = np.polynomial.legendre.leggauss(num)
        half = (edge - inner) / 2
        right = inner + half * (unit + 1)
        nodes = np.concatenate([-right[::-1], right])
        weight = half * np.concatenate([weights[::-1], weights])
        offsets = (nodes[:, None] - self.nodes[None, :] - drift * step) / scale
        values = np.exp(-0.5 * offsets**2) @ self.mass / (scale * math.sqrt(2 * math.pi))
        return _Density(nodes, values * weight)

    @property
    def total(self) -> float:
        return float(self.mass.sum())


def plan_group_sequential(
    looks: Sequence[int],
    *,
    alpha: float = 0.05,
    shape: Shape = "obrien-fleming",
    noise_df: float | None = None,
    paired: bool = False,
    effect_in_sd: float | None = None,
    futility: float | None = 0.2,
) -> GroupSequentialPlan:
    """Fix looks and boundaries before the first run.

    Args:
        looks: seeds per arm at each look, increasing, for example (2, 4, 6, 8).
        alpha: two-sided level of all looks together.
        shape: "obrien-fleming" saves the error for the end; "pocock" spends it evenly.
        noise_df: None when the noise is estimated from the runs themselves (then at least two per arm at
            the first look, three pairs when paired); degrees of freedom of a pooled noise; inf when known.
        paired: True when seed i of A and of B belong together.
        effect_in_sd: smallest effect of interest in standard deviations of one run (of one paired
            difference); needed for power and for futility.
        futility: give up when the chance of a claim at the end, were the planned effect true, is below
            this (stochastic curtailment; Lan, Simon and Halperin 1982); None never gives up. It is not
            binding: going on does not raise the false-positive rate.

    Boundaries for known noise come from `normal_bounds`; with estimated or pooled noise they are
    calibrated by simulating the t statistics of studies in which nothing differs.

    Raises:
        ValueError: looks that do not increase, or too few seeds at the first to estimate the noise.
    """
    numbers = _check_looks(looks, noise_df, paired)
    _check_alpha(alpha)
    if effect_in_sd is not None and not effect_in_sd > 0:
        raise ValueError(f"effect_in_sd is {effect_in_sd}; it must be positive")
    if noise_df is not None and math.isinf(noise_df):
        bounds = normal_bounds([n / numbers[-1] for n in numbers], alpha, shape)
        calibration = "numerical recursion"
    else:
        bounds = np.array(_calibrated_bounds(numbers, alpha, shape, noise_df, paired))
        calibration = f"{CALIBRATION_DRAWS} simulated studies"
    inner = _futility_bounds(numbers, float(bounds[-1]), effect_in_sd, futility, paired)
    null = _operate(numbers, bounds, inner, noise_df, paired, 0.0)
    real = None
    if effect_in_sd is not None:
        real = _operate(numbers, bounds, inner, noise_df, paired, effect_in_sd)
    return GroupSequentialPlan(
        looks=numbers,
        bounds=tuple(map(float, bounds)),
        futility_bounds=tuple(map(float, inner)),
        alpha=alpha,
        shape=shape,
        paired=paired,
        noise_df=noise_df,
        effect_in_sd=effect_in_sd,
        power=real.rate if real else None,
        mean_seeds_null=null.mean_seeds,
        mean_seeds_effect=real.mean_seeds if real else None,
        calibration=calibration,
    )


def _futility_bounds(
    looks: tuple[int, ...],
    last_bound: float,
    effect_in_sd: float | None,
    futility: float | None,
    paired: bool,
) -> Floats:
    """|z| below which a claim at the end is less likely than `futility` at the planned effect."""
    from scipy import special

    inner = np.zeros(len(looks))
    if futility is None or effect_in_sd is None:
        return inner
    _check_alpha(futility, "futility")
    times = np.array(looks[:-1]) / looks[-1]
    end_drift = effect_in_sd * math.sqrt(looks[-1] * (1.0 if paired else 0.5))
    left = 1 - times
    quantile = -special.ndtri(futility)
    inner[:-1] = (last_bound - end_drift * left - quantile * np.sqrt(left)) / np.sqrt(times)
    return np.maximum(inner, 0.0)


@functools.lru_cache(maxsize=256)
def _calibrated_bounds(
    looks: tuple[int, ...], alpha: float, shape: Shape, noise_df: float | None, paired: bool
) -> tuple[float, ...]:
    """Boundaries on |t|: at each look the share of null studies that have crossed equals the error spent.

    A look whose share of the error is too small for the simulation (fewer than 200 studies) takes the t
    quantile of the same tail as the normal boundary (Pocock 1977); at a first look that is exact.
    """
    from scipy import special, stats

    rng = np.random.default_rng(20_240_229)
    statistics = np.abs(_simulate_statistics(looks, 0.0, noise_df, paired, CALIBRATION_DRAWS, rng))
    normal = normal_bounds([n / looks[-1] for n in looks], alpha, shape)
    alive = np.ones(CALIBRATION_DRAWS, dtype=bool)
    bounds = []
    for k, look in enumerate(looks):
        crossed = CALIBRATION_DRAWS - int(alive.sum())
        due = round(spend(look / looks[-1], alpha, shape) * CALIBRATION_DRAWS) - crossed
        if due < 200:
            df = noise_df if noise_df is not None else _own_df(look, paired)
            bound = float(stats.t.isf(special.ndtr(-normal[k]), df))
        else:
            values = statistics[alive, k]
            bound = float(np.partition(values, len(values) - due)[len(values) - due])
        alive &= statistics[:, k] < bound
        bounds.append(bound)
    return tuple(bounds)


@dataclass(frozen=True)
class _Operation:
    rate: float
    mean_seeds: float


def _operate(
    looks: tuple[int, ...],
    bounds: Floats,
    inner: Floats,
    noise_df: float | None,
    paired: bool,
    effect_in_sd: float,
) -> _Operation:
    """Chance of a claim and expected seeds: by recursion for known noise, else by simulation."""
    if noise_df is None or not math.isinf(noise_df):
        rng = np.random.default_rng(20_240_301)
        statistics = _simulate_statistics(looks, effect_in_sd, noise_df, paired, 40_000, rng)
        return _outcome(_run_plan(statistics, looks, bounds, inner))
    times = np.array(looks) / looks[-1]
    drift = effect_in_sd * math.sqrt(looks[-1] * (1.0 if paired else 0.5))
    density, rate, seeds, going = _Density.start(), 0.0, 0.0, 1.0
    for k, time in enumerate(times):
        seeds += going * (looks[k] - (looks[k - 1] if k else 0))
        step = time - (times[k - 1] if k else 0.0)
        edge = float(bounds[k] * math.sqrt(time))
        rate += sum(density.crossing(edge, step, drift))
        density = density.carry(edge, float(min(inner[k] * math.sqrt(time), edge)), step, drift)
        going = density.total
    return _Operation(rate, seeds)


def take_look(
    plan: GroupSequentialPlan, scores_a: ArrayLike, scores_b: ArrayLike, *, sd: float | None = None
) -> Look:
    """Judge the seeds finished so far by the plan.

    Args:
        plan: fixed before the first run.
        scores_a, scores_b: one number per seed, equally many, as many as one of the plan's looks.
        sd: the learned noise (of one run; of a paired difference when paired), exactly when the plan
            was made for one.

    Raises:
        ValueError: a number of seeds at which the plan has no look, or a noise that does not fit the plan.
    """
    a, b = np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"{a.size} seeds in A and {b.size} in B; a look needs equally many")
    if len(a) not in plan.looks:
        raise ValueError(
            f"{len(a)} seeds per arm, but the plan looks at {plan.looks}; wait for the next look"
        )
    if (sd is None) != (plan.noise_df is None):
        wanted = (
            "estimates the noise from the runs" if plan.noise_df is None else "needs the learned noise sd"
        )
        raise ValueError(f"this plan {wanted}; sd is {sd}")
    number = plan.looks.index(len(a))
    difference = float((b - a).mean())
    if sd is None:
        spread = float((b - a).std(ddof=1)) if plan.paired else math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    else:
        spread = sd
    error = spread * math.sqrt((1 if plan.paired else 2) / len(a))
    if error == 0:
        raise ValueError("no spread between the seeds; they are copies of one run")
    bound, inner = plan.bounds[number], plan.futility_bounds[number]
    statistic = difference / error
    last = number == len(plan.looks) - 1
    decision: Decision = "end: cannot tell" if last else "go on"
    if abs(statistic) >= bound:
        decision = "stop: different"
    elif abs(statistic) < inner:
        decision = "stop: futile"
    return Look(
        number=number + 1,
        num_seeds=len(a),
        statistic=statistic,
        bound=bound,
        futility_bound=inner,
        decision=decision,
        difference=difference,
        lo=difference - bound * error,
        hi=difference + bound * error,
    )


# ---------------------------------------------------------------------- anytime-valid tests


def log_e_normal(sums: ArrayLike, counts: ArrayLike, sd: float, effect_sd: float) -> Floats:
    """Normal mixture of likelihood ratios for a mean of 0, known noise (Robbins 1970).

    Args:
        sums: running sum of the differences.
        counts: how many they are.
        sd: standard deviation of one difference.
        effect_sd: spread of the true effects one looks for, in the unit of the differences.
    """
    total, count = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    ratio = count * (effect_sd / sd) ** 2
    return -0.5 * np.log1p(ratio) + 0.5 * (total / sd) ** 2 / count * ratio / (1 + ratio)


def log_e_t(t_statistics: ArrayLike, counts: ArrayLike, effect_in_sd: float) -> Floats:
    """The same with unknown noise: mixture over effects in units of the noise, for the t statistic.

    The noise is integrated out under its right Haar prior, which leaves a test martingale for the sequence
    of t statistics (Lai 1976; Wang and Ramdas 2024, "Anytime-valid t-tests", section 4). One observation
    alone says nothing: its log e-value is 0.
    """
    t, count = np.asarray(t_statistics, dtype=float), np.asarray(counts, dtype=float)
    ratio = count * effect_in_sd**2
    df = np.maximum(count - 1, 1e-300)
    share = np.where(count > 1, t * t / df, 0.0)
    value = -0.5 * np.log1p(ratio) + 0.5 * count * (np.log1p(share) - np.log1p(share / (1 + ratio)))
    return np.where(count > 1, value, 0.0)


def log_e_signs(wins_a: ArrayLike, wins_b: ArrayLike, *, prior: float = 0.5) -> Floats:
    """Items that only one of two models has right, one after the other: beta-binomial mixture against a fair
    coin, an anytime-valid McNemar test (Robbins 1970, section 4)."""
    from scipy import special

    a, b = np.asarray(wins_a, dtype=float), np.asarray(wins_b, dtype=float)
    return special.betaln(a + prior, b + prior) - special.betaln(prior, prior) + (a + b) * math.log(2)


def log_e_bets(differences: ArrayLike) -> Floats:
    """Bounded differences in [-1, 1] with any distribution: half the stake bets on each side.

    Each bet is a share of the capital fixed before the observation, from the mean and spread so far
    (Waudby-Smith and Ramdas 2024, section 4, approximate Kelly bets, at most one half).

    Args:
        differences: shape (..., n); the last axis is time.
    """
    d = np.asarray(differences, dtype=float)
    if d.size and np.abs(d).max() > 1:
        raise ValueError("differences must lie in [-1, 1]; divide the scores by their range")
    before = np.cumsum(d, axis=-1) - d
    squares = np.cumsum(d * d, axis=-1) - d * d
    bet = np.clip(before / (squares + 1.0), 0.0, 0.5), np.clip(-before / (squares + 1.0), 0.0, 0.5)
    up = np.cumsum(np.log1p(bet[0] * d), axis=-1)
    down = np.cumsum(np.log1p(-bet[1] * d), axis=-1)
    return np.logaddexp(up, down) - math.log(2)


def anytime_seeds(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    alpha: float = 0.05,
    sd: float | None = None,
    effect_in_sd: float = 1.0,
) -> AnytimeEvidence:
    """Seeds in the order in which they finished, seed i of A against seed i of B; look whenever you like.

    Args:
        scores_a, scores_b: one number per seed, equally many.
        alpha: level at all times together.
        sd: standard deviation of one difference when known; None estimates it.
        effect_in_sd: size of effect one looks for, in standard deviations of a difference. It bears on
            power only, never on validity; it must not be chosen after looking.
    """
    a, b = np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"{a.size} and {b.size} seeds; give equally many, in pairs")
    _check_alpha(alpha)
    d = b - a
    counts = np.arange(1, len(d) + 1)
    if sd is not None:
        path = log_e_normal(np.cumsum(d), counts, sd, effect_in_sd * sd)
        half = _radius_normal(len(d), sd, effect_in_sd, alpha)
        method = "normal mixture, known noise"
    else:
        path = log_e_t(_running_t(d[None, :])[0], counts, effect_in_sd)
        spread = float(d.std(ddof=1)) if len(d) > 1 else math.inf
        half = _radius_t(len(d), spread, effect_in_sd, alpha)
        method = "t mixture, noise estimated"
    return _evidence(path, alpha, float(d.mean()), half, method)


def anytime_items(scores_a: ArrayLike, scores_b: ArrayLike, *, alpha: float = 0.05) -> AnytimeEvidence:
    """Items in the order in which they were scored; look whenever you like.

    Right-or-wrong scores use the sign mixture, others in [0, 1] use bets. Items must be independent: with
    item families, pass one mean per family. The confidence sequence is left out (None).
    """
    a, b = np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"{a.size} and {b.size} items; compare on the same items in the same order")
    _check_alpha(alpha)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        path = log_e_signs(np.cumsum(a > b), np.cumsum(b > a))
        method = "sign mixture (anytime-valid McNemar)"
    else:
        path = log_e_bets(b - a)
        method = "bets on the bounded difference"
    return _evidence(path, alpha, float((b - a).mean()), None, method)


def _evidence(
    path: Floats, alpha: float, difference: float, half: float | None, method: str
) -> AnytimeEvidence:
    crossed = np.flatnonzero(path >= -math.log(alpha))
    finite = half is not None and math.isfinite(half)
    return AnytimeEvidence(
        log_e=tuple(map(float, path)),
        p=float(min(1.0, math.exp(-float(path.max())))),
        stopped_at=int(crossed[0]) + 1 if len(crossed) else None,
        difference=difference,
        lo=difference - half if finite and half is not None else None,
        hi=difference + half if finite and half is not None else None,
        method=method,
    )


def _radius_normal(count: int, sd: float, effect_in_sd: float, alpha: float) -> float:
    """All means whose e-value stays below 1/alpha: inverse of `log_e_normal`."""
    ratio = count * effect_in_sd**2
    return sd * math.sqrt(2 * (math.log(1 / alpha) + 0.5 * math.log1p(ratio)) * (1 + ratio) / ratio / count)


def _radius_t(count: int, spread: float, effect_in_sd: float, alpha: float) -> float:
    """Inverse of `log_e_t`; infinite while no t statistic could reach 1/alpha."""
    ratio = count * effect_in_sd**2
    growth = math.exp(min(2 * (math.log(1 / alpha) + 0.5 * math.log1p(ratio)) / count, 700.0))
    if count < 2 or growth >= 1 + ratio:
        return math.inf
    share = (growth - 1) / (1 - growth / (1 + ratio))
    return spread * math.sqrt(share * (count - 1) / count)


# ------------------------------------------------------------------------------ simulation


def simulate_procedures(
    plan: GroupSequentialPlan, *, num_simulations: int = 10_000, rng: np.random.Generator
) -> tuple[Procedure, ...]:
    """Measure the plan, the anytime-valid tests and the naive habits on the same kind of studies.

    Each study has `plan.looks[-1]` seeds per arm. The anytime tests and the habit of peeking look after
    every seed; "keep if lower" compares one seed of each and keeps B when it is lower.

    Raises ValueError for a plan without an effect.
    """
    if plan.effect_in_sd is None:
        raise ValueError("the plan names no effect; power and savings need one")
    measured = []
    for effect in (0.0, plan.effect_in_sd):
        measured.append(_measure(plan, effect, num_simulations, rng))
    return tuple(
        Procedure(
            name=name,
            false_positive_rate=measured[0][name].rate,
            power=measured[1][name].rate,
            mean_seeds_null=measured[0][name].mean_seeds,
            mean_seeds_effect=measured[1][name].mean_seeds,
            honest=name not in ("peeking t test", "keep if lower"),
        )
        for name in measured[0]
    )


def _measure(
    plan: GroupSequentialPlan, effect: float, num: int, rng: np.random.Generator
) -> dict[str, _Operation]:
    maximum = plan.looks[-1]
    statistics = _simulate_statistics(plan.looks, effect, plan.noise_df, plan.paired, num, rng)
    no_futility = np.zeros(len(plan.looks))
    found: dict[str, _Operation] = {}
    for name, inner in (
        ("group-sequential", no_futility),
        ("group-sequential with futility", np.array(plan.futility_bounds)),
    ):
        found[name] = _outcome(_run_plan(statistics, plan.looks, np.array(plan.bounds), inner))
    # The anytime tests see pairs; the sd of a difference of independent runs is sqrt(2) of one run's.
    scaled = effect if plan.paired else effect / math.sqrt(2)
    differences = rng.standard_normal((num, maximum)) + scaled
    counts = np.arange(1, maximum + 1)
    aim = plan.effect_in_sd / (1.0 if plan.paired else math.sqrt(2)) if plan.effect_in_sd else 1.0
    running = _running_t(differences)
    found["anytime, noise estimated"] = _first_crossing(log_e_t(running, counts, aim), plan.alpha)
    known = log_e_normal(np.cumsum(differences, axis=1), counts, 1.0, aim)
    found["anytime, noise known"] = _first_crossing(known, plan.alpha)
    found["one look at the end"] = _fixed(statistics[:, -1], plan)
    found["peeking t test"] = _peek(plan, effect, num, rng)
    lower = rng.standard_normal(num) < scaled
    found["keep if lower"] = _Operation(float(lower.mean()), 1.0)
    return found


def _first_crossing(log_e: Floats, alpha: float) -> _Operation:
    crossed = log_e >= -math.log(alpha)
    any_crossed = crossed.any(axis=1)
    seeds = np.where(any_crossed, crossed.argmax(axis=1) + 1, log_e.shape[1])
    return _Operation(float(any_crossed.mean()), float(seeds.mean()))


def _fixed(statistics: Floats, plan: GroupSequentialPlan) -> _Operation:
    from scipy import special, stats

    df = plan.noise_df if plan.noise_df is not None else _own_df(plan.looks[-1], plan.paired)
    critical = -special.ndtri(plan.alpha / 2) if math.isinf(df) else stats.t.isf(plan.alpha / 2, df)
    return _Operation(float((np.abs(statistics) >= critical).mean()), float(plan.looks[-1]))


def _peek(plan: GroupSequentialPlan, effect: float, num: int, rng: np.random.Generator) -> _Operation:
    """A plain t test after every seed from the third on, stopping at the first that is significant."""
    from scipy import stats

    looks = tuple(range(min(3, plan.looks[-1]), plan.looks[-1] + 1))
    statistics = _simulate_statistics(looks, effect, None, plan.paired, num, rng)
    bounds = stats.t.isf(plan.alpha / 2, [_own_df(look, plan.paired) for look in looks])
    return _outcome(_run_plan(statistics, looks, np.asarray(bounds), np.zeros(len(looks))))


@dataclass(frozen=True, kw_only=True)
class KeepIfLower:
    """What greedy search reports after many edits that change nothing."""

    mean_kept: float
    """Edits kept."""
    apparent_gain_in_sd: float
    """Mean drop of the recorded best score, in standard deviations of one run."""


def simulate_keep_if_lower(
    num_edits: int, *, num_simulations: int = 10_000, rng: np.random.Generator
) -> KeepIfLower:
    """Run one seed per worthless edit and keep each edit that scores lower than the best so far."""
    scores = rng.standard_normal((num_simulations, num_edits + 1))
    best = np.minimum.accumulate(scores, axis=1)
    kept = (scores[:, 1:] < best[:, :-1]).sum(axis=1)
    return KeepIfLower(mean_kept=float(kept.mean()), apparent_gain_in_sd=float(-best[:, -1].mean()))


@dataclass(frozen=True)
class _Stops:
    claimed: NDArray[np.bool_]
    seeds: Floats


def _run_plan(statistics: Floats, looks: Sequence[int], bounds: Floats, inner: Floats) -> _Stops:
    """Follow studies through the looks until each ends."""
    size = np.abs(statistics)
    crossed, futile = size >= bounds, size < inner
    stops = crossed | futile
    stops[:, -1] = True
    first = stops.argmax(axis=1)
    return _Stops(crossed[np.arange(len(size)), first], np.asarray(looks, dtype=float)[first])


def _outcome(stops: _Stops) -> _Operation:
    return _Operation(float(stops.claimed.mean()), float(stops.seeds.mean()))


def _simulate_statistics(
    looks: Sequence[int],
    effect_in_sd: float,
    noise_df: float | None,
    paired: bool,
    num: int,
    rng: np.random.Generator,
) -> Floats:
    """t (or z) statistics at the looks of `num` studies, shape (num, looks).

    Only what the statistics need is drawn: the mean and the sum of squares of the runs added between two
    looks, merged with those before (Chan, Golub and LeVeque 1983).
    """
    arms = 1 if paired else 2
    out = np.empty((num, len(looks)))
    mean = np.zeros((num, arms))
    squares = np.zeros((num, arms))
    before = 0
    spread = np.ones(num)
    if noise_df is not None and not math.isinf(noise_df):
        spread = np.sqrt(rng.chisquare(noise_df, num) / noise_df)
    centre = np.array([effect_in_sd]) if paired else np.array([0.0, effect_in_sd])
    for k, look in enumerate(looks):
        added = look - before
        new = centre + rng.standard_normal((num, arms)) / math.sqrt(added)
        gap = new - mean
        if noise_df is None:
            own = rng.chisquare(added - 1, (num, arms)) if added > 1 else 0.0
            squares = squares + own + gap**2 * before * added / look
        mean = mean + gap * added / look
        before = look
        if noise_df is None:
            spread = np.sqrt(squares.sum(axis=1) / _own_df(look, paired))
        change = mean[:, 0] if paired else mean[:, 1] - mean[:, 0]
        out[:, k] = change / (spread * math.sqrt(arms / look))
    return out


def _running_t(differences: Floats) -> Floats:
    """t statistic of the mean after each observation along the last axis; 0 after the first."""
    counts = np.arange(1, differences.shape[-1] + 1)
    sums = np.cumsum(differences, axis=-1)
    squares = np.maximum(np.cumsum(differences**2, axis=-1) - sums**2 / counts, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = sums / np.sqrt(counts) / np.sqrt(squares / (counts - 1))
    t[..., 0] = 0.0
    return t


def _own_df(look: int, paired: bool) -> float:
    return float(look - 1 if paired else 2 * (look - 1))


def _check_looks(looks: Sequence[int], noise_df: float | None, paired: bool) -> tuple[int, ...]:
    numbers = tuple(int(look) for look in looks)
    if not numbers or numbers[0] < 1 or any(b <= a for a, b in itertools.pairwise(numbers)):
        raise ValueError(
            f"looks are {tuple(looks)}; give increasing numbers of seeds, for example 2, 4, 6, 8"
        )
    if noise_df is None and numbers[0] < 2:
        raise ValueError("one seed per arm shows no noise; look first at two, or give a learned noise")
    if noise_df is not None and not noise_df > 0:
        raise ValueError(f"noise_df is {noise_df}; it must be positive")
    return numbers


def _check_fractions(fractions: Sequence[float]) -> list[float]:
    times = [float(value) for value in fractions]
    if not times or times[0] <= 0 or any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError(f"information fractions are {times}; they must be positive and increase")
    if not math.isclose(times[-1], 1.0):
        raise ValueError(f"the last information fraction is {times[-1]}; the declared maximum is 1")
    return times


def _check_alpha(value: float, name: str = "alpha") -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
