"""Splits that hold out whole items: drawn, named, in folds, alone or together with a split by time."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import CONTEXT, PREDICTION, people, person, prepare
from support import tiny

import eval_forecast
import finetune_ttm
from tstune import TTMForecaster
from tstune.config.schema import SplitSection
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.data.splits import PARTS, parts_of_items
from tstune.errors import EXIT_OK, EXIT_USER_ERROR, ConfigError, DataError

TEN = tuple(f"P{number:02d}" for number in range(1, 11))


def items_of(data: PreparedData, part: str) -> list[str]:
    """Items that have windows in a part, as the batches say."""
    windows = data.windows[part]
    batch = windows.__getitems__(range(len(windows)))
    return [data.panel.item_ids[item] for item in np.unique(batch["item"].numpy())]


def held_out(config: dict, items: tuple[str, ...] = TEN) -> tuple[list[str], list[str]]:
    """Names that only validate, names that are only tested."""
    takes_part = parts_of_items(items, SplitSection(**config)).tolist()
    only = {part: [part == name for name in PARTS] for part in PARTS}
    return tuple(
        [name for name, row in zip(items, takes_part, strict=True) if row == only[part]]
        for part in ("validation", "test")
    )


# By item


def test_by_item_every_item_lies_in_one_part_with_its_whole_series():
    data = prepare(people(10), {"by": "item"})
    parts = [items_of(data, part) for part in PARTS]
    assert [len(part) for part in parts] == [7, 1, 2]  # the default shares 0.7, 0.1, 0.2
    assert sorted(chain.from_iterable(parts)) == list(data.panel.item_ids)
    windows_per_item = 1500 - CONTEXT - PREDICTION + 1
    assert [len(data.windows[part]) for part in PARTS] == [windows_per_item * len(part) for part in parts]
    assert list(data.unseen_items) == data.manifest["unseen_items"] == parts[2]


def test_the_scaler_knows_nothing_of_held_out_items():
    series = people(5)
    split = {"by": "item", "test_items": ["P02"], "validation_items": ["P04"]}
    before = prepare(series, split).preprocessor.scaler.to_dict()
    changed = series | {"P02": series["P02"] * 2, "P04": series["P04"] + 100}
    assert prepare(changed, split).preprocessor.scaler.to_dict() == before
    trained = np.concatenate([series[name] for name in ("P01", "P03", "P05")]).astype(np.float32).astype(np.float64)
    assert before["mean"] == pytest.approx([trained.mean()], rel=1e-12)


def test_a_draw_depends_on_its_seed_only():
    draws = [held_out({"by": "item", "seed": seed}) for seed in range(20)]
    assert all(len(validation) == 1 and len(test) == 2 for validation, test in draws)
    assert len({str(draw) for draw in draws}) > 10
    shuffled = tuple(np.random.default_rng(1).permutation(TEN).tolist())
    assert [set(names) for names in held_out({"by": "item"}, shuffled)] == [set(names) for names in draws[0]]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.24, 2), (0.3, 3), (0.5, 5)])
def test_shares_of_the_items(share: float, count: int):
    validation, test = held_out({"by": "item", "test_items": share})
    assert (len(validation), len(test)) == (1, count)
    validation, test = held_out({"by": "item", "validation_items": share})
    assert (len(validation), len(test)) == (count, 2)


def test_named_items_and_drawn_ones_do_not_meet():
    for seed in range(30):
        validation, test = held_out({"by": "item", "validation_items": ["P05", "P06"], "test_items": 0.3, "seed": seed})
        assert validation == ["P05", "P06"]
        assert len(test) == 3
        assert set(test).isdisjoint(validation)
        validation, test = held_out({"by": "item", "test_items": ["P05", "P06"], "seed": seed})
        assert test == ["P05", "P06"]
        assert len(validation) == 1
        assert set(test).isdisjoint(validation)


def test_names_that_are_numbers():
    series = {str(number): person(number) for number in (101, 102, 103)}
    assert prepare(series, {"by": "both", "test_items": [102]}).unseen_items == ("102",)
    by_time = prepare(series)
    assert by_time.unseen_items == ()
    assert not by_time.split.held_out.any()


# Folds


@pytest.mark.parametrize("folds", [3, 5, 10])
def test_every_item_is_tested_in_one_fold_and_validates_in_one(folds: int):
    drawn = [held_out({"by": "item", "folds": folds, "fold": fold}) for fold in range(folds)]
    for names in zip(*drawn, strict=True):
        assert sorted(chain.from_iterable(names)) == list(TEN)
    assert all(set(validation).isdisjoint(test) for validation, test in drawn)
    sizes = [len(test) for _, test in drawn]
    assert max(sizes) - min(sizes) <= 1


def test_folds_by_both_hold_out_nothing_for_validation():
    drawn = [held_out({"by": "both", "folds": 2, "fold": fold}) for fold in range(2)]
    assert [validation for validation, _ in drawn] == [[], []]
    assert sorted(drawn[0][1] + drawn[1][1]) == list(TEN)


# By item and time


def test_by_both_the_test_has_seen_and_unseen_items_over_the_same_time():
    data = prepare(people(5), {"by": "both", "test_items": ["P02", "P05"]})
    assert items_of(data, "train") == items_of(data, "validation") == ["P01", "P03", "P04"]
    assert items_of(data, "test") == list(data.panel.item_ids)
    assert data.unseen_items == ("P02", "P05")
    assert data.split.borders.tolist() == [[1050, 1200, 1500], [0, 0, 1500]] + [[1050, 1200, 1500]] * 2 + [[0, 0, 1500]]
    assert data.split.bounds("test")[0].tolist() == [1200] * 5
    per_item = {item["item_id"]: item["windows"] for item in data.manifest["items"]}
    assert per_item["P02"] == {"train": 0, "validation": 0, "test": 271}
    assert per_item["P01"] == {"train": 1021, "validation": 121, "test": 271}


def test_by_both_deployment_unseen_items_bring_their_own_past():
    data = prepare(people(3), {"by": "both", "test_items": ["P02"], "mode": "deployment"})
    test = data.test.__getitems__(range(len(data.test)))
    unseen = test["item"].numpy() == 1
    assert unseen.sum() == 295  # 24 more than in strict mode: the context lies before the border
    first = int(test["start"].numpy()[unseen].min())
    assert data.panel.row_position()[first] == 1200 - CONTEXT
    assert data.panel.row_position()[first + CONTEXT] == 1200


def test_by_both_validation_items_only_validate():
    data = prepare(people(5), {"by": "both", "test_items": ["P02"], "validation_items": ["P03"]})
    assert items_of(data, "train") == ["P01", "P04", "P05"]
    assert items_of(data, "validation") == ["P01", "P03", "P04", "P05"]
    assert items_of(data, "test") == ["P01", "P02", "P04", "P05"]
    assert data.unseen_items == ("P02",)


def test_the_manifest_says_how_the_items_were_chosen():
    data = prepare(people(6), {"by": "both", "folds": 3, "fold": 1, "seed": 7})
    split = data.manifest["split"]
    assert [split[key] for key in ("by", "folds", "fold", "seed")] == ["both", 3, 1, 7]
    assert len(data.manifest["unseen_items"]) == 2
    assert json.loads(json.dumps(data.manifest, allow_nan=False)) == data.manifest


# Mistakes


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ({"by": "item", "test_items": ["P2"]}, ("data.split.test_items: no series 'P2'", "did you mean P02?")),
        ({"by": "both", "validation_items": ["x"]}, ("data.split.validation_items: no series 'x'", "P01, P02, P03")),
        ({"by": "both", "test_items": ["P01", "P02", "P03"]}, ("no series for train", "3 to test", "hold out fewer")),
        ({"by": "item", "test_items": ["P01", "P02"], "validation_items": 0.9}, ("no series for train",)),
        ({"by": "item", "folds": 5, "fold": 0}, ("data.split.folds=5", "3 series")),
    ],
)
def test_items_that_cannot_be_held_out(split: dict, parts: tuple[str, ...]):
    with pytest.raises(DataError) as caught:
        prepare(people(3, 300), split)
    assert [part for part in parts if part not in str(caught.value)] == []
    with pytest.raises(DataError, match="leaves no series for train: the data has 1"):
        prepare(people(1, 300), {"by": "item"})


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"test_items": ["a"]}, "test_items holds out items, but by is time; set by to item or both"),
        ({"folds": 5, "fold": 0}, "folds holds out items, but by is time"),
        ({"by": "item", "folds": 5}, "folds and fold belong together"),
        ({"by": "item", "fold": 0}, "folds and fold belong together"),
        ({"by": "item", "folds": 5, "fold": 5}, "fold 5 is not one of the 5 folds, which count from 0"),
        ({"by": "item", "folds": 2, "fold": 0}, "folds must be 3 or more with by: item"),
        ({"by": "both", "folds": 3, "fold": 0, "test_items": ["a"]}, "leave out test_items"),
        ({"by": "both", "test_items": ["a", "b"], "validation_items": ["b"]}, "item 'b' is in validation_items and in"),
        ({"by": "item", "purge": "24h"}, "purge is about time, but by is item"),
        ({"by": "item", "borders": [1, 2, 3]}, "borders is about time, but by is item"),
        ({"by": "item", "test_items": 1.0}, "data.split.test_items: input should be less than 1"),
        ({"by": "item", "test_items": []}, "at least 1 item"),
        ({"by": "items"}, "data.split.by: input should be 'time', 'item', 'both' or 'none'"),
        ({"preset": "brist1d", "by": "both"}, "preset brist1d says what by would say"),
        ({"preset": "brist1d", "borders_at": ["2023-01-01", "2023-02-01", None]}, "says what borders_at would say"),
        ({"borders": [1, 2, 3], "borders_at": ["2023-01-01", "2023-02-01", None]}, "both place the borders"),
        ({"borders_at": ["2023-02-01", "2023-01-01", None]}, "borders_at ['2023-02-01', '2023-01-01', None] must grow"),
        ({"borders_at": ["2023-02-01", "2023-02-01T12:00", None]}, "must grow"),
        ({"borders_at": ["17.08.2023", "2023-08-31", None]}, "data.split.borders_at.0: input should be a date such as"),
        ({"borders_at": ["2023-08-17T00:00+01:00", "2023-08-31", None]}, "should have no time zone"),
        ({"borders_at": ["2023-08-17", None, None]}, "data.split.borders_at.1"),
    ],
)
def test_a_split_that_says_two_things_is_refused(split: dict, message: str):
    from tstune.config.validation import validate

    with pytest.raises(ConfigError) as caught:
        validate({"data": {"split": split}}, "x.yaml")
    assert message in str(caught.value)
    assert "x.yaml: 1 problem: data.split" in str(caught.value)


# Files that are a part, instead of a share of data.path


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    tiny.write_desk(tmp_path, evaluation={"baselines": ["persistence", "ridge"], "report": False})
    tiny.series(items=("new", "newer"), rows=160, seed=3).to_csv(tmp_path / "others.csv", index=False)
    return tmp_path


def arguments(desk: Path, *settings: str) -> list[str]:
    return ["--config", str(desk / "recipe.yaml"), f"output_dir={desk / 'run'}", *settings]


def test_people_in_a_file_of_their_own_are_the_test(desk: Path, capsys: pytest.CaptureFixture[str]):
    assert finetune_ttm.main(arguments(desk, f"data.test_path={desk / 'others.csv'}")) == EXIT_OK
    manifest = tiny.read_json(desk / "run/manifest.json")
    assert sorted(manifest["unseen_items"]) == ["new", "newer"]
    metrics = tiny.read_json(desk / "run/metrics.json")["test"]
    expected = 2 * (160 - tiny.CONTEXT - tiny.PREDICTION + 1)
    assert {values["num_windows"] for values in metrics.values()} == {expected}
    capsys.readouterr()
    assert eval_forecast.main(["--run", str(desk / "run")]) == EXIT_OK, "the paths are in its configuration"
    assert "differ" not in capsys.readouterr().out


def test_the_parts_of_one_table_in_three_files_are_the_split(desk: Path):
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint")
    whole = TTMForecaster(validate(values, origin="test")).prepare()
    table = pd.read_csv(desk / "series.csv")
    borders = {"train": (0, 240), "validation": (240, 320), "test": (320, 400)}
    number = table.groupby("item_id").cumcount()
    for part, (first, stop) in borders.items():
        table[(number >= first) & (number < stop)].to_csv(desk / f"{part}.csv", index=False)
    values["data"] |= {"path": str(desk / "train.csv")}
    values["data"] |= {f"{part}_path": str(desk / f"{part}.csv") for part in ("validation", "test")}
    parts = TTMForecaster(validate(values, origin="test")).prepare()
    assert {part: len(windows) for part, windows in parts.windows.items()} == {
        part: len(windows) for part, windows in whole.windows.items()
    }


def test_a_missing_file_is_named(desk: Path, capsys: pytest.CaptureFixture[str]):
    assert finetune_ttm.main(arguments(desk, "data.test_path=nowhere.csv")) == EXIT_USER_ERROR
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "nowhere.csv" in error
    assert not (desk / "run").exists()
