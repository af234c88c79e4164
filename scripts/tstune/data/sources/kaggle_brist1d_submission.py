"""The rows of test.csv as contexts of a model, and the refusal of a model that was trained on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tstune.data.cleaning import CleaningRules
from tstune.data.frequency import encode_times, fixed_step, parse_frequency, to_steps
from tstune.data.panel import MISSING, OBSERVED, Panel
from tstune.data.preprocess import Preprocessor, build_panel
from tstune.data.sources.kaggle_brist1d import DATELESS, TARGET, channel_frame
from tstune.data.sources.kaggle_brist1d_rows import CHANNELS, STEP_MINUTES, STEPS_AHEAD
from tstune.data.table import Roles, SourceTable
from tstune.data.trained_on import overlap_of_panel, refuse_findings
from tstune.errors import DataError
from tstune.glucose.units import MG_DL, MGDL_PER_MMOL_CONVERTED, MMOL_L, unit_factor, unit_of


def refuse_known_rows(table: pa.Table, sha256: str, folder: Path, allow_overlap: bool) -> None:
    """Compare the readings of test.csv with those that a run folder, if it has a manifest, says its model learned from.

    Rows of fifteen-minute sensors are too short to be recognised; those of the others give the model away.
    """
    frame = channel_frame(table, [TARGET])
    if frame.empty:
        return
    panel = build_panel(SourceTable(frame=frame, roles=Roles((TARGET,))), "5min", "45min")
    findings = overlap_of_panel(panel, "mmol/L", {sha256}, folder)
    fix = "take a model that has not seen test.csv, or add --allow-overlap"
    refuse_findings(findings, f"--model {folder}", fix, allow_overlap, "--allow-overlap")


HORIZON = np.timedelta64(STEPS_AHEAD * STEP_MINUTES, "m")


@dataclass(frozen=True)
class Contexts:
    """One context per row of test.csv that has any glucose."""

    # row_ids, participants: [rows] names
    row_ids: list[str]
    participants: list[str]
    values: np.ndarray  # [rows, context, channels] float32 in the model's unit, 0 where masked
    # usable, read: [rows, context, channels] bool: of use as input, and really read
    usable: np.ndarray
    read: np.ndarray
    origin: np.ndarray  # [rows] time of the first forecast step in seconds; the day of a row is not known, its hour is
    # [rows, prediction, channels] float32, what is known of the future in the model's unit, 0 elsewhere
    known: np.ndarray
    # [rows] from the end of the context to the target, in steps of the model; may be a fraction
    steps_ahead: np.ndarray
    target: int
    num_stale: int  # rows whose last reading lies before the row's time, so that more than an hour is forecast


def build_contexts(
    table: pa.Table, preprocessor: Preprocessor, context_length: int, prediction_length: int, per_mmol: float
) -> Contexts:
    """Read the rows of test.csv the way the model, in whose unit one mmol/L is `per_mmol`, read its training data.

    A context ends with the last glucose reading of its row, as it does in training, and the forecast goes on to the
    target from there; with a forecast too short for that, the last reading is held as far as `max_gap` allows.
    """
    step = _step(preprocessor.frequency)
    if HORIZON / step > prediction_length:
        raise DataError(
            f"the model forecasts {prediction_length} steps of {preprocessor.frequency}, "
            "the competition asks for one hour; use a model with a longer model.prediction_length"
        )
    channels, target = _channels(preprocessor)
    frame = channel_frame(table, channels, items="first_row")
    if frame[TARGET].isna().all():
        raise DataError("test.csv holds no glucose at all")
    stamps = frame.columns[:2]
    roles = preprocessor.roles
    frame = pd.concat([frame[stamps], frame[channels].set_axis(roles.columns, axis=1)], axis=1)
    rules, factor = _rules(preprocessor.cleaning, per_mmol)
    frame[roles.target[target]] *= factor
    source = SourceTable(frame=frame, roles=roles, unit=preprocessor.unit)
    panel = replace(preprocessor, cleaning=rules).panel_of(source)

    rows = pd.DataFrame({name: table[name].to_numpy() for name in ("first_row", "item_id", "timestamp")})
    rows = rows.groupby("first_row").agg({"item_id": "first", "timestamp": "max"}).loc[list(panel.item_ids)]
    last = panel.timestamps[panel.segment_start[1:] - 1]
    due = (rows["timestamp"].to_numpy() + HORIZON - last) / step
    late = np.maximum(np.ceil(due - prediction_length - 1e-9), 0).astype(np.int64)
    gap = to_steps(preprocessor.max_gap, preprocessor.frequency, "data.max_gap")
    values, usable, read = _padded(panel, context_length, late, gap)
    after = (last + late * step)[:, None] + np.arange(1, prediction_length + 1) * step
    known = np.zeros((*after.shape, len(roles.channels)), np.float32)
    known[..., len(roles.columns) :] = encode_times(after.reshape(-1), roles.time_features).reshape(*after.shape, -1)
    return Contexts(
        row_ids=list(panel.item_ids),
        participants=rows["item_id"].tolist(),
        values=values,
        usable=usable,
        read=read,
        origin=after[:, 0].astype("datetime64[s]").astype(np.int64),
        known=known,
        steps_ahead=np.maximum(due - late, 1.0),
        target=target,
        num_stale=int((due > HORIZON / step + 0.5).sum()),
    )


def glucose_per_mmol(model_unit: str | None, given: str | None) -> float:
    """What one mmol/L is in the unit of a model."""
    unit = given or model_unit
    if unit is None:
        raise DataError("the model does not know the unit of its target; say --unit mmol/L or --unit mg/dL")
    return unit_factor(MMOL_L, unit)


def mean_glucose(table: pa.Table, row_ids: list[str]) -> dict[str, float]:
    """What to say of rows without any glucose (mmol/L): the mean of the participant's other rows, else of all."""
    frame = pd.DataFrame({name: table[name].to_numpy() for name in ("first_row", "item_id", TARGET)})
    people = frame.groupby("item_id")[TARGET].mean().fillna(frame[TARGET].mean())
    owner = frame.drop_duplicates("first_row").set_index("first_row")["item_id"]
    return {name: float(people[owner[name]]) for name in row_ids}


def _step(frequency: str) -> np.timedelta64:
    step = fixed_step(parse_frequency(frequency))
    if step is None or step > pd.Timedelta(HORIZON):
        raise DataError(f"the model's step is {frequency}, the competition asks for one hour; use a model of 5min")
    return step.to_timedelta64()


def _rules(rules: CleaningRules, per_mmol: float) -> tuple[CleaningRules, float]:
    """(rules of the model for readings whose unit is known and whose dates are not, factor from mmol/L to that unit).

    Without dates there is no daylight saving; the hours of test.csv are those of the clock.
    """
    unit = MG_DL if per_mmol != 1 else MMOL_L
    if rules.convert_to is not None:  # then the model's unit is not the one that it reads
        unit = unit_of(rules.unit or rules.expected_unit) or unit
        per_mmol = unit_factor(MMOL_L, unit, MGDL_PER_MMOL_CONVERTED)
    return replace(rules, unit=unit, expected_unit=None, timezone=None), per_mmol


def _channels(preprocessor: Preprocessor) -> tuple[list[str], int]:
    """(names in test.csv of the model's channels, place of glucose among them); one target alone may have any name."""
    roles = preprocessor.roles
    if roles.control:
        raise DataError(f"the model needs {roles.control[0]!r} in the future, which test.csv does not hold")
    if roles.statics:
        raise DataError(f"the model needs the static column {roles.statics[0]!r}, which test.csv does not hold")
    dated = next((name for name in roles.time_features if name not in DATELESS), None)
    if dated is not None:
        raise DataError(f"the model needs data.time_features={dated}, but test.csv has no dates")
    names = list(roles.columns)
    if roles.num_targets == 1 and names[0] not in CHANNELS:
        names[0] = TARGET
    unknown = next((name for name in names if name not in CHANNELS), None)
    if unknown is not None:
        raise DataError(f"the model's channel {unknown!r} is not in test.csv, which holds {', '.join(CHANNELS)}")
    if TARGET not in names[: roles.num_targets]:
        raise DataError(f"the model forecasts {', '.join(roles.target)}, the competition asks for {TARGET}")
    return names, names.index(TARGET)


def _padded(panel: Panel, length: int, late: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts that end `late` steps after the last reading of each item."""
    shape = (len(panel.item_ids), length, panel.values.shape[1])
    values, usable, read = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for item, (begin, end) in enumerate(zip(panel.segment_start[:-1], panel.segment_start[1:], strict=True)):
        stop = max(length - late[item], 0)
        first = max(begin, end - stop)
        there = slice(stop - (end - first), stop)
        values[item, there] = panel.values[first:end]
        usable[item, there] = panel.status[first:end] != MISSING
        read[item, there] = panel.status[first:end] == OBSERVED
        held = slice(stop, min(length, stop + gap))
        targets = slice(0, panel.roles.num_targets)
        values[item, held, targets] = panel.values[end - 1, targets]
        usable[item, held, targets] = panel.status[end - 1, targets] != MISSING
    return values, usable, read
