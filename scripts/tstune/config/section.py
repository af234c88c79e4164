"""What all groups of keys have in common, and the `model` section, which `model.type` finds in its family's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, WrapValidator
from pydantic_core import PydanticCustomError

from tstune.models.registry import families, model_class

DEFAULT_FAMILY = "ttm"
OWN = "package.module:Class"
"""Stands for every `model.type` with a colon."""


class Section(BaseModel):
    """A group of keys: immutable, and a typo is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


class ModelSection(Section):
    """What every family has: weights, lengths, packing."""

    type: str
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint, or Hub id."""
    revision: str | None = None
    """Branch of the Hub repository; null lets the family's library choose (granite-tsfm picks TTM's from the two
    lengths and the frequency)."""
    context_length: int = Field(512, ge=4)
    """Past steps the model sees."""
    prediction_length: int = Field(96, ge=1)
    """Future steps the model forecasts."""
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
    """Whatever else your class needs, as `self.config.model.options`."""


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
