"""isoflop: plan, run and judge experiments on a fixed compute budget.

>>> import isoflop
>>> plan = isoflop.plan_study("flatness", budget="4min")      # doctest: +SKIP
>>> answer = isoflop.run_study("flatness", budget="60s")      # doctest: +SKIP
>>> answer.verdict.sentence                                   # doctest: +SKIP

The functions here are the ones that the command line calls, imported when they are first used; the single
verbs (train, measure, judge, publish) are in `isoflop.verbs`, because the rooms have those names here.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "plan_study": "isoflop.verbs",
    "run_study": "isoflop.verbs",
    "StudyRun": "isoflop.verbs",
    "Budget": "isoflop.records",
    "NetSpec": "isoflop.records",
    "RunSpec": "isoflop.records",
    "Plan": "isoflop.records",
    "Verdict": "isoflop.records",
    "Estimate": "isoflop.records",
    "Study": "isoflop.studies.study",
    "Store": "isoflop.store",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'isoflop' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
