"""TimeGPT (nixtla): a model behind a paid service, reached through its official client; what a run would send it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tstune.config.schema import RunConfig
from tstune.config.section import TimeGPTSection
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.windows import Batch, evaluation_batch_size
from tstune.domains import domain_of
from tstune.errors import CheckpointError, ConfigError
from tstune.evaluation.backtest import thinned
from tstune.foreign_files import read_object
from tstune.models.baselines import WithoutNetwork
from tstune.models.contract import MODEL_FOLDER, Readings
from tstune.models.timegpt_service import (
    SentSeries,
    TimeGPTRequests,
    intervals_of,
    nixtla,
    training_series,
    window_series,
)
from tstune.runtime.distributed import refuse_ranks
from tstune.runtime.logs import logger
from tstune.training.loop import TrainingResult

if TYPE_CHECKING:
    import httpx

MODES = ("zero_shot", "full")
_KEPT = ("model", "finetuned_model_id")


class TimeGPTForecaster(WithoutNetwork):
    """TimeGPT behind the common interface; a forecaster without a network.

    Each target of each window is a series of its own, many to a request; a window that was forecast once is not paid
    for again. Conditional columns are sent as historic exogenous ones, control columns and features of the time as
    future ones. `tuning.mode=full` fine-tunes with the service on the training part, targets only; `training` has no
    say in it. Gaps in a context are filled with straight lines, its end with the last reading. A context with fewer
    than two readings is not sent: its forecast is the last reading, or the mean of the training part.

    Attributes:
        finetuned_model_id: stored model that forecasts, or None.
    """

    model_type, title, section = "timegpt", "TimeGPT", TimeGPTSection
    script, is_paid_service = "finetune_timegpt.py", True
    not_published = "its weights lie with Nixtla's service"

    @classmethod
    def require_packages(cls) -> None:
        nixtla()

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.finetuned_model_id: str | None = getattr(self.config.model, "finetuned_model_id", None)
        self._requests: TimeGPTRequests | None = None
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def prepare(self, *data: Readings) -> PreparedData:
        """Windows, and before a run a line that says how much it will send, `model.max_windows` at most."""
        prepared = super().prepare(*data)
        if self.preprocessor is None:
            self._check(prepared.preprocessor)
            plan, most = plan_run(self.config, prepared), self.config.model.max_windows
            logger.info("TimeGPT will be sent %s", plan)
            if plan.num_series > most and not self.config.model.dry_run:
                raise ConfigError(
                    f"model.max_windows={most}, but this run may send {plan.num_series} series (window and target) to "
                    f"TimeGPT: {plan}; raise model.max_windows to pay for them, or raise data.test_stride; "
                    "model.dry_run=true shows it in full"
                )
        return prepared

    def build(self, preprocessor: Preprocessor) -> None:
        """Remember the channels, if TimeGPT can read them; nothing is sent yet."""
        self._check(preprocessor)
        self.preprocessor = preprocessor
        self.finetuned_model_id = self.config.model.finetuned_model_id

    def forecast(self, batch: Batch) -> torch.Tensor:
        return self._answers(batch)[..., 0]

    @property
    def native_levels(self) -> tuple[float, ...]:
        """The configured levels."""
        return tuple(self.config.forecast.quantiles)

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        return self._answers(batch)[..., 1:]

    def train_on(
        self, data: PreparedData, manager: object = None, history_path: Path | None = None, *_: object
    ) -> TrainingResult:
        """Fine-tune with the service; the better of before and after on validation windows stays.

        There are no checkpoints to go on from: the service trains in one request.
        """
        section, begin = self.config.model, time.perf_counter()
        before = self._validation_loss(data)
        base, series = self.finetuned_model_id, training_series(data.train)
        if not series:
            raise ConfigError("TimeGPT: the training part has no two readings in a row; enlarge data.split.train")
        self.finetuned_model_id = self._service().finetune(series, base)
        logger.info("TimeGPT stored the fine-tuned model as %s", self.finetuned_model_id)
        after = self._validation_loss(data)
        best = section.finetune_steps if after < before or not self.config.evaluation.keep_best else 0
        if best == 0:
            logger.info("TimeGPT: fine-tuning did not lower the validation loss, the model is as before")
            self.finetuned_model_id = base
        history = [
            {"step": 0, "validation_loss": before},
            {"step": section.finetune_steps, "validation_loss": after, "best_step": best},
        ]
        if history_path is not None:
            history_path.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
        return TrainingResult(
            num_steps=section.finetune_steps,
            num_epochs=1,
            best_step=best,
            best_validation_loss=after if best else before,
            stopped_early=False,
            learning_rate=0.0,  # the service's own
            lr_curve=None,
            seconds=time.perf_counter() - begin,
            windows_per_second=0.0,
            resumed_from=None,
            history=history,
        )

    def starts_from_weights(self) -> bool:
        """The service's model is pretrained."""
        return True

    def save_weights(self, folder: Path) -> None:
        """Write which model of the service this is; its weights stay there, and the key is not written."""
        self._write_config(folder, model=self.config.model.pretrained, finetuned_model_id=self.finetuned_model_id)

    def load_weights(self, folder: Path) -> None:
        """Read which model of the service this is (`CheckpointError`: the file is missing or damaged)."""
        path = folder / MODEL_FOLDER / "config.json"
        name, stored = map(read_object(path, keys=_KEPT).get, _KEPT)
        if name != self.config.model.pretrained or not isinstance(stored, str | None):
            raise CheckpointError(f"{path} names {name!r} and {stored!r}, config.yaml {self.config.model.pretrained!r}")
        self.finetuned_model_id = stored

    def _answers(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, 1 + levels]: the point forecast, then the quantiles."""
        section, steps, levels = self.config.model, self.config.model.prediction_length, self.native_levels
        if section.dry_run:
            raise ConfigError(
                "model.dry_run=true: nothing is sent to TimeGPT, so nothing is forecast; scripts/finetune_timegpt.py "
                "shows what would be sent, model.dry_run=false sends it"
            )
        series = window_series(batch, self.preprocessor)
        keys = [None if one is None else self._key(one) for one in series]
        wanted: dict[bytes, SentSeries] = {
            key: one for key, one in zip(keys, series, strict=True) if key is not None and key not in self._known
        }
        todo = list(wanted.items())
        for begin in range(0, len(todo), section.windows_per_request):
            part = todo[begin : begin + section.windows_per_request]
            points, quantiles = self._service().forecast(
                [one for _, one in part], steps, levels, self.finetuned_model_id
            )
            self._known |= {key: row for (key, _), row in zip(part, zip(points, quantiles, strict=True), strict=True)}
        found = np.empty((len(series), steps, 1 + len(levels)), np.float32)
        last = self._last_reading(*self._target_context(batch)).flatten().cpu().numpy()
        for place, key in enumerate(keys):
            if key is None:
                found[place] = last[place]
            else:
                found[place, :, 0], found[place, :, 1:] = self._known[key]
        targets = self.preprocessor.roles.num_targets
        answers = torch.from_numpy(found).view(-1, targets, steps, 1 + len(levels)).permute(0, 2, 1, 3).contiguous()
        return answers.to(batch["past_values"].device)

    def _key(self, series: SentSeries) -> bytes:
        return hashlib.sha256(f"{self.finetuned_model_id}|".encode() + series.key()).digest()

    def _service(self) -> TimeGPTRequests:
        if self._requests is None:
            self._requests = TimeGPTRequests(self.config.model, self.preprocessor.frequency)
        return self._requests

    def _validation_loss(self, data: PreparedData) -> float:
        """Mean squared error in scaled units, on a few windows of the validation part."""
        windows = thinned(data.validation, max_windows=self.config.model.selection_windows)
        total, weight = 0.0, 0.0
        size = self.evaluation_batch_size(torch.device("cpu"))
        for begin in range(0, len(windows), size):
            batch = windows.__getitems__(range(begin, min(begin + size, len(windows))))
            sums, weights = self.window_losses(None, batch)
            total, weight = total + float(sums.sum()), weight + float(weights.sum())
        return total / max(weight, 1.0)

    def _check(self, preprocessor: Preprocessor) -> None:
        config, statics = self.config, preprocessor.roles.statics
        refuse_ranks("model.type=timegpt")
        if config.tuning.mode not in MODES:
            raise ConfigError(
                f"tuning.mode={config.tuning.mode}: the weights of TimeGPT are not here; use zero_shot, or full with "
                "model.finetune_steps and model.finetune_depth"
            )
        if config.model.quantization != "none" or config.tuning.per_item:
            key = "tuning.per_item" if config.tuning.per_item else "model.quantization"
            raise ConfigError(f"{key}: the weights of TimeGPT are not here; leave it out")
        if config.data.mirror_train_windows:
            raise ConfigError("data.mirror_train_windows=true: TimeGPT is tuned on whole series; set it to false")
        if statics:
            raise ConfigError(f"model.type=timegpt cannot read the constant {statics[0]!r}: leave it out of data")
        intervals_of(config.forecast.quantiles)


@dataclass(frozen=True)
class SendingPlan:
    """Upper bounds: a window is sent once per model, however often it is asked for."""

    windows: dict[str, int]  # what for -> windows forecast for it, of all models together
    num_targets: int  # series per window
    num_requests: int  # forecast requests
    # what fine-tuning is sent; 0 without
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
    every = max(1, round(data.test.ranges.stride / data.validation.ranges.stride))
    domain = domain_of(data.preprocessor.unit, roles.num_targets)
    judged_on_validation = bool(config.forecast.quantiles) or domain is not None
    num_validation = len(data.validation)
    thresholds = min(math.ceil(num_validation / every), limit) if judged_on_validation else 0
    windows = {
        "test": models * len(data.test),
        "selection": 2 * min(num_validation, config.model.selection_windows) if tunes else 0,
        "alarm thresholds": models * thresholds,
        "calibration": min(len(data.calibration), limit) if config.forecast.quantiles else 0,
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
    input_size = config.model.context_length + config.model.prediction_length
    client = type("RecordingClient", (Recording, nixtla().NixtlaClient), {})(input_size)
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
    """A request as the client made it."""

    path: str  # of the service
    size: int  # bytes of the body, packed if the client packs it
    packing: str  # ``zstd`` or none
    payload: dict  # the body, unpacked

    def __str__(self) -> str:
        sizes = self.payload["series"]["sizes"]
        settings = ", ".join(f"{name}={value}" for name, value in self.payload.items() if name != "series")
        return (
            f"POST {self.path}, {len(sizes):,} series, {sum(sizes):,} steps, {self.size:,} bytes ({self.packing}); "
            f"{settings}"
        )


class Recording:
    """Makes the requests of the client below it and keeps them; it has no key and reaches no network.

    At most `input_size` steps of a series are sent; the service tells the real client a number of its own.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__(api_key="dry-run", base_url="http://dry-run.invalid", max_retries=1)
        self._input_size = input_size
        self.sent: list[Request] = []

    def _get_model_params(self, model: str, freq: str) -> tuple[int, int]:
        return self._input_size, self._input_size

    def _make_client(self, **options: object) -> httpx.Client:
        httpx = nixtla().httpx
        return httpx.Client(transport=httpx.MockTransport(self._answer), **options)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        import orjson
        import zstandard

        httpx = nixtla().httpx
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
