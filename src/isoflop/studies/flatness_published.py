"""Do the statements about flat isoFLOP curves at the compute of the largest open model follow from the public points?

Claims P5.1 and P5.2: at 3.8e25 FLOPs the loss hardly changes over a factor of ten in size on either side of the
optimum ("within 1 %"), the optimum itself is uncertain by "almost an order of magnitude", and the basin widens
with compute. Judged from 4,000 certified bootstrap draws of the law fitted to the public points of Hoffmann et
al. 2022; nothing is trained.
Prediction: the optimum and its loss reproduce; the interval and the "within 1 %" do not hold as worded.
Command: ``isoflop run flatness_published``. Cost: none, a second.
"""

from __future__ import annotations

import numpy as np

from isoflop.laws import besiroglu
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.belief import published
from isoflop.plan.price import compute_kept, over_draws, share_within, smallest_safe_size
from isoflop.records import Column, Estimate, Evidence, Figure, Outcome, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = (
    "Is the loss at 3.8e25 FLOPs flat over a factor of ten in size, and how well is the best size known?"
)
FLOPS = 3.8e25
"""Training compute of the model that the statements are about, as its makers give it."""
QUOTED_OPTIMUM, QUOTED_LOSS, QUOTED_SIDE_LOSS = 650e9, 1.89, 1.91
QUOTED_SIDES = (65e9, 6.5e12)
TOLERANCE = 0.01
NEARLY_TEN = 8.0
"""From this ratio of its ends on, an interval "spans almost an order of magnitude"."""
SURE = 0.95
_WORST_FIRST: tuple[Outcome, ...] = ("contradicted", "cannot tell")
BUDGETS = (1e18, 1e20, 1e22, 5.9e23, FLOPS)
"""Where the width of the basin is shown: from small sweeps to the largest open model."""


def outcome_of(share: float) -> Outcome:
    """Supported when true in at least 95 % of the draws, contradicted when true in at most 5 %."""
    return "supported" if share >= SURE else "contradicted" if share <= 1 - SURE else "cannot tell"


def judge(evidence: Evidence) -> Verdict:
    """Each statement as it was worded, under the point estimate and over the draws."""
    law, draws = besiroglu.refit(), besiroglu.draws()
    statements = (
        optimum_statement(law, draws),
        interval_statement(law, draws),
        loss_statement(law, draws),
        side_loss_statement(law, draws),
        within_statement(law, draws),
        widening_statement(law, draws),
    )
    bests, basin = draws.optimum(FLOPS), draws.basin(FLOPS, TOLERANCE)
    safe = smallest_safe_size(basin, SURE)
    kept = over_draws(
        compute_kept(law, law.optimum(FLOPS).loss, law.loss_at(QUOTED_SIDES[0], FLOPS)),
        compute_kept(draws, bests.loss, draws.loss_at(QUOTED_SIDES[0], FLOPS)),
        "share of compute",
    )
    return Verdict(
        study="flatness_published",
        claims=("P5.1", "P5.2"),
        question=QUESTION,
        outcome=overall(statements),
        sentence=f"{'As' if overall(statements) == 'supported' else 'Not as'} worded: the best size is "
        f"{estimate_words(size_estimate(law, draws))}, so its interval spans a factor of "
        f"{ratio(statements[1].estimate):.1f}; a factor of ten in size to either side costs "
        f"{loss_gap(law, QUOTED_SIDES[0]):.1%} and {loss_gap(law, QUOTED_SIDES[1]):.1%} of the loss.",
        statements=statements,
        effect=f"A tenth of the best size costs {loss_gap(law, QUOTED_SIDES[0]):.1%} of loss, which an optimal model "
        f"reaches with {estimate_words(kept, percent=True)} of the compute; the smallest size within 1 % in 95 % of "
        f"the draws is {(safe.N or 0) / 1e9:.0f}B.",
        unresolved=(
            "whether the law holds three decades beyond its largest run, which no draw can say",
            "the width of measured basins: sweeps up to 1e22 FLOPs have a factor of about two either side",
        ),
        limits=(
            "One form, one loss function and one outlier rule give the intervals; the table of other choices shows "
            "that they move the optimum as much as the sampling error does.",
            "Runs are redrawn one by one, as in the published notebook; redrawing whole model sizes would widen it.",
        ),
        tables=(bowl_table(law, draws), widths_table(law, draws), choices_table(draws)),
        figures=figures(law),
        summary={
            "N_opt": law.optimum(FLOPS).N,
            "N_opt_ci95": [statements[0].estimate.lo, statements[0].estimate.hi]
            if statements[0].estimate
            else None,
            "interval_ratio": ratio(statements[1].estimate),
            "loss_opt": law.optimum(FLOPS).loss,
            "losses_at_sides": [float(law.loss_at(N, FLOPS)) for N in QUOTED_SIDES],
            "gaps": [loss_gap(law, N) for N in QUOTED_SIDES],
            "share_within_1pct": [share_within(basin, N) for N in QUOTED_SIDES],
            "smallest_within_1pct_at_95": safe.N,
            "basin_factor": law.basin_factor(FLOPS, TOLERANCE),
        },
    )


def overall(statements: tuple[Statement, ...]) -> Outcome:
    """The claim is the conjunction of its statements."""
    outcomes = {statement.outcome for statement in statements}
    return next((one for one in _WORST_FIRST if one in outcomes), "supported")


def loss_gap(law: ChinchillaLaw, N: float) -> float:
    """Loss of a size above the best one at FLOPS, relative."""
    return float(law.loss_at(N, FLOPS) / law.optimum(FLOPS).loss - 1.0)


def ratio(estimate: Estimate | None) -> float:
    """Upper over lower end of an interval."""
    assert estimate is not None, "a law with draws has intervals"
    assert estimate.lo is not None, "a law with draws has intervals"
    assert estimate.hi is not None, "a law with draws has intervals"
    return estimate.hi / estimate.lo


def estimate_words(estimate: Estimate, *, percent: bool = False) -> str:
    """ "19% (8% to 34%)", or sizes in billions."""
    values = (estimate.value or 0.0, estimate.lo or 0.0, estimate.hi or 0.0)
    point, low, high = (f"{v:.0%}" if percent else f"{v / 1e9:.0f}B" for v in values)
    return f"{point} ({low} to {high})"


def size_estimate(law: ChinchillaLaw, draws: ChinchillaLaw) -> Estimate:
    """The best size at FLOPS."""
    return over_draws(law.optimum(FLOPS).N, draws.optimum(FLOPS).N, "parameters")


def optimum_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    size = size_estimate(law, draws)
    median = float(np.median(draws.optimum(FLOPS).N))
    near = abs(median / QUOTED_OPTIMUM - 1) < 0.05
    return Statement(
        text="The best size is about 650B parameters",
        outcome="supported" if near else "contradicted",
        because=f"the fit gives {estimate_words(size)} and the median over the draws is {median / 1e9:.0f}B",
        estimate=size,
    )


def interval_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    size, sizes = size_estimate(law, draws), np.asarray(draws.optimum(FLOPS).N)
    spread = float(sizes.max() / sizes.min())
    return Statement(
        text="The 95 % interval of the best size spans almost an order of magnitude",
        outcome="supported" if ratio(size) >= NEARLY_TEN else "contradicted",
        because=f"its ends differ by a factor of {ratio(size):.2f}; the smallest and the largest of the "
        f"{sizes.size:,} draws differ by {spread:.1f}, which is no 95 % interval",
        estimate=size,
    )


def loss_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    loss = over_draws(law.optimum(FLOPS).loss, draws.optimum(FLOPS).loss, "nats/token")
    reproduced = round(loss.value or 0.0, 2) == QUOTED_LOSS
    return Statement(
        text="A reproduction gives a loss of 1.89 at the optimum",
        outcome="supported" if reproduced else "contradicted",
        because=f"it gives {loss.value:.3f}",
        estimate=loss,
    )


def side_loss_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    losses = [law.loss_at(N, FLOPS) for N in QUOTED_SIDES]
    reproduced = all(round(loss, 2) == QUOTED_SIDE_LOSS for loss in losses)
    return Statement(
        text="A reproduction gives a loss of 1.91 at 65B and at 6.5T parameters",
        outcome="supported" if reproduced else "contradicted",
        because=f"it gives {losses[0]:.3f} and {losses[1]:.3f}, which round to "
        f"{losses[0]:.2f} and {losses[1]:.2f}; the difference is far inside the interval of either",
        estimate=over_draws(losses[0], draws.loss_at(QUOTED_SIDES[0], FLOPS), "nats/token"),
    )


def within_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    best = draws.optimum(FLOPS).loss
    gaps = [np.asarray(draws.loss_at(N, FLOPS)) / best - 1.0 for N in QUOTED_SIDES]
    both = float(np.mean((gaps[0] <= TOLERANCE) & (gaps[1] <= TOLERANCE)))
    alone = [float(np.mean(gap <= TOLERANCE)) for gap in gaps]
    return Statement(
        text="65B and 6.5T parameters are within 1 % of the best loss",
        outcome=outcome_of(both),
        because=f"they are {loss_gap(law, QUOTED_SIDES[0]):.2%} and {loss_gap(law, QUOTED_SIDES[1]):.2%} above it; "
        f"within 1 % are 65B in {alone[0]:.0%}, 6.5T in {alone[1]:.0%} and both in {both:.1%} of the draws; within "
        "1.5 % would be right",
        estimate=over_draws(loss_gap(law, QUOTED_SIDES[0]), gaps[0], "share of loss"),
    )


def widening_statement(law: ChinchillaLaw, draws: ChinchillaLaw) -> Statement:
    factors = np.array([np.asarray(draws.basin_factor(C, TOLERANCE)) for C in BUDGETS])
    share = float(np.mean(np.all(np.diff(factors, axis=0) > 0, axis=0)))
    return Statement(
        text="The basin that loses at most 1 % widens as compute grows",
        outcome=outcome_of(share),
        because=f"under the law it grows from a factor of {law.basin_factor(BUDGETS[0], TOLERANCE):.1f} either side at "
        f"{BUDGETS[0]:.0e} to {law.basin_factor(BUDGETS[-1], TOLERANCE):.1f} at {FLOPS:.1e} FLOPs, in {share:.0%} of "
        "the draws: it must, since the reducible part of the loss shrinks while 1 % of the whole hardly does",
        estimate=over_draws(law.basin_factor(FLOPS, TOLERANCE), factors[-1], "factor"),
    )


# ---------------------------------------------------------------------------------- tables, figures


def bowl_table(law: ChinchillaLaw, draws: ChinchillaLaw) -> Table:
    """Loss above each draw's own best over size at FLOPS."""
    rows: list[tuple[str | float | None, ...]] = []
    best, bests = law.optimum(FLOPS).loss, draws.optimum(FLOPS).loss
    for N in np.geomspace(2e10, 2e13, 61):
        low, high = np.quantile(np.asarray(draws.loss_at(N, FLOPS)) / bests - 1.0, (0.025, 0.975))
        above = 100 * (law.loss_at(N, FLOPS) / best - 1.0)
        rows.append(("95 % of the draws", float(N), None, 100 * float(low), 100 * float(high), "band"))
        rows.append(("the law", float(N), above, None, None, "line"))
    rows += [("1 %", N, 1.0, None, None, "reference") for N in (2e10, 2e13)]
    for N in QUOTED_SIDES:
        gaps = 100 * (np.asarray(draws.loss_at(N, FLOPS)) / bests - 1.0)
        low, high = (float(end) for end in np.quantile(gaps, (0.025, 0.975)))
        rows.append(("65B and 6.5T", N, 100 * loss_gap(law, N), low, high, "points"))
    return Table(
        name="bowl", title="Loss above the best, by size, at 3.8e25 FLOPs", columns=_CURVE, rows=tuple(rows)
    )


def widths_table(law: ChinchillaLaw, draws: ChinchillaLaw) -> Table:
    """Basin width and width of the interval of the best size, by budget."""
    rows = []
    for C in BUDGETS:
        low, high = np.quantile(np.asarray(draws.basin_factor(C, TOLERANCE)), (0.025, 0.975))
        ends = np.quantile(np.asarray(draws.optimum(C).N), (0.025, 0.975))
        rows.append((C, law.basin_factor(C, TOLERANCE), float(low), float(high), float(ends[1] / ends[0])))
    columns = (
        Column(name="flops", title="Budget", unit="FLOPs", format="{:.2g}"),
        Column(name="factor", title="1 % basin, either side", unit="factor", format="{:.1f}"),
        Column(name="lo", title="from", unit="factor", format="{:.1f}"),
        Column(name="hi", title="to", unit="factor", format="{:.1f}"),
        Column(
            name="interval",
            title="95 % interval of the best size, ends' ratio",
            unit="factor",
            format="{:.2f}",
        ),
    )
    return Table(
        name="widths",
        title="Width of the basin and of the interval, by budget",
        columns=columns,
        rows=tuple(rows),
    )


def choices_table(draws: ChinchillaLaw) -> Table:
    """The best size under other choices in the fit."""
    belief = published("besiroglu")
    size = size_estimate(belief.law, draws)
    rows: list[tuple[str | float | None, ...]] = [
        ("as judged: Huber's loss, 240 runs", size.value, size.lo, size.hi, "")
    ]
    others = [(words, law.optimum(FLOPS).N, _NO_DRAWS) for words, law in belief.other_fits]
    others += [(one.title, one.law.optimum(FLOPS).N, one.why_no_draws) for one in map(published, _OTHER_LAWS)]
    rows += [(words, N, N, N, reason) for words, N, reason in others]  # equal ends: drawn without an interval
    columns = (
        Column(name="label", title="Choice"),
        Column(name="value", title="Best size", unit="parameters", format="{:.3g}"),
        Column(name="lo", title="from", unit="parameters", format="{:.3g}"),
        Column(name="hi", title="to", unit="parameters", format="{:.3g}"),
        Column(name="reason", title="Why no interval"),
    )
    return Table(
        name="choices",
        title="The best size at 3.8e25 FLOPs under other choices",
        columns=columns,
        rows=tuple(rows),
    )


_OTHER_LAWS = ("hoffmann", "muennighoff")
_NO_DRAWS = "a point estimate beside the interval, to show the choice alone"
_CURVE = (
    Column(name="series", title="Series"),
    Column(name="x", title="Size", unit="parameters", format="{:.3g}"),
    Column(name="y", title="Above the best", unit="% of loss", format="{:.2f}"),
    Column(name="lo", title="from", unit="% of loss", format="{:.2f}"),
    Column(name="hi", title="to", unit="% of loss", format="{:.2f}"),
    Column(name="role", title="Role"),
)


def figures(law: ChinchillaLaw) -> tuple[Figure, ...]:
    """The bowl with its draws, and the best size under other choices."""
    gaps = [loss_gap(law, N) for N in QUOTED_SIDES]
    return (
        Figure(
            name="bowl",
            kind="curves",
            title=f"A factor of ten in size costs {min(gaps):.1%} to {max(gaps):.1%} of the loss",
            caption="Loss above the best at 3.8e25 FLOPs by size. The band holds 95 % of the draws, each measured "
            "from its own best.",
            alt="A flat bowl; 65 billion and 6.5 trillion parameters lie on its two sides.",
            tables=("bowl",),
            options={"log_x": True, "x_title": "parameters", "y_title": "loss above the best, %"},
        ),
        Figure(
            name="choices",
            kind="intervals",
            title="Choices in the fit move the best size as much as sampling error does",
            caption="Best size at 3.8e25 FLOPs: the interval of the fit that was judged, and point estimates under "
            "other choices.",
            alt="The best size by choice, beside the interval of the fit that was judged.",
            tables=("choices",),
            options={"log": True, "x_title": "parameters"},
        ),
    )


STUDY = Study(
    name="flatness_published",
    claims=("P5.1", "P5.2"),
    question=QUESTION,
    prediction='The optimum and its loss reproduce; "almost an order of magnitude" and "within 1 %" do not hold.',
    cost="nothing is trained; a second",
    judge=judge,
)
