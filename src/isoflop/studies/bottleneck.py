"""How much does faster coding speed up research when compute is fixed?

Claim P1.1: coding is a small part of a project and compute is the bottleneck, so faster coding changes little
and a group with a fixed allocation cannot become many times more productive. Three models of a research
group say when that holds: Amdahl's law on project time, a production function of compute and labour with any
elasticity between them, and a queue of people who share a fixed pool of GPUs.
Prediction: the first half holds for every plausible share of coding; "cannot" does not, because output per
GPU-day is not fixed: better chosen or cheaper experiments pass straight through the bottleneck.
Command: ``isoflop run bottleneck``. Cost: none, seconds of simulation.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np

from isoflop.records import Column, Estimate, Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "How much does faster coding speed up research on a fixed compute allocation?"
LARGE = 2.0
"""A speed-up from here on would contradict "little"."""
MUCH = 1.5
"""A gain on the same allocation from here on contradicts "cannot"."""
FASTER = 10.0
"""Speed-up of coding that is assumed."""
NUM_GROUPS = 12
T_QUANTILE = 2.201
"""Of 97.5 % with NUM_GROUPS - 1 degrees of freedom."""
SHARES = (0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9)


def amdahl(share: float, factor: float) -> float:
    """Speed-up of a whole of which `share` is done `factor` times faster (Amdahl 1967)."""
    return 1 / (1 - share + share / factor)


def share_needed(speedup: float, factor: float = math.inf) -> float | None:
    """Share of the work that must be accelerated to reach `speedup`; None when no share is enough."""
    share = (1 - 1 / speedup) / (1 - 1 / factor)
    return share if share <= 1 else None


def production_gain(labour_factor: float, elasticity: float, compute_share: float = 0.5) -> float:
    """Output gained when labour is multiplied and compute stays.

    Constant elasticity of substitution (Arrow, Chenery, Minhas and Solow 1961), normalised to 1 before:
    Y = (a K^r + (1 - a) L^r)^(1/r) with r = 1 - 1/elasticity; Cobb-Douglas at elasticity 1.
    """
    if math.isclose(elasticity, 1.0):
        return labour_factor ** (1 - compute_share)
    r = 1 - 1 / elasticity
    return (compute_share + (1 - compute_share) * labour_factor**r) ** (1 / r)


def elasticity_for(speedup: float, labour_factor: float, compute_share: float = 0.5) -> float:
    """Elasticity at which `labour_factor` more labour gives `speedup`; it is found between 0.05 and 20."""
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(60):
        middle = (low + high) / 2
        too_little = production_gain(labour_factor, math.exp(middle), compute_share) < speedup
        low, high = (middle, high) if too_little else (low, middle)
    return math.exp((low + high) / 2)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A research group with a fixed allocation. Times in days, means of exponential distributions."""

    num_researchers: int = 5
    gpu_days_per_month: float = 50.0
    coding_days: float = 2.0
    other_days: float = 4.0
    """Thinking, reading, analysing between two experiments."""
    gpu_days_per_experiment: float = 2.5
    success: float = 0.1
    """Chance that an experiment brings a result."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a simulated group brought about."""

    results_per_month: float
    utilisation: float
    """Share of the allocation that was used."""


def simulate(group: Group, *, months: int, seed: int) -> Output:
    """People code, queue for the shared GPUs (first come, first served), analyse, and start again.

    The pool works off one experiment at a time at the rate of the allocation, so nothing is lost to packing.
    """
    rng = np.random.default_rng(seed)
    end = months * 30.4
    rate = group.gpu_days_per_month / 30.4
    ready = [(float(rng.exponential(group.coding_days)), person) for person in range(group.num_researchers)]
    heapq.heapify(ready)
    free = busy = 0.0
    results = 0
    while ready[0][0] < end:
        submitted, person = heapq.heappop(ready)
        length = float(rng.exponential(group.gpu_days_per_experiment)) / rate
        started = max(submitted, free)
        free = started + length
        busy += max(0.0, min(free, end) - min(started, end))
        results += int(rng.random() < group.success and free < end)
        pause = float(rng.exponential(group.other_days) + rng.exponential(group.coding_days))
        heapq.heappush(ready, (free + pause, person))
    return Output(results_per_month=results / months, utilisation=busy / end)


def speedup(group: Group, changed: Group, *, months: int = 180) -> Estimate:
    """Output of `changed` over that of `group`, with a t interval on the log over simulated groups."""
    logs = np.array(
        [
            math.log(
                simulate(changed, months=months, seed=seed).results_per_month
                / simulate(group, months=months, seed=seed + 10_000).results_per_month
            )
            for seed in range(NUM_GROUPS)
        ]
    )
    half = T_QUANTILE * float(logs.std(ddof=1)) / math.sqrt(NUM_GROUPS)
    mean = float(logs.mean())
    return Estimate(
        value=math.exp(mean),
        unit="factor",
        lo=math.exp(mean - half),
        hi=math.exp(mean + half),
        method=f"{NUM_GROUPS} simulated groups, {months} months each",
    )


def scenarios() -> dict[str, tuple[Group, Group]]:
    """What is changed in the group, beside the group as it was."""
    short, plenty = Group(), Group(gpu_days_per_month=500.0)
    return {
        f"coding {FASTER:.0f} times faster, compute short": (
            short,
            replace(short, coding_days=short.coding_days / FASTER),
        ),
        f"coding {FASTER:.0f} times faster, compute plenty": (
            plenty,
            replace(plenty, coding_days=plenty.coding_days / FASTER),
        ),
        "experiments twice as likely to succeed": (short, replace(short, success=2 * short.success)),
        "experiments at half the cost": (
            short,
            replace(short, gpu_days_per_experiment=short.gpu_days_per_experiment / 2),
        ),
        "twice the allocation": (short, replace(short, gpu_days_per_month=2 * short.gpu_days_per_month)),
    }


def judge(evidence: Evidence) -> Verdict:
    """The two halves of the claim, each under the model that suits it best."""
    queue = {name: speedup(*groups) for name, groups in scenarios().items()}
    coding_short, _, better, cheaper, _ = queue.values()
    likely = {share: amdahl(share, FASTER) for share in (0.2, 0.4)}
    limit = share_needed(LARGE)
    bend = elasticity_for(LARGE, FASTER)
    assert coding_short.hi is not None, "a simulated interval is always finite"
    assert better.lo is not None, "a simulated interval is always finite"
    statements = (
        Statement(
            text="Faster coding alone speeds up research by little",
            outcome="supported" if max(*likely.values(), coding_short.hi) < LARGE else "contradicted",
            because=f"{FASTER:.0f} times faster coding gives {likely[0.2]:.2f} when coding is 20 % of a project, "
            f"{likely[0.4]:.2f} when it is 40 %, and {coding_short.value:.2f} in the queue; doubling needs a share of "
            f"{limit:.0%} even with instant coding",
            estimate=coding_short,
        ),
        Statement(
            text="A group with a fixed allocation cannot become much more productive",
            outcome="contradicted" if better.lo > MUCH else "cannot tell",
            because=f"experiments twice as likely to succeed give {better.value:.2f}, experiments at half the cost "
            f"{cheaper.value:.2f}, on the same GPU-days",
            estimate=better,
        ),
        Statement(
            text="Ten times the output needs about ten times the compute",
            outcome="cannot tell",
            because=f"with an elasticity of {bend:.2f} between compute and labour, {FASTER:.0f} times the labour "
            f"doubles output at fixed compute; below it does less, above more",
            settle="the elasticity: output, labour and compute of many groups over years",
        ),
        Statement(
            text="When every group speeds up alike, nobody wins a larger share of a fixed pool of grants",
            outcome="supported",
            because="a share w / sum(w) does not change when every w is multiplied by the same factor",
        ),
    )
    return Verdict(
        study="bottleneck",
        claims=("P1.1",),
        question=QUESTION,
        outcome=statements[0].outcome if statements[0].outcome == statements[1].outcome else "cannot tell",
        sentence=f"Faster coding by itself gives {coding_short.value:.2f} times the results when compute is short; "
        f"experiments twice as likely to succeed give {better.value:.2f} times on the same allocation.",
        statements=statements,
        effect=f"{FASTER:.0f} times faster coding: {coding_short.value:.2f} times the results when compute is short",
        settle="a month of one group's queue logs and time sheets: the share of coding and the use of the allocation",
        limits=(
            "A model of a group, not data of one; its numbers are stated in the study file and can be changed.",
            "Success of experiments is independent; learning from failures is not in it.",
        ),
        tables=(_speedup_table(queue), _amdahl_table(), _production_table()),
        figures=(
            Figure(
                name="speedups",
                kind="intervals",
                title="Results per month, times as many",
                caption="Simulated group with a shared, fixed pool of GPUs.",
                alt=f"Better experiments: {better.value:.1f} times; faster coding: {coding_short.value:.1f} times.",
                tables=("speedups",),
                options={"reference": 1.0, "reference_label": "as before", "x_title": "factor"},
            ),
        ),
        summary={
            "amdahl": {f"s={share}, k={FASTER:.0f}": value for share, value in likely.items()},
            "amdahl_limit_20": amdahl(0.2, math.inf),
            "share_for_doubling": limit,
            "elasticity_for_doubling": bend,
            "queue": {name: found.value for name, found in queue.items()},
        },
    )


def _speedup_table(queue: dict[str, Estimate]) -> Table:
    return Table(
        name="speedups",
        title="What changes, and what it brings",
        columns=(
            Column(name="label", title="change"),
            Column(name="value", title="results", unit="factor", format="{:.2f}"),
            Column(name="lo", title="from", format="{:.2f}"),
            Column(name="hi", title="to", format="{:.2f}"),
        ),
        rows=tuple((name, found.value, found.lo, found.hi) for name, found in queue.items()),
    )


def _amdahl_table() -> Table:
    return Table(
        name="amdahl",
        title="Speed-up of a project by the share that is accelerated",
        columns=(
            Column(name="share", title="share", format="{:.0%}"),
            Column(name="ten", title=f"{FASTER:.0f} times faster", format="{:.2f}"),
            Column(name="limit", title="instant", format="{:.2f}"),
        ),
        rows=tuple((share, amdahl(share, FASTER), amdahl(share, math.inf)) for share in SHARES),
    )


def _production_table() -> Table:
    return Table(
        name="production",
        title=f"Output from {FASTER:.0f} times the labour at fixed compute",
        columns=(
            Column(name="elasticity", title="elasticity", format="{:.2g}"),
            Column(name="gain", title="output", unit="factor", format="{:.2f}"),
        ),
        rows=tuple((value, production_gain(FASTER, value)) for value in (0.1, 0.3, 0.5, 1.0, 2.0, 5.0)),
        note="Compute and labour weigh equally; small elasticity means that neither replaces the other.",
    )


STUDY = Study(
    name="bottleneck",
    claims=("P1.1",),
    question=QUESTION,
    prediction="Faster coding alone gives less than 1.7; better chosen experiments pass through the bottleneck.",
    cost="nothing is trained; seconds",
    judge=judge,
)
