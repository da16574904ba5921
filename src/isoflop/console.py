"""What people read in the terminal: plans, progress, verdicts, tables. Numbers come from records alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop import units
from isoflop.records import Cost, Estimate, Plan, RunSpec, Verdict
from isoflop.store import RunFolder, Store

if TYPE_CHECKING:
    from isoflop.train.fleet import FleetEvent
    from isoflop.verbs import StudyRun

WIDTH = 100


def table_text(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, left: int = 1) -> str:
    """Columns aligned with spaces; the first `left` columns to the left, the rest to the right."""
    columns = list(zip(head, *rows, strict=True)) if rows else [(title,) for title in head]
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells: tuple[str, ...]) -> str:
        parts = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  " + "  ".join(parts).rstrip()

    return "\n".join([line(head), "  " + "  ".join("-" * width for width in widths), *map(line, rows)])


def wrap(text: str, *, indent: str = "", first: str | None = None) -> str:
    """Text in lines of at most 100 characters."""
    import textwrap

    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
    )


# ------------------------------------------------------------------------------------------- plan


def plan_text(plan: Plan, *, every_run: bool = False) -> str:
    """The plan before anything is spent: runs, predicted losses, cost, rule, assumptions."""
    points = [run for run in plan.runs if run.spec.evaluate is not None]
    trunks = [run for run in plan.runs if run.spec.evaluate is None]
    wall = (
        "" if plan.planned_seconds is None else f", about {units.format_seconds(plan.planned_seconds)} here"
    )
    lines = [
        wrap(plan.question, first="question   ", indent="           "),
        f"budget     {plan.budget.text}",
        f"runs       {len(points)} scored points on {len(trunks)} trunks, seeds {', '.join(map(str, plan.seeds))}",
        f"cost       {units.format_flops(plan.planned_flops.flops)} ({plan.planned_flops.convention}){wall}",
        "",
        _rung_table(plan) if not every_run else _run_table(plan),
        "",
        wrap(plan.rule.text, first="rule       ", indent="           "),
        *[
            wrap(text, first=f"           {number}. ", indent="              ")
            for number, text in enumerate(plan.rule.statements, start=1)
        ],
    ]
    if every_run:
        lines += ["", "assumptions"]
        lines += [wrap(text, first="  - ", indent="    ") for text in plan.assumptions]
        lines += [wrap(f"left out: {text}", first="  - ", indent="    ") for text in plan.notes]
    return "\n".join(lines)


def _rung_table(plan: Plan) -> str:
    rungs: dict[float, list[Any]] = {}
    for run in plan.runs:
        budget = run.spec.labels.get("budget")
        if isinstance(budget, float):
            rungs.setdefault(budget, []).append(run)
    rows = []
    for budget, runs in sorted(rungs.items()):
        sizes = list(dict.fromkeys(run.spec.net.words for run in runs))
        losses = [run.predicted_loss.value for run in runs if run.predicted_loss and run.predicted_loss.value]
        steps = [run.spec.num_steps for run in runs]
        expected = f"{min(losses):.2f} to {max(losses):.2f}" if losses else "not predicted"
        rows.append((units.format_flops(budget), " ".join(sizes), f"{min(steps)} to {max(steps)}", expected))
    return table_text(("each model gets", "sizes (width x depth)", "steps", "loss expected"), rows, left=2)


def _run_table(plan: Plan) -> str:
    rows = []
    for run in plan.runs:
        expected = "" if run.predicted_loss is None else _interval(run.predicted_loss, ".2f")
        seconds = "" if run.cost_seconds is None else f"{run.cost_seconds:.1f}"
        cost = units.format_flops(run.cost_flops)
        rows.append(
            (
                run.spec.name,
                str(run.spec.num_steps),
                f"{run.spec.optimizer.peak_lr:.4f}",
                cost,
                seconds,
                expected,
            )
        )
    return table_text(("run", "steps", "peak lr", "adds", "seconds", "loss expected"), rows)


def _interval(estimate: Estimate, spec: str) -> str:
    if estimate.value is None:
        return "undefined"
    lo = "open" if estimate.lo is None else format(estimate.lo, spec)
    hi = "open" if estimate.hi is None else format(estimate.hi, spec)
    return f"{estimate.value:{spec}} ({lo} to {hi})"


# --------------------------------------------------------------------------------------- progress


class FleetProgress:
    """Shows a fleet at work: runs done, last losses, FLOPs spent and left, time.

    One live line on a terminal; elsewhere a plain line every `every_s` seconds. Call it with each
    `FleetEvent`; `begin` before the first and `close` after the last.
    """

    def __init__(self, every_s: float = 15.0) -> None:
        self.every_s = every_s
        self.total_flops = 0.0
        self.total_runs = 0
        self.expected_s: float | None = None
        self._started = time.monotonic()
        self._said = 0.0
        self._spent: dict[str, float] = {}
        self._done: set[str] = set()
        self._last = ""
        self._live = sys.stderr.isatty()

    def begin(self, plan: Plan) -> None:
        """Take the totals from the plan and start the clock."""
        self.total_flops = plan.planned_flops.flops
        self.total_runs = len(plan.runs)
        self.expected_s = plan.planned_seconds
        self._started = self._said = time.monotonic()

    def __call__(self, event: FleetEvent) -> None:
        """Take note of an event and show the state when it is time."""
        self._spent[event.fingerprint] = max(self._spent.get(event.fingerprint, 0.0), event.flops)
        if event.loss_nats is not None:
            self._last = f"{event.name}: {event.loss_nats:.3f} nats"
        if event.kind in ("finished", "diverged", "failed", "cut", "reused"):
            self._done.add(event.fingerprint)
        if event.kind in ("diverged", "failed", "killed", "cut", "stopped"):
            self._line(f"{event.name}: {event.kind}{f' ({event.reason})' if event.reason else ''}")
        now = time.monotonic()
        if self._live and now - self._said > 0.2:
            sys.stderr.write("\r\x1b[2K" + self.state()[: WIDTH + 20])
            sys.stderr.flush()
            self._said = now
        elif not self._live and now - self._said > self.every_s:
            self._line(self.state())
            self._said = now

    def state(self) -> str:
        """One line: what is done, what is spent, what is left."""
        spent = sum(self._spent.values())
        elapsed = time.monotonic() - self._started
        share = spent / self.total_flops if self.total_flops else 0.0
        left = "time left not known yet"
        if share > 0.02:
            left = f"about {units.format_seconds(elapsed * (1 - share) / share)} left"
        return (
            f"{len(self._done)}/{self.total_runs} runs | {share:.0%} of {units.format_flops(self.total_flops)} spent | "
            f"{units.format_seconds(elapsed)} gone, {left} | {self._last}"
        )

    def _line(self, text: str) -> None:
        sys.stderr.write(("\r\x1b[2K" if self._live else "") + text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the live line."""
        if self._live and self._spent:
            self._line(self.state())


# ---------------------------------------------------------------------------------------- verdict

MARKS = {"supported": "SUPPORTED", "contradicted": "CONTRADICTED", "cannot tell": "CANNOT TELL"}


def verdict_text(verdict: Verdict) -> str:
    """The verdict first, then its statements, and what was not resolved."""
    lines = [wrap(verdict.sentence, first=f"{MARKS[verdict.outcome]}: ", indent="  "), ""]
    for number, statement in enumerate(verdict.statements, start=1):
        lines.append(wrap(f"{statement.text}", first=f"  {number}. ", indent="     "))
        lines.append(wrap(f"{statement.outcome}: {statement.because}", first="     -> ", indent="        "))
        if statement.settle:
            lines.append(wrap(f"would settle it: {statement.settle}", first="        ", indent="        "))
    if verdict.effect:
        lines += ["", wrap(verdict.effect, first="  ", indent="  ")]
    for text in verdict.limits:
        lines.append(wrap(text, first="  limit: ", indent="         "))
    if verdict.exclusions:
        lines.append(f"  left out: {len(verdict.exclusions)} (each with its reason in the report)")
    return "\n".join(lines)


def study_text(answer: StudyRun) -> str:
    """What `isoflop run` ends with."""
    verdict = answer.verdict
    lines = ["", verdict_text(verdict), ""]
    if verdict.cost is not None:
        lines.append(ledger_text(verdict.cost))
    trained = f"{answer.num_trained} runs trained" if answer.num_trained else "nothing had to be trained"
    lines.append(f"  {trained}; {units.format_seconds(answer.seconds)} in all")
    lines.append(f"report: {answer.report}")
    return "\n".join(lines)


def ledger_text(cost: Cost) -> str:
    """Planned, spent, wasted: FLOPs under their convention and worker-seconds."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    def flops(value: float | None) -> str:
        return "-" if value is None else units.format_flops(value)

    rows = [
        ("planned", flops(cost.planned_flops), seconds(cost.planned_seconds)),
        ("spent", flops(cost.spent_flops), seconds(cost.spent_seconds)),
        ("of it wasted", flops(cost.wasted_flops), seconds(cost.wasted_seconds)),
    ]
    text = table_text(("ledger", f"FLOPs ({cost.convention})", "worker-seconds"), rows)
    return text + (
        f"\n  {cost.reused_runs} runs were taken from an earlier folder" if cost.reused_runs else ""
    )


# ----------------------------------------------------------------------------------- lists of things


def study_rows() -> list[dict[str, Any]]:
    """One row a study: name, claims, question, cost, and the last verdict in ./results or ./out."""
    from isoflop.studies.study import find, names

    rows = []
    for name in names():
        study = find(name)
        last = next(
            (v for v in (_verdict_in(Path(folder) / name) for folder in ("out", "results")) if v), None
        )
        rows.append(
            {
                "name": name,
                "claims": list(study.claims),
                "question": study.question,
                "cost": study.cost,
                "verdict": last.outcome if last else None,
                "sentence": last.sentence if last else None,
            }
        )
    return rows


def _verdict_in(folder: Path) -> Verdict | None:
    store = Store(folder)
    return store.read_verdict() if store.verdict_path.exists() else None


def studies_text(rows: list[dict[str, Any]]) -> str:
    """The list of studies for people."""
    lines = []
    for row in rows:
        lines.append(f"{row['name']}  ({', '.join(row['claims'])})")
        lines.append(wrap(row["question"], first="  ", indent="  "))
        lines.append(wrap(f"cost: {row['cost']}", first="  ", indent="  "))
        lines.append(wrap(f"last verdict: {row['sentence'] or 'none yet'}", first="  ", indent="  "))
    return "\n".join(lines)


def status_rows(out: Path) -> list[dict[str, Any]]:
    """One row a planned run: its state, how far it is, its last loss."""
    store = Store(out)
    rows = []
    for planned in store.read_plan().runs:
        folder = store.run(planned.spec)
        if folder.finished:
            record = folder.read_record()
            scores = folder.read_measurements()
            state, step = str(record.status), record.num_steps
            loss = scores[-1].loss.value if scores else record.final_train_loss_nats
        else:
            metrics = [row for row in folder.read_metrics() if "step" in row]
            state = "started" if metrics else "waiting"
            step = int(metrics[-1]["step"]) if metrics else planned.spec.start_step
            loss = metrics[-1].get("loss_nats") if metrics else None
        rows.append(
            {
                "run": planned.spec.name,
                "state": state,
                "step": step,
                "steps": planned.spec.num_steps,
                "loss_nats": loss,
                "tokens_per_s": _recent_rate(folder, planned.spec),
            }
        )
    return rows


def _recent_rate(folder: RunFolder, spec: RunSpec) -> float | None:
    """Tokens per second over the last tenth of the rows of metrics; None before there are two."""
    rows = [row for row in folder.read_metrics() if row.get("seconds") is not None]
    if len(rows) < 2:
        return None
    first, last = rows[-max(2, len(rows) // 10)], rows[-1]
    took = last["seconds"] - first["seconds"]
    return (last["step"] - first["step"]) * spec.batch_seqs * spec.data.context / took if took > 0 else None


def status_text(rows: list[dict[str, Any]]) -> str:
    """The state of each run, and a count on top."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    cells = [
        (
            row["run"],
            row["state"],
            f"{row['step']}/{row['steps']}",
            "" if row["loss_nats"] is None else f"{row['loss_nats']:.4f}",
            "" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:,.0f}",
        )
        for row in rows
    ]
    head = ("run", "state", "step", "loss", "tokens/s")
    return f"{len(rows)} runs: {summary}\n" + table_text(head, cells, left=2)
