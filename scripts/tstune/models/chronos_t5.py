"""Chronos T5 (chronos-forecasting): a language model over binned readings, every series on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from tstune.config.model_sections import ModelSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError
from tstune.models.chronos_library import ChronosConfig
from tstune.models.chronos_t5_module import IGNORED, ChronosT5Module
from tstune.models.network_forecaster import refuse_other_columns
from tstune.models.network_weights import Architecture, require_context
from tstune.models.quantile_forecaster import QuantileForecaster
from tstune.models.token_sampling import Draws

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the quantiles where the configuration names none; the paths have any."""
CACHE_BYTES = 2_000_000_000
"""Keys and values of the paths that are decoded together on a CPU, at most."""


def _check(section: ModelSection, values: dict) -> None:
    name, settings = section.pretrained, values.get("chronos_config")
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"model.pretrained={name} is a T5ForConditionalGeneration without chronos_config, not a Chronos T5 "
            "checkpoint; use another checkpoint"
        )
    try:
        known = ChronosConfig(**settings)
        known.create_tokenizer()
    except (TypeError, AssertionError, AttributeError) as error:
        raise CheckpointError(
            f"model.pretrained={name}: chronos_config in its config.json makes no tokenizer: {error}"
        ) from None
    require_context(name, known.context_length, section.context_length)


class ChronosT5Forecaster(QuantileForecaster):
    """Chronos T5 behind the common interface; it reads targets only.

    A forecast is a set of sampled paths: their median, and their quantiles. The paths depend on `seed` and on the
    context of the series, and on nothing else. The loss is the cross entropy of the tokens of the observed targets.
    """

    model_type = "chronos_t5"
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    parts: ClassVar[Mapping[str, str]] = {
        "encoder": "backbone",
        "decoder": "decoder",
        "lm_head": "head",
        "shared": "head",  # the embedding of the tokens, tied to lm_head in what is published
    }
    architecture = Architecture("Chronos T5", T5ForConditionalGeneration, T5Config, _check)
    learns_with = "the cross entropy of its tokens"

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy of the tokens of the observed targets, given those before them, per window."""
        logits, labels, _ = module(batch)
        weighing = self._weighing(batch).to(labels.device)
        labels = torch.where(weighing, labels, IGNORED)
        each = F.cross_entropy(logits.float().flatten(0, 2), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return each.view(labels.shape).sum(dim=(1, 2)), weighing.sum(dim=(1, 2)).to(each.dtype)

    def _module_for(self, network: nn.Module, roles: Roles) -> ChronosT5Module:
        asked = self.config.forecast.quantiles
        levels = tuple(sorted({*asked, 0.5})) if asked else LEVELS
        return ChronosT5Module(network, roles, self.config.model.prediction_length, levels)

    def _check_roles(self, roles: Roles) -> None:
        refuse_other_columns(self.model_type, roles)

    def _values(self, batch: Batch) -> torch.Tensor:
        self.module.eval()
        length, size = self.config.model.prediction_length, self._windows_at_once()
        levels = torch.tensor(self.module.levels)
        found = []
        for begin in range(0, len(batch["past_values"]), size):
            part = {name: tensor[begin : begin + size].to(self._device) for name, tensor in batch.items()}
            paths = self.module.sample(part, length, Draws(self._num_paths, self.config.seed))
            found.append(paths.quantile(levels, dim=-1).movedim(0, -1))
        return torch.cat(found).to(self._device)

    @property
    def _num_paths(self) -> int:
        return self.config.model.num_samples or self.module.settings.num_samples

    def _windows_at_once(self) -> int:
        """Every path keeps keys and values of the whole context in every layer of the decoder."""
        config = self.network.config
        steps = self.config.model.context_length + 1 + self.module.num_steps
        path = 2 * 4 * steps * config.num_decoder_layers * config.num_heads * config.d_kv
        on_gpu = self._device.type == "cuda"
        budget = torch.cuda.get_device_properties(self._device).total_memory // 4 if on_gpu else CACHE_BYTES
        return max(1, budget // (path * self._num_paths * self.module.num_targets))
