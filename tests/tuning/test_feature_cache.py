"""Training on stored features is training on the windows: same losses, whatever holds the features."""

from __future__ import annotations

import pytest
import torch
from support import tiny

from tstune.errors import ConfigError
from tstune.models.ttm import TTMForecaster
from tstune.runtime.distributed import DistributedManager
from tstune.training.feature_cache import CachedWindows, training_windows


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    return tiny.write_checkpoint(tmp_path_factory.mktemp("dropout") / "ttm", dropout=0.3, head_dropout=0.3)


def losses(results: dict) -> list[tuple[int, float]]:
    return [(row["step"], row.get("train_loss", row.get("validation_loss"))) for row in results["training"].history]


@pytest.mark.parametrize("mode", ["decoder", "head"])
def test_cached_and_uncached_runs_agree_at_every_step(mode, forecaster, with_dropout):
    runs = {}
    for cache in ("on", "off"):
        model = forecaster(
            with_dropout,
            tuning={"mode": mode},
            training={"cache_frozen_features": cache, "max_steps": 40, "eval_every_steps": 10},
        )
        runs[cache] = losses(model.fit())
    assert len(runs["on"]) == 40 + 5
    for (step, cached), (other_step, plain) in zip(runs["on"], runs["off"], strict=True):
        assert step == other_step
        assert cached == pytest.approx(plain, abs=1e-6, rel=1e-6)


def test_features_on_disk_equal_features_in_memory(forecaster, tmp_path):
    model = forecaster(tuning={"mode": "decoder"})
    data = model.prepare()
    model.build(data.preprocessor)
    device = torch.device("cpu")
    memory = CachedWindows(data.train, model.frozen_encoder(), device, budget_bytes=1e9)
    disk = CachedWindows(data.train, model.frozen_encoder(), device, budget_bytes=10, folder=tmp_path)
    assert (memory.on_disk, disk.on_disk) == (False, True)
    assert memory.num_bytes == disk.num_bytes == len(data.train) * (4 * 16 + 2) * 4  # 4 patches of 16, loc, scale
    chosen = [5, 0, len(data.train) - 1]
    one, other = memory.__getitems__(chosen), disk.__getitems__(chosen)
    kept = {"future_values", "future_observed_mask", "item", "start", "origin"}
    assert set(one) == {"features", "loc", "scale"} | kept
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["features"].shape == (3, 1, 4, 16)
    del disk
    assert list(tmp_path.glob("features-*")) == []  # the file goes with its owner


def test_auto_caches_only_where_it_is_right_and_pays(forecaster, csv):
    def loaders(**sections: object) -> str:
        model = forecaster(**sections)
        data = model.prepare()
        model.build(data.preprocessor)
        return type(training_windows(model, data, DistributedManager())[0]).__name__

    often, once = {"max_steps": 40}, {"max_steps": 2}
    assert loaders(tuning={"mode": "decoder"}, training=often) == "CachedWindows"
    assert loaders(tuning={"mode": "decoder"}, training=once) == "WindowDataset"
    assert loaders(tuning={"mode": "full"}, training=often) == "WindowDataset"
    assert loaders(tuning={"mode": "lora"}, training=often) == "WindowDataset"
    assert loaders(tuning={"mode": "bias"}, training=often) == "WindowDataset"
    controls = {"target_columns": ["load"], "control_columns": ["plan"]}
    assert loaders(tuning={"mode": "decoder"}, training=often, data=controls) == "WindowDataset"


def test_asking_for_a_cache_that_would_be_wrong_is_an_error(forecaster):
    model = forecaster(tuning={"mode": "lora"}, training={"cache_frozen_features": "on"})
    with pytest.raises(ConfigError, match="cache_frozen_features=on"):
        model.fit()


def test_two_halves_make_the_whole(forecaster):
    model: TTMForecaster = forecaster(tuning={"mode": "decoder"})
    data = model.prepare()
    model.build(data.preprocessor)
    batch = data.test.__getitems__(range(7))
    with torch.no_grad():
        whole, *_ = model.module(batch)
        scaled = (batch["past_values"] - model.module.mean) / model.module.std
        library = model.network(past_values=scaled).prediction_outputs
        halves, *_ = model.module(batch | model.module.encode(batch))
    assert torch.equal(whole[..., 0], library)
    assert torch.equal(whole, halves)
