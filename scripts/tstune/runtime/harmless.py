"""Texts of others in files that people open: nothing of them is HTML, Markdown, or a formula."""

from __future__ import annotations

import html
import re
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"[=+\-@\t\r]")


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line and in one cell of a table."""
    return re.sub(r"([*|])", r"\\\1", escape_lines(" ".join(text.split()).replace("\\", "\\\\")))


def escape_lines(text: str) -> str:
    """The same for several lines, in which ``|`` and ``*`` keep their meaning."""
    return re.sub(r"([`\[\]])", r"\\\1", html.escape(text, quote=False))


def escape_all(values: Any) -> Any:
    """The same with every text in it, names too, as `escape` gives it."""
    if isinstance(values, str):
        return escape(values)
    if isinstance(values, dict):
        return {escape_all(name): escape_all(value) for name, value in values.items()}
    return [escape_all(value) for value in values] if isinstance(values, list | tuple) else values


def cell(value: object) -> object:
    """A cell of a CSV file that no spreadsheet computes: a formula gets an apostrophe in front."""
    if isinstance(value, str) and _FORMULA.match(value):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def as_read(text: str) -> str:
    """What `cell` was given."""
    return text[1:] if text.startswith("'") and cell(text[1:]) == text else text


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every name and text as `cell` gives it."""
    texts = [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    return table.assign(**{name: table[name].map(cell) for name in texts}).rename(columns=cell)
