"""Elements of a page, by the standard library, which escapes all text they are given."""

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

GENERATOR = "bertsmith report"

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Content-Security-Policy: the browser loads nothing from anywhere and runs no script."""

_NO_CHARACTER = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

Cell = str | Element


def add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """Append an element. `class_` is the attribute class; an underscore in a name is a hyphen."""
    clean = {name.rstrip("_").replace("_", "-"): readable(value) for name, value in attributes.items()}
    element = SubElement(parent, tag, clean)
    element.text = readable(text) or None
    return element


def readable(text: str) -> str:
    """A text with U+FFFD in the place of what no page may hold."""
    return _NO_CHARACTER.sub("\ufffd", text)


def new_page(title: str) -> tuple[Element, Element]:
    """An empty page: its root, and where its content goes."""
    root = Element("html", {"lang": "en"})
    head = add(root, "head")
    add(head, "meta", charset="utf-8")
    add(head, "meta", name="generator", content=GENERATOR)
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="color-scheme", content="light dark")
    add(head, "title", title)
    add(head, "style", files("bertsmith.report").joinpath("page.css").read_text(encoding="utf-8"))
    return root, add(add(root, "body"), "main")


def to_html(root: Element) -> bytes:
    """The page as UTF-8."""
    content: bytes = tostring(root, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + content + b"\n"


def section(parent: Element, title: str, note: str = "") -> Element:
    """A section with a heading, and a line on how to read it."""
    part = add(parent, "section")
    add(part, "h2", title)
    if note:
        add(part, "p", note, class_="note")
    return part


def add_table(parent: Element, header: Sequence[str], rows: Iterable[Sequence[Cell]], **attributes: str) -> Element:
    """A table; the first cell of each row names it. An empty header is left out."""
    table = add(add(parent, "div", class_="scroll"), "table", **attributes)
    if any(header):
        row = add(add(table, "thead"), "tr")
        for name in header:
            add(row, "th", name, scope="col")
    body = add(table, "tbody")
    for cells in rows:
        row = add(body, "tr")
        for number, cell in enumerate(cells):
            place = add(row, "td" if number else "th", **({} if number else {"scope": "row"}))
            if isinstance(cell, str):
                place.text = readable(cell) or None
            else:
                place.append(cell)
    return table


def bar(share: float) -> Element:
    """A bar of so much of its cell, from 0 to 1."""
    element = Element("div", {"class": "bar", "style": f"width:{max(0.0, min(1.0, share)):.1%}"})
    element.text = "\u200b"  # an empty one has no height
    return element
