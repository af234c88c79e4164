"""Small made-up files in the layout of each source that reads files, for runs that only show that all goes through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection

_FIVE_MINUTES = "5min"


def write_tiny_data(data: DataSection, folder: Path) -> Path | None:
    """Write what `data.path` of this source must be; None for a source that needs no file."""
    write = _WRITERS.get(data.source)
    if write is None and data.source != "csv":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return _table(data, folder) if write is None else write(folder)


def _glucose(steps: int, seed: int) -> np.ndarray:
    """[steps] mmol/L, one decimal: a daily rhythm and a slow random walk."""
    random = np.random.default_rng(seed)
    walk = np.convolve(random.normal(0, 0.2, steps), 0.98 ** np.arange(300))[:steps]
    rhythm = 1.5 * np.sin(2 * np.pi * (np.arange(steps) + 40 * seed) / 288)
    return np.round(np.clip(8 + rhythm + walk, 2.2, 22.0), 1)


def _ett(folder: Path) -> Path:
    """Twenty months of seven hourly channels: the published borders need them."""
    hours, random = 20 * 30 * 24, np.random.default_rng(0)
    daily = np.sin(2 * np.pi * np.arange(hours) / 24)[:, None]
    values = np.round(10 + 3 * daily + random.normal(0, 1, (hours, 7)), 3)
    table = pd.DataFrame(values, columns=["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"])
    table.insert(0, "date", pd.date_range("2016-07-01", periods=hours, freq="h"))
    path = folder / "ETTh1.csv"
    table.to_csv(path, index=False)
    return path


def _table(data: DataSection, folder: Path) -> Path:
    """A table with the columns that a recipe names: 1,500 steps of 12 series, or of one."""
    stamps = pd.date_range("2024-01-01", periods=1500, freq=data.frequency or "h")
    columns = [*(data.target_columns or ["value"]), *data.conditional_columns, *data.control_columns]
    parts = [
        pd.DataFrame(
            {data.timestamp_column: stamps}
            | ({data.item_id_column: f"S{number:02d}"} if data.item_id_column else {})
            | {column: 18 * _glucose(1500, number + place) for place, column in enumerate(columns)}
        )
        for number in range(12 if data.item_id_column else 1)
    ]
    pd.concat(parts).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def _brist1d_open(folder: Path) -> Path:
    """Two people of the published split who are seen and one who is not, on both sides of its borders."""
    stamps = pd.date_range("2023-08-12", "2023-09-05", freq=_FIVE_MINUTES)
    for seed, person in enumerate(("P01", "P02", "P15")):
        table = pd.DataFrame({"timestamp": stamps, "glucose_value_mg_dl": 18 * _glucose(len(stamps), seed)})
        table.to_csv(folder / f"{person}.csv", index=False)
    return folder


def _t1d_uom(folder: Path) -> Path:
    """Three weeks of one person with a pump."""
    stamps = pd.date_range("2023-11-01 00:02", periods=21 * 288, freq=_FIVE_MINUTES).strftime("%d/%m/%Y %H:%M")
    meals = stamps[96::288]
    tables = {
        "Glucose": {"bg_ts": stamps, "value": _glucose(len(stamps), 0)},
        "Bolus": {"bolus_ts": meals, "bolus_dose": 4.0},
        "Basal": {"basal_ts": stamps[::72], "basal_dose": 0.8, "insulin_kind": "R"},
        "Nutrition": {"meal_ts": meals, "carbs_g": 40},
    }
    for kind, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"UoM{kind}2301.csv", index=False)
    return folder


def _cgm_export(folder: Path) -> Path:
    """Ten days of two people, one from Clarity with doses and one from LibreView."""
    stamps, glucose = pd.date_range("2024-05-01 00:02", periods=10 * 288, freq=_FIVE_MINUTES), _glucose(10 * 288, 0)
    rows = [f"{time:%Y-%m-%dT%H:%M:%S},EGV,{value},," for time, value in zip(stamps, glucose, strict=True)]
    rows += [f"{time:%Y-%m-%dT%H:%M:%S},Insulin,,4.5," for time in stamps[96::96]]
    rows += [f"{time:%Y-%m-%dT%H:%M:%S},Carbs,,,40" for time in stamps[97::96]]
    clarity = "Timestamp (YYYY-MM-DDThh:mm:ss),Event Type,Glucose Value (mmol/L),Insulin Value (u),Carb Value (grams)"
    libre = [f"Libre,S1,{time:%d-%m-%Y %H:%M},0,{value}" for time, value in zip(stamps, glucose[::-1], strict=True)]
    names = "Device,Serial Number,Device Timestamp,Record Type,Historic Glucose mmol/L"
    for person, lines in (("P01", [clarity, *rows]), ("P02", [names, *libre])):
        (folder / person).mkdir(exist_ok=True)
        (folder / person / "export.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def _kaggle_brist1d(folder: Path) -> Path:
    """train.csv of one person: each row has six hours of every channel and the glucose one hour ahead."""
    steps, lags, ahead = 1300, 72, 12
    glucose = _glucose(steps, 0)
    rows = np.arange(lags - 1, steps - ahead)
    back = rows[:, None] - np.arange(lags - 1, -1, -1)
    endings = [f"-{minutes // 60}:{minutes % 60:02d}" for minutes in range(355, -1, -5)]
    channels = {"bg": glucose, "insulin": np.full(steps, 0.05), "carbs": np.where(np.arange(steps) % 96, np.nan, 40.0)}
    columns: dict[str, object] = {
        "id": [f"p01_{row}" for row in range(len(rows))],
        "p_num": "p01",
        "time": [f"{step // 12 % 24:02d}:{step % 12 * 5:02d}:00" for step in rows],
    }
    for channel in ("bg", "insulin", "carbs", "hr", "steps", "cals", "activity"):
        values = channels.get(channel, np.full(steps, np.nan))[back]
        columns |= {f"{channel}{ending}": values[:, lag] for lag, ending in enumerate(endings)}
    pd.DataFrame(columns | {"bg+1:00": glucose[rows + ahead]}).to_csv(folder / "train.csv", index=False)
    return folder


_WRITERS: dict[str, Callable[[Path], Path]] = {
    "ett": _ett,
    "brist1d_open": _brist1d_open,
    "t1d_uom": _t1d_uom,
    "cgm_export": _cgm_export,
    "kaggle_brisT1D": _kaggle_brist1d,
}
