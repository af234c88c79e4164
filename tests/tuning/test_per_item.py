"""One adapter per item: kept where it helps on validation, picked by name, small, absent for unseen items."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from support import tiny

from tstune.config.schema import RunConfig
from tstune.models.ttm import TTMForecaster
from tstune.runs.finetune import FineTuning
from tstune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Items that a shared model cannot serve alike: `up` and `down` react to the same shape in opposite ways."""
    random = np.random.default_rng(0)
    tables = []
    for item, sign in (("up", 1.0), ("down", -1.0), ("short", 1.0)):
        rows = 45 if item == "short" else 600
        pulse = (random.random(rows) < 0.08).astype(float)
        after = np.convolve(pulse, np.exp(-np.arange(12) / 4))[:rows]
        value = 10 + 3 * np.roll(pulse, 1) + sign * 4 * np.roll(after, 2) + random.normal(0, 0.05, rows)
        stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
        tables.append(pd.DataFrame({"item_id": item, "timestamp": stamps, "load": value}))
    path = tmp_path_factory.mktemp("items") / "items.csv"
    pd.concat(tables).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("per_item")
    checkpoint = tiny.write_checkpoint(folder / "ttm", dropout=0.0, head_dropout=0.0)
    values = tiny.recipe(
        items,
        folder / "run",
        checkpoint,
        tuning={"mode": "decoder", "per_item": True, "per_item_epochs": 6, "per_item_learning_rate": 0.02},
        training={"max_steps": 60, "eval_every_steps": 20},
        evaluation={"baselines": ["persistence"]},
    )
    model = TTMForecaster(RunConfig(**values))
    results = model.fit(output_dir=folder / "run")
    return model, results, folder / "run"


def test_every_item_has_a_row_and_validation_decides(run):
    model, results, _ = run
    rows = {row["item_id"]: row for row in results["per_item"]}
    assert set(rows) == {"up", "down", "short"}
    assert rows["short"]["kept"] is False
    assert "no training or no validation window" in rows["short"]["reason"]
    for name in ("up", "down"):
        better = rows[name]["validation_loss_adapter"] < rows[name]["validation_loss_base"]
        assert rows[name]["kept"] is better
    kept = {name for name, row in rows.items() if row["kept"]}
    assert "down" in kept
    assert set(model.item_adapters.adapters) == kept


def test_without_keep_best_the_validation_windows_do_not_ask_for_the_base(items, tmp_path):
    """A learning rate that ruins the weights: the adapters are kept all the same."""
    values = tiny.recipe(
        items,
        tmp_path / "run",
        tiny.write_checkpoint(tmp_path / "ttm"),
        tuning={"mode": "zero_shot", "per_item": True, "per_item_epochs": 1, "per_item_learning_rate": 1.0},
        evaluation={"baselines": [], "keep_best": False},
    )
    rows = {row["item_id"]: row for row in TTMForecaster(RunConfig(**values)).fit()["per_item"]}
    assert [name for name, row in rows.items() if row["kept"]] == ["down", "up"]
    for row in (rows["up"], rows["down"]):
        assert row["validation_loss_base"] is None
        assert row["validation_loss_adapter"] > 0
        assert row["rmse_per_item"] > row["rmse_base"]


def test_the_scoreboard_says_which_adapters_helped(run):
    _, results, _ = run
    rows = results["per_item"]
    kept = [row for row in rows if row["kept"]]
    helped = [row for row in kept if row["rmse_per_item"] < row["rmse_base"]]
    for row in rows:
        if row["num_windows"] and not row["kept"]:
            assert row["rmse_per_item"] == pytest.approx(row["rmse_base"], rel=1e-6)
        if row["kept"]:
            assert row["rmse_per_item"] != row["rmse_base"]
    sentence = (
        f"3 items: {len(kept)} adapters kept by their own validation windows, {len(helped)} of them helped on test."
    )
    assert sentence in results["scoreboard"]
    assert set(results["metrics"]) == {"zero_shot", "fine_tuned", "average", "per_item", "persistence"}


def test_results_that_a_restart_reads_are_those_that_were_found(run):
    _, results, folder = run
    again = FineTuning.__new__(FineTuning)  # a run that ended before its results were given back
    again.final, again.training = folder, None
    again.recall(RunFolder(folder))
    for name in results.keys() - {"metrics", "training", "verdict", "run_id"}:
        assert again.results[name] == results[name], name
    assert again.results.keys() == results.keys()


def test_folder_holds_an_index_and_one_small_folder_per_adapter(run):
    _, _, folder = run
    index = json.loads((folder / "adapters" / "index.json").read_text())
    assert {row["item_id"] for row in index} == {"up", "down", "short"}
    folders = [row["folder"] for row in index if row["folder"] is not None]
    assert sorted(folders) == sorted(path.name for path in (folder / "adapters").iterdir() if path.is_dir())
    assert len(folders) == len(run[0].item_adapters.adapters) > 0
    assert json.loads((folder / "per_item.json").read_text()) == run[1]["per_item"]


def test_an_adapter_of_the_real_architecture_fits_in_350_kb(r2_checkpoint, tmp_path):
    from tstune.data.prepared import prepare_data
    from tstune.models.adapters import Adapter

    lengths = {"context_length": 512, "prediction_length": 96}
    config = RunConfig(model={"pretrained": str(r2_checkpoint)} | lengths, tuning={"mode": "lora"})
    model = TTMForecaster(config)
    model.build(prepare_data(config.data, 512, 96).preprocessor)
    Adapter.taken_from(model.network).save(tmp_path / "adapter")
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert 75_520 * 4 < size <= 350_000


def test_predict_picks_by_item_and_unseen_items_use_the_base(run, items, caplog):
    model, _, folder = run
    reloaded = TTMForecaster.load(folder)
    frame = pd.read_csv(items)
    down = frame[frame["item_id"] == "down"]
    asked = pd.concat([down.assign(item_id=name) for name in ("down", "stranger")])
    forecast = reloaded.predict(asked).set_index("item_id")["load"]
    own, base = forecast["down"].to_numpy(), forecast["stranger"].to_numpy()
    reloaded.predict(asked)
    said = [record.getMessage() for record in caplog.records if "no adapter for" in record.getMessage()]
    assert said == [
        "no adapter for stranger (1 of 2 series): the base forecasts what training did not have; it had down, short, up"
    ]
    assert np.abs(own - base).max() > 1e-3
    assert np.array_equal(model.predict(asked).set_index("item_id")["load"]["down"].to_numpy(), own)
    reloaded.item_adapters = None
    plain = reloaded.predict(asked).set_index("item_id")["load"]
    # one batch of two items rounds differently from two batches of one
    assert np.allclose(plain["stranger"].to_numpy(), base, rtol=1e-6)
    assert np.allclose(plain["down"].to_numpy(), base, rtol=1e-6)


def test_evaluate_of_the_saved_run_reproduces_the_scores(run):
    _, results, folder = run
    scores = TTMForecaster.load(folder).evaluate()
    assert scores["rmse"] == pytest.approx(results["metrics"]["per_item"]["rmse"], rel=1e-6)
