"""What a finished run or evaluation left behind, as far as runs are compared by it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from tstune.config.dotted import dotted
from tstune.config.managers import SimpleConfigManager
from tstune.data.manifest import compare_manifests
from tstune.errors import DataError
from tstune.evaluation.record import EVALUATION_FILE, WINDOWS_FILE
from tstune.registry.opening import PREFIX, open_registry

_NEEDED = ("metrics.json", "verdict.json", "manifest.json", "environment.json")
_NOT_THE_RUN = ("output_dir", "overwrite", "tracking.", "distributed.", "evaluation.report", "evaluation.num_plots")
"""Keys that say where a run was written down and on what it ran; cost and data have tables of their own."""


@dataclass(frozen=True)
class ComparedRun:
    """One side of a comparison.

    Attributes:
        name: short and unique.
        spec: as the user wrote it.
        settings: dotted key -> value.
        judged: row of its scoreboard that is compared.
        metrics: of that row.
        sentence: the run's own verdict.
        manifest, environment: the files.
        evaluation: `evaluation.json`; empty for a run that is older than it.
        windows: `windows.parquet`; None for a run that is older than it.
    """

    name: str
    spec: str
    settings: dict[str, object]
    judged: str
    metrics: dict[str, float | None]
    sentence: str
    manifest: dict
    environment: dict
    evaluation: dict
    windows: pd.DataFrame | None


def read_runs(specs: Sequence[str], registry: str | None = None) -> list[ComparedRun]:
    """Read run folders and registry versions.

    Args:
        specs: run folders, ``registry:name@alias``, ``registry:name:version``.
        registry: where ``registry:…`` looks; None takes the default.

    Raises:
        DataError: fewer than two, one given twice, or one that is no finished run.
        RegistryError: there is no such version, or it is damaged.
    """
    if len(specs) < 2:
        raise DataError("give at least two runs to compare")
    twice = [spec for number, spec in enumerate(specs) if spec in specs[:number]]
    if twice:
        raise DataError(f"{twice[0]} is given twice")
    with ExitStack() as stack:
        found = [_read(spec, registry, stack) for spec in specs]
    names = [run.name for run in found]
    return [replace(run, name=run.spec) if names.count(run.name) > 1 else run for run in found]


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, list[object]]:
    """Key -> value in each run, for the keys that are not the same in all; `(not there)` where a run has none."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith(_NOT_THE_RUN))
    values = {key: [run.settings.get(key, "(not there)") for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found[1:])}


def differing_data(run: ComparedRun, first: ComparedRun) -> list[str]:
    """What of the data differs, the weightiest first; empty if both saw the same."""
    return [found.name for found in compare_manifests(first.manifest, run.manifest) if found.of_the_data]


def _read(spec: str, registry: str | None, stack: ExitStack) -> ComparedRun:
    folder, name = Path(spec), Path(spec).resolve().name
    if spec.startswith(PREFIX):
        name = spec.removeprefix(PREFIX)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tstune-"))) / "run"
        folder = open_registry(registry).download(name, place)
    files = {needed: _read_json(folder / needed, spec) for needed in _NEEDED}
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{spec} is not a finished run: config.yaml is missing; give a run's output_dir")
    verdict = files["verdict.json"]
    judged, parts = verdict.get("model"), list(files["metrics.json"].values())
    if len(parts) != 1 or not isinstance(parts[0], dict) or judged not in parts[0]:
        raise DataError(f"{spec}: metrics.json has no row {judged!r}, which verdict.json judges")
    evaluation, windows = folder / EVALUATION_FILE, folder / WINDOWS_FILE
    return ComparedRun(
        name=name,
        spec=spec,
        settings=dict(dotted(SimpleConfigManager().load_config(folder / "config.yaml").model_dump(mode="json"))),
        judged=judged,
        metrics=parts[0][judged],
        sentence=verdict.get("sentence", ""),
        manifest=files["manifest.json"],
        environment=files["environment.json"],
        evaluation=_read_json(evaluation, spec) if evaluation.is_file() else {},
        windows=_read_windows(windows, spec, judged) if windows.is_file() else None,
    )


def _read_json(path: Path, spec: str) -> dict:
    if not path.is_file():
        raise DataError(f"{spec} is not a finished run: {path.name} is missing; give a run's output_dir")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it does not hold names with values")
    except ValueError as error:
        raise DataError(f"{spec}: {path.name} is damaged: {error}") from None
    return values


def _read_windows(path: Path, spec: str, judged: str) -> pd.DataFrame:
    """Columns item_id, origin, count, square, absolute; the sums are those of the judged row."""
    try:
        columns = ["item_id", "origin", "count", f"square/{judged}", f"absolute/{judged}"]
        table = pd.read_parquet(path, columns=columns)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{spec}: {path.name} is damaged: {str(error).splitlines()[0]}") from None
    table.columns = ["item_id", "origin", "count", "square", "absolute"]
    return table
