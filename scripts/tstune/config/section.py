"""Sections of a configuration: their base, dotted and flat names of keys, and times without a zone."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from tstune.models.registry import families, model_class


def _as_text(value: object) -> object:
    """YAML readers and Python callers may hand over objects."""
    text = value.isoformat() if isinstance(value, date) else value
    if isinstance(text, str):
        try:
            zoned = datetime.fromisoformat(text).tzinfo is not None
        except ValueError:
            raise ValueError("input should be a date such as 2023-08-17, or a time such as 2023-08-17T23:55") from None
        if zoned:
            raise ValueError("input should have no time zone: series are in the clock of their source")
    return text


AUTO = "auto"
"""Value of a key that follows the data: what it becomes is printed and stands in the saved `config.yaml`."""
Moment = Annotated[str, BeforeValidator(_as_text)]
"""A day (`2023-08-17`, all of it) or a time (`2023-08-17T23:55`) without time zone."""


def end_of(moment: str) -> datetime:
    """First instant that no longer belongs to a day or time."""
    try:
        return datetime.combine(date.fromisoformat(moment), datetime.min.time()) + timedelta(days=1)
    except ValueError:  # a time, not a day
        return datetime.fromisoformat(moment) + timedelta(microseconds=1)


def dotted(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every leaf, for example ``("training.learning_rate", 0.001)``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


_USER = re.compile(r"(?<=://)[^/@\s'\"]+@")
_SECRET = re.compile(
    r"(?i)(?<=[?&;#])([\w.%-]*(?:passw|pwd|token|secret|key|credential|signature|sig|auth)[\w.%-]*=)[^&;#\s'\"]+"
)


def without_credentials(text: str) -> str:
    """The same without what lets somebody in: ``user:password@`` and the value of ``?token=`` in any address."""
    return _SECRET.sub(r"\1…", _USER.sub("", text))


DEFAULT_FAMILY = "ttm"
OWN = "package.module:Class"
"""Stands for every `model.type` with a colon."""


class Section(BaseModel):
    """A group of keys: immutable, and a typo is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _no_credentials(self) -> Self:
        for key in type(self).model_fields:
            text = str(getattr(self, key))
            if text != without_credentials(text):
                raise ValueError(
                    f"{key} holds a user name, password or token, and would be written down; put it into the "
                    "environment, for MLflow into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                )
        return self


class ModelSection(Section):
    """What every family has: weights, lengths, packing."""

    type: str
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint, or Hub id."""
    revision: str | None = None
    """Branch of the Hub repository; null lets the family's library choose (granite-tsfm picks TTM's from the two
    lengths and the frequency)."""
    context_length: Annotated[int, Field(ge=4)] | Literal["auto"] = AUTO
    """Past steps the model sees; `auto`: the longest that the weights know and that leaves enough windows."""
    prediction_length: Annotated[int, Field(ge=1)] | Literal["auto"] = AUTO
    """Future steps the model forecasts; `auto`: 96 below an hour, else the horizons of the M4 competition (hourly 48,
    daily 14, weekly 13, monthly 18, quarterly 8, yearly 6), no longer than weights and parts of the split allow."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Keep the frozen base in 8 or 4 bits (bitsandbytes); needs tuning.mode lora or dora, or zero_shot."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        field = cls.model_fields["type"]
        field.description = field.description or ModelSection.model_fields["type"].description


class OwnModelSection(ModelSection):
    """A model of your own, see `recipes/README.md`."""

    type: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Your class as `package.module:Class`."""
    pretrained: str | None = None
    """What your class makes of it: a folder of weights, or a name."""
    options: dict[str, Any] = {}
    """Whatever else your class needs, as `self.config.model.options`; of a class that extends a family, its keys."""
    _family: ModelSection | None = PrivateAttr(None)

    def extending(self, family: ModelSection) -> OwnModelSection:
        """The same, which answers for the keys of a family too."""
        found = self.model_copy()
        found._family = family
        return found

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and self._family is not None and name in type(self._family).model_fields:
            return getattr(self._family, name)
        return super().__getattr__(name)


def section_class(family: str) -> type[ModelSection]:
    """The section of a family; only its file is imported."""
    return OwnModelSection if ":" in family else model_class(family).section


def section_classes() -> dict[str, type[ModelSection]]:
    """`model.type` -> its section, of all families."""
    return {family: section_class(family) for family in (*families(), OWN)}


def known_family(values: object) -> str | None:
    """The family that a `model` section names, `OWN` for a class of your own; None for a name that is no family."""
    get = values.get if isinstance(values, Mapping) else lambda *default: getattr(values, *default)
    name = get("type", DEFAULT_FAMILY)
    if isinstance(name, str) and ":" in name:
        return OWN
    return name if name in families() else None


def _of_its_family(values: object, _: object) -> ModelSection:
    family = known_family(values)
    if family is None:
        known = ", ".join((*families(), OWN))
        raise PydanticCustomError("unknown_family", f"unknown model family; choose one of {known}")
    return section_class(family).model_validate(values)


AnyModelSection = Annotated[SerializeAsAny[ModelSection], WrapValidator(_of_its_family)]


def subsection(field: FieldInfo, family: str = DEFAULT_FAMILY) -> type[BaseModel] | None:
    """The section a key holds, of this model family; None for a plain value."""
    annotation = field.annotation
    if annotation is ModelSection:
        return section_class(family)
    is_section = (
        isinstance(annotation, type) and not typing.get_origin(annotation) and issubclass(annotation, BaseModel)
    )
    return annotation if is_section else None


def paths_of(section: type[BaseModel], family: str = DEFAULT_FAMILY, prefix: str = "") -> Iterator[str]:
    """Yield every key below a section as a dotted path, where the `model` section is that of a family."""
    for name, field in section.model_fields.items():
        below = subsection(field, family)
        if below is None:
            yield f"{prefix}{name}"
        else:
            yield from paths_of(below, family, f"{prefix}{name}.")


# Keys whose last part alone would be ambiguous or unclear.
_RENAMED = {
    "model.type": "model_type",
    "tuning.mode": "tuning_mode",
    "forecast.method": "forecast_method",
    "forecast.half_life": "forecast_half_life",
    "data.source": "data_source",
    "data.path": "data_path",
    "data.cache": "data_cache",
    "evaluation.batch_size": "eval_batch_size",
    "distributed.enabled": "distributed",
    "distributed.strategy": "distributed_strategy",
    "tracking.trackers": "trackers",
}
# Sections whose keys have a name before them.
_PREFIXES = {"data.split": "split_", "lora": "lora_", "tracking": "tracking_", "pretraining": "pretraining_"}

ALIASES: dict[str, str] = {
    "model_path": "pretrained",
    "forecast_length": "prediction_length",
    "batch_size": "per_device_batch_size",
    "gradient_clip_val": "max_grad_norm",
    "data_source_name": "data_source",
    "experiment_name": "tracking_experiment",
}
"""Other names people know -> flat keyword."""

SWITCHES: dict[str, tuple[str, str]] = {
    "fp16": ("mixed_precision", "fp16"),
    "bf16": ("mixed_precision", "bf16"),
    "freeze_backbone": ("tuning_mode", "decoder"),
}
"""Boolean keyword -> (flat keyword, value it stands for). False asks for nothing, but forbids that value."""


def flat_name(path: str) -> str:
    """The keyword of a dotted path."""
    section, _, key = path.rpartition(".")
    return _RENAMED.get(path, _PREFIXES.get(section, "") + key)


def flat_value(config: BaseModel, name: str) -> object:
    """What a configuration says under a flat name.

    Raises:
        AttributeError: it has no such name.
    """
    if name in SWITCHES:
        target, value = SWITCHES[name]
        return flat_value(config, target) == value
    path = _paths(type(config), config.model.type).get(ALIASES.get(name, name))
    if path is None:
        raise AttributeError(f"{type(config).__name__} has no key {name!r}")
    return attrgetter(path)(config)


@cache
def _paths(root: type[BaseModel], family: str) -> dict[str, str]:
    return {flat_name(path): path for path in paths_of(root, family)}
