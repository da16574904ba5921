"""Find a recipe, and turn it into a run.

A recipe is a folder or file whose ``recipe.py`` has one function per variant:

    recipes/llama3.1-8b-continual/recipe.py:  VARIANTS = {"corrected": corrected, "as-posted": as_posted}

Each function takes ``scale`` and returns a complete, frozen `isoflop.records.Recipe`. The first variant is
the default. What a recipe needs is planned in `isoflop.plan.training_run`; its text is opened by
`isoflop.data.mixture`, and `run_spec` joins the two into what is trained.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from isoflop.flops.count import train_flops
from isoflop.flops.hardware import device
from isoflop.plan.training_run import RunPlan
from isoflop.plan.training_speed import CONVENTION
from isoflop.records import (
    Branch,
    Budget,
    DataSpec,
    DecisionRule,
    EvalSpec,
    FlopCount,
    MeshSpec,
    Mixture,
    Plan,
    PlannedRun,
    Provenance,
    Recipe,
    RunSpec,
)
from isoflop.refs import function_ref

RecipeFunction = Callable[[str], Recipe]
FILE = "recipe.py"


class RecipeError(ValueError):
    """No such recipe, variant or scale; the message lists what there is."""


def load_recipe(path: Path | str, variant: str | None = None, scale: str = "full") -> Recipe:
    """The recipe of a folder.

    Args:
        path: a folder with a ``recipe.py``, or such a file.
        variant: as in its VARIANTS; the first when left out.
        scale: handed to the function: "full", or a smaller size that the recipe knows.

    Raises:
        RecipeError: nothing there, or no such variant or scale.
    """
    variants = recipe_variants(path)
    name = next(iter(variants)) if variant is None else variant.replace("_", "-")
    if name not in variants:
        raise RecipeError(f"{path} has no variant {variant!r}; it has: {', '.join(variants)}")
    function = variants[name]
    try:
        return function(scale)
    except KeyError as error:
        if error.args != (scale,):
            raise
        known = getattr(sys.modules.get(function.__module__), "SCALES", {})
        there = f"; it has: {', '.join(known)}" if known else ""
        raise RecipeError(f"{path} knows no scale {scale!r}{there}") from None


def is_recipe(path: Path | str) -> bool:
    """True for a folder with a ``recipe.py``, or a Python file."""
    file = Path(path)
    return (file / FILE).is_file() or (file.suffix == ".py" and file.is_file())


def recipe_variants(path: Path | str) -> Mapping[str, RecipeFunction]:
    """The functions of a recipe by variant. Raises RecipeError when there is none."""
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    if not file.is_file():
        raise RecipeError(
            f"no recipe at {path}: give a folder with a {FILE}, e.g. recipes/llama3.1-8b-continual"
        )
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()
    spec = importlib.util.spec_from_file_location(f"isoflop_recipe_{digest[:16]}", file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{file} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    variants = getattr(module, "VARIANTS", None)
    if not isinstance(variants, dict) or not variants:
        raise RecipeError(f"{file} holds no VARIANTS = {{name: function}}")
    return variants


# ------------------------------------------------------------------------------------------- runs

VALIDATION_WINDOWS = {True: 64, False: 256}
"""Held-out windows that a run is scored on: fewer for nets that train on a processor."""
SCORES = 10
"""Scores on the way, evenly spaced."""


def run_spec(
    recipe: Recipe,
    data: DataSpec,
    *,
    num_steps: int | None = None,
    start_weights: str | None = None,
    most_windows: int | None = None,
) -> RunSpec:
    """The run of a recipe, once its text is here.

    Args:
        recipe: what is trained.
        data: the opened mixture, in the order of the recipe's sources.
        num_steps: shorter than the recipe's, for a trial; the schedule stays.
        start_weights: hash of the weights that it starts from; None draws them.
        most_windows: held-out windows that the first source has; 0 leaves the run without scores on the way.

    Raises ValueError for data of another context or order than the recipe's.
    """
    if (data.context, data.order_seed) != (recipe.context, recipe.order_seed):
        raise ValueError(
            f"the data are opened for {data.context} tokens and order {data.order_seed}, the recipe says "
            f"{recipe.context} and {recipe.order_seed}"
        )
    steps = recipe.num_steps if num_steps is None else num_steps
    small = recipe.placement.device == "cpu"
    tokens = steps * recipe.tokens_per_step
    windows = VALIDATION_WINDOWS[small]
    windows = windows if most_windows is None else min(windows, most_windows)
    return RunSpec(
        name=f"{recipe.name} {recipe.variant} {recipe.scale}",
        net=recipe.net,
        data=data,
        objective=function_ref("isoflop.train.objectives:next_token"),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        evaluate=EvalSpec(
            function=function_ref("isoflop.measure.heldout:score"),
            num_windows=windows,
            every_steps=max(1, steps // SCORES),
        )
        if windows
        else None,
        batch_seqs=recipe.batch_seqs,
        num_steps=steps,
        seed=recipe.seed,
        precision=recipe.placement.precision,
        start_weights=start_weights,
        train_flops=train_flops(recipe.net, tokens, CONVENTION, recipe.context),
        labels={"variant": recipe.variant, "scale": recipe.scale},
    )


def session_specs(
    recipe: Recipe,
    data: DataSpec,
    steps_per_session: int,
    *,
    num_steps: int | None = None,
    start_weights: str | None = None,
    most_windows: int | None = None,
) -> tuple[RunSpec, ...]:
    """The run as a chain of sessions, each leaving the one before.

    Where the mixture keeps one order, that is the one run. Where each session shuffles anew, every session
    is a branch with an order of its own, so that even an order that repeats rows is written down exactly.
    The other arguments are those of `run_spec`.

    Raises ValueError for sessions without a step.
    """
    if steps_per_session < 1:
        raise ValueError(f"sessions of {steps_per_session} steps: they take 1 or more")
    whole = run_spec(
        recipe, data, num_steps=num_steps, start_weights=start_weights, most_windows=most_windows
    )
    if recipe.mixture.order == "one":
        return (whole,)
    sessions: list[RunSpec] = []
    for number, start in enumerate(range(0, whole.num_steps, steps_per_session)):
        end = min(start + steps_per_session, whole.num_steps)
        seed = session_seed(recipe.mixture, recipe.order_seed, number)
        sessions.append(
            msgspec.structs.replace(
                whole,
                name=f"{whole.name} session {number + 1}",
                data=msgspec.structs.replace(data, order_seed=seed),
                num_steps=end,
                train_flops=train_flops(recipe.net, end * recipe.tokens_per_step, CONVENTION, recipe.context),
                branch=Branch(parent=sessions[-1].fingerprint(), step=start) if sessions else None,
                save_at_steps=(end,) if end < whole.num_steps else (),
            )
        )
    return tuple(sessions)


def session_seed(mixture: Mixture, order_seed: int, session: int) -> int:
    """The order's seed in session number `session`, from 0: the same for all, unless each shuffles anew."""
    if mixture.order == "one":
        return order_seed
    digest = hashlib.sha256(f"isoflop session/1 {order_seed} {session}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def steps_per_session(recipe: Recipe, plan: RunPlan) -> int:
    """Updates that a job of the longest allowed length makes, in whole intervals between checkpoints.

    On a device without a known rate a session is one interval: short enough that a chain is a chain.
    """
    interval = recipe.operations.checkpoint_every_steps
    if plan.seconds_per_step is None or plan.duty is None:
        return interval
    stepping_share = plan.duty.stepping / (1 - plan.duty.waiting)
    steps = 3600 * recipe.operations.session_hours * stepping_share / plan.seconds_per_step
    return max(interval, int(steps) // interval * interval)


# -------------------------------------------------------------------------------------- placement


def placed(recipe: Recipe, mesh: MeshSpec | None, num_nodes: int | None = None) -> Recipe:
    """The recipe on another mesh: placement alone, so the run and its samples stay the same.

    Args:
        recipe: as it is written.
        mesh: replicate x shard x tensor; None leaves the recipe's.
        num_nodes: machines; None leaves the recipe's where its devices per node divide the mesh, and takes
            one otherwise.

    A micro-batch that does not divide a rank's share becomes the largest smaller one that does. Raises
    ValueError for a mesh whose devices cannot be dealt over the nodes.
    """
    if mesh is None and num_nodes is None:
        return recipe
    own = recipe.placement
    mesh = mesh or own.mesh
    if num_nodes is None:
        num_nodes, rest = divmod(mesh.num_devices, own.devices_per_node)
        num_nodes = num_nodes if not rest and own.num_nodes > 1 else 1
    if num_nodes < 1 or mesh.num_devices % num_nodes:
        raise ValueError(
            f"the {mesh.num_devices} devices of {mesh.words} cannot be dealt over {num_nodes} nodes; take a mesh "
            "whose product is a multiple of the nodes"
        )
    share = max(1, recipe.batch_seqs // mesh.data)
    micro = max(n for n in range(1, min(share, own.micro_batch_seqs) + 1) if share % n == 0)
    placement = msgspec.structs.replace(
        own,
        mesh=mesh,
        num_nodes=num_nodes,
        devices_per_node=mesh.num_devices // num_nodes,
        micro_batch_seqs=micro,
    )
    return msgspec.structs.replace(recipe, placement=placement)


# ------------------------------------------------------------------------------- what is declared

LEVEL = 0.95
"""Of the intervals of all sources together."""


def plan_of(
    recipe: Recipe, specs: tuple[RunSpec, ...], made: RunPlan, *, rerun: str, provenance: Provenance
) -> Plan:
    """What a recipe's run is to do and by which rule it will be judged, written before its first step.

    Args:
        recipe: what is trained.
        specs: its run, or its chain of sessions.
        made: the plan of memory, time and cost.
        rerun: the command that does it again.
        provenance: of the plan.
    """
    count = FlopCount(flops=sum(spec.own_flops for spec in specs), convention=CONVENTION)
    steps = specs[-1].num_steps
    seconds = None if made.seconds_per_step is None else made.seconds_per_step * steps * made.num_devices
    peak = None if recipe.placement.device == "cpu" else device(recipe.placement.device).peak("bf16")
    return Plan(
        study=recipe.name,
        question=(
            f"Does {steps:,} updates of training on this mixture ({recipe.variant}, scale {recipe.scale}) lower the "
            "loss on held-out text of every source?"
        ),
        budget=Budget(
            amount=count.flops, unit="flops", convention=CONVENTION, text=f"{count.flops:.3g} FLOPs"
        ),
        planned_flops=count,
        planned_seconds=None if seconds is None else seconds / made.num_devices,
        runs=tuple(
            PlannedRun(
                spec=spec,
                fingerprint=spec.fingerprint(),
                why="the run of the recipe" if len(specs) == 1 else "one session, with an order of its own",
                cost_flops=spec.own_flops,
                cost_seconds=None if seconds is None else seconds * spec.own_flops / count.flops,
            )
            for spec in specs
        ),
        rule=DecisionRule(
            text=(
                "Bits per byte of each source, on the same held-out windows before the first and after the last "
                "update. A source is better (or worse) when the interval of the paired difference lies below (or "
                "above) zero; supported when all are better, contradicted when one is worse. Intervals: t over "
                "groups of neighbouring windows, at a level that holds for all sources together (Bonferroni)."
            ),
            parameters={"level": LEVEL},
            statements=tuple(
                f"{source.name} is predicted better after the run than before."
                for source in recipe.mixture.sources
                if source.weight > 0
            ),
        ),
        seeds=(recipe.seed,),
        assumptions=(*recipe.decisions, *made.assumptions),
        notes=(*made.warnings, "one seed: what another start or order would give is not measured"),
        options={
            "variant": recipe.variant,
            "scale": recipe.scale,
            "device": made.device,
            "num_devices": made.num_devices,
            "mesh": recipe.placement.mesh.words,
            "micro_batch_seqs": recipe.placement.micro_batch_seqs,
            "parameters": made.parameters,
            "planned_bytes_per_device": round(made.bytes_per_device),
            "peak_flops_per_s": peak,
        },
        rerun=rerun,
        provenance=provenance,
    )
