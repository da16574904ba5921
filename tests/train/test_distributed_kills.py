"""kill -9 of a rank in each phase of a run; torchrun starts all ranks again, and the run is the same to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.data import Corpus
from isoflop.dist import checkpoint, states
from isoflop.dist.launch import torchrun_command
from isoflop.records import MeshSpec, RunSpec
from isoflop.store import RunFolder
from isoflop.train.distributed_worker import LAUNCH, STOP, Launch, write_launch
from tests.conftest import ROOT
from tests.train.distributed_sessions import placement
from tests.train.killed_rank import PHASES

MakeSpec = Callable[..., RunSpec]
TWO = MeshSpec(shard=2)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("use_cache")]


def prepare(spec: RunSpec, path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create(spec)
    write_launch(
        folder, Launch(placement=placement(TWO.words), checkpoint_every_steps=5, checkpoint_every_s=None)
    )
    return folder


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], log: Path, seconds: float = 400) -> None:
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = None
    assert code == 0, log.read_text(errors="replace")[-4000:]


def outcome(folder: RunFolder) -> tuple[list[tuple[int, float, float]], dict[str, torch.Tensor]]:
    rows = [(row["step"], row["loss_nats"], row["grad_norm"]) for row in folder.read_metrics()]
    return rows, checkpoint.read_folder(folder.checkpoints / "final")[0][checkpoint.MODEL]


def test_kills_in_every_phase_change_nothing(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> None:
    """Each start loses a rank in another phase; the last one ends the run. No row and no weight differs."""
    spec = make_spec(num_steps=60)
    killed, whole = prepare(spec, tmp_path / "killed"), prepare(spec, tmp_path / "whole")
    command = torchrun_command(killed.path, TWO, max_restarts=len(PHASES))
    at = command.index("isoflop.train.distributed_worker")
    killer = [*command[:at], "tests.train.killed_rank", str(killed.path), ",".join(PHASES)]
    killer = killer[
        killer.index(sys.executable) :
    ]  # as one would call torchrun by hand, its shared store and all
    finish(start(killer, tmp_path / "killed.log"), tmp_path / "killed.log")
    starts = (killed.path / "starts-0.txt").read_text().splitlines()
    assert starts == [f"{index} {phase}" for index, phase in enumerate((*PHASES, None))]
    finish(start(torchrun_command(whole.path, TWO), tmp_path / "whole.log"), tmp_path / "whole.log")
    (rows, weights), (expected_rows, expected) = outcome(killed), outcome(whole)
    assert rows == expected_rows
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    record = killed.read_record()
    assert [attempt.ended for attempt in record.attempts] == ["killed"] * len(PHASES) + ["finished"]
    # Useful steps are those of the plan: what is spent beyond them is what is recorded as wasted.
    useful = record.flops_spent - record.flops_wasted
    assert useful == pytest.approx(spec.train_flops.flops, rel=1e-9)


def test_a_stop_file_and_a_signal_save_and_end_in_good_order(
    make_spec: MakeSpec, corpus: Corpus, tmp_path: Path
) -> None:
    """As the batch file of a cluster asks for it. SIGTERM reaches the ranks through torchrun."""
    spec = make_spec(num_steps=20_000, evaluate=None)
    folder, log = prepare(spec, tmp_path / "run"), tmp_path / "log"
    assert (folder.path / LAUNCH).exists()

    def started() -> subprocess.Popen[bytes]:
        seen = len(folder.read_metrics())
        process = start(torchrun_command(folder.path, TWO), log)
        until = time.monotonic() + 300
        while len(folder.read_metrics()) <= seen and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        return process

    process = started()
    (folder.path / STOP).touch()
    finish(process, log)
    first = states.steps(folder.checkpoints)[-1]
    (folder.path / STOP).unlink()
    process = started()
    os.kill(process.pid, signal.SIGTERM)  # torchrun hands it on, and itself ends with another code
    process.wait(120)
    second = states.steps(folder.checkpoints)[-1]
    assert 0 < first < second < 20_000
    assert not folder.finished
    assert [attempt.ended for attempt in folder.read_attempts()] == ["cut", "cut"]
    assert [attempt.last_step for attempt in folder.read_attempts()] == [first, second]


def test_the_worker_says_how_it_is_called() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "isoflop.train.distributed_worker"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "RUN_FOLDER" in done.stderr
