"""Tokenizing to shards: the same bytes however the work is shared out or cut."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import isoflop.data.tokenize as tokenize_module
from isoflop.data import DataError
from isoflop.data.corpus import prepare
from isoflop.data.documents import Skips, cut_into_parts, find_source, read_documents, read_part
from isoflop.data.hub import load_tokenizer, parse_hub
from isoflop.data.shards import open_shards
from isoflop.data.tokenize import find_parts, tokenize


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def rows(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {"text": f"document {number}: " + "word é " * (1 + number % 7), "id": f"d{number}"}
        for number in range(first, first + count)
    ]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three hundred rows in a large plain file (cut into ranges), a packed one and a Unicode line separator."""
    monkeypatch.setattr(tokenize_module, "BYTES_PER_PART", 4000)
    folder = tmp_path / "text"
    write_rows(folder / "a.jsonl", rows(200))
    write_rows(folder / "b.jsonl.gz", [*rows(99, 200), {"text": "one\u2028line", "id": "d299"}])
    return folder


def contents(folder: Path) -> tuple[bytes, bytes, str]:
    """All ids of both sides, and the corpus hash."""
    opened = open_shards(folder)
    sides = [
        opened.train.windows(np.array([0]), len(opened.train)).tobytes() if len(opened.train) else b"",
        opened.val.windows(np.array([0]), len(opened.val)).tobytes() if len(opened.val) else b"",
    ]
    return sides[0], sides[1], opened.index.corpus_sha256


def documents(folder: Path) -> list[bytes]:
    """The training documents, in order, out of the shards of the tokenizer "bytes"."""
    opened = open_shards(folder)
    ids = opened.train.windows(np.array([0]), len(opened.train))[0].astype(np.uint8).tobytes()
    assert ids.endswith(b"\0")
    return ids[:-1].split(b"\0")


def test_every_document_comes_once_and_in_order(text, tmp_path):
    done = tokenize(text, "bytes", tmp_path / "out", workers=1)
    wanted = [document.data for document in read_documents(find_source(text), Skips())]
    assert len(wanted) == 300
    assert documents(tmp_path / "out") == wanted
    assert done.index is not None
    assert done.num_parts >= 3  # the plain file was cut into ranges
    assert done.text_bytes == sum(map(len, wanted))
    assert done.tokens == done.text_bytes + 300


@pytest.mark.parametrize("size", [1, 50, 137, 1000, 10**9])
def test_ranges_share_out_rows_whatever_their_size(text, size):
    """Every row is read once, by the range in which it begins, also where ranges are shorter than rows."""
    source = find_source(text)
    parts = cut_into_parts(source, size)
    found = [data for part in parts for _, data in read_part(part, None, Skips())]
    assert found == [document.data for document in read_documents(source, Skips())]


def test_shares_of_several_machines_make_the_same_folder(text, tmp_path):
    tokenize(text, "bytes", tmp_path / "one", workers=1, held_out_one_in=10)
    for share in (2, 3):
        assert (
            tokenize(text, "bytes", tmp_path / "three", part=(share, 3), workers=1, held_out_one_in=10).index
            is None
        )
    assert tokenize(text, "bytes", tmp_path / "three", part=(1, 3), workers=1, held_out_one_in=10).index
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.slow
def test_processes_make_the_same_folder(text, tmp_path):
    tokenize(text, "bytes", tmp_path / "one", workers=1)
    tokenize(text, "bytes", tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_held_out_documents_are_few_and_the_same_for_each_cut(text, tmp_path, monkeypatch):
    tokenize(text, "bytes", tmp_path / "one", workers=1, held_out_one_in=10)
    index = open_shards(tmp_path / "one").index
    held_out = sum(part.val_documents for part in index.parts)
    # 300 documents at 1 in 10: mean 30, standard deviation 5.2; four of them either side.
    assert 9 <= held_out <= 51
    monkeypatch.setattr(tokenize_module, "BYTES_PER_PART", 10**9)
    tokenize(text, "bytes", tmp_path / "two", workers=1, held_out_one_in=10)
    assert contents(tmp_path / "one")[:2] == contents(tmp_path / "two")[:2]


def test_a_second_call_does_nothing_and_a_changed_file_is_done_again(text, tmp_path):
    first = tokenize(text, "bytes", tmp_path / "out", workers=1)
    again = tokenize(text, "bytes", tmp_path / "out", workers=1)
    assert (again.num_done_before, again.tokens) == (first.num_parts, 0)
    assert again.index == first.index
    write_rows(text / "b.jsonl.gz", rows(50, 200))
    third = tokenize(text, "bytes", tmp_path / "out", workers=1)
    assert third.tokens < first.tokens / 2  # that file's part alone
    assert len(documents(tmp_path / "out")) == 250


def test_a_damaged_file_is_named_and_the_rest_is_kept(text, tmp_path):
    packed = text / "b.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"1 of \d+ parts cannot be read \(b\.jsonl\.gz.*are kept"):
        tokenize(text, "bytes", tmp_path / "out", workers=1)
    done = tokenize(text, "bytes", tmp_path / "out", workers=1, skip_damaged=True)
    assert done.num_done_before == done.num_parts - 1
    assert [item.what for item in done.damaged] == ["b.jsonl.gz"]
    assert len(documents(tmp_path / "out")) == 200


def test_rows_without_text_are_recorded(text, tmp_path):
    write_rows(text / "c.jsonl", [{"other": 1}, *rows(3, 300)])
    index = tokenize(text, "bytes", tmp_path / "out", workers=1).index
    assert index is not None
    reasons = [exclusion.reason for part in index.parts for exclusion in part.skipped]
    assert len(reasons) == 1
    assert "no text in the field" in reasons[0]


def test_a_full_disk_is_told_apart_from_a_bad_file(text, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenize_module, "_write_batch", full)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        tokenize(text, "bytes", tmp_path / "out", workers=1)
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_a_bpe_of_one_corpus_serves_others_and_begins_documents(text, tmp_path):
    pytest.importorskip("tokenizers")
    corpus = prepare(text, "bpe-300", cache_dir=tmp_path / "cache")
    file = corpus.folder / "tokenizer.json"
    tokenize(text, str(file), tmp_path / "out", workers=1)
    opened = open_shards(tmp_path / "out")
    tokenizer = corpus.load_tokenizer()
    ids = opened.train.windows(np.array([0]), len(opened.train))[0]
    texts = tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False).split("<|endoftext|>")
    wanted = [document.data.decode() for document in read_documents(find_source(text), Skips())]
    assert texts[:-1] == wanted
    assert np.array_equal(opened.token_bytes, tokenizer.token_bytes)
    with pytest.raises(ValueError, match="no begin token"):
        tokenize(text, str(file), tmp_path / "other", workers=1, begin=True)
    config = json.loads(file.read_text())
    config["added_tokens"].append(
        {**config["added_tokens"][0], "id": tokenizer.vocab_size, "content": "<|begin_of_text|>"}
    )
    with_begin = tmp_path / "tokenizer.json"
    with_begin.write_text(json.dumps(config))
    tokenize(text, str(with_begin), tmp_path / "begun", workers=1, begin=True)
    index = open_shards(tmp_path / "begun").index
    assert index.begin_token == tokenizer.vocab_size
    assert sum(part.train_tokens for part in index.parts) == len(ids) + 300


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "write the share", {"part": (4, 3)}),
        (ValueError, "takes 2 or more", {"held_out_one_in": 1}),
        (ValueError, "would have to be trained", {"tokenizer": "bpe-512"}),
        (ValueError, "no tokenizer at", {"tokenizer": "nowhere.json"}),
        (DataError, "no corpus at", {"source": "nowhere"}),
    ],
)
def test_what_cannot_be_tokenized_is_refused(text, tmp_path, error, words, call):
    source, tokenizer = call.pop("source", text), call.pop("tokenizer", "bytes")
    with pytest.raises(error, match=words):
        tokenize(source, tokenizer, tmp_path / "out", workers=1, **call)


def test_a_folder_of_another_tokenizer_is_refused(text, tmp_path):
    pytest.importorskip("tokenizers")
    tokenize(
        text, str(prepare(text, "bpe-300", cache_dir=tmp_path / "c").folder), tmp_path / "out", workers=1
    )
    with pytest.raises(DataError, match="another tokenizer"):
        tokenize(text, "bytes", tmp_path / "out", workers=1)


def test_processes_are_started_for_large_work_alone(text, monkeypatch):
    parts = list(find_parts(text))
    assert tokenize_module._processes(parts) == 1
    monkeypatch.setattr(tokenize_module, "BYTES_PER_PROCESS", 1000)
    monkeypatch.setattr(tokenize_module, "_cores", lambda: 4)
    assert tokenize_module._processes(parts) == 4
    assert tokenize_module._processes([]) == 1


@pytest.mark.slow
def test_small_files_share_a_part(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number:04}.py").write_text(f"x = {number}\n")
    parts = find_parts(tmp_path)
    assert len(parts) == 4  # 512 files each
    assert sum(len(part.files) for part in parts) == 2000


def test_hub_names_are_read():
    assert parse_hub("hf:Zyphra/Zyda-2:fwe3") == ("Zyphra/Zyda-2", "fwe3", "train", None)
    assert parse_hub("hf:a/b@test#body") == ("a/b", None, "test", "body")
    with pytest.raises(DataError, match="names no data set"):
        parse_hub("hf:")
    with pytest.raises(ValueError, match="no tokenizer at"):
        load_tokenizer("some/where/else")


def test_a_data_set_saved_to_disk_is_read_shard_by_shard(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("isoflop.data.hub.ROWS_PER_PART", 100)
    table = {"text": [row["text"] for row in rows(250)], "id": [row["id"] for row in rows(250)]}
    datasets.Dataset.from_dict(table).save_to_disk(str(tmp_path / "saved"))
    done = tokenize(f"hf:{tmp_path / 'saved'}", "bytes", tmp_path / "out", workers=1)
    assert done.num_parts == 2
    assert documents(tmp_path / "out") == [str(one).encode() for one in table["text"]]


@pytest.mark.slow
def test_a_kill_in_the_middle_costs_only_what_was_not_finished(text, tmp_path):
    """Killed again and again at chosen moments: the folder ends as one that was never disturbed."""
    write_rows(text / "c.jsonl", rows(3000, 300))
    tokenize(text, "bytes", tmp_path / "calm", workers=1)
    script = (
        "import isoflop.data.tokenize as t, sys, time\n"
        "t.BYTES_PER_PART = 4000\n"
        "real = t._write_batch\n"
        "def slow(*a):\n    time.sleep(0.01)\n    real(*a)\n"
        "t._write_batch = slow\n"
        f"t.tokenize({str(text)!r}, 'bytes', {str(tmp_path / 'out')!r}, workers=1)\n"
    )
    folder = tmp_path / "out" / "shards"
    for wanted in (3, 10):
        process = subprocess.Popen([sys.executable, "-c", script])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(folder.glob("*.json"))) < wanted:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = tokenize(text, "bytes", tmp_path / "out", workers=1)
    assert 10 <= done.num_done_before < done.num_parts
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")
