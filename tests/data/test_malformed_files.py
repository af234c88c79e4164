"""Ten malformed files, and their cousins: each loads right, or stops with one clear line and exit code 2."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import reader

import finetune_ttm
from tstune.config.schema import DataSection
from tstune.data.prepared import prepare_data
from tstune.data.sources import load_source
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import TstuneError

HOURS = pd.date_range("2024-02-01", periods=48, freq="h")
GOOD = pd.DataFrame({"timestamp": HOURS, "y": np.round(np.linspace(1.5, 9.5, 48), 2), "dose": np.arange(48) % 3 / 2})


def text_of(frame: pd.DataFrame, **options: object) -> str:
    return frame.to_csv(index=False, **options)


read, reason = reader("csv")


def problem(path: Path, **section: object) -> str:
    text = reason(path, **section)
    assert path.name in text, "the file is named"
    return text


def save(folder: Path, content: str | bytes, name: str = "export.csv") -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def assert_same_as_good(
    table: SourceTable, columns: tuple[str, ...] = ("y", "dose"), renamed: dict[str, str] | None = None
) -> None:
    frame = table.frame.sort_values(TIMESTAMP, ignore_index=True)
    assert table.roles.channels == columns
    assert frame[TIMESTAMP].tolist() == GOOD["timestamp"].tolist()
    for column in columns:
        np.testing.assert_array_equal(frame[column], GOOD[(renamed or {}).get(column, column)])


# 1 bad encoding


def test_other_encodings(tmp_path: Path):
    content = text_of(GOOD).replace("dose", "dosis_für_müller")
    table = read(save(tmp_path, content.encode("latin-1")))
    assert_same_as_good(table, ("y", "dosis_für_müller"), {"dosis_für_müller": "dose"})
    assert table.cleaning["not_utf8"]["action"].startswith("read as Windows-1252")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):  # with a mark, and without
        assert_same_as_good(read(save(tmp_path, text_of(GOOD).encode(encoding), "wide.csv")))
    late = text_of(GOOD).encode() + b"2024-02-03 00:00:00,1.0,\xff\n"  # far below the header
    assert "row 50: 'ÿ' in column 'dose' is not a number" in problem(save(tmp_path, late, "late.csv"))


# 2 byte order mark


@pytest.mark.parametrize("name", ["bom.csv", "bom.csv.gz"])
def test_byte_order_mark_and_windows_line_ends(tmp_path: Path, name: str):
    content = text_of(GOOD, lineterminator="\r\n").encode("utf-8-sig")
    assert content.startswith(b"\xef\xbb\xbf")
    assert_same_as_good(read(save(tmp_path, content, name)))


# 3 day-first dates


def test_day_first_dates(tmp_path: Path):
    path = save(tmp_path, text_of(GOOD.assign(timestamp=HOURS.strftime("%d/%m/%Y %H:%M"))))
    table = read(path)  # two days in a row, if the day is first, or a day in January and one in February
    assert_same_as_good(table)
    assert table.cleaning["times"]["action"] == "read as %d/%m/%Y %H:%M"
    assert_same_as_good(read(path, timestamp_format="%d/%m/%Y %H:%M"))
    text = problem(save(tmp_path, path.read_text().partition("02/02/2024")[0], "day.csv"))  # one day tells nothing
    assert "'01/02/2024 00:00' in column 'timestamp' could be day first or month first" in text
    assert "set data.timestamp_format='%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M'" in text
    # a format that is given is believed
    wrong = read(path, timestamp_format="%m/%d/%Y %H:%M").frame[TIMESTAMP]
    assert wrong.iloc[0] == pd.Timestamp("2024-01-02")


# 4 decimal commas


def test_decimal_commas_between_semicolons(tmp_path: Path):
    path = save(tmp_path, text_of(GOOD, sep=";", decimal=","))
    assert "1,5" in path.read_text()
    table = read(path)
    assert_same_as_good(table)
    found = table.cleaning["decimal_commas"]
    assert found["count"] == 48 + 48
    assert found["action"] == "read as decimal points"


def test_decimal_commas_between_tabs_and_points_between_semicolons(tmp_path: Path):
    assert_same_as_good(read(save(tmp_path, text_of(GOOD, sep="\t", decimal=","))))
    table = read(save(tmp_path, text_of(GOOD, sep=";")))
    assert_same_as_good(table)
    assert "decimal_commas" not in table.cleaning


def test_a_comma_that_could_be_either(tmp_path: Path):
    frame = GOOD.assign(y=[f"{number},{number:03d}" for number in range(100, 148)])
    text = problem(save(tmp_path, text_of(frame, sep=";")))
    assert "'100,100' in column 'y' is either a decimal comma or a thousand" in text
    quoted = GOOD.assign(y=[f"{value}".replace(".", ",") for value in GOOD["y"]])
    assert_same_as_good(read(save(tmp_path, text_of(quoted))))
    mixed = quoted.assign(y=["2.5", *quoted["y"].iloc[1:]])
    assert "'1,67' in column 'y' is not a number; is it a decimal comma?" in problem(save(tmp_path, text_of(mixed)))


# 5 mixed time zones


def test_mixed_offsets_are_one_clock(tmp_path: Path):
    zones = ["Z", "+01:00", "-03:30"]
    offsets = [pd.Timedelta(0), pd.Timedelta("1h"), pd.Timedelta("-3h30min")]
    stamps = [f"{time + offsets[n % 3]}{zones[n % 3]}".replace(" ", "T") for n, time in enumerate(HOURS)]
    assert_same_as_good(read(save(tmp_path, text_of(GOOD.assign(timestamp=stamps)))))


@pytest.mark.parametrize("first", ["naive", "zoned"])
def test_times_with_and_without_a_zone(tmp_path: Path, first: str):
    stamps = [f"{time}" + ("+00:00" if (n % 2 == 0) == (first == "zoned") else "") for n, time in enumerate(HOURS)]
    path = save(tmp_path, text_of(GOOD.assign(timestamp=stamps)))
    text = problem(path)
    with_zone, without = (2, 3) if first == "zoned" else (3, 2)
    assert f"row {with_zone}: " in text
    assert "has a time zone and " in text
    assert f"row {without}: " in text
    assert "has none; write all alike, or set data.timezone for those without" in text
    assert_same_as_good(read(path, timezone="Europe/London"))  # winter: London is UTC


# 6 text in numbers


def test_text_in_numbers(tmp_path: Path):
    frame = GOOD.astype({"y": object})
    frame.loc[7, "y"] = "sensor error"
    for targets in (None, ["y"]):
        text = problem(save(tmp_path, text_of(frame)), target_columns=targets)
        assert "row 9: 'sensor error' in column 'y' is not a number" in text
    frame.loc[7, "y"] = "n/a"  # what pandas knows as missing is missing
    table = read(save(tmp_path, text_of(frame)))
    assert table.frame["y"].isna().sum() == 1
    assert table.frame["y"].notna().sum() == 47


# 7 shuffled rows


def test_shuffled_rows(tmp_path: Path):
    path = save(tmp_path, text_of(GOOD.sample(frac=1, random_state=0)))
    assert_same_as_good(read(path))
    data = prepare_data(DataSection(source="csv", path=str(path)), 2, 1)
    np.testing.assert_allclose(data.panel.values, GOOD[["y", "dose"]])
    assert data.panel.timestamps.tolist() == GOOD["timestamp"].to_numpy("datetime64[ns]").tolist()


# 8 duplicate headers


@pytest.mark.parametrize("header", ["timestamp,y,y", "timestamp,timestamp,y", "timestamp, y,y ", '"timestamp","y","y"'])
def test_duplicate_headers(tmp_path: Path, header: str):
    body = text_of(GOOD).split("\n", 1)[1]
    text = problem(save(tmp_path, f"{header}\n{body}"))
    assert "its header names column " in text
    assert "twice; rename or delete one" in text


def test_duplicate_columns_of_a_frame():
    from tstune.data.frame import table_from_frame

    with pytest.raises(TstuneError, match="input: column 'y' occurs twice"):
        table_from_frame(GOOD.rename(columns={"dose": "y"}), DataSection(), "input")


# 9 empty file


@pytest.mark.parametrize("name", ["empty.csv", "empty.csv.gz"])
def test_empty_file(tmp_path: Path, name: str):
    for content in ("", "\n\n", "   \n"):
        assert "cannot be read: the file is empty" in problem(save(tmp_path, content, name))
    for content in ("timestamp,y\n", "timestamp,y\n,\n,\n"):
        assert "the table has no rows" in problem(save(tmp_path, content, name))


# 10 one-row file


def test_one_row_file(tmp_path: Path):
    path = save(tmp_path, text_of(GOOD.head(1)))
    assert len(read(path).frame) == 1
    for section, words in (
        ({}, "no series has two rows, so the sampling step is unknown; set data.frequency"),
        ({"frequency": "h"}, "series too short: a window needs 3 steps"),
    ):
        with pytest.raises(TstuneError) as caught:
            prepare_data(DataSection(source="csv", path=str(path), **section), 2, 1)
        assert words in str(caught.value)


# and what else exports do


def test_names_with_spaces_and_columns_without_a_name(tmp_path: Path):
    assert_same_as_good(read(save(tmp_path, text_of(GOOD).replace("timestamp,y,dose", " timestamp , y,dose "))))
    fewer = text_of(GOOD).replace("timestamp,y,dose", "timestamp,y")
    assert "its rows have more cells than its header has names" in problem(save(tmp_path, fewer))
    trailing = "\n".join(f"{line},," if line else "" for line in text_of(GOOD).split("\n"))
    table = read(save(tmp_path, trailing))
    assert_same_as_good(table)
    assert table.cleaning["empty_columns_without_a_name"]["count"] == 2
    table = read(save(tmp_path, GOOD.to_csv()))  # pandas writes its row numbers
    assert_same_as_good(table)
    assert table.cleaning["row_numbers_without_a_name"]["count"] == 1
    other = GOOD.set_index(pd.Index(GOOD["y"] * 2)).to_csv().replace("y,timestamp", ",timestamp")
    assert "column 1 has no name; name it or delete it" in problem(save(tmp_path, other))


def test_empty_rows(tmp_path: Path):
    table = read(save(tmp_path, text_of(GOOD) + ",,\n,,\n\n"))
    assert_same_as_good(table)
    assert table.cleaning["empty_rows"]["count"] == 2
    middle = text_of(GOOD).replace("\n2024-02-01 03:00:00", "\n,,\n2024-02-01 03:00:00")
    table = read(save(tmp_path, middle))
    assert_same_as_good(table)
    assert table.cleaning["empty_rows"] | {"by_item": {}} == {
        "count": 1,
        "action": "left out",
        "by_item": {},
        "examples": ["first in row 5"],
    }
    without_time = text_of(GOOD).replace("\n2024-02-01 03:00:00", "\n,1,1\n2024-02-01 03:00:00")
    assert "row 5: nothing in column 'timestamp' is not a timestamp" in problem(save(tmp_path, without_time))


def test_what_was_found_in_several_files_is_added_up(tmp_path: Path):
    for name in ("a.csv", "b.csv"):
        save(tmp_path, text_of(GOOD, sep=";", decimal=","), name)
    table = load_source(DataSection(source="csv", path=str(tmp_path)))
    assert list(table.frame[ITEM].unique()) == ["a", "b"]
    assert table.cleaning["decimal_commas"]["count"] == 4 * 48


@pytest.mark.parametrize("content", [text_of(GOOD).replace("timestamp,", ""), text_of(GOOD).replace("dose", "y"), ""])
def test_a_script_says_one_line_and_exits_with_2(tmp_path: Path, content: str | bytes, capsys: pytest.CaptureFixture):
    path, recipe = save(tmp_path, content), tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{context_length: 8, prediction_length: 2}}\ndata: {{source: csv, path: {path}}}\n"
        f"output_dir: {tmp_path / 'run'}\n"
    )
    assert finetune_ttm.main(["--config", str(recipe)]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{path} cannot be read" in error
    assert not (tmp_path / "run").exists()
