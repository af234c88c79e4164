"""The web server: paths, statuses, what OpenAPI says of them, whose connection goes first, and a clean stop."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Collection
from functools import partial
from ipaddress import ip_address

import h11
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tstune.data.table import ITEM, TIMESTAMP
from tstune.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError, TstuneError
from tstune.serving import ServingLimits
from tstune.serving.reading import RequestError, in_json_places, json_object
from tstune.serving.service import ForecastService


def protocol(limits: ServingLimits) -> partial:
    """What `uvicorn.Config(http=…)` takes; uvicorn itself waits for the head of a request for ever."""
    return partial(_Connection, limits)


class _Connection(H11Protocol):
    """Given up if no request is in hand for `head_seconds`, or at once to make room for a newer one.

    Room is made by the client (its address) that has most of those connections that the server waits for, the longest
    waiting first: a flood of half-sent requests pushes out itself.
    """

    def __init__(self, limits: ServingLimits, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._silent_since = self.loop.time()

    @property
    def host(self) -> str | None:
        """Who is at the other end; a reverse proxy, where there is one."""
        return self.client[0] if self.client else None

    @property
    def has_request(self) -> bool:
        """Whether a whole head is there and its answer is not."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def awaits_client(self) -> bool:
        """Whether the next thing to come is the client's: the rest of a head, or of a body."""
        return not self.has_request or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a head; make room for it."""
        super().connection_made(transport)
        # or the body of an answer waits, up to 40 ms, until the client has acknowledged the head
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()
        if len(self.connections) > self._limits.max_connections:
            waiting = [one for one in self.connections if one.awaits_client and not one.transport.is_closing()]
            number = Counter(one.host for one in waiting)
            min(waiting, key=lambda one: (-number[one.host], one._silent_since)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stop the clock once the head is whole; the body has a clock of its own."""
        if self._is_refused:
            return
        super().data_received(data)
        if self.has_request and not self._is_refused:
            self._timer.cancel()
        if not self.has_request and self.conn.their_state is h11.SEND_BODY:  # refused: 256 kB of its rest in 10 ms
            self.flow.pause_reading()
            self.loop.call_later(0.01, self.flow.resume_reading)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and let the rest of it come: to close now would take the answer back."""
        self._is_refused, status = True, getattr(sys.exception(), "error_status_hint", 400)
        self._wait()
        self.flow.resume_reading()
        if self.cycle is not None:  # a body broke off, or what followed it is none
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        text = {"error": "no HTTP request, or one whose address and headers have more than 64 kB"}
        headers = [(b"content-type", _JSON.encode()), (b"connection", b"close")]
        head, body = h11.Response(status_code=status, headers=headers), h11.Data(json.dumps(text).encode())
        self.transport.write(b"".join(map(self.conn.send, (head, body, h11.EndOfMessage()))))
        self.transport.write_eof()

    def on_response_complete(self) -> None:
        """Wait for the next head, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        if not self.has_request and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._silent_since = self.loop.time()
        self._timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)


TOKEN = "TSTUNE_SERVE_TOKEN"
"""Environment variable of the token that clients must send."""
_JSON = "application/json"
_ERROR = json_object("Error", {"error": str})
_HEALTH = json_object("Health", {"live": bool, "ready": bool, "model": str, "version": str, "loaded": str})


def create_app(service: ForecastService, hosts: Collection[str] | None = None, token: str | None = None) -> FastAPI:
    """The application of one model.

    Args:
        service: the model.
        hosts: names by which the server may be addressed, None allows any: it keeps a page that claims a name of its
            own for 127.0.0.1 from reading forecasts.
        token: who asks about the model or a forecast must send it (`Authorization: Bearer …`); None asks nobody.
    """
    name, version = service.label["name"], service.label["version"]
    texts = {"title": f"Forecasts of {name}", "description": "`GET /model` says what the model expects."}
    errors = dict.fromkeys((HTTPException, TstuneError, ClientDisconnect, Exception), _error)
    app = FastAPIOffline(**texts, version=version, redoc_url=None, exception_handlers=errors)

    def check(sent: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:  # noqa: B008
        if sent is None or not secrets.compare_digest(sent.credentials.encode(), token.encode()):
            raise HTTPException(401, "send the server's token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})

    closed = {"dependencies": [Depends(check)]} if token else {}
    refusals = {401: {"model": _ERROR}} if token else {}

    def counted(inner: ASGIApp) -> ASGIApp:  # `BaseHTTPMiddleware` would start a task of its own for each request
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            begin, status = time.perf_counter(), 500

            async def noted(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            try:
                await inner(scope, receive, noted)
            finally:
                if scope["type"] == "http":  # strangers think of many paths
                    path = getattr(scope.get("route"), "path", "other")
                    service.answers.labels(path, status).inc()
                    if status >= 400:
                        service.errors.labels(path, status).inc()
                    service.seconds.labels(path).observe(time.perf_counter() - begin)

        return answer

    app.add_middleware(counted)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    targets, levels = service.model.preprocessor.roles.target, service.model.quantile_levels
    values = [*targets, *(f"{target}_q{level:g}" for target in targets for level in levels)]
    row = json_object("ForecastRow", {ITEM: str, TIMESTAMP: str} | dict.fromkeys(values, float))
    kinds = {"model": dict[str, str], "unit": str | None, "frequency": str, "columns": list[str], "forecast": list[row]}
    body = {"schema": {"$ref": "#/components/schemas/ForecastRequest"}}  # of the example in GET /model
    if service.example and not token:  # its numbers are about those of the training data
        body["examples"] = {"complete": {"value": service.example}}
    on_the_way: Counter[str] = Counter()

    @app.post(
        "/forecast",
        openapi_extra={"requestBody": {"required": True, "content": {_JSON: body}}},
        response_model=json_object("Forecast", kinds),
        responses={status: {"model": _ERROR} for status in (400, 408, 413, 415, 422, 500, 503)} | refusals,
        **closed,
    )
    async def forecast(request: Request) -> Response:
        """Forecast what follows the last reading of every series, in original units."""
        content = await read_body(request, service.limits, on_the_way)
        with service.admitted():  # not before: who sends slowly takes no place
            answer = await asyncio.get_running_loop().run_in_executor(service.pool, service.answer, content)
        return Response(answer, media_type=_JSON)

    @app.get("/health", response_model=_HEALTH, responses={503: {"model": _HEALTH}})
    async def health() -> Response:
        """Is the server alive and ready?"""
        content = {"live": True, "ready": service.is_ready, "model": name, "version": version, "loaded": service.loaded}
        return JSONResponse(content, 200 if service.is_ready else 503)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", response_class=Response, responses={200: text} | refusals, **closed)
    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    facts = service.facts()
    kinds = {key: kind for key, (kind, _) in facts.items()}

    @app.get("/model", response_model=json_object("Model", kinds), responses=refusals, **closed)
    async def model() -> Response:
        """What the model expects, with a complete example request."""
        return JSONResponse({key: value for key, (_, value) in facts.items()})

    return app


async def read_body(request: Request, limits: ServingLimits, on_the_way: Counter[str]) -> bytes:
    """Read a body of plain JSON, no further than it may be.

    A page of another site cannot send this type without asking first, which the server does not allow.

    Args:
        request: its head has been read.
        limits: of its bytes and of its time; bodies of one client may take a quarter of what all requests in hand may.
        on_the_way: client -> bytes of its bodies that are being read.

    Raises:
        RequestError: 415 it is something else, 413 it is too large, 408 it did not come in time, 503 its client has
            too much on the way.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if (kind, coding) != (_JSON, "identity"):
        raise RequestError(
            f"the request has content type {kind or 'none'}, packed as {coding}; send plain {_JSON}", 415
        )
    content, stated = bytearray(), int(request.headers.get("content-length", 0))
    client, share = request.client.host if request.client else "", max(1, limits.max_queue // 4) * limits.max_bytes
    told = f"the request is larger than {limits.max_bytes} bytes; send fewer series, or the last readings of each"
    too_large = RequestError(told, 413)
    if stated > limits.max_bytes:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                content += part
                on_the_way[client] += len(part)
                if len(content) > limits.max_bytes:
                    raise too_large
                if on_the_way[client] > share:
                    raise RequestError(f"{share} bytes of your requests are on their way; ask again in a second", 503)
    except TimeoutError:
        raise RequestError(f"the request did not arrive within {limits.body_seconds:g} s; send it again", 408) from None
    finally:
        on_the_way[client] -= len(content)
        if not on_the_way[client]:
            del on_the_way[client]
    return bytes(content)


async def _error(request: Request, error: Exception) -> Response:
    """Whatever went wrong as one line, in one form."""
    status, text, headers = 500, "the server failed; its log holds the reason", None
    if isinstance(error, HTTPException):  # an unknown path or method
        status, text, headers = error.status_code, f"{error.detail}; see /docs, or /openapi.json", error.headers
    elif isinstance(error, ClientDisconnect):  # nobody reads it; it is a line in the metrics
        status, text = 499, "the request broke off"
    elif isinstance(error, RequestError):
        status, text, headers = error.status, str(error), {"Retry-After": "1"} if error.status == 503 else None
    elif isinstance(error, TstuneError):
        status, text = 422, in_json_places(str(error))
    return JSONResponse({"error": text}, status, headers)


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; `port` 0 takes a free one.

    Raises:
        ConfigError: it is in use, or not an address of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port} cannot be used: {reason}; choose another one") from None


class _Server(uvicorn.Server):
    announcement = ""
    stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.announcement, flush=True)  # from here on signals are handled

    def handle_exit(self, sig: int, frame: object) -> None:
        """Remember the signal: uvicorn would raise it again, and the exit code would not be ours."""
        self.force_exit = self.stopped_by is not None
        self.stopped_by, self.should_exit = sig, True


def serve(
    service: ForecastService,
    listening: socket.socket,
    hosts: Collection[str] = (),
    root_path: str = "",
    token: str | None = None,
) -> int:
    """Answer until a signal comes, then finish what was begun; a second signal ends it at once.

    Args:
        service: the model.
        listening: see `bind`.
        hosts: further names by which the server may be addressed, such as that of a reverse proxy.
        root_path: where a reverse proxy, which takes it away, shows the server.
        token: see `create_app`.

    Returns:
        exit code: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        ConfigError: more connections than the system allows.
    """
    host, port = listening.getsockname()[:2]
    is_local = ip_address(host.partition("%")[0]).is_loopback
    if not is_local:
        who = "and nothing is encrypted" if token else "and asks nobody who they are"
        fix = "put a server with TLS in front" if token else f"put a server with TLS in front, set {TOKEN}"
        text = f"warning: {host} can be reached from other machines {who}; {fix}, or use --host 127.0.0.1"
        print(text, file=sys.stderr, flush=True)
    names = ("localhost", "127.0.0.1", "::1", "[::1]", host, *hosts) if is_local or hosts else None
    app = create_app(service, names, token)
    most = service.limits.max_connections
    _allow_files(2 * most + 256)  # as many again may be accepted before one is told to go
    # no log of requests: a line for each tells no more than /metrics
    quiet = {"log_config": None, "log_level": "error", "access_log": False, "server_header": False}
    ways = {"http": protocol(service.limits), "loop": "asyncio", "ws": "none", "backlog": most, "root_path": root_path}
    server = _Server(uvicorn.Config(app, timeout_graceful_shutdown=60, **ways, **quiet))
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/docs"
    server.announcement = f"serving {service.label['name']} {service.label['version']}: {address}"
    server.run(sockets=[listening])
    code = EXIT_INTERRUPTED if server.stopped_by == signal.SIGINT else EXIT_OK
    if server.force_exit:
        os._exit(code)  # the interpreter would wait for forecasts that nobody waits for any more
    service.close()
    return code


def _allow_files(number: int) -> None:
    """Let this process have so many open files, a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise ConfigError(f"--max-connections needs {number} open files and the system allows {hard}; lower it")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
