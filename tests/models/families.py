"""Every model family as the conformance suite sees it: a tiny checkpoint, and the settings that fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support import tiny, tiny_weights


@dataclass(frozen=True)
class Family:
    """What differs between families; all else is the same test.

    Attributes:
        write: makes a tiny checkpoint; None for models without one.
        counts: tuning mode -> (all parameters, trainable ones), or the words of the refusal.
        refused: key of `data` -> words of the refusal, for columns the family does not read.
        learning_rate: that suits the tiny network.
        forecasts_quantiles: the network itself does; else they come from what it missed on validation windows.
    """

    write: Callable[..., Path] | None = None
    counts: dict[str, tuple[int, int] | str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    learning_rate: float = 0.01
    forecasts_quantiles: bool = True


# Counted by hand from the widths in tiny_weights.py; each sum is in the order of the network's layers.
BOLT_HEAD = (16 * 32 + 32) + (32 * 72 + 72) + (16 * 72 + 72)
BOLT_DECODER = (4 * 256 + 64 + 16) + (4 * 256 + 16) + (2 * 512 + 16) + 16
BOLT_LORA = 16 * 8 * (16 + 16) + 8 * (32 + 72)  # q, k, v, o of 2 encoder blocks, of a decoder block twice; output
CHRONOS2_HEAD = (16 * 32 + 32) + (32 * 36 + 36) + (16 * 36 + 36)
CHRONOS2_LORA = 16 * 8 * (16 + 16) + 8 * (32 + 36)  # q, k, v, o over time and over series of 2 blocks; output
# Counted by hand from the widths in tiny_weights.py: embedding, then blocks with their norms and position tables.
T5_HEAD = 64 * 16
T5_ENCODER = 2 * (4 * 256 + 16 + 2 * 512 + 16) + 32 * 2 + 16
T5_DECODER = (4 * 256 + 16) + (4 * 256 + 16) + (2 * 512 + 16) + 32 * 2 + 16
T5 = T5_HEAD + T5_ENCODER + T5_DECODER
T5_LORA = 16 * 8 * (16 + 16)  # q, k, v, o of 2 encoder blocks, of a decoder block twice
# Counted by hand from the widths in tiny_weights.py.
TIMESFM_BACKBONE = 3 * (16 * 16 + 16) + 2 * (4 * 256 + 8 + 2 * 8 + 2 * 24 * 16 + 4 * 16)
TIMESFM_HEAD = (256 + 2 * 80 * 16) + (256 + 2 * 60 * 16)
TIMESFM = TIMESFM_BACKBONE + TIMESFM_HEAD
TIMESFM_LORA = 2 * 8 * (4 * (16 + 16) + 2 * (16 + 24)) + 8 * (16 + 80) + 8 * (16 + 60)
TIMESFM_DORA = TIMESFM_LORA + 2 * (5 * 16 + 24) + 80 + 60  # and a length for every output
ALONE = {
    "conditional_columns": "cannot read 'dose'",
    "control_columns": "cannot read 'plan'",
    "static_real_columns": "cannot read 'age'",
    "static_categorical_columns": "cannot read 'site'",
    "time_features": "cannot read 'hour_of_day'",
}
"""Columns that a family refuses which forecasts each series from its own past."""

# FlowState of tiny_weights.py: embedding, 2 layers of (4 vectors of 8 or 16, 4 matrices 8 x 16, gate, norm), decoder
FLOWSTATE_HEAD = 16 * 54 + 54
FLOWSTATE = (2 * 16 + 16) + 2 * ((3 * 8 + 16) + 4 * 8 * 16 + (16 * 16 + 16) + 2 * 16) + FLOWSTATE_HEAD
FLOWSTATE_LORA = 2 * 8 * (16 + 16) + 8 * (16 + 54)  # gates of 2 layers; the decoder
# PatchTST-FM: 4 x 100 outputs of a patch; patches of 4 values and 4 flags go in
PATCHTST_FM_HEAD = (16 * 16 + 16) + 2 * (16 * 400 + 400)
PATCHTST_FM = (
    16 * 16  # positions
    + 2 * ((16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16) + 2 * 2 * 16)  # attention, MLP, norms
    + (8 * 16 + 16) + (16 * 16 + 16) + (8 * 16 + 16)
    + PATCHTST_FM_HEAD
)  # fmt: skip
PATCHTST_FM_LORA = 2 * 8 * ((16 + 48) + (16 + 16)) + 8 * (16 + 400)  # qkv and projection of 2 blocks; output

# Fracast: a block is its convolution, projection, gated MLP of 24 and two norms; one in the encoder, one in the head.
FRACAST_BLOCK = (3 * 16 + 16) + (256 + 16) + (16 * 48 + 48) + (24 * 16 + 16) + 2 * 16
FRACAST_HEAD = (37 * 16 + 16) + 8 * 16 + (16 * 24 + 24) + (12 * 16 + 16) + 16 + (3 * 16 + 16 + 16) + (16 * 9 + 9)
FRACAST_HEAD += (6 * 16 + 16) + FRACAST_BLOCK + (256 + 16)  # the convolution over the horizon
FRACAST = (7 * 16 + 16) + (4 * 16 + 16) + FRACAST_BLOCK + (4 * 32 + 32) + 16 + FRACAST_HEAD
FRACAST_BIAS = 16 + 16 + 32 + 16 + (24 + 16) + 9 + 16 + 16 + 2 * (16 + 48 + 16)
# both blocks, the decoder's MLP (ranks 8 and 6), the outputs (4 for nine levels)
FRACAST_LORA = 2 * 8 * (32 + 64 + 40) + 8 * (16 + 24) + 6 * (12 + 16) + 4 * (16 + 9) + 8 * 32

# The same from tiny_weights.py; two layers each.
PATCHTST_HEAD = 64 * 8 + 8
PATCHTST_ALL = (8 * 16 + 16) + 4 * 16 + 2 * (4 * (256 + 16) + 2 * 32 + (512 + 32) + (512 + 16)) + PATCHTST_HEAD
PATCHTST_LORA = 2 * 4 * 8 * (16 + 16) + 4 * (64 + 8)  # q, k, v, o; the head at half its rank
MIXER_LAYER = (32 + (32 + 8) + (32 + 4) + (16 + 4)) + (32 + (512 + 32) + (512 + 16) + (256 + 16))
MIXER_ALL = (8 * 16 + 16) + 2 * MIXER_LAYER + PATCHTST_HEAD
# fc1, fc2 and gate over patches at rank 2, over features at rank 8; the head at rank 4
MIXER_LORA = 2 * (2 * (12 + 12 + 8) + 8 * (48 + 48 + 32)) + 4 * (64 + 8)


def counts(
    total: int,
    head: int,
    bias: int | str,
    lora: int,
    lengths: int,
    decoder: int | str = "has an encoder and no decoder",
    fixed: int = 0,
) -> dict[str, tuple[int, int] | str]:
    """Tuning mode -> (all parameters, trainable ones), or the words of the refusal.

    Args:
        total: of the network.
        head, bias, decoder: that learn in these modes.
        lora, lengths: of the adapters, and what DoRA adds to them.
        fixed: that never learn.
    """
    return {
        "zero_shot": (total, 0),
        "skip_head": "has none; set model.skip_steps",
        "quantile_head": "has none; set forecast.method=quantile_head",
        "head": (total, head),
        "decoder": decoder if isinstance(decoder, str) else (total, decoder),
        "bias": bias if isinstance(bias, str) else (total, bias),
        "lora": (total + lora, lora),
        "dora": (total + lora + lengths, lora + lengths),
        "full": (total, total - fixed),
        "from_scratch": (total, total - fixed),
    }


FOUNDATION: dict[str, Family] = {
    "ttm": Family(tiny.write_checkpoint, counts(2796, 136, 260, 1824, 184, decoder=412)),
    "chronos_bolt": Family(
        tiny_weights.write_bolt,
        counts(
            *(12960, BOLT_HEAD, (32 + 16 + 16) + (32 + 72 + 72), BOLT_LORA, 16 * 16 + 72),
            decoder=BOLT_DECODER + BOLT_HEAD,
        ),
        refused=ALONE,
    ),
    "chronos2": Family(
        tiny_weights.write_chronos2,
        counts(9784, CHRONOS2_HEAD, (32 + 16 + 16) + (32 + 36 + 36), CHRONOS2_LORA, 16 * 16 + 36),
        refused={
            "static_real_columns": "leaves nothing of the constant 'age'",
            "static_categorical_columns": "leaves nothing of the constant 'site'",
        },
    ),
    "chronos_t5": Family(
        tiny_weights.write_chronos_t5,
        counts(T5, T5_HEAD, "no layer of Chronos T5 has a bias", T5_LORA, 16 * 16, decoder=T5_DECODER + T5_HEAD),
        refused=ALONE,
    ),
    "timesfm": Family(
        tiny_weights.write_timesfm,
        counts(
            *(TIMESFM, TIMESFM_HEAD, 3 * 16, TIMESFM_LORA, TIMESFM_DORA - TIMESFM_LORA),
            decoder="the decoder layers of TimesFM 2.5 are its backbone",
        ),
        refused=ALONE,
    ),
    "flowstate": Family(
        tiny_weights.write_flowstate,
        counts(FLOWSTATE, FLOWSTATE_HEAD, 16 + 2 * (16 + 16) + 54, FLOWSTATE_LORA, 2 * 16 + 54),
        refused=ALONE,
    ),
    "patchtst_fm": Family(
        tiny_weights.write_patchtst_fm,
        counts(
            PATCHTST_FM,
            PATCHTST_FM_HEAD,
            2 * (48 + 16 + 64 + 16 + 2 * 16) + 3 * 16 + (16 + 2 * 400),
            PATCHTST_FM_LORA,
            2 * (48 + 16) + 400,
        ),
        refused=ALONE,
    ),
    "fracast": Family(
        tiny_weights.write_fracast,
        counts(FRACAST, FRACAST_HEAD, FRACAST_BIAS, FRACAST_LORA, 2 * (16 + 48 + 16) + (24 + 16) + 9 + 16),
        refused=ALONE,
    ),
    "patchtst": Family(
        tiny_weights.write_patchtst,
        counts(
            *(PATCHTST_ALL, PATCHTST_HEAD, 16 + 2 * (4 * 16 + 2 * 16 + 32 + 16) + 8, PATCHTST_LORA, 8 * 16 + 8),
            fixed=4 * 16,  # the sines and cosines of the positions
        ),
        refused=ALONE,
        forecasts_quantiles=False,
    ),
    "patchtsmixer": Family(
        tiny_weights.write_patchtsmixer,
        counts(MIXER_ALL, PATCHTST_HEAD, 16 + 2 * (16 + 8 + 4 + 4 + 16 + 32 + 16 + 16) + 8, MIXER_LORA, 2 * 80 + 8),
        refused=ALONE,  # the tiny checkpoint keeps its channels apart
        forecasts_quantiles=False,
    ),
}
BASELINES: dict[str, Family] = {
    name: Family()
    for name in ("persistence", "seasonal_naive", "context_mean", "ridge", "lightgbm", "auto_ets", "auto_theta")
}
SERVICES: dict[str, Family] = {"timegpt": Family()}
"""Models without a network of ours, answered by a local server; fine-tuned like a baseline is fitted."""
MEMBERS = ("persistence", "seasonal_naive", "context_mean")
"""What the ensemble averages; none of them minds the unit of its readings."""
ALL = FOUNDATION | SERVICES | BASELINES | {"ensemble": Family(), "stack": Family()}
