"""Which run next, replayed: how well is the best size known after a tenth of a sweep's compute?

    python benchmarks/next_run.py TABLE --json
    python benchmarks/next_run.py TABLE --where source=marin_202603 --starts 40
    python benchmarks/next_run.py TABLE --reference
    python benchmarks/next_run.py --sets --json
    python benchmarks/next_run.py --simulate

TABLE has one run per row: columns N, D or C (FLOPs), loss, under any usual names. The whole table's fit
(`isoflop.fit.law.parametric`, Huber, bootstrap of rows) is the reference: its log N* at the target budget, with its
95 % half-width. Each strategy starts from the same few cheap random runs and may spend a tenth of the table's
FLOPs, start included; all of them end in the same estimate (`isoflop.fit.law.few_runs`), so that only the choice of
runs differs. Printed per strategy: the root mean square error of log N* over starts, beside the reference's
half-width; the share of its own 95 % intervals that hold the reference's estimate; and the compute lost by acting
on its choice, under the reference's law.

Strategies: decision (`isoflop.plan.next_run`); V-optimal and D-optimal (the same draws and the same power of the
cost, another criterion); grid (whole isoFLOP curves from the cheapest budget upwards, what people do); random.

`--reference` asks whether that half-width is a sound yardstick (next_run_reference.py): how far the whole table's own
estimate moves between forms, and what any choice of runs could reach. `--sets` does both on every public isoFLOP table
in $ISOFLOP_SHARED_DATA or ../shared/data, at two targets, and prints the record that stands in records/next_run.json.

`--simulate` plants laws, right and wrong ones, in place of a table. The defaults of `isoflop.plan.next_run.Rule`
were chosen there, not on real tables; every look at those, and what it prompted, is in next_run_looks.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from isoflop.fit.law.parametric import fit_law
from isoflop.plan.next_run import (
    Candidates,
    Check,
    Decision,
    Ensemble,
    Rule,
    Runs,
    believe,
    check_run,
    decide,
    doubt_of,
    next_runs,
    settled,
)
from isoflop.plan.price import compute_kept

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found as a script, too
from benchmarks import next_run_reference

STRATEGIES = ("decision", "V-optimal", "D-optimal", "grid", "random")
KINDS = ("right", "power", "untuned", "corners", "bend", "tilt", "smooth")
SHARE = 0.1
"""Of the table's FLOPs that a strategy may spend."""
START_RUNS = 5
BATCH = 3


class Table(NamedTuple):
    """All runs of a sweep."""

    name: str
    runs: Runs


@dataclass(frozen=True)
class Reference:
    """What counts as the truth: the whole table's fit, or a planted law."""

    log_N: float
    half_width: float
    """Of its 95 % interval, in log N; 0 for a planted law."""
    lost: Any
    """log N -> share of the compute lost by choosing it."""


class Outcome(NamedTuple):
    """One strategy from one start."""

    log_N: float
    covered: bool
    lost: float
    num_runs: int
    spent: float
    """Share of the table's FLOPs."""
    stop_spent: float | None
    """Share of the table's FLOPs when the rule said stop (spending goes on in the replay); None if it never did."""
    stop_lost: float | None
    """Compute lost by acting then."""


# ------------------------------------------------------------------------------------------ tables


def read_table(path: Path, where: list[str]) -> Table:
    """Rows of a file that meet every COLUMN=VALUE."""
    from isoflop.fit.tables.runs import read_runs

    if where:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            wanted = dict(condition.split("=", 1) for condition in where)
            rows = [row for row in reader if all(row.get(k) == v for k, v in wanted.items())]
        if not rows:
            raise SystemExit(f"{path}: no row with {', '.join(where)}")
        with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            read = read_runs(Path(file.name))
    else:
        read = read_runs(path)
    name = ", ".join([path.name, *where])
    return Table(name, Runs(read.N, read.D, read.loss, 6.0 * read.N * read.D))


def fitted_reference(
    table: Table, target: float, seed: int = 0, *, bootstrap: int = 1000, check: bool = True
) -> Reference:
    """The whole table's fit."""
    fit = fit_law(
        table.runs.N, table.runs.D, table.runs.loss, bootstrap=bootstrap, multistart=0, seed=seed, check=check
    )  # fmt: skip
    sizes = np.log(fit.draws_law.optimum(target).N)
    low, high = np.quantile(sizes, (0.025, 0.975))
    best = fit.law.optimum(target)

    def lost(log_N: float) -> float:
        return 1.0 - float(compute_kept(fit.law, best.loss, fit.law.loss_at(np.exp(log_N), target)))

    return Reference(float(np.log(best.N)), 0.5 * float(high - low), lost)


OWT2 = "porian-isoflop-owt2/isoflop_points.csv"
SETS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("chinchilla", "Epoch AI", "isoflop-sweeps/isoflops.csv", ("source=epochai_chinchilla",)),
    ("chinchilla", "ml-scalefit", "isoflop-sweeps/isoflops.csv", ("source=ml_scalefit",)),
    ("marin", "", "isoflop-sweeps/isoflops.csv", ("source=marin_202603",)),
    ("owt2, long warm-up, Kaplan counts", "", OWT2, ("param_count=kaplan",)),
    ("owt2, long warm-up", "", OWT2, ("warmup=long", "param_count=standard")),
    ("owt2, short warm-up", "", OWT2, ("hparams=base", "warmup=short", "decay=kaplan")),
    ("owt2, decay matched", "", OWT2, ("decay=chinchilla",)),
    ("owt2, tuned", "", OWT2, ("hparams=tuned",)),
)
"""Set, extraction, file, rows. Two extractions of one figure are one set."""


# ------------------------------------------------------------------------------------------ replay


def start(table: Table, allowance: float, rng: np.random.Generator) -> list[int]:
    """A few random runs that together take at most a fifth of the allowance, of at least three sizes and budgets."""
    flops = table.runs.flops
    cheap = np.flatnonzero(flops <= 0.2 * allowance / START_RUNS)
    if len(cheap) < START_RUNS:
        cheap = np.argsort(flops)[: 2 * START_RUNS]
    for _ in range(200):
        picked = rng.choice(cheap, START_RUNS, replace=False)
        levels = [
            len(np.unique(np.round(np.log(values[picked]), 1))) for values in (table.runs.N, table.runs.D)
        ]
        if min(levels) >= 3:
            break
    return [int(index) for index in picked]


def replay(
    table: Table, reference: Reference, target: float, strategy: str, seed: int, rule: Rule
) -> Outcome:
    """Spend the allowance by one strategy from one random start."""
    rng = np.random.default_rng(seed)
    total = float(table.runs.flops.sum())
    allowance = SHARE * total
    done = start(table, allowance, rng)
    checks: tuple[Check, ...] = ()
    stop: Decision | None = None
    stop_spent = None
    if strategy in ("grid", "random"):
        done = _fill(table, done, allowance, strategy, rng)
    else:
        done, checks, stop, stop_spent = _adaptive(table, done, allowance, target, strategy, rule, seed)
    runs = Runs(*(values[done] for values in table.runs))
    belief = believe(runs, replace(rule, num_draws=800), doubt=doubt_of(checks), seed=seed)
    now = decide(belief, target, rule)
    low, high = np.log(now.N_ci95)
    log_N = float(np.median(belief.draws.best_size(target)))
    return Outcome(
        log_N=log_N,
        covered=bool(low <= reference.log_N <= high),
        lost=float(reference.lost(np.log(now.N))),
        num_runs=len(done),
        spent=float(runs.flops.sum()) / total,
        stop_spent=None if stop_spent is None else stop_spent / total,
        stop_lost=None if stop is None else float(reference.lost(np.log(stop.N))),
    )


def _fill(
    table: Table, done: list[int], allowance: float, strategy: str, rng: np.random.Generator
) -> list[int]:
    """Random order, or whole budgets from the cheapest upwards, as far as the allowance goes."""
    flops = table.runs.flops
    order = rng.permutation(len(flops))
    if strategy == "grid":
        order = order[np.argsort(np.round(np.log10(flops[order]), 1), kind="stable")]
    left = allowance - float(flops[done].sum())
    for index in order:
        if int(index) not in done and flops[index] <= left:
            done = [*done, int(index)]
            left -= float(flops[index])
    return done


def _adaptive(
    table: Table, done: list[int], allowance: float, target: float, strategy: str, rule: Rule, seed: int
) -> tuple[list[int], tuple[Check, ...], Decision | None, float | None]:
    checks: tuple[Check, ...] = ()
    guard = 0.0
    stop: Decision | None = None
    spent: float | None = None
    while True:
        runs = Runs(*(values[done] for values in table.runs))
        rest = [index for index in range(len(table.runs.N)) if index not in done]
        candidates = Candidates(table.runs.N[rest], table.runs.D[rest], table.runs.flops[rest])
        left = allowance - float(runs.flops.sum())
        if not np.any(candidates.flops <= left):
            return done, checks, stop, spent
        turn = seed + 1000 * len(done)
        if strategy != "decision":
            belief = believe(runs, rule, seed=turn)
            done = done + [
                rest[i] for i in _by_criterion(belief, candidates, target, left, strategy, rule, turn)
            ]
            continue
        plan = next_runs(
            runs, candidates, target, num=BATCH, allowance=left, spent_on_guard=guard, checks=checks,
            rule=replace(rule, confidence=1.1), seed=turn,
        )  # fmt: skip
        if stop is None and settled(plan.now, checks, rule):  # go on all the same: all strategies spend alike
            stop, spent = plan.now, float(runs.flops.sum())
        guarded = any(one.why == "guard" for one in plan.chosen)
        belief = believe(runs, rule, doubt=doubt_of(checks), seed=turn) if guarded else None
        for one in plan.chosen:
            index = rest[one.index]
            if one.why == "guard" and belief is not None:
                guard += one.flops
                checks = (*checks, check_run(belief, runs, one.N, one.D, float(table.runs.loss[index])))
            done = [*done, index]


def _by_criterion(
    belief: Any, candidates: Candidates, target: float, left: float, strategy: str, rule: Rule, seed: int
) -> list[int]:
    """D- or V-optimal choice on the same ensemble, per the same power of the cost."""
    ensemble = Ensemble(belief, candidates, target, seed)
    best = float(np.median(belief.draws.best_size(target)))
    sizes = np.exp(best + np.linspace(-1.0, 1.0, 9))
    about = np.log(belief.draws.loss(sizes[:, None], target / (6.0 * sizes[:, None])))
    free = np.ones(len(candidates.N), dtype=bool)
    picked: list[int] = []
    for _ in range(BATCH):
        payable = free & (candidates.flops <= left)
        if not payable.any():
            break
        if strategy == "D-optimal":
            gain = ensemble.information()
        else:
            gain = np.maximum(about.var(axis=1).mean() - ensemble.variance_after(about), 0.0)
        index = int(np.argmax(np.where(payable, gain / candidates.flops**rule.cost_power, -np.inf)))
        outcome = ensemble.outcomes()[index]
        centred = outcome - outcome.mean()
        about = (
            about
            - ((about - about.mean(axis=1, keepdims=True)) @ centred)[:, None] / (centred @ centred) * centred
        )
        ensemble.imagine(index)
        free[index] = False
        left -= float(candidates.flops[index])
        picked.append(index)
    return picked


def stop_summary(outcomes: list[Outcome]) -> dict[str, float | None]:
    """How often the rule stopped before the allowance was spent, when, and at what price."""
    stops = [
        outcome for outcome in outcomes if outcome.stop_spent is not None and outcome.stop_lost is not None
    ]
    return {
        "stopped": len(stops) / len(outcomes),
        "stop_spent": float(np.mean([one.stop_spent for one in stops])) if stops else None,
        "stop_lost": float(np.mean([one.stop_lost for one in stops])) if stops else None,
    }


def summarise(outcomes: list[Outcome], reference: Reference) -> dict[str, float | None]:
    errors = np.array([outcome.log_N for outcome in outcomes]) - reference.log_N
    return {
        "rmse_log_N": float(np.sqrt(np.mean(errors**2))),
        "bias_log_N": float(errors.mean()),
        "coverage": float(np.mean([outcome.covered for outcome in outcomes])),
        "lost": float(np.mean([outcome.lost for outcome in outcomes])),
        "num_runs": float(np.mean([outcome.num_runs for outcome in outcomes])),
        "spent": float(np.mean([outcome.spent for outcome in outcomes])),
        **stop_summary(outcomes),
    }


YARDSTICKS = ("single", "posterior", "with_form")


def examine(table: Table, result: dict[str, Any], subsets: int) -> dict[str, Any]:
    """Add the examination of the reference, and each strategy's RMSE against three estimates of the whole table.

    single: the five-parameter Huber fit and its half-width, as the demand is worded. posterior: the very estimator
    that the few runs get, given all runs. with_form: the mean over the forms that fit all runs at
    once, with the variance between them in the half-width.
    """
    runs, target = table.runs, result["target_flops"]
    found = next_run_reference.examine(runs, target, SHARE, subsets)
    belief = believe(runs, replace(Rule(), num_draws=2000))
    low, middle, high = np.quantile(belief.draws.best_size(target), (0.025, 0.5, 0.975))
    yardsticks = {
        "single": (result["reference_log_N"], result["reference_half_width"]),
        "posterior": (float(middle), 0.5 * float(high - low)),
        "with_form": (found["with_form_log_N"], found["with_form_half_width"]),
    }
    for row in result["strategies"].values():
        variance = row["rmse_log_N"] ** 2 - row["bias_log_N"] ** 2
        for name, (center, half_width) in yardsticks.items():
            bias = row["bias_log_N"] + result["reference_log_N"] - center
            row[f"in_half_widths_{name}"] = float(np.sqrt(variance + bias**2)) / half_width
    ours = result["strategies"]["decision"]
    return {
        **result,
        "share": SHARE,
        "yardsticks": {name: {"log_N": c, "half_width": h} for name, (c, h) in yardsticks.items()},
        "within": {name: ours[f"in_half_widths_{name}"] <= 1.0 for name in YARDSTICKS},
        "reference_examined": found,
    }


def one_of_sets(folder: Path, index: int, at_top: bool, starts: int, subsets: int) -> dict[str, Any]:
    """One public table at one target."""
    name, extraction, file, where = SETS[index]
    table = read_table(folder / file, list(where))
    target = float(table.runs.flops.max()) * (1.0 if at_top else 10.0)
    result = compare(table, fitted_reference(table, target), target, starts, Rule())
    result = {"set": name, "extraction": extraction, "target": "top" if at_top else "ten times", **result}
    return examine(table, result, subsets)


def all_sets(folder: Path, starts: int, subsets: int, processes: int) -> dict[str, Any]:
    """The record: every public table at both targets, and how many sets meet each form of the demand."""
    jobs = [(index, at_top) for at_top in (False, True) for index in range(len(SETS))]
    with ProcessPoolExecutor(processes) as pool:
        waiting = [pool.submit(one_of_sets, folder, *job, starts, subsets) for job in jobs]
        rows = [one.result() for one in waiting]
    met = {}
    for target in ("ten times", "top"):
        for yardstick in YARDSTICKS:
            failed = {row["set"] for row in rows if row["target"] == target and not row["within"][yardstick]}
            met[f"{target}, {yardstick}"] = sorted({row["set"] for row in rows} - failed)
    return {**header(), "schema": "isoflop.benchmark.next_run/1", "share": SHARE, "met": met, "rows": rows}


def header() -> dict[str, str]:
    """When, where and from which commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.machine()


def compare(table: Table, reference: Reference, target: float, starts: int, rule: Rule) -> dict[str, Any]:
    """All strategies on one table."""
    rows = {
        strategy: summarise(
            [replay(table, reference, target, strategy, seed, rule) for seed in range(starts)], reference
        )
        for strategy in STRATEGIES
    }
    ours = rows["decision"]
    return {
        "table": table.name,
        "runs": len(table.runs.N),
        "table_flops": float(table.runs.flops.sum()),
        "target_flops": target,
        "starts": starts,
        "reference_log_N": reference.log_N,
        "reference_N": float(np.exp(reference.log_N)),
        "reference_half_width": reference.half_width,
        "within_half_width": ours["rmse_log_N"] <= reference.half_width if reference.half_width else None,
        "strategies": rows,
    }


# -------------------------------------------------------------------------------------- simulation


def planted(kind: str, seed: int) -> tuple[Table, Reference, float]:
    """A sweep from a planted law: 8 budgets of 9 sizes over three decades, one per cent of wild runs.

    right: the Chinchilla form with exponents from the prior's range. power: its reducible part to a power, so
    that the form is wrong everywhere. untuned: small budgets are up to 1 % too high in loss, as when settings
    were tuned at the top. corners: sizes from a twentieth to twenty times the best one, as in many real sweeps,
    and a law that fails on one side: large models on few tokens are up to 10 % too high in loss, less so at the
    top (few steps are mostly warm-up). bend: both exponents drift with scale, so the path of optima bends. tilt: the
    bowls of small budgets lean to one side, by 3 % per factor e of size at the bottom (one standard deviation).
    smooth: any smooth departure of 1.5 % over sizes and tokens. For tilt and smooth not even the whole sweep tells
    the planted optimum.
    """
    rng = np.random.default_rng([seed, len(kind)])
    alpha, beta = np.exp(np.log(0.35) + 0.25 * rng.standard_normal(2))
    units = 10.0 ** rng.uniform(15.5, 18.5) / 6.0  # cheapest budget / 6
    budgets = units * np.geomspace(1, 1000, 8)
    size_center = np.sqrt(budgets[3] * 10 ** rng.uniform(-1.8, -0.8))
    k = 1.0 if kind != "power" else rng.choice([0.6, 1.6])
    a = rng.uniform(0.25, 0.5)
    E = rng.uniform(1.5, 2.2)

    drift = 0.012 * rng.standard_normal(2) if kind == "bend" else np.zeros(2)

    def loss(N: Any, D: Any) -> Any:
        u, v = np.log(N / size_center), np.log(D * size_center / budgets[3])
        size = a * (alpha + beta) / alpha * np.exp(-alpha * u - 0.5 * drift[0] * u**2)
        data = a * (alpha + beta) / beta * np.exp(-beta * v - 0.5 * drift[1] * v**2)
        return E + (size + data) ** k

    def best(units: float) -> float:
        x = np.linspace(np.log(size_center) - 8, np.log(size_center) + 14, 8001)
        return float(x[np.argmin(loss(np.exp(x), units / np.exp(x)))])

    N, D = [], []
    for one in budgets:
        width = 3.0 if kind == "corners" else 1.6
        sizes = np.exp(best(one) + np.linspace(-width, width, 9) + rng.uniform(-0.2, 0.2))
        N.append(sizes)
        D.append(one / sizes)
    N, D = np.concatenate(N), np.concatenate(D)
    true = loss(N, D)
    if kind == "untuned":
        true = true * (1.0 + 0.01 * np.log10(budgets[-1] / (N * D)) / 3.0)
    if kind == "corners":
        off = np.log(N) - np.array([best(one) for one in N * D])
        below = np.log10(budgets[-1] / (N * D)) / 3.0
        true = true * (1.0 + 0.1 * (np.maximum(off, 0.0) / 3.0) ** 3 * (0.3 + 0.7 * below))
    true = true * _departure(kind, N, D, np.random.default_rng([seed, 77, len(kind)]))
    noise = rng.choice([0.003, 0.006])
    observed = true * np.exp(noise * rng.standard_t(5, len(N)) / np.sqrt(5 / 3))
    observed = np.where(rng.random(len(N)) < 0.01, observed * 1.05, observed)
    target_units = 10.0 * budgets[-1]
    log_best = best(target_units)

    def lost(log_N: float) -> float:
        reached = loss(np.exp(log_N), target_units / np.exp(log_N))
        grid = target_units * 10.0 ** np.linspace(-4, 0, 161)
        frontier = np.array([loss(np.exp(best(one)), one / np.exp(best(one))) for one in grid])
        return 1.0 - float(10.0 ** np.interp(-reached, -frontier, np.linspace(-4, 0, 161)))

    runs = Runs(N, D, observed, 6.0 * N * D)
    return Table(f"planted {kind} {seed}", runs), Reference(log_best, 0.0, lost), 6.0 * target_units


def _departure(kind: str, N: Any, D: Any, rng: np.random.Generator) -> Any:
    """Factor on the loss of the kinds tilt and smooth; 1 for the others."""
    log_C = np.log(N * D)
    if kind == "tilt":
        levels = np.round(log_C, 2)
        centers = np.array([np.log(N[levels == level]).mean() for level in levels])
        below = (log_C.max() - log_C) / np.log(1000.0)
        return np.exp(0.03 * rng.standard_normal() * below * (np.log(N) - centers))
    if kind == "smooth":
        u, v = ((np.log(values) - np.log(values).mean()) / np.log(10.0) for values in (N, D))
        waves = np.zeros(len(N))
        for _ in range(12):  # random Fourier features of a Gaussian process
            k = rng.normal(0.0, 0.8, 2)
            waves += np.cos(k[0] * u + k[1] * v + rng.uniform(0.0, 2.0 * np.pi))
        return np.exp(0.015 * waves / np.sqrt(6.0))
    return np.ones(len(N))


def simulate(
    sweeps: int, rule: Rule, strategies: tuple[str, ...] = STRATEGIES, kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """Each strategy over planted sweeps, one start each."""
    found: dict[str, Any] = {}
    for kind in kinds:
        cases = [planted(kind, seed) for seed in range(sweeps)]
        whole = [fitted_reference(case[0], case[2], bootstrap=300, check=False) for case in cases]
        found[kind] = {"whole table": _whole_on_planted(cases, whole)}
        for strategy in strategies:
            outcomes = [replay(*case, strategy, seed, rule) for seed, case in enumerate(cases)]
            against_whole = [(o.log_N - w.log_N) / w.half_width for o, w in zip(outcomes, whole, strict=True)]
            errors = np.array([o.log_N - case[1].log_N for o, case in zip(outcomes, cases, strict=True)])
            found[kind][strategy] = {
                "rmse_log_N": float(np.sqrt(np.mean(errors**2))),
                "median_error": float(np.median(np.abs(errors))),
                "in_half_widths": _rms(against_whole),
                "share_within": float(np.mean(np.abs(against_whole) <= 1.0)),
                "coverage": float(np.mean([o.covered for o in outcomes])),
                "lost": float(np.mean([o.lost for o in outcomes])),
                "num_runs": float(np.mean([o.num_runs for o in outcomes])),
                **stop_summary(outcomes),
            }
    return found


def _whole_on_planted(
    cases: list[tuple[Table, Reference, float]], whole: list[Reference]
) -> dict[str, float]:
    """How far the whole sweep's own estimate is from the planted optimum, and whether its intervals know it."""
    errors = [one.log_N - case[1].log_N for one, case in zip(whole, cases, strict=True)]
    held: dict[str, list[bool]] = {name: [] for name in YARDSTICKS}
    for table, truth, target in cases:
        forms = next_run_reference.whole_table_forms(table.runs, target, bootstrap=300, check=False)
        belief = believe(table.runs, replace(Rule(), num_draws=2000))
        spread = next_run_reference.with_the_form(
            forms[0].half_width, next_run_reference.fitted_at_once(forms)
        )
        intervals = {
            "single": np.quantile(forms[0].draws, (0.025, 0.975)),
            "posterior": np.quantile(belief.draws.best_size(target), (0.025, 0.975)),
            "with_form": spread.log_N + spread.half_width * np.array([-1.0, 1.0]),
        }
        for name, (low, high) in intervals.items():
            held[name].append(bool(low <= truth.log_N <= high))
    coverage = {f"coverage_{name}": float(np.mean(values)) for name, values in held.items()}
    return {
        "rmse_log_N": _rms(errors),
        "half_width": float(np.median([w.half_width for w in whole])),
        **coverage,
    }


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


# ------------------------------------------------------------------------------------------- output


def show(result: dict[str, Any]) -> str:
    lines = [
        f"{result['table']}: {result['runs']} runs, target {result['target_flops']:.2g} FLOPs, "
        f"reference N* {result['reference_N']:.3g} 95 % half-width {result['reference_half_width']:.3f} (log)",
        f"{'strategy':12}{'RMSE log N*':>13}{'bias':>8}{'coverage':>10}{'compute lost':>14}{'runs':>7}{'spent':>8}",
    ]
    for name, row in result["strategies"].items():
        lines.append(
            f"{name:12}{row['rmse_log_N']:13.3f}{row['bias_log_N']:8.3f}{row['coverage']:10.0%}{row['lost']:14.2%}"
            f"{row['num_runs']:7.0f}{row['spent']:8.1%}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument(
        "--where", action="append", default=[], help="COLUMN=VALUE, may be given several times"
    )
    parser.add_argument("--target", type=float, help="FLOPs; ten times the largest run by default")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--reference", action="store_true", help="examine the yardstick too")
    parser.add_argument("--subsets", type=int, default=60, help="random subsets, with --reference or --sets")
    parser.add_argument("--sets", action="store_true", help="all public tables at both targets")
    parser.add_argument("--processes", type=int, default=1, help="with --sets")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--sweeps", type=int, default=40, help="with --simulate")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with --simulate, joined by commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.simulate:
        print(json.dumps(simulate(options.sweeps, Rule(), kinds=tuple(options.kinds.split(","))), indent=1))
        return 0
    if options.sets:
        folder = Path(os.environ.get("ISOFLOP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
        record = all_sets(folder, options.starts, options.subsets, options.processes)
        shown = [show(row) + "\n" + next_run_reference.show(row) for row in record["rows"]]
        print(json.dumps(record, indent=1) if options.json else "\n\n".join(shown))
        return 0
    if options.table is None:
        parser.error("give a table of runs, --sets or --simulate")
    try:
        table = read_table(options.table, options.where)
        target = options.target or 10.0 * float(table.runs.flops.max())
        reference = fitted_reference(table, target)
    except ValueError as error:  # a table that cannot be used: the message says what to do
        raise SystemExit(f"next_run.py: {error}") from None
    result = compare(table, reference, target, options.starts, Rule())
    if options.reference:
        result = examine(table, result, options.subsets)
    text = show(result) + ("\n" + next_run_reference.show(result) if options.reference else "")
    print(json.dumps(result, indent=1) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
