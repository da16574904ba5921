"""The benchmark of forecasts scores as it says, on any table with the right columns."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "extrapolation.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extrapolation_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_table(path: Path, domain: str = "IC") -> None:
    """Two power laws with offset, the second half of x held out, every row of the first stored twice."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1e6, 1e9, 24)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Domain", "Task", "Model", "Seen Examples", "Loss", "Training"])
        for model, offset, repeats in (("a", 0.2, 2), ("b", 0.5, 1)):
            y = (offset + 40 * x**-0.3) * np.exp(0.003 * rng.normal(size=24))
            for place, loss in zip(x, y, strict=True):
                for _ in range(repeats):
                    writer.writerow([domain, "task", model, place, loss, int(place <= x.max() / 2)])


def test_score_is_the_papers(benchmark: ModuleType) -> None:
    assert benchmark.rmsle(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == pytest.approx(
        np.log(2) / np.sqrt(2)
    )


def test_table_for_people_and_json(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "table.csv"), "--json", "--no-baselines"],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout)["domains"]["IC"]
    assert found["n"] == 2
    assert found["rmsle"] < 0.02  # one doubling of a smooth curve with 0.3 % noise
    assert 0 <= found["coverage90"] <= 1
    assert found["published_on_another_subset"]["NSL-PFN"] == 0.0280


def test_baselines_stand_beside_it(benchmark: ModuleType, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", domain="NMT")
    scored = [benchmark.score(e, True) for e in benchmark.read_table(tmp_path / "table.csv")]
    summary = benchmark.summarise(scored)
    assert set(summary) == {"NMT", "NLP + Nano"}
    assert set(summary["NMT"]["baselines"]) == {"M1", "M2", "M3", "M4", "BNSL"}
    assert summary["NMT"]["baselines"]["M2"] < summary["NMT"]["baselines"]["M1"]  # the truth is of M2's form
    text = benchmark.render(summary)
    assert "published, all curves" in text


def test_the_other_columns_and_bad_tables(benchmark: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "dd.csv").write_text("curve,x_name,y_name,x,y,split\na,n,e,1,2,context\na,n,e,2,1,target\n")
    (evaluation,) = benchmark.read_table(tmp_path / "dd.csv")
    assert (evaluation.domain, evaluation.x[0], evaluation.y_target[0]) == ("DD", 1.0, 1.0)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match=r"columns \['a', 'b'\] are neither"):
        benchmark.read_table(tmp_path / "bad.csv")
    (tmp_path / "half.csv").write_text("curve,x,y,split\na,1,2,context\n")
    with pytest.raises(SystemExit, match="lacks target rows"):
        benchmark.read_table(tmp_path / "half.csv")


def test_rows_may_come_in_any_order_with_other_columns_and_marks(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    write_table(tmp_path / "table.csv")
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    marked = [f"{row[:-1]}{'True' if row.endswith('1') else 'False'},x" for row in shuffled]
    (tmp_path / "other.csv").write_text("\n".join([f"\ufeff{header},note", *marked]))
    figures = []
    for name in ("table.csv", "other.csv"):
        evaluations = sorted(benchmark.read_table(tmp_path / name), key=lambda e: e.name)
        calibration, _ = benchmark.calibrate_domains(evaluations)["IC"]
        figures.append([benchmark.score(e, False, calibration).rmsle for e in evaluations])
    # Sums of 12 targets in another order: rounding alone.
    np.testing.assert_allclose(figures[0], figures[1], rtol=1e-9)


def test_what_cannot_be_scored_is_said_and_the_rest_is_scored(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    more = [f"IC,short,m,{x},{1 / x},{x <= 3:d}" for x in range(1, 7)]
    more += [f"IC,zero,m,{x},{0 if x in (2, 9) else 1 / x},{x <= 6:d}" for x in range(1, 11)]
    more += [f"NEW,rise,m,{x},{1 - np.exp(-x / 9)},{x <= 6:d}" for x in range(1, 11)]
    more += ["NEW,whole,m,1,1,1"]
    with (tmp_path / "table.csv").open("a") as file:
        file.write("\n".join(more))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "table.csv"), "--json"],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {name: row["n"] for name, row in found["domains"].items()} == {"IC": 3, "NEW": 1}
    said = {(one["name"], one["what"].split(":")[0]) for one in found["left_out"]}
    assert said == {
        ("short m", "not scored"),
        ("zero m", "1 of 6 training rows left out"),
        ("zero m", "1 of 4 target rows left out"),
        ("rise m", "scored, though it rises"),
        ("whole m", "not scored"),
    }
    numbers = [row[m] for row in found["curves"] for m in ("rmsle", "M1", "M2", "M3", "M4", "BNSL")]
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("IC,t,m,1,high,1", "line 50: Loss is 'high', not a number"),
        ("IC,t,m,1,1,yes", "line 50: Training is 'yes'; write 1 or 0"),
        ("IC,t,m,1", "line 50: Training is None; write 1 or 0"),
    ],
)
def test_a_bad_row_is_named(benchmark: ModuleType, tmp_path: Path, row: str, sentence: str) -> None:
    write_table(tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text().splitlines()[:49]  # the header and 48 rows
    (tmp_path / "bad.csv").write_text("\n".join([*text, row]))
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        benchmark.read_table(tmp_path / "bad.csv")
    with pytest.raises(SystemExit, match="cannot be read"):
        benchmark.read_table(tmp_path / "none.csv")


def test_a_file_may_name_its_domain_among_other_words(benchmark: ModuleType) -> None:
    assert benchmark._domain_of(Path("dd.rest.csv")) == "DD"
    assert benchmark._domain_of(Path("nano_2.csv")) == "Nano"
    assert benchmark._domain_of(Path("mine.csv")) == "mine"
