"""Sections as one HTML file that needs nothing from anywhere, or as Markdown: the same tables, without plots."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tstune.errors import visible
from tstune.runs.report.blocks import Omitted, ReportBlock, ReportSection, Table
from tstune.runtime.files import aside, escape

_ASSETS = Path(__file__).parent / "assets"


def as_html(title: str, sections: Sequence[ReportSection | Omitted], warning: str | None) -> str:
    """The whole report; every text that comes from a user is escaped by the template."""
    script = (_ASSETS / "report.js").read_text(encoding="utf-8")
    page = _template().render(
        title=title,
        sections=sections,
        warning=warning,
        style=Markup((_ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # the browser runs this script and no other, whatever a name in the data may hold
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return visible(page)


@cache
def _template() -> Template:
    """Compiled once: it takes a tenth of a short run."""
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    return Environment(loader=FileSystemLoader(_ASSETS), autoescape=True, **options).get_template("page.html.j2")


def as_markdown(title: str, sections: Sequence[ReportSection | Omitted], warning: str | None) -> str:
    """The whole report."""
    warned = [f"**{warning}**", ""] if warning else []
    lines = [f"# {escape(title)}", "", *warned]
    for section in sections:
        if isinstance(section, Omitted):
            lines += [f"*{escape(section.reason)}*", ""]
        else:
            lines += [f"## {escape(section.title)}", "", *_blocks(section.blocks, 3)]
    return "\n".join([*lines, *warned])


def write_page(file: Path, page: str, key: str = "") -> None:
    """Write a page aside and put it in its place in one rename; see `aside`."""
    with aside(file, key) as partial:
        partial.write_text(page, encoding="utf-8")


def _blocks(blocks: Sequence[ReportBlock], level: int) -> list[str]:
    return [line for block in blocks for line in _block(block, level)]


def _block(block: ReportBlock, level: int) -> list[str]:
    head = "#" * min(level, 6)
    match block.kind:
        case "Text":
            return [escape(block.text), ""] if block.text else []
        case "Table":
            return _table(block)
        case "Figure":
            return _table(block.brief or block.table)
        case "HeatMap":
            return _table(block.table)
        case "VerdictBlock":
            return [f"**{escape(block.headline)}** {escape(block.rest)}".strip(), "", escape(block.kept), ""]
        case "Facts":
            notes = [f" ({escape(fact.note)})" if fact.note else "" for fact in block.facts]
            lines = zip(block.facts, notes, strict=True)
            return [*(f"- {escape(f.label)}: {escape(f.value)} {escape(f.unit)}{note}" for f, note in lines), ""]
        case "Definitions":
            return ["| | |", "|---|---|", *(f"| {escape(term)} | {escape(what)} |" for term, what in block.pairs), ""]
        case "Code":
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", block.text))])
            return [f"{fence}yaml", visible(block.text.rstrip("\n")), fence, ""]
        case "Columns":
            return _blocks(block.blocks, level)
        case "Details":
            return [f"{head} {escape(block.summary)}", "", *_blocks(block.blocks, level + 1)]
        case _:
            lines = []
            for name, blocks in block.options.items():
                lines += [f"{head} {escape(block.label)}: {escape(name)}", "", *_blocks(blocks, level + 1)]
            return lines


def _table(table: Table) -> list[str]:
    columns = table.columns
    lines = [
        f"{escape(table.title)}:",
        "",
        f"| {' | '.join(escape(column.header) for column in columns)} |",
        f"|{'|'.join('---:' if column.numeric else '---' for column in columns)}|",
    ]
    for row in table.rows:
        cells = [escape(column.cells[row]) for column in columns]
        cells = [f"**{cell}**" if column.best == row else cell for cell, column in zip(cells, columns, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
