"""Columns that say one thing about a whole series."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tstune.data.table import Roles
from tstune.errors import DataError


def read_statics(raw: pd.DataFrame, items: pd.Series, roles: Roles, name: object) -> pd.DataFrame | None:
    """One row per series with its static columns, or None if there are none.

    Args:
        raw: the table as it was read.
        items: [rows] name of the series.
        roles: which columns are static; categories are text, missing ones None, the others float64.
        name: of the table, for errors.

    Raises:
        DataError: a column that changes within a series, or a number that is none.
    """
    if not roles.statics:
        return None
    columns = {}
    for column in roles.statics:
        values = raw[column]
        known = values.notna()
        first = values[known].groupby(items[known].to_numpy(), sort=False).first()
        changed = known & (values != items.map(first)).to_numpy()
        if changed.any():
            row = int(np.flatnonzero(changed)[0])
            item = items.iloc[row]
            raise DataError(
                f"{name}: row {row + 2}: static column {column!r} of series {item!r} is {values.iloc[row]!r}, before "
                f"it was {first[item]!r}; it must not change within a series: give it another role, or leave it out"
            )
        columns[column] = first.reindex(items.unique())
    table = pd.DataFrame(columns, index=pd.Index(items.unique(), dtype=object))
    for column in roles.static_categorical:
        table[column] = [str(value) if pd.notna(value) else None for value in table[column]]
        table[column] = table[column].astype(object)
    for column in roles.static_real:
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            cell = table[column].iloc[int(bad[0])]
            problem = "no value" if pd.isna(cell) else f"{cell!r}, which is not a number"
            raise DataError(
                f"{name}: static column {column!r} of series {table.index[bad[0]]!r} has {problem}; fill it, or leave "
                "the column out"
            )
        table[column] = numbers.astype("float64")
    return table
