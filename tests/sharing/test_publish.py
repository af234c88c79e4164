"""A published folder loads with its own library and with ours, says how good the model is, and holds no data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, running_hub
from huggingface_hub import ModelCard, constants
from support import tiny

import publish_model as script
from tstune.errors import ConfigError, OutputError
from tstune.export.export_model import make_examples
from tstune.models.registry import load_model
from tstune.registry import open_registry
from tstune.sharing.contents import require_clean
from tstune.sharing.publish import prepare

NEVER = {"windows.parquet", "cohort.csv", "cohort.md", "evaluation.json", "report.html", "report.md", "history.jsonl"}
BASE = {"README.md", "config.json", "model.safetensors", "preprocessor.json", "config.yaml", "metrics.json"}


def publish(run: Path, target: Path, *arguments: str) -> Path:
    assert script.main([str(run), "--to-folder", str(target), *arguments]) == 0
    return target


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def changed_copy(run: Path, target: Path, **values: object) -> Path:
    """A copy of a run whose preprocessor.json has these values."""
    copy = shutil.copytree(run, target, dirs_exist_ok=True)
    (copy / "preprocessor.json").write_text(json.dumps(tiny.read_json(run / "preprocessor.json") | values))
    return copy


def card_of(run: Path) -> str:
    return str(prepare(run).contents["README.md"])


def forecasts(first: Path, second: Path) -> list[torch.Tensor]:
    models = [load_model(first), load_model(second)]
    batch = make_examples(models[0], 5).batch
    with torch.inference_mode():
        found = [model.forecast(batch) for model in models]
        if models[0].quantile_levels:
            found += [model.forecast_quantiles(batch) for model in models]
    return found


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("covariates", "chronos_bolt", "per_item")]


@pytest.mark.parametrize("kind", ["plain", "lora", "chronos2", *SLOW])
def test_a_published_folder_is_the_same_model(kind, run_of, tmp_path):
    folder = publish(run_of(kind), tmp_path / "published", "--licence", "apache-2.0")
    extra = {"uncertainty.json", "uncertainty.safetensors"} if kind in ("lora", "chronos_bolt") else set()
    found = {name for name in names(folder) if not name.startswith("adapters/")}
    assert found - {"generation_config.json"} - extra == BASE
    assert (folder / "adapters/index.json").is_file() == (kind == "per_item")
    assert extra <= names(folder)
    found = forecasts(run_of(kind), folder)
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert torch.equal(one, other)


def test_ttm_loads_with_granite_tsfm(run_of, tmp_path):
    from tsfm_public import TinyTimeMixerForPrediction

    folder = publish(run_of("plain"), tmp_path / "published")
    network, report = TinyTimeMixerForPrediction.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model = load_model(run_of("plain"))
    past = make_examples(model, 3).batch["past_values"]
    batch = {"past_values": past, "past_observed_mask": torch.ones_like(past, dtype=torch.bool)}
    mean, std = (float(getattr(model.preprocessor.scaler, name)[0]) for name in ("mean", "std"))
    with torch.inference_mode():
        theirs = network.eval()((past - mean) / std).prediction_outputs * std + mean
        assert torch.allclose(theirs, model.forecast(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("chronos_bolt", marks=pytest.mark.slow), "chronos2"])
def test_chronos_loads_with_its_pipeline(kind, run_of, tmp_path):
    from chronos import Chronos2Pipeline, ChronosBoltPipeline

    folder = publish(run_of(kind), tmp_path / "published")
    pipeline = {"chronos_bolt": ChronosBoltPipeline, "chronos2": Chronos2Pipeline}[kind].from_pretrained(folder)
    ours = load_model(run_of(kind)).network.state_dict()
    theirs = pipeline.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_the_card_is_one_that_the_hub_reads(run_of, tmp_path):
    folder = publish(
        run_of("chronos2"), tmp_path / "published", "--licence", "my own", "--base-model", "amazon/chronos-2"
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "other"
    assert card.data.license_name == "my own"
    assert card.data.library_name == "chronos-forecasting"
    assert card.data.pipeline_tag == "time-series-forecasting"
    assert card.data.base_model == "amazon/chronos-2"
    assert {"tstune", "chronos2", "head"} <= set(card.data.tags)
    headings = re.findall(r"^## (.+)$", card.text, re.MULTILINE)
    assert headings == ["Intended use and limits", "Data", "Training", "Scores", "How to load it", "Version"]
    manifest = tiny.read_json(run_of("chronos2") / "manifest.json")
    assert manifest["files"][0]["sha256"] in card.text
    assert manifest["licence"] in card.text
    assert "Chronos2Pipeline.from_pretrained" in card.text
    assert "snapshot_download" not in card.text, "a folder needs no Hub"


def test_every_score_is_on_the_card_and_worse_stays_worse(run_of, tmp_path):
    run = changed_copy(run_of("plain"), tmp_path / "run")
    metrics = tiny.read_json(run / "metrics.json")
    for model, values in metrics["test"].items():
        values["rmse"] = 1.25 if model == "persistence" else 2.5
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = card_of(run)
    scores = text.partition("## Scores")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|", scores, re.MULTILINE)
    assert rows[0] == ("persistence", "1.25")
    assert {name for name, _ in rows} == set(metrics["test"])
    assert re.search(r"\*\*It is not the best of the table: persistence.* had a lower RMSE", text)
    verdict = tiny.read_json(run / "verdict.json")
    assert verdict["sentence"] in text
    unchanged = card_of(run_of("plain"))
    for values in tiny.read_json(run_of("plain") / "metrics.json")["test"].values():
        assert f"{values['rmse']:.4g}" in unchanged


def test_glucose_is_not_for_treatment(run_of, tmp_path):
    assert "medical device" not in card_of(run_of("plain"))
    card = card_of(changed_copy(run_of("plain"), tmp_path / "run", unit="mmol/L"))
    assert "**It is not a medical device.**" in card
    assert "insulin doses" in card
    assert "glucose" in ModelCard(card).data.tags


@pytest.mark.parametrize("kind", ["plain", "lora", "chronos2"])
def test_nothing_of_this_machine_is_published(kind, run_of, tmp_path):
    run = run_of(kind)
    assert str(run.parent) in (run / "config.yaml").read_text(), "the run names its places"
    folder = publish(run, tmp_path / "published")
    assert not NEVER & {Path(name).name for name in names(folder)}
    for path in folder.rglob("*"):
        content = path.read_bytes()
        assert str(run.parent).encode() not in content, path.name
        assert b"private-weights" not in content, path.name
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["data"]["path"], config["data"]["cache"]) == (None, None)
    assert config["model"]["pretrained"] in ("ttm", "chronos2"), "the name of the folder, not its place"


def test_an_adapter_alone_finds_its_base(run_of, tmp_path, monkeypatch, capsys):
    run = run_of("lora")
    assert script.main([str(run), "--adapter", "--to-folder", str(tmp_path / "no")]) == 2
    assert "the base ttm is a folder of this machine, which nobody else has; name its Hub id" in capsys.readouterr().err
    folder = publish(run, tmp_path / "published", "--adapter", "--base-model", "lab/base")
    assert names(folder) >= {"adapter_config.json", "adapter_model.safetensors"}
    assert "model.safetensors" not in names(folder)
    assert tiny.read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "lab/base"
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", "lab/base")
    shutil.copytree(run.parent / "private-weights" / "ttm", tmp_path / "lab" / "base")
    monkeypatch.chdir(tmp_path)  # stands for the Hub: lab/base is there
    points = forecasts(run, folder)[:2]
    assert torch.allclose(*points, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"has no adapter \(tuning.mode=decoder\); publish it with --merged"):
        prepare(run_of("plain"), adapter=True)


def test_a_dry_run_shows_everything_and_writes_nothing(run_of, tmp_path, capsys):
    target = tmp_path / "published"
    publish(run_of("lora"), target, "--dry-run")
    assert not target.exists()
    printed = capsys.readouterr().out
    publish(run_of("lora"), target)
    for path in target.iterdir():
        assert re.search(rf"^ +{path.stat().st_size:,}  {re.escape(path.name)}$", printed, re.MULTILINE)
    assert (target / "README.md").read_text() in printed
    assert f"would go to the folder {target}; nothing was written or sent" in printed
    assert {"windows.parquet", "cohort.csv"} <= set(re.split(r"[ ,]+", re.search("left out: (.+)", printed)[1]))
    assert "the licence of the weights is unknown" in printed


def test_a_registered_version_is_published(run_of, tmp_path):
    place = str(tmp_path / "registry")
    open_registry(place).register(run_of("plain"), "cgm")
    target = tmp_path / "published"
    assert script.main(["registry:cgm:1", "--registry", place, "--to-folder", str(target)]) == 0
    weights = "model.safetensors"
    assert (target / weights).read_bytes() == (run_of("plain") / "model" / weights).read_bytes()
    assert names(target) >= BASE


def test_a_folder_is_not_overwritten_unasked(run_of, tmp_path, capsys):
    folder = publish(run_of("plain"), tmp_path / "published")
    before = tiny.snapshot(folder)
    assert script.main([str(run_of("lora")), "--to-folder", str(folder)]) == 2
    assert "already holds files; add --overwrite" in capsys.readouterr().err
    assert tiny.snapshot(folder) == before
    publish(run_of("lora"), folder, "--overwrite")
    assert "uncertainty.json" in names(folder)


def test_what_has_no_weights_is_refused(run_of, tmp_path, capsys):
    reasons = {"timegpt": "lie with Nixtla", "ensemble": "publish its members", "ridge": "nothing to publish"}
    for model_type, reason in reasons.items():
        run = changed_copy(run_of("plain"), tmp_path / "run", model_type=model_type)
        assert script.main([str(run), "--to-folder", str(tmp_path / "out")]) == 2
        assert reason in capsys.readouterr().err
    assert script.main([str(tmp_path), "--to-folder", str(tmp_path / "out")]) == 2
    assert "is not a finished run: config.yaml is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("see /home/somebody/data/x.csv", "a path of this machine"),
        ('"path": "../shared/weights"', "a path of this machine"),
        (r"C:\Users", "a path of this machine"),
        (f"token {TOKEN}", "a token"),
        ("key: correct-horse-battery", "the value of LAB_API_KEY"),
        ("ran on pancreas-07 at night", "the name of this machine"),
        ("by jdoe42", "your user name"),
    ],
)
def test_the_last_look_finds_what_must_not_leave(text, what, monkeypatch):
    monkeypatch.setenv("LAB_API_KEY", "correct-horse-battery")
    monkeypatch.setattr("socket.gethostname", lambda: "pancreas-07")
    monkeypatch.setattr("getpass.getuser", lambda: "jdoe42")
    with pytest.raises(OutputError, match=f"nothing was published: README.md would hold {what}") as error:
        require_clean({"README.md": text})
    assert TOKEN not in str(error.value)
    fine = "mg/dL and/or mmol/L, https://huggingface.co/a/b, doi:10.5523/bris.33z, path/to/this/folder"
    require_clean({"README.md": fine})


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_a_push_is_one_commit_of_the_same_files(hub, run_of, tmp_path, capsys, caplog):
    arguments = [str(run_of("plain")), "--repo", "lab/cgm", "--licence", "mit"]
    assert script.main([*arguments, "--dry-run"]) == 0
    assert hub.requests == []
    assert "would go to https://huggingface.co/lab/cgm (public)" in capsys.readouterr().out
    assert script.main([*arguments, "--private"]) == 0
    pushed = hub.repos["lab/cgm"]
    assert hub.private["lab/cgm"] is True
    assert set(pushed) - {".gitattributes", "generation_config.json"} == BASE
    assert len([path for method, path in hub.requests if method == "POST" and "/commit/" in path]) == 1
    assert len(hub.large) == 1, "the weights went by LFS"
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in pushed.items():
        (folder / name).write_bytes(content)
        assert TOKEN.encode() not in content
    assert pushed["README.md"].count(b"import snapshot_download\nfrom tstune") == 1
    assert torch.equal(*forecasts(run_of("plain"), folder))
    printed = capsys.readouterr()
    assert f"{hub.address}/lab/cgm" in printed.out
    assert TOKEN not in printed.out + printed.err + caplog.text


def test_an_existing_repository_is_replaced_only_when_asked(hub, run_of, capsys):
    hub.repos["lab/cgm"] = {"adapter_config.json": b"{}", ".gitattributes": b""}
    arguments = [str(run_of("plain")), "--repo", "lab/cgm"]
    assert script.main(arguments) == 2
    assert "the repository exists (409); add --overwrite" in capsys.readouterr().err
    assert set(hub.repos["lab/cgm"]) == {"adapter_config.json", ".gitattributes"}
    assert script.main([*arguments, "--overwrite"]) == 0
    assert "adapter_config.json" not in hub.repos["lab/cgm"], "what an earlier publication left"
    assert set(hub.repos["lab/cgm"]) >= BASE


@pytest.mark.parametrize(
    ("token", "refuse", "message"),
    [
        (None, {}, "there is no token; set HF_TOKEN or run `hf auth login`"),
        ("hf_wrongwrongwrongwrong", {}, r"the Hub does not know this token \(401\)"),
        (TOKEN, {"/create": 403}, r"this token has no right to write there \(403\)"),
        (TOKEN, {"/create": 500}, "the Hub answered 500: .+; failed to create the repository"),
        (TOKEN, {"/commit/main": 507}, "the Hub answered 507: .+nothing was committed"),
    ],
)
def test_what_the_hub_refuses_is_one_line(token, refuse, message, hub, run_of, tmp_path, monkeypatch, capsys):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse |= refuse
    assert script.main([str(run_of("plain")), "--repo", "lab/cgm"]) == 2
    error = capsys.readouterr().err
    assert re.search(f"^error: --repo lab/cgm: {message}", error)
    assert error.count("\n") == 1
    assert token is None or token not in error
    assert not any("README.md" in files for files in hub.repos.values())
