"""Cleaning: what is doubtful is found and counted, and only changed where the configuration says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tstune.config.schema import DataSection
from tstune.config.validation import validate
from tstune.data.cleaning import CleaningReport, CleaningRules, clean_table
from tstune.data.frame import table_from_frame
from tstune.data.prepared import context_windows, prepare_data
from tstune.data.preprocess import Preprocessor
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable
from tstune.errors import ConfigError, DataError, TstuneError
from tstune.glucose.units import MGDL_PER_MMOL_CONVERTED, is_glucose_column, unit_of

START = "2024-01-08"


def table(values: dict[str, np.ndarray] | np.ndarray, column: str = "glucose", step: str = "5min", **more: object):
    """Regular readings of items, without anything doubtful about their times."""
    values = values if isinstance(values, dict) else {"a": values}
    frames = [
        pd.DataFrame({ITEM: item, TIMESTAMP: pd.date_range(START, periods=len(own), freq=step), column: own})
        for item, own in values.items()
    ]
    return SourceTable(pd.concat(frames, ignore_index=True), Roles((column,)), frequency=step, **more)


def mg(number: int = 400, seed: int = 0) -> np.ndarray:
    """Smooth glucose in mg/dL with no doubtful reading."""
    random = np.random.default_rng(seed)
    return np.round(140 + 40 * np.sin(np.arange(number) / 25 + seed) + random.uniform(-2, 2, number))


def mmol(number: int = 400, seed: int = 0) -> np.ndarray:
    return np.round(mg(number, seed) / MGDL_PER_MMOL_CONVERTED, 1)


def glucose(frame: pd.DataFrame) -> SourceTable:
    return SourceTable(frame, Roles(("glucose",)), frequency="5min")


def clean(source: SourceTable, **rules: object) -> SourceTable:
    return clean_table(source, CleaningRules(**rules))


def counts(cleaned: SourceTable) -> dict[str, int]:
    return {name: found["count"] for name, found in cleaned.cleaning.items() if found["count"]}


def problem(source: SourceTable, **rules: object) -> str:
    with pytest.raises(TstuneError) as caught:
        clean(source, **rules)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the report


def test_a_report_counts_and_keeps_three_examples():
    report = CleaningReport()
    report.add("out_of_range", 2, by_item={"a": 2}, examples=["a 1", "a 2"])
    report.add("out_of_range", 3, by_item={"a": 1, "b": 2}, examples=["b 1", "b 2"], valid_range=[1, 2])
    report.add("spikes", 0)
    found = report.to_dict()["out_of_range"]
    assert found == {
        "count": 5,
        "action": "kept",
        "by_item": {"a": 3, "b": 2},
        "examples": ["a 1", "a 2", "b 1"],
        "valid_range": [1, 2],
    }
    assert report.lines() == ["out of range: 5 kept (a 1; a 2; b 1)"]
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert CleaningReport(report.to_dict()).to_dict() == report.to_dict()


def test_clean_readings_are_left_alone():
    for source in (table(mg()), table(mmol()), table(np.arange(400.0), "load")):
        cleaned = clean(source)
        assert counts(cleaned) == {}
        assert cleaned.frame is source.frame, "nothing is even copied"
        assert json.dumps(cleaned.cleaning)


# units


@pytest.mark.parametrize(
    ("name", "is_glucose", "unit"),
    [
        ("glucose_value_mg_dl", True, "mg/dL"),
        ("bg(mmol/L)", True, "mmol/L"),
        ("Sensor Glucose (mg/dL)", True, "mg/dL"),
        ("Historic Glucose mmol/L", True, "mmol/L"),
        ("sgv", True, None),
        ("CGM", True, None),
        ("bg", True, None),
        ("load", False, None),
        ("background", False, None),
        ("value", False, None),
    ],
)
def test_glucose_and_its_unit_by_name(name: str, is_glucose: bool, unit: str | None):
    assert is_glucose_column(name) is is_glucose
    assert unit_of(name) == unit


@pytest.mark.parametrize(("values", "unit"), [(mg(), "mg/dL"), (mmol(), "mmol/L"), (mmol() * 0 + 30, None)])
def test_the_unit_by_the_values(values: np.ndarray, unit: str | None):
    cleaned = clean(table(values))
    assert cleaned.unit == unit
    assert cleaned.cleaning.get("unit", {}).get("unit") == unit


def test_what_is_not_called_glucose_is_not_taken_for_it():
    cleaned = clean(table(mg(), "value"))
    assert cleaned.unit is None
    assert "unit" not in cleaned.cleaning
    assert clean(table(mg(), "value"), unit="mg/dL").unit == "mg/dL"
    assert clean(table(mg(), "glucose_kick"), unit="kW").unit == "kW", "another unit is believed"
    assert clean(table(mg(), "load", unit="MW")).unit == "MW"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (table(mg(), "bg(mmol/L)"), "column 'bg(mmol/L)': its name says mmol/L, but the median of 1"),
        (table(mg(), "bg(mmol/L)"), "fits mg/dL; set data.unit=mg/dL or mmol/L"),
        (table(mmol(), unit="mg/dL"), "its source says mg/dL"),
        (table({"eve": mg(), "adam": mmol()}), "mixes units: series 'eve' looks like mg/dL (median 1"),
        (table({"eve": mg(), "adam": mmol()}), "series 'adam' looks like mmol/L (median 8."),
        (table(np.append(mg(), mmol(100))), "is in mg/dL, but 100 of its 500 readings look like mmol/L"),
        (table(np.append(mmol(), mg(100))), "is in mmol/L, but 100 of its 500 readings look like mg/dL"),
    ],
)
def test_contradictions_stop_with_one_line(source: SourceTable, said: str):
    assert said in problem(source)


def test_what_the_configuration_says_is_believed():
    cleaned = clean(table(mg(), "bg(mmol/L)"), unit="mg/dL")
    assert cleaned.unit == "mg/dL"
    assert counts(cleaned) == {}
    cleaned = clean(table(mg()), unit="mmol/L")
    assert cleaned.unit == "mmol/L"
    found = cleaned.cleaning["unit_contradicts_values"]
    assert (found["count"], found["action"]) == (1, "data.unit=mmol/L believed")
    assert clean(table({"eve": mg(), "adam": mmol()}), unit="mg/dL").unit == "mg/dL"


@pytest.mark.parametrize(("values", "old", "new"), [(mg(), "mg/dL", "mmol/L"), (mmol(), "mmol/L", "mg/dL")])
def test_conversion(values: np.ndarray, old: str, new: str):
    factor = MGDL_PER_MMOL_CONVERTED if new == "mg/dL" else 1 / MGDL_PER_MMOL_CONVERTED
    source = table(values)
    before = source.frame.copy()
    cleaned = clean(source, convert_to=new)
    np.testing.assert_allclose(cleaned.frame["glucose"], values * factor)
    assert cleaned.unit == new
    assert cleaned.cleaning["converted"] | {"by_item": {}, "examples": []} == {
        "count": 400, "action": f"to {new}", "factor": factor, "by_item": {}, "examples": [],
    }  # fmt: skip
    assert cleaned.cleaning["unit"]["unit"] == old, "the report says what was read"
    pd.testing.assert_frame_equal(source.frame, before)
    same = clean(table(values), convert_to=old)
    assert "converted" not in counts(same)
    np.testing.assert_array_equal(same.frame["glucose"], values)


def test_only_glucose_is_converted():
    source = table(mg())
    source = SourceTable(source.frame.assign(hr=60.0), Roles(("glucose", "hr")), frequency="5min")
    cleaned = clean(source, convert_to="mmol/L")
    assert cleaned.frame["hr"].eq(60).all()
    assert cleaned.frame["glucose"].max() < 20
    assert "data.convert_to=mmol/L: no target is glucose in a known unit (load)" in problem(
        table(mg(), "load"), convert_to="mmol/L"
    )


# readings


def test_out_of_range_is_kept_or_dropped():
    values = mg()
    values[[10, 20, 30]] = [5, 700, 601]
    kept = clean(table({"a": values, "b": mg(seed=1)}))
    found = kept.cleaning["out_of_range"]
    assert (found["count"], found["action"], found["by_item"]) == (3, "kept", {"a": 3})
    assert found["valid_range"] == [20, 600]
    assert found["examples"] == ["a 2024-01-08 00:50:00: 5", "a 2024-01-08 01:40:00: 700", "a 2024-01-08 02:30:00: 601"]
    dropped = clean(table({"a": values, "b": mg(seed=1)}), out_of_range="drop")
    assert dropped.cleaning["out_of_range"]["action"] == "dropped"
    assert np.flatnonzero(dropped.frame["glucose"].isna()).tolist() == [10, 20, 30]
    assert len(dropped.frame) == 800
    low = mmol()
    low[3] = 0.1
    assert clean(table(low)).cleaning["out_of_range"]["valid_range"] == [1.1, 33.3]
    assert counts(clean(table(low)))["out_of_range"] == 1


def test_a_valid_range_of_ones_own():
    values = np.arange(400.0)
    cleaned = clean(table(values, "load"), valid_range=(10, 390), out_of_range="drop")
    assert cleaned.frame["load"].isna().sum() == 10 + 9
    assert "out_of_range" not in clean(table(values, "load")).cleaning, "nothing is known about loads"
    with pytest.raises(ConfigError, match=r"valid_range \[5.0, 2.0\] must grow"):
        validate({"data": {"valid_range": [5, 2]}}, "here")


def test_limits_are_in_the_unit_that_is_read_and_dropping_comes_before_converting():
    values = mg()
    values[7] = 700
    cleaned = clean(table(values), out_of_range="drop", convert_to="mmol/L")
    assert np.flatnonzero(cleaned.frame["glucose"].isna()).tolist() == [7]
    assert cleaned.frame["glucose"].max() < 12


@pytest.mark.parametrize("unit", ["mg/dL", "mmol/L"])
def test_sensor_clipping_is_counted_by_runs(unit: str):
    high, low = (400, 40) if unit == "mg/dL" else (22.2, 2.2)
    values = mg() if unit == "mg/dL" else mmol()
    values[100:112] = high
    values[200] = low
    values[300:303] = low
    cleaned = clean(table({"a": values, "b": values}))
    found = cleaned.cleaning["at_sensor_limit"]
    assert (found["count"], found["runs"], found["longest_run_minutes"]) == (32, 6, 55)
    assert found["action"] == "kept"
    np.testing.assert_array_equal(cleaned.frame["glucose"][:400], values)


def test_spikes_and_outliers_are_flagged_only():
    values = mg()
    values[50] += 90  # up and down within ten minutes
    cleaned = clean(table(values))
    assert counts(cleaned) == {"spikes": 1}
    assert cleaned.cleaning["spikes"]["examples"][0].startswith("a 2024-01-08 04:10:00: ")
    rise = mg()
    rise[50:] += 60  # a step is no spike: a new sensor, or sugar
    assert counts(clean(table(rise))) == {}
    loads = np.random.default_rng(0).normal(10, 1, 400)
    loads[5] = 200
    cleaned = clean(table(loads, "load"))
    assert counts(cleaned) == {"far_from_the_rest": 1}
    assert cleaned.frame["load"][5] == 200


def two_sensors(difference: float) -> SourceTable:
    """The trap of UoM2304: from noon on a second stream runs a minute behind the first."""
    one, two = table(mg(288)), table(mg(288) + difference)
    late = two.frame.assign(timestamp=two.frame[TIMESTAMP] + pd.Timedelta("1min"))[144:]
    frame = pd.concat([one.frame, late]).sort_values(TIMESTAMP, ignore_index=True)
    return glucose(frame)


def test_two_sensors_that_disagree():
    kept = clean(two_sensors(80))
    assert counts(kept)["conflicting_readings"] == 288
    assert kept.frame["glucose"].notna().all()
    dropped = clean(two_sensors(80), conflicting_readings="drop")
    morning = dropped.frame[TIMESTAMP] < "2024-01-08 12:00"
    assert dropped.frame.loc[morning, "glucose"].notna().all()
    assert dropped.frame.loc[~morning, "glucose"].isna().all(), "nothing says which of the two is right"
    assert "conflicting_readings" not in counts(clean(two_sensors(8))), "two good sensors"


def test_duplicate_times_and_rows_out_of_order():
    source = table({"a": mg(), "b": mg()})
    frame = pd.concat([source.frame, source.frame.iloc[[3, 7, 450]]], ignore_index=True)
    cleaned = clean(glucose(frame))
    found = cleaned.cleaning["duplicate_timestamps"]
    assert (found["count"], found["action"], found["by_item"]) == (3, "averaged", {"a": 2, "b": 1})
    shuffled = source.frame.sample(frac=1, random_state=0)
    cleaned = clean(glucose(shuffled))
    assert cleaned.cleaning["rows_out_of_order"]["count"] > 300
    assert set(counts(cleaned)) == {"rows_out_of_order"}


# the clock


def wall_clock(first: str, last: str, item: str = "a") -> tuple[pd.DataFrame, pd.DatetimeIndex]:
    """(readings at the times that a wall clock in London shows, the true times)."""
    utc = pd.date_range(first, last, freq="5min", tz="UTC")
    wall = utc.tz_convert("Europe/London").tz_localize(None)
    return pd.DataFrame({ITEM: item, TIMESTAMP: wall, "glucose": mg(len(wall))}), utc.tz_localize(None)


AUTUMN, SPRING = ("2023-10-27", "2023-10-31"), ("2023-03-24", "2023-03-28")


def test_a_repeated_and_a_missing_hour_are_found_without_being_told():
    autumn, _ = wall_clock(*AUTUMN)
    spring, _ = wall_clock(*SPRING, item="b")
    frame = pd.concat([autumn, spring], ignore_index=True)
    cleaned = clean(glucose(frame))
    found = {name: cleaned.cleaning[name] for name in ("repeated_hour", "missing_hour")}
    assert found["repeated_hour"]["by_item"] == {"a": 1}
    assert found["repeated_hour"]["examples"] == ["a 2023-10-29 01:00:00"]
    assert found["missing_hour"]["by_item"] == {"b": 1}
    assert found["missing_hour"]["examples"] == ["b 2023-03-26 01:00:00"]
    assert "data.timezone" in found["repeated_hour"]["action"]
    assert cleaned.frame is frame


def test_other_nights_and_gaps_are_no_clock_changes():
    quiet, _ = wall_clock("2023-06-01", "2023-09-20")
    gap = quiet[~quiet[TIMESTAMP].between("2023-07-02 00:30", "2023-07-02 05:00")]
    cleaned = clean(glucose(gap))
    assert counts(cleaned) == {}
    long_gap, _ = wall_clock(*SPRING)  # the sensor was off all night
    long_gap = long_gap[~long_gap[TIMESTAMP].between("2023-03-25 22:00", "2023-03-26 06:00")]
    assert counts(clean(glucose(long_gap))) == {}


@pytest.mark.parametrize("order", ["as it ran", "sorted"])
def test_local_times_become_utc(order: str):
    frame, utc = wall_clock(*AUTUMN)
    if order == "sorted":  # both passes of the hour side by side: the first of each pair is taken for summer
        frame = frame.sort_values(TIMESTAMP, kind="stable", ignore_index=True)
    source = glucose(frame)
    cleaned = clean(source, timezone="Europe/London")
    assert sorted(cleaned.frame[TIMESTAMP]) == list(utc)
    assert cleaned.frame[TIMESTAMP].is_unique
    assert cleaned.cleaning["repeated_hour"]["count"] == 12
    assert cleaned.cleaning["local_times"]["action"] == "read as Europe/London, now UTC"
    if order == "as it ran":
        assert cleaned.frame[TIMESTAMP].is_monotonic_increasing
        np.testing.assert_array_equal(cleaned.frame["glucose"], source.frame["glucose"])


def test_spring_and_times_that_do_not_exist():
    frame, utc = wall_clock(*SPRING)
    cleaned = clean(glucose(frame), timezone="Europe/London")
    assert list(cleaned.frame[TIMESTAMP]) == list(utc)
    assert counts(cleaned) == {"local_times": len(frame)}
    impossible = frame.assign(timestamp=pd.date_range("2023-03-26 00:00", periods=len(frame), freq="5min"))
    cleaned = clean(glucose(impossible), timezone="Europe/London")
    assert cleaned.cleaning["times_that_spring_leaves_out"]["count"] == 12
    assert cleaned.cleaning["times_that_spring_leaves_out"]["examples"][0] == "a 2023-03-26 01:00:00"


def test_fault_26_times_that_daylight_saving_skips_are_named_as_such(tmp_path: Path):
    """A clock that was never set: 01:30 is moved on to 02:30, which is there already."""
    stamps = pd.date_range("2023-03-26 00:00", periods=60, freq="5min")
    pd.DataFrame({"timestamp": stamps, "glucose": 100.0}).to_csv(tmp_path / "a.csv", index=False)
    section = DataSection(source="csv", path=str(tmp_path / "a.csv"), timezone="Europe/London")
    with pytest.raises(DataError, match=r"a 2023-03-26 01:00:00 is a time that does not exist .*timezone=UTC, or"):
        load_source(section)
    for fixed in ({"timezone": "UTC"}, {"on_duplicate": "mean"}):
        load_source(section.model_copy(update=fixed))


def test_one_pass_of_the_hour_is_taken_for_the_first():
    frame, utc = wall_clock(*AUTUMN)
    lone = frame[~utc.isin(utc[(utc >= "2023-10-29 01:00") & (utc < "2023-10-29 02:00")])]
    cleaned = clean(glucose(lone), timezone="Europe/London")
    assert cleaned.cleaning["half_of_the_repeated_hour"]["count"] == 12
    assert cleaned.cleaning["repeated_hour"]["count"] == 0
    assert cleaned.frame[TIMESTAMP].is_monotonic_increasing


def test_the_csv_source_converts_before_it_looks_for_duplicates(tmp_path: Path):
    frame, utc = wall_clock(*AUTUMN)
    frame.drop(columns=ITEM).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="12 duplicate timestamp"):
        load_source(DataSection(source="csv", path=str(tmp_path / "a.csv")))
    config = DataSection(source="csv", path=str(tmp_path / "a.csv"), timezone="Europe/London")
    read = load_source(config)
    assert list(read.frame[TIMESTAMP]) == list(utc)
    again = clean_table(read, CleaningRules.from_config(config))
    assert list(again.frame[TIMESTAMP]) == list(utc), "and not a second time"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_a_time_zone_that_is_none(zone: str):
    text = problem(table(mg()), timezone=zone)
    assert f"data.timezone={zone!r} is not a time zone" in text
    assert "Europe/London" in text


# from a configuration to a saved model


def test_everything_lands_in_the_prepared_data():
    values = mg(600)
    values[30] = 800
    config = DataSection(out_of_range="drop", convert_to="mmol/L", max_gap="45min")
    data = prepare_data(config, 32, 8, table({"a": values, "b": mg(600, 1)}))
    assert data.preprocessor.unit == "mmol/L"
    assert data.panel.values[:, 0].max() < 12
    assert data.panel.status[30, 0] == 1, "dropped, and then interpolated like any gap"
    assert data.panel.status[29, 0] == 2
    assert data.manifest["cleaning"]["out_of_range"]["by_item"] == {"a": 1}
    assert data.manifest["unit"] == "mmol/L"
    rules = data.preprocessor.cleaning
    assert (rules.convert_to, rules.out_of_range, rules.expected_unit) == ("mmol/L", "drop", "mg/dL")


def test_a_saved_model_cleans_new_data_the_same_way():
    config = DataSection(convert_to="mmol/L", valid_range=(30, 500), out_of_range="drop", max_gap="45min")
    data = prepare_data(config, 32, 8, table(mg(600)))
    saved = Preprocessor.from_dict(json.loads(json.dumps(data.preprocessor.to_dict())))
    assert saved.cleaning == data.preprocessor.cleaning
    new = mg(64, seed=2)
    new[20] = 600
    raw = table(new).frame.drop(columns=ITEM)
    panel, _ = context_windows(saved.read_frame(raw, "new"), saved, 32)
    np.testing.assert_allclose(panel.values[:20, 0], new[:20] / MGDL_PER_MMOL_CONVERTED, rtol=1e-6)
    assert panel.values[20, 0] == pytest.approx((new[19] + new[21]) / 2 / MGDL_PER_MMOL_CONVERTED, rel=1e-6)
    with pytest.raises(DataError, match=r"trained on mg/dL, but the median of [\d.]+ fits mmol/L; convert"):
        context_windows(saved.read_frame(table(mmol(64)).frame.drop(columns=ITEM), "new"), saved, 32)


def test_a_preprocessor_saved_before_there_was_cleaning():
    saved = prepare_data(DataSection(), 32, 8, table(mg(600))).preprocessor.to_dict()
    del saved["cleaning"]
    assert Preprocessor.from_dict(saved).cleaning == CleaningRules()


def test_a_unit_that_contradicts_the_values_is_remembered():
    data = prepare_data(DataSection(unit="mmol/L"), 32, 8, table(mg(600)))
    assert data.preprocessor.cleaning.unit == "mmol/L"
    raw = table(mg(64)).frame.drop(columns=ITEM)
    panel, _ = context_windows(data.preprocessor.read_frame(raw, "new"), data.preprocessor, 32)
    np.testing.assert_array_equal(panel.values[:, 0], mg(64))


def test_low_and_high_are_the_sensors_limits():
    raw = pd.DataFrame({"timestamp": pd.date_range(START, periods=6, freq="5min").astype(str), "bg": list("567") * 2})
    raw["bg"] = [" Low", "5.5", "6.0", "HIGH", "7.5", None]
    read = table_from_frame(raw, DataSection(), "input")
    assert read.frame["bg"].tolist()[:5] == [2.2, 5.5, 6.0, 22.2, 7.5]
    assert read.cleaning["sensor_words"]["count"] == 2
    assert "mmol/L" in read.cleaning["sensor_words"]["action"]
    worded = raw[["timestamp"]].assign(**{"glucose mg/dL": ["lo", "90", "hi", "1", "2", "3"]})
    assert table_from_frame(worded, DataSection(), "x").frame["glucose mg/dL"].tolist()[:3] == [40, 90, 400]
    with pytest.raises(DataError, match="holds Low or High, and nothing tells its unit"):
        table_from_frame(raw.assign(bg=["low"] * 6), DataSection(), "x")
    with pytest.raises(DataError, match="'high' in column 'load' is not a number"):
        table_from_frame(raw.rename(columns={"bg": "load"}).assign(load=["high"] * 6), DataSection(), "x")


# the real samples keep their numbers


def test_cgm_sample_is_only_looked_at():
    raw = load_source(DataSection())
    cleaned = clean_table(raw, CleaningRules())
    assert cleaned.frame is raw.frame
    assert counts(cleaned) == {"duplicate_timestamps": 3, "at_sensor_limit": 23, "spikes": 1}
    assert (cleaned.cleaning["at_sensor_limit"]["runs"], cleaned.unit) == (4, "mg/dL")


@pytest.mark.shared
def test_what_the_real_files_hold(shared: Path):
    brist, uom = (
        clean(load_source(DataSection(source=name, path=str(shared / "data" / name))))
        for name in ("brist1d_open", "t1d_uom")
    )
    assert counts(brist)["duplicate_timestamps"] == 215
    assert brist.cleaning["duplicate_timestamps"]["by_item"]["P02"] == 71
    assert brist.cleaning["repeated_hour"]["by_item"] == {"P01": 1, "P05": 1, "P06": 1, "P15": 1}
    assert brist.cleaning["at_sensor_limit"]["longest_run_minutes"] == 695, "P18 stood at 22.2 for half a day"
    assert uom.cleaning["out_of_range"]["by_item"] == {"UoM2307": 7}
    by_item = uom.cleaning["conflicting_readings"]["by_item"]
    assert by_item["UoM2304"] > 12_000
    assert by_item.get("UoM2301", 0) < 800


@pytest.mark.parametrize("value", [1e30, -2e15, np.inf])
def test_fault_15_an_absurd_magnitude_is_missing_and_counted(value):
    source = table(np.r_[np.arange(50.0), value, 1e15], column="load")
    cleaned = clean(source)
    found = cleaned.cleaning["absurd"]
    assert (found["count"], found["action"], found["by_item"], found["limit"]) == (1, "dropped", {"a": 1}, 1e15)
    assert cleaned.frame["load"].isna().sum() == 1
    assert cleaned.frame["load"].max() == 1e15
    beside = replace(source, roles=Roles(("other",), conditional=("load",)))
    beside = replace(beside, frame=beside.frame.assign(other=1.0))
    assert clean(beside).frame["load"].isna().sum() == 1, "an input as well"
