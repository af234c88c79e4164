"""Electricity transformer temperature (ETTh1, ETTh2 hourly; ETTm1, ETTm2 every 15 minutes): one CSV file.

The published borders count 30-day months: 12 for training, 4 for validation, 4 for test.
"""

from __future__ import annotations

from tstune.config.schema import DataSection
from tstune.data.files import read_table
from tstune.data.frame import read_numbers
from tstune.data.sources import SourceInfo
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.data.times import parse_timestamps
from tstune.errors import DataError

CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
_STEPS_PER_DAY = {"h": 24, "15min": 96}

INFO = SourceInfo(
    name="ett",
    summary="electricity transformer temperature and six loads, hourly or every 15 minutes, with its published borders",
    licence="CC BY-ND 4.0 (ETDataset)",
    where="download ETTh1.csv, ETTh2.csv, ETTm1.csv or ETTm2.csv from github.com/zhouhaoyi/ETDataset and set "
    "data.path=<folder>/ETTh1.csv",
    keys={"path": "one of the four files"},
)


def load(config: DataSection) -> SourceTable:
    """Return the seven channels of ``data.path`` as one item, with the standard borders."""
    INFO.read_options(config)
    path = INFO.need_path(config)
    if not path.is_file():
        raise INFO.missing(path, "is a folder, not a file" if path.is_dir() else "does not exist")
    raw = read_table(path)
    if missing := [name for name in ("date", *CHANNELS) if name not in raw.columns]:
        raise DataError(f"{path}: no column {missing[0]!r}; an ETT file has date, {', '.join(CHANNELS)}")
    stamps = parse_timestamps(raw["date"], None, path)
    step = stamps.diff().dt.total_seconds().median()
    frequency = {3600: "h", 900: "15min"}.get(step)
    if frequency is None:
        raise DataError(f"{path}: rows are {step:g} s apart; an ETT file is hourly or every 15 minutes")
    frame = read_numbers(raw, CHANNELS, path)
    frame.insert(0, TIMESTAMP, stamps)
    frame.insert(0, ITEM, path.stem)
    month = 30 * _STEPS_PER_DAY[frequency]
    return SourceTable(
        frame=frame,
        roles=Roles(target=CHANNELS),
        frequency=frequency,
        licence=INFO.licence,
        files=(str(path),),
        standard_borders=(12 * month, 16 * month, 20 * month),
    )
