"""The verbs as functions: what the command line calls, and the Python API (``import isoflop``).

    plan_study -> plan.json -> train -> runs/ -> measure -> scores -> judge -> verdict.json -> publish -> report.html

Each verb reads the previous one's file and writes its own; `run_study` does all five. Rooms are imported
when a verb needs them, so that planning and judging never load torch. Nothing scientific happens here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from isoflop.provenance import current
from isoflop.records import (
    Budget,
    Calibration,
    CorpusRecord,
    DecisionRule,
    Evidence,
    FlopCount,
    Plan,
    PlanRequest,
    RunEvidence,
    Verdict,
    read,
)
from isoflop.store import Store
from isoflop.studies import study as studies

Say = Callable[[str], None]
"""Takes one line for people."""

SLOWER_THAN_CALIBRATED = 3.0
"""A time budget stops the sweep at this multiple of itself: time may stop work, it never replans it."""


NOTHING_TRAINED = Budget(amount=0.0, unit="flops", convention="6N-all", text="nothing is trained")


class RequestError(ValueError):
    """The request does not fit what is in the folder; the message says how to go on."""


def quiet(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What `run_study` answers.

    Attributes:
        verdict: with its cost.
        store: the output folder.
        report: path of the report.
        seconds: wall time of this call.
        num_trained: runs that this call trained; 0 when all were there already.
    """

    verdict: Verdict
    store: Store
    report: Path
    seconds: float
    num_trained: int


# ------------------------------------------------------------------------------------------ plan


def plan_study(
    name: str,
    *,
    budget: str | None = None,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int | None = None,
    out: Path | str | None = None,
    say: Say = quiet,
) -> Plan:
    """Plan a study for a budget; nothing is trained.

    Args:
        name: an installed study or the path of a study file.
        budget: as people write it ("4min", "3e12 FLOPs"); None takes the study's own default.
        seeds: number of seeds; None leaves it to the study.
        device, workers: what a budget in time is calibrated for; workers None is one per core.
        out: folder to write plan.json into; None writes nothing.
        say: receives a line for each slow step.

    Raises:
        StudyError, ValueError: no such study, or a budget that cannot be planned (the message says what can).
        RequestError: `out` holds another plan already, or the study trains nothing.
    """
    study = studies.find(name)
    if study.plan is None:
        raise RequestError(f"{study.name} trains nothing: `isoflop run {name}` answers it at once")
    wanted = Budget.parse(budget or study.default_budget)
    request = PlanRequest(
        budget=wanted,
        seeds=seeds,
        corpus=_prepare_corpus(study, say),
        more_text=_prepare_more(study, say),
        calibration=_calibrate(study, wanted, device, workers, say),
    )
    plan = msgspec.structs.replace(
        study.plan(request),
        study_source=_source(name),
        provenance=current(device=device, num_workers=workers or 0),
    )
    if out is not None:
        store = Store(out)
        if store.plan_path.exists() and store.read_plan().fingerprint() != plan.fingerprint():
            raise RequestError(f"{out} holds another plan already; choose another --out, or move it away")
        store.write(store.plan_path, plan)
    return plan


def _prepare_corpus(study: studies.Study, say: Say) -> CorpusRecord | None:
    if study.corpus is None:
        return None
    from isoflop import data

    return data.prepare(study.corpus.source, study.corpus.tokenizer, progress=say).record


def _prepare_more(study: studies.Study, say: Say) -> tuple[CorpusRecord, ...]:
    """The further texts of a study; an optional one that cannot be had is said and left out."""
    if not study.more_text:
        return ()
    from isoflop import data

    found = []
    for request in study.more_text:
        try:
            found.append(data.prepare(request.source, request.tokenizer, progress=say).record)
        except data.DataError as error:
            if not request.optional:
                raise
            say(f"going on without {request.source}: {error}")
    return tuple(found)


def _calibrate(
    study: studies.Study, budget: Budget, device: str, workers: int | None, say: Say
) -> Calibration | None:
    """This machine's speed: needed for a budget in time, and used for the expected seconds when it is known."""
    if not study.calibration_nets:
        return None
    from isoflop.train import calibrate

    known = calibrate.cached(study.calibration_nets, device=device, num_workers=workers)
    if known is not None or budget.unit != "seconds":
        return known
    say("timing this machine once (some ten seconds) ...")
    return calibrate.calibrate(study.calibration_nets, device=device, num_workers=workers)


# ------------------------------------------------------------------------------- train and measure


def train(
    out: Path | str,
    *,
    device: str = "cpu",
    workers: int | None = None,
    reuse: Sequence[Path | str] = (),
    on_event: Callable[[Any], None] | None = None,
) -> Any:
    """Train every run of OUT/plan.json that is not finished; a finished run is never done again.

    Args:
        out: folder with plan.json.
        device: "cpu" or "cuda".
        workers: runs side by side; None is one per core on a CPU, one on a GPU.
        reuse: other output folders to take finished runs with the same fingerprint from.
        on_event: receives `isoflop.train.fleet.FleetEvent`.

    Returns:
        `isoflop.train.fleet.FleetResult`.
    """
    from isoflop.train.fleet import run_fleet

    store = Store(out)
    plan = store.read_plan()
    others = [Path(other) for other in reuse]
    for run in plan.runs:
        store.reuse(run.spec, others)
    seconds = {run.fingerprint: run.cost_seconds for run in plan.runs}
    deadline = plan.budget.amount * SLOWER_THAN_CALIBRATED if plan.budget.unit == "seconds" else None
    return run_fleet(
        [run.spec for run in plan.runs],
        store,
        num_workers=workers,
        device=device,
        seconds_of=lambda spec: seconds.get(spec.fingerprint()) or spec.own_flops / 1e10,
        on_event=on_event,
        deadline_s=deadline,
    )


def measure(out: Path | str, *, device: str = "cpu", again: bool = False) -> int:
    """Score each finished run that has no score yet (or all, with `again`) from its final weights.

    Returns the number of runs scored now.
    """
    store = Store(out)
    missing = [
        folder
        for folder in store.run_folders()
        if folder.finished
        and folder.read_spec().evaluate is not None
        and folder.read_record().status == "finished"
        and (again or not folder.read_measurements())
    ]
    if not missing:
        return 0
    from isoflop.measure import measure_run

    for folder in missing:
        measure_run(folder, device=device)
    return len(missing)


# ------------------------------------------------------------------------------ judge and publish


def gather(out: Path | str, study: studies.Study) -> Evidence:
    """What the study's judge is given: plan, runs with their records and scores, and the data that is there."""
    store = Store(out)
    if study.plan is None:
        return Evidence(data=_local_data(study))
    plan = store.read_plan()
    runs = []
    for planned in plan.runs:
        folder = store.run(planned.spec)
        runs.append(
            RunEvidence(
                spec=planned.spec,
                record=folder.read_record() if folder.finished else None,
                measurements=tuple(folder.read_measurements()),
            )
        )
    return Evidence(plan=plan, runs=tuple(runs), data=_local_data(study))


def _local_data(study: studies.Study) -> dict[str, str]:
    if not study.data:
        return {}
    from isoflop.data import get

    found = {name: get.local(name) for name in study.data}
    return {name: str(path) for name, path in found.items() if path is not None}


def judge(out: Path | str, *, study: str | None = None) -> Verdict:
    """Judge what is in the folder by the rule in its plan, and write verdict.json.

    Args:
        out: folder with plan.json and runs, of a study or of a recipe.
        study: name or path of the study; None takes it from the plan.
    """
    from isoflop import recipe_verbs
    from isoflop.flops.ledger import cost_of

    if recipe_verbs.is_recipe_store(out):
        return recipe_verbs.judge_recipe(out)

    store = Store(out)
    found = studies.find(study or store.read_plan().study_source)
    evidence = gather(out, found)
    verdict = found.judge(evidence)
    records = [run.record for run in evidence.runs if run.record is not None]
    verdict = msgspec.structs.replace(
        verdict,
        plan_fingerprint=store.read_plan().fingerprint() if store.plan_path.exists() else None,
        cost=None if evidence.plan is None else cost_of(records, evidence.plan),
        provenance=current(),
    )
    store.write(store.verdict_path, verdict)
    return verdict


def publish(out: Path | str) -> Any:
    """Write OUT/report.html, figures, tables and manifest.json from what is stored; returns `PublishResult`."""
    from isoflop.publish import publish as write_report

    return write_report(Store(out))


def publish_answer(verdict: Verdict, out: Path | str, rule: str) -> Path:
    """Write an answer that came from the user's own table, and its report, into a folder.

    Args:
        verdict: of `isoflop.judge` on a table, two score files, a design.
        out: output folder; refused when it holds something else's plan.
        rule: how the verdict was reached, in words.

    Returns the path of the report.
    """
    store = Store(out)
    with store.lock():
        if store.plan_path.exists() and store.read_plan().study != verdict.study:
            raise RequestError(f"{out} holds {store.read_plan().study!r} already; choose another --out")
        store.write(store.plan_path, _plan_of_answer(verdict, rule))
        store.write(store.verdict_path, msgspec.structs.replace(verdict, provenance=current()))
        report: Path = publish(store.root).report
    return report


def _plan_of_answer(verdict: Verdict, rule: str) -> Plan:
    return Plan(
        study=verdict.study,
        claims=verdict.claims,
        question=verdict.question,
        budget=NOTHING_TRAINED,
        planned_flops=FlopCount(flops=0.0, convention="6N-all"),
        runs=(),
        rule=DecisionRule(text=rule),
        seeds=(),
        provenance=current(),
    )


# ----------------------------------------------------------------------------------------- all five


def run_study(
    name: str,
    *,
    budget: str | None = None,
    seeds: int | None = None,
    plan_file: Path | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    reuse: Sequence[Path | str] = (),
    say: Say = quiet,
    on_plan: Callable[[Plan], None] | None = None,
    on_event: Callable[[Any], None] | None = None,
) -> StudyRun:
    """Plan, train, measure, judge and publish a study; goes on where a former call stopped.

    Args:
        name: an installed study or the path of a study file.
        budget, seeds: as for `plan_study`; not together with `plan_file`.
        plan_file: a plan made before, to follow to the letter.
        out: output folder; None is ``out/<study>``.
        resume: go on with the plan that is in the folder, whatever budget it was made for.
        device, workers, reuse, on_event: as for `train`.
        say: receives a line for each step.
        on_plan: receives the plan before anything is spent.

    Raises:
        RequestError: the folder holds a plan for something else.
        StoreError: the folder is in use or damaged.
    """
    started = time.monotonic()
    study = studies.find(name)
    store = Store(out or Path("out") / study.name)
    num_trained = 0
    with store.lock():
        if study.plan is not None:
            plan = _settle_plan(study, name, store, budget, seeds, plan_file, resume, device, workers, say)
            if on_plan is not None:
                on_plan(plan)
            result = train(store.root, device=device, workers=workers, reuse=reuse, on_event=on_event)
            if result.stopped == "deadline":
                say(f"the time is up: {len(result.unfinished)} runs are left for a later call with --resume")
            num_trained = result.num_trained
            measure(store.root, device=device)
        else:
            store.write(store.plan_path, _plan_without_runs(study, name))
        say("judging ...")
        verdict = judge(store.root, study=name)
        say("writing the report ...")
        report = publish(store.root).report
    return StudyRun(
        verdict=verdict,
        store=store,
        report=report,
        seconds=time.monotonic() - started,
        num_trained=num_trained,
    )


def _settle_plan(
    study: studies.Study,
    name: str,
    store: Store,
    budget: str | None,
    seeds: int | None,
    plan_file: Path | str | None,
    resume: bool,
    device: str,
    workers: int | None,
    say: Say,
) -> Plan:
    """The plan to follow: the one in the folder when it answers this request, a given one, or a new one."""
    present = store.read_plan() if store.plan_path.exists() else None
    if plan_file is not None:
        if budget is not None or seeds is not None:
            raise RequestError("--plan fixes budget and seeds already; leave out --budget and --seeds")
        given = read(Path(plan_file), Plan)
        if given.study != study.name:
            raise RequestError(f"{plan_file} is a plan for {given.study!r}, not for {study.name!r}")
        if present is not None and present.fingerprint() != given.fingerprint():
            raise RequestError(f"{store.root} holds another plan; choose another --out, or move it away")
        if present is None:
            store.write(store.plan_path, given)
        return present or given
    if present is None:
        if resume:
            raise RequestError(f"nothing to resume: {store.root} holds no plan.json")
        say(f"planning {study.name} ...")
        return plan_study(
            name, budget=budget, seeds=seeds, device=device, workers=workers, out=store.root, say=say
        )
    if present.study != study.name:
        raise RequestError(f"{store.root} holds a plan for {present.study!r}; choose another --out")
    if not resume and not _same_request(present, study, budget, seeds):
        raise RequestError(
            f"{store.root} holds a plan for {present.budget.text!r} with {len(present.seeds)} seeds; "
            "--resume goes on with it, another --out starts anew"
        )
    return present


def _plan_without_runs(study: studies.Study, name: str) -> Plan:
    """What a study that trains nothing declares before it looks at its data: question, rule, no runs."""
    return Plan(
        study=study.name,
        study_source=_source(name),
        claims=study.claims,
        question=study.question,
        budget=NOTHING_TRAINED,
        planned_flops=FlopCount(flops=0.0, convention="6N-all"),
        runs=(),
        rule=study.rule or DecisionRule(text=study.prediction),
        seeds=(),
        provenance=current(),
    )


def _source(name: str) -> str:
    """How to find a study again from any folder: its name, or the whole path of its file."""
    return str(Path(name).resolve()) if name.endswith(".py") else name


def _same_request(plan: Plan, study: studies.Study, budget: str | None, seeds: int | None) -> bool:
    wanted = Budget.parse(budget or study.default_budget)
    same_budget = (wanted.amount, wanted.unit) == (plan.budget.amount, plan.budget.unit)
    return same_budget and (seeds is None or seeds == len(plan.seeds))
