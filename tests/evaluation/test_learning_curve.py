"""What tuning is expected to bring: the law is found where it holds, and the interval holds what comes true."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.evaluation.bootstrap import Interval
from tstune.evaluation.learning_curve import change_of_rmse, fit_law, foretell

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
    came = Interval(-0.1, None, None)
    assert found.beside({"test": came, "validation": None})["found"] == {
        "test": {"change": -0.1, "low": None, "high": None, "same_sign": True},
        "validation": None,
    }
    assert not found.has_sign_of(Interval(0.1, 0.05, 0.2))


@pytest.mark.parametrize(
    ("found", "right"),
    [((-0.1, -0.15, -0.05), True), ((-0.1, -0.3, 0.1), False), ((0.1, 0.05, 0.2), False), ((-0.1, None, None), True)],
)
def test_a_sign_is_right_where_it_is_as_clear(found, right):
    trained = {share: squares(law(share, 0.05, 0.1), 0, noise=0) for share in SHARES}
    told = foretell(("a", squares(1.0, 0, noise=0)), trained, ("a", squares(1.0, 0, noise=0)), FACTS)
    assert told.answer == "yes"
    assert told.has_sign_of(Interval(*found)) is right


def test_one_series_that_decides_alone_says_nothing_for_sure():
    """Of hundreds of series one is much larger: whatever is drawn, its error is the error."""
    giant = np.array([1e6, *np.ones(300)])
    shares = {0.05: giant, 0.2: giant * np.array([0.7, *np.ones(300)])}
    found = foretell(("a", giant), shares, ("a", giant), FACTS)
    assert found.answer == "it may"
    assert found.curve[1.0].low < -0.9
    assert "over +1000%)" in found.sentence


def test_a_change_from_groups_is_paired():
    groups = squares(1.0, 0, noise=0)
    found = change_of_rmse(0.81 * groups, groups)
    assert (found.change, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert change_of_rmse([1.0], [1.0]).low is None
