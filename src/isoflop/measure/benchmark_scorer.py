"""Benchmarks while a run goes on: a function that training calls with the net, and that never ends the run.

Tasks, tokenizer and settings are checked when the function is made, before any compute is spent. What goes
wrong later (a full disk, an item that cannot be scored) is written to the run's warnings.txt, and training goes
on. Global seeds are left alone, so the run's numbers are those of a run that is not scored.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from isoflop.dist.mesh import World
from isoflop.measure.benchmarks import Candidate, Settings, benchmark, harness_model, keep
from isoflop.measure.harness_tasks import TaskSet
from isoflop.records import RunSpec
from isoflop.store import RunFolder
from isoflop.subject.language_model import BATCH_TOKENS, LanguageModel
from isoflop.subject.opening import check_fit, run_codec
from isoflop.subject.text import TextCodec

Scorer = Callable[[nn.Module, int], None]


def benchmark_scorer(
    tasks: TaskSet,
    spec: RunSpec,
    folder: RunFolder,
    *,
    text: TextCodec | None = None,
    world: World | None = None,
    every_steps: int = 1,
    settings: Settings | None = None,
    context: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scorer:
    """What to pass to `train_distributed` as `at_score` or `at_checkpoint`.

    Args:
        tasks: loaded by `isoflop.measure.harness_tasks.load_tasks`, on every rank.
        spec: the run.
        folder: its folder; gets benchmarks.jsonl and benchmarks/step-N/.
        text: the run's tokenizer; that of its training text when left out.
        world: the mesh of the run; every rank calls the function, and data ranks share the items. None for one.
        every_steps: least steps between two scores; step 0 and the last step are always scored.
        settings: how tasks are asked.
        context: tokens that the net sees at most; those that it is trained on when left out.
        batch_tokens: tokens of a batch, padding included.

    Returns:
        A function of (net, step). Called again at a step it scores again, and the new scores take the place of
        the old ones.

    Raises TextError for a tokenizer that does not fit the net, DataError when the run's own cannot be had.
    """
    codec = run_codec(spec) if text is None else text
    check_fit(codec, spec.net)
    length = spec.data.context if context is None else context
    last_scored: list[int] = []

    def score(net: nn.Module, step: int) -> None:
        near = bool(last_scored) and 0 < step - last_scored[-1] < every_steps
        if near and step != spec.num_steps:
            return
        problem = None
        try:
            _score(net, step)
        except Exception as error:
            problem = f"benchmarks after {step} updates failed: {type(error).__name__}: {error}"
        last_scored.append(step)
        if problem is not None:
            with (folder.path / "warnings.txt").open("a") as file:
                file.write(" ".join(problem.split()) + "\n")

    def _score(net: nn.Module, step: int) -> None:
        wrapped = bool(getattr(net, "call_blocks", False))
        rows = max(1, batch_tokens // length)
        model = LanguageModel(
            name=str(folder.path),
            net=net,
            text=codec,
            context=length,
            world=world,
            batch_tokens=batch_tokens,
            fixed_shape=(rows, length) if wrapped else None,
        )
        candidate = Candidate(
            harness_model=harness_model(model),
            name=model.name,
            precision={"fp32": "float32", "bf16": "bfloat16"}[spec.precision],
            context=length,
            run=folder,
            fingerprint=spec.fingerprint(),
            step=step,
        )
        done = benchmark(candidate, tasks, settings or Settings())
        if world is None or world.is_first:
            keep(done)

    return score
