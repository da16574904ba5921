"""How wide the basin is: its half-width as a factor of size, per budget, against lines at 2 and at 10.

Table: "bowls" (convention, budget, half_width with _lo and _hi, reason). The half-width is the geometric mean
of the factors below and above the best size, so it is 1 for a basin without width.
"""

from __future__ import annotations

import itertools

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import MARKERS, series
from isoflop.publish.kinds.words import NO_VALUE, OPEN_END, counting, grouped
from isoflop.publish.numbers import power_of_ten
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

OPTIONS = ("convention", "bowls_table")
REFERENCES = ((2.0, "half or twice the size"), (10.0, "an order of magnitude"))


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw one interval per budget. Option: convention; without it all of them, side by side."""
    rows = data.rows(
        figure, "bowls", "convention", "budget", "half_width", "half_width_lo", "half_width_hi", "reason"
    )
    wanted = figure.options.get("convention")
    conventions = [c for c in dict.fromkeys(str(row["convention"]) for row in rows) if wanted in (None, c)]
    if not conventions:
        raise PublishError(f"figure {figure.name!r}: no bowl under the convention {wanted!r}")
    rows = [row for row in rows if row["convention"] in conventions]
    (ax,) = sheet.axes(height=4.2, narrow_height=3.9)
    budgets = sorted({budget for row in rows if (budget := as_float(row["budget"])) is not None})
    step = min((b / a for a, b in itertools.pairwise(budgets)), default=4.0)
    extent = marks.Limits(lo=budgets[0] / step**0.6, hi=budgets[-1] * step**0.6, log=True)
    widths = [
        as_float(row[name]) for row in rows for name in ("half_width", "half_width_lo", "half_width_hi")
    ]
    top = max([REFERENCES[-1][0], *(width for width in widths if width is not None)]) * 1.25
    lowest = min([1.0, *(width for width in widths if width is not None)])
    marks.set_axis(ax, "x", extent, title="Training FLOPs per run", text=marks.flops_ticks)
    ax.xaxis.set_ticks(budgets)
    y_title = "Half-width of the basin, factor of N"
    marks.set_axis(
        ax, "y", marks.Limits(lo=lowest, hi=top, log=True), title=y_title, text=lambda value: f"×{value:g}"
    )
    ax.grid(visible=False, axis="x")
    for at, text in REFERENCES:
        marks.reference_line(ax, "y", at, text)
    for row in rows:
        budget = as_float(row["budget"])
        if budget is None:
            continue
        place = conventions.index(str(row["convention"]))
        shift = step ** (0.16 * (place - (len(conventions) - 1) / 2))
        ink = series(len(conventions))[place]
        marks.draw_bar(ax, "y", budget * shift, _bar(row), ink, marker=MARKERS[place % len(MARKERS)], size=6)
    if len(conventions) > 1:
        entries = [
            marks.KeyEntry(text=counting(name), sign="bar", marker=MARKERS[i % len(MARKERS)], ink=ink)
            for i, (name, ink) in enumerate(zip(conventions, series(len(conventions)), strict=True))
        ]
        marks.draw_key(sheet.drawing, entries, columns=1 if sheet.narrow else len(entries))
    return _notes(rows, several=len(conventions) > 1)


def _bar(row: Row) -> marks.Bar:
    values = [as_float(row[name]) for name in ("half_width", "half_width_lo", "half_width_hi")]
    return marks.Bar(value=values[0], lo=values[1], hi=values[2])


def _notes(rows: list[Row], *, several: bool) -> tuple[str, ...]:
    def where(row: Row) -> str:
        at = f"{power_of_ten(as_float(row['budget']) or 0.0)} FLOPs"
        return f"{counting(str(row['convention']))} at {at}" if several else at

    return (
        *grouped(OPEN_END, [(where(row), row["reason"]) for row in rows if marks.is_open(_bar(row))]),
        *grouped(NO_VALUE, [(where(row), row["reason"]) for row in rows if _bar(row).value is None]),
    )
