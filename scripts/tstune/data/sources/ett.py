"""Electricity transformer temperature (ETTh1, ETTh2 hourly; ETTm1, ETTm2 every 15 minutes): one CSV file.

The published borders count 30-day months: 12 for training, 4 for validation, 4 for test.
"""

from __future__ import annotations

from pathlib import Path

from tstune.config.schema import DataSection
from tstune.data.sources import reject_column_roles
from tstune.data.sources.csv import parse_timestamps, read_numbers, read_table
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
_STEPS_PER_DAY = {"h": 24, "15min": 96}


def load(config: DataSection) -> SourceTable:
    """Return the seven channels of ``data.path`` as one item, with the standard borders."""
    reject_column_roles(config)
    if config.path is None:
        raise ConfigError(
            "source ett needs data.path=<folder>/ETTh1.csv; the files are in the ETDataset repository "
            "(github.com/zhouhaoyi/ETDataset)"
        )
    path = Path(config.path)
    raw = read_table(path)
    missing = [name for name in ("date", *CHANNELS) if name not in raw.columns]
    if missing:
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
        licence="CC BY-ND 4.0 (ETDataset)",
        files=(str(path),),
        standard_borders=(12 * month, 16 * month, 20 * month),
    )
