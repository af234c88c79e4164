"""From what a user writes to a model: run folder, registry version, weights to use as they are, baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tstune.config.schema import RunConfig
from tstune.config.section import AUTO, FAMILIES
from tstune.config.validation import validate
from tstune.data.defaults import BUILTIN, SHIPPED
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.errors import CheckpointError, ConfigError, did_you_mean
from tstune.evaluation.verdict import OURS
from tstune.foreign_files import read_object
from tstune.models.contract import ForecastModel
from tstune.models.registry import available_models, load_model, model_class
from tstune.registry.model_registry import PREFIX, saved_folder
from tstune.runtime.distributed import DistributedManager
from tstune.runtime.logs import logger

Maker = Callable[[PreparedData, RunConfig, DistributedManager], ForecastModel]


@dataclass(frozen=True)
class Candidate:
    """A model that can be scored."""

    name: str  # its row of the scoreboard
    spec: str  # as the user wrote it
    called: str  # the same in messages, behind what asks for it: ``--model runs/mine``
    make: Maker  # the model, once data and the lengths of the windows are known
    # where its manifest may lie, which says what it was trained on; None if it is trained here or unknown
    folder: Path | None = None
    # its own; None takes those of the windows
    context_length: int | None = None
    prediction_length: int | None = None


def open_candidates(
    specs: Sequence[str], config: RunConfig, registry: str | None, stack: ExitStack, flag: str = "--model"
) -> list[Candidate]:
    """Find every model, in the order they were given.

    They are run folders, ``registry:name@alias``, ``builtin``, checkpoint folders and Hub ids, which the family of the
    configuration reads unless they say ``family:weights``, and names of baselines. `stack` keeps what was downloaded,
    and `flag` is how the user asks for a model.
    """
    if not specs:
        raise ConfigError(f"no model to evaluate; give {flag} at least once")
    if (twice := first_twice(specs)) is not None:
        raise ConfigError(f"{flag} {twice} is given twice")
    found = [_open(spec, f"{flag} {spec}", config, registry, stack) for spec in specs]
    names = [candidate.name for candidate in found]
    return [replace(one, name=one.spec) if names.count(one.name) > 1 or one.name in OURS else one for one in found]


def first_twice(specs: Sequence[str]) -> str | None:
    """The first one that was given before."""
    return next((spec for number, spec in enumerate(specs) if spec in specs[:number]), None)


def _open(spec: str, called: str, config: RunConfig, registry: str | None, stack: ExitStack) -> Candidate:
    if spec.startswith(PREFIX):
        return _saved(spec.removeprefix(PREFIX), spec, called, stack.enter_context(saved_folder(spec, registry)))
    own = None if spec not in FAMILIES else FAMILIES[spec].model_fields["pretrained"].default
    if own is not None and not model_class(spec).is_paid_service:  # a family with weights in its package
        return _weights(spec, called, own, spec, config)
    if spec in available_models() or _is_dotted_path(spec):
        return _baseline(spec, called)
    path = Path(spec)
    if (path / "preprocessor.json").is_file():
        return _saved(path.resolve().name, spec, called, path)
    if spec in SHIPPED or path.is_dir():
        return _weights(spec, called, spec, config.model.type, config)
    family, colon, place = spec.partition(":")
    if colon and family in available_models() and not _is_baseline(family):
        return _weights(spec, called, place, family, config)
    if path.is_file() or "/" not in spec:
        hint = did_you_mean(spec, [*available_models(), *SHIPPED])
        baselines = ", ".join(filter(_is_baseline, available_models()))
        raise ConfigError(
            f"{called}: no folder of that name; {hint}give a run folder, registry:name@alias, {BUILTIN}, a "
            f"folder of weights, a Hub id such as owner/name, or a baseline: {baselines}"
        )
    return _weights(spec, called, spec, config.model.type, config)


def _saved(name: str, spec: str, called: str, folder: Path) -> Candidate:
    """A model that a run saved."""
    model = load_model(folder)
    lengths = model.config.model

    def make(data: PreparedData, config: RunConfig, manager: DistributedManager) -> ForecastModel:
        return model

    return Candidate(name, spec, called, make, folder, lengths.context_length, lengths.prediction_length)


def _baseline(name: str, called: str) -> Candidate:
    """A forecast that is trained on the training part of the evaluation's data, if it needs to be."""
    if not _is_baseline(name):
        raise ConfigError(
            f"{called} is a family of models, not a model; write {name}: and a folder of weights or a Hub id, or "
            "give a run folder"
        )

    def make(data: PreparedData, config: RunConfig, manager: DistributedManager) -> ForecastModel:
        baseline = model_class(name)(config)
        if not len(data.train) and baseline.learns:
            raise ConfigError(
                f"{called} is fitted to a training part, and there is none (--all, or one forecast); fit it in "
                f"a run of its own (model.type={name}) and give that run folder"
            )
        baseline.build(data.preprocessor)
        baseline.train_on(data.as_judged(), manager)
        return baseline

    return Candidate(name, name, called, make)


def _weights(spec: str, called: str, place: str, family: str, config: RunConfig) -> Candidate:
    """Pretrained weights as they are."""
    folder = Path(place) if place not in SHIPPED and Path(place).is_dir() else None
    own_context, own_prediction = _lengths(folder, called) if folder is not None else (None, None)
    asked = config.model.prediction_length
    asked_context = None if config.model.context_length == AUTO else config.model.context_length
    shortest = min(own_prediction or asked, asked) if asked != AUTO else own_prediction

    def make(data: PreparedData, config: RunConfig, manager: DistributedManager) -> ForecastModel:
        values = config.model_dump()
        values["model"] = {
            "type": family,
            "pretrained": place,
            "revision": config.model.revision if place == config.model.pretrained else None,
            "context_length": own_context or asked_context or config.model.context_length,
            "prediction_length": shortest or config.model.prediction_length,
        }
        values |= {"tuning": {"mode": "zero_shot"}, "lora": {}, "forecast": {"quantiles": config.forecast.quantiles}}
        model = model_class(family)(validate(values, origin=called))
        _build_as_it_is(model, data.preprocessor, called)
        return model

    name = spec if folder is None else folder.resolve().name
    return Candidate(name, spec, called, make, folder, own_context or asked_context, shortest)


def _build_as_it_is(model: ForecastModel, preprocessor: Preprocessor, called: str) -> None:
    """Build with all columns, or with the targets alone where the weights know no others."""
    if preprocessor.roles.has_covariates:
        try:
            model.build(preprocessor)
        except ConfigError as error:
            logger.info("%s forecasts the targets from their own past alone: %.200s", called, error)
        else:
            return
    model.build(preprocessor.targets_only())


def _lengths(folder: Path, called: str) -> tuple[int | None, int | None]:
    """Context and prediction length that a folder of weights names in its config.json."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{called} is neither a run folder (preprocessor.json) nor a folder of weights (config.json)"
        )
    values = read_object(path)
    found = tuple(values.get(name) for name in ("context_length", "prediction_length"))
    return tuple(value if isinstance(value, int) and value > 0 else None for value in found)


def _is_dotted_path(spec: str) -> bool:
    """True for ``package.module:Class``, False for ``family:weights`` and ``builtin:glucose``."""
    family, _, name = spec.partition(":")
    return (
        spec not in SHIPPED
        and name.isidentifier()
        and all(part.isidentifier() for part in family.split("."))
        and (family not in available_models() and family != PREFIX.rstrip(":"))
    )


def _is_baseline(name: str) -> bool:
    return model_class(name).is_baseline
