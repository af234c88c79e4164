"""Reads back what an offline run of Weights & Biases wrote: protobufs in the log format of LevelDB."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEADER = 32768, struct.Struct("<IHB")


@dataclass
class OfflineRun:
    """One ``offline-run-…`` folder.

    Attributes:
        folder: the folder itself.
        run_id, project, name, group, notes: of the run.
        config: last value of each key.
        history: rows, without W&B's own columns.
        summary: last value of each key.
        files: paths below ``files/`` that are to be sent.
        artifacts: name of each artifact -> (type, {path: local file}).
        exit_code: None if the run did not end.
    """

    folder: Path
    run_id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    notes: str = ""
    config: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    artifacts: dict[str, tuple[str, dict[str, Path]]] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_runs(folder):
    """All runs in a ``wandb`` folder, the oldest first."""
    return [_read(path) for path in sorted(folder.glob("offline-run-*"))]


def _read(folder):
    run = OfflineRun(folder)
    (log,) = folder.glob("*.wandb")
    for record in _records(log.read_bytes()):
        kind = record.WhichOneof("record_type")
        content = getattr(record, kind)
        if kind == "run":
            run.run_id, run.project = content.run_id, content.project
            run.name, run.group, run.notes = content.display_name, content.run_group, content.notes
            run.config |= _items(content.config.update)
        elif kind == "config":
            run.config |= _items(content.update)
        elif kind == "summary":
            run.summary |= _items(content.update)
        elif kind == "history":
            run.history.append(_items(content.item))
        elif kind == "files":
            run.files += [file.path for file in content.files]
        elif kind == "artifact":
            files = {entry.path: Path(entry.local_path) for entry in content.manifest.contents}
            run.artifacts[content.name] = content.type, files
        elif kind == "exit":
            run.exit_code = content.exit_code
    return run


def _items(updates):
    items = {update.key or "/".join(update.nested_key): json.loads(update.value_json) for update in updates}
    return {name: value for name, value in items.items() if not name.startswith("_")}


def _records(data):
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + _HEADER.size <= len(data):
        if _BLOCK - position % _BLOCK < _HEADER.size:
            position += _BLOCK - position % _BLOCK
            continue
        checksum, length, kind = _HEADER.unpack_from(data, position)
        content = data[position + _HEADER.size : position + _HEADER.size + length]
        assert zlib.crc32(bytes([kind]) + content) == checksum, "damaged log"
        position += _HEADER.size + length
        parts += content
        if kind in (1, 4):  # whole, or last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
