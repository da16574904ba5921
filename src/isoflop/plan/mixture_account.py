"""What the weights of a mixture mean: shares of rows, shares of tokens, and passes over each source.

Pure arithmetic on a `Mixture`. With weights w, rows n, tokens per row l and D training tokens,

    weights in rows      share of rows r_i = w_i / sum w        share of tokens t_i = r_i l_i / sum r l
    weights in tokens    t_i = w_i / sum w                      r_i = (t_i / l_i) / sum t / l
    passes               t_i D / (n_i l_i)

A share that needs a number nobody has counted is None, with the reason. What a run really read is counted in
`isoflop.data.mixture`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from isoflop.records import Column, Exclusion, Mixture, Record, Table


class SourceAccount(Record, frozen=True, kw_only=True):
    """One source of a mixture at a number of training tokens."""

    name: str
    weight_share: float
    """Its weight over the sum of the weights."""
    row_share: float | None
    token_share: float | None
    tokens: float | None
    """Training tokens that come from it."""
    different_tokens: float | None
    """Tokens that there are."""
    epochs: float | None
    """Passes over it; above 1 its text repeats."""
    reason: str | None = None
    """Why a number is missing."""


class Reading(Protocol):
    """What an order of samples holds of one source, counted (`isoflop.data.mixture.account`)."""

    @property
    def name(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def token_share(self) -> float: ...
    @property
    def row_share(self) -> float: ...
    @property
    def epochs(self) -> float: ...


def reading_table(mixture: Mixture, readings: Sequence[Reading]) -> Table:
    """The mixture's weights beside what the run's samples really hold of each source."""
    weights = {source.name: source.weight for source in mixture.sources}
    where = {source.name: source.where for source in mixture.sources}
    total = sum(weights.values())
    return Table(
        name="mixture",
        title="What is read of each source",
        columns=(
            Column(name="source", title="source"),
            Column(name="text", title="its text"),
            Column(name="weight", title=f"weight, of {mixture.weight_unit}", format="{:.2%}"),
            Column(name="token_share", title="of tokens", format="{:.2%}"),
            Column(name="row_share", title="of rows", format="{:.2%}"),
            Column(name="tokens", title="tokens", format="{:,d}"),
            Column(name="epochs", title="passes", format="{:.3f}"),
        ),
        rows=tuple(
            (
                one.name,
                where[one.name],
                weights[one.name] / total,
                one.token_share,
                one.row_share,
                one.tokens,
                one.epochs,
            )
            for one in readings
        ),
        note="Counted over the samples of the run's order. A pass is once through all windows of a source.",
    )


def left_out_table(skipped: Mapping[str, Sequence[Exclusion]]) -> Table:
    """Shards, files and rows that were not read, by source."""
    return Table(
        name="left_out",
        title="Text that was left out",
        columns=(
            Column(name="source", title="source"),
            Column(name="what", title="what"),
            Column(name="reason", title="reason"),
        ),
        rows=tuple((name, one.what, one.reason) for name, left in skipped.items() for one in left),
    )


def account_mixture(
    mixture: Mixture, tokens: float, *, tokens_per_row: Mapping[str, float] | None = None
) -> tuple[SourceAccount, ...]:
    """Shares and passes of each source with a weight.

    Args:
        mixture: sources and weights.
        tokens: training tokens of the run; >= 0.
        tokens_per_row: mean lengths by source, in place of the mixture's own.

    Raises ValueError when the weights sum to 0 or a length is not above 0.
    """
    sources = [source for source in mixture.sources if source.weight > 0]
    if not sources:
        raise ValueError("the weights of the mixture sum to 0; give one source a weight")
    given = tokens_per_row or {}
    lengths = [given.get(source.name, source.tokens_per_row) for source in sources]
    for source, length in zip(sources, lengths, strict=True):
        if length is not None and not length > 0:
            raise ValueError(f"{source.name}: {length} tokens per row; it takes a number above 0")
    weights = np.array([source.weight for source in sources])
    shares = (weights / weights.sum()).tolist()
    unknown = [source.name for source, length in zip(sources, lengths, strict=True) if length is None]
    other = None if unknown else _other_shares(shares, [float(n) for n in lengths if n], mixture.weight_unit)
    reason = f"nobody has counted the tokens per row of {', '.join(unknown)}" if unknown else None
    found = []
    for index, source in enumerate(sources):
        converted = None if other is None else other[index]
        by_row, by_token = (
            (shares[index], converted) if mixture.weight_unit == "rows" else (converted, shares[index])
        )
        read = None if by_token is None else by_token * tokens
        why = reason if converted is None else None
        if source.tokens is None and why is None:
            why = f"nobody has counted the tokens of {source.name}"
        found.append(
            SourceAccount(
                name=source.name,
                weight_share=shares[index],
                row_share=by_row,
                token_share=by_token,
                tokens=read,
                different_tokens=source.tokens,
                epochs=None if read is None or not source.tokens else read / source.tokens,
                reason=why,
            )
        )
    return tuple(found)


def _other_shares(shares: Sequence[float], lengths: Sequence[float], unit: str) -> list[float]:
    """Shares of tokens from those of rows, or the reverse."""
    factor = np.array(lengths) if unit == "rows" else 1 / np.array(lengths)
    converted = np.array(shares) * factor
    return [float(share) for share in converted / converted.sum()]


def rows_until_exhausted(shares: Sequence[float], rows: Sequence[float]) -> float:
    """Rows drawn until every source has been gone through at least once, when sources are drawn by chance.

    This is when Hugging Face's ``interleave_datasets(stopping_strategy="all_exhausted")`` ends; until then a
    source that is exhausted starts again. The slowest source decides, max n_i / p_i, up to fluctuations of
    the order of the square root of n_i.

    Raises ValueError for shares that are not above 0.
    """
    if not shares or min(shares) <= 0 or min(rows) <= 0:
        raise ValueError("every source needs a share and rows above 0")
    total = sum(shares)
    return max(n * total / share for share, n in zip(shares, rows, strict=True))


def simulate_until_exhausted(
    shares: Sequence[float], rows: Sequence[int], generator: np.random.Generator
) -> list[int]:
    """Rows drawn from each source until the last one has been gone through, drawn one by one.

    Args:
        shares: chances of the sources; they are normalised.
        rows: rows of each.
        generator: for the draws.
    """
    chances = np.array(shares) / np.sum(shares)
    drawn = np.zeros(len(rows), dtype=np.int64)
    block = max(1000, int(rows_until_exhausted(shares, rows) / 20))
    while True:
        picks = generator.choice(len(rows), size=block, p=chances)
        counts = np.cumsum(picks[:, None] == np.arange(len(rows)), axis=0) + drawn
        done = np.all(counts >= np.array(rows), axis=1)
        if done.any():
            return [int(count) for count in counts[int(np.argmax(done))]]
        drawn = counts[-1]
