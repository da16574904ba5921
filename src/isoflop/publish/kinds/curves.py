"""Lines, points and bands from a table: the general drawing for what has no kind of its own.

The one table that the figure names: series, x, y, lo, hi, role. Roles: "line" joins its rows in order of x,
"points" draws them apart (with their intervals, when lo or hi is there), "band" shades from lo to hi,
"reference" is a dashed line. One series may have rows of several roles and has one colour.
Options: log_x, log_y (False), x_title, y_title.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import MARKERS, MUTED, Ink, series
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIONS = ("log_x", "log_y", "x_title", "y_title")
ROLES = ("line", "points", "band", "reference")


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw every series in the order of the table, each named at its right end."""
    rows = data.only_table(figure, "series", "x", "y", "lo", "hi", "role")
    unknown = sorted({str(row["role"]) for row in rows} - set(ROLES))
    if unknown:
        raise PublishError(
            f"figure {figure.name!r}: unknown role(s) {', '.join(unknown)}; there are {', '.join(ROLES)}"
        )
    if not rows:
        raise PublishError(f"figure {figure.name!r}: its table {figure.tables[0]!r} has no rows")
    (ax,) = sheet.axes(height=4.9, narrow_height=4.2)
    options = figure.options
    x_extent = marks.limits([as_float(row["x"]) for row in rows], log=bool(options.get("log_x", False)))
    heights = [as_float(row[name]) for row in rows for name in ("y", "lo", "hi")]
    y_extent = marks.limits(heights, log=bool(options.get("log_y", False)))
    marks.set_axis(ax, "x", x_extent, title=str(options.get("x_title", "")), at_most=5 if sheet.narrow else 8)
    marks.set_axis(ax, "y", y_extent, title=str(options.get("y_title", "")), at_most=7)
    coloured = list(dict.fromkeys(str(row["series"]) for row in rows if row["role"] != "reference"))
    inks = dict(zip(coloured, series(len(coloured)), strict=True))
    names = list(dict.fromkeys(str(row["series"]) for row in rows))
    for place, name in enumerate(names):
        own = [row for row in rows if str(row["series"]) == name]
        _draw_series(ax, own, inks.get(name, MUTED), MARKERS[place % len(MARKERS)])
    sheet.settle()
    ends = [end for name in names if (end := _end(name, rows, inks.get(name, MUTED))) is not None]
    marks.label_ends(ax, ends, narrow=sheet.narrow)
    return _notes(rows)


def _places(rows: list[Row], role: str, *names: str) -> list[tuple[float, ...]]:
    """(x, y ...) of the rows of one role whose named cells are all there, in order of x."""
    cells = [tuple(as_float(row[name]) for name in ("x", *names)) for row in rows if row["role"] == role]
    return sorted(tuple(c for c in cell if c is not None) for cell in cells if None not in cell)


def _draw_series(ax: Axes, rows: list[Row], ink: Ink, marker: str) -> None:
    color = ink.light
    if band := _places(rows, "band", "lo", "hi"):
        xs, lows, highs = zip(*band, strict=True)
        ax.fill_between(xs, lows, highs, color=color, alpha=0.16, linewidth=0, zorder=2)
    if line := _places(rows, "line", "y"):
        ax.plot(*zip(*line, strict=True), color=color, linewidth=2.1, zorder=4)
    if reference := _places(rows, "reference", "y"):
        ax.plot(*zip(*reference, strict=True), color=color, linewidth=1.3, linestyle=(0, (4, 3)), zorder=3)
    for row in rows:
        x, y = as_float(row["x"]), as_float(row["y"])
        if row["role"] != "points" or x is None or y is None:
            continue
        lo, hi = as_float(row["lo"]), as_float(row["hi"])
        if lo is None and hi is None:  # a point without any interval, not one with two open ends
            lo = hi = y
        if lo == hi == y:
            ax.plot([x], [y], marker=marker, color=color, markersize=5.5, zorder=5)
        else:
            marks.draw_bar(ax, "y", x, marks.Bar(value=y, lo=lo, hi=hi), ink, marker=marker)


def _end(name: str, rows: list[Row], ink: Ink) -> marks.Label | None:
    own = [row for row in rows if str(row["series"]) == name]
    for role in ("line", "reference", "points"):
        if places := _places(own, role, "y"):
            return marks.Label(x=places[-1][0], y=places[-1][1], text=name, ink=ink)
    if band := _places(own, "band", "lo", "hi"):
        x, lo, hi = band[-1]
        return marks.Label(x=x, y=(lo + hi) / 2, text=name, ink=ink)
    return None


def _notes(rows: list[Row]) -> tuple[str, ...]:
    absent = sum(1 for row in rows if row["role"] != "band" and row["y"] is None)
    half_open = sum(
        1 for row in rows if row["role"] == "points" and (row["lo"] is None) != (row["hi"] is None)
    )
    notes = []
    if absent:
        notes.append(f"{absent} row(s) of the table have no value and are not drawn.")
    if half_open:
        notes.append("An arrow marks an interval with an open end.")
    return tuple(notes)
