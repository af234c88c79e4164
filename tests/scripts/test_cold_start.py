"""Cold start: the same windows for any number of own days, which end before them; adapters only where they gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bad_input import errors_in
from support import tiny
from support.page_reader import Page

import cold_start
import finetune_ttm
from tstune.config.managers import load_saved_config
from tstune.config.validation import validate
from tstune.data.splits import own_days
from tstune.models.registry import model_class
from tstune.runs.compare.evaluate import configured_data

PEOPLE, NEW, HOURS, DAY = ("a", "b", "c", "d"), ("c", "d"), 240, pd.Timedelta("1D")
START, LAST = pd.Timestamp("2024-01-01"), 3 * DAY
FAST = ["tuning.per_item_epochs=3", "tuning.per_item_learning_rate=0.02", "seed=3"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds base/, a model that c and d are new to, and cold/, what the script made of it with 0, 1 and 3 days."""
    folder = tmp_path_factory.mktemp("cold")
    series = tiny.write_series(folder / "series.csv", rows=HOURS, items=PEOPLE)
    split = {"by": "item", "validation_items": ["b"], "test_items": list(NEW)}
    values = tiny.recipe(
        series,
        folder / "base",
        tiny.write_checkpoint(folder / "checkpoint"),
        data={"split": split, "train_stride": 6},
        evaluation={"baselines": ["persistence"], "report": False},
    )
    assert finetune_ttm.main(["--config", str(tiny.write_recipe(folder / "recipe.yaml", values))]) == 0
    words = [str(folder / "base"), FAST[0], "--days", "0", "1", "3", *FAST[1:], "--output", str(folder / "cold")]
    assert cold_start.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def found(desk: Path) -> dict:
    return tiny.read_json(desk / "cold" / "cold_start.json")


def test_every_forecast_has_a_row_and_too_few_days_leave_the_shared_model(desk: Path, found: dict) -> None:
    rows = {(row["model"], row["days"]): row for row in found["rows"]}
    always = [(name, 0) for name in ("shared_base", "zero_shot", "persistence")]
    assert list(rows) == [*always, ("own_adapter", 0), ("own_adapter", 1), ("own_adapter", 3), ("ridge", 3)]
    base = rows["shared_base", 0]
    for days in (0, 1):  # a window has 32 + 8 hours
        assert "0 of 2 adapters kept: shared_base forecasts for everybody." in rows["own_adapter", days]["sentence"]
        assert rows["own_adapter", days]["people_used"] == 0
        assert rows["own_adapter", days]["rmse"] == base["rmse"]
        assert rows["own_adapter", days]["change"] == 0
    assert {row["num_windows"] for row in rows.values()} == {2 * (HOURS - 72 - 8 + 1)}
    assert {row["num_people"] for row in rows.values()} == {2}
    assert rows["ridge", 3]["people_used"] == 2
    assert all(row["low"] <= row["change"] <= row["high"] for row in rows.values() if row is not base)
    table = pd.read_csv(desk / "cold" / "cold_start.csv")
    np.testing.assert_allclose(table["rmse"], [row["rmse"] for row in rows.values()])


def test_an_adapter_is_kept_where_its_own_validation_gains(found: dict) -> None:
    people = {(one["item_id"], one["days"]): one for one in found["people"]}
    assert set(people) == {(name, days) for name in NEW for days in (0, 1, 3)}
    tuned = [people[name, 3] for name in NEW]
    assert all(one["kept"] is (one["validation_loss_adapter"] < one["validation_loss_base"]) for one in tuned)
    assert all((one["rmse_own_adapter"] != one["rmse_shared_base"]) is one["kept"] for one in people.values())
    kept = sum(one["kept"] for one in tuned)
    assert kept > 0
    assert next(row for row in found["rows"] if row["days"] == 3)["people_used"] == kept
    for name in NEW:
        assert people[name, 1]["reason"] == "no training or no validation window"
        assert [people[name, 3][f"{part}_windows"] for part in ("train", "validation")] == [54 - 40 + 1, 18 - 8 + 1]


def test_own_days_end_before_what_is_judged_which_is_always_the_same(found: dict) -> None:
    for one in found["people"]:
        judged = {end: pd.Timestamp(time) for end, time in one["test"].items()}
        assert judged == {"from": START + LAST, "to": START + pd.Timedelta(HOURS - 1, "h")}
        if one["days"] < 3:
            assert (one["train"], one["validation"]) == (None, None)
            continue
        times = [pd.Timestamp(one[part][end]) for part in ("train", "validation") for end in ("from", "to")]
        assert times == sorted(times)
        assert times[0] == START + LAST - one["days"] * DAY, "contexts of the training windows are own days too"
        assert times[-1] < judged["from"]


def test_no_reading_that_is_judged_changes_what_was_learned(desk: Path, found: dict, tmp_path: Path) -> None:
    series = pd.read_csv(desk / "series.csv", parse_dates=["timestamp"])
    series.loc[series["timestamp"] >= START + LAST, "load"] += 7
    series.to_csv(tmp_path / "later.csv", index=False)
    words = [str(desk / "base"), f"data.path={tmp_path / 'later.csv'}", *FAST, "--days", "3"]
    assert cold_start.main([*words, "--output", str(tmp_path / "cold")]) == 0
    again = tiny.read_json(tmp_path / "cold" / "cold_start.json")["people"]
    losses = [
        {one["item_id"]: (one["validation_loss_base"], one["validation_loss_adapter"]) for one in people if one["days"]}
        for people in (again, [one for one in found["people"] if one["days"] == 3])
    ]
    assert losses[0] == losses[1]
    assert again[-1]["rmse_shared_base"] != found["people"][-1]["rmse_shared_base"]


def test_own_days_are_cut_from_the_end(desk: Path) -> None:
    config = load_saved_config(desk / "base" / "config.yaml")
    panel = configured_data(config).panel
    split = own_days(panel, np.isin(panel.item_ids, NEW), 72, 20)
    assert split.begins.tolist() == [[0, 0, 0]] * 2 + [[52, 67, 72]] * 2
    assert split.borders.tolist() == [[0, 0, 0]] * 2 + [[67, 72, HOURS]] * 2
    assert split.takes_part.tolist() == [[False] * 3] * 2 + [[True] * 3] * 2


def test_the_page_draws_the_error_by_days(desk: Path, found: dict) -> None:
    page = Page((desk / "cold" / "report.html").read_text(encoding="utf-8"))
    assert page.figures == {"by-days": [2, 1]}
    assert len(set(page.ids)) == len(page.ids)
    by_days, by_person = page.tables
    assert by_days.header == ["Days", "shared base", "zero-shot", "persistence", "own adapter", "ridge"]
    assert [cells[0] for cells in by_days.rows if cells] == ["0.0", "1.0", "3.0"]
    assert len([cells for cells in by_person.rows if cells]) == len(found["people"]) == 6
    assert all(row["sentence"] in " ".join(page.text) for row in found["rows"] if row["days"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--days", "30"], "--days 30: nobody has a window behind them"),
        (["--days", "-1"], "--days='-1D' is not a positive duration"),
        (["--people", "e"], "--people e: no such series; the data has a, b, c, d"),
        (["data.path={short}"], "nobody is new: the model learned from a"),
        (["model.context_length=16"], "model.context_length=16: the model is tuned already"),
        (["--people", "a"], "was trained on readings of test: series 'a'"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], told: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_series(tmp_path / "short.csv", rows=HOURS, items=("a",))
    words = [word.format(short=tmp_path / "short.csv") for word in words]
    days = [] if "--days" in words else ["--days", "3"]
    assert cold_start.main([str(desk / "base"), *words, *days, "--output", str(tmp_path / "out")]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert told in error
    assert not (tmp_path / "out").exists()


def test_an_adapter_needs_a_network(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_saved_config(desk / "base" / "config.yaml")
    values = config.model_dump(mode="json") | {"model": {"type": "ridge", "context_length": 32, "prediction_length": 8}}
    ridge = validate(values | {"tuning": {}, "output_dir": str(tmp_path / "ridge")}, "test")
    model_class("ridge")(ridge).fit(output_dir=tmp_path / "ridge")
    capsys.readouterr()
    assert cold_start.main([str(tmp_path / "ridge"), "--days", "3", "--output", str(tmp_path / "out")]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert "model.type=ridge has no network for an adapter" in error
    assert not (tmp_path / "out").exists()


def test_changes_may_follow_any_option() -> None:
    args = cold_start.parse_args(
        ["run", "--days", "0", "1", "lora.rank=2", "--people", "anna", "data.path=new.csv", "--output", "out"]
    )
    assert (args.model, args.days, args.people) == ("run", [0, 1], ["anna"])
    assert args.overrides == ["lora.rank=2", "data.path=new.csv"]
