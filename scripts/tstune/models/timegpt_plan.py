"""What a run would send to TimeGPT, counted before anything leaves the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tstune.config.schema import RunConfig
from tstune.data.prepared import PreparedData
from tstune.data.windows import evaluation_batch_size
from tstune.domains import domain_of
from tstune.models.timegpt_library import NixtlaClient, httpx
from tstune.models.timegpt_requests import TimeGPTRequests
from tstune.models.timegpt_series import training_series, window_series


@dataclass(frozen=True)
class SendingPlan:
    """Upper bounds: a window is sent once per model, however often it is asked for.

    Attributes:
        windows: what for -> windows forecast for it, of all models together.
        num_targets: series per window.
        num_requests: forecast requests.
        training_series, training_readings: what fine-tuning is sent; 0 without.
    """

    windows: dict[str, int]
    num_targets: int
    num_requests: int
    training_series: int
    training_readings: int

    @property
    def num_series(self) -> int:
        """Series sent for forecasts."""
        return sum(self.windows.values()) * self.num_targets

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.windows.items() if count)
        text = f"forecasts of at most {self.num_series:,} series in {self.num_requests:,} requests (windows: {parts})"
        if self.training_series:
            text += f", fine-tuning on {self.training_series:,} series with {self.training_readings:,} readings"
        return text


def plan_run(config: RunConfig, data: PreparedData) -> SendingPlan:
    """Count what a run with this configuration and data sends."""
    roles, tunes = data.panel.roles, config.tuning.mode != "zero_shot"
    models = 2 if tunes else 1
    limit = config.forecast.calibration_windows
    every = max(1, round(config.data.test_stride / config.data.validation_stride))
    domain = domain_of(data.preprocessor.unit, roles.num_targets)
    judged_on_validation = bool(config.forecast.quantiles) or domain is not None
    num_validation = len(data.validation)
    thresholds = min(math.ceil(num_validation / every), limit) if judged_on_validation else 0
    windows = {
        "test": models * len(data.test),
        "selection": 2 * min(num_validation, config.model.selection_windows) if tunes else 0,
        "alarm thresholds": models * thresholds,
        "calibration": min(num_validation, limit) if config.forecast.quantiles else 0,
    }
    learned = training_series(data.train) if tunes else []
    per_request = config.model.windows_per_request
    device = torch.device("cpu")
    size = evaluation_batch_size(config.evaluation.batch_size, len(roles.channels), device) * roles.num_targets
    requests = sum(math.ceil(count * roles.num_targets / min(per_request, size)) for count in windows.values())
    readings = sum(len(values) for _, values in learned)
    return SendingPlan(windows, roles.num_targets, requests, len(learned), readings)


def describe_dry_run(config: RunConfig, data: PreparedData) -> str:
    """The plan, and real requests with their sizes, made by the client and kept here."""
    plan, roles, section = plan_run(config, data), data.panel.roles, config.model
    count = min(len(data.test), max(1, section.windows_per_request // roles.num_targets))
    series = [one for one in window_series(data.test.__getitems__(list(range(count))), data.preprocessor) if one]
    client = RecordingClient(config.model.context_length + config.model.prediction_length)
    requests = TimeGPTRequests(
        section.model_copy(update={"max_windows": len(series) or 1}), data.panel.frequency, client
    )
    lines = ["dry run, nothing was sent", f"this run would send {plan}"]
    if series:
        requests.forecast(series, config.model.prediction_length, config.forecast.quantiles, section.finetuned_model_id)
        sent = client.sent[-1]
        total = sent.size / len(series) * plan.num_series / 1e6
        lines += [f"first request: {sent}", f"all forecasts: about {total:,.2f} MB"]
    if plan.training_series:
        requests.finetune(training_series(data.train), section.finetuned_model_id)
        lines.append(f"fine-tuning: {client.sent[-1]}")
    columns = [*roles.target, *roles.conditional, *roles.control, *(f"{name} (waves)" for name in roles.time_features)]
    lines.append(f"leaves this machine: values of {', '.join(columns)}; not: names of items and columns, times")
    allowed = "enough" if plan.num_series <= section.max_windows else f"too few, {plan.num_series} are needed"
    lines.append(f"model.max_windows={section.max_windows}: {allowed}; model.dry_run=false sends it")
    return "\n".join(lines)


@dataclass(frozen=True)
class Request:
    """A request as the client made it.

    Attributes:
        path: of the service.
        size: bytes of the body, packed if the client packs it.
        packing: ``zstd`` or none.
        payload: the body, unpacked.
    """

    path: str
    size: int
    packing: str
    payload: dict

    def __str__(self) -> str:
        sizes = self.payload["series"]["sizes"]
        settings = ", ".join(f"{name}={value}" for name, value in self.payload.items() if name != "series")
        return (
            f"POST {self.path}, {len(sizes):,} series, {sum(sizes):,} steps, {self.size:,} bytes ({self.packing}); "
            f"{settings}"
        )


class RecordingClient(NixtlaClient):
    """Makes the requests of the client and keeps them; it has no key and reaches no network.

    Args:
        input_size: most steps of a series that are sent; the service tells the real client a number of its own.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(api_key="dry-run", base_url="http://dry-run.invalid", max_retries=1)
        self._input_size = input_size
        self.sent: list[Request] = []

    def _get_model_params(self, model: str, freq: str) -> tuple[int, int]:
        return self._input_size, self._input_size

    def _make_client(self, **options: object) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self._answer), **options)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        import orjson
        import zstandard

        packing, body = request.headers.get("content-encoding", "not packed"), request.content
        if packing == "zstd":
            body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        payload = orjson.loads(body)
        self.sent.append(Request(request.url.path, len(request.content), packing, payload))
        if "h" not in payload:
            return httpx.Response(200, json={"finetuned_model_id": "dry-run"})
        zeros = np.zeros(len(payload["series"]["sizes"]) * payload["h"]).tolist()
        bounds = {f"{side}-{level}": zeros for level in payload["level"] or [] for side in ("lo", "hi")}
        return httpx.Response(200, json={"mean": zeros, "intervals": bounds or None, "weights_x": None})
