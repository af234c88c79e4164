"""Which parameters learn: one switch, `tuning.mode`, turned into `requires_grad`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from torch import nn

# mode -> parts of the model that learn; None means all of them
LEARNING_PARTS: Mapping[str, tuple[str, ...] | None] = {
    "zero_shot": (),
    "decoder": ("decoder", "head"),
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
    """Count parameters, shared ones once."""
    parameters = list(module.parameters())
    return ParameterCount(
        total=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def apply_tuning_mode(module: nn.Module, mode: str, parts: Mapping[str, str], fresh: Collection[str]) -> ParameterCount:
    """Freeze what the mode does not train.

    Args:
        module: the model.
        mode: a key of `LEARNING_PARTS`.
        parts: part name -> prefix of its parameter names, for example ``{"head": "head."}``.
        fresh: names of randomly initialised parameters; they learn in every mode but ``zero_shot``,
            because a frozen random layer would only add noise.
    """
    learning = LEARNING_PARTS[mode]
    for name, parameter in module.named_parameters():
        if learning is None:
            parameter.requires_grad = True
        else:
            in_part = any(name.startswith(parts[part]) for part in learning)
            parameter.requires_grad = in_part or (name in fresh and mode != "zero_shot")
    return count_parameters(module)


def train_mode(module: nn.Module) -> None:
    """Put the module in train mode, but every part without a learning parameter in eval mode.

    A frozen backbone then runs without dropout: its features are the pretrained ones, and cheaper.
    """
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
