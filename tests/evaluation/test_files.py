"""A method that was saved and loaded is the same, and damaged files are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted_errors import LEVELS, planted, with_native

from tstune.config.schema import ForecastSection
from tstune.errors import CheckpointError
from tstune.evaluation.intervals import METHODS, SETTINGS, TENSORS, load_method, make_method, save_method

SECTION = ForecastSection(quantiles=list(LEVELS), half_life=0.7, adaptation_rate=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    calibration, test = with_native(planted(300, seed=1)), with_native(planted(50, seed=2, begin=300))
    method = make_method(name, SECTION).fit(calibration)
    save_method(method, tmp_path)
    loaded = load_method(tmp_path)
    assert type(loaded) is type(method)
    assert loaded.settings() == method.settings()
    assert loaded.levels == LEVELS
    assert np.array_equal(loaded.backtest(test), method.backtest(test))
    assert {path.name for path in tmp_path.iterdir()} == {SETTINGS, TENSORS}
    assert json.loads((tmp_path / SETTINGS).read_text())["method"] == name


def test_a_folder_without_is_no_error(tmp_path):
    assert load_method(tmp_path) is None


def test_damage_is_one_line(tmp_path):
    save_method(make_method("split_conformal", SECTION).fit(planted(50)), tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in (SETTINGS, TENSORS)}
    for name, content in (
        (SETTINGS, b"{"),
        (SETTINGS, b'{"method": "crystal_ball", "levels": [0.5]}'),
        (SETTINGS, b'{"method": "split_conformal", "levels": [0.5], "rate": 1}'),
        (TENSORS, whole[TENSORS][:20]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load_method(tmp_path)
        (tmp_path / name).write_bytes(whole[name])
    (tmp_path / TENSORS).unlink()
    with pytest.raises(CheckpointError, match=f"{TENSORS} is missing"):
        load_method(tmp_path)
