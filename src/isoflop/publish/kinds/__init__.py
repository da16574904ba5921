"""One module per kind of figure: each has a `draw(figure, data, sheet)` that returns what the drawing left open."""
