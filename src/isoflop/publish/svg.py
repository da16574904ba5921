"""From Matplotlib's SVG to one that can stand inside a page: small, named for a screen reader, in the page's colours.

Matplotlib writes a whole document with its own style sheet, ids that repeat from figure to figure and six
decimals everywhere. Inside a page the style would leak, the ids would clash and the decimals would triple
the size. Text goes through an XML parser and writer, so what a run or a caption is called stays text.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from isoflop.publish.ink import FONT_STACK, ROLES

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(font:[^;]*?\d+(?:\.\d+)?px)[^;]*")
_HEX = re.compile(r"#[0-9a-f]{6}\b")
# What XML 1.0 does not allow even escaped; Matplotlib passes it through and the parser would refuse it.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_VARIABLE = {ink.light: f"var(--{ink.role})" for ink in ROLES}


def page_svg(source: str, *, key: str, title: str, description: str) -> str:
    """The drawing for inside a page.

    Args:
        source: Matplotlib's SVG.
        key: prefix of every id; unique in the page.
        title, description: what a screen reader says.

    Raises:
        ValueError: a colour that has no role, which would not follow the page into the dark.
    """
    root = _parse(source)
    _slim(root, key)
    _recolour(root)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update(
        {"role": "img", "aria-labelledby": f"{key}-title {key}-desc", "class": "drawing"}
        | {"style": f"aspect-ratio: {width:g} / {height:g}", "focusable": "false"}
    )
    _describe(root, key, title, description)
    return _write(root)


def file_svg(source: str, *, key: str, title: str, description: str) -> str:
    """The drawing as a file of its own: light colours on paper, system fonts, the same description."""
    root = _parse(source)
    _slim(root, key)
    root.attrib.update({"role": "img", "aria-labelledby": f"{key}-title {key}-desc"})
    _describe(root, key, title, description)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{_write(root)}\n'


def plain(text: str) -> str:
    """Text without the control characters that neither XML nor a page may hold."""
    return _CONTROL.sub("\ufffd", text)


def _parse(source: str) -> ET.Element:
    return ET.fromstring(plain(source))


def _write(root: ET.Element) -> str:
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _describe(root: ET.Element, key: str, title: str, description: str) -> None:
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{key}-{tag}"})
        element.text = plain(text)
        root.insert(place, element)


def _slim(root: ET.Element, key: str) -> None:
    """Drop metadata, the style sheet and unused ids; prefix the used ones; round coordinates to 0.01 pt."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
            else:
                child.tail = None
        if parent.tag != f"{{{SVG}}}text":
            parent.text = None
    used: dict[str, str] = {}
    for element in root.iter():
        target = element.attrib.pop(f"{{{XLINK}}}href", None)
        if target is not None:
            element.attrib["href"] = f"#{_alias(target.removeprefix('#'), used, key)}"
        for name, value in element.attrib.items():
            if "url(#" in value:
                element.attrib[name] = _REFERENCE.sub(
                    lambda m: f"url(#{_alias(m.group(1), used, key)})", value
                )
    root.attrib["stroke-linejoin"] = "round"
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.attrib["id"] = used[identity]
        for name in ("d", "x", "y"):
            if name in element.attrib:
                element.attrib[name] = _rounded(element.attrib[name])
        if "style" in element.attrib:
            element.attrib["style"] = _FONT.sub(rf"\1 {FONT_STACK}", element.attrib["style"])
    _flatten(root)


def _alias(identity: str, used: dict[str, str], key: str) -> str:
    return used.setdefault(identity, f"{key}-{len(used)}")


def _rounded(text: str) -> str:
    """Coordinates to two decimals, and a path's commands without the spaces between them."""

    def short(match: re.Match[str]) -> str:
        value = f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
        return "0" if value == "-0" else value

    return re.sub(r"\s*([MLCQZmlcqz])\s*", r"\1", _NUMBER.sub(short, text)).strip()


def _flatten(root: ET.Element) -> None:
    """Take the children of groups that say nothing (no attributes) up, and drop empty groups and definitions."""
    for parent in list(root.iter()):
        children: list[ET.Element] = []
        for child in parent:
            _flatten_into(child, children)
        parent[:] = children


def _flatten_into(element: ET.Element, children: list[ET.Element]) -> None:
    if element.tag == f"{{{SVG}}}g" and not element.attrib:
        for child in element:
            _flatten_into(child, children)
    elif element.tag not in (f"{{{SVG}}}defs", f"{{{SVG}}}g") or len(element):
        children.append(element)


def _recolour(root: ET.Element) -> None:
    """Replace each colour by the variable of its role."""
    for element in root.iter():
        for name in ("style", "fill", "stroke"):
            if name in element.attrib:
                element.attrib[name] = _HEX.sub(_variable, element.attrib[name])


def _variable(match: re.Match[str]) -> str:
    if match.group() not in _VARIABLE:
        raise ValueError(f"colour {match.group()} has no role: draw with the inks of isoflop.publish.ink")
    return _VARIABLE[match.group()]
