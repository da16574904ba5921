"""Fixtures shared by all rooms. Data that is not in the project is optional: a test that needs it skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real public data, when there is one: $ISOFLOP_SHARED_DATA or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("ISOFLOP_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of public data (set ISOFLOP_SHARED_DATA)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which long proofs are older than the code they prove."""
    from tests.prove.records import proofs, stale

    lines = stale()
    terminalreporter.section("long proofs (make prove)")
    terminalreporter.write_line(f"{len(proofs()) - len(lines)} of {len(proofs())} are up to date")
    for line in lines:
        terminalreporter.write_line(f"stale: {line}")
