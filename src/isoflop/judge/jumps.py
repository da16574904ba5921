"""Does a curve of scores jump? Shared by every study of emergence: the answer, its steepest part, small multiples.

A jump has one definition here (`isoflop.judge.curves.SUDDEN`): over half of the whole change falls within a
tenth of the range of log x. Leaves out the fitting (`isoflop.judge.curves`) and what a study concludes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop.records import Column, Scalar, Table

FAMILIES = (
    "constant", "linear", "log", "quadratic", "cubic", "power", "power_offset", "exponential", "logit", "logistic",
    "broken_power",
)  # fmt: skip
"""The families that the claim names: constant, linear, log, polynomials, power, exponential, logistic, broken."""
RIVALS_SHOWN = 2
"""Curves of small multiples beside the best one, when they hold at least `LEAST_WEIGHT`."""
LEAST_WEIGHT = 0.05
MOST_PLACES = 40
"""Points of each curve in a small panel."""


@dataclass(frozen=True)
class Judged:
    """A task or a transform of it, with the engine's answer."""

    name: str
    metric: str
    answer: dict[str, Any]
    cited: bool = False

    def state(self, question: str) -> str:
        """ "yes", "no" or "cannot tell" to a question of the engine, by name."""
        for row in self.answer["decided"]:
            if row["name"] == question:
                return "yes" if row["yes"] else "no"
        return "cannot tell"

    @property
    def steepest(self) -> float:
        """Share of the best curve's whole change within the steepest tenth of log x; 0 for a constant."""
        drawing = self.answer["drawing"]
        best = drawing["families"][self.answer["families"][0]["name"]]
        last = drawing["points"]["x"][-1]
        inside = [y for x, y in zip(drawing["x"], best, strict=True) if x <= last * (1 + 1e-9)]
        width = max(round(len(inside) / 10), 1)
        whole = sum(abs(b - a) for a, b in itertools.pairwise(inside))
        largest = max(abs(inside[i + width] - inside[i]) for i in range(len(inside) - width))
        return largest / whole if whole > 0 else 0.0

    @property
    def rivals(self) -> str:
        """Families besides the best that hold some weight, in words."""
        return ", ".join(
            f"{row['name']} {row['weight']:.2f}"
            for row in self.answer["families"][1:]
            if row["weight"] > LEAST_WEIGHT
        )

    def further_points(self, question: str) -> str:
        """How many more points would decide a question, and where; "" when none would."""
        for row in self.answer["points_needed"]:
            if row["name"] == question and row["num"] is not None:
                return f"{row['num']} at {', '.join(f'{x:.2g}' for x in row['x'])}"
        return ""


def applicable(scores: ArrayLike) -> tuple[str, ...]:
    """The families, less the logistic from 0 to 1 where a score is exactly 0 or 1: it cannot pass through it."""
    values = np.asarray(scores, dtype=float)
    inside = bool(values.min() > 0 and values.max() < 1)
    return tuple(name for name in FAMILIES if inside or name != "logit")


def counts(items: Sequence[Judged], question: str = "sudden") -> dict[str, int]:
    """How many say yes, no, cannot tell."""
    return {
        state: sum(item.state(question) == state for item in items) for state in ("yes", "no", "cannot tell")
    }


def steepest_tenth(x: ArrayLike, y: ArrayLike) -> float:
    """Share of the whole up and down of y within the steepest tenth of the range of log x.

    Args:
        x: [n] ascending and positive, n >= 2.
        y: [n].

    Points are joined by straight lines in log x, so that no family is assumed. 0 for a curve without change.
    """
    log_x, heights = np.log(np.asarray(x, dtype=float)), np.asarray(y, dtype=float)
    fine = np.linspace(log_x[0], log_x[-1], 201)
    joined = np.interp(fine, log_x, heights)
    whole = float(np.abs(np.diff(heights)).sum())
    return float(np.abs(joined[20:] - joined[:-20]).max()) / whole if whole > 0 else 0.0


def steepest_draws(x: ArrayLike, y: ArrayLike, num: int, seed: int) -> NDArray[np.float64]:
    """`steepest_tenth` of the means over seeds, in `num` resamples of the seeds of each size.

    Args:
        x: [sizes].
        y: [sizes, seeds] scores.
        num, seed: of the resampling.
    """
    rng, scores = np.random.default_rng(seed), np.asarray(y, dtype=float)
    chosen = rng.integers(scores.shape[1], size=(num, *scores.shape))
    means = np.take_along_axis(scores[None], chosen, axis=2).mean(axis=2)
    return np.array([steepest_tenth(x, row) for row in means])


# ------------------------------------------------------------------------------ small multiples

PANEL_COLUMNS = (
    Column(name="panel", title="panel"),
    Column(name="series", title="series"),
    Column(name="x", title="x", format="{:.4g}"),
    Column(name="y", title="y", format="{:.4g}"),
    Column(name="lo", title="from", format="{:.4g}"),
    Column(name="hi", title="to", format="{:.4g}"),
    Column(name="role", title="role"),
)
"""Columns of a table that a figure of kind "panels" draws."""


def panels_table(
    items: Sequence[tuple[str, Judged]], name: str, title: str, *, points: bool, note: str = ""
) -> Table:
    """One panel per item: its best curves within the range of the points, and the points when asked for.

    Args:
        items: (title of the panel, what was judged), in the order of drawing.
        points: whether the scores themselves go into the table. A published table that is not ours to copy
            stays out of it: then curves and the band of new measurements are all there is.
    """
    rows: list[tuple[Scalar, ...]] = []
    for panel, item in items:
        rows += _panel_rows(panel, item, points)
    return Table(name=name, title=title, columns=PANEL_COLUMNS, rows=tuple(rows), note=note)


def _panel_rows(panel: str, item: Judged, points: bool) -> list[tuple[Scalar, ...]]:
    drawing = item.answer["drawing"]
    found = drawing["points"]
    places = [float(f"{x:.6g}") for x in np.geomspace(found["x"][0], found["x"][-1], MOST_PLACES)]

    def at(values: Sequence[float]) -> list[float]:
        found = np.interp(np.log(places), np.log(drawing["x"]), np.asarray(values, float))
        return [float(f"{y:.4g}") for y in found]  # for the eye; more digits would only fill the page

    band = f"{drawing['level']:.0%} of new measurements"
    rows: list[tuple[Scalar, ...]] = [
        (panel, band, float(x), None, lo, hi, "band")
        for x, lo, hi in zip(places, at(drawing["lo"]), at(drawing["hi"]), strict=True)
    ]
    shown = [row for row in item.answer["families"][1 : RIVALS_SHOWN + 1] if row["weight"] >= LEAST_WEIGHT]
    for role, families in (("thin", shown), ("line", item.answer["families"][:1])):
        for row in families:
            curve = drawing["families"][row["name"]]
            rows += [
                (panel, row["name"], float(x), y, None, None, role)
                for x, y in zip(places, at(curve), strict=True)
            ]
    if points:
        rows += [
            (panel, "scores", x, y, None, None, "points") for x, y in zip(found["x"], found["y"], strict=True)
        ]
    return rows
