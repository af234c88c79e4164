"""Fine-tune a model and judge it: the steps of a run, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tstune.config.schema import PretrainingSection
from tstune.data.describe import remarks
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.prepared import PreparedData
from tstune.data.windows import WindowDataset
from tstune.errors import ConfigError
from tstune.evaluation.backtest import Scores
from tstune.evaluation.verdict import (
    Verdict,
    best_baseline,
    best_first,
    format_per_item,
    format_scoreboard,
    metrics_of,
    verdict,
)
from tstune.models.adapters import Adapter, ItemAdapters, ItemResult, adapt
from tstune.models.contract import ForecastModel, Readings
from tstune.registry import check_name, open_registry
from tstune.runs.folder import (
    ENVIRONMENT,
    EVALUATION,
    HISTORY,
    PER_ITEM,
    PLOTS,
    README,
    TRACKING,
    VERDICT,
    RunFolder,
    writing,
)
from tstune.runs.judging import Judge, check_baselines, check_metrics, too_many_windows, untuned
from tstune.runs.plots import choose_windows, plot_forecasts, plot_learning_rate_finder, plot_loss, plot_rmse_by_step
from tstune.runs.readme import render_readme
from tstune.runs.report import draw_report
from tstune.runs.steps import ModelRun
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.environment import set_seed
from tstune.runtime.logs import logger
from tstune.tracking.interfaces import ExperimentTracker
from tstune.tracking.run import TrackedRun
from tstune.training.callbacks import Callback
from tstune.training.loop import TrainingResult, train

_ITEM_PATIENCE = 2
"""Validations of an item's adapter without improvement."""


def finetune(
    model: ForecastModel,
    data: Sequence[Readings] = (),
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    manager: DistributedManager | None = None,
    resume: str | None = None,
    tracker: ExperimentTracker | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict:
    """Tune a model and judge it; see `BaseTimeSeriesFoundationModel.fit` for arguments and result."""
    with FineTuning(model, output_dir, overwrite, resume, manager, tracker, callbacks) as run:
        return run.to_the_end(*data)


class FineTuning(ModelRun):
    """A run that tunes a model and judges it: each method is one step, in this order; see `finetune`."""

    data: PreparedData
    called: str | None = None  # in its verdict, if that is not what it does

    def to_the_end(self, *data: Readings) -> dict:
        """Every step that is not on disk yet, in order; returns the results."""
        if not self.has("judged"):
            self.prepare(*data)
            self.build()
            self.start_tracking()
            self.judge_before()
            self.train()
            self.judge_after()
            self.judge_baselines()
            self.conclude()
            self.save()
            self.report()
        self.commit()
        self.track()
        self.register()
        return self.results

    def check(self) -> None:
        """Refuse before the training what would be wrong after it."""
        config = self.config
        if config.pretraining != PretrainingSection():
            raise ConfigError("pretraining: this section is for scripts/pretrain_ttm.py; leave it out to fine-tune")
        if config.tracking.register_as is not None:
            check_name(config.tracking.register_as, "tracking.register_as")
            open_registry(config.tracking.registry)
        check_baselines(config)

    def prepare(self, train_data: Readings = None, val_data: Readings = None, test_data: Readings = None) -> None:
        """Source → panel → split → windows; leaks are refused."""
        self.data = self.model.run_data(train_data, val_data, test_data)
        self.config = self.model.config  # with what `auto` became
        parts = (f"{part} {len(windows):,}" for part, windows in self.data.windows.items())
        logger.info("windows: %s", ", ".join(parts))
        for line in remarks(self.data):
            logger.warning("%s", line)
        if not len(self.data.train):
            raise ConfigError("data.split.by=none leaves nothing to train on: it is for scripts/eval_forecast.py --all")
        check_metrics(self.config, self.data.preprocessor.unit)
        if (reason := too_many_windows(self.model, self.data)) is not None:
            raise ConfigError(f"model.type={self.config.model.type}: {reason}")
        self.judge = Judge(self.data, self.config, self.manager)

    def build(self) -> None:
        """Weights, tuning mode, and what learns."""
        super().build()
        _check_has_network(self.model)

    def judge_before(self) -> None:
        """Zero-shot, where there are weights to begin with."""
        self.tracked.log_parameters(self.parameters)
        before = untuned(self.model, self.data)
        if before is not None:
            with self.gpu.phase("zero_shot"):
                self.judge.score("zero_shot", before, remember=True)

    def train(self) -> None:
        """The loop, unless nothing is tuned."""
        if self.config.tuning.mode == "zero_shot":
            self.advance("trained")
        else:
            self.run_training(self.data, self.data.panel.fingerprint())

    def judge_after(self) -> None:
        """Tuned, averaged with zero-shot, and with an adapter per item."""
        judge, model = self.judge, self.model
        if self.config.tuning.mode != "zero_shot":
            with self.gpu.phase("evaluation"):
                judge.score_tuned(model, model)
        if self.config.tuning.per_item:
            self.tune_items()
            judge.score("per_item", model.for_items(self.data.panel.item_ids))

    def tune_items(self) -> None:
        """An adapter per item, on the tuned base; it is kept if it lowers the item's own validation loss."""
        model, data, adapters, results = self.model, self.data, {}, []
        for item, item_id in enumerate(data.panel.item_ids):
            parts = data.train.of_item(item), data.validation.of_item(item)
            learns = all(map(len, parts))
            with TrackedRun(self.tracked.tracker.child(item_id), self.config) if learns else nullcontext() as tracked:
                result, adapter = tune_item(model, item_id, *parts, self.manager, [tracked])
            results.append(result)
            adapters |= {} if adapter is None else {item_id: adapter}
        model.item_adapters = ItemAdapters(adapters, results)

    def judge_baselines(self) -> None:
        """Persistence, ridge, … trained and scored on the same windows."""
        with self.gpu.phase("baselines"):
            self.judge.score_baselines(self.model)

    def conclude(self) -> None:
        """Quantiles, further metrics, the verdict, the scoreboard."""
        self.judge.add_quantiles(self.model)
        self.judge.add_metrics(self.model.own_metrics)
        scores = self.judge.scores
        if self.training is not None:
            went_back = self.training.best_step == 0
        else:  # a network that its closed form left as it was
            went_back = self.model.module is not None and self.model.starts_from_weights()
        kept = "fine_tuned" if "fine_tuned" in scores and not went_back else "zero_shot"
        family = self.model.model_type if self.model.module is None else None  # a baseline is not fine-tuned
        test, seed, called = self.judge.test, self.config.seed, self.called or family
        judged = verdict(scores, test.windows, kept, seed, None, test.horizons, called)
        per_item = per_item_table(self.model, scores, self.data) if self.config.tuning.per_item else None
        metrics = metrics_of(scores)
        self.take_scores(metrics, judged, self.data.preprocessor.unit, per_item)
        headline = {name: metrics[kept][name] for name in ("rmse", "mae", "mase")}
        rivals = {"rmse_zero_shot": "zero_shot", "rmse_best_baseline": best_baseline(scores)}
        headline |= {name: metrics[rival]["rmse"] for name, rival in rivals.items() if rival in metrics}
        self.tracked.log_scores("test", metrics, headline)

    def save(self) -> None:
        """The model and every number, into the run folder to be."""
        folder, results = self.folder, self.results
        if folder is None:
            return
        environment = self.environment()
        if "fine_tuned" in self.judge.models:
            self.judge.models["fine_tuned"]["fit_seconds"] = self.gpu.phases["training"]["seconds"]
        environment["models"] = self.judge.models
        environment["quantization"] = self.model.quantization_report and str(self.model.quantization_report)
        self.model.save(folder.path)
        self.model._save_training_metadata(folder.path, results["metrics"])
        if not folder.has(HISTORY):  # nothing was trained
            folder.write_text(HISTORY, "")
        self.judge.save(folder, "test", results["verdict"])
        if results["per_item"] is not None:
            folder.write_json(PER_ITEM, results["per_item"])
        folder.write_json(ENVIRONMENT, environment)
        folder.write_text(README, render_readme(self.model, self.data, results, environment))
        if self.tracked.is_tracked:
            folder.write_json(TRACKING, self.tracked.to_dict())

    def report(self) -> None:
        """Plots and the report page; the run then is judged."""
        if self.folder is not None:
            with writing(self.folder / PLOTS) as plots:
                _draw(plots, self.model, self.data, self.judge.scores, self.training)
            if self.config.evaluation.report:
                draw_report(self.folder.path, self.final)
        self.advance("judged")

    def recall(self, folder: RunFolder) -> None:
        """Results of a run that was finished before this start."""
        judged, unit = Verdict.from_dict(folder.read_json(VERDICT)), folder.read_json(EVALUATION)["unit"]
        per_item = folder.read_rows(PER_ITEM) if folder.has(PER_ITEM) else None
        self.take_scores(folder.metrics["test"], judged, unit, per_item, folder)

    def take_scores(
        self,
        metrics: dict,
        judged: Verdict,
        unit: str | None,
        per_item: list[dict] | None,
        folder: RunFolder | None = None,
    ) -> None:
        """Set `results`, with the scoreboard."""
        scoreboard = format_scoreboard(metrics, unit, judged.sentence)
        if per_item is not None:
            scoreboard += "\n\n" + format_per_item(per_item)
        best, kept = best_first(metrics)[0], {"kept": judged.kept, "per_item": per_item, "version": None}
        self.take_results(folder, metrics=metrics, best_model=best, scoreboard=scoreboard, verdict=judged, **kept)


def tune_item(
    model: ForecastModel,
    item_id: str,
    windows: WindowDataset,
    validation: WindowDataset,
    manager: DistributedManager,
    callbacks: Sequence[Callback] = (),
) -> tuple[ItemResult, Adapter | None]:
    """Train an adapter on an item's own windows; None where its own validation loss stays with the base.

    The model, whose settings hold, is the base and stays as it is. Without `evaluation.keep_best` the base is not
    validated, and the adapter is kept.
    """
    if not len(windows) or not len(validation):
        return ItemResult(item_id, False, None, None, "no training or no validation window"), None
    config = model.config
    changes = {
        "num_epochs": config.tuning.per_item_epochs,
        "max_steps": None,
        "learning_rate": config.tuning.per_item_learning_rate,
        "early_stopping_patience": _ITEM_PATIENCE,
        "eval_every_steps": None,
    }
    training = config.training.model_copy(update=changes)
    set_seed(config.seed)
    for parameter in model.module.parameters():
        parameter.requires_grad = False
    model.network = adapt(model.network, model.model_type, config.lora)
    model.to(manager.device)
    windows, size = model.shortened(windows), model.evaluation_batch_size(manager.device)
    settings = training, manager, config.seed, size, None, config.evaluation.keep_best
    found = train(model, windows, validation, *settings, show_progress=False, callbacks=callbacks)
    adapter, kept = Adapter.taken_from(model.network), found.best_step > 0
    model.network = model.network.unload()
    base, loss = found.history[0].get("validation_loss"), found.best_validation_loss
    told = "item %s: validation loss %s with the base, %.4f with its adapter: %s"
    with_base = "unknown" if base is None else f"{base:.4f}"
    logger.info(told, item_id, with_base, loss, "kept" if kept else "the base stays")
    reason = "" if kept else "no validation loss below the base"
    return ItemResult(item_id, kept, base, loss, reason), adapter if kept else None


def _check_has_network(model: ForecastModel) -> None:
    """Refuse what only a network can do, of a model without one."""
    config = model.config
    if model.module is not None:
        return
    asked = {
        f"tuning.mode={config.tuning.mode}": config.tuning.mode not in ("from_scratch", "full", "zero_shot"),
        "tuning.per_item=true": config.tuning.per_item,
        f"tuning.soup={config.tuning.soup}": config.tuning.soup > 1,
        f"tuning.noise_start={config.tuning.noise_start:g}": config.tuning.noise_start > 0,
        f"model.quantization={config.model.quantization}": config.model.quantization != "none",
        "forecast.method=quantile_head": config.forecast.method == "quantile_head" and not model.native_levels,
    }
    wrong = [key for key, is_asked in asked.items() if is_asked]
    if wrong:
        key = wrong[0].partition("=")[0]
        fix = f"set {key}=null" if key == "tuning.mode" else "leave it out"
        raise ConfigError(f"{wrong[0]} is for networks, and model.type={config.model.type} has none; {fix}")


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


def _draw(
    folder: Path, model: ForecastModel, data: PreparedData, scores: dict[str, Scores], training: TrainingResult | None
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
