"""From an isoFLOP sweep to a verdict: three countings fitted, the declared statements judged, nothing dropped.

Leaves out how the fit is made (`isoflop.fit.isoflop.sweep`) and how it is drawn (`isoflop.publish`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop import units
from isoflop.fit.isoflop.sweep import BudgetFit, IsoflopFit, SweepPoints, compute_equivalent, fit_isoflop
from isoflop.records import (
    Column,
    Estimate,
    Evidence,
    Exclusion,
    Figure,
    Fit,
    Outcome,
    Plan,
    RunEvidence,
    Scalar,
    Statement,
    Table,
    Verdict,
)

COUNTINGS = {
    "N_all": "all parameters",
    "N_nonembedding": "parameters without embedding and head",
    "N_matmul": "training FLOPs per token / 6",
}
MAIN = "N_all"
DRAWS_KEPT = 100


class JudgeError(ValueError):
    """No verdict can be given at all; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The points of a sweep as arrays, one row a finished cooldown branch."""

    runs: tuple[RunEvidence, ...]
    exclusions: tuple[Exclusion, ...]

    def column(self, label: str) -> np.ndarray:
        return np.array([float(run.spec.labels[label] or 0.0) for run in self.runs])

    def points(self, counting: str) -> SweepPoints:
        trunks = [str(run.spec.labels["trunk"]) for run in self.runs]
        ids = {trunk: index for index, trunk in enumerate(dict.fromkeys(trunks))}
        groups = np.array([run.measurements[-1].group_nats for run in self.runs])
        return SweepPoints(
            budget=self.column("budget"),
            size=self.column(counting),
            loss=self.losses,
            trunk=np.array([ids[trunk] for trunk in trunks]),
            seed=self.column("seed").astype(int),
            group_nats=groups,
        )

    @property
    def losses(self) -> np.ndarray:
        return np.array([_loss(run) for run in self.runs])


def _loss(run: RunEvidence) -> float:
    value = run.measurements[-1].loss.value
    assert value is not None, "gather() keeps only runs with a loss"
    return value


def gather(evidence: Evidence) -> Sweep:
    """The runs that count, and the reason of each that does not.

    Raises JudgeError when no run of the plan has a score.
    """
    kept: list[RunEvidence] = []
    exclusions: list[Exclusion] = []
    for run in evidence.runs:
        if run.spec.labels.get("role") != "point":
            continue
        if run.record is None:
            exclusions.append(
                Exclusion(what=run.spec.name, reason="never ended: resume the sweep to have it")
            )
        elif run.record.status != "finished":
            exclusions.append(
                Exclusion(what=run.spec.name, reason=f"{run.record.status}: {run.record.reason}")
            )
        elif not run.measurements or run.measurements[-1].loss.value is None:
            exclusions.append(Exclusion(what=run.spec.name, reason="finished without a score"))
        else:
            kept.append(run)
    if not kept:
        raise JudgeError("no run of this sweep has a score yet; train it first (isoflop train OUT)")
    return Sweep(runs=tuple(kept), exclusions=tuple(exclusions))


def judge_isoflop(evidence: Evidence, *, limits: tuple[str, ...] = ()) -> Verdict:
    """Judge an isoFLOP sweep by the rule in its plan.

    Args:
        evidence: the plan and its runs with their measurements.
        limits: the study's own sentences about what was not varied.

    Raises:
        JudgeError: no plan, or no scored run.
    """
    plan = evidence.plan
    if plan is None:
        raise JudgeError("an isoFLOP verdict needs the plan with its rule")
    sweep = gather(evidence)
    parameters = plan.rule.parameters
    fits = {
        counting: fit_isoflop(
            sweep.points(counting),
            eps=_number(parameters["eps"]),
            level=_number(parameters["level"]),
            num_draws=DRAWS_KEPT,
        )
        for counting in COUNTINGS
    }
    main = fits[MAIN]
    statements = judge_statements(main, plan, fits)
    forms = {"convex quartic": main} | {
        name: fit_isoflop(sweep.points(MAIN), degree=degree, eps=_number(parameters["eps"]), num_draws=0)
        for name, degree in (("cubic", 3), ("parabola", 2))
    }
    return Verdict(
        study=plan.study,
        claims=plan.claims,
        question=plan.question,
        outcome=statements[0].outcome,
        sentence=_sentence(main, statements[0]),
        statements=statements,
        effect=_effect(main),
        settle=statements[0].settle,
        unresolved=_unresolved(fits, statements, sweep),
        limits=limits,
        fits=tuple(_fit_record(name, fit) for name, fit in fits.items()),
        tables=_tables(sweep, fits, forms),
        figures=_figures(),
        exclusions=sweep.exclusions + main.exclusions,
        plan_fingerprint=plan.fingerprint(),
        summary=_summary(main),
    )


def _number(value: Scalar) -> float:
    assert isinstance(value, (int, float)), "a rule's parameters that are compared are numbers"
    return float(value)


# ------------------------------------------------------------------------------------ statements


def top_fit(fit: IsoflopFit) -> BudgetFit | None:
    """The accepted fit at the largest budget, or None when every budget was refused."""
    accepted = [budget for budget in fit.budgets if budget.status != "refused"]
    return accepted[-1] if accepted else None


def judge_statements(main: IsoflopFit, plan: Plan, fits: dict[str, IsoflopFit]) -> tuple[Statement, ...]:
    """The three statements of the rule, in its order."""
    texts = plan.rule.statements
    numbers = plan.rule.parameters
    top = top_fit(main)
    if top is None:
        reasons = "; ".join(f"{units.format_flops(b.budget)}: {b.reason}" for b in main.budgets)
        refused = f"no budget's fit was accepted ({reasons})"
        settle = "a sweep with more seeds, or sizes on both sides of the optimum"
        return tuple(Statement(text=t, outcome="cannot tell", because=refused, settle=settle) for t in texts)
    where = f"at {units.format_flops(top.budget)}"
    order, half = _number(numbers["order_of_magnitude"]), _number(numbers["half_size"])
    return (
        _against(texts[0], top.half_width, order, f"half-width {where}", len(plan.seeds)),
        _against(
            texts[1],
            top.factor_lo,
            half,
            f"factor from the optimum down to the basin's edge {where}",
            len(plan.seeds),
        ),
        _exponent_statement(texts[2], main, _number(numbers["exponent_within"])),
    )


def outcome_against(estimate: Estimate, threshold: float) -> Outcome:
    """ "supported" when the whole interval is at or above the threshold, "contradicted" when below it."""
    if estimate.lo is not None and estimate.lo >= threshold:
        return "supported"
    if estimate.hi is not None and estimate.hi < threshold:
        return "contradicted"
    return "cannot tell"


def _against(text: str, estimate: Estimate, threshold: float, what: str, num_seeds: int) -> Statement:
    outcome = outcome_against(estimate, threshold)
    because = f"{what}: {describe_factor(estimate)}, threshold ×{threshold:g}"
    return Statement(
        text=text,
        outcome=outcome,
        because=because,
        estimate=estimate,
        settle=None if outcome != "cannot tell" else _settle(estimate, threshold, num_seeds),
    )


def _settle(estimate: Estimate, threshold: float, num_seeds: int) -> str:
    """How many seeds would move the interval off the threshold, if the estimate stays where it is."""
    if estimate.value is None or estimate.lo is None or estimate.hi is None:
        return "sizes further out on the open side, so that the edge of the basin is bracketed"
    half = math.log(estimate.hi / estimate.lo) / 2
    gap = abs(math.log(estimate.value / threshold))
    if gap < 0.02:
        return "nothing affordable: the estimate sits on the threshold"
    seeds = math.ceil(num_seeds * (half / gap) ** 2) + 1
    return (
        f"about {seeds} seeds per size instead of {num_seeds}, if the estimate stays where it is "
        f"(the interval narrows with the square root of the seeds)"
    )


def _exponent_statement(text: str, main: IsoflopFit, within: float) -> Statement:
    exponent = main.exponent
    if exponent.value is None or exponent.lo is None or exponent.hi is None:
        because = exponent.reason or main.not_identified or "the exponent has no interval"
        return Statement(
            text=text,
            outcome="cannot tell",
            because=because,
            estimate=exponent,
            settle="more and higher budgets",
        )
    half = (exponent.hi - exponent.lo) / 2
    interval = f"{exponent.lo:.2f} to {exponent.hi:.2f}"
    because = f"exponent {exponent.value:.2f} (95 %: {interval}), counting {COUNTINGS[MAIN]}"
    if half <= within:
        return Statement(text=text, outcome="supported", because=because, estimate=exponent)
    span = len(main.budgets)
    return Statement(
        text=text,
        outcome="cannot tell",
        because=because + f": known to {half:.2f}, not to {within:g}",
        estimate=exponent,
        settle=f"a range of budgets {half / within:.1f} times as many decades wide, or about "
        f"{math.ceil((half / within) ** 2)} times the seeds at these {span} budgets",
    )


# --------------------------------------------------------------------------------------- in words


def describe_factor(estimate: Estimate) -> str:
    """ "x1.9 (95 %: x1.6 to x2.3)", with open ends said in words."""
    if estimate.value is None:
        return f"undefined ({estimate.reason})"
    lo = "unbounded below" if estimate.lo is None else f"×{estimate.lo:.2f}"
    hi = "unbounded above" if estimate.hi is None else f"×{estimate.hi:.2f}"
    return f"×{estimate.value:.2f} ({100 * estimate.level:g} %: {lo} to {hi})"


def _sentence(main: IsoflopFit, first: Statement) -> str:
    top = top_fit(main)
    if top is None:
        return "Cannot tell: at no budget do these runs bracket a minimum."
    width = describe_factor(top.half_width)
    at = f"At {units.format_flops(top.budget)}"
    flat = (
        f"{at} the loss stays within 1 % of its minimum for sizes up to {width} either side of the best one"
    )
    if first.outcome == "contradicted":
        return f"{flat}: flat, but nowhere near the order of magnitude that was claimed."
    if first.outcome == "supported":
        return f"{flat}: as flat as was claimed."
    return f"{flat}; this sweep cannot tell whether that reaches an order of magnitude."


def _effect(main: IsoflopFit) -> str:
    top = top_fit(main)
    if top is None or top.loss_opt.value is None:
        return ""
    worth = compute_equivalent(main, top.budget, 0.01 * top.loss_opt.value).fraction
    if worth.value is None:
        return f"1 % of loss in compute: {worth.reason}."
    interval = (
        ""
        if worth.lo is None or worth.hi is None
        else f" (95 %: {100 * worth.lo:.0f} to {100 * worth.hi:.0f} %)"
    )
    return (
        f"1 % of loss is {0.01 * top.loss_opt.value:.3f} nats/token at {units.format_flops(top.budget)}: as much as "
        f"{100 * worth.value:.0f} % of the compute buys at the best size{interval}."
    )


def _unresolved(
    fits: dict[str, IsoflopFit], statements: tuple[Statement, ...], sweep: Sweep
) -> tuple[str, ...]:
    lines = [
        f"{s.text} {s.because}. It would take {s.settle}." for s in statements if s.outcome == "cannot tell"
    ]
    for counting, fit in fits.items():
        if not fit.identified:
            lines.append(
                f"Exponent of the optimal size, counting {COUNTINGS[counting]}: {fit.not_identified}"
            )
    for budget in fits[MAIN].budgets:
        if budget.status != "ok":
            lines.append(f"{units.format_flops(budget.budget)}: {budget.reason}")
    lines += [f"Counting {COUNTINGS[MAIN]}: {note}." for note in fits[MAIN].notes]
    if len(set(sweep.column("seed"))) < 2:
        lines.append(
            "One seed only: the noise is taken from the scatter about the fitted curves, not from repeats."
        )
    return tuple(dict.fromkeys(lines))


# -------------------------------------------------------------------------------------- as tables


def _fit_record(counting: str, fit: IsoflopFit) -> Fit:
    estimates: dict[str, Estimate] = {"exponent": fit.exponent, "coefficient": fit.coefficient}
    for budget in fit.budgets:
        key = f"{budget.budget:.3g}"
        estimates |= {f"N_opt@{key}": budget.N_opt, f"half_width@{key}": budget.half_width}
    return Fit(
        name=f"isoflop/{counting}",
        form="per budget L = c0 + c1 u + c2 (u^2 + s u^3/3 + (s^2 + p) u^4/12), u = ln N - centre; N_opt ~ C^a",
        estimates=estimates,
        error_model=f"{fit.method}; {fit.interval_method}",
        notes=fit.notes,
        num_points=sum(budget.num_points for budget in fit.budgets),
        degrees_of_freedom=fit.noise.df,
        identified=fit.identified,
        not_identified=fit.not_identified,
        options={"counting": COUNTINGS[counting]},
    )


def _defined(rows: list[tuple[Scalar, ...]]) -> tuple[tuple[Scalar, ...], ...]:
    """The rows with None for what the fit left undefined; the remark of the row says why."""
    return tuple(
        tuple(None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row)
        for row in rows
    )


def _columns(*specs: tuple[str, str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=n, title=t, unit=u, format=f) for n, t, u, f in specs)


def _tables(sweep: Sweep, fits: dict[str, IsoflopFit], forms: dict[str, IsoflopFit]) -> tuple[Table, ...]:
    return (
        _bowl_table("bowls", "The bottom of each profile", fits),
        _exponent_table(fits),
        _degree_table(forms),
        _points_table(sweep, fits[MAIN]),
        _draw_table(fits),
    )


def _points_table(sweep: Sweep, main: IsoflopFit) -> Table:
    included = points_included(main, sweep)
    rows: list[tuple[Scalar, ...]] = []
    for index, run in enumerate(sweep.runs):
        labels = run.spec.labels
        score = run.measurements[-1]
        reason = (
            "" if included[index] else f"over {main.rules.max_rise:.0%} above the lowest loss of its budget"
        )
        rows.append(
            (
                labels["budget"], run.spec.name, labels["size"], labels["N_nonembedding"], labels["N_all"],
                labels["N_matmul"], run.spec.tokens, score.loss.value, score.bits_per_byte.value, labels["seed"],
                str(labels["trunk"])[:8], bool(included[index]), reason,
            )
        )  # fmt: skip
    return Table(
        name="points",
        title="Every scored run",
        columns=_columns(
            ("budget", "budget", "FLOPs", "{:.1e}"),
            ("run", "run", "", ""),
            ("size", "width x depth", "", ""),
            ("N_nonembedding", "N without embedding", "parameters", "{:,.0f}"),
            ("N_all", "N, all", "parameters", "{:,.0f}"),
            ("N_matmul", "FLOPs per token / 6", "", "{:,.0f}"),
            ("tokens", "tokens", "", "{:,.0f}"),
            ("loss_nats", "loss", "nats/token", "{:.4f}"),
            ("bits_per_byte", "loss", "bits/byte", "{:.4f}"),
            ("seed", "seed", "", "{:d}"),
            ("trunk", "trunk", "", ""),
            ("included", "in the fit", "", ""),
            ("reason", "why not", "", ""),
        ),
        rows=tuple(sorted(rows, key=lambda row: (row[0], row[4], row[9]))),
    )


BOWL_FIELDS = ("N_opt", "basin_lo", "basin_hi", "half_width")


def points_included(fit: IsoflopFit, sweep: Sweep) -> np.ndarray:
    """[n] whether each point of the sweep took part in the fit of its budget."""
    included = np.zeros(len(sweep.runs), dtype=bool)
    if fit.internals is None:
        return included
    fitted = [fit.budgets[position].budget for position in fit.internals.position]
    included[np.isin(sweep.column("budget"), fitted)] = fit.internals.fit.included[0]
    return included


def _bowl_table(name: str, title: str, fits: dict[str, IsoflopFit]) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for counting, fit in fits.items():
        for b in fit.budgets:
            values: list[Scalar] = [
                counting,
                b.budget,
                b.num_points,
                b.centre,
                *_padded(b.coefficients),
                b.window_lo,
            ]
            values += [b.window_hi, b.loss_opt.value]
            for field in BOWL_FIELDS:
                estimate: Estimate = getattr(b, field)
                values += [estimate.value, estimate.lo, estimate.hi]
            rows.append((*values, b.status, b.reason or ""))
    head = _columns(
        ("convention", "counting", "", ""),
        ("budget", "budget", "FLOPs", "{:.1e}"),
        ("num_points", "points", "", "{:d}"),
        ("centre_lnN", "centre of ln N", "", "{:.3f}"),
        *((f"c{k}", f"c{k}", "nats/token", "{:.4f}") for k in range(4)),
        ("window_lo", "smallest N", "", "{:,.0f}"),
        ("window_hi", "largest N", "", "{:,.0f}"),
        ("loss_opt", "lowest loss", "nats/token", "{:.3f}"),
    )
    titles = {
        "N_opt": ("best size", "{:,.0f}"),
        "basin_lo": ("basin's lower edge", "{:,.0f}"),
        "basin_hi": ("basin's upper edge", "{:,.0f}"),
        "half_width": ("basin's half-width", "×{:.2f}"),
    }
    body = []
    for field, (text, fmt) in titles.items():
        body += [
            (field, text, "", fmt),
            (f"{field}_lo", f"{text}, low", "", fmt),
            (f"{field}_hi", f"{text}, high", "", fmt),
        ]
    tail = _columns(*body, ("status", "fit", "", ""), ("reason", "remark", "", ""))
    return Table(
        name=name,
        title=title,
        columns=head + tail,
        rows=_defined(rows),
        note="Low and high are the ends of the 95 % interval; an empty one is open, and the remark says why.",
    )


def _padded(coefficients: Sequence[float]) -> list[float]:
    return [*(float(c) for c in coefficients), *[0.0] * (4 - len(coefficients))]


def _exponent_table(fits: dict[str, IsoflopFit]) -> Table:
    rows: list[tuple[Scalar, ...]] = [
        (counting, COUNTINGS[counting], fit.exponent.value, fit.exponent.lo, fit.exponent.hi, fit.coefficient.value,
         fit.reference_budget, fit.identified, fit.not_identified or "")
        for counting, fit in fits.items()
    ]  # fmt: skip
    return Table(
        name="exponents",
        title="How the best size grows with compute, by way of counting",
        columns=_columns(
            ("convention", "counting", "", ""),
            ("meaning", "what N counts", "", ""),
            ("exponent", "exponent a of N_opt ~ C^a", "", "{:.3f}"),
            ("lo", "a, low", "", "{:.3f}"),
            ("hi", "a, high", "", "{:.3f}"),
            ("coefficient", "N_opt at the reference budget", "parameters", "{:,.0f}"),
            ("reference_budget", "reference budget", "FLOPs", "{:.2e}"),
            ("identified", "identified", "", ""),
            ("note", "remark", "", ""),
        ),
        rows=_defined(rows),
        note="The same runs under three ways of counting: the exponent is as much a matter of counting as of training.",
    )


def _degree_table(forms: dict[str, IsoflopFit]) -> Table:
    rows: list[tuple[Scalar, ...]] = []
    for name, fit in forms.items():
        for b in fit.budgets:
            rows.append(
                (name, b.budget, b.N_opt.value, b.N_opt.lo, b.N_opt.hi, b.half_width.value, b.half_width.lo,
                 b.half_width.hi, b.status)
            )  # fmt: skip
    return Table(
        name="degrees",
        title="Three forms of the bowl side by side",
        columns=_columns(
            ("form", "form", "", ""),
            ("budget", "budget", "FLOPs", "{:.1e}"),
            ("N_opt", "best size", "parameters", "{:,.0f}"),
            ("N_opt_lo", "low", "", "{:,.0f}"),
            ("N_opt_hi", "high", "", "{:,.0f}"),
            ("half_width", "half-width", "", "×{:.2f}"),
            ("half_width_lo", "low", "", "×{:.2f}"),
            ("half_width_hi", "high", "", "×{:.2f}"),
            ("status", "fit", "", ""),
        ),
        rows=_defined(rows),
        note="A parabola is symmetric in ln N and the profile is not. The verdict uses the convex quartic, which takes "
        "the profile's skewness from all budgets together and always has one minimum.",
    )


def _draw_table(fits: dict[str, IsoflopFit]) -> Table:
    fit = fits[MAIN]
    rows: list[tuple[Scalar, ...]] = []
    for index, budget in enumerate(fit.budgets):
        if budget.status == "refused":
            continue
        for number, coefficients in enumerate(fit.draws[:, index, :]):
            values = [float(f"{c:.6g}") for c in _padded(coefficients)]
            rows.append((MAIN, budget.budget, number, budget.centre, *values))
    return Table(
        name="bowl_draws",
        title="Draws of the fitted profiles, for drawing",
        columns=_columns(
            ("convention", "counting", "", ""),
            ("budget", "budget", "FLOPs", "{:.1e}"),
            ("draw", "draw", "", "{:d}"),
            ("centre_lnN", "centre of ln N", "", "{:.3f}"),
            *((f"c{k}", f"c{k}", "", "{:.4g}") for k in range(4)),
        ),
        rows=_defined(rows),
    )


def _figures() -> tuple[Figure, ...]:
    return (
        Figure(
            name="isoflop_bowls",
            kind="isoflop_bowls",
            title="Loss against size at equal compute",
            caption="Each point is one trained model; models of one colour cost the same compute. Heavy line: the "
            "fitted bowl in ln N. Light lines: draws over whole trunks. Bar: best size with its 95 % interval. "
            "Band: sizes within 1 % of the lowest loss.",
            alt="One bowl-shaped curve per compute budget; higher budgets lie lower and further to the right.",
            tables=("points", "bowls", "bowl_draws"),
            options={"convention": MAIN},
        ),
        Figure(
            name="basin_widths",
            kind="basin_widths",
            title="How wide the 1 % basin is",
            caption="Geometric mean of the factors below and above the best size, with 95 % intervals.",
            alt="The half-width of the basin per budget, against lines at a factor of two and of ten.",
            tables=("bowls",),
            options={"convention": MAIN},
        ),
        Figure(
            name="optimum_path",
            kind="optimum_path",
            title="Where the bottom is, by three ways of counting parameters",
            caption="The best size at each budget with its 95 % interval, and the fitted power of compute. "
            "The runs are the same in all three panels; only what N counts differs.",
            alt="Best size rises with compute in each panel; the slope differs with the way of counting.",
            tables=("bowls", "exponents"),
        ),
        Figure(
            name="learning_curves",
            kind="learning_curves",
            title="Learning curves",
            caption="Training loss along each trunk, and the cooldown branches that leave it.",
            alt="Training loss falls with compute; branches drop below their trunk in the cooldown.",
            tables=(),
        ),
    )


def _summary(main: IsoflopFit) -> dict[str, object]:
    """The machine-readable answer: per budget the basin and the optimum with their intervals."""
    basins, optima = [], []
    for b in main.budgets:
        basins.append(
            {
                "budget": b.budget,
                "half_width": b.half_width.value,
                "ci95": [b.half_width.lo, b.half_width.hi],
                "N_lo": b.basin_lo.value,
                "N_hi": b.basin_hi.value,
                "status": b.status,
                "reason": b.reason,
            }
        )
        optima.append(
            {
                "budget": b.budget,
                "N": b.N_opt.value,
                "ci95": [b.N_opt.lo, b.N_opt.hi],
                "loss": b.loss_opt.value,
                "counting": MAIN,
                "status": b.status,
                "reason": b.reason,
            }
        )
    exponent = main.exponent
    return {
        "basin_1pct": basins,
        "N_opt": optima,
        "exponent": {
            "value": exponent.value,
            "ci95": [exponent.lo, exponent.hi],
            "identified": main.identified,
        },
    }
