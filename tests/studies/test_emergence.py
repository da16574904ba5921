"""Planted jumps and planted straight lines are told apart; the public tables are read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoflop import records
from isoflop.judge import jumps
from isoflop.judge.curves import curve_answer
from isoflop.laws import curves
from isoflop.records import Evidence
from isoflop.studies import claims, emergence

pytestmark = pytest.mark.slow

SIZES = np.geomspace(2e6, 1.4e11, 12)


def write_bigbench(folder: Path, scores: dict[str, np.ndarray], num_items: int = 2000) -> None:
    folder.mkdir(exist_ok=True)
    lines = ["task,params_non_embedding,score,n_examples,random_baseline,cited_emergent"]
    for task, values in scores.items():
        lines += [
            f"{task},{size:.0f},{v:.6f},{num_items},0.25,True" for size, v in zip(SIZES, values, strict=True)
        ]
    (folder / "mc_scores.csv").write_text("\n".join(lines))


def write_observed(folder: Path, per_token: np.ndarray, flops: np.ndarray) -> None:
    """Exact match of answers of 6 and 4 tokens, from a per-token rate that is a straight line in log FLOPs."""
    folder.mkdir(exist_ok=True)
    names = [f"model {i}" for i in range(len(flops))]
    bench = ["Model,FLOPs (1E21)"] + [f"{n},{f / 1e21}" for n, f in zip(names, flops, strict=True)]
    (folder / "base_llm_benchmark_eval.csv").write_text("\n".join([*bench, "no budget,"]))
    rows = ["Model," + ",".join(emergence.OBSERVED_TASKS)]
    rows += [f"{n},{p**6},{p**4},{p**4}" for n, p in zip(names, per_token, strict=True)]
    (folder / "emergent_capability_eval.csv").write_text(
        "\n".join([*rows, "no budget,0.1,0.1,0.1", "model 0,,,"])
    )


def test_a_planted_jump_and_a_planted_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    line = 0.25 + 0.03 * np.log(SIZES / SIZES[0]) + 0.01 * rng.normal(size=12)
    jump = curves.logistic(SIZES, 0.25, 0.8, 1e9, 4.0) + 0.01 * rng.normal(size=12)
    write_bigbench(tmp_path / "bb", {"line": line, "jump": jump})
    verdict = emergence.judge(Evidence(data={"bigbench-scores": str(tmp_path / "bb")}))
    again = records.decode(records.encode(verdict), records.Verdict)
    (table,) = (table for table in again.tables if table.name == "tasks")
    column = [c.name for c in table.columns].index("sudden")
    assert {row[0]: row[column] for row in table.rows} == {"line": "no", "jump": "yes"}
    assert again.summary["jump_cited"] == {"yes": 1, "no": 1, "cannot tell": 0}
    assert set(again.claims) <= {claim.id for claim in claims.CLAIMS}
    names = {t.name for t in again.tables}
    assert all(set(figure.tables) <= names for figure in again.figures)
    assert all(len(row) == len(t.columns) for t in again.tables for row in t.rows)
    # The scores are not ours to pass on: no table holds one of them, and no drawing a point.
    given = {float(f"{value:.6f}") for value in (*line, *jump)}
    cells = [cell for t in again.tables for row in t.rows for cell in row if isinstance(cell, float)]
    assert not given & set(cells)
    panels = [t for t in again.tables if t.name in ("cited", "others", "metrics")]
    assert panels
    assert {row[-1] for t in panels for row in t.rows} == {"line", "thin", "band"}


def test_points_are_drawn_at_home_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = curve_answer(SIZES, np.linspace(0.2, 0.6, 12), families=("linear", "log"), num_replicates=4)
    item = jumps.Judged("task", "grade", answer, cited=True)
    for asked, roles in (("0", {"line"}), ("1", {"line", "points"})):
        monkeypatch.setenv(emergence.SHOW_POINTS, asked)
        table = emergence._cited_panels([item])
        assert {row[-1] for row in table.rows} - {"thin", "band"} == roles
        assert ("not ours to copy" in emergence._cited_figure([item]).caption) == (asked == "0")


@pytest.mark.slow
def test_exact_match_bends_a_line_that_the_per_token_rate_straightens(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    flops = np.geomspace(1e20, 1e25, 30)
    per_token = np.clip(0.1 + 0.16 * np.log10(flops / 1e20) + 0.01 * rng.normal(size=30), 0.001, 0.999)
    write_observed(tmp_path / "obs", per_token, flops)
    found, left_out = emergence.read_observed(tmp_path / "obs")
    points = found["word_unscrambling_2_exact_match"]
    assert len(points) == 30
    assert {e.reason for e in left_out} == {"its training FLOPs are not known", "no score"}
    raw = emergence.judge_observed("word", points, 1.0)
    smooth = emergence.judge_observed("word", points, 6.0)
    assert raw.steepest > 2 * smooth.steepest
    assert smooth.answer["families"][0]["name"] in ("log", "power_offset")
    assert smooth.state("sudden") == "no"


def test_missing_data_is_said(tmp_path: Path) -> None:
    verdict = emergence.STUDY.judge(Evidence())
    assert verdict.outcome == "cannot tell"
    assert verdict.settle
    with pytest.raises(ValueError, match="no file"):
        emergence.read_bigbench(tmp_path)
    (tmp_path / "mc_scores.csv").write_text("task,score\na,1\n")
    with pytest.raises(ValueError, match="lacks the columns params_non_embedding"):
        emergence.read_bigbench(tmp_path)


@pytest.mark.slow
def test_public_tables(shared_data: Path) -> None:
    folder = shared_data / "bigbench-scores"
    if not folder.is_dir():
        pytest.skip("no folder bigbench-scores")
    tasks = emergence.read_bigbench(folder)
    assert len(tasks) == 45
    assert {len(task.sizes) for task in tasks} == {12}
    cited = [emergence.judge_task(task) for task in tasks if task.cited]
    assert len(cited) == 9
    found = jumps.counts(cited)
    assert found["yes"] == 0
    for item in cited:
        assert sum(row["weight"] for row in item.answer["families"]) == pytest.approx(1.0)
        assert item.answer["cannot_decide"]
