"""What a row of metrics says beside the loss: how fast the run goes, and how much memory it has taken.

    metrics.jsonl, one row per hundredth of a run (the coarse bins of the loss):
    step            updates done
    tokens, flops   of the path from step 0; undone updates are in the attempts' ledger, not here
    loss_nats       training loss, mean since the row before
    loss_bins       [[last step, mean loss], ...] of the 100-step bins that ended since the row before
    lr, grad_norm   of the last update; mean before clipping since the row before
    seconds         worker-seconds behind this state
    tokens_per_s    since the row before, by the wall clock: reading, scoring and saving are in it
    mfu             model FLOPs utilisation, see `MFU_FORMULA`; null where no peak is known
    memory_bytes    most that was taken so far: by tensors on a GPU, by the whole process on a CPU
    skipped_samples left out after spikes; only with a `SpikeRule`

Leaves out the loop, and what the record sums up (`isoflop.train.ending`).
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from isoflop.flops import hardware
from isoflop.records import RunSpec

MFU_FORMULA = "training FLOPs per token x tokens/s / (devices x dense peak FLOP/s of one device)"
"""Chowdhery et al. 2022, appendix B. The FLOPs are counted by the run's own convention, which is beside them."""


class Meter:
    """Reads speed and memory when a row is made; nothing happens in between."""

    def __init__(
        self,
        spec: RunSpec,
        step: int,
        seconds: float,
        device: torch.device | None = None,
        num_devices: int = 1,
    ) -> None:
        """Start measuring.

        Args:
            spec: the run.
            step, seconds: where it stands.
            device: of this process; None or a CPU has no published peak here.
            num_devices: that share the run.
        """
        self._tokens_per_step = spec.batch_seqs * spec.data.context
        self._flops_per_token = spec.train_flops.flops / max(1, spec.tokens)
        self._before = (step, seconds)
        self._device = device
        peak = None if device is None else peak_flops_per_s(device, spec.precision)
        self._peak = None if peak is None else peak * num_devices

    def read(self, step: int, seconds: float) -> dict[str, Any]:
        """The fields of a row at this step; speeds are since the row before."""
        steps, spent = step - self._before[0], seconds - self._before[1]
        self._before = (step, seconds)
        rate = steps * self._tokens_per_step / spent if spent > 0 and steps > 0 else None
        use = None if rate is None or self._peak is None else rate * self._flops_per_token / self._peak
        return {
            "tokens_per_s": None if rate is None else round(rate, 1),
            "mfu": None if use is None else round(use, 5),
            "memory_bytes": memory_bytes(self._device),
        }


def peak_flops_per_s(device: torch.device, precision: str) -> float | None:
    """Dense peak of a device in a run's precision; None for a CPU or a device that is not listed.

    fp32 products run as torch is set to run them: in TF32 where that is allowed.
    """
    if device.type != "cuda":
        return None
    fast = precision == "fp32" and torch.backends.cuda.matmul.allow_tf32
    try:
        found = hardware.device(torch.cuda.get_device_name(device))
        return found.peak("bf16" if precision == "bf16" else "tf32" if fast else "fp32")
    except ValueError:
        return None


def memory_bytes(device: torch.device | None) -> int | None:
    """Most memory taken so far: torch's own count on a GPU, the process's resident set on a CPU."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(taken if sys.platform == "darwin" else taken * 1024)
