"""The cache of prepared panels: the same data as in memory, prepared once, whole or not there at all."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.tiny import CONTEXT, PREDICTION, ROWS, series, snapshot

import tstune.data.panel_store as panel_cache
from tstune.config.schema import DataSection, EvaluationSection, RunConfig
from tstune.data.cleaning import CleaningRules
from tstune.data.describe import describe_cohort
from tstune.data.panel import Panel
from tstune.data.panel_store import read_panel, remembered_sha256
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.splits import PARTS
from tstune.errors import ConfigError, DataError, OutputError
from tstune.evaluation.backtest import Backtest, seasonal_scale
from tstune.foreign_files import sha256_of
from tstune.models.registry import model_class
from tstune.runtime.distributed import DistributedManager

SCRIPTS = Path(panel_cache.__file__).parents[2]
SECTION = {"item_id_column": "item_id", "target_columns": ["load"], "conditional_columns": ["dose"], "max_gap": 3}
STREAMED = ("arrow", "csv", "hf_dataset")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables come in several pieces and blocks too."""
    for name in STREAMED:
        monkeypatch.setattr(f"tstune.data.sources.{name}.PIECE_ROWS", 500)
        monkeypatch.setattr(f"tstune.data.sources.{name}.BATCH_ROWS", 150)
    monkeypatch.setattr("tstune.data.panel.BLOCK_ROWS", 97)
    monkeypatch.setattr("tstune.data.scaler._LEAF", 128)


def table() -> pd.DataFrame:
    """Series with gaps, whose names sort in another order than they stand, and one without a reading."""
    frame = series(items=("b", "a", "c10", "c9"))
    gaps = [*range(100, 103), *range(150, 160), *range(700, 720)]
    frame = frame.drop(index=frame.index[gaps])
    empty = frame.head(3).assign(item_id="nobody", load=np.nan)
    return pd.concat([frame, empty], ignore_index=True)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "series.parquet"
    table().to_parquet(path, index=False, row_group_size=300)
    return path


def section(file: Path, cache: Path | None = None, **changes: object) -> DataSection:
    values = {"source": "parquet", "path": str(file), "cache": None if cache is None else str(cache)}
    values["split"] = {"mode": "deployment"}
    return DataSection(**values | SECTION | changes)


def prepare(file: Path, cache: Path | None = None, **changes: object) -> PreparedData:
    return prepare_data(section(file, cache, **changes), CONTEXT, PREDICTION)


def read(config: DataSection) -> Panel:
    return read_panel(config, CleaningRules.from_config(config))[0]


def require_same(mapped: PreparedData, whole: PreparedData) -> None:
    """Everything that a run gets from its data, to the last bit."""
    assert not mapped.panel.values.flags.writeable
    assert whole.panel.values.flags.writeable
    for field in fields(Panel):
        one, other = getattr(mapped.panel, field.name), getattr(whole.panel, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other)
        elif field.name != "known_fingerprint":
            assert one == other, field.name
    assert mapped.panel.known_fingerprint == whole.panel.fingerprint()
    assert json.loads(json.dumps(mapped.manifest)) == json.loads(json.dumps(whole.manifest))
    assert json.dumps(mapped.preprocessor.to_dict()) == json.dumps(whole.preprocessor.to_dict())
    for part in PARTS:
        one, other = (data.windows[part].__getitems__(range(len(data.windows[part]))) for data in (mapped, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert len(one["start"]) > 10
    pd.testing.assert_frame_equal(describe_cohort(mapped), describe_cohort(whole))
    scales = [seasonal_scale(data.panel, data.split, 24) for data in (mapped, whole)]
    np.testing.assert_array_equal(*scales)


def stored(file: Path, cache: Path, **changes: object) -> PreparedData:
    """What is prepared through the cache, which is what is prepared in memory."""
    mapped = prepare(file, cache, **changes)
    require_same(mapped, prepare(file, **changes))
    return mapped


# The same as in memory


@pytest.mark.parametrize("order", ["grouped", "sorted", "shuffled", "parts", "zoned"])
def test_a_mapped_panel_is_the_one_in_memory(order: str, tmp_path: Path):
    frame, path = table(), tmp_path / "series.parquet"
    if order == "sorted":
        frame = frame.sort_values(["item_id", "timestamp"])
    if order == "shuffled":
        frame = frame.sample(frac=1, random_state=1)
    if order == "zoned":
        frame["timestamp"] = frame["timestamp"].dt.tz_localize("Europe/London", nonexistent="shift_forward")
    if order == "parts":  # by month: every series is in several files
        path = tmp_path / "parts"
        path.mkdir()
        for month, part in frame.groupby(frame["timestamp"].dt.day // 8):
            part.to_parquet(path / f"{month}.parquet", index=False)
    else:
        frame.to_parquet(path, index=False)
    mapped = stored(path, tmp_path / "cache")
    stored(path, tmp_path / "cache")  # opened, not prepared
    assert mapped.manifest["items_without_readings"] == ["nobody"]
    assert len(list((tmp_path / "cache").glob("*/values.bin"))) == 1


def test_duplicates_and_a_declared_unit_are_reported_as_in_memory(tmp_path: Path):
    frame = table()
    frame["load"] = frame["load"] * 5 + 5
    frame.loc[frame.index[::200], "load"] = 900.0
    frame.loc[frame.index[5:9], "load"] = 400.0  # b is in the first piece, c9 in the second
    frame.loc[frame.index[-50:-44], "load"] = 400.0
    frame = pd.concat([frame, frame.iloc[[3, 500, 900]]])
    frame.to_parquet(tmp_path / "series.parquet", index=False)
    changes = {"on_duplicate": "mean", "unit": "mg/dL", "convert_to": "mmol/L", "out_of_range": "drop"}
    mapped = stored(tmp_path / "series.parquet", tmp_path / "cache", **changes)
    found = mapped.manifest["cleaning"]
    assert found["duplicate_timestamps"]["count"] == 3
    assert found["out_of_range"]["count"] == 8
    assert (found["at_sensor_limit"]["runs"], found["at_sensor_limit"]["longest_run_minutes"]) == (2, 300)
    assert mapped.preprocessor.unit == "mmol/L"


def test_time_features_and_fills_are_prepared_too(parquet: Path, tmp_path: Path):
    mapped = stored(parquet, tmp_path / "cache", time_features=["hour_of_day"], fill={"dose": "zero"})
    assert mapped.panel.values.shape[1] == 4


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_per_series(kind: str, tmp_path: Path):
    (tmp_path / "people").mkdir()
    for name, own in table().groupby("item_id"):
        if name == "nobody":
            continue
        file, own = tmp_path / "people" / f"{name}.{kind}", own.drop(columns=["item_id", "plan"])
        own.to_csv(file, index=False) if kind == "csv" else own.to_parquet(file, index=False)
    mapped = stored(tmp_path / "people", tmp_path / "cache", item_id_column=None)
    assert mapped.panel.item_ids == ("a", "b", "c10", "c9")


@pytest.mark.parametrize("layout", ["long", "series"])
def test_a_data_set_folder(layout: str, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    frame = series(items=("b", "a", "c10", "c9")).rename(columns={"load": "target"})
    if layout == "long":
        data = datasets.Dataset.from_pandas(frame)
        changes = {"target_columns": ["target"]}
    else:
        rows = [
            {"item_id": name, "start": own["timestamp"].iloc[0], "freq": "H", "target": own["target"].tolist()}
            for name, own in frame.groupby("item_id", sort=False)
        ]
        data = datasets.Dataset.from_list(rows)
        changes = {"target_columns": None, "item_id_column": None, "conditional_columns": []}
    data.save_to_disk(tmp_path / "set")
    mapped = stored(tmp_path / "set", tmp_path / "cache", source="hf_dataset", **changes)
    assert mapped.manifest["notes"]["rows_read"] == (1600 if layout == "long" else 4)


@pytest.mark.parametrize("source", ["csv", "simulated_t1d"])
def test_a_source_that_is_read_at_once_is_stored_too(source: str, tmp_path: Path):
    table().to_csv(tmp_path / "series.csv", index=False)
    changes = {"source": source}
    if source == "simulated_t1d":
        changes |= {"path": None, "item_id_column": None, "target_columns": None, "conditional_columns": []}
        changes |= {"source_options": {"people": 2, "days": 7}}
    stored(tmp_path / "series.csv", tmp_path / "cache", **changes)


def test_static_columns_come_back(tmp_path: Path):
    frame = table()
    frame["device"] = frame["item_id"].map({"a": "x", "b": "y", "c9": "x", "c10": "z", "nobody": "x"})
    frame["age"] = frame["item_id"].str.len() * 10.5
    frame.to_parquet(tmp_path / "series.parquet", index=False)
    changes = {"static_categorical_columns": ["device"], "static_real_columns": ["age"]}
    mapped = stored(tmp_path / "series.parquet", tmp_path / "cache", **changes)
    assert mapped.preprocessor.roles.categories == (("x", "y", "z"),)


def test_scores_are_those_of_the_panel_in_memory(parquet: Path, tmp_path: Path):
    manager, scores = DistributedManager(), []
    for cache in (None, tmp_path / "cache"):
        data = prepare(parquet, cache)
        lengths = {"context_length": CONTEXT, "prediction_length": PREDICTION}
        model = model_class("persistence")(RunConfig(model=lengths))
        model.build(data.preprocessor)
        scores.append(Backtest(data, EvaluationSection(horizons=["1h"]), manager).score(model))
    assert scores[0].metrics == scores[1].metrics
    np.testing.assert_array_equal(scores[0].window_rmse, scores[1].window_rmse)


def test_a_mapped_panel_cannot_be_written_and_warns_of_nothing(parquet: Path, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = prepare(parquet, tmp_path / "cache")
    before = snapshot(tmp_path / "cache")
    for array in (data.panel.values, data.panel.status, data.panel.timestamps):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    batch = data.train.__getitems__(range(20))
    for tensor in batch.values():
        tensor.zero_()
    assert snapshot(tmp_path / "cache") == before


def test_memory_does_not_grow_with_the_panel(tmp_path: Path):
    peaks = {}
    for number in (1, 12, 36):  # the first one imports
        frame = series(items=tuple(f"i{item:03d}" for item in range(number)))
        frame.to_parquet(tmp_path / f"{number}.parquet", index=False, row_group_size=400)
        for cache in (None, tmp_path / "cache"):
            config = section(tmp_path / f"{number}.parquet", cache)
            tracemalloc.start()  # sees what numpy and pandas allocate, not what is mapped
            read(config)
            peaks[number, cache is None] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    grown = {in_memory: peaks[36, in_memory] - peaks[12, in_memory] for in_memory in (True, False)}
    assert grown[True] > 24 * ROWS * 100  # bytes: pandas holds a row in several columns
    assert grown[False] < 0.2 * grown[True]


# What is prepared anew, and what is not


def test_only_what_the_panel_depends_on_makes_another(parquet: Path, tmp_path: Path, caplog, monkeypatch):
    assert set(DataSection.model_fields) >= panel_cache._NOT_OF_THE_PANEL, "any other setting is part of the hash"
    caplog.set_level(logging.INFO, logger="tstune")
    cache = tmp_path / "cache"

    def count(**changes: object) -> int:
        read(section(parquet, cache, **changes))
        return len(list(cache.glob("*/panel.json")))

    assert count() == 1
    assert count(scaling="none", train_stride=3, split={"train": 0.5, "validation": 0.2, "test": 0.3}) == 1
    assert count(max_gap=5) == 2
    assert count(target_columns=["dose"], conditional_columns=[]) == 3
    frame = table()
    frame.loc[7, "load"] += 1
    frame.to_parquet(parquet, index=False, row_group_size=300)
    assert count() == 4
    assert sum("rows prepared in" in record.message for record in caplog.records) == 4
    panel, expected = read(section(parquet, cache)), read(section(parquet)).fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr("tstune.data.panel.hashlib.sha256", lambda *_: pytest.fail("hashed again"))
        assert panel.fingerprint() == expected
    monkeypatch.setattr(panel_cache, "_code_sha256", lambda: "another version")
    assert count() == 5


def test_hashes_of_untouched_files_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, memory = tmp_path / "data", tmp_path / "files"
    file.write_text("one")
    assert remembered_sha256(file, memory) == sha256_of(file)
    assert not memory.exists()  # it was changed a moment ago and may change again
    monkeypatch.setattr("tstune.data.panel_store._SETTLED", -1.0)
    first = remembered_sha256(file, memory)
    with monkeypatch.context() as patch:
        patch.setattr("tstune.data.panel_store.sha256_of", lambda _: pytest.fail("read again"))
        assert remembered_sha256(file, memory) == first
    stat = file.stat()
    time.sleep(0.02)
    file.write_text("two")  # as long as before, and its time set back
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert remembered_sha256(file, memory) == sha256_of(file) != first
    next(memory.iterdir()).write_text("damaged")
    assert remembered_sha256(file, memory) == sha256_of(file)
    file.unlink()
    with pytest.raises(DataError, match="is missing"):
        remembered_sha256(file, memory)


# Damage


@pytest.mark.parametrize("name", ["values.bin", "status.bin", "segments.npz", "panel.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_panel_is_made_again(
    name: str, damage: str, parquet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = section(parquet, tmp_path / "cache")
    expected = read(config).fingerprint()
    file = next((tmp_path / "cache").glob(f"*/{name}"))
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-3] ^= 1
        file.write_bytes(content[:-1] if damage == "cut" else content)
    again = read(config)
    assert "is damaged" in caplog.text
    assert again.fingerprint() == expected
    caplog.clear()
    assert read(config).fingerprint() == expected
    assert "is damaged" not in caplog.text


def test_a_full_disk_is_one_line_and_leaves_nothing(parquet: Path, tmp_path: Path):
    config = section(parquet, tmp_path / "cache")
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, previous[1]))  # the kernel refuses every longer file
        with pytest.raises(OutputError) as caught:
            read(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value) == f"data.cache={tmp_path / 'cache'} cannot be used: {os.strerror(errno.EFBIG)}"
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}
    assert read(config).num_rows > 1000


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.assign(item_id=f["item_id"].where(f.index != 5)), "row 7: no value in column 'item_id'"),
        (lambda f: f.assign(timestamp=f["timestamp"].where(f.index != 5)), "row 7: no time in column 'timestamp'"),
        (lambda f: pd.concat([f, f.head(1)]), "1 duplicate timestamp"),
        (lambda f: f.assign(load=np.nan), "target column 'load' holds no value"),
        (lambda f: f.head(0), "the table has no rows"),
        (lambda f: f.drop(columns="load"), "no column 'load'"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(spoil: object, words: str, tmp_path: Path):
    spoil(table()).to_parquet(tmp_path / "series.parquet", index=False)
    with pytest.raises(DataError) as caught:
        read(section(tmp_path / "series.parquet", tmp_path / "cache"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.suffix for path in (tmp_path / "cache").glob("*")} <= {".lock"}


def test_series_in_different_units_stop_the_run(tmp_path: Path):
    frame = series(items=("a", "b", "c", "d")).rename(columns={"load": "glucose"})
    low = frame["item_id"].isin(["c", "d"])
    frame["glucose"] = np.where(low, frame["glucose"] / 4, frame["glucose"] * 5)
    frame.to_parquet(tmp_path / "series.parquet", index=False)
    changes = {"target_columns": ["glucose"]}
    with pytest.raises(DataError, match="from series 'c' on look like mmol/L, those before like mg/dL"):
        read(section(tmp_path / "series.parquet", tmp_path / "cache", **changes))
    assert read(section(tmp_path / "series.parquet", tmp_path / "cache", unit="mg/dL", **changes)).num_rows == 4 * ROWS


def test_what_an_own_function_reads_is_not_known_and_a_cache_is_a_folder(parquet: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data\.cache: nothing says what data\.source=mine:load reads"):
        read(section(tmp_path, tmp_path / "cache", source="mine:load"))
    with pytest.raises(OutputError, match=r"data\.cache=\S+ cannot be used: File exists"):
        read(section(parquet, parquet))


# Several processes

PROCESS = """
import sys
sys.path.insert(0, {scripts!r})
from tstune.config.schema import DataSection
from tstune.data.cleaning import CleaningRules
from tstune.data.panel_store import read_panel
import tstune.data.panel_store as store, tstune.data.panel_store as stream
print("ready", flush=True)
sys.stdin.readline()
if {dies!r}:
    import os, signal
    write = store.PanelWriter.append
    def append(self, panel):
        write(self, panel)
        os.kill(os.getpid(), signal.SIGKILL)
    store.PanelWriter.append = append
else:
    import time
    wait, build = {wait!r}, stream.build_panel
    def slow(*arguments):
        print("prepares", flush=True)
        time.sleep(wait)
        return build(*arguments)
    stream.build_panel = slow
config = DataSection(**{config!r})
panel, origin = read_panel(config, CleaningRules.from_config(config))
print("panel", panel.num_rows, panel.fingerprint(), not panel.values.flags.writeable, flush=True)
"""


def start(config: DataSection, dies: bool = False) -> subprocess.Popen:
    text = PROCESS.format(scripts=str(SCRIPTS), config=config.model_dump(mode="json"), dies=dies, wait=0.5)
    return subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_that_ask_at_once_share_one_panel_and_a_killed_one_leaves_none(parquet: Path, tmp_path: Path):
    config = section(parquet, tmp_path / "cache")
    killed = start(config, dies=True)
    others = [start(config) for _ in range(2)]
    assert [process.stdout.readline() for process in (killed, *others)] == ["ready\n"] * 3
    killed.communicate("go\n", timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob(".*.partial-*"))) == 1
    for process in others:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=600) for process in others]
    assert [process.returncode for process in others] == [0, 0], answers
    assert sorted("prepares" in output for output, _ in answers) == [False, True]
    expected = read(section(parquet))
    line = f"panel {expected.num_rows} {expected.fingerprint()} True"
    assert [output.splitlines()[-1] for output, _ in answers] == [line, line]
    assert not list((tmp_path / "cache").glob(".*"))
    assert len(list((tmp_path / "cache").glob("*/panel.json"))) == 1
