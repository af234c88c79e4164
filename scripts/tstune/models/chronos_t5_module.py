"""A Chronos T5 network between windows of ours and tokens: cross entropy to train, sampled paths to forecast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.models.chronos_library import ChronosConfig
from tstune.models.network_module import NetworkModule, as_series, observed_or_nan
from tstune.models.token_sampling import Draws, sample_paths

IGNORED = -100
"""Label of a token that no loss looks at, as in transformers."""


class ChronosT5Module(NetworkModule):
    """Each target of each window is a series of its own, divided by its mean absolute reading and binned into tokens.

    A missing reading is a padding token that the attention masks.

    Args:
        network, roles, prediction_length: see `NetworkModule`.
        levels: ascending levels that quantiles of the paths are wanted for.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int, levels: tuple[float, ...]) -> None:
        settings = ChronosConfig(**network.config.chronos_config)
        super().__init__(network, roles, prediction_length, settings.prediction_length, levels)
        self.settings, self.tokenizer = settings, settings.create_tokenizer()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [batch, steps, targets, tokens] given the tokens before, labels [batch, steps, targets], scale.

        Labels are `IGNORED` where nothing was observed. The token of the end, which the library's own training adds,
        is left out: it always stands behind the last step, and is never drawn.
        """
        input_ids, attention_mask, scale = self._tokens(self._context(batch))
        observed = batch["future_observed_mask"][:, : self.num_steps, : self.num_targets]
        targets = batch["future_values"][:, : self.num_steps, : self.num_targets]
        labels = self._labels(as_series(torch.where(observed, targets, torch.nan)), scale).to(input_ids.device)
        before = self.network.prepare_decoder_input_ids_from_labels(labels)
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=before)
        by_window = (len(targets), self.num_targets)
        logits = output.logits.unflatten(0, by_window).transpose(1, 2)
        return logits, labels.unflatten(0, by_window).transpose(1, 2), scale.view(-1, 1, self.num_targets)

    def sample(self, batch: Batch, steps: int, draws: Draws) -> torch.Tensor:
        """[batch, steps, targets, paths] in original units.

        Beyond the steps of one pass the median is appended to the context, as the library does.
        """
        context, parts = self._context(batch).cpu(), []
        for begin in range(0, steps, self.native_length):
            input_ids, attention_mask, scale = self._tokens(context)
            length = min(self.native_length, steps - begin)
            tokens = sample_paths(self.network, input_ids, attention_mask, length, draws, self._warp)
            paths = self.tokenizer.output_transform(tokens.cpu(), scale)
            parts.append(paths)
            context = torch.cat([context, paths.median(dim=1).values], dim=1)
        return torch.cat(parts, dim=2).unflatten(0, (-1, self.num_targets)).permute(0, 3, 1, 2)

    def has_scale(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] True where a reading is not zero: their mean absolute value is the scale."""
        context = observed_or_nan(batch)[..., : self.num_targets]
        return (context.nan_to_num() != 0).any(dim=1, keepdim=True)

    def _context(self, batch: Batch) -> torch.Tensor:
        return as_series(observed_or_nan(batch)[..., : self.num_targets])

    def _tokens(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and attention mask where the network is, scale on the CPU, where the library's tokenizer works."""
        input_ids, attention_mask, scale = self.tokenizer.context_input_transform(context.cpu().contiguous())
        device = next(self.network.parameters()).device
        return input_ids.to(device), attention_mask.to(device), scale

    def _labels(self, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """[series, steps] tokens of targets, of which the library wants as many as one pass gives."""
        lacking = self.native_length - targets.shape[1]
        targets = F.pad(targets.cpu(), (0, lacking), value=torch.nan).contiguous()
        tokens, observed = self.tokenizer.label_input_transform(targets, scale)
        return torch.where(observed, tokens, IGNORED)[:, : self.num_steps]

    def _warp(self, scores: torch.Tensor) -> torch.Tensor:
        """Logits as the library's `generate` draws from them: no end before the last step, then its three settings."""
        settings = self.settings
        scores[:, settings.eos_token_id] = -torch.inf
        if settings.temperature != 1:
            scores = TemperatureLogitsWarper(settings.temperature)(None, scores)
        if settings.top_k:
            scores = TopKLogitsWarper(settings.top_k)(None, scores)
        return scores if settings.top_p >= 1 else TopPLogitsWarper(settings.top_p)(None, scores)
