"""The sheet that a figure is drawn on: one wide, for a desk and for print, and one narrow, for a phone.

The type has the same size on both, so a figure on a phone is drawn anew rather than shrunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

WIDE_INCHES = 8.8
NARROW_INCHES = 3.55


class Sheet:
    """An empty drawing of a given width. Matplotlib's object interface only: no pyplot, no global figure."""

    def __init__(self, *, narrow: bool) -> None:
        self.narrow = narrow
        self._drawing: Drawing | None = None

    @property
    def drawing(self) -> Drawing:
        """The Matplotlib figure. Raises RuntimeError before `axes` was called."""
        if self._drawing is None:
            raise RuntimeError("a figure's function must ask its sheet for axes before anything else")
        return self._drawing

    def axes(
        self, panels: int = 1, *, height: float = 5.0, narrow_height: float = 3.9, share_y: bool = False
    ) -> list[Axes]:
        """Panels side by side, or one above the other on a narrow sheet.

        Args:
            panels: how many, >= 1.
            height: of the wide sheet, in inches.
            narrow_height: of each panel of the narrow sheet, in inches.
            share_y: one y axis for all panels.
        """
        from matplotlib.figure import Figure as Drawing

        width = NARROW_INCHES if self.narrow else WIDE_INCHES
        tall = narrow_height * panels if self.narrow else height
        self._drawing = Drawing(figsize=(width, tall), layout="constrained")
        engine = self._drawing.get_layout_engine()
        assert engine is not None
        engine.set(w_pad=0.04, h_pad=0.05, wspace=0.04, hspace=0.03)  # type: ignore[call-arg]
        rows, columns = (panels, 1) if self.narrow else (1, panels)
        grid = self._drawing.subplots(rows, columns, squeeze=False, sharey=share_y)
        return list(grid.flat)

    def grid(self, panels: int, per_row: int, *, row_height: float, extra: float) -> list[Axes]:
        """Small panels in rows, filled from the left; the last row may be short.

        Args:
            panels: how many, >= 1.
            per_row: panels in a full row, >= 1.
            row_height: of each row, in inches.
            extra: inches for what stands above and below all rows.
        """
        from matplotlib.figure import Figure as Drawing

        rows = -(-panels // per_row)
        width = NARROW_INCHES if self.narrow else WIDE_INCHES
        self._drawing = Drawing(figsize=(width, extra + row_height * rows), layout="constrained")
        engine = self._drawing.get_layout_engine()
        assert engine is not None
        engine.set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)  # type: ignore[call-arg]
        axes = list(self._drawing.subplots(rows, per_row, squeeze=False).flat)
        for ax in axes[panels:]:
            ax.remove()
        return axes[:panels]

    def settle(self) -> None:
        """Lay the panels out now, so that distances on paper can be measured."""
        self.drawing.draw_without_rendering()
