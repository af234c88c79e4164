"""Tune every model of a comparison, then judge them together on the same windows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tstune.comparison.evaluate_models import evaluate_models
from tstune.comparison.evaluation import Evaluation, refuse_to_overwrite
from tstune.comparison.members import Comparison, Member
from tstune.config.schema import RunConfig
from tstune.errors import ConfigError, TstuneError
from tstune.models.registry import model_class
from tstune.runs.folder import is_finished
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger, setup_logging
from tstune.runtime.memory import is_out_of_memory


@dataclass(frozen=True)
class Outcome:
    """What came of one listed model.

    Attributes:
        name, family, weights, mode: what was listed.
        trainable: parameters that learned.
        seconds: of its own run, tuning and all.
        reason: why it is not in the comparison; None if it is.
    """

    name: str
    family: str
    weights: str | None
    mode: str
    trainable: int | None = None
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Compared:
    """The end of a comparison: the evaluation, and what came of each listed model."""

    evaluation: Evaluation
    outcomes: tuple[Outcome, ...]


def compare_members(comparison: Comparison) -> Compared:
    """Run the comparison into its output_dir; the models lie in `<output_dir>.models/`.

    A model that cannot be had is a row with its reason. One whose run folder is whole and of the same settings is not
    tuned again.

    Raises:
        ConfigError: not one of the models could be had.
        OutputError: the output_dir holds files, and overwrite is false.
    """
    setup_logging()
    config = comparison.config
    refuse_to_overwrite(Path(config.output_dir), config.overwrite)
    tuned = [_tune(member) for member in comparison.members]
    had = [member.config.output_dir for member, one in zip(comparison.members, tuned, strict=True) if not one.reason]
    if not had:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in tuned)
        raise ConfigError(f"models: none of the {len(tuned)} could be had: {reasons}")
    baselines = [_baseline(name) for name in comparison.baselines]
    outcomes = (*tuned, *baselines)
    evaluation = evaluate_models(
        [*had, *(one.name for one in baselines if not one.reason)],
        config,
        output=config.output_dir,
        overwrite=config.overwrite,
        notes={"members": [asdict(one) for one in outcomes], "comparison": comparison.fingerprint},
    )
    return Compared(evaluation, outcomes)


def _tune(member: Member) -> Outcome:
    config = member.config
    outcome = {
        "name": member.name,
        "family": config.model.type,
        "weights": config.model.pretrained,
        "mode": config.tuning.mode,
    }
    try:
        if not _is_done(config):
            logger.info("models.%s: tuning", member.name)
            manager = DistributedManager(config.distributed, config.training.mixed_precision)
            model_class(config.model.type)(config).fit(output_dir=config.output_dir, manager=manager)
    except TstuneError as error:
        return _missing(outcome, " ".join(str(error).split()))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _missing(outcome, f"out of memory: {' '.join(str(error).split())}")
    environment = json.loads((Path(config.output_dir) / "environment.json").read_text(encoding="utf-8"))
    trainable = (environment.get("parameters") or {}).get("trainable")
    return Outcome(**outcome, trainable=trainable, seconds=environment.get("seconds"))


def _missing(outcome: dict, reason: str) -> Outcome:
    logger.warning("models.%s is left out: %s", outcome["name"], reason)
    return Outcome(**outcome, reason=reason)


def _is_done(config: RunConfig) -> bool:
    try:
        return is_finished(config)
    except ConfigError:  # a folder of an older version of the project
        return False


def _baseline(name: str) -> Outcome:
    try:
        model_class(name).require_packages()
    except TstuneError as error:
        return Outcome(name, "baseline", None, "", reason=" ".join(str(error).split()))
    return Outcome(name, "baseline", None, "")
