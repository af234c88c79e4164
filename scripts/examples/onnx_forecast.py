"""Forecast with an exported model on onnxruntime alone: no torch, no tstune.

    python scripts/export_model.py runs/ttm/cgm_sample/demo --format onnx --output demo.onnx
    python scripts/examples/onnx_forecast.py demo.onnx readings.csv

`readings.csv` has a time in its first column (used where the model knows the hour), then one column per channel, with
one row per step of the model's grid and nothing where nothing was read.
"""

import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
table = np.genfromtxt(sys.argv[2], delimiter=",", names=True, dtype=np.float32)[-facts["context_length"] :]
if len(table) < facts["context_length"]:
    raise SystemExit(f"error: {len(table)} rows; a forecast needs {facts['context_length']}")
past = np.stack([table[name] for name in facts["past_channels"]], axis=-1)[None]  # [1, context, channels]
if np.isinf(past).any():
    raise SystemExit("error: a reading is infinite; leave cells empty where nothing was read")
inputs = {"past": past}
if "origin" in facts:  # the time of the first forecast step
    times = np.genfromtxt(sys.argv[2], delimiter=",", usecols=0, dtype=str, skip_header=1)[-2:].astype("datetime64[s]")
    inputs["origin"] = (times[-1:] + np.diff(times)).astype(np.int64)
outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))
if not np.isfinite(outputs["forecast"]).all():
    step = int(np.argwhere(~np.isfinite(outputs["forecast"][0]))[0][0]) + 1
    raise SystemExit(f"error: the forecast of step {step} is not a number; check the readings")
print("step," + ",".join(facts["targets"]))
for step, values in enumerate(outputs["forecast"][0], start=1):
    print(step, *(f"{value:.9g}" for value in values), sep=",")
