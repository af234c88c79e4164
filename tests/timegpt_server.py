"""A local server that speaks the protocol of nixtla's client, for TimeGPT without TimeGPT."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import zstandard

KEY = "nixak-secret-of-this-test"
INPUT_SIZE, HORIZON = 64, 8
HANG, DROP = "hang", "drop"


@dataclass
class Service:
    """What the server knows and has seen.

    Its forecast is the last reading, plus the future exogenous values; a fine-tuned model goes half the way to the mean
    of what it was tuned on. Bounds lie around it by the spread of the series.

    Attributes:
        url: address.
        failures: answers to the next posts instead of the right ones: (status, body), `HANG`, `DROP`, or a function of
            the right answer.
        requests: (path, headers in lower case, body) of every post.
        stored: id -> mean of fine-tuned models.
    """

    url: str = ""
    failures: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    stored: dict = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        stored = body["finetuned_model_id"]
        if stored is not None and stored not in self.stored:
            return 404, {"detail": f"model {stored} not found"}
        if path == "/v2/finetune":
            found = body["output_model_id"] or f"tuned-{len(self.stored)}"
            self.stored[found] = float(np.mean(body["series"]["y"]))
            return 200, {"finetuned_model_id": found}
        if path != "/v2/forecast":
            return 404, {"detail": "Not Found"}
        series, steps = body["series"], body["h"]
        assert sum(series["sizes"]) == len(series["y"])
        assert all(len(row) == len(series["y"]) for row in series["X"] or [])
        assert all(len(row) == steps * len(series["sizes"]) for row in series["X_future"] or [])
        parts = np.split(np.array(series["y"], float), np.cumsum(series["sizes"])[:-1])
        mean = np.repeat([part[-1] for part in parts], steps)
        if stored is not None:
            mean = (mean + self.stored[stored]) / 2
        for row in series["X_future"] or []:
            mean = mean + np.array(row)
        spread = np.repeat([part.std() for part in parts], steps)
        intervals = {}
        for level in body["level"] or []:
            intervals[f"lo-{level}"] = (mean - level / 50 * spread).tolist()
            intervals[f"hi-{level}"] = (mean + level / 50 * spread).tolist()
        return 200, {"mean": mean.tolist(), "intervals": intervals or None, "weights_x": None}

    def bodies(self, path: str = "/v2/forecast") -> list[dict]:
        return [body for seen, _, body in self.requests if seen == path]


@contextmanager
def running_service() -> Iterator[Service]:
    """Serve on a free port of this machine."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            asked = urlparse(self.path)
            if not self._is_known():
                return
            if asked.path != "/model_params" or set(parse_qs(asked.query)) != {"model", "freq"}:
                self._send(404, {"detail": "Not Found"})
                return
            self._send(200, {"detail": {"input_size": INPUT_SIZE, "horizon": HORIZON}})

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = self.rfile.read(int(headers["content-length"]))
            if headers.get("content-encoding") == "zstd":
                content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
            body = json.loads(content)
            service.requests.append((self.path, headers, body))
            if not self._is_known():
                return
            failure = service.failures.pop(0) if service.failures else None
            if failure == HANG:
                service.released.wait(10)
            if failure in (HANG, DROP):
                self.close_connection = True
                return
            if isinstance(failure, tuple):
                self._send(*failure)
                return
            status, answer = service.answer(self.path, body)
            self._send(status, failure(answer) if failure else answer)

        def _is_known(self) -> bool:
            known = self.headers["authorization"] == f"Bearer {KEY}"
            if not known:  # some services repeat what they were given
                self._send(401, {"detail": f"Invalid token {self.headers['authorization']}"})
            return known

        def _send(self, status: int, body: object) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NIXTLA_API_KEY", KEY)
            patch.setenv("NIXTLA_BASE_URL", service.url)
            patch.setenv("NO_PROXY", "127.0.0.1")
            yield service
    finally:
        service.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
