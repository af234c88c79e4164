"""Without a recipe: what comes, what would have been forecast before, and a picture of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import tiny

import tstune
from tstune.config.validation import validate
from tstune.errors import TstuneError
from tstune.runs.compare.evaluate import evaluate_models

H, STEP, NUM = 8, 3, 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write_checkpoint(tmp_path_factory.mktemp("weights") / "checkpoint"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint: str) -> str:
    """A run folder that forecasts quantiles."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"forecast": {"quantiles": [0.1, 0.5, 0.9]}, "evaluation": {"baselines": [], "report": False}}
    values = tiny.recipe(tiny.write_series(folder / "series.csv"), folder / "run", Path(checkpoint), **changes)
    tstune.TTMForecaster(validate(values, "test")).fit(output_dir=folder / "run")
    return str(folder / "run")


def nixtla(rows: int = 200, zone: str | None = None) -> pd.DataFrame:
    """Two series with whole numbers for names, in an order of their own."""
    table = tiny.series(rows).rename(columns={"item_id": "unique_id", "timestamp": "ds", "load": "y"})
    table["unique_id"] = table["unique_id"].map({"a": 12, "b": 7})
    table["ds"] = table["ds"].dt.tz_localize(zone)
    return table[["unique_id", "ds", "y"]]


def test_cross_validation_is_eval_forecast_on_the_same_windows(checkpoint: str, tmp_path: Path) -> None:
    test, rows = H + STEP * (NUM - 1), tiny.ROWS
    models = [checkpoint, "ridge", "persistence"]
    table = nixtla(rows)
    given = {"fresh": checkpoint, "ridge": "ridge", "last": "persistence"}
    found = tstune.cross_validation(table, H, NUM, STEP, given, context_length=tiny.CONTEXT)
    split = {"borders": [rows - 2 * test, rows - test, rows], "mode": "deployment"}
    changes = {"data": {"test_stride": STEP, "split": None}, "evaluation": {"report": False}}
    values = tiny.recipe(tiny.write_series(tmp_path / "series.csv"), tmp_path / "no", Path(checkpoint), **changes)
    values["data"]["split"] = split
    judge = evaluate_models(models, validate(values, "test")).judge

    assert list(found.columns) == ["unique_id", "ds", "cutoff", "y", *given]
    assert len(found) == 2 * NUM * H
    assert found["unique_id"].unique().tolist() == [12, 7]
    last = table["ds"].max() - pd.Timedelta(H, "h")
    cutoffs = [last - pd.Timedelta(STEP * back, "h") for back in reversed(range(NUM))]
    assert found.groupby("unique_id")["cutoff"].unique().map(list).tolist() == [cutoffs, cutoffs]
    truth = found.merge(table, on=["unique_id", "ds"])
    assert len(truth) == len(found)
    np.testing.assert_allclose(truth["y_x"], truth["y_y"], rtol=1e-6)
    for name, scores in zip(given, judge.scores.values(), strict=True):
        assert found[name].to_numpy(np.float32).tolist() == scores.windows.forecast.reshape(-1).tolist()
        errors = found[name] - found["y"]
        assert np.sqrt((errors**2).mean()) == pytest.approx(scores.metrics["rmse"], abs=1e-6)
        assert errors.abs().mean() == pytest.approx(scores.metrics["mae"], abs=1e-6)
    assert set(found.attrs["seconds"]) == set(given)


def test_series_of_unlike_length_end_with_their_last_window() -> None:
    table = nixtla()
    table = table[(table["unique_id"] == 12) | (table.groupby("unique_id").cumcount() < 97)]
    found = tstune.cross_validation(table, H, 3, 5, ["persistence"], context_length=48)
    for name, own in found.groupby("unique_id"):
        assert own["ds"].max() == table.loc[table["unique_id"] == name, "ds"].max()
        assert own["cutoff"].drop_duplicates().diff().dropna().eq(pd.Timedelta("5h")).all()
        before = table[table["unique_id"] == name].set_index("ds")["y"]
        np.testing.assert_allclose(own["persistence"], before[own["cutoff"]], rtol=1e-6)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_three_lines(zone: str | None) -> None:
    table = nixtla(zone=zone)
    found = tstune.forecast(table, "6h", quantiles=[0.1, 0.9])
    assert list(found.columns) == ["unique_id", "ds", "y", "y_q0.1", "y_q0.9"]
    assert found["unique_id"].tolist() == [12] * 6 + [7] * 6
    assert found["ds"].dtype == table["ds"].dtype
    ahead = pd.date_range(table["ds"].max(), periods=7, freq="h")[1:]
    assert found["ds"].tolist() == [*ahead, *ahead]
    assert (found["y_q0.1"] < found["y_q0.9"]).all()
    truth = nixtla(206)
    error = found["y"].to_numpy() - truth[truth.groupby("unique_id").cumcount() >= 200]["y"].to_numpy()
    assert np.sqrt((error**2).mean()) < 0.6 * tiny.series()["load"].std()


def test_a_short_history_in_other_names_with_its_times_in_the_index() -> None:
    months = pd.DataFrame({"sales": np.arange(30.0)}, pd.date_range("2020-01-31", periods=30, freq="ME", name="month"))
    found = tstune.forecast(months, 6, quantiles=())
    assert list(found.columns) == ["month", "sales"]
    assert found["month"].tolist() == pd.date_range("2022-07-31", periods=6, freq="ME").tolist()
    naive = tstune.forecast(months, 6, "seasonal_naive", quantiles=[0.5])
    assert naive["sales"].tolist() == list(range(18, 24))
    assert naive["sales_q0.5"].tolist() == [pytest.approx(value + 12) for value in naive["sales"]], "always 12 too low"


def test_a_run_folder_says_what_it_says_elsewhere(run: str) -> None:
    table = tiny.series(120)
    found = tstune.forecast(table, 5, run)
    whole = tstune.TTMForecaster.load(run).predict(table).groupby("item_id").head(5).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, whole)
    assert "load_q0.9" in found
    assert list(tstune.forecast(table, 5, run, quantiles=())) == ["item_id", "timestamp", "load"]


def bad_calls(run: str) -> dict[str, tuple]:
    table = nixtla(60)
    two = table.assign(z=1.0).rename(columns={"ds": "when"})
    return {
        "horizon=97 is 97 steps, and builtin forecasts 96 at most": (tstune.forecast, nixtla(300), 97),
        "forecasts 8 at most; set horizon=8 or less": (tstune.forecast, tiny.series(60), 9, run),
        "horizon='90min' is no multiple of the sampling step": (tstune.forecast, table, "90min"),
        "the longest series has 60 steps; 70 steps to forecast leave no history": (tstune.forecast, table, 70),
        "did you mean builtin?": (tstune.forecast, table, 4, "bultin"),
        "model ridge is fitted to a training part": (tstune.forecast, table, 4, "ridge"),
        "name one in target_col": (tstune.cross_validation, two, 4),
        "n_windows=0 and step_size=1 must be 1 or more": (tstune.cross_validation, table, 4, 0),
    }


@pytest.mark.parametrize("number", range(8))
def test_refused(number: int, run: str) -> None:
    words, (call, *arguments) = list(bad_calls(run).items())[number]
    with pytest.raises(TstuneError) as error:
        call(*arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_of_any_series_range_and_models(tmp_path: Path) -> None:
    table = nixtla()
    past = tstune.cross_validation(table, H, 2, H, ["persistence", "context_mean"], context_length=48)
    start = table["ds"].iloc[150]
    figure = tstune.plot_series(table, past, ids=[7], models=["persistence"], start=start, path=tmp_path / "a.png")
    (axes,) = figure.axes
    history, *drawn = axes.lines
    assert (axes.get_title(), history.get_label(), drawn[0].get_label()) == ("7", "y", "persistence")
    assert len(history.get_xdata()) == 50
    own = past[past["unique_id"] == 7]
    assert np.concatenate([line.get_ydata() for line in drawn]).tolist() == own["persistence"].tolist()
    assert (tmp_path / "a.png").stat().st_size > 10_000
    ahead = tstune.forecast(table, 4, "persistence", quantiles=[0.2, 0.8])
    figure = tstune.plot_series(table, ahead)
    assert [axes.get_title() for axes in figure.axes] == ["12", "7"]
    assert [len(axes.collections) for axes in figure.axes] == [1, 1], "an interval each"
    with pytest.raises(TstuneError, match="no forecast 'ridge'; there are persistence, context_mean"):
        tstune.plot_series(table, past, models=["ridge"])
    with pytest.raises(TstuneError, match="no series 'a'"):
        tstune.plot_series(table, ids=["a"])
