"""Weights that were trained on what they are to be judged on are refused, by readings and by name."""

from __future__ import annotations

import base64
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.series import CONTEXT, PREDICTION, people, person, prepare, table, with_gaps
from support import tiny

from tstune import TTMConfig, TTMForecaster
from tstune.config.schema import DataSection, SplitSection
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.data.trained_on import refuse_trained_on
from tstune.errors import CheckpointError, LeakError

LATE = SplitSection(train=0.2, validation=0.1, test=0.7)
MakeRun = Callable[[PreparedData], str]


@pytest.fixture
def run_on(tmp_path: Path) -> MakeRun:
    """The weights folder of a run on this data, with the manifest that lies beside it."""

    def make(data: PreparedData, name: str = "run") -> str:
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps(data.manifest))
        return str(tmp_path / name / "model")

    return make


def kaggle_like(series: dict[str, np.ndarray], names: list[str], days: int = 900) -> SourceTable:
    """The same people as a competition shows them: p01 for P01, mmol/L, another year, off the grid by two minutes."""
    shown = {name.lower(): np.round(series[name] / 18, 1) for name in names}
    frame = table(shown, unit="mmol/L").frame
    shift = pd.Timedelta(days=days, minutes=2)
    source = table({"x": person(0, 10)}, unit="mmol/L")
    return SourceTable(frame.assign(timestamp=frame[TIMESTAMP] - shift), source.roles, "5min", "45min", "mmol/L")


def refused(data: PreparedData, weights: str) -> str:
    with pytest.raises(LeakError) as caught:
        refuse_trained_on(data, weights, allow_overlap=False)
    assert caught.value.check == "trained_on"
    return str(caught.value)


def clean(data: PreparedData, weights: str) -> dict:
    return refuse_trained_on(data, weights, allow_overlap=False).manifest["weights"]


# By readings


def test_the_same_split_again_and_other_people_are_clean(run_on: MakeRun):
    data = prepare(people(3))
    weights = run_on(data)
    assert clean(data, weights)["overlap"] == []
    assert clean(prepare(people(4, first_seed=100)), weights)["overlap"] == []
    assert clean(prepare(people(3), {"mode": "deployment"}), weights)["overlap"] == []
    assert clean(prepare(people(3), {"purge": "2h"}), weights)["overlap"] == []


def test_an_earlier_border_is_refused(run_on: MakeRun):
    weights = run_on(prepare(people(3)))
    text = refused(prepare(people(3), {"train": 0.5, "validation": 0.1, "test": 0.4}), weights)
    assert f"model.pretrained={weights} was trained on readings of validation: series 'P01' (2023-06-0" in text
    assert "is 'P01' of cgm_sample (2023-06-01T00:00:00 to 2023-06-04T15:25:00)" in text
    assert "take other weights, score other readings, or set data.split.allow_overlap=true" in text


def test_the_kaggle_trap(run_on: MakeRun):
    """Trained on the open data (mmol/L x 18), judged on the competition: other names, another unit, other times."""
    series = {name: np.round(values / 18, 1) * 18 for name, values in people(5).items()}
    weights = run_on(prepare(series))
    shown = prepare(kaggle_like(series, ["P02", "P04"]), {"train": 0.3, "validation": 0.1, "test": 0.6})
    assert "more such findings" in refused(shown, weights)
    found = refuse_trained_on(shown, weights, allow_overlap=True).manifest["weights"]["overlap"]
    for name in ("P02", "P04"):
        words = f"trained on readings of test: series {name.lower()!r} (2020-12"
        (finding,) = [text for text in found if words in text]
        assert f"is {name!r} of " in finding
    late = {"borders_at": ["2023-06-01", "2023-06-02", None]}
    strangers = prepare(
        kaggle_like(people(2, first_seed=50), ["P01", "P02"]), {"train": 0.3, "validation": 0.1, "test": 0.6}
    )
    assert clean(strangers, weights)["overlap"] == []
    assert "trained on" in refused(prepare(series, late), weights)


def test_the_kaggle_trap_with_the_real_files(shared: Path, run_on: MakeRun):
    """P01, P04 and P11 of BrisT1D-Open are p01, p04 and p11 of the competition, which gives neither dates nor names."""
    open_data = {
        "source": "csv",
        "path": str(shared / "data/brist1d_open/P*.csv.gz"),
        "target_columns": ["glucose_value_mg_dl"],
        "unit": "mg/dL",
        "frequency": "5min",
        "max_gap": "45min",
        "on_duplicate": "mean",
    }
    weights = run_on(prepare_data(DataSection(**open_data), 512, 96))
    competition = DataSection(source="kaggle_brisT1D", path=str(shared / "data/kaggle_brisT1D_sample"))
    shown = prepare_data(competition.model_copy(update={"split": LATE}), 72, 12)
    assert shown.manifest["unit"] == "mmol/L"
    assert "was trained on readings of" in refused(shown, weights)
    found = refuse_trained_on(shown, weights, allow_overlap=True).manifest["weights"]["overlap"]
    told = {(text.split("'")[1], text.split("'")[3]) for text in found if "trained on readings of test" in text}
    assert told == {("p01", "P01"), ("p04", "P04"), ("p11", "P11")}


@pytest.mark.parametrize("change", ["rounded", "gaps", "quarter of a day later", "trimmed"])
def test_changed_copies_are_told_again(run_on: MakeRun, change: str):
    series = people(3, steps=3000)
    weights = run_on(prepare(series))
    values = series["P03"]
    copy = {
        "rounded": np.round(values),
        "gaps": with_gaps(values, seed=5, share=0.005),
        "quarter of a day later": np.concatenate([person(77, 72), values]),
        "trimmed": values[1000:],
    }[change]
    strangers = {"other": person(99, 3000), "third": person(98, 3000)}
    text = refused(prepare({"someone": copy} | strangers, {"by": "item", "test_items": ["someone"]}), weights)
    assert "readings of test: series 'someone'" in text
    assert "is 'P03' of" in text


def test_held_out_people_may_be_tested_and_others_not(run_on: MakeRun):
    folds = [prepare(people(6), {"by": "item", "folds": 3, "fold": fold}) for fold in range(3)]
    weights = run_on(folds[0])
    assert clean(folds[0], weights)["overlap"] == []
    assert "was trained on readings of test" in refused(folds[2], weights)


def test_what_chose_the_weights_must_not_be_tested(run_on: MakeRun):
    weights = run_on(prepare(people(3)))
    assert clean(prepare(people(3), {"train": 0.7, "validation": 0.1, "test": 0.2}), weights)["overlap"] == []
    text = refused(prepare(people(3), {"train": 0.7, "validation": 0.03, "test": 0.27}), weights)
    assert "was chosen by readings of test" in text


def test_a_few_shot_run_has_seen_its_share_only(run_on: MakeRun):
    weights = run_on(prepare(people(2, steps=4000), train_fraction=0.1))
    split = {"train": 0.1, "validation": 0.1, "test": 0.45}
    data = prepare(people(2, steps=4000), split)
    assert clean(data, weights)["overlap"] == []
    whole = run_on(prepare(people(2, steps=4000)), "whole")
    assert "was trained on readings of" in refused(data, whole)


def test_weights_of_weights_are_remembered(run_on: MakeRun):
    """First on P01 to P03, then on others: the first people are still not to be tested."""
    series = people(6)
    first, others = ({name: series[name] for name in list(series)[half]} for half in (slice(3), slice(3, 6)))
    grandparent = run_on(prepare(first), "grandparent")
    second = refuse_trained_on(prepare(others), grandparent, allow_overlap=False)
    parent = run_on(second, "parent")
    assert len(second.manifest["weights"]["trained_on"]) == 1
    text = refused(prepare(first, {"by": "item"}), parent)
    assert "was trained on readings of" in text
    third = refuse_trained_on(prepare(people(3, first_seed=200)), parent, allow_overlap=False)
    assert len(third.manifest["weights"]["trained_on"]) == 2


def test_an_allowed_overlap_is_recorded_and_said(run_on: MakeRun, caplog: pytest.LogCaptureFixture):
    weights = run_on(prepare(people(2)))
    data = prepare(people(2), {"train": 0.5, "validation": 0.1, "test": 0.4, "allow_overlap": True})
    with caplog.at_level(logging.WARNING):
        found = refuse_trained_on(data, weights, allow_overlap=True).manifest["weights"]
    assert "was trained on readings of validation" in found["overlap"][0]
    assert "data.split.allow_overlap: model.pretrained=" in caplog.text
    assert "weights" not in data.manifest, "the data that was handed in is left as it was"


# By file and name


def test_the_same_file_on_another_grid_is_refused_by_name_and_time(run_on: MakeRun, tmp_path: Path):
    """Averages of three readings are other numbers, and too flat a signal has no fingerprint."""
    path = tmp_path / "people.csv"
    table(people(2)).frame.to_csv(path, index=False)
    section = {"source": "csv", "path": str(path), "item_id_column": ITEM, "target_columns": ["glucose"]}
    section["unit"] = "mg/dL"

    def prepared(split: dict, **more: object) -> PreparedData:
        return prepare_data(DataSection(**section, **more, split=split), CONTEXT, PREDICTION)

    weights = run_on(prepared({}))
    coarse = {"frequency": "15min", "max_gap": 0}
    assert clean(prepared({}, **coarse), weights)["overlap"] == []
    text = refused(prepared({"train": 0.4, "validation": 0.2, "test": 0.4}, **coarse), weights)
    assert "was trained on 'P01' from 2023-06-01T00:00:00 to 2023-06-04T15:25:00, and validation lies from" in text
    assert "in the same file" in text
    (tmp_path / "other.csv").write_bytes(path.read_bytes() + b"P01,2024-01-01 00:00:00,100\n")
    section["path"] = str(tmp_path / "other.csv")
    other_file = prepared({"train": 0.4, "validation": 0.2, "test": 0.4}, **coarse)
    assert clean(other_file, weights)["overlap"] == [], "another file may hold another P01"


# What lies beside the weights


def test_the_record_is_small_and_holds_no_reading():
    series = people(3, steps=20_000)
    manifest = prepare(series).manifest
    record = manifest["trained_on"]
    assert len(json.dumps(record)) < 60_000
    assert [row["item_id"] for row in record["series"]] == ["P01", "P02", "P03"]
    span = record["series"][0]["train"]
    assert (span["from"], span["to"]) == ("2023-06-01T00:00:00", "2023-07-19T14:35:00")
    assert set(record["series"][0]) == {"item_id", "channel", "level", "train", "validation"}
    texts = [row[part]["hashes"] for row in record["series"] for part in ("train", "validation")]
    kept = sum(len(base64.b64decode(text)) // 4 for text in texts)
    assert 2000 < kept <= 8192


def test_held_out_people_are_not_in_the_record():
    data = prepare(people(5), {"by": "item", "test_items": ["P02"], "validation_items": ["P05"]})
    rows = {row["item_id"]: row for row in data.manifest["trained_on"]["series"]}
    assert sorted(rows) == ["P01", "P03", "P04", "P05"]
    assert rows["P05"]["train"] is None
    assert rows["P01"]["validation"] is None


@pytest.mark.parametrize("pretrained", [None, "builtin", "ibm-granite/granite-timeseries-ttm-r2", "folder"])
def test_weights_without_a_manifest_are_taken(pretrained: str | None, tmp_path: Path):
    if pretrained == "folder":
        pretrained = str(tmp_path)
    data = prepare(people(1))
    assert refuse_trained_on(data, pretrained, allow_overlap=False) is data


def test_weights_of_generated_series_are_clean(run_on: MakeRun, caplog: pytest.LogCaptureFixture):
    data = prepare(people(1))
    weights = run_on(data)
    (Path(weights).parent / "manifest.json").write_text('{"source": "synthetic", "seed": 42}')
    assert clean(data, weights) == {"pretrained": weights, "overlap": [], "trained_on": []}
    assert caplog.text == ""


def test_a_manifest_of_an_earlier_version_is_said_to_prove_nothing(run_on: MakeRun, caplog: pytest.LogCaptureFixture):
    data = prepare(people(1))
    weights = run_on(data)
    old = {key: value for key, value in data.manifest.items() if key != "trained_on"}
    (Path(weights).parent / "manifest.json").write_text(json.dumps(old))
    assert clean(data, weights)["trained_on"] == []
    assert "an overlap with this data cannot be ruled out" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_manifest(run_on: MakeRun, text: str):
    data = prepare(people(1))
    weights = run_on(data)
    (Path(weights).parent / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: "):
        refuse_trained_on(data, weights, allow_overlap=False)


# A run after a run


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on two generated series."""
    folder = tmp_path_factory.mktemp("parent")
    forecaster(None, max_steps=2).fit(tiny.series(), output_dir=folder / "run")
    return folder / "run"


def forecaster(pretrained: Path | None, **keywords: object) -> TTMForecaster:
    architecture = {
        name: tiny.ARCHITECTURE[name]
        for name in (
            *("patch_length", "d_model", "num_layers", "adaptive_patching_levels", "gated_attn", "self_attn"),
            *("use_positional_encoding", "decoder_num_layers", "decoder_d_model"),
        )
    }
    return TTMForecaster(
        TTMConfig(
            **({} if pretrained else architecture),
            pretrained=None if pretrained is None else str(pretrained),
            context_length=tiny.CONTEXT,
            prediction_length=tiny.PREDICTION,
            data_source="csv",
            item_id_column="item_id",
            target_columns=["load"],
            horizons=["1h"],
            num_plots=0,
            eval_batch_size=64,
            **({"max_steps": 1, "split_train": 0.6, "split_validation": 0.2} | keywords),
        )
    )


def test_tuning_on_from_a_run(parent: Path, tmp_path: Path):
    """The same borders are clean; earlier ones are refused before anything is trained, and allowed only by name."""
    weights = parent / "model"
    results = forecaster(weights).fit(tiny.series(), output_dir=tmp_path / "child")
    assert results["metrics"]["fine_tuned"]["num_windows"] > 0
    manifest = tiny.read_json(tmp_path / "child" / "manifest.json")
    assert manifest["weights"]["overlap"] == []
    assert len(manifest["weights"]["trained_on"]) == 1
    earlier = {"split_train": 0.3, "split_validation": 0.3, "split_test": 0.4}
    with pytest.raises(LeakError, match="was trained on readings of validation: series 'a'"):
        forecaster(weights, **earlier).fit(tiny.series(), output_dir=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    allowed = forecaster(weights, **earlier, split_allow_overlap=True)
    allowed.fit(tiny.series(), output_dir=tmp_path / "allowed")
    manifest = tiny.read_json(tmp_path / "allowed" / "manifest.json")
    assert "was trained on readings of validation" in manifest["weights"]["overlap"][0]
    assert manifest["split"]["allow_overlap"] is True


def test_prepared_data_is_checked_too(parent: Path):
    model = forecaster(parent / "model", split_train=0.3, split_validation=0.3, split_test=0.4)
    prepared = forecaster(None, split_train=0.3, split_validation=0.3, split_test=0.4).prepare(tiny.series())
    with pytest.raises(LeakError, match="trained_on"):
        model.prepare(prepared)


def test_weights_that_are_thrown_away_are_not_checked(parent: Path):
    model = forecaster(
        parent / "model", split_train=0.3, split_validation=0.3, split_test=0.4, tuning_mode="from_scratch"
    )
    assert "weights" not in model.prepare(tiny.series()).manifest


def test_where_weights_came_from_does_not_make_runs_incomparable(parent: Path, tmp_path: Path):
    from tstune.registry import LocalModelRegistry

    manifest = tiny.read_json(parent / "manifest.json")
    registry = LocalModelRegistry(tmp_path / "registry", timeout=20)
    registry.register(parent, "model")
    weights = {"weights": {"pretrained": "x/model", "overlap": [], "trained_on": []}}
    for name, change in (("tuned_on", weights), ("other", weights | {"windows": {"test": 1}})):
        shutil.copytree(parent, tmp_path / name)
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest | change))
        registry.register(tmp_path / name, "model")
    assert registry.compare("model:1", "model:2").other_data == ()
    assert registry.compare("model:1", "model:3").other_data == ("windows",)
