"""Tiny Time Mixers (TTM, granite-tsfm): the family this project began with, and the weights that it ships."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import yaml
from torch import nn

from tstune.config.schema import ForecastSection
from tstune.config.section import TTMSection
from tstune.config.validation import validate
from tstune.data.defaults import BUILTIN, CONTEXTS, is_shipped, shipped_weights
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.scaler import UNKNOWN
from tstune.data.table import Roles
from tstune.data.windows import Batch, WindowDataset
from tstune.errors import CheckpointError, ConfigError, first_line
from tstune.foreign_files import damage
from tstune.models.adapters import freeze_by_mode, part_of
from tstune.models.baselines import MAX_RIDGE_ROWS
from tstune.models.contract import weights_folder
from tstune.models.modules import ScaledModule, use_fast_dropout
from tstune.models.network_forecaster import NetworkForecaster
from tstune.models.network_weights import (
    GRANITE,
    Architecture,
    checkpoint_of,
    in_proportion,
    lengths_of,
    read_config,
    require_same,
    scratch_values,
)
from tstune.models.ttm_layers import CHANGES, LinearSkip, SkipHead, use_fast_mixers
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    from tsfm_public import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    from tstune.runtime.distributed import DistributedManager
    from tstune.training.callbacks import Callback
    from tstune.training.checkpoint import Checkpoints
    from tstune.training.loop import TrainingResult

QUANTILE_HEAD = "multi_quantile_head_block"
"""Name of the part in granite-tsfm's network; it lies behind `head`, whose forecast it takes as the centre."""

BESIDE = "quantiles_beside_the_forecast"
"""Key of config.json: the quantile head was trained on a network that was whole without it."""
SKIP_HEAD = "skip_head"
"""Name of our own part, see `SkipHead`; `TinyTimeMixerForPrediction` of granite-tsfm leaves it out."""
SKIP_CHANGES = "skip_changes"
"""Key of config.json: how many changes from step to step the skip head reads; weights without the key read none."""
LINEAR_SKIP = "linear_skip"
"""Name of another part of our own, see `LinearSkip`, and key of config.json: `shared` or `per_channel`."""

# Architecture of TTM-r2 512-96, for models built from scratch.
SCRATCH_DEFAULTS = {
    "patch_length": 64,
    "d_model": 192,
    "num_layers": 2,
    "expansion_factor": 2,
    "adaptive_patching_levels": 3,
    "gated_attn": True,
    "self_attn": False,
    "use_positional_encoding": False,
    "decoder_num_layers": 2,
    "decoder_d_model": 128,
    "dropout": 0.2,
    "head_dropout": 0.2,
}
# Layers that exist only with some channel roles; a checkpoint without them is still the same backbone.
_MAY_BE_FRESH = ("decoder.", "head.", QUANTILE_HEAD, SKIP_HEAD, LINEAR_SKIP, "backbone.encoder.freq_mod.")


class TTMModule(ScaledModule):
    """A TTM between original units and scaled forecasts, in two halves: encode and decode.

    With a frozen backbone `encode` gives the same output for a window in every epoch, so it can run once and `forward`
    can start from its stored result.
    """

    def __init__(self, network: TinyTimeMixerForPrediction, preprocessor: Preprocessor, prediction_length: int) -> None:
        config = network.config
        levels = tuple(sorted(config.quantile_levels)) if config.multi_quantile_head else ()
        super().__init__(network, preprocessor, prediction_length, prediction_length, levels)
        self.control_indices = preprocessor.roles.control_indices
        self.frequency_token = _frequency_token(config, preprocessor.frequency)
        self.encode_decoder = False  # True: the decoder belongs to the first half

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Forecast [batch, steps, targets, levels or 1] in scaled units, and the scaler's mean and std [targets]."""
        static = batch.get("static")
        if "features" in batch:
            values = self._decode(batch, None, None, None, static)
        else:
            past, observed = self.scaled_context(batch)
            encoded, patches = self._encode(batch, past, observed)
            values = self._decode(encoded, past, patches, self._known_future(batch), static)
        return values, *self.target_scale(batch)

    def encode(self, batch: Batch) -> Batch:
        """First half: features [batch, channels, patches, width] with loc and scale [batch, 1, targets]."""
        encoded, _ = self._encode(batch, *self.scaled_context(batch))
        return self.with_scale(encoded, batch)

    def _encode(self, batch: Batch, past: torch.Tensor, observed: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        token = None
        if self.frequency_token is not None:
            token = torch.full((len(past),), self.frequency_token, device=past.device)
        output = self.network.backbone(past, past_observed_mask=observed, freq_token=token, return_dict=True)
        features = output.last_hidden_state.contiguous()  # fast mixers have the patches outermost
        if self.encode_decoder:
            features = self._through_decoder(features, output.patch_input, batch.get("static"))
        loc, scale = (values[..., : self.num_targets] for values in (output.loc, output.scale))
        encoded = {"features": features, "loc": loc, "scale": scale}
        if self.skip_head is not None:
            encoded |= self.skip_head.read(batch, past[..., : self.num_targets], loc, scale)
        return encoded, output.patch_input

    def _through_decoder(
        self, hidden: torch.Tensor, patches: torch.Tensor | None, static: torch.Tensor | None
    ) -> torch.Tensor:
        decoder = self.network.decoder
        return decoder(hidden_state=hidden, patch_input=patches, static_categorical_values=static)[0].contiguous()

    def _decode(
        self,
        encoded: Batch,
        past: torch.Tensor | None,
        patches: torch.Tensor | None,
        known: torch.Tensor | None,
        static: torch.Tensor | None,
    ) -> torch.Tensor:
        hidden = encoded["features"]
        if not self.encode_decoder:
            hidden = self._through_decoder(hidden, patches, static)
        loc, scale = encoded["loc"], encoded["scale"]
        point = self.network.head(hidden, past_values=past, future_values=known)
        values = point[..., None]
        if self.levels:
            hidden = hidden[:, : self.num_targets]  # covariates have a hidden state, but no quantiles
            values = self.network.multi_quantile_head_block(point, decoder_hidden_state=hidden).permute(0, 2, 3, 1)
        values = values * scale[..., None] + loc[..., None]
        if self.skip_head is not None or self.linear_skip is not None:
            point = point * scale + loc
        if self.skip_head is not None:
            change, stretch = self.skip_head(encoded, point, scale)
            if stretch is not None:
                values = point[..., None] + (values - point[..., None]) * stretch[..., None]
            values, point = values + change[..., None], point + change
        if self.linear_skip is not None:
            context = self.scaled_context(encoded)[0] if past is None else past
            values = values + self.linear_skip(context[..., : self.num_targets], point)[..., None]
        return values[:, : self.num_steps]

    @property
    def skip_head(self) -> SkipHead | None:
        """Our own part of the network, or peft's copies of it; None for a network without."""
        return getattr(self.plain, SKIP_HEAD, None)

    @property
    def linear_skip(self) -> LinearSkip | None:
        """As `skip_head`."""
        return getattr(self.plain, LINEAR_SKIP, None)

    @property
    def reads_clock(self) -> bool:
        """True with a skip head."""
        return self.skip_head is not None

    def _known_future(self, batch: Batch) -> torch.Tensor | None:
        """Control channels over the forecast; all others are zero, so that no target can leak in."""
        if not self.control_indices:
            return None
        scaled = (batch["future_values"] - self.mean) / self.std
        known = torch.zeros_like(scaled)
        known[..., self.control_indices] = scaled[..., self.control_indices]
        return known


def _frequency_token(config: TinyTimeMixerConfig, frequency: str) -> int | None:
    """Index of the sampling rate, for models that were trained with a frequency prefix."""
    if not config.resolution_prefix_tuning:
        return None
    from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

    token, other = DEFAULT_FREQUENCY_MAPPING.get(frequency), DEFAULT_FREQUENCY_MAPPING["oov"]
    # a checkpoint that was trained with fewer rates does not know the later ones
    return other if token is None or token >= config.frequency_token_vocab_size else token


class TTMForecaster(NetworkForecaster):
    """Tiny Time Mixer behind the common interface."""

    model_type, title, library, section = "ttm", "Tiny Time Mixer", "granite-tsfm", TTMSection
    parts: ClassVar[Mapping[str, str]] = {
        "backbone": "backbone",
        "decoder": "decoder",
        "head": "head",
        QUANTILE_HEAD: "quantile_head",
        SKIP_HEAD: SKIP_HEAD,
        LINEAR_SKIP: SKIP_HEAD,
        "quantile_stretch": "quantile_head",
    }
    block_classes: ClassVar[tuple[str, ...]] = ("TinyTimeMixerLayer",)
    solved = False  # True after `train_on` solved a new linear skip: training does not start from untuned weights then
    lora_targets = ("fc1", "fc2", "attn_layer", "base_forecast_block")
    architecture = Architecture(
        title, GRANITE, "tsfm_public:TinyTimeMixerForPrediction", "tsfm_public:TinyTimeMixerConfig"
    )

    @classmethod
    def loading_code(cls, place: str, preprocessor: dict, adapter: bool, base: str | None) -> list[str]:
        """Lines of Python that load what was published with granite-tsfm."""
        lines = ["from tsfm_public import TinyTimeMixerForPrediction"]
        if adapter:
            where = f'"{base}"' if base else 'tstune_folder + "/scripts/tstune/assets/…"'
            lines += ["from peft import PeftModel", "", f"base = TinyTimeMixerForPrediction.from_pretrained({where})"]
            lines += ["# a base for other channels or another length needs the options of config.yaml here"]
            lines += [f'model = PeftModel.from_pretrained(base, "{place}")']
        else:
            lines += ["", f'model = TinyTimeMixerForPrediction.from_pretrained("{place}")']
        scaler = preprocessor["scaler"]
        means, stds = (", ".join(f"{value:.6g}" for value in scaler[key]) for key in ("mean", "std"))
        return [*lines, f"# it reads and returns (value - mean) / std, by channel: mean {means}; std {stds}"]

    def known_lengths(self) -> Sequence[tuple[int, int | None]]:
        """Those of the checkpoint; of an id of the Hub those of the published recipe, whatever others it has."""
        section = self.config.model
        if section.pretrained is None:
            return [(length, None) for length in CONTEXTS if length % _patch_length(section, length) == 0]
        if is_shipped(section.pretrained):
            return sorted(shipped_weights(section.pretrained), reverse=True)
        return lengths_of(Path(section.pretrained)) or [(512, 96)]

    def starts_from_weights(self) -> bool:
        """True if the untuned model is worth something: new quantile and skip heads start at its forecast."""
        pretrained = self.config.model.pretrained is not None and self.config.tuning.mode != "from_scratch"
        at_forecast = all(part_of(name, self.parts) in ("quantile_head", SKIP_HEAD) for name in self.fresh)
        return pretrained and at_forecast and not self.solved

    def load_weights(self, folder: Path) -> None:
        """The same, and a forecast: a config.json that fits the tensors may still describe a network that runs not."""
        super().load_weights(folder)
        section, roles = self.config.model, self.preprocessor.roles
        past = torch.zeros(1, section.context_length, len(roles.channels))
        window = {"past_values": past, "future_values": torch.zeros(1, section.prediction_length, len(roles.channels))}
        window |= {"past_observed_mask": past == 0, "past_read_mask": past == 0}
        window |= {name: torch.zeros(1, dtype=torch.int64) for name in ("item", "origin")}
        window["static"] = torch.zeros(1, len(roles.static_categorical), dtype=torch.int64)
        with damage(weights_folder(folder) / "config.json"), torch.inference_mode():
            self.forecast(window)

    def train_on(
        self,
        data: PreparedData,
        manager: DistributedManager,
        history_path: Path | None = None,
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> TrainingResult | None:
        """The same after a new linear skip is solved, which is all there is to do where nothing else learns."""
        skip = self.module.linear_skip
        if skip is not None and not skip.weight.any():
            self._solve(data, manager, checkpoints)
            if not any(value.requires_grad for value in self.module.parameters()):
                return None
        return super().train_on(data, manager, history_path, checkpoints, callbacks)

    def _solve(self, data: PreparedData, manager: DistributedManager, checkpoints: Checkpoints | None) -> None:
        """Solve the linear skip on the main process; a run that goes on has it from its checkpoint if that is whole."""
        from tstune.training.checkpoint import find_checkpoint, stored_weights

        section, skip = self.config.model, self.module.linear_skip
        resume = checkpoints and checkpoints.resume and find_checkpoint(checkpoints.resume, checkpoints.store)
        stored = stored_weights(resume) if resume else {}
        state = {name.rpartition(".")[2]: values for name, values in stored.items() if LINEAR_SKIP in name}
        if manager.is_main and state.get("weight", skip.bias).shape != skip.weight.shape:
            windows = self.shortened(data.train) if self.config.training.context_dropping else data.as_judged().train
            state, share = skip.solution(self._shown(windows), section.linear_skip_alpha), section.linear_skip_share
            if share == "auto":
                losses = {
                    share: self._loss_with(state, share, data.validation) for share in (0.0, 0.25, 0.5, 0.75, 1.0)
                }
                share = min(losses, key=losses.get)
            logger.info("linear skip solved in closed form, %.0f %% of it added", 100 * share)
            state = {name: share * values for name, values in state.items()}
        state = manager.from_main(state)
        self._set_skip(state)
        self.solved = bool(state["weight"].any())

    def _set_skip(self, state: dict[str, torch.Tensor]) -> None:
        for part in self.network.modules():  # with adapters there are two
            if isinstance(part, LinearSkip):
                part.load_state_dict(state)

    def _loss_with(self, state: dict[str, torch.Tensor], share: float, windows: WindowDataset) -> float:
        """Mean loss over windows with so much of a linear skip."""
        self._set_skip({name: share * values for name, values in state.items()})
        total, size = torch.zeros(2, dtype=torch.float64), self.evaluation_batch_size(self._device)
        for begin in range(0, len(windows), size):
            batch = windows.__getitems__(range(begin, min(begin + size, len(windows))))
            batch = {name: values.to(self._device) for name, values in batch.items()}
            with torch.no_grad():
                total += torch.stack([part.double().sum().cpu() for part in self.window_losses(self.module, batch)])
        return float(total[0] / total[1])

    def _shown(self, windows: WindowDataset) -> Iterator[tuple[torch.Tensor, ...]]:
        """What the linear skip reads of training windows, and what the forecast lacks, of filled steps too.

        Nothing in their place would say that the forecast is right there, and shrink the map by the share of them.
        """
        targets, steps, seen = self.module.num_targets, self.module.num_steps, []
        count, size = min(len(windows), max(1, MAX_RIDGE_ROWS // targets)), self.evaluation_batch_size(self._device)
        chosen = np.linspace(0, len(windows) - 1, count).astype(np.int64)
        self.module.eval()
        hook = self.module.linear_skip.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
        for begin in range(0, count, size):
            batch = windows.__getitems__(chosen[begin : begin + size])
            batch = {name: values.to(self._device) for name, values in batch.items()}
            with torch.no_grad():
                _, *scale = self.module(batch)
            past, point = seen.pop()
            truth = self.module.normalise(batch["future_values"][:, :steps, :targets], *scale)
            yield past, point, torch.where(self.module.has_scale(batch), truth - point[:, :steps], 0.0)
        hook.remove()

    def learned_from(self, data: PreparedData) -> None:
        """Make a category that training never saw the mean of those that it saw."""
        if data.train.categories is None:
            return
        trained = data.train.categories[data.train.by_item() > 0]
        layers = self.network.decoder.decoder_cat_embedding_layer.embedding_layers
        with torch.no_grad():
            for layer, seen in zip(layers, trained.T, strict=True):
                if not (seen == UNKNOWN).any():
                    layer.weight[UNKNOWN] = layer.weight[UNKNOWN + 1 :].mean(dim=0)

    def frozen_encoder(self) -> Callable[[Batch], Batch] | None:
        """Backbone, with the decoder if that is frozen too."""
        learning = {part_of(name, self.parts) for name, value in self.module.named_parameters() if value.requires_grad}
        config = self.network.config
        needs_context = config.decoder_raw_residual or config.enable_forecast_channel_mixing  # beside the features
        if "backbone" in learning or not learning or needs_context:
            return None
        self.module.encode_decoder = "decoder" not in learning
        return self.module.encode

    def _load(self, roles: Roles, pretrained: str | None = None, random_weights: bool = False) -> nn.Module:
        section, frequency, levels = self.config.model, self.preprocessor.frequency, head_levels(self.config.forecast)
        if pretrained is not None:
            section = section.model_copy(update={"pretrained": pretrained, "revision": None})
            ttm, fresh, unused = load_pretrained(section, roles, frequency)
            quantised = section.quantization != "none"  # fresh layers are whole in the adapter
            if unused or (fresh and not quantised):
                raise CheckpointError(f"{pretrained} does not fit its config.json: {', '.join([*fresh, *unused][:4])}")
            return ttm
        if section.pretrained is None:
            self._warn_of_random_weights()
            unused, ttm = [], build_from_scratch(section, roles, levels)
        else:
            ttm, self.fresh, unused = load_pretrained(section, roles, frequency, random_weights, levels)
        if unused:
            logger.info(
                "%d tensors of the checkpoint have no place in this model, e.g. %s (other channel set-up)",
                len(unused),
                unused[0],
            )
        random = section.pretrained is None or random_weights
        if ttm.config.multi_quantile_head and (random or any(name.startswith(QUANTILE_HEAD) for name in self.fresh)):
            start_at_the_forecast(ttm)
        start_without_skip(ttm, None if random else self.fresh)
        mode = self.config.tuning.mode
        if mode == "quantile_head" or (hasattr(ttm.config, BESIDE) and mode != "zero_shot"):
            setattr(ttm.config, BESIDE, mode == "quantile_head")  # other modes train both at once
        return ttm

    def _module_for(self, network: nn.Module, roles: Roles) -> TTMModule:
        return TTMModule(network, self.preprocessor, self.config.model.prediction_length)

    def _wrap(self, network: nn.Module) -> None:
        super()._wrap(network)
        self.solved = False
        if not self.config.training.compile:  # the compiler does better with the ordinary layers
            use_fast_dropout(network)
            use_fast_mixers(network)

    def _check_roles(self, roles: Roles) -> None:
        """It reads them all."""

    def _check_built(self) -> None:
        if self.config.tuning.mode == "zero_shot" and self.fresh:
            if all(name.startswith(LINEAR_SKIP) for name in self.fresh):
                raise ConfigError(
                    f"tuning.mode=zero_shot solves no model.linear_skip={self.config.model.linear_skip}; leave it out, "
                    "or set tuning.mode=skip_head"
                )
            raise ConfigError(
                f"tuning.mode=zero_shot, but {len(self.fresh)} tensors are not in the checkpoint and would be random: "
                f"{', '.join(self.fresh)}; use its own prediction length and channels, or another mode"
            )
        super()._check_built()
        skip, pretrained = self.module.linear_skip, self.config.model.pretrained
        is_all = self.config.tuning.mode == "skip_head" and self.module.skip_head is None and not self.fresh
        if is_all and skip.weight.any():
            raise ConfigError(
                f"tuning.mode=skip_head: model.pretrained={pretrained} brings its linear skip, which stays, and "
                "nothing else would learn; set tuning.mode=head, or take the weights it was solved for"
            )


def channel_options(section: TTMSection, roles: Roles) -> dict:
    """Constructor arguments that depend on the channels, not on the weights."""
    channels = len(roles.channels)
    mixes, has_future = roles.has_covariates, bool(roles.control_indices)
    mode = section.decoder_mode
    options = {
        "num_input_channels": channels,
        "prediction_channel_indices": list(range(roles.num_targets)) if mixes else None,
        "exogenous_channel_indices": roles.control_indices or None,
        "enable_forecast_channel_mixing": has_future,
        "decoder_mode": ("mix_channel" if mixes else "common_channel") if mode == "auto" else mode,
        "loss": "mse",  # ours is masked and computed outside
    }
    if roles.static_categorical:
        if mode == "common_channel":
            raise ConfigError(
                "model.decoder_mode=common_channel forecasts each channel alone and cannot read "
                f"{roles.static_categorical[0]!r} of data.static_categorical_columns; use mix_channel or auto"
            )
        options["categorical_vocab_size_list"] = roles.num_categories
    if has_future:
        options["fcm_use_mixer"] = True
        options["fcm_context_length"] = 1 if section.fcm_context_length is None else section.fcm_context_length
        options["fcm_mix_layers"] = section.fcm_mix_layers or 2
    return options


def build_from_scratch(
    section: TTMSection, roles: Roles, quantiles: Sequence[float] = ()
) -> TinyTimeMixerForPrediction:
    """Random weights in the architecture of the configuration; sizes that do not fit together are a `ConfigError`."""
    options = scratch_values(section, SCRATCH_DEFAULTS) | {"patch_length": _patch_length(section)}
    patch, levels = options["patch_length"], options["adaptive_patching_levels"]
    if section.context_length % patch or section.context_length == patch:
        told = f"model.context_length={section.context_length} is not several times model.patch_length={patch}"
        raise ConfigError(f"{told}; leave model.patch_length out")
    widest = 2 ** max(levels - 1, 0)
    if levels and options["d_model"] % widest:
        raise ConfigError(
            f"model.d_model={options['d_model']} must be a multiple of {widest} for "
            f"model.adaptive_patching_levels={levels}"
        )
    if levels > 1 and options["d_model"] // widest <= 4:  # granite-tsfm leaves such levels out
        raise ConfigError(
            f"model.d_model={options['d_model']} is too narrow for model.adaptive_patching_levels={levels}: "
            f"it must be greater than {4 * widest}; raise it or lower the levels"
        )
    from tsfm_public import TinyTimeMixerConfig

    config = TinyTimeMixerConfig(
        context_length=section.context_length,
        prediction_length=section.prediction_length,
        patch_stride=patch,
        scaling="std",
        **options,
        **channel_options(section, roles),
        **head_options(quantiles),
        skip_steps=section.skip_steps or 0,
        skip_changes=CHANGES,
        linear_skip=section.linear_skip,
    )
    return network_class()(config)


@cache
def network_class() -> type[TinyTimeMixerForPrediction]:
    """TTM of granite-tsfm with our skips, if its config.json says so; in files it has the name of the original."""
    from tsfm_public import TinyTimeMixerForPrediction

    class WithSkipHead(TinyTimeMixerForPrediction):
        def __init__(self, config: TinyTimeMixerConfig) -> None:
            super().__init__(config)
            if getattr(config, "skip_steps", 0):
                with_quantiles = bool(config.multi_quantile_head)
                sizes = config.skip_steps, config.prediction_length
                setattr(self, SKIP_HEAD, SkipHead(*sizes, with_quantiles, getattr(config, SKIP_CHANGES, 0)))
            else:  # nor is it written down
                config.__dict__.pop(SKIP_CHANGES, None)
            if getattr(config, LINEAR_SKIP, None) in (None, "none"):
                config.__dict__.pop(LINEAR_SKIP, None)
            else:
                targets = len(config.prediction_channel_indices or range(config.num_input_channels))
                maps = 1 if config.linear_skip == "shared" else targets
                setattr(self, LINEAR_SKIP, LinearSkip(maps, config.context_length, config.prediction_length))

    WithSkipHead.__name__ = TinyTimeMixerForPrediction.__name__
    return WithSkipHead


def start_without_skip(ttm: TinyTimeMixerForPrediction, fresh: Collection[str] | None) -> None:
    """Let what is new of a skip head (None: all of it) start with nothing to add and nothing to stretch."""
    head = getattr(ttm, SKIP_HEAD, None)
    if head is not None and (fresh is None or f"{SKIP_HEAD}.output.weight" in fresh):
        head.start_at_nothing()
    elif head is not None and f"{SKIP_HEAD}.quantile_stretch.weight" in fresh:
        head.start_without_stretch()
    if fresh is None or f"{LINEAR_SKIP}.weight" in fresh:
        for values in ttm.linear_skip.buffers() if hasattr(ttm, LINEAR_SKIP) else ():
            values.zero_()


def _patch_length(section: TTMSection, context_length: int | None = None) -> int:
    """Steps of a patch: as configured, else 64, or as many as make four patches of a context that is not several 64."""
    context, usual = context_length or section.context_length, SCRATCH_DEFAULTS["patch_length"]
    if section.patch_length is not None or (context > usual and context % usual == 0):
        return section.patch_length or usual
    return next((steps for steps in range(min(usual, context // 4), 0, -1) if context % steps == 0), 1)


def load_pretrained(
    section: TTMSection,
    roles: Roles,
    frequency: str,
    random_weights: bool = False,
    quantiles: Sequence[float] | None = None,
) -> tuple[TinyTimeMixerForPrediction, list[str], list[str]]:
    """Load a checkpoint for these channels and lengths.

    Args:
        section, roles: weights, lengths and overrides; channels.
        frequency: grid step; helps granite-tsfm pick a revision on the Hub.
        random_weights: keep the checkpoint's architecture, not its weights.
        quantiles: levels of a quantile head to add; empty leaves out one that was trained beside the forecast, which
            has no say in it; None leaves the checkpoint as it is. A head beside the forecast keeps its own levels where
            those that are asked for lie within them.

    Returns:
        the model, names of tensors that are fresh, names of tensors of the checkpoint that were not used.
    """
    from tsfm_public import TinyTimeMixerConfig

    if is_shipped(section.pretrained):
        folder = builtin_folder(section.context_length, section.prediction_length, section.pretrained)
        section = section.model_copy(update={"pretrained": str(folder)})
    name, revision = checkpoint_of(section.pretrained), section.revision
    if not Path(name).is_dir() and revision is None:
        revision = _hub_revision(section, frequency)
    read_config(name, revision)
    with damage(f"model.pretrained={name}: its config.json", state="cannot be read"):
        config = TinyTimeMixerConfig.from_pretrained(name, revision=revision)
    _check_architecture(config, section)
    for key in ("dropout", "head_dropout"):
        if getattr(section, key) is not None:
            setattr(config, key, getattr(section, key))
    options = channel_options(section, roles)
    if config.multi_quantile_head and quantiles:
        own = config.quantile_levels
        if not (getattr(config, BESIDE, False) and min(own) <= min(quantiles) and max(quantiles) <= max(own)):
            options["quantile_levels"] = list(quantiles)
    elif quantiles:
        options |= head_options(quantiles)
    elif quantiles is not None and getattr(config, BESIDE, False):
        options["multi_quantile_head"] = False
    for key, value in options.items():
        setattr(config, key, value)
    if section.prediction_length > config.prediction_length:
        config.prediction_length = section.prediction_length  # a longer head, fresh
    if section.skip_steps not in (None, getattr(config, "skip_steps", 0)):  # a new skip head
        config.skip_steps, config.skip_changes = section.skip_steps, CHANGES
    config.linear_skip = section.linear_skip or getattr(config, LINEAR_SKIP, "none")
    linear = config.linear_skip != "none"
    shorter = section.prediction_length < config.prediction_length
    filters = shorter and not getattr(config, "skip_steps", 0) and not linear  # skips read the whole forecast
    if shorter and not filters and roles.control_indices:
        key = "linear_skip=none" if linear else "skip_steps=0"
        raise ConfigError(
            f"model.prediction_length={section.prediction_length} is shorter than the {config.prediction_length} steps "
            "of the checkpoint, and with columns that are known in the future its skips need them all; set "
            f"model.{key} or model.prediction_length={config.prediction_length}"
        )
    config.prediction_filter_length = section.prediction_length if filters else None
    if random_weights:
        with in_proportion(name):
            return network_class()(config), [], []
    with damage(f"model.pretrained={name}: the weights", state="cannot be read"), in_proportion(name):
        model, report = network_class().from_pretrained(
            name,
            revision=revision,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
        )
    for key, had, wanted in report["mismatched_keys"]:
        if key == f"{LINEAR_SKIP}.weight" and had[0] != wanted[0]:  # the network was tuned around what it adds
            raise ConfigError(
                f"model.pretrained={name} brings a linear skip of {had[0]} maps (one: for all targets) and this run "
                f"needs {wanted[0]}; give it the targets it was solved for and leave model.linear_skip out, or leave "
                "the map out with model.linear_skip=none"
            )
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    fresh = sorted({*report["missing_keys"], *mismatched})
    wrong = [key for key in fresh if not key.startswith(_MAY_BE_FRESH)]
    if wrong:
        raise CheckpointError(
            f"model.pretrained={name}: its tensors do not fit a TTM with its own config.json, e.g. {wrong[0]}; "
            "the folder mixes files of two models"
        )
    return model, fresh, sorted(report["unexpected_keys"])


def get_model(
    model_path: str | None = BUILTIN,
    context_length: int = 512,
    prediction_length: int | None = None,
    freeze_backbone: bool = False,
    roles: Roles | None = None,
    frequency: str = "oov",
    **architecture: object,
) -> TinyTimeMixerForPrediction:
    """A TTM network by itself, as granite-tsfm has it.

    Args:
        model_path: as `model.pretrained`; None makes random weights.
        context_length: past steps.
        prediction_length: future steps; None takes those of the checkpoint in a folder, else 96.
        freeze_backbone: only decoder and head learn.
        roles: channels; None forecasts each of any number of channels alone.
        frequency: grid step; helps granite-tsfm pick a revision on the Hub.
        **architecture: further keys of the `model` section.
    """
    if prediction_length is None:
        prediction_length = dict(lengths_of(Path(model_path or BUILTIN))).get(context_length, 96)
    values = {"pretrained": model_path, "context_length": context_length, "prediction_length": prediction_length}
    section = validate({"model": values | architecture}, origin="get_model").model
    roles = roles or Roles(("value",))
    network = (
        build_from_scratch(section, roles) if model_path is None else load_pretrained(section, roles, frequency)[0]
    )
    freeze_by_mode(network, "decoder" if freeze_backbone else "full", TTMForecaster.parts, ())
    return network


def _check_architecture(config: TinyTimeMixerConfig, section: TTMSection) -> None:
    name = section.pretrained
    if config.model_type != "tinytimemixer" or "patch_length" not in config.to_dict():
        raise CheckpointError(f"model.pretrained={name} is a {config.model_type} model, not a Tiny Time Mixer")
    fixed = ("context_length", *(key for key in SCRATCH_DEFAULTS if key not in ("dropout", "head_dropout")))
    require_same(section, vars(config), {key: key for key in fixed})


def _hub_revision(section: TTMSection, frequency: str) -> str | None:
    """Let granite-tsfm choose the branch of its own repositories; other repositories keep their default."""
    from tsfm_public.toolkit.get_model import get_model

    try:
        key = get_model(
            section.pretrained,
            context_length=section.context_length,
            prediction_length=section.prediction_length,
            freq=frequency,
            return_model_key=True,
        )
    except ValueError as error:
        raise CheckpointError(
            f"model.pretrained={section.pretrained} has no model for model.context_length={section.context_length}, "
            f"model.prediction_length={section.prediction_length} ({first_line(error)})"
        ) from None
    table = yaml.safe_load(resources.files("tsfm_public.resources.model_paths_config").joinpath("ttm.yaml").read_text())
    for models in table.values():
        if key in models:
            return models[key]["revision"]
    return key


def head_levels(section: ForecastSection) -> tuple[float, ...]:
    """Levels the network's own head is to forecast; empty if quantiles come from elsewhere."""
    return tuple(section.quantiles) if section.method == "quantile_head" else ()


def head_options(levels: Sequence[float]) -> dict:
    """Constructor arguments of a TTM with these levels; nothing without levels."""
    if not levels:
        return {}
    # Without the decoder's state the head sees the shape of the point forecast only, not how sure the context is.
    return {"multi_quantile_head": True, "quantile_levels": list(levels), "mq_use_decoder_pool": True}


@torch.no_grad()
def start_at_the_forecast(ttm: TinyTimeMixerForPrediction) -> None:
    """Let a new head start with the pretrained forecast as median, and the spread of the context around it.

    Random widths are several times too wide, and softplus lets them shrink slowly.
    """
    from scipy.special import ndtri

    head = getattr(ttm, QUANTILE_HEAD)
    normal = torch.from_numpy(ndtri(head.quantile_list)).float()
    gaps, middle = normal.diff(), head.median_index
    outward = torch.cat([gaps[:middle].flip(0), gaps[middle:]])  # as the head's channels: down from the median, then up
    head.pw2.weight.zero_()
    head.pw2.bias[0] = 0.0
    head.pw2.bias[1:] = torch.log(torch.expm1(outward))  # inverse of softplus


def gated_attention_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Block -> weights of its gated attention [size, size]: what each patch (or feature) says about every gate.

    A tracker's ``log_attention_weights(model)`` reads them from the network that it is shown.
    """
    found = {name: getattr(block, "attn_layer", None) for name, block in network.named_modules()}
    return {name: layer.weight.detach() for name, layer in found.items() if layer is not None}


def builtin_folder(context_length: int, prediction_length: int, name: str = BUILTIN) -> Path:
    """The shipped checkpoint for these lengths: the same context, and the shortest forecast that is long enough."""
    shipped = shipped_weights(name)
    fitting = [key for key in shipped if key[0] == context_length and key[1] >= prediction_length]
    if not fitting:
        choices = "; ".join(f"context_length={context}, up to {steps} steps" for context, steps in sorted(shipped))
        raise CheckpointError(
            f"model.pretrained={name} has no weights for model.context_length={context_length}, "
            f"model.prediction_length={prediction_length}; there are: {choices}"
        )
    return shipped[min(fitting)]
