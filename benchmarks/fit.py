"""Bootstrap of the Chinchilla fit: isoflop beside the usual loop, in one run, on one thread.

    python benchmarks/fit.py [TABLE.csv] [--baseline 200] [--full] [--scaling] [--json] [--record FILE]

Three ways of refitting the same resamples of the same points (Huber, delta 1e-3, on the log loss):

    usual     scipy's BFGS with gradients from the `autograd` package, from Hoffmann's coefficients, one replicate
              at a time: the loop of the published replication
    careful   the same by hand: centred logarithms, analytic gradient, scaled objective, warm start
    isoflop   `fit_law`: all replicates at once, each with its certificate; its time includes drawing the
              resamples, the 25 starts of the base fit, and the certificates

TABLE has the columns `Model Size`, `Training FLOP`, `loss`; without it the 245 Chinchilla points are taken
from $ISOFLOP_SHARED_DATA or ../shared/data, and failing that a planted law is drawn. Times are process CPU
seconds; blocks of the three ways alternate, so that a busy machine slows them alike. `--full` runs the usual
loop on all 4000 resamples (its standard error of A must then be the published one). `--scaling` fits tables of
up to 1e5 points with up to 1e4 replicates (one to two minutes), and gives the time for each replicate and point
beside the peak memory. benchmarks/records/fit.json holds the last full run.

Needs: pip install autograd (the extra `bench`)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import csv
import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.optimize import minimize

from isoflop.fit.law.parametric import LawFit, fit_law
from isoflop.laws.chinchilla import BESIROGLU, HOFFMANN

DELTA = 1e-3
BLOCK = 40
PUBLISHED_SE_OF_A = 124.52


def load(path: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """N, D, loss of the runs that are fitted (the five highest losses left out), and their name."""
    folder = Path(
        os.environ.get("ISOFLOP_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    path = path or folder / "chinchilla_besiroglu.csv"
    if not path.is_file():
        rng = np.random.default_rng(0)
        N = np.exp(rng.uniform(np.log(6e7), np.log(1.6e10), 240))
        D = np.exp(rng.uniform(np.log(2e9), np.log(2e11), 240))
        return N, D, BESIROGLU.loss(N, D) * np.exp(0.005 * rng.standard_t(3, 240)), "planted law, 240 points"
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    N, C, loss = (
        np.array([float(row[key]) for row in rows]) for key in ("Model Size", "Training FLOP", "loss")
    )
    keep = loss < np.sort(loss)[-5]
    return N[keep], (C / (6 * N))[keep], loss[keep], f"{path.name}, {keep.sum()} points"


def resamples(num_replicates: int, n: int) -> np.ndarray:
    """Row indices as the published notebook draws them, [B, n]."""
    generator = np.random.RandomState(42)
    return np.stack([generator.choice(n, n, replace=True) for _ in range(num_replicates)])


# ------------------------------------------------------------------------------------ the two baselines


class Usual:
    """scipy BFGS, gradients by automatic differentiation, one start: (a, b, e, alpha, beta), raw logarithms."""

    def __init__(self) -> None:
        import autograd.numpy as anp
        from autograd import grad
        from autograd.scipy.special import logsumexp

        def objective(theta: Any, N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> Any:
            a, b, e, alpha, beta = theta
            terms = anp.array([a - alpha * anp.log(N), b - beta * anp.log(D), e + 0 * N])
            r = anp.log(loss) - logsumexp(terms, axis=0)
            size = anp.abs(r)
            return anp.sum(anp.where(size <= DELTA, 0.5 * r**2, DELTA * (size - 0.5 * DELTA)))

        self.objective, self.gradient = objective, grad(objective)
        law = HOFFMANN
        self.start = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])

    def fit(self, N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
        """Objective and A of one table."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = minimize(self.objective, self.start, args=(N, D, loss), jac=self.gradient, method="BFGS")
        return float(found.fun), float(np.exp(found.x[0]))


class Careful:
    """scipy BFGS as one would write it with care; the start and the scale come from the fit of the whole table."""

    def __init__(self, fit: LawFit) -> None:
        log_N, log_D = np.log(fit.N), np.log(fit.D)
        self.center = log_N.mean(), log_D.mean()
        self.x, self.y, self.t = log_N - self.center[0], log_D - self.center[1], np.log(fit.loss)
        law = fit.law
        self.start = np.array([
            np.log(law.E), np.log(law.A) - law.alpha * self.center[0], np.log(law.B) - law.beta * self.center[1],
            law.alpha, law.beta,
        ])  # fmt: skip
        self.scale = 1.0 / fit.objective

    def value_and_gradient(self, theta: np.ndarray, x: np.ndarray, y: np.ndarray, t: np.ndarray) -> Any:
        e, a, b, alpha, beta = theta
        size, data = np.exp(a - alpha * x), np.exp(b - beta * y)
        total = np.exp(e) + size + data
        r = np.log(total) - t
        psi = np.clip(r, -DELTA, DELTA)
        slope = psi / total
        size *= slope
        data *= slope
        gradient = np.array([np.exp(e) * slope.sum(), size.sum(), data.sum(), -(size @ x), -(data @ y)])
        return self.scale * (psi @ (r - 0.5 * psi)), self.scale * gradient

    def fit(self, rows: np.ndarray) -> tuple[float, float]:
        """Objective and A of one resample."""
        found = minimize(self.value_and_gradient, self.start, args=(self.x[rows], self.y[rows], self.t[rows]),
                         jac=True, method="BFGS", options={"gtol": 1e-6})  # fmt: skip
        return float(found.fun) / self.scale, float(np.exp(found.x[1] + found.x[3] * self.center[0]))


# --------------------------------------------------------------------------------------------- the run


def seconds(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    started = time.process_time()
    result = function(*args, **kwargs)
    return result, time.process_time() - started


def compare(
    N: np.ndarray, D: np.ndarray, loss: np.ndarray, num_replicates: int, num_baseline: int
) -> dict[str, Any]:
    """Run the three ways in alternating blocks and compare every replicate they share."""
    index = resamples(num_replicates, len(N))
    weights = np.stack([np.bincount(rows, minlength=len(N)) for rows in index])
    ours = fit_law(N, D, loss, weights=weights, multistart=0)  # the same resamples, for the objectives
    usual, careful = Usual(), Careful(ours)
    spent = {"usual": 0.0, "careful": 0.0}
    objective = {name: np.empty(num_baseline) for name in spent}
    size_term = {name: np.empty(num_baseline) for name in spent}
    timings = []
    blocks = range(0, num_baseline, BLOCK)
    repeats_at = set(np.linspace(0, len(blocks) - 1, 7).astype(int).tolist())
    for number, low in enumerate(blocks):
        for i in range(low, min(low + BLOCK, num_baseline)):
            rows = index[i]
            for name, function, args in (
                ("usual", usual.fit, (N[rows], D[rows], loss[rows])), ("careful", careful.fit, (rows,))
            ):  # fmt: skip
                (objective[name][i], size_term[name][i]), cpu = seconds(function, *args)
                spent[name] += cpu
        if number in repeats_at:
            timings.append(seconds(fit_law, N, D, loss, bootstrap=num_replicates, multistart=0)[1])
    audited, with_audit = seconds(fit_law, N, D, loss, bootstrap=num_replicates, multistart=500)
    ours_s = float(np.median(timings))
    result: dict[str, Any] = {
        "replicates": num_replicates, "points": len(N), "baseline_replicates": num_baseline,
        "isoflop_seconds": ours_s, "isoflop_seconds_each": timings, "isoflop_ms_per_fit": 1e3 * ours_s / num_replicates,
        "isoflop_seconds_with_500_audited": with_audit, "audit_misses": audited.audit.misses,
        "certified_share": ours.certified_share, "worst_predicted_gap": float(ours.replicates.gap.max()),
        "se_A_isoflop": ours.standard_errors["A"], "se_A_published": PUBLISHED_SE_OF_A,
    }  # fmt: skip
    for name in spent:
        per_fit = spent[name] / num_baseline
        gap = (ours.replicates.objective[:num_baseline] - objective[name]) / objective[name]
        result[name] = {
            "ms_per_fit": 1e3 * per_fit,
            "times_slower": per_fit * num_replicates / ours_s,
            "times_slower_with_audit": per_fit * num_replicates / with_audit,
            "worst_gap_of_isoflop": float(gap.max()), "median_gap_of_isoflop": float(np.median(gap)),
            "replicates_left_short_by_1e-6": int(np.sum(gap < -1e-6)),
            "se_A": float(np.std(size_term[name])),
            "se_A_of_isoflop_on_the_same": float(np.std(ours.draws[:num_baseline, 1])),
        }  # fmt: skip
    return result


def scaling() -> list[dict[str, float]]:
    """CPU time per replicate and point, and peak memory, over sizes up to 1e5 points."""
    rows = []
    for n, num_replicates in (
        (240, 4000),
        (240, 16000),
        (2_400, 1000),
        (24_000, 100),
        (100_000, 200),
        (100_000, 400),
        (100_000, 10_000),
    ):
        rng = np.random.default_rng(0)
        N, D = np.exp(rng.uniform(18, 23.5, n)), np.exp(rng.uniform(21.5, 26, n))
        loss = BESIROGLU.loss(N, D) * np.exp(0.005 * rng.standard_t(3, n))
        base = seconds(fit_law, N, D, loss, bootstrap=0)[1]
        whole = seconds(fit_law, N, D, loss, bootstrap=num_replicates, multistart=0)[1]
        rows.append({
            "points": n, "replicates": num_replicates, "seconds": whole, "base_fit_seconds": base,
            "ns_per_replicate_and_point": 1e9 * (whole - base) / (n * num_replicates),
            "peak_memory_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        })  # fmt: skip
    return rows


def heading() -> dict[str, Any]:
    """When, where and with which versions."""
    from isoflop.provenance import current

    made = current()
    return {
        "schema": "isoflop.benchmark.fit/1", "date": made.started, "machine": made.machine, "python": made.python,
        "numpy": np.__version__, "scipy": scipy.__version__, "commit": made.commit, "dirty": made.dirty,
    }  # fmt: skip


def show(result: dict[str, Any], name: str) -> str:
    lines = [
        f"{result['replicates']} bootstraps of {name}; CPU seconds on one thread",
        f"{'':10}{'ms per fit':>12}{'isoflop is':>14}{'with audit':>12}{'worst gap':>12}{'short':>7}{'SE of A':>10}",
    ]
    for way in ("usual", "careful"):
        row = result[way]
        lines.append(
            f"{way:10}{row['ms_per_fit']:12.2f}{row['times_slower']:12.0f} x{row['times_slower_with_audit']:10.0f} x"
            f"{row['worst_gap_of_isoflop']:12.1e}{row['replicates_left_short_by_1e-6']:7d}{row['se_A']:10.1f}"
        )
    lines += [
        f"{'isoflop':10}{result['isoflop_ms_per_fit']:12.4f}{'':45}{result['se_A_isoflop']:10.1f}",
        f"isoflop: {result['isoflop_seconds']:.3f} s for all (median of {len(result['isoflop_seconds_each'])}), "
        f"{result['isoflop_seconds_with_500_audited']:.2f} s when 500 are also compared with their 25 starts "
        f"({result['audit_misses']} missed); certified {result['certified_share']:.1%}, "
        f"worst predicted gap {result['worst_predicted_gap']:.0e}",
        f"worst gap: (isoflop - other) / other, over {result['baseline_replicates']} shared resamples; "
        "short: left more than 1e-6 above isoflop's optimum",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--replicates", type=int, default=4000)
    parser.add_argument("--baseline", type=int, default=200, help="resamples given to the two baselines")
    parser.add_argument("--full", action="store_true", help="give all resamples to the baselines")
    parser.add_argument("--scaling", action="store_true", help="also time tables of up to 1e5 points")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", type=Path, help="also write the numbers into this file")
    arguments = parser.parse_args()
    N, D, loss, name = load(arguments.table)
    baseline = arguments.replicates if arguments.full else min(arguments.baseline, arguments.replicates)
    result = compare(N, D, loss, arguments.replicates, baseline)
    if arguments.scaling:
        result["scaling"] = scaling()
    if arguments.record is not None:
        arguments.record.write_text(json.dumps({**heading(), "table": name, **result}, indent=1) + "\n")
    if arguments.json:
        print(json.dumps({"table": name, **result}, indent=1))
        return 0
    print(show(result, name))
    for row in result.get("scaling", []):
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
