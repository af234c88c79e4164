"""Archives: what was exported is what is imported, and nothing else gets in."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_runs import FILES, assert_intact, refusal, write_run
from support import tiny

from tstune.errors import ConfigError, RegistryError
from tstune.registry import ModelRegistry

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """A registry with cgm:1, which nothing is added to."""
    folder = tmp_path_factory.mktemp("shelf")
    registry = ModelRegistry(folder / "registry")
    registry.register(write_run(folder / "run", weights=b"weights" * 1000), "cgm")
    return registry


@pytest.fixture(scope="module")
def exported(shelf: ModelRegistry, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Content of an archive of cgm:1, by name."""
    path = shelf.export_archive("cgm:1", tmp_path_factory.mktemp("exported") / "cgm.tar.gz")
    with tarfile.open(path) as archive:
        assert all(member.isreg() and member.uid == 0 and member.mtime == 0 for member in archive)
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}


def pack(path: Path, members: Members, packed: bool = False) -> Path:
    """An archive as anybody could write one."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
                archive.writestr(zipfile.ZipInfo(name), data, kind, compresslevel=1)
        return path
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def assert_refused(path: Path, *words: str) -> None:
    """Importing it says why not, and leaves nothing."""
    registry = ModelRegistry(path.parent / "target")
    before = tiny.snapshot(path.parent)
    with pytest.raises(RegistryError) as caught:
        registry.import_archive(path)
    refusal(caught.value, str(path), *words)
    assert tiny.snapshot(path.parent) == before


def test_what_an_archive_holds(exported: Members, shelf: ModelRegistry, tmp_path: Path) -> None:
    assert list(exported) == ["record.json", *(f"files/{path}" for path in FILES)]
    record = json.loads(exported["record.json"])
    assert (record["format"], record["name"], record["version"]) == (1, "cgm", 1)
    assert record["metrics"]["test"]["fine_tuned"]["rmse"] == 2.0
    one, two = (shelf.export_archive("cgm:1", tmp_path / f"{name}.tgz") for name in "ab")
    with zipfile.ZipFile(shelf.export_archive("cgm:1", tmp_path / "c.zip")) as archive:
        assert archive.namelist() == list(exported)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "zip"])
def test_archives_written_elsewhere(ending: str, exported: Members, tmp_path: Path) -> None:
    """Another order, and folders of their own: what unpacking and packing by hand gives."""
    path = tmp_path / f"repacked.{ending}"
    members = dict(sorted(exported.items()))
    if ending == "zip":
        pack(path, {"files/": b"", "files/model/": b""} | members)
    else:
        for name, data in members.items():
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "tree" / name).write_bytes(data)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "tree" / "files", "files")
            archive.add(tmp_path / "tree" / "record.json", "record.json")
    target = ModelRegistry(tmp_path / "target")
    version, archived = target.import_archive(path)
    assert (version.version, archived.reference) == (1, "cgm:1")
    assert_intact(target, "cgm", [1])
    again, _ = target.import_archive(path)
    assert again.version == 2


def test_a_free_number_is_kept(exported: Members, tmp_path: Path) -> None:
    record = json.loads(exported["record.json"]) | {"version": 7}
    path = pack(tmp_path / "seven.zip", exported | {"record.json": json.dumps(record).encode()})
    target = ModelRegistry(tmp_path / "target")
    assert [target.import_archive(path)[0].version for _ in range(2)] == [7, 8]
    target.delete("cgm:7")
    assert target.import_archive(path)[0].version == 9, "a deleted number is not free"


TRICKS = [
    "../x",
    "files/../../x",
    "/absolute/x",
    "files//x",
    "./files/x",
    "files/..",
    "..\\x",
    "C:\\x",
    "C:x",
    "files/a\nb",
]


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
@pytest.mark.parametrize("name", TRICKS)
def test_path_tricks(name: str, ending: str, exported: Members, tmp_path: Path) -> None:
    assert_refused(pack(tmp_path / f"bad.{ending}", exported | {name: b"x"}), "plain relative path", repr(name))


@pytest.mark.parametrize("name", [*TRICKS, "", "."])
def test_path_tricks_in_the_record(name: str, exported: Members, tmp_path: Path) -> None:
    record = json.loads(exported["record.json"])
    record["files"][0]["path"] = name
    members = exported | {"record.json": json.dumps(record).encode()}
    assert_refused(pack(tmp_path / "bad.zip", members), "record.json", "plain relative path", repr(name))


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "cgm:1"])
def test_bad_model_names_in_the_record(name: str, exported: Members, tmp_path: Path) -> None:
    record = json.loads(exported["record.json"]) | {"name": name}
    path = pack(tmp_path / "bad.zip", exported | {"record.json": json.dumps(record).encode()})
    with pytest.raises(RegistryError) as caught:
        ModelRegistry(tmp_path / "target").import_archive(path)
    refusal(caught.value, "model name", repr(name))


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "not a plain file"),
        (tarfile.FIFOTYPE, "not a plain file"),
    ],
)
@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "files/config.yaml"])
def test_links_and_devices_in_tar(kind: bytes, word: str, target: str, exported: Members, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in exported.items():
            header = tarfile.TarInfo(name)
            if name == "files/model/model.safetensors":
                header.type, header.linkname = kind, target
                archive.addfile(header)
                continue
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    assert_refused(path, "files/model/model.safetensors", word)


@pytest.mark.parametrize(("kind", "word"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "not a plain file")])
def test_links_in_zip(kind: int, word: str, exported: Members, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in exported.items():
            header = zipfile.ZipInfo(name)
            if name == "files/config.yaml":
                header.external_attr = (kind | 0o777) << 16
                data = b"/etc/passwd"
            archive.writestr(header, data)
    assert_refused(path, "files/config.yaml", word)


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: {other: data for other, data in members.items() if other != name}


def with_file(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda members: members | {name: data}


def record_with(**changes: object) -> Callable[[Members], Members]:
    return lambda members: members | {"record.json": json.dumps(json.loads(members["record.json"]) | changes).encode()}


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("record.json"), ("holds no record.json",)),
        (without("files/config.yaml"), ("lacks files/config.yaml",)),
        (with_file("files/more", b"x"), ("files/more", "does not list")),
        (with_file("else", b"x"), ("else", "does not list")),
        (with_file("files/model/model.safetensors", b"weightS" * 1000), ("model/model.safetensors is damaged",)),
        (with_file("files/model/model.safetensors", b"weights" * 999), ("model/model.safetensors is damaged",)),
        (with_file("files/model/model.safetensors", b"\0" * 100_000), ("damaged", "more than 7000 bytes")),
        (with_file("record.json", b"{"), ("record.json is damaged",)),
        (with_file("record.json", b"[]"), ("record.json is damaged",)),
        (with_file("record.json", b"\xff\xfe"), ("record.json is damaged",)),
        (with_file("record.json", b"{}"), ("record.json", "format 'unknown'")),
        (record_with(format=2), ("format 2", "reads 1")),
        (record_with(files=None), ("record.json", "damaged")),
        (record_with(files=[{"path": "x"}]), ("record.json", "damaged")),
        (record_with(files=[{"path": 3, "sha256": "0" * 64, "size": 1}]), ("record.json", "damaged")),
        (record_with(files=[{"path": "a", "sha256": "../x", "size": 1}]), ("record.json", 'sha256 is "../x"')),
        (record_with(files=[{"path": "a", "sha256": "0" * 64, "size": -1}]), ("record.json", "size is -1")),
        (record_with(files=[]), ("no finished run", "config.yaml")),
        (record_with(version=-1), ("record.json", "version is -1")),
        (record_with(version=0), ("record.json", "version is 0")),
        (record_with(version=10**10), ("record.json", "version is 10000000000")),
        (record_with(name=5), ("record.json", "name is 5")),
        (with_file("record.json", b'{"format": 1, "config": ' + b"[" * 200_000), ("record.json is damaged",)),
        (with_file("record.json", b'{"a":' * 500 + b"1" + b"}" * 500), ("record.json is damaged", "recursion")),
        (record_with(version="x"), ("record.json", 'version is "x"')),
        (record_with(unknown=1), ("record.json", "unknown")),
        (
            record_with(files=[{"path": path, "sha256": "0" * 64, "size": 1} for path in ("model", "model/x")]),
            ("record.json", "holds model twice"),
        ),
    ],
)
def test_what_is_no_export(
    change: Callable[[Members], Members], words: tuple[str, ...], ending: str, exported: Members, tmp_path: Path
) -> None:
    assert_refused(pack(tmp_path / f"bad.{ending}", change(exported)), *words)


@pytest.mark.parametrize("deep", [b"[" * 200_000, b'{"a":' * 900 + b"1" + b"}" * 900], ids=["open", "closed"])
@pytest.mark.parametrize("name", ["metrics.json", "manifest.json", "config.yaml"])
def test_files_that_are_nested_too_deeply(name: str, deep: bytes, exported: Members, tmp_path: Path) -> None:
    record = json.loads(exported["record.json"])
    entry = next(file for file in record["files"] if file["path"] == name)
    deep = deep.replace(b":", b": ") if name == "config.yaml" else deep
    entry.update(sha256=hashlib.sha256(deep).hexdigest(), size=len(deep))
    members = exported | {f"files/{name}": deep, "record.json": json.dumps(record).encode()}
    with pytest.raises((RegistryError, ConfigError)) as caught:
        ModelRegistry(tmp_path / "target").import_archive(pack(tmp_path / "deep.zip", members))
    refusal(caught.value, name)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("place", "ending", "any_archive_may_hold"),
    [
        ("files/model/model.safetensors", "zip", 1 << 26),
        ("files/model/model.safetensors", "tar.gz", 1 << 20),
        ("files/unlisted", "zip", 1 << 20),
        ("files/unlisted", "tar.gz", 1 << 20),
    ],
)
def test_an_archive_of_zeros(
    place: str, ending: str, any_archive_may_hold: int, exported: Members, tmp_path: Path, monkeypatch
) -> None:
    """80 MB in a file of 80 kB, or a smaller one by a smaller limit: nothing is kept, no more than it is unpacked."""
    monkeypatch.setattr("tstune.registry.archive._SMALL", any_archive_may_hold)
    zeros = bytes(any_archive_may_hold * 5 // 4)
    record = json.loads(exported["record.json"])
    entry = next(file for file in record["files"] if file["path"] == "model/model.safetensors")
    entry.update(sha256=hashlib.sha256(zeros).hexdigest(), size=len(zeros))
    path = tmp_path / f"zeros.{ending}"
    pack(path, exported | {"record.json": json.dumps(record).encode(), place: zeros}, packed=True)
    assert path.stat().st_size < 2_000_000
    assert_refused(path, "unpacks to more than", "100 times its own size")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(exported: Members, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, data in [*exported.items(), ("files/config.yaml", b"other")]:
            archive.writestr(name, data)
    assert_refused(tmp_path / "bad.zip", "holds files/config.yaml twice")


@pytest.mark.parametrize("field", ["description", "created", "files"])
def test_a_record_whose_field_has_another_name(field: str, exported: Members, tmp_path: Path) -> None:
    """One flipped bit in a compressed archive may shift a name; the value that stood there may be null."""
    record = exported["record.json"].replace(f'"{field}"'.encode(), f'"{field[2:]}"'.encode(), 1)
    pack(tmp_path / "bad.zip", exported | {"record.json": record})
    assert_refused(tmp_path / "bad.zip", "record.json is damaged")


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_damaged_archives(ending: str, exported: Members, shelf: ModelRegistry, tmp_path: Path) -> None:
    whole = shelf.export_archive("cgm:1", tmp_path / f"whole.{ending}").read_bytes()
    for number, data in enumerate([b"", b"no archive", whole[: len(whole) // 2], whole[:20]]):
        path = tmp_path / f"bad{number}.{ending}"
        path.write_bytes(data)
        assert_refused(path, "damaged")
    refused = 0
    for position in range(0, len(whole), max(1, len(whole) // 20)):
        path = tmp_path / f"flipped{position}.{ending}"
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        target = ModelRegistry(tmp_path / f"target{position}")
        try:
            target.import_archive(path)
        except RegistryError as error:
            refusal(error, str(path))
            refused += 1
        else:  # a bit of a header that says nothing about the content
            assert_intact(target, "cgm", [1])
    assert refused > 10


def test_places_that_cannot_be_written(exported: Members, shelf: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    for name, words in {
        "cgm.rar": (".tar.gz or .zip",),
        "nowhere/cgm.zip": ("nowhere does not exist",),
        "folder.zip": ("exists",),
    }.items():
        with pytest.raises(RegistryError) as caught:
            shelf.export_archive("cgm:1", tmp_path / name, overwrite=True)
        refusal(caught.value, name, *words)
    with pytest.raises(RegistryError) as caught:
        shelf.import_archive(tmp_path / "nowhere.zip")
    refusal(caught.value, "nowhere.zip does not exist")
