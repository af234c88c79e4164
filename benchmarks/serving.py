"""Requests per second of `scripts/serve_forecasts.py` on loopback, with and without shared forward passes.

    python benchmarks/serving.py
    python benchmarks/serving.py --model runs/mine --clients 32 --seconds 10
    python benchmarks/serving.py --mixed --seconds 60
    python benchmarks/serving.py --against <another checkout>
    python benchmarks/serving.py --quick

Two real servers of one model run at the same time: one with its defaults, one with `--max-batch 1`, which forecasts
each request by itself. Clients (threads with a connection each, in another process than the servers) send the example
request of `GET /model` again as soon as it is answered, first to the one server, then to the other, in rounds. Every
answer must be the forecast that a single request gets, up to rounding. Without `--model` it is the demo model: the
built-in weights (512-96), tuned for a few steps on the glucose series of bokeh_sampledata; with `--quick` a tiny one
with random weights. The last line is `RESULT ratio=…`: requests per second of the first over the second, the median
of the rounds. With `--against` the second is the server of another checkout with its defaults and the same model, for a
comparison before and after a change (make the model there: an older server may not read a newer one); the forecasts of
both must agree.

`--mixed` asks something else: what bad company costs. Two good clients send to one server, first alone, then beside six
bad ones: two send the head of a request byte by byte, two its body, two bodies of 20 MB as fast as they can; each bad
client begins again when it is ended. The last line is `RESULT mixed_ratio=…`: the p95 of the good ones in company over
their p95 alone, the median of the rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from tstune.errors import EXIT_OK, TstuneError, exits_cleanly  # noqa: E402

TINY = (
    *("model.pretrained=null", "model.context_length=32", "model.prediction_length=8", "model.patch_length=8"),
    *("model.d_model=16", "model.decoder_d_model=4", "model.num_layers=1", "model.decoder_num_layers=1"),
    *("model.adaptive_patching_levels=2", "tuning.mode=from_scratch", "training.max_steps=1"),
    *("evaluation.horizons=[30min]", "data.test_stride=400"),
)


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: how long they sent.
        latencies: seconds of each answer.
        errors: answers other than the expected one.
        last: body of the last answer.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    last: bytes = b""

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds in which this share of the answers came."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Server:
    """A real server process on a free port of loopback."""

    def __init__(self, model: str, *options: str, checkout: Path = ROOT) -> None:
        script = checkout.resolve() / "scripts" / "serve_forecasts.py"
        command = [sys.executable, script, "--model", model, "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=checkout)
        self.name = " ".join(options) or "defaults"

    def __enter__(self) -> Server:
        line = self.process.stdout.readline()
        if not line:
            raise TstuneError(f"the server ({self.name}) did not start: exit code {self.process.wait()}")
        self.port = int(line.split("//")[1].split("/")[0].rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        code = self.process.wait(timeout=60)
        if code != EXIT_OK:
            raise TstuneError(f"the server ({self.name}) ended with exit code {code}")

    def get(self, path: str) -> bytes:
        """Body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def mean_batch(self) -> float:
        """Requests of a forward pass since the server began."""
        lines = [line.split() for line in self.get("/metrics").decode().splitlines() if not line.startswith("#")]
        values = {name: float(value) for name, value in lines}
        return values["tstune_batch_requests_sum"] / values["tstune_batch_requests_count"]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="run folder to serve (default: the demo, made here in 20 s)")
    parser.add_argument("--clients", type=int, default=16, help="that send at the same time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round and server (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; each times both servers (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="checkout of the second server (default: this, one pass each)")
    parser.add_argument("--mixed", action="store_true", help="good clients beside bad ones, on one server")
    parser.add_argument("--quick", action="store_true", help="tiny model, one short round")
    return parser.parse_args(argv)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Serve, load, print."""
    args = parse_args(argv)
    if args.quick:
        args.clients, args.seconds, args.repeats = 4, 0.5, 1
    with tempfile.TemporaryDirectory() as place:
        model = args.model or make_model(Path(place) / "run", TINY if args.quick else ())
        if args.mixed:
            return mixed(model, args.seconds, args.repeats)
        options = () if args.against else ("--max-batch", "1")
        names = ("after", "before") if args.against else ("together", "alone")
        with Server(model) as together, Server(model, *options, checkout=args.against or ROOT) as alone:
            body = json.dumps(json.loads(together.get("/model"))["example"]).encode()
            one, two = (forecast_of(load(server, body, 1, args.seconds / 4).last) for server in (together, alone))
            if not same(one, two):  # both are warm
                raise TstuneError("the two servers forecast differently")
            rounds = []
            for _ in range(args.repeats):
                rounds.append([load(server, body, args.clients, args.seconds) for server in (together, alone)])
                show(rounds[-1], *names)
            batch = together.mean_batch()
    errors = sum(side.errors for pair in rounds for side in pair)
    if errors:
        raise TstuneError(f"{errors} answers were not the forecast of a single request")
    ratio = median(pair[0].per_second / pair[1].per_second for pair in rounds)
    typical = sorted(rounds, key=lambda pair: pair[0].per_second)[len(rounds) // 2]
    first, second = typical
    print(f"{args.clients} clients, {batch:.1f} requests a forward pass on average, no wrong answer")
    print(
        f"RESULT ratio={ratio:.3f} per_second={first.per_second:.1f} alone_per_second={second.per_second:.1f} "
        f"p50_ms={first.percentile(0.5):.1f} p95_ms={first.percentile(0.95):.1f} "
        f"alone_p50_ms={second.percentile(0.5):.1f} alone_p95_ms={second.percentile(0.95):.1f}"
    )
    return EXIT_OK


def mixed(model: str, seconds: float, repeats: int) -> int:
    """Good clients alone, then in bad company, in rounds."""
    ratios = []
    with Server(model) as server:
        body = json.dumps(json.loads(server.get("/model"))["example"]).encode()
        load(server, body, GOOD, seconds / 8)  # it is warm
        for _ in range(repeats):
            alone, stop = load(server, body, GOOD, seconds), multiprocessing.Event()
            company = [multiprocessing.Process(target=bad, args=(server.port, stop)) for bad in 2 * BAD]
            for client in company:  # processes of their own: their work is not to slow the good ones down here
                client.start()
            beside = load(server, body, GOOD, seconds)
            stop.set()
            for client in company:
                client.join()
            show((alone, beside), "alone", "in company")
            if alone.errors or beside.errors:
                raise TstuneError(f"{alone.errors} + {beside.errors} answers were not the forecast of a single request")
            ratios.append((beside.percentile(0.95) / alone.percentile(0.95), alone, beside))
    ratio, alone, beside = sorted(ratios, key=lambda one: one[0])[len(ratios) // 2]
    print(
        f"RESULT mixed_ratio={ratio:.3f} p95_ms={beside.percentile(0.95):.1f} "
        f"alone_p95_ms={alone.percentile(0.95):.1f} "
        f"per_second={beside.per_second:.1f} alone_per_second={alone.per_second:.1f}"
    )
    return EXIT_OK


GOOD, HUGE = 2, 20_000_000
_HEAD = b"POST /forecast HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"


def _send(port: int, stop: Event, at_once: bytes, rest: bytes, piece: int, pause: float) -> None:
    """Send a request in pieces, again and again."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(at_once)
                for begin in range(0, len(rest), piece):
                    connection.sendall(rest[begin : begin + piece])
                    if stop.wait(pause):
                        return
        except OSError:
            continue  # the server has ended it


def slow_head(port: int, stop: Event) -> None:
    """The head byte by byte."""
    _send(port, stop, b"", _HEAD % 2 + b"X-Filler: " + b"a" * 10_000, 1, 0.05)


def slow_body(port: int, stop: Event) -> None:
    """The body byte by byte."""
    _send(port, stop, _HEAD % 10_000 + b"\r\n", b" " * 10_000, 1, 0.05)


def huge_body(port: int, stop: Event) -> None:
    """More than the server takes."""
    _send(port, stop, _HEAD % HUGE + b"\r\n", b" " * HUGE, 1 << 16, 0.0)


BAD = (slow_head, slow_body, huge_body)


def make_model(folder: Path, changes: Sequence[str]) -> str:
    """Run the demo recipe for a few steps."""
    few = ("training.max_steps=20", "evaluation.num_plots=0", "evaluation.baselines=[]", "data.test_stride=100")
    recipe = ROOT / "recipes" / "ttm" / "cgm_sample" / "demo.yaml"
    command = [sys.executable, ROOT / "scripts" / "finetune_ttm.py", "--config", recipe, f"output_dir={folder}"]
    done = subprocess.run([*command, *few, *changes], capture_output=True, text=True, check=False, cwd=folder.parent)
    if done.returncode != EXIT_OK:
        raise TstuneError(f"no model to serve: {done.stderr.strip().splitlines()[-1]}")
    return str(folder)


def load(server: Server, body: bytes, num_clients: int, seconds: float) -> Load:
    """Let clients send for some seconds."""
    expected = forecast_of(ask(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), body))
    total, lock, begin = Load(), threading.Lock(), time.perf_counter()

    def send() -> None:
        connection, own = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), Load()
        last = b""
        while time.perf_counter() < begin + seconds:
            start = time.perf_counter()
            last = ask(connection, body)
            own.latencies.append(time.perf_counter() - start)
            if not last.startswith(b'{"model"'):
                own.errors += 1
        own.errors += not same(forecast_of(last), expected)  # reading every answer would take the servers' time
        connection.close()
        with lock:
            total.latencies += own.latencies
            total.errors += own.errors
            total.last = last

    clients = [threading.Thread(target=send) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    total.seconds = time.perf_counter() - begin
    return total


def ask(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    """Body of an answer, whatever its status."""
    connection.request("POST", "/forecast", body, {"Content-Type": "application/json"})
    return connection.getresponse().read()


def forecast_of(answer: bytes) -> list[float]:
    """Numbers of an answer; none of an error."""
    rows = json.loads(answer or b"{}").get("forecast", [])
    return [value for row in rows for value in row.values() if isinstance(value, float)]


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    """True if two forecasts are the same up to single precision."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) > 0 and all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4) for a, b in pairs)


def show(pair: Sequence[Load], first: str = "together", second: str = "alone") -> None:
    """One line per round."""
    parts = [
        f"{side.per_second:.1f}/s, p50 {side.percentile(0.5):.0f} ms, p95 {side.percentile(0.95):.0f} ms"
        for side in pair
    ]
    print(f"{first} {parts[0]}; {second} {parts[1]}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    raise SystemExit(main())
