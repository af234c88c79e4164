"""What a run folder says about itself, read once for publishing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.domains import Domain, domain_of
from tstune.errors import CheckpointError, ConfigError
from tstune.models.contract import ForecastModel
from tstune.models.registry import families, model_class


@dataclass(frozen=True)
class FinishedRun:
    """The files of a run folder that a publication is made from.

    Attributes:
        folder: of the run.
        config: resolved.
        preprocessor: content of `preprocessor.json`.
        manifest, metrics, verdict, environment: of the files of those names; empty where there is none.
    """

    folder: Path
    config: RunConfig
    preprocessor: dict
    manifest: dict
    metrics: dict
    verdict: dict
    environment: dict

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run folder.

        Raises:
            CheckpointError: it is none, or it is damaged.
            ConfigError: a model that has nothing to publish.
        """
        for name in ("config.yaml", "preprocessor.json"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is not a run folder: {name} is missing")
        preprocessor = _read(folder / "preprocessor.json")
        model_type = preprocessor.get("model_type", "unknown")
        family = model_class(model_type) if model_type in families() else None
        if family is not None and family.not_published:
            raise ConfigError(f"{folder} is a {model_type} model, which cannot be published: {family.not_published}")
        if family is None or not (folder / "model" / "config.json").is_file():
            raise ConfigError(
                f"{folder} is a {model_type} model without weights in the format of a library, so there is nothing to "
                "publish; give a run of a pretrained family such as ttm, chronos_bolt or chronos2"
            )
        names = ("manifest", "metrics", "verdict", "environment")
        found = {name: _read(folder / f"{name}.json") if (folder / f"{name}.json").is_file() else {} for name in names}
        return cls(folder, SimpleConfigManager().load_config(folder / "config.yaml"), preprocessor, **found)

    @property
    def family(self) -> type[ForecastModel]:
        """Class of its models."""
        return model_class(self.model_type)

    @property
    def model_type(self) -> str:
        """Name of the family."""
        return self.preprocessor["model_type"]

    @property
    def targets(self) -> list[str]:
        """Columns that are forecast."""
        return list(self.preprocessor["roles"]["target"])

    @property
    def domain(self) -> Domain | None:
        """What the targets are of, by their unit."""
        return domain_of(self.preprocessor.get("unit"))

    @property
    def has_adapter(self) -> bool:
        """True if the low-rank adapter of the tuning lies beside the weights."""
        return (self.folder / "adapter" / "adapter_config.json").is_file()


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object")
    return found
