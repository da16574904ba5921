"""How a run's story ends: its record, written from what its folder holds. Needs no torch."""

from __future__ import annotations

import msgspec

from isoflop.records import Provenance, RunRecord, RunSpec
from isoflop.store import RunFolder


def write_end(
    spec: RunSpec,
    folder: RunFolder,
    status: str,
    reason: str | None,
    provenance: Provenance,
    *,
    step: int | None = None,
) -> RunRecord:
    """Write the record of a run that has ended, from what its folder holds.

    Args:
        status: "finished", "diverged", "failed" or "cut".
        reason: for anything but "finished".
        step: updates done; all of them when left out.
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
        provenance=provenance,
    )
    folder.write_record(record)
    return record


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
