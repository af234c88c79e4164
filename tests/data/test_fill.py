"""What stands where a channel has no reading: a line, the last reading, zero, or nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from unit.builders import grid_table, prepared, random_grids

from tstune.config.schema import DataSection
from tstune.data.frame import table_from_frame
from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.prepared import context_windows
from tstune.data.preprocess import Preprocessor, build_panel
from tstune.data.table import Roles
from tstune.errors import ConfigError

NAN = np.nan
ROLES = Roles(("y",), ("dose",))
DOSE = [4, NAN, NAN, 10, NAN, NAN, NAN, 2, NAN]
CONTEXT, PREDICTION = 8, 2


def panel_with(policy: str | None, cut: bool = True, max_gap: int = 2, dose: list[float] = DOSE) -> Panel:
    grid = np.stack([np.arange(float(len(dose))), np.array(dose, float)], axis=1)
    fill = {} if policy is None else {"dose": policy}
    return build_panel(replace(grid_table({"a": grid}, ROLES), fill=fill), None, max_gap, cut=cut)


def dose_of(panel: Panel) -> tuple[list[float], list[int]]:
    return panel.values[:, 1].tolist(), panel.status[:, 1].tolist()


O, I, M = OBSERVED, INTERPOLATED, MISSING  # noqa: E741
EXPECTED = {
    None: ([4, 6, 8, 10, 0, 0, 0, 2, 0], [O, I, I, O, M, M, M, O, M]),
    "interpolate": ([4, 6, 8, 10, 0, 0, 0, 2, 0], [O, I, I, O, M, M, M, O, M]),
    "hold": ([4, 4, 4, 10, 0, 0, 0, 2, 0], [O, I, I, O, M, M, M, O, M]),
    "none": ([4, 0, 0, 10, 0, 0, 0, 2, 0], [O, M, M, O, M, M, M, O, M]),
    "zero": ([4, 0, 0, 10, 0, 0, 0, 2, 0], [O, O, O, O, O, O, O, O, O]),
}


@pytest.mark.parametrize("policy", EXPECTED)
def test_each_policy(policy: str | None):
    assert dose_of(panel_with(policy)) == EXPECTED[policy]


@pytest.mark.parametrize(
    ("policy", "last"), [("interpolate", (2, I)), ("hold", (2, I)), ("none", (0, M)), ("zero", (0, O))]
)
def test_the_end_of_a_forecast_context(policy: str, last: tuple[float, int]):
    values, status = dose_of(panel_with(policy, cut=False))
    assert (values[-1], status[-1]) == last
    assert (values[:-1], status[:-1]) == tuple(column[:-1] for column in EXPECTED[policy])


def test_the_target_obeys_too():
    grid = np.array([[1, 5], [NAN, 5], [3, 5], [NAN, 5], [NAN, 5], [6, 5]], float)
    lengths = {"interpolate": [3, 1], "hold": [3, 1], "none": [1, 1, 1], "zero": [6]}
    for policy, expected in lengths.items():
        panel = build_panel(replace(grid_table({"a": grid}, ROLES), fill={"y": policy}), None, 1)
        assert panel.segment_length.tolist() == expected, policy
        assert (panel.status[:, 0] != MISSING).all()


@pytest.mark.parametrize("policy", ["interpolate", "hold", "none", "zero"])
def test_a_forecast_sees_what_training_saw(policy: str):
    """Each context of a training window equals the context of a forecast made at that moment."""
    roles = Roles(("y",), ("dose",))
    grids = random_grids(roles, (120,), seed=5, longest_gap=5, gap_share=0.1)
    grids["item0"][:, 0] = np.arange(120.0)
    data = prepared(grid_table(grids, roles), CONTEXT, PREDICTION, max_gap=3, fill={"dose": policy})
    assert data.preprocessor.fill == {"dose": policy}
    assert data.manifest["fill"] == {"y": "interpolate", "dose": policy}
    saved = Preprocessor.from_dict(json.loads(json.dumps(data.preprocessor.to_dict())))
    compared = 0
    for index in range(len(data.train)):
        window = data.train[index]
        origin = int(window["start"]) + CONTEXT
        panel, starts = context_windows(grid_table({"item0": grids["item0"][:origin]}, roles), saved, CONTEXT)
        rows = slice(int(starts[0]), int(starts[0]) + CONTEXT)
        usable = panel.status[rows] != MISSING
        both = usable & window["past_observed_mask"].numpy()
        np.testing.assert_array_equal(window["past_values"].numpy()[both], panel.values[rows][both])
        # how long a gap at the origin will last is not known then: what is held may turn out to be too old
        assert not (window["past_observed_mask"].numpy() & ~usable).any()
        if policy in ("none", "zero"):
            np.testing.assert_array_equal(window["past_observed_mask"].numpy(), usable)
        compared += int(both.sum())
    assert compared > 800


def test_an_old_preprocessor_draws_lines():
    data = prepared(grid_table(random_grids(ROLES, (100,)), ROLES), CONTEXT, PREDICTION, max_gap=3)
    old = json.loads(json.dumps(data.preprocessor.to_dict()))
    for key in ("fill", "min_context"):
        del old[key]
    old["roles"] = {role: old["roles"][role] for role in ("target", "conditional", "control")}
    loaded = Preprocessor.from_dict(old)
    assert loaded.to_dict() == data.preprocessor.to_dict()


def test_a_csv_of_doses():
    """Rows with a dose only where one was given: with zero all other steps are known to have none."""
    stamps = pd.date_range("2024-01-01", periods=200, freq="5min")
    frame = pd.DataFrame({"timestamp": stamps, "bg": np.linspace(5, 9, 200), "dose": NAN})
    frame.loc[[20, 90], "dose"] = [3.0, 5.0]
    section = DataSection(target_columns=["bg"], conditional_columns=["dose"])
    table = table_from_frame(frame, section, "mine")
    lines = prepared(table, CONTEXT, PREDICTION, max_gap=6).panel
    assert (lines.status[:, 1] == MISSING).sum() == 198
    zeros = prepared(table, CONTEXT, PREDICTION, max_gap=6, fill={"dose": "zero"})
    assert (zeros.panel.status[:, 1] == OBSERVED).all()
    assert zeros.panel.values[:, 1].sum() == 8
    train = zeros.panel.values[:140, 1].astype(np.float64)
    assert zeros.preprocessor.scaler.mean[1] == pytest.approx(train.mean()), "zeros are readings"
    with pytest.raises(ConfigError, match=r"data\.fill: no channel 'doses'; the channels are bg, dose"):
        prepared(table, CONTEXT, PREDICTION, max_gap=6, fill={"doses": "zero"})
