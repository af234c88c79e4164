"""The one interface of all models: fit, predict, evaluate, save, load.

A family answers a few questions only: build me, loss of this batch, forecast of this batch, save and
load my weights. Data, loop, scores and the run folder exist once and are shared.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from tstune.adapters import ParameterCount, count_parameters
from tstune.config.flat import ModelConfig
from tstune.config.schema import DistributedConfig, RunConfig
from tstune.config.simple_manager import SimpleConfigManager
from tstune.data.pipeline import PreparedData, Preprocessor, prepare_data
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError
from tstune.evaluation.backtest import Backtest
from tstune.models.predict import predict_frame
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.training.loop import TrainingResult, train


class BaseTimeSeriesFoundationModel(ABC):
    """A forecaster of one family.

    Args:
        config: the run, as flat keywords (`TTMConfig`) or as a `RunConfig`.
        distributed_config: what the run needs from the launcher.

    Attributes:
        config: validated `RunConfig`.
        module: the network once built or loaded; None for models without one.
        preprocessor: how data is read and scaled, once built or loaded.
        fresh: names of parameters that were not found in the pretrained weights.
    """

    model_type: ClassVar[str]

    def __init__(
        self, config: ModelConfig | RunConfig | None = None, distributed_config: DistributedConfig | None = None
    ) -> None:
        run_config = config.run_config if isinstance(config, ModelConfig) else config or RunConfig()
        if distributed_config is not None:
            run_config = run_config.model_copy(update={"distributed": distributed_config})
        self.config: RunConfig = run_config
        self.module: nn.Module | None = None
        self.preprocessor: Preprocessor | None = None
        self.fresh: list[str] = []

    # What a family defines

    @abstractmethod
    def build(self, preprocessor: Preprocessor) -> None:
        """Create the model for these channels, with the weights and the tuning mode of the configuration."""

    @abstractmethod
    def forecast(self, batch: Batch) -> torch.Tensor:
        """Forecast a batch of windows: [batch, prediction, targets] float32 in original units."""

    @abstractmethod
    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """([batch] summed loss, [batch] weight) of each window; see `tstune.training.losses`."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Write weights and architecture in the format of the family's own library."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote; `self.preprocessor` is set."""

    # What all families share

    def fit(
        self,
        train_data: str | pd.DataFrame | PreparedData | None = None,
        output_dir: str | Path | None = None,
        resume_from_checkpoint: str | Path | None = None,
        *,
        overwrite: bool | None = None,
        manager: DistributedManager | None = None,
    ) -> dict:
        """Tune the model and judge it: before, after, and against the baselines, on the same test windows.

        Args:
            train_data: name of a source, a table, or prepared data; None reads the configured source.
            output_dir: run folder to write; None writes nothing.
            resume_from_checkpoint: reserved for checkpoints inside a run; must be None.
            overwrite: replace an existing run folder; None takes the configuration's.
            manager: running process group; None starts one.

        Returns:
            ``metrics`` {model: {metric: value}} · ``best_model`` · ``parameters`` · ``training`` (a
            `TrainingResult`, None for zero-shot) · ``output_dir``.
        """
        from tstune.finetune import finetune  # the orchestrator knows the models, not the other way round

        if resume_from_checkpoint is not None:
            raise ConfigError(
                f"resume_from_checkpoint={resume_from_checkpoint}: runs do not write checkpoints to resume from; "
                "leave it None"
            )
        return finetune(
            self, train_data, output_dir, self.config.overwrite if overwrite is None else overwrite, manager
        )

    def train_on(
        self, data: PreparedData, manager: DistributedManager, history_path: Path | None = None
    ) -> TrainingResult:
        """Train on prepared windows; the network ends with the weights of the lowest validation loss."""
        return train(
            self,
            data.train,
            data.validation,
            self.config.training,
            manager,
            seed=self.config.seed,
            eval_batch_size=self.config.evaluation.batch_size,
            history_path=history_path,
            start_counts=self.starts_from_weights(),
        )

    def predict(self, frame: pd.DataFrame | str | Path, future: pd.DataFrame | None = None) -> pd.DataFrame:
        """Forecast what follows the last reading of every series.

        Args:
            frame: table with the columns of the training data, or a CSV or Parquet file. Only the last
                `context_length` steps of each series are used.
            future: for models with control columns, their values over the forecast.

        Returns:
            one row per series and step: ``item_id``, ``timestamp`` and one column per target, original units.
        """
        return predict_frame(self, frame, future)

    def evaluate(self, data: str | pd.DataFrame | PreparedData | None = None, part: str = "test") -> dict[str, float]:
        """Metrics on the windows of one part (``train``, ``validation``, ``test``); None reads the configured data."""
        self.require_built()
        prepared = self.prepare(data)
        manager = DistributedManager(self.config.distributed, self.config.training.mixed_precision)
        self.to(manager.device)
        return Backtest(prepared, self.config.evaluation, manager, part).score(self).metrics

    def save(self, folder: str | Path) -> None:
        """Write `model/`, `preprocessor.json` and `config.yaml`; `load` reads them back."""
        self.require_built()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_weights(folder / "model")
        text = json.dumps(self.preprocessor.to_dict() | {"model_type": self.model_type}, indent=2)
        (folder / "preprocessor.json").write_text(text, encoding="utf-8")
        SimpleConfigManager().save_config(self.config, folder / "config.yaml")

    @classmethod
    def load(cls, folder: str | Path) -> BaseTimeSeriesFoundationModel:
        """Load a saved model on the CPU, ready to predict.

        Raises:
            CheckpointError: the folder is not a saved model of this family.
        """
        folder = Path(folder)
        for name in ("config.yaml", "preprocessor.json", "model"):
            if not (folder / name).exists():
                raise CheckpointError(f"{folder} is not a run folder: {name} is missing")
        try:
            saved = json.loads((folder / "preprocessor.json").read_text(encoding="utf-8"))
            model_type = saved.pop("model_type")
            preprocessor = Preprocessor.from_dict(saved)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / 'preprocessor.json'} is damaged: {error}") from None
        if model_type != cls.model_type:
            raise CheckpointError(f"{folder} holds a {model_type} model, not {cls.model_type}")
        model = cls(SimpleConfigManager().load_config(folder / "config.yaml"))
        model.preprocessor = preprocessor
        model.load_weights(folder / "model")
        return model

    def get_model_info(self) -> dict:
        """Family, lengths, tuning mode, parameter counts and fresh tensors."""
        count = count_parameters(self.module) if self.module is not None else ParameterCount(0, 0)
        return {
            "model_type": self.model_type,
            "pretrained": self.config.model.pretrained,
            "context_length": self.config.model.context_length,
            "prediction_length": self.config.model.prediction_length,
            "tuning_mode": self.config.tuning.mode,
            "fresh_tensors": self.fresh,
        } | count.to_dict()

    def prepare(self, data: str | pd.DataFrame | PreparedData | None = None) -> PreparedData:
        """Windows of a source, a table or the configured source; prepared data is returned as it is."""
        if isinstance(data, PreparedData):
            return data
        section, table = self.config.data, None
        if isinstance(data, str):
            section = section.model_copy(update={"source": data})
        elif data is not None:
            from tstune.data.sources.csv import table_from_frame

            table = table_from_frame(data, section, "train_data")
        return prepare_data(section, self.config.model.context_length, self.config.model.prediction_length, table)

    def to(self, device: torch.device) -> None:
        """Move the network."""
        if self.module is not None:
            self.module.to(device)

    def require_built(self) -> None:
        """Stop if there is nothing to use yet."""
        if self.preprocessor is None:
            raise ConfigError(
                f"this {type(self).__name__} has no weights yet: call fit() or {type(self).__name__}.load(folder)"
            )

    def starts_from_weights(self) -> bool:
        """True if the untuned model is worth something: pretrained, and nothing fresh."""
        pretrained = self.config.model.pretrained is not None and self.config.tuning.mode != "from_scratch"
        return pretrained and not self.fresh

    def log_parameters(self) -> None:
        """Say how many parameters learn and which tensors are fresh."""
        logger.info("%s, tuning mode %s: %s", self.model_type, self.config.tuning.mode, count_parameters(self.module))
        if self.fresh:
            logger.info("not in the checkpoint, randomly initialised: %s", ", ".join(self.fresh))
