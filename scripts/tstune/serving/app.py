"""The web application: paths, statuses, and what OpenAPI says of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from tstune.errors import TstuneError
from tstune.runtime.logs import logger
from tstune.serving import schemas
from tstune.serving.body import read_body, require_json
from tstune.serving.metrics import CountAnswers
from tstune.serving.refusals import RequestError
from tstune.serving.service import ForecastService

PATHS = ("/forecast", "/health", "/metrics", "/model")
_OWN_PATHS = (*PATHS, "/docs", "/openapi.json")
_METRICS_TYPE = "text/plain"
_FILE_ROW = re.compile(r"^(?:input|future): row (\d+): ")
_CLIENT_GONE = 499  # nobody reads it; it is a line in the metrics
_FAULTS = {
    400: "no JSON",
    408: "the body did not arrive in time",
    413: "more bytes, rows, series or steps than one request may hold",
    415: "another content type than application/json",
    422: "JSON that the model cannot forecast from; the message names the row and the column",
    500: "a fault of the server",
    503: "the server is busy; Retry-After says when to ask again",
}


def create_app(service: ForecastService, hosts: Collection[str] | None = None) -> FastAPI:
    """The application of one model.

    Args:
        service: makes the forecasts.
        hosts: names by which the server may be addressed; None allows any. It keeps a page that claims a name of its
            own for 127.0.0.1 from reading forecasts.
    """
    served, limits = service.served, service.limits
    app = FastAPI(
        title=f"Forecasts of {served.name}",
        version=served.version,
        description="Forecasts of one saved model. `GET /model` says what it expects.",
        redoc_url=None,
    )
    app.add_middleware(CountAnswers, metrics=service.metrics, paths=frozenset(_OWN_PATHS))
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_exception_handler(HTTPException, _http_error)
    _add_forecast(app, service)

    @app.get(
        "/health",
        summary="Is the server alive and ready?",
        responses={200: _json(schemas.health_schema(), "ready"), 503: _json(schemas.health_schema(), "stopping")},
    )
    async def health() -> Response:
        ready = service.is_ready
        content = {"live": True, "ready": ready, "model": served.name, "version": served.version}
        return JSONResponse(content | {"loaded": served.loaded}, status_code=200 if ready else 503)

    @app.get(
        "/metrics",
        summary="Counters in the text format of Prometheus",
        response_class=Response,
        responses={200: {"content": {_METRICS_TYPE: {"schema": {"type": "string"}}}, "description": "counters"}},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=f"{_METRICS_TYPE}; version=0.0.4; charset=utf-8")

    @app.get(
        "/model",
        summary="What the model expects, with a complete example request",
        responses={200: _json(schemas.model_schema(served, limits), "the model")},
    )
    async def model() -> Response:
        return JSONResponse(service.description)

    return app


def _add_forecast(app: FastAPI, service: ForecastService) -> None:
    request_body = {"schema": schemas.request_schema(service.served, service.limits)}
    if service.description["example"] is not None:
        request_body["examples"] = {"complete": {"value": service.description["example"]}}

    @app.post(
        "/forecast",
        summary="Forecast what follows the last reading of every series",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": request_body}}},
        responses={200: _json(schemas.forecast_schema(service.served), "the forecast, in original units")}
        | {status: _json(schemas.ERROR, text) for status, text in _FAULTS.items()},
    )
    async def forecast(request: Request) -> Response:
        try:
            require_json(request)
            with service.admitted() as arrival:
                content = await read_body(request, service.limits)
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(service.pool, service.answer, content, arrival)
            return Response(answer, media_type="application/json")
        except RequestError as error:
            return _error(str(error), error.status, error.headers)
        except TstuneError as error:
            return _error(in_json_places(str(error)), 422)
        except ClientDisconnect:
            return _error("the request broke off", _CLIENT_GONE)
        except Exception:
            logger.exception("a forecast failed; this is a fault of the server, not of the request")
            return _error("the server failed; its log holds the reason", 500)


def in_json_places(message: str) -> str:
    """Messages about tables count rows as an editor shows a file; JSON counts from 0 and has no header."""
    found = _FILE_ROW.match(message)
    if found:
        field = "future" if message.startswith("future") else "rows"
        message = f"{field}[{int(found[1]) - 2}]: {message[found.end() :]}"
    return " ".join(message.removeprefix("input: ").split())


async def _http_error(_: Request, error: HTTPException) -> Response:
    """Unknown paths and methods, in the form of all errors."""
    words = {404: f"there is no such path; the paths are {', '.join(PATHS)} and /docs"}
    words[405] = "this path has another method; /forecast takes POST, the others GET"
    return _error(words.get(error.status_code, str(error.detail)), error.status_code, error.headers)


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _json(schema: dict, description: str) -> dict:
    return {"content": {"application/json": {"schema": schema}}, "description": description}
