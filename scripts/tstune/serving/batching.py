"""Forecasts of requests that come at one time share a forward pass."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from tstune.data.windows import Batch
from tstune.models.predict import forecast_batch

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel


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

    A request that is there waits for those that are `coming`, for at most `max_wait` seconds, so one client alone waits
    for nobody. Requests that share a pass have no more windows than the model takes at a time. Where a pass fails, each
    of its requests is run by itself and only the guilty one fails. `observe` is told (requests, windows) of each.
    """

    def __init__(
        self, model: ForecastModel, max_requests: int, max_wait: float, observe: Callable[[int, int], None]
    ) -> None:
        self._model, self._max_requests, self._max_wait, self._observe = model, max_requests, max_wait, observe
        self._max_windows = model.evaluation_batch_size(torch.device("cpu"))
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self.coming: set[object] = set()

    def forecast(self, request: object, batch: Batch, item_ids: Sequence[str]) -> tuple:
        """What `forecast_batch` gives for these windows of a request."""
        job = _Job(batch, item_ids)
        self._jobs.append(job)
        self.coming.discard(request)
        self._thread.submit(self._next_pass)
        return job.answer.result()

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._thread.shutdown()

    def _next_pass(self) -> None:
        if not self._jobs:  # an earlier pass took all
            return
        end = self._jobs[0].began + self._max_wait
        while self.coming and time.monotonic() < end and self._has_room(list(self._jobs), 1):
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
