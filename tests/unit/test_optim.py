"""Schedules against torch and transformers over whole runs; which parameters decay and how fast each part learns."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

from tstune.config.schema import TrainingSection
from tstune.config.validation import validate
from tstune.errors import ConfigError
from tstune.training.optim import SCHEDULES, build_optimizer, learning_rate_factor

PEAK = 3e-3
OPTIMIZERS = typing.get_args(TrainingSection.model_fields["optimizer"].annotation)


def rates_of(scheduler_class: type, num_steps: int, **options: object) -> list[float]:
    """Learning rate of each step under a torch scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = scheduler_class(optimizer, **options)
    rates = []
    for step in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < num_steps - 1:
            scheduler.step()
    return rates


def our_rates(scheduler: str, total_steps: int, warmup: float) -> list[float]:
    return [PEAK * learning_rate_factor(scheduler, step, total_steps, warmup) for step in range(total_steps)]


# Schedules


def test_fault_17_a_schedule_without_a_formula_is_refused():
    assert set(SCHEDULES) == set(typing.get_args(TrainingSection.model_fields["scheduler"].annotation))
    with pytest.raises(ConfigError, match=r"training\.scheduler"):
        validate({"training": {"scheduler": "linear"}}, "recipe.yaml")
    with pytest.raises(KeyError, match="linear"):
        learning_rate_factor("linear", 1, 10, 0.1)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 7, 25, 100, 1013])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.45, 0.9])
def test_one_cycle_is_torchs_over_a_whole_run(total_steps: int, warmup: float):
    if warmup * total_steps == 1.0:
        pytest.skip("torch divides by zero here")
    theirs = rates_of(
        torch.optim.lr_scheduler.OneCycleLR,
        total_steps,
        max_lr=PEAK,
        total_steps=total_steps,
        pct_start=warmup,
        cycle_momentum=False,
    )
    assert our_rates("one_cycle", total_steps, warmup) == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_one_cycle_peaks_at_once_where_torch_divides_by_zero():
    rates = our_rates("one_cycle", 10, 0.1)
    assert rates[0] == PEAK
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(PEAK / 250_000)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 7, 25, 100, 1013])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.45, 0.9])
def test_warmup_cosine_is_that_of_transformers_over_a_whole_run(total_steps: int, warmup: float):
    from transformers import get_cosine_schedule_with_warmup

    theirs = rates_of(
        get_cosine_schedule_with_warmup,
        total_steps,
        num_warmup_steps=round(warmup * total_steps),
        num_training_steps=total_steps,
    )
    assert our_rates("warmup_cosine", total_steps, warmup) == pytest.approx(theirs, rel=1e-9, abs=1e-15)


def test_constant_is_constant():
    assert our_rates("constant", 50, 0.3) == [PEAK] * 50


@pytest.mark.parametrize("scheduler", ["one_cycle", "warmup_cosine", "constant"])
def test_no_factor_leaves_zero_to_one(scheduler: str):
    for total_steps in range(1, 40):
        for percent in range(0, 100, 7):
            factors = [learning_rate_factor(scheduler, step, total_steps, percent / 100) for step in range(total_steps)]
            assert min(factors) >= 0
            assert max(factors) <= 1


# Parameter groups


class Network(nn.Module):
    """Every kind of parameter: matrices, biases, norms, convolution, a lone vector and a lone number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8))
        self.decoder = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear, norm, convolution, batch_norm = self.backbone
        hidden = batch_norm(convolution(norm(linear(x)).unsqueeze(-1))).squeeze(-1)
        return self.head(torch.relu(self.decoder(hidden))) * self.scale + self.shift.mean()


PARTS = ("backbone", "decoder", "head")


def build(module: nn.Module, **section: object) -> torch.optim.Optimizer:
    config = TrainingSection(learning_rate=PEAK, **section)
    return build_optimizer(module, config, PEAK, PARTS)


def group_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, dict]:
    """Name of each parameter in the optimizer -> its group."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}


def test_one_dimensional_parameters_do_not_decay():
    module = Network()
    groups = group_of(build(module, weight_decay=0.2), module)
    assert set(groups) == {name for name, _ in module.named_parameters()}
    decaying = {name for name, group in groups.items() if group["weight_decay"] == 0.2}
    resting = {name for name, group in groups.items() if group["weight_decay"] == 0.0}
    assert decaying == {"backbone.0.weight", "backbone.2.weight", "decoder.weight", "head.weight"}
    assert decaying | resting == set(groups)
    assert {"scale", "shift", "backbone.1.weight", "backbone.3.weight", "head.bias"} <= resting


def test_without_a_gradient_only_matrices_shrink():
    module = Network()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = build(module, weight_decay=0.2)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        expected = before[name] * (1 - PEAK * 0.2) if parameter.ndim >= 2 else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


def test_frozen_parameters_are_left_out_and_every_other_is_in_once():
    module = Network()
    module.backbone.requires_grad_(False)
    optimizer = build(module)
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert len(listed) == len(learning) == 6
    assert {id(parameter) for parameter in listed} == {id(parameter) for parameter in learning}


def test_there_is_no_empty_group():
    module = Network()
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name == "shift"
    assert [len(group["params"]) for group in build(module).param_groups] == [1]


def test_each_part_has_its_own_learning_rate():
    module = Network()
    factors = {"backbone_lr_factor": 0.1, "decoder_lr_factor": 0.5, "head_lr_factor": 2.0}
    groups = group_of(build(module, **factors), module)
    for name, group in groups.items():
        factor = factors.get(f"{name.split('.')[0]}_lr_factor", 1.0)
        assert group["lr_factor"] == factor, name
        assert group["lr"] == pytest.approx(PEAK * factor), name


def test_adamw_is_torchs_step_for_step():
    # no normalisation after a bias here: such a bias has a gradient of pure rounding, which Adam would magnify
    ours, theirs = Network().decoder, Network().decoder
    betas = {"adam_beta1": 0.8, "adam_beta2": 0.95}
    optimizer = build(ours, weight_decay=0.0, **betas)
    reference = torch.optim.AdamW(theirs.parameters(), lr=PEAK, betas=(0.8, 0.95), weight_decay=0.0)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        for module, step in ((ours, optimizer), (theirs, reference)):
            step.zero_grad()
            module(x).square().mean().backward()
            step.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_schema_learns(name: str):
    module = Network()
    optimizer = build(module, optimizer=name)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    target = x[:, :2].square()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_all_optimizers_were_tried():
    assert len(OPTIMIZERS) >= 5
    assert OPTIMIZERS[0] == "adamw"
