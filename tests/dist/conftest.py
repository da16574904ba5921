"""Sessions of ranks, started once and asked by many tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.dist import runs, sessions
from tests.dist.ranks import run_ranks


@dataclass(frozen=True)
class Session:
    """What every rank saw, and the folder of checkpoints that the session wrote."""

    seen: list[Any]
    root: Path


@pytest.fixture(scope="session")
def reference() -> runs.Run:
    """The run in one process, with the net and optimizer of single runs."""
    return runs.reference(sessions.STEPS)


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("four")
    return Session(run_ranks(sessions.four_ranks, 4, folder, folder / "checkpoint"), folder / "checkpoint")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory, four: Session) -> Session:
    folder = tmp_path_factory.mktemp("two")
    return Session(run_ranks(sessions.two_ranks, 2, folder, four.root), four.root)
