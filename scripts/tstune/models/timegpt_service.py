"""The service behind TimeGPT: windows as series it takes, calls of nixtla's client, what went wrong in plain words."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from tstune.config.section import ModelSection
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import MISSING
from tstune.data.preprocess import Preprocessor
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import ConfigError, ServiceError
from tstune.named_code import optional_module
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from nixtla import NixtlaClient
    from nixtla.nixtla_client import ApiError

Answer = TypeVar("Answer")
KEY, BASE_URL = "NIXTLA_API_KEY", "NIXTLA_BASE_URL"
LONGEST_WAIT = 60.0
LONGEST_BODY = 300
BUSY = (408, 409, 429, 500, 502, 503, 504)
"""Answers that are worth another attempt."""
NOT_STARTED = (429, 503)
"""Answers that say that fine-tuning has not begun, so that another attempt is not paid for twice."""
ID, TIME, TARGET = "unique_id", "ds", "y"
FEWEST_READINGS = 2
"""A context with fewer has nothing to forecast from, and is not sent."""


@cache
def nixtla() -> ModuleType:
    """The module of nixtla's client, with `NixtlaClient`, `ApiError` and `httpx`."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        client = optional_module("nixtla.nixtla_client", "TimeGPT", "nixtla>=0.8,<0.9")
    finally:  # its import turns on the log lines of every library
        root.setLevel(level)
        root.handlers[:] = [handler for handler in root.handlers if handler in handlers]
    logging.getLogger("nixtla").setLevel(logging.CRITICAL)  # our own lines say what happens
    return client


@dataclass(frozen=True)
class SentSeries:
    """One target of one window."""

    y: np.ndarray  # [steps] readings, gaps filled; it begins at the first reading of the context
    known: np.ndarray  # [columns, steps + prediction] values of the columns that are known in the future
    past: np.ndarray  # [columns, steps] values of the columns that are known up to now
    origin: int  # time of the first forecast step, seconds since 1970

    def key(self) -> bytes:
        """The same for series that get the same forecast."""
        parts = (np.ascontiguousarray(part, np.float32).tobytes() for part in (self.y, self.known, self.past))
        return b"|".join(parts)


def window_series(batch: Batch, preprocessor: Preprocessor) -> list[SentSeries | None]:
    """Each target of each window, in this order; None where there is too little to forecast from."""
    roles, mean = preprocessor.roles, preprocessor.scaler.mean
    arrays = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
    values, observed, future = (arrays[name] for name in ("past_values", "past_observed_mask", "future_values"))
    usable = arrays.get("future_known_mask", np.ones(future.shape, bool))
    known = roles.control_indices
    past = range(roles.num_targets, roles.num_targets + len(roles.conditional))
    found: list[SentSeries | None] = []
    for window in range(len(values)):
        ahead = [
            filled(
                np.concatenate([values[window, :, place], future[window, :, place]]),
                np.concatenate([observed[window, :, place], usable[window, :, place]]),
                mean[place],
            )
            for place in known
        ]
        behind = [filled(values[window, :, place], observed[window, :, place], mean[place]) for place in past]
        for target in range(roles.num_targets):
            mask = observed[window, :, target]
            if mask.sum() < FEWEST_READINGS:
                found.append(None)
                continue
            first = int(mask.argmax())
            y = filled(values[window, first:, target], mask[first:], mean[target])
            cut_ahead = np.array([row[first:] for row in ahead], np.float32).reshape(
                len(ahead), len(y) + future.shape[1]
            )
            cut_behind = np.array([row[first:] for row in behind], np.float32).reshape(len(behind), len(y))
            found.append(SentSeries(y, cut_ahead, cut_behind, int(arrays["origin"][window])))
    return found


def filled(values: np.ndarray, observed: np.ndarray, default: float) -> np.ndarray:
    """[steps] straight lines over gaps, the nearest reading at the ends, `default` where there is no reading."""
    places = np.flatnonzero(observed)
    if not len(places):
        return np.full(len(values), default, np.float32)
    return np.interp(np.arange(len(values)), places, values[places]).astype(np.float32)


def training_series(windows: WindowDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """(times, readings) of every unbroken stretch of each target that the training windows cover, gaps filled."""
    panel, length = windows.panel, windows.context_length + windows.prediction_length
    starts = np.sort(windows.starts(np.arange(len(windows))))
    segment = windows.segment_of(starts)
    begin, reach = np.maximum(starts, panel.segment_start[segment]), np.maximum.accumulate(starts + length)
    fresh = np.r_[True, (begin[1:] > reach[:-1]) | (segment[1:] != segment[:-1])]
    firsts = np.flatnonzero(fresh)
    lasts = np.r_[firsts[1:], len(begin)] - 1
    found = []
    for first, end in zip(begin[firsts], reach[lasts], strict=True):
        for target in range(panel.roles.num_targets):
            usable = np.flatnonzero(panel.status[first:end, target] != MISSING)
            if len(usable) >= FEWEST_READINGS:
                rows = slice(first + usable[0], first + usable[-1] + 1)
                values = filled(panel.values[rows, target], panel.status[rows, target] != MISSING, 0.0)
                found.append((panel.timestamps[rows], values))
    return found


def training_frame(series: Sequence[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """The client's long form."""
    sizes = [len(values) for _, values in series]
    return pd.DataFrame(
        {
            ID: np.repeat(np.arange(len(series)), sizes),
            TIME: np.concatenate([times for times, _ in series]),
            TARGET: np.concatenate([values for _, values in series]),
        }
    )


def window_frames(
    series: Sequence[SentSeries], frequency: str, num_steps: int
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """(past, future or None, names of the past-only columns) in the client's long form.

    Names of items and columns stay here: series are numbers, columns are known0, known1, …, past0, past1, …
    """
    pasts, futures = [], []
    for number, one in enumerate(series):
        stamps = _timestamps(one.origin, len(one.y), num_steps, frequency)
        known = {f"known{place}": row for place, row in enumerate(one.known)}
        past = {f"past{place}": row for place, row in enumerate(one.past)}
        steps = len(one.y)
        pasts.append(
            {ID: np.full(steps, number), TIME: stamps[:steps], TARGET: one.y}
            | {name: row[:steps] for name, row in known.items()}
            | past
        )
        futures.append(
            {ID: np.full(num_steps, number), TIME: stamps[steps:]} | {name: row[steps:] for name, row in known.items()}
        )
    future = _table(futures) if len(series[0].known) else None
    return _table(pasts), future, [f"past{place}" for place in range(len(series[0].past))]


def _table(parts: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _timestamps(origin: int, before: int, after: int, frequency: str) -> np.ndarray:
    """[before + after] datetime64[ns]; the origin is the first of the later ones."""
    first, offset = np.datetime64(origin, "s").astype("datetime64[ns]"), parse_frequency(frequency)
    step = fixed_step(offset)
    if step is not None:
        return first + np.arange(-before, after) * step.to_timedelta64().astype("timedelta64[ns]")
    earlier = pd.date_range(end=first, periods=before + 1, freq=offset)[:-1]
    return np.r_[earlier.to_numpy(), pd.date_range(first, periods=after, freq=offset).to_numpy()].astype(
        "datetime64[ns]"
    )


def make_client(section: ModelSection) -> NixtlaClient:
    """The client, with key and address from the environment; our own attempts replace its own."""
    if not os.environ.get(KEY):
        raise ConfigError(f"{KEY} is not set: put the key of your Nixtla account into this environment variable")
    return nixtla().NixtlaClient(timeout=section.request_timeout, max_retries=1)


class TimeGPTRequests:
    """Forecasts and fine-tuning by the service; `client` None makes one from the environment."""

    def __init__(self, section: ModelSection, frequency: str, client: NixtlaClient | None = None) -> None:
        self._section, self._frequency = section, frequency
        self._client = client or make_client(section)
        self.num_sent = 0

    def forecast(
        self, series: Sequence[SentSeries], num_steps: int, levels: Sequence[float], model_id: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One request: ([series, steps], [series, steps, levels] ascending) float32.

        More series than `model.max_windows` allows are a `ConfigError`; a refusal, or an answer that cannot be read, is
        a `ServiceError`.
        """
        if self.num_sent + len(series) > self._section.max_windows:
            raise ConfigError(
                f"model.max_windows={self._section.max_windows}: {self.num_sent} series were sent, {len(series)} more "
                "are needed; raise model.max_windows to pay for them, or forecast fewer windows (data.test_stride)"
            )
        self.num_sent += len(series)
        past, future, past_only = window_frames(series, self._frequency, num_steps)
        intervals = intervals_of(levels)

        def call() -> tuple[np.ndarray, np.ndarray]:
            answer = self._client.forecast(
                past,
                h=num_steps,
                freq=self._frequency,
                X_df=future,
                level=sorted(set(intervals)) or None,
                finetuned_model_id=model_id,
                hist_exog_list=past_only or None,
                model=self._section.pretrained,
            )
            return _read(answer, len(series), num_steps, levels, intervals)

        return self._tried("forecast", call, BUSY, repeats_are_free=True)

    def finetune(self, series: Sequence[tuple[np.ndarray, np.ndarray]], model_id: str | None) -> str:
        """Fine-tune a model on times and readings, and return the id under which the service stores it."""
        section, frame = self._section, training_frame(series)

        def call() -> str:
            found = self._client.finetune(
                frame,
                freq=self._frequency,
                finetune_steps=section.finetune_steps,
                finetune_depth=section.finetune_depth,
                finetune_loss=section.finetune_loss,
                finetuned_model_id=model_id,
                model=section.pretrained,
            )
            if not isinstance(found, str) or not found:
                raise ValueError(f"finetuned_model_id is {found!r}")
            return found

        return self._tried("fine-tuning", call, NOT_STARTED, repeats_are_free=False)

    def _tried(self, what: str, call: Callable[[], Answer], busy: Sequence[int], repeats_are_free: bool) -> Answer:
        """The answer, after as many attempts as are allowed and make sense."""
        attempts, api_error, httpx = self._section.max_attempts, nixtla().ApiError, nixtla().httpx
        for attempt in range(1, attempts + 1):
            try:
                return call()
            except api_error as error:
                again, problem = error.status_code in busy, self._in_plain_words(error, attempt)
            except httpx.TransportError as error:
                again = repeats_are_free or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                problem = self._lost(error, again)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                again, problem = False, f"its answer cannot be read: {type(error).__name__} {error}"
            if key := os.environ.get(KEY):
                problem = problem.replace(key, "<key>")
            if not again or attempt == attempts:
                raise ServiceError(f"TimeGPT {what}: {problem}") from None
            wait = min(self._section.retry_wait * 2 ** (attempt - 1), LONGEST_WAIT)
            logger.warning("TimeGPT %s, attempt %d of %d: %s; again in %g s", what, attempt, attempts, problem, wait)
            time.sleep(wait)
        raise AssertionError("model.max_attempts is at least 1")

    def _in_plain_words(self, error: ApiError, attempt: int) -> str:
        status, body = error.status_code, " ".join(str(error.body).split())[:LONGEST_BODY]
        said = f"the service said {status}: {body}"
        if status in (401, 403):
            return f"the key in {KEY} was refused; check it, and {BASE_URL} if you set it; {said}"
        if status == 402:
            return f"the quota of this account is used up; buy more, or wait until it is renewed; {said}"
        if status == 429:
            return (
                f"too many requests (attempt {attempt}): the rate limit, or the quota of this month, is used up; "
                f"raise model.retry_wait or model.windows_per_request, or see your plan; {said}"
            )
        if status == 404:
            stored = self._section.finetuned_model_id
            where = f"model.finetuned_model_id={stored}" if stored else f"{BASE_URL} or a stored model"
            return f"not found; check {where} and model.pretrained={self._section.pretrained}; {said}"
        if status == 200:
            return f"its answer cannot be read: {body}"
        if status is not None and status >= 500:
            return f"the service failed (attempt {attempt}); try again later; {said}"
        return f"the request was not accepted; {said}"

    def _lost(self, error: Exception, again: bool) -> str:
        name, waited = type(error).__name__, self._section.request_timeout
        if isinstance(error, nixtla().httpx.TimeoutException):
            text = f"no answer within model.request_timeout={waited} s ({name})"
        else:
            text = f"the connection failed ({name}: {error}); check the network, and {BASE_URL} if you set it"
        return text if again else f"{text}; it may have begun and be paid for, so it is not tried again"


def intervals_of(levels: Sequence[float]) -> list[int]:
    """Central interval, in percent, that each quantile level borders; the service knows whole ones only."""
    found = []
    for level in levels:
        interval = abs(100 - 200 * level)
        if abs(interval - round(interval)) > 1e-6:
            raise ConfigError(
                f"forecast.quantiles: {level:g} borders an interval of {interval:g} %, TimeGPT takes whole percents; "
                "use a multiple of 0.005"
            )
        if level != 0.5:
            found.append(round(interval))
    return found


def _read(
    answer: pd.DataFrame, num_series: int, num_steps: int, levels: Sequence[float], intervals: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of an answer; the median is its point forecast, as in the client."""
    left = iter(intervals)
    names = ["TimeGPT" if level == 0.5 else f"TimeGPT-{'lo' if level < 0.5 else 'hi'}-{next(left)}" for level in levels]
    missing = [name for name in names if name not in answer.columns]
    if missing:
        raise ValueError(f"{missing[0]} is not in it")
    wanted = answer[["TimeGPT", *names]].to_numpy(np.float32).reshape(num_series, num_steps, 1 + len(names))
    if not np.isfinite(wanted).all():
        raise ValueError("a forecast is not a number")
    return wanted[..., 0], np.sort(wanted[..., 1:], axis=-1)
