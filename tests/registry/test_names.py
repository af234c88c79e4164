"""What models, aliases and stored files may be called."""

from __future__ import annotations

import pytest
from registry_runs import refusal

from tstune.errors import RegistryError
from tstune.registry import Reference
from tstune.registry.versions import check_alias, check_name, check_stored_path


def test_references() -> None:
    assert Reference.parse("cgm:3") == Reference("cgm", version=3)
    assert Reference.parse("a.b_c-2@champion") == Reference("a.b_c-2", alias="champion")
    assert [str(Reference.parse(text)) for text in ("cgm:12", "cgm@x")] == ["cgm:12", "cgm@x"]


@pytest.mark.parametrize(
    "text",
    [
        *[
            "cgm",
            "",
            ":",
            "@",
            "cgm:",
            "cgm@",
            "cgm:0",
            "cgm:-1",
            "cgm:03",
            "cgm:1.0",
            "cgm:٣",
            "cgm:1\n",
            "cgm:9999999999",
        ],
        *["../x:1", "a/b:1", "a..b@champion", "cgm@../x", "cgm@champion:1", ".cgm:1", "cgm@3", "cgm@v3", "cgm@latest"],
    ],
)
def test_bad_references(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        Reference.parse(text)
    refusal(caught.value)


@pytest.mark.parametrize("name", ["a", "CGM-2.1_x", "0", "a" * 100])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "../x", "/x", "x/y", "x\\y", "-x", "_x", "a b", "ä", "a\n", "a\0", "a" * 101, "a:b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(RegistryError) as caught:
        check_name(name)
    refusal(caught.value, "model name", repr(name))


@pytest.mark.parametrize("alias", ["3", "v3", "V12", "latest", "Latest", "../x", ""])
def test_bad_aliases(alias: str) -> None:
    with pytest.raises(RegistryError) as caught:
        check_alias(alias)
    refusal(caught.value, "alias", repr(alias))


def test_aliases() -> None:
    assert [check_alias(alias) for alias in ("champion", "candidate", "v3-test")] == [
        "champion",
        "candidate",
        "v3-test",
    ]


@pytest.mark.parametrize("path", ["config.yaml", "model/model.safetensors", "adapters/00001/x y.json", "ä/..b", "~/x"])
def test_stored_paths(path: str) -> None:
    assert check_stored_path(path, "here") == path


@pytest.mark.parametrize(
    "path",
    [
        *["", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "./a", "a//b", "a/", "a\\b", "..\\x", "C:/x", "c:x"],
        *["a\nb", "a\0b", "\udc80", "a" * 501],
    ],
)
def test_bad_stored_paths(path: str) -> None:
    with pytest.raises(RegistryError) as caught:
        check_stored_path(path, "the archive")
    refusal(caught.value, "the archive", repr(path))
