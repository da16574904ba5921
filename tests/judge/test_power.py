"""The answer of a power calculation: numbers agree with the formulas, words with the numbers."""

from __future__ import annotations

import json
import math

import pytest

from isoflop import records
from isoflop.judge import power
from isoflop.judge.power import Design


def test_seeds_and_effects_answer_each_other():
    forward = power.plan_power(Design(sd=0.00112, noise_df=295, effect=0.0016))
    assert forward["seeds"] == 8
    assert "run 8 seeds per arm" in forward["sentence"]
    back = power.plan_power(Design(sd=0.00112, noise_df=295, seeds=8))
    assert back["detectable"] <= 0.0016
    ladder = {row["seeds"]: row for row in forward["ladder"]}
    assert ladder[8]["power"] >= 0.8 > ladder[6]["power"]
    assert ladder[8]["detectable"] == pytest.approx(back["detectable"])
    json.dumps(forward, allow_nan=False)


def test_known_noise_is_json_ready():
    answer = power.plan_power(Design(sd=1.0, noise_df=math.inf, effect=2.0))
    assert answer["noise"] == "known"
    json.dumps(answer, allow_nan=False)


def test_looks_come_with_their_measured_error_rates():
    answer = power.plan_power(Design(sd=1.0, noise_df=100.0, effect=1.5, num_looks=3), num_simulations=20_000)
    assert len(answer["looks"]["seeds"]) == 3
    assert answer["looks"]["power"] >= 0.8
    rates = {row["name"]: row["false_positive_rate"] for row in answer["procedures"]}
    # 20,000 studies: standard error 0.15 points, four of them.
    assert rates["group-sequential"] == pytest.approx(0.05, abs=0.006)
    assert rates["peeking t test"] > 0.09
    assert 0 < answer["looks"]["saved_null"] < 1
    text = power.render_power(answer)
    assert text.startswith(answer["sentence"])
    assert "(naive)" in text


def test_what_cannot_be_answered_is_said():
    alone = power.plan_power(Design(sd=1.0, seeds=1))
    assert alone["detectable"] is None
    assert "can see nothing" in alone["sentence"]
    far = power.plan_power(Design(sd=1.0, effect=1e-4))
    assert far["seeds"] is None
    assert "out of reach" in far["sentence"]
    with pytest.raises(ValueError, match="give an effect"):
        power.plan_power(Design(sd=1.0))
    with pytest.raises(ValueError, match="give the effect, leave pairing out"):
        power.plan_power(Design(sd=1.0, seeds=4, num_looks=3))
    with pytest.raises(ValueError, match="must be positive"):
        power.plan_power(Design(sd=0.0, effect=1.0))


def test_as_a_record():
    answer = power.plan_power(Design(sd=1.0, noise_df=50.0, effect=1.5, num_looks=2), num_simulations=2000)
    verdict = records.decode(records.encode(power.power_verdict(answer)), records.Verdict)
    assert verdict.outcome == "supported"
    assert [table.name for table in verdict.tables] == ["ladder", "procedures"]
    for table in verdict.tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    hopeless = power.power_verdict(power.plan_power(Design(sd=1.0, effect=1e-4)))
    assert hopeless.outcome == "contradicted"
