"""Versions and hardware of what is running now. Provenance is said, and is never part of an identity."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from isoflop import __version__
from isoflop.records import Provenance


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def current(*, device: str = "cpu", num_workers: int = 1) -> Provenance:
    """Provenance of this process; torch's version is read without importing it."""
    commit, dirty = _git_state()
    return Provenance(
        isoflop=__version__,
        python=platform.python_version(),
        torch=_version("torch"),
        commit=commit,
        dirty=dirty,
        machine=f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        device=device,
        num_workers=num_workers,
        started=now(),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    """Model name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from and whether it is changed; None outside one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no", "--", "."],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changed)
