"""The README of a run folder; its words are in `readme.md.jinja`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tstune
from tstune.config.section import member_name
from tstune.data.prepared import PreparedData
from tstune.errors import visible
from tstune.evaluation.verdict import format_comparisons
from tstune.runtime.files import escape, escape_lines, filled_template
from tstune.training.loop import TrainingResult

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel


def render_readme(model: ForecastModel, data: PreparedData, results: dict, environment: dict) -> str:
    """Fill the template from the run."""
    config, training, preprocessor = model.config, results["training"], data.preprocessor
    roles = preprocessor.roles
    columns = [preprocessor.item_id_column or "", *preprocessor.time_columns, *roles.columns, *roles.statics]
    source = escape(data.manifest["source"])
    return filled_template(
        Path(__file__).with_name("readme.md.jinja"),
        title=f"{escape(model.model_type)} on {source}, {config.tuning.mode}",
        scoreboard=escape_lines(results["scoreboard"]),
        comparisons=escape_lines(format_comparisons(results["verdict"])),
        kept=results["kept"].replace("_", "-"),
        reason=_why_kept(results["kept"], training),
        source=source,
        licence=escape(data.manifest["licence"]),
        targets=escape(", ".join(roles.target)),
        origin=escape(_origin(model)),
        windows=_windows(data),
        columns=visible(" ".join(", ".join(f"`{column}`" for column in columns if column).split())),
        module="tstune" if type(model).__name__ in tstune.__all__ else type(model).__module__,
        class_name=type(model).__name__,
        has_intervals=model.uncertainty is not None,
        config=config,
        section=config.model,
        preprocessor=preprocessor,
        manifest=data.manifest,
        parameters=results["parameters"],
        training=training,
        environment=environment,
    )


def _windows(data: PreparedData) -> str:
    text = ", ".join(f"{part} {count:,}" for part, count in data.manifest["windows"].items())
    if "calibration" in data.windows:
        text += f"; of validation the earlier {len(data.validation):,} chose the weights, the later "
        text += f"{len(data.calibration):,} calibrated the intervals and chose nothing"
    return text


def _origin(model: ForecastModel) -> str:
    """Where the weights come from."""
    members = getattr(model.config.model, "members", None)
    if members:
        return f"{len(members)} members: {', '.join(map(member_name, members))}"
    if model.module is None:
        return "none (closed form)"
    return model.config.model.pretrained or "random (from scratch)"


def _why_kept(kept: str, training: TrainingResult | None) -> str:
    if training is None:
        return "nothing was trained" if kept == "zero_shot" else "fitted in closed form, without training steps"
    if kept == "zero_shot":
        return "no step lowered the validation loss (`evaluation.keep_best`)"
    averaged = sum(seed["averaged"] for seed in training.soup)
    if averaged > 1:
        return f"the average of {averaged} of {len(training.soup)} seeds had the lowest validation loss"
    return f"step {training.best_step} had the lowest validation loss"
