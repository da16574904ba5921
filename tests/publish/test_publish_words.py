"""Numbers, tables as files, the checklist and the terminal summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import msgspec
import pytest

from isoflop.publish import numbers, summary_text
from isoflop.publish.checklist import checklist
from isoflop.publish.evidence import PublishError, StudyData
from isoflop.publish.references import REFERENCES, cited
from isoflop.publish.tables import column_type, csv_bytes, table_files
from isoflop.records import Column, Estimate, Exclusion, Scalar, Table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"), (True, "yes"), (False, "no"), (0, "0"), (-3, "−3"), (1234, "1234"), (12345, "12\u202f345"),
        (1234567, "1\u202f234\u202f567"), (3e11, "3×10¹¹"), (1e12, "10¹²"), (0.01234567, "0.01235"), (-0.5, "−0.5"),
        (1.5e-7, "1.5×10⁻⁷"), (4567.8, "4568"), (23456.7, "23\u202f457"), ("text", "text"), (2.0, "2"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: Scalar, expected: str) -> None:
    assert numbers.number(value) == expected


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        (3e10, "{:.1e}", "3×10¹⁰"), (1e11, "{:.1e}", "10¹¹"), (2.5e-3, "{:.1e}", "2.5×10⁻³"),
        (1.234, "x{:.2f}", "×1.23"),
        (123456, "{:,.0f}", "123\u202f456"), (1234, "{:,.0f}", "1234"), (-1.5, "{:.2f}", "−1.50"),
        (None, "{:.2f}", "–"),
        (7, "{:d}", "7"), (7.5, "{:d}", "7.5"), ("s", "{:.2f}", "s"), (True, "{:d}", "yes"),
        (12345.6, "{:,.1f}", "12\u202f345.6"),
    ],
)  # fmt: skip
def test_a_column_format_is_kept_and_made_readable(value: Scalar, spec: str, expected: str) -> None:
    assert numbers.formatted(value, spec) == expected


@pytest.mark.parametrize("spec", ["{0.__class__}", "{}", "{x}", "{:.2f}{:.2f}", "%d", "{!r:}"])
def test_a_format_that_could_reach_into_objects_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="column format"):
        numbers.formatted(1.0, spec)


def test_other_words_for_numbers() -> None:
    assert [numbers.compact(v) for v in (950, 20_000, 1.5e6, 6.5e11, 999_999, 0.5)] == [
        "950",
        "20k",
        "1.5M",
        "650B",
        "1M",
        "0.5",
    ]
    assert [numbers.duration(v) for v in (None, 0.24, 59.7, 200, 18_720, 273_600)] == [
        "–", "0.2 s", "1 min 0 s", "3 min 20 s", "5 h 12 min", "3 d 4 h",
    ]  # fmt: skip
    assert numbers.interval(Estimate(value=1.9, lo=1.6, hi=None, unit="", reason="open")) == "1.9 [1.6, –]"
    assert numbers.share(1.0, 0.0) == "–"


# ------------------------------------------------------------------------------------------ tables


def made_table(*rows: tuple[Scalar, ...]) -> Table:
    names = ("flag", "count", "real", "text", "mixed", "nothing")
    return Table(name="t", title="t", columns=tuple(Column(name=n, title=n) for n in names), rows=rows)


ROWS: tuple[tuple[Scalar, ...], ...] = (
    (True, 1, 0.1, "plain", 1, None),
    (None, -(2**62), 1e-300, 'a "quote", a comma\nand a line', "x", None),
    (False, None, None, "", True, None),
    (True, 3, 3, "'; drop table t; --\u202f×", None, None),
)


def test_parquet_and_csv_hold_every_value_with_its_type(tmp_path: Path) -> None:
    files = table_files((made_table(*ROWS),))["t"]
    path = tmp_path / "t.parquet"
    path.write_bytes(files.parquet)
    result = duckdb.connect().execute(f"SELECT * FROM '{path}'")
    assert [str(column[1]) for column in result.description] == [
        "BOOLEAN",
        "BIGINT",
        "DOUBLE",
        "VARCHAR",
        "VARCHAR",
        "VARCHAR",
    ]
    rows = result.fetchall()
    assert [row[:4] for row in rows] == [
        row[:4] for row in ROWS
    ]  # exact: repr of a float reads back as itself
    assert [row[4] for row in rows] == ["1", "x", "true", None]
    text = files.csv.decode()
    assert text.splitlines()[0] == '"flag","count","real","text","mixed","nothing"'
    assert 'false,,,"",true,' in text


def test_column_types() -> None:
    assert column_type([1, 2.5]) == "DOUBLE"
    assert column_type([1, 2**63]) == "VARCHAR"
    assert column_type([None]) == "VARCHAR"
    assert column_type([True, 1]) == "VARCHAR"


def test_an_empty_table_and_twin_columns(tmp_path: Path) -> None:
    empty = made_table()
    assert csv_bytes(empty).count(b"\n") == 1
    path = tmp_path / "t.parquet"
    path.write_bytes(table_files((empty,))["t"].parquet)
    assert duckdb.connect().execute(f"SELECT count(*) FROM '{path}'").fetchone() == (0,)
    twins = Table(
        name="t", title="", columns=(Column(name="a", title=""), Column(name="A", title="")), rows=()
    )
    with pytest.raises(PublishError, match="same name"):
        table_files((twins,))


# --------------------------------------------------------------------------------------- checklist


def answer(data: StudyData, words: str) -> tuple[str, str]:
    (item,) = [item for item in checklist(data) if words in item.question]
    return item.answer, item.evidence


def changed(data: StudyData, *, plan: dict | None = None, verdict: dict | None = None) -> StudyData:
    return StudyData(
        msgspec.structs.replace(data.plan, **(plan or {})),
        msgspec.structs.replace(data.verdict, **(verdict or {})),
        data.runs,
    )


def test_checklist_of_a_sound_study_is_all_yes(data: StudyData) -> None:
    assert {item.answer for item in checklist(data)} == {"yes"}
    assert len({item.question for item in checklist(data)}) == len(checklist(data))


def test_checklist_notices_what_is_wrong(data: StudyData) -> None:
    late = msgspec.structs.replace(data.plan.provenance, started="2026-11-23T12:00:00Z")
    dirty = msgspec.structs.replace(data.verdict.provenance, dirty=True)
    off = msgspec.structs.replace(data.verdict.cost, spent_flops=data.verdict.cost.spent_flops * 1.01)
    bare = msgspec.structs.replace(data.verdict.statements[0], estimate=Estimate(value=1.0, unit=""))
    silent = msgspec.structs.replace(data.verdict.statements[2], settle=None)
    (fit,) = data.verdict.fits
    uncertified = msgspec.structs.replace(fit, certificate=None)
    cases = [
        ("before the first run", {"plan": {"provenance": late}}, "no"),
        ("before the first run", {"plan": {"provenance": None}}, "no"),
        ("under this plan", {"verdict": {"plan_fingerprint": "00" * 32}}, "no"),
        ("under this plan", {"plan": {"options": {"other": 1}}}, "no"),
        ("every planned run", {"verdict": {"exclusions": ()}}, "no"),
        ("more than one seed", {"plan": {"seeds": (0,)}}, "no"),
        ("every estimate", {"verdict": {"statements": (bare,)}}, "no"),
        ("at its optimum", {"verdict": {"fits": (uncertified,)}}, "no"),
        ("left out listed", {"verdict": {"exclusions": (Exclusion(what="x", reason=" "),)}}, "no"),
        ("what would settle", {"verdict": {"statements": (silent,)}}, "no"),
        ("ledger balance", {"verdict": {"cost": off}}, "no"),
        ("code version", {"verdict": {"provenance": dirty}}, "partly"),
    ]
    for words, change, expected in cases:
        assert answer(changed(data, **change), words)[0] == expected, (words, change)


def test_checklist_names_a_run_that_nobody_accounts_for(data: StudyData) -> None:
    kept = tuple(item for item in data.verdict.exclusions if item.what != "128x4 1e12 seed 2")
    found = answer(changed(data, verdict={"exclusions": kept}), "every planned run")
    assert found[0] == "no"
    assert "128x4 1e12 seed 2" in found[1]


def test_checklist_tells_runs_of_different_versions_apart(data: StudyData) -> None:
    first = data.runs[0]
    other = msgspec.structs.replace(first.record.provenance, torch="2.12.0")
    runs = (replace(first, record=msgspec.structs.replace(first.record, provenance=other)), *data.runs[1:])
    found = answer(StudyData(data.plan, data.verdict, runs), "same versions")
    assert found[0] == "no"
    assert "2.12.0" in found[1]
    assert "2.13.0" in found[1]


def test_references_follow_what_was_used(data: StudyData) -> None:
    texts = [reference.text for reference in cited(data)]
    assert any("Hoffmann" in text for text in texts)
    assert not any("Golub" in text for text in texts)
    (fit,) = data.verdict.fits
    projected = changed(
        data, verdict={"fits": (msgspec.structs.replace(fit, error_model="variable projection"),)}
    )
    assert any("Golub" in reference.text for reference in cited(projected))
    untrained = changed(
        data,
        plan={"runs": (), "corpus": None},
        verdict={"figures": (), "tables": (), "fits": (), "statements": ()},
    )
    assert cited(untrained) == ()
    assert len({reference.url for reference in REFERENCES}) == len(REFERENCES)


# ----------------------------------------------------------------------------------------- terminal


def test_summary_fits_the_terminal_and_says_the_main_things(data: StudyData) -> None:
    verdict, plan = data.verdict, data.plan
    text = summary_text(verdict, plan, verdict.cost, report=Path("/somewhere/report.html"))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.startswith("CONTRADICTED: ")
    assert text.endswith("Report: /somewhere/report.html\n")
    flat = " ".join(text.split())
    for sentence in (verdict.sentence, verdict.effect, *(s.text for s in verdict.statements)):
        assert sentence in flat
    rows = [row for row in data.tables["bowls"].rows if row[0] == "N_all"]
    for row in rows:
        assert numbers.compact(row[9]) in text
    assert "\x1b" not in text
    assert "wasted" in text


def test_summary_without_bowls_cost_or_path(data: StudyData) -> None:
    bare = msgspec.structs.replace(data.verdict, tables=(), settle="ten times the budget")
    text = summary_text(bare, data.plan, None)
    assert "Cost" not in text
    assert "Report" not in text
    assert "To settle it: ten times the budget" in text
