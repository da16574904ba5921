"""The published dates are reached, and the verdict says that the function made them."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop import records
from isoflop.judge.dates import date, separating_x
from isoflop.laws.curves import CurveError
from isoflop.records import Evidence, Verdict
from isoflop.studies import claims, sample_efficiency

YEARS = {
    "few-shot, 1 % of labels": {"linear": 8.7e5, "logit": 3.9e6, "power": 1.4e16},
    "few-shot, 2 % of labels": {"linear": 6.4e3, "logit": 3.3e5, "power": 3.5e10},
    "linear probe": {"linear": 3.9, "logit": 22.0, "power": 5.9e3},
}


def test_nine_dates() -> None:
    found = sample_efficiency.dates()
    for name, row in YEARS.items():
        for axis, years in row.items():
            # The reference figures have two digits, so half a unit of the second: up to 1.5 %.
            assert found[name][axis].x.value == pytest.approx(years, rel=0.015)
            assert 0.92 <= found[name][axis].r2 <= 0.985
    published = found["few-shot, 1 % of labels"]["linear"].x
    assert published.lo is not None
    assert published.hi is not None
    # Resampling ends of a date that is steep in the slope: with a few thousand resamples another seed moves
    # the upper one by a fifth, and the reference has its own.
    assert published.lo == pytest.approx(2.9e5, rel=0.1)
    assert published.hi == pytest.approx(9.4e6, rel=0.2)


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    return sample_efficiency.STUDY.judge(Evidence())


def test_the_verdict_cannot_be_missed(verdict: Verdict) -> None:
    again = records.decode(records.encode(verdict), records.Verdict)
    assert again.outcome == "cannot tell"
    assert again.sentence.startswith("4 years to 1e16 years: the data cannot choose")
    assert [s.outcome for s in again.statements] == ["supported", "supported", "cannot tell"]
    assert again.figures[0].kind == "intervals"
    tables = {table.name for table in again.tables}
    assert all(set(figure.tables) <= tables for figure in again.figures)
    assert all(len(row) == len(table.columns) for table in again.tables for row in table.rows)
    assert set(again.claims) <= {claim.id for claim in claims.CLAIMS}


def test_date_of_a_planted_line() -> None:
    x = np.geomspace(1.0, 1e3, 8)
    rng = np.random.default_rng(0)
    found = date(x, 0.2 + 0.1 * np.log10(x) + 0.002 * rng.normal(size=8), 0.9, "linear").x
    assert found.lo is not None
    assert found.hi is not None
    assert found.value is not None
    assert found.lo < 1e7 < found.hi
    assert np.log10(found.value) == pytest.approx(7.0, abs=0.3)
    away = date(x, 0.5 - 0.1 * np.log10(x), 0.9, "linear").x
    assert away.value is None
    assert away.reason == "the line moves away from the target"
    lines = [
        date(x, 0.2 + 0.1 * np.log10(x) + 0.002 * rng.normal(size=8), 0.9, axis)
        for axis in ("linear", "power")
    ]
    place = separating_x(x, 0.2 + 0.1 * np.log10(x), lines)
    assert place is not None
    assert place >= 1e3
    assert abs(float(lines[0].score(1e5)) - float(lines[1].score(1e5))) > 0.05
    with pytest.raises(CurveError, match="strictly between 0 and 1"):
        date(x, x, 0.9, "linear")
    with pytest.raises(CurveError, match="three points"):
        date(x[:2], [0.1, 0.2], 0.9, "linear")
