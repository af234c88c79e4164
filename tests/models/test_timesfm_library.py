"""What transformers computes with TimesFM 2.5 from the same weights and windows: forecasts, losses, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from building import Make, four_windows
from support import tiny_weights
from transformers import TimesFm2_5ModelForPrediction

from tstune.errors import CheckpointError
from tstune.models.timesfm import TimesFMForecaster, bridged

Batch = dict[str, torch.Tensor]
TWO = {"target_columns": ["load", "dose"]}
LEVELS = tiny_weights.LEVELS


@pytest.fixture
def make(make_any: Make) -> Make:
    """A built model and windows of it."""

    return lambda pretrained=None, **sections: make_any("timesfm", pretrained, **sections)


def prepared(batch: Batch) -> list[torch.Tensor]:
    """Every series as TimesFM's own preprocessing makes it: without a missing beginning, gaps interpolated."""
    series = torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan).transpose(1, 2).flatten(0, 1)
    found = []
    for values in series.numpy():
        read = np.flatnonzero(~np.isnan(values))
        found.append(torch.from_numpy(np.interp(np.arange(read[0], len(values)), read, values[read])).float())
    return found


def theirs(network: TimesFm2_5ModelForPrediction, batch: Batch, steps: int, **options: object) -> torch.Tensor:
    """[batch, steps, targets, levels] of the library."""
    with torch.inference_mode():
        found = network.eval()(past_values=prepared(batch), forecast_context_len=32, **options).full_predictions
    return found.view(len(batch["past_values"]), -1, *found.shape[1:])[:, :, :steps, 1:].transpose(1, 2)


def ours(model: TimesFMForecaster, batch: Batch) -> torch.Tensor:
    """[batch, steps, targets, levels]."""
    with torch.inference_mode():
        return model._values(batch)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


# Forecasts


@pytest.mark.parametrize("steps", [5, tiny_weights.HORIZON])
@pytest.mark.parametrize("gaps", [False, True])
def test_forecasts_are_the_library_s(steps: int, gaps: bool, folder: Path, make: Make) -> None:
    model, data = make(model={"prediction_length": steps}, data=TWO)
    batch = four_windows(data, gaps)
    network = TimesFm2_5ModelForPrediction.from_pretrained(folder / "timesfm")
    expected = theirs(network, batch, steps)
    found = ours(model, batch)
    assert found.shape == (4, steps, 2, 9)
    assert close(found, expected)
    with torch.inference_mode():
        mean = network(past_values=prepared(batch), forecast_context_len=32).mean_predictions.view(4, 2, -1)
        assert close(model.forecast(batch), mean[..., :steps].transpose(1, 2)), "their point forecast is the median"


@pytest.mark.parametrize(
    "changes",
    [
        {"force_flip_invariance": False},
        {"use_continuous_quantile_head": False},
        {"output_quantile_len": 12},
        {"num_key_value_heads": 1},
    ],
)
def test_forecasts_of_other_architectures(changes: dict, tmp_path: Path, make: Make) -> None:
    model, data = make(tiny_weights.write_timesfm(tmp_path / "other", **changes))
    network = TimesFm2_5ModelForPrediction.from_pretrained(tmp_path / "other")
    assert close(ours(model, four_windows(data)), theirs(network, four_windows(data), 8))


def test_a_context_of_odd_length_is_padded_in_front(folder: Path, make: Make) -> None:
    model, data = make(model={"context_length": 29})
    batch = four_windows(data)
    assert batch["past_values"].shape[1] == 29
    network = TimesFm2_5ModelForPrediction.from_pretrained(folder / "timesfm")
    assert close(ours(model, batch), theirs(network, batch, 8))


def test_only_a_series_without_negative_readings_is_kept_from_negative_forecasts(folder: Path, make: Make) -> None:
    """The library looks at the least reading of the whole batch."""
    model, data = make()
    batch = four_windows(data)
    batch["past_values"] -= batch["past_values"].amin(dim=1, keepdim=True)  # down to 0, forecasts below
    batch["past_values"][1] -= 1
    network = TimesFm2_5ModelForPrediction.from_pretrained(folder / "timesfm")
    free = theirs(network, batch, 8, truncate_negative=False)
    assert (free[[0, 1]].amin(dim=(1, 2, 3)) < 0).all()
    assert close(theirs(network, batch, 8), free), "one negative reading frees all of the batch"
    found = ours(model, batch)
    assert close(found[1], free[1])
    assert close(found[[0, 2, 3]], free[[0, 2, 3]].clamp(min=0))
    for row in range(4):
        single = {key: value[row, None] for key, value in batch.items()}
        assert close(found[row], theirs(network, single, 8)[0])


def test_gaps_are_bridged_as_numpy_does() -> None:
    random = np.random.default_rng(0)
    series = torch.from_numpy(random.normal(size=(40, 17)).astype("float32"))
    series[torch.from_numpy(random.random((40, 17)) < 0.6)] = torch.nan
    series[3] = torch.nan
    filled, leading = bridged(series)
    for values, found, lacks in zip(series.numpy(), filled.numpy(), leading.numpy(), strict=True):
        read = np.flatnonzero(~np.isnan(values))
        if not len(read):
            assert lacks.all()
            assert (found == 0).all()
            continue
        assert np.flatnonzero(~lacks)[0] == read[0]
        assert lacks.sum() == read[0]
        assert found[~lacks] == pytest.approx(np.interp(np.flatnonzero(~lacks), read, values[read]), rel=1e-5, abs=1e-6)


# Losses


def test_the_loss_is_twice_the_pinball_of_their_forecast(folder: Path, make: Make) -> None:
    """Theirs adds the squared error of the median, and below the median takes each column for the next level."""
    model, data = make(data=TWO)
    batch = four_windows(data)
    network = TimesFm2_5ModelForPrediction.from_pretrained(folder / "timesfm").eval()
    past, future = prepared(batch), batch["future_values"].transpose(1, 2).reshape(8, -1)
    stacked = torch.stack(past)
    loc, scale = stacked.mean(dim=1, keepdim=True), stacked.std(dim=1, keepdim=True)
    with torch.inference_mode():
        totals, weights = model.window_losses(model.module, batch)
        given = network(past_values=past, future_values=future, forecast_context_len=32, truncate_negative=False)
    columns = (given.full_predictions - loc[..., None]) / scale[..., None]
    error = ((future - loc) / scale)[..., None] - columns

    def pinball(which: list[int]) -> torch.Tensor:
        taus = torch.tensor(LEVELS)
        return torch.maximum(taus * error[..., which], (taus - 1) * error[..., which]).mean()

    assert weights.tolist() == [16] * 4
    assert (totals.sum() / weights.sum()).item() == pytest.approx(2 * pinball([*range(1, 10)]).item(), rel=1e-5)
    shifted = error[..., 5].square().mean() + pinball([0, 1, 2, 3, 4, 6, 7, 8, 9])
    assert given.loss.item() == pytest.approx(shifted.item(), rel=1e-5)


def test_the_library_loads_a_tuned_adapter(folder: Path, make: Make, tmp_path: Path) -> None:
    """Merged; whole networks are compared tensor by tensor in the conformance suite."""
    model, data = make(tuning={"mode": "lora"}, training={"max_steps": 2, "eval_every_steps": 2})
    model.fit(data, output_dir=tmp_path / "run")
    network = TimesFm2_5ModelForPrediction.from_pretrained(tmp_path / "run" / "model")
    assert close(ours(model, four_windows(data)), theirs(network, four_windows(data), 8))


# Refusals


def test_refusals_name_the_key_and_the_fix(tmp_path: Path, make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"forecasts 8 steps.* asks for 9; set model\.prediction_length=8"):
        make(model={"prediction_length": 9})
    short = tiny_weights.write_timesfm(tmp_path / "short", context_length=16)
    with pytest.raises(CheckpointError, match=r"reads at most 16 steps, the run asks for 32"):
        make(short)
    mean = tiny_weights.write_timesfm(tmp_path / "mean", decode_index=0)
    with pytest.raises(CheckpointError, match=r"decodes number 0; they must ascend, and that number must be the med"):
        make(mean)
