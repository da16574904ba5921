"""What do mixture weights stated in rows mean in tokens and in passes over each source?

Claim P2.4: a mixture of six sources was weighted 40/44/3/2/10/1 "in terms of data rows, not tokens". Rows of
the code source are whole repositories. From the published sizes and row counts the shares of tokens follow,
the passes over each source, and when a stream that ends with its last source would have ended.
Prediction: code gets several times its ten percent of the tokens; no source repeats much at 809 billion
tokens; a stream that waits for its slowest source would go over code dozens of times.
Command: ``isoflop run mixture_accounting``. Cost: none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.plan.mixture_account import (
    SourceAccount,
    account_mixture,
    rows_until_exhausted,
    simulate_until_exhausted,
)
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

QUESTION = "Do weights stated in rows say how much of each source a model reads?"
CARD = "data card of Zyphra/Zyda-2 (GPT-NeoX tokens and documents)"
TOKENS_DONE = 73_500 * 11_010_048
TOKENS_PLANNED = 500_000 * 11_010_048
FAR_OFF = 2.0
"""From this factor on a share of rows does not stand for a share of tokens."""
REPEATED = 1.0
SMALL_DRAWS = 200
"""Scale-down of the simulated stream: rows of the smallest source."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A source of the posted mixture."""

    name: str
    weight: float
    """Percent of the rows."""
    tokens: float
    rows: float
    rows_lo: float
    rows_hi: float
    """Range that the published figure leaves open; equal to `rows` for one that is stated."""
    source: str


def _stated(name: str, weight: float, tokens: float, rows: float, source: str) -> Published:
    return Published(
        name=name, weight=weight, tokens=tokens, rows=rows, rows_lo=rows, rows_hi=rows, source=source
    )


POSTED = (
    _stated("DCLM", 40, 3348.9e9, 2590.5e6, CARD),
    _stated("FineWeb-Edu", 44, 1319.2e9, 1279.1e6, CARD),
    _stated("Dolma", 3, 238.4e9, 445.6e6, CARD),
    _stated("Zyda", 2, 163.6e9, 247.7e6, CARD),
    Published(
        name="Stack v2",
        weight=10,
        tokens=525e9,
        rows=10**7.5,
        rows_lo=1e7,
        rows_hi=1e8,
        source="525B as posted; the data card gives 10 to 100 million rows, one per repository",
    ),
    _stated(
        "FineMath", 1, 34e9, 34e9 / 1582, "34B as posted; 1,582 tokens per row in a public tokenized copy"
    ),
)


def posted_mixture(which: str = "rows") -> Mixture:
    """The posted mixture with the middle, the "lo" or the "hi" of the row counts."""
    return Mixture(
        sources=tuple(
            MixtureSource(
                name=one.name,
                where="",
                weight=one.weight,
                tokens=one.tokens,
                tokens_per_row=one.tokens / {"rows": one.rows, "lo": one.rows_lo, "hi": one.rows_hi}[which],
            )
            for one in POSTED
        ),
        weight_unit="rows",
    )


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number at the middle and at both ends of what is published."""

    value: float
    lo: float
    hi: float


def _ranges(pick: str, tokens: float) -> dict[str, Range]:
    """One field of every source's account over the three readings of the row counts."""
    found: dict[str, list[float]] = {one.name: [] for one in POSTED}
    for which in ("rows", "lo", "hi"):
        for account in account_mixture(posted_mixture(which), tokens):
            value = getattr(account, pick)
            assert value is not None, f"{account.name} has published sizes"
            found[account.name].append(float(value))
    return {name: Range(value=values[0], lo=min(values), hi=max(values)) for name, values in found.items()}


def judge(evidence: Evidence) -> Verdict:
    """Supported when some source's share of tokens is far from its share of rows over the whole range."""
    shares = _ranges("token_share", TOKENS_DONE)
    passes = _ranges("epochs", TOKENS_DONE)
    as_tokens = {one.name: TOKENS_DONE * one.weight / 100 / one.tokens for one in POSTED}
    factors = {
        one.name: Range(
            value=shares[one.name].value * 100 / one.weight,
            lo=shares[one.name].lo * 100 / one.weight,
            hi=shares[one.name].hi * 100 / one.weight,
        )
        for one in POSTED
    }
    statements = (
        _far_off(factors),
        _more_or_less(passes, as_tokens),
        _repeats(passes),
        _total(),
    )
    order: tuple[Outcome, ...] = ("contradicted", "cannot tell", "supported")
    main = [statement.outcome for statement in statements[:2]]
    code = shares["Stack v2"]
    return Verdict(
        study="mixture_accounting",
        claims=("P2.4",),
        question=QUESTION,
        outcome=next(word for word in order if word in main),
        sentence=f"Ten percent of the rows from code were about {code.value:.0%} ({code.lo:.0%} to {code.hi:.0%}) of "
        "the tokens, so every other source was read correspondingly less.",
        settle="the mean tokens per row of the code source, counted in the model's own tokenizer",
        statements=statements,
        effect=f"of {TOKENS_DONE / 1e9:.0f}B tokens, about {code.value * TOKENS_DONE / 1e9:.0f}B were code in place of "
        f"{0.1 * TOKENS_DONE / 1e9:.0f}B",
        unresolved=("the number of rows of the code source, known only to a factor of ten",),
        limits=(
            "Published token counts are in other tokenizers than the model's; shares move by a few percent.",
            "Rows are taken to be drawn at their stated shares throughout the run.",
        ),
        tables=(_table(shares, passes, as_tokens), _share_rows(shares), _streams()),
        figures=(
            Figure(
                name="shares",
                kind="intervals",
                title="Share of the tokens of each source",
                caption="Bars span what the published row counts leave open; weights are the shares of rows.",
                alt="Code has a third to more than four fifths of the tokens, against a weight of a tenth.",
                tables=("share_rows",),
                options={"x_title": "percent of the tokens"},
            ),
        ),
        summary={
            "token_share": {name: one.value for name, one in shares.items()},
            "token_share_range": {name: [one.lo, one.hi] for name, one in shares.items()},
            "epochs": {name: one.value for name, one in passes.items()},
            "epochs_if_weights_were_tokens": as_tokens,
            "total_tokens": sum(one.tokens for one in POSTED),
        },
    )


def _far_off(factors: dict[str, Range]) -> Statement:
    name, most = max(factors.items(), key=lambda item: item[1].lo)
    return Statement(
        text="A share of rows is not a share of tokens",
        outcome="supported"
        if most.lo >= FAR_OFF
        else "cannot tell"
        if most.hi >= FAR_OFF
        else "contradicted",
        because=f"{name} has {most.value:.1f} ({most.lo:.1f} to {most.hi:.1f}) times the share of tokens that it "
        "has of rows",
        estimate=Estimate(
            value=most.value,
            unit="factor",
            lo=most.lo,
            hi=most.hi,
            method="range of the published row counts",
        ),
        settle="the row count of the code source",
    )


def _more_or_less(passes: dict[str, Range], as_tokens: dict[str, float]) -> Statement:
    off = {name: one for name, one in passes.items() if one.lo > as_tokens[name] or one.hi < as_tokens[name]}
    least = min(passes, key=lambda name: passes[name].value / as_tokens[name])
    ratio = Range(
        value=passes[least].value / as_tokens[least],
        lo=passes[least].lo / as_tokens[least],
        hi=passes[least].hi / as_tokens[least],
    )
    return Statement(
        text="Sources are read more or less often than their weights suggest",
        outcome="supported" if len(off) >= len(passes) / 2 else "cannot tell",
        because=f"{len(off)} of {len(passes)} over the whole range; {least} least, {ratio.value:.2f} times as often",
        estimate=Estimate(
            value=ratio.value,
            unit="factor",
            lo=ratio.lo,
            hi=ratio.hi,
            method="range of the published row counts",
        ),
        settle="the row count of the code source",
    )


def _repeats(passes: dict[str, Range]) -> Statement:
    name, most = max(passes.items(), key=lambda item: item[1].value)
    outcome: Outcome = (
        "supported" if most.hi <= REPEATED else "contradicted" if most.lo > REPEATED else "cannot tell"
    )
    return Statement(
        text="No source was gone through more than once in the tokens that were trained on",
        outcome=outcome,
        because=f"{name}: {most.value:.2f} ({most.lo:.2f} to {most.hi:.2f}) passes",
        estimate=Estimate(
            value=most.value,
            unit="passes",
            lo=most.lo,
            hi=most.hi,
            method="range of the published row counts",
        ),
        settle="the row count of the code source",
    )


def _total() -> Statement:
    total = sum(one.tokens for one in POSTED)
    return Statement(
        text="The six sources hold about 5.6 trillion tokens",
        outcome="supported" if round(total / 1e12, 1) == 5.6 else "contradicted",
        because=f"{total / 1e12:.2f} trillion by the published counts",
        estimate=Estimate(value=total, unit="tokens", reason="a sum of published counts without errors"),
    )


def _table(shares: dict[str, Range], passes: dict[str, Range], as_tokens: dict[str, float]) -> Table:
    planned = _ranges("epochs", TOKENS_PLANNED)
    return Table(
        name="sources",
        title="The posted mixture",
        columns=(
            Column(name="source", title="source"),
            Column(name="weight", title="of the rows", format="{:.0%}"),
            Column(name="per_row", title="tokens per row", format="{:,.0f}"),
            Column(name="share", title="of the tokens", format="{:.1%}"),
            Column(name="passes", title="passes at 809B", format="{:.2f}"),
            Column(name="as_tokens", title="if weights were of tokens", format="{:.2f}"),
            Column(name="planned", title="passes at 5.5T", format="{:.2f}"),
            Column(name="from", title="counts from"),
        ),
        rows=tuple(
            (
                one.name,
                one.weight / 100,
                one.tokens / one.rows,
                shares[one.name].value,
                passes[one.name].value,
                as_tokens[one.name],
                planned[one.name].value,
                one.source,
            )
            for one in POSTED
        ),
        note="The code source is taken at the middle of 10 to 100 million rows on a log scale.",
    )


def _share_rows(shares: dict[str, Range]) -> Table:
    return Table(
        name="share_rows",
        title="Share of the tokens, as drawn",
        columns=(
            Column(name="label", title="source"),
            Column(name="value", title="share", unit="%", format="{:.1f}"),
            Column(name="lo", title="from", unit="%", format="{:.1f}"),
            Column(name="hi", title="to", unit="%", format="{:.1f}"),
        ),
        rows=tuple(
            (f"{one.name} (weight {one.weight:g})", *(100 * x for x in (s.value, s.lo, s.hi)))
            for one in POSTED
            for s in (shares[one.name],)
        ),
    )


def _streams() -> Table:
    """Passes when a stream ends only after its slowest source: by formula, and by drawing a small copy."""
    weights = [one.weight for one in POSTED]
    rows = [one.rows for one in POSTED]
    drawn = rows_until_exhausted(weights, rows)
    smallest = min(rows)
    small = [max(1, round(n / smallest * SMALL_DRAWS)) for n in rows]
    seen = simulate_until_exhausted(weights, small, np.random.default_rng(0))
    return Table(
        name="all_exhausted",
        title="Passes over each source when the stream ends with its slowest one",
        columns=(
            Column(name="source", title="source"),
            Column(name="expected", title="passes, expected", format="{:.1f}"),
            Column(name="drawn", title="passes, drawn", format="{:.1f}"),
        ),
        rows=tuple(
            (one.name, drawn * one.weight / 100 / one.rows, count / n)
            for one, count, n in zip(POSTED, seen, small, strict=True)
        ),
        note=f"Expected after {drawn / 1e9:.1f} billion rows; drawn once with {SMALL_DRAWS} rows of the smallest "
        "source. The run ended long before.",
    )


def accounts(tokens: float = TOKENS_DONE) -> tuple[SourceAccount, ...]:
    """The posted mixture at a number of tokens, with the middle of the row counts."""
    return account_mixture(posted_mixture(), tokens)


STUDY = Study(
    name="mixture_accounting",
    claims=("P2.4",),
    question=QUESTION,
    prediction="Code gets several times its share; nothing repeats much at 809 billion tokens.",
    cost="nothing is trained; an instant",
    judge=judge,
)
