"""The same panel in random dialects of a table reads back as equal values, times and ids."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tstune.config.schema import DataSection
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP

IDS = ("01", "1", "NA", "007", "B 3", "ä", "1e5", "nan", "null", "-", "x;y")
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p")


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Two or three series with two columns of numbers of any size; some cells are missing."""
    ids = draw(st.lists(st.sampled_from(IDS), min_size=2, max_size=3, unique=True))
    start = pd.Timestamp("2023-01-20") + pd.Timedelta(hours=draw(st.integers(0, 5000)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    parts = []
    for item in ids:
        stamps = pd.date_range(start, periods=30, freq="11h")
        size = 10.0 ** random.integers(-3, 12, 2)
        values = np.round(random.normal(0, size, (len(stamps), 2)), random.integers(0, 6))
        values[random.random(values.shape) < 0.1] = np.nan
        values[0] = size
        parts.append(pd.DataFrame({"id": item, "time": stamps, "load": values[:, 0], "dose": values[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def number(value: float, decimal: str, thousands: str, nothing: str) -> str:
    if np.isnan(value):
        return nothing
    plain = np.format_float_positional(value, trim="0")
    whole, _, part = plain.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    grouped = f"{int(digits):,}".replace(",", thousands) if thousands else digits
    return f"{sign}{grouped}{decimal}{part}"


@st.composite
def dialects(draw: st.DrawFn) -> dict:
    decimal = draw(st.sampled_from(".,"))
    return {
        "ending": draw(st.sampled_from([".csv", ".txt", ".tsv", ".CSV", ".csv.gz", ".xlsx", ".jsonl", ".parquet"])),
        "separator": draw(st.sampled_from(";\t|," if decimal == "." else ";\t|")),
        "decimal": decimal,
        "thousands": draw(st.sampled_from(["", "", "," if decimal == "." else ".", "'"])),
        "nothing": draw(st.sampled_from(["", "", "?", "--", "NaN"])),
        "times": draw(st.sampled_from([*FORMATS, "s", "ms", "us", "date and clock", "parts"])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        "line_end": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "above": draw(st.sampled_from(["", "A title\n\n", "# a comment\n", "sep", "Title,of two\n"])),
        "below": draw(st.sampled_from(["", "\n\n", "end of the export\n"])),
        "units": draw(st.booleans()),
        "blank": draw(st.booleans()),
        "order": draw(st.permutations(["id", "time", "load", "dose"])),
    }


def times(stamps: pd.Series, kind: str) -> dict[str, Sequence[str]]:
    """Columns that hold the times."""
    if kind in ("s", "ms", "us"):
        return {"time": (stamps.astype("int64") // {"s": 10**9, "ms": 10**6, "us": 10**3}[kind]).astype(str)}
    if kind == "date and clock":
        return {"time": stamps.dt.strftime("%d.%m.%Y"), "clock": stamps.dt.strftime("%H:%M")}
    if kind == "parts":
        return {part: getattr(stamps.dt, part).astype(str) for part in ("year", "month", "day", "hour")}
    return {"time": stamps.dt.strftime(kind)}


def write(table: pd.DataFrame, how: dict, folder: Path) -> tuple[Path, dict]:
    """The file, and the keys that it needs."""
    path = folder / f"x{how['ending']}"
    path.unlink(missing_ok=True)
    if how["ending"] == ".parquet":
        table.to_parquet(path)
        return path, {"timestamp_column": "time"}
    if how["ending"] == ".jsonl":
        rows = table.astype({"time": str}).replace({np.nan: None}).to_dict("records")
        path.write_text("\n".join(map(json.dumps, rows)))
        return path, {"timestamp_column": "time"}
    if how["ending"] == ".xlsx":
        table.to_excel(path, index=False)
        return path, {"timestamp_column": "time"}
    stamps = times(table["time"], how["times"])
    columns = {"id": table["id"]}
    for name in ("load", "dose"):
        columns[name] = [number(value, how["decimal"], how["thousands"], how["nothing"]) for value in table[name]]
    names = [part for name in how["order"] for part in (stamps if name == "time" else [name])]
    cells = pd.DataFrame(columns | stamps)[names].to_numpy().tolist()
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=how["separator"], lineterminator="\n", quoting=how["quoting"])
    if how["above"] != "sep":
        stream.write(how["above"].replace(",", how["separator"]))
    else:
        stream.write(f"sep={how['separator']}\n")
    writer.writerow(names)
    if how["units"]:
        writer.writerow(["[kW]" if name == "load" else "[U]" if name == "dose" else "[-]" for name in names])
    for place, row in enumerate(cells):
        writer.writerow(row)
        if how["blank"] and place == 7:
            stream.write("\n" + how["separator"] * (len(names) - 1) + "\n")
    stream.write(how["below"])
    content = stream.getvalue().replace("\n", how["line_end"]).encode(how["encoding"])
    path.write_bytes(gzip.compress(content) if how["ending"].endswith("gz") else content)
    return path, {"timestamp_column": list(stamps) if len(stamps) > 1 else "time"}


def reads_back(table: pd.DataFrame, how: dict, folder: Path) -> None:
    path, keys = write(table, how, folder)
    config = DataSection(source="csv", path=str(path), item_id_column="id", target_columns=["load", "dose"], **keys)
    frame = load_source(config).frame
    assert frame[ITEM].tolist() == table["id"].tolist()
    assert frame[TIMESTAMP].tolist() == table["time"].tolist()
    digits = 1e-15 if how["ending"] == ".xlsx" else 0  # a workbook keeps sixteen digits
    for name in ("load", "dose"):
        np.testing.assert_allclose(frame[name], table[name], rtol=digits, atol=0)


RELAXED = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck), "print_blob": False}


@settings(max_examples=40, **RELAXED)
@given(table=tables(), how=dialects())
def test_forty_dialects(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, how: dict):
    reads_back(table, how, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@settings(max_examples=200, **RELAXED | {"derandomize": False})
@given(table=tables(), how=dialects())
def test_two_hundred_dialects(tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, how: dict):
    reads_back(table, how, tmp_path_factory.getbasetemp())
