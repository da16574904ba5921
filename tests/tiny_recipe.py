"""A recipe that trains in a second: two sources of made-up text below the folder TINY_TEXT.

`isoflop.plan.recipe.load_recipe` reads it by its path, as it reads a user's own.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from isoflop.records import (
    MeshSpec,
    Mixture,
    MixtureSource,
    NetSpec,
    Operations,
    OptimizerSpec,
    Placement,
    Recipe,
    ScheduleSpec,
)

NET = NetSpec(
    vocab_size=300, context=32, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, ffn_dim=32
)
SCALES = {"full": 12, "long": 160}
"""Updates of each scale."""


def make_text(folder: Path) -> None:
    """Two folders of documents in two made-up vocabularies."""
    for name in ("first", "second"):
        dice = random.Random(name)
        words = ["".join(dice.choice("abcdefgh") for _ in range(dice.randint(2, 6))) for _ in range(40)]
        (folder / name).mkdir(parents=True)
        for number in range(60):
            text = " ".join(dice.choice(words) for _ in range(200))
            (folder / name / f"{number}.txt").write_text(text)


def straight(scale: str = "full") -> Recipe:
    """One order, weights in tokens."""
    return _recipe("straight", scale, "one")


def shuffled(scale: str = "full") -> Recipe:
    """Each session shuffles anew."""
    return _recipe("shuffled", scale, "per_session")


def empty(scale: str = "full") -> Recipe:
    """Weights that sum to 0."""
    return _recipe("empty", scale, "one", weight=0.0)


def _recipe(variant: str, scale: str, order: str, weight: float = 1.0) -> Recipe:
    steps, text = SCALES[scale], Path(os.environ["TINY_TEXT"])
    return Recipe(
        name="tiny",
        variant=variant,
        scale=scale,
        start_from=None,
        tokenizer="bpe-300",
        net=NET,
        mixture=Mixture(
            sources=(
                MixtureSource(name="first", where=str(text / "first"), weight=weight),
                MixtureSource(name="second", where=str(text / "second"), weight=2 * weight),
            ),
            weight_unit="tokens",
            order=order,  # type: ignore[arg-type]
        ),
        context=NET.context,
        batch_seqs=8,
        num_steps=steps,
        optimizer=OptimizerSpec(peak_lr=0.02),
        schedule=ScheduleSpec(kind="linear", warmup_steps=2, num_steps=steps),
        seed=0,
        order_seed=0,
        placement=Placement(
            device="cpu",
            num_nodes=1,
            devices_per_node=1,
            mesh=MeshSpec(),
            micro_batch_seqs=8,
            precision="fp32",
            recompute="none",
            compile=False,
        ),
        operations=Operations(
            session_hours=24.0,
            queue_hours=0.0,
            startup_minutes=0.1,
            launch_success=1.0,
            node_mtbf_hours=50_000.0,
            checkpoint_every_steps=4,
            checkpoint_pause_s=0.1,
        ),
        benchmarks=(),
    )


VARIANTS = {"straight": straight, "shuffled": shuffled, "empty": empty}
