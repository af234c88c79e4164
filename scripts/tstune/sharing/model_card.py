"""The model card: what the model is, what it is for, what it was made from and how good it is. No number is typed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import PurePath

import yaml

import tstune
from tstune.sharing.contents import BUILTIN, Base, FinishedRun, Published

_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "openrail", "unknown",
}  # fmt: skip
"""Identifiers of the Hub; any other licence is `other` with a name."""


def render_card(run: FinishedRun, published: Published, base: Base, licence: str, repo: str | None, today: date) -> str:
    """README.md with its YAML head, as `huggingface_hub.ModelCard` reads it.

    Args:
        run: what is published.
        published: its files.
        base: the weights that were tuned.
        licence: of the weights, an identifier of the Hub or a name.
        repo: Hub id it goes to; None for a folder.
        today: date of the publication.
    """
    title = repo.partition("/")[2] if repo else f"{run.model_type} on {run.manifest.get('source', 'own data')}"
    sections = [
        f"# {title}",
        _what(run, published, base),
        f"## Intended use and limits\n\n{_limits(run)}",
        f"## Data\n\n{_data(run)}",
        f"## Training\n\n{_training(run, base)}",
        f"## Scores\n\n{_scores(run)}",
        f"## How to load it\n\n{_loading(run, published, base, repo)}",
        f"## Version\n\n{_version(run, today)}",
    ]
    head = yaml.safe_dump(metadata(run, published, base, licence), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def metadata(run: FinishedRun, published: Published, base: Base, licence: str) -> dict[str, object]:
    """The YAML head. `base_model` and `datasets` name things on the Hub, so they are there only if those are."""
    identifier = licence.lower()
    found: dict[str, object] = {"license": identifier if identifier in _LICENCES else "other"}
    if identifier not in _LICENCES:
        found["license_name"] = licence
    found["library_name"] = "peft" if published.adapter else run.family.library
    found["pipeline_tag"] = "time-series-forecasting"
    tags = ["time-series", "forecasting", "tstune", run.model_type.replace("_", "-"), run.config.tuning.mode]
    found["tags"] = [*tags, *(run.domain.tags if run.domain else ())]
    if base.hub_id:
        found["base_model"] = base.hub_id
        found["base_model_relation"] = "adapter" if published.adapter else "finetune"
    if run.manifest.get("source") == "hf_dataset" and run.config.data.path and "/" in run.config.data.path:
        name = run.config.data.path
        if not PurePath(name).is_absolute() and name.count("/") == 1 and not name.startswith("."):
            found["datasets"] = [name]
    return found


def _what(run: FinishedRun, published: Published, base: Base) -> str:
    section, pre = run.config.model, run.preprocessor
    unit = f" in {pre['unit']}" if pre.get("unit") else ""
    start = {None: "trained from random weights", BUILTIN: "tuned from the weights that tstune ships"}.get(
        base.name, f"tuned from `{base.name}`"
    )
    roles = pre["roles"]
    read = [
        f"{title}: {', '.join(f'`{name}`' for name in roles[role])}"
        for role, title in (
            ("target", "forecast"),
            ("conditional", "read, known in the past only"),
            ("control", "read, known in the future too"),
            ("static_real", "constant number per series"),
            ("static_categorical", "constant name per series"),
            ("time_features", "computed from the time"),
        )
        if roles.get(role)
    ]
    form = "a low-rank adapter, which needs its base" if published.adapter else "whole weights"
    lines = [
        f"{run.family.title}, {start} (tuning mode `{run.config.tuning.mode}`), as {form}. "
        f"It reads the last {section.context_length} steps of a series on a grid of {pre['frequency']} and forecasts "
        f"the next {section.prediction_length}{unit}.",
        "",
        *(f"- {line}" for line in read),
    ]
    if run.config.forecast.quantiles:
        levels = ", ".join(f"{level:g}" for level in run.config.forecast.quantiles)
        lines.append(f"- quantiles: {levels} ({run.config.forecast.method})")
    if (run.folder / "adapters" / "index.json").is_file():
        lines.append("- one small adapter per item of the training data; others use the shared weights")
    return "\n".join(lines)


def _limits(run: FinishedRun) -> str:
    section, pre = run.config.model, run.preprocessor
    general = [
        f"- Meant for research on series like those below: a grid of {pre['frequency']}, the columns above"
        + (f", values in {pre['unit']}" if pre.get("unit") else "")
        + f". It forecasts at most {section.prediction_length} steps.",
        f"- Gaps of at most {pre['max_gap']} are filled, longer ones are masked; a forecast from a context that is "
        "mostly missing is a guess.",
        "- The scores are for the test part of the data below, and promise nothing for other data.",
    ]
    return "\n".join([*([run.domain.limits] if run.domain and run.domain.limits else []), *general])


def _data(run: FinishedRun) -> str:
    found = run.manifest
    if not found:
        return "Nothing is recorded about the data of this run."
    windows = ", ".join(f"{part} {count:,}" for part, count in found.get("windows", {}).items())
    split = found.get("split", {})
    kind = split.get("preset") or split.get("by", "time")
    parts = [f"{part} {split[part]:g}" for part in ("train", "validation", "test") if part in split]
    placed = any(split.get(key) for key in ("preset", "borders", "borders_at"))
    shares = "" if placed else f"; shares {', '.join(parts)}"
    rows = {
        "source": found.get("source"),
        "licence of the data": found.get("licence"),
        "series": found.get("num_items"),
        "readings": f"{found['num_readings']:,}" if "num_readings" in found else None,
        "grid": found.get("frequency"),
        "unit": found.get("unit"),
        "split": f"{kind}, mode {found.get('split_mode', split.get('mode'))}{shares}" if split else None,
        "series that were only tested": len(found.get("unseen_items", [])),
        "windows": windows or None,
    }
    files = [
        f"| `{PurePath(file['path'].replace(chr(92), '/')).name}` | `{file['sha256']}` |"
        for file in found.get("files", [])
    ]
    hashes = ["", "| file | SHA-256 |", "|---|---|", *files] if files else []
    note = ["", "The readings themselves are not part of this folder."]
    if (run.folder / "adapters" / "index.json").is_file():
        note = ["", "The readings themselves are not part of this folder; `adapters/index.json` names the series."]
    return "\n".join([*_table(rows), *hashes, *note])


def _training(run: FinishedRun, base: Base) -> str:
    environment, training = run.environment, run.environment.get("training") or {}
    parameters = environment.get("parameters", {})
    packages = environment.get("packages", {})
    learned = None
    if "trainable" in parameters:
        learned = f"{parameters['trainable']:,} of {parameters['total']:,} ({parameters['percentage']:.3g} %)"
    config = run.config
    rows = {
        "tuning mode": config.tuning.mode,
        "base": {None: "none (random weights)", BUILTIN: "the weights that tstune ships"}.get(base.name, base.name),
        "parameters that learned": learned,
        "steps": training.get("num_steps", 0),
        "best step": training.get("best_step"),
        "learning rate": training.get("learning_rate"),
        "batch": config.training.per_device_batch_size,
        "optimizer, schedule": f"{config.training.optimizer}, {config.training.scheduler}",
        "loss": config.training.loss,
        "precision": config.training.mixed_precision or "float32",
        "hardware": f"{environment['device_name']}, {environment.get('num_processes', 1)} process(es)"
        if "device_name" in environment
        else None,
        "seconds, training": f"{training['seconds']:.0f}" if training.get("seconds") is not None else None,
        "seconds, whole run": f"{environment['seconds']:.0f}" if "seconds" in environment else None,
        "seed": config.seed,
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()) or None,
    }
    return "\n".join(
        [*_table(rows), "", "The configuration is `config.yaml`, without places of the machine it ran on."]
    )


def _scores(run: FinishedRun) -> str:
    scores: Mapping[str, Mapping[str, float]] = run.metrics.get("test", {})
    if not scores:
        return "This run was not evaluated."
    first = next(iter(scores.values()))
    columns = [name for name in first if name == "rmse" or name == "mae" or name.startswith("rmse@") or name == "mase"]
    order = sorted(scores, key=lambda name: scores[name].get("rmse") or float("inf"))
    lines = [f"| model | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(_number(scores[name].get(column)) for column in columns)} |" for name in order]
    kept = run.verdict.get("kept", "fine_tuned" if "fine_tuned" in scores else "zero_shot")
    windows = f"{first['num_windows']:,} " if "num_windows" in first else ""
    unit = run.preprocessor.get("unit")
    lines += ["", f"{windows}test windows, the same for every row{f'; RMSE and MAE in {unit}' if unit else ''}."]
    lines.append(f"What is published is `{kept}`.")
    if kept in order and order[0] != kept:
        better = ", ".join(order[: order.index(kept)])
        lines.append(f"**It is not the best of the table: {better} had a lower RMSE on these windows.**")
    if run.verdict.get("sentence"):
        lines += ["", run.verdict["sentence"]]
    compared = run.verdict.get("comparisons", [])
    if compared:
        lines += ["", f"| {compared[0]['model']} against | effect | RMSE | 95 % interval |", "|---|---|---:|---:|"]
        lines += [
            f"| {row['reference']} | {row['effect']} | {_percent(row['change'])} | "
            f"{_percent(row['low'])} to {_percent(row['high'])} |"
            for row in compared
        ]
    return "\n".join([*lines, "", "All metrics are in `metrics.json`."])


def _loading(run: FinishedRun, published: Published, base: Base, repo: str | None) -> str:
    place = repo or "path/to/this/folder"
    code = "\n".join(run.family.loading_code(place, run.preprocessor, published.adapter, base.hub_id))
    return f"""With {run.family.library}:

```python
{code}
```

With tstune (its `scripts/` folder on the Python path), which reads tables, fills gaps and scales by itself:

```python
from huggingface_hub import snapshot_download
from tstune.models.registry import load_model

model = load_model({f'snapshot_download("{repo}")' if repo else '"path/to/this/folder"'})
forecast = model.predict("input.csv")  # one row per series and future step
```"""


def _version(run: FinishedRun, today: date) -> str:
    commit = run.environment.get("git_commit") or "not recorded"
    return "\n".join(
        _table({"tstune": tstune.__version__, "commit of the run": commit, "published": today.isoformat()})
    )


def _table(rows: Mapping[str, object]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value is not None)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"
