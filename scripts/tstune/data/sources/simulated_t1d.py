"""SIMULATED people with type 1 diabetes: glucose, insulin and meals from published equations, no measurement.

Glucose and insulin, in steps of one minute: equations and mean parameters of R. Hovorka et al., Nonlinear model
predictive control of glucose concentration in subjects with type 1 diabetes, Physiological Measurement 25 (2004)
905-920. Spread between people and within the day after M. E. Wilinska et al., Simulation environment to evaluate
closed-loop insulin delivery systems in type 1 diabetes, Journal of Diabetes Science and Technology 4 (2010) 132-144.
Carbohydrate passes two gut compartments and subcutaneous insulin two skin compartments, as in the first paper.

Life: meals keep habits of time and size with exceptions, carbohydrate is estimated with an error, some doses are late
or forgotten; sensitivity to insulin wanders within the day and from day to day, with a dawn rise of the liver's glucose
(after Wilinska et al.; behaviour in the spirit of S. D. Patek et al., Journal of Diabetes Science and Technology 3
(2009) 269-282, in silico preclinical trials). The therapy reacts to a sensor with lag, drift and noise after
A. Facchinetti et al., Modeling the glucose sensor error, IEEE Transactions on Biomedical Engineering 61 (2014) 620-629.
All people run in one array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.channels import choose_channels, fill_of
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError

DAY = 1440


@dataclass(frozen=True)
class Life:
    """Everything that does not depend on glucose, all [minutes, people] unless said otherwise."""

    carbs: np.ndarray  # g eaten (a meal is one entry)
    announced: np.ndarray  # g the person believes to eat, 0 where the meal is not entered
    # g for which insulin is given at this minute; differs from `announced` in time, or is forgotten
    dose_for: np.ndarray
    gut_minutes: np.ndarray  # factor on the time of absorption
    sensitivity: np.ndarray  # factor on the effect of insulin
    production: np.ndarray  # factor on the liver's glucose
    awake: np.ndarray  # [minutes, people] bool


def draw_life(random: np.random.Generator, people: int, days: int) -> Life:
    """Draw the lives of some people."""
    minutes = days * DAY
    clock = np.arange(minutes) % DAY
    carbs, announced, dose_for = (np.zeros((minutes, people)) for _ in range(3))
    gut = np.ones((minutes, people))
    discipline = np.clip(random.beta(5, 2, people), 0.35, 0.98)  # how well meals are counted and dosed
    for person in range(people):
        for minute, grams in _meals(random, days):
            carbs[minute, person] += grams
            quick = np.exp(random.normal(-0.2, 0.35))
            gut[minute : minute + 300, person] = quick
            if random.random() > 0.25 + 0.75 * discipline[person]:
                continue  # forgotten: no dose, no entry
            believed = grams * np.exp(random.normal(-0.03, 0.12 + 0.35 * (1 - discipline[person])))
            announced[minute, person] += believed
            shift = int(np.clip(random.normal(-3, 6 + 20 * (1 - discipline[person])), -20, 60))
            dose_for[min(max(minute + shift, 0), minutes - 1), person] += believed
    wake, sleep = random.normal(7.3 * 60, 40, people), random.normal(23.4 * 60, 45, people)
    awake = (clock[:, None] > wake) & (clock[:, None] < sleep)
    sensitivity = np.exp(
        _by_day(random, people, days, 0.2)
        + _wander(random, people, minutes, hours=3.0, deviation=0.16)
        + _exercise(random, people, days)
    )
    dawn = np.exp(-(((clock[:, None] - 6.5 * 60) / 110) ** 2))
    strength = np.clip(random.normal(0.18, 0.12, people), 0, 0.6)
    production = (1 + strength * dawn) * np.exp(_wander(random, people, minutes, hours=1.5, deviation=0.16))
    return Life(carbs, announced, dose_for, gut, sensitivity, production, awake)


def _meals(random: np.random.Generator, days: int) -> list[tuple[int, float]]:
    """(minute, grams) of one person's meals."""
    habit = np.array([8.0, 13.0, 19.0]) * 60 + random.normal(0, 40, 3)
    size = np.array([34.0, 46.0, 60.0]) * np.exp(random.normal(0, 0.25, 3))
    kept = np.array([0.8, 0.93, 0.97])
    snacks = random.gamma(4, 0.3)
    found: list[tuple[float, float]] = []
    for day in range(days):
        weekend = 60 if day % 7 in (5, 6) else 0
        times = habit + random.normal(0, 35, 3) + weekend * np.array([1, 0.5, 0])
        grams = size * np.exp(random.normal(0, 0.35, 3))
        here = random.random(3) < kept
        number = random.poisson(snacks)
        times = np.concatenate([times[here], random.uniform(10, 23, number) * 60]) + day * DAY
        grams = np.concatenate([grams[here], 18 * np.exp(random.normal(0, 0.5, number))])
        found += zip(times, grams, strict=True)
    return sorted((int(time), float(gram)) for time, gram in found if 0 <= time < days * DAY)


def _by_day(random: np.random.Generator, people: int, days: int, deviation: float) -> np.ndarray:
    """[minutes, people] a level per day that remembers the day before, joined by lines."""
    levels = np.empty((days + 1, people))
    levels[0] = random.normal(0, deviation, people)
    for day in range(1, days + 1):
        levels[day] = 0.5 * levels[day - 1] + np.sqrt(0.75) * random.normal(0, deviation, people)
    minutes = np.arange(days * DAY)
    return np.stack([np.interp(minutes, np.arange(days + 1) * DAY, level) for level in levels.T], axis=1)


def _wander(random: np.random.Generator, people: int, minutes: int, hours: float, deviation: float) -> np.ndarray:
    """[minutes, people] Ornstein-Uhlenbeck process, drawn every quarter of an hour and joined by lines."""
    knots = minutes // 15 + 2
    keep = np.exp(-0.25 / hours)
    path = np.empty((knots, people))
    path[0] = random.normal(0, deviation, people)
    shocks = random.normal(0, deviation * np.sqrt(1 - keep**2), (knots, people))
    for knot in range(1, knots):
        path[knot] = keep * path[knot - 1] + shocks[knot]
    time = np.arange(minutes)
    return np.stack([np.interp(time, np.arange(knots) * 15, own) for own in path.T], axis=1)


def _exercise(random: np.random.Generator, people: int, days: int) -> np.ndarray:
    """[minutes, people] higher sensitivity during exercise, and some of it for hours after."""
    effect = np.zeros((days * DAY, people))
    often = random.uniform(0.05, 0.5, people)
    for person in range(people):
        for day in np.flatnonzero(random.random(days) < often[person]):
            start = int(day * DAY + np.clip(random.normal(17.5 * 60, 150), 7 * 60, 21 * 60))
            long, strong = int(random.uniform(30, 80)), random.uniform(0.2, 0.7)
            effect[start : start + long, person] += strong
            after = np.arange(len(effect[start + long : start + long + 480]))
            effect[start + long : start + long + 480, person] += 0.4 * strong * np.exp(-after / 200)
    return effect


CARB_MMOL_PER_GRAM = 1000 / 180.156
_SIT, _SID, _SIE = 51.2e-4, 8.2e-4, 520e-4  # sensitivity of transport, disposal, endogenous production; per mU/L
_KA1, _KA2, _KA3 = 0.006, 0.06, 0.03  # 1/min
_K12, _KE, _BIOAVAILABLE = 0.066, 0.138, 0.8
_RENAL_THRESHOLD, _RENAL_CLEARANCE, _SATURATION = 9.0, 0.003, 4.5

# rows of a state
_Q1, _Q2, _S1, _S2, _I, _X1, _X2, _X3, _D1, _D2 = range(10)


@dataclass(frozen=True)
class People:
    """Parameters of each person, all [people]."""

    weight: np.ndarray  # kg
    glucose_volume: np.ndarray  # L. insulin_volume: L.
    insulin_volume: np.ndarray
    production: np.ndarray  # endogenous glucose at zero insulin, mmol/min
    uptake: np.ndarray  # glucose used without insulin, mmol/min
    sensitivity: np.ndarray  # [3, people] of transport, disposal and production to insulin, per mU/L
    # insulin_minutes, gut_minutes: time to the maximum of absorption
    insulin_minutes: np.ndarray
    gut_minutes: np.ndarray

    @property
    def number(self) -> int:
        """How many."""
        return len(self.weight)


def draw_people(random: np.random.Generator, number: int) -> People:
    """People around the published means; what makes them differ most is their sensitivity to insulin."""

    def spread(mean: float, deviation: float) -> np.ndarray:
        return mean * np.exp(deviation * random.normal(size=number) - deviation**2 / 2)

    weight = np.clip(random.normal(74, 12, number), 48, 115)
    common = spread(0.6, 0.3)  # below the published mean of 1: doses like those of the pump users in T1D-UOM
    return People(
        weight=weight,
        glucose_volume=weight * spread(0.16, 0.1),
        insulin_volume=weight * spread(0.12, 0.1),
        production=weight * spread(0.0161, 0.1),
        uptake=weight * spread(0.0097, 0.1),
        sensitivity=np.stack([common * spread(mean, 0.15) for mean in (_SIT, _SID, _SIE)]),
        insulin_minutes=spread(55, 0.15),
        gut_minutes=spread(40, 0.2),
    )


def advance(
    people: People,
    state: np.ndarray,
    insulin: np.ndarray,
    carbs: np.ndarray,
    sensitivity: np.ndarray | float = 1.0,
    production: np.ndarray | float = 1.0,
    gut_minutes: np.ndarray | None = None,
) -> None:
    """Move every person on by one minute, in place.

    Args:
        state: [10, people].
        insulin: [people] mU given under the skin in this minute.
        carbs: [people] g eaten in this minute.
        sensitivity: factor on the effect of insulin now.
        production: factor on the liver's glucose now.
        gut_minutes: [people] time to the maximum of absorption now; None takes the person's.
    """
    q1, q2, s1, s2, plasma, x1, x2, x3, d1, d2 = state
    gut = people.gut_minutes if gut_minutes is None else gut_minutes
    glucose = q1 / people.glucose_volume
    uptake = people.uptake * np.minimum(glucose / _SATURATION, 1.0)
    renal = _RENAL_CLEARANCE * people.glucose_volume * np.maximum(glucose - _RENAL_THRESHOLD, 0.0)
    made = people.production * production * np.maximum(1.0 - x3, 0.0)
    change = np.empty_like(state)
    change[_Q1] = _K12 * q2 - uptake - x1 * q1 - renal + d2 / gut + made
    change[_Q2] = x1 * q1 - (_K12 + x2) * q2
    change[_S1] = insulin - s1 / people.insulin_minutes
    change[_S2] = (s1 - s2) / people.insulin_minutes
    change[_I] = s2 / (people.insulin_minutes * people.insulin_volume) - _KE * plasma
    effect = people.sensitivity * sensitivity * plasma
    change[_X1] = _KA1 * (effect[0] - x1)
    change[_X2] = _KA2 * (effect[1] - x2)
    change[_X3] = _KA3 * (effect[2] - x3)
    change[_D1] = _BIOAVAILABLE * CARB_MMOL_PER_GRAM * carbs - d1 / gut
    change[_D2] = (d1 - d2) / gut
    state += change
    np.maximum(state, 0.0, out=state)


def glucose_of(people: People, state: np.ndarray) -> np.ndarray:
    """[people] mmol/L in plasma."""
    return state[_Q1] / people.glucose_volume


def insulin_on_board(state: np.ndarray) -> np.ndarray:
    """[people] U under the skin, not yet absorbed."""
    return (state[_S1] + state[_S2]) / 1000


def resting(people: People, glucose: float) -> tuple[np.ndarray, np.ndarray]:
    """Steady state without food at a glucose, by bisection.

    Returns:
        [10, people] state, [people] mU/min of insulin that holds it.
    """
    low, high = np.zeros(people.number), np.full(people.number, 100.0)
    q1 = glucose * people.glucose_volume
    uptake = people.uptake * min(glucose / _SATURATION, 1.0)
    renal = _RENAL_CLEARANCE * people.glucose_volume * max(glucose - _RENAL_THRESHOLD, 0.0)
    for _ in range(60):
        plasma = (low + high) / 2
        x1, x2, x3 = people.sensitivity * plasma
        q2 = x1 * q1 / (_K12 + x2)
        balance = _K12 * q2 - uptake - x1 * q1 - renal + people.production * np.maximum(1 - x3, 0)
        low, high = np.where(balance > 0, plasma, low), np.where(balance > 0, high, plasma)
    rate = plasma * _KE * people.insulin_volume
    depot = rate * people.insulin_minutes
    none = np.zeros(people.number)
    return np.stack([q1, q2, depot, depot, plasma, x1, x2, x3, none, none]), rate


def carbs_per_unit(people: People, glucose: float, carbs: float = 50.0, minutes: int = 300) -> np.ndarray:
    """[people] g that one unit covers: after a meal with its dose, glucose is back where it was."""
    state, basal = resting(people, glucose)
    low, high = np.full(people.number, 1.0), np.full(people.number, 60.0)
    for _ in range(12):
        ratio = (low + high) / 2
        end = _after(people, state, basal, carbs / ratio, carbs, minutes)
        low, high = np.where(end < glucose, ratio, low), np.where(end < glucose, high, ratio)
    return ratio


def fall_per_unit(people: People, glucose: float, minutes: int = 240) -> np.ndarray:
    """[people] mmol/L by which one unit lowers glucose within four hours."""
    state, basal = resting(people, glucose)
    return glucose - _after(people, state, basal, np.ones(people.number), 0.0, minutes)


def _after(
    people: People, state: np.ndarray, basal: np.ndarray, units: np.ndarray, carbs: float, minutes: int
) -> np.ndarray:
    """[people] glucose some minutes after a dose and a meal, starting from rest."""
    state = state.copy()
    for minute in range(minutes):
        first = minute == 0
        advance(people, state, basal + 1000 * units * first, np.full(people.number, carbs * first))
    return glucose_of(people, state)


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
        Option("new_sensor_day", 0, "from this day on all wear another model of sensor, later and noisier; 0: never"),
    ),
)

_TARGET_GLUCOSE = 6.5
_WARM_UP_DAYS = 1
_NEW_LAG, _NEW_SPREAD = 14.0, 0.2  # of the other model of sensor
_START = pd.Timestamp("2024-01-01")


def load(config: DataSection) -> SourceTable:
    """Return one item per simulated person, named ``simulated_000`` and so on."""
    roles = choose_channels(config, INFO.name, TARGET, CHANNELS)
    options = INFO.read_options(config)
    for name in ("people", "days"):
        if options[name] < 1:
            raise ConfigError(f"data.source_options.{name}={options[name]} must be 1 or more")
    for name in ("seed", "new_sensor_day"):
        if options[name] < 0:
            raise ConfigError(f"data.source_options.{name}={options[name]} must be 0 or more")
    simulated = simulate(**{option.name: options[option.name] for option in INFO.options})
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


def simulate(
    people: int, days: int, seed: int = 0, gaps: bool = True, new_sensor_day: int = 0
) -> dict[str, np.ndarray]:
    """Simulate some people, who live the same life up to the day of a new model of sensor.

    Returns:
        glucose (mmol/L, NaN where the sensor has none), insulin (U) and carbs (g) of each five minutes, and the
        plasma glucose without a sensor; all [steps, people].
    """
    random = np.random.default_rng(seed)
    body = draw_people(random, people)
    life = draw_life(random, people, days + _WARM_UP_DAYS)
    new_sensor_at = (_WARM_UP_DAYS + new_sensor_day) * DAY // STEP_MINUTES if new_sensor_day else None
    plasma, seen, insulin, carbs = _live(random, body, life, new_sensor_at)
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


def _live(
    random: np.random.Generator, body: People, life: Life, new_sensor_at: int | None = None
) -> tuple[np.ndarray, ...]:
    """(plasma glucose, sensor, insulin, carbs entered), all [steps, people]."""
    minutes, number = life.carbs.shape
    state, basal = resting(body, _TARGET_GLUCOSE)
    basal = basal * np.exp(random.normal(0.0, 0.1, number))  # nobody's settings are right
    ratio = carbs_per_unit(body, _TARGET_GLUCOSE) * np.exp(random.normal(0.0, 0.15, number))
    fall = fall_per_unit(body, 10.0) * np.exp(random.normal(0.1, 0.15, number))
    is_automatic = random.random(number) < 0.4  # a pump that follows the sensor
    pen = ~is_automatic & (random.random(number) < 0.3)  # injections in half units, and a steady basal
    care = random.beta(3, 3, number)  # how often high glucose is corrected
    sensor = _Sensor(random, number, new_sensor_at)
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

    def __init__(self, random: np.random.Generator, number: int, new_model_at: int | None) -> None:
        self._random = random
        self._lag, self._spread = 8.0, 0.09  # minutes, and mmol/L that the noise gains at each reading
        self._until_new_model = new_model_at
        self._fluid: np.ndarray | None = None
        self._noise = np.zeros(number)
        self._gain = np.zeros(number)
        self._age = random.integers(0, 10 * DAY // STEP_MINUTES, number)
        self._new_gain(np.ones(number, bool))

    def read(self, plasma: np.ndarray) -> np.ndarray:
        """[people] what the sensor shows."""
        self._fluid = plasma.copy() if self._fluid is None else self._fluid
        if self._until_new_model is not None:
            self._until_new_model -= 1
            if self._until_new_model < 0:
                self._lag, self._spread, self._until_new_model = _NEW_LAG, _NEW_SPREAD, None
        self._fluid += (1 - np.exp(-STEP_MINUTES / self._lag)) * (plasma - self._fluid)
        self._noise = 0.85 * self._noise + self._random.normal(0, self._spread, len(plasma))
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
