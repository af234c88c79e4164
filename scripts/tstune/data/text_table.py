"""A table in a text file, as programs and people write it: its separator and header, and the lines that are not rows.

Every cell stays the text that stands there; an empty one is missing. What the cells mean is for `frame` to say.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tstune.data.cleaning.rules import CleaningReport
from tstune.data.table import TIMESTAMP
from tstune.errors import DataError

ROW = "row"
"""Name of the index of a frame that tells which line of its file each row comes from."""
_SEPARATORS = (";", "\t", "|", ",")  # the first of equals: a comma is also a decimal sign
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_DATA = re.compile(
    r"[+-]?[0-9][0-9.,'  ]*(?:[eE][+-]?[0-9]+)?%?|.*[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}.*|[0-9]{1,2}:[0-9]{2}.*"
)
_TIME = re.compile(
    r" *(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}|[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}).*"
)
_UNITS = frozenset(
    (
        *("kw", "kwh", "mw", "mwh", "w", "wh", "v", "a", "hz", "c", "°c", "degc", "f", "°f", "k", "%"),
        *("mg/dl", "mmol/l", "u", "iu", "u/h", "g", "kg", "mg", "l", "ml", "m", "km", "m/s", "km/h", "mm"),
        *("cm", "hpa", "pa", "bar", "h", "hours", "min", "minutes", "s", "sec", "seconds", "ms", "bpm"),
        *("steps", "kcal", "eur", "usd", "gbp", "€", "$", "utc", "ppm", "µg/m³", "ug/m3", "-"),
    )
)
_SAMPLE = 400
MOST_FOOTERS = 10
"""Rows below a table that are none of it."""


@dataclass
class Layout:
    """Where the table of a text is."""

    separator: str  # between cells
    names: list[str]  # of the columns; an empty one stays empty
    num_cells: int  # of a row
    first_row: int  # line where the rows begin, from 0
    left_out: dict[str, list[int]] = field(default_factory=dict)  # kind -> lines above that are none of the table


def decode(content: bytes, report: CleaningReport) -> str:
    """Text of a file in UTF-8, UTF-16 or, where it is neither, the code page of Windows in the west."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if content[:200].count(0) > 40:  # UTF-16 without a mark: every other byte of plain text is 0
        with suppress(UnicodeDecodeError):  # else it is no text at all, as its reader will find
            return content.decode("utf-16-le" if content[1] == 0 else "utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        report.add("not_utf8", 1, "read as Windows-1252; save the file as UTF-8 if letters look wrong")
        return content.decode("cp1252", errors="replace")


def read_text(text: str, report: CleaningReport, skip_rows: int = 0) -> pd.DataFrame:
    """The table of a text: columns of text and, as index, the lines of the file (from 1)."""
    lines, numbers = split_lines(text)
    layout = find_layout(lines, skip_rows)
    layout.left_out |= {"repeated_headers": [], "other_lines": []}
    places, cells = _plain_rows(text, lines, layout) or _rows(lines, layout)
    frame = pd.DataFrame(cells, index=pd.Index(numbers[places] + 1, name=ROW, dtype="int64"))
    empty = frame.isna().all(axis=1).to_numpy()
    layout.left_out["empty_rows"] += places[empty].tolist()
    for kind, places in layout.left_out.items():
        if places:
            report.add(kind, len(places), "left out", examples=[f"first in row {numbers[min(places)] + 1}"])
    return _without_nameless_columns(frame[~empty] if empty.any() else frame, layout.names, report)


def split_lines(text: str) -> tuple[list[str], np.ndarray]:
    """Lines of a text, and their numbers from 0; a quoted cell may go on over several, which are one here."""
    lines = (text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text).split("\n")
    if '"' not in text:
        return lines, np.arange(len(lines))
    joined, numbers, is_open = [], [], False
    for number, line in enumerate(lines):
        if is_open:
            joined[-1] += "\n" + line
        else:
            joined.append(line)
            numbers.append(number)
        is_open ^= line.count('"') % 2 == 1
    if is_open:
        raise DataError(f'row {numbers[-1] + 1} opens a quotation with " that does not end')
    return joined, np.array(numbers)


def find_layout(lines: Sequence[str], skip_rows: int = 0) -> Layout:
    """Separator and header of a table, from its lines or its first ones."""
    sample = [place for place, line in enumerate(lines[: 4 * _SAMPLE]) if place >= skip_rows and line.strip()]
    left_out = {"lines_skipped": list(range(min(skip_rows, len(lines))))}
    if not sample:
        raise DataError("the file is empty")
    stated = _SEPARATOR_LINE.fullmatch(lines[sample[0]].strip())
    if stated:
        left_out["separator_lines"] = [sample.pop(0)]
    spread = sorted({*sample[:_SAMPLE], *range(len(lines) // 2, len(lines), max(1, len(lines) // 200))})
    widths = {}
    for separator in (stated[1],) if stated else _SEPARATORS:
        rows = [lines[place] for place in spread if not _is_blank(lines[place], separator)]
        widths[separator] = Counter(_width(line, separator) for line in rows if not _is_comment(line))
        widths[separator].pop(1, None)
    most = {separator: max(counts.values(), default=0) for separator, counts in widths.items()}
    separator = max(most, key=most.__getitem__)
    num_cells = max((width for width, count in widths[separator].items() if count == most[separator]), default=1)
    sample = [place for place in sample if not _is_blank(lines[place], separator)]
    if not sample:
        raise DataError("the file is empty")
    return _find_header(lines, sample, Layout(separator, [], num_cells, 0, left_out))


def _find_header(lines: Sequence[str], sample: Sequence[int], layout: Layout) -> Layout:
    """It stands above the first row with a number or a time, perhaps above a row of units or behind a comment mark."""
    rows = {place: _cells(lines[place], layout.separator) for place in sample}
    fits = [place for place in sample if len(rows[place]) == layout.num_cells]
    first = next((n for n in fits if not _is_comment(lines[n]) and any(map(_DATA.fullmatch, rows[n]))), None)
    above = [place for place in sample if first is None or place < first]
    words = [place for place in above if place in fits and not _is_comment(lines[place])]
    units = [words.pop()] if len(words) > 1 and first is not None and _are_units(rows[words[-1]]) else []
    if words:
        header = words[0] if first is None else words[-1]
    else:
        marked = [place for place in above if place in fits]
        shorter = [place for place in above if 0 < layout.num_cells - len(rows[place]) <= 2]
        header = next(reversed(marked or shorter), sample[0])
        if header == first and any(map(_TIME.fullmatch, rows[header])):
            shown = layout.separator.join(rows[header])[:60]
            raise DataError(f"its first row, {shown!r}, holds a time, not names; write a header line above it")
    layout.names = [cell.strip() for cell in _cells(lines[header].lstrip("#% "), layout.separator)]
    layout.first_row = (units or [header])[0] + 1
    title = [place for place in above if place < header and not _is_comment(lines[place])]
    comments = [place for place in above if place != header and _is_comment(lines[place])]
    layout.left_out |= {"title_lines": title, "comment_lines": comments, "rows_of_units": units, "empty_rows": []}
    twice = next((name for name in layout.names if name and layout.names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"its header names column {twice!r} twice; rename or delete one")
    return layout


def _are_units(cells: Sequence[str]) -> bool:
    """True for a row such as ``,kW,°C`` between a header and numbers."""
    cells = [cell.strip().strip("[]()").lower() for cell in cells]
    known = sum(cell in _UNITS for cell in cells if cell)
    return any(cells) and (known * 2 > sum(map(bool, cells)) or not cells[0])


_Cells = dict[int, pd.arrays.ArrowStringArray]


def _plain_rows(text: str, lines: Sequence[str], layout: Layout) -> tuple[np.ndarray, _Cells] | None:
    """Places and cells of the lines below the header if, as in most files, each is a row: no look at each line."""
    end = len(lines)
    while end > layout.first_row and not lines[end - 1].strip():
        end -= 1
    header = lines[layout.first_row - 1].strip()
    if "\r" in text:
        text = "\n".join(lines[layout.first_row : end])
    else:
        above, below = (sum(len(line) + 1 for line in part) for part in (lines[: layout.first_row], lines[end:]))
        text = text[above : len(text) - below]
    if layout.num_cells < 2 or any(odd in text for odd in ('"', "#", "%", header)):
        return None
    try:
        cells = _parse(text, layout, newlines_in_values=False)
    except ValueError:  # not all of one width
        return None
    places = np.arange(layout.first_row, end)
    return (places, cells) if len(places) == len(cells[0]) else None  # empty lines are passed over


def _rows(lines: Sequence[str], layout: Layout) -> tuple[np.ndarray, _Cells]:
    """Places and cells of the lines below the header that are rows, all of one width."""
    separator, width, left = layout.separator, layout.num_cells, layout.left_out
    header, places, rows, blank = lines[layout.first_row - 1].strip(), [], [], []
    for place in range(layout.first_row, len(lines)):
        line = lines[place]
        lacking = width - _width(line, separator)
        if not line.strip():
            blank.append(place)
        elif lacking == 0 and line.strip() != header and not _is_comment(line):
            places.append(place)
            rows.append(line)
        elif _is_comment(line):
            left["comment_lines"].append(place)
        elif line.strip() == header:
            left["repeated_headers"].append(place)
        elif len(cells := _cells(line, separator)) * 2 < width or not any(map(_DATA.fullmatch, cells)):
            left["other_lines"].append(place)
        elif any(cell.strip() for cell in cells[width:]):
            raise DataError(f"row {place + 1} has {len(cells)} cells, others {width}; quote what holds {separator!r}")
        else:  # cells at its end were left out, or there are empty ones too many
            places.append(place)
            rows.append(line + separator * lacking if lacking > 0 else line[: line.rindex(separator)])
    left["empty_rows"] += [place for place in blank if places and place < places[-1]]
    return np.array(places, dtype=np.int64), _parse("\n".join(rows), layout, newlines_in_values=True)


def _parse(text: str, layout: Layout, newlines_in_values: bool) -> _Cells:
    """Cells of lines that are all of one width."""
    import pyarrow as pa
    import pyarrow.csv

    names = [str(number) for number in range(layout.num_cells)]
    if not text:
        return {number: pd.array([], "string[pyarrow]") for number in range(layout.num_cells)}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text.encode()),
        pyarrow.csv.ReadOptions(column_names=names, block_size=1 << 24),
        pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=newlines_in_values),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=["", " "]
        ),
    )
    return {number: pd.array(table.column(number), "string[pyarrow]") for number in range(layout.num_cells)}


def _without_nameless_columns(frame: pd.DataFrame, names: list[str], report: CleaningReport) -> pd.DataFrame:
    """Leave out columns without a name that hold nothing or count the rows; times in the first become its name."""
    kept = {}
    for place, cells in enumerate(frame.columns):
        cells, name = frame[cells], names[place] if place < len(names) else ""
        if name:
            kept[name] = cells
        elif cells.isna().all():
            report.add("empty_columns_without_a_name", 1, "left out")
        elif place >= len(names):
            raise DataError("its rows have more cells than its header has names")
        elif _counts(cells):
            report.add("row_numbers_without_a_name", 1, "left out")
        elif place == 0 and TIMESTAMP not in names and cells.str.fullmatch(_TIME.pattern).all():
            kept[TIMESTAMP] = cells
        else:
            raise DataError(f"column {place + 1} has no name; name it or delete it")
    return pd.DataFrame(kept, index=frame.index)


def _counts(cells: pd.Series) -> bool:
    """True for 0, 1, 2, … from any number on; a few rows below the table, such as its sum, need not."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    counted = numbers[: max(len(numbers) - MOST_FOOTERS, np.flatnonzero(~np.isnan(numbers)).max(initial=-1) + 1)]
    return len(counted) > 0 and bool((counted - counted[0] == np.arange(len(counted))).all())


def _cells(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return line.split(separator)
    return next(csv.reader(line.splitlines(keepends=True), delimiter=separator), [""])


def _width(line: str, separator: str) -> int:
    return len(_cells(line, separator)) if '"' in line else line.count(separator) + 1


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "%"))


def _is_blank(line: str, separator: str) -> bool:
    return not line.strip(separator + ' "\t')
