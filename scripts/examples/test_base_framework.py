"""The examples of `base_framework.py` by their name in the design document; they are no tests, and pytest finds none.

python scripts/examples/test_base_framework.py                 # all four
python scripts/examples/test_base_framework.py --example 1     # the interface: fit, predict, evaluate, save, load
python scripts/examples/test_base_framework.py --example 2     # low-rank adapters
python scripts/examples/test_base_framework.py --example 3     # processes, strategy, memory
python scripts/examples/test_base_framework.py --example 4     # train, track, register, promote, reload, forecast
"""

from __future__ import annotations

from base_framework import main

if __name__ == "__main__":
    raise SystemExit(main())
