"""Tiny Chronos checkpoints with random weights, built from config and saved by the library's own `save_pretrained`.

PYTHONPATH=scripts:tests python -m tiny_chronos FOLDER    # writes FOLDER/chronos_bolt and FOLDER/chronos2
"""

from __future__ import annotations

import sys
from pathlib import Path

from tstune.recipe_book.tiny_weights.chronos import LEVELS, NATIVE, WIDTHS, write_bolt, write_chronos2

__all__ = ["LEVELS", "NATIVE", "WIDTHS", "WRITERS", "write_bolt", "write_chronos2"]

WRITERS = {"chronos_bolt": write_bolt, "chronos2": write_chronos2}

if __name__ == "__main__":
    for family, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / family))
