"""The whole loop on a tiny sweep: plan, train, measure, judge, publish; killed, resumed, reused, broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isoflop.store import Store
from tests.tiny_world import STUDY, make_world, verdict_without_times

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment with a small corpus of many files and a cache of its own."""
    return make_world(tmp_path_factory.mktemp("world"))


def isoflop(world: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isoflop", *arguments], env=world, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def plan(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan")
    done = isoflop(world, "plan", "study", str(STUDY), "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "isoflop.plan.study/1"
    assert answer["plan"]["planned_flops"]["flops"] <= 2e9
    return out / "plan.json"


@pytest.fixture(scope="module")
def undisturbed(world: dict[str, str], plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = isoflop(world, "run", str(STUDY), "--plan", str(plan), "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    return out


def test_every_arrow_can_be_opened(undisturbed: Path) -> None:
    store = Store(undisturbed)
    folders = store.run_folders()
    assert len(folders) == len(store.read_plan().runs)
    for folder in folders:
        record = folder.read_record()
        assert record.status == "finished"
        assert record.flops_wasted == 0
        if folder.read_spec().evaluate is not None:
            score = folder.read_measurements()[-1]
            assert score.loss.value is not None
            assert 0 < score.loss.value < 6  # ln 256 = 5.55 is the loss of a uniform guess over bytes
    assert store.read_verdict().plan_fingerprint == store.read_plan().fingerprint()
    assert store.report_path.exists()


def test_the_ledger_balances(world: dict[str, str], undisturbed: Path) -> None:
    answer = json.loads(isoflop(world, "ledger", str(undisturbed), "--json").stdout)
    cost = answer["cost"]
    # An undisturbed sweep spends what was planned: the plan counts whole steps, and so does the loop.
    assert cost["spent_flops"] == pytest.approx(cost["planned_flops"], rel=1e-9)
    assert cost["wasted_flops"] == 0


def test_a_second_call_trains_nothing(world: dict[str, str], undisturbed: Path) -> None:
    before = verdict_without_times(undisturbed)
    done = isoflop(world, "run", str(STUDY), "--resume", "--out", str(undisturbed), "--json")
    assert json.loads(done.stdout)["runs_trained"] == 0
    assert verdict_without_times(undisturbed) == before


def test_finished_runs_are_reused_when_asked(
    world: dict[str, str], plan: Path, undisturbed: Path, tmp_path: Path
) -> None:
    done = isoflop(
        world,
        "run",
        str(STUDY),
        "--plan",
        str(plan),
        "--out",
        str(tmp_path),
        "--reuse",
        str(undisturbed),
        "--json",
    )
    assert json.loads(done.stdout)["runs_trained"] == 0
    assert Store(tmp_path).run_folders()[0].read_record().reused_from == str(undisturbed)


def test_killed_half_way_and_resumed_gives_the_same_verdict(
    world: dict[str, str], plan: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """kill -9 on the whole process group once a third of the runs are done."""
    store = Store(tmp_path / "killed")
    command = [
        sys.executable,
        "-m",
        "isoflop",
        "run",
        str(STUDY),
        "--plan",
        str(plan),
        "--out",
        str(store.root),
    ]
    process = subprocess.Popen(command, env=world, start_new_session=True, stderr=subprocess.DEVNULL)
    enough = len(Store(undisturbed).run_folders()) // 3
    deadline = time.monotonic() + 120
    while sum(folder.finished for folder in store.run_folders()) < enough and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not store.verdict_path.exists(), "the sweep was over before the kill; make it longer"
    done = isoflop(
        world, "run", str(STUDY), "--plan", str(plan), "--out", str(store.root), "--resume", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs_trained"] > 0
    assert verdict_without_times(store.root) == verdict_without_times(undisturbed)


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(
    world: dict[str, str], plan: Path, undisturbed: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "interrupted")
    command = [
        sys.executable,
        "-m",
        "isoflop",
        "run",
        str(STUDY),
        "--plan",
        str(plan),
        "--out",
        str(store.root),
    ]
    # A shell that starts the tests in the background has SIGINT ignored in all that they start.
    process = subprocess.Popen(
        command,
        env=world,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not any(folder.finished for folder in store.run_folders()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert isoflop(world, *command[3:]).returncode == 0
    assert verdict_without_times(store.root) == verdict_without_times(undisturbed)


def test_a_damaged_run_folder_is_named_and_the_rest_stays(
    world: dict[str, str], plan: Path, undisturbed: Path
) -> None:
    store = Store(undisturbed)
    victim = next(folder for folder in store.run_folders() if folder.read_spec().evaluate is not None)
    whole = victim.measurements_path.read_bytes()
    victim.measurements_path.write_bytes(whole[: len(whole) // 2] + b"\n")
    done = isoflop(world, "judge", str(undisturbed), "--study", str(STUDY), "--json")
    victim.measurements_path.write_bytes(whole)
    assert done.returncode == 2
    assert victim.path.name in json.loads(done.stdout)["error"]
    assert isoflop(world, "judge", str(undisturbed), "--study", str(STUDY), "--json").returncode == 0


def test_two_processes_cannot_share_a_folder(world: dict[str, str], undisturbed: Path) -> None:
    with Store(undisturbed).lock():
        done = isoflop(world, "run", str(STUDY), "--resume", "--out", str(undisturbed), "--json")
    assert done.returncode == 2
    assert "in use by another isoflop process" in json.loads(done.stdout)["error"]


def test_a_study_that_trains_nothing_is_judged_under_its_plan_too(tmp_path: Path) -> None:
    from isoflop import verbs

    done = verbs.run_study("machine_found_gains", out=tmp_path / "out")
    assert done.verdict.plan_fingerprint == done.store.read_plan().fingerprint()
    assert "the verdict names no plan" not in done.store.report_path.read_text()
