"""Which windows a report shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glucose.glucose_windows import glucose_windows

from tstune.domains import Domain, domain_of
from tstune.errors import DataError
from tstune.evaluation.record import choose_examples
from tstune.evaluation.scored_windows import ScoredWindows


class Below(Domain):
    """A domain that shows windows with an observed reading below a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def example(self, windows: ScoredWindows) -> tuple[str, np.ndarray]:
        return "low", (windows.observed & (windows.truth < self.limit)).any(axis=1)


def windows(errors, truth=100.0, observed=None) -> ScoredWindows:
    """A window of four steps for each error."""
    truth = np.broadcast_to(np.asarray(truth, float).reshape(-1, 1), (len(errors), 4)).copy()
    forecast = truth + np.asarray(errors, float)[:, None]
    seen = np.ones(truth.shape, bool) if observed is None else np.arange(4) < np.asarray(observed)[:, None]
    return ScoredWindows(truth, forecast, seen)


def test_best_typical_and_worst():
    assert choose_examples(windows([5, 1, -9, 3, 2])) == [("best", 1), ("typical", 3), ("worst", 2)]
    assert choose_examples(windows([4, 4, 4])) == [("best", 0), ("typical", 1), ("worst", 2)]


def test_each_is_of_another_item_where_there_are_several():
    def chosen(items: list[int]) -> list[tuple[str, int]]:
        return choose_examples(replace(windows([1, 2, 3, 4, 5, 6]), item=np.array(items)))

    assert chosen([0, 0, 0, 1, 0, 2]) == [("best", 0), ("typical", 3), ("worst", 5)]
    assert chosen([0, 1, 2, 2, 0, 0]) == [("best", 0), ("typical", 1), ("worst", 3)], "the worst of the others"
    assert chosen([0, 0, 0, 0, 1, 1]) == [("best", 0), ("typical", 2), ("worst", 5)], "two items"


def test_that_of_a_domain_is_the_median_of_those_that_is_not_shown_yet():
    data = windows([1, 2, 3, 4, 5, 6, 7], [100, 60, 60, 60, 100, 60, 60])
    assert choose_examples(data, Below(70)) == [("best", 0), ("typical", 3), ("worst", 6), ("low", 2)]
    assert choose_examples(data, Below(50)) == [("best", 0), ("typical", 3), ("worst", 6)]
    alone = windows([1, 2, 3], [100, 60, 100])
    assert choose_examples(alone, Below(70))[-1] == ("low", 1), "shown twice rather than not at all"


def test_a_low_reading_that_was_not_observed_is_none():
    data = windows([1, 2, 3, 4], 100)
    data.truth[1, 3] = 40
    assert choose_examples(data, Below(70))[-1] == ("low", 1)
    data.observed[1, 3] = False
    assert [kind for kind, _ in choose_examples(data, Below(70))] == ["best", "typical", "worst"]


def test_windows_with_few_readings_only_if_there_are_no_others():
    assert choose_examples(windows([1, 2, 3, 4, 5], observed=[1, 4, 2, 3, 0])) == [
        ("best", 1),
        ("typical", 2),
        ("worst", 3),
    ]
    assert choose_examples(windows([1, 2, 3, 4], observed=[1, 0, 1, 1])) == [("best", 0), ("typical", 2), ("worst", 3)]
    assert choose_examples(windows([1, 2], observed=[0, 0]), Below(70)) == []


def test_few_windows_are_shown_once():
    assert choose_examples(windows([3])) == [("typical", 0)]
    assert choose_examples(windows([3, 1])) == [("typical", 1), ("worst", 0)]


def test_what_diverged_is_the_worst():
    assert choose_examples(windows([3, np.nan, 1, 2]))[-1] == ("worst", 1)


def test_on_windows_of_a_run():
    data = glucose_windows()["fine_tuned"]
    glucose = domain_of("mg/dL")
    chosen = choose_examples(data, glucose)
    assert [kind for kind, _ in chosen] == ["best", "typical", "worst", "hypo"]
    assert chosen == choose_examples(data, glucose)
    low = dict(chosen)["hypo"]
    assert np.nanmin(data.truth[low][data.observed[low]]) < 70
    assert np.mean(data.observed[low]) >= 0.5
    two = np.repeat(data.truth, 2, axis=2)
    with pytest.raises(DataError, match="these windows have 2"):
        choose_examples(ScoredWindows(two, two, np.isfinite(two)))
