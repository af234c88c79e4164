"""BrisT1D of the Kaggle competition brist1d: insulin, meals, watch and glucose of people with type 1 diabetes.

The training series are rebuilt from train.csv; each participant is an item. The files hold times but no dates: where
the time between two stretches is not known they lie more than a day apart on a made-up calendar, so no window crosses
them. Readings of fifteen-minute sensors lie on every third step of the five-minute grid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from tstune.config.schema import DataSection
from tstune.data.frequency import fixed_step, parse_frequency, to_steps
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.channels import choose_channels, fill_of
from tstune.data.sources.kaggle_brist1d_rows import (
    ACTIVITY,
    CHANNELS,
    HOW_TO_GET,
    NUM_LAGS,
    NUMBERS,
    SEGMENT_GAP,
    STEP_MINUTES,
    RebuiltSeries,
    find_csv,
    read_participants,
    rebuild,
)
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError, DataError
from tstune.foreign_files import damage, sha256_of
from tstune.runtime.files import aside
from tstune.runtime.logs import logger

FIRST_DAY = "2000-11-06"
"""The files have no dates; this one is made up, and so is the time between two segments. Clocks are set nowhere in the
four months that follow, so no check can take a gap for a change of the clock."""

_KEY = b"tstune_kaggle_brisT1D"
_FORMAT = 1

TARGET = CHANNELS[0]
PREPARED = "brist1d.parquet"
"""Prepared file that is found without being named, if it lies in the folder."""
VARIABLE = "TSTUNE_DATA"
DATELESS = ("hour_of_day",)
"""Features of the time that need no date."""

INFO = SourceInfo(
    name="kaggle_brisT1D",
    summary="real glucose (mmol/L), insulin, meals, heart rate, steps and calories of nine people with type 1 "
    "diabetes, summer 2023",
    licence="rules of the Kaggle competition brist1d: no redistribution",
    where=f"{HOW_TO_GET}, and set data.path=<folder>, or {VARIABLE} to the folder that holds kaggle_brisT1D/",
    keys={
        "path": f"folder with train.csv (plain, .gz, .zip, or in brist1d.zip), or the file that "
        f"scripts/prepare_brist1d.py wrote; null takes ${VARIABLE}/kaggle_brisT1D",
        "conditional_columns": f"any of {', '.join(CHANNELS[1:])}; activity is 1 where one is declared, else 0",
    },
    options=(
        Option("sampling", None, "5 or 15: only people whose sensor reads every so many minutes, on that grid", int),
    ),
)

_FREQUENCY = f"{STEP_MINUTES}min"


def load(config: DataSection) -> SourceTable:
    """Return the training series: glucose in mmol/L, and the channels that `data.conditional_columns` names."""
    roles = choose_channels(config, INFO.name, TARGET, CHANNELS[1:])
    sampling = INFO.read_options(config)["sampling"]
    if sampling not in (None, 5, 15):
        raise ConfigError(
            f"data.source_options.sampling={sampling}: source {INFO.name} has sensors of 5 and 15 minutes"
        )
    _check_times(config)
    table, file = _read(_locate(config.path))
    report = report_of(table)
    people = [counts for counts in report["participants"] if counts["file"] == "train"]
    if sampling is not None:
        people = [counts for counts in people if counts["sampling_minutes"] == sampling]
        names = pa.array([counts["item_id"] for counts in people], pa.string())
        table = table.filter(pa.compute.is_in(table["item_id"].cast(pa.string()), names))
    frame = channel_frame(table, roles.channels)
    if frame.empty:
        raise DataError(
            f"{file}: no glucose of anybody" + (f" with a sensor of {sampling} minutes" if sampling else "")
        )
    return SourceTable(
        frame=frame,
        roles=roles,
        frequency=_FREQUENCY if sampling is None else f"{sampling}min",
        max_gap="45min",
        fill=fill_of([channel for channel in roles.conditional if channel != "hr"]),
        unit="mmol/L",
        licence=INFO.licence,
        files=(str(file),),
        notes={
            "dates": report["dates"],
            "rebuilt_from": next(counts for counts in report["files"] if counts["file"] == "train"),
            "people": people,
        },
    )


def _locate(path: str | None) -> Path:
    """`data.path`, or the folder of this source under the environment variable TSTUNE_DATA."""
    if path is None and not os.environ.get(VARIABLE):
        raise ConfigError(f"source {INFO.name} needs its files: {INFO.where}")
    place = Path(os.environ[VARIABLE]) / INFO.name if path is None else Path(path)
    if not place.exists():
        raise INFO.missing(place)
    return place


def channel_frame(table: pa.Table, channels: Sequence[str], items: str = "item_id") -> pd.DataFrame:
    """Readings of these channels with missing as it is meant, in the columns of a `SourceTable`.

    An empty cell of `carbs` means that nothing was eaten: 0 g at every instant that a row's six hours cover, if the
    participant wrote down any meal at all. Activity is 1 where one is declared and 0 at such an instant without, for
    those who ever declare any. Insulin, heart rate, steps and calories without a value are unknown (no
    data from the pump, watch not worn).

    Args:
        items: column that names the items: ``item_id``, or ``first_row`` for the rows of test.csv one by one.
    """
    people = table["item_id"].to_numpy()
    stamps = table["timestamp"].to_numpy().astype("datetime64[ns]")
    frame = pd.DataFrame({ITEM: table[items].to_numpy(), TIMESTAMP: stamps})
    for channel in channels:
        if channel == ACTIVITY:
            values = np.where(table[channel].is_valid().to_numpy(), 1.0, np.nan)
        else:
            values = table[channel].to_numpy()
        if channel in ("carbs", ACTIVITY):
            writes_it_down = np.isin(people, np.unique(people[~np.isnan(values)]))
            values = np.where(np.isnan(values) & writes_it_down & table["in_lags"].to_numpy(), 0.0, values)
        frame[channel] = values
    return frame.dropna(subset=list(channels), how="all").reset_index(drop=True)


def _read(place: Path) -> tuple[pa.Table, Path]:
    """(training rows, file they come from) of a prepared file, or of a folder with or without one."""
    if place.is_file():
        return read_prepared(place, "train"), place
    prepared, original = place / PREPARED, find_csv(place, "train")
    if prepared.is_file():
        table = read_prepared(prepared, "train")
        was = next(counts["sha256"] for counts in report_of(table)["files"] if counts["file"] == "train")
        if original is None or sha256_of(original) == was:
            return table, prepared
        logger.warning("%s was made from another %s and is left aside; write it anew", prepared, original.name)
    table = convert_folder(place)
    logger.info("scripts/prepare_brist1d.py writes %s once, for the next run to read in a second", prepared)
    return table.filter(pa.compute.equal(table["file"].cast(pa.string()), "train")), original


def _check_times(config: DataSection) -> None:
    """Refuse what needs dates, and to fill gaps as long as those whose length is not known."""
    for key, value in (("split.preset", config.split.preset), ("split.borders_at", config.split.borders_at)):
        if value is not None:
            raise ConfigError(
                f"data.{key}={value}: the files of source {INFO.name} have no dates; use shares or borders in steps"
            )
    if dated := [name for name in config.time_features if name not in DATELESS]:
        raise ConfigError(
            f"data.time_features={dated[0]}: the files of source {INFO.name} have no dates; take {', '.join(DATELESS)}"
        )
    if config.max_gap is None:
        return
    frequency = config.frequency or _FREQUENCY
    step = fixed_step(parse_frequency(frequency))
    minutes = to_steps(config.max_gap, frequency, "data.max_gap") * (step.total_seconds() / 60 if step else 0)
    if minutes >= SEGMENT_GAP * STEP_MINUTES:
        raise ConfigError(
            f"data.max_gap={config.max_gap}: source {INFO.name} leaves a day between stretches whose distance is not "
            "known; stay below 24h"
        )


def convert_folder(folder: Path) -> pa.Table:
    """Rebuild the series of train.csv and, if it is there, of test.csv.

    Returns:
        one row per participant, file, segment and five-minute instant, in this order. Columns: `file` (train, test),
        `item_id`, `segment`, `first_row` (id of the segment's first row; in test.csv a row is a segment),
        `timestamp` (true time of day on made-up days), the six channels as float64 with null where nothing is known,
        `activity` (text), `in_lags` (a row's six hours cover the instant). `report_of` reads the counts.

    Raises:
        DataError: there is no train.csv, or a file is not as the competition has it.
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
            files.append({"file": stem, "name": path.name, "rows": num_rows, "sha256": sha256_of(path)})
    table = pa.concat_tables(tables).unify_dictionaries()
    return table.replace_schema_metadata({_KEY: json.dumps(_report(files, participants))})


def convert_file(path: Path, stem: str) -> tuple[pa.Table, list[dict]]:
    """Rebuild the series of one file.

    Args:
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
    """Write a converted table, ``--output``, as Parquet and its counts as JSON beside it, each as a whole."""
    with aside(path, "--output ") as rows, aside(path.with_suffix(".json"), "--output ") as report:
        report.write_text(json.dumps(report_of(table), indent=2) + "\n", encoding="utf-8")
        pa.parquet.write_table(table, rows, compression="zstd")


def read_prepared(path: Path, file: str) -> pa.Table:
    """Rows of ``train`` or ``test`` of a prepared Parquet file."""
    if not path.is_file():
        raise DataError(f"data file {path} does not exist (data.path is relative to the current folder)")
    with damage(path, DataError, "cannot be read"):
        schema = pa.parquet.read_schema(path)
        if _KEY not in (schema.metadata or {}):
            raise DataError(
                f"{path} was not written by scripts/prepare_brist1d.py; for other tables set data.source=csv"
            )
        if report_of(schema)["format"] != _FORMAT:
            raise DataError(f"{path} is of another version of this project; write it anew: scripts/prepare_brist1d.py")
        return pa.parquet.read_table(path, filters=[("file", "=", file)])


def _table(series: RebuiltSeries, stem: str) -> pa.Table:
    number = len(series.step)
    step = np.timedelta64(STEP_MINUTES, "m")
    columns = {
        "file": _repeated(stem, number),
        "item_id": _repeated(series.participant, number),
        "segment": pa.array(series.segment.astype(np.int32)),
        "first_row": pa.DictionaryArray.from_arrays(series.segment.astype(np.int32), series.first_id),
        "timestamp": pa.array(np.datetime64(FIRST_DAY, "s") + series.step * step),
    }
    for name, values in zip(NUMBERS, series.values[:-1], strict=True):
        columns[name] = pa.array(values, from_pandas=True)  # NaN becomes null
    none = np.isnan(series.values[-1])  # an index must be one of the dictionary even where it is masked
    codes = pa.array(np.where(none, 0, series.values[-1]).astype(np.int32), mask=none)
    columns[ACTIVITY] = pa.DictionaryArray.from_arrays(codes, pa.array(series.activity_names, pa.string()))
    columns["in_lags"] = pa.array(series.in_lags)
    return pa.table(columns)


def _repeated(text: str, number: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(number, np.int32)), [text])


def _counts(series: RebuiltSeries, stem: str) -> dict:
    return {
        "file": stem,
        "item_id": series.participant,
        "rows": series.num_rows,
        "cells": series.num_rows * NUM_LAGS * len(CHANNELS),
        "instants": len(series.step),
        "segments": len(series.first_id),
        "clock_jumps": series.clock_jumps,
        "sampling_minutes": series.sampling_minutes,
        "values": dict(zip(CHANNELS, (~np.isnan(series.values)).sum(axis=1).tolist(), strict=True)),
        "conflicts": series.conflicts,
        "partly_empty": series.partly_empty,
    }


def _report(files: list[dict], participants: list[dict]) -> dict:
    of_file = {stem: [counts for counts in participants if counts["file"] == stem] for stem in ("train", "test")}
    people = {stem: {counts["item_id"] for counts in rows} for stem, rows in of_file.items()}
    totals = {
        name: {file["file"]: sum(counts[name] for counts in of_file[file["file"]]) for file in files}
        for name in ("rows", "instants", "segments", "clock_jumps")
    }
    doubts = {
        name: {channel: sum(counts[name][channel] for counts in participants) for channel in CHANNELS}
        for name in ("conflicts", "partly_empty")
    }
    return {
        "format": _FORMAT,
        "dates": f"not in the files: days are counted from {FIRST_DAY}, times of day are real",
        "files": files,
        **totals,
        **doubts,
        "unseen_participants": sorted(people["test"] - people["train"]),
        "participants": participants,
    }
