"""A corpus of made-up words and an environment in which the command line trains the tiny study on it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

STUDY = Path(__file__).with_name("tiny_study.py")


def make_world(root: Path) -> dict[str, str]:
    """Write a small corpus of many files below `root`; returns the environment with a cache of its own."""
    words = [f"{a}{b}" for a in ("al", "be", "ga", "de", "ep") for b in ("pha", "ta", "mma", "lta", "silon")]
    dice = random.Random(0)
    for number in range(60):
        text = " ".join(dice.choice(words[: 3 + number % 20]) for _ in range(400))
        path = root / "corpus" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return {
        **os.environ,
        "TINY_CORPUS": str(root / "corpus"),
        "ISOFLOP_CACHE": str(root / "cache"),
        "PYTHONPATH": str(STUDY.parent.parent),
    }


def verdict_without_times(out: Path) -> dict[str, Any]:
    """verdict.json without what may differ between two runs of one plan: times, waste, the date."""
    verdict = json.loads((out / "verdict.json").read_text())
    verdict.pop("provenance")
    for field in ("spent_flops", "wasted_flops", "spent_seconds", "wasted_seconds"):
        verdict["cost"].pop(field)
    return dict(verdict)
