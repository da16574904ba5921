"""Score files as people have them: what was scored, by which metric, on which items, with which seeds.

Read as they are: lm-eval's ``results_*.json`` and ``samples_*.jsonl`` (or the folder that holds them),
plain JSON (``{"score": 0.634, "n": 14042}``, ``{"scores": [3.281, 3.284]}``, ``{"tasks": {...}}``), and
item tables as CSV or JSONL, and the runs that isoflop itself trained (`isoflop.judge.scores_runs`). Nothing is
compared here; `isoflop.judge.compare` does that. What cannot be read raises `ScoreError` with the file, the place
and the remedy; nothing is left out without a note.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard


class ScoreError(ValueError):
    """A score file that cannot be read or compared; the message says what, where and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One scored item."""

    score: float
    family: str | None = None
    """What it shares with other items (passage, template, subject); None when not known."""
    content: str | None = None
    """Hash of what was asked, to see that two files mean the same item."""
    prompt: str | None = None
    """Hash of the full prompt, few-shot examples included."""


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """All that a file says about one task under one metric."""

    task: str
    """Empty when the file names none."""
    metric: str
    """Empty when the file names none."""
    value: float | None = None
    """The score; None when only seeds are given."""
    num: int | None = None
    """Items behind the score."""
    standard_error: float | None = None
    higher_is_better: bool | None = None
    version: str | None = None
    num_shots: str | None = None
    items: Mapping[str, Item] | None = None
    """By item id."""
    seeds: Mapping[str, float] | None = None
    """One score per seed, by its label."""
    parts: tuple[str, ...] = ()
    """Subtasks, when this is a group of tasks."""
    fingerprint: str | None = None
    """lm-eval's hash over documents, prompts and targets of the task."""
    train_flops: float | None = None
    """FLOPs that one run took, where the scores are those of runs."""

    @property
    def words(self) -> str:
        named = " ".join(part for part in (self.task, self.metric) if part)
        return named or "score"


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """What was read from one path."""

    path: str
    form: str
    """What it turned out to be, in words."""
    model: str | None
    tasks: tuple[TaskScores, ...]
    notes: tuple[str, ...] = ()


_ACCURACIES = {"accuracy", "correct", "exact_match", "em", "pass@1", "mc1", "right"}
_LOSSES = ("loss", "nats", "nll", "perplexity", "ppl", "bits", "bpb", "wer", "cer", "error", "brier", "ter")
_ID_COLUMNS = ("item", "item_id", "doc_id", "id", "question_id", "example_id")
_FAMILY_COLUMNS = ("family", "cluster")
_SCORE_COLUMNS = (
    "score",
    "value",
    "correct",
    "acc",
    "accuracy",
    "acc_norm",
    "exact_match",
    "em",
    "right",
    "loss",
)
_SAMPLE_FIELDS = {
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "metrics",
    "doc_hash",
    "prompt_hash",
    "target_hash",
    "task_name",
}


def is_accuracy(metric: str) -> bool:
    """True when a metric's name promises a share of right answers."""
    bare = metric.split(",")[0].lower()
    return bare in _ACCURACIES or bare == "acc" or bare.startswith("acc_") or bare.endswith("_acc")


def higher_is_better(metric: str) -> bool | None:
    """Which direction is good, judged by the metric's name; None when the name does not say."""
    if is_accuracy(metric):
        return True
    return False if any(word in metric.lower() for word in _LOSSES) else None


def read_scores(path: Path | str, *, family: str | None = None) -> ScoreFile:
    """Read a score file, a folder of lm-eval output, or the held-out scores of runs.

    Args:
        path: .json, .jsonl, .csv, a folder with ``results_*.json``, a run folder, or a study's output folder
            (with ``:label=value`` behind it for some of its runs).
        family: name of the column, or of the field of lm-eval's ``doc``, that holds an item's family.

    Raises:
        ScoreError: missing, empty, not a known form, a missing or impossible score, an item twice.
    """
    from isoflop.judge import scores_runs

    place = Path(path)
    if scores_runs.holds_runs(place):
        return scores_runs.read_runs(place)
    if place.is_dir():
        return _read_folder(place, family)
    if not place.exists():
        raise ScoreError(f"no file {place}; give score files, folders of lm-eval output, or folders of runs")
    text = place.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ScoreError(f"{place} is empty; it should hold scores (a JSON object, or a CSV or JSONL table)")
    if place.suffix == ".csv" or place.suffix == ".tsv":
        found = _read_csv(text, place, family)
    elif place.suffix == ".jsonl":
        found = _read_lines(text, place, family)
    elif place.suffix == ".json":
        found = _read_json(text, place, family)
    else:
        raise ScoreError(f"{place}: unknown kind of file {place.suffix!r}; give .json, .jsonl or .csv")
    for task in found.tasks:
        _check_values(task, str(place))
    return found


# ------------------------------------------------------------------------------- plain JSON


def _read_json(text: str, place: Path, family: str | None) -> ScoreFile:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ScoreError(f"{place}: not valid JSON ({error}); the file may be cut short") from None
    if not isinstance(data, dict):
        raise ScoreError(f'{place}: expected a JSON object such as {{"score": 0.634, "n": 14042}}')
    if isinstance(data.get("results"), dict):
        return _read_results(data, place, family)
    entries = data["tasks"] if isinstance(data.get("tasks"), dict) else {str(data.get("task", "")): data}
    if not entries:
        raise ScoreError(f'{place}: "tasks" is empty; there is nothing to compare')
    shared = {key: data[key] for key in ("metric", "unit", "higher_is_better", "version") if key in data}
    tasks = tuple(
        _plain_task(name, {**shared, **_mapping(entry, place)}, place) for name, entry in entries.items()
    )
    model = data.get("model") or data.get("name")
    return ScoreFile(path=str(place), form="plain JSON", model=str(model) if model else None, tasks=tasks)


def _mapping(entry: object, place: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ScoreError(f'{place}: each task should be an object such as {{"score": 0.634, "n": 14042}}')
    return entry


def _plain_task(name: str, entry: dict[str, Any], place: Path) -> TaskScores:
    metric = str(entry.get("metric", ""))
    where = f"{place}: {name}" if name else str(place)
    scale = _scale(entry.get("unit"), where)
    better = entry.get("higher_is_better")
    base = TaskScores(
        task=name,
        metric=metric,
        higher_is_better=bool(better) if better is not None else higher_is_better(metric),
        version=_text(entry.get("version")),
        num_shots=_text(entry.get("num_fewshot", entry.get("n_shot"))),
    )
    if "scores" in entry:
        return replace(base, seeds=_plain_seeds(entry, scale, where))
    if "items" in entry:
        rows = entry["items"]
        pairs = rows.items() if isinstance(rows, dict) else enumerate(rows if isinstance(rows, list) else ())
        items = {str(key): Item(score=_number(value, f"{where}: item {key}") * scale) for key, value in pairs}
        return _with_items(base, items, where)
    if "score" not in entry:
        raise ScoreError(
            f'{where}: no "score" with its number of items "n", no "scores" (one per seed) and no "items"'
        )
    num = entry.get("n", entry.get("num", entry.get("num_items")))
    if num is not None and (not isinstance(num, int) or isinstance(num, bool) or num < 1):
        raise ScoreError(f"{where}: n is {num!r}; it should be the number of items, a whole number above 0")
    error = entry.get("stderr", entry.get("standard_error"))
    return replace(
        base,
        value=_number(entry["score"], f"{where}: score") * scale,
        num=num,
        standard_error=None if error is None else _number(error, f"{where}: stderr") * scale,
    )


def _plain_seeds(entry: dict[str, Any], scale: float, where: str) -> dict[str, float]:
    scores = entry["scores"]
    if isinstance(scores, dict):
        labels, values = list(scores), list(scores.values())
    elif isinstance(scores, list):
        labels, values = list(entry.get("seeds", range(len(scores)))), scores
    else:
        raise ScoreError(f'{where}: "scores" should be a list with one number per seed')
    if not values:
        raise ScoreError(f'{where}: "scores" is empty; there is nothing to compare')
    if len(labels) != len(values):
        raise ScoreError(
            f'{where}: {len(values)} "scores" but {len(labels)} "seeds"; give one label per score'
        )
    repeated = [label for label, count in Counter(map(str, labels)).items() if count > 1]
    if repeated:
        raise ScoreError(f"{where}: seed {repeated[0]} is there twice; a repeated run is not a new seed")
    return {
        str(label): _number(value, f"{where}: seed {label}") * scale
        for label, value in zip(labels, values, strict=True)
    }


def _scale(unit: object, where: str) -> float:
    if unit in (None, "", "share", "nats", "bits", "nats/token", "bits/byte", "points"):
        return 1.0
    if unit in ("percent", "%"):
        return 0.01
    raise ScoreError(
        f'{where}: unknown unit {unit!r}; write "percent", or leave it out for shares and losses'
    )


# ------------------------------------------------------------------------------- item tables


def _read_csv(text: str, place: Path, family: str | None) -> ScoreFile:
    delimiter = "\t" if place.suffix == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise ScoreError(
                f"{place}, line {number}: {len(reader.fieldnames or ())} columns expected, as in line 1"
            )
        rows.append({key.strip(): value.strip() for key, value in row.items()})
    return _table(rows, place, family, "CSV table")


def _read_lines(text: str, place: Path, family: str | None) -> ScoreFile:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise ScoreError(f"{place}, line {number}: not valid JSON; the file may be cut short") from None
        rows.append(_mapping(row, place))
    if rows and "doc_id" in rows[0] and ("filtered_resps" in rows[0] or "doc" in rows[0]):
        return _read_samples(rows, place, family)
    return _table(rows, place, family, "JSONL table")


def _table(rows: list[dict[str, Any]], place: Path, family: str | None, form: str) -> ScoreFile:
    """Rows of items or of seeds, for one task or several."""
    if not rows:
        raise ScoreError(f"{place} has a header but no rows; there is nothing to compare")
    columns = set(rows[0])
    score = next((name for name in _SCORE_COLUMNS if name in columns), None)
    key = next((name for name in _ID_COLUMNS if name in columns), None)
    if score is None:
        raise ScoreError(f"{place}: no column of scores; name it one of {', '.join(_SCORE_COLUMNS)}")
    if key is None and "seed" not in columns:
        raise ScoreError(
            f"{place}: no column that names the items (one of {', '.join(_ID_COLUMNS)}) or seeds (seed); "
            "without it two files cannot be matched"
        )
    if family is not None and family not in columns:
        raise ScoreError(f"{place}: no column {family!r}; there are {', '.join(sorted(columns))}")
    cluster = family or next((name for name in _FAMILY_COLUMNS if name in columns), None)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        metric = str(row.get("metric") or ("" if score in ("score", "value") else score))
        groups.setdefault((str(row.get("task") or ""), metric), []).append(row)
    tasks = []
    for (task, metric), part in groups.items():
        base = TaskScores(
            task=task,
            metric=metric,
            higher_is_better=higher_is_better(metric),
            version=_text(part[0].get("version")),
        )
        if key is None:
            seeds = _unique((str(row["seed"]), _cell(row, score, place)) for row in part)
            tasks.append(replace(base, seeds=_no_repeats(seeds, place, "seed")))
            continue
        if "seed" in columns and len({str(row["seed"]) for row in part}) > 1:
            tasks.append(replace(base, seeds=_seed_means(part, score, place)))
            continue
        pairs = _unique(
            (str(row[key]), Item(score=_cell(row, score, place), family=_text(row.get(cluster or ""))))
            for row in part
        )
        tasks.append(_with_items(base, _no_repeats(pairs, place, "item"), str(place)))
    return ScoreFile(path=str(place), form=form, model=None, tasks=tuple(tasks))


def _seed_means(rows: list[dict[str, Any]], score: str, place: Path) -> dict[str, float]:
    """Items scored under several seeds: the seed is the independent unit, so keep its mean."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(str(row["seed"]), []).append(_cell(row, score, place))
    if len({len(part) for part in values.values()}) > 1:
        raise ScoreError(
            f"{place}: seeds have different numbers of items; score every seed on the same items"
        )
    return {seed: math.fsum(part) / len(part) for seed, part in values.items()}


def _cell(row: Mapping[str, Any], column: str, place: Path) -> float:
    return _number(row.get(column), f"{place}: {column} of {dict(list(row.items())[:2])}")


def _unique(pairs: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    repeated = []
    for key, value in pairs:
        if key in found:
            repeated.append(key)
        found[key] = value
    return found, repeated


def _no_repeats(found: tuple[dict[str, Any], list[str]], place: Path | str, what: str) -> dict[str, Any]:
    values, repeated = found
    if repeated:
        raise ScoreError(
            f"{place}: {what} {repeated[0]} is there twice ({len(repeated)} repeated in all); "
            f"give each {what} one row, or add a column that tells them apart (task, seed)"
        )
    return values


def _with_items(base: TaskScores, items: Mapping[str, Item], where: str) -> TaskScores:
    if not items:
        raise ScoreError(f"{where}: no items; there is nothing to compare")
    value = math.fsum(item.score for item in items.values()) / len(items)
    return replace(base, items=items, num=len(items), value=value)


# ------------------------------------------------------------------------------------ lm-eval


def _read_folder(place: Path, family: str | None) -> ScoreFile:
    """lm-eval's output folder; of several results for one task the newest counts, and a note says so."""
    results = sorted(place.glob("results_*.json")) or sorted(place.glob("*/results_*.json"))
    samples = sorted(place.glob("samples_*.jsonl"))
    if not results and not samples:
        raise ScoreError(
            f"{place}: no results_*.json and no samples_*.jsonl of lm-eval in it, and no runs of isoflop"
        )
    if len({path.parent for path in results}) > 1:
        raise ScoreError(f"{place} holds results of several models; name one of its folders")
    files = [read_scores(path, family=family) for path in results or samples]
    tasks: dict[tuple[str, str], TaskScores] = {}
    notes = [note for file in files for note in file.notes]
    for file in files:  # names end in the date, so the newest comes last
        for task in file.tasks:
            if (task.task, task.metric) in tasks:
                notes.append(
                    f"{place}: {task.words} is there more than once; the newest counts ({file.path})"
                )
            tasks[task.task, task.metric] = task
    return ScoreFile(
        path=str(place),
        form=f"folder with {len(files)} lm-eval files",
        model=files[-1].model,
        tasks=tuple(tasks.values()),
        notes=tuple(notes),
    )


def _read_results(data: dict[str, Any], place: Path, family: str | None) -> ScoreFile:
    """lm-eval's aggregated results, with the item logs that lie beside them under the same date."""
    groups = data.get("group_subtasks") or {}
    notes: list[str] = []
    tasks: list[TaskScores] = []
    for name, row in {**data["results"], **(data.get("groups") or {})}.items():
        if not isinstance(row, dict):
            raise ScoreError(f"{place}: results of {name} are {type(row).__name__}, not an object")
        parts = _leaves(name, groups)
        for key in row:
            metric, _, filter_name = key.partition(",")
            if (
                metric.endswith("_stderr")
                or not _is_number(row[key])
                or metric in ("sample_len", "sample_count")
            ):
                continue
            error = row.get(f"{metric}_stderr,{filter_name}" if filter_name else f"{metric}_stderr")
            better = (data.get("higher_is_better") or {}).get(name, {}) or {}
            task = TaskScores(
                task=name,
                metric=metric if filter_name in ("", "none") else key,
                value=float(row[key]),
                num=_num_items(data, name, groups),
                standard_error=float(error) if _is_number(error) else None,
                higher_is_better=better.get(metric)
                if better.get(metric) is not None
                else higher_is_better(metric),
                version=_text((data.get("versions") or {}).get(name)),
                num_shots=_text((data.get("n-shot") or {}).get(name)),
                parts=parts,
                fingerprint=_text((data.get("task_hashes") or {}).get(name)),
            )
            if task.num is None and is_accuracy(metric) and task.standard_error and 0 < float(row[key]) < 1:
                task = replace(task, num=_num_from_error(float(row[key]), task.standard_error))
                notes.append(f"{place}: {task.words}: number of items {task.num} worked out from its stderr")
            tasks.append(task)
    if not tasks:
        raise ScoreError(f'{place}: "results" holds no scores')
    tasks, found = _attach_samples(tasks, place, family)
    model = data.get("model_name") or (data.get("config") or {}).get("model_args")
    return ScoreFile(
        path=str(place),
        form="lm-eval results" + (f" with {found} item logs" if found else ""),
        model=str(model) if model else None,
        tasks=tuple(tasks),
        notes=tuple(notes),
    )


def _num_items(data: dict[str, Any], name: str, groups: Mapping[str, Any]) -> int | None:
    counts = data.get("n-samples") or {}
    if name in counts:
        row = counts[name]
        count = row.get("effective", row.get("original")) if isinstance(row, dict) else row
        return int(count) if _is_number(count) else None
    length = data["results"].get(name, {}).get("sample_len")
    if _is_number(length):
        return int(length)
    parts = [_num_items(data, part, {}) for part in _leaves(name, groups)]
    return sum(part for part in parts if part) if parts and all(parts) else None


def _leaves(name: str, groups: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [part for part in groups.get(name, ()) if part != name]
    return tuple(leaf for part in parts for leaf in (_leaves(part, groups) or (part,)))


def _num_from_error(score: float, error: float) -> int:
    """lm-eval's standard error of a mean of 0/1 is sqrt(p (1 - p) / (n - 1))."""
    return max(1, round(score * (1 - score) / error**2 + 1))


def _attach_samples(tasks: list[TaskScores], place: Path, family: str | None) -> tuple[list[TaskScores], int]:
    """Add the items of ``samples_<task>_<date>.jsonl`` that lie beside ``results_<date>.json``.

    A results file of another name has its own name, or the date that ends it, in place of the date.
    """
    match = re.fullmatch(r"results_(.+)|.+_(\d{4}-\d{2}-\d{2}T.+)", place.stem)
    label = place.stem if match is None else match.group(1) or match.group(2)
    logs: dict[tuple[str, str], TaskScores] = {}
    found = 0
    for name in sorted({task.task for task in tasks}):
        path = place.with_name(f"samples_{name}_{label}.jsonl")
        if path.exists():
            found += 1
            logs.update({(log.task, log.metric): log for log in read_scores(path, family=family).tasks})
    out = []
    for task in tasks:
        if task.parts:
            pieces = [logs.get((part, task.metric)) for part in task.parts]
            merged = {
                f"{piece.task}/{key}": item
                for piece in pieces
                if piece is not None and piece.items
                for key, item in piece.items.items()
            }
            whole = all(piece is not None for piece in pieces) and len(merged) == task.num
            out.append(replace(task, items=merged) if whole and merged else task)
        else:
            log = logs.get((task.task, task.metric))
            out.append(replace(task, items=log.items) if log is not None else task)
    return out, found


def _read_samples(rows: list[dict[str, Any]], place: Path, family: str | None) -> ScoreFile:
    """lm-eval's item log of one task."""
    match = re.fullmatch(r"samples_(.+?)(_\d{4}-\d{2}-\d{2}T.*)?\.jsonl", place.name)
    name = str(rows[0].get("task_name") or (match.group(1) if match else place.stem))
    by_metric: dict[str, list[tuple[str, Item]]] = {}
    for row in rows:
        filter_name = str(row.get("filter", "none"))
        wanted = row.get("metrics") or [
            key for key in row if key not in _SAMPLE_FIELDS and _is_number(row[key])
        ]
        for metric in wanted:
            if not _is_number(row.get(metric)):
                continue  # log-likelihood pairs behind perplexities: not a score per item
            label = metric if filter_name == "none" else f"{metric},{filter_name}"
            item = Item(
                score=_number(row[metric], f"{place}: doc {row['doc_id']}: {metric}"),
                family=_family_of(row, family, place),
                content=_text(row.get("doc_hash")),
                prompt=_text(row.get("prompt_hash")),
            )
            by_metric.setdefault(label, []).append((str(row["doc_id"]), item))
    if not by_metric:
        raise ScoreError(f"{place}: no metric with one number per item; was it made with --log_samples?")
    tasks = []
    for metric, pairs in by_metric.items():
        items = _no_repeats(_unique(pairs), place, "item")
        base = TaskScores(task=name, metric=metric, higher_is_better=higher_is_better(metric))
        tasks.append(_with_items(base, items, str(place)))
    return ScoreFile(path=str(place), form="lm-eval item log", model=None, tasks=tuple(tasks))


def _family_of(row: Mapping[str, Any], family: str | None, place: Path) -> str | None:
    if family is None:
        return None
    doc = row.get("doc")
    value = row.get(family, doc.get(family) if isinstance(doc, dict) else None)
    if value is None:
        have = ", ".join(sorted(doc)) if isinstance(doc, dict) else "no fields"
        raise ScoreError(f"{place}: doc {row['doc_id']} has no field {family!r}; there are {have}")
    return str(value)


# ------------------------------------------------------------------------------------ checks


def _check_values(task: TaskScores, where: str) -> None:
    """An accuracy must be a share; every number must be finite."""
    named = f"{where}: {task.words}"
    values = [(f"item {key}", item.score) for key, item in (task.items or {}).items()]
    values += [(f"seed {key}", value) for key, value in (task.seeds or {}).items()]
    if task.value is not None:
        values.append(("the score", task.value))
    for what, value in values:
        if not math.isfinite(value):
            raise ScoreError(f"{named}: {what} is {value}; leave a missing score out on both sides")
    claims_share = is_accuracy(task.metric) or (
        not task.metric and task.seeds is None and task.items is None and task.num is not None
    )
    for what, value in values if claims_share else ():
        if not 0 <= value <= 1:
            called = f"called {task.metric}" if task.metric else "given with a number of items"
            raise ScoreError(
                f"{named}: {what} is {value:g} but is {called}, which lies between 0 and 1; "
                'divide percentages by 100 or say "unit": "percent"; name another metric for other scores'
            )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float))


def _number(value: object, where: str) -> float:
    if isinstance(value, str):
        lowered = value.lower()
        if lowered in ("true", "false"):
            return float(lowered == "true")
        try:
            value = float(value)
        except ValueError:
            raise ScoreError(f"{where} is {value!r}, not a number") from None
    if value is None or not isinstance(value, (int, float)):
        raise ScoreError(f"{where} is missing or not a number ({value!r})")
    if not math.isfinite(value):
        raise ScoreError(f"{where} is {value}; leave a missing score out on both sides")
    return float(value)


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)
