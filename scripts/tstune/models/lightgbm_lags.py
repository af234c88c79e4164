"""LightGBM on lags: the baseline that won the one-hour glucose competition, behind the common interface."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from tstune.data.prepared import PreparedData
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import CheckpointError, ConfigError
from tstune.foreign_files import damage, read_object
from tstune.models.baselines import Baseline
from tstune.models.contract import MODEL_FOLDER
from tstune.named_code import optional_module

MAX_ROWS = 100_000
"""A booster sees at most this many training windows, evenly spaced, and a fifth as many validation windows."""
DENSE_STEPS = 24
"""Every step up to this one has a booster of its own."""
SPARSE_STRIDE = 8
"""Beyond `DENSE_STEPS` every so many steps have one; the forecast between two is a straight line."""
MAX_TREES = 500
PATIENCE = 25
CHUNK = 4096
"""Windows whose features are made at once, so that memory does not grow with the context."""
SETTINGS = {
    "objective": "regression",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "deterministic": True,  # the same trees whatever the number of threads
    "force_row_wise": True,
    "verbosity": -1,
}
LAGS = (*range(13), 15, 18, 24, 30, 36, 48, 60, 72, 96, 144, 192, 287, 432)
"""Steps back from the last step of the context; those that the context does not reach are left out."""
CHANGES = (1, 2, 3, 6, 12, 24)
"""The last step minus the one so many steps back."""
SPANS = (3, 6, 12, 24, 72, 144, 288)
"""Last so many steps whose mean, deviation, lowest and highest value are taken, beside those of the whole context."""
DAY = 86_400


class LightGBM(Baseline):
    """Gradient-boosted trees on lags, differences, window statistics and the hour of day.

    Direct multi-step: one booster per step and target up to step 24, then one every 8 steps and one for the last step,
    with straight lines between. A booster forecasts the change since the last reading. It sees the past of its own
    target only (`lag_features`), missing lags stay missing; the number of trees is chosen on the
    validation windows. Rows whose target was not really observed are left out. Columns that are a series each
    (`data.columns_as=items`) may differ a thousandfold: there each window is counted from its last reading, in its own
    deviation, as ridge does it.
    """

    model_type = "lightgbm"

    @classmethod
    def require_packages(cls) -> None:
        _lightgbm()

    def train_on(self, data: PreparedData, *_: object) -> None:
        """Fit every booster; the same seed and data give the same trees. Each step needs observed targets."""
        lightgbm = _lightgbm()
        self.steps = modelled_steps(self._num_steps)
        self.boosters = []
        for target, name in enumerate(data.panel.roles.target):
            train = self._rows(data.train, MAX_ROWS, target)
            validation = self._rows(data.validation, MAX_ROWS // 5, target)
            for part, (_, changes) in (("train", train), ("validation", validation)):
                if np.isnan(changes).all(axis=0).any():
                    step = self.steps[int(np.isnan(changes).all(axis=0).argmax())]
                    raise ConfigError(
                        f"evaluation.baselines: lightgbm finds no observed value of {name!r} at step {step} of the "
                        f"{part} windows; leave lightgbm out, or enlarge data.split.{part}"
                    )
            # binned once; the boosters differ in their targets and in the rows that have one
            binned = lightgbm.Dataset(train[0], params=SETTINGS, free_raw_data=False).construct()
            binned_validation = lightgbm.Dataset(validation[0], reference=binned, free_raw_data=False).construct()
            parts = zip(train[1].T, validation[1].T, strict=True)
            self.boosters.append(
                [self._booster(lightgbm, _part(binned, t), _part(binned_validation, v)) for t, v in parts]
            )

    def forecast(self, batch: Batch) -> torch.Tensor:
        steps, shape = np.arange(1, self._num_steps + 1), (len(batch["past_values"]), self._num_steps)
        forecast = np.empty((*shape, len(self.boosters)), np.float32)
        for target, boosters in enumerate(self.boosters):
            features, last, unit = self._features(batch, target)
            changes = np.stack([b.predict(features, num_threads=torch.get_num_threads()) for b in boosters], axis=1)
            forecast[..., target] = last[:, None] + unit[:, None] * _between(steps, np.array(self.steps), changes)
        return torch.from_numpy(forecast).to(batch["past_values"].device)

    def save_weights(self, folder: Path) -> None:
        """Write one LightGBM text model per target and step."""
        self._write_config(folder, by_window=self.by_window)
        for target, boosters in enumerate(self.boosters):
            for step, booster in zip(self.steps, boosters, strict=True):
                text = booster.model_to_string(num_iteration=booster.best_iteration)
                _booster_path(folder, target, step).write_text(text, encoding="utf-8")

    def load_weights(self, folder: Path) -> None:
        """Read the text models; one that is missing, damaged or made from other features is a `CheckpointError`."""
        lightgbm = _lightgbm()
        super().load_weights(folder)
        self.steps = modelled_steps(self._num_steps)
        targets = range(self.preprocessor.roles.num_targets)
        paths = [[_booster_path(folder, target, step) for step in self.steps] for target in targets]
        self.boosters = [[_read_booster(lightgbm, path) for path in row] for row in paths]
        width = self._num_features
        if any(booster.num_feature() != width for row in self.boosters for booster in row):
            raise CheckpointError(f"{folder / MODEL_FOLDER} was not made from the {width} features of this context")
        # those of an earlier commit have one scale for all windows
        self.by_window = read_object(folder / MODEL_FOLDER / "config.json").get("by_window") is True

    @property
    def _num_features(self) -> int:
        return lag_features(np.zeros((1, self.config.model.context_length), np.float32), None).shape[1]

    def _booster(self, lightgbm: ModuleType, train: object, validation: object) -> object:
        settings = SETTINGS | {"seed": self.config.seed, "num_threads": torch.get_num_threads()}
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        return lightgbm.train(settings, train, MAX_TREES, valid_sets=[validation], callbacks=[stop])

    def _rows(self, windows: WindowDataset, most: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        """([rows, features], [rows, modelled steps] change since the last reading, NaN where not observed)."""
        chosen = np.linspace(0, len(windows) - 1, min(len(windows), most)).astype(np.int64)
        steps, features, changes = np.array(self.steps) - 1, [], []
        for begin in range(0, len(chosen), CHUNK):
            batch = windows.__getitems__(chosen[begin : begin + CHUNK])
            values, last, unit = self._features(batch, target)
            future, real = (batch[name][..., target] for name in ("future_values", "future_observed_mask"))
            features.append(values)
            changes.append(np.where(real, (future - last[:, None]) / unit[:, None], np.nan)[:, steps])
        return np.concatenate(features), np.concatenate(changes)

    def _features(self, batch: Batch, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """([windows, features], [windows] last reading, the training mean without any, [windows] unit of changes)."""
        past, observed = (batch[name][..., target].cpu().numpy() for name in ("past_values", "past_observed_mask"))
        origin = batch["origin"].cpu().numpy() if "origin" in batch else None
        last = self._last_reading(*self._target_context(batch))[:, 0, target].cpu().numpy()
        unit = np.ones_like(last)
        if self.by_window:
            unit = self._own_deviation(batch)[:, 0, target].cpu().numpy()
            past = (past - last[:, None]) / unit[:, None]
        return lag_features(np.where(observed, past, np.nan), origin), last, unit


def lag_features(past: np.ndarray, origin: np.ndarray | None) -> np.ndarray:
    """[windows, features] float32, missing values NaN.

    Args:
        past: [windows, context] values of one series, NaN where missing.
        origin: [windows] time of the first forecast step in seconds since 1970; None: not known, the hour is missing.
    """
    length = past.shape[1]
    from_end = past[:, ::-1]
    lags = from_end[:, [lag for lag in LAGS if lag < length]]
    changes = [from_end[:, 0] - from_end[:, back] for back in CHANGES if back < length]
    steps = [from_end[:, back] - from_end[:, back + 1] for back in range(1, min(6, length - 1))]
    statistics = [
        values for span in (*(s for s in SPANS if s < length), length) for values in _statistics(from_end[:, :span])
    ]
    angle = np.full(len(past), np.nan) if origin is None else 2 * np.pi * (origin % DAY) / DAY
    columns = [*lags.T, *changes, *steps, *statistics, np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=1).astype(np.float32)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """[windows] mean, deviation, lowest and highest of the values that are there."""
    there = ~np.isnan(values)
    count = there.sum(axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):  # 0 / 0 is missing, as it should be
        mean = values.sum(axis=1, where=there) / count
        deviation = np.sqrt(np.square(values - mean[:, None]).sum(axis=1, where=there) / count)
    return mean, deviation, np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)


def modelled_steps(prediction_length: int) -> list[int]:
    """Steps with a booster of their own, counted from 1; the last step is always one of them."""
    dense = list(range(1, min(DENSE_STEPS, prediction_length) + 1))
    sparse = range(DENSE_STEPS + SPARSE_STRIDE, prediction_length + 1, SPARSE_STRIDE)
    return sorted({*dense, *sparse, prediction_length})


def _between(steps: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[windows, steps] straight lines through `values` [windows, known] at the steps that are known."""
    right = np.searchsorted(known, steps)
    left = np.maximum(right - 1, 0)
    share = np.where(right == left, 1.0, (steps - known[left]) / np.maximum(known[right] - known[left], 1))
    return values[:, left] * (1 - share) + values[:, right] * share


def _part(binned: object, labels: np.ndarray) -> object:
    """The rows that have a label, as LightGBM's data set."""
    rows = np.flatnonzero(~np.isnan(labels))
    return binned.subset(rows).construct().set_label(labels[rows])


def _booster_path(folder: Path, target: int, step: int) -> Path:
    return folder / MODEL_FOLDER / f"target-{target}-step-{step:04d}.txt"


def _read_booster(lightgbm: ModuleType, path: Path) -> object:
    with damage(path, state="is no LightGBM model"):
        return lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))


def _lightgbm() -> ModuleType:
    return optional_module("lightgbm", "the baseline lightgbm", "lightgbm>=4.5,<5")
