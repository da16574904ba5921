"""What does each way of resuming a data stream repeat and omit?

Claim P2.6: resuming by skipping ahead in a shuffled stream may repeat some rows and omit others; the run's
author, who saw repeated rows, shuffled anew with each 24-hour session instead. Three ways are compared over
kills and resumes: skipping, shuffling anew, and an order that is a function of the sample's index; each by
formula and on a stream of numbers. The package's own loader is audited in the same way by `isoflop.data.audit`.
Prediction: skipping loses about a third of the shuffle buffer per resume; shuffling anew repeats far more;
the indexed order repeats nothing.
Command: ``isoflop run loader_audit``. Cost: seconds of counting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isoflop.plan.mixture_account import SourceAccount, account_mixture
from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Figure,
    Mixture,
    MixtureSource,
    Outcome,
    Statement,
    Table,
    Verdict,
)
from isoflop.studies.study import Study

QUESTION = "Does resuming a data stream repeat some rows and omit others?"
BUFFER_ROWS = 100_000
"""Of the run: the shuffle buffer of its configuration."""
SESSIONS, SESSIONS_LO, SESSIONS_HI = 38, 31, 45
"""Sessions of 24 hours: 30.6 days of stepping at least, 45 days on the calendar at most; the middle."""
TOKENS = 809.2e9
SOURCES = {
    # weight in percent of the rows, different tokens, rows; as published, see the study mixture_accounting
    "DCLM": (40, 3348.9e9, 2590.5e6),
    "FineWeb-Edu": (44, 1319.2e9, 1279.1e6),
    "Dolma": (3, 238.4e9, 445.6e6),
    "Zyda": (2, 163.6e9, 247.7e6),
    "Stack v2": (10, 525e9, 10**7.5),
    "FineMath": (1, 34e9, 34e9 / 1582),
}
CODE, CODE_ROWS_LO, CODE_ROWS_HI = "Stack v2", 1e7, 1e8
"""The one source whose rows are published as a range; the table has its middle on a log scale."""

SMALL_STREAM, SMALL_BUFFER, SMALL_SESSIONS, SMALL_SESSION = 30_000, 200, 10, 1500
NUM_DRAWS = 12
T_QUANTILE = 2.201
"""Of 97.5 % with NUM_DRAWS - 1 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a chain of sessions has shown of a stream, in rows."""

    shown: int
    distinct: int
    repeats: int
    """Showings of rows that had been shown."""
    passed_over: int
    """Rows before the last position of the stream that were never shown."""


# ---------------------------------------------------------------------------------------- formulas


def lost_by_skipping(buffer: float, used: float) -> float:
    """Rows that one resume by skipping repeats, and as many that it omits.

    A buffer of K rows hands out one by chance and takes in the next. After n rows were used, n + K were read;
    of the first n a row is still in the buffer with probability (1 - 1/K)^(rows handed out since it came).
    Summed, for n >= K: K e^(-1) (1 - e^(-(n - K)/K)) + K e^(-n/K), which is K/e for n >> K. Skipping n rows
    omits those, and shows again as many of the next K.
    """
    if used <= buffer:
        return used * math.exp(-used / buffer)
    return buffer * (math.exp(-1) * (1 - math.exp(-(used - buffer) / buffer)) + math.exp(-used / buffer))


def repeated_by_fresh_shuffles(passes: float, sessions: int) -> float:
    """Share of the showings that repeat a row, when each of so many equal sessions draws anew.

    Each session shows a random share p = passes / sessions of the source without repetition, so a row is
    missed by all with probability (1 - p)^sessions. What an exact order would show, min(passes, 1), less what
    was seen, over passes.
    """
    seen = 1 - (1 - min(1.0, passes / sessions)) ** sessions
    return (min(passes, 1.0) - min(seen, min(passes, 1.0))) / passes


# ------------------------------------------------------------------------------- a stream of numbers


def buffered(first: int, buffer: int, generator: np.random.Generator) -> Iterator[int]:
    """Row numbers from `first` on through a shuffle buffer."""
    held = list(range(first, first + buffer))
    coming = first + buffer
    while True:
        place = int(generator.integers(buffer))
        yield held[place]
        held[place] = coming
        coming += 1


def simulate(strategy: str, generator: np.random.Generator) -> Seen:
    """Sessions of a small stream under "skip", "fresh" or "indexed"."""
    counts = np.zeros(SMALL_STREAM, dtype=np.int64)
    order = generator.permutation(SMALL_STREAM)
    last = 0
    for session in range(SMALL_SESSIONS):
        used = session * SMALL_SESSION
        if strategy == "skip":
            stream = buffered(used, SMALL_BUFFER, generator)
            shown = np.array([next(stream) for _ in range(SMALL_SESSION)])
            last = used + SMALL_SESSION
        elif strategy == "fresh":
            shown = generator.permutation(SMALL_STREAM)[:SMALL_SESSION]
        else:
            shown = order[used : used + SMALL_SESSION]
        np.add.at(counts, shown, 1)
    distinct = int((counts > 0).sum())
    total = int(counts.sum())
    # What the last buffer still holds would come yet; it is not counted as passed over.
    still_held = lost_by_skipping(SMALL_BUFFER, SMALL_SESSION) if strategy == "skip" else 0.0
    return Seen(
        shown=total,
        distinct=distinct,
        repeats=total - distinct,
        passed_over=max(0, int((counts[:last] == 0).sum() - round(still_held))),
    )


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    return float(np.mean(values)), T_QUANTILE * float(np.std(values, ddof=1)) / math.sqrt(len(values))


# ----------------------------------------------------------------------------------------- verdict


def judge(evidence: Evidence) -> Verdict:
    """Formula and count must agree; then the claim is read off, and the two remedies compared."""
    draws = {
        strategy: [simulate(strategy, np.random.default_rng((index, seed))) for seed in range(NUM_DRAWS)]
        for index, strategy in enumerate(("skip", "fresh", "indexed"))
    }
    skip = _skip_statement(draws["skip"])
    fresh = _fresh_statement(draws["fresh"])
    indexed = _indexed_statement(draws["indexed"])
    remedy = _remedy_statement()
    order: tuple[Outcome, ...] = ("contradicted", "cannot tell", "supported")
    statements = (skip, fresh, remedy, indexed)
    worst = repeated_by_fresh_shuffles(_passes("Stack v2"), SESSIONS)
    overall = _overall(SESSIONS)
    per_resume = BUFFER_ROWS / math.e
    return Verdict(
        study="loader_audit",
        claims=("P2.6",),
        question=QUESTION,
        outcome=next(word for word in order if word in {skip.outcome, indexed.outcome}),
        sentence=f"Skipping ahead repeats and omits {1 / math.e:.0%} of a shuffle buffer per resume; shuffling anew, "
        f"the remedy that was chosen, repeated about {overall:.0%} of all tokens in that run and {worst:.0%} of the "
        "code.",
        settle="hashes of the sequences that the run saw, which were not kept",
        statements=statements,
        effect=f"per resume, {per_resume:,.0f} rows or about {per_resume * _tokens_per_row() / 1e6:.0f}M tokens twice "
        f"by skipping; over {SESSIONS} sessions about {overall * TOKENS / 1e9:.0f}B tokens twice by shuffling anew",
        unresolved=("which rows that run really repeated",),
        limits=(
            "Sessions are taken to be equally long and to draw rows independently; files drawn as wholes repeat "
            "as often on average, but in blocks.",
            "The shares of the sources are those that follow from published counts.",
        ),
        tables=(_strategies(draws), _sources(), *_curves()),
        figures=(
            Figure(
                name="fresh-shuffles",
                kind="curves",
                title="Share of the showings that repeat a row",
                caption=f"When each of {SESSIONS} equal sessions shuffles anew; an order by index stays at zero until "
                "the source has been gone through.",
                alt="The share rises almost linearly with passes to about a third at one pass.",
                tables=("fresh_curve",),
                options={"x_title": "passes over the source", "y_title": "share repeated"},
            ),
        ),
        summary={
            "lost_per_skip_in_buffers": lost_by_skipping(1.0, 1e6),
            "repeated_by_fresh_shuffles": {
                name: repeated_by_fresh_shuffles(_passes(name), SESSIONS) for name in SOURCES
            },
            "repeated_overall": overall,
            "repeats_small": {name: _mean([one.repeats for one in seen])[0] for name, seen in draws.items()},
        },
    )


def _accounts(code_rows: float | None = None) -> tuple[SourceAccount, ...]:
    """Shares and passes of the sources at the tokens of the run."""
    rows = {name: (code_rows if name == CODE and code_rows else row[2]) for name, row in SOURCES.items()}
    sources = tuple(
        MixtureSource(name=name, where="", weight=weight, tokens=tokens, tokens_per_row=tokens / rows[name])
        for name, (weight, tokens, _) in SOURCES.items()
    )
    return account_mixture(Mixture(sources=sources, weight_unit="rows"), TOKENS)


def _tokens_per_row(code_rows: float | None = None) -> float:
    """Mean length of the rows that were drawn."""
    rows = [code_rows if name == CODE and code_rows else row[2] for name, row in SOURCES.items()]
    return sum(w / 100 * tokens / n for (w, tokens, _), n in zip(SOURCES.values(), rows, strict=True))


def _passes(name: str) -> float:
    return next(one.epochs or 0.0 for one in _accounts() if one.name == name)


def _overall(sessions: int, code_rows: float | None = None) -> float:
    """Share of all tokens that were shown before, over the sources."""
    return sum(
        (one.token_share or 0.0) * repeated_by_fresh_shuffles(one.epochs or 0.0, sessions)
        for one in _accounts(code_rows)
    )


def _skip_statement(draws: list[Seen]) -> Statement:
    expected = lost_by_skipping(SMALL_BUFFER, SMALL_SESSION) * (SMALL_SESSIONS - 1)
    mean, half = _mean([one.repeats for one in draws])
    omitted, half_omitted = _mean([one.passed_over for one in draws])
    agrees = abs(mean - expected) <= 2 * half and abs(omitted - expected) <= 2 * half_omitted + 1
    return Statement(
        text="Skipping ahead in a shuffled stream repeats some rows and omits as many others",
        outcome="supported" if mean - half > 0 and agrees else "cannot tell" if agrees else "contradicted",
        because=f"{SMALL_SESSIONS - 1} resumes with a buffer of {SMALL_BUFFER} rows: {mean:.0f} repeated and "
        f"{omitted:.0f} omitted, {expected:.0f} expected",
        estimate=Estimate(
            value=mean / (SMALL_SESSIONS - 1) / SMALL_BUFFER,
            unit="buffers per resume",
            lo=(mean - half) / (SMALL_SESSIONS - 1) / SMALL_BUFFER,
            hi=(mean + half) / (SMALL_SESSIONS - 1) / SMALL_BUFFER,
            method=f"t over {NUM_DRAWS} simulated runs",
        ),
    )


def _fresh_statement(draws: list[Seen]) -> Statement:
    passes = SMALL_SESSIONS * SMALL_SESSION / SMALL_STREAM
    expected = repeated_by_fresh_shuffles(passes, SMALL_SESSIONS)
    mean, half = _mean([one.repeats / one.shown for one in draws])
    agrees = abs(mean - expected) <= 2 * half
    return Statement(
        text="Shuffling anew in each session repeats rows too",
        outcome="supported" if mean - half > 0 and agrees else "contradicted",
        because=f"after {passes:g} passes in {SMALL_SESSIONS} sessions {mean:.1%} of the showings are repeats, "
        f"{expected:.1%} expected",
        estimate=Estimate(
            value=mean,
            unit="share repeated",
            lo=mean - half,
            hi=mean + half,
            method=f"t over {NUM_DRAWS} runs",
        ),
    )


def _remedy_statement() -> Statement:
    corners = [(n, rows) for n in (SESSIONS_LO, SESSIONS_HI) for rows in (CODE_ROWS_LO, CODE_ROWS_HI)]
    skipping = [(n - 1) * BUFFER_ROWS / math.e * _tokens_per_row(rows) / TOKENS for n, rows in corners]
    fresh = [_overall(n, rows) for n, rows in corners]
    better, worse = max(fresh) < min(skipping), min(fresh) > max(skipping)
    return Statement(
        text="Shuffling anew repeats less than skipping would have",
        outcome="supported" if better else "contradicted" if worse else "cannot tell",
        because=f"{min(fresh):.0%} to {max(fresh):.0%} of that run's tokens against {max(skipping):.1%} at most, had "
        "skipping worked as it is meant to",
        estimate=Estimate(
            value=_overall(SESSIONS),
            unit="share repeated",
            lo=min(fresh),
            hi=max(fresh),
            method=f"{SESSIONS_LO} to {SESSIONS_HI} sessions, range of the published row counts",
        ),
        settle="the number of sessions and the rows of the code source",
    )


def _indexed_statement(draws: list[Seen]) -> Statement:
    repeats = sum(one.repeats for one in draws)
    return Statement(
        text="An order that is a function of the sample's index repeats nothing",
        outcome="supported" if repeats == 0 else "contradicted",
        because=f"{repeats} repeats in {sum(one.shown for one in draws):,} showings over {NUM_DRAWS} runs",
        estimate=Estimate(value=float(repeats), unit="repeats", reason="exact by construction; counted"),
    )


def _strategies(draws: dict[str, list[Seen]]) -> Table:
    rows = []
    for name, words in (
        ("skip", "skipping ahead"),
        ("fresh", "shuffling anew"),
        ("indexed", "order by index"),
    ):
        seen = draws[name]
        shown = float(np.mean([one.shown for one in seen]))
        distinct = float(np.mean([one.distinct for one in seen]))
        repeats, half = _mean([one.repeats for one in seen])
        omitted, _ = _mean([one.passed_over for one in seen])
        rows.append((words, shown, distinct, repeats, half, omitted, shown / distinct))
    return Table(
        name="strategies",
        title=f"{SMALL_SESSIONS} sessions of {SMALL_SESSION:,} rows from a stream of {SMALL_STREAM:,}",
        columns=(
            Column(name="strategy", title="resumes by"),
            Column(name="shown", title="rows shown", format="{:,.0f}"),
            Column(name="distinct", title="different", format="{:,.0f}"),
            Column(name="repeats", title="repeated", format="{:,.0f}"),
            Column(name="half", title="95 % half width", format="{:,.0f}"),
            Column(name="omitted", title="passed over", format="{:,.0f}"),
            Column(name="epochs", title="showings per row seen", format="{:.3f}"),
        ),
        rows=tuple(rows),
        note=f"Means over {NUM_DRAWS} simulated runs; shuffle buffer of {SMALL_BUFFER} rows.",
    )


def _sources() -> Table:
    return Table(
        name="sources",
        title=f"Shuffling anew in {SESSIONS} sessions: what the posted run repeated",
        columns=(
            Column(name="source", title="source"),
            Column(name="passes", title="passes", format="{:.2f}"),
            Column(name="repeated", title="showings that repeat", format="{:.1%}"),
            Column(name="epochs", title="showings per row seen", format="{:.2f}"),
        ),
        rows=tuple(
            (
                name,
                _passes(name),
                repeated_by_fresh_shuffles(_passes(name), SESSIONS),
                1 / (1 - repeated_by_fresh_shuffles(_passes(name), SESSIONS)),
            )
            for name in SOURCES
        ),
        note="By the middle of the published row counts of the code source; see mixture_accounting.",
    )


def _curves() -> tuple[Table]:
    grid = np.linspace(0.02, 1.0, 50)
    rows: list[tuple[str | float | None, ...]] = [
        (f"{SESSIONS} sessions", float(x), repeated_by_fresh_shuffles(float(x), SESSIONS), None, None, "line")
        for x in grid
    ]
    rows += [
        (name, _passes(name), repeated_by_fresh_shuffles(_passes(name), SESSIONS), None, None, "points")
        for name in ("FineWeb-Edu", "Stack v2")
    ]
    return (
        Table(
            name="fresh_curve",
            title="The same, as drawn",
            columns=tuple(Column(name=name, title=name) for name in ("series", "x", "y", "lo", "hi", "role")),
            rows=tuple(rows),
        ),
    )


STUDY = Study(
    name="loader_audit",
    claims=("P2.6",),
    question=QUESTION,
    prediction="Skipping loses about a third of a buffer per resume; shuffling anew repeats far more.",
    cost="nothing is trained; seconds of counting",
    judge=judge,
)
