"""Masked losses: torch's own on the observed values, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tstune.training.losses import window_losses

LOSSES = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": lambda forecast, target: F.huber_loss(forecast, target, delta=0.5),
}
BATCH, STEPS, TARGETS = 16, 10, 3


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    forecast = torch.randn(BATCH, STEPS, TARGETS, generator=generator, dtype=torch.float64)
    target = torch.randn(BATCH, STEPS, TARGETS, generator=generator, dtype=torch.float64)
    observed = torch.rand(BATCH, STEPS, TARGETS, generator=generator) < 0.7
    return forecast, target, observed


def mean_loss(forecast: torch.Tensor, target: torch.Tensor, observed: torch.Tensor, loss: str) -> torch.Tensor:
    total, count = window_losses(forecast, target, observed, loss, huber_delta=0.5)
    return total.sum() / count.sum()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_is_torchs_on_the_observed_values(data: tuple, loss: str):
    forecast, target, observed = data
    expected = LOSSES[loss](forecast[observed], target[observed])
    torch.testing.assert_close(mean_loss(forecast, target, observed, loss), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_window_has_its_own_sum_and_count(data: tuple, loss: str):
    forecast, target, observed = data
    total, count = window_losses(forecast, target, observed, loss, huber_delta=0.5)
    assert total.shape == count.shape == (BATCH,)
    assert count.tolist() == observed.sum(dim=(1, 2)).tolist()
    for window in range(BATCH):
        seen = observed[window]
        expected = LOSSES[loss](forecast[window][seen], target[window][seen]) * seen.sum()
        torch.testing.assert_close(total[window], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_torchs(data: tuple, loss: str):
    forecast, target, observed = data
    ours, theirs = forecast.clone().requires_grad_(), forecast.clone().requires_grad_()
    mean_loss(ours, target, observed, loss).backward()
    LOSSES[loss](theirs[observed], target[observed]).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("garbage", [1e30, -1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unobserved_targets_cost_nothing_and_give_no_gradient(
    data: tuple, loss: str, garbage: float, dtype: torch.dtype
):
    forecast, target, observed = data
    results = []
    for filling in (0.0, garbage):
        leaf = forecast.to(dtype).requires_grad_()
        filled = torch.where(observed, target, filling).to(dtype)
        total, _ = window_losses(leaf, filled, observed, loss)
        total.sum().backward()
        results.append((total.detach(), leaf.grad))
    (total, gradient), (same_total, same_gradient) = results
    assert torch.isfinite(total).all()
    assert torch.equal(same_total, total)
    assert torch.equal(same_gradient, gradient)
    assert (gradient[~observed] == 0).all()
    assert (gradient[observed] != 0).float().mean() > 0.9


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_window_does_not_depend_on_the_others(data: tuple, loss: str):
    forecast, target, observed = data
    total, count = window_losses(forecast, target, observed, loss)
    for window in (0, 7, BATCH - 1):
        alone = slice(window, window + 1)
        single, single_count = window_losses(forecast[alone], target[alone], observed[alone], loss)
        assert single.item() == total[window].item()
        assert single_count.item() == count[window].item()
    others = torch.arange(BATCH) != 7
    disturbed = torch.where(others[:, None, None], forecast * 1e6, forecast)
    assert window_losses(disturbed, target, observed, loss)[0][7] == total[7]
    leaf = forecast.clone().requires_grad_()
    window_losses(leaf, target, observed, loss)[0][7].backward()
    assert (leaf.grad[others] == 0).all()
    assert (leaf.grad[7] != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_of_batches_are_the_sum_of_all(data: tuple, loss: str):
    forecast, target, observed = data
    whole, count = (part.sum() for part in window_losses(forecast, target, observed, loss))
    pieces = [
        window_losses(forecast[rows], target[rows], observed[rows], loss) for rows in (slice(0, 5), slice(5, BATCH))
    ]
    torch.testing.assert_close(sum(total.sum() for total, _ in pieces), whole, rtol=1e-12, atol=0)
    assert sum(number.sum() for _, number in pieces) == count


def test_a_window_without_a_reading_has_no_weight(data: tuple):
    forecast, target, observed = data
    total, count = window_losses(forecast, target, torch.zeros_like(observed), "mse")
    assert total.tolist() == count.tolist() == [0.0] * BATCH


def test_huber_is_square_inside_and_linear_outside_its_delta():
    forecast, target = torch.tensor([[[0.5], [3.0]]]), torch.zeros(1, 2, 1)
    observed = torch.ones(1, 2, 1, dtype=torch.bool)
    total, _ = window_losses(forecast, target, observed, "huber", huber_delta=2.0)
    assert total.item() == pytest.approx(0.5 * 0.5**2 + 2.0 * (3.0 - 1.0))


@pytest.mark.parametrize("loss", LOSSES)
def test_later_steps_lose_weight(data: tuple, loss: str):
    forecast, target, observed = data
    total, count = window_losses(forecast, target, observed, loss, huber_delta=0.5, step_decay=1.5)
    by_hand = torch.arange(1.0, STEPS + 1, dtype=torch.float64) ** -1.5
    by_hand *= STEPS / by_hand.sum()
    steps = [
        window_losses(forecast[:, [h]], target[:, [h]], observed[:, [h]], loss, huber_delta=0.5)[0] * by_hand[h]
        for h in range(STEPS)
    ]
    torch.testing.assert_close(total, torch.stack(steps).sum(0), rtol=1e-12, atol=0)
    assert torch.equal(count, window_losses(forecast, target, observed, loss)[1])
