"""The scaler sees observed training readings only; the manifest counts what the data really was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from unit.builders import grid_table, prepared, random_grids, single_table

from tstune.config.schema import DataSection, SplitSection
from tstune.data.prepared import PreparedData, context_windows, prepare_data
from tstune.data.preprocess import Preprocessor, build_panel
from tstune.data.scaler import Scaler, fit_scaler
from tstune.data.splits import split_panel
from tstune.data.table import TIMESTAMP, Roles
from tstune.errors import DataError

ROLES = Roles(("x", "y"), ("dose",))
CONTEXT, PREDICTION = 8, 2
NAN = np.nan


def prepare(grids: dict[str, np.ndarray], **section: object) -> PreparedData:
    return prepared(grid_table(grids, ROLES), CONTEXT, PREDICTION, max_gap=7, **section)


def scaler(grids: dict[str, np.ndarray], **section: object) -> dict:
    return prepare(grids, **section).preprocessor.scaler.to_dict()


# Scaler


def test_mean_and_deviation_of_the_observed_training_readings():
    grids = random_grids(ROLES, (300, 200))
    panel = build_panel(grid_table(grids, ROLES), None, 50)  # nothing is cut out
    found = fit_scaler(panel, split_panel(panel, SplitSection(), None), "standard")
    train = np.concatenate([grid[: int(0.7 * len(grid))] for grid in grids.values()]).astype(np.float32)
    np.testing.assert_allclose(found.mean, np.nanmean(train.astype(np.float64), axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(train.astype(np.float64), axis=0), rtol=1e-12)
    assert np.isnan(train).sum() > 50


@pytest.mark.parametrize("mode", ["strict", "deployment"])
@pytest.mark.parametrize("borders", [None, [150, 170, 200]])
def test_nothing_after_the_training_part_changes_it(mode: str, borders: list[int] | None):
    split = {"mode": mode, "borders": borders}
    grids = random_grids(ROLES, (300, 200))
    ends = [150, 150] if borders else [210, 140]
    before = scaler(grids, split=split)
    for grid, end in zip(grids.values(), ends, strict=True):
        grid[end:] = grid[end:] * 100 + 1e6
    assert scaler(grids, split=split) == before
    first = next(iter(grids.values()))
    first[ends[0] - 1] = 1e6  # the last training step does count
    assert scaler(grids, split=split) != before


def test_interpolated_and_missing_values_do_not_count():
    values = np.tile([1.0, 3.0], 50)
    values[[10, 11, 12, 30]] = NAN
    found = prepared(single_table(values), CONTEXT, PREDICTION, max_gap=7).preprocessor.scaler
    seen = values[:70][~np.isnan(values[:70])]
    np.testing.assert_allclose([found.mean[0], found.std[0]], [seen.mean(), seen.std()], rtol=1e-12)


def test_a_channel_that_does_not_vary_or_is_never_seen_is_left_alone():
    grid = np.stack([np.full(100, 5.0), np.arange(100.0), np.full(100, NAN)], axis=1)
    found = prepare({"a": grid}).preprocessor.scaler
    assert found.mean.tolist() == [5.0, 34.5, 0.0]
    assert found.std.tolist() == [1.0, np.arange(70.0).std(), 1.0]
    assert scaler({"a": grid}, scaling="none") == {"mean": [0.0] * 3, "std": [1.0] * 3}
    large = prepared(single_table(1e5 + np.tile([0.0, 1.0], 500)), CONTEXT, PREDICTION).preprocessor.scaler
    np.testing.assert_allclose([large.mean[0], large.std[0]], [1e5 + 0.5, 0.5], rtol=1e-9)


# What is saved with a model


def test_scaler_and_preprocessor_survive_json_to_the_last_bit():
    data = prepare(random_grids(ROLES, (300,)))
    preprocessor = data.preprocessor
    again = Preprocessor.from_dict(json.loads(json.dumps(preprocessor.to_dict())))
    assert again.to_dict() == preprocessor.to_dict()
    assert again.roles == ROLES
    assert isinstance(again.scaler, Scaler)
    np.testing.assert_array_equal(again.scaler.mean, preprocessor.scaler.mean)
    np.testing.assert_array_equal(again.scaler.std, preprocessor.scaler.std)
    assert (again.frequency, again.max_gap) == ("h", 7)


def test_new_data_is_read_with_the_columns_of_the_training_data():
    section = {"timestamp_column": "when", "item_id_column": "who", "max_gap": 7}
    table = grid_table(random_grids(ROLES, (100, 100)), ROLES)
    preprocessor = prepared(table, CONTEXT, PREDICTION, **section).preprocessor
    raw = table.frame.rename(columns={TIMESTAMP: "when", "item_id": "who"}).assign(comment="left alone")
    raw = raw.reset_index(drop=True)[["comment", "dose", "y", "who", "x", "when"]]
    read = preprocessor.read_frame(raw, "input")
    assert read.roles == ROLES
    np.testing.assert_array_equal(read.frame[["x", "y", "dose"]], table.frame[["x", "y", "dose"]])
    assert read.frame["item_id"].tolist() == table.frame["item_id"].tolist()


# The context of a forecast


def test_the_last_context_of_every_item():
    table = grid_table(random_grids(ROLES, (100, 60)), ROLES)
    panel, starts = context_windows(table, prepared(table, CONTEXT, PREDICTION, max_gap=7).preprocessor, 20)
    assert panel.item_ids == ("item0", "item1")
    assert starts.tolist() == [80, 140]


def test_a_history_that_is_too_short_names_its_series():
    preprocessor = prepared(single_table(np.arange(100.0)), CONTEXT, PREDICTION).preprocessor
    grids = {"long": np.ones((30, 1)), "short": np.ones((19, 1))}
    with pytest.raises(DataError, match=r"series 'short' has 19 steps of h; a forecast needs a history of 20"):
        context_windows(grid_table(grids, Roles(("y",))), preprocessor, 20)


def test_an_item_without_readings_gets_no_context():
    """One start per item, so that forecasts can be named: an item without a value must not shift the others."""
    preprocessor = prepared(single_table(np.arange(100.0)), CONTEXT, PREDICTION).preprocessor
    grids = {name: np.full((30, 1), value) for name, value in (("a", 1.0), ("b", NAN), ("c", 3.0))}
    panel, starts = context_windows(grid_table(grids, Roles(("y",))), preprocessor, 20)
    assert len(panel.item_ids) == len(starts) == 2
    assert panel.values[starts, 0].tolist() == [1.0, 3.0]


# Manifest


def test_the_manifest_counts_exactly():
    values = np.arange(200.0)
    values[[50, 51]] = NAN  # filled
    values[100:110] = NAN  # cut out
    late = np.arange(100.0)
    late[:5] = NAN  # trimmed
    table = grid_table({"a": values[:, None], "b": late[:, None]}, Roles(("y",)))
    data = prepared(table, CONTEXT, PREDICTION, max_gap=2, unit="kW", split={"train": 0.6, "validation": 0.2})
    manifest = data.manifest
    expected = {
        "channels": {"target": ["y"], "conditional": [], "control": []},
        "frequency": "h",
        "unit": "kW",
        "num_items": 2,
        "num_readings": 300,
        "num_grid_steps": 200 + 95,
        "num_steps_kept": 190 + 95,
        "num_steps_dropped_in_long_gaps": 10,
        "num_steps_in_no_part": 0,
        "num_segments": 3,
        "observed_share_of_kept_targets": (188 + 95) / 285,
        "split_mode": "strict",
        "windows": {"train": (100 - 9) + (10 - 9) + (57 - 9), "validation": 31 + 10, "test": (40 - 9) + (19 - 9)},
        "unseen_items": [],
        "items_without_windows": [],
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["windows"] == {part: len(windows) for part, windows in data.windows.items()}
    names = ("item_id", "first", "last", "grid_steps", "steps_kept", "borders", "begins", "windows")
    first = ("a", "2024-01-01T00:00:00", "2024-01-09T07:00:00", 200, 190, [120, 160, 200], [0, 120, 160])
    second = ("b", "2024-01-01T05:00:00", "2024-01-05T03:00:00", 95, 95, [57, 76, 95], [0, 57, 76])
    counts = {"train": 92, "validation": 31, "test": 31}, {"train": 48, "validation": 10, "test": 10}
    rows = zip((first, second), counts, strict=True)
    assert manifest["items"] == [dict(zip(names, (*row, windows), strict=True)) for row, windows in rows]
    assert manifest["window"]["context_length"] == CONTEXT
    assert manifest["window"]["strides"] == {"train": 1, "validation": 1, "test": 1}
    assert manifest["split"]["by"] == "time"
    assert manifest["leak_check"]["allowed"] == []
    assert {row["item_id"] for row in manifest["trained_on"]["series"]} == {"a", "b"}
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest


def test_the_manifest_names_the_files_with_their_checksums(tmp_path: Path):
    path = tmp_path / "house.csv"
    single_table(np.arange(100.0)).frame.drop(columns="item_id").to_csv(path, index=False)
    manifest = prepare_data(DataSection(source="csv", path=str(path)), CONTEXT, PREDICTION).manifest
    assert manifest["source"] == "csv"
    assert manifest["files"] == [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]


def test_the_manifest_counts_what_lies_in_no_part_and_who_has_no_window():
    grids = {"a": np.arange(100.0)[:, None], "nothing": np.full((100, 1), NAN), "short": np.arange(20.0)[:, None]}
    split = {"train": 0.5, "validation": 0.2, "test": 0.2, "purge": 3, "mode": "strict"}
    manifest = prepared(grid_table(grids, Roles(("y",))), CONTEXT, PREDICTION, split=split).manifest
    assert manifest["num_items"] == 2, "an item without readings is not counted"
    assert manifest["items_without_windows"] == ["short"]
    assert manifest["num_steps_in_no_part"] == (10 + 2 * 3) + (2 + 2 * 3)
    assert [item["begins"] for item in manifest["items"]] == [[0, 50, 70], [0, 10, 14]]
    assert [item["borders"] for item in manifest["items"]] == [[47, 67, 90], [7, 11, 18]]
    assert manifest["split"]["purge_steps"] == 3


@pytest.mark.parametrize("how", ["first", "last", "uniform"])
def test_the_manifest_counts_the_windows_of_a_few_shot_run(how: str):
    data = prepare(random_grids(ROLES, (300, 200)), train_fraction=0.3, train_fraction_from=how)
    per_item = [item["windows"]["train"] for item in data.manifest["items"]]
    batch = data.train.__getitems__(range(len(data.train)))
    assert per_item == np.bincount(batch["item"].numpy(), minlength=2).tolist()
    assert sum(per_item) == data.manifest["windows"]["train"]
