"""Run the frozen half of a model once per window and train on its stored outputs."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from tstune.data.prepared import PreparedData
from tstune.data.scaler import fit_scaler
from tstune.data.windows import Batch, MirroredWindows, WindowDataset
from tstune.errors import ConfigError
from tstune.models.contract import ForecastModel
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger


class CachedWindows(Dataset):
    """Windows whose context is replaced by the features a frozen encoder made of it.

    A batch holds the features and, as in `WindowDataset`, the future values, masks, item and start.

    Args:
        windows: the windows to encode.
        encode: batch of windows -> features, tensors with the batch first; deterministic.
        device: where `encode` runs.
        budget_bytes: beyond this size the features lie in a memory-mapped temporary file.
        folder: where that file is made; None takes the system's.
        batch_size: windows per forward pass of `encode`.
        with_context: the second half reads the context too; it is cut anew each time, which takes no memory.
    """

    def __init__(
        self,
        windows: WindowDataset | MirroredWindows,
        encode: Callable[[Batch], Batch],
        device: torch.device,
        budget_bytes: float,
        folder: Path | None = None,
        batch_size: int = 64,
        with_context: bool = False,
    ) -> None:
        self.windows, self.with_context = windows, with_context
        self._arrays: dict[str, torch.Tensor] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._file = None
        self.on_disk = False
        for begin in range(0, len(windows), batch_size):
            indices = range(begin, min(begin + batch_size, len(windows)))
            batch = {name: tensor.to(device) for name, tensor in windows.__getitems__(indices).items()}
            with torch.inference_mode():
                features = encode(batch)
            if not self._arrays:
                self._allocate(features, budget_bytes, folder)
            for name, values in features.items():
                self._arrays[name][begin : indices.stop] = values.reshape(len(indices), -1).cpu()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = (self.windows.__getitems__ if self.with_context else self.windows.without_past)(indices)
        rows = torch.as_tensor(indices)
        for name, array in self._arrays.items():
            batch[name] = array.index_select(0, rows).view(-1, *self._shapes[name])
        return batch

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    @property
    def num_bytes(self) -> int:
        """Size of the stored features."""
        return sum(array.numel() * array.element_size() for array in self._arrays.values())

    def _allocate(self, features: Batch, budget_bytes: float, folder: Path | None) -> None:
        widths = {name: values[0].numel() for name, values in features.items()}
        self._shapes = {name: values.shape[1:] for name, values in features.items()}
        size = len(self) * 4 * sum(widths.values())
        self.on_disk = size > budget_bytes
        if not self.on_disk:
            self._arrays = {name: torch.empty(len(self), width) for name, width in widths.items()}
            return
        logger.info("feature cache: %.1f GB, more than training.feature_cache_gb: kept in a temporary file", size / 1e9)
        self._file = tempfile.TemporaryFile(dir=folder, prefix="features-")  # noqa: SIM115 lives as long as the cache
        flat = np.memmap(self._file, dtype=np.float32, mode="w+", shape=(size // 4,))
        begin = 0
        for name, width in widths.items():
            end = begin + len(self) * width
            self._arrays[name] = torch.from_numpy(flat[begin:end].reshape(len(self), width))
            begin = end


def training_windows(model: ForecastModel, data: PreparedData, manager: DistributedManager) -> tuple[Dataset, Dataset]:
    """Windows to train and to validate on: with stored features if part of the model is frozen and that pays."""
    config, encode, train_windows = model.config.training, model.frozen_encoder(), model.shortened(data.train)
    if model.config.data.mirror_train_windows:
        # not the scaler's own mean: with data.scaling=none that is 0, and nothing to do with the level of the data
        train_windows = MirroredWindows(train_windows, fit_scaler(data.panel, data.split, "standard").mean)
    if config.cache_frozen_features == "off":
        return train_windows, data.validation
    if encode is None:
        if config.cache_frozen_features == "on":
            raise ConfigError(
                f"training.cache_frozen_features=on: with tuning.mode={model.config.tuning.mode} and these columns "
                "no part of the model is frozen and alone at its input; use auto or off"
            )
        return train_windows, data.validation
    batch = config.per_device_batch_size * manager.num_processes * config.gradient_accumulation_steps
    visits = min(config.num_epochs * len(train_windows), (config.max_steps or math.inf) * batch)
    if config.cache_frozen_features == "auto" and visits <= len(train_windows):
        return train_windows, data.validation  # each window is seen once: nothing to reuse
    model.module.eval()
    begin, budget = time.perf_counter(), config.feature_cache_gb * 1e9
    batch_size = model.evaluation_batch_size(manager.device)
    how = {"batch_size": batch_size, "with_context": getattr(model.module, "linear_skip", None) is not None}
    cached = CachedWindows(train_windows, encode, manager.device, budget, **how)
    left = budget - cached.num_bytes
    validation = CachedWindows(data.validation, encode, manager.device, left, **how)
    seconds, size = time.perf_counter() - begin, cached.num_bytes + validation.num_bytes
    logger.info("frozen features stored once: %.0f MB in %.1f s", size / 1e6, seconds)
    return cached, validation
