"""Training: a recipe from its folder to a report or a job, the runs of a plan, and what one large run needs."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isoflop.cli.main import main, say, verb
from isoflop.cli.study import device_option, plan, reuse_option, workers_option

if TYPE_CHECKING:
    from isoflop.recipe_verbs import Ready, RecipeRun, Request
    from isoflop.train.loop import Progress

PATH = click.Path(path_type=Path)
PROMPT_TOKENS = 8192
"""Longest prompt of a task that is named on the command line; a net's own context bounds it anyway."""


@main.command()
@click.argument("what", metavar="RECIPE|OUT", type=PATH)
@click.option("--out", type=PATH, help="Output folder of a recipe.  [default: out/NAME-SCALE]")
@click.option("--variant", help="Variant of the recipe; its first by default.")
@click.option("--scale", help="full, or a smaller size that the recipe knows.  [default: full]")
@click.option(
    "--data", type=PATH, help="Folder of token shards.  [default: data; OUT/data for text that is at hand]"
)
@click.option(
    "--weights", type=PATH, help="Folder of Hugging Face weights to start from, with their tokenizer."
)
@click.option("--benchmark", "benchmarks", multiple=True, help="Another task of lm-eval, or a file of items.")
@click.option("--no-benchmarks", is_flag=True, help="Score no benchmarks, the recipe's neither.")
@click.option("--skip-damaged", is_flag=True, help="Take damaged shards out of their index, on record.")
@click.option("--steps", type=int, help="Fewer updates than the recipe's: a trial, another run.")
@click.option("--mesh", help="Other placement: replicate x shard x tensor, e.g. 1x4x1; the same run.")
@click.option("--nodes", type=int, help="Other placement: machines.")
@click.option("--nproc", type=int, help="Other placement: so many shards on one machine (--mesh 1xNx1).")
@click.option(
    "--launch", type=click.Choice(["torchrun", "slurm"]), help="Start with torchrun, or write a job."
)
@click.option("--account", help="slurm: account to book on.")
@click.option("--partition", help="slurm: partition.")
@click.option("--hours", type=float, help="slurm: time limit of one job; the recipe's session by default.")
@click.option("--setup", multiple=True, help="slurm: shell line before the ranks start; may be repeated.")
@click.option("--cpus-per-node", type=int, help="slurm: processor cores to ask for.")
@click.option(
    "--max-restarts",
    type=int,
    default=3,
    show_default=True,
    help="slurm: restarts of the ranks within a job.",
)
@device_option
@workers_option
@reuse_option
@verb("train")
def train(what: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """Train a recipe to its report, or every unfinished run of a plan's folder OUT.

    \b
    isoflop train recipes/llama3.1-8b-continual --scale cpu --out out/cpu
    isoflop train recipes/llama3.1-8b-continual --weights W --data D --out out/8b --launch slurm --account A
    isoflop train out/flatness
    """
    from isoflop.plan.recipe import is_recipe

    if is_recipe(what):
        return _train_recipe(what, **options)
    return _train_plan(what, **options)


# ------------------------------------------------------------------------------------ runs of a plan


def _train_plan(
    folder: Path, *, device: str, workers: int | None, reuse: tuple[Path, ...], **recipe_options: Any
) -> tuple[str, dict[str, Any]]:
    from isoflop import recipe_verbs, verbs
    from isoflop.console import FleetProgress
    from isoflop.store import Store

    store = Store(folder)
    if recipe_verbs.is_recipe_store(folder):
        raise ValueError(f"{folder} holds the run of a recipe; go on with: {store.read_plan().rerun}")
    if not store.plan_path.exists():
        raise ValueError(f"{folder} is no recipe (a folder with a recipe.py) and holds no plan.json")
    misplaced = [name for name, value in recipe_options.items() if value and name != "max_restarts"]
    if misplaced:
        raise ValueError(
            f"--{misplaced[0].replace('_', '-')} belongs to a recipe, and {folder} is the folder of a plan"
        )
    progress = FleetProgress()
    progress.begin(store.read_plan())
    try:
        with store.lock():
            result = verbs.train(folder, device=device, workers=workers, reuse=reuse, on_event=progress)
    finally:
        progress.close()
    text = f"trained {result.num_trained} runs; next: isoflop judge {folder}"
    return text, {"runs_trained": result.num_trained, "out": str(folder)}


# -------------------------------------------------------------------------------------- a recipe


def _train_recipe(what: Path, *, launch: str | None, **options: Any) -> tuple[str, dict[str, Any]]:
    if options["workers"] is not None or options["reuse"]:
        raise ValueError(
            "--workers and --reuse belong to the folder of a plan; a recipe is placed with --mesh"
        )
    request = _request(what, options)
    if launch == "slurm":
        return _write_job(request, options)
    if launch == "torchrun" and _num_nodes(request) > 1:
        return _commands(request)
    return _train_here(request, by_torchrun=launch == "torchrun")


def _request(what: Path, options: dict[str, Any]) -> Request:
    from isoflop.recipe_verbs import Request
    from isoflop.records import Benchmark, MeshSpec

    if options["no_benchmarks"] and options["benchmarks"]:
        raise ValueError("--benchmark and --no-benchmarks exclude each other")
    scorer = {"score_with": None} if options["no_benchmarks"] else {}
    scale = options["scale"] or "full"
    name = what.stem if what.suffix == ".py" else what.resolve().name
    mesh = MeshSpec.parse(options["mesh"]) if options["mesh"] else None
    if options["nproc"] is not None:
        if mesh is not None:
            raise ValueError("--nproc N stands for --mesh 1xNx1; give one of them")
        mesh = MeshSpec.parse(f"1x{options['nproc']}x1")
    return Request(
        recipe=what,
        out=options["out"] or Path("out") / f"{name}-{scale}",
        variant=options["variant"],
        scale=scale,
        data=options["data"],
        weights=options["weights"],
        mesh=mesh,
        num_nodes=1 if options["nproc"] is not None else options["nodes"],
        num_steps=options["steps"],
        skip_damaged=options["skip_damaged"],
        benchmarks=tuple(
            Benchmark(task=task, num_fewshot=None, max_tokens=PROMPT_TOKENS) for task in options["benchmarks"]
        ),
        rerun=_rerun(what, options),
        **scorer,
    )


def _rerun(what: Path, options: dict[str, Any]) -> str:
    """The command that goes on with a run, or makes it again elsewhere."""
    words = ["isoflop", "train", str(what)]
    for name in ("variant", "scale", "weights", "data", "steps", "out"):
        if options[name] is not None:
            words += [f"--{name}", str(options[name])]
    return shlex.join(words)


def _train_here(request: Request, *, by_torchrun: bool) -> tuple[str, dict[str, Any]]:
    from isoflop import recipe_verbs

    progress = RunProgress()

    def show(ready: Ready) -> None:
        if not ready.finished:
            say(ready_text(ready))
            progress.begin(ready)

    try:
        answer = recipe_verbs.train_recipe(
            request, say=say, on_ready=show, on_progress=progress, by_torchrun=by_torchrun
        )
    finally:
        progress.close()
    cost = answer.verdict.cost
    return recipe_text(answer), {
        "verdict": answer.verdict.outcome,
        "sentence": answer.verdict.sentence,
        **answer.verdict.summary,
        "flops_spent": cost.spent_flops if cost else 0.0,
        "flops_wasted": cost.wasted_flops if cost else 0.0,
        "seconds": round(answer.seconds, 3),
        "was_done": answer.was_done,
        "out": str(answer.store.root),
        "weights": str(answer.weights) if answer.weights else None,
        "report": str(answer.report),
    }


def _num_nodes(request: Request) -> int:
    from isoflop.plan.recipe import load_recipe, placed

    recipe = load_recipe(request.recipe, request.variant, request.scale)
    return placed(recipe, request.mesh, request.num_nodes).placement.num_nodes


def _commands(request: Request) -> tuple[str, dict[str, Any]]:
    from isoflop import recipe_verbs

    ready = recipe_verbs.prepare_recipe(recipe_verbs.absolute_paths(request), here=False, say=say)
    lines = [shlex.join(command) for command in recipe_verbs.torchrun_commands(ready)]
    text = "Run this on every node, with HOST:PORT of the first one for RENDEZVOUS:\n" + "\n".join(lines)
    return text, {"commands": lines, "out": str(ready.store.root)}


def _write_job(request: Request, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from isoflop import recipe_verbs

    ready, path = recipe_verbs.write_job(
        request,
        account=options["account"],
        partition=options["partition"],
        setup=options["setup"],
        hours=options["hours"],
        cpus_per_node=options["cpus_per_node"],
        max_restarts=options["max_restarts"],
        say=say,
    )
    text = f"{ready_text(ready)}\nwritten, nothing started; read it, then: sbatch {path}"
    return text, {
        "job": str(path),
        "runs": [str(folder.path) for folder in ready.folders],
        "out": str(request.out),
    }


# ------------------------------------------------------------------------------------------ words


def ready_text(ready: Ready) -> str:
    """What will be done, in a few lines."""
    from isoflop.units import format_bytes, format_count, format_flops

    recipe, spec, options = ready.recipe, ready.folders[-1].read_spec(), ready.plan.options
    chain = f" in {len(ready.folders)} sessions" if len(ready.folders) > 1 else ""
    start = (
        f"from {recipe.start_from or 'the weights given'}"
        if spec_starts_from(ready)
        else "from drawn weights"
    )
    return "\n".join(
        [
            f"{recipe.name}, {recipe.variant}, scale {recipe.scale}: "
            f"{format_count(float(options['parameters'] or 0))} parameters, {start}",
            f"  {spec.num_steps:,} updates of {recipe.tokens_per_step:,} tokens{chain}, "
            f"{len(spec.data.sources)} sources, {format_flops(ready.plan.planned_flops.flops)} "
            f"({ready.plan.planned_flops.convention})",
            f"  {options['num_devices']} x {options['device']}, mesh {options['mesh']}, "
            f"{format_bytes(float(options['planned_bytes_per_device'] or 0))} each; into {ready.store.root}",
        ]
    )


def spec_starts_from(ready: Ready) -> bool:
    """True for a run that starts from given weights."""
    return ready.folders[0].read_spec().start_weights is not None


def recipe_text(answer: RecipeRun) -> str:
    """What `isoflop train RECIPE` ends with."""
    from isoflop.console import ledger_text, verdict_text
    from isoflop.units import format_seconds

    lines = ["", verdict_text(answer.verdict), ""]
    if answer.verdict.cost is not None:
        lines.append(ledger_text(answer.verdict.cost))
    done = "it was done before" if answer.was_done else "trained"
    lines.append(f"  {done}; {format_seconds(answer.seconds)} for this call")
    if answer.weights is not None:
        lines.append(f"weights: {answer.weights}")
    lines.append(f"report: {answer.report}")
    return "\n".join(lines)


class RunProgress:
    """Shows one run: where it is, its loss, its rate, FLOPs spent and left, time gone and left.

    One live line on a terminal; elsewhere a plain line every `every_s` seconds.
    """

    def __init__(self, every_s: float = 15.0) -> None:
        self.every_s = every_s
        self._total = self._per_step = 0.0
        self._tokens_per_step = self._steps = 0
        self._first: tuple[int, float] | None = None
        self._started = self._said = time.monotonic()
        self._live = sys.stderr.isatty()
        self._shown = False

    def begin(self, ready: Ready) -> None:
        """Take the totals from the plan and start the clock."""
        spec = ready.folders[-1].read_spec()
        self._total, self._steps = ready.plan.planned_flops.flops, spec.num_steps
        self._per_step = spec.train_flops.flops / spec.num_steps
        self._tokens_per_step = ready.recipe.tokens_per_step
        self._started = self._said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Take note of a row of metrics, and show the state when it is time."""
        now = time.monotonic()
        if self._first is None:
            self._first = (progress.step, now)
        if now - self._said < (0.2 if self._live else self.every_s):
            return
        self._said = now
        line = self.state(progress, now)
        sys.stderr.write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")
        sys.stderr.flush()
        self._shown = True

    def state(self, progress: Progress, now: float) -> str:
        """One line; the rate is that of this call, so a resumed run does not count what was done before."""
        from isoflop.units import format_flops, format_seconds

        assert self._first is not None
        spent = self._per_step * progress.step
        steps, took = progress.step - self._first[0], now - self._first[1]
        rate, left = "", "?"
        if steps > 0 and took > 0:
            rate = f"{steps * self._tokens_per_step / took:,.0f} tokens/s | "
            left = format_seconds((self._steps - progress.step) * took / steps)
        loss = "" if progress.loss_nats is None else f"{progress.loss_nats:.3f} nats | "
        return (
            f"step {progress.step:,} of {self._steps:,} | {loss}{rate}{format_flops(spent)} spent, "
            f"{format_flops(max(0.0, self._total - spent))} left | {format_seconds(now - self._started)} gone, "
            f"about {left} left"
        )

    def close(self) -> None:
        """End the live line."""
        if self._live and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()


# ------------------------------------------------------------------------------------- on paper


@plan.command("run")
@click.argument("recipe", type=PATH)
@click.option("--variant", help="Variant of the recipe; its first by default.")
@click.option(
    "--scale", default="full", show_default=True, help="full, or a smaller size that the recipe knows."
)
@click.option("--data", type=PATH, help="Folder of token shards: count passes and shares by what is there.")
@verb("plan.run")
def plan_run(recipe: Path, variant: str | None, scale: str, data: Path | None) -> tuple[str, dict[str, Any]]:
    """Memory, layout, step time, days and cost of one large run, from its recipe folder."""
    import msgspec

    from isoflop.plan.recipe import load_recipe
    from isoflop.plan.training_run import plan_run as answer
    from isoflop.plan.training_run_text import run_plan_text
    from isoflop.records import to_mapping

    loaded = load_recipe(recipe, variant, scale)
    if data is not None:
        from isoflop.data.mixture import counted

        if not data.is_dir():
            raise ValueError(f"no folder of token shards at {data}; make one with `isoflop data tokenize`")
        loaded = msgspec.structs.replace(loaded, mixture=counted(loaded.mixture, data))
    made = answer(loaded)
    mapping = to_mapping(made)
    mapping.pop("schema")
    return run_plan_text(made), mapping
