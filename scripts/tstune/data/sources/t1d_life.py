"""What people with type 1 diabetes do all day, drawn ahead of time: meals, exercise, and a body that changes.

Meals keep habits of time and size with exceptions, carbohydrate is estimated with an error, some doses are late or
forgotten; sensitivity to insulin wanders within the day and from day to day, with a dawn rise of the liver's glucose
(after Wilinska et al. 2010; behaviour in the spirit of S. D. Patek et al., Journal of Diabetes Science and Technology
3 (2009) 269-282, in silico preclinical trials).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAY = 1440


@dataclass(frozen=True)
class Life:
    """Everything that does not depend on glucose, all [minutes, people] unless said otherwise.

    Attributes:
        carbs: g eaten (a meal is one entry).
        announced: g the person believes to eat, 0 where the meal is not entered.
        dose_for: g for which insulin is given at this minute; differs from `announced` in time, or is forgotten.
        gut_minutes: factor on the time of absorption.
        sensitivity: factor on the effect of insulin.
        production: factor on the liver's glucose.
        awake: [minutes, people] bool.
    """

    carbs: np.ndarray
    announced: np.ndarray
    dose_for: np.ndarray
    gut_minutes: np.ndarray
    sensitivity: np.ndarray
    production: np.ndarray
    awake: np.ndarray


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
