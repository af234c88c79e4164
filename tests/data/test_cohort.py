"""The cohort table: who is in the data, how much of it, and what was dropped and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from unit.builders import grid_table

from tstune.config.schema import DataSection
from tstune.data.describe import describe_cohort, format_cohort, remarks, write_cohort
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.table import Roles
from tstune.errors import OutputError

ROLES = Roles(("glucose",))
NAN = np.nan


def glucose(seed: int, number: int = 2 * 288, every: int = 1) -> np.ndarray:
    values = np.round(np.random.default_rng(seed).uniform(60, 200, number))
    values[np.arange(number) % every != 0] = NAN
    return values[:, None]


@pytest.fixture(scope="module")
def prepared() -> PreparedData:
    """Four people: whole, with gaps, with a 15-minute sensor, and one without any reading."""
    gaps = glucose(1)
    gaps[100:130] = NAN  # a long gap
    gaps[140:150] = NAN  # and another: ten steps remain between them
    gaps[200:205] = NAN  # a short one
    grids = {"whole": glucose(0), "gaps": gaps, "quarter": glucose(2, every=3), "silent": np.full((288, 1), NAN)}
    table = grid_table(grids, ROLES, frequency="5min", max_gap="45min")
    return prepare_data(DataSection(test_stride=2), 12, 4, table)


def test_one_row_per_person(prepared: PreparedData):
    table = describe_cohort(prepared).set_index("item_id")
    assert table.index.tolist() == ["gaps", "quarter", "whole", "silent"]
    assert table.loc[["whole", "gaps"], "days"].tolist() == [2.0, 2.0]
    assert table["step"].tolist()[:3] == ["5min", "15min", "5min"]
    assert table["readings"].tolist() == [576 - 45, 192, 576, 0]
    assert table["missing_%"].tolist()[:3] == [round(100 * 45 / 576, 1), 0.0, 0.0]


def test_glucose_statistics_count_real_readings_only(prepared: PreparedData):
    table = describe_cohort(prepared).set_index("item_id")
    for item, seed, every in (("whole", 0, 1), ("quarter", 2, 3)):
        seen = glucose(seed, every=every)
        seen = seen[~np.isnan(seen)]
        row = table.loc[item]
        assert row["time_in_range_%"] == round(100 * np.mean((seen >= 70) & (seen <= 180)), 1)
        assert row["time_below_%"] == round(100 * np.mean(seen < 70), 1)
        assert row["time_above_%"] == round(100 * np.mean(seen > 180), 1)
        assert row["cv_%"] == round(100 * seen.std() / seen.mean(), 1)
        assert row["mean"] == round(seen.mean(), 2)


def test_windows_are_those_of_the_run(prepared: PreparedData):
    table = describe_cohort(prepared).set_index("item_id")
    for part, windows in prepared.windows.items():
        owners = windows.gather(windows.starts(np.arange(len(windows))))["item"].numpy()
        assert table[f"windows_{part}"].tolist()[:3] == np.bincount(owners, minlength=3).tolist()


def test_what_was_dropped_and_why(prepared: PreparedData):
    dropped = describe_cohort(prepared).set_index("item_id")["dropped"]
    assert dropped["whole"] == ""
    assert dropped["gaps"] == (
        "40 steps in 2 gaps longer than 45min; 10 steps in 1 piece shorter than a window of 16 steps"
    )
    assert dropped["silent"] == "whole item: no reading of a target"


def test_few_shot_and_nobody_left():
    grids = {"long": glucose(0), "short": glucose(1, 15)}
    table = grid_table(grids, ROLES, frequency="5min")
    data = prepare_data(DataSection(train_fraction=0.1, train_fraction_from="uniform"), 12, 4, table)
    cohort = describe_cohort(data).set_index("item_id")
    assert cohort.loc["long", "windows_train"] == len(data.train)
    assert cohort.loc["short", ["windows_train", "windows_validation", "windows_test"]].tolist() == [0, 0, 0]
    assert cohort.loc["short", "dropped"].startswith("no window at all; 15 steps in 1 piece shorter")


def test_blank_doses_and_people_without_windows_are_said():
    values = np.hstack([glucose(0, 400), np.full((400, 1), NAN)])
    values[10:160:50, 1] = 5
    gaps = values.copy()
    gaps[200:390, 0] = NAN
    roles = Roles(("glucose",), conditional=("insulin",))
    table = grid_table({"P01": values, "P02": gaps}, roles, frequency="5min", max_gap="45min")
    split = {"train": 0.5, "validation": 0.2, "test": 0.3}
    lines = remarks(prepare_data(DataSection(split=split), 12, 4, table))
    assert lines == [
        "insulin: 99.0% of its steps are blank and taken as unknown (mean of the others 5); if blank means none "
        "(mean 0.049), set data.fill={insulin: zero}",
        "no validation window of P02 (48% of its time lies in long gaps): it takes 16 steps without a gap above 45min",
        "no test window of P02 (48% of its time lies in long gaps): it takes 16 steps without a gap above 45min",
    ]
    assert len(remarks(prepare_data(DataSection(split=split, fill={"insulin": "zero"}), 12, 4, table))) == 2


def test_targets_that_nobody_named_are_said_with_a_way_to_name_them():
    table = grid_table({"P01": np.arange(800.0).reshape(400, 2)}, Roles(("load", "to do")), frequency="h")
    split = {"train": 0.5, "validation": 0.2, "test": 0.3}
    (line,) = remarks(prepare_data(DataSection(source="csv", split=split), 12, 4, table))
    assert "so all columns of numbers are: load, to do; 'data.target_columns=[load]' takes one" in line
    assert "'data.control_columns=[to do]' makes an input of one" in line
    for said in ({"source": "csv", "target_columns": ["load", "to do"]}, {"source": "ett"}, {"source": "mine:load"}):
        assert remarks(prepare_data(DataSection(split=split, **said), 12, 4, table)) == []


def test_mmol_and_things_that_are_no_glucose():
    values = np.tile([3.8, 3.9, 10.0, 10.1], 150)[:, None]
    data = prepare_data(DataSection(), 12, 4, grid_table({"a": values}, ROLES, frequency="5min"))
    row = describe_cohort(data).iloc[0]
    assert (row["time_in_range_%"], row["time_below_%"], row["time_above_%"]) == (50, 25, 25)
    loads = prepare_data(DataSection(), 12, 4, grid_table({"a": values}, Roles(("load",)), frequency="h"))
    table = describe_cohort(loads)
    assert not [name for name in table.columns if name.startswith("time_")]
    assert table.loc[0, "days"] == 25.0
    monthly = prepare_data(DataSection(), 4, 1, grid_table({"a": values[:60]}, Roles(("load",)), frequency="MS"))
    row = describe_cohort(monthly).iloc[0]
    assert np.isnan(row["days"])
    assert row["step"] == "1MS"


def test_readings_that_cleaning_dropped_are_in_the_row():
    values = glucose(0)
    values[[5, 50]] = 700
    table = grid_table({"a": values}, ROLES, frequency="5min", max_gap="45min")
    data = prepare_data(DataSection(out_of_range="drop"), 12, 4, table)
    assert describe_cohort(data).loc[0, "dropped"] == "2 readings: out of range, dropped"


def test_files(prepared: PreparedData, tmp_path: Path):
    table = write_cohort(prepared, tmp_path)
    again = pd.read_csv(tmp_path / "cohort.csv", keep_default_na=False, na_values={"mean": [""]})
    assert again["item_id"].tolist() == table["item_id"].tolist()
    text = (tmp_path / "cohort.md").read_text()
    assert text == format_cohort(table) + "\n"
    lines = text.splitlines()
    assert len(lines) == 2 + len(table) + 1
    assert lines[-1].startswith("| median | 2 | ")
    assert {line.count("|") for line in lines} == {len(table.columns) + 1}
    assert "nan" not in text.lower().replace("glucose", "")
    assert "| median" not in format_cohort(table.head(1))
    with pytest.raises(OutputError, match="cannot be written"):
        write_cohort(prepared, tmp_path / "nowhere")


@pytest.mark.shared
def test_a_real_cohort(shared: Path):
    config = DataSection(source="t1d_uom", path=str(shared / "data" / "t1d_uom"))
    cohort = describe_cohort(prepare_data(config, 512, 96)).set_index("item_id")
    published = {"UoM2301": 78.81, "UoM2307": 67.80}  # table 2 of the paper; UoM2304 holds two sensors, averaged here
    for person, in_range in published.items():
        assert cohort.loc[person, "time_in_range_%"] == pytest.approx(in_range, abs=0.8)
    assert cohort["days"].tolist() == [110.0, 116.4, 29.6]
    assert set(cohort["step"]) == {"5min"}
