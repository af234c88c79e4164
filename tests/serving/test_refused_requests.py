"""Requests that are wrong get one clear line, the right status and no traceback; requests that are too much too."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fastapi.testclient import TestClient
from serving_stock import future_plan, rich_series, rows_of
from support import tiny

from tstune.errors import ConfigError
from tstune.serving import ServingLimits
from tstune.serving.app import create_app, read_body
from tstune.serving.reading import RequestError, RequestForm, in_json_places
from tstune.serving.service import ForecastService

Start = Callable[..., TestClient]
JSON = {"content-type": "application/json"}


def history() -> list[dict]:
    return rows_of(tiny.series(rows=40)[["item_id", "timestamp", "load"]])


def rows(*values: object, **fields: object) -> bytes:
    return json.dumps({"rows": list(values) or history()} | fields).encode()


def changed(**values: object) -> bytes:
    """A request whose row 7 differs; a value of ... is left out."""
    row = history()[7] | values
    table = history()
    table[7] = {name: value for name, value in row.items() if value is not ...}
    return rows(*table)


MISSING_B = [row | ({"load": None} if row["item_id"] == "b" else {}) for row in history()]
NUMBER = "; write a number within ±1e15, or null where there is no reading"
BAD = {  # name: body, status, words
    "nothing": (b"", 400, "the request is not JSON: EOF while parsing a value at line 1 column 0"),
    "cut off": (b'{"rows": [', 400, "the request is not JSON: EOF while parsing a list at line 1 column 10"),
    "NaN": (changed(load=math.nan), 422, f"rows[7]: column 'load' is NaN{NUMBER}"),
    "Infinity": (changed(load=-math.inf), 422, f"rows[7]: column 'load' is -Infinity{NUMBER}"),
    "a number without end": (b'{"rows": [{"load": %s}]}' % (b"9" * 5000), 400, "number out of range at line 1"),
    "no UTF-8": (b'{"rows": "\xff"}', 400, "the request is not JSON: "),
    "half a letter": (changed(item_id="\ud800"), 400, "the request is not JSON: "),
    "nested": (b"[" * 100_000, 400, "recursion limit exceeded"),
    "a list": (b"[]", 422, 'the request is []; write an object with the history: {"rows": […]}'),
    "no rows": (b"{}", 422, "rows is missing; write a list with a row per series and time"),
    "empty rows": (b'{"rows": []}', 422, "rows is []; write a list with a row per series and time"),
    "rows of text": (b'{"rows": "abc"}', 422, 'rows is "abc"; write a list'),
    "a row of numbers": (rows(1), 422, "rows[0] is 1; write an object with a value per column"),
    "a field too many": (rows(unit="kW"), 422, "unit is not read by this model; it reads rows"),
    "a future for no reason": (rows(future=[{}]), 422, "future is not read by this model; it reads rows"),
    "a column is missing": (changed(load=...), 422, f"rows[7]: column 'load' is missing{NUMBER}"),
    "a column misspelt": (
        changed(load=..., laod=1),
        422,
        "rows[7]: column 'laod' is not read by this model; did you mean 'load'? it reads item_id, timestamp, load",
    ),
    "text": (changed(load="abc"), 422, f"rows[7]: column 'load' is \"abc\"{NUMBER}"),
    "a number as text": (changed(load="5.5"), 422, f"rows[7]: column 'load' is \"5.5\"{NUMBER}"),
    "true": (changed(load=True), 422, f"rows[7]: column 'load' is true{NUMBER}"),
    "a huge number": (changed(load=1e16), 422, f"rows[7]: column 'load' is 1e+16{NUMBER}"),
    "a number of thousands of digits": (changed(load=10**4000), 422, "rows[7]: column 'load' is 1000"),
    "a number beyond double": (changed(load=1).replace(b"1}", b"1e999}", 1), 422, "within ±1e15"),
    "a series without name": (changed(item_id=""), 422, "rows[7]: column 'item_id' is \"\"; write text of 1 to 200"),
    "a series of null": (changed(item_id=None), 422, "rows[7]: column 'item_id' is null; write text of 1 to 200"),
    "a time of words": (changed(timestamp="yesterday"), 422, "'timestamp' is \"yesterday\"; write a time in ISO 8601"),
    "a time of numbers": (changed(timestamp=1700000000), 422, "'timestamp' is 1700000000; write a time in ISO 8601"),
    "a line break": (changed(timestamp="2024-01-01\n"), 422, "; write a time in ISO 8601"),
    "no such day": (changed(timestamp="2024-02-30"), 422, "rows[7]: '2024-02-30' in column 'timestamp' is not a times"),
    "another zone": (
        changed(timestamp="2024-01-01T07:00Z"),
        422,
        "rows[7]: '2024-01-01T07:00Z' has a time zone and rows[0]: '2024-01-01 00:00:00' has none; write all alike",
    ),
    "twice": (
        changed(timestamp="2024-01-01T03:00"),
        422,
        "1 duplicate timestamp(s), first 2024-01-01 03:00:00 of series 'a'; keep one row per time",
    ),
    "too short": (rows(*history()[:20]), 422, "series 'a' has 20 steps of h; a forecast needs a history of 32"),
    "no reading": (rows(*MISSING_B), 422, "series 'b' holds no value to forecast from"),
    "a century": (changed(timestamp="1890-01-01"), 413, 'steps of h, longest series "a"; a request may reach over'),
}


def test_every_bad_request_is_counted() -> None:
    assert len(BAD) == 34


@pytest.fixture(scope="module")
def client(plain: tuple) -> Iterator[TestClient]:
    service = ForecastService(*plain, ServingLimits())
    yield TestClient(create_app(service), raise_server_exceptions=False)
    service.close()


@pytest.mark.parametrize("name", BAD)
def test_bad_request(name: str, client: TestClient) -> None:
    content, status, words = BAD[name]
    answer = client.post("/forecast", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    [(key, error)] = answer.json().items()
    assert (key, len(error) < 400) == ("error", True)
    assert words in error
    for never in ("\n", "Traceback", "data."):  # nor advice on settings that the sender does not have
        assert never not in error


def test_bad_columns_of_other_kinds(rich: tuple, start: Start) -> None:
    client, rows, future = start(rich), rows_of(rich_series()), rows_of(future_plan())

    def error(**fields: object) -> str:
        answer = client.post("/forecast", json=fields)
        assert answer.status_code == 422, answer.text
        return answer.json()["error"]

    assert error(rows=rows) == "future is missing; write a list with a row per series and time"
    wrong = [row | {"plan": None} for row in future]
    assert error(rows=rows, future=wrong) == "future[0]: column 'plan' is null; write a number within ±1e15"
    wrong = [row | {"timestamp": "2024-02-30"} for row in future]
    assert error(rows=rows, future=wrong).startswith("future[0]: '2024-02-30' in column")
    assert "series 'b' needs plan at every step from 2024-01-17 16:00:00" in error(rows=rows, future=future[:8])
    for name, value in (("site", 5), ("size", None)):
        wrong = [*rows[:5], rows[5] | {name: value}, *rows[6:]]
        assert error(rows=wrong, future=future).startswith(f"rows[5]: column '{name}' is ")
    moved = [*rows[:5], rows[5] | {"site": "south"}, *rows[6:]]
    assert error(rows=moved, future=future).startswith("rows[5]: static column 'site' of series 'a' is 'south'")
    unseen = [row | {"site": "west"} for row in rows]
    assert client.post("/forecast", json={"rows": unseen, "future": future}).status_code == 200


def test_a_sensor_may_say_low_or_high(plain: tuple) -> None:
    def read(column: str, value: object) -> object:
        roles = replace(plain[0].preprocessor.roles, target=(column,))
        form = RequestForm(replace(plain[0].preprocessor, roles=roles), ServingLimits())
        row = {"item_id": "a", "timestamp": "2024-01-01", column: value}
        return form.read(json.dumps({"rows": [row]}).encode())[0][column][0]

    assert (read("glucose", "Low"), read("glucose", 5)) == ("Low", 5.0)
    with pytest.raises(RequestError, match="column 'glucose' is \"low\"; write Low, High, or a number"):
        read("glucose", "low")
    with pytest.raises(RequestError, match="column 'load' is \"Low\"; write a number"):
        read("load", "Low")


def test_tables_are_counted_as_json_counts() -> None:
    assert in_json_places("input: row 5: 'x' is not a number") == "rows[3]: 'x' is not a number"
    assert in_json_places("future: row 2: 'x'") == "future[0]: 'x'"
    assert in_json_places("input: row five: 'row 7: x'") == "row five: 'row 7: x'"


def test_other_paths_methods_and_types(client: TestClient) -> None:
    assert client.get("/forecasts").status_code == 404
    assert client.get("/forecasts").json()["error"] == "Not Found; see /docs, or /openapi.json"
    wrong = client.get("/forecast")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    for headers in ({"Content-Type": "text/plain"}, {}, JSON | {"Content-Encoding": "gzip"}):
        answer = client.post("/forecast", content=b"{}", headers=headers)
        assert answer.status_code == 415, headers
        assert answer.json()["error"].startswith("the request ")


def test_fault_15_a_forecast_that_is_no_number_names_its_series(
    client: TestClient, plain: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain[0].forecast
    monkeypatch.setattr(plain[0], "forecast", lambda batch: whole(batch).index_fill(1, torch.tensor([2]), math.nan))
    answer = client.post("/forecast", content=rows(), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(
        "the forecast of series 'a' from 2024-01-02 16:00:00 on is nan at step 3 of "
    )


def test_a_fault_of_ours_is_500_without_its_reason(
    plain: tuple, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(plain)

    def fail(batch: dict) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(plain[0], "forecast", fail)
    answer = client.post("/forecast", json={"rows": history()})
    assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log holds the reason"})
    monkeypatch.undo()
    assert client.post("/forecast", json={"rows": history()}).status_code == 200, "the thread lives on"


class TestLimits:
    """What is too much is refused before work is put into it."""

    def test_rows_and_series(self, plain: tuple, start: Start) -> None:
        client = start(plain, max_rows=79)
        answer = client.post("/forecast", json={"rows": history()})
        assert (answer.status_code, answer.json()["error"][:29]) == (413, "80 rows are more than the 79 ")
        client = start(plain, max_series=1)
        answer = client.post("/forecast", json={"rows": history()})
        assert (answer.status_code, answer.json()["error"][:30]) == (413, "2 series are more than the 1 o")
        assert client.post("/forecast", json={"rows": history()[:40]}).status_code == 200

    def test_bytes_by_their_stated_number(self, plain: tuple, start: Start) -> None:
        body = json.dumps({"rows": history()}).encode()
        assert start(plain, max_bytes=len(body)).post("/forecast", content=body, headers=JSON).status_code == 200
        answer = start(plain, max_bytes=len(body) - 1).post("/forecast", content=body, headers=JSON)
        assert answer.status_code == 413
        assert answer.json()["error"].startswith(f"the request is larger than {len(body) - 1} bytes")

    def test_bytes_in_chunks_without_end(self, plain: tuple, start: Start) -> None:
        chunks = (b" " * 1000 for _ in range(1000))
        answer = start(plain, max_bytes=5_000).post("/forecast", content=chunks, headers=JSON)
        assert (answer.request.headers.get("content-length"), answer.status_code) == (None, 413)

    def test_no_more_is_read_than_may_be(self) -> None:
        parts: list[bytes] = []

        async def endless():
            while True:
                parts.append(b"x" * 1000)
                yield parts[-1]

        async def slow():
            await asyncio.sleep(60)
            yield b""

        on_the_way: Counter[str] = Counter()

        def read(stream: Callable, client: str = "a", **limits: int) -> bytes:
            request = SimpleNamespace(headers=JSON, stream=stream, client=SimpleNamespace(host=client))
            return asyncio.run(read_body(request, ServingLimits(**limits), on_the_way))

        with pytest.raises(RequestError, match="larger than 5000 bytes"):
            read(endless, max_bytes=5_000)
        assert len(parts) == 6
        with pytest.raises(RequestError, match="did not arrive within 1 s") as found:
            read(slow, body_seconds=1)
        assert found.value.status == 408
        on_the_way.update(greedy=5_000)
        with pytest.raises(RequestError, match="5000 bytes of your requests are on their way") as found:
            read(endless, "greedy", max_bytes=5_000, max_queue=1)
        assert found.value.status == 503
        assert on_the_way == {"greedy": 5_000}, "what was refused is forgotten"

    def test_a_full_house_says_when_to_come_again(
        self, plain: tuple, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client, go_on, whole = start(plain, max_queue=2), threading.Event(), plain[0].forecast

        def slow(batch: dict) -> object:
            assert go_on.wait(timeout=300)
            return whole(batch)

        monkeypatch.setattr(plain[0], "forecast", slow)
        ask = lambda _: client.post("/forecast", json={"rows": history()}).status_code  # noqa: E731
        pool = ThreadPoolExecutor(2)
        asked = pool.map(ask, range(2))
        until = time.monotonic() + 300
        while "tstune_queue_requests 2.0" not in client.get("/metrics").text:
            assert time.monotonic() < until
        assert client.get("/health").json()["ready"] is True
        refused = client.post("/forecast", json={"rows": history()})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"].startswith("the server has 2 requests in hand")
        go_on.set()
        assert list(asked) == [200, 200]
        assert client.post("/forecast", json={"rows": history()}).status_code == 200
        lines = client.get("/metrics").text
        assert 'tstune_requests_total{path="/forecast",status="503"} 1.0' in lines
        assert 'tstune_errors_total{path="/forecast",status="503"} 1.0' in lines
        assert "tstune_queue_requests 0.0" in lines

    @pytest.mark.parametrize("name", ["max_bytes", "max_rows", "max_series", "max_batch", "max_queue", "batch_wait"])
    def test_a_limit_that_is_none(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}=-1 must be at least"):
            ServingLimits(**{name: -1})


def test_metrics_and_health(plain: tuple, start: Start) -> None:
    client = start(plain)
    assert client.post("/forecast", json={"rows": history()}).status_code == 200
    assert client.post("/forecast", json={}).status_code == 422
    client.get("/../../etc/passwd")
    text = client.get("/metrics").text
    for line in (
        'tstune_requests_total{path="/forecast",status="200"} 1.0',
        'tstune_requests_total{path="other",status="404"} 1.0',
        'tstune_errors_total{path="/forecast",status="422"} 1.0',
        'tstune_request_seconds_count{path="/forecast"} 2.0',
        "tstune_batch_requests_count 2.0",  # the example of /model was the first
        "tstune_windows_forecast_total 3.0",
        f'tstune_model_info{{name="run",type="ttm",version="{plain[2]}"}} 1.0',
    ):
        assert line in text.splitlines()
    health = client.get("/health").json()
    assert health == {"live": True, "ready": True, "model": "run", "version": plain[2], "loaded": health["loaded"]}


def test_only_names_of_this_machine(plain: tuple) -> None:
    service = ForecastService(*plain, ServingLimits())
    local = TestClient(create_app(service, ("127.0.0.1", "localhost")), base_url="http://127.0.0.1:8000")
    assert local.get("/health").status_code == 200
    assert local.get("/health", headers={"Host": "evil.example:8000"}).status_code == 400
    service.close()
    stopped = local.get("/health")
    assert (stopped.status_code, stopped.json()["ready"]) == (503, False)
    assert local.post("/forecast", json={"rows": history()}).status_code == 503


def test_who_has_no_token_learns_nothing(plain: tuple) -> None:
    service = ForecastService(*plain, ServingLimits())
    client = TestClient(create_app(service, token="s3cret"), raise_server_exceptions=False)
    key = {"Authorization": "Bearer s3cret"}
    body = {"json": {"rows": history()}}
    for method, path, more in (("GET", "/model", {}), ("GET", "/metrics", {}), ("POST", "/forecast", body)):
        for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            refused = client.request(method, path, headers=sent, **more)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), (path, sent)
            assert refused.json()["error"].startswith("send the server's token: Authorization: Bearer …")
        assert client.request(method, path, headers=key, **more).status_code == 200
    assert client.get("/health").status_code == 200
    document = client.get("/openapi.json").json()
    assert "HTTPBearer" in document["components"]["securitySchemes"]
    assert "examples" not in str(document["paths"]["/forecast"]["post"]["requestBody"])
    service.close()


def test_behind_a_proxy_and_without_a_network(plain: tuple) -> None:
    service = ForecastService(*plain, ServingLimits())
    client = TestClient(create_app(service, ("forecasts.example",)), "http://forecasts.example", root_path="/cgm")
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/cgm/"), "nothing of the page lies elsewhere"
        assert client.get(address).status_code == 200
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/cgm"}]
    service.close()
