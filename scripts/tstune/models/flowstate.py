"""FlowState (granite-tsfm): a state space encoder and a decoder of basis functions, every series on its own.

Time is continuous inside: `scale_factor` says how much of it a step is. Steps beyond one pass of the decoder are
appended to the context as missing, as the library does, and the decoder speaks from several of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from tstune.config.section import FlowStateSection, ModelSection
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.modules import NetworkModule
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import GRANITE, Architecture, require_context, require_levels
from tstune.runtime.logs import logger

MAX_CONTEXT = 16 * 1024
"""Steps, at most, that the library keeps of a context."""
BASE_SEASON = 24.0
"""Steps of the season that FlowState was trained on at a factor of 1: the hours of a day."""

_MINUTE, _DAY = pd.Timedelta("1min"), pd.Timedelta("1D")
_STEPS_PER_YEAR = {"M": 12.0, "Q": 4.0}


class FlowStateModule(NetworkModule):
    """Each target of each window is a series of its own; a flag beside its values says what is missing.

    Attributes:
        patch_steps: steps that the decoder gives from one state.
        positions: states that speak, in steps after the end of the context.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int) -> None:
        from tsfm_public.models.flowstate import modeling_flowstate

        config = network.config
        super().__init__(network, roles, prediction_length, prediction_length, tuple(config.quantiles))
        self._core_class = modeling_flowstate.FlowStateModel
        self._output_class = modeling_flowstate.FlowStateEncoderOutput
        self.scale_factor = float(config.scale_factor)
        self.patch_steps = decoder_steps(config.decoder_patch_len, self.scale_factor)
        last = max(0, prediction_length - self.patch_steps)
        self.positions = [*range(0, last, self.patch_steps), last]

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = next(iter(batch.values())).device
        if torch.is_autocast_enabled(device.type):
            raise _no_half_precision()
        encoded = batch if "features" in batch else self.encode(batch)
        return self._through_head(encoded["features"]), encoded["loc"], encoded["scale"]

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, targets, positions, width], and what `normalise` and `has_scale` need."""
        parts, shape = self.part(self._core_class), (batch["past_values"].shape[0], 1, self.num_targets)
        context = self.target_series(batch)
        series = torch.stack((torch.nan_to_num(context), context.isnan().to(context.dtype)), dim=-1)
        ahead = torch.tensor((0.0, 1.0), device=series.device).expand(series.shape[0], self.positions[-1], 2)
        series = parts.norm(torch.cat((series, ahead), dim=1), "norm")
        loc, scale = (value[:, -1].view(shape) for value in (parts.norm.mean, parts.norm.stdev))
        factor = torch.tensor((self.scale_factor,), device=series.device)  # one for all, or it is worked out for each
        with self._states_from(context.shape[1] if self.positions[-1] else 0):
            embedded = parts.embed(series.transpose(0, 1))
            states = parts.encoder(embedded, scale_factor=factor).last_hidden_state
        features = states[self.positions].transpose(0, 1).unflatten(0, (-1, self.num_targets))
        return {"features": features, "loc": loc, "scale": scale, "has_scale": self.has_scale(batch).float()}

    def _through_head(self, features: torch.Tensor) -> torch.Tensor:
        """[batch, steps, targets, levels] from the features."""
        output = self._output_class(last_hidden_state=features)
        decoder = self.part(self._core_class).decoder
        pieces = decoder(output, self.patch_steps, self.scale_factor).last_hidden_state[..., 0]
        *whole, last = pieces.unbind(dim=2)  # each [batch, targets, levels, patch_steps]
        rest = self.num_steps - len(whole) * self.patch_steps
        last = last[..., :rest] if not whole else last[..., -rest:]
        return torch.cat((*whole, last), dim=-1).permute(0, 3, 1, 2)

    @contextmanager
    def _states_from(self, first: int) -> Iterator[None]:
        """The last layer gives states from step `first` of its input on, 0: the last one only.

        The library asks its configuration for that, which is saved with the weights and must stay as it is.
        """
        config = self.part(self._core_class).encoder.layers[-1].config
        before = config.min_context
        config.min_context = first
        try:
            yield
        finally:
            config.min_context = before


class FlowStateForecaster(QuantileForecaster):
    """FlowState behind the common interface; it reads targets only."""

    model_type = "flowstate"
    title, library, section = "FlowState", "granite-tsfm", FlowStateSection
    lora_targets = ("ssm.output_gate", "out", "mlp.w1", "mlp.w2", "mlp.w3", "decoder.lin")
    max_series = 128  # each has complex states of every step, twice as many for the Fourier transform
    block_classes: ClassVar[tuple[str, ...]] = ("FlowStateS5Layer",)
    parts: ClassVar[Mapping[str, str]] = {"embed": "backbone", "encoder": "backbone", "decoder": "head"}
    architecture = Architecture(
        title,
        GRANITE,
        "tsfm_public.models.flowstate.modeling_flowstate:FlowStateForPrediction",
        "tsfm_public.models.flowstate.configuration_flowstate:FlowStateConfig",
    )

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        if not values.get("with_missing", True):
            raise CheckpointError(
                f"model.pretrained={section.pretrained} has with_missing=false: it cannot tell a gap from a reading; "
                "use another checkpoint"
            )
        require_levels(str(section.pretrained), cls.architecture.config_class(**values).quantiles)

    def _module_for(self, network: nn.Module, roles: Roles) -> NetworkModule:
        section, frequency = self.config.model, self.preprocessor.frequency
        factor = scale_factor(frequency) if section.scale_factor is None else section.scale_factor
        steps = decoder_steps(network.config.decoder_patch_len, factor)
        if not steps:
            raise ConfigError(
                f"model.scale_factor={factor:g} leaves no step of the {network.config.decoder_patch_len} that this "
                f"checkpoint decodes at once; set it to {network.config.decoder_patch_len} or less"
            )
        longest = min(MAX_CONTEXT, int(network.config.context_length / factor + 1e-6))
        beyond = max(0, section.prediction_length - steps)
        if longest - beyond < 1:
            raise ConfigError(
                f"model.prediction_length={section.prediction_length} leaves no room for a context: at "
                f"model.scale_factor={factor:g} it reads {longest} steps, of which {beyond} go to the forecast"
            )
        require_context(str(section.pretrained), longest - beyond, section.context_length)
        network.config.scale_factor = factor  # so that the library forecasts the same with what we save
        return FlowStateModule(network, roles, section.prediction_length)

    def _check_built(self) -> None:
        if self.config.training.mixed_precision in ("fp16", "bf16"):
            raise _no_half_precision()
        logger.info(
            "model.scale_factor=%.4g: a season of %.4g steps; one pass decodes %d steps",
            self.module.scale_factor,
            BASE_SEASON / self.module.scale_factor,
            self.module.patch_steps,
        )
        super()._check_built()

    def _values(self, batch: Batch) -> torch.Tensor:
        """Quantiles in order, as the library puts them; it then squeezes them by `torch.quantile`, which we do not."""
        return super()._values(batch).sort(dim=-1).values


def scale_factor(frequency: str) -> float:
    """`BASE_SEASON` / (steps of a season), as `get_fixed_factor` of granite-tsfm has it without a domain.

    The season is an hour for steps below a minute, a day for steps below a day, and a year for all longer ones. A
    weekly season of daily data is for the user to name: 24 / 7.
    """
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    if step is None:
        kind = offset.name[0] if offset.name[:2] not in ("BM", "BQ") else offset.name[1]
        if kind not in _STEPS_PER_YEAR:
            raise ConfigError(
                f"model.scale_factor: no season is known for steps of {frequency!r}; set it to 24 / (steps of a season)"
            )
        return BASE_SEASON / _STEPS_PER_YEAR[kind] * offset.n
    season = 60 * _MINUTE if step < _MINUTE else _DAY if step < _DAY else 365 * _DAY
    return BASE_SEASON / (season / step)


def decoder_steps(patch_length: int, factor: float) -> int:
    """Steps that the decoder gives from one state."""
    return int(patch_length / factor + 1e-6)


def _no_half_precision() -> ConfigError:
    return ConfigError(
        "FlowState's states are complex numbers, which half precision has not: set training.mixed_precision=no, and "
        "launch without --mixed_precision"
    )
