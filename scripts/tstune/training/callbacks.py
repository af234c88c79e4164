"""Small observers of the training loop: early stopping with the best weights, history, progress bar."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm


class BestWeights:
    """Remembers the learning parameters at the lowest validation loss, and when to give up.

    Args:
        patience: validations without improvement before `should_stop`; None never stops.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best_loss = math.inf
        self.best_step = 0
        self.state: dict[str, torch.Tensor] = {}
        self._without_improvement = 0

    @property
    def should_stop(self) -> bool:
        """True once the patience is used up."""
        return self.patience is not None and self._without_improvement >= self.patience

    def update(self, loss: float, step: int, state: dict[str, torch.Tensor]) -> bool:
        """Take a validation result; returns whether it is the best so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._without_improvement = loss, step, 0
            self.state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
            return True
        self._without_improvement += 1
        return False


class History:
    """Rows of the training log, kept in memory and appended to a JSONL file."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[dict] = []
        self._path = path

    def add(self, **row: object) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


def progress_bar(total_steps: int, enabled: bool) -> tqdm:
    """Bar over optimizer steps with loss and time left; in a log file it prints a line every 30 s."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total_steps,
        desc="train",
        unit="step",
        disable=not enabled,
        mininterval=0.2 if interactive else 30.0,
        dynamic_ncols=interactive,
        leave=True,  # ends its line, so that what is said next starts a new one
    )
