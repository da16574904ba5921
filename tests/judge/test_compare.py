"""Two files in, a judged comparison out: kinds of evidence, correction, words, and sentences for misfits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop import records
from isoflop.judge import compare
from isoflop.judge.compare import Noise, Options, compare_files
from isoflop.judge.scores import ScoreError


def put(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def pair(tmp_path: Path):
    """Writes two JSON files and compares them."""

    def run(a: Any, b: Any, options: Options | None = None, ending: str = "json") -> dict[str, Any]:
        return compare_files(put(tmp_path / f"a.{ending}", a), put(tmp_path / f"b.{ending}", b), options)

    return run


def test_two_scores(pair):
    found = pair({"score": 0.634, "n": 14042}, {"score": 0.609, "n": 14042})
    assert {"difference", "ci95", "p", "minimum_detectable", "verdict"} <= set(found)
    assert found["difference"] == pytest.approx(-0.025)
    assert found["tasks"][0]["statistic"] == pytest.approx(-4.32, abs=0.005)
    assert found["verdict"] == "B is lower"
    assert found["ci95"][0] < -0.025 < found["ci95"][1] < 0
    # If a tenth of the items changed, paired items would show 0.75 points.
    assert found["tasks"][0]["if_paired"]["minimum_detectable"] == pytest.approx(0.0075, abs=5e-5)
    json.dumps(found, allow_nan=False)


def test_several_tasks_are_corrected_together(pair):
    numbers = {"mmlu": (0.634, 0.609, 14042), "arc": (0.514, 0.521, 1172), "borderline": (0.50, 0.537, 1500)}
    a, b = (
        {"metric": "acc", "tasks": {name: {"score": row[k], "n": row[2]} for name, row in numbers.items()}}
        for k in (0, 1)
    )
    found = pair(a, b)
    assert found["verdict"] == {"mmlu": "B is lower", "arc": "cannot tell", "borderline": "cannot tell"}
    assert found["p"]["borderline"] < 0.05  # alone it would have passed
    rows = {row["task"]: row for row in found["tasks"]}
    assert rows["mmlu"]["p_holm"] == pytest.approx(3 * rows["mmlu"]["p"])
    assert found["correction"] == "Holm"
    assert "lower on mmlu by 2.50 points" in found["sentence"]
    text = compare.render_text(found)
    assert text.startswith(found["sentence"])
    assert len([line for line in text.splitlines() if "cannot tell" in line and "acc" in line]) == 2


def test_items_are_paired_by_id_not_by_order(pair):
    a = "item,acc\n" + "".join(f"q{k},{int(k < 60)}\n" for k in range(100))
    b = "item,acc\n" + "".join(f"q{k},{int(10 <= k < 62)}\n" for k in reversed(range(100)))
    found = pair(a, b, ending="csv")
    row = found["tasks"][0]
    assert (row["only_a"], row["only_b"]) == (10, 2)
    assert row["difference"] == pytest.approx(-0.08)
    # exact binomial: 2 x (1 + 12 + 66) / 2^12
    assert found["p"] == pytest.approx(2 * 79 / 4096)
    assert row["bootstrap_ci95"][0] < -0.08 < row["bootstrap_ci95"][1]


def test_families_are_the_unit(pair):
    rng = np.random.default_rng(0)
    family = np.arange(200) // 10
    shift = rng.normal(0, 0.3, 20)[family]
    a = "item,score,family\n" + "".join(f"q{k},0.5,f{family[k]}\n" for k in range(200))
    b = "item,score,family\n" + "".join(f"q{k},{0.5 + shift[k]},f{family[k]}\n" for k in range(200))
    row = pair(a, b, ending="csv")["tasks"][0]
    assert row["num_families"] == 20
    assert row["df"] == 19
    assert row["design_effect"] == pytest.approx(10 * 20 / 19, rel=1e-6)  # whole families move together


def test_seeds_welch_paired_and_with_learned_noise(pair):
    a, b = (
        {"metric": "loss", "scores": [3.281, 3.283, 3.279]},
        {"metric": "loss", "scores": [3.276, 3.279, 3.275]},
    )
    plain = pair(a, b)
    paired = pair(a, b, Options(paired_seeds=True))
    known = pair(a, b, Options(noise=Noise(sd=0.00112, df=295)))
    assert plain["tasks"][0]["kind"] == "seeds"
    assert paired["p"] < plain["p"]
    assert known["tasks"][0]["df"] == 295
    assert known["verdict"] == "B is lower"
    assert known["tasks"][0]["higher_is_better"] is False


def test_worth_in_compute(pair):
    law = Options(loss_of_compute=lambda c: 1.7 + 10 * c**-0.1, compute=1e18, noise=Noise(sd=0.0001))
    loss = 1.7 + 10 * 1e18**-0.1
    better = 1.7 + 10 * (1.5e18) ** -0.1
    found = pair({"metric": "loss", "scores": [loss]}, {"metric": "loss", "scores": [better]}, law)
    row = found["tasks"][0]
    assert row["compute_factor"] == pytest.approx(1.5, rel=1e-6)
    assert row["compute_factor_ci95"][0] < 1.5 < row["compute_factor_ci95"][1]


def test_groups_stand_for_their_subtasks(tmp_path: Path):
    for side, score in (("a", 0.5), ("b", 0.9)):
        rows = {name: {"acc,none": score, "acc_stderr,none": 0.01} for name in ("mmlu", "mmlu_x", "mmlu_y")}
        data = {
            "results": rows,
            "groups": {"mmlu": rows["mmlu"]},
            "group_subtasks": {"mmlu": ["mmlu_x", "mmlu_y"]},
            "n-samples": {"mmlu_x": {"effective": 300}, "mmlu_y": {"effective": 200}},
        }
        put(tmp_path / f"{side}.json", data)
    found = compare_files(tmp_path / "a.json", tmp_path / "b.json")
    assert [row["task"] for row in found["tasks"]] == ["mmlu"]
    assert found["tasks"][0]["num_a"] == 500
    assert any("2 subtasks" in note for note in found["notes"])
    single = compare_files(tmp_path / "a.json", tmp_path / "b.json", Options(tasks=("mmlu_x", "mmlu_y")))
    assert [row["num_a"] for row in single["tasks"]] == [300, 200]


def test_nothing_is_dropped_in_silence(pair):
    a = {"metric": "acc", "tasks": {"x": {"score": 0.5, "n": 100}, "y": {"score": 0.5, "n": 100}}}
    b = {"metric": "acc", "tasks": {"x": {"score": 0.6, "n": 100}, "z": {"score": 0.5, "n": 100}}}
    found = pair(a, b)
    assert {item["what"] for item in found["exclusions"]} == {"task y", "task z"}
    items_a = "item,acc\nq1,1\nq2,0\nq3,1\nq4,1\n"
    items_b = "item,acc\nq1,1\nq2,1\nq3,1\nq5,1\n"
    common = pair(items_a, items_b, Options(common_items=True), ending="csv")
    assert common["tasks"][0]["num_a"] == 3
    assert {item["what"] for item in common["exclusions"]} == {"score: 1 items of A", "score: 1 items of B"}
    assert "left out: score: 1 items of A" in compare.render_text(common)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            {"score": 0.5, "n": 10, "metric": "acc"},
            {"score": 0.5, "n": 10, "metric": "f1"},
            "different metrics",
        ),
        (
            {"tasks": {"x": {"score": 0.5, "n": 9, "version": 1}}},
            {"tasks": {"x": {"score": 0.5, "n": 9, "version": 2}}},
            "task version 1 and B with 2",
        ),
        (
            {"tasks": {"x": {"score": 0.5, "n": 9, "num_fewshot": 0}}},
            {"tasks": {"x": {"score": 0.5, "n": 9, "num_fewshot": 5}}},
            "number of shots 0 and B with 5",
        ),
        ({"items": {"q1": 1}}, {"items": {"q1": 1, "q2": 0}}, "item sets differ"),
        ({"items": {"q1": 1}}, {"items": {"q2": 0}}, "nothing is left to pair"),
        (
            {"tasks": {"x": {"score": 0.5, "n": 9}}},
            {"tasks": {"y": {"score": 0.5, "n": 9}}},
            "no task in common",
        ),
        ({"score": 0.5}, {"score": 0.6}, "says nothing about noise"),
        ({"scores": [1.0, 2.0]}, {"score": 0.6, "n": 5}, "seeds and one score"),
        ({"scores": [1.0]}, {"scores": [2.0]}, "add seeds, or give the noise"),
    ],
)
def test_misfits_get_a_sentence(pair, a, b, message):
    with pytest.raises(ScoreError, match=message):
        pair(a, b)


def test_versions_can_be_ignored_on_demand_and_a_note_says_so(pair):
    a, b = ({"tasks": {"x": {"score": 0.5, "n": 9, "version": version}}} for version in (1, 2))
    found = pair(a, b, Options(ignore_versions=True))
    assert any("because you asked" in note for note in found["notes"])


def test_content_that_changed_under_the_same_id_is_refused(tmp_path: Path):
    for side, mark in (("a", "h1"), ("b", "h2")):
        rows = [
            {"doc_id": k, "doc": {}, "filtered_resps": [], "metrics": ["acc"], "acc": 1.0, "doc_hash": mark}
            for k in range(3)
        ]
        put(
            tmp_path / f"samples_{side}.jsonl",
            "".join(json.dumps({**row, "task_name": "t"}) + "\n" for row in rows),
        )
    with pytest.raises(ScoreError, match="3 items share an id but not their content"):
        compare_files(tmp_path / "samples_a.jsonl", tmp_path / "samples_b.jsonl")


def test_undefined_is_said(pair):
    found = pair({"scores": [1.0, 1.0]}, {"scores": [2.0, 2.0]})
    assert found["p"] is None
    assert found["ci95"] is None
    assert found["verdict"] == "cannot tell"
    assert found["tasks"][0]["reason"] == "no spread between the seeds"
    assert found["sentence"].startswith("Cannot tell: no spread")
    assert "undefined" in compare.render_text(found)


def test_as_a_record(pair):
    found = pair({"score": 0.634, "n": 14042}, {"score": 0.609, "n": 14042})
    verdict = compare.comparison_verdict(found)
    again = records.decode(records.encode(verdict), records.Verdict)
    assert again.outcome == "supported"
    assert again.summary["verdict"] == "B is lower"
    table = again.tables[0]
    names = [column.name for column in table.columns]
    assert {"label", "value", "lo", "hi", "reason"} <= set(names)  # what the interval plot reads
    assert table.rows[0][names.index("value")] == pytest.approx(-0.025)
    even = compare.comparison_verdict(pair({"score": 0.6, "n": 100}, {"score": 0.61, "n": 100}))
    assert even.outcome == "cannot tell"
    assert even.settle is not None
    assert even.statements[0].settle is not None
    assert math.isclose(even.statements[0].estimate.value, 0.01)
