"""Write a saved model as one ONNX or torch.export file, preprocessing included, checked against PyTorch.

    python scripts/export_model.py runs/ttm/cgm_sample/demo --format onnx --output demo.onnx
    python scripts/export_model.py runs/ttm/cgm_sample/demo --format onnx --int8 --output small.onnx
    python scripts/export_model.py registry:cgm@champion --format torch_export --output exported/

The file takes readings in original units with NaN where nothing was read, any number of windows at once, and returns
the forecast in original units. Its metadata names the channels, the unit and the lengths;
scripts/examples/onnx_forecast.py runs it with onnxruntime alone, onnx_forecast.html in a browser. A file that does not
forecast what PyTorch does is not kept. --int8 makes it smaller by onnxruntime's dynamic quantization; if that raises
the RMSE of the run's validation windows by more than 1 %, it is not kept either.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.command_line import add_registry_argument, add_trust_argument, script_parser
from tstune.errors import EXIT_OK, ConfigError, exits_cleanly
from tstune.named_code import trusting


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("model", help="run folder or published folder, or registry:name@alias, registry:name:version")
    parser.add_argument("--format", choices=("onnx", "torch_export"), required=True, help="kind of file")
    parser.add_argument("--output", required=True, help="file to write (.onnx, .pt2), or a folder for it")
    parser.add_argument(
        "--int8", action="store_true", help="onnx: weights of eight bits, judged on the validation windows of the run"
    )
    parser.add_argument("--item", help="whose adapter to export, for models with one adapter per item")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_registry_argument(parser)
    add_trust_argument(parser)
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Load, export, check."""
    args = parse_args(argv)
    from tstune.runtime.logs import setup_logging

    setup_logging()

    from tstune.export.export_model import export_model, output_file, summary
    from tstune.export.graph import choose_item
    from tstune.registry import load_saved_model

    output_file(args.output, args.format, args.overwrite)  # refused before anything is loaded
    if args.int8 and args.format != "onnx":
        raise ConfigError(f"--int8 makes a smaller ONNX file; take --format onnx instead of {args.format}")
    model = load_saved_model(args.model, args.registry, args.trust_code)
    if args.item is not None:
        choose_item(model, args.item)
    with trusting(args.trust_code):
        exported = export_model(model, args.format, args.output, args.overwrite, args.int8)
    for title, text in summary(exported, args.format).items():
        print(f"{title}: {text}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
