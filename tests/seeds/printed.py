"""What the two design documents print, where it is in our code, and the page that says so.

    PYTHONPATH=scripts python tests/seeds/printed.py docs/design_documents.md

A test says which printed lines it runs: ``@pytest.mark.printed("002", 33, "SimpleConfigManager()")``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Printed:
    """A name or call on one line of a document.

    Attributes:
        line: in the file of the document, from 1.
        text: as it stands there.
        where: `module:name` of ours, or a path below the root of the project.
        reason: why no test runs it.
    """

    line: int
    text: str
    where: str
    reason: str = ""


@dataclass(frozen=True)
class Document:
    """One design document and all it prints."""

    number: str
    file: str
    title: str
    entries: tuple[Printed, ...]


_SKETCH = "an idea the document itself replaces a few lines below"
_STEP = "a private step of the document's sketch; ours are steps of one loop that all models share"

_MODEL = "tstune.models.base:BaseTimeSeriesFoundationModel"
_EXAMPLES = "scripts/examples/test_base_framework.py"
_FLAT = "tstune.config.flat:ModelConfig"
_SIMPLE = "tstune.config.managers:SimpleConfigManager"
_HYDRA = "tstune.config.managers:HydraConfigManager"
_MANAGER = "tstune.config.managers:ConfigManager"
_TRAINING = "tstune.config.flat:TrainingConfig"
_VIEW = "tstune.config.flat:TTMExperimentConfig"
_TRACKER = "tstune.tracking.interfaces:ExperimentTracker"
_FILES = "tstune.tracking.simple_tracker:SimpleExperimentTracker"
_FILE_LOGGER = "tstune.tracking.simple_tracker:SimpleExperimentLogger"
_MLFLOW_LOGGER = "tstune.tracking.mlflow_tracker:MLflowExperimentLogger"
_MLFLOW = "tstune.tracking.mlflow_tracker:MLflowExperimentTracker"
_WANDB = "tstune.tracking.wandb_tracker:WandbExperimentTracker"
_TRAINER = "tstune.trainer:TTMTrainer"
_LORA = "tstune.models.adapters:LoRAManager"

BASE_FRAMEWORK = Document(
    "000",
    "000_319101a251df4a74.txt",
    "Base Time Series Foundation Model Framework",
    (
        Printed(11, "`BaseTimeSeriesFoundationModel`", _MODEL),
        Printed(12, "`ModelConfig`", _FLAT),
        Printed(13, "`DistributedManager`", "tstune.runtime.distributed:DistributedManager"),
        Printed(14, "`LoRATrainer`", "tstune.models.adapters:LoRATrainer"),
        Printed(15, "`GPUManager`", "tstune.runtime.memory:GPUManager"),
        Printed(33, "config = TTMConfig(", _FLAT),
        Printed(44, "lora_config = LoRAConfig(", "tstune.config.schema:LoRAConfig"),
        Printed(48, 'target_modules=["q_proj", "v_proj", "mixer"]', "tstune.models.adapters:find_targets"),
        Printed(51, "distributed_config = DistributedConfig(", "tstune.config.schema:DistributedConfig"),
        Printed(57, "model = TTMForecaster(config, lora_config, distributed_config)", _MODEL),
        Printed(58, "results = model.fit(", f"{_MODEL}.fit"),
        Printed(85, "class BaseTimeSeriesFoundationModel(ABC):", _MODEL, _SKETCH),
        Printed(86, "def __init__(self, config: ModelConfig):", _MODEL, _SKETCH),
        Printed(92, "def forward(self, x: torch.Tensor) -> torch.Tensor:", _MODEL, _SKETCH),
        Printed(98, "class BaseTimeSeriesFoundationModel(ABC):", _MODEL),
        Printed(102, "def __init__(self, config, lora_config, distributed_config)", _MODEL),
        Printed(105, "def _initialize_model(self) -> None", _MODEL),
        Printed(106, "def _prepare_data(self, train_data, val_data, test_data)", _MODEL),
        Printed(107, "def _create_training_arguments(self, output_dir)", _MODEL),
        Printed(108, "def _compute_metrics(self, eval_pred)", _MODEL),
        Printed(109, "def _load_model_weights(self, model_dir)", _MODEL),
        Printed(
            112, "def fit(self, train_data, val_data, test_data, output_dir, resume_from_checkpoint)", f"{_MODEL}.fit"
        ),
        Printed(113, "def predict(self, data, batch_size, return_dict)", f"{_MODEL}.predict"),
        Printed(114, "def evaluate(self, data_loader)", f"{_MODEL}.evaluate"),
        Printed(117, "def save(self, output_dir, save_config, save_metadata)", f"{_MODEL}.save"),
        Printed(118, "def load(cls, model_dir, config)", f"{_MODEL}.load"),
        Printed(121, "def setup_distributed(self)", _MODEL),
        Printed(122, "def enable_lora(self)", _MODEL),
        Printed(123, "def get_model_info(self)", f"{_MODEL}.get_model_info"),
        Printed(124, "def _save_training_metadata(self, output_dir, metrics)", _MODEL),
        Printed(134, "class TTMForecaster(BaseTimeSeriesFoundationModel):", _MODEL),
        Printed(137, "def _initialize_model(self):", _MODEL),
        Printed(139, "self.model = get_model(", _MODEL),
        Printed(145, "def _prepare_data(self, train_data, val_data, test_data):", _MODEL),
        Printed(147, "get_loader(data_source_name=train_data, use_cached=True)", _MODEL),
        Printed(151, "dset_train, dset_val, dset_test = get_datasets(", _MODEL),
        Printed(163, "# configs/models/ttm/fine_tune.yaml", _SIMPLE),
        Printed(164, "model_type: ttm", _SIMPLE),
        Printed(165, 'model_path: "ibm-granite/granite-timeseries-ttm-r2"', _SIMPLE),
        Printed(167, "architecture:", _SIMPLE),
        Printed(172, "training:", _SIMPLE),
        Printed(179, "lora:", _SIMPLE),
        Printed(185, "distributed:", _SIMPLE),
        Printed(196, "python scripts/examples/test_base_framework.py --example 1", _EXAMPLES),
        Printed(199, "python scripts/examples/test_base_framework.py --example 2", _EXAMPLES),
        Printed(202, "python scripts/examples/test_base_framework.py --example 3", _EXAMPLES),
        Printed(205, "python scripts/examples/test_base_framework.py --example 4", _EXAMPLES),
        Printed(208, "python scripts/examples/test_base_framework.py", _EXAMPLES),
        Printed(216, "Implement `_prepare_data()` and `_compute_metrics()`", _MODEL),
    ),
)

ARCHITECTURE = Document(
    "002",
    "002_29da4f696ab19011.txt",
    "TTM Extensible Architecture for MLflow & Hydra",
    (
        Printed(27, "class SimpleConfigManager:", _SIMPLE),
        Printed(28, "def load_config(self, path: str) -> dict:", f"{_SIMPLE}.load_config"),
        Printed(33, "config_manager = SimpleConfigManager()", _SIMPLE),
        Printed(34, 'config = config_manager.load_config("config.yaml")', f"{_SIMPLE}.load_config"),
        Printed(40, "class HydraConfigManager:", _HYDRA),
        Printed(42, "def load_config(self, cfg: DictConfig) -> dict:", f"{_HYDRA}.load_with_hydra"),
        Printed(46, "config_manager = HydraConfigManager()", _HYDRA),
        Printed(47, 'config = config_manager.load_config("config.yaml")', f"{_HYDRA}.load_config"),
        Printed(55, "class SimpleExperimentLogger:", _FILE_LOGGER),
        Printed(56, "def __init__(self, experiment_dir: str):", _FILE_LOGGER),
        Printed(59, "def log_metric(self, key: str, value: float, step: int = None):", f"{_FILE_LOGGER}.log_metric"),
        Printed(63, "def log_params(self, params: dict):", f"{_FILES}.log_params"),
        Printed(71, "class MLflowExperimentLogger:", _MLFLOW_LOGGER),
        Printed(72, "def __init__(self, experiment_name: str):", _MLFLOW_LOGGER),
        Printed(75, "def log_metric(self, key: str, value: float, step: int = None):", f"{_MLFLOW_LOGGER}.log_metric"),
        Printed(78, "def log_params(self, params: dict):", f"{_MLFLOW}.log_params"),
        Printed(87, "src/train/ttm/", "scripts/tstune", "the tree is a sketch; ours is the README's table of places"),
        Printed(132, "class TrainingConfig:", _TRAINING),
        Printed(141, "class TTMExperimentConfig:", _VIEW),
        Printed(149, "class ConfigManager(ABC):", _MANAGER),
        Printed(153, "def load_config(self, config_path: str)", f"{_MANAGER}.load_config"),
        Printed(158, "def validate_config(self, config: TTMExperimentConfig) -> bool:", _MANAGER),
        Printed(163, "def save_config(self, config: TTMExperimentConfig, output_path: str)", _MANAGER),
        Printed(176, "class ExperimentTracker(ABC):", _TRACKER),
        Printed(180, "def start_experiment(self, experiment_name: str, config: dict) -> str:", _TRACKER),
        Printed(185, "def log_params(self, params: dict) -> None:", f"{_TRACKER}.log_params"),
        Printed(190, "def log_metrics(self, metrics: dict, step: Optional[int] = None)", _TRACKER),
        Printed(195, "def log_model(self, model_path: Path, model_name: str) -> None:", _TRACKER),
        Printed(200, "def end_experiment(self) -> str:", f"{_TRACKER}.end_experiment"),
        Printed(217, "class SimpleConfigManager(ConfigManager):", _SIMPLE),
        Printed(220, "def load_config(self, config_path: str)", f"{_SIMPLE}.load_config"),
        Printed(224, "TrainingConfig(**data['training'])", _TRAINING),
        Printed(226, "TTMExperimentConfig(", _VIEW),
        Printed(227, "data['model']['path']", _SIMPLE),
        Printed(228, "data['data']['source_name']", _SIMPLE),
        Printed(230, "data.get('experiment_name', 'default')", _SIMPLE),
        Printed(231, "data.get('output_dir', './experiments')", _SIMPLE),
        Printed(234, "def validate_config(", f"{_SIMPLE}.validate_config"),
        Printed(243, "def save_config(", f"{_SIMPLE}.save_config"),
        Printed(272, "class SimpleExperimentTracker(ExperimentTracker):", _FILES),
        Printed(275, 'def __init__(self, base_dir: str = "./experiments"):', _FILES),
        Printed(280, "def start_experiment(", f"{_FILES}.start_experiment"),
        Printed(288, '"config.json"', f"{_FILES}.start_experiment"),
        Printed(294, "def log_params(self, params: dict) -> None:", f"{_FILES}.log_params"),
        Printed(295, '"params.json"', f"{_FILES}.log_params"),
        Printed(299, "def log_metrics(", f"{_FILES}.log_metrics"),
        Printed(300, '"metrics.jsonl"', f"{_FILES}.log_metrics"),
        Printed(303, "'timestamp': datetime.now().isoformat()", f"{_FILES}.log_metrics", "the column is called time"),
        Printed(311, "def log_model(", f"{_FILES}.log_model"),
        Printed(318, '"model_info.json"', f"{_FILES}.log_model"),
        Printed(322, "def end_experiment(self) -> str:", f"{_FILES}.end_experiment"),
        Printed(329, '"run_summary.json"', f"{_FILES}.end_experiment"),
        Printed(349, "class TTMTrainer:", _TRAINER),
        Printed(352, "def __init__(", _TRAINER),
        Printed(362, "self.config = config_manager.load_config(config_path)", _TRAINER),
        Printed(363, "if not config_manager.validate_config(self.config):", _TRAINER),
        Printed(364, 'raise ValueError("Invalid configuration")', _TRAINER),
        Printed(366, "def train(self) -> dict:", f"{_TRAINER}.train"),
        Printed(370, "self.experiment_tracker.start_experiment(", f"{_TRAINER}.train"),
        Printed(372, "self._config_to_dict()", _TRAINER, _STEP),
        Printed(377, "self.experiment_tracker.log_params(", f"{_TRAINER}.train"),
        Printed(377, "self._get_training_params()", _TRAINER, _STEP),
        Printed(380, "self._load_model()", _TRAINER, _STEP),
        Printed(382, "add_lora_adapters(model, rank=self.config.training.lora_rank)", f"{_TRAINER}.train"),
        Printed(383, "self.experiment_tracker.log_params({", f"{_TRAINER}.train"),
        Printed(389, "self._load_data()", _TRAINER, _STEP),
        Printed(392, "self._create_hf_trainer(model, train_data, eval_data)", _TRAINER, _STEP),
        Printed(395, "trainer.train()", _TRAINER, _STEP),
        Printed(398, "trainer.evaluate()", _TRAINER, _STEP),
        Printed(399, "self.experiment_tracker.log_metrics(metrics)", f"{_TRAINER}.train"),
        Printed(402, "self._save_model(trainer.model)", _TRAINER, _STEP),
        Printed(403, 'self.experiment_tracker.log_model(model_path, "ttm_finetuned")', _TRAINER),
        Printed(409, "self.experiment_tracker.end_experiment()", f"{_TRAINER}.train"),
        Printed(410, "{'run_id': final_run_id, 'metrics': metrics}", f"{_TRAINER}.train"),
        Printed(412, "def _config_to_dict(self) -> dict:", _TRAINER, _STEP),
        Printed(423, "def _get_training_params(self) -> dict:", _TRAINER, _STEP),
        Printed(447, "def main():", "scripts/finetune_ttm.py"),
        Printed(449, 'parser.add_argument("--config"', "scripts/finetune_ttm.py"),
        Printed(450, 'parser.add_argument("--experiment-dir"', "scripts/finetune_ttm.py"),
        Printed(456, "config_manager = SimpleConfigManager()", _SIMPLE),
        Printed(457, "experiment_tracker = SimpleExperimentTracker(args.experiment_dir)", _FILES),
        Printed(460, "trainer = TTMTrainer(", _TRAINER),
        Printed(467, "results = trainer.train()", f"{_TRAINER}.train"),
        Printed(468, "Training completed. Run ID: {results['run_id']}", "scripts/finetune_ttm.py"),
        Printed(471, "main()", "scripts/finetune_ttm.py"),
        Printed(485, "class MLflowExperimentTracker(ExperimentTracker):", _MLFLOW),
        Printed(488, "def __init__(self, tracking_uri: str = None):", _MLFLOW),
        Printed(493, "def start_experiment(", f"{_MLFLOW}.start_experiment"),
        Printed(498, "def log_params(", f"{_MLFLOW}.log_params"),
        Printed(501, "def log_metrics(", f"{_MLFLOW}.log_metrics"),
        Printed(505, "def log_model(", f"{_MLFLOW}.log_model"),
        Printed(508, "def end_experiment(self) -> str:", f"{_MLFLOW}.end_experiment"),
        Printed(522, "class HydraConfigManager(ConfigManager):", _HYDRA),
        Printed(525, "def load_config(self, config_path: str = None)", f"{_HYDRA}.load_config"),
        Printed(531, "def load_with_hydra(self, cfg: DictConfig)", f"{_HYDRA}.load_with_hydra"),
        Printed(535, "TrainingConfig(**config_dict['training'])", f"{_HYDRA}.load_with_hydra"),
        Printed(537, "TTMExperimentConfig(", f"{_HYDRA}.load_with_hydra"),
        Printed(541, "config_dict.get('experiment_name', 'default')", f"{_HYDRA}.load_with_hydra"),
        Printed(542, "config_dict.get('output_dir', './experiments')", f"{_HYDRA}.load_with_hydra"),
        Printed(553, "config_manager = SimpleConfigManager()", _SIMPLE),
        Printed(554, 'experiment_tracker = SimpleExperimentTracker("./experiments")', _FILES),
        Printed(560, "config_manager = SimpleConfigManager()", _SIMPLE),
        Printed(561, 'experiment_tracker = MLflowExperimentTracker("http://localhost:5556")', _MLFLOW),
        Printed(567, "config_manager = HydraConfigManager()", _HYDRA),
        Printed(568, 'experiment_tracker = MLflowExperimentTracker("http://localhost:5556")', _MLFLOW),
        Printed(574, "config_manager = HydraConfigManager()", _HYDRA),
        Printed(575, 'MLflowExperimentTracker("http://production-mlflow:5556")', _MLFLOW),
        Printed(578, "CompositeTracker([", "tstune.tracking.composite:CompositeTracker"),
        Printed(579, 'MLflowExperimentTracker("http://mlflow:5556")', _MLFLOW),
        Printed(580, 'WandbExperimentTracker(project="ttm-experiments")', _WANDB),
        Printed(593, "class LoRAManager:", _LORA),
        Printed(596, "def __init__(self):", _LORA),
        Printed(597, "self.supported_models", _LORA),
        Printed(608, "def add_lora_to_model(", f"{_LORA}.add_lora_to_model"),
        Printed(621, 'raise ValueError(f"Model type {model_type} not supported")', _LORA),
        Printed(641, "def get_lora_params_count(self, model)", f"{_LORA}.get_lora_params_count"),
        Printed(653, "def add_lora_adapters(", "tstune.models.adapters:add_lora_adapters"),
        Printed(655, "manager = LoRAManager()", _LORA),
        Printed(656, "manager.add_lora_to_model(", f"{_LORA}.add_lora_to_model"),
        Printed(671, 'SimpleExperimentTracker("./simple_experiments")', _FILES),
        Printed(672, 'MLflowExperimentTracker("http://localhost:5556")', _MLFLOW),
        Printed(673, 'WandbExperimentTracker(project="ttm-comparison")', _WANDB),
        Printed(677, 'TTMTrainer(config_manager, tracker, "config.yaml")', _TRAINER),
        Printed(678, "trainer.train()", f"{_TRAINER}.train"),
        Printed(684, "class CustomResearchTracker(ExperimentTracker):", _TRACKER),
        Printed(685, "def log_gradients(self, model):", "tstune.tracking.run:TrackedRun.on_pre_optimizer_step"),
        Printed(689, "def log_attention_weights(self, model):", "tstune.models.ttm:gated_attention_weights"),
    ),
)

DOCUMENTS = (BASE_FRAMEWORK, ARCHITECTURE)


def marked() -> Iterator[tuple[str, int, str, str]]:
    """Every ``pytest.mark.printed(document, line, text)`` of this folder, with the test that carries it."""
    for path in sorted(HERE.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for test in tree.body:
            if not isinstance(test, ast.FunctionDef):
                continue
            calls = [node for decorator in test.decorator_list for node in ast.walk(decorator)]
            for call in calls:
                if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "printed":
                    number, line, text = (ast.literal_eval(argument) for argument in call.args)
                    yield number, line, text, f"{path.name}::{test.name}"


def page() -> str:
    """docs/design_documents.md."""
    tests: dict[tuple[str, int, str], list[str]] = {}
    for number, line, text, test in marked():
        tests.setdefault((number, line, text), []).append(f"`{test}`")
    parts = [
        "# The design documents\n",
        "What the two documents this project began with print, where it is here, and the test in `tests/seeds/` that",
        "runs it. Written by `make docs` from the marks of those tests.",
    ]
    for document in DOCUMENTS:
        parts += [
            f"\n## {document.title} ({document.number})\n",
            "| line | printed | here | test |",
            "|---|---|---|---|",
        ]
        for entry in document.entries:
            run_by = tests.get((document.number, entry.line, entry.text), [])
            told = ", ".join(run_by) if run_by else f"not run: {entry.reason}"
            printed = entry.text.strip("`").replace("`", "").replace("|", "\\|")
            parts.append(f"| {entry.line} | `{printed}` | `{entry.where.replace(':', '.')}` | {told} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
