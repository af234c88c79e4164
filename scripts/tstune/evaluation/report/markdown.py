"""The report as Markdown: the same sections and tables, without plots."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tstune.evaluation.report.blocks import Block, Omitted, Section, Table


def as_markdown(title: str, sections: Sequence[Section | Omitted], warning: str | None) -> str:
    """The whole report."""
    lines = [f"# {escape(title)}", ""]
    if warning:
        lines += [f"**{warning}**", ""]
    for section in sections:
        if isinstance(section, Omitted):
            lines += [f"*{escape(section.reason)}*", ""]
            continue
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += _block(block, 3)
    if warning:
        lines += [f"**{warning}**", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]])", r"\\\1", text)


def _block(block: Block, level: int) -> list[str]:
    head = "#" * min(level, 6)
    match block.kind:
        case "text":
            return [escape(block.text), ""] if block.text else []
        case "table":
            return _table(block)
        case "figure":
            return _table(block.brief or block.table)
        case "heat_map":
            return _table(block.table)
        case "verdict":
            return [f"**{escape(block.headline)}** {escape(block.rest)}".strip(), "", escape(block.kept), ""]
        case "facts":
            return [
                f"- {escape(f.label)}: {f.value} {f.unit}{f' ({escape(f.note)})' if f.note else ''}"
                for f in block.facts
            ] + [""]
        case "definitions":
            return ["| | |", "|---|---|", *[f"| {escape(term)} | {escape(what)} |" for term, what in block.pairs], ""]
        case "code":
            fence = "`" * max([3, *[len(run) + 1 for run in re.findall(r"`+", block.text)]])
            return [f"{fence}yaml", block.text.rstrip("\n"), fence, ""]
        case "columns":
            return [line for one in block.blocks for line in _block(one, level)]
        case "details":
            return [
                f"{head} {escape(block.summary)}",
                "",
                *[line for b in block.blocks for line in _block(b, level + 1)],
            ]
        case _:
            lines = []
            for name, blocks in block.options.items():
                lines += [f"{head} {escape(block.label)}: {escape(name)}", ""]
                lines += [line for one in blocks for line in _block(one, level + 1)]
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
