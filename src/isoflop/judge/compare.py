"""Two score files in, a judged comparison out: B minus A, task by task, with what could have been seen.

Takes the strongest evidence that both files hold: items on both sides are paired item by item, seeds are
compared as seeds, and scores with a number of items (or a standard error) fall back to an unpaired test,
which a note then says. Several tasks are corrected together (Holm). Leaves out reading
(`isoflop.judge.scores`) and the tests themselves (`isoflop.fit.compare.difference`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.fit.compare import difference as tests
from isoflop.fit.compare import power as power_of
from isoflop.judge.scores import Item, ScoreError, ScoreFile, TaskScores, is_accuracy, read_scores
from isoflop.records import Column, Estimate, Exclusion, Figure, Outcome, Scalar, Statement, Table, Verdict

PREFERRED = ("heldout nats/token", "acc", "accuracy", "exact_match", "em", "acc_norm")
"""Metric that is compared when both files hold several and none is named, in this order."""
EQUAL_COMPUTE = 0.02
"""Training FLOPs that differ by less count as equal: whole steps cannot meet a budget exactly."""
CHANGING_SHARE = 0.1
"""Share of items assumed to change where only scores are known, to say what paired items would show."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Seed noise learned from other runs: standard deviation of one run and its degrees of freedom."""

    sd: float
    df: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to compare; every field has the usual default."""

    metric: str | None = None
    """Metric to compare; None takes the one that both files have."""
    tasks: tuple[str, ...] = ()
    """Tasks to compare; empty takes all that both files have (groups rather than their subtasks)."""
    family: str | None = None
    """Column (or field of lm-eval's doc) that groups items which are not independent."""
    paired_seeds: bool = False
    """Seeds with the same label share initialisation and data order."""
    noise: Noise | None = None
    level: float = 0.95
    power: float = 0.8
    common_items: bool = False
    """Compare on the items that both files have when the sets differ; the rest is listed as excluded."""
    ignore_versions: bool = False
    """Compare in spite of different task versions or numbers of shots; a note says so."""
    loss_of_compute: Callable[[float], float] | None = None
    """Loss as a function of training compute, to express a difference in losses as compute."""
    compute: float | None = None
    """What both arms spent, in the unit of `loss_of_compute`."""
    num_resamples: int = 2000


@dataclass
class _Log:
    """Notes and exclusions gathered on the way."""

    notes: list[str] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)


def compare_files(a: Path | str, b: Path | str, options: Options | None = None) -> dict[str, Any]:
    """Compare two score files; the answer is ready for JSON.

    Args:
        a, b: anything that `isoflop.judge.scores.read_scores` reads; the difference is B minus A.
        options: see `Options`.

    Returns:
        ``difference``, ``ci95``, ``p``, ``minimum_detectable``, ``verdict``: values when one task is compared,
        mappings from task to value when several are. ``tasks`` holds one full row per task in both cases,
        ``sentence`` the answer in words, ``notes`` and ``exclusions`` what a reader must know. Undefined
        numbers are None and the row's ``reason`` says why. ``ci95`` holds the interval at ``level``.

    Raises:
        ScoreError: a file cannot be read, or the two do not measure the same thing.
    """
    chosen = options or Options()
    file_a, file_b = read_scores(a, family=chosen.family), read_scores(b, family=chosen.family)
    return compare_scores(file_a, file_b, chosen)


def compare_scores(file_a: ScoreFile, file_b: ScoreFile, options: Options | None = None) -> dict[str, Any]:
    """The same for files that were read already, or made in memory."""
    chosen = options or Options()
    log = _Log(notes=[*file_a.notes, *file_b.notes])
    pairs = _match(file_a, file_b, chosen, log)
    rows = [_compare_task(task_a, task_b, chosen, log) for task_a, task_b in pairs]
    defined = [row for row in rows if row["p"] is not None]
    adjusted: list[float] = tests.holm([row["p"] for row in defined]).tolist() if defined else []
    for row, p in zip(defined, adjusted, strict=True):
        row["p_holm"] = p
    for row in rows:
        row["verdict"] = _verdict_word(row, 1 - chosen.level)
    return {
        "a": file_a.path,
        "b": file_b.path,
        "sentence": _sentence(rows, chosen),
        **_headline(rows),
        "level": chosen.level,
        "power": chosen.power,
        "correction": "Holm" if len(rows) > 1 else None,
        "tasks": rows,
        "notes": list(dict.fromkeys(log.notes)),
        "exclusions": [{"what": item.what, "reason": item.reason} for item in log.exclusions],
    }


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("difference", "ci95", "p", "minimum_detectable", "verdict")
    if len(rows) == 1:
        return {name: rows[0][name] for name in names}
    return {name: {row["task"]: row[name] for row in rows} for name in names}


def share_estimate(num_right: int, num: int, *, level: float = 0.95) -> Estimate:
    """A share with its Wilson interval, or the reason why there is none."""
    if num == 0:
        return Estimate(value=None, unit="share", reason="nothing to count")
    lo, hi = tests.wilson_interval(num_right, num, level=level)
    return Estimate(value=num_right / num, unit="share", lo=lo, hi=hi, level=level, method="Wilson interval")


# ----------------------------------------------------------------------- which with which


def _match(
    file_a: ScoreFile, file_b: ScoreFile, options: Options, log: _Log
) -> list[tuple[TaskScores, TaskScores]]:
    names_a, names_b = (list(dict.fromkeys(task.task for task in file.tasks)) for file in (file_a, file_b))
    if len(names_a) == len(names_b) == 1 and ("" in names_a or "" in names_b):
        names = [(names_a[0], names_b[0])]
    else:
        shared = _shared_names(file_a, file_b, names_a, names_b, options, log)
        names = [(name, name) for name in shared]
    pairs = []
    for name_a, name_b in names:
        have_a = [task for task in file_a.tasks if task.task == name_a]
        have_b = [task for task in file_b.tasks if task.task == name_b]
        pairs.append(_same_metric(have_a, have_b, file_a, file_b, options, log))
    return pairs


def _shared_names(
    file_a: ScoreFile, file_b: ScoreFile, names_a: list[str], names_b: list[str], options: Options, log: _Log
) -> list[str]:
    for name in options.tasks:
        for file, names in ((file_a, names_a), (file_b, names_b)):
            if name not in names:
                raise ScoreError(f"{file.path} has no task {name!r}; it has {_listing(names)}")
    if options.tasks:
        return list(options.tasks)
    shared = [name for name in names_a if name in names_b]
    if not shared:
        raise ScoreError(
            f"no task in common: {file_a.path} has {_listing(names_a)}, {file_b.path} has {_listing(names_b)}"
        )
    for file, own, other in ((file_a, names_a, names_b), (file_b, names_b, names_a)):
        for name in own:
            if name not in other:
                log.exclusions.append(Exclusion(what=f"task {name}", reason=f"only in {file.path}"))
    groups = {task.task: set(task.parts) for task in file_a.tasks if task.parts and task.task in shared}
    hidden = [
        name
        for name in shared
        if any(
            name in parts or (name in groups and name != group and groups[name] < parts)
            for group, parts in groups.items()
        )
    ]
    if hidden:
        log.notes.append(
            f"{len(hidden)} subtasks are part of a compared group; name them to compare them singly"
        )
    return [name for name in shared if name not in hidden]


def _same_metric(
    have_a: list[TaskScores],
    have_b: list[TaskScores],
    file_a: ScoreFile,
    file_b: ScoreFile,
    options: Options,
    log: _Log,
) -> tuple[TaskScores, TaskScores]:
    metrics_a, metrics_b = ({task.metric: task for task in have} for have in (have_a, have_b))
    where = f"task {have_a[0].task}: " if have_a[0].task else ""
    if options.metric is not None:
        for file, metrics in ((file_a, metrics_a), (file_b, metrics_b)):
            if options.metric not in metrics:
                raise ScoreError(
                    f"{where}{file.path} has no metric {options.metric!r}; it has {_listing(metrics)}"
                )
        return metrics_a[options.metric], metrics_b[options.metric]
    shared = [metric for metric in metrics_a if metric in metrics_b]
    if not shared:
        if len(metrics_a) == len(metrics_b) == 1 and ("" in metrics_a or "" in metrics_b):
            log.notes.append(f"{where}only one of the two files names its metric; taken to be the same")
            return have_a[0], have_b[0]
        raise ScoreError(
            f"{where}the files hold different metrics ({_listing(metrics_a)} in {file_a.path}, "
            f"{_listing(metrics_b)} in {file_b.path}), which cannot be subtracted; score both by the same one"
        )
    if len(shared) > 1:
        best = next((metric for metric in PREFERRED if metric in shared), None)
        if best is None:
            raise ScoreError(f"{where}both files hold {_listing(shared)}; name the metric to compare")
        others = _listing([metric for metric in shared if metric != best])
        if others != "heldout bits/byte":  # the same loss in another unit
            log.notes.append(f"{where}compared by {best}; there are also {others}")
        return metrics_a[best], metrics_b[best]
    return metrics_a[shared[0]], metrics_b[shared[0]]


def _listing(names: Sequence[str] | dict[str, Any]) -> str:
    shown = [name or "(no name)" for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


# ----------------------------------------------------------------------------- one task


def _compare_task(a: TaskScores, b: TaskScores, options: Options, log: _Log) -> dict[str, Any]:
    task = b.task or a.task or "score"
    _check_same_test(a, b, task, options, log)
    row: dict[str, Any] = {
        "task": task,
        "metric": b.metric or a.metric or None,
        "higher_is_better": a.higher_is_better if a.higher_is_better is not None else b.higher_is_better,
    }
    if a.items is not None and b.items is not None:
        row.update(_compare_items(a, b, task, options, log))
    elif a.seeds is not None and b.seeds is not None:
        row.update(_compare_seeds(a, b, task, options, log))
    elif a.value is not None and b.value is not None:
        row.update(_compare_values(a, b, task, options, log))
    else:
        kinds = " and ".join("seeds" if side.seeds is not None else "one score" for side in (a, b))
        raise ScoreError(f"{task}: {kinds} cannot be compared; give seeds on both sides or one score on both")
    return {**row, "p_holm": None, **_worth(row, options)}


def _check_same_test(a: TaskScores, b: TaskScores, task: str, options: Options, log: _Log) -> None:
    for what, own, other in (
        ("task version", a.version, b.version),
        ("number of shots", a.num_shots, b.num_shots),
    ):
        if own is None or other is None or own == other:
            continue
        text = f"{task}: A was scored with {what} {own} and B with {other}"
        if not options.ignore_versions:
            raise ScoreError(
                f"{text}; such scores are not comparable: score both the same way (or pass --ignore-versions)"
            )
        log.notes.append(f"{text}; compared because you asked for it")
    if a.train_flops and b.train_flops and abs(math.log(b.train_flops / a.train_flops)) > EQUAL_COMPUTE:
        log.notes.append(
            f"{task}: not at equal compute, a run of B took {b.train_flops / a.train_flops:.3g} times the FLOPs of A"
        )
    if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
        log.notes.append(f"{task}: documents or prompts differ between the files (task hashes)")


def _row(difference: tests.Difference, score_a: float, score_b: float) -> dict[str, Any]:
    """JSON-ready core of a task's row."""
    interval = None if difference.lo is None or difference.hi is None else [difference.lo, difference.hi]
    return {
        "a": score_a,
        "b": score_b,
        "num_a": difference.num_a,
        "num_b": difference.num_b,
        "difference": difference.value,
        "ci95": interval,
        "p": difference.p,
        "statistic": difference.statistic,
        "standard_error": difference.standard_error,
        "df": difference.df,
        "minimum_detectable": difference.minimum_detectable,
        "method": difference.method,
        "reason": difference.reason,
    }


def _compare_items(a: TaskScores, b: TaskScores, task: str, options: Options, log: _Log) -> dict[str, Any]:
    items_a, items_b = a.items or {}, b.items or {}
    keys = _common_keys(items_a, items_b, task, options, log)
    _check_content(items_a, items_b, keys, task, log)
    families = _families(items_a, items_b, keys, task, log)
    scores_a, scores_b = ([items[key].score for key in keys] for items in (items_a, items_b))
    found = tests.compare_items(
        scores_a,
        scores_b,
        families=families,
        level=options.level,
        power=options.power,
        num_resamples=options.num_resamples,
    )
    resampled = None
    if found.bootstrap_lo is not None and found.bootstrap_hi is not None:
        resampled = [found.bootstrap_lo, found.bootstrap_hi]
    return {
        "kind": "items",
        **_row(found.difference, float(np.mean(scores_a)), float(np.mean(scores_b))),
        "bootstrap_ci95": resampled,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "num_families": found.num_families,
        "design_effect": found.design_effect,
    }


def _common_keys(items_a: Any, items_b: Any, task: str, options: Options, log: _Log) -> list[str]:
    only_a = [key for key in items_a if key not in items_b]
    only_b = [key for key in items_b if key not in items_a]
    keys = [key for key in items_a if key in items_b]
    if not only_a and not only_b:
        return keys
    text = (
        f"{task}: the item sets differ ({len(keys)} in both, {len(only_a)} only in A, {len(only_b)} only in B"
    )
    text += f", for example {(only_a + only_b)[0]})"
    if not keys:
        raise ScoreError(f"{text}; nothing is left to pair: score both on the same items")
    if not options.common_items:
        raise ScoreError(f"{text}; score both on the same items, or ask for the common items only")
    for side, extra in (("A", only_a), ("B", only_b)):
        if extra:
            log.exclusions.append(
                Exclusion(what=f"{task}: {len(extra)} items of {side}", reason="not in the other file")
            )
    return keys


def _check_content(items_a: Any, items_b: Any, keys: list[str], task: str, log: _Log) -> None:
    def differing(name: str) -> list[str]:
        return [
            key
            for key in keys
            if (own := getattr(items_a[key], name))
            and (other := getattr(items_b[key], name))
            and own != other
        ]

    changed = differing("content")
    if changed:
        raise ScoreError(
            f"{task}: {len(changed)} items share an id but not their content (for example {changed[0]}); "
            "the files come from different data sets or versions"
        )
    prompts = differing("prompt")
    if prompts:
        log.notes.append(f"{task}: {len(prompts)} of {len(keys)} items were asked with different prompts")


def _families(
    items_a: dict[str, Item] | Any, items_b: Any, keys: list[str], task: str, log: _Log
) -> list[str] | None:
    labels = [items_a[key].family or items_b[key].family for key in keys]
    if all(label is None for label in labels):
        return None
    missing = [key for key, label in zip(keys, labels, strict=True) if label is None]
    if missing:
        raise ScoreError(f"{task}: item {missing[0]} has no family but others do; give every item one")
    if any(
        items_b[key].family is not None and items_a[key].family not in (None, items_b[key].family)
        for key in keys
    ):
        raise ScoreError(f"{task}: an item is in different families in the two files")
    families = [str(label) for label in labels]
    if len(set(families)) < len(families):
        log.notes.append(
            f"{task}: {len(families)} items in {len(set(families))} families, resampled as families"
        )
    return families


def _compare_seeds(a: TaskScores, b: TaskScores, task: str, options: Options, log: _Log) -> dict[str, Any]:
    seeds_a, seeds_b = dict(a.seeds or {}), dict(b.seeds or {})
    settings = {"level": options.level, "power": options.power}
    if options.paired_seeds:
        if set(seeds_a) != set(seeds_b):
            unmatched = sorted(set(seeds_a) ^ set(seeds_b))
            raise ScoreError(
                f"{task}: seeds {_listing(unmatched)} are in one file only, so they cannot be paired"
            )
        seeds_b = {key: seeds_b[key] for key in seeds_a}
    elif a.train_flops and len(seeds_a) > 1 and set(seeds_a) == set(seeds_b):
        log.notes.append(
            "both arms ran the same seeds; --paired-seeds pairs them, which sees more where equal seeds share "
            "initialisation and data order"
        )
    values_a, values_b = list(seeds_a.values()), list(seeds_b.values())
    try:
        if options.paired_seeds:
            found = tests.compare_paired_seeds(values_a, values_b, **settings)
        elif options.noise is not None:
            found = tests.compare_seeds_known_noise(
                values_a, values_b, sd=options.noise.sd, df=options.noise.df, **settings
            )
        else:
            found = tests.compare_seeds(values_a, values_b, **settings)
    except ValueError as error:
        raise ScoreError(f"{task}: {error}") from None
    return {"kind": "seeds", **_row(found, float(np.mean(values_a)), float(np.mean(values_b)))}


def _compare_values(a: TaskScores, b: TaskScores, task: str, options: Options, log: _Log) -> dict[str, Any]:
    assert a.value is not None, "the caller checked it"
    assert b.value is not None, "the caller checked it"
    settings = {"level": options.level, "power": options.power}
    share = (is_accuracy(a.metric) or not a.metric) and (is_accuracy(b.metric) or not b.metric)
    if share and a.num is not None and b.num is not None:
        found = tests.compare_proportions(a.value, a.num, b.value, b.num, **settings)
        row = {"kind": "proportions", **_row(found, a.value, b.value)}
        if a.num == b.num:
            row["if_paired"] = _if_paired(a.num, options)
            log.notes.append(
                "from scores alone the items of A and B count as different ones; if they are the same, item logs "
                "would see smaller differences"
            )
        else:
            log.notes.append(f"{task}: {a.num} items in A and {b.num} in B, so not the same set")
        return row
    if a.standard_error is not None and b.standard_error is not None:
        try:
            found = tests.compare_estimates(a.value, a.standard_error, b.value, b.standard_error, **settings)
        except ValueError as error:
            raise ScoreError(f"{task}: {error}") from None
        return {"kind": "estimates", **_row(found, a.value, b.value), "num_a": a.num, "num_b": b.num}
    raise ScoreError(
        f"{task}: a score without its number of items, standard error, items or seeds says nothing about noise; "
        'add "n" (for a share of right answers) or "stderr"'
    )


def _if_paired(num: int, options: Options) -> dict[str, float]:
    error = math.sqrt(CHANGING_SHARE / num)
    detectable = power_of.detectable_drift(options.power, 1 - options.level) * error
    return {"changing_share": CHANGING_SHARE, "minimum_detectable": detectable}


def _worth(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """The difference as a factor on compute, when a law is given."""
    if options.loss_of_compute is None or options.compute is None or row["ci95"] is None:
        return {}
    difference = tests.Difference(
        value=row["difference"],
        lo=row["ci95"][0],
        hi=row["ci95"][1],
        level=options.level,
        p=row["p"],
        statistic=row["statistic"],
        standard_error=row["standard_error"],
        df=row["df"],
        minimum_detectable=row["minimum_detectable"],
        power=options.power,
        num_a=row["num_a"],
        num_b=row["num_b"],
        method=row["method"],
    )
    found = tests.compute_equivalent(difference, options.loss_of_compute, options.compute)
    return {
        "compute_factor": found.factor,
        "compute_factor_ci95": None if found.lo is None or found.hi is None else [found.lo, found.hi],
        "compute_factor_reason": found.reason,
    }


# ------------------------------------------------------------------------------- in words


def _verdict_word(row: dict[str, Any], alpha: float) -> str:
    p = row["p_holm"]
    if p is None or p >= alpha:
        return "cannot tell"
    return "B is higher" if row["difference"] > 0 else "B is lower"


def _sentence(rows: list[dict[str, Any]], options: Options) -> str:
    if len(rows) == 1:
        return _task_sentence(rows[0], options)
    told = [row for row in rows if row["verdict"] != "cannot tell"]
    if not told:
        return (
            f"None of the {len(rows)} tasks shows a real difference after correction for trying {len(rows)}."
        )
    parts = [
        f"{row['verdict'].removeprefix('B is ')} on {row['task']} by {_size(row, abs(row['difference']))}"
        for row in told
    ]
    rest = len(rows) - len(told)
    tail = f"; the other {rest} cannot be told from noise" if rest else ""
    return f"B is {', '.join(parts)}{tail} (Holm-corrected over {len(rows)} tasks)."


def _task_sentence(row: dict[str, Any], options: Options) -> str:
    detectable = row["minimum_detectable"]
    could = (
        f" A true difference of {_size(row, detectable)} would have been seen with {options.power:.0%} probability."
        if detectable
        else ""
    )
    if row["p"] is None:
        return f"Cannot tell: {row['reason']}."
    change = f"{_size(row, row['difference'], sign=True)}"
    span = ""
    if row["ci95"] is not None:
        lo, hi = (_size(row, end, sign=True, unit=False) for end in row["ci95"])
        span = f" ({options.level:.0%} interval {lo} to {hi})"
    if row["verdict"] == "cannot tell":
        return f"Cannot tell: B minus A is {change}{span}, p = {_p_text(row['p'])}.{could}"
    return f"{row['verdict']}: B minus A is {change}{span}, p = {_p_text(row['p'])}."


def _size(row: dict[str, Any], value: float, *, sign: bool = False, unit: bool = True) -> str:
    mark = "+" if sign else ""
    if _in_points(row):
        return f"{100 * value:{mark}.2f}" + (" points" if unit else "")
    return f"{value:{mark}.4g}"


def _in_points(row: dict[str, Any]) -> bool:
    return row["kind"] == "proportions" or bool(row["metric"] and is_accuracy(row["metric"]))


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def render_text(result: dict[str, Any]) -> str:
    """One sentence and one table for the terminal."""
    headings = (
        "task",
        "A",
        "B",
        "B - A",
        f"{result['level']:.0%} interval",
        "p",
        "p Holm",
        "detectable",
        "verdict",
    )
    lines: list[tuple[str, ...]] = [headings]
    for row in result["tasks"]:
        scale, digits = (100, 2) if _in_points(row) else (1, 4)
        interval = "undefined"
        if row["ci95"] is not None:
            interval = " to ".join(f"{scale * end:+.{digits}f}" for end in row["ci95"])
        detectable = row["minimum_detectable"]
        lines.append(
            (
                " ".join(part for part in (row["task"], row["metric"]) if part),
                f"{scale * row['a']:.{digits}f}",
                f"{scale * row['b']:.{digits}f}",
                f"{scale * row['difference']:+.{digits}f}",
                interval,
                "-" if row["p"] is None else _p_text(row["p"]),
                "-" if row["p_holm"] is None else _p_text(row["p_holm"]),
                "-" if detectable is None else f"{scale * detectable:.{digits}f}",
                row["verdict"],
            )
        )
    if len(result["tasks"]) == 1:
        lines = [line[:6] + line[7:] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    table = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    methods = dict.fromkeys(row["method"] for row in result["tasks"])
    notes = [f"method: {method}" for method in methods]
    notes += [f"{row['task']}: {row['reason']}" for row in result["tasks"] if row["reason"]]
    notes += [f"note: {note}" for note in result["notes"]]
    notes += [f"left out: {item['what']} ({item['reason']})" for item in result["exclusions"]]
    return "\n".join([result["sentence"], "", *(line.rstrip() for line in table), "", *notes])


# ------------------------------------------------------------------------------ as a record


def comparison_verdict(
    result: dict[str, Any],
    *,
    study: str = "compare",
    claims: tuple[str, ...] = (),
    question: str = "Is the difference real?",
) -> Verdict:
    """The comparison as a verdict with its statements, table and figure, ready to be published.

    "supported" says that at least one task differs; "cannot tell" that none does.
    """
    alpha = 1 - result["level"]
    rows = result["tasks"]
    outcome: Outcome = "supported" if any(row["verdict"] != "cannot tell" for row in rows) else "cannot tell"
    return Verdict(
        study=study,
        claims=claims,
        question=question,
        outcome=outcome,
        sentence=result["sentence"],
        statements=tuple(_statement(row, result, alpha) for row in rows),
        effect=result["sentence"],
        settle=_settle(rows) if outcome == "cannot tell" else None,
        limits=tuple(result["notes"]),
        tables=(_table(result),),
        figures=(_figure(result),),
        exclusions=tuple(
            Exclusion(what=item["what"], reason=item["reason"]) for item in result["exclusions"]
        ),
        summary={key: value for key, value in result.items() if key not in ("notes", "exclusions")},
    )


def _statement(row: dict[str, Any], result: dict[str, Any], alpha: float) -> Statement:
    differs = row["verdict"] != "cannot tell"
    p = "undefined" if row["p_holm"] is None else _p_text(row["p_holm"])
    lo, hi = row["ci95"] if row["ci95"] is not None else (None, None)
    settle = None
    if not differs and row["minimum_detectable"] is not None:
        settle = (
            f"a true difference of {_size(row, row['minimum_detectable'])} or more, or more items or seeds"
        )
    return Statement(
        text=f"{row['task']}: B differs from A",
        outcome="supported" if differs else "cannot tell",
        because=f"{row['verdict']}; B minus A is {_size(row, row['difference'], sign=True)}, p = {p} "
        f"(corrected) against {alpha:.2g}; {row['method']}",
        estimate=Estimate(
            value=row["difference"],
            unit="share" if _in_points(row) else (row["metric"] or "score"),
            lo=lo,
            hi=hi,
            level=result["level"],
            method=row["method"],
            reason=row["reason"],
        ),
        settle=settle,
    )


def _settle(rows: list[dict[str, Any]]) -> str:
    known = [row for row in rows if row["minimum_detectable"] is not None]
    if not known:
        return "item-level results or more seeds on both sides"
    row = min(known, key=lambda entry: entry["minimum_detectable"])
    return (
        f"item-level results, more items or more seeds: on {row['task']} nothing below "
        f"{_size(row, row['minimum_detectable'])} could be seen"
    )


def _table(result: dict[str, Any]) -> Table:
    names = (
        "task",
        "metric",
        "a",
        "b",
        "difference",
        "lo",
        "hi",
        "p",
        "p_holm",
        "minimum_detectable",
        "verdict",
    )
    rows: list[tuple[Scalar, ...]] = []
    for row in result["tasks"]:
        lo, hi = row["ci95"] if row["ci95"] is not None else (None, None)
        cells = {**row, "lo": lo, "hi": hi, "label": row["task"], "value": row["difference"]}
        rows.append((*(cells[name] for name in names), cells["label"], cells["value"], row["reason"]))
    titles = dict(
        zip(
            names,
            ("task", "metric", "A", "B", "B - A", "from", "to", "p", "p (Holm)", "detectable", "verdict"),
            strict=True,
        )
    )
    numbers = {"a", "b", "difference", "lo", "hi", "minimum_detectable"}
    columns = [
        Column(name=name, title=titles[name], format="{:.4g}" if name in numbers else "") for name in names
    ]
    columns += [
        Column(name="label", title="label"),
        Column(name="value", title="B - A"),
        Column(name="reason", title="why undefined"),
    ]
    return Table(name="comparison", title="B minus A, task by task", columns=tuple(columns), rows=tuple(rows))


def _figure(result: dict[str, Any]) -> Figure:
    return Figure(
        name="comparison",
        kind="intervals",
        title="B minus A",
        caption=f"Difference with its {result['level']:.0%} interval; an interval across 0 cannot tell.",
        alt=result["sentence"],
        tables=("comparison",),
        options={
            "reference": 0.0,
            "reference_label": "no difference",
            "x_title": "B minus A" + (", share of items" if all(map(_in_points, result["tasks"])) else ""),
        },
    )
