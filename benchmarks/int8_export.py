"""The weights that ship as ONNX files of eight bits beside the same in float32, on the test windows of cgm_sample.

    python benchmarks/int8_export.py

Weights as they are, written once, made smaller by what `--int8` of scripts/export_model.py does; errors of the test
windows, milliseconds of the fastest of 50 forecasts on one core, both files in turn. Fails where eight bits cost 1 %
or more. The last line is `RESULT files=… worst=…`, the largest RMSE over that of float32.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
RECIPE = ROOT / "recipes" / "ttm" / "cgm_sample" / "zero_shot.yaml"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, judge, print."""
    args = parse_args(argv)
    from tstune.config.managers import SimpleConfigManager
    from tstune.data.defaults import SHIPPED, shipped_weights
    from tstune.export.export_model import (
        describe,
        export_model,
        onnx_runner,
        quantize_onnx,
        real_windows,
        rmse_scaled,
    )
    from tstune.export.graph import ForecastGraph
    from tstune.models.ttm import TTMForecaster

    result = []
    print("| weights | RMSE float32 | int8 | change | MB | ms |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place)
        folder.mkdir(exist_ok=True)
        for name, (context, ahead) in [(each, lengths) for each in SHIPPED for lengths in shipped_weights(each)]:
            lengths = [f"model.context_length={context}", f"model.prediction_length={ahead}"]
            config = SimpleConfigManager().load_config(RECIPE, [f"model.pretrained={name}", *lengths])
            model = TTMForecaster(config)
            data = model.prepare()
            model.build(data.preprocessor)
            called = f"{name.replace(':', '_')}-{context}-{ahead}"
            large = export_model(model, "onnx", folder / f"{called}.onnx").path
            small = Path(shutil.copy(large, folder / f"{called}-int8.onnx"))
            made = quantize_onnx(small, model, describe(model, ForecastGraph(model), "onnx"))
            shown = real_windows(model, data.test, len(data.test))
            unit = float(model.preprocessor.scaler.std[0])
            before, after = (unit * rmse_scaled(model, onnx_runner(file), shown) for file in (large, small))
            change, (mega, mini) = after / before - 1, (size / 1e6 for size in made.num_bytes)
            cells = [f"{name} {context}-{ahead}", f"{before:.3f}", f"{after:.3f}", f"{change:+.2%}"]
            cells += [f"{mega:.2f} → {mini:.2f}", "{:.2f} → {:.2f}".format(*made.milliseconds)]
            print(f"| {' | '.join(cells)} |", flush=True)
            result.append(1 + change)
            assert change < 0.01, f"{called}: eight bits cost {change:.2%} on the test windows"
    print(f"RESULT files={len(result)} worst={max(result):.5f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
