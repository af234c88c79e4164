"""Chronos-Bolt and Chronos-2 (chronos-forecasting): networks over patches that forecast quantiles."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tstune.config.section import Chronos2Section, ChronosBoltSection, ModelSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.modules import NetworkModule, as_series, can_be_read, observed_or_nan, put_before, use_fast_dropout
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import Architecture, require_context, require_levels

CHRONOS = "chronos-forecasting>=2.3.2,<3"
"""The package of all Chronos families."""


class ChronosModule(NetworkModule):
    """A network of chronos-forecasting between our windows and quantiles in its normalised space: encode, then head.

    It normalises each series by its own context: `loc`, `scale`, and for Chronos-2 an arcsinh. Missing readings go in
    as NaN, which it masks; a zero would be a reading.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int, native_length: int) -> None:
        levels = tuple(network.chronos_config.quantiles)
        super().__init__(network, roles, prediction_length, native_length, levels)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = batch if "features" in batch else self.encode(batch)
        quantiles = self._through_head(encoded["features"])
        return quantiles[:, : self.num_steps], encoded["loc"], encoded["scale"]

    @abstractmethod
    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, …, width], and what `normalise` and `has_scale` need."""

    @abstractmethod
    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        """[batch, native steps, targets, levels] from the features."""

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.network.instance_norm(values, (loc, scale))[0]

    def in_original_units(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.network.instance_norm.inverse(values, (loc[..., None], scale[..., None]))

    def _encoded(self, features: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor, batch: Batch) -> Batch:
        """What `encode` returns, from loc and scale [batch * channels, 1]."""
        by_window = (values.view(features.shape[0], -1) for values in (loc, scale))
        loc, scale = (values[:, None, : self.num_targets] for values in by_window)
        return {"features": features, "loc": loc, "scale": scale, "has_scale": self.has_scale(batch).float()}


class ChronosForecaster(QuantileForecaster):
    """A family of chronos-forecasting; its loss is the library's up to a constant factor (tested)."""

    library, script = CHRONOS.partition(">")[0], "finetune_chronos.py"
    lora_targets = ("q", "k", "v", "o", "output_patch_embedding.output_layer")
    parts: ClassVar[Mapping[str, str]] = {
        "shared": "backbone",
        "input_patch_embedding": "backbone",
        "encoder": "backbone",
        "decoder": "decoder",
        "output_patch_embedding": "head",
    }
    pipeline: ClassVar[str]
    """What forecasts with a checkpoint in the library."""

    def _wrap(self, network: nn.Module) -> None:
        super()._wrap(network)
        if not self.config.training.compile:
            use_fast_dropout(network)

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, settings = section.pretrained, chronos_settings(cls, section, values)
        longest, levels = (settings.get(key) for key in ("context_length", "quantiles"))
        if not isinstance(longest, int) or not isinstance(levels, list):
            raise CheckpointError(
                f"model.pretrained={name}: chronos_config in its config.json names no lengths and levels"
            )
        require_context(name, longest, section.context_length)
        require_levels(name, levels)

    @classmethod
    def loading_code(cls, place: str, preprocessor: dict, adapter: bool, base: str | None) -> list[str]:
        """Lines of Python that load what was published with chronos-forecasting."""
        lines = [f"from chronos import {cls.pipeline}", ""]
        if not adapter:
            return [
                *lines,
                f'pipeline = {cls.pipeline}.from_pretrained("{place}")  # values in original units, in and out',
            ]
        return [
            *lines,
            "from peft import PeftModel",
            f'pipeline = {cls.pipeline}.from_pretrained("{base}")',
            f'pipeline.model = PeftModel.from_pretrained(pipeline.model, "{place}").merge_and_unload()',
        ]


def chronos_settings(cls: type[QuantileForecaster], section: ModelSection, values: dict) -> dict:
    """`chronos_config` of a config.json."""
    settings = values.get("chronos_config")
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"model.pretrained={section.pretrained} is a {cls.architecture.network.rpartition(':')[2]} without "
            f"chronos_config, not a {cls.title} checkpoint; use another checkpoint"
        )
    return settings


def chronos_architecture(title: str, network: str, config: str) -> Architecture:
    """How a family of chronos-forecasting is loaded that has `chronos_config` and forecasts quantiles."""
    return Architecture(title, CHRONOS, network, config, required=("input_patch_embedding.", "output_patch_embedding."))


class FastCrossAttention(nn.Module):
    """T5's attention; where one query looks at many states on a CPU, without projecting these to keys and values.

    q · (W k) = (W' q) · k and sum a (W v) = W (sum a v): two products per series instead of two per state, which is a
    seventh of all products of a Chronos-Bolt. The results differ in the last bits only.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **others: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """[batch, 1, width] from [batch, 1, width] and states [batch, states, width]; else as in the library."""
        states, no_cache = key_value_states, others.get("cache") is None
        if states is None or hidden_states.shape[1] > 1 or not (no_cache and can_be_read(self.k, self.v)):
            return super().forward(hidden_states, mask, key_value_states, position_bias, **others)
        by_head = (self.n_heads, self.key_value_proj_dim, -1)
        query = self.q(hidden_states).view(-1, *by_head[:2]).transpose(0, 1)  # [heads, batch, width of a head]
        asked = torch.bmm(query, self.k.weight.view(by_head)).transpose(0, 1)  # [batch, heads, width]
        scores = torch.bmm(asked, states.transpose(1, 2))
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        found = torch.bmm(weights, states).transpose(0, 1)
        values = torch.bmm(found, self.v.weight.view(by_head).transpose(1, 2)).transpose(0, 1)
        return self.o(values.flatten(1)[:, None]), None, None


class FastNorm(nn.Module):
    """T5's root mean square normalisation on a CPU, with half the passes over the values."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The shape of the input."""
        if hidden_states.device.type != "cpu" or not hidden_states.dtype == self.weight.dtype == torch.float32:
            return super().forward(hidden_states)
        return _RootMeanSquare.apply(hidden_states, self.weight, self.variance_epsilon)


class _RootMeanSquare(torch.autograd.Function):
    """x -> w x / rms(x) over the last axis."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        square = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_()
        factor = square.div_(values.shape[-1]).add_(epsilon).rsqrt_()
        scaled = values * factor
        ctx.save_for_backward(scaled, weight, factor)
        return scaled * weight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        scaled, weight, factor = ctx.saved_tensors
        inner = gradient * weight
        along = (inner * scaled).mean(dim=-1, keepdim=True)
        by_weight = (gradient * scaled).flatten(0, -2).sum(dim=0)
        return inner.addcmul_(scaled, along, value=-1).mul_(factor), by_weight, None


class BoltModule(ChronosModule):
    """Each target of each window is a series of its own."""

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        super().__init__(network, roles, prediction_length, network.chronos_config.prediction_length)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, width], the decoder's one state of each series."""
        context = self.target_series(batch)
        hidden, (loc, scale), embedded, attention_mask = self.network.encode(context)
        state = self.network.decode(embedded, attention_mask, hidden)
        features = state.view(batch["past_values"].shape[0], self.num_targets, -1)
        return self._encoded(features, loc, scale, batch)

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        flat = self.network.output_patch_embedding(features)
        return flat.view(*features.shape[:2], len(self.levels), self.native_length).permute(0, 3, 1, 2)


class ChronosBoltForecaster(ChronosForecaster):
    """Chronos-Bolt behind the common interface; it reads targets only."""

    model_type = "chronos_bolt"
    title, pipeline, section, module_class = "Chronos-Bolt", "ChronosBoltPipeline", ChronosBoltSection, BoltModule
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    architecture = chronos_architecture(
        title, "chronos.chronos_bolt:ChronosBoltModelForForecasting", "transformers:T5Config"
    )

    def _wrap(self, network: nn.Module) -> None:
        from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

        super()._wrap(network)
        if not self.config.training.compile:
            network.decoder.config.use_cache = False  # nothing comes after the one token
            put_before(network, FastCrossAttention, T5Attention)
            put_before(network, FastNorm, T5LayerNorm)
            for layer in network.modules():
                if type(layer) is nn.ReLU:  # what comes out of packed weights may not be written into
                    layer.inplace = self.config.model.quantization == "none"

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        from chronos import ChronosBoltPipeline

        context = self.module.target_series(batch)
        found = ChronosBoltPipeline(self.network).predict(context, self.config.model.prediction_length)
        return found.view(-1, self.module.num_targets, *found.shape[1:]).permute(0, 3, 1, 2)


MAX_SERIES = 256
"""Series of one forward pass without training, as in the library: attention across series grows with their square."""


class Chronos2Module(ChronosModule):
    """The channels of a window are one group: targets, columns of the past, columns known in the future."""

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        config = network.chronos_config
        super().__init__(network, roles, prediction_length, config.max_output_patches * config.output_patch_size)
        self.control_indices = roles.control_indices
        self.num_patches = math.ceil(self.num_steps / network.chronos_config.output_patch_size)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, patches, width], the last states of the targets."""
        context = observed_or_nan(batch)
        num_windows, _, num_channels = context.shape
        known = self.known_future(batch, self.num_steps)
        states, (loc, scale), _, _ = self.network.encode(
            as_series(context),
            group_ids=torch.arange(num_windows, device=context.device).repeat_interleave(num_channels),
            future_covariates=as_series(known) if self.control_indices else None,
            num_output_patches=self.num_patches,
        )
        states = states[0][:, -self.num_patches :].view(num_windows, num_channels, self.num_patches, -1)
        return self._encoded(states[:, : self.num_targets], loc, scale, batch)

    def known_future(self, batch: Batch, num_steps: int) -> torch.Tensor:
        """[batch, steps, channels] control columns over the forecast; NaN where nothing is known, in all others too."""
        values = batch["future_values"][:, :num_steps]
        known = torch.full_like(values, torch.nan)
        known[..., self.control_indices] = values[..., self.control_indices]
        if "future_known_mask" in batch:
            known = torch.where(batch["future_known_mask"][:, :num_steps], known, torch.nan)
        return known

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        flat = self.network.output_patch_embedding(features)  # [batch, targets, patches, levels * steps of a patch]
        by_level = flat.unflatten(-1, (len(self.levels), -1)).permute(0, 2, 4, 1, 3)
        return by_level.flatten(1, 2)


class Chronos2Forecaster(ChronosForecaster):
    """Chronos-2 behind the common interface: it reads covariates of the past and known ones."""

    model_type = "chronos2"
    title, pipeline, section, module_class = "Chronos-2", "Chronos2Pipeline", Chronos2Section, Chronos2Module
    block_classes: ClassVar[tuple[str, ...]] = ("Chronos2EncoderBlock",)
    architecture = chronos_architecture(title, "chronos.chronos2:Chronos2Model", "chronos.chronos2:Chronos2CoreConfig")

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass when nothing is trained; `auto` keeps to `MAX_SERIES`."""
        return min(super().evaluation_batch_size(device), self._max_windows)

    def _values(self, batch: Batch) -> torch.Tensor:
        own, size = super()._values, self._max_windows
        begins = range(0, len(batch["past_values"]), size)
        return torch.cat(
            [own({name: tensor[begin : begin + size] for name, tensor in batch.items()}) for begin in begins]
        )

    @property
    def _max_windows(self) -> int:
        return max(1, MAX_SERIES // len(self.preprocessor.roles.channels))

    def _check_roles(self, roles: Roles) -> None:
        if roles.statics:
            raise ConfigError(
                f"model.type=chronos2 normalises each series by itself, which leaves nothing of the constant "
                f"{roles.statics[0]!r}: leave data.static_real_columns and data.static_categorical_columns out, or use "
                "model.type=ttm"
            )

    def _unrolled(self, batch: Batch) -> torch.Tensor:
        from chronos import Chronos2Pipeline

        length, targets = self.config.model.prediction_length, self.module.num_targets
        context, known = observed_or_nan(batch), self.module.known_future(batch, length)
        num_known = len(self.module.control_indices)
        windows = [
            {
                "context": past.T,
                "future_covariates": future.T,
                "n_targets": targets,
                "n_covariates": past.shape[1] - targets,
                "n_future_covariates": num_known,
            }
            for past, future in zip(context, known, strict=True)
        ]
        found = Chronos2Pipeline(self.network).predict(windows, length, batch_size=MAX_SERIES)
        return torch.stack(found).permute(0, 3, 1, 2)
