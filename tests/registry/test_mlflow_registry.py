"""What only the registry on an MLflow server does: addresses, damage, strangers, killed registrations."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from launched import free_port
from registry_runs import FILES, assert_intact, content, finish, refusal, start, stored, with_large_file, write_run

from tstune.errors import RegistryError
from tstune.registry import MLflowModelRegistry, open_registry
from tstune.registry.mlflow_registry import EXPERIMENT


@pytest.fixture
def remote(server: str) -> MLflowModelRegistry:
    return MLflowModelRegistry(server)


def run_folder(server_folder: Path, registry: MLflowModelRegistry, reference: str) -> Path:
    """Where the server keeps the artifacts of a version."""
    name, _, number = reference.partition(":")
    run_id = registry._client.get_model_version(name, number).run_id
    return next((server_folder / "artifacts").glob(f"*/{run_id}/artifacts"))


def test_what_mlflow_shows(remote: MLflowModelRegistry, name: str, tmp_path: Path, server_folder: Path) -> None:
    run = write_run(tmp_path / "run")
    remote.register(run, name, "the first", {"site": "clinic-2"})
    remote.set_alias(f"{name}:1", "champion")
    found = remote._client.get_model_version_by_alias(name, "champion")
    assert (int(found.version), found.description, found.status) == (1, "the first", "READY")
    assert found.tags["tstune.tag.site"] == "clinic-2"
    assert found.tags["tstune.manifest_sha256"] == remote.get(f"{name}:1").manifest_sha256
    logged = run_folder(server_folder, remote, f"{name}:1")
    assert found.source.endswith("/artifacts/run")
    assert content(logged / "run") == stored(run)
    record = json.loads((logged / "record.json").read_text())
    assert [file["path"] for file in record["files"]] == FILES, "the checksums lie beside the files"
    assert remote._client.get_run(found.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("path", ["run/model/model.safetensors", "run/config.yaml", "record.json"])
def test_a_flipped_byte_is_refused(
    path: str, remote: MLflowModelRegistry, name: str, tmp_path: Path, server: str, server_folder: Path
) -> None:
    remote.register(write_run(tmp_path / "run"), name)
    place = run_folder(server_folder, remote, f"{name}:1") / path
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    fresh = MLflowModelRegistry(server)
    for read in (lambda: fresh.load(f"{name}:1"), lambda: fresh.download(f"{name}:1", tmp_path / "copy")):
        with pytest.raises(RegistryError) as caught:
            read()
        refusal(caught.value, f"{name}:1", path.removeprefix("run/"), "damaged")
    place.unlink()
    with pytest.raises(RegistryError) as caught:
        fresh.load(f"{name}:1")
    refusal(caught.value, f"{name}:1", path.removeprefix("run/"), "gone")
    assert [folder.name for folder in tmp_path.iterdir()] == ["run"], "nothing half-written"


def test_killed_in_the_middle_of_a_registration(remote: MLflowModelRegistry, name: str, tmp_path: Path) -> None:
    remote.register(write_run(tmp_path / "first"), name)
    run = with_large_file(write_run(tmp_path / "run"), megabytes=100)
    (tmp_path / "temporary").mkdir()  # what a killed process leaves there is pytest's to remove
    process = start(remote.location, "register", run, "--name", name, TMPDIR=str(tmp_path / "temporary"))
    experiment = remote._client.get_experiment_by_name(EXPERIMENT).experiment_id
    mine = f"tags.`tstune.model` = '{name}'"
    deadline = time.monotonic() + 60
    while len(remote._client.search_runs([experiment], mine)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert_intact(remote, name, [1])
    assert remote.register(tmp_path / "first", name).version == 2
    assert_intact(remote, name, [1, 2])


def test_clean_deletes_old_runs_without_a_version(remote: MLflowModelRegistry, name: str, tmp_path: Path) -> None:
    remote.register(write_run(tmp_path / "run"), name)
    remote.clean()
    client = remote._client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    now = int(time.time() * 1000)
    old = client.create_run(experiment, start_time=now - 25 * 3600 * 1000).info.run_id
    young = client.create_run(experiment, start_time=now - 60_000).info.run_id
    assert remote.clean().count == 1
    stages = [client.get_run(run_id).info.lifecycle_stage for run_id in (old, young)]
    assert stages == ["deleted", "active"], "the young one may be a registration that goes on"
    assert remote.clean().count == 0
    assert_intact(remote, name, [1])


def test_versions_of_others_are_left_alone(remote: MLflowModelRegistry, name: str, tmp_path: Path) -> None:
    client = remote._client
    client.create_registered_model(name)
    strange = client.create_run(client.create_experiment(f"{name}-theirs")).info
    client.create_model_version(name, f"{strange.artifact_uri}/model", strange.run_id)
    assert name not in remote.names()
    assert remote.versions(name) == []
    with pytest.raises(RegistryError) as caught:
        remote.get(f"{name}:1")
    refusal(caught.value, f"{name}:1", "not registered by tstune")
    assert remote.register(write_run(tmp_path / "run"), name).version == 2
    assert_intact(remote, name, [2])
    remote.clean()
    assert client.get_run(strange.run_id).info.lifecycle_stage == "active"


def test_the_history_of_an_alias_fits_into_a_tag(remote: MLflowModelRegistry, name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        remote.register(write_run(tmp_path / f"run{number}"), name)
    remote.set_alias(f"{name}:1", "champion")
    line = {"action": "set", "version": 1, "changed": "2026-01-01T00:00:00+00:00"}
    remote._client.set_registered_model_tag(name, "tstune.alias_history.champion", json.dumps([line] * 50))
    remote.set_alias(f"{name}:2", "champion")
    history = remote.alias_history(name, "champion")
    assert (len(history), history[-1].version) == (50, 2)
    assert remote.rollback(name, "champion").version == 1
    with pytest.raises(RegistryError) as caught:
        remote.set_alias(f"{name}:2", "with.dot")
    refusal(caught.value, "Invalid alias name", "with.dot")


def test_files_that_mlflow_cannot_name(remote: MLflowModelRegistry, name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "50%.json").write_text("{}")
    with pytest.raises(RegistryError) as caught:
        remote.register(run, name)
    refusal(caught.value, "50%.json", "MLflow cannot store")
    assert remote.versions(name) == []


def test_a_sqlite_file_instead_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    run = write_run(tmp_path / "run")
    registry = open_registry("mlflow+sqlite:///kept/mlflow.db")
    registry.register(run, "cgm")
    registry.set_alias("cgm:1", "champion")
    assert content(registry.download("cgm@champion", tmp_path / "copy")) == stored(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "kept", "run"], "MLflow's mlruns is not here"
    for place, words in {
        "mlflow+sqlite:///nowhere/mlflow.db": ("nowhere", "folder", "does not exist"),
        "mlflow+sqlite:///run/README.md": ("README.md", "not a database"),
    }.items():
        with pytest.raises(RegistryError) as caught:
            open_registry(place).names()
        refusal(caught.value, *words)


@pytest.mark.parametrize(
    "place",
    [
        *["mlflow+http://me:geheim@127.0.0.1:5000", "mlflow+https://geheim@host", "mlflow+http://me:ge/heim@host"],
        *[
            "mlflow+ftp://geheim@host",
            "mlflow+me:geheim@host:5000",
            "mlflow+http://",
            "mlflow+postgresql://me:geheim@host/db",
        ],
    ],
)
def test_addresses_that_are_refused(place: str) -> None:
    with pytest.raises(RegistryError) as caught:
        open_registry(place)
    message = refusal(caught.value, "mlflow+")
    assert "geheim" not in message
    assert "@" not in message
    if place.startswith("mlflow+http") and "@" in place:
        assert "MLFLOW_TRACKING_PASSWORD" in message


def test_a_dead_server_is_one_line_soon(tmp_path: Path) -> None:
    place = f"mlflow+http://127.0.0.1:{free_port()}"
    begin = time.monotonic()
    process = start(place, "register", write_run(tmp_path / "run"), "--name", "cgm")
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: {place}: the server does not answer; is it running?\n"
    assert time.monotonic() - begin < 45


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that is not MLflow, or does not let us in."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>\nno\n</html>")

        def log_message(self, *arguments: object) -> None:
            sys.stderr.write("")

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, ("credentials", "MLFLOW_TRACKING_TOKEN")), (403, ("credentials",)), (404, ("404",)), (200, ("JSON",))],
)
def test_servers_that_refuse(status: int, words: tuple[str, ...]) -> None:
    with answering(status) as address, pytest.raises(RegistryError) as caught:
        MLflowModelRegistry(address).names()
    refusal(caught.value, f"mlflow+{address}", *words)


def test_no_secret_is_stored(server: str, server_folder: Path, name: str, tmp_path: Path) -> None:
    """Keys of the environment are in no file of either registry."""
    secrets = {
        "MLFLOW_TRACKING_USERNAME": "fake-user-0001",
        "MLFLOW_TRACKING_PASSWORD": "fake-password-0002",
        "WANDB_API_KEY": "fake-key-0003",
        "AWS_SECRET_ACCESS_KEY": "fake-key-0004",
        "HF_TOKEN": "fake-token-0005",
    }
    run = write_run(tmp_path / "run")
    for place in (str(tmp_path / "registry"), f"mlflow+{server}"):
        said = finish(start(place, "register", run, "--name", name, **secrets))
        assert said.startswith(f"{name}:1 registered")
        assert not any(secret in said for secret in secrets.values())
    finish(start(tmp_path / "registry", "export", f"{name}:1", "--to", tmp_path / "cgm.zip", **secrets))
    files = [path for folder in (tmp_path, server_folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 2 * len(FILES)
    assert any(name.encode() in path.read_bytes() for path in files), "the search finds what is there"
    for path in files:
        found = [key for key, secret in secrets.items() if secret.encode() in path.read_bytes()]
        assert found == [], path
