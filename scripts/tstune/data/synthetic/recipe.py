"""What a synthetic training set is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from tstune.errors import ConfigError

FAMILIES = ("seasonal", "gaussian_process", "stochastic", "glucose", "trend", "intermittent", "waveform")
"""Families in the order of a batch's `item`."""


@dataclass(frozen=True)
class SeriesRecipe:
    """Shares of the families and chances of what happens to a series afterwards.

    Attributes:
        seasonal, gaussian_process, stochastic, glucose, trend, intermittent, waveform: weights of the families,
            relative to their sum.
        mix: chance that a series is combined with another one of the batch.
        shift, regime, spikes: chance of a level shift, a change of regime, outliers.
        squash, censor, quantise: chance of a bent scale, a floor or ceiling, a coarse resolution.
        resample: chance of another sampling rate.
        reverse, flip: chance of reversal in time and of the opposite sign.
        missing: chance of stretches that are missing and masked.
        interpolated: chance of gaps that are filled with straight lines in the context.
        clip: largest magnitude of a future value, in standard deviations of the context.
    """

    seasonal: float = 0.45
    gaussian_process: float = 0.15
    stochastic: float = 0.10
    glucose: float = 0.10
    trend: float = 0.10
    intermittent: float = 0.05
    waveform: float = 0.05
    mix: float = 0.20
    shift: float = 0.06
    regime: float = 0.03
    spikes: float = 0.06
    squash: float = 0.12
    censor: float = 0.06
    quantise: float = 0.06
    resample: float = 0.10
    reverse: float = 0.05
    flip: float = 0.25
    missing: float = 0.04
    interpolated: float = 0.04
    clip: float = 8.0

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ConfigError(f"series recipe: {name}={value!r} must be a number of at least 0")
            if name not in (*FAMILIES, "clip") and value > 1:
                raise ConfigError(f"series recipe: {name}={value!r} is a chance; give at most 1")
        if not 0 < sum(self.weights) < float("inf"):
            raise ConfigError(f"series recipe: give a finite weight above 0 to one of {', '.join(FAMILIES)}")
        if self.clip < 1:
            raise ConfigError(f"series recipe: clip={self.clip!r} must be at least 1 standard deviation")

    @property
    def weights(self) -> list[float]:
        """Weights in the order of `FAMILIES`."""
        return [getattr(self, name) for name in FAMILIES]

    def to_dict(self) -> dict[str, float]:
        """All values by name, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> SeriesRecipe:
        """Inverse of `to_dict`; what is left out keeps its default."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"series recipe: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**values)
