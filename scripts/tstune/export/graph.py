"""A saved model as one function of tensors: readings in, forecast and quantiles out, all in original units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tstune.data.cleaning import LARGEST
from tstune.data.frequency import to_steps
from tstune.data.preprocess import Preprocessor
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.evaluation.intervals import QuantileHead
from tstune.models.contract import ForecastModel, context_spread
from tstune.models.network_forecaster import NetworkForecaster

PAST, FUTURE, STATIC, ORIGIN = "past", "future", "static", "origin"
FORECAST, QUANTILES = "forecast", "quantiles"


class GapFilling(nn.Module):
    """Fills the gaps of a context as they were filled in training; longer ones stay missing."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        super().__init__()
        roles = preprocessor.roles
        policies = [preprocessor.fill.get(name, "interpolate") for name in roles.columns]
        policies += ["none"] * (len(roles.channels) - len(roles.columns))  # constants and features of the time
        steps = to_steps(preprocessor.max_gap, preprocessor.frequency, "max_gap")
        gaps = [0 if policy == "none" else steps for policy in policies]
        self.longest, self.zeros = max(gaps), "zero" in policies
        self.register_buffer("gaps", torch.tensor(gaps), persistent=False)
        self.register_buffer("holds", torch.tensor([policy == "hold" for policy in policies]), persistent=False)
        self.register_buffer("is_zero", torch.tensor([policy == "zero" for policy in policies]), persistent=False)

    def forward(self, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values, what is usable and what was read [batch, context, channels] of readings, NaN where there is none."""
        seen = readings.abs() <= LARGEST  # neither NaN nor what cleaning drops
        if self.zeros:
            readings, seen = torch.where(self.is_zero & ~seen, 0.0, readings), seen | self.is_zero
        values = torch.where(seen, readings, 0.0)
        if not self.longest:
            return values, seen, seen
        length = readings.shape[1]
        rows = torch.arange(length, device=readings.device)[None, :, None]
        last, before = self._nearest(torch.where(seen, rows, -1), values, -1)
        following, after = self._nearest(torch.where(seen, length - 1 - rows, -1).flip(1), values.flip(1), -1)
        following, after = length - 1 - following.flip(1), after.flip(1)  # `length` where there is none
        share = (rows - last).to(values.dtype) / (following - last).clamp_min(1).to(values.dtype)
        line = torch.where(self.holds, before, before + (after - before) * share)
        inside = (last >= 0) & (following < length) & (following - last - 1 <= self.gaps)
        at_end = (last >= 0) & (following >= length) & (length - 1 - last <= self.gaps)
        filled = torch.where(inside, line, torch.where(at_end, before, 0.0))
        return torch.where(seen, values, filled), seen | inside | at_end, seen

    def _nearest(self, rows: torch.Tensor, values: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and value of the last reading at or before each row, as far back as a gap may be long.

        In doubling shifts, because ONNX has no running maximum.
        """
        shift = 1
        while shift < 2 * self.longest:
            earlier = torch.cat([torch.full_like(rows[:, :shift], none), rows[:, :-shift]], dim=1)
            theirs = torch.cat([torch.zeros_like(values[:, :shift]), values[:, :-shift]], dim=1)
            newer = earlier > rows
            rows, values = torch.where(newer, earlier, rows), torch.where(newer, theirs, values)
            shift *= 2
        return rows, values


class ForecastGraph(nn.Module):
    """The whole way from readings to a forecast: gaps, scaling, network, original units, quantiles.

    Args:
        model: loaded, and used for nothing else afterwards.

    Attributes:
        inputs: names of the arguments of `forward`: of `past`, `future`, `static`, `origin` those that the model needs.
        outputs: names of what it returns.
    """

    def __init__(self, model: ForecastModel) -> None:
        super().__init__()
        require_exportable(model)
        self.network = model.module.eval().requires_grad_(False)
        self.gap_filling = GapFilling(model.preprocessor)
        self._model, self._roles = model, model.preprocessor.roles
        self._length = model.config.model.prediction_length
        controls, statics = self._roles.control_indices, self._roles.static_categorical
        needed = {PAST: True, FUTURE: controls, STATIC: statics, ORIGIN: model.reads_clock}
        self.inputs = [name for name, is_needed in needed.items() if is_needed]
        self.outputs = [FORECAST, *[QUANTILES] * bool(model.quantile_levels)]
        if model.uncertainty is not None and not isinstance(model.uncertainty, QuantileHead):
            self.register_buffer("offsets", torch.from_numpy(model.uncertainty.offsets), persistent=False)
            self.register_buffer("floor", torch.from_numpy(model.uncertainty.floor), persistent=False)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[batch, prediction, targets], with quantiles also [batch, prediction, targets, levels]; original units.

        Args:
            *inputs: by `inputs`: past [batch, context, channels] with NaN where nothing was read · future
                [batch, prediction, channels known in the future] · static [batch, static categories] int64 codes ·
                origin [batch] int64 time of the first forecast step, seconds since 1970 on the clock of the data.
        """
        batch = self._batch(dict(zip(self.inputs, inputs, strict=True)))
        model = self._model
        with _in_one_pass(model):
            point = model.forecast(batch)
            if QUANTILES not in self.outputs:
                return (point,)
            method = model.uncertainty
            base = model.native_quantiles(batch) if method is None or method.uses_native else point[..., None]
        if method is not None and not isinstance(method, QuantileHead):
            spread = context_spread(batch, self._roles.num_targets)
            unit = torch.maximum(spread, self.floor)[:, None, :, None] if method.scaled else 1.0
            base = base + unit * self.offsets
        return point, base if method is None else base.sort(dim=-1).values

    def _batch(self, inputs: dict[str, torch.Tensor]) -> Batch:
        values, observed, read = self.gap_filling(inputs[PAST])
        future = values.new_zeros(values.shape[0], self._length, len(self._roles.channels))
        if FUTURE in inputs:  # the channels that are known come last
            before = future[..., : len(self._roles.channels) - len(self._roles.control_indices)]
            future = torch.cat([before, inputs[FUTURE]], dim=-1)
        batch = {"past_values": values, "past_observed_mask": observed, "past_read_mask": read, "future_values": future}
        return batch | {name: inputs[name] for name in (STATIC, ORIGIN) if name in inputs}


@contextmanager
def _in_one_pass(model: ForecastModel) -> Iterator[None]:
    """Forecast a batch as a whole; some models cut large ones into pieces."""
    if isinstance(model, NetworkForecaster):
        model._values = lambda batch: model.module.in_original_units(*model.module(batch))
    try:
        yield
    finally:
        vars(model).pop("_values", None)


def require_exportable(model: ForecastModel) -> None:
    """Stop if the model is not one function of one window.

    Raises:
        ConfigError: naming what stands in the way and what to do instead.
    """
    config = model.config
    if model.module is None:
        raise ConfigError(
            f"a {model.model_type} model has no network of its own to export; use scripts/predict_forecast.py"
        )
    if model.not_exported:
        raise ConfigError(
            f"a {model.model_type} model {model.not_exported}; use scripts/predict_forecast.py or "
            "scripts/serve_forecasts.py"
        )
    if config.model.quantization != "none":
        raise ConfigError(
            f"model.quantization={config.model.quantization} packs the weights with operators of bitsandbytes, which "
            "no other runtime has; tune with model.quantization=none to export"
        )
    if model.item_adapters is not None and model.item_adapters.adapters:
        names = ", ".join(_some(list(model.item_adapters.adapters)))
        raise ConfigError(f"this model has an adapter per item, and a file holds one of them: add --item ({names})")
    steps, native = config.model.prediction_length, getattr(model.module, "native_length", None)
    if native is not None and steps > native:
        raise ConfigError(
            f"model.prediction_length={steps} is more than the {native} steps of one forward pass, and the roll-out is "
            f"a loop of the library; export a model with model.prediction_length={native} or less"
        )


def choose_item(model: ForecastModel, item: str) -> None:
    """Merge the adapter of one item into the weights; an item that keeps the base gets the base.

    Raises:
        ConfigError: there are no adapters per item, or none of this item.
    """
    adapters = model.item_adapters
    if adapters is None:
        raise ConfigError(f"--item {item}: this model has no adapters per item; leave it out")
    known = [result.item_id for result in adapters.results]
    if item not in known:
        raise ConfigError(f"--item {item} is not an item of this model; there are: {', '.join(_some(known))}")
    if item in adapters.adapters:
        model.network = adapters.adapters[item].wrap(model.network).merge_and_unload()
        model.module.eval()
    model.item_adapters = None


def _some(names: Sequence[str], most: int = 8) -> list[str]:
    return [*names[:most], "…"] if len(names) > most else list(names)
