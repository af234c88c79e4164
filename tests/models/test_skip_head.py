"""The skip head: adds nothing when new, learns what normalisation takes away, and goes wherever the network goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import tiny

from tstune import TTMForecaster
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.export.export_model import make_examples
from tstune.export.graph import ForecastGraph
from tstune.models.registry import load_model
from tstune.models.ttm import SKIP_CHANGES
from tstune.models.ttm_layers import CHANGES, CHANGES_BY, SkipHead

STEPS, QUANTILES = 6, {"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny.write_series(folder / "series.csv")
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


def forecaster(desk: Path, skip_steps: int | None = STEPS, **sections: object) -> TTMForecaster:
    model = {"skip_steps": skip_steps} | sections.pop("model", {})
    values = tiny.recipe(desk / "series.csv", desk / "unused", desk / "checkpoint", model=model, **sections)
    return TTMForecaster(validate(values, origin="test"))


def built(model: TTMForecaster) -> tuple[TTMForecaster, dict]:
    """The model for its own data, and a batch of it."""
    data = model.prepare()
    model.build(data.preprocessor)
    return model, data.test.__getitems__(range(5))


@pytest.mark.parametrize("sections", [{}, {"forecast": QUANTILES}, {"model": {"prediction_length": 3}}])
def test_a_new_one_adds_nothing(desk: Path, sections: dict):
    without, batch = built(forecaster(desk, 0, **sections))
    model, _ = built(forecaster(desk, **sections))
    assert without.module.skip_head is None
    assert [name for name in model.fresh if name.startswith("skip_head")] != []
    assert model.starts_from_weights()
    torch.testing.assert_close(model.forecast(batch), without.forecast(batch), rtol=1e-5, atol=1e-5)


def test_it_reads_what_was_read_how_old_it_is_and_the_hour():
    head = SkipHead(steps=3, prediction_length=2, with_quantiles=False)
    past = torch.tensor([[[1.0], [2.0], [4.0], [8.0], [16.0]]])
    usable = torch.tensor([True, True, True, True, False])[None, :, None]
    read = torch.tensor([True, True, True, False, False])[None, :, None]
    batch = {"past_observed_mask": usable, "past_read_mask": read, "origin": torch.tensor([6 * 3600])}
    found = head.read(batch, past, torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 2.0))
    assert found["last"].item() == 8
    recent = found["recent"][0, 0]
    expected = [-2.0, 0.0, 4.0, 1.0, 0.0, 0.0, np.log1p(2), 8.0, np.log(2.05), -2.5, 1.0, 0.0, 0.0, -1.0]
    expected += [4 * CHANGES_BY, 8 * CHANGES_BY]
    torch.testing.assert_close(recent, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=1e-6)


def test_weights_from_before_it_read_changes_stay_as_they_are(desk: Path, tmp_path: Path):
    glucose = {"pretrained": "builtin:glucose", "skip_steps": 48, "context_length": 96, "prediction_length": 24}
    assert built(forecaster(desk, None, model=glucose))[0].module.skip_head.changes == 0
    general = glucose | {"pretrained": "builtin"}
    new, batch = built(forecaster(desk, None, model=general))
    assert new.module.skip_head.changes == CHANGES
    new.network.save_pretrained(tmp_path / "saved")
    saved, _ = built(forecaster(desk, None, model=general | {"pretrained": str(tmp_path / "saved")}))
    assert saved.module.skip_head.changes == CHANGES
    assert saved.fresh == []
    assert torch.equal(saved.forecast(batch), new.forecast(batch))


def test_a_network_without_one_says_nothing_of_it(desk: Path, tmp_path: Path):
    scratch = {"model": {"pretrained": None}, "tuning": {"mode": "from_scratch"}}
    built(forecaster(desk, 4, **scratch))[0].network.save_pretrained(tmp_path / "with")
    built(forecaster(desk, None, **scratch))[0].network.save_pretrained(tmp_path / "without")
    taken_away = forecaster(desk, 0, model={"pretrained": str(tmp_path / "with")})
    built(taken_away)[0].network.save_pretrained(tmp_path / "taken away")
    read = {folder.name: tiny.read_json(folder / "config.json").get(SKIP_CHANGES) for folder in tmp_path.iterdir()}
    assert read == {"with": CHANGES, "without": None, "taken away": None}


@pytest.mark.parametrize("mode", ["skip_head", "head", "decoder", "full", "lora"])
def test_it_learns_in_every_mode_and_comes_back_as_it_was(desk: Path, mode: str, tmp_path: Path):
    model = forecaster(desk, tuning={"mode": mode}, training={"cache_frozen_features": "off"})
    model.fit(output_dir=tmp_path / "run")
    data = model.prepare()
    batch = data.test.__getitems__(range(8))
    loaded = load_model(tmp_path / "run")
    assert torch.equal(loaded.forecast(batch), model.forecast(batch))
    if mode != "lora":
        stored = load_file(tmp_path / "run/model/model.safetensors")
        output = next(values for name, values in stored.items() if name.endswith("skip_head.output.weight"))
        assert output.abs().max() > 0
    elsewhere = dict(batch, origin=batch["origin"] + 6 * 3600)
    assert not torch.equal(loaded.forecast(elsewhere), loaded.forecast(batch)), "the hour matters"
    interpolated = dict(batch, past_read_mask=torch.zeros_like(batch["past_read_mask"]))
    assert not torch.equal(loaded.forecast(interpolated), loaded.forecast(batch)), "what was read matters"


def test_a_mode_for_it_alone(desk: Path):
    model, _ = built(forecaster(desk, tuning={"mode": "skip_head"}))
    learning = {name for name, value in model.network.named_parameters() if value.requires_grad}
    assert learning == {f"skip_head.{name}" for name, _ in model.module.skip_head.named_parameters()}
    with pytest.raises(ConfigError, match=r"tuning\.mode=skip_head.*set model\.skip_steps=48"):
        built(forecaster(desk, 0, tuning={"mode": "skip_head"}))


def test_quantiles_learn_beside_a_forecast_that_stays(desk: Path, tmp_path: Path):
    first = forecaster(desk, tuning={"mode": "full"})
    first.fit(output_dir=tmp_path / "points")
    points = {"pretrained": str(tmp_path / "points/model")}
    slowly = {"tuning": {"mode": "quantile_head"}, "training": {"learning_rate": 1e-4}}
    second = forecaster(desk, None, model=points, forecast=QUANTILES, **slowly)
    second.fit(output_dir=tmp_path / "quantiles")
    learning = {name for name, value in second.network.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"multi_quantile_head_block", "skip_head"}
    assert {name for name in learning if name.startswith("skip_head")} == {
        "skip_head.quantile_stretch.weight",
        "skip_head.quantile_stretch.bias",
    }
    assert second.network.skip_head.quantile_stretch.weight.abs().max() > 0
    both = {"pretrained": str(tmp_path / "quantiles/model")}
    third, batch = built(forecaster(desk, None, model=both, tuning={"mode": "zero_shot"}))
    assert third.module.levels == (), "nobody asked for quantiles"
    assert torch.equal(third.forecast(batch), first.forecast(batch))
    fourth, _ = built(forecaster(desk, None, model=both, forecast=QUANTILES, tuning={"mode": "zero_shot"}))
    assert torch.equal(fourth.native_quantiles(batch), second.native_quantiles(batch))
    again = forecaster(desk, None, model=both, forecast=QUANTILES, tuning={"mode": "head"})
    built(again)
    assert not again.network.config.quantiles_beside_the_forecast, "trained with the forecast, they have a say in it"
    between = {"quantiles": [0.2, 0.5, 0.8], "method": "quantile_head"}
    fifth, _ = built(forecaster(desk, None, model=both, forecast=between, tuning={"mode": "zero_shot"}))
    low, middle, high = second.native_quantiles(batch).unbind(dim=-1)
    expected = torch.stack([torch.lerp(low, middle, 0.25), middle, torch.lerp(middle, high, 0.75)], dim=-1)
    torch.testing.assert_close(fifth.native_quantiles(batch), expected)
    with pytest.raises(ConfigError, match=r"tuning\.mode=quantile_head.*set forecast\.method=quantile_head"):
        built(forecaster(desk, tuning={"mode": "quantile_head"}))


def test_stored_features_hold_what_it_reads(desk: Path, tmp_path: Path):
    found = {}
    for cache in ("on", "off"):
        model = forecaster(desk, training={"cache_frozen_features": cache})
        model.fit(output_dir=tmp_path / cache)
        found[cache] = load_file(tmp_path / cache / "model/model.safetensors")
    assert any("skip_head" in name for name in found["on"])
    for name, values in found["on"].items():
        torch.testing.assert_close(values, found["off"][name], rtol=1e-4, atol=1e-5)


def test_a_trained_one_goes_with_the_checkpoint(desk: Path, tmp_path: Path):
    first = forecaster(desk, forecast=QUANTILES)
    first.fit(output_dir=tmp_path / "run")
    trained = str(tmp_path / "run/model")
    model, batch = built(forecaster(desk, None, model={"pretrained": trained}, forecast=QUANTILES))
    assert model.fresh == []
    assert torch.equal(model.forecast(batch), first.forecast(batch))
    quantiles = model.native_quantiles(batch)
    assert (quantiles.diff(dim=-1) >= 0).all()
    shorter, batch = built(forecaster(desk, None, model={"pretrained": trained, "prediction_length": 3}))
    assert shorter.forecast(batch).shape == (5, 3, 1)
    without, _ = built(forecaster(desk, 0, model={"pretrained": trained}))
    assert without.module.skip_head is None


def test_an_exported_graph_reads_the_clock(desk: Path, tmp_path: Path):
    model = forecaster(desk)
    model.fit(output_dir=tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    examples = make_examples(loaded, 5)
    graph = ForecastGraph(load_model(tmp_path / "run"))
    assert graph.inputs == ["past", "origin"]
    with torch.inference_mode():
        (found,) = graph(*examples.inputs.values())
        expected = loaded.forecast(examples.batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_shorter_forecast_with_a_known_future_says_what_to_do(desk: Path, tmp_path: Path):
    data = {"control_columns": ["plan"]}
    forecaster(desk, data=data).fit(output_dir=tmp_path / "run")
    model = {"pretrained": str(tmp_path / "run/model"), "prediction_length": 3}
    with pytest.raises(ConfigError, match=r"model\.skip_steps=0 or model\.prediction_length="):
        built(forecaster(desk, None, model=model, data=data))
