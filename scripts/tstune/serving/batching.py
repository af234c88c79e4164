"""Forecasts of requests that come at one time share a forward pass."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from tstune.data.prepared import Preprocessor
from tstune.data.windows import Batch
from tstune.models.base import BaseTimeSeriesFoundationModel


class BatchedModel:
    """Stands in for a model in `predict_frame`: reads the tables of one request, and leaves its forecast to a queue.

    Others wait for it, until it forecasts or has left `queue.coming`.
    """

    def __init__(self, model: BaseTimeSeriesFoundationModel, preprocessor: Preprocessor, queue: ForwardQueue) -> None:
        self._model, self.preprocessor, self._queue = model, preprocessor, queue
        queue.coming.add(self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def for_items(self, item_ids: Sequence[str]) -> BatchedModel:
        """Itself: the queue asks the model for the adapters of all its requests."""
        self.item_ids = item_ids
        return self

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[windows, steps, targets] in original units."""
        self.batch, self.num_windows = batch, len(batch["item"])
        self.answer, self.began = Future(), time.monotonic()
        self._queue.put(self)
        point, self._quantiles = self.answer.result()
        return point

    def forecast_quantiles(self, batch: Batch, point: torch.Tensor) -> torch.Tensor:
        """[windows, steps, targets, levels] of the batch that was forecast last; they came with the forecast."""
        return self._quantiles


class ForwardQueue:
    """A thread that owns the network: it alone runs forward passes, each for all requests that are there.

    A request that is there waits for those that are `coming`, for at most `max_wait` seconds, so one client alone waits
    for nobody. Requests that share a pass never have more windows than the model takes at a time. Where a pass fails,
    each of its requests is run by itself and only the guilty one fails. `observe` is told (requests, windows) of each.
    """

    def __init__(
        self,
        model: BaseTimeSeriesFoundationModel,
        max_requests: int,
        max_wait: float,
        observe: Callable[[int, int], None],
    ) -> None:
        self._model, self._max_requests, self._max_wait, self._observe = model, max_requests, max_wait, observe
        self._max_windows = model.evaluation_batch_size(torch.device("cpu"))
        self._jobs: deque[BatchedModel] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self.coming: set[BatchedModel] = set()

    def put(self, job: BatchedModel) -> None:
        """Forecast its batch; the answer is (point forecast, quantiles or None)."""
        self._jobs.append(job)
        self.coming.discard(job)
        self._thread.submit(self._next_pass)

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

    def _has_room(self, jobs: list[BatchedModel], num_windows: int) -> bool:
        return len(jobs) < self._max_requests and _num_windows(jobs) + num_windows <= self._max_windows

    def _run(self, jobs: list[BatchedModel]) -> None:
        try:
            answers = self._forward(jobs)
        except Exception as error:  # whatever it is, it belongs to a request, and this thread serves all of them
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._run([job])
            return
        self._observe(len(jobs), _num_windows(jobs))
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)

    def _forward(self, jobs: list[BatchedModel]) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        batch = {name: torch.cat([job.batch[name] for job in jobs]) for name in jobs[0].batch}
        items, item_ids = [], []
        for job in jobs:
            items.append(job.batch["item"] + len(item_ids))
            item_ids += job.item_ids
        batch["item"] = torch.cat(items)
        sizes = [job.num_windows for job in jobs]
        with torch.inference_mode():
            points = self._model.for_items(item_ids).forecast(batch)
            if not self._model.quantile_levels:
                return [(point, None) for point in points.cpu().split(sizes)]
            quantiles = self._model.forecast_quantiles(batch, points)
        return list(zip(points.cpu().split(sizes), quantiles.cpu().split(sizes), strict=True))


def _num_windows(jobs: Sequence[BatchedModel]) -> int:
    return sum(job.num_windows for job in jobs)
