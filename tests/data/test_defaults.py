"""What settings that are left to the data become, and errors whose remedy works when it is pasted."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import FOLLOW_THE_DATA, DataSection, RunConfig
from tstune.config.section import AUTO
from tstune.data.defaults import default_baselines, default_stride, shipped_weights
from tstune.data.frequency import default_seasonality
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.table import Roles, SourceTable
from tstune.errors import DataError
from tstune.runs.life import is_same_run

BUILTIN = sorted(shipped_weights(), reverse=True)


def series(length: int, frequency: str, items: int = 1, missing: int | None = None) -> SourceTable:
    times = pd.date_range("2020-01-05", periods=length, freq=frequency)
    values = 100 + np.random.default_rng(0).normal(0, 5, (items, length)).cumsum(axis=1)
    if missing is not None:
        values[:, missing] = np.nan
    frames = [pd.DataFrame({"item_id": f"s{n}", "timestamp": times, "y": row}) for n, row in enumerate(values)]
    return SourceTable(pd.concat(frames), Roles(("y",)), max_gap=None)


def follow(table: SourceTable, known: tuple = (), **section: object) -> tuple[PreparedData, RunConfig]:
    config = RunConfig(data=DataSection(**section))
    data = prepare_data(config.data, AUTO, AUTO, table, known_lengths=known)
    return data, data.settle(config)


@pytest.mark.parametrize(
    ("frequency", "length", "known", "lengths", "mode", "max_gap", "season", "horizons"),
    [
        ("5min", 52_000, BUILTIN, (512, 96), "strict", 9, 288, ["30min", "60min", "120min"]),
        ("5min", 800, BUILTIN, (96, 24), "deployment", 9, 288, ["30min", "60min", "120min"]),
        ("15min", 20_000, (), (512, 96), "strict", 3, 96, ["30min", "60min", "120min"]),
        ("h", 17_420, BUILTIN, (512, 48), "strict", 3, 24, ["1h", "6h", "24h"]),
        ("D", 2_000, BUILTIN, (512, 14), "deployment", 3, 7, [1, 7, 14]),
        ("B", 700, BUILTIN, (96, 14), "deployment", 3, 5, [1, 7, 14]),
        ("W-SUN", 156, BUILTIN, (96, 13), "deployment", 1, 52, [1, 4, 13]),
        ("MS", 130, (), (52, 13), "deployment", 1, 12, [1, 3, 12]),
        ("MS", 700, BUILTIN, (96, 18), "deployment", 1, 12, [1, 3, 12]),
        ("QS", 120, (), (52, 8), "deployment", 1, 4, [1, 4, 8]),
        ("YS", 60, (), (24, 6), "deployment", 0, 1, [1, 3]),
    ],
)
def test_settings_follow_frequency_and_length(
    frequency: str, length: int, known: list, lengths: tuple, mode: str, max_gap: int, season: int, horizons: list
):
    data, config = follow(series(length, frequency), known, frequency=frequency)
    assert (config.model.context_length, config.model.prediction_length) == lengths
    assert (config.data.split.mode, config.data.max_gap) == (mode, max_gap)
    assert (config.evaluation.seasonality, config.evaluation.horizons) == (season, horizons)
    assert config.evaluation.baselines == default_baselines(season, lengths[0])
    assert all(len(windows) for windows in data.windows.values())
    again = prepare_data(config.data, *lengths, series(length, frequency))
    assert again.manifest == data.manifest, "the settled settings give the same windows"


def test_what_a_recipe_says_stays_and_what_it_leaves_open_is_said_and_saved(tmp_path, caplog):
    said = {"data": {"train_stride": 7, "max_gap": 2}, "evaluation": {"horizons": [], "baselines": ["ridge"]}}
    config = RunConfig(**said, model={"prediction_length": 20})
    data = prepare_data(config.data, AUTO, 20, series(3_000, "h"))
    with caplog.at_level("INFO", "tstune"):
        settled = data.settle(config)
    assert (settled.data.train_stride, settled.data.max_gap, settled.evaluation.horizons) == (7, 2, [])
    assert (settled.model.prediction_length, settled.evaluation.baselines) == (20, ["ridge"])
    line = caplog.messages[-1]
    assert "model.context_length=512" in line
    assert "data.split.mode=deployment" in line
    assert "train_stride" not in line
    SimpleConfigManager().save_config(settled, tmp_path / "config.yaml")
    saved = SimpleConfigManager().load_config(tmp_path / "config.yaml")
    assert saved == settled
    assert data.settle(saved) is saved, "nothing is open any more"
    assert is_same_run(config, saved)
    assert not is_same_run(config.model_copy(update={"seed": 1}), saved)


def test_every_key_that_follows_the_data_is_open_by_default():
    values = RunConfig().model_dump()
    for key in FOLLOW_THE_DATA:
        place = values
        for part in key.split("."):
            place = place[part]
        assert place in (AUTO, None), key


@pytest.mark.parametrize(("count", "part", "stride"), [(1, "train", 1), (131_072, "train", 1), (131_073, "train", 2)])
def test_strides_thin_long_data_only(count: int, part: str, stride: int):
    assert default_stride(count, part) == stride


@pytest.mark.parametrize(("frequency", "season"), [("W", 52), ("W-WED", 52), ("2W", 26), ("D", 7), ("h", 24)])
def test_a_year_of_weeks_is_a_season(frequency: str, season: int):
    assert default_seasonality(frequency) == season


def test_a_gap_that_a_short_context_cannot_hold_is_not_filled_by_default():
    data = prepare_data(DataSection(), 8, 2, series(400, "5min", missing=200))
    assert data.preprocessor.max_gap == 4


PASTED = re.compile(r"this works: ((?:[\w.]+=\S+ ?)+)")


@pytest.mark.parametrize(
    ("table", "lengths", "section", "known"),
    [
        (series(6_048, "5min", 2), (512, 96), {"split": {"mode": "strict"}}, BUILTIN),
        (series(900, "5min", 2), (512, 96), {}, BUILTIN),
        (series(90, "MS"), (96, 12), {}, BUILTIN),
        (series(150, "W", 50), (512, 8), {}, ()),
        (series(2_000, "h", missing=slice(None, None, 300)), (512, 48), {"max_gap": 0}, BUILTIN),
        (series(60, "D"), (30, 20), {}, ()),
    ],
)
def test_too_few_windows_come_with_settings_that_work_when_pasted(
    table: SourceTable, lengths: tuple, section: dict, known: tuple
):
    config = RunConfig(data=DataSection(**section))
    with pytest.raises(DataError) as caught:
        prepare_data(config.data, *lengths, table, known_lengths=known)
    pasted = dict(change.split("=") for change in PASTED.search(str(caught.value)).group(1).split())
    split = config.data.split.model_copy(update={"mode": pasted.get("data.split.mode", config.data.split.mode)})
    asked = zip(("model.context_length", "model.prediction_length"), lengths, strict=True)
    new = [int(pasted.get(key, old)) for key, old in asked]
    data = prepare_data(config.data.model_copy(update={"split": split}), *new, table)
    assert all(len(windows) for windows in data.windows.values())
    assert not known or tuple(new) in known or new[0] in dict(known) or pasted["model.pretrained"] == "null"
