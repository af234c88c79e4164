"""A tiny Chronos T5 checkpoint with random weights, built from config and saved by transformers.

PYTHONPATH=scripts:tests python -m tiny_chronos_t5 FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tstune.recipe_book.tiny_weights.chronos_t5 import NATIVE, PATHS, TOKENS, write

__all__ = ["NATIVE", "PATHS", "TOKENS", "write"]

if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
