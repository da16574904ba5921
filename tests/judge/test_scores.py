"""Score files are read as people have them; what cannot be read gets a sentence with place and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isoflop.judge import scores

DATE = "2026-01-02T03-04-05.678901"


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def results(**changes: Any) -> dict[str, Any]:
    """What lm-eval writes for two tasks and a group of two subtasks."""
    whole: dict[str, Any] = {
        "results": {
            "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.05, "acc_norm,none": 0.6,
                    "acc_norm_stderr,none": 0.05},
            "wiki": {"alias": "wiki", "word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A"},
            "mmlu": {"alias": "mmlu", "acc,none": 0.5, "acc_stderr,none": 0.1},
            "mmlu_a": {"alias": " - a", "acc,none": 0.5, "acc_stderr,none": 0.1},
            "mmlu_b": {"alias": " - b", "acc,none": 0.5, "acc_stderr,none": 0.1},
        },
        "groups": {"mmlu": {"alias": "mmlu", "acc,none": 0.5, "acc_stderr,none": 0.1}},
        "group_subtasks": {"mmlu": ["mmlu_a", "mmlu_b"], "arc": []},
        "versions": {"arc": 1.0, "wiki": 2, "mmlu": 1, "mmlu_a": 1, "mmlu_b": 1},
        "n-shot": {"arc": 0, "wiki": 0, "mmlu_a": 5, "mmlu_b": 5},
        "higher_is_better": {"arc": {"acc": True, "acc_norm": True}, "wiki": {"word_perplexity": False}},
        "n-samples": {name: {"original": 99, "effective": n} for name, n in
                      {"arc": 4, "wiki": 7, "mmlu_a": 2, "mmlu_b": 2}.items()},
        "config": {"model": "hf", "model_args": "pretrained=tiny"},
        "model_name": "tiny",
    }  # fmt: skip
    return {**whole, **changes}


def sample(doc_id: int, acc: float, **changes: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id, "doc": {"subject": f"s{doc_id % 2}"}, "target": "0", "arguments": {}, "resps": [],
        "filtered_resps": [], "filter": "none", "metrics": ["acc"], "doc_hash": f"d{doc_id}",
        "prompt_hash": f"p{doc_id}", "target_hash": "t", "acc": acc, **changes,
    }  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_lm_eval_results_as_they_are(tmp_path: Path):
    found = scores.read_scores(write(tmp_path / f"results_{DATE}.json", results()))
    by_name = {(task.task, task.metric): task for task in found.tasks}
    assert set(by_name) == {
        ("arc", "acc"), ("arc", "acc_norm"), ("wiki", "word_perplexity"), ("mmlu", "acc"), ("mmlu_a", "acc"),
        ("mmlu_b", "acc"),
    }  # fmt: skip
    arc = by_name["arc", "acc"]
    assert (arc.value, arc.num, arc.version, arc.num_shots, arc.standard_error) == (0.5, 4, "1.0", "0", 0.05)
    wiki = by_name["wiki", "word_perplexity"]
    assert wiki.higher_is_better is False
    assert wiki.standard_error is None
    assert by_name["mmlu", "acc"].num == 4
    assert by_name["mmlu", "acc"].parts == ("mmlu_a", "mmlu_b")
    assert found.model == "tiny"


def test_item_logs_beside_the_results_are_taken_along(tmp_path: Path):
    place = write(tmp_path / "model" / f"results_{DATE}.json", results())
    write(tmp_path / "model" / f"samples_mmlu_a_{DATE}.jsonl", lines([sample(0, 1.0), sample(1, 0.0)]))
    write(tmp_path / "model" / f"samples_mmlu_b_{DATE}.jsonl", lines([sample(0, 1.0), sample(1, 0.0)]))
    for path in (place, tmp_path, tmp_path / "model"):
        by_name = {(task.task, task.metric): task for task in scores.read_scores(path).tasks}
        assert set(by_name["mmlu", "acc"].items or ()) == {"mmlu_a/0", "mmlu_a/1", "mmlu_b/0", "mmlu_b/1"}
        assert by_name["arc", "acc"].items is None
    first = {task.task: task for task in scores.read_scores(place, family="subject").tasks}["mmlu_a"]
    assert {item.family for item in (first.items or {}).values()} == {"s0", "s1"}


def test_a_lone_item_log_names_its_task(tmp_path: Path):
    rows = [sample(k, float(k % 2), acc_norm=1.0, metrics=["acc", "acc_norm"]) for k in range(4)]
    found = scores.read_scores(write(tmp_path / f"samples_arc_easy_{DATE}.jsonl", lines(rows)))
    assert [(task.task, task.metric, task.num, task.value) for task in found.tasks] == [
        ("arc_easy", "acc", 4, 0.5), ("arc_easy", "acc_norm", 4, 1.0),
    ]  # fmt: skip


def test_several_answer_filters_stay_apart(tmp_path: Path):
    rows = [
        sample(k, 0.0, filter=name, metrics=["exact_match"], exact_match=float(name == "flexible"))
        for k in range(2)
        for name in ("strict", "flexible")
    ]
    found = scores.read_scores(write(tmp_path / "samples_gsm.jsonl", lines(rows)))
    assert [(task.metric, task.value) for task in found.tasks] == [
        ("exact_match,strict", 0.0), ("exact_match,flexible", 1.0),
    ]  # fmt: skip


def test_the_number_of_items_is_worked_out_from_an_old_stderr(tmp_path: Path):
    # sqrt(0.25 x 0.75 / 399) for 400 items
    old = {"results": {"arc": {"acc": 0.25, "acc_stderr": (0.1875 / 399) ** 0.5}}, "versions": {"arc": 0}}
    found = scores.read_scores(write(tmp_path / "old.json", old))
    assert found.tasks[0].num == 400
    assert "worked out" in found.notes[0]


def test_the_number_of_items_may_stand_in_the_row(tmp_path: Path):
    row = {"name": "arc", "alias": "arc", "sample_len": 250, "acc,none": 0.25, "acc_stderr,none": 0.03}
    found = scores.read_scores(write(tmp_path / "new.json", {"results": {"arc": row}}))
    assert [(task.metric, task.num) for task in found.tasks] == [("acc", 250)]


def test_the_newest_result_of_a_task_counts(tmp_path: Path):
    write(
        tmp_path / "results_2026-01-01.json", {"results": {"arc": {"acc,none": 0.2}}, "n-samples": {"arc": 5}}
    )
    write(
        tmp_path / "results_2026-02-01.json", {"results": {"arc": {"acc,none": 0.4}}, "n-samples": {"arc": 5}}
    )
    found = scores.read_scores(tmp_path)
    assert [task.value for task in found.tasks] == [0.4]
    assert "newest counts" in found.notes[0]


def test_plain_json_in_its_forms(tmp_path: Path):
    one = scores.read_scores(
        write(tmp_path / "a.json", {"score": 63.4, "n": 14042, "unit": "percent"})
    ).tasks[0]
    assert (one.value, one.num) == (pytest.approx(0.634), 14042)
    seeds = scores.read_scores(
        write(tmp_path / "b.json", {"scores": [3.281, 3.284], "metric": "loss"})
    ).tasks[0]
    assert seeds.seeds == {"0": 3.281, "1": 3.284}
    assert seeds.higher_is_better is False
    several = {"metric": "acc", "tasks": {"x": {"score": 0.5, "n": 10}, "y": {"items": {"q1": 1, "q2": 0}}}}
    x, y = scores.read_scores(write(tmp_path / "c.json", several)).tasks
    assert (x.task, x.metric, x.num) == ("x", "acc", 10)
    assert (y.value, y.num) == (0.5, 2)


def test_tables_of_items_and_of_seeds(tmp_path: Path):
    table = "item,acc,family\nq1,1,p1\nq2,0,p1\nq3,true,p2\n"
    items = scores.read_scores(write(tmp_path / "items.csv", table)).tasks[0]
    assert (items.metric, items.num, items.value) == ("acc", 3, pytest.approx(2 / 3))
    assert {key: item.family for key, item in (items.items or {}).items()} == {
        "q1": "p1",
        "q2": "p1",
        "q3": "p2",
    }
    seeds = scores.read_scores(write(tmp_path / "seeds.csv", "seed,loss\n1,3.28\n2,3.29\n")).tasks[0]
    assert seeds.seeds == {"1": 3.28, "2": 3.29}
    rows = [{"item": f"q{k}", "score": 1, "task": task, "seed": 0} for task in ("x", "y") for k in range(2)]
    found = scores.read_scores(write(tmp_path / "items.jsonl", lines(rows)))
    assert [(task.task, task.num) for task in found.tasks] == [("x", 2), ("y", 2)]
    crossed = "item,seed,score\n" + "".join(f"q{k},{seed},{k * seed}\n" for k in range(3) for seed in (1, 2))
    means = scores.read_scores(write(tmp_path / "crossed.csv", crossed)).tasks[0]
    assert means.seeds == {"1": 1.0, "2": 2.0}  # the seed is the unit, its items are not independent of it


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "is empty"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", [1, 2], "expected a JSON object"),
        ("a.json", {"accuracy": 0.5}, 'no "score"'),
        ("a.json", {"score": 63.4, "n": 14042}, "divide percentages by 100"),
        ("a.json", {"score": 63.4, "metric": "acc", "n": 10}, "63.4 but is called acc"),
        ("a.json", {"score": 0.5, "n": 0}, "whole number above 0"),
        ("a.json", {"score": "high", "n": 10}, "not a number"),
        ("a.json", '{"score": NaN, "n": 10}', "nan"),
        ("a.json", {"scores": []}, "nothing to compare"),
        ("a.json", {"scores": [1.0, 2.0], "seeds": [7, 7]}, "seed 7 is there twice"),
        ("a.json", {"scores": [1.0, 2.0], "seeds": [7]}, "one label per score"),
        ("a.json", {"score": 5, "unit": "bananas"}, "unknown unit 'bananas'"),
        ("a.json", {"tasks": {}}, '"tasks" is empty'),
        ("a.json", {"results": {}}, "holds no scores"),
        ("a.csv", "item,acc\n", "no rows"),
        ("a.csv", "item,acc\nq1,1\nq1,0\n", "item q1 is there twice"),
        ("a.csv", "item,acc\nq1,2\n", "item q1 is 2 but is called acc"),
        ("a.csv", "item,acc\nq1\n", "line 2"),
        ("a.csv", "item,acc\nq1,\n", "not a number"),
        ("a.csv", "acc\n1\n", "cannot be matched"),
        ("a.csv", "item,answer\nq1,B\n", "no column of scores"),
        ("a.jsonl", '{"item": 1, "score": 1}\n{"item": 2, "sc', "line 2: not valid JSON"),
        ("a.txt", "0.5", "unknown kind of file"),
        ("samples_x.jsonl", lines([sample(3, 1.0), sample(3, 1.0)]), "item 3 is there twice"),
        ("samples_x.jsonl", lines([sample(3, 1.0, metrics=["ppl"], ppl=[-3.0, 2])]), "no metric with one number"),
    ],
)  # fmt: skip
def test_bad_files_get_a_sentence(tmp_path: Path, name: str, content: Any, message: str):
    path = write(tmp_path / name, content)
    with pytest.raises(scores.ScoreError, match=message) as caught:
        scores.read_scores(path)
    assert str(path) in str(caught.value)


def test_missing_places_and_families_are_named(tmp_path: Path):
    with pytest.raises(scores.ScoreError, match="no file"):
        scores.read_scores(tmp_path / "nowhere.json")
    with pytest.raises(scores.ScoreError, match=r"no results_\*\.json"):
        scores.read_scores(tmp_path)
    table = write(tmp_path / "a.csv", "item,acc\nq1,1\n")
    with pytest.raises(scores.ScoreError, match="no column 'passage'; there are acc, item"):
        scores.read_scores(table, family="passage")
    log = write(tmp_path / "samples_x.jsonl", lines([sample(0, 1.0)]))
    with pytest.raises(scores.ScoreError, match="no field 'passage'; there are subject"):
        scores.read_scores(log, family="passage")


def test_directions_follow_from_names():
    assert scores.higher_is_better("acc_norm") is True
    assert scores.higher_is_better("heldout_nats") is False
    assert scores.higher_is_better("elo") is None
    assert scores.is_accuracy("exact_match,strict-match")
    assert not scores.is_accuracy("accumulated_reward")
