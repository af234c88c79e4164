"""A saved model fills the competition's sample submission: every row, in order, in mmol/L, from six hours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kaggle_files
import numpy as np
import pandas as pd
import pytest
import torch
from kaggle_files import Person

import make_kaggle_submission
from tstune import TTMConfig, TTMForecaster
from tstune.config.schema import RunConfig
from tstune.data.preprocess import Preprocessor
from tstune.data.sources.kaggle_brist1d import convert_file
from tstune.data.sources.kaggle_brist1d_submission import Contexts, build_contexts
from tstune.data.table import Roles
from tstune.errors import DataError
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.registry import load_model, model_class
from tstune.registry import open_registry
from tstune.runtime.logs import logger

CONTEXT, PREDICTION = 96, 24
PEOPLE = (Person("p01", 900, 3, 70, seed=21), Person("p02", 900, 1, 10, seed=22))
UNSEEN = (Person("p15", 0, 1, 40, seed=24),)
TINY = {
    "pretrained": None, "context_length": CONTEXT, "prediction_length": PREDICTION, "patch_length": 8, "d_model": 8,
    "num_layers": 1, "adaptive_patching_levels": 1, "decoder_num_layers": 1, "decoder_d_model": 8,
    "max_steps": 3, "per_device_batch_size": 16, "baselines": [], "num_plots": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that TSTUNE_DATA may name, with the competition's files; some rows of test.csv lack readings."""
    folder = tmp_path_factory.mktemp("place")
    kaggle_files.write_folder(folder / "kaggle_brisT1D", PEOPLE, UNSEEN)
    table = pd.read_csv(folder / "kaggle_brisT1D" / "test.csv", low_memory=False)
    glucose = [f"bg{lag}" for lag in kaggle_files.LAGS]
    seen = table.index[table["p_num"] == "p02"]
    table.loc[seen[0], glucose] = np.nan  # no reading at all
    table.loc[seen[1], glucose[-5:]] = np.nan  # the last reading is 25 minutes old
    table.loc[seen[2], glucose[-40:]] = np.nan  # 3 h 20 min old
    table.loc[seen[3], glucose[:-1]] = np.nan  # one reading, a fresh one
    table.to_csv(folder / "kaggle_brisT1D" / "test.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def files(place: Path) -> Path:
    return place / "kaggle_brisT1D"


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A tiny TTM, tuned on the competition's people by the name of the source alone."""
    options = {"conditional_columns": ["insulin", "carbs"], "split_mode": "deployment"}
    model = TTMForecaster(TTMConfig(**TINY, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSTUNE_DATA", str(place))
        results = model.fit(train_data="kaggle_brisT1D", output_dir=str(place / "run"))
    assert np.isfinite(results["metrics"]["fine_tuned"]["rmse"])
    return place / "run"


@pytest.fixture(scope="module")
def preprocessor(run: Path) -> Preprocessor:
    found = load_model(run).preprocessor
    assert found.roles == Roles(("bg",), ("insulin", "carbs"))
    assert (found.unit, found.frequency, found.max_gap) == ("mmol/L", "5min", "45min")
    return found


def glucose_only(preprocessor: Preprocessor, **changes: object) -> Preprocessor:
    scaler = replace(preprocessor.scaler, mean=preprocessor.scaler.mean[:1], std=preprocessor.scaler.std[:1])
    return replace(preprocessor, roles=Roles(("bg",)), scaler=scaler, **changes)


def saved(kind: str, folder: Path, preprocessor: Preprocessor, context: int = CONTEXT, ahead: int = PREDICTION) -> Path:
    """A baseline as a run folder."""
    config = RunConfig(model={"context_length": context, "prediction_length": ahead})
    model: BaseTimeSeriesFoundationModel = model_class(kind)(config)
    model.build(preprocessor)
    model.save(folder)
    return folder


def submit(model: Path | str, files: Path, output: Path, *more: str) -> int:
    arguments = ["--model", str(model), "--input", str(files), "--output", str(output), *more]
    return make_kaggle_submission.main(arguments)


def submitted(model: Path, files: Path, folder: Path, *more: str) -> pd.Series:
    assert submit(model, files, folder / "submission.csv", *more) == 0
    table = pd.read_csv(folder / "submission.csv")
    assert list(table.columns) == ["id", "bg+1:00"]
    return table.set_index("id")["bg+1:00"]


def wide(files: Path) -> pd.DataFrame:
    return pd.read_csv(files / "test.csv", low_memory=False).set_index("id")


def readings(files: Path) -> pd.DataFrame:
    """[rows, lags] glucose of test.csv by id."""
    return wide(files)[[f"bg{lag}" for lag in kaggle_files.LAGS]]


def test_every_row_of_the_sample_is_answered_in_its_order(run: Path, files: Path, tmp_path: Path, capsys):
    answer = submitted(run, files, tmp_path)
    assert list(answer.index) == list(pd.read_csv(files / "sample_submission.csv")["id"])
    assert len(answer) == 18
    assert np.isfinite(answer).all()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"18 rows of 3 participants: {tmp_path / 'submission.csv'}"
    assert printed[1].endswith("is forecast: 2 rows")
    assert printed[2].endswith("mean is given: 1 rows")
    assert [path.name for path in tmp_path.iterdir()] == ["submission.csv"]
    assert any(name.startswith("p15_") for name in answer.index), "people who were not in train.csv"


def test_a_forecast_is_that_of_the_model(run: Path, files: Path, tmp_path: Path):
    """A row without a gap, put behind 24 masked steps by hand: the twelfth step of the model's forecast."""
    model, raw = load_model(run), wide(files)
    answer = submitted(run, files, tmp_path)
    whole = [name for name in answer.index if name.startswith("p15_")]
    assert len(whole) == 6
    for name in whole:
        values, usable = np.zeros((1, CONTEXT, 3), np.float32), np.zeros((1, CONTEXT, 3), bool)
        for channel, column in enumerate(("bg", "insulin", "carbs")):
            cells = raw.loc[name, [f"{column}{lag}" for lag in kaggle_files.LAGS]].to_numpy(np.float64)
            values[0, 24:, channel] = np.nan_to_num(cells)  # an empty cell of carbs is 0 g
            usable[0, 24:, channel] = True
        assert usable.sum() == 3 * 72
        batch = {
            "past_values": torch.from_numpy(values),
            "past_observed_mask": torch.from_numpy(usable),
            "future_values": torch.zeros(1, PREDICTION, 3),
            "item": torch.zeros(1, dtype=torch.int64),
        }
        with torch.inference_mode():
            assert answer[name] == pytest.approx(float(model.forecast(batch)[0, 11, 0]), abs=2e-4)


def test_a_model_from_the_registry_answers_the_same(run: Path, files: Path, tmp_path: Path):
    registry = open_registry(tmp_path / "registry")
    version = registry.register(run, "cgm")
    expected = submitted(run, files, tmp_path)
    reference = f"registry:cgm:{version.version}"
    assert submit(reference, files, tmp_path / "other.csv", "--registry", str(tmp_path / "registry")) == 0
    assert pd.read_csv(tmp_path / "other.csv")["bg+1:00"].tolist() == expected.tolist()


@pytest.mark.parametrize(("context", "ahead"), [(512, 96), (72, 12), (24, 12)])
def test_persistence_gives_the_last_reading(
    context: int, ahead: int, files: Path, preprocessor: Preprocessor, tmp_path: Path
):
    model = saved("persistence", tmp_path / "model", glucose_only(preprocessor), context, ahead)
    answer, given = submitted(model, files, tmp_path), readings(files)
    last = given.ffill(axis=1).iloc[:, -1]
    blind = last.index[last.isna()]
    assert len(blind) == 1
    mean = given[given.index.str.startswith("p02_")].stack().mean()
    assert answer[blind[0]] == pytest.approx(mean, abs=1e-4)
    if context == 24:  # a reading from before the context cannot be held in it
        old = given.index[given.iloc[:, -40:].isna().all(axis=1) & last.notna()]
        last = last.drop(old)
        assert len(old) == 1
    expected = last.drop(blind)
    np.testing.assert_allclose(answer[expected.index], expected, atol=1e-4)


def test_a_model_in_mg_dl_answers_in_mmol(files: Path, preprocessor: Preprocessor, tmp_path: Path):
    plain = glucose_only(preprocessor)
    model = saved("persistence", tmp_path / "model", plain)
    factor = 18.016
    scaler = replace(plain.scaler, mean=plain.scaler.mean * factor, std=plain.scaler.std * factor)
    other = replace(plain, roles=Roles(("sugar",)), unit="mg/dl", scaler=scaler)  # a target alone may have any name
    expected = submitted(model, files, tmp_path)
    converted = saved("persistence", tmp_path / "converted", other)
    np.testing.assert_allclose(submitted(converted, files, tmp_path, "--overwrite"), expected, atol=1e-4)
    unknown = saved("persistence", tmp_path / "unknown", replace(other, unit=None))
    answer = submitted(unknown, files, tmp_path, "--overwrite", "--unit", "mg/dL")
    np.testing.assert_allclose(answer, expected, atol=1e-4)


def contexts_of(
    files: Path,
    preprocessor: Preprocessor,
    context: int = CONTEXT,
    ahead: int = PREDICTION,
    change: Callable[[pd.DataFrame], None] | None = None,
) -> tuple[Contexts, dict[str, int]]:
    if change is not None:
        raw = pd.read_csv(files / "test.csv", low_memory=False)
        change(raw)
        files = files.parent / "changed"
        files.mkdir(exist_ok=True)
        raw.to_csv(files / "test.csv", index=False)
    table, _ = convert_file(files / "test.csv", "test")
    contexts = build_contexts(table, preprocessor, context, ahead, 1.0)
    return contexts, {name: place for place, name in enumerate(contexts.row_ids)}


def test_a_context_ends_with_the_last_reading_and_the_forecast_goes_further(files: Path, preprocessor: Preprocessor):
    contexts, place = contexts_of(files, glucose_only(preprocessor), 512, 96)
    given = readings(files)
    assert contexts.values.shape == (17, 512, 1)
    assert contexts.num_stale == 2
    steps = []
    for name, row in given.iterrows():
        if row.notna().any():
            last = int(np.flatnonzero(row.notna())[-1])
            first = int(np.flatnonzero(row.notna())[0])
            k = place[name]
            assert contexts.steps_ahead[k] == 12 + 71 - last
            assert contexts.values[k, -1, 0] == pytest.approx(row.iloc[last])
            assert contexts.usable[k, -1, 0]
            assert contexts.usable[k, :, 0].sum() == last - first + 1, (
                "gaps of ten minutes are filled, what is before not"
            )
            assert not contexts.usable[k, : 512 - (last - first + 1)].any()
            seen = np.flatnonzero(row.notna())
            np.testing.assert_allclose(contexts.values[k, seen - last - 1, 0], row.to_numpy()[seen], rtol=1e-6)
            steps.append(int(contexts.steps_ahead[k]))
    assert sorted(steps) == [12] * 15 + [17, 52]


def test_a_forecast_of_one_hour_holds_the_last_reading(files: Path, preprocessor: Preprocessor):
    contexts, place = contexts_of(files, glucose_only(preprocessor), 72, 12)
    assert (contexts.steps_ahead == 12).all()
    given = readings(files)
    old = given.index[given.iloc[:, -5:].isna().all(axis=1) & given.iloc[:, -6].notna()][0]
    k = place[old]
    assert (contexts.values[k, -5:, 0] == contexts.values[k, -6, 0]).all()
    assert contexts.usable[k, -6:, 0].all()
    older = given.index[given.iloc[:, -40:].isna().all(axis=1) & given.iloc[:, -41].notna()][0]
    k = place[older]
    assert contexts.usable[k, 31 : 32 + 9, 0].all(), "45 minutes"
    assert not contexts.usable[k, 32 + 9 :, 0].any()


def test_a_model_of_fifteen_minutes_reads_the_rows_too(files: Path, preprocessor: Preprocessor, tmp_path: Path):
    slow = glucose_only(preprocessor, frequency="15min")
    contexts, place = contexts_of(files, slow, 32, 8)
    given = readings(files)
    names = [name for name in given.index if name.startswith("p01_")]
    for name in names:
        row = given.loc[name].to_numpy()
        seen = np.flatnonzero(~np.isnan(row))
        k = place[name]
        assert len(seen) == contexts.usable[k].sum() == 24
        np.testing.assert_allclose(contexts.values[k, -24:, 0], row[seen], rtol=1e-6)
        assert contexts.steps_ahead[k] == pytest.approx((12 + 71 - seen[-1]) / 3)
    model = saved("persistence", tmp_path / "model", slow, 32, 8)
    answer = submitted(model, files, tmp_path)
    np.testing.assert_allclose(answer[names], given.loc[names].ffill(axis=1).iloc[:, -1], atol=1e-4)


def spoil(raw: pd.DataFrame) -> None:
    """A reading that cannot be, far from the end of a row without gaps."""
    raw.loc[raw["id"].str.startswith("p15_"), "bg-1:00"] = 60.0


def test_rows_are_cleaned_like_the_training_data(files: Path, preprocessor: Preprocessor):
    plain = glucose_only(preprocessor)
    assert plain.cleaning.out_of_range == "keep"
    before, place = contexts_of(files, plain)
    kept, _ = contexts_of(files, plain, change=spoil)
    dropped, _ = contexts_of(files, replace(plain, cleaning=replace(plain.cleaning, out_of_range="drop")), change=spoil)
    rows = [k for name, k in place.items() if name.startswith("p15_")]
    assert (kept.values[rows, -13, 0] == 60).all()
    neighbours = (before.values[rows, -14, 0] + before.values[rows, -12, 0]) / 2
    np.testing.assert_allclose(dropped.values[rows, -13, 0], neighbours, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(dropped.values, 83, axis=1), np.delete(before.values, 83, axis=1))


def test_a_model_of_whole_contexts_is_told_so(run: Path, files: Path, tmp_path: Path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)  # setup_logging turns it off
    monkeypatch.setattr("tstune.runtime.logs.setup_logging", lambda: None)
    submitted(run, files, tmp_path)
    assert "trained on whole contexts of 96 steps, a row of test.csv shows 72 at most" in caplog.text
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (other / "config.yaml").read_text(encoding="utf-8")
    assert "  context_dropping: 0.0" in config
    (other / "config.yaml").write_text(config.replace("context_dropping: 0.0", "context_dropping: 0.5"))
    (other / "checksums.json").unlink()
    caplog.clear()
    submitted(other, files, tmp_path, "--overwrite")
    assert "whole contexts" not in caplog.text


def test_a_dose_that_is_not_known_is_masked(files: Path, preprocessor: Preprocessor):
    """Insulin is not half of its neighbours; a model of older days, which drew lines, goes on drawing them."""

    def forget(raw: pd.DataFrame) -> None:
        raw["insulin-0:30"] = np.nan

    assert dict(preprocessor.fill) == {"insulin": "none", "carbs": "none"}
    masked, place = contexts_of(files, preprocessor, change=forget)
    drawn, _ = contexts_of(files, replace(preprocessor, fill={}), change=forget)
    rows = [k for name, k in place.items() if name.startswith("p15_")]
    assert not masked.usable[rows, -7, 1].any()
    assert masked.usable[rows, -6, 1].all()
    assert drawn.usable[rows, -7, 1].all()


def test_a_model_that_converts_reads_mmol(files: Path, preprocessor: Preprocessor):
    plain = glucose_only(preprocessor)
    before, _ = contexts_of(files, plain)
    factor = 18.0156
    rules = replace(plain.cleaning, convert_to="mg/dL", timezone="Europe/London")
    table, _ = convert_file(files / "test.csv", "test")
    converting = replace(plain, cleaning=rules, unit="mg/dL")
    contexts = build_contexts(table, converting, CONTEXT, PREDICTION, factor)
    np.testing.assert_allclose(contexts.values, before.values * factor, rtol=1e-5)
    np.testing.assert_array_equal(contexts.steps_ahead, before.steps_ahead)


def test_the_hour_of_the_row_is_known(files: Path, preprocessor: Preprocessor):
    roles = Roles(("bg",), time_features=("hour_of_day",))
    contexts, place = contexts_of(files, replace(glucose_only(preprocessor), roles=roles))
    raw = wide(files)
    for name in (name for name in place if name.startswith("p15_")):
        hours = pd.Timedelta(raw.loc[name, "time"]).total_seconds() / 3600 + np.arange(1, PREDICTION + 1) / 12
        angle = 2 * np.pi * hours / 24
        found = contexts.known[place[name]]
        np.testing.assert_allclose(found, np.stack([0 * angle, np.sin(angle), np.cos(angle)], axis=1), atol=1e-5)
        before = 2 * np.pi * (hours[0] - 1 / 12) / 24
        np.testing.assert_allclose(contexts.values[place[name], -1, 1:], [np.sin(before), np.cos(before)], atol=1e-5)


# What cannot be submitted

CHANGES = {
    "no unit": ({"unit": None}, "does not know the unit of its target; say --unit"),
    "another unit": ({"unit": "km"}, "'km' is no unit of glucose"),
    "a channel": ({"roles": Roles(("bg",), ("dist",))}, "the model's channel 'dist' is not in test.csv"),
    "the future": ({"roles": Roles(("bg",), (), ("plan",))}, "needs 'plan' in the future"),
    "another target": ({"roles": Roles(("hr",))}, "forecasts hr, the competition asks for bg"),
    "a static": ({"roles": Roles(("bg",), static_real=("age",))}, "needs the static column 'age'"),
    "a date": ({"roles": Roles(("bg",), time_features=("day_of_week",))}, "but test.csv has no dates"),
    "daily": ({"frequency": "D", "max_gap": 0}, "the model's step is D"),
    "short": ({}, "the model forecasts 11 steps of 5min, the competition asks for one hour", 72, 11),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_does_not_fit(name: str, files: Path, preprocessor: Preprocessor, tmp_path: Path, capsys):
    changes, complaint, *lengths = CHANGES[name]
    other = replace(glucose_only(preprocessor), **changes)
    size = len(other.roles.channels)
    scaler = replace(other.scaler, mean=np.resize(other.scaler.mean, size), std=np.resize(other.scaler.std, size))
    model = saved("persistence", tmp_path / "model", replace(other, scaler=scaler), *lengths)
    assert submit(model, files, tmp_path / "submission.csv") == 2
    assert_one_line(capsys.readouterr().err, complaint)
    assert not (tmp_path / "submission.csv").exists()


FILES = {
    "no test.csv": ("test.csv", None, "holds no test.csv; accept the rules at kaggle.com"),
    "no sample": ("sample_submission.csv", None, "holds no sample_submission.csv"),
    "sample without rows": ("sample_submission.csv", "id,bg+1:00\n", "sample_submission.csv has no rows"),
    "sample without a column": ("sample_submission.csv", "id,bg\np01_0,1\n", "no column 'bg+1:00'"),
    "a row that is not there": ("sample_submission.csv", "id,bg+1:00\np77_0,1\n", "'p77_0' is not in"),
    "a row twice": ("sample_submission.csv", "id,bg+1:00\np77_0,1\np77_0,1\n", "row 3: id 'p77_0' occurs twice"),
    "a row without id": ("sample_submission.csv", "id,bg+1:00\n,1\n", "row 2: id '' is empty"),
    "test without a column": ("test.csv", "id,p_num,time\n", "test.csv: no column 'bg-5:55'"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_fit(name: str, run: Path, files: Path, tmp_path: Path, capsys):
    file, content, complaint = FILES[name]
    folder = shutil.copytree(files, tmp_path / "files")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content, encoding="utf-8")
    assert submit(run, folder, tmp_path / "submission.csv") == 2
    assert_one_line(capsys.readouterr().err, complaint)
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("taken.csv", "taken.csv exists; add --overwrite"),
        ("a.parquet", "takes a .csv file"),
        ("none/a.csv", "does not exist"),
        ("a.csv", "is not a run folder"),
    ],
)
def test_outputs_that_do_not_fit_and_a_folder_that_is_no_model(
    output: str, complaint: str, run: Path, files: Path, tmp_path: Path, capsys
):
    (tmp_path / "taken.csv").write_text("mine")
    model = tmp_path if output == "a.csv" else run
    assert submit(model, files, tmp_path / output) == 2
    assert_one_line(capsys.readouterr().err, complaint)
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_no_glucose_at_all(preprocessor: Preprocessor, files: Path):
    table, _ = convert_file(files / "test.csv", "test")
    empty = table.set_column(table.column_names.index("bg"), "bg", [[None] * len(table)]).cast(table.schema)
    with pytest.raises(DataError, match=r"test\.csv holds no glucose at all"):
        build_contexts(empty, glucose_only(preprocessor), CONTEXT, PREDICTION, 1.0)


def assert_one_line(errors: str, complaint: str) -> None:
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert complaint in line


# A model that knows the answers


@pytest.fixture(scope="module")
def open_run(place: Path) -> Path:
    """A model trained on long series that hold the six hours of some rows of test.csv, and what came after."""
    frames = []
    for number, person in ((1, PEOPLE[1]), (2, UNSEEN[0])):
        later = kaggle_files.simulate(Person(person.name, 84 * 8, 1, person.clock, 1000 + number))
        stamps = pd.date_range("2023-10-01", periods=84 * 8, freq="5min")
        frames.append(pd.DataFrame({"who": person.name.upper(), "timestamp": stamps, "glucose": later.values[0]}))
    pd.concat(frames).to_csv(place / "open.csv", index=False)
    options = {"item_id_column": "who", "target_columns": ["glucose"], "unit": "mmol/L", "split_mode": "deployment"}
    model = TTMForecaster(TTMConfig(**TINY, data_source="csv", data_path=str(place / "open.csv"), **options))
    model.fit(output_dir=str(place / "open_run"))
    return place / "open_run"


def test_a_model_that_was_trained_on_the_answers_is_refused(open_run: Path, files: Path, tmp_path: Path, capsys):
    assert submit(open_run, files, tmp_path / "submission.csv") == 2
    errors = capsys.readouterr().err
    assert_one_line(errors, f"leak trained_on: --model {open_run} was trained on readings of test: series 'p")
    assert_one_line(errors, "take a model that has not seen test.csv, or add --allow-overlap")
    assert not (tmp_path / "submission.csv").exists()
    assert len(submitted(open_run, files, tmp_path, "--allow-overlap")) == 18


# Real rows


@pytest.mark.shared
@pytest.mark.parametrize(("split", "refused"), [({}, True), ({"split_preset": "brist1d"}, False)])
def test_open_data_after_august_knows_the_answers(split: dict, refused: bool, shared: Path, tmp_path: Path, capsys):
    options = {"data_source": "brist1d_open", "data_path": str(shared / "data" / "brist1d_open"), "train_stride": 96}
    people = {"participants": ["P04", "P15"]}
    model = TTMForecaster(TTMConfig(**TINY, **options, source_options=people, split_mode="deployment", **split))
    model.fit(output_dir=str(tmp_path / "run"))
    answer = submit(tmp_path / "run", shared / "data" / "kaggle_brisT1D_sample", tmp_path / "submission.csv")
    errors = capsys.readouterr().err
    assert answer == (2 if refused else 0)
    if refused:
        assert_one_line(errors, "was trained on readings of test: series 'p04'")
        assert "'P04' of brist1d_open" in errors


@pytest.mark.shared
def test_the_sample_is_submitted(shared: Path, preprocessor: Preprocessor, tmp_path: Path):
    files = shared / "data" / "kaggle_brisT1D_sample"
    model = TTMForecaster(TTMConfig(**TINY, data_path=str(files), split_mode="deployment", train_stride=4))
    model.fit(train_data="kaggle_brisT1D", output_dir=str(tmp_path / "run"))
    answer = submitted(tmp_path / "run", files, tmp_path)
    assert list(answer.index) == list(pd.read_csv(files / "sample_submission.csv")["id"])
    assert len(answer) == len(pd.read_csv(files / "test.csv")) == 90
    assert answer.between(0, 40).all()
    last = readings(files).ffill(axis=1).iloc[:, -1]
    plain = saved("persistence", tmp_path / "plain", glucose_only(preprocessor))
    held = submitted(plain, files, tmp_path, "--overwrite")
    np.testing.assert_allclose(held, last[held.index], atol=1e-4)
