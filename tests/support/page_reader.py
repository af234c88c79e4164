"""Reads report.html as a reader without a browser would: ids, headings, tables, links."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "input", "hr"}
_SVG = {"path", "rect", "line", "circle", "polygon"}  # written as <path …/>


@dataclass
class TableText:
    """One table: caption, header cells, rows of cells."""

    caption: str = ""
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        ids: in order. headings: (level, text). tables: in order. scripts: their text. open_tags: left open.
        figures: id -> (number of SVGs, number of tables). attributes: (tag, name, value) of every element.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tables: list[TableText] = []
        self.scripts: list[str] = []
        self.open_tags: list[str] = []
        self.figures: dict[str, list[int]] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self._figure: str | None = None
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "figure":
            self._figure = values["id"]
            self.figures[self._figure] = [0, 0]
        if self._figure and tag in ("svg", "table") and "swatch" not in values.get("class", ""):
            self.figures[self._figure][tag == "table"] += 1
        if tag == "table":
            self.tables.append(TableText())
        if tag == "tr" and self.tables:
            self.tables[-1].rows.append([])
        if tag in ("td", "th", "caption", "script") or tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._cell = []
        if tag not in _VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        assert tag in _SVG, f"<{tag}/> is not closed in HTML"

    def handle_endtag(self, tag):
        assert self.open_tags, f"</{tag}> closes nothing"
        assert self.open_tags.pop() == tag, f"</{tag}> closes another element"
        content = " ".join("".join(self._cell or []).split())
        if tag in ("td", "th"):
            self.tables[-1].rows[-1].append(content)
        elif tag == "thead":
            self.tables[-1].header = self.tables[-1].rows.pop()
        elif tag == "caption":
            self.tables[-1].caption = content
        elif tag == "script":
            self.scripts.append("".join(self._cell))
        elif tag[0] == "h" and tag[1:].isdigit():
            self.headings.append((int(tag[1:]), content))
        elif tag == "figure":
            self._figure = None
        if tag in ("td", "th", "caption", "script", "h1", "h2", "h3", "h4", "h5", "h6"):
            self._cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def table(self, caption: str) -> TableText:
        """The first table whose caption begins so."""
        return next(table for table in self.tables if table.caption.startswith(caption))
