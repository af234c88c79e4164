"""The five answers of a class that sets `self.model` in `_initialize_model`, as the design document writes a model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from tstune.data.preprocess import Preprocessor
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.adapters import freeze_by_mode
from tstune.models.contract import MODEL_FOLDER, ForecastModel
from tstune.training.losses import window_losses as losses_of

_WEIGHTS = "model.safetensors"
_PARTS = ("backbone", "decoder", "head")


def answer_by_hooks(cls: type[ForecastModel]) -> None:
    """Give a class that defines `_initialize_model` those of the five answers that it leaves open."""
    for answer in (build, forecast, window_losses, save_weights, load_weights):
        if getattr(getattr(cls, answer.__name__), "__isabstractmethod__", False):
            setattr(cls, answer.__name__, answer)


def build(self: ForecastModel, preprocessor: Preprocessor) -> None:
    """`_initialize_model` makes the network and says what of it learns; adapters and further modes come on top."""
    self.module, self.preprocessor, self.fresh = None, preprocessor, []
    self._initialize_model()
    if self.module is None:
        raise ConfigError(f"{type(self).__name__}._initialize_model did not set self.model to a network")
    self.quantize()
    mode = self.config.tuning.mode
    if mode in ("lora", "dora"):
        self.add_adapter()
    elif mode in ("head", "bias", "zero_shot"):
        freeze_by_mode(self.network, mode, self.parts or _PARTS, self.fresh)
    if mode != "zero_shot" and not any(parameter.requires_grad for parameter in self.module.parameters()):
        raise ConfigError(f"tuning.mode={mode}: nothing of the network of {type(self).__name__} learns")
    self.module.eval()
    self.log_parameters()


def forecast(self: ForecastModel, batch: Batch) -> torch.Tensor:
    """[batch, prediction, targets] float32 in original units."""
    self.module.eval()
    device = next(self.module.parameters()).device
    values = self.module({name: tensor.to(device) for name, tensor in batch.items()})
    return self.module.in_original_units(*values)[..., 0]


def window_losses(self: ForecastModel, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """`training.loss` in the units of the scaler."""
    values, loc, scale = module(batch)
    targets = slice(0, values.shape[2])
    truth = (batch["future_values"][..., targets] - loc) / scale
    training, observed = self.config.training, batch["future_observed_mask"][..., targets]
    kind = training.loss, training.huber_delta, training.step_decay
    return losses_of(values[..., 0].float(), truth, observed, *kind)


def save_weights(self: ForecastModel, folder: Path) -> None:
    """Write `model/`, in the network's own format where it has one."""
    place = folder / MODEL_FOLDER
    if hasattr(self.network, "save_pretrained"):
        self.network.save_pretrained(place)
    else:
        place.mkdir(parents=True)
        save_model(self.network, place / _WEIGHTS)


def load_weights(self: ForecastModel, folder: Path) -> None:
    """Make the network anew, where the configuration names the saved weights, and read them."""
    path, config = folder / MODEL_FOLDER / _WEIGHTS, self.config
    if config.model.pretrained is not None:
        self.config = config.changing("model", pretrained=str(path.parent), revision=None)
    try:
        self._initialize_model()
        load_model(self.network, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read into {type(self).__name__}: {error}") from None
    finally:
        self.config = config
    self.module.eval()
