"""What is published of a run: which files, what is taken out of them, and a last look before anything leaves."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from pydantic_core import from_json

from tstune.config.schema import RunConfig
from tstune.config.validation import validate
from tstune.data.defaults import SHIPPED
from tstune.domains import Domain, domain_of
from tstune.errors import ConfigError, FolderError, OutputError
from tstune.foreign_files import check_header, damage
from tstune.models.contract import ForecastModel
from tstune.models.registry import families, model_class
from tstune.runs.folder import CONFIG, ENVIRONMENT, MANIFEST, METRICS, PREPROCESSOR, VERDICT, RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """The files of a run folder that a publication is made from."""

    folder: RunFolder  # of the run
    config: RunConfig  # resolved
    preprocessor: dict  # content of `preprocessor.json`
    # of the files of those names; empty where there is none
    manifest: dict
    metrics: dict
    verdict: dict
    environment: dict

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run folder; a model that has nothing to publish is a `ConfigError`."""
        files = RunFolder(folder).require(CONFIG, PREPROCESSOR)
        preprocessor = files.read_json(PREPROCESSOR)
        model_type = preprocessor["model_type"]
        family = model_class(model_type) if model_type in families() else None
        if family is not None and family.not_published:
            raise ConfigError(f"{folder} is a {model_type} model, which cannot be published: {family.not_published}")
        if family is None or family.is_baseline or not files.has("model/config.json"):
            raise ConfigError(
                f"{folder} is a {model_type} model without weights in the format of a library, so there is nothing to "
                "publish; give a run of a pretrained family such as ttm, chronos_bolt or chronos2"
            )
        manifest, verdict, environment = (files.read_optional(name) for name in (MANIFEST, VERDICT, ENVIRONMENT))
        metrics = files.metrics if files.has(METRICS) else {}
        return cls(files, files.config, preprocessor, manifest, metrics, verdict, environment)

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


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Base:
    """The weights that were tuned."""

    name: str | None  # Hub id, ``builtin``, the last part of a local folder's path, or None for random weights
    hub_id: str | None  # `name` where it is one


def base_of(run: FinishedRun, named: str | None) -> Base:
    """Where the weights come from, in words that mean something on another machine; `named` must be a Hub id."""
    if named is not None:
        if not _HUB_ID.fullmatch(named):
            raise ConfigError(f"--base-model {named} is no Hub id; give owner/name")
        return Base(named, named)
    pretrained = run.config.model.pretrained
    if pretrained is None or pretrained in SHIPPED:
        return Base(pretrained, None)
    if _HUB_ID.fullmatch(pretrained) and not Path(pretrained).exists():
        return Base(pretrained, pretrained)
    return Base(Path(pretrained).resolve().name, None)


def collect(run: FinishedRun, base: Base, adapter: bool) -> tuple[dict[str, str | Path], list[str]]:
    """What is published of a run, or the adapter alone; every text is written anew without places of this machine.

    Returns:
        path inside the folder -> its text, or the file to copy · names in the run folder that are not published.
    """
    contents: dict[str, str | Path] = {}
    if adapter:
        _require_adapter(run, base)
        contents |= _adapter_files(run.folder, "adapter", base)
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
                config = run.folder.read_json(f"model/{path.name}")
                contents[path.name] = _json({key: config[key] for key in config if key != "_name_or_path"})
    contents["preprocessor.json"] = _json(run.preprocessor)
    contents["config.yaml"] = OmegaConf.to_yaml(OmegaConf.create(scrubbed(run.config, base).model_dump(mode="json")))
    if run.metrics:
        contents["metrics.json"] = _json(run.metrics)
    for name in ("uncertainty.json", "uncertainty.safetensors"):
        if run.folder.has(name):
            contents[name] = run.folder / name if name.endswith(_WEIGHTS) else _json(run.folder.read_json(name))
    contents |= _item_adapters(run.folder, base)
    kept = {path.partition("/")[0] for path in contents} | {"model", "adapters", "adapter" if adapter else "model"}
    left_out = sorted(path.name for path in run.folder.path.iterdir() if path.name not in kept)
    return contents, left_out


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
    if not run.folder.has("adapter/adapter_config.json"):
        raise ConfigError(
            f"--adapter: {run.folder.path} has no adapter (tuning.mode={run.config.tuning.mode}); publish it with "
            "--merged"
        )
    if base.hub_id is None and base.name not in SHIPPED:
        raise ConfigError(
            f"--adapter: the base {base.name} is a folder of this machine, which nobody else has; name its Hub id with "
            "--base-model owner/name, or publish with --merged"
        )
    if run.preprocessor["roles"].get("static_categorical"):
        raise ConfigError(
            "--adapter: with data.static_categorical_columns the value of names that training never saw is set after "
            "the adapter is merged, so the adapter alone is not the model; publish with --merged"
        )


def _adapter_files(run: RunFolder, place: str, base: Base, prefix: str = "") -> dict[str, str | Path]:
    settings = run.read_json(f"{place}/adapter_config.json") | {"base_model_name_or_path": base.name}
    weights = "adapter_model.safetensors"
    return {f"{prefix}adapter_config.json": _json(settings), f"{prefix}{weights}": run / place / weights}


def _item_adapters(run: RunFolder, base: Base) -> dict[str, str | Path]:
    index = "adapters/index.json"
    if not run.has(index):
        return {}
    rows = run.read_rows(index)
    found: dict[str, str | Path] = {index: _json(rows)}
    for row in rows:
        if row["folder"] is not None:
            place = f"adapters/{row['folder']}"
            found |= _adapter_files(run, place, base, f"{place}/")
    return found


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


_PATTERNS = {
    "a path of this machine": re.compile(
        r"(?<![\w/:.<~-])(?:~|\.\.)?/[\w.@-]+/[\w.@/-]+|\.\./[\w.-]+|\b[A-Za-z]:\\\w+"
    ),
    "a token": re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9]{20,}|\bnixak-\w{10,}"),
}
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_NOBODY = {"root", "user", "ubuntu", "admin", "runner", "data", "main", "test", "local", "localhost", "host", "model"}


def require_clean(contents: Mapping[str, str | Path]) -> None:
    """Stop if a file to publish names this machine or holds a secret; the error says where it lies."""
    words = dict(_own_words())
    for name, content in contents.items():
        text = content if isinstance(content, str) else _header(content)
        for what, pattern in _PATTERNS.items():
            found = pattern.search(text)
            if found:
                shown = "" if "token" in what else f" ({found.group()})"
                raise OutputError(f"nothing was published: {name} would hold {what}{shown}; take it out of the run")
        for word, what in words.items():
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text):
                raise OutputError(f"nothing was published: {name} would hold {what}; take it out of the run")


def _own_words() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name.upper()) and len(value) >= 12 and not Path(value).exists():
            yield value, f"the value of {name}"
    for word, what in ((socket.gethostname(), "the name of this machine"), (_user(), "your user name")):
        if len(word) >= 4 and word.lower() not in _NOBODY:
            yield word, what


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return ""


def _header(path: Path) -> str:
    """What a safetensors file says beside its numbers; nothing for other files."""
    if path.suffix != ".safetensors":
        return path.read_text(encoding="utf-8")
    header = check_header(path, FolderError)
    with damage(path, FolderError):
        return json.dumps(from_json(header).get("__metadata__", {}))
