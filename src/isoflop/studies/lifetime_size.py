"""Does the compute of serving a model, and of the experiments before it, strongly favour smaller models?

Claim P5.4: once inference and experiments are counted, smaller models trained longer are massively favoured.
For the loss of one large model as built (405B parameters on 15.6T tokens), the cheapest way to the same loss is
found for each number of tokens served (Sardana et al. 2024), over 4,000 draws of the refitted law.
Prediction: not at 1e13 or 1e14 served tokens; about half of all compute is saved at 1e15.
Command: ``isoflop run lifetime_size``. Cost: none, a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.laws import besiroglu
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.price import cheapest_for_loss, lifetime_flops, over_draws
from isoflop.records import Column, Estimate, Evidence, Figure, Outcome, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "How much does counting inference and experiments favour a smaller model?"
BUILT_N, BUILT_D = 405e9, 15.6e12
"""The model whose loss is the target: Llama 3.1 405B, as its makers describe it."""
SERVED = (0.0, 1e12, 1e13, 1e14, 1e15, 1e16)
MUCH = 0.5
"""Saving of lifetime compute that would deserve "massively"."""
LITTLE = 0.2
"""Saving below which it does not."""
SEARCH = 1.0
"""Experiments: this many times the final run's compute, spent at its own size and length."""


@dataclass(frozen=True)
class Saving:
    """What the cheapest size saves over the model as built, when so many tokens are served."""

    serve_tokens: float
    size: Estimate
    tokens_per_parameter: float
    saving: Estimate
    """Share of lifetime FLOPs."""


def saving(law: ChinchillaLaw, draws: ChinchillaLaw, serve_tokens: float, search: float = 0.0) -> Saving:
    """Compare the model as built with the cheapest one of the same loss.

    Args:
        law: the point estimate.
        draws: its draws; each draw has its own loss for the model as built.
        serve_tokens: tokens served over the model's life.
        search: experiments as a multiple of the final run. They cost (1 + search) k N D in all, which is the
            same trade as serving 1/(1 + search) of the tokens.
    """
    per_run = serve_tokens / (1.0 + search)

    def share(one: ChinchillaLaw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        best = cheapest_for_loss(one, one.loss(BUILT_N, BUILT_D), per_run)
        as_built = lifetime_flops(one, BUILT_N, BUILT_D, per_run)
        return np.asarray(best.N), np.asarray(best.D), 1.0 - np.asarray(best.total_flops) / as_built

    (N, D, saved), (N_draws, _, saved_draws) = share(law), share(draws)
    return Saving(
        serve_tokens,
        over_draws(float(N), N_draws, "parameters"),
        float(D / N),
        over_draws(float(saved), saved_draws, "share of lifetime FLOPs"),
    )


def tokens_for_saving(law: ChinchillaLaw, share: float) -> float:
    """Served tokens from which on the cheapest size saves this share (bisected in log T, from 1e13)."""
    low, high = 13.0, 20.0
    target = law.loss(BUILT_N, BUILT_D)
    for _ in range(60):
        middle = 0.5 * (low + high)
        T = 10.0**middle
        saved = 1.0 - cheapest_for_loss(law, target, T).total_flops / lifetime_flops(law, BUILT_N, BUILT_D, T)
        low, high = (middle, high) if saved < share else (low, middle)
    return float(10.0**high)


def judge(evidence: Evidence) -> Verdict:
    """At each number of served tokens: is the saving little, much, or can it not be told?"""
    law, draws = besiroglu.refit(), besiroglu.draws()
    rows = [saving(law, draws, T) for T in SERVED]
    by_tokens = {row.serve_tokens: row for row in rows}
    half_at = tokens_for_saving(law, MUCH)
    floor = law.smallest_size_for_loss(law.loss(BUILT_N, BUILT_D))
    statements = (
        *(served_statement(by_tokens[T]) for T in (1e13, 1e14, 1e15)),
        search_statement(saving(law, draws, 1e14), saving(law, draws, 1e14, SEARCH)),
    )
    return Verdict(
        study="lifetime_size",
        claims=("P5.4",),
        question=QUESTION,
        outcome=statements[1].outcome,
        sentence=f"Not strongly below about {half_at:.0e} served tokens: at 1e14 the cheapest size is "
        f"{(by_tokens[1e14].size.value or 0) / 1e9:.0f}B instead of 405B and saves "
        f"{by_tokens[1e14].saving.value:.0%} of all compute, at 1e15 {by_tokens[1e15].saving.value:.0%}.",
        statements=statements,
        effect=f"Half of the lifetime compute is saved from {half_at:.1e} served tokens on; no model under "
        f"{floor / 1e9:.0f}B reaches the loss with any amount of data.",
        unresolved=("how many tokens a model of this kind really serves",),
        limits=(
            "A served FLOP counts like a trained one; lower utilisation when serving favours smaller models further.",
            "Laws fitted at usual tokens per parameter overstate what far more tokens bring (Sardana et al. 2024), "
            "so the true savings are smaller.",
            "Equal loss stands for equal use; distillation and quantisation are left out.",
        ),
        tables=(savings_table(rows),),
        figures=(figure(),),
        summary={
            "served": [row.serve_tokens for row in rows],
            "N": [row.size.value for row in rows],
            "saving": [row.saving.value for row in rows],
            "half_saved_from_tokens": half_at,
            "floor_N": floor,
        },
    )


def served_statement(row: Saving) -> Statement:
    """ "Massively" at this number of served tokens."""
    low, high = row.saving.lo or 0.0, row.saving.hi or 0.0
    outcome: Outcome = "supported" if low >= MUCH else "contradicted" if high < MUCH else "cannot tell"
    point = row.saving.value or 0.0
    degree = "little" if point < LITTLE else "much" if point >= MUCH else "a good part"
    return Statement(
        text=f"With {row.serve_tokens:.0e} served tokens at least half of all compute is saved by a smaller model",
        outcome=outcome,
        because=f"{degree}: the cheapest size is {(row.size.value or 0) / 1e9:.0f}B at {row.tokens_per_parameter:.0f} "
        f"tokens per parameter and saves {point:.0%} ({low:.0%} to {high:.0%})",
        estimate=row.saving,
        settle=None
        if outcome != "cannot tell"
        else "runs at more than a hundred tokens per parameter, to narrow the law",
    )


def search_statement(without: Saving, including: Saving) -> Statement:
    """Experiments make training dearer, so they weigh against serving."""
    smaller = (including.size.value or 0.0) < (without.size.value or 0.0)
    return Statement(
        text="Counting experiments favours smaller models further",
        outcome="supported" if smaller else "contradicted",
        because=f"experiments of {SEARCH:.0f} times the final run, at its size and length, move the cheapest size at "
        f"1e14 served tokens from {(without.size.value or 0) / 1e9:.0f}B to {(including.size.value or 0) / 1e9:.0f}B: "
        "they make each training token dearer, and the smaller model needs more of those; experiments at a fixed small "
        "size change nothing",
        estimate=including.size,
    )


def savings_table(rows: list[Saving]) -> Table:
    columns = (
        Column(name="label", title="Served tokens"),
        Column(name="value", title="Cheapest size", unit="parameters", format="{:.3g}"),
        Column(name="lo", title="from", unit="parameters", format="{:.3g}"),
        Column(name="hi", title="to", unit="parameters", format="{:.3g}"),
        Column(name="tokens_per_parameter", title="Tokens per parameter", format="{:.0f}"),
        Column(name="saving", title="Saved of lifetime FLOPs", unit="share", format="{:.3f}"),
        Column(name="saving_lo", title="from", unit="share", format="{:.3f}"),
        Column(name="saving_hi", title="to", unit="share", format="{:.3f}"),
    )
    cells = tuple(
        (
            f"{row.serve_tokens:.0e}" if row.serve_tokens else "none",
            row.size.value, row.size.lo, row.size.hi, row.tokens_per_parameter,
            row.saving.value, row.saving.lo, row.saving.hi,
        )
        for row in rows
    )  # fmt: skip
    title = "Cheapest size for the loss of 405B parameters on 15.6T tokens"
    return Table(name="savings", title=title, columns=columns, rows=cells)


def figure() -> Figure:
    return Figure(
        name="sizes",
        kind="intervals",
        title="The more tokens a model serves, the smaller the cheapest one",
        caption="Cheapest size for the loss of 405B parameters on 15.6T tokens, training and serving together.",
        alt="The cheapest size falls with the number of served tokens.",
        tables=("savings",),
        options={"log": True, "reference": BUILT_N, "reference_label": "as built", "x_title": "parameters"},
    )


STUDY = Study(
    name="lifetime_size",
    claims=("P5.4",),
    question=QUESTION,
    prediction="Not at 1e13 or 1e14 served tokens; about half of all compute is saved at 1e15.",
    cost="nothing is trained; a second",
    judge=judge,
)
