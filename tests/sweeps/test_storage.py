"""Where a study lives, and that its password is told to nobody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy.exc import OperationalError

from tstune.errors import ConfigError, MissingDependencyError, OutputError, TstuneError
from tstune.sweeps import storage
from tstune.sweeps.storage import open_storage, storage_url

SECRET = "s3cret"


def test_where_it_is_looked_for(monkeypatch):
    monkeypatch.delenv("TSTUNE_SWEEP_STORAGE", raising=False)
    assert storage_url(None, Path("runs/x")) == "sqlite:///runs/x/study.db"
    monkeypatch.setenv("TSTUNE_SWEEP_STORAGE", "sqlite:///elsewhere.db")
    assert storage_url(None, Path("runs/x")) == "sqlite:///elsewhere.db"
    assert storage_url("sqlite:///said.db", Path("runs/x")) == "sqlite:///said.db"
    assert storage_url("sqlite:///runs/x/own.db", Path("runs/x")) == "sqlite:///runs/x/own.db", "the output is made"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"postgresql:/user:{SECRET}@host/sweeps", ConfigError),
        (f"{SECRET}", ConfigError),
        (f"nosuchdatabase://user:{SECRET}@host/sweeps", ConfigError),
        (f"postgresql://user:{SECRET}@host/sweeps?password={SECRET}", MissingDependencyError),
        (f"mysql+pymysql://user:{SECRET}@host/sweeps", MissingDependencyError),
        ("sqlite://", ConfigError),
        ("sqlite:///:memory:", ConfigError),
        ("sqlite:///mistyped/study.db", OutputError),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_one_line(url, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSTUNE_SWEEP_STORAGE", url)
    with pytest.raises(kind) as refused:
        open_storage(storage_url(None, Path("runs/x")), 60)
    assert not list(tmp_path.iterdir())
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert "storage" in str(refused.value)


def test_the_missing_driver_is_named():
    with pytest.raises(MissingDependencyError) as refused:
        open_storage("postgresql://user@host:5432/sweeps", 60)
    assert str(refused.value) == (
        "storage postgresql://host/sweeps needs a driver that is not installed: pip install psycopg"
    )


@pytest.mark.parametrize("url", [f"user:{SECRET}@host/sweeps", f"user@host/sweeps?password={SECRET}"])
def test_what_a_driver_says_is_shown_without_the_password(url, monkeypatch):
    def refuse(*args, **kwargs):
        raise OperationalError("connect", {}, Exception(f"password {SECRET} is wrong\nDETAIL: more"))

    monkeypatch.setattr(storage, "RDBStorage", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(OutputError) as refused:
        open_storage(f"postgresql://{url}", 60)
    assert str(refused.value) == "storage postgresql://host/sweeps cannot be used: password *** is wrong"


def test_jobs_that_start_together_make_the_tables_once(tmp_path):
    for number in range(2):
        together = Barrier(6)

        def start(_, number=number, together=together):
            together.wait()
            return open_storage(f"sqlite:///{tmp_path}/{number}.db", 60).get_all_studies()

        with ThreadPoolExecutor(6) as jobs:
            assert list(jobs.map(start, range(6))) == [[]] * 6


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "study.db").write_text("no database, but long enough to be looked at " * 50)
    with pytest.raises(OutputError, match="cannot be used: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/study.db", 60)


def test_a_database_that_is_gone_is_explained(tmp_path):
    opened = open_storage(f"sqlite:///{tmp_path}/study.db", 60)
    (tmp_path / "study.db").write_text("gone " * 1000)
    with pytest.raises(TstuneError, match=r"failed: .*; the same command goes on"), storage.explained(opened):
        opened.get_all_studies()
