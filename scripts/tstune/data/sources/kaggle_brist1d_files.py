"""The competition's files: where they are, what their columns are called, and their rows one participant at a time."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from tstune.errors import DataError

NUMBERS = ("bg", "insulin", "carbs", "hr", "steps", "cals")
ACTIVITY = "activity"
CHANNELS = (*NUMBERS, ACTIVITY)
TARGET_COLUMN = "bg+1:00"
ID, PARTICIPANT, TIME = "id", "p_num", "time"

STEP_MINUTES = 5
NUM_LAGS = 72
"""Columns per channel: the instants from 5 h 55 min before a row's time to that time."""
STEPS_AHEAD = 12
"""From a row's time to its target."""
STEPS_PER_DAY = 288

LAGS = tuple(f"-{minutes // 60}:{minutes % 60:02d}" for minutes in range((NUM_LAGS - 1) * STEP_MINUTES, -1, -5))
ARCHIVE = "brist1d.zip"
HOW_TO_GET = (
    "accept the rules at kaggle.com/competitions/brist1d, then run "
    "`kaggle competitions download -c brist1d -p <folder>` (credentials: KAGGLE_USERNAME, KAGGLE_KEY in the "
    "environment)"
)

_BLOCK_BYTES = 8 << 20
_PER_ROW = ("ids", "clock", "values", "target")


@dataclass(frozen=True)
class Rows:
    """Rows of one participant, in the order of their ids.

    Attributes:
        participant: `p_num`.
        ids: [rows] text.
        clock: [rows] five-minute step of the day, 0 to 287.
        values: [channels, lags, rows] float64, oldest lag first, NaN where the cell is empty; an activity is an index
            into `activity_names`.
        target: [rows] float64, glucose one hour later; NaN in test.csv.
        activity_names: every activity met so far.
    """

    participant: str
    ids: np.ndarray
    clock: np.ndarray
    values: np.ndarray
    target: np.ndarray
    activity_names: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray | slice) -> Rows:
        """The same for some rows, in this order."""
        some = {name: getattr(self, name)[..., rows] for name in _PER_ROW}
        return replace(self, **some)


def find_csv(folder: Path, stem: str) -> Path | None:
    """File of a folder that holds `stem`.csv: plain, gzipped, zipped, or inside the competition's one archive."""
    for name in (f"{stem}.csv", f"{stem}.csv.gz", f"{stem}.csv.zip", f"{stem}.zip", ARCHIVE):
        path = folder / name
        if path.is_file() and (name != ARCHIVE or _member(path, stem) is not None):
            return path
    return None


@contextmanager
def open_csv(path: Path, stem: str) -> Iterator[IO[bytes]]:
    """Open a file of `find_csv` for reading, unpacked.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if path.suffix == ".zip":
            member = _member(path, stem)
            if member is None:
                raise DataError(f"{path} holds no {stem}.csv")
            with zipfile.ZipFile(path) as archive, _unpacked(archive, member, path) as stream:
                yield stream
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                yield stream
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def read_participants(path: Path, stem: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[Rows]:
    """Read the rows of train.csv or test.csv, some megabytes of text at a time, and hand them out by participant.

    Args:
        path: file of `find_csv`.
        stem: ``train`` or ``test``; only train.csv has targets.
        block_bytes: how much text is parsed at once.

    Raises:
        DataError: a column is missing or doubled, or a cell is not what its column holds.
    """
    header = read_header(path, stem)
    names = [ID, PARTICIPANT, TIME, *(f"{channel}{lag}" for channel in CHANNELS for lag in LAGS)]
    names += [TARGET_COLUMN] if stem == "train" else []
    _check_header(header, names, path)
    activities: dict[str, int] = {}
    pieces: dict[str, list[Rows]] = {}  # rows of test.csv are in no order, so all are read before the first is used
    num_rows = 0
    for batch in _batches(path, stem, header, names, block_bytes):
        for name, piece in _rows_of_batch(batch, stem, activities, num_rows, path):
            pieces.setdefault(name, []).append(piece)
        num_rows += batch.num_rows
    if not pieces:
        raise DataError(f"{path} has no rows")
    for name in sorted(pieces):
        yield _joined(pieces.pop(name), path)


def read_ids(path: Path, stem: str) -> list[str]:
    """Ids of a sample submission, in order.

    Raises:
        DataError: no such columns, no rows, or an id that is empty or doubled.
    """
    header = read_header(path, stem)
    _check_header(header, [ID, TARGET_COLUMN], path)
    with open_csv(path, stem) as stream:
        rows = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
        next(rows)
        place = header.index(ID)
        ids = [row[place] if place < len(row) else "" for row in rows if row]
    if not ids:
        raise DataError(f"{path} has no rows")
    seen: set[str] = set()
    for row, name in enumerate(ids):
        if not name or name in seen:
            raise DataError(f"{path}: row {row + 2}: {ID} {name!r} {'occurs twice' if name else 'is empty'}")
        seen.add(name)
    return ids


def read_header(path: Path, stem: str) -> list[str]:
    """Column names of the first line.

    Raises:
        DataError: the file is empty or not text.
    """
    with open_csv(path, stem) as stream:
        line = stream.readline()
    try:
        header = next(csv.reader(io.StringIO(line.decode("utf-8-sig"))), [])
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None
    if not header:
        raise DataError(f"{path} is empty")
    return [name.strip() for name in header]


def _check_header(header: list[str], needed: list[str], path: Path) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}")
    present = set(header)
    missing = [name for name in needed if name not in present]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r} ({len(missing)} of {len(needed)} are missing); the competition's "
            f"{path.name.partition('.')[0]}.csv has {', '.join(needed[:4])} … {needed[-1]}"
        )


def _batches(path: Path, stem: str, header: list[str], names: list[str], block_bytes: int) -> Iterator[pa.RecordBatch]:
    text = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(names, pa.float64())
    types |= dict.fromkeys([ID, PARTICIPANT, TIME], pa.string()) | {f"{ACTIVITY}{lag}": text for lag in LAGS}
    with open_csv(path, stem) as stream:
        try:
            yield from pa.csv.open_csv(
                stream,
                pa.csv.ReadOptions(block_size=block_bytes, column_names=header, skip_rows=1),
                pa.csv.ParseOptions(),
                pa.csv.ConvertOptions(column_types=types, include_columns=names, strings_can_be_null=True),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {_in_our_words(_short(error), header)}") from None


def _rows_of_batch(
    batch: pa.RecordBatch, stem: str, activities: dict[str, int], first_row: int, path: Path
) -> Iterator[tuple[str, Rows]]:
    """(participant, its rows) for each participant of a batch."""
    number = batch.num_rows
    participants, ids = (_texts(batch, name, first_row, path) for name in (PARTICIPANT, ID))
    _check_ids(ids, participants, first_row, path)
    clock = _clock(_texts(batch, TIME, first_row, path), first_row, path)
    values = np.empty((len(CHANNELS), NUM_LAGS, number))
    for lag, ending in enumerate(LAGS):
        for channel, name in enumerate(NUMBERS):
            values[channel, lag] = _numbers(batch, f"{name}{ending}", first_row, path)
        values[-1, lag] = _codes(batch.column(f"{ACTIVITY}{ending}"), activities)
    target = _numbers(batch, TARGET_COLUMN, first_row, path) if stem == "train" else np.full(number, np.nan)
    names, codes = np.unique(participants.astype(str), return_inverse=True)
    for code, name in enumerate(names.tolist()):
        mine = slice(None) if len(names) == 1 else np.flatnonzero(codes == code)
        yield name, Rows(name, ids, clock, values, target, list(activities)).take(mine)


def _numbers(batch: pa.RecordBatch, name: str, first_row: int, path: Path) -> np.ndarray:
    values = batch.column(name).to_numpy(zero_copy_only=False)
    endless = np.flatnonzero(np.isinf(values))
    if endless.size:
        raise DataError(f"{path}: row {first_row + endless[0] + 2}: {values[endless[0]]} in column {name!r}")
    return values


def _texts(batch: pa.RecordBatch, name: str, first_row: int, path: Path) -> np.ndarray:
    texts = batch.column(name)
    if texts.null_count:
        row = first_row + int(np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{path}: row {row + 2}: no value in column {name!r}")
    return texts.to_numpy(zero_copy_only=False)


def _codes(column: pa.DictionaryArray, activities: dict[str, int]) -> np.ndarray:
    """Codes that mean the same in every batch and column."""
    names = column.dictionary.to_pylist()
    ours = [np.nan if name is None else activities.setdefault(name, len(activities)) for name in names]
    return np.array([*ours, np.nan])[column.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _clock(times: np.ndarray, first_row: int, path: Path) -> np.ndarray:
    """[rows] five-minute step of the day."""
    steps = {text: _step_of_day(text) for text in set(times.tolist())}
    wrong = {text for text, step in steps.items() if step is None}
    if wrong:
        row = next(row for row, text in enumerate(times) if text in wrong)
        raise DataError(
            f"{path}: row {first_row + row + 2}: {times[row]!r} in column {TIME!r} is not HH:MM:SS "
            "in steps of 5 minutes"
        )
    return np.array([steps[text] for text in times], np.int64)


def _step_of_day(text: str) -> int | None:
    match = re.fullmatch(r"(\d\d?):(\d\d)(?::00)?", text)
    if match is None:
        return None
    hour, minute = map(int, match.groups())
    return hour * 12 + minute // 5 if hour < 24 and minute < 60 and minute % 5 == 0 else None


def _check_ids(ids: np.ndarray, participants: np.ndarray, first_row: int, path: Path) -> None:
    for row, (name, participant) in enumerate(zip(ids, participants, strict=True)):
        if not (name.startswith(f"{participant}_") and name[len(participant) + 1 :].isdigit()):
            raise DataError(
                f"{path}: row {first_row + row + 2}: {ID} {name!r} is not the {PARTICIPANT} and a number, "
                f"as in '{participant}_0'"
            )


def _joined(pieces: list[Rows], path: Path) -> Rows:
    """All rows of a participant in the order of their numbers, which is the order of time in train.csv."""
    rows = replace(
        pieces[-1], **{name: np.concatenate([getattr(piece, name) for piece in pieces], axis=-1) for name in _PER_ROW}
    )
    numbers = np.array([int(name.rpartition("_")[2]) for name in rows.ids])
    order = np.argsort(numbers, kind="stable")
    twice = np.flatnonzero(np.diff(numbers[order]) == 0)
    if twice.size:
        raise DataError(f"{path}: {ID} {rows.ids[order[twice[0]]]!r} occurs twice")
    return rows if (np.diff(order) == 1).all() else rows.take(order)


def _member(path: Path, stem: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return next((name for name in archive.namelist() if Path(name).name == f"{stem}.csv"), None)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def _unpacked(archive: zipfile.ZipFile, member: str, path: Path) -> IO[bytes]:
    try:
        return archive.open(member)
    except (RuntimeError, NotImplementedError) as error:  # a password, or an unknown kind of compression
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def _in_our_words(message: str, header: list[str]) -> str:
    """Arrow counts columns; people know their names."""
    match = re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?(.*)", message)
    if match is None or int(match[1]) >= len(header):
        return message
    row, column = f"row {match[2]}: " if match[2] else "", header[int(match[1])]
    value = re.fullmatch(r"CSV conversion error to double: invalid value ('.*')", match[3])
    return f"{row}{value[1]} in column {column!r} is not a number" if value else f"{row}column {column!r}: {match[3]}"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:240]}…"
