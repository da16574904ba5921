"""The ledger of attempts: nothing is counted twice, whenever a kill strikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.records import RunSpec
from isoflop.store import JsonlWriter, RunFolder
from isoflop.train.attempts import AttemptLog

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def log(make_spec: MakeSpec, tmp_path: Path) -> AttemptLog:
    spec, folder = make_spec(num_steps=20), RunFolder(tmp_path)
    folder.create(spec)
    return AttemptLog(spec, folder)


def test_what_is_done_again_is_wasted_once(log: AttemptLog) -> None:
    log.begin(0, 0.0)
    log.end("cut", 12, 6.0)
    log.redo_from(8)
    log.begin(8, 4.0)
    log.end("cut", 15, 7.0)
    log.redo_from(5)  # both later states were damaged
    log.redo_from(5)
    assert [attempt.flops_wasted / log.flops_per_step for attempt in log.attempts] == [7.0, 7.0]
    assert [attempt.seconds for attempt in log.attempts] == [6.0, 3.0]
    assert log.flops_spent() == 19 * log.flops_per_step


def test_a_kill_between_row_and_note_counts_once(log: AttemptLog, tmp_path: Path) -> None:
    log.begin(0, 0.0)
    note = (tmp_path / "attempt.json").read_bytes()
    log.end("finished", 20, 5.0)
    (tmp_path / "attempt.json").write_bytes(note)
    assert not log.settle()
    assert len(log.attempts) == 1
    assert not (tmp_path / "attempt.json").exists()


@pytest.mark.parametrize(
    ("row", "state", "expected"), [(5, None, 5), (5, 9, 9), (12, 9, 12), (None, None, 0)]
)
def test_a_killed_attempt_came_as_far_as_row_or_state_say(
    log: AttemptLog, tmp_path: Path, row: int | None, state: int | None, expected: int
) -> None:
    log.begin(0, 0.0)
    if state is not None:
        log.reached(state, 0.1 * state)
    if row is not None:
        with JsonlWriter(tmp_path / "metrics.jsonl") as metrics:
            metrics.write({"step": row, "loss_nats": 1.0, "seconds": 0.1 * row})
    assert log.settle()
    (attempt,) = log.attempts
    assert (attempt.ended, attempt.last_step) == ("killed", expected)
    assert attempt.seconds == pytest.approx(0.1 * expected, abs=1e-12)
    assert not log.settle()
