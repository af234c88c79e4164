"""Any number of models on exactly the same windows of any source and split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tstune.comparison.candidates import Candidate, open_candidates
from tstune.comparison.evaluation import Evaluation, refuse_to_overwrite, write_evaluation
from tstune.comparison.fitting import fitted, shorter_than_asked
from tstune.comparison.own_quantiles import describe_quantiles, with_own_quantiles
from tstune.config.schema import RunConfig
from tstune.data.leaks import more_findings
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.trained_on import CHECK, overlap_with
from tstune.errors import LeakError
from tstune.evaluation.backtest import Forecaster
from tstune.evaluation.verdict import verdict
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.runs.folder import RunFolder
from tstune.runs.judging import Judge, check_metrics
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager


def evaluate_models(
    models: Sequence[str],
    config: RunConfig,
    part: str = "test",
    output: str | Path | None = None,
    overwrite: bool = False,
    registry: str | None = None,
    manager: DistributedManager | None = None,
    notes: Mapping[str, object] | None = None,
) -> Evaluation:
    """Score models on one part of the configured data; the first one is judged against all others.

    The windows have the context length of the configuration, or a longer one if a model needs it; every model sees the
    last steps that it can use. All forecasts are made in float32.

    Args:
        models: see `open_candidates`.
        config: `data`, `evaluation`, `forecast`, `seed`, and from `model` the lengths and the family.
        part: ``test``, ``validation`` or ``train``.
        output: folder to write; None writes nothing.
        overwrite: replace it.
        registry: where ``registry:…`` looks; None takes the default.
        manager: running process group; None starts one.
        notes: goes into `environment.json` beside what is found here.

    Raises:
        ConfigError, DataError, CheckpointError, RegistryError: naming the model and what it lacks.
        LeakError: a model was trained on, or chosen by, what it is to be judged on.
    """
    setup_logging()
    begin, output = time.perf_counter(), None if output is None else Path(output)
    refuse_to_overwrite(output, overwrite)
    manager = manager or DistributedManager(mixed_precision="no")
    logger.info(manager.describe())
    gpu = GPUManager(manager.device)
    gpu.allow_tf32(config.training.tf32)
    with ExitStack() as stack:
        candidates = open_candidates(models, config, registry, stack)
        inputs = {"--model": None} | {f"--model {one.spec}": one.spec for one in candidates}
        run = stack.enter_context(
            RunFolder(output, overwrite, manager.is_main, inputs | {"data.path": config.data.path})
        )
        config = _with_lengths(config, candidates)
        lengths = config.model.context_length, config.model.prediction_length
        data = prepare_data(config.data, *lengths, seed=config.seed)
        logger.info("windows: %s %d", part, len(data.windows[part]))
        check_metrics(config, data.preprocessor.unit)
        _refuse_trained_on(candidates, data, part, config.data.split.allow_overlap)
        judge = Judge(data, config, manager, part)
        described = {}
        for one in candidates:
            started = time.perf_counter()
            set_seed(config.seed)
            model = one.make(data, config, manager)
            forecaster = fitted(model, f"--model {one.spec}", judge.test.windows, data.preprocessor)
            model.to(manager.device)
            judge.score(one.name, forecaster)
            _add_quantiles(judge, one.name, model, forecaster)
            described[one.name] = model.get_model_info() | {
                "spec": one.spec,
                "seconds": round(time.perf_counter() - started, 2),
            }
            del model, forecaster
        judge.add_metrics()
        first = candidates[0].name
        judged = verdict(judge.scores, judge.test.windows, first, config.seed, judged_name=first)
        environment = describe_environment(manager.device, manager.num_processes) | {
            "seconds": round(time.perf_counter() - begin, 2),
            "peak_memory_mb": gpu.peak_memory(),
            "hardware": gpu.report(),
            "quantization": None,
            "parameters": described[first],
            "training": None,
            "models": described,
            **(notes or {}),
        }
        evaluation = Evaluation(judge, part, judged, environment)
        write_evaluation(run, evaluation, config.model_copy(update={"output_dir": str(output), "overwrite": False}))
    manager.wait()
    return evaluation


def _with_lengths(config: RunConfig, candidates: Sequence[Candidate]) -> RunConfig:
    """The configuration with the longest context; a forecast that is too short for one is an error."""
    asked = config.model.prediction_length
    for one in candidates:
        if one.prediction_length is not None and one.prediction_length < asked:
            raise shorter_than_asked(f"--model {one.spec}", one.prediction_length, asked)
    longest = max([config.model.context_length, *(one.context_length or 0 for one in candidates)])
    return config.model_copy(update={"model": config.model.model_copy(update={"context_length": longest})})


def _add_quantiles(judge: Judge, name: str, model: BaseTimeSeriesFoundationModel, forecaster: Forecaster) -> None:
    scores = judge.scores[name]
    if scores.windows is None or not model.quantile_levels:
        return
    windows = with_own_quantiles(model, forecaster, scores.windows, judge.test.windows)
    judge.scores[name] = replace(scores, windows=windows)
    if len(judge.scores) == 1:  # the one that is judged
        judge.uncertainty = describe_quantiles(model, windows)


def _refuse_trained_on(candidates: Sequence[Candidate], data: PreparedData, part: str, allow_overlap: bool) -> None:
    if part == "train":
        logger.warning("--part train: a model that was trained on these windows looks better than it is")
        return
    for one in candidates:
        findings = [] if one.folder is None else overlap_with(data, one.folder, part)
        if findings and not allow_overlap:
            raise LeakError(
                CHECK,
                f"--model {one.spec} {findings[0]}{more_findings(findings)}; take another model, score other readings, "
                "or set data.split.allow_overlap=true",
            )
        for finding in findings:
            logger.warning("data.split.allow_overlap: --model %s %s", one.spec, finding)
