"""What a model answers to the loop, to the judge and to a run, and the little that all models share.

A family answers a few questions: build me, loss of this batch, forecast of this batch, save and load my weights. The
public face (`fit`, `predict`, `evaluate`, `save`, `load`) is `tstune.models.base`, on top of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from tstune.config.flat import ModelConfig
from tstune.config.schema import DistributedConfig, LoRAConfig, RunConfig
from tstune.config.section import ModelSection, OwnModelSection
from tstune.config.validation import validate
from tstune.data.frequency import StepError, to_steps
from tstune.data.parts import named_data, tables_of_parts
from tstune.data.plan import wrong_durations
from tstune.data.prepared import PreparedData, prepare_data, table_of
from tstune.data.preprocess import Preprocessor
from tstune.data.splits import PARTS
from tstune.data.trained_on import refuse_trained_on
from tstune.data.windows import Batch, WindowDataset, context_dropping, evaluation_batch_size
from tstune.errors import CheckpointError, ConfigError, DataError, TstuneError
from tstune.models.adapters import Adapter, ItemAdapters, PerItemForecaster, adapt, count_parameters
from tstune.models.hooks import Hooks, Readings
from tstune.models.modules import NetworkModule
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from tstune.runtime.distributed import DistributedManager

MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"


class Forecaster(Protocol):
    """Anything that forecasts a batch of windows."""

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""


class ForecastModel(Hooks, ABC):
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
        trained: parameter counts and adapter as they were trained, also of a loaded model; empty before.
        uncertainty: the `UncertaintyMethod`, fitted on validation windows, that turns forecasts into quantiles; None
            without quantiles.
    """

    model_type: ClassVar[str]
    """Name in `tstune.models.registry`; a class that is not in there is ``module:Class``, by itself."""
    title: ClassVar[str] = ""
    """Name in messages and on cards."""
    section: ClassVar[type[ModelSection]] = OwnModelSection
    """The `model` section of its recipes."""
    library: ClassVar[str | None] = None
    """Package in whose format its weights are; None for models that are not published."""
    not_published: ClassVar[str] = ""
    """Why there is nothing to publish, where that needs saying."""
    not_exported: ClassVar[str] = ""
    """Why there is no single graph to export."""
    script: ClassVar[str] = "finetune_ttm.py"
    """Which of `scripts/` tunes it."""
    is_paid_service: ClassVar[bool] = False
    """True if its forecasts are made elsewhere, for money."""
    is_baseline: ClassVar[bool] = False
    """True for what `evaluation.baselines` may name."""
    parts: ClassVar[Collection[str]] = ()
    """Names of the parts of the network that tuning modes and learning-rate factors speak of, see `part_of`."""
    block_classes: ClassVar[tuple[str, ...]] = ()
    """Names of the layer classes that FSDP shards one by one."""
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of the linear layers that ``lora.target_modules=auto`` adapts."""

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
        self.require_packages()
        run_config = config.run_config if isinstance(config, ModelConfig) else config or RunConfig()
        self.config: RunConfig = with_family_keys(
            with_sections(run_config, lora_config, distributed_config), type(self)
        )
        self.module: nn.Module | None = None
        self.preprocessor: Preprocessor | None = None
        self.fresh: list[str] = []
        self.adapter: Adapter | None = None
        self.item_adapters: ItemAdapters | None = None
        self.uncertainty: Any = None
        self.quantization_report: object | None = None
        self.trained: dict = {}

    # What a family answers

    @abstractmethod
    def build(self, preprocessor: Preprocessor) -> None:
        """Create the model for these channels, with the weights and the tuning mode of the configuration."""

    @abstractmethod
    def forecast(self, batch: Batch) -> torch.Tensor:
        """Forecast a batch of windows: [batch, prediction, targets] float32 in original units."""

    @abstractmethod
    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """([batch] summed loss, [batch] weight) of each window; call `module`, it may be a wrapper."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Write `model/` into the folder: weights and architecture in the format of the family's own library."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote; `self.preprocessor` is set."""

    # What the public face answers for all of them

    @abstractmethod
    def train_on(self, data: PreparedData, manager: DistributedManager, *how: object) -> object | None:
        """Train on prepared windows; the model ends with the best weights.

        `how` is the path of the history, `Checkpoints` and callbacks, or nothing. Returns a `TrainingResult`; None
        where there are no steps.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write all that loading it needs."""

    @abstractmethod
    def get_model_info(self) -> dict:
        """Family, lengths, tuning mode, parameter counts and fresh tensors."""

    @abstractmethod
    def _save_training_metadata(self, output_dir: Path, metrics: dict | None = None) -> None:
        """Write `training_metadata.json`: what `get_model_info` says, and these metrics."""

    # What a family may answer

    @classmethod
    def require_packages(cls) -> None:
        """Stop if an optional package that this model needs is not installed."""
        return

    def known_lengths(self) -> Sequence[tuple[int, int]]:
        """(context, longest forecast) pairs that the configured weights are made for, longest context first.

        Empty: any lengths will do.
        """
        return ()

    def learned_from(self, data: PreparedData) -> None:
        """What is left to do once the loop has trained on this data."""
        return

    @classmethod
    def most_windows(cls, num_targets: int) -> int | None:
        """Test windows that it forecasts at most because each takes long; None: any number."""
        return None

    @classmethod
    def loading_code(cls, place: str, preprocessor: dict, adapter: bool, base: str | None) -> list[str]:
        """Lines of Python that load weights, published at `place`, with the family's own library.

        Where an adapter alone was published, `base` is the Hub id of what it goes on; None if that is not on the Hub.
        """
        return [f'# see the library of {cls.model_type}; the weights are in "{place}"']

    @property
    def network(self) -> nn.Module:
        """The family's own network inside `module`; adapters go there."""
        return self.module.network if isinstance(self.module, NetworkModule) else self.module

    @network.setter
    def network(self, network: nn.Module) -> None:
        if isinstance(self.module, NetworkModule):
            self.module.network = network
        else:
            self.module = network

    @property
    def reads_clock(self) -> bool:
        """True if a forecast depends on the time of its first step, `origin` of a batch."""
        return isinstance(self.module, NetworkModule) and self.module.reads_clock

    @property
    def native_levels(self) -> tuple[float, ...]:
        """Ascending levels the network itself forecasts quantiles for; empty if it forecasts points only."""
        return ()

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets, native levels] float32 in original units, ascending."""
        raise TypeError(f"{type(self).__name__} has native_levels but no native_quantiles")

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """First part of the network, if it is frozen and `module` accepts its stored output; None otherwise."""
        return None

    def starts_from_weights(self) -> bool:
        """True if the untuned model is worth something: pretrained, and nothing fresh."""
        pretrained = self.config.model.pretrained is not None and self.config.tuning.mode != "from_scratch"
        return pretrained and not self.fresh

    @property
    def learns(self) -> bool:
        """True if `train_on` changes anything."""
        return self.config.tuning.mode != "zero_shot"

    def window_weights(self, batch: Batch) -> torch.Tensor:
        """[batch] number of observed targets of each window, as in `window_losses`."""
        return batch["future_observed_mask"][..., : self.preprocessor.roles.num_targets].sum(dim=(1, 2))

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass when nothing is trained."""
        channels = len(self.preprocessor.roles.channels)
        return evaluation_batch_size(self.config.evaluation.batch_size, channels, device)

    def to(self, device: torch.device) -> None:
        """Move the network."""
        if self.module is not None:
            self.module.to(device)

    # What all models share

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Levels of `forecast_quantiles`; empty if this model forecasts points only."""
        if self.uncertainty is not None:
            return self.uncertainty.levels
        return self.native_levels if self.config.forecast.quantiles else ()

    def forecast_quantiles(self, batch: Batch, point: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, prediction, targets, levels] float32 in original units, ascending; see `quantile_levels`.

        `point` is the forecast where it was made already, for example with the adapters of the items.
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

    def forecast_both(self, batch: Batch, item_ids: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The forecast, by each item's adapter if there are any, and, where there are levels, its quantiles."""
        point = self.for_items(item_ids).forecast(batch)
        return point, self.forecast_quantiles(batch, point) if self.quantile_levels else None

    def for_items(self, item_ids: Sequence[str]) -> Forecaster:
        """A forecaster for batches whose `item` counts in `item_ids`; picks each item's adapter if there are any."""
        adapters = self.item_adapters
        if adapters is None:
            return self
        adapters.say_unknown(item_ids)
        return PerItemForecaster(self, adapters.adapters, item_ids)

    def add_adapter(self) -> None:
        """Put a new low-rank adapter on the network; it, and nothing else, learns."""
        self.network = adapt(self.network, self.model_type, self.config.lora, self.fresh)

    def load_adapter(self, folder: str | Path, merge: bool = True) -> None:
        """Put a saved adapter on this model, which must be its base, and merge it into the weights."""
        self.require_built()
        self.adapter = Adapter.load(Path(folder))
        self.network = self.adapter.wrap(self.network)
        if merge:
            self.network = self.network.merge_and_unload()
        self.module.eval()

    def build_under(self, folder: Path) -> None:
        """Build the configured base and put a published adapter on it."""
        config = self.config
        self.config = config.changing("tuning", mode="full")  # a mode that adds no adapter of its own
        self.build(self.preprocessor)
        self.config = config
        self.load_adapter(folder, merge=config.model.quantization == "none")

    def quantize(self) -> None:
        """Pack the linear layers of the network if the configuration asks for it, and say what it saved."""
        if self.config.model.quantization != "none":
            from tstune.models.quantization import quantize_linear_layers  # bitsandbytes takes seconds to import

            report = quantize_linear_layers(self.network, self.config.model.quantization)
            logger.info("model.quantization=%s: %s", self.config.model.quantization, report)
            self.quantization_report = report

    def prepare(self, data: Readings = None, val_data: Readings = None, test_data: Readings = None) -> PreparedData:
        """Windows of a source, a table, a file or the configured source; weights that were trained on them are refused.

        `val_data` and `test_data` validate and test instead of a part of `data`.
        """
        given = {"train": data, "validation": val_data, "test": test_data}
        given = {part: one for part, one in given.items() if one is not None}
        try:
            prepared = self._windows(given)
            horizons = self.config.evaluation.horizons
            for horizon in horizons if isinstance(horizons, list) else ():
                to_steps(horizon, prepared.panel.frequency, "evaluation.horizons")
        except StepError as error:  # of several that fit no step all are said
            raise self._every_error(given, error.frequency) from None
        return self._checked(prepared)

    def _checked(self, prepared: PreparedData) -> PreparedData:
        fresh = self.config.tuning.mode == "from_scratch"  # takes the architecture of the checkpoint, not its weights
        weights = None if fresh else self.config.model.pretrained
        prepared = refuse_trained_on(prepared, weights, self.config.data.split.allow_overlap)
        self.config = with_family_keys(prepared.settle(self.config), type(self))
        context_dropping(self.config, prepared.panel.frequency)  # refused before anything is trained
        prepared = prepared.judged_on(self.config.evaluation.context_steps)
        chooses = self.config.tuning.mode != "zero_shot" or self.config.tuning.per_item
        return prepared.with_calibration_apart() if chooses and self.config.forecast.quantiles else prepared

    def _every_error(self, given: Mapping[str, Readings], frequency: str) -> ConfigError:
        """All durations that are no number of steps, and what would be wrong without them, with settings that work."""
        wrong, instead = wrong_durations(self.config, frequency)
        without = {key: None for key in ("max_gap", "min_context") if f"data.{key}" in instead}
        split = self.config.data.split.model_copy(update={"purge": 0})
        self.config = self.config.changing("data", split=split, **without)
        try:
            self._windows(given)
        except TstuneError as error:
            more = getattr(error, "works", {})
            wrong.append(error.why if more else str(error))
            instead |= more
        works = " ".join(f"{key}={value}" for key, value in instead.items())
        return ConfigError("; ".join([*wrong, f"this works: {works}"]))

    def shortened(self, windows: WindowDataset) -> WindowDataset:
        """Training windows with the oldest part of some contexts masked, as `training.context_dropping` asks."""
        if not self.config.training.context_dropping:
            return windows
        return windows.with_dropping(context_dropping(self.config, windows.panel.frequency))

    def require_built(self) -> None:
        """Stop if there is nothing to use yet."""
        if self.preprocessor is None:
            raise ConfigError(
                f"this {type(self).__name__} has no weights yet: call fit() or {type(self).__name__}.load(folder)"
            )

    def log_parameters(self) -> None:
        """Say how many parameters learn and which tensors are fresh."""
        logger.info("%s, tuning mode %s: %s", self.model_type, self.config.tuning.mode, count_parameters(self.module))
        if self.fresh:
            roles = self.preprocessor.roles
            inputs = ", ".join([*roles.channels[roles.num_targets :], *roles.static_categorical])
            what = f" (for {inputs})" if inputs else ""
            logger.info("%d tensors are not in the checkpoint and start random%s", len(self.fresh), what)

    def _windows(self, given: Mapping[str, Readings]) -> PreparedData:
        section, train = self.config.data, given.get("train")
        if isinstance(train, PreparedData):
            given = dict.fromkeys(PARTS, train) | given
            if all(one is train for one in given.values()):
                return train
        lengths = self.config.model.context_length, self.config.model.prediction_length
        if isinstance(train, str | Path):
            section, train = named_data(section, train), None
        parts = given | {"train": train}
        tables = {part: table_of(one, section, part) for part, one in parts.items() if one is not None}
        if not given:  # the configured source
            tables |= tables_of_parts(section)
        prepared = prepare_data(
            section, *lengths, tables.pop("train", None), self.config.seed, self.known_lengths(), tables
        )
        roles = prepared.panel.roles
        if section.mirror_train_windows and roles.num_targets < len(roles.channels):
            raise ConfigError(
                "data.mirror_train_windows=true turns targets upside down, but conditional and control columns would "
                "not follow; set it to false, or leave those columns out"
            )
        return prepared


def context_spread(batch: Batch, num_targets: int) -> torch.Tensor:
    """[batch, targets] standard deviation of the usable readings in each context; 0 where there is none."""
    past, usable = (batch[name][..., :num_targets] for name in ("past_values", "past_observed_mask"))
    past = torch.where(usable, past, 0.0).double()
    count = usable.sum(dim=1).clamp_min(1)
    mean = past.sum(dim=1) / count
    deviation = torch.where(usable, past - mean[:, None], 0.0)
    return (deviation.square().sum(dim=1) / count).sqrt().float()


def require_numbers(
    forecast: np.ndarray, series: Sequence[str], origins: np.ndarray | None = None, who: str = ""
) -> None:
    """Stop at the first forecast that is not a number; whatever makes forecasts passes here before anybody sees them.

    The `DataError` names series and step. Forecasts are [windows, steps, …]; `series` and `origins`, if they are known,
    have one name and first time per window.
    """
    wrong = ~np.isfinite(forecast)
    if not wrong.any():
        return
    place = tuple(np.argwhere(wrong)[0])
    window, step = place[:2]
    name, begin = series[window], "" if origins is None else f" from {pd.Timestamp(origins[window])} on"
    raise DataError(
        f"{who and f'{who}: '}the forecast of series {name!r}{begin} is {forecast[place]:g} at step {step + 1} of "
        f"{forecast.shape[1]}; look for readings before it that are far too large, else training diverged"
    )


def weights_folder(folder: Path) -> Path:
    """Where the weights of a saved model lie: `model/` of a run folder, or a published folder itself."""
    published = (folder / "config.json").is_file() and not (folder / MODEL_FOLDER).exists()
    return folder if published else folder / MODEL_FOLDER


def with_family_keys(config: RunConfig, cls: type[ForecastModel]) -> RunConfig:
    """The configuration of a class of your own that extends a family: it reads that family's keys, from `options`."""
    own, kind = config.model, cls.section.model_fields["type"]
    if not isinstance(own, OwnModelSection) or kind.is_required():
        return config
    shared = {name: getattr(own, name) for name in ModelSection.model_fields}
    values = own.options | shared | {"type": kind.default}
    family = validate({"model": values}, origin=f"model.options of {own.type}").model
    return config.model_copy(update={"model": own.extending(family)})


def with_sections(
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


def require_saved(folder: Path, with_config: bool) -> bool:
    """Whether a saved model is an adapter without its base; `CheckpointError` if the folder is no saved model."""
    adapter_only = (folder / "adapter_config.json").is_file()
    needed = ["config.yaml", "preprocessor.json"] if with_config else ["preprocessor.json"]
    if not adapter_only and weights_folder(folder) != folder:
        needed.append(MODEL_FOLDER)
    for name in needed:
        if not (folder / name).exists():
            hint = "; give it as load(…, config=…)" if name == "config.yaml" and folder.is_dir() else ""
            raise CheckpointError(f"{folder} is not a run folder: {name} is missing{hint}")
    return adapter_only
