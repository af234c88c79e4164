"""Tiny Time Mixers (TTM, granite-tsfm)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from tsfm_public import TinyTimeMixerForPrediction
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from tstune.adapters import freeze_by_mode, part_of
from tstune.data.manifest import windows_by_item
from tstune.data.prepared import PreparedData, Preprocessor
from tstune.data.scaler import UNKNOWN
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import MODEL_FOLDER, BaseTimeSeriesFoundationModel, weights_folder
from tstune.models.fast_dropout import use_fast_dropout
from tstune.models.fast_patch_mixer import use_fast_patch_mixer
from tstune.models.ttm_module import TTMModule
from tstune.models.ttm_quantile_head import QUANTILE_HEAD, head_levels, start_at_the_forecast
from tstune.models.ttm_weights import build_from_scratch, load_pretrained
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.contract import Checkpoints, TrainingObserver, TrainingResult
from tstune.training.losses import quantile_window_losses, window_losses


class TTMForecaster(BaseTimeSeriesFoundationModel):
    """Tiny Time Mixer behind the common interface."""

    model_type = "ttm"
    parts: ClassVar[tuple[str, ...]] = ("backbone", "decoder", "head", QUANTILE_HEAD)
    block_classes: ClassVar[tuple[str, ...]] = ("TinyTimeMixerLayer",)

    @property
    def network(self) -> nn.Module:
        """The `TinyTimeMixerForPrediction`, or the peft model around it."""
        return self.module.ttm

    @network.setter
    def network(self, network: nn.Module) -> None:
        self.module.ttm = network

    def build(self, preprocessor: Preprocessor) -> None:
        """Load or create the TTM, choose what learns, and say so.

        Raises:
            CheckpointError: weights missing, damaged or of another shape.
            ConfigError: a mode that makes no sense with these weights.
        """
        section, mode, levels = self.config.model, self.config.tuning.mode, head_levels(self.config.forecast)
        quiet_transformers()
        self.fresh = []
        if section.pretrained is None:
            if mode != "from_scratch":
                logger.warning(
                    "model.pretrained is null: tuning.mode=%s starts from random weights, frozen ones included", mode
                )
            ttm = build_from_scratch(section, preprocessor.roles, levels)
        else:
            ttm, self.fresh, unused = load_pretrained(
                section,
                preprocessor.roles,
                preprocessor.frequency,
                random_weights=mode == "from_scratch",
                quantiles=levels,
            )
            if unused:
                logger.info(
                    "%d tensors of the checkpoint have no place in this model, e.g. %s (other channel set-up)",
                    len(unused),
                    unused[0],
                )
        if mode == "zero_shot" and self.fresh:
            raise ConfigError(
                f"tuning.mode=zero_shot, but {len(self.fresh)} tensors are not in the checkpoint and would be random: "
                f"{', '.join(self.fresh)}; use its own prediction length and channels, or another mode"
            )
        random = section.pretrained is None or mode == "from_scratch"
        if ttm.config.multi_quantile_head and (random or any(name.startswith(QUANTILE_HEAD) for name in self.fresh)):
            start_at_the_forecast(ttm)
        self._wrap(ttm, preprocessor)
        if mode in ("lora", "dora"):
            self.add_adapter()
        else:
            freeze_by_mode(ttm, mode, self.parts, self.fresh)
        self.log_parameters()

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""
        output, levels = self._output(batch), self.module.levels
        return self.module.unscale_targets(output[..., len(levels) // 2] if levels else output)

    @property
    def native_levels(self) -> tuple[float, ...]:
        """Levels of the quantile head; empty without one."""
        return self.module.levels

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, levels] float32 in original units, ascending, from the quantile head."""
        return self.module.unscale_quantiles(self._output(batch))

    def _output(self, batch: Batch) -> torch.Tensor:
        self.module.eval()
        return self.module({name: tensor.to(self.module.mean.device) for name, tensor in batch.items()}).float()

    def starts_from_weights(self) -> bool:
        """True if the untuned model is worth something: a new quantile head starts at the pretrained forecast."""
        pretrained = self.config.model.pretrained is not None and self.config.tuning.mode != "from_scratch"
        return pretrained and all(part_of(name, self.parts) == QUANTILE_HEAD for name in self.fresh)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked loss in scaled units, per window."""
        targets, training = slice(0, self.module.num_targets), self.config.training
        target = self.module.scale_targets(batch["future_values"][..., targets])
        observed = batch["future_observed_mask"][..., targets]
        output = module(batch).float()
        if self.module.levels:
            return quantile_window_losses(output, target, observed, self.module.levels)
        return window_losses(output, target, observed, training.loss, training.huber_delta)

    def train_on(
        self,
        data: PreparedData,
        manager: DistributedManager,
        history_path: Path | None = None,
        checkpoints: Checkpoints | None = None,
        observer: TrainingObserver | None = None,
    ) -> TrainingResult:
        """Train; a category that training never saw then is the mean of those that it saw."""
        result = super().train_on(data, manager, history_path, checkpoints, observer)
        codes = data.train.categories
        if codes is not None:
            trained = codes[windows_by_item(data.train) > 0]
            layers = self.network.decoder.decoder_cat_embedding_layer.embedding_layers
            with torch.no_grad():
                for layer, seen in zip(layers, trained.T, strict=True):
                    if not (seen == UNKNOWN).any():
                        layer.weight[UNKNOWN] = layer.weight[UNKNOWN + 1 :].mean(dim=0)
        return result

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """Backbone, with the decoder if that is frozen too."""
        learning = {part_of(name, self.parts) for name, value in self.module.named_parameters() if value.requires_grad}
        if "backbone" in learning or not learning or not self.module.splits_cleanly:
            return None
        self.module.encode_decoder = "decoder" not in learning
        return self.module.encode

    def save_weights(self, folder: Path) -> None:
        """Write `model/`, which `TinyTimeMixerForPrediction.from_pretrained` loads.

        With a quantised base these are the weights before packing; the adapter lies beside them.
        """
        if self.config.model.quantization == "none":
            self.network.save_pretrained(folder / MODEL_FOLDER)
        else:
            roles, frequency = self.preprocessor.roles, self.preprocessor.frequency
            levels = head_levels(self.config.forecast)
            base, _, _ = load_pretrained(self.config.model, roles, frequency, quantiles=levels)
            base.save_pretrained(folder / MODEL_FOLDER)

    def load_weights(self, folder: Path) -> None:
        """Read `model/`; every tensor must be there."""
        quiet_transformers()
        section = self.config.model.model_copy(update={"pretrained": str(weights_folder(folder)), "revision": None})
        ttm, fresh, unused = load_pretrained(section, self.preprocessor.roles, self.preprocessor.frequency)
        quantised = self.config.model.quantization != "none"  # fresh layers are whole in the adapter
        if unused or (fresh and not quantised):
            raise CheckpointError(f"{folder} does not fit its config.json: {', '.join([*fresh, *unused][:4])}")
        self._wrap(ttm, self.preprocessor)
        mode = self.config.tuning.mode
        if mode not in ("lora", "dora"):
            # torch picks its kernel by requires_grad: frozen as it was saved, the forecast is the same bit for bit
            freeze_by_mode(ttm, mode, self.parts, ())

    def _wrap(self, ttm: TinyTimeMixerForPrediction, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor
        token = DEFAULT_FREQUENCY_MAPPING.get(preprocessor.frequency, DEFAULT_FREQUENCY_MAPPING["oov"])
        if token >= ttm.config.frequency_token_vocab_size:
            token = DEFAULT_FREQUENCY_MAPPING["oov"]  # this checkpoint was trained with fewer rates
        roles = preprocessor.roles
        self.module = TTMModule(ttm, preprocessor.scaler, roles.num_targets, roles.control_indices, token)
        self.quantize()
        if not self.config.training.compile:  # the compiler does better with the ordinary layers
            use_fast_dropout(ttm)
            use_fast_patch_mixer(ttm)
        self.module.eval()
