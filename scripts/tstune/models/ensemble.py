"""Models made of others: the average of saved ones, and a combination that is learned."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import nnls

from tstune.config.section import EnsembleSection, StackSection, member_name
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.trained_on import CHECK, knows_training_windows, refuse_trained_on
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import CheckpointError, ConfigError
from tstune.evaluation.backtest import thinned
from tstune.evaluation.record import FORECASTS_FILE, WINDOWS_FILE
from tstune.foreign_files import damage, read_object
from tstune.models.adapters import ParameterCount
from tstune.models.baselines import Ridge, WithoutNetwork
from tstune.models.combined import WeightedForecasts, fitted
from tstune.models.contract import MODEL_FOLDER, Forecaster, ForecastModel, Readings
from tstune.models.lightgbm_lags import LightGBM
from tstune.models.registry import load_model, model_class
from tstune.registry.model_registry import PREFIX, open_registry
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from tstune.runtime.distributed import DistributedManager

MEMBERS_FOLDER = "members"
MAX_WINDOWS = 4_096
"""Validation windows that weights are computed on at most, evenly spaced."""
MAX_STACK_WINDOWS = 16_384
"""The same of a stack."""
NOT_COPIED = {"checkpoints", "plots", "report.html", "report.md", "history.jsonl", WINDOWS_FILE, FORECASTS_FILE}
"""What a member's run folder holds beyond the model and what is known of its training data."""


@dataclass(frozen=True)
class Member:
    """A model that forecasts with others."""

    name: str  # as the configuration names it
    folder: Path | None  # its run folder; None for one that the stack itself trains
    model: ForecastModel  # loaded from there

    @property
    def weights(self) -> str | None:
        """What its weights were trained on is known from here."""
        return self.model.config.model.pretrained if self.folder is None else str(self.folder)


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
        self.weights: list = []
        self._forecaster: Forecaster | None = None
        self._device = torch.device("cpu")
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
        for key, member in self._with_weights("model.members"):
            allow = self.config.data.split.allow_overlap
            known = refuse_trained_on(prepared, member.weights, allow, key).manifest.get("weights")
            if known is not None:
                records += [record for record in known[CHECK] if record not in records]
                overlap += known["overlap"]
        names = ", ".join(member.name for member in self.members)
        weights = {"pretrained": names, "overlap": overlap, CHECK: records}
        return replace(prepared, manifest=prepared.manifest | {"weights": weights})

    def build(self, preprocessor: Preprocessor) -> None:
        """Load the members; one that cannot forecast these windows, by its lengths or columns, is a `DataError`."""
        self.preprocessor = preprocessor
        self._open()
        self._set_weights([1 / len(self.members)] * len(self.members))

    def train_on(self, data: PreparedData, *_: object) -> None:
        """Fix the weights; every process computes the same ones."""
        if self.config.model.weights == "validation":
            forecasters = self._fitted_members(data.panel.item_ids)
            products, counts = self._error_products(forecasters, thinned(data.validation, 1, MAX_WINDOWS))
            squares = products.sum((0, 1)).diagonal()
            self._set_weights(inverse_error_weights(squares / max(counts.sum(), 1)))
        self._forecaster = self.for_items(data.panel.item_ids)
        named = zip(self.weights, self.members, strict=True)
        logger.info("ensemble: %s", ", ".join(f"{weight:.3f} {member.name}" for weight, member in named))

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] in original units; adapters per item are those of the data of `train_on`."""
        return self._forecaster.forecast(batch)

    def for_items(self, item_ids: Sequence[str]) -> Forecaster:
        """A forecaster for batches whose `item` counts in `item_ids`."""
        return self._combined(self._fitted_members(item_ids))

    def save_weights(self, folder: Path) -> None:
        """Write `model/`: the weights, and a copy of every member's run folder without plots and checkpoints."""
        place = folder / MODEL_FOLDER / MEMBERS_FOLDER
        place.mkdir(parents=True)
        for number, member in enumerate(self.members):
            if member.folder is None:
                member.model.save(place / f"{number:02d}")
                continue
            if not member.folder.is_dir():
                raise CheckpointError(f"model.members: {member.folder} is gone, so {member.name} cannot be copied")
            source = str(member.folder)
            shutil.copytree(
                source,
                place / f"{number:02d}",
                ignore=lambda path, names, top=source: NOT_COPIED & set(names) if path == top else set(),
            )
        self._write_config(folder, members=[member.name for member in self.members], **self._learned())
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        logger.info("%s: %d members copied, %.1f MB", self.model_type, len(self.members), size / 1e6)

    def load_weights(self, folder: Path) -> None:
        """Read the weights and load the copies of the members (`CheckpointError`: something is missing or damaged)."""
        path = folder / MODEL_FOLDER / "config.json"
        values = read_object(path, keys=["members", "weights"])
        with damage(path):
            names, weights = list(map(str, values["members"])), [self._weight(one) for one in values["weights"]]
        if len(names) != len(weights) or not names:
            raise CheckpointError(f"{path} is damaged: {len(names)} members, {len(weights)} weights")
        places = [folder / MODEL_FOLDER / MEMBERS_FOLDER / f"{number:02d}" for number in range(len(names))]
        self.members = [Member(*pair, load_model(pair[1])) for pair in zip(names, places, strict=True)]
        self._set_weights(weights)

    def to(self, device: torch.device) -> None:
        """Move the members."""
        self._device = device
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
        self.members = [self._opened(named, number) for number, named in enumerate(self.config.model.members)]

    def _opened(self, name: str, number: int) -> Member:
        folder = self._folder(name, number)
        try:
            return Member(name, folder, load_model(folder))
        except CheckpointError as error:
            raise CheckpointError(f"model.members[{number}]: {error}") from None

    def _with_weights(self, key: str) -> Iterator[tuple[str, Member]]:
        """(what names it in the configuration, member), and those of a stack that is a member and not trained yet."""
        self._open()
        for number, member in enumerate(self.members):
            if member.folder is None and isinstance(member.model, Ensemble):
                yield from member.model._with_weights(f"{key}[{number}].model.members")
            else:
                yield f"{key}[{number}]", member

    def _folder(self, name: str, number: int) -> Path:
        """Where a member lies; one from a registry is downloaded and stays as long as this model."""
        if not name.startswith(PREFIX):
            return Path(name)
        if self._downloads is None:
            self._downloads = tempfile.TemporaryDirectory(prefix="tstune-")
        place = Path(self._downloads.name) / f"{number:02d}"
        return open_registry(self.config.tracking.registry).download(name.removeprefix(PREFIX), place)

    def _set_weights(self, weights: Sequence[object]) -> None:
        self.weights = list(weights)
        self._forecaster = self._combined(self._fitted_members(None))

    def _combined(self, forecasters: Sequence[Forecaster]) -> Forecaster:
        return WeightedForecasts(forecasters, self.weights)

    def _learned(self) -> dict[str, object]:
        """What config.json keeps."""
        return {"weights": self.weights}

    def _weight(self, value: object) -> object:
        """Of one member, as config.json has it."""
        return float(value)

    def _fitted_members(self, item_ids: Sequence[str] | None) -> list[Forecaster]:
        lengths = self.config.model.context_length, self.config.model.prediction_length
        return [fitted(member.model, member.name, *lengths, item_ids, self.preprocessor) for member in self.members]

    def _error_products(
        self, forecasters: Sequence[Forecaster], windows: WindowDataset
    ) -> tuple[np.ndarray, np.ndarray]:
        """Products of errors in units of the targets' deviation, summed over the observed targets of each step.

        Returns:
            [windows, steps, forecasters, forecasters] products, [windows, steps] how many targets were observed.
        """
        targets, steps = slice(0, self.preprocessor.roles.num_targets), self.config.model.prediction_length
        std = torch.as_tensor(self.preprocessor.scaler.std[targets], dtype=torch.float64)
        products = [np.zeros((0, steps, len(forecasters), len(forecasters)))]
        counts, size = [np.zeros((0, steps))], self.evaluation_batch_size(self._device)
        for begin in range(0, len(windows), size):
            batch = windows.__getitems__(range(begin, min(begin + size, len(windows))))
            observed, truth = (batch[name][..., targets] for name in ("future_observed_mask", "future_values"))
            there = {name: values.to(self._device) for name, values in batch.items()}
            with torch.inference_mode():
                errors = [(one.forecast(there).cpu().double() - truth) / std for one in forecasters]
            errors = torch.stack([torch.where(observed, error, 0.0) for error in errors])
            products.append(torch.einsum("awst,bwst->wsab", errors, errors).numpy())
            counts.append(observed.sum(dim=-1).numpy())
        return np.concatenate(products), np.concatenate(counts)


def inverse_error_weights(errors: np.ndarray) -> list[float]:
    """Weights in proportion to 1 / error that sum to 1.

    A member without any error takes nearly all; where nobody has one, or there was nothing to compare, all are equal.
    """
    if not errors.max() > 0:
        return [1 / len(errors)] * len(errors)
    inverse = 1 / np.maximum(errors / errors.max(), 1e-9)
    return list(map(float, inverse / inverse.sum()))


FOLDS = 4
"""Stretches of each item's validation windows, in order of time; weights are judged on each in turn."""
SHRINKAGE = (0.0, 0.1, 0.3, 1.0)
"""What pulls weights per step towards the mean, in units of how far the members' forecasts lie apart."""
READ_STEPS = 12
"""Last steps of which trees on forecasts see whether they were really read."""
COMBINER_FOLDER = "combiner"


class _OnForecasts:
    """What makes ridge and trees read the members' forecasts beside the context."""

    def reading(self, forecasters: Sequence[Forecaster]) -> Forecaster:
        """The same with these forecasts among its inputs."""
        found = copy(self)
        found.forecasters = list(forecasters)
        return found

    def _said(self, batch: Batch) -> torch.Tensor:
        """[batch, members, steps, targets] what the members say, on the CPU."""
        device, parts = self.stack._device, []
        size = self.stack.evaluation_batch_size(device)
        for begin in range(0, len(batch["past_values"]), size):
            part = {name: values[begin : begin + size].to(device) for name, values in batch.items()}
            with torch.inference_mode():
                parts.append(torch.stack([one.forecast(part).cpu() for one in self.forecasters], dim=1))
        return torch.cat(parts)


class _RidgeOnForecasts(_OnForecasts, Ridge):
    @property
    def _keys(self) -> StackSection:
        return self.config.model

    @property
    def _num_inputs(self) -> int:
        return super()._num_inputs + len(self.forecasters) * self._num_steps

    def _scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        past, mean, std = super()._scaled_context(batch)
        said = self._said(batch).to(past.device).transpose(0, 1)  # members first: mean and std may be by window
        return torch.cat([past, ((said - mean) / std).transpose(0, 1).flatten(1, 2)], dim=1), mean, std


class _TreesOnForecasts(_OnForecasts, LightGBM):
    """They see which of the last steps were really read too, and how old the last reading is."""

    def _features(self, batch: Batch, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features, last, unit = super()._features(batch, target)
        steps = np.array(self.steps) - 1
        changes = (self._said(batch)[:, :, steps, target].flatten(1).numpy() - last[:, None]) / unit[:, None]
        read = batch["past_read_mask"][..., target].cpu().numpy()[:, ::-1]
        age = np.where(read.any(axis=1), read.argmax(axis=1), read.shape[1])
        return np.column_stack([features, changes, read[:, :READ_STEPS], age]).astype(np.float32), last, unit

    @property
    def _num_features(self) -> int:
        read = min(READ_STEPS, self.config.model.context_length)
        return super()._num_features + len(self.forecasters) * len(self.steps) + read + 1


LEARNERS = {"ridge": _RidgeOnForecasts, "lightgbm": _TreesOnForecasts}


class Stack(Ensemble):
    """Members that it trains itself or finds saved, and what validation windows say of how to combine them.

    Weights are fitted on validation windows, by which members at most stopped, and judged on stretches of them that
    they were not fitted to. Ridge and trees on the members' forecasts are fitted on training windows, and hence only
    where no member learned from these: a tuned member's forecasts of them are better than those to come, and mislead.
    Each candidate's error, and which was taken, is printed and kept in `model/config.json`.

    Attributes:
        weights: [members][steps] of a mean or convex combination.
        combiner: what was chosen.
        validation_rmse: candidate -> RMSE on validation windows, in standard deviations of the targets.
    """

    model_type, title, section = "stack", "Stack", StackSection
    not_published = "it is a combination of models; publish its members"

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)
        self.combiner, self.validation_rmse, self._learner = "mean", {}, None

    def known_lengths(self) -> list[tuple[int, int]]:
        """Those of the first member to be trained that knows any; else those of saved ones."""
        self._open()
        fresh = [one.model.known_lengths() for one in self.members if one.folder is None]
        return list(next(filter(None, fresh), ())) if fresh else super().known_lengths()

    def build(self, preprocessor: Preprocessor) -> None:
        """Load and build the members (`CheckpointError`, `RegistryError`, `DataError`: as of an ensemble)."""
        self.preprocessor = preprocessor
        self._open()
        for number, named in enumerate(self.config.model.members):
            if not isinstance(named, str):  # its lengths are known by now
                self.members[number] = self._opened(named, number)
        for member in self.members:
            if member.folder is None:
                member.model.build(preprocessor)
        self._set_weights(self._constant_weights())

    def train_on(self, data: PreparedData, manager: DistributedManager | None = None, *_: object) -> None:
        """Train the members, fit every candidate, keep the best on validation windows; all processes do the same.

        Ridge and trees on forecasts of windows that a member learned from are a `ConfigError`.
        """
        manager, asked = manager or self.setup_distributed(), self.config.model.combiner
        learned = self._learned_members(data)
        if asked in LEARNERS and learned:
            raise ConfigError(
                f"model.combiner={asked} is fitted to the members' forecasts of training windows, and {learned[0]} "
                "was, or may have been, trained on these: give it tuning: {mode: zero_shot}, or set "
                "model.combiner=convex"
            )
        self.to(manager.device)
        for member in self.members:
            if member.folder is None and member.model.config.tuning.mode != "zero_shot":
                logger.info("stack: %s", member.name)
                member.model.train_on(data.as_judged() if member.model.is_baseline else data, manager)
        forecasters, learners = self._fitted_members(data.panel.item_ids), {}
        for name in LEARNERS if asked == "auto" and not learned else {asked} & set(LEARNERS):
            learners[name] = self._new_learner(name, forecasters)
            learners[name].train_on(data.as_judged())
        self._choose(data, forecasters, learners)
        self._forecaster = self.for_items(data.panel.item_ids)

    def load_weights(self, folder: Path) -> None:
        """Read what was chosen, and load the members (`CheckpointError`: something is missing or damaged)."""
        path = folder / MODEL_FOLDER / "config.json"
        values = read_object(path, keys=["combiner", "validation_rmse"])
        super().load_weights(folder)
        with damage(path):
            self.combiner, self.validation_rmse = values["combiner"], dict(values["validation_rmse"])
            if self.combiner not in ("mean", "convex", *LEARNERS):
                raise ValueError(f"combiner is {self.combiner!r}")
        if self.combiner in LEARNERS:
            self._learner = self._new_learner(self.combiner, self._fitted_members(None))
            self._learner.load_weights(folder / MODEL_FOLDER / COMBINER_FOLDER)
        self._set_weights(self.weights)

    def save_weights(self, folder: Path) -> None:
        """Write `model/`: what was chosen, and every member."""
        super().save_weights(folder)
        if self._learner is not None:
            self._learner.save_weights(folder / MODEL_FOLDER / COMBINER_FOLDER)

    def get_model_info(self) -> dict:
        """As of an ensemble, with what was chosen, once it is."""
        chosen = {"combiner": self.combiner, "validation_rmse": self.validation_rmse}
        return super().get_model_info() | (chosen if self.validation_rmse else {})

    def _opened(self, named: str | Mapping[str, Mapping], number: int) -> Member:
        if isinstance(named, str):
            return super()._opened(named, number)
        values, lengths = self.config.model_dump(), ("context_length", "prediction_length")
        model = {name: values["model"][name] for name in lengths} | dict(named["model"])
        values |= {"tuning": {}, "lora": {}, "forecast": {}} | dict(named)
        values |= {"model": model, "training": self.config.training.model_dump() | dict(named.get("training", {}))}
        config = validate(values, origin=f"model.members[{number}]")
        return Member(member_name(named), None, model_class(config.model.type)(config))

    def _learned_members(self, data: PreparedData) -> list[str]:
        """Members that may have learned from the training windows, and forecast them better than others."""
        return [
            one.name
            for one in self.members
            if type(one.model).train_on is not WithoutNetwork.train_on
            and (
                one.folder is not None
                or one.model.config.tuning.mode != "zero_shot"
                or knows_training_windows(data, one.weights)
            )
        ]

    def _new_learner(self, name: str, forecasters: Sequence[Forecaster]) -> _OnForecasts:
        learner = LEARNERS[name](self.config)
        learner.build(self.preprocessor)
        learner.stack = self
        return learner.reading(forecasters)

    def _choose(self, data: PreparedData, forecasters: list[Forecaster], learners: Mapping[str, _OnForecasts]) -> None:
        """Judge every candidate on validation windows, and keep the one that is asked for or the best."""
        windows, size = thinned(data.validation, 1, MAX_STACK_WINDOWS), len(forecasters)
        products, counts = self._error_products([*forecasters, *learners.values()], windows)
        members, total = products[..., :size, :size], max(counts.sum(), 1)
        mean = np.array(self._constant_weights()).T
        squares = {"mean": _squares(members, mean).sum() / total}
        shrunk = judged_shrinkage(members, counts, time_folds(windows)) if size > 1 else {}
        if shrunk:
            squares["convex"] = min(shrunk.values()) / total
        squares |= {name: products[..., n, n].sum() / total for n, name in enumerate(learners, size)}
        self.validation_rmse = {name: round(float(np.sqrt(value)), 6) for name, value in squares.items()}
        asked = self.config.model.combiner
        self.combiner = min(squares, key=squares.get) if asked == "auto" else asked
        if self.combiner not in squares:
            raise ConfigError(
                "model.combiner=convex needs more validation windows: enlarge data.split.validation, or set mean"
            )
        self._learner = learners.get(self.combiner)
        if self.combiner == "convex":
            mean = convex_weights(members.sum(0), counts.sum(0), min(shrunk, key=shrunk.get))
        self._set_weights(mean.T.tolist())
        found = ", ".join(f"{name} {value:.4f}" for name, value in self.validation_rmse.items())
        logger.info("stack: %s of %s (RMSE on validation windows, in standard deviations)", self.combiner, found)
        if self._learner is None:
            spans = (
                f"{one[0]:.2f} to {one[-1]:.2f} {m.name}" for one, m in zip(self.weights, self.members, strict=True)
            )
            logger.info("stack: weights from the first to the last step: %s", ", ".join(spans))

    def _combined(self, forecasters: Sequence[Forecaster]) -> Forecaster:
        if self._learner is not None:
            return self._learner.reading(forecasters)
        return WeightedForecasts(forecasters, [torch.tensor(weights)[:, None] for weights in self.weights])

    def _constant_weights(self) -> list[list[float]]:
        return [[1 / len(self.members)] * self.config.model.prediction_length for _ in self.members]

    def _learned(self) -> dict[str, object]:
        return super()._learned() | {"combiner": self.combiner, "validation_rmse": self.validation_rmse}

    def _weight(self, value: object) -> list[float]:
        weights = list(map(float, value))
        if len(weights) != self.config.model.prediction_length:
            raise ValueError(f"{len(weights)} weights for {self.config.model.prediction_length} steps")
        return weights


def _squares(products: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[windows, steps] squared error of the forecasts weighted by [steps, members]."""
    return np.einsum("wsab,sa,sb->ws", products, weights, weights)


def time_folds(windows: WindowDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit on, rows to judge) for each of `FOLDS` stretches of every item's windows.

    No target lies in what is fitted on and in what is judged.
    """
    starts = windows.starts(np.arange(len(windows)))
    item = windows.panel.segment_item[windows.segment_of(starts)]
    fold, apart = np.zeros(len(starts), np.int64), np.ones((FOLDS, len(starts)), bool)
    for one in np.unique(item):
        rows = np.flatnonzero(item == one)
        rows = rows[np.argsort(starts[rows])]
        fold[rows] = np.arange(len(rows)) * FOLDS // len(rows)
        for number in range(FOLDS):
            judged = starts[rows[fold[rows] == number]]
            if len(judged):
                ends = judged[0] - windows.prediction_length, judged[-1] + windows.prediction_length
                apart[number, rows] = (starts[rows] <= ends[0]) | (starts[rows] >= ends[1])
    return [(np.flatnonzero(apart[number]), np.flatnonzero(fold == number)) for number in range(FOLDS)]


def judged_shrinkage(
    products: np.ndarray, counts: np.ndarray, folds: Collection[tuple[np.ndarray, np.ndarray]]
) -> dict[float, float]:
    """Shrinkage -> squared error, summed over the folds, of weights fitted outside of each; empty: too few windows."""
    if any(counts[fit].sum(0).min() == 0 for fit, _ in folds):
        return {}
    sums = [(products[fit].sum(0), counts[fit].sum(0), products[judged]) for fit, judged in folds]
    return {
        shrinkage: sum(_squares(judged, convex_weights(fit, count, shrinkage)).sum() for fit, count, judged in sums)
        for shrinkage in SHRINKAGE
    }


def convex_weights(products: np.ndarray, counts: np.ndarray, shrinkage: float) -> np.ndarray:
    """[steps, members] positive weights that sum to 1, of the lowest squared error, close ones for close steps.

    Args:
        products: [steps, members, members] sums of products of errors.
        counts: [steps] how many were summed.
        shrinkage: pulls towards the mean: added to the variance of each error, in units of half the mean square of what
            two members' forecasts are apart.
    """
    steps, members = products.shape[:2]
    square = products / np.maximum(counts, 1)[:, None, None]
    square = square / np.maximum(np.trace(square, axis1=1, axis2=2), 1e-12)[:, None, None]  # every step counts the same
    reach = 1 + steps // 12
    distance = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    kernel = np.maximum(1 - distance / reach, 0) * (counts > 0)
    square = np.einsum("st,tab->sab", kernel / np.maximum(kernel.sum(1, keepdims=True), 1e-12), square)
    weights = np.empty((steps, members))
    for step, one in enumerate(square):
        variance = one.diagonal()
        apart = (variance[:, None] + variance - 2 * one).sum() / max(2 * members * (members - 1), 1)
        values, vectors = np.linalg.eigh(one + shrinkage * apart * np.eye(members))
        root = np.sqrt(np.maximum(values, 0) + 1e-9)[:, None] * vectors.T
        rows = np.vstack([root, np.full(members, 1e3)])  # the last row: they sum to 1
        found = nnls(rows, np.append(np.zeros(members), 1e3))[0]
        weights[step] = found / found.sum()
    return weights
