"""Held-out scores of runs that isoflop trained, one per seed: a run folder, a folder of them, or a study's output.

Runs that differ in nothing but their seed are one arm; a folder with several arms (sizes, budgets) gives one task
for each, named by the labels that tell them apart. ``out/study:arm=baseline`` takes the runs with that label alone,
so that two arms of one study can be compared. Left out: comparing (`isoflop.judge.compare`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from isoflop.judge.scores import ScoreError, ScoreFile, TaskScores
from isoflop.records import Measurement, RunSpec, Scalar
from isoflop.store import RunFolder

OF_THE_SEED = ("seed", "trunk", "order_seed", "role", "trained_seed")
"""Labels that differ between seeds of one arm, or say nothing about what was trained."""
NATS, BITS = "nats/token", "bits/byte"


def holds_runs(path: Path) -> bool:
    """True for a run folder, a folder of them, or a study's output; also with :label=value behind it."""
    place, _ = _conditions(path)
    return place.is_dir() and bool(_folders(place))


def read_runs(path: Path) -> ScoreFile:
    """The held-out scores of all finished runs below a path, by arm and seed.

    Raises ScoreError when no run was scored, no run has the labels asked for, or two runs of an arm share a seed.
    """
    place, wanted = _conditions(path)
    notes: list[str] = []
    arms: dict[str, list[tuple[RunSpec, list[Measurement]]]] = defaultdict(list)
    for folder in _folders(place):
        spec = folder.read_spec()
        if spec.evaluate is None or not _has(spec.labels, wanted):
            continue
        reason = _unusable(folder)
        if reason is not None:
            notes.append(f"{folder.path.name} is left out: {reason}")
            continue
        arms[_arm(spec)].append((spec, folder.read_measurements()))
    if not arms:
        raise ScoreError(_nothing(path, place, wanted, notes))
    labels = _telling_labels([runs[0][0].labels for runs in arms.values()], wanted)
    tasks = [task for runs in arms.values() for task in _tasks(runs, labels, place)]
    return ScoreFile(
        path=str(path),
        form=f"{sum(map(len, arms.values()))} runs in {len(arms)} arms",
        model=None,
        tasks=tuple(tasks),
        notes=tuple(notes),
    )


def _nothing(path: Path, place: Path, wanted: Mapping[str, str], notes: list[str]) -> str:
    """Why there is nothing to compare, and what to do."""
    if notes:
        return (
            f"{path} holds no finished run with a held-out score: {notes[0]}; finish it (`isoflop train`), or score "
            "it (`isoflop measure`)"
        )
    if not wanted:
        return f"{path} holds no run with a held-out score; score its runs with `isoflop measure`"
    labels: dict[str, set[str]] = defaultdict(set)
    for folder in _folders(place):
        for key, value in folder.read_spec().labels.items():
            labels[key].add(_words(value))
    asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
    has = "; ".join(
        f"{key} {', '.join(sorted(values)[:6])}" for key, values in labels.items() if key not in OF_THE_SEED
    )
    return f"no scored run of {place} has {asked}; labels there: {has or 'none'}"


def _conditions(path: Path) -> tuple[Path, dict[str, str]]:
    text = str(path)
    if path.exists() or ":" not in text:
        return path, {}
    place, _, conditions = text.rpartition(":")
    pairs = [part.partition("=") for part in conditions.split(",")]
    if not all(key and equals for key, equals, _ in pairs):
        return path, {}
    return Path(place), {key: value for key, _, value in pairs}


def _has(labels: Mapping[str, Scalar], wanted: Mapping[str, str]) -> bool:
    """Whether all labels have the values asked for; numbers as people write them, 1e12 for 1000000000000.0."""
    return all(key in labels and _same(labels[key], value) for key, value in wanted.items())


def _same(label: Scalar, text: str) -> bool:
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        try:
            return math.isclose(float(text), label, rel_tol=1e-9)
        except ValueError:
            return False
    return str(label) == text


def _folders(place: Path) -> list[RunFolder]:
    if (place / "spec.json").is_file():
        return [RunFolder(place)]
    inner = place / "runs" if (place / "runs").is_dir() else place
    return [RunFolder(path) for path in sorted(inner.iterdir()) if (path / "spec.json").is_file()]


def _unusable(folder: RunFolder) -> str | None:
    """Why a run has no score to compare; None when it has one."""
    if not folder.finished:
        return "it has not finished"
    record = folder.read_record()
    if record.status != "finished":
        return f"it {record.status}" + (f" ({record.reason})" if record.reason else "")
    return None if folder.measurements_path.is_file() else "it was not scored"


def _arm(spec: RunSpec) -> str:
    """Identity of everything but the seed."""
    data = msgspec.structs.replace(spec.data, order_seed=0)
    branch = None if spec.branch is None else msgspec.structs.replace(spec.branch, parent="")
    return msgspec.structs.replace(spec, seed=0, data=data, branch=branch).fingerprint()


def _telling_labels(arms: list[Mapping[str, Scalar]], wanted: Mapping[str, str]) -> list[str]:
    """Labels that tell the arms apart, in the order in which they were given; none for a single arm."""
    names = list(dict.fromkeys(name for labels in arms for name in labels))
    telling = [
        name
        for name in names
        if name not in OF_THE_SEED and name not in wanted and len({labels.get(name) for labels in arms}) > 1
    ]
    chosen: list[str] = []
    for name in telling:  # sizes are often there twice, in words and as counts: once is enough
        if len({_name(labels, [*chosen, name]) for labels in arms}) > len(
            {_name(labels, chosen) for labels in arms}
        ):
            chosen.append(name)
    return chosen


def _name(labels: Mapping[str, Scalar], chosen: list[str]) -> str:
    return ", ".join(f"{key} {_words(labels.get(key))}" for key in chosen)


def _words(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tasks(runs: list[tuple[RunSpec, list[Measurement]]], labels: list[str], place: Path) -> list[TaskScores]:
    spec = runs[0][0]
    task = _name(spec.labels, labels)
    by_metric: dict[str, dict[str, float]] = defaultdict(dict)
    held: dict[str, str] = {}
    for run, measurements in runs:
        seed = (
            str(run.seed)
            if run.seed == run.data.order_seed
            else f"{run.seed}, data order {run.data.order_seed}"
        )
        last = {
            one.name: one
            for one in sorted(measurements, key=lambda one: one.step)
            if one.step == run.num_steps
        }
        for one in last.values():
            for unit, estimate in ((NATS, one.loss), (BITS, one.bits_per_byte)):
                if estimate.value is None:
                    continue
                metric = f"{one.name} {unit}"
                if seed in by_metric[metric]:
                    raise ScoreError(
                        f"{place}: two runs of {task or 'one arm'} have seed {seed}; name the folder of the arm, or "
                        "choose runs by a label (FOLDER:label=value)"
                    )
                by_metric[metric][seed] = estimate.value
                held[metric] = f"{one.held_fixed}; {_text_scored(run, one.name, unit)}"
    return [
        TaskScores(
            task=task,
            metric=metric,
            higher_is_better=False,
            seeds=seeds,
            version=held[metric],
            train_flops=spec.train_flops.flops,
        )
        for metric, seeds in by_metric.items()
    ]


def _text_scored(spec: RunSpec, name: str, unit: str) -> str:
    """Which text was scored, and for a score per token with which tokenizer."""
    assert spec.evaluate is not None, "the caller takes scored runs alone"
    sources = spec.evaluate.sources or spec.data.sources
    names = [spec.evaluate.name_of(index) for index in range(len(spec.evaluate.sources) or 1)]
    source = sources[names.index(name)] if name in names else sources[0]
    corpus = f"corpus {source.corpus_sha256[:8]}"
    return corpus if unit == BITS else f"{corpus}, tokenizer {source.tokenizer_sha256[:8]}"
