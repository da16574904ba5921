"""The published numbers of the recognition experiment, and a planted memory for those who lack the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoflop import records
from isoflop.records import Evidence, Verdict
from isoflop.studies import claims, recognition_memory
from isoflop.studies.recognition_memory import CONDITIONS, NAMES, Memory, first_reaching, read


def plant(folder: Path, *, swapped: bool = True) -> None:
    """Losses with a large spread between images and a small trace that grows with exposures."""
    rng = np.random.default_rng(0)
    arrays = {}
    for init in NAMES:
        gain = 0.0 if init == "tabularasa" else 0.02
        for condition in CONDITIONS:
            item = rng.normal(size=(2, 100))
            for version in (1, 2):
                studied = 0 if version == 1 or not swapped else 1
                base = item if swapped or version == 1 else rng.normal(size=(2, 100))
                for seed in (0, 1):
                    noise = 0.002 * rng.normal(size=(2, 30, 100))
                    trace = gain * np.arange(1, 31)[:, None] ** 2
                    arrays[f"{condition}|{init}|{version}|{seed}|seen"] = base[studied] + noise[0] - trace
                    arrays[f"{condition}|{init}|{version}|{seed}|unseen"] = base[1 - studied] + noise[1]
    np.savez(folder / "brady_trial_losses.npz", **arrays)
    (folder / "human_accuracy.csv").write_text(
        "study,condition,human_accuracy_pct,human_se_pct\n"
        + "".join(f"Brady et al. 2008,{c},90,1.5\n" for c in CONDITIONS)
    )
    (folder / "noise_images_accuracy.csv").write_text("model_init,exposures,accuracy\nimagenet,10,0.6\n")
    (folder / "study_losses.csv").write_text(
        "model_init,exposures,study_nll_per_pixel\nimagenet,1,0.6\nimagenet,10,0.45\n"
    )


def check_whole(verdict: Verdict) -> Verdict:
    again = records.decode(records.encode(verdict), records.Verdict)
    tables = {table.name for table in again.tables}
    assert all(set(figure.tables) <= tables for figure in again.figures)
    assert all(len(row) == len(table.columns) for table in again.tables for row in table.rows)
    assert set(again.claims) <= {claim.id for claim in claims.CLAIMS}
    return again


def test_a_planted_trace_is_found_behind_a_choice_at_chance(tmp_path: Path) -> None:
    plant(tmp_path)
    verdict = check_whole(recognition_memory.judge(Evidence(data={"recognition-memory": str(tmp_path)})))
    summary = verdict.summary
    # Items differ by sqrt(2), the trace at one exposure is 0.02: the choice moves by about 0.02 / 3.5.
    assert summary["choice_at_1"]["imagenet/novel"] == pytest.approx(0.5, abs=0.06)
    assert summary["trace_at_1"]["imagenet/novel"] == 1.0  # the trace is ten times the noise
    # Nothing planted: 200 coins of which those of one pair share nothing, sd 0.035.
    assert summary["trace_at_1"]["tabularasa/novel"] == pytest.approx(0.5, abs=0.12)
    assert summary["exposures_to_human"]["tabularasa/novel"] is None
    assert verdict.statements[2].outcome == "contradicted"
    # Curves are distances to people's accuracy (planted at 90 %), which itself is passed on nowhere.
    (novel,) = (table for table in verdict.tables if table.name == "novel")
    first = next(row for row in novel.rows if row[0] == NAMES["imagenet"])
    assert first[2] == pytest.approx(100 * (summary["choice_at_1"]["imagenet/novel"] - 0.9))
    assert {row[2] for row in novel.rows if row[0] == "people after one"} == {0.0}
    assert not [c for t in verdict.tables for row in t.rows for c in row if c in (0.9, 90.0, 0.015, 1.5)]


def test_roles_that_are_not_swapped_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, swapped=False)
    with pytest.raises(ValueError, match="do not swap roles"):
        read(tmp_path)


def test_missing_data_is_said(tmp_path: Path) -> None:
    verdict = check_whole(recognition_memory.STUDY.judge(Evidence()))
    assert verdict.outcome == "cannot tell"
    assert verdict.settle is not None
    with pytest.raises(ValueError, match=r"holds no brady_trial_losses\.npz"):
        read(tmp_path)


def test_first_reaching() -> None:
    assert first_reaching(np.array([0.5, 0.8, 0.7, 0.9]), 0.8) == 2
    assert first_reaching(np.array([0.5, 0.6]), 0.8) is None


def test_balancing_removes_what_makes_an_item_hard() -> None:
    item = np.array([[0.0, 5.0], [3.0, 0.0]])  # losses of members A and B of two pairs
    seen = np.stack([item[0] - 1, item[1] - 1])[:, None, None, :]
    unseen = np.stack([item[1], item[0]])[:, None, None, :]
    memory = Memory("imagenet", "novel", seen, unseen, 0.9, 0.01)
    np.testing.assert_allclose(memory.traces, [[[2.0, 2.0]]])
    np.testing.assert_allclose(memory.accuracy, [0.5])


def test_published_numbers(shared_data: Path) -> None:
    folder = shared_data / "recognition-memory"
    if not folder.is_dir():
        pytest.skip("no folder recognition-memory")
    verdict = check_whole(recognition_memory.judge(Evidence(data={"recognition-memory": str(folder)})))
    found = verdict.summary
    for init, expected in {"imagenet": (14, 9, 8), "saycam": (13, 9, 8), "tabularasa": (76, 59, 56)}.items():
        assert tuple(found["exposures_to_human"][f"{init}/{c}"] for c in CONDITIONS) == expected
    for key, once, ten in (("novel", 0.508, 0.820), ("exemplar", 0.520, 0.938), ("state", 0.528, 0.952)):
        # reference figures are rounded to a tenth of a percent
        assert found["choice_at_1"][f"imagenet/{key}"] == pytest.approx(once, abs=6e-4)
        assert found["choice_at_10"][f"imagenet/{key}"] == pytest.approx(ten, abs=6e-4)
    noise = found["noise_images_at_10"]
    assert [round(100 * noise[name]) for name in ("imagenet", "say", "tabula_rasa")] == [61, 72, 51]
    assert found["study_loss"]["1"]["imagenet"] == pytest.approx(0.609, abs=6e-4)
    assert found["study_loss"]["10"]["imagenet"] == pytest.approx(0.450, abs=6e-4)
    assert min(v for k, v in found["trace_at_1"].items() if not k.startswith("tabularasa")) > 0.95
    assert [s.outcome for s in verdict.statements] == [
        "supported", "contradicted", "contradicted", "supported", "cannot tell",
    ]  # fmt: skip
