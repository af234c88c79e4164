"""Sections of a configuration: their base, and the `model` section of every family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
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
from pydantic_core import PydanticCustomError


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
RESOLVED = "# Resolved by tstune: values are what they are, nothing is interpolated."
"""First line of a saved configuration, and of a recipe that needs it. A column may well be called ``price_${x}``."""
Moment = Annotated[str, BeforeValidator(_as_text)]
"""A day (`2023-08-17`, all of it) or a time (`2023-08-17T23:55`) without time zone."""


def end_of(moment: str) -> datetime:
    """First instant that no longer belongs to a day or time."""
    try:
        return datetime.combine(date.fromisoformat(moment), datetime.min.time()) + timedelta(days=1)
    except ValueError:  # a time, not a day
        return datetime.fromisoformat(moment) + timedelta(microseconds=1)


_USER = re.compile(
    r"(?<=//)[^/@\s'\"]+@"
    r"|(?<![\w.%+/-])(?!registry:|mailto:)[^\s/@:'\"]+:[^\s/\\@'\"]+@"  # without a scheme
    r"(?=\[|localhost\b|[\w-]+(?:\.\w|:\d|/))"
)
_SECRET = re.compile(
    r"(?i)(?<=[?&;#])([\w.%\[\]-]*"
    r"(?:passw|pwd|token|secret|key|credential|signature|sig|auth|jwt|session|%[4-7][0-9a-f])"  # none encodes letters
    r"[\w.%\[\]-]*=)[^&;#\s'\"]+"
)


def without_credentials(text: str) -> str:
    """The same without what lets somebody in: ``user:password@`` and the value of ``?token=`` in any address."""
    text = _USER.sub("", text) if "@" in text else text
    return _SECRET.sub(r"\1…", text) if "=" in text else text


DEFAULT_FAMILY = "ttm"
BASELINES = ("persistence", "seasonal_naive", "context_mean", "ridge", "lightgbm", "auto_ets", "auto_theta")
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
    context_length: Annotated[int, Field(ge=4, le=1_000_000)] | Literal["auto"] = AUTO
    """Past steps the model sees; `auto`: the longest that the weights know and that leaves enough windows."""
    prediction_length: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = AUTO
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


class BaselineSection(ModelSection):
    """A simple forecast as a model: fitted in closed form or not at all, then saved, judged and averaged as any."""

    @model_validator(mode="after")
    def _begins_without_weights(self) -> BaselineSection:
        if self.pretrained is not None:
            raise ValueError(
                f"pretrained is not for {self.type}, which begins without weights; set model.pretrained=null"
            )
        return self


class _RidgeKeys(ModelSection):
    ridge_alpha: float = Field(1.0, gt=0)
    """Penalty of ridge regression on the squares of its weights, beside squared errors of scaled values that are summed
    over the training windows."""
    ridge_per_channel: bool = False
    """Ridge regression has a map of its own for each target; false shares one."""


class RidgeSection(_RidgeKeys, BaselineSection):
    """Linear regression from the whole context to the whole forecast."""


class TTMSection(ModelSection):
    """Tiny Time Mixer: which weights, which lengths, which architecture.

    The architecture keys (`patch_length` to `fcm_mix_layers`) build a model from scratch. With
    pretrained weights they are read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["ttm"] = "ttm"
    pretrained: str | None = None
    """`builtin` (shipped, trained on generated series), `builtin:glucose` (shipped, tuned on glucose every 5 minutes),
    folder of a checkpoint, Hub id (`ibm-granite/granite-timeseries-ttm-r2`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 64 when built from scratch, less for a context that is no multiple of 64."""
    d_model: int | None = Field(None, ge=1)
    """Backbone width; 192 when built from scratch."""
    num_layers: int | None = Field(None, ge=1)
    """Mixer layers per backbone level; 2 when built from scratch."""
    expansion_factor: int | None = Field(None, ge=1)
    """Width of a mixer's hidden layer over its input; 2 when built from scratch."""
    adaptive_patching_levels: int | None = Field(None, ge=0)
    """Backbone levels with their own patch count; 3 when built from scratch."""
    gated_attn: bool | None = None
    """Gate after each mixer; true when built from scratch."""
    self_attn: bool | None = None
    """Self-attention across patches; false when built from scratch."""
    use_positional_encoding: bool | None = None
    """Add positions to the patches; false when built from scratch."""
    decoder_num_layers: int | None = Field(None, ge=1)
    """Mixer layers of the decoder; 2 when built from scratch."""
    decoder_d_model: int | None = Field(None, ge=1)
    """Decoder width; 128 when built from scratch."""
    decoder_mode: Literal["auto", "common_channel", "mix_channel"] = "auto"
    """`common_channel` forecasts each channel alone, `mix_channel` lets them exchange information;
    `auto` mixes only if there are conditional or control columns."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the mixers; null keeps the checkpoint's (0.2 from scratch)."""
    head_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before the forecast head; null keeps the checkpoint's (0.2 from scratch). ETT recipes use 0.7."""
    skip_steps: int | None = Field(None, ge=0)
    """Last readings that reach each step of the forecast past the network's normalisation, with when they were taken
    and the time of day; 0 leaves that out, null does as the checkpoint does. 48 suits glucose every 5 minutes."""
    linear_skip: Literal["none", "shared", "per_channel"] | None = None
    """A linear map of the whole context and of the network's forecast that is added to it: one for all targets or one
    for each. A new one is solved in closed form on the training windows before the first step of training and then
    stays; null does as the checkpoint does."""
    linear_skip_alpha: float = Field(10.0, gt=0)
    """Penalty on the squares of its weights, as model.ridge_alpha: the larger, the closer to the network."""
    linear_skip_share: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    """Share of the solution that is added: 1 trusts the map alone, 0.5 goes half-way from the network to it; `auto`:
    of none, 25, 50, 75 % and all what has the lowest validation loss, so that a map that hurts is left out."""
    fcm_context_length: int | None = Field(None, ge=0)
    """Forecast channel mixing (known-future columns): steps around each step; 1 by default."""
    fcm_mix_layers: int | None = Field(None, ge=1)
    """Forecast channel mixing: number of mixer layers; 2 by default."""


class ChronosSection(ModelSection):
    """What all Chronos families have."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the checkpoint's."""


class ChronosBoltSection(ChronosSection):
    """Chronos-Bolt: a T5 encoder and decoder over patches that forecasts quantiles; every series on its own."""

    type: Literal["chronos_bolt"] = "chronos_bolt"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-bolt-small`)."""


class Chronos2Section(ChronosSection):
    """Chronos-2: an encoder over patches that forecasts quantiles and reads covariates, past and known."""

    type: Literal["chronos2"] = "chronos2"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-2`)."""


class ChronosT5Section(ChronosSection):
    """Chronos T5: a language model over binned readings, whose sampled paths are the forecast; each series alone."""

    type: Literal["chronos_t5"] = "chronos_t5"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-t5-small`)."""
    num_samples: int | None = Field(None, ge=1)
    """Paths of a forecast; null keeps the checkpoint's (20). Levels near 0 or 1 need more."""


class TimesFMSection(ModelSection):
    """TimesFM 2.5: a stack of decoder layers over patches that forecasts quantiles; every series on its own."""

    type: Literal["timesfm"] = "timesfm"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`google/timesfm-2.5-200m-transformers`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of the attention while tuning; null keeps the checkpoint's."""


class FlowStateSection(ModelSection):
    """FlowState: a state space encoder that forecasts quantiles at any sampling rate; every series on its own."""

    type: Literal["flowstate"] = "flowstate"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`ibm-granite/granite-timeseries-flowstate-r1`)."""
    scale_factor: float | None = Field(None, gt=0)
    """24 / (steps of a season). Null takes an hour as season for steps below a minute, a day for steps below a day and
    a year for longer ones, as granite-tsfm does; daily data with weekly cycles want 24 / 7 = 3.43."""


class PatchTSTFMSection(ModelSection):
    """PatchTST-FM: an encoder over patches that forecasts 99 quantiles; every series on its own."""

    type: Literal["patchtst_fm"] = "patchtst_fm"
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`ibm-granite/granite-timeseries-patchtst-fm-r1`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the library's 0.1."""


PACKAGED = "fracast"
"""Value of `model.pretrained` for the weights in the package of the same name."""


class FracastSection(ModelSection):
    """Fracast: one convolution shared by a ladder of scales that forecasts nine quantiles; every series on its own."""

    type: Literal["fracast"] = "fracast"
    pretrained: str | None = PACKAGED
    """`fracast`: the weights in its package (48 steps at once, 2048 of context); or a folder or Hub id."""


class PatchTSTSection(ModelSection):
    """PatchTST: a transformer over patches that forecasts each channel alone.

    The architecture keys (`patch_length` to `norm_type`) build a model from scratch. With pretrained weights they are
    read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["patchtst"] = "patchtst"
    pretrained: str | None = None
    """Folder of a checkpoint, Hub id (`ibm-granite/granite-timeseries-patchtst`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 12 when built from scratch."""
    patch_stride: int | None = Field(None, ge=1)
    """Steps from one patch to the next; the patch length when built from scratch."""
    d_model: int | None = Field(None, ge=2)
    """Width; 128 when built from scratch."""
    num_layers: int | None = Field(None, ge=1)
    """Encoder layers; 3 when built from scratch."""
    num_heads: int | None = Field(None, ge=1)
    """Attention heads; 16 when built from scratch."""
    ffn_dim: int | None = Field(None, ge=1)
    """Width of a layer's hidden part; 512 when built from scratch."""
    norm_type: Literal["batchnorm", "layernorm"] | None = None
    """Normalisation in the layers; batchnorm, the published one, when built from scratch. Its statistics are those of
    each process's own windows: with several processes, layernorm alone gives the numbers of one."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the layers; null keeps the checkpoint's (0.2 from scratch)."""
    head_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before the forecast head; null keeps the checkpoint's (0.2 from scratch)."""


class PatchTSMixerSection(ModelSection):
    """PatchTSMixer: an MLP-mixer over patches.

    The architecture keys (`patch_length` to `channel_mode`) build a model from scratch. With pretrained weights they
    are read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["patchtsmixer"] = "patchtsmixer"
    pretrained: str | None = None
    """Folder of a checkpoint, Hub id (`ibm-granite/granite-timeseries-patchtsmixer`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 8 when built from scratch."""
    patch_stride: int | None = Field(None, ge=1)
    """Steps from one patch to the next; the patch length when built from scratch."""
    d_model: int | None = Field(None, ge=1)
    """Width; 48 when built from scratch."""
    num_layers: int | None = Field(None, ge=1)
    """Mixer layers; 3 when built from scratch."""
    expansion_factor: int | None = Field(None, ge=1)
    """Width of a mixer's hidden layer over its input; 3 when built from scratch."""
    gated_attn: bool | None = None
    """Gate after each mixer; true when built from scratch."""
    self_attn: bool | None = None
    """Self-attention across patches; false when built from scratch."""
    channel_mode: Literal["auto", "common_channel", "mix_channel"] = "auto"
    """`common_channel` forecasts each channel alone, `mix_channel` lets them exchange information and fixes how many
    there are; `auto` is the checkpoint's, and from scratch mixes only if there are conditional columns."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout inside the mixers; null keeps the checkpoint's (0.5 from scratch)."""
    head_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before the forecast head; null keeps the checkpoint's (0.7 from scratch)."""


class TimeGPTSection(ModelSection):
    """TimeGPT: a model behind Nixtla's paid service; readings leave this machine.

    The key and the address are read from NIXTLA_API_KEY and NIXTLA_BASE_URL, and from nowhere else.
    """

    type: Literal["timegpt"] = "timegpt"
    pretrained: str = "timegpt-1"
    """Name of the service's model (`timegpt-1`, `timegpt-1-long-horizon`, `timegpt-2.1`)."""
    finetuned_model_id: str | None = Field(None, min_length=1)
    """Id of a fine-tuned model stored with the service: forecast with it, or tune it further."""
    finetune_steps: int = Field(10, ge=1)
    """Steps of fine-tuning, with tuning.mode=full."""
    finetune_depth: int = Field(1, ge=1, le=5)
    """How much of the model learns: 1 little, 5 all of it."""
    finetune_loss: Literal["default", "mae", "mse", "rmse", "mape", "smape", "poisson"] = "default"
    """Loss of fine-tuning."""
    dry_run: bool = False
    """Send nothing: scripts/finetune_timegpt.py shows what would be sent and its size."""
    max_windows: int = Field(1000, ge=1)
    """Series (one per window and target) that may be sent for forecasts; a run that could need more is refused."""
    windows_per_request: int = Field(64, ge=1)
    """Series in one request."""
    selection_windows: int = Field(100, ge=1)
    """Validation windows, at most, that decide whether the fine-tuned model is kept."""
    max_attempts: int = Field(5, ge=1)
    """How often a request is tried; busy servers, rate limits and lost connections are worth another try."""
    retry_wait: float = Field(2.0, ge=0)
    """Seconds before the second attempt; doubled before each further one, up to a minute."""
    request_timeout: int = Field(120, ge=1)
    """Seconds without an answer after which a request counts as lost."""


class EnsembleSection(ModelSection):
    """The average of saved models."""

    type: Literal["ensemble"] = "ensemble"
    members: list[str] = Field(min_length=2)
    """Run folders, or `registry:name@alias` and `registry:name:version`; each may have its own context length, no
    longer than `context_length`. They are copied when the ensemble is saved."""
    weights: Literal["mean", "validation"] = "mean"
    """`mean` gives every member the same weight, `validation` one in proportion to 1 / (its mean squared error on the
    validation windows)."""

    @model_validator(mode="after")
    def _members_are_the_weights(self) -> EnsembleSection:
        if self.pretrained is not None:
            raise ValueError("pretrained is not for ensembles; name saved models in members")
        if twice := [name for number, name in enumerate(self.members) if name in self.members[:number]]:
            raise ValueError(f"members names {twice[0]} twice")
        return self


_MEMBER_SECTIONS = ("model", "tuning", "training", "lora")


class StackSection(_RidgeKeys):
    """Models that are trained together, or saved ones, and a combination that validation windows choose."""

    type: Literal["stack"] = "stack"
    members: list[str | dict[str, dict[str, Any]]] = Field(min_length=1)
    """Run folders and registry entries, as of an ensemble, or models that the stack trains itself, on its own windows:
    `{model: {type: …}, tuning: {…}, training: {…}, lora: {…}}` as in a recipe; lengths, data and what is left out of
    `training` are those of the stack. A stack may be a member."""
    combiner: Literal["auto", "mean", "convex", "ridge", "lightgbm"] = "auto"
    """`mean`, or `convex`: positive weights per step that sum to 1, fitted on validation windows. `ridge`, `lightgbm`:
    fitted on training windows to the members' forecasts and the lags, for members that learned nothing from those
    windows (`tuning: {mode: zero_shot}`). `auto`: the one with the lowest error on the validation windows."""

    @model_validator(mode="after")
    def _members_are_recipes(self) -> StackSection:
        if self.pretrained is not None:
            raise ValueError("pretrained is not for stacks; give it to a member, under model")
        for number, member in enumerate(self.members):
            if isinstance(member, str):
                continue
            key = f"members[{number}]"
            unknown = [name for name in member if name not in _MEMBER_SECTIONS]
            if unknown or "model" not in member:
                what = f"{key}.{unknown[0]}: unknown key" if unknown else f"{key}: no section model"
                raise ValueError(f"{what}; a member has the sections {', '.join(_MEMBER_SECTIONS)}")
            if lengths := [name for name in member["model"] if name in ("context_length", "prediction_length")]:
                raise ValueError(f"{key}.model.{lengths[0]} is that of the stack: set model.{lengths[0]}")
        return self


_SECTIONS = (
    TTMSection,
    ChronosBoltSection,
    Chronos2Section,
    ChronosT5Section,
    TimesFMSection,
    FlowStateSection,
    PatchTSTFMSection,
    FracastSection,
    PatchTSTSection,
    PatchTSMixerSection,
    TimeGPTSection,
    EnsembleSection,
    StackSection,
)
FAMILIES: dict[str, type[ModelSection]] = {
    **{section.model_fields["type"].default: section for section in _SECTIONS},
    **{name: BaselineSection for name in BASELINES if name != "ridge"},
    "ridge": RidgeSection,
}
"""`model.type` -> its section; here, and not with the classes of the models, so that a recipe is read without torch."""


def member_name(member: str | Mapping[str, Mapping]) -> str:
    """What to call a member of an ensemble or stack: its place, or family, weights and tuning mode."""
    if isinstance(member, str):
        return member
    model, mode = member["model"], member.get("tuning", {}).get("mode")
    return " ".join(filter(None, (model.get("type", DEFAULT_FAMILY), model.get("pretrained"), mode)))


def section_class(family: str) -> type[ModelSection]:
    """The section of a family."""
    return OwnModelSection if ":" in family else FAMILIES[family]


def section_classes() -> dict[str, type[ModelSection]]:
    """`model.type` -> its section, of all families."""
    return FAMILIES | {OWN: OwnModelSection}


def known_family(values: object) -> str | None:
    """The family that a `model` section names, `OWN` for a class of your own; None for a name that is no family."""
    get = values.get if isinstance(values, Mapping) else lambda *default: getattr(values, *default)
    name = get("type", DEFAULT_FAMILY)
    if isinstance(name, str) and ":" in name:
        return OWN
    return name if isinstance(name, str) and name in FAMILIES else None


def _of_its_family(values: object, _: object) -> ModelSection:
    family = known_family(values)
    if family is None:
        known = ", ".join((*FAMILIES, OWN))
        raise PydanticCustomError("unknown_family", f"unknown model family; choose one of {known}")
    return section_class(family).model_validate(values)


AnyModelSection = Annotated[SerializeAsAny[ModelSection], WrapValidator(_of_its_family)]
