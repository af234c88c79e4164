"""Fill the sample submission of the Kaggle competition brist1d with the forecasts of a saved model.

    python scripts/make_kaggle_submission.py --model runs/ttm/kaggle_brisT1D/decoder --input <folder> --output my.csv
    python scripts/make_kaggle_submission.py --model registry:cgm@champion --input <folder> --output my.csv

The input folder holds test.csv and sample_submission.csv (plain, .gz, .zip, or both in brist1d.zip). The output has the
rows of the sample in their order: id and glucose in mmol/L one hour later. Readings are cleaned as the training data
was. A row shows six hours; what the model looks back beyond them is masked, which a model should be trained for
(data.min_context=6h, training.context_dropping). People the model has never seen are forecast like all others. A model
that was trained on readings of test.csv (BrisT1D-Open after August 2023 holds them) is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.command_line import add_model_arguments, add_output_arguments, new_file, script_parser
from tstune.errors import EXIT_OK, DataError, exits_cleanly

if TYPE_CHECKING:
    import numpy as np

    from tstune.data.sources.kaggle_brist1d_submission import Contexts
    from tstune.models.base import BaseTimeSeriesFoundationModel

ROW_STEPS = 72
"""Readings of a row of test.csv, at most."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--input", required=True, help="folder with test.csv and sample_submission.csv")
    add_output_arguments(parser, "submission to write (.csv)")
    parser.add_argument("--unit", help="mmol/L or mg/dL, for a model that does not know the unit of its target")
    parser.add_argument("--allow-overlap", action="store_true", help="go on with a model that was trained on test.csv")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Read, forecast, write."""
    args = parse_args(argv)
    folder = Path(args.input)
    output = new_file(args.output, (".csv",), args.overwrite, "the competition takes a .csv file")

    import pandas as pd

    from tstune.data.sources.kaggle_brist1d import convert_file
    from tstune.data.sources.kaggle_brist1d_rows import HOW_TO_GET, TARGET_COLUMN, find_csv, read_ids
    from tstune.data.sources.kaggle_brist1d_submission import (
        build_contexts,
        glucose_per_mmol,
        mean_glucose,
        refuse_known_rows,
    )
    from tstune.foreign_files import sha256_of
    from tstune.models.registry import load_model
    from tstune.registry import saved_folder
    from tstune.runtime.files import aside
    from tstune.runtime.logs import logger, setup_logging

    setup_logging()
    paths = {stem: find_csv(folder, stem) for stem in ("test", "sample_submission")}
    for stem, path in paths.items():
        if path is None:
            raise DataError(f"--input {folder} holds no {stem}.csv; {HOW_TO_GET}")
    wanted = read_ids(paths["sample_submission"], "sample_submission")
    table, _ = convert_file(paths["test"], "test")
    present = set(table["first_row"].to_pylist())
    lost = [name for name in wanted if name not in present]
    if lost:
        raise DataError(f"{paths['sample_submission']}: {lost[0]!r} is not in {paths['test']} ({len(lost)} rows)")

    with saved_folder(args.model, args.registry) as place:
        model = load_model(place, args.trust_code)
        refuse_known_rows(table, sha256_of(paths["test"]), place, args.allow_overlap)
    section, per_mmol = model.config.model, glucose_per_mmol(model.preprocessor.unit, args.unit)
    if model.module is not None and section.context_length > ROW_STEPS and not model.config.training.context_dropping:
        logger.warning(
            "this model was trained on whole contexts of %d steps, a row of test.csv shows %d at most: "
            "training.context_dropping=0.8 with data.min_context=6h trains one that can do with them",
            section.context_length,
            ROW_STEPS,
        )
    contexts = build_contexts(table, model.preprocessor, section.context_length, section.prediction_length, per_mmol)
    answer = dict(zip(contexts.row_ids, forecast_one_hour(model, contexts) / per_mmol, strict=True))
    blind = [name for name in wanted if name not in answer]
    answer |= mean_glucose(table, blind)
    submission = pd.DataFrame({"id": wanted, TARGET_COLUMN: [answer[name] for name in wanted]})
    with aside(output, "--output ") as file:
        submission.to_csv(file, index=False, float_format="%.4f")

    people = {name.rpartition("_")[0] for name in wanted}
    print(f"{len(wanted):,} rows of {len(people)} participants: {output}")
    print(f"last reading before the row's time, so more than an hour is forecast: {contexts.num_stale:,} rows")
    print(f"no glucose in the six hours, so the participant's mean is given: {len(blind):,} rows")
    if len(present) > len(wanted):
        print(f"rows of {paths['test'].name} that the sample does not ask for: {len(present) - len(wanted):,}")
    return EXIT_OK


def forecast_one_hour(model: BaseTimeSeriesFoundationModel, contexts: Contexts) -> np.ndarray:
    """[rows] forecast of the target of each row, in the model's unit."""
    import numpy as np
    import torch

    from tstune.models.contract import require_numbers

    people = sorted(set(contexts.participants))
    item = np.searchsorted(people, contexts.participants)
    forecaster, size = model.for_items(people), model.evaluation_batch_size(torch.device("cpu"))
    num_steps, found = model.config.model.prediction_length, []
    for begin in range(0, len(item), size):
        rows = slice(begin, begin + size)
        values = torch.from_numpy(contexts.values[rows])
        batch = {
            "past_values": values,
            "past_observed_mask": torch.from_numpy(contexts.usable[rows]),
            "past_read_mask": torch.from_numpy(contexts.read[rows]),
            "origin": torch.from_numpy(contexts.origin[rows]),
            "future_values": torch.from_numpy(contexts.known[rows]),
            "item": torch.from_numpy(item[rows]),
        }
        with torch.inference_mode():
            path = forecaster.forecast(batch)[..., contexts.target].double().numpy()
        require_numbers(path, contexts.row_ids[rows])
        ahead = contexts.steps_ahead[rows] - 1  # step 1 is the first of the forecast
        below = np.floor(ahead).astype(np.int64)
        above = np.minimum(below + 1, num_steps - 1)
        each = np.arange(len(path))
        found.append(path[each, below] + (ahead - below) * (path[each, above] - path[each, below]))
    return np.concatenate(found)


if __name__ == "__main__":
    raise SystemExit(main())
