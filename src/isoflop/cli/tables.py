"""Verbs on tables and data: fit, compare, power, next, plan size, data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isoflop.cli.main import CONTEXT, Group, main, verb

if TYPE_CHECKING:
    from isoflop.fit.law.report import FittedTable
    from isoflop.records import Verdict


out_option = click.option(
    "--out", type=click.Path(path_type=Path), help="Also write a report into this folder."
)


def with_report(
    text: str, result: dict[str, Any], out: Path | None, rule: str, verdict: Callable[[], Verdict]
) -> tuple[str, dict[str, Any]]:
    """The answer as it is, and with --out also its report."""
    answer = {name: value for name, value in result.items() if name != "schema"}
    if out is None:
        return text, answer
    from isoflop.verbs import publish_answer

    report = publish_answer(verdict(), out, rule)
    return f"{text}\n\nreport: {report}", {**answer, "report": str(report)}


@main.group(cls=Group, context_settings=CONTEXT)
def data() -> None:
    """Corpora and public data: prepare a text, or get a known data set."""


@data.command("prepare")
@click.argument("source", default="stdlib")
@click.option("--tokenizer", default="bpe-512", show_default=True, help="bytes, bpe-N, or a tokenizer.json.")
@verb("data.prepare")
def data_prepare(source: str, tokenizer: str) -> tuple[str, dict[str, Any]]:
    """Read, split and tokenize a corpus into the cache: "stdlib", or any folder of text, jsonl, parquet."""
    from isoflop import data as room
    from isoflop.cli.main import say
    from isoflop.records import to_mapping
    from isoflop.units import format_bytes, format_tokens

    record = room.prepare(source, tokenizer, progress=say).record
    text = (
        f"{record.source}: {format_tokens(record.train_tokens)} to train on ({record.num_train_files} files, "
        f"{format_bytes(record.train_bytes)}), {format_tokens(record.val_tokens)} held out "
        f"({record.num_val_files} files)\ncorpus {record.corpus_sha256[:16]}, tokenizer {record.tokenizer} "
        f"{record.tokenizer_sha256[:16]}"
    )
    return text, {"corpus": to_mapping(record)}


from isoflop.cli import shards as _shards  # noqa: E402, F401  (their place among the data verbs is here)


@data.command("list")
@verb("data.list")
def data_list() -> tuple[str, dict[str, Any]]:
    """List the public data sets that `isoflop data get` knows."""
    from isoflop.data.get import catalogue

    rows = [
        {"name": item.name, "title": item.title, "url": item.url, "sha256": item.sha256}
        for item in catalogue()
    ]
    return "\n".join(f"{row['name']:24} {row['title']}" for row in rows), {"data": rows}


@data.command("get")
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), help="Folder; the cache by default.")
@verb("data.get")
def data_get(name: str, into: Path | None) -> tuple[str, dict[str, Any]]:
    """Fetch a known public data set from its own address, at a pinned commit, with a checksum."""
    from isoflop.data.get import get

    path = get(name, into=into)
    return f"{name}: {path}", {"name": name, "path": str(path)}


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", help="Metric to compare; the one that both files have by default.")
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option("--family", help="Column that groups items which are not independent.")
@click.option("--paired-seeds", is_flag=True, help="Equal seed labels share initialisation and data order.")
@click.option(
    "--noise-sd", type=float, help="Spread of one run, learned from others: for arms with one seed."
)
@click.option("--noise-df", type=float, help="Degrees of freedom behind --noise-sd; exact by default.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@click.option(
    "--power", type=float, default=0.8, show_default=True, help="Power of the smallest detectable difference."
)
@click.option("--common-items", is_flag=True, help="Compare on the items that both files have.")
@click.option("--ignore-versions", is_flag=True, help="Compare in spite of different task versions.")
@out_option
@verb("compare")
def compare(
    a: Path, b: Path, out: Path | None, noise_sd: float | None, noise_df: float | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Is B really different from A?

    Reads lm-eval results and item logs, plain JSON, CSV, JSON lines; and runs of isoflop by their held-out loss: a run
    folder, a study's output, or OUT:label=value for the runs with that label.
    """
    import math

    from isoflop.judge.compare import Noise, Options, compare_files, comparison_verdict, render_text

    if noise_df is not None and noise_sd is None:
        raise ValueError("--noise-df says how well --noise-sd is known; give that too")
    noise = None if noise_sd is None else Noise(sd=noise_sd, df=noise_df or math.inf)
    result = compare_files(a, b, Options(noise=noise, **options))
    rule = (
        "Each task's difference against zero at the declared level, corrected for the number of tasks (Holm)."
    )
    return with_report(render_text(result), result, out, rule, lambda: comparison_verdict(result))


@main.command()
@click.option("--sd", type=float, help="Spread of one run about its configuration's mean.")
@click.option(
    "--noise",
    type=click.Path(path_type=Path, exists=True),
    help="In place of --sd: what `isoflop noise --save` kept, or the folder of a study.",
)
@click.option("--scale", help="noise: of runs like these, as `isoflop noise` names them; all by default.")
@click.option("--metric", help="noise: the score that the effect is in.")
@click.option("--noise-df", type=float, help="Degrees of freedom of a spread that was learned elsewhere.")
@click.option("--effect", type=float, help="Effect to see, in the unit of --sd.")
@click.option("--seeds", type=int, help="Seeds per arm that you can pay for.")
@click.option("--power", "wanted_power", type=float, default=0.8, show_default=True)
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Rate of false alarms.")
@click.option(
    "--looks",
    "num_looks",
    type=int,
    default=1,
    show_default=True,
    help="Looks at the data, the last included.",
)
@click.option("--correlation", type=float, help="Of arms that share seeds pairwise.")
@out_option
@verb("power")
def power(
    out: Path | None,
    sd: float | None,
    noise: Path | None,
    scale: str | None,
    metric: str | None,
    **options: Any,
) -> tuple[str, dict[str, Any]]:
    """How many seeds for an effect, or which effect for so many seeds; with looks, a sequential plan."""
    from isoflop.judge.power import Design, plan_power, power_verdict, render_power

    if (sd is None) == (noise is None):
        raise ValueError("give the noise of one run once: --sd NUMBER, or --noise with a file or a folder")
    if noise is not None:
        from isoflop.judge.noise import ALL_SCALES, find_entry, read_noise

        entry = find_entry(read_noise(noise), metric, scale or ALL_SCALES)
        sd, options["noise_df"] = entry.sd.value, entry.df
    assert sd is not None
    result = plan_power(Design(sd=sd, **options))
    rule = "Power of the two-sided test of the design, by calculation; sequential error rates by simulation."
    return with_report(render_power(result), result, out, rule, lambda: power_verdict(result))


@main.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option(
    "--as", "kind", type=click.Choice(["law", "curve"]), help="What to fit; found from the columns."
)
@click.option("--column", "columns", multiple=True, help="ROLE=NAME for a column without a usual name.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of resampling and simulation.")
@click.option("--budget", help="law: also say what this budget should buy, e.g. 3.8e25.")
@click.option(
    "--loss-function",
    type=click.Choice(["huber", "squares", "lad", "student"]),
    default="huber",
    show_default=True,
    help="law: how residuals of the log loss are weighed.",
)
@click.option("--drop-highest", type=int, default=0, help="law: leave out so many of the highest losses.")
@click.option("--bootstrap", type=int, default=4000, show_default=True, help="law: number of resamples.")
@click.option(
    "--skip-bad-rows", is_flag=True, help="law: leave out rows with impossible entries, and say so."
)
@click.option("--sensitivity/--no-sensitivity", default=True, help="law: the answer under other ways to fit.")
@click.option(
    "--metric",
    type=click.Choice(["score", "accuracy", "loss"]),
    help="curve: what y is; by the name of its column when left out.",
)
@click.option("--predict", type=float, multiple=True, help="curve: x at which to predict.")
@click.option("--reach", type=float, help="curve: when does it reach this y?")
@click.option("--page", type=click.Path(path_type=Path), help="law: also write an interactive page here.")
@out_option
@verb("fit")
def fit(
    table: Path, kind: str | None, columns: tuple[str, ...], out: Path | None, **options: Any
) -> tuple[str, Any]:
    """Fit a scaling law to a table of runs, or simple curves to a table of points.

    TABLE is a CSV, Parquet or JSONL file; for a law also a folder of W&B, TensorBoard, trackio or JSONL logs.
    --out writes a report; that of a law holds fit.json, which `isoflop plan --law` takes.
    """
    from isoflop.fit.tables.points import kind_of

    named = roles(columns)
    if options["budget"] is not None or options["page"] is not None:
        kind = kind or "law"  # nothing else has a budget or a page
    answer = _fit_law if (kind or kind_of(table, named)) == "law" else _fit_curve
    return answer(table, named, out, **options)


def _fit_law(
    table: Path, columns: dict[str, str], out: Path | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    from isoflop.fit.law.report import fit_table
    from isoflop.fit.tables.runs import read_runs

    runs = read_runs(table, columns, bad_rows="exclude" if options["skip_bad_rows"] else "refuse")
    made = fit_table(
        runs,
        options["budget"],
        loss_function=options["loss_function"],
        drop_highest_loss=options["drop_highest"],
        bootstrap=options["bootstrap"],
        sensitivity=options["sensitivity"],
        seed=options["seed"],
    )
    answer = dict(made.answer)
    text = answer.pop("text")
    if options["page"] is not None:
        page = _page_of_fit(made, options["page"])
        text, answer = f"{text}\n\npage: {page}", {**answer, "page": str(page)}
    if out is None:
        return text, answer
    from isoflop.judge.law_view import law_verdict
    from isoflop.plan.belief_own import FILE, write_fit

    rule = "The law is supported when its runs determine it: no parameter at a bound, 95 % of the resamples "
    rule += "certified; the forecast test decides whether it may be trusted beyond them."
    text, answer = with_report(text, answer, out, rule, lambda: law_verdict(made))
    write_fit(made, out / FILE)
    kept = f"the fit, for `isoflop plan --law {out / FILE}`: {out / FILE}"
    return f"{text}\n{kept}", {**answer, "fit": str(out / FILE)}


def _page_of_fit(made: FittedTable, page: Path) -> Path:
    """The planner's page with the draws of this fit, at the budget asked for or beyond the largest run."""
    from isoflop.fit.law.report import usual_budget
    from isoflop.plan.belief_own import believe_fit
    from isoflop.plan.page import write_page
    from isoflop.plan.size import plan_size, read_request

    belief = believe_fit(made)
    flops = made.answer.get("budget_flops") or usual_budget(made.fit)
    return write_page(plan_size(read_request(f"{flops:.6g}", law=belief.name), belief), page, belief)


def _fit_curve(
    table: Path, columns: dict[str, str], out: Path | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    if options["page"] is not None:
        raise ValueError("--page is the planner's page of a law; a report of curves comes with --out FOLDER")
    from isoflop.fit.tables.points import read_points
    from isoflop.judge.curves import curve_answer
    from isoflop.judge.curves_view import curve_verdict, render_curve

    points = read_points(table, columns)
    answer = curve_answer(
        points.x,
        points.y,
        sigma=points.sigma,
        num_items=points.num_items,
        kind=options["metric"] or points.metric,
        predict=options["predict"] or None,
        reach=options["reach"],
        seed=options["seed"],
    )
    rule = "Every family is fitted; weights by AICc and forward prediction; a question is decided when the design "
    rule += "analysis says that these points could have told the families apart."
    return with_report(render_curve(answer), answer, out, rule, lambda: curve_verdict(answer))


@main.command("next")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="Budget at which the decision will be taken, e.g. 1e23.")
@click.option("--num", type=int, default=3, show_default=True, help="Runs to choose at once.")
@click.option("--allowance", help="FLOPs that may still be spent; no limit by default.")
@click.option(
    "--candidates",
    type=click.Path(path_type=Path),
    help="Table of runs that could be done: N, D and, where it is not 6 N D, the cost C of each; a grid by default.",
)
@click.option("--column", "columns", multiple=True, help="ROLE=NAME for a column without a usual name.")
@click.option("--seed", type=int, default=0, show_default=True)
@verb("next")
def next_command(
    table: Path,
    target: str,
    num: int,
    allowance: str | None,
    candidates: Path | None,
    columns: tuple[str, ...],
    seed: int,
) -> tuple[str, dict[str, Any]]:
    """Which run next: those that keep most compute from being lost by acting on the present fit."""
    import dataclasses

    from isoflop.fit.tables.runs import read_candidates, read_runs
    from isoflop.plan.next_run import Candidates, Runs, default_candidates, next_runs
    from isoflop.plan.text import next_text
    from isoflop.units import parse_count

    read = read_runs(table, roles(columns))
    runs = Runs(read.N, read.D, read.loss, 6.0 * read.N * read.D)
    budget = parse_count(target)
    if candidates is None:
        possible = default_candidates(runs, budget, seed=seed)
    else:
        possible = Candidates(*read_candidates(candidates))
    answer = next_runs(
        runs,
        possible,
        budget,
        num=num,
        allowance=None if allowance is None else parse_count(allowance),
        seed=seed,
    )
    return next_text(answer), dataclasses.asdict(answer)


def roles(columns: tuple[str, ...]) -> dict[str, str]:
    """Role -> column of each --column ROLE=NAME."""
    return dict(_role(text) for text in columns)


def _role(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--column {text!r}: write it as ROLE=NAME, e.g. N=params")
    return role, name
