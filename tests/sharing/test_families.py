"""Every family with a network: published folders load alone, and what becomes a graph is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import tiny

import export_model
import publish_model
from tstune.config.validation import validate
from tstune.models.registry import load_model, model_class

sys.path.append(str(Path(__file__).parents[1] / "models"))
from families import FOUNDATION

pytestmark = pytest.mark.slow
REFUSED = {
    ("chronos_t5", "onnx"): "draws its forecast token by token",
    ("chronos_t5", "torch_export"): "draws its forecast token by token",
    ("timesfm", "onnx"): "cannot be written as ONNX",
    ("flowstate", "onnx"): "cannot be written as ONNX",
    ("flowstate", "torch_export"): "it differs from PyTorch",
}
"""(family, format) -> words of the refusal; all others are written."""


@pytest.fixture(scope="module")
def run_of_family(tmp_path_factory):
    desk, runs = tmp_path_factory.mktemp("families"), {}
    tiny.write_series(desk / "series.csv")

    def run(name: str) -> Path:
        if name not in runs:
            runs[name] = desk / "runs" / name
            sections = {
                "model": {"type": name},
                "tuning": {"mode": "lora"},
                "training": {"max_steps": 2, "eval_every_steps": 2},
                "evaluation": {"baselines": [], "report": False},
            }
            values = tiny.recipe(desk / "series.csv", desk, FOUNDATION[name].write(desk / "weights" / name), **sections)
            model_class(name)(validate(values, "test")).fit(output_dir=runs[name])
        return runs[name]

    return run


@pytest.mark.parametrize("name", FOUNDATION)
def test_a_published_folder_forecasts_what_the_run_does(name, run_of_family, tmp_path):
    run = run_of_family(name)
    words = [str(run), "--to-folder", str(tmp_path / "published"), "--licence", "mit"]
    assert publish_model.main(words) == 0
    table = run.parents[1] / "series.csv"
    expected = load_model(run).predict(table)
    assert load_model(tmp_path / "published").predict(table).equals(expected)


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
@pytest.mark.parametrize("name", FOUNDATION)
def test_a_family_is_exported_or_refused_in_one_line(name, form, run_of_family, tmp_path, capsys):
    file = tmp_path / f"{name}.{'onnx' if form == 'onnx' else 'pt2'}"
    code = export_model.main([str(run_of_family(name)), "--format", form, "--output", str(file)])
    said = capsys.readouterr().err
    if (name, form) in REFUSED:
        assert code == 2
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert REFUSED[name, form] in errors[0]
        assert not file.exists()
    else:
        assert code == 0
        assert file.stat().st_size > 0
