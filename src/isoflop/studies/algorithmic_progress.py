"""How fast do better algorithms lower the compute for a fixed result, and is the pace steady?

Claim P23.2: algorithms have cut the compute for a given result by large and steady factors, comparable with
what hardware gave. Two public series reach a fixed target with ever less: image classification at the level
of AlexNet, and the NanoGPT speedrun, whose hardware never changes.
Prediction: large, yes; steady, no: the speedrun slows down several-fold after its first year.
Command: ``isoflop run algorithmic_progress``. Cost: none, the numbers are quoted here.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from isoflop.records import Column, Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "How fast do better algorithms lower the compute for a fixed result, and is the pace steady?"
HARDWARE_DOUBLING_MONTHS = 24.0
"""Yardstick: a doubling of hardware every two years (Moore's law)."""
STEADY_WITHIN = 2.0
"""A pace counts as steady when periods of one series differ by less than this factor."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """A stretch in which the cost of one fixed result fell."""

    series: str
    name: str
    factor: float
    """Cost before over cost after."""
    months: float
    source: str

    @property
    def doubling_months(self) -> float:
        """Months in which the cost halves, were the pace constant."""
        return self.months / math.log2(self.factor)

    @property
    def hardware_factor(self) -> float:
        """What the yardstick gives in the same time."""
        return 2 ** (self.months / HARDWARE_DOUBLING_MONTHS)


def _months(start: str, end: str) -> float:
    days = datetime.date.fromisoformat(end) - datetime.date.fromisoformat(start)
    return days.days / 30.4375


_SPEEDRUN = "KellerJordan/modded-nanogpt, README.md at commit e7a55f1"

PERIODS = (
    Period(
        series="ImageNet at the level of AlexNet",
        name="2012 to 2019",
        factor=44.0,
        months=84.0,
        source="Hernandez and Brown 2020, arXiv 2005.04305",
    ),
    Period(
        series="NanoGPT speedrun",
        name="records 1 to 21",
        factor=45 / 2.933,
        months=_months("2024-05-28", "2025-01-26"),
        source=_SPEEDRUN,
    ),
    Period(
        series="NanoGPT speedrun",
        name="records 22 to 60",
        factor=3.014 / 1.765,
        months=_months("2025-05-24", "2026-01-16"),
        source=_SPEEDRUN,
    ),
)
WHOLE_SPEEDRUN = Period(
    series="NanoGPT speedrun",
    name="records 1 to 88",
    factor=45 / 2.933 * 3.014 / 1.23,
    months=26.0,
    source="the same table at a later state: newest time 1.23 minutes, re-timing after record 21 left out",
)


def judge(evidence: Evidence) -> Verdict:
    """Large: faster than the yardstick in every period. Steady: paces within one series agree."""
    periods = (*PERIODS, WHOLE_SPEEDRUN)
    images = PERIODS[0]
    early, late = PERIODS[1], PERIODS[2]
    slowdown = late.doubling_months / early.doubling_months
    faster = all(period.doubling_months < HARDWARE_DOUBLING_MONTHS for period in periods)
    steady = slowdown <= STEADY_WITHIN
    whole = f"{WHOLE_SPEEDRUN.factor:.1f} times less time in {WHOLE_SPEEDRUN.months:.0f} months"
    statements = (
        Statement(
            text="Algorithms have cut the compute for a given result at least as fast as hardware",
            outcome="supported" if faster else "contradicted",
            because=f"{images.factor:.0f} times in {images.months / 12:.0f} years against "
            f"{images.hardware_factor:.0f} from a doubling every two years; {whole} of the speedrun",
        ),
        Statement(
            text="The pace is steady",
            outcome="supported" if steady else "contradicted",
            because=f"the speedrun's cost halved every {early.doubling_months:.1f} months up to record 21 and every "
            f"{late.doubling_months:.1f} after it, {slowdown:.1f} times slower",
        ),
    )
    return Verdict(
        study="algorithmic_progress",
        claims=("P23.2",),
        question=QUESTION,
        outcome="contradicted" if "contradicted" in {s.outcome for s in statements} else "supported",
        sentence=f"{'Faster' if faster else 'Slower'} than hardware, {'steady' if steady else 'not steady'}: the cost "
        f"of AlexNet's accuracy halved every {images.doubling_months:.0f} months, the speedrun's every "
        f"{early.doubling_months:.1f} months at first and every {late.doubling_months:.0f} later.",
        statements=statements,
        effect=f"{whole} on the same hardware",
        unresolved=("how much of the speedrun carries over to larger models",),
        limits=(
            "The first record was not tuned, so the early pace is in part the catching up of known techniques.",
            "Two or three points a series: the paces have no interval, only the spread between periods.",
        ),
        tables=(_table(periods), _curves()),
        figures=(
            Figure(
                name="paces",
                kind="curves",
                title="What a fixed result costs, as a share of its first cost",
                caption="Straight lines between quoted points; the reference halves every two years.",
                alt="The speedrun falls steeply for eight months and then more slowly; both series fall faster "
                "than the reference.",
                tables=("curves",),
                options={"log_y": True, "x_title": "months", "y_title": "share of first cost"},
            ),
        ),
        summary={
            "doubling_months": {f"{p.series}, {p.name}": p.doubling_months for p in periods},
            "slowdown": slowdown,
            "speedrun_factor": WHOLE_SPEEDRUN.factor,
        },
    )


def _table(periods: tuple[Period, ...]) -> Table:
    return Table(
        name="periods",
        title="Factors and paces",
        columns=(
            Column(name="series", title="result"),
            Column(name="name", title="period"),
            Column(name="factor", title="cheaper by", unit="factor", format="{:.1f}"),
            Column(name="months", title="months", format="{:.1f}"),
            Column(name="doubling", title="halves every", unit="months", format="{:.1f}"),
            Column(name="hardware", title="hardware meanwhile", unit="factor", format="{:.1f}"),
            Column(name="source", title="source"),
        ),
        rows=tuple(
            (p.series, p.name, p.factor, p.months, p.doubling_months, p.hardware_factor, p.source)
            for p in periods
        ),
    )


def _curves() -> Table:
    """Each series from its first cost on; the speedrun's second period starts where the first ended."""
    early, late = PERIODS[1], PERIODS[2]
    gap = _months("2025-01-26", "2025-05-24")
    speedrun = [(0.0, 1.0), (early.months, 1 / early.factor), (early.months + gap, 1 / early.factor)]
    speedrun.append((early.months + gap + late.months, 1 / (early.factor * late.factor)))
    images = [(0.0, 1.0), (PERIODS[0].months, 1 / PERIODS[0].factor)]
    hardware = [(0.0, 1.0), (PERIODS[0].months, 1 / PERIODS[0].hardware_factor)]
    rows = [(early.series, x, y, None, None, "line") for x, y in speedrun]
    rows += [(PERIODS[0].series, x, y, None, None, "line") for x, y in images]
    rows += [("halving every two years", x, y, None, None, "reference") for x, y in hardware]
    names = ("series", "x", "y", "lo", "hi", "role")
    titles = ("series", "months", "share of first cost", "from", "to", "role")
    return Table(
        name="curves",
        title="Cost of a fixed result over time",
        columns=tuple(Column(name=name, title=title) for name, title in zip(names, titles, strict=True)),
        rows=tuple(rows),
    )


STUDY = Study(
    name="algorithmic_progress",
    claims=("P23.2",),
    question=QUESTION,
    prediction="Large but not steady: the speedrun slows down several-fold after its first year.",
    cost="nothing is trained; an instant",
    judge=judge,
)
