"""Forecasts: their units and type, saved models, gaps, the frequency prefix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from building import built
from safetensors.torch import load_file
from support import tiny
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from tstune.errors import CheckpointError, ConfigError
from tstune.models.ttm import TTMForecaster


@pytest.fixture
def trained(make, tmp_path: Path) -> TTMForecaster:
    model = make()
    model.fit(output_dir=tmp_path / "run")
    return model


def test_original_units(make, tmp_path: Path) -> None:
    """Data in thousandths: the same forecasts, a thousand times larger, and the same scaled errors."""
    frame = tiny.series()
    grams = frame.assign(load=frame["load"] * 1000)
    forecasts, metrics = [], []
    for data in (frame, grams):
        model = make()
        metrics.append(model.fit(data)["metrics"]["fine_tuned"])
        forecasts.append(model.predict(data)["load"])
    np.testing.assert_allclose(forecasts[1], forecasts[0] * 1000, rtol=1e-3)
    for name in ("rmse", "mae", "rmse@1h"):
        assert metrics[1][name] == pytest.approx(metrics[0][name] * 1000, rel=1e-3)
    for name in ("mse_scaled", "mae_scaled", "mase"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-3)


def test_unscaled_data_give_the_same_zero_shot_forecast(make) -> None:
    """TTM normalises every window itself, so without mixing channels the scaler cannot matter."""
    frame = tiny.series()
    scaled, plain = (built(make(data={"scaling": scaling})).predict(frame)["load"] for scaling in ("standard", "none"))
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_a_future_that_is_not_read_is_said(make, heard: pytest.LogCaptureFixture) -> None:
    model, frame = built(make()), tiny.series()
    expected = model.predict(frame)
    assert "known future" not in heard.text
    pd.testing.assert_frame_equal(model.predict(frame, future=frame.tail(tiny.PREDICTION)), expected)
    assert "the known future is not read: this model was trained without data.control_columns" in heard.text


def test_saved_model_is_a_checkpoint_to_start_from(trained: TTMForecaster, make, tmp_path: Path) -> None:
    model = make(tmp_path / "run" / "model", tuning={"mode": "zero_shot"})
    scores = model.fit()["metrics"]["zero_shot"]
    tuned = tiny.read_json(tmp_path / "run" / "metrics.json")["test"]["fine_tuned"]
    assert scores == pytest.approx(tuned, rel=1e-5)


def test_evaluate_repeats_the_scores_of_the_run(trained: TTMForecaster, tmp_path: Path) -> None:
    written = tiny.read_json(tmp_path / "run" / "metrics.json")["test"]["fine_tuned"]
    assert trained.evaluate() == written
    assert TTMForecaster.load(tmp_path / "run").evaluate() == pytest.approx(written, rel=1e-6)
    validation = trained.evaluate(part="validation")
    assert validation["num_windows"] == 82
    assert validation["mse_scaled"] == pytest.approx(
        tiny.read_json(tmp_path / "run" / "environment.json")["training"]["best_validation_loss"], rel=1e-5
    )
    assert trained.evaluate(part="train")["num_windows"] == 402
    assert trained.evaluate(tiny.series(rows=500))["num_windows"] == 2 * (100 - 39)


def test_a_model_without_weights_says_so(make) -> None:
    with pytest.raises(ConfigError, match=r"no weights yet: call fit\(\) or TTMForecaster.load"):
        make().predict(tiny.series())


@pytest.mark.parametrize("name", ["config.yaml", "preprocessor.json", "model/model.safetensors", "model/config.json"])
def test_load_needs_every_file(name: str, trained: TTMForecaster, tmp_path: Path) -> None:
    (tmp_path / "run" / name).unlink()
    with pytest.raises(CheckpointError, match=Path(name).name):
        TTMForecaster.load(tmp_path / "run")


def test_load_needs_every_tensor(trained: TTMForecaster, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "run" / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("head.base_forecast_block.bias")
    save_file(tensors, path, metadata={"format": "pt"})
    (tmp_path / "run" / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match=r"head\.base_forecast_block\.bias"):
        TTMForecaster.load(tmp_path / "run")


class TestGaps:
    """Readings that are missing from the history of a forecast."""

    @staticmethod
    def with_gap(first: int, last: int, value: float | None = None) -> pd.DataFrame:
        frame = tiny.series(items=("a",))
        frame.loc[first:last, "load"] = value
        return frame

    def test_long_gap_is_masked(self, trained: TTMForecaster) -> None:
        whole = trained.predict(tiny.series(items=("a",)))
        gap = trained.predict(self.with_gap(375, 385))
        assert np.isfinite(gap["load"]).all()
        assert gap["timestamp"].equals(whole["timestamp"])
        assert not np.allclose(gap["load"], whole["load"], rtol=1e-4)
        assert gap["load"].between(5, 40).all()

    def test_rows_that_are_not_there_are_a_gap_too(self, trained: TTMForecaster) -> None:
        frame = self.with_gap(375, 385)
        pd.testing.assert_frame_equal(trained.predict(frame.dropna()), trained.predict(frame), check_exact=True)

    def test_almost_everything_missing(self, trained: TTMForecaster) -> None:
        forecast = trained.predict(self.with_gap(368, 398))
        assert np.isfinite(forecast["load"]).all()

    def test_short_gap_is_interpolated(self, make) -> None:
        model = make(data={"max_gap": "2h"}, training={"max_steps": 1})
        model.fit()
        frame = self.with_gap(380, 381)
        line = frame.assign(load=frame["load"].interpolate())
        np.testing.assert_allclose(model.predict(frame)["load"], model.predict(line)["load"], rtol=1e-6)

    def test_the_forecast_starts_after_the_last_reading(self, trained: TTMForecaster) -> None:
        forecast = trained.predict(self.with_gap(397, 399))
        assert forecast["timestamp"].iloc[0] == pd.Timestamp("2024-01-17 13:00")


class TestFrequencyPrefix:
    """Checkpoints that were trained with a token for the sampling rate."""

    @pytest.fixture
    def prefixed(self, tmp_path: Path) -> Path:
        size = max(DEFAULT_FREQUENCY_MAPPING.values()) + 1
        return tiny.write_checkpoint(
            tmp_path / "prefixed", resolution_prefix_tuning=True, frequency_token_vocab_size=size
        )

    def test_runs(self, prefixed: Path, make, tmp_path: Path) -> None:
        model = make(prefixed)
        results = model.fit(output_dir=tmp_path / "run")
        assert results["parameters"]["fresh_tensors"] == []
        assert list(results["metrics"]) == ["zero_shot", "fine_tuned", "average"]
        forecast = model.predict(tiny.series())
        loaded = TTMForecaster.load(tmp_path / "run")
        pd.testing.assert_frame_equal(loaded.predict(tiny.series()), forecast, check_exact=True)

    def test_the_token_is_that_of_the_grid(self, prefixed: Path, make) -> None:
        frame = tiny.series()
        hourly = built(make(prefixed)).predict(frame)["load"]
        start = frame["timestamp"].min()
        hours = (frame["timestamp"] - start) / pd.Timedelta("1h")
        tokens = []
        for step in ("5min", "15min", "7min"):
            other = frame.assign(timestamp=start + hours * pd.Timedelta(step))
            model = make(prefixed)
            judged = model.config.evaluation.model_copy(update={"horizons": []})  # an hour is no number of 7 minutes
            model.config = model.config.model_copy(update={"evaluation": judged})
            model.build(model.prepare(other).preprocessor)
            forecast = model.predict(other)
            assert forecast["timestamp"].diff().iloc[1] == pd.Timedelta(step)
            tokens.append(forecast["load"])
        everything = [hourly, *tokens]
        assert len(everything) == 4
        for index, one in enumerate(everything):
            assert not any(np.allclose(one, two, rtol=1e-6) for two in everything[index + 1 :])

    def test_a_rate_the_checkpoint_has_no_token_for(self, make, tmp_path: Path) -> None:
        """Five tokens end at 10min; an hourly grid takes the one for unknown rates, or is refused by name."""
        small = tiny.write_checkpoint(tmp_path / "small", resolution_prefix_tuning=True, frequency_token_vocab_size=5)
        try:
            forecast = built(make(small)).predict(tiny.series())
        except (ConfigError, CheckpointError) as error:
            assert "frequency" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(forecast["load"]).all()


def test_anchored_weeks_go_on_a_week_later():
    """A weekly series on Wednesdays, on a grid whose pandas name means Sundays."""
    from types import SimpleNamespace

    from tstune.models.predict import future_timestamps

    stamps = pd.date_range("2024-01-03", periods=5, freq="W-WED").to_numpy("datetime64[ns]")
    panel = SimpleNamespace(frequency="W", timestamps=stamps, segment_start=np.array([0, 5]))
    expected = pd.date_range("2024-02-07", periods=3, freq="W-WED")
    assert future_timestamps(panel, 3)[0].tolist() == expected.to_numpy("datetime64[ns]").tolist()
