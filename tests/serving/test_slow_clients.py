"""Fault 21: half-sent heads, slow bodies and floods stop nobody else."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import psutil
import pytest
import uvicorn
from test_process import call, pending, started, until

from tstune.serving import ServingLimits
from tstune.serving.app import bind, create_app, protocol
from tstune.serving.service import ForecastService

HEAD = b"POST /forecast HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
PATIENCE = 120  # far beyond every limit of the server, on a busy machine, too


@pytest.fixture(scope="module")
def server(plain_run: Path) -> Iterator[tuple[psutil.Process, int]]:
    limits = "--max-queue", 4, "--head-seconds", 2, "--body-seconds", 4
    process, port = started("--model", plain_run, *limits, "--root-path", "/cgm", "--allow-host", "forecasts.example")
    yield psutil.Process(process.pid), port
    process.terminate()
    assert process.wait(timeout=600) == 0
    assert process.stderr.read_text() == ""


def half_sent(port: int, content: bytes, client: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=300, source_address=(client, 0))
    connection.sendall(content)
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Whether the server ends it, before the patience of the socket does; what it said is passed over."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1000):
            continue
    return True


def seconds_until_ended(connection: socket.socket) -> float:
    """How long one may go on sending little by little."""
    begin = time.monotonic()
    while time.monotonic() < begin + PATIENCE:
        try:
            connection.sendall(b"a")
        except (BrokenPipeError, ConnectionResetError):
            break
        time.sleep(0.2)
    return time.monotonic() - begin


def test_fault_21_half_sent_heads_do_not_stop_health(server: tuple[psutil.Process, int]) -> None:
    _, port = server
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(half_sent(port, HEAD))
        assert call(port, "GET", "/health")[0] == 200


def test_fault_21_a_client_that_sends_little_by_little_is_left(server: tuple[psutil.Process, int]) -> None:
    _, port = server
    assert 0.5 < seconds_until_ended(half_sent(port, b"GET /health HTTP/1.1\r\nX-Slow: ")) < PATIENCE
    endless = half_sent(port, HEAD + b"Content-Length: 99999999\r\n\r\n")
    assert b"413" in endless.recv(100)
    assert seconds_until_ended(endless) < PATIENCE, "refused, and goes on sending"
    again = half_sent(port, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"200" in again.recv(1000)
    again.sendall(b"GET /health HTT")  # the second head on one connection
    assert is_ended(again)


def test_fault_21_slow_bodies_take_no_place(server: tuple[psutil.Process, int]) -> None:
    _, port = server
    with ExitStack() as stack:
        slow = [stack.enter_context(half_sent(port, HEAD + b"Content-Length: 999\r\n\r\n{")) for _ in range(64)]
        assert pending(port) == 0
        assert call(port, "POST", "/forecast", b"{}")[0] == 422, "not 503"
        answer = slow[0].recv(1000)
        assert b"408" in answer
        assert b"did not arrive within 4 s" in answer + slow[0].recv(1000)


@pytest.fixture
def crowded(plain: tuple) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server in this process with room for eight, where nobody is ended for being slow."""
    limits = ServingLimits(max_connections=8, head_seconds=3600, body_seconds=3600)
    service = ForecastService(*plain, limits)
    server = uvicorn.Server(uvicorn.Config(create_app(service), http=protocol(limits), log_config=None, ws="none"))
    with bind("127.0.0.1", 0) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield server, listening.getsockname()[1]
        server.should_exit = server.force_exit = True
        thread.join(timeout=600)
        assert not thread.is_alive()
    service.close()


def test_fault_21_a_flood_pushes_out_itself(crowded: tuple[uvicorn.Server, int]) -> None:
    server, port = crowded
    with ExitStack() as stack:
        patient = stack.enter_context(half_sent(port, HEAD + b"Content-Length: 2\r\n\r\n{", client="127.0.0.2"))
        until(lambda: len(server.server_state.connections) == 1)
        flood = [stack.enter_context(half_sent(port, HEAD, client="127.0.0.3")) for _ in range(20)]
        assert all(map(is_ended, flood[:13])), "the longest waiting of who has most, until eight are left"
        until(lambda: len(server.server_state.connections) == 8)
        patient.sendall(b"}")
        assert b"422" in patient.recv(1000), "an older connection of another client lives on"
        flood[-1].sendall(b"Content-Length: 2\r\n\r\n{}")
        assert b"422" in flood[-1].recv(1000), "and so does the youngest of its own"


def test_fault_21_the_rest_of_a_refused_body_takes_nobodys_time(crowded: tuple[uvicorn.Server, int]) -> None:
    with half_sent(crowded[1], HEAD + b"Content-Length: 99999999\r\n\r\n") as refused:
        assert b"413" in refused.recv(100)
        begin = time.monotonic()
        refused.sendall(bytes(30_000_000))
        assert time.monotonic() - begin > 0.3, "it is read little by little"


def test_an_answer_does_not_wait_to_be_acknowledged(crowded: tuple[uvicorn.Server, int]) -> None:
    server, port = crowded
    with half_sent(port, HEAD):
        until(lambda: len(server.server_state.connections) == 1)
        [connection] = server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "else it takes 40 ms"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /forecast/" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Item: " + b"a" * 1_000_000 + b"\r\n\r\n", b"431"),
        (b"\x16\x03\x01" + b"a" * 1_000_000, b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n" + b"a" * 1_000_000, b"400"),
    ],
    ids=["address", "header", "no HTTP", "chunk"],
)
def test_fault_21_what_is_no_request_is_told_so_before_it_is_left(
    head: bytes, status: bytes, server: tuple[psutil.Process, int]
) -> None:
    _, port = server
    with half_sent(port, head) as connection, connection.makefile("rb") as answer:
        assert answer.readline().split()[1] == status
        assert b'"error": "no HTTP request' in answer.read()


def test_fault_21_behind_a_proxy(server: tuple[psutil.Process, int]) -> None:
    _, port = server
    asked = half_sent(port, b"GET /openapi.json HTTP/1.0\r\nHost: forecasts.example\r\n\r\n")
    with asked.makefile("rb") as answer:
        assert b'"servers":[{"url":"/cgm"}]' in answer.read()


@pytest.mark.slow
def test_fault_21_memory_is_flat_over_20_000_requests(server: tuple[psutil.Process, int]) -> None:
    process, port = server
    good = json.dumps(json.loads(call(port, "GET", "/model")[1])["example"]).encode()

    def ask(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for number in range(count):
            body = good if number % 20 == 0 else b'{"rows": [{"item_id": "%d"}]}' % number
            connection.request("POST", f"/forecast?{number}", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status in (200, 408, 422, 503)  # 408: this machine stood still
            answer.read()

    def ask_together(count: int) -> float:
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(ask, [count // 4] * 4))
        until(lambda: pending(port) == 0)
        return process.memory_info().rss / 2**20

    warm = ask_together(4_000)
    assert ask_together(20_000) - warm < 15, "MiB"
