"""Tiny FlowState and PatchTST-FM checkpoints with random weights, saved by granite-tsfm's own `save_pretrained`.

PYTHONPATH=scripts:tests python -m tiny_granite FOLDER    # writes FOLDER/flowstate and FOLDER/patchtst_fm
"""

from __future__ import annotations

import sys
from pathlib import Path

from tstune.recipe_book.tiny_weights.granite import write_flowstate, write_patchtst_fm

__all__ = ["WRITERS", "write_flowstate", "write_patchtst_fm"]

WRITERS = {"flowstate": write_flowstate, "patchtst_fm": write_patchtst_fm}

if __name__ == "__main__":
    for family, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / family))
