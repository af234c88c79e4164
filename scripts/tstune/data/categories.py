"""Static categories as codes: the values of training items count from 1, everything else is 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tstune.data.panel import Panel
from tstune.data.splits import Split
from tstune.data.table import Roles, SourceTable

UNKNOWN = 0
"""Code of a value that no training item has, and of no value at all."""


def learn_categories(table: SourceTable, panel: Panel, split: Split) -> tuple[Roles, np.ndarray | None]:
    """Roles with the values of the items that have a training part, and the codes of all items of the panel."""
    roles = table.roles
    if not roles.static_categorical:
        return roles, None
    begin, end = split.bounds("train")
    trained = [name for name, length in zip(panel.item_ids, end - begin, strict=True) if length > 0]
    values = table.statics.loc[trained, list(roles.static_categorical)]
    learned = tuple(tuple(sorted(values[column].dropna().unique())) for column in roles.static_categorical)
    roles = replace(roles, categories=learned)
    return roles, category_codes(table, roles, panel.item_ids)


def category_codes(table: SourceTable, roles: Roles, item_ids: Sequence[str]) -> np.ndarray | None:
    """[items, static categories] int64 codes, or None if the model has none."""
    if not roles.static_categorical:
        return None
    codes = np.zeros((len(item_ids), len(roles.static_categorical)), np.int64)
    for number, (column, values) in enumerate(zip(roles.static_categorical, roles.categories, strict=True)):
        known = {value: code for code, value in enumerate(values, start=UNKNOWN + 1)}
        codes[:, number] = [known.get(value, UNKNOWN) for value in table.statics.loc[list(item_ids), column]]
    return codes
