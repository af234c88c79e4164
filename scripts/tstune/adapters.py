"""Which parameters learn: one switch, `tuning.mode`, turned into frozen parts or low-rank adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from torch import nn

from tstune.config.schema import LoRAConfig
from tstune.errors import ConfigError

# mode -> parts of the model that learn; None means all of them
LEARNING_PARTS: Mapping[str, tuple[str, ...] | None] = {
    "zero_shot": (),
    "head": ("head", "multi_quantile_head_block"),
    "decoder": ("decoder", "head", "multi_quantile_head_block"),
    "full": None,
    "from_scratch": None,
}

# model family -> last parts of the names of the linear layers that `auto` adapts
LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "ttm": ("fc1", "fc2", "attn_layer", "base_forecast_block"),
    "chronos_bolt": ("q", "k", "v", "o", "output_patch_embedding.output_layer"),
    "chronos2": ("q", "k", "v", "o", "output_patch_embedding.output_layer"),
    "chronos_t5": ("q", "k", "v", "o"),
    "timesfm": (
        *("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        *("output_projection_point.output_layer", "output_projection_quantiles.output_layer"),
    ),
    "flowstate": ("ssm.output_gate", "out", "mlp.w1", "mlp.w2", "mlp.w3", "decoder.lin"),
    "patchtst_fm": ("attn.qkv", "attn.proj", "out_layer.layer2"),
    "patchtst": ("q_proj", "k_proj", "v_proj", "out_proj", "head.projection"),
    "patchtsmixer": ("fc1", "fc2", "attn_layer", "q_proj", "k_proj", "v_proj", "out_proj", "base_forecast_block"),
}


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model has and how many of them learn."""

    total: int
    trainable: int

    @property
    def percentage(self) -> float:
        """Share that learns, in percent."""
        return 100.0 * self.trainable / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, float]:
        """Values for JSON."""
        return asdict(self) | {"percentage": round(self.percentage, 4)}

    def __str__(self) -> str:
        return f"{self.total:,} parameters, {self.trainable:,} trainable ({self.percentage:.1f} %)"


def count_parameters(module: nn.Module) -> ParameterCount:
    """Count parameters, shared ones once; a 4-bit weight counts as the values it stands for."""
    sizes = [(_num_values(parameter), parameter.requires_grad) for parameter in module.parameters()]
    return ParameterCount(total=sum(size for size, _ in sizes), trainable=sum(size for size, learns in sizes if learns))


def part_of(name: str, parts: Collection[str]) -> str | None:
    """Part of the model a parameter belongs to: the first of `parts` that is a component of its dotted name.

    Where `parts` is a mapping its keys are the components and its values what we call them.
    """
    components = name.split(".")
    found = next((component for component in components if component in parts), None)
    return parts[found] if found is not None and isinstance(parts, Mapping) else found


def freeze_by_mode(module: nn.Module, mode: str, parts: Collection[str], fresh: Collection[str]) -> None:
    """Freeze what the mode does not train (every mode but ``lora`` and ``dora``).

    Args:
        module: the network.
        mode: a key of `LEARNING_PARTS`, or ``bias``.
        parts: names of the parts of this family, for example ``("backbone", "decoder", "head")``, see `part_of`.
        fresh: names of randomly initialised parameters; they learn in every mode but ``zero_shot``,
            because a frozen random layer would only add noise.
    """
    for name, parameter in module.named_parameters():
        if mode == "bias":
            learns = name.endswith(".bias")
        else:
            learning = LEARNING_PARTS[mode]
            learns = learning is None or part_of(name, parts) in learning
        is_float = parameter.is_floating_point()
        parameter.requires_grad = is_float and (learns or (name in fresh and mode != "zero_shot"))


def train_mode(module: nn.Module) -> None:
    """Put the module in train mode, but every part without a learning parameter in eval mode.

    A frozen backbone then runs without dropout: its features are the pretrained ones, and cheaper.
    """
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()


class LoRAManager:
    """Adds low-rank adapters to a model, through peft."""

    def add_lora_to_model(
        self,
        model: nn.Module,
        model_type: str = "ttm",
        config: LoRAConfig | None = None,
        fresh: Collection[str] = (),
        **options: object,
    ) -> nn.Module:
        """Wrap `model` in a `peft.PeftModel` whose adapters, and nothing else, learn.

        Args:
            model: the network; its linear layers are replaced in place.
            model_type: family, decides what ``target_modules="auto"`` means.
            config: adapter settings; None takes the defaults with `options` on top.
            fresh: names of randomly initialised parameters; their layers are trained in full and stored
                with the adapter.
            **options: fields of `LoRAConfig`, for example ``rank=16``.

        Raises:
            ConfigError: target names that match no linear layer, or an unknown family.
        """
        import peft

        config = (config or LoRAConfig()).model_copy(update={"enabled": True, **options})
        targets = find_targets(model, config.target_modules, model_type)
        to_save = sorted({name.rpartition(".")[0] for name in fresh} | set(config.modules_to_save))
        targets = [name for name in targets if name not in to_save]
        ranks = {name: _layer_rank(model.get_submodule(name), config) for name in targets}
        capped = {name: rank for name, rank in ranks.items() if rank != config.rank}
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=targets,
                modules_to_save=to_save or None,
                bias=config.bias,
                use_dora=config.use_dora,
                use_rslora=config.use_rslora,
                rank_pattern=capped,
                # keep alpha / rank the same in capped layers
                alpha_pattern={name: config.alpha * rank / config.rank for name, rank in capped.items()},
            ),
        )

    def get_lora_params_count(self, model: nn.Module) -> dict[str, float]:
        """Total and trainable parameters and their percentage."""
        count = count_parameters(model)
        return {
            "total_parameters": count.total,
            "trainable_parameters": count.trainable,
            "percentage_trainable": count.percentage,
        }


def add_lora_adapters(model: nn.Module, rank: int = 16, model_type: str = "ttm", **options: object) -> nn.Module:
    """Short form of `LoRAManager.add_lora_to_model`."""
    return LoRAManager().add_lora_to_model(model, model_type, rank=rank, **options)


def find_targets(model: nn.Module, targets: str | Collection[str], model_type: str) -> list[str]:
    """Full names of the linear layers to adapt.

    Raises:
        ConfigError: listing the linear layers that exist.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    endings = _ending_counts(linear)
    if targets == "auto":
        if model_type not in LORA_TARGETS:
            raise ConfigError(
                f"lora.target_modules=auto knows {', '.join(LORA_TARGETS)}, not {model_type}; "
                f"name the layers: {endings}"
            )
        targets = LORA_TARGETS[model_type]
        return [name for name in linear if _matches(name, targets)]
    unmatched = [target for target in targets if not any(_matches(name, [target]) for name in linear)]
    if unmatched:
        raise ConfigError(
            f"lora.target_modules: {', '.join(unmatched)} match(es) no linear layer of this model; "
            f"it has: {endings}; or use auto"
        )
    return [name for name in linear if _matches(name, targets)]


def _matches(name: str, targets: Collection[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _ending_counts(names: list[str]) -> str:
    endings: dict[str, int] = {}
    for name in names:
        ending = name.rpartition(".")[2]
        endings[ending] = endings.get(ending, 0) + 1
    return ", ".join(f"{ending} ({count})" for ending, count in endings.items())


def _layer_rank(layer: nn.Linear, config: LoRAConfig) -> int:
    if not config.cap_rank:
        return config.rank
    return max(1, min(config.rank, min(layer.in_features, layer.out_features) // 2))


def _num_values(parameter: nn.Parameter) -> int:
    quantised = getattr(parameter, "quant_state", None)
    return quantised.shape.numel() if quantised is not None else parameter.numel()
