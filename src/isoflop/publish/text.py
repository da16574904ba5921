"""The verdict for a terminal: plain text in 80 columns, without colour, so that it can be piped and pasted.

Leaves out everything that needs a page; ends with where the page is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from isoflop.publish import numbers
from isoflop.publish.evidence import Row
from isoflop.publish.kinds.words import counting
from isoflop.records import Cost, Plan, Statement, Table, Verdict

WIDTH = 80


def summary_text(verdict: Verdict, plan: Plan, cost: Cost | None, *, report: Path | None = None) -> str:
    """Verdict, statements, the key table, cost and the report's path, each line at most 80 columns.

    Args:
        verdict: what was concluded.
        plan: for what was planned to be spent.
        cost: the ledger; None leaves it out.
        report: path of report.html, kept on one line whatever its length.
    """
    blocks = [
        _wrapped(f"{verdict.outcome.upper()}: {verdict.sentence}"),
        _wrapped(verdict.effect),
        "\n".join(_statement(statement) for statement in verdict.statements),
        _bowls(verdict),
        _wrapped(f"To settle it: {verdict.settle}") if verdict.settle else "",
        "" if cost is None else _cost(cost, plan),
        "" if report is None else f"Report: {report}",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False)


def _statement(statement: Statement) -> str:
    lines = [_wrapped(f"  {statement.outcome:<12}  {statement.text}", " " * 16)]
    lines.append(textwrap.fill(statement.because, WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 16))
    return "\n".join(lines)


def _bowls(verdict: Verdict) -> str:
    """Best size and basin per budget under the main figure's counting; "" for a study without bowls."""
    table = next((table for table in verdict.tables if table.name == "bowls"), None)
    if table is None:
        return ""
    rows = _mappings(table)
    if any(name not in rows[0] for name in ("convention", "budget", "N_opt", "half_width")) if rows else True:
        return ""
    options = [figure.options for figure in verdict.figures if figure.kind == "isoflop_bowls"]
    main = options[0].get("convention", "N_all") if options else rows[0]["convention"]
    lines = [("budget, FLOPs", "best size N*  (95 %)", "1 % basin, half-width  (95 %)")]
    lines += [
        (numbers.formatted(row["budget"], "{:.1e}"), _ends(row, "N_opt"), _ends(row, "half_width"))
        for row in rows
        if row["convention"] == main
    ]
    return f"Counting {counting(str(main))}:\n{_aligned(lines)}"


def _mappings(table: Table) -> list[Row]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


def _ends(row: Row, name: str) -> str:
    values = (row[name], row.get(f"{name}_lo"), row.get(f"{name}_hi"))
    value, lo, hi = (numbers.compact(v) if isinstance(v, (int, float)) else numbers.MISSING for v in values)
    return value if value == numbers.MISSING else f"{value}  [{lo}, {hi}]"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cost(cost: Cost, plan: Plan) -> str:
    planned = cost.planned_flops if cost.planned_flops is not None else plan.planned_flops.flops
    rows = [
        ("planned", f"{numbers.flops(planned)} FLOPs", numbers.duration(cost.planned_seconds)),
        ("spent", f"{numbers.flops(cost.spent_flops)} FLOPs", numbers.duration(cost.spent_seconds)),
        ("wasted", f"{numbers.flops(cost.wasted_flops)} FLOPs", numbers.duration(cost.wasted_seconds)),
    ]
    title = f"Cost ({cost.convention or plan.planned_flops.convention}; worker time):"
    extra = "" if cost.usd is None else f"\n  ${cost.usd:,.2f}"
    return f"{title}\n{_aligned(rows)}{extra}"
