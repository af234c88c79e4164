"""Rows of the book, each read from a run folder or from the attempt that left none."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError
from tstune.evaluation.verdict import OURS
from tstune.recipe_book.recipes import MachinePaths, Recipe, saved_config
from tstune.recipe_book.running import Attempt, Plan
from tstune.runs.folder import ENVIRONMENT, EVALUATION, MANIFEST, METRICS, VERDICT, RunFolder
from tstune.runs.report.words import MISSING

_WORDS = {"helped": "better", "hurt": "worse"}


@dataclass(frozen=True)
class Row:
    """What a table says about a recipe; None where there is nothing to say."""

    recipe: str  # its name in the book
    model: str  # family and weights
    data: str  # source and how far ahead
    mode: str  # of tuning
    changed: tuple[str, ...] = ()  # overrides of the user
    trainable: int | None = None  # parameters that learned
    hardware: str | None = None
    seconds: float | None = None  # of the run
    peak_memory_mib: float | None = None  # resident memory of its process; on a GPU what torch held there
    unit: str | None = None  # of the RMSE
    scores: Mapping[str, float] | None = None  # metrics of the judged forecast on the test windows
    untuned: Mapping[str, float] | None = None  # the same of the weights as they were, without tuning
    baseline: str | None = None  # the one of the lowest RMSE
    baseline_scores: Mapping[str, float] | None = None
    effect: str | None = None  # better, worse or no clear difference to the baseline
    change: float | None = None  # RMSE over the baseline's, minus 1
    commit: str | None = None
    date: str | None = None
    reason: str | None = None  # why there are no numbers
    outdated: bool = False  # the recipe was changed after the run


def read_rows(plan: Plan, recipes: Sequence[Recipe]) -> list[Row]:
    """The rows of those recipes that were run, or tried, in this output folder."""
    attempts, rows = plan.journal.read(), []
    for recipe in recipes:
        attempt, folder = attempts.get(recipe.name), RunFolder(plan.folder(recipe))
        failed_since = attempt is not None and attempt.status != "done"
        if folder.has(METRICS) and not failed_since:
            rows.append(_row_of_run(recipe, folder, attempt))
        elif attempt is not None:
            rows.append(_row_of_attempt(recipe, attempt, plan.machine))
    return rows


def _row_of_run(recipe: Recipe, folder: RunFolder, attempt: Attempt | None) -> Row:
    """The row of a recipe whose run folder is whole."""
    config = saved_config(folder.path) or recipe.load()
    environment = folder.read_optional(ENVIRONMENT)
    parts = folder.read_optional(METRICS)
    scores = parts.get("test") or parts.get("validation") or {}
    parameters = environment.get("parameters") or {}
    written = datetime.datetime.fromtimestamp((folder / METRICS).stat().st_mtime, datetime.UTC)
    commit = (environment.get("git_commit") or "")[:7] or None
    if commit and attempt is not None and (attempt.commit or "").endswith("+"):
        commit += "+"
    return Row(
        recipe=recipe.name,
        model=_members(environment) or _model(recipe, config),
        data=_data(config, folder),
        mode=_mode(recipe, config),
        changed=tuple(attempt.overrides) if attempt is not None else (),
        trainable=parameters.get("trainable"),
        hardware=_hardware(environment),
        seconds=environment.get("seconds"),
        peak_memory_mib=_peak(environment),
        commit=commit,
        date=written.date().isoformat(),
        outdated=_is_outdated(recipe, folder, attempt),
        **_judged(scores, folder),
    )


def _row_of_attempt(recipe: Recipe, attempt: Attempt, machine: MachinePaths) -> Row:
    """The row of a recipe that left no run folder."""
    try:
        config = recipe.load()
        what = {"model": _model(recipe, config), "data": _data(config, None), "mode": _mode(recipe, config)}
    except ConfigError:  # that is its reason
        what = dict.fromkeys(("model", "data", "mode"), MISSING)
    return Row(
        recipe=recipe.name,
        **what,
        changed=tuple(attempt.overrides),
        seconds=attempt.seconds,
        peak_memory_mib=attempt.peak_memory_mib,
        commit=attempt.commit,
        date=attempt.finished[:10],
        reason=machine.without_places(f"{attempt.status}: {attempt.reason}" if attempt.reason else attempt.status),
    )


def _judged(scores: Mapping[str, Mapping[str, float]], folder: RunFolder) -> dict[str, object]:
    """Whose numbers count, and what they are held against."""
    verdict, manifest = folder.read_optional(VERDICT), folder.read_optional(MANIFEST)
    ours = verdict.get("model") or next(iter(scores), None)
    metric = "rmse" if "rmse" in scores.get(ours, {}) else "loss"
    rivals = {name: values for name, values in scores.items() if name not in OURS and name != ours}
    rivals = {name: values for name, values in rivals.items() if values.get(metric) is not None}
    best = min(rivals, key=lambda name: rivals[name][metric], default=None)
    against = next((found for found in verdict.get("comparisons", []) if found["reference"] == best), {})
    effect, change = against.get("effect"), against.get("change")
    return {
        "unit": manifest.get("unit"),
        "scores": scores.get(ours),
        "untuned": scores.get("zero_shot") if ours != "zero_shot" else None,
        "baseline": best,
        "baseline_scores": rivals.get(best),
        "effect": _WORDS.get(effect, effect),
        "change": change,
    }


def _is_outdated(recipe: Recipe, folder: RunFolder, attempt: Attempt | None) -> bool:
    if attempt is None:  # made elsewhere: which changes it had is not known
        return False
    try:
        return not recipe.is_done(folder.path, [*attempt.machine, *attempt.overrides])
    except ConfigError:
        return True


def _model(recipe: Recipe, config: RunConfig) -> str:
    if recipe.is_comparison:
        return f"{len(recipe.runs())} models"
    named, given = recipe.load().model.pretrained, config.model.pretrained
    if named is None:
        return config.model.type
    weights = named.rpartition("/")[2]
    return f"{config.model.type}, {weights}{'' if given in (None, named) else ' (a local copy)'}"


def _members(environment: Mapping) -> str | None:
    """Of a comparison: how many of its models were had, and which one is judged."""
    listed = environment.get("members")
    if not listed:
        return None
    had = [one["name"] for one in listed if one["reason"] is None]
    return f"{len(had)} of {len(listed)} models; judged: {had[0]}"


def _mode(recipe: Recipe, config: RunConfig) -> str:
    if recipe.is_comparison:
        return "comparison"
    if recipe.is_pretraining:
        return "pretraining"
    return f"{config.tuning.mode}, an adapter per item" if config.tuning.per_item else config.tuning.mode


def _data(config: RunConfig, folder: RunFolder | None) -> str:
    ahead = f"{config.model.prediction_length} steps"
    record = folder.read_optional(EVALUATION) if folder is not None else {}
    if record.get("step_seconds"):
        hours = config.model.prediction_length * record["step_seconds"] / 3600
        ahead = f"{hours:.4g} h"
    windows = next(iter((folder.read_optional(METRICS).get("test") or {}).values()), {}) if folder is not None else {}
    count = f", {windows['num_windows']:,} windows" if windows.get("num_windows") else ""
    generated = folder is not None and folder.read_optional(MANIFEST).get("source") == "synthetic"
    return f"{'generated' if generated else config.data.source}, {ahead}{count}"


def _hardware(environment: Mapping) -> str | None:
    if not environment:
        return None
    if environment.get("device", "cpu").startswith("cpu"):
        threads = environment.get("num_threads") or 1
        name = f"CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    else:
        name = str(environment.get("device_name"))
    count = environment.get("num_processes") or 1
    return name if count == 1 else f"{count} x {name}"


def _peak(environment: Mapping) -> float | None:
    peaks = environment.get("peak_memory_mb") or {}
    return peaks.get("device", peaks.get("host"))
