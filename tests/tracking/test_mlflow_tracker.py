"""The MLflow tracker against a real server, and against a SQLite file."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pytest
from launched import free_port
from mlflow import MlflowClient
from support import tiny

from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.models.registry import load_model
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.mlflow_tracker import MLflowExperimentTracker

CONFIG = {"training": {"max_steps": 3}, "output_dir": "runs/mine"}


@pytest.fixture(scope="module")
def client(mlflow_uri):
    return MlflowClient(mlflow_uri)


@pytest.fixture
def experiment(request):
    return f"experiment {request.node.name}"


@pytest.fixture
def tracker(mlflow_uri, experiment):
    tracker = MLflowExperimentTracker(mlflow_uri)
    tracker.start_experiment(experiment, CONFIG)
    return tracker


def runs(client, experiment):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def logged(tracker, client, name):
    return [(point.step, point.value) for point in client.get_metric_history(tracker.mlflow_run_id, name)]


def text_of(tracker, client, path, folder):
    return Path(client.download_artifacts(tracker.mlflow_run_id, path, str(folder))).read_text()


def load_logged(tracker, folder=None):
    mlflow.set_tracking_uri(tracker.tracking_uri)
    try:
        return mlflow.pyfunc.load_model(tracker.model_uris["model"], dst_path=folder)
    finally:
        mlflow.set_tracking_uri(None)


class TestRuns:
    def test_begin_and_end(self, tracker, client, experiment):
        (run,) = runs(client, experiment)
        assert run.info.run_id == tracker.mlflow_run_id
        assert (run.info.status, run.info.run_name) == ("RUNNING", "mine")
        assert run.data.tags == {"tstune.run_id": tracker.run_id, "mlflow.runName": "mine"}, "and no git, user or argv"
        assert tracker.end_experiment("KILLED") == tracker.run_id
        run = client.get_run(tracker.mlflow_run_id)
        assert run.info.status == "KILLED"
        assert run.info.end_time >= run.info.start_time

    def test_the_configuration(self, tracker, client, tmp_path):
        assert json.loads(text_of(tracker, client, "config.json", tmp_path)) == CONFIG

    def test_it_goes_on_with_a_run_it_knows(self, tracker, client, experiment, mlflow_uri):
        tracker.log_params({"a": 1, "b": "x"})
        tracker.log_metrics({"train_loss": 1.0}, 1)
        tracker.end_experiment("KILLED")
        again = MLflowExperimentTracker(mlflow_uri)
        assert again.start_experiment(experiment, CONFIG, tracker.run_id) == tracker.run_id
        assert client.get_run(again.mlflow_run_id).info.status == "RUNNING"
        again.log_params({"a": 1, "c": True})
        again.log_metrics({"train_loss": 0.5}, 2)
        again.end_experiment()
        (run,) = runs(client, experiment)
        assert run.info.status == "FINISHED"
        assert run.data.params == {"a": "1", "b": "x", "c": "true"}
        assert logged(again, client, "train_loss") == [(1, 1.0), (2, 0.5)]

    def test_another_id_is_another_run(self, tracker, client, experiment, mlflow_uri):
        MLflowExperimentTracker(mlflow_uri).start_experiment(experiment, CONFIG, "another")
        assert {run.data.tags["tstune.run_id"] for run in runs(client, experiment)} == {tracker.run_id, "another"}

    def test_children_are_nested_runs(self, tracker, client, experiment):
        child = tracker.child("P01")
        child.start_experiment(experiment, CONFIG)
        child.log_metrics({"train_loss": 1.0}, 1)
        child.end_experiment()
        run = client.get_run(child.mlflow_run_id)
        assert run.info.run_name == "P01"
        assert run.data.tags["mlflow.parentRunId"] == tracker.mlflow_run_id
        assert client.get_parent_run(child.mlflow_run_id).info.run_id == tracker.mlflow_run_id
        assert client.get_run(tracker.mlflow_run_id).info.status == "RUNNING"

    def test_a_trial_is_nested_in_its_sweep(self, tracker, client, experiment, mlflow_uri, heard):
        section = TrackingSection(mlflow_uri=mlflow_uri, parent_run=tracker.run_id, run_name="trial 7")
        trial = MLflowExperimentTracker.from_config(section)
        trial.start_experiment(experiment, CONFIG)
        run = client.get_run(trial.mlflow_run_id)
        assert run.data.tags["mlflow.parentRunId"] == tracker.mlflow_run_id
        assert run.info.run_name == "trial 7"
        orphan = MLflowExperimentTracker(mlflow_uri, parent_run="unknown")
        orphan.start_experiment(experiment, CONFIG)
        assert "mlflow knows no run unknown" in heard.text
        assert client.get_run(orphan.mlflow_run_id).data.tags["tstune.parent_run"] == "unknown"

    def test_no_run_is_left_active(self, tracker):
        assert mlflow.active_run() is None


class TestParams:
    def test_more_than_a_request_takes(self, tracker, client):
        params = {f"section.key_{number}": number for number in range(250)}
        tracker.log_params(params)
        assert client.get_run(tracker.mlflow_run_id).data.params == {name: str(n) for name, n in params.items()}

    def test_values_are_json(self, tracker, client):
        tracker.log_params({"none": None, "flag": True, "list": [1, "a"], "number": 1e-3, "text": "a b", "empty": ""})
        assert client.get_run(tracker.mlflow_run_id).data.params == {
            "none": "null",
            "flag": "true",
            "list": '[1, "a"]',
            "number": "0.001",
            "text": "a b",
            "empty": "",
        }

    def test_long_values_are_cut_and_it_says_so(self, tracker, client, heard):
        tracker.log_params({"long": "x" * 10_000, "fits": "y" * 6000})
        params = client.get_run(tracker.mlflow_run_id).data.params
        assert (len(params["long"]), len(params["fits"])) == (6000, 6000)
        assert "mlflow: values of long are cut at 6000 characters" in heard.text

    def test_a_changed_value_becomes_a_tag(self, tracker, client, heard):
        tracker.log_params({"a": 1, "b": 2})
        tracker.log_params({"a": 3, "b": 2, "c": 4})
        run = client.get_run(tracker.mlflow_run_id)
        assert run.data.params == {"a": "1", "b": "2", "c": "4"}
        assert run.data.tags["tstune.param.a"] == "3"
        assert "tstune.param.b" not in run.data.tags
        assert "mlflow keeps the first value of a" in heard.text


def test_long_descriptions_are_cut(tracker, client):
    tracker.log_tags({"description": "x" * 10_000, "größe (mg)": "y"})
    tags = client.get_run(tracker.mlflow_run_id).data.tags
    assert (len(tags["mlflow.note.content"]), tags["größe _mg_"]) == (8000, "y")


class TestMetrics:
    def test_steps_and_results(self, tracker, client):
        for step in (1, 2, 3):
            tracker.log_metrics({"train_loss": 1 / step, "learning_rate": 0.1}, step)
        tracker.log_metrics({"test/fine_tuned/rmse": 3.5})
        assert logged(tracker, client, "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        assert logged(tracker, client, "test/fine_tuned/rmse") == [(0, 3.5)]

    def test_what_is_not_finite(self, tracker, client):
        tracker.log_metrics({"nan": math.nan, "inf": math.inf, "minus": -math.inf, "none": None}, 1)
        values = client.get_run(tracker.mlflow_run_id).data.metrics
        assert math.isnan(values["nan"])
        assert math.isnan(values["none"])
        assert values["inf"] == -values["minus"] > 1e308

    def test_names_mlflow_does_not_take(self, tracker, client):
        tracker.log_metrics({"test/ridge/rmse@30min": 1.0, "P01/../loss": 2.0, "/a//b": 3.0, "größe (mg)": 4.0})
        assert client.get_run(tracker.mlflow_run_id).data.metrics == {
            "test/ridge/rmse_at_30min": 1.0,
            "P01/loss": 2.0,
            "a/b": 3.0,
            "größe _mg_": 4.0,
        }

    def test_more_than_a_request_takes(self, tracker, client):
        tracker.log_metrics({f"m{number}": float(number) for number in range(1500)}, 1)
        assert len(client.get_run(tracker.mlflow_run_id).data.metrics) == 1500

    def test_a_row_whose_answer_got_lost_is_stored_once(self, tracker, client, monkeypatch):
        send = tracker._client.log_batch

        def send_and_lose_the_answer(*arguments, **keywords):
            send(*arguments, **keywords)
            raise ConnectionError("answer lost")

        monkeypatch.setattr(tracker._client, "log_batch", send_and_lose_the_answer)
        with pytest.raises(ConnectionError):
            tracker.log_metrics({"train_loss": 0.5}, 1)
        monkeypatch.undo()
        time.sleep(0.005)
        tracker.log_metrics({"train_loss": 0.5}, 1)
        tracker.log_metrics({"train_loss": 0.5}, 1)  # logged once more on purpose
        assert logged(tracker, client, "train_loss") == [(1, 0.5), (1, 0.5)]


class TestFiles:
    def test_artifacts_under_their_names(self, tracker, client, run_folder, tmp_path):
        tracker.log_artifact(run_folder / "metrics.json")
        tracker.log_artifact(run_folder / "metrics.json", "deep/er/scores.json")
        tracker.log_artifact(run_folder / "plots", "pictures/all")
        tracker.log_figure(run_folder / "plots" / "loss.png", "plots/loss.png")
        for name in ("metrics.json", "deep/er/scores.json"):
            assert text_of(tracker, client, name, tmp_path) == (run_folder / "metrics.json").read_text()
        pictures = client.download_artifacts(tracker.mlflow_run_id, "pictures/all", str(tmp_path))
        assert tiny.snapshot(Path(pictures)) == tiny.snapshot(run_folder / "plots")
        loss = client.download_artifacts(tracker.mlflow_run_id, "plots/loss.png", str(tmp_path))
        assert Path(loss).read_bytes() == (run_folder / "plots" / "loss.png").read_bytes()

    def test_drawn_figures(self, tracker, client, tmp_path):
        from matplotlib.figure import Figure

        tracker.log_figure(Figure(), "plots/drawn.png")
        drawn = client.download_artifacts(tracker.mlflow_run_id, "plots/drawn.png", str(tmp_path))
        assert Path(drawn).read_bytes()[:4] == b"\x89PNG"

    @pytest.mark.parametrize("name", ["../out.json", "/out.json", "a/../../out.json"])
    def test_names_that_lead_out(self, name, tracker, run_folder):
        with pytest.raises(TrackingError, match="leads out of"):
            tracker.log_artifact(run_folder / "metrics.json", name)

    def test_a_model_predicts_the_same(self, tracker, client, run_folder, desk, tmp_path):
        begin = time.process_time()
        tracker.log_model(run_folder, "model")
        assert time.process_time() - begin < 5, "requirements are stated, not found out by loading the model"
        loaded = load_logged(tracker, str(tmp_path))
        files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
        assert not list(tmp_path.rglob("assets")), "the weights we ship are no part of it"
        assert not [name for name in files if name.endswith((".pkl", ".pyc", ".pt"))], "nothing pickled"
        assert {"model.safetensors", "preprocessor.json", "mlflow_model.py", "registry.py", "requirements.txt"} <= set(
            files
        )
        model, series = load_model(run_folder), pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])
        whole = series.assign(load=series["load"].round().astype(int), item_id=series["item_id"].map({"a": 1, "b": 2}))
        for frame in (series, whole):
            pd.testing.assert_frame_equal(
                loaded.predict(frame[["item_id", "timestamp", "load"]]), model.predict(frame), check_exact=True
            )
        assert loaded.metadata.signature.inputs.input_names() == ["item_id", "timestamp", "load"]
        assert loaded.metadata.signature.outputs.input_names() == ["item_id", "timestamp", "load"]
        (stored,) = client.search_logged_models([client.get_run(tracker.mlflow_run_id).info.experiment_id])
        assert (stored.name, stored.status.name, stored.source_run_id) == ("model", "READY", tracker.mlflow_run_id)

    def test_a_model_becomes_a_version_of_mlflows_registry(self, mlflow_uri, client, experiment, run_folder, desk):
        section = TrackingSection(mlflow_uri=mlflow_uri, register_as="cgm")
        for number in (1, 2):
            tracker = MLflowExperimentTracker.from_config(section)
            tracker.start_experiment(experiment, CONFIG)
            tracker.log_model(run_folder, "model")
            tracker.log_model(run_folder, "model")  # sent again: a run is registered once
            tracker.end_experiment()
            assert MLflowExperimentTracker(**tracker.settings()).settings() == tracker.settings(), "replayed too"
            version = client.get_model_version("cgm", str(number))
            assert (version.run_id, version.status) == (tracker.mlflow_run_id, "READY")
            assert version.tags["tstune.run_id"] == tracker.run_id
        assert [int(found.version) for found in client.search_model_versions("name = 'cgm'")] == [2, 1]
        mlflow.set_tracking_uri(mlflow_uri)
        try:
            loaded = mlflow.pyfunc.load_model("models:/cgm/2")
        finally:
            mlflow.set_tracking_uri(None)
        series = pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])
        expected = load_model(run_folder).predict(series)
        pd.testing.assert_frame_equal(loaded.predict(series), expected, check_exact=True)
        tracker.start_experiment(experiment, CONFIG)
        tracker.child("P01").start_experiment(experiment, CONFIG)
        assert tracker.child("P01").settings()["registered_model_name"] is None, "a part of a run is no version"

    def test_a_model_with_a_known_future(self, desk, tmp_path, mlflow_uri):
        import finetune_ttm

        settings = ["data.control_columns=[plan]", "training.max_steps=1", "evaluation.baselines=[]"]
        folder = tmp_path / "run"
        assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), f"output_dir={folder}", *settings]) == 0
        tracker = MLflowExperimentTracker(mlflow_uri)
        tracker.start_experiment("known future", CONFIG)
        tracker.log_model(folder, "model")
        loaded = load_logged(tracker)
        series = pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])[["item_id", "timestamp", "load", "plan"]]
        future = series.groupby("item_id").tail(8).drop(columns="load")
        past = series.drop(future.index)
        expected = load_model(folder).predict(past, future=future)
        pd.testing.assert_frame_equal(loaded.predict(pd.concat([past, future])), expected, check_exact=True)
        busy = loaded.predict(pd.concat([past, future.assign(plan=5.0)]))
        assert not busy["load"].equals(expected["load"]), "the plan is read"

    @pytest.mark.slow
    def test_a_model_of_a_wide_table(self, desk, tmp_path, mlflow_uri):
        import finetune_ttm

        long = pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])
        wide = long.pivot(index="timestamp", columns="item_id", values="load").reset_index()
        wide.to_csv(tmp_path / "wide.csv", index=False)
        settings = ["data.item_id_column=null", "data.target_columns=null", "data.columns_as=items"]
        settings += [f"data.path={tmp_path / 'wide.csv'}", "training.max_steps=1", "evaluation.baselines=[]"]
        folder = tmp_path / "run"
        assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), f"output_dir={folder}", *settings]) == 0
        tracker = MLflowExperimentTracker(mlflow_uri)
        tracker.start_experiment("wide", CONFIG)
        tracker.log_model(folder, "model")
        loaded = load_logged(tracker)
        expected = load_model(folder).predict(wide)
        assert len(expected) == 2 * tiny.PREDICTION
        pd.testing.assert_frame_equal(loaded.predict(wide), expected, check_exact=True)


class TestServersThatAreAway:
    def test_at_the_start(self, tmp_path, monkeypatch):
        port = free_port()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@127.0.0.1:{port}")
        tracker = MLflowExperimentTracker()
        begin = time.perf_counter()
        with pytest.raises(TrackingError) as caught:
            CompositeTracker([tracker], tmp_path).start_experiment("e", CONFIG)
        assert time.perf_counter() - begin < 100, "seconds, not MLflow's minutes"
        assert str(caught.value) == (
            f"MLflow at http://127.0.0.1:{port} does not answer: Connection refused; start the server, correct "
            "tracking.mlflow_uri or MLFLOW_TRACKING_URI, check the credentials in the environment, or set "
            "tracking.required=false to train without it"
        )
        assert tracker.settings()["tracking_uri"] == f"http://127.0.0.1:{port}", "no credential is written anywhere"
        assert MLflowExperimentTracker(**tracker.settings()).tracking_uri == tracker.tracking_uri, "but found again"


class TestOwnDatabase:
    def test_a_file_in_the_folder(self, tmp_path, run_folder, monkeypatch):
        monkeypatch.chdir(tmp_path)
        tracker = MLflowExperimentTracker.from_config(TrackingSection(folder="tracked"))
        monkeypatch.chdir(tmp_path.parent)
        tracker.start_experiment("glucose", CONFIG)
        tracker.log_metrics({"train_loss": 1.0}, 1)
        tracker.log_artifact(run_folder / "metrics.json")
        tracker.log_model(run_folder, "model")
        tracker.end_experiment()
        assert {path.name for path in (tmp_path / "tracked").iterdir()} == {"mlflow.db", "mlflow-artifacts"}
        assert [path.name for path in tmp_path.iterdir()] == ["tracked"], "nothing in the current folder"
        client = MlflowClient(f"sqlite:///{tmp_path / 'tracked' / 'mlflow.db'}")
        (run,) = runs(client, "glucose")
        assert (run.info.status, run.data.metrics) == ("FINISHED", {"train_loss": 1.0})
        assert (tmp_path / "tracked" / "mlflow-artifacts" / run.info.run_id / "artifacts" / "metrics.json").is_file()

        client.delete_experiment(run.info.experiment_id)
        with pytest.raises(TrackingError, match=r"experiment 'glucose' was deleted .* experiments restore"):
            tracker.start_experiment("glucose", CONFIG)

    def test_the_environment_comes_before_the_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        section = TrackingSection(folder=str(tmp_path))
        assert MLflowExperimentTracker.from_config(section).tracking_uri == "http://127.0.0.1:1"
        given = TrackingSection(folder=str(tmp_path), mlflow_uri="http://127.0.0.1:2")
        assert MLflowExperimentTracker.from_config(given).tracking_uri == "http://127.0.0.1:2"

    def test_misuse(self):
        tracker = MLflowExperimentTracker("http://127.0.0.1:1")
        for call in (lambda: tracker.log_metrics({"a": 1.0}, 1), lambda: tracker.end_experiment()):
            with pytest.raises(TrackingError, match="call start_experiment first"):
                call()
