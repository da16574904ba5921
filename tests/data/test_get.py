"""Fetching public files from a server on this machine: success, wrong content, cut transfer, no server."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isoflop.data import DataError
from isoflop.data.get import PublicData, catalogue, fetch, find, get

CONTENT = b"N,D,loss\n" + b"1e6,2e7,3.14\n" * 9000


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.csv":
            self.send_error(404)
            return
        body = {"/good.csv": CONTENT, "/changed.csv": CONTENT[:-1] + b"x", "/endless.csv": CONTENT * 50}
        self.send_response(200)
        cut = self.path == "/cut.csv"
        payload = CONTENT if cut else body[self.path]
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who has read enough hangs up
            self.wfile.write(payload[: len(payload) // 2] if cut else payload)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def _item(url: str) -> PublicData:
    return PublicData(
        name="planted",
        title="planted",
        url=url,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        num_bytes=len(CONTENT),
        columns="",
        credit="",
        licence="",
    )


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    path = fetch(_item(f"{server}/good.csv"), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    moved = dataclasses.replace(_item(f"{server}/missing.csv"), url="http://127.0.0.1:9/good.csv")
    assert fetch(moved, path.parent) == path  # nothing listens there: the copy on disk was enough


@pytest.mark.parametrize("name", ["changed.csv", "cut.csv", "missing.csv", "endless.csv"])
def test_a_failed_transfer_leaves_nothing_and_says_what_to_do_by_hand(server, tmp_path, name):
    item = _item(f"{server}/{name}")
    with pytest.raises(DataError) as caught:
        fetch(item, tmp_path)
    assert list(tmp_path.iterdir()) == []
    for part in (item.url, item.sha256, str(tmp_path / name)):
        assert part in str(caught.value)


def test_without_a_network_the_error_names_the_place(tmp_path):
    item = _item("http://127.0.0.1:9/good.csv")
    with pytest.raises(DataError, match="By hand") as caught:
        fetch(item, tmp_path, timeout_s=2)
    assert str(tmp_path / "good.csv") in str(caught.value)


def test_another_file_in_its_place_is_neither_used_nor_overwritten(server, tmp_path):
    (tmp_path / "good.csv").write_text("mine")
    with pytest.raises(DataError, match="move it away"):
        fetch(_item(f"{server}/good.csv"), tmp_path)
    assert (tmp_path / "good.csv").read_text() == "mine"


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match="chinchilla-points"):
        get("chinchila")


def test_the_catalogue_is_pinned_and_checked():
    names = [item.name for item in catalogue()]
    assert len(set(names)) == len(names) > 0
    for item in catalogue():
        commit = item.url.split("/")[5]
        assert len(commit) == 40
        assert int(commit, 16) > 0
        assert len(item.sha256) == 64
        assert item.credit
        assert item.licence


def test_checksums_agree_with_copies_at_hand(shared_data: Path):
    """Where an unchanged copy is at hand, its checksum and length are the ones in the catalogue."""
    copies = {
        "chinchilla-points": shared_data / "chinchilla_besiroglu.csv",
        "observational-benchmarks": shared_data / "obs-scaling" / "base_llm_benchmark_eval.csv",
    }
    for name, path in copies.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == find(name).sha256
        assert path.stat().st_size == find(name).num_bytes


def test_a_local_copy_is_found_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isoflop.data.get import local

    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ISOFLOP_SHARED_DATA", str(tmp_path))
    assert local("points.csv") is None
    (tmp_path / "points.csv").write_text("x\n")
    assert local("points.csv") == tmp_path / "points.csv"
