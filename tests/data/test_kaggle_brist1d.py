"""The Kaggle competition's wide rows become the series they were cut from, and nothing else."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import kaggle_files
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from kaggle_files import DAY, LAGS, NUMBERS, Person, Truth

import prepare_brist1d
from tstune.config.schema import DataSection
from tstune.data.preprocess import build_panel
from tstune.data.sources import load_source
from tstune.data.sources.kaggle_brist1d import convert_folder, read_prepared, report_of
from tstune.data.sources.kaggle_brist1d_rows import (
    RebuiltSeries,
    Rows,
    find_csv,
    place_rows,
    read_participants,
    rebuild,
)
from tstune.data.table import ITEM, TIMESTAMP, Roles
from tstune.errors import ConfigError, DataError, TstuneError
from tstune.runtime.logs import logger

NOTHING = dict.fromkeys(kaggle_files.CHANNELS, 0)


def rows_of(truth: Truth, clock: np.ndarray | None = None) -> Rows:
    """What the reader makes of a person's rows, without a file in between."""
    windows = truth.rows[None, :] + np.arange(1 - len(LAGS), 1)[:, None]
    names = sorted({name for name in truth.activity if name is not None})
    codes = np.array([np.nan if name is None else names.index(name) for name in truth.activity])
    return Rows(
        participant=truth.person.name,
        ids=np.array([f"{truth.person.name}_{k}" for k in range(len(truth.rows))], object),
        clock=truth.clock[truth.rows] if clock is None else clock,
        values=np.concatenate([truth.values, codes[None]])[:, windows],
        target=truth.values[0, truth.rows + kaggle_files.AHEAD],
        activity_names=names,
    )


def made(person: Person) -> Truth:
    return kaggle_files.training_rows(kaggle_files.simulate(person))


def assert_is(series: RebuiltSeries, truth: Truth, offset: int, segment: int | None = None) -> None:
    """Every instant is what was simulated at `offset` steps earlier than its calendar step."""
    mine = np.ones(len(series.step), bool) if segment is None else series.segment == segment
    at = series.step[mine] - offset
    np.testing.assert_array_equal(series.values[0, mine], truth.values[0, at])
    lags = series.in_lags[mine]
    np.testing.assert_array_equal(series.values[:-1, mine][:, lags], truth.values[:, at[lags]])
    names = [None if np.isnan(code) else series.activity_names[int(code)] for code in series.values[-1, mine][lags]]
    assert names == truth.activity[at[lags]].tolist()


def offset_of(series: RebuiltSeries, truth: Truth, segment: int, row: int) -> int:
    """Calendar step minus true step, if the segment's first lag belongs to this row."""
    return int(series.step[series.segment == segment][0]) - (int(truth.rows[row]) - len(LAGS) + 1)


# Wide to long


@pytest.mark.parametrize("sampling", [1, 3])
@pytest.mark.parametrize("clock", [0, 200])
def test_rows_become_the_series_they_were_cut_from(sampling: int, clock: int):
    truth = made(Person("p01", 1500, sampling, clock, seed=3, outages=((400, 20), (700, 7)), off=((900, 30),)))
    series = rebuild(rows_of(truth), isolated=False)
    assert (series.conflicts, series.partly_empty) == (NOTHING, NOTHING)
    assert series.first_id == ["p01_0"]
    assert series.sampling_minutes == 5 * sampling
    offset = offset_of(series, truth, 0, 0)
    assert (offset - clock) % DAY == 0, "the time of day is the true one"
    assert_is(series, truth, offset)
    covered = np.unique(truth.rows[:, None] + np.arange(1 - len(LAGS), 1))
    assert series.in_lags.sum() == len(covered), "every lag of every row is there"
    readings = np.union1d(covered, truth.rows + kaggle_files.AHEAD)
    assert (~np.isnan(series.values[0])).sum() == (~np.isnan(truth.values[0, readings])).sum()


def test_the_hours_before_the_first_row_and_the_hour_after_the_last_are_kept():
    truth = made(Person("p01", 300, seed=1))
    series = rebuild(rows_of(truth), isolated=False)
    assert len(series.step) == 300 - 1
    np.testing.assert_array_equal(series.values[0], truth.values[0, 1:])


@pytest.mark.parametrize("length", [60, 80, 150, 200, 287])
def test_an_outage_that_hides_no_day_is_bridged_or_left_open(length: int):
    """With other channels to follow, or without: what is linked is right; what cannot be known is not linked."""
    for only_glucose in (False, True):
        truth = made(Person("p02", 1400, 1, 50, 5, outages=((500, length),), only_glucose=only_glucose))
        series = rebuild(rows_of(truth), isolated=False)
        ahead = np.diff(truth.rows).max()
        assert len(series.first_id) == (1 if ahead < len(LAGS) else 2)
        begins = [int(name.rpartition("_")[2]) for name in series.first_id]
        for segment, row in enumerate(begins):
            assert_is(series, truth, offset_of(series, truth, segment, row), segment)
        assert series.conflicts == NOTHING


@pytest.mark.parametrize("more", [0, 1, 30, 71])
@pytest.mark.parametrize("days", [1, 2, 10])
@pytest.mark.parametrize("only_glucose", [False, True])
def test_skipped_days_begin_a_new_segment(days: int, more: int, only_glucose: bool):
    """The next row's clock is 0 to 6 h ahead, but a day or more lies between: the lags say so."""
    length = days * DAY + more
    options = {"off": ((600, length),)} if not only_glucose else {"outages": ((600, length),)}
    truth = made(Person("p03", 600 + length + 500, 1, 9, days, only_glucose=only_glucose, **options))
    gap = int(np.diff(truth.rows).argmax())
    assert np.diff(truth.rows)[gap] == length + 1
    series = rebuild(rows_of(truth), isolated=False)
    assert series.first_id == ["p03_0", f"p03_{gap + 1}"]
    segment_of, position, _ = place_rows(rows_of(truth))
    for segment, row in enumerate((0, gap + 1)):
        offset = offset_of(series, truth, segment, row)
        assert (offset - 9) % DAY == 0
        assert_is(series, truth, offset, segment)
        mine = truth.rows[segment_of == segment]
        np.testing.assert_array_equal(position[segment_of == segment], mine - mine[0])
    apart = np.diff(series.step)
    assert apart.max() > DAY, "no gap that may be filled is as long as an unknown one"
    assert (series.conflicts, series.partly_empty) == (NOTHING, NOTHING)


def test_two_outages_that_leave_empty_rows_between_them_are_not_joined():
    """Rows right after an outage have empty lags; a target that does not come true shows that a day is missing."""
    truth = made(Person("p04", 2000, 1, 0, 8, outages=((500, 120), (625, DAY + 120)), only_glucose=True))
    rows = rows_of(truth)
    first = int(np.flatnonzero(truth.rows == 608)[0])  # five rows with targets 620 … 624 and nothing behind them
    assert np.isnan(rows.values[0, :, first : first + 5]).all()
    assert (np.diff(truth.rows)[first : first + 5] == [1, 1, 1, 1, DAY + 121]).all()
    series = rebuild(rows, isolated=False)
    begins = [int(name.rpartition("_")[2]) for name in series.first_id]
    assert first + 5 in begins
    for segment, row in enumerate(begins):
        assert_is(series, truth, offset_of(series, truth, segment, row), segment)


@pytest.mark.parametrize("hours", [-1, 1, 5, -8])
def test_a_clock_that_is_set_breaks_nothing(hours: int):
    truth = made(Person("p05", 900, 1, 30, 4))
    clock = truth.clock[truth.rows]
    clock[400:] = (clock[400:] + 12 * hours) % DAY
    series = rebuild(rows_of(truth, clock), isolated=False)
    assert (series.clock_jumps, len(series.first_id)) == (1, 1)
    assert_is(series, truth, offset_of(series, truth, 0, 0))


def test_conflicts_are_counted_and_the_earliest_row_counts():
    truth = made(Person("p06", 500, seed=2))
    rows = rows_of(truth)
    rows.values[5, 10, 200] += 1  # one cell of one row
    rows.values[0, 40, 150:152] += 0.1  # two instants
    rows.values[1, 3, 100] = np.nan
    series = rebuild(rows, isolated=False)
    assert series.conflicts == NOTHING | {"cals": int(~np.isnan(rows.values[5, 10, 200])), "bg": 2}
    assert series.partly_empty == NOTHING | {"insulin": 1}
    assert len(series.first_id) == 1
    assert_is(series, truth, offset_of(series, truth, 0, 0))
    rows.target[20] += 1  # the first to speak of an instant that 72 lags see otherwise
    assert rebuild(rows, isolated=False).conflicts["bg"] == 3
    truth.rows = np.insert(truth.rows, 100, truth.rows[100])  # a row that occurs twice changes nothing
    series = rebuild(rows_of(truth), isolated=False)
    assert (series.conflicts, len(series.first_id), series.num_rows) == (NOTHING, 1, len(truth.rows))


def test_rows_of_test_csv_are_segments_of_their_own():
    truth = made(Person("p07", 800, seed=6))
    truth.rows = truth.rows[[300, 10, 11, 400]]
    rows = replace(rows_of(truth), target=np.full(4, np.nan))
    series = rebuild(rows, isolated=True)
    assert series.first_id == ["p07_0", "p07_1", "p07_2", "p07_3"]
    assert np.bincount(series.segment).tolist() == [72] * 4
    for segment, row in enumerate(truth.rows):
        mine = series.segment == segment
        np.testing.assert_array_equal(series.values[:-1, mine], truth.values[:, row - 71 : row + 1])
        assert series.step[mine][-1] % DAY == row % DAY
    assert (np.diff(series.step)[71::72] > DAY).all()


# Files

PEOPLE = (
    Person("p01", 800, 3, 70, seed=11, outages=((300, 18),)),
    Person("p02", 1100, 1, 0, seed=12, off=((500, DAY + 40),)),
    Person("p04", 500, 1, 250, seed=13, only_glucose=True),
)
UNSEEN = (Person("p15", 0, 1, 40, seed=14), Person("p16", 0, 3, 40, seed=15))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("files") / "kaggle_brisT1D"
    kaggle_files.write_folder(place, PEOPLE, UNSEEN)
    return place


@pytest.fixture(scope="module")
def truths(folder: Path) -> list[Truth]:
    return [made(person) for person in PEOPLE]


@pytest.fixture(scope="module")
def converted(folder: Path) -> pa.Table:
    return convert_folder(folder)


def test_the_fixture_has_the_competitions_layout(folder: Path):
    train, test = (pd.read_csv(folder / name, low_memory=False) for name in ("train.csv", "test.csv"))
    assert (train.shape[1], test.shape[1]) == (508, 507)
    assert list(train.columns[[0, 1, 2, 3, 74, 75, 506, 507]]) == [
        *("id", "p_num", "time", "bg-5:55", "bg-0:00", "insulin-5:55", "activity-0:00", "bg+1:00")
    ]
    assert test["p_num"].nunique() == 5
    assert list(pd.read_csv(folder / "sample_submission.csv")["id"]) == list(test["id"])
    assert not test["p_num"].is_monotonic_increasing


def test_a_folder_becomes_one_long_table(converted: pa.Table, truths: list[Truth]):
    frame = converted.to_pandas()
    report = report_of(converted)
    assert report["conflicts"] == report["partly_empty"] == NOTHING
    assert report["segments"] == {"train": 4, "test": 30}
    assert report["unseen_participants"] == ["p15", "p16"]
    assert report["rows"]["train"] == sum(len(truth.rows) for truth in truths)
    assert [counts["sampling_minutes"] for counts in report["participants"][:3]] == [15, 5, 5]
    assert report["instants"]["train"] == (frame["file"] == "train").sum()
    for truth in truths:
        mine = frame[(frame["item_id"] == truth.person.name) & (frame["file"] == "train")]
        for _, segment in mine.groupby("segment"):
            row = int(segment["first_row"].iloc[0].rpartition("_")[2])
            steps = (segment[TIMESTAMP] - segment[TIMESTAMP].iloc[0]).dt.total_seconds().to_numpy() / 300
            at = truth.rows[row] - 71 + steps.astype(int)
            lags = segment["in_lags"].to_numpy()
            np.testing.assert_array_equal(segment["bg"].to_numpy(), truth.values[0, at])
            rebuilt = segment[list(NUMBERS)].to_numpy().T[:, lags]
            np.testing.assert_array_equal(rebuilt, truth.values[:, at[lags]])
            activity = segment["activity"].astype(object).where(segment["activity"].notna(), None)
            assert activity[lags].tolist() == truth.activity[at[lags]].tolist()
            assert ((segment[TIMESTAMP].dt.hour * 12 + segment[TIMESTAMP].dt.minute // 5) == truth.clock[at]).all()


@pytest.mark.parametrize("packing", ["gz", "csv.zip", "zip", "brist1d.zip"])
def test_packed_files_are_the_same(packing: str, folder: Path, converted: pa.Table, tmp_path: Path):
    for name in ("train.csv", "test.csv"):
        content = (folder / name).read_bytes()
        if packing == "gz":
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            continue
        target = {"csv.zip": f"{name}.zip", "zip": name.replace("csv", "zip"), "brist1d.zip": "brist1d.zip"}[packing]
        with zipfile.ZipFile(tmp_path / target, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"inner/{name}", content)
    assert convert_folder(tmp_path).equals(converted)


@pytest.mark.parametrize("block_bytes", [20_000, 100_000])
def test_how_much_is_read_at_once_does_not_matter(block_bytes: int, folder: Path):
    whole = list(read_participants(folder / "train.csv", "train"))
    pieces = list(read_participants(folder / "train.csv", "train", block_bytes))
    assert [len(rows) for rows in pieces] == [len(rows) for rows in whole]
    for ours, theirs in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(ours.values[:-1], theirs.values[:-1])
        np.testing.assert_array_equal(ours.target, theirs.target)
        codes = [np.nan_to_num(rows.values[-1], nan=-1).astype(int) for rows in (ours, theirs)]
        names = [np.append(rows.activity_names, None)[code] for rows, code in zip((ours, theirs), codes, strict=True)]
        np.testing.assert_array_equal(*names)


def lines(folder: Path, name: str = "train.csv") -> list[str]:
    return (folder / name).read_text(encoding="utf-8").splitlines()


def changed(folder: Path, place: Path, text: str | bytes, name: str = "train.csv") -> Path:
    """A copy of test.csv and sample_submission.csv beside a changed train.csv."""
    place.mkdir(exist_ok=True)
    for other in ("test.csv", "sample_submission.csv"):
        shutil.copy(folder / other, place)
    (place / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return place


def test_order_of_rows_and_columns_a_bom_and_crlf_do_not_matter(folder: Path, converted: pa.Table, tmp_path: Path):
    header, *rows = lines(folder)
    order = np.random.default_rng(0).permutation(len(rows))
    columns = np.random.default_rng(1).permutation(508)
    table = [header.split(","), *(rows[row].split(",") for row in order)]
    text = "\r\n".join(",".join(row[column] for column in columns) for row in table)
    other = convert_folder(changed(folder, tmp_path / "mixed", "\ufeff" + text + "\r\n"))
    for name in ("item_id", "segment", TIMESTAMP, *NUMBERS, "in_lags"):
        assert other[name].to_pylist() == converted[name].to_pylist(), name


def cell(folder: Path, row: int, column: str, value: str) -> str:
    table = [line.split(",") for line in lines(folder)]
    table[row - 1][table[0].index(column)] = value  # row 1 is the header
    return "\n".join(map(",".join, table)) + "\n"


def without(folder: Path, column: str) -> str:
    table = [line.split(",") for line in lines(folder)]
    place = table[0].index(column)
    return "\n".join(",".join(row[:place] + row[place + 1 :]) for row in table) + "\n"


WRONG = {
    "empty": (lambda f: "", "train.csv is empty"),
    "header only": (lambda f: lines(f)[0] + "\n", "train.csv has no rows"),
    "a column is missing": (lambda f: without(f, "hr-3:20"), "no column 'hr-3:20' (1 of 508 are missing)"),
    "no target": (lambda f: without(f, "bg+1:00"), "no column 'bg+1:00'"),
    "another file": (lambda f: "timestamp,bg\n2024-01-01,5\n", "no column 'id' (508 of 508 are missing)"),
    "two alike": (lambda f: lines(f)[0].replace("hr-3:20", "hr-3:15") + "\n", "two columns are called 'hr-3:15'"),
    "text in a number": (
        lambda f: cell(f, 5, "cals-0:05", "much"),
        "row 5: 'much' in column 'cals-0:05' is not a number",
    ),
    "a decimal comma": (lambda f: cell(f, 5, "bg-0:05", '"5,6"'), "row 5: '5,6' in column 'bg-0:05'"),
    "infinity": (lambda f: cell(f, 5, "bg-0:05", "inf"), "row 5: inf in column 'bg-0:05'"),
    "a date": (lambda f: cell(f, 7, "time", "2023-06-01 05:00"), "row 7: '2023-06-01 05:00' in column 'time' is not"),
    "off the grid": (lambda f: cell(f, 7, "time", "05:01:00"), "row 7: '05:01:00' in column 'time' is not HH:MM:SS"),
    "no such hour": (lambda f: cell(f, 7, "time", "24:00:00"), "row 7: '24:00:00'"),
    "no time": (lambda f: cell(f, 7, "time", ""), "row 7: no value in column 'time'"),
    "a foreign id": (lambda f: cell(f, 7, "id", "p09_5"), "row 7: id 'p09_5' is not the p_num and a number"),
    "an id twice": (lambda f: cell(f, 7, "id", "p01_0"), "id 'p01_0' occurs twice"),
    "a short row": (lambda f: "\n".join([*lines(f)[:3], lines(f)[3][:-40]]) + "\n", "Expected 508 columns"),
    "no text": (lambda f: b"\xff\xfe\x00" * 50, "train.csv is not UTF-8 text"),
    "bad letters": (lambda f: cell(f, 9, "activity-0:00", "Ru\0").encode().replace(b"\0", b"\xff"), "'activity-0:00'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_the_competitions(name: str, folder: Path, tmp_path: Path):
    text, complaint = WRONG[name]
    with pytest.raises(DataError) as caught:
        convert_folder(changed(folder, tmp_path / "bad", text(folder)))
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'bad' / 'train.csv'}")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "content"), [("train.csv.gz", b"\x1f\x8bnot"), ("train.zip", b"PK not"), ("cut", b"")]
)
def test_a_damaged_archive(name: str, content: bytes, folder: Path, tmp_path: Path):
    if name == "cut":
        name, content = "train.csv.gz", gzip.compress((folder / "train.csv").read_bytes(), 1)[:-5000]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} cannot be read: "):
        convert_folder(tmp_path)


def test_a_folder_without_the_files_says_where_they_are(tmp_path: Path):
    assert find_csv(tmp_path, "train") is None
    with pytest.raises(DataError) as caught:
        convert_folder(tmp_path)
    assert f"{tmp_path} holds no train.csv" in str(caught.value)
    assert "kaggle competitions download -c brist1d" in str(caught.value)


# prepare_brist1d.py


def prepare(folder: Path, output: Path, *more: str) -> int:
    return prepare_brist1d.main(["--input", str(folder), "--output", str(output), *more])


def test_parquet_and_counts_are_written_once(folder: Path, converted: pa.Table, tmp_path: Path, capsys):
    output = tmp_path / "brist1d.parquet"
    assert prepare(folder, output) == 0
    printed = capsys.readouterr().out
    assert f"train.csv: {report_of(converted)['rows']['train']:,} rows of 3 participants" in printed
    assert "instants with rows that disagree: none" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["brist1d.json", "brist1d.parquet"]
    assert json.loads((tmp_path / "brist1d.json").read_text()) == report_of(converted)
    for file in ("train", "test"):
        expected = converted.filter(pa.compute.equal(converted["file"].cast(pa.string()), file))
        read = read_prepared(output, file)
        assert read.num_rows == report_of(converted)["instants"][file]
        assert read.to_pylist() == expected.to_pylist()
    before = output.read_bytes()
    assert prepare(folder, output) == 2
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert prepare(folder, output, "--overwrite") == 0
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("where", "output", "complaint"),
    [
        ("nowhere", "a.parquet", "is not a folder; accept the rules at kaggle.com"),
        (".", "a.parquet", "holds no train.csv"),
        (".", "a.csv", "unknown kind of file; use .parquet"),
        (".", "none/a.parquet", "does not exist"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(where: str, output: str, complaint: str, tmp_path: Path, capsys):
    assert prepare(tmp_path / where, tmp_path / output) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error: ")] == [errors[-1]]
    assert complaint in errors[-1]
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_is_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    assert prepare(folder, tmp_path / "a.parquet") == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The source


def section(path: Path | None, **values: object) -> DataSection:
    return DataSection(source="kaggle_brisT1D", path=None if path is None else str(path), **values)


def test_the_source_gives_glucose_of_the_training_people(folder: Path, converted: pa.Table):
    table = load_source(section(folder))
    frame = converted.to_pandas()
    frame = frame[(frame["file"] == "train") & frame["bg"].notna()]
    assert table.roles == Roles(target=("bg",))
    assert (table.frequency, table.max_gap, table.unit) == ("5min", "45min", "mmol/L")
    assert table.files == (str(folder / "train.csv"),)
    assert "no redistribution" in table.licence
    assert list(table.frame[ITEM].unique()) == ["p01", "p02", "p04"]
    assert table.frame["bg"].tolist() == frame["bg"].tolist()
    assert [person["conflicts"] for person in table.notes["people"]] == [NOTHING] * 3
    json.dumps(table.notes)


def test_missing_means_what_it_should(folder: Path, truths: list[Truth]):
    channels = list(NUMBERS[1:])
    table = load_source(section(folder, conditional_columns=channels))
    assert table.roles == Roles(target=("bg",), conditional=tuple(channels))
    frame, truth = table.frame, truths[1]
    mine = frame[(frame[ITEM] == "p02")]
    at = np.unique(truth.rows[:, None] + np.arange(1 - len(LAGS), 1))
    entered = ~np.isnan(truth.values[2, at])
    assert (mine["carbs"] > 0).sum() == entered.sum() > 5
    assert (mine["carbs"] == 0).sum() == len(at) - entered.sum(), "no entry is 0 g"
    for number, channel in ((1, "insulin"), (3, "hr"), (4, "steps"), (5, "cals")):
        assert mine[channel].notna().sum() == (~np.isnan(truth.values[number, at])).sum(), "unknown stays unknown"
    assert frame.loc[frame[ITEM] == "p04", "carbs"].isna().all(), "who writes down no meal is not fasting"
    assert table.fill == dict.fromkeys(["insulin", "carbs", "steps", "cals"], "none"), "heart rate is a level"


def test_a_declared_activity_is_one_and_none_is_zero(folder: Path, truths: list[Truth]):
    table = load_source(section(folder, conditional_columns=["activity"]))
    mine, truth = table.frame[table.frame[ITEM] == "p02"], truths[1]
    at = np.unique(truth.rows[:, None] + np.arange(1 - len(LAGS), 1))
    declared = sum(truth.activity[step] is not None for step in at)
    assert mine["activity"].sum() == declared > 5
    assert (mine["activity"] == 0).sum() == len(at) - declared
    assert table.fill == {"activity": "none"}


def test_fifteen_minute_people_keep_their_readings(folder: Path, truths: list[Truth]):
    panel = build_panel(load_source(section(folder)), None, None)
    observed = [int((panel.status[panel.row_item() == item, 0] == 2).sum()) for item in range(3)]
    readings = load_source(section(folder)).frame.groupby(ITEM)["bg"].count().tolist()
    assert observed == readings
    table = load_source(section(folder, source_options={"sampling": 15}))
    assert list(table.frame[ITEM].unique()) == ["p01"]
    assert table.frequency == "15min"
    own = build_panel(table, None, "45min")
    assert own.item_length[0] == -(-panel.item_length[0] // 3)
    assert list(load_source(section(folder, source_options={"sampling": 5})).frame[ITEM].unique()) == ["p02", "p04"]


def test_no_window_crosses_an_unknown_stretch(folder: Path, converted: pa.Table):
    frame = converted.to_pandas()
    frame = frame[(frame["file"] == "train") & (frame["item_id"] == "p02")].set_index(TIMESTAMP)["segment"]
    assert frame.nunique() == 2
    panel = build_panel(load_source(section(folder, max_gap="23h55min")), None, "23h55min")
    for first, last in zip(panel.segment_start[:-1], panel.segment_start[1:] - 1, strict=True):
        if panel.item_ids[panel.row_item()[first]] == "p02":
            inside = frame[panel.timestamps[first] : panel.timestamps[last]]
            assert inside.nunique() == 1


def test_a_prepared_file_is_the_same_source(folder: Path, tmp_path: Path, caplog, monkeypatch):
    expected = load_source(section(folder)).frame
    place = tmp_path / "kaggle_brisT1D"
    place.mkdir()
    assert prepare(folder, place / "brist1d.parquet") == 0
    for path in (place / "brist1d.parquet", place):
        table = load_source(section(path))
        pd.testing.assert_frame_equal(table.frame, expected)
        assert table.files == (str(place / "brist1d.parquet"),)
    monkeypatch.setenv("TSTUNE_DATA", str(tmp_path))
    pd.testing.assert_frame_equal(load_source(section(None)).frame, expected)
    shutil.copy(folder / "train.csv", place)
    assert load_source(section(place)).files == (str(place / "brist1d.parquet"),)
    (place / "train.csv").write_text("\n".join(lines(folder)[:400]) + "\n")
    monkeypatch.setattr(logger, "propagate", True)  # setup_logging turns it off
    with caplog.at_level("WARNING", logger="tstune"):
        assert load_source(section(place)).files == (str(place / "train.csv"),)
    assert "was made from another train.csv" in caplog.text


@pytest.mark.parametrize(
    ("values", "error", "complaint"),
    [
        ({"path": None}, ConfigError, "kaggle competitions download -c brist1d -p <folder>"),
        ({"path": None}, DataError, "kaggle_brisT1D does not exist; accept the rules"),
        ({"path": "nowhere"}, DataError, "nowhere does not exist"),
        ({"conditional_columns": ["sleep"]}, ConfigError, "no channel 'sleep'; choose from insulin, carbs"),
        ({"time_features": ["hour_of_day", "day_of_year"]}, ConfigError, "no dates; take hour_of_day"),
        ({"conditional_columns": ["dose"]}, ConfigError, "no channel 'dose'"),
        ({"target_columns": ["hr"]}, ConfigError, "forecasts bg"),
        ({"control_columns": ["carbs"]}, ConfigError, "data.control_columns=['carbs'] has no meaning"),
        ({"item_id_column": "p_num"}, ConfigError, "data.item_id_column=p_num has no meaning"),
        ({"max_gap": "24h"}, ConfigError, "stay below 24h"),
        ({"max_gap": 288}, ConfigError, "stay below 24h"),
        ({"split": {"preset": "brist1d"}}, ConfigError, "no dates"),
        ({"split": {"borders_at": ["2023-08-17", "2023-08-31", None]}}, ConfigError, "no dates"),
        ({"timezone": "Europe/London"}, ConfigError, "data.timezone=Europe/London has no meaning"),
        ({"source_options": {"sampling": 10}}, ConfigError, "sensors of 5 and 15 minutes"),
        ({"source_options": {"people": 3}}, ConfigError, "no such option"),
    ],
)
def test_what_the_source_cannot_do(values: dict, error: type[TstuneError], complaint: str, folder: Path, monkeypatch):
    monkeypatch.delenv("TSTUNE_DATA", raising=False)
    if values == {"path": None} and error is DataError:
        monkeypatch.setenv("TSTUNE_DATA", str(folder))
    with pytest.raises(error) as caught:
        load_source(DataSection(**{"source": "kaggle_brisT1D", "path": str(folder)} | values))
    assert complaint in str(caught.value)


def test_other_files_are_not_taken_for_prepared_ones(folder: Path, tmp_path: Path):
    other = tmp_path / "brist1d.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(other)
    with pytest.raises(DataError, match=r"was not written by scripts/prepare_brist1d\.py"):
        load_source(section(other))
    other.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        load_source(section(other))


# Real readings


@pytest.mark.shared
def test_the_sample_is_brist1d_open_again(shared: Path):
    """Each rebuilt segment equals the open data, put on the competition's grid, at every common instant."""
    table = convert_folder(shared / "data" / "kaggle_brisT1D_sample")
    report = report_of(table)
    assert report["conflicts"] == report["partly_empty"] == NOTHING
    assert report["rows"] == {"train": 8158, "test": 90}
    assert report["segments"] == {"train": 4, "test": 90}
    assert report["unseen_participants"] == ["p15"]
    truths = {person: open_series(shared, person) for person in ("p01", "p04", "p11", "p15")}
    frame, compared, seen = table.to_pandas(), 0, 0
    for (file, person, number), segment in frame.groupby(["file", "item_id", "segment"], observed=True):
        true, readings = truths[person], segment[segment["bg"].notna()]
        clock = (readings[TIMESTAMP] - readings[TIMESTAMP].iloc[0].normalize()) // pd.Timedelta("5min")
        places = clock.to_numpy() + DAY * np.arange((len(true) - 1 - int(clock.iloc[-1])) // DAY + 1)[:, None]
        equal = (np.abs(true[places] - readings["bg"].to_numpy()) < 1e-6).sum(axis=1)
        both = (~np.isnan(true[places[equal.argmax()]])).sum()
        assert equal.max() == both == len(readings) > 0, f"{file} {person} {number}: all readings are those of the data"
        compared += both
        seen += int(file == "train")
    assert seen == 4
    assert compared == sum(sum(people["values"].values()) for people in report["participants"])
    print(f"{compared:,} instants compared, all equal")
    assert compared > 13_000


def open_series(shared: Path, person: str) -> np.ndarray:
    """[five-minute steps from a midnight on] Glucose-ML's copy in mmol/L on the competition's grid, NaN between.

    A reading belongs to the next full five minutes; several are averaged; one decimal.
    """
    raw = pd.read_csv(shared / "data" / "brist1d_open" / f"{person.upper()}.csv.gz", parse_dates=["timestamp"])
    stamps = raw["timestamp"].dt.ceil("5min")
    mean = (raw["glucose_value_mg_dl"] / 18).groupby(stamps).mean().round(1)
    steps = (mean.index - mean.index[0].normalize()) // pd.Timedelta("5min")
    grid = np.full(int(steps[-1]) + 1, np.nan)
    grid[steps] = mean
    return grid
