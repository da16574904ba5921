"""Score forecasts of learning curves on public benchmarks, beside what others would forecast.

    python benchmarks/extrapolation.py TABLE.csv [TABLE.csv ...] [--json] [--no-baselines]

A table holds either the columns Domain, Task, Model, Seen Examples, Loss, Training of Alabdulmohsin et al.
2022 (one evaluation per Domain, Task, Model; Training 1 is given, 0 is to be predicted), or the columns
curve, x, y, split (context or target); such a table is one domain, named after its file, unless it has a
Domain column. Rows may come in any order and hold further columns. What has no logarithm is left out, and
said; so is a curve with too few training rows.

The score of an evaluation is sqrt(mean((ln predicted - ln true)^2)) over its target rows, as in that paper;
a domain's figure is the mean over its evaluations. The target rows are read for scoring alone: a method
gets the training rows and the targets' x. Coverage is the share of target rows inside the 90 % interval.

The width of the intervals is calibrated for each domain on its training rows alone: each curve is cut before
its end and forecast from the first part. Seconds a curve are of processor time and hold the curve's share
of that.

M1 to M4 and the broken power law with one break (BNSL) are fitted here, on the same curves, by least squares
in ln y from many starts, with an irreducible loss that is not negative. The published figures are averages
over all evaluations of their domain, of which a table may hold a part: another subset, for orientation.

What was looked at, and when, is in extrapolation_looks.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isoflop.fit.curves.families import fit_curves
from isoflop.fit.curves.loss_calibration import Calibration, calibrate
from isoflop.fit.curves.loss_forecast import FEWEST_POINTS, Kind, forecast_losses

PUBLISHED = {
    # Lee et al. 2025 (arXiv 2505.23032), RMSLE averaged over all evaluations of the domain.
    "IC": {"subset": "all 72", "M4": 0.0415, "BNSL": 0.0406, "LC-PFN": 0.0428, "NSL-PFN": 0.0280},
    "NLP + Nano": {"subset": "all 20 + 24", "BNSL": 0.0223, "LC-PFN": 0.0398, "NSL-PFN": 0.0194},
    "DD": {"subset": "all 16", "BNSL": 0.0468, "LC-PFN": 0.0706, "NSL-PFN": 0.0335},
}
NLP_AND_NANO = ("NMT", "LM", "BB", "Nano")
BASELINES = ("M1", "M2", "M3", "M4", "BNSL")
PAPER_COLUMNS = ("Domain", "Task", "Model", "Seen Examples", "Loss", "Training")
PARTS = {
    **dict.fromkeys(("1", "1.0", "true", "context"), True),
    **dict.fromkeys(("0", "0.0", "false", "target"), False),
}
"""What marks a row as given (True) or to be predicted, without case."""
FILE_DOMAINS = {"dd": "DD", "nano": "Nano", "colpret": "ColPret"}


@dataclass(frozen=True)
class Evaluation:
    """One curve with its given and its held-out rows."""

    domain: str
    name: str
    x: np.ndarray
    y: np.ndarray
    x_target: np.ndarray
    y_target: np.ndarray


@dataclass(frozen=True)
class Scored:
    """One evaluation, scored."""

    domain: str
    name: str
    rmsle: float
    coverage90: float
    seconds: float
    baselines: dict[str, float]


def read_table(path: Path) -> list[Evaluation]:
    """All evaluations of a table, its rows in any order.

    Raises SystemExit with a sentence for other columns, an entry that is no number, a row that is neither given
    nor to be predicted, or a table in which no evaluation has both kinds of rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read ({error}); give a CSV file with a header line") from None
    columns = set(rows[0]) if rows else set()
    if set(PAPER_COLUMNS) <= columns:
        x, y, part = PAPER_COLUMNS[3:]
        keys = [(row["Domain"], f"{row['Task']} {row['Model']}") for row in rows]
    elif {"curve", "x", "y", "split"} <= columns:
        x, y, part = "x", "y", "split"
        keys = [(row.get("Domain") or _domain_of(path), row["curve"]) for row in rows]
    elif not rows:
        raise SystemExit(f"{path} has no rows; it should hold a header line and one row a measurement")
    else:
        raise SystemExit(
            f"{path}: columns {sorted(map(str, columns))} are neither {', '.join(PAPER_COLUMNS)} "
            "nor curve, x, y, split"
        )
    curves: dict[tuple[str, str], list[tuple[float, float, bool]]] = {}
    for line, (key, row) in enumerate(zip(keys, rows, strict=True), start=2):
        where = f"{path}, line {line}"
        point = (_number(row, x, where), _number(row, y, where), _is_given(row, part, where))
        curves.setdefault(key, []).append(point)
    found = [_evaluation(key, points) for key, points in curves.items()]
    if not any(len(e.x) and len(e.x_target) for e in found):
        lacks = "target" if len(found[0].x) else "training"
        raise SystemExit(f"{path}: {found[0].domain} {found[0].name} lacks {lacks} rows, as every curve does")
    return found


def _domain_of(path: Path) -> str:
    """The domain that a file is named after: dd.csv and dd.rest.csv hold DD; else the name of the file."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((FILE_DOMAINS[word] for word in words if word in FILE_DOMAINS), path.stem)


def _number(row: dict[str, str], column: str, where: str) -> float:
    """An entry as a number; NaN where there is none."""
    try:
        return float(row[column] or "nan")
    except (TypeError, ValueError):
        raise SystemExit(f"{where}: {column} is {row[column]!r}, not a number; mend or empty it") from None


def _is_given(row: dict[str, str], column: str, where: str) -> bool:
    word = str(row[column]).strip().lower()
    if word not in PARTS:
        wanted = "1 or 0" if column == "Training" else "context or target"
        raise SystemExit(f"{where}: {column} is {row[column]!r}; write {wanted}")
    return PARTS[word]


def _evaluation(key: tuple[str, str], points: list[tuple[float, float, bool]]) -> Evaluation:
    given = np.array([(x, y) for x, y, part in points if part]).reshape(-1, 2)
    target = np.array([(x, y) for x, y, part in points if not part]).reshape(-1, 2)
    return Evaluation(*key, given[:, 0], given[:, 1], target[:, 0], target[:, 1])


def usable(evaluation: Evaluation) -> tuple[Evaluation | None, list[str]]:
    """The evaluation without what has no logarithm (None when too little is left), and what was left out, in words."""
    e, said = evaluation, []
    given = _above_zero(e.x) & _above_zero(e.y)
    target = _above_zero(e.x_target) & _above_zero(e.y_target)
    for kept, rows in ((given, "training"), (target, "target")):
        if not kept.all():
            said.append(
                f"{int(np.sum(~kept))} of {len(kept)} {rows} rows left out: x or loss not above 0, so no logarithm"
            )
    num = len(np.unique(e.x[given]))
    if num < FEWEST_POINTS or not target.any():
        few = f"{num} distinct x to fit, and {FEWEST_POINTS} are the fewest"
        return None, [*said, f"not scored: {few if target.any() else 'no target rows'}"]
    kept_rows = Evaluation(e.domain, e.name, e.x[given], e.y[given], e.x_target[target], e.y_target[target])
    if kept_rows.y[np.argmax(kept_rows.x)] > kept_rows.y[np.argmin(kept_rows.x)]:
        said.append("scored, though it rises: the forecast is made for falling curves")
    return kept_rows, said


def _above_zero(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) & (values > 0)


def rmsle(predicted: np.ndarray, true: np.ndarray) -> float:
    """sqrt(mean((ln predicted - ln true)^2))."""
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(true)) ** 2)))


# ------------------------------------------------------------------------------------- baselines


def _fitted(name: str, beta_lower: tuple[float, ...] | None = None) -> Callable[..., np.ndarray]:
    def predict(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
        fits = fit_curves(
            x, y, name, relative=True, num_starts=12, num_checks=6, max_steps=300, beta_lower=beta_lower
        )
        return fits.predict(x_new)[0]

    return predict


def _m2(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
    """Power law with offset; where the best offset is negative, the best that is not: none."""
    fits = fit_curves(x, y, "power_offset", relative=True, num_starts=8, num_checks=6, max_steps=300)
    offset, _amplitude, exponent = fits.parameters[0]
    if exponent < 0 and offset < 0:
        return _fitted("power")(x, y, x_new)
    return fits.predict(x_new)[0]


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "M1": _fitted("power"),
    "M2": _m2,
    "M3": _fitted("shifted_power"),
    "M4": _fitted("m4", (0.0, -np.inf)),
    "BNSL": _fitted("broken_power", (0.0, -np.inf)),
}


def calibrate_domains(evaluations: list[Evaluation]) -> dict[str, tuple[Calibration, float]]:
    """The width of each domain's intervals from its training rows, and the seconds that took a curve."""
    domains: dict[str, list[Evaluation]] = {}
    for e in evaluations:
        domains.setdefault(e.domain, []).append(e)
    found = {}
    for name, members in domains.items():
        began = time.process_time()
        ahead = float(np.median([e.x_target.max() / e.x.max() for e in members]))
        calibration = calibrate([(e.x, e.y) for e in members], ahead=max(ahead, 1.1))
        found[name] = (calibration, (time.process_time() - began) / len(members))
    return found


def score(
    evaluation: Evaluation,
    baselines: bool,
    calibration: Calibration | None = None,
    seconds_before: float = 0.0,
) -> Scored:
    """Forecast and score one evaluation."""
    e = evaluation
    began = time.process_time()
    kind = Kind() if calibration is None else calibration.kind
    forecast = forecast_losses(e.x, e.y, e.x_target, kind=kind)
    lo, hi = forecast.interval(0.9)
    seconds = time.process_time() - began + seconds_before
    inside = np.mean((lo <= e.y_target) & (e.y_target <= hi))
    others = {}
    if baselines:
        points = np.unique(np.stack([e.x, e.y], axis=1), axis=0)
        for name, method in METHODS.items():
            predicted = method(points[:, 0], points[:, 1], e.x_target)
            others[name] = rmsle(np.maximum(predicted, 1e-3 * e.y.min()), e.y_target)
    return Scored(e.domain, e.name, rmsle(forecast.median, e.y_target), float(inside), seconds, others)


# --------------------------------------------------------------------------------------- summary


def summarise(scored: list[Scored]) -> dict[str, dict[str, object]]:
    """Per domain, and for the NLP domains with nanoGPT together: means over evaluations."""
    domains: dict[str, list[Scored]] = {}
    for item in scored:
        domains.setdefault(item.domain, []).append(item)
    joint = [item for item in scored if item.domain in NLP_AND_NANO]
    if joint:
        domains["NLP + Nano"] = joint
    return {name: _domain(name, items) for name, items in domains.items()}


def _domain(name: str, items: list[Scored]) -> dict[str, object]:
    values = np.array([item.rmsle for item in items])
    spread = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    row: dict[str, object] = {
        "rmsle": float(values.mean()),
        "rmsle_se": spread,
        "n": len(items),
        "coverage90": float(np.mean([item.coverage90 for item in items])),
        "median_rmsle": float(np.median(values)),
        "seconds_per_curve": float(np.mean([item.seconds for item in items])),
    }
    if items[0].baselines:
        row["baselines"] = {b: float(np.mean([item.baselines[b] for item in items])) for b in BASELINES}
    if name in PUBLISHED:
        row["published_on_another_subset"] = PUBLISHED[name]
    return row


def render(summary: dict[str, dict[str, object]]) -> str:
    """The table for people."""
    head = f"{'domain':12s} {'n':>3s} {'isoflop':>8s} {'+-se':>7s} {'cover':>6s} {'s/curve':>8s}"
    lines = [head + "".join(f"{b:>8s}" for b in BASELINES) + "   NSL-PFN (published, all curves)"]
    for name, row in summary.items():
        spread = f"{row['rmsle_se']:.4f}" if row["rmsle_se"] is not None else "-"
        cells = f"{name:12s} {row['n']:3d} {row['rmsle']:8.4f} {spread:>7s} {row['coverage90']:6.2f} "
        cells += f"{row['seconds_per_curve']:8.3f}"
        others = row.get("baselines") or {}
        cells += "".join(f"{others[b]:8.4f}" if b in others else f"{'-':>8s}" for b in BASELINES)  # type: ignore[index,operator]
        published = row.get("published_on_another_subset") or {}
        lines.append(cells + (f"   {published['NSL-PFN']:.4f} ({published['subset']})" if published else ""))  # type: ignore[index]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--no-baselines", action="store_true", help="leave out M1 to M4 and BNSL")
    args = parser.parse_args()
    example = np.arange(1.0, 9.0)
    forecast_losses(example, 1 / example, np.array([10.0])).interval()  # loads SciPy before the clock runs
    evaluations, left_out = [], []
    for evaluation in (evaluation for path in args.tables for evaluation in read_table(path)):
        kept, said = usable(evaluation)
        left_out += [{"domain": evaluation.domain, "name": evaluation.name, "what": words} for words in said]
        if kept is not None:
            evaluations.append(kept)
    if not evaluations:
        raise SystemExit(
            "no curve can be scored: " + "; ".join(f"{o['name']}: {o['what']}" for o in left_out)
        )
    calibrated = calibrate_domains(evaluations)
    scored = []
    for evaluation in evaluations:
        calibration, seconds = calibrated[evaluation.domain]
        scored.append(score(evaluation, not args.no_baselines, calibration, seconds))
    summary = summarise(scored)
    if args.json:
        per_curve = [
            {"domain": s.domain, "name": s.name, "rmsle": s.rmsle, "coverage90": s.coverage90, **s.baselines}
            for s in scored
        ]
        json.dump({"domains": summary, "curves": per_curve, "left_out": left_out}, sys.stdout, indent=1)
        print()
    else:
        print(render(summary))
        for one in left_out:
            print(f"{one['domain']} {one['name']}: {one['what']}")


if __name__ == "__main__":
    main()
