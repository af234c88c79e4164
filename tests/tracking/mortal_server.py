"""A real MLflow server that a test can stop and start again."""

from __future__ import annotations

from contextlib import ExitStack

from launched import free_port
from mlflow_server import running_mlflow_server


class Server:
    """An MLflow server that can die and come back under the same URI, with what it knew."""

    def __init__(self, folder):
        self.port, self.folder, self._running = free_port(), folder, ExitStack()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self._running.enter_context(running_mlflow_server(self.folder, self.port))

    def stop(self):
        self._running.close()

    def process_group(self):
        """Of the server and its workers."""
        return int((self.folder / "pid").read_text())
