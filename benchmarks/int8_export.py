"""The weights that ship as ONNX files of eight bits beside the same in float32, on the test windows of cgm_sample.

    python benchmarks/int8_export.py

Weights as they are, written once, made smaller by what `--int8` of scripts/export_model.py does: the way of
quantization is chosen on the validation windows, the errors below are of the test windows. Milliseconds of one forecast
on one core, both files in turn, medians. The last line is `RESULT weights_loss=share …`.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Export, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the files")
    args = parser.parse_args(argv)
    import numpy as np

    from tstune.config.managers import SimpleConfigManager
    from tstune.data.defaults import SHIPPED, shipped_weights
    from tstune.export.export_model import describe, export_model, onnx_runner, quantize_onnx, real_windows
    from tstune.export.graph import ForecastGraph
    from tstune.models.ttm import TTMForecaster

    result = []
    print("| weights | RMSE float32 | int8 | change | way | MB | ms |")
    print("|---|---:|---:|---:|---|---:|---:|", flush=True)
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
            truth, seen = (shown.batch[key].numpy() for key in ("future_values", "future_observed_mask"))
            errors = [
                float(np.sqrt(np.square((onnx_runner(file)(shown.inputs)[0] - truth)[seen]).mean()))
                for file in (large, small)
            ]
            change = errors[1] / errors[0] - 1
            sizes, times = (" → ".join(f"{value:.2f}" for value in pair) for pair in (
                [size / 1e6 for size in made.num_bytes], made.milliseconds,
            ))  # fmt: skip
            row = f"{name} {context}-{ahead} | {errors[0]:.3f} | {errors[1]:.3f} | {change:+.2%} | {made.method}"
            print(f"| {row} | {sizes} | {times} |", flush=True)
            result.append(f"{called}_loss={change:.5f}")
            assert change < 0.01, f"{called}: eight bits cost {change:.2%} on the test windows"
    print("RESULT " + " ".join(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
