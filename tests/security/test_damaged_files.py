"""Every file of a run folder, a checkpoint and an archive, damaged: one line, or the forecast it always gave."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from mutations import ALIASES, damaged
from support import tiny

import finetune_ttm
import predict_forecast
from tstune.config.managers import SimpleConfigManager
from tstune.errors import TstuneError
from tstune.foreign_files import CHECKSUMS, seal
from tstune.models.registry import load_model
from tstune.models.ttm import TTMForecaster
from tstune.registry import ModelRegistry
from tstune.runs.compare.side_by_side import comparison_sections, read_runs
from tstune.runs.report import write_report
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.signals import StopSignal
from tstune.sharing.publish import prepare
from tstune.training.callbacks import History
from tstune.training.checkpoint import Checkpoints, CheckpointStore, find_checkpoint, require_same_run
from tstune.training.loop import _Run

FEW, MANY = 5, 95
AMOUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
LOADED = [
    "config.yaml",
    "preprocessor.json",
    "uncertainty.json",
    "uncertainty.safetensors",
    "model/config.json",
    "model/model.safetensors",
    "adapters/index.json",
    "adapters/00000/adapter_config.json",
    "adapters/00000/adapter_model.safetensors",
    CHECKSUMS,
]
READ = ["manifest.json", "metrics.json", "verdict.json", "environment.json", "evaluation.json", "per_item.json"]
STATE = [
    "learning.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
    "random-rank0.safetensors",
    "random-rank0.json",
    "progress-rank0.json",
    "shared.json",
    "run.json",
    CHECKSUMS,
]


OTHER_MEANING = "input", "the forecast of series"
"""What is said of a folder that is whole and asks for other columns than the table has, or forecasts no number."""


def test_the_fuzz_is_as_much_as_was_promised():
    for examples, promised in ((FEW, 100), (MANY, 2_000)):
        per_file, archives = len(LOADED) + len(STATE), 2 * max(2, examples // 2)
        assert per_file * examples + len(READ) * max(1, examples // 9) + archives >= promised


def fuzz(path: Path, examples: int, check: Callable[[], None]) -> None:
    """Damage the file again and again, call `check` each time, and put it back."""
    whole, tried = path.read_bytes(), []

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=damaged(path))
    def once(content: bytes) -> None:
        tried.append(content)
        try:
            path.write_bytes(content)
            if content != whole:
                check()
        finally:
            path.write_bytes(whole)

    once()
    assert len(tried) >= examples


def refused(action: Callable[[], object], *names: str) -> str | None:
    """The line that says what is wrong and where; None if nothing is. Whatever else is raised is a fault."""
    try:
        action()
    except TstuneError as error:
        said = " ".join(str(error).split())
        assert any(name in said for name in names), said
        return said
    return None


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters and intervals, in run/, and its last checkpoint, in checkpoint-of-run/."""
    desk = tiny.write_desk(tmp_path_factory.mktemp("damaged"))
    tiny.series(rows=60).to_csv(desk / "input.csv", index=False)
    keys = [
        "tuning.mode=lora",
        "tuning.per_item=true",
        "tuning.per_item_epochs=1",
        "lora.rank=2",
        "forecast.quantiles=[0.1,0.5,0.9]",
        "evaluation.baselines=[persistence]",
        "evaluation.report=false",
        f"output_dir={desk / 'run'}",
    ]
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), *keys]) == 0
    return desk


class Training:
    """A training of six steps, and its checkpoint of the last one."""

    def __init__(self, desk: Path, folder: Path) -> None:
        config = SimpleConfigManager().load_config(desk / "recipe.yaml", ["training.ema_decay=0.9"])
        model, manager = TTMForecaster(config), DistributedManager()
        data = model.prepare()
        model.build(data.preprocessor)
        self.store = CheckpointStore(folder, 2, manager)
        plan = Checkpoints(self.store, 6, None, None, {}, StopSignal())
        self._run = _Run(model, (data.train, data.validation), config.training, manager, 0, 64, plan, 1, None)
        self._run.history, self._run.callbacks, self._run.show_progress = History(None, lambda row: None), (), False
        self._run.train(start_counts=True)
        self.checkpoint = self.store.newest()

    def go_on(self) -> dict[str, torch.Tensor]:
        """What resuming does before the next step; the weights that come of it."""
        place = find_checkpoint(str(self.checkpoint), self.store)
        require_same_run(place, self._run.identity)
        self._run._load(place)
        return {name: value.clone() for name, value in self._run.module.state_dict().items()}


@pytest.fixture
def run(desk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(desk / "run", tmp_path / "run"))


@pytest.mark.parametrize("examples", AMOUNTS)
@pytest.mark.parametrize("name", LOADED)
def test_fault_24_a_model_is_loaded_as_it_was_saved_or_not_at_all(name: str, examples: int, run: Path, desk: Path):
    frame = pd.read_csv(desk / "input.csv", parse_dates=["timestamp"])
    forecast = load_model(run).predict(frame)
    sums = (run / CHECKSUMS).read_bytes()

    def check() -> None:
        if refused(lambda: load_model(run), Path(name).name) is None:
            assert name == CHECKSUMS
            pd.testing.assert_frame_equal(load_model(run).predict(frame), forecast)
        if name != CHECKSUMS:  # somebody who means it leaves the checksums out
            (run / CHECKSUMS).unlink()
            try:
                refused(lambda: load_model(run).predict(frame), name, str(run), *OTHER_MEANING)
            finally:
                (run / CHECKSUMS).write_bytes(sums)

    fuzz(run / name, examples, check)


@pytest.mark.parametrize("examples", AMOUNTS)
@pytest.mark.parametrize("name", READ)
def test_fault_24_what_is_said_about_a_run_is_read_or_refused(
    name: str, examples: int, run: Path, desk: Path, tmp_path
):
    registry = ModelRegistry(tmp_path / "registry")
    begin = TTMForecaster(SimpleConfigManager().load_config(desk / "recipe.yaml", [f"model.pretrained={run}"]))

    def check() -> None:
        refused(lambda: registry.register(run, "cgm"), name, str(run))
        refused(lambda: prepare(run), name, str(run))
        refused(lambda: comparison_sections(read_runs([str(desk / "run"), str(run)], None)), name, str(run))
        refused(lambda: write_report(run), name, str(run))
        if name == "manifest.json":  # what it says of the weights is asked of who begins with them
            refused(begin.prepare, name, str(run))

    fuzz(run / name, max(1, examples // 9), check)


@pytest.fixture(scope="module")
def training(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(desk, tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.parametrize("examples", AMOUNTS)
@pytest.mark.parametrize("name", STATE)
def test_fault_24_a_checkpoint_is_gone_on_from_as_it_was_or_not_at_all(name: str, examples: int, training: Training):
    weights, sums = training.go_on(), (training.checkpoint / CHECKSUMS).read_bytes()

    def check() -> None:
        found: list[dict] = []
        if refused(lambda: found.append(training.go_on()), name, "has changed", "is missing") is None:
            assert name == CHECKSUMS
            assert all(weights[key].equal(value) for key, value in found[0].items())
        if name != CHECKSUMS:  # somebody who means it writes the checksums anew
            seal(training.checkpoint)
            try:
                refused(training.go_on, name, training.checkpoint.name)
            finally:
                (training.checkpoint / CHECKSUMS).write_bytes(sums)

    fuzz(training.checkpoint / name, examples, check)


def pack(members: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def archive(run: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an exported version holds."""
    registry = ModelRegistry(tmp_path / "registry")
    registry.register(run, "cgm")
    path = registry.export_archive("cgm:1", tmp_path / "cgm.tar.gz")
    with tarfile.open(path) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened if member.isfile()}


@pytest.mark.parametrize("examples", AMOUNTS)
def test_fault_24_an_archive_is_imported_as_it_was_or_not_at_all(examples, archive, run, desk, tmp_path):
    registry, number = ModelRegistry(tmp_path / "elsewhere"), iter(range(10**6))
    frame = pd.read_csv(desk / "input.csv", parse_dates=["timestamp"])
    forecast = load_model(run).predict(frame)
    place, record = tmp_path / "damaged.tar.gz", tmp_path / "record.json"
    record.write_bytes(archive["record.json"])

    def imported() -> None:
        stored, _ = registry.import_archive(place, f"m{next(number)}")
        pd.testing.assert_frame_equal(registry.load(stored.reference).predict(frame), forecast)

    def check_record() -> None:
        pack(archive | {"record.json": record.read_bytes()}, place)
        refused(imported, place.name)

    fuzz(record, max(2, examples // 2), check_record)
    pack(archive, place)
    fuzz(place, max(2, examples // 2), lambda: refused(imported, place.name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": -1}, "version is -1"),
        ({"version": 0}, "numbers begin with 1"),
        ({"name": 5}, "name is 5"),
        ({"config": None}, "config is null"),
        ({"files": 5}, "not a record of a model version"),
    ],
)
def test_fault_26_a_record_that_is_none_is_named_as_such(changes: dict, words: str, archive, tmp_path: Path):
    record = json.dumps(json.loads(archive["record.json"]) | changes).encode()
    registry, place = ModelRegistry(tmp_path / "elsewhere"), tmp_path / "cgm.tar.gz"
    for content in (record, b'{"a":' * 100_000):
        said = refused(lambda: registry.import_archive(pack(archive | {"record.json": content}, place)), "record.json")  # noqa: B023
        assert said is not None
        assert "registry.db" not in said
        assert content is not record or words in said


def test_fault_24_an_archive_of_zeros_is_refused_before_it_is_unpacked(archive, tmp_path: Path):
    place = pack(archive | {"files/model/zeros": bytes(80 << 20)}, tmp_path / "zeros.tar.gz")
    assert place.stat().st_size < 1 << 20
    said = refused(lambda: ModelRegistry(tmp_path / "elsewhere").import_archive(place), place.name)
    assert "unpacks to more than" in said


@pytest.mark.parametrize("model_type", [5, None, [], {"a": 1}, True, "x" * 10_000, ""])
def test_fault_24_a_type_that_is_no_name(model_type: object, run: Path):
    (run / CHECKSUMS).unlink()
    values = tiny.read_json(run / "preprocessor.json") | {"model_type": model_type}
    (run / "preprocessor.json").write_text(json.dumps(values))
    said = refused(lambda: load_model(run), "preprocessor.json")
    assert said is not None
    assert len(said) < 1000


@pytest.mark.parametrize(("length", "name"), [(80_000, "model.safetensors"), (8_000_000_000, "config.yaml")])
def test_fault_24_lengths_that_are_not_those_of_the_weights(length: int, name: str, desk: Path, tmp_path: Path):
    ridge = ["model.type=ridge", "model.pretrained=null", "tuning.mode=null", "evaluation.report=false"]
    run = tmp_path / "ridge"
    assert finetune_ttm.main(["--config", str(desk / "recipe.yaml"), f"output_dir={run}", *ridge]) == 0
    (run / CHECKSUMS).unlink()
    saved = run / "config.yaml"
    saved.write_text(saved.read_text().replace(f"prediction_length: {tiny.PREDICTION}", f"prediction_length: {length}"))
    assert refused(lambda: load_model(run), name) is not None


@pytest.mark.parametrize("values", [{"item_id": None}, {"validation_loss_base": "x"}, {"kept": []}])
def test_fault_24_a_row_of_the_adapters_that_is_none(values: dict, run: Path):
    (run / CHECKSUMS).unlink()
    index = run / "adapters" / "index.json"
    first, *others = tiny.read_json(index)
    index.write_text(json.dumps([first | values, *others]))
    assert refused(lambda: load_model(run), "index.json") is not None


def test_fault_24_a_forecast_into_a_folder_that_takes_none(run: Path, desk: Path, capsys: pytest.CaptureFixture[str]):
    place = Path("/proc/forecast.csv")  # root may write into any other folder
    command = ["--model", str(run), "--input", str(desk / "input.csv"), "--output", str(place)]
    assert predict_forecast.main(command) == 2
    assert f"error: --output {place} cannot be written: " in capsys.readouterr().err


def test_fault_24_a_bomb_ends_at_once(run: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    (run / CHECKSUMS).unlink()
    weights, begin = run / "model" / "model.safetensors", time.perf_counter()
    for text in (ALIASES, "a: &a [*a]\n", "[" * 20_000):
        recipe.write_text(text)
        assert refused(lambda: SimpleConfigManager().load_config(recipe), "recipe.yaml") is not None
    for content in ((1 << 40).to_bytes(8, "little") + b"{}", (1 << 23).to_bytes(8, "little") + bytes(1 << 23)):
        whole = weights.read_bytes()
        weights.write_bytes(content)
        assert refused(lambda: load_model(run), str(run)) is not None
        weights.write_bytes(whole)
    for text in ("[" * 200_000, '{"a":' * 200_000, "9" * 1_000_000, "[" + "0," * 5_000_000 + "0"):
        (run / "preprocessor.json").write_text(text)
        assert refused(lambda: load_model(run), "preprocessor.json") is not None
    assert time.perf_counter() - begin < 200
