"""Training loss against FLOPs, by size, from the runs' own metrics: trunks thin, cooldown branches heavy.

Rows of metrics.jsonl hold at least "flops" (of the path from step 0) and "loss_nats". A curve is the mean over
bins that are even in the logarithm of FLOPs, so the drawing stays small however long a run was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, RunView, StudyData
from isoflop.publish.ink import Ink, series
from isoflop.publish.numbers import power_of_ten
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIONS = ("label",)
BINS_PER_DECADE = 24
DECADES = 3
"""Of FLOPs before the end; what lies earlier is warm-up, and is said to be left out."""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """One run's binned losses."""

    run: RunView
    group: str
    flops: np.ndarray
    loss_nats: np.ndarray


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw every run that logged. Option: label, the RunSpec label that names the groups ("size")."""
    label = str(figure.options.get("label", "size"))
    curves = [curve for run in data.runs if (curve := _binned(run, label)) is not None]
    if not curves:
        raise PublishError(f"figure {figure.name!r}: no run has logged a loss in its metrics.jsonl")
    sizes = {curve.group: _size(curve.run) for curve in curves}
    groups = sorted(sizes, key=lambda group: (sizes[group], group))
    inks = dict(zip(groups, series(len(groups)), strict=True))
    (ax,) = sheet.axes(height=5.2, narrow_height=4.7)
    everything = np.concatenate([curve.flops for curve in curves])
    losses = np.concatenate([curve.loss_nats for curve in curves])
    first, last = float(everything.min()), float(everything.max())
    start = max(first, last / 10**DECADES)
    x_extent = marks.limits([start, last], log=True, pad=0.03)
    shown = losses[everything >= start]
    y_extent = marks.limits([float(shown.min()), float(shown.max())], log=False, pad=0.07)
    marks.set_axis(
        ax, "x", x_extent, title="Training FLOPs", at_most=4 if sheet.narrow else 7, text=marks.flops_ticks
    )
    marks.set_axis(ax, "y", y_extent, title="Training loss, nats per token")
    for curve in curves:
        _draw_curve(ax, curve, inks[curve.group])
    if any(curve.run.spec.branch for curve in curves):
        entries = [
            marks.KeyEntry(text="trunk, constant rate", sign="thin"),
            marks.KeyEntry(text="cooldown branch", sign="line"),
        ]
        if any(curve.run.status == "diverged" for curve in curves):
            entries.append(marks.KeyEntry(text="diverged", sign="cross"))
        marks.draw_key(sheet.drawing, entries, columns=2 if sheet.narrow else len(entries))
    sheet.settle()
    _label_groups(ax, curves, inks, narrow=sheet.narrow)
    silent = [run.spec.name for run in data.runs if run.folder is not None and not run.loss_curve.size]
    notes = (
        [f"Drawn from {power_of_ten(start, 2)} FLOPs on; the runs start at {power_of_ten(first, 2)}."]
        if first < start
        else []
    )
    return (*notes, *([f"No loss was logged by: {', '.join(silent)}."] if silent else []))


def _size(run: RunView) -> float:
    """What the groups are ordered by: the FLOPs of a token, which grow with size under every counting."""
    return run.spec.train_flops.flops / run.spec.tokens


def _binned(run: RunView, label: str) -> _Curve | None:
    flops, losses = run.loss_curve
    if not flops.size:
        return None
    bins = np.floor(np.log10(flops) * BINS_PER_DECADE).astype(int)
    _, where, counts = np.unique(bins, return_inverse=True, return_counts=True)
    group = str(run.spec.labels.get(label) or run.spec.net.words)
    # A branch covers little of a decade; without its last row the end of the cooldown would be averaged away.
    mean_flops = np.exp(np.bincount(where, np.log(flops)) / counts)
    mean_losses = np.bincount(where, losses) / counts
    return _Curve(
        run=run,
        group=group,
        flops=np.append(mean_flops, flops[-1]),
        loss_nats=np.append(mean_losses, losses[-max(1, len(losses) // 50) :].mean()),
    )


def _draw_curve(ax: Axes, curve: _Curve, ink: Ink) -> None:
    branch = curve.run.spec.branch is not None
    style: dict[str, Any] = {"linewidth": 1.9, "alpha": 0.9, "zorder": 4} if branch else {
        "linewidth": 0.9, "alpha": 0.5, "zorder": 3,
    }  # fmt: skip
    ax.plot(curve.flops, curve.loss_nats, color=ink.light, **style)
    if curve.run.status == "diverged":
        ax.plot(curve.flops[-1:], curve.loss_nats[-1:], marker="x", markersize=7, markeredgewidth=1.8,
                color=ink.light, zorder=5)  # fmt: skip


def _label_groups(ax: Axes, curves: list[_Curve], inks: dict[str, Ink], *, narrow: bool) -> None:
    """Name each group at the end of its longest run."""
    labels = []
    for group, ink in inks.items():
        last = max(
            (curve for curve in curves if curve.group == group), key=lambda curve: float(curve.flops[-1])
        )
        labels.append(marks.Label(x=float(last.flops[-1]), y=float(last.loss_nats[-1]), text=group, ink=ink))
    marks.label_ends(ax, labels, narrow=narrow)
