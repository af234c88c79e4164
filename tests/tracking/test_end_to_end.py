"""One run on two processes, tracked by all trackers at once: everything is read back from each, and no secret is."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import psutil
import pytest
from launched import ROOT, free_port
from mlflow import MlflowClient
from support import forks, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb_reader import read_offline_runs

from tstune.config.managers import SimpleConfigManager
from tstune.config.names import dotted
from tstune.foreign_files import sha256_of
from tstune.models.registry import load_model
from tstune.registry.model_registry import open_registry

SECRETS = {
    "WANDB_API_KEY": "5ec2e7a1" * 5,  # 40 characters, as W&B wants them
    "MLFLOW_TRACKING_USERNAME": "geheimer-name",
    "MLFLOW_TRACKING_PASSWORD": "geheim-mlflow-password",
    "MLFLOW_TRACKING_TOKEN": "geheim-mlflow-token",
    "HF_TOKEN": "hf_geheimHuggingFace",
    "NIXTLA_API_KEY": "nixak-geheim",
    "AWS_SECRET_ACCESS_KEY": "geheim/aws+secret",
    "KAGGLE_KEY": "geheim0kaggle0key",
}
ARTIFACTS = [
    "README.md",
    "cohort.csv",
    "config.yaml",
    "environment.json",
    "evaluation.json",
    "history.jsonl",
    "manifest.json",
    "metrics.json",
    "report.html",
    "report.md",
    "verdict.json",
    "windows.parquet",
]
PLOTS = ["plots/forecasts.png", "plots/loss.png", "plots/rmse_by_horizon.png"]
MODEL = {"checksums.json", "config.yaml", "preprocessor.json", "model/config.json", "model/model.safetensors"}
EXPERIMENT = "all trackers"


@pytest.fixture(scope="module")
def place(desk, mlflow_uri, tmp_path_factory):
    """Where the run took place: run/, tracked/, registry/, wandb_home/ and what it said."""
    place = tmp_path_factory.mktemp("place")
    command = [forks.ACCELERATE, "launch", "--config_file", "accelerate_configs/ddp.yaml"]
    command += ["--num_processes", "2", "--main_process_port", str(free_port()), "scripts/finetune_ttm.py"]
    command += ["--config", desk / "recipe.yaml", f"output_dir={place / 'run'}", "evaluation.num_plots=1"]
    command += ["tracking.trackers=[file, mlflow, wandb, tensorboard]", f"tracking.experiment={EXPERIMENT}"]
    command += [f"tracking.folder={place / 'tracked'}", f"tracking.mlflow_uri={mlflow_uri}"]
    command += ["tracking.wandb_project=project", "tracking.wandb_mode=offline"]
    command += ["tracking.register_as=tiny", f"tracking.registry={place / 'registry'}"]
    wandb_home = {f"WANDB_{kind}_DIR": str(place / "wandb_home" / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | wandb_home | SECRETS
    done = forks.run(command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    (place / "stdout.txt").write_text(done.stdout)
    (place / "stderr.txt").write_text(done.stderr)
    return place


@pytest.fixture(scope="module")
def finished(place):
    return place / "run"


@pytest.fixture(scope="module")
def run_id(finished):
    return tiny.read_json(finished / "tracking.json")["run_id"]


@pytest.fixture(scope="module")
def rows(finished):
    """(step, metrics) of every row of the history."""
    rows = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 6 + 3, "6 steps and 3 validations"
    return [(row.pop("step"), {name: value for name, value in row.items() if name != "epoch"}) for row in rows]


@pytest.fixture(scope="module")
def results(finished):
    """Every metric of every model."""
    scores = tiny.read_json(finished / "metrics.json")["test"]
    results = {f"test/{model}/{name}": value for model, values in scores.items() for name, value in values.items()}
    assert len(results) >= 6 * 10, "six models or more"
    assert {"test/fine_tuned/rmse@1h", "test/zero_shot/mase", "test/ridge/num_windows"} <= set(results)
    judged = tiny.read_json(finished / "verdict.json")
    headline = {name: scores[judged["kept"]][name] for name in ("rmse", "mae", "mase")}
    headline["rmse_zero_shot"] = scores["zero_shot"]["rmse"]
    baselines = ("persistence", "seasonal_naive", "context_mean", "ridge")
    headline["rmse_best_baseline"] = min(scores[name]["rmse"] for name in baselines if name in scores)
    return results | {f"at_a_glance/{name}": value for name, value in headline.items()}


@pytest.fixture(scope="module")
def tags(finished):
    """What people look for the run by."""
    judged, readme = tiny.read_json(finished / "verdict.json"), (finished / "README.md").read_text()
    tags = {"source": "finetune_ttm.py", "model": "ttm", "tuning": "decoder", "data": "csv"}
    commit = tiny.read_json(finished / "environment.json")["git_commit"]
    tags |= {"commit": commit} if commit else {}
    tags |= {"description": readme.partition("\n## Forecast")[0], "verdict": judged["sentence"]}
    assert tags["description"].startswith("# ttm on csv")
    assert judged["sentence"] in tags["description"]
    return tags | {"effect": judged["effect"] or "none"}


@pytest.fixture(scope="module")
def params(finished):
    """Every setting, resolved, and the parameter counts."""
    config = SimpleConfigManager().load_config(str(finished / "config.yaml"), [])
    counts = tiny.read_json(finished / "environment.json")["parameters"]
    params = dict(dotted(config.model_dump(mode="json")))
    assert len(params) > 80
    return params | {f"parameters.{name}": value for name, value in counts.items()}


@pytest.fixture(scope="module")
def series(desk):
    return pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])


class TestFile:
    @pytest.fixture(scope="class")
    def folder(self, place, run_id):
        (folder,) = (place / "tracked" / "files" / EXPERIMENT).iterdir()
        assert folder.name == run_id, "two processes, one run"
        return folder

    def test_metrics(self, folder, rows, results):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert all(line.pop("time") for line in lines)
        assert [(line.pop("step"), line) for line in lines] == [*rows, (None, results)]

    def test_params_tags_and_status(self, folder, params, tags, desk):
        assert tiny.read_json(folder / "params.json") == params
        summary = tiny.read_json(folder / "summary.json")
        assert (summary["status"], summary["run_name"]) == ("FINISHED", "run")
        dataset = json.loads(summary["tags"].pop("dataset"))
        assert summary["tags"] == tags
        assert dataset["files"] == {"series.csv": sha256_of(desk / "series.csv")}

    def test_artifacts_and_model(self, folder, finished, series):
        logged = {name for name in tiny.snapshot(folder / "artifacts") if name != "plots"}
        assert logged == {*ARTIFACTS, *PLOTS}
        for name in logged:
            assert (folder / "artifacts" / name).read_bytes() == (finished / name).read_bytes(), name
        pd.testing.assert_frame_equal(
            load_model(folder / "models" / "model").predict(series), load_model(finished).predict(series)
        )


class TestMLflow:
    @pytest.fixture(scope="class")
    def client(self, mlflow_uri):
        return MlflowClient(mlflow_uri)

    @pytest.fixture(scope="class")
    def run(self, client, place, run_id):
        (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        assert run.data.tags["tstune.run_id"] == run_id, "two processes, one run"
        return run

    def test_it_is_registered_there_too(self, client, run):
        assert [version.run_id for version in client.search_model_versions("name = 'tiny'")] == [run.info.run_id]

    def test_metrics(self, client, run, rows, results):
        expected: dict[str, list] = {name.replace("@", "_at_"): [(0, value)] for name, value in results.items()}
        for step, metrics in rows:
            for name, value in metrics.items():
                expected.setdefault(name, []).append((step, value))
        assert set(run.data.metrics) == set(expected)
        for name, points in expected.items():
            logged = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            assert logged == points, name

    def test_params_and_status(self, client, run, params, tmp_path):
        assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
        assert run.data.params == texts
        config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))).read_text())
        assert dict(dotted(config)) == {name: value for name, value in params.items() if "parameters." not in name}

    def test_what_its_pages_show(self, run, tags, finished, server):
        shown = {"description": "note.content", "source": "source.name", "commit": "source.git.commit"}
        assert {name: run.data.tags[f"mlflow.{shown[name]}" if name in shown else name] for name in tags} == tags
        assert run.data.tags["mlflow.source.type"] == "LOCAL"
        (used,) = run.inputs.dataset_inputs
        assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
        assert (used.dataset.name, len(used.dataset.digest)) == ("csv", 16)
        profile, manifest = json.loads(used.dataset.profile), tiny.read_json(finished / "manifest.json")
        assert profile["windows"] == manifest["windows"]
        assert profile["files"] == {"series.csv": manifest["files"][0]["sha256"]}
        page = f"{server.uri}/get-artifact?path=report.html&run_uuid={run.info.run_id}"  # what the viewer asks for
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert answer.read() == (finished / "report.html").read_bytes()

    def test_artifacts(self, client, run, finished, tmp_path):
        downloaded = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        logged = {str(path.relative_to(downloaded)) for path in downloaded.rglob("*") if path.is_file()}
        assert logged == {*ARTIFACTS, *PLOTS, "config.json"}
        for name in (*ARTIFACTS, *PLOTS):
            assert (downloaded / name).read_bytes() == (finished / name).read_bytes(), name

    def test_the_model_predicts_the_same(self, run, finished, series, mlflow_uri):
        mlflow.set_tracking_uri(mlflow_uri)
        try:
            loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        finally:
            mlflow.set_tracking_uri(None)
        assert loaded.metadata.signature is not None
        forecast = loaded.predict(series[["item_id", "timestamp", "load"]])
        assert len(forecast) == 2 * tiny.PREDICTION
        pd.testing.assert_frame_equal(forecast, load_model(finished).predict(series), check_exact=True)

    @pytest.mark.slow
    def test_the_model_loads_without_this_checkout(self, run, mlflow_uri, series, finished, desk, tmp_path):
        code = "import sys, mlflow.pyfunc, pandas as pd; m = mlflow.pyfunc.load_model(sys.argv[1]); "
        code += "f = m.predict(pd.read_csv(sys.argv[2], parse_dates=['timestamp'])); "
        code += "f.to_csv(sys.argv[3], index=False); import tstune; print(tstune.__file__)"
        output = tmp_path / "forecast.csv"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", code, f"runs:/{run.info.run_id}/model", desk / "series.csv", output],
            cwd=tmp_path,
            env=environment | {"MLFLOW_TRACKING_URI": mlflow_uri},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert str(ROOT) not in done.stdout
        forecast = pd.read_csv(output, parse_dates=["timestamp"])
        pd.testing.assert_frame_equal(forecast, load_model(finished).predict(series), check_dtype=False)


class TestWandb:
    @pytest.fixture(scope="class")
    def run(self, place, run_id):
        (run,) = read_offline_runs(place / "tracked" / "wandb")
        assert run.run_id == run_id, "two processes, one run"
        return run

    def test_metrics(self, run, rows, results):
        logged = [row for row in run.history if not any(name.startswith("plots/") for name in row)]
        assert [(row.pop("step"), row) for row in logged] == rows
        assert {name: run.summary[name] for name in results} == results

    def test_params_and_status(self, run, params):
        assert (run.project, run.name, run.exit_code) == ("project", "run", 0)
        tags = {name: value for name, value in run.config.items() if name.startswith("tags.")}
        assert run.config == params | tags
        assert {"tags.source", "tags.model", "tags.dataset", "tags.verdict", "tags.effect"} <= set(tags)
        assert run.notes

    def test_artifacts_and_model(self, run, finished):
        files = run.folder / "files"
        assert {name for name in run.files if name.startswith("artifacts/")} == {f"artifacts/{n}" for n in ARTIFACTS}
        for name in ARTIFACTS:
            assert (files / "artifacts" / name).read_bytes() == (finished / name).read_bytes(), name
        pictures = {name: row[f"{name}/path"] for row in run.history for name in PLOTS if f"{name}/path" in row}
        assert list(pictures) == PLOTS
        for name, picture in pictures.items():
            assert (files / picture).read_bytes() == (finished / name).read_bytes(), name
        ((kind, model),) = run.artifacts.values()
        assert (kind, set(model)) == ("model", MODEL)
        for name, local in model.items():
            assert local.read_bytes() == (finished / name).read_bytes(), name

    def test_no_process_stays(self, place):
        marker = str(place / "wandb_home" / "CACHE")  # in the environment of all that the run started
        started = [process for process in psutil.process_iter() if marker in _environment(process).values()]
        assert started == []


def _environment(process):
    try:
        return process.environ()
    except psutil.Error:  # it ended meanwhile
        return {}


class TestTensorBoard:
    @pytest.fixture(scope="class")
    def events(self, place, run_id):
        (folder,) = (place / "tracked" / "tensorboard" / EXPERIMENT).iterdir()
        assert folder.name == run_id
        assert len(list(folder.iterdir())) == 1, "two processes, one file"
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        events.Reload()
        return events

    def test_metrics(self, events, rows, results):
        expected: dict[str, list] = {name: [(0, value)] for name, value in results.items()}
        for step, metrics in rows:
            for name, value in metrics.items():
                expected.setdefault(name, []).append((step, value))
        assert set(events.Tags()["scalars"]) == set(expected)
        for name, points in expected.items():
            logged = [(event.step, event.value) for event in events.Scalars(name)]
            assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in points], name

    def test_params_and_status(self, events, params, results):
        tags = events.summary_metadata
        begin = HParamsPluginData.FromString(tags["_hparams_/session_start_info"].plugin_data.content)
        given = begin.session_start_info.hparams
        assert set(given) == set(params)
        for name, value in params.items():
            if isinstance(value, int | float):
                assert given[name].number_value == pytest.approx(float(value)), name
            else:
                assert given[name].string_value == (value if isinstance(value, str) else json.dumps(value)), name
        columns = HParamsPluginData.FromString(tags["_hparams_/experiment"].plugin_data.content).experiment
        shown = {column.name.tag for column in columns.metric_infos}
        assert shown == {name for name in results if name.startswith("at_a_glance/")}, "few columns"
        groups = sorted({name.partition("/")[0] for name in events.Tags()["scalars"]})
        assert groups[0] == "at_a_glance", "TensorBoard opens the first two groups"
        end = HParamsPluginData.FromString(tags["_hparams_/session_end_info"].plugin_data.content)
        success = 1
        assert end.session_end_info.status == success

    def test_pictures_texts_and_paths(self, events, finished, tags):
        assert events.Tags()["images"] == PLOTS
        for name in PLOTS:
            assert events.Images(name)[0].encoded_image_string == (finished / name).read_bytes(), name
        for tag, path in {f"artifacts/{name}": finished / name for name in ARTIFACTS}.items():
            assert events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode() == str(path)
        for name, text in tags.items():
            assert events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode() == text
        model = events.Tensors("models/model/text_summary")[0].tensor_proto.string_val[0].decode()
        assert load_model(model).config.output_dir == str(finished)


class TestSecrets:
    def test_no_file_holds_one(self, place, server):
        folders = [place, server.folder]
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        names = {path.name for path in files}
        assert {"metrics.json", "mlflow.db", "summary.json", "MLmodel", "server.log", "stderr.txt"} <= names
        assert any(name.endswith(".wandb") for name in names)
        assert any(name.startswith("events.out.tfevents") for name in names)
        assert open_registry(str(place / "registry")).versions("tiny"), "the registry was written too"
        found = [
            (str(path), name)
            for path in files
            for content in _contents(path)
            for name, value in SECRETS.items()
            if value.encode() in content
        ]
        assert found == []

    def test_the_search_finds_what_is_there(self, tmp_path):
        (tmp_path / "packed.gz").write_bytes(gzip.compress(SECRETS["HF_TOKEN"].encode()))
        assert any(SECRETS["HF_TOKEN"].encode() in content for content in _contents(tmp_path / "packed.gz"))


def _contents(path):
    """The bytes of a file, unpacked too."""
    content = path.read_bytes()
    return [content, gzip.decompress(content)] if content[:2] == b"\x1f\x8b" else [content]


def test_it_says_little(place):
    said = (place / "stderr.txt").read_text() + (place / "stdout.txt").read_text()
    assert said.count("wandb: send this run with: wandb sync") == 1
    noise = ("mlflow", "alembic", "urllib3", "View run", "Add type hints", "input example", "Downloading")
    assert [word for word in noise if word in said] == []
