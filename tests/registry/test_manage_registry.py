"""The registry from the shell: one line for each thing done, one line for each thing refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from registry_runs import METRIC, SCRIPT, content, stored, write_run

import manage_registry


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with run1/ and run2/, the second one better."""
    write_run(tmp_path / "run1", rmse=3.0)
    write_run(tmp_path / "run2", rmse=2.0, learning_rate=5e-4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What the script prints: its output, or its one line of error."""
    assert manage_registry.main(list(arguments)) == code
    captured = capsys.readouterr()
    assert (captured.err if code == 0 else captured.out) == ""
    if code:
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
    return captured.out if code == 0 else captured.err.removeprefix("error: ")


def test_a_life(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = say(capsys, "register", "run1", "--name", "cgm")
    assert out == "cgm:1 registered from run1: 9 files, 0.0 MB\n"
    tags = ("--tag", "site=clinic-2", "--tag", "note=a=b")
    assert say(capsys, "register", "run2", "--name", "cgm", "--description", "half the rate", *tags)
    rows = [line.split() for line in say(capsys, "list").splitlines()]
    assert rows[0][:4] == ["version", "aliases", METRIC, "size"]
    assert [row[:3] for row in rows[1:]] == [["cgm:1", "-", "3"], ["cgm:2", "-", "2"]]
    assert rows[2][-3:] == ["half", "the", "rate"]
    assert "1.5" in say(capsys, "list", "cgm", "--metric", "test/fine_tuned/mae")

    assert say(capsys, "promote", "cgm:1", "--alias", "champion", "--metric", METRIC) == (
        f"cgm@champion is cgm:1: {METRIC} 3, after nothing before\n"
    )
    assert say(capsys, "promote", "cgm:2", "--alias", "champion", "--metric", METRIC, "--lower-is-better") == (
        f"cgm@champion is cgm:2: {METRIC} 2, after cgm:1 with 3\n"
    )
    assert say(capsys, "promote", "cgm:1", "--alias", "champion", "--metric", METRIC, code=2) == (
        f"cgm:1 is not better than cgm:2 (champion): {METRIC} is 3 against 2, lower is better\n"
    )
    assert say(capsys, "rollback", "cgm@champion") == "cgm@champion is cgm:1 again\n"
    history = [line.split()[1:] for line in say(capsys, "history", "cgm@champion").splitlines()]
    assert history == [["set", "cgm:1"], ["set", "cgm:2"], ["rollback", "cgm:1"]]
    assert say(capsys, "history", "cgm@candidate") == "cgm@candidate was never set\n"
    assert say(capsys, "alias", "cgm:2", "--set", "candidate") == "cgm@candidate is cgm:2\n"
    assert say(capsys, "alias", "cgm@candidate", "--remove") == "cgm@candidate points nowhere now\n"

    shown = say(capsys, "show", "cgm@champion")
    assert "cgm:1" in shown
    assert "model/model.safetensors" in shown
    record = json.loads(say(capsys, "show", "cgm:2", "--json"))
    assert record["tags"] == {"site": "clinic-2", "note": "a=b"}
    assert record["config"]["training"]["learning_rate"] == 5e-4
    assert len(record["manifest_sha256"]) == 64
    compared = say(capsys, "compare", "cgm:1", "cgm:2").splitlines()
    assert compared[2].split() == ["training.learning_rate", "0.001", "0.0005"]

    assert say(capsys, "download", "cgm:2", "--to", "copy") == "cgm:2: copy\n"
    assert content(desk / "copy") == stored(desk / "run2")
    assert say(capsys, "verify", "cgm:2") == "cgm:2 is intact: 9 files, 0.0 MB\n"
    assert say(capsys, "export", "cgm:2", "--to", "cgm.tar.gz") == "cgm:2: cgm.tar.gz\n"
    assert say(capsys, "import", "cgm.tar.gz").startswith(
        "cgm:3 imported from cgm.tar.gz (it was cgm:2, a number not free here)"
    )
    assert say(capsys, "import", "cgm.tar.gz", "--name", "other").startswith("other:2 imported from cgm.tar.gz: 9")
    assert say(capsys, "verify") == "every version is intact (4)\n"
    assert say(capsys, "delete", "cgm:1", code=2) == (
        "cgm:1 is protected by its alias champion; move or remove the alias first\n"
    )
    assert say(capsys, "delete", "cgm:2") == "cgm:2 deleted; `clean` frees what no other version needs\n"
    assert say(capsys, "clean") == "0 leftovers removed, 0.0 MB\n"

    blob = max((desk / "registry" / "objects").glob("*/*"))
    blob.chmod(0o644)
    blob.write_bytes(b"rotten")
    assert "damaged versions:" in say(capsys, "verify", code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list",), ("no registry in nowhere",)),
        (("show", "cgm"), ("'cgm' names no version", "cgm:3")),
        (("register", "nowhere", "--name", "cgm"), ("nowhere is not a finished run",)),
        (("register", "run1", "--name", "../cgm"), ("model name '../cgm'",)),
        (("register", "run1", "--name", "cgm", "--tag", "x"), ("--tag 'x'", "key=value")),
        (("register", "run1", "--name", "cgm", "--tag", "a b=x"), ("tag 'a b'",)),
        (("register", "run1", "--name", "cgm", "--description", "x" * 1001), ("description", "1001", "1000")),
        (("rollback", "cgm:1"), ("'cgm:1' names a version, not an alias", "cgm@champion")),
        (("history", "cgm:1"), ("names a version",)),
        (("list", "../x"), ("no registry in nowhere",)),
        (("import", "cgm.zip"), ("cgm.zip does not exist",)),
    ],
)
def test_bad_commands(
    arguments: tuple[str, ...], words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = say(capsys, *arguments, "--registry", "nowhere", code=2)
    assert [word for word in words if word not in message] == [], message
    assert not (desk / "nowhere").exists()


def test_unknown_model(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "--registry", "here", "register", "run1", "--name", "cgm")
    assert say(capsys, "list", "cgn", "--registry", "here", code=2) == "here has no model cgn; models here: cgm\n"
    assert not (desk / "registry").exists(), "--registry counts before and after the command"


def test_no_torch(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listing, showing and exporting import nothing heavy; registering reads the configuration of its family."""
    say(capsys, "register", "run1", "--name", "cgm")
    code = (
        "import sys, manage_registry as m\n"
        "for command in ('list', 'show cgm:1', 'export cgm:1 --to cgm.zip', 'clean'):\n"
        "    assert m.main(command.split()) == 0\n"
        "print(sorted({'torch', 'mlflow', 'pandas', 'numpy', 'transformers'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SCRIPT.parent)})
    assert done.stdout.splitlines()[-1] == "[]"
