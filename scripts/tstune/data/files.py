"""Find the files of a table, and read each as what its ending says."""

from __future__ import annotations

import glob
import gzip
import zlib
from pathlib import Path

import pandas as pd

from tstune.data.cleaning.report import CleaningReport
from tstune.data.text_table import decode, find_layout, read_text, split_lines
from tstune.errors import DataError

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
KINDS = (*_TEXT, ".parquet")
_HEADER_BYTES = 1 << 16


def find_files(pattern: str) -> list[Path]:
    """Files of a path, a folder or a glob pattern, sorted by name; notes (.txt) beside tables are no data.

    Raises:
        DataError: there is none.
    """
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if kind_of(file) and not file.name.startswith(".")]
        files = [file for file in files if not kind_of(file).startswith(".txt")] or files
    elif "*" in pattern or "?" in pattern:
        files = [Path(file) for file in glob.glob(pattern)]
    else:
        return [path]
    if not files:
        raise DataError(f"data.path={pattern} holds no {', '.join(KINDS)} file")
    return sorted(files)


def kind_of(path: Path) -> str | None:
    """The one of `KINDS` that a file is by the ending of its name, in small or capital letters."""
    return next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)


def read_table(path: Path, report: CleaningReport | None = None, skip_rows: int = 0) -> pd.DataFrame:
    """Read a table: text (its cells stay text, see `text_table`) or Parquet.

    Args:
        path: the file.
        report: gets what was found.
        skip_rows: lines at the top of a text that are not looked at.

    Raises:
        DataError: the file is missing, unreadable or of another kind.
    """
    report = CleaningReport() if report is None else report
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path}: unknown kind of file; use {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        content = gzip.decompress(path.read_bytes()) if kind.endswith(".gz") else path.read_bytes()
        return read_text(decode(content, report), report, skip_rows)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas and pyarrow parse errors are ValueErrors
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def read_columns(path: Path, skip_rows: int = 0) -> list[str]:
    """Names of the columns of a table, from its first lines.

    Raises:
        DataError: as `read_table`.
    """
    if kind_of(path) not in _TEXT:
        return list(read_table(path).columns)
    try:
        with (gzip.open if kind_of(path).endswith(".gz") else open)(path, "rb") as stream:
            begin = stream.read(_HEADER_BYTES)
        text = decode(begin[: begin.rfind(b"\n") + 1 or None], CleaningReport())
        return find_layout(split_lines(text)[0], skip_rows).names
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
