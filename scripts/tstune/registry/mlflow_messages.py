"""Addresses of MLflow registries, and what its errors mean in one line."""

from __future__ import annotations

import re
from pathlib import Path

from tstune.errors import RegistryError


def check_address(uri: str) -> str:
    """Return an address that MLflow can be asked at.

    Raises:
        RegistryError: of another kind, or with a user name or password in it; it is not repeated then.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("http", "https", "sqlite") or not rest.strip("/"):
        raise RegistryError(
            "mlflow+… must go on with http://host:port, https://host or sqlite:///file.db to be an MLflow registry"
        )
    if scheme != "sqlite" and "@" in rest:
        raise RegistryError(
            f"mlflow+{scheme}://… holds a user name or password: leave it out of the address and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if scheme == "sqlite" and not Path(rest.removeprefix("/")).absolute().parent.is_dir():
        raise RegistryError(f"mlflow+{uri}: the folder of this file does not exist")
    return uri.rstrip("/")


def error_code(error: Exception) -> str | None:
    """MLflow's own code of an error; None for others."""
    return getattr(error, "error_code", None)


def reason(error: Exception) -> str:
    """What a failed request means for the user, in one line."""
    text = first_line(error)
    if re.search("failed with (timeout )?exception", text):
        return "the server does not answer; is it running?"
    if re.search(r"error code 40[13]\b", text):
        return (
            "the server refuses these credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    return text


def first_line(error: Exception) -> str:
    """The first line of a message, short enough for a terminal."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
