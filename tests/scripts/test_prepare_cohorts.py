"""The table of people that the glucose weights are trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import prepare_cohorts

TIMES = pd.date_range("2024-01-01", periods=3, freq="5min")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, people: list[str]) -> None:
        tables = [
            pd.DataFrame({"item_id": person, "timestamp": TIMES, "glucose": [100.0, 101.0, None]}) for person in people
        ]
        pd.concat([*tables, tables[0]]).to_parquet(tmp_path / name)  # the first one twice

    write("north.parquet", ["b", "a"])
    write("t1d-uom.parquet", ["UoM2301", "UoM2302", "UoM12301"])
    return tmp_path


def test_people_of_all_cohorts_but_those_of_recipes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "people.parquet"
    for more in ([], ["--overwrite"]):  # what was written is no cohort
        assert prepare_cohorts.main([str(folder), "--output", str(output), *more]) == 0
        table = pd.read_parquet(output)
        people = ["north/a", "north/b", "t1d-uom/UoM12301", "t1d-uom/UoM2302"]
        assert table["item_id"].tolist() == [person for person in people for _ in range(2)]
        assert table["timestamp"].tolist() == [*TIMES[:2]] * 4
        assert table["glucose"].tolist() == [100, 101] * 4
        assert capsys.readouterr().out.splitlines() == [
            "north.parquet: 2 people, 4 readings",
            "t1d-uom.parquet: 2 people, 4 readings",
        ]


def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "people.parquet"
    (folder / "empty").mkdir()
    pd.DataFrame({"item_id": ["a"], "time": [TIMES[0]]}).to_parquet(folder / "zebra.parquet")
    for arguments, words in {
        (str(folder), "people.csv"): "people.csv: unknown kind of file; use .parquet",
        (str(folder / "empty"), str(output)): "empty holds no .parquet file; give the folder of the cohorts",
        (str(folder), str(folder / "north.parquet")): "north.parquet exists; add --overwrite",
        (str(folder), str(output)): "zebra.parquet has no column 'timestamp'; its columns: item_id, time",
    }.items():
        assert prepare_cohorts.main([arguments[0], "--output", arguments[1]]) == 2
        assert words in capsys.readouterr().err
    for damaged in (
        {"timestamp": ["yesterday"]},
        {"timestamp": [TIMES[0].tz_localize("UTC")]},
        {"glucose": ["high"]},
        None,
    ):
        if damaged is None:
            (folder / "zebra.parquet").write_bytes(b"PAR1 nothing PAR1")
        else:
            table = pd.DataFrame({"item_id": ["a"], "timestamp": [TIMES[0]], "glucose": [100.0]}).assign(**damaged)
            table.to_parquet(folder / "zebra.parquet")
        assert prepare_cohorts.main([str(folder), "--output", str(output)]) == 2
        assert "zebra.parquet is damaged: " in capsys.readouterr().err
    assert not output.exists()
