"""Paths of tokens drawn from an encoder-decoder network, the same for the same series whatever lies beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

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
        steps: tokens to draw.
        draws: where the numbers come from.
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
    """[series, paths] the token at which the cumulative probability passes the point of the path.

    Args:
        scores: [series, paths or 1, vocabulary] logits.
        points: [paths] in [0, 1).
    """
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    cumulative = cumulative / cumulative[..., -1:]  # exactly 1 at the end, beyond every point
    shared = scores.shape[1] == 1
    wanted = points[None, None, :] if shared else points[None, :, None]
    wanted = wanted.expand(len(scores), *wanted.shape[1:]).contiguous()
    return torch.searchsorted(cumulative, wanted, right=True).view(len(scores), -1)
