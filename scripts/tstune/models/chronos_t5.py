"""Chronos T5 (chronos-forecasting): a language model over binned readings, every series on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tstune.config.section import ChronosT5Section, ModelSection
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import CheckpointError
from tstune.models.chronos import CHRONOS, chronos_settings
from tstune.models.modules import NetworkModule, as_series, observed_or_nan
from tstune.models.network_forecaster import QuantileForecaster
from tstune.models.network_weights import Architecture, require_context

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the quantiles where the configuration names none; the paths have any."""
CACHE_BYTES = 2_000_000_000
"""Keys and values of the paths that are decoded together on a CPU, at most."""
IGNORED = -100
"""Label of a token that no loss looks at, as in transformers."""
Warp = Callable[[torch.Tensor], torch.Tensor]


class Draws:
    """Numbers in [0, 1) for `num_paths` paths, step by step; the same seed gives the same numbers.

    At every step the paths share the unit interval evenly, one in each of `num_paths` strata, in an order of their own
    (Latin hypercube sampling). Each path is a plain draw; as a set they estimate quantiles better than free draws.
    """

    def __init__(self, num_paths: int, seed: int) -> None:
        self.num_paths = num_paths
        self._random = torch.Generator().manual_seed(seed)

    def next_step(self) -> torch.Tensor:
        """[paths] float64."""
        strata = torch.randperm(self.num_paths, generator=self._random)
        return (strata + torch.rand(self.num_paths, generator=self._random, dtype=torch.float64)) / self.num_paths


@torch.no_grad()
def sample_paths(
    network: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, steps: int, draws: Draws, warp: Warp
) -> torch.Tensor:
    """Decode `steps` tokens for each path of each series, by inverting the distribution at the numbers of `draws`.

    All series get the same numbers, so that none depends on its place in a batch. `generate` of transformers would take
    them from the global generator, in the order of the rows.

    Args:
        network: encoder-decoder of transformers, or a peft model around it.
        input_ids, attention_mask: [series, tokens] of the encoder.
        steps, draws: how many, and where the numbers come from.
        warp: [rows, vocabulary] logits -> logits, with -inf for tokens that must not be drawn.

    Returns:
        [series, paths, steps] tokens.
    """
    num_series, num_paths = len(input_ids), draws.num_paths
    encoded = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
    tokens = torch.full((num_series, 1), network.config.decoder_start_token_id, device=input_ids.device)
    cache, found = None, []
    for step in range(steps):
        output = network(
            encoder_outputs=encoded,
            attention_mask=attention_mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        scores = warp(output.logits[:, -1].float())
        points = draws.next_step().to(scores.device)
        drawn = _inverted(scores.view(num_series, -1, scores.shape[-1]), points)
        found.append(drawn)
        tokens = drawn.reshape(-1, 1)
        if step == 0:  # up to here the paths of a series are one row
            cache.batch_repeat_interleave(num_paths)
            attention_mask = attention_mask.repeat_interleave(num_paths, dim=0)
            encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(num_paths, dim=0)
    return torch.stack(found, dim=-1)


def _inverted(scores: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """[series, paths] tokens where the cumulative probability of [series, paths or 1, tokens] passes `points`."""
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    cumulative = cumulative / cumulative[..., -1:]  # exactly 1 at the end, beyond every point
    shared = scores.shape[1] == 1
    wanted = points[None, None, :] if shared else points[None, :, None]
    wanted = wanted.expand(len(scores), *wanted.shape[1:]).contiguous()
    return torch.searchsorted(cumulative, wanted, right=True).view(len(scores), -1)


class ChronosT5Module(NetworkModule):
    """Each target of each window is a series of its own, divided by its mean absolute reading and binned into tokens.

    A missing reading is a padding token that the attention masks. `levels` are those that quantiles of the paths are
    wanted for.
    """

    def __init__(self, network: nn.Module, roles: Roles, prediction_length: int, levels: tuple[float, ...]) -> None:
        from chronos import ChronosConfig

        settings = ChronosConfig(**network.config.chronos_config)
        super().__init__(network, roles, prediction_length, settings.prediction_length, levels)
        self.settings, self.tokenizer = settings, settings.create_tokenizer()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [batch, steps, targets, tokens] given the tokens before, labels [batch, steps, targets], scale.

        Labels are `IGNORED` where nothing was observed. The token of the end, which the library's own training adds,
        is left out: it always stands behind the last step, and is never drawn.
        """
        input_ids, attention_mask, scale = self._tokens(self.target_series(batch))
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
        context, parts = self.target_series(batch).cpu(), []
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
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        settings = self.settings
        scores[:, settings.eos_token_id] = -torch.inf
        if settings.temperature != 1:
            scores = TemperatureLogitsWarper(settings.temperature)(None, scores)
        if settings.top_k:
            scores = TopKLogitsWarper(settings.top_k)(None, scores)
        return scores if settings.top_p >= 1 else TopPLogitsWarper(settings.top_p)(None, scores)


class ChronosT5Forecaster(QuantileForecaster):
    """Chronos T5 behind the common interface; it reads targets only.

    A forecast is a set of sampled paths: their median, and their quantiles. The paths depend on `seed` and on the
    context of the series, and on nothing else. The loss is the cross entropy of the tokens of the observed targets.
    """

    model_type = "chronos_t5"
    title, library, section = "Chronos T5", CHRONOS.partition(">")[0], ChronosT5Section
    script = "finetune_chronos.py"
    not_exported = "draws its forecast token by token, which is no single graph"
    lora_targets = ("q", "k", "v", "o")
    block_classes: ClassVar[tuple[str, ...]] = ("T5Block",)
    parts: ClassVar[Mapping[str, str]] = {
        "encoder": "backbone",
        "decoder": "decoder",
        "lm_head": "head",
        "shared": "head",  # the embedding of the tokens, tied to lm_head in what is published
    }
    architecture = Architecture(title, CHRONOS, "transformers:T5ForConditionalGeneration", "transformers:T5Config")
    learns_with = "the cross entropy of its tokens"

    @classmethod
    def require_packages(cls) -> None:
        """Stop if chronos-forecasting is not installed, which has the tokenizer."""
        cls.architecture.of_library("chronos:ChronosConfig")

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy of the tokens of the observed targets, given those before them, per window."""
        logits, labels, _ = module(batch)
        weighing = self._weighing(batch).to(labels.device)
        labels = torch.where(weighing, labels, IGNORED)
        each = F.cross_entropy(logits.float().flatten(0, 2), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return each.view(labels.shape).sum(dim=(1, 2)), weighing.sum(dim=(1, 2)).to(each.dtype)

    @classmethod
    def _check_config(cls, section: ModelSection, values: dict) -> None:
        name, settings = section.pretrained, chronos_settings(cls, section, values)
        from chronos import ChronosConfig

        try:
            known = ChronosConfig(**settings)
            known.create_tokenizer()
        except (TypeError, AssertionError, AttributeError) as error:
            raise CheckpointError(
                f"model.pretrained={name}: chronos_config in its config.json makes no tokenizer: {error}"
            ) from None
        require_context(name, known.context_length, section.context_length)

    def _module_for(self, network: nn.Module, roles: Roles) -> ChronosT5Module:
        asked = self.config.forecast.quantiles
        levels = tuple(sorted({*asked, 0.5})) if asked else LEVELS
        return ChronosT5Module(network, roles, self.config.model.prediction_length, levels)

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
