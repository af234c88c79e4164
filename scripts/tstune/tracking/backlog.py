"""What a dead tracker missed: kept on disk, call by call, and played back when it answers again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tstune.errors import TrackingError

Call = tuple[str, dict[str, object]]
"""Method of `ExperimentTracker` and its keywords; values are JSON, paths are text."""

_PATHS = ("model_path", "path", "figure")


class Backlog:
    """A JSONL file of calls, in order. It exists as long as calls are waiting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[Call] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, method: str, keywords: dict[str, object]) -> None:
        """Append a call; it is on disk when this returns, and in memory even if the disk refuses it (OSError)."""
        call = (method, {name: str(value) if isinstance(value, Path) else value for name, value in keywords.items()})
        self._waiting.append(call)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(call, default=str) + "\n")

    def replay(self, send: Callable[..., object]) -> None:
        """Send every waiting call in order; what was sent before an error is not sent again."""
        sent = 0
        try:
            for method, keywords in self._waiting:
                send(method, **{name: Path(value) if name in _PATHS else value for name, value in keywords.items()})
                sent += 1
        finally:
            del self._waiting[:sent]
            self._rewrite()

    @classmethod
    def read(cls, path: Path) -> Backlog:
        """The backlog a run left behind.

        Raises:
            TrackingError: not a backlog.
        """
        backlog = cls(path)
        try:
            backlog._waiting = list(_read_calls(path))
        except FileNotFoundError:
            raise TrackingError(f"backlog {path} does not exist") from None
        except (OSError, ValueError) as error:
            raise TrackingError(f"{path} is not a backlog of a tracker: {error}") from None
        return backlog

    def __iter__(self) -> Iterator[Call]:
        return iter(self._waiting)

    def _rewrite(self) -> None:
        if not self._waiting:
            self.path.unlink(missing_ok=True)
            return
        aside = self.path.with_name(f".{self.path.name}.partial")
        aside.write_text("".join(json.dumps(call, default=str) + "\n" for call in self._waiting), encoding="utf-8")
        aside.replace(self.path)


def _read_calls(path: Path) -> Iterator[Call]:
    for line in path.read_text(encoding="utf-8").splitlines():
        method, keywords = json.loads(line)
        yield method, dict(keywords)
