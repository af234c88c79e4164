"""From a run folder to a publication: collect, describe, look once more, send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tstune.sharing.destinations import push, write_folder
from tstune.sharing.model_card import render_card
from tstune.sharing.privacy import require_clean
from tstune.sharing.published_files import base_of, collect
from tstune.sharing.run import FinishedRun

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
        CheckpointError: no run folder.
        ConfigError: nothing to publish in that form.
        OutputError: something in it names this machine or holds a secret.
    """
    run = FinishedRun.read(folder)
    base = base_of(run, base_model)
    published = collect(run, base, adapter)
    card = render_card(run, published, base, licence, repo, datetime.now(UTC).date())
    contents = {CARD: card} | published.contents
    require_clean(contents)
    return Publication(folder, contents, published.left_out, repo, licence)
