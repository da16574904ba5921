"""The noise of a store's runs: planted spread and predictability come back, and nothing is counted twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from isoflop import records
from isoflop.cli import main
from isoflop.fit.compare.seed_noise import overtake_chance, plan_seeds
from isoflop.judge import noise
from isoflop.records import NoiseModel
from isoflop.store import Store
from tests import planted

SEED_SD = 0.01
SHARED = math.sqrt(0.5)
"""Planted share of a run's noise that its trunk already carries."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with four seeds; each trunk's curve already holds its share of the final noise."""
    root = tmp_path_factory.mktemp("sweep")
    plan = planted.plan("3e12 FLOPs", seeds=4)
    found = planted.evidence(plan, half_width=2.0, seed_sd=SEED_SD)
    clean = planted.evidence(plan, half_width=2.0, seed_sd=0.0)
    dice = np.random.default_rng(1)
    of_trunk: dict[str, list[float]] = {}
    for run, bare in zip(found.runs, clean.runs, strict=True):
        if run.spec.branch is not None:
            deviation = run.measurements[-1].loss.value - bare.measurements[-1].loss.value
            of_trunk.setdefault(run.spec.branch.parent, []).append(deviation)
    for run in found.runs:
        folder = Store(root).run(run.spec)
        folder.create(run.spec)
        parent = run.spec.branch.parent if run.spec.branch else run.spec.fingerprint()
        shift = float(np.mean(of_trunk[parent]))
        steps = range(run.spec.start_step + 1, run.spec.num_steps + 1, max(1, run.spec.num_steps // 50))
        rows = [
            {"step": step, "loss_nats": 8.0 - 2.0 * step / 1e4 + shift + 1e-4 * dice.standard_normal()}
            for step in steps
        ]
        folder.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder.write_measurements(run.measurements)
        folder.write_record(run.record)
    return root


def test_planted_noise_comes_back_from_the_store(store: Path):
    model = noise.learn_noise([store])
    pooled = noise.find_entry(model)
    assert pooled.scale == noise.ALL_SCALES
    assert pooled.metric == "heldout"
    # 1/sqrt(2 df) is the relative error of a standard deviation; four of them.
    assert pooled.sd.value == pytest.approx(SEED_SD, rel=4 / math.sqrt(2 * pooled.df))
    half = next(part for part in pooled.part_way if part.fraction == 0.5)
    # The trunk carries the mean of its branches' noise: at half of the schedule it says much, not all.
    assert 0.5 < half.correlation.value < 1.0
    one = next(entry for entry in model.entries if entry.scale != noise.ALL_SCALES)
    assert one.num_runs == one.num_configurations * 4
    assert one.df == one.num_configurations * 3


def test_branches_of_one_trunk_count_once_when_scales_are_pooled(store: Path):
    model = noise.learn_noise([store])
    trunks = {
        folder.read_spec().branch.parent for folder in Store(store).run_folders() if folder.read_spec().branch
    }
    pooled = noise.find_entry(model)
    assert pooled.num_runs == len(trunks)
    assert sum(entry.num_runs for entry in model.entries if entry is not pooled) > pooled.num_runs


def test_the_same_store_twice_teaches_nothing_new(store: Path):
    once, twice = noise.learn_noise([store]), noise.learn_noise([store, store])
    assert once.entries == twice.entries


def test_the_record_survives_the_disk_and_plans(store: Path, tmp_path: Path):
    model = noise.learn_noise([store])
    path = tmp_path / "noise.json"
    path.write_bytes(records.encode(model))
    again = records.read(path, NoiseModel)
    assert again == model
    learned = noise.as_seed_noise(noise.find_entry(again))
    assert learned.final.df == noise.find_entry(model).df
    assert learned.at(0.5).correlation == noise.find_entry(model).part_way[2].correlation.value


def test_what_does_not_count_is_said(store: Path, tmp_path: Path):
    folders = [folder for folder in Store(store).run_folders() if folder.read_spec().branch]
    alone = Store(tmp_path)
    for source in folders[:2]:
        spec = source.read_spec()
        folder = alone.run(spec)
        folder.create(spec)
        folder.write_measurements(source.read_measurements())
    with pytest.raises(ValueError, match="two seeds of one configuration"):
        noise.learn_noise([tmp_path])
    for source in folders:
        spec = source.read_spec()
        folder = alone.run(spec)
        folder.create(spec)
        folder.write_measurements(source.read_measurements())
        status = "diverged" if source is folders[0] else "finished"
        folder.write_record(msgspec.structs.replace(source.read_record(), status=status))
    model = noise.learn_noise([tmp_path])
    assert [item.reason for item in model.exclusions] == ["not finished"]
    assert not model.entries[0].part_way  # no metrics: no curves, and a note says so
    assert any("do not reach the fractions" in note for note in model.notes)


def test_entries_are_found_by_name(store: Path):
    model = noise.learn_noise([store])
    scale = model.entries[0].scale
    assert noise.find_entry(model, "heldout", scale) is model.entries[0]
    with pytest.raises(ValueError, match="there are: heldout at"):
        noise.find_entry(model, "accuracy")


def test_of_several_metrics_one_has_to_be_named(store: Path):
    model = noise.learn_noise([store])
    pooled = noise.find_entry(model)
    two = replace(model, entries=(*model.entries, replace(pooled, metric="training loss")))
    with pytest.raises(
        ValueError, match=r"one for each of 'heldout', 'training loss': name one \(--metric\)"
    ):
        noise.find_entry(two)
    assert noise.find_entry(two, "heldout") == pooled


def test_what_was_learned_is_said_kept_and_planned_with(store: Path, tmp_path: Path):
    kept = tmp_path / "noise.json"
    answer = CliRunner().invoke(main, ["noise", str(store), "--save", str(kept), "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    pooled = next(entry for entry in found["entries"] if entry["scale"] == noise.ALL_SCALES)
    half = next(part for part in pooled["part_way"] if part["fraction"] == 0.5)
    assert half["correlation_ci95"][0] < half["correlation"] < half["correlation_ci95"][1]
    learned = noise.as_seed_noise(noise.find_entry(noise.read_noise(kept)))
    assert overtake_chance(learned, 0.5, half["gap_to_cut"]) == pytest.approx(found["chance"])
    asked = CliRunner().invoke(main, ["power", "--noise", str(kept), "--effect", "0.02", "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["seeds"] == plan_seeds(learned, 0.02).seeds
    same = CliRunner().invoke(main, ["power", "--noise", str(store), "--effect", "0.02", "--json"])
    assert json.loads(same.stdout)["seeds"] == json.loads(asked.stdout)["seeds"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the noise of one run once"),
        (["--sd", "0.01", "--noise", "."], "give the noise of one run once"),
        (["--noise", "broken.json"], "holds no learned noise"),
    ],
)
def test_noise_that_cannot_be_used_is_named(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{}")
    answer = CliRunner().invoke(main, ["power", "--effect", "0.02", *arguments])
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
