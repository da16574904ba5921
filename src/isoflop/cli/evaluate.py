"""The verb on benchmarks: evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isoflop.cli.main import main, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isoflop.records import BenchmarkScore


@main.command()
@click.argument("model")
@click.option(
    "--tasks",
    required=True,
    help="Comma-separated: lm-eval names (arc_easy,mmlu), task files (.yaml), files of items (.jsonl).",
)
@click.option(
    "--task-dir",
    "task_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of lm-eval task files; may be given several times.",
)
@click.option(
    "--num-fewshot", type=click.IntRange(min=0), help="Examples before each question.  [default: the task's]"
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many items of each task.")
@click.option("--chat-template", is_flag=True, help="Put prompts into the model's chat template.")
@click.option("--step", type=click.IntRange(min=0), help="Of a run: the state after so many updates.")
@click.option("--tokenizer", help="Folder or tokenizer.json, instead of the model's own.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens of a batch, padding included.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write results and item logs: a folder, or a .json file. Those of a run are also kept in its folder.",
)
@verb("evaluate")
def evaluate(
    model: str,
    tasks: str,
    task_dirs: tuple[Path, ...],
    num_fewshot: int | None,
    limit: int | None,
    chat_template: bool,
    step: int | None,
    tokenizer: str | None,
    device: str,
    batch_tokens: int | None,
    out: Path | None,
) -> tuple[str, dict[str, Any]]:
    """Score a model on benchmarks, through lm-eval. `isoflop compare` reads what is written.

    MODEL is a run folder, one of its checkpoints, or a folder of Llama weights in Hugging Face's files; with
    hf: before it, a Hugging Face name or folder of any family, loaded by transformers.
    """
    from isoflop.measure import benchmarks
    from isoflop.measure.harness_tasks import load_tasks
    from isoflop.records import to_mapping

    terminal = sys.stderr  # the harness's own output is kept off it

    def say(sentence: str) -> None:
        click.echo(sentence, file=terminal)

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    candidate = benchmarks.open_candidate(
        model, tokenizer=tokenizer, step=step, device=device, batch_tokens=batch_tokens, progress=_seldom(say)
    )
    loaded = load_tasks(names, task_dirs=task_dirs, num_fewshot=num_fewshot)
    settings = benchmarks.Settings(limit=limit, chat_template=chat_template)
    done = benchmarks.benchmark(candidate, loaded, settings)
    kept = benchmarks.keep(done)
    written = benchmarks.write(done, out) if out is not None else kept
    scores = written.scores if written is not None else done.scores()
    lines = [score_table(scores), *(f"note: {note}" for note in done.notes)]
    if written is not None:
        lines.append(f"results: {written.results}")
    return "\n".join(lines), {
        "model": candidate.name,
        "scores": [to_mapping(score) for score in scores],
        "notes": list(done.notes),
        "results": None if written is None else str(written.results),
        "items": {} if written is None else {task: str(path) for task, path in written.items.items()},
        "kept": None if kept is None else str(kept.results.parent),
    }


def score_table(scores: Sequence[BenchmarkScore]) -> str:
    """One line per task and metric: score, standard error, interval, items, shots, version."""
    head = ("task", "metric", "score", "error", "95 % interval", "items", "shots", "version")
    rows = [head]
    for one in scores:
        estimate = one.score
        ends = estimate.lo is not None and estimate.hi is not None
        rows.append(
            (
                one.task,
                one.metric,
                "undefined" if estimate.value is None else f"{estimate.value:.4f}",
                "" if one.standard_error is None else f"{one.standard_error:.4f}",
                f"{estimate.lo:.4f} to {estimate.hi:.4f}" if ends else (estimate.reason or ""),
                str(one.num_items),
                "" if one.num_fewshot is None else str(one.num_fewshot),
                one.task_version or "",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _seldom(say: Any, every_s: float = 10.0) -> Any:
    """Pass a sentence on only so often."""
    import time

    last = [time.monotonic()]

    def tell(sentence: str) -> None:
        if time.monotonic() - last[0] > every_s:
            last[0] = time.monotonic()
            say(sentence)

    return tell
