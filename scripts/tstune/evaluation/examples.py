"""Which windows a report shows: the best, a typical one, the worst, and one that the domain asks for."""

from __future__ import annotations

import numpy as np

from tstune.domains import Domain
from tstune.evaluation.point_metrics import rmse
from tstune.evaluation.scored_windows import ScoredWindows


def choose_examples(windows: ScoredWindows, domain: Domain | None = None) -> list[tuple[str, int]]:
    """(kind, window) of the best, typical and worst RMSE of a window, and of one more that a domain asks for.

    Windows with less than half of their path observed are taken only if there are no others. Typical is the median;
    the domain's is the median of those it names, one that is not shown yet if there is any. A kind without a window of
    its own is left out, so that nothing is shown twice but for the domain's.

    Args:
        windows: of the model that is judged, one target.
        domain: of their unit, if any.
    """
    windows = windows.one_target()
    observed = windows.observed.astype(bool)
    share = observed.mean(axis=1) if len(observed) else np.zeros(0)
    eligible = share >= 0.5 if (share >= 0.5).any() else share > 0
    error = np.asarray(rmse(windows.truth, windows.forecast, observed, axis=1))
    order = np.argsort(error, kind="stable")  # a NaN comes last: what diverged is the worst
    order = order[eligible[order]]
    if not len(order):
        return []
    found: dict[str, int] = {}
    for kind, window in (("typical", _middle(order)), ("best", int(order[0])), ("worst", int(order[-1]))):
        if window not in found.values():
            found[kind] = window
    chosen = [(kind, found[kind]) for kind in ("best", "typical", "worst") if kind in found]
    wanted = domain.example(windows) if domain else None
    if wanted is not None:
        kind, named = wanted
        named = order[named[order]]
        unseen = named[~np.isin(named, list(found.values()))]
        if len(named):
            chosen.append((kind, _middle(unseen if len(unseen) else named)))
    return chosen


def _middle(order: np.ndarray) -> int:
    """The median; of two the lower."""
    return int(order[(len(order) - 1) // 2])
