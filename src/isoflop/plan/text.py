"""A size plan as text for a terminal, readable without having read a scaling-law paper.

Every number comes from the plan; nothing is computed here but rounding. Left out: colours and tables that
need a wide screen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from isoflop.plan.next_run import NextRuns
from isoflop.plan.size import Choice, Interval, LifetimeSize, PricedSize, SizePlan, SmallestWithin
from isoflop.units import format_count, format_flops, format_seconds

WIDTH = 100
"""Columns."""
_LABEL = 17
_SEASON = 90  # days: a usual length for a large training
_SIZES = 5
_CHOICES = 5  # the page and the JSON hold all of them


def plan_text(plan: SizePlan) -> str:
    """The plan in at most about forty lines of at most `WIDTH` columns."""
    blocks = [
        _answer(plan),
        _good_enough(plan),
        _prices(plan),
        _lifetime(plan),
        _sensitivity(plan),
        _hardware(plan),
        _caution(plan),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def next_text(answer: NextRuns) -> str:
    """The next runs, with what acting now would mean, for a terminal."""
    now = answer.now
    lines = [
        f"To decide: the size to train with {format_flops(answer.target_flops)}",
        "",
        _row("Acting now", f"{format_count(now.N)} parameters (95% of the laws that fit put the best size at "
             f"{short(now.N_ci95[0])} to {short(now.N_ci95[1])})"),
        _row("Compute lost", f"{percent(now.lost)} on average, in 95% at most {percent(now.lost_q95)}"),
        _row("Noise", f"{percent(now.noise)} of the loss between runs of the same kind"),
    ]  # fmt: skip
    if answer.doubt:
        lines.append(
            _row(
                "In doubt", f"large runs missed their prediction; small ones count less ({answer.doubt:.2%})"
            )
        )
    lines += ["", f"{'Stop' if answer.stop else 'Go on'}: {answer.reason}."]
    if answer.chosen:
        lines += [
            "",
            f"{'size':>8} {'tokens':>8} {'cost':>14} {'expected loss':>20}   {'lost after it':>13}   why",
        ]
    for one in answer.chosen:
        why = "worth most for its cost" if one.why == "decision" else "guard against a wrong law"
        lines.append(
            f"{short(one.N):>8} {short(one.D):>8} {format_flops(one.flops):>14} "
            f"{f'{one.predicted_loss:.3f} +/- {one.predicted_sd:.3f}':>20}   {percent(one.lost_after):>13}   {why}"
        )
    return "\n".join(line for text in lines for line in (textwrap.wrap(text, WIDTH) or [""]))


def percent(share: float) -> str:
    """0.0134 -> "1.3%": two digits, and none after the point from 10 on."""
    value = 100.0 * share
    if abs(value) >= 9.95:
        return f"{value:.0f}%"
    return f"{value:.1f}%" if abs(value) >= 0.995 else f"{value:.2f}%"


def short(count: float) -> str:
    """A count to two digits for intervals and tables: 393.9e9 -> "390B"."""
    return format_count(float(f"{count:.1e}"))


def _answer(plan: SizePlan) -> list[str]:
    law = plan.law
    lines = [_title(plan)]
    for step in plan.steps:
        lines += textwrap.wrap(step, WIDTH, initial_indent="  = ", subsequent_indent="    ")
    lines.append("")
    lines.append(
        _row(
            "Best size",
            f"{format_count(plan.N_opt)} parameters, trained on {format_count(plan.D_opt)} tokens "
            f"({plan.tokens_per_parameter:,.3g} per parameter)",
        )
    )
    spread = _range(plan.N_opt_ci95, short)
    lines.append(
        _row("", f"95% interval: {spread} parameters" if spread else f"no interval: {law.why_no_interval}")
    )
    spread = _range(plan.loss_opt_ci95, lambda loss: f"{loss:.3f}")
    lines.append(
        _row(
            "Loss",
            f"{plan.loss_opt:.3f} nats per token{f' ({spread})' if spread else ''}: how badly it predicts text",
        )
    )
    unique = plan.request.unique_tokens
    if unique is not None and plan.epochs is not None and plan.fresh_share is not None:
        lines.append(
            _row(
                "Your data",
                f"{format_count(unique)} different tokens, read {plan.epochs:.2g} times: a token is then worth "
                f"{percent(plan.fresh_share)} of a new one"
                if plan.epochs > 1
                else f"{format_count(unique)} different tokens: enough, {percent(plan.epochs)} of them are read",
            )
        )
    return _wrapped(lines)


def _title(plan: SizePlan) -> str:
    request = plan.request
    text = request.budget.text or f"{plan.total_flops:.3g} FLOPs"
    flops = f"{plan.total_flops:.3g}".replace("e+0", "e").replace("e+", "e")
    line = f"What to train on a budget of {text}"
    if request.budget.unit != "flops" or flops not in text:
        line += f" ({flops} FLOPs)"
    parts = [
        f"{percent(one.share)} {one.what}"
        for one in plan.spending
        if len(plan.spending) > 1 or one.what != "final run"
    ]
    return line + (f": {', '.join(parts)}" if parts else "")


def _good_enough(plan: SizePlan) -> list[str]:
    basin, safe = plan.basin_1pct, plan.smallest_within
    lines = [
        f"Need not be exact: any size from {short(basin.N_lo)} to {short(basin.N_hi)} comes within 1% of that "
        "loss on the same budget."
    ]
    lines += _safe_lines(plan, safe)
    last = plan.last_decade
    lines.append(
        f"The last factor of ten in size, {short(last.N)} to {short(plan.N_opt)}, lowers the loss by "
        f"{percent(1 - plan.loss_opt / last.loss)}, as much as {1 / last.compute_kept:.2g} times the compute would."
    )
    return [line for text in lines for line in textwrap.wrap(text, WIDTH)]


def _safe_lines(plan: SizePlan, safe: SmallestWithin) -> list[str]:
    tolerance = percent(safe.eps).replace(".0%", "%")
    if safe.N is None or safe.priced is None:
        return [f"Smallest safe size: none; {safe.reason}."]
    sure = (
        f"it is within {tolerance} of the best in {percent(safe.probability)} of {plan.law.num_draws:,} refits of "
        "the law"
        if safe.probability is not None
        else f"it is within {tolerance} of the best if the law is exactly right"
    )
    kept = _range(safe.priced.compute_kept_ci95, percent)
    return [
        f"Smallest safe size: {format_count(safe.N)} on {format_count(safe.priced.D)} tokens; {sure}, and each "
        f"token it serves costs {1 / safe.priced.serving_cost:.2g} times less. Its price: an ideally sized model "
        f"would do as well on {percent(safe.priced.compute_kept)} of this budget{f' ({kept})' if kept else ''}."
    ]


def _prices(plan: SizePlan) -> list[str]:
    epochs = plan.request.unique_tokens is not None
    head = f"{'size':>8} {'tokens':>8} {'epochs' if epochs else '':>7} {'loss':>7} {'above best':>11}"
    lines = [
        "The same budget spent on other sizes (worth: the share that an ideally sized model needs)",
        f"{head}   {'worth':<22}{'cost to serve':>13}",
    ]
    for row in plan.price_list[:_SIZES]:
        lines.append(_price_row(row, row.N == plan.N_opt))
    return lines


def _price_row(row: PricedSize, best: bool) -> str:
    epochs = "" if row.epochs is None else f"{row.epochs:.2g}" if row.epochs < 100 else short(row.epochs)
    spread = _range(row.compute_kept_ci95, percent)
    worth = "100% (the best)" if best else percent(row.compute_kept) + (f" ({spread})" if spread else "")
    above = "-" if best else percent(row.excess)
    return (
        f"{short(row.N):>8} {short(row.D):>8} {epochs:>7} {row.loss:>7.3f} {above:>11}   {worth:<22}"
        f"{f'{row.serving_cost:.2g}x':>13}"
    )


def _lifetime(plan: SizePlan) -> list[str]:
    life, request = plan.lifetime, plan.request
    if not life.serve_tokens:
        return []
    served = format_count(life.serve_tokens)
    if request.serve_in_budget:
        return [f"Serving {served} tokens is paid from the budget and is in every number above."]
    same_loss, same_total = life.same_loss, life.same_total
    lines = [f"If it will serve {served} tokens, counting training and serving together:"]
    lines.append(
        f"  the same loss for the least compute: {_sized(same_loss)}, {percent(-same_loss.change)} less in all"
    )
    lines.append(
        f"  the lowest loss for the same compute: {_sized(same_total)}, loss {same_total.loss:.3f}, as from "
        f"{same_total.compute_gain:.2g} times the training budget"
    )
    lines.append(f"  Below {short(life.floor_N)} no amount of text reaches the loss of {plan.loss_opt:.3f}.")
    return [line for text in lines for line in textwrap.wrap(text, WIDTH, subsequent_indent="    ")]


def _sized(size: LifetimeSize) -> str:
    spread = _range(size.N_ci95, short)
    return f"{format_count(size.N)}{f' ({spread})' if spread else ''} on {format_count(size.D)} tokens"


def _sensitivity(plan: SizePlan) -> list[str]:
    if not plan.sensitivity:
        return []
    rows = [
        f"  {choice.choice:<58.58}{format_count(choice.N_opt):>8}  {choice.ratio:.2g}x"
        for choice in sorted(plan.sensitivity, key=lambda one: -abs(math.log(one.ratio)))[:_CHOICES]
    ]
    tests = [forecast_words(choice) for choice in plan.sensitivity if choice.group == "forecast"]
    tests += [f"No answer from {one}." for one in plan.unanswered]
    return [
        "What the interval leaves out: the other choices that move the best size most",
        *rows,
        *(
            line
            for text in tests
            for line in textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
        ),
    ]


def forecast_words(choice: Choice) -> str:
    """How the runs without the largest budgets predicted these, and whether that is as good as promised."""
    assert choice.coverage is not None, "a forecast carries its coverage"
    assert choice.mean_error is not None, "a forecast carries its error"
    side = "high" if choice.mean_error > 0 else "low"
    return (
        f"Forecast test ({choice.choice}): {choice.coverage:.0%} of them fell inside their 95% interval; the "
        f"predicted loss was {percent(abs(choice.mean_error))} too {side} on average."
    )


def _hardware(plan: SizePlan) -> list[str]:
    machine, layout = plan.hardware, plan.hardware.layout
    time = f"{_days(machine.device_days)} of one {machine.device} at {machine.mfu:.0%} of its peak"
    if machine.usd:
        time += f", about ${short(machine.usd)} ({machine.usd_note or 'at your price'})"
    place = layout.text
    if machine.days is not None and plan.request.num_devices:
        place += f"; they take {_days(machine.days)}"
    elif machine.days is not None and machine.days > _SEASON:
        place = f"at least {place}; {_SEASON} days take {short(machine.device_days / _SEASON)} of them"
    elif machine.days is not None:
        place = f"at least {place}"
    return _wrapped([_row("Final run", time), _row("Memory", place)])


def _caution(plan: SizePlan) -> list[str]:
    law = plan.law
    named = law.source if law.name in law.source else f"{law.name}: {law.source}"
    source = f"Law: L = E + A/N^alpha + B/D^beta ({named})."
    return [
        line
        for text in (*plan.warnings, source)
        for line in textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
    ]


def _days(days: float) -> str:
    if days < 1:
        return format_seconds(86_400 * days)
    return f"{days:.2g} days" if days < 10 else f"{float(f'{days:.3g}'):,.0f} days"


def _range(interval: Interval, written: Callable[[float], str]) -> str:
    """ "390B to 1.1T", or "" without an interval."""
    return "" if interval is None else f"{written(interval[0])} to {written(interval[1])}"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def _wrapped(lines: list[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        out += textwrap.wrap(line, WIDTH, subsequent_indent=" " * _LABEL, drop_whitespace=True) or [""]
    return out
