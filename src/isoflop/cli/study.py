"""Verbs on studies: run, plan, measure, judge, publish, studies, status, ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isoflop.cli.main import CONTEXT, Group, main, say, verb

if TYPE_CHECKING:
    from isoflop.records import Plan

budget_option = click.option(
    "--budget", help='As people write it: "4min", "3e12 FLOPs", "2 H100-days", "$200".'
)
seeds_option = click.option("--seeds", type=int, help="Number of seeds; left to the study by default.")
device_option = click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
workers_option = click.option("--workers", type=int, help="Runs side by side; one per core by default.")
reuse_option = click.option(
    "--reuse",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Another output folder to take finished runs from.",
)


@main.command()
@click.argument("study")
@budget_option
@seeds_option
@click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="Follow this plan.json to the letter."
)
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: out/STUDY]")
@click.option("--resume", is_flag=True, help="Go on with the plan that is in the folder.")
@device_option
@workers_option
@reuse_option
@verb("run")
def run(
    study: str,
    budget: str | None,
    seeds: int | None,
    plan_file: Path | None,
    out: Path | None,
    resume: bool,
    device: str,
    workers: int | None,
    reuse: tuple[Path, ...],
) -> tuple[str, dict[str, Any]]:
    """Do all of a study: plan, train, measure, judge, publish. A second call trains nothing again."""
    from isoflop import verbs
    from isoflop.console import FleetProgress, plan_text, study_text

    progress = FleetProgress()

    def show(plan: Plan) -> None:
        say(plan_text(plan))
        progress.begin(plan)

    try:
        answer = verbs.run_study(
            study,
            budget=budget,
            seeds=seeds,
            plan_file=plan_file,
            out=out,
            resume=resume,
            device=device,
            workers=workers,
            reuse=reuse,
            say=say,
            on_plan=show,
            on_event=progress,
        )
    finally:
        progress.close()
    verdict = answer.verdict
    cost = verdict.cost
    return study_text(answer), {
        "study": verdict.study,
        "verdict": verdict.outcome,
        "sentence": verdict.sentence,
        **verdict.summary,
        "flops_spent": cost.spent_flops if cost else 0.0,
        "flops_wasted": cost.wasted_flops if cost else 0.0,
        "flops_convention": cost.convention if cost else None,
        "seconds": round(answer.seconds, 3),
        "worker_seconds": round(cost.spent_seconds, 3) if cost else 0.0,
        "runs_trained": answer.num_trained,
        "out": str(answer.store.root),
        "report": str(answer.report),
    }


class PlanGroup(Group):
    """`isoflop plan --budget X` means `isoflop plan size --budget X`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["size", *args]
        return super().parse_args(context, args)


@main.group(cls=PlanGroup, context_settings=CONTEXT)
def plan() -> None:
    """Plan a study's runs, or the size to train on a budget.

    \b
    isoflop plan study flatness --budget 4min --out A
    isoflop plan --budget "50 H100-days" --unique 10e9      (a bare --budget means: plan size)
    """


@plan.command("study")
@click.argument("study")
@budget_option
@seeds_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for plan.json; nothing is written without it."
)
@device_option
@workers_option
@verb("plan.study")
def plan_study(
    study: str, budget: str | None, seeds: int | None, out: Path | None, device: str, workers: int | None
) -> tuple[str, dict[str, Any]]:
    """Print a study's runs, predicted losses, cost and decision rule; train nothing."""
    from isoflop import verbs
    from isoflop.console import plan_text
    from isoflop.records import to_mapping

    made = verbs.plan_study(
        study, budget=budget, seeds=seeds, out=out, device=device, workers=workers, say=say
    )
    where = (
        f"\nWritten to {out}/plan.json; follow it with: isoflop run {study} --plan {out}/plan.json"
        if out
        else ""
    )
    return plan_text(made, every_run=True) + where, {"plan": to_mapping(made)}


from isoflop.cli import train as _train  # noqa: E402, F401  (its place among the verbs is here)


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--again", is_flag=True, help="Score also the runs that have a score.")
@device_option
@verb("measure")
def measure(out: Path, again: bool, device: str) -> tuple[str, dict[str, Any]]:
    """Score finished runs from their final weights."""
    from isoflop import verbs

    count = verbs.measure(out, device=device, again=again)
    return f"scored {count} runs", {"runs_scored": count, "out": str(out)}


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--study", help="Name or path of the study; taken from the plan by default.")
@verb("judge")
def judge(out: Path, study: str | None) -> tuple[str, dict[str, Any]]:
    """Judge OUT by the rule in its plan (verdict.json)."""
    from isoflop import verbs
    from isoflop.console import verdict_text

    verdict = verbs.judge(out, study=study)
    return verdict_text(verdict), {
        "verdict": verdict.outcome,
        "sentence": verdict.sentence,
        **verdict.summary,
    }


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@verb("publish")
def publish(out: Path) -> tuple[str, dict[str, Any]]:
    """Write OUT/report.html with its figures, tables and manifest."""
    from isoflop import verbs

    result = verbs.publish(out)
    return f"report: {result.report}", {
        "report": str(result.report),
        "files": [str(path) for path in result.files],
    }


@main.command("studies")
@verb("studies")
def list_studies() -> tuple[str, dict[str, Any]]:
    """List the studies: question, cost, last verdict."""
    from isoflop.console import studies_text, study_rows

    rows = study_rows()
    return studies_text(rows), {"studies": rows}


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@verb("status")
def status(out: Path) -> tuple[str, dict[str, Any]]:
    """Say of each run of OUT where it stands."""
    from isoflop.console import status_rows, status_text

    rows = status_rows(out)
    return status_text(rows), {"out": str(out), "runs": rows}


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@verb("ledger")
def ledger(out: Path) -> tuple[str, dict[str, Any]]:
    """Planned, spent and wasted, in FLOPs and worker-seconds."""
    import msgspec

    from isoflop.console import ledger_text
    from isoflop.flops.ledger import cost_of
    from isoflop.store import Store

    store = Store(out)
    records = [folder.read_record() for folder in store.run_folders() if folder.finished]
    cost = cost_of(records, store.read_plan())
    return ledger_text(cost), {"out": str(out), "cost": msgspec.to_builtins(cost)}


@plan.command("size")
@click.option("--budget", required=True, help='"3.8e25", "50 H100-days", "50 H100-days/month", "$20000".')
@click.option("--unique", help="Unique tokens there are; without it data never run out.")
@click.option("--serve", help="Tokens that the model will process after training.")
@click.option("--serve-in-budget", is_flag=True, default=None, help="Serving is paid from the same budget.")
@click.option("--law", help="Published law, your table of runs, or your fit.json.  [default: besiroglu]")
@click.option("--column", "columns", multiple=True, help="ROLE=NAME for a column of your table.")
@click.option("--eps", type=float, help="Tolerance on the loss for the smallest safe size.  [default: 0.01]")
@click.option("--confidence", type=float, help="How sure the smallest size must be.  [default: 0.95]")
@click.option("--device", help="Device for memory, days and money.  [default: H100]")
@click.option(
    "--devices", "num_devices", type=int, help="Devices side by side; the fewest that fit by default."
)
@click.option("--mfu", type=float, help="Share of the device's peak that training reaches.  [default: 0.4]")
@click.option("--months", type=float, help="Months of a monthly allocation to spend.  [default: 1]")
@click.option("--usd-per-hour", "usd_per_device_hour", type=float, help="Price of a device-hour.")
@click.option("--pilots", "pilot_share", type=float, help="Share of the budget for pilot runs.  [default: 0]")
@click.option("--search", "search_share", type=float, help="Share for hyperparameter search.  [default: 0]")
@click.option("--counting", help="How FLOPs are counted.  [default: 6N-all]")
@click.option("--page", type=click.Path(path_type=Path), help="Also write an interactive page here.")
@verb("plan.size")
def plan_size(
    budget: str,
    unique: str | None,
    serve: str | None,
    columns: tuple[str, ...],
    page: Path | None,
    **options: Any,
) -> tuple[str, dict[str, Any]]:
    """The size to train on a budget, how sure that is, and what each other choice costs.

    --law takes a published law by name, or your own: a table of runs, a folder of logs, or what `isoflop fit --out`
    wrote.
    """
    from isoflop.cli.tables import roles
    from isoflop.plan.size import believe, read_request
    from isoflop.plan.size import plan_size as answer
    from isoflop.plan.text import plan_text
    from isoflop.records import to_mapping

    request = read_request(budget, unique=unique, serve=serve, **options)
    belief = believe(request, roles(columns))
    made = answer(request, belief)
    text, mapping = plan_text(made), to_mapping(made)
    mapping.pop("schema")
    if page is not None:
        from isoflop.plan.page import write_page

        write_page(made, page, belief)
        text, mapping = f"{text}\n\npage: {page}", {**mapping, "page": str(page)}
    return text, mapping
