"""Tasks of lm-eval by name, from local task files, or from a plain list of items.

    arc_easy            one of lm-eval's own tasks, groups or tags; its data come from the Hugging Face hub
    DIR/*.yaml          task files in lm-eval's form, found by the names in them; a data file that they name
                        may lie beside them
    items.jsonl         one multiple-choice item a line: {"query", "choices", "gold"}, gold counted from 0

Everything is loaded and checked before a model is asked anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import io
import json
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FEWSHOT_SEED = 1234
"""lm-eval's own seed for the choice of examples, so that its command line gives the same prompts."""
SEEDS = (0, 1234, 1234)
"""lm-eval's seeds of Python's, NumPy's and PyTorch's global generators."""
OFFLINE = (
    "couldn't reach",
    "connection",
    "offline",
    "localentrynotfound",
    "cannot find the requested files",
    "max retries",
    "name resolution",
    "connecterror",
    "cannot send a request",
    "doesn't exist on the hub",
    "timed out",
    "client has been closed",
)


class BenchmarkError(RuntimeError):
    """Benchmarks that cannot be taken; the message says what is wrong and the remedy."""


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """Loaded tasks.

    Attributes:
        names: as they were asked for.
        loaded: what lm-eval's `evaluate` takes: tasks, groups and their members.
        notes: what lm-eval had to say on the way.
    """

    names: tuple[str, ...]
    loaded: dict[str, Any]
    notes: tuple[str, ...] = ()


def load_tasks(
    names: Sequence[str], *, task_dirs: Sequence[Path | str] = (), num_fewshot: int | None = None
) -> TaskSet:
    """Find tasks and read their data.

    Args:
        names: see above. A name in `task_dirs` is preferred to lm-eval's own.
        task_dirs: folders of task files.
        num_fewshot: examples before each question; None leaves it to the task. A task that says 0 keeps 0.

    Raises:
        BenchmarkError: lm-eval is not installed, a name that nobody knows (with the nearest), a task file that
            cannot be read, data that cannot be had.
    """
    require_harness()
    if not names:
        raise BenchmarkError("no task named; give one or more, e.g. arc_easy, or a file of items")
    for folder in task_dirs:
        if not Path(folder).is_dir():
            raise BenchmarkError(f"no folder {folder} of task files")
    for path in map(Path, names):
        if path.suffix in (".jsonl", ".yaml") and not path.is_file():
            raise BenchmarkError(f"no file {path}; a task by name has no ending")
    with quiet() as notes, untouched_seeds():
        found = [item for name in names for item in _find(name, _managers(names, task_dirs))]
        loaded = _manager(()).load(found)
        for task in loaded["tasks"].values():
            _set_shots(task, num_fewshot)
    return TaskSet(names=tuple(names), loaded=dict(loaded), notes=tuple(notes.lines))


def require_harness() -> None:
    """Raise BenchmarkError when lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise BenchmarkError(
            f"benchmarks are taken with lm-eval ({error}): pip install 'isoflop[eval]'"
        ) from None


# ------------------------------------------------------------------------------------- finding


@dataclass
class _Managers:
    """lm-eval's indexes: of local folders, and of its own tasks, read when they are needed (some seconds)."""

    local: Any
    task_dirs: tuple[str, ...]
    own: Any = field(default=None)

    def all(self) -> Any:
        if self.own is None:
            self.own = _manager((), include_defaults=True)
        return self.own


_OWN: list[Any] = []


def _managers(names: Sequence[str], task_dirs: Sequence[Path | str]) -> _Managers:
    return _Managers(_manager(task_dirs), tuple(str(folder) for folder in task_dirs))


def _manager(task_dirs: Sequence[Path | str], include_defaults: bool = False) -> Any:
    from lm_eval.tasks import TaskManager

    if include_defaults:
        if not _OWN:
            _OWN.append(TaskManager(include_defaults=True))
        return _OWN[0]
    return TaskManager(include_path=[str(folder) for folder in task_dirs], include_defaults=False)


def _find(name: str, managers: _Managers) -> list[Any]:
    """Task and group objects of one name."""
    path = Path(name)
    try:
        if path.suffix == ".jsonl":
            return _objects(managers.local.load([items_task(path)]))
        if path.suffix == ".yaml":
            return _load_beside(_manager([path.parent]), _name_in(path))
        if name in managers.local.all_tasks:
            return _load_beside(managers.local, name)
        if name in managers.all().all_tasks:
            return _objects(managers.all().load([name]))
    except BenchmarkError:
        raise
    except Exception as error:
        raise _cannot_load(name, error) from error
    known = [*managers.local.all_tasks, *managers.all().all_tasks]
    raise BenchmarkError(f"no task {name!r}; {_nearest(name, known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    near += [one for one in known if name.lower() in one.lower() and one not in near][: 5 - len(near)]
    if near:
        return f"the nearest names: {', '.join(near)}"
    return "`lm-eval ls tasks` lists lm-eval's own; local task files are found with their folder"


def _objects(loaded: Mapping[str, Any]) -> list[Any]:
    """The outermost of what was loaded: groups that are in no other group, and tasks that are in none."""
    groups = loaded.get("groups") or {}
    inner = {child for children in (loaded.get("group_map") or {}).values() for child in children}
    inside = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    outer = [group for name, group in groups.items() if name not in inner]
    return [*outer, *(task for name, task in loaded["tasks"].items() if name not in inside)]


def _load_beside(manager: Any, member: Any, shared: Mapping[str, Any] | None = None) -> list[Any]:
    """A local task or group as lm-eval's objects; its data files are looked for beside its task file, too.

    Args:
        manager: knows the local folders.
        member: a name, or a group's entry: a name under "task" with changes of its fields.
        shared: changes that a group makes to all its tasks.
    """
    name = member["task"] if isinstance(member, dict) and "task" in member else member
    entry = manager.task_index.get(name) if isinstance(name, str) else None
    if entry is None or entry.yaml_path is None:  # a tag, or a group that is written out in another
        return _objects(manager.load([member]))
    config = entry.cfg or {}
    if "group" in config:
        return [_group_beside(manager, config)]
    kwargs = config.get("dataset_kwargs") or {}
    found = _beside(kwargs.get("data_files"), Path(entry.yaml_path).parent)
    moved = {} if found is None else {"dataset_kwargs": {**kwargs, "data_files": found}}
    changes = {**(shared or {}), **moved, **(member if isinstance(member, dict) else {"task": name})}
    if changes == {"task": name}:
        return _objects(manager.load([name]))
    # A group of one is lm-eval's way to load a registered task with other values of its fields.
    return list(manager.load([{"group": f"{name} beside its file", "task": [changes]}])["tasks"].values())


def _group_beside(manager: Any, config: Mapping[str, Any]) -> Any:
    from lm_eval.api.group import Group
    from lm_eval.config.group import GroupConfig

    own = {one.name for one in dataclasses.fields(GroupConfig)}
    group = Group.from_config(GroupConfig(**{key: value for key, value in config.items() if key in own}))
    shared = {key: value for key, value in config.items() if key not in own}
    for member in config.get("task") or []:
        for child in _load_beside(manager, member, shared):
            group.add(child)
    return group


def _beside(files: Any, folder: Path) -> Any:
    """The same files with the folder before those that lie in it; None when none does."""
    if isinstance(files, str):
        there = (folder / files).resolve()
        return str(there) if not Path(files).is_absolute() and there.exists() else None
    if isinstance(files, list):
        moved = [_beside(one, folder) for one in files]
        return None if not any(moved) else [new or old for new, old in zip(moved, files, strict=True)]
    if isinstance(files, dict):
        changed = {key: _beside(one, folder) for key, one in files.items()}
        return None if not any(changed.values()) else {key: changed[key] or files[key] for key in files}
    return None


def _name_in(path: Path) -> str:
    manager = _manager([path.parent])
    for name, entry in manager.task_index.items():
        if entry.yaml_path is not None and Path(entry.yaml_path).resolve() == path.resolve():
            return str(name)
    raise BenchmarkError(
        f'{path} is no task file: it should be YAML with a "task" (its name) and a "dataset_path"'
    )


def items_task(path: Path) -> dict[str, Any]:
    """lm-eval's configuration of a file of multiple-choice items.

    The prompt is the item's query as it stands; an answer follows after a space. Scored by acc and acc_norm.
    Raises BenchmarkError, naming the line, for an item that is not whole.
    """
    text = path.read_bytes()
    for number, line in enumerate(text.decode("utf-8", errors="replace").split("\n"), start=1):
        if line.strip():
            _check_item(line, f"{path}, line {number}")
    return {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path.resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": f"sha256:{hashlib.sha256(text).hexdigest()[:16]}"},
    }


def _check_item(line: str, where: str) -> None:
    try:
        item = json.loads(line)
        fine = isinstance(item["query"], str) and len(item["choices"]) > 1
        fine = fine and isinstance(item["gold"], int) and 0 <= item["gold"] < len(item["choices"])
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise BenchmarkError(
            f'{where}: not an item such as {{"query": "2 + 2 =", "choices": ["3", "4"], "gold": 1}} '
            "(gold counts from 0)"
        )


def _cannot_load(name: str, error: Exception) -> BenchmarkError:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    text = f"{type(error).__name__} {said}".lower()
    if isinstance(error, ConnectionError) or any(word in text for word in OFFLINE):
        return BenchmarkError(
            f"the data of task {name!r} cannot be had, for they are on the Hugging Face hub and it cannot be reached "
            f"({said}); run once with a connection and they are kept (HF_HOME), or give local task files"
        )
    return BenchmarkError(f"task {name!r} cannot be loaded: {type(error).__name__}: {said}")


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """As lm-eval's own `simple_evaluate`: a task that asks for no examples keeps none."""
    declared = task.get_config("num_fewshot")
    if num_fewshot is not None and declared != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif declared is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


# ----------------------------------------------------------------------- what must not be touched


@contextlib.contextmanager
def untouched_seeds() -> Iterator[None]:
    """Give tasks lm-eval's usual global seeds, and afterwards the caller's generators where they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    cpu = torch.get_rng_state()
    try:
        random.seed(SEEDS[0])
        np.random.seed(SEEDS[1])  # noqa: NPY002
        torch.manual_seed(SEEDS[2])
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@dataclass
class Notes:
    """Warnings of lm-eval, each once."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


class _Collect(logging.Handler):
    def __init__(self, notes: Notes) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.add(" ".join(record.getMessage().split())[:300])


@contextlib.contextmanager
def quiet() -> Iterator[Notes]:
    """Keep lm-eval's bars and prints off the terminal, and its warnings in notes."""
    notes = Notes()
    logger = logging.getLogger("lm_eval")
    handler, propagate = _Collect(notes), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield notes
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
