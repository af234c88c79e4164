"""Calls of nixtla's client: key, attempts, and what went wrong in plain words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from tstune.config.model_sections import TimeGPTSection
from tstune.errors import ConfigError, ServiceError
from tstune.models.timegpt_library import ApiError, NixtlaClient, httpx
from tstune.models.timegpt_series import Series, training_frame, window_frames
from tstune.runtime.logs import logger

Answer = TypeVar("Answer")
KEY, BASE_URL = "NIXTLA_API_KEY", "NIXTLA_BASE_URL"
LONGEST_WAIT = 60.0
LONGEST_BODY = 300
BUSY = (408, 409, 429, 500, 502, 503, 504)
"""Answers that are worth another attempt."""
NOT_STARTED = (429, 503)
"""Answers that say that fine-tuning has not begun, so that another attempt is not paid for twice."""


def make_client(section: TimeGPTSection) -> NixtlaClient:
    """The client, with key and address from the environment; our own attempts replace its own.

    Raises:
        ConfigError: there is no key.
    """
    if not os.environ.get(KEY):
        raise ConfigError(f"{KEY} is not set: put the key of your Nixtla account into this environment variable")
    return NixtlaClient(timeout=section.request_timeout, max_retries=1)


class TimeGPTRequests:
    """Forecasts and fine-tuning by the service.

    Args:
        section: model, attempts, and how much may be sent.
        frequency: grid step as pandas text.
        client: answers the calls; None makes one from the environment.

    Attributes:
        num_sent: series sent for forecasts so far.
    """

    def __init__(self, section: TimeGPTSection, frequency: str, client: NixtlaClient | None = None) -> None:
        self._section, self._frequency = section, frequency
        self._client = client or make_client(section)
        self.num_sent = 0

    def forecast(
        self, series: Sequence[Series], num_steps: int, levels: Sequence[float], model_id: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One request.

        Args:
            series: as many as one request may hold.
            num_steps: steps ahead.
            levels: quantile levels, each with a whole interval, see `intervals_of`.
            model_id: of a stored fine-tuned model, or None.

        Returns:
            ([series, steps], [series, steps, levels] ascending) float32.

        Raises:
            ConfigError: more series than `model.max_windows` allows.
            ServiceError: refused, lost, or an answer that cannot be read.
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
        """Fine-tune on the readings of `training_series`; returns the id under which the service stores the model.

        Args:
            series: times and readings.
            model_id: of a stored fine-tuned model to go on from, or None.

        Raises:
            ServiceError: refused, lost, or an answer that cannot be read.
        """
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
        attempts = self._section.max_attempts
        for attempt in range(1, attempts + 1):
            try:
                return call()
            except ApiError as error:
                again, problem = error.status_code in busy, self._in_plain_words(error, attempt)
            except httpx.TransportError as error:
                again = repeats_are_free or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                problem = self._lost(error, again)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                again, problem = False, f"its answer cannot be read: {type(error).__name__} {error}"
            problem = self._without_key(problem)
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
        if isinstance(error, httpx.TimeoutException):
            text = f"no answer within model.request_timeout={waited} s ({name})"
        else:
            text = f"the connection failed ({name}: {error}); check the network, and {BASE_URL} if you set it"
        return text if again else f"{text}; it may have begun and be paid for, so it is not tried again"

    @staticmethod
    def _without_key(text: str) -> str:
        key = os.environ.get(KEY)
        return text.replace(key, "<key>") if key else text


def intervals_of(levels: Sequence[float]) -> list[int]:
    """Central interval, in percent, that each quantile level borders; the service knows whole ones only.

    Raises:
        ConfigError: a level between two of them.
    """
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
