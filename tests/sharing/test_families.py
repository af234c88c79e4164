"""Every family with a network: published folders load alone, and what becomes a graph is known."""

from __future__ import annotations

import pytest
from support.tiny_weights import WRITERS

import export_model
import publish_model
from tstune.models.registry import load_model

pytestmark = pytest.mark.slow
REFUSED = {
    ("chronos_t5", "onnx"): "draws its forecast token by token",
    ("chronos_t5", "torch_export"): "draws its forecast token by token",
    ("timesfm", "onnx"): "cannot be written as ONNX",
    ("flowstate", "onnx"): "cannot be written as ONNX",
    ("flowstate", "torch_export"): "it differs from PyTorch",
}
"""(family, format) -> words of the refusal; all others are written."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_folder_forecasts_what_the_run_does(name, run_of, tmp_path):
    run = run_of(f"family:{name}")
    words = [str(run), "--to-folder", str(tmp_path / "published"), "--licence", "mit"]
    assert publish_model.main(words) == 0
    table = run.parent / "readings-of-patients.csv"
    expected = load_model(run).predict(table)
    assert load_model(tmp_path / "published").predict(table).equals(expected)


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_family_is_exported_or_refused_in_one_line(name, form, run_of, tmp_path, capsys):
    file = tmp_path / f"{name}.{'onnx' if form == 'onnx' else 'pt2'}"
    code = export_model.main([str(run_of(f"family:{name}")), "--format", form, "--output", str(file)])
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if (name, form) in REFUSED:
        assert (code, len(errors), file.exists()) == (2, 1, False)
        assert REFUSED[name, form] in errors[0]
    else:
        assert (code, errors) == (0, [])
        assert file.stat().st_size > 0
