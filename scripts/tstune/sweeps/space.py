"""Hydra's override grammar read as a search space."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    FloatRange,
    IntervalSweep,
    Override,
    OverrideType,
    QuotedString,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException

from tstune.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

Value = object
"""What a recipe may hold: null, a truth value, a number, text, or a list of them."""

MAX_VALUES = 10_000


@dataclass(frozen=True)
class Choice:
    """Any of some values, without an order."""

    key: str
    values: tuple[Value, ...]

    def stored(self, value: Value) -> Value:
        """The value as a study can store it: a list becomes its JSON."""
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value

    def decode(self, stored: Value) -> Value:
        """The value behind what a study stores."""
        return next(value for value in self.values if self.stored(value) == stored)

    def suggest(self, trial: Trial) -> Value:
        """Ask the study's sampler."""
        return self.decode(trial.suggest_categorical(self.key, [self.stored(value) for value in self.values]))

    def __str__(self) -> str:
        return f"choice({', '.join(map(as_text, self.values))})"


@dataclass(frozen=True)
class Range:
    """Numbers at equal distances, ascending."""

    key: str
    values: tuple[int | float, ...]
    log: bool = False

    @property
    def step(self) -> int | float:
        """Distance of two values."""
        return self.values[1] - self.values[0] if len(self.values) > 1 else 1

    def stored(self, value: int | float) -> int | float:
        """A number is stored as it is."""
        return value

    def decode(self, stored: int | float) -> int | float:
        """The value meant: a study computes ``first + n x step``, which may differ in the last digit."""
        return min(self.values, key=lambda value: abs(value - stored))

    def suggest(self, trial: Trial) -> int | float:
        """Ask the study's sampler."""
        first, last = self.values[0], self.values[-1]
        if isinstance(first, int):
            return trial.suggest_int(self.key, first, last, step=self.step, log=self.log)
        return self.decode(trial.suggest_float(self.key, first, last, step=self.step))

    def __str__(self) -> str:
        text = f"{as_text(self.values[0])} to {as_text(self.values[-1])} in steps of {as_text(self.step)}"
        return f"range({text}{', log' if self.log else ''})"


@dataclass(frozen=True)
class Interval:
    """Every number from `low` to `high`; whole ones if both are."""

    key: str
    low: int | float
    high: int | float
    log: bool = False

    values = None
    """Not countable."""

    def decode(self, stored: int | float) -> int | float:
        """A number is stored as it is."""
        return stored

    def suggest(self, trial: Trial) -> int | float:
        """Ask the study's sampler."""
        ask = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return ask(self.key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"interval({as_text(self.low)} to {as_text(self.high)}{', log' if self.log else ''})"


Dimension = Choice | Range | Interval


def as_text(value: Value) -> str:
    """A value the way a recipe holds it; YAML reads it back as the same value."""
    return json.dumps(value, ensure_ascii=False)


def as_override(key: str, value: Value) -> str:
    """``key=value`` for a config manager."""
    return f"{key}={as_text(value)}"


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell plain ``key=value`` overrides from swept ones.

    Returns:
        the plain ones, which every trial gets as they are, and the swept ones for `parse_space`.

    Raises:
        ConfigError: a value that looks like a function of the grammar but cannot be read.
    """
    plain, swept = [], []
    for word in words:
        override = _parse(word)
        (swept if override is not None and override.is_sweep_override() else plain).append(word)
    return plain, swept


def parse_space(swept: Sequence[str]) -> list[Dimension]:
    """One dimension per swept override, in their order.

    Raises:
        ConfigError: a sweep that means nothing, or a key that is swept twice.
    """
    space: list[Dimension] = []
    for word in swept:
        dimension = _dimension(_parse(word), word)
        if any(dimension.key == other.key for other in space):
            raise ConfigError(f"{dimension.key} is swept twice; give it one set of values")
        space.append(dimension)
    return space


def size(space: Sequence[Dimension]) -> int | None:
    """Number of points; None if there is no end of them."""
    if any(dimension.values is None for dimension in space):
        return None
    return math.prod(len(dimension.values) for dimension in space)


def _parse(word: str) -> Override | None:
    """None for a text that is not of Hydra's grammar, such as a value with unusual characters: YAML reads it."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        value = word.partition("=")[2]
        if re.match(r"\s*\w+\(", value):
            raise ConfigError(f"{word}: cannot be read: {str(error).splitlines()[0]}; {_FORMS}") from None
        return None


_FORMS = (
    "sweeps are a,b or choice(a,b), range(start,stop,step), interval(low,high) and tag(log,…) around the last two; "
    "quote a text that only looks like one"
)


def _dimension(override: Override, word: str) -> Dimension:
    if override.type is not OverrideType.CHANGE or override.package is not None:
        raise ConfigError(f"{word}: a swept key stands without +, ~ or @: key=a,b")
    key, value = override.key_or_group, override.value()
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ConfigError(f"{word}: glob() has no meaning here; name the values: {key}=a,b")
    if getattr(value, "shuffle", False):
        raise ConfigError(f"{word}: shuffle() has no meaning here; take it away, --sampler random draws at random")
    if value.tags - {"log"}:
        raise ConfigError(f"{word}: unknown tag {', '.join(sorted(value.tags - {'log'}))}; the only one is log")
    log = "log" in value.tags
    match value:
        case ChoiceSweep():
            if log:
                raise ConfigError(f"{word}: tag(log,…) needs an interval() or a range(), a choice has no order")
            return Choice(key, _choices(value, word))
        case RangeSweep():
            return _range(key, value, log, word)
        case IntervalSweep():
            if not value.start < value.end:
                raise ConfigError(f"{word}: an interval goes from a lower to a higher number")
            _check_log(value.start, log, word)
            return Interval(key, value.start, value.end, log)
    raise ConfigError(f"{word}: {_FORMS}")


def _choices(sweep: ChoiceSweep, word: str) -> tuple[Value, ...]:
    values = tuple(_plain(value, word) for value in sweep.list)
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ConfigError(f"{word}: {as_text(value)} stands there twice")
    return values


def _plain(value: object, word: str) -> Value:
    """A parsed element without the quotes."""
    match value:
        case Sweep():
            raise ConfigError(f"{word}: one kind of sweep for one key; {_FORMS}")
        case QuotedString():
            return value.text
        case list():
            return [_plain(item, word) for item in value]
        case dict():
            return {str(name): _plain(item, word) for name, item in value.items()}
        case float() if not math.isfinite(value):
            raise ConfigError(f"{word}: {value} is no number")
    return value


def _range(key: str, sweep: RangeSweep, log: bool, word: str) -> Range:
    if sweep.step == 0:
        raise ConfigError(f"{word}: the step of a range is not 0")
    count = (sweep.stop - sweep.start) / sweep.step
    if count > MAX_VALUES:
        raise ConfigError(f"{word}: {count:.0f} values; range() has at most {MAX_VALUES}, use interval({_ends(sweep)})")
    numbers: range | FloatRange = sweep.range()
    values = tuple(sorted(numbers))
    if not values:
        raise ConfigError(f"{word}: holds no value; range(start,stop,step) ends before stop")
    if log and not (isinstance(values[0], int) and (len(values) == 1 or values[1] - values[0] == 1)):
        raise ConfigError(f"{word}: tag(log,…) needs a range of whole numbers in steps of 1, or an interval()")
    _check_log(values[0], log, word)
    return Range(key, values, log)


def _ends(sweep: RangeSweep) -> str:
    low, high = sorted((sweep.start, sweep.stop))
    return f"{low},{high}"


def _check_log(low: float, log: bool, word: str) -> None:
    if log and low <= 0:
        raise ConfigError(f"{word}: tag(log,…) needs numbers above 0")
