"""Which items take part in which parts of a split."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from tstune.config.schema import SplitSection
from tstune.data.split_presets import PRESETS
from tstune.errors import DataError

ALL_PARTS = (True, True, True)


def parts_of_items(item_ids: tuple[str, ...], config: SplitSection) -> np.ndarray:
    """[items, 3] True where an item takes part in train, validation, test.

    Raises:
        DataError: a named item that is not there, or too few items to hold some out.
    """
    takes_part = np.tile(ALL_PARTS, (len(item_ids), 1))
    if config.preset is not None:
        return _published(item_ids, config.preset)
    if config.by == "time":
        return takes_part
    validation, test = _held_out(item_ids, config)
    takes_part[validation] = (False, True, False)
    takes_part[test] = (False, False, True)
    if config.by == "item":
        takes_part[~(validation | test)] = (True, False, False)
    for part, found in zip(("train", "validation", "test"), takes_part.any(axis=0), strict=True):
        if not found:
            raise DataError(
                f"data.split.by={config.by} leaves no series for {part}: the data has {len(item_ids)}, "
                f"{int(validation.sum())} held out to validate and {int(test.sum())} to test; hold out fewer, "
                "or split by time"
            )
    return takes_part


def _published(item_ids: tuple[str, ...], preset: str) -> np.ndarray:
    parts = {"seen": ALL_PARTS, "train_only": (True, True, False), "unseen": (False, False, True)}
    roles = [PRESETS[preset].role(item_id) for item_id in item_ids]
    if not any(roles):
        raise DataError(
            f"data.split.preset={preset}: no series is one of its participants; the series are {some_names(item_ids)}"
        )
    return np.array([parts.get(role, (False, False, False)) for role in roles])


def _held_out(item_ids: tuple[str, ...], config: SplitSection) -> tuple[np.ndarray, np.ndarray]:
    """([items], [items]) True where an item is held out to validate, to test."""
    order = np.random.default_rng(config.seed).permutation(sorted(item_ids))  # whatever order the files came in
    if config.folds is not None:
        if config.folds > len(item_ids):
            raise DataError(f"data.split.folds={config.folds} but the data has {len(item_ids)} series; lower it")
        groups = np.array_split(order, config.folds)
        test = set(groups[config.fold])
        validation = set(groups[(config.fold + 1) % config.folds]) if config.by == "item" else set()
    else:
        named = _named(config.validation_items, order, "data.split.validation_items")
        test = _named(config.test_items, order, "data.split.test_items")
        test = test or _drawn(config.test_items or config.test, order, besides=named)
        # by both, the items seen in training validate too, so none is held out for it unless asked for
        share = config.validation_items or (config.validation if config.by == "item" else 0.0)
        validation = named or _drawn(share, order, besides=test)
    return np.isin(item_ids, list(validation)), np.isin(item_ids, list(test))


def _named(items: float | list[str] | None, known: np.ndarray, key: str) -> set[str]:
    """Items given by name; empty where a share is asked for."""
    if not isinstance(items, list):
        return set()
    missing = [item for item in items if item not in set(known)]
    if missing:
        close = difflib.get_close_matches(missing[0], known.tolist(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"{key}: no series {missing[0]!r}; {hint}the series are {some_names(sorted(known))}")
    return set(items)


def _drawn(share: float, order: np.ndarray, besides: set[str]) -> set[str]:
    """The first of the drawn order: a share of all items, at least one if the share is above 0."""
    count = max(1, round(share * len(order))) if share else 0
    return set([item for item in order.tolist() if item not in besides][:count])


def some_names(names: Sequence[str]) -> str:
    """The first dozen, and how many there are."""
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
