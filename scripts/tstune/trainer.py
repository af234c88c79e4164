"""A run put together from a configuration system and a tracker, neither of which it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tstune.config.managers import ConfigManager
from tstune.config.schema import RunConfig
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.registry import model_class
from tstune.runtime.distributed import DistributedManager
from tstune.tracking.interfaces import ExperimentTracker


class TTMTrainer:
    """Loads a configuration, trains, judges, and writes it down.

    Args:
        config_manager: reads the configuration, e.g. `SimpleConfigManager()` or `HydraConfigManager()`.
        experiment_tracker: where the run is written down, e.g. `MLflowExperimentTracker(uri)` or a
            `CompositeTracker` of several; None takes the `tracking` section of the configuration.
        config_path: what the manager reads.
        overrides: ``key=value`` changes to it.

    Attributes:
        config: the validated `RunConfig`.
        model: the model, trained once `train` has returned.
        manager: the process group, once `train` has begun.

    Raises:
        ConfigError: with every problem of the configuration, in one message.
    """

    def __init__(
        self,
        config_manager: ConfigManager,
        experiment_tracker: ExperimentTracker | None,
        config_path: str | Path,
        overrides: Sequence[str] = (),
    ) -> None:
        self.config: RunConfig = config_manager.load_config(config_path, overrides)
        config_manager.validate_config(self.config)
        self.experiment_tracker = experiment_tracker
        self.model: BaseTimeSeriesFoundationModel | None = None
        self.manager: DistributedManager | None = None

    def train(self) -> dict:
        """Tune the model of the configuration into its `output_dir`.

        Returns:
            what `BaseTimeSeriesFoundationModel.fit` returns, ``run_id`` and ``metrics`` among it, also when a
            tracker died on the way.
        """
        config = self.config
        self.manager = DistributedManager.for_run(config)
        self.model = model_class(config.model.type)(config)
        return self.model.fit(
            output_dir=config.output_dir,
            overwrite=config.overwrite,
            manager=self.manager,
            tracker=self.experiment_tracker,
        )
