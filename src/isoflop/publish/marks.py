"""Marks that several figures share: axes with few clear ticks, intervals with open ends, labels at the line.

Works on Matplotlib's Axes objects that it is handed; no global state. Leaves out what a figure means.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from isoflop.publish.ink import AXIS, MUTED, PAPER, Ink
from isoflop.publish.numbers import compact, number, power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The range of one axis."""

    lo: float
    hi: float
    log: bool


def limits(values: Sequence[float | None], *, log: bool, pad: float = 0.05) -> Limits:
    """A range around the values, `pad` of its length wider at each end.

    Raises ValueError when there is no value, or a log axis meets one that is not positive.
    """
    known = [value for value in values if value is not None]
    if not known:
        raise ValueError("nothing to draw: every value is missing")
    if log and min(known) <= 0:
        raise ValueError(f"a logarithmic axis cannot show {min(known):g}")
    lo, hi = (math.log(min(known)), math.log(max(known))) if log else (min(known), max(known))
    space = pad * (hi - lo) if hi > lo else (0.5 if log else 0.05 * max(abs(hi), 1.0))
    lo, hi = lo - space, hi + space
    return Limits(lo=math.exp(lo) if log else lo, hi=math.exp(hi) if log else hi, log=log)


def log_ticks(lo: float, hi: float, at_most: int) -> list[float]:
    """Round positions on a log axis: the densest of 1-2-3-5, 1-2-5, decades and fewer that stays `at_most` long.

    A range of less than a factor of four has too few of those, and gets evenly spaced numbers instead.
    """
    if hi / lo < 4:
        return _even_ticks(lo, hi, at_most)
    first, last = math.floor(math.log10(lo)), math.ceil(math.log10(hi))
    for steps in ((1, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if lo * 0.999 <= tick <= hi * 1.001]
        if len(inside) <= at_most:
            return inside
    for stride in range(1, last - first + 2):
        ticks = [10.0**power for power in range(first, last + 1) if power % stride == 0]
        inside = [tick for tick in ticks if lo * 0.999 <= tick <= hi * 1.001]
        if len(inside) <= at_most:
            return inside
    return []


def _even_ticks(lo: float, hi: float, at_most: int) -> list[float]:
    for step in sorted(base * 10.0**power for base in (1, 2, 5) for power in range(-18, 18)):
        if (hi - lo) / step <= at_most - 1:
            first, last = math.ceil(lo / step), math.floor(hi / step)
            return [index * step for index in range(first, last + 1)]
    return []


def set_axis(
    ax: Axes,
    which: Literal["x", "y"],
    extent: Limits,
    *,
    title: str = "",
    at_most: int = 7,
    text: Callable[[float], str] | None = None,
) -> None:
    """Give one axis its range, scale, title and a few round ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    axis = ax.xaxis if which == "x" else ax.yaxis
    if extent.log:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
        axis.set_major_locator(FixedLocator(log_ticks(extent.lo, extent.hi, at_most)))
    else:
        axis.set_major_locator(MaxNLocator(nbins=at_most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: (text or _plain)(value)))
    (ax.set_xlim if which == "x" else ax.set_ylim)(extent.lo, extent.hi)
    if title:
        axis.set_label_text(title)
        if which == "y":
            axis.label.set_rotation_mode("anchor")


def _plain(value: float) -> str:
    rounded = float(f"{value:.6g}")
    return compact(rounded) if abs(rounded) >= 10_000 else number(rounded)


def flops_ticks(value: float) -> str:
    """A FLOP count on an axis: always a power of ten."""
    return power_of_ten(value, 2)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with an interval. A missing end is open and drawn as an arrow to the border of the axes."""

    value: float | None
    lo: float | None
    hi: float | None


def draw_bar(
    ax: Axes,
    along: Literal["x", "y"],
    across: float,
    bar: Bar,
    ink: Ink,
    *,
    marker: str = "D",
    size: float = 6.0,
) -> None:
    """Draw a value and its interval along one axis, at the place `across` on the other.

    The limits of the axes must be set before: an open end runs to them.
    """
    if bar.value is None:
        return
    ends = ax.get_xlim() if along == "x" else ax.get_ylim()
    lo = ends[0] if bar.lo is None else bar.lo
    hi = ends[1] if bar.hi is None else bar.hi
    color = ink.light
    if lo == hi:  # a value without an interval: caps around a point would pretend one
        ax.plot(*((bar.value, across) if along == "x" else (across, bar.value)), color=color, marker=marker,
                markersize=size, linestyle="", zorder=8)  # fmt: skip
        return

    def plot(values: list[float], **style: Any) -> None:
        fixed = [across] * len(values)
        ax.plot(*((values, fixed) if along == "x" else (fixed, values)), color=color, **style)

    plot([lo, hi], linewidth=2.2, solid_capstyle="butt", zorder=6)
    caps = {"x": "|", "y": "_"}[along]
    for end, is_open, arrow in (
        (lo, bar.lo is None, {"x": "<", "y": "v"}[along]),
        (hi, bar.hi is None, {"x": ">", "y": "^"}[along]),
    ):
        if is_open:
            plot([end], marker=arrow, markersize=7, clip_on=False, zorder=7, markerfacecolor=PAPER.light,
                 markeredgewidth=1.4)  # fmt: skip
        else:
            plot([end], marker=caps, markersize=9.5, markeredgewidth=1.6, zorder=6)
    plot(
        [bar.value],
        marker=marker,
        markersize=size,
        markeredgecolor=PAPER.light,
        markeredgewidth=1.2,
        zorder=8,
    )


def is_open(bar: Bar) -> bool:
    """True when an end of the interval is missing and was drawn as an arrow."""
    return bar.value is not None and (bar.lo is None or bar.hi is None)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbours are at least `gap` from each other, as little as possible.

    Pools neighbours that touch and centres each pool on its members (isotonic regression on the gaps).
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    pools: list[list[float]] = []  # [sum of (place - rank * gap), members]
    for rank, index in enumerate(order):
        pools.append([places[index] - rank * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, members = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += members
    levels = [total / members for total, members in pools for _ in range(int(members))]
    moved = [0.0] * len(places)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        moved[index] = level + rank * gap
    return moved


@dataclass(frozen=True, kw_only=True)
class Label:
    """Words at the end of a line, in data coordinates."""

    x: float
    y: float
    text: str
    ink: Ink


def label_ends(ax: Axes, labels: Sequence[Label], *, narrow: bool, size: float = 9.0) -> None:
    """Write each label to the right of its point, moved up or down where two side by side would overlap.

    A long label runs over several lines; on a narrow sheet earlier, so that the drawing keeps its room.
    """
    to_points = 72.0 / ax.figure.dpi
    texts = ["\n".join(textwrap.wrap(label.text, 13 if narrow else 26)) for label in labels]
    gap = size * 1.3 * max((text.count("\n") + 1 for text in texts), default=1)
    places = [ax.transData.transform((label.x, label.y)) * to_points for label in labels]
    widest = 0.6 * size * max((len(line) for text in texts for line in text.split("\n")), default=0)
    for group in _neighbours([float(place[0]) for place in places], within=widest):
        heights = [float(places[index][1]) for index in group]
        for index, before, after in zip(group, heights, spread(heights, gap), strict=True):
            ax.annotate(
                texts[index],
                (labels[index].x, labels[index].y),
                xytext=(7.0, after - before),
                textcoords="offset points",
                color=labels[index].ink.light,
                fontsize=size,
                fontweight="bold",
                va="center",
                annotation_clip=False,
                zorder=9,
                bbox={"boxstyle": "square,pad=0.08", "facecolor": PAPER.light, "alpha": 0.8, "linewidth": 0},
            )


def _neighbours(places: Sequence[float], within: float) -> list[list[int]]:
    """Indices in groups: in each, every place is `within` reach of the next."""
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda item: places[item]):
        if groups and places[index] - places[groups[-1][-1]] < within:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@dataclass(frozen=True, kw_only=True)
class KeyEntry:
    """One sign of the key above a drawing, in neutral colours."""

    text: str
    sign: Literal["point", "filled", "cross", "line", "thin", "dashed", "band", "bar"]
    marker: str = "o"
    ink: Ink = MUTED


def draw_key(drawing: Drawing, entries: Sequence[KeyEntry], *, columns: int) -> None:
    """The key, above the axes: what each sign means."""
    handles = [_handle(entry) for entry in entries]
    drawing.legend(
        handles=handles,
        labels=[entry.text for entry in entries],
        loc="outside upper left",
        ncols=columns,
        labelcolor=MUTED.light,
        handlelength=1.8,
        columnspacing=1.6,
        handletextpad=0.6,
        borderaxespad=0.1,
        borderpad=0.1,
        labelspacing=0.35,
    )


def _handle(entry: KeyEntry) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    color = entry.ink.light
    if entry.sign == "band":
        return Patch(facecolor=color, alpha=0.25, linewidth=0)
    styles: dict[str, dict[str, Any]] = {
        "point": {"linestyle": "", "marker": entry.marker, "markerfacecolor": PAPER.light, "markersize": 5.5},
        "filled": {"linestyle": "", "marker": entry.marker, "markersize": 6},
        "cross": {"linestyle": "", "marker": "x", "markersize": 5.5, "markeredgewidth": 1.4},
        "line": {"linewidth": 2.4},
        "thin": {"linewidth": 0.9, "alpha": 0.6},
        "dashed": {"linewidth": 1.4, "linestyle": (0, (4, 2.5))},
        "bar": {"linewidth": 2.0, "marker": entry.marker, "markersize": 6, "markeredgecolor": PAPER.light},
    }
    return Line2D([], [], color=color, **styles[entry.sign])


def reference_line(ax: Axes, along: Literal["x", "y"], at: float, text: str) -> None:
    """A dashed line across the axes with its words on it; `along` is the axis on which `at` is read."""
    style: dict[str, Any] = {"color": AXIS.light, "linewidth": 1.2, "linestyle": (0, (4, 3)), "zorder": 1.5}
    if along == "y":
        ax.axhline(at, **style)
        place, xytext = (1.0, at), (-2, 4)
        align: dict[str, Any] = {"ha": "right", "va": "bottom"}
        frame: Any = ax.get_yaxis_transform()
    else:
        ax.axvline(at, **style)
        place, xytext, align = (at, 1.0), (4, -2), {"ha": "left", "va": "top"}
        frame = ax.get_xaxis_transform()
    if text:
        ax.annotate(text, place, xycoords=frame, xytext=xytext, textcoords="offset points", color=MUTED.light,
                    fontsize=8.6, zorder=1.6, **align)  # fmt: skip
