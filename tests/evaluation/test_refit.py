"""Rolling origins with refit: what each fit sees, what it costs, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import tiny

import tstune
from tstune.config.schema import RunConfig
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.models.registry import model_class
from tstune.runs.compare.evaluate import evaluate_models
from tstune.runs.finetune import FineTuning
from tstune.runs.folder import RunFolder
from tstune.runs.rebuild import rebuild

GAP = slice(365, 369)  # of 400 hours: across the second refit, short enough to be bridged


def series(changed_from: int | None = None) -> pd.DataFrame:
    """Two series; from one hour on everything is another world."""
    table = tiny.series()
    hour = table.groupby("item_id").cumcount()
    table.loc[hour.between(GAP.start, GAP.stop - 1), "load"] = np.nan
    if changed_from is not None:
        table.loc[hour >= changed_from, "load"] = 1000 - 30 * table.loc[hour >= changed_from, "load"]
    return table


def run_config(csv: Path, output: Path, pretrained: Path | None, **changes: object) -> RunConfig:
    evaluation = {"refit": "1D", "baselines": ["persistence", "ridge"], "report": False, "keep_forecasts": True}
    data = {"max_gap": "6h", "test_stride": 2, "split": {"mode": "deployment"}}
    values = tiny.recipe(csv, output, pretrained, **tiny.merged({"evaluation": evaluation, "data": data}, changes))
    return validate(values, "test")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("weights") / "checkpoint")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[int | None, RunFolder]:
    """The same run on the plain series and on one whose last 32 hours are another world."""
    folder, found = tmp_path_factory.mktemp("refit"), {}
    for changed in (None, 368):
        series(changed).to_csv(folder / f"{changed}.csv", index=False)
        config = run_config(folder / f"{changed}.csv", folder / str(changed), checkpoint)
        model_class("ttm")(config).fit(output_dir=folder / str(changed))
        found[changed] = RunFolder(folder / str(changed))
    return found


def test_rows_and_costs(runs: dict) -> None:
    run = runs[None]
    assert list(run.metrics["test"]) == [
        *("zero_shot", "fine_tuned", "fine_tuned_refit", "average", "persistence", "ridge", "ridge_refit")
    ]
    moments = pd.date_range("2024-01-14 08:00", periods=4, freq="D")  # 320 hours after the new year
    about = run.read_json("environment.json")["models"]
    for name in ("fine_tuned_refit", "ridge_refit"):
        fits = about[name]["refits"]
        assert [pd.Timestamp(fit["at"]) for fit in fits][:3] == list(moments[:3])
        assert all(fit["seconds"] > 0 for fit in fits)
        assert about[name]["fit_seconds"] == pytest.approx(sum(fit["seconds"] for fit in fits), abs=0.01)
        windows = [fit["train_windows"] for fit in fits]
        assert windows == sorted(set(windows)), "each fit has more to learn from"
    assert windows[0] == run.read_json("manifest.json")["windows"]["train"]


def test_the_first_fit_is_that_of_the_run_and_later_ones_are_not(runs: dict) -> None:
    table = runs[None].read_table("forecasts.parquet")
    early = table["origin"] < table["origin"].min() + pd.Timedelta("1D")
    for name in ("ridge", "fine_tuned"):
        once, again = table[f"forecast/{name}"], table[f"forecast/{name}_refit"]
        assert once[early].tolist() == again[early].tolist()
        assert not np.isclose(once[~early], again[~early]).all()


def test_a_fit_does_not_see_what_lies_behind_its_origin(runs: dict) -> None:
    """Windows with an origin before the other world have forecasts that are the same to the last bit."""
    plain, other = (runs[changed].read_table("forecasts.parquet") for changed in (None, 368))
    change = pd.Timestamp("2024-01-01") + pd.Timedelta(368, "h")
    before = plain["origin"] <= change
    assert before.mean() > 0.4
    assert (plain.loc[before, "origin"].max() - plain["origin"].min()) > pd.Timedelta("44h"), "two fits at least"
    for name in ("ridge_refit", "fine_tuned_refit", "ridge", "fine_tuned"):
        column = f"forecast/{name}"
        assert plain.loc[before, column].tolist() == other.loc[before, column].tolist()
    after = other["origin"] >= change + pd.Timedelta("24h")
    assert not np.isclose(other.loc[after, "forecast/ridge"], other.loc[after, "forecast/ridge_refit"]).all()


def test_the_scoreboard_is_rebuilt_and_evaluation_gives_the_same_rows(runs: dict) -> None:
    run = runs[None]
    assert rebuild(run.path).deviations == ()
    config = run.config_with([f"data.split.allow_overlap={True}"])
    scores = evaluate_models([str(run.path), "ridge"], config).judge.scores
    assert list(scores) == [run.path.name, f"{run.path.name}_refit", "ridge", "ridge_refit"]
    for name, row in (("ridge_refit", "ridge_refit"), ("fine_tuned_refit", f"{run.path.name}_refit")):
        assert scores[row].metrics["rmse"] == pytest.approx(run.metrics["test"][name]["rmse"], rel=1e-6)


def test_of_a_table() -> None:
    table = tiny.series().drop(columns=["dose", "plan"])
    given = {"line": "ridge", "last": "persistence"}
    found = tstune.cross_validation(table, 8, 8, 6, given, context_length=32, refit="12h")
    assert list(found.columns[4:]) == ["line", "line_refit", "last"]
    assert not np.isclose(found["line"], found["line_refit"]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation": {"refit": "monthly"}}, "evaluation.refit='monthly' is not a frequency"),
        ({"data": {"split": {"by": "item", "mode": "auto"}}}, "has no before; set evaluation.refit=none"),
    ],
)
def test_refused_before_anything_is_trained(changes: dict, words: str, checkpoint: Path, tmp_path: Path) -> None:
    table = tiny.series(items=("a", "b", "c"))
    table.to_csv(tmp_path / "series.csv", index=False)
    config = run_config(tmp_path / "series.csv", tmp_path / "run", checkpoint, **changes)
    with pytest.raises(ConfigError, match=words), FineTuning(model_class("ttm")(config)) as run:
        run.prepare()
    assert not (tmp_path / "run").exists()
