"""What a key that says `auto` becomes, by the frequency and the length of the series: a table and pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tstune.data.frequency import default_seasonality, fixed_step, parse_frequency, to_steps
from tstune.errors import ConfigError

ASSETS = Path(__file__).parents[1] / "assets"
BUILTIN = "builtin"
SHIPPED = {BUILTIN: "synthetic", "builtin:glucose": "glucose"}
"""Values of `model.pretrained` that stand for weights that ship with the project -> what those were trained on."""
"""Weights that ship with the project."""
BASELINES = ("persistence", "seasonal_naive", "context_mean", "ridge")
MOST_WINDOWS = {"train": 131_072, "validation": 8_192, "test": 16_384}
"""Windows of a part, at most; beyond them neighbours, which are nearly the same, are left out."""
CONTEXTS = (512, 256, 192, 128, 96, 64, 52, 48, 36, 32, 24, 16, 12, 8, 4)
"""Contexts that are tried, longest first, where the weights know any."""
ENOUGH = 0.2
"""A context is short enough if so many of the training steps begin a window."""
_CALENDAR_DAYS = {"B": 1, "M": 28, "Q": 90, "Y": 365}


@dataclass(frozen=True)
class Habit:
    """What is usual for series of one kind of step."""

    up_to: pd.Timedelta
    # steps of a forecast: 96 as the TTM paper has it, else the horizons of the M4 competition (Makridakis, Spiliotis,
    # Assimakopoulos 2020)
    ahead: int
    max_gap: int | str  # steps that are interpolated at most, or a time
    horizons: tuple[str | int, ...]  # lead times that are shown


HABITS = (
    Habit(pd.Timedelta("59min"), 96, "45min", ("30min", "60min", "120min")),
    Habit(pd.Timedelta("23h"), 48, 3, ("1h", "6h", "24h")),
    Habit(pd.Timedelta("6D"), 14, 3, (1, 7, 14)),
    Habit(pd.Timedelta("27D"), 13, 1, (1, 4, 13)),
    Habit(pd.Timedelta("89D"), 18, 1, (1, 3, 12)),
    Habit(pd.Timedelta("364D"), 8, 1, (1, 4, 8)),
    Habit(pd.Timedelta.max, 6, 0, (1, 3)),
)


def habit_of(frequency: str) -> Habit:
    """The row of the table for a grid step."""
    step = _length_of(frequency)
    return next(habit for habit in HABITS if step <= habit.up_to)


def default_max_gap(frequency: str) -> int:
    """Steps of the longest gap that is interpolated."""
    usual = habit_of(frequency).max_gap
    return usual if isinstance(usual, int) else int(pd.Timedelta(usual) // _length_of(frequency))


def default_horizons(frequency: str, prediction_length: int) -> list[str | int]:
    """Lead times that are shown: those that are whole steps within the forecast."""
    shown, step = [], fixed_step(parse_frequency(frequency))
    for horizon in habit_of(frequency).horizons:
        if isinstance(horizon, str) and (step is None or pd.Timedelta(horizon) % step):
            continue
        if 1 <= to_steps(horizon, frequency, "evaluation.horizons") <= prediction_length:
            shown.append(horizon)
    return shown


def default_baselines(seasonality: int, context_length: int) -> list[str]:
    """The usual ones; a season of one step is persistence once more, one longer than the context is not seen."""
    return [name for name in BASELINES if name != "seasonal_naive" or 1 < seasonality <= context_length]


def default_stride(num_windows: int, part: str) -> int:
    """Steps between two windows of a part that has so many at every step."""
    return max(1, -(-num_windows // MOST_WINDOWS[part]))


def season_of(seasonality: int | None, frequency: str) -> int:
    """`evaluation.seasonality`, or what follows from the frequency."""
    return seasonality or default_seasonality(frequency)


def lengths_to_try(
    context_length: int | str, prediction_length: int | str, known: Sequence[tuple[int, int]], frequency: str, room: int
) -> list[tuple[int, int]]:
    """(context, forecast) pairs, longest context first; a length that the configuration says stays as it is.

    `known` are the (context, longest forecast) pairs of the weights, empty for any; `room` the steps of the shortest
    part that is forecast into.
    """
    pairs = list(known) or [(context, None) for context in CONTEXTS]
    if isinstance(context_length, int):
        pairs = [pair for pair in pairs if pair[0] == context_length] or [(context_length, None)]
    if isinstance(prediction_length, int):
        long_enough = [pair for pair in pairs if pair[1] is None or pair[1] >= prediction_length] or pairs[:1]
        return [(context, prediction_length) for context, _ in long_enough]
    ahead = max(1, min(habit_of(frequency).ahead, room))
    return [(context, ahead if most is None else min(ahead, most)) for context, most in pairs]


def is_shipped(name: str) -> bool:
    """Whether a value of `model.pretrained` stands for weights that ship (`ConfigError`: it only begins like one)."""
    if name.startswith(f"{BUILTIN}:") and name not in SHIPPED:
        raise ConfigError(f"model.pretrained={name}: no weights of that name ship; set one of {', '.join(SHIPPED)}")
    return name in SHIPPED


def shipped_weights(name: str = BUILTIN) -> dict[tuple[int, int], Path]:
    """(context, longest forecast) -> folder of the weights that ship by this name, a key of `SHIPPED`."""
    shipped = {}
    for path in sorted(ASSETS.glob(f"ttm-*-{SHIPPED[name]}/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        shipped[config["context_length"], config["prediction_length"]] = path.parent
    return shipped


def _length_of(frequency: str) -> pd.Timedelta:
    """Length of a step, about, where it varies."""
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    return pd.Timedelta(days=offset.n * _CALENDAR_DAYS.get(offset.name[0], 1)) if step is None else step
