"""Run recipes one after the other, each in a process of its own, and go on where an earlier call stopped.

What was tried in an output folder stands in its ``rows.jsonl``: one JSON line per attempt, the last one of a recipe
counts.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from tstune.errors import ConfigError
from tstune.recipe_book.recipes import ROOT, MachinePaths, Recipe
from tstune.runtime.children import Child, StopRequest
from tstune.runtime.environment import git

_POLL_SECONDS = 0.1
_GOES_ON = "SIGTERM; the same command goes on"
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|^MemoryError", re.IGNORECASE)

Status = Literal["done", "failed", "nothing sent"]


@dataclass(frozen=True)
class Attempt:
    """One try to run a recipe."""

    recipe: str  # its name
    status: Status
    finished: str  # when, ISO 8601 in UTC
    reason: str | None = None  # why there is no run folder
    overrides: list[str] = field(default_factory=list)  # what the user changed
    machine: list[str] = field(default_factory=list)  # what this machine needed beside it
    seconds: float | None = None  # of the whole process
    peak_memory_mib: float | None = None  # resident memory of one of its processes at most
    commit: str | None = None  # of the code; a plus at its end stands for changes that were not committed


class Journal:
    """`rows.jsonl` of an output folder, which is made with the first line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.jsonl"

    def read(self) -> dict[str, Attempt]:
        """The last attempt of each recipe; a line that was cut off by a crash is passed over."""
        if not self.path.is_file():
            return {}
        known = {item.name for item in fields(Attempt)}
        found: dict[str, Attempt] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                attempt = Attempt(**{name: value for name, value in values.items() if name in known})
            except (ValueError, TypeError, AttributeError):
                continue  # the run folder itself says whether it is whole, so a lost line costs at most one run
            found[attempt.recipe] = attempt
        return found

    def append(self, attempt: Attempt) -> None:
        """Write one line that is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and self.path.stat().st_size > 0 and self.path.read_bytes()[-1:] != b"\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(asdict(attempt)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


@dataclass(frozen=True)
class Plan:
    """What a call runs, and where to."""

    output: Path  # folder of the run folders
    machine: MachinePaths = field(default_factory=MachinePaths)
    overrides: Sequence[str] = ()  # changes to every recipe
    timeout_seconds: float | None = None  # longest time of one recipe
    say: Callable[[str], None] = print  # gets each line of progress

    @property
    def journal(self) -> Journal:
        """The attempts of this and of earlier calls."""
        return Journal(self.output)

    def folder(self, recipe: Recipe) -> Path:
        """Where the run folder of a recipe will be."""
        return self.output / recipe.name


def run_recipes(plan: Plan, recipes: Sequence[Recipe]) -> list[Attempt]:
    """Run what is not done yet, and return the attempts of this call; an earlier call's are not among them."""
    _check_overrides(plan, recipes)
    attempts = []
    with StopRequest() as stop:
        for number, recipe in enumerate(recipes, start=1):
            if stop.signal is not None:
                stop.leave(_GOES_ON)
            place = f"[{number}/{len(recipes)}] {recipe.name}"
            attempt = _run(plan, recipe, place, stop)
            if attempt is None:
                plan.say(f"{place}: done before")
                continue
            plan.journal.append(attempt)
            attempts.append(attempt)
            why = f": {attempt.reason}" if attempt.reason else ""
            plan.say(f"{place}: {attempt.status}{why} ({attempt.seconds:.0f} s)")
    return attempts


def _check_overrides(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """A typo in a change is said once, not in every row."""
    errors = []
    for recipe in recipes:
        try:
            recipe.load(plan.overrides)
            return
        except ConfigError as error:
            errors.append(error)
    if errors and plan.overrides:
        raise errors[0]


def _run(plan: Plan, recipe: Recipe, place: str, stop: StopRequest) -> Attempt | None:
    """One attempt; None if there is nothing to do."""
    begin, folder = time.monotonic(), plan.folder(recipe)
    machine: list[str] = []
    commit = _commit()

    def ended(status: str, reason: str | None, peak: float | None = None) -> Attempt:
        return Attempt(
            recipe=recipe.name,
            status=status,
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            reason=reason,
            overrides=list(plan.overrides),
            machine=machine,
            seconds=round(time.monotonic() - begin, 2),
            peak_memory_mib=None if peak is None else round(peak, 1),
            commit=commit,
        )

    try:
        machine += plan.machine.overrides(recipe.runs())
        given = [*machine, *plan.overrides]
        config = recipe.load(given)
        if config.training.checkpoint_every_steps or config.training.checkpoint_every_minutes:
            machine.append("training.resume_from_checkpoint=auto")  # a long run goes on within itself
            given = [*machine, *plan.overrides]
            config = recipe.load(given)
    except ConfigError as error:
        return ended("failed", str(error))
    if recipe.is_done(folder, given):
        return None
    plan.say(f"{place}: running, log in {folder}.log")
    command = [sys.executable, str(recipe.script(config.model.type)), "--config", str(recipe.path), *given]
    command += [f"output_dir={folder}", "overwrite=true"]
    child, reason = _follow(command, folder.with_name(f"{folder.name}.log"), plan.timeout_seconds, stop)
    if reason is not None:
        return ended("failed", reason, child.peak_memory_mib)
    if not recipe.is_done(folder, given):  # a dry run of a paid service
        would_send = (line.strip() for line in child.said() if line.strip().startswith("this run would send"))
        return ended("nothing sent", next(would_send, "a dry run"), child.peak_memory_mib)
    return ended("done", None, child.peak_memory_mib)


def _follow(command: Sequence[str], log: Path, timeout: float | None, stop: StopRequest) -> tuple[Child, str | None]:
    """Run a command to its end; the second is why it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    begin = time.monotonic()
    with Child(command, log) as child:
        while not child.has_ended:
            if stop.signal is not None:
                child.end()
                stop.leave(_GOES_ON)
            seconds = time.monotonic() - begin
            if timeout is not None and seconds > timeout:
                child.end()
                return child, f"stopped after {seconds / 60:.3g} min (--timeout)"
            time.sleep(_POLL_SECONDS)
    if child.code == 0:
        return child, None
    if child.code == -signal.SIGKILL:
        return child, f"out of memory, by all appearance: killed by the system at {child.peak_memory_mib:,.0f} MiB"
    last = next((line.strip() for line in reversed(child.said()) if line.strip()), "it said nothing")
    reason = child.why() or f"exit code {child.code}: {last}"
    is_new = _OUT_OF_MEMORY.search(reason) and not reason.startswith("out of memory")
    return child, f"out of memory: {reason}" if is_new else reason


def _commit() -> str | None:
    """Commit of the code, with a plus if files that are not committed take part."""
    head = git("rev-parse", "--short=7", "HEAD", folder=ROOT)
    changes = head and git("status", "--porcelain", "--", "scripts", "recipes/*.yaml", folder=ROOT)
    return f"{head}+" if changes else head
