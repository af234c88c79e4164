"""What every registry does, in a folder and on an MLflow server."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from registry_runs import FILES, METRIC, assert_intact, content, refusal, stored, write_run

from tstune.errors import ConfigError, RegistryError
from tstune.registry import ModelRegistry


@pytest.fixture
def three(registry: ModelRegistry, tmp_path: Path) -> ModelRegistry:
    """Versions 1 to 3 with RMSE 3, 2, 2.5; the third one on other data."""
    for number, (rmse, data) in enumerate([(3.0, "abc"), (2.0, "abc"), (2.5, "other")], start=1):
        run = write_run(tmp_path / f"run{number}", rmse, 1e-3 * number, data, weights=bytes([number]) * 1000)
        assert registry.register(run, "cgm").version == number
    return registry


def test_register_and_read_back(registry: ModelRegistry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "tracking.json").write_text(json.dumps({"run_id": "20260101-000000-abcd", "experiment": "x"}))
    (run / "adapters" / "00000").mkdir(parents=True)
    (run / "adapters" / "00000" / "adapter.safetensors").write_bytes(b"")
    made = registry.register(run, "cgm", "the first", {"site": "clinic-2"})
    found = registry.get("cgm:1")
    assert found == made == registry.versions("cgm")[0]
    assert (found.name, found.version, found.aliases) == ("cgm", 1, ())
    assert (found.description, found.tags) == ("the first", {"site": "clinic-2"})
    assert found.run_id == "20260101-000000-abcd"
    assert found.created.endswith("+00:00")
    assert found.config["training"]["learning_rate"] == 1e-3
    assert found.config["training"]["max_grad_norm"] == 1.0, "resolved: the defaults are there too"
    assert found.metrics == json.loads((run / "metrics.json").read_text())
    assert found.manifest_sha256 == hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    paths = [file.path for file in found.files]
    assert paths == sorted([*FILES, "tracking.json", "adapters/00000/adapter.safetensors"]), "no plots, no checkpoints"
    for file in found.files:
        data = (run / file.path).read_bytes()
        assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert registry.names() == ["cgm"]


def test_git_state(registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, repository = write_run(tmp_path / "run"), tmp_path / "repository"
    (repository / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    outside = registry.register(run, "cgm")
    assert (outside.git_commit, outside.git_dirty) == (None, None)

    monkeypatch.chdir(repository / "below")
    (repository / "file").write_text("1")
    who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    clean = registry.register(run, "cgm")
    assert (clean.git_commit, clean.git_dirty) == (head, False)
    (repository / "file").write_text("2")
    dirty = registry.register(run, "cgm")
    assert (dirty.git_commit, dirty.git_dirty) == (head, True)


def test_download(three: ModelRegistry, tmp_path: Path) -> None:
    target = three.download("cgm:2", tmp_path / "deep" / "copy")
    assert content(target) == stored(tmp_path / "run2")
    assert [path.name for path in target.parent.iterdir()] == ["copy"]
    (target / "config.yaml").write_text("changed")  # a copy is the user's own, and writable
    with pytest.raises(RegistryError) as caught:
        three.download("cgm:1", target)
    refusal(caught.value, str(target), "exists already")
    assert (target / "config.yaml").read_text() == "changed"


def test_unknown_versions(three: ModelRegistry) -> None:
    three.set_alias("cgm:1", "champion")
    for text, words in {
        "cgm:7": ("versions of", "1, 2, 3", "champion"),
        "cgm@candidate": ("versions of", "1, 2, 3", "champion"),
        "nobody:1": ("models here", "cgm"),
        "nobody@champion": ("models here", "cgm"),
    }.items():
        with pytest.raises(RegistryError) as caught:
            three.get(text)
        refusal(caught.value, text, *words)
    assert three.versions("nobody") == []
    assert three.aliases("nobody") == {}
    assert three.alias_history("nobody", "champion") == []


def test_aliases(three: ModelRegistry) -> None:
    assert three.set_alias("cgm:1", "candidate").aliases == ("candidate",)
    three.set_alias("cgm:1", "champion")
    three.set_alias("cgm:2", "candidate")
    three.set_alias("cgm@candidate", "candidate")
    assert three.aliases("cgm") == {"candidate": 2, "champion": 1}
    assert three.get("cgm@candidate").version == 2
    assert [version.aliases for version in three.versions("cgm")] == [("champion",), ("candidate",), ()]
    changes = three.alias_history("cgm", "candidate")
    assert [(change.action, change.version) for change in changes] == [("set", 1), ("set", 2)], "no line for no move"

    three.remove_alias("cgm", "candidate")
    assert three.aliases("cgm") == {"champion": 1}
    with pytest.raises(RegistryError) as caught:
        three.remove_alias("cgm", "candidate")
    refusal(caught.value, "cgm@candidate", "champion")


def test_promote_only_what_is_better(three: ModelRegistry) -> None:
    first = three.promote("cgm:1", "champion", METRIC)
    assert (first.version.version, first.value, first.replaced) == (1, 3.0, None)
    second = three.promote("cgm:2", "champion", METRIC)
    assert (second.version.version, second.value, second.replaced.version, second.replaced_value) == (2, 2.0, 1, 3.0)
    assert three.aliases("cgm") == {"champion": 2}

    for arguments, words in {
        ("cgm:1", METRIC): ("cgm:1 is not better than cgm:2", "3 against 2", "lower is better"),
        ("cgm:1", "test/fine_tuned/mae"): ("1.5 against 1.5",),
        ("cgm:1", "test/fine_tuned/wape"): ("no metric", "test/fine_tuned/wape", METRIC),
        ("cgm:2", METRIC): ("already",),
        ("cgm:3", METRIC): ("cgm:3 and cgm:2", "manifest.json differs in files", "--allow-other-data"),
        ("cgm:4", METRIC): ("no cgm:4",),
    }.items():
        with pytest.raises(RegistryError) as caught:
            three.promote(arguments[0], "champion", arguments[1])
        refusal(caught.value, *words)
        assert three.aliases("cgm") == {"champion": 2}

    with pytest.raises(RegistryError) as caught:
        three.promote("cgm:3", "champion", METRIC, allow_other_data=True)
    refusal(caught.value, "2.5 against 2")
    three.promote("cgm:3", "champion", METRIC, lower_is_better=False, allow_other_data=True)
    assert three.aliases("cgm") == {"champion": 3}


def test_a_metric_that_is_no_number(registry: ModelRegistry, tmp_path: Path) -> None:
    registry.register(write_run(tmp_path / "run", rmse=None), "cgm")
    with pytest.raises(RegistryError) as caught:
        registry.promote("cgm:1", "champion", METRIC)
    refusal(caught.value, "no metric", METRIC)
    assert registry.aliases("cgm") == {}


def test_roll_back(three: ModelRegistry) -> None:
    for number in (1, 2, 3):
        three.set_alias(f"cgm:{number}", "champion")
    assert three.rollback("cgm", "champion").version == 2
    assert three.rollback("cgm", "champion").version == 1
    with pytest.raises(RegistryError) as caught:
        three.rollback("cgm", "champion")
    refusal(caught.value, "cgm@champion", "no earlier version")
    assert three.aliases("cgm") == {"champion": 1}

    three.set_alias("cgm:3", "champion")
    three.remove_alias("cgm", "champion")
    assert three.rollback("cgm", "champion").version == 3, "what was removed comes back"
    actions = [(change.action, change.version) for change in three.alias_history("cgm", "champion")]
    assert actions == [
        *[("set", 1), ("set", 2), ("set", 3), ("rollback", 2), ("rollback", 1)],
        *[("set", 3), ("remove", None), ("rollback", 3)],
    ]


def test_roll_back_passes_deleted_versions(three: ModelRegistry) -> None:
    for number in (1, 2, 3):
        three.set_alias(f"cgm:{number}", "champion")
    three.delete("cgm:2")
    assert three.rollback("cgm", "champion").version == 1
    with pytest.raises(RegistryError):
        three.rollback("cgm", "candidate")


def test_delete(three: ModelRegistry, tmp_path: Path) -> None:
    three.set_alias("cgm:3", "champion")
    with pytest.raises(RegistryError) as caught:
        three.delete("cgm:3")
    refusal(caught.value, "cgm:3 is protected", "champion")
    three.remove_alias("cgm", "champion")
    assert three.delete("cgm:3").version == 3
    three.delete("cgm:1")
    assert_intact(three, "cgm", [2])
    for gone in (1, 3):
        with pytest.raises(RegistryError):
            three.get(f"cgm:{gone}")
    assert three.register(tmp_path / "run1", "cgm").version == 4, "a number is never given twice"
    assert_intact(three, "cgm", [2, 4])


def test_compare(three: ModelRegistry) -> None:
    same = three.compare("cgm:1", "cgm:2")
    assert [(row.name, row.left, row.right) for row in same.config] == [("training.learning_rate", 0.001, 0.002)]
    assert (same.metrics[0].name, same.metrics[0].left, same.metrics[0].right) == (METRIC, 3.0, 2.0)
    assert len(same.metrics) == 3
    assert same.other_data == ()
    text = str(same).splitlines()
    assert [text.index(line) for line in ("configuration:", "metrics:")] == [0, 4]
    assert text[6].split() == [METRIC, "3", "2", "-33.33", "%"]
    assert text[-1].startswith("same data manifest")

    other = three.compare("cgm:1", "cgm:3")
    assert other.other_data == ("files",)
    assert str(other).splitlines()[-1] == "other data: manifest.json differs in files; the metrics are not comparable"
    assert three.compare("cgm:1", "cgm:1").config == ()


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_export_and_import(ending: str, three: ModelRegistry, tmp_path: Path) -> None:
    three.set_alias("cgm:2", "champion")
    archive = three.export_archive("cgm@champion", tmp_path / f"model{ending}")
    with pytest.raises(RegistryError) as caught:
        three.export_archive("cgm:1", archive)
    refusal(caught.value, str(archive), "--overwrite")
    three.export_archive("cgm:2", archive, overwrite=True)
    assert [path.name for path in tmp_path.glob(".*")] == []

    again, archived = three.import_archive(archive)
    assert (again.version, archived.version) == (4, 2), "2 is taken"
    other, _ = three.import_archive(archive, "copy")
    original = three.get("cgm:2")
    assert other.reference == "copy:2"
    for copy in (again, other):
        assert copy.aliases == ()
        for field in ("files", "config", "metrics", "created", "git_commit", "git_dirty", "run_id", "manifest_sha256"):
            assert getattr(copy, field) == getattr(original, field), field
    target = three.download(other.reference, tmp_path / "copy")
    assert content(target) == stored(tmp_path / "run2")


def test_what_is_no_finished_run(registry: ModelRegistry, tmp_path: Path) -> None:
    for number, (spoil, words) in enumerate(
        {
            lambda run: (run / "metrics.json").unlink(): ("not a finished run", "metrics.json"),
            lambda run: (run / "config.yaml").unlink(): ("not a finished run", "config.yaml"),
            lambda run: (run / "metrics.json").write_text("[]"): ("metrics.json", "damaged"),
            lambda run: (run / "metrics.json").write_text('{"a": "b"}'): ("metrics.json", "'b'", "not a number"),
            lambda run: (run / "metrics.json").write_text('{"a": NaN}'): ("metrics.json", "nan"),
            lambda run: (run / "manifest.json").write_text("{"): ("manifest.json", "damaged"),
            lambda run: (run / "tracking.json").write_text('{"run_id": 3}'): ("tracking.json", "damaged"),
            lambda run: (run / "config.yaml").write_text("training: {learning_rat: 1}"): ("learning_rat",),
            lambda run: (run / "model" / "link").symlink_to("/etc/hostname"): ("model/link is a link",),
            lambda run: (run / "linked").symlink_to(run / "model"): ("linked is a link",),
        }.items()
    ):
        run = write_run(tmp_path / f"bad{number}")
        spoil(run)
        with pytest.raises((RegistryError, ConfigError)) as caught:
            registry.register(run, "cgm")
        refusal(caught.value, *words)
    with pytest.raises(RegistryError) as caught:
        registry.register(tmp_path / "nowhere", "cgm")
    refusal(caught.value, "nowhere is not a finished run")
    for bad in ("../x", "a/b", "", ".."):
        with pytest.raises(RegistryError):
            registry.register(write_run(tmp_path / f"named{len(bad)}{bad.count('.')}"), bad)
    registry.register(write_run(tmp_path / "good"), "cgm")
    assert_intact(registry, "cgm", [1])
