"""The same registry on MLflow: registered models, versions and aliases of a server or a SQLite file."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import MissingDependencyError, RegistryError
from tstune.registry.alias_history import Action, AliasChange
from tstune.registry.checksums import copy_checked, copy_stream, disk_errors, hash_file
from tstune.registry.interfaces import Cleaned, ModelRegistry, protected
from tstune.registry.mlflow_messages import check_address, error_code, first_line, reason
from tstune.registry.names import check_name
from tstune.registry.records import ModelVersion, StoredFile, check_files
from tstune.registry.run_record import files_to_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MLflowVersion

EXPERIMENT = "tstune-registry"
_RUN, _RECORD = "run", "record.json"
_CHECKSUM_TAG = "tstune.record_sha256"
_HISTORY_TAG = "tstune.alias_history."
_LONGEST_HISTORY = 50  # a tag of a registered model holds 5000 characters
_LEFTOVER_AFTER = 24 * 3600  # seconds; a registration that takes longer is dead
_ATTEMPTS = 20  # MLflow gives up on a version number after three collisions
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/ -]+")  # MLflow puts paths into addresses as they are
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables that are set where they are not: a dead server is noticed soon, and nothing else is printed."""


class MLflowModelRegistry(ModelRegistry):
    """Model versions on an MLflow server, or in a SQLite file with the artifacts beside it.

    A registration logs the run folder and `record.json`, which holds every checksum, as artifacts of an MLflow run
    and then creates the version, which holds the checksum of `record.json`: killed before that, it leaves a run that
    no version refers to (`clean` deletes it). Versions that others put into the same MLflow registry are left alone.
    MLflow has no transaction over an alias and its history: two people who move one alias in the same second may
    lose a line of the history.

    Credentials come from MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN only.

    Args:
        tracking_uri: ``http://host:port``, ``https://host`` or ``sqlite:///file``.

    Raises:
        RegistryError: another address, or one with a user name or password in it.
        MissingDependencyError: mlflow is not installed.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.uri = check_address(tracking_uri)
        self.location = f"mlflow+{self.uri}"
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise MissingDependencyError(f"{self.location} needs MLflow: pip install mlflow") from None
        if self.uri.startswith("sqlite"):
            for name in ("mlflow.store", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)  # they tell how they make their tables
        self._records: dict[str, ModelVersion] = {}  # by checksum: what was read and checked once does not change
        with self._talking():
            self._client: MlflowClient = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def names(self) -> list[str]:
        """All models that have a version of ours, sorted."""
        with self._talking():
            return sorted({found.name for found in self._search("")})

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, by number; none for an unknown name."""
        check_name(name)
        with self._talking():
            aliases = self.aliases(name)
            found = sorted(self._search(f"name = '{name}'"), key=lambda version: int(version.version))
            return [self._read(version, aliases) for version in found]

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number."""
        with self._talking():
            try:
                model = self._client.get_registered_model(name)
            except Exception as error:
                if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise
            return {alias: int(version) for alias, version in sorted(model.aliases.items())}

    def alias_history(self, name: str, alias: str) -> list[AliasChange]:
        """The latest 50 moves of an alias, the oldest first."""
        with self._talking():
            try:
                text = self._client.get_registered_model(name).tags.get(_HISTORY_TAG + alias, "[]")
            except Exception as error:
                if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
        try:
            return [AliasChange(**change) for change in json.loads(text)]
        except (ValueError, TypeError):
            raise RegistryError(f"{self.location}: the tag {_HISTORY_TAG}{alias} of {name} is damaged") from None

    def clean(self) -> Cleaned:
        """Delete runs older than a day that no version refers to; `mlflow gc` on the server frees their files."""
        with self._talking():
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return Cleaned(0, 0)
            used = {version.run_id for version in self._search("")}
            before = int((time.time() - _LEFTOVER_AFTER) * 1000)
            search = self._client.search_runs
            runs = _all_pages(search, [experiment.experiment_id], f"attributes.start_time < {before}")
            leftovers = [run.info.run_id for run in runs if run.info.run_id not in used]
            for run_id in leftovers:
                self._client.delete_run(run_id)
        return Cleaned(len(leftovers), 0)

    def _find(self, name: str, version: int) -> ModelVersion | None:
        with self._talking():
            try:
                found = self._client.get_model_version(name, str(version))
            except Exception as error:
                if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            if _CHECKSUM_TAG not in found.tags:
                raise RegistryError(f"{name}:{version} in {self.location} was not registered by tstune")
            return self._read(found, self.aliases(name))

    def _store(self, draft: ModelVersion, folder: Path, number: int | None) -> ModelVersion:
        # The server numbers versions; `number` is a wish that it does not know.
        with self._talking(), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
            with disk_errors(f"{folder} cannot be copied"):
                draft = self._snapshot(draft, folder, Path(temporary))
            checksum, _ = hash_file(Path(temporary) / _RECORD)
            tags = {"tstune.model": draft.name, "mlflow.runName": draft.name}
            run = self._client.create_run(self._experiment(), tags=tags)
            self._client.log_artifacts(run.info.run_id, temporary)
            self._client.set_terminated(run.info.run_id)
            return replace(draft, version=self._create_version(draft, run.info, checksum))

    def _snapshot(self, draft: ModelVersion, folder: Path, target: Path) -> ModelVersion:
        """Copy a run with its checksums, so that what is uploaded is what was read once."""
        files = []
        for path in files_to_store(folder):
            if not _PLAIN_PATH.fullmatch(path):
                raise RegistryError(f"{folder / path}: MLflow cannot store a file of this name; use plain letters")
            copy = target / _RUN / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("rb") as stream:
                files.append(StoredFile(path, *copy_stream(stream, copy)))
        check_files(tuple(files), str(folder))
        draft = replace(draft, files=tuple(files))
        (target / _RECORD).write_text(json.dumps(draft.to_dict(), indent=2, allow_nan=False), encoding="utf-8")
        return draft

    def _create_version(self, draft: ModelVersion, run: object, checksum: str) -> int:
        try:
            self._client.create_registered_model(draft.name)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {_CHECKSUM_TAG: checksum} | {f"tstune.tag.{key}": value for key, value in (draft.tags or {}).items()}
        shown = {"run_id": draft.run_id, "git_commit": draft.git_commit, "manifest_sha256": draft.manifest_sha256}
        tags |= {f"tstune.{key}": value for key, value in shown.items() if value is not None}
        source = f"{run.artifact_uri}/{_RUN}"
        for attempt in range(_ATTEMPTS):
            try:
                made = self._client.create_model_version(
                    draft.name, source, run.run_id, tags, description=draft.description, await_creation_for=0
                )
                return int(made.version)
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or "Model Version creation error" not in str(error):
                    raise
                time.sleep(0.05 * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")

    def _fetch(self, version: ModelVersion, files: Iterable[StoredFile], folder: Path) -> None:
        with self._talking():
            run_id = self._client.get_model_version(version.name, str(version.version)).run_id
            origin = f"{self.location}: {version.reference}"
            wanted = tuple(files)
            with disk_errors(origin), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
                run = None
                if wanted == version.files:  # a folder costs one request per file, a file alone five
                    run = self._download(run_id, _RUN, temporary, origin)
                for file in wanted:
                    where = f"{origin}: {file.path}"
                    copy = run / file.path if run else self._download(run_id, f"{_RUN}/{file.path}", temporary, where)
                    if not copy.is_file():
                        raise RegistryError(f"{where} is gone")
                    with copy.open("rb") as stream:
                        copy_checked(stream, folder, file, origin)

    def _read(self, found: MLflowVersion, aliases: dict[str, int]) -> ModelVersion:
        origin = f"{self.location}: {_RECORD} of {found.name}:{found.version}"
        checksum = found.tags[_CHECKSUM_TAG]
        if checksum not in self._records:
            with tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
                path = self._download(found.run_id, _RECORD, temporary, origin)
                if hash_file(path)[0] != checksum:
                    raise RegistryError(f"{origin} is damaged: its sha256 is not {checksum[:12]}…")
                values = json.loads(path.read_text(encoding="utf-8"))
            self._records[checksum] = ModelVersion.from_dict(values, origin)
        record = self._records[checksum]
        number = int(found.version)
        mine = tuple(alias for alias, version in aliases.items() if version == number)
        return replace(record, name=found.name, version=number, aliases=mine)

    def _move_alias(self, name: str, alias: str, version: int | None, action: Action, expected: int | None) -> None:
        with self._talking():
            current = self.aliases(name).get(alias)
            if current != expected:
                raise RegistryError(f"{name}@{alias} has just moved to {current}; look again and repeat")
            # The alias first: a history without its last line still leads a roll back to the right version.
            history = self.alias_history(name, alias)
            if version is None:
                self._client.delete_registered_model_alias(name, alias)
            else:
                self._client.set_registered_model_alias(name, alias, str(version))
            history.append(AliasChange(action, version, datetime.now(UTC).isoformat(timespec="seconds")))
            text = json.dumps([asdict(change) for change in history[-_LONGEST_HISTORY:]])
            self._client.set_registered_model_tag(name, _HISTORY_TAG + alias, text)

    def _delete(self, version: ModelVersion) -> None:
        with self._talking():
            aliases = [alias for alias, number in self.aliases(version.name).items() if number == version.version]
            if aliases:
                raise protected(version, aliases)
            run_id = self._client.get_model_version(version.name, str(version.version)).run_id
            self._client.delete_model_version(version.name, str(version.version))
            self._client.delete_run(run_id)

    def _search(self, query: str) -> list[MLflowVersion]:
        """Versions that this class registered."""
        found = _all_pages(self._client.search_model_versions, query)
        return [version for version in found if _CHECKSUM_TAG in version.tags]

    def _experiment(self) -> str:
        """Id of the experiment that holds the runs; made on first use, by whoever comes first."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite"):  # MLflow's default would be the current folder
            database = Path(self.uri.removeprefix("sqlite:///"))
            location = (database.resolve().parent / f"{database.stem}-artifacts").as_uri()
        try:
            return self._client.create_experiment(EXPERIMENT, artifact_location=location)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._client.get_experiment_by_name(EXPERIMENT).experiment_id

    def _download(self, run_id: str, artifact: str, folder: str, origin: str) -> Path:
        """Fetch one artifact, unchecked.

        Raises:
            RegistryError: there is none, although the server answers.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(run_id, artifact, folder))
        except (MlflowException, OSError) as error:  # requests' errors are of the second kind
            self._client.get_run(run_id)  # raises if it is the server that is away
            raise RegistryError(f"{origin} is gone or cannot be read: {first_line(error)}") from None

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what MLflow raises into one line."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (RequestException, SQLAlchemyError) as error:
            raise RegistryError(f"{self.location}: {first_line(error)}") from None
        except MlflowException as error:
            raise RegistryError(f"{self.location}: {reason(error)}") from None


def _all_pages(search: object, *arguments: object) -> list:
    """Everything a paged search finds."""
    found, token = [], None
    while True:
        page = search(*arguments, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
