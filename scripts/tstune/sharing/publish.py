"""From a run folder to a publication in a new folder, or in a repository of the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tstune.errors import FolderError, MissingDependencyError, ServiceError
from tstune.foreign_files import damage
from tstune.runs.folder import NewFolder, refuse_full
from tstune.sharing.contents import FinishedRun, base_of, collect, require_clean
from tstune.sharing.model_card import render_card


def write_folder(contents: Mapping[str, str | Path], folder: Path, run: Path, overwrite: bool) -> None:
    """Write the folder aside and rename it.

    Raises:
        OutputError: it holds files already, holds the run, or cannot be written.
    """
    refuse_full("--to-folder", folder, overwrite)
    with NewFolder(folder, overwrite, inputs={"the run": str(run)}) as target:
        _write(contents, target.folder.path)
        target.commit()


def push(contents: Mapping[str, str | Path], repo: str, private: bool, overwrite: bool) -> str:
    """Create a repository and put everything in one commit; returns its address.

    The token is the user's: HF_TOKEN, or what `hf auth login` stored. It is written nowhere.

    Raises:
        ServiceError: no token, or what the Hub said no to.
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
        reason = _first_line(error).replace(token, "…")
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
    return f"the Hub answered {status}: {_first_line(error).replace(token, '…')}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


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
    """Everything that would be published.

    Attributes:
        run: folder it comes from.
        contents: path -> text, or the file to copy; the card is `CARD`.
        left_out: what of the run folder stays behind.
        repo: Hub id it is meant for; None for a folder.
        licence: of the weights.
    """

    run: Path
    contents: Mapping[str, str | Path]
    left_out: list[str]
    repo: str | None
    licence: str

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
        """Write the folder, or push it; returns where it is now."""
        if self.repo:
            return push(self.contents, self.repo, private, overwrite)
        write_folder(self.contents, Path(folder), self.run, overwrite)
        return str(folder)


def prepare(
    folder: Path,
    adapter: bool = False,
    licence: str = "unknown",
    base_model: str | None = None,
    repo: str | None = None,
) -> Publication:
    """Collect and check what is published of a run.

    Args:
        folder: of the run.
        adapter: the low-rank adapter alone instead of merged weights.
        licence: of the weights.
        base_model: Hub id of the base, where the run had a local copy.
        repo: Hub id it is meant for.

    Raises:
        FolderError: no run folder.
        ConfigError: nothing to publish in that form.
        OutputError: something in it names this machine or holds a secret.
    """
    run = FinishedRun.read(folder)
    base = base_of(run, base_model)
    with damage(folder, FolderError):
        published = collect(run, base, adapter)
        card = render_card(run, published, base, licence, repo, datetime.now(UTC).date())
    contents = {CARD: card} | published.contents
    require_clean(contents)
    return Publication(folder, contents, published.left_out, repo, licence)
