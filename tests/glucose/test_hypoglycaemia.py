"""Hypoglycaemia by window: labels by hand, scores against brute force and scoringrules, probabilities against SciPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scoringrules
from report.sample_run import write_run
from scipy.stats import norm

from tstune.errors import DataError
from tstune.glucose.hypoglycaemia import (
    distance_score,
    judged_windows,
    low_windows,
    probability_below,
    probability_score,
    window_scores,
)
from tstune.runs.report import write_report

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])


def labelled(seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    low = random.random(200) < 0.15
    score = random.normal(low.astype(float), 1)
    return low, np.round(score) if ties else score


def test_windows_by_hand():
    truth = np.array([[5.0, 3.8, 6.0], [5.0, 3.9, 6.0], [5.0, 3.0, 6.0], [9.0, 9.0, 9.0]])
    observed = np.array([[True] * 3, [True] * 3, [True, False, True], [False] * 3])
    assert low_windows(truth, observed, 3.9).tolist() == [True, False, False, False]
    assert judged_windows(observed, 3.9).tolist() == [True, True, True, False]
    last = np.array([3.8, 3.9, np.nan, 5.0])
    assert judged_windows(observed, 3.9, last).tolist() == [False, True, True, False]
    np.testing.assert_allclose(distance_score(truth, 3.9), [0.1, 0.0, 0.9, -5.1])


def test_more_than_one_target_is_refused():
    with pytest.raises(DataError, match=r"on one target, \[windows, steps\], not on shape \(2, 3, 1\)"):
        low_windows(np.ones((2, 3, 1)), np.ones((2, 3), bool), 3.9)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_auprc_by_brute_force(ties):
    low, score = labelled(ties=ties)
    found = window_scores(low, score)
    pairs = score[low][:, None] - score[~low][None]
    assert found["auroc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    thresholds = np.unique(score)[::-1]
    recall = [low[score >= t].sum() / low.sum() for t in thresholds]
    precision = [low[score >= t].mean() for t in thresholds]
    assert found["auprc"] == pytest.approx(np.sum(np.diff(recall, prepend=0) * precision))
    assert found["base_rate"] == low.mean()
    assert (found["num_windows"], found["num_low"]) == (200, low.sum())


def test_brier_against_scoringrules():
    low, score = labelled()
    probability = norm.cdf(score - 1)
    found = window_scores(low, score, probability)
    assert found["brier"] == pytest.approx(scoringrules.brier_score(low.astype(float), probability).mean(), rel=1e-12)
    constant = np.full(200, low.mean())
    expected = scoringrules.brier_score(low.astype(float), constant).mean()
    assert found["brier_of_base_rate"] == pytest.approx(expected)
    assert window_scores(low, score)["brier"] == pytest.approx(((score > 0) != low).mean())


@pytest.mark.parametrize("low", [np.zeros(5, bool), np.ones(5, bool), np.zeros(0, bool)])
def test_one_kind_of_window_has_no_auroc(low):
    found = window_scores(low, np.arange(float(len(low))))
    assert np.isnan([found["auroc"], found["auprc"]]).all()
    assert np.isnan(found["brier"]) == (len(low) == 0)


def test_a_score_that_is_not_a_number_has_no_auroc():
    low, score = labelled()
    score[3] = np.nan
    assert np.isnan(window_scores(low, score)["auroc"])


# Probability from quantiles


def test_probability_of_a_normal_distribution():
    centre, spread = np.array([5.0, 6.0, 4.0, 12.0, 3.0]), np.array([1.0, 2.0, 0.3, 1.5, 0.5])
    levels = np.arange(1, 20) / 20
    quantiles = centre[:, None] + spread[:, None] * norm.ppf(levels)
    found = probability_below(quantiles, levels, 3.9)
    np.testing.assert_allclose(found, norm.cdf((3.9 - centre) / spread), atol=0.012)
    np.testing.assert_allclose(1 - probability_below(-quantiles[:, ::-1], levels, -3.9), found, atol=1e-9)


def test_probability_at_and_between_quantiles():
    quantiles = np.array([4.0, 5.0, 6.0, 8.0, 9.0])
    assert [probability_below(quantiles, LEVELS, limit) for limit in (4, 5, 5.5, 7, 9)] == pytest.approx(
        [0.1, 0.25, 0.375, 0.625, 0.9]
    )


def test_probability_rises_with_the_limit_and_never_leaves_zero_and_one():
    quantiles = np.sort(np.random.default_rng(0).normal(6, 1.5, (50, 5)), axis=1)
    limits = np.linspace(-10, 30, 400)
    found = np.array([probability_below(quantiles, LEVELS, limit) for limit in limits])
    assert (np.diff(found, axis=0) >= -1e-12).all()
    assert found.min() >= 0
    assert found.max() <= 1
    step = np.abs(np.diff(found, axis=0)) / np.diff(limits)[:, None]
    assert step.max() < 1.1 * np.diff(LEVELS).max() / np.diff(quantiles, axis=1).min(), "no jump anywhere"


def test_windows_far_above_the_limit_still_differ():
    quantiles = np.array([[8.0, 9, 10, 11, 12], [9.0, 10, 11, 12, 13], [20.0, 21, 22, 23, 24]])
    found = probability_below(quantiles, LEVELS, 3.9)
    assert found[0] > found[1] > found[2] > 0
    assert found[0] < 0.01


def test_equal_quantiles_are_a_step():
    quantiles = np.array([5.0, 5.0, 5.0, 5.0, 5.0])
    assert probability_below(quantiles, LEVELS, 4.99) == pytest.approx(0)
    assert probability_below(quantiles, LEVELS, 5.01) == pytest.approx(1)
    one = probability_below(np.array([[5.0], [3.0]]), [0.5], 3.9)
    assert one.tolist() == [0.0, 0.5]


def test_the_score_of_a_window_is_its_riskiest_step():
    quantiles = np.array([[[8.0, 9, 10, 11, 12], [4.0, 5, 6, 7, 8]]])
    assert probability_score(quantiles, LEVELS, 4.0) == pytest.approx([0.1])
    assert np.isnan(probability_score(quantiles * np.nan, LEVELS, 4.0)).all()


# The report where there is nothing to warn of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", items=2, num_examples=2)


def hypoglycaemia(folder: Path, change) -> str:
    """The section of the report after a change of its values."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for below in evaluation["glucose"]["hypo"].values():
        change(below)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    write_report(folder)
    return (folder / "report.md").read_text().partition("## Hypoglycaemia\n")[2].partition("\n## ")[0]


def without_lows(windows: dict) -> None:
    for found in windows.values():
        found |= {"num_low": 0, "base_rate": 0.0, "auroc": None, "auprc": None, "brier": 0.0}


def test_hypoglycaemia_without_lows_is_one_line(folder):
    def change(below: dict) -> None:
        below["events"] = None
        for windows in (below["windows"], *below["windows_up_to"].values()):
            without_lows(windows)

    text = hypoglycaemia(folder, change)
    line = "windows holds a reading below the limit: there is nothing to warn of."
    assert text.count(line) == 2, "once for each limit"
    assert "|" not in text
    assert (folder / "report.html").read_text().count("Average precision") == 0


def test_a_span_without_lows_has_no_table(folder):
    text = hypoglycaemia(folder, lambda below: without_lows(below["windows_up_to"]["30min"]))
    assert "0 of " in text
    assert "Warnings by window, next 30" not in text
    assert text.count("Warnings by window, whole 8") == 2
