"""A tiny TTM with random weights, saved the way granite-tsfm saves one."""

from __future__ import annotations

from pathlib import Path

CONTEXT, PREDICTION = 32, 8

# The smallest TTM with every part of the real one: two backbone levels, a decoder, a head.
ARCHITECTURE = {
    "context_length": CONTEXT,
    "prediction_length": PREDICTION,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_layers": 1,
    "expansion_factor": 2,
    "adaptive_patching_levels": 2,
    "gated_attn": True,
    "self_attn": False,
    "use_positional_encoding": False,
    "decoder_num_layers": 1,
    "decoder_d_model": 4,
    "decoder_mode": "common_channel",
    "dropout": 0.1,
    "head_dropout": 0.1,
    "scaling": "std",
    "loss": "mse",
    "num_input_channels": 1,
}


def write(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save it; keywords change its config."""
    import torch
    from tsfm_public import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    torch.manual_seed(seed)
    model = TinyTimeMixerForPrediction(TinyTimeMixerConfig(**ARCHITECTURE | changes))
    model.save_pretrained(folder)
    return folder


def write_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save one for these lengths, in as many patches as the default has."""
    patch = max(1, context_length // (CONTEXT // ARCHITECTURE["patch_length"]))
    return write(
        folder,
        context_length=context_length,
        prediction_length=prediction_length,
        patch_length=patch,
        patch_stride=patch,
    )
