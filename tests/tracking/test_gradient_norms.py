"""The example of a tracker of one's own: its norms are those of the gradients."""

from __future__ import annotations

import json

import pytest
import torch
from support import tiny
from torch import nn

import finetune_ttm
from examples.gradient_norm_tracker import GradientNormTracker


def rows(tracker):
    return [json.loads(line) for line in (tracker.run_folder / "metrics.jsonl").read_text().splitlines()]


def test_norms_of_a_small_network(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[0].weight.requires_grad = False
    tracker = GradientNormTracker(tmp_path)
    tracker.start_experiment("e", {}, "run-1")
    tracker.watch_model(network)
    tracker.log_metrics({"train_loss": 9.0}, 0)  # before the first gradient
    batches = torch.randn(2, 8, 4)
    for batch in batches:  # two batches of one step: gradients add up
        network(batch).square().mean().backward()
    expected = {
        "0": network[0].bias.grad.norm().item(),
        "2": torch.cat([network[2].weight.grad.flatten(), network[2].bias.grad]).norm().item(),
    }
    network.zero_grad()
    tracker.log_metrics({"train_loss": 1.0}, 1)
    tracker.log_metrics({"validation_loss": 2.0}, 1)
    tracker.end_experiment()
    first, logged, validation = rows(tracker)
    assert not [name for name in first if name.startswith("grad_norm/")]
    norms = {name.removeprefix("grad_norm/"): value for name, value in logged.items() if name.startswith("grad_norm/")}
    assert norms == pytest.approx(expected, rel=1e-6)
    assert not [name for name in validation if name.startswith("grad_norm/")]
    assert (logged["train_loss"], logged["step"]) == (1.0, 1)
    assert not network[2].weight._post_accumulate_grad_hooks, "no hook stays"


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_wrappers_do_not_show(wrapper, tmp_path):
    network = nn.ModuleDict({wrapper.rstrip("."): nn.ModuleDict({"head": nn.Linear(2, 1)})})
    tracker = GradientNormTracker(tmp_path)
    tracker.start_experiment("e", {}, "run-1")
    tracker.watch_model(network)
    network[wrapper.rstrip(".")]["head"](torch.ones(1, 2)).sum().backward()
    tracker.log_metrics({"train_loss": 1.0}, 1)
    assert rows(tracker)[0]["grad_norm/head"] == pytest.approx(3**0.5)


def test_named_in_a_recipe(desk, tmp_path):
    settings = [f"output_dir={tmp_path / 'run'}", f"tracking.folder={tmp_path / 'tracked'}", "evaluation.baselines=[]"]
    settings += ["tracking.trackers=[examples.gradient_norm_tracker:GradientNormTracker]"]
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), *settings]) == 0
    (folder,) = (tmp_path / "tracked" / "gradient_norms" / "tstune").iterdir()
    training = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in training if "train_loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    layers = {name.removeprefix("grad_norm/") for name in training[0] if name.startswith("grad_norm/")}
    assert layers, "decoder and head learn"
    assert all("decoder" in layer or "head" in layer for layer in layers)
    for row in training:
        norms = {layer: row[f"grad_norm/{layer}"] for layer in layers}
        assert all(value > 0 for value in norms.values())
        total = sum(value**2 for value in norms.values()) ** 0.5
        assert total == pytest.approx(row["grad_norm"], rel=1e-4), "together the norm that the loop reports"
    assert tiny.read_json(folder / "summary.json")["status"] == "FINISHED"
