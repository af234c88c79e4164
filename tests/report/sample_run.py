"""A run folder as the contract has it, from simulated glucose and forecasts that err more with every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import yaml

from tstune.glucose.error_grids import ERROR_GRIDS, zone_shares
from tstune.glucose.scores import glycaemic_profile
from tstune.glucose.units import LIMITS

STEPS, STEP_SECONDS, CONTEXT = 96, 300, 512
HORIZONS = {"30min": 6, "60min": 12, "120min": 24, "8h": 96}
QUANTILES = {0.025: -1.96, 0.1: -1.28, 0.25: -0.67, 0.5: 0.0, 0.75: 0.67, 0.9: 1.28, 0.975: 1.96}
LEVELS = list(QUANTILES)
SCALE = {
    "average": 0.985,
    "fine_tuned": 1.0,
    "zero_shot": 1.04,
    "ridge": 1.03,
    "context_mean": 1.15,
    "seasonal_naive": 1.35,
    "persistence": 1.3,
}
MMOL = 18.016
WHOLE = slice(None)


def write_run(folder: Path, **options) -> Path:
    """Write a run folder; see `build` for the options."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in build(**options).items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def build(
    items: int = 12,
    num_examples: int = 6,
    unit: str | None = "mg/dL",
    glucose: bool = True,
    uncertainty: bool = True,
    trained: bool = True,
    intervals: bool = True,
    targets: tuple[str, ...] = ("glucose",),
    names: Mapping[int, str] | None = None,
    step_seconds: int | None = STEP_SECONDS,
    seed: int = 0,
) -> dict[str, object]:
    """File name -> content of a run folder.

    Args:
        items, num_examples: how many.
        unit, targets, step_seconds: of the data; a unit other than of glucose gives other numbers' names only.
        glucose, uncertainty, intervals: False leaves those parts out, as a run does that cannot have them.
        trained: False is a zero-shot run.
        names: item number -> a name of its own.
    """
    rng = np.random.default_rng(seed)
    ids = [(names or {}).get(i, f"P{i + 1:02d}") for i in range(items)]
    run = Windows(rng, ids, unit, trained)
    evaluation = {
        "unit": unit,
        "frequency": "5min",
        "step_seconds": step_seconds,
        "context_length": CONTEXT,
        "prediction_length": STEPS,
        "targets": list(targets),
        "horizons": HORIZONS,
        "judged": run.judged,
        "models": run.models,
        "rmse_by_step": {m: run.by_step(m, intervals) for m in run.models},
        "per_item": [run.item_row(i) for i in range(items)],
        "examples": [run.example(rng, number, uncertainty, targets) for number in range(num_examples)],
        "uncertainty": _uncertainty(rng, run, intervals) if uncertainty else None,
        "glucose": _glucose(rng, run) if glucose else None,
    }
    return {
        "evaluation.json": _no_nan(evaluation),
        "metrics.json": {"test": _no_nan({m: run.metrics(m) for m in SCALE if m in run.models})},
        "verdict.json": _verdict(run, intervals),
        "manifest.json": _manifest(rng, run, targets),
        "cohort.csv": _cohort(rng, run),
        "history.jsonl": _history(rng) if trained else "",
        "environment.json": _environment(trained),
        "config.yaml": _config(trained, uncertainty),
    }


class Windows:
    """Truth, history and forecasts of `per_item` windows of each item, and what errors they make."""

    def __init__(self, rng, ids, unit, trained):
        self.ids, self.unit, self.divide = ids, unit, MMOL if unit == "mmol/L" else 1.0
        self.judged = "fine_tuned" if trained else "zero_shot"
        self.per_item = max(1, 240 // len(ids))
        self.owner = np.repeat(np.arange(len(ids)), self.per_item)
        self.seen = np.arange(len(ids)) % 5 != 4
        count = len(self.owner)
        times = np.arange(STEPS + 144)
        curve = 140 + 25 * np.sin(2 * np.pi * (times + rng.integers(0, 288, (count, 1))) / 288)
        for _ in range(4):  # meals
            after = np.maximum(times - rng.integers(-40, len(times), (count, 1)), 0) / 9
            curve = curve + rng.uniform(10, 80, (count, 1)) * after * np.exp(1 - after)
        walk = np.cumsum(rng.normal(0, 2.6, curve.shape), axis=1)
        walk -= walk.mean(axis=1, keepdims=True) + rng.uniform(0, 70, (count, 1))
        self.history, self.truth = np.split(np.clip(curve + walk, 40, 400) / self.divide, [144], axis=1)
        self.observed = rng.random(self.truth.shape) > 0.04
        shared = _wander(rng, self.truth.shape)  # models miss mostly the same; what is left to chance is their own
        scale = {m: s for m, s in SCALE.items() if trained or m not in ("fine_tuned", "average")}
        self.forecast = {m: self._forecast(rng, s, shared) for m, s in scale.items()}
        self.forecast["persistence"] = np.repeat(self.history[:, -1:], STEPS, axis=1)
        self.error = {m: np.where(self.observed, f - self.truth, np.nan) for m, f in self.forecast.items()}
        self.models = sorted(scale, key=self.rmse)

    def _forecast(self, rng, scale, shared):
        growth = 46 / self.divide * (1 - np.exp(-np.arange(1, STEPS + 1) / 22))
        far = np.linspace(0, 1, STEPS) * 0.35
        start = (self.history[:, -1:] - self.truth[:, :1]) * np.exp(-np.arange(STEPS) / 8)
        guess = (1 - far) * self.truth + far * 145 / self.divide + start
        noise = scale * growth * (0.97 * shared + 0.24 * _wander(rng, self.truth.shape))
        return np.clip(guess + noise, 35 / self.divide, 420 / self.divide)

    def own(self, item):
        """Windows of one item."""
        return slice(item * self.per_item, (item + 1) * self.per_item)

    def rmse(self, model, rows=WHOLE, steps=WHOLE):
        """Of some windows and steps."""
        return _mean(self.error[model][rows, steps] ** 2) ** 0.5

    def mae(self, model, rows=WHOLE, steps=WHOLE):
        """Of some windows and steps."""
        return _mean(np.abs(self.error[model][rows, steps]))

    def points(self, model):
        """Errors at the horizons, then of the whole path, in the unit of the data; MARD in percent."""
        found, relative = {}, 100 * np.abs(self.error[model]) / self.truth
        for label, cut in _cuts().items():
            found |= {f"rmse{label}": self.rmse(model, steps=cut), f"mae{label}": self.mae(model, steps=cut)}
            found |= {f"bias{label}": _mean(self.error[model][:, cut]), f"mard{label}": _mean(relative[:, cut])}
        return found

    def metrics(self, model):
        """The row of metrics.json."""
        points = self.points(model)
        found = {name: points[name] for name in ("rmse", "mae")}
        found |= {name: value for name, value in points.items() if "@" in name and name.startswith(("rmse", "mae"))}
        rmse, mae = found["rmse"], found["mae"]
        scaled = {"mse_scaled": (rmse / 53) ** 2, "mae_scaled": mae / 53, "mase": mae / 52.5}
        return found | scaled | {"mard": points["mard"], "num_windows": len(self.truth)}

    def by_step(self, model, intervals):
        """RMSE of every step, with a band."""
        values = [self.rmse(model, steps=step) for step in range(STEPS)]
        low, high = ([factor * v for v in values] if intervals else None for factor in (0.92, 1.09))
        return {"values": values, "low": low, "high": high}

    def item_row(self, item):
        """The row of per_item."""
        own = self.own(item)
        row = {"item": self.ids[item], "seen": bool(self.seen[item]), "num_windows": self.per_item}
        row |= {
            "rmse": {m: self.rmse(m, own) for m in self.forecast},
            "mae": {m: self.mae(m, own) for m in self.forecast},
        }
        for label, cut in _cuts().items():
            row[f"rmse{label}"] = {m: self.rmse(m, own, cut) for m in self.forecast}
        return row

    def example(self, rng, number, uncertainty, targets):
        """One forecast: the best, a typical one, the worst, the lowest, then any."""
        order = np.argsort(np.mean((self.forecast[self.judged] - self.truth) ** 2, axis=1))
        places = [order[0], order[len(order) // 2], order[-1], self.truth.min(axis=1).argmin()]
        window = int(places[number]) if number < 4 else int(rng.integers(len(self.owner)))
        spread = np.sqrt(np.arange(1, STEPS + 1)) * self.truth.std() / 9
        past = self.history[window].round(1).tolist()
        if number == 1:
            past[30:42] = [None] * 12
        quantiles = {f"{q:g}": (self.forecast[self.judged][window] + z * spread).tolist() for q, z in QUANTILES.items()}
        return {
            "kind": ("best", "typical", "worst", "hypo")[number % 4],
            "item": self.ids[self.owner[window]],
            "origin": f"{datetime(2024, 5, 2, 8, 5) + timedelta(hours=7 * number):%Y-%m-%dT%H:%M:%S}",
            "history": past,
            "truth": np.where(self.observed[window], self.truth[window], np.nan).tolist(),
            "forecasts": {m: f[window].tolist() for m, f in self.forecast.items()},
            "quantiles": quantiles if uncertainty else None,
            "target": targets[number % len(targets)],
        }


def _cuts():
    """`@horizon` -> its step, and all steps without a name."""
    return {f"@{label}": slice(step - 1, step) for label, step in HORIZONS.items()} | {"": WHOLE}


def _mean(values):
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _wander(rng, shape):
    """Errors that grow smoothly along the forecast."""
    padded = np.pad(np.cumsum(rng.normal(0, 1, shape), axis=1), ((0, 0), (3, 3)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1).mean(axis=2)
    return smooth / np.sqrt(np.arange(1, shape[1] + 1))


def _uncertainty(rng, run, intervals):
    methods = {}
    shifts = {"split_conformal": (0.0, 1.0), "multi_quantile": (-0.021, 0.93), "residual_quantiles": (0.017, 1.11)}
    for name, (shift, factor) in shifts.items():
        rows = []
        for nominal, width in ((0.5, 44.0), (0.8, 96.0), (0.95, 171.0)):
            coverage = nominal + shift * 4 * nominal * (1 - nominal) + rng.normal(0, 0.004)
            low, high = (coverage - 0.022, min(coverage + 0.021, 1.0)) if intervals else (None, None)
            row = {"nominal": nominal, "coverage": coverage, "low": low, "high": high}
            rows.append(row | {"width": width * factor / run.divide, "num_readings": run.truth.size, "num_blocks": 48})
        scores = {"wql": 0.17 * factor, "crps": 25.3 * factor / run.divide, "pinball": 12.65 * factor / run.divide}
        methods[name] = scores | {"calibration_error": abs(shift) + 0.006, "crossing": 0.0, "intervals": rows}
    edges = [0.0, *LEVELS, 1.0]
    expected = np.diff(edges)
    share = expected * rng.uniform(0.9, 1.1, len(expected))
    return {
        "method": "split_conformal",
        "levels": LEVELS,
        "calibration": {"part": "validation", "num_windows": 1840},
        "methods": methods,
        "coverage_by_step": {"nominal": 0.8, "values": (0.8 + 0.02 * np.sin(np.arange(STEPS) / 9)).tolist()},
        "pit": {"edges": edges, "share": (share / share.sum()).tolist(), "expected": expected.tolist()},
        "reliability": {
            "levels": LEVELS,
            "observed": [min(max(q + 0.012 * np.sin(9 * q), 0), 1) for q in LEVELS],
            "pinball": [12.0 * 4 * q * (1 - q) / run.divide for q in LEVELS],
        },
    }


def _glucose(rng, run):
    models, truth, observed, unit = run.models, run.truth, run.observed, run.unit
    factor = {"mg/dL": run.divide, "mmol/L": run.divide / MMOL}
    points = {m: {u: _in_unit(run.points(m), times) for u, times in factor.items()} for m in models}
    low, high = truth < LIMITS["low"][unit], truth > LIMITS["high"][unit]
    ranges = {"low": low & observed, "in_range": ~low & ~high & observed, "high": high & observed}
    by_range = {
        m: {
            name: {
                "num_readings": int(inside.sum()),
                "rmse": _mean(run.error[m][inside] ** 2) ** 0.5,
                "mae": _mean(np.abs(run.error[m][inside])),
                "bias": _mean(run.error[m][inside]),
            }
            for name, inside in ranges.items()
        }
        for m in models
    }
    gain = {m: {label: 5.0 * round(rng.uniform(1, step / 2)) for label, step in HORIZONS.items()} for m in models}
    gain["persistence"] = dict.fromkeys(HORIZONS, 0.0)
    tasks = {"all_day": {m: {"rmse": run.rmse(m), "num_windows": len(truth)} for m in models}}
    tasks["night"] = {m: {"rmse": 0.9 * run.rmse(m), "num_windows": len(truth) // 24} for m in models}
    groups = {"all": slice(None), "seen": run.seen[run.owner], "unseen": ~run.seen[run.owner]}
    groups |= {"sensor 5 min": run.owner % 2 == 0, "sensor 15 min": run.owner % 2 == 1}
    groups |= {f"participant {name}": run.own(i) for i, name in enumerate(run.ids)}
    strata = {}
    for name, rows in groups.items():
        if len(run.owner[rows]):
            strata[name] = {"num_windows": len(run.owner[rows]), "num_items": len(set(run.owner[rows]))}
            for key, cut in (("rmse", WHOLE), ("rmse@60min", slice(11, 12))):
                strata[name][key] = {u: {m: t * run.rmse(m, rows, cut) for m in models} for u, t in factor.items()}
    return {
        "units": ["mg/dL", "mmol/L"],
        "native": unit,
        "points": points,
        "by_range": by_range,
        "error_grids": {name: _grid(run, grid) for name, grid in ERROR_GRIDS.items()},
        "hypo": {name: _hypo(rng, run, name) for name in ("low", "very_low")},
        "profile": {m: glycaemic_profile(f, observed, unit) for m, f in {"truth": truth, **run.forecast}.items()},
        "temporal_gain": gain,
        "tasks": tasks,
        "strata": strata,
    }


def _in_unit(points, times):
    return {name: value if name.startswith("mard") else times * value for name, value in points.items()}


def _grid(run, grid):
    shares, drawn = {}, {}
    for label, step in HORIZONS.items():
        truth, observed = run.truth[:, step - 1], run.observed[:, step - 1]
        at = {m: run.forecast[m][:, step - 1] for m in run.models}
        shares[label] = {m: zone_shares(grid.zones(truth, f, run.unit), observed) for m, f in at.items()}
        drawn[label] = np.stack([truth, at[run.judged]], axis=1)[observed][:1500].tolist()
    polygons = grid.polygons(run.unit, 400 if run.unit == "mg/dL" else 22.3)
    outline = [[zone, np.asarray(polygon).tolist()] for zone, polygon in polygons]
    return {"horizons": shares, "outline": outline, "points": drawn}


def _hypo(rng, run, name):
    limit, total = LIMITS[name][run.unit], len(run.truth)
    num_low = int((run.truth < limit).any(axis=1).sum())

    def window(low):
        base = low / total
        found = {"num_windows": total, "num_low": low, "base_rate": base, "auroc": rng.uniform(0.72, 0.9)}
        found |= {"auprc": min(1.0, base + rng.uniform(0.15, 0.3)), "brier": rng.uniform(0.05, 0.1)}
        return found | {"brier_of_base_rate": base * (1 - base)}

    def event():
        hit = int(rng.integers(25, 50))
        found = {"threshold_from": "validation", "false_alarms_per_day": 1.0, "num_events": 61, "detected": hit}
        found |= {"sensitivity": hit / 61, "precision": rng.uniform(0.3, 0.6)}
        found |= {"median_lead_minutes": 5.0 * int(rng.integers(4, 12))}
        return found | {"false_alarms_per_day_found": rng.uniform(0.8, 1.2)}

    until = {label: num_low // (4 - k) for k, label in enumerate(("30min", "60min", "120min"))}
    events = {m: None if m == "context_mean" else event() for m in run.models}  # one whose alarm could not be set
    return {
        "limit": limit,
        "windows": {m: window(num_low) for m in run.models},
        "windows_up_to": {label: {m: window(low) for m in run.models} for label, low in until.items()},
        "events": events if name == "low" else None,
        "events_horizon_minutes": 60.0,
    }


def _verdict(run, intervals):
    rows = []
    by_item = {m: [run.rmse(m, run.own(i)) for i in range(len(run.ids))] for m in run.models}
    for m in run.models:
        if m == run.judged:
            continue
        change = run.rmse(run.judged) / run.rmse(m) - 1
        low, high = (change - 0.021, change + 0.02) if intervals else (None, None)
        clear = intervals and (high < 0 or low > 0)
        effect = "no clear difference" if not clear else "helped" if high < 0 else "hurt"
        pairs = list(zip(by_item[run.judged], by_item[m], strict=True))
        row = {"model": run.judged, "reference": m, "effect": effect, "change": change, "low": low, "high": high}
        row |= {"items_better": sum(a < b for a, b in pairs), "items_worse": sum(a > b for a, b in pairs)}
        rows.append(row | {"num_items": len(run.ids)})
    words = {row["reference"]: _words(row) for row in rows}
    main = "ridge" if run.judged == "zero_shot" else "zero_shot"
    effect = next(row["effect"] for row in rows if row["reference"] == main)
    drawn = f"Intervals are for other items like these {len(run.ids)}: items and blocks of 1 day drawn anew."
    if run.judged == "fine_tuned":
        said = f": {effect}" if effect.startswith("no") else f" {effect}"
        sentence = f"Fine-tuning{said}: {words['zero_shot']}. fine_tuned against ridge: {words['ridge']}. {drawn}"
    else:
        sentence = f"zero_shot does not clearly differ from the best baseline, ridge: {words['ridge']}. {drawn}"
    return {
        "model": run.judged,
        "effect": effect,
        "sentence": sentence,
        "kept": run.judged,
        "comparisons": rows,
        "num_windows": len(run.truth),
        "num_items": len(run.ids),
        "num_blocks": 4 * len(run.ids),
        "block_days": 1,
        "speaks_of_other_items": len(run.ids) >= 10,
        "draws": 2000,
        "level": 0.95,
        "seed": 42,
    }


def _words(row):
    text = f"RMSE {100 * row['change']:+.1f} % against {row['reference']}"
    if row["low"] is not None:
        text += f" (95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f} %)"
    return text + f", better for {row['items_better']} of {row['num_items']} items"


def _manifest(rng, run, targets):
    items = []
    for name, seen in zip(run.ids, run.seen, strict=True):
        steps = int(rng.integers(4000, 12000))
        first = datetime(2024, 1, 1) + timedelta(minutes=5 * int(rng.integers(0, 9000)))
        train, validation = (int(0.7 * steps), int(0.8 * steps)) if seen else (0, 0)
        item = {"item_id": name, "grid_steps": steps, "steps_kept": steps - 120}
        item |= {"first": f"{first:%Y-%m-%dT%H:%M:%S}"}
        item |= {"last": f"{first + timedelta(minutes=5 * (steps - 1)):%Y-%m-%dT%H:%M:%S}"}
        item |= {"borders": [train, validation, steps], "begins": [0, train, validation + 288 if seen else 0]}
        counts = {"train": 3000, "validation": 90} if seen else {"train": 0, "validation": 0}
        items.append(item | {"windows": counts | {"test": run.per_item}})
    checks = ["held_out_item", "window_over_gap", "window_over_border", "repeated_time", "target_in_earlier_part"]
    checks += ["context_in_earlier_part", "purge", "scaler", "imputation", "duplicate_series"]
    number = len(run.ids)
    return {
        "source": "simulated_t1d",
        "licence": "made by the tests",
        "files": [{"path": f"data/{name}.csv", "sha256": "9f86d081884c7d659a2feaa0c55a"} for name in run.ids[:3]],
        "cleaning": {name: {"count": n, "action": "kept"} for name, n in (("spikes", 7), ("out_of_range", 0))},
        "channels": {"target": list(targets), "conditional": [], "control": []},
        "unit": run.unit,
        "frequency": "5min",
        "num_items": number,
        "split": {"train": 0.7, "validation": 0.1, "test": 0.2, "borders": None, "by": "both", "purge_steps": 288},
        "windows": {"train": 3000 * number, "validation": 90 * number, "test": run.per_item * number},
        "unseen_items": run.ids[4::5],
        "items": items,
        "leak_check": {"checks": checks, "allowed": []},
    }


def _cohort(rng, run):
    header = "item_id,days,readings,step,missing_%,mean,cv_%"
    header += ",time_in_range_%,time_below_%,time_above_%" if run.unit else ""
    lines = [header + ",windows_train,windows_validation,windows_test,dropped"]
    for number, name in enumerate(run.ids):
        cells = ['"' + name.replace('"', '""') + '"', f"{rng.uniform(14, 42):.1f}", str(int(rng.integers(4000, 12000)))]
        cells += ["5min" if number % 2 == 0 else "15min", f"{rng.uniform(1, 12):.1f}"]
        cells += [f"{rng.uniform(130, 190) / run.divide:.2f}", f"{rng.uniform(28, 44):.1f}"]
        ranges = ((50, 80), (1, 6), (15, 45)) if run.unit else ()
        cells += [f"{rng.uniform(*ends):.1f}" for ends in ranges]
        left_out = "412 steps in 3 gaps longer than 45min" if number % 3 == 0 else ""
        lines.append(",".join([*cells, "3000", "90", str(run.per_item), left_out]))
    return "\n".join(lines) + "\n"


def _history(rng):
    lines = []
    for step in range(0, 601, 10):
        if step:
            rate = 1e-3 * np.sin(np.pi * (step + 1) / 610) ** 2
            loss = 0.9 + 0.4 * np.exp(-step / 120) + rng.normal(0, 0.02)
            lines.append({"step": step, "epoch": 1, "train_loss": loss, "learning_rate": rate, "grad_norm": 0.8})
        if step % 50 == 0:
            loss = 0.56 + 0.06 * np.exp(-step / 80) + 0.00012 * max(step - 300, 0)
            lines.append({"step": step, "epoch": 1, "validation_loss": loss, "best_step": min(step, 300)})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _environment(trained):
    seconds = {"zero_shot": 3.1} | ({"training": 95.6} if trained else {}) | {"evaluation": 14.2}
    training = {"num_steps": 600, "num_epochs": 2, "best_step": 300, "best_validation_loss": 0.5713}
    training |= {"stopped_early": False, "learning_rate": 0.001, "seconds": 91.2, "windows_per_second": 3504.2}
    return {
        "python": "3.11.7",
        "platform": "Linux-6.18-x86_64",
        "packages": {"torch": "2.11.0", "accelerate": "1.15.0", "granite-tsfm": "0.3.11", "numpy": "2.4.6"},
        "git_commit": "21c2e728a325814cca890acedeebe367eb1aa54d",
        "command": "finetune_ttm.py --config recipe.yaml",
        "device": "cpu",
        "device_name": "cpu",
        "num_processes": 1,
        "num_threads": 2,
        "seconds": 118.4,
        "peak_memory_mb": {"host": 1274.4},
        "hardware": {"type": "cpu", "name": "cpu", "total_memory_mib": 24105.6},
        "phases": {name: {"host_peak_mib": 983.2 + 3 * took, "seconds": took} for name, took in seconds.items()},
        "parameters": {"total": 805280, "trainable": 289696 if trained else 0},
        "training": training if trained else None,
    }


def _config(trained, uncertainty):
    config = {
        "model": {"type": "ttm", "pretrained": "builtin", "context_length": CONTEXT, "prediction_length": STEPS},
        "data": {"source": "simulated_t1d"},
        "tuning": {"mode": "decoder" if trained else "zero_shot"},
        "forecast": {"quantiles": LEVELS if uncertainty else None},
        "seed": 42,
    }
    return yaml.safe_dump(config, sort_keys=False)


def _no_nan(content):
    """Numbers that JSON has, none for the others."""
    if isinstance(content, dict):
        return {str(key): _no_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_no_nan(value) for value in content]
    content = content.item() if isinstance(content, np.generic) else content
    return content if not isinstance(content, float) or np.isfinite(content) else None
