"""What a sweep is, how its trials are started, and what it finds: a table, two pictures, the best recipe."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Literal

import optuna
import yaml
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError
from tstune.runs.folder import RunFolder
from tstune.runtime.children import Child, ForkedChild
from tstune.runtime.files import aside, cell, escape, escape_lines
from tstune.sweeps.space import METRIC, Dimension, as_text
from tstune.sweeps.storage import Point, points

FILES = ("trials.csv", "README.md", "importance.png", "history.png", "best.yaml")


SCRIPT = Path(__file__).resolve().parents[2] / "finetune_ttm.py"
LIBRARIES = (
    "tstune.runs.finetune",
    "tstune.models.ttm",
    "tsfm_public.models.tinytimemixer.modeling_tinytimemixer",
    "sklearn.linear_model",
    "deepspeed",
)
"""What a run loads before it begins: seconds for each trial, or once for all."""
_PLACES = ("machine_rank", "main_process_ip", "main_process_port", "num_machines")


@dataclass(frozen=True)
class Launch:
    """How a run is launched."""

    accelerate_config: str | None = None  # file of accelerate_configs/, None for Accelerate's defaults
    num_processes: int | None = None  # None takes what the file or the machine says

    def start(self, recipe: Path, log: Path, hidden: Collection[str] = ()) -> Child:
        """Start a trial; its log gets what it says, and it does not get the hidden environment variables."""
        if self._is_one_process:
            return ForkedChild(SCRIPT, ["--config", str(recipe)], LIBRARIES, log, hidden)
        return Child(self.command(recipe), log, hidden)

    @property
    def _is_one_process(self) -> bool:
        """Whether `accelerate launch` would start one process and tell it nothing: no file, no second GPU."""
        home = os.environ.get("HF_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
        defaults = (Path(home).expanduser() / "accelerate" / f"default_config.{kind}" for kind in ("yaml", "json"))
        told = self.accelerate_config is not None or any(file.exists() for file in defaults)
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return not told and (self.num_processes == 1 or (self.num_processes is None and gpus <= 1))

    def command(self, recipe: Path) -> list[str]:
        """Words that start a trial."""
        # -P: the current folder may hold a file named like a library
        words = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--quiet", *self._options]
        words += ["--main_process_port", "0"]  # a free one: several may share the machine
        return [*words, str(SCRIPT), "--config", str(recipe)]

    def shown(self, recipe: Path) -> str:
        """The same for a reader."""
        return shlex.join(["accelerate", "launch", *self._options, "scripts/finetune_ttm.py", "--config", str(recipe)])

    def settings(self) -> dict[str, object]:
        """What of it may change a result, as flat names (`ConfigError`: the file cannot be used for trials)."""
        values = {} if self.accelerate_config is None else self._file()
        if self.num_processes is not None or not values:
            values["num_processes"] = self.num_processes
        return {f"accelerate.{name}": value for name, value in values.items() if name not in _PLACES}

    @property
    def _options(self) -> list[str]:
        options = [] if self.accelerate_config is None else ["--config_file", self.accelerate_config]
        return options if self.num_processes is None else [*options, "--num_processes", str(self.num_processes)]

    def _file(self) -> dict[str, object]:
        told = f"--accelerate-config {self.accelerate_config}"
        try:
            values = yaml.safe_load(Path(self.accelerate_config).read_text(encoding="utf-8"))
        except OSError:
            raise ConfigError(f"{told} does not exist; such files lie under accelerate_configs/") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{told} is not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{told} does not hold keys with values")
        if values.get("num_machines", 1) not in (1, None):
            raise ConfigError(
                f"{told}: a trial runs on one machine, num_machines is {values['num_machines']}; "
                "start the sweep on each machine with the same --study and --storage instead"
            )
        several = values.get("distributed_type", "NO") not in ("NO", False)  # YAML may read a bare NO as false
        if several and self.num_processes is None and values.get("num_processes", -1) == -1:
            raise ConfigError(f"{told} leaves the number open: give --num-processes too")
        return values


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does, and where it lies: the report in `folder`, and under ``trials/`` what is of one trial."""

    name: str  # of the study
    compose: Callable[[Sequence[str]], RunConfig]  # key=value on top of the recipe -> configuration
    space: Sequence[Dimension]
    folder: Path  # all jobs of the study see it
    launch: Launch
    sampler: Literal["grid", "tpe", "random"]
    pruner: Literal["median", "none"]
    trials: int  # points of the whole study
    startup_trials: int = 5  # finished ones, before TPE and the pruner judge
    prune_after: int = 1  # validations every trial may take
    keep_all: bool = False  # the weights of every trial, not only of the best
    heartbeat_seconds: int = 60  # how often a job says that its trial is alive

    def run(self, number: int) -> Path:
        """Run folder of a trial; its recipe, its checkpoints and its log lie beside it."""
        return self.folder / "trials" / str(number)


def save_recipe(config: RunConfig, path: Path) -> None:
    """Write a complete recipe."""
    with aside(path) as partial:
        SimpleConfigManager().save_config(config, partial)


def best_point(found: Sequence[Point]) -> Point | None:
    """Lowest validation loss; the first of equal ones."""
    return min((point for point in found if point.loss is not None), key=lambda point: point.loss, default=None)


def write_report(plan: SweepPlan, base: RunConfig, study: optuna.Study) -> Point | None:
    """Write the files of `FILES` and return the best point, None as long as no trial has finished."""
    folder, found = plan.folder, points(study)
    best, shares = best_point(found), _importances(study, found, base.seed)
    with aside(folder / "trials.csv") as file, file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(map(cell, row) for row in _csv_rows(plan.space, found))
    pictures = {"history": _history(found)} | ({} if isinstance(shares, str) else {"importance": _bars(shares)})
    for name, figure in pictures.items():
        with aside(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=110)
    if best is not None:  # the run of the best trial, with a folder of its own and without the sweep around it
        ran = RunFolder(plan.run(best.number)).config.changing("training", resume_from_checkpoint=None)
        alone = {"tracking": base.tracking, "output_dir": str(folder / "best")}
        save_recipe(ran.model_copy(update=alone), folder / "best.yaml")
    with aside(folder / "README.md") as file:
        file.write_text(_readme(plan, found, best, shares), encoding="utf-8")
    return best


def as_table(space: Sequence[Dimension], found: Sequence[Point]) -> str:
    """All points as a Markdown table, the best first."""
    ranked = sorted(found, key=lambda point: (point.loss is None, point.loss or 0.0, point.number))
    header = ["trial", "state", METRIC, *(dimension.key for dimension in space), "seconds", "what happened"]
    rows = [header, *(_cells(space, point) for point in ranked)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def _cells(space: Sequence[Dimension], point: Point) -> list[str]:
    told, step = [] if point.reason is None else [point.reason], point.last.user_attrs.get("stopped_at_step")
    if step is not None:
        told.append(f"stopped at step {step}")
    if point.attempts > 1:
        told.append(f"attempt {point.attempts}")
    loss = "" if point.loss is None else f"{point.loss:.6g}"
    row = [str(point.number), point.state, loss, *_values(space, point, _short), f"{_seconds(point):.0f}"]
    return [*row, "; ".join(told).replace("|", "\\|")]


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else as_text(value).strip('"')


def _csv_rows(space: Sequence[Dimension], found: Sequence[Point]) -> Iterator[list[object]]:
    keys = [dimension.key for dimension in space]
    yield ["number", "state", METRIC, *keys, "seconds", "stopped_at_step", "attempts", "reason"]
    for point in found:
        row = [point.number, point.state, point.loss, *_values(space, point, as_text), round(_seconds(point), 2)]
        yield [*row, point.last.user_attrs.get("stopped_at_step"), point.attempts, point.reason]


def _seconds(point: Point) -> float:
    """How long the last attempt took, or has taken."""
    return ((point.last.datetime_complete or datetime.now()) - point.last.datetime_start).total_seconds()


def _values(space: Sequence[Dimension], point: Point, show: Callable[[object], str]) -> list[str]:
    """What was tried; an attempt that died early may not have drawn everything."""
    drawn = point.last.params
    return [show(dimension.decode(drawn[dimension.key])) if dimension.key in drawn else "" for dimension in space]


def _readme(plan: SweepPlan, found: Sequence[Point], best: Point | None, shares: dict[str, float] | str) -> str:
    counts = Counter(point.state for point in found).most_common()
    said = ", ".join(f"{count} {state}" for state, count in counts) or "none begun"
    lines = [f"# Sweep {escape(plan.name)}", "", f"Sampler {plan.sampler}, {plan.trials} trials planned: {said}.", ""]
    if best is None:
        lines += ["No trial has finished.", ""]
    else:
        lines += [f"Best: trial {best.number}, {METRIC} {best.loss:.6g}. `best.yaml` runs it again:", ""]
        lines += [f"    {plan.launch.shown(plan.folder / 'best.yaml')}", ""]
        lines += ["The validation part chose it. Its test scores, which had no say, are in"]
        lines += [f"`trials/{best.number}/metrics.json`.", ""]
    lines += [escape_lines(as_table(plan.space, found)), "", "## Search space", ""]
    lines += [f"- `{dimension.key}`: {escape(dimension.text)}" for dimension in plan.space]
    lines += ["", "## History", "", "![history](history.png)", "", "## Importance", ""]
    if isinstance(shares, str):
        return "\n".join([*lines, f"Not known: {shares}.", ""])
    lines += [f"- `{key}`: {share:.0%}" for key, share in shares.items()]
    return "\n".join([*lines, "", "![importance](importance.png)", ""])


def _importances(study: optuna.Study, found: Sequence[Point], seed: int) -> dict[str, float] | str:
    """Share of the losses' variance that each key explains (fANOVA), or why that cannot be said."""
    losses = [point.loss for point in found if point.loss is not None]
    if len(losses) < 2:
        return "it takes at least two finished trials"
    if len(set(losses)) == 1:
        return "every finished trial has the same validation loss"
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed), normalize=False)
    except RuntimeError as error:  # what it says where its trees find nothing to split
        return " ".join(str(error).split())
    return shares if any(shares.values()) else "no key that was varied explains the losses"


def _bars(shares: dict[str, float]) -> Figure:
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(reversed(shares)), list(reversed(shares.values())))
    axes.set(xlabel=f"share of the variance of {METRIC} (fANOVA)", xlim=(0, 1), title="Importance")
    return figure


def _history(found: Sequence[Point]) -> Figure:
    """The loss of each trial and the best so far; trials without a result at the foot."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    finished = {point.number: point.loss for point in found if point.loss is not None}
    axes.scatter(list(finished), list(finished.values()), label="finished")
    axes.step(list(finished), list(accumulate(finished.values(), min)), where="post", color="grey", label="best so far")
    for state, marker in (("pruned", "v"), ("failed", "x")):
        numbers = [point.number for point in found if point.state == state]
        foot = axes.get_xaxis_transform()  # x in trials, y as a share of the height
        axes.scatter(numbers, [0.03] * len(numbers), marker=marker, color="tab:red", transform=foot, label=state)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="trial", ylabel=METRIC, title="History")
    axes.legend()
    return figure
