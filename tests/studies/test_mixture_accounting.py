"""P2.4: shares and passes by hand, the end of an interleaved stream, and the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoflop import records
from isoflop.plan.mixture_account import (
    account_mixture,
    rows_until_exhausted,
    simulate_until_exhausted,
)
from isoflop.plan.recipe import load_recipe
from isoflop.records import Evidence, Mixture, MixtureSource
from isoflop.studies import mixture_accounting

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "llama3.1-8b-continual"


def two(unit: str) -> Mixture:
    short = MixtureSource(name="short", where="", weight=1.0, tokens=1e6, tokens_per_row=100.0)
    long = MixtureSource(name="long", where="", weight=3.0, tokens=1e7, tokens_per_row=1000.0)
    return Mixture(sources=(short, long), weight_unit=unit)  # type: ignore[arg-type]


def test_shares_and_passes_by_hand():
    """One row in four of 100 tokens, three of 1,000: 100 of 3,100 tokens."""
    short, long = account_mixture(two("rows"), 3.1e6)
    assert (short.row_share, long.row_share) == (0.25, 0.75)
    assert short.token_share == pytest.approx(100 / 3100)
    assert short.tokens == pytest.approx(1e5)
    assert short.epochs == pytest.approx(0.1)
    assert long.epochs == pytest.approx(0.3)
    # In tokens: a quarter of them from short rows, so 10 / 13 of the rows.
    short, long = account_mixture(two("tokens"), 4e6)
    assert (short.token_share, short.epochs) == (0.25, 1.0)
    assert short.row_share == pytest.approx(0.25 / 100 / (0.25 / 100 + 0.75 / 1000))


def test_the_two_readings_are_inverse():
    rows = account_mixture(two("rows"), 1e6)
    weights = [one.token_share for one in rows]
    mixed = Mixture(
        sources=tuple(
            MixtureSource(name=s.name, where="", weight=w, tokens_per_row=s.tokens_per_row)  # type: ignore[arg-type]
            for s, w in zip(two("rows").sources, weights, strict=True)
        ),
        weight_unit="tokens",
    )
    assert [one.row_share for one in account_mixture(mixed, 1e6)] == pytest.approx([0.25, 0.75])


def test_what_nobody_counted_is_missing_with_a_reason():
    mixed = Mixture(sources=(MixtureSource(name="web", where="", weight=1.0),), weight_unit="rows")
    (one,) = account_mixture(mixed, 1e6)
    assert one.token_share is None
    assert one.epochs is None
    assert one.reason is not None
    assert "tokens per row of web" in one.reason
    with pytest.raises(ValueError, match="sum to 0"):
        account_mixture(Mixture(sources=(), weight_unit="rows"), 1.0)
    with pytest.raises(ValueError, match="above 0"):
        account_mixture(two("rows"), 1.0, tokens_per_row={"short": 0.0})


def test_a_stream_ends_with_its_slowest_source():
    assert rows_until_exhausted([40, 60], [400, 300]) == 1000
    # Drawn: the slower one needs 400 successes at 0.4; mean 1,000, sd sqrt(400 x 0.6) / 0.4 = 38.7; four of them.
    ends = [
        sum(simulate_until_exhausted([40, 60], [400, 300], np.random.default_rng(seed))) for seed in range(20)
    ]
    assert abs(np.mean(ends) - 1000) < 4 * 38.7 / 20**0.5
    first, second = simulate_until_exhausted([40, 60], [400, 300], np.random.default_rng(1))
    assert first == 400  # it ends exactly when the slower one is through
    assert second >= 300
    with pytest.raises(ValueError, match="above 0"):
        rows_until_exhausted([1, 0], [1, 1])


def test_the_posted_mixture():
    found = {one.name: one for one in mixture_accounting.accounts()}
    assert sum(one.token_share or 0.0 for one in found.values()) == pytest.approx(1.0)
    assert sum(one.different_tokens or 0.0 for one in found.values()) == pytest.approx(5.6e12, abs=0.05e12)
    # By hand, tokens per 100 rows: 40 x 1,293 + 44 x 1,031 + 3 x 535 + 2 x 660 + 10 x 16,602 + 1,582 = 267,627.
    assert found["Stack v2"].token_share == pytest.approx(166_020 / 267_627, rel=1e-3)
    assert found["DCLM"].epochs == pytest.approx(809.2e9 * 40 * 1293 / 267_627 / 3348.9e9, rel=2e-3)


def test_the_verdict_is_whole():
    verdict = mixture_accounting.judge(Evidence())
    assert records.decode(records.encode(verdict), records.Verdict).outcome == "supported"
    outcomes = [statement.outcome for statement in verdict.statements]
    assert outcomes == ["supported", "supported", "cannot tell", "supported"]
    low, high = verdict.summary["token_share_range"]["Stack v2"]
    assert 0.3 < low < 0.4
    assert 0.8 < high < 0.9
    for table in verdict.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    by_formula = {row[0]: row[1] for row in next(t for t in verdict.tables if t.name == "all_exhausted").rows}
    assert by_formula["Dolma"] == pytest.approx(1.0)  # the slowest: 445.6M rows at 3 %
    assert by_formula["Stack v2"] == pytest.approx(14_853e6 * 0.1 / 10**7.5, rel=1e-3)


def test_the_recipe_reads_the_same_counts():
    recipe = load_recipe(RECIPE, "as-posted")
    for source, one in zip(recipe.mixture.sources, mixture_accounting.POSTED, strict=True):
        assert source.weight == one.weight
        assert source.tokens == one.tokens
        assert source.tokens_per_row == pytest.approx(one.tokens / one.rows)
