"""Tiny PatchTST and PatchTSMixer with random weights, built from config and saved by transformers."""

from __future__ import annotations

from pathlib import Path

from tstune.recipe_book.tiny_weights.ttm import CONTEXT, PREDICTION

SHARED = {
    "context_length": CONTEXT,
    "prediction_length": PREDICTION,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_input_channels": 7,
    "head_dropout": 0.1,
    "scaling": "std",
    "loss": "mse",
}
# The smallest networks with every part of the published ones, for seven channels as those.
PATCHTST = SHARED | {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "ff_dropout": 0.1,
    "pooling_type": None,
    "norm_type": "batchnorm",
}
PATCHTSMIXER = SHARED | {"num_layers": 2, "expansion_factor": 2, "dropout": 0.1, "gated_attn": True}


def write_patchtst(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTST; keywords change its config. Batch normalisation has statistics as if it had been trained."""
    import torch
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    torch.manual_seed(seed)
    model = PatchTSTForPrediction(PatchTSTConfig(**PATCHTST | changes))
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return _save(model, folder)


def write_patchtsmixer(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTSMixer; keywords change its config."""
    import torch
    from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction

    torch.manual_seed(seed)
    return _save(PatchTSMixerForPrediction(PatchTSMixerConfig(**PATCHTSMIXER | changes)), folder)


def _save(model: object, folder: Path) -> Path:
    """With weights that a forecast depends on: the library begins with ones of 0.02."""
    import torch

    for name, value in model.named_parameters():
        if name.endswith("weight") and value.dim() == 2:
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def write_patchtst_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a PatchTST of these lengths, with eight patches."""
    return write_patchtst(folder, **_lengths(context_length, prediction_length))


def write_patchtsmixer_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a PatchTSMixer of these lengths, with eight patches."""
    return write_patchtsmixer(folder, **_lengths(context_length, prediction_length))


def _lengths(context_length: int, prediction_length: int) -> dict[str, int]:
    patch = max(1, context_length // 8)
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    return lengths | {"patch_length": patch, "patch_stride": patch}
