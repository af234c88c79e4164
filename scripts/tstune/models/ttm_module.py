"""The TTM network between original units and scaled forecasts, in two halves: encode and decode.

With a frozen backbone `encode` gives the same output for a window in every epoch, so it can run once and
`forward` can start from its stored result.
"""

from __future__ import annotations

import torch
from torch import nn
from tsfm_public import TinyTimeMixerForPrediction

from tstune.data.scaler import Scaler
from tstune.data.windows import Batch

FEATURES = ("features", "loc", "scale")
"""Keys of what `TTMModule.encode` returns; a batch that holds them skips the encoder."""


class TTMModule(nn.Module):
    """A TTM with its scaler.

    Args:
        ttm: the network of granite-tsfm, or a peft model around it.
        scaler: fitted on the training part.
        num_targets: the first channels are the targets.
        control_indices: channels known in the future.
        frequency_token: index for models that were trained with a frequency prefix.

    Attributes:
        levels: ascending levels of the network's quantile head; empty if it has none.
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
        self.levels = tuple(sorted(ttm.config.quantile_levels)) if ttm.config.multi_quantile_head else ()
        self.encode_decoder = False  # True: the decoder belongs to the first half
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float32), persistent=False)

    @property
    def splits_cleanly(self) -> bool:
        """True if the second half needs nothing of the context but the features."""
        config = self.ttm.config
        return not (config.decoder_raw_residual or config.enable_forecast_channel_mixing)

    def forward(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] forecast in scaled units; with a quantile head [..., levels], ascending."""
        if "features" in batch:
            return self._decode(batch, None, None, known=None, static=batch.get("static"))
        past, observed = self._scaled_context(batch)
        encoded, patches = self._encode(past, observed, batch.get("static"))
        return self._decode(encoded, past, patches, self._known_future(batch), batch.get("static"))

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, channels, patches, width] with loc and scale [batch, 1, targets]."""
        encoded, _ = self._encode(*self._scaled_context(batch), batch.get("static"))
        return encoded

    def scale_targets(self, values: torch.Tensor) -> torch.Tensor:
        """Original -> scaled units, [..., targets]."""
        return (values - self.mean[: self.num_targets]) / self.std[: self.num_targets]

    def unscale_targets(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled -> original units, [..., targets]."""
        return values * self.std[: self.num_targets] + self.mean[: self.num_targets]

    def unscale_quantiles(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled -> original units, [..., targets, levels]."""
        return values * self.std[: self.num_targets, None] + self.mean[: self.num_targets, None]

    def _scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        observed = batch["past_observed_mask"]
        past = (batch["past_values"] - self.mean) / self.std
        # TTM normalises by the observed values but does not blank the others: put them at the window's mean.
        count = observed.sum(dim=1, keepdim=True).clamp_min(1)
        centre = (past * observed).sum(dim=1, keepdim=True) / count
        return torch.where(observed, past, centre), observed

    def _encode(
        self, past: torch.Tensor, observed: torch.Tensor, static: torch.Tensor | None
    ) -> tuple[Batch, torch.Tensor]:
        token = None
        if self.frequency_token is not None:
            token = torch.full((len(past),), self.frequency_token, device=past.device)
        output = self.ttm.backbone(past, past_observed_mask=observed, freq_token=token, return_dict=True)
        features = output.last_hidden_state
        if self.encode_decoder:
            features = self._through_decoder(features, output.patch_input, static)
        loc, scale = (values[..., : self.num_targets] for values in (output.loc, output.scale))
        return {"features": features, "loc": loc, "scale": scale}, output.patch_input

    def _through_decoder(
        self, hidden: torch.Tensor, patches: torch.Tensor | None, static: torch.Tensor | None
    ) -> torch.Tensor:
        return self.ttm.decoder(hidden_state=hidden, patch_input=patches, static_categorical_values=static)[0]

    def _decode(
        self,
        encoded: Batch,
        past: torch.Tensor | None,
        patches: torch.Tensor | None,
        known: torch.Tensor | None,
        static: torch.Tensor | None,
    ) -> torch.Tensor:
        hidden = encoded["features"]
        if not self.encode_decoder:
            hidden = self._through_decoder(hidden, patches, static)
        point = self.ttm.head(hidden, past_values=past, future_values=known)
        if self.levels:
            hidden = hidden[:, : self.num_targets]  # covariates have a hidden state, but no quantiles
            quantiles = self.ttm.multi_quantile_head_block(point, decoder_hidden_state=hidden)
            return quantiles.permute(0, 2, 3, 1) * encoded["scale"][..., None] + encoded["loc"][..., None]
        return point * encoded["scale"] + encoded["loc"]

    def _known_future(self, batch: Batch) -> torch.Tensor | None:
        """Control channels over the forecast; all others are zero, so that no target can leak in."""
        if not self.control_indices:
            return None
        scaled = (batch["future_values"] - self.mean) / self.std
        known = torch.zeros_like(scaled)
        known[..., self.control_indices] = scaled[..., self.control_indices]
        return known
