"""The look of a drawing: its colours by role, its type, and how one drawing serves light and dark pages.

Matplotlib draws with the colours of a light page. Each has one role, and no two roles share a colour, so in
the drawing that goes into a page every colour can be replaced by the CSS variable of its role: lines and
text then follow the page into the dark. Files beside the report keep the light colours on opaque paper.

Leaves out what is drawn (`isoflop.publish.kinds`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ink:
    """One role, in light and in dark."""

    role: str
    light: str
    dark: str


INK = Ink(role="ink", light="#1f2429", dark="#e6e8ea")
MUTED = Ink(role="muted", light="#545d66", dark="#a9b2bb")
RULE = Ink(role="rule", light="#dfe2e5", dark="#333a42")
AXIS = Ink(role="axis", light="#8b949d", dark="#717b86")
PAPER = Ink(role="paper", light="#fdfdfc", dark="#14171b")
ACCENT = Ink(role="accent", light="#0a5c9e", dark="#7cbcf5")

SERIES = (
    Ink(role="s0", light="#1c2f87", dark="#5f86ee"),
    Ink(role="s1", light="#512896", dark="#957ff2"),
    Ink(role="s2", light="#7f1f8c", dark="#cb8ae4"),
    Ink(role="s3", light="#9c2570", dark="#f08fc0"),
    Ink(role="s4", light="#b03252", dark="#ff9f95"),
    Ink(role="s5", light="#ac4d1b", dark="#ffb778"),
    Ink(role="s6", light="#9c6508", dark="#ffd06a"),
    Ink(role="s7", light="#7b750c", dark="#f4ee8a"),
)
"""An ordered ramp: hue and lightness both move one way, so neighbours stay apart for the colour-blind and in grey."""

MARKERS = ("o", "s", "D", "^", "v", "P", "h", "X")
ROLES = (INK, MUTED, RULE, AXIS, PAPER, ACCENT, *SERIES)

FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def series(count: int) -> tuple[Ink, ...]:
    """`count` inks spread over the ramp, in order; beyond eight they repeat (then labels and markers differ)."""
    if count <= 1:
        return SERIES[:1]
    if count > len(SERIES):
        return tuple(SERIES[index % len(SERIES)] for index in range(count))
    last = {2: 5, 3: 6}.get(count, 6 if count <= 5 else 7)
    return tuple(SERIES[round(index * last / (count - 1))] for index in range(count))


def css_variables(*, dark: bool) -> str:
    """The roles as CSS declarations, for one mode."""
    return " ".join(f"--{ink.role}: {ink.dark if dark else ink.light};" for ink in ROLES)


def style() -> dict[str, object]:
    """Matplotlib's settings for every figure, on top of its built-in defaults (never the user's own file)."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name with two dollar signs is a name
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib, so text is measured alike everywhere
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelsize": 9.5,
        "axes.labelpad": 5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.7,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.size": 3.5,
        "ytick.major.size": 0,
        "xtick.major.width": 0.8,
        "legend.fontsize": 8.8,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "text.color": INK.light,
        "axes.labelcolor": INK.light,
        "axes.titlecolor": INK.light,
        "axes.edgecolor": AXIS.light,
        "xtick.color": AXIS.light,
        "ytick.color": AXIS.light,
        "xtick.labelcolor": MUTED.light,
        "ytick.labelcolor": MUTED.light,
        "grid.color": RULE.light,
        "figure.facecolor": PAPER.light,
        "axes.facecolor": "none",
        "savefig.facecolor": PAPER.light,
    }
