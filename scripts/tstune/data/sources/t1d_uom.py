"""T1D-UOM of the University of Manchester: glucose, insulin and meals of 17 people with type 1 diabetes.

`UoMGlucose<id>.csv` holds glucose in mmol/L; `UoMBolus`, `UoMBasal` and `UoMNutrition` hold doses and meals at the
minute they were given. Dates are day-first. Doses are put on a five-minute grid: units, or grams, of the five minutes
up to each step. Basal of a pump (kind R) is a rate in U/h that holds until its next entry; long-acting insulin (kind
L) is injected.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.clock import local_to_utc
from tstune.data.cleaning.rules import CleaningReport
from tstune.data.files import read_table
from tstune.data.frame import read_numbers
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.channels import (
    choose_channels,
    doses_on_grid,
    fill_of,
    find_people,
    grid_between,
    join_channels,
    rate_on_grid,
)
from tstune.data.table import TIMESTAMP, SourceTable
from tstune.errors import DataError

TARGET, CHANNELS = "glucose", ("bolus", "basal", "carbs")

INFO = SourceInfo(
    name="t1d_uom",
    summary="real glucose (mmol/L), insulin and meals of people with type 1 diabetes, Manchester, 2023-24",
    licence="CC BY 4.0 (T1D-UOM, University of Manchester, doi:10.5281/zenodo.15806142)",
    where="download and unpack doi.org/10.5281/zenodo.15806142 (Zenodo) and set data.path to its folder: "
    "UoMGlucose2301.csv, UoMBolus2301.csv, … lie in it or in its subfolders, plain or .gz",
    keys={
        "path": "the folder",
        "conditional_columns": f"any of {', '.join(CHANNELS)}: units, units and grams of the last five minutes",
        "conflicting_readings": "drop leaves out weeks in which two sensors of UoM2304 disagree",
        "timezone": "Europe/London turns the local times into UTC",
    },
    options=(Option("participants", (), "who, e.g. [2301, 2304]; all if empty"),),
)

_FILE = re.compile(r"UoM(?P<kind>Glucose|Bolus|Basal|Nutrition)(?P<person>\d{4})\.csv(\.gz)?", re.IGNORECASE)
_COLUMNS = {
    "glucose": ("bg_ts", "value"),
    "bolus": ("bolus_ts", "bolus_dose"),
    "basal": ("basal_ts", "basal_dose"),
    "nutrition": ("meal_ts", "carbs_g"),
}
_FORMAT = "%d/%m/%Y %H:%M"


def load(config: DataSection) -> SourceTable:
    """Return one item per person with the target ``glucose`` in mmol/L and the channels that are asked for."""
    roles = choose_channels(config, INFO.name, TARGET, CHANNELS)
    wanted = INFO.read_options(config)["participants"]
    files = find_people(INFO, config, _FILE, TARGET, wanted, "UoMGlucose<id>.csv")
    report, frames, used = CleaningReport(), [], []
    injected = []
    for person, own in files.items():
        frame, is_injected = _read_person(person, own, roles.conditional, config.timezone, report)
        frames.append(frame)
        used += [own[kind] for kind in _kinds(roles.conditional) if kind in own]
        if is_injected:
            injected.append(_item(person))
    without = {
        channel: sorted(_item(person) for person, own in files.items() if _kind(channel) not in own)
        for channel in roles.conditional
    }
    return SourceTable(
        frame=pd.concat(frames, ignore_index=True),
        roles=roles,
        frequency="5min",
        max_gap="45min",
        fill=fill_of(roles.conditional),
        unit="mmol/L",
        licence=INFO.licence,
        files=tuple(map(str, used)),
        notes={
            "people_with_injected_basal": injected,
            "people_without": {channel: people for channel, people in without.items() if people},
        },
        cleaning=report.to_dict(),
    )


def _item(person: str) -> str:
    return f"UoM{person}"


def _kind(channel: str) -> str:
    return "nutrition" if channel == "carbs" else channel


def _kinds(channels: tuple[str, ...]) -> list[str]:
    return ["glucose", *map(_kind, channels)]


def _read_person(
    person: str, own: dict[str, Path], channels: tuple[str, ...], timezone: str | None, report: CleaningReport
) -> tuple[pd.DataFrame, bool]:
    """(rows of one person, is the basal insulin injected)."""
    entries = {
        kind: _read_entries(person, kind, own[kind], timezone, report) for kind in _kinds(channels) if kind in own
    }
    glucose = entries["glucose"].rename(columns={"value": TARGET})[[TIMESTAMP, TARGET]]
    grid = grid_between(glucose[TIMESTAMP].min(), glucose[TIMESTAMP].max())
    on_grid, is_injected = {}, False
    for channel in channels:
        table = entries.get(_kind(channel))
        if table is None:
            on_grid[channel] = np.full(len(grid), np.nan)
        elif channel == "basal":
            on_grid[channel], is_injected = _basal(person, table, grid)
        else:
            on_grid[channel] = doses_on_grid(table[TIMESTAMP], table["value"], grid)
    return join_channels(_item(person), glucose, grid, on_grid), is_injected


def _basal(person: str, table: pd.DataFrame, grid: pd.DatetimeIndex) -> tuple[np.ndarray, bool]:
    """([steps] units, is any of it injected). Pump and injections of one person add up where both are known."""
    kinds = table["insulin_kind"].str.strip().str.upper()
    unknown = kinds[~kinds.isin(["R", "L"])]
    if len(unknown):
        raise DataError(f"source {INFO.name}: UoMBasal{person} has insulin_kind {unknown.iloc[0]!r}, not R or L")
    pump, injected = table[kinds == "R"], table[kinds == "L"]
    by_pump = rate_on_grid(pump[TIMESTAMP], pump["value"], grid)
    by_pen = doses_on_grid(injected[TIMESTAMP], injected["value"], grid)
    both = np.where(np.isnan(by_pump), by_pen, np.where(np.isnan(by_pen), by_pump, by_pump + by_pen))
    return both, len(injected) > 0


def _read_entries(person: str, kind: str, path: Path, timezone: str | None, report: CleaningReport) -> pd.DataFrame:
    """`timestamp`, `value` and, for basal, `insulin_kind` of one file; rows without any time or value are left out."""
    time, value = _COLUMNS[kind]
    needed = (time, value, "insulin_kind") if kind == "basal" else (time, value)
    raw = read_table(path, report)
    if lacking := [column for column in needed if column not in raw.columns]:
        raise DataError(f"{path}: no column {lacking[0]!r}; the columns are: {', '.join(map(str, raw.columns[:12]))}")
    empty = raw[time].isna() | raw[value].isna()
    raw = raw[~empty].reset_index(drop=True)
    report.add(f"{kind}_rows_without_time_or_value", int(empty.sum()), "left out", {_item(person): int(empty.sum())})
    texts = raw[time].astype(str).str.strip()
    stamps = pd.to_datetime(texts, format=_FORMAT, errors="coerce")
    if stamps.isna().any():
        row = int(stamps.isna().to_numpy().argmax())
        raise DataError(f"{path}: {texts.iloc[row]!r} in column {time!r} is not a time such as 31/12/2023 14:10")
    stamps = stamps.astype("datetime64[ns]")
    if timezone is not None:  # each file by itself: the repeated hour is told by the order of its rows
        stamps = local_to_utc(stamps, pd.Series(_item(person), stamps.index), timezone, report)
    entries = pd.DataFrame({TIMESTAMP: stamps, "value": read_numbers(raw, [value], path)[value]})
    if kind == "basal":
        entries["insulin_kind"] = raw["insulin_kind"].astype(str)
    if kind == "glucose":
        if entries.empty:
            raise DataError(f"{path}: the table has no rows")
        same = entries.duplicated()
        report.add("rows_written_twice", int(same.sum()), "read once", {_item(person): int(same.sum())})
        entries = entries[~same].reset_index(drop=True)
    return entries
