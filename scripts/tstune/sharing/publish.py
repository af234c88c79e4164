"""From a run folder to a publication in a new folder or in a repository of the Hugging Face Hub, with its model card.

The words of the card are in `model_card.md.jinja`; no number is typed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path, PurePath

import yaml

import tstune
from tstune.errors import FolderError, MissingDependencyError, ServiceError, first_line, visible
from tstune.foreign_files import damage
from tstune.runs.folder import NewFolder
from tstune.runtime.files import escape_all, filled_template
from tstune.sharing.contents import Base, FinishedRun, base_of, collect, require_clean

_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "openrail", "unknown",
}  # fmt: skip
"""Identifiers of the Hub; any other licence is `other` with a name."""


def render_card(run: FinishedRun, adapter: bool, base: Base, licence: str, repo: str | None, today: date) -> str:
    """README.md with its YAML head, as `huggingface_hub.ModelCard` reads it."""
    manifest, environment, verdict = (escape_all(part) for part in (run.manifest, run.environment, run.verdict))
    scores, said = escape_all(run.metrics.get("test", {})), escape_all(run.preprocessor)
    kept = verdict.get("kept", "fine_tuned" if "fine_tuned" in scores else "zero_shot")
    order = sorted(scores, key=lambda name: scores[name].get("rmse") or float("inf"))
    first = scores[order[0]] if order else ()
    columns = [name for name in first if name in ("rmse", "mae", "mase") or name.startswith("rmse@")]
    code = run.family.loading_code(repo or "path/to/this/folder", run.preprocessor, adapter, base.hub_id)
    card = filled_template(
        Path(__file__).with_name("model_card.md.jinja"),
        head=yaml.safe_dump(metadata(run, adapter, base, licence), sort_keys=False, allow_unicode=True),
        title=repo.partition("/")[2] if repo else f"{run.model_type} on {manifest.get('source', 'own data')}",
        family=run.family,
        config=run.config,
        domain=run.domain,
        preprocessor=said,
        manifest=manifest,
        environment=environment,
        base=replace(base, name=escape_all(base.name)),
        adapter=adapter,
        unit=said.get("unit"),
        per_item=(run.folder / "adapters" / "index.json").is_file(),
        split=_split(manifest),
        windows=", ".join(f"{part} {count:,}" for part, count in manifest.get("windows", {}).items()) or None,
        files=[(PurePath(file["path"].replace("\\", "/")).name, file["sha256"]) for file in manifest.get("files", [])],
        training=environment.get("training") or {},
        packages=", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()) or None,
        scores=[(name, scores[name]) for name in order],
        columns=columns,
        kept=kept,
        better=order[: order.index(kept)] if kept in order else [],
        verdict=verdict,
        code="\n".join(code),
        repo=repo,
        version=tstune.__version__,
        today=today.isoformat(),
    )
    return visible(card)


def metadata(run: FinishedRun, adapter: bool, base: Base, licence: str) -> dict[str, object]:
    """The YAML head. `base_model` and `datasets` name things on the Hub, so they are there only if those are."""
    identifier = licence.lower()
    found: dict[str, object] = {"license": identifier if identifier in _LICENCES else "other"}
    if identifier not in _LICENCES:
        found["license_name"] = licence
    found["library_name"] = "peft" if adapter else run.family.library
    found["pipeline_tag"] = "time-series-forecasting"
    tags = ["time-series", "forecasting", "tstune", run.model_type.replace("_", "-"), run.config.tuning.mode]
    found["tags"] = [*tags, *(run.domain.tags if run.domain else ())]
    if base.hub_id:
        found["base_model"] = base.hub_id
        found["base_model_relation"] = "adapter" if adapter else "finetune"
    name = run.config.data.path or ""
    if run.manifest.get("source") == "hf_dataset" and name.count("/") == 1 and not name.startswith((".", "/")):
        found["datasets"] = [name]
    return found


def _split(manifest: dict) -> str | None:
    split = manifest.get("split", {})
    if not split:
        return None
    placed = any(split.get(key) for key in ("preset", "borders", "borders_at"))
    parts = ", ".join(f"{part} {split[part]:g}" for part in ("train", "validation", "test") if part in split)
    mode = manifest.get("split_mode", split.get("mode"))
    return f"{split.get('preset') or split.get('by', 'time')}, mode {mode}{'' if placed else f'; shares {parts}'}"


def push(contents: Mapping[str, str | Path], repo: str, private: bool, overwrite: bool) -> str:
    """Create a repository and put everything in one commit; returns its address.

    The token is the user's: HF_TOKEN, or what `hf auth login` stored. It is written nowhere.
    """
    try:
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"the Hub needs a package: pip install {error.name}") from None
    import httpx

    token = get_token()
    if token is None:
        raise ServiceError(
            f"--repo {repo}: there is no token; set HF_TOKEN or run `hf auth login` (it needs the right to write)"
        )
    disable_progress_bars()
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    step = "create the repository"
    try:
        address = api.create_repo(repo, private=private, exist_ok=overwrite)
        step = "upload (nothing was committed, the repository may be empty; run again with --overwrite)"
        with tempfile.TemporaryDirectory(prefix="tstune-") as staging:
            _write(contents, Path(staging))
            api.upload_folder(
                repo_id=repo,
                folder_path=staging,
                commit_message="Publish with tstune",
                delete_patterns="*" if overwrite else None,  # what an earlier publication left
            )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise ServiceError(f"--repo {repo}: {_refusal(status, error, token)}; failed to {step}") from None
    except OfflineModeIsEnabled:
        raise ServiceError(f"--repo {repo}: HF_HUB_OFFLINE is set; unset it to publish") from None
    except HFValidationError:
        raise ServiceError(f"--repo {repo} is not a name the Hub takes; give owner/name") from None
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = first_line(error).replace(token, "…")
        raise ServiceError(
            f"--repo {repo}: the Hub at {constants.ENDPOINT} failed: {reason}; failed to {step}"
        ) from None
    return str(address)


def _refusal(status: int | None, error: Exception, token: str) -> str:
    if status == 401:
        return "the Hub does not know this token (401); set HF_TOKEN anew or run `hf auth login`"
    if status == 403:
        return "this token has no right to write there (403); use one with write access to that owner"
    if status == 409:
        return "the repository exists (409); add --overwrite to replace what it holds"
    return f"the Hub answered {status}: {first_line(error).replace(token, '…')}"


def _write(contents: Mapping[str, str | Path], folder: Path) -> None:
    for name, content in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            target.write_text(content, encoding="utf-8")
        else:
            shutil.copyfile(content, target)


CARD = "README.md"


@dataclass(frozen=True)
class Publication:
    """Everything that would be published."""

    run: Path  # folder it comes from
    contents: Mapping[str, str | Path]  # path -> text, or the file to copy; the card is `CARD`
    left_out: list[str]  # what of the run folder stays behind
    repo: str | None  # Hub id it is meant for; None for a folder
    licence: str  # of the weights

    @property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes."""
        return {
            name: len(content.encode()) if isinstance(content, str) else content.stat().st_size
            for name, content in self.contents.items()
        }

    @property
    def summary(self) -> str:
        """How many files of how much."""
        return f"{len(self.contents)} files, {sum(self.sizes.values()) / 1e6:.1f} MB"

    def preview(self, folder: str | None, private: bool) -> str:
        """Every file with its size, what is left out, where it would go, and the card."""
        where = f"the folder {folder}"
        if self.repo:
            where = f"https://huggingface.co/{self.repo} ({'private' if private else 'public'})"
        lines = [f"{self.summary} would go to {where}; nothing was written or sent", ""]
        lines += [f"{size:>12,}  {name}" for name, size in self.sizes.items()]
        lines += ["", f"left out: {', '.join(self.left_out) or 'nothing'}"]
        if self.licence == "unknown":
            lines.append("the licence of the weights is unknown: name it with --licence")
        return "\n".join([*lines, "", f"----- {CARD}", "", str(self.contents[CARD])])

    def publish(self, folder: str | None, private: bool, overwrite: bool) -> str:
        """Push it, or write the folder aside and rename it; returns where it is now."""
        if self.repo:
            return push(self.contents, self.repo, private, overwrite)
        with NewFolder(folder, overwrite, inputs={"the run": str(self.run)}, key="--to-folder") as target:
            _write(self.contents, target.folder.path)
            target.commit()
        return str(folder)


def prepare(
    folder: Path,
    adapter: bool = False,
    licence: str = "unknown",
    base_model: str | None = None,
    repo: str | None = None,
) -> Publication:
    """Collect and check what is published of a run: merged weights, or the low-rank adapter alone.

    `base_model` is the Hub id of the base, where the run had a local copy, and `repo` the one it is meant for.
    """
    run = FinishedRun.read(folder)
    base = base_of(run, base_model)
    with damage(folder, FolderError):
        files, left_out = collect(run, base, adapter)
        card = render_card(run, adapter, base, licence, repo, datetime.now(UTC).date())
    contents = {CARD: card} | files
    require_clean(contents)
    return Publication(folder, contents, left_out, repo, licence)
