"""Devices by the names that people and drivers use, and budgets turned into FLOPs with every assumption said."""

import math

import pytest

from isoflop.flops.hardware import DEVICES, PRICES_AS_OF, budget_to_flops, device, mfu
from isoflop.records import Budget, FlopCount


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("H100", "H100 SXM"),
        ("h100-sxm5", "H100 SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("h100pcie", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("RTX3090", "RTX 3090"),
        ("MI250X", "MI250X GCD"),
        ("AMD Instinct MI300X", "MI300X"),
        ("TPU v5e", "TPU v5e"),
        ("tpuv6e", "TPU v6e"),
    ],
)
def test_devices_are_found_by_their_usual_names(given, name):
    assert device(given).name == name


def test_every_device_is_found_by_its_own_name():
    for item in DEVICES:
        assert device(item.name) is item
        assert item.memory_bytes >= 16e9
        assert item.source
        for peak in item.peak_flops_per_s.values():
            assert 1e13 < peak < 1e16


@pytest.mark.parametrize(
    ("given", "near"), [("H1000", "H100 SXM"), ("RTX 4070", "RTX 4090"), ("A10", "A100")]
)
def test_an_unknown_device_lists_near_names(given, near):
    with pytest.raises(ValueError, match=repr(given)) as caught:
        device(given)
    assert near in str(caught.value)
    assert "near" in str(caught.value)


def test_faster_formats_have_higher_peaks():
    for item in DEVICES:
        in_order = [item.peak_flops_per_s.get(dtype, math.nan) for dtype in ("fp32", "tf32", "bf16", "fp8")]
        known = [peak for peak in in_order if not math.isnan(peak)]
        assert known == sorted(known)


def test_a_format_without_a_figure_is_refused():
    with pytest.raises(ValueError, match="no fp8 peak is known for A100"):
        device("A100").peak("fp8")


def test_utilisation_of_a_published_run():
    """Chowdhery et al. 2022, appendix B: PaLM 540B at 238.3k tokens/s on 6,144 TPU v4 has an MFU of 46.2 %.

    Their FLOPs per token: 6 N + 12 L H Q T with N = 540.35e9, L = 118, H = 48, Q = 256, T = 2048.
    """
    flops_per_token = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    count = FlopCount(flops=flops_per_token * 238.3e3, convention="matmul-full")
    assert mfu(count, 1.0, "TPU v4", num_devices=6144) == pytest.approx(0.462, abs=0.0005)  # as printed


@pytest.mark.parametrize(
    ("convention", "seconds", "words"),
    [
        ("matmul-full+recompute", 1.0, "leaves recomputation out"),
        ("6N-all", 0.0, "no utilisation over 0.0 s"),
    ],
)
def test_no_utilisation_without_a_fitting_count_and_time(convention, seconds, words):
    with pytest.raises(ValueError, match=words):
        mfu(FlopCount(flops=1e15, convention=convention), seconds, "H100")


def test_device_days_become_flops_and_come_back_as_utilisation():
    found = budget_to_flops(Budget.parse("50 H100-days"), mfu=0.4)
    assert found.count.flops == pytest.approx(50 * 86_400 * 0.4 * 989.4e12)
    assert found.device_seconds == 50 * 86_400
    assert any("40%" in sentence and "H100 SXM" in sentence for sentence in found.assumptions)
    assert mfu(found.count, found.device_seconds, "H100") == pytest.approx(0.4)


def test_money_becomes_device_time_at_a_stated_price():
    given = budget_to_flops(Budget.parse("$200"), mfu=0.5, device_name="A100", usd_per_hour=2.0)
    assert given.device_seconds == 100 * 3600
    assert given.count.flops == pytest.approx(100 * 3600 * 0.5 * 312e12)
    assumed = budget_to_flops(Budget.parse("$200"), mfu=0.5, device_name="A100")
    assert any(PRICES_AS_OF in sentence for sentence in assumed.assumptions)
    assert not any(PRICES_AS_OF in sentence for sentence in given.assumptions)


def test_an_allocation_is_counted_in_months():
    once = budget_to_flops(Budget.parse("50 H100-days"), mfu=0.4)
    year = budget_to_flops(Budget.parse("50 H100-days/month"), mfu=0.4, months=12)
    assert year.count.flops == pytest.approx(12 * once.count.flops)
    assert any("12 months" in sentence for sentence in year.assumptions)


def test_flops_keep_their_convention_and_time_takes_a_measured_rate():
    flops = budget_to_flops(Budget.parse("3e11", convention="6N-all"))
    assert flops.count == FlopCount(flops=3e11, convention="6N-all")
    assert flops.device_seconds is None
    measured = budget_to_flops(Budget.parse("5 min"), flops_per_s=4e10)
    assert measured.count.flops == pytest.approx(300 * 4e10)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("33k labels", {"mfu": 0.4}, "labels buy no training"),
        ("10 calls", {"mfu": 0.4}, "calls buy no training"),
        ("5 min", {"mfu": 0.4}, "calibrate"),
        ("$200", {"mfu": 0.4}, "name one"),
        ("2 GPU-days", {"mfu": 0.4}, "unknown device 'GPU'"),
        ("2 H100-days", {}, "mfu in"),
        ("2 H100-days", {"mfu": 40}, "not 40"),
        ("2 A100-days", {"mfu": 0.4, "dtype": "fp8"}, "no fp8 peak"),
        ("$200", {"mfu": 0.4, "device_name": "V100"}, "no price is assumed"),
        ("$200", {"mfu": 0.4, "device_name": "A100", "usd_per_hour": 0}, "above zero"),
    ],
)
def test_what_buys_no_flops_says_what_is_missing(text, options, words):
    with pytest.raises(ValueError, match=words):
        budget_to_flops(Budget.parse(text), **options)
