"""Tiny PatchTST and PatchTSMixer checkpoints with random weights, built from config and saved by transformers.

PYTHONPATH=scripts:tests python -m tiny_patches FOLDER    # writes FOLDER/patchtst and FOLDER/patchtsmixer
"""

from __future__ import annotations

import sys
from pathlib import Path

from tstune.recipe_book.tiny_weights.patches import write_patchtsmixer, write_patchtst

__all__ = ["WRITERS", "write_patchtsmixer", "write_patchtst"]

WRITERS = {"patchtst": write_patchtst, "patchtsmixer": write_patchtsmixer}

if __name__ == "__main__":
    for family, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / family))
