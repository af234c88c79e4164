"""The tiny form of every recipe, one after the other in this process: the same settings, two steps, few windows."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.source_files import write_tiny_data
from support.tiny_weights import write_weights_for
from tstune.config.schema import RunConfig
from tstune.data.defaults import SHIPPED
from tstune.errors import EXIT_DIFFERENT, EXIT_OK, TstuneError
from tstune.recipe_book.recipes import ROOT, Recipe

_STEPS = [
    "training.num_epochs=1",
    "training.max_steps=2",
    "training.per_device_batch_size=8",
    "training.num_workers=0",
    "training.eval_every_steps=2",
    "training.checkpoint_every_minutes=null",
]
_JUDGING = ["evaluation.num_plots=0", "evaluation.report=false"]
_STRIDES = {"cgm_sample": 800, "ett": 800}
_STRIDE = 48
_NOT_OURS = ("timegpt",)
"""Families whose weights are not files."""


@dataclass(frozen=True)
class Smoked:
    """What came of the tiny form of a recipe; `reason` is None if it ran."""

    recipe: str
    seconds: float
    reason: str | None


def run_smoke(recipes: Sequence[Recipe], overrides: Sequence[str] = ()) -> int:
    """Run them, print one line each and the counts; returns the exit code."""
    results = []
    for result in smoke(recipes, overrides):
        results.append(result)
        said = "ok" if result.reason is None else f"failed: {result.reason}"
        print(f"[{len(results)}/{len(recipes)}] {result.recipe}: {said} ({result.seconds:.1f} s)", flush=True)
    num_ok = sum(result.reason is None for result in results)
    seconds = sum(result.seconds for result in results)
    print(f"{len(results)} recipes, {num_ok} ok, {len(results) - num_ok} failed ({seconds:.0f} s)")
    return EXIT_OK if num_ok == len(results) else EXIT_DIFFERENT


def smoke(recipes: Sequence[Recipe], overrides: Sequence[str] = ()) -> Iterator[Smoked]:
    """Run each tiny form in a folder of its own that is gone afterwards."""
    if str(ROOT / "scripts") not in sys.path:  # this runs the scripts themselves
        sys.path.insert(0, str(ROOT / "scripts"))
    with tempfile.TemporaryDirectory() as place:
        desk = _Desk(Path(place))
        for number, recipe in enumerate(recipes):
            begin = time.perf_counter()
            try:
                reason = _run(recipe, desk, Path(place) / f"run{number}", overrides)
            except TstuneError as error:
                reason = " ".join(str(error).split())
            gc.freeze()  # the trainer collects garbage in every run: libraries, loaded by now, are none
            yield Smoked(recipe.name, time.perf_counter() - begin, reason)
        gc.unfreeze()


def tiny_form(recipe: Recipe, data: Path | None, weights: Mapping[str, Path]) -> list[str]:
    """Changes that make a recipe tiny, as ``key=value``.

    Args:
        recipe: what is made tiny.
        data: file or folder in the layout of its source; None leaves `data.path` alone.
        weights: what the keys of a model begin with, see `Recipe.runs` -> checkpoint of its family.
    """
    runs, changes = recipe.runs(), []
    for begin, config in runs.items():
        changes += [f"{begin}{step}" for step in _STEPS]
        if begin in weights:
            changes.append(f"{begin}model.pretrained={weights[begin]}")
        if config.tuning.per_item:
            changes.append(f"{begin}tuning.per_item_epochs=1")
    if recipe.is_pretraining:
        return [*changes, "pretraining.validation_windows=16"]
    config = next(iter(runs.values()))
    stride = _STRIDES.get(config.data.source, _STRIDE)
    changes += [*_JUDGING, *(f"data.{part}_stride={stride}" for part in ("train", "validation", "test"))]
    return changes if data is None else [*changes, f"data.path={data}"]


class _Desk:
    """Data and weights that are written once and shared."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._data: dict[str, Path | None] = {}
        self._weights: dict[str, Path] = {}

    def data(self, config: RunConfig) -> Path | None:
        data = config.data
        name = data.source
        if name == "csv":  # a table has the columns that the recipe names
            name = f"csv-{data.target_columns}-{data.control_columns}-{data.frequency}"
        if name not in self._data:
            self._data[name] = write_tiny_data(data, self._place / "data" / name)
        return self._data[name]

    def weights(self, config: RunConfig) -> Path | None:
        model = config.model
        if model.pretrained in (None, *SHIPPED) or model.type in _NOT_OURS:
            return None
        name = f"{model.type}-{model.context_length}-{model.prediction_length}"
        if name not in self._weights:
            self._weights[name] = write_weights_for(config, self._place / "weights" / name)
        return self._weights[name]


def _run(recipe: Recipe, desk: _Desk, folder: Path, overrides: Sequence[str]) -> str | None:
    """Why it failed, or None."""
    config, runs = recipe.load(), recipe.runs()
    weights = {begin: place for begin, one in runs.items() if (place := desk.weights(one)) is not None}
    changes = tiny_form(recipe, desk.data(config), weights)
    words = ["--config", str(recipe.path), *changes, *overrides, f"output_dir={folder}"]
    script = importlib.import_module(recipe.script(config.model.type).stem)
    said = io.StringIO()
    with _quiet(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = script.main(words)
        except Exception as error:  # a bug of ours is a failed recipe, not the end of the others
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if code != EXIT_OK:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
    sends = "dry run, nothing was sent" in said.getvalue()
    return None if sends or (folder / "metrics.json").is_file() else "no run folder was written"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of the runs away from the list of recipes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
