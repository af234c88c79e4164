"""BrisT1D-Open of the University of Bristol: up to 20 young adults with type 1 diabetes, half a year each.

Two layouts of `PXX.csv` are read. The University's holds glucose, insulin, meals and a watch in rows of their own
times; Glucose-ML's copy holds glucose only, in mg/dL, written as mmol/L x 18, and is divided back to one decimal.
Times are local (UK); doses and the watch are put on a five-minute grid, as amounts of the five minutes up to each step.
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
    mean_on_grid,
)
from tstune.data.table import TIMESTAMP, SourceTable
from tstune.data.times import parse_timestamps
from tstune.errors import DataError

TARGET = "glucose"
CHANNELS = ("insulin", "carbs", "hr", "dist", "steps", "cals", "activity")

INFO = SourceInfo(
    name="brist1d_open",
    summary="real glucose (mmol/L) of people with type 1 diabetes, Bristol, 2023-24; the University's files also hold "
    "insulin, meals and a watch",
    licence="CC BY 4.0 (BrisT1D-Open, James, Armstrong, O'Kane, Emerson, Abdallah 2025, University of Bristol, "
    "doi:10.5523/bris.33z5jc8fa6tob21ptrugzqog08)",
    where="download the zip from doi.org/10.5523/bris.33z5jc8fa6tob21ptrugzqog08 (University of Bristol) and set "
    "data.path to its folder, or to the BrisT1D-Open folder of the Glucose-ML project: P01.csv, P02.csv, …, plain or "
    ".gz",
    keys={
        "path": "the folder",
        "conditional_columns": f"any of {', '.join(CHANNELS)} (University's files only)",
        "timezone": "Europe/London turns the local times into UTC",
    },
    options=(Option("participants", (), "who, e.g. [P01, P04]; all if empty"),),
)

_FILE = re.compile(r"(?P<person>P\d{2})\.csv(\.gz)?")
_COPY_COLUMN, _COPY_FACTOR = "glucose_value_mg_dl", 18.0


def load(config: DataSection) -> SourceTable:
    """Return one item per person with the target ``glucose`` in mmol/L and the channels that are asked for."""
    roles = choose_channels(config, INFO.name, TARGET, CHANNELS)
    wanted = INFO.read_options(config)["participants"]
    people = find_people(INFO, config, _FILE, TARGET, wanted, "P01.csv, P02.csv, …")
    files = {person: own[TARGET] for person, own in people.items()}
    report = CleaningReport()
    frames = [_read_person(person, path, roles.conditional, config.timezone, report) for person, path in files.items()]
    return SourceTable(
        frame=pd.concat(frames, ignore_index=True),
        roles=roles,
        frequency="5min",
        max_gap="45min",
        fill=fill_of([channel for channel in roles.conditional if channel != "hr"]),
        unit="mmol/L",
        licence=INFO.licence,
        files=tuple(map(str, files.values())),
        cleaning=report.to_dict(),
    )


def _read_person(
    person: str, path: Path, channels: tuple[str, ...], timezone: str | None, report: CleaningReport
) -> pd.DataFrame:
    raw = read_table(path, report)
    if raw.empty:
        raise DataError(f"{path}: the table has no rows")
    raw = raw.rename(columns=lambda name: str(name).partition("(")[0].strip())  # bg(mmol/L), carbs(g), …
    is_copy = _COPY_COLUMN in raw.columns
    if TIMESTAMP not in raw.columns or not (is_copy or "bg" in raw.columns):
        raise DataError(
            f"{path}: the columns are {', '.join(map(str, raw.columns[:12]))}; BrisT1D-Open has timestamp and "
            f"bg(mmol/L), its Glucose-ML copy timestamp and {_COPY_COLUMN}"
        )
    if lacking := [channel for channel in channels if channel not in raw.columns]:
        raise DataError(
            f"data.conditional_columns: {path} has no {lacking[0]}"
            + ("; Glucose-ML's copy holds glucose only, take the University's files" if is_copy else "")
        )
    stamps = parse_timestamps(raw[TIMESTAMP], None, path)
    if timezone is not None:  # before times are sorted into steps: the repeated hour is told by the order of the rows
        stamps = local_to_utc(stamps, pd.Series(person, raw.index), timezone, report)
    column = _COPY_COLUMN if is_copy else "bg"
    glucose = read_numbers(raw, [column], path)[column]
    if is_copy:
        glucose = (glucose / _COPY_FACTOR).round(1)
    readings = pd.DataFrame({TIMESTAMP: stamps, TARGET: glucose}).dropna(subset=[TARGET])
    grid = grid_between(stamps.min(), stamps.max())
    return join_channels(person, readings, grid, {name: _channel(name, raw, stamps, grid, path) for name in channels})


def _channel(name: str, raw: pd.DataFrame, stamps: pd.Series, grid: pd.DatetimeIndex, path: Path) -> np.ndarray:
    """[steps] one channel with missing as it is meant.

    An empty cell of carbs means that nothing was eaten, where meals are written down at all; an empty cell of insulin
    or of the watch means that nothing is known; activity is 1 where one is declared, else 0.
    """
    if name == "activity":
        declared = raw[name].notna().astype("float64")
        return np.minimum(doses_on_grid(stamps, declared, grid), 1.0)
    values = read_numbers(raw, [name], path)[name]
    if name == "hr":
        return mean_on_grid(stamps, values, grid)
    return doses_on_grid(stamps, values, grid) if name == "carbs" else doses_on_grid(stamps, values, grid, silence=None)
