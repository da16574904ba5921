"""The best size against the budget, one panel per way of counting parameters, with the fitted power of compute.

Tables: "bowls" (convention, budget, N_opt with _lo and _hi, reason) and, when there is one, "exponents"
(convention, exponent, lo, hi, coefficient, identified, note, and reference_budget when there is one), with
N_opt = coefficient * (C / reference_budget)^exponent; without a reference budget it is 1 FLOP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import ACCENT, MUTED
from isoflop.publish.kinds.words import NO_VALUE, OPEN_END, counting, grouped
from isoflop.publish.numbers import compact, number, power_of_ten
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIONS = ("bowls_table", "exponents_table")


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw one panel per convention, on the same axes, so that they can be compared across."""
    bowls = data.rows(figure, "bowls", "convention", "budget", "N_opt", "N_opt_lo", "N_opt_hi", "reason")
    if not bowls:
        raise PublishError(f"figure {figure.name!r}: the table of bowls is empty")
    lines: dict[str, Row] = {}
    if "exponents_table" in figure.options or "exponents" in data.tables:
        rows = data.rows(
            figure, "exponents", "convention", "exponent", "lo", "hi", "coefficient", "identified", "note"
        )
        lines = {str(row["convention"]): row for row in rows}
    conventions = list(dict.fromkeys(str(row["convention"]) for row in bowls))
    panels = sheet.axes(len(conventions), height=4.3, narrow_height=3.1, share_y=not sheet.narrow)
    budgets = marks.limits([as_float(row["budget"]) for row in bowls], log=True, pad=0.1)
    names = ("N_opt", "N_opt_lo", "N_opt_hi")
    sizes = [as_float(row[name]) for row in bowls for name in names]
    extent = marks.limits(sizes if any(sizes) else [1.0], log=True, pad=0.1)
    for index, (ax, convention) in enumerate(zip(panels, conventions, strict=True)):
        last = not sheet.narrow or index == len(conventions) - 1
        marks.set_axis(
            ax, "x", budgets, title="Training FLOPs" if last else "", at_most=4, text=marks.flops_ticks
        )
        y_title = "Best size N*, parameters" if index == 0 or sheet.narrow else ""
        marks.set_axis(ax, "y", extent, title=y_title, at_most=7, text=compact)
        ax.set_title(counting(convention).capitalize().replace("flops", "FLOPs"))
        if convention in lines:
            _draw_power(ax, lines[convention], budgets)
        _draw_optima(ax, [row for row in bowls if row["convention"] == convention])
    return _notes(bowls, {name: row for name, row in lines.items() if name in conventions})


def _draw_power(ax: Axes, row: Row, budgets: marks.Limits) -> None:
    """The fitted power, dashed when it is not identified, and its exponent in words."""
    exponent, coefficient = as_float(row["exponent"]), as_float(row["coefficient"])
    reference = as_float(row.get("reference_budget")) or 1.0
    identified = bool(row["identified"])
    if exponent is not None and coefficient is not None:
        ends = [budgets.lo, budgets.hi]
        ax.plot(
            ends,
            [coefficient * (end / reference) ** exponent for end in ends],
            color=ACCENT.light if identified else MUTED.light,
            linewidth=1.8,
            alpha=0.75,
            linestyle="-" if identified else (0, (4, 3)),
            zorder=3,
        )
    text = "no exponent"
    if (
        exponent is not None
    ):  # `number` writes None as a dash, so an exponent without an interval shows that it has none
        ends_text = f"{number(_two(as_float(row['lo'])))} to {number(_two(as_float(row['hi'])))}"
        text = f"exponent {number(_two(exponent))}\n95 %: {ends_text}"
    if not identified:
        text += "\nnot identified"
    ax.annotate(text, (0.03, 0.97), xycoords="axes fraction", ha="left", va="top", color=MUTED.light,
                fontsize=8.8, linespacing=1.4, zorder=9)  # fmt: skip


def _two(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _draw_optima(ax: Axes, rows: list[Row]) -> None:
    for row in rows:
        budget = as_float(row["budget"])
        if budget is not None:
            marks.draw_bar(ax, "y", budget, _bar(row), ACCENT, marker="o", size=7)


def _bar(row: Row) -> marks.Bar:
    return marks.Bar(value=as_float(row["N_opt"]), lo=as_float(row["N_opt_lo"]), hi=as_float(row["N_opt_hi"]))


def _notes(bowls: list[Row], lines: dict[str, Row]) -> tuple[str, ...]:
    def where(row: Row) -> str:
        return f"{counting(str(row['convention']))} at {power_of_ten(as_float(row['budget']) or 0.0)} FLOPs"

    unidentified = [(counting(name), row["note"]) for name, row in lines.items() if not row["identified"]]
    return (
        *grouped(OPEN_END, [(where(row), row["reason"]) for row in bowls if marks.is_open(_bar(row))]),
        *grouped(NO_VALUE, [(where(row), row["reason"]) for row in bowls if _bar(row).value is None]),
        *grouped("A dashed line is an exponent that is not identified", unidentified),
    )
