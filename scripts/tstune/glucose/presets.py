"""Published splits: dates and participants, so that a score can stand beside published ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSplit:
    """A split by time and by participant.

    Attributes:
        borders_at: last day of train, validation and test; None is the end of the series.
        seen: participants that are trained on, validated on and tested.
        train_only: participants that are trained on and validated on, but not tested.
        unseen: participants that are only tested.
    """

    borders_at: tuple[str, str, str | None]
    seen: frozenset[str]
    train_only: frozenset[str]
    unseen: frozenset[str]

    def role(self, item_id: str) -> str | None:
        """``seen``, ``train_only`` or ``unseen``; None for an item that the split leaves out. Case does not matter."""
        name = item_id.upper()
        return next((role for role in ("seen", "train_only", "unseen") if name in getattr(self, role)), None)


# The Kaggle competition BrisT1D: p03 has no test rows, and P07, P13, P17, P23 of the open data take no part.
PRESETS: dict[str, PublishedSplit] = {
    "brist1d": PublishedSplit(
        borders_at=("2023-08-17", "2023-08-31", None),
        seen=frozenset({"P01", "P02", "P04", "P05", "P06", "P10", "P11", "P12"}),
        train_only=frozenset({"P03"}),
        unseen=frozenset({"P15", "P16", "P18", "P19", "P21", "P22", "P24"}),
    )
}
"""Name in `data.split.preset` -> split."""


def presets() -> dict[str, PublishedSplit]:
    """`PRESETS`, as a hook."""
    return PRESETS
