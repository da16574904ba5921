"""A corpus of a few kilobytes and runs that train in a fraction of a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.data import Corpus, prepare
from isoflop.flops.count import train_flops_per_token
from isoflop.records import (
    Branch,
    DataSpec,
    EvalSpec,
    FlopCount,
    NetSpec,
    OptimizerSpec,
    RunSpec,
    ScheduleSpec,
)
from isoflop.refs import function_ref

NET = NetSpec(
    vocab_size=256, context=16, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, ffn_dim=16
)
BATCH = 4


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the corpus through the environment."""
    monkeypatch.setenv("ISOFLOP_CACHE", str(cache))


@pytest.fixture(scope="session")
def corpus(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Forty files of a few words each, as bytes."""
    folder = tmp_path_factory.mktemp("text")
    dice = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "omega", "sigma"]
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(dice.choice(words) for _ in range(200)))
    return prepare(folder, "bytes", cache_dir=cache)


MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(corpus: Corpus) -> MakeSpec:
    """A run of `num_steps` steps; keyword arguments replace fields."""

    def make(name: str = "run", num_steps: int = 20, **changes: object) -> RunSpec:
        per_step = train_flops_per_token(NET, "matmul-causal") * BATCH * NET.context
        fields: dict[str, object] = {
            "name": name,
            "net": NET,
            "data": DataSpec(sources=(corpus.data_source(),), context=NET.context, order_seed=3),
            "objective": function_ref("isoflop.train.objectives:next_token"),
            "optimizer": OptimizerSpec(peak_lr=0.01),
            "schedule": ScheduleSpec(kind="wsd", warmup_steps=2, num_steps=num_steps),
            "evaluate": EvalSpec(
                function=function_ref("isoflop.measure.heldout:score"), num_windows=16, num_groups=8
            ),
            "batch_seqs": BATCH,
            "num_steps": num_steps,
            "seed": 1,
            "train_flops": FlopCount(flops=per_step * num_steps, convention="matmul-causal"),
        }
        return RunSpec(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_tree(make_spec: MakeSpec) -> Callable[..., list[RunSpec]]:
    """A trunk of `num_steps` steps with branches that leave it at the given steps and last half as long."""

    def make(num_steps: int = 40, leave_at: tuple[int, ...] = (20, 40), seed: int = 1) -> list[RunSpec]:
        trunk = make_spec(f"trunk {seed}", num_steps, evaluate=None, save_at_steps=leave_at, seed=seed)
        branches = [
            make_spec(
                f"branch {step} seed {seed}",
                step * 3 // 2,
                seed=seed,
                branch=Branch(parent=trunk.fingerprint(), step=step),
                schedule=ScheduleSpec(
                    kind="wsd", warmup_steps=2, num_steps=step * 3 // 2, decay_start_step=step
                ),
            )
            for step in leave_at
        ]
        return [trunk, *branches]

    return make
