"""Tiny Time Mixers (TTM, granite-tsfm)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from tsfm_public import TinyTimeMixerForPrediction
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from tstune.adapters import apply_tuning_mode
from tstune.data.pipeline import Preprocessor
from tstune.data.scaler import Scaler
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.ttm_weights import build_from_scratch, load_pretrained
from tstune.runtime.logs import logger, quiet_transformers
from tstune.training.losses import window_losses

PARTS = {"backbone": "ttm.backbone.", "decoder": "ttm.decoder.", "head": "ttm.head."}


class TTMModule(nn.Module):
    """A TTM between original units and scaled forecasts.

    Args:
        ttm: the network of granite-tsfm.
        scaler: fitted on the training part.
        num_targets: the first channels are the targets.
        control_indices: channels known in the future.
        frequency_token: index for models that were trained with a frequency prefix.
    """

    def __init__(
        self,
        ttm: TinyTimeMixerForPrediction,
        scaler: Scaler,
        num_targets: int,
        control_indices: list[int],
        frequency_token: int,
    ) -> None:
        super().__init__()
        self.ttm = ttm
        self.num_targets = num_targets
        self.control_indices = control_indices
        self.frequency_token = frequency_token if ttm.config.resolution_prefix_tuning else None
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float32), persistent=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] forecast in scaled units."""
        observed = batch["past_observed_mask"]
        past = (batch["past_values"] - self.mean) / self.std
        # TTM normalises by the observed values but does not blank the others: put them at the window's mean.
        count = observed.sum(dim=1, keepdim=True).clamp_min(1)
        centre = (past * observed).sum(dim=1, keepdim=True) / count
        past = torch.where(observed, past, centre)
        token = None
        if self.frequency_token is not None:
            token = torch.full((len(past),), self.frequency_token, device=past.device)
        output = self.ttm(
            past_values=past,
            past_observed_mask=observed,
            future_values=self._known_future(batch),
            freq_token=token,
            return_loss=False,
        )
        return output.prediction_outputs

    def scale_targets(self, values: torch.Tensor) -> torch.Tensor:
        """Original -> scaled units, [..., targets]."""
        return (values - self.mean[: self.num_targets]) / self.std[: self.num_targets]

    def unscale_targets(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled -> original units, [..., targets]."""
        return values * self.std[: self.num_targets] + self.mean[: self.num_targets]

    def _known_future(self, batch: Batch) -> torch.Tensor | None:
        """Control channels over the forecast; all others are zero, so that no target can leak in."""
        if not self.control_indices:
            return None
        scaled = (batch["future_values"] - self.mean) / self.std
        known = torch.zeros_like(scaled)
        known[..., self.control_indices] = scaled[..., self.control_indices]
        return known


class TTMForecaster(BaseTimeSeriesFoundationModel):
    """Tiny Time Mixer behind the common interface."""

    model_type = "ttm"

    def build(self, preprocessor: Preprocessor) -> None:
        """Load or create the TTM, choose what learns, and say so.

        Raises:
            CheckpointError: weights missing, damaged or of another shape.
            ConfigError: a mode that makes no sense with these weights.
        """
        section, mode = self.config.model, self.config.tuning.mode
        quiet_transformers()
        fresh: list[str] = []
        if section.pretrained is None:
            if mode != "from_scratch":
                logger.warning(
                    "model.pretrained is null: tuning.mode=%s starts from random weights, frozen ones included", mode
                )
            ttm = build_from_scratch(section, preprocessor.roles)
        else:
            ttm, fresh, unused = load_pretrained(
                section, preprocessor.roles, preprocessor.frequency, random_weights=mode == "from_scratch"
            )
            if unused:
                logger.info(
                    "%d tensors of the checkpoint have no place in this model, e.g. %s (other channel set-up)",
                    len(unused),
                    unused[0],
                )
        if mode == "zero_shot" and fresh:
            raise ConfigError(
                f"tuning.mode=zero_shot, but {len(fresh)} tensors are not in the checkpoint and would be random: "
                f"{', '.join(fresh)}; use its own prediction length and channels, or another mode"
            )
        self._wrap(ttm, preprocessor)
        self.fresh = [f"ttm.{name}" for name in fresh]
        apply_tuning_mode(self.module, mode, PARTS, self.fresh)
        self.log_parameters()

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""
        self.module.eval()
        batch = {name: tensor.to(self.module.mean.device) for name, tensor in batch.items() if tensor is not None}
        return self.module.unscale_targets(self.module(batch).float())

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked loss in scaled units, per window."""
        targets, training = slice(0, self.module.num_targets), self.config.training
        target = self.module.scale_targets(batch["future_values"][..., targets])
        observed = batch["future_observed_mask"][..., targets]
        return window_losses(module(batch).float(), target, observed, training.loss, training.huber_delta)

    def save_weights(self, folder: Path) -> None:
        """Write a folder that `TinyTimeMixerForPrediction.from_pretrained` loads."""
        self.module.ttm.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Read the folder; every tensor must be there."""
        quiet_transformers()
        section = self.config.model.model_copy(update={"pretrained": str(folder), "revision": None})
        ttm, fresh, unused = load_pretrained(section, self.preprocessor.roles, self.preprocessor.frequency)
        if fresh or unused:
            raise CheckpointError(f"{folder} does not fit its config.json: {', '.join([*fresh, *unused][:4])}")
        self._wrap(ttm, self.preprocessor)
        self.module.eval()

    def _wrap(self, ttm: TinyTimeMixerForPrediction, preprocessor: Preprocessor) -> None:
        self.preprocessor = preprocessor
        token = DEFAULT_FREQUENCY_MAPPING.get(preprocessor.frequency, DEFAULT_FREQUENCY_MAPPING["oov"])
        roles = preprocessor.roles
        self.module = TTMModule(ttm, preprocessor.scaler, roles.num_targets, roles.control_indices, token)
