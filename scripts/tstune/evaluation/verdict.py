"""Did it help, by how much, and how sure is that: one model against all others on the same windows, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from pydantic import TypeAdapter

from tstune.data.frequency import in_time
from tstune.data.windows import WindowDataset
from tstune.errors import DataError, visible
from tstune.evaluation.backtest import ALWAYS_SCORED, Scores
from tstune.evaluation.bootstrap import DRAWS, LEVEL, MIN_BLOCKS, ROUNDING, Blocks, Interval, relative_rmse

OURS = ("per_item", "fine_tuned", "zero_shot", "average", "fine_tuned_refit")
"""Forecasts of the run's own model, the one that is judged first; the others are baselines."""


def metrics_of(scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """Row of the scoreboard -> metric -> value."""
    return {name: values.metrics for name, values in scores.items()}


def best_first(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Names of models by their RMSE, the lowest first; what is no number comes last."""
    return sorted(metrics, key=lambda name: np.nan_to_num(np.float64(metrics[name]["rmse"]), nan=np.inf))


def best_baseline(scores: Mapping[str, Scores]) -> str | None:
    """Name of the baseline with the lowest RMSE; None without baselines."""
    baselines = {name: values for name, values in scores.items() if name not in OURS}
    return next(iter(best_first(metrics_of(baselines))), None)


def format_scoreboard(
    metrics: Mapping[str, Mapping[str, float | None]], unit: str | None, verdict: str, part: str = "test"
) -> str:
    """Markdown table of the numbers of `metrics.json`, best RMSE first, with the verdict's sentence beneath."""
    metrics = {name: {key: np.nan if v is None else v for key, v in row.items()} for name, row in metrics.items()}
    first = next(iter(metrics.values()))
    columns = [name for name in first if name in ("rmse", "mae") or name.startswith("rmse@")] + ["mase"]
    beside = {*columns, *ALWAYS_SCORED, "num_windows"}  # what else there is was asked for by its name
    further = dict.fromkeys(name for row in metrics.values() for name in row if name not in beside)
    columns += [name for name in further if not name.startswith("mae@")]
    order = best_first(metrics)
    width = max(map(len, order))
    lines = [
        f"| {'model':<{width}} | " + " | ".join(f"{name:>11}" for name in columns) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * 12 + ":" for _ in columns) + "|",
    ]
    for name in order:
        values = metrics[name]
        cells = (f"{values[column]:.4g}" if column in values else "–" for column in columns)
        lines.append(f"| {name:<{width}} | " + " | ".join(f"{cell:>11}" for cell in cells) + " |")
    measured_in = f", RMSE and MAE in {unit}" if unit else ""
    lines += ["", f"{first['num_windows']:,} {part} windows, the same for every model{measured_in}."]
    lines.append(f"Best by RMSE: {order[0]} ({metrics[order[0]]['rmse']:.4g}). {verdict}")
    return visible("\n".join(lines))


def format_per_item(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown table of the adapters per item, with a sentence beneath."""
    lines = [
        "| item | test windows | rmse, base | rmse, per item | change | adapter | on the test windows |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        fate = "kept" if row["kept"] else f"not kept: {row['reason']}"
        if row["rmse_base"] is None:
            lines.append(f"| {row['item_id']} | 0 | | | | {fate} | no test window |")
            continue
        base, tuned = row["rmse_base"], row["rmse_per_item"]
        effect = ("helped" if tuned < base else "hurt") if row["kept"] else "base used"
        change = f"{100 * (tuned / base - 1):+.1f} %"
        lines.append(
            f"| {row['item_id']} | {row['num_windows']} | {base:.4g} | {tuned:.4g} | {change} | {fate} | {effect} |"
        )
    kept = [row for row in rows if row["kept"]]
    helped = sum(row["rmse_base"] is not None and row["rmse_per_item"] < row["rmse_base"] for row in kept)
    summary = f"{len(rows)} items: {len(kept)} adapters kept by their own validation windows, {helped} of them helped"
    return "\n".join([*lines, "", f"{summary} on test."])


_TOLD = 1e-3  # raw and scaled errors that differ by less do not contradict each other

Effect = Literal["helped", "no clear difference", "hurt"]

EFFECTS: dict[int, Effect] = {-1: "helped", 0: "no clear difference", 1: "hurt"}
AT_STEP = {-1: "better", 0: "no clear difference", 1: "worse"}

_NOT_TUNED = "No step lowered the validation loss, so the saved model is the zero-shot model."
_RIVAL_EFFECT = {
    "helped": "{model} beats the best {kind}, {reference}",
    "no clear difference": "{model} does not clearly differ from the best {kind}, {reference}",
    "hurt": "{model} loses to the best {kind}, {reference}",
}


@dataclass(frozen=True)
class LeadTime:
    """One model against another at one step of the forecast."""

    label: str  # ``30min``, as in the metrics
    step: int  # 1 is the first
    effect: str  # ``better`` or ``worse`` if the interval excludes 0, else ``no clear difference``
    # change, low, high: as in `Comparison`
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """One model against another."""

    # model, reference: rows of the scoreboard
    model: str
    reference: str
    # ``helped`` or ``hurt`` if the interval excludes 0, else ``no clear difference``; between runs ``better`` or
    # ``worse``
    effect: str
    change: float  # RMSE over the reference's, minus 1; -0.05 is 5 % lower
    # low, high: 95 % interval of the change; None if the windows are too few for one
    low: float | None
    high: float | None
    # items_better, items_worse: items on which the RMSE is lower, higher
    items_better: int
    items_worse: int
    num_items: int  # items with an observed target; `items_better / num_items` is the win rate
    lead_times: tuple[LeadTime, ...] = ()  # the same at the first step, the configured horizons and the last step


@dataclass(frozen=True)
class Verdict:
    """What the test windows say about a run."""

    model: str  # the run's own forecast that is judged: per_item, else fine_tuned, else zero_shot
    # of tuning against the zero-shot model, or without one against the best baseline; None without either, or with too
    # few days to tell
    effect: Effect | None
    sentence: str  # the same in words, with numbers
    kept: str  # what the saved model is, ``fine_tuned`` or ``zero_shot``
    comparisons: tuple[Comparison, ...]  # the model against every other row of the scoreboard, in its order
    # num_windows, num_items, num_blocks: what was drawn from; windows without an observed target are left out
    num_windows: int
    num_items: int
    num_blocks: int
    block_days: int  # calendar days that are drawn together
    speaks_of_other_items: bool  # the intervals are about other items like these, not only about other days of these
    # draws, level, seed: of the bootstrap
    draws: int = DRAWS
    level: float = LEVEL
    seed: int = 0

    def to_dict(self) -> dict:
        """Values for `verdict.json`."""
        comparisons = [asdict(one) | {"lead_times": list(map(asdict, one.lead_times))} for one in self.comparisons]
        return asdict(self) | {"comparisons": comparisons}

    @classmethod
    def from_dict(cls, values: dict) -> Verdict:
        """Read what `to_dict` gave, also after JSON."""
        return TypeAdapter(cls).validate_python(values)

    def against(self, reference: str) -> Comparison | None:
        """The comparison with one row of the scoreboard; None if there is none."""
        return next((found for found in self.comparisons if found.reference == reference), None)


def verdict(
    scores: Mapping[str, Scores],
    windows: WindowDataset,
    kept: str,
    seed: int = 0,
    judged_name: str | None = None,
    horizons: Mapping[str, int] = MappingProxyType({}),
    called: str | None = None,
) -> Verdict:
    """Compare the run's forecast with all others by a paired block bootstrap; see `relative_rmse`.

    A difference is clear when its 95 % interval excludes 0, so that of models that are equal about one in forty is
    said to have helped. This is a statement about the test windows, made once at the end. Which weights are saved is
    decided by the validation windows (`evaluation.keep_best`): who keeps the better of two models by its test score
    has chosen on the test windows, and the score of the winner is then too good.

    Args:
        scores: row of the scoreboard -> scores, all on the same windows.
        kept: what the saved model is, ``fine_tuned`` or ``zero_shot``.
        judged_name: row that is judged, against the best of all others; None for the forecast of a training run,
            which is judged against its zero-shot model and the best baseline.
        horizons: label -> step that is judged by itself, beside the first and the last one.
        called: name of the judged forecast in the sentence; None takes its row.

    Raises:
        DataError: two models were scored on different windows.
    """
    model = judged_name or next((name for name in OURS if name in scores), next(iter(scores)))
    _require_same_windows(scores, model)
    judged = scores[model]
    seen = judged.window_count > 0
    blocks = window_blocks(judged, windows, seen)
    names = [name for name in scores if name != model and seen.any()]
    comparisons = ()
    if names:
        others = np.column_stack([scores[name].window_square[seen] for name in names])
        intervals = relative_rmse(judged.window_square[seen], others, blocks, seed=seed)
        every, ends = windows.panel.frequency, (1, windows.prediction_length)
        steps = {in_time(step, every) or f"{step}steps": step for step in ends}
        steps |= {label: step for label, step in horizons.items() if step not in steps.values()}
        by_lead_time = _by_lead_time(scores, model, names, seen, blocks, steps, seed)
        comparisons = tuple(
            replace(
                compared(model, name, interval, scores[model].rmse_by_item, scores[name].rmse_by_item),
                lead_times=by_lead_time.get(name, ()),
            )
            for name, interval in zip(names, intervals, strict=True)
        )
    found = {comparison.reference: comparison for comparison in comparisons}
    if judged_name is None:
        tuning, average, rival, kind = found.get("zero_shot"), found.get("average"), best_baseline(scores), "baseline"
    else:
        tuning = average = None
        rival = next(iter(best_first(metrics_of({name: scores[name] for name in found}))), None)
        kind = "other model"
    baseline = found.get(rival)
    main = tuning or baseline
    return Verdict(
        model=model,
        effect=main.effect if main and main.low is not None else None,
        sentence=_sentence(called or model, kept, tuning, baseline, average, blocks, scores, kind),
        kept=kept,
        comparisons=comparisons,
        num_windows=int(seen.sum()),
        num_items=blocks.num_items,
        num_blocks=blocks.num_blocks,
        block_days=blocks.days,
        speaks_of_other_items=blocks.speaks_of_other_items,
        seed=seed,
    )


def _by_lead_time(
    scores: Mapping[str, Scores],
    model: str,
    names: Sequence[str],
    seen: np.ndarray,
    blocks: Blocks,
    steps: Mapping[str, int],
    seed: int,
) -> dict[str, tuple[LeadTime, ...]]:
    """Reference -> the comparison at each of the steps; empty where the forecasts are too large to be kept."""
    if any(scores[name].windows is None for name in (model, *names)):
        return {}
    observed = scores[model].windows.observed.any(axis=(0, 2))
    steps = sorted(((step, label) for label, step in steps.items() if observed[step - 1]))
    if not steps:
        return {}
    places = [step - 1 for step, _ in steps]
    mine, *others = (scores[name].windows.squares()[np.ix_(seen, places)] for name in (model, *names))
    intervals = iter(relative_rmse(np.tile(mine, len(names)), np.hstack(others), blocks, seed=seed))
    return {
        name: tuple(
            LeadTime(label, step, AT_STEP[one.clear_sign], one.change, one.low, one.high)
            for (step, label), one in zip(steps, intervals, strict=False)
        )
        for name in names
    }


def format_comparisons(verdict: Verdict) -> str:
    """Markdown table of all comparisons; empty if there are none."""
    if not verdict.comparisons:
        return ""
    lines = [f"| {verdict.model} against | effect | RMSE | 95 % interval | better for |", "|---|---|---:|---:|---:|"]
    for row in verdict.comparisons:
        interval = "none: too few days" if row.low is None else f"{_percent(row.low)} to {_percent(row.high)}"
        lines.append(
            f"| {row.reference} | {row.effect} | {_percent(row.change)} | {interval} "
            f"| {row.items_better} of {row.num_items} items |"
        )
    return "\n".join(lines)


def _require_same_windows(scores: Mapping[str, Scores], model: str) -> None:
    mine = scores[model]
    for name, other in scores.items():
        for field in ("window_start", "window_count"):
            if not np.array_equal(getattr(mine, field), getattr(other, field)):
                raise DataError(f"{model} and {name} were not scored on the same windows; score them with one Backtest")


def window_blocks(scores: Scores, windows: WindowDataset, seen: np.ndarray) -> Blocks:
    """Which of the windows that count, [windows] bool, the bootstrap draws together."""
    origin = scores.window_start[seen] + windows.context_length
    stamps = windows.panel.timestamps
    path = (stamps[origin + windows.prediction_length - 1] - stamps[origin - 1]).max(initial=np.timedelta64(0, "ns"))
    return Blocks.by_day(scores.window_item[seen], stamps[origin], path)


def compared(
    model: str,
    reference: str,
    interval: Interval,
    rmse_by_item: np.ndarray,
    reference_by_item: np.ndarray,
    effects: Mapping[int, str] = EFFECTS,
) -> Comparison:
    """One model against another; [items] RMSEs are NaN for an item without an observed target."""
    judged = np.isfinite(rmse_by_item) & np.isfinite(reference_by_item)
    mine, other = rmse_by_item[judged], reference_by_item[judged]
    return Comparison(
        model=model,
        reference=reference,
        effect=effects[interval.clear_sign],
        change=interval.change,
        low=interval.low,
        high=interval.high,
        items_better=int((mine < other * (1 - ROUNDING)).sum()),
        items_worse=int((mine > other * (1 + ROUNDING)).sum()),
        num_items=len(mine),
    )


def _sentence(
    model: str,
    kept: str,
    tuning: Comparison | None,
    baseline: Comparison | None,
    average: Comparison | None,
    blocks: Blocks,
    scores: Mapping[str, Scores],
    kind: str = "baseline",
) -> str:
    shown = [comparison for comparison in (tuning, baseline) if comparison is not None]
    if shown and all(comparison.low is None for comparison in shown):
        number = "1 block" if blocks.num_blocks == 1 else f"{blocks.num_blocks} blocks"
        differences = "; ".join(_numbers(comparison) for comparison in shown)
        reason = f"the test windows are {number} of days of {_items(blocks)}, and it takes {MIN_BLOCKS}"
        saved = f" {_NOT_TUNED}" if tuning is not None and kept == "zero_shot" else ""
        return f"No verdict: {reason}. {model}: {differences}.{saved}"
    parts = []
    if tuning is not None:
        what = "Fine-tuning with an adapter per item" if model == "per_item" else "Fine-tuning"
        effect = ": no clear difference" if tuning.effect == "no clear difference" else f" {tuning.effect}"
        parts += [f"{what}{effect}: {_numbers(tuning)}.", *_otherwise(tuning, scores)]
        if kept == "zero_shot":
            parts.append(_NOT_TUNED)
        elif tuning.effect == "hurt":
            parts.append(
                "The validation windows had said otherwise, so the tuned weights were saved; "
                "tuning.mode=zero_shot saves the others."
            )
        if average is not None and average.effect == "hurt" and tuning.effect != "hurt":
            parts.append(f"The mean of both forecasts is better still: against it {model} has {_numbers(average)}.")
    if baseline is not None:
        relation = _RIVAL_EFFECT[baseline.effect].format(model=model, kind=kind, reference=baseline.reference)
        parts += [f"{relation}: {_numbers(baseline)}.", *_otherwise(baseline, scores)]
    if shown:
        parts.append(_scope(blocks))
    return " ".join(parts) or f"Nothing to compare {model} with."


def _otherwise(comparison: Comparison, scores: Mapping[str, Scores]) -> list[str]:
    """Where single lead times, or errors scaled by channel or item, contradict the whole path."""
    agrees = {"helped": "better", "hurt": "worse"}.get(comparison.effect)
    told: dict[str, list[str]] = {}
    for one in comparison.lead_times:
        if one.effect not in (agrees, "no clear difference"):
            interval = _interval_in_words(one.low, one.high)
            told.setdefault(one.effect, []).append(
                f"{one.label} (RMSE {_in_words(one.change)}, 95 % interval {interval})"
            )
    parts = []
    if told:
        which = " and ".join(f"{effect} at {', '.join(times)}" for effect, times in told.items())
        parts.append(f"At single lead times it is {which}.")
    mine, other = scores[comparison.model].metrics, scores[comparison.reference].metrics
    scaled = []
    for raw, metric in (("rmse", "mse_scaled"), ("mae", "mase")):
        before, after = (mine[name] / other[name] - 1 if other[name] else np.nan for name in (raw, metric))
        if before * after < 0 and min(abs(before), abs(after)) > _TOLD:
            scaled.append(f"{metric} {_in_words(after)}")
    if scaled:
        parts.append(f"Scaled errors say otherwise: {' and '.join(scaled)} than {comparison.reference}.")
    return parts


def _scope(blocks: Blocks) -> str:
    days = "1 day" if blocks.days == 1 else f"{blocks.days} days"
    if blocks.speaks_of_other_items:
        return f"Intervals are for other items like these {blocks.num_items}: items and blocks of {days} drawn anew."
    return f"Intervals are for other days of {_items(blocks)}: {blocks.num_blocks} blocks of {days} drawn anew."


def _items(blocks: Blocks) -> str:
    return "this item" if blocks.num_items == 1 else f"these {blocks.num_items} items"


def _numbers(comparison: Comparison) -> str:
    text = f"RMSE {_in_words(comparison.change)} than {comparison.reference}"
    if comparison.low is not None:
        text += f" (95 % interval {_interval_in_words(comparison.low, comparison.high)})"
    if comparison.num_items > 1:
        text += f", better for {comparison.items_better} of {comparison.num_items} items"
    return text


def _interval_in_words(low: float, high: float) -> str:
    if high < 0:
        return f"{_size(high)} to {_in_words(low)}"
    if low > 0:
        return f"{_size(low)} to {_in_words(high)}"
    return f"{_in_words(low)} to {_in_words(high)}"


def _in_words(change: float) -> str:
    return f"{_size(change)} % {'lower' if change < 0 else 'higher'}"


def _size(change: float) -> str:
    return f"{100 * abs(change):.1f}" if abs(change) < 10 else "over 1000"


def _percent(change: float) -> str:
    return f"{100 * change:+.1f} %" if abs(change) < 10 else "over +1000 %"
