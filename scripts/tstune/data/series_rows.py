"""Rows of one whole series each: GluonTS and the `datasets` library, Monash archives, the wide files of M4."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

_PAST, _KNOWN = "past_feat_dynamic_real", "feat_dynamic_real"
_OLD_STEPS = {"T": "min", "H": "h", "S": "s", "M": "MS", "Q": "QS", "A": "YS", "Y": "YS"}
_STATIC = ("feat_static_cat", "feat_static_real", "static_feat")
_M4_STEPS = {"hourly": "h", "daily": "D", "weekly": "W", "monthly": "MS", "quarterly": "QS", "yearly": "YS"}
_MONASH_STEPS = _M4_STEPS | {"half_hourly": "30min", "minutely": "min", "10_minutes": "10min", "4_seconds": "4s"}
_NO_START = pd.Timestamp("2000-01-01")
"""Where series begin whose file does not say when they did."""


def holds_series(columns: Collection[str]) -> bool:
    """True if rows with these columns are a series each."""
    return {"start", "target"} <= set(columns) or _is_m4(columns)


def _is_m4(columns: Collection[str]) -> bool:
    return len(columns) > 2 and list(columns) == [f"V{place}" for place in range(1, len(columns) + 1)]


def _from_m4(raw: pd.DataFrame, name: object) -> pd.DataFrame:
    """Rows with `start` and `target` of a table ``V1, V2, …``: a name, then as many values as the series has."""
    texts = raw.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    last = [int(np.flatnonzero(~np.isnan(values)).max(initial=-1)) + 1 for values in texts]
    target = [values[:end] for values, end in zip(texts, last, strict=True)]
    rows = pd.DataFrame({"item_id": raw.iloc[:, 0].astype(str), "start": _NO_START, "target": target})
    step = next((step for word, step in _M4_STEPS.items() if Path(str(name)).name.lower().startswith(word)), None)
    return rows if step is None else rows.assign(freq=step)


def read_tsf(text: str) -> pd.DataFrame:
    """Rows of a file of the Monash archive: its attributes, `start`, `target` and `freq`."""
    header, found, body = text.partition("@data")
    if not found:
        raise DataError("it has no @data line; is it a file of the Monash archive?")
    names = re.findall(r"^@attribute\s+(\S+)", header, flags=re.MULTILINE)
    stated = re.search(r"^@frequency\s+(\S+)", header, flags=re.MULTILINE)
    rows = []
    for line in body.split("\n"):
        *attributes, values = line.strip().split(":")
        if not values or line.startswith("#"):
            continue
        if len(attributes) != len(names):
            raise DataError(f"a line has {len(attributes)} attributes, its header names {len(names)}: {line[:40]!r}")
        row = dict(zip(names, attributes, strict=True))
        start = row.pop("start_timestamp", None)
        numbers = np.array(values.replace("?", "nan").split(","), np.float64)
        stamp = _NO_START if start is None else pd.to_datetime(start, format="%Y-%m-%d %H-%M-%S")
        rows.append({"item_id": row.get("series_name", f"T{len(rows) + 1}"), "start": stamp, "target": numbers})
    frame = pd.DataFrame(rows)
    return frame.assign(freq=_MONASH_STEPS[stated[1]]) if stated and stated[1] in _MONASH_STEPS else frame


def table_from_series(rows: pd.DataFrame, config: DataSection, name: object) -> SourceTable:
    """Turn rows of one series each (`start`, `target`, perhaps `item_id`, `freq`, features) into a long table."""
    rows = _from_m4(rows, name) if _is_m4(rows.columns) else rows
    frequency = _frequency(rows, config, name)
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    frames, roles = [], None
    for number, row in enumerate(rows.to_dict("records")):
        item = str(row.get("item_id", number))
        target, features = _matrix(row, "target", name, item), {k: _matrix(row, k, name, item) for k in (_PAST, _KNOWN)}
        length = target.shape[1]
        for kind, values in features.items():
            if len(values) and values.shape[1] < length:
                raise DataError(f"{name}: series {item!r}: {kind} has {values.shape[1]} steps, its target {length}")
        own = Roles(*(_names(kind, len(values)) for kind, values in [("target", target), *features.items()]))
        roles = roles or own
        if own != roles:
            raise DataError(
                f"{name}: series {item!r} has channels {', '.join(own.channels)}, the first one "
                f"{', '.join(roles.channels)}"
            )
        start = _start(row["start"], name, item)
        if step is None:
            stamps = pd.period_range(start, periods=length, freq=offset.name[0]).to_timestamp()
        else:
            stamps = start + np.arange(length) * step
        values = np.concatenate([target, *(kind[:, :length] for kind in features.values() if len(kind))])
        frame = pd.DataFrame(values.T, columns=list(own.channels))
        frame.insert(0, TIMESTAMP, pd.DatetimeIndex(stamps).as_unit("ns"))
        frame.insert(0, ITEM, item)
        frames.append(frame)
    static = [column for column in _STATIC if column in rows.columns]
    notes = {"static_features_not_used": static} if static else {}
    frame = pd.concat(frames, ignore_index=True)
    files = (str(name),) if isinstance(name, Path) else ()
    return SourceTable(frame, roles, frequency=frequency, max_gap=None, notes=notes, files=files)


def _frequency(rows: pd.DataFrame, config: DataSection, name: str) -> str:
    if config.frequency is not None:
        return config.frequency
    stated = sorted(set(rows["freq"].dropna().astype(str))) if "freq" in rows.columns else []
    if len(stated) != 1:
        reason = f"series of several steps ({', '.join(stated)})" if stated else "rows without freq"
        raise ConfigError(f"{name}: {reason}; set data.frequency, e.g. h")
    number, name = re.fullmatch(r"(\d*)(.*)", stated[0]).groups()
    return number + _OLD_STEPS.get(name, name)  # as pandas wrote them when GluonTS began


def _start(value: object, name: str, item: str) -> pd.Timestamp:
    if isinstance(value, pd.Period):
        return value.to_timestamp()
    try:
        stamp = pd.Timestamp(value)
    except (ValueError, TypeError):
        stamp = pd.NaT
    if stamp is pd.NaT:
        raise DataError(f"{name}: series {item!r}: start {value!r} is not a time")
    return stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo is not None else stamp


def _matrix(row: dict[str, Any], kind: str, name: str, item: str) -> np.ndarray:
    """[dimensions, steps] float64; one dimension may be written without its bracket, none as null."""
    values = row.get(kind)
    if values is None or (isinstance(values, float) and np.isnan(values)) or not len(values):
        return np.zeros((0, 0))
    rows = values if isinstance(values[0], Sequence | np.ndarray) and not isinstance(values[0], str) else [values]
    try:
        return np.stack([np.asarray(one, dtype=np.float64) for one in rows])
    except (ValueError, TypeError):
        raise DataError(f"{name}: series {item!r}: its {kind} holds no numbers, or rows of unlike length") from None


def _names(kind: str, number: int) -> tuple[str, ...]:
    """Names of the channels of one kind: numbered, except a lone target."""
    return (kind,) if kind == "target" and number == 1 else tuple(f"{kind}_{place}" for place in range(number))
