"""The report in a real browser: quiet, offline, drawn, readable on a phone, in the dark, by keyboard and by ear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.publish import PublishResult
from isoflop.publish.evidence import StudyData
from tests.browser import Browser, BrowserError, Page, missing_browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser())),
]

# Every drawing that the window shows, with its size, what it holds, and whether text sticks out of it.
DRAWINGS = """
[...document.querySelectorAll('svg.drawing')].filter(svg => svg.getClientRects().length).map(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
  return {
    width: box.width, height: box.height, paths: svg.querySelectorAll('path').length, texts: texts.length,
    drawn: [...svg.querySelectorAll('path')].filter(path => {
      const own = path.getBBox(); return own.width > 0 || own.height > 0; }).length,
    beyond: Math.max(0, ...texts.map(text => Math.max(text.right - box.right, box.left - text.left))),
    font: Math.min(...[...svg.querySelectorAll('text')].map(
      text => parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width)),
  };
})
"""

# Contrast (WCAG 2.2) of every visible piece of text against the nearest opaque background, worst first.
CONTRAST = """
(() => {
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const opaque = colour => { const c = numbers(colour); return c.length < 4 || c[3] === 1; };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (opaque(colour)) return numbers(colour);
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.getClientRects().length) continue;
    if (element.closest('title, desc')) continue;
    const style = getComputedStyle(element);
    const inside = element instanceof SVGElement;
    const pair = [luminance(numbers(inside ? style.fill : style.color)), luminance(behind(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    found.push([ratio, node.textContent.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()
"""

# Anything outside a scrolling table that reaches beyond the window. Text for screen readers alone is clipped away.
BEYOND = """
[...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.scroll, .sr, svg, pre, .skip') && e.getClientRects().length &&
  (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
).map(e => e.tagName + '.' + e.className)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def tab(browser: Browser, published: PublishResult) -> Page:
    """The report on a desk, in light."""
    page = browser.open(published.report)
    page.set_viewport(1280, 900)
    page.emulate(dark=False)
    return page


def test_page_opens_without_a_complaint_and_without_the_network(tab: Page, published: PublishResult) -> None:
    tab.evaluate("new Promise(done => setTimeout(done, 200))")
    assert tab.problems == []
    assert [address for address in tab.requests if not address.startswith("data:")] == [
        published.report.as_uri()
    ]
    assert tab.evaluate("document.readyState") == "complete"


def test_helper_does_notice_complaints_and_requests(browser: Browser, tmp_path: Path) -> None:
    """The test above must be able to fail: each of its observations is provoked here."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<script>console.error('spoken'); setTimeout(() => { throw new Error('thrown') }, 0);</script>"
        "<img src='http://127.0.0.1:9/none.png'>"
    )
    page = browser.open(bad)
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    assert any("spoken" in problem for problem in page.problems)
    assert any("exception" in problem for problem in page.problems)
    assert "http://127.0.0.1:9/none.png" in page.requests
    with pytest.raises(BrowserError, match="boom"):
        page.evaluate("(() => { throw new Error('boom') })()")
    with pytest.raises(BrowserError, match="ERR_FILE_NOT_FOUND"):
        browser.open(tmp_path / "absent.html")


def test_policy_of_the_page_forbids_scripts_and_requests(tab: Page) -> None:
    """The page's own policy holds even if something slipped in: neither a script nor an image may load."""
    tab.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.invalid/x.png\">');"
        "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s);"
    )
    tab.evaluate("new Promise(done => setTimeout(done, 200))")
    assert tab.evaluate("window.ran === true") is False
    assert any("Content Security Policy" in problem for problem in tab.problems)


@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (768, False), (360, True)])
def test_every_figure_is_drawn_and_nothing_overflows(
    tab: Page, data: StudyData, width: int, mobile: bool
) -> None:
    tab.set_viewport(width, 800, scale=2, mobile=mobile)
    drawings = tab.evaluate(DRAWINGS)
    assert len(drawings) == len(data.verdict.figures)
    for drawing in drawings:
        assert drawing["width"] > 250
        assert drawing["height"] > 100
        assert drawing["drawn"] > 10
        assert drawing["texts"] > 4
        # Fonts differ from the one that Matplotlib measures with: a label may lean out of the drawing a little.
        assert drawing["beyond"] < 12
        assert drawing["font"] >= 9
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(BEYOND) == []


def test_phone_text_is_large_enough_and_cards_replace_wide_tables_of_words(tab: Page) -> None:
    tab.set_viewport(360, 740, scale=2, mobile=True)
    assert tab.evaluate("parseFloat(getComputedStyle(document.querySelector('main p.lead')).fontSize)") >= 16
    assert tab.evaluate("getComputedStyle(document.querySelector('table.words tr')).display") == "block"
    tab.set_viewport(1280, 900)
    assert tab.evaluate("getComputedStyle(document.querySelector('table.words tr')).display") == "table-row"


def test_print_shows_the_wide_drawings_and_cuts_no_table(tab: Page, data: StudyData) -> None:
    """A4 with Chromium's margins is 718 CSS pixels wide; paper cannot scroll."""
    tab.set_viewport(718, 1000)
    tab.emulate(media="print")
    assert len(tab.evaluate(DRAWINGS)) == len(data.verdict.figures)
    assert tab.evaluate("getComputedStyle(document.querySelector('.on-phone')).display") == "none"
    assert (
        tab.evaluate("[...document.querySelectorAll('table')].filter(t => t.offsetWidth > innerWidth).length")
        == 0
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718


def test_dark_mode_changes_page_and_figures_alike(tab: Page) -> None:
    colours = """
    (() => { const of = (css, name) => getComputedStyle(document.querySelector(css))[name]; return [
      of('body', 'backgroundColor'), of('h1', 'color'), of('svg.drawing text', 'fill'),
      [...document.querySelectorAll('svg.drawing path')].map(p => getComputedStyle(p).stroke).join() ]; })()
    """
    light = tab.evaluate(colours)
    tab.emulate(dark=True)
    dark = tab.evaluate(colours)
    assert all(before != after for before, after in zip(light, dark, strict=True))
    tab.emulate(media="print", dark=True)
    assert tab.evaluate(colours) == light  # paper is light


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_all_text_has_contrast(tab: Page, dark: bool, width: int) -> None:
    tab.set_viewport(width, 800)
    tab.emulate(dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = tab.evaluate(CONTRAST)
    assert len(found) > 500
    assert found[0][0] >= 4.5, found[:3]  # WCAG 2.2, AA for text of any size


def test_keyboard_reaches_skip_link_tables_and_downloads(tab: Page) -> None:
    focused = "[document.activeElement.className, document.activeElement.getBoundingClientRect().top >= 0]"
    tab.press("Tab")
    assert tab.evaluate(focused) == ["skip", True]
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter")
    assert tab.evaluate("location.hash") == "#main"
    seen = set()
    for _ in range(60):
        tab.press("Tab")
        seen.add(tab.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"scroll wide", "SUMMARY", "A"} <= seen


def test_screen_reader_is_told_verdict_figures_and_tables(tab: Page, data: StudyData) -> None:
    nodes = tab.accessibility_tree()

    def named(role: str) -> list[str]:
        return [node.get("name", {}).get("value", "") for node in nodes if node["role"]["value"] == role]

    assert {"banner", "main", "navigation", "contentinfo"} <= {node["role"]["value"] for node in nodes}
    images = named("image") + named("img")
    for figure in data.verdict.figures:
        assert any(figure.title in name for name in images), images
    headings = [node for node in nodes if node["role"]["value"] == "heading"]
    assert headings[0]["name"]["value"] == data.verdict.sentence
    tab.set_viewport(360, 740, mobile=True)  # cards must still be tables to the ear
    on_phone = [node["role"]["value"] for node in tab.accessibility_tree()]
    assert on_phone.count("table") >= 4
    assert on_phone.count("rowheader") >= len(data.verdict.statements)


def test_the_table_inside_the_page_is_the_table_beside_it(tab: Page, published: PublishResult) -> None:
    """A download is carried as a data address: reading it back must give the file's own bytes."""
    links: list[list[Any]] = tab.evaluate(
        "[...document.querySelectorAll('a[download]')].map(a => [a.download, atob(a.href.split(',')[1]).length])"
    )
    sizes = {path.name: path.stat().st_size for path in published.files}
    plain = [(name, size) for name, size in links if name.endswith(".csv")]
    assert plain
    assert all(sizes[name] == size for name, size in plain)
    assert any(name.endswith(".csv.gz") for name, _ in links)


def test_hostile_names_run_nothing(browser: Browser, hostile: PublishResult) -> None:
    page = browser.open(hostile.report)
    assert page.problems == []
    assert page.evaluate("document.querySelectorAll('script').length") == 0
    assert page.evaluate("document.querySelector('h1').textContent").startswith("<script>alert(1)</script>")
    assert page.evaluate("document.querySelector('figcaption').textContent").count("]]>") == 1
