"""What we use of nixtla's client, or the pip line that brings it."""

from __future__ import annotations

import logging

from tstune.errors import MissingDependencyError

_root, _before = logging.getLogger(), list(logging.getLogger().handlers)
_level = _root.level
try:
    import httpx
    from nixtla import NixtlaClient
    from nixtla.nixtla_client import ApiError
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "nixtla":
        raise
    raise MissingDependencyError("TimeGPT needs a package: pip install 'nixtla>=0.8,<0.9'") from None
finally:  # its import turns on the log lines of every library
    _root.setLevel(_level)
    for _handler in [handler for handler in _root.handlers if handler not in _before]:
        _root.removeHandler(_handler)
logging.getLogger("nixtla").setLevel(logging.CRITICAL)  # our own lines say what happens

__all__ = ["ApiError", "NixtlaClient", "httpx"]
