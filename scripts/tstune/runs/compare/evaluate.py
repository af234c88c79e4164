"""Any number of models on exactly the same windows of any source and split, and the folder that comes of it.

`evaluate_models` takes models that are there, `compare_members` those of a recipe, which it tunes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig, SplitSection
from tstune.config.section import AUTO
from tstune.data.prepared import PreparedData, prepare_data
from tstune.data.table import SourceTable
from tstune.data.trained_on import overlap_with, refuse_findings
from tstune.errors import ConfigError, TstuneError, failure
from tstune.evaluation.uncertainty import details, scored, with_quantiles
from tstune.evaluation.verdict import Verdict, format_scoreboard, metrics_of, verdict
from tstune.models.combined import FittedForecaster, fitted, shorter_than_asked
from tstune.models.contract import Forecaster, ForecastModel
from tstune.models.registry import model_class
from tstune.runs.compare.candidates import Candidate, open_candidates
from tstune.runs.compare.recipe import ComparisonRecipe, ListedModel
from tstune.runs.folder import CONFIG, ENVIRONMENT, HISTORY, NewFolder, RunFolder, refuse_full
from tstune.runs.judging import Judge, check_metrics
from tstune.runs.life import is_finished
from tstune.runs.report import draw_report
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager, is_out_of_memory


@dataclass(frozen=True)
class Evaluation:
    """Models that were scored on one part of one data set."""

    judge: Judge  # windows and scores
    part: str  # the windows, ``test``, ``validation`` or ``train``
    verdict: Verdict  # the judged row against all others
    environment: dict  # values for `environment.json`

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Row of the scoreboard -> metric -> value."""
        return metrics_of(self.judge.scores)

    @property
    def has_report(self) -> bool:
        """True if a report belongs into the folder: it speaks of test windows."""
        return self.judge.config.evaluation.report and self.part == "test"

    def scoreboard(self) -> str:
        """Markdown table with the verdict beneath."""
        unit = self.judge.data.preprocessor.unit
        return format_scoreboard(self.metrics, unit, self.verdict.sentence, self.part)


def write_evaluation(run: NewFolder, evaluation: Evaluation, config: RunConfig) -> None:
    """Write everything but the model, and put the folder in its place; nothing where `run` writes nothing."""
    if run.folder is None:
        return
    judge, folder = evaluation.judge, run.folder
    folder.write_text(HISTORY, "")
    judge.save(folder, evaluation.part, evaluation.verdict)
    folder.write_json(ENVIRONMENT, evaluation.environment)
    SimpleConfigManager().save_config(config, folder / CONFIG)
    if evaluation.has_report:
        draw_report(folder.path, run.final)
    run.commit()


def evaluate_models(
    models: Sequence[str],
    config: RunConfig,
    part: str = "test",
    output: str | Path | None = None,
    overwrite: bool = False,
    registry: str | None = None,
    notes: Mapping[str, object] | None = None,
    prepare: Callable[[RunConfig], PreparedData] | None = None,
    key: str = "--output",
    flag: str = "--model",
) -> Evaluation:
    """Score models on one part of the configured data; the first one is judged against all others.

    The windows have the context length of the configuration, or a longer one if a model needs it; every model sees the
    last steps that it can use. All forecasts are made in float32.

    Args:
        models: see `open_candidates`.
        config: `data`, `evaluation`, `forecast`, `seed`, and from `model` the lengths and the family.
        part: ``test``, ``validation`` or ``train``.
        output, overwrite: folder to write, None writes nothing; replace it.
        registry: where ``registry:…`` looks; None takes the default.
        notes: goes into `environment.json` beside what is found here.
        prepare: makes the windows; None reads the configured data.
        key, flag: what the user calls `output`, and a model.

    Raises:
        LeakError: a model was trained on, or chosen by, what it is to be judged on.
    """
    setup_logging()
    begin, output = time.perf_counter(), None if output is None else Path(output)
    refuse_full(key, output, overwrite)
    manager = DistributedManager(mixed_precision="no")
    logger.info(manager.describe())
    gpu = GPUManager(manager.device)
    gpu.allow_tf32(config.training.tf32)
    with ExitStack() as stack:
        candidates = open_candidates(models, config, registry, stack, flag)
        inputs = {one.called: one.spec for one in candidates} | {"data.path": config.data.path}
        run = stack.enter_context(NewFolder(output, overwrite, manager.is_main, inputs, key))
        config = with_lengths(config, candidates)
        data = (prepare or configured_data)(config)
        config = data.settle(config)
        logger.info("windows: %s %d", part, len(data.windows[part]))
        check_metrics(config, data.preprocessor.unit)
        _refuse_trained_on(candidates, data, part, config.data.split.allow_overlap)
        judge = Judge(data, config, manager, part)
        described = {}
        for one in candidates:
            started = time.perf_counter()
            set_seed(config.seed)
            model = one.make(data, config, manager)
            windows = judge.test.windows
            lengths = windows.context_length, windows.prediction_length
            forecaster = fitted(model, one.called, *lengths, windows.panel.item_ids, data.preprocessor)
            model.to(manager.device)
            judge.score(one.name, forecaster)
            _add_quantiles(judge, one.name, model, forecaster)
            if forecaster is model:
                judge.score_refitted(one.name, model)
            elif config.evaluation.refit != "none" and model.learns:
                logger.warning("%s is not refitted: lengths, columns or unit are not those of the windows", one.name)
            described[one.name] = (
                model.get_model_info()
                | judge.models[one.name]
                | {"spec": one.spec, "seconds": round(time.perf_counter() - started, 2)}
            )
            del model, forecaster
        judge.add_metrics()
        first = candidates[0].name
        judged = verdict(judge.scores, judge.test.windows, first, config.seed, first, judge.test.horizons)
        environment = describe_environment(manager.device, manager.num_processes) | {
            "seconds": round(time.perf_counter() - begin, 2),
            "peak_memory_mb": gpu.peak_memory(),
            "hardware": gpu.report(),
            "quantization": None,
            "parameters": described[first],
            "training": None,
            "models": described | {row: about for row, about in judge.models.items() if row not in described},
            **(notes or {}),
        }
        evaluation = Evaluation(judge, part, judged, environment)
        write_evaluation(run, evaluation, config.model_copy(update={"output_dir": str(output), "overwrite": False}))
    manager.wait()
    return evaluation


def configured_data(config: RunConfig, table: SourceTable | None = None) -> PreparedData:
    """The windows of a run; lengths that it leaves open are those that its weights know."""
    lengths = config.model.context_length, config.model.prediction_length
    known = model_class(config.model.type)(config).known_lengths() if AUTO in lengths else ()
    return prepare_data(config.data, *lengths, table, config.seed, known)


def without_parts(config: RunConfig, mode: str = AUTO) -> RunConfig:
    """The same with all of the data in the test: nothing is trained, so nothing is kept for it."""
    split = SplitSection(by="none", mode=mode, allow_overlap=config.data.split.allow_overlap)
    return config.changing("data", split=split)


def compare_members(comparison: ComparisonRecipe) -> Evaluation:
    """Run the comparison into its output_dir; the models lie in `<output_dir>.models/`.

    What came of each listed model stands under `members` of `environment.json`. One that cannot be had is a row with
    its reason; if none can, that is a `ConfigError`. One whose run folder is whole and of the same settings is not
    tuned again.
    """
    setup_logging()
    config = comparison.config
    refuse_full("output_dir", Path(config.output_dir), config.overwrite)
    tuned = [_tune(member) for member in comparison.members]
    had = [member.config.output_dir for member, one in zip(comparison.members, tuned, strict=True) if not one["reason"]]
    if not had:
        reasons = "; ".join(f"{one['name']}: {one['reason']}" for one in tuned)
        raise ConfigError(f"models: none of the {len(tuned)} could be had: {reasons}")
    baselines = [_baseline(name) for name in comparison.baselines]
    return evaluate_models(
        [*had, *(one["name"] for one in baselines if not one["reason"])],
        config,
        output=config.output_dir,
        overwrite=config.overwrite,
        notes={"members": [*tuned, *baselines], "comparison": comparison.fingerprint},
        key="output_dir",
        flag="models:",
    )


def with_lengths(config: RunConfig, candidates: Sequence[Candidate]) -> RunConfig:
    """The configuration with the longest context; a forecast that is too short for one is an error."""
    asked, context = config.model.prediction_length, config.model.context_length
    ahead = [one.prediction_length for one in candidates if one.prediction_length is not None]
    if asked == AUTO:
        asked = min(ahead, default=AUTO)
    for one in candidates:
        if one.prediction_length is not None and one.prediction_length < asked:
            raise shorter_than_asked(one.called, one.prediction_length, asked)
    known = [one.context_length for one in candidates if one.context_length is not None]
    context = max([*known, *([] if context == AUTO else [context])], default=AUTO)
    return config.changing("model", context_length=context, prediction_length=asked)


def _add_quantiles(judge: Judge, name: str, model: ForecastModel, forecaster: Forecaster) -> None:
    """The quantiles a model forecasts by itself beside its point forecasts; nothing is calibrated here."""
    scores = judge.scores[name]
    if scores.windows is None or not model.quantile_levels:
        return
    adapt, factor = None, 1.0
    if isinstance(forecaster, FittedForecaster):  # the method was fitted in the model's unit
        adapt, factor = forecaster.own, forecaster.factor
    windows = with_quantiles(scores.windows, judge.test.windows, model, adapt, factor)
    judge.scores[name] = replace(scores, windows=windows)
    if len(judge.scores) == 1:  # the one that is judged
        levels = windows.levels.tolist()
        method = "quantile_head" if model.uncertainty is None else model.uncertainty.name
        judge.uncertainty = {
            "method": method,
            "levels": levels,
            "calibration": {"part": "validation", "num_windows": None},
            "methods": {method: scored(windows, windows.quantiles, levels)},
            **details(windows, windows.quantiles, levels),
        }


def _refuse_trained_on(candidates: Sequence[Candidate], data: PreparedData, part: str, allow_overlap: bool) -> None:
    if part == "train":
        logger.warning("--part train: a model that was trained on these windows looks better than it is")
        return
    for one in candidates:
        findings = [] if one.folder is None else overlap_with(data, one.folder, part)
        fix = "take another model, score other readings, or set data.split.allow_overlap=true"
        refuse_findings(findings, one.called, fix, allow_overlap)


def _tune(member: ListedModel) -> dict[str, object]:
    config = member.config
    row = partial(_row, member.name, config.model.type, config.model.pretrained, config.tuning.mode)
    try:
        if not _is_done(config):
            logger.info("models.%s: tuning", member.name)
            manager = DistributedManager.for_run(config)
            model_class(config.model.type)(config).fit(output_dir=config.output_dir, manager=manager)
    except Exception as error:
        return row(reason=f"{'out of memory: ' if is_out_of_memory(error) else ''}{failure(error)}")
    environment = RunFolder(config.output_dir).read_json(ENVIRONMENT)
    trainable = (environment.get("parameters") or {}).get("trainable")
    return row(trainable=trainable, seconds=environment.get("seconds"))


def _baseline(name: str) -> dict[str, object]:
    try:
        model_class(name).require_packages()
    except TstuneError as error:
        return _row(name, "baseline", reason=failure(error))
    return _row(name, "baseline")


def _row(name: str, family: str, weights: str | None = None, mode: str = "", **came: object) -> dict[str, object]:
    """What came of a listed model: trainable parameters, seconds of its run, or the reason why it is left out."""
    if came.get("reason") is not None:
        logger.warning("models.%s is left out: %s", name, came["reason"])
    about = {"name": name, "family": family, "weights": weights, "mode": mode}
    return about | {"trainable": None, "seconds": None, "reason": None} | came


def _is_done(config: RunConfig) -> bool:
    try:
        return is_finished(config)
    except ConfigError:  # a folder of an older version of the project
        return False
