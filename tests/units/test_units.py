"""Amounts as people write them, refused when they make no sense, and printed so that they can be read back."""

import doctest
import itertools
import math
import random

import pytest

from isoflop import units
from isoflop.records import Budget
from isoflop.units import Quantity, parse_budget, parse_bytes, parse_count, parse_seconds

DAY = 86_400.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3e11 FLOPs", Quantity(3e11, "flops")),
        ("3e11", Quantity(3e11, "flops")),
        ("  3.8e25flops ", Quantity(3.8e25, "flops")),
        ("3x10^11", Quantity(3e11, "flops")),
        ("300B", Quantity(3e11, "flops")),
        ("5 EFLOP", Quantity(5e18, "flops")),
        ("2 zettaFLOPs", Quantity(2e21, "flops")),
        ("1 PF-day", Quantity(1e15 * DAY, "flops")),
        ("2 PFLOP/s-days", Quantity(2e15 * DAY, "flops")),
        ("1 petaflop/s-day", Quantity(1e15 * DAY, "flops")),
        ("0.5 EFLOP-days", Quantity(0.5e18 * DAY, "flops")),
        ("5 min", Quantity(300.0, "seconds")),
        ("60s", Quantity(60.0, "seconds")),
        ("1h", Quantity(3600.0, "seconds")),
        ("1h30m", Quantity(5400.0, "seconds")),
        ("4 min 10 s", Quantity(250.0, "seconds")),
        ("2 H100-days", Quantity(2 * DAY, "device_seconds", "H100")),
        ("2 H100 days", Quantity(2 * DAY, "device_seconds", "H100")),
        ("50 H100-days/month", Quantity(50 * DAY, "device_seconds", "H100", per_month=True)),
        ("50 H100-days per month", Quantity(50 * DAY, "device_seconds", "H100", per_month=True)),
        ("3 RTX 4090-hours", Quantity(3 * 3600.0, "device_seconds", "RTX 4090")),
        ("1 TPU v5e-week", Quantity(7 * DAY, "device_seconds", "TPU v5e")),
        ("2 A100-80GB-days", Quantity(2 * DAY, "device_seconds", "A100-80GB")),
        ("$200", Quantity(200.0, "usd")),
        ("200 USD", Quantity(200.0, "usd")),
        ("$1.5k/month", Quantity(1500.0, "usd", per_month=True)),
        ("33k labels", Quantity(33_000.0, "labels")),
        ("10000 calls", Quantity(10_000.0, "calls")),
        ("1,000,000 calls", Quantity(1e6, "calls")),
    ],
)
def test_budgets_as_people_write_them(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with a number"),
        ("lots", "does not begin with a number"),
        ("nan", "does not begin with a number"),
        ("0", "above zero"),
        ("-3 H100-days", "above zero"),
        ("$0", "above zero"),
        ("0 min", "above zero"),
        ("1e999", "finite"),
        ("5m", "minutes or millions"),
        ("3e11 FLOP/s", "rate"),
        ("312 TFLOPS/s", "rate"),
        ("5 tokens", "what a budget buys"),
        ("3 apples", "'apples'"),
        ("5 €", "€"),
        ("1,5 h", "unknown unit"),  # a comma is a thousands separator or nothing
        ("1 h 2 h", "unknown unit"),
        ("$5 apples", "'apples'"),
    ],
)
def test_what_is_no_budget_is_refused_with_the_text_and_the_remedy(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_budget(text)
    assert repr(text) in str(caught.value)


def test_an_unreadable_budget_lists_examples_that_do_work():
    with pytest.raises(ValueError, match="What works") as caught:
        parse_budget("much")
    examples = str(caught.value).partition("What works: ")[2].split(", ")
    assert len(examples) > 3
    for example in examples:
        assert parse_budget(example).amount > 0


def test_a_budget_record_keeps_text_and_convention():
    budget = Budget.parse(" 3e11 FLOPs ", convention="6N-all")
    assert (budget.amount, budget.unit, budget.convention, budget.text) == (
        3e11,
        "flops",
        "6N-all",
        "3e11 FLOPs",
    )
    assert Budget.parse("$200").convention is None
    assert Budget.parse("2 H100-days").device == "H100"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e14", 1e14), ("10e9", 1e10), ("15T", 15e12), ("7B", 7e9), ("7b", 7e9), ("33 k", 33e3), ("12", 12.0)],
)
def test_counts(text, expected):
    assert parse_count(text) == expected
    assert parse_count(f"{text} tokens") == expected


@pytest.mark.parametrize("text", ["", "x", "7X", "-7B", "0", "nan", "inf", "7 B B"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ValueError, match="count"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("20 GB", 20e9), ("2 GiB", 2**31), ("512", 512.0), ("1.5 kB", 1500.0)]
)
def test_sizes_in_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_bytes, "2 G"), (parse_bytes, "0"), (parse_seconds, "5"), (parse_seconds, "5 x")],
)
def test_other_amounts_refuse_nonsense(parse, text):
    with pytest.raises(ValueError, match=repr(text)):
        parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (9.999, "10 s"),
        (59.96, "1 min"),
        (250, "4 min 10 s"),
        (3599.6, "1 h"),
        (5400, "1 h 30 min"),
        (172_799, "2 days"),
        (1e7, "115 days 18 h"),
    ],
)
def test_durations_are_printed_in_two_units_at_most(seconds, text):
    assert units.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "count", "flops", "size", "factor"),
    [
        (6.3e11, "630B", "6.3e11 FLOPs", "630 GB", "6.3e11x"),
        (9588, "9.59k", "9.59e3 FLOPs", "9.59 kB", "9588x"),
        (999.6, "1k", "1e3 FLOPs", "1 kB", "1000x"),
        (999.96e9, "1T", "1e12 FLOPs", "1 TB", "1e12x"),
        (2.2, "2.2", "2.2e0 FLOPs", "2.2 B", "2.2x"),
        (1.2e16, "1.2e16", "1.2e16 FLOPs", "12 PB", "1.2e16x"),
        (0, "0", "0e0 FLOPs", "0 B", "0x"),
    ],
)
def test_three_digits_of_everything(value, count, flops, size, factor):
    assert units.format_count(value) == count
    assert units.format_tokens(value) == f"{count} tokens"
    assert units.format_flops(value) == flops
    assert units.format_bytes(value) == size
    assert units.format_factor(value) == factor


def test_what_is_printed_can_be_read_back():
    """Three significant digits: the value read back is within half a unit of the third digit, 0.5 %.

    Durations show two units, so they are off by half of the smaller one: at most 1 s in 2 min (0.5 s of
    119.5 s), 30 s in an hour, 1,800 s in two days (1.04 %), and 0.5 % below a minute.
    """
    rng = random.Random(7)
    for _ in range(2000):
        value = 10 ** rng.uniform(-1, 24)
        assert parse_count(units.format_count(value)) == pytest.approx(value, rel=0.00501)
        assert parse_budget(units.format_flops(value)).amount == pytest.approx(value, rel=0.00501)
        assert parse_bytes(units.format_bytes(value)) == pytest.approx(value, rel=0.00501)
        seconds = 10 ** rng.uniform(-1, 8)
        assert parse_seconds(units.format_seconds(seconds)) == pytest.approx(seconds, rel=0.0105)


def test_printing_keeps_the_order_of_sizes():
    values = [10 ** (i / 50) for i in range(-40, 800)]
    read = [parse_count(units.format_count(value)) for value in values]
    assert all(a <= b for a, b in itertools.pairwise(read))
    assert not any(math.isnan(value) for value in read)


def test_the_example_in_the_docstring():
    assert doctest.testmod(units).failed == 0
