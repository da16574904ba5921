"""What a reader needs to trust and to refit a study, answered from its records.

The questions follow the checklist of Li et al. (2025, "(Mis)fitting", arXiv 2502.18969): what was trained, how
it was counted, what was fitted and how, what was left out. Every answer is computed; none is a promise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from isoflop.publish.evidence import StudyData
from isoflop.publish.numbers import flops
from isoflop.records import Estimate, Provenance, RunSpec

Answer = Literal["yes", "no", "partly", "does not apply"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question, its answer and the evidence."""

    question: str
    answer: Answer
    evidence: str


def checklist(data: StudyData) -> tuple[Item, ...]:
    """All questions, decided-beforehand first, then training, counting, fitting, accounting."""
    return (
        _plan_first(data),
        _same_plan(data),
        _all_runs(data),
        _seeds(data),
        _training_said(data),
        _data_named(data),
        _counting(data),
        _intervals(data),
        _certificates(data),
        _exclusions(data),
        _unresolved(data),
        _ledger(data),
        _code(data),
        _one_version(data),
    )


def _starts(data: StudyData) -> list[str]:
    return [
        a.started
        for run in data.runs
        if run.record and not run.record.reused_from
        for a in run.record.attempts
    ]


def _plan_first(data: StudyData) -> Item:
    question = "Were question, seeds and decision rule fixed before the first run?"
    planned = data.plan.provenance.started if data.plan.provenance else ""
    starts = [start for start in _starts(data) if start]
    if not starts:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    if not planned:
        return Item(question=question, answer="no", evidence="the plan does not say when it was made")
    first = min(starts)
    answer: Answer = "yes" if planned <= first else "no"
    return Item(question=question, answer=answer, evidence=f"plan {planned}, first step {first}")


def _same_plan(data: StudyData) -> Item:
    question = "Was the verdict made under this plan?"
    made, here = data.verdict.plan_fingerprint, data.plan.fingerprint()
    if made is None:
        return Item(question=question, answer="no", evidence="the verdict names no plan")
    if made != here:
        return Item(
            question=question, answer="no", evidence=f"verdict: {made[:8]}, plan: {here[:8]}; judge again"
        )
    return Item(question=question, answer="yes", evidence=f"fingerprint {here[:8]}")


def _all_runs(data: StudyData) -> Item:
    question = "Is every planned run done, or said to be missing?"
    planned = [run for run in data.runs if run.planned]
    if not planned:
        return Item(question=question, answer="does not apply", evidence="the plan holds no run")
    done = sum(run.status == "finished" for run in planned)
    evidence = f"{done} of {len(planned)} finished"
    if done == len(planned):
        return Item(question=question, answer="yes", evidence=evidence)
    said = {exclusion.what for exclusion in data.verdict.exclusions}
    missing = [run.spec.name for run in planned if run.status != "finished" and run.spec.name not in said]
    if missing:
        return Item(
            question=question, answer="no", evidence=f"{evidence}; not accounted for: {', '.join(missing)}"
        )
    return Item(question=question, answer="yes", evidence=f"{evidence}; the others are under Exclusions")


def _seeds(data: StudyData) -> Item:
    question = "Is there more than one seed, and are they named?"
    seeds = data.plan.seeds
    if not data.plan.runs:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    return Item(
        question=question,
        answer="yes" if len(seeds) > 1 else "no",
        evidence=f"{len(seeds)}: {', '.join(map(str, seeds))}" if seeds else "none",
    )


def _training_said(data: StudyData) -> Item:
    question = "Are architecture, optimiser, schedule and precision given for every run?"
    specs = [run.spec for run in data.plan.runs]
    if not specs:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    own = sum(spec.command is not None for spec in specs)
    parts = (
        _distinct("net", (spec.net.family for spec in specs)),
        _distinct("optimiser", (spec.optimizer.name for spec in specs)),
        _distinct("schedule", (_schedule(spec) for spec in specs)),
        _distinct("precision", (spec.precision for spec in specs)),
    )
    if own:
        return Item(
            question=question,
            answer="partly",
            evidence=f"{'; '.join(parts)}; {own} run(s) by another trainer",
        )
    return Item(question=question, answer="yes", evidence="; ".join(parts))


def _schedule(spec: RunSpec) -> str:
    return f"{spec.schedule.kind} with {spec.schedule.warmup_steps} warm-up steps"


def _distinct(name: str, values: Iterable[str]) -> str:
    found = list(dict.fromkeys(values))
    return f"{name}: {', '.join(found)}" if len(found) <= 3 else f"{name}: {len(found)} kinds"


def _data_named(data: StudyData) -> Item:
    question = "Are the training data and the tokenizer named by hash?"
    sources = {
        (source.source, source.corpus_sha256[:8], source.tokenizer, source.tokenizer_sha256[:8])
        for run in data.plan.runs
        for source in run.spec.data.sources
    }
    if not data.plan.runs:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    named = ("; ".join(f"{s} {h}, {t} {th}" for s, h, t, th in sorted(sources))) or "no source"
    return Item(question=question, answer="yes" if sources else "no", evidence=named)


def _counting(data: StudyData) -> Item:
    question = "Is it said how FLOPs and parameters are counted?"
    conventions = sorted({run.spec.train_flops.convention for run in data.plan.runs})
    if not conventions:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    ways = sorted({column.name for table in data.verdict.tables for column in table.columns} & _COUNTINGS)
    evidence = f"FLOPs: {', '.join(conventions)}; parameters: {', '.join(ways) or 'one way'}"
    return Item(question=question, answer="yes" if len(conventions) == 1 else "partly", evidence=evidence)


_COUNTINGS = {"N_all", "N_nonembedding", "N_matmul"}


def _intervals(data: StudyData) -> Item:
    question = "Has every estimate an interval, or the sentence why not?"
    estimates = [s.estimate for s in data.verdict.statements if s.estimate is not None]
    estimates += [estimate for fit in data.verdict.fits for estimate in fit.estimates.values()]
    if not estimates:
        return Item(question=question, answer="does not apply", evidence="no estimate was made")
    bare = sum(not _accounted(estimate) for estimate in estimates)
    return Item(
        question=question,
        answer="yes" if not bare else "no",
        evidence=f"{len(estimates) - bare} of {len(estimates)} estimates",
    )


def _accounted(estimate: Estimate) -> bool:
    whole = estimate.value is not None and estimate.lo is not None and estimate.hi is not None
    return whole or bool(estimate.reason)


def _certificates(data: StudyData) -> Item:
    question = "Is each fit shown to be at its optimum, with formula, error model and number of points?"
    fits = data.verdict.fits
    if not fits:
        return Item(question=question, answer="does not apply", evidence="nothing was fitted")
    certified = sum(fit.certificate is not None and fit.certificate.converged for fit in fits)
    linear = sum(fit.certificate is None for fit in fits)
    evidence = f"{certified} of {len(fits)} with a certificate"
    if linear:
        evidence += f", {linear} without one"
    answer: Answer = "yes" if certified == len(fits) else "partly" if certified else "no"
    return Item(question=question, answer=answer, evidence=evidence)


def _exclusions(data: StudyData) -> Item:
    question = "Is everything that was left out listed with its reason?"
    left_out = [*data.verdict.exclusions, *(item for fit in data.verdict.fits for item in fit.exclusions)]
    bare = sum(not item.reason.strip() for item in left_out)
    if not left_out:
        return Item(question=question, answer="yes", evidence="nothing was left out")
    return Item(question=question, answer="no" if bare else "yes", evidence=f"{len(left_out)} listed")


def _unresolved(data: StudyData) -> Item:
    question = "Does each open question say what would settle it?"
    open_statements = [s for s in data.verdict.statements if s.outcome == "cannot tell"]
    if not open_statements:
        return Item(question=question, answer="does not apply", evidence="every statement was settled")
    said = sum(bool(statement.settle) for statement in open_statements)
    answer: Answer = "yes" if said == len(open_statements) else "no"
    return Item(question=question, answer=answer, evidence=f"{said} of {len(open_statements)}")


def _ledger(data: StudyData) -> Item:
    """The verdict's cost must be the sum over the runs' attempts, with or without runs taken from elsewhere."""
    question = "Does the ledger balance: is the cost the sum over all attempts?"
    cost = data.verdict.cost
    records = [run.record for run in data.runs if run.record is not None]
    if cost is None or not records:
        return Item(question=question, answer="does not apply", evidence="no cost was recorded")
    here = sum(record.flops_spent for record in records if not record.reused_from)
    everything = sum(record.flops_spent for record in records)
    balanced = any(math.isclose(cost.spent_flops, total, rel_tol=1e-9) for total in (here, everything))
    evidence = f"ledger {flops(cost.spent_flops)}, attempts {flops(everything)} FLOPs"
    if not math.isclose(here, everything, rel_tol=1e-9):
        evidence += f", of which {flops(here)} here"
    return Item(question=question, answer="yes" if balanced else "no", evidence=evidence)


def _code(data: StudyData) -> Item:
    question = "Is the code version named, without uncommitted changes?"
    made = data.verdict.provenance or data.plan.provenance
    if made is None or made.commit is None:
        version = f"isoflop {made.isoflop}, no commit recorded" if made else "no provenance recorded"
        return Item(question=question, answer="partly" if made else "no", evidence=version)
    state = "unknown state" if made.dirty is None else "with changes" if made.dirty else "clean"
    answer: Answer = "yes" if made.dirty is False else "partly"
    return Item(question=question, answer=answer, evidence=f"commit {made.commit[:12]}, {state}")


def _one_version(data: StudyData) -> Item:
    question = "Did all runs use the same versions and device?"
    kinds = {_made_with(run.record.provenance) for run in data.runs if run.record is not None}
    if not kinds:
        return Item(question=question, answer="does not apply", evidence="nothing was trained here")
    answer: Answer = "yes" if len(kinds) == 1 else "no"
    return Item(question=question, answer=answer, evidence="; ".join(sorted(kinds)))


def _made_with(made: Provenance) -> str:
    torch = f", PyTorch {made.torch}" if made.torch else ""
    commit = f", commit {made.commit[:8]}" if made.commit else ""
    return f"isoflop {made.isoflop}, Python {made.python}{torch}{commit}, {made.device}"
