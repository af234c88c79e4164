"""A loaded model that answers requests, from bytes to bytes; those that come at one time share a forward pass."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from tstune.data.table import ITEM, TIMESTAMP
from tstune.data.windows import Batch
from tstune.domains import domain_of
from tstune.errors import ConfigError, TstuneError
from tstune.evaluation.intervals import SETTINGS, TENSORS
from tstune.models.adapters import ITEM_ADAPTERS_FOLDER
from tstune.models.contract import ADAPTER_FOLDER, MODEL_FOLDER
from tstune.models.predict import forecast_batch, forecast_table
from tstune.registry.model_registry import PREFIX, load_saved_model, open_registry
from tstune.runtime.logs import logger
from tstune.serving import ServingLimits
from tstune.serving.reading import FUTURE, ROWS, RequestError, RequestForm

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel

_LOADED = ("config.yaml", "preprocessor.json", SETTINGS, TENSORS, MODEL_FOLDER, ADAPTER_FOLDER, ITEM_ADAPTERS_FOLDER)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def open_model(model: str, registry: str | None = None, trust_code: bool = False) -> tuple[ForecastModel, str, str]:
    """Load a run folder, or ``registry:name@alias`` and ``registry:name:version``: the model, its name, its version."""
    if not model.startswith(PREFIX):
        return load_saved_model(model, trust_code=trust_code), Path(model).resolve().name, fingerprint(Path(model))
    version = open_registry(registry).get(model.removeprefix(PREFIX))  # once: an alias may move between two looks
    return load_saved_model(f"{PREFIX}{version.reference}", registry, trust_code), version.name, str(version.version)


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


@dataclass(eq=False)
class _Job:
    batch: Batch
    item_ids: Sequence[str]
    began: float = field(default_factory=time.monotonic)
    answer: Future = field(default_factory=Future)

    @property
    def num_windows(self) -> int:
        return len(self.batch["item"])


class ForwardQueue:
    """A thread that owns the network: it alone runs forward passes, each for all requests that are there.

    While fewer are there than `in_hand`, it waits for the others for at most `max_wait` seconds, so one client alone
    waits for nobody. Requests that share a pass have no more windows than the model takes at a time. Where a pass
    fails, each of its requests is run by itself and only the guilty one fails. `observe` is told (requests, windows).
    """

    def __init__(
        self,
        model: ForecastModel,
        max_requests: int,
        max_wait: float,
        in_hand: Collection[object],
        observe: Callable[[int, int], None],
    ) -> None:
        self._model, self._max_requests, self._max_wait = model, max_requests, max_wait
        self._in_hand, self._observe = in_hand, observe
        self._max_windows = model.evaluation_batch_size(torch.device("cpu"))
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")

    def forecast(self, batch: Batch, item_ids: Sequence[str]) -> tuple:
        """`forecast_batch` for the windows of one request."""
        job = _Job(batch, item_ids)
        self._jobs.append(job)
        self._thread.submit(self._next_pass)
        return job.answer.result()

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._thread.shutdown()

    def _next_pass(self) -> None:
        if not self._jobs:  # an earlier pass took all
            return
        end = self._jobs[0].began + self._max_wait
        while len(self._jobs) < len(self._in_hand) and time.monotonic() < end and self._has_room([*self._jobs], 1):
            time.sleep(0.0005)
        jobs = [self._jobs.popleft()]
        while self._jobs and self._has_room(jobs, self._jobs[0].num_windows):
            jobs.append(self._jobs.popleft())
        self._run(jobs)

    def _has_room(self, jobs: list[_Job], more: int) -> bool:
        full = sum(job.num_windows for job in jobs) + more > self._max_windows
        return len(jobs) < self._max_requests and not full

    def _run(self, jobs: list[_Job]) -> None:
        sizes, item_ids, items = [job.num_windows for job in jobs], [], []
        for job in jobs:
            items.append(job.batch["item"] + len(item_ids))
            item_ids += job.item_ids
        try:
            batch = {name: torch.cat([job.batch[name] for job in jobs]) for name in jobs[0].batch}
            point, quantiles = forecast_batch(self._model, batch | {"item": torch.cat(items)}, item_ids)
        except Exception as error:  # whatever it is, it belongs to a request, and this thread serves all of them
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:
                    self._run([job])
            return
        self._observe(len(jobs), sum(sizes))
        parts = [None] * len(jobs) if quantiles is None else quantiles.split(sizes)
        for job, *answer in zip(jobs, point.split(sizes), parts, strict=True):
            job.answer.set_result(answer)


class ForecastService:
    """Answers request bodies from many threads, a bounded number at a time; `model` reads tables as requests hold them.

    Raises:
        ConfigError: the model would send what it is asked to a paid service.
    """

    def __init__(self, model: ForecastModel, name: str, version: str, limits: ServingLimits) -> None:
        refuse_paid_service(model, name)
        model.require_built()
        columns = {"timestamp_column": TIMESTAMP, "item_id_column": ITEM, "columns_as": "channels"}
        model.preprocessor = replace(model.preprocessor, timestamp_format=None, keep_rows=None, **columns)
        self.model, self.limits, self.form = model, limits, RequestForm(model.preprocessor, limits)
        self.label = {"name": name, "version": version, "type": model.model_type}
        self.loaded, self.is_ready = datetime.now(UTC).isoformat(timespec="seconds"), True
        self.registry = place = CollectorRegistry()
        keys, sizes = ["path", "status"], (1, 2, 4, 8, 16, 32, 64, 128)
        self.answers = Counter("tstune_requests", "Answers by path and status", keys, registry=place)
        self.errors = Counter("tstune_errors", "Answers with a status from 400 on", keys, registry=place)
        self.seconds = Histogram("tstune_request_seconds", "To answer", ["path"], buckets=_SECONDS, registry=place)
        self._requests = Histogram("tstune_batch_requests", "Of one forward pass", buckets=sizes, registry=place)
        self._windows = Counter("tstune_windows_forecast", "Series that were forecast", registry=place)
        pending = Gauge("tstune_queue_requests", "Read, waiting or forecast right now", registry=place)
        self._in_hand: set[object] = set()
        pending.set_function(lambda: len(self._in_hand))
        Info("tstune_model", "The model that answers", registry=place).info(self.label)
        self._queue = ForwardQueue(model, limits.max_batch, limits.batch_wait / 1000, self._in_hand, self._saw_pass)
        self.pool = ThreadPoolExecutor(limits.max_queue, thread_name_prefix="request")
        self.example: dict | None = example_request(model, self.form)
        try:  # it warms the network up, too
            self.answer(json.dumps(self.example).encode())
        except TstuneError as error:
            logger.warning("no example request is shown: the model refused the one made for it: %s", error)
            self.example = None

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Take a place among the requests in hand.

        Raises:
            RequestError: 503, there is none left, or the server stops.
        """
        most, request = self.limits.max_queue, object()
        if not self.is_ready or len(self._in_hand) >= most:
            why = f"has {most} requests in hand, which is all it takes" if self.is_ready else "is stopping"
            raise RequestError(f"the server {why}; ask again in a second", 503)
        self._in_hand.add(request)
        try:
            yield
        finally:
            self._in_hand.discard(request)

    def answer(self, content: bytes) -> bytes:
        """Forecast what a request body asks for.

        Raises:
            RequestError: the request is wrong, see `RequestForm.read`.
            TstuneError: the model cannot forecast from it: the history is too short, or what comes is not a number.
        """
        forecast = forecast_table(self.model, *self.form.read(content), self._queue.forecast).columns()
        forecast[TIMESTAMP] = _in_iso_8601(forecast[TIMESTAMP])
        preprocessor, names = self.model.preprocessor, list(forecast)
        about = {"model": self.label, "unit": preprocessor.unit, "frequency": preprocessor.frequency}
        rows = zip(*(column.tolist() for column in forecast.values()), strict=True)
        about |= {"columns": names[2:], "forecast": [dict(zip(names, row, strict=True)) for row in rows]}
        return json.dumps(about, allow_nan=False).encode()

    def _saw_pass(self, num_requests: int, num_windows: int) -> None:
        self._requests.observe(num_requests)
        self._windows.inc(num_windows)

    def close(self) -> None:
        """Finish what is in hand, then stop the threads."""
        self.is_ready = False
        self.pool.shutdown()
        self._queue.close()

    def facts(self) -> dict[str, tuple[Any, object]]:
        """What the model expects of a request, in words and by example: name -> its type and its value."""
        preprocessor, lengths, adapters = self.model.preprocessor, self.model.config.model, self.model.item_adapters
        items = "each series is forecast by itself; item_id may be any name"
        if adapters is not None:
            own = f"{len(adapters.adapters)} series have an adapter of their own, found by item_id"
            items = f"{own}; every other one is forecast by the base"
        columns = {
            field: [{"name": name, "role": one.role, "meaning": one.meaning} for name, one in table.items()]
            for field, table in self.form.columns.items()
        }
        return {
            "model": (dict[str, str], self.label),
            "unit": (str | None, preprocessor.unit),
            "frequency": (str, preprocessor.frequency),
            "timezone": (str | None, preprocessor.cleaning.timezone),
            "context_length": (int, lengths.context_length),
            "shortest_history": (int, preprocessor.min_context or lengths.context_length),
            "prediction_length": (int, lengths.prediction_length),
            "quantile_levels": (list[float], list(self.model.quantile_levels)),
            "items": (str, items),
            "rows": (list[dict[str, str]], columns[ROWS]),
            "future": (list[dict[str, str]], columns.get(FUTURE, [])),
            "limits": (dict[str, float], asdict(self.limits)),
            "example": (self.form.body | None, self.example),
        }


def _in_iso_8601(stamps: pd.DatetimeIndex) -> np.ndarray:
    nanos = stamps.to_numpy("datetime64[ns]")
    is_whole = not (nanos.astype(np.int64) % 10**9).any()
    if stamps.tz is None:
        return np.datetime_as_string(nanos, unit="s" if is_whole else "ns")
    return np.array([stamp.isoformat(timespec="seconds" if is_whole else "nanoseconds") for stamp in stamps])


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
