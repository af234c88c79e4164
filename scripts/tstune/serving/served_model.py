"""The model that a server answers with, and by which name and version it is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.adapters import ITEM_ADAPTERS_FOLDER
from tstune.data.prepared import Preprocessor
from tstune.data.table import ITEM, TIMESTAMP
from tstune.errors import ConfigError
from tstune.models.contract import ADAPTER_FOLDER, MODEL_FOLDER
from tstune.registry.checksums import hash_file
from tstune.registry.opening import PREFIX, load_saved_model, open_registry
from tstune.uncertainty.files import SETTINGS, TENSORS

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel

_LOADED_FILES = ("config.yaml", "preprocessor.json", SETTINGS, TENSORS)
_LOADED_FOLDERS = (MODEL_FOLDER, ADAPTER_FOLDER, ITEM_ADAPTERS_FOLDER)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model.

    Attributes:
        model: ready to predict.
        name: of the model in its registry, or of its run folder.
        version: number in the registry; for a run folder the first 12 digits of the SHA-256 over what was loaded.
        loaded: when, ISO 8601 in UTC.
        preprocessor: the model's, for tables whose series and times are in `item_id` and `timestamp`.
    """

    model: ForecastModel
    name: str
    version: str
    loaded: str
    preprocessor: Preprocessor

    @classmethod
    def of(cls, model: ForecastModel, name: str, version: str) -> ServedModel:
        """Wrap a loaded model.

        Raises:
            ConfigError: it would send what it is asked to a paid service.
        """
        refuse_paid_service(model, name)
        model.require_built()
        layout = {"timestamp_column": TIMESTAMP, "item_id_column": ITEM}
        preprocessor = replace(model.preprocessor, **layout, timestamp_format=None, columns_as="channels")
        return cls(model, name, version, datetime.now(UTC).isoformat(timespec="seconds"), preprocessor)


def open_model(model: str, registry: str | None = None) -> ServedModel:
    """Load a run folder, or ``registry:name@alias`` and ``registry:name:version``.

    Raises:
        CheckpointError, RegistryError: as in `load_saved_model`.
        ConfigError: a model that is not served.
    """
    if not model.startswith(PREFIX):
        loaded = load_saved_model(model)
        return ServedModel.of(loaded, Path(model).resolve().name, fingerprint(Path(model)))
    # the alias is looked up once: it may move between two looks
    version = open_registry(registry).get(model.removeprefix(PREFIX))
    loaded = load_saved_model(f"{PREFIX}{version.reference}", registry)
    return ServedModel.of(loaded, version.name, str(version.version))


def refuse_paid_service(model: ForecastModel, name: str) -> None:
    """Stop if a model, or a member of an ensemble, is TimeGPT."""
    if model.model_type == "timegpt":
        raise ConfigError(
            f"{name} is a timegpt model: whoever reaches the server would send readings to a paid service, on your "
            "account; forecast with scripts/predict_forecast.py instead"
        )
    for member in model.members if model.model_type == "ensemble" else ():
        refuse_paid_service(member.model, f"{name}: its member {member.name}")


def fingerprint(folder: Path) -> str:
    """12 hexadecimal digits that change with whatever `load_model` reads from a run folder."""
    files = [folder / name for name in _LOADED_FILES if (folder / name).is_file()]
    for name in _LOADED_FOLDERS:
        files += [path for path in (folder / name).rglob("*") if path.is_file()]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hash_file(path)[0]}\n".encode())
    return digest.hexdigest()[:12]
