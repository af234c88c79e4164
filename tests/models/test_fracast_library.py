"""Fracast as its package has it: the real weights, the same quantiles, and files that both read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from building import Make, four_windows
from fracast import FracastModel
from support import tiny

import tstune

HOURS = {"horizons": ["1h"]}


@pytest.mark.parametrize("steps", [24, 60])
def test_the_weights_of_the_package_say_what_the_package_says(steps: int) -> None:
    """With gaps, and beyond one pass."""
    table = tiny.series(400)[["item_id", "timestamp", "load"]]
    hour = table.groupby("item_id").cumcount()
    gaps = (hour.between(200, 210) & (table["item_id"] == "b")) | (hour == 50)
    found = tstune.forecast(table[~gaps], steps, "fracast")
    assert list(found.columns[3:]) == [f"load_q0.{level}" for level in range(1, 10)]
    table.loc[gaps, "load"] = np.nan
    rows = np.stack([own["load"].to_numpy() for _, own in table.groupby("item_id")])
    rows[:, 50] = (rows[:, 49] + rows[:, 51]) / 2  # a short gap is bridged before any model sees it
    theirs = FracastModel.from_pretrained(weights="fp32").forecast_batch(rows, horizon=steps)
    ours = found.iloc[:, 3:].to_numpy().reshape(theirs.shape)
    np.testing.assert_allclose(ours, np.sort(theirs, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(found["load"], theirs[..., 4].reshape(-1), rtol=1e-4)


def test_its_package_reads_what_we_save(make_any: Make, folder: Path, tmp_path: Path) -> None:
    model, data = make_any("fracast", evaluation=HOURS)
    model.save(tmp_path / "run")
    batch = four_windows(data, gaps=True)
    theirs = FracastModel.from_pretrained(tmp_path / "run" / "model", weights="fp32")
    series = model.module.target_series(batch).numpy()
    expected = theirs.forecast_batch(series, horizon=tiny.PREDICTION)
    with torch.inference_mode():
        np.testing.assert_allclose(model._values(batch)[:, :, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_real_weights_learn_with_an_adapter(make_any: Make) -> None:
    """Few windows: whatever the context, a pass goes over the 2048 steps of the weights."""
    training = {"max_steps": 2, "eval_every_steps": 2, "learning_rate": 1e-3, "per_device_batch_size": 4}
    few = {"train_fraction": 0.2, "validation_stride": 12, "test_stride": 12}
    sections = {"tuning": {"mode": "lora"}, "training": training, "data": few, "evaluation": HOURS}
    model, data = make_any("fracast", "fracast", **sections)
    results = model.fit(data)
    assert results["parameters"]["total"] - results["parameters"]["trainable"] == 85_001
    assert results["training"].best_step > 0, "the loss fell"


def test_point_and_quantiles_come_from_one_pass(make_any: Make) -> None:
    asked = {"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"}
    model, data = make_any("fracast", evaluation=HOURS, forecast=asked)
    batch, passes = four_windows(data, gaps=True), []
    model.module.register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        point, quantiles = model.forecast_both(batch, data.panel.item_ids)
        assert len(passes) == 1
        assert torch.equal(point, model.forecast(batch))
        assert torch.equal(quantiles, model.forecast_quantiles(batch))
