"""Prepared corpora: the same text gives the same hashes and ids, cached once, and refused when changed."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from isoflop.data import Corpus, DataError, check_epochs, epochs_of, open_corpus, prepare
from isoflop.data.corpus import cut_at_line, pieces_of
from isoflop.records import CorpusRecord, decode, encode

SENTENCE = "the quick brown fox jumps over a lazy dog while naïve 漢字 and \t spaces  meet\n"
WORDS = SENTENCE.split(" ")


def write_texts(folder: Path, num_files: int = 60, seed: int = 1, words_each: int = 300) -> Path:
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num_files):
        (folder / f"{i:03}.txt").write_text(" ".join(rng.choices(WORDS, k=words_each)), encoding="utf-8")
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    return write_texts(tmp_path / "texts")


def test_bytes_are_the_text_itself(texts, tmp_path):
    corpus = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    documents = bytes(corpus.train.astype(np.uint8)).split(b"\0")
    assert documents.pop() == b""  # every document ends with the zero byte
    originals = {path.read_bytes() for path in texts.iterdir()}
    assert set(documents) < originals
    assert len(documents) == corpus.record.num_train_files
    assert corpus.record.num_train_files + corpus.record.num_val_files == 60
    assert corpus.record.vocab_size == 256


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe-300"])
def test_tokens_stand_for_every_byte_of_the_text(texts, tmp_path, tokenizer):
    if tokenizer != "bytes":
        pytest.importorskip("tokenizers")
    corpus = prepare(texts, tokenizer, cache_dir=tmp_path / "cache")
    record = corpus.record
    assert corpus.token_bytes[corpus.train].sum() == record.train_bytes
    assert corpus.token_bytes[corpus.val].sum() == record.val_bytes
    assert record.train_bytes + record.val_bytes == sum(path.stat().st_size for path in texts.iterdir())
    assert (corpus.train == 0).sum() == record.num_train_files  # end tokens
    assert (len(corpus.train), len(corpus.val)) == (record.train_tokens, record.val_tokens)
    assert corpus.train.max() < record.vocab_size == len(corpus.token_bytes)
    assert decode(encode(record), CorpusRecord) == record


def test_bpe_gives_the_text_back(texts, tmp_path):
    pytest.importorskip("tokenizers")
    corpus = prepare(texts, "bpe-300", cache_dir=tmp_path / "cache")
    ends = np.flatnonzero(np.asarray(corpus.val) == 0)
    first = corpus.load_tokenizer().backend.decode(list(corpus.val[: ends[0]]))
    assert first in {path.read_text(encoding="utf-8") for path in texts.iterdir()}
    assert corpus.record.train_tokens < corpus.record.train_bytes / 2


def test_text_that_spells_a_special_token_is_text(texts, tmp_path):
    pytest.importorskip("tokenizers")
    (texts / "000.txt").write_text("<|endoftext|> " * 50)
    corpus = prepare(texts, "bpe-300", cache_dir=tmp_path / "cache")
    ends = (corpus.train == 0).sum() + (corpus.val == 0).sum()
    assert ends == 60
    assert corpus.token_bytes[corpus.train].sum() == corpus.record.train_bytes


def test_the_second_time_is_only_opening(texts, tmp_path):
    first = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    said: list[str] = []
    started = time.perf_counter()
    again = prepare(texts, "bytes", cache_dir=tmp_path / "cache", progress=said.append)
    assert time.perf_counter() - started < 0.1  # the promise; it takes about 0.01 s
    assert said == []
    assert again.record == first.record
    assert np.array_equal(again.train, first.train)


def test_the_same_text_elsewhere_has_the_same_hash(tmp_path):
    one = prepare(write_texts(tmp_path / "a"), "bytes", cache_dir=tmp_path / "cache")
    two = prepare(write_texts(tmp_path / "b"), "bytes", cache_dir=tmp_path / "other")
    assert one.record.corpus_sha256 == two.record.corpus_sha256
    other = prepare(write_texts(tmp_path / "c", seed=2), "bytes", cache_dir=tmp_path / "cache")
    assert other.record.corpus_sha256 != one.record.corpus_sha256


def test_a_renamed_file_is_another_corpus(texts, tmp_path):
    before = prepare(texts, "bytes", cache_dir=tmp_path / "cache").record.corpus_sha256
    (texts / "000.txt").rename(texts / "renamed.txt")
    assert prepare(texts, "bytes", cache_dir=tmp_path / "cache").record.corpus_sha256 != before


def _prepare_elsewhere(source: Path, tokenizer: str, cache: Path) -> tuple[str, str, int]:
    record = prepare(source, tokenizer, cache_dir=cache).record
    return record.corpus_sha256, record.tokenizer_sha256, record.train_tokens


def test_two_processes_at_once_and_another_process_agree(texts, tmp_path, monkeypatch):
    """Two share a cache and must not disturb each other; a third, with a cache of its own, finds the same."""
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [
            pool.apply_async(_prepare_elsewhere, (texts, "bpe-300", tmp_path / "shared")) for _ in range(2)
        ]
        results = [job.get(timeout=60) for job in jobs]
    results.append(_prepare_elsewhere(texts, "bpe-300", tmp_path / "own"))
    assert results[0] == results[1] == results[2]
    assert len(list((tmp_path / "shared" / "corpora").iterdir())) == 1


def test_a_run_finds_its_corpus_by_hash(texts, tmp_path):
    corpus = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    moved = msgspec.structs.replace(corpus.data_source(), source="/nowhere/any/more")
    found = open_corpus(moved, cache_dir=tmp_path / "cache")
    assert np.array_equal(found.val, corpus.val)


def test_an_emptied_cache_is_filled_again(texts, tmp_path):
    corpus = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    found = open_corpus(corpus.data_source(), cache_dir=tmp_path / "new")
    assert found.record == corpus.record


def test_changed_text_is_refused_with_both_hashes(texts, tmp_path):
    source = prepare(texts, "bytes", cache_dir=tmp_path / "cache").data_source()
    (texts / "000.txt").write_text("something else")
    changed = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="is not the one") as caught:
        open_corpus(source, cache_dir=tmp_path / "new")
    assert source.corpus_sha256[:16] in str(caught.value)
    assert changed.record.corpus_sha256[:16] in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "no record", "unreadable record", "older record", "index"])
def test_a_damaged_cache_is_made_again(texts, tmp_path, damage):
    corpus = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    tokens = np.array(corpus.train)
    if damage == "cut":
        (corpus.folder / "train.bin").write_bytes(b"ab")
    elif damage == "no record":
        (corpus.folder / "record.json").unlink()
    elif damage == "unreadable record":
        (corpus.folder / "record.json").write_text('{"schema": ')
    elif damage == "older record":
        record = json.loads((corpus.folder / "record.json").read_text())
        (corpus.folder / "record.json").write_text(json.dumps(record | {"schema": "isoflop.CorpusRecord/99"}))
    else:
        next((tmp_path / "cache" / "index").glob("*.json")).write_text("{")
    again = prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    assert np.array_equal(again.train, tokens)
    assert again.record == corpus.record


def test_a_killed_preparation_leaves_nothing_that_counts(texts, tmp_path, monkeypatch):
    """Interrupted after the tokens are written, before the folder has its name."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("isoflop.data.corpus._write_small_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(texts, "bytes", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []
    assert prepare(texts, "bytes", cache_dir=tmp_path / "cache").record.num_train_files > 0


def test_a_cache_that_cannot_be_written_says_so(texts, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="ISOFLOP_CACHE"):
        prepare(texts, "bytes", cache_dir=tmp_path / "cache")


def test_the_environment_names_the_cache(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "mine"))
    assert prepare(texts, "bytes").folder.is_relative_to(tmp_path / "mine")


def test_one_long_file_is_split_at_its_tail(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text("".join(f"line {i} of the novel\n" for i in range(20_000)))
    corpus = prepare(path, "bytes", cache_dir=tmp_path / "cache")
    share = corpus.record.val_bytes / path.stat().st_size
    assert (
        0.05 <= share < 0.0501
    )  # a twentieth, rounded up to the start of a line of some 24 of 460,000 bytes
    assert bytes(corpus.val[:5].astype(np.uint8)) == b"line "
    assert "last 20th" in corpus.record.split_rule
    assert (
        bytes(corpus.train[corpus.train > 0].astype(np.uint8))
        + bytes(corpus.val[corpus.val > 0].astype(np.uint8))
        == path.read_bytes()
    )


def test_pieces_of_a_long_document_are_whole_characters(monkeypatch):
    monkeypatch.setattr("isoflop.data.corpus.ENCODE_PIECE_BYTES", 10)
    for text in ("漢字" * 50, "no line end at all " * 9, "a\nb\n" * 30, "short"):
        pieces = list(pieces_of(text.encode()))
        assert b"".join(pieces) == text.encode()
        assert all(piece.decode() for piece in pieces)
        assert max(map(len, pieces)) <= 10
    assert cut_at_line(b"0123456789\nab", 12) == 11


def test_skips_are_in_the_record(texts, tmp_path):
    (texts / "000.txt").write_bytes(b"\xff\xfe")
    record = prepare(texts, "bytes", cache_dir=tmp_path / "cache").record
    assert [left.what for left in record.skipped] == ["000.txt"]
    assert "UTF-8" in record.skipped[0].reason


def test_nothing_readable_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        prepare(tmp_path, "bytes", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["bpe-12", "bpe-x", "words", "bpe-99999999", "/no/such/tokenizer.json"])
def test_what_is_no_tokenizer_is_refused(texts, tmp_path, name):
    with pytest.raises(ValueError, match="is no tokenizer"):
        prepare(texts, name, cache_dir=tmp_path / "cache")


def test_a_tokenizer_file_is_used_and_hashed(texts, tmp_path):
    pytest.importorskip("tokenizers")
    trained = prepare(texts, "bpe-300", cache_dir=tmp_path / "cache")
    path = tmp_path / "tokenizer.json"
    path.write_text((trained.folder / "tokenizer.json").read_text())
    given = prepare(texts, str(path), cache_dir=tmp_path / "cache")
    assert given.record.tokenizer_sha256 == trained.record.tokenizer_sha256
    assert np.array_equal(given.train, trained.train)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        prepare(texts, str(path), cache_dir=tmp_path / "cache")


def test_a_foreign_tokenizer_that_loses_text_says_so(texts, tmp_path):
    """A word-level tokenizer drops the spaces: bits per byte would be wrong, so the record says how much."""
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "quick": 2, "fox": 3}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "words.json"))
    record = prepare(texts, str(tmp_path / "words.json"), cache_dir=tmp_path / "cache").record
    assert "% of its bytes" in record.description


def test_epochs_and_their_limit(texts, tmp_path):
    record = prepare(texts, "bytes", cache_dir=tmp_path / "cache").record
    assert epochs_of(record, 3 * record.train_tokens) == 3
    assert check_epochs(record, 4 * record.train_tokens) == 4
    with pytest.raises(DataError, match=r"would be 10\.0 epochs") as caught:
        check_epochs(record, 10 * record.train_tokens)
    assert f"{4 * record.train_tokens:,}" in str(caught.value)
    assert check_epochs(record, 10 * record.train_tokens, limit=10) == 10


def test_the_standard_library_with_its_own_source(tmp_path):
    corpus = prepare("stdlib", "bytes", cache_dir=tmp_path / "cache")
    record = corpus.record
    assert record.source == "stdlib"
    assert 0.02 < record.val_bytes / (record.train_bytes + record.val_bytes) < 0.15
    assert isinstance(open_corpus(corpus.data_source(), cache_dir=tmp_path / "cache"), Corpus)


@pytest.mark.slow
def test_the_default_corpus_within_its_time(tmp_path):
    """The standard library in a BPE of 512: under 12 s of one core's time (about 3.5 s when it was written)."""
    pytest.importorskip("tokenizers")
    started = time.process_time()
    corpus = prepare(cache_dir=tmp_path / "cache")
    assert time.process_time() - started < 12
    assert corpus.record.vocab_size == 512
    # Facts of such text that hold for every Python release: about 2.2 bytes per token, millions of tokens.
    assert 1.9 < corpus.record.train_bytes / corpus.record.train_tokens < 2.5
    assert corpus.record.train_tokens > 2e6
