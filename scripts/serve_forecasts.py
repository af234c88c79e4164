"""Serve the forecasts of a saved model over HTTP.

    python scripts/serve_forecasts.py --model runs/ttm/cgm_sample/demo
    python scripts/serve_forecasts.py --model registry:cgm@champion --port 8080

POST /forecast takes {"rows": [{"item_id": …, "timestamp": …, <columns of the model>}, …]} and, for models that know
columns of the future, "future": […]; the answer holds a row per series and step, in original units. GET /model shows a
complete example, GET /openapi.json and the page /docs the exact form, GET /health and GET /metrics the state; none
needs a network. Only this machine can reach the server unless --host says otherwise. With TSTUNE_SERVE_TOKEN in the
environment, /forecast, /model and /metrics want it as `Authorization: Bearer …`. SIGTERM and Ctrl-C finish the answers
that were begun.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields

from tstune.command_line import add_model_arguments, script_parser
from tstune.errors import ConfigError, MissingDependencyError, exits_cleanly
from tstune.serving import ServingLimits


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the forward pass, more help large models (default: 1)"
    )
    parser.add_argument("--root-path", default="", help="path under which a reverse proxy shows the server, e.g. /cgm")
    parser.add_argument("--allow-host", action="append", default=[], help="further name, e.g. of a reverse proxy")
    for limit in fields(ServingLimits):
        about = f"{limit.metadata['help']} (default: %(default)s)"
        parser.add_argument(
            f"--{limit.name.replace('_', '-')}", type=type(limit.default), default=limit.default, help=about
        )
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Take the port, load, serve."""
    args = parse_args(argv)
    if args.threads < 1:
        raise ConfigError(f"--threads={args.threads} must be at least 1")
    limits = ServingLimits(**{limit.name: getattr(args, limit.name) for limit in fields(ServingLimits)})
    import torch

    from tstune.runtime.logs import logger, setup_logging

    setup_logging()
    try:
        from tstune.serving.app import TOKEN, bind, serve
        from tstune.serving.service import ForecastService, open_model
    except ModuleNotFoundError as error:
        packages = "'fastapi>=0.115,<1' 'fastapi-offline>=1.7,<2' 'uvicorn>=0.35,<1' 'prometheus-client>=0.22,<1'"
        raise MissingDependencyError(f"serving needs the package {error.name}: pip install {packages}") from None

    token = os.environ.get(TOKEN)
    if token is not None and not token.strip():
        raise ConfigError(f"{TOKEN} is empty; put a long random text into it, or unset it to ask nobody")
    with bind(args.host, args.port) as listening:  # before the model is loaded, which takes seconds
        torch.set_num_threads(args.threads)
        service = ForecastService(*open_model(args.model, args.registry, args.trust_code), limits)
        logger.setLevel("ERROR")  # models warn of gaps by the name of the series, which may be a patient's
        return serve(service, listening, args.allow_host, args.root_path, token)


if __name__ == "__main__":
    raise SystemExit(main())
