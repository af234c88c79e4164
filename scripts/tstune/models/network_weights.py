"""Find, check and load weights in the format of a family's own library, which is imported when it is needed."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from pydantic_core import from_json
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from tstune.config.managers import read_saved_values
from tstune.config.section import ModelSection
from tstune.errors import CheckpointError, ConfigError, MissingDependencyError, first_line
from tstune.foreign_files import check_header, damage, read_object
from tstune.models.contract import MODEL_FOLDER, weights_folder
from tstune.models.registry import families, model_class
from tstune.named_code import optional_module

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_FILES = ("model.safetensors", "model.safetensors.index.json")
GRANITE = "granite-tsfm>=0.3.11,<0.4"
"""The package of TTM, FlowState and PatchTST-FM."""
_FOLLOWED = {
    "attn_implementation": (None, "eager", "sdpa"),
    "_attn_implementation": (None, "eager", "sdpa"),
    "quantization_config": (None,),
}
"""Keys of config.json by which transformers imports packages or kernels of the Hub, and what is harmless there."""
_SMALL = 1 << 24
"""Numbers that any network may have."""
_TAKING_AWAY = threading.Lock()


class _LoadedWhenAsked(ModuleType):
    """Stands for a package until somebody wants a name of it; its modules can be imported before."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # those who look through sys.modules want nothing of it
            raise AttributeError(name)
        with _TAKING_AWAY:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        package = importlib.import_module(self.__name__)  # threads that ask meanwhile wait for it here
        for module_name, module in list(vars(self).items()):  # those that were imported before it
            if isinstance(module, ModuleType):
                vars(package).setdefault(module_name, module)
        return getattr(package, name)


def _put_off(name: str, function: str | None = None) -> None:
    """Load a package when somebody wants a name of it, or calls this `function`, unless it is there already."""
    top, *folders = name.split(".")
    package = importlib.util.find_spec(top)
    if package is None or name in sys.modules:
        return
    file = Path(package.origin).parent.joinpath(*folders, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    stand_in = importlib.util.module_from_spec(spec)
    stand_in.__class__ = _LoadedWhenAsked
    if function is not None:
        vars(stand_in)[function] = lambda *args, **kwargs: stand_in.__getattr__(function)(*args, **kwargs)
    sys.modules[name] = stand_in


_put_off("tsfm_public.toolkit")  # datasets, scikit-learn, peft; its networks need none of it
_put_off("transformers.models")  # looks through the sources of all families for their names, as transformers just has
_put_off("scipy.optimize", "linear_sum_assignment")  # of losses of transformers; a tenth of the start


@contextmanager
def without(package: str) -> Iterator[None]:
    """Let a package that nobody has loaded be as if it were not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


@dataclass(frozen=True)
class Architecture:
    """Which classes of which library a family is read and written with.

    Attributes:
        title: name of the family for messages.
        package: what pip installs it from.
        network: ``module:Class`` that loads and saves checkpoints.
        config: ``module:Class`` that reads its config.json.
        required: beginnings of names of tensors that must be in the file, though the library lets them be missing and
            fills them with random numbers.
        dropout_key: key of config.json that `model.dropout` sets; None if there is none.
        also_named: what a config.json of the library calls the family, where it names no class.
    """

    title: str
    package: str
    network: str
    config: str
    required: tuple[str, ...] = ()
    dropout_key: str | None = "dropout_rate"
    also_named: tuple[str, ...] = ()

    @property
    def network_class(self) -> type[PreTrainedModel]:
        """Loads and saves checkpoints.

        Raises:
            MissingDependencyError: the library is not installed, or older than the family.
        """
        return self.of_library(self.network)

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """Reads config.json."""
        return self.of_library(self.config)

    def of_library(self, path: str) -> Any:
        """What ``module:name`` names."""
        module, _, name = path.partition(":")
        try:
            return getattr(optional_module(module, self.title, self.package), name)
        except (AttributeError, ImportError):
            raise MissingDependencyError(f"{self.title} needs a package: pip install '{self.package}'") from None


def load_network(
    architecture: Architecture,
    section: ModelSection,
    random_weights: bool,
    check: Callable[[ModelSection, dict], None],
    fit: Callable[[PreTrainedConfig], None],
) -> PreTrainedModel:
    """Load a checkpoint in float32.

    Args:
        architecture: of the family.
        section: weights, context length and dropout.
        random_weights: keep the checkpoint's architecture, not its weights.
        check: raises `CheckpointError` if the values of a config.json do not suit the section.
        fit: sets what of the config depends on the run, before the network is made.

    Raises:
        ConfigError: there is no checkpoint, so no architecture.
        CheckpointError: not found, damaged, of another family, or it reads fewer steps than asked for.
    """
    name, revision = section.pretrained, section.revision
    if name is None:
        raise ConfigError(
            f"model.pretrained is null, but {architecture.title} takes its architecture from a checkpoint; set it to a "
            "folder or Hub id (tuning.mode=from_scratch then trains that architecture from random weights)"
        )
    name = checkpoint_of(name)
    values = read_config(name, revision)
    with damage(f"model.pretrained={name}: its config.json", state="cannot be read"):
        _check_class(architecture, name, values)
        check(section, values)
        config = architecture.config_class.from_pretrained(name, revision=revision)
    if architecture.dropout_key is not None and getattr(section, "dropout", None) is not None:
        setattr(config, architecture.dropout_key, section.dropout)
    fit(config)
    if random_weights:
        with in_proportion(name):
            return architecture.network_class(config)
    with damage(f"model.pretrained={name}: the weights", state="cannot be read"), in_proportion(name):
        network, report = architecture.network_class.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
        lacking = sorted({*report["missing_keys"], *_missing(architecture.required, network, name, revision)})
    if lacking:
        raise CheckpointError(
            f"model.pretrained={name}: its tensors do not fit its own config.json: {lacking[0]} is missing; the folder "
            "mixes files of two models"
        )
    return network


def scratch_values(section: ModelSection, defaults: Mapping[str, object]) -> dict[str, object]:
    """Values of an architecture from scratch: those of the section, and defaults where it has none."""
    given = {key: getattr(section, key) for key in defaults}
    return {key: default if given[key] is None else given[key] for key, default in defaults.items()}


def require_same(section: ModelSection, values: Mapping[str, object], names: Mapping[str, str]) -> None:
    """Stop if the section asks for another architecture than the checkpoint has.

    Args:
        section: what is asked for; None asks for nothing.
        values: of config.json.
        names: key of the section -> key of config.json.

    Raises:
        CheckpointError: it does.
    """
    for key, name in names.items():
        asked, found = getattr(section, key), values[name]
        if asked is not None and asked != found:
            fix = f"leave out model.{key}, or set model.pretrained=null to build it from scratch"
            if key == "context_length":
                fix = f"set model.context_length={found} or use another checkpoint"
            raise CheckpointError(
                f"model.pretrained={section.pretrained} has {name} {found}, the run asks for {asked}; {fix}"
            )


def require_context(name: str, longest: int, asked: int) -> None:
    """Stop if a network reads fewer steps than the run asks for.

    Raises:
        CheckpointError: it does.
    """
    if asked > longest:
        raise CheckpointError(
            f"model.pretrained={name} reads at most {longest} steps, the run asks for {asked}; "
            f"set model.context_length={longest} or less"
        )


def require_levels(name: str, levels: list[float]) -> None:
    """Stop if the levels of a network's quantiles do not ascend or have no median.

    Raises:
        CheckpointError: they do not.
    """
    if 0.5 not in levels or sorted(set(levels)) != list(levels):
        raise CheckpointError(
            f"model.pretrained={name} forecasts the quantiles {levels}; they must ascend and hold the median, 0.5"
        )


def checkpoint_of(name: str) -> str:
    """The folder or Hub id that holds the weights: of a run folder, its `model/`.

    Raises:
        CheckpointError: a folder without weights, or a run whose weights are no whole model.
    """
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    if not (folder / MODEL_FOLDER / "config.json").is_file():
        raise CheckpointError(f"model.pretrained={name}: the folder holds no config.json")
    saved = folder / "config.yaml"
    if saved.is_file() and read_saved_values(saved).get("model", {}).get("quantization", "none") != "none":
        raise CheckpointError(
            f"model.pretrained={name}: the run put an adapter on a packed base (model.quantization), which is no whole "
            f"model; start from that base instead, {folder / MODEL_FOLDER}"
        )
    return str(folder / MODEL_FOLDER)


def lengths_of(folder: Path) -> list[tuple[int, int]]:
    """Context and prediction length that the config.json of a folder or run names; none where it is no such folder."""
    try:
        values = read_object(weights_folder(folder) / "config.json", keys=("context_length", "prediction_length"))
        return [(int(values["context_length"]), int(values["prediction_length"]))]
    except (ValueError, TypeError):
        return []


def read_config(name: str, revision: str | None) -> dict[str, Any]:
    """Values of the config.json of a folder or Hub id, before a library follows what they name.

    Raises:
        CheckpointError: not found, damaged, or it would lead to code, to other files, or to an endless network.
    """
    from transformers import PreTrainedConfig

    folder, where, tensors = Path(name), f"model.pretrained={name}", 0
    if folder.is_dir():
        values = read_object(folder / "config.json")
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(f"{where} holds an adapter beside whole weights: which of them is meant? Remove one")
        tensors = len(_places(folder))
    else:
        try:
            values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        except Exception as error:
            raise CheckpointError(
                f"{where} is not a folder, and the Hub did not give it ({first_line(error)}); check the name and the "
                "network, or give the folder of a downloaded checkpoint"
            ) from None
    for key, value in values.items():
        if key in _FOLLOWED and value not in _FOLLOWED[key]:
            raise CheckpointError(f"{where}: {key} in its config.json loads code of others; remove it there")
        if key.endswith(("layers", "levels")) and isinstance(value, int) and value > tensors > 0:
            raise CheckpointError(f"{where}: {key} in its config.json is {value:.0f}, and it has {tensors} tensors")
    return values


def _places(folder: Path) -> dict[str, Path]:
    """Tensor -> its file in a folder of weights; none where it has no weights."""
    single, index = (folder / file for file in _FILES)
    if single.is_file():
        with damage(single):
            return dict.fromkeys(from_json(check_header(single)), single)
    if not index.is_file():
        return {}
    with damage(index):
        places = read_object(index, keys=["weight_map"])["weight_map"]
        if away := [file for file in places.values() if Path(file).name != file]:
            raise ValueError(f"{away[0]:.100} is not in this folder")
        return {tensor: folder / file for tensor, file in places.items()}


@contextmanager
def in_proportion(name: str) -> Iterator[None]:
    """Stop a network, while it is made, that is many times as large as the weights it is for: it would fill the memory.

    A longer head, quantiles or other channels than a checkpoint was made for are well within the proportion.

    Raises:
        CheckpointError: naming the folder; weights of the Hub are believed.
    """
    places = _places(Path(name))
    if not places:
        yield
        return
    size = sum(file.stat().st_size for file in set(places.values()) if file.is_file())
    most, found = (10 * len(places) + 1000, 2 * size + _SMALL), [0, 0]

    def count(module: nn.Module, _: str, tensor: torch.Tensor | None) -> None:
        for place, more in enumerate((1, 0 if tensor is None else tensor.numel())):
            found[place] += more
            if found[place] > most[place]:
                raise CheckpointError(
                    f"model.pretrained={name}: its config.json asks for a network of more than {most[place]:,} "
                    f"{('tensors', 'numbers')[place]}, and its {len(places)} tensors take {size:,} bytes; take the "
                    "config.json that was saved with them"
                )

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_class(architecture: Architecture, name: str, values: dict) -> None:
    nested = values.get("model")
    kind = values.get("model_type") or (nested.get("family") if isinstance(nested, dict) else None)
    found = (values.get("architectures") or [kind or "unknown"])[0]
    if architecture.network.endswith(f":{found}") or found in architecture.also_named:
        return
    others = {family: getattr(model_class(family), "architecture", None) for family in families()}
    right = next((family for family, one in others.items() if one and one.network.endswith(f":{found}")), None)
    fix = f"set model.type={right}" if right else "use another checkpoint"
    raise CheckpointError(f"model.pretrained={name} is a {found}, not a {architecture.title} checkpoint; {fix}")


def _missing(required: tuple[str, ...], network: PreTrainedModel, name: str, revision: str | None) -> list[str]:
    """Required tensors that are not in the file; transformers does not report what a model lets be missing."""
    from transformers.utils import cached_file

    path = cached_file(name, _FILES[0], revision=revision, _raise_exceptions_for_missing_entries=False)
    if not required or path is None:
        return []
    with safe_open(path, framework="pt") as weights:
        stored = set(weights.keys())
    return [key for key in network.state_dict() if key.startswith(required) and key not in stored]
