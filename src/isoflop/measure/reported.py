"""The score that a run's own command reported, as a Measurement (see `isoflop.train.command` for the row)."""

from __future__ import annotations

import numpy as np

from isoflop.measure.groups import from_groups
from isoflop.records import Measurement, RunSpec
from isoflop.store import RunFolder, StoreError


def measurement(spec: RunSpec, folder: RunFolder) -> Measurement:
    """Read the last row of metrics.jsonl, {"final": true, "group_nats": ...}.

    Raises StoreError when there is none.
    """
    rows = [row for row in folder.read_metrics() if row.get("final")]
    if not rows:
        raise StoreError(f'{folder.metrics_path} lacks the last row, {{"final": true, "val_loss_nats": ...}}')
    row = rows[-1]
    return from_groups(
        spec,
        int(row.get("step", spec.num_steps)),
        np.asarray(row["group_nats"], dtype=np.float64),
        np.asarray(row["group_tokens"], dtype=np.int64),
        int(row["num_bytes"]),
        held_fixed=f"as the command reported it: {len(row['group_nats'])} groups of held-out windows",
    )
