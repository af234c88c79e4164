"""The glucose section of a run as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tstune.evaluation.error_grids import ERROR_GRIDS, ZONES
from tstune.evaluation.glycaemic_ranges import RANGES

RESEARCH_ONLY = "Research use only, not for treatment decisions."


def format_glucose_markdown(section: Mapping) -> str:
    """Tables of points, ranges, error grids, hypoglycaemia, variability, participants; a row per model.

    Args:
        section: from `glucose_section`, or the same read from JSON.
    """
    parts = [
        RESEARCH_ONLY,
        _points(section),
        _ranges(section),
        _grids(section),
        *(_hypo(section, name) for name in section["hypo"]),
        _profile(section),
        _gains(section),
        _strata(section),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _points(section: Mapping) -> str:
    labels = list(section["horizons"])
    first, second = section["units"]
    tables = []
    for metric in ("rmse", "mae"):
        columns = [f"{metric}@{label}" for label in labels] + [metric]
        rows = [
            [model, *(f"{_number(by_unit[first][c], 1)} ({_number(by_unit[second][c], 2)})" for c in columns)]
            for model, by_unit in section["points"].items()
        ]
        title = f"{metric.upper()} at horizons and over the path, {first} ({second})"
        tables.append(_table(title, ["model", *labels, _path(section)], rows))
    columns = [f"mard@{label}" for label in labels] + ["mard"]
    rows = [[model, *(_number(by_unit[first][c], 1) for c in columns)] for model, by_unit in section["points"].items()]
    tables.append(_table("MARD at horizons and over the path, %", ["model", *labels, _path(section)], rows))
    return "\n\n".join(tables)


def _ranges(section: Mapping) -> str:
    by_model = section["by_range"]
    count = {name: next(iter(by_model.values()))[name]["num_readings"] for name in RANGES}
    head = ["model", *(f"{name.replace('_', ' ')} ({count[name]:,} readings)" for name in RANGES)]
    digits = _digits(section)
    rows = [
        [model, *(f"{_number(found[n]['rmse'], digits)} ({_number(found[n]['bias'], digits, '+')})" for n in RANGES)]
        for model, found in by_model.items()
    ]
    return _table(f"RMSE (bias) by range of the reading, path, {section['native']}", head, rows)


def _grids(section: Mapping) -> str:
    labels = list(section["horizons"])
    tables = []
    for name, grid in section["error_grids"].items():
        models = list(section["points"])
        rows = [
            [model, *(" · ".join(_number(grid["horizons"][label][model][z], 1) for z in ZONES) for label in labels)]
            for model in models
        ]
        title = f"{ERROR_GRIDS[name].title}: % of readings in zones {' · '.join(ZONES)}"
        tables.append(_table(title, ["model", *labels], rows))
    return "\n\n".join(tables)


def _hypo(section: Mapping, name: str) -> str:
    part, unit = section["hypo"][name], section["native"]
    what = f"below {part['limit']:g} {unit}"
    spans = {"60min": part["windows_up_to"].get("60min"), f"the {_path(section)}": part["windows"]}
    if spans["60min"] in (None, part["windows"]):  # the path is shorter, or ends there
        del spans["60min"]
    tables = []
    for within, by_model in spans.items():
        rows = [
            [
                model,
                f"{found['num_windows']:,}",
                f"{found['num_low']:,}",
                *(_number(found[column], 3) for column in ("base_rate", "auroc", "auprc", "brier")),
            ]
            for model, found in by_model.items()
        ]
        head = ["model", "windows", "low", "base rate", "AUROC", "AUPRC", "Brier"]
        tables.append(
            _table(f"Windows with a reading {what} within {within}, without those that begin there", head, rows)
        )
    tables.append(_alarms(part, what))
    return "\n\n".join(tables)


def _alarms(part: Mapping, what: str) -> str:
    if part["events"] is None:
        return f"Events {what}: no alarm, for the validation windows hold no such event to choose its threshold by."
    rows = []
    for model, found in part["events"].items():
        if found is None:
            rows.append([model, *["–"] * 6])
            continue
        values = (
            (found["sensitivity"], 2),
            (found["precision"], 2),
            (found["median_lead_minutes"], 0),
            (found["false_alarms_per_day_found"], 2),
        )
        rows.append([model, found["num_events"], found["detected"], *(_number(*value) for value in values)])
    allowed = next(found["false_alarms_per_day"] for found in part["events"].values() if found is not None)
    title = (
        f"Events {what}, announced up to {part['events_horizon_minutes']:g} min ahead, "
        f"threshold for {allowed:g} false alarm a day on validation windows"
    )
    head = ["model", "events", "announced", "sensitivity", "precision", "median lead, min", "false alarms a day"]
    return _table(title, head, rows)


def _profile(section: Mapping) -> str:
    columns = {
        "tbr2": "very low %",
        "tbr1": "low %",
        "tir": "in range %",
        "tar1": "high %",
        "tar2": "very high %",
        "mean": f"mean {section['native']}",
        "cv": "CV %",
    }
    digits = {"mean": _digits(section)}
    rows = [
        [model, *(_number(found[column], digits.get(column, 1)) for column in columns)]
        for model, found in section["profile"].items()
    ]
    return _table("Time in range and variability, truth against forecasts", ["model", *columns.values()], rows)


def _gains(section: Mapping) -> str:
    labels = [
        label for label in section["horizons"] if any(label in gain for gain in section["temporal_gain"].values())
    ]
    digits = _digits(section)
    rows = [
        [
            model,
            *(_number(gain.get(label), 0) for label in labels),
            *(_number(section["tasks"][task][model]["rmse"], digits) for task in ("all_day", "night")),
        ]
        for model, gain in section["temporal_gain"].items()
    ]
    night = max(found["num_windows"] for found in section["tasks"]["night"].values())
    head = ["model", *(f"gain at {label}" for label in labels), "RMSE all day", f"RMSE from midnight ({night} windows)"]
    return _table(f"Temporal gain in minutes, and RMSE of the path by task, {section['native']}", head, rows)


def _strata(section: Mapping) -> str:
    models, digits = list(section["points"]), _digits(section)
    tables = []
    columns = [column for column in next(iter(section["strata"].values())) if column.startswith("rmse")]
    for column in columns:
        rows = [
            [
                group,
                f"{found['num_windows']:,}",
                *(_number(found[column][section["native"]][m], digits) for m in models),
            ]
            for group, found in section["strata"].items()
        ]
        where = f"at {column.partition('@')[2]}" if "@" in column else f"over the {_path(section)}"
        tables.append(_table(f"RMSE {where} by group, {section['native']}", ["group", "windows", *models], rows))
    return "\n\n".join(tables)


def _path(section: Mapping) -> str:
    minutes = section["path_minutes"]
    return f"path of {minutes / 60:g} h" if minutes >= 60 else f"path of {minutes:g} min"


def _digits(section: Mapping) -> int:
    return 1 if section["native"] == "mg/dL" else 2


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.{digits}f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
