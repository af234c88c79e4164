"""Tiny random checkpoints by family, in the family's own format, for runs that only show that all goes through."""

from __future__ import annotations

import importlib
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError

# model.type -> module:function(folder, context_length=…, prediction_length=…) -> folder. A new family: one line here.
_WRITERS = {
    "ttm": "tstune.recipe_book.tiny_weights.ttm:write_for",
    "chronos_bolt": "tstune.recipe_book.tiny_weights.chronos:write_bolt_for",
    "chronos2": "tstune.recipe_book.tiny_weights.chronos:write_chronos2_for",
    "chronos_t5": "tstune.recipe_book.tiny_weights.chronos_t5:write_for",
    "timesfm": "tstune.recipe_book.tiny_weights.timesfm:write_for",
    "patchtst": "tstune.recipe_book.tiny_weights.patches:write_patchtst_for",
    "patchtsmixer": "tstune.recipe_book.tiny_weights.patches:write_patchtsmixer_for",
    "flowstate": "tstune.recipe_book.tiny_weights.granite:write_flowstate_for",
    "patchtst_fm": "tstune.recipe_book.tiny_weights.granite:write_patchtst_fm_for",
}


def available_writers() -> list[str]:
    """Families that tiny weights can be written for."""
    return sorted(_WRITERS)


def write_tiny_weights(config: RunConfig, folder: Path) -> Path:
    """Write a checkpoint that this run can start from; returns its folder.

    Raises:
        ConfigError: nothing here writes weights of this family.
    """
    model = config.model
    if model.type not in _WRITERS:
        raise ConfigError(
            f"model.type={model.type} has no tiny weights; name its writer in scripts/tstune/recipe_book/tiny_weights"
        )
    module, _, function = _WRITERS[model.type].partition(":")
    write = getattr(importlib.import_module(module), function)
    return write(folder, context_length=model.context_length, prediction_length=model.prediction_length)
