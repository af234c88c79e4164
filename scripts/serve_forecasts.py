"""Serve the forecasts of a saved model over HTTP.

    python scripts/serve_forecasts.py --model runs/ttm/cgm_sample/demo
    python scripts/serve_forecasts.py --model registry:cgm@champion --port 8080

POST /forecast takes {"rows": [{"item_id": …, "timestamp": …, <columns of the model>}, …]} and, for models that know
columns of the future, "future": […]; the answer holds a row per series and step, in original units. GET /model shows a
complete example, GET /openapi.json the exact form, GET /health and GET /metrics the state. The page /docs loads its
look from a CDN, everything else works without a network. There is no authentication: only this machine can reach the
server unless --host says otherwise. SIGTERM and Ctrl-C finish the answers that were begun.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tstune.errors import ConfigError, MissingDependencyError, exits_cleanly

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder, or registry:name@alias, registry:name:version")
    parser.add_argument(
        "--registry", help="for registry:…, as in manage_registry.py (default: TSTUNE_REGISTRY, registry/)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--max-series", type=int, default=1_000, help="series of a request (default: %(default)s)")
    parser.add_argument(
        "--max-rows",
        type=int,
        default=100_000,
        help="rows of a request, and its steps (default: %(default)s)",
    )
    parser.add_argument("--max-bytes", type=int, default=10_000_000, help="of a request (default: %(default)s)")
    parser.add_argument(
        "--max-batch", type=int, default=32, help="requests that share a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-wait",
        type=float,
        default=5.0,
        metavar="MS",
        help="milliseconds that a request waits for others on their way (default: %(default)s)",
    )
    parser.add_argument(
        "--max-queue", type=int, default=64, help="requests in hand; one more gets a 503 (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of the forward pass; more help large models on idle cores (default: 1)"
    )
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Take the port, load, serve."""
    args = parse_args(argv)
    _require_packages()
    if args.threads < 1:
        raise ConfigError(f"--threads={args.threads} must be at least 1")

    from tstune.runtime.logs import logger, setup_logging

    setup_logging()

    from tstune.serving.limits import ServingLimits

    limits = ServingLimits(
        max_bytes=args.max_bytes,
        max_rows=args.max_rows,
        max_series=args.max_series,
        max_batch=args.max_batch,
        batch_wait=args.batch_wait,
        max_queue=args.max_queue,
    )

    from tstune.serving.address import bind

    with bind(args.host, args.port) as taken:  # before the model is loaded, which takes seconds
        import torch

        from tstune.serving.served_model import open_model
        from tstune.serving.server import serve
        from tstune.serving.service import ForecastService

        torch.set_num_threads(args.threads)
        service = ForecastService(open_model(args.model, args.registry), limits)
        logger.setLevel("ERROR")  # models warn of gaps by the name of the series, which may be a patient's
        return serve(service, taken)


def _require_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"serving needs the package {missing[0]}: pip install 'fastapi>=0.115,<1' 'uvicorn>=0.35,<1' "
            "'prometheus-client>=0.22,<1'"
        )


if __name__ == "__main__":
    raise SystemExit(main())
