"""How amounts are written and read: budgets, counts, FLOPs, bytes, durations, factors.

People write "50 H100-days/month"; the rest of the house computes with a number and a unit. Parsing is
strict: what cannot be read, or is not a positive finite amount, is a `ValueError` that repeats the text and
shows what works. Printing keeps three significant digits, and what is printed can be parsed again. What a
device delivers in a day is known in `isoflop.flops.hardware`, not here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

BudgetUnit = Literal["flops", "seconds", "device_seconds", "usd", "labels", "calls"]

_MAGNITUDES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15}
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_PREFIX_WORDS = {
    "kilo": "k",
    "mega": "m",
    "giga": "g",
    "tera": "t",
    "peta": "p",
    "exa": "e",
    "zetta": "z",
    "yotta": "y",
}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_BYTES = {
    "": 1.0,
    "b": 1.0,
    "byte": 1.0,
    "bytes": 1.0,
    **{f"{prefix}b": _PREFIXES[prefix] for prefix in "kmgtp"},
    **{f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmgtp", start=1)},
}

_NUMBER = re.compile(
    r"(?P<digits>[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d[\d_]*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"(?:\s*[x×*·]\s*10\^(?P<power>[+-]?\d+))?"
)
_PER_MONTH = re.compile(r"\s*(?:/|per|a|each)\s*(?:month|mo)\.?$", re.IGNORECASE)
_RATE = re.compile(r"^(?P<prefix>[a-z]*?)-?fl?(?:op)?s?(?:/s|ps)?[- ](?P<time>[a-z]+)$")
_COUNT_OF_FLOPS = re.compile(r"^(?P<prefix>[a-z]*?)-?flops?$")
_DEVICE_TIME = re.compile(r"^(?P<device>[A-Za-z][A-Za-z0-9 ._/-]*?)[ -](?P<time>[A-Za-z]+)$")
_TIME_PART = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)", re.IGNORECASE)

_BUDGET_EXAMPLES = "3e11 FLOPs, 5 min, 2 H100-days, 50 H100-days/month, $200, 33k labels"


@dataclass(frozen=True)
class Quantity:
    """An amount to spend, as parsed from text."""

    amount: float
    """> 0, in `unit`."""
    unit: BudgetUnit
    device: str | None = None
    """As written, for device_seconds."""
    per_month: bool = False
    """True for an allocation that renews each month."""


# ------------------------------------------------------------------------------------ reading


def parse_budget(text: str) -> Quantity:
    """Read a budget as people write it.

    FLOPs ("3e11", "3e11 FLOPs", "5 EFLOP", "1 PF-day", which is 1e15 FLOP/s for a day), time on this
    machine ("5 min", "1h 30min"), device time ("2 H100-days"), money ("$200", "200 USD"), "33k labels",
    "10000 calls"; each may end in "/month". A bare number is FLOPs.

    >>> parse_budget("2 H100-days")
    Quantity(amount=172800.0, unit='device_seconds', device='H100', per_month=False)

    Raises ValueError for anything else, and for an amount that is not above zero and finite.
    """
    stripped = text.strip()
    body = _PER_MONTH.sub("", stripped)
    per_month = body != stripped
    seconds = _sum_of_times(body)
    if seconds is not None:
        return Quantity(_positive(seconds, text, "budget"), "seconds", per_month=per_month)
    body, is_money = _take_currency(body)
    number, rest = _leading_number(body, text)
    if is_money:
        scale = _MAGNITUDES.get(rest.lower(), 1.0)
        if rest and rest.lower() not in _MAGNITUDES:
            raise _not_a("budget", text, f"{rest!r} after an amount of money")
        return Quantity(_positive(number * scale, text, "budget"), "usd", per_month=per_month)
    magnitude, rest = _take_magnitude(rest)
    scale, unit, device = _budget_unit(rest, text)
    amount = _positive(number * magnitude * scale, text, "budget")
    return Quantity(amount, unit, device=device, per_month=per_month)


def parse_count(text: str) -> float:
    """Read a number of parameters, tokens or rows: "1e14", "10e9", "15T", "7B", "33k", "1,000".

    k, M, B (or G), T, P are 1e3 to 1e15, in either case; the words "tokens", "params" or "parameters" may
    follow. Raises ValueError for anything else, and for what is not above zero and finite.
    """
    number, rest = _leading_number(text.strip(), text, "count", "1e14, 15T, 7B, 33k")
    rest = re.sub(r"\s*(tokens?|params?|parameters?)$", "", rest, flags=re.IGNORECASE).strip()
    if rest and rest.lower() not in _MAGNITUDES:
        raise _not_a("count", text, f"{rest!r} is no magnitude", "1e14, 15T, 7B, 33k")
    return _positive(number * _MAGNITUDES.get(rest.lower(), 1.0), text, "count")


def parse_seconds(text: str) -> float:
    """Read a length of time: "90 s", "4 min 10 s", "1h30min", "2 days". Seconds, above zero.

    Raises ValueError for anything else.
    """
    seconds = _sum_of_times(text.strip())
    if seconds is None:
        raise _not_a("length of time", text, "no number with a unit", "90 s, 4 min 10 s, 2 h, 3 days")
    return _positive(seconds, text, "length of time")


def parse_bytes(text: str) -> float:
    """Read a size in memory or on disk: "20 GB" (1e9 each), "2 GiB" (2^30 each), "512". Bytes, above zero.

    Raises ValueError for anything else.
    """
    examples = "20 GB, 2 GiB, 500 MB"
    number, rest = _leading_number(text.strip(), text, "size in bytes", examples)
    if rest.lower() not in _BYTES:
        raise _not_a("size in bytes", text, f"unknown unit {rest!r}", examples)
    return _positive(number * _BYTES[rest.lower()], text, "size in bytes")


# ----------------------------------------------------------------------------------- printing


def format_flops(flops: float) -> str:
    """3.2e20 -> "3.2e20 FLOPs": three significant digits."""
    return f"{_scientific(flops)} FLOPs"


def format_count(count: float) -> str:
    """6.3e11 -> "630B": three significant digits with k, M, B, T; powers of ten from 1e15 on."""
    if abs(count) >= 999.5e12 or count == 0 or abs(count) < 1e-2:
        return _scientific(count) if count else "0"
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * scale:
            return f"{_three_digits(count / scale)}{letter}"
    return _three_digits(count)


def format_tokens(tokens: float) -> str:
    """3.58e6 -> "3.58M tokens"."""
    return f"{format_count(tokens)} tokens"


def format_bytes(num_bytes: float) -> str:
    """1.5e9 -> "1.5 GB": three significant digits, powers of 1,000."""
    for prefix in "ptgmk":
        scale = _PREFIXES[prefix]
        if abs(num_bytes) >= 0.9995 * scale:
            return f"{_three_digits(num_bytes / scale)} {prefix.upper() if prefix != 'k' else 'k'}B"
    return f"{_three_digits(num_bytes)} B"


def format_seconds(seconds: float) -> str:
    """250 -> "4 min 10 s"; two units at most, "0.25 s" below a minute, "5 days 4 h" above two days."""
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    for large, small, large_name, small_name in (
        (60, 1, "min", "s"),
        (3600, 60, "h", "min"),
        (86_400, 3600, "days", "h"),
    ):
        whole, rest = divmod(round(seconds / small) * small, large)
        if large == 86_400 or (large == 60 and whole < 60) or (large == 3600 and whole < 48):
            return f"{whole} {large_name}" + (f" {rest // small} {small_name}" if rest else "")
    raise AssertionError("unreachable: days have no upper end")


def format_factor(factor: float) -> str:
    """2.2 -> "2.2x": three significant digits."""
    return f"{_three_digits(factor)}x"


# ------------------------------------------------------------------------------------- pieces


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent from 0.01 to 1e6, and without zeros at the end."""
    if value == 0:
        return "0"
    if not 1e-2 <= abs(value) < 1e6:
        return _scientific(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))))
    text = f"{round(value, decimals):.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _leading_number(
    body: str, text: str, what: str = "budget", examples: str = _BUDGET_EXAMPLES
) -> tuple[float, str]:
    found = _NUMBER.match(body)
    if not found:
        raise _not_a(what, text, "it does not begin with a number", examples)
    number = float(found["digits"].replace(",", "").replace("_", ""))
    if found["power"]:
        number *= 10.0 ** int(found["power"])
    return number, body[found.end() :].strip()


def _take_currency(body: str) -> tuple[str, bool]:
    """The text without its sign of money, and whether it had one."""
    for pattern in (r"^(\$|usd|us\$)\s*", r"\s*(\$|usd|dollars?)$"):
        stripped = re.sub(pattern, "", body, flags=re.IGNORECASE)
        if stripped != body:
            return stripped, True
    return body, False


def _take_magnitude(rest: str) -> tuple[float, str]:
    """ "k labels" -> (1000.0, "labels"); a letter that begins a longer word is left alone."""
    letter, following = rest[:1], rest[1:]
    is_magnitude = letter.lower() in _MAGNITUDES and letter not in ("m", "b", "p", "t", "g")
    if letter and is_magnitude and (not following or following[0] == " "):
        return _MAGNITUDES[letter.lower()], following.strip()
    return 1.0, rest


def _budget_unit(rest: str, text: str) -> tuple[float, BudgetUnit, str | None]:
    """(scale, unit, device) of what follows the number of a budget."""
    lower = rest.lower()
    for word, letter in _PREFIX_WORDS.items():
        if lower.startswith(word):
            lower = letter + lower.removeprefix(word)
    if not rest:
        return 1.0, "flops", None
    if lower in ("label", "labels"):
        return 1.0, "labels", None
    if lower in ("call", "calls", "api calls", "api call"):
        return 1.0, "calls", None
    if (found := _COUNT_OF_FLOPS.match(lower)) and found["prefix"] in _PREFIXES:
        return _PREFIXES[found["prefix"]], "flops", None
    rate = _RATE.match(lower)
    if rate and rate["prefix"] in _PREFIXES and rate["prefix"] and rate["time"] in _SECONDS:
        return _PREFIXES[rate["prefix"]] * _SECONDS[rate["time"]], "flops", None
    if re.match(r"^[a-z]*flops?(/s|ps)$", lower):
        raise _not_a("budget", text, "FLOP/s is a rate: multiply it by a time, as in 1 PF-day")
    device_time = _DEVICE_TIME.match(rest)
    if device_time and device_time["time"].lower() in _SECONDS:
        device = device_time["device"].strip(" -")
        if device.split()[0].lower() not in _SECONDS:  # "1 h 2 h" names no device
            return _SECONDS[device_time["time"].lower()], "device_seconds", device
    if lower in ("token", "tokens"):
        raise _not_a("budget", text, "tokens are what a budget buys")
    if lower == "m":
        raise _not_a("budget", text, "m may be minutes or millions: write min, or M")
    raise _not_a("budget", text, f"unknown unit {rest!r}")


def _sum_of_times(body: str) -> float | None:
    """Seconds in "1h 30min", or None when the text is anything but numbers with units of time."""
    total, position, largest = 0.0, 0, math.inf
    for found in _TIME_PART.finditer(body):
        word = found[2].lower()
        if word == "m" and largest == 3600.0:  # "1h30m"; alone, m is not understood
            word = "min"
        scale = _SECONDS.get(word)
        if found.start() != position or scale is None or scale >= largest:
            return None
        total, position, largest = total + float(found[1]) * scale, found.end(), scale
    return total if position and position == len(body) else None


def _positive(amount: float, text: str, what: str) -> float:
    if not (amount > 0 and math.isfinite(amount)):
        raise ValueError(f"{what} {text!r}: it takes an amount above zero and finite, not {amount:g}")
    return amount


def _not_a(what: str, text: str, because: str, examples: str = _BUDGET_EXAMPLES) -> ValueError:
    return ValueError(f"cannot read the {what} {text!r}: {because}. What works: {examples}")
