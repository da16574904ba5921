"""The prediction ledger: what was predicted when, the test that decides it, and what is known.

Claims P26, P8.5 and P19.6: dated predictions of all posts in one table. Each entry says in advance what would
count; a prediction without a test is listed as open, not as held. The state is that of `CHECKED`; change an
entry only together with its evidence and that date.
Prediction (of this study): the decided ones have held about as often as not.
Command: ``isoflop run predictions``. Cost: none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from isoflop.judge.compare import share_estimate
from isoflop.records import Column, Evidence, Outcome, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "How have the dated predictions fared?"
CHECKED = "2026-11"

Status = Literal["held", "failed", "partly", "open"]
OUTCOMES: dict[Status, Outcome] = {
    "held": "supported",
    "failed": "contradicted",
    "partly": "cannot tell",
    "open": "cannot tell",
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One dated prediction, in our own words."""

    made: int
    """Year."""
    claim: str
    """Id in docs/claims.md that it belongs to."""
    statement: str
    test: str
    """What would decide it."""
    status: Status
    evidence: str
    """Why the status is what it is; for an open one, what is awaited."""


LEDGER: tuple[Prediction, ...] = (
    Prediction(
        made=2022,
        claim="P21.3",
        statement="A model of ten billion parameters trained seven times longer equals one of seventy billion.",
        test="loss of both under a fitted scaling law; benchmark scores of models trained so",
        status="partly",
        evidence="no on loss by the corrected Chinchilla fit, within half a percent by the original one; nearly so on "
        "MMLU for later models, whose data are better too",
    ),
    Prediction(
        made=2023,
        claim="P17.1",
        statement="LLaMA-7B trained with 65B's compute would have matched it.",
        test="loss under a fitted scaling law; a run of that length",
        status="partly",
        evidence="no on loss by the corrected Chinchilla fit; Llama-3-8B, trained far longer on better data, passed "
        "LLaMA-65B on MMLU",
    ),
    Prediction(
        made=2023,
        claim="P14.1",
        statement="Reinforcement learning will turn out to be unnecessary for tuning language models.",
        test="best models of the next years are tuned without it",
        status="failed",
        evidence="reasoning models since 2024 rest on reinforcement learning with verifiable rewards; PPO led the "
        "first comparison by human raters",
    ),
    Prediction(
        made=2023,
        claim="P10.6",
        statement="Prompting tricks such as asking for intermediate steps will have no lasting effect.",
        test="their descendants are absent from how models are trained",
        status="failed",
        evidence="written-out reasoning became the target of training itself",
    ),
    Prediction(
        made=2023,
        claim="P26",
        statement="An even chance that the language-model boom collapses in the near future.",
        test="investment in training compute falls by half within three years",
        status="open",
        evidence="it had not by the date of this check; even odds are not refuted by one outcome",
    ),
    Prediction(
        made=2023,
        claim="P8.5",
        statement="Contexts of a million tokens and more become practical before long.",
        test="a generally available model with such a context",
        status="held",
        evidence="offered since 2024",
    ),
    Prediction(
        made=2023,
        claim="P8.5",
        statement="With such contexts come coherent novels, film-length video and large programs.",
        test="blind readers or viewers do not prefer professional work; programs of that size pass their tests",
        status="open",
        evidence="awaits a blind comparison",
    ),
    Prediction(
        made=2022,
        claim="P19.6",
        statement="Plain scaling of data, size and resolution reaches human-level sample efficiency.",
        test="a model trained on a human amount of video recognises objects at the human level",
        status="open",
        evidence="supported by an extrapolation of 2023 (arXiv 2308.03712), not by a run",
    ),
    Prediction(
        made=2024,
        claim="P5.6",
        statement="Makers of open models will do better with two sizes at most, trained longer.",
        test="the next model families have fewer sizes and more tokens per parameter",
        status="partly",
        evidence="much longer training, yes; fewer sizes, no",
    ),
    Prediction(
        made=2025,
        claim="P3.1",
        statement="Feedback will make language learning from little data more efficient.",
        test="an arm with feedback beats passive input at equal words in a BabyLM edition",
        status="partly",
        evidence="tried in the interaction track of 2025, with mixed results",
    ),
    Prediction(
        made=2026,
        claim="P1.1",
        statement="Coding agents will have very little effect on scientific output in the short term.",
        test="papers per researcher and compute of groups that use them against groups that do not",
        status="open",
        evidence="awaits data; the measure should be fixed before they come in",
    ),
)


def judge(evidence: Evidence) -> Verdict:
    """Supported when the decided predictions held more often than not, beyond the noise of so few."""
    counts = Counter(entry.status for entry in LEDGER)
    decided = counts["held"] + counts["failed"]
    held = share_estimate(counts["held"], decided)
    outcome: Outcome = "cannot tell"
    if held.lo is not None and held.hi is not None:
        outcome = "supported" if held.lo > 0.5 else "contradicted" if held.hi < 0.5 else "cannot tell"
    statements = tuple(
        Statement(
            text=f"{entry.statement} ({entry.made})",
            outcome=OUTCOMES[entry.status],
            because=entry.evidence,
            settle=entry.test if OUTCOMES[entry.status] == "cannot tell" else None,
        )
        for entry in LEDGER
    )
    return Verdict(
        study="predictions",
        claims=("P26", "P8.5", "P19.6"),
        question=QUESTION,
        outcome=outcome,
        sentence=f"Of {len(LEDGER)} predictions {counts['held']} held, {counts['failed']} failed, {counts['partly']} "
        f"held in part and {counts['open']} are open"
        f"{': too few are decided for a rate' if outcome == 'cannot tell' else ''}.",
        statements=statements,
        effect=f"{counts['held']} of {decided} decided ones held",
        settle="the open ones, at their tests",
        limits=(
            f"State of {CHECKED}; several entries rest on general knowledge rather than on a cited measurement.",
            "Predictions that were easy to notice are in it; those that were never written down are not.",
        ),
        tables=(_table(),),
        summary={"counts": dict(counts), "held_share": held.value, "checked": CHECKED},
    )


def _table() -> Table:
    return Table(
        name="ledger",
        title="Dated predictions",
        columns=(
            Column(name="made", title="made"),
            Column(name="claim", title="claim"),
            Column(name="statement", title="prediction"),
            Column(name="test", title="test"),
            Column(name="status", title="status"),
            Column(name="evidence", title="evidence"),
        ),
        rows=tuple((e.made, e.claim, e.statement, e.test, e.status, e.evidence) for e in LEDGER),
        note=f"Checked {CHECKED}.",
    )


STUDY = Study(
    name="predictions",
    claims=("P26", "P8.5", "P19.6"),
    question=QUESTION,
    prediction="The decided ones have held about as often as not.",
    cost="nothing is trained; an instant",
    judge=judge,
)
