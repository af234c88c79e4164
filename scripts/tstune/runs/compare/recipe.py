"""A recipe with a list of models: what all share, and what each has of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tstune.config.managers import read_values
from tstune.config.names import merged
from tstune.config.schema import RunConfig
from tstune.config.section import AUTO
from tstune.config.validation import validate
from tstune.data.defaults import BASELINES
from tstune.errors import ConfigError, FolderError
from tstune.evaluation.verdict import OURS
from tstune.models.registry import available_models
from tstune.named_code import ours
from tstune.runs.folder import ENVIRONMENT, RunFolder

_SHARED = ("data", "evaluation", "seed", "output_dir", "overwrite", "tracking", "pretraining", "models")
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


@dataclass(frozen=True)
class ListedModel:
    """One model of a comparison."""

    name: str  # its row of the scoreboard
    config: RunConfig  # its run; its output_dir lies beside that of the comparison


@dataclass(frozen=True)
class ComparisonRecipe:
    """A recipe with a list of models."""

    config: RunConfig  # data, windows, lengths, metrics and output_dir, which all share
    members: tuple[ListedModel, ...]  # in the order of the file; the first one that is had is judged against the others
    baselines: tuple[str, ...]  # of `evaluation.baselines`, further rows

    @property
    def fingerprint(self) -> str:
        """Hash of every setting that a result depends on."""
        beside = {"output_dir", "overwrite", "tracking"}
        settings = [self.config.model_dump(mode="json", exclude=beside)]
        settings += [[one.name, one.config.model_dump(mode="json", exclude=beside)] for one in self.members]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> ComparisonRecipe:
    """Read the recipe: shared sections, and `models`, a mapping of names to sections that are merged over them."""
    path = Path(path)
    values = read_values(path, overrides)
    ours(values)
    listed = values.pop("models", None)
    if not isinstance(listed, Mapping) or len(listed) < 2:
        raise ConfigError(f"{path}: models must hold two models or more, each a name with its sections")
    shared = validate(values, origin=str(path))
    members = tuple(_member(str(name), own, values, shared, path) for name, own in listed.items())
    listed = BASELINES if shared.evaluation.baselines == AUTO else shared.evaluation.baselines
    return ComparisonRecipe(shared, members, tuple(listed))


def is_compared(comparison: ComparisonRecipe, folder: Path) -> bool:
    """Whether a folder holds the whole result of this comparison."""
    try:
        return RunFolder(folder).read_json(ENVIRONMENT).get("comparison") == comparison.fingerprint
    except FolderError:
        return False


def _member(name: str, own: object, values: Mapping, shared: RunConfig, path: Path) -> ListedModel:
    where = f"{path}: models.{name}"
    if not _NAME.fullmatch(name) or name in OURS or name in available_models():
        raise ConfigError(f"{where}: take another name of letters, digits, _ and -; families, baselines and "
                          f"{', '.join(OURS)} are taken")  # fmt: skip
    if not isinstance(own, Mapping):
        raise ConfigError(f"{where} must hold sections such as model: and tuning:, not {own!r}")
    for section in own:
        if section in _SHARED:
            raise ConfigError(f"{where}.{section}: all models share it; write it once, outside of models")
    beside = {
        "evaluation": {"baselines": [], "num_plots": 0, "report": False},  # judged together, at the end
        "output_dir": f"{shared.output_dir}.models/{name}",
        "overwrite": True,
    }
    config = validate(merged(merged(values, own), beside), origin=where)
    ahead, asked = config.model.prediction_length, shared.model.prediction_length
    if AUTO not in (ahead, asked) and ahead < asked:
        raise ConfigError(f"{where}.model.prediction_length={ahead}: the comparison forecasts {asked} steps")
    return ListedModel(name, config)
