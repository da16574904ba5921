"""Many runs: order, branches, kills, deadlines; finished runs are never done again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isoflop.dist import states
from isoflop.records import FunctionRef, OptimizerSpec, RunSpec
from isoflop.refs import RefError
from isoflop.store import Store, StoreError
from isoflop.train.crew import Crew
from isoflop.train.fleet import Board, FleetEvent, run_fleet

MakeSpec = Callable[..., RunSpec]
MakeTree = Callable[..., list[RunSpec]]


def losses(store: Store, specs: list[RunSpec]) -> dict[str, list[tuple[int, float]]]:
    return {
        spec.name: [(row["step"], row["loss_nats"]) for row in store.run(spec).read_metrics()]
        for spec in specs
    }


def scores(store: Store, specs: list[RunSpec]) -> dict[str, Any]:
    return {spec.name: store.run(spec).read_measurements() for spec in specs}


def make_finished(store: Store, spec: RunSpec, status: str = "finished") -> None:
    from isoflop.provenance import current
    from isoflop.train.ending import write_end

    store.run(spec).create(spec)
    reason = None if status == "finished" else "as the test says"
    write_end(spec, store.run(spec), status, reason, current(), step=5 if reason else None)


def make_state(store: Store, spec: RunSpec, step: int) -> None:
    states.folder_of(store.run(spec).checkpoints, step).mkdir(parents=True)


class TestBoard:
    def test_the_longest_path_goes_first(
        self, make_tree: MakeTree, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        trunk, early, late = make_tree(40, (20, 40))
        alone = make_spec("alone", 45)
        seconds = {trunk.name: 40.0, early.name: 10.0, late.name: 20.0, alone.name: 45.0}
        board = Board([alone, trunk, early, late], Store(tmp_path), lambda spec: seconds[spec.name])
        # The trunk's path is 40 s of its own and 20 s of the branch at its end.
        assert board.remaining_path(trunk.fingerprint()) == 60.0
        assert board.ready() == [trunk.fingerprint(), alone.fingerprint()]

    def test_a_branch_is_ready_when_its_state_is_there(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, early, late = make_tree(40, (20, 40))
        store = Store(tmp_path)
        board = Board([trunk, early, late], store)
        board.running.add(trunk.fingerprint())
        assert board.ready() == []
        make_state(store, trunk, 20)
        assert board.ready() == [early.fingerprint()]
        assert board.missing_steps(trunk.fingerprint()) == (40,)

    def test_a_finished_trunk_without_states_is_ready_again(
        self, make_tree: MakeTree, tmp_path: Path
    ) -> None:
        trunk, early, late = make_tree(40, (20, 40))
        store = Store(tmp_path)
        make_finished(store, trunk)
        make_finished(store, early)
        make_state(store, trunk, 20)
        board = Board([trunk, early, late], store)
        assert board.ready() == [trunk.fingerprint()]
        assert board.needed_steps(trunk.fingerprint()) == (40,)
        assert not board.trunk_is_free(trunk.fingerprint())

    def test_what_hangs_on_a_blown_up_trunk_is_hopeless(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, early, late = make_tree(40, (20, 40))
        store = Store(tmp_path)
        make_finished(store, trunk, "diverged")
        make_state(store, trunk, 20)
        board = Board([trunk, early, late], store)
        ((fingerprint, reason),) = board.hopeless()
        assert fingerprint == late.fingerprint()
        assert reason == "its trunk trunk 1 diverged: as the test says"
        assert board.ready() == [early.fingerprint()]

    def test_a_branch_needs_its_trunk_in_the_list(self, make_tree: MakeTree, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="add the trunk"):
            Board(make_tree()[1:], Store(tmp_path))

    def test_a_branch_cannot_leave_behind_the_end(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, early, late = make_tree(40, (20, 40))
        assert late.branch is not None
        beyond = msgspec.structs.replace(late, branch=msgspec.structs.replace(late.branch, step=41))
        with pytest.raises(ValueError, match="at step 41, which is not among its steps 1 to 40"):
            Board([trunk, early, beyond], Store(tmp_path))

    def test_a_trunk_by_itself_keeps_what_its_spec_says(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, early, _ = make_tree(40, (20, 40))
        assert Board([trunk], Store(tmp_path)).steps_to_save(trunk.fingerprint()) == (20, 40)
        assert Board([trunk, early], Store(tmp_path)).steps_to_save(trunk.fingerprint()) == (20,)


def test_an_edited_objective_stops_the_fleet_before_it_starts(make_spec: MakeSpec, tmp_path: Path) -> None:
    edited = FunctionRef(path="isoflop.train.objectives:next_token", source_sha256="0" * 64)
    with pytest.raises(RefError, match="has changed since this run was planned"):
        run_fleet([make_spec(objective=edited)], Store(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("use_cache")
class TestFleet:
    def test_a_tree_is_trained_once(self, make_tree: MakeTree, tmp_path: Path) -> None:
        specs = make_tree()
        events: list[FleetEvent] = []
        store = Store(tmp_path)
        result = run_fleet(specs, store, num_workers=2, on_event=events.append)
        assert result.stopped == "finished"
        assert result.num_trained == 3
        assert [record.status for record in result.records] == ["finished"] * 3
        assert [event.flops for event in events if event.kind == "finished"] == [
            pytest.approx(spec.own_flops)
            for event in events
            if event.kind == "finished"
            for spec in specs
            if spec.fingerprint() == event.fingerprint
        ]
        for spec in specs[1:]:
            assert store.run(spec).read_measurements()[0].loss.value is not None
        assert states.steps(store.run(specs[0]).checkpoints) == []  # no branch needs the trunk's states now
        events.clear()
        again = run_fleet(specs, store, num_workers=2, on_event=events.append)
        assert again.num_trained == 0
        assert {event.kind for event in events} == {"reused"}

    def test_a_new_branch_of_a_finished_trunk_trains_the_trunk_again(
        self, make_tree: MakeTree, tmp_path: Path
    ) -> None:
        specs = make_tree()
        store, other = Store(tmp_path / "one"), Store(tmp_path / "two")
        run_fleet(specs[:2], store, num_workers=1)
        result = run_fleet(specs, store, num_workers=1)
        run_fleet(specs, other, num_workers=1)
        assert result.num_trained == 2
        assert losses(store, specs) == losses(other, specs)
        record = store.run(specs[0]).read_record()
        assert record.flops_wasted == pytest.approx(specs[0].train_flops.flops)

    def test_a_killed_worker_is_replaced_and_its_run_resumed(
        self, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        specs = [make_spec(f"run {seed}", 1000, seed=seed) for seed in (1, 2)]
        quiet, disturbed = Store(tmp_path / "quiet"), Store(tmp_path / "disturbed")
        run_fleet(specs, quiet, num_workers=2)
        events: list[FleetEvent] = []

        def kill_once(event: FleetEvent) -> None:
            if event.kind == "progress" and not any(e.kind == "progress" for e in events):
                path = disturbed.run(specs[event.name == "run 2"]).metrics_path
                os.kill(_worker_writing(path), signal.SIGKILL)
            events.append(event)

        result = run_fleet(specs, disturbed, num_workers=2, on_event=kill_once, checkpoint_every_s=0.1)
        (killed,) = [event for event in events if event.kind == "killed"]
        assert killed.reason == "killed by SIGKILL"
        assert [record.status for record in result.records] == ["finished", "finished"]
        assert losses(disturbed, specs) == losses(quiet, specs)
        assert scores(disturbed, specs) == scores(quiet, specs)
        endings = sorted(tuple(a.ended for a in record.attempts) for record in result.records)
        assert endings == [("finished",), ("killed", "finished")]

    def test_a_run_that_kills_every_worker_is_given_up(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, *branches = make_tree()
        deadly = msgspec.structs.replace(trunk, objective=_ref("deadly"))
        branches = [
            msgspec.structs.replace(
                spec, branch=msgspec.structs.replace(spec.branch, parent=deadly.fingerprint())
            )
            for spec in branches
        ]
        store = Store(tmp_path)
        result = run_fleet([deadly, *branches], store, num_workers=1)
        assert [record.status for record in result.records] == ["failed", "cut", "cut"]
        assert "its worker died 3 times (killed by SIGKILL)" in (result.records[0].reason or "")
        assert "its trunk trunk 1 failed" in (result.records[1].reason or "")

    def test_an_error_in_an_objective_is_recorded_and_the_others_go_on(
        self, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        broken, fine = make_spec("broken", objective=_ref("broken")), make_spec("fine")
        store = Store(tmp_path)
        result = run_fleet([broken, fine], store, num_workers=1)
        assert [record.status for record in result.records] == ["failed", "finished"]
        assert "ZeroDivisionError: on purpose" in (result.records[0].reason or "")
        assert "on purpose" in (store.run(broken).path / "error.txt").read_text()
        again = run_fleet([broken, fine], store, num_workers=1)  # what failed is tried again when asked again
        assert again.num_trained == 0
        assert len(store.run(broken).read_record().attempts) == 2

    def test_a_blown_up_trunk_cuts_its_later_branches(self, make_tree: MakeTree, tmp_path: Path) -> None:
        trunk, *branches = make_tree()
        wild = msgspec.structs.replace(
            trunk, optimizer=OptimizerSpec(peak_lr=1e30, grad_clip=None, weight_decay=0.0)
        )
        branches = [
            msgspec.structs.replace(
                spec, branch=msgspec.structs.replace(spec.branch, parent=wild.fingerprint())
            )
            for spec in branches
        ]
        result = run_fleet([wild, *branches], Store(tmp_path), num_workers=1)
        assert [record.status for record in result.records] == ["diverged", "cut", "cut"]
        assert "the loss was not finite at step" in (result.records[2].reason or "")

    def test_a_deadline_stops_at_states_to_go_on_from(self, make_spec: MakeSpec, tmp_path: Path) -> None:
        specs = [make_spec(f"run {seed}", 600, seed=seed) for seed in (1, 2, 3)]
        store, whole = Store(tmp_path / "cut"), Store(tmp_path / "whole")
        stop, seen = threading.Event(), []

        def stop_soon(event: FleetEvent) -> None:
            seen.append(event)
            if event.kind == "progress":
                stop.set()

        first = run_fleet(specs, store, num_workers=1, stop_event=stop, on_event=stop_soon)
        assert first.stopped == "interrupted"
        assert first.unfinished == ("run 1", "run 2", "run 3")
        assert seen[-1].kind == "stopped"
        second = run_fleet(specs[:1], store, num_workers=1, deadline_s=0.0)
        assert second.stopped == "deadline"
        last = run_fleet(specs, store, num_workers=1)
        assert last.stopped == "finished"
        run_fleet(specs, whole, num_workers=1)
        assert losses(store, specs) == losses(whole, specs)
        assert last.records[0].attempts[0].ended == "cut"
        assert last.records[0].flops_wasted == 0

    def test_a_damaged_trunk_state_is_made_again(self, make_tree: MakeTree, tmp_path: Path) -> None:
        specs = make_tree(40, (20, 40))
        store, whole = Store(tmp_path / "hurt"), Store(tmp_path / "whole")
        run_fleet(specs, whole, num_workers=1)
        run_fleet(specs[:1] + specs[2:], store, num_workers=1)
        trunk = store.run(specs[0])
        bad = states.folder_of(trunk.checkpoints, 20)
        bad.mkdir()
        (bad / "state.json").write_text("{}")
        result = run_fleet(specs, store, num_workers=1)
        assert [record.status for record in result.records] == ["finished"] * 3
        assert losses(store, specs) == losses(whole, specs)

    def test_no_room_for_states_stops_the_fleet(self, make_spec: MakeSpec, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="does not fit the disk quota"):
            run_fleet([make_spec()], Store(tmp_path), num_workers=1, disk_quota_bytes=100)
        result = run_fleet([make_spec()], Store(tmp_path), num_workers=1)
        assert result.records[0].status == "finished"

    def test_a_full_disk_stops_the_fleet_and_it_goes_on_later(
        self, make_spec: MakeSpec, tmp_path: Path
    ) -> None:
        spec, store = make_spec(num_steps=200, objective=_ref("full_once")), Store(tmp_path)
        with pytest.raises(StoreError, match="No space left on device; free some space and resume"):
            run_fleet([spec], store, num_workers=1)
        assert not store.run(spec).finished
        (store.run(spec).path / "there is room").touch()
        (record,) = run_fleet([spec], store, num_workers=1).records
        assert [attempt.ended for attempt in record.attempts] == ["failed", "finished"]

    def test_a_killed_main_process_leaves_a_fleet_that_goes_on(
        self, make_tree: MakeTree, tmp_path: Path
    ) -> None:
        from isoflop.records import encode

        specs = make_tree(1200, (600, 1200))
        store, whole = Store(tmp_path / "cut"), Store(tmp_path / "whole")
        run_fleet(specs, whole, num_workers=2)
        (tmp_path / "specs.jsonl").write_bytes(b"\n".join(encode(spec) for spec in specs))
        main = subprocess.Popen([sys.executable, "-c", MAIN, str(tmp_path / "specs.jsonl"), str(store.root)])
        until = time.monotonic() + 60
        while not store.run(specs[0]).read_metrics() and time.monotonic() < until:
            time.sleep(0.02)
        main.kill()
        main.wait()
        result = run_fleet(specs, store, num_workers=2)
        assert losses(store, specs) == losses(whole, specs)
        assert scores(store, specs) == scores(whole, specs)
        assert len(result.records[0].attempts) >= 2

    def test_workers_that_cannot_start_are_reported(
        self, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(StoreError, match="workers die at their start"):
            run_fleet([make_spec()], Store(tmp_path), num_workers=1)


MAIN = """
import sys
from isoflop.records import RunSpec, decode
from isoflop.store import Store
from isoflop.train.fleet import run_fleet
specs = [decode(line, RunSpec) for line in open(sys.argv[1], "rb")]
run_fleet(specs, Store(sys.argv[2]), num_workers=2, checkpoint_every_s=0.2)
"""


def _ref(name: str) -> FunctionRef:
    from isoflop.refs import function_ref

    return function_ref(f"tests.train.bad_objectives:{name}")


def _worker_writing(path: Path) -> int:
    """Process id of the worker that has this file open."""
    import psutil

    for child in psutil.Process().children():
        if str(path) in (file.path for file in child.open_files()):
            return child.pid
    raise AssertionError(f"no worker writes {path}")


@pytest.mark.slow
def test_a_crew_is_gone_when_it_is_left(tmp_path: Path) -> None:
    with Crew(1, tmp_path / "log") as crew:
        process = crew.workers[0].process
    assert process.poll() is not None
