"""The page: records turned into words and cells, and those into HTML by the template.

Jinja2 with autoescape on and undefined names refused. Only four things reach the page unescaped, and all are
made here: the drawings (written by an XML writer), the style sheet, the icons and base64 data addresses.
Leaves out the drawing of figures and every file but the page.
"""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.publish import ink, numbers
from isoflop.publish.checklist import checklist
from isoflop.publish.evidence import StudyData
from isoflop.publish.figures import Drawn
from isoflop.publish.references import cited
from isoflop.publish.svg import plain
from isoflop.publish.tables import TableFiles
from isoflop.records import (
    Certificate,
    Cost,
    Estimate,
    Exclusion,
    Fit,
    Outcome,
    Plan,
    Provenance,
    Scalar,
    Statement,
    Table,
)

REBUILD = "isoflop publish ."
"""Run in the folder of the report: the path that it has here would be wrong elsewhere."""
TEMPLATES = Path(__file__).parent / "templates"
OPEN_ROWS = 24
"""A longer table is folded."""
SHOWN_ROWS = 240
"""Rows of a folded table on the page; the files hold all of them."""
PLAIN_DOWNLOAD_BYTES = 80_000
PACKED_DOWNLOAD_BYTES = 400_000
"""A larger table is not carried inside the page; its file lies beside it."""
OUTCOMES: dict[Outcome, str] = {
    "supported": "supported",
    "contradicted": "contradicted",
    "cannot tell": "unknown",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: its text and whether it is a number, which is set to the right."""

    text: str
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table as the page shows it."""

    key: str
    title: str
    note: str
    heads: tuple[Cell, ...]
    units: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_rows: int
    folded: bool
    download_name: str = ""
    download_href: str = ""
    file_name: str = ""
    parquet_name: str = ""


def render_page(
    data: StudyData, drawn: Sequence[Drawn], tables: Sequence[Table], files: dict[str, TableFiles]
) -> str:
    """The whole report as one HTML document.

    Args:
        data: plan, verdict and runs.
        drawn: the verdict's figures, the main one first.
        tables: all tables to show, the list of runs last.
        files: the same tables as files, by name, for the downloads inside the page.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=numbers.number, interval=numbers.interval, duration=numbers.duration, flops=numbers.flops
    )
    return environment.get_template("report.html").render(_context(data, drawn, tables, files))


def _context(
    data: StudyData, drawn: Sequence[Drawn], tables: Sequence[Table], files: dict[str, TableFiles]
) -> dict[str, Any]:
    from markupsafe import Markup

    plan, verdict = data.plan, data.verdict
    views = [table_view(table, files.get(table.name)) for table in tables]
    return {
        "plan": plan,
        "verdict": verdict,
        "outcome_class": OUTCOMES,
        "icons": {name: Markup(icon) for name, icon in ICONS.items()},
        "css": Markup(_style_sheet()),
        "figures": [_figure_view(one) for one in drawn],
        "facts": _facts(data),
        "statements": [_statement_view(statement, plan) for statement in verdict.statements],
        "tables": views[:-1],
        "runs_table": views[-1],
        "cost": _cost_view(verdict.cost, plan),
        "exclusions": _exclusions(verdict.exclusions, verdict.fits),
        "fits": [_fit_view(fit) for fit in verdict.fits],
        "rule_parameters": [
            (name.replace("_", " "), numbers.number(value)) for name, value in plan.rule.parameters.items()
        ],
        "beforehand": _beforehand(plan, verdict.statements),
        "options": [(name.replace("_", " "), numbers.number(value)) for name, value in plan.options.items()],
        "plan_fingerprint": plan.fingerprint(),
        "checklist": checklist(data),
        "provenance": _provenance(data),
        "corpus": _corpus(plan),
        "references": cited(data),
        "rerun": _rerun(plan),
        "rebuild": REBUILD,
    }


def _rerun(plan: Plan) -> str:
    """The command that does the whole study again; "" for an answer that came from no study."""
    if plan.rerun:
        return plan.rerun
    if not plan.study_source:
        return ""
    same_plan = " --plan plan.json" if plan.runs else ""
    return f"isoflop run {shlex.quote(plan.study_source)}{same_plan} --out again"


def _style_sheet() -> str:
    """The style sheet with the inks of light and dark filled in."""
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    for name, dark in (("light", False), ("dark", True)):
        css = css.replace(f"/* inks: {name} */", ink.css_variables(dark=dark))
    return css


def _figure_view(drawn: Drawn) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "key": f"f-{drawn.figure.name}",
        "name": drawn.figure.name,
        "title": drawn.figure.title,
        "caption": drawn.figure.caption,
        "notes": drawn.notes,
        "wide": Markup(drawn.wide),
        "narrow": Markup(drawn.narrow),
    }


# ----------------------------------------------------------------------------------------- tables


def table_view(table: Table, files: TableFiles | None) -> TableView:
    """A table for the page: at most `SHOWN_ROWS` rows, with a download of all of them.

    Raises ValueError for a column format that is not a plain number format.
    """
    columns = table.columns
    numeric = [_is_numeric([row[place] for row in table.rows]) for place in range(len(columns))]
    rows = tuple(
        tuple(
            Cell(text=numbers.formatted(value, column.format), numeric=is_number)
            for value, column, is_number in zip(row, columns, numeric, strict=True)
        )
        for row in table.rows[:SHOWN_ROWS]
    )
    name, href = _download(table.name, files)
    return TableView(
        key=f"t-{table.name}",
        title=table.title,
        note=table.note,
        heads=tuple(Cell(text=c.title, numeric=n) for c, n in zip(columns, numeric, strict=True)),
        units=tuple(column.unit for column in columns),
        rows=rows,
        num_rows=len(table.rows),
        folded=len(table.rows) > OPEN_ROWS,
        download_name=name,
        download_href=href,
        file_name=f"tables/{table.name}.csv",
        parquet_name=f"tables/{table.name}.parquet",
    )


def _is_numeric(values: Sequence[Scalar]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in known
    )


def _download(name: str, files: TableFiles | None) -> tuple[str, str]:
    """Name and data address of the CSV inside the page: plain when small, packed when not, none when large."""
    if files is None:
        return "", ""
    if len(files.csv) <= PLAIN_DOWNLOAD_BYTES:
        return f"{name}.csv", f"data:text/csv;base64,{base64.b64encode(files.csv).decode()}"
    packed = gzip.compress(files.csv, compresslevel=9, mtime=0)
    if len(packed) <= PACKED_DOWNLOAD_BYTES:
        return f"{name}.csv.gz", f"data:application/gzip;base64,{base64.b64encode(packed).decode()}"
    return "", ""


# ------------------------------------------------------------------------------------- the sections


def _facts(data: StudyData) -> list[tuple[str, str]]:
    """The few numbers under the main figure."""
    plan, cost = data.plan, data.verdict.cost
    facts: list[tuple[str, str]] = []
    if data.runs:
        done = sum(run.status == "finished" for run in data.runs)
        facts.append(("Runs", f"{done} of {len(data.runs)} finished"))
    if plan.seeds:
        facts.append(("Seeds", str(len(plan.seeds))))
    if cost is not None:
        facts.append(
            ("Spent", f"{numbers.flops(cost.spent_flops)} FLOPs, {numbers.duration(cost.spent_seconds)}")
        )
        if cost.spent_flops > 0:
            facts.append(("Wasted", numbers.share(cost.wasted_flops, cost.spent_flops)))
    if plan.budget.text:
        facts.append(("Budget", plan.budget.text))
    made = data.verdict.provenance or plan.provenance
    if made is not None and made.machine:
        facts.append(("Machine", made.machine))
    return facts


def _beforehand(plan: Plan, statements: Sequence[Statement]) -> str:
    """Whether the statements were in the rule, in one sentence."""
    if not plan.rule.statements:
        return "The decision rule lists no statements; these come with the verdict."
    if all(statement.text in plan.rule.statements for statement in statements):
        return "Each is written in the decision rule of the plan."
    return ""


def _statement_view(statement: Statement, plan: Plan) -> dict[str, Any]:
    return {
        "declared": not plan.rule.statements or statement.text in plan.rule.statements,
        "text": statement.text,
        "outcome": statement.outcome,
        "because": statement.because,
        "settle": statement.settle,
        "estimate": None if statement.estimate is None else estimate_text(statement.estimate),
    }


def estimate_text(estimate: Estimate) -> dict[str, str]:
    """An estimate in words: value with unit, interval with level, method, and why something is missing."""
    sign = "×" if estimate.unit == "factor" else ""
    unit = "" if estimate.unit in ("", "factor", "exponent") else f" {estimate.unit}"

    def words(value: float | None, missing: str) -> str:
        return missing if value is None else f"{sign}{numbers.number(value)}"

    has_interval = estimate.lo is not None or estimate.hi is not None
    return {
        "value": words(estimate.value, "no value") + (unit if estimate.value is not None else ""),
        "interval": f"{words(estimate.lo, 'open')} to {words(estimate.hi, 'open')}" if has_interval else "",
        "level": f"{100 * estimate.level:g} %",
        "method": estimate.method,
        "reason": estimate.reason or "",
    }


def _cost_view(cost: Cost | None, plan: Plan) -> dict[str, Any] | None:
    if cost is None:
        return None
    planned = cost.planned_flops if cost.planned_flops is not None else plan.planned_flops.flops
    rows = [
        ("Planned", numbers.flops(planned), "", numbers.duration(cost.planned_seconds)),
        ("Spent", numbers.flops(cost.spent_flops), numbers.share(cost.spent_flops, planned),
         numbers.duration(cost.spent_seconds)),
        ("of which wasted", numbers.flops(cost.wasted_flops), numbers.share(cost.wasted_flops, planned),
         numbers.duration(cost.wasted_seconds)),
    ]  # fmt: skip
    return {
        "rows": rows,
        "convention": cost.convention or plan.planned_flops.convention,
        "usd": None if cost.usd is None else f"{cost.usd:,.2f}",
        "reused_runs": cost.reused_runs,
    }


def _exclusions(exclusions: Sequence[Exclusion], fits: Sequence[Fit]) -> list[tuple[str, int, str, str]]:
    """(what, how many, reason, from where): what was left out for the same reason stands together, each once."""
    rows = [(item.reason, "the study", item.what) for item in exclusions]
    rows += [(item.reason, fit.name, item.what) for fit in fits for item in fit.exclusions]
    groups: dict[tuple[str, str], list[str]] = {}
    for reason, where, what in dict.fromkeys(rows):
        groups.setdefault((reason, where), []).append(what)
    return [("; ".join(names), len(names), reason, where) for (reason, where), names in groups.items()]


def _fit_view(fit: Fit) -> dict[str, Any]:
    certificate = fit.certificate
    facts = [("Error model", fit.error_model), ("Points", numbers.number(fit.num_points))]
    if fit.degrees_of_freedom is not None:
        facts.append(("Degrees of freedom", numbers.number(fit.degrees_of_freedom)))
    if fit.objective is not None:
        facts.append(("Objective", numbers.number(fit.objective)))
    facts += [(name, numbers.number(value)) for name, value in fit.options.items()]
    if certificate is not None:
        facts.append(("At its optimum", _certificate_text(certificate)))
    return {
        "name": fit.name,
        "form": fit.form,
        "facts": facts,
        "estimates": [(name, estimate_text(estimate)) for name, estimate in fit.estimates.items()],
        "not_identified": fit.not_identified if not fit.identified else None,
        "notes": fit.notes,
    }


def _certificate_text(certificate: Certificate) -> str:
    parts = ["yes" if certificate.converged else "no"]
    for name, value in (
        ("scaled gradient", certificate.scaled_gradient),
        ("smallest curvature", certificate.smallest_curvature),
        ("gap to the best of many starts", certificate.multistart_gap),
        ("share of replicates certified", certificate.certified_share),
    ):
        if value is not None:
            parts.append(f"{name} {numbers.number(value)}")
    return "; ".join([*parts, *([certificate.note] if certificate.note else [])])


@dataclass(frozen=True, kw_only=True)
class Versions:
    """What was made with which versions: one column each for plan, runs, verdict and this page."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def _provenance(data: StudyData) -> Versions:
    """Where plan, runs and verdict were made; runs that agree share a column."""
    groups: list[tuple[str, dict[str, str]]] = []
    if data.plan.provenance is not None:
        groups.append(("Plan", _provenance_rows(data.plan.provenance, started=True)))
    kinds: dict[tuple[tuple[str, str], ...], int] = {}
    for run in data.runs:
        if run.record is not None:
            rows = tuple(_provenance_rows(run.record.provenance, started=False).items())
            kinds[rows] = kinds.get(rows, 0) + 1
    groups += [(f"{count} run{'s' * (count > 1)}", dict(rows)) for rows, count in kinds.items()]
    if data.verdict.provenance is not None:
        groups.append(("Verdict", _provenance_rows(data.verdict.provenance, started=True)))
    groups.append(("This page", versions()))
    names = list(dict.fromkeys(name for _, made in groups for name in made))
    return Versions(
        columns=tuple(title for title, _ in groups),
        rows=tuple((name, tuple(made.get(name, "") for _, made in groups)) for name in names),
    )


def _provenance_rows(made: Provenance, *, started: bool) -> dict[str, str]:
    rows = {"isoflop": made.isoflop, "Python": made.python}
    if made.torch:
        rows["PyTorch"] = made.torch
    if made.commit:
        rows["Commit"] = made.commit[:12] + (" with uncommitted changes" if made.dirty else "")
    if made.machine:
        rows["Machine"] = made.machine
    rows["Device"] = f"{made.device}, {made.num_workers} worker{'s' * (made.num_workers != 1)}"
    if started and made.started:
        rows["Made"] = made.started
    return rows


def versions() -> dict[str, str]:
    """What renders a report, with versions; a change of one of them may change the bytes."""
    import importlib.metadata
    import platform

    import isoflop

    packages = {"NumPy": "numpy", "Matplotlib": "matplotlib", "Jinja": "jinja2", "DuckDB": "duckdb"}
    return {
        "isoflop": isoflop.__version__,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(package) for name, package in packages.items()},
    }


def _corpus(plan: Plan) -> list[tuple[str, str]]:
    corpus = plan.corpus
    if corpus is None:
        return []
    return [
        ("Text", f"{corpus.source}: {corpus.description}" if corpus.description else corpus.source),
        ("Corpus sha256", corpus.corpus_sha256),
        ("Tokenizer", f"{corpus.tokenizer}, {numbers.number(corpus.vocab_size)} tokens"),
        ("Tokenizer sha256", corpus.tokenizer_sha256),
        (
            "Training part",
            f"{numbers.number(corpus.num_train_files)} files, {numbers.number(corpus.train_tokens)} tokens",
        ),
        (
            "Held-out part",
            f"{numbers.number(corpus.num_val_files)} files, {numbers.number(corpus.val_tokens)} tokens",
        ),
        ("Split", corpus.split_rule),
    ]


# Shape as well as colour and word: a disc with a tick, a square with a cross, a broken ring with a question mark.
_ICON = '<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">{}</svg>'
_STROKE = 'fill="none" stroke="var(--badge-paper)" stroke-width="2.6" stroke-linecap="round" stroke-linejoin="round"'
ICONS: dict[str, str] = {
    "supported": _ICON.format(
        f'<circle cx="12" cy="12" r="11" fill="currentColor"/><path d="M6.8 12.6l3.6 3.6 7-7.6" {_STROKE}/>'
    ),
    "contradicted": _ICON.format(
        '<rect x="1.5" y="1.5" width="21" height="21" rx="4" fill="currentColor"/>'
        f'<path d="M8 8l8 8M16 8l-8 8" {_STROKE}/>'
    ),
    "cannot tell": _ICON.format(
        '<g fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round">'
        '<circle cx="12" cy="12" r="10.4" stroke-dasharray="4.1 2.43"/>'
        '<path d="M9.1 9.3a2.95 2.95 0 1 1 4.6 2.5c-1.1.8-1.7 1.2-1.7 2.3M12 17.3v.1"/></g>'
    ),
}
