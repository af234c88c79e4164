"""A tiny Chronos T5 with random weights, built from config and saved by transformers."""

from __future__ import annotations

from pathlib import Path

from tstune.recipe_book.tiny_weights.chronos import WIDTHS
from tstune.recipe_book.tiny_weights.ttm import CONTEXT

NATIVE, TOKENS, PATHS = 8, 64, 8

CONFIG = WIDTHS | {
    "num_decoder_layers": 1,
    "vocab_size": TOKENS,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "relu",
    "initializer_factor": 1.0,
    "tie_word_embeddings": True,
    "chronos_pipeline_class": "ChronosPipeline",
}
CHRONOS = {
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


def write(folder: Path, seed: int = 0, chronos: dict | None = None, **changes: object) -> Path:
    """Save a Chronos T5; `chronos` changes its chronos_config, keywords the rest of its config."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(**CONFIG | changes, chronos_config=CHRONOS | (chronos or {}))
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_for(folder: Path, context_length: int, prediction_length: int) -> Path:
    """Save one of these lengths that draws two paths."""
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    return write(folder, chronos=lengths | {"num_samples": 2})
