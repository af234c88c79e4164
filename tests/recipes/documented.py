"""Finds every command the project documents, and reads it the way the shell and the script would."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "accelerate_configs", "benchmarks", "docs", "notebooks", "recipes")
    for path in (ROOT / folder).glob("*.md" if folder == "" else "**/*.md")
    if path.name != "design_documents.md"  # quotes what others wrote; tests/seeds checks it
)
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("scripts", "benchmarks") for path in (ROOT / folder).glob("*.py")
)
RUN_README = "scripts/tstune/runs/readme.md.jinja"  # the README of a run folder
MAKEFILE = "Makefile"
SOURCES = [*READMES, *SCRIPTS, RUN_README, MAKEFILE]

PLACEHOLDER = "…"
_SCRIPT = re.compile(r"\b(?:scripts|benchmarks)/\w+\.py\b")
_LAUNCHERS = {("python",): "python", ("accelerate", "launch"): "accelerate"}


@dataclass(frozen=True)
class Command:
    """One documented command: `launcher` is python or accelerate, `words` follow it."""

    text: str
    launcher: str
    words: tuple[str, ...]


def shell_text(source: str) -> str:
    """The part of a file that a reader would paste into a shell."""
    if source == MAKEFILE:
        return _make_dry_run()
    text = (ROOT / source).read_text(encoding="utf-8")
    if source in SCRIPTS:
        docstring = ast.get_docstring(ast.parse(text)) or ""
        return "\n".join(line for line in docstring.splitlines() if line.startswith("    "))
    blocks = [body for language, body in fenced_blocks(text) if language in ("", "sh", "bash", "console", "shell")]
    spans = re.findall(r"`([^`\n]+)`", _without_fences(text))
    return "\n".join([*blocks, *(span for span in spans if " " in span)])


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced code block."""
    return re.findall(r"^```([\w+-]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(source: str) -> list[Command]:
    """Every command of a file that runs a script of ours."""
    return read_commands(shell_text(source))


def read_commands(text: str) -> list[Command]:
    """Every command of a shell text that runs a script of ours."""
    lines = text.replace("\\\n", " ").splitlines()
    return [_read(line) for line in lines if _SCRIPT.search(line)]


def num_mentions(source: str) -> int:
    """How often the shell text names a script, counted without understanding the commands."""
    return len(_SCRIPT.findall(shell_text(source)))


def parse(command: Command) -> argparse.Namespace:
    """Read the command line with Accelerate's launcher, if it is used, and the script's own `parse_args`."""
    words = list(command.words)
    launch = None
    if command.launcher == "accelerate":
        launch = _launch_parser().parse_args(words)
        script, arguments = launch.training_script, launch.training_script_args
    else:
        script, *arguments = words
    namespace = load_script(script).parse_args(arguments)
    namespace.launch = launch
    return namespace


@cache
def load_script(script: str) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(f"documented_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@cache
def _launch_parser() -> argparse.ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser()


def _read(line: str) -> Command:
    filled = re.sub(r"<[^<>]*>", PLACEHOLDER, line)  # <folder of a checkpoint> is one word
    words = shlex.split(filled.strip().removeprefix("$ "), comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables in front
        words = words[1:]
    words[0] = Path(words[0]).name  # .venv/bin/python is python
    for start, launcher in _LAUNCHERS.items():
        if tuple(words[: len(start)]) == start:
            return Command(line.strip(), launcher, tuple(words[len(start) :]))
    raise AssertionError(f"not a command that starts with python or accelerate launch: {line.strip()}")


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def _make_dry_run() -> str:
    """What the targets that run a script would do, variables filled in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    answer = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", "demo", "benchmarks"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout
