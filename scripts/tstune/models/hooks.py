"""What a subclass of a model may override, by the names of the design document of the base framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from tstune.config.flat import nested
from tstune.config.schema import RunConfig, TrainingSection
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData, UnfittedPreprocessor, prepared_of
from tstune.data.preprocess import Preprocessor
from tstune.errors import ConfigError
from tstune.models.modules import PlainModule

if TYPE_CHECKING:
    from tstune.evaluation.scored_windows import ScoredWindows

Readings = str | Path | pd.DataFrame | PreparedData | None
"""The name of a source, a file, a table or prepared data; None is the configured source."""


class EvalPrediction(NamedTuple):
    """What `_compute_metrics` gets, named as in transformers: [windows, steps, targets], NaN where nothing was read."""

    predictions: np.ndarray
    label_ids: np.ndarray


class Hooks:
    """The part of a model that a subclass may override by the names of the design document."""

    config: RunConfig
    preprocessor: Preprocessor | None
    module: nn.Module | None
    network: nn.Module | None

    @property
    def model(self) -> nn.Module | None:
        """The network; setting it, in `_initialize_model`, makes `module` of it."""
        return self.network

    @model.setter
    def model(self, network: nn.Module) -> None:
        self._wrap(network)

    def _wrap(self, network: nn.Module) -> None:
        steps = self.config.model.prediction_length
        self.module = PlainModule(network, self.preprocessor, steps, steps)

    def _prepare_data(
        self, train_data: Readings = None, val_data: Readings = None, test_data: Readings = None
    ) -> PreparedData | Sequence:
        """The data of a run: prepared, or train, validation and test of `get_datasets`, or loaders over them."""
        return self.prepare(train_data, val_data, test_data)

    def _create_training_arguments(self, output_dir: str | Path | None) -> TrainingSection | Mapping[str, object]:
        """The `training` section of a run, or keywords that change it, such as ``{"batch_size": 8}``."""
        return self.config.training

    def _compute_metrics(self, eval_pred: EvalPrediction) -> Mapping[str, float]:
        """Further metrics by name, of every forecast of a run and of `evaluate`."""
        return {}

    def _load_model_weights(self, model_dir: Path) -> None:
        """Read the weights of a saved model; `self.preprocessor` is set."""
        self.load_weights(model_dir)

    def run_data(self, *given: Readings) -> PreparedData:
        """What `_prepare_data` makes of the data that `fit` was given."""
        if type(self)._prepare_data is Hooks._prepare_data:
            return self._prepare_data(*given)
        before, config = self.preprocessor, self.config
        lengths = config.model.context_length, config.model.prediction_length
        self.preprocessor = UnfittedPreprocessor(config.data, *lengths, config.seed, self.known_lengths())
        try:
            train, *others = given
            found = self._prepare_data(config.data.source if train is None else train, *others)
        finally:
            self.preprocessor = before
        return self._checked(prepared_of(found, lengths, config.training.per_device_batch_size))

    def take_training_arguments(self, output_dir: str | Path | None) -> None:
        """Put what `_create_training_arguments` says into the configuration; only `training` may change."""
        wanted, config = self._create_training_arguments(output_dir), self.config
        if isinstance(wanted, Mapping):
            tree = nested(wanted)
            if tree.keys() - {"training"}:
                raise ConfigError(
                    f"_create_training_arguments: {min(tree.keys() - {'training'})} is no part of training"
                )
            wanted = config.training.model_dump() | tree.get("training", {})
            wanted = validate({"training": wanted}, origin="_create_training_arguments").training
        if not isinstance(wanted, TrainingSection):
            raise ConfigError(
                f"_create_training_arguments gave a {type(wanted).__name__}; give keywords of training, for example "
                '{"learning_rate": 1e-4, "batch_size": 64}'
            )
        if wanted != config.training:
            self.config = config.model_copy(update={"training": wanted})

    @property
    def own_metrics(self) -> Callable[[ScoredWindows], dict[str, float]] | None:
        """What `_compute_metrics` finds in the forecasts of some windows; None where nobody overrides it."""
        return None if type(self)._compute_metrics is Hooks._compute_metrics else self._metrics_of

    def _metrics_of(self, windows: ScoredWindows) -> dict[str, float]:
        truth = np.where(windows.observed, windows.truth, np.nan)
        found = self._compute_metrics(EvalPrediction(windows.forecast, truth))
        return {name: float(value) for name, value in found.items()}
