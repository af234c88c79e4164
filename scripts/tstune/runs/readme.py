"""The README of a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tstune
from tstune.config.section import member_name
from tstune.data.prepared import PreparedData
from tstune.errors import visible
from tstune.evaluation.verdict import format_comparisons
from tstune.runtime.files import escape, escape_lines
from tstune.training.loop import TrainingResult

if TYPE_CHECKING:
    from tstune.models.contract import ForecastModel


_TEMPLATE = """# {title}

{scoreboard}

| | |
|---|---|
| data | {source}, {num_items} series, {frequency} grid, targets {targets} |
| windows | {windows} |
| lengths | {context} steps in, {ahead} steps out |
| weights | {pretrained} |
| tuning | {mode}: {trainable:,} of {total:,} parameters learned |
| training | {training} |
| machine | {device}, {num_processes} process(es), {seconds:.0f} s in all, {memory:.0f} MiB at most |
| licence of the data | {licence} |
| commit, seed | {commit}, {seed} |

## Did it help

{comparisons}The saved model is the {kept} one: {reason}.

## Forecast with it

From a checkout of the project, with its `scripts/` folder on the Python path:

```python
from {module} import {class_name}

model = {class_name}.load("path/to/this/folder")
forecast = model.predict("input.csv")  # columns {columns}; one row per series and future step
```

or from the shell:

```
python scripts/predict_forecast.py --model path/to/this/folder --input input.csv --output forecast.csv
```

The input needs the last {context} steps of each series; values are in original units, in and out.

## Files

| file | what |
|---|---|
| `model/` | weights (safetensors) and config, in the format of the model's own library |
| `preprocessor.json` | columns, grid, scaler |
| `training_metadata.json` | what was trained: parameters, adapter, metrics |
| `uncertainty.json` | how forecasts become quantiles: method, levels, options |
| `uncertainty.safetensors` | its numbers, fitted on validation windows that chose nothing |
| `checksums.json` | SHA-256 of what is loaded; what has changed since is refused |
| `config.yaml` | the resolved configuration; `--config config.yaml output_dir=…` reruns it |
| `metrics.json` | every metric of every model on the test windows |
| `verdict.json` | the verdict: differences with intervals, what was drawn from |
| `history.jsonl` | the training log |
| `manifest.json` | data: files with checksums, borders, windows, what was dropped |
| `cohort.csv` | each series: days, sampling, missing, windows, what was dropped and why |
| `cohort.md` | the same table to read |
| `environment.json` | versions, commit, machine, time, memory |
| `report.html` | the report: verdict, errors by lead time and by item, forecasts, calibration, provenance |
| `report.md` | the same tables to read |
| `evaluation.json` | what the report is drawn from |
| `windows.parquet` | errors of every model on every test window, for paired comparisons |
| `forecasts.parquet` | every forecast of every model on the test windows, with what happened |
| `plots/` | loss, forecasts, error by lead time |
"""


def render_readme(model: ForecastModel, data: PreparedData, results: dict, environment: dict) -> str:
    """Fill the template from the run."""
    config, training, preprocessor = model.config, results["training"], data.preprocessor
    roles = preprocessor.roles
    columns = [preprocessor.item_id_column or "", *preprocessor.time_columns, *roles.columns, *roles.statics]
    trained = (
        "none"
        if training is None
        else (
            f"{training.num_steps} steps in {training.seconds:.0f} s, {training.windows_per_second:.0f} windows/s, "
            f"kept step {training.best_step} (validation loss {training.best_validation_loss:.4f})"
        )
    )
    comparisons = format_comparisons(results["verdict"])
    source, licence = escape(data.manifest["source"]), escape(data.manifest["licence"])
    text = _TEMPLATE.format(
        title=f"{escape(model.model_type)} on {source}, {config.tuning.mode}",
        scoreboard=escape_lines(results["scoreboard"]),
        comparisons=f"{escape_lines(comparisons)}\n\n" if comparisons else "",
        kept=results["kept"].replace("_", "-"),
        reason=_why_kept(results["kept"], training),
        source=source,
        num_items=data.manifest["num_items"],
        frequency=preprocessor.frequency,
        targets=escape(", ".join(roles.target)),
        windows=_windows(data),
        context=config.model.context_length,
        ahead=config.model.prediction_length,
        pretrained=escape(_origin(model)),
        mode=config.tuning.mode,
        trainable=results["parameters"]["trainable"],
        total=results["parameters"]["total"],
        training=trained,
        device=environment["device"],
        num_processes=environment["num_processes"],
        seconds=environment["seconds"],
        memory=environment["peak_memory_mb"]["host"],
        licence=licence,
        commit=environment["git_commit"] or "unknown",
        seed=config.seed,
        module="tstune" if type(model).__name__ in tstune.__all__ else type(model).__module__,
        class_name=type(model).__name__,
        columns=visible(" ".join(", ".join(f"`{column}`" for column in columns if column).split())),
    )
    absent = [] if config.evaluation.report else ["| `report."]
    absent += [] if config.evaluation.keep_forecasts else ["| `forecasts."]
    absent += [] if model.uncertainty is not None else ["| `uncertainty."]
    kept = (line for line in text.splitlines() if not line.startswith(tuple(absent)))
    return "\n".join(kept) + "\n"


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
