"""How wide the basin is: its half-width as a factor of size, per budget, against lines at 2 and at 10.

Table: "bowls" (convention, budget, half_width with _lo and _hi, reason). The half-width is the geometric mean
of the factors below and above the best size, so it is 1 for a basin without width.
"""

from __future__ import annotations

import itertools

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, StudyData, as_float
from isoflop.publish.ink import MARKERS, series
from isoflop.publish.kinds.words import counting
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
    notes = []
    for row in rows:
        budget = as_float(row["budget"])
        if budget is None:
            continue
        place = conventions.index(str(row["convention"]))
        shift = step ** (0.16 * (place - (len(conventions) - 1) / 2))
        bar = marks.Bar(
            value=as_float(row["half_width"]),
            lo=as_float(row["half_width_lo"]),
            hi=as_float(row["half_width_hi"]),
        )
        ink = series(len(conventions))[place]
        marks.draw_bar(ax, "y", budget * shift, bar, ink, marker=MARKERS[place % len(MARKERS)], size=6)
        reason = str(row["reason"] or "the table gives no reason").rstrip(".")
        if bar.value is None:
            notes.append(f"{power_of_ten(budget)} FLOPs: no width ({reason}).")
        elif marks.is_open(bar):
            notes.append(
                f"{power_of_ten(budget)} FLOPs: an arrow marks an open end of the interval ({reason})."
            )
    if len(conventions) > 1:
        entries = [
            marks.KeyEntry(text=counting(name), sign="bar", marker=MARKERS[i % len(MARKERS)], ink=ink)
            for i, (name, ink) in enumerate(zip(conventions, series(len(conventions)), strict=True))
        ]
        marks.draw_key(sheet.drawing, entries, columns=1 if sheet.narrow else len(entries))
    return tuple(notes)
