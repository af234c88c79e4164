"""Tiny random checkpoints of every family, in the format of the family's own library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError

CONTEXT, PREDICTION = 32, 8
NATIVE = 8
"""Steps of one forward pass of every Chronos."""
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
TOKENS, PATHS = 64, 8
"""Of Chronos T5."""
HORIZON, PATCH = 8, 8
"""Of TimesFM."""

# The smallest networks with every part of the real ones. TTM: two backbone levels, a decoder, a head.
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
WIDTHS = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2, "dropout_rate": 0.1}
T5 = WIDTHS | {
    "num_decoder_layers": 1,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
}
BOLT = T5 | {"chronos_pipeline_class": "ChronosBoltPipeline"}
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
CHRONOS_T5 = T5 | {
    "vocab_size": TOKENS,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
    "chronos_pipeline_class": "ChronosPipeline",
}
CHRONOS_T5_CHRONOS = {
    "tokenizer_class": "MeanScaleUniformBins",
    "tokenizer_kwargs": {"low_limit": -0.5, "high_limit": 2.5},
    "context_length": 2 * CONTEXT,
    "prediction_length": NATIVE,
    "n_tokens": TOKENS,
    "n_special_tokens": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_eos_token": True,
    "model_type": "seq2seq",
    "num_samples": PATHS,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}
TIMESFM = {  # its quantile head covers fewer steps than the other head
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
PATCHES = {  # seven channels, as the published ones
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
PATCHTST = PATCHES | {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 32,
    "ff_dropout": 0.1,
    "pooling_type": None,
    "norm_type": "batchnorm",
}
PATCHTSMIXER = PATCHES | {"num_layers": 2, "expansion_factor": 2, "dropout": 0.1, "gated_attn": True}
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
FRACAST = {
    "family": "fracast",
    "d_model": 16,
    "W": 2 * CONTEXT,
    "horizon": NATIVE,
    "future_queries": 2,
    "future_patch": 4,
    "quantiles": LEVELS,
    "n_stages": 3,
    "scale_cond_dim": 4,
    "periodic_topk": 2,
    "head_d_ff": 12,
    "head_fc_layers": 1,
    "head_future_conv": True,
    "head_future_conv_layers": 3,
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


def write_ttm(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a TTM; keywords change its config, here and below."""
    import torch
    from tsfm_public import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    torch.manual_seed(seed)
    TinyTimeMixerForPrediction(TinyTimeMixerConfig(**ARCHITECTURE | changes)).save_pretrained(folder)
    return folder


def write_bolt(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos-Bolt; `chronos` changes its chronos_config, here and below."""
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    torch.manual_seed(seed)
    config = T5Config(**BOLT | changes, chronos_config=BOLT_CHRONOS | (chronos or {}))
    ChronosBoltModelForForecasting(config).save_pretrained(folder)
    return folder


def write_chronos2(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos-2."""
    import torch
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model

    torch.manual_seed(seed)
    config = Chronos2CoreConfig(**CHRONOS2 | changes, chronos_config=CHRONOS2_CHRONOS | (chronos or {}))
    Chronos2Model(config).save_pretrained(folder)
    return folder


def write_chronos_t5(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos T5."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(**CHRONOS_T5 | changes, chronos_config=CHRONOS_T5_CHRONOS | (chronos or {}))
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_timesfm(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a TimesFM 2.5."""
    import torch
    from transformers import TimesFm2_5Config, TimesFm2_5ModelForPrediction

    torch.manual_seed(seed)
    TimesFm2_5ModelForPrediction(TimesFm2_5Config(**TIMESFM | changes)).save_pretrained(folder)
    return folder


def write_patchtst(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTST. Batch normalisation has statistics as if it had been trained."""
    import torch
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    torch.manual_seed(seed)
    model = PatchTSTForPrediction(PatchTSTConfig(**PATCHTST | changes))
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return _save_larger(model, folder)


def write_patchtsmixer(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTSMixer."""
    import torch
    from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction

    torch.manual_seed(seed)
    return _save_larger(PatchTSMixerForPrediction(PatchTSMixerConfig(**PATCHTSMIXER | changes)), folder)


def write_flowstate(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a FlowState."""
    import torch
    from tsfm_public import FlowStateConfig, FlowStateForPrediction

    torch.manual_seed(seed)
    FlowStateForPrediction(FlowStateConfig(**FLOWSTATE | changes)).save_pretrained(folder)
    return folder


def write_patchtst_fm(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a PatchTST-FM."""
    import torch
    from tsfm_public import PatchTSTFMConfig, PatchTSTFMForPrediction

    torch.manual_seed(seed)
    PatchTSTFMForPrediction(PatchTSTFMConfig(**PATCHTST_FM | changes)).save_pretrained(folder)
    return folder


def write_fracast(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save a Fracast; what the library begins with zeros has values here."""
    import torch

    from tstune.models.fracast import FracastConfig, FracastNetwork

    torch.manual_seed(seed)
    network = FracastNetwork(FracastConfig(FRACAST | changes))
    for part in (network.core.scale.to_gb, network.head.future_conv.out_proj):
        torch.nn.init.normal_(part.weight, std=0.1)
    network.save_pretrained(folder)
    return folder


def _save_larger(model: object, folder: Path) -> Path:
    """With weights that a forecast depends on: the library begins with ones of 0.02."""
    import torch

    for name, value in model.named_parameters():
        if name.endswith("weight") and value.dim() == 2:
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[..., Path]] = {
    "ttm": write_ttm,
    "chronos_bolt": write_bolt,
    "chronos2": write_chronos2,
    "chronos_t5": write_chronos_t5,
    "timesfm": write_timesfm,
    "patchtst": write_patchtst,
    "patchtsmixer": write_patchtsmixer,
    "flowstate": write_flowstate,
    "patchtst_fm": write_patchtst_fm,
    "fracast": write_fracast,
}
"""`model.type` -> writer(folder, seed, **changes) -> folder. A new family: one line here and one case below."""


def write_weights_for(config: RunConfig, folder: Path) -> Path:
    """Write a checkpoint that this run can start from; returns its folder.

    Raises:
        ConfigError: nothing here writes weights of this family.
    """
    model = config.model
    if model.type not in WRITERS:
        raise ConfigError(f"model.type={model.type} has no tiny weights; write them in tests/support/tiny_weights.py")
    return WRITERS[model.type](folder, **_sized(model.type, model.context_length, model.prediction_length))


def _sized(family: str, context: int, prediction: int) -> dict[str, object]:
    """Keywords of a writer for these lengths: an eighth of the context is a patch, or a quarter for TTM."""
    lengths = {"context_length": context, "prediction_length": prediction}
    patch = max(1, context // 8)
    match family:
        case "ttm":
            patch = max(1, context // 4)
            return lengths | {"patch_length": patch, "patch_stride": patch}
        case "patchtst" | "patchtsmixer":
            return lengths | {"patch_length": patch, "patch_stride": patch}
        case "chronos_bolt":
            return {"chronos": lengths | {"input_patch_size": patch, "input_patch_stride": patch}}
        case "chronos2":
            sizes = dict.fromkeys(("input_patch_size", "input_patch_stride", "output_patch_size"), patch)
            return {"chronos": sizes | {"context_length": context, "max_output_patches": -(-prediction // patch)}}
        case "chronos_t5":
            return {"chronos": lengths | {"num_samples": 2}}
        case "timesfm":
            ahead = PATCH * -(-prediction // PATCH)
            return {"context_length": context, "horizon_length": ahead, "output_quantile_len": ahead}
        case "flowstate":  # its forecasts have any length
            return {"context_length": context}
        case "fracast":
            return {"W": context, "horizon": prediction, "future_queries": prediction, "future_patch": 1}
        case "patchtst_fm":  # its window holds both
            return lengths | {"context_length": context + prediction}
    return lengths
