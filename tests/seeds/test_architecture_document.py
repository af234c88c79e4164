"""What the design document of the architecture (002) prints, run as it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from mlflow_server import running_mlflow_server
from omegaconf import OmegaConf
from support import tiny

import finetune_ttm
from tstune import (
    CompositeTracker,
    ConfigManager,
    ExperimentTracker,
    HydraConfigManager,
    LoRAManager,
    MLflowExperimentLogger,
    MLflowExperimentTracker,
    RunConfig,
    SimpleConfigManager,
    SimpleExperimentLogger,
    SimpleExperimentTracker,
    TrainingConfig,
    TTMExperimentConfig,
    TTMForecaster,
    TTMTrainer,
    WandbExperimentTracker,
    add_lora_adapters,
)
from tstune.models.ttm import gated_attention_weights

CONFIG = {"training": {"max_steps": 2}}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def printed(desk: Path) -> dict:
    """A file in the layout of lines 227 to 256; below it, what a run on our own table needs besides."""
    values = {
        "model": {"path": str(desk / "checkpoint")},
        "data": {"source_name": "csv"},
        "training": {"batch_size": 32, "learning_rate": 0.01, "num_epochs": 1, "mixed_precision": True, "lora_rank": 2},
        "experiment_name": "ttm_experiment",
        "output_dir": "./experiments",
    }
    ours = tiny.recipe(desk / "series.csv", desk / "unused", desk / "checkpoint")
    ours["data"].pop("source")
    ours["model"].pop("pretrained")
    ours = {"model": ours["model"], "data": ours["data"], "training": {"max_steps": 2, "log_every_steps": 1}}
    return tiny.merged(values, ours | {"evaluation": {"baselines": [], "num_plots": 0, "report": False}})


@pytest.fixture
def here(printed: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with config.yaml in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    tiny.write_recipe(tmp_path / "config.yaml", printed)
    return tmp_path


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server: the document's http://localhost:5556, at a free port."""
    with running_mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


def says_what_the_file_says(config: RunConfig | TTMExperimentConfig, printed: dict) -> None:
    assert config.model_path == printed["model"]["path"]
    assert config.data_source == "csv"
    assert (config.training.batch_size, config.training.num_epochs) == (32, 1)
    assert (config.training.learning_rate, config.training.lora_rank) == (0.01, 2)
    assert config.training.mixed_precision
    assert (config.experiment_name, config.output_dir) == ("ttm_experiment", "./experiments")


# Configuration


@pytest.mark.printed("002", 27, "class SimpleConfigManager:")
@pytest.mark.printed("002", 28, "def load_config(self, path: str) -> dict:")
@pytest.mark.printed("002", 33, "config_manager = SimpleConfigManager()")
@pytest.mark.printed("002", 34, 'config = config_manager.load_config("config.yaml")')
@pytest.mark.printed("002", 217, "class SimpleConfigManager(ConfigManager):")
@pytest.mark.printed("002", 220, "def load_config(self, config_path: str)")
@pytest.mark.printed("002", 227, "data['model']['path']")
@pytest.mark.printed("002", 228, "data['data']['source_name']")
@pytest.mark.printed("002", 230, "data.get('experiment_name', 'default')")
@pytest.mark.printed("002", 231, "data.get('output_dir', './experiments')")
@pytest.mark.printed("002", 553, "config_manager = SimpleConfigManager()")
@pytest.mark.printed("002", 560, "config_manager = SimpleConfigManager()")
def test_the_layout_of_the_document_is_a_run(here, printed):
    config_manager = SimpleConfigManager()
    config = config_manager.load_config("config.yaml")
    says_what_the_file_says(config, printed)
    assert isinstance(config_manager, ConfigManager)
    assert config.model.pretrained == config.model_path
    assert (config.tuning.mode, config.lora.rank, config.training.mixed_precision) == ("lora", 2, "auto")
    changed = config_manager.load_config("config.yaml", ["training.per_device_batch_size=8", "lora.rank=4"])
    assert (changed.training.batch_size, changed.training.lora_rank) == (8, 4)
    plain = tiny.write_recipe(here / "plain.yaml", tiny.merged(printed, {"training": {"lora_rank": None}}))
    assert config_manager.load_config(str(plain)).training.lora_rank is None
    assert config_manager.load_config(str(plain)).tuning.mode == "full"
    twice = tiny.write_recipe(here / "twice.yaml", tiny.merged(printed, {"model": {"pretrained": "elsewhere"}}))
    with pytest.raises(ValueError, match=r"model.pretrained is given twice, as 'elsewhere' and as"):
        config_manager.load_config(str(twice))


@pytest.mark.printed("002", 158, "def validate_config(self, config: TTMExperimentConfig) -> bool:")
@pytest.mark.printed("002", 163, "def save_config(self, config: TTMExperimentConfig, output_path: str)")
@pytest.mark.printed("002", 224, "TrainingConfig(**data['training'])")
@pytest.mark.printed("002", 226, "TTMExperimentConfig(")
@pytest.mark.printed("002", 234, "def validate_config(")
@pytest.mark.printed("002", 243, "def save_config(")
@pytest.mark.printed("002", 132, "class TrainingConfig:")
@pytest.mark.printed("002", 141, "class TTMExperimentConfig:")
@pytest.mark.parametrize("manager", [SimpleConfigManager(), HydraConfigManager()])
def test_the_dataclasses_are_views_of_a_run(manager, here, printed, caplog):
    data = {"batch_size": 32, "learning_rate": 0.01, "num_epochs": 1, "lora_rank": 2}
    config = TTMExperimentConfig(
        model_path=printed["model"]["path"],
        data_source=printed["data"]["source_name"],
        training=TrainingConfig(**data),
        experiment_name="ttm_experiment",
        output_dir="./experiments",
    )
    says_what_the_file_says(config, printed)
    assert manager.validate_config(config) is True
    assert TTMExperimentConfig.of(manager.load_config("config.yaml")) == config
    manager.save_config(config, "saved.yaml")
    again = manager.load_config("saved.yaml")
    says_what_the_file_says(again, printed)
    assert TTMExperimentConfig.of(again) == config
    config.training.batch_size = 0
    assert manager.validate_config(config) is False
    assert "training.per_device_batch_size: input should be greater than or equal to 1 (got 0)" in caplog.text
    for other in ({"model": {"kind": 1}}, 7):
        assert manager.validate_config(other) is False


@pytest.mark.printed("002", 40, "class HydraConfigManager:")
@pytest.mark.printed("002", 42, "def load_config(self, cfg: DictConfig) -> dict:")
@pytest.mark.printed("002", 46, "config_manager = HydraConfigManager()")
@pytest.mark.printed("002", 47, 'config = config_manager.load_config("config.yaml")')
@pytest.mark.printed("002", 522, "class HydraConfigManager(ConfigManager):")
@pytest.mark.printed("002", 525, "def load_config(self, config_path: str = None)")
@pytest.mark.printed("002", 531, "def load_with_hydra(self, cfg: DictConfig)")
@pytest.mark.printed("002", 535, "TrainingConfig(**config_dict['training'])")
@pytest.mark.printed("002", 537, "TTMExperimentConfig(")
@pytest.mark.printed("002", 541, "config_dict.get('experiment_name', 'default')")
@pytest.mark.printed("002", 542, "config_dict.get('output_dir', './experiments')")
@pytest.mark.printed("002", 567, "config_manager = HydraConfigManager()")
@pytest.mark.printed("002", 574, "config_manager = HydraConfigManager()")
def test_hydra_takes_a_file_its_own_composition_or_what_hydra_main_gives(here, printed):
    config_manager = HydraConfigManager()
    config = config_manager.load_config("config.yaml")
    assert config == SimpleConfigManager().load_config("config.yaml")
    says_what_the_file_says(config, printed)
    default = config_manager.load_config()
    assert default == config_manager.load_config(Path(__file__).parents[2] / "recipes/hydra/ttm.yaml")
    assert (default.model.type, default.training.batch_size) == ("ttm", default.training.per_device_batch_size)
    assert config_manager.load_config(overrides=["tuning=lora"]).training.lora_rank == 8
    with initialize_config_dir(str(here), version_base="1.3"):
        cfg = compose("config", ["experiment_name=composed"])
        assert config_manager.load_with_hydra(cfg).experiment_name == "composed"
        assert config_manager.load_with_hydra(compose("config", return_hydra_config=True)) == config
    assert config_manager.load_with_hydra(OmegaConf.create(printed)) == config
    with pytest.raises(ValueError, match="the composed configuration: 1 problem: trainin: unknown key"):
        config_manager.load_with_hydra(OmegaConf.create({"trainin": {}}))


# The trainer, with a manager and a tracker that somebody wrote from the document


class PrintedManager(ConfigManager):
    """Lines 220 to 260."""

    def load_config(self, config_path: str) -> TTMExperimentConfig:
        with open(config_path) as f:
            data = yaml.safe_load(f)
        return TTMExperimentConfig(
            model_path=data["model"]["path"],
            data_source=data["data"]["source_name"],
            training=TrainingConfig(**data["training"]),
            experiment_name=data.get("experiment_name", "default"),
            output_dir=data.get("output_dir", "./experiments"),
        )

    def validate_config(self, config: TTMExperimentConfig) -> bool:
        return all([config.model_path, config.data_source, config.training.batch_size > 0])

    def save_config(self, config: TTMExperimentConfig, output_path: str) -> None:
        SimpleConfigManager().save_config(config, output_path)


@pytest.mark.printed("002", 149, "class ConfigManager(ABC):")
@pytest.mark.printed("002", 153, "def load_config(self, config_path: str)")
@pytest.mark.printed("002", 352, "def __init__(")
@pytest.mark.printed("002", 362, "self.config = config_manager.load_config(config_path)")
@pytest.mark.printed("002", 363, "if not config_manager.validate_config(self.config):")
@pytest.mark.printed("002", 364, 'raise ValueError("Invalid configuration")')
def test_a_manager_of_the_three_printed_methods(tmp_path):
    training = {"batch_size": 32, "learning_rate": 0.01, "num_epochs": 1, "lora_rank": 2}
    values = {"model": {"path": "builtin"}, "data": {"source_name": "cgm_sample"}, "training": training}
    path = tiny.write_recipe(tmp_path / "config.yaml", values)
    trainer = TTMTrainer(PrintedManager(), SimpleExperimentTracker(tmp_path), str(path))
    assert trainer.config == SimpleConfigManager().load_config(
        path, ["tracking.experiment=default", "output_dir=./experiments", "training.mixed_precision=auto"]
    )
    tiny.write_recipe(path, tiny.merged(values, {"training": {"batch_size": 0}}))
    with pytest.raises(ValueError, match=r"Invalid configuration: .*config.yaml, says PrintedManager.validate_config"):
        TTMTrainer(PrintedManager(), SimpleExperimentTracker(tmp_path), str(path))


class CustomResearchTracker(ExperimentTracker):
    """The five methods of lines 180 to 202 in the signatures they have there, and the two of lines 685 and 689."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.norms: list[float] = []
        self.attention: list[dict] = []

    def start_experiment(self, experiment_name: str, config: dict) -> str:
        self.calls.append(("start_experiment", experiment_name, config["model"]["pretrained"]))
        return "research-1"

    def log_params(self, params: dict) -> None:
        self.calls.append(("log_params", params))

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.calls.append(("log_metrics", metrics, step))

    def log_model(self, model_path: Path, model_name: str) -> None:
        self.calls.append(("log_model", model_path, model_name))

    def end_experiment(self) -> str:
        self.calls.append(("end_experiment",))
        return "research-1"

    def log_gradients(self, model) -> None:
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        self.norms.append(float(sum(squares)) ** 0.5)

    def log_attention_weights(self, model) -> None:
        self.attention.append(gated_attention_weights(model))


@pytest.mark.printed("002", 176, "class ExperimentTracker(ABC):")
@pytest.mark.printed("002", 180, "def start_experiment(self, experiment_name: str, config: dict) -> str:")
@pytest.mark.printed("002", 185, "def log_params(self, params: dict) -> None:")
@pytest.mark.printed("002", 190, "def log_metrics(self, metrics: dict, step: Optional[int] = None)")
@pytest.mark.printed("002", 195, "def log_model(self, model_path: Path, model_name: str) -> None:")
@pytest.mark.printed("002", 200, "def end_experiment(self) -> str:")
@pytest.mark.printed("002", 349, "class TTMTrainer:")
@pytest.mark.printed("002", 366, "def train(self) -> dict:")
@pytest.mark.printed("002", 370, "self.experiment_tracker.start_experiment(")
@pytest.mark.printed("002", 377, "self.experiment_tracker.log_params(")
@pytest.mark.printed("002", 382, "add_lora_adapters(model, rank=self.config.training.lora_rank)")
@pytest.mark.printed("002", 383, "self.experiment_tracker.log_params({")
@pytest.mark.printed("002", 399, "self.experiment_tracker.log_metrics(metrics)")
@pytest.mark.printed("002", 403, 'self.experiment_tracker.log_model(model_path, "ttm_finetuned")')
@pytest.mark.printed("002", 409, "self.experiment_tracker.end_experiment()")
@pytest.mark.printed("002", 410, "{'run_id': final_run_id, 'metrics': metrics}")
@pytest.mark.printed("002", 684, "class CustomResearchTracker(ExperimentTracker):")
@pytest.mark.printed("002", 685, "def log_gradients(self, model):")
@pytest.mark.printed("002", 689, "def log_attention_weights(self, model):")
def test_a_tracker_of_the_five_printed_methods(here, printed, caplog):
    tracker = CustomResearchTracker()
    results = TTMTrainer(SimpleConfigManager(), tracker, "config.yaml").train()
    assert results["run_id"] == "research-1"
    assert {"zero_shot", "fine_tuned"} <= set(results["metrics"])
    assert tracker.calls[0] == ("start_experiment", "ttm_experiment", printed["model"]["path"])
    params = tracker.calls[1][1]
    assert (params["training.learning_rate"], params["training.num_epochs"]) == (0.01, 1)
    assert (params["lora.enabled"], params["lora.rank"]) == (True, 2)
    logged = [arguments for method, *arguments in tracker.calls if method == "log_metrics"]
    assert [step for metrics, step in logged if "train_loss" in metrics] == [1, 2]
    assert logged[-1][0]["test/fine_tuned/rmse"] == results["metrics"]["fine_tuned"]["rmse"]
    assert tracker.calls[-2:] == [("log_model", Path("experiments"), "model"), ("end_experiment",)]
    assert len(tracker.norms) == len(tracker.attention) == 2, "once before each step that makes a row"
    assert all(norm > 0 for norm in tracker.norms)
    assert all(name.endswith("gating_block") for name in tracker.attention[0])
    assert len(tracker.attention[0]) == len(gated_attention_weights(TTMForecaster.load("experiments").network)) > 0
    assert not [record for record in caplog.records if "left out" in record.getMessage()]


# Trackers


@pytest.mark.printed("002", 272, "class SimpleExperimentTracker(ExperimentTracker):")
@pytest.mark.printed("002", 275, 'def __init__(self, base_dir: str = "./experiments"):')
@pytest.mark.printed("002", 280, "def start_experiment(")
@pytest.mark.printed("002", 288, '"config.json"')
@pytest.mark.printed("002", 294, "def log_params(self, params: dict) -> None:")
@pytest.mark.printed("002", 295, '"params.json"')
@pytest.mark.printed("002", 299, "def log_metrics(")
@pytest.mark.printed("002", 300, '"metrics.jsonl"')
@pytest.mark.printed("002", 322, "def end_experiment(self) -> str:")
@pytest.mark.printed("002", 329, '"run_summary.json"')
@pytest.mark.printed("002", 554, 'experiment_tracker = SimpleExperimentTracker("./experiments")')
def test_files(here):
    assert SimpleExperimentTracker().base_dir == Path("./experiments")
    experiment_tracker = SimpleExperimentTracker("./experiments")
    run_id = experiment_tracker.start_experiment("glucose", CONFIG)
    folder = here / "experiments" / "glucose" / run_id
    assert experiment_tracker.current_run_dir.resolve() == folder
    assert experiment_tracker.run_id == run_id
    experiment_tracker.log_params({"batch_size": 32})
    experiment_tracker.log_metrics({"loss": 0.5}, 1)
    assert experiment_tracker.end_experiment() == run_id
    assert tiny.read_json(folder / "config.json") == CONFIG
    assert tiny.read_json(folder / "params.json") == {"batch_size": 32}
    row = json.loads((folder / "metrics.jsonl").read_text())
    assert (row["step"], row["loss"]) == (1, 0.5)
    said = tiny.read_json(folder / "run_summary.json")
    assert (said["run_id"], said["status"]) == (run_id, "completed")


@pytest.mark.printed("002", 55, "class SimpleExperimentLogger:")
@pytest.mark.printed("002", 56, "def __init__(self, experiment_dir: str):")
@pytest.mark.printed("002", 59, "def log_metric(self, key: str, value: float, step: int = None):")
@pytest.mark.printed("002", 63, "def log_params(self, params: dict):")
def test_a_logger_of_files(here):
    logger = SimpleExperimentLogger("./logs")
    assert logger.experiment_dir == Path("./logs")
    logger.log_params({"batch_size": 32})
    for step in (1, 2):
        logger.log_metric("loss", 1 / step, step)
    (run,) = (here / "logs").rglob("metrics.jsonl")
    assert [json.loads(line)["loss"] for line in run.read_text().splitlines()] == [1.0, 0.5]
    assert tiny.read_json(run.with_name("params.json")) == {"batch_size": 32}


@pytest.mark.printed("002", 71, "class MLflowExperimentLogger:")
@pytest.mark.printed("002", 72, "def __init__(self, experiment_name: str):")
@pytest.mark.printed("002", 75, "def log_metric(self, key: str, value: float, step: int = None):")
@pytest.mark.printed("002", 78, "def log_params(self, params: dict):")
@pytest.mark.printed("002", 485, "class MLflowExperimentTracker(ExperimentTracker):")
@pytest.mark.printed("002", 488, "def __init__(self, tracking_uri: str = None):")
@pytest.mark.printed("002", 493, "def start_experiment(")
@pytest.mark.printed("002", 498, "def log_params(")
@pytest.mark.printed("002", 501, "def log_metrics(")
@pytest.mark.printed("002", 508, "def end_experiment(self) -> str:")
@pytest.mark.printed("002", 561, 'experiment_tracker = MLflowExperimentTracker("http://localhost:5556")')
@pytest.mark.printed("002", 568, 'experiment_tracker = MLflowExperimentTracker("http://localhost:5556")')
@pytest.mark.printed("002", 575, 'MLflowExperimentTracker("http://production-mlflow:5556")')
def test_mlflow(mlflow_uri, monkeypatch):
    experiment_tracker = MLflowExperimentTracker(mlflow_uri)
    run_id = experiment_tracker.start_experiment("tracker", CONFIG)
    experiment_tracker.log_params({"batch_size": 32})
    experiment_tracker.log_metrics({"loss": 0.5, "rmse": 3.0}, 1)
    assert experiment_tracker.end_experiment() == run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    logger = MLflowExperimentLogger("logger")
    logger.log_params({"batch_size": 32})
    logger.log_metric("loss", 0.5, 1)
    logger.log_metric("rmse", 3.0, 1)
    assert logger.end_experiment() == logger.run_id
    client = MlflowClient(mlflow_uri)
    for experiment in ("tracker", "logger"):
        (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
        assert (run.data.params, run.data.metrics) == ({"batch_size": "32"}, {"loss": 0.5, "rmse": 3.0})
        assert run.info.status == "FINISHED"


@pytest.mark.printed("002", 578, "CompositeTracker([")
@pytest.mark.printed("002", 579, 'MLflowExperimentTracker("http://mlflow:5556")')
@pytest.mark.printed("002", 580, 'WandbExperimentTracker(project="ttm-experiments")')
def test_several_at_once(mlflow_uri, here):
    experiment_tracker = CompositeTracker(
        [MLflowExperimentTracker(mlflow_uri), WandbExperimentTracker(project="ttm-experiments")]
    )
    run_id = experiment_tracker.start_experiment("several", CONFIG)
    experiment_tracker.log_metrics({"loss": 0.5}, 1)
    assert experiment_tracker.end_experiment() == run_id
    client = MlflowClient(mlflow_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("several").experiment_id])
    assert run.data.metrics == {"loss": 0.5}
    assert [folder.name.endswith(run_id) for folder in here.rglob("offline-run-*")] == [True]


@pytest.mark.printed("002", 311, "def log_model(")
@pytest.mark.printed("002", 318, '"model_info.json"')
@pytest.mark.printed("002", 460, "trainer = TTMTrainer(")
@pytest.mark.printed("002", 467, "results = trainer.train()")
@pytest.mark.printed("002", 505, "def log_model(")
@pytest.mark.printed("002", 671, 'SimpleExperimentTracker("./simple_experiments")')
@pytest.mark.printed("002", 672, 'MLflowExperimentTracker("http://localhost:5556")')
@pytest.mark.printed("002", 673, 'WandbExperimentTracker(project="ttm-comparison")')
@pytest.mark.printed("002", 677, 'TTMTrainer(config_manager, tracker, "config.yaml")')
@pytest.mark.printed("002", 678, "trainer.train()")
def test_three_trackers_one_after_the_other_with_one_file(here, mlflow_uri):
    config_manager = SimpleConfigManager()
    trackers = [
        SimpleExperimentTracker("./simple_experiments"),
        MLflowExperimentTracker(mlflow_uri),
        WandbExperimentTracker(project="ttm-comparison"),
    ]
    results = []
    for tracker in trackers:
        trainer = TTMTrainer(config_manager, tracker, "config.yaml")
        results.append(trainer.train())
    folders = [Path(result["output_dir"]).name for result in results]
    assert folders == ["experiments", "experiments-2", "experiments-3"]
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"], "the tracker changes nothing"
    assert len({result["run_id"] for result in results}) == 3
    forecasts = [TTMForecaster.load(here / folder).predict(tiny.series()) for folder in folders]
    assert forecasts[0].equals(forecasts[1])
    simple, mlflow_tracker, _ = trackers
    summary = tiny.read_json(simple.current_run_dir / "summary.json")
    assert (summary["run_id"], summary["status"]) == (results[0]["run_id"], "FINISHED")
    info = tiny.read_json(simple.current_run_dir / "model_info.json")
    assert (info["model_name"], info["model_path"]) == ("model", "experiments")
    assert TTMForecaster.load(simple.current_run_dir / "models/model").predict(tiny.series()).equals(forecasts[0])
    client = MlflowClient(mlflow_uri)
    run = client.get_run(mlflow_tracker.mlflow_run_id)
    assert run.data.metrics["test/fine_tuned/rmse"] == results[1]["metrics"]["fine_tuned"]["rmse"]
    assert [model.name for model in client.search_logged_models([run.info.experiment_id])] == ["model"]
    (offline,) = here.rglob("offline-run-*")
    assert offline.name.endswith(results[2]["run_id"])
    assert mlflow.active_run() is None


# The command line


@pytest.mark.printed("002", 447, "def main():")
@pytest.mark.printed("002", 449, 'parser.add_argument("--config"')
@pytest.mark.printed("002", 450, 'parser.add_argument("--experiment-dir"')
@pytest.mark.printed("002", 456, "config_manager = SimpleConfigManager()")
@pytest.mark.printed("002", 457, "experiment_tracker = SimpleExperimentTracker(args.experiment_dir)")
@pytest.mark.printed("002", 468, "Training completed. Run ID: {results['run_id']}")
@pytest.mark.printed("002", 471, "main()")
def test_the_command_line(here, capsys):
    ids = []
    for number in (1, 2):  # the folder of the file tracker is also the output_dir of config.yaml
        assert finetune_ttm.main(["--config", "config.yaml", "--experiment-dir", "./experiments"]) == 0
        *_, folder, completed = capsys.readouterr().out.strip().splitlines()
        ids.append(completed.removeprefix("Training completed. Run ID: "))
        assert folder.endswith(f"experiments-{number + 1}")
        assert tiny.read_json(here / f"experiments-{number + 1}" / "tracking.json")["run_id"] == ids[-1]
    assert sorted(path.name for path in (here / "experiments" / "ttm_experiment").iterdir()) == sorted(ids)


# Adapters


@pytest.mark.printed("002", 593, "class LoRAManager:")
@pytest.mark.printed("002", 596, "def __init__(self):")
@pytest.mark.printed("002", 597, "self.supported_models")
@pytest.mark.printed("002", 608, "def add_lora_to_model(")
@pytest.mark.printed("002", 621, 'raise ValueError(f"Model type {model_type} not supported")')
@pytest.mark.printed("002", 641, "def get_lora_params_count(self, model)")
@pytest.mark.printed("002", 653, "def add_lora_adapters(")
@pytest.mark.printed("002", 655, "manager = LoRAManager()")
@pytest.mark.printed("002", 656, "manager.add_lora_to_model(")
def test_adapters(desk):
    from tsfm_public import TinyTimeMixerForPrediction

    def network():
        return TinyTimeMixerForPrediction.from_pretrained(desk / "checkpoint")

    manager = LoRAManager()
    assert {"ttm", "chronos", "chronos_bolt"} <= set(manager.supported_models)
    targets = manager.supported_models["ttm"]["target_modules"]
    adapted = manager.add_lora_to_model(
        network(), model_type="ttm", rank=16, alpha=32, dropout=0.1, bias="none", cap_rank=False
    )
    settings = adapted.peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout, settings.bias) == (16, 32, 0.1, "none")
    assert all(name.rpartition(".")[2] in targets for name in settings.target_modules)
    by_position = manager.add_lora_to_model(network(), "ttm", 16, 32, 0.1, "none", cap_rank=False)
    short = add_lora_adapters(network(), rank=16, model_type="ttm", cap_rank=False)
    counts = manager.get_lora_params_count(adapted)
    total = sum(p.numel() for p in adapted.parameters())
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert counts == {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "percentage_trainable": trainable / total * 100,
    }
    assert 0 < trainable < total
    assert manager.get_lora_params_count(by_position) == manager.get_lora_params_count(short) == counts
    for model_type in ("unknown", "persistence"):
        with pytest.raises(ValueError, match=f"auto knows ttm, .*, not {model_type}"):
            manager.add_lora_to_model(network(), model_type=model_type)
    with pytest.raises(ValueError, match=r"add_lora_to_model: 1 problem: lora.rank: .* \(got 0\)"):
        manager.add_lora_to_model(network(), rank=0)
