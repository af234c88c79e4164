"""Tiny FlowState and PatchTST-FM with random weights, saved by granite-tsfm's own `save_pretrained`."""

from __future__ import annotations

from pathlib import Path

from tstune.recipe_book.tiny_weights.ttm import CONTEXT, PREDICTION

# The smallest networks with every part of the real ones.
FLOWSTATE = {
    "context_length": 2 * CONTEXT,
    "embedding_feature_dim": 16,
    "encoder_num_layers": 2,
    "encoder_state_dim": 8,
    "encoder_num_hippo_blocks": 2,
    "decoder_patch_len": 8,
    "decoder_dim": 6,
    "prediction_type": "median",
}
PATCHTST_FM = {
    "context_length": 2 * CONTEXT,
    "prediction_length": PREDICTION,
    "d_patch": 4,
    "d_model": 16,
    "n_head": 2,
    "n_layer": 2,
    "pretrain_mask_cont": 2,
}


def write_flowstate(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a FlowState; keywords change its config."""
    import torch
    from tsfm_public import FlowStateConfig, FlowStateForPrediction

    torch.manual_seed(seed)
    FlowStateForPrediction(FlowStateConfig(**FLOWSTATE | changes)).save_pretrained(folder)
    return folder


def write_patchtst_fm(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTST-FM; keywords change its config."""
    import torch
    from tsfm_public import PatchTSTFMConfig, PatchTSTFMForPrediction

    torch.manual_seed(seed)
    PatchTSTFMForPrediction(PatchTSTFMConfig(**PATCHTST_FM | changes)).save_pretrained(folder)
    return folder


def write_flowstate_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a FlowState for this context; its forecasts have any length."""
    return write_flowstate(folder, context_length=context_length)


def write_patchtst_fm_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save a PatchTST-FM of these lengths; its window holds both."""
    whole = context_length + prediction_length
    return write_patchtst_fm(folder, context_length=whole, prediction_length=prediction_length)
