"""Forecasts of requests that come at one time share a forward pass."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tstune.data.prepared import Preprocessor
from tstune.data.windows import Batch

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel

Answer = tuple[torch.Tensor, torch.Tensor | None]
"""[windows, steps, targets] point forecast and [windows, steps, targets, levels] quantiles, if there are levels."""


@dataclass(eq=False)
class _Job:
    batch: Batch
    item_ids: Sequence[str]
    began: float
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def num_windows(self) -> int:
        return len(self.batch["item"])


class ForwardQueue:
    """A thread that owns the network: it alone runs forward passes, each for all requests that are there.

    A request that is there waits for those that are on their way (see `Arrival`), for a limited time, so one client
    alone waits for nobody. Where a shared pass fails, each request is run by itself and only the guilty one fails.

    Args:
        model: loaded.
        max_requests: that share a pass; together they never have more windows than the model takes at a time.
        max_wait: seconds.
        observe: is told (requests, windows) of each pass that succeeded.
    """

    def __init__(
        self,
        model: ForecastModel,
        max_requests: int,
        max_wait: float,
        observe: Callable[[int, int], None] = lambda requests, windows: None,
    ) -> None:
        self._model = model
        self._max_requests = max_requests
        self._max_windows = model.evaluation_batch_size(torch.device("cpu"))
        self._max_wait = max_wait
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._num_coming = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="forward", daemon=True)
        self._thread.start()

    def arrival(self) -> Arrival:
        """Announce a request."""
        with self._changed:
            self._num_coming += 1
        return Arrival(self)

    def forecast(self, batch: Batch, item_ids: Sequence[str], arrival: Arrival) -> Answer:
        """Wait for the forecast of these windows; `batch["item"]` counts in `item_ids`."""
        job = _Job(batch, item_ids, time.monotonic())
        with self._changed:
            if self._closing:
                raise RuntimeError("the server is stopping")
            self._jobs.append(job)
            self._changed.notify_all()
        arrival.here()
        return job.answer.result()

    @property
    def is_alive(self) -> bool:
        """True while forecasts are made."""
        return self._thread.is_alive() and not self._closing

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _one_less_coming(self) -> None:
        with self._changed:
            self._num_coming -= 1
            self._changed.notify_all()

    def _work(self) -> None:
        while jobs := self._next_jobs():
            self._run(jobs)

    def _next_jobs(self) -> list[_Job]:
        """Jobs of the next pass; none when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if not self._jobs:
                return []
            left = self._jobs[0].began + self._max_wait - time.monotonic()
            if left > 0:
                self._changed.wait_for(self._is_enough, timeout=left)
            taken, num_windows = [], 0
            while self._jobs and len(taken) < self._max_requests:
                num_windows += self._jobs[0].num_windows
                if taken and num_windows > self._max_windows:
                    break
                taken.append(self._jobs.popleft())
            return taken

    def _is_enough(self) -> bool:
        full = sum(job.num_windows for job in self._jobs) >= self._max_windows
        return full or len(self._jobs) >= self._max_requests or self._num_coming == 0 or self._closing

    def _run(self, jobs: list[_Job]) -> None:
        try:
            answers = self._forward(jobs)
        except Exception as error:  # whatever it is, it belongs to a request, and this thread serves all of them
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._run([job])
            return
        self._observe(len(jobs), sum(job.num_windows for job in jobs))
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)

    def _forward(self, jobs: list[_Job]) -> list[Answer]:
        item_ids = [item_id for job in jobs for item_id in job.item_ids]
        batch = {name: torch.cat([job.batch[name] for job in jobs]) for name in jobs[0].batch}
        begin, items = 0, []
        for job in jobs:
            items.append(job.batch["item"] + begin)
            begin += len(job.item_ids)
        batch["item"] = torch.cat(items)
        sizes = [job.num_windows for job in jobs]
        with torch.inference_mode():
            point = self._model.for_items(item_ids).forecast(batch)
            quantiles = self._model.forecast_quantiles(batch, point) if self._model.quantile_levels else None
            points = point.cpu().split(sizes)
            return list(
                zip(points, [None] * len(jobs) if quantiles is None else quantiles.cpu().split(sizes), strict=True)
            )


class Arrival:
    """A request that others may wait for, until it is there or has failed."""

    def __init__(self, queue: ForwardQueue) -> None:
        self._queue = queue
        self._is_coming = True

    def here(self) -> None:
        """Nobody needs to wait for this request; a second call does nothing."""
        if self._is_coming:
            self._is_coming = False
            self._queue._one_less_coming()


class BatchedModel:
    """Stands in for a model in `predict_frame`: reads tables as it does, and leaves the forecast to a queue.

    Args:
        model: loaded.
        preprocessor: how the tables of requests are read.
        queue: of that model.
        arrival: of the request.
    """

    def __init__(self, model: ForecastModel, preprocessor: Preprocessor, queue: ForwardQueue, arrival: Arrival) -> None:
        self._model = model
        self.preprocessor = preprocessor
        self._queue = queue
        self._arrival = arrival
        self._item_ids: Sequence[str] = ()
        self._quantiles: torch.Tensor | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def for_items(self, item_ids: Sequence[str]) -> BatchedModel:
        """Itself: the queue asks the model for the adapters of all its requests."""
        self._item_ids = item_ids
        return self

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[windows, steps, targets] in original units."""
        point, self._quantiles = self._queue.forecast(batch, self._item_ids, self._arrival)
        return point

    def forecast_quantiles(self, batch: Batch, point: torch.Tensor) -> torch.Tensor:
        """[windows, steps, targets, levels] of the batch that was forecast last; they came with the forecast."""
        return self._quantiles
