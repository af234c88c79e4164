"""Run recipes one after the other, each in a process of its own, and go on where an earlier call stopped."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tstune.errors import ConfigError
from tstune.recipe_book.journal import Attempt, Journal
from tstune.recipe_book.machine import MachinePaths
from tstune.recipe_book.process import run_process
from tstune.recipe_book.recipes import ROOT, Recipe
from tstune.recipe_book.rows import Row, row_of_attempt, row_of_run


@dataclass(frozen=True)
class Plan:
    """What a call runs, and where to.

    Attributes:
        output: folder of the run folders.
        machine: where data and weights lie.
        overrides: changes to every recipe.
        timeout_seconds: longest time of one recipe.
        say: gets each line of progress.
    """

    output: Path
    machine: MachinePaths = field(default_factory=MachinePaths)
    overrides: Sequence[str] = ()
    timeout_seconds: float | None = None
    say: Callable[[str], None] = print

    @property
    def journal(self) -> Journal:
        """The attempts of this and of earlier calls."""
        return Journal(self.output)

    def folder(self, recipe: Recipe) -> Path:
        """Where the run folder of a recipe will be."""
        return self.output / recipe.name


def run_recipes(plan: Plan, recipes: Sequence[Recipe]) -> list[Attempt]:
    """Run what is not done yet.

    Returns:
        the attempts of this call; what was done before is not among them.

    Raises:
        ConfigError: no recipe accepts the overrides.
        KeyboardInterrupt, Preempted: what ended before is in the journal.
    """
    _check_overrides(plan, recipes)
    attempts = []
    for number, recipe in enumerate(recipes, start=1):
        place = f"[{number}/{len(recipes)}] {recipe.name}"
        attempt = _run(plan, recipe, place)
        if attempt is None:
            plan.say(f"{place}: done before")
            continue
        plan.journal.append(attempt)
        attempts.append(attempt)
        why = f": {attempt.reason}" if attempt.reason else ""
        plan.say(f"{place}: {attempt.status}{why} ({attempt.seconds:.0f} s)")
    return attempts


def read_rows(plan: Plan, recipes: Sequence[Recipe]) -> list[Row]:
    """The rows of those recipes that were run, or tried, in this output folder."""
    attempts, rows = plan.journal.read(), []
    for recipe in recipes:
        attempt, folder = attempts.get(recipe.name), plan.folder(recipe)
        failed_since = attempt is not None and attempt.status != "done"
        if (folder / "metrics.json").is_file() and not failed_since:
            rows.append(row_of_run(recipe, folder, attempt))
        elif attempt is not None:
            rows.append(row_of_attempt(recipe, attempt, plan.machine))
    return rows


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


def _run(plan: Plan, recipe: Recipe, place: str) -> Attempt | None:
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
    done = run_process(command, folder.with_name(f"{folder.name}.log"), plan.timeout_seconds)
    if done.reason is not None:
        return ended("failed", done.reason, done.peak_memory_mib)
    if not recipe.is_done(folder, given):  # a dry run of a paid service
        return ended("nothing sent", _dry_run(done.log), done.peak_memory_mib)
    return ended("done", None, done.peak_memory_mib)


def _dry_run(log: Path) -> str:
    """What scripts/finetune_timegpt.py said it would send."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in lines if line.startswith("this run would send")), "a dry run")


def _commit() -> str | None:
    """Commit of the code, with a plus if files that are not committed take part."""
    try:
        head = _git("rev-parse", "--short=7", "HEAD")
        changes = _git("status", "--porcelain", "--", "scripts", "recipes/*.yaml")
    except (OSError, subprocess.SubprocessError):  # no git on this machine, or no checkout
        return None
    return f"{head}+" if changes else head


def _git(*words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    return answer.stdout.strip()
