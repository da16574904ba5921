"""Are repeated epochs as good as new data, and how many of them?

Claim P5.5, as far as the published fit goes: a few epochs are indistinguishable from new data, and any practical
number is only slightly worse. Judged from the decay that Muennighoff et al. 2023 fitted to several hundred runs;
nothing is trained here.
Prediction: the first half holds, the second does not: at 16 epochs a token is worth two thirds of a new one.
Command: ``isoflop run epochs_published``. Cost: none, an instant.
"""

from __future__ import annotations

from isoflop.laws.muennighoff import MUENNIGHOFF
from isoflop.records import Column, Estimate, Evidence, Figure, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "What is a training token worth when the text has to be read several times?"
EPOCHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 64, 100)
FEW, MANY = 4, 16
"""Epochs that stand for "a few" and for "any practical number"."""
NEARLY = 0.9
"""Worth of a token from which repetition is nearly as good as new text."""
SLIGHTLY = 0.8
"""Worth below which it is more than slightly worse."""
UNIQUE = 100e9
NO_INTERVAL = "published as a point estimate, without draws"


def loss_cost(epochs: float) -> float:
    """Loss above that of new text, nats per token: UNIQUE tokens read so often, on the size that they then suit."""
    D = epochs * UNIQUE
    N = MUENNIGHOFF.size_for_tokens(D)
    return float(MUENNIGHOFF.loss(N, D, UNIQUE) - MUENNIGHOFF.loss(N, D))


def judge(evidence: Evidence) -> Verdict:
    """Both halves of the claim, by the worth of a token."""
    few, many = (MUENNIGHOFF.value_of_epochs(n) for n in (FEW, MANY))
    statements = (
        Statement(
            text=f"A few epochs (up to {FEW}) are nearly as good as new text",
            outcome="supported" if few >= NEARLY else "contradicted",
            because=f"a token is worth {MUENNIGHOFF.value_of_epochs(2):.0%} of a new one at 2 epochs, "
            f"{few:.0%} at {FEW}",
            estimate=Estimate(value=few, unit="share", reason=NO_INTERVAL),
        ),
        Statement(
            text=f"Any practical number of epochs (up to {MANY}, and beyond) is only slightly worse",
            outcome="contradicted" if many < SLIGHTLY else "supported",
            because=f"a token is worth {MUENNIGHOFF.value_of_epochs(8):.0%} at 8 epochs, {many:.0%} at {MANY} and "
            f"{MUENNIGHOFF.value_of_epochs(40):.0%} at 40; all repetition together is worth at most "
            f"{1 + MUENNIGHOFF.R_D:.0f} passes",
            estimate=Estimate(value=many, unit="share", reason=NO_INTERVAL),
        ),
    )
    return Verdict(
        study="epochs_published",
        claims=("P5.5",),
        question=QUESTION,
        outcome="contradicted" if any(one.outcome == "contradicted" for one in statements) else "supported",
        sentence=f"The first half holds ({few:.0%} of a new token's worth at {FEW} epochs), the second does not "
        f"({many:.0%} at {MANY}).",
        statements=statements,
        effect=f"With {UNIQUE / 1e9:.0f}B different tokens, {FEW} epochs cost {loss_cost(FEW):.3f} nats against new "
        f"text and {MANY} cost {loss_cost(MANY):.3f}.",
        unresolved=(
            "the decay under weight decay, dropout or other data, which the published fit does not vary",
        ),
        limits=(
            "A published point estimate; its own spread is not public.",
            "Web text and models up to 9B parameters.",
        ),
        tables=(worth_table(),),
        figures=(figure(),),
        summary={"worth": {str(n): float(MUENNIGHOFF.value_of_epochs(n)) for n in EPOCHS}},
    )


def worth_table() -> Table:
    columns = (
        Column(name="series", title="Series"),
        Column(name="x", title="Epochs", format="{:.0f}"),
        Column(name="y", title="Worth of a token", unit="share of a new one", format="{:.2f}"),
        Column(name="lo", title="from"),
        Column(name="hi", title="to"),
        Column(name="role", title="Role"),
    )
    rows: list[tuple[str | float | None, ...]] = [
        ("worth of a token", float(n), float(MUENNIGHOFF.value_of_epochs(n)), None, None, "line")
        for n in EPOCHS
    ]
    rows += [("as new", float(n), 1.0, None, None, "reference") for n in (EPOCHS[0], EPOCHS[-1])]
    return Table(
        name="worth",
        title="Mean worth of a training token",
        columns=columns,
        rows=tuple(rows),
        note=f"No intervals: {NO_INTERVAL}.",
    )


def figure() -> Figure:
    return Figure(
        name="worth",
        kind="curves",
        title="The first few passes are nearly free; then each brings less",
        caption="Mean worth of a training token, relative to a new one, by the published decay.",
        alt="The worth falls slowly to four epochs and then steadily.",
        tables=("worth",),
        options={"log_x": True, "x_title": "epochs", "y_title": "worth of a token"},
    )


STUDY = Study(
    name="epochs_published",
    claims=("P5.5",),
    question=QUESTION,
    prediction="The first half holds; at 16 epochs a token is worth two thirds of a new one, so the second does not.",
    cost="nothing is trained; an instant",
    judge=judge,
)
