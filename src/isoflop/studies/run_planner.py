"""Can a long training run be planned, and how far is the calendar from a short benchmark?

Claim P2.3: the continued pretraining of Llama-3.1-8B on 512 devices, with the figures that its author gave
for batch, tokens, memory, speed and months. Each figure is worked out again; the planner's step times are
held against six public runs; and the rate on the calendar is set beside the rate of a short benchmark.
Prediction: the arithmetic holds; the calendar delivers about a third of what the benchmark promises.
Command: ``isoflop run run_planner``. Cost: none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from isoflop.plan.training_run import DAY_S, MONTH_DAYS, RunPlan, plan_run
from isoflop.plan.training_speed import ACCURACY, BACK_TESTS, CONVENTION, error_of
from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Figure,
    MeshSpec,
    Mixture,
    MixtureSource,
    NetSpec,
    ObservedRun,
    Operations,
    OptimizerSpec,
    Outcome,
    Placement,
    Recipe,
    ScheduleSpec,
    Statement,
    Table,
    Verdict,
)
from isoflop.studies.study import Study

QUESTION = "Can a long training run be planned from its size, devices and speed?"
SOURCE = "github.com/eminorhan/frontier-torchtitan, README and configuration; the post on the run"

MONTHS, MONTHS_FROM, MONTHS_TO = 1.5, 1.25, 1.75
""" "1.5 months", and the range that rounds to it."""
STEPS_DONE = 73_500
SECONDS_PER_STEP = 36.0
""" "Around 0.6 minute" per update."""
BENCHMARK_RATE, BENCHMARK_MFU = 1333.0, 0.40
"""Tokens per second and device, and MFU, of the same author's runs on eight nodes."""
A100_RATE, A100_MFU = 2900.0, 0.58
LARGE_BATCH_REPLICAS = 20
"""640 nodes: 20 replicas of 32 shards of 8 devices."""
SEVERAL = 2.0
"""From here on the calendar is "several times" slower."""

LLAMA_8B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_dim=14_336,
    rope_theta=500_000.0,
)

POSTED = Recipe(
    name="llama3.1-8b-continual",
    variant="as-posted",
    scale="full",
    start_from="meta-llama/Llama-3.1-8B",
    tokenizer="meta-llama/Llama-3.1-8B",
    net=LLAMA_8B,
    mixture=Mixture(sources=(MixtureSource(name="all", where="data/all", weight=1.0),), weight_unit="rows"),
    context=8192,
    batch_seqs=21 * 2 * 32,
    num_steps=500_000,
    optimizer=OptimizerSpec(peak_lr=3e-5, decay_on="all"),
    schedule=ScheduleSpec(kind="linear", warmup_steps=500, num_steps=500_000),
    seed=0,
    order_seed=0,
    placement=Placement(
        device="MI250X GCD",
        num_nodes=64,
        devices_per_node=8,
        mesh=MeshSpec(replicate=2, shard=32, tensor=8),
        micro_batch_seqs=21,
        reshard=False,
    ),
    operations=Operations(
        session_hours=24.0,
        queue_hours=10.0,
        startup_minutes=15.0,
        launch_success=0.9,
        node_mtbf_hours=50_000.0,
        checkpoint_every_steps=100,
        checkpoint_pause_s=10.0,
    ),
    benchmarks=(),
    observed=ObservedRun(
        steps=STEPS_DONE,
        calendar_days=MONTHS * MONTH_DAYS,
        seconds_per_step=SECONDS_PER_STEP,
        source=SOURCE,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the author's own numbers come to."""

    tokens_per_step: int
    tokens_done: float
    tokens_planned: float
    memory_tb: float
    months_left: float
    large_batch_tokens: int
    days_per_trillion: float
    """At the large batch."""
    nodes_for_100m: float
    """Nodes for a batch of 100 million tokens, one node per data-parallel rank."""
    slower_by_rate: float
    slower_by_mfu: float
    calendar_rate: float
    """Tokens per second and device, on the calendar."""
    calendar_mfu: float
    stepping_mfu: float
    calendar_mfu_6n: float
    """The same, counting six FLOPs per parameter."""
    times_slower: float
    """The short benchmark's rate over that of the calendar."""


def figures(plan: RunPlan) -> Figures:
    """Every figure from the run's plan and the author's numbers."""
    seen = plan.observed
    assert seen is not None, "the posted recipe says what was observed"
    per_rank = POSTED.placement.micro_batch_seqs * POSTED.context
    large = LARGE_BATCH_REPLICAS * 32 * per_rank
    return Figures(
        tokens_per_step=plan.tokens_per_step,
        tokens_done=seen.tokens,
        tokens_planned=plan.tokens,
        memory_tb=(plan.total_memory or 0.0) / 1e12,
        months_left=seen.days_left / MONTH_DAYS,
        large_batch_tokens=large,
        days_per_trillion=1e12 / large * SECONDS_PER_STEP / DAY_S,
        nodes_for_100m=1e8 / per_rank,
        slower_by_rate=A100_RATE / BENCHMARK_RATE,
        slower_by_mfu=A100_MFU / BENCHMARK_MFU,
        calendar_rate=seen.calendar_tokens_per_s_per_device,
        calendar_mfu=seen.calendar_mfu,
        stepping_mfu=seen.stepping_mfu,
        calendar_mfu_6n=seen.calendar_mfu * 6 * plan.parameters * plan.tokens / plan.train_flops,
        times_slower=BENCHMARK_RATE / seen.calendar_tokens_per_s_per_device,
    )


def judge(evidence: Evidence) -> Verdict:
    """Supported when the arithmetic holds, the back-tests are within their bound and the gap is several-fold."""
    plan = plan_run(POSTED)
    found, seen = figures(plan), plan.observed
    assert seen is not None
    errors = [error_of(test, LLAMA_8B) for test in BACK_TESTS]
    worst = max(abs(math.expm1(error)) for error in errors)
    spread = tuple(found.times_slower * months / MONTHS for months in (MONTHS_FROM, MONTHS_TO))
    statements = (
        _arithmetic(found),
        Statement(
            text="A step's time can be foretold from net, mesh and device",
            outcome="supported" if worst <= ACCURACY else "contradicted",
            because=f"six public runs are met within {worst:.0%}; the posted one at "
            f"{seen.expected_seconds_per_step:.1f} s against {SECONDS_PER_STEP:g} s",
            estimate=Estimate(
                value=worst,
                unit="relative error of the rate, largest of six",
                reason="the share of the peak that compute reaches was read off runs of the same kind",
            ),
        ),
        Statement(
            text="The calendar is several times slower than a short benchmark promises",
            outcome="supported"
            if spread[0] >= SEVERAL
            else "cannot tell"
            if spread[1] >= SEVERAL
            else "contradicted",
            because=f"{BENCHMARK_RATE:,.0f} tokens/s per device in the benchmark, {found.calendar_rate:.0f} on the "
            f"calendar ({found.calendar_mfu:.1%} MFU), {seen.stepping_tokens_per_s_per_device:.0f} while stepping "
            f"({found.stepping_mfu:.1%})",
            estimate=Estimate(
                value=found.times_slower,
                unit="factor",
                lo=spread[0],
                hi=spread[1],
                method=f"{MONTHS_FROM:g} to {MONTHS_TO:g} months, which round to those stated",
            ),
        ),
    )
    return _verdict(plan, found, statements, errors)


def _arithmetic(found: Figures) -> Statement:
    checks = {
        "a batch of 11M tokens": round(found.tokens_per_step / 1e6) == 11,
        "809B tokens after 73,500 updates": round(found.tokens_done / 1e9) == 809,
        "about 5.5T planned": round(found.tokens_planned / 1e12, 1) == 5.5,
        "33 TB of memory": round(found.memory_tb) == 33,
        "about nine months more": 8.5 <= found.months_left < 9.5,
        "3.8 days per trillion at 640 nodes": round(found.days_per_trillion, 1) == 3.8,
        "500 to 600 nodes for 100M tokens": 500 <= found.nodes_for_100m <= 600,
        "1.5 to 2.2 times slower than an A100": round(found.slower_by_mfu, 1) >= 1.4
        and round(found.slower_by_rate, 1) <= 2.2,
    }
    wrong = [words for words, holds in checks.items() if not holds]
    return Statement(
        text="The author's own figures follow from his configuration",
        outcome="contradicted" if wrong else "supported",
        because=f"does not follow: {', '.join(wrong)}"
        if wrong
        else f"all {len(checks)}: {found.tokens_per_step:,} tokens per update, {found.tokens_done / 1e9:.1f}B after "
        f"{STEPS_DONE:,} of them, {found.months_left:.1f} months left",
        estimate=Estimate(value=float(len(checks) - len(wrong)), unit="figures", reason="arithmetic"),
    )


def _verdict(
    plan: RunPlan, found: Figures, statements: tuple[Statement, ...], errors: list[float]
) -> Verdict:
    outcomes = [statement.outcome for statement in statements]
    order: tuple[Outcome, ...] = ("contradicted", "cannot tell", "supported")
    return Verdict(
        study="run_planner",
        claims=("P2.3",),
        question=QUESTION,
        outcome=next(word for word in order if word in outcomes),
        sentence=f"Its figures follow from its configuration, and step times of public runs can be foretold to some "
        f"25 %; but the calendar delivered {found.times_slower:.1f} times less than the author's own short benchmark.",
        settle="a log of the run's sessions: when each waited, started, stepped and failed",
        statements=statements,
        effect=f"{found.calendar_mfu:.0%} of the devices' peak on the calendar against {found.stepping_mfu:.0%} while "
        f"stepping and {BENCHMARK_MFU:.0%} in the benchmark ({CONVENTION})",
        unresolved=("how the days without steps divide into queue, failed launches and failures",),
        limits=(
            "One run; its hours in the queue are not on record, so the use of the calendar is implied, not measured.",
            "Most back-tests are runs from which the share of the peak was read; the two with split matrices "
            "are the real test.",
        ),
        tables=(_rates(plan, found), _memory(plan), *_back_tests(errors)),
        figures=(
            Figure(
                name="back-tests",
                kind="curves",
                title="Expected against published training rate",
                caption="Six public Llama-3-8B runs at sequences of 8,192 tokens; on the line the planner is right.",
                alt="Points near the diagonal from about 600 to 7,000 tokens per second and device.",
                tables=("back_test_points",),
                options={
                    "log_x": True,
                    "log_y": True,
                    "x_title": "published, tokens/s per device",
                    "y_title": "expected, tokens/s per device",
                },
            ),
        ),
        summary={
            "tokens_per_step": found.tokens_per_step,
            "tokens_done": found.tokens_done,
            "tokens_planned": found.tokens_planned,
            "months_left": found.months_left,
            "days_per_trillion_at_640_nodes": found.days_per_trillion,
            "calendar_tokens_per_s_per_device": found.calendar_rate,
            "calendar_mfu": found.calendar_mfu,
            "calendar_mfu_6n": found.calendar_mfu_6n,
            "stepping_mfu": found.stepping_mfu,
            "times_slower_than_benchmark": found.times_slower,
            "back_test_errors": [math.expm1(error) for error in errors],
        },
    )


def _rates(plan: RunPlan, found: Figures) -> Table:
    seen = plan.observed
    assert seen is not None
    stepping = seen.stepping_tokens_per_s_per_device
    rows = (
        ("short benchmark, 8 nodes", BENCHMARK_RATE, BENCHMARK_MFU, 1.0),
        ("the run, while stepping", stepping, found.stepping_mfu, BENCHMARK_RATE / stepping),
        ("the run, on the calendar", found.calendar_rate, found.calendar_mfu, found.times_slower),
    )
    return Table(
        name="rates",
        title="From a benchmark to the calendar",
        columns=(
            Column(name="what", title="what"),
            Column(name="rate", title="rate", unit="tokens/s per device", format="{:,.0f}"),
            Column(name="mfu", title="MFU", format="{:.1%}"),
            Column(name="slower", title="slower than the benchmark", unit="factor", format="{:.2f}"),
        ),
        rows=rows,
        note=f"MFU counted as {CONVENTION}; the benchmark's as published.",
    )


def _memory(plan: RunPlan) -> Table:
    return Table(
        name="memory",
        title="Memory per device at the peak of a step",
        columns=(
            Column(name="what", title="what"),
            Column(name="gb", title="size", unit="GB", format="{:.2f}"),
            Column(name="how", title="how"),
        ),
        rows=tuple((item.what, item.bytes_per_device / 1e9, item.how) for item in plan.memory),
    )


def _back_tests(errors: list[float]) -> tuple[Table, Table]:
    rates = [
        (test.what, test.tokens_per_s_per_device, test.tokens_per_s_per_device * math.exp(error), test.source)
        for test, error in zip(BACK_TESTS, errors, strict=True)
    ]
    table = Table(
        name="back_tests",
        title="Public runs and what the planner expects of them",
        columns=(
            Column(name="run", title="run"),
            Column(name="published", title="published", unit="tokens/s per device", format="{:,.0f}"),
            Column(name="expected", title="expected", unit="tokens/s per device", format="{:,.0f}"),
            Column(name="source", title="source"),
        ),
        rows=tuple(rates),
    )
    ends = (500.0, 8000.0)
    points = [
        ("public runs", published, expected, None, None, "points") for _, published, expected, _ in rates
    ]
    line = [("equal", end, end, None, None, "reference") for end in ends]
    return table, Table(
        name="back_test_points",
        title="The same, as drawn",
        columns=tuple(Column(name=name, title=name) for name in ("series", "x", "y", "lo", "hi", "role")),
        rows=(*points, *line),
    )


STUDY = Study(
    name="run_planner",
    claims=("P2.3",),
    question=QUESTION,
    prediction="The arithmetic holds; the calendar delivers about a third of what the benchmark promises.",
    cost="nothing is trained; an instant",
    judge=judge,
)
