"""The real server in a process of its own: answers on loopback, health during a forecast, signals, a taken port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from serving_stock import frame_of, rows_of
from support import tiny
from support.forks import Fork

import serve_forecasts
from tstune.models.registry import load_model

Server = tuple[Fork, int]


def command(*arguments: object) -> list[str]:
    return [sys.executable, serve_forecasts.__file__, *map(str, arguments)]


def started(*arguments: object) -> Server:
    """A server that answers, and its port."""
    process = Fork(command(*arguments, "--port", 0))
    until(lambda: process.poll() is not None or "\n" in process.stdout.read_text())
    line = process.stdout.read_text()
    assert line.startswith("serving run "), process.stderr.read_text()
    return process, int(line.rpartition(":")[2].split("/")[0])


@pytest.fixture
def server(plain_run: Path) -> Iterator[Server]:
    process, port = started("--model", plain_run)
    yield process, port
    process.kill()
    process.wait()


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def pending(port: int) -> float:
    lines = call(port, "GET", "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith("tstune_queue_requests ")).split()[1])


def test_a_whole_life(server: Server, plain_run: Path) -> None:
    process, port = server
    history = tiny.series(rows=40)[["item_id", "timestamp", "load"]]
    status, answer = call(port, "POST", "/forecast", json.dumps({"rows": rows_of(history)}).encode())
    assert status == 200
    expected = load_model(plain_run).predict(history)["load"]
    np.testing.assert_allclose(frame_of(json.loads(answer))["load"], expected, rtol=1e-5)

    # a forecast of many series takes a while: the server is asked meanwhile, and told to stop
    names = tuple(f"series {number}" for number in range(400))
    many = json.dumps({"rows": rows_of(tiny.series(rows=40, items=names)[["item_id", "timestamp", "load"]])}).encode()
    found: list[tuple[int, bytes]] = []
    asker = threading.Thread(target=lambda: found.append(call(port, "POST", "/forecast", many)))
    asker.start()
    until(lambda: pending(port) == 1)
    status, health = call(port, "GET", "/health")
    assert (status, json.loads(health)["ready"]) == (200, True)
    assert found == [], "the forecast is not done yet"

    taken = Fork(command("--model", plain_run, "--port", port))
    out, error = taken.communicate()
    assert (taken.returncode, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"error: --host 127.0.0.1 --port {port} cannot be used: Address already in use")

    assert process.poll() is None
    if not asker.is_alive():  # a fast machine: begin another one
        asker = threading.Thread(target=lambda: found.append(call(port, "POST", "/forecast", many)))
        asker.start()
        until(lambda: pending(port) == 1)
    process.send_signal(signal.SIGTERM)
    asker.join(timeout=600)
    assert [status for status, _ in found] == [200] * len(found)
    assert len(json.loads(found[-1][1])["forecast"]) == 400 * tiny.PREDICTION
    assert process.wait(timeout=300) == 0
    assert process.stderr.read_text() == ""
    with pytest.raises(ConnectionRefusedError):
        call(port, "GET", "/health")


@pytest.mark.slow
def test_ctrl_c_and_a_warning_beyond_loopback(plain_run: Path) -> None:
    process, port = started("--model", plain_run, "--host", "0.0.0.0")
    assert call(port, "GET", "/health")[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert process.stderr.read_text().startswith("warning: 0.0.0.0 can be reached from other machines and asks nobody")


def test_an_empty_token_is_no_open_door(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSTUNE_SERVE_TOKEN", "")
    assert serve_forecasts.main(["--model", "run", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: TSTUNE_SERVE_TOKEN is empty; put a long random text into it")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "no..name"), "--host no..name --port 0 cannot be used: "),
        (("--host", "192.0.2.1"), "--host 192.0.2.1 --port 0 cannot be used: Cannot assign requested address"),
        (("--port", "70000"), "--port 70000 cannot be used: bind(): port must be 0-65535"),
        (("--max-batch", "0"), "--max-batch=0 must be at least 1"),
        (("--batch-wait", "nan"), "--batch-wait=nan must be at least 0"),
        (("--threads", "0"), "--threads=0 must be at least 1"),
        ((), "is not a run folder: preprocessor.json is missing"),
        (("--model", "registry:cgm@champion", "--registry", "nowhere"), "there is no registry in nowhere"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.listdir(tmp_path)
    assert serve_forecasts.main(["--model", "run", "--port", "0", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert os.listdir(tmp_path) == before
