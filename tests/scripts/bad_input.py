"""What a case of bad input is, and the small spoilers that the lists of cases share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


def leave(folder: Path) -> None:
    """Spoil nothing on disk: the command line alone is wrong."""


@dataclass(frozen=True)
class Case:
    """One wrong thing.

    Attributes:
        name: what is wrong, in short.
        kind: the bad input of the promise it stands for; see `test_bad_input.PROMISED`.
        words: what the error must hold: the thing, its value, the fix.
        arguments: words added to the command line; ``{folder}`` is the folder of the test.
        spoil: changes the files of that folder.
    """

    name: str
    kind: str
    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    spoil: Callable[[Path], None] = leave

    def command_line(self, folder: Path) -> list[str]:
        """The arguments with the folder filled in."""
        return [argument.replace("{folder}", str(folder)) for argument in self.arguments]


def errors_in(stderr: str) -> list[str]:
    """The lines that are errors. Lines end with a newline: what a bar wrote over with \\r is one line with it."""
    return [line for line in stderr.split("\n") if line.startswith("error: ")]


def edit_series(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    """Spoiler that rewrites the series."""

    def spoil(folder: Path) -> None:
        path = folder / "series.csv"
        change(pd.read_csv(path, dtype={"load": object, "dose": object})).to_csv(path, index=False)

    return spoil


def set_cell(row: int, column: str, value: object) -> Callable[[Path], None]:
    """Spoiler that changes one cell; row 0 is the first below the header."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return edit_series(change)


def write_file(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Spoiler that writes one file."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def remove_file(name: str) -> Callable[[Path], None]:
    """Spoiler that deletes one file."""
    return lambda folder: (folder / name).unlink()


def truncate(name: str, share: float = 0.5) -> Callable[[Path], None]:
    """Spoiler that cuts a file short."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def edit_json(name: str, **values: object) -> Callable[[Path], None]:
    """Spoiler that changes keys of a JSON file; None removes the key."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in (content | values).items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return spoil


def in_turn(*spoilers: Callable[[Path], None]) -> Callable[[Path], None]:
    """Several spoilers one after another."""

    def spoil(folder: Path) -> None:
        for each in spoilers:
            each(folder)

    return spoil


def names(cases: Sequence[Case]) -> list[str]:
    """Ids for pytest."""
    return [case.name.replace(" ", "_") for case in cases]
