"""A tiny recipe to sweep, and sweeps as real processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from launched import ROOT
from support import tiny

import sweep_hparams

TIMEOUT = 900  # on a machine that is shared everything may take ten times as long


@dataclass(frozen=True)
class Desk:
    """A folder with a series and a recipe; sweeps run in it."""

    folder: Path
    log: Path  # what the sweeps said
    out: Path  # their results
    sweeps: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *words: object) -> subprocess.Popen:
        """Start a sweep into out/; what it says goes to sweep.log."""
        command = [sys.executable, ROOT / "scripts" / "sweep_hparams.py", "--output", "out", *words]
        with self.log.open("ab") as log:
            sweep = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.sweeps.append(sweep)
        return sweep

    def end(self) -> None:
        """End what a failed test left running."""
        for sweep in self.sweeps:
            sweep.terminate()
            sweep.wait(TIMEOUT)

    def run(self, *words: object) -> int:
        """Run a sweep to its end."""
        return self.start(*words).wait(TIMEOUT)

    def run_here(self, *words: object) -> int:
        """The same in this process and the current folder, which saves the start."""
        assert Path.cwd() == self.folder
        return sweep_hparams.main(["--output", "out", *map(str, words)])

    def rows(self) -> list[dict[str, str]]:
        """The table."""
        with (self.out / "trials.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def says(self, trial: int, text: str) -> Callable[[], bool]:
        """True once the trial's log holds the text."""
        log = self.out / "trials" / f"{trial}.log"
        return lambda: log.is_file() and text in log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, holds: Callable[[], bool], process: subprocess.Popen) -> None:
        """Wait for a moment in the life of a sweep."""
        deadline = time.monotonic() + TIMEOUT
        while not holds():
            assert process.poll() is None, f"the sweep is over: {self.log.read_text()}"
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def desk_in(folder: Path, **sections: object) -> Iterator[Desk]:
    """Write series.csv and recipe.yaml; at the end no sweep is left."""
    series = tiny.write_series(folder / "series.csv")
    values = tiny.recipe(series, folder / "unused", tracking={"folder": str(folder / "tracking")}, **sections)
    tiny.write_recipe(folder / "recipe.yaml", values)
    desk = Desk(folder, folder / "sweep.log", folder / "out")
    try:
        yield desk
    finally:
        desk.end()
