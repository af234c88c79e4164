"""The public face of all models: fit, predict, evaluate, save, load."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from torch.utils.data import DataLoader

from tstune.config.flat import ModelConfig
from tstune.config.managers import SimpleConfigManager, load_saved_config
from tstune.config.schema import RunConfig
from tstune.data.prepared import PreparedData, data_of_loader
from tstune.data.preprocess import Preprocessor
from tstune.errors import CheckpointError
from tstune.evaluation.intervals import load_method, save_method
from tstune.foreign_files import damage, require_sealed, seal
from tstune.models.adapters import Adapter, ItemAdapters, ParameterCount, count_parameters, read_training
from tstune.models.contract import ADAPTER_FOLDER, ForecastModel, require_saved, with_family_keys, with_sections
from tstune.models.hooks import Readings
from tstune.models.own_network import answer_by_hooks
from tstune.models.predict import forecast_table
from tstune.named_code import ours, trusting
from tstune.runs.folder import TRAINING_METADATA, RunFolder, writing
from tstune.tracking.interfaces import MODEL_FILES

if TYPE_CHECKING:
    from tstune.runtime.distributed import DistributedManager
    from tstune.tracking.interfaces import ExperimentTracker
    from tstune.training.callbacks import Callback
    from tstune.training.checkpoint import Checkpoints
    from tstune.training.loop import TrainingResult


class BaseTimeSeriesFoundationModel(ForecastModel):
    """A forecaster of one family, with what all of them do the same; see `ForecastModel` for its arguments.

    A subclass defines `build`, `forecast`, `window_losses`, `save_weights` and `load_weights`, or `_initialize_model`,
    which sets ``self.model`` to a network, and gets those of `tstune.models.own_network`.
    """

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "_initialize_model" in vars(cls):
            answer_by_hooks(cls)

    def fit(
        self,
        train_data: Readings = None,
        val_data: Readings = None,
        test_data: Readings = None,
        output_dir: str | Path | None = None,
        resume_from_checkpoint: str | Path | None = None,
        *,
        overwrite: bool | None = None,
        manager: DistributedManager | None = None,
        tracker: ExperimentTracker | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> dict:
        """Tune the model and judge it: before, after, and against the baselines, on the same test windows.

        Args:
            train_data: name of a source, a file, a table, or prepared data; None reads the configured source.
            val_data, test_data: the same for what validates and tests; None cuts them off the train data.
            output_dir: run folder to write; None writes nothing.
            resume_from_checkpoint: ``auto`` or the path of a checkpoint; None takes the configuration's
                `training.resume_from_checkpoint`.
            overwrite: replace an existing run folder; None takes the configuration's.
            manager: running process group; None starts one.
            tracker: where the run is written down; None takes the configuration's `tracking.trackers`.
            callbacks: look on while it trains, beside those that `training.callbacks` names; see `Callback`.

        Returns:
            ``metrics`` {model: {metric: value}} · ``best_model`` · ``verdict`` (did tuning help, see `Verdict`) ·
            ``kept`` (what the model now is, ``fine_tuned`` or ``zero_shot``) · ``parameters`` · ``training`` (a
            `TrainingResult`, None for zero-shot) · ``output_dir`` · ``run_id`` (of the trackers).
        """
        # here, not above: a configuration imports its family, and must not load trackers and plots
        from tstune.runs.finetune import finetune

        overwrite = self.config.overwrite if overwrite is None else overwrite
        resume = resume_from_checkpoint or self.config.training.resume_from_checkpoint
        resume, data = None if resume is None else str(resume), (train_data, val_data, test_data)
        return finetune(self, data, output_dir, overwrite, manager, resume, tracker, callbacks)

    def train_on(
        self,
        data: PreparedData,
        manager: DistributedManager,
        history_path: Path | None = None,
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> TrainingResult:
        """Train on prepared windows; the network ends with the weights of the lowest validation loss."""
        from tstune.training.feature_cache import training_windows
        from tstune.training.loop import train

        self.trained = count_parameters(self.module).to_dict()
        result = train(
            self,
            *training_windows(self, data, manager),
            self.config.training,
            manager,
            seed=self.config.seed,
            eval_batch_size=self.evaluation_batch_size(manager.device),
            history_path=history_path,
            start_counts=self.starts_from_weights() and self.config.evaluation.keep_best,
            checkpoints=checkpoints,
            callbacks=callbacks,
            tuning=self.config.tuning,
        )
        if self.config.lora.enabled and self.config.tuning.mode in ("lora", "dora"):
            self.adapter = Adapter.taken_from(self.network)
            self.trained["adapter"] = self.adapter.describe()
            if self.config.model.quantization == "none":  # packed weights would lose the update in rounding
                self.network = self.network.merge_and_unload()
                self.module.eval()
        self.learned_from(data)
        return result

    def predict(
        self,
        data: pd.DataFrame | str | Path,
        batch_size: int | None = None,
        return_dict: bool = False,
        *,
        future: pd.DataFrame | None = None,
    ) -> pd.DataFrame | dict:
        """Forecast what follows the last reading of every series.

        Args:
            data: table with the columns of the training data, or a CSV or Parquet file. Only the last
                `context_length` steps of each series are used.
            batch_size: series per forward pass; None takes `evaluation.batch_size`.
            return_dict: return the arrays of `Forecasts` by name instead of a table.
            future: for models with control columns, their values over the forecast.

        Returns:
            one row per series and step: ``item_id``, ``timestamp`` and one column per target, original units; where the
            model has quantiles, behind them one column per target and level, ``<target>_q0.1`` and so on.
        """
        found = forecast_table(self, data, future, batch_size=batch_size)
        return vars(found) if return_dict else found.to_frame()

    def evaluate(self, data: Readings | DataLoader = None, part: str = "test") -> dict[str, float]:
        """Metrics on the windows of one part (``train``, ``validation``, ``test``); None reads the configured data.

        They are of every scoreboard, `evaluation.metrics` and `_compute_metrics`; a loader's windows are all scored.
        """
        from tstune.evaluation.backtest import Backtest
        from tstune.evaluation.uncertainty import configured_metrics

        self.require_built()
        prepared = data_of_loader(data, part) if isinstance(data, DataLoader) else self.run_data(data, None, None)
        manager = self.setup_distributed()
        self.to(manager.device)
        backtest = Backtest(prepared, self.config.evaluation, manager, part)
        return configured_metrics(backtest.score(self.for_items(prepared.panel.item_ids)), backtest.windows, self)

    def setup_distributed(self) -> DistributedManager:
        """Start Accelerate as the configuration asks for it, or stop where the launcher gave something else."""
        from tstune.runtime.distributed import DistributedManager

        return DistributedManager.for_run(self.config)

    def enable_lora(self) -> None:
        """Make low-rank adapters the tuning mode of the next `fit`, with the settings of `lora`."""
        lora = self.config.lora.model_copy(update={"enabled": True})
        self.config = with_family_keys(with_sections(self.config, lora, None), type(self))

    def save(self, output_dir: str | Path, save_config: bool = True, save_metadata: bool = True) -> None:
        """Write `model/`, `preprocessor.json` and what else there is; `load` reads them back.

        Args:
            output_dir: folder to write into.
            save_config: write `config.yaml` too; without it, `load` must be given the configuration.
            save_metadata: write `training_metadata.json` too, what `get_model_info` says.
        """
        self.require_built()
        with writing(folder := Path(output_dir)):
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder)
            if self.adapter is not None:
                self.adapter.save(folder / ADAPTER_FOLDER)
            if self.item_adapters is not None:
                self.item_adapters.save(folder)
            if self.uncertainty is not None:
                save_method(self.uncertainty, folder)
            self.preprocessor.write(folder, self.model_type)
            if save_config:
                SimpleConfigManager().save_config(self.config, folder / "config.yaml")
            seal(folder, MODEL_FILES)
        if save_metadata:
            self._save_training_metadata(folder)

    def _save_training_metadata(self, output_dir: Path, metrics: dict | None = None) -> None:
        RunFolder(output_dir).write_json(TRAINING_METADATA, self.get_model_info() | {"metrics": metrics or {}})

    @classmethod
    def load(
        cls, model_dir: str | Path, config: ModelConfig | RunConfig | None = None, trust_code: bool = False
    ) -> BaseTimeSeriesFoundationModel:
        """Load a saved model on the CPU, ready to predict.

        Args:
            model_dir: run folder or published folder.
            config: what to take instead of its `config.yaml`.
            trust_code: import the code that the folder names, a source or a metric, when it is used.

        Raises:
            CheckpointError: the folder is not a saved model of this family.
        """
        folder = Path(model_dir)
        ours(cls.model_type)
        adapter_only = require_saved(folder, config is None)
        if config is None:
            require_sealed(folder)
        model_type, preprocessor = Preprocessor.read(folder)
        if model_type != cls.model_type:
            raise CheckpointError(f"{folder} holds a {model_type} model, not {cls.model_type}")
        with trusting(trust_code):
            model = cls(config or load_saved_config(folder / "config.yaml"))
        model.preprocessor = preprocessor
        with nullcontext() if ":" in cls.model_type else damage(folder):  # code of your own keeps its tracebacks
            if adapter_only:
                model.build_under(folder)
            else:
                model._load_model_weights(folder)
            if model.config.model.quantization != "none" and (folder / ADAPTER_FOLDER).is_dir():
                model.load_adapter(folder / ADAPTER_FOLDER, merge=False)
            model.item_adapters = ItemAdapters.load(folder)
            model.uncertainty, model.trained = load_method(folder), read_training(folder)
            if model.uncertainty is not None:
                model.uncertainty.check(model.config.model.prediction_length, preprocessor.roles.num_targets)
        return model

    def get_model_info(self) -> dict:
        """Family, lengths, mode, fresh tensors; parameters and adapter as they were trained, also of a loaded model."""
        count = count_parameters(self.module) if self.module is not None else ParameterCount(0, 0)
        return {
            "model_type": self.model_type,
            "pretrained": self.config.model.pretrained,
            "context_length": self.config.model.context_length,
            "prediction_length": self.config.model.prediction_length,
            "tuning_mode": self.config.tuning.mode,
            "fresh_tensors": self.fresh,
        } | (count.to_dict() | self.trained)
