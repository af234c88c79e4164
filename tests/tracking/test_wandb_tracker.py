"""The W&B tracker, offline: what it wrote is read back from its transaction log."""

from __future__ import annotations

import json
import math
import signal
import sys

import psutil
import pytest
from support import tiny
from wandb_reader import read_offline_runs

from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.tracking.wandb_tracker import WandbExperimentTracker

CONFIG = {"training": {"max_steps": 3}, "output_dir": "runs/mine"}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No netrc of the developer, and a place to see what is written outside of the folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    return tmp_path / "home"


@pytest.fixture
def run(tmp_path, run_folder):
    """A whole run, read back."""
    tracker = WandbExperimentTracker("glucose", mode="offline", folder=tmp_path / "tracked", parent_run="sweep-1")
    tracker.start_experiment("experiment", CONFIG, "run-1")
    tracker.log_params({"training.max_steps": 4, "note": None})
    tracker.log_tags({"source": "finetune_ttm.py", "model": "ttm"})
    tracker.log_metrics({"train_loss": 1.0, "grad_norm": math.nan}, 1)
    tracker.log_metrics({"validation_loss": 0.5}, 1)
    tracker.log_metrics({"train_loss": 0.25}, 2)
    tracker.log_metrics({"train_loss": 0.5}, 1)  # a resumed run goes back
    tracker.log_metrics({"test/fine_tuned/rmse@1h": 3.5})
    tracker.log_dataset("csv", "0123456789abcdef", {"num_items": 3})
    tracker.log_tags({"description": "# Mine", "verdict": "It helped.", "effect": "helped"})
    tracker.log_artifact(run_folder / "config.yaml")
    tracker.log_artifact(run_folder / "plots", "deep/plots")
    tracker.log_figure(run_folder / "plots" / "loss.png", "plots/loss.png")
    tracker.log_model(run_folder, "model")
    assert tracker.end_experiment("KILLED") == "run-1"
    (run,) = read_offline_runs(tmp_path / "tracked" / "wandb")
    return run


def test_a_whole_run(run, run_folder, own_home):
    assert (run.run_id, run.project, run.name, run.group) == ("run-1", "glucose", "mine", "sweep-1")
    dataset = run.config.pop("tags.dataset")
    assert json.loads(dataset) == {"name": "csv", "digest": "0123456789abcdef", "num_items": 3}
    told = {"source": "finetune_ttm.py", "model": "ttm", "verdict": "It helped.", "effect": "helped"}
    settings = {"training.max_steps": 4, "output_dir": "runs/mine", "note": None}
    assert run.config == settings | {f"tags.{name}": text for name, text in told.items()}
    assert run.notes == "# Mine"
    rows = [row for row in run.history if "plots/loss.png/path" not in row]
    assert math.isnan(rows[0].pop("grad_norm"))
    assert rows == [
        {"step": 1, "train_loss": 1.0},
        {"step": 1, "validation_loss": 0.5},
        {"step": 2, "train_loss": 0.25},
        {"step": 1, "train_loss": 0.5},
    ]
    assert run.summary["test/fine_tuned/rmse@1h"] == 3.5
    assert run.exit_code == 255

    files = run.folder / "files"
    assert "artifacts/config.yaml" in run.files
    assert (files / "artifacts" / "config.yaml").read_bytes() == (run_folder / "config.yaml").read_bytes()
    assert tiny.snapshot(files / "artifacts" / "deep" / "plots") == tiny.snapshot(run_folder / "plots")
    (picture,) = [row["plots/loss.png/path"] for row in run.history if "plots/loss.png/path" in row]
    assert picture in run.files
    assert (files / picture).read_bytes() == (run_folder / "plots" / "loss.png").read_bytes()
    kind, model = run.artifacts["model-run-1"]
    assert kind == "model"
    assert set(model) == {
        "checksums.json",
        "config.yaml",
        "preprocessor.json",
        "model/config.json",
        "model/model.safetensors",
    }
    assert all(local.read_bytes() == (run_folder / path).read_bytes() for path, local in model.items())
    assert all(local.is_relative_to(run.folder) for local in model.values()), "lies with the run until it is sent"
    assert "config.yaml" not in run.files, "that name is W&B's own"

    large = [path for path in own_home.rglob("*") if path.is_file() and path.suffix != ".log"]
    assert large == [], "no copies of artifacts in the user's home"


def test_it_records_nothing_of_the_process(run):
    names = {path.name for path in run.folder.rglob("*") if path.is_file()}
    assert not names & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch", "conda-environment.yaml"}
    assert not list(run.folder.rglob("*.py"))


def test_it_leaves_the_process_as_it_was(tmp_path):
    import wandb

    def before():
        return [sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]

    hooks = before()
    tracker = WandbExperimentTracker(mode="offline", folder=tmp_path)
    tracker.start_experiment("experiment", CONFIG)
    assert before() == hooks
    assert wandb.run is None, "the global run is the user's"
    tracker.end_experiment()
    assert before() == hooks
    (run,) = read_offline_runs(tmp_path / "wandb")
    assert (run.project, run.exit_code) == ("experiment", 0)
    assert not [child for child in psutil.Process().children() if "wandb" in child.name()], "no process stays"


def test_disabled_writes_nothing(tmp_path, run_folder):
    tracker = WandbExperimentTracker(mode="disabled", folder=tmp_path / "tracked")
    tracker.start_experiment("experiment", CONFIG, "run-1")
    tracker.log_params({"a": 1})
    tracker.log_metrics({"train_loss": 1.0}, 1)
    tracker.log_artifact(run_folder / "metrics.json")
    tracker.log_model(run_folder, "model")
    tracker.end_experiment()
    assert not list((tmp_path / "tracked").rglob("*"))


def test_online_without_a_key(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # it must not ask
    monkeypatch.setattr("wandb.errors.term._sys_stderr_isatty", lambda: True)
    monkeypatch.setattr("wandb.errors.term._sys_stdin_isatty", lambda: True)
    with pytest.raises(TrackingError, match=r"No API key configured.*set WANDB_API_KEY or run `wandb login`"):
        WandbExperimentTracker(mode="online", folder=tmp_path).start_experiment("experiment", CONFIG)


def test_online_with_a_wrong_key_does_not_repeat_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "geheim")
    with pytest.raises(TrackingError, match=r"wandb does not start: .*WANDB_API_KEY invalid") as caught:
        WandbExperimentTracker(mode="online", folder=tmp_path).start_experiment("experiment", CONFIG)
    assert "geheim" not in str(caught.value)


def test_names_that_lead_out(tmp_path, run_folder):
    tracker = WandbExperimentTracker(mode="offline", folder=tmp_path)
    tracker.start_experiment("experiment", CONFIG)
    before = set(tmp_path.rglob("*"))
    for call in (
        lambda: tracker.log_artifact(run_folder / "metrics.json", "../../out.json"),
        lambda: tracker.log_model(run_folder, "../model"),
        lambda: tracker.log_figure(run_folder / "plots" / "loss.png", "/loss.png"),
    ):
        with pytest.raises(TrackingError, match="leads out of"):
            call()
    assert set(tmp_path.rglob("*")) == before
    tracker.end_experiment()


def test_misuse(tmp_path):
    with pytest.raises(TrackingError, match="unknown mode 'of'; use online, offline, disabled"):
        WandbExperimentTracker(mode="of")
    with pytest.raises(TrackingError, match="call start_experiment first"):
        WandbExperimentTracker(mode="offline").log_metrics({"a": 1.0}, 1)
    section = TrackingSection(folder=str(tmp_path), wandb_project="p", wandb_mode="offline", wandb_entity="e")
    tracker = WandbExperimentTracker.from_config(section)
    assert (tracker.project, tracker.entity, tracker.mode) == ("p", "e", "offline")
    assert WandbExperimentTracker(**tracker.settings()).settings() == tracker.settings()
