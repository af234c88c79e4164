"""PatchTST or PatchTSMixer between windows of ours and scaled forecasts, in two halves: encode and head.

Both normalise each window by its own mean and deviation of what was observed, over at least 0.003; in scaled units that
is little, in the units of some readings it would be a lot. So the scaler of the training part comes first, as in
granite-tsfm, and the loss lives in its units: there it is the library's own.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from tstune.data.prepared import Preprocessor
from tstune.data.windows import Batch
from tstune.models.network_module import NetworkModule


class PatchModule(NetworkModule):
    """A network of transformers with `model`, `head` and a `config` of patches.

    Args:
        network: it.
        preprocessor: channels, and the scaler fitted on the training part.
        prediction_length: steps that are asked for.
        mask_name: what the network calls the mask of what was observed.
    """

    def __init__(
        self, network: PreTrainedModel, preprocessor: Preprocessor, prediction_length: int, mask_name: str
    ) -> None:
        super().__init__(network, preprocessor.roles, prediction_length, network.config.prediction_length, levels=())
        self.mask_name = mask_name
        scaler = preprocessor.scaler
        self.register_buffer("mean", torch.tensor(scaler.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(scaler.std, dtype=torch.float32), persistent=False)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forecast [batch, steps, targets, 1] in scaled units, and the scaler's mean and std [targets]."""
        encoded = batch if "features" in batch else self.encode(batch)
        values = self._core.head(encoded["features"])[:, : self.num_steps, : self.num_targets]
        values = values * encoded["scale"] + encoded["loc"]
        return values[..., None], self.mean[: self.num_targets], self.std[: self.num_targets]

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, channels, patches, width], loc and scale [batch, 1, targets] of the window."""
        past, observed = self._scaled_context(batch)
        output = self._core.model(past_values=past, **{self.mask_name: observed}, return_dict=True)
        loc, scale = (values[..., : self.num_targets] for values in (output.loc, output.scale))
        return {"features": output.last_hidden_state, "loc": loc, "scale": scale}

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True: the loss is measured by the scaler, which every target has."""
        future = batch["future_values"]
        return torch.ones(len(future), 1, self.num_targets, dtype=torch.bool, device=future.device)

    @property
    def _core(self) -> nn.Module:
        """The network itself, within the peft model if there is one: both have a `model`."""
        base = getattr(self.network, "get_base_model", None)
        return self.network if base is None else base()

    def _scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        observed = batch["past_observed_mask"]
        past = (batch["past_values"] - self.mean) / self.std
        # the network leaves what was not observed out of loc and scale, but reads it all the same: make it the mean
        count = observed.sum(dim=1, keepdim=True).clamp_min(1)
        centre = (past * observed).sum(dim=1, keepdim=True) / count
        return torch.where(observed, past, centre), observed
