"""Files that are replaced as a whole, what the disk refuses, and texts of others in files that people open."""

from __future__ import annotations

import html
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstune.errors import OutputError, visible

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def aside(path: Path, key: str = "") -> Iterator[Path]:
    """A file to write to, which replaces `path` when it is whole, each process's own; errors say `key` before it."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{key}{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """The same with everything in a folder, and the folder."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def is_disk_trouble(error: Exception) -> bool:
    """Whether the disk refused something; torch and safetensors tell of a full one by errors of their own."""
    text, signs = str(error).lower(), ("no space left", "file write failed", "unexpected pos", "i/o error", "iostream")
    return isinstance(error, OSError) or any(sign in text for sign in signs)


_WRITTEN_OUT = re.compile(r"\\u(00[01][0-9a-f]|007f|00[89][0-9a-f]|202[a-e]|206[6-9])")  # by `visible`
_FORMULA = re.compile(r"[=+\-@\t\r＝＋－＠]")  # some spreadsheets compute the wide signs too


def escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line and in one cell of a table."""
    return re.sub(r"([*|])", r"\\\1", escape_lines(" ".join(text.split()).replace("\\", "\\\\")))


def escape_lines(text: str) -> str:
    """The same for several lines, in which ``|`` and ``*`` keep their meaning."""
    return re.sub(r"([`\[\]])", r"\\\1", html.escape(visible(text), quote=False))


def escape_all(values: Any) -> Any:
    """The same with every text in it, names too, as `escape` gives it."""
    if isinstance(values, str):
        return escape(values)
    if isinstance(values, dict):
        return {escape_all(name): escape_all(value) for name, value in values.items()}
    return [escape_all(value) for value in values] if isinstance(values, list | tuple) else values


def filled_template(path: Path, **values: object) -> str:
    """A Jinja template of Markdown with these values; what comes from others is escaped before."""
    from jinja2 import Environment, FileSystemLoader

    kinds = Environment(loader=FileSystemLoader(path.parent), trim_blocks=True, keep_trailing_newline=True)
    return kinds.get_template(path.name).render(values)


def cell(value: object) -> object:
    """A cell of a CSV file that is only read: a formula gets an apostrophe in front, see also `visible`."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    if _FORMULA.match(text):
        try:
            float(text)
        except ValueError:
            return f"'{text}"
    return text


def as_read(text: str) -> str:
    """What `cell` was given."""
    bare = text[1:] if text.startswith("'") and cell(text[1:]) == text else text
    return _WRITTEN_OUT.sub(lambda found: chr(int(found[1], 16)), bare)


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every name and text as `cell` gives it."""
    import pandas as pd

    texts = [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    return table.assign(**{name: table[name].map(cell) for name in texts}).rename(columns=cell)
