"""Which files are published, and what is taken out of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from tstune.config.schema import RunConfig
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.sharing.run import FinishedRun

BUILTIN = "builtin"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Base:
    """The weights that were tuned.

    Attributes:
        name: Hub id, ``builtin``, the last part of a local folder's path, or None for random weights.
        hub_id: `name` where it is one.
    """

    name: str | None
    hub_id: str | None


@dataclass(frozen=True)
class Published:
    """Files to publish, without the card.

    Attributes:
        contents: path inside the folder -> its text, or the file to copy.
        left_out: names in the run folder that are not published.
        adapter: True for an adapter alone, which needs its base.
    """

    contents: dict[str, str | Path]
    left_out: list[str]
    adapter: bool


def base_of(run: FinishedRun, named: str | None) -> Base:
    """Where the weights come from, in words that mean something on another machine.

    Raises:
        ConfigError: `named` is no Hub id.
    """
    if named is not None:
        if not _HUB_ID.fullmatch(named):
            raise ConfigError(f"--base-model {named} is no Hub id; give owner/name")
        return Base(named, named)
    pretrained = run.config.model.pretrained
    if pretrained is None or pretrained == BUILTIN:
        return Base(pretrained, None)
    if _HUB_ID.fullmatch(pretrained) and not Path(pretrained).exists():
        return Base(pretrained, pretrained)
    return Base(Path(pretrained).resolve().name, None)


def collect(run: FinishedRun, base: Base, adapter: bool) -> Published:
    """What is published of a run; every text is written anew without places of this machine.

    Raises:
        ConfigError: an adapter was asked for that is not there, or that nobody could load.
    """
    contents: dict[str, str | Path] = {}
    if adapter:
        _require_adapter(run, base)
        contents |= _adapter_files(run.folder / "adapter", "", base)
    else:
        if run.config.model.quantization != "none":
            raise ConfigError(
                f"model.quantization={run.config.model.quantization}: the scores are those of the packed base with its "
                "adapter, and a merged model would be another one; publish it with --adapter"
            )
        for path in sorted((run.folder / "model").iterdir()):
            if path.name.endswith(_WEIGHTS):
                contents[path.name] = path
            elif path.name in _CONFIGS:
                contents[path.name] = _json({k: v for k, v in _load(path).items() if k != "_name_or_path"})
    contents["preprocessor.json"] = _json(run.preprocessor)
    contents["config.yaml"] = OmegaConf.to_yaml(OmegaConf.create(scrubbed(run.config, base).model_dump(mode="json")))
    if run.metrics:
        contents["metrics.json"] = _json(run.metrics)
    for name in ("uncertainty.json", "uncertainty.safetensors"):
        if (run.folder / name).is_file():
            contents[name] = run.folder / name if name.endswith(_WEIGHTS) else _json(_load(run.folder / name))
    contents |= _item_adapters(run, base)
    kept = {path.partition("/")[0] for path in contents} | {"model", "adapters", "adapter" if adapter else "model"}
    left_out = sorted(path.name for path in run.folder.iterdir() if path.name not in kept)
    return Published(contents, left_out, adapter)


def scrubbed(config: RunConfig, base: Base) -> RunConfig:
    """The configuration without paths, accounts and names of items; what loading needs is all there."""
    values = config.model_dump()
    values["model"] |= {"pretrained": base.name}
    values["data"] |= {"path": None, "cache": None, "source_options": {}}
    for key in ("validation_items", "test_items"):
        if isinstance(values["data"]["split"][key], list):
            values["data"]["split"][key] = None
    values["training"]["resume_from_checkpoint"] = None
    for section in ("tracking", "distributed", "pretraining", "output_dir"):
        values.pop(section, None)
    return validate(values, origin="config.yaml to publish")


def _require_adapter(run: FinishedRun, base: Base) -> None:
    if not run.has_adapter:
        raise ConfigError(
            f"--adapter: {run.folder} has no adapter (tuning.mode={run.config.tuning.mode}); publish it with --merged"
        )
    if base.hub_id is None and base.name != BUILTIN:
        raise ConfigError(
            f"--adapter: the base {base.name} is a folder of this machine, which nobody else has; name its Hub id with "
            "--base-model owner/name, or publish with --merged"
        )
    if run.preprocessor["roles"].get("static_categorical"):
        raise ConfigError(
            "--adapter: with data.static_categorical_columns the value of names that training never saw is set after "
            "the adapter is merged, so the adapter alone is not the model; publish with --merged"
        )


def _adapter_files(folder: Path, prefix: str, base: Base) -> dict[str, str | Path]:
    settings = _load(folder / "adapter_config.json") | {"base_model_name_or_path": base.name}
    weights = "adapter_model.safetensors"
    return {f"{prefix}adapter_config.json": _json(settings), f"{prefix}{weights}": folder / weights}


def _item_adapters(run: FinishedRun, base: Base) -> dict[str, str | Path]:
    index = run.folder / "adapters" / "index.json"
    if not index.is_file():
        return {}
    rows = json.loads(index.read_text(encoding="utf-8"))
    found: dict[str, str | Path] = {"adapters/index.json": _json(rows)}
    for row in rows:
        if row["folder"] is not None:
            found |= _adapter_files(run.folder / "adapters" / row["folder"], f"adapters/{row['folder']}/", base)
    return found


def _load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
