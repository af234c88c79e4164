"""SIMULATED people with type 1 diabetes: glucose, insulin and meals from published equations, no measurement.

A model of glucose and insulin (Hovorka et al. 2004) and a life of meals and mistakes (both in `simulator`), a
therapy that reacts to the sensor, and a sensor with lag, drift and noise after A. Facchinetti et al., Modeling the
glucose sensor error, IEEE Transactions on Biomedical Engineering 61 (2014) 620-629. All people run in one array.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.channels import choose_channels, fill_of
from tstune.data.sources.simulator import (
    DAY,
    Life,
    People,
    advance,
    carbs_per_unit,
    draw_life,
    draw_people,
    fall_per_unit,
    glucose_of,
    insulin_on_board,
    resting,
)
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError

TARGET, CHANNELS = "glucose", ("insulin", "carbs")
STEP_MINUTES = 5
LOWEST, HIGHEST = 2.2, 22.2
"""Range of the sensor, mmol/L."""

INFO = SourceInfo(
    name="simulated_t1d",
    summary="SIMULATED glucose (mmol/L), insulin and meals of people with type 1 diabetes: for tests and teaching, "
    "never in one table with real people",
    licence="simulated by tstune from published equations; no restrictions",
    where="nothing to download: it is computed from its seed",
    keys={"conditional_columns": "insulin (U), carbs (g) of the last five minutes, as a person logs them"},
    options=(
        Option("people", 10, "how many"),
        Option("days", 30, "how long"),
        Option("seed", 0, "another seed, other people"),
        Option("gaps", True, "leave out sensor changes and lost readings"),
    ),
)

_TARGET_GLUCOSE = 6.5
_WARM_UP_DAYS = 1
_START = pd.Timestamp("2024-01-01")


def load(config: DataSection) -> SourceTable:
    """Return one item per simulated person, named ``simulated_000`` and so on."""
    roles = choose_channels(config, INFO.name, TARGET, CHANNELS)
    options = INFO.read_options(config)
    if config.path is not None:
        raise ConfigError(f"data.path={config.path} has no meaning for source {INFO.name}: nothing is read")
    for name in ("people", "days"):
        if options[name] < 1:
            raise ConfigError(f"data.source_options.{name}={options[name]} must be 1 or more")
    if options["seed"] < 0:
        raise ConfigError(f"data.source_options.seed={options['seed']} must be 0 or more")
    simulated = simulate(options["people"], options["days"], options["seed"], options["gaps"])
    steps = len(simulated[TARGET])
    stamps = pd.date_range(_START, periods=steps, freq=f"{STEP_MINUTES}min").as_unit("ns")
    columns = {name: simulated[name].T.reshape(-1) for name in roles.channels}
    names = [f"simulated_{person:03d}" for person in range(options["people"])]
    frame = pd.DataFrame({ITEM: np.repeat(names, steps), TIMESTAMP: np.tile(stamps, len(names)), **columns})
    return SourceTable(
        frame=frame,
        roles=roles,
        frequency=f"{STEP_MINUTES}min",
        max_gap="45min",
        fill=fill_of(roles.conditional),
        unit="mmol/L",
        licence=INFO.licence,
        notes={"simulated": True, **options},
    )


def simulate(people: int, days: int, seed: int = 0, gaps: bool = True) -> dict[str, np.ndarray]:
    """Simulate some people.

    Returns:
        glucose (mmol/L, NaN where the sensor has none), insulin (U) and carbs (g) of each five minutes, and the
        plasma glucose without a sensor; all [steps, people].
    """
    random = np.random.default_rng(seed)
    body = draw_people(random, people)
    life = draw_life(random, people, days + _WARM_UP_DAYS)
    plasma, seen, insulin, carbs = _live(random, body, life)
    first = _WARM_UP_DAYS * DAY // STEP_MINUTES
    glucose = np.round(np.clip(seen[first:], LOWEST, HIGHEST), 1)
    if gaps:
        glucose[_lost(random, *glucose.shape)] = np.nan
    return {
        TARGET: glucose,
        "insulin": np.round(insulin[first:], 3),
        "carbs": np.round(carbs[first:]),
        "plasma": plasma[first:],
    }


def _live(random: np.random.Generator, body: People, life: Life) -> tuple[np.ndarray, ...]:
    """(plasma glucose, sensor, insulin, carbs entered), all [steps, people]."""
    minutes, number = life.carbs.shape
    state, basal = resting(body, _TARGET_GLUCOSE)
    basal = basal * np.exp(random.normal(0.0, 0.1, number))  # nobody's settings are right
    ratio = carbs_per_unit(body, _TARGET_GLUCOSE) * np.exp(random.normal(0.0, 0.15, number))
    fall = fall_per_unit(body, 10.0) * np.exp(random.normal(0.1, 0.15, number))
    is_automatic = random.random(number) < 0.4  # a pump that follows the sensor
    pen = ~is_automatic & (random.random(number) < 0.3)  # injections in half units, and a steady basal
    care = random.beta(3, 3, number)  # how often high glucose is corrected
    sensor = _Sensor(random, number)
    goal = np.where(is_automatic, 6.3, random.normal(6.9, 0.7, number))
    steps = minutes // STEP_MINUTES
    plasma, seen, given, entered = (np.zeros((steps, number)) for _ in range(4))
    rescue_wait, correction_wait = np.zeros(number), np.zeros(number)
    reading, before = np.full(number, _TARGET_GLUCOSE), np.full(number, _TARGET_GLUCOSE)
    rate, units, eaten = basal.copy(), np.zeros(number), np.zeros(number)
    for minute in range(minutes):
        step, within = divmod(minute, STEP_MINUTES)
        if within == 0:
            before, reading = reading, sensor.read(glucose_of(body, state))
            plasma[step], seen[step] = glucose_of(body, state), reading
            trend = reading - before
            board = insulin_on_board(state) - 2 * basal * body.insulin_minutes / 1000
            rate = np.where(is_automatic, _automatic_rate(basal, reading, trend, board), basal)
            awake = life.awake[minute]
            # high: a correction, if noticed; low: sugar, later at night
            notices = random.random(number) < np.where(awake, 0.08 * care, 0.004)
            corrects = notices & (reading > 11) & (trend > -0.25) & (correction_wait <= 0)
            need = np.maximum((reading - goal) / fall - np.maximum(board, 0), 0)
            units = np.where(corrects, 0.9 * need, 0.0)
            correction_wait = np.where(corrects, 120.0, correction_wait - STEP_MINUTES)
            falls_low = (reading < 4.0) | ((reading < 5.0) & (trend < -0.2))
            eats = falls_low & (rescue_wait <= 0) & (random.random(number) < np.where(awake, 0.4, 0.15))
            eaten = np.where(eats, random.uniform(8, 20, number), 0.0)
            rescue_wait = np.where(eats, random.uniform(15, 35, number), rescue_wait - STEP_MINUTES)
            entered[step] += np.where(eats & (random.random(number) < 0.3), eaten, 0)
        dose_for = life.dose_for[minute]
        if dose_for.any():
            correction = np.maximum((reading - goal) / fall - np.maximum(board, 0), -0.3 * dose_for / ratio)
            units = units + np.where(dose_for > 0, np.maximum(dose_for / ratio + correction, 0), 0)
        grain = np.where(pen, 0.5, 0.05)
        units = np.round(units / grain) * grain
        given[step] += units + rate / 1000
        entered[step] += life.announced[minute]
        advance(
            body,
            state,
            rate + 1000 * units,
            life.carbs[minute] + eaten,
            life.sensitivity[minute],
            life.production[minute],
            body.gut_minutes * life.gut_minutes[minute],
        )
        units, eaten = np.zeros(number), np.zeros(number)
    # what was given or eaten from a step on is known at the next one
    shifted = [np.concatenate([np.zeros((1, number)), values[:-1]]) for values in (given, entered)]
    return plasma, seen, *shifted


def _automatic_rate(basal: np.ndarray, reading: np.ndarray, trend: np.ndarray, board: np.ndarray) -> np.ndarray:
    """[people] mU/min of a pump that gives less below its goal and more above, but not what is already on its way."""
    hours_on_board = board / (0.06 * basal)
    return basal * np.clip(1 + 0.35 * (reading + 3 * trend - 6.3) - 0.45 * hours_on_board, 0.0, 3.0)


class _Sensor:
    """Interstitial lag, a gain that drifts within a ten-day session, and noise that remembers itself."""

    def __init__(self, random: np.random.Generator, number: int) -> None:
        self._random = random
        self._fluid: np.ndarray | None = None
        self._noise = np.zeros(number)
        self._gain = np.zeros(number)
        self._age = random.integers(0, 10 * DAY // STEP_MINUTES, number)
        self._new_gain(np.ones(number, bool))

    def read(self, plasma: np.ndarray) -> np.ndarray:
        """[people] what the sensor shows."""
        self._fluid = plasma.copy() if self._fluid is None else self._fluid
        self._fluid += (1 - np.exp(-STEP_MINUTES / 8)) * (plasma - self._fluid)
        self._noise = 0.85 * self._noise + self._random.normal(0, 0.09, len(plasma))
        self._age += 1
        worn_out = self._age >= 10 * DAY // STEP_MINUTES
        self._age[worn_out] = 0
        self._new_gain(worn_out)
        return np.clip(self._fluid * self._gain + self._noise, LOWEST, HIGHEST)

    def _new_gain(self, whose: np.ndarray) -> None:
        self._gain = np.where(whose, 1 + self._random.normal(0, 0.05, len(whose)), self._gain)


def _lost(random: np.random.Generator, steps: int, people: int) -> np.ndarray:
    """[steps, people] True where there is no reading: two hours at a new sensor, single ones, and a few long gaps."""
    lost = random.random((steps, people)) < 0.01
    session = 10 * DAY // STEP_MINUTES
    for person in range(people):
        for start in range(int(random.integers(session)), steps, session):
            lost[start : start + 120 // STEP_MINUTES, person] = True
        for start in np.flatnonzero(random.random(steps) < 0.25 * STEP_MINUTES / DAY):
            lost[start : start + int(random.exponential(120 / STEP_MINUTES)) + 1, person] = True
    return lost
