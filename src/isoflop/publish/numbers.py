"""How numbers look in a report: thousands apart, powers of ten raised, a missing number as a dash.

Plain Unicode, so that the same text serves HTML, SVG and a terminal. Leaves out how budgets and counts are
parsed and named (`isoflop.units`); no rounding here ever reaches the data files, which keep full precision.
"""

from __future__ import annotations

import math
import re

from isoflop.records import Estimate, Scalar

MISSING = "–"
_NARROW_SPACE = "\u202f"
_RAISED = str.maketrans("0123456789-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺")
_EXPONENT = re.compile(r"(?<=[\d.])e([+-]?\d+)", re.IGNORECASE)
_FORMAT = re.compile(r"[^{}]*\{:[^{}]*\}[^{}]*")


def raised(exponent: int) -> str:
    """An exponent in raised figures: -12 -> "⁻¹²"."""
    return str(exponent).translate(_RAISED)


def power_of_ten(value: float, digits: int = 3) -> str:
    """ "3×10¹¹", "1.25×10¹²", "10⁶"; the mantissa has at most `digits` significant figures."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    tail = f"10{raised(int(exponent))}"
    if mantissa in ("1", "-1"):
        return tail if mantissa == "1" else f"−{tail}"
    return f"{mantissa}×{tail}".replace("-", "−")


def compact(value: float) -> str:
    """A count on an axis: "20k", "1.5M", "650B"; powers of ten beyond 10¹⁵ and below 0.001."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        return power_of_ten(value)
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale * 0.9995:
            return f"{value / scale:.3g}{unit}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def number(value: Scalar) -> str:
    """Any value of a record for people: four figures, thousands apart, a dash for None."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    size = abs(value)
    if isinstance(value, int) or float(value).is_integer():
        if size >= 1e9:
            return power_of_ten(float(value), 4)
        return thousands(f"{int(value):d}")
    if size >= 1e6 or size < 1e-3:
        return power_of_ten(value, 4)
    if size >= 1000:
        return thousands(f"{value:.0f}")
    return f"{value:.4g}".replace("-", "−")


def thousands(digits: str) -> str:
    """Whole numbers with a narrow space between thousands from five figures on: "12 345"."""
    sign = "−" if digits.startswith("-") else ""
    bare = digits.lstrip("-")
    return sign + (bare if len(bare) < 5 else f"{int(bare):,}".replace(",", _NARROW_SPACE))


def formatted(value: Scalar, spec: str) -> str:
    """A value in a column's own format, with powers of ten raised.

    Args:
        value: what the table holds.
        spec: a Python format with one unnamed field, such as "x{:.2f}"; "" for the default.

    Raises:
        ValueError: a format that is not of that kind (it could reach into objects).
    """
    if spec and not _FORMAT.fullmatch(spec):
        raise ValueError(f"column format {spec!r}: expected one unnamed field such as '{{:.3g}}'")
    if not spec or value is None or isinstance(value, (bool, str)):
        return number(value)
    try:
        text = spec.format(value)
    except ValueError:  # an integer format met a float, or the reverse: show the value all the same
        return number(value)
    text = _EXPONENT.sub(lambda match: f"×10{raised(int(match.group(1)))}", text)
    text = re.sub(r"^1(?:\.0+)?×(?=10)", "", text)
    text = re.sub(r"(?<=\d)\.0+(?=×10)", "", text)
    if text.startswith("x") and spec.startswith("x"):
        text = f"×{text[1:]}"
    text = re.sub(
        r"(?<![\d,])(\d),(\d{3})(?![\d,])", r"\1\2", text
    )  # four figures stand together, as in `number`
    return text.replace("-", "−").replace(",", _NARROW_SPACE)


def interval(estimate: Estimate) -> str:
    """ "1.9 [1.6, 2.3]"; a missing end is a dash, and the whole is one when there is no value."""
    if estimate.value is None:
        return MISSING
    if estimate.lo is None and estimate.hi is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.lo)}, {number(estimate.hi)}]"


def duration(seconds: float | None) -> str:
    """ "41 s", "3 min 20 s", "5 h 12 min", "3 d 4 h"; a dash for None."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def flops(value: float | None) -> str:
    """ "3×10¹¹"; a dash for None."""
    return MISSING if value is None else power_of_ten(value) if value else "0"


def share(part: float, whole: float) -> str:
    """A share in per cent, "0 %" to "100 %"; a dash when there is no whole."""
    return MISSING if whole <= 0 else f"{100 * part / whole:.3g} %"
