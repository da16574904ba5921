"""Runs that isoflop trained, compared by their held-out scores: which are one arm, which seeds, at equal compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from isoflop.cli import main
from isoflop.judge.compare import Options, compare_files
from isoflop.judge.scores import ScoreError, read_scores
from isoflop.records import RunSpec
from isoflop.store import Store
from tests import planted

PLAN = planted.plan(seeds=4)


def store(
    root: Path, *, shift: float = 0.0, noise_seed: int = 0, change: Any = None, sizes: int | None = 1
) -> Path:
    """An output folder whose runs have planted losses with seed noise; `change` edits each spec."""
    evidence = planted.evidence(PLAN, 3.0, seed_sd=0.01, seed=noise_seed)
    scored = [run for run in evidence.runs if run.spec.evaluate is not None]
    kinds = list(dict.fromkeys(arm(run.spec) for run in scored))[:sizes]
    for run in scored:
        if arm(run.spec) not in kinds:
            continue
        spec = run.spec if change is None else change(run.spec)
        folder = Store(root).run(spec)
        folder.create(spec)
        loss = msgspec.structs.replace(run.measurements[0].loss, value=run.measurements[0].loss.value + shift)
        folder.write_measurements(
            [msgspec.structs.replace(run.measurements[0], loss=loss, step=spec.num_steps)]
        )
        folder.write_record(run.record)
    return root


def arm(spec: RunSpec) -> tuple[Any, Any]:
    return spec.labels["size"], spec.labels["budget"]


def losses(root: Path) -> list[float]:
    return [one.loss.value for folder in Store(root).run_folders() for one in folder.read_measurements()]


def test_seeds_of_one_arm_are_compared_by_welch_or_in_pairs(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", shift=0.05, noise_seed=1)
    found = compare_files(a, b)
    assert found["difference"] == pytest.approx(np.mean(losses(b)) - np.mean(losses(a)), rel=1e-9)
    row = found["tasks"][0]
    assert (row["num_a"], row["num_b"], row["method"]) == (4, 4, "Welch's t test")
    assert row["metric"] == "heldout nats/token"
    assert row["higher_is_better"] is False
    assert found["minimum_detectable"] > 0
    assert any("--paired-seeds" in note for note in found["notes"])
    paired = compare_files(a, store(tmp_path / "c", shift=0.05), Options(paired_seeds=True))
    # The same noise shifted: pairs differ by 0.05 but for the rounding of sums, so no spread is left to test.
    assert paired["difference"] == pytest.approx(0.05, abs=1e-9)


def test_the_command_prints_the_promised_keys(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", shift=0.2, noise_seed=1)
    result = CliRunner().invoke(main, ["compare", str(a), str(b), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert {"difference", "ci95", "p", "minimum_detectable", "verdict"} <= set(answer)
    assert answer["verdict"] == "B is higher"  # 0.2 against a spread of 0.01: 28 standard errors


def test_one_run_on_each_side_needs_the_noise_from_elsewhere(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", shift=0.05, noise_seed=1)
    one, other = (Store(root).run_folders()[0].path for root in (a, b))
    with pytest.raises(ScoreError, match=r"fewer than two.*--noise-sd"):
        compare_files(one, other)
    command = ["compare", str(one), str(other), "--noise-sd", "0.01", "--noise-df", "30", "--json"]
    answer = json.loads(CliRunner().invoke(main, command, catch_exceptions=False).stdout)
    assert answer["tasks"][0]["df"] == 30
    assert answer["tasks"][0]["standard_error"] == pytest.approx(0.01 * 2**0.5)
    wrong = CliRunner().invoke(main, ["compare", str(one), str(other), "--noise-df", "30", "--json"])
    assert wrong.exit_code == 2
    assert "--noise-sd" in json.loads(wrong.stdout)["error"]


def test_several_arms_become_tasks_and_labels_choose_among_them(tmp_path: Path) -> None:
    root = store(tmp_path / "a", sizes=None)
    file = read_scores(root)
    names = {task.task for task in file.tasks}
    specs = [folder.read_spec() for folder in Store(root).run_folders()]
    assert len(names) == len({arm(spec) for spec in specs}) > 3
    size, budget = arm(specs[0])
    chosen = read_scores(f"{root}:size={size},budget={budget:g}")
    assert [task.task for task in chosen.tasks] == ["", ""]  # nats and bits of one arm
    assert len(chosen.tasks[0].seeds or {}) == 4
    with pytest.raises(ScoreError, match=rf"has size=nope; labels there: .*{size}"):
        read_scores(f"{root}:size=nope")


def test_runs_that_did_not_finish_are_left_out_with_the_reason(tmp_path: Path) -> None:
    root = store(tmp_path / "a")
    folders = Store(root).run_folders()
    record = msgspec.structs.replace(folders[0].read_record(), status="diverged", reason="loss 30 at step 9")
    folders[0].write_record(record)
    folders[1].record_path.unlink()
    file = read_scores(root)
    assert len(file.tasks[0].seeds or {}) == 2
    assert any("diverged (loss 30 at step 9)" in note for note in file.notes)
    assert any("not finished" in note for note in file.notes)
    for folder in folders[2:]:
        folder.measurements_path.unlink()
    with pytest.raises(ScoreError, match="isoflop measure"):
        read_scores(root)


def test_other_windows_are_refused_and_other_compute_is_said(tmp_path: Path) -> None:
    def other_text(spec: RunSpec) -> RunSpec:
        source = msgspec.structs.replace(spec.data.sources[0], corpus_sha256="f" * 64)
        return msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, sources=(source,)))

    def longer(spec: RunSpec) -> RunSpec:
        flops = msgspec.structs.replace(spec.train_flops, flops=2 * spec.train_flops.flops)
        return msgspec.structs.replace(spec, train_flops=flops)

    a = store(tmp_path / "a")
    with pytest.raises(ScoreError, match="not comparable"):
        compare_files(a, store(tmp_path / "b", change=other_text, noise_seed=1))
    found = compare_files(a, store(tmp_path / "c", change=longer, noise_seed=1))
    assert any("not at equal compute, a run of B took 2 times" in note for note in found["notes"])
