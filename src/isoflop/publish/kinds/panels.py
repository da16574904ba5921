"""Small multiples: many small panels with the same axes, so that a whole set of tasks is seen at once.

The one table that the figure names: panel, series, x, y, lo, hi, role. Panels come in the table's order. Roles:
"line" is the curve that fits best, "thin" another one, "band" shades from lo to hi, "points" are measured,
"reference" is a dashed line. A family has one colour in all panels, named in the key.

Options: x_axes ("linear", "log", or both with a space between: then each panel is drawn once on each, side by
side, because a jump on one axis may be a straight line on the other), per_row (panels in a row of the wide
sheet, counted with their two axes), x_title, y_title, y_lo, y_hi (the range of all panels; without them each
has its own), own_y (True: each panel has its own range, within y_lo and y_hi), x_text ("flops": powers of ten).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import INK, MUTED, Ink, series
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIONS = ("x_axes", "per_row", "x_title", "y_title", "y_lo", "y_hi", "own_y", "x_text")
ROLES = ("line", "thin", "points", "band", "reference")
CURVES = ("line", "thin")
PER_ROW, PER_ROW_NARROW = 4, 2
PANEL_INCHES = 1.62
"""Height of a panel with its title and ticks."""
PANEL_LETTERS, PANEL_LETTERS_NARROW = 96, 19
"""Letters of a title that fit across the wide sheet's panels together, and across one of the narrow sheet's."""
DASHES: tuple[tuple[float, ...], ...] = ((), (5.0, 1.6), (1.4, 1.4))
"""Beyond eight families the colours come again, dashed."""


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw every panel of the table, and a key of the families above them."""
    rows = data.only_table(figure, "panel", "series", "x", "y", "lo", "hi", "role")
    scales = _scales(figure)
    _check(figure, rows)
    panels = list(dict.fromkeys(str(row["panel"]) for row in rows))
    wide = int(as_float(figure.options.get("per_row", PER_ROW)) or PER_ROW)
    per_row = PER_ROW_NARROW if sheet.narrow else wide
    places = [(panel, log) for panel in panels for log in scales]
    styles = _styles(rows)
    grid = sheet.grid(len(places), per_row, row_height=PANEL_INCHES, extra=0.75)
    for number, (ax, (panel, log)) in enumerate(zip(grid, places, strict=True)):
        own = [row for row in rows if str(row["panel"]) == panel]
        first = number % per_row == 0
        _draw_panel(ax, own, log, figure, styles, first=first or _own_range(figure))
        _title(
            ax, panel, log, scales, most=PANEL_LETTERS_NARROW if sheet.narrow else PANEL_LETTERS // per_row
        )
    _frame(sheet, figure, rows, styles)
    return ()


def _scales(figure: Figure) -> tuple[bool, ...]:
    words = str(figure.options.get("x_axes", "linear")).split()
    if not words or set(words) - {"linear", "log"}:
        raise PublishError(
            f"figure {figure.name!r}: x_axes is {figure.options.get('x_axes')!r}; it takes 'linear', 'log' or both"
        )
    return tuple(word == "log" for word in words)


def _check(figure: Figure, rows: list[Row]) -> None:
    if not rows:
        raise PublishError(f"figure {figure.name!r}: its table {figure.tables[0]!r} has no rows")
    unknown = sorted({str(row["role"]) for row in rows} - set(ROLES))
    if unknown:
        raise PublishError(
            f"figure {figure.name!r}: unknown role(s) {', '.join(unknown)}; there are {', '.join(ROLES)}"
        )


def _own_range(figure: Figure) -> bool:
    return bool(figure.options.get("own_y")) or not {"y_lo", "y_hi"} <= set(figure.options)


def _styles(rows: list[Row]) -> dict[str, tuple[Ink, tuple[float, ...]]]:
    """Colour and dashes of each family, in the order in which they come."""
    names = list(dict.fromkeys(str(row["series"]) for row in rows if row["role"] in CURVES))
    inks = series(len(names))
    return {
        name: (ink, DASHES[min(index // 8, len(DASHES) - 1)])
        for index, (name, ink) in enumerate(zip(names, inks, strict=True))
    }


def _draw_panel(
    ax: Axes,
    rows: list[Row],
    log: bool,
    figure: Figure,
    styles: dict[str, tuple[Ink, tuple[float, ...]]],
    *,
    first: bool,
) -> None:
    x_extent = marks.limits([as_float(row["x"]) for row in rows], log=log, pad=0.04)
    text = marks.flops_ticks if figure.options.get("x_text") == "flops" else None
    marks.set_axis(ax, "x", x_extent, at_most=3, text=text)
    marks.set_axis(ax, "y", _y_extent(figure, rows), at_most=4)
    ax.tick_params(labelsize=8.2, pad=2)
    if not first:
        ax.tick_params(axis="y", labelleft=False)
    for name in dict.fromkeys(str(row["series"]) for row in rows):
        own = [row for row in rows if str(row["series"]) == name]
        ink, dashes = styles.get(name, (MUTED, ()))
        if band := _places(own, "band", "lo", "hi"):
            xs, lows, highs = zip(*band, strict=True)
            ax.fill_between(xs, lows, highs, color=MUTED.light, alpha=0.16, linewidth=0, zorder=2)
        for role, width, order in (("thin", 0.9, 3.5), ("line", 2.0, 4.0)):
            if line := _places(own, role, "y"):
                ax.plot(
                    *zip(*line, strict=True), color=ink.light, linewidth=width, dashes=dashes, zorder=order
                )
        if reference := _places(own, "reference", "y"):
            ax.plot(*zip(*reference, strict=True), color=MUTED.light, linewidth=1.0, dashes=(4, 3), zorder=3)
        if points := _places(own, "points", "y"):
            ax.plot(
                *zip(*points, strict=True),
                linestyle="",
                marker="o",
                markersize=2.6,
                color=INK.light,
                alpha=0.75,
                markeredgewidth=0,
                zorder=5,
            )


def _y_extent(figure: Figure, rows: list[Row]) -> marks.Limits:
    """The range of the options, or that of the panel's own rows, cut where the options say so."""
    lo, hi = as_float(figure.options.get("y_lo")), as_float(figure.options.get("y_hi"))
    if _own_range(figure):
        drawn = [
            value for row in rows for name in ("y", "lo", "hi") if (value := as_float(row[name])) is not None
        ]
        lo = min(drawn) if lo is None else max(lo, min(drawn))
        hi = max(drawn) if hi is None else min(hi, max(drawn))
    assert lo is not None
    assert hi is not None
    return marks.limits([lo, hi], log=False, pad=0.04)


def _places(rows: list[Row], role: str, *names: str) -> list[tuple[float, ...]]:
    """(x, y ...) of the rows of one role whose named cells are all there, in order of x."""
    cells = [tuple(as_float(row[name]) for name in ("x", *names)) for row in rows if row["role"] == role]
    return sorted(tuple(c for c in cell if c is not None) for cell in cells if None not in cell)


def _title(ax: Axes, panel: str, log: bool, scales: tuple[bool, ...], *, most: int) -> None:
    """The panel's name, in lines of `most` letters; beside its twin on another axis, which axis this is."""
    import textwrap

    words = "\n".join(textwrap.wrap(panel.replace("_", " "), most)[:3])
    if len(scales) > 1:
        words = words if log is scales[0] else f"the same, {'log' if log else 'linear'} axis"
    ax.set_title(
        words, fontsize=8.4, fontweight="bold", pad=3, color=INK.light if log is scales[0] else MUTED.light
    )


def _frame(
    sheet: Sheet, figure: Figure, rows: list[Row], styles: dict[str, tuple[Ink, tuple[float, ...]]]
) -> None:
    """Titles of the axes, once for all panels, and the key."""
    if title := str(figure.options.get("x_title", "")):
        sheet.drawing.supxlabel(title, fontsize=9, color=INK.light)
    if title := str(figure.options.get("y_title", "")):
        sheet.drawing.supylabel(title, fontsize=9, color=INK.light)
    roles = {str(row["role"]) for row in rows}
    entries = [
        marks.KeyEntry(text=name.replace("_", " "), sign="dashed" if dashes else "line", ink=ink)
        for name, (ink, dashes) in styles.items()
    ]
    if "points" in roles:
        entries.append(marks.KeyEntry(text="measured", sign="filled", ink=INK))
    bands = list(dict.fromkeys(str(row["series"]) for row in rows if row["role"] == "band"))
    entries += [marks.KeyEntry(text=name, sign="band") for name in bands]
    columns = 2 if sheet.narrow else min(7, math.ceil(len(entries) / math.ceil(len(entries) / 7)))
    marks.draw_key(sheet.drawing, entries, columns=columns)
