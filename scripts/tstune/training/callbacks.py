"""What looks on while a model trains: callbacks of one's own, the best weights with early stopping, history, bar."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from tstune.errors import ConfigError
from tstune.named_code import import_named
from tstune.runs.folder import writing
from tstune.runtime.logs import is_quiet


@dataclass
class TrainingState:
    """How far training is, as callbacks see it; one object from begin to end, on every rank its own.

    A `tuning.soup` begins and ends once for each of its seeds; steps and epochs count on.
    """

    module: nn.Module  # the network as wrapped for training (DDP, FSDP, DeepSpeed)
    total_steps: int  # optimizer steps if nothing stops it early
    is_main: bool  # True on the one process that prints and writes
    # done so far; the epoch is counted from 1
    step: int = 0
    epoch: int = 0
    learning_rate: float = 0.0  # of the last step
    # set it to True and training ends after the next step on every rank, as if it were the last
    should_stop: bool = False


class Callback:
    """Looks on, or stops, while a model trains: subclass it and override what you need.

    Callbacks are called on every rank in the order they were given; trackers are one of them. Give them as
    ``fit(callbacks=[…])``, or name the class in `training.callbacks` as ``package.module:Class``.
    """

    def on_train_begin(self, state: TrainingState) -> None:
        """Just before the first step; a run that goes on from a checkpoint begins again."""

    def on_pre_optimizer_step(self, state: TrainingState) -> None:
        """Gradients of the whole batch are there (on this rank's shard), not yet clipped."""

    def on_step_end(self, state: TrainingState) -> None:
        """An optimizer step is done; its gradients are gone."""

    def on_log(self, state: TrainingState, row: Mapping[str, float]) -> None:
        """A row of `history.jsonl`: ``step``, ``epoch`` and what was measured; on the main process only."""

    def on_validation(self, state: TrainingState, loss: float) -> None:
        """The validation loss, scaled units, the same on every rank."""

    def on_train_end(self, state: TrainingState) -> None:
        """The last step is done; the best weights are not yet put back."""


def load_callbacks(names: Sequence[str]) -> list[Callback]:
    """Make the callbacks that a configuration names (`ConfigError`: one cannot be imported, or is no `Callback`)."""
    found = []
    for name in names:
        cls = import_named("training.callbacks:", name)
        try:
            made = cls()
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"training.callbacks: {name} cannot be made ({error}); give package.module:Class, with a constructor "
                "without arguments"
            ) from None
        if not isinstance(made, Callback):
            raise ConfigError(f"training.callbacks: {name} is no tstune.training.callbacks.Callback")
        found.append(made)
    return found


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
    """Rows of the training log: kept in memory, appended to a JSONL file, told to who asked for them."""

    def __init__(self, path: Path | None, tell: Callable[[dict], None]) -> None:
        self.rows: list[dict] = []
        self._path, self._tell = path, tell

    def add(self, **row: object) -> None:
        """Add a row; it is on disk when this returns."""
        self.rows.append(row)
        if self._path is not None:
            with writing(self._path), self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        self._tell(row)

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
        disable=not enabled or is_quiet(),
        mininterval=0.2 if interactive else 30.0,
        dynamic_ncols=interactive,
        leave=True,  # ends its line, so that what is said next starts a new one
    )
