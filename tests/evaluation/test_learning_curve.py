"""What tuning is expected to bring: the law is found where it holds, and the interval holds what comes true."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.evaluation.learning_curve import fit_law, foretell

FACTS = {"series": 1, "steps": 100, "windows": 50, "untuned_against_ridge": -0.1}
SHARES = (0.05, 0.2, 0.5)


def squares(ratio: float, seed: int, noise: float = 0.02, groups: int = 20) -> np.ndarray:
    """Squared errors by group, of a model with so much of the RMSE of another."""
    hard = np.random.default_rng(0).uniform(50, 150, groups)
    return hard * ratio**2 * np.exp(noise * np.random.default_rng(seed).standard_normal(groups))


def law(share: float, worth: float, exponent: float) -> float:
    return (1 + share / worth) ** -exponent


@pytest.mark.parametrize("worth", [0.01, 0.1])
@pytest.mark.parametrize("exponent", [0.0, 0.05, 0.3])
def test_the_law_is_found_where_it_holds(worth, exponent):
    ratios = np.array([[law(share, worth, exponent) for share in SHARES]])
    found = fit_law(np.array(SHARES), ratios)
    assert law(1.0, found[0][0], found[1][0]) == pytest.approx(law(1.0, worth, exponent), rel=1e-2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("exponent", "reference", "answer"), [(0.1, 1.0, "yes"), (0.0, 0.8, "no"), (0.1, 0.5, "no")])
def test_the_interval_holds_what_comes_true(exponent, reference, answer, seed):
    trained = {share: squares(law(share, 0.05, exponent), 10 * seed + n) for n, share in enumerate(SHARES, start=2)}
    given = ("zero_shot", squares(1.0, 10 * seed)), trained, ("ridge", squares(reference, 10 * seed + 1))
    found = foretell(*given, FACTS, seed)
    assert found.answer == answer
    for share in (1.0, 2.0):
        assert found.curve[share].low <= law(share, 0.05, exponent) / reference - 1 <= found.curve[share].high
    assert found.curve[2.0].change <= found.curve[1.0].change
    assert found.measured.keys() == {0.0, *SHARES}
    assert "ridge" in found.sentence
    assert foretell(*given, FACTS, seed) == found, "the same seed gives the same"


def test_too_few_groups_give_no_interval():
    trained = {share: squares(law(share, 0.05, 0.1), 0, groups=3) for share in SHARES[:2]}
    found = foretell(("a", squares(1.0, 0, groups=3)), trained, ("a", squares(1.0, 0, groups=3)), FACTS)
    assert found.curve[1.0].low is None
    assert found.answer.startswith("too few")
    assert found.curve[1.0].change < 0
    assert found.beside({"test": -0.1})["found"] == {"test": -0.1}
