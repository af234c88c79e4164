"""A loaded model that answers requests: from the bytes of a request to the bytes of its answer."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from tstune.adapters import ITEM_ADAPTERS_FOLDER
from tstune.data.table import ITEM, TIMESTAMP
from tstune.domains import domain_of
from tstune.errors import ConfigError, TstuneError
from tstune.models.contract import ADAPTER_FOLDER, MODEL_FOLDER
from tstune.models.predict import Forward, predict_frame
from tstune.registry.opening import PREFIX, load_saved_model, open_registry
from tstune.runtime.logs import logger
from tstune.serving import ServingLimits
from tstune.serving.batching import ForwardQueue
from tstune.serving.reading import FUTURE, ROWS, RequestError, RequestForm, shown
from tstune.uncertainty.files import SETTINGS, TENSORS

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel

_LOADED = ("config.yaml", "preprocessor.json", SETTINGS, TENSORS, MODEL_FOLDER, ADAPTER_FOLDER, ITEM_ADAPTERS_FOLDER)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def open_model(model: str, registry: str | None = None) -> tuple[ForecastModel, str, str]:
    """Load a run folder, or ``registry:name@alias`` and ``registry:name:version``.

    Returns:
        the model, its name, its version: that of the registry, or the `fingerprint` of a run folder.

    Raises:
        CheckpointError, RegistryError: as in `load_saved_model`.
    """
    if not model.startswith(PREFIX):
        return load_saved_model(model), Path(model).resolve().name, fingerprint(Path(model))
    version = open_registry(registry).get(model.removeprefix(PREFIX))  # once: an alias may move between two looks
    return load_saved_model(f"{PREFIX}{version.reference}", registry), version.name, str(version.version)


def fingerprint(folder: Path) -> str:
    """First 12 digits of the SHA-256 over whatever `load_model` reads from a run folder."""
    digest = hashlib.sha256()
    for path in sorted(path for name in _LOADED for path in [folder / name, *(folder / name).rglob("*")]):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:12]


def refuse_paid_service(model: ForecastModel, name: str) -> None:
    """Stop if a model, or a member of an ensemble, is one."""
    if model.is_paid_service:
        raise ConfigError(
            f"{name} is a {model.model_type} model: whoever reaches the server would send readings to a paid service, "
            "on your account; forecast with scripts/predict_forecast.py instead"
        )
    for member in getattr(model, "members", ()):
        refuse_paid_service(member.model, f"{name}: its member {member.name}")


class ForecastService:
    """Answers request bodies from many threads, a bounded number at a time.

    Args:
        model: loaded; from now on it reads tables as the `form` of requests says.
        name: of the model, and `version`, for answers and metrics.
        limits: what a request and the server may hold.

    Raises:
        ConfigError: the model would send what it is asked to a paid service.
    """

    def __init__(self, model: ForecastModel, name: str, version: str, limits: ServingLimits) -> None:
        refuse_paid_service(model, name)
        model.require_built()
        columns = {"timestamp_column": TIMESTAMP, "item_id_column": ITEM, "columns_as": "channels"}
        model.preprocessor = replace(model.preprocessor, timestamp_format=None, **columns)
        self.model, self.limits, self.form = model, limits, RequestForm(model.preprocessor, limits)
        self.label = {"name": name, "version": version, "type": model.model_type}
        self.loaded, self.is_ready = datetime.now(UTC).isoformat(timespec="seconds"), True
        self.registry = place = CollectorRegistry()
        keys, sizes = ["path", "status"], (1, 2, 4, 8, 16, 32, 64, 128)
        self._answers = Counter("tstune_requests", "Answers by path and status", keys, registry=place)
        self._errors = Counter("tstune_errors", "Answers with a status from 400 on", keys, registry=place)
        self._seconds = Histogram("tstune_request_seconds", "To answer", ["path"], buckets=_SECONDS, registry=place)
        self._requests = Histogram("tstune_batch_requests", "Of one forward pass", buckets=sizes, registry=place)
        self._windows = Counter("tstune_windows_forecast", "Series that were forecast", registry=place)
        self._pending = Gauge("tstune_queue_requests", "Read, waiting or forecast right now", registry=place)
        Info("tstune_model", "The model that answers", registry=place).info(self.label)
        self._queue = ForwardQueue(model, limits.max_batch, limits.batch_wait / 1000, self._saw_pass)
        self._places = threading.BoundedSemaphore(limits.max_queue)
        self.pool = ThreadPoolExecutor(limits.max_queue, thread_name_prefix="request")
        self.example: dict | None = example_request(model, self.form)
        try:  # it warms the network up, too
            with self.admitted() as forward:
                self.answer(json.dumps(self.example).encode(), forward)
        except TstuneError as error:
            logger.warning("no example request is shown: the model refused the one made for it: %s", error)
            self.example = None

    @contextmanager
    def admitted(self) -> Iterator[Forward]:
        """Take a place among the requests in hand; gives what forecasts for it.

        Raises:
            RequestError: 503, there is none left, or the server stops.
        """
        if not self.is_ready:
            raise RequestError("the server is stopping; ask again later", 503)
        if not self._places.acquire(blocking=False):
            many = f"the server has {self.limits.max_queue} requests in hand, which is all it takes"
            raise RequestError(f"{many}; ask again in a second", 503)
        request = object()
        self._queue.coming.add(request)
        try:
            with self._pending.track_inprogress():
                yield partial(self._queue.forecast, request)
        finally:
            self._queue.coming.discard(request)
            self._places.release()

    def answer(self, content: bytes, forward: Forward) -> bytes:
        """Forecast what a request body asks for.

        Raises:
            RequestError: the request is wrong, see `RequestForm.read`, or its forecast is not a number.
            TstuneError: the model cannot forecast from it, for example because the history is too short.
        """
        forecast = predict_frame(self.model, *self.form.read(content), forward)
        values = list(forecast.columns[2:])
        finite = np.isfinite(forecast[values]).all(axis=1)
        if not finite.all():
            item = shown(forecast[ITEM][finite.idxmin()])
            raise RequestError(f"the forecast of series {item} is not a number; check its readings")
        stamps = forecast[TIMESTAMP].to_numpy("datetime64[ns]")
        is_whole = (stamps == stamps.astype("datetime64[s]")).all()
        forecast[TIMESTAMP] = np.datetime_as_string(stamps, unit="s" if is_whole else "ns")
        preprocessor = self.model.preprocessor
        about = {"model": self.label, "unit": preprocessor.unit, "frequency": preprocessor.frequency, "columns": values}
        return json.dumps(about | {"forecast": forecast.to_dict("records")}, allow_nan=False).encode()

    def saw_answer(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._answers.labels(path, str(status)).inc()
        if status >= 400:
            self._errors.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def _saw_pass(self, num_requests: int, num_windows: int) -> None:
        self._requests.observe(num_requests)
        self._windows.inc(num_windows)

    def close(self) -> None:
        """Finish what is in hand, then stop the threads."""
        self.is_ready = False
        self.pool.shutdown()
        self._queue.close()

    def describe(self) -> dict:
        """What the model expects of a request, in words and by example."""
        preprocessor, lengths, adapters = self.model.preprocessor, self.model.config.model, self.model.item_adapters
        items = "each series is forecast by itself; item_id may be any name"
        if adapters is not None:
            own = f"{len(adapters.adapters)} series have an adapter of their own, found by item_id"
            items = f"{own}; every other one is forecast by the base"
        columns = {
            field: [{"name": name, "role": one.role, "meaning": one.meaning} for name, one in table.items()]
            for field, table in ({FUTURE: {}} | self.form.columns).items()
        }
        return {
            "model": self.label,
            "unit": preprocessor.unit,
            "frequency": preprocessor.frequency,
            "timezone": preprocessor.cleaning.timezone,
            "context_length": lengths.context_length,
            "shortest_history": preprocessor.min_context or lengths.context_length,
            "prediction_length": lengths.prediction_length,
            "quantile_levels": list(self.model.quantile_levels),
            "items": items,
            **columns,
            "limits": asdict(self.limits),
            "example": self.example,
        }


def example_request(model: ForecastModel, form: RequestForm) -> dict:
    """A complete request: one series of whole length around the mean of the training data."""
    preprocessor, lengths, past = model.preprocessor, model.config.model, model.config.model.context_length
    roles, scaler, domain = preprocessor.roles, preprocessor.scaler, domain_of(preprocessor.unit)
    stamps = pd.date_range(end="2024-01-31", periods=past + lengths.prediction_length, freq=preprocessor.frequency)
    table = pd.DataFrame({ITEM: "example", TIMESTAMP: [stamp.isoformat() for stamp in stamps]})
    for name, column in form.columns[ROWS].items():
        if column.role == "static_categorical":
            table[name] = next(iter(roles.categories[roles.static_categorical.index(name)]), None)
        elif name in roles.channels:
            place = roles.channels.index(name)
            mean, std = float(scaler.mean[place]), float(scaler.std[place])
            if column.role == "target" and domain:  # its cleaning may refuse readings at 0
                mean, std = domain.typical(preprocessor.unit) or (mean, std)
            wave = mean + std * np.sin(table.index / 12) * (column.role != "static_real")
            table[name] = [float(f"{value:.4g}") for value in wave]
    parts = {ROWS: table[:past], FUTURE: table[past:]}
    return {field: parts[field][list(columns)].to_dict("records") for field, columns in form.columns.items()}
