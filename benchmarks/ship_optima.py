"""Regenerate the best sizes of public isoFLOP sweeps that ship with the package.

    python benchmarks/ship_optima.py FOLDER [--check]

FOLDER holds `isoflop-sweeps/isoflops.csv` (github.com/Open-Athena/scaling-law-analysis: columns source, params,
budget, loss, outlier) and `porian-isoflop-owt2/isoflop_points.csv` (github.com/formll/resolving-scaling-law-
discrepancies: hparams, warmup, decay, param_count, val, flops, n_params, loss). Writes
src/isoflop/laws/optima/public.json: best size, its error and its budget, by two estimators, and what each of them
says of planted sweeps with a straight path: the law fitted to the sweep, its own sizes, budgets and noise. With
--check nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from isoflop.fit.isoflop import bowl
from isoflop.fit.isoflop.batch import BatchFit, Rules, bracketed, budget_intervals, build_design, fit_batch
from isoflop.fit.isoflop.path_bend import PathBend, path_bend
from isoflop.fit.law.parametric import fit_law

TARGET = Path(__file__).resolve().parent.parent / "src" / "isoflop" / "laws" / "optima" / "public.json"
NUM_PLANTED = 2000
NORMAL_95 = 1.959964
ESTIMATORS = {"bowl": 4, "parabola": 2}
MIN_SIZES = 3
ATHENA = "github.com/Open-Athena/scaling-law-analysis, commit 3e0656e"
PORIAN = "Porian et al. 2024 (arXiv 2406.19146), github.com/formll/resolving-scaling-law-discrepancies, commit 0dc60d9"
TITLES = {
    "epochai_chinchilla": ("Chinchilla, read off by Epoch AI", f"Hoffmann et al. 2022, Figure 4; {ATHENA}"),
    "ml_scalefit": ("Chinchilla, read off by ml-scalefit", f"Hoffmann et al. 2022, Figure 4; {ATHENA}"),
    "marin_202603": ("Marin, Comma corpus", ATHENA),
    "base long kaplan kaplan": ("OpenWebText2: long warm-up, long decay, without the head", PORIAN),
    "base long kaplan standard": ("OpenWebText2: long warm-up, long decay", PORIAN),
    "base short kaplan standard": ("OpenWebText2: short warm-up, long decay", PORIAN),
    "base short chinchilla standard": ("OpenWebText2: decay matched to the budget", PORIAN),
    "tuned short const standard": ("OpenWebText2: tuned, constant rate", PORIAN),
}
Array = np.ndarray


def read(folder: Path) -> dict[str, Array]:
    """Sweep -> rows of (C, N, loss); rows that the source itself calls outliers are left out."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    with (folder / "isoflop-sweeps" / "isoflops.csv").open() as file:
        for row in csv.DictReader(file):
            if row["outlier"] != "True":
                point = (float(row["budget"]), float(row["params"]), float(row["loss"]))
                rows.setdefault(row["source"], []).append(point)
    with (folder / "porian-isoflop-owt2" / "isoflop_points.csv").open() as file:
        for row in csv.DictReader(file):
            name = " ".join(row[key] for key in ("hparams", "warmup", "decay", "param_count"))
            point = (float(row["flops"]), float(row["n_params"]), float(row["loss"]))
            rows.setdefault(name, []).append(point)
    return {name: np.array(points) for name, points in rows.items()}


def bowls(C: Array, N: Array, loss: Array, degree: int) -> BatchFit:
    """Fits of losses [S, n]; budgets with too few sizes for a bowl are left out."""
    sizes = {budget: len(np.unique(N[budget == C])) for budget in np.unique(C)}
    kept = np.array([sizes[budget] >= MIN_SIZES for budget in C])
    design = build_design(C[kept], N[kept], np.arange(np.count_nonzero(kept)))
    return fit_batch(design, loss[:, kept], Rules(degree=degree))


def optima(C: Array, N: Array, loss: Array, degree: int) -> tuple[Array, Array, Array]:
    """Budgets [K], and log best size and standard error [S, K] for losses [S, n]; NaN where there is none."""
    fit = bowls(C, N, loss, degree)
    found = budget_intervals(fit, bowl.quantity_t_opt(fit.rules.family))
    with np.errstate(invalid="ignore"):
        se = (found.hi - found.lo) / (2 * NORMAL_95)
        good = bracketed(fit) & np.isfinite(se) & (se > 0)
    return (
        np.exp(fit.design.log_budgets),
        np.where(good, fit.centre + found.value, np.nan),
        np.where(good, se, np.nan),
    )


def planted(C: Array, N: Array, loss: Array, degree: int, seen: PathBend, seed: int = 0) -> dict[str, object]:
    """What the estimator says of sweeps whose path of optima is straight, and how rare the drift seen is there.

    Best sizes scatter about the straight path as they were seen to do about the bent one.
    """
    law = fit_law(N, C / (6 * N), loss, bootstrap=0, multistart=0).law
    truth = np.asarray(law.loss(N, C / (6 * N)))
    scatter = bowls(C, N, loss[None], degree)
    spare = np.count_nonzero(scatter.included) - 3 * scatter.design.num_budgets - 1
    noise = float(np.sqrt(np.sum(scatter.residuals**2) / spare) / np.median(loss))
    rng = np.random.default_rng(seed)
    budgets, log_N, se = optima(
        C, N, truth * np.exp(noise * rng.standard_normal((NUM_PLANTED, len(N)))), degree
    )
    log_N = log_N + seen.scatter * rng.standard_normal(log_N.shape)
    bends = [
        path_bend(np.log(budgets[good]), one[good], error[good])
        for one, error in zip(log_N, se, strict=True)
        if np.count_nonzero(good := np.isfinite(one)) >= 5
    ]
    drift = np.array([bend.drift.value for bend in bends])
    as_far = np.count_nonzero(np.abs(drift - drift.mean()) >= abs((seen.drift.value or 0.0) - drift.mean()))
    return {
        "num_sweeps": len(bends),
        "drift_mean": round(float(drift.mean()), 5),
        "drift_ci95": [round(float(end), 5) for end in np.quantile(drift, (0.025, 0.975))],
        "p": round((1 + as_far) / (1 + len(drift)), 5),
        "says_bend": round(float(np.mean([bend.p < 0.05 for bend in bends])), 4),
    }


def compute(folder: Path) -> dict[str, object]:
    """The whole file."""
    sweeps = []
    for name, points in read(folder).items():
        C, N, loss = points.T
        title, source = TITLES[name]
        for estimator, degree in ESTIMATORS.items():
            budgets, log_N, se = optima(C, N, loss[None], degree)
            good = np.isfinite(log_N[0])
            row = {
                "sweep": name,
                "title": title,
                "source": source,
                "estimator": estimator,
                "num_runs": len(C),
            }
            row["budgets"] = [float(f"{budget:.6g}") for budget in budgets[good]]
            row["log_N"] = [round(float(value), 5) for value in log_N[0, good]]
            row["se"] = [round(float(value), 5) for value in se[0, good]]
            bend = path_bend(np.log(budgets[good]), log_N[0, good], se[0, good])
            sweeps.append({**row, "planted": planted(C, N, loss, degree, bend)})
    return {"made_by": "benchmarks/ship_optima.py", "sweeps": sweeps}


def main() -> int:
    text = json.dumps(compute(Path(sys.argv[1])), indent=1) + "\n"
    if "--check" in sys.argv:
        return int(json.loads(text) != json.loads(TARGET.read_text()))
    TARGET.write_text(text)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
