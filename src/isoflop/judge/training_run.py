"""One large training run judged and laid out: what it learned of each source, what it cost, how fast it was.

    plan + runs (metrics, scores of each source, attempts) -> Verdict with its tables and figures

A run of a recipe may be a chain of sessions; they are read as one. The rule is in the plan: paired
differences of held-out bits per byte, source by source. MFU is tokens per second times training FLOPs per
token over the devices' dense peak; on a processor, for which no peak is listed, over the rate of a large
matrix product that was measured beside the run. Left out: benchmarks, which are compared item by item
(`isoflop compare`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Exclusion,
    Figure,
    Measurement,
    Outcome,
    Plan,
    RunEvidence,
    Scalar,
    SourceScores,
    Statement,
    Table,
    Verdict,
)
from isoflop.units import format_bytes, format_count, format_flops, format_seconds

STATEMENT = "{name} is predicted better after the run than before."
FINE_STEPS, COARSE_BINS = 100, 10
"""Losses are shown as means of so many updates (of fewer in a short run), and in so many equal parts."""
FEWEST_FINE_BINS = 20
BENCHMARKS, LEFT_OUT = "benchmarks", "left_out"
"""Names of the caller's tables of benchmark scores and of text that was not read, where there are any."""
PANELS = {"lr": "Learning rate", "grad_norm": "Gradient norm", "tokens_per_s": "Tokens per second"}
"""Keys of a row of metrics, and the titles of their panels."""
MFU_FORMULA = "MFU = tokens/s x training FLOPs per token / (devices x dense peak FLOP/s of one)"


class TrainingRunError(ValueError):
    """These records are no finished run of a recipe; the message says what is missing."""


def judge_training_run(evidence: Evidence, *, tables: Sequence[Table] = ()) -> Verdict:
    """Judge the run of a recipe by the rule in its plan.

    Args:
        evidence: the plan and its runs in order, with metrics and source scores.
        tables: made beforehand and shown with the verdict (what is read of each source).

    Raises TrainingRunError when a run has not ended, or nothing was scored before and after.
    """
    plan = evidence.plan
    if plan is None or not evidence.runs:
        raise TrainingRunError("no plan with a run: train the recipe first")
    open_runs = [run.spec.name for run in evidence.runs if run.record is None]
    failed = [run for run in evidence.runs if run.record is not None and run.record.status != "finished"]
    if open_runs and not failed:
        raise TrainingRunError(f"{open_runs[0]} has not ended; go on with {plan.rerun or 'the same command'}")
    whole = _Whole.of(plan, evidence.runs)
    changes = whole.changes()
    statements = tuple(_statement(change) for change in changes)
    outcome = _outcome(statements, failed)
    shown = (whole.facts_table(), _scores_table(whole.scores), *tables, *whole.curve_tables())
    return Verdict(
        study=plan.study,
        question=plan.question,
        outcome=outcome,
        sentence=_sentence(whole, changes, failed),
        statements=statements,
        effect=whole.effect(),
        settle=_settle(outcome, failed),
        unresolved=(
            "what the run forgot of text outside its mixture: nothing outside it was scored",
            *(() if any(table.name == BENCHMARKS for table in tables) else ("no benchmark was scored",)),
        ),
        limits=(
            "the intervals are those of sampling held-out windows; one seed, so nothing is said of other starts",
            "speed is what this machine gave beside whatever else it did",
            *(() if whole.mfu() else ("no peak rate is known for this device, so MFU is undefined",)),
        ),
        tables=tuple(table for table in shown if table.rows and table.name != LEFT_OUT),
        figures=whole.figures(),
        exclusions=(*whole.exclusions(), *_left_out(tables)),
        plan_fingerprint=plan.fingerprint(),
        summary=whole.summary(changes),
    )


# ----------------------------------------------------------------------------- the run as one thing


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One source before and after."""

    name: str
    before: Measurement
    after: Measurement
    difference: Estimate
    """Bits per byte, after less before; the interval holds for all sources together."""


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """A run, or a chain of sessions read as one.

    Attributes:
        rows: of metrics, in order of steps, each with the step and the seconds at which it began.
        scores: of the sources, in order of steps.
    """

    plan: Plan
    runs: tuple[RunEvidence, ...]
    rows: tuple[dict[str, Any], ...]
    scores: tuple[SourceScores, ...]

    @classmethod
    def of(cls, plan: Plan, runs: Sequence[RunEvidence]) -> _Whole:
        rows: list[dict[str, Any]] = []
        scores: dict[int, SourceScores] = {}
        for run in runs:
            step, seconds = run.spec.start_step, 0.0
            for row in run.metrics:
                if row.get("loss_nats") is None:
                    continue
                rows.append({**row, "from_step": step, "took": row["seconds"] - seconds})
                step, seconds = row["step"], row["seconds"]
            scores.update({one.step: one for one in run.source_scores})
        return cls(
            plan=plan, runs=tuple(runs), rows=tuple(rows), scores=tuple(scores[s] for s in sorted(scores))
        )

    @property
    def last(self) -> RunEvidence:
        return self.runs[-1]

    @property
    def tokens_per_step(self) -> int:
        return self.last.spec.batch_seqs * self.last.spec.data.context

    @property
    def steps(self) -> int:
        return max((run.record.num_steps for run in self.runs if run.record is not None), default=0)

    @property
    def seconds(self) -> float:
        """Of all attempts, scoring and saving included."""
        return sum(run.record.seconds_spent for run in self.runs if run.record is not None)

    def changes(self) -> tuple[_Change, ...]:
        """Each source that was scored before the first and after the last update."""
        if len(self.scores) < 2:
            return ()
        first = {score.name: score for score in self.scores[0].scores}
        last = {score.name: score for score in self.scores[-1].scores}
        both = [name for name in first if name in last]
        parameters = self.plan.rule.parameters
        level = float(parameters.get("level") or 0.95)
        return tuple(
            _Change(
                name=name,
                before=first[name],
                after=last[name],
                difference=paired_difference(first[name], last[name], round(1 - (1 - level) / len(both), 4)),
            )
            for name in both
        )

    # ------------------------------------------------------------------------------------- speed

    def rate(self) -> float | None:
        """Tokens per second while stepping: the median over rows, so that scores and saves do not count."""
        rates = [
            (row["step"] - row["from_step"]) * self.tokens_per_step / row["took"]
            for row in self.rows
            if row["took"] > 0
        ]
        return statistics.median(rates) if rates else None

    @property
    def flops_per_token(self) -> float:
        spec = self.last.spec
        return spec.train_flops.flops / spec.tokens

    @property
    def devices(self) -> int:
        return int(self.plan.options.get("num_devices") or 1)

    def peak(self) -> tuple[float, str] | None:
        """FLOP/s of one device that MFU is a share of, and where it is from."""
        listed = self.plan.options.get("peak_flops_per_s")
        if listed:
            return float(listed), "dense bf16 peak as the maker gives it"
        measured = [one.matmul_flops_per_s for one in self.scores if one.matmul_flops_per_s]
        if not measured:
            return None
        return max(measured), f"a dense fp32 product of 1,024 x 1,024, best of {len(measured)} moments"

    def mfu(self) -> float | None:
        rate, peak = self.rate(), self.peak()
        if rate is None or peak is None:
            return None
        return rate * self.flops_per_token / (self.devices * peak[0])

    # -------------------------------------------------------------------------------- in words

    def effect(self) -> str:
        spec, rate = self.last.spec, self.rate()
        attempts = sum(len(run.record.attempts) for run in self.runs if run.record is not None)
        tokens = format_count(self.steps * self.tokens_per_step)
        words = [
            f"{self.steps:,} updates of {self.tokens_per_step:,} tokens, {tokens} tokens and "
            f"{format_flops(spec.train_flops.flops * self.steps / spec.num_steps)} in all",
            f"{format_seconds(self.seconds)} in {attempts} attempt{'s' if attempts > 1 else ''}",
        ]
        if rate is not None:
            words.append(f"{rate:,.0f} tokens/s while stepping")
        mfu = self.mfu()
        if mfu is not None:
            words.append(f"{mfu:.1%} MFU")
        return "; ".join(words) + "."

    def exclusions(self) -> tuple[Exclusion, ...]:
        found = dict.fromkeys(
            (left.what, f"not scored: {left.reason}") for one in self.scores for left in one.without
        )
        return tuple(Exclusion(what=what, reason=reason) for what, reason in found)

    def summary(self, changes: Sequence[_Change]) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "tokens": self.steps * self.tokens_per_step,
            "tokens_per_s": self.rate(),
            "mfu": self.mfu(),
            "bits_per_byte": {
                change.name: {
                    "before": change.before.bits_per_byte.value,
                    "after": change.after.bits_per_byte.value,
                }
                for change in changes
            },
        }

    # ------------------------------------------------------------------------------------ tables

    def facts_table(self) -> Table:
        """What a reader asks first: one row per quantity, with how it was counted."""
        spec = self.last.spec
        records = [run.record for run in self.runs if run.record is not None]
        attempts = [attempt for record in records for attempt in record.attempts]
        spent, wasted = sum(a.flops for a in attempts), sum(a.flops_wasted for a in attempts)
        convention = spec.train_flops.convention
        rate, peak, mfu = self.rate(), self.peak(), self.mfu()
        memory = max((one.peak_memory_bytes or 0 for one in self.scores), default=0)
        norms = [row["grad_norm"] for row in self.rows if row.get("grad_norm") is not None]
        planned = self.plan.options.get("planned_bytes_per_device")
        ended = ", ".join(f"{attempt.ended} at step {attempt.last_step:,}" for attempt in attempts[-8:])
        rows: list[tuple[Scalar, ...]] = [
            (
                "tokens",
                f"{self.steps * self.tokens_per_step:,}",
                f"{self.steps:,} x {self.tokens_per_step:,}",
            ),
            ("FLOPs of all steps that count", format_flops(spent - wasted), convention),
            (
                "FLOPs wasted",
                format_flops(wasted) if wasted else "none",
                "steps that a later attempt had to do again",
            ),
            ("attempts", f"{len(attempts)}", ended),
            ("time", format_seconds(self.seconds), "of all attempts, scoring and saving included"),
            (
                "throughput",
                "" if rate is None else f"{rate:,.0f} tokens/s",
                "median over the rows of metrics, so without scoring and saving",
            ),
            (
                "FLOPs per token",
                format_flops(self.flops_per_token),
                f"{convention}: 6 x matrix parameters + 12 x layers x heads x head size x context",
            ),
            (
                "peak of one device",
                "not known" if peak is None else f"{peak[0] / 1e9:,.0f} GFLOP/s",
                f"{self.devices} device{'s' if self.devices > 1 else ''}"
                + ("" if peak is None else f"; {peak[1]}"),
            ),
            ("MFU", "undefined" if mfu is None else f"{mfu:.1%}", MFU_FORMULA),
            (
                "memory",
                format_bytes(memory) if memory else "not measured",
                "most that one process held, interpreter and libraries included"
                + (f"; a step alone was planned to take {format_bytes(float(planned))}" if planned else ""),
            ),
            (
                "gradient norm",
                f"{statistics.median(norms):.3g}" if norms else "not measured",
                f"median; largest {max(norms):.3g}; clipped at {spec.optimizer.grad_clip}" if norms else "",
            ),
            (
                "learning rate",
                f"{spec.optimizer.peak_lr:g}",
                f"peak of the schedule {spec.schedule.kind}, {spec.schedule.warmup_steps} updates of warm-up",
            ),
        ]
        return Table(
            name="run_facts",
            title="The run in figures",
            columns=(
                Column(name="what", title="what"),
                Column(name="value", title="value"),
                Column(name="how", title="how"),
            ),
            rows=tuple(rows),
        )

    def curve_tables(self) -> tuple[Table, ...]:
        """What the figures draw: losses in fine and coarse bins, bits per byte, and three rows of metrics."""
        fine, coarse = self.fine_bins(), _binned(self.rows, max(1, math.ceil(self.steps / COARSE_BINS)))
        width = self.fine_width()
        tables = [
            _curve_table(
                "loss_bins",
                "Training loss, nats per token",
                [(_updates(width), step, loss, "line") for step, loss in fine]
                + [(f"{len(coarse)} equal parts", step, loss, "points") for step, loss in coarse],
            ),
            _curve_table(
                "bits_per_byte",
                "Held-out bits per byte of each source",
                [
                    (score.name, one.step, score.bits_per_byte.value, role)
                    for name in self._names()
                    for role in ("line", "points")
                    for one in self.scores
                    for score in one.scores
                    if score.name == name
                ],
            ),
        ]
        return (*tables, self._panel_table())

    def _panel_table(self) -> Table:
        """Three rows of metrics, for small multiples."""
        return Table(
            name="metrics",
            title="Learning rate, gradient norm and throughput",
            columns=(
                Column(name="panel", title="what"),
                Column(name="series", title="series"),
                Column(name="x", title="updates", format="{:,d}"),
                Column(name="y", title="value", format="{:.5g}"),
                Column(name="lo", title="low"),
                Column(name="hi", title="high"),
                Column(name="role", title="drawn as"),
            ),
            rows=tuple(
                (title, "each row of metrics", row["step"], self._value(row, key), None, None, "line")
                for key, title in PANELS.items()
                for row in self.rows
            ),
            note="Norms are means since the row before, before clipping; throughput is that between two rows.",
        )

    def _value(self, row: dict[str, Any], key: str) -> float | None:
        if key != "tokens_per_s":
            value: float | None = row.get(key)
            return value
        steps = row["step"] - row["from_step"]
        return steps * self.tokens_per_step / row["took"] if row["took"] > 0 else None

    def _names(self) -> list[str]:
        return list(dict.fromkeys(score.name for one in self.scores for score in one.scores))

    def fine_width(self) -> int:
        """Updates of a fine bin: a hundred, or a twentieth of a short run."""
        return max(1, min(FINE_STEPS, self.steps // FEWEST_FINE_BINS))

    def fine_bins(self) -> list[tuple[float, float]]:
        return _binned(self.rows, self.fine_width())

    def figures(self) -> tuple[Figure, ...]:
        if not self.rows:
            return ()
        fine = self.fine_bins()
        found = [
            _figure(
                "loss_bins",
                "Training loss",
                f"Line: {_updates(self.fine_width())}. Points: means of {COARSE_BINS} equal parts of the run.",
                f"Training loss falls from {fine[0][1]:.2f} to {fine[-1][1]:.2f} nats per token over {self.steps:,} "
                "updates."
                if fine[-1][1] < fine[0][1]
                else f"Training loss goes from {fine[0][1]:.2f} to {fine[-1][1]:.2f} nats per token.",
                "nats per token",
            )
        ]
        if len(self.scores) > 1:
            found.append(
                _figure(
                    "bits_per_byte",
                    "Bits per byte of each source's held-out text",
                    "The same windows at every step. Intervals are in the table of scores.",
                    f"Held-out bits per byte of {len(self._names())} sources over the updates.",
                    "bits per byte",
                )
            )
        found.append(
            Figure(
                name="metrics",
                kind="panels",
                title="Learning rate, gradient norm and throughput",
                caption="At each row of metrics. A dip of the throughput is a score or a checkpoint.",
                alt="Three small panels over the updates: learning rate, gradient norm, tokens per second.",
                tables=("metrics",),
                options={"per_row": 3, "x_title": "Updates"},
            )
        )
        return tuple(found)


def _left_out(tables: Sequence[Table]) -> tuple[Exclusion, ...]:
    """Text that was not read, from the table of it."""
    return tuple(
        Exclusion(what=f"{row[0]}: {row[1]}", reason=str(row[2]))
        for table in tables
        if table.name == LEFT_OUT
        for row in table.rows
    )


def _updates(width: int) -> str:
    return "each update" if width == 1 else f"mean of {width:,} updates"


def _figure(name: str, title: str, caption: str, alt: str, unit: str) -> Figure:
    return Figure(
        name=name,
        kind="curves",
        title=title,
        caption=caption,
        alt=alt,
        tables=(name,),
        options={"x_title": "Updates", "y_title": unit},
    )


def _curve_table(
    name: str, title: str, rows: Sequence[tuple[str, float, float | None, str]], note: str = ""
) -> Table:
    return Table(
        name=name,
        title=title,
        columns=(
            Column(name="series", title="series"),
            Column(name="x", title="updates", format="{:,.7g}"),
            Column(name="y", title="value", format="{:.5g}"),
            Column(name="lo", title="low"),
            Column(name="hi", title="high"),
            Column(name="role", title="drawn as"),
        ),
        rows=tuple((series, x, y, None, None, role) for series, x, y, role in rows),
        note=note,
    )


def _binned(rows: Sequence[dict[str, Any]], width: int) -> list[tuple[float, float]]:
    """(middle, mean loss) of each bin of so many updates; a row counts by its updates."""
    total: dict[int, float] = {}
    count: dict[int, int] = {}
    first: dict[int, int] = {}
    for row in rows:
        index = (row["step"] - 1) // width
        steps = row["step"] - row["from_step"]
        total[index] = total.get(index, 0.0) + row["loss_nats"] * steps
        count[index] = count.get(index, 0) + steps
        first.setdefault(index, row["from_step"] + 1)
    return [(first[index] + (count[index] - 1) / 2, total[index] / count[index]) for index in sorted(total)]


def _scores_table(scores: Sequence[SourceScores]) -> Table:
    return Table(
        name="source_scores",
        title="Each source's held-out text, before, on the way and at the end",
        columns=(
            Column(name="source", title="source"),
            Column(name="step", title="updates", format="{:,d}"),
            Column(name="bits_per_byte", title="bits per byte", format="{:.4f}"),
            Column(name="lo", title="low", format="{:.4f}"),
            Column(name="hi", title="high", format="{:.4f}"),
            Column(name="nats", title="loss", unit="nats/token", format="{:.4f}"),
            Column(name="windows_bytes", title="text", unit="bytes", format="{:,d}"),
        ),
        rows=tuple(
            (
                score.name,
                one.step,
                score.bits_per_byte.value,
                score.bits_per_byte.lo,
                score.bits_per_byte.hi,
                score.loss.value,
                score.num_bytes,
            )
            for name in dict.fromkeys(score.name for one in scores for score in one.scores)
            for one in scores
            for score in one.scores
            if score.name == name
        ),
        note="Low and high are the 95 % interval of sampling windows, unpaired; before and after share their windows "
        "and are compared in pairs, under Statements.",
    )


# ------------------------------------------------------------------------------------- statements


def paired_difference(before: Measurement, after: Measurement, level: float) -> Estimate:
    """Bits per byte after less before, on the same windows.

    The mean over groups of neighbouring windows, weighted by their tokens, with the linearised error of a
    ratio (Cochran 1977, section 6.3) and t on groups - 1 degrees of freedom.

    Args:
        before, after: of the same windows.
        level: of the interval, in (0, 1).

    Raises TrainingRunError when the windows differ.
    """
    from scipy.special import stdtrit

    if (before.group_tokens, before.num_bytes) != (after.group_tokens, after.num_bytes):
        raise TrainingRunError(f"{before.name} was scored on different windows at different steps")
    tokens = np.array(before.group_tokens, dtype=float)
    share = tokens / tokens.sum()
    differences = np.array(after.group_nats) - np.array(before.group_nats)
    to_bits = float(tokens.sum()) / (before.num_bytes * math.log(2))
    mean, count = float(share @ differences), len(differences)
    method = f"t over {count} groups of validation windows, paired"
    if count < 2:
        return Estimate(value=mean * to_bits, unit="bits/byte", reason="one group of windows shows no spread")
    spread = share * (differences - mean)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * math.sqrt(
        count / (count - 1) * float(spread @ spread)
    )
    return Estimate(
        value=mean * to_bits,
        unit="bits/byte",
        lo=(mean - half) * to_bits,
        hi=(mean + half) * to_bits,
        level=level,
        method=method,
    )


def _statement(change: _Change) -> Statement:
    found = change.difference
    before, after = change.before.bits_per_byte.value, change.after.bits_per_byte.value
    because = f"from {before:.3f} to {after:.3f} bits per byte"
    settle = None
    outcome: Outcome = "cannot tell"
    if found.lo is not None and found.hi is not None:
        because += f": {found.value:+.3f} ({found.lo:+.3f} to {found.hi:+.3f})"
        outcome = "supported" if found.hi < 0 else "contradicted" if found.lo > 0 else "cannot tell"
    if outcome == "cannot tell":
        settle = "more held-out windows of this source, or more updates"
    return Statement(
        text=STATEMENT.format(name=change.name),
        outcome=outcome,
        because=because,
        estimate=found,
        settle=settle,
    )


def _outcome(statements: Sequence[Statement], failed: Sequence[RunEvidence]) -> Outcome:
    outcomes = {statement.outcome for statement in statements}
    if failed or not outcomes:
        return "cannot tell"
    if "contradicted" in outcomes:
        return "contradicted"
    return "supported" if outcomes == {"supported"} else "cannot tell"


def _settle(outcome: Outcome, failed: Sequence[RunEvidence]) -> str | None:
    if failed:
        return "a run that comes to its end"
    return None if outcome != "cannot tell" else "held-out text of every source, enough of it for an interval"


def _sentence(whole: _Whole, changes: Sequence[_Change], failed: Sequence[RunEvidence]) -> str:
    if failed:
        record = failed[0].record
        assert record is not None
        return f"{record.name} ended as {record.status}: {record.reason}."
    tokens = f"{format_count(whole.steps * whole.tokens_per_step)} tokens"
    if not changes:
        return (
            f"{whole.steps:,} updates on {tokens} were trained, and no source holds out text to score it on."
        )
    better = sum(1 for change in changes if change.difference.hi is not None and change.difference.hi < 0)
    before = statistics.mean(change.before.bits_per_byte.value or 0.0 for change in changes)
    after = statistics.mean(change.after.bits_per_byte.value or 0.0 for change in changes)
    return (
        f"After {whole.steps:,} updates on {tokens}, held-out text of {better} of {len(changes)} sources is predicted "
        f"better: {before:.2f} bits per byte before and {after:.2f} after, on average."
    )
