"""A data set of the datasets library that lies on this machine, read series by series."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.frame import table_from_frame
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.arrow import BATCH_ROWS, stream_of_batches
from tstune.data.table import PIECE_ROWS, SourceTable, TableStream
from tstune.errors import ConfigError, DataError
from tstune.named_code import optional_module

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, IterableDataset


INFO = SourceInfo(
    name="hf_dataset",
    summary="any data set of the datasets library, as series per row (GluonTS: start, target) or as a long table",
    licence="the data set's own; its card says which",
    where="set data.path to a Hub id (organisation/name), a folder written by save_to_disk, a folder of files, or an "
    ".arrow file",
    keys={
        "path": "Hub id, folder or file",
        "frequency": "step of the series, where the rows do not say it",
        "timestamp_column": "long rows: column with the times; the other column keys are read as by source csv",
    },
    options=(
        Option("config", None, "configuration (subset) of the data set"),
        Option("split", "train", "which split"),
        Option("revision", None, "branch, tag or commit on the Hub"),
        Option("streaming", False, "read row by row, without storing the data set"),
        Option("max_rows", 0, "read this many rows at most; 0 reads all, needed when streaming"),
    ),
)


def load(config: DataSection) -> SourceTable:
    """Return the series of ``data.path``; the target is ``target`` (``target_0``, … if it has several dimensions)."""
    options = INFO.read_options(config)
    INFO.need_path(config)
    max_rows = options["max_rows"]
    if max_rows < 0 or (options["streaming"] and max_rows == 0):
        raise ConfigError(
            "data.source_options.max_rows: a stream has no end; say how many rows to read"
            if max_rows == 0
            else f"data.source_options.max_rows={max_rows} is negative"
        )
    data = _open(config.path, options)
    rows = _first_rows(data, max_rows, options["streaming"])
    if not len(rows):
        raise DataError(f"{config.path}: the data set has no rows")
    table = table_from_frame(rows, config, config.path)
    notes = table.notes | {"rows_read": len(rows), "row_limit": max_rows or None, "streamed": options["streaming"]}
    return replace(
        table, licence=_licence(data, config), files=() if options["streaming"] else _files(data), notes=notes
    )


def stream(config: DataSection) -> TableStream | None:
    """The same series by series, if the whole data set lies on this machine; else None."""
    options = INFO.read_options(config)
    if config.path is None or options["streaming"] or options["max_rows"]:
        return None
    data = _open(config.path, options)
    if not len(data) or not data.cache_files:
        return None
    found = _stream(data, config, _files(data))
    notes = {"rows_read": len(data), "row_limit": None, "streamed": False}
    return found and replace(found, notes=notes, licence=_licence(data, config))


def _files(data: Dataset) -> tuple[str, ...]:
    return tuple(file["filename"] for file in data.cache_files)


def _licence(data: Dataset | IterableDataset, config: DataSection) -> str:
    return getattr(data.info, "license", None) or f"not stated by the data set {config.path}"


def _open(path: str, options: dict[str, Any]) -> Dataset | IterableDataset:
    """The data set, from wherever the path points."""
    datasets = optional_module("datasets", "source hf_dataset", "datasets>=4")
    datasets.disable_progress_bars()
    place = Path(path)
    is_hub_id = not path.startswith((".", "/", "~")) and path.count("/") <= 1 and not place.suffix
    try:
        if place.is_file():
            if place.suffix != ".arrow":
                raise DataError(f"{path}: unknown kind of file; use .arrow here, and source csv for CSV and Parquet")
            data = datasets.Dataset.from_file(str(place))
        elif (place / "dataset_dict.json").is_file():
            data = _split(datasets.load_from_disk(path), options["split"], path)
        elif (place / "state.json").is_file():
            data = datasets.load_from_disk(path)
        elif place.is_dir() and any(".csv" in file.name for file in place.iterdir()):
            raise DataError(f"{path} holds CSV files: source csv reads them, with ids as they are written (001, NA)")
        elif place.is_dir() or is_hub_id:
            given = {name: options[name] for name in ("split", "revision", "streaming")}
            return datasets.load_dataset(path, options["config"], **given)
        else:
            raise INFO.missing(place)
    except DataError:
        raise
    except (OSError, ValueError, LookupError, datasets.exceptions.DatasetsError) as error:  # the Hub's are OSErrors
        reason = " ".join(str(error).split())
        raise DataError(f"source {INFO.name}: {path} cannot be read: {reason[:300]}; {INFO.where}") from None
    return data.to_iterable_dataset() if options["streaming"] else data


def _split(splits: Any, name: str, path: str) -> Dataset:
    if name not in splits:
        raise ConfigError(f"data.source_options.split={name}: {path} has the splits {', '.join(splits)}")
    return splits[name]


def _first_rows(data: Dataset | IterableDataset, max_rows: int, streaming: bool) -> pd.DataFrame:
    if streaming:
        return pd.DataFrame(list(itertools.islice(data, max_rows)))
    chosen = data.select(range(min(max_rows, len(data)))) if max_rows else data
    return chosen.to_pandas()


def _stream(data: Dataset, config: DataSection, files: tuple[str, ...]) -> TableStream | None:
    """Stream a data set of one series per row, or of one time of one series per row; None if that cannot be."""
    if {"start", "target"} <= set(data.column_names):
        names = [str(value) for value in (data["item_id"] if "item_id" in data.column_names else range(len(data)))]
        order = sorted(range(len(names)), key=names.__getitem__)
        return TableStream(files, lambda _: partial(_groups, data, names, order, config))
    return stream_of_batches(data.features.arrow_schema, partial(_batches, data), config, config.path, files)


def _batches(data: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    return data.select_columns(columns).with_format("arrow").iter(BATCH_ROWS)


def _groups(data: Dataset, names: list[str], order: list[int], config: DataSection) -> Iterator[SourceTable]:
    """Tables of some series each; rows of one name stay together."""
    rows: list[dict[str, Any]] = []
    steps = 0
    for place, number in enumerate(order):
        row = data[number] | {"item_id": names[number]}
        rows.append(row)
        steps += _steps(row["target"])
        goes_on = place + 1 < len(order) and names[order[place + 1]] == names[number]
        if (steps >= PIECE_ROWS and not goes_on) or place + 1 == len(order):
            yield table_from_frame(pd.DataFrame(rows), config, config.path)
            rows, steps = [], 0


def _steps(target: list | None) -> int:
    if not target:
        return 0
    return len(target[0]) if isinstance(target[0], list) else len(target)
