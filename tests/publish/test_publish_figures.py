"""Figures: what is drawn is what the tables hold, open ends show, and no colour escapes the page's modes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from isoflop.publish import marks
from isoflop.publish.evidence import PublishError, StudyData
from isoflop.publish.figures import KINDS, Drawn, _matplotlib, draw_figure
from isoflop.publish.ink import ROLES, SERIES, series
from isoflop.publish.kinds.isoflop_bowls import _bezier
from isoflop.publish.kinds.learning_curves import _binned
from isoflop.publish.sheet import Sheet
from isoflop.records import Column, Figure, Scalar, Table

pytestmark = pytest.mark.slow


def drawn_sheet(figure: Figure, data: StudyData, *, narrow: bool = False) -> tuple[Sheet, tuple[str, ...]]:
    sheet = Sheet(narrow=narrow)
    with _matplotlib("test"):
        notes = KINDS[figure.kind].draw(figure, data, sheet)
    return sheet, notes


def figure_of(data: StudyData, name: str) -> Figure:
    return next(figure for figure in data.verdict.figures if figure.name == name)


def with_table(data: StudyData, table: Table) -> StudyData:
    tables = (*(t for t in data.verdict.tables if t.name != table.name), table)
    return StudyData(data.plan, msgspec.structs.replace(data.verdict, tables=tables), data.runs)


def edited(data: StudyData, name: str, edit: dict[str, Scalar], row: int | None = None) -> StudyData:
    """The data with some cells of one table changed, in one row or in all."""
    table = data.tables[name]
    names = [column.name for column in table.columns]
    rows = [
        tuple(
            edit.get(key, value) if row in (None, index) else value
            for key, value in zip(names, cells, strict=True)
        )
        for index, cells in enumerate(table.rows)
    ]
    return with_table(data, msgspec.structs.replace(table, rows=tuple(rows)))


def generic(columns: str, *rows: tuple[Scalar, ...]) -> Table:
    made = tuple(Column(name=name, title=name) for name in columns.split())
    return Table(name="made", title="made", columns=made, rows=rows)


def markers(sheet: Sheet, marker: str) -> np.ndarray:
    """(x, y) of every point drawn with a marker, in all panels."""
    found = [
        line.get_xydata() for ax in sheet.drawing.axes for line in ax.lines if line.get_marker() == marker
    ]
    return np.concatenate(found) if found else np.empty((0, 2))


@pytest.fixture(scope="module")
def all_drawn(data: StudyData) -> dict[str, Drawn]:
    return {figure.name: draw_figure(figure, data) for figure in data.verdict.figures}


@pytest.fixture(scope="module")
def bowls(data: StudyData) -> tuple[Sheet, tuple[str, ...]]:
    return drawn_sheet(figure_of(data, "isoflop_bowls"), data)


@pytest.mark.parametrize(
    "name",
    ["isoflop_bowls", "basin_widths", "optimum_path", "learning_curves", "factors", "law", "multiples"],
)
def test_every_kind_gives_drawings_whose_colours_all_follow_the_page(
    all_drawn: dict[str, Drawn], name: str
) -> None:
    drawn = all_drawn[name]
    for source in (drawn.wide, drawn.narrow):
        root = ET.fromstring(source)
        assert not re.findall(r"#[0-9a-f]{6}", source)
        assert set(re.findall(r"var\(--(\w+)\)", source)) <= {ink.role for ink in ROLES}
        assert not [e for e in root.iter() if e.tag.endswith(("style", "metadata", "image", "script"))]
        assert sum(e.tag.endswith("path") for e in root.iter()) > 10
        texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("}text")]
        assert len(texts) > 4, "text must stay text"
        assert len(source) < 150_000
    assert drawn.file_png.startswith(b"\x89PNG")
    file_root = ET.fromstring(drawn.file_svg.encode())
    assert file_root.attrib["role"] == "img"
    assert "var(--" not in drawn.file_svg


def test_every_kind_is_exercised_here(data: StudyData) -> None:
    assert {figure.kind for figure in data.verdict.figures} == set(KINDS)


def test_drawings_of_one_page_share_no_id(all_drawn: dict[str, Drawn]) -> None:
    ids: list[str] = []
    for drawn in all_drawn.values():
        for source in (drawn.wide, drawn.narrow):
            own = [e.attrib["id"] for e in ET.fromstring(source).iter() if "id" in e.attrib]
            used = re.findall(r'(?:href="#|url\(#)([^")]+)', source)
            assert set(used) <= set(own)
            ids += own
    assert len(ids) == len(set(ids))


# ------------------------------------------------------------------------------------------- bowls


def test_bowls_show_every_run_once_and_excluded_ones_as_crosses(
    data: StudyData, bowls: tuple[Sheet, tuple[str, ...]]
) -> None:
    points = data.rows(figure_of(data, "isoflop_bowls"), "points", "N_all")
    sheet, _ = bowls
    crosses = markers(sheet, "x")
    excluded = [(row["N_all"], row["loss_nats"]) for row in points if not row["included"]]
    assert excluded
    assert sorted(map(tuple, crosses.tolist())) == sorted(excluded)
    opens = np.concatenate(
        [line.get_xydata() for line in sheet.drawing.axes[0].lines if line.get_markersize() == 4.6]
    )
    included = [(row["N_all"], row["loss_nats"]) for row in points if row["included"]]
    assert sorted(map(tuple, opens.tolist())) == sorted(included)


def test_bowls_mark_the_optimum_where_the_table_has_it(
    data: StudyData, bowls: tuple[Sheet, tuple[str, ...]]
) -> None:
    rows = [
        r for r in data.rows(figure_of(data, "isoflop_bowls"), "bowls", "N_opt") if r["convention"] == "N_all"
    ]
    marked = markers(bowls[0], "D")
    for row in rows:
        assert [row["N_opt"], row["loss_opt"]] in marked.tolist()


def test_bezier_is_the_cubic_itself(data: StudyData) -> None:
    """One Bezier segment at parameter t must lie on the polynomial: both are cubics, so to rounding."""
    row = next(
        r for r in data.rows(figure_of(data, "isoflop_bowls"), "bowls", "c3") if r["convention"] == "N_all"
    )
    control = _bezier(row, row["window_lo"], row["window_hi"]).vertices
    t = np.linspace(0, 1, 9)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    log_sizes, losses = weights @ np.log(control[:, 0]), weights @ control[:, 1]
    expected = sum(row[f"c{k}"] * (log_sizes - row["centre_lnN"]) ** k for k in range(4))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)  # eps times some 30 operations


def test_an_open_end_is_an_arrow_to_the_border_with_the_reason_in_the_notes(
    bowls: tuple[Sheet, tuple[str, ...]],
) -> None:
    sheet, notes = bowls
    arrows = markers(sheet, "<")
    assert len(arrows) == 1  # the lowest budget has no lower end in the fixture
    assert arrows[0, 0] == sheet.drawing.axes[0].get_xlim()[0]
    assert any("3×10¹⁰ FLOPs (the minimum lies near the smallest size" in note for note in notes)
    assert len(markers(sheet, ">")) == 0


def test_a_refused_fit_is_dashed_and_has_no_optimum(data: StudyData) -> None:
    figure = figure_of(data, "isoflop_bowls")
    refused = edited(data, "bowls", {"status": "refused", "N_opt": None, "N_opt_lo": None, "N_opt_hi": None,
                                     "loss_opt": None, "reason": "wrong curvature"}, row=3)  # fmt: skip
    sheet, notes = drawn_sheet(figure, refused)
    dashed = [
        p
        for p in sheet.drawing.axes[0].patches
        if isinstance(p.get_linestyle(), tuple) or p.get_linestyle() != "solid"
    ]
    assert len(dashed) == 1
    assert len(markers(sheet, "D")) == len(markers(drawn_sheet(figure, data)[0], "D")) - 1
    assert any("refused" in note and "wrong curvature" in note for note in notes)


def test_bowls_under_another_counting_use_its_column(data: StudyData) -> None:
    figure = msgspec.structs.replace(
        figure_of(data, "isoflop_bowls"), options={"convention": "N_nonembedding", "draws": 3}
    )
    sheet, _ = drawn_sheet(figure, data)
    ax = sheet.drawing.axes[0]
    assert "without embedding" in ax.get_xlabel()
    assert len(ax.patches) == 4  # one fit per budget
    assert [len(c.get_paths()) for c in ax.collections if type(c).__name__ == "PathCollection"] == [3] * 4
    unknown = msgspec.structs.replace(figure, options={"convention": "N_made_up"})
    with pytest.raises(PublishError, match="N_made_up"):
        drawn_sheet(unknown, data)


# ------------------------------------------------------------------------------------ other kinds


def test_path_draws_each_optimum_and_the_fitted_power(data: StudyData) -> None:
    sheet, notes = drawn_sheet(figure_of(data, "optimum_path"), data)
    rows = data.rows(figure_of(data, "optimum_path"), "bowls", "N_opt")
    found = markers(sheet, "o").tolist()
    assert sorted(found) == sorted([row["budget"], row["N_opt"]] for row in rows)
    powers = [line for ax in sheet.drawing.axes for line in ax.lines if line.get_zorder() == 3]
    exponents = [
        row["exponent"] for row in data.rows(figure_of(data, "optimum_path"), "exponents", "exponent")
    ]
    slopes = [np.diff(np.log(line.get_ydata()))[0] / np.diff(np.log(line.get_xdata()))[0] for line in powers]
    np.testing.assert_allclose(slopes, exponents, rtol=1e-9)  # two logs and a quotient of numbers near 1
    assert [line.get_linestyle() for line in powers] == ["-", "-", "--"]
    for line, row in zip(powers, data.rows(figure_of(data, "optimum_path"), "exponents"), strict=True):
        at_reference = np.interp(
            np.log(row["reference_budget"]), np.log(line.get_xdata()), np.log(line.get_ydata())
        )
        assert np.exp(at_reference) == pytest.approx(row["coefficient"], rel=1e-9)  # a straight line in logs
    assert any("not identified" in note for note in notes)


def test_widths_show_reference_lines_at_two_and_ten(data: StudyData) -> None:
    sheet, notes = drawn_sheet(figure_of(data, "basin_widths"), data)
    ax = sheet.drawing.axes[0]
    levels = [
        line.get_ydata()[0]
        for line in ax.lines
        if len(set(line.get_ydata())) == 1 and line.get_zorder() == 1.5
    ]
    assert levels == [2.0, 10.0]
    assert ax.get_ylim()[1] > 10
    assert len(markers(sheet, "^")) == 1
    assert notes


def test_widths_without_a_convention_show_all_of_them_apart(data: StudyData) -> None:
    figure = msgspec.structs.replace(figure_of(data, "basin_widths"), options={})
    sheet, _ = drawn_sheet(figure, data)
    xs = np.concatenate([markers(sheet, m)[:, 0] for m in ("o", "s", "D")])
    assert len(np.unique(np.round(np.log(xs), 6))) == 12


def test_learning_curves_are_binned_without_losing_the_end(data: StudyData) -> None:
    run = next(run for run in data.runs if run.spec.branch is not None and run.status == "finished")
    curve = _binned(run, "size")
    assert curve is not None
    flops, losses = run.loss_curve
    assert len(curve.flops) < len(flops) / 2
    assert curve.flops[-1] == flops[-1]
    assert curve.loss_nats[-1] == pytest.approx(losses[-2:].mean())
    assert curve.group == run.spec.labels["size"]
    sheet, notes = drawn_sheet(figure_of(data, "learning_curves"), data)
    heavy = [line for line in sheet.drawing.axes[0].lines if line.get_linewidth() == 1.9]
    assert len(heavy) == sum(run.spec.branch is not None and run.folder is not None for run in data.runs)
    assert len(markers(sheet, "x")) == 1  # the run that diverged
    assert any("Drawn from" in note for note in notes)


def test_runs_without_metrics_are_named_and_none_at_all_is_an_error(data: StudyData) -> None:
    figure = figure_of(data, "learning_curves")
    silent = StudyData(data.plan, data.verdict, tuple(replace(run, folder=None) for run in data.runs))
    with pytest.raises(PublishError, match="no run has logged"):
        drawn_sheet(figure, silent)


def test_intervals_keep_a_row_without_a_value(data: StudyData) -> None:
    table = generic(
        "label value lo hi group reason",
        ("a", 1.0, 0.5, 2.0, "g", ""),
        ("b", None, None, None, "g", "no data"),
    )
    figure = Figure(
        name="i", kind="intervals", title="", caption="", alt="", tables=("made",), options={"reference": 1.0}
    )
    sheet, notes = drawn_sheet(figure, with_table(data, table))
    ax = sheet.drawing.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert "no value" in [text.get_text() for text in ax.texts]
    assert notes == ("Without a value, and not drawn: b (no data).",)


def test_curves_draw_each_role(data: StudyData) -> None:
    table = generic(
        "series x y lo hi role",
        ("f", 2.0, 4.0, None, None, "line"), ("f", 1.0, 1.0, None, None, "line"), ("f", 1.0, None, 0.5, 1.5, "band"),
        ("f", 2.0, None, 3.5, 4.5, "band"), ("p", 1.5, 2.0, 1.0, None, "points"), ("p", 1.7, 2.0, None, None, "points"),
        ("limit", 1.0, 5.0, None, None, "reference"), ("limit", 2.0, 5.0, None, None, "reference"),
    )  # fmt: skip
    figure = Figure(name="c", kind="curves", title="", caption="", alt="", tables=("made",))
    sheet, notes = drawn_sheet(figure, with_table(data, table))
    ax = sheet.drawing.axes[0]
    line = next(line for line in ax.lines if line.get_linewidth() == 2.1)
    assert line.get_xydata().tolist() == [[1.0, 1.0], [2.0, 4.0]]
    assert len(ax.collections) == 1
    assert len(markers(sheet, "^")) == 1  # the open upper end, and not the point without any interval
    assert {text.get_text() for text in ax.texts} == {"f", "p", "limit"}
    assert notes == ("An arrow marks an interval with an open end.",)


# ------------------------------------------------------------------------------------- bad input


def test_errors_name_the_figure_the_table_and_the_remedy(data: StudyData) -> None:
    bowls = figure_of(data, "isoflop_bowls")
    curves = Figure(name="c", kind="curves", title="", caption="", alt="", tables=("made",))
    cases = [
        (
            msgspec.structs.replace(bowls, options={"colour": "red"}),
            data,
            "no option colour; it has: convention",
        ),
        (
            msgspec.structs.replace(bowls, options={"bowls_table": "nope"}),
            data,
            "needs the table 'nope'.*bowls, exponents",
        ),
        (
            bowls,
            with_table(data, msgspec.structs.replace(generic("a", (1,)), name="bowls")),
            "column.*it has: a",
        ),
        (curves, data, "needs the table 'made'"),
        (
            curves,
            with_table(data, generic("series x y lo hi role", ("s", 1.0, 1.0, None, None, "pie"))),
            "role.*pie",
        ),
        (
            curves,
            with_table(data, generic("series x y lo hi role", ("s", "one", 1.0, None, None, "line"))),
            "'one'",
        ),
        (
            msgspec.structs.replace(curves, options={"log_x": True}),
            with_table(data, generic("series x y lo hi role", ("s", -1.0, 1.0, None, None, "line"))),
            "figure 'c': a logarithmic axis cannot show -1",
        ),
        (msgspec.structs.replace(curves, tables=()), data, "draws exactly one table, and names 0"),
    ]
    for figure, wrong, message in cases:
        with pytest.raises(PublishError, match=message):
            draw_figure(figure, wrong)


# ------------------------------------------------------------------------------------------- marks


def test_spread_keeps_order_and_distance_and_moves_only_what_touches() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        places = rng.uniform(0, 100, 7).tolist()
        moved = marks.spread(places, 9.0)
        order = np.argsort(places)
        gaps = np.diff(np.array(moved)[order])
        assert (gaps >= 9.0 - 1e-9).all()  # sums of seven numbers below 100: rounding is far below 1e-9
        assert np.mean(moved) == pytest.approx(np.mean(places))
    assert marks.spread([0.0, 50.0, 100.0], 9.0) == [0.0, 50.0, 100.0]


@pytest.mark.parametrize(("lo", "hi"), [(1.3, 1.9), (5e3, 9e5), (3e7, 1e12), (1e-12, 1e12), (2.0, 9.0)])
def test_log_ticks_are_few_round_and_inside(lo: float, hi: float) -> None:
    ticks = marks.log_ticks(lo, hi, 7)
    assert 2 <= len(ticks) <= 7
    assert all(lo * 0.998 <= tick <= hi * 1.002 for tick in ticks)
    assert all(after > before for before, after in pairwise(ticks))
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in ticks)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_inks_are_readable_and_stay_apart_in_grey(mode: str) -> None:
    paper = next(luminance(getattr(ink, mode)) for ink in ROLES if ink.role == "paper")
    for ink in ROLES:
        if ink.role in ("paper", "rule", "axis"):
            continue
        bright, dim = sorted((luminance(getattr(ink, mode)), paper), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, ink  # WCAG AA for text: labels carry these colours
    four = [luminance(getattr(ink, mode)) for ink in series(4)]
    assert all(after > before * 1.12 for before, after in pairwise(four))


def test_each_role_has_a_colour_of_its_own() -> None:
    assert len({ink.light for ink in ROLES}) == len(ROLES)
    assert len(series(12)) == 12
    assert series(1) == SERIES[:1]


# ---------------------------------------------------------------------------------- small multiples


@pytest.mark.parametrize("narrow", [False, True])
def test_each_panel_is_drawn_once_on_each_axis_with_its_own_rows(data: StudyData, narrow: bool) -> None:
    sheet, _ = drawn_sheet(figure_of(data, "multiples"), data, narrow=narrow)
    rows = data.rows(figure_of(data, "multiples"), "multiples", "panel")
    axes = sheet.drawing.axes
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    assert [ax.get_xscale() for ax in axes] == ["linear", "log"] * len(panels)
    for number, panel in enumerate(panels):
        expected = sorted((r["x"], r["y"]) for r in rows if r["panel"] == panel and r["role"] == "points")
        for ax in axes[2 * number : 2 * number + 2]:
            (points,) = (line for line in ax.lines if line.get_marker() == "o")
            assert sorted(map(tuple, points.get_xydata().tolist())) == expected
    assert axes[0].get_title(loc="left").startswith(str(panels[0])[:10])
    assert "log axis" in axes[1].get_title(loc="left")


def test_a_family_has_one_colour_in_all_panels(data: StudyData) -> None:
    sheet, _ = drawn_sheet(figure_of(data, "multiples"), data)
    thin = [line.get_color() for ax in sheet.drawing.axes for line in ax.lines if line.get_linewidth() == 0.9]
    assert len(thin) == 6
    assert len(set(thin)) == 1
    (key,) = sheet.drawing.legends
    names = [text.get_text() for text in key.get_texts()]
    assert names == ["logistic", "linear", "log", "constant", "measured", "90 % of new measurements"]


def test_panels_refuse_unknown_axes_and_roles(data: StudyData) -> None:
    figure = figure_of(data, "multiples")
    with pytest.raises(PublishError, match="x_axes is 'square'"):
        drawn_sheet(msgspec.structs.replace(figure, options={"x_axes": "square"}), data)
    with pytest.raises(PublishError, match=r"unknown role\(s\) dots"):
        drawn_sheet(figure, edited(data, "multiples", {"role": "dots"}, row=0))
    empty = msgspec.structs.replace(data.tables["multiples"], rows=())
    with pytest.raises(PublishError, match="has no rows"):
        drawn_sheet(figure, with_table(data, empty))
