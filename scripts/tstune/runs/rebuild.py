"""A run's scoreboard once more, from nothing but its folder, and whether it is the same to the last digit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tstune.config.schema import RunConfig
from tstune.data.manifest import compare_manifests
from tstune.data.parts import GIVEN
from tstune.data.prepared import PreparedData
from tstune.errors import ConfigError, DataError, FolderError
from tstune.evaluation.backtest import horizon_steps
from tstune.evaluation.record import KeptForecasts
from tstune.evaluation.verdict import format_scoreboard, verdict
from tstune.models.contract import ForecastModel
from tstune.models.registry import load_model, model_class
from tstune.runs.compare.evaluate import Evaluation, write_evaluation
from tstune.runs.folder import CONFIG, ENVIRONMENT, FORECASTS, MANIFEST, METRICS, VERDICT, NewFolder, RunFolder, finite
from tstune.runs.judging import Judge, check_metrics, untuned
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager

MOVABLE = ("data.path", "data.validation_path", "data.test_path", "model.pretrained", "evaluation.report")
"""Keys that may be given anew: where the files of the run lie now, what they hold is compared."""
ADDED = ("evaluation.metrics", "evaluation.horizons")
"""Keys that may be given anew where metrics are computed from kept forecasts."""

_SHAPES_THE_DIGITS = ("device", "device_name", "num_processes", "num_threads", "packages")
"""Parts of `environment.json` that another sum order or another kernel can come from."""


@dataclass(frozen=True)
class Rebuilt:
    """A scoreboard beside the one that was written."""

    evaluation: Evaluation  # the rebuilt one
    deviations: tuple[str, ...]  # every number that differs, in words
    otherwise: tuple[str, ...]  # what of the machine is not as it was, in words

    def summary(self) -> str:
        """One line if all is the same, else one per number and what may explain it."""
        return _summary(self.evaluation.metrics, self.deviations, self.otherwise)


def _summary(metrics: dict, deviations: Sequence[str], otherwise: Sequence[str] = ()) -> str:
    if not deviations:
        models = "1 model" if len(metrics) == 1 else f"{len(metrics)} models"
        return f"identical to metrics.json: {models}, {len(set().union(*metrics.values()))} metrics"
    lines = [f"not identical to metrics.json: {len(deviations)} numbers differ", *deviations]
    if otherwise:
        lines.append(f"the run was made elsewhere: {'; '.join(otherwise)}")
    return "\n".join(lines)


def from_forecasts(path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, str, bool]:
    """The metrics of a run from its kept forecasts alone: no data, no model, no forward pass; see `ADDED`.

    Returns:
        scoreboard · how what `metrics.json` holds compares · whether it is the same.
    """
    folder = RunFolder(path).require(CONFIG, METRICS, VERDICT)
    refused = [override for override in overrides if override.partition("=")[0] not in ADDED]
    if refused:
        raise ConfigError(f"--forecasts computes metrics from what was forecast; {refused[0]} would change that (only "
                          f"{', '.join(ADDED)} may be given)")  # fmt: skip
    if not folder.has(FORECASTS):
        raise FolderError(f"{folder.path} holds no {FORECASTS}; run it again with evaluation.keep_forecasts=true")
    config, table = folder.config_with(overrides), folder.read_table(FORECASTS)
    kept = KeptForecasts.of(table)
    unit, steps, frequency = (table.attrs[name] for name in ("unit", "num_steps", "frequency"))
    check_metrics(config, unit)
    found = finite(kept.metrics(horizon_steps(config.evaluation, frequency, steps), config.evaluation.metrics))
    [(part, recorded)] = folder.metrics.items()
    old = {name: {m: v for m, v in found.get(name, {}).items() if m in row} for name, row in recorded.items()}
    same = {name: {m: v for m, v in row.items() if m in old[name]} for name, row in recorded.items()}
    deviations = tuple(_deviations(same, old))
    board = format_scoreboard(found, unit, folder.read_json(VERDICT, "sentence")["sentence"], part)
    return board, _summary(old, deviations), not deviations


def rebuild(
    folder: str | Path, overrides: Sequence[str] = (), output: str | Path | None = None, overwrite: bool = False
) -> Rebuilt:
    """Score the saved model, the weights it came from and the baselines on the windows of the run's configuration.

    The forward passes are those of the run: the same batches, threads, precision and kernels. So the numbers are the
    same to the last bit on the same kind of machine with as many processes. Overrides say where files lie now, see
    `MOVABLE`; one that would make it another run is a `ConfigError`, and other data a `DataError`.
    """
    setup_logging()
    begin, folder, output = time.perf_counter(), RunFolder(folder), None if output is None else Path(output)
    folder.require(CONFIG, METRICS, ENVIRONMENT, MANIFEST)
    _refuse_another_run(overrides)
    config = folder.config_with(overrides)
    recorded, environment = folder.metrics, folder.read_json(ENVIRONMENT)
    if list(recorded) != ["test"]:
        raise FolderError(f"{folder / METRICS} holds no scores of a training run (test)")
    training = config.training
    manager = DistributedManager(None, training.mixed_precision, training.precision_fallback)
    gpu = GPUManager(manager.device)
    gpu.allow_tf32(config.training.tf32)
    with (
        _threads(environment.get("num_threads")),
        NewFolder(output, overwrite, manager.is_main, {"--run": str(folder.path)}, "--output") as run,
    ):
        saved = load_model(folder.path)
        data = _same_data(config, folder)
        check_metrics(config, data.preprocessor.unit)
        judge = Judge(data, config, manager)
        _score(judge, config, saved, with_zero_shot="zero_shot" in recorded["test"])
        kept = folder.read_json(VERDICT).get("kept", "fine_tuned")
        judged = verdict(judge.scores, judge.test.windows, kept, config.seed, horizons=judge.test.horizons)
        here = describe_environment(manager.device, manager.num_processes)
        otherwise = _otherwise(environment, here)
        here |= {name: environment.get(name) for name in ("parameters", "training", "quantization")}
        here |= {"seconds": round(time.perf_counter() - begin, 2), "peak_memory_mb": gpu.peak_memory()}
        evaluation = Evaluation(judge, "test", judged, here | {"hardware": gpu.report()})
        write_evaluation(run, evaluation, config.model_copy(update={"output_dir": str(output)}))
    manager.wait()
    found = json.loads(json.dumps(finite(evaluation.metrics)))
    return Rebuilt(evaluation, tuple(_deviations(recorded["test"], found)), otherwise)


def _score(judge: Judge, config: RunConfig, saved: ForecastModel, with_zero_shot: bool) -> None:
    """Every row of the scoreboard, in the order and the way of `tstune.runs.finetune`."""
    manager, mode = judge.manager, config.tuning.mode
    if with_zero_shot:
        before = model_class(config.model.type)(config)
        set_seed(config.seed)
        before.build(judge.data.preprocessor)
        before.to(manager.device)
        judge.score("zero_shot", untuned(before, judge.data), remember=True)
        del before
    saved.to(manager.device)
    if mode != "zero_shot":
        if (
            saved.module is not None and not manager.is_sharded
        ):  # training left the network as Accelerate had prepared it
            if config.training.compile:
                saved.module.compile()
            saved.module = manager.accelerator.prepare_model(saved.module, evaluation_mode=True)
        judge.score_tuned(saved, model_class(config.model.type)(config))
    if config.tuning.per_item:
        judge.score("per_item", saved.for_items(judge.data.panel.item_ids))
    judge.score_baselines(saved)
    judge.add_quantiles(saved)
    judge.add_metrics(saved.own_metrics)


def _refuse_another_run(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.partition("=")[0] not in MOVABLE:
            raise ConfigError(
                f"--run rebuilds the run as it was; {override} would make it another one (only {', '.join(MOVABLE)} "
                "may be given); use --model with --config"
            )


def _same_data(config: RunConfig, folder: RunFolder) -> PreparedData:
    """The windows of the configuration, if they are those of the manifest."""
    recorded = folder.read_json(MANIFEST)
    given_as_table = DataError(
        f"{folder.path} was trained on a table that was given to fit(train_data=…), not on data.source="
        f"{config.data.source}; the folder does not hold it, so its scoreboard cannot be rebuilt"
    )
    if GIVEN in recorded.get("notes", {}) and config.data.validation_path is None and config.data.test_path is None:
        raise DataError(
            f"{folder.path} was validated or tested on data that was given to fit(val_data=…, test_data=…); "
            "the folder does not hold it, so its scoreboard cannot be rebuilt"
        )
    if not recorded.get("files") and config.data.source in ("csv", "parquet") and config.data.path is None:
        raise given_as_table
    data = model_class(config.model.type)(config).prepare()
    now = _known_then(recorded, json.loads(json.dumps(data.manifest)))
    differing = [found for found in compare_manifests(recorded, now) if found.of_the_data]
    if not differing:
        return data
    if data.manifest["files"] and not recorded.get("files"):
        raise given_as_table
    first = differing[0]
    raise DataError(
        f"{folder.path}: the data is not what the run saw: {', '.join(found.name for found in differing)} "
        f"({first.name}: {'; '.join(first.lines)}; A is the run, B is now); restore it, or say where it lies with "
        "data.path=…"
    )


def _known_then(recorded: dict, now: dict) -> dict:
    """What is said today about the keys that the manifest of the run has; later versions say more."""
    return {
        name: _known_then(recorded[name], value)
        if isinstance(value, dict) and isinstance(recorded[name], dict)
        else value
        for name, value in now.items()
        if name in recorded
    }


def _deviations(recorded: dict, found: dict) -> Iterator[str]:
    for model in dict.fromkeys([*recorded, *found]):
        then, now = recorded.get(model, {}), found.get(model, {})
        for metric in dict.fromkeys([*then, *now]):
            before, after = then.get(metric), now.get(metric)
            if metric not in then or metric not in now or before != after:
                known = before is not None and after is not None
                difference = f", difference {after - before:.3g}" if known else ""
                yield f"{model} {metric}: metrics.json {before!r}, rebuilt {after!r}{difference}"


def _otherwise(then: dict, now: dict) -> tuple[str, ...]:
    found = []
    for name in _SHAPES_THE_DIGITS:
        if name == "packages":
            versions = then.get(name, {}), now[name]
            found += [
                f"{package} {version} there, {versions[1].get(package)} here"
                for package, version in versions[0].items()
                if version != versions[1].get(package)
            ]
        elif then.get(name) != now[name]:
            found.append(f"{name} {then.get(name)} there, {now[name]} here")
    return tuple(found)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """As many threads as the run had: sums are cut into as many parts, and rounding depends on it."""
    before = torch.get_num_threads()
    if number is not None and number != before:
        logger.info("computing on %d threads, as the run did (here are %d)", number, before)
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
