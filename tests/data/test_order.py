"""The order of training samples: a permutation per epoch, the same whatever is asked for at once."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isoflop.data import DataError, TrainingWindows, validation_windows
from isoflop.data import order as order_module
from isoflop.data.corpus import Corpus
from isoflop.data.order import permute, round_keys, token_shares
from isoflop.records import CorpusRecord, DataSource, DataSpec


def corpus(num_tokens: int = 1001, first: int = 0, files: int = 10, name: str = "planted") -> Corpus:
    """A corpus whose token number i is first + i, so that a window tells where it is from."""
    tokens = np.arange(first, first + num_tokens, dtype=np.uint32)
    record = CorpusRecord(
        source=name,
        corpus_sha256=f"{name}{num_tokens}",
        tokenizer="t",
        tokenizer_sha256="t",
        vocab_size=1 << 20,
        num_train_files=files,
        num_val_files=1,
        train_bytes=num_tokens,
        val_bytes=num_tokens,
        train_tokens=num_tokens,
        val_tokens=num_tokens,
        split_rule="",
    )
    token_bytes = (np.arange(1 << 20) % 7).astype(np.int32)
    return Corpus(record=record, train=tokens, val=tokens, token_bytes=token_bytes, folder=Path())


def spec(*corpora: Corpus, context: int = 10, seed: int = 0, weights=None, unit="tokens") -> DataSpec:
    sources = tuple(
        c.data_source(weight, unit)
        for c, weight in zip(corpora, weights or [1.0] * len(corpora), strict=True)
    )
    return DataSpec(sources=sources, context=context, order_seed=seed)


def windows_of(*corpora: Corpus, **options) -> TrainingWindows:
    return TrainingWindows(spec(*corpora, **options), corpora)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025])
def test_every_key_is_a_permutation(size):
    for epoch in range(5):
        found = permute(np.arange(size), size, round_keys(1, 0, epoch))
        assert np.array_equal(np.sort(found), np.arange(size))


def test_permutations_are_spread_evenly():
    """Over 2,400 epochs of 4 windows each of the 24 orders comes about 100 times: chi-square, 23 df.

    Its mean is 23 and its standard deviation 6.8; 60 is beyond the 99.99 % quantile (58).
    """
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for epoch in range(2400):
        counts[tuple(permute(np.arange(4), 4, round_keys(7, 0, epoch)))] += 1
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 60


def test_neighbours_are_parted_and_places_are_uniform():
    """In 400 epochs of 50 windows: where window 0 lands (chi-square, 49 df: beyond 94 once in 10,000), and
    how often windows that are neighbours in the text follow each other (expected 49/50 per epoch, Poisson:
    392 in all with standard deviation 20; five of them are 100)."""
    places = np.zeros(50)
    following = 0
    for epoch in range(400):
        found = permute(np.arange(50), 50, round_keys(3, 0, epoch))
        places[np.flatnonzero(found == 0)] += 1
        following += int((np.diff(found) == 1).sum())
    assert ((places - 8) ** 2 / 8).sum() < 94
    assert abs(following - 392) < 100


def test_the_order_is_pinned():
    """A run's identity includes its order: these numbers may never change."""
    windows = windows_of(corpus(), seed=5)
    assert windows.num_windows == 100
    assert windows.window_ids(0, 10)[1].tolist() == PINNED


PINNED = [79, 3, 78, 84, 12, 14, 21, 34, 41, 53]


def test_an_epoch_shows_every_window_once_and_each_in_its_own_order():
    windows = windows_of(corpus())
    epochs = [windows.batch(100 * epoch, 100) for epoch in range(3)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch[:, 0]), np.arange(0, 1000, 10))
        assert np.array_equal(
            epoch, epoch[:, :1] + np.arange(11)
        )  # consecutive tokens, one more than context
        assert epoch.dtype == np.int64
    assert not np.array_equal(epochs[0], epochs[1])


def test_batches_are_slices_of_one_sequence():
    """Any batch size, any rank, any starting point: sample g is the same."""
    windows = windows_of(corpus(), seed=9)
    whole = windows.batch(0, 350)
    rng = np.random.default_rng(0)
    for first, count in zip(rng.integers(0, 300, 40), rng.integers(1, 50, 40), strict=True):
        fresh = windows_of(corpus(), seed=9)
        assert np.array_equal(fresh.batch(int(first), int(count)), whole[first : first + count])
    ranks = [windows.batch(first, 5) for first in range(0, 100, 5)]
    assert np.array_equal(np.concatenate(ranks), whole[:100])


def test_order_without_tables_is_the_same(monkeypatch):
    with_tables = windows_of(corpus()).batch(0, 250)
    monkeypatch.setattr(order_module, "TABLE_WINDOWS", 10)
    assert np.array_equal(windows_of(corpus()).batch(0, 250), with_tables)


def test_a_far_sample_of_a_huge_corpus_is_found_at_once():
    """2^40 windows: no table could be kept, and the image is still one-to-one on a sample of positions."""
    size = 1 << 40
    found = permute(np.arange(10_000) + (size - 10_000), size - 5, round_keys(1, 0, 0))
    assert len(np.unique(found)) == 10_000
    assert found.max() < size - 5
    assert found.min() < size // 100  # 10,000 draws from the whole range


def test_another_seed_is_another_order():
    assert not np.array_equal(
        windows_of(corpus(), seed=1).batch(0, 50), windows_of(corpus(), seed=2).batch(0, 50)
    )


def test_epochs_are_counted():
    assert windows_of(corpus()).epochs(250) == (2.5,)


# ------------------------------------------------------------------------------------ mixtures


def test_a_mixture_keeps_its_shares_and_goes_through_each_source():
    small, large = corpus(501, name="small"), corpus(3001, first=100_000, name="large")
    windows = windows_of(small, large, weights=[1.0, 3.0])
    source, window = windows.window_ids(0, 20_000)
    assert (source == 0).sum() == 5_000
    assert windows.epochs(20_000) == (5_000 / 50, 15_000 / 300)
    for index, size in ((0, 50), (1, 300)):
        mine = window[source == index]
        for epoch in range(3):
            assert np.array_equal(np.sort(mine[epoch * size : (epoch + 1) * size]), np.arange(size))
    rows = windows.batch(1234, 100)
    assert np.array_equal(rows[:, 0] >= 100_000, source[1234:1334] == 1)


def test_a_mixture_is_even_at_every_length():
    """No stretch is far from its share: within two samples over any prefix, for three uneven sources."""
    windows = windows_of(
        corpus(401, name="a"), corpus(501, name="b"), corpus(601, name="c"), weights=[0.2, 0.5, 0.3]
    )
    source, _ = windows.window_ids(0, 25_000)
    for index, share in enumerate((0.2, 0.5, 0.3)):
        off = np.cumsum(source == index) - share * np.arange(1, 25_001)
        assert np.abs(off).max() <= 2
    counted = [(source[:777] == index).sum() / size for index, size in enumerate((40, 50, 60))]
    assert windows.epochs(777) == pytest.approx(counted)


def test_a_mixture_resumes_anywhere():
    make = lambda: windows_of(corpus(501, name="a"), corpus(3001, name="b"), weights=[1, 3], seed=4)  # noqa: E731
    whole = make().batch(9_900, 300)
    assert np.array_equal(make().batch(10_050, 20), whole[150:170])


def test_weights_in_rows_are_weights_of_documents():
    """Equal rows of 100-token and of 300-token documents are tokens in the proportion 1 to 3."""
    short, long = corpus(1001, files=10, name="short"), corpus(3001, files=10, name="long")
    data = spec(short, long, weights=[1.0, 1.0], unit="rows")
    assert token_shares(data, [short, long]) == pytest.approx([1001 / 4002, 3001 / 4002])
    source, _ = TrainingWindows(data, [short, long]).window_ids(0, 10_000)
    assert abs((source == 0).mean() - 0.25) < 0.001


@pytest.mark.parametrize(
    ("error", "words", "build"),
    [
        (DataError, "too few for one window", lambda: windows_of(corpus(10))),
        (ValueError, "one for each", lambda: TrainingWindows(spec(corpus()), [])),
        (ValueError, "another one", lambda: TrainingWindows(spec(corpus()), [corpus(2001)])),
        (ValueError, "above 0", lambda: windows_of(corpus(), corpus(2001), weights=[1.0, 0.0])),
        (DataError, "below 1 in", lambda: windows_of(corpus(), corpus(2001), weights=[1.0, 1e-6])),
        (ValueError, "counted from 0", lambda: windows_of(corpus()).batch(-1, 3)),
    ],
)
def test_what_cannot_be_ordered_is_refused(error, words, build):
    with pytest.raises(error, match=words):
        build()


def test_sources_in_other_tokens_are_refused():
    one, two = corpus(name="one"), corpus(name="two")
    record = msgspec.structs.replace(two.record, tokenizer_sha256="other")
    two = Corpus(record=record, train=two.train, val=two.val, token_bytes=two.token_bytes, folder=two.folder)
    with pytest.raises(DataError, match="tokenized differently"):
        windows_of(one, two)


def test_mixed_units_of_weight_are_refused():
    one, two = corpus(name="one"), corpus(name="two")
    sources: tuple[DataSource, ...] = (one.data_source(1.0, "rows"), two.data_source(1.0, "tokens"))
    with pytest.raises(ValueError, match="cannot be mixed"):
        TrainingWindows(DataSpec(sources=sources, context=10, order_seed=0), [one, two])


# ---------------------------------------------------------------------------------- validation


def test_validation_windows_are_evenly_spaced_and_count_their_bytes():
    windows = validation_windows(corpus(1001), context=10, num_windows=25)
    assert windows.tokens.shape == (25, 11)
    assert np.array_equal(windows.tokens[:, 0], np.arange(25) * 40)
    assert np.array_equal(windows.tokens, windows.tokens[:, :1] + np.arange(11))
    assert windows.num_bytes.tolist() == (windows.tokens[:, 1:] % 7).sum(axis=1).tolist()


@pytest.mark.parametrize("num_windows", [1, 3, 7, 99, 100])
def test_validation_windows_never_overlap(num_windows):
    starts = validation_windows(corpus(1001), 10, num_windows).tokens[:, 0]
    assert len(starts) == num_windows
    assert (np.diff(starts) >= 10).all()


def test_too_few_validation_tokens_say_how_many_there_are():
    with pytest.raises(DataError, match="enough for 100 windows"):
        validation_windows(corpus(1001), context=10, num_windows=101)
    with pytest.raises(DataError, match="enough for 0 windows"):
        validation_windows(corpus(5), context=10, num_windows=1)
    with pytest.raises(ValueError, match="1 or more"):
        validation_windows(corpus(), context=0, num_windows=1)
