"""isoFLOP profiles: loss against size, one bowl per budget, after Hoffmann et al. (2022), figure 3.

Tables: "points" (budget, <convention>, loss_nats, included, reason), "bowls" (convention, budget, centre_lnN,
c0..c3, window_lo, window_hi, N_opt with _lo and _hi, loss_opt, basin_lo, basin_hi, status, reason) and, when
there is one, "bowl_draws" (convention, budget, centre_lnN, c0..c3). A bowl is
loss = sum_k c_k (ln N - centre_lnN)^k with N, window and basin in parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, Row, StudyData, as_float
from isoflop.publish.ink import MARKERS, PAPER, Ink, series
from isoflop.publish.kinds.words import OPEN_END, counting, grouped
from isoflop.publish.numbers import compact, power_of_ten
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure, Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIONS = ("convention", "points_table", "bowls_table", "bowl_draws_table", "draws")
POINT_COLUMNS = ("budget", "loss_nats", "included")
CURVE_COLUMNS = ("convention", "budget", "centre_lnN", "c0", "c1", "c2", "c3")
BOWL_COLUMNS = (
    *CURVE_COLUMNS, "window_lo", "window_hi", "N_opt", "N_opt_lo", "N_opt_hi", "loss_opt", "basin_lo", "basin_hi",
    "status", "reason",
)  # fmt: skip
CURVE_POINTS = 48
DRAWS_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """What is known about one budget."""

    budget: float
    ink: Ink
    marker: str
    bowl: Row | None
    points: list[Row]
    draws: list[Row]


def draw(figure: Figure, data: StudyData, sheet: Sheet) -> tuple[str, ...]:
    """Draw all budgets into one panel. Options: convention ("N_all"), draws (how many bootstrap curves, 60)."""
    convention = str(figure.options.get("convention", "N_all"))
    profiles = _profiles(figure, data, convention)
    (ax,) = sheet.axes(height=5.7, narrow_height=4.9)
    _set_limits(ax, profiles, convention, sheet)
    marks.draw_key(sheet.drawing, _key(profiles), columns=2 if sheet.narrow else 6)
    for profile in profiles:
        _draw_bowl(ax, profile)
        _draw_points(ax, profile, convention)
    for profile in profiles:
        _draw_optimum(ax, profile)
    sheet.settle()
    marks.label_ends(ax, [_label(profile, convention, sheet) for profile in profiles], narrow=sheet.narrow)
    return _notes(profiles)


def _profiles(figure: Figure, data: StudyData, convention: str) -> list[_Profile]:
    points = data.rows(figure, "points", *POINT_COLUMNS, convention)
    all_bowls = data.rows(figure, "bowls", *BOWL_COLUMNS)
    bowls = {as_float(row["budget"]): row for row in all_bowls if row["convention"] == convention}
    if all_bowls and not bowls:
        there = ", ".join(sorted({str(row["convention"]) for row in all_bowls}))
        raise PublishError(
            f"figure {figure.name!r}: no bowl under the convention {convention!r}; there are: {there}"
        )
    draws: list[Row] = []
    if "bowl_draws_table" in figure.options or "bowl_draws" in data.tables:
        draws = [r for r in data.rows(figure, "bowl_draws", *CURVE_COLUMNS) if r["convention"] == convention]
    budgets = sorted(
        {budget for row in [*points, *bowls.values()] if (budget := as_float(row["budget"])) is not None}
    )
    if not budgets:
        raise PublishError(f"figure {figure.name!r}: neither points nor bowls to draw")
    keep = int(as_float(figure.options.get("draws", DRAWS_SHOWN)) or 0)
    return [
        _Profile(
            budget=budget,
            ink=ink,
            marker=MARKERS[index % len(MARKERS)],
            bowl=bowls.get(budget),
            points=[row for row in points if as_float(row["budget"]) == budget],
            draws=[row for row in draws if as_float(row["budget"]) == budget][:keep],
        )
        for index, (budget, ink) in enumerate(zip(budgets, series(len(budgets)), strict=True))
    ]


def _set_limits(ax: Axes, profiles: list[_Profile], convention: str, sheet: Sheet) -> None:
    sizes: list[float | None] = []
    losses: list[float | None] = []
    for profile in profiles:
        sizes += [as_float(row[convention]) for row in profile.points]
        losses += [as_float(row["loss_nats"]) for row in profile.points]
        if profile.bowl is not None:
            sizes += [as_float(profile.bowl[name]) for name in ("window_lo", "window_hi", "N_opt")]
            losses += [as_float(profile.bowl["loss_opt"])]
    ticks = 5 if sheet.narrow else 9
    x_title = f"Model size N: {counting(convention)}"
    marks.set_axis(
        ax, "x", marks.limits(sizes, log=True, pad=0.06), title=x_title, at_most=ticks, text=compact
    )
    marks.set_axis(
        ax, "y", marks.limits(losses, log=False, pad=0.07), title="Held-out loss, nats per token", at_most=7
    )
    ax.grid(visible=False, axis="x")


def _curve(row: Row, low: float, high: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Sizes and losses of a cubic between two sizes; None when a coefficient is missing."""
    terms = [as_float(row[name]) for name in ("centre_lnN", "c0", "c1", "c2", "c3")]
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        return None
    centre, *coefficients = known
    log_sizes = np.linspace(np.log(low), np.log(high), CURVE_POINTS)
    return np.exp(log_sizes), np.polynomial.polynomial.polyval(log_sizes - centre, coefficients)


def _bezier(row: Row, low: float, high: float) -> Any:
    """The same cubic as a path of one Bezier segment, which it is exactly where the axis is even in ln N.

    A sweep shows hundreds of bootstrap curves: four points each keep the page small.
    """
    from matplotlib.path import Path

    terms = [as_float(row[name]) for name in ("centre_lnN", "c0", "c1", "c2", "c3")]
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        return None
    polynomial = np.polynomial.Polynomial(known[1:])
    ends = np.log([low, high])
    third = (ends[1] - ends[0]) / 3
    (start, stop), (up, down) = polynomial(ends - known[0]), polynomial.deriv()(ends - known[0])
    log_sizes = np.array([ends[0], ends[0] + third, ends[1] - third, ends[1]])
    losses = np.array([start, start + up * third, stop - down * third, stop])
    return Path(np.column_stack([np.exp(log_sizes), losses]), [Path.MOVETO, *[Path.CURVE4] * 3])


def _window(row: Row) -> tuple[float, float] | None:
    lo, hi = as_float(row["window_lo"]), as_float(row["window_hi"])
    return None if lo is None or hi is None else (lo, hi)


def _draw_bowl(ax: Axes, profile: _Profile) -> None:
    bowl = profile.bowl
    if bowl is None or (window := _window(bowl)) is None:
        return
    from matplotlib.collections import PathCollection
    from matplotlib.patches import PathPatch

    color = profile.ink.light
    draws = [path for row in profile.draws if (path := _bezier(row, *window)) is not None]
    light = PathCollection(draws, facecolors="none", edgecolors=color, linewidths=0.6, alpha=0.2, zorder=2)
    light.set_transform(ax.transData)
    ax.add_collection(light, autolim=False)
    refused = bowl["status"] == "refused"
    if (path := _bezier(bowl, *window)) is not None:
        style: dict[str, Any] = (
            {"linewidth": 1.3, "linestyle": (0, (4, 3))} if refused else {"linewidth": 2.4}
        )
        ax.add_patch(PathPatch(path, edgecolor=color, facecolor="none", capstyle="round", zorder=4, **style))
    if not refused:
        _draw_basin(ax, profile, window)


def _draw_basin(ax: Axes, profile: _Profile, window: tuple[float, float]) -> None:
    """Shade between the bowl and the level at the edges of the basin; an open edge shades on to the window's end."""
    assert profile.bowl is not None
    lo, hi = as_float(profile.bowl["basin_lo"]), as_float(profile.bowl["basin_hi"])
    if lo is None and hi is None:
        return
    inside = _curve(profile.bowl, lo if lo is not None else window[0], hi if hi is not None else window[1])
    if inside is None:
        return
    sizes, losses = inside
    level = float(losses[0] if lo is not None else losses[-1])
    ax.fill_between(
        sizes,
        losses,
        level,
        where=losses <= level,
        color=profile.ink.light,
        alpha=0.38,
        linewidth=0,
        zorder=3,
    )
    ax.plot(
        [sizes[0], sizes[-1]], [level, level], color=profile.ink.light, linewidth=1.0, alpha=0.8, zorder=3
    )


def _draw_points(ax: Axes, profile: _Profile, convention: str) -> None:
    color = profile.ink.light
    for included in (True, False):
        rows = [row for row in profile.points if bool(row["included"]) == included]
        places = [(as_float(row[convention]), as_float(row["loss_nats"])) for row in rows]
        known = [(x, y) for x, y in places if x is not None and y is not None]
        if not known:
            continue
        style: dict[str, Any] = (
            {
                "marker": profile.marker,
                "markerfacecolor": PAPER.light,
                "markersize": 4.6,
                "markeredgewidth": 1.1,
            }
            if included
            else {"marker": "x", "markersize": 5.5, "markeredgewidth": 1.4}
        )
        xs, ys = zip(*known, strict=True)
        ax.plot(xs, ys, linestyle="", color=color, zorder=5, **style)


def _optimum(profile: _Profile) -> tuple[marks.Bar, float] | None:
    bowl = profile.bowl
    if bowl is None or as_float(bowl["N_opt"]) is None or (loss := as_float(bowl["loss_opt"])) is None:
        return None
    values = [as_float(bowl[name]) for name in ("N_opt", "N_opt_lo", "N_opt_hi")]
    return marks.Bar(value=values[0], lo=values[1], hi=values[2]), loss


def _draw_optimum(ax: Axes, profile: _Profile) -> None:
    if (found := _optimum(profile)) is not None:
        bar, loss = found
        marks.draw_bar(ax, "x", loss, bar, profile.ink, size=7)


def _label(profile: _Profile, convention: str, sheet: Sheet) -> marks.Label:
    """The budget in words at the right end of its bowl, or at its last point when there is no bowl."""
    places = [(as_float(row[convention]), as_float(row["loss_nats"])) for row in profile.points]
    known = [(x, y) for x, y in places if x is not None and y is not None]
    if profile.bowl is not None and (window := _window(profile.bowl)) is not None:
        curve = _curve(profile.bowl, *window)
        if curve is not None:
            known = [(float(curve[0][-1]), float(curve[1][-1]))]
    x, y = max(known)
    unit = "" if sheet.narrow else " FLOPs"
    return marks.Label(x=x, y=y, text=f"{power_of_ten(profile.budget)}{unit}", ink=profile.ink)


def _key(profiles: list[_Profile]) -> list[marks.KeyEntry]:
    entries = [marks.KeyEntry(text="one run", sign="point")]
    if any(not row["included"] for profile in profiles for row in profile.points):
        entries.append(marks.KeyEntry(text="excluded", sign="cross"))
    if any(profile.bowl is not None for profile in profiles):
        entries.append(marks.KeyEntry(text="fit", sign="line"))
    if any(profile.draws for profile in profiles):
        entries.append(marks.KeyEntry(text="bootstrap draws", sign="thin"))
    if any(_optimum(profile) for profile in profiles):
        entries.append(marks.KeyEntry(text="best size, 95 %", sign="bar", marker="D"))
    if any(profile.bowl is not None and profile.bowl["basin_lo"] is not None for profile in profiles):
        entries.append(marks.KeyEntry(text="1 % basin", sign="band"))
    return entries


def _notes(profiles: list[_Profile]) -> tuple[str, ...]:
    """What is open or missing, with the reasons that the table gives."""
    refused: list[tuple[str, Scalar]] = []
    missing: list[tuple[str, Scalar]] = []
    open_ends: list[tuple[str, Scalar]] = []
    open_basins: list[tuple[str, Scalar]] = []
    for profile in profiles:
        at, bowl = f"{power_of_ten(profile.budget)} FLOPs", profile.bowl
        if bowl is None:
            missing.append((at, "no curve was fitted"))
        elif bowl["status"] == "refused":
            refused.append((at, bowl["reason"]))
        elif (found := _optimum(profile)) is None:
            missing.append((at, bowl["reason"]))
        else:
            if marks.is_open(found[0]):
                open_ends.append((at, bowl["reason"]))
            if bowl["basin_lo"] is None or bowl["basin_hi"] is None:
                open_basins.append((at, bowl["reason"]))
    return (
        *grouped(OPEN_END, open_ends),
        *grouped("A basin that is open on a side is shaded to the end of the fitted sizes", open_basins),
        *grouped("A dashed curve is a refused fit, without a best size", refused),
        *grouped("Without a best size", missing),
    )
