"""A forest plot: one labelled value with its interval per row, in groups.

The one table that the figure names: label, value, lo, hi and, when there are some, group and reason.
Options: log (False), reference (a number), reference_label, x_title.
"""

from __future__ import annotations

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import INK, MARKERS, MUTED, series
from isoflop.publish.kinds.words import NO_VALUE, OPEN_END, grouped
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

OPTIONS = ("log", "reference", "reference_label", "x_title")


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw the rows in the table's order, a heading above each group."""
    rows = data.only_table(figure, "label", "value", "lo", "hi")
    if not rows:
        raise PublishError(f"figure {figure.name!r}: its table {figure.tables[0]!r} has no rows")
    groups = list(dict.fromkeys(str(row.get("group") or "") for row in rows))
    headings = groups if len(groups) > 1 else []
    lines = len(rows) + len(headings) * 1.25
    (ax,) = sheet.axes(height=1.0 + 0.34 * lines, narrow_height=1.1 + 0.4 * lines)
    reference = as_float(figure.options.get("reference"))
    shown = [as_float(row[name]) for row in rows for name in ("value", "lo", "hi")]
    extent = marks.limits([*shown, reference], log=bool(figure.options.get("log", False)), pad=0.07)
    marks.set_axis(
        ax, "x", extent, title=str(figure.options.get("x_title", "")), at_most=4 if sheet.narrow else 8
    )
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    _draw_rows(ax, rows, groups, bool(headings), lines, sheet)
    if reference is not None:
        marks.reference_line(ax, "x", reference, str(figure.options.get("reference_label", "")))
    return _notes(rows, headed=bool(headings))


def _draw_rows(ax, rows: list[Row], groups: list[str], headed: bool, lines: float, sheet: Sheet) -> None:  # type: ignore[no-untyped-def]
    inks = series(len(groups))
    ax.set_ylim(lines - 0.3, -0.9)
    places, texts = [], []
    place = 0.0
    for index, group in enumerate(groups):
        if headed:
            ax.annotate(group, (0, place), xycoords=ax.get_yaxis_transform(), xytext=(0, 0), textcoords="offset points",
                        color=INK.light, fontsize=9.2, fontweight="bold", va="center", zorder=9)  # fmt: skip
            place += 1.0
        for row in rows:
            if str(row.get("group") or "") != group:
                continue
            bar = _bar(row)
            if bar.value is None:
                ax.annotate("no value", (0.5, place), xycoords=ax.get_yaxis_transform(), color=MUTED.light, ha="center",
                            va="center", fontsize=8.6, fontstyle="italic")  # fmt: skip
            marks.draw_bar(ax, "x", place, bar, inks[index], marker=MARKERS[index % len(MARKERS)])
            places.append(place)
            texts.append(_wrapped(str(row["label"]), 18 if sheet.narrow else 44))
            place += 1.0
        place += 0.25
    ax.set_yticks(places, texts)
    ax.tick_params(axis="y", labelcolor=INK.light)


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)) or " "


def _bar(row: Row) -> marks.Bar:
    return marks.Bar(value=as_float(row["value"]), lo=as_float(row["lo"]), hi=as_float(row["hi"]))


def _notes(rows: list[Row], *, headed: bool) -> tuple[str, ...]:
    def where(row: Row) -> str:
        return f"{row['label']}, {row['group']}" if headed else str(row["label"])

    return (
        *grouped(OPEN_END, [(where(row), row.get("reason")) for row in rows if marks.is_open(_bar(row))]),
        *grouped(NO_VALUE, [(where(row), row.get("reason")) for row in rows if _bar(row).value is None]),
    )
