"""Adapters as plain values: take one out of a peft model, put it in, write and read it in peft's own format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tstune.errors import CheckpointError

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """Weights and settings of one adapter.

    Attributes:
        config: peft's `LoraConfig`.
        state: tensor name -> value, in peft's naming.
    """

    config: peft.LoraConfig
    state: dict[str, torch.Tensor]

    @classmethod
    def taken_from(cls, model: peft.PeftModel) -> Adapter:
        """Copy the adapter of a model."""
        state = peft.get_peft_model_state_dict(model)
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        return cls(model.peft_config["default"], copies)

    def put_on(self, model: peft.PeftModel) -> None:
        """Overwrite the adapter of a model with the same settings."""
        peft.set_peft_model_state_dict(model, self.state)

    def wrap(self, base: nn.Module) -> peft.PeftModel:
        """Attach the adapter to its base.

        Raises:
            CheckpointError: the base does not have the layers it was made for.
        """
        try:
            # peft notes the base in the settings and warns when another copy of it is used
            config = replace(self.config, base_model_name_or_path=None)
            model = peft.get_peft_model(base, config)
            result = peft.set_peft_model_state_dict(model, self.state)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"the adapter does not fit this base: {str(error).splitlines()[0]}") from None
        if result.unexpected_keys:
            raise CheckpointError(f"the adapter does not fit this base: no place for {result.unexpected_keys[0]}")
        return model.eval()

    def save(self, folder: Path) -> None:
        """Write a folder that `peft.PeftModel.from_pretrained` loads."""
        folder.mkdir(parents=True)
        self.config.save_pretrained(folder)
        save_file(self.state, folder / _WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read what `save` wrote.

        Raises:
            CheckpointError: missing or damaged.
        """
        path = Path(folder) / _WEIGHTS
        if not path.is_file():
            raise CheckpointError(f"{folder} is not an adapter folder: {_WEIGHTS} is missing")
        try:
            return cls(peft.LoraConfig.from_pretrained(str(folder)), load_file(path))
        except (ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: the adapter is damaged: {error}") from None
