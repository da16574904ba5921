"""Would the compute of the largest model be better spent on training the smallest one much longer?

Claims P5.6 and P21.3: train 8B twenty times longer instead of 70B; a model of about 10B trained seven times
longer would equal one of 70B. Both are asked of two fits of the same points: the refit with its 4,000 draws, and
the published Hoffmann parameters.
Prediction: under neither fit does the small model catch up; with the refit not even on endless data.
Command: ``isoflop run small_model``. Cost: none, an instant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.laws import besiroglu, hoffmann
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.price import over_draws
from isoflop.records import Column, Evidence, Figure, Outcome, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Does a small model catch up with a large one when it is trained much longer?"
SURE = 0.95


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A small model trained long against a large one."""

    claim: str
    text: str
    small_N: float
    small_D: float
    large_N: float
    large_D: float


CONTESTS = (
    Contest(
        claim="P5.6",
        text="8B on 300T tokens reaches the loss of 70B on 15T tokens",
        small_N=8e9,
        small_D=300e12,
        large_N=70e9,
        large_D=15e12,
    ),
    Contest(
        claim="P21.3",
        text="10B trained seven times longer reaches the loss of 70B on 1.4T tokens",
        small_N=10e9,
        small_D=7 * 1.4e12,
        large_N=70e9,
        large_D=1.4e12,
    ),
)
LAWS = (("refit", besiroglu.refit), ("Hoffmann, as published", lambda: hoffmann.APPROACH_3))


def behind(law: ChinchillaLaw, contest: Contest) -> np.ndarray:
    """Loss of the small model above that of the large one, nats per token."""
    small = law.loss(contest.small_N, contest.small_D)
    return np.asarray(small - law.loss(contest.large_N, contest.large_D))


def judge(evidence: Evidence) -> Verdict:
    """Supported when the small model is level in 95 % of the draws, contradicted when behind in 95 %."""
    draws = besiroglu.draws()
    statements = tuple(contest_statement(contest, draws) for contest in CONTESTS)
    gaps = [statement.estimate for statement in statements]
    outcomes = {statement.outcome for statement in statements}
    eight = CONTESTS[0]
    law = besiroglu.refit()
    dearest = law.equivalent_compute(law.loss(eight.small_N, eight.small_D)) / (
        6 * eight.small_N * eight.small_D
    )
    return Verdict(
        study="small_model",
        claims=tuple(contest.claim for contest in CONTESTS),
        question=QUESTION,
        outcome=outcomes.pop() if len(outcomes) == 1 else "cannot tell",
        sentence="Not by this law: "
        + "; ".join(
            f"{contest.text.split(' reaches')[0]} stays {gap.value:.3f} nats behind ({gap.lo:.3f} to {gap.hi:.3f})"
            for contest, gap in zip(CONTESTS, gaps, strict=True)
            if gap is not None
        )
        + ".",
        statements=statements,
        effect=f"An ideally sized model reaches the loss of 8B on 300T tokens with {dearest:.1%} of its compute.",
        settle=None if outcomes != {"cannot tell"} else "more runs far beyond a hundred tokens per parameter",
        unresolved=(
            "whether the form holds at tens of thousands of tokens per parameter, ten times beyond any run behind it",
            "benchmark scores: later small models caught up on some, with better data",
        ),
        limits=(
            "Loss at equal data quality; no distillation.",
            "The capacity term of the form makes a floor for each size; another form need not have one.",
        ),
        tables=(losses_table(draws),),
        figures=(figure(),),
        summary={
            contest.claim: {
                name: [
                    float(law().loss(contest.small_N, contest.small_D)),
                    float(law().loss(contest.large_N, contest.large_D)),
                ]
                for name, law in LAWS
            }
            for contest in CONTESTS
        },
    )


def contest_statement(contest: Contest, draws: ChinchillaLaw) -> Statement:
    law, other = besiroglu.refit(), hoffmann.APPROACH_3
    gap, gaps = float(behind(law, contest)), behind(draws, contest)
    level = float(np.mean(gaps <= 0))
    outcome: Outcome = (
        "supported" if level >= SURE else "contradicted" if level <= 1 - SURE else "cannot tell"
    )
    floor = law.smallest_size_for_loss(law.loss(contest.large_N, contest.large_D))
    endless = "not even on endless data" if contest.small_N < floor else "it would take more data than that"
    return Statement(
        text=contest.text,
        outcome=outcome,
        because=f"it is {gap:.3f} nats behind and level in {level:.0%} of the draws, {endless} (the smallest size that "
        f"can is {floor / 1e9:.1f}B); with Hoffmann's parameters it is {float(behind(other, contest)):.3f} behind",
        estimate=over_draws(gap, gaps, "nats/token"),
        settle=None if outcome != "cannot tell" else "runs at that many tokens per parameter",
    )


def losses_table(draws: ChinchillaLaw) -> Table:
    """One row per model and law."""
    rows: list[tuple[str | float | None, ...]] = []
    for contest in CONTESTS:
        models = ((contest.small_N, contest.small_D), (contest.large_N, contest.large_D))
        for name, law in LAWS:
            for N, D in models:
                label = f"{N / 1e9:.0f}B on {D / 1e12:.3g}T tokens"
                point = float(law().loss(N, D))
                if name == "refit":
                    loss = over_draws(point, np.asarray(draws.loss(N, D)), "nats/token")
                    rows.append((label, name, loss.value, loss.lo, loss.hi, ""))
                else:
                    rows.append(
                        (label, name, point, point, point, "published without draws")
                    )  # equal ends: no bar
    columns = (
        Column(name="label", title="Model"),
        Column(name="group", title="Law"),
        Column(name="value", title="Loss", unit="nats/token", format="{:.3f}"),
        Column(name="lo", title="from", unit="nats/token", format="{:.3f}"),
        Column(name="hi", title="to", unit="nats/token", format="{:.3f}"),
        Column(name="reason", title="Why no interval"),
    )
    return Table(name="losses", title="Loss by model and law", columns=columns, rows=tuple(rows))


def figure() -> Figure:
    return Figure(
        name="losses",
        kind="intervals",
        title="The small model stays behind under both fits",
        caption="Predicted loss. All losses move together from draw to draw, so the differences are known far "
        "better than the intervals suggest; the statements give those.",
        alt="For each pair the small model has the higher loss.",
        tables=("losses",),
        options={"x_title": "loss, nats per token"},
    )


STUDY = Study(
    name="small_model",
    claims=tuple(contest.claim for contest in CONTESTS),
    question=QUESTION,
    prediction="Under neither fit does the small model catch up.",
    cost="nothing is trained; an instant",
    judge=judge,
)
