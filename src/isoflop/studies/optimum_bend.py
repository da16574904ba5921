"""Does the best size as a function of compute bend on a log-log plot?

Claim P21.2. Judged from the best size at each budget of public isoFLOP sweeps (two readings of Chinchilla's Figure 4,
which count as one sweep; Marin; five settings on OpenWebText2), as our own program finds them
(`isoflop.laws.optima`). A path of optima is straight for every law E + A/N^a + B/D^b, so a bend says that the law or
the settings change along the way. An estimator can bend a straight path by itself: each is held against sweeps of
the same sizes, budgets and noise, planted without a bend.
Prediction: parabolas bend what is straight, and the bends that remain disagree in sign.
Command: ``isoflop run optimum_bend``. Cost: none, an instant.
"""

from __future__ import annotations

import numpy as np

from isoflop.judge.curves_view import CURVE_COLUMNS
from isoflop.judge.path_bend import Found, PathBend, SweepOptima, adjusted, drift_of, public_bends
from isoflop.records import (
    Column,
    DecisionRule,
    Evidence,
    Figure,
    Outcome,
    Scalar,
    Statement,
    Table,
    Verdict,
)
from isoflop.studies.study import Study

QUESTION = "Does the best size as a function of compute bend on a log-log plot?"
LEVEL = 0.05
SAME_SWEEP = ("epochai_chinchilla", "ml_scalefit")
MATCHED = ("base short chinchilla standard", "tuned short const standard")
"""Sweeps whose schedule fits each budget."""
SHORT = {SAME_SWEEP[0]: "Chinchilla", MATCHED[0]: "matched decay", MATCHED[1]: "tuned rate"}
AS_MUCH = "It bends as much where schedule or rate are tuned for each budget"
MATTERS = 1.5
"""A bend that moves the best size by this factor two decades on is worth knowing."""


def judge(evidence: Evidence) -> Verdict:
    """Supported when sweeps bend alike whatever their settings; contradicted when none bends."""
    bends, parabolas = public_bends("bowl"), public_bends("parabola")
    p = adjusted(bends, SAME_SWEEP)
    bent = tuple(name for name in bends if p[name] < LEVEL)
    statements = (
        chinchilla_statement(bends, p),
        matched_statement(bends, p),
        estimator_statement(bends, parabolas),
        matters_statement(bends),
    )
    own, matched, tuned = (bends[name] for name in (SAME_SWEEP[0], *MATCHED))
    return Verdict(
        study="optimum_bend",
        claims=("P21.2",),
        question=QUESTION,
        outcome=overall(bends, bent),
        sentence=f"It does in Chinchilla's own points, downwards ({drift_words(*own)} per decade of compute), and in "
        f"{_count(set(bent) - set(SAME_SWEEP))} of {len(bends) - 2} other sweeps; with the decay matched to each "
        f"budget ({drift_words(*matched)}) or a tuned constant rate ({drift_words(*tuned)}) it does not, so the bend "
        "may be in the settings rather than in the law.",
        statements=statements,
        effect=f"Two decades beyond Chinchilla's largest budget the bent path asks for {_times(own[1])} of the size "
        "that the straight one asks for.",
        settle="two more budgets, a decade apart, in a sweep whose schedule and rate are tuned at every budget",
        unresolved=(
            "whether the path bends by its law: every sweep that bends kept some setting fixed over budgets",
            "Chinchilla's exact losses: both readings were measured off the same figure",
        ),
        limits=(
            "Planted sweeps hold the fitted law to be true, and take noise and scatter as the sweep itself shows them.",
            "Runs that the sources themselves flag as outliers are left out, and budgets whose minimum lies outside "
            "the sizes tried.",
        ),
        tables=(bend_table(bends, parabolas, p), path_table(bends)),
        figures=_figures(),
        summary={
            "drift_per_decade": {
                name: [drift.value, drift.lo, drift.hi]
                for name, drift in ((name, drift_of(*pair)) for name, pair in bends.items())
            },
            "p_planted_holm": p,
            "p_t": {name: bend.p for name, (_, bend) in bends.items()},
            "bent": list(bent),
            "estimator_drift": {name: one.planted.drift_mean for name, (one, _) in parabolas.items()},
        },
    )


def overall(bends: Found, bent: tuple[str, ...]) -> Outcome:
    """Bends in every sweep, alike in sign: supported. In none: contradicted. Otherwise nothing can be told."""
    signs = {np.sign(bends[name][1].drift.value or 0.0) for name in bent}
    if len(bent) == len(bends) and len(signs) == 1:
        return "supported"
    return "cannot tell" if bent else "contradicted"


def chinchilla_statement(bends: Found, p: dict[str, float]) -> Statement:
    first, second = (bends[name] for name in SAME_SWEEP)
    certain = p[SAME_SWEEP[0]] < LEVEL
    return Statement(
        text="The path of optima of the Chinchilla sweep bends",
        outcome="supported" if certain else "cannot tell",
        because=f"the exponent changes by {drift_words(*first)} and, in the second reading, {drift_words(*second)} per "
        f"decade; among planted straight paths so much is rare (p = {p[SAME_SWEEP[0]]:.3f} after Holm, the larger "
        f"of both readings); by Student's t, which is cautious with few budgets, p is {first[1].p:.2f} and "
        f"{second[1].p:.2f}",
        estimate=drift_of(*first),
        settle=None if certain else "the losses themselves instead of readings off a figure",
    )


def matched_statement(bends: Found, p: dict[str, float]) -> Statement:
    """Against the drift of the Chinchilla sweep: contradicted when all intervals exclude it, supported when none."""
    drifts = [drift_of(*bends[name]) for name in MATCHED]
    seen = bends[SAME_SWEEP[0]][1].drift.value or 0.0
    excluded = [not (drift.lo or 0.0) <= seen <= (drift.hi or 0.0) for drift in drifts]
    outcome: Outcome = "contradicted" if all(excluded) else "cannot tell"
    if not any(excluded) and all(p[name] < LEVEL for name in MATCHED):
        outcome = "supported"
    return Statement(
        text=AS_MUCH,
        outcome=outcome,
        because=f"drifts of {drift_words(*bends[MATCHED[0]])} and {drift_words(*bends[MATCHED[1]])} per decade against "
        f"Chinchilla's {seen:+.2f}; neither is told from none (p = {min(p[name] for name in MATCHED):.2f} or more "
        "after Holm)",
        estimate=drifts[0],
        settle="more budgets of such a sweep" if outcome == "cannot tell" else None,
    )


def estimator_statement(bends: Found, parabolas: Found) -> Statement:
    own = {name: one.planted.drift_mean for name, (one, _) in parabolas.items()}
    worst = max(own, key=lambda name: abs(own[name]))
    bowl = max(abs(one.planted.drift_mean) for one, _ in bends.values())
    drift = abs(parabolas[worst][1].drift.value or 0.0)
    explains = all(abs(own[name]) >= 0.5 * abs(parabolas[name][1].drift.value or 0.0) for name in own)
    return Statement(
        text="The bias of fitting parabolas alone makes the drift that is seen",
        outcome="supported" if explains else "contradicted",
        because=f"on planted straight paths parabolas drift by at most {abs(own[worst]):.3f} per decade "
        f"({parabolas[worst][0].title}, where {drift:.3f} is seen), skewed bowls by at most {bowl:.3f}; Chinchilla's "
        f"{abs(parabolas[SAME_SWEEP[0]][1].drift.value or 0.0):.3f} is not made by either",
    )


def matters_statement(bends: Found) -> Statement:
    reaches = {
        name: max(bend.further.hi or np.inf, 1 / (bend.further.lo or np.inf))
        for name, (_, bend) in bends.items()
    }
    open_ = [name for name, factor in reaches.items() if factor > MATTERS]
    return Statement(
        text=f"Two decades on, bent and straight paths ask for sizes within a factor of {MATTERS:g}",
        outcome="cannot tell" if open_ else "supported",
        because=f"that is certain in {_count(set(bends) - set(open_))} of {len(bends)} readings; Student's intervals "
        f"of {len(open_)} reach beyond a factor of {min(reaches[name] for name in open_):.1f}"
        if open_
        else "every interval lies inside",
        settle="budgets a decade apart: the error of a bend falls with the square of the range"
        if open_
        else None,
    )


def drift_words(one: SweepOptima, bend: PathBend) -> str:
    """ "-0.12 (-0.20 to -0.04)"."""
    drift = drift_of(one, bend)
    return f"{drift.value:+.2f} ({drift.lo:+.2f} to {drift.hi:+.2f})"


def _times(bend: PathBend) -> str:
    further = bend.further
    return f"{further.value:.2f} times ({further.lo:.2f} to {further.hi:.2f})"


def _count(names: set[str]) -> str:
    words = ("none", "one", "two", "three", "four", "five", "six")
    return words[len(names)] if len(names) < len(words) else str(len(names))


# ---------------------------------------------------------------------------------- tables, figures


def bend_table(bends: Found, parabolas: Found, p: dict[str, float]) -> Table:
    """The change of the exponent per decade, by sweep and estimator."""
    rows: list[tuple[Scalar, ...]] = []
    for group, every in (("bowl", bends), ("parabola", parabolas)):
        for name, (one, bend) in every.items():
            drift, planted = drift_of(one, bend), one.planted
            values = (
                drift.value,
                drift.lo,
                drift.hi,
                bend.num_budgets,
                planted.drift_mean,
                bend.p,
                planted.p,
            )
            rows.append((group, one.title, *values, p[name] if group == "bowl" else None))
    columns = (
        Column(name="group", title="Estimator"),
        Column(name="label", title="Sweep"),
        Column(name="value", title="Drift of the exponent", unit="per decade", format="{:+.3f}"),
        Column(name="lo", title="from", format="{:+.3f}"),
        Column(name="hi", title="to", format="{:+.3f}"),
        Column(name="budgets", title="Budgets", format="{:.0f}"),
        Column(name="own", title="Of planted straight paths", unit="per decade", format="{:+.3f}"),
        Column(name="p_t", title="p, Student", format="{:.3f}"),
        Column(name="p_planted", title="p, planted", format="{:.4f}"),
        Column(name="p_holm", title="p, planted, Holm", format="{:.3f}"),
    )
    return Table(
        name="bends",
        title="Change of the exponent of the best size, per decade of compute",
        columns=columns,
        rows=tuple(rows),
        note="Sources: " + "; ".join(dict.fromkeys(one.source for one, _ in bends.values())) + ".",
    )


def path_table(bends: Found) -> Table:
    """Best size over the straight path, with errors, and the bent path."""
    rows: list[tuple[Scalar, ...]] = []
    for name, title in SHORT.items():
        one, _ = bends[name]
        x = one.log_C / np.log(10)
        weight = 1 / one.se
        straight = np.polynomial.Polynomial.fit(x, one.log_N, 1, w=weight)
        bent = np.polynomial.Polynomial.fit(x, one.log_N, 2, w=weight)
        for at, y, se in zip(x, one.log_N - straight(x), one.se, strict=True):
            ends = (float(np.exp(y - 1.96 * se)), float(np.exp(y + 1.96 * se)))
            rows.append((title, float(10**at), float(np.exp(y)), *ends, "points"))
        for at in np.linspace(x.min(), x.max(), 41):
            rows.append((title, float(10**at), float(np.exp(bent(at) - straight(at))), None, None, "line"))
    x_column = Column(name="x", title="Budget", unit="FLOPs", format="{:.2g}")
    factors = tuple(
        Column(name=name, title=label, unit="factor", format="{:.2f}")
        for name, label in (("y", "Best size over the straight path"), ("lo", "from"), ("hi", "to"))
    )
    return Table(
        name="paths",
        title="Best size over its own straight path",
        columns=(CURVE_COLUMNS[0], x_column, *factors, CURVE_COLUMNS[-1]),
        rows=tuple(rows),
    )


def _figures() -> tuple[Figure, ...]:
    return (
        Figure(
            name="paths",
            kind="curves",
            title="What is left of the best sizes after a straight line",
            caption="Best size at each budget over the weighted straight line of its sweep, with 95 % intervals, and "
            "the parabola through them. A power law is the horizontal at 1.",
            alt="Chinchilla's points arch downwards; those of the sweeps with matched or tuned settings stay near 1.",
            tables=("paths",),
            options={
                "log_x": True,
                "log_y": True,
                "x_title": "budget, FLOPs",
                "y_title": "best size / straight path",
            },
        ),
        Figure(
            name="bends",
            kind="intervals",
            title="The bends differ between sweeps, in size and in sign",
            caption="Change of the exponent per decade of compute with its 95 % interval, by estimator; 0 is a power "
            "law.",
            alt="Intervals of the drift by sweep; most hold zero.",
            tables=("bends",),
            options={"reference": 0.0, "reference_label": "power law", "x_title": "drift per decade"},
        ),
    )


STUDY = Study(
    name="optimum_bend",
    claims=("P21.2",),
    question=QUESTION,
    prediction="Parabolas bend what is straight, and the bends that remain disagree in sign.",
    cost="nothing is trained; an instant",
    judge=judge,
    rule=DecisionRule(
        text="A sweep bends when its drift is rarer than 5 % among planted straight paths of its own sizes, budgets "
        "and noise, after Holm's correction over sweeps (two readings of one figure share the larger p). The claim "
        "is supported when all bend alike, contradicted when none does.",
        parameters={"level": LEVEL, "matters": MATTERS},
        statements=(
            "The path of optima of the Chinchilla sweep bends",
            AS_MUCH,
            "The bias of fitting parabolas alone makes the drift that is seen",
            f"Two decades on, bent and straight paths ask for sizes within a factor of {MATTERS:g}",
        ),
    ),
)
