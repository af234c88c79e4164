"""Exports of glucose sensors as their makers write them: one item per person, in one unit, with doses as channels.

A file is known by its header (`cgm_export_vendors`) and read into readings, doses and meals (`cgm_export_reading`).
Here the files of a person are merged. Names, serial numbers and dates of birth stay in the files: nothing that is
returned or said holds a word of theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.cleaning.clock import local_to_utc
from tstune.data.cleaning.rules import CleaningReport
from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.sources import Option, SourceInfo
from tstune.data.sources.cgm_export_reading import KINDS, Export, glucose, has_known_header, read_export, words_of
from tstune.data.sources.cgm_export_vendors import BOLUS, CARBS, GLUCOSE, INJECTED, OHIO, PERCENT, RATE, SCAN, VENDORS
from tstune.data.sources.channels import choose_channels, doses_on_grid, grid_between, join_channels
from tstune.data.table import TIMESTAMP, SourceTable
from tstune.errors import ConfigError, DataError
from tstune.runtime.logs import logger

TARGET, CHANNELS = "glucose", {"bolus": (BOLUS,), "basal": (RATE, PERCENT, INJECTED), "carbs": (CARBS,)}

INFO = SourceInfo(
    name="cgm_export",
    summary="your own exports of glucose sensors and pumps, as they were downloaded: "
    f"{', '.join(dict.fromkeys(vendor.name for vendor in (*VENDORS, OHIO)))}",
    licence="yours",
    where="set data.path to an export, or to a folder of them (unpack archives first)",
    keys={
        "path": "file or folder",
        "item_from": "whose a file is: folder, file or device",
        "conditional_columns": f"any of {', '.join(CHANNELS)}: units, units and grams of a step; all there are",
        "timezone": "zone of local clock times, e.g. Europe/London; needed where other files of a person say UTC",
    },
    options=(Option("doses", True, "false leaves insulin and meals out"),),
)

_SLOW = pd.Timedelta("10min")
_SCAN_GAP = np.timedelta64(450, "s")  # half the step of a sensor that is scanned
_CLOCK_STEP = pd.Timedelta("5min")
_LONGEST_RATE = pd.Timedelta("24h") // pd.Timedelta("1min")
_SAME_SENSOR = 0.25  # of the reading: two sensors on one person rarely differ by more in the median


def load(config: DataSection) -> SourceTable:
    """Return one item per person with the target ``glucose`` and the doses and meals that the files hold."""
    path, doses = INFO.need_path(config), INFO.read_options(config)["doses"]
    report = CleaningReport()
    exports = _read_all(path, report)
    people = _people(exports, path, config.item_from)
    units = Counter()
    for export in exports:
        if export.unit:
            units[export.unit] += int((export.rows["kind"] == GLUCOSE).sum())
    unit = units.most_common(1)[0][0]
    merged = {item: _merge(item, own, unit, config.timezone, report) for item, own in people.items()}
    merged = {item: _while_read(rows, report) for item, rows in merged.items() if (rows["kind"] == GLUCOSE).any()}
    held = set().union(*(set(rows["kind"]) for rows in merged.values()))
    present = [name for name, kinds in CHANNELS.items() if held & set(kinds)]
    roles = choose_channels(config, INFO.name, TARGET, tuple(CHANNELS))  # one that nobody has is unknown throughout
    if doses and not roles.conditional:
        roles = replace(roles, conditional=tuple(present))
    frequency = config.frequency or _frequency(merged)
    frames = [_on_grid(item, rows, roles.conditional, frequency) for item, rows in merged.items()]
    frame = pd.concat(frames, ignore_index=True)
    vendors = Counter(export.vendor for export in exports)
    whose = ", ".join(f"{name} {number}" for name, number in vendors.items())
    what = f"channels {', '.join(roles.conditional)}" if roles.conditional else "no doses"
    counts = len(exports), len(merged)
    logger.info("cgm_export: %s export(s) of %s item(s): %s; readings in %s; %s", *counts, whose, unit, what)
    return SourceTable(
        frame=frame,
        roles=roles,
        frequency=frequency,
        max_gap="45min",
        fill={name: _fill(name, merged) for name in roles.conditional},
        unit=unit,
        files=tuple(str(export.path) for export in exports),
        notes={
            "exports": dict(vendors),
            "item_from": config.item_from or ("file" if path.is_file() else "folder"),
            "times": "UTC" if config.timezone or exports[0].zoned else "local, as the devices show them",
            "dates_month_first": sum(export.day_first is False for export in exports),
        },
        cleaning=report.to_dict(),
    )


def recognises(path: Path) -> bool:
    """True if a file, or one of the first of a folder, has the header of a vendor."""
    files = sorted(file for file in path.rglob("*") if file.is_file())[:5] if path.is_dir() else [path]
    return any(has_known_header(file) for file in files)


# Files and people


def _read_all(path: Path, report: CleaningReport) -> list[Export]:
    """Every export of a file or folder; a folder may hold other things too."""
    if not path.exists():
        raise INFO.missing(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in KINDS)
    read = [read_export(file, report) for file in files]
    exports = [export for export in read if export is not None]
    report.add("files_that_are_no_export", len(files) - len(exports), "left out")
    if not any((export.rows["kind"] == GLUCOSE).any() for export in exports):
        what = "holds no reading" if exports else "is no export that is known" if path.is_file() else "holds no export"
        known = ", ".join(dict.fromkeys(vendor.name for vendor in (*VENDORS, OHIO)))
        raise DataError(f"source {INFO.name}: {path} {what}; known: {known}; other tables: data.source=csv")
    return exports


def _people(exports: list[Export], path: Path, item_from: str | None) -> dict[str, list[Export]]:
    """Item -> its exports, under names that hold no word of the person."""
    if item_from == "device":
        return _devices(exports)
    found: dict[str, list[Export]] = {}
    with_readings = {_top(export, path) for export in exports if (export.rows["kind"] == GLUCOSE).any()}
    for export in exports:
        top = _top(export, path)
        if item_from == "file" or path.is_file():
            name = "_".join(export.path.relative_to(path if path.is_dir() else path.parent).with_suffix("").parts)
        else:  # a folder of doses alone, as Glooko has, belongs to the files beside it
            name = top if top and top in with_readings else path.resolve().name
        found.setdefault(name, []).append(export)
    if item_from is None:
        for own in found.values():
            _refuse_several_people(own)
    words = frozenset().union(*(export.person for export in exports))
    named = [name for name in found if words & set(words_of(name))]
    if named or words & {word for part in path.parts for word in words_of(part)}:
        logger.warning(
            "cgm_export: a file or folder is called by a name that also stands in it; %sdata.path and the names of "
            "files are written into the run folder: rename them first if that must not be",
            "its item gets a number, but " if named else "",
        )
    return {f"person_{number}" if name in named else name: own for number, (name, own) in enumerate(found.items(), 1)}


def _top(export: Export, path: Path) -> str | None:
    """The folder below `path` that holds the export; None directly in it."""
    parts = export.path.relative_to(path).parts if path.is_dir() else ()
    return parts[0] if len(parts) > 1 else None


def _devices(exports: list[Export]) -> dict[str, list[Export]]:
    """Item -> what one sensor or receiver wrote, numbered by their first readings; a serial number is a name too."""
    found: dict[str, list[Export]] = {}
    for export in exports:
        names = [name for name in export.rows["device"].unique() if name]
        own = export.rows["device"].replace("", names[0] if len(names) == 1 else "") if names else ""
        for name, rows in export.rows.assign(device=own).groupby("device", sort=False):
            found.setdefault(name or f"file {export.path}", []).append(replace(export, rows=rows))
    first = sorted(found, key=lambda name: min(export.rows["time"].min() for export in found[name]))
    return {f"device_{number}": found[name] for number, name in enumerate(first, start=1)}


def _refuse_several_people(exports: Sequence[Export]) -> None:
    for one, other in combinations(exports, 2):
        if one.person and other.person and not (one.person <= other.person or other.person <= one.person):
            raise _several_people(one, other, "name different people")
        both = pd.concat([_by_step(one), _by_step(other)], axis=1, join="inner").to_numpy()
        if len(both) >= 12 and one.unit == other.unit:
            share = float(np.median(np.abs(np.diff(both)[:, 0]) / both.mean(axis=1)))
            if share > _SAME_SENSOR:
                raise _several_people(one, other, f"differ by {100 * share:.0f} % where their times agree")


def _by_step(export: Export) -> pd.Series:
    readings = export.rows[export.rows["kind"] == GLUCOSE]
    return readings.groupby(readings["time"].dt.floor(_CLOCK_STEP))["value"].mean()


def _several_people(one: Export, other: Export, what: str) -> ConfigError:
    return ConfigError(
        f"source {INFO.name}: {one.path} and {other.path} {what}; set data.item_from=file if each file is somebody "
        "else's, or data.item_from=folder if they are one person's"
    )


# The files of one person


def _merge(item: str, exports: list[Export], unit: str, timezone: str | None, report: CleaningReport) -> pd.DataFrame:
    """`time`, `kind`, `value` and `minutes` of all files, each entry once, readings in one unit."""
    if timezone is None and len({export.zoned for export in exports if len(export.rows)}) > 1:
        local = next(export for export in exports if not export.zoned)
        raise ConfigError(
            f"source {INFO.name}: item {item!r} has files in UTC and {local.path} in local time; set "
            "data.timezone=<zone of the device>, e.g. data.timezone=Europe/London"
        )
    parts = []
    for number, export in enumerate(exports):
        rows = export.rows.assign(file=number)
        if len(rows) > 1 and rows["time"].diff().median() < pd.Timedelta(0):  # the latest first
            rows = rows[::-1]
        if timezone is not None and not export.zoned:
            rows["time"] = local_to_utc(rows["time"], pd.Series(item, rows.index), timezone, report)
        readings = rows["kind"].isin((GLUCOSE, SCAN))
        if export.unit not in (None, unit):
            rows["value"] *= np.where(readings, glucose().cleaning_factor(export.unit, unit), 1.0)
            report.add("readings_in_the_other_unit", int(readings.sum()), f"converted to {unit}")
        parts.append(rows)
    if timezone is not None:  # so that nobody takes UTC for local times after us
        report.add("local_times", 0, f"read as {timezone}, now UTC")
    rows = pd.concat(parts, ignore_index=True).sort_values("time", kind="stable")
    again = rows.duplicated(["time", "kind", "value"])
    report.add("entries_written_twice", int(again.sum()), "read once", {item: int(again.sum())} if again.any() else {})
    rows = _with_scans(item, rows[~again], report)
    readings = rows[rows["kind"] == GLUCOSE]
    step = "15min" if readings["time"].diff().median() > _SLOW else _CLOCK_STEP
    steps = readings.groupby(readings["time"].dt.floor(step))
    mixed = int(((steps["device"].nunique() > 1) | (steps["file"].nunique() > 1)).sum())
    report.add("steps_with_two_sensors_or_files", mixed, "averaged", {item: mixed} if mixed else {})
    return rows.reset_index(drop=True)


def _with_scans(item: str, rows: pd.DataFrame, report: CleaningReport) -> pd.DataFrame:
    """Scans count where the sensor's own record has nothing near; beside it they would be the same glucose twice."""
    scans = (rows["kind"] == SCAN).to_numpy()
    if not scans.any():
        return rows
    times, record = rows["time"].to_numpy(), rows.loc[rows["kind"] == GLUCOSE, "time"].to_numpy()
    near = np.zeros(len(rows), bool)
    if len(record):
        after = np.searchsorted(record, times)
        for place in (np.clip(after - 1, 0, None), np.clip(after, None, len(record) - 1)):
            near |= np.abs(times - record[place]) <= _SCAN_GAP
    report.add("scans_beside_a_reading", int((scans & near).sum()), "left out")
    used = scans & ~near
    report.add("scans", int(used.sum()), "taken as readings", {item: int(used.sum())} if used.any() else {})
    return rows.assign(kind=np.where(used, GLUCOSE, rows["kind"]))[~(scans & near)]


def _while_read(rows: pd.DataFrame, report: CleaningReport) -> pd.DataFrame:
    """Without the doses and meals before the first and after the last reading: no forecast sees them."""
    times = rows.loc[rows["kind"] == GLUCOSE, "time"]
    outside = ~rows["time"].between(times.iloc[0], times.iloc[-1]) & ~rows["kind"].isin((RATE, PERCENT))
    report.add("doses_outside_the_readings", int(outside.sum()), "left out")
    return rows[~outside]


def _frequency(merged: dict[str, pd.DataFrame]) -> str:
    """Fifteen minutes if that is what everybody's sensor does, else five."""
    steps = [rows.loc[rows["kind"] == GLUCOSE, "time"].diff().median() for rows in merged.values()]
    return "15min" if all(step > _SLOW for step in steps) else "5min"


def _fill(channel: str, merged: dict[str, pd.DataFrame]) -> str:
    """No entry is 0, unless it is somebody's who keeps no such log, or of a pump whose rate is not known."""
    kinds = CHANNELS[channel]
    everybody = all(rows["kind"].isin(kinds).any() for rows in merged.values())
    by_pump = any((rows["kind"] == RATE).any() for rows in merged.values())
    return "zero" if everybody and not (channel == "basal" and by_pump) else "none"


def _on_grid(item: str, rows: pd.DataFrame, channels: tuple[str, ...], frequency: str) -> pd.DataFrame:
    readings = rows[rows["kind"] == GLUCOSE].rename(columns={"time": TIMESTAMP, "value": TARGET})
    step = fixed_step(parse_frequency(frequency)) or _CLOCK_STEP
    grid = grid_between(readings[TIMESTAMP].iloc[0], readings[TIMESTAMP].iloc[-1], step)
    amounts = {}
    for channel in channels:
        own = rows[rows["kind"].isin(CHANNELS[channel])]
        given = own[~own["kind"].isin((RATE, PERCENT))]
        if own.empty:
            amounts[channel] = np.full(len(grid), np.nan)
        else:
            amounts[channel] = np.nan_to_num(doses_on_grid(given["time"], given["value"], grid, silence=None))
        if (own["kind"] == RATE).any():
            amounts[channel] += _by_pump(own, grid, step)
    return join_channels(item, readings[[TIMESTAMP, TARGET]], grid, amounts)


def _by_pump(rows: pd.DataFrame, grid: pd.DatetimeIndex, step: pd.Timedelta) -> np.ndarray:
    """[steps] units up to each step: a rate holds until the next, one with a length stands over it, as a share does.

    NaN where no rate is known.
    """
    minute = pd.Timedelta("1min")
    begin = min(rows["time"].min().floor(minute), grid[0] - step)
    rates = np.full((grid[-1] - begin) // minute, np.nan)
    places = ((rows["time"] - begin) // minute).to_numpy()
    lasting = rows["minutes"].isna().to_numpy() & (rows["kind"] == RATE).to_numpy()
    scheduled, amounts = places[lasting], rows["value"].to_numpy()[lasting]
    for (place, end), rate in zip(pairwise(scheduled), amounts, strict=False):  # how long the last holds is not known
        rates[place : min(end, place + _LONGEST_RATE)] = rate
    for row, place in zip(rows.itertuples(), places, strict=True):
        if row.kind in (RATE, PERCENT) and not np.isnan(row.minutes):
            part = slice(place, place + round(row.minutes))
            rates[part] = row.value if row.kind == RATE else rates[part] * row.value / 100
    edges = (grid - begin) // minute
    return np.array([rates[edge - step // minute : edge].sum() for edge in edges]) / 60
