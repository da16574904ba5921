"""The list of claims is complete, and the page made from it is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoflop import records
from isoflop.studies import claims

ROOT = Path(__file__).resolve().parents[2]

# How many claims each post makes; 0 for a post that is one claim by itself (its id has no number).
CLAIMS_OF_POST = {
    1: 2, 2: 6, 3: 3, 4: 3, 5: 6, 6: 4, 7: 3, 8: 5, 9: 4, 10: 6, 11: 2, 12: 4, 13: 0, 14: 2, 15: 4,
    16: 4, 17: 1, 18: 4, 19: 6, 20: 2, 21: 3, 22: 1, 23: 2, 24: 4, 25: 2, 26: 0,
}  # fmt: skip


def test_every_claim_is_listed_once_and_in_order():
    wanted = [
        f"P{post}.{number}" if count else f"P{post}"
        for post, count in CLAIMS_OF_POST.items()
        for number in range(1, max(count, 1) + 1)
    ]
    assert [claim.id for claim in claims.CLAIMS] == wanted


def test_statements_are_short_and_rooms_exist():
    for claim in claims.CLAIMS:
        assert 30 <= len(claim.statement) <= 260, claim.id
        assert claim.statement.endswith("."), claim.id
        for room in claim.rooms:
            assert (ROOT / "src" / "isoflop" / room).is_dir(), (claim.id, room)


def test_page_is_up_to_date():
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert page == claims.render(), "run `python -m isoflop.studies.claims` and commit docs/claims.md"


def test_state_is_read_from_what_is_there(tmp_path: Path):
    claim = claims.Claim(id="P0.1", statement="A | B.", rooms=("fit",), study="claims")
    assert claims.read_status(claim, tmp_path).state == "ready"
    verdict = records.Verdict(
        study="claims", question="Is it so?", outcome="cannot tell", sentence="Nobody | knows."
    )
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "verdict.json").write_bytes(records.encode(verdict))
    status = claims.read_status(claim, tmp_path)
    assert status == claims.Status(state="studied", verdict="cannot tell: Nobody | knows.")
    nobody = claims.Claim(id="P0.2", statement="C.", rooms=(), study="no_such_study")
    assert claims.read_status(nobody, tmp_path).state == "planned"


def test_a_damaged_verdict_is_an_error_that_names_the_file(tmp_path: Path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "verdict.json").write_text("{")
    claim = claims.Claim(id="P0.1", statement="A.", rooms=(), study="claims")
    with pytest.raises(records.RecordError, match=r"verdict\.json"):
        claims.read_status(claim, tmp_path)


def test_rows_keep_the_table_whole():
    rows = [line for line in claims.render(Path("/nonexistent")).splitlines() if line.startswith("| P")]
    assert len(rows) == len(claims.CLAIMS)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
