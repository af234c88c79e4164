"""Find the files of a table, and read each as what its ending says: text, Parquet, Excel, JSON, Monash."""

from __future__ import annotations

import csv
import datetime
import glob
import gzip
import io
import json
import zipfile
import zlib
from pathlib import Path

import pandas as pd

from tstune.data.cleaning.rules import CleaningReport
from tstune.data.series_rows import read_tsf
from tstune.data.text_table import decode, find_layout, read_text, split_lines
from tstune.errors import DataError
from tstune.foreign_files import damage
from tstune.named_code import optional_module

_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_OTHER = (".parquet", ".xlsx", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".tsf", ".tsf.gz")
KINDS = (*_TEXT, *_OTHER)
_HEADER_BYTES = 1 << 16


def find_files(pattern: str) -> list[Path]:
    """Files of a path, a folder or a glob pattern, sorted by name; notes (.txt, .json) beside tables are no data."""
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if kind_of(file) and not file.name.startswith(".")]
        files = [file for file in files if not kind_of(file).startswith((".txt", ".json"))] or files
    elif ("*" in pattern or "?" in pattern) and not path.is_file():
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

    Raises:
        DataError: the file is missing, unreadable or of another kind.
    """
    report = CleaningReport() if report is None else report
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one table")
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path}: unknown kind of file; use {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind == ".xlsx":
            return read_text(_sheet_as_text(path, report), report, skip_rows)
        content = gzip.decompress(path.read_bytes()) if kind.endswith(".gz") else path.read_bytes()
        text = decode(content, report)
        if kind.startswith(".tsf"):
            return read_tsf(text)
        return _records(text) if "js" in kind else read_text(text, report, skip_rows)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas and pyarrow parse errors are ValueErrors
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _records(text: str) -> pd.DataFrame:
    """Objects with the cells of a row each: one a line, or in a list."""
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines() if x]
    except json.JSONDecodeError as error:
        raise DataError(f"it is not JSON: {error}") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError("it holds no objects with the cells of a row each")
    return pd.DataFrame(rows)


def _sheet_as_text(path: Path, report: CleaningReport) -> str:
    """The first sheet with cells, tabs between them, so that titles and units are found as in a text."""
    openpyxl = optional_module("openpyxl", "reading Excel files", "openpyxl>=3.1")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"it is not an .xlsx file: {error}") from None
    sheets = [[[_cell_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)] for sheet in book]
    filled = [number for number, rows in enumerate(sheets) if any(map(any, rows))]
    if not filled:
        raise DataError("no sheet of it has a cell")
    others = [book.sheetnames[number] for number in filled[1:]]
    report.add("sheets_not_read", len(others), "left out; save one as a file of its own to read it", examples=others)
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(sheets[filled[0]])
    return stream.getvalue()


def _cell_text(cell: object) -> str:
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(" ")
    return "" if cell is None else str(cell)


def read_columns(path: Path, skip_rows: int = 0) -> list[str]:
    """Names of the columns of a table, from its first lines."""
    if path.is_file() and kind_of(path) == ".parquet":
        import pyarrow.parquet as pq

        with damage(path, DataError, "cannot be read"):
            return pq.read_schema(path).names
    if not path.is_file() or kind_of(path) not in _TEXT:
        return list(read_table(path).columns)
    try:
        with (gzip.open if kind_of(path).endswith(".gz") else open)(path, "rb") as stream:
            begin = stream.read(_HEADER_BYTES)
        if len(begin) == _HEADER_BYTES and 0 not in begin[:200]:  # not in the middle of a letter
            begin = begin[: begin.rfind(b"\n") + 1]
        text = decode(begin, CleaningReport())
        return find_layout(split_lines(text)[0], skip_rows).names
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
