"""Mixtures: shares in rows and in tokens, one tokenizer, refusals, documents kept apart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from isoflop.data import DataError, TrainingWindows
from isoflop.data.mixture import account, counted, open_mixture, segments
from isoflop.data.shards import open_shards, part_path
from isoflop.data.tokenize import tokenize
from isoflop.plan.mixture_account import account_mixture
from isoflop.plan.recipe import load_recipe
from isoflop.records import Mixture, MixtureSource

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "llama3.1-8b-continual"
SHORT, LONG = 20, 60


def write_source(folder: Path, letter: str, length: int, count: int) -> None:
    folder.mkdir(parents=True)
    rows = [f'{{"text": "{letter * length}", "id": "{letter}{number}"}}' for number in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards "short" and "long": as many documents of 20 and of 60 bytes, with an end token each."""
    for name, letter, length in (("short", "s", SHORT), ("long", "l", LONG)):
        write_source(tmp_path / "text" / name, letter, length, 500)
        tokenize(tmp_path / "text" / name, "bytes", tmp_path / "shards" / name, workers=1)
    return tmp_path / "shards"


def mixture(unit: str, short: float = 1.0, long: float = 1.0, **changes: object) -> Mixture:
    sources = (
        MixtureSource(name="short", where="nowhere", weight=short),
        MixtureSource(name="long", where="nowhere", weight=long),
    )
    return msgspec.structs.replace(Mixture(sources=sources, weight_unit=unit), **changes)  # type: ignore[arg-type]


def opened(folder: Path, mix: Mixture, **options: object):
    return open_mixture(mix, folder, tokenizer="bytes", context=15, order_seed=1, **options)  # type: ignore[arg-type]


def test_equal_rows_are_tokens_by_length_and_the_reverse(folder):
    samples = 10_000  # one cycle of slots: shares are exact to one in so many
    short, long = account(opened(folder, mixture("rows")), samples)
    wanted = (SHORT + 1) / (SHORT + LONG + 2)
    assert short.token_share == pytest.approx(wanted, abs=1e-4)
    assert (short.row_share, long.row_share) == pytest.approx((0.5, 0.5), abs=2e-4)
    short, long = account(opened(folder, mixture("tokens")), samples)
    assert short.token_share == 0.5
    assert short.row_share == pytest.approx(1 - wanted, abs=2e-4)


def test_accounts_are_what_the_loader_gives(folder):
    """Counted token by token over the samples themselves."""
    found = opened(folder, mixture("tokens", short=3.0, long=1.0))
    windows = TrainingWindows(found.data, found.corpora)
    batch = windows.batch(0, 2000)
    readings = {reading.name: reading for reading in account(found, 2000)}
    for name, letter in (("short", "s"), ("long", "l")):
        share = (batch[:, 7] == ord(letter)).sum() / (batch[:, 7] > 0).sum()
        # Positions that hold an end token are left out: one in 21 and one in 61, so shares shift by 1 %.
        assert share == pytest.approx(readings[name].token_share, abs=0.02)
    assert sum(reading.samples for reading in readings.values()) == 2000
    assert readings["short"].epochs == pytest.approx(1500 / readings["short"].windows)
    assert readings["short"].epochs > 1


def test_counts_of_what_is_there_replace_the_published_ones(folder):
    mix = mixture("rows")
    published = MixtureSource(name="web", where="hf:a/b", weight=1.0, tokens=5.0, tokens_per_row=2.0)
    found = counted(msgspec.structs.replace(mix, sources=(*mix.sources, published)), folder)
    assert [source.tokens_per_row for source in found.sources] == [SHORT + 1, LONG + 1, 2.0]
    assert [source.tokens for source in found.sources] == [500 * (SHORT + 1), 500 * (LONG + 1), 5.0]
    # What the weights were said to mean beforehand is what the loader then gives.
    planned = account_mixture(counted(mix, folder), 1e6)
    real = account(opened(folder, mix), 10_000)
    assert [one.token_share for one in planned] == pytest.approx([one.token_share for one in real], abs=1e-4)


def test_a_source_without_weight_is_left_out(folder):
    found = opened(folder, mixture("tokens", long=0.0))
    assert found.names == ("short",)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (mixture("tokens", 0.0, 0.0), "sum to 0"),
        (mixture("rows", -1.0), "0 or more"),
        (mixture("rows", float("nan")), "0 or more"),
    ],
)
def test_bad_weights_are_refused(folder, mix, words):
    with pytest.raises(ValueError, match=words):
        opened(folder, mix)


def test_a_source_that_is_not_here_comes_with_its_command(folder):
    mix = mixture("tokens")
    sources = (*mix.sources, MixtureSource(name="web", where="hf:a/b:c", weight=1.0))
    with pytest.raises(DataError, match=r"isoflop data tokenize 'hf:a/b:c' --tokenizer bytes --out .*web"):
        opened(folder, msgspec.structs.replace(mix, sources=sources))


def test_a_damaged_shard_is_refused_or_left_out_and_recorded(folder):
    part = open_shards(folder / "long").index.parts[0]
    path = part_path(folder / "long", part.name, "train")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="damaged"):
        opened(folder, mixture("tokens"))
    with pytest.raises(DataError, match="all training tokens"):  # it was the only part
        opened(folder, mixture("tokens"), skip_damaged=True)


def test_text_and_shards_share_the_tokenizer_of_the_shards(tmp_path, folder):
    pytest.importorskip("tokenizers")
    text = mixture("tokens", short=2.0)
    sources = tuple(
        msgspec.structs.replace(source, where=str(tmp_path / "text" / source.name)) for source in text.sources
    )
    found = open_mixture(
        msgspec.structs.replace(text, sources=sources),
        tmp_path / "none",
        tokenizer="bpe-300",
        context=8,
        order_seed=0,
        cache_dir=tmp_path / "cache",
    )
    assert len({source.tokenizer_sha256 for source in found.data.sources}) == 1
    assert found.end_token == 0


# ---------------------------------------------------------------------------------------- packing


def test_documents_in_a_window_are_told_apart():
    tokens = np.array([[5, 6, 0, 7, 8, 9, 0, 4, 3]])  # 0 ends a document; the last column is only predicted
    found = segments(tokens, 0)
    assert found.document.tolist() == [[0, 0, 0, 1, 1, 1, 1, 2]]
    assert found.position.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0]]
    assert found.predicts.tolist() == [[True, True, False, True, True, True, False, True]]


def test_segments_of_random_windows_agree_with_a_loop():
    tokens = np.random.default_rng(0).integers(0, 4, (30, 41))
    found = segments(tokens, 0)
    for row, documents, positions in zip(tokens, found.document, found.position, strict=True):
        document = position = 0
        for at, token in enumerate(row[:-1]):
            assert (documents[at], positions[at]) == (document, position)
            position += 1
            if token == 0:
                document, position = document + 1, 0


def test_a_tokenizer_without_an_end_cannot_keep_documents_apart():
    with pytest.raises(DataError, match="cannot be kept apart"):
        segments(np.zeros((1, 3), dtype=np.int64), None)


# ------------------------------------------------------------------------------------- the recipe


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["corrected", "as-posted"])
def test_the_small_recipe_opens_offline(variant, tmp_path):
    """Six parts of the standard library under one tokenizer, in the recipe's unit of weight."""
    pytest.importorskip("tokenizers")
    recipe = load_recipe(RECIPE, variant, "cpu")
    found = open_mixture(
        recipe.mixture,
        tmp_path,
        tokenizer=recipe.tokenizer,
        context=recipe.context,
        order_seed=recipe.order_seed,
    )
    assert found.names == tuple(source.name for source in recipe.mixture.sources)
    readings = account(found, recipe.num_steps * recipe.batch_seqs)
    shares = [r.token_share if variant == "corrected" else r.row_share for r in readings]
    # Shares are multiples of one in 10,000 slots, and 3,200 samples stop within a cycle.
    assert shares == pytest.approx([0.40, 0.44, 0.03, 0.02, 0.10, 0.01], abs=0.003)
    assert max(reading.epochs for reading in readings) < 4
