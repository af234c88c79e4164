"""The linear skip: nothing when new, ridge regression of what the forecast lacks, and then part of the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from support import tiny

import publish_model
from tstune import TTMForecaster
from tstune.config.validation import validate
from tstune.data.windows import WindowDataset
from tstune.errors import ConfigError
from tstune.export.export_model import make_examples
from tstune.export.graph import ForecastGraph
from tstune.models.registry import load_model
from tstune.models.ttm_layers import LinearSkip

ALPHA, QUANTILES = 3.0, {"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"}
WHOLE = {"linear_skip_alpha": ALPHA, "linear_skip_share": 1.0}
CLOSED_FORM = {"tuning": {"mode": "skip_head"}}
BOTH = {"target_columns": ["load", "dose"]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    table = tiny.series()
    table.to_csv(folder / "series.csv", index=False)
    table.loc[table.index % 37 < 2, "load"] = np.nan  # filled by lines
    table.loc[60:80, ["load", "dose"]] = np.nan  # too long for that
    table.loc[450:470, "dose"] = np.nan
    table.to_csv(folder / "gaps.csv", index=False)
    tiny.write_checkpoint(folder / "checkpoint")
    return folder


def forecaster(
    desk: Path, linear_skip: str | None = "shared", series: str = "series", **sections: object
) -> TTMForecaster:
    model = {"linear_skip": linear_skip} | sections.pop("model", {})
    values = tiny.recipe(desk / f"{series}.csv", desk / "unused", desk / "checkpoint", model=model, **sections)
    return TTMForecaster(validate(values, origin="test"))


def built(model: TTMForecaster) -> tuple[TTMForecaster, dict]:
    """The model for its own data, and a batch of it."""
    data = model.prepare()
    model.build(data.preprocessor)
    return model, data.test.__getitems__(range(5))


def rows_of(model: TTMForecaster, windows: WindowDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Context and forecast as one, forecast, truth (filled too) and its mask, [windows, targets, steps], scaled."""
    batch = windows.__getitems__(range(len(windows)))
    targets = model.module.num_targets
    scaler = model.preprocessor.scaler
    mean, std = (torch.as_tensor(part[:targets], dtype=torch.float64) for part in (scaler.mean, scaler.std))
    past = (batch["past_values"][..., :targets].double() - mean) / std
    past = past.masked_fill(~batch["past_observed_mask"][..., :targets], torch.nan)
    past = torch.where(past.isnan(), past.nanmean(dim=1, keepdim=True), past)
    point = (model.forecast(batch).detach().double() - mean) / std
    truth = (batch["future_values"][..., :targets].double() - mean) / std
    observed = batch["future_observed_mask"][..., :targets]
    inputs = torch.cat([past, point], dim=1)
    return tuple(values.transpose(1, 2).numpy() for values in (inputs, point, truth, observed))


@pytest.mark.parametrize(
    "sections", [{}, {"forecast": QUANTILES}, {"model": {"prediction_length": 3}}, {"model": {"skip_steps": 6}}]
)
def test_a_new_one_adds_nothing(desk: Path, sections: dict):
    without, batch = built(forecaster(desk, None, **sections))
    model, _ = built(forecaster(desk, **sections))
    assert without.module.linear_skip is None
    assert model.starts_from_weights()
    torch.testing.assert_close(model.forecast(batch), without.forecast(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["shared", "per_channel"])
@pytest.mark.parametrize("series", ["series", "gaps"])
def test_the_closed_form_is_ridge_of_what_the_forecast_lacks(desk: Path, kind: str, series: str):
    untuned, _ = built(forecaster(desk, None, series, data=BOTH))
    model = forecaster(desk, kind, series, data=BOTH, model=WHOLE, **CLOSED_FORM)
    model.fit()
    data = model.prepare()
    inputs, point, truth, observed = rows_of(untuned, data.train)
    assert observed.all() == (series == "series")
    lacks = truth - point
    seen, now, _, _ = rows_of(untuned, data.test)
    _, found, _, _ = rows_of(model, data.test)
    for channel in range(2):
        part = slice(None) if kind == "shared" else slice(channel, channel + 1)
        ridge = Ridge(alpha=ALPHA)
        ridge.fit(*(values[:, part].reshape(-1, values.shape[2]) for values in (inputs, lacks)))
        np.testing.assert_allclose(found[:, channel] - now[:, channel], ridge.predict(seen[:, channel]), atol=2e-4)
    assert np.abs(found - now).max() > 0.1


def test_steps_that_were_filled_do_not_shrink_it(desk: Path, tmp_path: Path):
    """Two of three readings are missing, as on a grid of five minutes under a sensor of fifteen."""
    table = tiny.series(rows=1200)
    table.loc[table.index % 3 > 0, "load"] = np.nan
    table.to_csv(tmp_path / "third.csv", index=False)
    model = forecaster(desk, data={"path": str(tmp_path / "third.csv")}, model=WHOLE, **CLOSED_FORM)
    found = model.fit()["metrics"]
    assert found["fine_tuned"]["rmse"] < 1.03 * found["ridge"]["rmse"]


def test_it_learns_from_the_short_histories_that_training_makes(desk: Path):
    """On contexts as long as those that are judged, or on some that have lost their oldest steps."""
    for share in (0.0, 0.5):
        how = {"training": {"context_dropping": share}, "evaluation": {"context_steps": 16}}
        metrics = forecaster(desk, **how, **CLOSED_FORM).fit()["metrics"]
        assert metrics["fine_tuned"]["rmse"] < 1.15 * metrics["ridge"]["rmse"]


def test_half_of_it_goes_half_way(desk: Path):
    found = {}
    for share in (0.5, 1.0):
        model = forecaster(desk, model={"linear_skip_share": share}, **CLOSED_FORM)
        model.fit()
        found[share] = model.module.linear_skip.weight
    assert torch.equal(2 * found[0.5], found[1.0])


@pytest.mark.parametrize("hurts", [False, True])
def test_validation_says_how_much_of_it_is_added(desk: Path, hurts: bool):
    """Noise in place of what the network lacks is left out whole, and the untuned weights are kept."""
    model = forecaster(desk, **CLOSED_FORM)
    if hurts:
        model._shown = lambda windows: [(torch.randn(40, 32, 1), torch.randn(40, 8, 1), 9 * torch.randn(40, 8, 1))]
    result = model.fit()
    assert bool(model.module.linear_skip.weight.any()) is not hurts
    assert result["kept"] == ("zero_shot" if hurts else "fine_tuned")
    assert result["training"] is None
    if hurts:
        assert result["metrics"]["fine_tuned"]["rmse"] == result["metrics"]["zero_shot"]["rmse"]


def test_any_number_of_windows_makes_the_same_sums():
    past, point, lack = torch.randn(20, 5, 2), torch.randn(20, 3, 2), torch.randn(20, 2, 2)
    skip = LinearSkip(2, 5, 3)
    whole = skip.solution([(past, point, lack)], ALPHA)
    parts = skip.solution(zip(*(values.split(6) for values in (past, point, lack)), strict=True), ALPHA)
    torch.testing.assert_close(whole, parts)
    assert not whole["weight"][..., 2].any(), "no step that was not asked for"


@pytest.mark.parametrize("mode", ["skip_head", "head", "bias", "full", "lora", "dora", "from_scratch"])
def test_it_is_solved_in_every_mode_and_comes_back_as_it_was(desk: Path, mode: str, tmp_path: Path):
    model = forecaster(desk, tuning={"mode": mode})
    result = model.fit(output_dir=tmp_path / "run")
    assert result["kept"] == "fine_tuned", "no step of training is better than the start, yet that is not untuned"
    assert (result["training"] is None) == (mode == "skip_head")
    stored = load_file(tmp_path / "run/model/model.safetensors")
    assert stored["linear_skip.weight"].abs().max() > 0
    batch = model.prepare().test.__getitems__(range(8))
    loaded = load_model(tmp_path / "run")
    assert torch.equal(loaded.forecast(batch), model.forecast(batch))
    assert not any(name.startswith("linear_skip") for name, _ in loaded.network.named_parameters())
    again = TTMForecaster.load(tmp_path / "run")
    assert torch.equal(again.module.linear_skip.weight, stored["linear_skip.weight"])


def test_one_that_a_checkpoint_brings_stays(desk: Path, tmp_path: Path):
    first = forecaster(desk, model={"prediction_length": 8}, **CLOSED_FORM)
    first.fit(output_dir=tmp_path / "run")
    trained = {"pretrained": str(tmp_path / "run/model")}
    second, batch = built(forecaster(desk, None, model=trained, tuning={"mode": "head"}))
    assert torch.equal(second.forecast(batch), first.forecast(batch))
    second.fit()
    assert torch.equal(second.module.linear_skip.weight, first.module.linear_skip.weight)
    shorter, batch = built(forecaster(desk, None, model=trained | {"prediction_length": 3}))
    assert torch.equal(shorter.forecast(batch), first.forecast(batch)[:, :3])
    without, _ = built(forecaster(desk, "none", model=trained))
    assert without.module.linear_skip is None
    without.network.save_pretrained(tmp_path / "without")
    assert "linear_skip" not in tiny.read_json(tmp_path / "without/config.json")


def test_where_it_stays_and_nothing_else_learns_there_is_nothing_to_do(desk: Path, tmp_path: Path):
    forecaster(desk, **CLOSED_FORM).fit(output_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"linear skip, which stays.*set tuning\.mode=head"):
        built(forecaster(desk, None, model={"pretrained": str(tmp_path / "run")}, **CLOSED_FORM))


def test_without_training_there_is_no_closed_form(desk: Path):
    with pytest.raises(ConfigError, match=r"tuning\.mode=zero_shot solves no model\.linear_skip=shared"):
        built(forecaster(desk, tuning={"mode": "zero_shot"}))


def test_stored_features_and_the_context_are_enough(desk: Path, tmp_path: Path):
    found = {}
    for cache in ("on", "off"):
        model = forecaster(desk, "per_channel", "gaps", data=BOTH, training={"cache_frozen_features": cache})
        model.fit(output_dir=tmp_path / cache)
        found[cache] = load_file(tmp_path / cache / "model/model.safetensors")
    for name, values in found["on"].items():
        torch.testing.assert_close(values, found["off"][name], rtol=1e-4, atol=1e-5)


def test_quantiles_move_with_the_forecast(desk: Path):
    without, batch = built(forecaster(desk, None, forecast=QUANTILES))
    model, _ = built(forecaster(desk, forecast=QUANTILES))
    model.module.linear_skip.bias += 0.5
    moved = model.native_quantiles(batch) - without.native_quantiles(batch)
    expected = 0.5 * float(model.preprocessor.scaler.std[0])
    torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-4, atol=1e-4)


def test_series_of_any_size_are_mapped_in_units_of_their_window(desk: Path, tmp_path: Path):
    table = tiny.series(items=("a",))
    wide = table[["timestamp"]].assign(small=table["load"], large=1000 * table["load"])
    wide.to_csv(tmp_path / "wide.csv", index=False)
    data = {"path": str(tmp_path / "wide.csv"), "item_id_column": None, "target_columns": None, "columns_as": "items"}
    model = forecaster(desk, data=data, **CLOSED_FORM)
    result = model.fit()
    assert model.module.by_window
    assert result["metrics"]["fine_tuned"]["rmse"] < result["metrics"]["zero_shot"]["rmse"]


def test_a_published_one_is_the_same_and_the_library_names_what_it_leaves_out(desk: Path, tmp_path: Path):
    from tsfm_public import TinyTimeMixerForPrediction

    model = forecaster(desk, **CLOSED_FORM)
    model.fit(output_dir=tmp_path / "run")
    assert publish_model.main([str(tmp_path / "run"), "--to-folder", str(tmp_path / "published")]) == 0
    table = pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])
    pd.testing.assert_frame_equal(load_model(tmp_path / "published").predict(table), model.predict(table))
    _, report = TinyTimeMixerForPrediction.from_pretrained(tmp_path / "published", output_loading_info=True)
    assert set(report["unexpected_keys"]) == {"linear_skip.weight", "linear_skip.bias"}


def test_an_exported_graph_holds_it(desk: Path, tmp_path: Path):
    model = forecaster(desk, "per_channel", "gaps", data=BOTH, **CLOSED_FORM)
    model.fit(output_dir=tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    examples = make_examples(loaded, 5)
    graph = ForecastGraph(load_model(tmp_path / "run"))
    with torch.inference_mode():
        (found,) = graph(*examples.inputs.values())
        torch.testing.assert_close(found, loaded.forecast(examples.batch), rtol=1e-4, atol=1e-4)


def test_a_shorter_forecast_with_a_known_future_says_what_to_do(desk: Path, tmp_path: Path):
    data = {"control_columns": ["plan"]}
    forecaster(desk, data=data).fit(output_dir=tmp_path / "run")
    model = {"pretrained": str(tmp_path / "run/model"), "prediction_length": 3}
    with pytest.raises(ConfigError, match=r"model\.linear_skip=none or model\.prediction_length="):
        built(forecaster(desk, None, model=model, data=data))


def test_one_for_other_targets_is_not_left_out_in_silence(desk: Path, tmp_path: Path):
    first = forecaster(desk, "per_channel", data=BOTH, **CLOSED_FORM)
    first.fit(output_dir=tmp_path / "run")
    trained = {"pretrained": str(tmp_path / "run/model")}
    for kind, targets in ((None, {}), ("shared", BOTH)):
        with pytest.raises(
            ConfigError, match=r"a linear skip of 2 maps .* this run needs 1; .*model\.linear_skip=none"
        ):
            built(forecaster(desk, kind, data=targets, model=trained, tuning={"mode": "head"}))
    without, _ = built(forecaster(desk, "none", model=trained, tuning={"mode": "head"}))
    assert without.module.linear_skip is None
