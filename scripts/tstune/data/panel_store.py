"""A panel in a folder: large arrays in .npy files that are written piece by piece and mapped into memory to be read."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from tstune.data.panel import Origin, Panel
from tstune.data.table import Roles
from tstune.errors import DataError

_LARGE = {"values": np.dtype("<f4"), "status": np.dtype("u1"), "timestamps": np.dtype("<M8[ns]")}
_SMALL = ("segment_start", "segment_item", "segment_position", "item_length", "level")
_ABOUT, _STATICS = "panel.json", "statics.parquet"
_BLOCK = 1 << 22


class DamagedPanel(Exception):
    """The files of a stored panel are not those that were written; what is wrong with them."""


class PanelWriter:
    """Writes one panel from panels of some of its items each, in the order of the items.

    Memory does not grow with the rows. Files are written and flushed, never mapped, so that a full disk is an
    `OSError` and not a signal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, _ArrayFile] = {}
        self._digest = hashlib.sha256()
        self._first: Panel | None = None
        self.item_ids: list[str] = []
        """Items so far."""
        self._small: dict[str, list[np.ndarray]] = {name: [] for name in _SMALL}

    def __enter__(self) -> PanelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays.values():
            array.stream.close()

    def append(self, panel: Panel) -> None:
        """Add the items of a panel behind those that are there."""
        if self._first is None:
            self._first = panel
            for name, dtype in _LARGE.items():
                path = self._folder / f"{name}.npy"
                self._arrays[name] = _ArrayFile(path, dtype, getattr(panel, name).shape[1:])
        if (panel.roles, panel.frequency) != (self._first.roles, self._first.frequency):
            raise DataError("the pieces of this data have different channels or grids; set data.cache=null")
        rows = self._arrays["values"].rows
        self._small["segment_start"].append(panel.segment_start[:-1] + rows)
        self._small["segment_item"].append(panel.segment_item + len(self.item_ids))
        self._small["segment_position"].append(panel.segment_position)
        self._small["item_length"].append(panel.item_length)
        none = np.zeros((len(panel.item_ids), panel.values.shape[1]))
        self._small["level"].append(none if panel.level is None else panel.level)
        self.item_ids += panel.item_ids
        for name, array in self._arrays.items():
            array.append(getattr(panel, name))
        self._digest.update(np.ascontiguousarray(panel.values))

    def finish(self, origin: Origin) -> None:
        """Write what is not an array, and how to tell that everything is whole."""
        rows = self._arrays["values"].rows
        self._small["segment_start"].append(np.array([rows]))
        for name, pieces in self._small.items():
            values = np.concatenate(pieces).astype("<f8" if name == "level" else "<i8")
            self._arrays[name] = _ArrayFile(self._folder / f"{name}.npy", values.dtype, values.shape[1:])
            self._arrays[name].append(values)
        files = {name: array.finish() for name, array in self._arrays.items()}
        with self._arrays["status"].path.open("rb") as stream:  # `Panel.fingerprint` takes all values first
            stream.seek(self._arrays["status"].begin)
            while block := stream.read(_BLOCK):
                self._digest.update(block)
        level = np.concatenate(self._small["level"])
        if level.any():
            self._digest.update(level)
        if origin.table.statics is not None:
            origin.table.statics.to_parquet(self._folder / _STATICS)
            files["statics"] = _check_of(self._folder / _STATICS)
        about = {
            "fingerprint": self._digest.hexdigest(),
            "item_ids": self.item_ids,
            "roles": asdict(self._first.roles),
            "frequency": self._first.frequency,
            "origin": origin.to_dict(),
            "files": files,
        }
        text = json.dumps(about)
        whole = json.dumps({"check": zlib.crc32(text.encode()), "about": text})
        with (self._folder / _ABOUT).open("w", encoding="utf-8") as stream:
            stream.write(whole)
            _flush(stream)


def open_panel(folder: Path) -> tuple[Panel, Origin]:
    """Map a stored panel: its large arrays are read-only and take memory only while the system has some to spare.

    Every file is read once and compared with its checksum.

    Raises:
        DamagedPanel: a file is missing or not what was written.
    """
    about = _about(folder)
    for name, expected in about["files"].items():
        path = folder / (_STATICS if name == "statics" else f"{name}.npy")
        if not path.is_file():
            raise DamagedPanel(f"{path.name} is missing")
        if path.stat().st_size != expected["size"] or _check_of(path) != expected:
            raise DamagedPanel(f"{path.name} is not what was written")
    # np.asarray: the same memory without the cost of np.memmap at every slice
    large = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _LARGE}
    small = {name: np.load(folder / f"{name}.npy") for name in _SMALL}
    small["level"] = small["level"] if small["level"].any() else None
    statics = pd.read_parquet(folder / _STATICS) if "statics" in about["files"] else None
    origin = Origin.from_dict(about["origin"], statics)
    panel = Panel(
        **large,
        **small,
        item_ids=tuple(about["item_ids"]),
        roles=Roles.from_dict(about["roles"]),
        frequency=about["frequency"],
        known_fingerprint=about["fingerprint"],
    )
    return panel, origin


def _about(folder: Path) -> dict:
    try:
        whole = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        text = whole["about"]
        if zlib.crc32(text.encode()) != whole["check"]:
            raise ValueError
        return json.loads(text)
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedPanel(f"{_ABOUT} is missing or not what was written") from None


class _ArrayFile:
    """A .npy file that grows; numpy leaves room in its header for a larger number of rows."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        self.path, self.rows = path, 0
        self._dtype, self._row_shape = dtype, row_shape
        self.stream = path.open("wb")
        self.begin = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        self.stream.write(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8))
        self.rows += len(rows)

    def finish(self) -> dict[str, int]:
        self.stream.seek(0)
        if self._write_header() != self.begin:
            raise RuntimeError(f"the header of {self.path.name} grew")
        _flush(self.stream)
        self.stream.close()
        return _check_of(self.path)

    def _write_header(self) -> int:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.stream, header | {"shape": (self.rows, *self._row_shape)})
        return self.stream.tell()


def _flush(stream: IO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _check_of(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file."""
    check, size = 0, 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            check, size = zlib.crc32(block, check), size + len(block)
    return {"size": size, "crc32": check}
