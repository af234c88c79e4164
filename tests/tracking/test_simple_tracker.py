"""The file tracker: every file it writes, going on with a run, and names that lead elsewhere."""

from __future__ import annotations

import json
import math

import pytest
from support import tiny

from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.tracking.interfaces import inside
from tstune.tracking.simple_tracker import SimpleExperimentTracker

CONFIG = {"training": {"learning_rate": 0.001}, "output_dir": "runs/mine"}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def tracker(tmp_path):
    tracker = SimpleExperimentTracker(tmp_path / "files")
    assert tracker.start_experiment("glucose", CONFIG, "run-1") == "run-1"
    return tracker


def test_a_whole_run(tracker, tmp_path, run_folder):
    folder = tmp_path / "files" / "glucose" / "run-1"
    assert tiny.read_json(folder / "summary.json")["status"] == "RUNNING"
    tracker.log_params({"a": 1, "b": None, "c": [1, 2]})
    tracker.log_params({"a": 2})
    tracker.log_metrics({"train_loss": 0.5}, step=1)
    tracker.log_metrics({"train_loss": 0.25, "grad_norm": math.nan}, step=2)
    tracker.log_metrics({"test/fine_tuned/rmse@1h": 3.5})
    tracker.log_artifact(run_folder / "metrics.json")
    tracker.log_artifact(run_folder / "metrics.json", "deep/er/scores.json")
    tracker.log_artifact(run_folder / "plots", "pictures")
    tracker.log_figure(run_folder / "plots" / "loss.png", "plots/loss.png")
    tracker.log_model(run_folder, "model")
    assert tracker.end_experiment() == "run-1"

    assert tiny.read_json(folder / "config.json") == CONFIG
    assert tiny.read_json(folder / "params.json") == {"a": 2, "b": None, "c": [1, 2]}
    assert [{name: value for name, value in row.items() if name != "time"} for row in lines(folder)] == [
        {"step": 1, "train_loss": 0.5},
        {"step": 2, "train_loss": 0.25, "grad_norm": None},
        {"step": None, "test/fine_tuned/rmse@1h": 3.5},
    ]
    summary = tiny.read_json(folder / "summary.json")
    assert summary["status"] == "FINISHED"
    assert summary["run_name"] == "mine", "the name of the output folder"
    assert summary["metrics"] == {"train_loss": 0.25, "grad_norm": None, "test/fine_tuned/rmse@1h": 3.5}
    assert summary["started_at"] < summary["ended_at"]
    scores = (run_folder / "metrics.json").read_bytes()
    assert (folder / "artifacts" / "metrics.json").read_bytes() == scores
    assert (folder / "artifacts" / "deep" / "er" / "scores.json").read_bytes() == scores
    assert tiny.snapshot(folder / "artifacts" / "pictures") == tiny.snapshot(run_folder / "plots")
    logged, original = tiny.snapshot(folder / "models" / "model"), tiny.snapshot(run_folder)
    assert set(logged) == {
        "checksums.json",
        "config.yaml",
        "preprocessor.json",
        "model",
        "model/config.json",
        "model/model.safetensors",
    }
    assert logged.items() <= original.items()


def test_rows_are_on_disk_at_once(tracker):
    tracker.log_metrics({"train_loss": 0.5}, step=1)
    assert lines(tracker.run_folder)[0]["train_loss"] == 0.5


def test_a_run_goes_on(tracker, tmp_path):
    tracker.log_params({"a": 1})
    tracker.log_metrics({"train_loss": 0.5}, step=1)
    tracker.end_experiment("KILLED")
    started = tiny.read_json(tracker.run_folder / "summary.json")["started_at"]

    again = SimpleExperimentTracker(tmp_path / "files")
    again.start_experiment("glucose", CONFIG, "run-1")
    assert "ended_at" not in tiny.read_json(again.run_folder / "summary.json")
    again.log_params({"b": 2})
    again.log_metrics({"train_loss": 0.25}, step=2)
    again.end_experiment()
    assert [row["step"] for row in lines(again.run_folder)] == [1, 2]
    assert tiny.read_json(again.run_folder / "params.json") == {"a": 1, "b": 2}
    summary = tiny.read_json(again.run_folder / "summary.json")
    assert (summary["status"], summary["started_at"]) == ("FINISHED", started)
    assert summary["resumed_at"] >= started


def test_a_model_is_replaced_as_a_whole(tracker, run_folder):
    tracker.log_model(run_folder, "model")
    stale = tracker.run_folder / "models" / "model" / "stale.json"
    stale.touch()
    tracker.log_model(run_folder, "model")
    assert not stale.exists()
    assert [path.name for path in stale.parent.parent.iterdir()] == ["model"], "nothing half-written stays"


def test_matplotlib_figures(tracker):
    from matplotlib.figure import Figure

    tracker.log_figure(Figure(), "plots/empty.png")
    assert (tracker.run_folder / "artifacts" / "plots" / "empty.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["../out.json", "/etc/out.json", "..", ".", "", "a/../../../out", "a\0b"])
def test_names_that_lead_elsewhere(name, tracker, run_folder, tmp_path):
    before = tiny.snapshot(tmp_path)
    with pytest.raises(TrackingError, match="leads out of"):
        inside(tracker.run_folder, name)
    if name:  # log_artifact takes no name for the file's own
        with pytest.raises(TrackingError, match="leads out of"):
            tracker.log_artifact(run_folder / "metrics.json", name)
    with pytest.raises(TrackingError, match="leads out of"):
        tracker.log_model(run_folder, name)
    with pytest.raises(TrackingError, match="leads out of"):
        tracker.log_figure(run_folder / "plots" / "loss.png", name)
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize("experiment", ["../elsewhere", "/elsewhere", "..", ""])
def test_experiments_that_lead_elsewhere(experiment, tmp_path):
    with pytest.raises(TrackingError, match="leads out of"):
        SimpleExperimentTracker(tmp_path / "files").start_experiment(experiment, {}, "run-1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run_id", ["../x", "a/b", "a b", "a'b", ".hidden", "x" * 200])
def test_run_ids_that_are_no_plain_names(run_id, tmp_path):
    with pytest.raises(TrackingError, match=r"run id .* is not usable"):
        SimpleExperimentTracker(tmp_path / "files").start_experiment("e", {}, run_id)
    assert not list(tmp_path.iterdir())


def test_misuse(tmp_path, run_folder):
    tracker = SimpleExperimentTracker(tmp_path)
    for call in (
        lambda: tracker.log_params({"a": 1}),
        lambda: tracker.log_metrics({"a": 1.0}, 1),
        lambda: tracker.log_artifact(run_folder / "metrics.json"),
        lambda: tracker.log_model(run_folder, "model"),
        lambda: tracker.end_experiment(),
    ):
        with pytest.raises(TrackingError, match="call start_experiment first"):
            call()
    tracker.start_experiment("e", {})
    with pytest.raises(TrackingError, match="holds no model"):
        tracker.log_model(tmp_path, "model")


def test_new_ids_are_unique_and_from_config_fills_in(tmp_path):
    section = TrackingSection(folder=str(tmp_path), run_name="given", parent_run="sweep-1")
    trackers = [SimpleExperimentTracker.from_config(section) for _ in range(20)]
    ids = {tracker.start_experiment("e", CONFIG) for tracker in trackers}
    assert len(ids) == 20
    summary = tiny.read_json(trackers[0].run_folder / "summary.json")
    assert trackers[0].run_folder.parent == tmp_path / "files" / "e"
    assert (summary["run_name"], summary["parent_run"]) == ("given", "sweep-1")
    assert SimpleExperimentTracker(**trackers[0].settings()).settings() == trackers[0].settings()
