"""Tiny series, tiny checkpoints and the settings that train on them in a second or two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from support.tiny_weights import ARCHITECTURE, CONTEXT, PREDICTION
from support.tiny_weights import write_ttm as write_checkpoint
from tstune.config.names import merged

__all__ = ["ARCHITECTURE", "CONTEXT", "PREDICTION", "merged", "write_checkpoint"]

ROWS, ITEMS = 400, ("a", "b")


def series(rows: int = ROWS, items: tuple[str, ...] = ITEMS, seed: int = 0) -> pd.DataFrame:
    """Noisy hourly sine waves in long form, with a past-only and a known-future column.

    The load follows the plan (known ahead) and, two steps later, the dose (known afterwards).
    """
    random = np.random.default_rng(seed)
    tables = []
    for number, item in enumerate(items):
        hours = np.arange(rows)
        plan = (random.random(rows) < 0.2).astype(float)
        dose = random.random(rows)
        load = 20 + 5 * np.sin(2 * np.pi * (hours + 3 * number) / 24) + random.normal(0, 0.5, rows)
        load += 2 * plan + np.roll(dose, 2)
        stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
        table = pd.DataFrame({"item_id": item, "timestamp": stamps, "load": load, "dose": dose, "plan": plan})
        tables.append(table)
    return pd.concat(tables, ignore_index=True).round(4)


def write_series(path: Path, **options: object) -> Path:
    """Write `series` as CSV."""
    series(**options).to_csv(path, index=False)
    return path


def recipe(csv: Path, output_dir: Path, pretrained: Path | None = None, **sections: Mapping | object) -> dict:
    """A complete run of one to two seconds; a section given as keyword is merged over it."""
    values = {
        "model": {
            "pretrained": None if pretrained is None else str(pretrained),
            "context_length": CONTEXT,
            "prediction_length": PREDICTION,
        },
        "data": {
            "source": "csv",
            "path": str(csv),
            "item_id_column": "item_id",
            "target_columns": ["load"],
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "tuning": {"mode": "decoder"},
        "training": {
            "max_steps": 6,
            "per_device_batch_size": 32,
            "learning_rate": 0.01,
            "log_every_steps": 1,
            "eval_every_steps": 3,
        },
        "evaluation": {"horizons": ["1h", "8h"], "num_plots": 0},
        "output_dir": str(output_dir),
        "seed": 7,
    }
    if pretrained is None:
        values["tuning"]["mode"] = "from_scratch"
        fixed = ("context_length", "prediction_length", "patch_stride", "scaling", "loss", "num_input_channels")
        values["model"] |= {name: value for name, value in ARCHITECTURE.items() if name not in fixed}
    return merged(values, sections)


def write_recipe(path: Path, values: Mapping) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    return path


def write_desk(folder: Path, **sections: Mapping | object) -> Path:
    """Write series.csv, checkpoint/ and a recipe.yaml that runs on them; returns the folder."""
    csv, checkpoint = write_series(folder / "series.csv"), write_checkpoint(folder / "checkpoint")
    write_recipe(folder / "recipe.yaml", recipe(csv, folder / "unused", checkpoint, **sections))
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Every path under a folder with the hash of its content, to prove that nothing changed."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def read_json(path: Path) -> dict:
    """Read a JSON file that must be valid JSON, so without NaN."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=partial(_reject, path))


def _reject(path: Path, constant: str) -> None:
    raise AssertionError(f"{path} holds {constant}, which is not JSON")
