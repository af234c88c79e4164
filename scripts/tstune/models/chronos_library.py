"""What we use of chronos-forecasting, or the pip line that brings it."""

from __future__ import annotations

from tstune.errors import MissingDependencyError

try:
    from chronos import Chronos2Pipeline, ChronosBoltPipeline, ChronosConfig
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "chronos":
        raise
    raise MissingDependencyError("Chronos needs a package: pip install 'chronos-forecasting>=2.3.2,<3'") from None

__all__ = [
    "Chronos2CoreConfig",
    "Chronos2Model",
    "Chronos2Pipeline",
    "ChronosBoltModelForForecasting",
    "ChronosBoltPipeline",
    "ChronosConfig",
]
