"""Find a recipe: a folder or file whose ``recipe.py`` has one function per variant.

    recipes/llama3.1-8b-continual/recipe.py:  VARIANTS = {"corrected": corrected, "as-posted": as_posted}

Each function takes ``scale`` and returns a complete, frozen `isoflop.records.Recipe`. The first variant is
the default. What a recipe means for the run is planned in `isoflop.plan.training_run`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from isoflop.records import Recipe

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
