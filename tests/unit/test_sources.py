"""Sources: what a file becomes, and what is said when it cannot."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import reader

from tstune.config.schema import DataSection
from tstune.data import sources
from tstune.data.files import read_table
from tstune.data.frame import table_from_frame
from tstune.data.prepared import context_windows, prepare_data
from tstune.data.preprocess import build_panel
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP, Roles
from tstune.errors import ConfigError, DataError, TstuneError

HOURS = pd.date_range("2024-01-01", periods=6, freq="h")
WIDE = pd.DataFrame(
    {
        "timestamp": HOURS,
        "load": [1.0, 2.0, np.nan, 4.0, 5.0, 6.0],
        "dose": [0.0, 0.5, 0.0, 0.5, 0.0, 0.5],
        "plan": [1, 0, 1, 0, 1, 0],
    }
)
LONG = pd.DataFrame({"person": ["b", "b", "a", "a", "a", "c"], "when": HOURS, "value": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
read, problem = reader("csv")


def write(frame: pd.DataFrame, path: Path, **options: object) -> Path:
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False, **options)
    return path


# The registry


@pytest.mark.parametrize(("name", "suggestion"), [("cgm_smaple", "cgm_sample"), ("CSV", None), ("etth", "ett")])
def test_an_unknown_source(name: str, suggestion: str | None):
    with pytest.raises(ConfigError) as caught:
        load_source(DataSection(source=name))
    assert f"data.source: unknown source {name!r}" in str(caught.value)
    assert "available: brist1d_open, cgm_export, cgm_sample, csv, ett, " in str(caught.value)
    if suggestion:
        assert f"did you mean {suggestion}?" in str(caught.value)


# cgm_sample


def test_cgm_sample_readings():
    table = load_source(DataSection())
    assert len(table.frame) == 52_281 - 3
    assert table.notes == {"duplicate_timestamps_averaged": 3}
    assert table.roles == Roles(target=("glucose",))
    assert (table.frequency, table.max_gap, table.unit) == ("5min", "45min", "mg/dL")
    assert "public domain" in table.licence
    assert table.frame[TIMESTAMP].is_unique
    assert table.frame[TIMESTAMP].is_monotonic_increasing
    assert list(table.frame[ITEM].unique()) == ["cgm_sample"]
    assert table.frame["glucose"].between(20, 600).all()
    # the three stamps that occur twice, read 122 and 124, 102 and 106, 101 and 104
    by_time = table.frame.set_index(TIMESTAMP)["glucose"]
    assert by_time[["2010-05-20 03:21", "2010-06-19 18:12", "2010-08-13 06:41"]].tolist() == [123.0, 104.0, 102.5]


def test_cgm_sample_windows():
    data = prepare_data(DataSection(test_stride=12), 512, 96)
    assert data.panel.item_length.tolist() == [57_770]
    assert len(data.test) == 367
    assert len(data.train) == 8_058
    assert data.manifest["num_grid_steps"] == 57_770
    assert data.manifest["num_readings"] == 52_278
    assert data.preprocessor.max_gap == "45min"


@pytest.mark.parametrize(
    "section",
    [{"path": "x.csv"}, {"target_columns": ["glucose"]}, {"conditional_columns": ["x"]}, {"item_id_column": "x"}],
    ids=lambda section: next(iter(section)),
)
def test_cgm_sample_takes_no_columns_and_no_path(section: dict):
    with pytest.raises(ConfigError, match=f"data.{next(iter(section))}.* has no meaning for source cgm_sample"):
        load_source(DataSection(**section))


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        ("ett", "columns_as", "items"),
        ("ett", "timezone", "Europe/London"),
        ("ett", "keep_rows", "OT != 0"),
        ("ett", "target_columns", ["OT"]),
        ("cgm_sample", "rename", {"glucose": "OT"}),
        ("simulated_t1d", "on_duplicate", "mean"),
        ("simulated_t1d", "path", "x.csv"),
        ("t1d_uom", "control_columns", ["carbs"]),
        ("brist1d_open", "timestamp_format", "%Y"),
        ("kaggle_brisT1D", "missing_values", [-999]),
        ("cgm_export", "item_id_column", "x"),
        ("csv", "item_from", "folder"),
        ("hf_dataset", "skip_rows", 2),
    ],
)
def test_a_key_that_a_source_does_not_read_is_refused(source: str, key: str, value: object, tmp_path: Path):
    section = {"source": source, "path": None if source in ("simulated_t1d", "cgm_sample") else str(tmp_path)}
    other = "cgm_export" if key == "item_from" else "csv"
    told = f"data.{key}={value} has no meaning for source {source}; leave it out or use data.source={other}"
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_source(DataSection(**section | {key: value}))


def test_every_key_of_a_table_is_read_or_refused():
    of_all = {"cache", "frequency", "max_gap", "fill", "min_context", "time_features", "unit", "convert_to", "scaling"}
    of_all |= {"valid_range", "out_of_range", "conflicting_readings", "interpolated_readings", "split", "targets_only"}
    of_all |= {"source", "source_options", "validation_path", "test_path", "mirror_train_windows"}
    of_all |= {key for key in DataSection.model_fields if key.startswith("train_") or key.endswith("_stride")}
    statics = {"static_categorical_columns", "static_real_columns"}  # refused once the data are read
    assert set(DataSection.model_fields) - of_all - statics == set(sources._OF_TABLES)


# csv: shapes


def test_a_wide_table_is_one_series_with_its_columns_as_channels(tmp_path: Path):
    table = read(write(WIDE, tmp_path / "house.csv"))
    assert table.roles == Roles(target=("load", "dose", "plan"))
    assert list(table.frame.columns) == [ITEM, TIMESTAMP, "load", "dose", "plan"]
    assert list(table.frame[ITEM].unique()) == ["house"]
    np.testing.assert_array_equal(table.frame["load"], WIDE["load"])
    assert table.frame[TIMESTAMP].tolist() == HOURS.tolist()
    assert table.frame.dtypes[["load", "dose", "plan"]].eq("float64").all()
    assert table.files == (str(tmp_path / "house.csv"),)


def test_column_roles_and_their_order(tmp_path: Path):
    path = write(WIDE, tmp_path / "house.csv")
    table = read(path, conditional_columns=["dose"], control_columns=["plan"])
    assert table.roles == Roles(("load",), ("dose",), ("plan",))
    assert table.roles.channels == ("load", "dose", "plan")
    assert table.roles.control_indices == [2]
    chosen = read(path, target_columns=["plan", "load"])
    assert chosen.roles == Roles(("plan", "load"))
    assert list(chosen.frame.columns) == [ITEM, TIMESTAMP, "plan", "load"]


def test_a_long_table_is_many_series(tmp_path: Path):
    path = write(LONG, tmp_path / "people.csv")
    table = read(path, item_id_column="person", timestamp_column="when")
    assert table.frame[ITEM].tolist() == ["b", "b", "a", "a", "a", "c"]
    assert table.frame["value"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert table.roles == Roles(target=("value",))


def test_item_names_that_are_numbers_are_text(tmp_path: Path):
    path = write(LONG.assign(person=[2, 2, 10, 10, 10, 1]), tmp_path / "people.csv")
    table = read(path, item_id_column="person", timestamp_column="when")
    assert table.frame[ITEM].tolist() == ["2", "2", "10", "10", "10", "1"]


def test_columns_as_items_makes_every_column_a_series(tmp_path: Path):
    table = read(write(WIDE, tmp_path / "house.csv"), columns_as="items")
    assert table.roles == Roles(target=("target",))
    assert list(table.frame.columns) == [ITEM, TIMESTAMP, "target"]
    assert len(table.frame) == 18
    for column in ("load", "dose", "plan"):
        rows = table.frame[table.frame[ITEM] == column]
        np.testing.assert_array_equal(rows["target"], WIDE[column])
        assert rows[TIMESTAMP].tolist() == HOURS.tolist()


@pytest.mark.parametrize("name", ["house.csv.gz", "house.parquet", "house.csv"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, name: str):
    table = read(write(WIDE, tmp_path / name), conditional_columns=["dose"])
    expected = read(write(WIDE, tmp_path / "expected.csv"), conditional_columns=["dose"])
    pd.testing.assert_frame_equal(table.frame.drop(columns=ITEM), expected.frame.drop(columns=ITEM))
    assert table.roles == expected.roles
    assert list(table.frame[ITEM].unique()) == ["house"]  # named after the file, whatever its kind


def test_infinite_values_are_missing_values(tmp_path: Path):
    table = read(write(WIDE.assign(load=[1, np.inf, -np.inf, 2, 3, 4]), tmp_path / "house.csv"))
    assert table.frame["load"].isna().tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    "index",
    [np.arange(6)[::-1], np.arange(100, 106), np.zeros(6, int), HOURS],
    ids=["reversed", "cut out", "all the same", "times"],
)
def test_the_index_of_a_frame_does_not_matter(index: np.ndarray):
    table = table_from_frame(WIDE.set_index(pd.Index(index)), DataSection(), "input")
    assert table.frame[TIMESTAMP].tolist() == HOURS.tolist()
    np.testing.assert_array_equal(table.frame["load"], WIDE["load"])


def test_the_index_of_a_parquet_file_does_not_matter(tmp_path: Path):
    WIDE.sort_values("load", ascending=False).to_parquet(tmp_path / "sorted.parquet")  # keeps its permuted index
    frame = read(tmp_path / "sorted.parquet").frame.sort_values(TIMESTAMP)
    assert frame[TIMESTAMP].tolist() == HOURS.tolist()
    np.testing.assert_array_equal(frame["load"], WIDE["load"])


# csv: several files


def write_people(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        write(WIDE.assign(load=WIDE["load"] + 100 * number), folder / name)


@pytest.mark.parametrize("pattern", ["", "*", "P0?.*"])
def test_every_file_of_a_folder_or_pattern_is_a_series(tmp_path: Path, pattern: str):
    write_people(tmp_path / "people", "P02.csv", "P01.csv.gz", "P03.parquet")
    if not pattern:
        (tmp_path / "people" / "notes.txt").write_text("left alone")
    table = read(tmp_path / "people" / pattern, conditional_columns=["dose"], target_columns=["load"])
    assert list(table.frame[ITEM].unique()) == ["P01", "P02", "P03"]
    assert table.frame.groupby(ITEM)["load"].first().tolist() == [101, 1, 201]
    assert len(table.frame) == 18
    assert table.roles == Roles(("load",), ("dose",))
    assert table.files == tuple(str(tmp_path / "people" / name) for name in ("P01.csv.gz", "P02.csv", "P03.parquet"))


def test_files_whose_names_share_a_beginning_stay_apart(tmp_path: Path):
    write_people(tmp_path / "people", "site.north.csv", "site.south.csv")
    assert read(tmp_path / "people").frame[ITEM].nunique() == 2


def test_files_that_do_not_fit_together(tmp_path: Path):
    write_people(tmp_path / "people", "P01.csv", "P01.parquet")
    assert "holds 'P01' twice" in problem(tmp_path / "people")
    assert "names several files, one series each" in problem(tmp_path / "people", columns_as="items")
    (tmp_path / "people" / "P01.parquet").unlink()
    write(WIDE.drop(columns="plan"), tmp_path / "people" / "P02.csv")
    text = problem(tmp_path / "people")
    assert "P02.csv has columns load, dose, " in text
    assert "name the common ones in data.target_columns" in text
    assert read(tmp_path / "people", target_columns=["load", "dose"]).frame[ITEM].nunique() == 2


def test_many_files_with_a_series_column_are_one_table(tmp_path: Path):
    whole = pd.concat([WIDE.assign(person=name) for name in ("b", "a")], ignore_index=True)
    (tmp_path / "parts").mkdir()
    write(whole.head(8), tmp_path / "parts" / "1.csv")
    whole[8:].to_parquet(tmp_path / "parts" / "2.parquet")
    write(whole, tmp_path / "whole.csv")
    section = {"item_id_column": "person", "target_columns": ["load"]}
    parts, together = read(tmp_path / "parts", **section), read(tmp_path / "whole.csv", **section)
    pd.testing.assert_frame_equal(parts.frame, together.frame)
    assert parts.files == (str(tmp_path / "parts" / "1.csv"), str(tmp_path / "parts" / "2.parquet"))
    write(whole.drop(columns="dose"), tmp_path / "parts" / "3.csv")
    assert "3.csv has columns timestamp, " in problem(tmp_path / "parts", **section)


def test_duplicates_of_all_files_are_counted(tmp_path: Path):
    write_people(tmp_path / "people", "P01.csv", "P02.csv")
    for name, again in (("P01.csv", 1), ("P02.csv", 2)):
        path = tmp_path / "people" / name
        write(pd.concat([pd.read_csv(path)] + [pd.read_csv(path).head(1)] * again), path)
    assert "1 duplicate timestamp(s)" in problem(tmp_path / "people")
    table = read(tmp_path / "people", on_duplicate="mean")
    assert table.notes == {"duplicate_timestamps_averaged": 3}


# csv: times


@pytest.mark.parametrize(
    ("texts", "hours"),
    [
        (["2024-01-01", "2024-01-01T02:00", "2024-01-01 03:00:00"], [0, 2, 3]),
        (["2024-01-01T01:00:00Z", "2024-01-01T01:00:00-01:00", "2024-01-01T05:30:00+02:30"], [1, 2, 3]),
        (["20240101T010000", "2024-01-01T02:00:00.000", "2024-01-01 03:00"], [1, 2, 3]),
    ],
    ids=["mixed precision", "time zones become UTC", "basic format"],
)
def test_iso_timestamps(tmp_path: Path, texts: list[str], hours: list[int]):
    path = write(pd.DataFrame({"timestamp": texts, "y": [1, 2, 3]}), tmp_path / "a.csv")
    expected = [pd.Timestamp("2024-01-01") + pd.Timedelta(hours=hour) for hour in hours]
    assert read(path).frame[TIMESTAMP].tolist() == expected


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_parquet_timestamps_of_any_unit_and_zone(tmp_path: Path, unit: str):
    for name, stamps in (("naive", HOURS), ("zoned", HOURS.tz_localize("Asia/Kolkata"))):
        frame = pd.DataFrame({"timestamp": stamps.as_unit(unit), "y": np.arange(6.0)})
        found = read(write(frame, tmp_path / f"{name}.parquet")).frame[TIMESTAMP]
        expected = HOURS if name == "naive" else HOURS - pd.Timedelta("5h30min")
        assert found.tolist() == expected.tolist()
        assert found.dtype == "datetime64[ns]"


def test_parquet_dates(tmp_path: Path):
    days = pd.date_range("2024-01-01", periods=3)
    frame = pd.DataFrame({"timestamp": days.date, "y": [1.0, 2.0, 3.0]})
    assert read(write(frame, tmp_path / "days.parquet")).frame[TIMESTAMP].tolist() == days.tolist()


# Long tables that are known by their columns: Nixtla, GluonTS, AutoGluon

NIXTLA, GLUONTS = ("unique_id", "ds", "y"), ("item_id", "timestamp", "target")


def long_table(names: tuple[str, str, str], **more: object) -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=200, freq="h")
    parts = [
        pd.DataFrame({names[0]: item, names[1]: stamps, names[2]: np.arange(200.0) + 1000 * item}) for item in (1, 2)
    ]
    return pd.concat(parts, ignore_index=True).assign(**more)


@pytest.mark.parametrize("names", [NIXTLA, GLUONTS], ids=["Nixtla", "GluonTS"])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_no_option_is_needed(tmp_path: Path, names: tuple[str, str, str], kind: str):
    path, raw = tmp_path / f"long.{kind}", long_table(names)
    raw.to_parquet(path) if kind == "parquet" else raw.to_csv(path, index=False)
    table = load_source(DataSection(source="parquet" if kind == "parquet" else "csv", path=str(path)))
    assert table.roles == Roles((names[2],))
    assert table.frame[ITEM].tolist() == ["1"] * 200 + ["2"] * 200
    assert table.frame[names[2]].tolist() == raw[names[2]].tolist()
    assert table.frame[TIMESTAMP].tolist() == raw[names[1]].tolist()
    assert table.notes == {"layout": "Nixtla" if names is NIXTLA else "GluonTS"}


def test_what_is_left_out_is_said_and_roles_can_be_given():
    raw = long_table(NIXTLA, price=3.0, plan=1.0)
    table = table_from_frame(raw, DataSection(), "input")
    assert table.roles == Roles(("y",))
    assert table.notes["columns_not_used"] == ["price", "plan"]
    table = table_from_frame(raw, DataSection(conditional_columns=["price"], control_columns=["plan"]), "input")
    assert table.roles == Roles(("y",), ("price",), ("plan",))
    assert table.notes == {"layout": "Nixtla"}


@pytest.mark.parametrize(
    "section",
    [{"item_id_column": "site"}, {"timestamp_column": "when"}, {"target_columns": ["load"]}, {"columns_as": "items"}],
    ids=lambda section: next(iter(section)),
)
def test_a_name_of_ones_own_turns_it_off(section: dict):
    raw = long_table(NIXTLA).rename(columns={"ds": "when"}).assign(ds=pd.Timestamp("2024-01-01"), load=1.0, site="a")
    with pytest.raises(TstuneError):  # read as it is told, in which these tables make no sense
        table_from_frame(raw, DataSection(**section), "input")


def test_a_timestamp_column_beside_ds_is_the_users_choice():
    raw = long_table(NIXTLA).assign(timestamp=pd.Timestamp("2024-01-01"))
    with pytest.raises(TstuneError, match=r"unique_id|ds"):
        table_from_frame(raw.drop(columns="unique_id").assign(unique_id="a"), DataSection(), "input")


def test_a_saved_model_reads_the_same_layout():
    raw = long_table(NIXTLA)
    table = table_from_frame(raw, DataSection(), "input")
    data = prepare_data(DataSection(), 16, 4, table)
    again = data.preprocessor.read_frame(raw, "new data")
    panel, starts = context_windows(again, data.preprocessor, 16)
    assert panel.item_ids == ("1", "2")
    assert panel.values[starts[1] : starts[1] + 16, 0].tolist() == list(np.arange(2184.0, 2200.0))


# csv: mistakes


def test_no_path():
    with pytest.raises(ConfigError, match=r"source csv needs data\.path=<file\.csv, file\.csv\.gz, file\.parquet"):
        load_source(DataSection(source="csv"))


def test_no_file(tmp_path: Path):
    assert problem(tmp_path / "no.csv").startswith(f"data file {tmp_path / 'no.csv'} does not exist")
    assert "holds no .csv, .tsv, .txt, .csv.gz, " in problem(tmp_path)
    assert "holds no .csv, .tsv, .txt, .csv.gz, " in problem(tmp_path / "*.csv")


def test_an_unknown_kind_of_file(tmp_path: Path):
    (tmp_path / "book.ods").write_bytes(b"x")
    assert "unknown kind of file; use .csv, .tsv, .txt, " in problem(tmp_path / "book.ods")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv.gz", b"timestamp,y\n2024-01-01,1\n"),
        ("cut.csv.gz", gzip.compress(WIDE.to_csv().encode() * 50)[:-40]),
        ("ragged.csv", b"timestamp,y\n2024-01-01,1\n2024-01-02,1,2,3\n"),
        ("text.parquet", b"timestamp,y"),
        ("cut.parquet", b"PAR1" + bytes(40) + b"PAR1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    text = problem(tmp_path / name)
    assert name in text
    assert "cannot be read" in text


def test_a_damaged_gzip_stream(tmp_path: Path):
    whole = gzip.compress(np.random.default_rng(0).bytes(20_000).hex().encode())
    for place in range(20, 2_000, 97):  # flip a byte at many places: some break the stream, some the checksum
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.csv.gz").write_bytes(bytes(damaged))
        assert "cannot be read" in problem(tmp_path / "damaged.csv.gz")


ONE_PERSON = {"item_id_column": "person", "timestamp_column": "when"}
COLUMNS = "the columns are: timestamp, load, dose, plan"
MISTAKES = [
    (WIDE, {"timestamp_column": "time"}, f"no column 'time' (data.timestamp_column); {COLUMNS}"),
    (WIDE, {"item_id_column": "person"}, f"no column 'person' (data.item_id_column); {COLUMNS}"),
    (WIDE, {"target_columns": ["load", "lode"]}, f"no column 'lode' (data.target_columns); {COLUMNS}"),
    (WIDE, {"conditional_columns": ["insulin"]}, f"no column 'insulin' (data.conditional_columns); {COLUMNS}"),
    (WIDE, {"control_columns": ["hour"]}, f"no column 'hour' (data.control_columns); {COLUMNS}"),
    (WIDE, {"timestamp_format": "%Q"}, "%Q"),
    (WIDE.replace({"timestamp": {HOURS[3]: "yesterday"}}), {}, "row 5: 'yesterday' in column 'timestamp'"),
    (WIDE.replace({"timestamp": {HOURS[2]: None}}), {}, "row 4: nothing in column 'timestamp' is not a timestamp"),
    (WIDE.assign(timestamp=range(6)), {}, "column 'timestamp' holds numbers, not timestamps"),
    (WIDE.assign(device="pump"), {}, "'pump' in column 'device' is not a number"),
    (WIDE.assign(load="high"), {"target_columns": ["load"]}, "row 2: 'high' in column 'load' is not a number"),
    (WIDE.assign(load=np.nan), {"target_columns": ["load"]}, "target column 'load' holds no value"),
    (WIDE, {"conditional_columns": ["load", "dose"], "control_columns": ["plan"]}, "no column left to forecast"),
    (WIDE, {"target_columns": ["load", "dose"], "conditional_columns": ["dose"]}, "column 'dose' has two roles"),
    (WIDE, {"target_columns": ["load", "load"]}, "column 'load' has two roles"),
    (WIDE, {"target_columns": ["timestamp", "load"]}, "timestamp"),
    (WIDE, {"columns_as": "items", "item_id_column": "plan"}, "columns_as=items makes every value column a series"),
    (WIDE, {"columns_as": "items", "conditional_columns": ["dose"]}, "columns_as=items makes every value column"),
    (LONG.assign(person=["b", "b", None, "a", "a", "c"]), ONE_PERSON, "row 4: no value in column 'person'"),
    (
        pd.concat([LONG, LONG.iloc[[0, 3]]]),
        ONE_PERSON,
        "2 duplicate timestamp(s), first 2024-01-01 00:00:00 of series 'b'",
    ),
    # a numeric `item_id` next to the values: the key that names the series column was forgotten
    (LONG.assign(person=range(6)).rename(columns={"person": ITEM}), {"timestamp_column": "when"}, "'item_id' would be"),
    (LONG.assign(person=range(6)).rename(columns={"person": TIMESTAMP}), {"timestamp_column": "when"}, "timestamp"),
]


@pytest.mark.parametrize(("frame", "section", "words"), MISTAKES, ids=[words for _, _, words in MISTAKES])
def test_a_table_that_does_not_fit_its_columns(tmp_path: Path, frame: pd.DataFrame, section: dict, words: str):
    assert words in problem(write(frame, tmp_path / "house.csv"), **section)


def test_a_column_of_no_interest_may_be_left_out(tmp_path: Path):
    path = write(WIDE.assign(device="pump", plan=np.nan), tmp_path / "a.csv")
    assert read(path, target_columns=["load"]).roles.target == ("load",)


def test_duplicates_may_be_averaged(tmp_path: Path):
    frame = pd.concat([WIDE, WIDE.iloc[[1]].assign(load=4.0)])
    path = write(frame, tmp_path / "house.csv")
    assert "set data.on_duplicate=mean" in problem(path)
    table = read(path, on_duplicate="mean")
    assert table.notes == {"duplicate_timestamps_averaged": 1}
    assert build_panel(table, None, 1).values[:, 0].tolist() == [1, 3, 3.5, 4, 5, 6]


def test_one_time_in_two_series_is_no_duplicate(tmp_path: Path):
    frame = LONG.assign(when=[HOURS[i] for i in (0, 1, 0, 1, 2, 0)])
    path = write(frame, tmp_path / "a.csv")
    assert len(read(path, item_id_column="person", timestamp_column="when").frame) == 6
    text = problem(path, timestamp_column="when", target_columns=["value"])  # the series column was forgotten
    assert "duplicate timestamp(s)" in text
    assert "data.item_id_column" in text


# ett


def write_ett(folder: Path, rows: int = 14_400, frequency: str = "h") -> Path:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(rows, 7)), columns=["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"])
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=rows, freq=frequency))
    frame.round(3).to_csv(folder / "ETTx.csv", index=False)
    return folder / "ETTx.csv"


ETT_SPLIT = {"borders": "standard", "mode": "deployment"}


def test_ett_with_its_standard_borders(tmp_path: Path):
    config = DataSection(source="ett", path=str(write_ett(tmp_path)), split=ETT_SPLIT)
    table = load_source(config)
    assert table.roles == Roles(target=("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"))
    assert table.frequency == "h"
    assert table.standard_borders == (8_640, 11_520, 14_400)
    data = prepare_data(config, 512, 96)
    assert data.split.borders.tolist() == [[8_640, 11_520, 14_400]]
    assert {part: len(windows) for part, windows in data.windows.items()} == {
        "train": 8_640 - 512 - 96 + 1,
        "validation": 2_880 - 96 + 1,
        "test": 2_880 - 96 + 1,
    }
    assert data.panel.row_position()[data.test.starts([0])[0]] == 11_520 - 512


def test_quarter_hourly_ett_has_four_times_the_steps(tmp_path: Path):
    table = load_source(DataSection(source="ett", path=str(write_ett(tmp_path, 1_000, "15min"))))
    assert table.frequency == "15min"
    assert table.standard_borders == (34_560, 46_080, 57_600)


def test_ett_shorter_than_its_borders(tmp_path: Path):
    path = write_ett(tmp_path, 14_399)
    with pytest.raises(DataError, match="borders end at step 14400 but series 'ETTx' has 14399 steps"):
        prepare_data(DataSection(source="ett", path=str(path), split=ETT_SPLIT), 512, 96)


def test_ett_mistakes(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"source ett needs data\.path"):
        load_source(DataSection(source="ett"))
    path = write_ett(tmp_path, 50, "D")
    with pytest.raises(DataError, match="rows are 86400 s apart; an ETT file is hourly or every 15 minutes"):
        load_source(DataSection(source="ett", path=str(path)))
    pd.read_csv(path).drop(columns="OT").to_csv(path, index=False)
    with pytest.raises(DataError, match="no column 'OT'; an ETT file has date, HUFL"):
        load_source(DataSection(source="ett", path=str(path)))


@pytest.mark.shared
def test_the_real_etth1(shared: Path):
    config = DataSection(source="ett", path=str(shared / "data" / "ett" / "ETTh1.csv"), split=ETT_SPLIT)
    data = prepare_data(config, 512, 96)
    assert data.manifest["num_readings"] == 17_420
    assert [len(data.train), len(data.validation), len(data.test)] == [8_033, 2_785, 2_785]
    train = data.panel.values[:8_640].astype(np.float64)
    np.testing.assert_allclose(data.preprocessor.scaler.mean, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.preprocessor.scaler.std, train.std(axis=0), rtol=1e-12)


@pytest.mark.shared
def test_real_files_with_day_first_dates_and_a_byte_order_mark(shared: Path):
    path = shared / "data" / "t1d_uom" / "UoMBolus2304.csv.gz"
    with gzip.open(path) as stream:
        assert stream.read(3) == b"\xef\xbb\xbf"
    assert "1 duplicate timestamp(s), first 2024-01-07 17:26:00" in problem(path, timestamp_column="bolus_ts")
    section = {"timestamp_column": "bolus_ts", "timestamp_format": "%d/%m/%Y %H:%M"}
    assert "1 duplicate timestamp(s), first 2024-01-07 17:26:00" in problem(path, **section)
    raw = read_table(path).drop_duplicates("bolus_ts", ignore_index=True)
    table = table_from_frame(raw, DataSection(**section), path)
    assert table.roles == Roles(target=("bolus_dose",))
    assert table.frame[TIMESTAMP].iloc[0] == pd.Timestamp("2023-12-31 14:10")
    assert table.frame["bolus_dose"].iloc[0] == 10
