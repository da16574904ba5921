"""Many files that read as one array: the same windows, and clear words about damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import isoflop.data.tokenize as tokenize_module
from isoflop.data import DataError, TrainingWindows, prepare, validation_windows
from isoflop.data import shards as shards_module
from isoflop.data.corpus import open_corpus
from isoflop.data.shards import (
    ShardSet,
    TokenShards,
    check_hashes,
    leave_out_damaged,
    open_shards,
    part_path,
    read_windows,
    token_dtype,
)
from isoflop.data.tokenize import tokenize
from isoflop.records import DataSpec, read


def spread(tmp_path: Path, sizes: list[int]) -> tuple[TokenShards, np.ndarray]:
    """Ids 0, 1, 2 ... over files of these sizes, and the same as one array."""
    whole = np.arange(sum(sizes), dtype="<u2")
    files, at = [], 0
    for number, size in enumerate(sizes):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(whole[at : at + size].tobytes())
        at += size
    return TokenShards(files, sizes, token_dtype(1000)), whole


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of forty documents in four files, in bytes; every file is a part of its own."""
    for number in range(4):
        rows = [f'{{"text": "{chr(97 + number) * (5 + row)}", "id": "{number}-{row}"}}' for row in range(10)]
        (tmp_path / f"f{number}.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(tokenize_module, "BYTES_PER_PART", 400)
    tokenize(tmp_path, "bytes", tmp_path / "out", workers=1, held_out_one_in=5)
    return tmp_path / "out"


@pytest.mark.parametrize("sizes", [[100], [7, 1, 0, 30, 62], [1] * 40, [0, 50, 0, 50, 0]])
@pytest.mark.parametrize("row_wise_from", [1, 10_000])
def test_windows_are_those_of_one_array(tmp_path, monkeypatch, sizes, row_wise_from):
    monkeypatch.setattr(shards_module, "ROW_WISE_FROM", row_wise_from)
    tokens, whole = spread(tmp_path, sizes)
    assert len(tokens) == len(whole)
    for width in (1, 2, 9, len(whole)):
        starts = np.random.default_rng(width).permutation(len(whole) - width + 1)
        found = tokens.windows(starts, width)
        assert found.dtype == np.int64
        assert np.array_equal(found, whole[starts[:, None] + np.arange(width)])
        assert np.array_equal(found, read_windows(whole, starts, width))


def test_windows_outside_are_refused(tmp_path):
    tokens, _ = spread(tmp_path, [5, 5])
    for starts in ([-1], [8]):
        with pytest.raises(IndexError, match="leave an array"):
            tokens.windows(np.array(starts), 3)


def test_shards_train_like_any_corpus(made):
    """The same windows by (seed, index) as from one array that holds the same ids."""
    corpus = prepare(made)
    data = DataSpec(sources=(corpus.data_source(),), context=16, order_seed=3)
    windows = TrainingWindows(data, [corpus])
    assert isinstance(corpus.train, TokenShards)
    whole = read_windows(corpus.train, np.array([0]), len(corpus.train))[0]
    assert len(whole) == corpus.record.train_tokens
    batch = windows.batch(5, 40)
    _, ids = windows.window_ids(5, 40)
    assert np.array_equal(batch, whole[ids[:, None] * 16 + np.arange(17)])
    assert open_corpus(data.sources[0]).record == corpus.record


def test_validation_reads_shards(made):
    corpus = prepare(made)
    found = validation_windows(corpus, context=8, num_windows=3)
    assert found.tokens.shape == (3, 9)
    # 97 .. 100 are the letters a .. d of the planted documents, 0 ends one.
    assert set(np.unique(found.tokens)) <= {0, 97, 98, 99, 100}
    assert np.array_equal(found.num_bytes, (found.tokens[:, 1:] != 0).sum(axis=1))


def test_counts_add_up(made):
    record = prepare(made).record
    assert record.num_train_files + record.num_val_files == 40
    assert record.num_val_files > 0
    # Every document is 5 + row letters and an end token.
    assert record.train_bytes + record.val_bytes == 4 * sum(5 + row for row in range(10))
    assert record.train_tokens == record.train_bytes + record.num_train_files


# ------------------------------------------------------------------------------------------ damage


def damage_second(folder: Path, how: str) -> str:
    name = open_shards(folder).index.parts[1].name
    path = part_path(folder, name, "train")
    if how == "gone":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = bytearray(path.read_bytes())
        data[3] ^= 1
        path.write_bytes(bytes(data))
    return name


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_damaged_shard_is_named_before_anything_is_read(made, how):
    name = damage_second(made, how)
    with pytest.raises(DataError, match=f"1 of 4 token shards.*{name}"):
        open_shards(made)
    before = open_shards_index(made)
    assert [exclusion.what for exclusion in leave_out_damaged(made)] == [name]
    opened = open_shards(made)
    assert len(opened.index.parts) == 3
    assert opened.index.corpus_sha256 != before  # another text, so another corpus
    record = prepare(made).record
    assert record.skipped[0].what == name
    assert leave_out_damaged(made) == ()


def open_shards_index(folder: Path) -> str:
    return read(folder / "shards.json", ShardSet).corpus_sha256


def test_tokenizing_again_brings_a_lost_part_back(made):
    before = open_shards_index(made)
    damage_second(made, "gone")
    leave_out_damaged(made)
    again = tokenize(made.parent, "bytes", made, workers=1, held_out_one_in=5)
    assert again.num_done_before == 3
    assert open_shards_index(made) == before


def test_a_flipped_bit_is_found_by_its_hash(made):
    assert check_hashes(made) == ()
    name = damage_second(made, "flipped")
    assert [exclusion.what for exclusion in check_hashes(made)] == [name]


def test_a_shard_that_vanishes_later_stops_the_run_with_a_remedy(made):
    opened = open_shards(made)
    damage_second(made, "gone")
    with pytest.raises(DataError, match="put it back, then resume"):
        opened.train.windows(np.arange(0, len(opened.train) - 2), 2)


def test_what_is_no_folder_of_shards_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="isoflop data tokenize"):
        open_shards(tmp_path)
    (tmp_path / "shards").mkdir()
    with pytest.raises(DataError, match="unfinished"):
        open_shards(tmp_path)
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(DataError, match="tokenize it again"):
        open_shards(tmp_path)
