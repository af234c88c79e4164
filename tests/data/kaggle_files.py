"""Files in the layout of the Kaggle competition brist1d, made from simulated people whose true series are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

NUMBERS = ("bg", "insulin", "carbs", "hr", "steps", "cals")
CHANNELS = (*NUMBERS, "activity")
LAGS = [f"-{minutes // 60}:{minutes % 60:02d}" for minutes in range(355, -1, -5)]
HEADER = ["id", "p_num", "time", *(f"{channel}{lag}" for channel in CHANNELS for lag in LAGS)]
DAY, AHEAD = 288, 12


@dataclass(frozen=True)
class Person:
    """Somebody whose readings are simulated: five-minute steps from `clock` (a step of the day) on.

    `outages` are (first step, number of steps) without any glucose; `off` the same for every channel.
    """

    name: str
    num_steps: int
    sampling: int = 1
    clock: int = 0
    seed: int = 0
    outages: tuple[tuple[int, int], ...] = ()
    off: tuple[tuple[int, int], ...] = ()
    only_glucose: bool = False


@dataclass
class Truth:
    """What a person's series really are: [channels, steps] numbers and [steps] activities, and rows made of them."""

    person: Person
    values: np.ndarray
    activity: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def clock(self) -> np.ndarray:
        return (self.person.clock + np.arange(self.values.shape[1])) % DAY


def simulate(person: Person) -> Truth:
    """Glucose that wanders, insulin every step, a few meals, a watch that is sometimes off."""
    random = np.random.default_rng([person.seed, 1])
    number = person.num_steps
    wander = np.convolve(random.normal(0, 0.4, number + 99), 0.95 ** np.arange(100), "valid")
    glucose = 9 + 3 * np.sin(2 * np.pi * np.arange(number) / 201) + wander
    values = np.full((len(NUMBERS), number), np.nan)
    values[0] = np.round(np.clip(glucose, 2.2, 22.2), 1)
    values[0, np.arange(number) % person.sampling != person.sampling // 2] = np.nan
    activity = np.full(number, None, object)
    if not person.only_glucose:
        values[1] = np.round(random.gamma(2, 0.04, number), 4)
        meals = random.random(number) < 0.015
        values[2, meals] = random.integers(5, 90, int(meals.sum()))
        values[3] = np.round(70 + 20 * random.random(number), 1)
        values[4] = random.integers(0, 400, number)
        values[5] = np.round(5 + 10 * random.random(number), 2)
        values[3:, random.random(number) < 0.1] = np.nan
        for begin in range(100, number - 12, 400):
            activity[begin : begin + 9] = ("Run", "Swim", "Indoor climbing")[begin // 400 % 3]
    for first, length in person.outages:
        values[0, first : first + length] = np.nan
    for first, length in person.off:
        values[:, first : first + length] = np.nan
        activity[first : first + length] = None
    return Truth(person, values, activity)


def training_rows(truth: Truth) -> Truth:
    """A row wherever six hours lie behind and the glucose one hour ahead was read."""
    ahead = np.full(truth.values.shape[1], np.nan)
    ahead[:-AHEAD] = truth.values[0, AHEAD:]
    truth.rows = np.flatnonzero(~np.isnan(ahead) & (np.arange(len(ahead)) >= len(LAGS)))
    return truth


def wide(truth: Truth, first_number: int = 0, target: bool = True, clock: np.ndarray | None = None) -> pa.Table:
    """The rows of a person as the competition writes them."""
    rows, person = truth.rows, truth.person
    clock = truth.clock[rows] if clock is None else clock
    columns = {
        "id": [f"{person.name}_{first_number + number}" for number in range(len(rows))],
        "p_num": [person.name] * len(rows),
        "time": [f"{step // 12:02d}:{step % 12 * 5:02d}:00" for step in clock],
    }
    for channel, values in zip(CHANNELS, [*truth.values, truth.activity], strict=True):
        for lag, ending in enumerate(LAGS):
            columns[f"{channel}{ending}"] = pa.array(values[rows - len(LAGS) + 1 + lag], from_pandas=True)
    if target:
        columns["bg+1:00"] = pa.array(truth.values[0, rows + AHEAD], from_pandas=True)
    text = pa.string()
    return pa.table({name: pa.array(column, text) if column is truth.activity else column
                     for name, column in columns.items()}).cast(_schema(target))  # fmt: skip


def write_csv(path: Path, tables: Sequence[pa.Table]) -> Path:
    """Write tables one after another, cells without quotes, as the competition does."""
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    with path.open("wb") as stream:
        stream.write((",".join(tables[0].column_names) + "\n").encode())
        for table in tables:
            pa.csv.write_csv(table, stream, options)
    return path


def write_folder(
    folder: Path, people: Sequence[Person], unseen: Sequence[Person] = (), num_test: int = 6
) -> list[Truth]:
    """Write train.csv of these people, test.csv of them and of others, and sample_submission.csv.

    Returns:
        the true series of `people`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truths = [training_rows(simulate(person)) for person in people]
    write_csv(folder / "train.csv", [wide(truth) for truth in truths])
    tests = []
    for number, person in enumerate([*people, *unseen]):
        later = simulate(Person(person.name, 84 * (num_test + 2), person.sampling, person.clock, 1000 + number))
        later.rows = 84 * (1 + np.random.default_rng(number).permutation(num_test)) + person.sampling // 2
        first = len(truths[number].rows) if number < len(truths) else 0
        tests.append(wide(later, first, target=False))
    mixed = pa.concat_tables(tests)
    mixed = mixed.take(np.random.default_rng(0).permutation(len(mixed)))
    write_csv(folder / "test.csv", [mixed])
    sample = "".join(f"{name},5.0\n" for name in mixed["id"].to_pylist())
    (folder / "sample_submission.csv").write_text(f"id,bg+1:00\n{sample}", encoding="utf-8")
    return truths


def _schema(target: bool) -> pa.Schema:
    names = HEADER + ["bg+1:00"] * target
    text = {"id", "p_num", "time", *(f"activity{lag}" for lag in LAGS)}
    return pa.schema([(name, pa.string() if name in text else pa.float64()) for name in names])
