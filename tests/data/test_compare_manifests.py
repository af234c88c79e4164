"""Two runs' manifests side by side: same data, or what differs first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data.series import CONTEXT, PREDICTION, people, prepare, table

import compare_manifests
from tstune.config.schema import DataSection
from tstune.data.prepared import prepare_data
from tstune.data.table import ITEM


def compared(capsys: pytest.CaptureFixture, left: Path, right: Path) -> list[str]:
    assert compare_manifests.main([str(left), str(right)]) == 0
    return capsys.readouterr().out.splitlines()


def write(folder: Path, manifest: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base", prepare(people(3)).manifest)


def test_the_same_data(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    other = write(tmp_path / "other", prepare(people(3)).manifest)
    assert compared(capsys, base, other) == ["same data"]
    assert compared(capsys, base / "manifest.json", other) == ["same data"]
    other = write(tmp_path / "no_gaps", prepare(people(3), max_gap=0).manifest)  # there are none to fill
    assert compared(capsys, base, other) == ["same data"]


@pytest.mark.parametrize(
    ("split", "section", "first", "parts"),
    [
        ({"mode": "deployment"}, {}, "split, windows", ("split.mode: A strict, B deployment",)),
        ({"purge": "1h"}, {}, "split, windows", ("split.purge_steps: A 0, B 12", "P01 borders: A [1050,")),
        ({"by": "both"}, {}, "unseen participants, split", ("  only B: P0", "split.by: A time, B both")),
        ({}, {"test_stride": 12}, "window, windows", ("window.strides.test: A 1, B 12",)),
        ({"allow_overlap": True}, {}, "split", ("split.allow_overlap: A False, B True",)),
    ],
)
def test_other_settings(split: dict, section: dict, first: str, parts: tuple[str, ...], base: Path, tmp_path, capsys):
    lines = compared(capsys, base, write(tmp_path / "other", prepare(people(3), split, **section).manifest))
    assert lines[0].startswith(f"different data: {first}")
    assert [part for part in parts if part not in "\n".join(lines)] == []
    assert lines[1:3] == [f"A = {base}", f"B = {tmp_path / 'other'}"]


def test_other_people_come_first(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    series = people(3)
    others = {"P02": series["P02"], "P03": series["P03"], "P9": series["P01"]}
    other = write(tmp_path / "other", prepare(others).manifest)
    lines = compared(capsys, base, other)
    assert lines[0].startswith("different data: participants")
    assert "  only A: P01" in lines
    assert "  only B: P9" in lines


def test_other_readings_of_the_same_people(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    series = people(3)
    series["P02"] = series["P02"][::-1].copy()
    lines = compared(capsys, base, write(tmp_path / "other", prepare(series).manifest))
    assert lines[0] == "different data: trained_on"
    assert "  other readings or times in train or validation: P02" in lines


def test_files_are_compared_by_content(tmp_path: Path, capsys: pytest.CaptureFixture):
    runs = []
    for name, last in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "people.csv"
        frame = table(people(2)).frame
        frame.iloc[-1, -1] += last
        frame.to_csv(path, index=False)
        section = {"source": "csv", "path": str(path), "item_id_column": ITEM, "unit": "mg/dL"}
        data = prepare_data(DataSection(**section), CONTEXT, PREDICTION)
        runs.append(write(tmp_path / f"run_{name}", data.manifest))
    assert compared(capsys, runs[0], runs[1]) == ["same data"], "only the folder of the file is another"
    lines = compared(capsys, runs[0], runs[2])
    assert lines[0].startswith("different data: files")
    assert lines[5].startswith("  only A: people.csv (sha256 ")
    assert lines[6].startswith("  only B: people.csv (sha256 ")


def test_where_the_weights_came_from_is_no_other_data(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    manifest = json.loads((base / "manifest.json").read_text()) | {"weights": {"pretrained": "x/model", "overlap": []}}
    lines = compared(capsys, base, write(tmp_path / "other", manifest))
    assert lines[0] == "same data"
    assert "  weights.pretrained: A (not there), B x/model" in lines


def test_many_differences_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture):
    runs = [
        write(tmp_path / name, prepare(people(12), {"purge": purge}).manifest) for name, purge in (("a", 0), ("b", 6))
    ]
    lines = compared(capsys, *runs)
    assert lines[-1] == f"  and {12 * 2 - 5} more", "twelve borders and twelve counts of windows"


def test_a_manifest_of_an_earlier_version(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    old = {"source": "cgm_sample", "windows": {"train": 1}, "num_items": 3}
    lines = compared(capsys, base, write(tmp_path / "old", old))
    assert lines[0].startswith("different data: participants")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "manifest.json is missing; give the output_dir of a finished run"),
        ("{", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged: it does not hold names with values"),
        ("{}", "manifest.json is damaged: the key 'source' is missing"),
    ],
)
def test_what_is_no_run(content: str | None, message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "bad").mkdir()
    if content is not None:
        (tmp_path / "bad" / "manifest.json").write_text(content)
    assert compare_manifests.main([str(base), str(tmp_path / "bad")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_differences_are_found_wherever_they_are(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Whatever leaf of a manifest is changed, the comparison says so."""
    manifest = json.loads((base / "manifest.json").read_text())
    random, silent = np.random.default_rng(0), []
    paths = [path for path in leaves(manifest) if path[0] not in ("leak_check",)]
    for number in random.choice(len(paths), 60, replace=False):
        changed = json.loads(json.dumps(manifest))
        inner = changed
        for key in paths[number][:-1]:
            inner = inner[key]
        inner[paths[number][-1]] = "something else"
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        if not compared(capsys, base, tmp_path / "changed.json")[0].startswith("different data: "):
            silent.append(paths[number])
    assert len(paths) > 100
    assert silent == []


def leaves(values: object, path: tuple = ()) -> list[tuple]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if inner is None:
        return [path]
    return [leaf for key, value in inner for leaf in leaves(value, (*path, key))]
