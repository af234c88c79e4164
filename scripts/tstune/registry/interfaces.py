"""What every model registry offers; a backend only stores, finds, fetches and forgets."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import RegistryError
from tstune.registry.alias_history import Action, AliasChange, previous_version
from tstune.registry.archive import read_archive, write_archive
from tstune.registry.checksums import disk_errors, sync_folder
from tstune.registry.comparison import Comparison, compare, differing_keys
from tstune.registry.names import Reference, check_alias, check_name
from tstune.registry.records import MANIFEST, ModelVersion, StoredFile
from tstune.registry.run_record import describe_run, read_json_object

if TYPE_CHECKING:
    from tstune.models.base import BaseTimeSeriesFoundationModel


@dataclass(frozen=True)
class Promotion:
    """An alias that moved because a metric improved.

    Attributes:
        version: the new holder of the alias.
        value: its metric.
        replaced: the holder before; None if the alias is new.
        replaced_value: that one's metric.
    """

    version: ModelVersion
    value: float
    replaced: ModelVersion | None
    replaced_value: float | None


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed.

    Attributes:
        count: number of leftovers (files, or MLflow runs).
        size: their bytes; 0 where the backend does not say.
    """

    count: int
    size: int


class ModelRegistry(ABC):
    """Numbered versions of finished runs.

    A reference is ``name:version`` or ``name@alias``. Whatever is read is checked against the checksums taken at
    registration. All methods raise `RegistryError` with one line for whatever the caller can fix.

    Attributes:
        location: how a user names this registry.
    """

    location: str

    # What a backend defines

    @abstractmethod
    def names(self) -> list[str]:
        """All models that have a version, sorted."""

    @abstractmethod
    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, by number; none for an unknown name."""

    @abstractmethod
    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number."""

    @abstractmethod
    def alias_history(self, name: str, alias: str) -> list[AliasChange]:
        """Every move of an alias, the oldest first."""

    @abstractmethod
    def clean(self) -> Cleaned:
        """Remove what killed registrations and deleted versions left, never what is being registered now."""

    @abstractmethod
    def _find(self, name: str, version: int) -> ModelVersion | None: ...

    @abstractmethod
    def _store(self, draft: ModelVersion, folder: Path, number: int | None) -> ModelVersion:
        """Store a run folder as a new version, as a whole or not at all.

        Args:
            draft: what `describe_run` says.
            folder: the run.
            number: version number to take if it was never used; None takes the next.
        """

    @abstractmethod
    def _fetch(self, version: ModelVersion, files: Iterable[StoredFile], folder: Path) -> None:
        """Write files of a version into an empty folder, each checked."""

    @abstractmethod
    def _move_alias(self, name: str, alias: str, version: int | None, action: Action, expected: int | None) -> None:
        """Point an alias somewhere else (None: nowhere) if it still points to `expected`, and note it."""

    @abstractmethod
    def _delete(self, version: ModelVersion) -> None:
        """Forget a version that no alias points to; its number is never given again."""

    # What all backends share

    def register(
        self,
        run_folder: str | Path,
        name: str,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Store a finished run as the next version of a model.

        Args:
            run_folder: a run's output_dir; `checkpoints/` and `plots/` are left out.
            name: of the model, for example ``cgm``.
            description: free text of up to 1000 characters.
            tags: free key-value pairs.

        Returns:
            the version, with its number and checksums.
        """
        return self._store(describe_run(Path(run_folder), name, description, tags), Path(run_folder), None)

    def get(self, reference: str) -> ModelVersion:
        """Look a version up."""
        wanted = Reference.parse(reference)
        number = wanted.version
        if number is None:
            number = self.aliases(wanted.name).get(wanted.alias)
            if number is None:
                raise RegistryError(f"{self.location} has no {reference}; {self._what_there_is(wanted.name)}")
        version = self._find(wanted.name, number)
        if version is None:
            raise RegistryError(f"{self.location} has no {wanted.name}:{number}; {self._what_there_is(wanted.name)}")
        return version

    def compare(self, left: str, right: str) -> Comparison:
        """Two versions side by side: configuration, metrics, data."""
        pair = self.get(left), self.get(right)
        return compare(*pair, self._other_data(*pair))

    def set_alias(self, reference: str, alias: str) -> ModelVersion:
        """Point an alias to a version, whatever its metrics are."""
        version = self.get(reference)
        current = self.aliases(version.name).get(check_alias(alias))
        if current != version.version:
            self._move_alias(version.name, alias, version.version, "set", current)
        return self.get(version.reference)

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias point nowhere; a roll back brings it back."""
        current = self._current(check_name(name), check_alias(alias))
        self._move_alias(name, alias, None, "remove", current)

    def promote(
        self, reference: str, alias: str, metric: str, lower_is_better: bool = True, allow_other_data: bool = False
    ) -> Promotion:
        """Point an alias to a version if its metric is better than that of the version it points to now.

        Args:
            reference: the version that is to take over.
            alias: for example ``champion``; if it points nowhere yet, the version takes it without a comparison.
            metric: for example ``test/fine_tuned/rmse``.
            lower_is_better: True for errors.
            allow_other_data: compare numbers of different data manifests all the same.
        """
        version = self.get(reference)
        value = _metric(version, metric)
        current = self.aliases(version.name).get(check_alias(alias))
        holder = None if current is None else self.get(f"{version.name}:{current}")
        if holder is None:
            self._move_alias(version.name, alias, version.version, "set", None)
            return Promotion(self.get(version.reference), value, None, None)
        if holder.version == version.version:
            raise RegistryError(f"{version.reference} is {version.name}@{alias} already")
        other_data = self._other_data(holder, version)
        if other_data and not allow_other_data:
            raise RegistryError(
                f"{version.reference} and {holder.reference} ({alias}) were judged on different data, so their metrics "
                f"are not comparable (manifest.json differs in {', '.join(other_data)}); add --allow-other-data to "
                "compare them all the same"
            )
        before = _metric(holder, metric)
        if not (value < before if lower_is_better else value > before):
            better = "lower" if lower_is_better else "higher"
            raise RegistryError(
                f"{version.reference} is not better than {holder.reference} ({alias}): {metric} is {value:.6g} "
                f"against {before:.6g}, {better} is better"
            )
        self._move_alias(version.name, alias, version.version, "set", current)
        return Promotion(self.get(version.reference), value, holder, before)

    def rollback(self, name: str, alias: str) -> ModelVersion:
        """Point an alias to the version it pointed to before."""
        history = self.alias_history(check_name(name), check_alias(alias))
        current = self.aliases(name).get(alias)
        existing = {version.version for version in self.versions(name)}
        target = previous_version(history, current, existing)
        if target is None:
            raise RegistryError(f"{name}@{alias} has no earlier version to go back to")
        self._move_alias(name, alias, target, "rollback", current)
        return self.get(f"{name}:{target}")

    def delete(self, reference: str) -> ModelVersion:
        """Forget a version; one that an alias points to is protected."""
        version = self.get(reference)
        self._delete(version)
        return version

    def download(self, reference: str, folder: str | Path) -> Path:
        """Write a version to a new folder, which `load_model` reads; it appears when every file has been checked."""
        version, folder = self.get(reference), Path(folder)
        with disk_errors(f"{folder} cannot be written"):
            if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
                raise RegistryError(f"{folder} exists already; choose a new folder")
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
            aside.mkdir()
            try:
                self._fetch(version, version.files, aside)
                for place, _, _ in os.walk(aside):
                    sync_folder(Path(place))
                aside.rename(folder)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        return folder

    def verify(self, reference: str) -> ModelVersion:
        """Read every file of a version and compare its checksum."""
        version = self.get(reference)
        with disk_errors(f"{reference} cannot be read"), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
            self._fetch(version, version.files, Path(temporary))
        return version

    def load(self, reference: str) -> BaseTimeSeriesFoundationModel:
        """Load a version on the CPU, ready to predict, once every file has been checked."""
        from tstune.models.registry import load_model

        with disk_errors(f"{reference} cannot be read"), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
            return load_model(self.download(reference, Path(temporary) / "run"))

    def export_archive(self, reference: str, path: str | Path, overwrite: bool = False) -> Path:
        """Write a version as one archive, .tar.gz or .zip by the name of `path`."""
        version = self.get(reference)
        with disk_errors(f"{path} cannot be written"), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
            self._fetch(version, version.files, Path(temporary))
            return write_archive(version, Path(temporary), Path(path), overwrite)

    def import_archive(self, path: str | Path, name: str | None = None) -> tuple[ModelVersion, ModelVersion]:
        """Store what `export_archive` wrote, if every file in it has the checksum that was registered.

        The version keeps its number if that was never used here, else it gets the next one.

        Returns:
            (as stored here, as it was in the archive).
        """
        with disk_errors(f"{path} cannot be imported"), tempfile.TemporaryDirectory(prefix="tstune-") as temporary:
            folder = Path(temporary)
            archived = read_archive(Path(path), folder)
            draft = replace(
                describe_run(folder, name or archived.name, archived.description, archived.tags),
                created=archived.created,
                git_commit=archived.git_commit,
                git_dirty=archived.git_dirty,
            )
            return self._store(draft, folder, archived.version), archived

    def _other_data(self, left: ModelVersion, right: ModelVersion) -> tuple[str, ...]:
        """Keys of the data manifest in which two versions differ."""
        if left.manifest_sha256 == right.manifest_sha256:
            return ()
        manifests = []
        for version in (left, right):
            with disk_errors(f"{MANIFEST} of {version.reference}"), tempfile.TemporaryDirectory() as temporary:
                self._fetch(version, [file for file in version.files if file.path == MANIFEST], Path(temporary))
                manifests.append(read_json_object(Path(temporary) / MANIFEST))
        keys = differing_keys(*manifests) or ("its spelling",)
        return tuple(key for key in keys if key != "weights")  # where the weights came from is not the data

    def _current(self, name: str, alias: str) -> int:
        current = self.aliases(name).get(alias)
        if current is None:
            raise RegistryError(f"{self.location} has no {name}@{alias}; {self._what_there_is(name)}")
        return current

    def _what_there_is(self, name: str) -> str:
        known = self.names()
        if name not in known:
            return f"models here: {', '.join(known) or 'none'}"
        numbers = [version.version for version in self.versions(name)]
        shown = ", ".join(map(str, numbers[-10:]))
        aliases = ", ".join(sorted(self.aliases(name))) or "none"
        return f"versions of {name}: {'…, ' if len(numbers) > 10 else ''}{shown}; aliases: {aliases}"


def _metric(version: ModelVersion, name: str) -> float:
    metrics = version.flat_metrics()
    if name not in metrics:
        raise RegistryError(f"{version.reference} has no metric {name!r}; it has {', '.join(metrics) or 'none'}")
    return metrics[name]


def protected(version: ModelVersion, aliases: list[str]) -> RegistryError:
    """The refusal to delete a version that aliases point to."""
    return RegistryError(
        f"{version.reference} is protected by its alias {', '.join(aliases)}; move or remove the alias first"
    )
