"""What chronos-forecasting computes from the same weights and windows: forecasts, losses, files."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from building import Make, four_windows
from chronos import BaseChronosPipeline, Chronos2Pipeline, ChronosBoltPipeline
from safetensors.torch import load_file, save_file
from support import tiny, tiny_weights

from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel as Model

NAMES = ("chronos_bolt", "chronos2")
PIPELINES = {"chronos_bolt": ChronosBoltPipeline, "chronos2": Chronos2Pipeline}
TWO = {"target_columns": ["load", "dose"]}
COVARIATES = {"conditional_columns": ["dose"], "control_columns": ["plan"]}
both = pytest.mark.parametrize("name", NAMES)
BEYOND = 2 * tiny_weights.NATIVE + 3
Batch = dict[str, torch.Tensor]


def contexts(batch: Batch) -> torch.Tensor:
    """[batch, channels, context] as the library takes them."""
    return torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan).transpose(1, 2)


def quantiles(model: Model, batch: Batch) -> torch.Tensor:
    """[batch, targets, levels, steps], the library's order."""
    with torch.inference_mode():
        return model._values(batch).permute(0, 2, 3, 1)


# Forecasts


@both
@pytest.mark.parametrize("steps", [5, tiny_weights.NATIVE, BEYOND])
@pytest.mark.parametrize("gaps", [False, True])
def test_forecasts_are_those_of_the_pipeline(name: str, steps: int, gaps: bool, folder: Path, make_any: Make) -> None:
    sections = {"model": {"prediction_length": steps}, "evaluation": {"horizons": ["2h"]}, "data": TWO}
    model, data = make_any(name, **sections)
    batch = four_windows(data, gaps)
    pipeline, series = BaseChronosPipeline.from_pretrained(folder / name), contexts(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of long forecasts
        if name == "chronos_bolt":  # every series on its own
            expected = pipeline.predict(series.reshape(8, -1), steps).view(4, 2, -1, steps)
        else:  # the targets of a window are one group
            expected = torch.stack(pipeline.predict(series, steps))
    found = quantiles(model, batch)
    assert found.shape == (4, 2, 9, steps)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    with torch.inference_mode():
        assert torch.equal(model.forecast(batch), found[:, :, 4].transpose(1, 2)), "the forecast is the median"


@pytest.mark.parametrize("steps", [5, tiny_weights.NATIVE, BEYOND])
def test_covariates_go_where_the_pipeline_puts_them(steps: int, folder: Path, make_any: Make) -> None:
    sections = {"model": {"prediction_length": steps}, "evaluation": {"horizons": ["2h"]}, "data": COVARIATES}
    model, data = make_any("chronos2", **sections)
    batch = four_windows(data, gaps=True)
    series = contexts(batch)
    asked = [
        {
            "target": past[0],
            "past_covariates": {"dose": past[1], "plan": past[2]},
            "future_covariates": {"plan": future[:, 2]},
        }
        for past, future in zip(series, batch["future_values"], strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.stack(BaseChronosPipeline.from_pretrained(folder / "chronos2").predict(asked, steps))
    assert torch.allclose(quantiles(model, batch), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_each_covariate_counts_and_an_unknown_one_does_not(make_any: Make) -> None:
    model, data = make_any("chronos2", data=COVARIATES)
    batch = four_windows(data)
    assert batch["future_known_mask"].all()
    plain = quantiles(model, batch)
    for part, channel in (("past_values", 1), ("past_values", 2), ("future_values", 2)):
        other = {key: value.clone() for key, value in batch.items()}
        other[part][:, ::2, channel] += 1
        assert not torch.allclose(quantiles(model, other), plain, atol=1e-4), (part, channel)
    unknown = {key: value.clone() for key, value in batch.items()}
    unknown["future_known_mask"][:, 2:5, 2] = False
    spoilt = {key: value.clone() for key, value in unknown.items()}
    spoilt["future_values"][:, 2:5, 2] = 1e6
    assert torch.equal(quantiles(model, spoilt), quantiles(model, unknown))
    assert not torch.allclose(quantiles(model, unknown), plain, atol=1e-4)


def test_a_gap_in_a_known_column_is_told_to_the_model(folder: Path, tmp_path: Path, make_any: Make) -> None:
    table = tiny.series(rows=300)
    table.loc[table["timestamp"].dt.day == 12, "plan"] = None
    table.to_csv(tmp_path / "gap.csv", index=False)
    _, data = make_any("chronos2", data=COVARIATES | {"path": str(tmp_path / "gap.csv")})
    batch = data.test.__getitems__(range(len(data.test)))
    missing = ~batch["future_known_mask"]
    assert missing[..., 2].any()
    assert not missing[..., :2].any()


def test_levels_between_the_network_s_lie_on_the_line_between_them(
    folder: Path, tmp_path: Path, make_any: Make
) -> None:
    weights = load_file(tiny_weights.write_chronos2(tmp_path / "ordered") / "model.safetensors")
    for layer in ("output_layer", "residual_layer"):
        weights[f"output_patch_embedding.{layer}.weight"] *= 0.01
    weights["output_patch_embedding.residual_layer.bias"] = torch.arange(9.0).square().repeat_interleave(4) / 10
    save_file(weights, tmp_path / "ordered" / "model.safetensors", metadata={"format": "pt"})
    asked = [0.1, 0.25, 0.5, 0.75, 0.9]
    model, data = make_any("chronos2", tmp_path / "ordered", forecast={"quantiles": asked, "method": "quantile_head"})
    batch = four_windows(data)
    pipeline = BaseChronosPipeline.from_pretrained(tmp_path / "ordered")
    expected = torch.stack(pipeline.predict_quantiles(contexts(batch), 8, quantile_levels=asked)[0])
    assert (expected.diff(dim=-1) > 0).all()
    with torch.inference_mode():
        found = model.native_quantiles(batch)
    assert model.native_levels == tuple(asked)
    assert torch.allclose(found.transpose(1, 2), expected, rtol=1e-5)


@both
def test_many_series_go_through_in_parts(name: str, make_any: Make) -> None:
    model, data = make_any(name, data=TWO)
    batch = data.test.__getitems__([number % len(data.test) for number in range(140)])  # 280 series
    assert torch.allclose(
        quantiles(model, batch)[135:], quantiles(model, {k: v[135:] for k, v in batch.items()}), rtol=1e-4
    )


# Losses


@pytest.mark.parametrize("steps", [5, tiny_weights.NATIVE])
@both
def test_the_loss_is_the_library_s(name: str, steps: int, folder: Path, make_any: Make) -> None:
    """Bolt sums over the steps; Chronos-2 sums over levels and takes the mean over steps of whole patches."""
    model, data = make_any(name, model={"prediction_length": steps}, evaluation={"horizons": ["2h"]}, data=TWO)
    batch = four_windows(data)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    network = BaseChronosPipeline.from_pretrained(folder / name).model.eval()
    past, future = contexts(batch).reshape(8, -1), batch["future_values"].transpose(1, 2).reshape(8, -1)
    with torch.inference_mode():
        if name == "chronos_bolt":
            factor, theirs = steps, network(past, target=future).loss
        else:
            patches = -(-steps // 4)
            factor = 9 * steps / (4 * patches)
            groups = torch.arange(4).repeat_interleave(2)
            theirs = network(past, group_ids=groups, future_target=future, num_output_patches=patches).loss
    assert weights.tolist() == [2 * steps] * 4
    assert (totals.sum() / weights.sum() * factor).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_loss_of_chronos2_is_of_its_targets(folder: Path, make_any: Make) -> None:
    model, data = make_any("chronos2", data=COVARIATES)
    batch = four_windows(data)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    network = BaseChronosPipeline.from_pretrained(folder / "chronos2").model.eval()
    future = batch["future_values"].transpose(1, 2)
    target, known = torch.full_like(future, torch.nan), torch.full_like(future, torch.nan)
    target[:, 0], known[:, 2] = future[:, 0], future[:, 2]
    with torch.inference_mode():
        theirs = network(
            contexts(batch).reshape(12, -1),
            group_ids=torch.arange(4).repeat_interleave(3),
            future_covariates=known.reshape(12, -1),
            future_target=target.reshape(12, -1),
            num_output_patches=2,
        ).loss
    assert (totals.sum() / weights.sum() * 9 / 3).item() == pytest.approx(theirs.item(), rel=1e-5)  # 1 of 3 rows


@both
def test_training_looks_at_the_steps_of_one_pass(name: str, make_any: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="tstune"):
        model, data = make_any(name, model={"prediction_length": BEYOND}, evaluation={"horizons": ["2h"]})
    assert "training looks at the first 8 steps only" in caplog.text
    batch = four_windows(data)
    assert model.window_weights(batch).tolist() == [8] * 4
    assert model.window_losses(model.module, batch)[1].tolist() == [8] * 4


@both
def test_another_loss_is_told_to_have_no_say(name: str, make_any: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="tstune"):
        make_any(name, training={"loss": "huber"})
    assert "training.loss=huber has no say here" in caplog.text


def test_no_states_are_projected_for_one_query(folder: Path, make_any: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses and gradients; with adapters and partitioned weights the library's own way."""
    model, data = make_any("chronos_bolt", data=TWO)
    plain = BaseChronosPipeline.from_pretrained(folder / "chronos_bolt").model.eval()
    batch = four_windows(data, gaps=True)
    past, future = contexts(batch).reshape(8, -1), batch["future_values"].transpose(1, 2).reshape(8, -1)
    crossed = [part for name, part in model.network.named_modules() if name.endswith("EncDecAttention")]
    projected = []
    for layer in (part.k for part in crossed):
        layer.register_forward_hook(lambda *_: projected.append(True))
    for network in (plain, model.network.requires_grad_(True)):
        network(past, target=future).loss.backward()
    assert not projected
    for (name, theirs), ours in zip(plain.named_parameters(), model.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * theirs.grad.abs().max(), msg=name)

    fast = quantiles(model, batch)
    for part in crossed:
        monkeypatch.setattr(part.k.weight, "ds_id", 0, raising=False)  # DeepSpeed's mark
    assert torch.allclose(quantiles(model, batch), fast, rtol=1e-5, atol=1e-5 * fast.abs().max())
    assert len(projected) == len(crossed) > 0


# Tuning


@both
def test_long_forecasts_go_through_adapters_too(name: str, make_any: Make) -> None:
    sections = {"model": {"prediction_length": BEYOND}, "evaluation": {"horizons": ["2h"]}}
    adapted, data = make_any(name, tuning={"mode": "lora"}, **sections)
    plain, _ = make_any(name, **sections)
    batch = four_windows(data)
    new = quantiles(adapted, batch)  # an adapter begins with no effect
    assert torch.allclose(new, quantiles(plain, batch), rtol=1e-4, atol=1e-4 * new.abs().max().item())
    for key, value in adapted.network.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.1)
    assert not torch.allclose(new, quantiles(adapted, batch), rtol=1e-2)


# Files


@both
def test_the_library_loads_a_tuned_adapter(name: str, folder: Path, make_any: Make, tmp_path: Path) -> None:
    """Merged; whole networks are compared tensor by tensor in the conformance suite."""
    model, data = make_any(name, tuning={"mode": "lora"}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    batch = four_windows(data)
    for pipeline_class in (PIPELINES[name], BaseChronosPipeline):
        pipeline = pipeline_class.from_pretrained(tmp_path / "run" / "model")
        assert type(pipeline) is PIPELINES[name]
        series = contexts(batch)
        expected = pipeline.predict(series[:, 0], 8)[:, None] if name == "chronos_bolt" else pipeline.predict(series, 8)
        expected = expected if name == "chronos_bolt" else torch.stack(expected)
        found = quantiles(model, batch)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


# Refusals


@both
def test_refusals_name_the_key_and_the_fix(name: str, tmp_path: Path, make_any: Make) -> None:
    short = tiny_weights.WRITERS[name](tmp_path / "short", chronos={"context_length": 16})
    with pytest.raises(
        CheckpointError, match=r"reads at most 16 steps, the run asks for 32; set model\.context_length=16"
    ):
        make_any(name, short)
    median = tiny_weights.WRITERS[name](tmp_path / "median", chronos={"quantiles": [0.1, 0.9]})
    with pytest.raises(CheckpointError, match=r"hold the median, 0\.5"):
        make_any(name, median)
    with pytest.raises(ConfigError, match=r"model\.pretrained is null, but Chronos-.* takes its architecture"):
        make_any(name, model={"pretrained": None}, tuning={"mode": None})
    with pytest.raises(ConfigError, match=r"forecast\.quantiles: 0\.05 lies outside 0\.1 to 0\.9"):
        make_any(name, forecast={"quantiles": [0.05, 0.5, 0.95], "method": "quantile_head"})


def test_levels_outside_can_be_calibrated_instead(make_any: Make) -> None:
    model, data = make_any("chronos_bolt", forecast={"quantiles": [0.05, 0.5, 0.95]}, training={"max_steps": 2})
    assert model.native_levels == tuple(tiny_weights.LEVELS)
    model.fit(data)
    assert model.quantile_levels == (0.05, 0.5, 0.95)


# The package


def test_importing_tstune_loads_no_family() -> None:
    code = (
        "import sys, tstune, tstune.models.registry as registry; registry.available_models();"
        "print(sorted({'torch', 'transformers', 'chronos', 'tsfm_public', 'lightgbm', 'peft'} & set(sys.modules)))"
    )
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    done = subprocess.run([sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
