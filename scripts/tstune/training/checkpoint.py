"""Checkpoints inside a run: written aside, checked by checksum, renamed, so that one that exists is whole."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tstune.errors import CheckpointError, DistributedError, OutputError
from tstune.foreign_files import CHECKSUMS, broken_seal, read_object, read_tensors, seal
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.files import is_disk_trouble, sync, sync_all
from tstune.runtime.logs import logger
from tstune.runtime.signals import StopSignal

_WEIGHTS, _OPTIMIZER, _SHARDS = "learning.safetensors", "optimizer", "shards"


def save_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, manager: DistributedManager
) -> None:
    """Write what training changes. A collective: every rank must call it.

    Without sharding the main process writes the learning parameters and buffers (a few hundred KB for an adapter)
    and the optimizer; FSDP and DeepSpeed write their shards through Accelerate.
    """
    if manager.is_sharded:
        manager.accelerator.save_state(str(folder / _SHARDS))
        return
    if manager.is_main:
        save_file(_changing(manager.unwrap(module)), folder / _WEIGHTS)
        scaler = manager.accelerator.scaler
        _save_optimizer(folder, optimizer.state_dict(), scaler.state_dict() if scaler else None)


def load_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, manager: DistributedManager
) -> None:
    """Read what `save_training_state` wrote, on every rank."""
    if manager.is_sharded:
        manager.wait()
        manager.accelerator.load_state(str(folder / _SHARDS))
        return
    bare = manager.unwrap(module)
    bare.load_state_dict(read_tensors(folder / _WEIGHTS), strict=False)
    state, scaler = _load_optimizer(folder, optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict(state)
    if scaler is not None:
        manager.accelerator.scaler.load_state_dict(scaler)


def stored_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Parameters that learned and buffers by name; empty where they lie in shards."""
    return read_tensors(folder / _WEIGHTS) if (folder / _WEIGHTS).is_file() else {}


def _save_optimizer(folder: Path, state: dict, scaler: dict | None) -> None:
    """Tensors as safetensors, everything else as JSON: nothing in a checkpoint can run code when it is read."""
    tensors, numbers = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value.detach().clone().contiguous()  # a file holds no shared memory
            else:
                numbers[f"{index}/{name}"] = value
    save_file(tensors, folder / f"{_OPTIMIZER}.safetensors")
    rest = {"param_groups": state["param_groups"], "numbers": numbers, "scaler": scaler}
    (folder / f"{_OPTIMIZER}.json").write_text(json.dumps(rest), encoding="utf-8")


def _load_optimizer(folder: Path, like: list[dict]) -> tuple[dict, dict | None]:
    """State and scaler; settings that are pairs in `like` are pairs again, which JSON does not know."""
    path = folder / f"{_OPTIMIZER}.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} was written by an earlier version of the project; begin anew: overwrite=true")
    rest = read_object(path, keys=["numbers", "param_groups", "scaler"])
    state: dict[int, dict[str, object]] = {}
    for key, value in [*read_tensors(folder / f"{_OPTIMIZER}.safetensors").items(), *rest["numbers"].items()]:
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    groups = [
        {name: tuple(value) if isinstance(now.get(name), tuple) else value for name, value in group.items()}
        for group, now in zip(rest["param_groups"], like, strict=True)
    ]
    return {"state": state, "param_groups": groups}, rest["scaler"]


def _changing(module: nn.Module) -> dict[str, torch.Tensor]:
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    # with every name of a shared parameter, which a file may hold once only
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    return {name: value.contiguous() for name, value in state.items() if name in learning or name not in parameters}


_PREFIX = "step-"


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they lie; every rank must see the same folder.
        keep: how many of the newest stay, beside the one with the best weights.
        manager: process group.
    """

    def __init__(self, folder: Path, keep: int, manager: DistributedManager) -> None:
        self.folder = folder
        self._keep = keep
        self._manager = manager

    def save(self, step: int, best_step: int, write: Callable[[Path], None]) -> None:
        """Make the checkpoint of `step`: `write` puts this rank's files into the folder it is given.

        Where the disk is full or not writable, that is an `OutputError` and nothing half-written stays.
        """
        aside, final = self.folder / f".{_PREFIX}{step:08d}.partial", self._of_step(step)
        try:
            if self._manager.is_main:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            self._manager.wait()
            if not aside.is_dir():
                raise DistributedError(
                    f"{self.folder} is not the same folder on all nodes; put output_dir on a shared disk"
                )
            write(aside)
            self._manager.wait()
            if self._manager.is_main:
                seal(aside)
                sync_all(aside)
                shutil.rmtree(final, ignore_errors=True)
                aside.rename(final)
                sync(self.folder)
                self._prune(best_step)
        except Exception as error:
            if not is_disk_trouble(error):
                raise
            shutil.rmtree(aside, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(f"checkpoint of step {step} cannot be written to {self.folder}: {reason}") from None
        self._manager.wait()

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole, the same on every rank; damaged ones are named and passed over."""
        found: str | None = None
        if self._manager.is_main:
            for path in sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True):
                broken = broken_seal(path)
                if broken is None:
                    found = str(path)
                    break
                logger.warning("checkpoint %s is damaged (%s): trying the one before", path, broken)
        found = self._manager.from_main(found)
        return None if found is None else Path(found)

    def _of_step(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:08d}"

    def _prune(self, best_step: int) -> None:
        for path in sorted(self.folder.glob(f"{_PREFIX}*"))[: -self._keep]:
            if path != self._of_step(best_step):
                shutil.rmtree(path)
        for path in self.folder.glob(f".{_PREFIX}*.partial"):  # a run that was killed while it wrote
            shutil.rmtree(path)


def find_checkpoint(wanted: str, store: CheckpointStore) -> Path | None:
    """Checkpoint to go on from: the newest for ``auto`` (None if there is none), or the whole one at a path."""
    if wanted == "auto":
        return store.newest()
    path = Path(wanted)
    if not path.is_dir():
        raise CheckpointError(f"training.resume_from_checkpoint={path} does not exist")
    if not (path / CHECKSUMS).is_file():
        inside = CheckpointStore(path, 1, store._manager).newest()
        if inside is None:
            raise CheckpointError(f"training.resume_from_checkpoint={path} holds no whole checkpoint")
        return inside
    if (broken := broken_seal(path)) is not None:
        raise CheckpointError(f"training.resume_from_checkpoint={path} is damaged: {broken}")
    return path


def require_same_run(path: Path, now: Mapping[str, object]) -> None:
    """Refuse a checkpoint of another run, and name every difference: its end would not be the same."""
    then = read_object(path / "run.json")
    now = json.loads(json.dumps(now))
    ranks = then.get("num_processes")
    if ranks != now["num_processes"]:
        raise CheckpointError(
            f"{path.name} was written by {ranks} process(es), now there are {now['num_processes']}: random numbers and "
            "optimizer parts belong to a rank, so the result would differ; start with: "
            f"accelerate launch --num_processes {ranks} …"
        )
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    differences = [f"{key}: {then.get(key)} → {now.get(key)}" for key in keys]
    if differences:
        raise CheckpointError(
            f"{path} belongs to another run ({'; '.join(differences[:5])}); "
            "use the same settings, or training.resume_from_checkpoint=null and another output_dir"
        )


def save_random_state(folder: Path, rank: int) -> None:
    """Write the states of all generators of this rank."""
    states = {"torch": torch.get_rng_state()}
    for index, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []):
        states[f"cuda{index}"] = state
    save_file(states, folder / f"random-rank{rank}.safetensors")
    name, keys, position, has_gauss, gauss = np.random.get_state()
    numpy_state = [name, keys.tolist(), position, has_gauss, gauss]
    others = {"python": random.getstate(), "numpy": numpy_state}
    (folder / f"random-rank{rank}.json").write_text(json.dumps(others), encoding="utf-8")


def load_random_state(folder: Path, rank: int) -> None:
    """Put the generators of this rank back."""
    states = read_tensors(folder / f"random-rank{rank}.safetensors")
    torch.set_rng_state(states.pop("torch"))
    if states:
        torch.cuda.set_rng_state_all([states[f"cuda{index}"] for index in range(len(states))])
    others = read_object(folder / f"random-rank{rank}.json", keys=["python", "numpy"])
    version, internal, gauss = others["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = others["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


@dataclass(frozen=True)
class Checkpoints:
    """How a run writes checkpoints and where it goes on from."""

    store: CheckpointStore  # where they lie
    # how often; both None writes one only when the run is preempted
    every_steps: int | None
    every_minutes: float | None
    resume: str | None  # ``auto``, a path, or None
    identity: Mapping[str, object]  # what defines the run; a checkpoint of another run is refused
    stop: StopSignal  # tells that the machine is being taken away


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
