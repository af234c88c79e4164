"""Data sets of the Hugging Face library: local folders, Arrow files and streams; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from data.series import reader

from tstune.config.schema import DataSection
from tstune.data.prepared import prepare_data
from tstune.data.series_rows import table_from_series
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")

SERIES = [
    {
        "item_id": f"s{number}",
        "start": "2024-01-01 00:00",
        "freq": "H",
        "target": list(np.arange(150.0) + 1000 * number),
    }
    for number in range(3)
]
LONG = pd.DataFrame(
    {
        "item_id": np.repeat(["a", "b"], 150),
        "timestamp": np.tile(pd.date_range("2024-01-01", periods=150, freq="h"), 2),
        "target": np.arange(300.0),
        "dose": 1.0,
    }
)
read, problem = reader("hf_dataset")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: series (save_to_disk), splits (the same with two splits), long, files (JSON lines)."""
    folder = tmp_path_factory.mktemp("datasets")
    series = datasets.Dataset.from_list(SERIES)
    series.save_to_disk(folder / "series")
    datasets.DatasetDict({"train": series, "test": series.select([2])}).save_to_disk(folder / "splits")
    datasets.Dataset.from_pandas(LONG).save_to_disk(folder / "long")
    (folder / "files").mkdir()
    series.to_json(folder / "files" / "train.jsonl")
    return folder


def values(table: SourceTable) -> dict[str, list[float]]:
    return {item: own["target"].tolist() for item, own in table.frame.groupby(ITEM)}


EXPECTED = {row["item_id"]: row["target"] for row in SERIES}


def test_a_folder_of_series(saved: Path):
    table = read(saved / "series")
    assert table.roles == Roles(("target",))
    assert table.frequency == "h"
    assert values(table) == EXPECTED
    own = table.frame[table.frame[ITEM] == "s1"]
    assert own[TIMESTAMP].tolist() == list(pd.date_range("2024-01-01", periods=150, freq="h"))
    assert table.notes == {"rows_read": 3, "row_limit": None, "streamed": False}
    assert len(table.files) == 1
    assert Path(table.files[0]).suffix == ".arrow"
    data = prepare_data(DataSection(source="hf_dataset", path=str(saved / "series")), 8, 4)
    assert data.panel.item_ids == ("s0", "s1", "s2")
    assert data.manifest["files"][0]["sha256"]


def test_an_arrow_file_and_splits(saved: Path):
    arrow = next((saved / "series").glob("*.arrow"))
    assert values(read(arrow)) == EXPECTED
    assert values(read(saved / "splits")) == EXPECTED
    assert values(read(saved / "splits", source_options={"split": "test"})) == {"s2": EXPECTED["s2"]}
    assert "split=dev: " in problem(saved / "splits", source_options={"split": "dev"})
    assert "has the splits train, test" in problem(saved / "splits", source_options={"split": "dev"})


@pytest.mark.parametrize("folder", ["series", "splits", "files"])
def test_a_stream_ends_at_its_limit(saved: Path, folder: str):
    table = read(saved / folder, source_options={"streaming": True, "max_rows": 2})
    assert values(table) == {name: EXPECTED[name] for name in ("s0", "s1")}
    assert table.notes == {"rows_read": 2, "row_limit": 2, "streamed": True}
    assert table.files == ()
    assert values(read(saved / folder, source_options={"streaming": True, "max_rows": 99})) == EXPECTED


def test_a_limit_without_a_stream(saved: Path):
    assert list(values(read(saved / "series", source_options={"max_rows": 1}))) == ["s0"]
    assert "a stream has no end; say how many rows" in problem(saved / "series", source_options={"streaming": True})
    assert "max_rows=-1 is negative" in problem(saved / "series", source_options={"max_rows": -1})


def test_long_rows(saved: Path):
    table = read(saved / "long", conditional_columns=["dose"])
    assert table.roles == Roles(("target",), ("dose",))
    assert values(table) == {"a": list(np.arange(150.0)), "b": list(np.arange(150.0, 300.0))}
    assert table.notes["layout"] == "GluonTS"
    assert read(saved / "long", static_real_columns=["dose"]).statics["dose"].to_dict() == {"a": 1.0, "b": 1.0}
    table = read(saved / "long", source_options={"streaming": True, "max_rows": 40})
    assert values(table) == {"a": list(np.arange(40.0))}
    assert "no column 'time'" in problem(saved / "long", timestamp_column="time")


def rows(**more: object) -> pd.DataFrame:
    return pd.DataFrame([{"start": pd.Timestamp("2024-01-31"), "target": [1.0, None, 3.0]} | more])


def test_dimensions_and_features():
    raw = rows(
        target=[[1.0, 2.0], [3.0, 4.0]],
        past_feat_dynamic_real=[[5.0, 6.0]],
        feat_dynamic_real=[[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]],
        feat_static_cat=[0],
    )
    table = table_from_series(raw, DataSection(frequency="5min"), "x")
    assert table.roles == Roles(
        ("target_0", "target_1"), ("past_feat_dynamic_real_0",), ("feat_dynamic_real_0", "feat_dynamic_real_1")
    )
    assert table.frame[list(table.roles.channels)].to_numpy().tolist() == [[1, 3, 5, 7, 1], [2, 4, 6, 8, 2]]
    assert table.notes == {"static_features_not_used": ["feat_static_cat"]}
    assert table.frame[ITEM].tolist() == ["0", "0"]


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        ("M", ["2024-01-01", "2024-02-01", "2024-03-01"]),
        ("MS", ["2024-01-01", "2024-02-01", "2024-03-01"]),
        ("D", ["2024-01-31", "2024-02-01", "2024-02-02"]),
        ("15T", ["2024-01-31 00:00", "2024-01-31 00:15", "2024-01-31 00:30"]),
        ("1H", ["2024-01-31 00:00", "2024-01-31 01:00", "2024-01-31 02:00"]),
    ],
)
def test_steps_by_their_old_and_new_names(frequency: str, expected: list[str]):
    table = table_from_series(rows(freq=frequency), DataSection(), "x")
    assert table.frame[TIMESTAMP].tolist() == [pd.Timestamp(text) for text in expected]
    assert table.frame["target"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (rows(), "rows without freq; set data.frequency"),
        (pd.concat([rows(freq="h"), rows(freq="D")]), "series of several steps (D, h); set data.frequency"),
        (rows(freq="h", start="yesterday"), "series '0': start 'yesterday' is not a time"),
        (rows(freq="h", feat_dynamic_real=[[1.0]]), "feat_dynamic_real has 1 steps, its target 3"),
        (rows(freq="h", target=["a", "b"]), "series '0': its target holds no numbers"),
        (
            pd.concat([rows(freq="h"), rows(freq="h", target=[[1.0], [2.0]])], ignore_index=True),
            "series '1' has channels target_0, target_1, the first one target",
        ),
    ],
    ids=["no step", "two steps", "start", "short feature", "text", "other channels"],
)
def test_rows_that_make_no_series(raw: pd.DataFrame, words: str):
    with pytest.raises((ConfigError, DataError)) as caught:
        table_from_series(raw, DataSection(), "x")
    assert words in str(caught.value)


def test_what_cannot_be_read(saved: Path, tmp_path: Path):
    text = problem("no_such_owner_of_mine/no_such_data_set")  # tests run offline: the Hub is not asked
    assert "source hf_dataset: no_such_owner_of_mine/no_such_data_set cannot be read" in text
    assert "set data.path to a Hub id" in text
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    assert "unknown kind of file; use .arrow here, and source csv for CSV" in problem(tmp_path / "table.csv")
    (tmp_path / "broken.arrow").write_bytes(b"no arrow at all")
    assert "broken.arrow cannot be read" in problem(tmp_path / "broken.arrow")
    assert "does not exist" in problem("./nowhere")
    nothing = pa.table({"start": pa.array([], pa.string()), "target": pa.array([], pa.list_(pa.float64()))})
    with pa.OSFile(str(tmp_path / "empty.arrow"), "wb") as file, pa.ipc.new_stream(file, nothing.schema) as stream:
        stream.write_table(nothing)
    assert "the data set has no rows" in problem(tmp_path / "empty.arrow")


def test_a_folder_of_csv_is_left_to_the_source_that_keeps_its_ids(tmp_path: Path):
    (tmp_path / "table.csv").write_text("item_id,timestamp,target\n001,2024-01-01,1\n")
    assert "holds CSV files: source csv reads them, with ids as they are written" in problem(tmp_path)
