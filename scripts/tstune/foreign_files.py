"""Files that somebody else may have written: read within limits, and one line that names the file where that fails."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json

from tstune.errors import CheckpointError, TstuneError

LARGEST_JSON, LARGEST_YAML, LARGEST_HEADER = 64 << 20, 1 << 20, 16 << 20
"""Bytes. JSON is at most 200 levels deep besides, as pydantic reads it."""
MOST_VALUES = 100_000
"""Of a YAML file, once every ``*alias`` is written out."""
CHECKSUMS = "checksums.json"


@contextmanager
def damage(path: object, kind: type[TstuneError] = CheckpointError, state: str = "is damaged") -> Iterator[None]:
    """Whatever goes wrong in here is about this file or folder; errors that say so already stay.

    Libraries have a hundred ways to refuse content that they do not expect, so all of them are taken for one.
    """
    try:
        yield
    except (TstuneError, ImportError):
        raise
    except FileNotFoundError as error:
        raise kind(f"{error.filename or path} is missing") from None
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())[:300]
        raise kind(f"{error.filename or path} cannot be read: {reason}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        named = type(error).__name__ if isinstance(error, LookupError | RecursionError) or not reason else ""
        raise kind(f"{path} {state}: {': '.join(part for part in (named, reason) if part)}") from error


def read_json(source: Path | bytes, kind: type[TstuneError] = CheckpointError, name: str | None = None) -> Any:
    """What a JSON file, or its content, holds; errors, all of this kind, call it by `name`."""
    with damage(name or source, kind):
        return from_json(source if isinstance(source, bytes) else limited_content(source, LARGEST_JSON))


def read_object(
    source: Path | bytes, kind: type[TstuneError] = CheckpointError, keys: Iterable[str] = (), name: str | None = None
) -> dict[str, Any]:
    """Names with values of a JSON file, or of its content, in which none of these keys is missing; see `read_json`."""
    values, name = read_json(source, kind, name), name or source
    if not isinstance(values, dict):
        raise kind(f"{name} is damaged: it does not hold names with values")
    missing = [key for key in keys if key not in values]
    if missing:
        raise kind(f"{name} is damaged: the key {missing[0]!r} is missing")
    return values


def read_rows(path: Path, kind: type[TstuneError] = CheckpointError, torn: bool = False) -> list[dict[str, Any]]:
    """Names with values of each line of a JSONL file; of a `torn` one, a last line that a kill cut off is left out."""
    rows = []
    with damage(path, kind), path.open("rb") as stream:
        while line := stream.readline(LARGEST_JSON + 1):
            if len(line) > LARGEST_JSON:
                raise ValueError(f"a line is larger than {LARGEST_JSON:,} bytes")
            if line.strip() and not (torn and not line.endswith(b"\n")):
                rows.append(from_json(line))
                if not isinstance(rows[-1], dict):
                    raise ValueError("a row does not hold names with values")
    return rows


def read_plain_yaml(path: Path, kind: type[TstuneError] = CheckpointError) -> Any:
    """What a YAML file holds: values and nothing else."""
    with damage(path, kind, "is not valid YAML"):
        text = limited_content(path, LARGEST_YAML).decode("utf-8")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        except yaml.MarkedYAMLError as error:  # it is found out one or two lines further down
            lines = list(enumerate(text.splitlines()[: error.problem_mark.line + 1], start=1))[:-4:-1]
            told = next((f"line {number}: {lack}" for number, line in lines if (lack := missing_blank(line))), None)
            raise (ValueError(told) if told else error) from None
        if _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases make more than {MOST_VALUES:,} values, or hold themselves")
        return None if node is None else loader.construct_document(node)


def missing_blank(line: str) -> str | None:
    """What ``source:csv`` lacks, in words; None for anything else."""
    found = re.fullmatch(r"\s*(?:- +)?([\w.-]{2,}):(?!\s|//|\\)([^@]*[^@\s])\s*", line)  # no address with a password
    return found and f"{found[1]}:{found[2]} has no blank after its colon; write {found[1]}: {found[2]}"


def read_tensors(path: Path, kind: type[TstuneError] = CheckpointError, framework: str = "torch") -> dict[str, Any]:
    """What a safetensors file holds, as tensors of ``torch`` or arrays of ``numpy``."""
    check_header(path, kind)
    with damage(path, kind):
        return importlib.import_module(f"safetensors.{framework}").load_file(path)


def check_header(path: Path, kind: type[TstuneError] = CheckpointError) -> bytes:
    """The header of a safetensors file, if it is no larger than such a header is (`TstuneError`: of this kind)."""
    with damage(path, kind), path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > min(LARGEST_HEADER, path.stat().st_size):
            raise ValueError(f"no safetensors file has a header of {size:,} bytes")
        return stream.read(size)


def sha256_of(path: Path) -> str:
    """Of the content of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path, names: Iterable[str] = ()) -> None:
    """Note the checksums of the files of a folder in it; of all, or of these files and folders."""
    roots = [folder / name for name in names] or [folder]
    found = {path for root in roots for path in (root, *root.rglob("*")) if path.is_file()} - {folder / CHECKSUMS}
    files = sorted(found)
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def broken_seal(folder: Path) -> str | None:
    """What is not as `seal` found it, in words; None if all is."""
    try:
        for name, expected in read_object(folder / CHECKSUMS).items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_of(folder / name) != expected:
                return f"{name} has changed"
    except (CheckpointError, OSError, ValueError) as error:  # a name with a null byte is a ValueError
        return str(error)
    return None


def require_sealed(folder: Path) -> None:
    """Stop if a folder has checksums and is not as it was saved (`CheckpointError`: naming what has changed)."""
    broken = broken_seal(folder) if (folder / CHECKSUMS).is_file() else None
    if broken is not None:
        raise CheckpointError(
            f"{folder} is not as it was saved: {broken}; take it from a backup, or remove its {CHECKSUMS} if the "
            "change is yours"
        )


def limited_content(path: Path, limit: int) -> bytes:
    """What a file holds, if that is no more than so many bytes."""
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return content


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Values below a node with every alias written out; a node that holds itself is refused."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # while it is counted
        children = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
