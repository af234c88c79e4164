"""BrisT1D-Open in both layouts: files made here with values that are known, and the real copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import reader

from tstune.config.schema import DataSection
from tstune.data.describe import describe_cohort
from tstune.data.prepared import prepare_data
from tstune.data.table import ITEM, TIMESTAMP, Roles

HEADER = "timestamp,bg(mmol/L),insulin(U/prev 5 min),carbs(g),hr,dist(m),steps,cals(kcal),activity,device"
START = pd.Timestamp("2023-06-01 00:00")
HOURS = 48
read, problem = reader("brist1d_open")


def university_rows(seed: int) -> pd.DataFrame:
    """Rows as the University writes them: each device at its own minutes, nearly all cells empty."""
    random = np.random.default_rng(seed)
    names = HEADER.split(",")
    five = pd.date_range(START, periods=HOURS * 12, freq="5min")
    glucose = pd.DataFrame({names[0]: five + pd.Timedelta("1min"), names[1]: np.round(random.uniform(4, 12, 576), 1)})
    pump = pd.DataFrame({names[0]: five[:400], names[2]: 0.1, "device": "Medtronic"})  # no pump data for the last hours
    meals = pd.DataFrame(
        {names[0]: [START + pd.Timedelta(hours=h, minutes=2) for h in (8, 13, 32)], names[3]: [30, 60, 50]}
    )
    worn = five[120:300]
    watch = pd.DataFrame({names[0]: worn, "hr": 60.0, "dist(m)": 10.0, "steps": 20.0, "cals(kcal)": 5.0})
    watch.loc[5, "hr"] = 90.0
    watch["activity"] = [None] * 100 + ["Walking"] * 6 + [None] * 74
    rows = pd.concat([glucose, pump, meals, watch]).sort_values("timestamp", kind="stable")
    return rows.reindex(columns=names)


def write_university(folder: Path, *people: str) -> dict[str, pd.DataFrame]:
    place = folder / "brist1d_dataset" / "device_data" / "processed_state"
    place.mkdir(parents=True)
    (place.parent.parent / "demographic_data.csv").write_text("participant,age\nP01,20\n")
    written = {person: university_rows(seed) for seed, person in enumerate(people)}
    for person, rows in written.items():
        rows.to_csv(place / f"{person}.csv", index=False)
    return written


def write_copy(folder: Path, *people: str, **columns: list) -> None:
    for seed, person in enumerate(people):
        values = np.round(np.random.default_rng(seed).uniform(4, 12, 300), 1)
        stamps = pd.date_range(START + pd.Timedelta("3min"), periods=300, freq="5min")
        frame = pd.DataFrame({"timestamp": stamps, "glucose_value_mg_dl": values * 18}).assign(**columns)
        frame.to_csv(folder / f"{person}.csv.gz", index=False)


def test_glucose_only(tmp_path: Path):
    written = write_university(tmp_path, "P01", "P03")
    table = read(tmp_path)
    assert table.roles == Roles(("glucose",))
    assert (table.frequency, table.max_gap, table.unit) == ("5min", "45min", "mmol/L")
    assert "CC BY 4.0" in table.licence
    assert [Path(file).name for file in table.files] == ["P01.csv", "P03.csv"]
    for person, rows in written.items():
        own = table.frame[table.frame[ITEM] == person]
        expected = rows.dropna(subset=["bg(mmol/L)"])
        assert own["glucose"].tolist() == expected["bg(mmol/L)"].tolist()
        assert own[TIMESTAMP].tolist() == expected["timestamp"].tolist()


def test_channels_with_their_own_meaning_of_missing(tmp_path: Path):
    write_university(tmp_path, "P01")
    channels = ["insulin", "carbs", "hr", "steps", "activity"]
    data = prepare_data(DataSection(source="brist1d_open", path=str(tmp_path), conditional_columns=channels), 32, 8)
    panel = data.panel
    assert panel.roles == Roles(("glucose",), tuple(channels))
    minutes = ((panel.timestamps - START.to_datetime64()) / np.timedelta64(60, "s")).astype(int)
    by_time = {
        name: dict(zip(minutes.tolist(), panel.values[:, place].tolist(), strict=True))
        for place, name in enumerate(panel.roles.channels)
    }
    known = {
        name: dict(zip(minutes.tolist(), (panel.status[:, place] > 0).tolist(), strict=True))
        for place, name in enumerate(panel.roles.channels)
    }
    assert by_time["insulin"][10] == pytest.approx(0.1)
    assert not known["insulin"][400 * 5 + 60], "after the pump's last row nothing is known: not zero"
    assert by_time["carbs"][8 * 60 + 5] == 30, "a meal at 08:02 is seen at 08:05, not before it was eaten"
    assert by_time["carbs"][8 * 60] == 0
    assert known["carbs"][20 * 60]
    assert by_time["carbs"][20 * 60] == 0, "no entry between two meals: nothing was eaten"
    assert not known["carbs"][6 * 60], "before the first entry nothing is known"
    assert not known["hr"][9 * 60], "watch off"
    assert by_time["hr"][125 * 5] == 90
    assert by_time["steps"][200 * 5] == 20
    assert by_time["activity"][(120 + 103) * 5] == 1
    assert by_time["activity"][(120 + 107) * 5] == 0


def test_the_glucose_ml_copy_is_divided_back(tmp_path: Path):
    write_copy(tmp_path, "P02", "P10")
    table = read(tmp_path)
    assert list(table.frame[ITEM].unique()) == ["P02", "P10"]
    expected = np.round(np.random.default_rng(0).uniform(4, 12, 300), 1)
    np.testing.assert_array_equal(table.frame["glucose"].to_numpy()[:300], expected)


def test_some_of_the_people(tmp_path: Path):
    write_copy(tmp_path, "P02", "P10", "P11")
    table = read(tmp_path, source_options={"participants": ["P11", "P02"]})
    assert list(table.frame[ITEM].unique()) == ["P02", "P11"]
    assert len(table.files) == 2
    text = problem(tmp_path, source_options={"participants": ["P99"]})
    assert "participants: P99 is not among P02, P10, P11" in text


def test_local_times_become_utc(tmp_path: Path):
    write_copy(tmp_path, "P02")
    local, utc = read(tmp_path).frame[TIMESTAMP], read(tmp_path, timezone="Europe/London").frame[TIMESTAMP]
    assert ((local - utc) == pd.Timedelta("1h")).all(), "June is an hour ahead"


def test_mistakes(tmp_path: Path):
    write_copy(tmp_path, "P02")
    text = problem(tmp_path, conditional_columns=["insulin"])
    assert "has no insulin; Glucose-ML's copy holds glucose only, take the University's files" in text
    assert "no channel 'mood'; choose from insulin, carbs" in problem(tmp_path, conditional_columns=["mood"])
    assert "source brist1d_open forecasts glucose" in problem(tmp_path, target_columns=["carbs"])
    assert "control_columns=['carbs'] has no meaning" in problem(tmp_path, control_columns=["carbs"])
    (tmp_path / "P02.csv").write_text("timestamp,glucose_value_mg_dl\n2023-01-01,90\n")
    assert "hold the same thing; keep one" in problem(tmp_path)
    (tmp_path / "P02.csv").unlink()
    (tmp_path / "P02.csv.gz").unlink()
    (tmp_path / "P03.csv").write_text("time,value\n2023-01-01,90\n")
    text = problem(tmp_path)
    assert "P03.csv" in text
    assert "the columns are time, value; BrisT1D-Open has timestamp and bg(mmol/L)" in text


@pytest.mark.shared
def test_the_real_copy(shared: Path):
    config = DataSection(source="brist1d_open", path=str(shared / "data" / "brist1d_open"), train_stride=12)
    data = prepare_data(config, 512, 96)
    cohort = describe_cohort(data).set_index("item_id")
    assert cohort.index.tolist() == ["P01", "P02", "P03", "P04", "P05", "P06", "P10", "P11", "P12", "P15", "P16", "P18"]
    assert (data.panel.frequency, data.preprocessor.unit) == ("5min", "mmol/L")
    # figures worked out by hand from the same files, see GLUCOSE.md
    published = {"P01": (61, 45), "P02": (63, 34), "P04": (83, 30), "P10": (93, 27), "P16": (80, 23), "P18": (46, 42)}
    for person, (in_range, cv) in published.items():
        assert cohort.loc[person, "time_in_range_%"] == pytest.approx(in_range, abs=0.6)
        assert cohort.loc[person, "cv_%"] == pytest.approx(cv, abs=0.6)
    steps = cohort["step"].to_dict()
    assert {person for person, step in steps.items() if step == "15min"} == {"P01", "P05", "P06"}
    assert set(steps.values()) == {"5min", "15min"}
    observed = data.panel.values[data.panel.status[:, 0] == 2, 0]
    assert observed.min() == pytest.approx(2.2)
    assert observed.max() == pytest.approx(27.8)
