"""Methods by name, made from a configuration."""

from __future__ import annotations

from tstune.config.schema import ForecastSection
from tstune.uncertainty.adaptive_conformal import AdaptiveConformal
from tstune.uncertainty.interface import UncertaintyMethod
from tstune.uncertainty.quantile_head import QuantileHead, QuantileHeadConformal
from tstune.uncertainty.residual import Residual
from tstune.uncertainty.split_conformal import SplitConformal
from tstune.uncertainty.weighted_conformal import WeightedConformal

METHODS: dict[str, type[UncertaintyMethod]] = {
    method.name: method
    for method in (
        Residual,
        SplitConformal,
        WeightedConformal,
        AdaptiveConformal,
        QuantileHead,
        QuantileHeadConformal,
    )
}
"""Name -> class; the last two need quantiles of the network."""


def configured_name(section: ForecastSection) -> str:
    """Name of the method that the configuration asks for."""
    if section.method == "quantile_head" and section.conformalize_head:
        return QuantileHeadConformal.name
    return section.method


def make_method(name: str, section: ForecastSection) -> UncertaintyMethod:
    """A method that is not fitted yet, with the options of the configuration."""
    if name == WeightedConformal.name:
        return WeightedConformal(section.quantiles, section.half_life)
    if name == AdaptiveConformal.name:
        return AdaptiveConformal(section.quantiles, section.adaptation_rate)
    return METHODS[name](section.quantiles)
