"""Small observers of the training loop: early stopping with the best weights, history, progress bar."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from tstune.training.contract import TrainingObserver


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

    def update(self, loss: float, step: int) -> bool:
        """Take a validation result; True if it is the best so far: then set `state` to the weights of this step."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._without_improvement = loss, step, 0
            return True
        self._without_improvement += 1
        return False

    def to_dict(self) -> dict[str, float | int]:
        """All but the weights, for a checkpoint."""
        best_loss = self.best_loss if math.isfinite(self.best_loss) else None
        return {"loss": best_loss, "step": self.best_step, "without_improvement": self._without_improvement}

    def restore(self, values: dict, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `to_dict` gave and the weights."""
        self.best_loss = math.inf if values["loss"] is None else values["loss"]
        self.best_step, self._without_improvement = values["step"], values["without_improvement"]
        self.state = state


class History:
    """Rows of the training log: kept in memory, appended to a JSONL file, told to an observer."""

    def __init__(self, path: Path | None, observer: TrainingObserver | None = None) -> None:
        self.rows: list[dict] = []
        self._path, self._observer = path, observer

    def add(self, **row: object) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        if self._observer is not None:
            self._observer.row_logged(row)

    def replace(self, rows: list[dict]) -> None:
        """Go on from the rows of a checkpoint."""
        self.rows = list(rows)
        if self._path is not None:
            self._path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def progress_bar(total_steps: int, done: int, enabled: bool) -> tqdm:
    """Bar over optimizer steps with loss and time left; in a log file it prints a line every 30 s."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total_steps,
        initial=done,
        desc="train",
        unit="step",
        disable=not enabled,
        mininterval=0.2 if interactive else 30.0,
        dynamic_ncols=interactive,
        leave=True,  # ends its line, so that what is said next starts a new one
    )
