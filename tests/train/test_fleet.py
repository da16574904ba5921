"""Many runs: order, branches, kills, deadlines; finished runs are never done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.records import RunSpec
from isoflop.store import Store
from isoflop.train.fleet import FleetEvent, run_fleet

MakeTree = Callable[..., list[RunSpec]]


@pytest.mark.slow
@pytest.mark.usefixtures("use_cache")
def test_a_tree_is_trained_once(make_tree: MakeTree, tmp_path: Path) -> None:
    specs = make_tree()
    events: list[FleetEvent] = []
    store = Store(tmp_path)
    result = run_fleet(specs, store, num_workers=2, on_event=events.append)
    assert result.stopped == "finished"
    assert result.num_trained == 3
    assert [record.status for record in result.records] == ["finished"] * 3
    for spec in specs[1:]:
        assert store.run(spec).read_measurements()[0].loss.value is not None
    again = run_fleet(specs, store, num_workers=2, on_event=events.append)
    assert again.num_trained == 0
    assert {event.kind for event in events[-3:]} == {"reused"}
