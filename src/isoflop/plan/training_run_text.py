"""A run plan as text for a terminal. Every number comes from the plan; nothing is computed here but rounding."""

from __future__ import annotations

import textwrap

from isoflop.plan.training_run import MONTH_DAYS, LayoutChoice, RunPlan
from isoflop.units import format_bytes, format_count, format_flops, format_seconds

WIDTH = 100
_LABEL = 12


def run_plan_text(plan: RunPlan) -> str:
    """The plan in at most about fifty lines of `WIDTH` columns."""
    blocks = [
        _what(plan),
        _memory(plan),
        _speed(plan),
        _calendar(plan),
        _observed(plan),
        _mixture(plan),
        _layouts(plan),
        _end(plan),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _row(label: str, text: str) -> list[str]:
    return textwrap.wrap(f"{label:<{_LABEL}}{text}", WIDTH, subsequent_indent=" " * _LABEL)


def _what(plan: RunPlan) -> list[str]:
    return [
        f"{plan.recipe}, {plan.variant}" + (f", scaled to {plan.scale}" if plan.scale != "full" else ""),
        *_row(
            "Net",
            f"{format_count(plan.parameters)} parameters, {format_count(plan.nonembedding_parameters)} without "
            "embedding and head",
        ),
        *_row(
            "Run",
            f"{plan.num_steps:,} updates of {plan.tokens_per_step:,} tokens: {format_count(plan.tokens)} tokens, "
            f"{format_flops(plan.train_flops)} ({plan.convention})",
        ),
        *_row(
            "Devices",
            f"{plan.num_devices:,} {plan.device}"
            + (f", {format_bytes(plan.total_memory)} in all" if plan.total_memory else ""),
        ),
    ]


def _memory(plan: RunPlan) -> list[str]:
    lines = ["Memory per device at the peak of a step"]
    lines += [
        f"  {format_bytes(item.bytes_per_device):>9}  {item.what:<26} {item.how}"[:WIDTH]
        for item in plan.memory
    ]
    room = f" of {format_bytes(plan.memory_per_device)}" if plan.memory_per_device else ""
    verdict = {True: ": it fits", False: ": it does not fit", None: ""}[plan.fits]
    lines.append(f"  {format_bytes(plan.bytes_per_device):>9}  in all{room}{verdict}")
    if plan.fewest_devices:
        lines.append(
            f"  {plan.fewest_devices:>9,}  devices are the fewest that hold it, one sequence at a time"
        )
    return lines


def _speed(plan: RunPlan) -> list[str]:
    if plan.seconds_per_step is None:
        return _row("Step", plan.seconds_per_step_source)
    lines = _row("Step", f"{format_seconds(plan.seconds_per_step)} ({plan.seconds_per_step_source})")
    step = plan.step
    if step is not None:
        parts = (
            ("compute", step.compute_s),
            ("recomputation", step.recompute_s),
            ("tensor-parallel traffic", step.tensor_s),
            ("shard traffic not hidden", step.shard_s),
        )
        spent = ", ".join(f"{words} {format_seconds(value)}" for words, value in parts if value > 0)
        lines += _row("", f"expected {format_seconds(step.total_s)}: {spent}")
        mfu = f", {step.mfu:.1%} MFU ({plan.convention})" if step.mfu else ""
        lines += _row("", f"expected {step.tokens_per_s_per_device:,.0f} tokens/s per device{mfu}")
    return lines


def _calendar(plan: RunPlan) -> list[str]:
    if plan.days is None or plan.stepping_days is None or plan.duty is None:
        return []
    duty = plan.duty
    shares = (
        ("stepping", duty.stepping),
        ("waiting in the queue", duty.waiting),
        ("starting", duty.starting),
        ("steps done again", duty.repeating),
        ("saving", duty.saving),
    )
    spent = ", ".join(f"{words} {share:.1%}" for words, share in shares)
    lines = _row("Calendar", f"{_days(plan.days)}, of which {_days(plan.stepping_days)} of stepping")
    lines += _row("", f"expected use of the calendar: {spent}")
    if plan.device_hours is not None:
        money = f", {format_count(plan.usd)} USD" if plan.usd is not None else ""
        lines += _row("Cost", f"{format_count(plan.device_hours)} device-hours{money} ({plan.usd_note})")
    return lines


def _observed(plan: RunPlan) -> list[str]:
    seen = plan.observed
    if seen is None:
        return []
    return [
        *textwrap.wrap(f"The run as it was made ({seen.source})", WIDTH, subsequent_indent="  "),
        f"  {seen.steps:,} updates, {format_count(seen.tokens)} tokens in {_days(seen.calendar_days)}, "
        f"{_days(seen.days_left)} ahead at that pace",
        f"  on the calendar  {seen.calendar_tokens_per_s_per_device:6,.0f} tokens/s per device, "
        f"{seen.calendar_mfu:5.1%} MFU",
        f"  while stepping   {seen.stepping_tokens_per_s_per_device:6,.0f} tokens/s per device, "
        f"{seen.stepping_mfu:5.1%} MFU: {_days(seen.stepping_days)}, {seen.duty:.0%} of the calendar",
        f"  this planner     {format_seconds(seen.expected_seconds_per_step)} per step, "
        f"{seen.expected_duty:.0%} of the calendar",
    ]


def _mixture(plan: RunPlan) -> list[str]:
    head = f"  {'source':<16}{'weight':>8}{'of rows':>9}{'of tokens':>11}{'tokens':>9}{'passes':>8}"
    lines = ["What is read", head]
    for one in plan.mixture:
        shares = [f"{one.weight_share:.1%}", _share(one.row_share), _share(one.token_share)]
        read = "" if one.tokens is None else format_count(one.tokens)
        passes = "" if one.epochs is None else f"{one.epochs:.2f}"
        lines.append(f"  {one.name:<16}{shares[0]:>8}{shares[1]:>9}{shares[2]:>11}{read:>9}{passes:>8}")
    reasons = dict.fromkeys(one.reason for one in plan.mixture if one.reason)
    return [*lines, *(line for reason in reasons for line in textwrap.wrap(f"  ({reason})", WIDTH))]


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _layouts(plan: RunPlan) -> list[str]:
    if not plan.best:
        return []
    rows = [_layout(one) for one in plan.best]
    head = f"  {'replicate x shard x tensor':<28}{'micro':>6}{'recompute':>11}{'memory':>10}{'step':>12}{'MFU':>7}"
    lines = ["Fastest layouts that fit, at this batch", head, *rows]
    if plan.layout is not None:
        lines += [f"{_layout(plan.layout)}  <- the recipe's"]
    return lines


def _layout(one: LayoutChoice) -> str:
    kept = "" if one.reshard else ", weights kept"
    return (
        f"  {one.mesh + kept:<28}{one.micro_batch_seqs:>6}{one.recompute:>11}"
        f"{format_bytes(one.bytes_per_device):>10}{format_seconds(one.seconds_per_step):>12}{one.mfu:>7.1%}"
    )


def _end(plan: RunPlan) -> list[str]:
    lines: list[str] = []
    for words, sentences in (("!", plan.warnings), ("assumed:", plan.assumptions)):
        for sentence in sentences:
            lines += textwrap.wrap(f"{words} {sentence}", WIDTH, subsequent_indent="  ")
    return lines


def _days(days: float) -> str:
    if days < 2:
        return format_seconds(86_400 * days)
    return (
        f"{days:,.1f} days" if days < 2 * MONTH_DAYS else f"{days:,.0f} days ({days / MONTH_DAYS:.1f} months)"
    )
