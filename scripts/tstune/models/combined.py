"""Forecasters made of others: remembered, averaged, weighted, and fitted to windows that were cut for other models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tstune.data.preprocess import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch, WindowDataset
from tstune.domains import domain_of
from tstune.errors import DataError
from tstune.models.contract import Forecaster, ForecastModel
from tstune.runtime.logs import logger

_PER_STEP = ("past_values", "past_observed_mask", "past_read_mask", "future_values", "future_observed_mask")
_INPUT_ROLES = ("conditional", "control", "static_real", "time_features")


class RememberedForecasts:
    """Forecasts with a model and remembers what it said, so that it can change or be lost afterwards.

    Each rank remembers the windows it was given. Memory is only taken for those; beyond `budget_bytes` forecasts lie in
    a memory-mapped temporary file.
    """

    def __init__(self, model: Forecaster, windows: WindowDataset, budget_bytes: float) -> None:
        self._model = model
        self._starts = torch.from_numpy(np.sort(windows.starts(np.arange(len(windows)))))
        self._known = torch.zeros(len(windows), dtype=torch.bool)
        shape = (len(windows), windows.prediction_length, windows.panel.roles.num_targets)
        self._file = None
        if 4 * np.prod(shape) <= budget_bytes:
            self._values = torch.empty(shape, dtype=torch.float32)
        else:
            self._file = tempfile.TemporaryFile(prefix="forecasts-")  # noqa: SIM115 lives as long as the forecasts
            self._values = torch.from_numpy(np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape))

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units, by the model as it is now."""
        forecast, rows = self._model.forecast(batch), self._rows(batch)
        self._values[rows] = forecast.detach().cpu()
        self._known[rows] = True
        return forecast

    def recall(self, batch: Batch) -> torch.Tensor:
        """The same as it was then (`DataError`: a window that was not asked for before)."""
        rows = self._rows(batch)
        if not self._known[rows].all():
            raise DataError("a window is asked for that was not forecast on this process before: score the model first")
        return self._values[rows].to(batch["start"].device)

    def _rows(self, batch: Batch) -> torch.Tensor:
        start = batch["start"].cpu()
        rows = torch.searchsorted(self._starts, start).clamp_max(len(self._starts) - 1)
        if not torch.equal(self._starts[rows], start):
            raise DataError("a window is asked for that is not among those of this part")
        return rows


class AveragedForecasts:
    """The mean of two models' forecasts of the same windows.

    Tuned weights have often drifted further than the data warrants, and what they and the old ones get wrong is not
    the same: half-way between is a strong forecast that costs nothing more to judge.
    """

    def __init__(self, first: RememberedForecasts, second: RememberedForecasts) -> None:
        self._first, self._second = first, second

    def forecast(self, batch: Batch) -> torch.Tensor:
        return (self._first.recall(batch) + self._second.recall(batch)) / 2


@dataclass(frozen=True)
class ChosenForecaster:
    """Each window is forecast by one of several."""

    forecasters: Sequence[Forecaster]
    choose: Callable[[Batch], torch.Tensor]  # [batch] number of the one that forecasts

    def forecast(self, batch: Batch) -> torch.Tensor:
        number, found = self.choose(batch).cpu(), None
        for one in number.unique().tolist():
            rows = torch.nonzero(number == one)[:, 0]
            part = self.forecasters[one].forecast({name: value[rows.to(value.device)] for name, value in batch.items()})
            found = part.new_empty(len(number), *part.shape[1:]) if found is None else found
            found[rows.to(found.device)] = part
        return found


class WeightedForecasts:
    """The weighted sum of forecasts of the same windows; a weight is a number, or [steps, 1]."""

    def __init__(self, forecasters: Sequence[Forecaster], weights: Sequence[float | torch.Tensor]) -> None:
        self.forecasters = list(forecasters)
        self.weights = list(weights)

    def forecast(self, batch: Batch) -> torch.Tensor:
        pairs, device = zip(self.weights, self.forecasters, strict=True), batch["past_values"].device
        return sum(torch.as_tensor(weight).to(device) * one.forecast(batch).to(device) for weight, one in pairs)


@dataclass(frozen=True)
class FittedForecaster:
    """Shows a model the end of each context and its own columns in its own unit."""

    forecaster: Forecaster  # who forecasts
    num_targets: int  # of the model and the windows
    context_length: int  # steps it sees, the last ones
    prediction_length: int  # steps that are kept of its forecast, the first ones
    channels: Sequence[int] | None  # position of its channels among those of the windows; None if they are the same
    factor: float  # its unit over that of the windows
    reads_categories: bool  # False leaves out the static categories of the batch

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in the unit of the windows."""
        return self.forecaster.forecast(self.own(batch))[:, : self.prediction_length] / self.factor

    def own(self, batch: Batch) -> Batch:
        """The batch as the model is to see it."""
        own = dict(batch)
        if not self.reads_categories:
            own.pop("static", None)
        for name in _PER_STEP:
            if name not in own:  # nobody knows yet what will be observed of the future
                continue
            if name.startswith("past_"):
                own[name] = own[name][:, -self.context_length :]
            if self.channels is not None:
                own[name] = own[name][..., self.channels]
            if name.endswith("_values") and self.factor != 1:
                targets = own[name][..., : self.num_targets] * self.factor
                own[name] = torch.cat([targets, own[name][..., self.num_targets :]], dim=-1)
        return own


def fitted(
    model: ForecastModel,
    name: str,
    given_context: int,
    asked_steps: int,
    item_ids: Sequence[str] | None,
    preprocessor: Preprocessor,
) -> Forecaster:
    """The model as a forecaster of windows of these lengths, items and columns; itself where nothing is to be fitted.

    `name` is what errors call it, `item_ids` None leaves out adapters per item. Columns, a frequency, a unit or lengths
    that do not allow it are a `DataError`.
    """
    forecaster = model if item_ids is None else model.for_items(item_ids)
    own, asked, lengths = model.preprocessor, preprocessor, model.config.model
    if own.frequency != asked.frequency:
        raise DataError(f"{name} was made for steps of {own.frequency}, the windows have steps of {asked.frequency}")
    channels = _channels(own.roles, asked.roles, name)
    factor = _unit_factor(own.unit, asked.unit, name)
    context_length, prediction_length = lengths.context_length, lengths.prediction_length
    if context_length > given_context:
        raise DataError(f"{name} sees {context_length} steps, the windows have {given_context}")
    if prediction_length < asked_steps:
        raise shorter_than_asked(name, prediction_length, asked_steps)
    if prediction_length > asked_steps and own.roles.control_indices:
        raise DataError(
            f"{name} forecasts {prediction_length} steps and reads known-future columns at all of them, the windows "
            f"have {asked_steps}; set model.prediction_length={prediction_length}"
        )
    reads_categories = bool(own.roles.static_categorical) or not asked.roles.static_categorical
    same_lengths = (context_length, prediction_length) == (given_context, asked_steps)
    if same_lengths and channels is None and factor == 1 and reads_categories:
        return forecaster
    return FittedForecaster(
        forecaster, own.roles.num_targets, context_length, asked_steps, channels, factor, reads_categories
    )


def shorter_than_asked(name: str, own: int, asked: int) -> DataError:
    """The error for a model that does not look far enough ahead."""
    return DataError(
        f"{name} forecasts {own} steps, the evaluation asks for {asked}; set model.prediction_length={own} (and "
        "evaluation.horizons within it), or leave that model out"
    )


def _channels(own: Roles, given: Roles, name: str) -> list[int] | None:
    """Where the model's channels are among the given ones; None if they are the same."""
    if own.target != given.target:
        raise DataError(
            f"{name} forecasts {', '.join(own.target)}, the targets of the evaluation are {', '.join(given.target)}; "
            "set data.target_columns"
        )
    for role in _INPUT_ROLES:
        missing = [column for column in getattr(own, role) if column not in getattr(given, role)]
        if missing:
            key = role if role == "time_features" else f"{role}_columns"
            raise DataError(f"{name} reads {missing[0]!r}, which the evaluation does not have; name it in data.{key}")
    categories = [(roles.static_categorical, roles.categories) for roles in (own, given)]
    if own.static_categorical and categories[0] != categories[1]:
        raise DataError(
            f"{name} reads {', '.join(own.static_categorical)} with other categories than the training part of the "
            "evaluation has; evaluate it on the data and split it was trained with"
        )
    if own.channels == given.channels:
        return None
    return [given.channels.index(channel) for channel in own.channels]


def _unit_factor(own: str | None, given: str | None, name: str) -> float:
    """The model's unit over that of the windows."""
    if own is None or given is None:
        if own != given:
            logger.warning("unit of %s: %s, of the evaluation: %s; they are taken to be the same", name, own, given)
        return 1.0
    domain = domain_of(own)
    if domain is not None and domain is domain_of(given):
        factor = domain.factor(given, own)
        if factor != 1:
            logger.info("%s works in %s: the windows are converted for it, and its forecasts back", name, own)
        return factor
    if own != given:
        raise DataError(f"{name} was trained on values in {own}, those of the evaluation are in {given}; set data.unit")
    return 1.0
