"""Tracking to Weights & Biases: online, offline, or not at all."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.config.names import dotted
from tstune.config.schema import TrackingSection
from tstune.errors import TrackingError
from tstune.named_code import optional_module
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import (
    RunStatus,
    RunTracker,
    check_run_id,
    copy,
    copy_model,
    first_line,
    inside,
    numbers,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODES = ("online", "offline", "disabled")

_EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 255}  # 255 is what W&B itself says of Ctrl-C
_START_SECONDS, _UPLOAD_SECONDS = 30, 300
_STEP = "step"
_FOLDER = TrackingSection().folder


class WandbExperimentTracker(RunTracker):
    """One W&B run per run, with our run id.

    Metrics of a step are rows of the history with a column ``step``, which is the x axis of every chart: W&B's own
    step must never go back, ours does when a run is resumed from a checkpoint. Metrics of the whole run are in the
    summary. Settings, parameters and tags are the config, as dotted names. Files lie under ``artifacts/`` in the run's
    files, the model is an artifact of type ``model``.

    Nothing of the process is recorded but what is logged: no console, code, git state, command line, host
    description or system metrics. The key comes from WANDB_API_KEY or ``wandb login``. Offline runs need none;
    ``wandb sync`` sends them. A run that goes on offline lies in a folder of its own with the same id.

    Args:
        project: W&B project; null takes the name of the experiment.
        entity: user or team; null takes the key's default.
        mode: ``online``, ``offline`` or ``disabled``; null takes WANDB_MODE, else online.
        folder: a folder ``wandb`` is made in it.
        run_name: name people read; null takes that of the output folder.
        parent_run: run this one is a part of; the runs of a parent are one group.
    """

    name = "wandb"

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: str | None = None,
        folder: str | Path = _FOLDER,
        run_name: str | None = None,
        parent_run: str | None = None,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise TrackingError(f"wandb: unknown mode {mode!r}; use {', '.join(MODES)}")
        super().__init__(run_name, parent_run)
        self.project, self.entity, self.mode, self.folder = project, entity, mode, Path(folder)

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> WandbExperimentTracker:
        """The ``wandb_…`` keys of `tracking`."""
        where = tracking.wandb_project, tracking.wandb_entity, tracking.wandb_mode
        return cls(*where, tracking.folder, tracking.run_name, tracking.parent_run)

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Begin a run, or go on with the one that has this id (`TrackingError`: no key, or W&B does not answer)."""
        self.run_id = check_run_id(run_id)
        mode = self.mode or os.environ.get("WANDB_MODE") or "online"
        os.environ.setdefault("WANDB_SILENT", "true")  # it neither chats nor asks for a key
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = optional_module("wandb", "the wandb tracker", "wandb>=0.31,<0.32")
        self.folder.mkdir(parents=True, exist_ok=True)
        exits = sys.exit, sys.excepthook
        try:
            self._run = wandb.init(
                project=self.project or experiment_name,
                entity=self.entity,
                id=self.run_id,
                name=self._shown_name(config),
                group=self.parent_run,
                resume="allow" if mode == "online" else None,
                mode=mode,
                dir=str(self.folder),
                config=_json(dict(dotted(config))),
                settings=wandb.Settings(**_SETTINGS),
            )
        except wandb.errors.UsageError as error:
            raise TrackingError(f"wandb: {first_line(error)} {_FIX}") from error
        except Exception as error:
            raise TrackingError(f"wandb does not start: {first_line(error)}; {_FIX}") from error
        finally:
            sys.exit, sys.excepthook = exits  # W&B puts its own there; this run is ended by us
        self._run.define_metric("*", step_metric=_STEP)
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Put them into the config."""
        self._started.config.update(_json(params), allow_val_change=True)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Put them into the config as ``tags.…``, and the description into the notes: a tag of W&B has no value."""
        self.log_params({f"tags.{name}": text for name, text in tags.items() if name != "description"})
        if "description" in tags:
            self._started.notes = tags["description"]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row to the history, or results of the whole run to the summary."""
        if step is None:
            self._started.summary.update(numbers(metrics))
        else:
            self._started.log({_STEP: step} | numbers(metrics))

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Log an artifact of type ``model``; its files lie beside the run's other files until they are sent."""
        import wandb

        run = self._started
        files = inside(Path(run.dir).parent / "models", model_name)
        copy_model(Path(model_path), files)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", f"{model_name}-{run.id}"), type="model")
        for file in _files(files):
            # "immutable" spares a copy in the home of the user: this one stays
            artifact.add_file(str(file), str(file.relative_to(files)), skip_cache=True, policy="immutable")
        run.log_artifact(artifact)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Put a file or folder under ``artifacts/``: the names beside it are W&B's own."""
        run, path = self._started, Path(path)
        target = inside(Path(run.dir) / "artifacts", name or path.name)
        copy(path, target)
        for file in _files(target):
            run.save(str(file), base_path=run.dir, policy="now", glob=False)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Log a picture under its name."""
        import wandb

        run = self._started
        file = write_figure(figure, inside(Path(run.dir).parent / "figures", name))
        run.log({name: wandb.Image(str(file))})

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End the run with exit code 0, 1 (failed) or 255 (killed), and wait until it is sent or on disk."""
        import wandb

        run, self._run = self._started, None
        run.finish(exit_code=_EXIT_CODES[status])
        if run.settings.mode == "offline":
            if wandb.setup().most_recent_active_run is None:
                wandb.teardown()  # what `finish` only asks for is done when this returns; a new run starts it anew
            logger.info("wandb: send this run with: wandb sync %s", Path(run.dir).parent)
        return run.id


_FIX = (
    "set WANDB_API_KEY or run `wandb login`, set tracking.wandb_mode=offline, or tracking.required=false to train "
    "without it"
)

_SETTINGS = {
    "console": "off",
    "silent": True,
    "disable_code": True,
    "save_code": False,
    "disable_git": True,
    "disable_job_creation": True,
    "symlink": False,
    "reinit": "create_new",  # the global wandb.run is the user's
    "init_timeout": _START_SECONDS,
    "login_timeout": _START_SECONDS,
    "finish_timeout": _UPLOAD_SECONDS,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _json(values: Mapping[str, object]) -> dict:
    return json.loads(json.dumps(dict(values), default=str))
