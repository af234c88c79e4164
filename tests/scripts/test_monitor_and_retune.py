"""A life after training: forecasts kept and scored, drift found, intervals that follow, a challenger, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_input import errors_in
from support import tiny

import manage_registry
import monitor_model
import predict_forecast
import retune
from tstune.config.validation import validate
from tstune.data.scaler import Scaler
from tstune.errors import EXIT_DRIFT, EXIT_NOT_PROMOTED, DataError, FolderError
from tstune.evaluation.drift import DriftRule, find_drift
from tstune.evaluation.record import KeptForecasts
from tstune.models.registry import load_model, model_class
from tstune.registry import open_registry
from tstune.registry.model_registry import ModelRegistry
from tstune.runs.compare.monitoring import AHEAD, PAGE, RESULT, monitor
from tstune.runs.folder import RunFolder
from tstune.runs.life import owning

START = pd.Timestamp("2024-01-01")
LEARNED, CHANGE, HOURS = 400, 1000, 1500
"""Hours that the champion knew, until the sensor was changed, and of all."""
WATCH = ["registry:load@champion", "--reference-days", "10"]


def readings(changed: bool) -> pd.DataFrame:
    """Two series with gaps; from one hour on everything swings the other way and is noisier."""
    table = tiny.series(HOURS)
    hour = table.groupby("item_id").cumcount()
    table.loc[hour.between(700, 705) | (hour % 97 == 0), "load"] = np.nan
    if changed:
        late = hour >= CHANGE
        noise = np.random.default_rng(5).normal(0, 1, int(late.sum()))
        table.loc[late, "load"] = 20 - 0.8 * (table.loc[late, "load"] - 20) + noise
    return table.dropna(subset="load").round(4)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds calm.csv, changed.csv, a ridge in run/ and in registry/ as load@champion."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("calm", "changed"):
        readings(name == "changed").to_csv(folder / f"{name}.csv", index=False)
    table = readings(False)
    table[table["timestamp"] < START + pd.Timedelta(LEARNED, "h")].to_csv(folder / "old.csv", index=False)
    values = tiny.recipe(
        folder / "old.csv",
        folder / "run",
        data={"conditional_columns": ["dose"]},
        evaluation={"baselines": ["persistence"], "report": False},
    )
    values |= {"model": {"type": "ridge", "context_length": 32, "prediction_length": 8}, "tuning": {}}
    config = validate(values, "test")
    model_class("ridge")(config).fit(output_dir=folder / "run")
    registry = open_registry(folder / "registry")
    registry.register(folder / "run", "load")
    registry.set_alias("load:1", "champion")
    return folder


@pytest.fixture
def desk(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shelf as current folder, and a folder of the test's own for what is written."""
    monkeypatch.chdir(shelf)
    monkeypatch.setenv("TSTUNE_REGISTRY", str(shelf / "registry"))
    return tmp_path


def kept(folder: Path, version: int = 1) -> pd.DataFrame:
    return pd.read_parquet(folder / f"forecasts-load-{version}.parquet")


def test_a_calm_stream_is_kept_scored_and_drawn(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor_model.main([*WATCH, "--input", "calm.csv", "--output", str(desk / "watch")]) == 0
    assert "load:1: no drift in " in capsys.readouterr().out
    table, told = kept(desk / "watch"), tiny.read_json(desk / "watch" / "monitor.json")
    assert told["drifts"] == []
    assert not table.duplicated(["item_id", "timestamp"]).any(), "each time is forecast once"
    error = table["forecast/load:1"] - table["truth"]
    calm = pd.read_csv("calm.csv", parse_dates=["timestamp"])
    week = pd.Timestamp(told["weeks"][2]["week"])
    assert told["weeks"][2]["readings"] == calm["timestamp"].between(week, week + pd.Timedelta("167h")).sum()
    assert np.sqrt((error**2).mean()) == pytest.approx(1.05, abs=0.1)
    assert KeptForecasts.of(table).windows["load:1"].forecast.shape[1:] == (8, 1)
    page = (desk / "watch" / "monitor.html").read_text()
    assert "None was found." in page
    assert "Readings inside the 80 % interval" in page


def test_a_kept_forecast_is_what_the_model_says_of_the_readings_before_it(desk: Path) -> None:
    """Also where a gap ends with the first reading that is forecast: no line is drawn towards it."""
    table = monitor("run", "calm.csv", desk).table
    calm = pd.read_csv("calm.csv", parse_dates=["timestamp"])
    model = load_model("run")
    assert table["origin"].min() > START + pd.Timedelta(0.8 * LEARNED - 2, "h"), "not where it learned"
    origins = table["origin"].unique()
    read = origins[np.isin(origins - pd.Timedelta("1h"), calm["timestamp"])]
    behind_a_gap = START + pd.Timedelta(705, "h")
    for origin in (read[3], read[np.searchsorted(read, behind_a_gap)], read[-1]):
        rows = table[(table["origin"] == origin) & (table["item_id"] == "a")]
        alone = model.predict(calm[(calm["timestamp"] < origin) & (calm["item_id"] == "a")])
        assert alone["timestamp"].iloc[0] == origin
        np.testing.assert_allclose(rows["forecast/run"], alone["load"], rtol=1e-5)
    last = table[table["origin"] == origins[-1]]
    assert (last["truth"].isna() == (last["timestamp"] > calm["timestamp"].max())).all()
    assert last["truth"].isna().any(), "nobody knows yet"
    ahead = pd.read_csv(desk / "ahead.csv")
    assert ahead["load"].tolist() == pytest.approx(model.predict(calm)["load"].tolist())
    assert (ahead["load_q0.1"] < ahead["load_q0.9"]).all()
    few = calm[calm["timestamp"] < START + pd.Timedelta("500h")]
    years = pd.to_timedelta(365 * (few["item_id"] == "b"), unit="D")
    few = few.assign(timestamp=few["timestamp"] + years).sample(frac=1, random_state=0)
    assert "of the 30 that show how it usually is" in monitor("run", few, desk / "few").sentence()
    ahead = pd.read_csv(desk / "few/ahead.csv", parse_dates=["timestamp"])
    begins = ahead.groupby("item_id")["timestamp"].min()
    assert (begins == few.groupby("item_id")["timestamp"].max() + pd.Timedelta("1h")).all(), "behind the last reading"
    alone = model.predict(few.sort_values("timestamp"))
    assert ahead["load"].tolist() == pytest.approx(alone.sort_values(["item_id", "timestamp"])["load"].tolist())
    assert list(ahead.columns) == ["item_id", "timestamp", "load"], "no interval before the reference is complete"


def test_called_once_or_again_and_again_the_numbers_are_the_same(desk: Path) -> None:
    changed = pd.read_csv("changed.csv", parse_dates=["timestamp"])
    rule, found = DriftRule(reference_days=10), None
    for end in (600, 777, 778, 1200, HOURS):
        until = START + pd.Timedelta(end, "h")
        since = START if found is None else found.scored["timestamp"].max() - pd.Timedelta("3D")
        part = changed[changed["timestamp"].between(since, until, inclusive="left")]
        found = monitor("run", part, desk / "often", rule=rule)
    once = monitor("run", changed, desk / "once", rule=rule)
    pd.testing.assert_frame_equal(found.table, once.table, rtol=1e-6)
    assert found.drifts == once.drifts
    assert len(once.drifts) >= 2


def test_a_new_sensor_at_other_minutes_goes_on_and_what_is_of_another_kind_does_not(desk: Path) -> None:
    calm = pd.read_csv("calm.csv", parse_dates=["timestamp"])
    change, watch = START + pd.Timedelta("600h"), desk / "watch"
    old = calm[calm["timestamp"] < change]
    new = calm[calm["timestamp"].between(change - pd.Timedelta("60h"), change + pd.Timedelta("99h"))]
    first = monitor("run", old, watch).table
    shifted = new.assign(timestamp=new["timestamp"] + pd.Timedelta("7min"))
    table = monitor("run", shifted, watch).table
    assert table["timestamp"].dt.minute.eq(0).all()
    assert len(table) > len(first)
    expected = monitor("run", calm[calm["timestamp"] < change + pd.Timedelta("100h")], desk / "once").table
    pd.testing.assert_frame_equal(table, expected, rtol=1e-6)
    with pytest.raises(DataError, match="the times have the zone UTC, those before them had no zone"):
        monitor("run", new.assign(timestamp=new["timestamp"].dt.tz_localize("UTC")), watch)
    shutil.copytree("run", desk / "run")
    with (desk / "run/checksums.json").open("a") as file:  # as another training would
        file.write("\n")
    before = tiny.snapshot(watch)
    with pytest.raises(DataError, match=r"is of another model than .*; choose another --output"):
        monitor(str(desk / "run"), new, watch)
    assert tiny.snapshot(watch) == before


def test_a_file_that_adds_nothing_and_a_folder_that_somebody_has_are_said(desk: Path, capsys) -> None:
    watch = desk / "watch"
    arguments = [*WATCH, "--input", "calm.csv", "--output", str(watch)]
    with owning(watch, "--output"):
        assert monitor_model.main(arguments) == 2
        (error,) = errors_in(capsys.readouterr().err)
        assert error.startswith(f"error: --output {watch} belongs to a run that is going on (process {os.getpid()} on ")
    assert not watch.exists(), "nothing was put there"
    watch.mkdir()
    gone = {"host": socket.gethostname(), "pid": 2**22 + 1, "began": 0.0}
    (watch / "lock").write_text(json.dumps(gone))
    (watch / f".{RESULT}.{gone['host']}-{gone['pid']}.partial").write_text("half")
    assert monitor_model.main(arguments) == 0, "of a process that was killed"
    assert "adds nothing" not in capsys.readouterr().out
    assert sorted(path.name for path in watch.iterdir()) == sorted([AHEAD, "forecasts-load-1.parquet", PAGE, RESULT])
    before = kept(watch)
    assert monitor_model.main(arguments) == 0
    assert "calm.csv adds nothing: no forecast waited for its readings" in capsys.readouterr().out
    pd.testing.assert_frame_equal(kept(watch), before)


def test_a_pause_is_not_watched_and_a_jump_of_the_dates_is_refused(desk: Path) -> None:
    calm = pd.read_csv("calm.csv", parse_dates=["timestamp"])
    late = calm["timestamp"] > START + pd.Timedelta("30D")
    paused = calm.assign(timestamp=calm["timestamp"] + late * pd.Timedelta("100D"))
    assert 45 < monitor("run", paused, desk / "paused").days < 55
    monitor("run", calm[~late], desk / "watch")
    before = tiny.snapshot(desk / "watch")
    dates = calm["timestamp"].where(calm.index != len(calm) - 1, calm["timestamp"] + pd.Timedelta("36525D"))
    with pytest.raises(DataError, match=r"series 'b' has no reading from .* to .*: correct its dates"):
        monitor("run", calm.assign(timestamp=dates), desk / "watch")
    with pytest.raises(DataError, match="has no reading from 2024-01-31 00:00:00 to 2124-"):
        monitor("run", calm.assign(timestamp=calm["timestamp"] + pd.Timedelta("36525D")), desk / "watch")
    assert tiny.snapshot(desk / "watch") == before


def test_the_fix_that_a_refusal_names_works_when_it_is_pasted(desk: Path, capsys) -> None:
    """For a file that is written otherwise than that of the training."""
    calm = pd.read_csv("calm.csv", dtype=object).head(600)
    calm.loc[500, "load"] = "off-line"
    pd.concat([calm, calm.tail(1)]).to_csv(desk / "odd.csv", index=False)
    for main, arguments in (
        (monitor_model.main, [*WATCH, "--output", str(desk / "watch")]),
        (predict_forecast.main, ["--model", "run", "--output", str(desk / "forecast.csv")]),
    ):
        words = [*arguments, "--input", str(desk / "odd.csv")]
        for _ in range(2):
            assert main(words) == 2
            (error,) = errors_in(capsys.readouterr().err)
            words.append(re.search(r"data\.(on_duplicate|missing_values)=[\w\[\]-]+", error)[0])
        assert main([*words, "data.split.train=0.5"]) == 2
        assert "data.split.train=… is settled by the training" in capsys.readouterr().err
        assert main([*words, "data.on_duplicat=mean"]) == 2
        assert "data.on_duplicat: unknown key, did you mean data.on_duplicate?" in capsys.readouterr().err
        assert main(words) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.iloc[:-3],
        lambda table: table.drop(columns="truth"),
        lambda table: table.drop(columns="spread"),
        lambda table: pd.DataFrame(table.to_dict("list")),  # without what is kept beside the rows
    ],
)
def test_damaged_forecasts_of_earlier_calls_are_said(desk: Path, spoil) -> None:
    monitor("run", "calm.csv", desk)
    spoil(pd.read_parquet(desk / "forecasts-run.parquet")).to_parquet(desk / "forecasts-run.parquet")
    before = tiny.snapshot(desk)
    with pytest.raises(FolderError, match=r"forecasts-run.parquet is damaged, choose another --output: "):
        monitor("run", "calm.csv", desk)
    assert tiny.snapshot(desk) == before


def test_a_change_is_found_and_the_intervals_follow(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*WATCH, "--input", "changed.csv", "--output", str(desk / "watch")]
    assert monitor_model.main(arguments) == EXIT_DRIFT == 3
    said = capsys.readouterr().out
    assert "drift of the error of load of " in said
    assert "python scripts/retune.py registry:load@champion --input changed.csv --since 2024-02-1" in said
    told = tiny.read_json(desk / "watch" / "monitor.json")
    change = START + pd.Timedelta(CHANGE, "h")
    errors = [one for one in told["drifts"] if one["signal"] == "error of load"]
    assert {one["item_id"] for one in errors} == {"a", "b"}
    for one in told["drifts"]:
        assert change < pd.Timestamp(one["found"]) < change + pd.Timedelta("10D")
        assert abs(pd.Timestamp(one["since"]) - change) < pd.Timedelta("3D")
    later = [week for week in told["weeks"] if pd.Timestamp(week["week"]) > change]
    assert all(week["adapted"] > week["calibrated"] + 0.05 for week in later)


@pytest.fixture
def own_registry(desk: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that may be changed."""
    shutil.copytree(shelf / "registry", desk / "registry")
    monkeypatch.setenv("TSTUNE_REGISTRY", str(desk / "registry"))
    return desk


def test_a_challenger_that_is_clearly_better_takes_over_and_can_be_rolled_back(own_registry, capsys) -> None:
    champion, output = "registry:load@champion", str(own_registry / "retuned")
    assert retune.main([champion, "--input", "changed.csv", "--since", "2024-02-12", "--output", output]) == 0
    said = capsys.readouterr().out
    assert "challenger beats the best other model, champion" in said
    assert "load@champion is load:2 now, after load:1" in said
    version = open_registry().get("load@champion")
    assert (version.version, version.tags) == (2, {"replaces": "load:1"})
    judged = tiny.read_json(own_registry / "retuned/verdict/verdict.json")
    assert (judged["effect"], judged["comparisons"][0]["reference"]) == ("helped", "champion")
    watched = ["--input", "changed.csv", "--output", str(own_registry / "watch"), "--reference-days", "10"]
    assert monitor_model.main([champion, *watched]) == 0, "the watch of another version begins anew"
    assert kept(own_registry / "watch", 2)["origin"].min() > pd.Timestamp("2024-02-12")
    assert manage_registry.main(["rollback", "load@champion"]) == 0
    assert monitor_model.main([champion, *watched]) == EXIT_DRIFT


@pytest.mark.parametrize("place", ["end of replacing", "register_once", "set_alias"])
@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_one_that_is_killed_after_the_verdict_does_what_is_left(
    own_registry, monkeypatch, capsys, place, words
) -> None:
    output = own_registry / "retuned"
    asked = ["registry:load@champion", "--input", "changed.csv", "--since", "2024-02-12", "--output", str(output)]

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    def killed_at_the_end(path: Path, *words: object, rmtree=shutil.rmtree, **further: object) -> None:
        if Path(path).name.startswith(".retuned.old-"):  # what was there before
            raise Killed
        rmtree(path, *words, **further)

    with monkeypatch.context() as patch:
        if place == "end of replacing":
            patch.setattr(shutil, "rmtree", killed_at_the_end)
        else:
            patch.setattr(ModelRegistry, place, killed)
        with pytest.raises(Killed):
            retune.main([*asked, *words])
    before = tiny.snapshot(output / "challenger")
    assert retune.main([*asked, "data.on_duplicate=mean"]) == 2, "that is another command"
    assert "already holds files" in capsys.readouterr().err
    assert retune.main([*asked, *words]) == 0
    said = capsys.readouterr().out
    assert "the verdict of the earlier start: challenger beats the best other model, champion" in said
    assert "load@champion is load:2 now, after load:1" in said
    assert tiny.snapshot(output / "challenger") == before, "its environment.json holds the time it took"
    assert [one.version for one in open_registry().versions("load")] == [1, 2], "it is registered once"
    assert open_registry().get("load@champion").version == 2
    assert retune.main(asked) == 2, "nothing is left to do"


def test_one_that_is_not_leaves_the_alias_where_it_is(own_registry, capsys) -> None:
    champion, output = "registry:load@champion", own_registry / "retuned"
    arguments = [champion, "--input", "calm.csv", "--since", "2024-01-20", "--output", str(output)]
    assert retune.main(arguments) == EXIT_NOT_PROMOTED == 4
    assert "load@champion stays load:1" in capsys.readouterr().out
    assert [one.version for one in open_registry().versions("load")] == [1]
    assert retune.main(arguments) == 2
    assert errors_in(capsys.readouterr().err) == [
        f"error: --output {output} already holds files; add --overwrite or choose another folder"
    ]
    before = tiny.snapshot(output)
    shutil.copy("calm.csv", output / "calm.csv")
    for name in (output / "calm.csv", "old.csv"):  # would be deleted; is refused after the champion was copied
        assert retune.main([champion, "--input", str(name), "--output", str(output), "--overwrite"]) == 2
    (output / "calm.csv").unlink()
    assert tiny.snapshot(output) == before
    killed = output.with_name(f".{output.name}.replaced-{socket.gethostname()}-{2**22 + 1}")  # no process can be that
    output.rename(killed)
    output.mkdir()
    assert retune.main(arguments) == 2
    assert tiny.snapshot(output) == before, "what a killed process moved away is back"
    assert retune.main([*arguments, "--overwrite"]) == EXIT_NOT_PROMOTED
    assert [path.name for path in own_registry.iterdir() if "retuned" in path.name] == ["retuned"]


def clarity(folder: Path, begin: str, rows: int, unit: str) -> Path:
    """A folder with a person's export of Dexcom Clarity."""
    factor = 1.0 if unit == "mg/dL" else 1 / 18.0182
    times, values = pd.date_range(begin, periods=rows, freq="5min"), 120 + 40 * np.sin(np.arange(rows) / 20)
    lines = [f"Index,Timestamp (YYYY-MM-DDThh:mm:ss),Event Type,Glucose Value ({unit})"]
    lines += [f"{n},{times[n]:%Y-%m-%dT%H:%M:%S},EGV,{values[n] * factor:.2f}" for n in range(rows)]
    (folder / "anna").mkdir(parents=True)
    (folder / "anna/clarity.csv").write_text("\n".join(lines))
    return folder


def test_an_export_is_read_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A model of exports forecasts, watches and retunes exports; their unit becomes that of the model."""
    old, same = (clarity(tmp_path / unit[:2], "2024-03-01", 300, unit) for unit in ("mg/dL", "mmol/L"))
    values = tiny.recipe(None, tmp_path / "run", evaluation={"baselines": [], "report": False, "horizons": ["1h"]})
    values["data"] = {"source": "cgm_export", "path": str(old)}
    values |= {"model": {"type": "ridge", "context_length": 24, "prediction_length": 12}, "tuning": {}}
    model_class("ridge")(validate(values, "test")).fit(output_dir=tmp_path / "run")
    model = load_model(tmp_path / "run")
    as_it_was, other = model.predict(old), model.predict(same)
    same_person = pd.DataFrame({"item_id": "anna", "glucose": (120 + 40 * np.sin(np.arange(600) / 20)) / 18.0182})
    assert other["item_id"].unique().tolist() == ["anna"]
    np.testing.assert_allclose(other["glucose"], as_it_was["glucose"], rtol=2e-3)
    one_file = model.predict(old / "anna/clarity.csv")
    np.testing.assert_array_equal(one_file["glucose"], as_it_was["glucose"])
    watched = monitor(str(tmp_path / "run"), same, tmp_path / "watch").table
    assert watched["truth"].max() > 100
    with pytest.raises(DataError, match="watch is a folder; give one table"):
        model.predict(tmp_path / "watch")

    monkeypatch.setenv("TSTUNE_REGISTRY", str(tmp_path / "registry"))
    open_registry().register(tmp_path / "run", "cgm")
    open_registry().set_alias("cgm:1", "champion")
    table = same_person.assign(timestamp=pd.date_range("2024-03-10", periods=600, freq="5min"))
    table.to_csv(tmp_path / "table.csv", index=False)
    for main, words in (
        (monitor_model.main, ["registry:cgm@champion", "--output", str(tmp_path / "watch2")]),
        (retune.main, ["registry:cgm@champion", "--output", str(tmp_path / "table")]),
    ):
        words += ["--input", str(tmp_path / "table.csv")]
        assert main(words) == 2
        (error,) = errors_in(capsys.readouterr().err)
        assert "add data.unit=mmol/L" in error
        assert main([*words, "data.unit=mmol/L"]) in (0, EXIT_NOT_PROMOTED)
    assert re.search(r"are 0\.05\d+ times as large as those that the model learned from", error)
    assert load_model(tmp_path / "table/challenger").preprocessor.unit == "mg/dL"
    watched = RunFolder(tmp_path / "watch2").read_table("forecasts-cgm-1.parquet")
    assert watched["truth"].median() == pytest.approx(120, abs=5)
    manage_registry.main(["alias", "cgm:1", "--set", "champion"])
    new = clarity(tmp_path / "new", "2024-03-10", 600, "mmol/L")
    words = ["registry:cgm@champion", "--input", str(new), "--output", str(tmp_path / "retuned")]
    assert retune.main(words) in (0, EXIT_NOT_PROMOTED)
    assert load_model(tmp_path / "retuned/challenger").preprocessor.unit == "mg/dL"


def test_a_network_is_tuned_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.series(400).to_csv(tmp_path / "old.csv", index=False)
    tiny.series(800)[lambda table: table["timestamp"] >= START + pd.Timedelta("400h")].to_csv(
        tmp_path / "new.csv", index=False
    )
    values = tiny.recipe(tmp_path / "old.csv", tmp_path / "run", tuning={"mode": "from_scratch"})
    values = tiny.merged(values, {"training": {"max_steps": 2}, "evaluation": {"baselines": [], "report": False}})
    model_class("ttm")(validate(values, "test")).fit(output_dir=tmp_path / "run")
    monkeypatch.setenv("TSTUNE_REGISTRY", str(tmp_path / "registry"))
    open_registry().register(tmp_path / "run", "load")
    open_registry().set_alias("load:1", "champion")
    words = ["registry:load@champion", "--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "retuned")]
    assert retune.main([*words, "training.max_steps=3"]) in (0, EXIT_NOT_PROMOTED)
    challenger = RunFolder(tmp_path / "retuned/challenger")
    assert challenger.config.model.pretrained == str(tmp_path / "retuned/champion"), "it begins where the other ended"
    assert challenger.config.tuning.mode == "full"
    assert challenger.history[-1]["step"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "old.csv"], "leak trained_on: model "),
        (["--input", "calm.csv", "--since", "2030-01-01"], "--since 2030-01-01: calm.csv ends on 2024-03-03"),
        (["--input", "calm.csv", "--since", "2030-01-01T00:00+02:00"], "calm.csv ends on 2024-03-03"),
        (["--input", "registry"], "registry is a folder; give one table"),
        (["--input", "calm.csv", "--since", "soon"], "--since soon: write a day or a moment, e.g. 2024-07-18"),
        (["--input", "calm.csv", "data.splt.test=0.5"], "did you mean data.split"),
        (["--input", "nope.csv"], "nope.csv does not exist"),
        (["--input", "tenfold.csv"], "'load' are 10 times as large as those that the model learned from: convert them"),
        (["--input", "milli.csv"], "'load' are 0.001 times as large as those that the model learned from"),
        (
            ["--input", "dead.csv"],
            "'load' hardly move, as of a dead sensor; if they are right: --allow-other-scale",
        ),
        (["--input", "jump.csv"], "series 'b' has no reading from 2024-03-03 10:00:00 to 2025-03-04 11:00:00"),
        (["--input", "calm.csv", "data.path=old.csv"], "data.path=old.csv: --input and --output say what is read"),
    ],
)
def test_retune_refuses_in_one_line_and_leaves_nothing(arguments, words, own_registry, capsys) -> None:
    calm = pd.read_csv("calm.csv")
    for name, factor in (("tenfold", 10), ("milli", 0.001)):
        calm.assign(load=calm["load"] * factor).to_csv(f"{name}.csv", index=False)
    calm.assign(load=5.0).to_csv("dead.csv", index=False)
    jump = calm["timestamp"].where(calm.index < len(calm) - 1, "2025-03-04 11:00:00")
    calm.assign(timestamp=jump).to_csv("jump.csv", index=False)
    before = tiny.snapshot(own_registry / "registry")
    assert retune.main(["registry:load@champion", *arguments, "--output", str(own_registry / "retuned")]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert words in error
    assert not (own_registry / "retuned").exists()
    assert tiny.snapshot(own_registry / "registry") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--input", "calm.csv", "--reference-days", "0"], "--reference-days 0 is not above 0"),
        (["run", "--input", "calm.csv", "--reference-days", "inf"], "--reference-days inf is not above 0 and at most"),
        (["run", "--input", "alone.csv"], "; if the table holds one series: data.item_id_column=null"),
        (["run", "--input", "short.csv"], "nothing to forecast: 2 series of at most 20 steps"),
        (["registry:load@challenger", "--input", "calm.csv"], "has no load@challenger"),
    ],
)
def test_monitor_refuses_in_one_line_and_leaves_nothing(arguments, words, desk, shelf, capsys) -> None:
    tiny.series(20).to_csv(shelf / "short.csv", index=False)
    tiny.series(20, ("a",)).drop(columns="item_id").to_csv(shelf / "alone.csv", index=False)
    assert monitor_model.main([*arguments, "--output", str(desk / "watch")]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert words in error
    assert not (desk / "watch").exists()


def test_known_future_columns_come_from_the_readings_or_from_future(tmp_path: Path) -> None:
    table = tiny.series(200)
    table.to_csv(tmp_path / "series.csv", index=False)
    values = tiny.recipe(tmp_path / "series.csv", tmp_path / "run", data={"control_columns": ["plan"]})
    config = validate(tiny.merged(values, {"training": {"max_steps": 1}, "evaluation": {"baselines": []}}), "test")
    model_class("ttm")(config).fit(output_dir=tmp_path / "run")
    later = tiny.series(400)[lambda found: found["timestamp"] >= START + pd.Timedelta("200h")]
    past = monitor(str(tmp_path / "run"), later, tmp_path / "past")
    assert past.table["truth"].notna().all(), "the plan ends with the readings"
    hours = pd.date_range(later["timestamp"].max() + pd.Timedelta("1h"), periods=8, freq="h")
    plans = [pd.DataFrame({"item_id": item, "timestamp": hours, "plan": 1.0}) for item in tiny.ITEMS]
    ahead = monitor(str(tmp_path / "run"), later, tmp_path / "ahead", future=pd.concat(plans))
    assert len(ahead.table) == len(past.table) + 2 * 8
    assert ahead.table["input/plan"].notna().sum() == past.table["input/plan"].notna().sum()


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda usual: 18 * usual, 18),
        (lambda usual: usual / 1000, 0.001),
        (lambda usual: 2.5 * usual + 30, None),  # a real change
        (lambda usual: usual / 3, None),
        (lambda usual: usual + 2000, None),  # a counter that has gone on
        (lambda usual: 0 * usual, 0),  # a sensor that is dead
        (lambda usual: 0 * usual + 120, 0),
        (lambda usual: 120 + usual / 10, None),  # a quiet one
        (lambda usual: np.append(usual, 1e9), None),  # one wild reading
        (lambda usual: 10 * usual[:15], None),  # too few
    ],
)
def test_what_is_another_unit_and_what_is_a_change(change, factor) -> None:
    usual = np.random.default_rng(3).normal(150, 40, 500)
    found = Scaler(np.array([150.0]), np.array([40.0])).times_as_large(change(usual), 0)
    assert found == (None if factor is None else pytest.approx(factor, rel=0.1))


def test_the_only_series_goes_on_whatever_its_file_is_called(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table without names, one of each day, behind what the model learned from, also far from 0."""
    table = tiny.series(800, ("a",)).drop(columns=["item_id", "dose", "plan"])
    table["load"] += 1e8
    for name, rows in (("old", table[:400]), ("mon", table[:600]), ("tue", table[500:])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    values = tiny.recipe(tmp_path / "old.csv", tmp_path / "run", evaluation={"baselines": [], "report": False})
    values["data"]["item_id_column"] = None
    values |= {"model": {"type": "ridge", "context_length": 32, "prediction_length": 8}, "tuning": {}}
    model_class("ridge")(validate(values, "test")).fit(output_dir=tmp_path / "run")
    for name in ("mon", "tue"):
        found = monitor(str(tmp_path / "run"), tmp_path / f"{name}.csv", tmp_path / "watch")
        assert f"series '{name}' is taken for 'old'" in caplog.text
    once = monitor(str(tmp_path / "run"), table, tmp_path / "once")
    pd.testing.assert_frame_equal(found.table, once.table)
    assert found.table["origin"].min() > START + pd.Timedelta(0.8 * 400 - 2, "h"), "not where it learned"
    assert "times as large" not in caplog.text
    monitor(str(tmp_path / "run"), table.assign(load=table["load"] * 10), tmp_path / "ten")
    assert "are 10 times as large as those that the model learned from" in caplog.text


def test_columns_of_unlike_size_are_compared_where_all_are_there(tmp_path: Path, monkeypatch, capsys) -> None:
    usual = tiny.series(600)["load"].to_numpy().reshape(2, 600)
    table = pd.DataFrame({"timestamp": pd.date_range(START, periods=600, freq="h"), "usd": usual[0]})
    table["yen"] = 150 * usual[1]
    table[:300].to_csv(tmp_path / "old.csv", index=False)
    values = tiny.recipe(tmp_path / "old.csv", tmp_path / "run", evaluation={"baselines": [], "report": False})
    values["data"] |= {"item_id_column": None, "target_columns": None, "columns_as": "items"}
    values |= {"model": {"type": "ridge", "context_length": 32, "prediction_length": 8}, "tuning": {}}
    model_class("ridge")(validate(values, "test")).fit(output_dir=tmp_path / "run")
    monkeypatch.setenv("TSTUNE_REGISTRY", str(tmp_path / "registry"))
    open_registry().register(tmp_path / "run", "rates")
    open_registry().set_alias("rates:1", "champion")
    for name, new, code in (
        ("usd", table[300:][["timestamp", "usd"]], (0, EXIT_NOT_PROMOTED)),
        ("thousand", table[300:].assign(usd=1000 * table["usd"], yen=1000 * table["yen"]), (2,)),
    ):
        new.to_csv(tmp_path / f"{name}.csv", index=False)
        words = ["--input", str(tmp_path / f"{name}.csv"), "--output", str(tmp_path / name)]
        assert retune.main(["registry:rates@champion", *words]) in code
    assert "'target' are 983 times as large" in capsys.readouterr().err


def test_what_counts_as_drift() -> None:
    """Noise is none; a change of the level is one, where it happened; errors that fall are none."""
    random = np.random.default_rng(0)
    hours = pd.date_range(START, periods=24 * 120, freq="h", name="hour")
    index = pd.MultiIndex.from_product([["a"], hours], names=["item_id", "hour"])
    signals = ["error of y", "level of y", "gaps of y", "level of x"]
    noise = pd.DataFrame(random.normal(size=(len(hours), 4)), index, signals)
    assert find_drift(noise, DriftRule()) == []
    moved = noise.copy()
    moved.iloc[24 * 80 :, 1:3] += 1.0
    moved.iloc[24 * 80 :, 0] -= 1.0
    found = find_drift(moved, DriftRule())
    assert {one.signal for one in found} == {"level of y", "gaps of y"}
    for one in found:
        assert abs(one.since - hours[24 * 80]) < pd.Timedelta("2D")
        assert one.since < one.found < hours[24 * 90]
        assert one.before == pytest.approx(0.5, abs=0.05)
        assert one.after > 0.7
    assert [one.found for one in found] == sorted(one.found for one in found)
