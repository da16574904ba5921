"""Figures by kind: from the tables of a verdict to drawings for the page and files beside it.

`KINDS` is the one list of what can be drawn. Matplotlib is imported when something is drawn and not before,
without pyplot; its settings are fixed here, so a user's own matplotlibrc does not change a report.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from isoflop.publish import ink, svg
from isoflop.publish.evidence import PublishError, StudyData
from isoflop.publish.kinds import (
    basin_widths,
    curves,
    intervals,
    isoflop_bowls,
    learning_curves,
    optimum_path,
    panels,
)
from isoflop.publish.sheet import Sheet
from isoflop.records import Figure

Draw = Callable[[Figure, StudyData, Sheet], tuple[str, ...]]
PNG_DPI = 200


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to draw, and the options that it knows."""

    draw: Draw
    options: tuple[str, ...]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "isoflop_bowls": Kind(draw=isoflop_bowls.draw, options=isoflop_bowls.OPTIONS),
        "optimum_path": Kind(draw=optimum_path.draw, options=optimum_path.OPTIONS),
        "basin_widths": Kind(draw=basin_widths.draw, options=basin_widths.OPTIONS),
        "learning_curves": Kind(draw=learning_curves.draw, options=learning_curves.OPTIONS),
        "intervals": Kind(draw=intervals.draw, options=intervals.OPTIONS),
        "curves": Kind(draw=curves.draw, options=curves.OPTIONS),
        "panels": Kind(draw=panels.draw, options=panels.OPTIONS),
    }
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One figure, drawn."""

    figure: Figure
    wide: str
    """SVG for the page, on a desk."""
    narrow: str
    """SVG for the page, on a phone."""
    file_svg: str
    file_png: bytes
    notes: tuple[str, ...]
    """What the drawing leaves open, with the reason; belongs under the caption."""


def draw_figure(figure: Figure, data: StudyData) -> Drawn:
    """Draw a figure for the page and as files. The same records give the same bytes.

    Raises:
        PublishError: an unknown kind or option (those there are are listed), or a table that does not fit.
    """
    kind = _kind(figure)
    key = f"figure-{figure.name}"
    with _matplotlib(key):
        sheet, notes = _draw(kind, figure, data, narrow=False)
        source = _bytes(sheet, "svg").decode()
        sheet.drawing.set_layout_engine(
            "none"
        )  # it stands as the SVG laid it out; the PNG need not find it again
        png = _bytes(sheet, "png")
        narrow_sheet, _ = _draw(kind, figure, data, narrow=True)
        narrow = _bytes(narrow_sheet, "svg").decode()
    words = {"title": figure.title, "description": figure.alt}
    return Drawn(
        figure=figure,
        wide=svg.page_svg(source, key=key, **words),
        narrow=svg.page_svg(narrow, key=f"{key}-narrow", **words),
        file_svg=svg.file_svg(source, key=key, **words),
        file_png=png,
        notes=notes,
    )


def _kind(figure: Figure) -> Kind:
    if figure.kind not in KINDS:
        raise PublishError(
            f"figure {figure.name!r} is of the unknown kind {figure.kind!r}; there are: {', '.join(KINDS)}"
        )
    kind = KINDS[figure.kind]
    unknown = sorted(set(figure.options) - set(kind.options))
    if unknown:
        raise PublishError(
            f"figure {figure.name!r}: {figure.kind} has no option {', '.join(unknown)}; "
            f"it has: {', '.join(kind.options)}"
        )
    return kind


def _draw(kind: Kind, figure: Figure, data: StudyData, *, narrow: bool) -> tuple[Sheet, tuple[str, ...]]:
    sheet = Sheet(narrow=narrow)
    try:
        notes = kind.draw(figure, data, sheet)
    except PublishError:
        raise
    except ValueError as error:  # an empty or impossible axis: the marks do not know the figure's name
        raise PublishError(f"figure {figure.name!r}: {error}") from error
    return sheet, notes


@contextmanager
def _matplotlib(key: str) -> Iterator[None]:
    """Matplotlib's own defaults and then ours, for the time of one figure."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that DejaVu Sans lacks is a box in the PNG; the SVG holds the text and loses nothing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        matplotlib.rcdefaults()
        settings: Any = {**ink.style(), "svg.hashsalt": key}
        matplotlib.rcParams.update(settings)
        yield


def _bytes(sheet: Sheet, format: str) -> bytes:
    """The drawing in one format, without date or program name: they would change the bytes."""
    buffer = io.BytesIO()
    if format == "svg":
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        sheet.drawing.savefig(buffer, format="svg", metadata=no_metadata)
    else:
        sheet.drawing.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()
