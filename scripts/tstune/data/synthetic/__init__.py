"""Generated series for pre-training: endless, seeded, a whole batch at a time."""

from tstune.data.synthetic.mixture import FAMILIES, SeriesRecipe
from tstune.data.synthetic.windows import FixedSyntheticWindows, SyntheticWindows

__all__ = ["FAMILIES", "FixedSyntheticWindows", "SeriesRecipe", "SyntheticWindows"]
