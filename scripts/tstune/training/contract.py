"""What the loop is told about checkpoints, how far it is, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tstune.runtime.signals import StopSignal
from tstune.training.checkpoint import CheckpointStore
from tstune.training.optim import LearningRateCurve


@dataclass(frozen=True)
class Checkpoints:
    """How a run writes checkpoints and where it goes on from.

    Attributes:
        store: where they lie.
        every_steps, every_minutes: how often; both None writes one only when the run is preempted.
        resume: ``auto``, a path, or None.
        identity: what defines the run; a checkpoint of another run is refused.
        stop: tells that the machine is being taken away.
    """

    store: CheckpointStore
    every_steps: int | None
    every_minutes: float | None
    resume: str | None
    identity: Mapping[str, object]
    stop: StopSignal


@dataclass
class Progress:
    """How far a run is. Everything but the weights and the optimizer; each rank has its own."""

    step: int = 0
    epoch: int = 0
    batches: int = 0
    num_windows: int = 0
    seconds: float = 0.0
    seconds_validating: float = 0.0
    loss_sums: list[float] = field(default_factory=lambda: [0.0, 0.0])


@dataclass(frozen=True)
class TrainingResult:
    """What training did.

    Attributes:
        num_steps: optimizer steps taken.
        num_epochs: passes begun.
        best_step: step whose weights were kept; 0 are the weights training started from.
        best_validation_loss: scaled units.
        tuned_share: of the way from the untuned to the tuned weights; see `tuning.interpolate`.
        soup: per seed of `tuning.soup` what it found and whether it is part of the average; empty without.
        stopped_early: the patience ran out.
        learning_rate: peak learning rate.
        lr_curve: what the learning-rate finder saw, if it ran.
        seconds: wall time, validation included.
        windows_per_second: training windows of all processes per second of training, validation excluded.
        resumed_from: step of the checkpoint the run went on from, or None.
        history: rows as in `history.jsonl`.
    """

    num_steps: int
    num_epochs: int
    best_step: int
    best_validation_loss: float
    stopped_early: bool
    learning_rate: float
    lr_curve: LearningRateCurve | None
    seconds: float
    windows_per_second: float
    resumed_from: int | None
    history: list[dict]
    tuned_share: float = 1.0
    soup: list[dict] = field(default_factory=list)
