"""The one interface of all models: fit, predict, evaluate, save, load.

A family answers a few questions only: build me, loss of this batch, forecast of this batch, save and
load my weights. Data, loop, scores and the run folder exist once and are shared.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from tstune.adapters import LoRAManager, ParameterCount, count_parameters
from tstune.config.flat import ModelConfig
from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import DistributedConfig, LoRAConfig, RunConfig
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData, Preprocessor, prepare_data
from tstune.data.trained_on import refuse_trained_on
from tstune.data.windows import Batch, MirroredWindows, WindowDataset, context_dropping, evaluation_batch_size
from tstune.errors import CheckpointError, ConfigError
from tstune.evaluation.backtest import Backtest, Forecaster
from tstune.evaluation.context_spread import context_spread
from tstune.models.lora_files import Adapter
from tstune.models.per_item import ItemAdapters
from tstune.models.predict import predict_frame
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import ExperimentTracker
from tstune.training.contract import Checkpoints, TrainingObserver, TrainingResult
from tstune.training.feature_cache import CachedWindows
from tstune.training.loop import train
from tstune.uncertainty.files import load_method, save_method
from tstune.uncertainty.interface import UncertaintyMethod

MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"


class BaseTimeSeriesFoundationModel(ABC):
    """A forecaster of one family.

    Args:
        config: the run, as flat keywords (`TTMConfig`) or as a `RunConfig`.
        lora_config: low-rank adapters; ``enabled=True`` makes them the tuning mode.
        distributed_config: what the run needs from the launcher.

    Attributes:
        config: validated `RunConfig`.
        module: the network once built or loaded; None for models without one.
        preprocessor: how data is read and scaled, once built or loaded.
        fresh: names of parameters that were not found in the pretrained weights.
        adapter: the trained low-rank adapter, if there is one.
        item_adapters: one adapter per item, if they were tuned.
        uncertainty: fitted on validation windows, turns forecasts into quantiles; None without quantiles.
    """

    model_type: ClassVar[str]
    """Name in `tstune.models.registry`; a class that is not in there is ``module:Class``, by itself."""
    parts: ClassVar[Collection[str]] = ()
    """Names of the parts of the network that tuning modes and learning-rate factors speak of, see `part_of`."""
    block_classes: ClassVar[tuple[str, ...]] = ()
    """Names of the layer classes that FSDP shards one by one."""

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "model_type" not in vars(cls) and ":" in getattr(cls, "model_type", ":"):
            cls.model_type = f"{cls.__module__}:{cls.__qualname__}"

    def __init__(
        self,
        config: ModelConfig | RunConfig | None = None,
        lora_config: LoRAConfig | None = None,
        distributed_config: DistributedConfig | None = None,
    ) -> None:
        run_config = config.run_config if isinstance(config, ModelConfig) else config or RunConfig()
        self.config: RunConfig = _with_sections(run_config, lora_config, distributed_config)
        self.module: nn.Module | None = None
        self.preprocessor: Preprocessor | None = None
        self.fresh: list[str] = []
        self.adapter: Adapter | None = None
        self.item_adapters: ItemAdapters | None = None
        self.uncertainty: UncertaintyMethod | None = None
        self.quantization_report: object | None = None

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
        """Write `model/` into the folder: weights and architecture in the format of the family's own library."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote; `self.preprocessor` is set."""

    @property
    def network(self) -> nn.Module:
        """The family's own network inside `module`; adapters go there."""
        return self.module

    @network.setter
    def network(self, network: nn.Module) -> None:
        self.module = network

    # What a family may define

    @property
    def native_levels(self) -> tuple[float, ...]:
        """Ascending levels the network itself forecasts quantiles for; empty if it forecasts points only."""
        return ()

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending."""
        raise TypeError(f"{type(self).__name__} has native_levels but no native_quantiles")

    # What all families share

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Levels of `forecast_quantiles`; empty if this model forecasts points only."""
        if self.uncertainty is not None:
            return self.uncertainty.levels
        return self.native_levels if self.config.forecast.quantiles else ()

    def forecast_quantiles(self, batch: Batch, point: torch.Tensor | None = None) -> torch.Tensor:
        """Forecast quantiles of a batch of windows.

        Args:
            batch: windows, as for `forecast`.
            point: their forecast where it was made already, for example with the adapters of the items.

        Returns:
            [batch, prediction, targets, levels] float32 in original units, ascending; see `quantile_levels`.

        Raises:
            ConfigError: this model forecasts points only.
        """
        if not self.quantile_levels:
            raise ConfigError(f"this {type(self).__name__} forecasts points only; train it with forecast.quantiles")
        if self.uncertainty is None:
            return self.native_quantiles(batch)
        native = self.native_quantiles(batch).detach().cpu().numpy() if self.uncertainty.uses_native else None
        if native is None and point is None:
            point = self.forecast(batch)
        spread = context_spread(batch, self.preprocessor.roles.num_targets).cpu().numpy()
        values = self.uncertainty.quantiles(None if point is None else point.detach().cpu().numpy(), spread, native)
        return torch.from_numpy(values).to(batch["past_values"].device)

    def fit(
        self,
        train_data: str | pd.DataFrame | PreparedData | None = None,
        output_dir: str | Path | None = None,
        resume_from_checkpoint: str | Path | None = None,
        *,
        overwrite: bool | None = None,
        manager: DistributedManager | None = None,
        tracker: ExperimentTracker | None = None,
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

        Returns:
            ``metrics`` {model: {metric: value}} · ``best_model`` · ``verdict`` (did tuning help, see `Verdict`) ·
            ``kept`` (what the model now is, ``fine_tuned`` or ``zero_shot``) · ``parameters`` · ``training`` (a
            `TrainingResult`, None for zero-shot) · ``output_dir`` · ``run_id`` (of the trackers).
        """
        from tstune.runs.finetune import finetune  # the orchestrator knows the models, not the other way round

        overwrite = self.config.overwrite if overwrite is None else overwrite
        resume = resume_from_checkpoint or self.config.training.resume_from_checkpoint
        resume = None if resume is None else str(resume)
        return finetune(self, train_data, output_dir, overwrite, manager, resume, tracker)

    def train_on(
        self,
        data: PreparedData,
        manager: DistributedManager,
        history_path: Path | None = None,
        checkpoints: Checkpoints | None = None,
        observer: TrainingObserver | None = None,
    ) -> TrainingResult:
        """Train on prepared windows; the network ends with the weights of the lowest validation loss."""
        train_windows, validation_windows = self._training_windows(data, manager)
        result = train(
            self,
            train_windows,
            validation_windows,
            self.config.training,
            manager,
            seed=self.config.seed,
            eval_batch_size=self.evaluation_batch_size(manager.device),
            history_path=history_path,
            start_counts=self.starts_from_weights() and self.config.evaluation.keep_best,
            checkpoints=checkpoints,
            observer=observer,
        )
        if self.config.lora.enabled and self.config.tuning.mode in ("lora", "dora"):
            self.adapter = Adapter.taken_from(self.network)
            if self.config.model.quantization == "none":  # packed weights would lose the update in rounding
                self.network = self.network.merge_and_unload()
                self.module.eval()
        return result

    def window_weights(self, batch: Batch) -> torch.Tensor:
        """[batch] number of observed targets of each window, as in `window_losses`."""
        return batch["future_observed_mask"][..., : self.preprocessor.roles.num_targets].sum(dim=(1, 2))

    def add_adapter(self) -> None:
        """Put a new low-rank adapter on the network; it, and nothing else, learns."""
        self.network = LoRAManager().add_lora_to_model(self.network, self.model_type, self.config.lora, self.fresh)

    def load_adapter(self, folder: str | Path, merge: bool = True) -> None:
        """Put a saved adapter on this model, which must be its base, and merge it into the weights."""
        self.require_built()
        self.adapter = Adapter.load(Path(folder))
        self.network = self.adapter.wrap(self.network)
        if merge:
            self.network = self.network.merge_and_unload()
        self.module.eval()

    def quantize(self) -> None:
        """Pack the linear layers of the network if the configuration asks for it, and say what it saved."""
        if self.config.model.quantization != "none":
            from tstune.quantization import quantize_linear_layers

            report = quantize_linear_layers(self.network, self.config.model.quantization)
            logger.info("model.quantization=%s: %s", self.config.model.quantization, report)
            self.quantization_report = report

    def for_items(self, item_ids: Sequence[str]) -> Forecaster:
        """A forecaster for batches whose `item` counts in `item_ids`; picks each item's adapter if there are any."""
        return self.item_adapters.forecaster(self, item_ids) if self.item_adapters else self

    def _training_windows(self, data: PreparedData, manager: DistributedManager) -> tuple[Dataset, Dataset]:
        """Windows as the loop needs them: with stored features if part of the model is frozen and that pays."""
        config, encode, train_windows = self.config.training, self.frozen_encoder(), self.shortened(data.train)
        if self.config.data.mirror_train_windows:
            train_windows = MirroredWindows(train_windows, data.preprocessor.scaler.mean)
        if config.cache_frozen_features == "off":
            return train_windows, data.validation
        if encode is None:
            if config.cache_frozen_features == "on":
                raise ConfigError(
                    f"training.cache_frozen_features=on: with tuning.mode={self.config.tuning.mode} and these columns "
                    "no part of the model is frozen and alone at its input; use auto or off"
                )
            return train_windows, data.validation
        batch = config.per_device_batch_size * manager.num_processes * config.gradient_accumulation_steps
        visits = min(config.num_epochs * len(train_windows), (config.max_steps or math.inf) * batch)
        if config.cache_frozen_features == "auto" and visits <= len(train_windows):
            return train_windows, data.validation  # each window is seen once: nothing to reuse
        self.module.eval()
        begin, budget = time.perf_counter(), config.feature_cache_gb * 1e9
        batch_size = self.evaluation_batch_size(manager.device)
        cached = CachedWindows(train_windows, encode, manager.device, budget, batch_size=batch_size)
        left = budget - cached.num_bytes
        validation = CachedWindows(data.validation, encode, manager.device, left, batch_size=batch_size)
        seconds, size = time.perf_counter() - begin, cached.num_bytes + validation.num_bytes
        logger.info("frozen features stored once: %.0f MB in %.1f s", size / 1e6, seconds)
        return cached, validation

    def shortened(self, windows: WindowDataset) -> WindowDataset:
        """Training windows with the oldest part of some contexts masked, as `training.context_dropping` asks."""
        if not self.config.training.context_dropping:
            return windows
        return windows.with_dropping(context_dropping(self.config, windows.panel.frequency))

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """First part of the network, if it is frozen and `module` accepts its stored output; None otherwise."""
        return None

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
        self.require_built()
        prepared = self.prepare(data)
        manager = DistributedManager(self.config.distributed, self.config.training.mixed_precision)
        self.to(manager.device)
        backtest = Backtest(prepared, self.config.evaluation, manager, part)
        return backtest.score(self.for_items(prepared.panel.item_ids)).metrics

    def save(self, folder: str | Path) -> None:
        """Write `model/`, `preprocessor.json`, `config.yaml` and what else there is; `load` reads them back."""
        self.require_built()
        folder = Path(folder)
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
    def load(cls, folder: str | Path) -> BaseTimeSeriesFoundationModel:
        """Load a saved model on the CPU, ready to predict.

        Raises:
            CheckpointError: the folder is not a saved model of this family.
        """
        folder = Path(folder)
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
        model = cls(SimpleConfigManager().load_config(folder / "config.yaml"))
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

    def prepare(self, data: str | pd.DataFrame | PreparedData | None = None) -> PreparedData:
        """Windows of a source, a table or the configured source; weights that were trained on them are refused."""
        fresh = self.config.tuning.mode == "from_scratch"  # takes the architecture of the checkpoint, not its weights
        weights = None if fresh else self.config.model.pretrained
        prepared = refuse_trained_on(self._windows(data), weights, self.config.data.split.allow_overlap)
        context_dropping(self.config, prepared.panel.frequency)  # refused before anything is trained
        return prepared.judged_on(self.config.evaluation.context_steps)

    def _windows(self, data: str | pd.DataFrame | PreparedData | None) -> PreparedData:
        if isinstance(data, PreparedData):
            return data
        section, table = self.config.data, None
        if isinstance(data, str):
            section = section.model_copy(update={"source": data})
        elif data is not None:
            from tstune.data.sources.csv import table_from_frame

            table = table_from_frame(data, section, "train_data")
        lengths = self.config.model.context_length, self.config.model.prediction_length
        prepared = prepare_data(section, *lengths, table, self.config.seed)
        roles = prepared.panel.roles
        if section.mirror_train_windows and roles.num_targets < len(roles.channels):
            raise ConfigError(
                "data.mirror_train_windows=true turns targets upside down, but conditional and control columns would "
                "not follow; set it to false, or leave those columns out"
            )
        return prepared

    def to(self, device: torch.device) -> None:
        """Move the network."""
        if self.module is not None:
            self.module.to(device)

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass when nothing is trained."""
        channels = len(self.preprocessor.roles.channels)
        return evaluation_batch_size(self.config.evaluation.batch_size, channels, device)

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


def weights_folder(folder: Path) -> Path:
    """Where the weights of a saved model lie: `model/` of a run folder, or a published folder itself."""
    published = (folder / "config.json").is_file() and not (folder / MODEL_FOLDER).exists()
    return folder if published else folder / MODEL_FOLDER


def _with_sections(
    config: RunConfig, lora_config: LoRAConfig | None, distributed_config: DistributedConfig | None
) -> RunConfig:
    """Put the extra sections into the configuration and check the whole again."""
    if lora_config is None and distributed_config is None:
        return config
    values = config.model_dump()
    if distributed_config is not None:
        values["distributed"] = distributed_config.model_dump()
    if lora_config is not None:
        values["lora"] = lora_config.model_dump()
        if lora_config.enabled:
            values["tuning"]["mode"] = "dora" if lora_config.use_dora else "lora"
    return validate(values, origin="configuration")
