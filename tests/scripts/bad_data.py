"""Tables that cannot be read, or cannot give a window."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
from bad_input import Case, edit_series, remove_file, set_cell, write_file

_LENGTHS = ("40 steps", "model.context_length + model.prediction_length")


def _every_twentieth_row_lost(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.index % 20 != 0]


def _european_dates(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["timestamp"].str.startswith("2024-01-02")]  # a single day leaves open what is the month
    return table.assign(timestamp=pd.to_datetime(table["timestamp"]).dt.strftime("%d/%m/%Y %H:%M"))


def _damaged_gzip(folder: Path) -> None:
    content = bytearray(gzip.compress((folder / "series.csv").read_bytes()))
    content[40:60] = bytes(20)
    (folder / "series.csv.gz").write_bytes(content)


def _truncated_gzip(folder: Path) -> None:
    content = gzip.compress((folder / "series.csv").read_bytes())
    (folder / "series.csv.gz").write_bytes(content[: len(content) // 2])


CASES = (
    # the file
    Case("no such file", "missing file", ("nowhere.csv", "does not exist", "data.path"), ("data.path=nowhere.csv",)),
    Case("file deleted", "missing file", ("series.csv", "does not exist", "data.path"), (), remove_file("series.csv")),
    Case("path not given", "missing file", ("source csv", "data.path=<file.csv"), ("data.path=null",)),
    Case(
        "unknown kind of file",
        "missing file",
        ("series.ods", "unknown kind of file", ".csv, .tsv, .txt"),
        ("data.path={folder}/series.ods",),
        write_file("series.ods", "a"),
    ),
    Case("empty file", "missing file", ("series.csv", "cannot be read"), (), write_file("series.csv", "")),
    Case(
        "header only",
        "missing file",
        ("series.csv", "no rows"),
        (),
        write_file("series.csv", "item_id,timestamp,load\n"),
    ),
    Case(
        "ragged rows",
        "missing file",
        ("series.csv", "cannot be read", "row 3"),
        (),
        write_file("series.csv", "item_id,timestamp,load\na,2024-01-01,1\na,2024-01-02,1,5,7\n"),
    ),
    Case(
        "a quotation without end",
        "missing file",
        ("series.csv", "cannot be read", "row 2 opens a quotation"),
        (),
        write_file("series.csv", 'item_id,timestamp,load\n"a,2024-01-01,1\nb,2024-01-01,1\n'),
    ),
    Case(
        "gzip in name only",
        "missing file",
        ("series.csv.gz", "cannot be read"),
        ("data.path={folder}/series.csv.gz",),
        write_file("series.csv.gz", "item_id,timestamp,load\n"),
    ),
    Case(
        "truncated gzip",
        "missing file",
        ("series.csv.gz", "cannot be read"),
        ("data.path={folder}/series.csv.gz",),
        _truncated_gzip,
    ),
    Case(
        "damaged gzip",
        "missing file",
        ("series.csv.gz", "cannot be read"),
        ("data.path={folder}/series.csv.gz",),
        _damaged_gzip,
    ),
    Case(
        "Parquet in name only",
        "missing file",
        ("series.parquet", "cannot be read"),
        ("data.path={folder}/series.parquet",),
        write_file("series.parquet", "item_id,timestamp,load\n"),
    ),
    # the columns
    Case(
        "no timestamp column",
        "missing column",
        ("series.csv", "no column 'when'", "data.timestamp_column", "item_id, timestamp, load, dose, plan"),
        ("data.timestamp_column=when",),
    ),
    Case(
        "no item column",
        "missing column",
        ("series.csv", "no column 'patient'", "data.item_id_column", "item_id, timestamp, load, dose, plan"),
        ("data.item_id_column=patient",),
    ),
    Case(
        "no target column",
        "missing column",
        ("series.csv", "no column 'laod'", "data.target_columns", "item_id, timestamp, load, dose, plan"),
        ("data.target_columns=[laod]",),
    ),
    Case(
        "no conditional column",
        "missing column",
        ("series.csv", "no column 'insulin'", "data.conditional_columns"),
        ("data.conditional_columns=[insulin]",),
    ),
    Case(
        "no control column",
        "missing column",
        ("series.csv", "no column 'hour'", "data.control_columns"),
        ("data.control_columns=[hour]",),
    ),
    Case("no target at all", "missing column", ("data.target_columns",), ("data.target_columns=[]",)),
    Case(
        "two roles for one column",
        "missing column",
        ("'load'", "two roles", "data.*_columns"),
        ("data.conditional_columns=[load]",),
    ),
    Case(
        "roles for columns that are items",
        "missing column",
        ("data.columns_as=items", "no other column roles"),
        ("data.columns_as=items",),
    ),
    Case(
        "ETT file without its columns",
        "missing column",
        ("series.csv", "no column 'date'", "HUFL"),
        ("data.source=ett", "data.target_columns=null", "data.item_id_column=null"),
    ),
    Case(
        "unknown source",
        "missing file",
        ("data.source", "'cvs'", "did you mean csv?", "cgm_sample, csv, ett"),
        ("data.source=cvs",),
    ),
    Case(
        "path for the embedded source",
        "missing file",
        ("data.path=", "no meaning for source cgm_sample", "data.source=csv"),
        ("data.source=cgm_sample", "data.target_columns=null", "data.item_id_column=null"),
    ),
    # the timestamps
    Case(
        "word for a timestamp",
        "unparsable timestamps",
        ("series.csv", "row 7", "'yesterday'", "'timestamp'", "data.timestamp_format"),
        (),
        set_cell(5, "timestamp", "yesterday"),
    ),
    Case(
        "empty timestamp",
        "unparsable timestamps",
        ("series.csv", "row 7", "'timestamp'", "not a timestamp"),
        (),
        set_cell(5, "timestamp", None),
    ),
    Case(
        "day before month",
        "unparsable timestamps",
        ("series.csv", "'02/01/2024 00:00'", "day first or month first", "data.timestamp_format", "%d/%m/%Y %H:%M"),
        (),
        edit_series(_european_dates),
    ),
    Case(
        "numbers for timestamps",
        "unparsable timestamps",
        ("series.csv", "'timestamp'", "numbers, not timestamps", "2024-01-31 08:05"),
        (),
        edit_series(lambda table: table.assign(timestamp=range(len(table)))),
    ),
    Case(
        "format of other timestamps",
        "unparsable timestamps",
        ("series.csv", "row 2", "in data.timestamp_format='%d.%m.%Y %H:%M'", "data.timestamp_format=null"),
        ("data.timestamp_format='%d.%m.%Y %H:%M'",),
    ),
    Case(
        "format that is none", "unparsable timestamps", ("data.timestamp_format", "%Q"), ("data.timestamp_format='%Q'",)
    ),
    Case(
        "timestamps after the end of time",
        "unparsable timestamps",
        ("series.csv", "row 401", "9999-12-31"),
        (),
        set_cell(399, "timestamp", "9999-12-31 00:00:00"),
    ),
    Case(
        "the same hour twice",
        "duplicate timestamps",
        ("series.csv", "1 duplicate timestamp(s)", "2024-01-01 04:00:00", "'a'", "one row per time"),
        (),
        set_cell(5, "timestamp", "2024-01-01 04:00:00"),
    ),
    Case(
        "two series read as one",
        "duplicate timestamps",
        ("series.csv", "rows of one time differ in column 'item_id'", "data.item_id_column=item_id"),
        ("data.item_id_column=null",),
    ),
    # the numbers
    Case(
        "text in the target",
        "text in a numeric column",
        ("series.csv", "row 12", "'low'", "'load'", "not a number"),
        (),
        set_cell(10, "load", "low"),
    ),
    Case(
        "decimal comma",
        "text in a numeric column",
        ("series.csv", "row 12", "'20,5'", "'load'", "not a number"),
        (),
        set_cell(10, "load", "20,5"),
    ),
    Case(
        "text in a conditional column",
        "text in a numeric column",
        ("series.csv", "row 12", "'two'", "'dose'", "not a number"),
        ("data.conditional_columns=[dose]",),
        set_cell(10, "dose", "two"),
    ),
    Case(
        "text in a target nobody named",
        "text in a numeric column",
        ("series.csv", "row 12", "'low'", "'load'", "not a number"),
        ("data.target_columns=null",),
        set_cell(10, "load", "low"),
    ),
    Case(
        "target without a value",
        "everything NaN",
        ("series.csv", "'load'", "only missing ones", "leave it out"),
        (),
        edit_series(lambda table: table.assign(load=None)),
    ),
    Case(
        "target of infinities",
        "everything NaN",
        ("series.csv", "'load'", "only missing ones"),
        (),
        edit_series(lambda table: table.assign(load="inf")),
    ),
    # the windows
    Case(
        "39 steps for a window of 40",
        "series shorter than context + prediction",
        ("too short", *_LENGTHS, "39", "this works: model.pretrained=null "),
        (),
        edit_series(lambda table: table.groupby("item_id").head(39)),
    ),
    Case(
        "no stretch without a gap",
        "series shorter than context + prediction",
        ("long gap", *_LENGTHS, "19", "data.max_gap"),
        ("data.max_gap=0",),
        edit_series(_every_twentieth_row_lost),
    ),
    Case(
        "no training window",
        "zero windows in a split",
        ("train part has no window", *_LENGTHS, "20 steps", "this works: model.pretrained=null "),
        ("data.split.train=0.05",),
    ),
    Case(
        "no validation window",
        "zero windows in a split",
        ("validation part has no window", *_LENGTHS, "20 steps", "this works: data.split.mode=deployment"),
        ("data.split.validation=0.05", "data.split.mode=strict"),
    ),
    Case(
        "no test window",
        "zero windows in a split",
        ("test part has no window", *_LENGTHS, "20 steps", "this works: data.split.mode=deployment"),
        ("data.split.test=0.05", "data.split.mode=strict"),
    ),
    Case(
        "borders beyond the end",
        "zero windows in a split",
        ("data.split.borders", "500", "'a'", "400 steps"),
        ("data.split.borders=[100,200,500]",),
    ),
    Case(
        "no published borders",
        "zero windows in a split",
        ("data.split.borders=standard", "no published borders", "three numbers"),
        ("data.split.borders=standard",),
    ),
    # the grid
    Case("unknown frequency", "wrong value", ("data.frequency='hourly'", "5min, 15min, h"), ("data.frequency=hourly",)),
    Case("backward frequency", "wrong value", ("data.frequency", "-5min"), ("data.frequency=-5min",)),
    Case("frequency of nothing", "wrong value", ("data.frequency", "0min"), ("data.frequency=0min",)),
    Case("far too fine a grid", "wrong value", ("series 'a'", "steps of ns", "data.frequency"), ("data.frequency=ns",)),
    Case("gap that is no time", "wrong value", ("data.max_gap='soon'", "45min, 2h"), ("data.max_gap=soon",)),
    Case("gap off the grid", "wrong value", ("data.max_gap='45min'", "no multiple", "h"), ("data.max_gap=45min",)),
    Case("negative gap", "wrong value", ("data.max_gap", "-3"), ("data.max_gap=-3",)),
)
