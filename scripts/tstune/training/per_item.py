"""Train one small adapter per item (patient, sensor, shop) on top of a shared base."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from tstune.data.prepared import PreparedData
from tstune.data.windows import WindowDataset
from tstune.models.adapters import Adapter, ItemAdapters, ItemResult, adapt
from tstune.models.contract import ForecastModel
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import logger
from tstune.training.callbacks import Callback
from tstune.training.contract import TrainingResult
from tstune.training.loop import train

_PATIENCE = 2


def tune_items(
    model: ForecastModel,
    data: PreparedData,
    manager: DistributedManager,
    observe: Callable[[str], AbstractContextManager[Callback]],
) -> ItemAdapters:
    """Tune one adapter per item on the tuned base, and keep those that lower the item's own validation loss.

    Args:
        model: tuned.
        data: panel and windows.
        manager: process group.
        observe: item id -> who is told how its training goes, while it goes.
    """
    adapters, results = {}, []
    for item, item_id in enumerate(data.panel.item_ids):
        windows, validation = model.shortened(data.train.of_item(item)), data.validation.of_item(item)
        if not len(windows) or not len(validation):
            results.append(ItemResult(item_id, False, None, None, "no training or no validation window"))
            continue
        with observe(item_id) as callback:
            result, adapter = _tune_item(model, windows, validation, manager, callback)
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
    model: ForecastModel,
    windows: WindowDataset,
    validation: WindowDataset,
    manager: DistributedManager,
    callback: Callback,
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
    model.network = adapt(model.network, model.model_type, config.lora)
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
        callbacks=[callback],
    )
    adapter = Adapter.taken_from(model.network)
    model.network = model.network.unload()
    return result, adapter
