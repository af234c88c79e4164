"""Glucose and insulin of many people at once, by the model of Hovorka et al., in steps of one minute.

Equations and mean parameters: R. Hovorka et al., Nonlinear model predictive control of glucose concentration in
subjects with type 1 diabetes, Physiological Measurement 25 (2004) 905-920. Spread between people and within the day
after M. E. Wilinska et al., Simulation environment to evaluate closed-loop insulin delivery systems in type 1
diabetes, Journal of Diabetes Science and Technology 4 (2010) 132-144. Carbohydrate passes two gut compartments and
subcutaneous insulin two skin compartments, as in the first paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CARB_MMOL_PER_GRAM = 1000 / 180.156
_SIT, _SID, _SIE = 51.2e-4, 8.2e-4, 520e-4  # sensitivity of transport, disposal, endogenous production; per mU/L
_KA1, _KA2, _KA3 = 0.006, 0.06, 0.03  # 1/min
_K12, _KE, _BIOAVAILABLE = 0.066, 0.138, 0.8
_RENAL_THRESHOLD, _RENAL_CLEARANCE, _SATURATION = 9.0, 0.003, 4.5

# rows of a state
_Q1, _Q2, _S1, _S2, _I, _X1, _X2, _X3, _D1, _D2 = range(10)


@dataclass(frozen=True)
class People:
    """Parameters of each person, all [people].

    Attributes:
        weight: kg.
        glucose_volume: L. insulin_volume: L.
        production: endogenous glucose at zero insulin, mmol/min.
        uptake: glucose used without insulin, mmol/min.
        sensitivity: [3, people] of transport, disposal and production to insulin, per mU/L.
        insulin_minutes, gut_minutes: time to the maximum of absorption.
    """

    weight: np.ndarray
    glucose_volume: np.ndarray
    insulin_volume: np.ndarray
    production: np.ndarray
    uptake: np.ndarray
    sensitivity: np.ndarray
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
        people: their parameters.
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
