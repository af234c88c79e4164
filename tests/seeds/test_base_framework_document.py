"""What the design document of the base framework (000) prints, run as it is printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from support import tiny
from torch.utils.data import DataLoader

import tstune
from tstune import (
    BaseTimeSeriesFoundationModel,
    DistributedConfig,
    DistributedManager,
    GPUManager,
    HydraConfigManager,
    LoRAConfig,
    LoRATrainer,
    ModelConfig,
    RunConfig,
    SimpleConfigManager,
    TstuneError,
    TTMConfig,
    TTMForecaster,
    get_datasets,
    get_loader,
    get_model,
)
from tstune.config.schema import DataSection
from tstune.data.prepared import UnfittedPreprocessor
from tstune.data.table import Roles, SourceTable
from tstune.models.registry import model_class
from tstune.runs.finetune import FineTuning
from tstune.runs.rebuild import rebuild

# the class of line 134 is looked up by the name of its module when adapters are put on it
HERE = "test_base_framework_document"

PRINTED_YAML = """\
# configs/models/ttm/fine_tune.yaml
model_type: ttm
model_path: "ibm-granite/granite-timeseries-ttm-r2"

architecture:
  context_length: 512
  forecast_length: 96
  freeze_backbone: false

training:
  learning_rate: 1e-4
  batch_size: 64
  num_epochs: 10
  early_stopping_patience: 5
  fp16: true

lora:
  enabled: true
  rank: 16
  alpha: 32
  target_modules: ["q_proj", "v_proj", "mixer"]

distributed:
  enabled: false
  strategy: "ddp"
"""


def printed_configs() -> tuple[TTMConfig, LoRAConfig, DistributedConfig]:
    """Lines 33 to 55."""
    config = TTMConfig(
        model_path="ibm-granite/granite-timeseries-ttm-r2",
        context_length=512,
        forecast_length=96,
        batch_size=64,
        learning_rate=1e-4,
        early_stopping_patience=10,
        gradient_clip_val=1.0,
        fp16=True,
    )
    lora_config = LoRAConfig(enabled=True, rank=16, alpha=32, target_modules=["q_proj", "v_proj", "mixer"])
    distributed_config = DistributedConfig(enabled=True, strategy="ddp", world_size=4)
    return config, lora_config, distributed_config


# The components


@pytest.mark.printed("000", 11, "`BaseTimeSeriesFoundationModel`")
@pytest.mark.printed("000", 12, "`ModelConfig`")
@pytest.mark.printed("000", 13, "`DistributedManager`")
@pytest.mark.printed("000", 14, "`LoRATrainer`")
@pytest.mark.printed("000", 15, "`GPUManager`")
def test_the_components_are_public():
    assert issubclass(TTMForecaster, BaseTimeSeriesFoundationModel)
    assert len(ModelConfig().to_dict()) >= 30
    manager = DistributedManager()
    assert (manager.num_processes, manager.strategy) == (1, "none")
    assert GPUManager(manager.device).report()["free_memory_mib"] > 0
    assert LoRATrainer is tstune.LoRAManager


# The configuration


@pytest.mark.printed("000", 33, "config = TTMConfig(")
@pytest.mark.printed("000", 44, "lora_config = LoRAConfig(")
@pytest.mark.printed("000", 51, "distributed_config = DistributedConfig(")
@pytest.mark.printed("000", 57, "model = TTMForecaster(config, lora_config, distributed_config)")
def test_the_printed_configuration_is_that_of_the_model():
    config, lora_config, distributed_config = printed_configs()
    model = TTMForecaster(config, lora_config, distributed_config)
    assert (model.config.lora, model.config.distributed) == (lora_config, distributed_config)
    assert model.config.tuning.mode == "lora"
    for name in ("model_path", "context_length", "forecast_length", "batch_size", "gradient_clip_val", "fp16"):
        assert getattr(model.config, name) == getattr(config, name)
    assert model.config.freeze_backbone is False


def test_a_run_configuration_answers_flat_names():
    config = RunConfig(data={"source": "ett"}, lora={"enabled": True, "rank": 4})
    assert (config.data_source, config.lora_rank, config.tuning_mode, config.seed) == ("ett", 4, "lora", 42)
    assert config.distributed == DistributedConfig(), "a section, not the keyword"
    with pytest.raises(AttributeError, match="RunConfig has no key 'lora_rnk'"):
        _ = config.lora_rnk


def test_more_processes_than_run_are_refused_unless_distributed_is_off():
    with pytest.raises(TstuneError, match=r"distributed\.world_size=4 but 1 process"):
        DistributedManager(printed_configs()[2])
    off = DistributedManager(DistributedConfig(enabled=False, strategy="ddp", world_size=4))
    assert (off.num_processes, off.strategy) == (1, "none")


@pytest.mark.printed("000", 163, "# configs/models/ttm/fine_tune.yaml")
@pytest.mark.printed("000", 164, "model_type: ttm")
@pytest.mark.printed("000", 165, 'model_path: "ibm-granite/granite-timeseries-ttm-r2"')
@pytest.mark.printed("000", 167, "architecture:")
@pytest.mark.printed("000", 172, "training:")
@pytest.mark.printed("000", 179, "lora:")
@pytest.mark.printed("000", 185, "distributed:")
def test_the_printed_yaml_is_a_recipe(tmp_path: Path):
    path = tmp_path / "configs/models/ttm/fine_tune.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(PRINTED_YAML)
    simple, hydra = SimpleConfigManager().load_config(path), HydraConfigManager().load_config(path)
    keywords = {"learning_rate": 1e-4, "num_epochs": 10, "early_stopping_patience": 5, "fp16": True, "batch_size": 64}
    lengths = {"model_path": "ibm-granite/granite-timeseries-ttm-r2", "context_length": 512, "forecast_length": 96}
    lora = {
        "lora_enabled": True,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target_modules": ["q_proj", "v_proj", "mixer"],
    }
    expected = TTMConfig(**keywords, **lengths, **lora, distributed=False, distributed_strategy="ddp").run_config
    assert simple == hydra == expected
    changed = SimpleConfigManager().load_config(path, ["training.per_device_batch_size=8", "lora.rank=2"])
    assert (changed.batch_size, changed.lora_rank) == (8, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_pth": "x"}, "unknown keyword 'model_pth', did you mean 'model_path'"),
        ({"architecture": {"contxt_length": 3}}, "unknown keyword 'contxt_length', did you mean 'context_length'"),
        ({"training": {"batch_sizes": 3}}, r"training\.batch_sizes: unknown key"),
        ({"training": {"batch_size": 4, "per_device_batch_size": 8}}, "per_device_batch_size is given twice"),
        ({"architecture": 3}, "unknown keyword 'architecture'"),
    ],
)
def test_a_mistake_in_the_printed_layout_is_one_line(change: dict, words: str, tmp_path: Path):
    path = tmp_path / "fine_tune.yaml"
    path.write_text(yaml.safe_dump(tiny.merged(yaml.safe_load(PRINTED_YAML), change)))
    with pytest.raises(TstuneError, match=words) as error:
        SimpleConfigManager().load_config(path)
    assert "\n" not in str(error.value)


# Fitting, as printed


def waves(data) -> SourceTable:
    """A source by its dotted path: `waves` of this file."""
    return SourceTable(tiny.series()[["item_id", "timestamp", "load"]], Roles(("load",)), frequency="h")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("weights") / "checkpoint")


@pytest.fixture
def config(checkpoint: Path) -> Callable[..., TTMConfig]:
    """The printed keywords on a tiny model."""

    def make(**keywords: object) -> TTMConfig:
        values = {
            "model_path": str(checkpoint),
            "context_length": tiny.CONTEXT,
            "forecast_length": tiny.PREDICTION,
            "batch_size": 32,
            "learning_rate": 0.01,
            "max_steps": 4,
            "target_columns": ["load"],
            "item_id_column": "item_id",
            "split_train": 0.6,
            "split_validation": 0.2,
            "num_plots": 0,
            "report": False,
        }
        return TTMConfig(**values | keywords)

    return make


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TTMForecaster, dict, Path]:
    """The call of line 58 with adapters on a tiny model."""
    folder = tmp_path_factory.mktemp("runs")
    lengths = {"context_length": tiny.CONTEXT, "forecast_length": tiny.PREDICTION, "max_steps": 4, "num_plots": 0}
    config = TTMConfig(model_path=str(checkpoint), **lengths, report=False, metrics=["smape"])
    lora_config = LoRAConfig(enabled=True, rank=4, alpha=8)
    distributed_config = DistributedConfig(enabled=False, strategy="ddp", world_size=4)
    model = TTMForecaster(config, lora_config, distributed_config)
    results = model.fit(train_data=f"{HERE}:waves", output_dir=folder / "ttm_run_001", resume_from_checkpoint=None)
    return model, results, folder / "ttm_run_001"


@pytest.mark.printed("000", 48, 'target_modules=["q_proj", "v_proj", "mixer"]')
def test_layers_that_ttm_has_not_are_refused_with_those_it_has(config):
    printed = printed_configs()[1]
    with pytest.raises(TstuneError, match=r"q_proj, v_proj, mixer match\(es\) no linear layer.*fc1 .*or use auto"):
        TTMForecaster(config(), printed).fit(tiny.series())


@pytest.mark.printed("000", 58, "results = model.fit(")
@pytest.mark.printed("000", 98, "class BaseTimeSeriesFoundationModel(ABC):")
@pytest.mark.printed("000", 102, "def __init__(self, config, lora_config, distributed_config)")
def test_the_printed_fit_trains_judges_and_writes(run):
    _, results, folder = run
    assert list(results["metrics"])[:3] == ["zero_shot", "fine_tuned", "average"]
    assert results["training"].num_steps == 4
    assert results["output_dir"] == str(folder)
    assert tiny.read_json(folder / "environment.json")["precision"] == "no"
    with pytest.raises(TypeError, match="abstract"):
        BaseTimeSeriesFoundationModel(TTMConfig())


@pytest.mark.printed("000", 123, "def get_model_info(self)")
@pytest.mark.printed("000", 124, "def _save_training_metadata(self, output_dir, metrics)")
def test_the_model_says_what_was_trained_before_and_after_loading(run, tmp_path: Path):
    model, results, folder = run
    info = model.get_model_info()
    assert (info["total"], info["trainable"]) == tuple(results["parameters"][name] for name in ("total", "trainable"))
    assert info["adapter"]["parameters"] == info["trainable"] > 0
    assert (info["adapter"]["rank"], info["adapter"]["alpha"], info["tuning_mode"]) == (4, 8, "lora")
    assert TTMForecaster.load(folder).get_model_info() == info
    written = tiny.read_json(folder / "training_metadata.json")
    assert written == info | {"metrics": results["metrics"]}
    (folder / "training_metadata.json").rename(tmp_path / "kept")
    counts = TTMForecaster.load(folder).get_model_info()  # a run of an earlier version
    assert counts["trainable"] == info["trainable"]
    (folder / "training_metadata.json").write_text('{"total": "many"}')
    with pytest.raises(TstuneError, match="parameter counts of its training are damaged"):
        TTMForecaster.load(folder)
    (tmp_path / "kept").rename(folder / "training_metadata.json")


@pytest.mark.printed("000", 113, "def predict(self, data, batch_size, return_dict)")
def test_forecasts_come_as_a_table_or_as_arrays(run):
    model, table = run[0], run[0].predict(tiny.series())
    found = model.predict(data=tiny.series(), batch_size=1, return_dict=True)
    assert found["forecasts"].shape == (2, tiny.PREDICTION, 1)
    assert found["item_ids"] == ("a", "b")
    np.testing.assert_allclose(found["forecasts"].reshape(-1), table["load"], rtol=1e-5)
    assert found["timestamps"].reshape(-1).tolist() == table["timestamp"].to_numpy("datetime64[ns]").tolist()
    assert found["quantiles"] is None
    with pytest.raises(TstuneError, match="known future goes to future="):
        model.predict(tiny.series(), tiny.series())


def test_quantiles_are_in_the_arrays(config):
    model = TTMForecaster(config(quantiles=[0.1, 0.5, 0.9]))
    model.fit(tiny.series())
    found, table = model.predict(tiny.series(), return_dict=True), model.predict(tiny.series())
    assert found["quantiles"].shape == (2, tiny.PREDICTION, 1, 3)
    assert found["quantile_levels"] == (0.1, 0.5, 0.9)
    np.testing.assert_array_equal(found["quantiles"][..., 0, 2].reshape(-1), table["load_q0.9"])


@pytest.mark.printed("000", 114, "def evaluate(self, data_loader)")
def test_a_loader_or_the_data_are_evaluated(run):
    model, results, _ = run
    expected = results["metrics"]["fine_tuned"]
    assert model.evaluate(f"{HERE}:waves") == pytest.approx(expected)
    prepared = model.prepare(f"{HERE}:waves")
    assert model.evaluate(prepared) == pytest.approx(expected)
    assert model.evaluate(DataLoader(prepared.test, batch_size=16)) == pytest.approx(expected)
    with pytest.raises(TstuneError, match="the loader is over a list"):
        model.evaluate(DataLoader([1, 2]))


@pytest.mark.printed("000", 117, "def save(self, output_dir, save_config, save_metadata)")
@pytest.mark.printed("000", 118, "def load(cls, model_dir, config)")
def test_a_model_is_saved_and_loaded_with_or_without_its_configuration(run, tmp_path: Path):
    model = run[0]
    model.save(tmp_path / "whole", save_config=True, save_metadata=True)
    model.save(tmp_path / "bare", save_config=False, save_metadata=False)
    extra = {"config.yaml", "training_metadata.json"}
    names = [{path.name for path in (tmp_path / place).iterdir()} for place in ("whole", "bare")]
    assert names[0] - names[1] == extra
    expected = model.predict(tiny.series())
    pd.testing.assert_frame_equal(TTMForecaster.load(model_dir=tmp_path / "whole").predict(tiny.series()), expected)
    given = TTMForecaster.load(tmp_path / "bare", config=model.config)
    pd.testing.assert_frame_equal(given.predict(tiny.series()), expected)
    with pytest.raises(TstuneError, match=r"config\.yaml is missing; give it as load\(…, config=…\)"):
        TTMForecaster.load(tmp_path / "bare")
    with pytest.raises(TstuneError, match="context_length 32, the run asks for 64"):
        TTMForecaster.load(tmp_path / "bare", config=TTMConfig(context_length=64, forecast_length=tiny.PREDICTION))


@pytest.mark.printed("000", 121, "def setup_distributed(self)")
@pytest.mark.printed("000", 122, "def enable_lora(self)")
def test_processes_and_adapters_are_set_up_by_their_names(config):
    model = TTMForecaster(config())
    assert (model.setup_distributed().num_processes, model.config.tuning.mode) == (1, "full")
    model.enable_lora()
    assert (model.config.tuning.mode, model.config.lora.enabled) == ("lora", True)
    assert model.fit(tiny.series())["parameters"]["trainable"] < 2000
    with pytest.raises(TstuneError, match=r"distributed\.world_size=4"):
        TTMForecaster(config(), None, printed_configs()[2]).setup_distributed()
    with pytest.raises(TstuneError, match=r"fp16 needs a GPU.*or training\.precision_fallback=true"):
        TTMForecaster(printed_configs()[0]).setup_distributed()
    allowed = TTMForecaster(config(fp16=True, precision_fallback=True)).setup_distributed()
    assert allowed.accelerator.mixed_precision == "no"


# Data that replace the split


def cut(level: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Where the split 60/20/20 lies."""
    table = tiny.series()
    table["load"] += level
    hours = (table["timestamp"] - table["timestamp"].min()) // pd.Timedelta("1h")
    return table[hours < 240], table[(hours >= 240) & (hours < 320)], table[hours >= 320]


@pytest.mark.printed("000", 112, "def fit(self, train_data, val_data, test_data, output_dir, resume_from_checkpoint)")
def test_given_parts_are_the_split_to_the_last_digit(config, tmp_path: Path):
    train, validation, test = cut()
    whole = TTMForecaster(config()).fit(tiny.series())["metrics"]
    given = TTMForecaster(config()).fit(train, validation, test, tmp_path / "run", None)
    assert given["metrics"] == whole
    manifest = tiny.read_json(tmp_path / "run/manifest.json")
    assert manifest["notes"]["parts_given"] == {"validation": "a table", "test": "a table"}
    assert manifest["unseen_items"] == []
    with pytest.raises(TstuneError, match=r"given to fit\(val_data=…, test_data=…\)"):
        rebuild(tmp_path / "run")


def test_a_part_may_be_a_source_a_file_or_prepared_data(config, tmp_path: Path):
    train, validation, test = cut()
    test.to_csv(tmp_path / "test.csv", index=False)
    model = TTMForecaster(config())
    expected = model.prepare(tiny.series())
    for one in (test, tmp_path / "test.csv", str(tmp_path / "test.csv"), expected):
        found = model.prepare(train, validation, one)
        assert {part: len(windows) for part, windows in found.windows.items()} == expected.manifest["windows"]
        np.testing.assert_array_equal(found.test[3]["past_values"], expected.test[3]["past_values"])
    assert model.prepare(expected, expected, expected) is expected
    apart = model.prepare(expected, test_data=f"{HERE}:others")
    assert (apart.unseen_items, len(apart.train)) == (("c",), len(expected.train))


def others(data) -> SourceTable:
    """Somebody else, at the same time."""
    return SourceTable(
        tiny.series(items=("c",), seed=5)[["item_id", "timestamp", "load"]], Roles(("load",)), frequency="h"
    )


@pytest.mark.parametrize("part", ["val_data", "test_data"])
def test_the_rest_of_the_time_is_shared(config, part: str):
    prepared = TTMForecaster(config()).prepare(tiny.series(), **{part: tiny.series(items=("c",), seed=5)})
    ends = {"val_data": [300, 0, 400], "test_data": [300, 400, 0]}[part]
    assert prepared.split.borders[0].tolist() == ends
    assert prepared.split.takes_part[2].tolist() == [False, part == "val_data", part == "test_data"]


@pytest.mark.parametrize(
    ("change", "keywords", "words"),
    [
        (lambda test: tiny.series(), {}, "series 'a' has 2024-01-.* in the data of both"),
        (lambda test: test.rename(columns={"load": "lod"}), {}, "test_data: no column 'load'"),
        (lambda test: 5, {}, "test_data is a int; give the name of a source, a file, a table or prepared data"),
        (lambda test: "nowhere.csv", {}, "unknown source 'nowhere.csv'"),
        (lambda test: test, {"split_by": "item"}, "split.by=item with val_data or test_data: give both"),
    ],
)
def test_parts_that_cannot_be_are_one_line(config, change: Callable, keywords: dict, words: str):
    train, _, test = cut()
    with pytest.raises(TstuneError, match=words) as error:
        TTMForecaster(config(**keywords)).prepare(train, test_data=change(test))
    assert "\n" not in str(error.value)


def test_parts_are_counted_from_the_level_of_the_train_data(config):
    model, table = TTMForecaster(config()), tiny.series()
    table["load"] += 1.5e9
    whole, given = model.prepare(table), model.prepare(*cut(1.5e9))
    np.testing.assert_array_equal(given.panel.level, whole.panel.level)
    assert given.panel.level.min() > 1e9
    for part in ("validation", "test"):
        values = [data.windows[part][3]["past_values"] for data in (whole, given)]
        np.testing.assert_array_equal(*values)


def test_one_series_without_a_name_is_the_same_in_every_part(config):
    parts = [part.query("item_id == 'a'").drop(columns="item_id") for part in cut()]
    prepared = TTMForecaster(config(item_id_column=None)).prepare(*parts)
    assert prepared.panel.item_ids == ("train_data",)


def test_an_earlier_part_may_validate(config):
    first, second, third = cut()
    prepared = TTMForecaster(config()).prepare(second, third, first)
    train, validation, test = (prepared.split.bounds(part)[0][0] for part in ("train", "validation", "test"))
    assert test < train < validation
    assert prepared.preprocessor.scaler.mean[0] == pytest.approx(second["load"].mean()), "of the train data alone"


# The hooks


class DocumentForecaster(BaseTimeSeriesFoundationModel):
    """Lines 134 to 155."""

    lora_targets = TTMForecaster.lora_targets

    def _initialize_model(self):
        # Uses your existing get_model() function
        self.model = get_model(
            model_path=self.config.model_path,
            context_length=self.config.context_length,
            freeze_backbone=self.config.freeze_backbone,
        )

    def _prepare_data(self, train_data, val_data, test_data):
        # Integrates with your existing data pipeline
        loader = get_loader(data_source_name=train_data, use_cached=True)
        data = loader.processed_data

        # Uses your existing preprocessor
        dset_train, dset_val, dset_test = get_datasets(data=data, preprocessor=self.preprocessor)
        train_loader, val_loader, test_loader = (
            DataLoader(dset, batch_size=self.config.batch_size) for dset in (dset_train, dset_val, dset_test)
        )
        return train_loader, val_loader, test_loader


class FullForecaster(DocumentForecaster):
    """With the hooks whose bodies the document leaves open."""

    def _create_training_arguments(self, output_dir):
        return {"max_steps": 3, "batch_size": 16, "gradient_clip_val": 0.5}

    def _compute_metrics(self, eval_pred):
        predictions, labels = eval_pred
        return {"worst": np.nanmax(np.abs(predictions - labels))}

    def _load_model_weights(self, model_dir):
        from tsfm_public import TinyTimeMixerForPrediction

        self.model = TinyTimeMixerForPrediction.from_pretrained(model_dir / "model")


@pytest.mark.printed("000", 105, "def _initialize_model(self) -> None")
@pytest.mark.printed("000", 106, "def _prepare_data(self, train_data, val_data, test_data)")
@pytest.mark.printed("000", 134, "class TTMForecaster(BaseTimeSeriesFoundationModel):")
@pytest.mark.printed("000", 137, "def _initialize_model(self):")
@pytest.mark.printed("000", 139, "self.model = get_model(")
@pytest.mark.printed("000", 145, "def _prepare_data(self, train_data, val_data, test_data):")
@pytest.mark.printed("000", 147, "get_loader(data_source_name=train_data, use_cached=True)")
@pytest.mark.printed("000", 151, "dset_train, dset_val, dset_test = get_datasets(")
@pytest.mark.parametrize(("mode", "trainable"), [("full", 2796), ("decoder", None), ("lora", None)])
def test_the_printed_class_trains_as_the_family_does(config, mode: str, trainable: int | None, tmp_path: Path):
    keywords = {"freeze_backbone": True} if mode == "decoder" else {"tuning_mode": mode}
    theirs = TTMForecaster(config(**keywords, cache_frozen_features="off")).fit(
        tiny.series()[["item_id", "timestamp", "load"]]
    )
    model = DocumentForecaster(config(**keywords))
    ours = model.fit(train_data=f"{HERE}:waves", output_dir=tmp_path / "run")
    assert {name: ours["parameters"][name] for name in ("total", "trainable")} == {
        name: theirs["parameters"][name] for name in ("total", "trainable")
    }
    assert trainable in (None, ours["parameters"]["trainable"])
    for row, tolerance in (("zero_shot", 1e-5), ("fine_tuned", 0.01)):  # the family draws its dropout in another way
        assert ours["metrics"][row]["rmse"] == pytest.approx(theirs["metrics"][row]["rmse"], rel=tolerance)
    forecast = model.predict(tiny.series())
    loaded = DocumentForecaster.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.predict(tiny.series()), forecast)
    assert loaded.get_model_info() == model.get_model_info()


@pytest.mark.printed("000", 107, "def _create_training_arguments(self, output_dir)")
@pytest.mark.printed("000", 108, "def _compute_metrics(self, eval_pred)")
@pytest.mark.printed("000", 109, "def _load_model_weights(self, model_dir)")
@pytest.mark.printed("000", 216, "Implement `_prepare_data()` and `_compute_metrics()`")
def test_every_hook_is_asked(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = FullForecaster(config())
    results = model.fit(f"{HERE}:waves", output_dir=tmp_path / "run")
    assert results["training"].num_steps == 3
    assert (model.config.batch_size, model.config.gradient_clip_val, model.config.learning_rate) == (16, 0.5, 0.01)
    assert all(row["worst"] >= row["mae"] for row in results["metrics"].values())
    assert tiny.read_json(tmp_path / "run/metrics.json")["test"] == results["metrics"]
    assert model.evaluate(f"{HERE}:waves") == pytest.approx(results["metrics"]["fine_tuned"])
    from_config = SimpleConfigManager().load_config(tmp_path / "run/config.yaml")
    assert from_config.training == model.config.training
    forecast = model.predict(tiny.series())
    pd.testing.assert_frame_equal(FullForecaster.load(tmp_path / "run").predict(tiny.series()), forecast)


def test_a_family_takes_the_hooks_too(config, tmp_path: Path):
    class Mine(TTMForecaster):
        def _initialize_model(self):
            self.model = get_model(self.config.model_path, self.config.context_length)

    plain, mine = TTMForecaster(config()), Mine(config())
    expected = plain.fit(tiny.series())["metrics"]["fine_tuned"]
    assert mine.fit(tiny.series(), output_dir=tmp_path / "run")["metrics"]["fine_tuned"] == expected


def test_a_script_runs_the_printed_class(config, tmp_path: Path):
    values = config().run_config.model_dump(mode="json")
    lengths = {name: values["model"][name] for name in ("pretrained", "context_length", "prediction_length")}
    values["model"] = lengths | {"type": f"{HERE}:FullForecaster"}
    values |= {"data": {"source": f"{HERE}:waves", "split": values["data"]["split"]}}
    own = RunConfig.model_validate(values)
    model = model_class(own.model.type)(own)
    with FineTuning(model, tmp_path / "run") as run:
        run.prepare()
    assert len(run.data.train) == 402


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ({"_initialize_model": lambda self: None}, "_initialize_model did not set self.model to a network"),
        ({"_prepare_data": lambda self, *data: 5}, "_prepare_data must return prepared data, or train, validation"),
        (
            {"_prepare_data": lambda self, *data: get_datasets(waves(None))},
            r"series too short: a window needs 608 steps",
        ),
        (
            {
                "_prepare_data": lambda self, *data: get_datasets(
                    waves(None), UnfittedPreprocessor(DataSection(), 24, 8)
                )
            },
            r"_prepare_data gave windows of 24 \+ 8 steps, the run asks for 32 \+ 8; pass preprocessor=self",
        ),
        ({"_create_training_arguments": lambda self, folder: {"seed": 3}}, "seed is no part of training"),
        ({"_create_training_arguments": lambda self, folder: {"learning_rat": 3}}, "did you mean 'learning_rate'"),
        ({"_create_training_arguments": lambda self, folder: {"batch_size": 0}}, "per_device_batch_size.*greater than"),
        ({"_create_training_arguments": lambda self, folder: 7}, "gave a int; give keywords of training"),
    ],
)
def test_a_hook_that_gives_something_else_is_one_line(config, hooks: dict, words: str, tmp_path: Path):
    wrong = type("Wrong", (FullForecaster,), hooks)
    with pytest.raises(TstuneError, match=words) as error:
        wrong(config()).fit(f"{HERE}:waves", output_dir=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_hook_cannot_change_the_precision_of_running_processes(config):
    half = type("Half", (FullForecaster,), {"_create_training_arguments": lambda self, folder: {"bf16": True}})
    with pytest.raises(TstuneError, match="mixed_precision of processes that run already"):
        half(config()).fit(f"{HERE}:waves", manager=DistributedManager())


def test_a_source_is_read_again_once_its_file_has_changed(tmp_path: Path):
    path, keys = tiny.write_series(tmp_path / "a.csv"), {"item_id_column": "item_id", "target_columns": ["load"]}
    first = get_loader("csv", path=str(path), **keys).processed_data
    assert get_loader("csv", path=str(path), **keys).processed_data is first
    assert get_loader("csv", use_cached=False, path=str(path), **keys).processed_data is not first
    tiny.write_series(path, rows=300)
    assert len(get_loader("csv", path=str(path), **keys).processed_data.frame) == 600


def test_a_network_by_itself(checkpoint: Path):
    frozen = get_model(str(checkpoint), tiny.CONTEXT, freeze_backbone=True)
    assert {name.split(".")[0] for name, value in frozen.named_parameters() if value.requires_grad} == {
        "decoder",
        "head",
    }
    assert frozen.config.prediction_length == tiny.PREDICTION
    small = {"patch_length": 8, "d_model": 16, "num_layers": 1, "adaptive_patching_levels": 0, "decoder_d_model": 8}
    scratch = get_model(None, 32, 4, **small)
    assert scratch(torch.zeros(2, 32, 3)).prediction_outputs.shape == (2, 4, 3)
    assert get_model("builtin").config.prediction_length == 96
