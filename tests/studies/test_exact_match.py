"""The study whole, in miniature: planned, trained, scored on the way, judged and published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from isoflop import verbs
from isoflop.judge import exact_match as judging
from isoflop.store import Store
from isoflop.studies import claims, exact_match


def test_the_rule_is_fixed_beforehand_and_names_its_jump() -> None:
    assert "tenth of the range of log FLOPs" in exact_match.RULE.text
    assert set(exact_match.STUDY.claims) <= {claim.id for claim in claims.CLAIMS}
    assert exact_match.RULE.parameters["least_jumps"] == judging.LEAST_JUMPS
    assert exact_match.STUDY.plan is not None


@pytest.mark.slow
def test_the_loop_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "TOKENS", (6,))
    monkeypatch.setattr(judging, "NUM_REPLICATES", 4)
    tiny = dataclasses.replace(
        exact_match.recipe(),
        nets=tuple(exact_match.net(dim) for dim in (4, 6, 8, 10, 12, 14, 16)),
        lengths=(24,),
        seeds=(2,),
        num_windows=20,
        num_groups=5,
        num_scores=8,
    )
    monkeypatch.setattr(exact_match, "recipe", lambda: tiny)
    done = verbs.run_study("exact_match", budget="1e12 FLOPs", out=tmp_path / "out", workers=1)
    assert done.num_trained == 14
    assert done.report.is_file()
    # Two dozen steps teach nothing, so no jump can be found, and the verdict must say so.
    assert done.verdict.outcome == "cannot tell"
    assert done.verdict.summary["jumps"]["exact match"]["yes"] == 0
    store = Store(tmp_path / "out")
    steps = [[m.step for m in folder.read_measurements()] for folder in store.run_folders()]
    assert steps == [[3, 6, 9, 12, 15, 18, 21, 24]] * 14
    verbs.measure(store.root, again=True)  # from the final weights alone
    (again,) = next(iter(store.run_folders())).read_measurements()
    assert again.step == 24
    assert len(again.scores) == 4 * 3 * 6
    figures = {figure.name for figure in done.verdict.figures}
    assert figures == {"gallery_sizes", "gallery_training_seed_0", "gallery_training_seed_1"}
