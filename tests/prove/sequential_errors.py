"""False-positive rates of every sequential test, over simulated studies in which nothing differs.

Studies are made of raw seeds and items, not of the statistics that the boundaries were calibrated on, and a
share of them is judged once more through the public functions, which must say the same. Asserted: no
sequential test exceeds its nominal rate by more than half a point, and the group-sequential ones without
futility stay within one point of it. Shown beside: power, runs saved, and what the naive habits do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoflop.fit.compare import sequential

PROVES = ("src/isoflop/fit/compare/sequential.py",)

Floats = NDArray[np.float64]

EXCESS_LIMIT = 0.005
"""A false-positive rate may exceed its nominal value by this much."""
DISTANCE_LIMIT = 0.010
"""A group-sequential test must use its error: its rate may differ by this much from nominal."""
POOLED_DF = 30.0
JUDGED_TWICE = 200


@dataclass(frozen=True)
class Design:
    """One group-sequential plan to put to the test."""

    looks: tuple[int, ...]
    noise_df: float | None
    paired: bool
    shape: sequential.Shape = "obrien-fleming"
    alpha: float = 0.05

    @property
    def words(self) -> str:
        noise = "noise estimated" if self.noise_df is None else f"noise with {self.noise_df:g} df"
        noise = "noise known" if self.noise_df == math.inf else noise
        arms = "pairs" if self.paired else "arms"
        looks = ",".join(map(str, self.looks))
        return f"{self.shape}, looks {looks}, {arms}, {noise}, {self.alpha:.0%}"


DESIGNS = (
    Design((2, 4, 6, 8), None, False),
    Design((2, 4, 6, 8), None, False, "pocock"),
    Design((2, 4, 6, 8), math.inf, False),
    Design((2, 4, 6, 8), math.inf, False, "pocock"),
    Design((1, 2, 3), POOLED_DF, False),
    Design((2, 4, 6, 8), POOLED_DF, False, "pocock"),
    Design((2, 4, 6, 8), 295.0, False),
    Design((3, 5, 8), None, True),
    Design((3, 4, 5, 6, 7, 8), None, True, "pocock"),
    Design((2, 5, 8), POOLED_DF, True),
    Design((5, 10, 20, 40), None, False, alpha=0.01),
    Design((10, 20, 30, 40, 50), None, True),
)


def run(num_simulations: int = 40_000, seed: int = 20_261) -> dict[str, Any]:
    """Simulate all tests; `passed` is True when every limit holds.

    Args:
        num_simulations: studies per test, at least 10,000. At 40,000 a rate of 5 % has a standard error
            of 0.11 points.
        seed: of the generator.
    """
    if num_simulations < 10_000:
        raise ValueError(
            f"{num_simulations} studies are too few to resolve half a point; take 10,000 or more"
        )
    rng = np.random.default_rng(seed)
    rows = [_judge_design(design, num_simulations, rng) for design in DESIGNS]
    anytime = _judge_anytime(num_simulations, rng)
    greedy = sequential.simulate_keep_if_lower(100, num_simulations=10_000, rng=rng)
    limits = [_limit_text(row) for row in rows + anytime if not row["holds"]]
    limits += [f"{row['test']}: take_look disagrees with the simulation" for row in rows if not row["agrees"]]
    return {
        "passed": not limits,
        "limits": limits
        or [
            "Gaussian seed noise with one spread for both arms.",
            "Looks at the planned numbers of seeds; the anytime tests up to the horizon that is stated.",
        ],
        "num_simulations": num_simulations,
        "seed": seed,
        "group_sequential": rows,
        "anytime": anytime,
        "naive": _naive(num_simulations, rng),
        "keep_if_lower_100_edits": {
            "kept": greedy.mean_kept,
            "apparent_gain_in_sd": greedy.apparent_gain_in_sd,
        },
    }


def _limit_text(row: dict[str, Any]) -> str:
    return f"{row['test']}: {row['false_positive_rate']:.3%} against {row['nominal']:.1%}"


def _judge_design(design: Design, num: int, rng: np.random.Generator) -> dict[str, Any]:
    effect = _effect_for(design)
    plan = sequential.plan_group_sequential(
        design.looks,
        alpha=design.alpha,
        shape=design.shape,
        noise_df=design.noise_df,
        paired=design.paired,
        effect_in_sd=effect,
        futility=0.2,
    )
    null, real = (_study(plan, size, num, rng) for size in (0.0, effect))
    outcomes = {}
    for name, statistics in (("null", null.statistics), ("real", real.statistics)):
        for rule, inner in (("binding", plan.futility_bounds), ("none", (0.0,) * len(plan.looks))):
            outcomes[name, rule] = _follow(statistics, plan.looks, plan.bounds, inner)
    rate, with_futility = outcomes["null", "none"][0].mean(), outcomes["null", "binding"][0].mean()
    maximum = plan.looks[-1]
    return {
        "test": design.words,
        "nominal": design.alpha,
        "false_positive_rate": float(rate),
        "false_positive_rate_with_futility": float(with_futility),
        "effect_in_sd": effect,
        "power": float(outcomes["real", "none"][0].mean()),
        "power_with_futility": float(outcomes["real", "binding"][0].mean()),
        "saved_null": float(1 - outcomes["null", "binding"][1].mean() / maximum),
        "saved_effect": float(1 - outcomes["real", "binding"][1].mean() / maximum),
        "holds": bool(
            abs(rate - design.alpha) <= DISTANCE_LIMIT
            and max(rate, with_futility) <= design.alpha + EXCESS_LIMIT
        ),
        "agrees": _agrees(plan, null, outcomes["null", "binding"][0])
        and _agrees(plan, real, outcomes["real", "binding"][0]),
    }


def _effect_for(design: Design) -> float:
    """An effect that one look at the maximum would find with about 80 % power (normal approximation)."""
    drift = 2.80 if design.alpha == 0.05 else 3.42
    return drift * math.sqrt((1 if design.paired else 2) / design.looks[-1])


@dataclass(frozen=True)
class _Study:
    a: Floats
    b: Floats
    sd: Floats | None
    """What the learned noise said, per study; None when it is estimated."""
    statistics: Floats


def _study(plan: sequential.GroupSequentialPlan, effect: float, num: int, rng: np.random.Generator) -> _Study:
    """Raw seeds of `num` studies and their statistics at the looks, straight from the textbook formulas."""
    size = (num, plan.looks[-1])
    scale = math.sqrt(0.5) if plan.paired else 1.0  # a paired difference then has spread 1
    a, b = scale * rng.standard_normal(size), scale * rng.standard_normal(size) + effect
    sd = None
    if plan.noise_df is not None:
        exact = math.isinf(plan.noise_df)
        sd = np.ones(num) if exact else np.sqrt(rng.chisquare(plan.noise_df, num) / plan.noise_df)
    columns = []
    for look in plan.looks:
        x, y = a[:, :look], b[:, :look]
        if sd is not None:
            spread = sd
        elif plan.paired:
            spread = (y - x).std(axis=1, ddof=1)
        else:
            spread = np.sqrt((x.var(axis=1, ddof=1) + y.var(axis=1, ddof=1)) / 2)
        columns.append((y - x).mean(axis=1) / spread * math.sqrt(look / (1 if plan.paired else 2)))
    return _Study(a, b, sd, np.stack(columns, axis=1))


def _follow(
    statistics: Floats, looks: tuple[int, ...], bounds: tuple[float, ...], inner: tuple[float, ...]
) -> tuple[NDArray[np.bool_], Floats]:
    claimed = np.zeros(len(statistics), dtype=bool)
    seeds = np.full(len(statistics), float(looks[-1]))
    going = np.ones(len(statistics), dtype=bool)
    for k, look in enumerate(looks):
        size = np.abs(statistics[:, k])
        claim, give_up = going & (size >= bounds[k]), going & (size < inner[k])
        claimed |= claim
        seeds[claim | give_up] = look
        going &= ~(claim | give_up)
    return claimed, seeds


def _agrees(plan: sequential.GroupSequentialPlan, study: _Study, claimed: NDArray[np.bool_]) -> bool:
    """Judge some studies again, seed by seed, through `take_look`."""
    for i in range(JUDGED_TWICE):
        sd = None if study.sd is None else float(study.sd[i])
        decision = "go on"
        for look in plan.looks:
            decision = sequential.take_look(plan, study.a[i, :look], study.b[i, :look], sd=sd).decision
            if decision != "go on":
                break
        if (decision == "stop: different") != bool(claimed[i]):
            return False
    return True


def _judge_anytime(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for name, horizon, effect, make in (
        ("anytime seeds, noise estimated", 8, 1.0, _seeds_estimated),
        ("anytime seeds, noise estimated", 100, 0.5, _seeds_estimated),
        ("anytime seeds, noise known", 8, 1.0, _seeds_known),
        ("anytime seeds, noise known", 100, 0.5, _seeds_known),
        ("anytime items, right or wrong", 1000, 0.04, _items_signs),
        ("anytime items, partial credit", 1000, 0.04, _items_bets),
    ):
        null, real = (_first_crossing(make, horizon, size, effect, num, rng) for size in (0.0, effect))
        rows.append(
            {
                "test": f"{name}, looks after each of {horizon}",
                "nominal": 0.05,
                "false_positive_rate": null[0],
                "effect": effect,
                "power": real[0],
                "saved_null": 1 - null[1] / horizon,
                "saved_effect": 1 - real[1] / horizon,
                "holds": null[0] <= 0.05 + EXCESS_LIMIT,
            }
        )
    return rows


def _first_crossing(
    make: Any, horizon: int, effect: float, aim: float, num: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Share of studies whose e-value ever reaches 20, and the mean number of observations spent."""
    crossed, spent = 0, 0
    for start in range(0, num, 4000):  # a few thousand at a time keeps memory small
        log_e = make(min(4000, num - start), horizon, effect, aim, rng)
        over = log_e >= math.log(20)
        hit = over.any(axis=1)
        crossed += int(hit.sum())
        spent += int(np.where(hit, over.argmax(axis=1) + 1, horizon).sum())
    return crossed / num, spent / num


def _seeds_estimated(num: int, horizon: int, effect: float, aim: float, rng: np.random.Generator) -> Floats:
    d = rng.standard_normal((num, horizon)) + effect
    counts = np.arange(1, horizon + 1)
    mean = np.cumsum(d, axis=1) / counts
    squares = np.cumsum(d * d, axis=1) - counts * mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / np.sqrt(squares / (counts - 1) / counts)
    t[:, 0] = 0.0
    return sequential.log_e_t(t, counts, aim)


def _seeds_known(num: int, horizon: int, effect: float, aim: float, rng: np.random.Generator) -> Floats:
    d = rng.standard_normal((num, horizon)) + effect
    return sequential.log_e_normal(np.cumsum(d, axis=1), np.arange(1, horizon + 1), 1.0, aim)


def _items_signs(num: int, horizon: int, effect: float, aim: float, rng: np.random.Generator) -> Floats:
    """A tenth of the items change; `effect` is the difference of the two accuracies."""
    draw = rng.random((num, horizon))
    only_b, only_a = draw < 0.05 + effect / 2, draw > 0.95 + effect / 2
    return sequential.log_e_signs(np.cumsum(only_a, axis=1), np.cumsum(only_b, axis=1))


def _items_bets(num: int, horizon: int, effect: float, aim: float, rng: np.random.Generator) -> Floats:
    """Skewed partial credit with mean `effect`: rare large losses against frequent small gains."""
    draw = rng.random((num, horizon))
    d = np.where(draw < 0.05, -0.8, np.where(draw < 0.45, 0.1, 0.0)) + effect
    return sequential.log_e_bets(d)


def _naive(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    plan = sequential.plan_group_sequential((2, 4, 6, 8), effect_in_sd=_effect_for(DESIGNS[0]))
    rows = sequential.simulate_procedures(plan, num_simulations=num, rng=rng)
    return [
        {"test": row.name, "false_positive_rate": row.false_positive_rate, "power": row.power}
        for row in rows
        if not row.honest or row.name == "one look at the end"
    ]


def show(result: dict[str, Any]) -> str:
    """The measured rates as a table for people."""
    lines = [
        f"{result['num_simulations']:,} studies each; 'saved' is the share of runs not spent, with futility"
    ]
    lines.append(
        f"{'test':64} {'false +':>8} {'futility':>8} {'power':>6} {'saved null':>10} {'saved effect':>12}"
    )
    for row in result["group_sequential"] + result["anytime"]:
        futility = row.get("false_positive_rate_with_futility")
        lines.append(
            f"{row['test'][:64]:64} {row['false_positive_rate']:8.2%} "
            f"{'' if futility is None else f'{futility:.2%}':>8} "
            f"{row.get('power_with_futility', row['power']):6.1%} {row['saved_null']:10.1%} {row['saved_effect']:12.1%}"
        )
    for row in result["naive"]:
        lines.append(f"naive: {row['test']:57} {row['false_positive_rate']:8.2%} {'':8} {row['power']:6.1%}")
    greedy = result["keep_if_lower_100_edits"]
    kept, gain = greedy["kept"], greedy["apparent_gain_in_sd"]
    lines.append(f"keep if lower, 100 worthless edits: {kept:.1f} kept, apparent gain {gain:.1f} sd")
    return "\n".join(lines + result["limits"])


if __name__ == "__main__":
    outcome = run()
    print(show(outcome))
    raise SystemExit(0 if outcome["passed"] else 1)
