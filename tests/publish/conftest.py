"""One synthetic store for the room, built and published once."""

from __future__ import annotations

import pytest

from isoflop.publish import PublishResult, publish
from isoflop.publish.evidence import StudyData, read_study
from isoflop.store import Store
from tests.publish.synthetic_store import build


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A judged study of 96 runs, published; tests that change it work on a copy."""
    return build(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def published(store: Store) -> PublishResult:
    return publish(store)


@pytest.fixture(scope="session")
def page(published: PublishResult) -> str:
    return published.report.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def data(store: Store) -> StudyData:
    return read_study(store)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> PublishResult:
    """A study whose names, captions and reasons hold markup."""
    return publish(build(tmp_path_factory.mktemp("hostile"), hostile=True))
