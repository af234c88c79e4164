"""Tiny FlowState and PatchTST-FM checkpoints with random weights, saved by granite-tsfm's own `save_pretrained`.

PYTHONPATH=scripts:tests python -m tiny_granite FOLDER    # writes FOLDER/flowstate and FOLDER/patchtst_fm
"""

from __future__ import annotations

import sys
from pathlib import Path

import tiny

# The smallest networks with every part of the real ones.
FLOWSTATE = {
    "context_length": 2 * tiny.CONTEXT,
    "embedding_feature_dim": 16,
    "encoder_num_layers": 2,
    "encoder_state_dim": 8,
    "encoder_num_hippo_blocks": 2,
    "decoder_patch_len": 8,
    "decoder_dim": 6,
    "prediction_type": "median",
}
PATCHTST_FM = {
    "context_length": 2 * tiny.CONTEXT,
    "prediction_length": tiny.PREDICTION,
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


WRITERS = {"flowstate": write_flowstate, "patchtst_fm": write_patchtst_fm}

if __name__ == "__main__":
    for family, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / family))
