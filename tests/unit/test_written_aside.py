"""Files that are replaced as a whole."""

from __future__ import annotations

import pytest

from tstune.errors import OutputError
from tstune.runtime.files import aside


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), aside(file) as partial:
        partial.write_text(f"new{1 / 0}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"
    with aside(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"
    with pytest.raises(OutputError, match="cannot be written"), aside(tmp_path / "none" / "file") as partial:
        partial.write_text("new")
