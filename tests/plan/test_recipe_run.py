"""From a recipe to runs: one, or a chain of sessions; and the smallest scale trained for real."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from isoflop import records
from isoflop.plan.recipe import (
    RecipeError,
    load_recipe,
    placed,
    plan_of,
    run_spec,
    session_seed,
    session_specs,
    steps_per_session,
)
from isoflop.plan.training_run import plan_run
from isoflop.records import DataSource, DataSpec, Recipe, RunSpec

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "llama3.1-8b-continual"


def planted_data(recipe: Recipe) -> DataSpec:
    sources = tuple(
        DataSource(
            source=source.name,
            corpus_sha256=source.name,
            tokenizer="t",
            tokenizer_sha256="t",
            weight=source.weight,
            weight_unit=recipe.mixture.weight_unit,
        )
        for source in recipe.mixture.sources
    )
    return DataSpec(sources=sources, context=recipe.context, order_seed=recipe.order_seed)


@pytest.mark.parametrize("scale", ["full", "gpu", "cpu"])
def test_a_run_has_all_that_the_recipe_says(scale):
    recipe = load_recipe(FOLDER, "corrected", scale)
    spec = run_spec(recipe, planted_data(recipe))
    for name in ("net", "optimizer", "schedule", "batch_seqs", "num_steps", "seed"):
        assert getattr(spec, name) == getattr(recipe, name)
    assert spec.tokens == recipe.tokens
    assert spec.precision == ("fp32" if scale == "cpu" else "bf16")
    assert records.decode(records.encode(spec), RunSpec).fingerprint() == spec.fingerprint()
    with pytest.raises(ValueError, match="the recipe says"):
        run_spec(recipe, msgspec.structs.replace(planted_data(recipe), context=7))


def test_an_exact_order_is_one_run_and_fresh_shuffles_are_a_chain():
    recipe = load_recipe(FOLDER, "corrected", "cpu")
    assert session_specs(recipe, planted_data(recipe), 60) == (run_spec(recipe, planted_data(recipe)),)
    recipe = load_recipe(FOLDER, "as-posted", "cpu")
    chain = session_specs(recipe, planted_data(recipe), 60)
    assert [spec.num_steps for spec in chain] == [60, 120, 180, 200]
    assert [spec.start_step for spec in chain] == [0, 60, 120, 180]
    assert len({spec.data.order_seed for spec in chain}) == 4
    for parent, child in itertools.pairwise(chain):
        assert child.branch is not None
        assert child.branch.parent == parent.fingerprint()
        assert parent.save_at_steps == (child.branch.step,)
    assert sum(spec.own_flops for spec in chain) == pytest.approx(
        run_spec(recipe, planted_data(recipe)).train_flops.flops
    )
    with pytest.raises(ValueError, match="1 or more"):
        session_specs(recipe, planted_data(recipe), 0)


def test_sessions_shuffle_anew_only_where_the_mixture_says_so():
    one, anew = (load_recipe(FOLDER, variant, "cpu").mixture for variant in ("corrected", "as-posted"))
    assert {session_seed(one, 7, session) for session in range(20)} == {7}
    seeds = [session_seed(anew, 7, session) for session in range(20)]
    assert len(set(seeds)) == 20
    assert seeds != [session_seed(anew, 8, session) for session in range(20)]


@pytest.mark.slow
def test_the_smallest_scale_trains(tmp_path):
    """A few steps of the real thing: mixture, net with scaled rotary embeddings, schedule, score, record."""
    pytest.importorskip("tokenizers")
    from isoflop.data.mixture import open_mixture
    from isoflop.store import Store
    from isoflop.train.run import train_run

    recipe = load_recipe(FOLDER, "corrected", "cpu")
    opened = open_mixture(
        recipe.mixture,
        tmp_path / "data",
        tokenizer=recipe.tokenizer,
        context=recipe.context,
        order_seed=recipe.order_seed,
    )
    spec = run_spec(recipe, opened.data, num_steps=6)
    assert spec.evaluate is not None
    spec = msgspec.structs.replace(spec, evaluate=msgspec.structs.replace(spec.evaluate, every_steps=None))
    folder = Store(tmp_path / "out").run(spec)
    record = train_run(spec, folder, corpora=opened.corpora)
    assert record is not None
    assert record.status == "finished"
    losses = [row["loss_nats"] for row in folder.read_metrics()]
    # A net that knows nothing has ln(1,024) = 6.93 nats; six steps of a warm-up make a start.
    assert losses[0] == pytest.approx(6.93, abs=0.3)
    assert losses[-1] < losses[0]
    assert folder.read_measurements()[-1].loss.value is not None


def test_another_mesh_is_the_same_run_elsewhere():
    recipe = load_recipe(FOLDER, "corrected", "cpu")
    spread = placed(recipe, records.MeshSpec(replicate=2, shard=2))
    assert spread.placement.num_devices == 4
    assert (spread.placement.num_nodes, spread.placement.micro_batch_seqs) == (1, 4)
    assert run_spec(spread, planted_data(spread)) == run_spec(recipe, planted_data(recipe))
    big = placed(load_recipe(FOLDER, "corrected"), records.MeshSpec(replicate=8, shard=32))
    assert (big.placement.num_nodes, big.placement.devices_per_node) == (32, 8)
    with pytest.raises(ValueError, match="cannot be dealt over 3 nodes"):
        placed(recipe, records.MeshSpec(shard=4), 3)


def test_a_session_is_a_job_s_steps_in_whole_checkpoints():
    recipe = load_recipe(FOLDER, "as-posted")
    steps = steps_per_session(recipe, plan_run(recipe))
    # 24 h of 36 s steps are 2,400, less starts, failures and pauses; in hundreds.
    assert steps % recipe.operations.checkpoint_every_steps == 0
    assert 2200 <= steps < 2400
    small = load_recipe(FOLDER, "as-posted", "cpu")
    assert steps_per_session(small, plan_run(small)) == small.operations.checkpoint_every_steps


def test_weights_and_held_out_text_are_part_of_the_run():
    recipe = load_recipe(FOLDER, "corrected", "cpu")
    data = planted_data(recipe)
    drawn, given = run_spec(recipe, data), run_spec(recipe, data, start_weights="a" * 64)
    assert drawn.fingerprint() != given.fingerprint()
    few = run_spec(recipe, data, most_windows=5).evaluate
    assert few is not None
    assert few.num_windows == 5
    assert run_spec(recipe, data, most_windows=0).evaluate is None


def test_the_plan_declares_a_statement_for_each_source():
    recipe = load_recipe(FOLDER, "as-posted", "cpu")
    specs = session_specs(recipe, planted_data(recipe), 60)
    made = plan_run(recipe)
    plan = plan_of(recipe, specs, made, rerun="again", provenance=records.Provenance(isoflop="0", python="3"))
    assert len(plan.rule.statements) == len(recipe.mixture.sources)
    assert plan.planned_flops.flops == pytest.approx(sum(spec.own_flops for spec in specs))
    assert sum(run.cost_flops for run in plan.runs) == pytest.approx(plan.planned_flops.flops)
    assert plan.options["peak_flops_per_s"] is None


def test_an_unknown_scale_or_variant_lists_those_there_are():
    with pytest.raises(RecipeError, match="knows no scale 'huge'; it has: full, 3b, 1b, cpu, gpu"):
        load_recipe(FOLDER, "corrected", "huge")
    with pytest.raises(RecipeError, match="it has: corrected, as-posted"):
        load_recipe(FOLDER, "better")
