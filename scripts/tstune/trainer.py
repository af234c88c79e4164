"""A run put together from a configuration system and a tracker, neither of which it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tstune.config.flat import as_run_config
from tstune.config.managers import ConfigManager
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.registry import model_class
from tstune.runs.life import own_folder
from tstune.runtime.distributed import DistributedManager
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.simple_tracker import SimpleExperimentTracker


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
        loaded = config_manager.load_config(config_path, *([overrides] if overrides else []))
        if not config_manager.validate_config(loaded):
            raise ConfigError(
                f"Invalid configuration: {config_path}, says {type(config_manager).__name__}.validate_config"
            )
        self.config: RunConfig = as_run_config(loaded, str(config_path))
        self.experiment_tracker = experiment_tracker
        self.model: BaseTimeSeriesFoundationModel | None = None
        self.manager: DistributedManager | None = None

    def train(self) -> dict:
        """Tune the model of the configuration into its `output_dir`, or into ``output_dir-2``, ``-3``, … beside runs.

        Returns what `BaseTimeSeriesFoundationModel.fit` returns, also when a tracker died on the way.
        """
        self.manager = DistributedManager.for_run(self.config)
        self.model = model_class(self.config.model.type)(self.config)
        return self.model.fit(
            output_dir=self.manager.from_main(own_folder(self.config, self._tracked_in())),
            overwrite=self.config.overwrite,
            manager=self.manager,
            tracker=self.experiment_tracker,
        )

    def _tracked_in(self) -> list[Path]:
        """Folders that trackers write files to."""
        trackers = getattr(self.experiment_tracker, "trackers", [self.experiment_tracker])
        return [tracker.base_dir for tracker in trackers if isinstance(tracker, SimpleExperimentTracker)]
