"""A tiny TimesFM 2.5 checkpoint with random weights, built from config and saved by transformers.

PYTHONPATH=scripts:tests python -m tiny_timesfm FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tstune.recipe_book.tiny_weights.timesfm import HORIZON, LEVELS, PATCH, write

__all__ = ["HORIZON", "LEVELS", "PATCH", "write"]

if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
