"""Error grids: what a wrong glucose value would have led to, in five zones A (none) to E (dangerous).

They were made for meters, where reference and reading are of the same moment. A forecast against the reading at its
target time borrows them as a summary weighted by risk; that is no statement about the accuracy of a device.
"""

from tstune.evaluation.error_grids.clarke import CLARKE
from tstune.evaluation.error_grids.dts import DTS
from tstune.evaluation.error_grids.parkes import PARKES
from tstune.evaluation.error_grids.zones import ZONES, ErrorGrid, check_glucose, zone_shares, zone_table

ERROR_GRIDS: dict[str, ErrorGrid] = {grid.name: grid for grid in (CLARKE, PARKES, DTS)}
"""Name -> grid."""

__all__ = ["CLARKE", "DTS", "ERROR_GRIDS", "PARKES", "ZONES", "ErrorGrid", "check_glucose", "zone_shares", "zone_table"]
