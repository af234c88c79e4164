"""The simulator: the same people from the same seed, mass that balances, and glucose that looks like real people's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tstune.config.schema import DataSection
from tstune.data.prepared import prepare_data
from tstune.data.sources import load_source
from tstune.data.sources.simulated_t1d import (
    advance,
    carbs_per_unit,
    draw_people,
    fall_per_unit,
    glucose_of,
    insulin_on_board,
    resting,
    simulate,
)
from tstune.data.table import ITEM, Roles


@pytest.fixture(scope="module")
def simulated() -> dict[str, np.ndarray]:
    return simulate(people=16, days=21, seed=3)


# physiology


def test_rest_is_rest():
    people = draw_people(np.random.default_rng(0), 20)
    for glucose in (5.0, 7.0, 11.0):
        state, basal = resting(people, glucose)
        units_per_day = basal * 1.44
        assert ((units_per_day > 2) & (units_per_day < 90)).all()
        for _ in range(200):
            advance(people, state, basal, np.zeros(20))
        np.testing.assert_allclose(glucose_of(people, state), glucose, rtol=1e-6)


def test_insulin_lowers_and_food_raises():
    people = draw_people(np.random.default_rng(1), 20)
    state, basal = resting(people, 8.0)
    ends = []
    for units, grams in ((0, 0), (1, 0), (0, 20), (2, 20)):
        one = state.copy()
        for minute in range(180):
            advance(people, one, basal + 1000 * units * (minute == 0), np.full(20, float(grams * (minute == 0))))
        ends.append(glucose_of(people, one))
    assert (ends[1] < ends[0] - 0.2).all()
    assert (ends[2] > ends[0] + 0.2).all()
    assert (ends[3] < ends[2]).all()
    assert (fall_per_unit(people, 10.0) > 0.3).all()


def test_a_meal_with_its_dose_comes_back_to_where_it_began():
    people = draw_people(np.random.default_rng(2), 20)
    ratio = carbs_per_unit(people, 6.5)
    state, basal = resting(people, 6.5)
    peak = glucose_of(people, state)
    for minute in range(300):
        advance(people, state, basal + (1000 * 50 / ratio) * (minute == 0), np.full(20, 50.0 * (minute == 0)))
        peak = np.maximum(peak, glucose_of(people, state))
    np.testing.assert_allclose(glucose_of(people, state), 6.5, atol=0.1)
    assert (peak > 7.5).all()


def test_every_unit_leaves_the_skin():
    """What is under the skin is what was given, less what has been absorbed into plasma and cleared there."""
    people = draw_people(np.random.default_rng(3), 5)
    state = np.zeros((10, 5))
    state[0] = 6 * people.glucose_volume
    advance(people, state, np.full(5, 1000.0), np.zeros(5))
    np.testing.assert_allclose(insulin_on_board(state), 1.0)
    cleared = np.zeros(5)
    for _ in range(1500):
        cleared += 0.138 * state[4] * people.insulin_volume / 1000
        advance(people, state, np.zeros(5), np.zeros(5))
    np.testing.assert_allclose(cleared + insulin_on_board(state) + state[4] * people.insulin_volume / 1000, 1.0)
    assert (insulin_on_board(state) < 1e-3).all()


# the source


def test_a_seed_is_its_people():
    options = {"people": 2, "days": 2, "seed": 5}
    section = {"source": "simulated_t1d", "conditional_columns": ["insulin", "carbs"]}
    one = load_source(DataSection(**section, source_options=options))
    again = load_source(DataSection(**section, source_options=options))
    other = load_source(DataSection(**section, source_options=options | {"seed": 6}))
    assert one.frame.equals(again.frame)
    assert not one.frame["glucose"].equals(other.frame["glucose"])
    assert one.roles == Roles(("glucose",), ("insulin", "carbs"))
    assert len(one.frame) == 2 * 2 * 288
    assert one.frame[["insulin", "carbs"]].notna().all(axis=None)
    assert (one.frame[["insulin", "carbs"]] >= 0).all(axis=None)


def test_it_is_called_simulated_everywhere():
    config = DataSection(source="simulated_t1d", source_options={"people": 2, "days": 4})
    data = prepare_data(config, 24, 6)
    assert data.manifest["source"] == "simulated_t1d"
    assert data.manifest["licence"].startswith("simulated ")
    assert data.manifest["notes"]["simulated"] is True
    assert data.manifest["notes"]["seed"] == 0
    assert data.panel.item_ids == ("simulated_000", "simulated_001")


def test_readings_are_a_sensors(simulated: dict[str, np.ndarray]):
    glucose = simulated["glucose"]
    seen = glucose[~np.isnan(glucose)]
    assert seen.min() >= 2.2
    assert seen.max() <= 22.2
    np.testing.assert_allclose(seen, np.round(seen, 1))
    lost = np.isnan(glucose).mean(axis=0)
    assert ((lost > 0.005) & (lost < 0.12)).all()
    assert not np.isnan(simulate(1, 2, gaps=False)["glucose"]).any()
    error = np.nanmean(np.abs(glucose - simulated["plasma"]) / simulated["plasma"])
    assert 0.05 < error < 0.15, "mean absolute relative difference of a sensor, published: 8 to 12 %"


def test_insulin_and_meals_explain_the_future(simulated: dict[str, np.ndarray]):
    """A channel that says nothing would be useless to the recipe that measures what insulin and carbs are worth."""
    glucose, carbs = simulated["plasma"], simulated["carbs"]
    rise = glucose[12:] - glucose[:-12]
    eaten = carbs[:-12] > 20
    assert eaten.sum() > 200
    assert rise[eaten].mean() > rise[~eaten].mean() + 1.0
    per_day = simulated["insulin"].sum(axis=0) / 21
    assert ((per_day > 5) & (per_day < 110)).all()
    assert 15 < np.median(per_day) < 60, "units a day; the three pump users in ../shared take 21 to 85"


# realism


def figures(series: list[np.ndarray]) -> dict[str, float]:
    """Medians over people of what describes five-minute series in mmol/L with NaN."""

    def correlation(values: np.ndarray, steps: int) -> float:
        now, then = values[:-steps], values[steps:]
        both = ~np.isnan(now) & ~np.isnan(then)
        return float(np.corrcoef(now[both], then[both])[0, 1])

    rows = []
    for values in series:
        seen = values[~np.isnan(values)]
        rows.append(
            {
                "in_range": np.mean((seen >= 3.9) & (seen <= 10)),
                "below": np.mean(seen < 3.9),
                "cv": seen.std() / seen.mean(),
                "after_30_min": correlation(values, 6),
                "after_2_h": correlation(values, 24),
                "after_24_h": correlation(values, 288),
            }
        )
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


# 10th to 90th percentile of the twelve people of BrisT1D-Open in ../shared, worked out below
BANDS = {
    "in_range": (0.608, 0.822),
    "below": (0.006, 0.046),
    "cv": (0.276, 0.440),
    "after_30_min": (0.742, 0.919),
    "after_2_h": (0.185, 0.572),
}


def test_the_middle_person_could_be_a_real_one(simulated: dict[str, np.ndarray]):
    found = figures(list(simulated["glucose"].T))
    outside = {name: found[name] for name, (low, high) in BANDS.items() if not low <= found[name] <= high}
    assert outside == {}
    assert found["after_24_h"] > 0.05, "people have habits"


@pytest.mark.shared
def test_the_bands_are_those_of_real_people(shared: Path):
    table = load_source(DataSection(source="brist1d_open", path=str(shared / "data" / "brist1d_open")))
    rows = []
    for _, own in table.frame.groupby(ITEM):
        by_step = own.groupby(own["timestamp"].dt.round("5min"))["glucose"].mean()
        rows.append(figures([by_step.asfreq("5min").to_numpy()]))
    assert len(rows) == 12
    for name, band in BANDS.items():
        measured = np.quantile([row[name] for row in rows], [0.1, 0.9])
        np.testing.assert_allclose(measured, band, atol=6e-4, err_msg=name)


def test_a_new_model_of_sensor_changes_what_is_shown_from_its_day_on_and_nothing_before():
    plain, changed = (simulate(people=4, days=4, new_sensor_day=day) for day in (0, 2))
    errors = ((one["glucose"] - one["plasma"])[2 * 288 :] for one in (plain, changed))
    usual, new = (np.nanstd(np.diff(error, axis=0)) for error in errors)
    for name, values in changed.items():
        np.testing.assert_array_equal(values[: 2 * 288], plain[name][: 2 * 288])
    assert new > 1.5 * usual
