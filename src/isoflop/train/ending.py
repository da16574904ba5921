"""How a run's story ends: its record, written from what its folder holds. Needs no torch."""

from __future__ import annotations

import msgspec

from isoflop.records import FlopCount, Provenance, RunRecord, RunSpec, Speed, Spike
from isoflop.store import RunFolder


def write_end(
    spec: RunSpec,
    folder: RunFolder,
    status: str,
    reason: str | None,
    provenance: Provenance,
    *,
    step: int | None = None,
    spikes: tuple[Spike, ...] = (),
) -> RunRecord:
    """Write the record of a run that has ended, from what its folder holds.

    Args:
        status: "finished", "diverged", "failed" or "cut".
        reason: for anything but "finished".
        step: updates done; all of them when left out.
        spikes: where the loss rose, for a run with a `SpikeRule`.
    """
    done = spec.num_steps if step is None else step
    record = RunRecord(
        fingerprint=spec.fingerprint(),
        name=spec.name,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        num_steps=done,
        tokens=done * spec.batch_seqs * spec.data.context,
        train_flops=msgspec.structs.replace(
            spec.train_flops, flops=spec.train_flops.flops * done / spec.num_steps
        ),
        attempts=tuple(folder.read_attempts()),
        parent=spec.branch.parent if spec.branch else None,
        final_train_loss_nats=_last_tenth(spec, folder) if status == "finished" else None,
        spikes=spikes,
        speed=_speed(spec, folder),
        provenance=provenance,
    )
    folder.write_record(record)
    return record


def _speed(spec: RunSpec, folder: RunFolder) -> Speed | None:
    """Means over the rows of metrics; None for a trainer whose rows do not tell."""
    rows = [row for row in folder.read_metrics() if row.get("tokens_per_s")]
    before, tokens, seconds = spec.start_step, 0, 0.0
    for row in rows:
        own = (row["step"] - before) * spec.batch_seqs * spec.data.context
        tokens, seconds, before = tokens + own, seconds + own / row["tokens_per_s"], row["step"]
    if not seconds:
        return None
    rate = tokens / seconds
    per_token = spec.train_flops.flops / spec.tokens
    peaks = [row["tokens_per_s"] * per_token / row["mfu"] for row in rows if row.get("mfu")]
    return Speed(
        tokens_per_s=rate,
        flops_per_s=FlopCount(flops=rate * per_token, convention=spec.train_flops.convention),
        mfu=rate * per_token / peaks[-1] if peaks else None,
        mfu_reason=None if peaks else "no peak is known for this device",
        memory_bytes=max((row["memory_bytes"] for row in rows if row.get("memory_bytes")), default=None),
    )


def _last_tenth(spec: RunSpec, folder: RunFolder) -> float | None:
    """Mean training loss of the last tenth of the path's steps, from the rows of metrics."""
    rows = [row for row in folder.read_metrics() if row.get("loss_nats") is not None]
    total, weight, before = 0.0, 0, spec.start_step
    for row in rows:
        if row["step"] > 0.9 * spec.num_steps:
            total += row["loss_nats"] * (row["step"] - before)
            weight += row["step"] - before
        before = row["step"]
    return total / weight if weight else None
