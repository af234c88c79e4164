"""A real `mlflow server` for tests: SQLite backend, loopback only, ended with all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launched import free_port

START_SECONDS, STOP_SECONDS = 600, 60


@contextmanager
def running_mlflow_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Start a server that keeps its database and artifacts in `folder`; yields its URI.

    Args:
        folder: what an earlier server left there is served again. Its file `pid` names the server's process group.
        port: fixed port, to start a server again under the same URI; None takes a free one.

    Raises:
        RuntimeError: the server ended, or does not answer in time; the message ends with its log.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "NO_PROXY": "127.0.0.1"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven helper processes that nobody here asks
    with log.open("ab") as stream:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers end with it: the signal goes to the group
        )
    try:
        (folder / "pid").write_text(str(server.pid))
        _wait_until_healthy(server, uri, log)
        yield uri
    finally:
        _end(server)


def _wait_until_healthy(server: subprocess.Popen, uri: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with opener.open(f"{uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"mlflow server at {uri} does not answer: {error}\n{text[-4000:]}") from None
        time.sleep(0.2)


def _end(server: subprocess.Popen) -> None:
    """End the server and its workers; the group outlives its leader, so it is signalled in any case."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    server.wait(STOP_SECONDS)
