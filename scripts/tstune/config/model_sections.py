"""The `model` section of every family; `model.type` says which one it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from tstune.config.section import Section


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


class TTMSection(ModelSection):
    """Tiny Time Mixer: which weights, which lengths, which architecture.

    The architecture keys (`patch_length` to `fcm_mix_layers`) build a model from scratch. With
    pretrained weights they are read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["ttm"] = "ttm"
    """Model family."""
    pretrained: str | None = None
    """`builtin` (shipped, trained on generated series), folder of a checkpoint, Hub id
    (`ibm-granite/granite-timeseries-ttm-r2`), or null for random weights."""
    patch_length: int | None = Field(None, ge=1)
    """Steps per patch; 64 when built from scratch."""
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
    fcm_context_length: int | None = Field(None, ge=0)
    """Forecast channel mixing (known-future columns): steps around each step; 1 by default."""
    fcm_mix_layers: int | None = Field(None, ge=1)
    """Forecast channel mixing: number of mixer layers; 2 by default."""


class ChronosBoltSection(ModelSection):
    """Chronos-Bolt: a T5 encoder and decoder over patches that forecasts quantiles; every series on its own."""

    type: Literal["chronos_bolt"] = "chronos_bolt"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-bolt-small`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the checkpoint's."""


class Chronos2Section(ModelSection):
    """Chronos-2: an encoder over patches that forecasts quantiles and reads covariates, past and known."""

    type: Literal["chronos2"] = "chronos2"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-2`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the checkpoint's."""


class ChronosT5Section(ModelSection):
    """Chronos T5: a language model over binned readings, whose sampled paths are the forecast; each series alone."""

    type: Literal["chronos_t5"] = "chronos_t5"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`amazon/chronos-t5-small`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the checkpoint's."""
    num_samples: int | None = Field(None, ge=1)
    """Paths of a forecast; null keeps the checkpoint's (20). Levels near 0 or 1 need more."""


class TimesFMSection(ModelSection):
    """TimesFM 2.5: a stack of decoder layers over patches that forecasts quantiles; every series on its own."""

    type: Literal["timesfm"] = "timesfm"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`google/timesfm-2.5-200m-transformers`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of the attention while tuning; null keeps the checkpoint's."""


class FlowStateSection(ModelSection):
    """FlowState: a state space encoder that forecasts quantiles at any sampling rate; every series on its own."""

    type: Literal["flowstate"] = "flowstate"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`ibm-granite/granite-timeseries-flowstate-r1`)."""
    scale_factor: float | None = Field(None, gt=0)
    """24 / (steps of a season). Null takes an hour as season for steps below a minute, a day for steps below a day and
    a year for longer ones, as granite-tsfm does; daily data with weekly cycles want 24 / 7 = 3.43."""


class PatchTSTFMSection(ModelSection):
    """PatchTST-FM: an encoder over patches that forecasts 99 quantiles; every series on its own."""

    type: Literal["patchtst_fm"] = "patchtst_fm"
    """Model family."""
    pretrained: str | None = None
    """Folder of a checkpoint or Hub id (`ibm-granite/granite-timeseries-patchtst-fm-r1`)."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while tuning; null keeps the library's 0.1."""


class PatchTSTSection(ModelSection):
    """PatchTST: a transformer over patches that forecasts each channel alone.

    The architecture keys (`patch_length` to `norm_type`) build a model from scratch. With pretrained weights they are
    read from the checkpoint, and a value given here must agree with it.
    """

    type: Literal["patchtst"] = "patchtst"
    """Model family."""
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
    """Model family."""
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
    """Model family."""
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
    """Model family."""
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
        twice = [name for number, name in enumerate(self.members) if name in self.members[:number]]
        if twice:
            raise ValueError(f"members names {twice[0]} twice")
        return self


class OwnModelSection(ModelSection):
    """A model of your own, see `recipes/README.md`."""

    type: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Your class as `package.module:Class`."""
    pretrained: str | None = None
    """What your class makes of it: a folder of weights, or a name."""
    options: dict[str, Any] = {}
    """Whatever else your class needs, as `self.config.model.options`."""


OWN = "package.module:Class"
"""Stands for every `model.type` with a colon."""

FAMILIES: dict[str, type[ModelSection]] = {
    "ttm": TTMSection,
    "chronos_bolt": ChronosBoltSection,
    "chronos2": Chronos2Section,
    "chronos_t5": ChronosT5Section,
    "timesfm": TimesFMSection,
    "flowstate": FlowStateSection,
    "patchtst_fm": PatchTSTFMSection,
    "patchtst": PatchTSTSection,
    "patchtsmixer": PatchTSMixerSection,
    "timegpt": TimeGPTSection,
    "ensemble": EnsembleSection,
    OWN: OwnModelSection,
}
"""`model.type` -> its section."""

DEFAULT_FAMILY = "ttm"


def _family(values: object) -> str:
    if isinstance(values, Mapping):
        name = values.get("type", DEFAULT_FAMILY)
    else:
        name = getattr(values, "type", DEFAULT_FAMILY)
    return OWN if isinstance(name, str) and ":" in name else name


AnyModelSection = Annotated[
    Annotated[TTMSection, Tag("ttm")]
    | Annotated[ChronosBoltSection, Tag("chronos_bolt")]
    | Annotated[Chronos2Section, Tag("chronos2")]
    | Annotated[ChronosT5Section, Tag("chronos_t5")]
    | Annotated[TimesFMSection, Tag("timesfm")]
    | Annotated[FlowStateSection, Tag("flowstate")]
    | Annotated[PatchTSTFMSection, Tag("patchtst_fm")]
    | Annotated[PatchTSTSection, Tag("patchtst")]
    | Annotated[PatchTSMixerSection, Tag("patchtsmixer")]
    | Annotated[TimeGPTSection, Tag("timegpt")]
    | Annotated[EnsembleSection, Tag("ensemble")]
    | Annotated[OwnModelSection, Tag(OWN)],
    Discriminator(
        _family,
        custom_error_type="unknown_family",
        custom_error_message=f"unknown model family; choose one of {', '.join(FAMILIES)}",
    ),
]
