"""The report as a file: complete, self-contained, deterministic, well formed, and honest about bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from isoflop.publish import Manifest, PublishError, PublishResult, publish
from isoflop.publish.evidence import StudyData
from isoflop.publish.page import OUTCOMES, render_page
from isoflop.publish.tables import run_table, table_files
from isoflop.records import Figure, Outcome, Statement, Table, Verdict, read
from isoflop.store import Store, StoreError
from tests.publish.synthetic_store import HOSTILE

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """What the tests need to know about a page: elements with attributes, nesting, and text by element."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.stack: list[str] = []
        self.unclosed: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()
        else:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        for tag in set(self.stack):
            self.text[tag][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def copy_of(store: Store, folder: Path) -> Store:
    shutil.copytree(store.root, folder)
    return Store(folder)


def change_verdict(store: Store, folder: Path, **changes: object) -> Store:
    """A copy of the store with another verdict, not yet published."""
    copy = copy_of(store, folder)
    copy.write(copy.verdict_path, msgspec.structs.replace(copy.read_verdict(), **changes))
    return copy


# ------------------------------------------------------------------------------------- the files


def test_every_promised_file_is_there_and_the_page_is_small(
    store: Store, published: PublishResult, data: StudyData
) -> None:
    made = {path.relative_to(store.root).as_posix() for path in published.files}
    expected = {"report.html", "manifest.json"}
    expected |= {f"figures/{f.name}.{end}" for f in data.verdict.figures for end in ("svg", "png")}
    names = [table.name for table in data.verdict.tables] + ["run_list"]
    expected |= {f"tables/{name}.{end}" for name in names for end in ("csv", "parquet")}
    assert made == expected
    assert all(path.stat().st_size > 0 for path in published.files)
    assert len(data.runs) == 96
    assert published.report.stat().st_size < 3_000_000
    assert published.report == store.report_path
    assert published.seconds > 0


def test_manifest_names_every_file_by_its_hash(store: Store, published: PublishResult) -> None:
    manifest = read(store.manifest_path, Manifest)
    assert manifest.rebuild == "isoflop publish ."
    assert {"isoflop", "Matplotlib", "Python"} <= set(manifest.versions)
    entries = manifest.files + manifest.inputs
    for entry in entries:
        content = (store.root / entry.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert len(content) == entry.num_bytes
    on_disk = {
        path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()
    } - {"manifest.json"}
    assert {entry.path for entry in entries} == on_disk


def test_rebuilding_elsewhere_gives_the_same_bytes(
    store: Store, published: PublishResult, tmp_path: Path
) -> None:
    copy = copy_of(store, tmp_path / "another place")
    again = publish(copy)
    for path in again.files:
        first = store.root / path.relative_to(copy.root)
        assert path.read_bytes() == first.read_bytes(), path.name


def test_files_that_are_not_made_any_more_go_unless_somebody_changed_them(
    store: Store, published: PublishResult, tmp_path: Path
) -> None:
    copy = change_verdict(store, tmp_path / "study", figures=store.read_verdict().figures[:1])
    edited = copy.root / "figures" / "law.svg"
    edited.write_text("mine")
    publish(copy)
    assert not (copy.root / "figures" / "optimum_path.png").exists()
    assert (copy.root / "figures" / "isoflop_bowls.png").exists()
    assert edited.read_text() == "mine"


def test_importing_publish_stays_light() -> None:
    """The command line imports this room to show --help, so drawing and tables come in when they are used."""
    heavy = ("matplotlib", "duckdb", "jinja2", "torch", "scipy")
    code = f"import sys, isoflop.publish; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_drawing_leaves_matplotlib_as_it_was_and_never_uses_pyplot() -> None:
    """In a fresh process; asking for the setting "backend" would itself import pyplot, so it is left out."""
    code = """
import sys, matplotlib
from isoflop.publish.figures import draw_figure
from isoflop.publish.evidence import StudyData
from isoflop.records import Column, Figure, Table, Verdict
matplotlib.rcParams["font.size"] = 31  # a user's own
settings = lambda: {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
columns = tuple(Column(name=name, title=name) for name in "label value lo hi".split())
table = Table(name="t", title="", columns=columns, rows=(("a", 1.0, 0.5, 2.0),))
figure = Figure(name="f", kind="intervals", title="", caption="", alt="", tables=("t",))
verdict = Verdict(study="s", question="?", outcome="supported", sentence=".", tables=(table,), figures=(figure,))
drawn = draw_figure(figure, StudyData(None, verdict, ()))
assert "31px" not in drawn.wide, "a report must not depend on the user's settings"
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- the page


def test_page_is_well_formed_and_refers_to_nothing_outside(outline: Outline) -> None:
    assert outline.stack == []
    assert outline.unclosed == []
    assert outline.attributes("src") == []
    for tag, attributes in outline.elements:
        target = attributes.get("href", "")
        if target.startswith("http"):
            assert tag == "a", f"<{tag}> would be fetched: {target}"
        else:
            assert target == "" or target.startswith(("#", "data:")), target
    assert "script" not in {tag for tag, _ in outline.elements}
    assert not [name for _, attributes in outline.elements for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_every_reference_has_its_target(outline: Outline) -> None:
    ids = outline.attributes("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-describedby"):
        for value in outline.attributes(name):
            assert set(value.split()) <= set(ids), value
    anchors = [target[1:] for target in outline.attributes("href") if target.startswith("#")]
    assert anchors
    assert set(anchors) <= set(ids)


def test_landmarks_headings_and_tables_serve_a_screen_reader(outline: Outline) -> None:
    tags = [tag for tag, _ in outline.elements]
    for landmark in ("header", "main", "nav", "footer", "h1"):
        assert tags.count(landmark) == 1, landmark
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in attributes for tag, attributes in outline.elements if tag == "th")
    scrolling = [a for _, a in outline.elements if "scroll" in a.get("class", "").split()]
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-labelledby"] for a in scrolling)
    first_link = next(attributes for tag, attributes in outline.elements if tag == "a")
    assert first_link["href"] == "#main"


def test_each_figure_is_an_image_with_a_name_and_a_description(outline: Outline, data: StudyData) -> None:
    drawings = [a for tag, a in outline.elements if tag == "svg" and "drawing" in a.get("class", "")]
    assert len(drawings) == 2 * len(data.verdict.figures)  # one for a desk, one for a phone
    assert all(a["role"] == "img" for a in drawings)
    for figure in data.verdict.figures:
        assert outline.text["desc"].count(figure.alt) == 2
        assert outline.text["title"].count(figure.title) == 2


def test_page_says_what_the_records_say(page: str, data: StudyData) -> None:
    verdict, plan = data.verdict, data.plan
    sentences = [
        verdict.sentence,
        verdict.question,
        verdict.effect,
        plan.rule.text,
        plan.corpus.corpus_sha256,
    ]
    sentences += [plan.fingerprint(), "isoflop publish .", "matmul-causal", "$0.02"]
    sentences += [*verdict.unresolved, *verdict.limits, *plan.assumptions, *plan.notes]
    sentences += [text for s in verdict.statements for text in (s.text, s.because, s.settle) if text]
    sentences += [text for item in verdict.exclusions for text in (item.what, item.reason)]
    sentences += [run.spec.name for run in data.runs]
    outline = Outline(page)
    words = " ".join(outline.text["body"][0].split())
    for sentence in sentences:
        assert " ".join(sentence.split()) in words, sentence
    assert words.index(verdict.sentence) < words.index(verdict.question) < words.index("Figure 1.")


def test_every_run_of_the_plan_is_listed_with_its_state(data: StudyData) -> None:
    table = run_table(data)
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [row["run"] for row in rows] == [run.spec.name for run in data.plan.runs]
    states = {row["run"]: (row["status"], row["loss_nats"]) for row in rows}
    assert states["24x2 1e12 seed 2"] == ("diverged", None)
    assert states["128x4 1e12 seed 2"] == ("not started", None)
    assert states["48x2 1e12 seed 0"][0] == "finished"
    total = sum(row["spent_flops"] for row in rows if row["spent_flops"] is not None)
    assert total == pytest.approx(data.verdict.cost.spent_flops, rel=1e-12)  # the same terms in another order


def test_the_three_outcomes_differ_in_word_colour_and_shape(data: StudyData) -> None:
    shapes = set()
    for outcome, css in OUTCOMES.items():
        html = _page_with(data, outcome=outcome, figures=())
        head = html[html.index('class="outcome"') : html.index("<h1")]
        assert f"badge-{css}" in head
        assert f"<span>{outcome}</span>" in head
        shapes.add(head[head.index("<svg") : head.index("</svg>")])
    assert len(shapes) == 3


def _page_with(data: StudyData, **changes: object) -> str:
    verdict = msgspec.structs.replace(data.verdict, **changes)
    changed = StudyData(data.plan, verdict, data.runs)
    tables = (run_table(changed),)
    return render_page(changed, (), tables, table_files(tables))


def test_a_bare_verdict_without_runs_figures_or_cost_still_makes_a_page(data: StudyData) -> None:
    plan = msgspec.structs.replace(
        data.plan, runs=(), corpus=None, provenance=None, seeds=(), assumptions=(), notes=()
    )
    verdict = Verdict(
        study="bare", question="?", outcome="cannot tell", sentence="Nothing.", settle="a bigger budget"
    )
    bare = StudyData(plan, verdict, ())
    tables = (run_table(bare),)
    html = render_page(bare, (), tables, table_files(tables))
    outline = Outline(html)
    assert outline.stack == []
    for sentence in (
        "Nothing was trained for this study.",
        "No cost was recorded.",
        "a bigger budget",
        "Nothing was left out.",
    ):
        assert sentence in html


def test_a_statement_that_the_rule_does_not_hold_is_marked(data: StudyData) -> None:
    late = Statement(text="An idea from after the runs.", outcome="supported", because="it looks so")
    html = _page_with(data, statements=(*data.verdict.statements, late), figures=())
    assert html.count("Not among the statements of the rule.") == 1
    assert "Each is written in the decision rule" not in html
    assert "Each is written in the decision rule" in _page_with(data, figures=())
    rule = msgspec.structs.replace(data.plan.rule, statements=())
    unlisted = StudyData(msgspec.structs.replace(data.plan, rule=rule), data.verdict, data.runs)
    html = _page_with(unlisted, figures=())
    assert "lists no statements" in html
    assert "Not among the statements" not in html


# ------------------------------------------------------------------------------------- hostile text


def test_markup_in_names_and_captions_stays_text(hostile: PublishResult) -> None:
    html = hostile.report.read_text(encoding="utf-8")
    outline = Outline(html)
    assert "<script" not in html.lower()
    assert "script" not in {tag for tag, _ in outline.elements}
    assert outline.stack == []
    assert f'{HOSTILE} & "quoted" ]]>' in outline.text["h1"][0]
    assert any(f"a ]]> b {HOSTILE} & c" in text for text in outline.text["figcaption"])
    assert outline.text["desc"].count(f"]]> {HOSTILE}") == 2
    assert any(f"{HOSTILE} $x$" in text for text in outline.text["th"])  # dollars are not mathematics
    assert any(HOSTILE in text for text in outline.text["li"])


def test_markup_in_names_stays_text_in_the_files_beside_the_page(hostile: PublishResult) -> None:
    import xml.etree.ElementTree as ET

    for path in hostile.files:
        if path.suffix == ".svg":
            root = ET.parse(path).getroot()
            assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert HOSTILE in (hostile.report.parent / "tables" / "run_list.csv").read_text(encoding="utf-8")


def test_control_characters_do_not_break_page_or_drawing(store: Store, tmp_path: Path) -> None:
    first = store.read_verdict().figures[0]
    bad = msgspec.structs.replace(first, title="a\x00b\x1b[31m", caption="c\x08d", alt="e\ufffff")
    copy = change_verdict(store, tmp_path / "study", figures=(bad,), sentence="s\x07t")
    html = publish(copy).report.read_text(encoding="utf-8")
    assert not {"\x00", "\x1b", "\x08", "\uffff", "\x07"} & set(html)
    assert "s\ufffdt" in html


# ------------------------------------------------------------------------------------- bad input


def test_a_study_that_was_not_judged_says_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="isoflop plan study"):
        publish(Store(tmp_path))
    shutil.copy(store.plan_path, tmp_path / "plan.json")
    with pytest.raises(StoreError, match="isoflop judge"):
        publish(Store(tmp_path))


def test_an_unknown_kind_lists_the_kinds(store: Store, tmp_path: Path) -> None:
    figure = Figure(name="pie", kind="pie_chart", title="", caption="", alt="")
    copy = change_verdict(store, tmp_path / "study", figures=(figure,))
    with pytest.raises(PublishError, match=r"unknown kind 'pie_chart'.*isoflop_bowls.*curves"):
        publish(copy)


@pytest.mark.parametrize("name", ["../../escape", "a/b", "", ".hidden", "x" * 200, "nul\x00"])
def test_a_name_that_is_no_file_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    table = Table(name=name, title="", columns=(), rows=())
    copy = change_verdict(store, tmp_path / "study", tables=(table,), figures=())
    with pytest.raises(PublishError, match="cannot be the name of a file"):
        publish(copy)


@pytest.mark.parametrize("names", [("a", "A"), ("run_list",)])
def test_two_tables_of_one_name_are_refused(store: Store, tmp_path: Path, names: tuple[str, ...]) -> None:
    tables = tuple(Table(name=name, title="", columns=(), rows=()) for name in names)
    copy = change_verdict(store, tmp_path / "study", tables=tables, figures=())
    with pytest.raises(PublishError, match="same name"):
        publish(copy)


def test_a_damaged_manifest_does_not_stop_a_rebuild(
    store: Store, published: PublishResult, tmp_path: Path
) -> None:
    copy = change_verdict(store, tmp_path / "study", figures=())
    copy.manifest_path.write_text("{not json")
    result = publish(copy)
    assert json.loads(copy.manifest_path.read_bytes())["schema"] == "isoflop.Manifest/1"
    assert (copy.root / "figures" / "law.svg").exists()  # nothing says that it is ours
    assert copy.manifest_path in result.files


def test_outcomes_of_the_records_all_have_a_badge() -> None:
    from typing import get_args

    assert set(OUTCOMES) == set(get_args(Outcome))
