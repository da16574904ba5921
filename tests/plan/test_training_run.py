"""The run planner: exact element counts, memory by hand, known runs, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from isoflop import records
from isoflop.flops.count import parameters
from isoflop.plan.recipe import RecipeError, load_recipe
from isoflop.plan.training_memory import elements_per_device, memory_items
from isoflop.plan.training_run import duty_of, plan_run, search_layouts
from isoflop.plan.training_run_text import WIDTH, run_plan_text
from isoflop.plan.training_speed import ACCURACY, BACK_TESTS, error_of, step_time
from isoflop.records import MeshSpec, Operations, Recipe
from isoflop.studies.run_planner import LLAMA_8B, POSTED

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "llama3.1-8b-continual"
DOCUMENTED_SCALES = ("full", "3b", "1b", "gpu", "cpu")


@pytest.fixture(scope="module")
def posted() -> Recipe:
    return load_recipe(FOLDER, "as-posted")


def bytes_of(recipe: Recipe) -> dict[str, float]:
    items = memory_items(recipe.net, recipe.context, recipe.placement)
    return {item.what: item.bytes_per_device for item in items}


def changed(recipe: Recipe, **placement: object) -> Recipe:
    return msgspec.structs.replace(recipe, placement=msgspec.structs.replace(recipe.placement, **placement))


# ------------------------------------------------------------------------------------- known runs


def test_the_posted_run_comes_out_as_known(posted):
    plan = plan_run(posted)
    seen = plan.observed
    assert plan.tokens_per_step == 11_010_048
    assert plan.tokens == 500_000 * 11_010_048
    assert seen is not None
    assert seen.tokens == 73_500 * 11_010_048
    assert seen.tokens == pytest.approx(809.2e9, abs=0.05e9)
    assert plan.tokens == pytest.approx(5.505e12, abs=0.0005e12)
    # Published to three digits: 407 and 597 tokens/s per device, 12.3 and 18.1 %, 30.6 days of stepping.
    assert seen.calendar_tokens_per_s_per_device == pytest.approx(407, abs=0.5)
    assert seen.calendar_mfu == pytest.approx(0.123, abs=0.0005)
    assert seen.stepping_tokens_per_s_per_device == pytest.approx(597, abs=0.5)
    assert seen.stepping_mfu == pytest.approx(0.181, abs=0.0005)
    assert seen.stepping_days == pytest.approx(30.6, abs=0.05)
    assert seen.duty == pytest.approx(0.68, abs=0.005)
    assert plan.stepping_days == pytest.approx(208, abs=0.5)
    assert plan.days == pytest.approx(306, abs=0.5)
    assert plan.total_memory == 512 * 64e9
    assert plan.fits
    for words in ("trained and scored", "shuffles anew", "14.7%"):
        assert any(words in warning for warning in plan.warnings)


def test_the_study_and_the_recipe_describe_one_run(posted):
    for name in (
        "net",
        "context",
        "batch_seqs",
        "num_steps",
        "optimizer",
        "schedule",
        "placement",
        "operations",
    ):
        assert getattr(posted, name) == getattr(POSTED, name), name


def test_memory_of_the_posted_run_by_hand(posted):
    """On each of 512 devices, from the configuration: 21 sequences of 8,192 tokens over 8 tensor ranks."""
    found, tokens = bytes_of(posted), 21 * 8192
    assert found["inputs of blocks"] == 32 * tokens * 4096 / 8 * 2
    assert found["logits"] == tokens * (128_256 / 8) * (2 + 4 + 4)
    states = found["weights, fp32"] + found["gradients, fp32"] + found["moments, fp32"]
    assert states == 16 * 31_375_488
    # All weights in bf16, split by 8: the norms (65 x 4,096) are whole on every rank.
    norms = 65 * 4096
    assert found["weights to compute with"] == 2 * ((parameters(LLAMA_8B).total - norms) / 8 + norms)


def test_back_tests_are_within_the_stated_accuracy():
    errors = {test.what: math.expm1(error_of(test, LLAMA_8B)) for test in BACK_TESTS}
    assert max(map(abs, errors.values())) <= ACCURACY, errors


# ----------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 1), (1, 1, 8), (1, 4, 2)])
def test_elements_add_up_where_everything_divides(mesh):
    """Without rounding up, all ranks together hold each split parameter once and each norm once per tensor rank."""
    shape = MeshSpec(replicate=mesh[0], shard=mesh[1], tensor=mesh[2])
    norms = 65 * 4096
    wanted = (parameters(LLAMA_8B).total - norms) / (mesh[1] * mesh[2]) + norms / mesh[1]
    assert elements_per_device(LLAMA_8B, shape) == wanted


def test_elements_of_the_posted_mesh_are_those_of_the_real_sharding():
    """31,375,488 elements per rank were counted on PyTorch's own sharding of the 8B over 2 x 32 x 8."""
    assert elements_per_device(LLAMA_8B, MeshSpec(replicate=2, shard=32, tensor=8)) == 31_375_488


def test_sharding_rounds_up():
    net = msgspec.structs.replace(LLAMA_8B, num_layers=1, vocab_size=10, tied_head=True)
    alone, split = (elements_per_device(net, MeshSpec(shard=n)) for n in (1, 3))
    assert split > alone / 3  # 10 rows over 3 ranks are 4 on the fullest


def test_more_of_anything_needs_more_memory(posted):
    base = sum(bytes_of(posted).values())
    assert sum(bytes_of(changed(posted, micro_batch_seqs=42)).values()) > base
    assert sum(bytes_of(changed(posted, recompute="none")).values()) > base
    assert sum(bytes_of(changed(posted, reshard=True)).values()) < base
    assert sum(bytes_of(changed(posted, loss_chunks=8)).values()) < base


# ------------------------------------------------------------------------------------------ speed


def test_step_time_follows_its_parts(posted):
    step = step_time(posted.net, posted.context, posted.batch_seqs, posted.placement)
    own_tokens = posted.tokens_per_step / 512
    assert step.tokens_per_s_per_device == pytest.approx(own_tokens / step.total_s)
    # A compute share of 1 and no traffic would be an MFU of 1: what is lost is what the parts say.
    ideal = step_time(posted.net, posted.context, posted.batch_seqs, posted.placement, share=1.0)
    assert ideal.compute_s == pytest.approx(step.mfu * step.total_s)
    none = step_time(
        posted.net, posted.context, posted.batch_seqs, changed(posted, recompute="none").placement
    )
    assert none.recompute_s == 0
    assert none.tensor_s < step.tensor_s  # eight collectives per block instead of twelve
    assert none.tensor_s / step.tensor_s == pytest.approx((8 * 32 + 4) / (12 * 32 + 4))


def test_layouts_found_fit_and_are_ordered(posted):
    found = search_layouts(posted, posted.batch_seqs)
    assert found
    seconds = [choice.seconds_per_step for choice in found]
    assert [round(s, 3) for s in seconds] == sorted(round(s, 3) for s in seconds)
    for choice in found:
        mesh = MeshSpec.parse(choice.mesh)
        assert mesh.num_devices == 512
        assert mesh.data * choice.micro_batch_seqs * choice.accumulate == posted.batch_seqs
        assert choice.bytes_per_device <= 0.9 * 64e9
    # 1,344 sequences cannot be dealt over 512, 256 or 128 ranks: the batch forces split matrices.
    assert {MeshSpec.parse(choice.mesh).tensor for choice in found} == {8}


def test_another_batch_frees_the_layout(posted):
    plan = plan_run(posted)
    assert plan.best_other_batch is not None
    assert plan.best_other_batch.batch_seqs % 512 == 0
    assert MeshSpec.parse(plan.best_other_batch.mesh).tensor < 8


def test_too_little_memory_is_said_with_a_remedy():
    small = load_recipe(FOLDER, "corrected", "3b")
    tight = changed(small, device="RTX 4090", micro_batch_seqs=1)
    plan = plan_run(tight)
    assert plan.fits is False
    assert plan.best == ()
    assert any("does not fit" in warning for warning in plan.warnings)


# -------------------------------------------------------------------------------------- calendar


def operations(**changes: float) -> Operations:
    plain = {
        "session_hours": 10.0,
        "queue_hours": 0.0,
        "startup_minutes": 0.0,
        "launch_success": 1.0,
        "node_mtbf_hours": 1e12,
        "checkpoint_every_steps": 100,
        "checkpoint_pause_s": 0.0,
    }
    return Operations(**{**plain, **changes})  # type: ignore[arg-type]


def test_a_run_without_trouble_steps_all_the_time():
    assert duty_of(operations(), 1, 1.0).stepping == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "share", "wanted"),
    [
        ({"queue_hours": 10.0}, "waiting", 0.5),
        ({"startup_minutes": 60.0}, "starting", 0.1),
        ({"startup_minutes": 60.0, "launch_success": 0.5}, "starting", 0.2),
        ({"checkpoint_pause_s": 100.0}, "saving", 0.5),  # 100 s of pause after each 100 s of steps
    ],
)
def test_each_trouble_costs_its_share(changes, share, wanted):
    duty = duty_of(operations(**changes), 1, 1.0)
    assert getattr(duty, share) == pytest.approx(wanted, abs=1e-9)


def test_shares_of_the_calendar_sum_to_one():
    duty = duty_of(
        operations(
            queue_hours=3, startup_minutes=20, launch_success=0.6, node_mtbf_hours=500, checkpoint_pause_s=9
        ),
        64,
        30.0,
    )
    assert sum(msgspec.structs.asdict(duty).values()) == pytest.approx(1.0)
    assert min(msgspec.structs.asdict(duty).values()) > 0


def test_failures_cost_half_an_interval_and_a_start():
    """One node that fails once per hour of stepping, 0.5 h to start, a checkpoint per hour: 1 / (1 + 0.5 + 0.5)."""
    duty = duty_of(
        operations(session_hours=1e6, startup_minutes=30, node_mtbf_hours=1.0, checkpoint_every_steps=3600),
        1,
        1.0,
    )
    assert duty.stepping == pytest.approx(0.5, rel=1e-5)  # the one start of a session of a million hours


def test_a_session_too_short_to_start_is_refused():
    with pytest.raises(ValueError, match="no step would be taken"):
        duty_of(operations(session_hours=0.5, startup_minutes=40.0), 1, 1.0)


# ---------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("variant", ["as-posted", "corrected"])
@pytest.mark.parametrize("scale", DOCUMENTED_SCALES)
def test_every_recipe_plans_and_survives_the_disk(variant, scale):
    recipe = load_recipe(FOLDER, variant, scale)
    assert records.decode(records.encode(recipe), Recipe) == recipe
    plan = plan_run(recipe)
    assert plan.fits in (True, None)
    lines = run_plan_text(plan).splitlines()
    assert max(map(len, lines)) <= WIDTH
    size = {"full": 8.03e9, "3b": 3.21e9, "1b": 1.24e9, "gpu": 1.24e9, "cpu": 1.0e6}[scale]
    assert plan.parameters == pytest.approx(size, rel=0.06)
    assert recipe.schedule.num_steps >= recipe.num_steps


def test_the_variants_differ_where_they_say():
    posted, corrected = (load_recipe(FOLDER, variant) for variant in ("as_posted", None))
    assert (posted.mixture.weight_unit, corrected.mixture.weight_unit) == ("rows", "tokens")
    assert posted.net.rope_scaling is None
    assert posted.eval_rope_scaling == corrected.net.rope_scaling == corrected.eval_rope_scaling
    assert (posted.optimizer.decay_on, corrected.optimizer.decay_on) == ("all", "matrices")
    assert (posted.mixture.order, corrected.mixture.order) == ("per_session", "one")
    # As many tokens as the posted run saw, to the nearest update.
    assert corrected.tokens == pytest.approx(73_500 * 11_010_048, rel=1e-3)
    assert [s.weight for s in posted.mixture.sources] == [40, 44, 3, 2, 10, 1]


def test_a_measured_rate_replaces_the_roofline():
    recipe = load_recipe(FOLDER, "corrected", "cpu")
    assert plan_run(recipe).days is None
    plan = plan_run(recipe, flops_per_s=1e10)
    assert plan.seconds_per_step == pytest.approx(plan.train_flops / 200 / 1e10)
    assert plan.stepping_days == pytest.approx(plan.train_flops / 1e10 / 86_400)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: changed(r, mesh=MeshSpec(shard=4)), "takes 4 devices"),
        (lambda r: msgspec.structs.replace(r, batch_seqs=1343), "cannot be dealt"),
        (lambda r: changed(r, device="H900"), "unknown device"),
        (
            lambda r: msgspec.structs.replace(r, net=msgspec.structs.replace(r.net, num_kv_heads=4)),
            "num_kv_heads is 4",
        ),
        (lambda r: msgspec.structs.replace(r, context=16_384), "exceed the net's context"),
        (
            lambda r: msgspec.structs.replace(
                r,
                mixture=msgspec.structs.replace(
                    r.mixture,
                    sources=tuple(msgspec.structs.replace(s, weight=0.0) for s in r.mixture.sources),
                ),
            ),
            "sum to 0",
        ),
        (
            lambda r: msgspec.structs.replace(
                r, schedule=msgspec.structs.replace(r.schedule, num_steps=100, warmup_steps=1)
            ),
            "learning rate is zero",
        ),
        (
            lambda r: msgspec.structs.replace(
                r, operations=msgspec.structs.replace(r.operations, launch_success=0.0)
            ),
            "launch_success",
        ),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(posted, change, words):
    with pytest.raises(ValueError, match=words):
        plan_run(change(posted))


def test_recipes_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="it has: corrected, as-posted"):
        load_recipe(FOLDER, "improved")
    with pytest.raises(RecipeError, match="knows no scale 'tpu'"):
        load_recipe(FOLDER, "corrected", "tpu")
    (tmp_path / "recipe.py").write_text("VARIANTS = 3\n")
    with pytest.raises(RecipeError, match="holds no VARIANTS"):
        load_recipe(tmp_path)
