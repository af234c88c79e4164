"""Check and clean the readings of a source: nothing is changed unless the configuration says so, all is counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tstune.data.cleaning.clock import find_clock_changes, local_to_utc
from tstune.data.cleaning.rules import NUM_EXAMPLES, CleaningReport, CleaningRules
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.domains import Domain, domain_of, domain_of_column
from tstune.errors import ConfigError
from tstune.runtime.logs import logger

LARGEST = 1e15
"""Squares of what is larger, summed up, leave single precision: no model computes with it, and no sensor means it."""
_FAR = 10.0
_FEWEST_TO_JUDGE = 50
_KTH = (2, 3, 4, 5, 6, 10, 12, 15, 30)
_STRAIGHT, _BENT = 0.9, 0.3
"""Share of steps without a bend between the measured ones, and how much smaller it is at those."""
MINUTE = np.timedelta64(60_000_000_000, "ns")


@dataclass(frozen=True)
class Column:
    """The readings of one column, without missing ones, sorted by series and time."""

    name: str
    values: np.ndarray  # [readings]
    stamps: np.ndarray  # [readings] datetime64[ns]
    codes: np.ndarray  # [readings] series of each reading, ascending
    items: Sequence[str]  # names of the series
    rows: np.ndarray  # [readings] where each one stands in the table

    def note(self, report: CleaningReport, what: str, mask: np.ndarray, action: str, **more: object) -> None:
        """Report the readings of a mask."""
        places = np.flatnonzero(mask)
        examples = [
            f"{self.items[self.codes[place]]} {pd.Timestamp(self.stamps[place])}: {self.values[place]:g}"
            for place in places[:NUM_EXAMPLES]
        ]
        report.add(what, len(places), action, _by_item(self.codes[places], self.items), examples, **more)

    def series(self) -> Iterator[slice]:
        """Where the readings of each series lie."""
        bounds = np.searchsorted(self.codes, np.arange(len(self.items) + 1))
        return itertools.starmap(slice, itertools.pairwise(bounds))

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """([readings - 1], [readings - 1]) minutes to the next reading, and is it of the same series."""
        minutes = np.diff(self.stamps) / MINUTE
        return minutes, self.codes[1:] == self.codes[:-1]


def outside(column: Column, valid_range: tuple[float, float]) -> np.ndarray:
    """[readings] True outside the range of possible readings."""
    return (column.values < valid_range[0]) | (column.values > valid_range[1])


def interpolated(column: Column) -> np.ndarray:
    """[readings] True for those on lines that were drawn, before a series was published, between every k-th of them.

    Such a series bends at every k-th step and hardly elsewhere; what a sensor measured bends anywhere.
    """
    mask = np.zeros(len(column.values), bool)
    for own in column.series():
        if own.stop - own.start >= _FEWEST_TO_JUDGE:
            mask[own] = _between_bends(column.values[own], column.stamps[own])
    return mask


def _between_bends(values: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    gaps = np.diff(stamps).astype(np.int64)
    step = max(1, int(np.median(gaps)))
    place = np.round((stamps - stamps[0]).astype(np.int64) / step).astype(np.int64)
    inner = np.flatnonzero((gaps[1:] == gaps[:-1]) & (gaps[1:] == step)) + 1
    curve = np.abs(values[inner + 1] - 2 * values[inner] + values[inner - 1])
    moving = (values[inner + 1] != values[inner]) | (values[inner] != values[inner - 1])
    inner, curve = inner[moving], curve[moving]
    if len(inner) < _FEWEST_TO_JUDGE:
        return np.zeros(len(values), bool)
    decimals = next((d for d in range(4) if np.abs(values - np.round(values, d)).max() < 1e-4), None)
    straight = curve <= (1e-6 * np.abs(values).max() if decimals is None else 1.01 * 10.0**-decimals)
    for every in _KTH:
        phase = place[inner] % every
        counts = np.bincount(phase, minlength=every)
        shares = np.bincount(phase, straight, every) / np.maximum(counts, 1)
        bent, elsewhere = np.partition(shares, 1)[:2]
        if counts.min() > 0 and elsewhere >= _STRAIGHT and elsewhere - bent >= _BENT:
            return place % every != shares.argmin()
    return np.zeros(len(values), bool)


def far_from_the_rest(column: Column) -> np.ndarray:
    """[readings] True beyond ten interquartile ranges from the median of their series."""
    mask = np.zeros(len(column.values), bool)
    for own in column.series():
        if own.stop - own.start < 20:
            continue
        low, middle, high = np.percentile(column.values[own], [25, 50, 75])
        if high > low:
            mask[own] = np.abs(column.values[own] - middle) > _FAR * (high - low)
    return mask


__all__ = ["CleaningReport", "CleaningRules", "clean_table", "order_of"]


def clean_table(table: SourceTable, rules: CleaningRules, log: bool = True) -> SourceTable:
    """Look at every target of a table, change what the rules say, and write all of it down; `log` says it aloud.

    Returns:
        the table with `cleaning` filled, `unit` resolved and, where the rules ask for it, other readings.
    """
    report = CleaningReport(table.cleaning)
    if rules.timezone is not None and "local_times" not in report:  # the csv source has done it before its checks
        utc = local_to_utc(table.frame[TIMESTAMP], table.frame[ITEM], rules.timezone, report)
        table = replace(table, frame=table.frame.assign(**{TIMESTAMP: utc}))
    frame = table.frame
    codes, items = pd.factorize(frame[ITEM].values, sort=True)
    items = [str(item) for item in items]
    stamps = frame[TIMESTAMP].to_numpy("datetime64[ns]")
    order = order_of(codes, stamps)
    _note_rows(table, stamps, codes, items, order, report)

    stated = rules.unit or rules.expected_unit or table.unit
    by_unit = domain_of(stated)
    declared = by_unit.unit_of(stated) if by_unit else None
    unit, converted = None, False
    changed: dict[str, np.ndarray] = {}
    for name in table.roles.columns:
        values = frame[name].to_numpy(np.float64)
        absurd = np.abs(values) > LARGEST
        if absurd.any():
            column = _readings(name, values, stamps, codes, items, order)
            column.note(report, "absurd", absurd[column.rows], "dropped", limit=LARGEST)
            changed[name] = np.where(absurd, np.nan, values)
    for name in table.roles.target:
        values = changed[name] if name in changed else frame[name].to_numpy(np.float64)
        domain = domain_of_column(name) if stated is None else by_unit
        readings = _readings(name, values, stamps, codes, items, order)
        column_unit = domain and domain.find_unit(readings, declared, rules, report)
        dropped = _check(readings, domain, column_unit, rules, report)
        factor = 1.0
        if column_unit and domain.unit_of(rules.convert_to):
            converted = True
            factor = domain.cleaning_factor(column_unit, rules.convert_to)
            report.add("converted", len(readings.values) if factor != 1 else 0, f"to {rules.convert_to}", factor=factor)
        if dropped.any() or factor != 1:
            values = values * factor
            values[readings.rows[dropped]] = np.nan
            changed[name] = values
        unit = unit or column_unit
    if rules.convert_to and not converted:
        wanted = domain_of(rules.convert_to)
        raise ConfigError(
            f"data.convert_to={rules.convert_to}: no target is {wanted.name} in a known unit "
            f"({', '.join(table.roles.target)}); set data.unit={' or '.join(wanted.units)}, or leave convert_to out"
        )
    for line in report.lines() if log else ():
        logger.info("cleaning: %s", line)
    if by_unit is None and stated is not None:
        unit = stated
    elif unit:
        unit = rules.convert_to or unit
    return replace(table, frame=frame.assign(**changed) if changed else frame, unit=unit, cleaning=report.to_dict())


def order_of(codes: np.ndarray, stamps: np.ndarray) -> np.ndarray | slice:
    """Rows by series and time; a table that already is in order costs no copy."""
    forward = (np.diff(codes) > 0) | ((np.diff(codes) == 0) & (np.diff(stamps) >= np.timedelta64(0)))
    return slice(None) if forward.all() else np.lexsort((stamps, codes))


def _note_rows(
    table: SourceTable,
    stamps: np.ndarray,
    codes: np.ndarray,
    items: list[str],
    order: np.ndarray | slice,
    report: CleaningReport,
) -> None:
    """Order, repeated times and clock changes of the rows that hold a target."""
    if isinstance(order, np.ndarray):
        in_file_order = np.argsort(codes, kind="stable")
        own, times = codes[in_file_order], stamps[in_file_order]
        backwards = np.flatnonzero((np.diff(own) == 0) & (np.diff(times) < np.timedelta64(0))) + 1
        if len(backwards):  # else only whole series are in another order
            report.add("rows_out_of_order", len(backwards), "sorted", _by_item(own[backwards], items))
    held = ~np.isnan(table.numbers(table.roles.target)).all(axis=1)[order]
    stamps, codes = stamps[order][held], codes[order][held]
    again = np.flatnonzero((np.diff(codes) == 0) & (np.diff(stamps) == np.timedelta64(0))) + 1
    if "duplicate_timestamps" not in report:
        report.add(
            "duplicate_timestamps",
            len(again),
            "averaged",
            _by_item(codes[again], items),
            [f"{items[codes[place]]} {pd.Timestamp(stamps[place])}" for place in again[:3]],
        )
    if "local_times" not in report:
        find_clock_changes(stamps, codes, items, report)


def _by_item(codes: np.ndarray, items: Sequence[str]) -> dict[str, int]:
    numbers = np.bincount(codes, minlength=len(items))
    return {items[item]: int(numbers[item]) for item in np.flatnonzero(numbers)}


def _readings(
    name: str, values: np.ndarray, stamps: np.ndarray, codes: np.ndarray, items: list[str], order: np.ndarray | slice
) -> Column:
    rows = np.arange(len(values))[order]
    rows = rows[~np.isnan(values[rows])]
    return Column(name, values[rows], stamps[rows], codes[rows], items, rows)


def _check(
    column: Column, domain: Domain | None, unit: str | None, rules: CleaningRules, report: CleaningReport
) -> np.ndarray:
    """Count what is doubtful; return [readings] True for what the rules drop."""
    dropped = np.zeros(len(column.values), bool)
    valid = rules.valid_range or (domain.valid_range(unit) if unit else None)
    if valid is not None:
        mask, drops = outside(column, valid), rules.out_of_range == "drop"
        column.note(report, "out_of_range", mask, "dropped" if drops else "kept", valid_range=list(valid))
        if drops:
            dropped = mask
    mask, drops = interpolated(column), rules.interpolated_readings == "drop"
    action = "dropped" if drops else "kept; a line holds readings of the future: data.interpolated_readings=drop"
    column.note(report, "interpolated_readings", mask, action)
    if drops:
        dropped = dropped | mask
    if unit is None:
        column.note(report, "far_from_the_rest", far_from_the_rest(column), "kept")
        return dropped
    return dropped | domain.doubtful(column, unit, rules, report)
