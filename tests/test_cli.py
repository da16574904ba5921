"""The grammar of the command line, its speed, and its behaviour on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isoflop.cli import main
from isoflop.records import (
    Budget,
    DecisionRule,
    FlopCount,
    Plan,
    encode,
)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


VERBS = ("run", "plan", "train", "measure", "judge", "publish", "studies", "status", "ledger", "data")


def test_help_lists_every_verb() -> None:
    text = call("--help").output
    for name in VERBS:
        assert f"\n  {name} " in text, f"{name} is missing from --help"


@pytest.mark.slow
def test_help_answers_at_once() -> None:
    """0.3 s is the promise on an idle machine. The best of five starts, in CPU time, against a busy one."""
    import resource

    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "isoflop", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 0.3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "flatnes", "--json"), "did you mean flatness"),
        (("run", "no/such/file.py", "--json"), "no file"),
        (("judge", "{tmp}", "--json"), "holds no plan.json"),
        (("status", "{tmp}", "--json"), "holds no plan.json"),
        (("run", "flatness", "--resume", "--out", "{tmp}", "--json"), "nothing to resume"),
        (
            ("run", "flatness", "--plan", "{tmp}/plan.json", "--seeds", "2", "--json"),
            "--plan fixes budget and seeds",
        ),
        (("plan", "study", "flatness", "--budget", "0 FLOPs", "--json"), "0 FLOPs"),
        (("plan", "study", "flatness", "--budget", "soon", "--json"), "soon"),
    ],
)
def test_bad_input_is_one_line_and_one_object(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    result = call(*(part.replace("{tmp}", str(tmp_path)) for part in arguments))
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert answer["schema"] == "isoflop.error/1"
    assert says in answer["error"]
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"schema": "isoflop.Plan/1", "study": ')
    result = call("status", str(tmp_path), "--json")
    assert result.exit_code == 2
    assert "plan.json: not valid JSON" in json.loads(result.stdout)["error"]


def test_a_plan_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"schema": "isoflop.Plan/99"}')
    assert "newer isoflop" in json.loads(call("status", str(tmp_path), "--json").stdout)["error"]


def test_studies_are_listed_with_question_and_cost() -> None:
    rows = {row["name"]: row for row in json.loads(call("studies", "--json").stdout)["studies"]}
    assert rows["flatness"]["question"].endswith("?")
    assert rows["flatness"]["cost"]


def test_a_study_of_your_own_is_a_path(tmp_path: Path) -> None:
    """A study that trains nothing goes straight to its verdict and report."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from isoflop.records import Evidence, Verdict\n"
        "from isoflop.studies.study import Study\n"
        "def judge(evidence: Evidence) -> Verdict:\n"
        "    return Verdict(study='mine', question='Is it?', outcome='supported', sentence='It is.')\n"
        "STUDY = Study(name='mine', claims=(), question='Is it?', prediction='', cost='nothing', judge=judge)\n"
    )
    answer = json.loads(call("run", str(path), "--out", str(tmp_path / "out"), "--json").stdout)
    assert answer["verdict"] == "supported"
    assert "It is." in Path(answer["report"]).read_text()


def test_a_folder_with_another_study_is_refused(tmp_path: Path) -> None:
    plan = Plan(
        study="other",
        question="?",
        budget=Budget.parse("1e9 FLOPs"),
        planned_flops=FlopCount(flops=1e9, convention="matmul-causal"),
        runs=(),
        rule=DecisionRule(text=""),
        seeds=(0,),
    )
    (tmp_path / "plan.json").write_bytes(encode(plan))
    result = call("run", "flatness", "--out", str(tmp_path), "--json")
    assert "holds a plan for 'other'" in json.loads(result.stdout)["error"]


def answer_of(*arguments: str) -> dict[str, object]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_a_budget_alone_means_a_size() -> None:
    answer = answer_of("plan", "--budget", "3.8e25", "--serve", "1e14")
    assert answer["schema"] == "isoflop.plan.size/1"
    promised = {"N_opt", "D_opt", "N_opt_ci95", "basin_1pct", "smallest_within", "lifetime", "sensitivity"}
    assert promised <= set(answer)


def test_points_are_a_curve_and_runs_are_a_law(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("x,y\n1,1\n2,1.9\n4,3.1\n8,4.0\n16,5.2\n32,5.9\n")
    answer = answer_of("fit", str(points), "--predict", "64", "--reach", "8")
    assert {"families", "decided", "cannot_decide", "points_needed", "predict", "reach"} <= set(answer)
    runs = tmp_path / "runs.csv"
    rows = [(n, d) for n in (1e7, 1e8, 1e9, 1e10) for d in (1e9, 1e10, 1e11)]
    lines = [f"{n},{d},{1.8 + 480 / n**0.35 + 2100 / d**0.37}" for n, d in rows]
    runs.write_text("N,D,loss\n" + "\n".join(lines) + "\n")
    law = answer_of("fit", str(runs), "--bootstrap", "50", "--no-sensitivity", "--budget", "1e23")
    promised = {"E", "A", "B", "alpha", "beta", "objective", "rows_used", "rows_excluded", "certified_share"}
    assert promised | {"N_opt", "D_opt", "loss_opt", "N_opt_ci95"} <= set(law)
    assert law["alpha"] == pytest.approx(0.35, rel=1e-3)  # noiseless: the planted exponent comes back


def test_an_ambiguous_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "what.csv"
    path.write_text("a,b,c\n1,2,3\n")
    result = call("fit", str(path), "--json")
    assert result.exit_code == 2
    assert "say --as law or --as curve" in json.loads(result.stdout)["error"]


def test_two_scores_are_compared_and_reported(tmp_path: Path) -> None:
    for name, score in (("a", 0.634), ("b", 0.609)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"score": score, "n": 14042, "metric": "acc"}))
    out = tmp_path / "out"
    answer = answer_of("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(out))
    assert {"difference", "ci95", "p", "minimum_detectable", "verdict"} <= set(answer)
    assert (out / "report.html").exists()


def test_power_needs_an_effect_or_seeds() -> None:
    assert answer_of("power", "--sd", "0.0011", "--noise-df", "295", "--effect", "0.0016")["seeds"] == 8
    assert "effect" in json.loads(call("power", "--sd", "1", "--json").stdout)["error"]
