"""Columns with one value per series, and features of the time: read, checked, saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tstune.config.schema import DataSection
from tstune.data.frame import table_from_frame
from tstune.data.frequency import encode_times
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.preprocess import Preprocessor
from tstune.data.scaler import category_codes
from tstune.data.sources.csv import load
from tstune.data.table import Roles
from tstune.errors import ConfigError, DataError

CONTEXT, PREDICTION = 8, 2
STATICS = {"static_categorical_columns": ["device", "sex"], "static_real_columns": ["age"]}


def frame(**changes: object) -> pd.DataFrame:
    people = {"a": ("pump", "f", 30), "b": ("pen", "m", 40), "c": ("pump", None, 62)}
    tables = []
    for number, (item, (device, sex, age)) in enumerate(people.items()):
        stamps = pd.date_range("2024-01-01 07:00", periods=100, freq="h")
        values = np.sin(np.arange(100) * (number + 1)) + number
        tables.append(
            pd.DataFrame({"who": item, "when": stamps, "bg": values, "device": device, "sex": sex, "age": age})
        )
    return pd.concat(tables, ignore_index=True).assign(**changes)


def section(**changes: object) -> DataSection:
    columns = {"timestamp_column": "when", "item_id_column": "who", "target_columns": ["bg"]}
    return DataSection(**columns | STATICS | changes)


def prepare(config: DataSection, raw: pd.DataFrame | None = None) -> PreparedData:
    return prepare_data(
        config, CONTEXT, PREDICTION, table_from_frame(frame() if raw is None else raw, config, "people")
    )


def test_codes_and_constants_of_every_window():
    data = prepare(section())
    assert data.preprocessor.roles == Roles(
        target=("bg",),
        static_real=("age",),
        static_categorical=("device", "sex"),
        categories=(("pen", "pump"), ("f", "m")),
    )
    batch = data.train.__getitems__(range(len(data.train)))
    expected = np.array([[2, 1], [1, 2], [2, 0]])  # a missing name is unknown
    np.testing.assert_array_equal(batch["static"], expected[batch["item"]])
    ages = np.array([30, 40, 62], np.float32)[batch["item"]]
    assert (batch["past_values"][..., 1].numpy() == ages[:, None]).all()
    assert (batch["future_values"][..., 1].numpy() == ages[:, None]).all()
    assert batch["past_observed_mask"][..., 1].all()
    assert data.preprocessor.scaler.mean[1] == pytest.approx(44)
    channels = data.manifest["channels"]
    assert (channels["static_real"], channels["static_categorical"]) == (["age"], ["device", "sex"])


def test_categories_are_those_of_training_items():
    split = {"by": "item", "validation_items": ["c"], "test_items": ["b"]}
    data = prepare(section(split=split))
    assert data.preprocessor.roles.categories == (("pump",), ("f",))
    assert data.test.__getitems__([0])["static"].tolist() == [[0, 0]]
    assert data.validation.__getitems__([0])["static"].tolist() == [[1, 0]]


def test_new_people_with_a_saved_model():
    saved = prepare(section()).preprocessor
    loaded = Preprocessor.from_dict(json.loads(json.dumps(saved.to_dict())))
    assert loaded.roles == saved.roles
    raw = frame(device="patch", age="51")
    table = loaded.read_frame(raw, "new")
    assert category_codes(table, loaded.roles, ["b", "a"]).tolist() == [[0, 2], [0, 1]]
    assert loaded.panel_of(table).values[0, 1] == 51
    with pytest.raises(DataError, match=r"new: no column 'age' \(data\.static_real_columns\)"):
        loaded.read_frame(raw.drop(columns="age"), "new")


@pytest.mark.parametrize("column", ["device", "age"])
def test_a_column_that_changes(column: str):
    raw = frame()
    raw.loc[130, column] = {"device": "pump", "age": 41}[column]
    old, new = {"device": ("'pen'", "'pump'"), "age": ("(np.int64\\()?40", "(np.int64\\()?41")}[column]
    message = rf"people: row 132: static column '{column}' of series 'b' is {new}.*, before it was {old}"
    with pytest.raises(DataError, match=message):
        prepare(section(), raw)


def test_a_number_that_is_none():
    with pytest.raises(DataError, match=r"static column 'age' of series 'a' has 'old', which is not a number"):
        prepare(section(), frame(age="old"))
    raw = frame()
    raw.loc[raw["who"] == "b", "age"] = np.nan
    with pytest.raises(DataError, match=r"static column 'age' of series 'b' has no value; fill it"):
        prepare(section(), raw)


def test_one_file_per_person(tmp_path: Path):
    for person, table in frame().groupby("who"):
        table.drop(columns="who").to_csv(tmp_path / f"{person}.csv", index=False)
    config = section(source="csv", path=str(tmp_path), item_id_column=None)
    table = load(config)
    assert table.statics.loc["b"].tolist() == ["pen", "m", 40.0]
    data = prepare_data(config, CONTEXT, PREDICTION)
    assert data.train.__getitems__([0])["static"].tolist() == [[2, 1]]


def test_columns_that_cannot_have_their_role():
    config = DataSection(source="simulated_t1d", static_real_columns=["age"], source_options={"people": 1, "days": 1})
    with pytest.raises(ConfigError, match="source simulated_t1d reads no static columns such as 'age'"):
        prepare_data(config, CONTEXT, PREDICTION)
    with pytest.raises(ConfigError, match="column 'age' has two roles"):
        prepare(section(conditional_columns=["age"]))
    with pytest.raises(DataError, match=r"'Walk' in column 'activity' is not a number; encode words as numbers first"):
        prepare(section(conditional_columns=["activity"]), frame(activity="Walk"))


# Features of the time


def test_a_time_is_a_point_on_a_circle():
    stamps = np.array(["2024-01-01T00:00", "2024-01-01T06:00", "2024-01-07T18:00"], "datetime64[ns]")  # Mon, Mon, Sun
    found = encode_times(stamps, ["hour_of_day", "day_of_week"])
    expected = [[0, 1, 0, 1], [1, 0, 0, 1], [-1, 0, np.sin(12 * np.pi / 7), np.cos(12 * np.pi / 7)]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    year = encode_times(np.array(["2023-01-01", "2023-07-02"], "datetime64[ns]"), ["day_of_year"])
    np.testing.assert_allclose(year, [[0, 1], [0, -1]], atol=0.02)
    assert encode_times(stamps, []).shape == (3, 0)


def test_features_of_every_step():
    data = prepare(section(time_features=["hour_of_day", "day_of_week"], max_gap=2))
    roles, panel = data.panel.roles, data.panel
    names = ("hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin", "day_of_week_cos")
    assert roles.channels == ("bg", "age", *names)
    assert roles.control_indices == [1, 2, 3, 4, 5]
    batch = data.train.__getitems__([3])
    rows = batch["start"].item() + np.arange(CONTEXT + PREDICTION)
    expected = encode_times(panel.timestamps[rows], roles.time_features)
    found = np.concatenate([batch["past_values"][0], batch["future_values"][0]])[:, 2:]
    np.testing.assert_array_equal(found, expected)
    hour = np.arctan2(found[:, 0], found[:, 1]) / (2 * np.pi) * 24 % 24
    np.testing.assert_allclose(hour, (7 + 3 + np.arange(10)) % 24, atol=1e-4)
    loaded = Preprocessor.from_dict(json.loads(json.dumps(data.preprocessor.to_dict())))
    assert loaded.roles == data.preprocessor.roles
    again = loaded.panel_of(loaded.read_frame(frame(), "new"))
    np.testing.assert_array_equal(again.values, panel.values)


def test_settings_that_contradict():
    raw = frame(hour_of_day_sin=0.0)
    taken = section(conditional_columns=["hour_of_day_sin"], time_features=["hour_of_day"])
    with pytest.raises(ConfigError, match=r"'hour_of_day_sin' has the name of a channel of data\.time_features"):
        prepare(taken, raw)
