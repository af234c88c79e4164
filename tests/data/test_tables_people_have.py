"""Tables as people have them: every kind of them once in a few lines, and the real files that once went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import person, reader
from data.series import table as series_table
from support import tiny

import finetune_ttm
from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import DataSection
from tstune.config.validation import validate
from tstune.data.cleaning import CleaningRules, clean_table
from tstune.data.prepared import prepare_data
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError, DataError
from tstune.models.registry import model_class

HOURS = pd.date_range("2024-02-01", periods=24, freq="h")
SPLIT = {"train": 0.4, "validation": 0.3, "test": 0.3}
read, problem = reader("csv")


def save(folder: Path, content: str | bytes, name: str = "x.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def lines(times: list[str], *columns: list[str], header: str = "timestamp,load") -> str:
    return "\n".join([header, *(",".join(cells) for cells in zip(times, *columns, strict=True))]) + "\n"


ISO = [f"{hour:%Y-%m-%d %H:%M}" for hour in HOURS]
VALUES = [f"{1400 + 10 * number}.5" for number in range(24)]
PLAIN = lines(ISO, VALUES)
GERMAN = [f"1.{400 + 10 * number},5" for number in range(24)]


def semicolons(times: list[str], values: list[str], header: str) -> str:
    return "\n".join([header, *(f"{time};{value}" for time, value in zip(times, values, strict=True))])


def since_1970(nanoseconds: int, name: str) -> str:
    return lines([str(hour.value // nanoseconds) for hour in HOURS], VALUES, header=f"{name},load")


SEMICOLONS = semicolons(ISO, GERMAN, "timestamp;load")
DAYS, CLOCKS = [f"{hour:%d.%m.%Y}" for hour in HOURS], [f"{hour:%H:%M}" for hour in HOURS]
PARTS = ("year", "month", "day", "hour")

# name -> (content, keys, findings of the cleaning report)
DIALECTS = {
    "a title, a comment, units and a footer": (
        "Load of one house\n\n# by the hour\n" + PLAIN.replace("load\n", "load\n,kW\n") + "Total,,\nend of file\n",
        {},
        {"title_lines": 1, "comment_lines": 1, "rows_of_units": 1, "rows_below_the_table": 0, "other_lines": 2},
    ),
    "blank rows, and the header again": (
        PLAIN.replace("2024-02-01 05:00", "\n,\ntimestamp,load\n2024-02-01 05:00"),
        {},
        {"empty_rows": 2, "repeated_headers": 1},
    ),
    "a sum below the table": (PLAIN + "Sum,36360.0\n", {}, {"rows_below_the_table": 1}),
    "an unnamed index": (PLAIN.replace("timestamp,", ","), {}, {}),
    "row numbers": (lines([str(n) for n in range(24)], ISO, VALUES, header="No,timestamp,load"), {}, {}),
    "a separator line of Excel": ("sep=;\n" + SEMICOLONS, {}, {"separator_lines": 1, "decimal_commas": 24}),
    "pipes": (PLAIN.replace(",", "|"), {}, {}),
    "tabs and decimal commas": (SEMICOLONS.replace(";", "\t"), {}, {"decimal_commas": 24}),
    "thousands between quotes": (
        lines(ISO, [f'"1,{400 + 10 * number}.5"' for number in range(24)]), {}, {"thousands": 24},
    ),
    "blanks as thousands": (SEMICOLONS.replace("1.", "1 "), {}, {"decimal_commas": 24}),
    "UTF-16": (PLAIN.encode("utf-16"), {}, {}),
    "old line ends": (PLAIN.replace("\n", "\r"), {}, {}),
    "a comment over several lines in a cell": (
        PLAIN.replace("load\n", "load,note\n").replace(".5\n", '.5,"a\nb"\n', 3).replace(".5\n", ".5,\n"),
        {"target_columns": ["load"]},
        {},
    ),
    "cells at the end left out": (
        PLAIN.replace("load\n", "load,dose,note\n").replace(".5\n", ".5,,\n", 20),
        {"target_columns": ["load"]},
        {},
    ),
    "skipped by hand": ("a,b\n1,2\n" + PLAIN, {"skip_rows": 2}, {"lines_skipped": 2}),
    "only some rows": (
        PLAIN.replace("load\n", "load,type\n").replace(".5\n", ".5,cgm\n") + "2024-02-01 03:30,9,manual\n",
        {"keep_rows": "type == cgm", "target_columns": ["load"]},
        {"rows_not_kept": 1},
    ),
    "seconds since 1970": (since_1970(10**9, "time"), {}, {"times": 24}),
    "milliseconds": (since_1970(10**6, "date"), {}, {"times": 24}),
    "microseconds": (since_1970(10**3, "epoch"), {}, {"times": 24}),
    "am and pm": (lines([f"{h:%m/%d/%Y %I:%M %p}" for h in HOURS + pd.Timedelta("24D")], VALUES), {}, {"times": 24}),
    "am and pm of a spreadsheet": (
        lines([f"{h:%m/%d/%Y %I:%M}\u202f{'ap'[h.hour > 11]}.\u00a0m." for h in HOURS + pd.Timedelta("24D")], VALUES),
        {},
        {"times": 24},
    ),
    "row numbers without a name, and a sum": (
        lines([str(n) for n in range(24)], ISO, VALUES, header=",timestamp,load") + "Sum,,36360.0\n",
        {"target_columns": ["load"]},
        {"row_numbers_without_a_name": 1, "rows_below_the_table": 1},
    ),
    "an offset": (lines([f"{h + pd.Timedelta('1h'):%Y-%m-%dT%H:%M}+01:00" for h in HOURS], VALUES), {}, {}),
    "date and clock": (
        lines(DAYS, CLOCKS, VALUES, header="Datum,Uhrzeit,load"), {}, {"times_found": 24},
    ),
    "date and clock, named": (
        lines(DAYS, CLOCKS, VALUES, header="a,b,load"),
        {"timestamp_column": ["a", "b"]},
        {"times": 24},
    ),
    "year, month, day, hour": (
        lines(*([str(getattr(h, part)) for h in HOURS] for part in PARTS), VALUES, header=",".join([*PARTS, "load"])),
        {},
        {"times_found": 24},
    ),
    "a digit for every part": (
        lines([f"{h:%Y%m%d%H}" for h in HOURS], VALUES), {"timestamp_format": "%Y%m%d%H"}, {},
    ),
}  # fmt: skip


def counts(table: SourceTable) -> dict[str, int]:
    return {name: finding["count"] for name, finding in table.cleaning.items()}


@pytest.mark.parametrize("kind", DIALECTS)
def test_the_same_table_in_every_dialect(tmp_path: Path, kind: str):
    content, section, expected = DIALECTS[kind]
    table = read(save(tmp_path, content), **section)
    shift = pd.Timedelta("24D") if kind.startswith("am and pm") else pd.Timedelta(0)
    assert table.roles.target == ("load",)
    assert table.frame[TIMESTAMP].tolist() == list(HOURS + shift)
    assert table.frame["load"].tolist() == [float(value) for value in VALUES]
    found = counts(table)
    assert {name: found.get(name, 0) for name in expected} == expected
    assert table.zone == {"an offset": "+01:00"}.get(kind, "UTC" if "seconds" in kind else None)


@pytest.mark.parametrize("ending", [".txt", ".tsv", ".CSV", ".csv.gz", ".TXT"])
def test_every_ending(tmp_path: Path, ending: str):
    import gzip

    content = PLAIN.encode()
    table = read(save(tmp_path, gzip.compress(content) if ending.endswith("gz") else content, f"house{ending}"))
    assert table.frame[ITEM].unique().tolist() == ["house"]
    assert len(table.frame) == 24


def test_years(tmp_path: Path):
    path = save(tmp_path, "year,sunspots\n" + "".join(f"{year},{year / 10}\n" for year in range(1760, 1800)))
    data = prepare_data(DataSection(source="csv", path=str(path), split=SPLIT), 4, 1)
    assert data.panel.frequency.startswith("YS")
    assert data.panel.timestamps[0] == np.datetime64("1760-01-01")


def test_words_for_no_reading_and_infinities_are_counted(tmp_path: Path):
    values = [*VALUES[:15], "?", "--", "n/a", "inf", "-inf", "-999", "bad", *VALUES[:2]]
    text = problem(save(tmp_path, lines(ISO, values)))
    assert (
        "row 23: 'bad' in column 'load' is not a number; if it stands for no reading: 'data.missing_values=[bad]'"
        in text
    )
    table = read(tmp_path / "x.csv", missing_values=["bad", -999])
    assert table.frame["load"].isna().sum() == 7
    assert counts(table)["words_for_no_reading"] == 5
    assert counts(table)["infinite"] == 2
    frame = pd.DataFrame({TIMESTAMP: HOURS, "load": [np.inf, -999.0, *map(float, VALUES[2:])]})
    frame.to_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet", missing_values=[-999])
    assert counts(table) | {"infinite": 1, "words_for_no_reading": 1} == counts(table)
    assert table.frame["load"].isna().sum() == 2


def test_a_column_of_times_that_nobody_named_is_found_though_its_days_could_be_months(tmp_path: Path):
    clocks = [f"{h:%I:%M %p}" for h in HOURS]
    path = save(tmp_path, lines([f"1/3/2024 {clock}" for clock in clocks], VALUES, header="When,load"))
    text = problem(path)
    assert "'1/3/2024 12:00 AM' in column 'When' could be day first or month first; set data.timestamp_format=" in text
    for way, month in (("%d/%m/%Y %I:%M %p", 3), ("%m/%d/%Y %I:%M %p", 1)):
        assert f"'{way}'" in text
        assert read(path, timestamp_format=way).frame[TIMESTAMP].dt.month.unique().tolist() == [month]


def test_a_headerless_table_says_so(tmp_path: Path):
    text = problem(save(tmp_path, PLAIN.partition("\n")[2]))
    assert "its first row, '2024-02-01 00:00,1400.5', holds a time, not names; write a header line above it" in text


# Other formats


def test_excel(tmp_path: Path):
    """A title, dates as dates and clocks as clocks, ids as text and a second sheet that is not read."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Load of the house"])
    sheet.append([])
    sheet.append(["id", "Date", "Time", "load"])
    for hour, value in zip(HOURS, VALUES, strict=True):
        sheet.append(["007", hour.to_pydatetime().date(), hour.time(), float(value)])
    book.create_sheet("notes").append(["read me"])
    book.save(tmp_path / "x.xlsx")
    table = read(tmp_path / "x.xlsx", item_id_column="id")
    assert table.frame[TIMESTAMP].tolist() == list(HOURS)
    assert table.frame["load"].tolist() == [float(value) for value in VALUES]
    assert table.frame[ITEM].unique().tolist() == ["007"]
    assert counts(table) | {"title_lines": 1, "sheets_not_read": 1} == counts(table)
    (tmp_path / "y.xlsx").write_bytes(b"no book")
    assert "y.xlsx cannot be read: it is not an .xlsx file" in problem(tmp_path / "y.xlsx")


@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
def test_json(tmp_path: Path, as_list: bool):
    rows = [{"id": "01", "time": t, "load": float(v)} for t, v in zip(ISO, VALUES, strict=True)]
    content = json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows))
    table = read(save(tmp_path, content, "x.json" if as_list else "x.jsonl"), item_id_column="id")
    assert table.frame["load"].tolist() == [float(value) for value in VALUES]
    assert table.frame[ITEM].unique().tolist() == ["01"]
    assert "it is not JSON" in problem(save(tmp_path, '{"a": 1', "y.jsonl"))


TSF = """# a data set
@relation house
@attribute series_name string
@attribute start_timestamp date
@frequency hourly
@missing true
@data
01:2024-02-01 00-00-00:1.5,?,2.5
2:2024-02-01 01-00-00:3,4,5,6
"""
GLUONTS = [
    {"item_id": "01", "start": "2024-02-01 00:00", "target": [1.5, None, 2.5], "freq": "H"},
    {"item_id": "2", "start": "2024-02-01 01:00", "target": [3, 4, 5, 6], "freq": "H"},
]
M4 = '"V1","V2","V3","V4","V5"\n"01",1.5,,2.5,\n"2",3,4,5,6\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.tsf", TSF), ("x.jsonl", "\n".join(map(json.dumps, GLUONTS))), ("Hourly-train.csv", M4)],
    ids=["Monash", "GluonTS", "M4"],
)
def test_files_of_whole_series(tmp_path: Path, name: str, content: str):
    table = read(save(tmp_path, content, name))
    values = {item: own["target"].tolist() for item, own in table.frame.groupby(ITEM, sort=False)}
    assert list(values) == ["01", "2"]
    np.testing.assert_array_equal(values["01"], [1.5, np.nan, 2.5])
    assert values["2"] == [3, 4, 5, 6]
    assert table.frequency == "h"
    assert table.files == (str(tmp_path / name),)
    first = table.frame.groupby(ITEM, sort=False)[TIMESTAMP].first().tolist()
    assert first == ([pd.Timestamp("2000-01-01")] * 2 if "train" in name else [HOURS[0], HOURS[1]])


@pytest.mark.shared
def test_a_real_archive_of_monash(shared: Path):
    table = load_source(DataSection(source="csv", path=str(shared / "data/monash/electricity_weekly_dataset.tsf.gz")))
    assert table.frame[ITEM].nunique() == 321
    assert len(table.frame) == 321 * 156
    assert table.frequency == "W"


# Ids


@pytest.mark.parametrize("kind", ["csv", "parquet", "cache"])
def test_ids_are_text_as_they_are_written(tmp_path: Path, kind: str):
    ids = ["01", "1", "NA", "null", "1e5", "007", "1.0"]
    frame = pd.concat([pd.DataFrame({"id": one, TIMESTAMP: HOURS, "load": np.arange(24.0)}) for one in ids])
    path = tmp_path / ("x.csv" if kind == "csv" else "x.parquet")
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    cache = str(tmp_path / "cache") if kind == "cache" else None
    section = DataSection(source="csv", path=str(path), item_id_column="id", cache=cache, split=SPLIT)
    data = prepare_data(section, 4, 2)
    assert set(data.panel.item_ids) == set(ids)
    again = data.preprocessor.read_frame(frame, "frame")
    assert set(again.frame[ITEM]) == set(ids)


def test_ids_that_a_reader_made_numbers_are_whole(tmp_path: Path):
    frame = pd.DataFrame({"id": [7.0] * 24, TIMESTAMP: HOURS, "load": np.arange(24.0)})
    frame.to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", item_id_column="id").frame[ITEM].unique().tolist() == ["7"]


# Forecasts


def fitted(path: Path, **section: object):
    """Persistence that read a file, which is quick and forecasts like any model."""
    data = {
        "source": "csv",
        "path": str(path),
        "item_id_column": None,
        "target_columns": None,
        "split": SPLIT,
        **section,
    }
    recipe = tiny.recipe(
        path,
        Path("unused"),
        data=data,
        model={"context_length": 4, "prediction_length": 2},
        evaluation={"horizons": []},
    )
    model = model_class("persistence")(validate(recipe, "test"))
    prepared = model.prepare()
    model.build(prepared.preprocessor)
    return model


@pytest.mark.parametrize(
    ("times", "section", "first"),
    [
        (ISO, {}, "2024-02-02 00:00:00"),
        (ISO, {"timezone": "Europe/Berlin"}, "2024-02-02 00:00:00+01:00"),
        ([f"{h:%Y-%m-%dT%H:%M}+05:30" for h in HOURS], {}, "2024-02-02 00:00:00+05:30"),
        ([f"{h:%Y-%m-%dT%H:%M}Z" for h in HOURS], {}, "2024-02-02 00:00:00+00:00"),
        ([f"{h + pd.Timedelta('30min'):%Y-%m-%d %H:%M}" for h in HOURS], {}, "2024-02-02 00:30:00"),
    ],
    ids=["naive", "data.timezone", "offset", "UTC", "half past"],
)
def test_forecasts_come_back_on_the_clock_of_the_input(tmp_path: Path, times: list[str], section: dict, first: str):
    path = save(tmp_path, lines(times, VALUES))
    forecast = fitted(path, **section).predict(path)
    assert str(forecast[TIMESTAMP].iloc[0]) == first


# The real files: folder -> (keys, rows, series, time of the first step after the last row, findings)

MEDTRONIC = {"target_columns": ["Sensor Glucose (mg/dL)"], "on_duplicate": "mean"}
FILES = {
    "f01-unnamed-index": ({}, 300, 1, "2024-01-13 12:00", {}),
    "f02-year-month-day": ({}, 400, 1, "2010-01-17 16:00", {"times_found": 400}),
    "f07-units-row": ({}, 300, 1, "2024-01-13 12:00", {"rows_of_units": 1}),
    "f11-blank-lines-inside": ({}, 300, 1, "2024-01-13 12:00", {"empty_rows": 1}),
    "f12-txt-suffix": ({}, 300, 1, "2024-01-13 12:00", {}),
    "f14-pipe-separated": ({"item_id_column": "PtID"}, 400, 2, None, {}),
    "g01-epoch-s": ({}, 300, 1, "2024-01-13 12:00", {"times": 300}),
    "g02-epoch-ms": ({}, 300, 1, "2024-01-13 12:00", {"times": 300}),
    "g04-year-int": ({}, 260, 1, "2020-01-01", {"times": 260}),
    "g08-weekly-holiday": ({}, 300, 1, "2020-10-04", {}),
    "g10-quarter-feb": ({}, 280, 1, "2020-02-01", {}),
    "g12b-dst-timezone": ({"timezone": "Europe/Berlin"}, 500, 1, "2023-11-09 18:00", {"local_times": 500}),
    "g14-step-301s": ({}, 500, 1, "2024-01-02 17:50", {}),
    "g15-half-past": ({}, 400, 1, "2024-01-17 16:30", {}),
    "g16-excel-date-time": ({}, 400, 1, "2024-02-05 04:00", {"times_found": 400, "decimal_commas": 800}),
    "g17-excel-sep-line": ({}, 400, 1, "2024-02-05 04:00", {"separator_lines": 1, "decimal_commas": 800}),
    "g18-german-thousands": ({}, 400, 1, "2024-02-05 04:00", {"decimal_commas": 800}),
    "i01-leading-zeros": ({"item_id_column": "id"}, 450, 3, None, {}),
    "i02-zeros-collide": ({"item_id_column": "id"}, 300, 2, None, {}),
    "i03-id-NA": ({"item_id_column": "id"}, 450, 3, None, {}),
    "i05-mixed-then-alone": ({"item_id_column": "id"}, 450, 3, None, {}),
    "n03-meter-1e9": ({}, 300, 1, "2024-01-13 12:00", {}),
    "n05-inf": ({}, 300, 1, "2024-01-13 12:00", {"infinite": 2}),
    "n06-question-mark": ({}, 300, 1, "2024-01-13 12:00", {"words_for_no_reading": 3}),
    "v07b-medtronic-block-cut": (MEDTRONIC, 494, 1, None, {"times_found": 494}),
    "v12-d1namo": ({"target_columns": ["glucose"]}, 500, 1, "2014-10-03 03:40", {"times_found": 500}),
    "v13-hupa-ucm": ({"target_columns": ["glucose"]}, 500, 1, "2018-06-15 12:20", {}),
    "v14-cgmacros": ({"target_columns": ["Libre GL"]}, 480, 1, "2024-03-01 16:00", {"row_numbers_without_a_name": 1}),
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("folder", FILES)
def test_a_file_that_once_went_wrong(shared: Path, folder: str):
    from tstune.data.cleaning import CleaningRules
    from tstune.data.panel_store import read_panel
    from tstune.models.predict import future_timestamps

    section, rows, series, after, findings = FILES[folder]
    (path,) = (shared / "cases" / "files" / folder).iterdir()
    config = DataSection(source="csv", path=str(path), **section)
    table = load_source(config)
    assert len(table.frame) == rows
    assert table.frame[ITEM].nunique() == series
    found = counts(table)
    assert {name: found.get(name, 0) for name in findings} == findings
    panel, _ = read_panel(config, CleaningRules.from_config(config))
    if after is not None:
        assert future_timestamps(panel, 1)[-1, 0] == np.datetime64(after)


@pytest.mark.shared
def test_every_file_of_the_cases_has_its_test(shared: Path):
    there = {folder.name for folder in (shared / "cases" / "files").iterdir() if not folder.name.startswith("v")}
    assert there == {name for name in FILES if not name.startswith("v")}


# What a first user does


def two_people(column: str, apart: str = "0s") -> pd.DataFrame:
    parts = [
        pd.DataFrame({column: one, TIMESTAMP: HOURS + pd.Timedelta(apart) * number, "load": np.arange(24.0) + number})
        for number, one in enumerate(("anna", "bert"))
    ]
    return pd.concat(parts)


@pytest.mark.parametrize("apart", ["0s", "7min"])
@pytest.mark.parametrize("by_time", [False, True], ids=["one after the other", "by time"])
def test_a_forgotten_column_of_series_is_named(tmp_path: Path, apart: str, by_time: bool):
    frame = two_people("person", apart)
    frame = frame.sort_values(TIMESTAMP) if by_time else frame
    for table in (frame, frame.assign(person=frame["person"].map({"anna": 5, "bert": 6}))):
        table.to_csv(tmp_path / "x.csv", index=False)
        text = problem(tmp_path / "x.csv", target_columns=["load"])
        assert "rows of one time differ in column 'person' (" in text
        assert "set data.item_id_column=person" in text
    assert read(tmp_path / "x.csv", item_id_column="person").frame[ITEM].nunique() == 2
    kept = read(tmp_path / "x.csv", keep_rows="person == 6", target_columns=["load"])
    assert len(kept.frame) == 24


@pytest.mark.parametrize("jitter", [0, 20])
@pytest.mark.parametrize("kinds", [["work", "rest"], ["a", "b", "c"], [0, 0.5, 1]])
def test_a_column_of_few_values_beside_one_series_is_no_series(tmp_path: Path, kinds: list, jitter: int):
    random = np.random.default_rng(0)
    stamps = pd.date_range("2024-02-01", periods=90, freq="h") + pd.to_timedelta(
        random.integers(0, 1 + jitter, 90), "min"
    )
    for cells in ((kinds * 45)[:90], random.choice(kinds, 90), np.sort(random.choice(kinds, 90))):
        frame = pd.DataFrame({TIMESTAMP: stamps, "load": np.arange(90.0), "kind": cells})
        frame.to_csv(tmp_path / "x.csv", index=False)
        assert len(read(tmp_path / "x.csv", target_columns=["load"]).frame) == 90


def test_columns_by_another_name(tmp_path: Path):
    path = save(tmp_path, PLAIN)
    model = fitted(path)
    frame = pd.read_csv(path).rename(columns={"load": "load_kw"})
    with pytest.raises(DataError, match=r"no column 'load', which the model reads.*--rename load=<column>"):
        model.predict(frame)
    expected = model.predict(path)["load"]
    model.preprocessor = replace(model.preprocessor, rename={"load": "load_kw"})
    assert model.predict(frame)["load"].tolist() == expected.tolist()
    assert model.predict(path)["load"].tolist() == expected.tolist()
    frame.to_csv(tmp_path / "y.csv", index=False)
    assert read(tmp_path / "y.csv", rename={"load": "load_kw"}).roles.target == ("load",)
    assert "no column 'kw' (data.rename)" in problem(tmp_path / "y.csv", rename={"load": "kw"})


@pytest.mark.parametrize(("every", "decimals"), [(3, None), (5, None), (3, 1), (5, 1), (3, 0)])
def test_a_series_that_was_interpolated_before_is_thinned(every: int, decimals: int | None):
    real = person(1, 200)[: 600 // every]
    steps = np.arange((len(real) - 1) * every + 1)
    drawn = np.interp(steps, steps[::every], real)
    drawn = drawn if decimals is None else np.round(drawn, decimals)
    both = series_table({"drawn": drawn, "measured": person(2, 600)})
    kept = clean_table(both, CleaningRules())
    assert set(kept.cleaning["interpolated_readings"]["by_item"]) == {"drawn"}
    assert kept.cleaning["interpolated_readings"]["action"].startswith("kept; a line holds readings of the future")
    thinned = clean_table(both, CleaningRules(interpolated_readings="drop")).frame
    own = thinned[thinned[ITEM] == "drawn"]["glucose"]
    np.testing.assert_array_equal(np.flatnonzero(own.notna()), steps[::every])
    assert thinned[thinned[ITEM] == "measured"]["glucose"].notna().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.path=nowhere.csv"], "data file nowhere.csv does not exist"),
        (["data.target_columns=[lode]"], "no column 'lode' (data.target_columns)"),
        (["data.item_id_column=who"], "no column 'who' (data.item_id_column)"),
    ],
)
def test_paths_and_columns_are_checked_before_anything_heavy(tmp_path: Path, changes: list[str], words: str):
    recipe = tiny.write_recipe(
        tmp_path / "r.yaml", tiny.recipe(tiny.write_series(tmp_path / "x.csv"), tmp_path / "run")
    )
    code = (
        "import sys, finetune_ttm; code = finetune_ttm.main(sys.argv[1:]); "
        "heavy = {'accelerate', 'transformers', 'tsfm_public'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, "--config", str(recipe), *changes]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(finetune_ttm.__file__).parent, check=False)
    assert words in done.stderr
    assert "loaded" not in done.stderr
    assert done.returncode == 2


def test_daily_data_on_a_recipe_of_five_minutes(tmp_path: Path):
    """All that is wrong is said at once, and what is said to work does."""
    days = pd.date_range("2023-01-01", periods=200)
    frame = pd.DataFrame({TIMESTAMP: days, "load": 100 + np.arange(200) % 7 + np.random.default_rng(0).random(200)})
    frame.to_csv(tmp_path / "x.csv", index=False)
    data = {"item_id_column": None, "target_columns": None, "max_gap": "45min"}
    lengths = {"context_length": 512, "prediction_length": 24, "type": "persistence"}
    recipe = tiny.recipe(tmp_path / "x.csv", tmp_path / "run", data=data, evaluation={"horizons": ["30min", "60min"]})
    recipe["model"] = lengths
    config = validate(recipe, "test")
    with pytest.raises(ConfigError) as caught:
        model_class("persistence")(config).prepare()
    text = str(caught.value)
    for words in ("data.max_gap='45min' is no multiple", "evaluation.horizons='30min'", "'60min'", "needs 536 steps"):
        assert words in text
    changes = text.partition("this works: ")[2]
    assert "data.max_gap=null" in changes
    path = tiny.write_recipe(tmp_path / "r.yaml", recipe)
    fixed = SimpleConfigManager().load_config(path, changes.split())
    model_class("persistence")(fixed).prepare()
