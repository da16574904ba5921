"""Finding and reading text: every kind of file, the split, and a reason for whatever is left out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
from pathlib import Path

import pytest

from isoflop.data.documents import DataError, Document, Skips, find_source, read_documents, side_of

ROWS = [{"text": f"row {i} says something of its own", "n": i} for i in range(60)]
TEXTS = [row["text"] for row in ROWS]


def _read(path: Path, **options) -> tuple[list[Document], dict[str, str]]:
    source = find_source(path, **options)
    documents = list(read_documents(source, source.skips))
    return documents, {left.what: left.reason for left in source.skips.exclusions()}


def _texts(documents: list[Document]) -> list[str]:
    return [document.data.decode() for document in documents]


def _jsonl(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _write_parquet(path: Path, compression: str) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (n INTEGER, text VARCHAR)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [[row["n"], row["text"]] for row in ROWS])
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet, COMPRESSION {compression})")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "parquet.zst", "txt.gz"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path, kind):
    zstandard = pytest.importorskip("zstandard") if kind.endswith("zst") else None
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        _write_parquet(path, "zstd")
    elif kind == "parquet.zst":
        _write_parquet(tmp_path / "plain", "gzip")
        path.write_bytes(zstandard.compress((tmp_path / "plain").read_bytes()))
    elif kind == "txt.gz":
        path.write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    elif kind.endswith("gz"):
        path.write_bytes(gzip.compress(_jsonl(ROWS)))
    elif kind.endswith("zst"):
        half = len(ROWS) // 2  # two frames, as tools write that append
        path.write_bytes(zstandard.compress(_jsonl(ROWS[:half])) + zstandard.compress(_jsonl(ROWS[half:])))
    else:
        path.write_bytes(_jsonl(ROWS))
    documents, left_out = _read(path)
    assert _texts(documents) == (["\n".join(TEXTS)] if kind == "txt.gz" else TEXTS)
    assert left_out == {}


def test_the_text_field_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": "no", "story": "yes"}]))
    assert _texts(_read(tmp_path)[0]) == ["no"]
    assert _texts(_read(tmp_path, text_field="story")[0]) == ["yes"]
    assert _texts(_read(Path(f"{tmp_path}#story"))[0]) == ["yes"]
    documents, left_out = _read(tmp_path, text_field="poem")
    assert documents == []
    assert left_out == {"a.jsonl#1": "no text in the field poem"}


def test_a_parquet_file_without_text_says_which_columns_it_has(tmp_path):
    _write_parquet(tmp_path / "a.parquet", "snappy")
    documents, left_out = _read(tmp_path, text_field="poem")
    assert documents == []
    assert left_out == {"a.parquet": "no column poem; it has n, text"}


def test_the_split_is_by_the_hash_of_the_path(tmp_path):
    for i in range(80):
        folder = tmp_path / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.txt").write_text(f"text {i}")
    documents, _ = _read(tmp_path)
    assert len(documents) == 80
    for document in documents:
        held_out = int(hashlib.sha256(document.where.encode()).hexdigest(), 16) % 20 == 0
        assert document.side == ("val" if held_out else "train")
    assert {document.side for document in documents} == {"train", "val"}


def test_about_one_in_twenty_is_held_out():
    # 20,000 draws with probability 1/20: standard deviation 31; five of them are 155.
    held_out = sum(side_of(f"document {i}") == "val" for i in range(20_000))
    assert abs(held_out - 1000) < 155


def test_parts_of_one_document_stay_on_one_side(tmp_path):
    rows = [{"text": f"part {part} of {doc}", "doc": f"book {doc}"} for doc in range(40) for part in range(5)]
    (tmp_path / "a.jsonl").write_bytes(_jsonl(rows[::2]))
    (tmp_path / "b.jsonl").write_bytes(_jsonl(rows[1::2]))
    sides: dict[str, set[str]] = {}
    for document in _read(tmp_path)[0]:
        sides.setdefault(document.data.decode().split(" of ")[1], set()).add(document.side)
    assert len(sides) == 40
    assert all(len(found) == 1 for found in sides.values())


def test_copies_of_a_row_stay_on_one_side(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(_jsonl([{"text": f"copied {i % 30}"} for i in range(90)]))
    sides: dict[bytes, set[str]] = {}
    for document in _read(tmp_path)[0]:
        sides.setdefault(document.data, set()).add(document.side)
    assert all(len(found) == 1 for found in sides.values())


def test_names_that_say_train_and_validation_decide(tmp_path):
    (tmp_path / "train-00.jsonl").write_bytes(_jsonl(ROWS[:50]))
    (tmp_path / "validation-00.jsonl").write_bytes(_jsonl(ROWS[50:]))
    (tmp_path / "README.md").write_text("what this is")
    documents, left_out = _read(tmp_path)
    assert [document.side for document in documents] == ["train"] * 50 + ["val"] * 10
    assert list(left_out) == ["README.md"]


def test_whatever_is_left_out_has_a_reason(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"long enough to be cut" * 99)[:-30])
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    documents, left_out = _read(tmp_path)
    assert _texts(documents) == ["good"]
    assert left_out["empty.txt"] == "empty"
    assert "UTF-8" in left_out["latin.txt"]
    assert "zero byte" in left_out["binary.txt"]
    assert "could not be read" in left_out["cut.txt.gz"]
    assert ".png" in left_out["picture.png"]
    assert "could not be opened" in left_out["gone.txt"]
    assert len(left_out) == 6


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "good.txt").write_text("good")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    documents, left_out = _read(tmp_path)
    assert _texts(documents) == ["good"]
    assert left_out == {"locked": "could not be listed: Permission denied"}


def test_a_row_that_cannot_be_read_does_not_end_the_file(tmp_path):
    lines = [b'{"text": "first"}', b'{"text": "cut', b"[1, 2]", b'{"text": 7}', b'"a plain string"', b""]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, left_out = _read(tmp_path)
    assert _texts(documents) == ["first", "a plain string"]
    assert list(left_out) == ["a.jsonl#2", "a.jsonl#3", "a.jsonl#4"]


def test_a_compressed_file_cut_short_keeps_the_rows_before(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(_jsonl(ROWS), compresslevel=0)[:-600])
    documents, left_out = _read(tmp_path)
    assert 0 < len(documents) < len(ROWS)
    assert _texts(documents) == TEXTS[: len(documents)]
    assert "could not be read to its end" in left_out["a.jsonl.gz"]


def test_a_damaged_parquet_file_is_left_out_with_its_reason(tmp_path):
    (tmp_path / "good.jsonl").write_bytes(_jsonl(ROWS))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    documents, left_out = _read(tmp_path)
    assert _texts(documents) == TEXTS
    assert "could not be read" in left_out["bad.parquet"]


def test_many_skips_of_one_kind_end_in_a_count():
    skips = Skips()
    for i in range(1000):
        skips.add(f"file {i}", "empty")
    skips.add("other", "cut")
    found = skips.exclusions()
    assert len(found) == Skips.NAMED + 2
    assert found[Skips.NAMED].what == f"{1000 - Skips.NAMED} more"


@pytest.mark.parametrize(
    ("make", "words"), [(None, "no corpus at"), ("folder", "no text in"), ("png", "no text")]
)
def test_nothing_to_read_is_an_error(tmp_path, make, words):
    path = tmp_path / "x"
    if make == "folder":
        path.mkdir()
    elif make == "png":
        path = tmp_path / "x.png"
        path.write_bytes(b"png")
    with pytest.raises(DataError, match=words):
        find_source(path)


def test_the_standard_library_without_its_tests_and_tables():
    source = find_source("stdlib")
    names = {file.relative for file in source.files}
    assert {"argparse.py", "json/decoder.py", "asyncio/base_events.py"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "encodings", "idlelib", "site-packages", "turtledemo"}
    assert not [name for name in names if "_sysconfigdata" in name or name.startswith("config-")]
    assert sum(file.num_bytes for file in source.files) > 5e6
    assert platform.python_version() in source.description
