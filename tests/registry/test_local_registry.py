"""The registry in a folder: what lies where, what rots, what is cleaned."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from registry_runs import FILES, assert_intact, content, finish, refusal, start, stored, write_run

from tstune.errors import RegistryError
from tstune.registry import AliasChange, ModelRegistry, open_registry
from tstune.registry.versions import previous_version


@pytest.fixture
def one(registry: ModelRegistry, tmp_path: Path) -> ModelRegistry:
    registry.register(write_run(tmp_path / "run"), "cgm")
    return registry


def blob_of(registry: ModelRegistry, path: str) -> Path:
    """Where the registry keeps a file of cgm:1."""
    sha256 = next(file.sha256 for file in registry.get("cgm:1").files if file.path == path)
    return registry.root / "objects" / sha256[:2] / sha256


def flip_a_byte(path: Path) -> None:
    """Spoil one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_layout(one: ModelRegistry, tmp_path: Path) -> None:
    assert sorted(path.name for path in one.root.iterdir()) == ["incoming", "lock", "objects", "registry.db"]
    assert list((one.root / "incoming").iterdir()) == []
    blobs = list((one.root / "objects").glob("*/*"))
    assert len(blobs) == len(FILES)
    for blob in blobs:
        assert blob.parent.name == blob.name[:2]
        assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    with closing(sqlite3.connect(one.root / "registry.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    one.register(write_run(tmp_path / "again", weights=b"other weights"), "cgm")
    assert len(list((one.root / "objects").glob("*/*"))) == len(FILES) + 1, "equal files are kept once"


@pytest.mark.parametrize("path", FILES)
def test_a_flipped_byte_is_refused(path: str, one: ModelRegistry, tmp_path: Path) -> None:
    flip_a_byte(blob_of(one, path))
    for read in (
        lambda: one.load("cgm:1"),
        lambda: one.download("cgm:1", tmp_path / "copy"),
        lambda: one.export_archive("cgm:1", tmp_path / "copy.zip"),
        lambda: one.verify("cgm:1"),
    ):
        with pytest.raises(RegistryError) as caught:
            read()
        refusal(caught.value, "cgm:1", f"{path} is damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry", "run"], "nothing half-written"


def test_other_damage_is_refused(one: ModelRegistry, tmp_path: Path) -> None:
    weights = blob_of(one, "model/model.safetensors")
    weights.chmod(0o644)
    for data in (b"weight", b"weights and more", b""):
        weights.write_bytes(data)
        with pytest.raises(RegistryError) as caught:
            one.download("cgm:1", tmp_path / "copy")
        refusal(caught.value, "model/model.safetensors is damaged", "instead of 7 bytes")
    weights.unlink()
    with pytest.raises(RegistryError) as caught:
        one.download("cgm:1", tmp_path / "copy")
    refusal(caught.value, "model/model.safetensors is gone")
    assert not (tmp_path / "copy").exists()


def test_registering_again_heals(one: ModelRegistry, tmp_path: Path) -> None:
    flip_a_byte(blob_of(one, "model/model.safetensors"))
    one.register(tmp_path / "run", "cgm")
    assert_intact(one, "cgm", [1, 2])


def test_clean_removes_what_nobody_needs(one: ModelRegistry, tmp_path: Path) -> None:
    one.register(write_run(tmp_path / "second", weights=b"other weights"), "cgm")
    (one.root / "incoming" / "0123").write_bytes(b"half")
    stray = one.root / "objects" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"stray")
    cleaned = one.clean()
    assert (cleaned.count, cleaned.size) == (2, 9)
    assert_intact(one, "cgm", [1, 2])

    one.delete("cgm:2")
    assert one.clean().count == 1, "the other files belong to version 1 too"
    assert_intact(one, "cgm", [1])
    one.delete("cgm:1")
    assert one.clean().count == len(FILES)
    assert content(one.root / "objects") == {}
    assert one.clean().count == 0
    assert one.register(tmp_path / "run", "cgm").version == 3


def test_reading_makes_nothing(registry: ModelRegistry) -> None:
    for read in (
        registry.names,
        registry.clean,
        lambda: registry.get("cgm:1"),
        lambda: registry.rollback("cgm", "champion"),
    ):
        with pytest.raises(RegistryError) as caught:
            read()
        refusal(caught.value, "no registry in", str(registry.root), "register a run first")
    assert not registry.root.exists()


def test_places_that_are_no_registry(one: ModelRegistry, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "file").write_text("x")
    damaged, newer, folder = (tmp_path / name for name in ("damaged", "newer", "folder"))
    for place in (damaged, newer):
        shutil.copytree(one.root, place)
    (damaged / "registry.db").write_bytes(b"no database at all" * 100)
    with closing(sqlite3.connect(newer / "registry.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    (folder / "registry.db").mkdir(parents=True)
    for place, words in {
        "file": ("cannot be used", "File exists"),
        "damaged": ("registry.db is damaged", "not a database"),
        "newer": ("registry.db", "newer tstune", "99"),
        "folder": ("registry.db", "cannot be used"),
    }.items():
        with pytest.raises(RegistryError) as caught:
            ModelRegistry(tmp_path / place).register(run, "cgm")
        refusal(caught.value, place, *words)


@pytest.mark.parametrize("pragmas", [[], ["journal_mode = WAL"]])
def test_a_registry_that_was_being_made_when_it_was_killed(
    pragmas: list[str], registry: ModelRegistry, tmp_path: Path
) -> None:
    registry.root.mkdir()
    (registry.root / "registry.db").touch()
    with closing(sqlite3.connect(registry.root / "registry.db")) as connection:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    with pytest.raises(RegistryError) as caught:
        registry.names()
    refusal(caught.value, "no registry in")
    assert registry.register(write_run(tmp_path / "run"), "cgm").version == 1
    assert_intact(registry, "cgm", [1])


def test_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    assert open_registry().location == "registry"
    monkeypatch.setenv("TSTUNE_REGISTRY", "elsewhere")
    open_registry().register("run", "cgm")
    assert_intact(open_registry(tmp_path / "elsewhere"), "cgm", [1])
    assert not Path("registry").exists()
    target = open_registry("elsewhere").download("cgm:1", "copy")
    assert content(target) == stored(tmp_path / "run")
    places = ["http://127.0.0.1:5000", "s3://bucket/registry", "mlflow+http://host:5000", "mlflow+sqlite:///file.db"]
    for place in [*places, "mlflow+http://me:geheim@host", "mlflow+me:geheim@host"]:
        with pytest.raises(RegistryError) as caught:
            open_registry(place)
        message = refusal(caught.value, place.partition(":")[0], "tracking.trackers=[mlflow]", "tracking.register_as")
        assert "geheim" not in message


def test_no_secret_is_stored(tmp_path: Path) -> None:
    """Keys of the environment are in no file of a registry or an archive."""
    secrets = {"MLFLOW_TRACKING_PASSWORD": "fake-password-0002", "HF_TOKEN": "fake-token-0005"}
    said = finish(start(tmp_path / "registry", "register", write_run(tmp_path / "run"), "--name", "cgm", **secrets))
    assert said.startswith("cgm:1 registered")
    finish(start(tmp_path / "registry", "export", "cgm:1", "--to", tmp_path / "cgm.zip", **secrets))
    contents = content(tmp_path)
    assert len(contents) > 2 * len(FILES)
    assert any(b"cgm_sample" in data for data in contents.values()), "the search finds what is there"
    assert [name for name, data in contents.items() if any(word.encode() in data for word in secrets.values())] == []


def changes(text: str) -> list[AliasChange]:
    """`1 2 <1 x` is: set to 1, set to 2, rolled back to 1, removed."""
    made = []
    for word in text.split():
        if word == "x":
            made.append(AliasChange("remove", None, "now"))
        else:
            made.append(AliasChange("rollback" if word[0] == "<" else "set", int(word.strip("<")), "now"))
    return made


@pytest.mark.parametrize(
    ("history", "current", "target"),
    [
        ("", None, None),
        ("1", 1, None),
        ("1 2", 2, 1),
        ("1 2 3 <2", 2, 1),
        ("1 2 3 <2 <1", 1, None),
        ("1 2 1", 1, 2),
        ("1 2 1 <2", 2, 1),
        ("1 2 3 <2 4", 4, 2),
        ("1 2 x", None, 2),
        ("1 2 x <2", 2, 1),
        ("1 5 2", 2, 1),  # 5 is deleted
        ("5 1", 1, None),
        ("1 2", 3, 2),  # moved from outside, with no line in the history
        ("<3 4", 4, 3),  # the beginning of the history is lost
    ],
)
def test_previous_version(history: str, current: int | None, target: int | None) -> None:
    assert previous_version(changes(history), current, {1, 2, 3, 4}) == target
