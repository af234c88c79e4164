"""An exported file forecasts what PyTorch and `predict` do, and holds nothing of this machine."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from support import tiny
from support.browser import CHROMEDRIVER, CHROMIUM, open_browser

import export_model as script
import tstune.export.export_model as exporting
from tstune.config.validation import validate
from tstune.errors import CheckpointError, ConfigError
from tstune.export.export_model import RUNNERS, TOLERANCE, Exported, export_model, make_examples
from tstune.export.graph import choose_item
from tstune.models.registry import load_model, model_class

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["plain", "covariates", "lora", "quantile_head", "chronos_bolt", "chronos2"]
FAST = {("onnx", "plain")}


@pytest.fixture(scope="module")
def exported(run_of, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(kind: str, form: str) -> Exported:
        if (kind, form) not in made:
            made[kind, form] = export_model(load_model(run_of(kind)), form, folder / kind)
        return made[kind, form]

    return export


CASES = [
    pytest.param(form, kind, marks=[] if (form, kind) in FAST else [pytest.mark.slow])
    for form in RUNNERS
    for kind in KINDS
]


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_the_file_forecasts_what_pytorch_does(form, kind, exported, run_of):
    found = exported(kind, form)
    assert [difference.batch_size for difference in found.differences] == [1, 3, 64]
    assert found.worst.relative < TOLERANCE
    assert found.num_bytes == found.path.stat().st_size > 0
    model, run = load_model(run_of(kind)), RUNNERS[form](found.path)
    examples = make_examples(model, 7, seed=11)  # a batch size that was not checked
    assert torch.isnan(examples.inputs["past"]).any()
    with torch.inference_mode():
        expected = [model.forecast(examples.batch)]
        if model.quantile_levels:
            expected.append(model.forecast_quantiles(examples.batch, expected[0]))
    outputs = run(examples.inputs)
    assert found.outputs == ("forecast", "quantiles")[: len(expected)]
    for values, wanted in zip(outputs, expected, strict=True):
        assert values.shape == tuple(wanted.shape)
        scale = max(model.preprocessor.scaler.std[0], wanted.abs().max().item())
        assert np.abs(values - wanted.numpy()).max() < TOLERANCE * scale
    assert b"tests/sharing" not in found.path.read_bytes()
    for place in (str(ROOT), str(found.path.parent), sys.prefix, "site-packages"):
        assert place.encode() not in found.path.read_bytes()


@pytest.mark.slow
def test_the_file_says_what_it_reads(exported):
    session = onnxruntime.InferenceSession(str(exported("covariates", "onnx").path))
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    waves = ["hour_of_day_sin", "hour_of_day_cos"]
    assert facts["past_channels"] == ["load", "dose", "plan", "age", *waves]
    assert facts["future_channels"] == ["plan", "age", *waves]
    assert facts["static_columns"] == ["site"]
    assert facts["static_codes"] == [["unknown", "ax", "bx"]]
    assert (facts["context_length"], facts["prediction_length"]) == (tiny.CONTEXT, tiny.PREDICTION)
    assert (facts["targets"], facts["frequency"], facts["missing"], facts["max_gap"]) == (["load"], "h", "NaN", 2)
    assert {entry.name: entry.shape[1:] for entry in session.get_inputs()} == {
        "past": [tiny.CONTEXT, 6],
        "future": [tiny.PREDICTION, 4],
        "static": [1],
    }
    assert session.get_modelmeta().custom_metadata_map["opset"] == "20"


def test_gaps_are_filled_as_in_predict(exported, run_of, readings):
    expected = load_model(run_of("plain")).predict(readings)["load"].to_numpy().reshape(2, tiny.PREDICTION)
    past = readings["load"].to_numpy(np.float32).reshape(2, tiny.CONTEXT, 1)
    assert np.isnan(past).any()
    [found] = RUNNERS["onnx"](exported("plain", "onnx").path)({"past": torch.from_numpy(past)})
    assert found[..., 0] == pytest.approx(expected, rel=1e-5)


def test_a_missing_end_and_an_empty_context_give_numbers(exported):
    past = torch.full((2, tiny.CONTEXT, 1), 20.0)
    past[0, -6:], past[1] = torch.nan, torch.nan
    [found] = RUNNERS["onnx"](exported("plain", "onnx").path)({"past": past})
    assert np.isfinite(found).all()


def test_fault_15_what_cannot_be_a_reading_is_missing(exported):
    run = RUNNERS["onnx"](exported("plain", "onnx").path)
    past = torch.full((3, tiny.CONTEXT, 1), 20.0) + torch.arange(tiny.CONTEXT)[None, :, None]
    past[:, 5:8] = torch.tensor([torch.nan, torch.inf, -1e30])[:, None, None]
    [found] = run({"past": past})
    assert np.isfinite(found).all()
    assert (found == found[0]).all()


_CONSUMER = """
import runpy, sys
for name in ("torch", "tstune", "transformers"):
    sys.modules[name] = None  # importing it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_consumer_example_needs_onnxruntime_alone(exported, run_of, readings, tmp_path):
    one = readings.query("item_id == 'a'")
    one[["timestamp", "load"]].to_csv(tmp_path / "readings.csv", index=False)
    example = ROOT / "scripts/examples/onnx_forecast.py"
    code = [line for line in example.read_text().partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) <= 24
    command = [sys.executable, "-c", _CONSUMER, example, exported("plain", "onnx").path, tmp_path / "readings.csv"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert answer.returncode == 0, answer.stderr
    (tmp_path / "forecast.csv").write_text(answer.stdout)
    table = pd.read_csv(tmp_path / "forecast.csv")
    expected = load_model(run_of("plain")).predict(one)
    assert table["step"].tolist() == list(range(1, tiny.PREDICTION + 1))
    assert table["load"].to_numpy() == pytest.approx(expected["load"].to_numpy(), rel=1e-5)
    one[["timestamp", "load"]].assign(load=np.inf).to_csv(tmp_path / "readings.csv", index=False)  # fault 15
    answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "error: a reading is infinite; leave cells empty where nothing was read\n"


@pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="chromium or chromedriver is absent: apt-get install chromium chromium-driver",
)
@pytest.mark.skipif(
    not (ROOT / "node_modules" / "onnxruntime-web").is_dir(),
    reason="onnxruntime-web is absent: npm install --no-save onnxruntime-web@1.22.0",
)
def test_the_page_forecasts_in_a_browser_without_a_network(exported, run_of, readings, tmp_path):
    one = readings.query("item_id == 'a'")[["timestamp", "load"]]
    one.to_csv(tmp_path / "readings.csv", index=False)
    one.assign(load=np.inf).to_csv(tmp_path / "infinite.csv", index=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=ROOT))
    Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}/"
    said = "return document.getElementById('forecast').textContent;"
    try:
        with open_browser(tmp_path / "profile") as browser:
            browser.driver.get("about:blank")
            browser.requests()  # what its own first page asked for

            def answer(model: Path, file: str) -> str:
                browser.driver.get(f"{place}scripts/examples/onnx_forecast.html")
                for name, path in (("model", model), ("readings", tmp_path / file)):
                    browser.driver.find_element("id", name).send_keys(str(path))
                return browser.wait_for(said)

            plain = exported("plain", "onnx").path
            table = pd.read_csv(io.StringIO(answer(plain, "readings.csv")))
            wrong = answer(plain, "infinite.csv")
            assert wrong == "error: inf is no reading; leave cells empty where nothing was read"
            asked = [url for url in browser.requests() if url.startswith(("http", "ws"))]
    finally:
        server.shutdown()
        server.server_close()
    expected = load_model(run_of("plain")).predict(one.assign(item_id="a"))
    assert table["step"].tolist() == list(range(1, tiny.PREDICTION + 1))
    assert table["load"].to_numpy() == pytest.approx(expected["load"].to_numpy(), rel=1e-4)
    assert any(url.endswith(".wasm") for url in asked)
    assert all(url.startswith(place) for url in asked), asked


@pytest.mark.slow
def test_a_file_that_forecasts_something_else_is_not_kept(run_of, tmp_path, monkeypatch):
    model = load_model(run_of("plain"))
    runner = RUNNERS["torch_export"]
    off = lambda path: lambda inputs: [values + 1e-3 for values in runner(path)(inputs)]  # noqa: E731
    monkeypatch.setitem(exporting.RUNNERS, "torch_export", off)
    with pytest.raises(CheckpointError, match=r"was not kept: with 1 window\(s\) it differs from PyTorch by"):
        export_model(model, "torch_export", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_adapter_per_item_is_exported_by_item(run_of, readings, tmp_path):
    model = load_model(run_of("per_item"))
    assert model.item_adapters.adapters, "training kept an adapter"
    with pytest.raises(ConfigError, match="an adapter per item, and a file holds one of them: add --item"):
        export_model(model, "onnx", tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="--item nobody is not an item of this model; there are: a, b"):
        choose_item(model, "nobody")
    expected = model.predict(readings)["load"].to_numpy().reshape(2, tiny.PREDICTION)
    past = torch.from_numpy(readings["load"].to_numpy(np.float32).reshape(2, tiny.CONTEXT, 1))
    for number, item in enumerate(("a", "b")):
        model = load_model(run_of("per_item"))
        choose_item(model, item)
        found = export_model(model, "onnx", tmp_path / f"{item}.onnx")
        [values] = RUNNERS["onnx"](found.path)({"past": past[[number]]})
        assert values[0, :, 0] == pytest.approx(expected[number], rel=1e-5)


def test_the_script_writes_and_reports(run_of, tmp_path, capsys):
    arguments = [str(run_of("plain")), "--format", "torch_export", "--output", str(tmp_path)]
    assert script.main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    printed = capsys.readouterr().out
    assert "difference from PyTorch: " in printed
    assert "torch.export" in printed
    assert script.main(arguments) == 2
    assert "model.pt2 exists; add --overwrite" in capsys.readouterr().err
    assert script.main([*arguments, "--overwrite", "--item", "a"]) == 2
    assert "--item a: this model has no adapters per item; leave it out" in capsys.readouterr().err


def test_eight_bits_forecast_about_the_same(run_of, exported, readings, tmp_path, capsys, monkeypatch):
    plain, small = exported("plain", "onnx").path, tmp_path / "small.onnx"
    # the file that becomes smaller is the one above, not traced and written once more
    monkeypatch.setattr(exporting, "trace", lambda *_: None)
    monkeypatch.setitem(exporting.WRITERS, "onnx", lambda graph, program, path, facts: shutil.copy(plain, path))
    arguments = [str(run_of("plain")), "--format", "onnx", "--int8", "--output", str(small)]
    assert script.main(arguments) == 0
    assert "int8: " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    session = onnxruntime.InferenceSession(str(small))
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts.pop("quantization") == "int8"
    whole = onnxruntime.InferenceSession(str(plain)).get_modelmeta().custom_metadata_map
    assert facts == {key: json.loads(value) for key, value in whole.items()}
    weights = onnx.load(small).graph.initializer
    assert sum(len(one.raw_data) for one in weights if one.data_type == onnx.TensorProto.INT8) > 1000
    assert str(tmp_path).encode() not in small.read_bytes()
    past = {"past": torch.from_numpy(readings["load"].to_numpy(np.float32).reshape(2, tiny.CONTEXT, 1))}
    (exact,), (coarse,) = (RUNNERS["onnx"](path)(past) for path in (plain, small))
    assert 0 < np.abs(exact - coarse).max() < 0.1 * readings["load"].std()

    monkeypatch.setattr(exporting, "INT8_LOSS", -1.0)  # a bound that nothing keeps
    assert script.main([*arguments[:-1], str(tmp_path / "other.onnx")]) == 2
    assert "other.onnx was not kept: eight bits raise the error on the validation windows" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, run_of):
    csv = tiny.write_series(tmp_path / "series.csv")
    model = model_class("persistence")(validate(tiny.recipe(csv, tmp_path / "unused"), "test"))
    model.build(model.prepare().preprocessor)
    model.save(tmp_path / "persistence")
    assert script.main([str(tmp_path / "persistence"), "--format", "onnx", "--output", str(tmp_path / "p.onnx")]) == 2
    assert "error: a persistence model has no network of its own to export" in capsys.readouterr().err
    assert script.main([str(run_of("plain")), "--format", "torch_export", "--int8", "--output", "model.pt2"]) == 2
    assert "--int8 makes a smaller ONNX file; take --format onnx instead of torch_export" in capsys.readouterr().err
    assert script.main([str(run_of("plain")), "--format", "onnx", "--output", "model.pt2"]) == 2
    assert "a file of format onnx ends with .onnx" in capsys.readouterr().err
    assert script.main([str(tmp_path), "--format", "onnx", "--output", str(tmp_path / "x.onnx")]) == 2
    assert "is not a run folder: preprocessor.json is missing" in capsys.readouterr().err
