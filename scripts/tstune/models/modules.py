"""The module around a network of another library: windows in, forecasts in the network's own space out.

Below it what puts layers of ours, which do the same in less time, into such a network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from tstune.data.preprocess import Preprocessor
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError


class NetworkModule(nn.Module, ABC):
    """A network of another library, or a peft model around it.

    peft finds no embedding by itself, so it is told the one of `input_layer` (None: none is wanted).

    Attributes:
        num_targets: channels that are forecast, the first ones.
        native_length: most steps of one forward pass.
        num_steps: steps of a forward pass here: what is asked for, or as much of it as one pass gives.
        levels: ascending levels of its quantiles; empty for a network that forecasts points.
    """

    input_layer: ClassVar[str | None] = "shared"

    def __init__(
        self, network: nn.Module, roles: Roles, prediction_length: int, native_length: int, levels: tuple[float, ...]
    ) -> None:
        super().__init__()
        if self.input_layer is not None:  # transformers would look for `embed_tokens`, and peft asks for it
            network._input_embed_layer = self.input_layer
        self.network = network
        self.num_targets = roles.num_targets
        self.native_length = native_length
        self.num_steps = min(prediction_length, native_length)
        self.levels = levels

    @property
    def reads_clock(self) -> bool:
        """True if a forecast depends on the time of its first step, `origin` of a batch."""
        return False

    @property
    def plain(self) -> nn.Module:
        """The network itself, within the peft model if there is one: `model` of that is something else."""
        return getattr(self.network, "get_base_model", lambda: self.network)()

    def part(self, kind: type[nn.Module]) -> nn.Module:
        """The part of the network of this class, with the adapters on it if there are any."""
        return next(part for part in self.network.modules() if isinstance(part, kind))

    def target_series(self, batch: Batch) -> torch.Tensor:
        """[batch * targets, context] with NaN where nothing was read; see `as_series`."""
        return as_series(observed_or_nan(batch)[..., : self.num_targets])

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values [batch, steps, targets, levels or 1] in normalised space, loc and scale [batch, 1, targets]."""

    def normalise(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Original units -> normalised space, [batch, steps, targets]."""
        return (values - loc) / scale

    def in_original_units(self, values: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Normalised space -> original units, [batch, steps, targets, levels or 1] float32."""
        return (values * scale[..., None] + loc[..., None]).float()

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True where the context varies.

        One that is flat or empty has no scale: the network divides by 1e-5 or 1, and the loss of a single such window
        would outweigh thousands of others.
        """
        if "has_scale" in batch:
            return batch["has_scale"] > 0
        context = observed_or_nan(batch)[..., : self.num_targets]
        highest = torch.nan_to_num(context, nan=-torch.inf).amax(dim=1, keepdim=True)
        return highest > torch.nan_to_num(context, nan=torch.inf).amin(dim=1, keepdim=True)


class ScaledModule(NetworkModule):
    """A network that reads windows in the units of the scaler of the training part, as those of granite-tsfm do.

    It normalises each window by its own mean and deviation of what was observed, over at least 0.003: in scaled units
    that is little, in the units of some readings it would be a lot. The loss lives in scaled units. Where series differ
    too much in size (`Scaler.by_window`), those of the context take the place of the training part's.
    """

    input_layer = None

    def __init__(
        self,
        network: nn.Module,
        preprocessor: Preprocessor,
        prediction_length: int,
        native_length: int,
        levels: tuple[float, ...] = (),
    ) -> None:
        super().__init__(network, preprocessor.roles, prediction_length, native_length, levels)
        scaler = preprocessor.scaler
        self.by_window = scaler.by_window
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float32), persistent=False)

    def target_scale(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the targets, [targets] of the training part or [batch, 1, targets] of each context."""
        if not self.by_window:
            return self.mean[: self.num_targets], self.std[: self.num_targets]
        if "own_mean" in batch:
            return batch["own_mean"], batch["own_std"]
        observed = batch["past_observed_mask"][..., : self.num_targets]
        past, count = batch["past_values"][..., : self.num_targets].double(), observed.sum(dim=1, keepdim=True)
        mean = (past * observed).sum(dim=1, keepdim=True) / count.clamp_min(1)
        square = torch.where(observed, past - mean, 0.0).square().sum(dim=1, keepdim=True) / count.clamp_min(1)
        return mean.float(), torch.where(square > 0, square, 1.0).sqrt().float()

    def with_scale(self, encoded: Batch, batch: Batch) -> Batch:
        """Features of a batch that are to be stored without it, with what their forecasts are in."""
        if self.by_window:
            mean, std = self.target_scale(batch)
            encoded |= {"own_mean": mean, "own_std": std, "has_scale": self.has_scale(batch).float()}
        return encoded

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True by the scaler, which every target has; by window as of other networks."""
        if self.by_window:
            return super().has_scale(batch)
        future = batch["future_values"]
        return torch.ones(len(future), 1, self.num_targets, dtype=torch.bool, device=future.device)

    def scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, context, channels] in scaled units, and True where something was read.

        The network leaves what was not observed out of its mean and deviation, but reads it: make it the mean.
        """
        observed, (mean, std) = batch["past_observed_mask"], (self.mean, self.std)
        if self.by_window:  # the targets; what else there is was made for all series
            own, rest = self.target_scale(batch), (mean[self.num_targets :], std[self.num_targets :])
            mean, std = (torch.cat([x, y.expand(len(x), 1, -1)], dim=-1) for x, y in zip(own, rest, strict=True))
        past = (batch["past_values"] - mean) / std
        count = observed.sum(dim=1, keepdim=True).clamp_min(1)
        centre = (past * observed).sum(dim=1, keepdim=True) / count
        return torch.where(observed, past, centre), observed


class PlainModule(ScaledModule):
    """A network that is called as those of granite-tsfm and transformers: `past_values`, `past_observed_mask`.

    It returns a forecast [batch, steps, channels] in the units it was given, or something with `prediction_outputs`.
    """

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forecast [batch, steps, targets, 1] in scaled units, and the scaler's mean and std [targets]."""
        past, observed = self.scaled_context(batch)
        found = self.network(past_values=past, past_observed_mask=observed)
        values = getattr(found, "prediction_outputs", found)
        if values.shape[1] < self.num_steps or values.shape[2] < self.num_targets:
            raise ConfigError(
                f"self.model forecasts {values.shape[1]} steps of {values.shape[2]} channels, the run asks for "
                f"{self.num_steps} of {self.num_targets}; build it for model.prediction_length and the targets"
            )
        return values[:, : self.num_steps, : self.num_targets, None], *self.target_scale(batch)


def observed_or_nan(batch: Batch) -> torch.Tensor:
    """[batch, context, channels] with NaN where nothing was read."""
    return torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)


def as_series(values: torch.Tensor) -> torch.Tensor:
    """[batch, steps, channels] -> [batch * channels, steps], the channels of a window one after another."""
    return values.transpose(1, 2).reshape(-1, values.shape[1])


_LEVELS = 1 << 16


class FastDropout(nn.Dropout):
    """Drop-in for `nn.Dropout` with cheap random bits; on other devices than the CPU it is `nn.Dropout`.

    `torch.nn.Dropout` draws one random number per value with a slow serial generator, which is almost half of the time
    of training a TTM head on a CPU. Sixteen random bits per value are enough, so one 64-bit draw of NumPy's fastest
    generator serves four values. It is seeded from torch's generator at every call: the same torch seed gives the same
    masks, and resuming needs nothing new. The drop probability is rounded to a multiple of 1/65536.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Same shape as the input."""
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        return input * dropout_mask(input.shape, self.p, input.dtype)


def dropout_mask(shape: Sequence[int], p: float, dtype: torch.dtype, outermost: int = 0) -> torch.Tensor:
    """Zeros with probability `p`, else 1 / (1 - p); axis `outermost` of `shape` comes first in the result."""
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    seed, size = int(torch.randint(2**62, ())), math.prod(shape)
    generator = np.random.Generator(np.random.SFC64(seed))
    draws = generator.integers(-(2**63), 2**63 - 1, size=(size + 3) // 4, dtype=np.int64, endpoint=True)
    uniform = torch.from_numpy(draws).view(torch.int16)[:size].view(shape).movedim(outermost, 0)  # -32768 … 32767
    mask = torch.empty(uniform.shape, dtype=dtype).copy_(uniform).ge_(threshold - _LEVELS // 2)
    return mask.mul_(_LEVELS / (_LEVELS - threshold))


def use_fast_dropout(module: nn.Module) -> int:
    """Replace every `nn.Dropout` in place; returns how many."""
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
                replaced += 1
    return replaced


def put_before(module: nn.Module, ours: type[nn.Module], theirs: type[nn.Module]) -> int:
    """Put our forward before that of every layer of a library's class, in place; returns how many."""
    layers = [layer for layer in module.modules() if type(layer) is theirs]
    for layer in layers:
        layer.__class__ = _joined(ours, theirs)
    return len(layers)


@cache
def _joined(ours: type[nn.Module], theirs: type[nn.Module]) -> type[nn.Module]:
    """Made late, so that the library is imported late."""
    return type(ours.__name__, (ours, theirs), {})


def can_be_read(*layers: nn.Module) -> bool:
    """True if the weights of linear layers may be used without calling them: no adapter, whole, on a CPU, as they are.

    DeepSpeed gives an id to weights that are there only while their own layer runs.
    """
    whole = all(type(layer) is nn.Linear and not hasattr(layer.weight, "ds_id") for layer in layers)
    return whole and layers[0].weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
