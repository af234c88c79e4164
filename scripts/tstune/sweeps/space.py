"""Hydra's override grammar read as a search space, and which keys a sweep may vary."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    OverrideType,
    QuotedString,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tstune.config.names import dotted
from tstune.config.schema import RunConfig
from tstune.config.validation import leaf_paths, validate
from tstune.errors import ConfigError
from tstune.runtime.logs import logger

Value = object
"""What a recipe may hold: null, a truth value, a number, text, or a list of them."""

METRIC = "validation_loss"
MAX_VALUES = 10_000
DEFAULT_TRIALS = 20

_FORMS = (
    "sweeps are a,b or choice(a,b), range(start,stop,step), interval(low,high) and tag(log,…) around the last two; "
    "quote a text that only looks like one"
)
_OWN = ("output_dir", "overwrite", "tracking", "training.resume_from_checkpoint")
"""Keys a sweep sets for each trial."""
_OTHER_PROGRAM = ("pretraining",)
_MEASURES = ("data", "model.prediction_length", "training.loss", "training.huber_delta", "training.step_decay")
"""What the validation loss is a loss of: with other values its number means something else."""
_ALTERS_TRAINING_ONLY = (
    "data.conditional_columns",
    "data.control_columns",
    "data.train_fraction",
    "data.train_fraction_from",
    "data.mirror_train_windows",
    "data.train_stride",
)


@dataclass(frozen=True)
class Dimension:
    """A key and what it may be."""

    key: str  # of the configuration
    distribution: BaseDistribution  # what a study draws from
    values: tuple[Value, ...] | None  # all of them, in their order; None without an end of them
    text: str  # as it was given

    def decode(self, drawn: Value) -> Value:
        """The value behind it: a study computes ``first + n x step``, which may differ in the last digit."""
        if self.values is None:
            return drawn
        if isinstance(self.distribution, CategoricalDistribution):
            return next(value for value in self.values if stored(value) == drawn)
        return min(self.values, key=lambda value: abs(value - drawn))

    def suggest(self, trial: Trial) -> Value:
        """Ask the study's sampler."""
        among = self.distribution
        if isinstance(among, CategoricalDistribution):
            return self.decode(trial.suggest_categorical(self.key, among.choices))
        ask = trial.suggest_int if isinstance(among, IntDistribution) else trial.suggest_float
        return self.decode(ask(self.key, among.low, among.high, step=among.step, log=among.log))


def as_text(value: Value) -> str:
    """A value the way a recipe holds it; YAML reads it back as the same value."""
    return json.dumps(value, ensure_ascii=False)


def stored(value: Value) -> Value:
    """A value the way a study holds it: a list becomes its JSON."""
    return as_text(value) if isinstance(value, list | dict) else value


def as_override(key: str, value: Value) -> str:
    """``key=value`` for a config manager."""
    return f"{key}={as_text(value)}"


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plain ``key=value`` overrides, which every trial gets as they are, and the swept ones for `parse_space`."""
    plain, swept = [], []
    for word in words:
        override = _parse(word)
        (swept if override is not None and override.is_sweep_override() else plain).append(word)
    return plain, swept


def parse_space(swept: Sequence[str]) -> list[Dimension]:
    """One dimension per swept override, in their order; `ConfigError` for a sweep that means nothing."""
    space: dict[str, Dimension] = {}
    for word in swept:
        dimension = _dimension(_parse(word), word)
        if dimension.key in space:
            raise ConfigError(f"{dimension.key} is swept twice; give it one set of values")
        space[dimension.key] = dimension
    return list(space.values())


def grid(space: Sequence[Dimension]) -> list[dict[str, Value]]:
    """All points as a study stores them, in the order of a nested loop: the last key changes fastest."""
    for endless in (dimension for dimension in space if dimension.values is None):
        raise ConfigError(
            f"{endless.key}: {endless.text} has no end of values; give range() or choice(), or --sampler tpe or random"
        )
    columns = [[(dimension.key, stored(value)) for value in dimension.values] for dimension in space]
    return [dict(point) for point in itertools.product(*columns)]


def number_of_trials(space: Sequence[Dimension], sampler: str, asked: int | None) -> int:
    """Points of the study: all of a grid, else as many as asked for; `ConfigError` if the space has not so many."""
    if sampler == "grid":
        points = len(grid(space))
        if asked not in (None, points):
            raise ConfigError(f"--trials {asked}: the grid has {points} points and all are tried; leave it out")
        return points
    if any(dimension.values is None for dimension in space):
        return asked or DEFAULT_TRIALS
    points = math.prod(len(dimension.values) for dimension in space)
    if asked is not None and asked > points:
        raise ConfigError(f"--trials {asked}: the space has only {points} points; --sampler grid tries each once")
    return asked or min(DEFAULT_TRIALS, points)


def check_metric(metric: str) -> None:
    """Refuse to choose by anything but the validation part."""
    if metric.partition("/")[0].startswith("test"):
        reason = "a trial chosen on the test part makes its test score too good, the test would no longer be one"
        raise ConfigError(f"--metric {metric}: {reason}; use {METRIC}")
    if metric != METRIC:
        raise ConfigError(f"--metric {metric} is unknown; a sweep chooses by {METRIC}")


def check_space(space: Sequence[Dimension], plain: Sequence[str], groups: Path | None) -> None:
    """Refuse keys that cannot be swept; `plain` every trial gets, `groups` is the folder of Hydra's config groups."""
    if not space:
        raise ConfigError("nothing to sweep: give a key several values, e.g. training.learning_rate=1e-4,1e-3")
    fixed = {word.partition("=")[0].lstrip("+") for word in plain}
    for key in (dimension.key for dimension in space):
        if key in fixed:
            raise ConfigError(f"{key} is given twice, once with one value and once with several")
        if _within(key, _OWN):
            raise ConfigError(f"{key} cannot be swept: the sweep sets it for each trial")
        if _measures(key):
            raise ConfigError(
                f"{key} cannot be swept: the validation loss would measure something else in each trial; "
                "start one sweep for each value"
            )
        if _within(key, _OTHER_PROGRAM):
            raise ConfigError(f"{key} cannot be swept: it is for another script")
        if groups is None or not (groups / key).is_dir():
            _check_key(key)


def check_base(config: RunConfig, space: Sequence[Dimension]) -> None:
    """Refuse a recipe whose trials could not be compared, or that sets what the sweep sets."""
    if config.tuning.mode == "zero_shot" and not any(_within(d.key, ("tuning", "lora")) for d in space):
        raise ConfigError("tuning.mode=zero_shot trains nothing, so there is no validation loss to choose by")
    if config.training.resume_from_checkpoint is not None:
        raise ConfigError("training.resume_from_checkpoint: leave it out, a sweep goes on with its trials by itself")
    if config.data.split.mode != "deployment" and any(dimension.key == "model.context_length" for dimension in space):
        logger.warning(
            "model.context_length: in data.split.mode=strict a longer context leaves fewer validation windows, so the "
            "losses are not of quite the same windows; data.split.mode=deployment keeps them all"
        )


def changed_measure(base: RunConfig, trial: RunConfig) -> list[str]:
    """Keys by which the validation loss of a trial is not that of the others, for example through a config group."""
    before, after = dict(dotted(base.model_dump(mode="json"))), dict(dotted(trial.model_dump(mode="json")))
    return [key for key in before | after if _measures(key) and before.get(key) != after.get(key)]


def _check_key(key: str) -> None:
    if key in leaf_paths():
        return
    if key in RunConfig.model_fields:
        example = next(path for path in leaf_paths() if path.startswith(f"{key}."))
        raise ConfigError(f"{key} is a section; sweep a key of it, such as {example}")
    nested = functools.reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), None)
    validate(nested, origin="search space")
    raise ConfigError(f"search space: {key}: unknown key")


def _measures(key: str) -> bool:
    return _within(key, _MEASURES) and not _within(key, _ALTERS_TRAINING_ONLY)


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _parse(word: str) -> Override | None:
    """None for a text that is not of Hydra's grammar, such as a value with unusual characters: YAML reads it."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        if re.match(r"\s*\w+\(", word.partition("=")[2]):
            raise ConfigError(f"{word}: cannot be read: {str(error).splitlines()[0]}; {_FORMS}") from None
        return None


def _dimension(override: Override, word: str) -> Dimension:
    key, sweep = override.key_or_group, override.value()
    if override.type is not OverrideType.CHANGE or override.package is not None:
        raise ConfigError(f"{word}: a swept key stands without +, ~ or @: key=a,b")
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ConfigError(f"{word}: glob() has no meaning here; name the values: {key}=a,b")
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{word}: shuffle() has no meaning here; take it away, --sampler random draws at random")
    if sweep.tags - {"log"}:
        raise ConfigError(f"{word}: unknown tag {', '.join(sorted(sweep.tags - {'log'}))}; the only one is log")
    log = "log" in sweep.tags
    text = word.partition("=")[2]
    if isinstance(sweep, ChoiceSweep):
        if log:
            raise ConfigError(f"{word}: tag(log,…) needs an interval() or a range(), a choice has no order")
        values = _choices(sweep, word)
        return Dimension(key, CategoricalDistribution([stored(value) for value in values]), values, text)
    if isinstance(sweep, RangeSweep):
        values, step = _steps(sweep, log, word)
        low, high = values[0], values[-1]
    else:
        low, high, values, step = sweep.start, sweep.end, None, 1 if isinstance(sweep.start, int) else None
        if not low < high:
            raise ConfigError(f"{word}: an interval goes from a lower to a higher number")
    if log and low <= 0:
        raise ConfigError(f"{word}: tag(log,…) needs numbers above 0")
    kind = IntDistribution if isinstance(low, int) else FloatDistribution
    return Dimension(key, kind(low, high, step=step, log=log), values, text)


def _choices(sweep: ChoiceSweep, word: str) -> tuple[Value, ...]:
    values = tuple(_plain(value, word) for value in sweep.list)
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ConfigError(f"{word}: {as_text(value)} stands there twice")
    return values


def _steps(sweep: RangeSweep, log: bool, word: str) -> tuple[tuple[int | float, ...], int | float]:
    """All numbers, ascending, and how far apart they are."""
    if sweep.step == 0:
        raise ConfigError(f"{word}: the step of a range is not 0")
    count = (sweep.stop - sweep.start) / sweep.step
    if count > MAX_VALUES:
        ends = "{},{}".format(*sorted((sweep.start, sweep.stop)))
        raise ConfigError(f"{word}: {count:.0f} values; range() has at most {MAX_VALUES}, use interval({ends})")
    values = tuple(sorted(sweep.range()))
    if not values:
        raise ConfigError(f"{word}: holds no value; range(start,stop,step) ends before stop")
    step = values[1] - values[0] if len(values) > 1 else 1
    if log and (step != 1 or not isinstance(values[0], int)):
        raise ConfigError(f"{word}: tag(log,…) needs a range of whole numbers in steps of 1, or an interval()")
    return values, step


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
