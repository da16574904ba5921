"""A recipe's benchmarks as one function that training calls: each task with its own examples and longest prompt."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from isoflop.dist.mesh import World
from isoflop.measure.benchmark_scorer import Scorer, benchmark_scorer
from isoflop.measure.harness_tasks import load_tasks
from isoflop.records import Benchmark, BenchmarkScore, Column, RunSpec, Table
from isoflop.store import RunFolder


def recipe_scorer(benchmarks: Sequence[Benchmark], spec: RunSpec, folder: RunFolder, world: World) -> Scorer:
    """Load every task before any compute is spent.

    Args:
        benchmarks: of the recipe; tasks with equal settings are asked together.
        spec: the run.
        folder: its folder; gets benchmarks.jsonl and benchmarks/step-N/.
        world: the mesh; every rank calls what is returned.

    Raises BenchmarkError for a task that nobody knows or whose data cannot be had.
    """
    settings = dict.fromkeys((one.num_fewshot, one.max_tokens) for one in benchmarks)
    scorers = []
    for shots, tokens in settings:
        names = [one.task for one in benchmarks if (one.num_fewshot, one.max_tokens) == (shots, tokens)]
        tasks = load_tasks(names, num_fewshot=shots)
        scorers.append(
            benchmark_scorer(tasks, spec, folder, world=world, context=min(tokens, spec.net.context))
        )

    def score(net: nn.Module, step: int) -> None:
        for scorer in scorers:
            scorer(net, step)

    return score


def benchmark_table(scores: Sequence[BenchmarkScore]) -> Table:
    """The scores of a run for its report; two checkpoints are compared item by item with `isoflop compare`."""
    return Table(
        name="benchmarks",
        title="Benchmarks, before, on the way and at the end",
        columns=(
            Column(name="task", title="task"),
            Column(name="metric", title="metric"),
            Column(name="step", title="updates", format="{:,d}"),
            Column(name="score", title="score", format="{:.4f}"),
            Column(name="lo", title="low", format="{:.4f}"),
            Column(name="hi", title="high", format="{:.4f}"),
            Column(name="num_items", title="items", format="{:,d}"),
            Column(name="num_fewshot", title="examples", format="{:d}"),
            Column(name="harness", title="harness"),
        ),
        rows=tuple(
            (
                one.task,
                one.metric,
                one.step,
                one.score.value,
                one.score.lo,
                one.score.hi,
                one.num_items,
                one.num_fewshot,
                one.harness,
            )
            for one in sorted(scores, key=lambda one: (one.task, one.metric, one.step or 0))
        ),
        note="Low and high are the interval of sampling items, unpaired: differences between checkpoints on the same "
        "items are known better, see `isoflop compare`.",
    )
