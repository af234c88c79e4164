"""The forecasts of a server: a bounded number of requests, a thread for the network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tstune.errors import TstuneError
from tstune.models.predict import predict_frame
from tstune.runtime.logs import logger
from tstune.serving.answers import forecast_answer
from tstune.serving.batching import Arrival, BatchedModel, ForwardQueue
from tstune.serving.description import describe, example_request
from tstune.serving.limits import ServingLimits
from tstune.serving.metrics import ServingMetrics
from tstune.serving.reading import ForecastRequest, read_request
from tstune.serving.refusals import RequestError
from tstune.serving.served_model import ServedModel

_RETRY_AFTER = {"Retry-After": "1"}


class ForecastService:
    """Answers request bodies; safe to use from many threads.

    Args:
        served: the model.
        limits: what a request and the server may hold.

    Attributes:
        metrics: of the server.
        description: body of `GET /model`.
        pool: threads that requests are read in.
    """

    def __init__(self, served: ServedModel, limits: ServingLimits) -> None:
        self.served = served
        self.limits = limits
        self._num_pending = 0
        self._count = threading.Lock()
        self.metrics = ServingMetrics(served, lambda: self._num_pending)
        wait = limits.batch_wait / 1000
        self._queue = ForwardQueue(served.model, limits.max_batch, wait, self.metrics.saw_pass)
        self.pool = ThreadPoolExecutor(limits.max_queue, thread_name_prefix="request")
        self.description = describe(served, limits, self._working_example())

    @property
    def is_ready(self) -> bool:
        """True while forecasts are made."""
        return self._queue.is_alive

    @contextmanager
    def admitted(self) -> Iterator[Arrival]:
        """Take a place among the requests in hand.

        Raises:
            RequestError: 503, there is none left, or the server stops.
        """
        if not self.is_ready:
            raise RequestError("the server is stopping; ask again later", 503, _RETRY_AFTER)
        with self._count:
            if self._num_pending >= self.limits.max_queue:
                many = f"the server has {self.limits.max_queue} requests in hand, which is all it takes"
                raise RequestError(f"{many}; ask again in a second", 503, _RETRY_AFTER)
            self._num_pending += 1
        arrival = self._queue.arrival()
        try:
            yield arrival
        finally:
            arrival.here()
            with self._count:
                self._num_pending -= 1

    def answer(self, content: bytes, arrival: Arrival) -> bytes:
        """Forecast what a request body asks for.

        Raises:
            RequestError: the request is wrong, see `read_request`.
            TstuneError: the model cannot forecast from it, for example because the history is too short.
        """
        try:
            request = read_request(content, self.served.preprocessor, self.limits)
            return forecast_answer(self._forecast(request, arrival), self.served)
        finally:
            arrival.here()

    def close(self) -> None:
        """Finish what is in hand, then stop the threads."""
        self.pool.shutdown(wait=True)
        self._queue.close()

    def _forecast(self, request: ForecastRequest, arrival: Arrival) -> object:
        model = BatchedModel(self.served.model, self.served.preprocessor, self._queue, arrival)
        return predict_frame(model, request.frame, request.future)

    def _working_example(self) -> dict | None:
        """The example request, which also warms the network up; None if this model cannot forecast it."""
        example, arrival = example_request(self.served), self._queue.arrival()
        try:
            self.answer(json.dumps(example).encode(), arrival)
        except TstuneError as error:
            logger.warning("no example request is shown: the model refused the one made for it: %s", error)
            return None
        return example
