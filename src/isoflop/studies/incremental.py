"""Do many tiny improvements make the progress, or a few big ones?

Claim P20.1: a hundred ideas worth a tenth of a percent each would multiply to ten percent, and even half of
them at half their worth would be felt. The one public record of such a process is the NanoGPT speedrun: the
time to train a small language model to a fixed loss on fixed hardware, record after record.
Prediction: the gains are heavy-tailed, so both are true: a few records hold most of the log speed-up, and
the small ones still multiply to a factor of more than two.
Command: ``isoflop run incremental``. Cost: none, the record times are quoted here.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

from isoflop.records import Column, Estimate, Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Do many tiny improvements make the progress, or a few big ones?"
SOURCE = (
    "KellerJordan/modded-nanogpt, README.md, table of world records, track 1: records 1 to 60 at commit e7a55f1, 61 to "
    "89 as of 17 July 2026"
)

MINUTES: tuple[float, ...] = (
    45, 31.4, 24.9, 22.3, 15.2, 13.1, 12.0, 10.8, 8.2, 7.8, 7.2, 5.03, 4.66, 4.41, 3.95, 3.80, 3.57, 3.4, 3.142,
    2.992, 2.933, 2.990, 2.979, 2.966, 2.896, 2.863, 2.817, 2.812, 2.731, 2.717, 2.656, 2.625, 2.565, 2.547, 2.527,
    2.495, 2.483, 2.476, 2.447, 2.358, 2.345, 2.313, 2.284, 2.269, 2.248, 2.203, 2.193, 2.170, 2.146, 2.128, 2.075,
    2.037, 1.988, 1.940, 1.918, 1.894, 1.878, 1.820, 1.781, 1.765, 1.748, 1.655, 1.650, 1.630, 1.613, 1.595, 1.540,
    1.535, 1.528, 1.521, 1.516, 1.496, 1.485, 1.468, 1.453, 1.446, 1.435, 1.426, 1.411, 1.406, 1.363, 1.353, 1.328,
    1.320, 1.271, 1.266, 1.256, 1.243, 1.23,
)  # fmt: skip
"""Minutes to the target loss, record by record, 1 to 89 (SOURCE)."""
RETIMED = {21: 3.014}
"""Record 21 timed again under new rules and software before record 22: the base of record 22's gain (SOURCE)."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of the speedrun."""

    number: int
    minutes: float
    base_minutes: float
    """Time of the record before, re-timed where the rules changed."""

    @property
    def log_speedup(self) -> float:
        return math.log(self.base_minutes / self.minutes)

    @property
    def gain(self) -> float:
        """How much faster: 0.02 when the former record takes 1.02 times as long."""
        return self.base_minutes / self.minutes - 1


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the log speed-up is spread over the records."""

    total: float
    """Factor from the first record to the last."""
    top: dict[int, float]
    """Number of largest records -> their share of the log speed-up."""
    median_gain: float
    num_small: int
    """Records that were less than 2 % faster."""
    small_share: float
    """Of the log speed-up, held by those."""
    num_since_21: int
    largest_since_21: float
    """Largest gain of a record after the 21st; 0 when there is none."""
    since_21: float
    """Factor of all records after the 21st together."""


def compound(gain: float, num: int) -> float:
    """Factor that `num` independent improvements of `gain` each multiply to."""
    return (1 + gain) ** num


def recorded() -> tuple[Record, ...]:
    """The records that are quoted here."""
    return _chain(list(enumerate(MINUTES, start=1)), RETIMED)


def read_records(path: Path) -> tuple[Record, ...]:
    """Records from a README of the speedrun (or any file with its table ``number | minutes | ...``).

    A number that is repeated is a re-timing: it becomes the base of the next record and is no record itself.

    Raises:
        ValueError: fewer than three rows of that form.
    """
    rows: list[tuple[int, float]] = []
    retimed: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\|?\s*(\d+)\s*\|\s*([\d.]+)\s*(minutes|seconds)\b", line)
        if not match:
            continue
        number = int(match[1])
        minutes = float(match[2]) / (60 if match[3] == "seconds" else 1)
        if rows and number < rows[-1][0]:
            break  # a second table starts: another track
        if rows and number == rows[-1][0]:
            retimed[number] = minutes
        else:
            rows.append((number, minutes))
    if len(rows) < 3:
        raise ValueError(
            f"{path}: found {len(rows)} rows like '2 | 31.4 minutes | ...'; give the speedrun's README"
        )
    return _chain(rows, retimed)


def _chain(rows: list[tuple[int, float]], retimed: dict[int, float]) -> tuple[Record, ...]:
    return tuple(
        Record(number=number, minutes=minutes, base_minutes=retimed.get(before, before_minutes))
        for (before, before_minutes), (number, minutes) in itertools.pairwise(rows)
    )


def shares(records: tuple[Record, ...], tops: tuple[int, ...] = (5, 10, 20)) -> Shares:
    """Spread of the log speed-up over records; re-timings count neither as gain nor as loss."""
    logs = sorted((record.log_speedup for record in records), reverse=True)
    total = math.fsum(logs)
    small = [record.log_speedup for record in records if record.gain < 0.02]
    gains = sorted(record.gain for record in records)
    middle = len(gains) // 2
    later = [record for record in records if record.number > 21]
    return Shares(
        total=math.exp(total),
        top={num: math.fsum(logs[:num]) / total for num in tops},
        median_gain=gains[middle] if len(gains) % 2 else (gains[middle - 1] + gains[middle]) / 2,
        num_small=len(small),
        small_share=math.fsum(small) / total,
        num_since_21=len(later),
        largest_since_21=max((record.gain for record in later), default=0.0),
        since_21=math.exp(math.fsum(record.log_speedup for record in later)),
    )


def judge(evidence: Evidence) -> Verdict:
    """Supported when small records alone multiply to more than a factor of two."""
    records = recorded()
    found = shares(records)
    ten = compound(0.001, 100), compound(0.0005, 50)
    no_error = "the times are read from a table; none has a published spread"
    statements = (
        Statement(
            text="A hundred ideas worth 0.1 % each multiply to about ten percent, half of them at half their worth "
            "to two or three",
            outcome="supported",
            because=f"1.001^100 = {ten[0]:.3f} and 1.0005^50 = {ten[1]:.3f}, when the gains are real and independent",
        ),
        Statement(
            text="Small improvements alone add up to a large one",
            outcome="supported" if found.since_21 > 2 else "contradicted",
            because=f"after record 21 none of {found.num_since_21} records is more than {found.largest_since_21:.1%} "
            f"faster, yet together they are a factor of {found.since_21:.2f}; the {found.num_small} records under 2 % "
            f"hold {found.small_share:.0%} of the log speed-up, and the median gain is {found.median_gain:.1%}",
            estimate=Estimate(value=found.since_21, unit="factor", reason=no_error),
        ),
        Statement(
            text="Progress comes from the small improvements rather than from the big ones",
            outcome="contradicted" if found.top[10] > 0.5 else "supported",
            because=f"the five largest records hold {found.top[5]:.0%} of the log speed-up, the ten largest "
            f"{found.top[10]:.0%}, the twenty largest {found.top[20]:.0%}",
            estimate=Estimate(value=found.top[10], unit="share of log speed-up", reason=no_error),
        ),
    )
    return Verdict(
        study="incremental",
        claims=("P20.1",),
        question=QUESTION,
        outcome=statements[1].outcome,
        sentence=f"Ten records hold {found.top[10]:.0%} of a {found.total:.1f}-fold speed-up; the records after the "
        f"21st, of a few percent each, still multiplied to {found.since_21:.2f}.",
        statements=statements,
        effect=f"{found.total:.1f} times faster to the same loss on the same hardware in {len(records)} records",
        unresolved=("what the ideas were worth that brought no record",),
        limits=(
            "Only records are seen: ideas that brought nothing, and gains too small to be submitted, are not.",
            "Each record was accepted for being faster, so its own gain is likely to be overstated.",
        ),
        tables=(_gain_table(records), _share_table(found)),
        figures=(
            Figure(
                name="records",
                kind="curves",
                title="Time to the target loss, record by record",
                caption=f"Minutes on eight H100, logarithmic axis. Source: {SOURCE}.",
                alt="A steep fall over the first twenty records, then a long, slower decline.",
                tables=("records",),
                options={"log_y": True, "x_title": "record", "y_title": "minutes"},
            ),
        ),
        summary={
            "compound_100": ten[0],
            "compound_50_halved": ten[1],
            "total_factor": found.total,
            "top5_share": found.top[5],
            "top10_share": found.top[10],
            "factor_after_record_21": found.since_21,
            "top20_share": found.top[20],
            "median_gain": found.median_gain,
            "small_records": found.num_small,
            "small_records_share": found.small_share,
        },
    )


def _gain_table(records: tuple[Record, ...]) -> Table:
    rows = tuple(
        ("time", record.number, record.minutes, None, None, "line", record.gain, record.log_speedup)
        for record in records
    )
    return Table(
        name="records",
        title="Records of the speedrun",
        columns=(
            Column(name="series", title="series"),
            Column(name="x", title="record"),
            Column(name="y", title="time", unit="minutes", format="{:.3g}"),
            Column(name="lo", title="from"),
            Column(name="hi", title="to"),
            Column(name="role", title="role"),
            Column(name="gain", title="faster by", format="{:.1%}"),
            Column(name="log_speedup", title="log speed-up", format="{:.3f}"),
        ),
        rows=rows,
        note=f"Source: {SOURCE}. Re-timings are no records; they only move the base of the next one.",
    )


def _share_table(found: Shares) -> Table:
    return Table(
        name="shares",
        title="Where the log speed-up lies",
        columns=(
            Column(name="records", title="records"),
            Column(name="total", title="total", unit="factor", format="{:.1f}"),
            Column(name="top5", title="top 5", format="{:.0%}"),
            Column(name="top10", title="top 10", format="{:.0%}"),
            Column(name="top20", title="top 20", format="{:.0%}"),
            Column(name="small", title="those under 2 %", format="{:.0%}"),
            Column(name="num_small", title="number under 2 %"),
            Column(name="median", title="median gain", format="{:.1%}"),
            Column(name="since_21", title="after record 21", unit="factor", format="{:.2f}"),
        ),
        rows=(
            (
                f"2 to {len(MINUTES)}", found.total, found.top[5], found.top[10], found.top[20], found.small_share,
                found.num_small, found.median_gain, found.since_21,
            ),
        ),
    )  # fmt: skip


STUDY = Study(
    name="incremental",
    claims=("P20.1",),
    question=QUESTION,
    prediction="A few records hold most of the log speed-up; the small ones still multiply to more than two.",
    cost="nothing is trained; an instant",
    judge=judge,
)
