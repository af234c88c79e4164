"""The rebuilt series as one long table: convert the competition's folder, write it as Parquet, read it back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tstune.data.sources.kaggle_brist1d_files import (
    ACTIVITY,
    CHANNELS,
    HOW_TO_GET,
    NUM_LAGS,
    STEP_MINUTES,
    find_csv,
    read_participants,
)
from tstune.data.sources.kaggle_brist1d_series import Series, rebuild
from tstune.errors import DataError
from tstune.runtime.logs import logger

FIRST_DAY = "2000-11-06"
"""The files have no dates; this one is made up, and so is the time between two segments. Clocks are set nowhere in the
four months that follow, so no check can take a gap for a change of the clock."""

_KEY = b"tstune_kaggle_brisT1D"
_FORMAT = 1


def convert_folder(folder: Path) -> pa.Table:
    """Rebuild the series of train.csv and, if it is there, of test.csv.

    Returns:
        one row per participant, file, segment and five-minute instant, in this order. Columns: `file` (train, test),
        `item_id`, `segment`, `first_row` (id of the segment's first row; in test.csv a row is a segment),
        `timestamp` (true time of day on made-up days), the six channels as float64 with null where nothing is known,
        `activity` (text), `in_lags` (a row's six hours cover the instant). `report_of` reads the counts.

    Raises:
        DataError: no train.csv, or a file that is not the competition's.
    """
    paths = {stem: find_csv(folder, stem) for stem in ("train", "test")}
    if paths["train"] is None:
        raise DataError(f"{folder} holds no train.csv (plain, .gz, .zip, or in brist1d.zip); {HOW_TO_GET}")
    tables, files, participants = [], [], []
    for stem, path in paths.items():
        if path is not None:
            table, counts = convert_file(path, stem)
            tables.append(table)
            participants += counts
            num_rows = sum(person["rows"] for person in counts)
            files.append({"file": stem, "name": path.name, "rows": num_rows, "sha256": sha256(path)})
    table = pa.concat_tables(tables).unify_dictionaries()
    return table.replace_schema_metadata({_KEY: json.dumps(_report(files, participants))})


def convert_file(path: Path, stem: str) -> tuple[pa.Table, list[dict]]:
    """Rebuild the series of one file.

    Args:
        path: where it is.
        stem: ``train``, whose rows follow each other, or ``test``, whose rows are segments of their own.

    Returns:
        the columns of `convert_folder`, and the counts of each participant.
    """
    tables, counts = [], []
    for rows in read_participants(path, stem):
        series = rebuild(rows, isolated=stem == "test")
        tables.append(_table(series, stem))
        counts.append(_counts(series, stem))
    logger.info("%s: %s rows read", path, f"{sum(person['rows'] for person in counts):,}")
    return pa.concat_tables(tables).unify_dictionaries(), counts


def report_of(table: pa.Table | pa.Schema) -> dict:
    """Counts of a converted table: files, rows, participants, segments, conflicts."""
    schema = table.schema if isinstance(table, pa.Table) else table
    return json.loads(schema.metadata[_KEY])


def write_prepared(table: pa.Table, path: Path) -> None:
    """Write a converted table as Parquet, and its counts as JSON beside it; each appears as a whole.

    Raises:
        OSError: the place cannot be written.
    """
    report = path.with_suffix(".json")
    asides = [file.with_name(f".partial-{file.name}") for file in (report, path)]
    try:
        asides[0].write_text(json.dumps(report_of(table), indent=2) + "\n", encoding="utf-8")
        pa.parquet.write_table(table, asides[1], compression="zstd")
        asides[0].replace(report)
        asides[1].replace(path)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


def read_prepared(path: Path, file: str) -> pa.Table:
    """Rows of ``train`` or ``test`` of a prepared Parquet file.

    Raises:
        DataError: the file is missing, damaged, or was not written by `write_prepared`.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    try:
        schema = pa.parquet.read_schema(path)
        if _KEY not in (schema.metadata or {}):
            raise DataError(
                f"{path} was not written by scripts/prepare_brist1d.py; for other tables set data.source=csv"
            )
        if report_of(schema)["format"] != _FORMAT:
            raise DataError(f"{path} is of another version of this project; write it anew: scripts/prepare_brist1d.py")
        return pa.parquet.read_table(path, filters=[("file", "=", file)])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:240]}") from None


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _table(series: Series, stem: str) -> pa.Table:
    number = len(series.step)
    step = np.timedelta64(STEP_MINUTES, "m")
    columns = {
        "file": _repeated(stem, number),
        "item_id": _repeated(series.participant, number),
        "segment": pa.array(series.segment.astype(np.int32)),
        "first_row": pa.DictionaryArray.from_arrays(series.segment.astype(np.int32), series.first_id),
        "timestamp": pa.array(np.datetime64(FIRST_DAY, "s") + series.step * step),
    }
    for name, values in zip(CHANNELS, series.values, strict=True):
        columns[name] = pa.array(values, from_pandas=True)  # NaN becomes null
    codes = pa.array(series.activity.astype(np.int32), mask=series.activity < 0)
    columns[ACTIVITY] = pa.DictionaryArray.from_arrays(codes, pa.array(series.activity_names, pa.string()))
    columns["in_lags"] = pa.array(series.in_lags)
    return pa.table(columns)


def _repeated(text: str, number: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(number, np.int32)), [text])


def _counts(series: Series, stem: str) -> dict:
    return {
        "file": stem,
        "item_id": series.participant,
        "rows": series.num_rows,
        "cells": series.num_rows * NUM_LAGS * (len(CHANNELS) + 1),
        "instants": len(series.step),
        "segments": len(series.first_id),
        "clock_jumps": series.clock_jumps,
        "sampling_minutes": series.sampling_minutes,
        "values": {name: int((~np.isnan(values)).sum()) for name, values in zip(CHANNELS, series.values, strict=True)}
        | {ACTIVITY: int((series.activity >= 0).sum())},
        "conflicts": series.conflicts,
        "partly_empty": series.partly_empty,
    }


def _report(files: list[dict], participants: list[dict]) -> dict:
    trained = {counts["item_id"] for counts in participants if counts["file"] == "train"}
    tested = {counts["item_id"] for counts in participants if counts["file"] == "test"}
    totals = {
        name: {
            file["file"]: sum(counts[name] for counts in participants if counts["file"] == file["file"])
            for file in files
        }
        for name in ("rows", "instants", "segments", "clock_jumps")
    }
    doubts = {
        name: {channel: sum(counts[name][channel] for counts in participants) for channel in (*CHANNELS, ACTIVITY)}
        for name in ("conflicts", "partly_empty")
    }
    return {
        "format": _FORMAT,
        "dates": f"not in the files: days are counted from {FIRST_DAY}, times of day are real",
        "files": files,
        **totals,
        **doubts,
        "unseen_participants": sorted(tested - trained),
        "participants": participants,
    }
