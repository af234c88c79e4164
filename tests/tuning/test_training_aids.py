"""Optimizers, learning-rate finder, groups, moving average, few-shot, fast dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import tiny

from tstune.config.schema import DataSection, SplitSection, TrainingSection
from tstune.data.prepared import prepare_data
from tstune.data.windows import MirroredWindows
from tstune.errors import ConfigError
from tstune.models.modules import FastDropout, dropout_mask, use_fast_dropout
from tstune.runtime.distributed import DistributedManager
from tstune.training.feature_cache import training_windows
from tstune.training.optim import HIGHEST, LOWEST, WeightAverage, build_optimizer, find_learning_rate

CLASSES = {
    "adamw": "AdamW",
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "AdamW8bit",  # there is nothing to page on a CPU
    "sgd": "SGD",
    "adafactor": "Adafactor",
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_optimizer_lowers_the_validation_loss(name, forecaster):
    rate = 0.1 if name == "sgd" else 0.01
    training = {"optimizer": name, "learning_rate": rate, "max_steps": 30, "eval_every_steps": 30}
    model = forecaster(tuning={"mode": "full"}, training=training)
    result = model.fit()["training"]
    validation = [row["validation_loss"] for row in result.history if "validation_loss" in row]
    assert result.num_steps == 30
    assert validation[-1] < 0.9 * validation[0]
    created = build_optimizer(model.module, model.config.training, 1e-3, model.parts)
    assert type(created).__name__ == CLASSES[name]


def test_groups_carry_the_factor_of_their_part(forecaster):
    model = forecaster(tuning={"mode": "full"})
    model.build(model.prepare().preprocessor)
    config = TrainingSection(backbone_lr_factor=0.1, decoder_lr_factor=0.5, head_lr_factor=2.0, weight_decay=0.3)
    optimizer = build_optimizer(model.module, config, 1e-2, model.parts)
    seen = {}
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(1e-2 * group["lr_factor"])
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.3) == (parameter.ndim >= 2)
            seen[id(parameter)] = group["lr_factor"]
    expected = {"backbone": 0.1, "decoder": 0.5, "head": 2.0}
    names = dict(model.network.named_parameters())
    assert len(seen) == len(names)
    for name, parameter in names.items():
        assert seen[id(parameter)] == expected[name.partition(".")[0]]


def test_part_factors_reach_the_weights(forecaster):
    model = forecaster(tuning={"mode": "full"}, training={"backbone_lr_factor": 1e-12, "weight_decay": 0.0})
    data = model.prepare()
    model.build(data.preprocessor)
    before = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    model.train_on(data, DistributedManager())
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.network.named_parameters()}
    assert max(change for name, change in moved.items() if name.startswith("backbone.")) < 1e-6
    assert max(change for name, change in moved.items() if name.startswith("head.")) > 1e-3


@pytest.mark.parametrize("mode", ["decoder", "lora", "full"])
def test_learning_rate_finder_leaves_everything_untouched(mode, forecaster):
    model = forecaster(tuning={"mode": mode})
    data = model.prepare()
    model.build(data.preprocessor)
    weights = {name: value.detach().clone() for name, value in model.module.state_dict().items()}
    random_state = torch.get_rng_state()
    curve = find_learning_rate(model, data.train, model.config.training, DistributedManager(), seed=1)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in model.module.state_dict().items())
    assert all(value.grad is None for value in model.module.parameters())
    assert LOWEST < curve.suggestion < HIGHEST
    assert len(curve.learning_rates) == len(curve.losses) > 20
    assert all(math.isfinite(loss) for loss in curve.losses[:20])


def test_auto_learning_rate_trains_and_saves_the_plot(forecaster, tmp_path):
    model = forecaster(
        training={"learning_rate": "auto", "max_steps": 20}, evaluation={"num_plots": 1, "baselines": []}
    )
    result = model.fit(output_dir=tmp_path / "run")["training"]
    assert result.learning_rate == result.lr_curve.suggestion
    assert result.best_step > 0
    assert (tmp_path / "run" / "plots" / "lr_finder.png").stat().st_size > 5_000
    assert max(row["learning_rate"] for row in result.history if "learning_rate" in row) <= result.learning_rate


def test_weight_average_is_the_average():
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
        average = WeightAverage(layer, decay=0.5)
        expected = 0.0
        for number, value in enumerate((1.0, 2.0, 4.0), start=1):
            layer.weight.fill_(value)
            average.update()
            decay = min(0.5, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * value
        with average.applied():
            assert layer.weight.item() == pytest.approx(expected)
        assert layer.weight.item() == 4.0


def test_run_with_moving_average_keeps_averaged_weights(forecaster):
    plain = forecaster(tuning={"mode": "full"}).fit()["training"]
    averaged = forecaster(tuning={"mode": "full"}, training={"ema_decay": 0.9}).fit()["training"]
    losses = [[row["train_loss"] for row in run.history if "train_loss" in row] for run in (plain, averaged)]
    validation = [
        [row["validation_loss"] for row in run.history if "validation_loss" in row] for run in (plain, averaged)
    ]
    assert losses[0] == losses[1]  # the average follows the training, it does not change it
    assert validation[0][0] == validation[1][0]
    assert validation[0][1:] != validation[1][1:]


def etth1_shaped(fraction: float, origin: str, seed: int = 0):
    import pandas as pd

    from tstune.data.table import ITEM, TIMESTAMP, Roles, SourceTable

    stamps = pd.date_range("2016-07-01", periods=14_400, freq="h")
    frame = pd.DataFrame({ITEM: "x", TIMESTAMP: stamps, "y": np.arange(14_400.0)})
    section = DataSection(
        split=SplitSection(borders=(8640, 11520, 14400), mode="deployment"),
        train_fraction=fraction,
        train_fraction_from=origin,
    )
    return prepare_data(section, 512, 96, SourceTable(frame, Roles(target=("y",)), frequency="h"), seed)


def test_few_shot_takes_the_published_number_of_windows():
    full = etth1_shaped(1.0, "first").train
    first, last = etth1_shaped(0.05, "first").train, etth1_shaped(0.05, "last").train
    assert (len(full), len(first), len(last)) == (8033, 311, 311)
    assert len(etth1_shaped(0.1, "first").train) == 717
    assert first.starts(np.arange(311)).tolist() == list(range(311))
    assert last.starts(np.arange(311)).tolist() == list(range(8033 - 311, 8033))


def test_mirrored_windows_are_the_windows_and_their_mirror_images(forecaster):
    model = forecaster(data={"mirror_train_windows": True, "target_columns": ["load", "dose"]})
    data = model.prepare()
    centre = data.preprocessor.scaler.mean
    mirrored = MirroredWindows(data.train, centre)
    n = len(data.train)
    assert len(mirrored) == 2 * n
    batch, plain = mirrored.__getitems__([3, n + 3, n + 5]), data.train.__getitems__([3, 5])
    for name in ("past_values", "future_values"):
        assert torch.equal(batch[name][0], plain[name][0])
        expected = 2 * torch.tensor(centre, dtype=torch.float32) - plain[name]
        torch.testing.assert_close(batch[name][1:], expected)
    assert torch.equal(batch["future_observed_mask"][1:], plain["future_observed_mask"])
    assert "past_values" not in mirrored.without_past([n])
    model = forecaster(
        data={"mirror_train_windows": True}, tuning={"mode": "decoder"}, training={"max_steps": None, "num_epochs": 1}
    )
    assert model.fit()["training"].num_steps == -(-2 * 402 // 32)


def test_fault_13_mirrored_about_the_level_of_the_data_whatever_the_scaling(forecaster):
    centres = []
    for scaling in ("standard", "none"):
        model = forecaster(data={"mirror_train_windows": True, "scaling": scaling})
        data = model.prepare()
        model.build(data.preprocessor)
        mirrored, _ = training_windows(model, data, DistributedManager())
        n = len(data.train)
        centres.append((mirrored.__getitems__([0])["past_values"] + mirrored.__getitems__([n])["past_values"]) / 2)
    torch.testing.assert_close(*centres)
    assert centres[0].mean() == pytest.approx(data.panel.values.mean(), rel=0.1)


def test_mirrored_windows_need_targets_only(forecaster):
    model = forecaster(data={"mirror_train_windows": True, "conditional_columns": ["dose"]})
    with pytest.raises(ConfigError, match="conditional and control columns would not follow"):
        model.prepare()


@pytest.mark.parametrize("p", [0.1, 0.4, 0.7])
def test_fast_dropout_is_dropout(p):
    torch.manual_seed(0)
    values = torch.ones(1000, 1001)
    dropped = FastDropout(p).train()(values)
    zero = (dropped == 0).float()
    assert zero.mean().item() == pytest.approx(p, abs=3e-3)
    assert dropped.mean().item() == pytest.approx(1.0, abs=5e-3)
    assert torch.unique(dropped).numel() == 2
    assert zero.mean(0).std().item() == pytest.approx(math.sqrt(p * (1 - p) / 1000), rel=0.15)  # independent
    neighbours = torch.corrcoef(torch.stack([zero[:, :-1].flatten(), zero[:, 1:].flatten()]))[0, 1]
    assert abs(neighbours.item()) < 0.005


def test_fast_dropout_follows_the_seed_and_passes_gradients():
    def draw(seed: int, outermost: int = 0) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout_mask((37, 9), 0.5, torch.float32, outermost)

    assert torch.equal(draw(1), draw(1))
    assert torch.equal(draw(1, outermost=1), draw(1).T)  # the order in memory changes no value
    assert not torch.equal(draw(1), draw(2))
    values = torch.ones(50, requires_grad=True)
    torch.manual_seed(1)
    dropped = FastDropout(0.5).train()(values)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())
    assert FastDropout(0.5).eval()(values) is values


def test_fast_dropout_replaces_every_dropout(tmp_path):
    from tsfm_public import TinyTimeMixerForPrediction

    model = TinyTimeMixerForPrediction.from_pretrained(tiny.write_checkpoint(tmp_path / "ttm"))
    before = sum(type(module) is torch.nn.Dropout for module in model.modules())
    names = list(model.state_dict())
    assert use_fast_dropout(model) == before > 0
    assert not any(type(module) is torch.nn.Dropout for module in model.modules())
    assert list(model.state_dict()) == names
