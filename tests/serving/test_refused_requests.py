"""Requests that are wrong get one clear line, the right status and no traceback; requests that are too much too."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from serving_stock import future_plan, rich_series, rows_of
from support import tiny

from tstune.errors import ConfigError
from tstune.serving.app import create_app, read_body
from tstune.serving.limits import ServingLimits
from tstune.serving.reading import RequestError, in_json_places
from tstune.serving.service import ForecastService

Start = Callable[..., TestClient]
JSON = {"Content-Type": "application/json"}


def history() -> list[dict]:
    return rows_of(tiny.series(rows=40)[["item_id", "timestamp", "load"]])


def changed(place: int, **values: object) -> bytes:
    rows = history()
    rows[place] |= values
    return json.dumps({"rows": rows}).encode()


def without(column: str) -> bytes:
    rows = history()
    del rows[3][column]
    return json.dumps({"rows": rows}).encode()


def plain_rows(rows: object, **fields: object) -> bytes:
    return json.dumps({"rows": rows} | fields).encode()


BAD = [
    ("nothing", b"", 400, "the request is not JSON: line 1 column 1"),
    ("cut off", b'{"rows": [', 400, "the request is not JSON: line 1 column 11"),
    (
        "NaN",
        b'{"rows": [{"item_id": "a", "timestamp": "2024-01-01", "load": NaN}]}',
        400,
        "NaN is not JSON: write null",
    ),
    ("Infinity", b'{"rows": [{"load": -Infinity}]}', 400, "-Infinity is not JSON: write null"),
    ("a number without end", b'{"rows": [{"load": %s}]}' % (b"9" * 5000), 400, "a number with thousands of digits"),
    ("no UTF-8", b'{"rows": "\xff"}', 400, "the request is not UTF-8 text"),
    ("nested", b"[" * 100_000, 400, "nested too deeply"),
    ("a list", b"[]", 422, 'the request is []; send an object with the history: {"rows": […]}'),
    ("no rows", b"{}", 422, "the request has no rows; add the history"),
    ("empty rows", b'{"rows": []}', 422, "rows is []; send a list with a row per series and time"),
    ("rows of text", b'{"rows": "abc"}', 422, 'rows is "abc"; send a list'),
    ("a row of numbers", b'{"rows": [1]}', 422, "rows[0] is 1; send an object with a value per column"),
    ("a field too many", plain_rows(history(), unit="kW"), 422, 'the request has no field "unit"; its fields are rows'),
    ("a future for no reason", plain_rows(history(), future=[{}]), 422, "leave future out"),
    ("a column is missing", without("load"), 422, "rows[3]: column 'load' is missing; write it in every row"),
    (
        "a column misspelt",
        changed(3, laod=1),
        422,
        "rows[3]: column \"laod\" is not read by this model; did you mean 'load'?",
    ),
    ("text", changed(7, load="abc"), 422, "rows[7]: column 'load' holds \"abc\", which is not a number"),
    ("a number as text", changed(7, load="5.5"), 422, "rows[7]: column 'load' holds \"5.5\", which is not a number"),
    ("true", changed(7, load=True), 422, "rows[7]: column 'load' holds true, which is not a number"),
    ("a huge number", changed(7, load=1e16), 422, "rows[7]: column 'load' holds a number beyond ±1e+15"),
    ("a number beyond double", changed(7, load=1).replace(b"1}", b"1e999}"), 422, "beyond ±1e+15"),
    (
        "a series without name",
        changed(7, item_id=""),
        422,
        "rows[7]: column 'item_id' holds \"\", which names no series",
    ),
    ("a series of null", changed(7, item_id=None), 422, "rows[7]: column 'item_id' holds null, which names no series"),
    ("half a letter", changed(7, item_id="\ud800"), 422, "rows[7]: column 'item_id' holds"),
    ("a time of words", changed(7, timestamp="yesterday"), 422, 'holds "yesterday", which is no time; write ISO 8601'),
    ("a time of numbers", changed(7, timestamp=1700000000), 422, "holds 1700000000, which is no time"),
    ("a line break", changed(7, timestamp="2024-01-01\n"), 422, "which is no time"),
    (
        "no such day",
        changed(7, timestamp="2024-02-30"),
        422,
        "rows[7]: column 'timestamp' holds \"2024-02-30\", a day that",
    ),
    (
        "another zone",
        changed(7, timestamp="2024-01-01T07:00Z"),
        422,
        "rows[7]: column 'timestamp' has a time zone and rows[0]",
    ),
    (
        "twice",
        changed(7, timestamp="2024-01-01T03:00"),
        422,
        "rows[7] and rows[3] hold the same time 2024-01-01 03:00:00",
    ),
    ("too short", plain_rows(history()[:20]), 422, "series 'a' has 20 steps of h; a forecast needs a history of 32"),
    (
        "no reading",
        plain_rows([row | ({"load": None} if row["item_id"] == "b" else {}) for row in history()]),
        422,
        "series 'b' holds no value to forecast from",
    ),
    ("a century", changed(7, timestamp="1890-01-01"), 413, 'steps of h, longest series "a"; a request may reach over'),
]


def test_every_bad_request_is_counted() -> None:
    assert len({name for name, *_ in BAD}) == len(BAD) == 33


@pytest.fixture(scope="module")
def client(plain: tuple) -> Iterator[TestClient]:
    service = ForecastService(*plain, ServingLimits())
    yield TestClient(create_app(service), raise_server_exceptions=False)
    service.close()


@pytest.mark.parametrize(("name", "content", "status", "words"), BAD, ids=[name for name, *_ in BAD])
def test_bad_request(name: str, content: bytes, status: int, words: str, client: TestClient) -> None:
    answer = client.post("/forecast", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert words in error
    assert "\n" not in error
    assert len(error) < 400
    assert "Traceback" not in error


def test_bad_columns_of_other_kinds(rich: tuple, start: Start) -> None:
    client, rows, future = start(rich), rows_of(rich_series()), rows_of(future_plan())

    def error(**fields: object) -> str:
        answer = client.post("/forecast", json=fields)
        assert answer.status_code == 422, answer.text
        return answer.json()["error"]

    assert "the request has no future; add plan over the forecast" in error(rows=rows)
    wrong = [row | {"plan": None} for row in future]
    assert error(rows=rows, future=wrong).startswith("future[0]: column 'plan' holds null, which must be known")
    assert "series 'b' needs plan at every step from 2024-01-17 16:00:00" in error(rows=rows, future=future[:8])
    assert error(rows=[*rows[:5], rows[5] | {"site": 5}, *rows[6:]], future=future).startswith("rows[5]: column 'site'")
    assert error(rows=[*rows[:5], rows[5] | {"size": None}], future=future).startswith("rows[5]: column 'size' holds")
    moved = [*rows[:5], rows[5] | {"site": "south"}, *rows[6:]]
    assert error(rows=moved, future=future).startswith("rows[5]: static column 'site' of series 'a' is 'south'")
    unseen = [row | {"site": "west"} for row in rows]
    assert client.post("/forecast", json={"rows": unseen, "future": future}).status_code == 200


def test_a_sensor_may_say_low_or_high() -> None:
    glucose, load = Column("glucose", "target"), Column("load", "target")
    glucose.check("Low", "rows[0]")
    with pytest.raises(RequestError, match="or one of Low, High"):
        glucose.check("low", "rows[0]")
    with pytest.raises(RequestError, match="is not a number"):
        load.check("Low", "rows[0]")


def test_rows_are_counted_as_json_counts() -> None:
    assert in_json_places("input: row 5: 'x' is not a number") == "rows[3]: 'x' is not a number"
    assert in_json_places("future: row 2: 'x'") == "future[0]: 'x'"
    assert in_json_places("input: row five: 'row 7: x'") == "row five: 'row 7: x'"


def test_other_paths_methods_and_types(client: TestClient) -> None:
    assert client.get("/forecasts").status_code == 404
    assert "the paths are /forecast, /health, /metrics, /model" in client.get("/forecasts").json()["error"]
    wrong = client.get("/forecast")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    for headers in ({"Content-Type": "text/plain"}, {}, JSON | {"Content-Encoding": "gzip"}):
        answer = client.post("/forecast", content=b"{}", headers=headers)
        assert answer.status_code == 415, headers
        assert answer.json()["error"].startswith("the request ")


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
        taken = 0

        def chunks() -> Iterator[bytes]:
            nonlocal taken
            for _ in range(1000):
                taken += 1
                yield b" " * 1000

        answer = start(plain, max_bytes=5_000).post("/forecast", content=chunks(), headers=JSON)
        assert answer.request.headers.get("content-length") is None
        assert answer.status_code == 413

    def test_no_more_is_read_than_may_be(self) -> None:
        class Request:
            """As starlette's: an endless body, or one that never comes."""

            headers: dict = {}  # noqa: RUF012
            num_parts = 0

            async def stream(self):
                while True:
                    self.num_parts += 1
                    yield b"x" * 1000

        class Slow(Request):
            async def stream(self):
                await asyncio.sleep(60)
                yield b""

        request = Request()
        with pytest.raises(RequestError, match="larger than 5000 bytes"):
            asyncio.run(read_body(request, ServingLimits(max_bytes=5_000)))
        assert request.num_parts == 6
        with pytest.raises(RequestError, match=r"did not arrive within 1 s") as found:
            asyncio.run(read_body(Slow(), ServingLimits(body_seconds=1)))
        assert found.value.status == 408

    def test_a_full_house_says_when_to_come_again(
        self, plain: tuple, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client, go_on, whole = start(plain, max_queue=2), threading.Event(), plain[0].forecast

        def slow(batch: dict) -> object:
            assert go_on.wait(timeout=30)
            return whole(batch)

        monkeypatch.setattr(plain[0], "forecast", slow)
        statuses: list[int] = []
        askers = [
            threading.Thread(
                target=lambda: statuses.append(client.post("/forecast", json={"rows": history()}).status_code)
            )
            for _ in range(2)
        ]
        for asker in askers:
            asker.start()
        until = time.monotonic() + 20
        while "tstune_queue_requests 2.0" not in client.get("/metrics").text:
            assert time.monotonic() < until
        assert client.get("/health").json()["ready"] is True
        refused = client.post("/forecast", json={"rows": history()})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"].startswith("the server has 2 requests in hand")
        go_on.set()
        for asker in askers:
            asker.join()
        assert statuses == [200, 200]
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
    assert health == {"live": True, "ready": True, "model": "run", "version": plain[2], "loaded": plain.loaded}


def test_only_names_of_this_machine(plain: tuple) -> None:
    service = ForecastService(*plain, ServingLimits())
    local = TestClient(create_app(service, ("127.0.0.1", "localhost")), base_url="http://127.0.0.1:8000")
    assert local.get("/health").status_code == 200
    assert local.get("/health", headers={"Host": "evil.example:8000"}).status_code == 400
    service.close()
    stopped = local.get("/health")
    assert (stopped.status_code, stopped.json()["ready"]) == (503, False)
    assert local.post("/forecast", json={"rows": history()}).status_code == 503
