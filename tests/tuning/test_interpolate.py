"""tuning.interpolate: no further from the untuned weights than the validation windows like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny

from tstune import TTMForecaster
from tstune.config.validation import validate
from tstune.data.windows import window_loader
from tstune.models.registry import load_model
from tstune.runtime.distributed import DistributedManager
from tstune.training.loop import SHARES, validation_loss

WILD = {"max_steps": 4, "learning_rate": 0.3, "eval_every_steps": 4, "cache_frozen_features": "off"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


def fitted(desk: Path, output: Path, **sections: object) -> tuple[TTMForecaster, dict]:
    values = tiny.recipe(desk / "series.csv", output, desk / "checkpoint", **sections)
    values["evaluation"] |= {"keep_best": False, "report": False, "baselines": ["persistence"]}  # the last is kept
    model = TTMForecaster(validate(values, origin="test"))
    return model, model.fit(output_dir=output)


def loss_of(model: TTMForecaster) -> float:
    data = model.prepare()
    manager = DistributedManager.for_run(model.config)
    loader = manager.accelerator.prepare_data_loader(window_loader(data.validation, 64))
    return validation_loss(model, model.module, loader, manager)


@pytest.mark.parametrize("tuning", [{"mode": "full"}, {"mode": "lora"}], ids=lambda tuning: tuning["mode"])
def test_the_share_of_the_lowest_validation_loss_is_kept(desk: Path, tuning: dict, tmp_path: Path):
    untuned = TTMForecaster(validate(tiny.recipe(desk / "series.csv", tmp_path, desk / "checkpoint"), origin="test"))
    untuned.build(untuned.prepare().preprocessor)
    whole, results = fitted(desk, tmp_path / "whole", tuning=tuning, training=WILD)
    assert results["training"].tuned_share == 1.0
    model, results = fitted(desk, tmp_path / "part", tuning=tuning | {"interpolate": "auto"}, training=WILD)
    training = results["training"]
    assert training.tuned_share in SHARES, "far too high a rate goes too far"
    assert training.best_validation_loss < loss_of(whole)
    assert loss_of(model) == pytest.approx(training.best_validation_loss, rel=1e-5)
    assert loss_of(load_model(tmp_path / "part")) == pytest.approx(training.best_validation_loss, rel=1e-5)
    environment = tiny.read_json(tmp_path / "part/environment.json")
    assert environment["training"]["tuned_share"] == training.tuned_share
    start, tuned, part = (dict(one.network.named_parameters()) for one in (untuned, whole, model))
    assert len(start) == len(part)
    moved = 0
    for name, value in start.items():
        blend = torch.lerp(value.data, tuned[name].data, training.tuned_share)
        torch.testing.assert_close(part[name].data, blend, rtol=1e-3, atol=1e-5, msg=name)
        moved += not torch.equal(value, part[name])
    assert moved > 0
