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
from isoflop.plan.training_speed import CONVENTION
from isoflop.records import Branch, DataSpec, EvalSpec, Mixture, Recipe, RunSpec
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
    try:
        return variants[name](scale)
    except KeyError as error:
        raise RecipeError(f"{path} knows no scale {error}") from None


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


def run_spec(recipe: Recipe, data: DataSpec, *, num_steps: int | None = None) -> RunSpec:
    """The run of a recipe, once its text is here.

    Args:
        recipe: what is trained.
        data: the opened mixture, in the order of the recipe's sources.
        num_steps: shorter than the recipe's, for a trial; the schedule stays.

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
    return RunSpec(
        name=f"{recipe.name} {recipe.variant} {recipe.scale}",
        net=recipe.net,
        data=data,
        objective=function_ref("isoflop.train.objectives:next_token"),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        evaluate=EvalSpec(
            function=function_ref("isoflop.measure.heldout:score"),
            num_windows=VALIDATION_WINDOWS[small],
            every_steps=max(1, steps // SCORES),
        ),
        batch_seqs=recipe.batch_seqs,
        num_steps=steps,
        seed=recipe.seed,
        precision=recipe.placement.precision,
        train_flops=train_flops(recipe.net, tokens, CONVENTION, recipe.context),
        labels={"variant": recipe.variant, "scale": recipe.scale},
    )


def session_specs(recipe: Recipe, data: DataSpec, steps_per_session: int) -> tuple[RunSpec, ...]:
    """The run as a chain of sessions, each leaving the one before.

    Where the mixture keeps one order, that is the one run. Where each session shuffles anew, every session
    is a branch with an order of its own, so that even an order that repeats rows is written down exactly.

    Raises ValueError for sessions without a step.
    """
    if steps_per_session < 1:
        raise ValueError(f"sessions of {steps_per_session} steps: they take 1 or more")
    whole = run_spec(recipe, data)
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
