"""One small adapter per item (patient, sensor, shop) on top of a shared base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tstune.adapters import LoRAManager
from tstune.data.prepared import PreparedData
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import CheckpointError
from tstune.models.lora_files import Adapter
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import logger
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.run import TrackedRun
from tstune.training.contract import TrainingObserver, TrainingResult
from tstune.training.loop import train

if TYPE_CHECKING:
    from tstune.models.base import BaseTimeSeriesFoundationModel

FOLDER = "adapters"
_INDEX = "index.json"
_PATIENCE = 2


@dataclass(frozen=True)
class ItemResult:
    """How an item's adapter did on that item's own validation windows.

    Attributes:
        item_id: name of the item.
        kept: the adapter was better than the base, so forecasts of this item use it.
        validation_loss_base, validation_loss_adapter: scaled units; None where the item has too few windows.
        reason: why the base is used, if it is.
    """

    item_id: str
    kept: bool
    validation_loss_base: float | None
    validation_loss_adapter: float | None
    reason: str


class ItemAdapters:
    """The adapters that were kept, and the record of all items.

    Args:
        adapters: item id -> adapter; items without one use the base.
        results: one row per item of the training data.
    """

    def __init__(self, adapters: dict[str, Adapter], results: list[ItemResult]) -> None:
        self.adapters = adapters
        self.results = results

    def forecaster(self, model: BaseTimeSeriesFoundationModel, item_ids: Sequence[str]) -> PerItemForecaster:
        """A forecaster that picks the adapter by `batch["item"]`, an index into `item_ids`."""
        return PerItemForecaster(model, self.adapters, item_ids)

    def save(self, folder: Path) -> None:
        """Write `adapters/`: an index and one folder per kept adapter, in peft's format."""
        folders = {item_id: f"{number:05d}" for number, item_id in enumerate(self.adapters)}
        for item_id, adapter in self.adapters.items():
            adapter.save(folder / FOLDER / folders[item_id])
        (folder / FOLDER).mkdir(exist_ok=True)
        index = [asdict(result) | {"folder": folders.get(result.item_id)} for result in self.results]
        (folder / FOLDER / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ItemAdapters | None:
        """Read `adapters/` of a run folder; None if it has none.

        Raises:
            CheckpointError: the index or an adapter is damaged.
        """
        path = folder / FOLDER / _INDEX
        if not path.is_file():
            return None
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            folders = {row["item_id"]: row.pop("folder") for row in index}
            results = [ItemResult(**row) for row in index]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{path} is damaged") from None
        adapters = {
            item_id: Adapter.load(folder / FOLDER / name) for item_id, name in folders.items() if name is not None
        }
        return cls(adapters, results)


class PerItemForecaster:
    """Forecasts each window with the adapter of its item; items without one use the base.

    The adapters share one slot of the network: switching copies some 300 KB.
    """

    def __init__(
        self, model: BaseTimeSeriesFoundationModel, adapters: dict[str, Adapter], item_ids: Sequence[str]
    ) -> None:
        self._model = model
        self._adapters = [adapters.get(item_id) for item_id in item_ids]

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""
        items = batch["item"].unique().tolist()
        adapters = {item: self._adapters[item] for item in items}
        some = next((adapter for adapter in adapters.values() if adapter is not None), None)
        if some is None:
            return self._model.forecast(batch)
        wrapped = self._model.network = some.wrap(self._model.network)
        forecast: torch.Tensor | None = None
        try:
            for item, adapter in adapters.items():
                rows = batch["item"] == item
                if adapter is not None:
                    adapter.put_on(wrapped)
                with wrapped.disable_adapter() if adapter is None else nullcontext():
                    values = self._model.forecast({name: tensor[rows] for name, tensor in batch.items()})
                if forecast is None:
                    forecast = values.new_empty((len(rows), *values.shape[1:]))
                forecast[rows.to(values.device)] = values
        finally:
            self._model.network = wrapped.unload()
        return forecast


def tune_items(
    model: BaseTimeSeriesFoundationModel,
    data: PreparedData,
    manager: DistributedManager,
    tracker: CompositeTracker,
) -> ItemAdapters:
    """Tune one adapter per item on the tuned base, and keep those that lower the item's own validation loss.

    Each item is a run inside the tracker's run.
    """
    adapters, results = {}, []
    for item, item_id in enumerate(data.panel.item_ids):
        windows, validation = model.shortened(data.train.of_item(item)), data.validation.of_item(item)
        if not len(windows) or not len(validation):
            results.append(ItemResult(item_id, False, None, None, "no training or no validation window"))
            continue
        with TrackedRun(tracker.child(item_id), model.config) as run:
            result, adapter = _tune_item(model, windows, validation, manager, run)
        kept = result.best_step > 0
        base_loss = result.history[0]["validation_loss"]
        if kept:
            adapters[item_id] = adapter
        reason = "" if kept else "no validation loss below the base"
        results.append(ItemResult(item_id, kept, base_loss, result.best_validation_loss, reason))
        logger.info(
            "item %s: validation loss %.4f with the base, %.4f with its adapter: %s",
            item_id,
            base_loss,
            result.best_validation_loss,
            "kept" if kept else "the base stays",
        )
    return ItemAdapters(adapters, results)


def _tune_item(
    model: BaseTimeSeriesFoundationModel,
    windows: WindowDataset,
    validation: WindowDataset,
    manager: DistributedManager,
    observer: TrainingObserver,
) -> tuple[TrainingResult, Adapter]:
    config = model.config
    training = config.training.model_copy(
        update={
            "num_epochs": config.tuning.per_item_epochs,
            "max_steps": None,
            "learning_rate": config.tuning.per_item_learning_rate,
            "early_stopping_patience": _PATIENCE,
            "eval_every_steps": None,
        }
    )
    set_seed(config.seed)
    for parameter in model.module.parameters():
        parameter.requires_grad = False
    model.network = LoRAManager().add_lora_to_model(model.network, model.model_type, config.lora)
    model.to(manager.device)
    batch_size = model.evaluation_batch_size(manager.device)
    result = train(
        model,
        windows,
        validation,
        training,
        manager,
        config.seed,
        batch_size,
        show_progress=False,
        observer=observer,
    )
    adapter = Adapter.taken_from(model.network)
    model.network = model.network.unload()
    return result, adapter
