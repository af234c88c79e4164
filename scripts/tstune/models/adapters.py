"""Which parameters learn: frozen parts or low-rank adapters; and adapters as values, one of a model or one per item."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

from tstune.config.schema import LoRAConfig
from tstune.config.validation import validate
from tstune.data.windows import Batch
from tstune.errors import CheckpointError, ConfigError, FolderError
from tstune.foreign_files import damage, read_json, read_object, read_tensors
from tstune.models.registry import available_models, families, model_class
from tstune.runs.folder import ENVIRONMENT, TRAINING_METADATA, RunFolder
from tstune.runtime.logs import logger

if TYPE_CHECKING:
    import peft


ITEM_ADAPTERS_FOLDER = "adapters"
_INDEX = "index.json"
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_LORA_KEYS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias", "use_dora", "use_rslora",
    "rank_pattern", "alpha_pattern",
)  # fmt: skip
"""What `LoRAManager` sets; peft has settings that name modules to import, which are not read."""

# mode -> parts of the model that learn; None means all of them
LEARNING_PARTS: Mapping[str, tuple[str, ...] | None] = {
    "zero_shot": (),
    "skip_head": ("skip_head",),
    "quantile_head": ("quantile_head",),
    "head": ("head", "quantile_head", "skip_head"),
    "decoder": ("decoder", "head", "quantile_head", "skip_head"),
    "full": None,
    "from_scratch": None,
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


def read_training(folder: Path) -> dict:
    """Parameter counts and adapter of a saved model as they were trained; empty where nobody wrote them down."""
    run = RunFolder(folder)
    values = run.read_optional(TRAINING_METADATA) or run.read_optional(ENVIRONMENT).get("parameters") or {}
    found = {name: values[name] for name in ("total", "trainable", "percentage") if name in values}
    if not all(isinstance(value, int | float) for value in found.values()):
        raise FolderError(f"{folder}: the parameter counts of its training are damaged: {found}")
    return found | ({"adapter": values["adapter"]} if "adapter" in values else {})


def part_of(name: str, parts: Collection[str]) -> str | None:
    """Part of the model a parameter belongs to: the last of `parts` that is a component of its dotted name.

    Where `parts` is a mapping its keys are the components and its values what we call them.
    """
    components = reversed(name.split("."))
    found = next((component for component in components if component in parts), None)
    return parts[found] if found is not None and isinstance(parts, Mapping) else found


def freeze_by_mode(module: nn.Module, mode: str, parts: Collection[str], fresh: Collection[str]) -> None:
    """Freeze what the mode does not train (every mode but ``lora`` and ``dora``).

    Args:
        module: the network.
        mode: a key of `LEARNING_PARTS`, or ``bias``.
        parts: names of the parts of this family, see `part_of`.
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


def adapt(model: nn.Module, model_type: str, config: LoRAConfig, fresh: Collection[str] = ()) -> nn.Module:
    """Wrap `model` in a `peft.PeftModel` whose adapters, and nothing else, learn; its linear layers are replaced.

    Layers of `fresh` parameters, which are randomly initialised, are trained in full and stored with the adapter.
    Target names that match no linear layer are a `ConfigError`.
    """
    import peft

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


_ALSO_CALLED = {"chronos": "chronos_t5"}


class LoRAManager:
    """Adds low-rank adapters to a network of one's own hands; runs do it by `tuning.mode`."""

    @property
    def supported_models(self) -> dict[str, dict[str, list[str]]]:
        """Family -> its ``target_modules``, the layers that `add_lora_to_model` adapts if it is not told."""
        targets = {
            name: model_class(_ALSO_CALLED.get(name, name)).lora_targets for name in (*families(), *_ALSO_CALLED)
        }
        return {name: {"target_modules": list(layers)} for name, layers in targets.items() if layers}

    def add_lora_to_model(
        self,
        model: nn.Module,
        model_type: str = "ttm",
        rank: int = 16,
        alpha: float = 32,
        dropout: float = 0.1,
        bias: str = "none",
        **options: object,
    ) -> nn.Module:
        """Wrap a network in a `peft.PeftModel` whose adapters, and nothing else, learn.

        Args:
            model: the network; its linear layers are replaced in place.
            model_type: a key of `supported_models`; any other needs ``target_modules=[…]``.
            rank, alpha, dropout, bias: see `LoRAConfig`, as the **options, which are its other fields.

        Raises:
            ConfigError: an unknown family, a setting that cannot be, or target names that match no linear layer.
        """
        settings = {"rank": rank, "alpha": alpha, "dropout": dropout, "bias": bias} | options
        config = validate({"lora": settings | {"enabled": True}}, "add_lora_to_model").lora
        return adapt(model, _ALSO_CALLED.get(model_type, model_type), config)

    def get_lora_params_count(self, model: nn.Module) -> dict[str, float]:
        """Total and trainable parameters and their percentage."""
        count = count_parameters(model)
        return {
            "total_parameters": count.total,
            "trainable_parameters": count.trainable,
            "percentage_trainable": count.percentage,
        }


LoRATrainer = LoRAManager
"""The name of the design document of the base framework."""


def add_lora_adapters(model: nn.Module, rank: int = 16, model_type: str = "ttm", **options: object) -> nn.Module:
    """Short form of `LoRAManager.add_lora_to_model`."""
    return LoRAManager().add_lora_to_model(model, model_type, rank, **options)


def find_targets(model: nn.Module, targets: str | Collection[str], model_type: str) -> list[str]:
    """Full names of the linear layers to adapt (`ConfigError`: listing the linear layers that exist)."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    counts = Counter(name.rpartition(".")[2] for name in linear)
    endings = ", ".join(f"{ending} ({count})" for ending, count in counts.items())
    if targets == "auto":
        known = model_type in available_models() or ":" in model_type
        targets = model_class(model_type).lora_targets if known else ()
        if not targets:
            having = ", ".join(name for name in families() if model_class(name).lora_targets)
            raise ConfigError(f"lora.target_modules=auto knows {having}, not {model_type}; name the layers: {endings}")
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


def _layer_rank(layer: nn.Linear, config: LoRAConfig) -> int:
    if not config.cap_rank:
        return config.rank
    return max(1, min(config.rank, min(layer.in_features, layer.out_features) // 2))


def _num_values(parameter: nn.Parameter) -> int:
    quantised = getattr(parameter, "quant_state", None)
    return quantised.shape.numel() if quantised is not None else parameter.numel()


@dataclass(frozen=True)
class Adapter:
    """Weights and settings of one adapter."""

    config: peft.LoraConfig  # peft's `LoraConfig`
    state: dict[str, torch.Tensor]  # tensor name -> value, in peft's naming
    origin: str = "the adapter"  # what to call it in errors

    @classmethod
    def taken_from(cls, model: peft.PeftModel) -> Adapter:
        """Copy the adapter of a model."""
        import peft

        state = peft.get_peft_model_state_dict(model)
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        return cls(model.peft_config["default"], copies)

    def describe(self) -> dict[str, object]:
        """Its settings and size, for people."""
        targets = sorted({name.rpartition(".")[2] for name in self.config.target_modules})
        size = sum(tensor.numel() for tensor in self.state.values())
        return {"rank": self.config.r, "alpha": self.config.lora_alpha, "target_modules": targets, "parameters": size}

    def put_on(self, model: peft.PeftModel) -> None:
        """Overwrite the adapter of a model with the same settings."""
        import peft

        peft.set_peft_model_state_dict(model, self.state)

    def wrap(self, base: nn.Module) -> peft.PeftModel:
        """Attach the adapter to its base (`CheckpointError`: the base does not have the layers it was made for)."""
        import peft

        try:
            # peft notes the base in the settings and warns when another copy of it is used
            config = replace(self.config, base_model_name_or_path=None)
            model = peft.get_peft_model(base, config)
            result = peft.set_peft_model_state_dict(model, self.state)
        except (ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.origin} does not fit this base: {reason}") from None
        if result.unexpected_keys:
            raise CheckpointError(f"{self.origin} does not fit this base: no place for {result.unexpected_keys[0]}")
        return model.eval()

    def save(self, folder: Path) -> None:
        """Write a folder that `peft.PeftModel.from_pretrained` loads."""
        folder.mkdir(parents=True)
        self.config.save_pretrained(folder)
        save_file(self.state, folder / _WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read what `save` wrote (`CheckpointError`: missing or damaged)."""
        import peft

        folder = Path(folder)
        if not (folder / _WEIGHTS).is_file():
            raise CheckpointError(f"{folder} is not an adapter folder: {_WEIGHTS} is missing")
        tensors, values = read_tensors(folder / _WEIGHTS), read_object(folder / _SETTINGS)
        with damage(folder / _SETTINGS):
            return cls(
                peft.LoraConfig(**{key: values[key] for key in _LORA_KEYS if key in values}), tensors, str(folder)
            )


@dataclass(frozen=True)
class ItemResult:
    """How an item's adapter did on that item's own validation windows."""

    item_id: str  # name of the item
    kept: bool  # the adapter was better than the base, so forecasts of this item use it
    # scaled units; None where the item has too few windows, of the base also without `evaluation.keep_best`
    validation_loss_base: float | None
    validation_loss_adapter: float | None
    reason: str  # why the base is used, if it is


@dataclass(frozen=True)
class ItemAdapters:
    """The adapters that were kept, and the record of all items."""

    adapters: dict[str, Adapter]  # item id -> adapter; items without one use the base
    results: list[ItemResult]  # one row per item of the training data
    _said: set[str] = field(default_factory=set, repr=False, compare=False)

    def say_unknown(self, item_ids: Sequence[str]) -> None:
        """Say once which items training did not have: the base forecasts them, and a slip of the pen looks the same."""
        known = {result.item_id for result in self.results}
        unknown = [item_id for item_id in item_ids if item_id not in known | self._said]
        if unknown:
            self._said.update(unknown)
            logger.warning(
                "no adapter for %s (%d of %d series): the base forecasts what training did not have; it had %s",
                ", ".join(unknown[:3]),
                len(unknown),
                len(item_ids),
                ", ".join(sorted(known)[:5]),
            )

    def save(self, folder: Path) -> None:
        """Write `adapters/`: an index and one folder per kept adapter, in peft's format."""
        folders = {item_id: f"{number:05d}" for number, item_id in enumerate(self.adapters)}
        for item_id, adapter in self.adapters.items():
            adapter.save(folder / ITEM_ADAPTERS_FOLDER / folders[item_id])
        (folder / ITEM_ADAPTERS_FOLDER).mkdir(exist_ok=True)
        index = [asdict(result) | {"folder": folders.get(result.item_id)} for result in self.results]
        (folder / ITEM_ADAPTERS_FOLDER / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ItemAdapters | None:
        """Read `adapters/` of a run folder; None if it has none."""
        path = folder / ITEM_ADAPTERS_FOLDER / _INDEX
        if not path.is_file():
            return None
        index = read_json(path)
        with damage(path):
            folders = {row["item_id"]: row.pop("folder") for row in index}
            results = TypeAdapter(list[ItemResult]).validate_python(index)
        if wrong := [name for name in folders.values() if name is not None and not re.fullmatch(r"\d{5}", str(name))]:
            raise CheckpointError(f"{path} is damaged: {wrong[0]!r:.100} is no folder of an adapter")
        adapters = {item_id: Adapter.load(path.parent / name) for item_id, name in folders.items() if name is not None}
        return cls(adapters, results)


class PerItemForecaster:
    """Forecasts each window with the adapter of its item, `batch["item"]` in `item_ids`; others with the base.

    The adapters share one slot of the network: switching copies some 300 KB.
    """

    def __init__(self, model: Any, adapters: dict[str, Adapter], item_ids: Sequence[str]) -> None:
        self._model = model
        self._adapters = [adapters.get(item_id) for item_id in item_ids]

    def forecast(self, batch: Batch) -> torch.Tensor:
        items = batch["item"].unique().tolist()
        adapters = {item: self._adapters[item] for item in items}
        some = next((adapter for adapter in adapters.values() if adapter is not None), None)
        if some is None:
            return self._model.forecast(batch)
        wrapped = self._model.network = some.wrap(self._model.network)
        forecast: torch.Tensor | None = None
        try:
            for item, adapter in adapters.items():
                rows = batch["item"] == item
                if adapter is not None:
                    adapter.put_on(wrapped)
                with wrapped.disable_adapter() if adapter is None else nullcontext():
                    values = self._model.forecast({name: tensor[rows] for name, tensor in batch.items()})
                if forecast is None:
                    forecast = values.new_empty((len(rows), *values.shape[1:]))
                forecast[rows.to(values.device)] = values
        finally:
            self._model.network = wrapped.unload()
        return forecast
