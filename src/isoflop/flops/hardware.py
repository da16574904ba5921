"""What devices can do at most: dense peak FLOP/s by number format, memory, and what a budget buys on them.

Peaks are the makers' figures for dense matrix products (where a data sheet quotes the rate with structured
sparsity, half of it), with 32-bit accumulation. Nobody reaches them: the share that is reached, MFU, is
always an input here and never a default. What this machine delivers is measured elsewhere
(`Calibration`); interconnects and bandwidths are not listed.

Prices are assumptions, dated, of the order of a public cloud's hourly rate; pass your own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from isoflop.records import Budget, Convention, FlopCount

DType = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]

PRICES_AS_OF = "2025-06"
"""When the assumed prices were set down. They move; every plan in money names the price it used."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, as a program sees it."""

    name: str
    peak_flops_per_s: Mapping[DType, float]
    """Dense peak by number format; a format that is absent is not supported or not published."""
    memory_bytes: float
    """Nominal capacity; 1e9 bytes per GB of the data sheet."""
    source: str
    """Where the figures are from."""
    usd_per_hour: float | None = None
    """Assumed price (see PRICES_AS_OF); None when no assumption is made."""

    def peak(self, dtype: DType = "bf16") -> float:
        """Dense peak in FLOP/s. Raises ValueError for a format that the device has no figure for."""
        if dtype not in self.peak_flops_per_s:
            known = ", ".join(self.peak_flops_per_s)
            raise ValueError(f"no {dtype} peak is known for {self.name}; known: {known}")
        return self.peak_flops_per_s[dtype]


def _peaks(
    *, half: float, fp32: float, tf32: float | None = None, fp8: float | None = None
) -> dict[DType, float]:
    """Peaks in TFLOP/s to FLOP/s; fp16 and bf16 run at one rate on all devices that have both."""
    given: dict[DType, float | None] = {"fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half, "fp8": fp8}
    return {dtype: value * 1e12 for dtype, value in given.items() if value is not None}


_HOPPER = "NVIDIA H100 Tensor Core GPU data sheet (2023)"
_TPU = "Google Cloud, TPU system architecture, page of this version"

DEVICES: tuple[Device, ...] = (
    Device(
        name="H100 SXM",
        peak_flops_per_s=_peaks(half=989.4, fp32=66.9, tf32=494.7, fp8=1978.9),
        memory_bytes=80e9,
        source=_HOPPER,
        usd_per_hour=3.0,
    ),
    Device(
        name="H100 PCIe",
        peak_flops_per_s=_peaks(half=756.5, fp32=51.2, tf32=378.0, fp8=1513.0),
        memory_bytes=80e9,
        source=_HOPPER,
        usd_per_hour=2.5,
    ),
    Device(
        name="H100 NVL",
        peak_flops_per_s=_peaks(half=835.5, fp32=60.0, tf32=417.5, fp8=1670.5),
        memory_bytes=94e9,
        source=_HOPPER,
    ),
    Device(
        name="H200",
        peak_flops_per_s=_peaks(half=989.4, fp32=66.9, tf32=494.7, fp8=1978.9),
        memory_bytes=141e9,
        source="NVIDIA H200 Tensor Core GPU data sheet (2024)",
        usd_per_hour=3.5,
    ),
    Device(
        name="B200",
        peak_flops_per_s=_peaks(half=2250.0, fp32=75.0, tf32=1125.0, fp8=4500.0),
        memory_bytes=180e9,
        source="NVIDIA HGX B200 data sheet (2024), one of eight GPUs",
        usd_per_hour=5.5,
    ),
    Device(
        name="A100",
        peak_flops_per_s=_peaks(half=312.0, fp32=19.5, tf32=156.0),
        memory_bytes=80e9,
        source="NVIDIA A100 Tensor Core GPU data sheet (2021)",
        usd_per_hour=1.8,
    ),
    Device(
        name="A100 40GB",
        peak_flops_per_s=_peaks(half=312.0, fp32=19.5, tf32=156.0),
        memory_bytes=40e9,
        source="NVIDIA A100 Tensor Core GPU data sheet (2021)",
        usd_per_hour=1.3,
    ),
    Device(
        name="V100",
        peak_flops_per_s={"fp32": 15.7e12, "fp16": 125e12},
        memory_bytes=32e9,
        source="NVIDIA V100 data sheet (2020), SXM2; it has no bf16",
    ),
    Device(
        name="L40S",
        peak_flops_per_s=_peaks(half=362.05, fp32=91.6, tf32=183.0, fp8=733.0),
        memory_bytes=48e9,
        source="NVIDIA L40S data sheet (2023)",
        usd_per_hour=1.0,
    ),
    Device(
        name="L4",
        peak_flops_per_s=_peaks(half=121.0, fp32=30.3, tf32=60.0, fp8=242.5),
        memory_bytes=24e9,
        source="NVIDIA L4 data sheet (2023)",
    ),
    Device(
        name="RTX 5090",
        peak_flops_per_s=_peaks(half=209.5, fp32=104.8, tf32=104.8, fp8=419.0),
        memory_bytes=32e9,
        source="NVIDIA RTX Blackwell GPU architecture (2025), appendix A",
    ),
    Device(
        name="RTX 4090",
        peak_flops_per_s=_peaks(half=165.2, fp32=82.6, tf32=82.6, fp8=330.3),
        memory_bytes=24e9,
        source="NVIDIA Ada GPU architecture (2022), appendix A",
        usd_per_hour=0.4,
    ),
    Device(
        name="RTX 3090",
        peak_flops_per_s=_peaks(half=71.0, fp32=35.6, tf32=35.6),
        memory_bytes=24e9,
        source="NVIDIA Ampere GA102 GPU architecture (2020), appendix A",
        usd_per_hour=0.2,
    ),
    Device(
        name="MI250X GCD",
        peak_flops_per_s=_peaks(half=191.5, fp32=23.95),
        memory_bytes=64e9,
        source="AMD Instinct MI250X data sheet (2021); a program sees each of its two dies as a device",
    ),
    Device(
        name="MI300X",
        peak_flops_per_s=_peaks(half=1307.4, fp32=163.4, tf32=653.7, fp8=2614.9),
        memory_bytes=192e9,
        source="AMD Instinct MI300X data sheet (2023)",
        usd_per_hour=2.5,
    ),
    Device(
        name="TPU v4", peak_flops_per_s={"bf16": 275e12}, memory_bytes=32e9, source=_TPU, usd_per_hour=3.2
    ),
    Device(
        name="TPU v5e", peak_flops_per_s={"bf16": 197e12}, memory_bytes=16e9, source=_TPU, usd_per_hour=1.2
    ),
    Device(
        name="TPU v5p", peak_flops_per_s={"bf16": 459e12}, memory_bytes=95e9, source=_TPU, usd_per_hour=4.2
    ),
    Device(
        name="TPU v6e", peak_flops_per_s={"bf16": 918e12}, memory_bytes=32e9, source=_TPU, usd_per_hour=2.7
    ),
)

# fmt: off
_DECORATION = frozenset({
    "nvidia", "amd", "google", "geforce", "tesla", "instinct", "cloud", "tensor", "core", "gpu",
    "accelerator", "oam", "hbm2", "hbm2e", "hbm3", "hbm3e", "sxm", "sxm2", "sxm4", "sxm5", "rtx", "tpu",
    "ada", "blackwell", "mi", "gcd", "16gb", "24gb", "32gb", "48gb", "64gb", "80gb", "94gb", "95gb",
    "141gb", "180gb", "192gb",
})
# fmt: on
"""Words that come with a device's name and do not change which one of the list it is."""


def device(name: str) -> Device:
    """Find a device by the name that people or drivers give it: "H100", "NVIDIA A100-SXM4-80GB", "4090".

    Raises ValueError that lists near names.
    """
    words = set(_words(name))
    fitting = [(len(own), item) for item in DEVICES if (own := _own_words(item.name)) <= words]
    if fitting:
        best = max(fitting, key=lambda pair: pair[0])[1]
        if words - _own_words(best.name) <= _DECORATION:
            return best
    near = [item.name for item in DEVICES if _likeness(name, item.name) > 0.7]
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(item.name for item in DEVICES)}"
    raise ValueError(f"unknown device {name!r}; {hint}")


def mfu(
    train_flops: FlopCount, seconds: float, device_name: str, *, num_devices: int = 1, dtype: DType = "bf16"
) -> float:
    """Model FLOPs utilisation: FLOPs the model needs / (seconds x devices x dense peak).

    Chowdhery et al. 2022 (PaLM), appendix B, with the count's own convention for the model's FLOPs: quote
    the two together. Their count is "matmul-full". Recomputed FLOPs are work that the model does not need,
    so a "+recompute" count is refused (it would give hardware utilisation, a larger number).

    Raises ValueError for such a count, an unknown device, or a time that is not positive.
    """
    if train_flops.convention.endswith("+recompute"):
        raise ValueError(
            f"MFU leaves recomputation out; count the FLOPs as "
            f"{train_flops.convention.removesuffix('+recompute')!r} instead of {train_flops.convention!r}"
        )
    if not seconds > 0 or num_devices < 1:
        raise ValueError(f"no utilisation over {seconds} s on {num_devices} devices")
    return train_flops.flops / (seconds * num_devices * device(device_name).peak(dtype))


@dataclass(frozen=True, kw_only=True)
class BudgetInFlops:
    """A budget turned into training FLOPs."""

    count: FlopCount
    device_seconds: float | None
    """Seconds of one device that the budget pays for; None for a budget given in FLOPs."""
    assumptions: tuple[str, ...]
    """Each figure that went into it besides the amount itself, as a sentence."""


def budget_to_flops(
    budget: Budget,
    *,
    mfu: float | None = None,
    device_name: str | None = None,
    dtype: DType = "bf16",
    convention: Convention = "matmul-causal",
    usd_per_hour: float | None = None,
    months: float = 1.0,
    flops_per_s: float | None = None,
) -> BudgetInFlops:
    """How many training FLOPs a budget pays for.

    Args:
        budget: FLOPs, device time, money, or time on this machine.
        mfu: share of the peak that is reached, in (0, 1], counted under `convention`; for device time and
            money.
        device_name: for money, and for device time whose text names no device of the list.
        dtype: number format whose peak `mfu` refers to.
        convention: how the FLOPs, and `mfu`, are counted; a budget in FLOPs keeps its own.
        usd_per_hour: price of one device; the list's dated assumption when left out.
        months: how many months of an allocation that renews each month.
        flops_per_s: measured training rate of this machine, for a budget in plain seconds.

    Raises:
        ValueError: labels and calls, which buy no training; what the unit needs and was not given.
    """
    assumptions: list[str] = []
    amount = budget.amount
    if budget.per_month:
        amount *= months
        assumptions.append(f"{months:g} month{'s' if months != 1 else ''} of the allocation")
    if budget.unit == "flops":
        count = FlopCount(flops=amount, convention=budget.convention or convention)
        return BudgetInFlops(count=count, device_seconds=None, assumptions=tuple(assumptions))
    if budget.unit == "seconds":
        if flops_per_s is None:
            raise ValueError(
                f"{budget.text or 'a time'} buys FLOPs only at a measured rate: calibrate this machine"
            )
        count = FlopCount(flops=amount * flops_per_s, convention=convention)
        assumptions.append(f"this machine trains at {flops_per_s:.3g} FLOP/s ({convention})")
        return BudgetInFlops(count=count, device_seconds=amount, assumptions=tuple(assumptions))
    if budget.unit in ("labels", "calls"):
        raise ValueError(f"{budget.text or budget.unit!r}: {budget.unit} buy no training FLOPs")
    found = _named_device(budget, device_name)
    if budget.unit == "usd":
        amount *= 3600 / _price(found, usd_per_hour, assumptions)
    if mfu is None or not 0 < mfu <= 1:
        raise ValueError(
            f"FLOPs on {found.name} need the share of its peak that is reached: mfu in (0, 1], not {mfu}"
        )
    assumptions.append(
        f"{found.name} reaches {mfu:.0%} of its dense {dtype} peak of {found.peak(dtype) / 1e12:g} TFLOP/s "
        f"({convention}; {found.source})"
    )
    count = FlopCount(flops=amount * mfu * found.peak(dtype), convention=convention)
    return BudgetInFlops(count=count, device_seconds=amount, assumptions=tuple(assumptions))


def _named_device(budget: Budget, device_name: str | None) -> Device:
    name = device_name or budget.device
    if name is None:
        raise ValueError(f"{budget.text or 'this budget'} buys FLOPs only on a device: name one, e.g. H100")
    return device(name)


def _price(found: Device, usd_per_hour: float | None, assumptions: list[str]) -> float:
    if usd_per_hour is not None:
        if not usd_per_hour > 0:
            raise ValueError(f"a price of {usd_per_hour} USD an hour; it takes an amount above zero")
        assumptions.append(f"{found.name} costs {usd_per_hour:g} USD an hour, as given")
        return usd_per_hour
    if found.usd_per_hour is None:
        raise ValueError(f"no price is assumed for {found.name}: give one in USD an hour")
    assumptions.append(
        f"{found.name} costs {found.usd_per_hour:g} USD an hour (assumed, {PRICES_AS_OF}; give your own price)"
    )
    return found.usd_per_hour


def _words(name: str) -> list[str]:
    """Lower-case words of a device's name, with glued ones taken apart: "TPUv5e" -> tpu, v5e."""
    text = re.sub(r"(rtx|tpu)(?=[0-9v])", r"\1 ", name.lower())
    text = re.sub(r"([ahb]\d{3})(sxm|pcie|nvl)", r"\1 \2", text)
    return re.findall(r"[a-z0-9]+", text)


def _likeness(given: str, name: str) -> float:
    """How alike two names are, as a whole or in their most alike words; 1 when equal."""
    pairs = [(given.lower(), name.lower()), *((a, b) for a in _words(given) for b in _words(name))]
    return max(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)


def _own_words(name: str) -> set[str]:
    """The words of a listed name that tell it from the others."""
    words = set(_words(name))
    return (words - _DECORATION) or words
