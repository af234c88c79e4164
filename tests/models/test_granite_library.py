"""What granite-tsfm computes from the same weights and windows with FlowState and PatchTST-FM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from building import Make, four_windows
from support import tiny, tiny_weights
from tsfm_public import FlowStateForPrediction, PatchTSTFMForPrediction
from tsfm_public.models.flowstate.utils.utils import get_fixed_factor
from tsfm_public.models.patchtst_fm.modeling_patchtst_fm import PatchTSTFMForPretraining

from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel as Model
from tstune.models.flowstate import scale_factor

NAMES = ("flowstate", "patchtst_fm")
LIBRARY = {"flowstate": FlowStateForPrediction, "patchtst_fm": PatchTSTFMForPrediction}
TWO = {"target_columns": ["load", "dose"]}
HOURS = {"horizons": ["2h"]}
both = pytest.mark.parametrize("name", NAMES)
Batch = dict[str, torch.Tensor]


def contexts(batch: Batch) -> torch.Tensor:
    """[batch * channels, context, 1] as the library takes them."""
    known = torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)
    return known.transpose(1, 2).reshape(-1, known.shape[1], 1)


def quantiles(model: Model, batch: Batch) -> torch.Tensor:
    """[batch * targets, levels, steps], the library's order."""
    with torch.inference_mode():
        return model._values(batch).permute(0, 2, 3, 1).flatten(0, 1)


def library_quantiles(network: torch.nn.Module, series: torch.Tensor, steps: int) -> torch.Tensor:
    """[series, levels, steps]; PatchTST-FM takes series without what is missing before their first reading."""
    network.eval()
    with torch.inference_mode():
        if isinstance(network, FlowStateForPrediction):
            return network(series, prediction_length=steps).quantile_outputs[..., 0]
        begun = [one[int((~one[:, 0].isnan()).float().argmax()) :] for one in series]
        return torch.stack(network(begun, prediction_length=steps).quantile_outputs)[..., 0]


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


# Forecasts


@both
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("steps", [5, 8, 19, 30])
def test_forecasts_are_those_of_the_library(name: str, steps: int, gaps: bool, folder: Path, make_any: Make) -> None:
    """Longer ones than a pass of FlowState's decoder too; PatchTST-FM has them in one pass."""
    model, data = make_any(name, model={"prediction_length": steps}, evaluation=HOURS, data=TWO)
    batch = four_windows(data, gaps)
    expected = library_quantiles(LIBRARY[name].from_pretrained(folder / name), contexts(batch), steps)
    found = quantiles(model, batch)
    assert found.shape == (8, len(model.module.levels), steps)
    if name == "flowstate":  # the library takes its quantiles for a sample, and the sample's quantiles for quantiles
        assert (found.diff(dim=1) >= 0).all()
        assert close(found[:, 4], expected[:, 4])
        found = torch.quantile(found, torch.tensor(model.module.levels), dim=1).transpose(0, 1)
    assert close(found, expected)
    with torch.inference_mode():
        median = expected[:, model.module.levels.index(0.5)].view(4, 2, steps).transpose(1, 2)
        assert close(model.forecast(batch), median)


@pytest.mark.parametrize("factor", [0.5, 1.6, 2.0])
@pytest.mark.parametrize("steps", [5, 12, 20])
def test_flowstate_at_another_sampling_rate(factor: float, steps: int, folder: Path, make_any: Make) -> None:
    section = {"context_length": 16, "prediction_length": steps, "scale_factor": factor}
    model, data = make_any("flowstate", model=section, evaluation=HOURS)
    batch, network = four_windows(data), FlowStateForPrediction.from_pretrained(folder / "flowstate").eval()
    with torch.inference_mode():
        expected = network(contexts(batch), prediction_length=steps, scale_factor=factor).prediction_outputs
        assert expected.shape == (4, steps, 1)
        assert close(model.forecast(batch), expected)
        other = network(contexts(batch), prediction_length=steps).prediction_outputs
    assert not torch.allclose(expected, other, rtol=1e-3)


def test_a_length_that_the_library_cuts_short(folder: Path, make_any: Make) -> None:
    """One step short of whole passes it gives a pass less; ours holds to its rule: the last state speaks to the end."""
    network = FlowStateForPrediction.from_pretrained(folder / "flowstate").eval()
    model, data = make_any("flowstate", model={"prediction_length": 15}, evaluation=HOURS)
    with torch.inference_mode():
        theirs = network(contexts(four_windows(data)), prediction_length=15)
        assert theirs.prediction_outputs.shape[1] == 8, "if this is 15 the library was mended"
        states, norm = theirs.decoder_hidden_state[..., 0], network.model.norm
        values = torch.cat((states[0], states[7, ..., -7:]), dim=-1).sort(dim=1).values[:, 4]
        expected = values * norm.stdev[0, :, 0] + norm.mean[0, :, 0]
        assert close(model.forecast(four_windows(data))[..., 0], expected)


@pytest.mark.parametrize(
    ("frequency", "alias"),
    [
        *(("10s", "10S"), ("4s", "4S"), ("min", "T"), ("5min", "5T"), ("15min", "15T"), ("h", "H"), ("6h", "6H")),
        *(("D", "D"), ("2D", "2D"), ("W-SUN", "W-SUN"), ("MS", "M"), ("ME", "M"), ("QE-DEC", "Q"), ("BQE-DEC", "Q")),
    ],
)
def test_the_scale_factor_is_that_of_the_library(frequency: str, alias: str) -> None:
    assert scale_factor(frequency) == pytest.approx(get_fixed_factor(alias), rel=1e-12)


def test_the_scale_factor_of_what_the_library_does_not_name() -> None:
    assert scale_factor("2h") == 2.0
    assert scale_factor("2MS") == 4.0
    with pytest.raises(ConfigError, match="no season is known for steps of 'YE'"):
        scale_factor("YE")


def test_the_scale_factor_comes_from_the_data_and_is_saved(make_any: Make, tmp_path: Path) -> None:
    table = tiny.series(rows=300)
    table["timestamp"] = table["timestamp"].min() + (table["timestamp"] - table["timestamp"].min()) / 2
    table.to_csv(tmp_path / "half.csv", index=False)
    sections = {"data": {"path": str(tmp_path / "half.csv")}, "model": {"prediction_length": 16}}
    model, data = make_any("flowstate", **sections, evaluation=HOURS)
    assert model.module.scale_factor == 0.5
    assert model.module.patch_steps == 16
    model.save(tmp_path / "run")
    network = FlowStateForPrediction.from_pretrained(tmp_path / "run" / "model").eval()
    assert network.config.scale_factor == 0.5
    with torch.inference_mode():
        expected = network(contexts(four_windows(data))).prediction_outputs  # its own length: a pass of its decoder
        assert close(model.forecast(four_windows(data)), expected)


def test_a_shorter_history_is_a_shorter_context(make_any: Make) -> None:
    """PatchTST-FM: what is missing before the first reading does not exist."""
    model, data = make_any("patchtst_fm")
    short, _ = make_any("patchtst_fm", model={"context_length": 20})
    batch = four_windows(data)
    batch["past_observed_mask"][:, :12] = False
    cut = batch | {name: batch[name][:, 12:] for name in ("past_values", "past_observed_mask")}
    assert close(quantiles(model, batch), quantiles(short, cut))


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_stride": 2, "patch_loss_windowing": "hamming"},
        {"block_type": "conformer", "prehead_norm": True, "mlp_type": "swiglu"},
        {"block_type": "conformer", "conv_kernel_size": [0, 3]},
        {"use_pruning": False, "num_quantile": 21, "randomize_cpm": True},
    ],
)
def test_every_patchtst_fm(changes: dict, make_any: Make, tmp_path: Path) -> None:
    checkpoint = tiny_weights.write_patchtst_fm(tmp_path / "other", **changes)
    model, data = make_any("patchtst_fm", checkpoint)
    batch, network = four_windows(data), PatchTSTFMForPrediction.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        expected = network(contexts(batch), prediction_length=8).quantile_outputs[..., 0]
    assert close(quantiles(model, batch), expected)
    kinds = {"TransformerBlock"} if changes.get("conv_kernel_size") else set()
    kinds |= {"ConformerBlock"} if "block_type" in changes else {"TransformerBlock"}
    assert set(model.block_classes) == kinds, "FSDP shards these"


@pytest.mark.parametrize("changes", [{"mlp_type": "transformer", "decoder_type": "hlegs"}, {"out_gating": True}])
def test_every_flowstate(changes: dict, make_any: Make, tmp_path: Path) -> None:
    checkpoint = tiny_weights.write_flowstate(tmp_path / "other", **changes)
    model, data = make_any("flowstate", checkpoint, tuning={"mode": "lora"})
    network = FlowStateForPrediction.from_pretrained(checkpoint).eval()
    assert close(
        quantiles(model, four_windows(data))[:, 4], library_quantiles(network, contexts(four_windows(data)), 8)[:, 4]
    )
    adapted = {key.rpartition(".")[2] for key, part in model.network.named_modules() if hasattr(part, "lora_A")}
    assert adapted == ({"w1", "w2", "w3", "lin"} if "mlp_type" in changes else {"out", "output_gate", "lin"})


@both
def test_series_at_once_are_limited(name: str, make_any: Make) -> None:
    """On a GPU thousands of them would take tens of gigabytes."""
    model, _ = make_any(name, data=TWO)
    sized, _ = make_any(name, data=TWO, evaluation={"batch_size": 300})
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert model.evaluation_batch_size(device) == 64
        assert sized.evaluation_batch_size(device) == 300


# Losses


def test_the_loss_of_patchtst_fm_is_the_library_s(folder: Path, make_any: Make) -> None:
    """Times the root of the number of levels: it sums over them and divides by the root."""
    model, data = make_any("patchtst_fm", data=TWO)
    batch = four_windows(data, gaps=True)
    batch["past_observed_mask"][0, :13] = True  # missing before the first reading is padding, tested by the forecasts
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
    network = PatchTSTFMForPretraining.from_pretrained(folder / "patchtst_fm").eval()
    past = torch.nan_to_num(contexts(batch)[..., 0])
    future = batch["future_values"].transpose(1, 2).flatten(0, 1)
    pad = torch.zeros(8, 64 - 32 - 8)
    values, missing = torch.cat((pad, past, future), dim=1), contexts(batch)[..., 0].isnan()
    ahead, none = torch.ones_like(future, dtype=torch.bool), torch.zeros_like(future, dtype=torch.bool)
    with torch.inference_mode():
        theirs = network(
            values,
            pred_mask=torch.cat((pad.bool(), torch.zeros_like(missing), ahead), dim=1),
            miss_mask=torch.cat((pad.bool(), missing, none), dim=1),
            pad_mask=torch.cat((~pad.bool(), torch.zeros_like(missing), none), dim=1),
        ).loss
    assert weights.tolist() == [16] * 4
    assert (totals.sum() / weights.sum() * 99**0.5).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_loss_of_flowstate_is_pinball_in_its_space(folder: Path, make_any: Make) -> None:
    """The library has none; its space is that of its own causal statistics, read here from its network."""
    model, data = make_any("flowstate", model={"prediction_length": 19}, evaluation=HOURS)
    batch = four_windows(data, gaps=True)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
        raw, _, _ = model.module(batch)
    network = FlowStateForPrediction.from_pretrained(folder / "flowstate").eval()
    library_quantiles(network, contexts(batch), 19)
    norm = network.model.norm
    loc, scale = (value.flatten(1)[0 if value.shape[0] == 1 else -1][:4] for value in (norm.mean, norm.stdev))
    truth = (batch["future_values"][..., 0] - loc.view(-1, 1)) / scale.view(-1, 1)
    levels = torch.arange(1, 10) / 10
    error = truth[..., None] - raw[:, :, 0]
    expected = 2 * torch.where(error > 0, levels * error, (levels - 1) * error).mean(dim=-1).sum(dim=1)
    assert weights.tolist() == [19] * 4, "every step teaches, beyond one pass of the decoder too"
    assert torch.allclose(totals, expected, rtol=1e-4)


# Files


@both
def test_the_library_loads_a_tuned_adapter(name: str, folder: Path, make_any: Make, tmp_path: Path) -> None:
    """Merged; whole networks are compared tensor by tensor in the conformance suite."""
    model, data = make_any(name, tuning={"mode": "lora"}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    batch, saved = four_windows(data), tmp_path / "run" / "model"
    expected = library_quantiles(LIBRARY[name].from_pretrained(saved), contexts(batch), 8)
    middle = model.module.levels.index(0.5)
    assert close(quantiles(model, batch)[:, middle], expected[:, middle])


# Refusals


@pytest.mark.parametrize(
    ("name", "changes", "sections", "said"),
    [
        ("flowstate", {}, {"context_length": 65}, "reads at most 64 steps, the run asks for 65"),
        ("flowstate", {}, {"prediction_length": 50}, "reads at most 22 steps, the run asks for 32"),
        ("flowstate", {}, {"prediction_length": 80}, "leaves no room for a context"),
        ("flowstate", {}, {"scale_factor": 9}, "set it to 8 or less"),
        ("flowstate", {"quantiles": [0.1, 0.4, 0.9]}, {}, "must ascend and hold the median"),
        ("flowstate", {"with_missing": False}, {}, "cannot tell a gap from a reading"),
        ("patchtst_fm", {}, {"context_length": 57}, "reads at most 56 steps, the run asks for 57"),
        ("patchtst_fm", {}, {"prediction_length": 64}, "leaves none for the context"),
        ("patchtst_fm", {"num_quantile": 201}, {}, "must ascend and hold the median"),
        ("patchtst_fm", {"num_quantile": 18}, {}, "must ascend and hold the median"),
    ],
)
def test_what_a_checkpoint_cannot_do(
    name: str, changes: dict, sections: dict, said: str, make_any: Make, tmp_path: Path
) -> None:
    checkpoint = tiny_weights.WRITERS[name](tmp_path / "other", **changes)
    with pytest.raises((CheckpointError, ConfigError), match=said) as error:
        make_any(name, checkpoint, model=sections, evaluation=HOURS)
    assert "\n" not in str(error.value)


def test_complex_states_have_no_half_precision(make_any: Make) -> None:
    with pytest.raises(ConfigError, match=r"set training\.mixed_precision=no"):
        make_any("flowstate", training={"mixed_precision": "bf16"})
    model, data = make_any("flowstate")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="launch without"):
        model.window_losses(model.module, four_windows(data))


def test_patchtst_fm_in_half_precision(make_any: Make) -> None:
    model, data = make_any("patchtst_fm")
    batch = four_windows(data)
    whole = quantiles(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = quantiles(model, batch)
        totals, _ = model.window_losses(model.module, batch)
    assert half.dtype == totals.dtype == torch.float32
    assert not torch.equal(half, whole)
    assert torch.allclose(half, whole, rtol=0.05, atol=0.5)
