"""A whole run in order: data, model, before, training, after, baselines, run folder."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from tstune.config.schema import PretrainingSection, RunConfig
from tstune.data.cohort import write_cohort
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.prepared import PreparedData
from tstune.errors import ConfigError, ReportError
from tstune.evaluation.metrics import Scores
from tstune.evaluation.record import EVALUATION_FILE, WINDOWS_FILE, windows_table
from tstune.evaluation.scoreboard import best_model, format_per_item, format_scoreboard
from tstune.evaluation.verdict import verdict
from tstune.models.contract import ForecastModel
from tstune.registry import check_name, open_registry
from tstune.runs.folder import RunFolder
from tstune.runs.judging import Judge, check_baselines, check_metrics
from tstune.runs.life import (
    guarded_tracker,
    keep_checkpoints,
    open_checkpoint_folder,
    plan_checkpoints,
    prepare_memory,
    register_run,
    remembered,
)
from tstune.runs.plots import (
    choose_windows,
    plot_forecasts,
    plot_learning_rate_finder,
    plot_loss,
    plot_rmse_by_step,
)
from tstune.runs.readme import render_readme
from tstune.runs.report import write_report
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import describe_environment, set_seed
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import GPUManager
from tstune.runtime.signals import StopSignal
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.run import TRACKING_FILE, TrackedRun, remembered_run
from tstune.training.contract import TrainingResult
from tstune.training.per_item import tune_items


def finetune(
    model: ForecastModel,
    train_data: str | pd.DataFrame | PreparedData | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    manager: DistributedManager | None = None,
    resume: str | None = None,
    tracker: ExperimentTracker | None = None,
) -> dict:
    """Tune a model and judge it; see `BaseTimeSeriesFoundationModel.fit` for arguments and result."""
    setup_logging()
    begin = time.perf_counter()
    config = model.config
    manager = manager or DistributedManager(config.distributed, config.training.mixed_precision)
    logger.info(manager.describe())
    gpu = GPUManager(manager.device)
    gpu.allow_tf32(config.training.tf32)
    _check_config(config)
    inputs = {"model.pretrained": config.model.pretrained, "data.path": config.data.path}
    inputs |= {f"model.members.{n}": member for n, member in enumerate(getattr(config.model, "members", ()))}
    with StopSignal() as stop, RunFolder(output_dir, overwrite, manager.is_main, inputs, resume is not None) as run:
        checkpoint_folder = open_checkpoint_folder(output_dir, overwrite, resume, manager)
        data = model.prepare(train_data)
        logger.info("windows: %s", ", ".join(f"{part} {len(windows):,}" for part, windows in data.windows.items()))
        check_metrics(config, data.preprocessor.unit)
        judge = Judge(data, config, manager)

        set_seed(config.seed)
        model.build(data.preprocessor)
        _check_has_network(model)
        model.to(manager.device)
        parameters = model.get_model_info()  # as trained: adapters are merged afterwards
        training: TrainingResult | None = None
        run_id = remembered_run(checkpoint_folder) if resume and manager.is_main else None
        with (
            TrackedRun(guarded_tracker(tracker, config, manager), config, run_id) as tracked,
            remembered(checkpoint_folder, tracked),
        ):
            tracked.log_parameters(parameters)
            if model.starts_from_weights():
                with gpu.phase("zero_shot"):
                    judge.score("zero_shot", model, remember=True)

            if config.tuning.mode != "zero_shot":
                readings = data.panel.fingerprint()
                checkpoints = plan_checkpoints(checkpoint_folder, config, resume, readings, stop, manager)
                history_path = run.path / "history.jsonl" if run.path else None
                prepare_memory(model, manager, gpu)
                with gpu.phase("training"):
                    if model.module is not None:
                        training = model.train_on(data, manager, history_path, checkpoints, tracked)
                    else:  # fitted in closed form or by a service: there are no steps to watch or to go on from
                        training = model.train_on(data, manager, history_path)
                with gpu.phase("evaluation"):
                    judge.score("fine_tuned", model, remember=True)
                if "zero_shot" in judge.scores:
                    judge.score_average("average", "zero_shot", "fine_tuned")
            if config.tuning.per_item:
                children = tracked.tracker
                model.item_adapters = tune_items(
                    model, data, manager, lambda item_id: TrackedRun(children.child(item_id), config)
                )
                judge.score("per_item", model.for_items(data.panel.item_ids))
            with gpu.phase("baselines"):
                judge.score_baselines(model)
            judge.add_quantiles(model)
            judge.add_metrics()

            scores = judge.scores
            went_back = training is not None and training.best_step == 0
            kept = "fine_tuned" if "fine_tuned" in scores and not went_back else "zero_shot"
            judged = verdict(scores, judge.test.windows, kept, config.seed)
            results = {
                "metrics": {name: values.metrics for name, values in scores.items()},
                "best_model": best_model(scores),
                "scoreboard": format_scoreboard(scores, data.preprocessor.unit, judged.sentence),
                "verdict": judged,
                "kept": kept,
                "parameters": parameters,
                "training": training,
                "per_item": per_item_table(model, scores, data) if config.tuning.per_item else None,
                "output_dir": str(output_dir) if output_dir is not None else None,
                "run_id": tracked.run_id,
                "version": None,
            }
            if results["per_item"] is not None:
                results["scoreboard"] += "\n\n" + format_per_item(results["per_item"])
            tracked.log_scores("test", results["metrics"])
            if run.path is not None:
                environment = describe_environment(manager.device, manager.num_processes)
                environment["seconds"] = round(time.perf_counter() - begin, 2)
                environment |= {"peak_memory_mb": gpu.peak_memory(), "hardware": gpu.report(), "phases": gpu.phases}
                environment["quantization"] = model.quantization_report and str(model.quantization_report)
                _write(run, model, judge, results, environment)
                if tracked.is_tracked:
                    run.write_json(TRACKING_FILE, tracked.to_dict())
                _draw(run.path / "plots", model, data, scores, training)
                if config.evaluation.report:
                    _report(run.path, Path(output_dir))
                with stop.deferred():
                    run.commit()
                    keep_checkpoints(checkpoint_folder, Path(output_dir))
                tracked.log_folder(Path(output_dir))
                results["version"] = register_run(config, Path(output_dir))
    manager.wait()
    return results


def _check_config(config: RunConfig) -> None:
    """Refuse before the training what would be wrong after it."""
    if config.pretraining != PretrainingSection():
        raise ConfigError("pretraining: this section is for scripts/pretrain_ttm.py; leave it out to fine-tune")
    if config.tracking.register_as is not None:
        check_name(config.tracking.register_as, "tracking.register_as")
        open_registry(config.tracking.registry)
    check_baselines(config)


def _check_has_network(model: ForecastModel) -> None:
    """Refuse what only a network can do, of a model without one."""
    config = model.config
    if model.module is not None:
        return
    asked = {
        f"tuning.mode={config.tuning.mode}": config.tuning.mode not in ("from_scratch", "full", "zero_shot"),
        "tuning.per_item=true": config.tuning.per_item,
        f"model.quantization={config.model.quantization}": config.model.quantization != "none",
        "forecast.method=quantile_head": config.forecast.method == "quantile_head" and not model.native_levels,
    }
    wrong = [key for key, is_asked in asked.items() if is_asked]
    if wrong:
        raise ConfigError(f"{wrong[0]} is for networks, and model.type={config.model.type} has none; leave it out")


def per_item_table(model: ForecastModel, scores: dict[str, Scores], data: PreparedData) -> list[dict[str, object]]:
    """One row per item: was its adapter kept (by validation), and what the test windows say."""
    base = scores["fine_tuned"] if "fine_tuned" in scores else scores["zero_shot"]
    tuned = scores["per_item"]
    return [
        vars(result)
        | {
            "num_windows": int(base.windows_by_item[item]),
            "rmse_base": float(base.rmse_by_item[item]) if base.windows_by_item[item] else None,
            "rmse_per_item": float(tuned.rmse_by_item[item]) if base.windows_by_item[item] else None,
        }
        for item, result in enumerate(model.item_adapters.results)
    ]


def _write(run: RunFolder, model: ForecastModel, judge: Judge, results: dict, environment: dict) -> None:
    training, data = results["training"], judge.data
    model.save(run.path)
    (run.path / "history.jsonl").touch()
    run.write_json("metrics.json", {"test": results["metrics"]})
    run.write_json("verdict.json", results["verdict"].to_dict())
    run.write_json("manifest.json", data.manifest)
    write_cohort(data, run.path)
    run.write_json(EVALUATION_FILE, judge.record(results["verdict"].model))
    windows_table(judge.scores, data, judge.test).to_parquet(run.path / WINDOWS_FILE, index=False)
    if results["per_item"] is not None:
        run.write_json("per_item.json", results["per_item"])
    left_out = ("history", "lr_curve")
    summary = {name: value for name, value in vars(training).items() if name not in left_out} if training else None
    run.write_json("environment.json", environment | {"parameters": results["parameters"], "training": summary})
    text = render_readme(model, data, results, environment)
    (run.path / "README.md").write_text(text, encoding="utf-8")


def _report(folder: Path, final: Path) -> None:
    """Write the report; a run that is done is not lost for a page that cannot be drawn."""
    try:
        write_report(folder)
    except ReportError as error:
        logger.warning("no report: %s; scripts/write_report.py %s draws it later", error, final)


def _draw(
    folder: Path,
    model: ForecastModel,
    data: PreparedData,
    scores: dict[str, Scores],
    training: TrainingResult | None,
) -> None:
    config, unit = model.config, data.preprocessor.unit
    if config.evaluation.num_plots == 0:
        return
    if training is not None:
        plot_loss(training.history, folder / "loss.png")
        if training.lr_curve is not None:
            curve = training.lr_curve
            plot_learning_rate_finder(curve.learning_rates, curve.losses, curve.suggestion, folder / "lr_finder.png")
    plot_rmse_by_step(scores, fixed_step(parse_frequency(data.panel.frequency)), unit, folder / "rmse_by_horizon.png")
    name = "fine_tuned" if "fine_tuned" in scores else "zero_shot"
    chosen = choose_windows(scores[name], config.evaluation.num_plots, config.seed)
    if chosen:
        plot_forecasts({name: model}, data.test, chosen, unit, folder / "forecasts.png")
