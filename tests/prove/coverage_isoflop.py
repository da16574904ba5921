"""How often the intervals of `isoflop.fit.isoflop.sweep` hold the truth, on sweeps simulated from known laws.

    python tests/prove/coverage_isoflop.py --out coverage.json [--simulations 4000] [--seed 0]

A fixed list of designs; in each, thousands of sweeps are drawn from a planted law with noise as measured
on small language models, fitted by the very functions that users run, and the share of 95 % intervals
that hold the planted value is counted: N_opt, the edges and half-width of its 1 % basin, the exponent, N_opt at
a budget never tried, and what an excess of 1 % of loss is worth in compute. A design holds for a quantity when
the Wilson interval of its coverage meets 93-97 % at every budget; one that misses is printed as a limit, and
none is dropped. The proof passes when no design misses among those that keep to what the fit assumes; the
others go against an assumption, named with them, to show what that costs. Five designs were not looked at
while the rules of the fit were chosen.

Conventions: an interval open to one side counts as unbounded there; one that is refused, or open to both sides,
says nothing and is not counted, and the shares of both are printed beside the coverage. Beside it, on the
same sweeps, what is usually done: an equal-weight parabola with the delta method, and a percentile
bootstrap of seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.isoflop import batch, bowl, resample
from isoflop.fit.isoflop.batch import BatchInterval, Design, Rules

Array = NDArray[np.float64]

PROVES = (
    "src/isoflop/fit/isoflop/bowl.py",
    "src/isoflop/fit/isoflop/batch.py",
    "src/isoflop/fit/isoflop/noise.py",
    "src/isoflop/fit/isoflop/resample.py",
)

TARGET = (0.93, 0.97)
EXCESS = 0.01
"""Excess of loss whose worth in compute is asked for, as a share of the lowest loss at the largest budget."""
CHUNK = 500
"""Simulations at a time: what fits the cache."""
WIDTHS_AND_DEPTHS = ((12, 2), (16, 2), (24, 2), (32, 2), (48, 2), (64, 2), (96, 3))
VOCABULARY = 512


# --------------------------------------------------------------------------------------- laws


@dataclass(frozen=True)
class PlantedLaw:
    """L(C, N) = E + r_k (a e^(-alpha t) + b e^(beta t)), t = ln N - ln N_opt(C): E + A/N^alpha + B/D^beta
    with C = 6 N D, written about its own optimum."""

    alpha: float
    beta: float
    half_width: float
    """ln of the 1 % half-width that the bowl would have as a parabola, at the reference budget."""
    loss: float
    """Lowest loss at the reference budget, nats/token."""
    reference_budget: float
    reference_size: float
    skew_drift: float = 0.0
    """beta - alpha grows by so much per factor e of budget: no law of this form does that."""
    narrowing: float = 0.0
    """ln of the half-width falls by so much per factor e of budget, beyond what the law itself does."""

    @property
    def exponent(self) -> float:
        return self.beta / (self.alpha + self.beta)

    def log_size_opt(self, budget: float) -> float:
        return math.log(self.reference_size) + self.exponent * math.log(budget / self.reference_budget)

    def profile(self, budget: float) -> Callable[[Array], Array]:
        """Loss as a function of ln N."""
        log_c = math.log(budget / self.reference_budget)
        falling = math.exp(-self.alpha * self.beta / (self.alpha + self.beta) * log_c)
        alpha = self.alpha - self.skew_drift * log_c / 2
        beta = self.beta + self.skew_drift * log_c / 2
        curvature = 0.02 * self.loss / self.half_width**2
        lift = curvature / (alpha + beta) * math.exp(2 * self.narrowing * log_c)
        level = self.lowest_loss(budget)
        a, b = falling * lift / alpha, falling * lift / beta
        centre = self.log_size_opt(budget)

        def loss(x: Array) -> Array:
            t = np.asarray(x) - centre
            return level + a * np.expm1(-alpha * t) + b * np.expm1(beta * t)

        return loss

    def lowest_loss(self, budget: float) -> float:
        floor = self._floor()
        falling = (budget / self.reference_budget) ** (-self.alpha * self.beta / (self.alpha + self.beta))
        return floor + falling * (self.loss - floor)

    def budget_of_loss(self, loss: float) -> float:
        """The budget whose lowest loss this is."""
        floor = self._floor()
        share = (loss - floor) / (self.loss - floor)
        return self.reference_budget * share ** (-(self.alpha + self.beta) / (self.alpha * self.beta))

    def _floor(self) -> float:
        """E: what no size and no data remove."""
        curvature = 0.02 * self.loss / self.half_width**2
        return self.loss - curvature / (self.alpha + self.beta) * (1 / self.alpha + 1 / self.beta)

    def basin(self, budget: float, eps: float) -> tuple[float, float]:
        """ln N of the edges, by root finding on the law itself."""
        from scipy.optimize import brentq

        loss, centre = self.profile(budget), self.log_size_opt(budget)
        top = (1 + eps) * float(loss(np.float64(centre)))

        def excess(x: float) -> float:
            return float(loss(np.float64(x))) - top

        reach = 12.0
        return (
            float(brentq(excess, centre - reach, centre, xtol=1e-12)),
            float(brentq(excess, centre, centre + reach, xtol=1e-12)),
        )


def chinchilla_law(
    E: float, A: float, B: float, alpha: float, beta: float, reference_budget: float
) -> PlantedLaw:
    """A published law (C = 6 N D) in the form above."""
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    size = G * (reference_budget / 6) ** (beta / (alpha + beta))
    tokens = reference_budget / 6 / size
    a, b = A / size**alpha, B / tokens**beta
    loss = E + a + b
    curvature = alpha**2 * a + beta**2 * b
    return PlantedLaw(alpha, beta, math.sqrt(0.02 * loss / curvature), loss, reference_budget, size)


# ------------------------------------------------------------------------------------- designs


@dataclass(frozen=True)
class Sweep:
    """One design: a law, where the points are, how noisy they are."""

    name: str
    law: PlantedLaw
    budgets: tuple[float, ...] = (3e10, 1e11, 3e11, 1e12)
    sizes: tuple[float, ...] = ()
    """Ladder of sizes to choose from."""
    num_sizes: int = 6
    """The nearest so many to the optimum, in ln N, at each budget."""
    aim: float = 0.0
    """How far above the optimum the design aims, in ln N."""
    num_seeds: int = 3
    noise_sd: float = 0.014
    """nats/token; the standard deviation between seeds."""
    noise_growth: float = 0.0
    """ln of the sd grows by so much per factor 1/e of budget."""
    correlation: float = 0.5
    size_error_sd: float = 0.0
    """nats/token that all seeds of a size at a budget share, such as from a mistuned learning rate."""
    tails: float = math.inf
    """Degrees of freedom of Student's t for both parts of the noise; infinity for normal."""
    num_groups: int = 0
    """Groups of validation windows, 0 for none."""
    window_level_sd: float = 0.25
    window_tilt_sd: float = 0.04
    """A group's own level (nats) and slope (nats per ln N), standard deviations over groups."""
    extrapolate: float = 10.0
    """Times the largest budget."""
    rules: Rules = field(default_factory=Rules)
    breaks: str = ""
    """Which assumption of the fit it goes against, so that a miss is a known limit; empty for none."""


def _ladder() -> tuple[float, ...]:
    """Parameters of the small decoders: 12 L d^2 in the blocks, embedding and head of V x d each."""
    return tuple(12.0 * L * d * d + 2 * VOCABULARY * d for d, L in WIDTHS_AND_DEPTHS)


def _geometric(first: float, ratio: float, number: int) -> tuple[float, ...]:
    return tuple(first * ratio**i for i in range(number))


SMALL = PlantedLaw(0.35, 0.35, 0.62, 3.40, 3e11, 6.5e4)
ASYMMETRIC = PlantedLaw(0.50, 0.25, 0.62, 3.40, 3e11, 6.5e4)
MULTIMODAL = PlantedLaw(0.684, 0.439, 0.50, 3.40, 3e11, 6.5e4)  # exponents of SODA, arXiv 2603.22339
BESIROGLU = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658, 1e20)
FINE = _geometric(9e3, 1.6, 10)

DESIGNS = (
    Sweep("standard: 4 budgets x 6 sizes x 3 seeds", SMALL, sizes=FINE),
    Sweep("small decoders 12x2..96x3, 3 seeds", SMALL, sizes=_ladder()),
    Sweep("2 seeds", SMALL, sizes=FINE, num_seeds=2),
    Sweep("1 seed", SMALL, sizes=FINE, num_seeds=1),
    Sweep("5 sizes, 1 seed", SMALL, sizes=FINE, num_seeds=1, num_sizes=5),
    Sweep("optimum near the edge of the sizes", SMALL, sizes=FINE, aim=0.9),
    Sweep("asymmetric law", ASYMMETRIC, sizes=FINE),
    Sweep("asymmetric law, wide window", ASYMMETRIC, sizes=_geometric(2e3, 1.9, 12), num_sizes=9),
    Sweep("asymmetric law, 5 sizes, 1 seed", ASYMMETRIC, sizes=FINE, num_seeds=1, num_sizes=5),
    Sweep("steep law (multimodal exponents)", MULTIMODAL, sizes=FINE, breaks="alpha beta of language models"),
    Sweep("branches strongly correlated (0.9)", SMALL, sizes=FINE, correlation=0.9),
    Sweep("heavy tails (t, 5 df)", SMALL, sizes=FINE, tails=5.0),
    Sweep(
        "noise grows toward small budgets",
        SMALL,
        sizes=FINE,
        noise_growth=0.2,
        breaks="noise pooled over budgets",
    ),
    Sweep("window sampling, 16 groups", SMALL, sizes=FINE, num_groups=16),
    Sweep(
        "extrapolation 100x from 3 budgets",
        SMALL,
        budgets=(3e10, 1e11, 3e11),
        sizes=FINE,
        extrapolate=100.0,
    ),
    Sweep(
        "60-second sweep: 2 budgets x 4 sizes x 2 seeds",
        SMALL,
        budgets=(3e10, 1e11),
        sizes=_ladder(),
        num_sizes=4,
        num_seeds=2,
    ),
    Sweep(
        "skewness drifts, bowls narrow with budget",
        PlantedLaw(0.35, 0.35, 0.62, 3.40, 3e11, 6.5e4, skew_drift=0.05, narrowing=0.08),
        sizes=FINE,
        breaks="skewness shared by all budgets",
    ),
    Sweep(
        "sizes mistuned by 0.010 nats",
        SMALL,
        sizes=FINE,
        size_error_sd=0.010,
        breaks="errors independent between seeds of a size",
    ),
    Sweep(
        "large scale (Besiroglu's law), 1 seed",
        BESIROGLU,
        budgets=(1e18, 1e19, 1e20, 1e21),
        sizes=_geometric(5e6, 1.7, 18),
        num_sizes=7,
        num_seeds=1,
        noise_sd=0.008,
        correlation=0.0,
    ),
    # Not looked at while the rules of the fit were chosen.
    Sweep(
        "held out: few wide sizes, noise 0.020, 5 budgets",
        PlantedLaw(0.34, 0.28, 0.80, 3.30, 3e11, 6e4),
        budgets=(1e10, 1e11, 1e12, 1e13, 1e14),
        sizes=_geometric(3e3, 1.8, 14),
        num_sizes=5,
        num_seeds=2,
        noise_sd=0.020,
        correlation=0.3,
    ),
    Sweep(
        "held out: flat law, optimum above the middle",
        PlantedLaw(0.252, 0.213, 0.70, 3.30, 3e11, 6e4),
        sizes=_geometric(5e3, 1.5, 14),
        num_sizes=7,
        aim=-0.5,
        num_seeds=2,
    ),
    Sweep(
        "held out: 3 budgets x 6 sizes x 1 seed, beta > alpha",
        PlantedLaw(0.30, 0.45, 0.50, 2.80, 3e11, 6e4),
        budgets=(3e10, 2e11, 1e12),
        sizes=_geometric(5e3, 1.5, 14),
        num_seeds=1,
        correlation=0.7,
    ),
    Sweep(
        "held out: many points, little noise",
        PlantedLaw(0.33, 0.36, 0.60, 3.30, 3e11, 6e4),
        sizes=_geometric(9e3, 1.35, 20),
        num_sizes=8,
        num_seeds=4,
        noise_sd=0.006,
    ),
    Sweep(
        "held out: small decoders, 3 budgets x 4 sizes",
        PlantedLaw(0.36, 0.33, 0.60, 3.30, 3e11, 6e4),
        budgets=(3e10, 1e11, 3e11),
        sizes=_ladder(),
        num_sizes=4,
    ),
)


@dataclass(frozen=True)
class Points:
    design: Design
    budget: Array
    log_size: Array
    trunk: NDArray[np.int64]
    seed: NDArray[np.int64]
    mean_loss: Array


def build_points(sweep: Sweep) -> Points:
    """The runs of a design, all with their true mean loss."""
    ladder = np.log(np.array(sweep.sizes))
    rows = []
    for budget in sweep.budgets:
        near = np.argsort(np.abs(ladder - sweep.law.log_size_opt(budget) - sweep.aim))[: sweep.num_sizes]
        rows += [(budget, i, s) for i in sorted(near) for s in range(sweep.num_seeds)]
    budget = np.array([r[0] for r in rows])
    index = np.array([r[1] for r in rows])
    seed = np.array([r[2] for r in rows])
    trunk = index * sweep.num_seeds + seed
    log_size = ladder[index]
    loss = np.array(
        [float(sweep.law.profile(c)(np.float64(x))) for c, x in zip(budget, log_size, strict=True)]
    )
    design = batch.build_design(budget, np.exp(log_size), trunk)
    return Points(design, budget, log_size, trunk, seed, loss)


def simulate(
    sweep: Sweep, points: Points, num: int, generator: np.random.Generator
) -> tuple[Array, Array | None]:
    """Losses [num, n], and those of window groups [num, n, G] or None."""
    num_trunks = int(points.trunk.max()) + 1

    def noise(*shape: int) -> Array:
        if math.isinf(sweep.tails):
            return generator.standard_normal(shape)
        scale = math.sqrt((sweep.tails - 2) / sweep.tails)
        return scale * generator.standard_t(sweep.tails, shape)

    shared = noise(num, num_trunks)[:, points.trunk]
    own = noise(num, len(points.budget))
    sd = sweep.noise_sd * (points.budget / np.median(sweep.budgets)) ** -sweep.noise_growth
    loss = points.mean_loss + sd * (
        math.sqrt(sweep.correlation) * shared + math.sqrt(1 - sweep.correlation) * own
    )
    num_cells = len(points.design.cell_budget)
    errors = sweep.size_error_sd * generator.standard_normal((num, num_cells))
    loss = loss + errors[:, points.design.cell_index]
    if not sweep.num_groups:
        return loss, None
    level = sweep.window_level_sd * generator.standard_normal((num, 1, sweep.num_groups))
    tilt = sweep.window_tilt_sd * generator.standard_normal((num, 1, sweep.num_groups))
    x = points.log_size - points.log_size.mean()
    # Half of a run's noise differs from group to group: seeds fit other texts, not only better or worse.
    spread = sd[:, None] * generator.standard_normal((num, len(x), sweep.num_groups))
    groups = loss[..., None] + level + tilt * x[:, None] + 0.5 * math.sqrt(sweep.num_groups) * spread
    return groups.mean(-1), groups


# ------------------------------------------------------------------------------------ coverage


@dataclass(frozen=True)
class Quantity:
    key: str
    title: str
    per_budget: bool


QUANTITIES = (
    Quantity("n_opt", "N*", True),
    Quantity("basin_lo", "basin lower edge", True),
    Quantity("basin_hi", "basin upper edge", True),
    Quantity("half_width", "basin half-width", True),
    Quantity("exponent", "exponent a", False),
    Quantity("predicted", "extrapolated N*", False),
    Quantity("worth", "1 % in compute", False),
)
METHODS = ("isoflop", "equal-weight parabola", "percentile bootstrap of seeds")
Intervals = dict[str, tuple[Array, Array, Array]]


def truth(sweep: Sweep) -> dict[str, Array]:
    """Planted values, ln N for sizes: [K], and scalars for the path."""
    eps = sweep.rules.eps
    top = max(sweep.budgets)
    edges = np.array([sweep.law.basin(c, eps) for c in sweep.budgets])
    return {
        "n_opt": np.array([sweep.law.log_size_opt(c) for c in sweep.budgets]),
        "basin_lo": edges[:, 0],
        "basin_hi": edges[:, 1],
        "half_width": (edges[:, 1] - edges[:, 0]) / 2,
        "exponent": np.array(sweep.law.exponent),
        "predicted": np.array(sweep.law.log_size_opt(sweep.extrapolate * max(sweep.budgets))),
        "worth": np.array(
            math.log(top / sweep.law.budget_of_loss((1 + EXCESS) * sweep.law.lowest_loss(top)))
        ),
    }


def our_intervals(sweep: Sweep, design: Design, loss: Array, groups: Array | None) -> Intervals:
    rules = sweep.rules
    fit = batch.fit_batch(design, loss, rules, groups)
    path = batch.fit_path(fit)
    log_budget = math.log(sweep.extrapolate * max(sweep.budgets))
    every = list(range(design.num_budgets))
    excess = EXCESS * sweep.law.lowest_loss(max(sweep.budgets))

    def at(found: BatchInterval, shift: Array | float = 0.0) -> tuple[Array, Array, Array]:
        return found.value + shift, found.lo + shift, found.hi + shift

    return {
        "n_opt": at(batch.budget_intervals(fit, bowl.quantity_t_opt(rules.family)), fit.centre),
        "basin_lo": at(batch.budget_intervals(fit, bowl.quantity_edge(rules.family, -1)), fit.centre),
        "basin_hi": at(batch.budget_intervals(fit, bowl.quantity_edge(rules.family, 1)), fit.centre),
        "half_width": at(batch.budget_intervals(fit, bowl.quantity_half_width(rules.family))),
        "exponent": at(batch.exponent_interval(fit, path)),
        "predicted": at(batch.size_interval(fit, path, log_budget)),
        "worth": at(batch.equivalent_interval(fit, every, every[-1], excess).log_factor),
    }


def usual_intervals(found: resample.UsualIntervals) -> Intervals:
    ends = {q.key: getattr(found, q.key) for q in QUANTITIES if q.key != "worth"}
    return {key: (e.value, e.lo, e.hi) for key, e in ends.items()}


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, J. Am. Stat. Assoc. 1927)."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return middle - half, middle + half


def summarise(parts: list[Intervals], true: dict[str, Array]) -> dict[str, Any]:
    """Coverage, width and shares per quantity, from the chunks of one design and method."""
    out = {}
    for quantity in [q for q in QUANTITIES if q.key in parts[0]]:
        value, lo, hi = (np.concatenate([p[quantity.key][i] for p in parts]) for i in range(3))
        if not quantity.per_budget:
            value, lo, hi = value[:, None], lo[:, None], hi[:, None]
        target = np.atleast_1d(true[quantity.key])
        no_lo, no_hi = ~np.isfinite(lo), ~np.isfinite(hi)
        given = ~np.isnan(value) & ~(no_lo & no_hi)
        open_end = no_lo | no_hi
        inside = (np.where(np.isnan(lo), -np.inf, lo) <= target) & (
            target <= np.where(np.isnan(hi), np.inf, hi)
        )
        hits, trials = (inside & given).sum(0), given.sum(0)
        width = np.where(open_end, np.inf, hi - lo)
        each = [wilson(int(h), int(n)) for h, n in zip(hits, trials, strict=True)]
        # "cover 93-97 within the Wilson error", at every budget
        holds = all(low <= TARGET[1] and high >= TARGET[0] for low, high in each)
        total = wilson(int(hits.sum()), int(trials.sum()))
        out[quantity.key] = {
            "coverage": float(hits.sum() / max(trials.sum(), 1)),
            "wilson": total,
            "coverage_by_budget": [float(h / max(n, 1)) for h, n in zip(hits, trials, strict=True)],
            "wilson_by_budget": each,
            "median_width": _finite(float(np.median(width[given]))) if given.any() else None,
            "share_open": float((open_end & given).sum() / max(given.sum(), 1)),
            "share_refused": float(1 - given.mean()),
            "holds": bool(holds),
        }
    return out


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def run_design(sweep: Sweep, num_simulations: int, seed: int) -> dict[str, Any]:
    """All methods on the same simulated sweeps of one design."""
    points = build_points(sweep)
    true = truth(sweep)
    generator = np.random.default_rng([seed, DESIGNS.index(sweep)])
    parts: dict[str, list[Intervals]] = {method: [] for method in METHODS}
    rules = sweep.rules
    usual = {
        "eps": rules.eps,
        "level": rules.level,
        "log_budget": math.log(sweep.extrapolate * max(sweep.budgets)),
    }
    for start in range(0, num_simulations, CHUNK):
        loss, groups = simulate(sweep, points, min(CHUNK, num_simulations - start), generator)
        parts["isoflop"].append(our_intervals(sweep, points.design, loss, groups))
        found = resample.equal_weight_parabola(points.design, loss, **usual)
        parts["equal-weight parabola"].append(usual_intervals(found))
        if sweep.num_seeds > 1:
            found = resample.percentile_bootstrap(points.design, loss, generator=generator, **usual)
            parts["percentile bootstrap of seeds"].append(usual_intervals(found))
    return {method: summarise(chunks, true) for method, chunks in parts.items() if chunks}


def run(num_simulations: int = 4000, seed: int = 0, designs: tuple[Sweep, ...] = DESIGNS) -> dict[str, Any]:
    """The whole study.

    Returns:
        A JSON-ready mapping: "designs" -> name -> method -> quantity -> coverage and widths; "limits" in words,
        one per quantity of a design that misses; "passed" when none misses among the designs that break
        no assumption; "seconds" of CPU.
    """
    started = time.process_time()
    found = {sweep.name: run_design(sweep, num_simulations, seed) for sweep in designs}
    misses = [
        (sweep, quantity, found[sweep.name]["isoflop"][quantity.key])
        for sweep in designs
        for quantity in QUANTITIES
        if not found[sweep.name]["isoflop"][quantity.key]["holds"]
    ]
    return {
        "study": "coverage of the isoFLOP intervals on planted laws",
        "num_simulations": num_simulations,
        "seed": seed,
        "level": 0.95,
        "target": list(TARGET),
        "designs": found,
        "limits": [_limit(sweep, quantity, result) for sweep, quantity, result in misses],
        "passed": not any(not sweep.breaks for sweep, _, _ in misses),
        "seconds": time.process_time() - started,
    }


def _limit(sweep: Sweep, quantity: Quantity, result: dict[str, Any]) -> str:
    worst = max(result["coverage_by_budget"], key=lambda share: abs(share - 0.95))
    kind = "too short" if worst < 0.95 else "too long"
    why = f" [breaks: {sweep.breaks}]" if sweep.breaks else ""
    return f"{sweep.name}: {quantity.title} covers {worst:.1%} at its worst budget (intervals {kind}){why}"


def show(result: dict[str, Any]) -> str:
    """The study for people."""
    head = f"{'quantity':<18}{'method':<32}{'coverage':>9}  {'Wilson':<15}{'by budget':<28}"
    lines = []
    for name, methods in result["designs"].items():
        lines += ["", name, head + f"{'width':>8}{'open':>7}{'refused':>9}"]
        for quantity in QUANTITIES:
            for method, found in methods.items():
                if quantity.key not in found:
                    continue
                q = found[quantity.key]
                if q["share_refused"] == 1.0:
                    lines.append(
                        f"{quantity.title if method == 'isoflop' else '':<18}{method:<32}  no interval given"
                    )
                    continue
                by_budget = " ".join(f"{100 * c:.1f}" for c in q["coverage_by_budget"])
                width = "open" if q["median_width"] is None else f"{q['median_width']:.3f}"
                flag = "  MISS" if method == "isoflop" and not q["holds"] else ""
                lines.append(
                    f"{quantity.title if method == 'isoflop' else '':<18}{method:<32}"
                    f"{100 * q['coverage']:>8.1f}%  "
                    f"{100 * q['wilson'][0]:.1f}-{100 * q['wilson'][1]:<9.1f} {by_budget:<28}"
                    f"{width:>8}{q['share_open']:>7.1%}{q['share_refused']:>9.1%}{flag}"
                )
    lines += ["", "width: median, in ln N (exponent: in a). Wilson: all budgets together."]
    lines += ["Limits (coverage outside 93-97 % by more than its Wilson error at some budget):"]
    lines += [f"  - {limit}" for limit in result["limits"]] or ["  none"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    result = run(arguments.simulations, arguments.seed)
    print(show(result))
    print(f"{result['seconds']:.0f} CPU seconds, {arguments.simulations} simulations per design")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
