"""A frozen backbone stays what it was: its weights bit for bit, and without dropout while the rest learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import tiny

SETTINGS = {"model": {"dropout": 0.5, "head_dropout": 0.5}, "training": {"max_steps": 4}}


def part_of(name: str) -> str:
    (part,) = {"backbone", "decoder", "head"} & set(name.split("."))
    return part


def changed_parts(before: dict, after: dict) -> dict[str, int]:
    """Part -> tensors that are not bit for bit the same."""
    assert before.keys() == after.keys()
    changes = dict.fromkeys(("backbone", "decoder", "head"), 0)
    for name in before:
        changes[part_of(name)] += not torch.equal(before[name], after[name])
    return changes


@pytest.mark.parametrize("mode", ["decoder", "full", "zero_shot"])
def test_what_changes(mode: str, make, stock: Path, tmp_path: Path) -> None:
    untouched = tiny.snapshot(stock)
    make(tuning={"mode": mode}, **SETTINGS).fit(output_dir=tmp_path / "run")
    assert tiny.snapshot(stock) == untouched, "fit leaves the original checkpoint and the data alone"
    before = load_file(stock / "checkpoint" / "model.safetensors")
    changes = changed_parts(before, load_file(tmp_path / "run" / "model" / "model.safetensors"))
    assert changes["backbone"] == (34 if mode == "full" else 0)
    assert (changes["decoder"], changes["head"]) == ((0, 0) if mode == "zero_shot" else (18, 2))


@pytest.mark.parametrize("mode", ["decoder", "full"])
def test_dropout_is_off_where_nothing_learns(mode: str, make) -> None:
    flags: dict[int, set[bool]] = {}

    def note(module: torch.nn.Module, _: tuple) -> None:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            flags.setdefault(id(module), set()).add(module.training)

    model = make(tuning={"mode": mode}, **SETTINGS)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        model.fit()
    finally:
        hook.remove()
    seen: dict[str, set[bool]] = {"backbone": set(), "decoder": set(), "head": set()}
    for name, module in model.module.named_modules():
        parts = seen.keys() & set(name.split("."))
        if parts and any(True for _ in module.parameters()):
            seen[parts.pop()] |= flags.get(id(module), set())
    assert seen["decoder"] == seen["head"] == {True}
    if mode == "full":
        assert seen["backbone"] == {True}
    else:
        assert seen["backbone"] <= {False}, "in eval mode, or its stored features were used"


def test_the_model_ends_in_eval_mode(make) -> None:
    model = make(**SETTINGS)
    model.fit()
    assert not any(module.training for module in model.module.modules())


def test_the_best_weights_are_kept(make, tmp_path: Path, stock: Path) -> None:
    """A learning rate that only harms: the weights training started from are the best and come back."""
    model = make(training={"learning_rate": 50.0, "max_steps": 4, "eval_every_steps": 1, "scheduler": "constant"})
    result = model.fit(output_dir=tmp_path / "run")["training"]
    losses = {row["step"]: row["validation_loss"] for row in result.history if "validation_loss" in row}
    assert list(losses) == [0, 1, 2, 3, 4]
    assert result.best_step == min(losses, key=losses.get) == 0
    before = load_file(stock / "checkpoint" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert changed_parts(before, after) == {"backbone": 0, "decoder": 0, "head": 0}


def test_early_stopping_counts_validations(make) -> None:
    training = {"learning_rate": 50.0, "max_steps": 12, "eval_every_steps": 1, "early_stopping_patience": 2}
    result = make(training=training | {"scheduler": "constant"}).fit()["training"]
    assert result.stopped_early
    assert (result.best_step, result.num_steps) == (0, 2)
