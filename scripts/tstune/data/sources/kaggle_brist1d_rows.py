"""The competition's wide rows: where its files are, what they hold, and the series per participant that they prove."""

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
from tstune.foreign_files import damage

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

SEGMENT_GAP = STEPS_PER_DAY
"""Steps without a reading that are left, at least, between two segments of one participant."""

_TOLERANCE = 0.05
"""Cells that may differ in an overlap, as a share of those that agree: the file has a few conflicts of its own."""
_JUMP_READINGS, _JUMP_RANGE = 8, 0.5
"""A clock that was set is believed from this many equal readings that span this much glucose (mmol/L)."""
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class Rows:
    """Rows of one participant, in the order of their ids."""

    participant: str
    ids: np.ndarray  # [rows] text
    clock: np.ndarray  # [rows] five-minute step of the day, 0 to 287
    # [channels, lags, rows] float64, oldest lag first, NaN where the cell is empty; an activity is an index into
    # `activity_names`
    values: np.ndarray
    target: np.ndarray  # [rows] float64, glucose one hour later; NaN in test.csv
    activity_names: list[str]  # every activity met so far

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
    """Open a file of `find_csv` for reading, unpacked."""
    try:
        if path.suffix == ".zip":
            member = _member(path, stem)
            if member is None:
                raise DataError(f"{path} holds no {stem}.csv")
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                yield stream
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:  # the last of a password
        raise DataError(f"{path} cannot be read: {_short(error)}") from None


def read_participants(path: Path, stem: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[Rows]:
    """Read the rows of train.csv or test.csv, so many bytes of text at a time, and hand them out by participant."""
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
    """Ids of a sample submission, in order."""
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
    """Column names of the first line."""
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
    if missing := [name for name in needed if name not in present]:
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
    if wrong := {text for text, step in steps.items() if step is None}:
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
    with damage(path, DataError, "cannot be read"), zipfile.ZipFile(path) as archive:
        return next((name for name in archive.namelist() if Path(name).name == f"{stem}.csv"), None)


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


@dataclass(frozen=True)
class RebuiltSeries:
    """What was known of one participant, one entry per five-minute instant that any row speaks of."""

    participant: str
    # [instants] five-minute steps on a calendar that is made up: the time of day is real, the day is not
    step: np.ndarray
    segment: np.ndarray
    first_id: list[str]  # id of the first row of each segment
    # [channels, instants] float64, NaN where there is no value; an activity is an index into `activity_names`
    values: np.ndarray
    # [instants] the instant lies in the six hours of a row, so an empty cell was really seen to be empty
    in_lags: np.ndarray
    activity_names: list[str]
    conflicts: dict[str, int]  # channel -> instants for which rows gave different values; the earliest row counts
    partly_empty: dict[str, int]  # channel -> instants that are empty in one row and not in another; the value counts
    num_rows: int
    clock_jumps: int  # pairs of rows whose clock was set in between (travel, daylight saving)
    sampling_minutes: int | None  # most common time between two glucose readings; None with fewer than two


def rebuild(rows: Rows, isolated: bool) -> RebuiltSeries:
    """Put all lags and targets of a participant's rows on a time axis; `isolated` rows are a segment each."""
    alone = np.arange(len(rows)), np.zeros(len(rows), np.int64), 0
    segment, position, clock_jumps = alone if isolated else place_rows(rows)
    step = _calendar(rows.clock, segment, position)
    first = int(step[0]) - NUM_LAGS + 1
    return _scatter(rows, segment, step - first, first, clock_jumps)


def place_rows(rows: Rows) -> tuple[np.ndarray, np.ndarray, int]:
    """Follow the rows through time by what they have in common.

    The clock says how far the next row is ahead, up to whole days. Less than six hours ahead, the next row repeats
    the lags of this one, shifted: if it does not, at least a day lies between them, nobody knows how many, and a new
    segment begins. So it does from six hours on, where the rows have nothing in common.

    Returns:
        [rows] number of the row's segment, [rows] five-minute steps from its first row, clocks that were set.
    """
    ahead = np.diff(rows.clock) % STEPS_PER_DAY
    agrees = np.zeros(len(ahead), bool)
    proven = np.zeros(len(ahead), bool)  # by glucose, not only by other channels or by both being empty
    for step in np.unique(ahead[ahead < NUM_LAGS]):
        pairs = np.flatnonzero(ahead == step)
        same, differ = _compare(rows, pairs, int(step))
        agrees[pairs] = _believed(same, differ)
        proven[pairs] = same[0] > 0
        if step == 0:  # the same moment twice, or a day later
            twin = (same[0] > 0) & (rows.target[pairs] == rows.target[pairs + 1])
            agrees[pairs] &= twin
    clock_jumps = _follow_set_clocks(rows, ahead, agrees, proven)
    _cut_unproven(rows, ahead, agrees, proven)
    segment = np.concatenate([[0], np.cumsum(~agrees)])
    travelled = np.concatenate([[0], np.cumsum(np.where(agrees, ahead, 0))])
    begins = np.flatnonzero(np.diff(segment, prepend=-1))
    return segment, travelled - travelled[begins][segment], clock_jumps


def _believed(same: np.ndarray, differ: np.ndarray) -> np.ndarray:
    """[pairs] glucose alone, and all channels together, agree but for a few cells."""
    few = differ[0] <= _TOLERANCE * same[0]
    return few & (differ.sum(axis=0) <= _TOLERANCE * same.sum(axis=0))


def _compare(rows: Rows, pairs: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells that two neighbouring rows have in common if the second is `step` steps later.

    Returns:
        ([numbers, pairs], [numbers, pairs]) cells that hold the same value, cells that do not (one may be empty).
    """
    same = np.zeros((len(NUMBERS), len(pairs)), np.int64)
    differ = np.zeros_like(same)
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        block = slice(begin, begin + _PAIRS_AT_ONCE)
        left, right = pairs[block], pairs[block] + 1
        for channel, values in enumerate(rows.values[: len(NUMBERS)]):
            earlier, later = values[step:, left], values[: NUM_LAGS - step, right]
            equal = earlier == later
            same[channel, block] = equal.sum(axis=0)
            differ[channel, block] = (~equal & ~(np.isnan(earlier) & np.isnan(later))).sum(axis=0)
        if step >= STEPS_AHEAD:  # the target of the earlier row is a lag of the later one
            lag = NUM_LAGS - 1 - step + STEPS_AHEAD
            target, later = rows.target[left], rows.values[0, lag, right]
            same[0, block] += target == later
            differ[0, block] += (target != later) & ~np.isnan(target)
    return same, differ


def _follow_set_clocks(rows: Rows, ahead: np.ndarray, agrees: np.ndarray, proven: np.ndarray) -> int:
    """Where a clock was set between two rows their lags still agree, at another shift: take that one."""
    open_pairs = np.flatnonzero(~agrees)
    if not open_pairs.size:
        return 0
    found = np.zeros(len(open_pairs), np.int64)
    shift = np.zeros(len(open_pairs), np.int64)
    for step in range(1, NUM_LAGS):
        same, differ = _compare(rows, open_pairs, step)
        glucose = rows.values[0, step:, open_pairs]  # [pairs, lags]
        lowest = np.where(np.isnan(glucose), np.inf, glucose).min(axis=1)
        highest = np.where(np.isnan(glucose), -np.inf, glucose).max(axis=1)
        certain = (same[0] >= _JUMP_READINGS) & (differ[0] == 0) & _believed(same, differ)
        certain &= highest - lowest >= _JUMP_RANGE
        found += certain
        shift[certain] = step
    jumped = open_pairs[found == 1]
    ahead[jumped], agrees[jumped], proven[jumped] = shift[found == 1], True, True
    return len(jumped)


def _cut_unproven(rows: Rows, ahead: np.ndarray, agrees: np.ndarray, proven: np.ndarray) -> None:
    """After an outage the lags of two rows may both be empty: then a target, which is never empty, has to agree.

    The target of the earlier row is a lag of every row that comes an hour to seven hours later.
    """
    segment = np.concatenate([[0], np.cumsum(~agrees)])
    travelled = np.concatenate([[0], np.cumsum(np.where(agrees, ahead, 0))])
    for pair in np.flatnonzero(agrees & ~proven):
        due = travelled[pair] + STEPS_AHEAD
        stop = int(np.searchsorted(segment, segment[pair], side="right"))
        later = pair + 1 + int(np.searchsorted(travelled[pair + 1 : stop], due))
        if later < stop and travelled[later] - due < NUM_LAGS:
            agrees[pair] = rows.values[0, NUM_LAGS - 1 - (travelled[later] - due), later] == rows.target[pair]
        else:  # no witness left but the other channels
            same, _ = _compare(rows, np.array([pair]), int(ahead[pair]))
            agrees[pair] = same.sum() > 0


def _calendar(clock: np.ndarray, segment: np.ndarray, position: np.ndarray) -> np.ndarray:
    """[rows] steps on the made-up calendar: within a segment true, between segments at least `SEGMENT_GAP` apart.

    The first row of a segment keeps its time of day.
    """
    begins = np.flatnonzero(np.diff(segment, prepend=-1))
    ends = np.append(begins[1:], len(clock)) - 1
    origin = np.empty(len(begins), np.int64)
    earliest = NUM_LAGS - 1
    for number, (first, last) in enumerate(zip(begins, ends, strict=True)):
        origin[number] = earliest + (clock[first] - earliest) % STEPS_PER_DAY
        earliest = origin[number] + position[last] + STEPS_AHEAD + SEGMENT_GAP + NUM_LAGS
    return origin[segment] + position


def _scatter(rows: Rows, segment_of: np.ndarray, place: np.ndarray, first: int, clock_jumps: int) -> RebuiltSeries:
    """Write every cell to its instant, [rows] `place` on an axis from step `first` on; the earliest row counts."""
    length = int(place[-1]) + STEPS_AHEAD + 1
    values = np.full((len(CHANNELS), length), np.nan)
    in_lags = np.zeros(length, bool)
    segment = np.zeros(length, np.int64)
    segment[place + STEPS_AHEAD] = segment_of
    values[0, place + STEPS_AHEAD] = rows.target  # an hour before any lag speaks of that instant
    for lag in range(NUM_LAGS - 1, -1, -1):  # the newest lag is in the earliest row
        at = place - (NUM_LAGS - 1 - lag)
        in_lags[at] = True
        segment[at] = segment_of
        for channel in range(len(CHANNELS)):
            kept = values[channel, at]
            values[channel, at] = np.where(np.isnan(kept), rows.values[channel, lag], kept)
    conflicts, partly_empty = _disagreements(rows, place, values)
    known = np.flatnonzero(in_lags | ~np.isnan(values[0]))
    begins = np.flatnonzero(np.diff(segment_of, prepend=-1))
    return RebuiltSeries(
        participant=rows.participant,
        step=known + first,
        segment=segment[known],
        first_id=rows.ids[begins].tolist(),
        values=values[:, known],
        in_lags=in_lags[known],
        activity_names=rows.activity_names,
        conflicts=conflicts,
        partly_empty=partly_empty,
        num_rows=len(rows),
        clock_jumps=clock_jumps,
        sampling_minutes=_sampling(values[0]),
    )


def _disagreements(rows: Rows, place: np.ndarray, values: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """Instants per channel at which any row holds another value than what was kept, or none."""
    wrong, empty = (np.zeros(values.shape, bool) for _ in range(2))
    at = place + STEPS_AHEAD
    wrong[0, at[(rows.target != values[0, at]) & ~np.isnan(rows.target)]] = True
    for lag in range(NUM_LAGS):
        at = place - (NUM_LAGS - 1 - lag)
        for channel in range(len(CHANNELS)):
            cell = rows.values[channel, lag]
            missing = np.isnan(cell)
            wrong[channel, at[(cell != values[channel, at]) & ~missing]] = True
            empty[channel, at[missing]] = True
    counts = (marks.sum(axis=1).tolist() for marks in (wrong, empty & ~np.isnan(values)))
    return tuple(dict(zip(CHANNELS, count, strict=True)) for count in counts)


def _sampling(glucose: np.ndarray) -> int | None:
    apart = np.diff(np.flatnonzero(~np.isnan(glucose)))
    return int(np.bincount(apart[apart < STEPS_PER_DAY]).argmax()) * STEP_MINUTES if apart.size else None
