"""A tiny TimesFM 2.5 with random weights, built from config and saved by transformers."""

from __future__ import annotations

from pathlib import Path

from tstune.recipe_book.tiny_weights.ttm import CONTEXT

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
HORIZON, PATCH = 8, 8

# The smallest network with every part of the real one; its quantile head covers fewer steps than the other head.
WIDTHS = {
    "patch_length": PATCH,
    "context_length": 2 * CONTEXT,
    "horizon_length": HORIZON,
    "output_quantile_len": 6,
    "hidden_size": 16,
    "intermediate_size": 24,
    "head_dim": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "quantiles": LEVELS,
    "initializer_range": 0.2,
}


def write(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a TimesFM 2.5; keywords change its config."""
    import torch
    from transformers import TimesFm2_5Config, TimesFm2_5ModelForPrediction

    torch.manual_seed(seed)
    TimesFm2_5ModelForPrediction(TimesFm2_5Config(**WIDTHS | changes)).save_pretrained(folder)
    return folder


def write_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save one for this context that forecasts so many steps, in whole patches, at once."""
    ahead = PATCH * -(-prediction_length // PATCH)
    return write(folder, context_length=context_length, horizon_length=ahead, output_quantile_len=ahead)
