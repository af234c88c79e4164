"""Tasks of fev by models of ours: its numbers, its tables, and who was trained on what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from bad_input import errors_in
from safetensors.torch import load_file
from support import tiny

import eval_benchmark
import tstune
from tstune.config.validation import validate
from tstune.runs.folder import RunFolder

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
    for number, task in enumerate(eval_benchmark.read_tasks(desk / "tasks.yaml", fev)[0]):
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


@pytest.mark.parametrize(("more", "words"), [([], "add --overwrite"), (["--overwrite"], "did you mean builtin")])
def test_tables_that_are_there_stay_until_there_are_new_ones(
    more: list[str], words: str, desk: Path, rows: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tiny.snapshot(desk / "results")
    words_of = ["--tasks", str(desk / "tasks.yaml"), "--model", "bultin", "--output", str(desk / "results")]
    assert eval_benchmark.main([*words_of, *more]) == 2
    assert words in errors_in(capsys.readouterr().err)[0]
    assert tiny.snapshot(desk / "results") == before
    assert not list(desk.glob(".results*"))


def tuned(folder: Path, table: pd.DataFrame, horizon: int, *words: str) -> pd.DataFrame:
    """Rows of one task of two windows, by name of the model."""
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "load.parquet", index=False)
    place = {"dataset_path": "load.parquet", "task_name": "a/load", "horizon": horizon, "num_windows": 2}
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [SHARED | place | {"target": "load"}]}))
    asked = ["--tasks", str(folder / "tasks.yaml"), *words, "--output", str(folder / "results"), "--overwrite"]
    assert eval_benchmark.main(asked) == 0
    return pd.read_csv(folder / "results" / "results.csv", index_col="model_name")


def test_tuned_on_what_lies_before_the_first_forecast_and_on_nothing_else(desk: Path, tmp_path: Path) -> None:
    start, found = load_file(desk / "checkpoint" / "model.safetensors"), []
    for name, planted in (("as_it_is", 0.0), ("planted", 1e6)):
        table = tiny.series(seed=3).rename(columns={"item_id": "id"})[["id", "timestamp", "load"]]
        ahead = table.groupby("id").cumcount(ascending=False) < 2 * tiny.PREDICTION
        table.loc[ahead, "load"] += planted
        words = ["--tune", str(desk / "checkpoint"), "--model", str(desk / "checkpoint")]
        words += ["training.max_steps=6", "training.learning_rate=0.01"]
        rows = tuned(tmp_path / name, table, tiny.PREDICTION, *words)
        assert rows.index.tolist() == ["checkpoint", "seasonal_naive", "checkpoint_tuned"]
        assert rows["tuned_on_this_task"].tolist() == rows["trained_on_this_dataset"].tolist() == [False, False, True]
        assert rows["training_time_s"]["checkpoint_tuned"] > rows["training_time_s"]["checkpoint"] > 0
        place = tmp_path / name / "results" / "tuned" / "checkpoint_tuned" / "0_a_load"
        past = pd.read_parquet(place / "past.parquet")
        pd.testing.assert_series_equal(past["load"], table["load"][~ahead], check_index=False)
        run = RunFolder(place / "best")
        assert run.history[-1]["step"] == 6
        assert run.config.forecast.quantiles == LEVELS
        found.append(load_file(run / "model" / "model.safetensors"))
    first, second = found
    assert first.keys() == second.keys() == start.keys()
    assert all(torch.equal(first[key], second[key]) for key in first), "a reading of a forecast window was learned"
    changed = [key for key in start if not torch.equal(start[key], first[key])]
    assert 0 < len(changed) < len(start), "decoder and head alone"
    own = tstune.load_model(tmp_path / "as_it_is" / "results" / "tuned" / "checkpoint_tuned" / "0_a_load" / "best")
    assert own.get_model_info()["tuning_mode"] == "decoder"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_series_shorter_than_a_context_and_a_budget_of_seconds(desk: Path, tmp_path: Path) -> None:
    table = curves("MS", 12, 61, 3, 0)[["id", "timestamp", "load"]]
    table = table[~((table["id"] == "s2") & (table["timestamp"] < "2027-08"))]
    words = ["--tune", "builtin", "--tune", "ridge", "--tune", "autotune", "--minutes", "0.05"]
    rows = tuned(tmp_path, table, 4, *words, "training.max_steps=100000", "training.early_stopping_patience=null")
    assert rows.index.tolist() == ["seasonal_naive", "builtin_tuned", "ridge_tuned", "autotune"]
    assert rows["trained_on_this_dataset"].tolist() == [False, True, True, True]
    assert (rows["training_time_s"] < 300).all(), "and not until 100,000 steps are done"
    folder = tmp_path / "results" / "tuned"
    assert RunFolder(folder / "builtin_tuned" / "0_a_load" / "best").history[-1]["step"] < 10_000
    assert (folder / "autotune" / "0_a_load" / "leaderboard.json").is_file()


def test_a_version_of_the_registry_is_known_by_its_record(desk: Path, tmp_path: Path) -> None:
    store = tstune.open_registry(str(tmp_path / "registry"))
    store.register(desk / "seen", "load")
    table = pd.read_parquet(desk / "plain" / "load.parquet")
    words = ["--model", "registry:load:1", "--model", f"ttm:{desk / 'seen' / 'model'}"]
    words += ["--registry", str(tmp_path / "registry")]
    rows = tuned(tmp_path / "task", table, tiny.PREDICTION, *words)
    assert rows["trained_on_this_dataset"].tolist() == rows["training_is_on_record"].tolist() == [True, True, False]


def test_rows_of_two_models_never_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a/mine", "b/mine", "a/builtin"):
        Path(folder).mkdir(parents=True)
    untuned, both = ["a/mine", "b/mine", "a/builtin", "builtin"], ["a/mine", "autotune", "builtin"]
    names = ["mine", "b/mine", "a/builtin", "builtin", "mine_tuned", "autotune", "builtin_tuned"]
    wanted = [*((model, False) for model in untuned), *((model, True) for model in both)]
    assert eval_benchmark.named_models(untuned, both) == dict(zip(names, wanted, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --model or --tune at least once"),
        (["--model", "builtin", "training.max_steps=3"], "training.max_steps=3 is for --tune, and nothing is tuned"),
        (["--tune", "builtin", "--minutes", "0"], "0 is not above 0"),
    ],
)
def test_refused_by_the_command_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        eval_benchmark.main(["--tasks", "t.yaml", "--output", "results", *words])
    assert (stop.value.code, said in capsys.readouterr().err) == (2, True)


NINE = eval_benchmark.GIFT_EVAL_LEVELS
FOUR = {
    "ett_hourly": ("h", 24, 600, 1, ["load", "oil"], 12, "ett_hourly/H/short"),
    "ett_15min": ("15min", 96, 900, 1, ["load", "oil"], 12, "ett_15min/15T/short"),
    "weekly": ("W-SUN", 4, 120, 4, ["load"], 8, "weekly/W/short"),
    "glucose": ("5min", 288, 1200, 2, ["load"], 12, "glucose/5T/short"),
}
"""Task -> step, season, rows, series, targets, horizon, name in GIFT-Eval."""


def curves(frequency: str, season: int, rows: int, items: int, seed: int) -> pd.DataFrame:
    random, tables = np.random.default_rng(seed), []
    for item in range(items):
        length = rows - 5 * item
        steps = np.arange(length)
        values = {name: 100 + 20 * np.sin(2 * np.pi * (steps + item) / season) for name in ("load", "oil")}
        values = {name: curve + random.normal(0, 3, length) for name, curve in values.items()}
        stamps = pd.date_range("2024-01-07", periods=length, freq=frequency)
        table = pd.DataFrame({"id": f"s{item}", "timestamp": stamps, **values})
        if rows > 512:  # a long gap in short histories leaves no window
            table.loc[7:9, "load"] = np.nan
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_four_tasks_by_three_models_and_the_baseline_that_fev_has(tmp_path: Path) -> None:
    listed = []
    for seed, (name, (frequency, season, rows, items, target, horizon, _)) in enumerate(FOUR.items()):
        curves(frequency, season, rows, items, seed).to_parquet(tmp_path / f"{name}.parquet", index=False)
        task = {"dataset_path": f"{name}.parquet", "task_name": name, "horizon": horizon, "num_windows": 2}
        task |= {"seasonality": season, "quantile_levels": NINE, "target": target, "domain": "Energy"}
        listed.append(task)
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": listed}))
    models = ["builtin", "builtin:glucose", "fracast"]
    words = [word for model in models for word in ("--model", model)]
    folder = tmp_path / "results"
    asked = ["--tasks", str(tmp_path / "tasks.yaml"), *words, "--output", str(folder), "--gift-eval"]
    assert eval_benchmark.main(asked) == 0

    rows = pd.read_csv(folder / "results.csv")
    errors = rows.pivot(index="task_name", columns="model_name", values="test_error")
    assert sorted(errors.columns) == sorted([*models, "seasonal_naive"])
    tasks, domains = eval_benchmark.read_tasks(tmp_path / "tasks.yaml", fev)
    assert domains == ["Energy"] * 4
    for task in tasks:
        naive = []
        for window in task.iter_windows():
            past = window.get_input_data()[0]
            last = {name: [values[-task.seasonality :] for values in past[name]] for name in task.target_columns}
            ahead = {name: [np.resize(values, task.horizon) for values in each] for name, each in last.items()}
            levels = dict.fromkeys(map(str, NINE))
            naive.append({n: [{"predictions": v, **dict.fromkeys(levels, v)} for v in e] for n, e in ahead.items()})
        theirs = task.evaluation_summary(naive, "naive")
        assert errors.loc[task.task_name, "seasonal_naive"] == pytest.approx(theirs["test_error"], abs=1e-6)
    assert (errors[models].lt(errors["seasonal_naive"], axis=0)).any(axis=1).all(), errors
    board = fev.leaderboard(str(folder / "results.csv"), baseline_model="seasonal_naive")
    assert len(board) == 4
    assert len(fev.pairwise_comparison(str(folder / "results.csv"))) == 16

    for model in errors.columns:
        table = pd.read_csv(folder / "gift_eval" / model.replace(":", "_") / "all_results.csv")
        assert table["dataset"].tolist() == [place for *_, place in FOUR.values()]
        assert table["num_variates"].tolist() == [2, 2, 1, 1]
        assert (table["domain"] + table["model"]).eq("Energy" + model).all()
        assert table.filter(like="eval_metrics/").gt(0).all(axis=None)


GLUONTS = {
    "MSE[mean]": 42.89892727,
    "MSE[0.5]": 41.51074545,
    "MAE[0.5]": 5.261818182,
    "MASE[0.5]": 2.135836410,
    "MAPE[0.5]": 0.2450711088,
    "sMAPE[0.5]": 0.4431521851,
    "MSIS": 43.62752167,
    "RMSE[mean]": 6.549727267,
    "NRMSE[mean]": 0.4248054242,
    "ND[0.5]": 0.3412735849,
    "mean_weighted_sum_quantile_loss": 0.2996855346,
}
"""What gluonts.ev.metrics (0.17) says of the forecasts below, gaps and a reading of zero included."""


def test_a_row_of_gift_eval_has_the_numbers_of_gluonts(tmp_path: Path) -> None:
    tables = []
    for item, rows, level in (("a", 30, 10), ("b", 26, 15)):
        steps = np.arange(rows)
        load = np.round(level + 4 * np.sin(1.3 * steps) + 0.2 * steps, 2)
        load[7] = np.nan
        if item == "b":
            load[-2:] = np.nan, 0.0
        stamps = pd.date_range("2024-01-01", periods=rows, freq="15min")
        tables.append(pd.DataFrame({"id": item, "timestamp": stamps, "load": load}))
    pd.concat(tables).to_parquet(tmp_path / "load.parquet", index=False)
    places = {"dataset_path": str(tmp_path / "load.parquet"), "task_name": "grid/load", "target": "load"}
    task = fev.Task(**places, horizon=3, num_windows=2, seasonality=4, quantile_levels=NINE)
    found = []
    for window in range(2):
        points = [np.array([11.0, 12.5, 9.0]) + 4 * item + window for item in range(2)]
        spread = {str(level): 0.3 + (rank - 4) * (0.2 + 0.05 * rank) for rank, level in enumerate(NINE)}
        series = [{"predictions": p, **{level: p + away for level, away in spread.items()}} for p in points]
        found.append({"load": series})
    row = eval_benchmark.gift_eval_row(task, "Energy", "mine", found)
    assert list(row) == ["dataset", "model", *(f"eval_metrics/{name}" for name in GLUONTS), "domain", "num_variates"]
    assert {name: row[f"eval_metrics/{name}"] for name in GLUONTS} == pytest.approx(GLUONTS, rel=1e-6)
    assert row["dataset"] == "grid_load/15T/short"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domain": None}, "task plain needs domain: Energy"),
        ({"quantile_levels": LEVELS}, "task plain needs quantile_levels: [0.1, 0.2"),
        ({"generate_univariate_targets_from": "__ALL__"}, "needs generate_univariate_targets_from: [the columns"),
    ],
)
def test_what_gift_eval_needs_is_said_first(
    changes: dict, words: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"dataset_path": str(desk / "plain" / "load.parquet"), "task_name": "plain", "domain": "Energy"}
    task = TASKS[0] | SHARED | {"quantile_levels": NINE} | place | changes
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    asked = ["--tasks", str(tmp_path / "tasks.yaml"), "--model", "builtin", "--output", str(tmp_path / "results")]
    assert eval_benchmark.main([*asked, "--gift-eval"]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert words in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"horizonn": 3}, "builtin", "is no benchmark of fev"),
        ({"horizon": 97}, "builtin", "builtin forecasts 96 at most"),
        ({"quantile_levels": [0.2]}, "seen", "forecasts no quantile 0.2"),
        ({}, "bultin", "did you mean builtin?"),
        ({}, "tune seen", "was trained on readings of validation"),
        ({}, "tune bultin", "did you mean builtin?"),
    ],
)
def test_refused(
    changes: dict, model: str, words: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASKS[0] | SHARED | {"dataset_path": str(desk / "plain" / "load.parquet")} | changes
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    flag, model = f"--{model}".split() if " " in model else ("--model", model)
    asked = ["--tasks", str(tmp_path / "tasks.yaml"), flag, str(desk / model) if model == "seen" else model]
    asked += ["data.split.train=0.5"] if flag == "--tune" else []
    code = eval_benchmark.main([*asked, "--output", str(tmp_path / "results")])
    (error,) = errors_in(capsys.readouterr().err)
    assert (code, words in error) == (2, True), error
    assert not (tmp_path / "results").exists()
