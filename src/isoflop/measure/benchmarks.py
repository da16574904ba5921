"""Benchmarks of a model through lm-eval: scores with their errors, item logs for paired tests, and the record.

    model + tasks -> lm-eval -> results_DATE.json + samples_TASK_DATE.jsonl -> `isoflop compare`

The files have lm-eval's own form, so they can be compared with scores that were taken elsewhere. The global
seeds of the caller are left as they are. For multiple choice two scores are added that move before accuracy
does: the probability of the right answer among the choices, and its bits per byte.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.measure.harness_tasks import (
    FEWSHOT_SEED,
    SEEDS,
    BenchmarkError,
    TaskSet,
    quiet,
    require_harness,
    untouched_seeds,
)
from isoflop.records import BenchmarkScore, Estimate, decode, encode
from isoflop.store import RunFolder, read_jsonl, write_atomic

if TYPE_CHECKING:
    from isoflop.subject.language_model import LanguageModel
    from isoflop.subject.opening import Subject

HF = "hf:"
"""Before the name or folder of a model that transformers shall load."""
BOOTSTRAP_ITERS = 1000
"""Resamples for the error of scores that have no formula (perplexity, BLEU); means have one."""
FOLDER = "benchmarks"
"""In a run's folder: item logs and results, by step."""
SCORES = "benchmarks.jsonl"
"""In a run's folder: one `BenchmarkScore` a line."""
ADDED = {"gold_probability": True, "gold_bits_per_byte": False}
"""Metrics that are added for multiple choice -> higher is better."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tasks are asked.

    Attributes:
        limit: the first so many items of each task; None asks all.
        chat_template: put prompts into the model's chat template.
        system: system message before each prompt.
    """

    limit: int | None = None
    chat_template: bool = False
    system: str | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model behind lm-eval's interface, and what the record says about it.

    Attributes:
        harness_model: an lm-eval `LM`.
        name: where it is from.
        precision: of its weights.
        context: tokens that it sees at most.
        run, fingerprint, step: the run that made it; None for weights from elsewhere.
    """

    harness_model: Any
    name: str
    precision: str
    context: int
    run: RunFolder | None = None
    fingerprint: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """What came out.

    Attributes:
        candidate: the model.
        results: lm-eval's aggregated results, JSON-ready but for what `json_text` replaces.
        samples: item logs by task.
        chat_template: prompts were put into a chat template.
        notes: warnings of the harness.
        date: when, ISO 8601.
    """

    candidate: Candidate
    results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    chat_template: bool
    notes: tuple[str, ...]
    date: str

    def scores(self, items: Mapping[str, Path] | None = None) -> tuple[BenchmarkScore, ...]:
        """One record per task and metric.

        Args:
            items: the item logs that were written, by task.
        """
        return tuple(
            self._score(task, key, (items or {}).get(task))
            for task, row in self.results["results"].items()
            for key in row
            if _is_metric(row, key)
        )

    def _score(self, task: str, key: str, log: Path | None) -> BenchmarkScore:
        results = self.results
        metric, _, filter_name = key.partition(",")
        value, error = (
            results["results"][task][key],
            results["results"][task].get(f"{metric}_stderr,{filter_name}"),
        )
        error = float(error) if isinstance(error, int | float) else None
        count = _num_items(results, task)
        shots = results["n-shot"].get(task)
        version = results["versions"].get(task)
        return BenchmarkScore(
            model=self.candidate.name,
            run=self.candidate.fingerprint,
            step=self.candidate.step,
            task=task,
            metric=metric if filter_name in ("", "none") else key,
            score=_estimate(float(value), error, count, self._is_share(task, metric, filter_name)),
            standard_error=error,
            num_items=count,
            task_version=None if version in (None, "N/A") else str(version),
            num_fewshot=shots if isinstance(shots, int) else None,
            harness=results["config"]["harness"],
            chat_template=self.chat_template,
            precision=self.candidate.precision,
            context=self.candidate.context,
            items=None if log is None else log.name,
            items_sha256=None if log is None else hashlib.sha256(log.read_bytes()).hexdigest(),
            scored=self.date,
        )

    def _is_share(self, task: str, metric: str, filter_name: str) -> bool:
        """True when every item is right or wrong."""
        rows = [row for row in self.samples.get(task, ()) if row.get("filter") == (filter_name or "none")]
        return bool(rows) and all(row.get(metric) in (0, 1) for row in rows)


# --------------------------------------------------------------------------------------- models


def open_candidate(
    place: str,
    *,
    tokenizer: str | None = None,
    step: int | None = None,
    device: str = "cpu",
    batch_tokens: int | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
) -> Candidate:
    """A model by its place.

    Args:
        place: what `isoflop.subject.opening.open_subject` opens; or "hf:" and a name or folder, which
            transformers loads, of any family.
        tokenizer, step, device, batch_tokens: as for `open_subject`.
        progress: told sentences while it is asked.

    Raises:
        BenchmarkError: lm-eval or transformers is missing, or transformers cannot load the model.
        WeightsError, CheckpointError, TextError: as `open_subject`.
    """
    require_harness()
    if place.startswith(HF):
        if step is not None:
            raise BenchmarkError("a model that transformers loads has no steps; leave the step out")
        return _transformers_candidate(place.removeprefix(HF), tokenizer, device)
    from isoflop.subject.language_model import BATCH_TOKENS
    from isoflop.subject.opening import open_subject

    opened = open_subject(
        place, tokenizer=tokenizer, step=step, device=device, batch_tokens=batch_tokens or BATCH_TOKENS
    )
    return subject_candidate(opened, progress=progress)


def subject_candidate(
    subject: Subject, *, progress: Callable[[str], None] = lambda sentence: None
) -> Candidate:
    """A subject as a candidate."""
    return Candidate(
        harness_model=harness_model(subject.model, progress),
        name=subject.model.name,
        precision=subject.dtype,
        context=subject.model.context,
        run=subject.run,
        fingerprint=None if subject.spec is None else subject.spec.fingerprint(),
        step=subject.step,
    )


def harness_model(model: LanguageModel, progress: Callable[[str], None] = lambda sentence: None) -> Any:
    """A model behind lm-eval's interface. Raises BenchmarkError when lm-eval is not installed."""
    require_harness()
    with quiet():
        from isoflop.measure.harness_model import HarnessModel

    return HarnessModel(model, progress)


def _transformers_candidate(name: str, tokenizer: str | None, device: str) -> Candidate:
    """lm-eval's own class for transformers: any causal family, chat models, generation with a cache."""
    with quiet(), untouched_seeds():
        try:
            from lm_eval.models.huggingface import HFLM
        except ImportError as error:
            raise BenchmarkError(
                f"{HF}{name} is loaded with transformers and accelerate ({error}): pip install transformers accelerate"
            ) from None
        try:
            model = HFLM(pretrained=name, tokenizer=tokenizer, device=device, dtype="auto", batch_size=16)
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise BenchmarkError(f"transformers cannot load {name}: {said}") from error
    precision = str(next(model.model.parameters()).dtype).removeprefix("torch.")
    return Candidate(harness_model=model, name=name, precision=precision, context=int(model.max_length))


# -------------------------------------------------------------------------------------- scoring


def benchmark(candidate: Candidate, tasks: TaskSet, settings: Settings = Settings()) -> Benchmarked:
    """Ask a model all items of all tasks. The caller's global seeds are the same before and after.

    Raises BenchmarkError when a task and the model do not go together.
    """
    from lm_eval.evaluator import evaluate

    date = datetime.datetime.now().isoformat(timespec="microseconds")
    with quiet() as notes, untouched_seeds(), _no_pools():
        for task in tasks.loaded["tasks"].values():
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        try:
            found: Any = evaluate(
                candidate.harness_model,
                tasks.loaded,
                limit=settings.limit,
                bootstrap_iters=BOOTSTRAP_ITERS,
                log_samples=True,
                system_instruction=settings.system,
                apply_chat_template=settings.chat_template,
                fewshot_as_multiturn=settings.chat_template,
            )
        except NotImplementedError as error:
            raise BenchmarkError(f"{candidate.name} cannot be asked so: {error}") from error
    results = dict(found)
    samples = results.pop("samples")
    _add_gold(results, samples)
    template = candidate.harness_model.chat_template(True) if settings.chat_template else None
    results |= {
        "config": _config(candidate, settings),
        "task_hashes": {task: _task_hash(rows) for task, rows in samples.items()},
        "model_source": "isoflop",
        "model_name": candidate.name,
        "system_instruction": settings.system,
        "chat_template": template,
        "date": date,
        "lm_eval_version": importlib.metadata.version("lm_eval"),
        "notes": [*tasks.notes, *notes.lines],
    }
    return Benchmarked(
        candidate=candidate,
        results=results,
        samples=samples,
        chat_template=settings.chat_template,
        notes=(*tasks.notes, *notes.lines),
        date=date,
    )


@contextlib.contextmanager
def _no_pools() -> Iterator[None]:
    """lm-eval forks a pool for resampling, which a process with threads or a GPU must not do."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _config(candidate: Candidate, settings: Settings) -> dict[str, Any]:
    return {
        "model": {"HFLM": "hf"}.get(type(candidate.harness_model).__name__, "isoflop"),
        "model_args": candidate.name,
        "model_dtype": candidate.precision,
        "max_length": candidate.context,
        "run": candidate.fingerprint,
        "step": candidate.step,
        "limit": settings.limit,
        "harness": f"lm-eval {importlib.metadata.version('lm_eval')}",
        "bootstrap_iters": BOOTSTRAP_ITERS,
        "random_seed": SEEDS[0],
        "numpy_seed": SEEDS[1],
        "torch_seed": SEEDS[2],
        "fewshot_seed": FEWSHOT_SEED,
    }


def _task_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """lm-eval's hash over documents, prompts and targets of a task."""
    joined = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    return hashlib.sha256(joined.encode()).hexdigest()


def _add_gold(results: dict[str, Any], samples: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Add what the logs say of the right answer: its share among the choices, and its bits per byte."""
    for task, rows in samples.items():
        if results["configs"].get(task, {}).get("output_type") != "multiple_choice":
            continue
        values = [_gold(row) for row in rows]
        if not values or any(one is None for one in values):
            continue
        for place, metric in enumerate(ADDED):
            numbers = np.array([one[place] for one in values if one is not None])
            for row, number in zip(rows, numbers.tolist(), strict=True):
                row[metric] = number
                row["metrics"] = [*row["metrics"], metric]
            error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers)) if len(numbers) > 1 else "N/A"
            results["results"][task] |= {
                f"{metric},none": float(numbers.mean()),
                f"{metric}_stderr,none": error,
            }
            results["higher_is_better"].setdefault(task, {})[metric] = ADDED[metric]


def _gold(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """(probability among the choices, bits per byte) of the right answer; None where there is not one."""
    gold = row["target"]
    answers, nats = [pair[1] for pair in row["arguments"]], [float(one[0]) for one in row["filtered_resps"]]
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(answers):
        return None
    if len({pair[0] for pair in row["arguments"]}) > 1:
        return None  # one continuation after several contexts (Winogrande), or a second, unconditional round
    shares = np.exp(np.array(nats) - max(nats))
    num_bytes = len(answers[gold].encode())
    return float(shares[gold] / shares.sum()), -nats[gold] / math.log(2) / max(1, num_bytes)


# ---------------------------------------------------------------------------------------- files


@dataclass(frozen=True, kw_only=True)
class Written:
    """Files of one evaluation.

    Attributes:
        results: lm-eval's aggregated results.
        items: item logs by task.
        scores: the records.
    """

    results: Path
    items: Mapping[str, Path]
    scores: tuple[BenchmarkScore, ...]


def write(done: Benchmarked, out: Path) -> Written:
    """Write results and item logs, as lm-eval writes them.

    Args:
        done: what came out.
        out: a folder, which gets results_DATE.json and samples_TASK_DATE.jsonl; or a .json file, which gets the
            results, with samples_TASK_NAME.jsonl beside it.
    """
    stamp = done.date.replace(":", "-")
    results = out if out.suffix == ".json" else out / f"results_{stamp}.json"
    label = out.stem if out.suffix == ".json" else stamp
    results.parent.mkdir(parents=True, exist_ok=True)
    items = {}
    for task, rows in done.samples.items():
        items[task] = results.parent / f"samples_{task.replace('/', '_')}_{label}.jsonl"
        write_atomic(items[task], "".join(json_text(_log_row(task, row)) + "\n" for row in rows))
    write_atomic(results, json_text(done.results, indent=2))
    return Written(results=results, items=items, scores=done.scores(items))


def keep(done: Benchmarked) -> Written | None:
    """Keep results and item logs in the run's folder, and add the scores to its benchmarks.jsonl.

    Returns None for weights that no run here has made.
    """
    run = done.candidate.run
    if run is None or done.candidate.step is None:
        return None
    written = write(done, run.path / FOLDER / f"step-{done.candidate.step:08d}")
    old = [score for score in read_scores(run) if not any(_same(score, new) for new in written.scores)]
    write_atomic(run.path / SCORES, b"".join(encode(score) + b"\n" for score in [*old, *written.scores]))
    return written


def read_scores(run: RunFolder) -> list[BenchmarkScore]:
    """The benchmark scores that a run's folder holds, in the order in which they were taken."""
    path = run.path / SCORES
    return [decode(row, BenchmarkScore, where=str(path)) for row in read_jsonl(path)] if path.exists() else []


def _same(a: BenchmarkScore, b: BenchmarkScore) -> bool:
    """True for two scores of one state that were taken alike: the newer one counts."""
    fields = ("run", "step", "task", "metric", "task_version", "num_fewshot", "chat_template", "num_items")
    return all(getattr(a, name) == getattr(b, name) for name in fields)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of lm-eval's answers: tensors' and arrays' numbers as numbers, functions by their source."""
    from lm_eval.utils import handle_non_serializable

    return json.dumps(value, indent=indent, default=handle_non_serializable, ensure_ascii=False)


def _log_row(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an item log, with arguments by name and answers as text: lm-eval's form on disk."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(one)}
        for i, one in enumerate(row["arguments"])
    }
    return {
        **row,
        "task_name": task,
        "arguments": arguments,
        "resps": _as_text(row["resps"]),
        "filtered_resps": _as_text(row["filtered_resps"]),
        "target": str(row["target"]),
    }


def _as_text(value: Any) -> Any:
    return [_as_text(one) for one in value] if isinstance(value, list | tuple) else str(value)


# -------------------------------------------------------------------------------------- numbers


def _is_metric(row: Mapping[str, Any], key: str) -> bool:
    metric = key.partition(",")[0]
    number = isinstance(row[key], int | float) and not isinstance(row[key], bool)
    return number and not metric.endswith("_stderr") and metric not in ("sample_len", "sample_count")


def _num_items(results: Mapping[str, Any], task: str) -> int:
    counts = results["n-samples"]
    if task in counts:
        return int(counts[task]["effective"])
    parts = results.get("group_subtasks", {}).get(task, ())
    return sum(_num_items(results, part) for part in parts if part != task)


def _estimate(value: float, error: float | None, count: int, is_share: bool) -> Estimate:
    """A score with its 95 % interval over items: Wilson's for shares (Wilson 1927), else the normal one."""
    unit = "share" if is_share else "score"
    z = 1.959963984540054
    if not math.isfinite(value):
        return Estimate(value=None, unit=unit, reason="the score is not finite")
    if is_share and count > 0:
        middle = (value + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z / (1 + z**2 / count) * math.sqrt(value * (1 - value) / count + z**2 / (4 * count**2))
        return Estimate(
            value=value,
            unit=unit,
            lo=middle - half,
            hi=middle + half,
            method="Wilson interval, items unpaired",
        )
    if error is None or not math.isfinite(error):
        return Estimate(value=value, unit=unit, reason="the harness gives no standard error for it")
    return Estimate(
        value=value, unit=unit, lo=value - z * error, hi=value + z * error, method="normal, items unpaired"
    )
