"""What a study is: a question, a plan made from a budget, and a judge. Thin by design.

A study file holds one module-level ``STUDY``. It imports records, laws, units and the public names of
`isoflop.plan` and `isoflop.judge`; never torch and never another study. A study of your own is a path to
such a file, or an entry point in the group ``isoflop.studies``.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isoflop.records import DecisionRule, Evidence, NetSpec, Plan, PlanRequest, Verdict


class StudyError(ValueError):
    """No such study, or a file that does not hold one; the message lists near names."""


@dataclass(frozen=True, kw_only=True)
class CorpusRequest:
    """The text that a study trains on: a source and a tokenizer, as `isoflop.data.prepare` takes them."""

    source: str
    tokenizer: str
    optional: bool = False
    """True for a text that the study does without when it is not here."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question with the two functions that answer it.

    Attributes:
        name: as on the command line.
        claims: ids in docs/claims.md that the verdict speaks to.
        question: one sentence.
        prediction: what was expected before the first run, or what the claim says.
        cost: what an answer usually costs, in words.
        judge: from plan, runs and data to a verdict.
        rule: how the verdict is reached, for a study that trains nothing; a plan brings its own.
        plan: from a request to a plan; None when nothing has to be trained.
        default_budget: what is spent when the user names none; "" when nothing is trained.
        corpus: the text to prepare before planning; None for none.
        more_text: further texts to prepare before planning, in the same tokenizer.
        calibration_nets: nets to time when the budget is in seconds.
        data: names in the data catalogue that the judge reads when they are there.
    """

    name: str
    claims: tuple[str, ...]
    question: str
    prediction: str
    cost: str
    judge: Callable[[Evidence], Verdict]
    rule: DecisionRule | None = None
    plan: Callable[[PlanRequest], Plan] | None = None
    default_budget: str = ""
    corpus: CorpusRequest | None = None
    more_text: tuple[CorpusRequest, ...] = ()
    calibration_nets: tuple[NetSpec, ...] = ()
    data: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """All studies that are installed, built in or by entry point, sorted."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group="isoflop.studies")}))


def find(name: str) -> Study:
    """The study of this name, or in this file.

    Args:
        name: an installed study, or a path ending in ``.py``.

    Raises:
        StudyError: no such study (near names are listed), or the file holds no ``STUDY``.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    points = {point.name: point for point in importlib.metadata.entry_points(group="isoflop.studies")}
    if name not in points:
        near = difflib.get_close_matches(name, points, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(points))}"
        raise StudyError(
            f"no study named {name!r}; {hint} (a study of your own: give the path of its .py file)"
        )
    study = points[name].load()
    if not isinstance(study, Study):
        raise StudyError(f"entry point {name!r} is {type(study).__name__}, not a Study")
    return study


def _from_file(path: Path) -> Study:
    if not path.is_file():
        raise StudyError(f"no file {path}")
    module_spec = importlib.util.spec_from_file_location(f"isoflop_user_study_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise StudyError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise StudyError(f"{path} holds no module-level STUDY = Study(...)")
    return study
