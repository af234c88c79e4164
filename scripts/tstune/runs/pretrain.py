"""Pre-training: a model from random weights on generated series, to a run folder others can start from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from tstune.config.schema import DataSection, EvaluationSection, ForecastSection, RunConfig
from tstune.config.section import AUTO
from tstune.data.preprocess import Preprocessor
from tstune.data.scaler import Scaler
from tstune.data.synthetic import FixedSyntheticWindows, SeriesRecipe, SyntheticWindows
from tstune.data.table import Roles
from tstune.errors import ConfigError
from tstune.runs.folder import ENVIRONMENT, MANIFEST, METRICS, README, TRACKING, RunFolder
from tstune.runs.steps import ModelRun
from tstune.runtime.files import filled_template
from tstune.runtime.logs import logger
from tstune.training.losses import window_losses

_WORDS = Path(__file__).with_name("pretrained_readme.md.jinja")
"""The README of its run folder."""
_VALIDATION_SEED = 1_000_003
"""Added to the run's seed: series of the validation windows are of no training batch."""


@dataclass(frozen=True)
class SyntheticData:
    """What `train_on` needs: windows and how a table would be read."""

    train: SyntheticWindows
    validation: FixedSyntheticWindows
    preprocessor: Preprocessor
    manifest: dict


class PreTraining(ModelRun):
    """A run that trains on generated series, and keeps the weights of the lowest loss on others; each method is a step.

    `results` are ``losses`` {forecast: loss on the validation windows}, with two forecasts that anyone can make beside
    ``pretrained``, and ``parameters``, ``training``, ``output_dir`` and ``run_id``.
    """

    def check(self) -> None:
        """Refuse settings that would be passed over in silence."""
        config = self.config
        if config.model.pretrained is not None or config.tuning.mode != "from_scratch":
            raise ConfigError("pre-training starts from random weights: leave out model.pretrained and tuning.mode")
        if config.training.max_steps is None or config.training.num_epochs != 1:
            raise ConfigError("the stream of series has no end: set training.max_steps, and training.num_epochs=1")
        if config.model.type != "ttm":
            raise ConfigError(f"model.type={config.model.type}: pre-training is for ttm")
        if AUTO in (config.model.context_length, config.model.prediction_length):
            raise ConfigError(
                "pre-training has no data to follow: set model.context_length and model.prediction_length"
            )
        if config.training.context_dropping:
            raise ConfigError("training.context_dropping: generated series have whole contexts; leave it out")
        unused = {"data": DataSection(), "evaluation": EvaluationSection(), "forecast": ForecastSection()}
        for name, section in unused.items():
            if getattr(config, name) != section:
                raise ConfigError(f"{name}: pre-training generates its own series; leave this section out")

    def prepare(self) -> None:
        """The stream of generated windows, and the fixed ones that choose the weights."""
        self.data = generate_data(self.config, self.manager.num_processes)

    def train(self) -> None:
        """The loop, and the loss of two forecasts anyone can make."""
        readings = hashlib.sha256(json.dumps(self.data.manifest, sort_keys=True).encode()).hexdigest()
        self.run_training(self.data, readings)
        losses = {"pretrained": self.training.best_validation_loss} | _simple_losses(self.data, self.config)
        self.tracked.log_scores("validation", {name: {"loss": loss} for name, loss in losses.items()})
        self.take_results(losses=losses)

    def save(self) -> None:
        """The model and every number, into the run folder to be; the run then is judged."""
        if self.folder is not None:
            environment = self.environment()
            dropout = self.config.pretraining.saved_dropout
            for key in ("dropout", "head_dropout"):
                setattr(self.model.network.config, key, dropout)
            self.model.save(self.folder.path)
            losses = {name: {"loss": loss} for name, loss in self.results["losses"].items()}
            self.folder.write_json(METRICS, {"validation": losses})
            self.folder.write_json(MANIFEST, self.data.manifest)
            self.folder.write_json(ENVIRONMENT, environment)
            about = {"config": self.config, "training": self.training, "environment": environment} | self.results
            self.folder.write_text(README, filled_template(_WORDS, **about))
            if self.tracked.is_tracked:
                self.folder.write_json(TRACKING, self.tracked.to_dict())
        self.advance("judged")

    def recall(self, folder: RunFolder) -> None:
        """Results of a run that was finished before this start."""
        self.take_results(folder, losses={name: row["loss"] for name, row in folder.metrics["validation"].items()})


def generate_data(config: RunConfig, num_processes: int) -> SyntheticData:
    """The windows of a run: as many as its steps take, and those that choose the weights."""
    lengths = config.model.context_length, config.model.prediction_length
    training, pretraining = config.training, config.pretraining
    recipe = SeriesRecipe.from_dict(pretraining.series)
    per_step = training.per_device_batch_size * training.gradient_accumulation_steps * num_processes
    num_windows = training.max_steps * per_step
    logger.info("windows: train %d, validation %d, all generated", num_windows, pretraining.validation_windows)
    preprocessor = Preprocessor(
        roles=Roles(target=("value",)),
        frequency="h",
        max_gap=0,
        scaler=Scaler(torch.zeros(1).numpy(), torch.ones(1).numpy()),
        unit=None,
        timestamp_column="timestamp",
        timestamp_format=None,
        item_id_column=None,
        columns_as="items",
        on_duplicate="error",
    )
    manifest = {
        "source": "synthetic",
        "licence": "generated by this project",
        "seed": config.seed,
        "series": recipe.to_dict(),
        "windows": {"train": num_windows, "validation": pretraining.validation_windows},
    }
    return SyntheticData(
        SyntheticWindows(*lengths, num_windows, config.seed, recipe),
        FixedSyntheticWindows(*lengths, pretraining.validation_windows, config.seed + _VALIDATION_SEED, recipe),
        preprocessor,
        manifest,
    )


def _simple_losses(data: SyntheticData, config: RunConfig) -> dict[str, float]:
    """The same loss for two forecasts anyone can make, on the same windows."""
    batch = data.validation.__getitems__(range(len(data.validation)))
    future, observed = batch["future_values"], batch["future_observed_mask"]
    last = batch["past_values"][:, -1:].expand_as(future)
    kind = config.training.loss, config.training.huber_delta, config.training.step_decay
    losses = {}
    for name, forecast in {"context_mean": torch.zeros_like(future), "persistence": last}.items():
        totals, weights = window_losses(forecast, future, observed, *kind)
        losses[name] = (totals.sum() / weights.sum()).item()
    return losses
