"""From a user's table to a law, a plan, a report and a page; and what bad input is answered with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from isoflop.cli import main
from isoflop.plan.belief_own import own_law
from tests.planted_table import runs, runs_table

pytestmark = pytest.mark.slow

QUICK = ("--bootstrap", "300")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def answer_of(*arguments: str | Path) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The table, the folder of its fit, and the answer."""
    folder = tmp_path_factory.mktemp("kept")
    table = runs_table(folder / "runs.csv")
    answer = answer_of("fit", table, "--budget", "1e22", *QUICK, "--out", folder / "fit")
    return table, folder / "fit", answer


def test_a_fit_leaves_a_report_and_a_file_to_plan_with(kept: tuple[Path, Path, dict[str, Any]]) -> None:
    _, folder, answer = kept
    promised = {"E", "A", "B", "alpha", "beta", "objective", "rows_used", "rows_excluded", "certified_share"}
    assert promised | {"N_opt", "D_opt", "loss_opt", "N_opt_ci95"} <= set(answer)
    assert answer["report"] == str(folder / "report.html")
    report = (folder / "report.html").read_text()
    assert "These runs determine the law" in report
    assert "Fitted without its largest budgets, it predicts them" in report
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["outcome"] == "supported"
    assert verdict["summary"]["alpha"] == answer["alpha"]
    saved = json.loads((folder / "fit.json").read_text())
    assert len(saved["draws"]["rows"]) == 300
    assert saved["alpha"] == answer["alpha"]


def test_plans_from_the_kept_fit_are_those_of_the_fit(kept: tuple[Path, Path, dict[str, Any]]) -> None:
    _, folder, answer = kept
    for place in (folder, folder / "fit.json"):
        plan = answer_of("plan", "--budget", "1e22", "--law", place)
        assert plan["N_opt"] == pytest.approx(answer["N_opt"], rel=1e-12)
        # Draws are kept with nine digits, of which an interval end loses a few to the exponents (ln N = 24).
        assert plan["N_opt_ci95"] == pytest.approx(answer["N_opt_ci95"], rel=1e-6)
        assert plan["smallest_within"]["N"] == pytest.approx(answer["smallest_within"]["N"], rel=1e-3)
        assert plan["smallest_within"]["price"] == pytest.approx(answer["smallest_within"]["price"], rel=1e-2)
        assert plan["law"]["num_draws"] == 300
        rows = {row["choice"]: row["N_opt"] for row in plan["sensitivity"]}
        for row in answer["sensitivity"][1:]:
            assert rows[row["choice"]] == pytest.approx(row["N_opt"], rel=1e-6)


def test_a_table_is_a_law_with_interval_panel_and_page(tmp_path: Path) -> None:
    table = runs_table(tmp_path / "runs.csv", ("size", "seen", "val_loss"))
    page = tmp_path / "plan.html"
    columns = ("--column", "N=size", "--column", "D=seen")
    budget = ("--budget", "50 H100-days", "--unique", "2e10")
    result = call("plan", *budget, "--law", table, *columns, "--page", page, "--json")
    plan = json.loads(result.stdout)
    assert plan["law"]["name"] == "runs.csv"
    assert plan["N_opt_ci95"][0] < plan["N_opt"] < plan["N_opt_ci95"][1]
    assert plan["smallest_within"]["N"] < plan["N_opt"]
    assert {"estimator", "forecast", "repetition", "law"} <= {row["group"] for row in plan["sensitivity"]}
    assert "runs.csv" in page.read_text()
    assert "Forecast test" in result.stderr  # the text for people
    assert "fitted to 32 runs of runs.csv" in result.stderr


def test_a_fit_keeps_to_the_loss_function_that_was_asked(tmp_path: Path) -> None:
    table = runs_table(tmp_path / "runs.csv")
    answer = answer_of("fit", table, "--loss-function", "squares", *QUICK)
    first = answer["sensitivity"][0]
    assert first["choice"].startswith("least squares")
    assert [first["parameters"][3], first["parameters"][4]] == pytest.approx(
        [answer["alpha"], answer["beta"]]
    )
    assert any(row["choice"] == "Huber, delta 0.001" for row in answer["sensitivity"])


def test_pixels_beside_the_runs_do_not_make_it_a_curve(tmp_path: Path) -> None:
    rows = [",".join(map(str, (i, 2 * i, *row))) for i, row in enumerate(runs().tolist())]
    table = tmp_path / "digitised.csv"
    table.write_text("\n".join(["x,y,Model Size,tokens,loss", *rows]) + "\n")
    assert answer_of("fit", table, *QUICK, "--no-sensitivity")["rows_used"] == 32


# ----------------------------------------------------------------------------------------- bad input


def bad_table(folder: Path, kind: str) -> Path:
    values = runs()
    header, path = "params,tokens,val_loss", folder / f"{kind}.csv"
    if kind == "missing":
        header, values = "params,tokens", values[:, :2]
    elif kind == "missing-size":
        header, values = "width,tokens,val_loss", values
    elif kind == "nan":
        values[4, 2] = math.nan
    elif kind == "negative":
        values[4, 2] = -2.5
    elif kind == "three":
        values = values[:3]
    elif kind == "two-scales":
        values[::2, 2] /= math.log(2)
    elif kind == "two-scales-by-budget":
        values[16:, 2] /= math.log(2)
    elif kind == "one-D":
        values[:, 1] = 1e10
    elif kind == "huge":  # 2 GB of nothing, without taking the space
        path.write_bytes(b"params,tokens,val_loss\n")
        with path.open("r+b") as file:
            file.truncate(2_000_000_000)
        return path
    rows = [",".join(f"{value:.9g}" for value in row) for row in np.asarray(values).tolist()]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", r"has no column for the loss; .*--column loss=NAME"),
        ("missing-size", r"has no column for the parameters; .*--column N=NAME"),
        ("nan", r"row 5: val_loss is NaN .*--skip-bad-rows"),
        ("negative", r"row 5: val_loss is -2.5, not positive; correct or remove the row"),
        ("three", r"has 3 usable runs.* add runs"),
        ("two-scales", r"two loss scales.*convert to one unit"),
        ("two-scales-by-budget", r"two loss scales: 16 and 16 runs.*convert to one unit"),
        ("one-D", r"all runs have the same D.*add runs at other D"),
        ("huge", r"huge.csv cannot be read .*export it again"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_bad_tables_are_one_line_with_the_remedy(tmp_path: Path, kind: str, says: str, verb: str) -> None:
    import re

    table = bad_table(tmp_path, kind)
    command = ("fit", table) if verb == "fit" else ("plan", "--budget", "1e22", "--law", table)
    result = call(*command, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert re.search(says, error), error
    assert "\n" not in error
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_long_log_is_refused_by_its_rows_and_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.fit.tables import runs as tables

    monkeypatch.setattr(tables, "MAX_ROWS", 20)
    error = json.loads(call("fit", runs_table(tmp_path / "runs.csv"), "--json").stdout)["error"]
    assert "one row per run" in error
    assert "--column run=NAME" in error


@pytest.mark.parametrize("budget", ["0", "-5", "nan", "soon", "1e99", "0 H100-days"])
@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_bad_budgets_are_one_line_with_the_remedy(tmp_path: Path, budget: str, verb: str) -> None:
    table = runs_table(tmp_path / "runs.csv")
    command = ("fit", table) if verb == "fit" else ("plan",)
    result = call(*command, f"--budget={budget}", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert "budget" in error
    assert any(word in error for word in ("above zero", "What works", "check", "give")), error


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"E": 1.8, "A": ', "is not valid JSON .* run `isoflop fit` again"),
        ('{"hello": 1}', "is not a fitted law: it lacks E, A, B, alpha, beta; write it again"),
        (
            '{"E": 1.8, "A": -4, "B": 3, "alpha": 0.3, "beta": 0.3}',
            "must be finite and above zero.*write it again",
        ),
        ('{"E": 1.8, "A": 400, "B": 3000, "alpha": "x", "beta": 0.3}', "is damaged .*write it again"),
        (
            '{"E": 1.8, "A": 400, "B": 3000, "alpha": 0.3, "beta": 0.3, "draws": {"rows": [[1, 2]]}}',
            r"is damaged \(draws have shape .*write it again",
        ),
        (
            '{"E": 1.8, "A": 400, "B": 3000, "alpha": 0.3, "beta": 0.3, "sensitivity": [{"group": "form"}]}',
            "is damaged .*write it again",
        ),
    ],
)
def test_broken_fit_files_are_one_line_with_the_remedy(tmp_path: Path, content: str, says: str) -> None:
    import re

    path = tmp_path / "fit.json"
    path.write_text(content)
    result = call("plan", "--budget", "1e22", "--law", path, "--json")
    assert result.exit_code == 2
    assert re.search(says, json.loads(result.stdout)["error"])


def test_a_fit_without_draws_says_why_there_is_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    path.write_text('{"E": 1.8, "A": 400, "B": 3000, "alpha": 0.34, "beta": 0.36}')
    plan = answer_of("plan", "--budget", "1e22", "--law", path)
    assert plan["N_opt_ci95"] is None
    assert "no bootstrap draws" in plan["law"]["why_no_interval"]


def test_a_law_that_is_neither_name_nor_file_lists_both(tmp_path: Path) -> None:
    assert (
        "known: besiroglu"
        in json.loads(call("plan", "--budget", "1e22", "--law", "nobody", "--json").stdout)["error"]
    )
    with pytest.raises(ValueError, match=r"no law and no file named .*give a table of runs"):
        own_law(str(tmp_path / "runs.csv"))
    error = json.loads(call("plan", "--budget", "1e22", "--law", tmp_path / "no.csv", "--json").stdout)[
        "error"
    ]
    assert "give a table of runs" in error


# ----------------------------------------------------------------------------------------- which run next


def test_the_next_run_comes_from_a_list_of_ones_own(tmp_path: Path) -> None:
    table, offered = tmp_path / "runs.csv", tmp_path / "offered.csv"
    few = [",".join(map(str, row)) for row in runs(noise=0.02)[::3].tolist()]  # too noisy to stop at
    table.write_text("\n".join(["N,D,loss", *few]) + "\n")
    sizes, flops = [1e8, 3e8, 1e9], 1e20
    offered.write_text("params,FLOPs\n" + "".join(f"{size:g},{flops:g}\n" for size in sizes))
    answer = answer_of("next", table, "--target", "1e25", "--num", "2", "--candidates", offered)
    assert [one["N"] in sizes and one["flops"] == flops for one in answer["chosen"]] == [True, True]
    # a price of one's own counts as the cost: what cannot be paid is not chosen
    offered.write_text("N,D,C\n1e8,1e10,5e20\n3e8,1e10,2e19\n")
    answer = answer_of("next", table, "--target", "1e25", "--candidates", offered, "--allowance", "1e20")
    assert [(one["N"], one["flops"]) for one in answer["chosen"]] == [(3e8, 2e19)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("N\n1e8\n", "lists no runs that could be done: it needs rows with two of N, D and C"),
        ("width,depth\n512,8\n", "and has width, depth; rename the columns"),
        ("N,D\n", "lists no runs that could be done"),
        ("N,D\n1e8,1e10\n1e9,0\n", "row 2: D is 0, not positive; correct or remove the row"),
    ],
)
def test_a_list_of_runs_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    table, offered = runs_table(tmp_path / "runs.csv"), tmp_path / "offered.csv"
    offered.write_text(text)
    result = call("next", table, "--target", "1e22", "--candidates", offered, "--json")
    assert result.exit_code == 2
    assert says in json.loads(result.stdout)["error"]


def test_columns_that_mean_nothing_are_named(tmp_path: Path) -> None:
    table = tmp_path / "odd.csv"
    table.write_text("groesse,menge,verlust\n1e8,1e10,3.1\n")
    for verb in (("next", table, "--target", "1e22"), ("fit", table, "--as", "law")):
        error = json.loads(call(*verb, "--json").stdout)["error"]
        assert "has no column for the loss; it has groesse, menge, verlust" in error
