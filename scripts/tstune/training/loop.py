"""The training loop: one loop for every model, on whatever Accelerate was launched with."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tstune.config.schema import TrainingSection, TuningSection
from tstune.data.windows import Batch, training_loader, window_loader, without_weight
from tstune.errors import DEAD_WORKER, ConfigError, Preempted, TrainingError
from tstune.foreign_files import damage, read_object, read_tensors
from tstune.models.adapters import train_mode
from tstune.models.contract import ForecastModel
from tstune.runtime.distributed import DistributedManager, learning_parameters, whole_parameters
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import logger
from tstune.runtime.memory import GPUManager
from tstune.training.callbacks import BestWeights, Callback, History, TrainingState, progress_bar
from tstune.training.checkpoint import (
    Checkpoints,
    Progress,
    find_checkpoint,
    load_random_state,
    load_training_state,
    require_same_run,
    save_random_state,
    save_training_state,
)
from tstune.training.optim import (
    LearningRateCurve,
    WeightAverage,
    build_optimizer,
    find_learning_rate,
    learning_rate_factor,
    running_statistics,
    share_running_statistics,
)

SHARES = (0.75, 0.5, 0.25)
"""Of the way from the untuned to the tuned weights, beside the whole of it."""
_SEEDS = "seeds.safetensors"


@dataclass(frozen=True)
class TrainingResult:
    """What training did."""

    num_steps: int  # optimizer steps taken
    num_epochs: int  # passes begun
    best_step: int  # step whose weights were kept; 0 are the weights training started from
    best_validation_loss: float  # scaled units
    stopped_early: bool  # the patience ran out
    learning_rate: float  # peak learning rate
    lr_curve: LearningRateCurve | None  # what the learning-rate finder saw, if it ran
    seconds: float  # wall time, validation included
    windows_per_second: float  # training windows of all processes per second of training, validation excluded
    resumed_from: int | None  # step of the checkpoint the run went on from, or None
    history: list[dict]  # rows as in `history.jsonl`
    tuned_share: float = 1.0  # of the way from the untuned to the tuned weights; see `tuning.interpolate`
    # per seed of `tuning.soup` what it found and whether it is part of the average; empty without
    soup: list[dict] = field(default_factory=list)


def train(
    model: ForecastModel,
    train_windows: Dataset,
    validation_windows: Dataset,
    config: TrainingSection,
    manager: DistributedManager,
    seed: int,
    eval_batch_size: int = 256,
    history_path: Path | None = None,
    start_counts: bool = True,
    show_progress: bool = True,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    tuning: TuningSection | None = None,
) -> TrainingResult:
    """Train `model.module` in place and leave it with the weights of the lowest validation loss.

    Args:
        model: network and loss.
        train_windows, validation_windows: what to learn from, what to choose by.
        config, manager: the `training` section, and the process group.
        seed: order of the windows.
        eval_batch_size: windows per validation batch.
        history_path: JSONL file to append to; None keeps the history in memory.
        start_counts: the weights training starts from may be kept too; False for random ones.
        show_progress: draw a bar and log every validation.
        checkpoints: where to write them and what to go on from; None does neither.
        callbacks: told what happens, on every rank.
        tuning: asks for several seeds, for noise at the start, for the way back at the end; None for none of them.

    Raises:
        TrainingError: the loss is not a number any more.
        CheckpointError: the checkpoint belongs to another run.
        Preempted: SIGTERM came; a checkpoint has been written.
    """
    tuning = tuning or TuningSection()
    windows = train_windows, validation_windows
    start = _noisy_start(model, tuning.noise_start, seed) if tuning.noise_start else None
    run = _Run(model, windows, config, manager, seed, eval_batch_size, checkpoints, tuning.soup, start)
    run.callbacks = callbacks
    run.history = History(history_path if manager.is_main else None, run.tell_row)
    run.show_progress = show_progress
    run.interpolates = tuning.interpolate == "auto"
    with (
        checkpoints.stop.deferred() if checkpoints else nullcontext(),
        _loading_processes() if config.num_workers else nullcontext(),
    ):
        return run.train(start_counts)


class _Run:
    """One training: its parts, and the order in which they act.

    Of a soup the seeds are trained one after another, each on a copy of the module; `plain` stays as it was until the
    end. Steps, epochs and times count on from seed to seed.
    """

    history: History
    callbacks: Sequence[Callback]
    show_progress: bool
    interpolates: bool = False

    def __init__(
        self,
        model: ForecastModel,
        windows: tuple[Dataset, Dataset],
        config: TrainingSection,
        manager: DistributedManager,
        seed: int,
        eval_batch_size: int,
        checkpoints: Checkpoints | None,
        num_seeds: int,
        start: Mapping[str, torch.Tensor] | None,
    ) -> None:
        self.model, self.config, self.manager, self.checkpoints = model, config, manager, checkpoints
        self.windows, self.seed, self.eval_batch_size = windows, seed, eval_batch_size
        self.num_seeds, self.start = num_seeds, start
        self.progress = Progress()
        self.seeds: list[BestWeights] = []  # what the seeds that are done found
        self.begins_at = 0  # step before the first one of this seed
        self.resumed_from: int | None = None
        self._told_to_stop = False
        self.tuned_share, self.soup = 1.0, []
        self.plain = model.module
        self.identity: dict[str, object] = {}
        resume = None
        if checkpoints is not None:
            self.identity = {"num_processes": manager.num_processes, "strategy": manager.strategy_name}
            self.identity["precision"] = manager.accelerator.mixed_precision
            self.identity |= dict(checkpoints.identity) | {"weights": _fingerprint(self.plain)}
            resume = find_checkpoint(checkpoints.resume, checkpoints.store) if checkpoints.resume else None
        if resume is not None:
            require_same_run(resume, self.identity)
            self._read_seeds(resume)
        self._resume_path = resume
        # FSDP and ZeRO-3 change the module itself; evaluation and files need the plain one afterwards
        self._on_a_copy = manager.is_sharded or num_seeds > 1 or start is not None
        self._take_a_copy()
        self.curve: LearningRateCurve | None = None
        self.learning_rate = self._peak_learning_rate(resume, windows[0], seed)
        self.chunk = config.per_device_batch_size
        if config.auto_batch_size:
            self.chunk = self._fitting_batch_size(windows[0], seed)
        self._set_up()

    def _take_a_copy(self) -> None:
        """Give the model the module that is trained, with the weights that training starts from."""
        self.module = self.bare = self.optimizer = self.average = None  # let go of those of the seed before
        if self._on_a_copy:
            self.model.module = copy.deepcopy(self.plain)
        if self.start is not None:
            self.model.module.load_state_dict(self.start, strict=False)

    def _set_up(self) -> None:
        """Module, optimizer and windows for the seed whose turn it is."""
        config, manager, module, seed = self.config, self.manager, self.model.module, self.seed + len(self.seeds)
        if self.seeds:
            set_seed(seed)
        self.best = BestWeights(config.early_stopping_patience)
        if config.compile:
            module.compile()
        optimizer = build_optimizer(module, config, self.learning_rate, self.model.parts)
        self.module, self.optimizer = manager.prepare(
            module, optimizer, self.model.block_classes, self.chunk, config.max_grad_norm
        )
        self.bare = manager.unwrap(self.module)
        if manager.rank:
            torch.manual_seed(seed + manager.rank)  # every rank drops out other values
        self.average = WeightAverage(self.bare, config.ema_decay) if config.ema_decay else None
        train_windows, validation_windows = self.windows
        self.loader = training_loader(
            train_windows, config.per_device_batch_size, seed, manager.rank, manager.num_processes, config.num_workers
        )
        validation = window_loader(validation_windows, self.eval_batch_size)
        self.validation = manager.accelerator.prepare_data_loader(validation)
        double = torch.float64 if manager.device.type != "mps" else None
        self._loss_sums = torch.zeros(2, device=manager.device, dtype=double)  # since the last row of the log
        self.steps_per_epoch = math.ceil(len(self.loader) / config.gradient_accumulation_steps)
        self.total_steps = int(min(config.num_epochs * self.steps_per_epoch, config.max_steps or math.inf))
        self.eval_every = config.eval_every_steps or self.steps_per_epoch
        self.state = TrainingState(self.module, self.num_seeds * self.total_steps, manager.is_main)

    def tell(self, what: str, *values: object) -> None:
        """Call one method of every callback."""
        self.state.step, self.state.epoch = self.progress.step, self.progress.epoch
        for callback in self.callbacks:
            getattr(callback, what)(self.state, *values)

    def tell_row(self, row: dict) -> None:
        """A row of the history, to the callbacks of the main process."""
        if self.manager.is_main:
            self.tell("on_log", row)

    @property
    def last_step(self) -> int:
        """Of this seed, if nothing stops it early."""
        return self.begins_at + self.total_steps

    @property
    def is_over(self) -> bool:
        """True after the last step of this seed, whoever made it the last; the same on every rank."""
        return self.progress.step >= self.last_step or self.best.should_stop or self._told_to_stop

    def train(self, start_counts: bool) -> TrainingResult:
        progress = self.progress
        self._untuned = self._start_of_the_way() if self.interpolates else {}
        if self._resume_path is not None:
            self._load(self._resume_path)
        self._begin = time.perf_counter() - progress.seconds
        self._last_checkpoint = time.perf_counter()
        self._train_seed(start_counts)
        while len(self.seeds) < self.num_seeds and not self._told_to_stop:
            self.begins_at, progress.batches = progress.step, 0
            self._take_a_copy()
            self._set_up()
            self._train_seed(start_counts)
        progress.seconds = time.perf_counter() - self._begin
        self._finish()
        training_seconds = max(progress.seconds - progress.seconds_validating, 1e-9)
        return TrainingResult(
            num_steps=progress.step,
            num_epochs=progress.epoch,
            best_step=self.best.best_step,
            best_validation_loss=self.best.best_loss,
            tuned_share=self.tuned_share,
            soup=self.soup,
            stopped_early=progress.step < self.num_seeds * self.total_steps,
            learning_rate=self.learning_rate,
            lr_curve=self.curve,
            seconds=progress.seconds,
            windows_per_second=progress.num_windows * self.manager.num_processes / training_seconds,
            resumed_from=self.resumed_from,
            history=self.history.rows,
        )

    def _train_seed(self, start_counts: bool) -> None:
        """All steps of one seed, or what is left of them."""
        self.tell("on_train_begin")
        if start_counts and self.progress.step == self.begins_at:
            if self.seeds:  # the same start as that of the first seed
                self.best.update(self.history.rows[0]["validation_loss"], 0)
                self.best.state = _changing(self.plain)
            else:
                self._validate()
        with progress_bar(self.last_step, self.progress.step, self.manager.is_main and self.show_progress) as bar:
            while not self.is_over:
                self._epoch(bar)
        self.tell("on_train_end")
        self.seeds.append(self.best)

    def _epoch(self, bar: object) -> None:
        """One pass over the windows, or what is left of it."""
        progress = self.progress
        if progress.batches == 0:
            progress.epoch += 1
        self.loader.batch_sampler.set_epoch(progress.epoch - 1, progress.batches)
        train_mode(self.module)
        batches = iter(self.loader)
        while group := list(islice(batches, self.config.gradient_accumulation_steps)):
            stop, due = self._step(group)
            progress.batches += len(group)
            if progress.batches >= len(self.loader):
                progress.batches = 0
            bar.update()
            due_now = (progress.step - self.begins_at) % self.eval_every == 0 or progress.step == self.last_step
            if due_now or self._told_to_stop:
                self._validate()
                train_mode(self.module)
            ended = self.is_over
            if self.checkpoints is not None and (stop or due or ended):  # a finished training is not lost either
                self._save()
                if stop and not ended:
                    raise Preempted
            if ended:
                return

    def _step(self, group: list[Batch]) -> tuple[bool, bool]:
        """One optimizer step; returns whether to stop and whether a checkpoint is due, the same on every rank."""
        config, manager, progress = self.config, self.manager, self.progress
        done = progress.step - self.begins_at
        factor = learning_rate_factor(config.scheduler, done, self.total_steps, config.warmup_fraction)
        for settings in self.optimizer.param_groups:
            settings["lr"] = self.learning_rate * factor * settings["lr_factor"]
        weight = sum(self.model.window_weights(batch).sum().item() for batch in group)
        # Gradients are averaged over the ranks: dividing by the mean weight per rank makes the loss that of the
        # global batch, whatever the masks and the sizes of its parts. The other numbers travel along.
        asked = [weight, float(self._stop_requested()), float(self._checkpoint_due()), float(self.state.should_stop)]
        if manager.num_processes > 1:
            asked = manager.mean(torch.tensor(asked, device=manager.device)).tolist()
        weight, stop, due, told = asked
        self._told_to_stop = told > 0
        shares = (self.loader.batch_sampler.largest_share(progress.batches + number) for number in range(len(group)))
        parts = [math.ceil(share / self.chunk) for share in shares]
        chunks = [chunk for batch, number in zip(group, parts, strict=True) for chunk in _split(batch, number)]
        for number, chunk in enumerate(chunks, start=1):
            with manager.accumulate(self.module, is_last=number == len(chunks)):
                totals, weights = self.model.window_losses(self.module, manager.to_device(chunk))
                manager.accelerator.backward(totals.sum() / max(weight, 1.0))
            self._loss_sums += torch.stack([totals.detach().sum(), weights.sum()])
            progress.num_windows += len(totals)
        self.state.learning_rate = self.learning_rate * factor
        self.tell("on_pre_optimizer_step")
        grad_norm = manager.clip_gradients(self.module, config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        if self.average:
            self.average.update()
        self.tell("on_step_end")
        if progress.step % config.log_every_steps == 0 or progress.step == self.last_step:
            self._log(self.learning_rate * factor, grad_norm)
        return stop > 0, due > 0

    def _log(self, rate: float, grad_norm: float | None) -> None:
        progress, manager = self.progress, self.manager
        total, weight = manager.mean(self._loss_sums.clone()).tolist()
        self._loss_sums.zero_()
        mean = total / weight if weight else math.nan
        if not math.isfinite(mean):
            raise TrainingError(_diverged("training loss", mean, progress.step, self.learning_rate))
        row = {"step": progress.step, "epoch": progress.epoch, "train_loss": mean, "learning_rate": rate}
        if grad_norm is not None:
            row["grad_norm"] = grad_norm
        self.history.add(**row)

    def _validate(self) -> None:
        progress, paused = self.progress, time.perf_counter()
        share_running_statistics(self.bare, self.manager)
        untuned = self.start is not None and progress.step == 0  # training starts from other weights than these
        with self.average.applied() if self.average and not untuned else nullcontext():
            module = self.plain if untuned else self.module
            loss = validation_loss(self.model, module, self.validation, self.manager)
            if not math.isfinite(loss):
                raise TrainingError(_diverged("validation loss", loss, progress.step, self.learning_rate))
            if self.best.update(loss, progress.step):
                self.best.state = _changing(self.plain if untuned else self.bare)
        progress.seconds_validating += time.perf_counter() - paused
        self.history.add(step=progress.step, epoch=progress.epoch, validation_loss=loss, best_step=self.best.best_step)
        self.tell("on_validation", loss)
        if self.show_progress:
            is_best = " (best)" if self.best.best_step == progress.step else ""
            logger.info("step %d: validation loss %.5f%s", progress.step, loss, is_best)

    def _finish(self) -> None:
        """Leave the model with the best weights, on a plain module."""
        self.model.module = self.plain
        self.best = copy.copy(min(self.seeds, key=lambda seed: seed.best_loss))
        if self.num_seeds > 1:
            self._average_seeds()
        if self._untuned and self.best.best_step:
            self._interpolate()
        self.plain.load_state_dict(self.best.state, strict=False)
        self.plain.eval()

    def _loss_with(self, state: dict[str, torch.Tensor]) -> float:
        self.plain.load_state_dict(state, strict=False)
        with self.manager.accelerator.autocast():  # in the precision that the losses of the steps were measured in
            return validation_loss(self.model, self.plain, self.validation, self.manager)

    def _average_seeds(self) -> None:
        """From the best seed on, take one more into the average where that lowers the validation loss."""
        ranked = sorted(self.seeds, key=lambda seed: seed.best_loss)
        taken = ranked[:1]
        for seed in ranked[1:]:
            state = _mean([one.state for one in (*taken, seed)])
            loss = self._loss_with(state)
            if loss < self.best.best_loss:
                self.best.best_loss, self.best.state = loss, state
                taken.append(seed)
        self.soup = [
            {"seed": number, "validation_loss": one.best_loss, "best_step": one.best_step, "averaged": one in taken}
            for number, one in enumerate(self.seeds, self.seed)
        ]
        found = "average of %d of %d seeds: validation loss %.5f, of the best one %.5f"
        logger.info(found, len(taken), len(self.seeds), self.best.best_loss, ranked[0].best_loss)

    def _start_of_the_way(self) -> dict[str, torch.Tensor]:
        """Weights before tuning that a blend with the tuned ones makes sense for.

        Random ones have learned nothing, and of an adapter's two factors the second alone scales its update.
        """
        found = whole_parameters(learning_parameters(self.plain))
        fresh = tuple(self.model.fresh)
        return {
            name: start
            for name, start in found.items()
            if "lora_A" not in name and not name.replace(".modules_to_save.default", "").endswith(fresh)
        }

    def _interpolate(self) -> None:
        """Go back towards the weights at the start as far as the validation loss falls."""
        tuned, best = dict(self.best.state), self.best.best_loss
        for share in SHARES:
            state = {name: torch.lerp(start, tuned[name], share) for name, start in self._untuned.items()}
            loss = self._loss_with(tuned | state)
            if loss < best:
                best, self.tuned_share, self.best.state = loss, share, tuned | state
        self.best.best_loss = best
        logger.info("%.0f %% of the way from the untuned weights: validation loss %.5f", 100 * self.tuned_share, best)

    # Checkpoints

    def _stop_requested(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.stop.requested

    def _checkpoint_due(self) -> bool:
        """After the step that is about to be taken."""
        plan = self.checkpoints
        if plan is None:
            return False
        if plan.every_steps and (self.progress.step + 1) % plan.every_steps == 0:
            return True
        minutes = (time.perf_counter() - self._last_checkpoint) / 60
        return self.manager.is_main and plan.every_minutes is not None and minutes >= plan.every_minutes

    def _save(self) -> None:
        self.progress.seconds = time.perf_counter() - self._begin
        self.checkpoints.store.save(self.progress.step, self.best.best_step, self._write)
        self._last_checkpoint = time.perf_counter()

    def _write(self, folder: Path) -> None:
        rank = self.manager.rank
        save_training_state(folder, self.module, self.optimizer, self.manager)
        save_random_state(folder, rank)
        average = whole_parameters(self.average.named()) if self.average else {}
        self.progress.loss_sums = self._loss_sums.tolist()
        (folder / f"progress-rank{rank}.json").write_text(json.dumps(asdict(self.progress)), encoding="utf-8")
        if self.manager.is_main:
            save_file(self.best.state, folder / "best.safetensors")
            if self.average:
                save_file(average, folder / "average.safetensors")
            if self.seeds:
                states = enumerate(one.state for one in self.seeds)
                tensors = {f"{number}/{name}": value for number, state in states for name, value in state.items()}
                save_file(tensors, folder / _SEEDS)
            shared = {
                "best": self.best.to_dict(),
                "history": self.history.rows,
                "learning_rate": self.learning_rate,
                "lr_curve": asdict(self.curve) if self.curve else None,
                "average_updates": self.average.updates if self.average else 0,
                "told_to_stop": self._told_to_stop,
                "begins_at": self.begins_at,
                "seeds": [one.to_dict() for one in self.seeds],
            }
            (folder / "shared.json").write_text(json.dumps(shared), encoding="utf-8")
            (folder / "run.json").write_text(json.dumps(self.identity, indent=2), encoding="utf-8")

    def _load(self, folder: Path) -> None:
        with damage(folder):
            self._read(folder)
        self.manager.wait()
        logger.info("resumed from step %d of %d (%s)", self.progress.step, self.total_steps, folder)

    def _read(self, folder: Path) -> None:
        rank = self.manager.rank
        load_training_state(folder, self.module, self.optimizer, self.manager)
        shared = read_object(folder / "shared.json")
        progress = TypeAdapter(Progress).validate_python(read_object(folder / f"progress-rank{rank}.json"))
        vars(self.progress).update(vars(progress))
        self._loss_sums.copy_(torch.tensor(self.progress.loss_sums, dtype=self._loss_sums.dtype))
        self.best.restore(shared["best"], read_tensors(folder / "best.safetensors"))
        self.history.replace(shared["history"])
        self.curve = LearningRateCurve(**shared["lr_curve"]) if shared["lr_curve"] else None
        if self.average:
            self.average.restore(read_tensors(folder / "average.safetensors"), shared["average_updates"])
        self._told_to_stop = shared["told_to_stop"]
        load_random_state(folder, rank)
        self.resumed_from = self.progress.step

    def _read_seeds(self, folder: Path) -> None:
        """What seeds before this one found, if the checkpoint is one of a soup."""
        with damage(folder):
            shared = read_object(folder / "shared.json")
            found = shared.get("seeds", [])
            tensors = read_tensors(folder / _SEEDS) if found else {}
            for number, values in enumerate(found):
                state = {
                    name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{number}/")
                }
                best = BestWeights(None)
                best.restore(values, state)
                self.seeds.append(best)
            self.begins_at = shared.get("begins_at", 0)

    # Before the start

    def _peak_learning_rate(self, resume: Path | None, windows: Dataset, seed: int) -> float:
        if self.config.learning_rate != "auto":
            return self.config.learning_rate
        if resume is not None:
            return read_object(resume / "shared.json", keys=["learning_rate"])["learning_rate"]
        self.curve = find_learning_rate(self.model, windows, self.config, self.manager, seed)
        return self.curve.suggestion

    def _fitting_batch_size(self, windows: Dataset, seed: int) -> int:
        """Windows per forward and backward pass that fit into the memory of every rank."""
        module, wanted = self.model.module, self.config.per_device_batch_size
        batch = next(iter(training_loader(windows, wanted, seed, self.manager.rank, self.manager.num_processes)))

        def try_batch(size: int) -> None:
            part = {name: tensor[:size] for name, tensor in batch.items()}
            try:
                totals, _ = self.model.window_losses(module, self.manager.to_device(part))
                totals.sum().backward()
            finally:
                module.zero_grad(set_to_none=True)

        train_mode(module)
        with torch.random.fork_rng():
            size, parts = GPUManager(self.manager.device).fit_batch_size(try_batch, wanted, self.manager.all_agree)
        if parts > 1:
            logger.warning(
                "out of memory with %d windows at once: each step takes them in %d parts of %d; same result, slower",
                wanted,
                parts,
                size,
            )
        return size


def _noisy_start(model: ForecastModel, share: float, seed: int) -> dict[str, torch.Tensor]:
    """The weights with a share of random ones mixed in, those that `tuning.mode=from_scratch` begins with."""
    other = type(model)(model.config.changing("tuning", mode="from_scratch"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        other.build(model.preprocessor)
    random = dict(other.module.named_parameters())
    named = [(name, weights.detach()) for name, weights in model.module.named_parameters()]
    start = {name: torch.lerp(weights, random[name].detach().to(weights), share) for name, weights in named}
    if all(torch.equal(start[name], weights) for name, weights in named):
        raise ConfigError(
            f"tuning.noise_start={share:g}: with tuning.mode=from_scratch {type(model).__name__} has the same weights; "
            "leave it out"
        )
    return start


def _changing(module: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> whole tensor of all that training changes."""
    return whole_parameters([*learning_parameters(module), *running_statistics(module)])


def _mean(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensor by tensor; a count of batches stays that of the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def validation_loss(model: ForecastModel, module: nn.Module, loader: DataLoader, manager: DistributedManager) -> float:
    """Mean loss over all windows, each counted once on any number of ranks."""
    module.eval()
    total = weight = 0.0
    # the buffers that sharding gathers weights into are used again in training: they must not be inference tensors
    with torch.no_grad() if manager.is_sharded else torch.inference_mode():
        for batch in loader:
            totals, weights = manager.accelerator.gather_for_metrics(model.window_losses(module, batch))
            total += totals.double().sum().item()
            weight += weights.double().sum().item()
    return total / weight if weight else math.nan


@contextmanager
def _loading_processes() -> Iterator[None]:
    """A process that loads windows and was killed ends the training in one line, wherever torch notices it."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise TrainingError(DEAD_WORKER) from None


def _split(batch: Batch, parts: int) -> Iterator[Batch]:
    """So many parts whatever the batch holds: a rank that took fewer passes than another would leave it waiting."""
    num_windows = len(batch["start"])
    for part in range(parts):
        begin, end = (num_windows * border // parts for border in (part, part + 1))
        if begin < end:
            yield {name: tensor[begin:end] for name, tensor in batch.items()}
        else:
            yield without_weight({name: tensor[:1] for name, tensor in batch.items()})


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 of all weights: frozen features and adapters are only right on the same base."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _diverged(what: str, value: float, step: int, learning_rate: float) -> str:
    return (
        f"{what} is {value} at step {step}; lower training.learning_rate (now {learning_rate:g}), "
        "set training.max_grad_norm, or check the data for extreme values"
    )
