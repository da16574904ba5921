"""The planner: how fast it answers, and the fits of the public points under other choices that ship with it.

    python benchmarks/plan.py speed
    python benchmarks/plan.py choices TABLE.csv

`speed` prints the time of a plan and of its page, in one process, after the imports. `choices` refits the
public points (the table that benchmarks/ship_draws.py takes) under other loss functions and outlier rules and
writes src/isoflop/plan/choices/besiroglu.json: nothing is written unless every fit is certified.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from isoflop.plan.belief import PARAMETERS, parameters_of

TARGET = Path(__file__).resolve().parent.parent / "src" / "isoflop" / "plan" / "choices" / "besiroglu.json"
CHOICES = (
    ("least absolute deviations instead of Huber's loss", {"loss_function": "lad", "drop_highest_loss": 5}),
    ("least squares instead of Huber's loss", {"loss_function": "squares", "drop_highest_loss": 5}),
    ("Student's t instead of Huber's loss", {"loss_function": "student", "drop_highest_loss": 5}),
    ("all 245 runs, the five highest losses kept", {"loss_function": "huber"}),
    ("all 245 runs, least squares", {"loss_function": "squares"}),
)


def other_fits(table: Path) -> list[dict[str, object]]:
    """One row for each of `CHOICES`: its words and its five parameters."""
    from isoflop.fit.parametric import fit_law
    from isoflop.fit.tables import read_runs

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


def choices(table: Path) -> dict[str, object]:
    """All that ships: the fits, and the rows of the panel that name a size or test a forecast."""
    from isoflop.fit.sensitivity import sensitivity_panel
    from isoflop.fit.tables import read_runs

    runs = read_runs(table)
    panel = sensitivity_panel(runs.N, runs.D, runs.loss, PANEL_FLOPS, drop_highest_loss=5)
    rows = [row.to_mapping() for row in panel if row.group in ("counting", "form", "method", "forecast")]
    return {"fits": other_fits(table), "panel_flops": PANEL_FLOPS, "panel": rows}


def speed() -> None:
    """Median times over repetitions."""
    from isoflop.plan.page import write_page
    from isoflop.plan.size import plan_size, read_request
    from isoflop.plan.text import plan_text

    for words, request in (
        ("--budget 3.8e25 --serve 1e14", read_request("3.8e25", serve="1e14")),
        ('--budget "50 H100-days" --unique 10e9', read_request("50 H100-days", unique="10e9")),
    ):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            plan_text(plan_size(request))
            times.append(time.perf_counter() - start)
        print(f"{words:42} {1e3 * statistics.median(times):6.0f} ms (first {1e3 * times[0]:.0f})")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        page = write_page(plan_size(request), Path(folder) / "plan.html")
        print(
            f"{'page':42} {1e3 * (time.perf_counter() - start):6.0f} ms, {page.stat().st_size / 1e3:.0f} kB"
        )


def main() -> int:
    if sys.argv[1:] == ["speed"]:
        speed()
    elif len(sys.argv) == 3 and sys.argv[1] == "choices":
        TARGET.parent.mkdir(exist_ok=True)
        made = choices(Path(sys.argv[2]))
        TARGET.write_text(json.dumps(made, indent=1) + "\n")
        print(f"{TARGET}: {len(made['fits'])} fits, {len(made['panel'])} other rows")
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
