"""A run that is a command of the user's own: followed, resumed, and refused when it is not at the budget."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from isoflop.measure import measure_run
from isoflop.records import RunSpec
from isoflop.store import RunFolder, Store, StoreError
from isoflop.train.command import run_command
from isoflop.train.fleet import run_fleet

MakeSpec = Callable[..., RunSpec]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_trainer.py"

HEAD = """
import json, os, sys, time
spec = json.load(open(sys.argv[1]))
out = open(os.path.join(os.environ["ISOFLOP_RUN_DIR"], "metrics.jsonl"), "a")
def row(**fields):
    out.write(json.dumps(fields) + "\\n"); out.flush()
last = dict(final=True, step=spec["num_steps"], val_loss_nats=2.0, group_nats=[1.0, 3.0],
            group_tokens=[10, 10], num_bytes=40)
"""


@pytest.fixture
def command_of(tmp_path: Path, make_spec: MakeSpec) -> Callable[[str], tuple[RunSpec, RunFolder]]:
    """A run whose command is the given body behind HEAD."""

    def make(body: str) -> tuple[RunSpec, RunFolder]:
        script = tmp_path / "trainer.py"
        script.write_text(HEAD + body)
        return make_spec("own", 20, command=(sys.executable, str(script))), RunFolder(tmp_path / "run")

    return make


CommandOf = Callable[[str], tuple[RunSpec, RunFolder]]
GOOD = "for step in (10, 20): row(step=step, loss_nats=3.0 - step / 20)\nrow(**last)\n"


def test_a_command_is_a_run_like_any_other(command_of: CommandOf) -> None:
    spec, folder = command_of(GOOD)
    record = run_command(spec, folder)
    assert record is not None
    assert record.status == "finished"
    assert record.flops_spent == pytest.approx(spec.train_flops.flops, rel=1e-12)
    assert record.final_train_loss_nats == 2.0
    measurement = measure_run(folder)
    assert measurement.loss.value == 2.0
    assert measurement.group_nats == (1.0, 3.0)
    # Two groups of equal weight: s.e. 1, t with one degree of freedom 12.706.
    assert measurement.loss.hi == pytest.approx(2.0 + 12.706, abs=1e-3)
    assert measurement.bits_per_byte.value == pytest.approx(2.0 / 0.693147 * 20 / 40, rel=1e-5)
    assert folder.read_measurements() == [measurement]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("print('no such file: x.bin'); sys.exit(3)", "failed", "ended with code 3: no such file: x.bin"),
        ("row(step=20, loss_nats=2.0)", "failed", "lacks the last row"),
        ("row(step=10, loss_nats=2.0)\nrow(**{**last, 'step': 10})", "failed", "to step 10 .* is 20 steps"),
        ("row(step=20, loss_nats=2.0)\ndel last['num_bytes']\nrow(**last)", "failed", "lacks 'num_bytes'"),
        ("row(step=20, loss_nats=2.0)\nrow(**{**last, 'group_nats': [2.0]})", "failed", "1 group_nats and 2"),
        ("row(step=20, loss_nats=2.0)\nrow(**{**last, 'val_loss_nats': 1.5})", "failed", "have the mean 2"),
        ("row(step=7, loss_nats=float('nan'))\nrow(step=20, loss_nats=2.0)", "diverged", "at step 7"),
        ("pass", "failed", "to step 0"),
    ],
)
def test_what_a_command_owes(command_of: CommandOf, body: str, status: str, message: str) -> None:
    spec, folder = command_of(body)
    record = run_command(spec, folder)
    assert record is not None
    assert record.status == status
    assert record.reason is not None
    assert re.search(message, record.reason), record.reason


def test_a_command_that_does_not_exist(make_spec: MakeSpec, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    record = run_command(make_spec(command=("no-such-program-anywhere",)), folder)
    assert record is not None
    assert "cannot start no-such-program-anywhere" in (record.reason or "")


def test_a_stopped_command_is_called_again_and_its_waste_counted(command_of: CommandOf) -> None:
    spec, folder = command_of(
        "if os.environ['ISOFLOP_RESUME'] == '1':\n"
        "    row(resumed=True, step=5)\n"
        "    for step in (10, 15, 20): row(step=step, loss_nats=2.0)\n"
        "    row(**last)\n"
        "else:\n"
        "    for step in (5, 12): row(step=step, loss_nats=2.5)\n"
        "    time.sleep(60)\n"
    )
    assert run_command(spec, folder, should_stop=lambda: len(folder.read_metrics()) == 2) is None
    record = run_command(spec, folder)
    assert record is not None
    assert record.status == "finished"
    assert [(a.ended, a.first_step, a.last_step) for a in record.attempts] == [
        ("cut", 0, 12),
        ("finished", 5, 20),
    ]
    per_step = spec.train_flops.flops / 20
    assert record.flops_wasted == pytest.approx(7 * per_step, rel=1e-12)
    assert [row["step"] for row in folder.read_metrics() if "loss_nats" in row] == [5, 10, 15, 20]


def test_an_orphan_of_a_killed_worker_is_ended_first(command_of: CommandOf) -> None:
    spec, folder = command_of("row(step=5, loss_nats=2.0)\ntime.sleep(60)\n")
    folder.create(spec)
    orphan = subprocess.Popen(
        [*spec.command, str(folder.spec_path)],  # type: ignore[misc]
        env={**os.environ, "ISOFLOP_RUN_DIR": str(folder.path)},
        start_new_session=True,
    )
    (folder.path / "command.pid").write_text(str(orphan.pid))
    until = time.monotonic() + 20
    while not folder.read_metrics() and time.monotonic() < until:
        time.sleep(0.02)
    stop = iter([False, True, True])
    run_command(spec, folder, should_stop=lambda: next(stop))
    assert orphan.wait(timeout=5) == -signal.SIGTERM


def test_a_process_id_of_another_program_is_left_alone(command_of: CommandOf) -> None:
    spec, folder = command_of(GOOD)
    folder.create(spec)
    (folder.path / "command.pid").write_text(str(os.getpid()))
    record = run_command(spec, folder)
    assert record is not None
    assert record.status == "finished"
    assert psutil.pid_exists(os.getpid())


def test_a_run_without_its_last_row_cannot_be_measured(command_of: CommandOf) -> None:
    spec, folder = command_of("row(step=20, loss_nats=2.0)")
    run_command(spec, folder)
    with pytest.raises(StoreError, match="lacks the last row"):
        measure_run(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("use_cache")
def test_the_example_goes_through_a_fleet(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec("own perceptron", 60, command=(sys.executable, str(EXAMPLE)))
    store, events = Store(tmp_path), []
    result = run_fleet([spec], store, num_workers=1, on_event=events.append)
    (record,) = result.records
    assert record.status == "finished", record.reason
    measurement = measure_run(store.run(spec))
    assert measurement.loss.value is not None
    assert measurement.loss.value < 5.0  # ln 256 = 5.5 before training
    assert json.loads(store.run(spec).metrics_path.read_text().splitlines()[-1])["final"] is True
