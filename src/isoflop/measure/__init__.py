"""From weights to measurements with their sampling error. `heldout.score` is the function that runs name."""

from __future__ import annotations

from isoflop.measure import reported
from isoflop.records import Measurement
from isoflop.store import RunFolder, StoreError


def measure_run(folder: RunFolder, *, device: str = "cpu") -> Measurement:
    """Score a finished run from its final weights, by its own EvalSpec, and write measurements.jsonl.

    Raises:
        StoreError: the run names no score, or its final weights are gone.
        CheckpointError: they are damaged.
    """
    import torch

    from isoflop.data import open_corpus
    from isoflop.data.windows import validation_windows
    from isoflop.dist.checkpoint import MODEL, read_folder
    from isoflop.model.build import build_net
    from isoflop.refs import resolve

    spec = folder.read_spec()
    if spec.evaluate is None:
        raise StoreError(f"{folder.path.name} names no score to take (its EvalSpec is empty)")
    if spec.command is not None:
        measurement = reported.measurement(spec, folder)
        folder.write_measurements((measurement,))
        return measurement
    weights = folder.checkpoints / "final"
    if not weights.is_dir():
        raise StoreError(f"{folder.path} holds no final weights; delete the folder to train the run again")
    tensors, state = read_folder(weights)
    net = build_net(spec.net, torch.Generator())
    net.load_state_dict(tensors[MODEL])
    net.to(device)
    windows = validation_windows(
        open_corpus(spec.data.sources[0]), spec.data.context, spec.evaluate.num_windows
    )
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=spec.precision == "bf16"):
        measurement = resolve(spec.evaluate.function)(net, windows, spec, int(state["step"]))
    folder.write_measurements((measurement,))
    return measurement
