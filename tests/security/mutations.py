"""Damage to a file, drawn by hypothesis: of its bytes, and of the values that it holds."""

from __future__ import annotations

import copy
import json
import pickle
import struct
from pathlib import Path

import yaml
from hypothesis import strategies as st

VALUES = [
    None, True, -1, 0, 5, 2**31, 2**63, -1.5, 1e308, float("nan"), "", "x", "0", "planted:Name", "../../outside", "\0",
    "${oc.env:HOME}", "9" * 5000, [], {}, [None], {"x": None}, [[[[1]]]], ["x", "x"],
]  # fmt: skip
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
JUNK = [
    b"", b"\0" * 64, b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe\x00", b"null", b"[]", b"5", b'"text"', b"a: [1",
    pickle.dumps({"a": print}), ALIASES.encode(), b"a: &a [*a]", b"!!python/object/apply:os.system [id]",
    struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 1 << 24) + b" " * 100, struct.pack("<Q", 2) + b"{}",
    b"<html>", b"PK\x03\x04", b"2001-99-99", b"? {a: b}\n: c",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, path: Path) -> bytes:
    """The content of a file, damaged once or twice."""
    content = path.read_bytes()
    how = draw(st.sampled_from(["junk", "bytes", "values", "values", "values", "values"]))
    if how == "junk":
        return draw(st.sampled_from(JUNK))
    if how == "bytes":
        return _other_bytes(draw, content)
    match path.suffix:
        case ".json":
            return json.dumps(_other_values(draw, json.loads(content))).encode()
        case ".yaml":
            return yaml.safe_dump(_other_values(draw, yaml.safe_load(content)), sort_keys=False).encode()
        case ".safetensors":
            size = int.from_bytes(content[:8], "little")
            header = json.dumps(_other_values(draw, json.loads(content[8 : 8 + size]))).encode()
            return len(header).to_bytes(8, "little") + header + content[8 + size :]
    return _other_bytes(draw, content)


def _other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    begin = draw(st.integers(0, len(content)))
    end = draw(st.integers(begin, min(len(content), begin + 40)))
    return content[:begin] + draw(st.binary(max_size=4)) + content[draw(st.sampled_from([end, len(content)])) :]


def _other_values(draw: st.DrawFn, values: object) -> object:
    """One value, somewhere, replaced, left out, doubled or renamed."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    if not places:
        return draw(st.sampled_from(VALUES))
    for holder, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        if isinstance(holder, list) and key >= len(holder):
            continue
        match draw(st.sampled_from(["replace", "replace", "replace", "leave out", "add"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "leave out" if isinstance(holder, dict):
                holder.pop(key, None)
            case "leave out":
                holder.pop(key)
            case _ if isinstance(holder, dict):
                holder[draw(st.sampled_from(["x", "", "__class__", "0"]))] = copy.deepcopy(
                    draw(st.sampled_from(VALUES))
                )
            case _:
                holder.append(copy.deepcopy(holder[key]))
    return values


def _places(values: object):
    """Every holder with every key or index of it."""
    for key in list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ():
        yield values, key
        yield from _places(values[key])
