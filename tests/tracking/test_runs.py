"""Training with trackers: servers that die, runs that fail, are interrupted, preempted or have parts."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launched import free_port
from mlflow import MlflowClient
from support import forks, tiny

import finetune_ttm
import replay_tracking
from tstune.errors import MissingDependencyError
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.interfaces import tracker_class
from tstune.tracking.mlflow_tracker import MLflowExperimentTracker

Train = Callable[..., int]
CONFIG = {"training": {"max_steps": 3}}


@pytest.fixture(autouse=True)
def signals():
    """Signals that a test raises are taken as a script takes them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def experiment(request):
    return request.node.name


@pytest.fixture
def train(desk, tmp_path, mlflow_uri, experiment):
    """scripts/finetune_ttm.py with the file tracker, MLflow and others; returns the exit code."""

    def train(*settings, trackers="file, mlflow"):
        arguments = [f"output_dir={tmp_path / 'run'}", f"tracking.folder={tmp_path / 'tracked'}"]
        arguments += [f"tracking.trackers=[{trackers}]", f"tracking.mlflow_uri={mlflow_uri}"]
        arguments += [f"tracking.experiment={experiment}", "evaluation.baselines=[persistence]", *settings]
        return finetune_ttm.main(["--config", str(desk / "recipe.yaml"), *arguments])

    return train


@pytest.fixture
def client(mlflow_uri):
    return MlflowClient(mlflow_uri)


def runs(client, experiment):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def tracked(folder, experiment):
    """The one run of the file tracker."""
    (run,) = (folder / "tracked" / "files" / experiment).iterdir()
    return run


def summary(folder, experiment):
    return tiny.read_json(tracked(folder, experiment) / "summary.json")


def logged_steps(folder, experiment, metric="train_loss"):
    lines = (tracked(folder, experiment) / "metrics.jsonl").read_text().splitlines()
    return [row["step"] for row in map(json.loads, lines) if metric in row]


class TestServerThatDies:
    """The server is killed when step 8 of 30 is logged, and comes back after the run."""

    def test_nothing_is_lost(self, train, server, client, experiment, tmp_path, monkeypatch, heard, run_folder):
        waiting = CompositeTracker([MLflowExperimentTracker(server.uri)], tmp_path / "waiting", retry_seconds=0)
        waiting.start_experiment("outlives its server", CONFIG)
        waiting.log_metrics({"train_loss": 1.0}, 1)

        monkeypatch.setenv("AT_STEP", "8")
        monkeypatch.setenv("KILLED_SERVER", str(server.process_group()))
        monkeypatch.setenv("KILLED_PORT", str(server.port))
        trackers = "file, tracker_doubles:ServerKiller, mlflow, tensorboard"
        assert train("training.max_steps=30", "tracking.retry_seconds=0.2", trackers=trackers) == 0

        whole = tmp_path / "run"
        history = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in history if "train_loss" in row]
        assert steps == list(range(1, 31))
        assert logged_steps(tmp_path, experiment) == steps, "the others miss nothing"
        assert summary(tmp_path, experiment)["status"] == "FINISHED"
        assert len(list((tmp_path / "tracked" / "tensorboard").rglob("events.*"))) == 1
        (backlog,) = (tmp_path / "tracked" / "backlog").rglob("*.jsonl")
        assert backlog.name == "2-mlflow.jsonl"
        missed = [json.loads(line) for line in backlog.read_text().splitlines()[1:]]
        rows = [call["keywords"] for call in missed if call["method"] == "log_metrics"]
        assert [row["step"] for row in rows if "train_loss" in row["metrics"]] == steps[7:]
        assert missed[-1] == {"method": "end_experiment", "keywords": {"status": "FINISHED"}, "files": None}
        said = [record.getMessage() for record in heard.records if "tracker mlflow" in record.getMessage()]
        warned = [message for message in said if "still away" not in message]
        assert len(warned) == 2, "one line when it fails, one at the end"
        assert warned[0].startswith("tracker mlflow failed (ConnectionError: MLflow at ")
        assert warned[1].endswith(f"send them with: python scripts/replay_tracking.py {backlog}")

        waiting.log_metrics({"train_loss": 2.0}, 2)
        waiting.log_artifact(run_folder / "metrics.json", "metrics.json")
        waiting.log_model(run_folder, "model")
        assert list((tmp_path / "waiting").rglob("*.jsonl"))

        server.stop()
        server.start()
        self._comes_back_during_a_run(waiting, client, run_folder, tmp_path)
        self._is_replayed_after_the_run(backlog, client, experiment, history, whole)

    def _comes_back_during_a_run(self, waiting, client, run_folder, tmp_path):
        """The composite itself sends what was missed."""
        waiting.log_metrics({"train_loss": 3.0}, 3)
        assert not list((tmp_path / "waiting").rglob("*.jsonl")), "sent at once"
        waiting.log_metrics({"train_loss": 4.0}, 4)
        waiting.end_experiment()
        (run,) = runs(client, "outlives its server")
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "train_loss")
        assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
        downloaded = client.download_artifacts(run.info.run_id, "metrics.json", str(tmp_path))
        assert Path(downloaded).read_bytes() == (run_folder / "metrics.json").read_bytes()
        assert list(waiting.trackers[0].model_uris) == ["model"]

    def _is_replayed_after_the_run(self, backlog, client, experiment, history, whole):
        """scripts/replay_tracking.py sends it, from another process."""
        (run,) = runs(client, experiment)
        assert run.info.status == "RUNNING", "as the server last saw it"
        header, *calls = backlog.read_text().splitlines()
        dead = forks.Fork([sys.executable, "-c", "pass"])  # this process, which wrote it, lives
        dead.wait()
        backlog.write_text("\n".join([json.dumps(json.loads(header) | {"process": dead.pid}), *calls]) + "\n")
        script = [sys.executable, replay_tracking.__file__, backlog.parents[2]]
        done = forks.run(script)
        assert (done.returncode, done.stdout) == (0, f"{len(calls)} calls sent: {backlog}\n"), done.stderr
        assert not backlog.exists()

        (run,) = runs(client, experiment)
        assert run.info.status == "FINISHED"
        for name in ("train_loss", "validation_loss", "learning_rate", "grad_norm"):
            points = client.get_metric_history(run.info.run_id, name)
            expected = [(row["step"], row[name]) for row in history if name in row]
            assert sorted((point.step, point.value) for point in points) == sorted(expected), name
        scores = tiny.read_json(whole / "metrics.json")["test"]["fine_tuned"]
        assert run.data.metrics["test/fine_tuned/rmse"] == scores["rmse"]
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"config.json", "metrics.json", "history.jsonl", "README.md"} <= files
        (model,) = client.search_logged_models([run.info.experiment_id])
        assert (model.name, model.status.name) == ("model", "READY")


class TestHowRunsEnd:
    def test_a_run_that_fails(self, train, client, experiment, tmp_path):
        assert train("training.learning_rate=1e30", "training.max_grad_norm=null") == 2
        assert not (tmp_path / "run").exists()
        assert summary(tmp_path, experiment)["status"] == "FAILED"
        (run,) = runs(client, experiment)
        assert run.info.status == "FAILED"
        assert logged_steps(tmp_path, experiment, "validation_loss") == [0], "what came before is kept"

    def test_ctrl_c(self, train, client, experiment, tmp_path, monkeypatch):
        monkeypatch.setenv("AT_STEP", "3")
        assert train(trackers="file, mlflow, tracker_doubles:CtrlC") == 130
        assert not (tmp_path / "run").exists()
        assert summary(tmp_path, experiment)["status"] == "KILLED"
        assert logged_steps(tmp_path, experiment) == [1, 2, 3]
        (run,) = runs(client, experiment)
        assert run.info.status == "KILLED"

    def test_a_preempted_run_goes_on_as_the_same_run(self, train, client, experiment, tmp_path, monkeypatch):
        monkeypatch.setenv("AT_STEP", "4")
        monkeypatch.setenv("AT_STEP_ONCE", str(tmp_path / "was_preempted"))
        trackers = "file, mlflow, tracker_doubles:Preemption"
        assert train(trackers=trackers) == 75
        assert summary(tmp_path, experiment)["status"] == "KILLED"
        assert [run.info.status for run in runs(client, experiment)] == ["KILLED"]
        assert train("training.resume_from_checkpoint=auto", trackers=trackers) == 0
        assert summary(tmp_path, experiment)["status"] == "FINISHED"
        (run,) = runs(client, experiment)
        assert run.info.status == "FINISHED"
        assert run.data.tags["tstune.run_id"] == tiny.read_json(tmp_path / "run" / "tracking.json")["run_id"]
        points = client.get_metric_history(run.info.run_id, "train_loss")
        assert sorted({point.step for point in points}) == [1, 2, 3, 4, 5, 6]


class TestStart:
    def test_a_server_that_is_not_there(self, train, tmp_path, experiment, capsys):
        uri = f"http://127.0.0.1:{free_port()}"
        assert train(f"tracking.mlflow_uri={uri}") == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert error.startswith(f"error: MLflow at {uri} does not answer: Connection refused; start the server, ")
        assert not (tmp_path / "run").exists()
        assert summary(tmp_path, experiment)["status"] == "FAILED", "the tracker that had begun"

    def test_training_without_it(self, train, tmp_path, experiment):
        uri = f"http://127.0.0.1:{free_port()}"
        assert train(f"tracking.mlflow_uri={uri}", "tracking.required=false") == 0
        assert summary(tmp_path, experiment)["status"] == "FINISHED"
        (backlog,) = (tmp_path / "tracked" / "backlog").rglob("*.jsonl")
        header = json.loads(backlog.read_text().splitlines()[0])
        assert header["settings"]["tracking_uri"] == uri
        assert header["run_id"] == tracked(tmp_path, experiment).name

    def test_online_wandb_without_a_key(self, train, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        assert train("tracking.wandb_mode=online", trackers="wandb") == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "No API key configured" in error
        assert "tracking.wandb_mode=offline" in error
        assert not (tmp_path / "run").exists()


def test_adapters_of_items_are_runs_in_the_run(train, client, experiment, tmp_path):
    assert train("tuning.per_item=true", "tuning.per_item_epochs=1", "training.max_steps=2") == 0
    by_name = {run.info.run_name: run for run in runs(client, experiment)}
    assert set(by_name) == {"run", "a", "b"}
    for item in ("a", "b"):
        run = by_name[item]
        assert run.data.tags["mlflow.parentRunId"] == by_name["run"].info.run_id
        assert run.info.status == "FINISHED"
        assert "train_loss" in run.data.metrics
    params = tiny.read_json(tracked(tmp_path, experiment) / "params.json")
    assert not [name for name in params if name.startswith(("a/", "b/"))], "settings are not repeated"
    assert logged_steps(tmp_path, experiment, "a/train_loss")
    assert logged_steps(tmp_path, experiment, "b/train_loss")


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_tracker_says_which_package_it_needs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"^the {name} tracker needs a package: pip install '{name}>="):
        tracker_class(name)().start_experiment("mine", {})
