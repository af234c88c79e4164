r"""A tracker of one's own: files as usual, and the gradient norm of every layer that learns with each training row.

python scripts/finetune_ttm.py --config recipes/ttm/cgm_sample/demo.yaml \
    'tracking.trackers=[examples.gradient_norm_tracker:GradientNormTracker]'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.tracking.interfaces import RunStatus
from tstune.tracking.simple_tracker import SimpleExperimentTracker

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle

_WRAPPERS = ("module.", "_orig_mod.")  # of DDP and torch.compile


class GradientNormTracker(SimpleExperimentTracker):
    """Adds ``grad_norm/<layer>`` to the rows with a training loss: Euclidean norm over the layer's parameters.

    It is the gradient of the last step on this process, before clipping and before processes are averaged; with
    fp16 it is in units of the loss scale. The files lie under ``gradient_norms`` in `tracking.folder`.
    """

    name = "gradient_norm"

    def __init__(
        self, base_dir: str | Path = "experiments", run_name: str | None = None, parent_run: str | None = None
    ) -> None:
        super().__init__(base_dir, run_name, parent_run)
        self._hooks: list[RemovableHandle] = []
        self._squares: dict[str, torch.Tensor] = {}

    def watch_model(self, module: nn.Module) -> None:
        """Hook every parameter that learns."""
        self._forget()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._note(_plain(name))))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the row with the norms."""
        norms = self._norms() if "train_loss" in metrics else {}
        super().log_metrics(dict(metrics) | norms, step)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Take the hooks away and end the run."""
        self._forget()
        return super().end_experiment(status)

    def _note(self, name: str) -> Callable[[torch.Tensor], None]:
        def note(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                self._squares[name] = parameter.grad.detach().float().square().sum()  # read only when it is logged

        return note

    def _norms(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for name, square in self._squares.items():
            layer = name.rpartition(".")[0] or name
            sums[layer] = sums.get(layer, 0.0) + square.item()
        return {f"grad_norm/{layer}": math.sqrt(total) for layer, total in sums.items()}

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._squares = [], {}


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "", 1) if name.startswith(wrapper) else name
    return name
