"""The tables in the READMEs of the recipes: rows read from run folders, written between two markers."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, OutputError
from tstune.evaluation.verdict import OURS
from tstune.recipe_book.recipes import MachinePaths, Recipe, saved_config
from tstune.recipe_book.running import Attempt, Plan
from tstune.runs.folder import ENVIRONMENT, EVALUATION, MANIFEST, METRICS, VERDICT, RunFolder
from tstune.runs.report.words import MISSING, counts, duration, measured, percents, significant_digits
from tstune.runtime.files import aside, escape

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
    parameters, peaks = environment.get("parameters") or {}, environment.get("peak_memory_mb") or {}
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
        peak_memory_mib=peaks.get("device", peaks.get("host")),
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


# Rows into tables

_BEGIN = "<!-- results of scripts/run_recipes.py"
_END = "<!-- end of results -->"
_BLOCK = re.compile(
    rf"^(?P<begin>{re.escape(_BEGIN)}(?:: (?P<folder>[\w./-]+?))?(?:, also (?P<also>[\w@, ]+?))? -->)\n"
    rf"(?P<body>.*?)^{re.escape(_END)}$",
    re.MULTILINE | re.DOTALL,
)
_BEFORE_ALSO = ("recipe", "model", "data", "mode", "learned", "hardware", "time", "memory", "RMSE")
_AFTER_ALSO = ("untuned", "best baseline", "verdict", "commit", "date")
_RIGHT = ("learned", "time", "memory", "RMSE", "untuned")
_NAMES = {"mse_scaled": "scaled MSE", "mae_scaled": "scaled MAE"}


@dataclass(frozen=True)
class Block:
    """One table of one README."""

    file: Path
    folder: str  # recipes that begin so are shown, e.g. ttm/etth1; empty shows all
    also: tuple[str, ...]  # further metrics, each a column beside the RMSE

    def shows(self, recipe: str) -> bool:
        """Whether a recipe belongs into this table."""
        return not self.folder or recipe.startswith(f"{self.folder}/")


def rewrite_tables(book: Path, rows: Sequence[Row]) -> list[Path]:
    """Write the rows into every README of the book that has a place for them, and return the files that changed.

    A recipe without a row here keeps the line it has; a recipe that is not, or no longer, in the book has none.
    """
    changed, rows = [], [row for row in rows if _is_listed(row.recipe, book)]
    for file in sorted(book.rglob("*.md")):
        before = file.read_text(encoding="utf-8")
        if before.count(_BEGIN) != len(_BLOCK.findall(before)):
            raise OutputError(f"{file}: each '{_BEGIN} … -->' needs a line '{_END}' below it")
        after = _BLOCK.sub(lambda found, file=file: _rewritten(found, file, book, rows), before)
        if after != before:
            with aside(file) as partial:
                partial.write_text(after, encoding="utf-8")
            changed.append(file)
    return changed


def _rewritten(found: re.Match, file: Path, book: Path, rows: Sequence[Row]) -> str:
    also = tuple(name.strip() for name in (found["also"] or "").split(",") if name.strip())
    block = Block(file, found["folder"] or "", also)
    lines = {name: line for name, line in _lines(found["body"], block, book).items() if _is_listed(name, book)}
    width = len(_columns(block))
    lines = {name: line for name, line in lines.items() if line.count("|") - line.count(r"\|") == width + 1}
    lines |= {row.recipe: _line(row, block, book) for row in rows if block.shows(row.recipe)}
    body = "\n".join([*_head(block), *(lines[name] for name in sorted(lines))])
    return f"{found['begin']}\n\n{body}\n\n{_END}" if lines else f"{found['begin']}\n{_END}"


def _is_listed(recipe: str, book: Path) -> bool:
    return (book / f"{recipe}.yaml").is_file()


def _lines(body: str, block: Block, book: Path) -> dict[str, str]:
    """Recipe -> the line it has now."""
    found = {}
    for line in body.splitlines():
        if link := re.match(r"\| \[[^\]]*\]\(([^)]+)\.yaml\)", line):
            place = os.path.normpath(block.file.parent / link[1])
            found[Path(os.path.relpath(place, book)).as_posix()] = line
    return found


def _columns(block: Block) -> list[str]:
    return [*_BEFORE_ALSO, *(_NAMES.get(name, name) for name in block.also), *_AFTER_ALSO]


def _head(block: Block) -> list[str]:
    columns = _columns(block)
    right = {*_RIGHT, *(_NAMES.get(name, name) for name in block.also)}
    rule = "|".join("---:" if name in right else "---" for name in columns)
    return ["| " + " | ".join(columns) + " |", f"|{rule}|"]


def _line(row: Row, block: Block, book: Path) -> str:
    target = Path(os.path.relpath(book / f"{row.recipe}.yaml", block.file.parent)).as_posix()
    shown = row.recipe.removeprefix(f"{block.folder}/") if block.folder else row.recipe
    changed = "".join(f", `{escape(override)}`" for override in row.changed)
    cells = {
        "recipe": f"[{shown}]({target}){changed}",
        "model": escape(row.model),
        "data": escape(row.data),
        "mode": escape(row.mode),
        "learned": counts([row.trainable])[0],
        "hardware": escape(row.hardware or MISSING),
        "time": duration(None if row.seconds is None else float(f"{row.seconds:.3g}")),
        "memory": measured(row.peak_memory_mib, "MiB"),
        "RMSE": _score(row.scores, row.unit),
        "untuned": _number(row.untuned),
        "best baseline": MISSING if row.baseline is None else f"{escape(row.baseline)} {_number(row.baseline_scores)}",
        "verdict": _verdict(row),
        "commit": row.commit or MISSING,
        "date": row.date or MISSING,
    }
    for name in block.also:
        cells[_NAMES.get(name, name)] = significant_digits([(row.scores or {}).get(name)])[0]
    return "| " + " | ".join(cells[name].replace("\n", " ") for name in _columns(block)) + " |"


def _score(scores: Mapping[str, float] | None, unit: str | None) -> str:
    if scores is not None and "rmse" not in scores and "loss" in scores:
        return f"loss {_number(scores)}"
    return measured((scores or {}).get("rmse"), unit or "")


def _number(scores: Mapping[str, float] | None) -> str:
    values = scores or {}
    return significant_digits([values.get("rmse", values.get("loss"))])[0]


def _verdict(row: Row) -> str:
    if row.reason is not None:
        return escape(_shortened(row.reason))
    said = row.effect or MISSING
    if row.change is not None:
        said += f", {percents([row.change], signed=True)[0]} %"
    return f"{said}; recipe changed since" if row.outdated else said


def _shortened(reason: str, limit: int = 120) -> str:
    return reason if len(reason) <= limit else reason[: limit - 1].rstrip() + "…"
