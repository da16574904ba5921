"""Would LLaMA 7B or 13B, trained with the compute of LLaMA 65B, have matched it? A forecast, tested years later.

Claim P17.1: the loss curves of four models did not flatten, so 7B trained 12.5 times longer, or 13B 7.6 times
longer, would probably have matched or passed 65B. The multiples are ratios of published GPU-hours. The forecast
is asked of two laws, and held against models that were later released with about such budgets.
Prediction: no with the refitted law; with Hoffmann's printed parameters 13B comes level, so the answer hangs on
the law; the later models agree with the post, with better data as a confound.
Command: ``isoflop run backtest``. Cost: none, an instant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isoflop.laws import besiroglu, hoffmann
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.price import over_draws
from isoflop.records import Column, Estimate, Evidence, Figure, Outcome, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Would the small model have matched the large one at the large one's compute?"
SURE = 0.95
LEVEL = 0.005
"""Losses that differ by less, in nats per token, count as level: about the noise between seeds."""

GPU_HOURS = {"7B": 82_432, "13B": 135_168, "65B": 1_022_362}
"""A100 hours, Touvron et al. 2023 (LLaMA), table 15."""
LARGE_N, LARGE_D = 65e9, 1.4e12
SMALL = {"7B": (7e9, 12.5), "13B": (13e9, 7.6)}
"""Parameters, and the multiple of its own 1T tokens that the post gives."""
SMALL_D = 1e12
LAWS = (
    ("refit", besiroglu.refit),
    ("Hoffmann, unrounded", lambda: hoffmann.APPROACH_3),
    ("Hoffmann, as printed", lambda: hoffmann.APPROACH_3_PRINTED),
)


@dataclass(frozen=True)
class Released:
    """A model that was really trained, and its score."""

    name: str
    N: float
    D: float
    mmlu: float
    """Five-shot accuracy as its makers report it."""
    source: str


RELEASED = (
    Released("LLaMA 65B", 65e9, 1.4e12, 0.634, "Touvron et al. 2023 (LLaMA), table 9"),
    Released("Llama 3 8B", 8e9, 15e12, 0.666, "Llama 3 model card, 2024"),
    Released("Chinchilla 70B", 70e9, 1.4e12, 0.676, "Hoffmann et al. 2022, table 6"),
)
MMLU_ITEMS = 14_042


def gpu_hour_ratio(small: str) -> float:
    """How often the small model could have been trained in the GPU-hours of 65B."""
    return GPU_HOURS["65B"] / GPU_HOURS[small]


def behind(law: ChinchillaLaw, small: str) -> np.ndarray:
    """Loss of the small model, trained so much longer, above that of 65B; nats per token."""
    N, times = SMALL[small]
    return np.asarray(law.loss(N, times * SMALL_D) - law.loss(LARGE_N, LARGE_D))


def judge(evidence: Evidence) -> Verdict:
    """Two forecasts by the refitted law, the same by the printed one, and the later models."""
    draws = besiroglu.draws()
    statements = (
        ratio_statement(),
        *(forecast_statement(small, draws) for small in SMALL),
        printed_statement(),
        released_statement(),
    )
    refit = {small: float(behind(besiroglu.refit(), small)) for small in SMALL}
    printed = float(behind(hoffmann.APPROACH_3_PRINTED, "13B"))
    return Verdict(
        study="backtest",
        claims=("P17.1",),
        question=QUESTION,
        outcome="cannot tell",
        sentence=f"By the refitted law 13B stays {refit['13B']:.3f} nats behind and 7B {refit['7B']:.3f}; by the "
        f"parameters as printed 13B is {printed:.3f} behind; later models of that size and compute did reach the "
        "score, on better data. Loss says no, the benchmark says yes, and they differ in more than size.",
        statements=statements,
        effect=effect(),
        settle="both sizes on the same data at equal compute, followed to the end",
        unresolved=(
            "data quality: the later models saw other and more filtered text",
            "whether a curve drawn at a twelfth of the budget forecasts its end: that takes training runs",
        ),
        limits=(
            "MMLU scores are the makers' own, with their own prompts; intervals are item sampling alone.",
            "GPU-hours, not FLOPs, set the multiples, as in the post; they favour the small model slightly.",
        ),
        tables=(forecast_table(draws), released_table()),
        figures=(figure(),),
        summary={
            "gpu_hour_ratios": {small: gpu_hour_ratio(small) for small in SMALL},
            "losses": {
                name: {
                    "65B": float(law().loss(LARGE_N, LARGE_D)),
                    **{small: float(law().loss(N, times * SMALL_D)) for small, (N, times) in SMALL.items()},
                }
                for name, law in LAWS
            },
        },
    )


def effect() -> str:
    """What the small model's loss is worth in compute."""
    law = besiroglu.refit()
    N, times = SMALL["13B"]
    needed = law.equivalent_compute(law.loss(N, times * SMALL_D))
    return (
        f"By the refitted law an ideally sized model reaches the loss of 13B on {times:.1f}T tokens with "
        f"{needed / (6 * N * times * SMALL_D):.0%} of its compute."
    )


def ratio_statement() -> Statement:
    ratios = {small: gpu_hour_ratio(small) for small in SMALL}
    right = all(math.isclose(ratios[small], times, rel_tol=0.02) for small, (_, times) in SMALL.items())
    return Statement(
        text="In the GPU-hours of 65B, 7B could be trained about 12.5 times and 13B about 7.6 times",
        outcome="supported" if right else "contradicted",
        because=f"the published GPU-hours give {ratios['7B']:.1f} and {ratios['13B']:.1f}",
    )


def forecast_statement(small: str, draws: ChinchillaLaw) -> Statement:
    """By the refitted law, over its draws."""
    gap, gaps = float(behind(besiroglu.refit(), small)), behind(draws, small)
    level = float(np.mean(gaps <= LEVEL))
    outcome: Outcome = (
        "supported" if level >= SURE else "contradicted" if level <= 1 - SURE else "cannot tell"
    )
    return Statement(
        text=f"By the refitted law {small} on {SMALL[small][1]:.1f}T tokens matches 65B on 1.4T",
        outcome=outcome,
        because=f"it is {gap:.3f} nats behind, and level in {level:.0%} of the draws",
        estimate=over_draws(gap, gaps, "nats/token"),
        settle=None if outcome != "cannot tell" else "a law from runs at more tokens per parameter",
    )


def printed_statement() -> Statement:
    gap = float(behind(hoffmann.APPROACH_3_PRINTED, "13B"))
    return Statement(
        text="By Hoffmann's printed parameters, those at hand when it was written, 13B matches 65B",
        outcome="supported" if gap <= LEVEL else "contradicted",
        because=f"it is {gap:.3f} nats behind; unrounded it is "
        f"{float(behind(hoffmann.APPROACH_3, '13B')):.3f} behind, so two digits decide",
        estimate=Estimate(value=gap, unit="nats/token", reason="published without draws"),
    )


def released_statement() -> Statement:
    """A later small model against 65B, by item sampling alone."""
    large, small, _ = RELEASED
    difference = small.mmlu - large.mmlu
    se = math.sqrt(sum(one.mmlu * (1 - one.mmlu) / MMLU_ITEMS for one in (large, small)))
    estimate = Estimate(
        value=difference,
        unit="accuracy",
        lo=difference - 1.96 * se,
        hi=difference + 1.96 * se,
        method="two independent samples of items: too wide if the items are shared",
    )
    return Statement(
        text="A later model of about 8B parameters on such a budget scores at least as high on MMLU as 65B did",
        outcome="supported" if difference - 1.96 * se > 0 else "cannot tell",
        because=f"{small.name} scores {small.mmlu:.1%} with {6 * small.N * small.D:.1e} FLOPs, {large.name} "
        f"{large.mmlu:.1%} with {6 * large.N * large.D:.1e}; the data differ too",
        estimate=estimate,
    )


# ---------------------------------------------------------------------------------- tables, figures


def forecast_table(draws: ChinchillaLaw) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for name, law in LAWS:
        for small in SMALL:
            gap = float(behind(law(), small))
            label = f"{small} on {SMALL[small][1]:.1f}T"
            if name == "refit":
                found = over_draws(gap, behind(draws, small), "nats/token")
                rows.append((label, name, found.value, found.lo, found.hi, ""))
            else:
                rows.append(
                    (label, name, gap, gap, gap, "published without draws")
                )  # equal ends: no interval drawn
    columns = (
        Column(name="label", title="Small model"),
        Column(name="group", title="Law"),
        Column(name="value", title="Behind 65B on 1.4T", unit="nats/token", format="{:.3f}"),
        Column(name="lo", title="from", unit="nats/token", format="{:.3f}"),
        Column(name="hi", title="to", unit="nats/token", format="{:.3f}"),
        Column(name="reason", title="Why no interval"),
    )
    return Table(
        name="forecasts", title="Loss behind 65B at its compute, by law", columns=columns, rows=tuple(rows)
    )


def released_table() -> Table:
    columns = (
        Column(name="model", title="Model"),
        Column(name="N", title="Parameters", format="{:.3g}"),
        Column(name="D", title="Tokens", format="{:.3g}"),
        Column(name="flops", title="6ND", unit="FLOPs", format="{:.2g}"),
        Column(name="mmlu", title="MMLU", unit="accuracy", format="{:.3f}"),
        Column(name="source", title="Source"),
    )
    rows = tuple((one.name, one.N, one.D, 6 * one.N * one.D, one.mmlu, one.source) for one in RELEASED)
    return Table(name="released", title="Models that were released", columns=columns, rows=rows)


def figure() -> Figure:
    return Figure(
        name="forecasts",
        kind="intervals",
        title="Whether the small model catches up hangs on the law",
        caption="Predicted loss behind 65B on 1.4T tokens, at equal GPU-hours; level at zero.",
        alt="Under the refit both small models are clearly behind; under the printed parameters 13B is level.",
        tables=("forecasts",),
        options={"reference": 0.0, "reference_label": "level", "x_title": "nats per token behind"},
    )


STUDY = Study(
    name="backtest",
    claims=("P17.1",),
    question=QUESTION,
    prediction="No by the refitted law, level for 13B by the printed one; later models agree with the post.",
    cost="nothing is trained; an instant",
    judge=judge,
)
