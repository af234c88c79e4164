"""The model card: what the model is, what it is for, what it was made from and how good it is. No number is typed.

Its words are in `model_card.md.jinja`; here is what they are told.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path, PurePath

import yaml
from jinja2 import Environment, FileSystemLoader

import tstune
from tstune.runtime.harmless import escape_all
from tstune.sharing.contents import Base, FinishedRun, Published

_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
    "openrail", "unknown",
}  # fmt: skip
"""Identifiers of the Hub; any other licence is `other` with a name."""


def render_card(run: FinishedRun, published: Published, base: Base, licence: str, repo: str | None, today: date) -> str:
    """README.md with its YAML head, as `huggingface_hub.ModelCard` reads it.

    Args:
        run: what is published.
        published: its files.
        base: the weights that were tuned.
        licence: of the weights, an identifier of the Hub or a name.
        repo: Hub id it goes to; None for a folder.
        today: date of the publication.
    """
    manifest, environment, verdict = (escape_all(part) for part in (run.manifest, run.environment, run.verdict))
    scores, said = escape_all(run.metrics.get("test", {})), escape_all(run.preprocessor)
    kept = verdict.get("kept", "fine_tuned" if "fine_tuned" in scores else "zero_shot")
    order = sorted(scores, key=lambda name: scores[name].get("rmse") or float("inf"))
    columns = (
        [name for name in scores[order[0]] if name in ("rmse", "mae", "mase") or name.startswith("rmse@")]
        if order
        else []
    )
    code = run.family.loading_code(repo or "path/to/this/folder", run.preprocessor, published.adapter, base.hub_id)
    words = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True)
    return words.get_template("model_card.md.jinja").render(
        head=yaml.safe_dump(metadata(run, published, base, licence), sort_keys=False, allow_unicode=True),
        title=repo.partition("/")[2] if repo else f"{run.model_type} on {manifest.get('source', 'own data')}",
        family=run.family,
        config=run.config,
        domain=run.domain,
        preprocessor=said,
        manifest=manifest,
        environment=environment,
        base=replace(base, name=escape_all(base.name)),
        adapter=published.adapter,
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


def metadata(run: FinishedRun, published: Published, base: Base, licence: str) -> dict[str, object]:
    """The YAML head. `base_model` and `datasets` name things on the Hub, so they are there only if those are."""
    identifier = licence.lower()
    found: dict[str, object] = {"license": identifier if identifier in _LICENCES else "other"}
    if identifier not in _LICENCES:
        found["license_name"] = licence
    found["library_name"] = "peft" if published.adapter else run.family.library
    found["pipeline_tag"] = "time-series-forecasting"
    tags = ["time-series", "forecasting", "tstune", run.model_type.replace("_", "-"), run.config.tuning.mode]
    found["tags"] = [*tags, *(run.domain.tags if run.domain else ())]
    if base.hub_id:
        found["base_model"] = base.hub_id
        found["base_model_relation"] = "adapter" if published.adapter else "finetune"
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
