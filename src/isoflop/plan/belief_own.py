"""A law of one's own: fitted to a table of runs, or kept in a file by `isoflop fit --out`, as a plan believes it.

The file, fit.json, is the answer of `isoflop fit` with its bootstrap draws beside it, so that a plan made from it
tomorrow has the numbers of today. Left out: fitting itself (`isoflop.fit`), the published laws
(`isoflop.plan.belief`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.belief import PARAMETERS, Belief, from_draws, from_panel, published_names
from isoflop.store import write_atomic

if TYPE_CHECKING:
    from isoflop.fit.law.parametric import LawFit
    from isoflop.fit.law.report import FittedTable

FILE = "fit.json"
"""Name of the file in the folder that `isoflop fit --out` writes."""
SCHEMA = "isoflop.fit/1"
_MAX_BYTES = 100_000_000
_DIGITS = 9
"""Significant digits of a draw in the file: far below the spread of the draws, and half the bytes."""


def is_own(law: str) -> bool:
    """True when a law's name is not a published one but a file or folder that is there, or is written as one."""
    if law in published_names():
        return False
    path = Path(law)
    return path.exists() or path.suffix != "" or "/" in law


def own_law(law: str, columns: Mapping[str, str] | None = None, *, near: float | None = None) -> Belief:
    """What a file or folder lets one believe: a table of runs, a folder of logs, or a fit that was kept.

    Args:
        law: path of a table (CSV, Parquet, JSONL), of a folder of logs, of fit.json or of its folder.
        columns: role -> column, for a table without usual names.
        near: training FLOPs for which the other choices are worked out; ten times the largest run's if left out.

    Raises ValueError (`TableError`, `LawFitError` among them) with the remedy.
    """
    path = Path(law)
    if not path.exists():
        raise ValueError(
            f"no law and no file named {law!r}; give a table of runs, a {FILE} of `isoflop fit --out`, or one of "
            f"the published laws {', '.join(published_names())}"
        )
    kept = path / FILE if path.is_dir() and (path / FILE).is_file() else path
    if kept.suffix == ".json" and (answer := _read_answer(kept)) is not None:
        return _from_answer(answer, kept)
    from isoflop.fit.law.report import fit_table, panel_of, usual_budget
    from isoflop.fit.tables.runs import read_runs

    made = fit_table(read_runs(path, columns))
    flops = near or usual_budget(made.fit)
    made.answer.update(sensitivity_flops=flops, sensitivity=panel_of(made.runs, made.fit, flops, made.groups))
    return believe_fit(made)


def believe_fit(made: FittedTable) -> Belief:
    """The belief in a fit just made, with the panel when its answer has one."""
    answer = made.answer
    belief = fitted(made.fit, **_names(answer["source"], answer["rows_used"]))
    if not answer.get("sensitivity"):
        return belief
    return replace(belief, **from_panel(answer["sensitivity"], answer["sensitivity_flops"]))


def fitted(
    fit: LawFit, *, name: str, title: str, source: str, other_fits: tuple[tuple[str, ChinchillaLaw], ...] = ()
) -> Belief:
    """What a fit to one's own runs lets one believe.

    Draws whose replicate ended on a bound are left in: they are part of what the runs leave open.
    """
    flops = fit.law.k * fit.N * fit.D
    return Belief(
        name=name,
        title=title,
        source=source,
        law=fit.law,
        draws=from_draws(fit.draws) if len(fit.draws) else None,
        why_no_draws="" if len(fit.draws) else "the fit was made without a bootstrap",
        other_fits=other_fits,
        smallest_flops=float(flops.min()),
        largest_flops=float(flops.max()),
        largest_N=float(fit.N.max()),
    )


def _names(source: str, num_runs: int) -> dict[str, Any]:
    name = Path(source).name
    return {
        "name": f"own {name}" if name in published_names() else name,
        "title": f"Your fit of {name}",
        "source": f"fitted to {num_runs} runs of {name}",
    }


# ------------------------------------------------------------------------------------ the kept fit


def write_fit(made: FittedTable, path: Path) -> None:
    """Write the answer with its draws, for `isoflop plan --law`."""
    answer = {key: value for key, value in made.answer.items() if key != "text"}
    rows = [[float(f"{value:.{_DIGITS}g}") for value in row] for row in made.fit.draws.tolist()]
    kept = {"schema": SCHEMA, **answer, "draws": {"columns": list(PARAMETERS), "rows": rows}}
    write_atomic(path, json.dumps(kept, allow_nan=False))


def _read_answer(path: Path) -> dict[str, Any] | None:
    """The mapping in a kept fit; None for a table of runs in JSON."""
    if path.stat().st_size > _MAX_BYTES:
        return None
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); it may be cut short: run `isoflop fit` again"
        ) from None
    return answer if isinstance(answer, dict) else None


def _from_answer(answer: dict[str, Any], path: Path) -> Belief:
    again = "write it again with `isoflop fit TABLE --out FOLDER`"
    missing = [key for key in PARAMETERS if key not in answer]
    if missing:
        raise ValueError(f"{path} is not a fitted law: it lacks {', '.join(missing)}; {again}")
    try:
        values = [float(answer[key]) for key in PARAMETERS]
        if not (all(map(math.isfinite, values)) and min(values[1:]) > 0 and values[0] >= 0):
            raise ValueError(f"{', '.join(PARAMETERS)} must be finite and above zero")
        law = ChinchillaLaw(*values)
        draws = answer.get("draws", {}).get("rows") or None
        reach = answer.get("range", {})
        panel = answer.get("sensitivity")
        return Belief(
            **_names(str(answer.get("source", path.name)), int(answer.get("rows_used", 0))),
            law=law,
            draws=None if draws is None else from_draws(np.array(draws, dtype=float)),
            why_no_draws="" if draws else f"{path.name} holds no bootstrap draws; {again}",
            smallest_flops=_flops(reach, 0),
            largest_flops=_flops(reach, 1),
            largest_N=float(reach["N"][1]) if "N" in reach else None,
            **(from_panel(panel, float(answer["sensitivity_flops"])) if panel else {}),
        )
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is damaged ({what}); {again}") from None


def _flops(reach: Mapping[str, Any], end: int) -> float | None:
    value = float(reach["C"][end]) if "C" in reach else math.nan
    return value if math.isfinite(value) and value > 0 else None
