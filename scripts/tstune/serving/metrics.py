"""What Prometheus is told."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from tstune.serving.served_model import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_OTHER = "other"


class ServingMetrics:
    """Counters of one server, in a registry of their own.

    Args:
        served: the model that answers.
        num_pending: requests that are read, waiting or forecast right now.
    """

    def __init__(self, served: ServedModel, num_pending: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        place = {"registry": self.registry}
        self._requests = Counter("tstune_requests", "Answers by path and status", ["path", "status"], **place)
        self._errors = Counter("tstune_errors", "Answers with a status from 400 on", ["path", "status"], **place)
        self._seconds = Histogram(
            "tstune_request_seconds",
            "From head to whole answer",
            ["path"],
            buckets=_SECONDS,
            **place,
        )
        self._batch = Histogram("tstune_batch_requests", "Requests of one forward pass", buckets=_SIZES, **place)
        self._windows = Counter("tstune_windows_forecast", "Series that were forecast", **place)
        queue = Gauge("tstune_queue_requests", "Requests that are read, waiting or forecast", **place)
        queue.set_function(num_pending)
        name = {"name": served.name, "version": served.version, "type": served.model.model_type}
        Info("tstune_model", "The model that answers", **place).info(name)

    def saw_pass(self, num_requests: int, num_windows: int) -> None:
        """Count a forward pass."""
        self._batch.observe(num_requests)
        self._windows.inc(num_windows)

    def saw_answer(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(path, str(status)).inc()
        if status >= 400:
            self._errors.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class CountAnswers:
    """ASGI middleware that counts and times every answer.

    Args:
        app: what answers.
        metrics: counts.
        paths: of the server; any other is counted as ``other``, whatever names strangers think of.
    """

    def __init__(self, app: Callable, metrics: ServingMetrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def counted(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else _OTHER
            self._metrics.saw_answer(path, status, time.perf_counter() - begin)
