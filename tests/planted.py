"""Evidence of a sweep that was never trained: losses from a planted law with seed and window noise."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from isoflop.records import (
    Attempt,
    Budget,
    CorpusRecord,
    Estimate,
    Evidence,
    Measurement,
    Plan,
    PlanRequest,
    Provenance,
    RunEvidence,
    RunRecord,
    RunSpec,
)
from isoflop.studies import flatness

CORPUS = CorpusRecord(
    source="stdlib",
    corpus_sha256="0" * 64,
    tokenizer="bpe-512",
    tokenizer_sha256="1" * 64,
    vocab_size=512,
    num_train_files=384,
    num_val_files=20,
    train_bytes=7_730_000,
    val_bytes=490_000,
    train_tokens=3_580_000,
    val_tokens=232_000,
    split_rule="by hash",
)
NUM_GROUPS = 16


def plan(budget: str = "2e13 FLOPs", seeds: int | None = None) -> Plan:
    """A real plan of the flatness study, made without a machine."""
    return flatness.plan(PlanRequest(budget=Budget.parse(budget), seeds=seeds, corpus=CORPUS))


def loss_of(spec: RunSpec, half_width: float, exponent: float = 0.42) -> float:
    """Planted profile: a parabola in ln N_all whose 1 % basin has this half-width, minimum along a power law."""
    budget, size = float(spec.labels["budget"] or 0), float(spec.labels["N_all"] or 0)
    optimum = 20e3 * (budget / 3e10) ** exponent
    bottom = 3.03 * (budget / 1e12) ** -0.082
    return bottom * (1 + 0.01 * (math.log(size / optimum) / math.log(half_width)) ** 2)


def evidence(plan: Plan, half_width: float, seed_sd: float = 0.01, seed: int = 0) -> Evidence:
    """Every run finished; the noise of a trunk is shared half-half with its branches."""
    dice = np.random.default_rng(seed)
    windows = dice.normal(0, 0.2, NUM_GROUPS)
    of_trunk = {run.fingerprint: dice.normal() for run in plan.runs if run.spec.evaluate is None}
    runs = []
    for planned in plan.runs:
        spec, measurements = planned.spec, ()
        if spec.branch is not None:
            noise = seed_sd * math.sqrt(0.5) * (of_trunk[spec.branch.parent] + dice.normal())
            measurements = (_measurement(spec, loss_of(spec, half_width) + noise, windows),)
        runs.append(RunEvidence(spec=spec, record=_record(spec), measurements=measurements))
    return Evidence(plan=plan, runs=tuple(runs))


def _measurement(spec: RunSpec, loss: float, windows: np.ndarray) -> Measurement:
    nats = Estimate(value=loss, unit="nats/token", reason="planted")
    return Measurement(
        run=spec.fingerprint(),
        name="heldout",
        step=spec.num_steps,
        loss=nats,
        bits_per_byte=msgspec.structs.replace(nats, value=loss / math.log(2) / 2.16, unit="bits/byte"),
        group_nats=tuple((loss + windows - windows.mean()).tolist()),
        group_tokens=(4096,) * NUM_GROUPS,
        num_bytes=141_000,
        held_fixed="planted",
    )


def _record(spec: RunSpec) -> RunRecord:
    provenance = Provenance(isoflop="0", python="3")
    attempt = Attempt(
        started="",
        first_step=spec.start_step,
        last_step=spec.num_steps,
        seconds=1.0,
        flops=spec.own_flops,
        ended="finished",
    )
    return RunRecord(
        fingerprint=spec.fingerprint(),
        name=spec.name,
        status="finished",
        num_steps=spec.num_steps,
        tokens=spec.tokens,
        train_flops=spec.train_flops,
        attempts=(attempt,),
        parent=spec.branch.parent if spec.branch else None,
        provenance=provenance,
    )
