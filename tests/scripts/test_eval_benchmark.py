"""Tasks of fev by models of ours: its numbers, its tables, and who was trained on what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from bad_input import errors_in
from support import tiny

import eval_benchmark
import tstune
from tstune.config.validation import validate

pytest.importorskip("fev", reason="fev is optional: pip install --no-deps 'fev>=0.10,<0.11'")
fev = eval_benchmark.library()

LEVELS, SEASON = [0.1, 0.5, 0.9], 24
TASKS = [
    {"dataset_path": "plain/load.parquet", "horizon": tiny.PREDICTION, "num_windows": 2, "target": "load"},
    {"dataset_path": "other/load.parquet", "horizon": 6, "num_windows": 1, "target": "load"},
]
SHARED = {"seasonality": SEASON, "quantile_levels": LEVELS, "extra_metrics": ["WQL"], "eval_metric": "MASE"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tasks.yaml, two data sets, and two runs: one was trained on the first of them, one on other series."""
    folder = tmp_path_factory.mktemp("fev")
    for name, seed, rows in (("plain", 0, 400), ("other", 5, 300)):
        table = tiny.series(rows=rows, seed=seed).rename(columns={"item_id": "id"})
        (folder / name).mkdir()
        table[["id", "timestamp", "load"]].to_parquet(folder / name / "load.parquet", index=False)
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [task | SHARED for task in TASKS]}))
    checkpoint = tiny.write_checkpoint(folder / "checkpoint")
    for name, seed in (("seen", 0), ("unseen", 9)):
        csv = tiny.write_series(folder / f"{name}.csv", seed=seed)
        changes = {"forecast": {"quantiles": LEVELS}, "evaluation": {"baselines": [], "report": False}}
        values = tiny.recipe(csv, folder / name, checkpoint, **changes)
        tstune.TTMForecaster(validate(values, "test")).fit(output_dir=folder / name)
    return folder


@pytest.fixture(scope="module")
def rows(desk: Path) -> pd.DataFrame:
    models = ["builtin", str(desk / "seen"), str(desk / "unseen")]
    words = [word for model in models for word in ("--model", model)]
    arguments = ["--tasks", str(desk / "tasks.yaml"), *words, "--output", str(desk / "results")]
    assert eval_benchmark.main(arguments) == 0
    return pd.read_csv(desk / "results" / "results.csv")


def by_hand(past: np.ndarray, truth: np.ndarray, point: np.ndarray, quantiles: np.ndarray) -> tuple[float, float]:
    """MASE, the mean over series, and WQL; [series, steps], quantiles with levels behind."""
    scale = np.abs(past[:, SEASON:] - past[:, :-SEASON]).mean(axis=1)
    mase = (np.abs(truth - point).mean(axis=1) / scale).mean()
    error = truth[..., None] - quantiles
    loss = 2 * np.maximum(np.multiply(LEVELS, error), (np.asarray(LEVELS) - 1) * error)
    return mase, (loss.sum(axis=(0, 1)) / np.abs(truth).sum()).mean()


def test_the_numbers_are_those_of_fev_and_of_the_formulas(desk: Path, rows: pd.DataFrame) -> None:
    names = {"builtin": "builtin", "seen": str(desk / "seen"), "unseen": str(desk / "unseen")}
    names |= {"seasonal_naive": "seasonal_naive"}
    assert rows["model_name"].tolist() == [*names] * 2
    for number, task in enumerate(eval_benchmark.read_tasks(desk / "tasks.yaml", fev)):
        for place, (name, model) in enumerate(names.items()):
            predictions, found, ready = [], [], None
            for window in task.iter_windows():
                past, _, _ = fev.convert_input_data(window, adapter="pandas")
                past = past.rename(columns={"id": "item_id"})
                where = {"id_col": "item_id", "target_cols": ["load"]}
                ready = ready or eval_benchmark_ready(past, task.horizon, model, where)
                table = ready.forecast(past)
                arrays = [table[column].to_numpy().reshape(2, -1) for column in table.columns[2:]]
                keys = ["predictions", *map(str, LEVELS)]
                series = [dict(zip(keys, (array[row] for array in arrays), strict=True)) for row in range(2)]
                predictions.append(series)
                truth = np.stack(window.get_ground_truth()["load"])
                history = past["load"].to_numpy().reshape(2, -1)
                found.append(by_hand(history, truth, arrays[0], np.stack(arrays[1:], axis=-1)))
            theirs = task.evaluation_summary(predictions, name)
            row = rows.iloc[number * len(names) + place]
            for key, value in zip(("MASE", "WQL"), np.mean(found, axis=0), strict=True):
                assert row[key] == pytest.approx(theirs[key], abs=1e-6)
                assert row[key] == pytest.approx(value, abs=1e-5)
            assert row["test_error"] == row["MASE"]
    naive = rows[rows["model_name"] == "seasonal_naive"]["MASE"]
    assert (naive > 0.5).all()


def eval_benchmark_ready(past: pd.DataFrame, horizon: int, model: str, where: dict):
    from tstune.runs.compare.frames import make_ready

    return make_ready(past, horizon, model, LEVELS, seasonality=SEASON, **where)


def test_who_was_trained_on_it_is_answered_from_the_record(rows: pd.DataFrame) -> None:
    flags = rows.pivot(index="dataset_path", columns="model_name", values="trained_on_this_dataset")
    assert flags["seen"].tolist() == [False, True], "other/load.parquet, plain/load.parquet"
    for name in ("unseen", "builtin", "seasonal_naive"):
        assert not flags[name].any()
    known = rows.drop_duplicates("model_name").set_index("model_name")["training_is_on_record"]
    assert known.to_dict() == {"builtin": False, "seen": True, "unseen": True, "seasonal_naive": False}


def test_fev_reads_the_tables(desk: Path, rows: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    board = fev.leaderboard(str(desk / "results" / "results.csv"), baseline_model="seasonal_naive")
    written = pd.read_csv(desk / "results" / "leaderboard.csv", index_col="model_name")
    np.testing.assert_allclose(written["skill_score"], board["skill_score"], atol=1e-9)
    assert board["training_corpus_overlap"].to_dict()["seen"] == 0.5
    assert (board["median_inference_time_s"] > 0).all()
    assert len(pd.read_csv(desk / "results" / "pairwise.csv")) >= 12
    assert rows["tstune_version"].eq(tstune.__version__).all()
    assert rows["fev_version"].eq("0.10.0").all() or rows["fev_version"].notna().all()
    again = ["--tasks", str(desk / "tasks.yaml"), "--model", "builtin", "--output", str(desk / "results")]
    assert eval_benchmark.main(again) == 2
    assert "add --overwrite" in errors_in(capsys.readouterr().err)[0]


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"horizonn": 3}, "builtin", "is no benchmark of fev"),
        ({"horizon": 97}, "builtin", "builtin forecasts 96 at most"),
        ({"quantile_levels": [0.2]}, "seen", "forecasts no quantile 0.2"),
        ({}, "bultin", "did you mean builtin?"),
    ],
)
def test_refused(
    changes: dict, model: str, words: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASKS[0] | SHARED | {"dataset_path": str(desk / "plain" / "load.parquet")} | changes
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    model = str(desk / model) if model == "seen" else model
    code = eval_benchmark.main(
        ["--tasks", str(tmp_path / "tasks.yaml"), "--model", model, "--output", str(tmp_path / "results")]
    )
    (error,) = errors_in(capsys.readouterr().err)
    assert (code, words in error) == (2, True), error
    assert not (tmp_path / "results").exists()
