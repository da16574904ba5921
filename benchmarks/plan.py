"""The planner: how fast it answers, and the fits of the public points under other choices that ship with it.

    python benchmarks/plan.py speed [TABLE.csv] [--record FILE]
    python benchmarks/plan.py choices TABLE.csv

`speed` prints the time of a plan from the command line, start of Python included; of a plan in a process that runs;
and of a move of each slider of the page in headless Chromium, with 4,000 draws of the shipped law and, given a
table, of a fit of one's own: 21 places along the slider, the fastest of four moves to each, drawing included (the
others show what else the machine did). benchmarks/records/plan.json holds the last run. `choices` refits the
public points (the table that benchmarks/ship_draws.py takes) under other loss functions and outlier rules and
writes src/isoflop/plan/choices/besiroglu.json: nothing is written unless every fit is certified.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from isoflop.plan.belief import PARAMETERS, parameters_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the browser's driver is that of the tests
TARGET = ROOT / "src" / "isoflop" / "plan" / "choices" / "besiroglu.json"
CHOICES = (
    ("least absolute deviations instead of Huber's loss", {"loss_function": "lad", "drop_highest_loss": 5}),
    ("least squares instead of Huber's loss", {"loss_function": "squares", "drop_highest_loss": 5}),
    ("Student's t instead of Huber's loss", {"loss_function": "student", "drop_highest_loss": 5}),
    ("all 245 runs, the five highest losses kept", {"loss_function": "huber"}),
    ("all 245 runs, least squares", {"loss_function": "squares"}),
)


def other_fits(table: Path) -> list[dict[str, object]]:
    """One row for each of `CHOICES`: its words and its five parameters."""
    from isoflop.fit.law.parametric import fit_law
    from isoflop.fit.tables.runs import read_runs

    runs = read_runs(table)
    rows: list[dict[str, object]] = []
    for words, options in CHOICES:
        fit = fit_law(runs.N, runs.D, runs.loss, bootstrap=0, **options)  # type: ignore[arg-type]
        if not fit.certificate.converged:
            raise SystemExit(f"not written: the fit with {words} did not converge")
        parameters = dict(zip(PARAMETERS, parameters_of(fit.law), strict=True))
        rows.append({"choice": words, "rows_used": len(fit.N), "objective": fit.objective, **parameters})
    return rows


PANEL_FLOPS = 3.8e25
"""Budget at which the rows that are no fits of this form are made; they are power laws of the budget."""


def choices(table: Path) -> dict[str, Any]:
    """All that ships: the fits, and the rows of the panel that name a size or test a forecast."""
    from isoflop.fit.law.sensitivity import sensitivity_panel
    from isoflop.fit.tables.runs import read_runs

    runs = read_runs(table)
    panel = sensitivity_panel(runs.N, runs.D, runs.loss, PANEL_FLOPS, drop_highest_loss=5)
    rows = [row.to_mapping() for row in panel if row.group in ("counting", "form", "method", "forecast")]
    return {"fits": other_fits(table), "panel_flops": PANEL_FLOPS, "panel": rows}


ASKED = (("--budget", "3.8e25", "--serve", "1e14"), ("--budget", "50 H100-days", "--unique", "10e9"))
MOVES = """
(() => {
  const out = {}, page = window.isoflop;
  for (const name of ["budget", "serve", "unique", "eps", "size"]) {
    const slider = document.getElementById(name), low = +slider.min, high = +slider.max;
    page.timings.length = 0;
    const best = [];
    for (let i = 0; i <= 20; i++) {
      slider.value = low + (high - low) * i / 20;
      for (let k = 0; k < 4; k++) slider.dispatchEvent(new Event("input", { bubbles: true }));
      best.push(Math.min(...page.timings.slice(-4)));
    }
    out[name] = { best, all: [...page.timings] };
    page.set(JSON.parse(JSON.stringify(START)));
  }
  return out;
})()
"""


def speed(table: Path | None) -> dict[str, Any]:
    """All timings; medians over repetitions, in milliseconds of the clock."""
    from isoflop.plan.page import write_page
    from isoflop.plan.size import plan_size, read_request
    from isoflop.provenance import current

    made = current()
    result: dict[str, Any] = {
        "schema": "isoflop.benchmark.plan/1", "date": made.started, "machine": made.machine,
        "python": made.python, "commit": made.commit, "dirty": made.dirty, "load": os.getloadavg()[0],
        "plan": [plan_times(arguments) for arguments in ASKED], "page": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        page = write_page(plan_size(read_request("3.8e25", serve="1e14")), Path(folder) / "plan.html")
        result["page_written_ms"] = 1e3 * (time.perf_counter() - start)
        result["page"].append({"law": "besiroglu", **slider_times(page)})
        if table is not None:
            own = Path(folder) / "fit.html"
            call("fit", str(table), "--drop-highest", "5", "--budget", "3.8e25", "--page", str(own))
            result["page"].append({"law": table.name, **slider_times(own)})
    return result


def call(*arguments: str) -> float:
    """Seconds of the clock of one call of the command line, start of Python included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "isoflop", *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def plan_times(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Of one question: the whole command, and the plan with its text in a process that runs."""
    from isoflop.plan.size import plan_size, read_request
    from isoflop.plan.text import plan_text

    names = dict(zip(arguments[::2], arguments[1::2], strict=True))
    request = read_request(names["--budget"], serve=names.get("--serve"), unique=names.get("--unique"))
    inside = []
    for _ in range(7):
        start = time.perf_counter()
        plan_text(plan_size(request))
        inside.append(time.perf_counter() - start)
    return {
        "arguments": list(arguments),
        "command_ms": 1e3 * statistics.median(call("plan", *arguments) for _ in range(7)),
        "in_process_ms": 1e3 * statistics.median(inside),
    }


def slider_times(page: Path) -> dict[str, Any]:
    """Of a page in headless Chromium: milliseconds from a slider's event until all is computed and drawn."""
    from tests.browser import Browser

    with Browser() as browser:
        opened = browser.open(page)
        opened.set_viewport(1280, 900)
        opened.send("Page.bringToFront")
        draws = opened.evaluate("document.getElementById('timing').textContent")
        shown = opened.evaluate("window.isoflop.state")
        moves = {**{name: shown[name] for name in ("C", "eps", "x")}, "T": 1e14, "U": 3e13}
        state = [
            {**moves, "T": 0.0, "U": None},
            moves,
        ]  # data and serving without bounds, then with all of them
        times = {}
        for words, start in zip(("", ", data and serving bounded"), state, strict=True):
            opened.evaluate(f"window.isoflop.set({json.dumps(start)})")
            found = opened.evaluate(MOVES.replace("START", json.dumps(start)))
            times.update({name + words: took for name, took in found.items()})
        problems, requests = list(opened.problems), list(opened.requests)
    if problems or requests != [page.as_uri()]:
        raise SystemExit(f"the page complained or asked for more than itself: {problems} {requests}")
    rows = {
        name: {
            "places": len(took["best"]),
            "median_ms": statistics.median(took["best"]),
            "slowest_place_ms": max(took["best"]),
            "median_of_all_moves_ms": statistics.median(took["all"]),
        }
        for name, took in times.items()
    }
    return {"bytes": page.stat().st_size, "requests": len(requests), "says": draws, "sliders": rows}


def show(result: dict[str, Any]) -> str:
    lines = [
        f"{' '.join(row['arguments']):42} {row['command_ms']:6.0f} ms, in a running process "
        f"{row['in_process_ms']:.0f} ms"
        for row in result["plan"]
    ]
    for page in result["page"]:
        lines.append(f"page of {page['law']}, {page['bytes'] / 1e3:.0f} kB, one move of")
        lines += [
            f"    {name:36} {row['median_ms']:6.1f} ms "
            f"(slowest place {row['slowest_place_ms']:.1f}; of all moves {row['median_of_all_moves_ms']:.1f})"
            for name, row in page["sliders"].items()
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "choices"])
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--record", type=Path, help="also write the times into this file")
    arguments = parser.parse_args()
    if arguments.what == "speed":
        result = speed(arguments.table)
        print(show(result))
        if arguments.record is not None:
            arguments.record.write_text(json.dumps(result, indent=1) + "\n")
        return 0
    if arguments.table is None:
        parser.error("choices needs TABLE.csv, the public points")
    made = choices(arguments.table)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{TARGET}: {len(made['fits'])} fits, {len(made['panel'])} other rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
