"""T1D-UOM: files made here with the traps of the real ones, and the real ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import reader

from tstune.config.schema import DataSection
from tstune.data.prepared import prepare_data
from tstune.data.sources.channels import doses_on_grid, rate_on_grid
from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable

START = pd.Timestamp("2023-11-30 00:00")
CHANNELS = ["bolus", "basal", "carbs"]
read, problem = reader("t1d_uom")


def stamp(hours: float) -> str:
    return (START + pd.Timedelta(hours=hours)).strftime("%d/%m/%Y %H:%M")


def write(folder: Path, name: str, header: str, rows: list[str]) -> None:
    """As the data set does: day-first dates, byte order mark, CRLF, and sometimes commas for nothing."""
    text = "\r\n".join([header, *rows, ""])
    (folder / name).write_bytes(gzip.compress(text.encode("utf-8-sig")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten days of two people: 2301 with a pump, 2302 with a pen and without meals."""
    insulin = tmp_path / "Insulin Data" / "Bolus Data"
    insulin.mkdir(parents=True)
    random = np.random.default_rng(0)
    minutes = np.arange(0, 10 * 24 * 60, 5) + 2
    for person in ("2301", "2302"):
        rows = [f"{stamp(m / 60)},{v:.1f}" for m, v in zip(minutes, random.uniform(4, 12, len(minutes)), strict=True)]
        write(tmp_path, f"UoMGlucose{person}.csv.gz", "bg_ts,value", [*rows, *rows[:7]])  # some rows written twice
    write(insulin, "UoMBolus2301.csv.gz", "bolus_ts,bolus_dose", [
        f"{stamp(24)},2", f"{stamp(24 + 4 / 60)},1.5", f"{stamp(30)},0", f"{stamp(48.02)},3", f"{stamp(120)},4",
        f"{stamp(121)},1", ",",
    ])  # fmt: skip
    write(insulin, "UoMBolus2302.csv.gz", "bolus_ts,bolus_dose", [f"{stamp(h)},5" for h in range(8, 200, 12)])
    rates = [(24, 9.9), (24, 1.2), (26, 0.6), (27.5, 0), (28, 1)]
    header = "basal_ts,basal_dose,insulin_kind"
    write(tmp_path, "UoMBasal2301.csv.gz", f"{header},,", [f"{stamp(hour)},{rate},R,," for hour, rate in rates])
    write(tmp_path, "UoMBasal2302.csv.gz", header, [f"{stamp(hour)},18,L" for hour in (22, 46, 70)])
    meals = [f"{stamp(32)},Lunch,A+B,40,,,", f" {stamp(26)},Dinner,,60,1,2,3"]
    meals += [f"{stamp(32.02)},Snack,C,12,,,", f"{stamp(34)},Snack,D,,,,"]
    write(tmp_path, "UoMNutrition2301.csv.gz", "meal_ts,meal_type,meal_tag,carbs_g,prot_g,fat_g,fibre_g", meals)
    return tmp_path


def series(table: SourceTable, person: str, channel: str) -> pd.Series:
    own = table.frame[table.frame[ITEM] == person].set_index(TIMESTAMP)[channel].dropna()
    return own.rename(lambda time: (time - START) / pd.Timedelta("1h"))


def test_glucose_with_day_first_dates_and_a_byte_order_mark(folder: Path):
    table = read(folder)
    assert table.roles == Roles(("glucose",))
    assert (table.frequency, table.max_gap, table.unit) == ("5min", "45min", "mmol/L")
    assert "CC BY 4.0" in table.licence
    assert list(table.frame[ITEM].unique()) == ["UoM2301", "UoM2302"]
    one = series(table, "UoM2301", "glucose")
    assert len(one) == 10 * 288
    assert one.index[0] == pytest.approx(2 / 60)
    assert one.index[-1] == pytest.approx(240 - 3 / 60)
    assert table.cleaning["rows_written_twice"]["by_item"] == {"UoM2301": 7, "UoM2302": 7}
    assert {Path(file).name for file in table.files} == {"UoMGlucose2301.csv.gz", "UoMGlucose2302.csv.gz"}


def test_no_bolus_is_zero_only_where_the_log_covers_it(folder: Path):
    bolus = series(read(folder, conditional_columns=CHANNELS), "UoM2301", "bolus")
    given = bolus[bolus > 0]
    assert given.to_dict() == pytest.approx({24.0: 2, 24 + 5 / 60: 1.5, 48 + 5 / 60: 3, 120.0: 4, 121.0: 1})
    assert bolus.index.min() == 24.0, "before the first entry nothing is known"
    assert bolus.index.max() == 121.0, "nor after the last"
    inside = bolus[(bolus.index > 48.2) & (bolus.index < 119.9)]
    assert inside.empty, "three days without an entry: the log was put down"
    assert (bolus[(bolus.index > 24.2) & (bolus.index < 48)] == 0).all()


def test_the_pumps_rate_becomes_units(folder: Path):
    basal = series(read(folder, conditional_columns=CHANNELS), "UoM2301", "basal")
    assert basal.index.min() == pytest.approx(24 + 5 / 60)
    assert basal.index.max() == 28.0
    assert basal[25.0] == pytest.approx(1.2 / 12), "of two entries at one time the last one counts"
    assert basal[27.0] == pytest.approx(0.6 / 12)
    assert basal[27.75] == 0
    assert basal.sum() == pytest.approx(1.2 * 2 + 0.6 * 1.5)


def test_injected_basal_and_missing_files(folder: Path):
    table = read(folder, conditional_columns=CHANNELS)
    assert table.notes == {"people_with_injected_basal": ["UoM2302"], "people_without": {"carbs": ["UoM2302"]}}
    basal = series(table, "UoM2302", "basal")
    assert basal[basal > 0].to_dict() == {22.0: 18, 46.0: 18, 70.0: 18}
    assert (basal.index.min(), basal.index.max()) == (22.0, 70.0)
    assert series(table, "UoM2302", "carbs").empty, "no file of meals: unknown, not zero"


def test_meals(folder: Path):
    table = read(folder, conditional_columns=["carbs"])
    carbs = series(table, "UoM2301", "carbs")
    assert carbs[carbs > 0].to_dict() == pytest.approx({26.0: 60, 32.0: 40, 32 + 5 / 60: 12})
    assert carbs.index.max() == pytest.approx(32 + 5 / 60)
    found = table.cleaning["nutrition_rows_without_time_or_value"]
    assert (found["count"], found["by_item"]) == (1, {"UoM2301": 1})


def test_windows_of_all_channels(folder: Path):
    config = DataSection(source="t1d_uom", path=str(folder), conditional_columns=CHANNELS)
    data = prepare_data(config, 96, 12)
    assert data.panel.roles == Roles(("glucose",), tuple(CHANNELS))
    assert data.panel.item_length.tolist() == [2880, 2880]
    assert (data.panel.status[:, 0] == 2).all()
    first = data.panel.values[: data.panel.segment_start[1]]
    assert first[:, 1].sum() == pytest.approx(2 + 1.5 + 3 + 4 + 1), "no dose is averaged away"
    assert first[:, 2].sum() == pytest.approx(1.2 * 2 + 0.6 * 1.5, rel=1e-5)


def test_some_of_the_people_and_mistakes(folder: Path):
    assert list(read(folder, source_options={"participants": [2302]}).frame[ITEM].unique()) == ["UoM2302"]
    assert "participants: 9999 is not among 2301, 2302" in problem(folder, source_options={"participants": ["9999"]})
    assert "no channel 'steps'; choose from bolus, basal, carbs" in problem(folder, conditional_columns=["steps"])
    write(folder, "UoMBasal2302.csv.gz", "basal_ts,basal_dose,insulin_kind", [f"{stamp(1)},18,X"])
    assert "UoMBasal2302 has insulin_kind 'X', not R or L" in problem(folder, conditional_columns=["basal"])
    write(folder, "UoMGlucose2302.csv.gz", "bg_ts,value", [f"{stamp(1)},7", "2023-11-30 10:00,7"])
    assert "'2023-11-30 10:00' in column 'bg_ts' is not a time such as 31/12/2023 14:10" in problem(folder)
    write(folder, "UoMGlucose2302.csv.gz", "when,value", [f"{stamp(1)},7"])
    assert "UoMGlucose2302.csv.gz: no column 'bg_ts'; the columns are: when, value" in problem(folder)
    write(folder, "UoMGlucose2302.csv.gz", "bg_ts,value", [])
    assert "UoMGlucose2302.csv.gz: the table has no rows" in problem(folder)
    write(folder / "Insulin Data", "UoMGlucose2301.csv.gz", "bg_ts,value", [])
    assert "hold the same thing; keep one" in problem(folder)


def test_doses_outside_the_grid_are_left_out():
    grid = pd.date_range(START, periods=4, freq="5min")
    stamps = pd.Series([START - pd.Timedelta("5min"), START - pd.Timedelta("4min"), START + pd.Timedelta("16min")])
    assert doses_on_grid(stamps, pd.Series([1.0, 2.0, 4.0]), grid).tolist() == [2.0, 0, 0, 0]
    nothing = doses_on_grid(stamps.head(0), pd.Series([], dtype=float), grid)
    assert np.isnan(nothing).all()
    assert np.isnan(rate_on_grid(stamps.head(1), pd.Series([1.0]), grid)).all(), "one entry alone never ends"


@pytest.mark.shared
def test_the_real_files(shared: Path):
    path = shared / "data" / "t1d_uom"
    table = read(path, conditional_columns=CHANNELS)
    people = ["UoM2301", "UoM2304", "UoM2307"]
    assert list(table.frame[ITEM].unique()) == people
    twice = table.cleaning["rows_written_twice"]
    readings = table.frame.groupby(ITEM)["glucose"].count().to_dict()
    published = {"UoM2301": 45_768, "UoM2304": 39_512, "UoM2307": 8_385}  # table 3 of the paper
    assert {name: readings[name] + twice["by_item"].get(name, 0) for name in people} == published
    doses = table.frame.groupby(ITEM)[CHANNELS].sum()
    raw = {p: pd.read_csv(path / f"UoMBolus{p[3:]}.csv.gz", encoding="utf-8-sig")["bolus_dose"].sum() for p in people}
    assert doses["bolus"]["UoM2301"] == pytest.approx(raw["UoM2301"], rel=1e-9), "every unit is on the grid"
    assert doses["bolus"]["UoM2304"] == pytest.approx(raw["UoM2304"], rel=1e-9)
    assert doses["bolus"]["UoM2307"] < raw["UoM2307"], "glucose begins a month after the pump"
    per_day = doses["basal"] / (table.frame.groupby(ITEM)["basal"].count() / 288)
    assert per_day.between(5, 40).all(), "units per day of a pump, not units per hour"

    kept = prepare_data(DataSection(source="t1d_uom", path=str(path)), 512, 96)
    dropped = prepare_data(DataSection(source="t1d_uom", path=str(path), conflicting_readings="drop"), 512, 96)
    # four weeks of UoM2304 hold two sensors that disagree by some 6 mmol/L at the same minute
    observed = [int((data.panel.status[:, 0] == 2).sum()) for data in (kept, dropped)]
    assert 3_500 < observed[0] - observed[1] < 9_000
