"""Series that look like glucose: smooth, of one person each, with gaps; and tables of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tstune.config.schema import DataSection
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import TstuneError

CONTEXT, PREDICTION = 24, 6
START = "2023-06-01"


def person(seed: int, steps: int = 1500) -> np.ndarray:
    """Five-minute readings in mg/dL, one decimal: a daily rhythm and a slow random walk."""
    random = np.random.default_rng(seed)
    walk = np.convolve(random.normal(0, 4, steps), 0.98 ** np.arange(300))[:steps]
    rhythm = 25 * np.sin(2 * np.pi * (np.arange(steps) + random.integers(288)) / 288)
    return np.round(np.clip(140 + rhythm + walk, 40, 400), 1)


def people(count: int, steps: int = 1500, first_seed: int = 0) -> dict[str, np.ndarray]:
    """Persons P01, P02, …"""
    return {f"P{number + 1:02d}": person(first_seed + number, steps) for number in range(count)}


def table(
    series: dict[str, np.ndarray],
    starts: dict[str, str] | None = None,
    unit: str | None = "mg/dL",
    column: str = "glucose",
) -> SourceTable:
    """One item per series from its start on; NaN is a reading that was never made."""
    frames = [
        pd.DataFrame(
            {
                ITEM: item,
                TIMESTAMP: pd.date_range((starts or {}).get(item, START), periods=len(values), freq="5min"),
                column: values,
            }
        ).dropna()
        for item, values in series.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    return SourceTable(frame, Roles((column,)), frequency="5min", max_gap="45min", unit=unit)


def prepare(series: dict[str, np.ndarray] | SourceTable, split: dict | None = None, **section: object) -> PreparedData:
    """The whole data path on series or on a table."""
    source = series if isinstance(series, SourceTable) else table(series)
    return prepare_data(DataSection(split=split or {}, **section), CONTEXT, PREDICTION, source)


def with_gaps(values: np.ndarray, seed: int, share: float = 0.02) -> np.ndarray:
    """Leave out stretches of 1 to 12 readings, some longer than the 9 that are filled."""
    random = np.random.default_rng(seed)
    values = values.copy()
    for begin in np.flatnonzero(random.random(len(values)) < share):
        if 0 < begin < len(values) - 13:
            values[begin : begin + random.integers(1, 13)] = np.nan
    return values


def reader(source: str) -> tuple[Callable[..., SourceTable], Callable[..., str]]:
    """(reads a path with a source, says in one line why it cannot); both take keys of the section."""

    def read(path: object, **section: object) -> SourceTable:
        return load_source(DataSection(source=source, path=str(path), **section))

    def problem(path: object, **section: object) -> str:
        with pytest.raises(TstuneError) as caught:
            read(path, **section)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return read, problem
