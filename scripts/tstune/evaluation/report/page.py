"""The report as one HTML file that needs nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tstune.evaluation.report.blocks import Omitted, Section

_ASSETS = Path(__file__).parent / "assets"


def as_html(title: str, sections: Sequence[Section | Omitted], warning: str | None) -> str:
    """The whole report; every text that comes from a user is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_ASSETS / "report.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        title=title,
        sections=sections,
        warning=warning,
        style=Markup((_ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # the browser runs this script and no other, whatever a name in the data may hold
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
