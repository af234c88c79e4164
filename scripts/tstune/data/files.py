"""Find files and read tables as they stand: separators, byte order mark, damaged headers, columns without a name."""

from __future__ import annotations

import csv
import glob
import gzip
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.data.cleaning.report import CleaningReport
from tstune.errors import DataError

KINDS = (".csv", ".csv.gz", ".parquet")
_DECIMAL_COMMA = r"[+-]?\d+(?:,\d+)?"
_THOUSANDS = r"[+-]?[1-9]\d{0,2}(?:,\d{3})+"


def find_files(pattern: str) -> list[Path]:
    """Files of a path, a folder or a glob pattern, sorted by name.

    Raises:
        DataError: there is none.
    """
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(KINDS)]
    elif "*" in pattern or "?" in pattern:
        files = [Path(file) for file in glob.glob(pattern)]
    else:
        return [path]
    if not files:
        raise DataError(f"data.path={pattern} holds no {', '.join(KINDS)} file")
    return sorted(files)


def read_table(path: Path, report: CleaningReport | None = None) -> pd.DataFrame:
    """Read a CSV, gzipped CSV or Parquet file.

    A CSV file may be separated by commas, semicolons or tabs; with the latter two its numbers may have decimal commas.

    Args:
        path: the file.
        report: gets what was found.

    Raises:
        DataError: the file is missing, unreadable or of another kind.
    """
    report = CleaningReport() if report is None else report
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.name.endswith(KINDS):
            return _read_csv(path, report)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}; save it as UTF-8") from None
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas and pyarrow parse errors are ValueErrors
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    raise DataError(f"{path}: unknown kind of file; use .csv, .csv.gz or .parquet")


def _read_csv(path: Path, report: CleaningReport) -> pd.DataFrame:
    header, separator = read_header(path)
    seen = [name for name in header if name]
    twice = next((name for name in seen if seen.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} cannot be read: its header names column {twice!r} twice; rename or delete one")
    raw = pd.read_csv(path, low_memory=False, encoding="utf-8-sig", sep=separator)
    if not isinstance(raw.index, pd.RangeIndex):  # pandas takes what is too much for row names
        raise DataError(f"{path} cannot be read: its rows have more cells than its header has names")
    if len(raw.columns) == len(header):
        raw.columns = [name or f"column {place} without a name" for place, name in enumerate(header, start=1)]
    raw = _without_empty_rows(raw, report)
    raw = _without_nameless_columns(raw, header, path, report)
    return raw if separator == "," else _with_decimal_points(raw, path, report)


def read_header(path: Path) -> tuple[list[str], str]:
    """(names, separator) of the first line of a CSV file."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
        first = next((line for line in stream if line.strip()), "")
    if not first:
        raise DataError(f"{path} cannot be read: the file is empty")
    separator = max((",", ";", "\t"), key=first.count)  # the first of equals
    return [name.strip() for name in next(csv.reader([first], delimiter=separator))], separator


def _without_empty_rows(raw: pd.DataFrame, report: CleaningReport) -> pd.DataFrame:
    """Leave out rows of nothing at the end, which spreadsheets write; the rows before keep their numbers."""
    empty = raw.isna().all(axis=1).to_numpy()
    if not len(empty) or not empty[-1]:
        return raw
    kept = 0 if empty.all() else len(empty) - int(np.argmin(empty[::-1]))
    report.add("empty_rows_at_the_end", len(raw) - kept, "left out")
    return raw.iloc[:kept]


def _without_nameless_columns(raw: pd.DataFrame, header: list[str], path: Path, report: CleaningReport) -> pd.DataFrame:
    """Leave out columns without a name that hold nothing or count the rows."""
    for place, name in enumerate(header):
        if name or len(raw.columns) != len(header):
            continue
        values = raw.iloc[:, place]
        counts = values.to_numpy()
        if values.isna().all():
            what = "empty_columns_without_a_name"
        elif pd.api.types.is_integer_dtype(values) and (counts - counts[0] == np.arange(len(counts))).all():
            what = "row_numbers_without_a_name"
        else:
            raise DataError(f"{path} cannot be read: column {place + 1} has no name; name it or delete it")
        report.add(what, 1, "left out")
    return raw[[name for name, given in zip(raw.columns, header, strict=True) if given]] if "" in header else raw


def _with_decimal_points(raw: pd.DataFrame, path: Path, report: CleaningReport) -> pd.DataFrame:
    """Read numbers such as 1,5 in a table whose columns are separated by something else."""
    for column in raw.columns:
        values = raw[column]
        if pd.api.types.is_numeric_dtype(values) or values.isna().all():
            continue
        texts = values.dropna().astype(str).str.strip()
        commas = texts.str.contains(",", regex=False)
        if not commas.any() or not texts.str.fullmatch(_DECIMAL_COMMA).all():
            continue
        if texts[commas].str.fullmatch(_THOUSANDS).all():
            raise DataError(
                f"{path} cannot be read: {texts[commas].iloc[0]!r} in column {column!r} is either a decimal comma or "
                "a thousand; write numbers with a decimal point"
            )
        numbers = texts.str.replace(",", ".", regex=False).astype("float64")
        raw = raw.assign(**{column: numbers.reindex(values.index)})
        report.add("decimal_commas", int(commas.sum()), "read as decimal points", examples=[f"column {column}"])
    return raw
