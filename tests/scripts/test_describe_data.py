"""A look at data before a run: what is found is a recipe that runs; quick, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from recipes.documented import ROOT, commands

import describe_data
import finetune_ttm
from tstune.config.managers import SimpleConfigManager
from tstune.data.describe import describe
from tstune.data.prepared import prepare_data

QUICK = (
    *("training.max_steps=2", "training.eval_every_steps=2", "data.train_stride=40", "data.validation_stride=40"),
    *("data.test_stride=200", "evaluation.baselines=[persistence]", "evaluation.num_plots=0"),
    *("evaluation.report=false", "training.per_device_batch_size=8"),
)


def three_weeks() -> pd.DataFrame:
    """Two people, 5-minute sensors whose clocks waver, gaps every other day, insulin blank where none was given."""
    random, frames, steps = np.random.default_rng(3), [], 21 * 288
    for person, phase in (("P01", 0), ("P02", 3)):
        times = pd.date_range("2024-05-01 08:05", periods=steps, freq="5min")
        glucose = 130 + 30 * np.sin(np.arange(steps) / 288 * 2 * np.pi + phase) + random.normal(0, 0.5, steps).cumsum()
        insulin = np.where(random.random(steps) < 0.015, random.uniform(1, 8, steps).round(1), np.nan)
        kept = np.ones(steps, bool)
        for begin in random.integers(0, steps, 10):
            kept[begin : begin + random.integers(5, 30)] = False
        columns = {"person": person, "time": times, "glucose": glucose.clip(45, 350).round(), "insulin": insulin}
        frames.append(pd.DataFrame(columns)[kept])
    return pd.concat(frames)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    three_weeks().to_csv(folder / "readings.csv", index=False)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


def test_the_command_of_the_readme_works_on_three_weeks_of_two_people(desk, monkeypatch, capsys):
    (command,) = [one for one in commands("README.md") if "recipes/ttm/csv/decoder.yaml" in one.words]
    monkeypatch.chdir(desk)
    begin = command.words.index("scripts/finetune_ttm.py") + 1
    assert finetune_ttm.main([*command.words[begin:], *QUICK]) == 0, capsys.readouterr().err
    saved = yaml.safe_load((desk / "runs/mine/config.yaml").read_text())
    assert saved["data"]["split"]["mode"] in ("strict", "deployment")
    assert (saved["model"]["context_length"], saved["model"]["prediction_length"]) in ((512, 96), (96, 24))
    assert "zero_shot" in capsys.readouterr().out


def test_gaps_and_columns_that_nobody_named_are_said(tmp_path, capsys):
    times = pd.date_range("2024-01-01", periods=600, freq="5min")
    table = pd.DataFrame({"timestamp": times, "load": np.arange(600) % 50, "promo": np.arange(600) % 7})
    table.drop(range(300, 340)).to_csv(tmp_path / "shop.csv", index=False)
    assert describe_data.main([str(tmp_path / "shop.csv")]) == 0
    out = capsys.readouterr().out
    assert "gaps longer than 9 steps (45min): 1; the longest 40 steps (200min) after 2024-01-02 00:55 of shop" in out
    assert "40 steps in 1 gap longer than 9 steps (45min)" in out
    assert "so all columns of numbers are: load, promo; 'data.target_columns=[load]' takes one" in out
    assert describe_data.main([str(tmp_path / "shop.csv"), "data.control_columns=[promo]"]) == 0
    assert "nothing names what" not in capsys.readouterr().out


def test_what_is_printed_runs_when_it_is_pasted(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    assert describe_data.main(["readings.csv", "--yaml", "mine.yaml", "--html", "look.html"]) == 0
    out, recipe = capsys.readouterr().out, (desk / "mine.yaml").read_text()
    assert recipe in out
    assert yaml.safe_load(recipe)["data"] == {
        "source": "csv",
        "path": "readings.csv",
        "timestamp_column": "time",
        "item_id_column": "person",
        "target_columns": ["glucose"],
        "conditional_columns": ["insulin"],
        "fill": {"insulin": "zero"},
    }
    assert yaml.safe_load(recipe)["model"] == {"pretrained": "builtin:glucose"}, "weights that know such readings"
    hourly = three_weeks()[lambda table: table["time"].dt.minute == 5]
    hourly.to_csv(desk / "hourly.csv", index=False)
    assert yaml.safe_load(describe("hourly.csv").recipe())["model"] == {"pretrained": "builtin"}
    assert "2 series every 5min, 2024-05-01 08:05 to" in out
    page = (desk / "look.html").read_text()
    assert page.count("<svg") == 3, "coverage for a desktop and for a phone, and the distribution"
    assert finetune_ttm.main(["--config", "mine.yaml", *QUICK]) == 0, capsys.readouterr().err
    follows = describe("readings.csv").follows
    saved = yaml.safe_load((desk / "runs/readings/config.yaml").read_text())
    assert saved["model"]["context_length"] == follows["model.context_length"]
    assert saved["evaluation"]["horizons"] == follows["evaluation.horizons"]


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (three_weeks()[["time", "glucose"]].head(2000), {"timestamp_column": "time"}),
        (three_weeks().rename(columns={"time": "timestamp"}).head(9000)[["person", "timestamp", "glucose"]],
         {"item_id_column": "person"}),
        (pd.DataFrame({"date": pd.date_range("2010-01-31", periods=150, freq="ME"), "a": range(150), "b": range(150)}),
         {"timestamp_column": "date"}),
    ],
)  # fmt: skip
def test_columns_are_recognised(tmp_path, frame, found):
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = describe(str(tmp_path / "t.csv")).given
    assert {key: value for key, value in given.items() if key not in ("source", "path")} == found


@pytest.mark.parametrize(("file", "column"), [("price_${x}.csv", "load"), ("???.csv", "???"), ("my #1.csv", "a: b")])
def test_odd_names_stay_what_they_are_in_the_recipe(tmp_path, file, column):
    times = pd.date_range("2024-01-01", periods=900, freq="h")
    frame = pd.DataFrame({"timestamp": times, column: np.arange(900) % 24, "note": "x"})
    frame.to_csv(tmp_path / file, index=False)
    frame.to_csv(tmp_path / "abc.csv", index=False)  # what ???.csv would be as a pattern
    (tmp_path / "r.yaml").write_text(describe(str(tmp_path / file)).recipe())
    data = SimpleConfigManager().load_config(tmp_path / "r.yaml").data
    assert (data.path, data.target_columns) == (str(tmp_path / file), [column])


def test_too_little_is_said_with_what_works(tmp_path, capsys):
    pd.DataFrame({"timestamp": pd.date_range("2020", periods=60, freq="D"), "y": range(60)}).to_csv(tmp_path / "t.csv")
    assert describe_data.main([str(tmp_path / "t.csv"), "data.target_columns=[y]"]) == 2
    out = capsys.readouterr().out
    assert "not enough as it is: series too short" in out
    assert "this works: model.pretrained=null tuning.mode=from_scratch" in out
    (tmp_path / "r.yaml").write_text(describe(str(tmp_path / "t.csv")).recipe())
    config = SimpleConfigManager().load_config(tmp_path / "r.yaml")
    assert config.model.pretrained is None
    windows = prepare_data(config.data, config.model.context_length, config.model.prediction_length).windows
    assert min(len(windows[part]) for part in ("train", "validation", "test")) > 0, "its recipe is what works"


def test_ten_megabytes_take_seconds_without_torch(tmp_path):
    times = pd.date_range("2024", periods=68_000, freq="5min")
    values = 120 + np.random.default_rng(0).normal(0, 0.3, (5, len(times))).cumsum(axis=1).round(1)
    frames = [pd.DataFrame({"person": f"P{n}", "time": times, "glucose": row}) for n, row in enumerate(values)]
    pd.concat(frames).to_csv(tmp_path / "big.csv", index=False)
    assert (tmp_path / "big.csv").stat().st_size > 9_000_000
    code = (
        "import sys, time, describe_data; assert describe_data.main(sys.argv[1:]) == 0; "
        "assert 'torch' not in sys.modules; print(time.process_time())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "big.csv"), "--html", str(tmp_path / "big.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "scripts")
    assert float(done.stdout.splitlines()[-1]) < 20, "two seconds on a quiet machine"


def test_rows_of_whole_series_say_themselves_what_they_are(tmp_path):
    values = np.random.default_rng(0).uniform(1, 9, (3, 150)).round(1)
    lines = ["@attribute series_name string", "@attribute start_timestamp date", "@frequency weekly", "@data"]
    lines += [f"T{number}:2012-01-01 00-00-00:{','.join(map(str, row))}" for number, row in enumerate(values)]
    (tmp_path / "weekly.tsf").write_text("\n".join(lines))
    found = describe(str(tmp_path / "weekly.tsf"))
    assert (found.panel.item_ids, found.panel.frequency) == (("T0", "T1", "T2"), "W")
    assert found.given == {"source": "csv", "path": str(tmp_path / "weekly.tsf")}


@pytest.mark.parametrize("people", [[7], [7, 8]], ids=["one", "two"])
@pytest.mark.parametrize("name", ["PtID", "SUBJECT_ID", "USUBJID", "DeidentID", "subject", "patient_id", "unique id"])
def test_numbers_that_name_people_are_no_readings(tmp_path, name, people):
    times = pd.date_range("2024-05-01", periods=900, freq="5min")
    sugar = 120 + 40 * np.sin(np.arange(900) / 40)
    frames = [pd.DataFrame({name: one, "DeviceDtTm": times, "CGM": sugar.round()}) for one in people]
    pd.concat(frames).to_csv(tmp_path / "t.csv", index=False)
    found = describe(str(tmp_path / "t.csv"))
    assert found.given["item_id_column"] == name
    assert found.panel.item_ids == tuple(map(str, people))
    assert found.panel.roles.target == ("CGM",)


@pytest.mark.parametrize(
    ("night", "zone"),
    [("2023-10-28 23:30", "Europe/Berlin"), ("2023-10-28 23:30", "Europe/London"), ("2023-11-05", "America/New_York")],
)
@pytest.mark.parametrize("step", ["5min", "h"])
def test_an_hour_that_autumn_repeats_is_told_from_rows_written_twice(tmp_path, capsys, night, zone, step):
    times = pd.date_range(night, periods=900, freq=step, tz=zone)
    readings = {"PtID": 7, "time": times.tz_localize(None), "load": np.arange(900) % 24}
    pd.DataFrame(readings).to_csv(tmp_path / "t.csv", index=False)
    assert describe_data.main([str(tmp_path / "t.csv")]) == 2
    error = capsys.readouterr().err
    assert "on_duplicate" not in error
    assert describe_data.main([str(tmp_path / "t.csv"), error.split()[-1]]) == 0, f"what is advised works: {error}"
    assert describe(str(tmp_path / "t.csv"), {"timezone": zone}).panel.num_rows == 900
    twice = pd.DataFrame(readings).iloc[[*range(900), 500, 501]]
    twice.to_csv(tmp_path / "t.csv", index=False)
    assert describe_data.main([str(tmp_path / "t.csv")]) == 2
    assert "data.on_duplicate=mean" in capsys.readouterr().err
