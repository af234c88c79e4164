"""python -m venv ref && ref/bin/pip install methcomp==1.0.0 clarke-error-grid==0.1.4
PYTHONPATH=tests:FOLDER ref/bin/python tests/glucose/make_error_grid_reference.py

Zones that others give the pairs of error_grid_pairs.py, into error_grid_reference.npz. methcomp is no longer kept up
and needs statsmodels, so it is not among our requirements. FOLDER holds a `dts_grid.py` with the zones as the public
repository T1DMAI computes them, the only code found that follows the risk function of the DTS paper; no package does.
"""

from __future__ import annotations

from pathlib import Path

import clarke_error_grid
import dts_grid
import numpy as np
from glucose.error_grid_pairs import checksum, error_grid_pairs
from methcomp.glucose import clarkezones, parkeszones


def main() -> None:
    """Write the reference beside this file."""
    found = {"checksum": np.array(checksum())}
    for kind, (reference, forecast) in error_grid_pairs().items():
        mmol = (reference / 18, forecast / 18, "mmol")
        found[f"{kind}_methcomp_clarke"] = np.int8(clarkezones(reference, forecast, "mgdl", numeric=True))
        found[f"{kind}_methcomp_clarke_mmol"] = np.int8(clarkezones(*mmol, numeric=True))
        found[f"{kind}_methcomp_parkes"] = np.int8(parkeszones(1, reference, forecast, "mgdl", numeric=True))
        found[f"{kind}_dts"] = np.int8(dts_grid.dts_zones(np.maximum(reference, 1), np.maximum(forecast, 1)))
        found[f"{kind}_clarke_error_grid_shares"] = np.array(
            clarke_error_grid.zone(reference.tolist(), forecast.tolist())
        )
    np.savez_compressed(Path(__file__).with_name("error_grid_reference.npz"), **found)


if __name__ == "__main__":
    main()
