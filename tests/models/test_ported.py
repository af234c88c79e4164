"""Ports of recipes/ported against the packages they wrap, with tiny random weights; skipped where one is absent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny

from tstune.config.managers import SimpleConfigManager
from tstune.errors import TstuneError
from tstune.models.registry import load_model, model_class

ROOT = Path(__file__).resolve().parents[2]
PORTS = ROOT / "recipes" / "ported"
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_ports_are_short():
    files = sorted(PORTS.glob("*.py"))
    assert [file.name for file in files] == ["tirex_port.py"]
    assert all(len(file.read_text(encoding="utf-8").splitlines()) <= 120 for file in files)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """series.csv and weights/model.ckpt of TiRex, as its library writes them: a context of 64, patches of 4."""
    library = pytest.importorskip("tirex.models.tirex", reason="tirex-ts is absent: pip install --no-deps tirex-ts")
    folder = tmp_path_factory.mktemp("tirex")
    tiny.write_series(folder / "series.csv", rows=320)
    blocks = {"embedding_dim": 16, "num_heads": 2, "num_blocks": 2}
    known = {"input_patch_size": 4, "output_patch_size": 4, "quantiles": LEVELS, "block_kwargs": blocks}
    values = {"model_config": known | {"input_ff_dim": 24}, "train_ctx_len": 64}
    network = library.TiRexZero(backend="torch", **values)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (folder / "weights").mkdir()
    torch.save({"hyper_parameters": values, "state_dict": network.state_dict()}, folder / "weights" / "model.ckpt")
    sys.path.insert(0, str(PORTS))
    yield folder
    sys.path.remove(str(PORTS))
    sys.modules.pop("tirex_port", None)


def recipe(place: Path, mode: str, **sections: object) -> dict:
    model = {"type": "tirex_port:TiRex", "pretrained": str(place / "weights"), "context_length": tiny.CONTEXT}
    values = tiny.recipe(place / "series.csv", place / mode)
    values |= {"model": model | {"prediction_length": tiny.PREDICTION}, "tuning": {"mode": mode}}
    values |= {"forecast": {"quantiles": [0.1, 0.5, 0.9], "method": "quantile_head"}}
    return tiny.merged(tiny.merged(values, {"training": {"max_steps": 4, "eval_every_steps": 2}}), sections)


def built(place: Path, mode: str, **sections: object):
    path = tiny.write_recipe(place / "recipe.yaml", recipe(place, mode, **sections))
    config = SimpleConfigManager().load_config(str(path), [])
    return model_class(config.model.type)(config)


def test_it_forecasts_as_its_library(place: Path):
    import tirex.models.tirex as library

    model = built(place, "zero_shot")
    data = model.prepare()
    model.build(data.preprocessor)
    batch = data.test.__getitems__([0, 3])
    batch["past_observed_mask"][0, 5:9] = False
    own = library.TiRexZero.from_pretrained(str(place / "weights" / "model.ckpt"), backend="torch", device="cpu")
    past = batch["past_values"].masked_fill(~batch["past_observed_mask"], torch.nan)
    expected, median = own.forecast(context=past[..., 0], prediction_length=tiny.PREDICTION, output_type="torch")
    with torch.inference_mode():
        torch.testing.assert_close(model.forecast(batch)[..., 0], median)
        found = model.native_quantiles(batch)[:, :, 0]
    torch.testing.assert_close(found, expected.sort(dim=-1).values[..., [0, 4, 8]])


@pytest.mark.parametrize("mode", ["zero_shot", "head", "full"])
def test_a_run(place: Path, mode: str):
    import finetune_ttm

    path = tiny.write_recipe(place / f"{mode}.yaml", recipe(place, mode))
    assert finetune_ttm.main(["--config", str(path)]) == 0
    run, series = place / mode, pd.read_csv(place / "series.csv", parse_dates=["timestamp"])
    parameters = tiny.read_json(run / "environment.json")["parameters"]
    head = 16 * 24 + 24 + 24 * 36 + 36 + 16 * 36 + 36
    assert parameters["trainable"] == {"zero_shot": 0, "head": head, "full": parameters["total"]}[mode]
    model = load_model(run)
    found = model.predict(series)
    columns = [column for column in found if "_q" in column]
    assert len(columns) == 3
    assert np.isfinite(found[columns].to_numpy()).all()
    model.save(place / f"{mode} again")
    pd.testing.assert_frame_equal(load_model(place / f"{mode} again").predict(series), found, check_exact=True)
    if mode == "full":
        rows = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
        assert min(losses[1:]) < losses[0], "it learns"
    assert {file.name for file in (run / "model").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tuning": {"mode": "lora"}}, "tuning.mode=zero_shot, head, bias or full"),
        ({"model": {"context_length": 68}}, "model.context_length=64"),
    ],
)
def test_what_it_cannot_do(place: Path, sections: dict, message: str):
    model = built(place, "zero_shot", **sections)
    with pytest.raises(TstuneError, match=message):
        model.build(model.prepare().preprocessor)
