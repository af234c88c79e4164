"""A run folder as the contract has it, from simulated glucose and forecasts that err more with every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import yaml

from tstune.glucose.error_grids import ERROR_GRIDS, zone_shares
from tstune.glucose.ranges import glycaemic_profile
from tstune.glucose.units import LIMITS

STEPS, STEP_SECONDS, CONTEXT = 96, 300, 512
HORIZONS = {"30min": 6, "60min": 12, "120min": 24, "8h": 96}
LEVELS = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
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
    scale = {m: s for m, s in SCALE.items() if trained or m not in ("fine_tuned", "average")}
    judged = "fine_tuned" if trained else "zero_shot"
    ids = [(names or {}).get(i, f"P{i + 1:02d}") for i in range(items)]
    per_item = max(1, 240 // items)
    owner = np.repeat(np.arange(items), per_item)
    divide = MMOL if unit == "mmol/L" else 1.0
    truth, history = _glucose(rng, len(owner), divide)
    observed = rng.random(truth.shape) > 0.04
    shared = _wander(rng, truth.shape)
    forecast = {m: _forecast(rng, truth, history, s, divide, m, shared) for m, s in scale.items()}
    models = sorted(scale, key=lambda m: _rmse(forecast[m], truth, observed))
    metrics = {m: _metrics(forecast[m], truth, observed) for m in scale}
    evaluation = {
        "unit": unit,
        "frequency": "5min",
        "step_seconds": step_seconds,
        "context_length": CONTEXT,
        "prediction_length": STEPS,
        "targets": list(targets),
        "horizons": HORIZONS,
        "judged": judged,
        "models": models,
        "rmse_by_step": {m: _by_step(forecast[m], truth, observed, intervals) for m in models},
        "per_item": [_item_row(ids[i], i % 5 != 4, _own(i, per_item), forecast, truth, observed) for i in range(items)],
        "examples": _examples(rng, num_examples, ids, owner, truth, history, observed, forecast, uncertainty, targets),
        "uncertainty": _uncertainty(rng, len(owner), intervals, divide) if uncertainty else None,
        "glucose": _glucose_part(rng, forecast, truth, observed, owner, ids, models, judged, unit) if glucose else None,
    }
    return {
        "evaluation.json": _no_nan(evaluation),
        "metrics.json": {"test": _no_nan(metrics)},
        "verdict.json": _verdict(forecast, truth, observed, owner, models, judged, intervals, items),
        "manifest.json": _manifest(rng, ids, unit, targets, per_item),
        "cohort.csv": _cohort(rng, ids, divide, unit, per_item),
        "history.jsonl": _history(rng) if trained else "",
        "environment.json": _environment(trained),
        "config.yaml": _config(trained, uncertainty),
    }


def _glucose(rng, count, divide):
    total = STEPS + 144
    times = np.arange(total)
    curve = 140 + 25 * np.sin(2 * np.pi * (times + rng.integers(0, 288, (count, 1))) / 288)
    for _ in range(4):  # meals
        begin = rng.integers(-40, total, (count, 1))
        after = np.maximum(times - begin, 0) / 9
        curve = curve + rng.uniform(10, 80, (count, 1)) * after * np.exp(1 - after)
    walk = np.cumsum(rng.normal(0, 2.6, (count, total)), axis=1)
    curve = np.clip(curve + walk - walk.mean(axis=1, keepdims=True) - rng.uniform(0, 70, (count, 1)), 40, 400) / divide
    return curve[:, 144:], curve[:, :144]


def _wander(rng, shape):
    """Errors that grow smoothly along the forecast."""
    steps = np.cumsum(rng.normal(0, 1, shape), axis=1)
    padded = np.pad(steps, ((0, 0), (3, 3)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1).mean(axis=2)
    return smooth / np.sqrt(np.arange(1, shape[1] + 1))


def _forecast(rng, truth, history, scale, divide, model, shared):
    """Models miss mostly the same; what is left to chance is their own."""
    if model == "persistence":
        return np.repeat(history[:, -1:], STEPS, axis=1)
    growth = 46 / divide * (1 - np.exp(-np.arange(1, STEPS + 1) / 22))
    noise = 0.97 * shared + 0.24 * _wander(rng, truth.shape)
    far = np.linspace(0, 1, STEPS) * 0.35
    start = history[:, -1:] - truth[:, :1]
    guess = (1 - far) * truth + far * 145 / divide + start * np.exp(-np.arange(STEPS) / 8)
    return np.clip(guess + scale * growth * noise, 35 / divide, 420 / divide)


def _own(item, per_item):
    """Windows of one item."""
    return slice(item * per_item, (item + 1) * per_item)


def _rmse(forecast, truth, mask):
    return float(np.sqrt(np.mean((forecast - truth)[mask] ** 2))) if mask.any() else float("nan")


def _mae(forecast, truth, mask):
    return float(np.mean(np.abs(forecast - truth)[mask])) if mask.any() else float("nan")


def _at(array, step):
    return array[:, step - 1]


def _metrics(forecast, truth, observed):
    found = {"rmse": _rmse(forecast, truth, observed), "mae": _mae(forecast, truth, observed)}
    for label, step in HORIZONS.items():
        cut = (_at(forecast, step), _at(truth, step), _at(observed, step))
        found[f"rmse@{label}"], found[f"mae@{label}"] = _rmse(*cut), _mae(*cut)
    scaled = found["rmse"] / 53
    return found | {
        "mse_scaled": scaled**2,
        "mae_scaled": found["mae"] / 53,
        "mase": found["mae"] / 52.5,
        "mard": float(100 * np.mean((np.abs(forecast - truth) / truth)[observed])),
        "num_windows": len(truth),
    }


def _by_step(forecast, truth, observed, intervals):
    values = [_rmse(_at(forecast, s), _at(truth, s), _at(observed, s)) for s in range(1, STEPS + 1)]
    if not intervals:
        return {"values": values, "low": None, "high": None}
    return {"values": values, "low": [0.92 * v for v in values], "high": [1.09 * v for v in values]}


def _item_row(name, seen, mask, forecast, truth, observed):
    row = {"item": name, "seen": bool(seen), "num_windows": len(truth[mask])}
    row["rmse"] = {m: _rmse(f[mask], truth[mask], observed[mask]) for m, f in forecast.items()}
    row["mae"] = {m: _mae(f[mask], truth[mask], observed[mask]) for m, f in forecast.items()}
    for label, step in HORIZONS.items():
        row[f"rmse@{label}"] = {
            m: _rmse(_at(f, step)[mask], _at(truth, step)[mask], _at(observed, step)[mask]) for m, f in forecast.items()
        }
    return row


def _examples(rng, count, ids, owner, truth, history, observed, forecast, uncertainty, targets):
    judged = next(iter(forecast)) if "fine_tuned" not in forecast else "fine_tuned"
    error = np.sqrt(np.mean((forecast[judged] - truth) ** 2, axis=1))
    order = np.argsort(error)
    kinds = ["best", "typical", "worst", "hypo"]
    place = {
        "best": order[0],
        "typical": order[len(order) // 2],
        "worst": order[-1],
        "hypo": truth.min(axis=1).argmin(),
    }
    found = []
    spread = 1.0 * np.sqrt(np.arange(1, STEPS + 1)) * truth.std() / 9
    z = {0.025: -1.96, 0.1: -1.28, 0.25: -0.67, 0.5: 0.0, 0.75: 0.67, 0.9: 1.28, 0.975: 1.96}
    for number in range(count):
        kind = kinds[number % 4]
        window = int(place[kind]) if number < 4 else int(rng.integers(len(owner)))
        past = history[window].round(1).tolist()
        if number == 1:
            past[30:42] = [None] * 12
        found.append(
            {
                "kind": kind,
                "item": ids[owner[window]],
                "origin": f"{datetime(2024, 5, 2, 8, 5) + timedelta(hours=7 * number):%Y-%m-%dT%H:%M:%S}",
                "history": past,
                "truth": [float(v) if ok else None for v, ok in zip(truth[window], observed[window], strict=True)],
                "forecasts": {m: f[window].tolist() for m, f in forecast.items()},
                "quantiles": {f"{q:g}": (forecast[judged][window] + z[q] * spread).tolist() for q in LEVELS}
                if uncertainty
                else None,
                "target": targets[number % len(targets)],
            }
        )
    return found


def _uncertainty(rng, count, intervals, divide):
    methods = {}
    shifts = {"split_conformal": (0.0, 1.0), "multi_quantile": (-0.021, 0.93), "residual_quantiles": (0.017, 1.11)}
    for name, (shift, factor) in shifts.items():
        rows = []
        for nominal, width in ((0.5, 44.0), (0.8, 96.0), (0.95, 171.0)):
            coverage = nominal + shift * 4 * nominal * (1 - nominal) + rng.normal(0, 0.004)
            rows.append(
                {
                    "nominal": nominal,
                    "coverage": coverage,
                    "low": coverage - 0.022 if intervals else None,
                    "high": min(coverage + 0.021, 1.0) if intervals else None,
                    "width": width * factor / divide,
                    "num_readings": count * STEPS,
                    "num_blocks": 48,
                }
            )
        methods[name] = {
            "wql": 0.17 * factor,
            "crps": 25.3 * factor / divide,
            "pinball": 12.65 * factor / divide,
            "calibration_error": abs(shift) + 0.006,
            "crossing": 0.0,
            "intervals": rows,
        }
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
            "pinball": [12.0 * 4 * q * (1 - q) / divide for q in LEVELS],
        },
    }


def _glucose_part(rng, forecast, truth, observed, owner, ids, models, judged, unit):
    factor = {"mg/dL": MMOL if unit == "mmol/L" else 1.0, "mmol/L": 1.0 if unit == "mmol/L" else 1 / MMOL}
    points, by_range, gain, tasks = {}, {}, {}, {"all_day": {}, "night": {}}
    lows = truth < LIMITS["low"][unit]
    highs = truth > LIMITS["high"][unit]
    ranges = {"low": lows, "in_range": ~lows & ~highs, "high": highs}
    for m in models:
        f, error = forecast[m], forecast[m] - truth
        points[m] = {}
        for name, times in factor.items():
            one = {}
            for label, step in HORIZONS.items():
                cut = (_at(f, step), _at(truth, step), _at(observed, step))
                one[f"rmse@{label}"], one[f"mae@{label}"] = times * _rmse(*cut), times * _mae(*cut)
                one[f"bias@{label}"] = times * float(np.mean((cut[0] - cut[1])[cut[2]]))
                one[f"mard@{label}"] = 100 * float(np.mean((np.abs(cut[0] - cut[1]) / cut[1])[cut[2]]))
            one |= {"rmse": times * _rmse(f, truth, observed), "mae": times * _mae(f, truth, observed)}
            one |= {
                "bias": times * float(error[observed].mean()),
                "mard": 100 * float((np.abs(error) / truth)[observed].mean()),
            }
            points[m][name] = one
        by_range[m] = {}
        for name, inside in ranges.items():
            mask = inside & observed
            bias = float(error[mask].mean()) if mask.any() else float("nan")
            found = {"num_readings": int(mask.sum()), "rmse": _rmse(f, truth, mask), "mae": _mae(f, truth, mask)}
            by_range[m][name] = found | {"bias": bias}
        gain[m] = {
            label: 0.0 if m == "persistence" else 5.0 * round(rng.uniform(1, step / 2))
            for label, step in HORIZONS.items()
        }
        tasks["all_day"][m] = {"rmse": _rmse(f, truth, observed), "num_windows": len(truth)}
        tasks["night"][m] = {"rmse": 0.9 * _rmse(f, truth, observed), "num_windows": len(truth) // 24}
    grids = {}
    for name, grid in ERROR_GRIDS.items():
        shares, drawn = {}, {}
        for label, step in HORIZONS.items():
            shares[label] = {
                m: zone_shares(grid.zones(_at(truth, step), _at(forecast[m], step), unit), _at(observed, step))
                for m in models
            }
            pairs = np.stack([_at(truth, step), _at(forecast[judged], step)], axis=1)[_at(observed, step)]
            drawn[label] = pairs[:1500].tolist()
        outline = [[zone, np.asarray(p).tolist()] for zone, p in grid.polygons(unit, 400 if unit == "mg/dL" else 22.3)]
        grids[name] = {"horizons": shares, "outline": outline, "points": drawn}
    hypo = {}
    for name in ("low", "very_low"):
        limit = LIMITS[name][unit]
        low = int((truth < limit).any(axis=1).sum())
        hypo[name] = {
            "limit": limit,
            "windows": {
                m: {
                    "num_windows": len(truth),
                    "num_low": low,
                    "base_rate": low / len(truth),
                    "auroc": rng.uniform(0.72, 0.9),
                    "auprc": min(1.0, low / len(truth) + rng.uniform(0.15, 0.3)),
                    "brier": rng.uniform(0.05, 0.1),
                    "brier_of_base_rate": low / len(truth) * (1 - low / len(truth)),
                }
                for m in models
            },
            "events": {
                m: {
                    "threshold_from": "validation",
                    "false_alarms_per_day": 1.0,
                    "num_events": 61,
                    "detected": (hit := int(rng.integers(25, 50))),
                    "sensitivity": hit / 61,
                    "precision": rng.uniform(0.3, 0.6),
                    "median_lead_minutes": 5.0 * int(rng.integers(4, 12)),
                    "false_alarms_per_day_found": rng.uniform(0.8, 1.2),
                }
                for m in models
            }
            if name == "low"
            else None,
            "events_horizon_minutes": 60.0,
        }
        hypo[name]["windows_up_to"] = {
            label: {
                m: one | {"num_low": low // (4 - k), "base_rate": low // (4 - k) / len(truth)}
                for m, one in hypo[name]["windows"].items()
            }
            for k, label in enumerate(("30min", "60min", "120min"))
        }
        if hypo[name]["events"]:
            hypo[name]["events"]["context_mean"] = None  # a model whose alarm could not be set
    groups = {"all": np.ones(len(owner), bool), "seen": owner % 5 != 4, "unseen": owner % 5 == 4}
    groups |= {"sensor 5 min": owner % 2 == 0, "sensor 15 min": owner % 2 == 1}
    groups |= {f"participant {ids[i]}": _own(i, len(owner) // len(ids)) for i in range(len(ids))}
    strata = {}
    for name, mask in groups.items():
        if not len(owner[mask]):
            continue
        strata[name] = {"num_windows": len(owner[mask]), "num_items": len(set(owner[mask]))}
        for key, step in (("rmse", None), ("rmse@60min", 12)):
            cut = slice(None) if step is None else slice(step - 1, step)
            strata[name][key] = {
                u: {m: t * _rmse(forecast[m][mask, cut], truth[mask, cut], observed[mask, cut]) for m in models}
                for u, t in factor.items()
            }
    profile = {"truth": glycaemic_profile(truth, observed, unit)}
    profile |= {m: glycaemic_profile(forecast[m], observed, unit) for m in models}
    return {
        "units": ["mg/dL", "mmol/L"],
        "native": unit,
        "points": points,
        "by_range": by_range,
        "error_grids": grids,
        "hypo": hypo,
        "profile": profile,
        "temporal_gain": gain,
        "tasks": tasks,
        "strata": strata,
    }


def _verdict(forecast, truth, observed, owner, models, judged, intervals, items):
    rows = []
    mine = _rmse(forecast[judged], truth, observed)
    owns = [_own(i, len(owner) // items) for i in range(items)]
    by_item = {m: [_rmse(f[own], truth[own], observed[own]) for own in owns] for m, f in forecast.items()}
    for m in models:
        if m == judged:
            continue
        change = mine / _rmse(forecast[m], truth, observed) - 1
        low, high = (change - 0.021, change + 0.02) if intervals else (None, None)
        clear = intervals and (high < 0 or low > 0)
        pairs = list(zip(by_item[judged], by_item[m], strict=True))
        rows.append(
            {
                "model": judged,
                "reference": m,
                "effect": "no clear difference" if not clear else "helped" if high < 0 else "hurt",
                "change": change,
                "low": low,
                "high": high,
                "items_better": sum(a < b for a, b in pairs),
                "items_worse": sum(a > b for a, b in pairs),
                "num_items": items,
            }
        )
    main = next(row for row in rows if row["reference"] == ("ridge" if judged == "zero_shot" else "zero_shot"))
    words = (
        _words(rows, rows[0]["reference"]) if judged == "zero_shot" else _words(rows, "zero_shot"),
        _words(rows, "ridge"),
    )
    drawn = f"Intervals are for other items like these {items}: items and blocks of 1 day drawn anew."
    sentence = f"fine_tuned against ridge: {words[1]}. {drawn}"
    if judged == "fine_tuned":
        effect = f": {main['effect']}" if main["effect"].startswith("no") else f" {main['effect']}"
        sentence = f"Fine-tuning{effect}: {words[0]}. {sentence}"
    else:
        sentence = f"zero_shot does not clearly differ from the best baseline, ridge: {words[1]}. {drawn}"
    return {
        "model": judged,
        "effect": main["effect"],
        "sentence": sentence,
        "kept": judged,
        "comparisons": rows,
        "num_windows": len(truth),
        "num_items": items,
        "num_blocks": 4 * items,
        "block_days": 1,
        "speaks_of_other_items": items >= 10,
        "draws": 2000,
        "level": 0.95,
        "seed": 42,
    }


def _words(rows, reference):
    row = next(row for row in rows if row["reference"] == reference)
    text = f"RMSE {100 * row['change']:+.1f} % against {reference}"
    if row["low"] is not None:
        text += f" (95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f} %)"
    return text + f", better for {row['items_better']} of {row['num_items']} items"


def _manifest(rng, ids, unit, targets, per_item):
    items = []
    for number, name in enumerate(ids):
        steps = int(rng.integers(4000, 12000))
        first = datetime(2024, 1, 1) + timedelta(minutes=5 * int(rng.integers(0, 9000)))
        held_out = number % 5 == 4
        borders = [0, 0, steps] if held_out else [int(0.7 * steps), int(0.8 * steps), steps]
        begins = [0, 0, 0] if held_out else [0, borders[0], borders[1] + 288]
        items.append(
            {
                "item_id": name,
                "first": f"{first:%Y-%m-%dT%H:%M:%S}",
                "last": f"{first + timedelta(minutes=5 * (steps - 1)):%Y-%m-%dT%H:%M:%S}",
                "grid_steps": steps,
                "steps_kept": steps - 120,
                "borders": borders,
                "begins": begins,
                "windows": {"train": 0 if held_out else 3000, "validation": 0 if held_out else 90, "test": per_item},
            }
        )
    checks = ["held_out_item", "window_over_gap", "window_over_border", "repeated_time", "target_in_earlier_part"]
    checks += ["context_in_earlier_part", "purge", "scaler", "imputation", "duplicate_series"]
    return {
        "source": "simulated_t1d",
        "licence": "made by the tests",
        "files": [
            {"path": f"data/{name}.csv", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"} for name in ids[:3]
        ],
        "cleaning": {
            "spikes": {"count": 7, "action": "kept", "by_item": {}},
            "out_of_range": {"count": 0, "action": "kept", "by_item": {}},
        },
        "channels": {"target": list(targets), "conditional": [], "control": []},
        "unit": unit,
        "frequency": "5min",
        "num_items": len(ids),
        "split": {"train": 0.7, "validation": 0.1, "test": 0.2, "borders": None, "by": "both", "purge_steps": 288},
        "windows": {"train": 3000 * len(ids), "validation": 90 * len(ids), "test": per_item * len(ids)},
        "unseen_items": ids[4::5],
        "items": items,
        "leak_check": {"checks": checks, "allowed": []},
    }


def _cohort(rng, ids, divide, unit, per_item):
    header = "item_id,days,readings,step,missing_%,mean,cv_%"
    header += ",time_in_range_%,time_below_%,time_above_%" if unit else ""
    lines = [header + ",windows_train,windows_validation,windows_test,dropped"]
    for number, name in enumerate(ids):
        quoted = '"' + name.replace('"', '""') + '"'
        cells = [
            quoted,
            f"{rng.uniform(14, 42):.1f}",
            str(int(rng.integers(4000, 12000))),
            "5min" if number % 2 == 0 else "15min",
        ]
        cells += [f"{rng.uniform(1, 12):.1f}", f"{rng.uniform(130, 190) / divide:.2f}", f"{rng.uniform(28, 44):.1f}"]
        cells += (
            [f"{rng.uniform(50, 80):.1f}", f"{rng.uniform(1, 6):.1f}", f"{rng.uniform(15, 45):.1f}"] if unit else []
        )
        cells += ["3000", "90", str(per_item), "412 steps in 3 gaps longer than 45min" if number % 3 == 0 else ""]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def _history(rng):
    lines = []
    for step in range(0, 601, 10):
        rate = 1e-3 * np.sin(np.pi * (step + 1) / 610) ** 2
        if step:
            loss = 0.9 + 0.4 * np.exp(-step / 120) + rng.normal(0, 0.02)
            lines.append({"step": step, "epoch": 1, "train_loss": loss, "learning_rate": rate, "grad_norm": 0.8})
        if step % 50 == 0:
            loss = 0.56 + 0.06 * np.exp(-step / 80) + 0.00012 * max(step - 300, 0)
            lines.append({"step": step, "epoch": 1, "validation_loss": loss, "best_step": min(step, 300)})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _environment(trained):
    phases = {
        "zero_shot": {"host_peak_mib": 983.2, "seconds": 3.1},
        "evaluation": {"host_peak_mib": 1130.8, "seconds": 14.2},
    }
    if trained:
        phases = {
            "zero_shot": phases["zero_shot"],
            "training": {"host_peak_mib": 1274.4, "seconds": 95.6},
            "evaluation": phases["evaluation"],
        }
    training = {
        "num_steps": 600,
        "num_epochs": 2,
        "best_step": 300,
        "best_validation_loss": 0.5713,
        "stopped_early": False,
        "learning_rate": 0.001,
        "seconds": 91.2,
        "windows_per_second": 3504.2,
    }
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
        "phases": phases,
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
    if isinstance(content, dict):
        return {str(key): _no_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_no_nan(value) for value in content]
    if isinstance(content, np.bool_ | np.integer):
        return content.item()
    if isinstance(content, float):
        return float(content) if np.isfinite(content) else None
    return content
