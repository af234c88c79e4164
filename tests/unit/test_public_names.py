"""Every public name of the package is there."""

from __future__ import annotations

import pytest

import tstune


@pytest.mark.parametrize("name", tstune.__all__)
def test_it_can_be_imported(name: str) -> None:
    assert getattr(tstune, name) is not None


def test_they_are_listed() -> None:
    assert dir(tstune) == tstune.__all__
    assert len(tstune.__all__) >= 40
