"""The TensorBoard tracker: what it wrote is read back with TensorBoard's own reader."""

from __future__ import annotations

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.tracking.tensorboard_tracker import TensorBoardExperimentTracker

CONFIG = {"training": {"max_steps": 3}}


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def points(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def text(events, tag):
    return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


def hparams(events):
    tags = events.summary_metadata
    return {
        tag: HParamsPluginData.FromString(tags[tag].plugin_data.content)
        for tag in tags
        if tags[tag].plugin_data.plugin_name == "hparams"
    }


@pytest.fixture
def tracker(tmp_path):
    tracker = TensorBoardExperimentTracker(tmp_path)
    tracker.start_experiment("glucose", CONFIG, "run-1")
    return tracker


def test_a_whole_run(tracker, tmp_path, run_folder):
    tracker.log_params({"training.max_steps": 3, "flag": True, "none": None, "list": [1, 2], "name": "x"})
    tracker.log_params({"training.max_steps": 4})
    tracker.log_metrics({"train_loss": 0.1, "grad_norm": math.nan}, 1)
    tracker.log_metrics({"train_loss": 0.05}, 2)
    tracker.log_metrics({"test/fine_tuned/rmse@1h": 3.5, "test/fine_tuned/mase": None})
    tracker.log_artifact(run_folder / "metrics.json")
    tracker.log_model(run_folder, "model")
    tracker.log_figure(run_folder / "plots" / "loss.png", "plots/loss.png")
    assert tracker.end_experiment("FAILED") == "run-1"

    assert [path.name for path in tmp_path.iterdir()] == ["glucose"]
    assert [path.name for path in (tmp_path / "glucose").iterdir()] == ["run-1"], "no run of its own for hparams"
    events = read(tmp_path / "glucose" / "run-1")
    assert points(events, "train_loss") == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))]
    assert math.isnan(events.Scalars("grad_norm")[0].value)
    assert points(events, "test/fine_tuned/rmse@1h") == [(0, 3.5)]
    assert math.isnan(events.Scalars("test/fine_tuned/mase")[0].value)
    assert '"max_steps": 3' in text(events, "config")
    assert "| training.max_steps | 4 |" in text(events, "params")
    assert text(events, "artifacts/metrics.json") == str(run_folder / "metrics.json")
    assert text(events, "models/model") == str(run_folder)
    image = events.Images("plots/loss.png")[0]
    assert image.encoded_image_string == (run_folder / "plots" / "loss.png").read_bytes()
    assert (image.width, image.height) > (100, 100)

    plugin = hparams(events)
    given = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert {name: given[name].number_value for name in ("training.max_steps", "flag")} == {
        "training.max_steps": 4,
        "flag": 1,
    }
    assert {name: given[name].string_value for name in ("none", "list", "name")} == {
        "none": "null",
        "list": "[1, 2]",
        "name": "x",
    }
    metrics = plugin["_hparams_/experiment"].experiment.metric_infos
    names = ["test/fine_tuned/rmse@1h", "test/fine_tuned/mase"]
    assert [metric.name.tag for metric in metrics] == names, "without a headline: all"
    failure = 2
    assert plugin["_hparams_/session_end_info"].session_end_info.status == failure


def test_a_run_goes_on_in_its_folder(tracker, tmp_path):
    tracker.log_metrics({"train_loss": 1.0}, 1)
    tracker.end_experiment("KILLED")
    again = TensorBoardExperimentTracker(**tracker.settings())
    again.start_experiment("glucose", CONFIG, "run-1")
    again.log_metrics({"train_loss": 0.5}, 2)
    again.end_experiment()
    assert sorted(points(read(tmp_path / "glucose" / "run-1"), "train_loss")) == [(1, 1.0), (2, 0.5)]


def test_what_is_not_a_picture(tracker, run_folder):
    with pytest.raises(TrackingError, match="is not a PNG file"):
        tracker.log_figure(run_folder / "metrics.json", "plots/loss.png")


def test_misuse(tmp_path):
    tracker = TensorBoardExperimentTracker.from_config(TrackingSection(folder=str(tmp_path)))
    assert tracker.log_dir == tmp_path / "tensorboard"
    with pytest.raises(TrackingError, match="call start_experiment first"):
        tracker.log_metrics({"a": 1.0}, 1)
    with pytest.raises(TrackingError, match="leads out of"):
        tracker.start_experiment("../elsewhere", CONFIG)
    assert not list(tmp_path.iterdir())
