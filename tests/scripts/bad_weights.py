"""Checkpoints that are not what the run needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bad_input import Case, edit_json, remove_file, truncate, write_file
from support import tiny

_BERT = json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 128, "vocab_size": 1000})


def _weights_of_a_wider_model(folder: Path) -> None:
    wider = tiny.write_checkpoint(folder / "wider", d_model=32)
    shutil.copy(wider / "model.safetensors", folder / "checkpoint" / "model.safetensors")


def _packed_base_of_a_run(folder: Path) -> None:
    (folder / "earlier_run").mkdir()
    shutil.copytree(folder / "checkpoint", folder / "earlier_run" / "model")
    (folder / "earlier_run" / "config.yaml").write_text("model: {quantization: nf4}\n")


CASES = (
    Case(
        "name of weights that do not ship",
        "Hub id while offline",
        ("model.pretrained=builtin:glukose", "set one of builtin, builtin:glucose"),
        ("model.pretrained=builtin:glukose",),
    ),
    Case(
        "longer context than the checkpoint",
        "checkpoint of other shape or architecture",
        ("checkpoint", "context_length 32", "asks for 64", "set model.context_length=32"),
        ("model.context_length=64",),
    ),
    Case(
        "wider model than the checkpoint",
        "checkpoint of other shape or architecture",
        ("checkpoint", "d_model 16", "asks for 32", "leave out model.d_model"),
        ("model.d_model=32",),
    ),
    Case(
        "other patches than the checkpoint",
        "checkpoint of other shape or architecture",
        ("checkpoint", "patch_length 8", "asks for 4", "leave out model.patch_length"),
        ("model.patch_length=4",),
    ),
    Case(
        "checkpoint of a BERT",
        "checkpoint of other shape or architecture",
        ("checkpoint", "bert model", "not a Tiny Time Mixer"),
        (),
        write_file("checkpoint/config.json", _BERT),
    ),
    Case(
        "weights of a wider model beside this config",
        "checkpoint of other shape or architecture",
        ("checkpoint", "do not fit", "backbone.", "files of two models"),
        (),
        _weights_of_a_wider_model,
    ),
    Case(
        "truncated weights",
        "checkpoint of other shape or architecture",
        ("checkpoint", "weights cannot be read"),
        (),
        truncate("checkpoint/model.safetensors"),
    ),
    Case(
        "empty weights",
        "checkpoint of other shape or architecture",
        ("checkpoint/model.safetensors is damaged",),
        (),
        write_file("checkpoint/model.safetensors", b""),
    ),
    Case(
        "weights that are not there",
        "missing file",
        ("checkpoint", "weights cannot be read", "model.safetensors"),
        (),
        remove_file("checkpoint/model.safetensors"),
    ),
    Case(
        "config that is not there",
        "missing file",
        ("checkpoint", "config.json"),
        (),
        remove_file("checkpoint/config.json"),
    ),
    Case(
        "config that is no JSON",
        "checkpoint of other shape or architecture",
        ("checkpoint/config.json is damaged",),
        (),
        write_file("checkpoint/config.json", "{context_length: 32"),
    ),
    Case(
        "config with text for a number",
        "checkpoint of other shape or architecture",
        ("checkpoint", "cannot be read"),
        (),
        edit_json("checkpoint/config.json", d_model="wide"),
    ),
    Case(
        "run folder with an adapter on a packed base",
        "missing file",
        ("earlier_run", "no whole model", "earlier_run/model"),
        ("model.pretrained={folder}/earlier_run",),
        _packed_base_of_a_run,
    ),
    Case(
        "Hub id without a network",
        "Hub id while offline",
        ("nobody/nothing", "not a folder", "the network", "folder of a downloaded checkpoint"),
        ("model.pretrained=nobody/nothing",),
    ),
    Case(
        "the published Hub id without a network",
        "Hub id while offline",
        ("ibm-granite/granite-timeseries-ttm-r2", "not a folder", "the network", "folder of a downloaded checkpoint"),
        (
            "model.pretrained=ibm-granite/granite-timeseries-ttm-r2",
            "model.context_length=90",
            "data.split.train=0.4",
            "data.split.validation=0.3",
            "data.split.test=0.3",
        ),
    ),
    Case(
        "lengths no published TTM has",
        "Hub id while offline",
        ("ibm-granite/granite-timeseries-ttm-r2", "model.context_length", "32"),
        ("model.pretrained=ibm-granite/granite-timeseries-ttm-r2",),
    ),
    Case(
        "name that is no Hub id",
        "Hub id while offline",
        ("a/b/c", "not a folder", "check the name"),
        ("model.pretrained=a/b/c",),
    ),
    Case(
        "zero shot with a longer forecast",
        "zero_shot without weights",
        ("tuning.mode=zero_shot", "2 tensors", "head.base_forecast_block.weight", "prediction length"),
        ("tuning.mode=zero_shot", "model.prediction_length=12"),
    ),
    Case(
        "zero shot with a column the checkpoint never saw",
        "zero_shot without weights",
        ("tuning.mode=zero_shot", "tensors", "decoder.", "channels"),
        ("tuning.mode=zero_shot", "data.conditional_columns=[dose]"),
    ),
    # from scratch
    Case(
        "patches that do not fill the context",
        "wrong value",
        ("model.context_length=32", "not several times", "model.patch_length=7"),
        ("model.pretrained=null", "model.patch_length=7"),
    ),
    Case(
        "width that does not halve",
        "wrong value",
        ("model.d_model=18", "multiple of 4", "model.adaptive_patching_levels=3"),
        ("model.pretrained=null", "model.patch_length=8", "model.d_model=18", "model.adaptive_patching_levels=3"),
    ),
    Case(
        # granite-tsfm builds such a model without its adaptive levels and says so in a log line only
        "width too small for the levels",
        "wrong value",
        ("model.d_model=8", "model.adaptive_patching_levels=2"),
        ("model.pretrained=null", "model.patch_length=8", "model.d_model=8", "model.adaptive_patching_levels=2"),
    ),
)
