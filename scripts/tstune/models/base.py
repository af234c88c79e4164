"""The public face of all models: fit, predict, evaluate, save, load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tstune.config.managers import SimpleConfigManager, load_saved_config
from tstune.data.prepared import PreparedData, Preprocessor
from tstune.errors import CheckpointError
from tstune.evaluation.intervals import load_method, save_method
from tstune.models.adapters import Adapter, ItemAdapters, ParameterCount, count_parameters
from tstune.models.contract import ADAPTER_FOLDER, MODEL_FOLDER, ForecastModel, weights_folder
from tstune.models.predict import predict_frame
from tstune.named_code import ours, trusting
from tstune.runs.folder import writing

if TYPE_CHECKING:
    from tstune.runtime.distributed import DistributedManager
    from tstune.tracking.interfaces import ExperimentTracker
    from tstune.training.callbacks import Callback
    from tstune.training.contract import Checkpoints, TrainingResult


class BaseTimeSeriesFoundationModel(ForecastModel):
    """A forecaster of one family, with what all of them do the same; see `ForecastModel` for its arguments.

    A subclass defines `build`, `forecast`, `window_losses`, `save_weights` and `load_weights`.
    """

    def fit(
        self,
        train_data: str | pd.DataFrame | PreparedData | None = None,
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
            train_data: name of a source, a table, or prepared data; None reads the configured source.
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
        resume = None if resume is None else str(resume)
        return finetune(self, train_data, output_dir, overwrite, manager, resume, tracker, callbacks)

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
        )
        if self.config.lora.enabled and self.config.tuning.mode in ("lora", "dora"):
            self.adapter = Adapter.taken_from(self.network)
            if self.config.model.quantization == "none":  # packed weights would lose the update in rounding
                self.network = self.network.merge_and_unload()
                self.module.eval()
        self.learned_from(data)
        return result

    def predict(self, frame: pd.DataFrame | str | Path, future: pd.DataFrame | None = None) -> pd.DataFrame:
        """Forecast what follows the last reading of every series.

        Args:
            frame: table with the columns of the training data, or a CSV or Parquet file. Only the last
                `context_length` steps of each series are used.
            future: for models with control columns, their values over the forecast.

        Returns:
            one row per series and step: ``item_id``, ``timestamp`` and one column per target, original units; where the
            model has quantiles, behind them one column per target and level, ``<target>_q0.1`` and so on.
        """
        return predict_frame(self, frame, future)

    def evaluate(self, data: str | pd.DataFrame | PreparedData | None = None, part: str = "test") -> dict[str, float]:
        """Metrics on the windows of one part (``train``, ``validation``, ``test``); None reads the configured data."""
        from tstune.evaluation.backtest import Backtest
        from tstune.runtime.distributed import DistributedManager

        self.require_built()
        prepared = self.prepare(data)
        manager = DistributedManager.for_run(self.config)
        self.to(manager.device)
        backtest = Backtest(prepared, self.config.evaluation, manager, part)
        return backtest.score(self.for_items(prepared.panel.item_ids)).metrics

    def save(self, folder: str | Path) -> None:
        """Write `model/`, `preprocessor.json`, `config.yaml` and what else there is; `load` reads them back."""
        self.require_built()
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder)
            if self.adapter is not None:
                self.adapter.save(folder / ADAPTER_FOLDER)
            if self.item_adapters is not None:
                self.item_adapters.save(folder)
            if self.uncertainty is not None:
                save_method(self.uncertainty, folder)
            text = json.dumps(self.preprocessor.to_dict() | {"model_type": self.model_type}, indent=2)
            (folder / "preprocessor.json").write_text(text, encoding="utf-8")
            SimpleConfigManager().save_config(self.config, folder / "config.yaml")

    @classmethod
    def load(cls, folder: str | Path, trust_code: bool = False) -> BaseTimeSeriesFoundationModel:
        """Load a saved model on the CPU, ready to predict.

        Args:
            folder: run folder or published folder.
            trust_code: import the code that the folder names, a source or a metric, when it is used.

        Raises:
            CheckpointError: the folder is not a saved model of this family.
        """
        folder = Path(folder)
        ours(cls.model_type)
        adapter_only = (folder / "adapter_config.json").is_file()
        needed = ["config.yaml", "preprocessor.json"]
        if not adapter_only and weights_folder(folder) != folder:
            needed.append(MODEL_FOLDER)
        for name in needed:
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
        with trusting(trust_code):
            model = cls(load_saved_config(folder / "config.yaml"))
        model.preprocessor = preprocessor
        if adapter_only:
            model._build_under(folder)
        else:
            model.load_weights(folder)
        if model.config.model.quantization != "none" and (folder / ADAPTER_FOLDER).is_dir():
            model.load_adapter(folder / ADAPTER_FOLDER, merge=False)
        model.item_adapters = ItemAdapters.load(folder)
        model.uncertainty = load_method(folder)
        return model

    def _build_under(self, folder: Path) -> None:
        """Build the configured base and put a published adapter on it."""
        config = self.config
        whole = config.tuning.model_copy(update={"mode": "full"})  # a mode that adds no adapter of its own
        self.config = config.model_copy(update={"tuning": whole})
        self.build(self.preprocessor)
        self.config = config
        self.load_adapter(folder, merge=config.model.quantization == "none")

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
