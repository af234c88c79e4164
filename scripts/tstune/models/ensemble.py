"""The average of saved models, as a model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tstune.config.section import EnsembleSection
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.trained_on import CHECK, refuse_trained_on
from tstune.data.windows import Batch
from tstune.errors import CheckpointError
from tstune.evaluation.backtest import thinned
from tstune.evaluation.kept_forecasts import FORECASTS_FILE
from tstune.evaluation.record import WINDOWS_FILE
from tstune.foreign_files import damage, read_object
from tstune.models.adapters import ParameterCount
from tstune.models.baselines import WithoutNetwork
from tstune.models.combined import WeightedForecasts, fitted
from tstune.models.contract import MODEL_FOLDER, Forecaster, ForecastModel, Readings
from tstune.models.registry import load_model
from tstune.registry.model_registry import PREFIX, open_registry
from tstune.runtime.logs import logger

MEMBERS_FOLDER = "members"
MAX_WINDOWS = 4_096
"""Validation windows that weights are computed on at most, evenly spaced."""
NOT_COPIED = {"checkpoints", "plots", "report.html", "report.md", "history.jsonl", WINDOWS_FILE, FORECASTS_FILE}
"""What a member's run folder holds beyond the model and what is known of its training data."""


@dataclass(frozen=True)
class Member:
    """A saved model.

    Attributes:
        name: as the configuration names it.
        folder: its run folder.
        model: loaded from there.
    """

    name: str
    folder: Path
    model: ForecastModel


class Ensemble(WithoutNetwork):
    """The weighted mean of the members' forecasts; each member reads the part of a window it was made for.

    Members keep their scaling, unit and adapters per item. What is fitted is one weight per member, in closed form:
    equal weights, or weights in proportion to 1 / MSE on the validation windows (Bates & Granger 1969, without the
    correlations of the errors), the MSE over observed targets in units of their standard deviation in the training
    part. All weights are positive and sum to 1.

    Attributes:
        members: in the order of `model.members`; empty before they are needed.
        weights: one per member.
    """

    model_type, title, section = "ensemble", "Ensemble", EnsembleSection
    not_published = "it is an average of saved models; publish its members"

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)
        self.members: list[Member] = []
        self.weights: list[float] = []
        self._forecaster: WeightedForecasts | None = None
        self._downloads: tempfile.TemporaryDirectory | None = None

    def known_lengths(self) -> list[tuple[int, int]]:
        """The longest context and the shortest forecast of the members."""
        self._open()
        lengths = [member.model.config.model for member in self.members]
        return [(max(one.context_length for one in lengths), min(one.prediction_length for one in lengths))]

    def prepare(self, *data: Readings) -> PreparedData:
        """Windows; members that were trained on those that judge are refused."""
        prepared = super().prepare(*data)
        self._open()
        records, overlap = [], []
        for number, member in enumerate(self.members):
            allow, key = self.config.data.split.allow_overlap, f"model.members[{number}]"
            known = refuse_trained_on(prepared, str(member.folder), allow, key).manifest.get("weights")
            if known is not None:
                records += [record for record in known[CHECK] if record not in records]
                overlap += known["overlap"]
        names = ", ".join(member.name for member in self.members)
        weights = {"pretrained": names, "overlap": overlap, CHECK: records}
        return replace(prepared, manifest=prepared.manifest | {"weights": weights})

    def build(self, preprocessor: Preprocessor) -> None:
        """Load the members and check that they can forecast these windows.

        Raises:
            CheckpointError, RegistryError: a member is not a saved model.
            DataError: a member needs a longer context, looks less far ahead or reads other columns.
        """
        self.preprocessor = preprocessor
        self._open()
        self._set_weights([1 / len(self.members)] * len(self.members))

    def train_on(self, data: PreparedData, *_: object) -> None:
        """Fix the weights; every process computes the same ones."""
        if self.config.model.weights == "validation":
            self._set_weights(inverse_error_weights(self._validation_errors(data)))
        self._forecaster = self.for_items(data.panel.item_ids)
        named = zip(self.weights, self.members, strict=True)
        logger.info("ensemble: %s", ", ".join(f"{weight:.3f} {member.name}" for weight, member in named))

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] in original units; adapters per item are those of the data of `train_on`."""
        return self._forecaster.forecast(batch)

    def for_items(self, item_ids: Sequence[str]) -> WeightedForecasts:
        """A forecaster for batches whose `item` counts in `item_ids`."""
        return WeightedForecasts(self._fitted_members(item_ids), self.weights)

    def save_weights(self, folder: Path) -> None:
        """Write `model/`: the weights, and a copy of every member's run folder without plots and checkpoints."""
        place = folder / MODEL_FOLDER / MEMBERS_FOLDER
        place.mkdir(parents=True)
        for number, member in enumerate(self.members):
            if not member.folder.is_dir():
                raise CheckpointError(f"model.members: {member.folder} is gone, so {member.name} cannot be copied")
            source = str(member.folder)
            shutil.copytree(
                source,
                place / f"{number:02d}",
                ignore=lambda path, names, top=source: NOT_COPIED & set(names) if path == top else set(),
            )
        self._write_config(folder, members=[member.name for member in self.members], weights=self.weights)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        logger.info("ensemble: %d members copied, %.1f MB", len(self.members), size / 1e6)

    def load_weights(self, folder: Path) -> None:
        """Read the weights and load the copies of the members.

        Raises:
            CheckpointError: something is missing or damaged.
        """
        path = folder / MODEL_FOLDER / "config.json"
        values = read_object(path, keys=["members", "weights"])
        with damage(path):
            names, weights = list(map(str, values["members"])), list(map(float, values["weights"]))
        if len(names) != len(weights) or not names:
            raise CheckpointError(f"{path} is damaged: {len(names)} members, {len(weights)} weights")
        places = [folder / MODEL_FOLDER / MEMBERS_FOLDER / f"{number:02d}" for number in range(len(names))]
        self.members = [Member(*pair, load_model(pair[1])) for pair in zip(names, places, strict=True)]
        self._set_weights(weights)

    def to(self, device: torch.device) -> None:
        """Move the members."""
        for member in self.members:
            member.model.to(device)

    def get_model_info(self) -> dict:
        """As of every model, with the parameters of all members, and who they are."""
        total = sum(member.model.get_model_info()["total"] for member in self.members)
        members = {"members": [member.name for member in self.members]}
        return super().get_model_info() | ParameterCount(total, 0).to_dict() | members

    def _open(self) -> None:
        if self.members:
            return
        opened = []
        for number, name in enumerate(self.config.model.members):
            folder = self._folder(name, number)
            try:
                opened.append(Member(name, folder, load_model(folder)))
            except CheckpointError as error:
                raise CheckpointError(f"model.members[{number}]: {error}") from None
        self.members = opened

    def _folder(self, name: str, number: int) -> Path:
        """Where a member lies; one from a registry is downloaded and stays as long as this model."""
        if not name.startswith(PREFIX):
            return Path(name)
        if self._downloads is None:
            self._downloads = tempfile.TemporaryDirectory(prefix="tstune-")
        place = Path(self._downloads.name) / f"{number:02d}"
        return open_registry(self.config.tracking.registry).download(name.removeprefix(PREFIX), place)

    def _set_weights(self, weights: Sequence[float]) -> None:
        self.weights = [float(weight) for weight in weights]
        self._forecaster = WeightedForecasts(self._fitted_members(None), self.weights)

    def _fitted_members(self, item_ids: Sequence[str] | None) -> list[Forecaster]:
        lengths = self.config.model.context_length, self.config.model.prediction_length
        return [fitted(member.model, member.name, *lengths, item_ids, self.preprocessor) for member in self.members]

    def _validation_errors(self, data: PreparedData) -> np.ndarray:
        """[members] mean squared error over the observed targets of the validation windows, in scaled units."""
        windows = thinned(data.validation, 1, MAX_WINDOWS)
        forecasters, targets = self._fitted_members(data.panel.item_ids), slice(0, data.panel.roles.num_targets)
        std = torch.as_tensor(self.preprocessor.scaler.std[targets], dtype=torch.float64)
        squares, count = np.zeros(len(forecasters)), 0
        size = self.evaluation_batch_size(torch.device("cpu"))
        for begin in range(0, len(windows), size):
            batch = windows.__getitems__(range(begin, min(begin + size, len(windows))))
            observed, truth = (batch[name][..., targets] for name in ("future_observed_mask", "future_values"))
            count += int(observed.sum())
            for number, forecaster in enumerate(forecasters):
                with torch.inference_mode():
                    error = (forecaster.forecast(batch).cpu().double() - truth) / std
                squares[number] += torch.where(observed, error.square(), 0.0).sum().item()
        return squares / max(count, 1)


def inverse_error_weights(errors: np.ndarray) -> list[float]:
    """Weights in proportion to 1 / error that sum to 1.

    A member without any error takes nearly all; where nobody has one, or there was nothing to compare, all are equal.
    """
    if not errors.max() > 0:
        return [1 / len(errors)] * len(errors)
    inverse = 1 / np.maximum(errors / errors.max(), 1e-9)
    return list(map(float, inverse / inverse.sum()))
