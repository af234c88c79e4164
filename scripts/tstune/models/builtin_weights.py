"""The weights this project ships: pre-trained on generated series, for machines that reach no model hub."""

from __future__ import annotations

import json
from pathlib import Path

from tstune.errors import CheckpointError

BUILTIN = "builtin"
"""Value of `model.pretrained` that stands for them."""
ASSETS = Path(__file__).parents[1] / "assets"


def builtin_folder(context_length: int, prediction_length: int) -> Path:
    """The shipped checkpoint for these lengths: the same context, and the shortest forecast that is long enough.

    Raises:
        CheckpointError: none fits; the message lists what there is.
    """
    shipped = {}
    for path in sorted(ASSETS.glob("ttm-*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        shipped[config["context_length"], config["prediction_length"]] = path.parent
    fitting = [key for key in shipped if key[0] == context_length and key[1] >= prediction_length]
    if not fitting:
        choices = "; ".join(f"context_length={context}, up to {steps} steps" for context, steps in sorted(shipped))
        raise CheckpointError(
            f"model.pretrained=builtin has no weights for model.context_length={context_length}, "
            f"model.prediction_length={prediction_length}; there are: {choices}"
        )
    return shipped[min(fitting)]
