"""Tiny Chronos-Bolt and Chronos-2 with random weights, saved by the library's own `save_pretrained`."""

from __future__ import annotations

from pathlib import Path

from tstune.recipe_book.tiny_weights.ttm import CONTEXT

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
NATIVE = 8
"""Steps of one forward pass of either network."""

# The smallest networks with every part of the real ones.
WIDTHS = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2, "dropout_rate": 0.1}
BOLT = WIDTHS | {
    "num_decoder_layers": 1,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
    "chronos_pipeline_class": "ChronosBoltPipeline",
}
BOLT_CHRONOS = {
    "context_length": 2 * CONTEXT,
    "prediction_length": NATIVE,
    "input_patch_size": 8,
    "input_patch_stride": 8,
    "quantiles": LEVELS,
    "use_reg_token": True,
}
CHRONOS2 = WIDTHS | {"initializer_factor": 0.5, "chronos_pipeline_class": "Chronos2Pipeline"}
CHRONOS2_CHRONOS = {
    "context_length": 2 * CONTEXT,
    "output_patch_size": 4,
    "input_patch_size": 4,
    "input_patch_stride": 4,
    "max_output_patches": NATIVE // 4,
    "quantiles": LEVELS,
    "use_reg_token": True,
    "use_arcsinh": True,
}


def write_bolt(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos-Bolt; `chronos` changes its chronos_config, keywords the rest of its config."""
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    torch.manual_seed(seed)
    config = T5Config(**BOLT | changes, chronos_config=BOLT_CHRONOS | (chronos or {}))
    ChronosBoltModelForForecasting(config).save_pretrained(folder)
    return folder


def write_chronos2(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos-2; `chronos` changes its chronos_config, keywords the rest of its config."""
    import torch
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model

    torch.manual_seed(seed)
    config = Chronos2CoreConfig(**CHRONOS2 | changes, chronos_config=CHRONOS2_CHRONOS | (chronos or {}))
    Chronos2Model(config).save_pretrained(folder)
    return folder


def write_bolt_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a Chronos-Bolt that forecasts so many steps at once, from patches of an eighth of the context."""
    patch = max(1, context_length // 8)
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    return write_bolt(folder, chronos={**lengths, "input_patch_size": patch, "input_patch_stride": patch})


def write_chronos2_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a Chronos-2 that forecasts so many steps at once, from eight patches or so."""
    patch = max(1, context_length // 8)
    sizes = {"input_patch_size": patch, "input_patch_stride": patch, "output_patch_size": patch}
    patches = -(-prediction_length // patch)
    return write_chronos2(folder, chronos={"context_length": context_length, "max_output_patches": patches, **sizes})
