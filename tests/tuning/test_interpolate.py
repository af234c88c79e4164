"""Tuning that never hurts: tuning.interpolate, tuning.soup and tuning.noise_start go as far as validation likes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny

from tstune import TTMForecaster
from tstune.config.validation import validate
from tstune.data.windows import window_loader
from tstune.errors import ConfigError, Interrupted
from tstune.models.registry import load_model
from tstune.runtime.distributed import DistributedManager
from tstune.training.callbacks import Callback, TrainingState
from tstune.training.loop import SHARES, validation_loss

WILD = {"max_steps": 4, "learning_rate": 0.3, "eval_every_steps": 4, "cache_frozen_features": "off"}
MILD = {"max_steps": 6, "learning_rate": 0.003, "eval_every_steps": 3, "ema_decay": 0.9, "log_every_steps": 2}
THREE = {"mode": "full", "soup": 3}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


def fitted(
    desk: Path, output: Path, keep_best: bool = False, *callbacks: Callback, **sections: object
) -> tuple[TTMForecaster, dict]:
    values = tiny.recipe(desk / "series.csv", output, desk / "checkpoint", **sections)
    values["evaluation"] |= {"keep_best": keep_best, "report": False, "baselines": ["persistence"]}
    model = TTMForecaster(validate(values, origin="test"))
    return model, model.fit(output_dir=output, callbacks=callbacks)


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


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_soup_averages_what_lowers_the_validation_loss(desk: Path, mode: str, tmp_path: Path):
    _, results = fitted(desk, tmp_path / "one", tuning={"mode": mode}, training=MILD)
    alone = results["training"]
    _, results = fitted(desk, tmp_path / "three", tuning=THREE | {"mode": mode}, training=MILD)
    training, rows = results["training"], results["training"].history
    assert rows[: len(alone.history)] == alone.history, "the first seed is the run without a soup"
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6, 9, 12, 15, 18]
    assert (training.num_steps, training.stopped_early) == (18, False)
    assert [seed["seed"] for seed in training.soup] == [7, 8, 9]
    assert len({seed["validation_loss"] for seed in training.soup}) == 3, "each draws its own windows"
    best = min(training.soup, key=lambda seed: seed["validation_loss"])
    assert best["averaged"]
    assert training.best_step == best["best_step"]
    together = sum(seed["averaged"] for seed in training.soup)
    assert (training.best_validation_loss < best["validation_loss"]) == (together > 1)
    assert loss_of(load_model(tmp_path / "three")) == pytest.approx(training.best_validation_loss, rel=1e-5)
    assert tiny.read_json(tmp_path / "three/environment.json")["training"]["soup"] == training.soup


class Interrupting(Callback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: TrainingState) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_soup_goes_on_with_the_seed_it_was_in(desk: Path, keep_best: bool, tmp_path: Path):
    tuning = THREE | {"noise_start": 0.3, "interpolate": "auto"}
    training = MILD | {"checkpoint_every_steps": 2, "resume_from_checkpoint": "auto"}
    whole, results = fitted(desk, tmp_path / "whole", keep_best, tuning=tuning, training=training)
    for step in (3, 6, 9, 17):  # in the first seed, at its end, in the second, in the last
        with pytest.raises(Interrupted):
            fitted(desk, tmp_path / "cut", keep_best, Interrupting(step), tuning=tuning, training=training)
    again, resumed = fitted(desk, tmp_path / "cut", keep_best, tuning=tuning, training=training)
    assert resumed["training"].resumed_from == 16
    assert resumed["training"].soup == results["training"].soup
    for name in ("model/model.safetensors", "history.jsonl", "metrics.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    state = again.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.network.state_dict().items())


def test_noise_moves_the_start_and_the_pretrained_weights_still_count(desk: Path, tmp_path: Path):
    start = TTMForecaster(validate(tiny.recipe(desk / "series.csv", tmp_path, desk / "checkpoint"), origin="test"))
    start.build(start.prepare().preprocessor)
    tuning, still = {"mode": "full", "noise_start": 0.4}, MILD | {"learning_rate": 1e-12, "weight_decay": 0.0}
    model, results = fitted(desk, tmp_path / "noisy", tuning=tuning, training=still)
    before, after = dict(start.network.named_parameters()), dict(model.network.named_parameters())
    name = "decoder.adapter.weight"
    random = (after[name] - 0.6 * before[name]) / 0.4
    assert 0.005 < random.std() < 0.2, "what is mixed in looks like fresh weights"
    assert abs(torch.corrcoef(torch.stack([random.flatten(), before[name].flatten()]))[0, 1]) < 0.5
    kept, results = fitted(desk, tmp_path / "kept", True, tuning=tuning, training=still)
    rows = [row["validation_loss"] for row in results["training"].history if "validation_loss" in row]
    assert (results["kept"], results["training"].best_step) == ("zero_shot", 0)
    assert rows[0] == pytest.approx(loss_of(start)) == results["training"].best_validation_loss
    assert rows[0] < min(rows[1:])
    assert all(torch.equal(value, before[name]) for name, value in kept.network.named_parameters())


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"mode": "zero_shot", "soup": 2}, "tuning.soup=2 averages tuned weights"),
        ({"mode": "lora", "noise_start": 0.3}, "tuning.noise_start=0.3 .* not tuning.mode=lora"),
        ({"mode": "from_scratch", "noise_start": 0.3}, "not tuning.mode=from_scratch"),
    ],
)
def test_what_makes_no_sense_is_refused(tuning: dict, words: str, desk: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=words):
        fitted(desk, tmp_path, tuning=tuning)
