"""Functions by hash: an edited function is another one, a comment is not, and nothing heavy is loaded to see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from isoflop.refs import RefError, function_ref, resolve, source_sha256


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "borrowed_idea.py"
    path.write_text("def double(x, by=2):\n    return by * x\n")
    yield path
    sys.modules.pop("borrowed_idea", None)


def test_code_counts_and_comments_do_not(module: Path) -> None:
    before = source_sha256("borrowed_idea:double")
    module.write_text("# why\ndef double(x, by=2):\n    # how\n    return by * x\n")
    assert source_sha256("borrowed_idea:double") == before
    module.write_text("def double(x, by=2):\n    return by * x + 1\n")
    assert source_sha256("borrowed_idea:double") != before


def test_it_resolves_with_its_options(module: Path) -> None:
    assert resolve(function_ref("borrowed_idea:double", by=5))(3) == 15


def test_a_changed_function_is_refused(module: Path) -> None:
    stale = msgspec.structs.replace(function_ref("borrowed_idea:double"), source_sha256="0" * 64)
    with pytest.raises(RefError, match="has changed since this run was planned"):
        resolve(stale)


@pytest.mark.parametrize(
    ("path", "says"),
    [("no_such_module_here:f", "no Python module"), ("borrowed_idea:triple", "defines no module-level")],
)
def test_what_is_not_there_is_named(module: Path, path: str, says: str) -> None:
    with pytest.raises(RefError, match=says):
        function_ref(path)
